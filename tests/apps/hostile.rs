//! A fixture: a service whose third worker breaks the protocol; the first argument says how. The others serve.
//!
//! The third worker never calls `cluster::run`: it reads the mark and speaks on the inherited descriptors by hand.

use std::os::fd::RawFd;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use cluster::{Config, Message, Primary, Worker};
use nix::errno::Errno;
use nix::sys::socket::{ControlMessage, MsgFlags, recv, sendmsg};

#[derive(Debug, Message)]
enum ToPrimary {
    /// Never sent; something to get wrong.
    Hit(u64),
}

#[derive(Debug, Message)]
enum ToWorker {
    News(String),
}

fn main() -> cluster::Result {
    match Mark::of_hostile() {
        Some(mark) => misbehave(&mark),
        None => cluster::run(Config::new().workers(2).primary(watch), serve),
    }
}

fn behaviour() -> String {
    std::env::args().nth(1).unwrap_or_default()
}

async fn serve(worker: Worker<ToPrimary, ToWorker>) -> cluster::Result {
    let identity = format!("{} {} {} {}", worker.id(), worker.slot(), worker.generation(), std::process::id());
    let app = Router::new().route("/who", get(async move || identity));
    tokio::spawn(async move { while let Some(ToWorker::News(_)) = worker.recv().await {} });
    cluster::serve("127.0.0.1:0", app).await
}

/// The primary function: tells everybody a lot if that is what this is about, and prints what happens.
async fn watch(mut primary: Primary<ToPrimary, ToWorker>) -> cluster::Result {
    let mut tick = tokio::time::interval(Duration::from_millis(2));
    loop {
        tokio::select! {
            event = primary.next() => match event {
                Some(event) => println!("{event:?}"),
                None => return Ok(()),
            },
            _ = tick.tick(), if behaviour() == "deaf" => {
                let mut broadcast = std::pin::pin!(primary.broadcast(ToWorker::News("x".repeat(64 << 10))));
                let patience = Duration::from_millis(500);
                if tokio::time::timeout(patience, &mut broadcast).await.is_err() {
                    println!("a broadcast waits");
                    broadcast.await?;
                    println!("the broadcast is done");
                }
            }
        }
    }
}

/// What the mark says, as far as it matters here.
struct Mark {
    control: RawFd,
    messages: RawFd,
}

impl Mark {
    fn of_hostile() -> Option<Self> {
        let mark = std::env::var("CLUSTER_WORKER").ok()?;
        let value =
            |key: &str| mark.split(' ').find_map(|word| word.strip_prefix(key)?.strip_prefix('=')?.parse().ok());
        (value("worker") == Some(3)).then_some(())?;
        Some(Self { control: value("control")?, messages: value("messages")? })
    }
}

fn misbehave(mark: &Mark) -> ! {
    let Mark { control, messages } = *mark;
    match behaviour().as_str() {
        "garbage" => send(control, &[PROTOCOL, 0xff, 0xfe, 0xfd, 0xfc]),
        "empty" => send(control, &[PROTOCOL]),
        "oversized" => send(control, &[PROTOCOL; 5000]),
        "huge" => send(control, &[PROTOCOL; 100_000]),
        "protocol" => send(control, &hello_as(PROTOCOL + 1, "ToPrimary", fingerprint::<ToPrimary>())),
        "codec" => send(control, &hello_as(PROTOCOL ^ 0x80, "ToPrimary", fingerprint::<ToPrimary>())),
        "fingerprint" => send(control, &hello_as(PROTOCOL, "ToPrimary", 42)),
        "type-name" => send(control, &hello_as(PROTOCOL, "FromAnotherProgram", 42)),
        "hello-twice" => {
            greet(control);
            send(control, &hello());
        }
        "no-hello" => send(control, &ready()),
        "descriptors" => send_fds(control, &[PROTOCOL, 0xff], 100),
        "descriptors-with-sense" => {
            send_fds(control, &hello(), 100);
            (0..100).for_each(|_| send_fds(control, &ready(), 100));
            send(control, &[PROTOCOL, 0xff]);
        }
        "silence" => nix::unistd::close(control).expect("it was open"),
        "chatter" => {
            greet(control);
            loop {
                send(control, &ready());
            }
        }
        "ports" => {
            greet(control);
            (0..u64::MAX).for_each(|request| send(control, &listen(request, 0)));
        }
        "many-ports" => {
            greet(control);
            for request in 0..5000 {
                send(control, &listen(request, request as u32));
                receive(control);
            }
            println!("it has asked for many ports");
        }
        "deaf" => {
            greet(control);
            send(control, &ready());
        }
        "message-garbage" => say(control, messages, b"GET / HTTP/1.1\r\nhost: cluster\r\n\r\n"),
        "message-giant" => say(control, messages, &[0xff, 0xff, 0xff, 0x7f, 1]),
        "message-kind" => say(control, messages, &[1, 0, 0, 0, 99]),
        "message-unknown" => say(control, messages, &frame(&variant(9))),
        "message-longer" => say(control, messages, &frame(&[variant(0), number(1), vec![7]].concat())),
        "message-credit" => say(control, messages, &[5, 0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]),
        "message-half" => {
            say(control, messages, &[200, 0, 0, 0, 1, 0]);
            std::process::exit(7);
        }
        other => panic!("no behaviour {other:?}"),
    }
    // It does not go by itself.
    loop {
        std::thread::sleep(Duration::from_secs(60));
    }
}

/// The first byte of every packet on the control lane. Its highest bit names the codec.
const PROTOCOL: u8 = if POSTCARD { 5 | 0x80 } else { 5 };

/// As the library was built.
const POSTCARD: bool = cfg!(all(feature = "postcard", not(feature = "bincode")));

// The packets by hand: protocol, then variants and integers; little-endian, of fixed width or of as many times seven bits as it takes.

fn ready() -> Vec<u8> {
    packet(2, &[])
}

fn hello() -> Vec<u8> {
    hello_as(PROTOCOL, <ToPrimary as Message>::NAME, fingerprint::<ToPrimary>())
}

fn hello_as(protocol: u8, name: &str, up: u64) -> Vec<u8> {
    let schemas = [(name, up), (<ToWorker as Message>::NAME, fingerprint::<ToWorker>())]
        .map(|(name, fingerprint)| [number(name.len() as u64), name.into(), number(fingerprint)].concat());
    let mut packet = packet(0, &schemas);
    packet[0] = protocol;
    packet
}

fn fingerprint<M: Message>() -> u64 {
    u64::from_str_radix(&M::fingerprint().to_string(), 16).expect("it shows as hex digits")
}

fn listen(request: u64, ordinal: u32) -> Vec<u8> {
    let localhost = [variant(0), variant(0), vec![127, 0, 0, 1], integer(0, 2)].concat();
    let no_http_and_none_of_the_seven_options = vec![0; 8];
    packet(1, &[number(request), localhost, integer(ordinal.into(), 4), no_http_and_none_of_the_seven_options])
}

fn packet(kind: u32, fields: &[Vec<u8>]) -> Vec<u8> {
    [vec![PROTOCOL], variant(kind), fields.concat()].concat()
}

fn variant(index: u32) -> Vec<u8> {
    integer(index.into(), 4)
}

fn number(value: u64) -> Vec<u8> {
    integer(value, 8)
}

fn integer(mut value: u64, width: usize) -> Vec<u8> {
    if !POSTCARD {
        return value.to_le_bytes()[..width].to_vec();
    }
    let mut bytes = Vec::new();
    while value > 0x7f {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
    bytes
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32 + 1).to_le_bytes().to_vec();
    frame.push(1);
    frame.extend(payload);
    frame
}

/// Becomes a worker like any other, as far as the primary can see.
fn greet(control: RawFd) {
    send(control, &hello());
    // The mailboxes and the welcome.
    receive(control);
    receive(control);
}

fn say(control: RawFd, messages: RawFd, bytes: &[u8]) {
    greet(control);
    send(messages, bytes);
}

fn send(socket: RawFd, bytes: &[u8]) {
    send_fds(socket, bytes, 0);
}

fn send_fds(socket: RawFd, bytes: &[u8], count: usize) {
    let fds = vec![2; count];
    let rights = [ControlMessage::ScmRights(&fds)];
    let rights = if count == 0 { &rights[..0] } else { &rights[..] };
    let parts = [std::io::IoSlice::new(bytes)];
    patiently(|| sendmsg::<()>(socket, &parts, rights, MsgFlags::MSG_NOSIGNAL, None));
}

fn receive(control: RawFd) {
    patiently(|| recv(control, &mut [0; 4096], MsgFlags::empty()));
}

/// The control lane does not block, and a peer that is gone is a reason to wait for the end.
fn patiently(mut call: impl FnMut() -> nix::Result<usize>) {
    loop {
        match call() {
            Ok(_) => return,
            Err(Errno::EAGAIN | Errno::ETOOMANYREFS) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }
}
