//! The primary's part in TLS: it makes the keys of session tickets, so that a session of one worker is resumed by any other.
//!
//! The keys are made when the first worker asks for them, and rotated by a timer that runs only while a worker uses them. They are in
//! this process's memory, in that of the workers that use them, and in what an upgrade hands down: nowhere else.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tracing::Level;

use super::Shell;
use crate::control::ToWorker;
use crate::moment::Moment;
use crate::ticket_keys::{KeyRing, LONGEST_LIFETIME, SHORTEST_LIFETIME};
use crate::{WorkerId, board, os, supervisor};

/// The keys, and who uses them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Tickets {
    ring: Option<KeyRing>,
    /// For how long each worker wants a key to seal tickets.
    users: BTreeMap<WorkerId, Duration>,
}

impl Tickets {
    /// The longest that any worker asks for: one that has gone mad must not take the others their sessions.
    fn lifetime(&self) -> Option<Duration> {
        self.users.values().copied().max()
    }

    /// When the keys are to be rotated; `None` while nobody uses them.
    fn due(&self) -> Option<Moment> {
        Some(self.ring.as_ref()?.due(self.lifetime()?))
    }

    /// A worker is gone.
    pub(super) fn forget(&mut self, worker: WorkerId) {
        self.users.remove(&worker);
    }
}

impl Shell {
    /// A worker serves TLS: it gets the keys, now and whenever they change.
    pub(super) fn give_ticket_keys(&mut self, worker: WorkerId, lifetime: Duration) -> Option<supervisor::Event> {
        self.tickets.users.insert(worker, lifetime.clamp(SHORTEST_LIFETIME, LONGEST_LIFETIME));
        if self.tickets.ring.is_none() {
            match KeyRing::new(now(), &os::random) {
                Ok(ring) => self.tickets.ring = Some(ring),
                Err(error) => self.tell_keyless(&error),
            }
        }
        self.rotate_ticket_keys();
        let keys = self.tickets.ring.as_ref().map(|ring| *ring.keys());
        let control = Arc::clone(&self.fleet.get(&worker)?.control);
        self.check_sent(worker, &control.send_now(&ToWorker::TicketKeys(keys), &[]))
    }

    /// When [`rotate_ticket_keys`](Self::rotate_ticket_keys) has something to do.
    pub(super) fn next_rotation(&self) -> Option<Instant> {
        let wait = self.tickets.due()? - now();
        Instant::now().checked_add(wait)
    }

    /// Rotates the keys if that is due, and gives the new ones to all who use them. Called in every turn of the loop.
    pub(super) fn rotate_ticket_keys(&mut self) {
        let (now, lifetime) = (now(), self.tickets.lifetime());
        let (Some(ring), Some(lifetime)) = (&mut self.tickets.ring, lifetime) else { return };
        match ring.rotate(now, lifetime, &os::random) {
            Ok(false) => {}
            Ok(true) => {
                let keys = ToWorker::TicketKeys(Some(*ring.keys()));
                for member in self.tickets.users.keys().filter_map(|worker| self.fleet.get(worker)) {
                    // One that does not read its lane goes on with the keys that it has, which the others know for some time.
                    _ = member.control.send_now(&keys, &[]);
                }
            }
            Err(error) => self.tell_keyless(&error),
        }
    }

    fn tell_keyless(&mut self, error: &std::io::Error) {
        self.reporter.cluster(Level::ERROR, format_args!("no new keys for TLS tickets: {error}"));
    }
}

/// The clock that an upgrade does not stop, and neither does a primary that stands still: keys age with the world.
fn now() -> Moment {
    Moment::from_nanos(board::now())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tickets(users: &[(u64, Duration)]) -> Tickets {
        let ring = KeyRing::new(Moment::from_nanos(0), &|_: &mut [u8]| Ok(())).unwrap();
        let users = users.iter().map(|&(worker, lifetime)| (WorkerId::new(worker), lifetime)).collect();
        Tickets { ring: Some(ring), users }
    }

    #[test]
    fn no_timer_runs_while_nobody_uses_the_keys_and_the_longest_lifetime_counts() {
        let second = Duration::from_secs(1);
        assert_eq!(Tickets::default().due(), None);
        let mut tickets = tickets(&[(1, second), (2, 9 * second)]);
        assert_eq!(tickets.due(), Some(Moment::from_nanos(0) + 9 * second));
        tickets.forget(WorkerId::new(2));
        assert_eq!(tickets.due(), Some(Moment::from_nanos(0) + second));
        tickets.forget(WorkerId::new(1));
        assert_eq!(tickets.due(), None);
    }
}
