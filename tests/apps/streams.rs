//! A fixture: programs in which one process asks another for many values; the first argument chooses one, the second which way the
//! values go: `up` to the primary, or `down`. What happens is printed; what must not happen panics, and so changes the exit code.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster::{
    Answers, CallError, Config, Event, Message, Primary, PrimaryHandle, Replies, Reply, SendError, Worker, WorkerId,
};
use futures_util::stream::{StreamExt as _, try_unfold};
use serde::{Deserialize, Serialize};
use tokio::task::JoinSet;
use tokio::time::sleep;

/// What is said in both directions.
#[derive(Debug, Message)]
enum Talk {
    Number(u64),
    Lines {
        most: u64,
        lines: Replies<Line>,
    },
    /// A stream in which nothing ever comes.
    Silence(Replies<Line>),
    /// How many lines were sent so far, to whomever.
    Count(Reply<u64>),
    /// The most memory that the process has had, in kB.
    Peak(Reply<u64>),
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Line {
    number: u64,
    text: String,
}

/// Some 110 bytes on the way.
fn line(number: u64) -> Line {
    Line { number, text: "x".repeat(80) }
}

fn main() -> cluster::Result {
    let program = match argument(1).as_str() {
        "slow" => slow,
        "endless" => endless,
        "leaving" => leaving,
        "crowd" => crowd,
        other => return Err(format!("no program {other:?}").into()),
    };
    let asks = Asks { program, ways: argument(2) };
    let config = Config::new().workers(1);
    let worker_asks = asks.clone();
    cluster::run(config.primary(move |events| primary(asks.clone(), events)), move |handle| {
        worker(worker_asks.clone(), handle)
    })
}

/// Which program asks, and from where.
#[derive(Clone)]
struct Asks {
    program: fn(Other) -> Program,
    ways: String,
}

type Program = std::pin::Pin<Box<dyn Future<Output = ()> + Send>>;

async fn worker(asks: Asks, worker: Worker<Talk, Talk>) -> cluster::Result {
    worker.ready();
    // Asked for before anything else, so that `main` goes on for a while when the primary is gone.
    let shutdown = worker.shutdown();
    let answering = tokio::spawn({
        let worker = worker.clone();
        async move {
            let mut desk = Desk::of("worker");
            while let Some(message) = worker.recv().await {
                desk.take(message);
            }
        }
    });
    if asks.ways.contains("down") {
        (asks.program)(Other::Primary(worker.clone())).await;
    }
    shutdown.await;
    answering.abort();
    Ok(())
}

async fn primary(asks: Asks, mut primary: Primary<Talk, Talk>) {
    let mut desk = Desk::of("primary");
    while let Some(event) = primary.next().await {
        match event {
            Event::Ready(id) if asks.ways.contains("up") => {
                tokio::spawn((asks.program)(Other::Worker(primary.handle(), id)));
            }
            Event::Message(_, message) => desk.take(message),
            _ => {}
        }
    }
}

// ---- the one who asks ----

/// Takes a million lines, but none before no more are sent.
fn slow(other: Other) -> Program {
    Box::pin(async move {
        let mut lines = other.lines(1_000_000).await;
        let sent = settled_count(&other).await;
        other.say(&format!("stuck at {sent}"));
        take_all(&mut lines, 1_000_000).await;
        let theirs = other.call(Talk::Peak).await.expect("it answers");
        other.say(&format!("took 1000000 in order; peaks {} {theirs}", peak()));
    })
}

/// Takes lines until the other process ends.
fn endless(other: Other) -> Program {
    Box::pin(async move {
        let mut lines = other.lines(u64::MAX).await;
        let mut silence = other.stream(Talk::Silence).await.expect("it lives");
        other.say("reads");
        let mut taken = 0;
        let end = loop {
            match lines.next().await {
                Ok(Some(next)) => {
                    assert_eq!(next, line(taken));
                    taken += 1;
                }
                Ok(None) => panic!("it never ends"),
                Err(error) => break error,
            }
        };
        other.say(&format!("lines: {end:?}; silence: {:?}", silence.next().await));
    })
}

/// Takes ten lines and leaves; and leaves a stream in which nothing came.
fn leaving(other: Other) -> Program {
    Box::pin(async move {
        // As a stream of the `futures` crate's, the way the documentation says.
        let lines = try_unfold(other.lines(u64::MAX).await, |mut lines| async move {
            Ok::<_, CallError>(lines.next().await?.map(|line| (line, lines)))
        });
        let taken: Vec<_> = lines.take(10).collect().await;
        assert_eq!(taken, Vec::from_iter((0..10).map(|number| Ok(line(number)))));
        drop(other.stream(Talk::Silence).await.expect("it lives"));
    })
}

/// Many streams at once beside a flood of messages.
fn crowd(other: Other) -> Program {
    Box::pin(async move {
        let mut reading = JoinSet::new();
        for index in 0..60 {
            let mut lines = other.lines(1000 + index).await;
            reading.spawn(async move { take_all(&mut lines, 1000 + index).await });
        }
        for number in 0..50_000 {
            other.send(Talk::Number(number)).await;
        }
        reading.join_all().await;
        other.say("60 streams came whole");
    })
}

async fn take_all(lines: &mut Answers<Line>, most: u64) {
    let mut taken = 0;
    while let Some(next) = lines.next().await.expect("the stream comes whole") {
        assert_eq!(next, line(taken));
        taken += 1;
    }
    assert_eq!(taken, most);
}

/// The process that is asked.
#[derive(Clone)]
enum Other {
    Primary(Worker<Talk, Talk>),
    Worker(PrimaryHandle<Talk, Talk>, WorkerId),
}

impl Other {
    async fn lines(&self, most: u64) -> Answers<Line> {
        self.stream(|lines| Talk::Lines { most, lines }).await.expect("it lives")
    }

    async fn stream(&self, make: impl FnOnce(Replies<Line>) -> Talk) -> Result<Answers<Line>, SendError> {
        match self {
            Self::Primary(worker) => worker.stream(make).await,
            Self::Worker(primary, id) => primary.stream(*id, make).await,
        }
    }

    async fn call(&self, make: impl FnOnce(Reply<u64>) -> Talk) -> Result<u64, CallError> {
        match self {
            Self::Primary(worker) => worker.call(make).await,
            Self::Worker(primary, id) => primary.call(*id, make).await,
        }
    }

    async fn send(&self, message: Talk) {
        let sent = match self {
            Self::Primary(worker) => worker.send(message).await,
            Self::Worker(primary, id) => primary.send(*id, message).await,
        };
        sent.expect("it lives");
    }

    fn say(&self, what: &str) {
        let who = if cluster::is_worker() { "worker" } else { "primary" };
        println!("{who}: {what}");
    }
}

/// Asks how many were sent until the answer has stayed the same for a while.
async fn settled_count(other: &Other) -> u64 {
    let (mut last, mut same) = (0, 0);
    while same < 10 || last == 0 {
        sleep(Duration::from_millis(10)).await;
        let now = other.call(Talk::Count).await.expect("it answers");
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

// ---- the one who answers ----

/// Answers what it is asked, each stream in a task of its own.
struct Desk {
    who: &'static str,
    sent: Arc<AtomicU64>,
    /// The number that comes next.
    expected: u64,
}

impl Desk {
    fn of(who: &'static str) -> Self {
        Self { who, sent: Arc::default(), expected: 0 }
    }

    fn take(&mut self, message: Talk) {
        let who = self.who;
        match message {
            Talk::Number(number) => {
                assert_eq!(number, self.expected);
                self.expected += 1;
                if self.expected == 50_000 {
                    println!("{who}: took 50000 in order");
                }
            }
            Talk::Lines { most, lines } => {
                let sent = Arc::clone(&self.sent);
                tokio::spawn(async move {
                    match send_lines(most, lines, &sent).await {
                        Ok(()) => {}
                        Err(error) => println!("{who}: stops after {}: {error:?}", sent.load(Ordering::Relaxed)),
                    }
                });
            }
            Talk::Silence(lines) => {
                tokio::spawn(async move {
                    tokio::select! {
                        () = lines.closed() => println!("{who}: nobody listens to the silence"),
                        () = pending() => {}
                    }
                });
            }
            Talk::Count(reply) => reply.send(self.sent.load(Ordering::Relaxed)),
            Talk::Peak(reply) => reply.send(peak()),
        }
    }
}

async fn send_lines(most: u64, lines: Replies<Line>, sent: &AtomicU64) -> Result<(), SendError> {
    for number in 0..most {
        lines.send(line(number)).await?;
        sent.fetch_add(1, Ordering::Relaxed);
    }
    lines.finish();
    Ok(())
}

fn peak() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("this process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts it");
    line.trim().trim_end_matches(" kB").parse().expect("it is a number")
}

fn argument(index: usize) -> String {
    std::env::args().nth(index).unwrap_or_default()
}
