//! Signals to the primary, and what each means.

use std::future::pending;
use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd as _, OwnedFd};

use nix::sys::signal::{SigSet, Signal as Number};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::os;

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Request {
    /// TERM, QUIT, or a hang-up of the terminal that the cluster runs in: stop gracefully.
    Terminate,
    /// INT: stop gracefully, and if that is under way, at once.
    Interrupt,
    /// HUP: a new generation takes over.
    Reload,
    /// USR1: log files were renamed.
    ReopenLogs,
    /// TTIN from a process: one worker more.
    OneMore,
    /// TTOU from a process: one worker fewer.
    OneFewer,
    /// USR2: the primary becomes the program on disk.
    Upgrade,
    /// PWR: say how everybody is.
    Dump,
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
    power: Signal,
    /// Where a signal comes from matters for these: the terminal raises them too.
    scaling: Scaling,
}

impl Signals {
    pub(super) fn install() -> io::Result<Self> {
        let on_terminal = io::stdin().is_terminal();
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            quit: unless_ignored(Number::SIGQUIT, SignalKind::quit())?,
            interrupt: unless_ignored(Number::SIGINT, SignalKind::interrupt())?,
            hang_up: unless_ignored(Number::SIGHUP, SignalKind::hangup())?,
            hang_up_request: if on_terminal { Request::Terminate } else { Request::Reload },
            user_1: signal(SignalKind::user_defined1())?,
            user_2: signal(SignalKind::user_defined2())?,
            power: signal(SignalKind::from_raw(libc::SIGPWR))?,
            scaling: Scaling::install()?,
        })
    }

    /// Lets signals come again that were held back while the primary became another program.
    pub(super) fn release() -> io::Result<()> {
        let mut held = SigSet::all();
        [Number::SIGTTIN, Number::SIGTTOU].into_iter().for_each(|signal| held.remove(signal));
        Ok(held.thread_unblock()?)
    }

    /// The next request. Cancel safe.
    pub(super) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.terminate.recv() => Request::Terminate,
            () = received(&mut self.quit) => Request::Terminate,
            () = received(&mut self.interrupt) => Request::Interrupt,
            () = received(&mut self.hang_up) => self.hang_up_request,
            _ = self.user_1.recv() => Request::ReopenLogs,
            _ = self.user_2.recv() => Request::Upgrade,
            _ = self.power.recv() => Request::Dump,
            request = self.scaling.next() => request,
        }
    }
}

/// TTIN and TTOU, with where they come from.
struct Scaling {
    signals: SignalFd,
    /// The same open file once more.
    readable: AsyncFd<OwnedFd>,
}

impl Scaling {
    /// Blocks the two in this thread, and so in all that it starts from now on. Workers and other programs begin with a mask of their
    /// own.
    fn install() -> io::Result<Self> {
        let mask = SigSet::from_iter([Number::SIGTTIN, Number::SIGTTOU]);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let readable = os::register(signals.as_fd().try_clone_to_owned()?, Interest::READABLE)?;
        Ok(Self { signals, readable })
    }

    /// The next one that a process has sent. Cancel safe.
    async fn next(&self) -> Request {
        loop {
            let read = |_: &OwnedFd| self.signals.read_signal()?.ok_or_else(|| io::ErrorKind::WouldBlock.into());
            let Ok(info) = self.readable.async_io(Interest::READABLE, read).await else { return pending().await };
            // Not what the kernel raises: a process in the background that uses its terminal.
            let is_from_a_process = info.ssi_code <= 0;
            match i32::try_from(info.ssi_signo) {
                Ok(libc::SIGTTIN) if is_from_a_process => return Request::OneMore,
                Ok(libc::SIGTTOU) if is_from_a_process => return Request::OneFewer,
                _ => {}
            }
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
