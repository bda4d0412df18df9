//! PURE: which slot serves a connection.
//!
//! One function for every policy: the client and the loads in, a slot out. It runs in the worker that has accepted the
//! connection, or in the primary where that accepts; whoever it names gets the connection handed over.

use std::collections::BTreeSet;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Address;
use super::steer;

/// How new connections are spread over the workers.
///
/// Set by `dispatch = …` in the attribute, by [`Config::dispatch`](crate::Config::dispatch), or at run time by
/// `CLUSTER_DISPATCH`.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub enum Dispatch {
    /// The worker that accepts a connection keeps it unless it has clearly more than the least loaded one, which gets it
    /// otherwise. Busy workers are spared.
    #[default]
    Balanced,
    /// As the kernel's hash of the two addresses has it: nothing is handed over, except from a slot without a worker. Where there is
    /// one socket for all (Unix and inherited ones), by load.
    Kernel,
    /// In turn. The primary accepts every connection and hands it over; busy workers are passed over.
    RoundRobin,
    /// A client stays with its slot.
    Sticky(Sticky),
    /// As you say.
    Custom(Arc<dyn Placement>),
}

/// What tells that two connections are the same client's.
///
/// ```no_run
/// use cluster::Sticky;
///
/// #[cluster::main(dispatch = Sticky::cookie("session"))]
/// async fn main() -> cluster::Result {
///     cluster::serve("127.0.0.1:3000", axum::Router::new()).await
/// }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sticky {
    pub(crate) key: StickyKey,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum StickyKey {
    Address,
    Head(super::head::Key),
}

/// A policy of your own: decides which slot serves a connection.
///
/// ```
/// use cluster::{Address, Loads, Placement};
///
/// /// Clients on this machine get slot 0, if it can take them.
/// #[derive(Debug)]
/// struct LocalFirst;
///
/// impl Placement for LocalFirst {
///     fn place(&self, client: &Address, loads: &Loads<'_>) -> Option<usize> {
///         let is_local = client.socket().is_some_and(|address| address.ip().is_loopback());
///         if is_local { Some(0) } else { loads.least_loaded() }
///     }
/// }
/// ```
///
/// It is called for every connection, in whichever process accepted it (in the primary on the thread that supervises), maybe on
/// several threads at once: it should be quick and must not block.
pub trait Placement: fmt::Debug + Send + Sync + 'static {
    /// The slot for a connection of `client`: one that is busy or comes soon lets it wait. `None`, or a vacant one, means the least
    /// loaded one; so does a panic, unless the program is built to abort then.
    fn place(&self, client: &Address, loads: &Loads<'_>) -> Option<usize>;
}

/// How the slots are doing, as far as is known at this moment.
#[derive(Clone, Copy, Debug)]
pub struct Loads<'a> {
    here: Option<usize>,
    slots: &'a [Load],
}

/// How one slot is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Load {
    /// The slot.
    pub slot: usize,
    /// Whether it takes connections.
    pub state: Readiness,
    /// Connections that its worker has, those on their way to it among them.
    pub open: u32,
    /// Connections that its worker has taken so far.
    pub accepted: u64,
}

/// Whether a slot takes connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Readiness {
    /// Its worker takes them.
    Ready,
    /// Its worker has been at one thing for some milliseconds: who is sent there, waits.
    Busy,
    /// It has no worker that takes them, but one comes soon, or has its fill: who is sent there, waits.
    Coming,
    /// Nobody is there, or its worker listens on other ports only.
    Vacant,
}

impl Dispatch {
    /// The function behind the policy.
    pub(crate) fn placement(&self) -> Arc<dyn Placement> {
        match self {
            Self::Balanced => Arc::new(Balanced),
            Self::Kernel => Arc::new(Here),
            Self::RoundRobin => Arc::new(RoundRobin::default()),
            Self::Sticky(_) => Arc::new(ByAddress),
            Self::Custom(placement) => Arc::clone(placement),
        }
    }

    /// The slots that get no new connections now and whose queues others serve, by what each slot is. Never all of them.
    pub(crate) fn excluded(&self, states: &[Readiness]) -> BTreeSet<usize> {
        let rank = |state: Readiness| match (self, state) {
            (_, Readiness::Ready) => 0,
            // The kernel does not care, or has chosen the slot that the client is to stay with.
            (Self::Kernel, Readiness::Busy) => 0,
            (_, Readiness::Busy | Readiness::Coming) if self.is_by_address() => 0,
            (_, Readiness::Busy) => 1,
            (_, Readiness::Coming) => 2,
            (_, Readiness::Vacant) => 3,
        };
        let best = states.iter().map(|state| rank(*state)).min().unwrap_or(0);
        (0..states.len()).filter(|slot| rank(states[*slot]) > best).collect()
    }

    /// Whether what was handed to a slot in this state, which is excluded, is for others: not where the policy may have chosen the
    /// slot although it is so, and would again.
    pub(crate) const fn may_redirect(&self, state: Readiness) -> bool {
        match (self, state) {
            (_, Readiness::Vacant) => true,
            (Self::Balanced | Self::Kernel | Self::RoundRobin, _) => true,
            (Self::Sticky(_) | Self::Custom(_), Readiness::Ready | Readiness::Busy | Readiness::Coming) => false,
        }
    }

    /// What is looked for in the first bytes of a connection before it is placed.
    pub(crate) const fn head_key(&self) -> Option<&super::head::Key> {
        match self {
            Self::Sticky(Sticky { key: StickyKey::Head(key) }) => Some(key),
            _ => None,
        }
    }

    /// Whether the kernel can choose the slot itself, by the client's address.
    pub(crate) const fn is_by_address(&self) -> bool {
        matches!(self, Self::Sticky(Sticky { key: StickyKey::Address }))
    }

    pub(crate) const fn is_in_primary(&self) -> bool {
        matches!(self, Self::RoundRobin)
    }
}

impl From<Sticky> for Dispatch {
    fn from(sticky: Sticky) -> Self {
        Self::Sticky(sticky)
    }
}

impl<P: Placement> From<P> for Dispatch {
    fn from(placement: P) -> Self {
        Self::Custom(Arc::new(placement))
    }
}

impl PartialEq for Dispatch {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Custom(one), Self::Custom(other)) => Arc::ptr_eq(one, other),
            (Self::Sticky(one), Self::Sticky(other)) => one == other,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }
}

impl Default for Sticky {
    fn default() -> Self {
        Self::address()
    }
}

impl Sticky {
    /// The client's IP address. The kernel itself does it, without a hand-over. Clients wait for the worker of their slot while it is
    /// busy, replaced, or has its [fill](crate::Port::max_connections); if there will be none, they go to others until there is.
    /// Clients of a Unix socket have no address and go where there is room.
    #[must_use]
    pub const fn address() -> Self {
        Self { key: StickyKey::Address }
    }

    /// A header of the first HTTP/1 request of a connection, such as `"x-session-id"`; the client's address where there is none.
    ///
    /// The request is looked at without being consumed: up to 16 KiB of it, for a second at most.
    #[must_use]
    pub fn header(name: &str) -> Self {
        Self { key: StickyKey::Head(super::head::Key::Header(name.to_owned())) }
    }

    /// A cookie in the first HTTP/1 request of a connection; the client's address where there is none. Like
    /// [`header`](Self::header) otherwise.
    ///
    /// So the connection on which a client is given its cookie may be with another slot than those on which it sends it.
    #[must_use]
    pub fn cookie(name: &str) -> Self {
        Self { key: StickyKey::Head(super::head::Key::Cookie(name.to_owned())) }
    }
}

impl<'a> Loads<'a> {
    pub(crate) const fn new(here: Option<usize>, slots: &'a [Load]) -> Self {
        Self { here, slots }
    }

    /// The slot whose worker has accepted the connection; `None` in the primary.
    #[must_use]
    pub const fn here(&self) -> Option<usize> {
        self.here
    }

    /// All slots, by number.
    #[must_use]
    pub const fn slots(&self) -> &'a [Load] {
        self.slots
    }

    /// The ready slot with the fewest connections; of several the one that accepted, else the one that has taken the fewest
    /// so far.
    #[must_use]
    pub fn least_loaded(&self) -> Option<usize> {
        let by_load = |load: &&Load| (load.open, Some(load.slot) != self.here, load.accepted);
        self.ready().min_by_key(by_load).map(|load| load.slot)
    }

    fn ready(&self) -> impl Iterator<Item = &'a Load> + use<'a> {
        self.slots.iter().filter(|load| load.state == Readiness::Ready)
    }

    fn of(&self, slot: usize) -> Option<&'a Load> {
        self.slots.get(slot)
    }

    /// The slot that `placement` chooses, if it can take the connection, else the least loaded one, else here, else a busy one.
    /// `None` when nobody can take it.
    pub(crate) fn place(&self, placement: &dyn Placement, client: &Address) -> Option<usize> {
        let takes = |slot: &usize| self.of(*slot).is_some_and(|load| load.state != Readiness::Vacant);
        // A user's code, in the primary too. What it may leave half done is its own.
        let chosen = catch_unwind(AssertUnwindSafe(|| placement.place(client, self))).unwrap_or(None);
        chosen.filter(takes).or_else(|| self.place_anywhere())
    }

    /// The slot for a client of which nothing is known yet.
    pub(crate) fn place_anywhere(&self) -> Option<usize> {
        self.least_loaded().or(self.here).or_else(|| self.least_busy())
    }

    /// Where to wait if nobody is ready and there is no "here". Should another one be ready sooner, it gets what waits there.
    fn least_busy(&self) -> Option<usize> {
        let busy = self.slots.iter().filter(|load| load.state == Readiness::Busy);
        busy.min_by_key(|load| (load.open, load.accepted)).map(|load| load.slot)
    }

    /// The slot for a client known by `name` (a session, say): the same as long as it has a worker.
    pub(crate) fn place_by_name(&self, name: &[u8]) -> Option<usize> {
        // Fixed keys: every process must come to the same number.
        let mut hasher = DefaultHasher::new();
        name.hash(&mut hasher);
        self.sticky(|slots, vacant| steer::hashed_index(hasher.finish() as u32, slots, vacant))
    }

    fn sticky(&self, choose: impl FnOnce(usize, &BTreeSet<usize>) -> usize) -> Option<usize> {
        let vacant: BTreeSet<usize> =
            self.slots.iter().filter(|load| load.state == Readiness::Vacant).map(|load| load.slot).collect();
        (vacant.len() < self.slots.len()).then(|| choose(self.slots.len(), &vacant))
    }
}

/// Keeps what came here unless another one has clearly less.
#[derive(Debug)]
struct Balanced;

impl Placement for Balanced {
    fn place(&self, _client: &Address, loads: &Loads<'_>) -> Option<usize> {
        let least = loads.least_loaded()?;
        let (Some(here), Some(there)) = (loads.here.and_then(|here| loads.of(here)), loads.of(least)) else {
            return Some(least);
        };
        let is_clearly_above = here.open > there.open.saturating_add(there.open / SLACK);
        Some(if is_clearly_above { least } else { here.slot })
    }
}

/// With so many connections each, one more is not worth a hand-over.
const SLACK: u32 = 16;

/// Keeps what came here.
#[derive(Debug)]
struct Here;

impl Placement for Here {
    fn place(&self, _client: &Address, loads: &Loads<'_>) -> Option<usize> {
        loads.here
    }
}

/// The next ready one after the last.
#[derive(Debug, Default)]
struct RoundRobin {
    next: AtomicUsize,
}

impl Placement for RoundRobin {
    fn place(&self, _client: &Address, loads: &Loads<'_>) -> Option<usize> {
        let next = self.next.load(Ordering::Relaxed);
        let slot = loads.ready().map(|load| load.slot).min_by_key(|slot| (*slot < next, *slot))?;
        self.next.store(slot + 1, Ordering::Relaxed);
        Some(slot)
    }
}

/// By the client's IP address, as the kernel does it; clients without one, by load.
#[derive(Debug)]
struct ByAddress;

impl Placement for ByAddress {
    fn place(&self, client: &Address, loads: &Loads<'_>) -> Option<usize> {
        let ip = client.socket()?.ip();
        loads.sticky(|slots, vacant| steer::sticky_index(ip, slots, vacant))
    }
}

#[cfg(test)]
mod tests;
