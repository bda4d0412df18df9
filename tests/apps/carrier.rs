//! A fixture: programs whose processes send each other descriptors; the first argument chooses one, the second its way. What
//! happens is printed; what must not happen panics, and so changes the exit code.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use cluster::{Config, CurrentWorker, Event, Fd, Message, Primary, PrimaryHandle, Reply, Sender, Worker, WorkerId};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::sleep;

/// What is said in all programs, in both directions.
#[derive(Debug, Message)]
enum Talk {
    Go,
    Done,
    Count(Reply<u64>),
    /// By whom it was accepted.
    Connection(usize, Fd<TcpStream>),
    Listener(Fd<TcpListener>),
    Port(Reply<Fd<TcpListener>>),
    /// Its number can be read from it, and then its end.
    Numbered(u64, Fd<UnixStream>),
    Several(Vec<Fd<OwnedFd>>),
}

type Talker = Worker<Talk, Talk>;
type Teller = Primary<Talk, Talk>;

fn main() -> cluster::Result {
    let config = Config::new().workers(2);
    match argument(1).as_str() {
        "hand-over" => cluster::run(config.primary(hand_over::primary), hand_over::worker),
        "listener" => cluster::run(config.primary(listener::primary), listener::worker),
        "exchange" => cluster::run(config.primary(exchange::primary), exchange::worker),
        "deaf" => cluster::run(config.primary(deaf::primary), deaf::worker),
        "unread-up" => cluster::run(config.primary(unread_up::primary), unread_up::worker),
        "unread-down" => cluster::run(config.primary(unread_down::primary), unread_down::worker),
        "exhausted" => cluster::run(config.primary(exhausted::primary), exhausted::worker),
        other => Err(format!("no program {other:?}").into()),
    }
}

/// Whoever accepts a connection hands it over, and somebody else answers.
mod hand_over {
    use super::*;

    pub(super) async fn worker(worker: Talker) -> cluster::Result {
        tokio::spawn(answer(worker.clone()));
        let other = 1 - worker.slot();
        accept_all(&worker, async |message| match argument(2).as_str() {
            // The other one may be gone for a moment at the end.
            "peer" => _ = worker.peer(other).send(message).await,
            _ => worker.send(message).await.expect("the primary lives"),
        })
        .await
    }

    pub(super) async fn primary(mut primary: Teller) {
        while let Some(event) = primary.next().await {
            let Event::Message(_, Talk::Connection(accepted_by, connection)) = event else { continue };
            if argument(2) == "primary" {
                tokio::spawn(serve(connection, format!("accepted by slot {accepted_by}, answered by the primary")));
                continue;
            }
            let other = primary.workers().into_iter().find(|info| info.slot != accepted_by).expect("two workers");
            primary.send(other.id, Talk::Connection(accepted_by, connection)).await.expect("it lives");
        }
    }

    async fn answer(worker: Talker) {
        while let Some(message) = worker.recv().await {
            let Talk::Connection(accepted_by, connection) = message else { panic!("{message:?} is not said here") };
            let text = format!("accepted by slot {accepted_by}, answered by slot {}", worker.slot());
            tokio::spawn(serve(connection, text));
        }
    }
}

/// The workers accept on a listener that the primary has opened, and gives away when it is asked, or unasked.
mod listener {
    use super::*;

    pub(super) async fn worker(worker: Talker) -> cluster::Result {
        worker.ready();
        let listener = match argument(2).as_str() {
            "asked" => worker.call(Talk::Port).await?,
            _ => match worker.recv().await {
                Some(Talk::Listener(listener)) => listener,
                other => panic!("{other:?} is not said here"),
            },
        };
        let listener = tokio::net::TcpListener::from_std(listener.into_inner()?)?;
        worker.send(Talk::Done).await?;
        let mut shutdown = Box::pin(worker.shutdown());
        loop {
            tokio::select! {
                () = &mut shutdown => return Ok(()),
                accepted = listener.accept() => {
                    let connection = Fd::new(accepted?.0.into_std()?);
                    // Nothing waits for others that accept, so that the other one gets some.
                    serve(connection, format!("slot {}", worker.slot())).await;
                }
            }
        }
    }

    pub(super) async fn primary(mut primary: Teller) -> cluster::Result {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        listener.set_nonblocking(true)?;
        let (mut done, address) = (0, listener.local_addr()?);
        let mut listener = Some(listener);
        while let Some(event) = primary.next().await {
            match (event, &listener) {
                (Event::Ready(id), Some(listener)) if argument(2) == "sent" => {
                    primary.send(id, Talk::Listener(listener.try_clone()?.into())).await?;
                }
                (Event::Message(_, Talk::Port(reply)), Some(listener)) => reply.send(listener.try_clone()?.into()),
                (Event::Message(_, Talk::Done), _) => {
                    done += 1;
                    if done == 2 {
                        // The workers' are all that is left.
                        listener = None;
                        println!("both accept on {address}");
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }
}

/// Descriptors on all lanes at once, in rounds that `USR1` begins.
mod exchange {
    use super::*;

    /// As many as go each way on each lane in a round.
    const MANY: u64 = 3000;

    pub(super) async fn worker(worker: Talker) -> cluster::Result {
        worker.ready();
        loop {
            let (mut from_primary, mut from_peer, mut sending) = (0, 0, None);
            // The other worker may begin earlier.
            while from_primary + from_peer < 2 * MANY {
                match worker.recv_from().await {
                    Some((Sender::Primary, Talk::Go)) => sending = Some(tokio::spawn(send_all(worker.clone()))),
                    Some((Sender::Primary, message)) => expect_number(message, &mut from_primary),
                    Some((Sender::Worker { .. }, message)) => expect_number(message, &mut from_peer),
                    Some((sender, _)) => panic!("nothing comes from {sender:?}"),
                    None => return Ok(()),
                }
            }
            sending.expect("the primary says so first").await.map_err(cluster::Error::other)?;
            worker.send(Talk::Done).await?;
        }
    }

    /// To the primary and to the other worker at once.
    async fn send_all(worker: Talker) {
        let peer = worker.peer(1 - worker.slot());
        let to_primary = async {
            for number in 0..MANY {
                worker.send(numbered(number)).await.expect("the primary lives");
            }
        };
        let to_peer = async {
            for number in 0..MANY {
                peer.send(numbered(number)).await.expect("the other lives");
            }
        };
        tokio::join!(to_primary, to_peer);
    }

    pub(super) async fn primary(mut primary: Teller) -> cluster::Result {
        let (mut ready, mut done) = (Vec::new(), 0);
        let mut taken = [0, 0];
        while let Some(event) = primary.next().await {
            match event {
                Event::Ready(id) => {
                    ready.push(id);
                    if ready.len() == 2 {
                        println!("both are ready");
                    }
                }
                Event::ReopenLogs => {
                    taken = [0, 0];
                    for id in ready.iter().copied() {
                        let primary = primary.handle();
                        tokio::spawn(async move {
                            primary.send(id, Talk::Go).await.expect("it lives");
                            for number in 0..MANY {
                                primary.send(id, numbered(number)).await.expect("it lives");
                            }
                        });
                    }
                }
                Event::Message(_, Talk::Done) => {
                    done += 1;
                    if done % 2 == 0 {
                        assert_eq!(taken, [MANY, MANY]);
                        println!("round {} is done", done / 2);
                    }
                }
                Event::Message(id, message) => {
                    let place = ready.iter().position(|other| *other == id).expect("it is ready");
                    expect_number(message, &mut taken[place]);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn expect_number(message: Talk, expected: &mut u64) {
        let Talk::Numbered(number, fd) = message else { panic!("{message:?} is not said here") };
        assert_eq!(number, *expected);
        assert_eq!(read_number(fd).expect("it works"), number);
        *expected += 1;
    }
}

/// One worker accepts connections, which the primary hands on to another one that takes nothing.
mod deaf {
    use super::*;

    pub(super) async fn worker(worker: Talker) -> cluster::Result {
        if worker.slot() == 0 {
            return accept_all(&worker, async |message| worker.send(message).await.expect("the primary lives")).await;
        }
        worker.ready();
        worker.shutdown().await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Teller) {
        let mut handed_on = 0;
        while let Some(event) = primary.next().await {
            let Event::Message(_, message) = event else { continue };
            let deaf = primary.workers().into_iter().find(|info| info.slot == 1).expect("two workers").id;
            let handle = primary.handle();
            handed_on += 1;
            println!("hands on {handed_on}");
            // More than the window has room for.
            tokio::spawn(async move { _ = handle.send(deaf, message).await });
        }
    }
}

/// Connections wait in messages that the primary function has not taken while the worker that sent them, or the primary, is
/// replaced.
mod unread_up {
    use super::*;

    pub(super) async fn worker(worker: Talker) -> cluster::Result {
        let (receiver, sent) = (worker.clone(), Counter::default());
        tokio::spawn(answer_counts(receiver, sent.clone()));
        accept_all(&worker, async |message| {
            worker.send(message).await.expect("the primary lives");
            sent.add(1);
        })
        .await
    }

    pub(super) async fn primary(mut primary: Teller) -> cluster::Result {
        let who = if primary.carried::<bool>()?.is_some() { "the next program" } else { "the first program" };
        if who == "the first program" {
            while ready(&primary).len() < 2 {
                sleep(TICK).await;
            }
            println!("takes nothing yet");
            while sent_by_all(&primary).await < UNREAD {
                sleep(TICK).await;
            }
            let handle = primary.handle();
            match argument(2).as_str() {
                "upgrade" => _ = tokio::spawn(async move { handle.upgrade().await }),
                _ => println!("reloaded: {:?}", handle.reload().await),
            }
        }
        while let Some(event) = primary.next().await {
            match event {
                Event::Message(_, Talk::Connection(_, connection)) => {
                    serve(connection, format!("answered by {who}")).await;
                    if argument(2) == "upgrade" && who == "the first program" {
                        // So that it hears of the upgrade before the last one.
                        sleep(10 * TICK).await;
                    }
                }
                Event::Upgrading => {
                    primary.carry(&true)?;
                    return Ok(());
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn sent_by_all(primary: &PrimaryHandle<Talk, Talk>) -> u64 {
        let mut sum = 0;
        for id in ready(primary) {
            sum += primary.call(id, Talk::Count).await.expect("it answers");
        }
        sum
    }
}

/// Connections wait in messages for a worker that takes none until it is to end, while it, or the primary, is replaced.
mod unread_down {
    use super::*;

    pub(super) async fn worker(worker: Talker) -> cluster::Result {
        if worker.slot() == 0 {
            return accept_all(&worker, async |message| worker.send(message).await.expect("the primary lives")).await;
        }
        worker.ready();
        worker.shutdown().await;
        // All are for the first one.
        let waiting = if worker.generation() == 1 { UNREAD } else { 0 };
        for _ in 0..waiting {
            match worker.recv().await {
                Some(Talk::Connection(_, connection)) => {
                    serve(connection, format!("answered by {}", worker.id())).await;
                }
                other => panic!("{other:?} is not said here"),
            }
        }
        Ok(())
    }

    pub(super) async fn primary(mut primary: Teller) -> cluster::Result {
        let mut handed_on = 0;
        while let Some(event) = primary.next().await {
            match event {
                Event::Message(_, message) => {
                    let all = primary.workers();
                    let last = all.into_iter().filter(|info| info.slot == 1).min_by_key(|info| info.id);
                    primary.send(last.expect("it lives").id, message).await?;
                    handed_on += 1;
                    if handed_on == UNREAD {
                        println!("has handed on {handed_on}");
                    }
                }
                Event::Upgrading => return Ok(()),
                _ => {}
            }
        }
        Ok(())
    }
}

/// A worker that has no room for the descriptors that come.
mod exhausted {
    use super::*;

    pub(super) async fn worker(worker: Talker) -> cluster::Result {
        worker.ready();
        let fillers = fill(0)?;
        worker.send(Talk::Go).await?;
        for expected in 0..3 {
            let Some(Talk::Numbered(number, fd)) = worker.recv().await else { panic!("a number is missing") };
            assert_eq!(number, expected);
            say(&worker, format_args!("{number} without room: {:?}", kind_of(fd.into_inner())));
        }
        drop(fillers);
        let fillers = fill(2)?;
        worker.send(Talk::Go).await?;
        let Some(Talk::Several(several)) = worker.recv().await else { panic!("several are missing") };
        let found: Vec<_> = several.into_iter().map(|fd| kind_of(fd.into_inner())).collect();
        say(&worker, format_args!("several with room for two: {found:?}"));
        drop(fillers);
        worker.send(Talk::Go).await?;
        let Some(Talk::Numbered(7, fd)) = worker.recv().await else { panic!("the last is missing") };
        say(&worker, format_args!("7 with room: {:?}", read_number(fd)));
        worker.shutdown().await;
        Ok(())
    }

    pub(super) async fn primary(mut primary: Teller) -> cluster::Result {
        let mut asked = 0;
        while let Some(event) = primary.next().await {
            let Event::Message(id, Talk::Go) = event else { continue };
            asked += 1;
            match asked {
                1 => {
                    for number in 0..3 {
                        primary.send(id, numbered(number)).await?;
                    }
                }
                2 => {
                    let several = (0..4).map(|_| File::open("/dev/null").map(|file| Fd::new(file.into())));
                    primary.send(id, Talk::Several(several.collect::<io::Result<_>>()?)).await?;
                }
                _ => primary.send(id, numbered(7)).await?,
            }
        }
        Ok(())
    }

    /// Takes every descriptor that this process may have, but for so many.
    fn fill(room: usize) -> io::Result<Vec<File>> {
        let open =
            std::fs::read_dir("/proc/self/fd")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
        let limit = open.max().unwrap_or(0) + 5;
        let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        setrlimit(Resource::RLIMIT_NOFILE, limit, hard)?;
        let mut fillers = Vec::new();
        while let Ok(file) = File::open("/dev/null") {
            fillers.push(file);
        }
        fillers.truncate(fillers.len() - room);
        Ok(fillers)
    }

    fn kind_of<T>(taken: io::Result<T>) -> Result<(), nix::Error> {
        taken.map(drop).map_err(|error| nix::Error::from_raw(error.raw_os_error().expect("it is the kernel's")))
    }
}

/// How many connections wait unread: no more than one lane takes.
const UNREAD: u64 = 40;

/// How often a program looks at what nothing announces.
const TICK: Duration = Duration::from_millis(10);

/// Accepts on a port of the cluster until the drain, and gives every connection away.
async fn accept_all(worker: &Talker, give: impl AsyncFn(Talk)) -> cluster::Result {
    let listener = cluster::listen("127.0.0.1:0").await?;
    worker.ready();
    while let Ok((stream, _)) = listener.accept().await {
        give(Talk::Connection(worker.slot(), TcpStream::from(stream.into_fd()?).into())).await;
    }
    Ok(())
}

/// Answers one request.
async fn serve(connection: Fd<TcpStream>, text: String) {
    let connection = connection.into_inner().expect("there is room");
    let mut connection = tokio::net::TcpStream::from_std(connection).expect("it does not block");
    let (mut head, mut buffer) = (Vec::new(), [0; 1024]);
    while !head.ends_with(b"\r\n\r\n") {
        match connection.read(&mut buffer).await {
            Ok(0) | Err(_) => return,
            Ok(read) => head.extend_from_slice(&buffer[..read]),
        }
    }
    let head = format!("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n", text.len());
    // A client may be gone.
    _ = connection.write_all((head + &text).as_bytes()).await;
    _ = connection.shutdown().await;
}

fn numbered(number: u64) -> Talk {
    let (mut far, near) = UnixStream::pair().expect("there is room");
    far.write_all(&number.to_le_bytes()).expect("it fits");
    Talk::Numbered(number, near.into())
}

/// The number is all that can be read: nobody else holds the other end.
fn read_number(fd: Fd<UnixStream>) -> io::Result<u64> {
    let mut bytes = Vec::new();
    fd.into_inner()?.read_to_end(&mut bytes)?;
    bytes.try_into().map(u64::from_le_bytes).map_err(|bytes| io::Error::other(format!("{bytes:?} is no number")))
}

async fn answer_counts(worker: Talker, sent: Counter) {
    while let Some(message) = worker.recv().await {
        if let Talk::Count(reply) = message {
            reply.send(sent.get());
        }
    }
}

fn ready(primary: &PrimaryHandle<Talk, Talk>) -> Vec<WorkerId> {
    let all = primary.workers().into_iter();
    all.filter(|info| info.state == cluster::WorkerState::Ready).map(|info| info.id).collect()
}

fn argument(index: usize) -> String {
    std::env::args().nth(index).unwrap_or_default()
}

fn say(worker: &CurrentWorker, what: impl fmt::Display) {
    println!("worker {}: {what}", worker.id());
}

/// What was sent so far.
#[derive(Clone, Default)]
struct Counter(std::sync::Arc<std::sync::atomic::AtomicU64>);

impl Counter {
    fn get(&self) -> u64 {
        self.0.load(std::sync::atomic::Ordering::Relaxed)
    }

    fn add(&self, count: u64) {
        self.0.fetch_add(count, std::sync::atomic::Ordering::Relaxed);
    }
}
