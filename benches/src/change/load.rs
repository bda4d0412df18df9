//! Clients of all kinds at once, who ask one thing after another until they are told to stop, and remember what failed.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::sleep;

use super::exchange::{Answerer, Connection, Failed, Fate, Kind, Requests, Target};

/// How many clients there are, and how patient.
#[derive(Clone, Copy)]
pub(crate) struct Manner {
    /// Of each kind. With kept connections, every fourth pauses between its requests, so that its connection idles now and then.
    pub(crate) clients: usize,
    /// For a request, the connection included if it needs one.
    pub(crate) patience: Duration,
}

/// Running clients.
pub(crate) struct Load {
    thread: JoinHandle<Tally>,
    shared: Arc<Shared>,
}

/// What became of all requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) answered: BTreeMap<Kind, u64>,
    pub(crate) failures: Vec<Failure>,
    /// Kept connections that the server closed while nothing was asked, which is its right.
    pub(crate) closed_idle: u64,
    /// Kept connections of which the server said with an answer that it was the last.
    pub(crate) told_to_close: u64,
}

/// A request that failed.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) kind: Kind,
    pub(crate) failed: Failed,
    /// Whose connection it was, if that had said so before.
    pub(crate) of: Option<Answerer>,
    /// From the attempt to connect, or on a connection that was there, from the request.
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
}

#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    answered: AtomicU64,
    failed: AtomicU64,
    /// Those who have answered, by their pids.
    answerers: Mutex<HashMap<u32, Answerer>>,
}

/// One client.
struct Client {
    kind: Kind,
    pauses: bool,
    patience: Duration,
    target: Target,
    shared: Arc<Shared>,
    tally: Tally,
    dice: u64,
}

/// After a failure, so that a service that is gone is not asked without end.
const AFTER_FAILURE: Duration = Duration::from_millis(10);
/// Then the client closes a kept connection, so that newcomers among the workers get some of the kept ones, too.
const MOST_REQUESTS: u64 = 200;
/// The longest pause of a client that pauses: twice as long as a draining worker waits for an idle connection.
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl Default for Manner {
    fn default() -> Self {
        Self { clients: 4, patience: Duration::from_secs(10) }
    }
}

impl Load {
    pub(crate) fn start(target: &Target, manner: Manner) -> Self {
        let shared = Arc::<Shared>::default();
        let clients: Vec<Client> = Kind::ALL
            .into_iter()
            .flat_map(|kind| (0..manner.clients).map(move |number| (kind, number)))
            .zip(1..)
            .map(|((kind, number), dice)| Client {
                kind,
                pauses: kind.is_kept && number % 4 == 3,
                patience: manner.patience,
                target: target.clone(),
                shared: Arc::clone(&shared),
                tally: Tally::default(),
                dice,
            })
            .collect();
        Self { thread: thread::spawn(move || run(clients)), shared }
    }

    /// Answers and failures so far.
    pub(crate) fn requests(&self) -> u64 {
        self.answered() + self.shared.failed.load(Ordering::Relaxed)
    }

    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    pub(crate) fn has_heard_of(&self, pid: u32) -> bool {
        self.shared.answerers.lock().expect("no client panics").contains_key(&pid)
    }

    /// Everybody who has answered so far.
    pub(crate) fn answerers(&self) -> Vec<Answerer> {
        self.shared.answerers.lock().expect("no client panics").values().copied().collect()
    }

    /// Lets every client finish what it has begun.
    pub(crate) fn stop(self) -> Tally {
        self.shared.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no client panics")
    }
}

impl Tally {
    pub(crate) fn answers(&self) -> u64 {
        self.answered.values().sum()
    }

    /// Failures of one kind of request by one fate.
    pub(crate) fn count(&self, kind: Kind, fate: Fate) -> usize {
        self.failures.iter().filter(|failure| failure.kind == kind && failure.failed.fate == fate).count()
    }

    pub(crate) fn of(&self, fate: Fate) -> usize {
        self.failures.iter().filter(|failure| failure.failed.fate == fate).count()
    }

    pub(crate) fn merge(&mut self, other: Self) {
        for (kind, count) in other.answered {
            *self.answered.entry(kind).or_default() += count;
        }
        self.failures.extend(other.failures);
        self.closed_idle += other.closed_idle;
        self.told_to_close += other.told_to_close;
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(clients: Vec<Client>) -> Tally {
    let mut running: JoinSet<Tally> = clients.into_iter().map(Client::run).collect();
    let mut tally = Tally::default();
    while let Some(client) = running.join_next().await {
        tally.merge(client.expect("no client panics"));
    }
    tally
}

impl Client {
    async fn run(mut self) -> Tally {
        let mut requests = Requests::of(self.kind);
        let mut kept = None;
        while !self.shared.stop.load(Ordering::Relaxed) {
            requests.advance();
            let began = Instant::now();
            let deadline = began + self.patience;
            let mut connection = match kept.take() {
                Some(connection) => connection,
                None => match Connection::open(&self.target, self.kind.road, deadline).await {
                    Ok(connection) => connection,
                    Err(failed) => {
                        self.fail(failed, None, began).await;
                        continue;
                    }
                },
            };
            let before = connection.answerer;
            match connection.ask(&requests, deadline).await {
                Ok(may_stay) => {
                    self.count(before, connection.answerer);
                    kept = self.keep(connection, may_stay).await;
                }
                Err(failed) => self.fail(failed, before, began).await,
            }
        }
        self.tally
    }

    fn count(&mut self, before: Option<Answerer>, now: Option<Answerer>) {
        *self.tally.answered.entry(self.kind).or_default() += 1;
        self.shared.answered.fetch_add(1, Ordering::Relaxed);
        if let Some(answerer) = now.filter(|_| before != now) {
            self.shared.answerers.lock().expect("no client panics").insert(answerer.pid, answerer);
        }
    }

    async fn fail(&mut self, failed: Failed, of: Option<Answerer>, began: Instant) {
        self.shared.failed.fetch_add(1, Ordering::Relaxed);
        self.tally.failures.push(Failure { kind: self.kind, failed, of, began, ended: Instant::now() });
        sleep(AFTER_FAILURE).await;
    }

    /// The connection for the next request, if it is still good.
    async fn keep(&mut self, connection: Connection, may_stay: bool) -> Option<Connection> {
        if !self.kind.is_kept {
            return None;
        }
        if !may_stay {
            self.tally.told_to_close += 1;
            return None;
        }
        if self.pauses {
            sleep(self.pause()).await;
        }
        if connection.is_closed() {
            self.tally.closed_idle += 1;
            return None;
        }
        (connection.answers() < MOST_REQUESTS).then_some(connection)
    }

    /// Of any length up to the longest.
    fn pause(&mut self) -> Duration {
        self.dice = roll(self.dice);
        Duration::from_nanos(self.dice % LONGEST_PAUSE.as_nanos() as u64)
    }
}

/// The next of a sequence of numbers without an order that matters; Marsaglia's xorshift. Not for zero.
pub(crate) const fn roll(mut dice: u64) -> u64 {
    dice ^= dice << 13;
    dice ^= dice >> 7;
    dice ^ (dice << 17)
}

#[cfg(test)]
mod tests;
