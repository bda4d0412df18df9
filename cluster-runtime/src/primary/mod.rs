//! The primary's shell: wait → event → step → perform. What to do is decided in `supervisor`; here it is done.
//!
//! - `signals`, `spawn`, `strangers`: what comes from the kernel.
//! - `function`, `handle`, `event`, `roster`: the user's primary function on a thread of its own, and what it sees.
//! - `report`: what the operator is told.

mod event;
mod function;
mod handle;
mod report;
mod roster;
mod signals;
mod spawn;
mod strangers;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::resource::{Resource, getrlimit};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::mpsc;
use tokio::time::{sleep_until, timeout};
use tracing::Level;

pub use event::Event;
pub use handle::{Primary, PrimaryHandle};
pub use roster::{WorkerInfo, WorkerState};

use crate::boot::Identity;
use crate::config::Settings;
use crate::control::{Control, FromWorker, PortRequest, Schema, ToWorker};
use crate::error::exit_code;
use crate::ipc::Message;
use crate::listen::Address;
use crate::listen::registry::Registry;
use crate::run::PrimaryMain;
use crate::supervisor::{self, Action, Next, Outcome, ShutdownCause, State, StopCause, Supervisor};
use crate::{Exit, ExitReason, WorkerId};
use function::Notice;
use report::Report;
pub(crate) use report::say;
use roster::Roster;
use signals::{Request, Signals};
use spawn::{Child, Image, Spawned};

/// What comes to the shell from tasks and from the user's thread.
#[derive(Debug)]
enum Happening {
    Packet(WorkerId, FromWorker),
    /// A worker's control lane cannot go on.
    Broken(WorkerId, String),
    /// Not reaped yet: until the shell has forgotten its pid, the kernel must not give it to anybody else.
    Exited(WorkerId, Child),
    FunctionEnded(Result<(), String>),
    Order(Order),
}

/// What the user's thread asks for.
#[derive(Debug)]
enum Order {
    Stop,
    /// A worker broke the protocol of the messages lane.
    Misbehaved(WorkerId, String),
}

/// Happenings that may wait; more makes their senders wait.
const INBOX: usize = 256;
/// How long a worker whose control lane has ended may still exist: it is exiting, and the kernel takes its time to clean up.
const LAST_BREATH: Duration = Duration::from_secs(10);
/// How long the primary function may take to return at least, when the last worker is gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Rules a cluster from its first worker to its last, and returns the exit code.
pub(crate) fn reign<P, Up, Down>(settings: Settings, function: P) -> u8
where
    P: PrimaryMain<Up, Down>,
    Up: Message,
    Down: Message,
{
    let report = Report { quiet: settings.quiet };
    let schemas = (Schema::of::<Up>(), Schema::of::<Down>());
    let ruled = tokio::runtime::Builder::new_current_thread().enable_all().build().and_then(|runtime| {
        runtime.block_on(async {
            // Signals first: from the first worker on there is something to stop.
            let signals = Signals::install()?;
            let image = Image::of_this_process()?;
            let (inbox_sender, inbox) = mpsc::channel(INBOX);
            let roster = Arc::new(Roster::default());
            let notices = function::start(function, Arc::clone(&roster), inbox_sender.clone())?;
            let watched = Arc::clone(&roster);
            tokio::spawn(strangers::reap_strangers(move |pid| watched.has(pid)));
            let shell = Shell::new(settings, schemas, image, roster, notices, inbox_sender);
            Ok(shell.run(signals, inbox).await)
        })
    });
    ruled.unwrap_or_else(|error| {
        report.cluster(Level::ERROR, format_args!("the primary cannot start: {error}"));
        exit_code::CONFIG
    })
}

/// The state of the shell: the supervisor, and the things that its decisions are about.
struct Shell {
    settings: Settings,
    report: Report,
    supervisor: Supervisor,
    fleet: BTreeMap<WorkerId, Member>,
    registry: Registry,
    image: Image,
    up: Schema,
    down: Schema,
    roster: Arc<Roster>,
    notices: mpsc::UnboundedSender<Notice>,
    inbox: mpsc::Sender<Happening>,
    function: Function,
    stop: Stop,
}

/// One worker process that is not reaped yet.
struct Member {
    identity: Identity,
    pid: Pid,
    control: Arc<Control>,
    lane: MemberLane,
    ports: BTreeSet<SocketAddr>,
}

/// The primary's end of a worker's messages lane; the user's thread has it once the worker has said hello.
enum MemberLane {
    Kept(OwnedFd),
    HandedOver,
}

/// The user's primary function.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Function {
    Running,
    Ended { failed: bool },
}

/// What the signals so far have asked for.
#[derive(Clone, Copy)]
enum Stop {
    No,
    Since { deadline: Instant },
}

impl Shell {
    fn new(
        settings: Settings,
        (up, down): (Schema, Schema),
        image: Image,
        roster: Arc<Roster>,
        notices: mpsc::UnboundedSender<Notice>,
        inbox: mpsc::Sender<Happening>,
    ) -> Self {
        let Settings { workers, restart, start_timeout, grace, quiet, .. } = settings;
        Self {
            settings,
            report: Report { quiet },
            supervisor: Supervisor::new(supervisor::Settings { slots: workers, restart, start_timeout, grace }),
            fleet: BTreeMap::new(),
            registry: Registry::new(most_shards()),
            image,
            up,
            down,
            roster,
            notices,
            inbox,
            function: Function::Running,
            stop: Stop::No,
        }
    }

    /// The loop.
    async fn run(mut self, mut signals: Signals, mut inbox: mpsc::Receiver<Happening>) -> u8 {
        let mut outcome = self.step(supervisor::Event::Start);
        while outcome.is_none() {
            let deadline = self.supervisor.next_deadline();
            let event = tokio::select! {
                request = signals.next() => self.requested(request),
                Some(happening) = inbox.recv() => self.happened(happening),
                () = sleep_until_some(deadline) => Some(supervisor::Event::Tick),
            };
            outcome = event.and_then(|event| self.step(event));
        }
        let code = outcome.map_or(exit_code::STOPPED, |outcome| self.tell_outcome(outcome));
        self.wait_for_function(code, &mut signals, &mut inbox).await
    }

    /// Steps until nothing follows: an action that fails is an event again.
    fn step(&mut self, event: supervisor::Event) -> Option<Outcome> {
        let mut events = vec![event];
        let mut outcome = None;
        while let Some(event) = events.pop() {
            let mut actions = Vec::new();
            self.supervisor.step(Instant::now(), event, &mut actions);
            for action in actions {
                match action {
                    Action::Spawn { worker, slot, generation } => {
                        events.extend(self.spawn(Identity { worker, slot, generation }));
                    }
                    Action::Drain { worker, grace, last } => self.drain(worker, grace, last),
                    Action::Kill(worker) => self.kill(worker),
                    Action::Reaped { worker, slot, generation, exit, next } => {
                        self.reaped(Identity { worker, slot, generation }, exit, next);
                    }
                    Action::AllReady => self.tell_all_ready(),
                    Action::Shutdown(cause) => self.begin_stop(cause),
                    Action::Exit(end) => outcome = Some(end),
                }
            }
        }
        self.update_roster();
        outcome
    }

    fn requested(&self, request: Request) -> Option<supervisor::Event> {
        match (request, self.stop) {
            (Request::Stop { .. } | Request::Interrupt, Stop::No) | (Request::Interrupt, Stop::Since { .. }) => {
                Some(supervisor::Event::Stop(StopCause::Signal))
            }
            // A service manager may well repeat itself, and that must not cost the connections that still drain.
            (Request::Stop { .. }, Stop::Since { .. }) => None,
            (Request::Unknown(name), _) => {
                self.report.cluster(Level::WARN, format_args!("{name} has no meaning in this version and is ignored"));
                None
            }
        }
    }

    fn happened(&mut self, happening: Happening) -> Option<supervisor::Event> {
        match happening {
            Happening::Packet(worker, packet) => self.heard(worker, packet),
            Happening::Broken(worker, text) | Happening::Order(Order::Misbehaved(worker, text)) => {
                self.misbehaved(worker, &text)
            }
            Happening::Exited(worker, child) => Some(supervisor::Event::Exited(worker, child.reap())),
            Happening::Order(Order::Stop) => Some(supervisor::Event::Stop(StopCause::Asked)),
            Happening::FunctionEnded(result) => self.function_ended(result),
        }
    }

    fn heard(&mut self, worker: WorkerId, packet: FromWorker) -> Option<supervisor::Event> {
        let member = self.fleet.get(&worker)?;
        match (&member.lane, packet) {
            (MemberLane::Kept(_), FromWorker::Hello { up, down }) => self.greet(worker, &up, &down),
            (MemberLane::Kept(_), _) => self.misbehaved(worker, "it spoke before it said hello"),
            (MemberLane::HandedOver, FromWorker::Hello { .. }) => self.misbehaved(worker, "it said hello twice"),
            (MemberLane::HandedOver, FromWorker::Listen { request, port }) => self.listen(worker, request, port),
            (MemberLane::HandedOver, FromWorker::Ready) => {
                if self.state_of(worker) == Some(State::Starting) {
                    self.report.worker(Level::INFO, &member.identity, Some(member.pid), format_args!("ready"));
                    self.notify(Notice::Ready(worker));
                }
                Some(supervisor::Event::Ready(worker))
            }
            (MemberLane::HandedOver, FromWorker::Leaving) => Some(supervisor::Event::Leaving(worker)),
            (MemberLane::HandedOver, FromWorker::Drained(address)) => {
                // Only while everything stops has a slot no successor that would want the queue.
                if matches!(self.stop, Stop::Since { .. }) {
                    self.registry.close(member.identity.slot, address);
                }
                None
            }
        }
    }

    /// Lets the worker in if its build has the same messages.
    fn greet(&mut self, worker: WorkerId, up: &Schema, down: &Schema) -> Option<supervisor::Event> {
        for (ours, theirs) in [(&self.up, up), (&self.down, down)] {
            if ours != theirs {
                let text = format!(
                    "its message type {} ({}) differs from the primary's {} ({}): it is of another build",
                    theirs.name, theirs.fingerprint, ours.name, ours.fingerprint
                );
                _ = self.fleet.get(&worker)?.control.send_now(&ToWorker::Refused, &[]);
                return self.misbehaved(worker, &text);
            }
        }
        let member = self.fleet.get_mut(&worker)?;
        let sent = member.control.send_now(&ToWorker::Welcome { grace: self.settings.grace }, &[]);
        if let MemberLane::Kept(lane) = std::mem::replace(&mut member.lane, MemberLane::HandedOver) {
            self.notify(Notice::Online(worker, lane));
            self.update_roster();
        }
        self.check_sent(worker, sent)
    }

    fn listen(&mut self, worker: WorkerId, request: u64, port: PortRequest) -> Option<supervisor::Event> {
        let member = self.fleet.get_mut(&worker)?;
        let control = Arc::clone(&member.control);
        let sent = match self.registry.listen(member.identity.slot, port) {
            Ok((address, socket)) => {
                let sent = control.send_now(&ToWorker::Listening { request, outcome: Ok(address) }, &[socket]);
                if member.ports.insert(address) {
                    self.notify(Notice::Listening(worker, Address::Tcp(address)));
                }
                sent
            }
            Err(error) => {
                let errno = error.raw_os_error().unwrap_or(libc::EIO);
                control.send_now(&ToWorker::Listening { request, outcome: Err(errno) }, &[])
            }
        };
        self.check_sent(worker, sent)
    }

    /// A worker that does not read a handful of small packets will not read more either. One that is gone is reaped soon.
    fn check_sent(&self, worker: WorkerId, sent: io::Result<()>) -> Option<supervisor::Event> {
        match sent {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                self.misbehaved(worker, "it does not read its control lane")
            }
            Ok(()) | Err(_) => None,
        }
    }

    fn misbehaved(&self, worker: WorkerId, text: &str) -> Option<supervisor::Event> {
        let member = self.fleet.get(&worker)?;
        let text = format_args!("broke the protocol and is killed: {text}");
        self.report.worker(Level::ERROR, &member.identity, Some(member.pid), text);
        Some(supervisor::Event::Misbehaved(worker))
    }

    fn function_ended(&mut self, result: Result<(), String>) -> Option<supervisor::Event> {
        self.function = Function::Ended { failed: result.is_err() };
        let text = result.err()?;
        self.report.cluster(Level::ERROR, format_args!("the primary function failed, so the cluster stops: {text}"));
        Some(supervisor::Event::Stop(StopCause::PrimaryFailed))
    }

    fn spawn(&mut self, identity: Identity) -> Option<supervisor::Event> {
        let Spawned { child, control, messages } = match self.image.spawn(identity) {
            Ok(spawned) => spawned,
            Err(error) => {
                self.report.worker(Level::ERROR, &identity, None, format_args!("cannot be spawned: {error}"));
                return Some(supervisor::Event::SpawnFailed(identity.worker));
            }
        };
        let pid = child.pid();
        self.report.worker(Level::INFO, &identity, Some(pid), format_args!("spawned"));
        let control = Arc::new(control);
        tokio::spawn(watch(identity.worker, child, Arc::clone(&control), self.inbox.clone()));
        let lane = MemberLane::Kept(messages);
        self.fleet.insert(identity.worker, Member { identity, pid, control, lane, ports: BTreeSet::new() });
        self.notify(Notice::Forked(identity.worker));
        None
    }

    fn drain(&self, worker: WorkerId, grace: Duration, last: bool) {
        if let Some(member) = self.fleet.get(&worker) {
            // One that cannot hear it is ended by its deadline.
            _ = member.control.send_now(&ToWorker::Drain { grace, last }, &[]);
        }
    }

    fn kill(&self, worker: WorkerId) {
        if let Some(member) = self.fleet.get(&worker) {
            // It is not reaped, so the pid is still its own.
            _ = kill(member.pid, Signal::SIGKILL);
        }
    }

    fn reaped(&mut self, identity: Identity, exit: Exit, next: Next) {
        let member = self.fleet.remove(&identity.worker);
        let level = if exit.reason == ExitReason::Asked { Level::INFO } else { Level::WARN };
        let text = match next {
            Next::Restart { after: Duration::ZERO } => format!("{exit}; restarted at once"),
            Next::Restart { after } => format!("{exit}; restarted in {after:?}"),
            Next::Taken | Next::Stopping => exit.to_string(),
            Next::Empty => format!("{exit}; not restarted"),
        };
        self.report.worker(level, &identity, member.as_ref().map(|member| member.pid), format_args!("{text}"));
        if member.is_some() {
            self.notify(Notice::Exited(identity.worker, exit));
        }
    }

    fn begin_stop(&mut self, cause: ShutdownCause) {
        self.stop = Stop::Since { deadline: Instant::now() + self.settings.grace };
        let grace = self.settings.grace;
        match cause {
            ShutdownCause::Stop(_) => {
                self.report.cluster(Level::INFO, format_args!("stopping within {grace:?}; Ctrl-C kills at once"));
            }
            ShutdownCause::StartFailed { .. } => {
                let text = "a worker failed before it was ever ready, so the cluster stops";
                self.report.cluster(Level::ERROR, format_args!("{text}"));
            }
            ShutdownCause::Breaker => {
                let text = "workers keep failing and none is serving, so the cluster gives up";
                self.report.cluster(Level::ERROR, format_args!("{text}"));
            }
        }
    }

    fn tell_all_ready(&self) {
        let workers = match self.settings.workers {
            1 => "1 worker".to_owned(),
            count => format!("{count} workers"),
        };
        let addresses = self.registry.addresses();
        let list: Vec<_> = addresses.iter().map(|(address, _)| address.to_string()).collect();
        let place = if list.is_empty() { String::new() } else { format!(" on {}", list.join(", ")) };
        let hint = match addresses.iter().find(|(_, http)| *http) {
            Some((address, _)) => format!("; try: curl http://{}/", reachable(*address)),
            None => String::new(),
        };
        self.report.cluster(Level::INFO, format_args!("{workers} ready{place}{hint}"));
    }

    fn tell_outcome(&self, outcome: Outcome) -> u8 {
        match outcome {
            Outcome::Stopped { cause: StopCause::PrimaryFailed, .. } => exit_code::PRIMARY_FAILED,
            Outcome::Stopped { forced: true, .. } => {
                self.report.cluster(Level::WARN, format_args!("stopped, but workers had to be killed"));
                exit_code::GRACE_EXPIRED
            }
            Outcome::Stopped { forced: false, .. } => {
                self.report.cluster(Level::INFO, format_args!("stopped"));
                exit_code::STOPPED
            }
            Outcome::Killed => {
                self.report.cluster(Level::WARN, format_args!("killed by a second signal"));
                exit_code::KILLED_BASE + 2
            }
            Outcome::StartFailed { .. } => exit_code::START_FAILED,
            Outcome::Breaker => exit_code::WORKERS_FAILED,
            Outcome::AllFinished { failed: true } => {
                self.report.cluster(Level::ERROR, format_args!("no worker is left, and the last of a slot failed"));
                exit_code::WORKERS_FAILED
            }
            Outcome::AllFinished { failed: false } => {
                self.report.cluster(Level::INFO, format_args!("every worker has finished"));
                exit_code::STOPPED
            }
        }
    }

    /// The last worker is gone; the primary function hears the last events and may finish what it does.
    async fn wait_for_function(mut self, code: u8, signals: &mut Signals, inbox: &mut mpsc::Receiver<Happening>) -> u8 {
        self.notify(Notice::Ended);
        let least = Instant::now() + LAST_WORDS;
        let deadline = match self.stop {
            Stop::No => Instant::now() + self.settings.grace,
            Stop::Since { deadline } => deadline,
        };
        while self.function == Function::Running {
            tokio::select! {
                request = signals.next() => if request == Request::Interrupt {
                    return exit_code::KILLED_BASE + 2;
                },
                Some(happening) = inbox.recv() => if let Happening::FunctionEnded(result) = happening {
                    _ = self.function_ended(result);
                },
                () = sleep_until_some(Some(deadline.max(least))) => {
                    self.report.cluster(Level::WARN, format_args!("the primary function did not return; exiting"));
                    break;
                }
            }
        }
        match self.function {
            Function::Ended { failed: true } if code == exit_code::STOPPED => exit_code::PRIMARY_FAILED,
            Function::Running | Function::Ended { .. } => code,
        }
    }

    fn notify(&self, notice: Notice) {
        // The user's thread lives as long as the process.
        _ = self.notices.send(notice);
    }

    fn state_of(&self, worker: WorkerId) -> Option<State> {
        self.supervisor.status().find(|status| status.worker == worker).map(|status| status.state)
    }

    fn update_roster(&self) {
        let info = |status: supervisor::WorkerStatus| {
            let member = self.fleet.get(&status.worker)?;
            Some(WorkerInfo {
                id: status.worker,
                slot: status.slot,
                generation: status.generation,
                pid: member.pid.as_raw().cast_unsigned(),
                state: status.state.into(),
                connected: matches!(member.lane, MemberLane::HandedOver),
                exit_asked_for: status.asked_to_go,
            })
        };
        self.roster.replace(self.supervisor.status().filter_map(info).collect());
    }
}

/// Follows one worker from its first packet to its end.
async fn watch(worker: WorkerId, child: Child, control: Arc<Control>, inbox: mpsc::Sender<Happening>) {
    let speaking = async {
        let broken = loop {
            match control.receive().await {
                // No packet of a worker carries descriptors; such as come are closed here.
                Ok(Some((packet, _fds))) => tell(&inbox, Happening::Packet(worker, packet)).await,
                Ok(None) => break None,
                Err(error) => break Some(error.to_string()),
            }
        };
        if broken.is_none() && timeout(LAST_BREATH, child.ended()).await.is_ok() {
            return;
        }
        let text = broken.unwrap_or_else(|| "it closed its control lane and lives on".into());
        tell(&inbox, Happening::Broken(worker, text)).await;
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = speaking => {}
        () = child.ended() => {}
    }
    // What it said last still counts; a broken lane, now, no longer does.
    while let Ok(Some((packet, _fds))) = control.receive_now() {
        tell(&inbox, Happening::Packet(worker, packet)).await;
    }
    tell(&inbox, Happening::Exited(worker, child)).await;
}

async fn tell(inbox: &mpsc::Sender<Happening>, happening: Happening) {
    // The shell's end lives as long as the runtime on which this runs.
    _ = inbox.send(happening).await;
}

async fn sleep_until_some(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => std::future::pending().await,
    }
}

/// Half of the descriptors that this process may have.
fn most_shards() -> usize {
    let soft = getrlimit(Resource::RLIMIT_NOFILE).map_or(1024, |(soft, _)| soft);
    usize::try_from(soft / 2).unwrap_or(usize::MAX)
}

/// An address that a client on this machine can use.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address {
        SocketAddr::V4(v4) if v4.ip().is_unspecified() => std::net::Ipv4Addr::LOCALHOST.into(),
        SocketAddr::V6(v6) if v6.ip().is_unspecified() => std::net::Ipv6Addr::LOCALHOST.into(),
        SocketAddr::V4(_) | SocketAddr::V6(_) => address.ip(),
    };
    SocketAddr::new(ip, address.port())
}
