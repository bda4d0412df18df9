//! Session tickets that every worker of the cluster can open.
//!
//! rustls's own ticketer makes its own keys, which no other worker has.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use tokio::sync::watch;
use tokio_rustls::rustls::server::ProducesTickets;

use crate::os;
use crate::ticket_keys::{TicketKey, TicketKeys};

/// The keys as the primary gives them, and gives them anew.
pub(super) type Keys = watch::Receiver<Option<TicketKeys>>;

pub(super) struct SharedTickets {
    /// The current one first, which seals; all open. `None` where the primary has none, or could not be asked.
    keys: RwLock<Option<[LessSafeKey; 3]>>,
    lifetime: Duration,
    /// Sealed with each ticket: it opens nowhere else. One port may let clients in that another does not.
    scope: String,
}

impl SharedTickets {
    /// Takes over new keys whenever there are any. Must be called inside the runtime.
    pub(super) fn follow(mut keys: Keys, lifetime: Duration, scope: String) -> Arc<Self> {
        let tickets = Arc::new(Self::new(*keys.borrow_and_update(), lifetime, scope));
        let follower = Arc::downgrade(&tickets);
        tokio::spawn(async move {
            while keys.changed().await.is_ok()
                && let Some(tickets) = follower.upgrade()
            {
                tickets.replace(*keys.borrow_and_update());
            }
        });
        tickets
    }

    fn new(keys: Option<TicketKeys>, lifetime: Duration, scope: String) -> Self {
        Self { keys: RwLock::new(keys.as_ref().map(prepare)), lifetime, scope }
    }

    fn replace(&self, keys: Option<TicketKeys>) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = keys.as_ref().map(prepare);
    }

    fn aad(&self) -> Aad<&[u8]> {
        Aad::from(self.scope.as_bytes())
    }
}

/// No key is shown.
impl fmt::Debug for SharedTickets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SharedTickets")
            .field("lifetime", &self.lifetime)
            .field("scope", &self.scope)
            .finish_non_exhaustive()
    }
}

/// A ticket is a nonce and what was sealed with it. The nonce is random, as workers that share a key share no counter; a key that
/// is rotated long before it has sealed 2³² tickets may take it.
impl ProducesTickets for SharedTickets {
    fn enabled(&self) -> bool {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn lifetime(&self) -> u32 {
        self.lifetime.as_secs().try_into().unwrap_or(u32::MAX)
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        os::random(&mut nonce).ok()?;
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let [current, ..] = keys.as_ref()?;
        let mut sealed = plain.to_vec();
        current.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), self.aad(), &mut sealed).ok()?;
        Some([&nonce[..], &sealed].concat())
    }

    fn decrypt(&self, ticket: &[u8]) -> Option<Vec<u8>> {
        let (nonce, sealed) = ticket.split_first_chunk::<NONCE_LEN>()?;
        let open = |key: &LessSafeKey| {
            let mut sealed = sealed.to_vec();
            let plain = key.open_in_place(Nonce::assume_unique_for_key(*nonce), self.aad(), &mut sealed);
            plain.ok().map(|plain| plain.to_vec())
        };
        self.keys.read().unwrap_or_else(PoisonError::into_inner).as_ref()?.iter().find_map(open)
    }
}

fn prepare(keys: &TicketKeys) -> [LessSafeKey; 3] {
    let prepare =
        |key: &TicketKey| UnboundKey::new(&CHACHA20_POLY1305, &key.0).expect("a key of this algorithm has 32 bytes");
    [&keys.current, &keys.next, &keys.previous].map(|key| LessSafeKey::new(prepare(key)))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn keys(previous: u8, current: u8, next: u8) -> Option<TicketKeys> {
        let [previous, current, next] = [previous, current, next].map(|number| TicketKey([number; 32]));
        Some(TicketKeys { current, next, previous })
    }

    fn tickets(keys: Option<TicketKeys>, scope: &str) -> SharedTickets {
        SharedTickets::new(keys, HOUR, scope.into())
    }

    #[test]
    fn a_ticket_of_one_worker_opens_at_another_before_and_after_one_rotation_and_not_after_two() {
        let issuer = tickets(keys(1, 2, 3), "a");
        let ticket = issuer.encrypt(b"a session").unwrap();
        for (keys, is_open) in
            [(keys(0, 1, 2), true), (keys(1, 2, 3), true), (keys(2, 3, 4), true), (keys(3, 4, 5), false), (None, false)]
        {
            let opened = tickets(keys, "a").decrypt(&ticket);
            assert_eq!(opened.as_deref(), is_open.then_some(&b"a session"[..]), "{keys:?}");
        }
    }

    #[test]
    fn a_ticket_opens_in_its_own_scope_only_and_not_if_a_bit_of_it_is_another() {
        let issuer = tickets(keys(1, 2, 3), "a");
        let ticket = issuer.encrypt(b"a session").unwrap();
        assert_eq!(tickets(keys(1, 2, 3), "b").decrypt(&ticket), None);
        for bit in 0..8 * ticket.len() {
            let mut damaged = ticket.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(issuer.decrypt(&damaged), None, "bit {bit}");
        }
        for length in 0..ticket.len() {
            assert_eq!(issuer.decrypt(&ticket[..length]), None, "{length} bytes");
        }
    }

    #[tokio::test]
    async fn new_keys_are_taken_over_and_none_are_shown() {
        let (sender, receiver) = watch::channel(keys(1, 2, 3));
        let tickets = SharedTickets::follow(receiver, HOUR, "a".into());
        let ticket = tickets.encrypt(b"a session").unwrap();
        sender.send(keys(11, 12, 13)).unwrap();
        tokio::task::yield_now().await;
        assert_eq!(tickets.decrypt(&ticket), None);
        sender.send(None).unwrap();
        tokio::task::yield_now().await;
        assert!(!tickets.enabled() && tickets.encrypt(b"a session").is_none());
        assert_eq!(format!("{tickets:?}"), "SharedTickets { lifetime: 3600s, scope: \"a\", .. }");
        let watched = Arc::downgrade(&tickets);
        drop(tickets);
        sender.send(None).unwrap();
        tokio::task::yield_now().await;
        assert!(watched.upgrade().is_none() && sender.receiver_count() == 0);
    }
}
