//! A fixture: a service whose third worker breaks the protocol; the first argument says how. The others serve.
//!
//! The third worker never calls `cluster::run`: it reads the mark and speaks on the inherited descriptors by hand.

use std::io::{IoSliceMut, stdin, stdout};
use std::os::fd::{AsRawFd, RawFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use cluster::{Config, Message, Primary, Worker};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{ControlMessage, ControlMessageOwned, MsgFlags, Shutdown, recv, recvmsg, sendmsg, shutdown};
use nix::sys::stat::fstat;
use nix::sys::uio::pwrite;

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
        "garbage" => send(control, &[PROTOCOL, 0, 0xff, 0xfe, 0xfd, 0xfc]),
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
        "descriptors" => send_fds(control, &[PROTOCOL, 100, 0xff], 100),
        "descriptors-with-sense" => {
            send_fds(control, &hello(), 100);
            (0..100).for_each(|_| send_fds(control, &ready(), 100));
            send(control, &[PROTOCOL, 0, 0xff]);
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
            begin(control);
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
        "message-half-and-silence" => {
            say(control, messages, &[200, 0, 0, 0, 1, 0]);
            begin(control);
        }
        "message-pieces" => {
            greet(control);
            begin_large_message(messages, MAX_MESSAGE);
            begin(control);
        }
        "message-pieces-beyond-the-limit" => {
            greet(control);
            begin_large_message(messages, 2 * MAX_MESSAGE);
        }
        "rights-without-frames" => {
            greet(control);
            (0..100).for_each(|_| send_fds(messages, &frame(&hit()), 16));
        }
        "rights-too-many" => {
            greet(control);
            send_fds(messages, &frame(&hit()), 253);
        }
        "rights-too-few" => {
            greet(control);
            send_fds(messages, &frame_with(&hit(), 3), 2);
        }
        "rights-half-a-frame" => {
            greet(control);
            let frame = frame_with(&hit(), 16);
            send_fds(messages, &frame[..frame.len() - 2], 16);
            begin(control);
        }
        "rights-that-nobody-wants" => {
            greet(control);
            for _ in 0..1000 {
                send_fds(messages, &frame_with(&hit(), 16), 16);
                // The credit for it.
                patiently(|| recv(messages, &mut [0; 9], MsgFlags::empty()));
            }
            send(messages, &frame(&variant(9)));
        }
        "nothing" => {}
        "hello-and-nothing" => greet(control),
        "board" => {
            Shared::receive(control);
            for seed in 1.. {
                scribble(seed);
            }
        }
        "mailboxes-garbage" => {
            let mailboxes = Shared::receive(control).mailboxes;
            let letters = [vec![], vec![0xff; 60], vec![7; 4096], vec![0; 100_000], forged_letter(63, 9)];
            for (letter, mailbox) in letters.iter().cycle().zip(mailboxes.iter().cycle()) {
                _ = try_send(*mailbox, letter, &[2; 3]);
            }
        }
        "mailboxes-forged" => {
            let mailboxes = Shared::receive(control).mailboxes;
            // Whose other end says nothing: who reads from it as it is, waits.
            let (connection, _client) = UnixStream::pair().expect("a pair of sockets");
            let fds = [2, connection.as_raw_fd(), control, mailboxes[0]];
            let letter = forged_letter(0, fds.len() as u64);
            for mailbox in mailboxes.iter().cycle().take(40) {
                _ = try_send(*mailbox, &letter, &fds);
            }
        }
        "mailboxes-shut" => {
            let Shared { mailboxes, mailbox } = Shared::receive(control);
            let ends = mailboxes.into_iter().chain([mailbox]);
            ends.for_each(|end| shutdown(end, Shutdown::Both).expect("it is open"));
        }
        "bell" => {
            Shared::receive(control);
            loop {
                jam_the_bell();
                // Again and again, and not so fast that nobody else has the CPU.
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        other => panic!("no behaviour {other:?}"),
    }
    // It does not go by itself.
    loop {
        std::thread::park();
    }
}

/// What all workers have from the primary. The board is its stdin and the bell its stdout: what is received takes the lowest
/// numbers that are free, and these two can be used without unsafe code.
struct Shared {
    /// The sending ends, of all slots.
    mailboxes: Vec<RawFd>,
    /// The receiving end of its own.
    mailbox: RawFd,
}

impl Shared {
    /// Becomes a worker that is ready, as far as the primary can see.
    fn receive(control: RawFd) -> Self {
        send(control, &hello());
        let mailboxes = receive(control);
        (0..2).for_each(|number| nix::unistd::close(number).expect("it is open"));
        let [board, bell, mailbox] = receive(control)[..] else { panic!("a welcome was expected") };
        assert_eq!([board, bell], [stdin().as_raw_fd(), stdout().as_raw_fd()]);
        begin(control);
        Self { mailboxes, mailbox }
    }
}

/// Random bytes, of which most go where workers and slots are.
fn scribble(seed: u64) {
    let size = fstat(stdin()).expect("it is a file").st_size as u64;
    let random = |salt: u64| {
        let mixed = (seed ^ salt << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed ^ mixed >> 29).wrapping_mul(0xbf58_476d_1ce4_e5b9)
    };
    let place = random(1) >> 8;
    // The first three slots; else anything, the metrics among it.
    let place = if seed.is_multiple_of(16) { place % (size - 8) } else { place % 640 };
    let word = match random(2) >> 62 {
        0 => 0,
        1 => u64::MAX,
        _ => random(3),
    };
    pwrite(stdin(), &word.to_ne_bytes(), place as i64).expect("the board can be written");
}

/// Makes it full, and whoever rings or listens wait, if that is how they do it.
fn jam_the_bell() {
    let flags = OFlag::from_bits_retain(fcntl(stdout(), FcntlArg::F_GETFL).expect("it is open"));
    fcntl(stdout(), FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK)).expect("it is open");
    _ = nix::unistd::write(stdout(), &(u64::MAX - 1).to_ne_bytes());
    _ = nix::unistd::read(stdout(), &mut [0; 8]);
    fcntl(stdout(), FcntlArg::F_SETFL(flags & !OFlag::O_NONBLOCK)).expect("it is open");
}

/// The first byte of every packet on the control lane. Its highest bit names the codec.
const PROTOCOL: u8 = if POSTCARD { 6 | 0x80 } else { 6 };

/// As the library was built.
const POSTCARD: bool = cfg!(all(feature = "postcard", not(feature = "bincode")));

// The packets by hand: protocol, number of descriptors, then variants and integers; little-endian, of fixed width or of as many times seven bits as it takes.

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
    [vec![PROTOCOL, 0], variant(kind), fields.concat()].concat()
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

/// A letter with connections for `port`, which `count` descriptors are to go with.
fn forged_letter(port: u64, count: u64) -> Vec<u8> {
    let client = [variant(0), variant(0), vec![127, 0, 0, 1], integer(9, 2)].concat();
    let cover = [number(port), integer(0, 4), vec![0]].concat();
    [cover, number(count), client.repeat(count as usize)].concat()
}

fn hit() -> Vec<u8> {
    [variant(0), number(1)].concat()
}

fn frame(payload: &[u8]) -> Vec<u8> {
    frame_of(1, payload)
}

/// One that says to come with so many descriptors.
fn frame_with(payload: &[u8], count: u8) -> Vec<u8> {
    frame_of(7, &[payload, &[count]].concat())
}

fn frame_of(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut frame = (body.len() as u32 + 1).to_le_bytes().to_vec();
    frame.push(kind);
    frame.extend(body);
    frame
}

/// The most bytes of a message in this cluster.
const MAX_MESSAGE: usize = 32 << 20;

/// Sends so much of a message in pieces, and not the last one.
fn begin_large_message(messages: RawFd, size: usize) {
    let piece = frame_of(5, &[1; 128 << 10]);
    (0..size / (128 << 10)).for_each(|_| send_all(messages, &piece));
}

/// Becomes a worker like any other, as far as the primary can see.
fn greet(control: RawFd) {
    send(control, &hello());
    // The mailboxes and the welcome.
    receive(control);
    receive(control);
}

/// Is ready, as far as the primary can see.
fn begin(control: RawFd) {
    send(control, &ready());
}

fn say(control: RawFd, messages: RawFd, bytes: &[u8]) {
    greet(control);
    send(messages, bytes);
}

fn send(socket: RawFd, bytes: &[u8]) {
    send_fds(socket, bytes, 0);
}

fn send_fds(socket: RawFd, bytes: &[u8], count: usize) {
    patiently(|| try_send(socket, bytes, &vec![2; count]));
}

/// A stream takes as much as it has room for.
fn send_all(socket: RawFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        let sent = patiently(|| try_send(socket, bytes, &[]));
        bytes = &bytes[sent..];
    }
}

fn try_send(socket: RawFd, bytes: &[u8], fds: &[RawFd]) -> nix::Result<usize> {
    let rights = [ControlMessage::ScmRights(fds)];
    let rights = if fds.is_empty() { &rights[..0] } else { &rights[..] };
    let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
    sendmsg::<()>(socket, &[std::io::IoSlice::new(bytes)], rights, flags, None)
}

/// The descriptors of the next packet.
fn receive(control: RawFd) -> Vec<RawFd> {
    let mut bytes = [0; 4096];
    let mut space = nix::cmsg_space!([RawFd; 253]);
    patiently(|| {
        let mut parts = [IoSliceMut::new(&mut bytes)];
        let packet = recvmsg::<()>(control, &mut parts, Some(&mut space), MsgFlags::empty())?;
        let fds = packet.cmsgs()?.filter_map(|message| match message {
            ControlMessageOwned::ScmRights(fds) => Some(fds),
            _ => None,
        });
        Ok(fds.flatten().collect())
    })
}

/// The lanes do not block, and a descriptor that is a bare number cannot be polled without unsafe code: so this looks again
/// and again.
fn patiently<T>(mut call: impl FnMut() -> nix::Result<T>) -> T {
    loop {
        match call() {
            Ok(done) => return done,
            Err(Errno::EAGAIN | Errno::ETOOMANYREFS) => std::thread::sleep(Duration::from_millis(1)),
            Err(error) => panic!("{error}"),
        }
    }
}
