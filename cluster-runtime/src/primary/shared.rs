//! What the handles of the user's primary function, the router and the intake of events share.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{Notify, mpsc};

use super::Happening;
use super::event::Event;
use super::function::Common;
use super::intake::Intake;
use super::roster::Roster;
use crate::ipc::{Lane, Limits, Message, Suspended};
use crate::{Exit, WorkerId};

/// What the handles and the router share.
pub(super) struct Shared<Up, Down> {
    /// From spawn to exit.
    pub(super) lanes: Mutex<BTreeMap<WorkerId, Lane<Down, Up>>>,
    pub(super) news: Mutex<VecDeque<News<Up, Down>>>,
    /// Whether there is any: written under the lock, read without.
    pub(super) has_news: AtomicBool,
    pub(super) arrivals: Arc<Notify>,
    pub(super) roster: Arc<Roster>,
    /// Tells the shell to stop the cluster.
    pub(super) stop: Arc<Notify>,
    pub(super) shell: mpsc::Sender<Happening>,
    pub(super) leave: Arc<Leave>,
    /// What the program before has carried over, and what this one will.
    pub(super) carried: Mutex<Carried>,
    pub(super) limits: Limits,
    /// Where the events were taken, once the function has left that to the next program.
    pub(super) intake: Mutex<Option<Box<Intake<Up, Down>>>>,
}

#[derive(Debug, Default)]
pub(super) struct Carried {
    pub(super) from_before: Option<Bytes>,
    /// Nothing new means that the old goes on.
    pub(super) to_come: Option<Bytes>,
}

/// Whether the function is to make room for the next program.
#[derive(Debug, Default)]
pub(super) struct Leave {
    state: AtomicU8,
    /// Nobody takes events any more.
    is_done: AtomicBool,
}

impl Leave {
    const NO: u8 = 0;
    const WANTED: u8 = 1;
    /// The function knows it, and gets no more events.
    const TOLD: u8 = 2;
}

impl Leave {
    pub(super) fn want(&self) {
        self.state.store(Self::WANTED, Ordering::SeqCst);
    }

    /// Takes it back, unless the function knows it already.
    pub(super) fn withdraw(&self) -> bool {
        self.change(Self::WANTED, Self::NO)
    }

    /// It is not wanted any more, whatever the function knows: events go on for whoever still asks.
    pub(super) fn call_off(&self) {
        self.state.store(Self::NO, Ordering::SeqCst);
    }

    /// Whether nobody takes events any more.
    pub(super) fn is_done(&self) -> bool {
        self.is_done.load(Ordering::SeqCst)
    }

    pub(super) fn is_wanted(&self) -> bool {
        self.state.load(Ordering::SeqCst) != Self::NO
    }

    #[inline]
    pub(super) fn is_told(&self) -> bool {
        self.state.load(Ordering::SeqCst) == Self::TOLD
    }

    /// The function is about to know; `false` if it need not.
    pub(super) fn tell(&self) -> bool {
        self.change(Self::WANTED, Self::TOLD)
    }

    fn change(&self, from: u8, to: u8) -> bool {
        self.state.compare_exchange(from, to, Ordering::SeqCst, Ordering::SeqCst).is_ok()
    }
}

/// What the router passes on to whoever takes the events.
pub(super) enum News<Up, Down> {
    Event(Event<Up>),
    /// The worker is online, and messages may come on this lane.
    Online(WorkerId, Lane<Down, Up>),
    Exited(WorkerId, Exit),
    /// The primary is about to become another program; nothing follows here.
    Upgrading,
    /// The cluster has ended; nothing follows.
    Ended,
}

impl<Up: Message, Down: Message> Shared<Up, Down> {
    pub(super) fn new(common: Common) -> Self {
        let Common { roster, stop, shell, leave, carried, limits } = common;
        Self {
            lanes: Mutex::default(),
            news: Mutex::default(),
            has_news: AtomicBool::new(false),
            arrivals: Arc::default(),
            roster,
            stop,
            shell,
            leave,
            carried: Mutex::new(Carried { from_before: carried, to_come: None }),
            limits,
            intake: Mutex::new(None),
        }
    }

    /// Makes the lane of a worker that lives since before the upgrade.
    pub(super) fn continue_lane(&self, worker: WorkerId, suspended: Suspended) {
        if let Some(lane) = self.resume(suspended) {
            self.lanes().insert(worker, lane);
        }
    }

    /// A lane that goes on.
    pub(super) fn resume(&self, suspended: Suspended) -> Option<Lane<Down, Up>> {
        let resumed = Lane::resume(suspended, self.limits.expansion, Arc::clone(&self.arrivals));
        resumed.inspect_err(|error| tracing::error!(error, "messages were lost in the upgrade")).ok()
    }

    pub(super) fn take_lanes(&self) -> BTreeMap<WorkerId, Lane<Down, Up>> {
        std::mem::take(&mut self.lanes())
    }

    pub(super) fn put_lane_back(&self, worker: WorkerId, lane: Lane<Down, Up>) {
        self.lanes().insert(worker, lane);
    }

    pub(super) fn take_carried(&self) -> Option<Bytes> {
        let mut carried = lock(&self.carried);
        carried.to_come.take().or(carried.from_before.take())
    }

    pub(super) fn leave_intake(&self, mut intake: Box<Intake<Up, Down>>) {
        intake.put_back();
        *lock(&self.intake) = Some(intake);
        self.leave.is_done.store(true, Ordering::SeqCst);
        // One that is full wakes the shell as well.
        _ = self.shell.try_send(Happening::IntakeLeft);
    }

    /// Takes events for nobody: the function has left them, and no next program comes.
    pub(super) fn drain_intake(&self) {
        if let Some(intake) = lock(&self.intake).take() {
            self.leave.is_done.store(false, Ordering::SeqCst);
            tokio::spawn(intake.drain());
        }
    }

    /// Workers that are gone and of which something has not been told yet.
    pub(super) fn departed(&self) -> Vec<(WorkerId, Lane<Down, Up>, Exit)> {
        let known = lock(&self.intake).take().map_or_else(Vec::new, |intake| intake.inlets);
        let mut lanes: BTreeMap<_, _> = known.into_iter().map(|it| (it.worker, (it.lane, it.exit))).collect();
        for news in std::mem::take(&mut *lock(&self.news)) {
            match news {
                News::Online(worker, lane) => _ = lanes.insert(worker, (lane, None)),
                News::Exited(worker, exit) => {
                    if let Some((_, known)) = lanes.get_mut(&worker) {
                        *known = Some(exit);
                    }
                }
                News::Event(_) | News::Upgrading | News::Ended => {}
            }
        }
        let living = self.lanes();
        let gone = lanes.into_iter().filter(|(worker, _)| !living.contains_key(worker));
        gone.filter_map(|(worker, (lane, exit))| Some((worker, lane, exit?))).collect()
    }

    /// Makes the lane of a worker that has just been spawned; what is sent on it waits.
    pub(super) fn open_lane(&self, worker: WorkerId) {
        let lane = Lane::new(self.limits, Arc::clone(&self.arrivals));
        self.lanes().insert(worker, lane);
    }

    pub(super) fn lane_of(&self, worker: WorkerId) -> Option<Lane<Down, Up>> {
        self.lanes().get(&worker).cloned()
    }

    pub(super) fn remove_lane(&self, worker: WorkerId) -> Option<Lane<Down, Up>> {
        self.lanes().remove(&worker)
    }

    /// Unbounded, but small: five small items for each worker that starts, and starts are held back by the backoff. A primary
    /// function that never asks, in a cluster that never stops crashing, leaves about a megabyte a day and slot here.
    pub(super) fn tell(&self, news: News<Up, Down>) {
        let mut waiting = lock(&self.news);
        waiting.push_back(news);
        self.has_news.store(true, Ordering::Release);
        drop(waiting);
        self.arrivals.notify_waiters();
    }

    #[inline]
    pub(super) fn has_news(&self) -> bool {
        self.has_news.load(Ordering::Acquire)
    }

    pub(super) fn next_news(&self) -> Option<News<Up, Down>> {
        if !self.has_news() {
            return None;
        }
        let mut waiting = lock(&self.news);
        let news = waiting.pop_front();
        self.has_news.store(!waiting.is_empty(), Ordering::Release);
        news
    }

    /// As the next thing to be told.
    pub(super) fn tell_next(&self, news: News<Up, Down>) {
        let mut waiting = lock(&self.news);
        waiting.push_front(news);
        self.has_news.store(true, Ordering::Release);
    }

    pub(super) fn shell(&self) -> &mpsc::Sender<Happening> {
        &self.shell
    }

    pub(super) fn lanes(&self) -> MutexGuard<'_, BTreeMap<WorkerId, Lane<Down, Up>>> {
        lock(&self.lanes)
    }
}

/// Nothing that runs under these locks can leave them half done.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
