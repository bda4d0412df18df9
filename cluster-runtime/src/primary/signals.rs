//! Signals to the primary, and what each means.

use std::future::pending;
use std::io::{self, IsTerminal as _};

use nix::sys::signal::Signal as Number;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::os;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// TERM, QUIT, or a hang-up of the terminal that the cluster runs in: stop gracefully.
    Terminate,
    /// INT: stop gracefully, and if that is under way, at once.
    Interrupt,
    /// USR1: log files were renamed.
    ReopenLogs,
    /// HUP or USR2 without a meaning yet.
    Unknown(&'static str),
}

/// The handlers; installed before the first worker exists, so that no signal finds the default in place.
pub(super) struct Signals {
    terminate: Signal,
    /// `None` where whoever started the cluster has it ignored, as a shell does with INT for a job in the background, and `nohup`
    /// with HUP.
    quit: Option<Signal>,
    interrupt: Option<Signal>,
    hang_up: Option<Signal>,
    /// What a hang-up asks for. Decided now: when it comes, the terminal is gone.
    hang_up_request: Request,
    user_1: Signal,
    user_2: Signal,
}

impl Signals {
    pub(super) fn install() -> io::Result<Self> {
        let on_terminal = io::stdin().is_terminal();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            quit: unless_ignored(Number::SIGQUIT, SignalKind::quit())?,
            interrupt: unless_ignored(Number::SIGINT, SignalKind::interrupt())?,
            hang_up: unless_ignored(Number::SIGHUP, SignalKind::hangup())?,
            hang_up_request: if on_terminal { Request::Terminate } else { Request::Unknown("HUP") },
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next request. Cancel safe.
    pub(super) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Terminate,
            () = received(&mut self.quit) => Request::Terminate,
            () = received(&mut self.interrupt) => Request::Interrupt,
            () = received(&mut self.hang_up) => self.hang_up_request,
            _ = self.user_1.recv() => Request::ReopenLogs,
            _ = self.user_2.recv() => Request::Unknown("USR2"),
        }
    }
}

fn unless_ignored(number: Number, kind: SignalKind) -> io::Result<Option<Signal>> {
    if os::is_ignored(number) { Ok(None) } else { signal(kind).map(Some) }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => _ = signal.recv().await,
        None => pending().await,
    }
}
