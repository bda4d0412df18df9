//! A fixture: programs whose processes send each other large messages; the first argument chooses one. What happens is printed;
//! what must not happen panics, and so changes the exit code.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cluster::{
    CallError, Config, CurrentWorker, Event, Message, Primary, PrimaryHandle, Reply, SendError, Worker, WorkerId,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::time::sleep;

/// What is said in all programs, in both directions.
#[derive(Debug, Message)]
enum Talk {
    Go,
    Bulk(u64, Bytes),
    /// Bytes of this size.
    Make(usize, Reply<Bytes>),
    /// How much was sent so far.
    Count(Reply<u64>),
    Double(u64, Reply<u64>),
    /// Of which generation it is.
    Generation(Reply<u64>),
}

fn main() -> cluster::Result {
    let config = Config::new().workers(1);
    match argument(1).as_str() {
        "sizes" => cluster::run(config.primary(sizes::primary), sizes::worker),
        "between" => cluster::run(config.primary(between::primary), between::worker),
        "answers" => cluster::run(config.primary(answers::primary), answers::worker),
        "flood" => cluster::run(config.primary(flood::primary), flood::worker),
        "releases" => cluster::run(releases::configure(config).primary(releases::primary), releases::worker),
        "neighbours" => {
            cluster::run(releases::configure(config.workers(2)).primary(neighbours::primary), neighbours::worker)
        }
        other => Err(format!("no program {other:?}").into()),
    }
}

/// Messages and answers of two sizes, given as arguments: one that passes, and one that does not.
mod sizes {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        try_both(&Other::Primary(worker.clone())).await;
        worker.send(Talk::Go).await?;
        answer_all(&worker).await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
        while let Some(event) = primary.next().await {
            match event {
                Event::Message(id, Talk::Go) => {
                    try_both(&Other::Worker(primary.handle(), id)).await;
                    let [_, too_large] = sizes();
                    let all = primary.broadcast(Talk::Bulk(1, bulk(too_large, 1))).await;
                    tell(format_args!("sends {too_large} to all: {}", outcome(all)));
                    tell(format_args!("done"));
                }
                Event::Message(_, message) => answer(message, tell),
                _ => {}
            }
        }
    }

    async fn try_both(other: &Other) {
        for size in sizes() {
            other.say(format_args!("sends {size}: {}", outcome(other.send(Talk::Bulk(1, bulk(size, 1))).await)));
            let made = other.call(|reply| Talk::Make(size, reply)).await;
            other.say(format_args!("asks for {size}: {}", outcome(made.map(|bulk| check(&bulk, 0)))));
        }
    }

    fn sizes() -> [usize; 2] {
        [2, 3].map(|index| argument(index).parse().expect("a size"))
    }
}

/// Requests while large messages are on their way, in both directions at once.
mod between {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        Other::Primary(worker.clone()).begin();
        let mut between = Between::default();
        while let Some(message) = worker.recv().await {
            between.take(message, |what| say(&worker, what));
        }
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
        let mut between = Between::default();
        while let Some(event) = primary.next().await {
            match event {
                Event::Ready(id) => Other::Worker(primary.handle(), id).begin(),
                Event::Message(_, message) => between.take(message, tell),
                _ => {}
            }
        }
    }

    impl Other {
        fn begin(self) {
            let asker = self.clone();
            tokio::spawn(async move {
                for index in 0..MANY {
                    self.send(Talk::Bulk(index, bulk(LARGE, index))).await.expect("it lives");
                }
            });
            tokio::spawn(async move {
                // When all has come, the cluster stops.
                for number in 0.. {
                    let Ok(answer) = asker.call(|reply| Talk::Double(number, reply)).await else { return };
                    assert_eq!(answer, 2 * number);
                }
            });
        }
    }

    /// What has come so far.
    #[derive(Default)]
    struct Between {
        bulks: u64,
        requests: u64,
    }

    impl Between {
        fn take(&mut self, message: Talk, say: impl Fn(fmt::Arguments<'_>)) {
            match message {
                Talk::Double(number, reply) => {
                    self.requests += 1;
                    reply.send(2 * number);
                }
                Talk::Bulk(index, bulk) => {
                    assert_eq!(index, self.bulks);
                    check(&bulk, index);
                    self.bulks += 1;
                    if self.bulks == MANY {
                        say(format_args!(
                            "took {MANY} large ones in order, and before the last {} requests",
                            self.requests
                        ));
                    }
                }
                other => panic!("{other:?} is not said here"),
            }
        }
    }
}

/// Several large answers at once, and small requests meanwhile, in both directions.
mod answers {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        tokio::spawn(ask(Other::Primary(worker.clone())));
        answer_all(&worker).await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
        while let Some(event) = primary.next().await {
            match event {
                Event::Ready(id) => _ = tokio::spawn(ask(Other::Worker(primary.handle(), id))),
                Event::Message(_, message) => answer(message, tell),
                _ => {}
            }
        }
    }

    /// Asks for two large answers at once, and for small ones until both are here.
    async fn ask(other: Other) {
        let ask_large = || other.call(|reply| Talk::Make(LARGE, reply));
        let large = async { tokio::join!(ask_large(), ask_large()) };
        let mut large = Box::pin(large);
        for number in 0.. {
            tokio::select! {
                (one, two) = &mut large => {
                    let both = [one, two].map(|made| outcome(made.map(|bulk| check(&bulk, 0))));
                    return other.say(format_args!("has {} and {}, and before the last {number}", both[0], both[1]));
                }
                answer = other.call(|reply| Talk::Double(number, reply)) => assert_eq!(answer, Ok(2 * number)),
            }
        }
    }
}

/// Much more than fits anywhere, from a worker to a primary function that takes nothing at first.
mod flood {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        let sent = Arc::new(AtomicU64::new(0));
        let (receiver, so_far) = (worker.clone(), Arc::clone(&sent));
        tokio::spawn(async move {
            while let Some(message) = receiver.recv().await {
                if let Talk::Count(reply) = message {
                    reply.send(so_far.load(Ordering::Relaxed));
                }
            }
        });
        for index in 0..FLOOD {
            worker.send(Talk::Bulk(index, bulk(LARGE, index))).await?;
            sent.store(index + 1, Ordering::Relaxed);
        }
        worker.shutdown().await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
        let mut expected = 0;
        while let Some(event) = primary.next().await {
            match event {
                Event::Online(id) => {
                    let sent = settled(async || primary.call(id, Talk::Count).await.expect("it answers")).await;
                    tell(format_args!("stuck at {sent}; peak {}", peak()));
                }
                Event::Message(_, Talk::Bulk(index, bulk)) => {
                    assert_eq!(index, expected);
                    check(&bulk, index);
                    expected += 1;
                    if expected == FLOOD {
                        tell(format_args!("took all in order; peak {}", peak()));
                    }
                }
                _ => {}
            }
        }
    }

    const FLOOD: u64 = 8;

    /// Asks until the answer and the memory in use have stayed the same for a while: nothing else tells one who
    /// waits from one who is slow.
    async fn settled(ask: impl AsyncFn() -> u64) -> u64 {
        let (mut last, mut same) = ((0, 0), 0);
        while same < 30 || last.0 == 0 {
            sleep(Duration::from_millis(10)).await;
            let now = (ask().await, peak());
            same = if now == last { same + 1 } else { 0 };
            last = now;
        }
        last.0
    }
}

/// A program whose next release allows more: the file that `MODE` names has the number of its release, how many bytes it allows, and
/// perhaps that the workers that start are to be held before they say hello.
mod releases {
    use super::*;

    pub(super) fn configure(config: Config) -> Config {
        while cluster::is_worker() && mode().contains("held") {
            std::thread::sleep(Duration::from_millis(1));
        }
        config.max_message(number(1))
    }

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        let sent = worker.send(Talk::Bulk(1, bulk(BULK, 1))).await;
        say(&worker, format_args!("of release {} sends: {}", number(0), outcome(sent)));
        answer_all(&worker).await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
        let release = number(0);
        while let Some(event) = primary.next().await {
            match event {
                Event::Online(id) => {
                    let sent = primary.send(id, Talk::Bulk(1, bulk(BULK, 1))).await;
                    tell(format_args!("of release {release} sends to {id}: {}", outcome(sent)));
                }
                Event::Message(_, message) => answer(message, tell),
                Event::Upgrading => {
                    tell(format_args!("is to leave"));
                    // Until somebody is there who will say hello to the next program.
                    while mode().contains("held") && primary.workers().iter().all(|worker| worker.connected) {
                        sleep(Duration::from_millis(1)).await;
                    }
                    return;
                }
                _ => {}
            }
        }
    }

    const BULK: usize = 3 << 20;

    fn number(index: usize) -> u64 {
        mode().split(' ').nth(index).and_then(|word| word.parse().ok()).expect("a number")
    }

    fn mode() -> String {
        let path = std::env::var("MODE").expect("the test sets it");
        std::fs::read_to_string(path).expect("it is there")
    }
}

/// Two workers, of which an upgrade replaces the one of slot 0 only: that of slot 1 is never followed. The file that `MODE` names is
/// that of `releases`.
mod neighbours {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        if worker.slot() == 0 || worker.generation() == 1 {
            worker.ready();
        }
        let receiver = worker.clone();
        tokio::spawn(async move {
            while let Some(message) = receiver.recv().await {
                match message {
                    Talk::Generation(reply) => reply.send(receiver.generation()),
                    message => answer(message, |what| say(&receiver, what)),
                }
            }
        });
        tokio::spawn(meet(worker.clone()));
        worker.shutdown().await;
        Ok(())
    }

    /// Talks to the other slot's worker, once one of the two is of before the upgrade and one of after.
    async fn meet(worker: Worker<Talk, Talk>) {
        let peer = worker.peer(1 - worker.slot());
        while peer.call(Talk::Generation).await.map_or(true, |other| other == worker.generation()) {
            sleep(Duration::from_millis(1)).await;
        }
        for size in [LARGE, SMALL] {
            say(&worker, format_args!("sends {size}: {}", outcome(peer.send(Talk::Bulk(1, bulk(size, 1))).await)));
            say(&worker, format_args!("tries {size}: {}", outcome(peer.try_send(Talk::Bulk(1, bulk(size, 1))))));
            let made = peer.call(|reply| Talk::Make(size, reply)).await;
            say(&worker, format_args!("asks for {size}: {}", outcome(made.map(|bulk| check(&bulk, 0)))));
        }
        for size in [LARGE, SMALL] {
            let told = worker.broadcast(Talk::Bulk(1, bulk(size, 1))).await;
            say(&worker, format_args!("tells all {size}: {}", outcome(told)));
        }
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
        while let Some(event) = primary.next().await {
            match event {
                // The first one of after the upgrade.
                Event::Ready(id) if id.get() == 3 => {
                    for size in [LARGE, SMALL] {
                        let told = primary.broadcast(Talk::Bulk(1, bulk(size, 1))).await;
                        tell(format_args!("tells all {size}: {}", outcome(told.map(|all| all >= 2))));
                    }
                }
                _ => {}
            }
        }
    }

    const LARGE: usize = 3 << 20;
    const SMALL: usize = 100_000;
}

/// The process at the other end of a lane.
#[derive(Clone)]
enum Other {
    Primary(Worker<Talk, Talk>),
    Worker(PrimaryHandle<Talk, Talk>, WorkerId),
}

impl Other {
    async fn send(&self, message: Talk) -> Result<(), SendError> {
        match self {
            Self::Primary(worker) => worker.send(message).await,
            Self::Worker(primary, id) => primary.send(*id, message).await,
        }
    }

    async fn call<T>(&self, make: impl FnOnce(Reply<T>) -> Talk + Send) -> Result<T, CallError>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        match self {
            Self::Primary(worker) => worker.call(make).await,
            Self::Worker(primary, id) => primary.call(*id, make).await,
        }
    }

    /// Prints as the process at this end.
    fn say(&self, what: fmt::Arguments<'_>) {
        match self {
            Self::Primary(worker) => say(worker, what),
            Self::Worker(..) => tell(what),
        }
    }
}

/// Less than 64 MiB, with what is around it.
const LARGE: usize = 64_000_000;
/// How many of those are sent each way.
const MANY: u64 = 4;

/// For a worker, until the primary is gone.
async fn answer_all(worker: &Worker<Talk, Talk>) {
    while let Some(message) = worker.recv().await {
        answer(message, |what| say(worker, what));
    }
}

fn answer(message: Talk, say: impl Fn(fmt::Arguments<'_>)) {
    match message {
        Talk::Bulk(index, bulk) => say(format_args!("took {}", check(&bulk, index))),
        Talk::Make(size, reply) => reply.send(bulk(size, 0)),
        Talk::Double(number, reply) => reply.send(2 * number),
        Talk::Go | Talk::Count(_) | Talk::Generation(_) => {}
    }
}

fn bulk(size: usize, index: u64) -> Bytes {
    vec![index as u8; size].into()
}

/// Its size, if every byte is what it was.
fn check(bulk: &Bytes, index: u64) -> usize {
    let like = [index as u8; 1 << 16];
    assert!(bulk.chunks(like.len()).all(|part| *part == like[..part.len()]), "{index} has changed");
    bulk.len()
}

fn outcome<T: fmt::Debug>(result: Result<T, impl fmt::Display>) -> String {
    match result {
        Ok(value) => format!("{value:?}"),
        Err(error) => error.to_string(),
    }
}

fn argument(index: usize) -> String {
    std::env::args().nth(index).unwrap_or_default()
}

fn say(worker: &CurrentWorker, what: impl fmt::Display) {
    println!("worker {}: {what}", worker.id());
}

fn tell(what: fmt::Arguments<'_>) {
    println!("primary: {what}");
}

/// The most memory in kB that this process ever had in use.
fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts it");
    line.trim().trim_end_matches(" kB").parse().expect("it is a number")
}
