//! The primary becomes another program, in the same process: same pid, children and sockets.
//!
//! 1. *Try*: the program on disk is run as a child, with a copy of what it would get, and says whether it could go on.
//! 2. *Tell*: the user's primary function hears of it and returns. Supervision goes on.
//! 3. *Leave*: what is in this process's hands is put down: packets are heard, connections handed over, lanes taken apart.
//! 4. *Become*: all of it is written down, and the program executed. It goes on, or gives everything back to this one.
//! 5. A reload follows.
//!
//! Until the fourth step nothing has happened that a refusal would have to undo, but for the primary function. After the fourth it starts
//! anew, in whichever program; if it does not come to that, because something cannot be put down, it has ended.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _};
use std::os::fd::{AsRawFd as _, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::OFlag;
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::unistd::{Pid, pipe2};
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{timeout, timeout_at};
use tracing::Level;

use super::function::{LeftBehind, Notice};
use super::legacy::{LaneState, Legacy, MemberState, become_program};
use super::logs::LogFile;
use super::order::{Answer, UpgradeError};
use super::ports::PortsState;
use super::reign::{DESCRIPTORS_TO_SPARE, descriptor_limit};
use super::signals::{Request, Signals};
use super::spawn::{Child, Image};
use super::tickets::Tickets;
use super::watch::watch;
use super::{Function, Happening, LAST_WORDS, Member, MemberLane, Shell, Stop};
use crate::boot::{self, Identity, Succession};
use crate::control::Control;
use crate::ipc::Suspended;
use crate::listen::Address;
use crate::report::say;
use crate::supervisor::{self, Outcome, State, Supervisor};
use crate::{Exit, WorkerId, os};

/// How far an upgrade has come.
#[derive(Debug, Default)]
pub(super) enum Upgrade {
    #[default]
    No,
    /// It waits for the start, or for a reload, to end.
    Wanted(Vec<Answer<(), UpgradeError>>),
    /// The program is being tried.
    Trying(Vec<Answer<(), UpgradeError>>),
    /// The primary function is to return.
    Telling { image: Image, deadline: Instant },
}

/// How long the next program may take to say whether it could go on.
const TRIAL: Duration = Duration::from_secs(20);
/// How long it may take to put everything down.
const TO_LEAVE: Duration = Duration::from_secs(10);

/// The first step, and the second.
impl Shell {
    pub(super) fn want_upgrade(&mut self, answer: Option<Answer<(), UpgradeError>>) {
        let refusal = match (&mut self.upgrade, self.stop) {
            (_, Stop::Until { .. }) => UpgradeError::Stopping,
            (Upgrade::Wanted(waiting), Stop::No) => return waiting.extend(answer),
            (Upgrade::Trying(_) | Upgrade::Telling { .. }, Stop::No) => UpgradeError::Busy,
            (upgrade @ Upgrade::No, Stop::No) => {
                *upgrade = Upgrade::Wanted(answer.into_iter().collect());
                return;
            }
        };
        match answer {
            Some(answer) => _ = answer.send(Err(refusal)),
            None if refusal == UpgradeError::Busy => {
                self.reporter.cluster(Level::WARN, format_args!("{refusal}; ask again when it is over"));
            }
            None => {}
        }
    }

    /// Begins an upgrade that is wanted, if nothing is in its way. Called in every turn of the loop.
    pub(super) fn begin_upgrade(&mut self) {
        let Upgrade::Wanted(waiting) = &mut self.upgrade else { return };
        if !self.supervisor.is_at_rest() {
            return;
        }
        self.upgrade = Upgrade::Trying(std::mem::take(waiting));
        self.reporter.cluster(Level::INFO, "upgrading the primary");
        let begun = self.program.image().and_then(|image| {
            let legacy = self.describe(self.ports.describe(), self.untouched(), Vec::new(), None);
            check_room(legacy.descriptors().len())?;
            Ok((start_trial(&image, &legacy.write()?)?, image))
        });
        match begun {
            Ok((trial, image)) => {
                let inbox = self.inbox.clone();
                tokio::spawn(async move {
                    let outcome = trial.outcome().await.map(|_| image);
                    // The shell's end lives as long as the runtime on which this runs.
                    _ = inbox.send(Happening::Tried(outcome)).await;
                });
            }
            Err(error) => self.refuse_upgrade(&UpgradeError::Refused(error.to_string())),
        }
    }

    /// The program has been tried.
    pub(super) fn tried(&mut self, outcome: Result<Image, String>) {
        let Upgrade::Trying(waiting) = &mut self.upgrade else { return };
        match outcome {
            Err(text) => self.refuse_upgrade(&UpgradeError::Refused(text)),
            Ok(image) => {
                waiting.drain(..).for_each(|answer| _ = answer.send(Ok(())));
                // The function has as long as the workers have when they are asked to go.
                let deadline = Instant::now() + self.settings.grace.max(LAST_WORDS);
                self.upgrade = Upgrade::Telling { image, deadline };
                self.leave.want();
                self.unsent.push(Notice::Upgrading);
            }
        }
    }

    pub(super) fn refuse_upgrade(&mut self, why: &UpgradeError) {
        match std::mem::take(&mut self.upgrade) {
            Upgrade::No => {}
            Upgrade::Wanted(waiting) | Upgrade::Trying(waiting) => {
                for answer in waiting {
                    _ = answer.send(Err(why.clone()));
                }
                self.tell_abandoned(&why.to_string());
            }
            Upgrade::Telling { .. } => {
                self.leave.call_off();
                // What the function has left is taken on for nobody.
                self.unsent.push(Notice::GoOn);
                self.tell_abandoned(&why.to_string());
            }
        }
    }

    pub(super) fn tell_abandoned(&mut self, why: &str) {
        let rest = if self.stop == Stop::No { "; all goes on as before" } else { "" };
        self.reporter.cluster(Level::ERROR, format_args!("upgrade abandoned: {why}{rest}"));
    }

    /// When something has to be decided about the upgrade.
    pub(super) fn upgrade_deadline(&self) -> Option<Instant> {
        match self.upgrade {
            Upgrade::Telling { deadline, .. } => Some(deadline),
            Upgrade::No | Upgrade::Wanted(_) | Upgrade::Trying(_) => None,
        }
    }

    /// Whether it is time for the third step: the function has returned, and nobody takes events any more.
    pub(super) fn is_to_leave(&mut self) -> bool {
        let Upgrade::Telling { deadline, .. } = self.upgrade else { return false };
        if matches!(self.function, Function::Ended { .. }) && self.leave.is_done() {
            return true;
        }
        if deadline <= Instant::now() {
            let text = if self.leave.withdraw() {
                "the primary function does not take its events"
            } else {
                "the primary function has not returned within the grace period"
            };
            self.refuse_upgrade(&UpgradeError::Refused(text.into()));
        }
        false
    }
}

/// The third step, and the fourth.
impl Shell {
    /// Becomes the next program; returns only if that did not come about.
    pub(super) async fn leave(
        &mut self,
        signals: &mut Signals,
        stop: &Notify,
        inbox: &mut mpsc::Receiver<Happening>,
    ) -> Option<Outcome> {
        let Upgrade::Telling { image, .. } = std::mem::take(&mut self.upgrade) else { return None };
        // From here on signals wait for the next program, but for those that have come already.
        _ = SigSet::all().thread_block();
        let mut children = BTreeMap::new();
        let left = match self.put_down(signals, stop, inbox, &mut children).await {
            Ok(left) => left,
            Err((why, outcome)) => {
                _ = Signals::release();
                self.leave.call_off();
                self.take_up(children);
                self.unsent.push(Notice::GoOn);
                if self.stop == Stop::No {
                    let text = format_args!(
                        "upgrade abandoned: {why}; all goes on, but for the primary function, which has ended"
                    );
                    self.reporter.cluster(Level::ERROR, text);
                }
                return outcome;
            }
        };
        self.workplace.finish_output(LAST_WORDS);
        self.reporter.flush(LAST_WORDS);
        let error = self.become_next(&image, left);
        say(format_args!("the primary can become neither the new program nor the old one: {error}; the cluster stops"));
        _ = Signals::release();
        self.take_up(children);
        self.step(supervisor::Event::Stop(supervisor::StopCause::PrimaryFailed))
    }

    /// Puts everything down that is in this process's hands.
    async fn put_down(
        &mut self,
        signals: &mut Signals,
        stop: &Notify,
        inbox: &mut mpsc::Receiver<Happening>,
        children: &mut BTreeMap<WorkerId, Child>,
    ) -> Result<LeftBehind, (String, Option<Outcome>)> {
        let deadline = Instant::now() + TO_LEAVE;
        let late = |what: &str| (format!("{what} within {TO_LEAVE:?}"), None);
        self.hear_signals(signals).await?;
        if timeout(Duration::ZERO, stop.notified()).await.is_ok() {
            let outcome = self.step(supervisor::Event::Stop(supervisor::StopCause::Asked));
            self.check_goes_on(outcome)?;
        }
        // Also those that are spawned meanwhile, because one has ended.
        while children.len() < self.fleet.len() {
            self.fleet.values_mut().filter_map(|member| member.pause.take()).for_each(|pause| _ = pause.send(()));
            self.service.tend_watchdog();
            let next = timeout_at(deadline.into(), inbox.recv()).await;
            match next.map_err(|_| late("workers were not heard out"))? {
                Some(Happening::Paused(worker, child)) => _ = children.insert(worker, child),
                Some(happening) => {
                    let outcome = self.happened(happening).and_then(|event| self.step(event));
                    self.check_goes_on(outcome)?;
                }
                None => break,
            }
        }
        while let Ok(happening) = inbox.try_recv() {
            let outcome = self.happened(happening).and_then(|event| self.step(event));
            self.check_goes_on(outcome)?;
        }
        self.ports.quiesce(deadline).await.map_err(|error| (error.to_string(), None))?;
        self.publish();
        let (answer, answered) = oneshot::channel();
        _ = self.notices.send(Notice::Suspend(answer));
        let left = timeout_at(deadline.into(), answered).await.map_err(|_| late("messages were not put down"))?;
        let left = match left {
            Ok(Ok(left)) => left,
            Ok(Err(error)) => return Err((error.to_string(), None)),
            Err(_) => return Err(("messages can no longer be put down".into(), None)),
        };
        // What the user's thread may have taken before it blocked them, too. What comes now is for the next program.
        while let Ok(request) = timeout(LAST_SIGNALS, signals.next()).await {
            self.late.push(request);
        }
        if let Upgrade::Wanted(_) = self.upgrade {
            self.late.push(Request::Upgrade);
        }
        Ok(left)
    }

    async fn hear_signals(&mut self, signals: &mut Signals) -> Result<(), (String, Option<Outcome>)> {
        while let Ok(request) = timeout(LAST_SIGNALS, signals.next()).await {
            let outcome = self.requested(request).and_then(|event| self.step(event));
            self.check_goes_on(outcome)?;
        }
        Ok(())
    }

    fn check_goes_on(&self, outcome: Option<Outcome>) -> Result<(), (String, Option<Outcome>)> {
        if outcome.is_none() && self.stop == Stop::No { Ok(()) } else { Err(("the cluster stops".into(), outcome)) }
    }

    /// Follows the workers again.
    fn take_up(&mut self, children: BTreeMap<WorkerId, Child>) {
        for (worker, child) in children {
            if let Some(member) = self.fleet.get_mut(&worker) {
                member.pause = Some(follow(worker, child, &member.control, &self.inbox));
            }
        }
        self.ports.look();
    }

    fn become_next(&self, image: &Image, left: LeftBehind) -> io::Error {
        let LeftBehind { mut lanes, departed, carried } = left;
        // Their sockets have to stay open.
        let mut sockets = Vec::new();
        let mut lane_of = |worker: WorkerId, member: &Member| {
            let (suspended, socket) = match lanes.remove(&worker) {
                Some((suspended, socket)) => (Some(suspended), socket),
                None => (None, None),
            };
            let number = socket.as_ref().map(OwnedFd::as_raw_fd);
            sockets.extend(socket);
            match (&member.lane, suspended) {
                (MemberLane::Kept(fd), suspended) => LaneState::Kept(fd.as_raw_fd(), suspended),
                (MemberLane::HandedOver, Some(suspended)) => LaneState::Suspended(number, suspended),
                (MemberLane::HandedOver, None) => LaneState::Untouched,
            }
        };
        let members = self.fleet.iter().map(|(worker, member)| member.describe(lane_of(*worker, member))).collect();
        let become_it = || -> io::Result<io::Error> {
            let legacy = self.describe(self.ports.hand_down()?, members, departed, carried);
            let state = legacy.write()?;
            let error = become_program(image.as_fd(), &state, &legacy.descriptors(), None);
            let reason = format!("it cannot be executed: {error}");
            Ok(become_program(self.image.as_fd(), &state, &legacy.descriptors(), Some(&reason)))
        };
        become_it().unwrap_or_else(|error| error)
    }

    fn untouched(&self) -> Vec<MemberState> {
        self.fleet.values().map(|member| member.describe(LaneState::Untouched)).collect()
    }

    fn describe(
        &self,
        (ports, fds): (PortsState, Vec<BorrowedFd<'_>>),
        members: Vec<MemberState>,
        departed: Vec<(WorkerId, Suspended, Exit)>,
        carried: Option<bytes::Bytes>,
    ) -> Legacy {
        let port_fds = fds.iter().map(|fd| fd.as_raw_fd()).collect();
        let images = self.images.iter().map(|(generation, image)| (*generation, image.as_fd().as_raw_fd())).collect();
        Legacy::new(
            self.schemas.clone(),
            self.program.path().into(),
            self.settings.workers,
            self.supervisor.memory().clone(),
            self.stalled,
            (ports, port_fds),
            members,
            departed,
            images,
            carried,
            self.late.clone(),
            self.tickets.clone(),
            self.image.as_fd().as_raw_fd(),
        )
    }
}

/// Signals that came before this process began to leave are heard within this time.
const LAST_SIGNALS: Duration = Duration::from_millis(2);

impl Member {
    fn describe(&self, lane: LaneState) -> MemberState {
        let Identity { worker, slot, generation } = self.identity;
        MemberState {
            worker,
            slot,
            generation,
            pid: self.pid.as_raw(),
            control: self.control.as_fd().as_raw_fd(),
            lane,
            max_message: self.max_message,
            output: self.output.as_ref().map(|pipes| pipes.each_ref().map(OwnedFd::as_raw_fd)),
            log: self.log.as_ref().map(LogFile::to_bytes),
            ports: self.ports.clone(),
            peers: self.peers.clone(),
            drains_last: self.drains_last,
        }
    }
}

/// Follows a worker; what is returned pauses that.
pub(super) fn follow(
    worker: WorkerId,
    child: Child,
    control: &Arc<Control>,
    inbox: &mpsc::Sender<Happening>,
) -> oneshot::Sender<()> {
    let (pause, paused) = oneshot::channel();
    tokio::spawn(watch(worker, child, Arc::clone(control), inbox.clone(), paused));
    pause
}

/// The next program holds everything twice while it takes it over.
fn check_room(descriptors: usize) -> io::Result<()> {
    let (limit, used) = (descriptor_limit(), std::fs::read_dir("/proc/self/fd")?.count());
    let needed = used + descriptors + DESCRIPTORS_TO_SPARE;
    if needed <= limit {
        return Ok(());
    }
    let text = format!(
        "it takes {needed} descriptors for a moment, and the limit is {limit}; raise it (ulimit -n, LimitNOFILE=)"
    );
    Err(io::Error::other(text))
}

/// A program that is being tried.
struct Trial {
    child: Child,
    verdict: File,
    is_reaped: bool,
}

/// Call it on the main thread, inside the runtime.
fn start_trial(image: &Image, state: &OwnedFd) -> io::Result<Trial> {
    let (verdict, theirs) = pipe2(OFlag::O_CLOEXEC)?;
    let mut command = image.command();
    // A group of its own, so that whatever it starts can be ended with it.
    command.process_group(0).stdin(Stdio::null());
    boot::mark_trial(&mut command, state, &theirs);
    let pid = Pid::from_raw(command.spawn()?.id().cast_signed());
    Ok(Trial { child: Child::of(pid)?, verdict: verdict.into(), is_reaped: false })
}

impl Trial {
    async fn outcome(mut self) -> Result<String, String> {
        let has_ended = timeout(TRIAL, self.child.ended()).await.is_ok();
        self.end();
        self.child.ended().await;
        self.is_reaped = true;
        let status = self.child.reap();
        let mut text = String::new();
        // It is small and has been written, or never will be.
        _ = (&self.verdict).take(64 * 1024).read_to_string(&mut text);
        match (has_ended, text.strip_prefix("ok: ")) {
            (true, Some(answer)) if status.is_success() => Ok(answer.to_owned()),
            (false, _) => Err(format!("the new program did not say within {TRIAL:?} whether it can go on")),
            (true, _) if text.is_empty() => Err(format!("the new program ended without an answer ({status})")),
            (true, _) => Err(format!("the new program cannot go on: {text}")),
        }
    }

    /// Whoever it has left behind, and the program itself if it hangs.
    fn end(&self) {
        // Until it is reaped, the number of its group is nobody else's.
        if !self.is_reaped {
            _ = killpg(self.child.pid(), Signal::SIGKILL);
        }
    }
}

/// A primary that ends meanwhile leaves nobody behind.
impl Drop for Trial {
    fn drop(&mut self) {
        self.end();
    }
}

/// What the next program has of the one before.
pub(super) struct Adopted {
    pub(super) supervisor: Supervisor,
    pub(super) stalled: Duration,
    pub(super) fleet: BTreeMap<WorkerId, Member>,
    pub(super) images: BTreeMap<u64, Image>,
    pub(super) program: PathBuf,
    pub(super) carried: Option<bytes::Bytes>,
    pub(super) tickets: Tickets,
    /// What the primary function is to hear.
    pub(super) notices: Vec<Notice>,
    pub(super) continued: Continued,
}

/// Takes everything over but the ports. Descriptors are duplicated, so that all can be given back.
pub(super) fn adopt(
    succession: &Succession,
    legacy: Legacy,
    settings: supervisor::Settings,
    addresses: impl Fn(crate::listen::PortId) -> Option<Address>,
) -> io::Result<Adopted> {
    let stalled = legacy.stalled();
    let Legacy { memory, members, departed, images, carried, program, configured, late, tickets, .. } = legacy;
    let supervisor = Supervisor::adopt(settings, memory);
    let states: BTreeMap<_, _> = supervisor.status().map(|status| (status.worker, status.state)).collect();
    let reason = match &succession.reason {
        Some(reason) => Some(String::from_utf8_lossy(&os::read_state(reason)?).into_owned()),
        None => None,
    };
    let mut adopted = Adopted {
        supervisor,
        stalled,
        fleet: BTreeMap::new(),
        images: BTreeMap::new(),
        program: OsString::from_vec(program).into(),
        carried,
        tickets,
        notices: Vec::new(),
        continued: Continued { children: BTreeMap::new(), configured, late, reason },
    };
    for (generation, number) in images {
        adopted.images.insert(generation, Image::of(os::duplicate(number)?));
    }
    for (worker, suspended, exit) in departed {
        adopted.notices.push(Notice::Departed(worker, suspended.take_over()?, exit));
    }
    for member in members {
        adopted.add(member, &states, &addresses)?;
    }
    Ok(adopted)
}

impl Adopted {
    fn add(
        &mut self,
        member: MemberState,
        states: &BTreeMap<WorkerId, State>,
        addresses: impl Fn(crate::listen::PortId) -> Option<Address>,
    ) -> io::Result<()> {
        let MemberState { worker, slot, generation, pid, control, .. } = member;
        let MemberState { lane, max_message, output, log, ports, peers, drains_last, .. } = member;
        let lane = match lane {
            LaneState::Kept(number, suspended) => {
                let suspended = suspended.map(Suspended::take_over).transpose()?;
                self.notices.push(suspended.map_or(Notice::Forked(worker), |it| Notice::Continued(worker, it)));
                MemberLane::Kept(os::duplicate(number)?)
            }
            LaneState::Suspended(number, suspended) => {
                self.notices.push(Notice::Continued(worker, suspended.take_over()?));
                self.notices.push(Notice::OnlineAgain(worker, number.map(os::duplicate).transpose()?));
                MemberLane::HandedOver
            }
            // It had none that could be put down: it broke in an upgrade before.
            LaneState::Untouched => {
                self.notices.extend([Notice::Forked(worker), Notice::OnlineAgain(worker, None)]);
                MemberLane::HandedOver
            }
        };
        let listening = ports.iter().filter_map(|port| addresses(*port));
        self.notices.extend(listening.map(|address| Notice::Listening(worker, address)));
        if states.get(&worker) == Some(&State::Ready) {
            self.notices.push(Notice::Ready(worker));
        }
        let output = match output {
            Some([out, err]) => Some([os::duplicate(out)?, os::duplicate(err)?]),
            None => None,
        };
        let control = Arc::new(Control::new(os::duplicate(control)?)?);
        let pid = Pid::from_raw(pid);
        self.continued.children.insert(worker, Child::of(pid)?);
        let identity = Identity { worker, slot, generation };
        let log = log.map(LogFile::from_bytes);
        let (has_done_damage, pause) = (false, None);
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
        self.fleet.insert(worker, member);
        Ok(())
    }
}

/// What is still to be done once a cluster has been taken over.
pub(super) struct Continued {
    children: BTreeMap<WorkerId, Child>,
    /// How many workers the program before was set to.
    configured: usize,
    late: Vec<Request>,
    /// Why the program after this one did not go on, if this is the one that was.
    reason: Option<String>,
}

impl Shell {
    /// The fifth step, in the next program.
    pub(super) fn go_on(&mut self, continued: Continued) {
        let Continued { children, configured, late, reason } = continued;
        self.service.main_pid();
        self.examine_everything();
        self.publish();
        self.take_up(children);
        self.late = late;
        // One after the other, before anything else is done.
        let mut wanted = Vec::new();
        match reason {
            Some(reason) => self.tell_abandoned(&reason),
            None => {
                self.reporter.cluster(Level::INFO, "upgraded");
                if self.settings.workers != configured {
                    wanted.push(supervisor::Event::Scale(self.settings.workers));
                }
                wanted.push(supervisor::Event::Reload);
            }
        }
        for event in wanted {
            _ = self.step(event);
        }
    }
}

/// Closes what has been duplicated.
pub(super) fn close_originals(descriptors: &[RawFd]) {
    let mut numbers = descriptors.to_vec();
    numbers.sort_unstable();
    numbers.dedup();
    for number in numbers {
        drop(os::adopt_inherited(number));
    }
}
