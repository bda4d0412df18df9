//! A fixture: programs whose processes talk; the first argument chooses one, the second its way. Each is a module with the
//! worker's side and the primary's. What happens is printed; what must not happen panics, and so changes the exit code.

use std::fmt;
use std::future::pending;
use std::time::Duration;

use cluster::{Config, CurrentWorker, Event, Message, Primary, PrimaryHandle, Reply, TrySendError, Worker, WorkerId};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::de::{Error as _, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use tokio::time::sleep;

/// What is said in most programs, in both directions.
#[derive(Debug, Message)]
enum Talk {
    Go,
    Number(u64),
    Bulk(u64, Blob),
    /// How much was sent so far.
    Count(Reply<u64>),
    Double {
        number: u64,
        reply: Reply<u64>,
    },
    /// Not answered.
    Hold(Reply<u64>),
    Touchy(Touchy),
}

fn main() -> cluster::Result {
    if cluster::is_worker() {
        match (argument(1).as_str(), way().as_str()) {
            ("life", "stillborn") => std::process::exit(7),
            // Until the primary function continues it, the process exists and has not said hello.
            ("stages", _) => kill(Pid::this(), Signal::SIGSTOP).expect("a process may stop itself"),
            _ => {}
        }
    }
    let config = Config::new().workers(2);
    match argument(1).as_str() {
        "backlog" => cluster::run(config.primary(backlog::primary), backlog::worker),
        "broadcast" => cluster::run(config.primary(broadcast::primary), broadcast::worker),
        "calls" => cluster::run(config.primary(calls::primary), calls::worker),
        "deaf" => cluster::run(config.primary(deaf::primary), deaf::worker),
        "early" => cluster::run(config.primary(early::primary), early::worker),
        "endless" => cluster::run(config.primary(endless::primary), endless::worker),
        "flood-down" => cluster::run(config.primary(flood_down::primary), flood_down::worker),
        "flood-up" => cluster::run(config.primary(flood_up::primary), flood_up::worker),
        "gone" => cluster::run(config.primary(gone::primary), gone::worker),
        "handles" => cluster::run(config.primary(handles::primary), handles::worker),
        "life" => cluster::run(config.primary(life::primary), life::worker),
        "nobody" => cluster::run(config, unheard::worker),
        "order" => cluster::run(config.primary(order::primary), order::worker),
        "orphan" => cluster::run(config.primary(orphan::primary), orphan::worker),
        "parting" => cluster::run(config.primary(parting::primary), parting::worker),
        "shapes" => cluster::run(config.primary(shapes::primary), shapes::worker),
        "spin" => cluster::run(config.primary(spin::primary), spin::worker),
        "stages" => cluster::run(config.primary(stages::primary), stages::worker),
        "told" => cluster::run(config.primary(told::primary), told::worker),
        "touchy" => cluster::run(config.primary(touchy::primary), touchy::worker),
        "unanswered" => cluster::run(config.primary(unanswered::primary), unanswered::worker),
        "unheard" => cluster::run(config.primary(unheard::primary), unheard::worker),
        other => Err(format!("no program {other:?}").into()),
    }
}

/// Values of every shape that serde knows, in a message of every shape that the derive knows.
mod shapes {
    use std::collections::{BTreeMap, HashMap};
    use std::net::SocketAddr;
    use std::path::PathBuf;

    use serde::de::DeserializeOwned;

    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Point {
        x: i32,
        y: f64,
    }

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub(super) struct Marker;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    pub(super) enum Tree {
        Leaf,
        Node(Box<Self>, u16, Box<Self>),
    }

    impl Tree {
        fn of(depth: u16) -> Self {
            (0..depth).fold(Self::Leaf, |tree, depth| Self::Node(Box::new(tree), depth, Box::new(Self::Leaf)))
        }
    }

    #[derive(Clone, Debug, PartialEq, Message)]
    pub(super) enum Shape<T>
    where
        T: Serialize + DeserializeOwned + Send + 'static,
    {
        Unit,
        NoParts(),
        NoFields {},
        Tuple(u8, i64, char, bool),
        Named {
            text: String,
            list: Vec<u8>,
            blob: Blob,
        },
        Nested(Point, Tree, Marker),
        Generic(T),
        Optional(Option<Box<T>>, Option<String>),
        Collections {
            texts: Vec<Option<String>>,
            map: HashMap<String, Vec<u32>>,
            sorted: BTreeMap<u16, ()>,
            array: [i8; 4],
            pair: (u128, i128),
        },
        #[serde(rename = "another")]
        Renamed {
            #[serde(rename = "x")]
            value: f32,
        },
        Skipped {
            kept: u8,
            #[serde(skip)]
            skipped: u8,
        },
        With(#[serde(with = "as_text")] u64),
        Foreign(Duration, SocketAddr, PathBuf, Result<u8, String>),
    }

    mod as_text {
        use super::*;

        pub(super) fn serialize<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
            number.to_string().serialize(serializer)
        }

        pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
            String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
        }
    }

    fn samples() -> Vec<Shape<Point>> {
        let point = Point { x: i32::MIN, y: -0.5 };
        vec![
            Shape::Unit,
            Shape::NoParts(),
            Shape::NoFields {},
            Shape::Tuple(u8::MAX, i64::MIN, '🦀', true),
            Shape::Named { text: "grüße\0\n".into(), list: (0..=255).collect(), blob: Blob::of(1000, 7) },
            Shape::Named { text: String::new(), list: Vec::new(), blob: Blob::of(0, 0) },
            Shape::Nested(point.clone(), Tree::of(100), Marker),
            Shape::Generic(point.clone()),
            Shape::Optional(Some(Box::new(point)), None),
            Shape::Optional(None, Some("text".into())),
            Shape::Collections {
                texts: vec![None, Some("a".into()), Some(String::new())],
                map: [("one".into(), vec![1]), ("none".into(), vec![]), ("many".into(), (0..300).collect())].into(),
                sorted: [(3, ()), (1, ()), (2, ())].into(),
                array: [-1, 0, 1, i8::MIN],
                pair: (u128::MAX, i128::MIN),
            },
            Shape::Renamed { value: f32::MAX },
            Shape::Skipped { kept: 1, skipped: 0 },
            Shape::With(u64::MAX),
            Shape::Foreign(Duration::from_nanos(1), ([127, 0, 0, 1], 80).into(), "/a/b".into(), Err("no".into())),
        ]
    }

    pub(super) async fn worker(worker: Worker<Shape<Point>, Shape<Point>>) -> cluster::Result {
        worker.ready();
        let too_deep = Shape::Nested(Point { x: 0, y: 0.0 }, Tree::of(1000), Marker);
        say(&worker, format_args!("nests too deep: {:?}", worker.send(too_deep).await));
        for sample in samples() {
            worker.send(sample).await?;
        }
        for sample in samples() {
            assert_eq!(worker.recv().await, Some(sample));
        }
        say(&worker, "all came back equal");
        worker.shutdown().await;
        Ok(())
    }

    /// Sends back what it gets.
    pub(super) async fn primary(mut primary: Primary<Shape<Point>, Shape<Point>>) -> cluster::Result {
        let mut expected: HashMap<WorkerId, std::vec::IntoIter<Shape<Point>>> = HashMap::new();
        while let Some(event) = primary.next().await {
            if let Event::Message(id, shape) = event {
                assert_eq!(Some(&shape), expected.entry(id).or_insert_with(|| samples().into_iter()).next().as_ref());
                primary.send(id, shape).await?;
            }
        }
        Ok(())
    }
}

/// Many messages in both directions at once.
mod order {
    use super::*;

    const MANY: u64 = 100_000;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        let sending = async {
            for number in 0..MANY {
                worker.send(Talk::Number(number)).await?;
            }
            Ok::<_, cluster::SendError>(())
        };
        let (sent, ()) = tokio::join!(sending, expect_numbers(&worker, MANY));
        sent?;
        say(&worker, format_args!("took {MANY} in order"));
        worker.shutdown().await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
        let mut ledger = Ledger::default();
        while let Some(event) = primary.next().await {
            match event {
                Event::Forked(id) => _ = tokio::spawn(send_numbers(primary.handle(), id, MANY)),
                Event::Message(id, Talk::Number(number)) if ledger.enter(id, number) == MANY => {
                    tell(format_args!("took {MANY} of {id} in order"));
                }
                _ => {}
            }
        }
    }
}

/// Many questions at once, answered last first.
mod calls {
    use super::*;

    const MANY: u64 = 500;

    type Asked = Vec<(u64, Reply<u64>)>;

    /// Answers when all have asked.
    fn hold(asked: &mut Asked, number: u64, reply: Reply<u64>) {
        asked.push((number, reply));
        if asked.len() as u64 == MANY {
            asked.drain(..).rev().for_each(|(number, reply)| reply.send(2 * number));
        }
    }

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..MANY {
            let worker = worker.clone();
            calls.spawn(async move { (number, worker.call(|reply| Talk::Double { number, reply }).await) });
        }
        let receiver = worker.clone();
        tokio::spawn(async move {
            let mut asked = Asked::new();
            while let Some(Talk::Double { number, reply }) = receiver.recv().await {
                hold(&mut asked, number, reply);
            }
        });
        for (number, answer) in calls.join_all().await {
            assert_eq!(answer, Ok(2 * number));
        }
        say(&worker, format_args!("{MANY} answers are right"));
        worker.shutdown().await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
        let mut asked = std::collections::HashMap::<WorkerId, Asked>::new();
        while let Some(event) = primary.next().await {
            match event {
                Event::Forked(id) => _ = tokio::spawn(ask(primary.handle(), id)),
                Event::Message(id, Talk::Double { number, reply }) => hold(asked.entry(id).or_default(), number, reply),
                _ => {}
            }
        }
    }

    async fn ask(primary: PrimaryHandle<Talk, Talk>, id: WorkerId) {
        let mut calls = tokio::task::JoinSet::new();
        for number in 0..MANY {
            let primary = primary.clone();
            calls.spawn(async move { (number, primary.call(id, |reply| Talk::Double { number, reply }).await) });
        }
        for (number, answer) in calls.join_all().await {
            assert_eq!(answer, Ok(2 * number));
        }
        tell(format_args!("{MANY} answers of {id} are right"));
    }
}

/// Questions that the other side drops; the lanes go on.
mod unanswered {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        say(&worker, format_args!("{:?}", worker.call(Talk::Hold).await));
        say(&worker, format_args!("{:?}", worker.call(|reply| Talk::Double { number: 4, reply }).await));
        answer(&worker).await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
        while let Some(event) = primary.next().await {
            match event {
                Event::Message(_, Talk::Hold(reply)) => drop(reply),
                Event::Message(id, Talk::Double { number, reply }) => {
                    reply.send(2 * number);
                    let unanswered = primary.call(id, Talk::Hold).await;
                    let answered = primary.call(id, |reply| Talk::Double { number: 5, reply }).await;
                    tell(format_args!("{unanswered:?} {answered:?}"));
                }
                _ => {}
            }
        }
    }
}

/// The primary function calls a worker and leaves unread what that worker sends.
mod backlog {
    use super::*;

    const MANY: u64 = 30_000;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        let sent = Counter::default();
        tokio::spawn(answer_counts(worker.clone(), sent.clone()));
        for number in 0..MANY {
            worker.send(Talk::Bulk(number, Blob::of(100, 0))).await?;
            sent.set(number + 1);
        }
        worker.shutdown().await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
        let mut ledger = Ledger::default();
        while let Some(event) = primary.next().await {
            match event {
                Event::Online(id) => {
                    let waiting = settled(async || primary.call(id, Talk::Count).await.expect("it answers")).await;
                    assert!((5000..MANY).contains(&waiting), "{waiting} wait unread");
                    tell(format_args!("called {id} while its messages waited"));
                }
                Event::Message(id, Talk::Bulk(number, _)) if ledger.enter(id, number) == MANY => {
                    tell(format_args!("took {MANY} of {id} in order"));
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// One message to all, and how many it was sent to.
mod broadcast {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        while let Some(message) = worker.recv().await {
            match message {
                Talk::Number(number) => say(&worker, format_args!("heard {number}")),
                _ => std::process::abort(),
            }
        }
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
        let mut ready = 0;
        while let Some(event) = primary.next().await {
            match event {
                Event::Ready(id) => {
                    ready += 1;
                    if ready == 3 {
                        tell(format_args!("1 sent to {}", primary.broadcast(Talk::Number(1)).await?));
                        primary.send(id, Talk::Go).await?;
                    }
                }
                Event::Exited(id, _) if ready == 3 => {
                    ready = 0;
                    tell(format_args!("{id} is gone, 2 sent to {}", primary.broadcast(Talk::Number(2)).await?));
                }
                _ => {}
            }
        }
        tell(format_args!("none is left, 3 sent to {}", primary.broadcast(Talk::Number(3)).await?));
        Ok(())
    }
}

/// Messages that are sent before anybody takes any.
mod early {
    use super::*;

    const MANY: u64 = 1000;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        for number in 0..MANY {
            worker.send(Talk::Number(number)).await?;
        }
        worker.ready();
        // Answered late, so that all of the primary's messages wait here before the first is taken.
        worker.call(Talk::Count).await?;
        expect_numbers(&worker, MANY).await;
        say(&worker, format_args!("took {MANY} in order"));
        worker.shutdown().await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
        // Not one event is taken before all workers are ready.
        while !(primary.workers().len() == 2
            && primary.workers().iter().all(|worker| worker.state == cluster::WorkerState::Ready))
        {
            sleep(TICK).await;
        }
        let mut ledger = Ledger::default();
        while let Some(event) = primary.next().await {
            match event {
                Event::Forked(id) => send_numbers(primary.handle(), id, MANY).await,
                Event::Message(id, Talk::Number(number)) if ledger.enter(id, number) == MANY => {
                    tell(format_args!("took {MANY} of {id} in order"));
                }
                Event::Message(_, Talk::Count(reply)) => reply.send(0),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A worker's last messages, whatever way it ends.
mod parting {
    use super::*;

    const MANY: u64 = 10_000;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        worker.recv().await;
        if worker.id().get() > 1 {
            worker.shutdown().await;
            return Ok(());
        }
        for number in 0..MANY {
            worker.send(Talk::Number(number)).await?;
        }
        match way().as_str() {
            "returns" => return Ok(()),
            "fails" => return Err("on purpose".into()),
            _ => worker.flush().await,
        }
        match way().as_str() {
            "aborts" => std::process::abort(),
            "exits" => std::process::exit(7),
            _ => kill_oneself(),
        }
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
        let mut ledger = Ledger::default();
        while let Some(event) = primary.next().await {
            match event {
                // It may be gone already.
                Event::Ready(id) => _ = primary.send(id, Talk::Go).await,
                Event::Message(id, Talk::Number(number)) => {
                    if ledger.enter(id, number) == MANY {
                        tell(format_args!("took {MANY} of {id} in order"));
                    }
                }
                event => println!("{event:?}"),
            }
        }
        Ok(())
    }
}

/// Much more than fits anywhere, from workers to a primary function that takes nothing at first.
mod flood_up {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        let sent = Counter::default();
        tokio::spawn(answer_counts(worker.clone(), sent.clone()));
        for index in 0..BULKS {
            worker.send(bulk(index)).await?;
            sent.set(index + 1);
        }
        worker.shutdown().await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
        let mut ledger = Ledger::default();
        while let Some(event) = primary.next().await {
            match event {
                Event::Online(id) => {
                    let sent = settled(async || primary.call(id, Talk::Count).await.expect("it answers")).await;
                    tell(format_args!("stuck at {sent}"));
                }
                Event::Message(id, Talk::Bulk(index, blob)) => {
                    assert!(blob.is(index), "{index} has changed");
                    if ledger.enter(id, index) == BULKS {
                        tell(format_args!("took all in order; peaks {} {}", peak(None), peak(pid_of(&primary, id))));
                    }
                }
                _ => {}
            }
        }
    }
}

/// The same from the primary function to a worker.
mod flood_down {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        let sent = settled(async || worker.call(Talk::Count).await.expect("it answers")).await;
        say(&worker, format_args!("stuck at {sent}"));
        for expected in 0..BULKS {
            let Some(Talk::Bulk(index, blob)) = worker.recv().await else { panic!("a bulk is missing") };
            assert!(index == expected && blob.is(index), "{index} instead of {expected}");
        }
        say(&worker, "took all in order");
        worker.send(Talk::Go).await?;
        worker.shutdown().await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
        let sent = Counter::default();
        while let Some(event) = primary.next().await {
            match event {
                Event::Forked(id) => {
                    let (primary, sent) = (primary.handle(), sent.clone());
                    tokio::spawn(async move {
                        for index in 0..BULKS {
                            primary.send(id, bulk(index)).await.expect("it lives");
                            sent.set(index + 1);
                        }
                    });
                }
                Event::Message(_, Talk::Count(reply)) => reply.send(sent.get()),
                Event::Message(id, Talk::Go) => {
                    tell(format_args!("peaks {} {}", peak(None), peak(pid_of(&primary, id))));
                }
                _ => {}
            }
        }
    }
}

/// A worker that takes nothing, beside one that does.
mod deaf {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        if worker.slot() == 0 {
            worker.shutdown().await;
        } else {
            answer(&worker).await;
        }
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
        let (deaf, other) = two_ready(&mut primary).await;
        let mut queued = 0;
        let refusal = loop {
            match primary.try_send(deaf, Talk::Bulk(0, Blob::of(1000, 0))) {
                Ok(()) => queued += 1,
                Err(refusal) => break refusal,
            }
        };
        tell(format_args!("{refusal:?} after {queued}"));
        // Nor is there room for anything smaller.
        while primary.try_send(deaf, Talk::Number(0)).is_ok() {}
        let handle = primary.handle();
        let sending = tokio::spawn(async move { handle.send(deaf, Talk::Number(1)).await });
        let handle = primary.handle();
        let calling = tokio::spawn(async move { handle.call(deaf, Talk::Count).await });
        let handle = primary.handle();
        let broadcasting = tokio::spawn(async move { handle.broadcast(Talk::Number(2)).await });
        // Its answer comes behind what was broadcast.
        tell(format_args!("{:?}", primary.call(other, |reply| Talk::Double { number: 21, reply }).await));
        sleep(10 * TICK).await;
        assert!(!sending.is_finished() && !calling.is_finished() && !broadcasting.is_finished());
        tell(format_args!("{:?}, and three wait", primary.try_send(deaf, Talk::Number(3))));
        kill(pid_of(&primary, deaf).expect("it lives"), Signal::SIGKILL).expect("it is ours");
        let (sent, answer, reached) = tokio::join!(sending, calling, broadcasting);
        tell(format_args!("{sent:?} {answer:?} {reached:?}"));
        primary.shutdown();
        while primary.next().await.is_some() {}
        Ok(())
    }
}

/// A worker that dies with questions open.
mod gone {
    use super::*;

    const MANY: u64 = 100;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        let mut held = Vec::new();
        while let Some(Talk::Hold(reply)) = worker.recv().await {
            held.push(reply);
            if held.len() as u64 == MANY {
                kill_oneself();
            }
        }
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
        let (victim, _) = two_ready(&mut primary).await;
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..MANY {
            let primary = primary.handle();
            calls.spawn(async move { primary.call(victim, Talk::Hold).await });
        }
        let answers = calls.join_all().await;
        let gone = answers.iter().filter(|answer| **answer == Err(cluster::CallError::Gone)).count();
        tell(format_args!("{gone} of {MANY} calls: Gone"));
        // Dead or reaped makes no difference.
        tell(format_args!("dead: {}", try_all(&primary, victim).await));
        while let Some(event) = primary.next().await {
            if matches!(event, Event::Exited(id, _) if id == victim) {
                tell(format_args!("reaped: {}", try_all(&primary, victim).await));
            }
        }
        Ok(())
    }

    async fn try_all(primary: &PrimaryHandle<Talk, Talk>, id: WorkerId) -> String {
        let sent = primary.send(id, Talk::Go).await;
        let tried = primary.try_send(id, Talk::Go);
        let called = primary.call(id, Talk::Count).await;
        format!("{sent:?} {tried:?} {called:?}")
    }
}

/// Workers whose primary is killed in the middle of everything.
mod orphan {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        let shutdown = worker.shutdown();
        let calling = async { say(&worker, format_args!("call: {:?}", worker.call(Talk::Hold).await)) };
        let sending = async {
            let end = loop {
                if let Err(error) = worker.send(bulk(0)).await {
                    break error;
                }
            };
            say(&worker, format_args!("send: {end:?}"));
        };
        let receiving = async { say(&worker, format_args!("recv: {:?}", worker.recv().await)) };
        tokio::join!(calling, sending, receiving);
        say(&worker, format_args!("later: {:?} {:?}", worker.send(Talk::Go).await, worker.call(Talk::Count).await));
        shutdown.await;
        Ok(())
    }

    /// Takes until all have asked, and then nothing any more.
    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
        let mut held = Vec::new();
        while held.len() < 2 {
            if let Some(Event::Message(_, Talk::Hold(reply))) = primary.next().await {
                held.push(reply);
            }
        }
        tell("all have asked");
        pending::<()>().await;
    }
}

/// A primary function that hears nothing (any more).
mod unheard {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        say(&worker, format_args!("call: {:?}", worker.call(Talk::Count).await));
        for index in 0..5000 {
            worker.send(Talk::Bulk(index, Blob::of(1000, 0))).await?;
        }
        say(&worker, format_args!("sent all; call: {:?}", worker.call(Talk::Count).await));
        worker.shutdown().await;
        Ok(())
    }

    pub(super) async fn primary(primary: Primary<Talk, Talk>) -> cluster::Result {
        if way() == "drops" {
            let handle = primary.handle();
            drop(primary);
            while handle.workers().is_empty() {
                sleep(TICK).await;
            }
            while !handle.workers().is_empty() {
                sleep(TICK).await;
            }
            tell("all workers are gone");
        }
        Ok(())
    }
}

/// A primary function that never lets go of its thread.
mod spin {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        loop {
            tokio::select! {
                () = worker.shutdown() => return Ok(()),
                sent = worker.send(bulk(0)) => sent?,
            }
        }
    }

    #[expect(clippy::infinite_loop, reason = "it is meant to block for ever")]
    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
        two_ready(&mut primary).await;
        tell("spins");
        loop {
            std::hint::spin_loop();
        }
    }
}

/// Workers that send for ever.
mod endless {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        let flooder = worker.clone();
        let flooding = async move {
            for number in 0.. {
                if number == 10_000 {
                    say(&flooder, "floods");
                }
                flooder.send(Talk::Number(number)).await?;
            }
            Ok(())
        };
        match way().as_str() {
            "in-main" => flooding.await,
            "in-a-task" => {
                tokio::spawn(flooding);
                pending().await
            }
            _ => tokio::select! {
                () = worker.shutdown() => Ok(()),
                end = flooding => end,
            },
        }
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
        while primary.next().await.is_some() {}
    }
}

mod told {
    use super::*;

    /// More than a window and all buffers hold, so that taking is what keeps the flood going.
    const UNDER_WAY: u64 = 200_000;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        let sent = Counter::default();
        tokio::spawn(answer_counts(worker.clone(), sent.clone()));
        tokio::spawn(flood(worker.clone(), sent.clone()));
        worker.shutdown().await;
        if way() == "unread" {
            assert!(matches!(worker.try_send(Talk::Go), Err(TrySendError::Full)));
            say(&worker, "told while it waits for room");
        } else {
            let before = sent.get();
            while sent.get() == before {
                sleep(TICK).await;
            }
            say(&worker, "told amid the flood");
        }
        Ok(())
    }

    async fn flood(worker: Worker<Talk, Talk>, sent: Counter) {
        while worker.send(Talk::Number(sent.get())).await.is_ok() {
            sent.set(sent.get() + 1);
        }
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) {
        let (one, two) = two_ready(&mut primary).await;
        if way() == "unread" {
            for id in [one, two] {
                settled(async || primary.call(id, Talk::Count).await.expect("it answers")).await;
            }
            order(&primary, one, two).await;
            while [one, two].into_iter().any(|id| pid_of(&primary, id).is_some()) {
                sleep(TICK).await;
            }
            tell("both have ended, and nothing was read");
        } else {
            let mut latest = [0, 0];
            while latest.into_iter().any(|number| number < UNDER_WAY) {
                if let Event::Message(id, Talk::Number(number)) = primary.next().await.expect("the cluster runs") {
                    latest[usize::from(id == two)] = number;
                }
            }
            order(&primary, one, two).await;
        }
        while primary.next().await.is_some() {}
    }

    /// In both ways in which a single worker can be told to end.
    async fn order(primary: &PrimaryHandle<Talk, Talk>, one: WorkerId, two: WorkerId) {
        primary.disconnect(one).await.expect("it lives");
        kill(pid_of(primary, two).expect("it lives"), Signal::SIGTERM).expect("it can be signalled");
    }
}

/// Messages that cannot be read.
mod touchy {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        let first = worker.id().get() == 1;
        // Comes when the primary function has heard that this worker is ready; until then it must not misbehave.
        if first && way().starts_with("up") {
            worker.recv().await;
        }
        match way().as_str() {
            "up-fails" if first => worker.send(Talk::Touchy(Touchy::Fails)).await?,
            "up-panics" if first => worker.send(Talk::Touchy(Touchy::Panics)).await?,
            _ => {}
        }
        while let Some(message) = worker.recv().await {
            say(&worker, format_args!("took {message:?}"));
        }
        say(&worker, format_args!("heard the end; send: {:?}", worker.send(Talk::Go).await));
        worker.shutdown().await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
        while let Some(event) = primary.next().await {
            match event {
                Event::Ready(id) if id.get() == 1 => {
                    let message = match way().as_str() {
                        "down-fails" => Talk::Touchy(Touchy::Fails),
                        "down-panics" => Talk::Touchy(Touchy::Panics),
                        _ => Talk::Go,
                    };
                    primary.send(id, message).await?;
                }
                _ => {}
            }
            println!("{event:?}");
        }
        Ok(())
    }
}

/// Prints every event, and what the list of workers says that contradicts it.
mod life {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        println!("in a worker: worker={} primary={}", cluster::is_worker(), cluster::is_primary());
        let first = worker.id().get() == 1;
        match way().as_str() {
            "fails" => return Err("on purpose".into()),
            "is-brief" => {
                worker.ready();
                return Ok(());
            }
            _ => {}
        }
        let _one = cluster::listen("127.0.0.1:0").await?;
        let _two = if way() == "two-ports" { Some(cluster::listen("127.0.0.1:0").await?) } else { None };
        let shutdown = worker.shutdown();
        // Comes when the primary function has heard that this worker is ready.
        worker.recv().await;
        match way().as_str() {
            "exits" if first => std::process::exit(42),
            "leaves" if first => worker.disconnect(),
            _ => {}
        }
        shutdown.await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
        println!("in the primary: worker={} primary={}", cluster::is_worker(), cluster::is_primary());
        let mut ready = 0;
        while let Some(event) = primary.next().await {
            println!("{event:?}");
            check(&primary, &event);
            if let Event::Ready(id) = event {
                _ = primary.send(id, Talk::Go).await;
                ready += 1;
                if way() == "stops-itself" && ready == 3 {
                    primary.shutdown();
                    primary.shutdown();
                }
            }
        }
        println!("None, and again {:?}, with {} workers", primary.next().await, primary.workers().len());
        Ok(())
    }

    /// The list is never behind the events; it may be ahead of them.
    fn check(primary: &Primary<Talk, Talk>, event: &Event<Talk>) {
        let info = |id: &WorkerId| primary.workers().into_iter().find(|info| info.id == *id);
        match event {
            Event::Online(id) => {
                if let Some(info) = info(id)
                    && !info.connected
                {
                    println!("CONTRADICTION: {event:?} and {info:?}");
                }
            }
            Event::Ready(id) => {
                if let Some(info) = info(id)
                    && info.state == cluster::WorkerState::Starting
                {
                    println!("CONTRADICTION: {event:?} and {info:?}");
                }
            }
            Event::Exited(id, _) => {
                if let Some(info) = info(id) {
                    println!("CONTRADICTION: {event:?} and {info:?}");
                }
            }
            // A worker that was just forked may be gone already, but not while none has exited at all.
            Event::Forked(id) if way() == "two-ports" && info(id).is_none() => {
                println!("CONTRADICTION: {event:?} and it is not in the list");
            }
            _ => {}
        }
    }
}

/// One worker that goes from stage to stage when the primary function lets it, and what the list says at each.
mod stages {
    use cluster::WorkerState;

    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        let shutdown = worker.shutdown();
        worker.recv().await;
        worker.ready();
        shutdown.await;
        worker.recv().await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
        while let Some(event) = primary.next().await {
            match event {
                Event::Forked(id) => {
                    show(&primary, "forked");
                    let pid = pid_of(&primary, id).expect("it is in the list");
                    let stopped =
                        || std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") T "));
                    while !stopped() {
                        sleep(TICK).await;
                    }
                    show(&primary, "stopped");
                    kill(pid, Signal::SIGCONT).expect("it is ours");
                }
                Event::Online(id) => {
                    show(&primary, "online");
                    primary.send(id, Talk::Go).await?;
                }
                Event::Ready(id) => {
                    show(&primary, "ready");
                    primary.shutdown();
                    while primary.workers().iter().any(|info| info.state == WorkerState::Ready) {
                        sleep(TICK).await;
                    }
                    show(&primary, "told to go");
                    primary.send(id, Talk::Go).await?;
                }
                Event::Exited(..) => show(&primary, "exited"),
                _ => {}
            }
        }
        Ok(())
    }

    fn show(primary: &Primary<Talk, Talk>, when: &str) {
        tell(format_args!("{when}: {:?}", primary.workers()));
    }
}

/// The handle in other hands than the events.
mod handles {
    use super::*;

    pub(super) async fn worker(worker: Worker<Talk, Talk>) -> cluster::Result {
        worker.ready();
        answer(&worker).await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Primary<Talk, Talk>) -> cluster::Result {
        let (one, two) = two_ready(&mut primary).await;
        let (in_thread, in_task, rest) = (primary.handle(), primary.handle(), primary.handle());
        let moved = tokio::spawn(async move { while primary.next().await.is_some() {} });
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let answer = runtime.block_on(in_thread.call(one, |reply| Talk::Double { number: 1, reply }));
            let sent = in_thread.try_send(one, Talk::Number(7));
            format!("in a thread: {answer:?} {sent:?} {}", in_thread.workers().len())
        });
        let task = tokio::spawn(async move {
            let answer = in_task.call(two, |reply| Talk::Double { number: 2, reply }).await;
            let reached = in_task.clone().broadcast(Talk::Number(8)).await;
            format!("in a task: {answer:?} {reached:?}")
        });
        tell(task.await.expect("it does not panic"));
        // This thread drives the lanes, so it must not wait for the other by blocking.
        let joined = tokio::task::spawn_blocking(|| thread.join()).await.expect("it does not panic");
        tell(joined.expect("it does not panic"));
        // What they answer comes behind what they heard.
        for id in [one, two] {
            rest.call(id, |reply| Talk::Double { number: 3, reply }).await?;
        }
        std::thread::spawn(move || rest.shutdown());
        moved.await.map_err(cluster::Error::other)
    }
}

/// How often a program looks at what nothing announces.
const TICK: Duration = Duration::from_millis(10);
/// How many blobs of [`BULK`] bytes are a flood of 110 MB.
const BULKS: u64 = 1100;
const BULK: usize = 100_000;

fn bulk(index: u64) -> Talk {
    Talk::Bulk(index, Blob::of(BULK, index))
}

fn argument(index: usize) -> String {
    std::env::args().nth(index).unwrap_or_default()
}

fn way() -> String {
    argument(2)
}

fn say(worker: &CurrentWorker, what: impl fmt::Display) {
    println!("worker {}: {what}", worker.id());
}

fn tell(what: impl fmt::Display) {
    println!("primary: {what}");
}

fn kill_oneself() -> ! {
    kill(Pid::this(), Signal::SIGKILL).expect("a process may kill itself");
    unreachable!("it is dead")
}

/// The worker's pid, by the list.
fn pid_of(primary: &PrimaryHandle<Talk, Talk>, id: WorkerId) -> Option<Pid> {
    let info = primary.workers().into_iter().find(|info| info.id == id)?;
    Some(Pid::from_raw(info.pid.cast_signed()))
}

/// The most memory in kB that a process (or this one) ever had in use.
fn peak(pid: Option<Pid>) -> u64 {
    let path = format!("/proc/{}/status", pid.unwrap_or_else(Pid::this));
    let status = std::fs::read_to_string(path).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel counts it");
    line.trim().trim_end_matches(" kB").parse().expect("it is a number")
}

/// The ids of the workers in slots 0 and 1, once both are ready.
async fn two_ready(primary: &mut Primary<Talk, Talk>) -> (WorkerId, WorkerId) {
    let mut ready = Vec::new();
    while ready.len() < 2 {
        if let Event::Ready(id) = primary.next().await.expect("the cluster runs") {
            ready.push(id);
        }
    }
    // The first workers are spawned in the order of their slots.
    ready.sort_unstable();
    (ready[0], ready[1])
}

/// Asks until the answer has stayed the same for a while.
async fn settled(ask: impl AsyncFn() -> u64) -> u64 {
    let (mut last, mut same) = (0, 0);
    while same < 10 || last == 0 {
        sleep(TICK).await;
        let now = ask().await;
        same = if now == last { same + 1 } else { 0 };
        last = now;
    }
    last
}

async fn send_numbers(primary: PrimaryHandle<Talk, Talk>, id: WorkerId, many: u64) {
    for number in 0..many {
        primary.send(id, Talk::Number(number)).await.expect("the worker lives");
    }
}

async fn expect_numbers(worker: &Worker<Talk, Talk>, many: u64) {
    for expected in 0..many {
        match worker.recv().await {
            Some(Talk::Number(number)) => assert_eq!(number, expected),
            other => panic!("{other:?} in place of {expected}"),
        }
    }
}

/// Answers what can be asked, until the worker is to end.
async fn answer(worker: &Worker<Talk, Talk>) {
    while let Some(message) = worker.recv().await {
        match message {
            Talk::Number(number) => say(worker, format_args!("heard {number}")),
            Talk::Bulk(index, blob) => say(worker, format_args!("bulk {index} of {}", blob.0.len())),
            Talk::Double { number, reply } => reply.send(2 * number),
            Talk::Go | Talk::Touchy(_) | Talk::Count(_) | Talk::Hold(_) => {}
        }
    }
}

async fn answer_counts(worker: Worker<Talk, Talk>, sent: Counter) {
    while let Some(message) = worker.recv().await {
        if let Talk::Count(reply) = message {
            reply.send(sent.get());
        }
    }
}

/// What was sent so far.
#[derive(Clone, Default)]
struct Counter(std::sync::Arc<std::sync::atomic::AtomicU64>);

impl Counter {
    fn get(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn set(&self, count: u64) {
        self.0.store(count, std::sync::atomic::Ordering::Relaxed);
    }
}

/// What came from each worker so far.
#[derive(Default)]
struct Ledger(std::collections::HashMap<WorkerId, u64>);

impl Ledger {
    /// Counts a message that must be the next of this worker; how many that makes.
    fn enter(&mut self, worker: WorkerId, number: u64) -> u64 {
        let count = self.0.entry(worker).or_default();
        assert_eq!(number, *count, "from worker {worker}");
        *count += 1;
        *count
    }
}

/// Bytes that serde takes as bytes, not one by one.
#[derive(Clone, PartialEq)]
struct Blob(Vec<u8>);

impl Blob {
    fn of(size: usize, index: u64) -> Self {
        Self(vec![index as u8; size])
    }

    fn is(&self, index: u64) -> bool {
        self.0.first() == Some(&(index as u8)) && self.0.last() == self.0.first()
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Blob({})", self.0.len())
    }
}

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;

        impl Visitor<'_> for Bytes {
            type Value = Blob;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Blob, E> {
                Ok(Blob(bytes))
            }

            fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Blob, E> {
                Ok(Blob(bytes.to_vec()))
            }
        }

        deserializer.deserialize_byte_buf(Bytes)
    }
}

/// Can be written, and not be read.
#[derive(Clone, Copy, Debug)]
enum Touchy {
    Fails,
    Panics,
}

impl Serialize for Touchy {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bool(matches!(self, Self::Panics))
    }
}

impl<'de> Deserialize<'de> for Touchy {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if bool::deserialize(deserializer)? {
            panic!("touched");
        }
        Err(D::Error::custom("do not touch"))
    }
}
