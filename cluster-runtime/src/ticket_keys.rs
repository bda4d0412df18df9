//! The keys of TLS session tickets, which all workers share: what they are, and when they change.
//!
//! A ticket is sealed with the current key. The previous key still opens what was sealed before the last rotation, and the next
//! one opens what a worker has sealed that heard of the rotation sooner. So a rotation costs no client its session.

use std::fmt;
use std::io;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::moment::Moment;

/// The shortest time from one rotation to the next. What a worker asks for must not keep the primary busy.
pub(crate) const SHORTEST_LIFETIME: Duration = Duration::from_secs(1);
/// No client may use a ticket for longer (RFC 8446, 4.6.1).
pub(crate) const LONGEST_LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// One key. Its `Debug` form does not show it.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TicketKey(pub(crate) [u8; 32]);

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TicketKey")
    }
}

/// The keys that are in use at one time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TicketKeys {
    pub(crate) current: TicketKey,
    pub(crate) next: TicketKey,
    pub(crate) previous: TicketKey,
}

/// The keys of a cluster, and when they were rotated last.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct KeyRing {
    keys: TicketKeys,
    rotated: Moment,
}

impl KeyRing {
    /// Makes three keys; `random` fills a key with bytes that nobody can guess.
    pub(crate) fn new(now: Moment, random: &impl Fn(&mut [u8]) -> io::Result<()>) -> io::Result<Self> {
        let keys = TicketKeys { current: make(random)?, next: make(random)?, previous: make(random)? };
        Ok(Self { keys, rotated: now })
    }

    pub(crate) const fn keys(&self) -> &TicketKeys {
        &self.keys
    }

    /// When the keys are to be rotated, if each is to seal tickets for `lifetime`.
    pub(crate) fn due(&self, lifetime: Duration) -> Moment {
        self.rotated + lifetime
    }

    /// Rotates the keys as often as is due, and returns whether that was at all. Where no timer has run for long, because nobody
    /// used the keys, they are too old by more than one rotation.
    ///
    /// # Errors
    /// Those of `random`; the keys stay in use, and the next rotation is due after another lifetime.
    pub(crate) fn rotate(
        &mut self,
        now: Moment,
        lifetime: Duration,
        random: &impl Fn(&mut [u8]) -> io::Result<()>,
    ) -> io::Result<bool> {
        let mut due = self.due(lifetime);
        if due > now {
            return Ok(false);
        }
        self.rotated = now;
        let mut keys = self.keys;
        for _ in 0..3 {
            if due <= now {
                keys = TicketKeys { previous: keys.current, current: keys.next, next: make(random)? };
                due += lifetime;
            }
        }
        self.keys = keys;
        Ok(true)
    }
}

fn make(random: &impl Fn(&mut [u8]) -> io::Result<()>) -> io::Result<TicketKey> {
    let mut key = [0; 32];
    random(&mut key)?;
    Ok(TicketKey(key))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// Keys that are numbered in the order in which they are made.
    fn counting() -> impl Fn(&mut [u8]) -> io::Result<()> {
        let made = Cell::new(0);
        move |bytes| {
            made.set(made.get() + 1);
            bytes.fill(made.get());
            Ok(())
        }
    }

    fn numbers(ring: &KeyRing) -> [u8; 3] {
        let TicketKeys { previous, current, next } = ring.keys();
        [previous, current, next].map(|key| key.0[0])
    }

    fn hours(hours: u32) -> Moment {
        Moment::from_nanos(7) + HOUR * hours
    }

    #[test]
    fn after_one_rotation_the_key_before_still_opens_and_the_one_after_is_known_already() {
        let random = counting();
        let mut ring = KeyRing::new(hours(0), &random).unwrap();
        assert_eq!(numbers(&ring), [3, 1, 2]);
        assert!(!ring.rotate(hours(0), HOUR, &random).unwrap());
        assert_eq!(numbers(&ring), [3, 1, 2], "it is not due");
        assert!(ring.rotate(ring.due(HOUR), HOUR, &random).unwrap());
        assert_eq!(numbers(&ring), [1, 2, 4]);
        assert!(!ring.rotate(hours(1), HOUR, &random).unwrap());
        assert!(ring.rotate(hours(2), HOUR, &random).unwrap());
        assert_eq!(numbers(&ring), [2, 4, 5]);
    }

    #[test]
    fn keys_that_nobody_has_rotated_for_long_are_all_new() {
        let random = counting();
        let mut ring = KeyRing::new(hours(0), &random).unwrap();
        assert!(ring.rotate(hours(100), HOUR, &random).unwrap());
        assert_eq!(numbers(&ring), [4, 5, 6]);
        assert_eq!(ring.due(HOUR), hours(101));
    }

    #[test]
    fn a_rotation_that_fails_leaves_the_keys_as_they_were_and_is_not_tried_at_once() {
        let mut ring = KeyRing::new(hours(0), &counting()).unwrap();
        ring.rotate(hours(3), HOUR, &|_: &mut [u8]| Err(io::ErrorKind::Other.into())).unwrap_err();
        assert_eq!((numbers(&ring), ring.due(HOUR)), ([3, 1, 2], hours(4)));
    }

    #[test]
    fn no_key_is_shown() {
        let ring = KeyRing::new(hours(0), &|bytes: &mut [u8]| {
            bytes.fill(0xAB);
            Ok(())
        });
        let shown = format!("{:?}", ring.unwrap());
        assert!(!shown.to_lowercase().contains("ab,") && !shown.contains("171"), "{shown}");
    }
}
