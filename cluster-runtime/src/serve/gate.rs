//! Keeps a future that seldom has anything to say from being polled along with one that always has.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use pin_project_lite::pin_project;

pin_project! {
    /// Polls `future` only when that has woken its task.
    ///
    /// In a `select!` every future is polled whichever has woken the task: for a connection that is its timers with each request.
    pub(super) struct Gated<F> {
        #[pin]
        future: F,
        gate: Arc<Gate>,
        waker: Waker,
    }
}

impl<F: Future> Gated<F> {
    pub(super) fn new(future: F) -> Self {
        let gate = Arc::new(Gate { is_open: AtomicBool::new(true), task: Mutex::new(Waker::noop().clone()) });
        Self { future, waker: Waker::from(Arc::clone(&gate)), gate }
    }
}

impl<F: Future> Future for Gated<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        this.gate.lock().clone_from(context.waker());
        if this.gate.is_open.swap(false, Ordering::AcqRel) {
            this.future.poll(&mut Context::from_waker(this.waker))
        } else {
            Poll::Pending
        }
    }
}

struct Gate {
    is_open: AtomicBool,
    /// Whom to wake.
    task: Mutex<Waker>,
}

impl Gate {
    fn lock(&self) -> std::sync::MutexGuard<'_, Waker> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        // Before the task is woken: it may look at once.
        self.is_open.store(true, Ordering::Release);
        let task = self.lock().clone();
        task.wake();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::sync::Notify;
    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_gated_future_completes_when_it_would() {
        Gated::new(sleep(Duration::from_secs(1))).await;
        let notify = Arc::new(Notify::new());
        let told = Arc::clone(&notify);
        tokio::spawn(async move {
            sleep(Duration::from_secs(1)).await;
            told.notify_one();
        });
        timeout(Duration::from_secs(2), Gated::new(notify.notified())).await.expect("it was woken");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_not_polled_along_with_others_and_wakes_the_task_that_polled_last() {
        let polls = std::cell::Cell::new(0);
        let mut inner = Box::pin(sleep(Duration::from_secs(10)));
        let counted = poll_fn(|context| {
            polls.set(polls.get() + 1);
            inner.as_mut().poll(context)
        });
        let mut gated = Box::pin(Gated::new(counted));
        for _ in 0..100 {
            // Each timeout is a task of its own to the eye of the waker.
            timeout(Duration::from_millis(1), gated.as_mut()).await.expect_err("it is too early");
        }
        gated.await;
        assert_eq!(polls.get(), 2, "once to begin and once to end");
    }
}
