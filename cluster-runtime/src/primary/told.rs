//! What the operator is told, and the exit code that says it too.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use nix::unistd::Pid;
use tracing::Level;

use super::{Shell, Stop, WorkerInfo};
use crate::boot::Identity;
use crate::error::exit_code;
use crate::listen::{Address, Scheme};
use crate::supervisor::{Next, Outcome, ShutdownCause, State, StopCause};
use crate::{Exit, ExitReason};

impl Shell {
    pub(super) fn tell_all_ready(&mut self) {
        let workers = match self.supervisor.wanted() {
            1 => "1 worker".to_owned(),
            count => format!("{count} workers"),
        };
        let addresses = self.ports.addresses();
        let list: Vec<_> = addresses.iter().map(|(address, _)| address.to_string()).collect();
        let place = if list.is_empty() { String::new() } else { format!(" on {}", list.join(", ")) };
        let web = addresses.iter().find_map(|(address, scheme)| Some((address, curl((*scheme)?))));
        let hint = match web {
            Some((Address::Unix(path), (options, scheme))) => {
                format!("; try: curl{options} --unix-socket {} {scheme}://localhost/", path.display())
            }
            Some((address, (options, scheme))) => match address.socket() {
                Some(address) => format!("; try: curl{options} {scheme}://{}/", reachable(address)),
                None => String::new(),
            },
            None => String::new(),
        };
        self.reporter.cluster(Level::INFO, format_args!("{workers} ready{place}{hint}"));
    }

    /// One line for the service manager.
    pub(super) fn tell_status(&mut self) {
        let workers = self.supervisor.status().filter(|worker| worker.state == State::Ready);
        // By slot: of two that serve in one, one is on its way out.
        let ready = workers.map(|worker| worker.slot).collect::<BTreeSet<_>>().len();
        let text = match (self.stop, self.supervisor.wanted()) {
            (Stop::Until { .. }, _) => "stopping".to_owned(),
            (Stop::No, 1) if ready == 1 => "1 worker ready".to_owned(),
            (Stop::No, all) if ready == all => format!("{all} workers ready"),
            (Stop::No, all) => format!("{ready} of {all} workers ready"),
        };
        self.service.status(&text);
    }

    /// How everybody is.
    pub(super) fn tell_all(&mut self) {
        let workers = self.roster.workers();
        self.reporter
            .cluster(Level::INFO, format_args!("{} workers, {} wanted:", workers.len(), self.supervisor.wanted()));
        for worker in workers {
            let WorkerInfo { id, slot, generation, pid, state, open, accepted, handed_over, requests, .. } = worker;
            self.reporter.cluster(
                Level::INFO,
                format_args!(
                    "slot={slot} generation={generation} worker={id} pid={pid}: {state:?}, connections open {open}, accepted \
                     {accepted}, handed over {handed_over}, requests {requests}"
                ),
            );
        }
    }

    pub(super) fn tell_exit(&mut self, who: Identity, pid: Option<Pid>, exit: Exit, next: Next) {
        let level = if exit.reason == ExitReason::Asked { Level::INFO } else { Level::WARN };
        let text = match next {
            Next::Restart { after } => {
                // Where it is restarted, it was meant to go on.
                let is_early = exit.reason == ExitReason::Finished;
                let why = if is_early { ", although nothing had asked it to end" } else { "" };
                let when = if after.is_zero() { "at once".to_owned() } else { format!("in {after:?}") };
                format!("{exit}{why}; restarted {when}")
            }
            Next::Stopping if self.is_interrupted && exit.reason == ExitReason::GraceExpired => {
                format!("was not waited for any longer ({})", exit.status)
            }
            Next::Taken | Next::Stopping => exit.to_string(),
            Next::Empty => format!("{exit}; not restarted"),
        };
        self.reporter.worker(level, who, pid, text);
    }

    pub(super) fn tell_shutdown(&mut self, cause: ShutdownCause, delay: Duration) {
        match cause {
            ShutdownCause::Stop(_) if !delay.is_zero() => {
                let grace = self.settings.grace;
                let text =
                    format_args!("serving on for {delay:?}, then stopping within {grace:?}; Ctrl-C kills at once");
                self.reporter.cluster(Level::INFO, text);
            }
            ShutdownCause::Stop(_) => {
                let grace = self.settings.grace;
                self.reporter.cluster(Level::INFO, format_args!("stopping within {grace:?}; Ctrl-C kills at once"));
            }
            ShutdownCause::StartFailed { .. } => {
                let text = "a worker failed before it was ever ready, so the cluster stops";
                self.reporter.cluster(Level::ERROR, text);
            }
            ShutdownCause::Breaker => {
                let text = "workers keep failing and none is serving, so the cluster gives up";
                self.reporter.cluster(Level::ERROR, text);
            }
        }
    }

    pub(super) fn tell_outcome(&mut self, outcome: Outcome) -> u8 {
        let (code, level, text) = match outcome {
            // Why it stopped is told already.
            Outcome::StartFailed { .. } => return exit_code::START_FAILED,
            Outcome::Breaker => return exit_code::WORKERS_FAILED,
            Outcome::Stopped { cause: StopCause::PrimaryFailed, .. } => return exit_code::PRIMARY_FAILED,
            Outcome::Stopped { forced: true, .. } => {
                (exit_code::GRACE_EXPIRED, Level::WARN, "stopped, but workers had to be killed")
            }
            Outcome::Stopped { forced: false, .. } => (exit_code::STOPPED, Level::INFO, "stopped"),
            Outcome::Killed => (exit_code::INTERRUPTED, Level::WARN, "killed by Ctrl-C during the stop"),
            Outcome::AllFinished { failed: true } => {
                (exit_code::WORKERS_FAILED, Level::ERROR, "no worker is left, and the last of a slot failed")
            }
            Outcome::AllFinished { failed: false } => (exit_code::STOPPED, Level::INFO, "every worker has finished"),
        };
        self.reporter.cluster(level, text);
        code
    }
}

/// The options that curl takes, and how the URL begins. No certificate is for an address of this machine.
const fn curl(scheme: Scheme) -> (&'static str, &'static str) {
    match scheme {
        Scheme::Http => ("", "http"),
        Scheme::Https => (" --insecure", "https"),
    }
}

/// An address that a client on this machine can use.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address.ip(),
    };
    SocketAddr::new(ip, address.port())
}
