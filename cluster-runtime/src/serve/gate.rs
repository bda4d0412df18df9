//! Keeps a future that seldom has anything to say from being polled along with one that always has.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
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
    /// Whoever else has the gate can open it.
    pub(super) fn new(gate: &Arc<Gate>, future: F) -> Self {
        Self { future, waker: Waker::from(Arc::clone(gate)), gate: Arc::clone(gate) }
    }
}

impl<F: Future> Future for Gated<F> {
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let task = this.gate.task.get_or_init(|| context.waker().clone());
        if !task.will_wake(context.waker()) {
            // It has moved to another task, where it is not gated, and may move back.
            this.gate.is_open.store(true, Ordering::Release);
            return this.future.poll(context);
        }
        if this.gate.is_open.swap(false, Ordering::AcqRel) {
            this.future.poll(&mut Context::from_waker(this.waker))
        } else {
            Poll::Pending
        }
    }
}

#[derive(Debug)]
pub(super) struct Gate {
    is_open: AtomicBool,
    /// Whom to wake: the task that has polled first.
    task: OnceLock<Waker>,
}

impl Gate {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self { is_open: AtomicBool::new(true), task: OnceLock::new() })
    }

    /// Has the future polled, and its task woken.
    pub(super) fn open(&self) {
        // Before the task is woken: it may look at once.
        self.is_open.store(true, Ordering::Release);
        if let Some(task) = self.task.get() {
            task.wake_by_ref();
        }
    }
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.open();
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
        Gated::new(&Gate::new(), sleep(Duration::from_secs(1))).await;
        let notify = Arc::new(Notify::new());
        let told = Arc::clone(&notify);
        tokio::spawn(async move {
            sleep(Duration::from_secs(1)).await;
            told.notify_one();
        });
        timeout(Duration::from_secs(2), Gated::new(&Gate::new(), notify.notified())).await.expect("it was woken");
    }

    #[tokio::test(start_paused = true)]
    async fn it_completes_in_another_task_than_the_one_that_polled_first() {
        let mut gated = Box::pin(Gated::new(&Gate::new(), sleep(Duration::from_secs(1))));
        timeout(Duration::from_millis(1), gated.as_mut()).await.expect_err("it is too early");
        let moved = tokio::spawn(async move { timeout(Duration::from_secs(2), gated).await });
        moved.await.unwrap().expect("it was woken");
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_not_polled_along_with_others() {
        let polls = std::cell::Cell::new(0);
        let mut inner = Box::pin(sleep(Duration::from_secs(10)));
        let counted = poll_fn(|context| {
            polls.set(polls.get() + 1);
            inner.as_mut().poll(context)
        });
        let mut gated = Box::pin(Gated::new(&Gate::new(), counted));
        for _ in 0..100 {
            timeout(Duration::from_millis(1), gated.as_mut()).await.expect_err("it is too early");
        }
        gated.await;
        assert_eq!(polls.get(), 2, "once to begin and once to end");
    }
}
