//! A fixture: workers that talk to each other; the first argument chooses a program. What happens is printed; what must not
//! happen panics.

use std::fmt;
use std::os::fd::RawFd;
use std::time::Duration;

use cluster::{
    CallError, Config, CurrentWorker, Event, Message, NoMessages, Primary, Reply, SendError, Sender, Worker,
};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recv, recvmsg, sendmsg};
use tokio::time::{sleep, timeout};

/// What workers say to each other, and the primary to them.
#[derive(Debug, Message)]
enum Talk {
    Number(u64),
    Double {
        number: u64,
        reply: Reply<u64>,
    },
    /// Who serves there.
    Who(Reply<(u64, u64)>),
    /// Not answered.
    Hold(Reply<u64>),
    Bulk(Vec<u8>),
}

type Talker = Worker<NoMessages, Talk>;

fn main() -> cluster::Result {
    if let Some(mark) = Mark::of_hostile() {
        misbehave(&mark);
    }
    let config = Config::new().workers(2);
    match argument(1).as_str() {
        "order" => cluster::run(config, order),
        "broadcast" => cluster::run(config, broadcast),
        "mutual" => cluster::run(config, mutual),
        "parting" => cluster::run(config, parting),
        "service" => cluster::run(config.primary(print), service),
        "flood" => cluster::run(config, flood),
        other => Err(format!("no program {other:?}").into()),
    }
}

fn argument(index: usize) -> String {
    std::env::args().nth(index).unwrap_or_default()
}

fn say(worker: &CurrentWorker, text: impl fmt::Display) {
    println!("worker {}: {text}", worker.id());
}

/// The worker of a slot may be yet to come, which nothing announces.
async fn send_when_there(worker: &Talker, slot: usize, number: u64) {
    while worker.peer(slot).send(Talk::Number(number)).await == Err(SendError::Gone) {
        sleep(Duration::from_millis(1)).await;
    }
}

/// Everybody sends to everybody, itself included, and calls, all at once.
async fn order(worker: Talker) -> cluster::Result {
    const MANY: u64 = 30_000;
    const CALLS: u64 = 200;
    worker.ready();
    let workers = argument(2).parse::<usize>().expect("a number of workers");
    for slot in 0..workers {
        let (worker, caller) = (worker.clone(), worker.clone());
        tokio::spawn(async move {
            send_when_there(&worker, slot, 0).await;
            let peer = worker.peer(slot);
            for number in 1..MANY {
                // A full window makes it wait; either way the order is kept.
                if number % 3 != 0 || peer.try_send(Talk::Number(number)).is_err() {
                    peer.send(Talk::Number(number)).await.unwrap();
                }
            }
        });
        tokio::spawn(async move {
            send_when_there(&caller, slot, 0).await;
            for number in 0..CALLS {
                let answer = caller.peer(slot).call(|reply| Talk::Double { number, reply }).await;
                assert_eq!(answer, Ok(2 * number));
            }
            say(&caller, format_args!("{CALLS} answers of slot {slot} are right"));
        });
    }
    let mut taken = vec![0; workers];
    while let Some((sender, message)) = worker.recv_from().await {
        let Sender::Worker { slot, .. } = sender else { panic!("nothing comes from {sender:?}") };
        match message {
            Talk::Number(0) => taken[slot] = taken[slot].max(1),
            Talk::Number(number) => {
                assert_eq!(number, taken[slot]);
                taken[slot] += 1;
                if taken[slot] == MANY {
                    say(&worker, format_args!("took {MANY} of slot {slot} in order"));
                }
            }
            Talk::Double { number, reply } => reply.send(2 * number),
            other => panic!("{other:?} is not said here"),
        }
    }
    Ok(())
}

/// The worker of slot 0 tells all others, again and again.
async fn broadcast(worker: Talker) -> cluster::Result {
    worker.ready();
    if worker.slot() == 0 {
        let mut before = 0;
        for number in 0.. {
            let reached = worker.broadcast(Talk::Number(number)).await?;
            if reached != before {
                before = reached;
                say(&worker, format_args!("broadcast {number} reaches {reached}"));
            }
            // Not so many that the others have to do with nothing else.
            sleep(Duration::from_millis(1)).await;
        }
    }
    let first = worker.recv_from().await;
    let Some((Sender::Worker { slot: 0, id, .. }, Talk::Number(_))) = first else {
        panic!("{first:?} is not from slot 0")
    };
    say(&worker, format_args!("heard {id}"));
    let Some(Talk::Number(mut last)) = worker.recv().await else { return Ok(()) };
    while let Some(Talk::Number(number)) = worker.recv().await {
        assert_eq!(number, last + 1);
        last = number;
    }
    Ok(())
}

/// Takes messages until none can come.
async fn mutual(worker: Talker) -> cluster::Result {
    worker.ready();
    // So that nothing else ends this.
    tokio::spawn(worker.shutdown());
    send_when_there(&worker, 1 - worker.slot(), 0).await;
    while worker.recv().await.is_some() {
        say(&worker, "has heard of the other");
    }
    say(&worker, "takes no more");
    Ok(())
}

/// The worker of slot 0 sends much to slot 1, and its main returns.
async fn parting(worker: Talker) -> cluster::Result {
    const MANY: u64 = 20_000;
    worker.ready();
    if worker.slot() == 0 {
        send_when_there(&worker, 1, 0).await;
        for number in 1..MANY {
            worker.peer(1).send(Talk::Number(number)).await?;
        }
        return Ok(());
    }
    let mut expected = 0;
    while let Some(Talk::Number(number)) = worker.recv().await {
        assert_eq!(number, expected);
        expected = (expected + 1) % MANY;
        if expected == 0 {
            say(&worker, format_args!("took {MANY} in order"));
        }
    }
    Ok(())
}

/// The worker of slot 0 floods slot 1, which takes nothing.
async fn flood(worker: Talker) -> cluster::Result {
    worker.ready();
    if worker.slot() == 0 {
        send_when_there(&worker, 1, 0).await;
        let peer = worker.peer(1);
        let mut sent = 0;
        while timeout(Duration::from_secs(1), peer.send(Talk::Bulk(vec![7; 100_000]))).await.is_ok() {
            sent += 1;
        }
        say(&worker, format_args!("stuck at {sent}"));
    }
    worker.shutdown().await;
    Ok(())
}

/// Answers its peers, and what it is asked over HTTP by asking them.
async fn service(worker: Talker) -> cluster::Result {
    use axum::Router;
    use axum::extract::Path;
    use axum::routing::get;
    tokio::spawn(answer(worker.clone()));
    let (caller, holder, prober) = (worker.clone(), worker.clone(), worker.clone());
    let identity = format!("{} {} {} {}", worker.id(), worker.slot(), worker.generation(), std::process::id());
    let app = Router::new()
        .route("/who", get(async move || identity))
        .route("/peer/{slot}", get(async move |Path(slot): Path<usize>| shown(caller.peer(slot).call(Talk::Who).await)))
        .route(
            "/hold/{slot}",
            get(async move |Path(slot): Path<usize>| format!("{:?}", holder.peer(slot).call(Talk::Hold).await)),
        )
        .route(
            "/try/{slot}",
            get(async move |Path(slot): Path<usize>| {
                let sent = prober.peer(slot).send(Talk::Number(0)).await;
                format!("{sent:?} {:?}", prober.peer(slot).try_send(Talk::Number(0)))
            }),
        );
    cluster::serve("127.0.0.1:0", app).await
}

fn shown(answer: Result<(u64, u64), CallError>) -> String {
    match answer {
        Ok((id, generation)) => format!("{id} {generation}"),
        Err(error) => format!("{error:?}"),
    }
}

/// Takes messages. Once it drains, it goes on talking to the other slot until that is gone or it is itself.
async fn answer(worker: Talker) {
    let draining = worker.clone();
    let mode = argument(2);
    if mode == "orphans" {
        tokio::spawn(async move {
            draining.shutdown().await;
            let peer = draining.peer(1 - draining.slot());
            for round in 0..20 {
                say(&draining, format_args!("drains; round {round}: {}", shown(peer.call(Talk::Who).await)));
                // Later rounds are asked by one that has been draining for a while.
                sleep(Duration::from_millis(50)).await;
            }
        });
    }
    let mut held = Vec::new();
    while let Some(message) = worker.recv().await {
        match message {
            Talk::Who(reply) => reply.send((worker.id().get(), worker.generation())),
            Talk::Double { number, reply } => reply.send(2 * number),
            Talk::Hold(reply) => {
                held.push(reply);
                say(&worker, "does not answer");
            }
            Talk::Number(_) | Talk::Bulk(_) => {}
        }
    }
    say(&worker, "takes no more");
}

async fn print(mut primary: Primary<NoMessages, Talk>) -> cluster::Result {
    while let Some(event) = primary.next().await {
        match event {
            Event::Forked(_) | Event::Ready(_) | Event::Exited(..) => println!("{event:?}"),
            _ => {}
        }
    }
    Ok(())
}

/// What the mark says, as far as it matters here.
struct Mark {
    worker: u64,
    slot: u64,
    control: RawFd,
}

impl Mark {
    /// With a third argument, the third worker is hostile.
    fn of_hostile() -> Option<Self> {
        let mark = std::env::var("CLUSTER_WORKER").ok()?;
        let value =
            |key: &str| mark.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse::<u64>().ok());
        let (worker, slot, control) = (value("worker")?, value("slot")?, value("control")?);
        (worker == 3 && !argument(3).is_empty()).then_some(())?;
        Some(Self { worker, slot, control: RawFd::try_from(control).ok()? })
    }
}

/// Never calls `cluster::run`: it speaks on the inherited descriptors by hand.
fn misbehave(mark: &Mark) -> ! {
    let &Mark { worker, slot, control } = mark;
    send(control, &hello());
    // The mailboxes and the welcome.
    (0..2).for_each(|_| drop(receive(control)));
    send(control, &READY);
    match argument(3).as_str() {
        "loop" => {
            let mut got = 0;
            for _ in 0..1000 {
                for (slot, worker) in [0, 1].into_iter().flat_map(|slot| [1, 2, worker].map(|worker| (slot, worker))) {
                    got += try_ask(control, slot, worker).len();
                }
            }
            println!("hostile: got {got} lanes");
        }
        "absurd" => {
            let mut got = 0;
            for slot in [2, 3, 1023, 1024, 1 << 20, u64::MAX] {
                for worker in [0, 1, 2, worker, 4, 1 << 31, u64::MAX] {
                    got += try_ask(control, slot, worker).len();
                }
            }
            println!("hostile: got {got} lanes");
        }
        "garbage" => {
            let lanes = [1, 2].map(|worker| try_ask(control, 1 - slot, worker)).concat();
            for lane in &lanes {
                send(*lane, b"GET / HTTP/1.1\r\nhost: cluster\r\n\r\n");
                // It blocks, until the other side has had enough.
                while !matches!(recv(*lane, &mut [0; 16], MsgFlags::empty()), Ok(0) | Err(_)) {}
            }
            println!("hostile: lost {} lanes", lanes.len());
        }
        "deaf" => (0..u64::MAX).for_each(|_| send(control, &ask(1 - slot, 1))),
        other => panic!("no behaviour {other:?}"),
    }
    // It does not go by itself.
    loop {
        std::thread::park();
    }
}

/// The packets by hand: protocol, number of descriptors, then variants and integers of fixed width, little-endian.
/// The first byte of every packet on the control lane.
const PROTOCOL: u8 = 6;
const READY: [u8; 6] = [PROTOCOL, 0, 2, 0, 0, 0];

fn hello() -> Vec<u8> {
    let mut packet = vec![PROTOCOL, 0, 0, 0, 0, 0];
    let schemas = [
        (<NoMessages as Message>::NAME, NoMessages::fingerprint().to_string()),
        (<Talk as Message>::NAME, Talk::fingerprint().to_string()),
    ];
    for (name, fingerprint) in schemas {
        packet.extend((name.len() as u64).to_le_bytes());
        packet.extend(name.as_bytes());
        packet.extend(u64::from_str_radix(&fingerprint, 16).expect("it shows as hex digits").to_le_bytes());
    }
    packet
}

fn ask(slot: u64, worker: u64) -> Vec<u8> {
    let mut packet = vec![PROTOCOL, 0, 5, 0, 0, 0];
    packet.extend(slot.to_le_bytes());
    packet.extend(worker.to_le_bytes());
    packet
}

/// Asks for a lane to the worker, and returns what comes. When it visits itself, two ends come.
fn try_ask(control: RawFd, slot: u64, worker: u64) -> Vec<RawFd> {
    send(control, &ask(slot, worker));
    let mut fds = Vec::new();
    loop {
        let (kind, came) = receive(control);
        fds.extend(came);
        if kind == PEER {
            return fds;
        }
    }
}

/// The answer to a request for a lane.
const PEER: u8 = 9;

fn send(socket: RawFd, bytes: &[u8]) {
    let parts = [std::io::IoSlice::new(bytes)];
    patiently(|| sendmsg::<()>(socket, &parts, &[], MsgFlags::MSG_NOSIGNAL, None));
}

/// Of which kind the next packet is, and what comes with it.
fn receive(control: RawFd) -> (u8, Vec<RawFd>) {
    let mut packet = [0; 4096];
    let mut space = nix::cmsg_space!([RawFd; 64]);
    let fds = patiently(|| {
        let mut parts = [std::io::IoSliceMut::new(&mut packet)];
        let message = recvmsg::<()>(control, &mut parts, Some(&mut space), MsgFlags::empty())?;
        let rights = message.cmsgs()?.filter_map(|part| match part {
            ControlMessageOwned::ScmRights(fds) => Some(fds),
            _ => None,
        });
        Ok(rights.flatten().collect::<Vec<_>>())
    });
    (packet[2], fds)
}

/// The control lane does not block, and a descriptor that is a bare number cannot be polled without unsafe code: so this looks again
/// and again.
fn patiently<T>(mut call: impl FnMut() -> nix::Result<T>) -> T {
    loop {
        match call() {
            Ok(result) => return result,
            Err(Errno::EAGAIN | Errno::ETOOMANYREFS) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }
}
