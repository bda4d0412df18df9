//! Signals to the primary, and what each means.

use std::io::{self, IsTerminal as _};

use tokio::signal::unix::{Signal, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Request {
    /// TERM, QUIT, or a hang-up of the terminal that the cluster runs in: stop gracefully.
    Stop { signal: i32 },
    /// INT: stop gracefully, and if that is under way, at once.
    Interrupt,
    /// HUP, USR1 or USR2 without a meaning yet.
    Unknown(&'static str),
}

/// The handlers; installed before the first worker exists, so that no signal finds the default in place.
pub(super) struct Signals {
    terminate: Signal,
    quit: Signal,
    interrupt: Signal,
    hang_up: Signal,
    user_1: Signal,
    user_2: Signal,
}

impl Signals {
    pub(super) fn install() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            quit: signal(SignalKind::quit())?,
            interrupt: signal(SignalKind::interrupt())?,
            hang_up: signal(SignalKind::hangup())?,
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
        })
    }

    /// The next request. Cancel safe.
    pub(super) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Stop { signal: libc::SIGTERM },
            _ = self.quit.recv() => Request::Stop { signal: libc::SIGQUIT },
            _ = self.interrupt.recv() => Request::Interrupt,
            _ = self.hang_up.recv() => if io::stdin().is_terminal() {
                Request::Stop { signal: libc::SIGHUP }
            } else {
                Request::Unknown("HUP")
            },
            _ = self.user_1.recv() => Request::Unknown("USR1"),
            _ = self.user_2.recv() => Request::Unknown("USR2"),
        }
    }
}
