//! What the service manager is told, in the protocol of `sd_notify(3)`: systemd, or whoever else has set `NOTIFY_SOCKET`.
//!
//! It is courtesy: nothing here waits, and a manager that does not listen changes nothing. Without one there is no socket and no
//! timer. The crate `sd-notify` has the words; its own sending would wait for a manager that is slow, and knows no abstract names.

use std::ffi::OsStr;
use std::future::pending;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::{Duration, Instant};
use std::{env, io};

use sd_notify::NotifyState;
use tokio::time::sleep_until;

use crate::aside::Aside;
use crate::boot::NOTIFY_SOCKET;

/// The service manager as the shell knows it.
pub(super) struct Service {
    manager: Option<Manager>,
    /// What the manager shows now.
    status: String,
    watchdog: Option<Watchdog>,
}

/// Where the manager listens. Not connected: it may have a new socket there after a restart of its own.
struct Manager {
    socket: Arc<UnixDatagram>,
    address: SocketAddr,
}

/// The manager kills a service that it has not heard of for some time.
struct Watchdog {
    pause: Duration,
    due: Instant,
}

/// No manager means less; it would keep this process busy with nothing else.
const SHORTEST_PAUSE: Duration = Duration::from_millis(1);

impl Service {
    /// As the environment says, which stays as it is: after an exec in place it is needed again.
    pub(super) fn of_this_process() -> Self {
        let manager = env::var_os(NOTIFY_SOCKET).and_then(|name| Manager::at(&name).ok());
        Self::new(manager, sd_notify::watchdog_enabled())
    }

    fn new(manager: Option<Manager>, interval: Option<Duration>) -> Self {
        let interval = interval.filter(|interval| manager.is_some() && !interval.is_zero());
        // Half of it, as sd_watchdog_enabled(3) has it.
        let watchdog =
            interval.map(|interval| Watchdog { pause: (interval / 2).max(SHORTEST_PAUSE), due: Instant::now() });
        Self { manager, status: String::new(), watchdog }
    }

    /// The start is complete.
    pub(super) fn ready(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// A reload begins; [`reloaded`](Self::reloaded) ends it, whatever came of it.
    pub(super) fn reloading(&self) {
        // The manager wants the time too, to tell this reload from one before.
        let time = NotifyState::monotonic_usec_now().ok();
        self.tell(&[Some(NotifyState::Reloading), time].into_iter().flatten().collect::<Vec<_>>());
    }

    /// The reload is over.
    pub(super) fn reloaded(&self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// The stop begins.
    pub(super) fn stopping(&self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// A line for whoever asks how the service is; told when it has changed.
    pub(super) fn status(&mut self, text: &str) {
        if self.manager.is_some() && self.status != text && self.tell(&[NotifyState::Status(text)]) {
            text.clone_into(&mut self.status);
        }
    }

    /// This process is the service's main one.
    pub(super) fn main_pid(&self) {
        self.tell(&[NotifyState::MainPid(std::process::id())]);
    }

    /// Completes when the manager's watchdog wants to hear of this process; never without one. Cancel safe.
    pub(super) async fn is_due(&self) {
        match &self.watchdog {
            Some(watchdog) => sleep_until(watchdog.due.into()).await,
            None => pending().await,
        }
    }

    /// Tells the manager's watchdog that the supervising loop turns, if it is time. For that loop alone to call, so that
    /// silence means that it is stuck.
    pub(super) fn tend_watchdog(&mut self) {
        let now = Instant::now();
        if let Some(watchdog) = &mut self.watchdog
            && watchdog.due <= now
        {
            watchdog.due = now + watchdog.pause;
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// Whether it was taken.
    fn tell(&self, states: &[NotifyState<'_>]) -> bool {
        let Some(manager) = &self.manager else { return false };
        let text: String = states.iter().map(|state| format!("{state}\n")).collect();
        manager.send(text).is_ok()
    }
}

impl Manager {
    fn send(&self, text: String) -> io::Result<usize> {
        match self.address.as_pathname() {
            None => self.socket.send_to_addr(text.as_bytes(), &self.address),
            // The kernel looks the path up with each message.
            Some(path) => {
                let (socket, address) = (Arc::clone(&self.socket), self.address.clone());
                MANAGER.run(path, move || socket.send_to_addr(text.as_bytes(), &address))
            }
        }
    }

    /// `name` is a path, or an abstract name behind an `@`.
    fn at(name: &OsStr) -> io::Result<Self> {
        let address = match name.as_bytes() {
            [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
            [b'/', ..] => SocketAddr::from_pathname(name)?,
            _ => return Err(io::ErrorKind::Unsupported.into()),
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_nonblocking(true)?;
        Ok(Self { socket: Arc::new(socket), address })
    }
}

static MANAGER: Aside = Aside::new();

#[cfg(test)]
mod tests {
    use nix::time::{ClockId, clock_gettime};

    use super::*;

    /// A manager with an abstract name of its own, and a service that knows it.
    fn pair(name: &str) -> (UnixDatagram, Service) {
        let name = format!("cluster-service-{}-{name}", std::process::id());
        let socket = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        socket.set_nonblocking(true).unwrap();
        let manager = Manager::at(OsStr::new(&format!("@{name}"))).unwrap();
        (socket, Service::new(Some(manager), None))
    }

    fn heard(socket: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 1000];
        let len = socket.recv(&mut buffer).ok()?;
        Some(String::from_utf8(buffer[..len].to_vec()).unwrap())
    }

    #[test]
    fn a_reload_begins_with_the_time_and_ends_with_readiness() {
        let (socket, service) = pair("reload");
        let micros = || Duration::from(clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap()).as_micros();
        let before = micros();
        service.reloading();
        let text = heard(&socket).unwrap();
        let time: u128 = text.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap().trim_end().parse().unwrap();
        assert!((before..=micros()).contains(&time), "{time}");
        service.reloaded();
        assert_eq!(heard(&socket).as_deref(), Some("READY=1\n"));
    }

    #[test]
    fn the_main_process_is_the_one_that_says_so() {
        let (socket, service) = pair("pid");
        service.main_pid();
        assert_eq!(heard(&socket), Some(format!("MAINPID={}\n", std::process::id())));
    }

    #[test]
    fn a_status_is_told_when_it_changes_and_again_if_nobody_took_it() {
        let (socket, mut service) = pair("status");
        service.status("one");
        service.status("one");
        assert_eq!((heard(&socket).as_deref(), heard(&socket)), (Some("STATUS=one\n"), None));
        drop(socket);
        service.status("two");
        let (socket, _) = pair("status");
        service.status("two");
        assert_eq!(heard(&socket).as_deref(), Some("STATUS=two\n"));
    }

    #[test]
    fn a_manager_that_does_not_read_makes_nobody_wait() {
        let (socket, service) = pair("full");
        // The kernel keeps some hundreds at most.
        (0..100_000).for_each(|_| service.ready());
        assert_eq!(heard(&socket).as_deref(), Some("READY=1\n"));
    }

    #[test]
    fn an_address_of_another_kind_is_no_manager() {
        for name in ["", "vsock:2:1234", "relative"] {
            assert!(Manager::at(OsStr::new(name)).is_err(), "{name}");
        }
    }
}
