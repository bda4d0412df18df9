//! Takes a lane apart and puts it together again, maybe in another program, without losing or doubling a byte.
//!
//! What is with the kernel stays there: the socket goes on. What is in this process goes into [`Suspended`]: output that the
//! kernel has not taken, beginning in the middle of a frame perhaps; messages that the user has not taken; the beginning of a
//! frame whose rest has not come; and what is spent of both windows.

use std::io;
use std::mem;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::fd::{Fds, Parcel};
use super::frame::{self, Violation, WINDOW};
use super::inbox::Inbox;
use super::outbox::{DriverState, Outbox, Stage};
use super::reply;
use super::shared::{Core, lock, wake};
use super::stream::Streams;
use super::{Expansion, LaneEnd, Limits};
use crate::os::{self, MOST_STATE};

/// A lane that was taken apart, as plain data.
///
/// It owns the descriptors that are in messages, or knows them by number where it was read: see [`take_over`](Self::take_over).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Suspended {
    /// The most bytes of payload in a message or an answer.
    pub(super) limit: usize,
    /// The messages that came and that nobody has taken, as they came.
    pub(super) incoming: Bytes,
    parcels: Vec<Kept>,
    /// What was read behind them.
    pub(super) begun: Bytes,
    begun_parcels: Vec<Kept>,
    /// What the messages have cost that the peer got no credit back for yet.
    pub(super) unreturned: usize,
    /// Output that the kernel has not accepted, and at which bytes of it there are descriptors.
    pub(super) outgoing: Bytes,
    outgoing_fds: Vec<(usize, Kept)>,
    /// How many bytes of that are answers, at most.
    pub(super) answers: usize,
    /// What the messages have cost for which the peer has given no credit yet.
    pub(super) spent: usize,
    /// The lowest tag that no question had yet. Lower ones may still be answered, though nobody waits for it any more.
    pub(super) next_call: u64,
    /// Streams that nobody wants any more, to be cancelled as soon as anything is heard of them.
    abandoned: Vec<u64>,
    pub(super) stage: Stage,
}

/// Descriptors that belong together. Written down they are numbers, under which they stay open in the program that follows.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Kept {
    numbers: Vec<RawFd>,
    is_cut: bool,
    /// Whoever has read the numbers has nothing here until they are [taken over](Suspended::take_over).
    #[serde(skip)]
    owned: Owned,
}

/// Does not count when two are compared.
#[derive(Clone, Debug, Default)]
struct Owned(Fds);

impl PartialEq for Owned {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Owned {}

impl Kept {
    fn of(fds: Fds, is_cut: bool) -> Self {
        Self { numbers: fds.iter().map(|fd| fd.as_raw_fd()).collect(), is_cut, owned: Owned(fds) }
    }

    fn of_parcel(parcel: Parcel) -> Self {
        let (fds, is_cut) = parcel.into_fds();
        Self::of(fds.into_iter().map(Arc::new).collect(), is_cut)
    }

    fn take_over(&mut self) -> io::Result<()> {
        let duplicate = |number: &RawFd| os::duplicate(*number).map(Arc::new);
        self.owned = Owned(self.numbers.iter().map(duplicate).collect::<io::Result<_>>()?);
        Ok(())
    }

    fn into_parcel(self) -> Result<Parcel, Violation> {
        let own = |fd| Arc::try_unwrap(fd).or_else(|fd: Arc<OwnedFd>| fd.try_clone());
        let fds: io::Result<_> = self.owned.0.into_iter().map(own).collect();
        Ok(Parcel::new(fds.map_err(|error| format!("its descriptors cannot be kept: {error}"))?, self.is_cut))
    }
}

impl Suspended {
    /// The descriptors in its messages, which the next program finds under these numbers.
    pub(crate) fn descriptors(&self) -> impl Iterator<Item = RawFd> {
        let incoming = self.parcels.iter().chain(&self.begun_parcels);
        incoming.chain(self.outgoing_fds.iter().map(|(_, kept)| kept)).flat_map(|kept| kept.numbers.iter().copied())
    }

    /// Duplicates the descriptors that it has by number only, as it was read.
    pub(crate) fn take_over(mut self) -> io::Result<Self> {
        let incoming = self.parcels.iter_mut().chain(&mut self.begun_parcels);
        let mut all = incoming.chain(self.outgoing_fds.iter_mut().map(|(_, kept)| kept));
        all.try_for_each(Kept::take_over)?;
        Ok(self)
    }
}

/// What a driver has that stops, and what the one begins with that follows it.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// The beginning of a frame, and the descriptors that have come with it.
    pub(super) begun: Bytes,
    pub(super) parcels: Vec<Parcel>,
    /// What the messages have cost that the peer got no credit back for yet.
    pub(super) unreturned: usize,
}

/// Whether the driver is to stop, and how far it has come with that.
#[derive(Default)]
pub(super) enum Suspension {
    #[default]
    No,
    Asked,
    /// The driver is at it, and cannot be called off any more.
    Stopping,
    /// The parts wait to be fetched.
    Done(Box<(Suspended, UnixStream)>),
}

impl Suspension {
    pub(super) const fn is_asked(&self) -> bool {
        matches!(self, Self::Asked)
    }

    /// Whether the driver has to stop now.
    pub(super) fn begin(&mut self) -> bool {
        let is_asked = self.is_asked();
        if is_asked {
            *self = Self::Stopping;
        }
        is_asked
    }
}

/// What a driver had fetched and not written, and at which bytes of it there are descriptors.
type Unwritten = (Vec<u8>, Vec<(usize, Fds)>);

impl Core {
    /// Waits until the driver has stopped, and takes the parts.
    pub(super) async fn suspended(&self, within: Duration) -> Result<(Suspended, Option<UnixStream>), Elapsed> {
        let asking = Asking::of(self);
        match timeout(within, self.parts()).await {
            Ok(parts) => Ok(parts),
            Err(elapsed) if asking.call_off() => Err(elapsed),
            // It has stopped, or is between two lines of doing so.
            Err(_) => Ok(self.parts().await),
        }
    }

    /// The driver has stopped.
    pub(super) fn suspend(&self, carried: Carried, unwritten: Unwritten, socket: UnixStream) {
        let suspended = self.dismantle(lock(&self.outbox), carried, unwritten);
        lock(&self.outbox).suspension = Suspension::Done(Box::new((suspended, socket)));
        self.stopped.notify_waiters();
    }

    /// A lane that goes on.
    pub(super) fn resume(suspended: Suspended, expansion: Expansion, arrivals: Arc<Notify>) -> Result<Self, Violation> {
        let Suspended { limit, incoming, parcels, begun, begun_parcels, unreturned, .. } = suspended;
        let Suspended { outgoing, outgoing_fds, answers, spent, next_call, abandoned, stage, .. } = suspended;
        let open = |kept: Vec<Kept>| kept.into_iter().map(Kept::into_parcel).collect::<Result<Vec<_>, _>>();
        let (parcels, begun_parcels) = (open(parcels)?, open(begun_parcels)?);
        let outgoing_fds = outgoing_fds.into_iter().map(|(at, kept)| (at, kept.owned.0)).collect();
        let room =
            WINDOW.checked_sub(spent).ok_or_else(|| format!("{spent} bytes are spent; the window is {WINDOW}"))?;
        if limit > MOST_STATE {
            return Err(format!("messages of up to {limit} bytes; {MOST_STATE} is the most"));
        }
        let mut inbox = Inbox { ended: matches!(stage, Stage::Ended(_)), ..Inbox::default() };
        let waiting = inbox.queue.take_in(&incoming, parcels, limit)?;
        // One that has ended gives no credit, and does not know any more what it would have owed.
        if unreturned > WINDOW || waiting > unreturned && !inbox.ended {
            return Err(format!("messages for {waiting} of {unreturned} bytes wait; the window is {WINDOW}"));
        }
        reply::go_on_from(next_call);
        let mut core = Self::new(Limits { message: limit, expansion }, arrivals);
        if stage != Stage::Open {
            core.close_turns();
        }
        let mut outbox = Outbox::with(outgoing, outgoing_fds, answers)?;
        outbox.stage = stage;
        (outbox.due, outbox.room) = (spent, room);
        // Of what the user has taken, whoever was to return the credit for it.
        outbox.owed = unreturned.saturating_sub(waiting);
        outbox.carried = Carried { begun, parcels: begun_parcels, unreturned };
        core.congested = AtomicBool::new(outbox.is_congested());
        core.outbox = Mutex::new(outbox);
        core.streams = Streams::abandoned(abandoned);
        core.inbox = Mutex::new(inbox);
        Ok(core)
    }

    async fn parts(&self) -> (Suspended, Option<UnixStream>) {
        loop {
            let progress = self.stopped.notified();
            if let Some(parts) = self.try_parts() {
                return parts;
            }
            progress.await;
        }
    }

    fn try_parts(&self) -> Option<(Suspended, Option<UnixStream>)> {
        let mut outbox = lock(&self.outbox);
        match mem::take(&mut outbox.suspension) {
            Suspension::Done(parts) => {
                let (suspended, socket) = *parts;
                return Some((suspended, Some(socket)));
            }
            Suspension::Stopping => {
                outbox.suspension = Suspension::Stopping;
                return None;
            }
            undriven @ (Suspension::No | Suspension::Asked) => outbox.suspension = undriven,
        }
        if matches!((&outbox.stage, &outbox.driver), (Stage::Ended(_), _) | (_, DriverState::Absent)) {
            outbox.suspension = Suspension::No;
            let carried = mem::take(&mut outbox.carried);
            return Some((self.dismantle(outbox, carried, Unwritten::default()), None));
        }
        None
    }

    /// Ends this end of the lane, and returns what there is for another to go on with.
    fn dismantle(&self, mut outbox: MutexGuard<'_, Outbox>, carried: Carried, unwritten: Unwritten) -> Suspended {
        let stage = mem::replace(&mut outbox.stage, Stage::Ended(LaneEnd::Suspended));
        let (mut answers, spent) = (outbox.unread_answers(), outbox.spent());
        let mut requests: Vec<_> = outbox.unanswered.drain().collect();
        let (mut outgoing, mut fds) = unwritten;
        outbox.forget(&mut outgoing, &mut fds);
        self.congested.store(false, Ordering::Release);
        let waker = outbox.driver.wake_for_order();
        drop(outbox);
        // In the order in which they were asked.
        requests.sort_unstable();
        for word in requests.into_iter().map(frame::unanswered) {
            answers += word.len();
            outgoing.extend_from_slice(&word);
        }
        let streams = self.leave_streams();
        outgoing.extend(streams.heard.into_iter().flat_map(frame::cancel));
        let incoming = {
            let mut inbox = lock(&self.inbox);
            inbox.ended = true;
            mem::take(&mut inbox.queue)
        };
        self.tell_ended(waker);
        let next_call = reply::next_tag();
        let (incoming, parcels) = incoming.into_stream();
        let kept = |parcels: Vec<Parcel>| parcels.into_iter().map(Kept::of_parcel).collect();
        Suspended {
            limit: self.limits.message,
            incoming,
            parcels: kept(parcels),
            begun: carried.begun,
            begun_parcels: kept(carried.parcels),
            unreturned: carried.unreturned,
            outgoing: outgoing.into(),
            outgoing_fds: fds.into_iter().map(|(at, fds)| (at, Kept::of(fds, false))).collect(),
            answers,
            spent,
            next_call,
            abandoned: streams.unheard,
            stage,
        }
    }
}

/// A request to the driver to stop, until it is dropped.
struct Asking<'a>(&'a Core);

impl<'a> Asking<'a> {
    fn of(core: &'a Core) -> Self {
        let mut outbox = lock(&core.outbox);
        if matches!(outbox.suspension, Suspension::No) {
            outbox.suspension = Suspension::Asked;
        }
        let waker = outbox.driver.wake_for_order();
        drop(outbox);
        wake(waker);
        Self(core)
    }

    /// Whether the driver goes on.
    fn call_off(&self) -> bool {
        let mut outbox = lock(&self.0.outbox);
        let goes_on = matches!(outbox.suspension, Suspension::No | Suspension::Asked);
        if goes_on {
            outbox.suspension = Suspension::No;
        }
        goes_on
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.call_off();
    }
}
