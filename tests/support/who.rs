//! Which worker answers: `GET /who` of the fixture `web`.

use std::net::SocketAddr;

use nix::unistd::Pid;

use crate::http;

/// One answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Who {
    /// The worker's id.
    pub id: u64,
    /// Its slot.
    pub slot: usize,
    /// Its process id.
    pub pid: Pid,
}

/// Asks once, on a new connection.
///
/// # Panics
/// If nobody answers.
#[track_caller]
#[must_use]
pub fn who(address: SocketAddr) -> Who {
    parse(&http::body(address, "/who"))
}

/// Reads an answer.
///
/// # Panics
/// If it is none.
#[track_caller]
#[must_use]
pub fn parse(body: &str) -> Who {
    let words: Vec<&str> = body.split(' ').collect();
    let [id, slot, _, pid] = words[..] else { panic!("{body:?}") };
    Who { id: id.parse().unwrap(), slot: slot.parse().unwrap(), pid: Pid::from_raw(pid.parse().unwrap()) }
}

/// Asks until the right worker answers; which one a connection reaches is the kernel's choice.
///
/// # Panics
/// If none of many connections reaches it.
#[track_caller]
pub fn find(address: SocketAddr, is_right: impl Fn(&Who) -> bool) -> Who {
    (0..1000).map(|_| who(address)).find(is_right).expect("the worker answers one of many connections")
}

/// A connection that is kept to one worker, whatever happens to the others.
#[derive(Debug)]
pub struct Kept(http::Connection);

impl Kept {
    /// Asks for something else.
    ///
    /// # Panics
    /// If the worker does not answer.
    #[track_caller]
    pub fn body(&mut self, path: &str) -> String {
        self.0.get(path).expect("the worker answers").body
    }

    /// Asks again.
    ///
    /// # Panics
    /// If the worker does not answer.
    #[track_caller]
    pub fn ask(&mut self) -> Who {
        parse(&self.0.get("/who").expect("the worker answers").body)
    }
}

/// Connects until the right worker answers, and keeps that connection.
///
/// # Panics
/// If none of many connections reaches it.
#[track_caller]
pub fn keep(address: SocketAddr, is_right: impl Fn(&Who) -> bool) -> Kept {
    let kept = (0..1000).map(|_| Kept(http::Connection::open(address).expect("somebody listens")));
    kept.map(|mut kept| (kept.ask(), kept)).find(|(who, _)| is_right(who)).expect("the worker answers one of many").1
}
