//! The primary's shell: wait → event → step → perform. What to do is decided in `supervisor`; here it is done.
//!
//! - `reign`: where a primary begins, at a start or in an upgrade.
//! - `signals`, `spawn`, `watch`, `strangers`: what comes from the kernel.
//! - `heard`: what workers say, and what they are answered.
//! - `ports`, `tend`, `empty`: the sockets and mailboxes of all, and what waits in those of a worker that is missing or stuck.
//! - `damage`: what is done when a worker has changed what it shares with others.
//! - `peers`: who leads a slot, and the lanes between workers.
//! - `tickets`: the keys of TLS session tickets.
//! - `order`, `program`: what the primary function orders, and the program that a reload finds on disk.
//! - `upgrade`, `legacy`: how this process becomes another program, and what goes on there.
//! - `care`: who is stuck, and who has had its share.
//! - `workplace`, `logs`, `output`, `escape`: what workers run in, and what they print.
//! - `told`, `service`: what the operator is told, and the service manager.
//! - `function`, `handle`, `event`, `roster`: the user's primary function on a thread of its own, and what it sees.

mod care;
mod damage;
mod empty;
mod escape;
mod event;
mod function;
mod handle;
mod heard;
mod intake;
mod legacy;
mod logs;
mod order;
mod output;
mod peers;
mod ports;
mod program;
mod reign;
mod roster;
mod service;
mod shared;
mod signals;
mod spawn;
mod strangers;
mod tend;
mod tickets;
mod told;
mod upgrade;
mod watch;
mod workplace;

use std::collections::{BTreeMap, BTreeSet};
use std::future::pending;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::yield_now;
use tokio::time::sleep_until;
use tracing::Level;

pub use event::Event;
pub use handle::{Primary, PrimaryHandle};
pub(crate) use legacy::{answer, go_back};
pub use order::{OrderError, ReloadError, UpgradeError};
pub(crate) use reign::reign;
pub use roster::{WorkerInfo, WorkerState};

use crate::boot::Identity;
use crate::config::Settings;
use crate::control::{Control, FromWorker, Schema, ToWorker};
use crate::error::exit_code;
use crate::listen::PortId;
use crate::moment::Moment;
use crate::report::Reporter;
use crate::supervisor::{self, Action, Next, Outcome, ShutdownCause, State, StopCause, Supervisor};
use crate::{Exit, WorkerId, board};
use care::Care;
use function::Notice;
use logs::LogFile;
use order::{Answer, Order, Reloads};
use ports::Ports;
use program::Program;
use roster::Roster;
use service::Service;
use shared::Leave;
use signals::{Request, Signals};
use spawn::{Child, Image, Spawned};
use tickets::Tickets;
use upgrade::Upgrade;
use workplace::Workplace;

/// What comes to the shell from tasks and from the user's thread.
#[derive(Debug)]
enum Happening {
    Packet(WorkerId, FromWorker),
    /// A lane of a worker cannot go on.
    Broken(WorkerId, String),
    /// Not reaped yet: until the shell has forgotten its pid, the kernel must not give it to anybody else.
    Exited(WorkerId, Child),
    FunctionEnded(Result<(), String>),
    Ordered(Order),
    /// The task that follows a worker has ended, as it was to.
    Paused(WorkerId, Child),
    /// Nobody takes the primary function's events any more.
    IntakeLeft,
    /// The next program could go on, or why not.
    Tried(Result<Image, String>),
}

/// How long the primary function may take to return at least, when the last worker is gone.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// How long what workers have printed may take to be written, when the last of them is gone.
const LAST_LINES: Duration = Duration::from_secs(5);
/// A timer that goes off so much too late tells that this process stood still: stopped by a signal, or a frozen container.
const STALL: Duration = Duration::from_secs(1);

/// The state of the shell: the supervisor, and the things that its decisions are about.
struct Shell {
    settings: Settings,
    reporter: Reporter,
    service: Service,
    supervisor: Supervisor,
    /// How long this process has stood still so far. The supervisor's clock stands still with it: a worker must not fail because
    /// it waited for us.
    stalled: Duration,
    /// When the loop last turned.
    awake: Instant,
    fleet: BTreeMap<WorkerId, Member>,
    ports: Ports,
    program: Program,
    /// What this process runs itself.
    image: Image,
    /// The programs of all generations that somebody runs, or will.
    images: BTreeMap<u64, Image>,
    workplace: Workplace,
    care: Care,
    tickets: Tickets,
    reloads: Reloads,
    /// Those who wait for a worker of their own, and for which slot, once it is known.
    forks: Vec<(Option<usize>, Answer<WorkerId, OrderError>)>,
    /// What else is known of workers that failed.
    complaints: BTreeMap<WorkerId, String>,
    /// What workers send, and what they receive.
    schemas: (Schema, Schema),
    roster: Arc<Roster>,
    notices: mpsc::UnboundedSender<Notice>,
    /// Notices that go out once the roster agrees with them.
    unsent: Vec<Notice>,
    inbox: mpsc::Sender<Happening>,
    function: Function,
    stop: Stop,
    /// The operator did not want to wait for the end of the stop.
    is_interrupted: bool,
    upgrade: Upgrade,
    leave: Arc<Leave>,
    /// Signals that came when it was too late to act on them.
    late: Vec<Request>,
    /// A worker has been ready. From then on not every port is bound for those that have given up privileges.
    has_served: bool,
    /// The workers know that they will be stopped soon; those that come have to be told, too.
    is_stop_announced: bool,
}

/// One worker process that is not reaped yet.
struct Member {
    identity: Identity,
    pid: Pid,
    control: Arc<Control>,
    lane: MemberLane,
    /// The most bytes of a message or an answer on that lane: as the settings were when it was spawned.
    max_message: usize,
    /// Where its output goes, if that is to be opened anew.
    log: Option<LogFile>,
    /// Our ends of its pipes, if this process prints what comes from them.
    output: Option<[OwnedFd; 2]>,
    /// What it listens on.
    ports: BTreeSet<PortId>,
    /// The workers to which it was given a lane, until they are reaped.
    peers: BTreeSet<WorkerId>,
    /// It was told that nobody takes its accept queues over.
    drains_last: bool,
    /// It was found to have changed what it shares with others.
    has_done_damage: bool,
    /// Pauses the task that follows it.
    pause: Option<oneshot::Sender<()>>,
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

/// Whether the cluster stops.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Stop {
    No,
    Until { deadline: Instant },
}

impl Shell {
    /// The loop.
    async fn run(mut self, mut signals: Signals, stop: &Notify, mut inbox: mpsc::Receiver<Happening>) -> u8 {
        // One that goes on has been started before.
        let mut outcome = self.step(supervisor::Event::Start);
        for request in std::mem::take(&mut self.late) {
            outcome = outcome.or(self.requested(request).and_then(|event| self.step(event)));
        }
        self.publish();
        while outcome.is_none() {
            self.service.tend_watchdog();
            self.rotate_ticket_keys();
            self.begin_upgrade();
            if self.is_to_leave() {
                outcome = self.leave(&mut signals, stop, &mut inbox).await;
                self.publish();
                continue;
            }
            if self.ports.is_overdue() {
                _ = self.mind_the_time(self.ports.next_look(), None);
                outcome = self.look();
                continue;
            }
            let deadline = self.next_deadline();
            let timer = deadline.into_iter().chain(self.ports.next_look()).min();
            // What has happened comes before what is due: a worker that was ready in time must be heard in time.
            let event = tokio::select! {
                biased;
                request = signals.next() => self.requested(request),
                () = stop.notified() => Some(supervisor::Event::Stop(StopCause::Asked)),
                Some(happening) = inbox.recv() => self.happened(happening),
                () = self.ports.is_due() => {
                    _ = self.mind_the_time(timer, None);
                    outcome = self.look();
                    continue;
                }
                // Tended above, in any turn.
                () = self.service.is_due() => None,
                () = sleep_until_some(self.next_rotation()) => None,
                () = sleep_until_some(self.upgrade_deadline()) => None,
                () = sleep_until_some(deadline) => {
                    // The tasks that watch the workers have something to say perhaps and have not had their turn.
                    yield_now().await;
                    if !inbox.is_empty() {
                        // If this process stood still, that must not be forgotten for what it hears first.
                        _ = self.mind_the_time(timer, None);
                        continue;
                    }
                    None
                }
            };
            let event = self.mind_the_time(timer, event);
            let is_news = event.is_some() || !self.unsent.is_empty();
            outcome = event.and_then(|event| self.step(event));
            if is_news {
                self.publish();
            }
        }
        let code = outcome.map_or(exit_code::STOPPED, |outcome| self.tell_outcome(outcome));
        let code = self.wait_for_function(code, &mut signals, &mut inbox).await;
        self.workplace.finish_output(LAST_LINES);
        self.reporter.flush(LAST_WORDS);
        code
    }

    /// Steps until nothing follows: an action that fails is an event again, of the same moment. If this process is stopped between
    /// the two, then [`mind_the_time`](Self::mind_the_time) is to notice before any deadline is looked at.
    fn step(&mut self, event: supervisor::Event) -> Option<Outcome> {
        let now = self.now();
        let mut events = vec![event];
        let mut outcome = None;
        while let Some(event) = events.pop() {
            let mut actions = Vec::new();
            self.supervisor.step(now, event, &mut actions);
            self.appoint_leads();
            for action in actions {
                match action {
                    Action::Open { slot } => self.open(slot),
                    Action::Spawn { worker, slot, generation } => {
                        self.forked(worker, slot);
                        events.extend(self.spawn(Identity { worker, slot, generation }));
                    }
                    Action::Drain { worker, grace, last } => self.drain(worker, grace, last),
                    Action::Abort(worker) => self.kill(worker, Signal::SIGABRT),
                    Action::Kill(worker) => self.kill(worker, Signal::SIGKILL),
                    Action::Reloading { generation } => self.reload_begins(generation),
                    Action::Reloaded { generation, outcome } => self.reload_ended(generation, outcome),
                    Action::Reaped { worker, slot, generation, exit, next } => {
                        self.reaped(Identity { worker, slot, generation }, exit, next);
                    }
                    Action::AllReady => {
                        self.tell_all_ready();
                        self.service.ready();
                    }
                    Action::Shutdown { cause, delay } => self.shutting_down(cause, delay),
                    Action::Exit(end) => outcome = Some(end),
                }
            }
        }
        self.tidy_up();
        outcome
    }

    /// Looks who serves what, and how everybody is.
    fn look(&mut self) -> Option<Outcome> {
        self.ports.look();
        for port in self.ports.take_emptied() {
            self.tell_closed(port);
        }
        let mut events = self.look_after_what_is_shared();
        events.extend(self.look_after_workers());
        let is_news = !events.is_empty();
        let outcomes: Vec<_> = events.into_iter().filter_map(|event| self.step(event)).collect();
        if is_news {
            self.publish();
        }
        outcomes.into_iter().next()
    }

    /// The supervisor's clock.
    fn now(&self) -> Moment {
        Moment::from_nanos(board::now()) - self.stalled
    }

    /// The supervisor's next deadline. It lies in the past if this process stood still since the last step.
    fn next_deadline(&self) -> Option<Instant> {
        let (deadline, now, here) = (self.supervisor.next_deadline()?, self.now(), Instant::now());
        here.checked_add(deadline - now)?.checked_sub(now - deadline)
    }

    fn requested(&mut self, request: Request) -> Option<supervisor::Event> {
        match request {
            Request::Terminate => Some(supervisor::Event::Stop(StopCause::Terminate)),
            Request::Interrupt => {
                self.is_interrupted |= self.stop != Stop::No;
                Some(supervisor::Event::Stop(StopCause::Interrupt))
            }
            Request::Reload => Some(supervisor::Event::Reload),
            Request::OneMore => self.scale_by(1),
            Request::OneFewer => self.scale_by(-1),
            Request::ReopenLogs => {
                self.reopen_logs();
                None
            }
            Request::Upgrade => {
                self.want_upgrade(None);
                None
            }
            Request::Dump => {
                self.tell_all();
                None
            }
        }
    }

    fn happened(&mut self, happening: Happening) -> Option<supervisor::Event> {
        match happening {
            Happening::Packet(worker, packet) => self.heard(worker, packet),
            Happening::Broken(worker, text) => self.misbehaved(worker, &text),
            Happening::Exited(worker, child) => Some(supervisor::Event::Exited(worker, child.reap())),
            Happening::FunctionEnded(result) => self.function_ended(result),
            Happening::Ordered(order) => self.ordered(order),
            Happening::Tried(outcome) => {
                self.tried(outcome);
                None
            }
            // No upgrade waits for it any more.
            Happening::Paused(worker, child) => {
                if let Some(member) = self.fleet.get_mut(&worker) {
                    member.pause = Some(upgrade::follow(worker, child, &member.control, &self.inbox));
                }
                None
            }
            // It has woken the loop, which looks for itself.
            Happening::IntakeLeft => None,
        }
    }

    /// Makes sure that a deadline that has passed is looked at, also if nothing but idle talk comes; or moves it, if this process
    /// stood still.
    fn mind_the_time(
        &mut self,
        deadline: Option<Instant>,
        event: Option<supervisor::Event>,
    ) -> Option<supervisor::Event> {
        let now = Instant::now();
        let asleep = now.saturating_duration_since(self.awake);
        self.awake = now;
        match deadline.and_then(|deadline| now.checked_duration_since(deadline)) {
            Some(late) if late > STALL => {
                // Somewhere in its last sleep; which part of that was a sleep like any other cannot be told.
                self.stalled += asleep;
                event
            }
            Some(_) => event.or(Some(supervisor::Event::Tick)),
            None => event,
        }
    }

    fn function_ended(&mut self, result: Result<(), String>) -> Option<supervisor::Event> {
        self.function = Function::Ended { failed: result.is_err() };
        let text = result.err()?;
        self.reporter.cluster(Level::ERROR, format_args!("the primary function failed, so the cluster stops: {text}"));
        Some(supervisor::Event::Stop(StopCause::PrimaryFailed))
    }

    fn spawn(&mut self, identity: Identity) -> Option<supervisor::Event> {
        let max_message = self.settings.max_message as usize;
        self.ports.expect(identity.slot, identity.worker, max_message);
        self.unsent.push(Notice::Spawning(identity.worker));
        let room = self.make_room(identity.slot);
        let spawned = match (self.images.get(&identity.generation), room) {
            (Some(image), Ok(())) => self.workplace.prepare(identity).and_then(|place| image.spawn(identity, place)),
            (Some(_), Err(error)) => Err(io::Error::new(error.kind(), format!("no sockets for its slot: {error}"))),
            (None, _) => Err(io::Error::other("its program cannot be opened")),
        };
        let Spawned { child, control, messages, log, output } = match spawned {
            Ok(spawned) => spawned,
            Err(error) => {
                let text = format!("cannot be spawned: {error}");
                self.reporter.worker(Level::ERROR, identity, None, &text);
                self.complaints.insert(identity.worker, text);
                return Some(supervisor::Event::SpawnFailed(identity.worker));
            }
        };
        let pid = child.pid();
        self.reporter.worker(Level::INFO, identity, Some(pid), "spawned");
        let control = Arc::new(control);
        let pause = Some(upgrade::follow(identity.worker, child, &control, &self.inbox));
        let lane = MemberLane::Kept(messages);
        let (ports, peers) = (BTreeSet::new(), BTreeSet::new());
        let (drains_last, has_done_damage) = (false, false);
        let member = Member {
            identity,
            pid,
            control,
            lane,
            max_message,
            log,
            output,
            ports,
            peers,
            drains_last,
            has_done_damage,
            pause,
        };
        self.fleet.insert(identity.worker, member);
        self.unsent.push(Notice::Forked(identity.worker));
        None
    }

    fn drain(&mut self, worker: WorkerId, grace: Duration, last: bool) {
        if last {
            // Nobody else serves, and nobody will.
            self.ports.stop(&self.manned(), Instant::now() + grace);
        }
        if let Some(member) = self.fleet.get_mut(&worker) {
            member.drains_last |= last;
            // One that cannot hear it is ended by its deadline.
            _ = member.control.send_now(&ToWorker::Drain { grace, last }, &[]);
        }
    }

    /// Tells every worker that the drain will begin soon.
    fn warn_of_stop(&mut self) {
        self.is_stop_announced = true;
        // Who has not said hello yet is told with the welcome.
        for member in self.fleet.values().filter(|member| matches!(member.lane, MemberLane::HandedOver)) {
            // It matters to a load balancer only, and who cannot hear this will not hear of the drain.
            _ = member.control.send_now(&ToWorker::StopSoon, &[]);
        }
    }

    /// Tells everybody that log files were renamed, and gives those workers a new one whose output the primary has opened.
    fn reopen_logs(&mut self) {
        let actor = self.workplace.actor();
        let (who, logs): (Vec<_>, Vec<_>) = self
            .fleet
            .iter()
            .filter_map(|(worker, member)| Some((*worker, (member.log.clone()?, actor.clone()))))
            .unzip();
        let mut files: BTreeMap<_, _> = who.into_iter().zip(LogFile::open_all(logs)).collect();
        for (worker, member) in &self.fleet {
            let file = files.remove(worker).transpose();
            if let Err(error) = &file {
                let text = format_args!("its output goes on where it went: {error}");
                self.reporter.worker(Level::ERROR, member.identity, Some(member.pid), text);
            }
            let file = file.ok().flatten();
            let fds: Vec<_> = file.iter().map(AsFd::as_fd).collect();
            match member.control.send_now(&ToWorker::Reopen, &fds) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    let text = "does not read its control lane, so it cannot be told to open its logs anew";
                    self.reporter.worker(Level::WARN, member.identity, Some(member.pid), text);
                }
                // One that is gone has no logs.
                Ok(()) | Err(_) => {}
            }
        }
        self.reporter.cluster(Level::INFO, "log files are opened anew");
        self.unsent.push(Notice::ReopenLogs);
    }

    fn kill(&self, worker: WorkerId, signal: Signal) {
        if let Some(member) = self.fleet.get(&worker) {
            // It is not reaped, so the pid is still its own.
            _ = kill(member.pid, signal);
        }
    }

    /// A slot is open.
    fn open(&mut self, slot: usize) {
        if let Some((waiting, _)) = self.forks.iter_mut().find(|(waiting, _)| waiting.is_none()) {
            *waiting = Some(slot);
        }
        // Where that fails, its worker cannot be spawned, and it is tried again with the next one.
        if let Err(error) = self.make_room(slot) {
            self.reporter.cluster(Level::ERROR, format_args!("no sockets for another worker: {error}"));
        }
    }

    /// Makes sure that there are sockets and a mailbox for the slot.
    fn make_room(&mut self, slot: usize) -> io::Result<()> {
        let added = self.ports.grow(slot + 1)?;
        for member in self.fleet.values().filter(|member| matches!(member.lane, MemberLane::HandedOver)) {
            // Whoever does not get them hands nothing over to the new slot; one that does not read is seen to elsewhere.
            _ = self.ports.tell_mailboxes(&member.control, added.clone());
        }
        if self.ports.has(slot) { Ok(()) } else { Err(io::Error::other("the cluster stops")) }
    }

    fn shutting_down(&mut self, cause: ShutdownCause, delay: Duration) {
        self.stop = Stop::Until { deadline: Instant::now() + delay + self.settings.grace };
        self.tell_shutdown(cause, delay);
        self.service.stopping();
        self.refuse_orders();
        if delay.is_zero() {
            self.ports.stop(&self.manned(), Instant::now() + self.settings.grace);
        } else {
            self.warn_of_stop();
        }
    }

    fn reaped(&mut self, identity: Identity, exit: Exit, next: Next) {
        let member = self.fleet.remove(&identity.worker);
        self.forget_peer(identity.worker);
        self.tickets.forget(identity.worker);
        self.tell_exit(identity, member.as_ref().map(|member| member.pid), exit, next);
        self.unsent.push(Notice::Exited(identity.worker, exit));
        let is_followed = match next {
            Next::Restart { after } => after.is_zero(),
            Next::Taken => true,
            Next::Empty | Next::Stopping => false,
        };
        self.examine_what_it_had(identity, member.as_ref().map(|member| member.pid));
        self.ports.forget(identity.slot, identity.worker, is_followed);
        if self.ports.is_stopping() {
            // Who connects there must be refused, not kept waiting.
            let manned = self.manned();
            self.ports.abandon((0..self.ports.slots()).filter(|slot| !manned.contains(slot)));
        }
    }

    /// The slots that have a process.
    fn manned(&self) -> BTreeSet<usize> {
        self.fleet.values().map(|member| member.identity.slot).collect()
    }

    /// The last worker is gone; the primary function hears the last events and may finish what it does.
    async fn wait_for_function(
        &mut self,
        code: u8,
        signals: &mut Signals,
        inbox: &mut mpsc::Receiver<Happening>,
    ) -> u8 {
        self.unsent.push(Notice::Ended);
        self.publish();
        let least = Instant::now() + LAST_WORDS;
        let deadline = match self.stop {
            Stop::No => Instant::now() + self.settings.grace,
            Stop::Until { deadline } => deadline,
        };
        while self.function == Function::Running {
            tokio::select! {
                request = signals.next() => if request == Request::Interrupt {
                    return exit_code::INTERRUPTED;
                },
                Some(happening) = inbox.recv() => if let Happening::FunctionEnded(result) = happening {
                    _ = self.function_ended(result);
                },
                () = self.service.is_due() => self.service.tend_watchdog(),
                () = sleep_until_some(Some(deadline.max(least))) => {
                    self.reporter.cluster(Level::WARN, "the primary function did not return; exiting");
                    break;
                }
            }
        }
        match self.function {
            Function::Ended { failed: true } if code == exit_code::STOPPED => exit_code::PRIMARY_FAILED,
            Function::Running | Function::Ended { .. } => code,
        }
    }

    /// Lets the user's thread see what has happened: first the roster, then the events about it.
    fn publish(&mut self) {
        self.roster.replace(self.supervisor.status().filter_map(|status| self.info(status)).collect());
        for notice in self.unsent.drain(..) {
            // The user's thread lives as long as the process.
            _ = self.notices.send(notice);
        }
        self.tell_status();
    }

    fn info(&self, status: supervisor::WorkerStatus) -> Option<WorkerInfo> {
        let member = self.fleet.get(&status.worker)?;
        Some(WorkerInfo {
            id: status.worker,
            slot: status.slot,
            generation: status.generation,
            pid: member.pid.as_raw().cast_unsigned(),
            state: status.state.into(),
            connected: matches!(member.lane, MemberLane::HandedOver),
            exit_asked_for: status.asked_to_go,
            // These change all the time: whoever asks is told what the board says then.
            open: 0,
            accepted: 0,
            handed_over: 0,
            requests: 0,
        })
    }

    fn state_of(&self, worker: WorkerId) -> Option<State> {
        self.supervisor.status().find(|status| status.worker == worker).map(|status| status.state)
    }
}

async fn sleep_until_some(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline.into()).await,
        None => pending().await,
    }
}
