//! Work that may never end, because a path is in it: on a thread of its own, for which the caller waits until a deadline and no longer.
//!
//! A path may lead anywhere: to a FIFO that nobody reads, or into a mount whose server is dead or means harm. Whoever supervises must
//! not wait there, so it asks here for everything that has a path in it and is not in `/proc`. What is late is given up: its thread
//! goes on until the kernel lets it go, and what it finds then is dropped. Until then nobody asks for the same path again, and
//! nothing of the same kind is begun while many such threads are left.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use crate::os;

/// How long a path may take to answer. A disk that has to wake up is quicker.
pub(crate) const PATIENCE: Duration = Duration::from_secs(2);
/// Nothing more of a kind is begun while so many threads are late.
const MOST_LATE: usize = 16;
/// A wait that ends so much too late tells that this process stood still, and the thread did, too.
const STALL: Duration = Duration::from_secs(1);
/// What is done there takes little.
const STACK: usize = 512 * 1024;

/// One kind of work. One that has many late threads is refused more of them; the others are not.
#[derive(Debug)]
pub(crate) struct Aside {
    late: Mutex<Vec<Late>>,
}

#[derive(Debug)]
struct Late {
    number: u64,
    path: PathBuf,
}

/// Work that was begun.
#[derive(Debug)]
#[must_use = "somebody has to wait for it"]
pub(crate) struct Errand<T> {
    of: &'static Aside,
    number: u64,
    path: PathBuf,
    answer: Receiver<io::Result<T>>,
}

impl Aside {
    pub(crate) const fn new() -> Self {
        Self { late: Mutex::new(Vec::new()) }
    }

    /// Does `work`, which has to do with `path`, and waits for it for two seconds at most.
    ///
    /// # Errors
    /// What `work` says, and `TimedOut` if it is late, or earlier work on this path still is.
    pub(crate) fn run<T: Send + 'static>(
        &'static self,
        path: &Path,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        self.begin(path, work)?.wait(PATIENCE)
    }

    /// The same for many at once, which take two seconds at most together.
    pub(crate) fn run_all<T, W>(&'static self, all: Vec<(PathBuf, W)>) -> Vec<io::Result<T>>
    where
        T: Send + 'static,
        W: FnOnce() -> io::Result<T> + Send + 'static,
    {
        let deadline = Instant::now() + PATIENCE;
        // All before any is waited for, so that one that hangs costs the others nothing.
        let begun: Vec<_> = all.into_iter().map(|(path, work)| self.begin(&path, work)).collect();
        begun.into_iter().map(|errand| errand.and_then(|errand| errand.wait_until(deadline, PATIENCE))).collect()
    }

    /// Begins `work` on a thread of its own.
    pub(crate) fn begin<T: Send + 'static>(
        &'static self,
        path: &Path,
        work: impl FnOnce() -> io::Result<T> + Send + 'static,
    ) -> io::Result<Errand<T>> {
        static NUMBER: AtomicU64 = AtomicU64::new(0);
        let late = self.late().len();
        if self.late().iter().any(|late| late.path == path) {
            return Err(hangs(path, "has not answered an earlier attempt yet"));
        }
        if late >= MOST_LATE {
            return Err(hangs(path, format_args!("is not asked: {late} others have not answered yet")));
        }
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let (sender, answer) = sync_channel(1);
        let go = move || {
            os::leave_signals_to_main();
            let outcome = work();
            let mut late = self.late();
            // Under the lock, so that whoever loses patience either finds it or has us known as late.
            let unwanted = sender.send(outcome);
            late.retain(|late| late.number != number);
            drop(late);
            // What nobody waits for may itself have work to do aside when it is dropped.
            drop(unwanted);
        };
        thread::Builder::new().name("cluster-path".into()).stack_size(STACK).spawn(go)?;
        Ok(Errand { of: self, number, path: path.into(), answer })
    }

    fn late(&self) -> MutexGuard<'_, Vec<Late>> {
        self.late.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Errand<T> {
    /// Waits for the answer, but not for longer than `time`, in which this process does not stand still.
    ///
    /// # Errors
    /// What the work says, and `TimedOut`.
    pub(crate) fn wait(self, time: Duration) -> io::Result<T> {
        self.wait_until(Instant::now() + time, time)
    }

    fn wait_until(self, mut deadline: Instant, time: Duration) -> io::Result<T> {
        let Self { of, number, path, answer } = self;
        loop {
            match answer.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(outcome) => return outcome,
                Err(RecvTimeoutError::Disconnected) => return Err(io::Error::other("it panicked")),
                Err(RecvTimeoutError::Timeout) if deadline.elapsed() > STALL => deadline = Instant::now() + time,
                Err(RecvTimeoutError::Timeout) => break,
            }
        }
        let mut late = of.late();
        // It may have come just now.
        if let Ok(outcome) = answer.try_recv() {
            return outcome;
        }
        let error = hangs(&path, format_args!("did not answer within {time:?}"));
        late.push(Late { number, path });
        Err(error)
    }
}

fn hangs(path: &Path, what: impl fmt::Display) -> io::Error {
    let text = format!("{} {what}; is its file system, or who serves it, alive?", path.display());
    io::Error::new(io::ErrorKind::TimedOut, text)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn what_answers_is_heard_and_what_fails_says_why() {
        static ASIDE: Aside = Aside::new();
        assert_eq!(ASIDE.run(Path::new("/a"), || Ok(7)).unwrap(), 7);
        let error = ASIDE.run(Path::new("/a"), || Err::<(), _>(io::Error::other("no"))).unwrap_err();
        assert_eq!(error.to_string(), "no");
        assert!(ASIDE.late().is_empty());
    }

    #[test]
    fn who_hangs_is_given_up_and_not_asked_again_until_it_has_come_back() {
        static ASIDE: Aside = Aside::new();
        let (go, hold) = channel::<()>();
        let begun = ASIDE.begin(Path::new("/hangs"), move || Ok(_ = hold.recv())).unwrap();
        let error = begun.wait(Duration::from_millis(1)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
        assert!(error.to_string().starts_with("/hangs did not answer within 1ms"), "{error}");
        let error = ASIDE.run(Path::new("/hangs"), || Ok(())).unwrap_err();
        assert!(error.to_string().starts_with("/hangs has not answered an earlier attempt"), "{error}");
        ASIDE.run(Path::new("/other"), || Ok(())).unwrap();
        drop(go);
        let deadline = Instant::now() + Duration::from_secs(60);
        while !ASIDE.late().is_empty() {
            assert!(Instant::now() < deadline);
            thread::yield_now();
        }
        ASIDE.run(Path::new("/hangs"), || Ok(())).unwrap();
    }

    #[test]
    fn what_comes_too_late_may_itself_ask_when_it_is_dropped() {
        static ASIDE: Aside = Aside::new();
        struct Asks(std::sync::mpsc::Sender<()>);
        impl Drop for Asks {
            fn drop(&mut self) {
                ASIDE.run(Path::new("/of-the-late"), || Ok(())).unwrap();
                self.0.send(()).unwrap();
            }
        }
        let ((go, hold), (done, dropped)) = (channel::<()>(), channel());
        let work = move || {
            _ = hold.recv();
            Ok(Asks(done))
        };
        assert!(ASIDE.begin(Path::new("/hangs"), work).unwrap().wait(Duration::from_millis(1)).is_err());
        drop(go);
        dropped.recv_timeout(Duration::from_secs(60)).expect("it is not locked out");
    }

    #[test]
    fn nothing_is_begun_while_many_threads_are_late() {
        static ASIDE: Aside = Aside::new();
        let (go, hold) = channel::<()>();
        let hold = std::sync::Arc::new(Mutex::new(hold));
        for number in 0..MOST_LATE {
            let hold = std::sync::Arc::clone(&hold);
            let begun = ASIDE.begin(Path::new(&number.to_string()), move || Ok(_ = hold.lock().unwrap().recv()));
            begun.unwrap().wait(Duration::ZERO).unwrap_err();
        }
        let error = ASIDE.run(Path::new("/good"), || Ok(())).unwrap_err();
        assert!(error.to_string().contains("16 others have not answered yet"), "{error}");
        drop(go);
    }

    #[test]
    fn of_many_at_once_those_that_hang_cost_the_others_nothing() {
        static ASIDE: Aside = Aside::new();
        let (go, hold) = channel::<()>();
        let mut hold = Some(hold);
        let all = (0..40).map(|number: usize| {
            let hold = hold.take_if(|_| number == 3);
            (PathBuf::from(number.to_string()), move || {
                hold.map(|hold| hold.recv());
                Ok(number)
            })
        });
        let answers = ASIDE.run_all(all.collect());
        for (number, answer) in answers.into_iter().enumerate() {
            match answer {
                Ok(same) => assert_eq!(same, number),
                Err(error) => assert_eq!(number, 3, "{error}"),
            }
        }
        drop(go);
    }
}
