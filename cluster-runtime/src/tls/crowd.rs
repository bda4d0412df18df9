//! Those who do something that takes its time, at most so many at once: one more pushes the one out that has taken longest.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

#[derive(Debug)]
pub(super) struct Crowd {
    limit: usize,
    present: Mutex<Present>,
}

#[derive(Debug, Default)]
struct Present {
    /// How many have come so far.
    came: u64,
    /// By the order in which they came.
    all: BTreeMap<u64, oneshot::Sender<()>>,
}

/// One of them, until it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    crowd: Arc<Crowd>,
    number: u64,
    pushed_out: oneshot::Receiver<()>,
}

impl Crowd {
    pub(super) fn new(limit: usize) -> Self {
        Self { limit, present: Mutex::default() }
    }

    pub(super) fn enter(self: &Arc<Self>) -> Place {
        let (push, pushed_out) = oneshot::channel();
        let mut present = self.present();
        let number = present.came;
        present.came += 1;
        present.all.insert(number, push);
        if present.all.len() > self.limit {
            // Dropping its sender tells it.
            present.all.pop_first();
        }
        drop(present);
        Place { crowd: Arc::clone(self), number, pushed_out }
    }

    fn present(&self) -> MutexGuard<'_, Present> {
        // Nothing that runs under this lock can leave it half done.
        self.present.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Completes when another one needs the place. Cancel safe.
    pub(super) async fn lost(&mut self) {
        _ = (&mut self.pushed_out).await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.crowd.present().all.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future as _;
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    fn is_lost(place: &mut Place) -> bool {
        pin!(place.lost()).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[test]
    fn one_too_many_pushes_the_one_out_that_came_first_and_who_has_left_takes_no_place() {
        let crowd = Arc::new(Crowd::new(2));
        let (mut first, mut second) = (crowd.enter(), crowd.enter());
        assert!(!is_lost(&mut first) && !is_lost(&mut second));
        let mut third = crowd.enter();
        assert!(is_lost(&mut first) && !is_lost(&mut second) && !is_lost(&mut third));
        drop(second);
        let mut fourth = crowd.enter();
        assert!(!is_lost(&mut third) && !is_lost(&mut fourth));
        drop((first, third, fourth));
        assert!(crowd.present().all.is_empty());
    }
}
