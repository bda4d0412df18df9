//! A fixture: programs in which one process asks another for many values; the first argument chooses one, the second which way the
//! values go: `up` to the primary, `down`, or `between` two workers. What happens is printed; what must not happen panics, and so
//! changes the exit code.

use std::future::pending;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use cluster::{
    Answers, CallError, Config, Event, Message, Peer, Primary, PrimaryHandle, Replies, Reply, SendError, Worker,
    WorkerId,
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
        /// Of each line, about, in bytes.
        size: usize,
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

fn line(number: u64, size: usize) -> Line {
    Line { number, text: "x".repeat(size) }
}

/// With it, a line is some 110 bytes on the way.
const SMALL: usize = 80;
/// With it, a line travels in pieces.
const LARGE: usize = 300_000;

// They outlive the program.
static TO_SEND: cluster::Counter = cluster::counter!("to_send", "lines that were about to be sent");
static SENT: cluster::Counter = cluster::counter!("sent", "lines that were sent");
static WHOLE: cluster::Counter = cluster::counter!("whole", "streams that came whole to the next program");
static UNWANTED: cluster::Counter = cluster::counter!("unwanted", "streams that nobody wanted any more");

fn main() -> cluster::Result {
    let program = match argument(1).as_str() {
        "slow" => slow,
        "endless" => endless,
        "leaving" => leaving,
        "crowd" => crowd,
        "renewed" => renewed,
        other => return Err(format!("no program {other:?}").into()),
    };
    let asks = Asks { program, ways: argument(2) };
    let config = Config::new().workers(if asks.ways.contains("between") { 2 } else { 1 });
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
    let answering = tokio::spawn(answer(asks.clone(), worker.clone()));
    // Of the next program, nobody asks.
    if asks.ways.contains("down") && worker.generation() == 1 {
        (asks.program)(Other::Primary(worker.clone())).await;
    }
    if asks.ways.contains("between") && (worker.slot() == 0 || asks.ways.contains("both")) {
        tokio::spawn(ask_neighbour(asks.clone(), worker.clone()));
    }
    shutdown.await;
    // Until this one and its successor have answered the next program, and this one knows that the one before has left.
    while asks.ways.contains("stay") && (WHOLE.total() < 2 || UNWANTED.total() < 2) {
        sleep(Duration::from_millis(1)).await;
    }
    answering.abort();
    Ok(())
}

async fn answer(asks: Asks, worker: Worker<Talk, Talk>) {
    let who = if asks.ways.contains("between") { format!("slot {}", worker.slot()) } else { "worker".into() };
    println!("{who}: lives as {}", std::process::id());
    if asks.ways.contains("late up") && worker.generation() == 1 {
        worker.shutdown().await;
    }
    let mut desk = Desk::of(&who);
    while let Some(message) = worker.recv().await {
        desk.take(message);
    }
}

/// The one that is there, and with `again` those that follow it.
async fn ask_neighbour(asks: Asks, worker: Worker<Talk, Talk>) {
    loop {
        let other = Other::Slot { own: worker.slot(), peer: worker.peer(1 - worker.slot()) };
        while other.call(Talk::Count).await.is_err() {
            sleep(Duration::from_millis(1)).await;
        }
        (asks.program)(other).await;
        if !asks.ways.contains("again") {
            return;
        }
    }
}

async fn primary(asks: Asks, mut primary: Primary<Talk, Talk>) -> cluster::Result {
    let mut desk = Desk::of("primary");
    let is_next: Option<bool> = primary.carried()?;
    let program = if is_next.is_some() { next_program } else { asks.program };
    while let Some(event) = primary.next().await {
        match event {
            Event::Ready(id) if asks.ways.contains("up") => {
                tokio::spawn(program(Other::Worker(primary.handle(), id)));
            }
            Event::Message(_, message) => desk.take(message),
            Event::Upgrading => primary.carry(&true)?,
            _ => {}
        }
    }
    Ok(())
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
        let asked = (other.stream(Talk::Silence).await, other.stream(endless_lines(SMALL)).await);
        // Of one that has just ended, nobody is told anything.
        let (Ok(mut silence), Ok(mut lines)) = asked else { return };
        let Ok(first) = lines.next().await else { return };
        assert_eq!(first, Some(line(0, SMALL)));
        // So both requests were taken, in their order.
        other.say("reads");
        let (_, end) = take_until_end(&mut lines, 1, SMALL).await;
        other.say(&format!("lines: {end:?}; silence: {:?}", silence.next().await));
    })
}

/// Takes lines until the primary is another program, and then a stream of that.
fn renewed(other: Other) -> Program {
    Box::pin(async move {
        let size = if argument(2).contains("large") { LARGE } else { SMALL };
        let mut lines = other.stream(endless_lines(size)).await.expect("it lives");
        let _silence = other.stream(Talk::Silence).await.expect("it lives");
        // One that is late takes nothing so far. Elsewhere it is to be this program that is asked, and not the next one.
        if !argument(2).contains("late up") {
            settled_count(&other).await;
        }
        other.say("reads");
        if let Other::Primary(worker) = &other
            && argument(2).contains("late down")
        {
            worker.shutdown().await;
        }
        let (taken, end) = take_until_end(&mut lines, 0, size).await;
        other.say(&format!("took {taken} of {} to {}: {end:?}", SENT.total(), TO_SEND.total()));
        if let Other::Primary(_) = other {
            next_program(other).await;
        }
    })
}

/// Takes a stream whole, after the upgrade.
fn next_program(other: Other) -> Program {
    Box::pin(async move {
        take_all(&mut other.lines(1000).await, 1000).await;
        other.say("took 1000 in order after the upgrade");
        WHOLE.add(1);
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
        assert_eq!(taken, Vec::from_iter((0..10).map(|number| Ok(line(number, SMALL)))));
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
        assert_eq!(next, line(taken, SMALL));
        taken += 1;
    }
    assert_eq!(taken, most);
}

/// How many lines were taken of a stream that is never complete, with those before, and its end.
async fn take_until_end(lines: &mut Answers<Line>, mut taken: u64, size: usize) -> (u64, CallError) {
    loop {
        match lines.next().await {
            Ok(Some(next)) => {
                assert!(next == line(taken, size), "line {} came for line {taken}", next.number);
                taken += 1;
            }
            Ok(None) => panic!("it never ends"),
            Err(error) => return (taken, error),
        }
    }
}

fn endless_lines(size: usize) -> impl FnOnce(Replies<Line>) -> Talk {
    move |lines| Talk::Lines { most: u64::MAX, size, lines }
}

/// The process that is asked.
#[derive(Clone)]
enum Other {
    Primary(Worker<Talk, Talk>),
    Worker(PrimaryHandle<Talk, Talk>, WorkerId),
    Slot {
        /// The asking worker's.
        own: usize,
        peer: Peer<Talk>,
    },
}

impl Other {
    async fn lines(&self, most: u64) -> Answers<Line> {
        self.stream(|lines| Talk::Lines { most, size: SMALL, lines }).await.expect("it lives")
    }

    async fn stream(&self, make: impl FnOnce(Replies<Line>) -> Talk) -> Result<Answers<Line>, SendError> {
        match self {
            Self::Primary(worker) => worker.stream(make).await,
            Self::Worker(primary, id) => primary.stream(*id, make).await,
            Self::Slot { peer, .. } => peer.stream(make).await,
        }
    }

    async fn call(&self, make: impl FnOnce(Reply<u64>) -> Talk) -> Result<u64, CallError> {
        match self {
            Self::Primary(worker) => worker.call(make).await,
            Self::Worker(primary, id) => primary.call(*id, make).await,
            Self::Slot { peer, .. } => peer.call(make).await,
        }
    }

    async fn send(&self, message: Talk) {
        let sent = match self {
            Self::Primary(worker) => worker.send(message).await,
            Self::Worker(primary, id) => primary.send(*id, message).await,
            Self::Slot { peer, .. } => peer.send(message).await,
        };
        sent.expect("it lives");
    }

    fn say(&self, what: &str) {
        match self {
            Self::Primary(_) => println!("worker: {what}"),
            Self::Worker(..) => println!("primary: {what}"),
            Self::Slot { own, .. } => println!("slot {own}: {what}"),
        }
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
    who: Arc<str>,
    sent: Arc<AtomicU64>,
    /// The number that comes next.
    expected: u64,
}

impl Desk {
    fn of(who: &str) -> Self {
        Self { who: who.into(), sent: Arc::default(), expected: 0 }
    }

    fn take(&mut self, message: Talk) {
        let who = Arc::clone(&self.who);
        match message {
            Talk::Number(number) => {
                assert_eq!(number, self.expected);
                self.expected += 1;
                if self.expected == 50_000 {
                    println!("{who}: took 50000 in order");
                }
            }
            Talk::Lines { most, size, lines } => {
                let sent = Arc::clone(&self.sent);
                tokio::spawn(async move {
                    match send_lines(most, size, lines, &sent).await {
                        Ok(()) => {}
                        Err((number, error)) => {
                            println!("{who}: stops after {number}: {error:?}");
                            UNWANTED.add(1);
                        }
                    }
                });
            }
            Talk::Silence(lines) => {
                tokio::spawn(async move {
                    tokio::select! {
                        () = lines.closed() => {
                            println!("{who}: nobody listens to the silence");
                            UNWANTED.add(1);
                        }
                        () = pending() => {}
                    }
                });
            }
            Talk::Count(reply) => reply.send(self.sent.load(Ordering::Relaxed)),
            Talk::Peak(reply) => reply.send(peak()),
        }
    }
}

/// If it has to stop, after how many lines.
async fn send_lines(most: u64, size: usize, lines: Replies<Line>, sent: &AtomicU64) -> Result<(), (u64, SendError)> {
    for number in 0..most {
        TO_SEND.add(1);
        lines.send(line(number, size)).await.map_err(|error| (number, error))?;
        SENT.add(1);
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
