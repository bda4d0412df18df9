//! Which worker answers: `GET /who` of the fixture `web`.

use std::net::SocketAddr;
use std::thread;
use std::time::Instant;

use nix::unistd::Pid;

use crate::{DEADLINE, POLL, http};

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
    try_until_deadline(|| Some(who(address)).filter(&is_right))
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
    try_until_deadline(|| {
        let mut kept = Kept(http::Connection::open(address).expect("somebody listens"));
        is_right(&kept.ask()).then_some(kept)
    })
}

/// The right worker may still have to come.
#[track_caller]
fn try_until_deadline<T>(mut attempt: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = attempt() {
            return found;
        }
        assert!(Instant::now() < deadline, "the worker answers one of many connections");
        thread::sleep(POLL);
    }
}
