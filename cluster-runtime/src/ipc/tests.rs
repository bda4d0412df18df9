//! Test messages and helpers. The tests themselves: [`frames`], [`shapes`] and [`values`] (pure), [`lanes`],
//! [`calls`], [`streams`], [`fds`], [`hostile`], [`suspend`], [`fuzz`].

mod calls;
mod fds;
mod frames;
mod fuzz;
mod hostile;
mod lanes;
mod memory;
mod shapes;
mod streams;
mod suspend;
mod values;

use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::codec::Sink as _;
use super::*;

/// What a worker says.
#[derive(Debug)]
enum Up {
    Count(u64),
    Text(String),
    Total(Reply<u64>),
    Echo { text: String, reply: Reply<String> },
    Tail { of: u64, lines: Replies<String> },
}

#[derive(Serialize, Deserialize)]
enum UpWire {
    Count(u64),
    Text(String),
    Total(ReplyTag),
    Echo { text: String, reply: ReplyTag },
    Tail { of: u64, lines: ReplyTag },
}

impl Message for Up {
    type Wire = UpWire;

    const NAME: &'static str = "Up";

    fn fingerprint() -> Fingerprint {
        Fingerprint::of("enum Up")
    }

    fn into_wire(self) -> Result<UpWire, ForwardedReply> {
        Ok(match self {
            Self::Count(number) => UpWire::Count(number),
            Self::Text(text) => UpWire::Text(text),
            Self::Total(reply) => UpWire::Total(reply.into_tag()?),
            Self::Echo { text, reply } => UpWire::Echo { text, reply: reply.into_tag()? },
            Self::Tail { of, lines } => UpWire::Tail { of, lines: lines.into_tag()? },
        })
    }

    fn from_wire(wire: UpWire, origin: &Origin) -> Self {
        match wire {
            UpWire::Count(number) => Self::Count(number),
            UpWire::Text(text) => Self::Text(text),
            UpWire::Total(tag) => Self::Total(origin.reply(tag)),
            UpWire::Echo { text, reply } => Self::Echo { text, reply: origin.reply(reply) },
            UpWire::Tail { of, lines } => Self::Tail { of, lines: origin.replies(lines) },
        }
    }
}

/// What the primary says: a plain number, or something whose encoding misbehaves.
#[derive(Debug, PartialEq, Eq, Deserialize)]
enum Down {
    Count(u64),
    Unencodable,
    Panicking,
    /// Encoded as a variant that there is not.
    Wrong,
}

impl Serialize for Down {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Count(number) => serializer.serialize_newtype_variant("Down", 0, "Count", number),
            Self::Unencodable => Err(serde::ser::Error::custom("not today")),
            Self::Panicking => panic!("while encoding"),
            Self::Wrong => serializer.serialize_unit_variant("Down", 99, "Wrong"),
        }
    }
}

impl Message for Down {
    type Wire = Self;

    const NAME: &'static str = "Down";

    fn fingerprint() -> Fingerprint {
        Fingerprint::of("enum Down")
    }

    fn into_wire(self) -> Result<Self, ForwardedReply> {
        Ok(self)
    }

    fn from_wire(wire: Self, _: &Origin) -> Self {
        wire
    }
}

/// A message of a type that holds itself.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
enum List {
    End,
    Next(Box<Self>),
    Item(u8, Box<Self>),
    Named { next: Box<Self> },
}

impl Message for List {
    type Wire = Self;

    const NAME: &'static str = "List";

    fn fingerprint() -> Fingerprint {
        Fingerprint::of("enum List")
    }

    fn into_wire(self) -> Result<Self, ForwardedReply> {
        Ok(self)
    }

    fn from_wire(wire: Self, _: &Origin) -> Self {
        wire
    }
}

const MILLION: usize = 1_000_000;

/// What the codec makes of a value. A variant begins with its number, a `u32`, and a sequence with its length, a `u64`.
fn encoded<T: Serialize>(value: &T) -> Vec<u8> {
    try_encode(value).unwrap()
}

fn try_encode<T: Serialize>(value: &T) -> Result<Vec<u8>, String> {
    let mut bytes = Vec::new();
    codec::encode(value, &mut bytes).map(|()| bytes)
}

type Worker = Lane<Up, Down>;
type Primary = Lane<Down, Up>;

/// The most bytes of a message here.
const LIMIT: usize = 16 << 20;
const LIMITS: Limits = Limits { message: LIMIT, expansion: Expansion::DEFAULT };

fn lane<Out: Message, In: Message>() -> Lane<Out, In> {
    Lane::new(LIMITS, Arc::new(Notify::new()))
}

/// A frame as it travels.
fn bytes_of(frame: Frame<'_>) -> Vec<u8> {
    match frame {
        Frame::Small(buffer, size) => buffer[..size].to_vec(),
        Frame::Whole(frame) => frame.to_vec(),
        Frame::Large(large) => {
            let mut large = large.clone();
            let pieces = std::iter::from_fn(|| (large.len() > 0).then(|| large.next_piece().0));
            pieces.flatten().collect()
        }
    }
}

/// A message with this payload, as it travels.
fn message_frame(payload: &[u8]) -> Vec<u8> {
    with_payload(FrameBuf::message(&mut [0; 128], LIMIT), payload)
}

fn reply_frame(tag: u64, payload: &[u8]) -> Vec<u8> {
    with_payload(FrameBuf::reply(&mut [0; 128], tag, LIMIT), payload)
}

fn item_frame(tag: u64, payload: &[u8]) -> Vec<u8> {
    with_payload(FrameBuf::item(&mut [0; 128], tag, LIMIT), payload)
}

fn with_payload(mut frame: FrameBuf<'_>, payload: &[u8]) -> Vec<u8> {
    frame.put(payload);
    bytes_of(frame.finish().unwrap())
}

/// Two lanes that are connected, and the ends of their drivers.
fn connected() -> (Worker, Primary, JoinHandle<LaneEnd>, JoinHandle<LaneEnd>) {
    let (worker, primary) = (lane(), lane());
    let (one, other) = UnixStream::pair().unwrap();
    let driven = (tokio::spawn(worker.drive(one)), tokio::spawn(primary.drive(other)));
    (worker, primary, driven.0, driven.1)
}

/// Sends numbers counted from 0 until there is no room and none appears; says how many went.
async fn fill(worker: &Worker) -> u64 {
    let mut sent = 0;
    loop {
        while worker.try_send(Up::Count(sent)).is_ok() {
            sent += 1;
        }
        if !comes_true(|| worker.try_send(Up::Count(sent)).is_ok()).await {
            return sent;
        }
        sent += 1;
    }
}

async fn count(primary: &Primary) -> u64 {
    match soon(primary.recv()).await {
        Some(Up::Count(number)) => number,
        other => panic!("a count was expected, not {other:?}"),
    }
}

/// The guard of every wait: tests do not hang.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(60), future).await.expect("should have happened by now")
}

/// Waits for a state that other tasks bring about.
async fn until(condition: impl Fn() -> bool) {
    soon(async {
        while !condition() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Gives every other task many turns; says whether the condition came true meanwhile.
async fn comes_true(condition: impl Fn() -> bool) -> bool {
    for _ in 0..1000 {
        if condition() {
            return true;
        }
        tokio::task::yield_now().await;
    }
    false
}

fn poll_once<F: Future>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(Waker::noop()))
}

/// xorshift64*: seeded, so that a failure can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.next() % limit
    }
}
