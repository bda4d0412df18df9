//! Descriptors that a worker keeps back, so that an order of the primary finds room when connections have taken up all others.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use nix::sys::eventfd::{EfdFlags, EventFd};

/// Where there are descriptors enough, so many are kept back.
const SIZE: usize = 32;
/// Of few descriptors, one in so many is.
const SHARE: u64 = 8;

/// Open descriptors that mean nothing, and whose places are lent.
#[derive(Debug)]
pub(crate) struct Reserve {
    /// What the others are duplicates of.
    original: OwnedFd,
    held: Mutex<Vec<OwnedFd>>,
    size: usize,
    /// Whether all of them are held: the same for those who ask often.
    is_full: AtomicBool,
}

impl Reserve {
    /// Keeps back a few of the `most` descriptors that this process may have.
    ///
    /// # Errors
    /// If there is not even one left.
    pub(crate) fn new(most: u64) -> io::Result<Self> {
        let original = EventFd::from_flags(EfdFlags::EFD_CLOEXEC | EfdFlags::EFD_NONBLOCK)?.into();
        let size = usize::try_from(most / SHARE).map_or(SIZE, |share| share.min(SIZE));
        let reserve = Self { original, held: Mutex::default(), size, is_full: AtomicBool::new(false) };
        reserve.refill();
        Ok(reserve)
    }

    /// Whether the reserve is whole, after an attempt to make it so. Only then may a descriptor be taken for a new connection.
    pub(crate) fn refill(&self) -> bool {
        if self.is_full.load(Ordering::Relaxed) {
            return true;
        }
        let mut held = self.held();
        while held.len() < self.size
            && let Ok(one) = self.original.try_clone()
        {
            held.push(one);
        }
        let is_full = held.len() >= self.size;
        self.is_full.store(is_full, Ordering::Relaxed);
        is_full
    }

    /// Makes room for `count` descriptors while `open` runs, as far as there is so much.
    pub(crate) fn lend<T>(&self, count: usize, open: impl FnOnce() -> T) -> T {
        if count == 0 {
            return open();
        }
        let mut held = self.held();
        let left = held.len().saturating_sub(count);
        held.truncate(left);
        self.is_full.store(false, Ordering::Relaxed);
        let opened = open();
        drop(held);
        self.refill();
        opened
    }

    fn held(&self) -> MutexGuard<'_, Vec<OwnedFd>> {
        // Nothing that runs under this lock can leave it half done.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_lent_is_taken_back_as_soon_as_there_is_room() {
        let reserve = Reserve::new(1024).unwrap();
        assert!(reserve.refill());
        let held = |reserve: &Reserve| reserve.held().len();
        reserve.lend(5, || assert!(!reserve.is_full.load(Ordering::Relaxed)));
        assert!(reserve.is_full.load(Ordering::Relaxed));
        assert_eq!(held(&reserve), SIZE);
        reserve.lend(2 * SIZE, || ());
        assert_eq!(held(&reserve), SIZE);
    }

    #[test]
    fn of_few_descriptors_few_are_kept_back() {
        assert_eq!(Reserve::new(64).unwrap().size, 8);
        assert_eq!(Reserve::new(u64::MAX).unwrap().size, SIZE);
    }
}
