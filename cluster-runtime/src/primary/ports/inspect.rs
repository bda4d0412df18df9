//! What one worker has done to the things that it shares with others ends with it.
//!
//! Sockets and mailboxes are examined when they change hands: when a worker is reaped, when its slot's socket is handed out, and after an
//! upgrade. While workers live, a few calls now and then show the worst of it; so do sources from which nothing comes any more. What
//! was changed is set back or replaced, and what waits in the old queue is handed on first.

use std::collections::BTreeSet;
use std::net::Shutdown;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};
use std::{fmt, io};

use socket2::SockRef;

use super::{LOOK, Ports, Source, Waiting, sweep};
use crate::board;
use crate::listen::condition::{Condition, Finding};
use crate::listen::mailbox;
use crate::listen::registry::{Fault, Repair};
use crate::listen::{PortId, PortRequest};
use crate::primary::empty::retire;

/// A shared thing that was not as it should be.
#[derive(Debug)]
pub(in crate::primary) struct Damage {
    /// The slot whose workers have it; none if all have.
    pub(in crate::primary) slot: Option<usize>,
    /// What was changed, and what became of it.
    text: String,
    pub(in crate::primary) remedy: Remedy,
}

/// What has become of a thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::primary) enum Remedy {
    SetBack,
    /// The slot has another socket. A worker that has the old one gets nothing more through it.
    AnotherSocket,
    /// This slot has another mailbox, of which all workers are to be told.
    AnotherMailbox(usize),
    None,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// How often a port that could not be bound anew is tried again, while anything is looked at.
const TRY_AGAIN: Duration = Duration::from_secs(1);

impl Ports {
    /// Examines what the workers of `slot` hold alone: its shards and its mailbox.
    pub(in crate::primary) fn examine_slot(&mut self, slot: usize) -> Vec<Damage> {
        if self.is_stopping || slot >= self.slots() {
            return Vec::new();
        }
        self.uninspected.remove(&slot);
        let ports: Vec<_> = self.registry.sharded().collect();
        let mut damages: Vec<_> = ports.into_iter().filter_map(|port| self.examine_shard(port, slot)).collect();
        damages.extend(self.examine_mailbox(slot, true));
        damages
    }

    /// Examines what all workers hold: inherited sockets for datagrams, the ends of all mailboxes, and who gets which connection.
    pub(in crate::primary) fn examine_all(&mut self) -> Vec<Damage> {
        if self.is_stopping {
            return Vec::new();
        }
        self.registry.steer_again();
        let ports: Vec<_> = self.registry.read_by_all().collect();
        let faults: Vec<_> = ports.into_iter().filter_map(|port| self.registry.examine_shared(port)).collect();
        let mut damages: Vec<_> = faults.into_iter().map(|fault| self.repaired(fault, None)).collect();
        damages.extend((0..self.slots()).filter_map(|slot| self.examine_mailbox(slot, false)).collect::<Vec<_>>());
        damages
    }

    /// Examines the shard that is about to be handed out.
    pub(in crate::primary) fn examine_request(&mut self, slot: usize, request: &PortRequest) -> Option<Damage> {
        let port = self.registry.position(&request.key)?;
        if self.is_stopping { None } else { self.examine_shard(port, slot) }
    }

    /// Examines what shows signs of damage while its workers live. To be called with each look.
    pub(in crate::primary) fn inspect(&mut self) -> Vec<Damage> {
        // One that sleeps is not among those that are looked at, and its mailbox may be another's work.
        let mut damages = if self.exchange.mailboxes().take_broken() { self.examine_all() } else { Vec::new() };
        let mut suspects = self.suspects();
        for (source, failure) in self.failed() {
            self.tended.remove(&source);
            match source.slot() {
                Some(slot) => _ = suspects.insert(slot),
                None => damages.extend(self.renew(source, &failure)),
            }
        }
        let unbound: Vec<_> = self.registry.streams().filter(|port| self.registry.is_unbound(*port)).collect();
        for port in unbound {
            self.try_again(port);
        }
        damages.extend(suspects.into_iter().flat_map(|slot| self.examine_slot(slot)).collect::<Vec<_>>());
        damages
    }

    /// Whether a source has failed and is still to be repaired.
    pub(super) fn has_failed(&self) -> bool {
        let is_unbound = |port| self.registry.is_unbound(port);
        self.tended.values().any(|tended| tended.failure().is_some()) || self.registry.streams().any(is_unbound)
    }

    /// Notes the slots whose workers have had something to do since the last look.
    pub(super) fn note_who_is_awake(&mut self, now: u64) {
        let since = self.pause + LOOK;
        let awake = (0..self.slots()).filter(|slot| self.board.slot(*slot).at_rest_for(now) <= since);
        self.uninspected.extend(awake);
    }

    /// Writes again on the board what is ours to write there.
    pub(super) fn restate(&self) {
        self.board.set_stopping(self.is_stopping);
        for (slot, entry) in self.entries.iter().enumerate() {
            let place = self.board.slot(slot);
            place.set_manned(entry.is_manned);
            place.set_lead(entry.lead);
            for (line, owner) in place.lines().iter().zip(entry.lines) {
                if let Some((worker, max_message)) = owner {
                    line.restate(worker, max_message);
                }
            }
        }
    }

    /// The slots whose sockets show damage: one at a time while workers have something to do, and all before nobody looks any more.
    fn suspects(&mut self) -> BTreeSet<usize> {
        let is_calm = self.is_calm(board::now());
        let mut inspected = BTreeSet::new();
        while let Some(slot) = self.uninspected.pop_first() {
            inspected.insert(slot);
            if !is_calm {
                break;
            }
        }
        inspected.retain(|slot| self.shows_damage(*slot));
        inspected
    }

    fn shows_damage(&self, slot: usize) -> bool {
        let is_damaged = |mailbox: &OwnedFd| crate::listen::condition::is_suspect(mailbox.as_fd(), None);
        self.registry.sharded().any(|port| self.registry.is_suspect(port, slot))
            || self.mailboxes.get(slot).is_some_and(is_damaged)
            || self.senders.get(slot).is_some_and(is_damaged)
    }

    fn failed(&self) -> Vec<(Source, String)> {
        let failure = |(source, tended): (&Source, &super::Tended)| Some((*source, tended.failure()?.to_string()));
        self.tended.iter().filter_map(failure).collect()
    }

    fn examine_shard(&mut self, port: PortId, slot: usize) -> Option<Damage> {
        let fault = self.registry.examine(port, slot)?;
        self.tended.remove(&Source::Shard(port, slot));
        Some(self.repaired(fault, Some(slot)))
    }

    /// Hands on what waits in a queue that was spoilt.
    fn repaired(&mut self, fault: Fault, slot: Option<usize>) -> Damage {
        let Fault { port, address, what, repair } = fault;
        let changed = what.join(", ");
        let (remedy, end) = match repair {
            Repair::SetBack(condition) => {
                if let Some((slot, shard)) = slot.and_then(|slot| Some((slot, self.registry.shard(port, slot)?))) {
                    self.hand_on(shard, port, slot, &condition, &what);
                }
                (Remedy::SetBack, "it is as it was".to_owned())
            }
            Repair::Replaced(old, condition) => {
                if let Some(slot) = slot {
                    self.hand_on(old.as_fd(), port, slot, &condition, &what);
                    retire(old, port, slot, condition, what, &self.exchange);
                }
                // The group has changed.
                self.registry.steer_again();
                (Remedy::AnotherSocket, "another is in its place".to_owned())
            }
            Repair::Failed(error) => (Remedy::None, format!("it cannot be put right: {error}")),
        };
        Damage { slot, text: format!("the socket of {address} was changed ({changed}); {end}"), remedy }
    }

    /// Empties the queue of a shard that was spoilt: what is in it has inherited the changes.
    fn hand_on(&self, shard: BorrowedFd<'_>, port: PortId, slot: usize, condition: &Condition, altered: &[&str]) {
        if self.registry.datagrams().any(|datagrams| datagrams == port) {
            return;
        }
        let mend = |connection: BorrowedFd<'_>| condition.give_to(connection, altered);
        for Waiting { port, connections } in sweep(shard, Source::Shard(port, slot), &self.exchange, mend) {
            self.leave_somewhere(slot, port, connections);
        }
    }

    fn leave_somewhere(&self, slot: usize, port: PortId, connections: Vec<mailbox::Connection>) {
        let mut left = self.exchange.leave_with(slot, port, connections);
        if !left.is_empty() {
            left = self.exchange.leave_with(self.exchange.some_manned(), port, left);
        }
        let lost = left.len();
        if lost > 0 {
            tracing::warn!(lost, "connections are closed unserved: no worker has room for them");
        }
    }

    /// Examines both ends of a mailbox; the receiving one only if `is_own`: no other slot's workers have that.
    fn examine_mailbox(&mut self, slot: usize, is_own: bool) -> Option<Damage> {
        let mut changed = Vec::new();
        let mut is_broken = false;
        let ends = [self.senders.get(slot), self.mailboxes.get(slot).filter(|_| is_own)];
        for end in ends.into_iter().flatten() {
            match self.mailbox_condition.mend(end.as_fd(), None) {
                Finding::Sound => {}
                Finding::Mended(what) => changed.extend(what),
                Finding::Broken(what) => {
                    changed.extend(what);
                    is_broken = true;
                }
            }
        }
        if changed.is_empty() {
            return None;
        }
        let (remedy, end) = match is_broken.then(|| self.replace_mailbox(slot)) {
            None => (Remedy::SetBack, "it is as it was".to_owned()),
            Some(Ok(())) => (Remedy::AnotherMailbox(slot), "another is in its place".to_owned()),
            Some(Err(error)) => (Remedy::None, format!("it cannot be replaced: {error}")),
        };
        let text = format!("the mailbox of slot {slot} was changed ({}); {end}", changed.join(", "));
        Some(Damage { slot: is_own.then_some(slot), text, remedy })
    }

    fn replace_mailbox(&mut self, slot: usize) -> io::Result<()> {
        let (sender, mailbox) = mailbox::pair()?;
        let ours = sender.try_clone()?;
        let old = std::mem::replace(&mut self.mailboxes[slot], mailbox);
        self.senders[slot] = sender;
        self.tended.remove(&Source::Mailbox(slot));
        self.exchange.mailboxes().put(slot, [ours]);
        // From here on nothing comes in: those that do not know of the new one yet keep what they cannot hand over.
        _ = SockRef::from(&old).shutdown(Shutdown::Both);
        // What is in it was handed over already, and can still be taken out.
        for Waiting { port, connections } in sweep(old.as_fd(), Source::Mailbox(slot), &self.exchange, |_| ()) {
            self.leave_somewhere(slot, port, connections);
        }
        Ok(())
    }

    /// Binds anew what the primary accepts from, and from which nothing comes any more.
    fn renew(&mut self, source: Source, failure: &str) -> Option<Damage> {
        let Source::Shared(port) = source else { return None };
        let address = self.registry.address(port)?;
        let end = match self.registry.renew_shared(port) {
            Ok(()) => "it is bound anew".to_owned(),
            Err(error) => {
                self.tried_again = Some(Instant::now());
                format!("it cannot be bound anew: {error}")
            }
        };
        let text = format!("nothing can be accepted from {address} any more ({failure}); {end}");
        Some(Damage { slot: None, text, remedy: Remedy::None })
    }

    /// Another attempt at a port that could not be bound anew; what stands in its way was told before.
    fn try_again(&mut self, port: PortId) {
        let now = Instant::now();
        if self.tried_again.is_some_and(|last| now.duration_since(last) < TRY_AGAIN) {
            return;
        }
        self.tried_again = Some(now);
        match self.registry.renew_shared(port) {
            Ok(()) => tracing::info!("a port that was lost is bound again"),
            Err(error) => tracing::debug!(%error, "a port that was lost cannot be bound yet"),
        }
    }
}
