//! How long a connection may stand still.

use std::future::Future as _;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Fails a wait once nothing has come or gone for so long. Each direction has a timer, as each may be another task's.
#[derive(Debug)]
pub(super) struct Patience {
    time: Duration,
    moved: Instant,
    timers: [Pin<Box<Sleep>>; 2],
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Direction {
    Read,
    Write,
}

impl Patience {
    /// Must be called inside a tokio runtime.
    pub(super) fn new(time: Duration) -> Self {
        Self { time, moved: Instant::now(), timers: [Box::pin(sleep(time)), Box::pin(sleep(time))] }
    }

    /// What came of an attempt; one that has to wait fails when that has lasted too long.
    pub(super) fn judge<T>(
        &mut self,
        direction: Direction,
        poll: Poll<io::Result<T>>,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<T>> {
        if poll.is_ready() {
            self.moved = Instant::now();
            return poll;
        }
        let timer = &mut self.timers[direction as usize];
        let due = self.moved + self.time;
        if timer.deadline() != due {
            timer.as_mut().reset(due);
        }
        ready!(timer.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "nothing was read or written for too long")))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::timeout;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn wait(patience: &mut Patience, direction: Direction) -> io::Result<()> {
        poll_fn(|context| patience.judge(direction, Poll::Pending, context)).await
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_in_either_direction_fails_when_it_has_lasted_too_long() {
        for direction in [Direction::Read, Direction::Write] {
            let mut patience = Patience::new(10 * SECOND);
            timeout(9 * SECOND, wait(&mut patience, direction)).await.expect_err("it is too early");
            let error = wait(&mut patience, direction).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_goes_in_one_direction_prolongs_the_wait_in_the_other() {
        let mut patience = Patience::new(10 * SECOND);
        for _ in 0..10 {
            timeout(9 * SECOND, wait(&mut patience, Direction::Read)).await.expect_err("something is written");
            let written = poll_fn(|context| patience.judge(Direction::Write, Poll::Ready(Ok(())), context)).await;
            written.unwrap();
        }
        wait(&mut patience, Direction::Read).await.unwrap_err();
    }
}
