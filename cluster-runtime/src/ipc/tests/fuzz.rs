//! The messages lane under input that nobody meant; see [`crate::fuzz`].

use std::collections::hash_map::DefaultHasher;
use std::hash::{Hash as _, Hasher as _};
use std::io::{IoSlice, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};

use bytes::BufMut as _;
use proptest::strategy::{Strategy as _, ValueTree as _};
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use tokio::runtime::{Builder, Runtime};

use super::super::codec::{decode, decode_state, encode_state};
use super::super::fd::Parcel;
use super::super::frame::{self, Deframer, PIECE, Part, WINDOW, Word};
use super::super::suspend::Suspended;
use super::suspend::{resumed, turn};
use super::values::{Anything, anything};
use super::*;
use crate::fuzz::{Bait, Random, fuzz};
use crate::os;

/// The most bytes of a message here: several pieces.
const LIMIT: usize = 3 * PIECE;

/// However a stream is cut into reads, its parts are the same, and no more is held than came and a chunk.
#[test]
fn frames() {
    fuzz("ipc::tests::fuzz::frames", |random| {
        let mut stream: Vec<u8> = (0..1 + random.below(12)).flat_map(|_| frame_of_any_kind(random).0).collect();
        if random.once_in(2) {
            random.damage(&mut stream);
        }
        let whole = parts(&stream, |_| stream.len());
        let step = 1 + random.below(300);
        let cut = parts(&stream, |left| match random.below(3) {
            0 => 1 + random.below(20),
            1 => step,
            _ => 1 + random.below(left),
        });
        assert!(
            whole == cut,
            "{} and {} parts, which end by {:?} and {:?}",
            whole.len(),
            cut.len(),
            whole.last(),
            cut.last()
        );
    });
}

/// What such bytes say is a value that can be sent on, or an error.
#[test]
fn codec() {
    fuzz("ipc::tests::fuzz::codec", |random| {
        let mut bytes = if random.once_in(4) {
            let size = random.below(400);
            random.bytes(size)
        } else {
            encoded(&any_value(random))
        };
        random.damage(&mut bytes);
        if let Ok(value) = decode::<Anything>(&bytes) {
            assert_eq!(decode(&encoded(&value)), Ok(value));
        }
        if let Ok(value) = decode_state::<Vec<Anything>>(&bytes) {
            assert_eq!(decode_state(&encode_state(&value).unwrap()), Ok(value));
        }
        drop((decode::<UpWire>(&bytes), decode::<List>(&bytes), decode::<String>(&bytes)));
    });
}

/// A peer that keeps to nothing: this side stays within its bounds, keeps no descriptor, and all that waits comes to an end.
#[test]
fn lane() {
    fuzz("ipc::tests::fuzz::lane", |random| {
        let bait = Bait::new();
        on_one_thread(async {
            let mut scene = Scene::new(random);
            for _ in 0..5 + random.below(60) {
                scene.step(random, &bait).await;
                scene.check();
            }
            scene.end(random).await;
        });
        bait.expect_closed();
    });
}

/// A lane whose state is not what one has left: refused, or one like any other.
#[test]
fn suspended() {
    fuzz("ipc::tests::fuzz::suspended", |random| {
        on_one_thread(async {
            let mut scene = Scene::new(random);
            let bait = Bait::new();
            for _ in 0..random.below(20) {
                scene.step(random, &bait).await;
            }
            let (sound, _socket) = soon(scene.lane.suspend(Duration::from_secs(60))).await.unwrap();
            let mut bytes = encode_state(&sound).unwrap();
            random.damage(&mut bytes);
            let Ok(mut read) = decode_state::<Suspended>(&bytes) else { return };
            // Where it stays all by itself: tags are for the whole process, and numbers of descriptors anybody's.
            read.next_call = sound.next_call;
            let Ok(lane) = Side::resume(read, Expansion::DEFAULT, Arc::default()) else { return };
            let (one, mut other) = UnixStream::pair().unwrap();
            other.set_nonblocking(true).unwrap();
            let driven = tokio::spawn(lane.drive(one));
            for _ in 0..20 {
                while let Received::Message(_) = lane.try_recv() {}
                _ = lane.try_send(Talk::Note(1));
                _ = other.read(&mut [0; 4096]);
                tokio::task::yield_now().await;
            }
            drop(other);
            soon(driven).await.unwrap();
        });
    });
}

/// What both sides say.
#[derive(Debug)]
enum Talk {
    Note(u64),
    Text(String),
    With(Fd<OwnedFd>),
    Ask(Reply<String>),
    AskFor(Reply<Fd<OwnedFd>>),
    Stream(Replies<String>),
}

#[derive(Serialize, Deserialize)]
enum TalkWire {
    Note(u64),
    Text(String),
    With(Fd<OwnedFd>),
    Ask(ReplyTag),
    AskFor(ReplyTag),
    Stream(ReplyTag),
}

impl Message for Talk {
    type Wire = TalkWire;

    const NAME: &'static str = "Talk";

    fn fingerprint() -> Fingerprint {
        Fingerprint::of("enum Talk")
    }

    fn into_wire(self) -> Result<TalkWire, ForwardedReply> {
        Ok(match self {
            Self::Note(number) => TalkWire::Note(number),
            Self::Text(text) => TalkWire::Text(text),
            Self::With(fd) => TalkWire::With(fd),
            Self::Ask(reply) => TalkWire::Ask(reply.into_tag()?),
            Self::AskFor(reply) => TalkWire::AskFor(reply.into_tag()?),
            Self::Stream(replies) => TalkWire::Stream(replies.into_tag()?),
        })
    }

    fn from_wire(wire: TalkWire, origin: &Origin) -> Self {
        match wire {
            TalkWire::Note(number) => Self::Note(number),
            TalkWire::Text(text) => Self::Text(text),
            TalkWire::With(fd) => Self::With(fd),
            TalkWire::Ask(tag) => Self::Ask(origin.reply(tag)),
            TalkWire::AskFor(tag) => Self::AskFor(origin.reply(tag)),
            TalkWire::Stream(tag) => Self::Stream(origin.replies(tag)),
        }
    }
}

type Side = Lane<Talk, Talk>;

/// A lane, and a bare socket for its peer.
struct Scene {
    lane: Side,
    driven: JoinHandle<LaneEnd>,
    peer: Peer,
    /// Sends and calls of this side that wait for something.
    waiting: Vec<JoinHandle<()>>,
    /// Questions of the peer that have no answer yet.
    asked: Vec<Question>,
    taken: usize,
}

enum Question {
    Text(Reply<String>),
    Descriptor(Reply<Fd<OwnedFd>>),
    Stream(Replies<String>),
}

/// The other side. It reads properly, so as to know what it could do wrong.
struct Peer {
    socket: UnixStream,
    frames: Deframer,
    /// Of questions that were read.
    tags: Vec<u64>,
    /// What the messages have cost that were read.
    cost: usize,
    /// The same for the items of one stream.
    items: (u64, usize),
    /// One frame in so many is damaged.
    sanity: usize,
}

impl Scene {
    fn new(random: &mut Random) -> Self {
        let lane = Side::new(Limits { message: LIMIT, expansion: Expansion::DEFAULT }, Arc::default());
        let (one, socket) = UnixStream::pair().unwrap();
        socket.set_nonblocking(true).unwrap();
        let driven = tokio::spawn(lane.drive(one));
        let sanity = [3, 30, 1000][random.below(3)];
        let peer = Peer { socket, frames: Deframer::new(LIMIT), tags: Vec::new(), cost: 0, items: (0, 0), sanity };
        Self { lane, driven, peer, waiting: Vec::new(), asked: Vec::new(), taken: 0 }
    }

    async fn step(&mut self, random: &mut Random, bait: &Bait) {
        match random.below(16) {
            0..5 => self.peer.write(random, bait),
            5 | 6 => self.peer.read(),
            7 => _ = self.lane.try_send(self.something(random, bait)),
            8 => {
                let (lane, message) = (self.lane.clone(), self.something(random, bait));
                self.waiting.push(tokio::spawn(async move { drop(lane.send(message).await) }));
            }
            9 => {
                let lane = self.lane.clone();
                let most = random.below(100);
                self.waiting.push(match random.below(4) {
                    0 => tokio::spawn(async move { drop(lane.call(Talk::Ask).await) }),
                    1 => tokio::spawn(async move { drop(lane.call(Talk::AskFor).await) }),
                    _ => tokio::spawn(async move { take_items(&lane, most).await }),
                });
            }
            10 => (0..random.below(100)).for_each(|_| _ = self.take()),
            11 => self.answer(random, bait),
            12 if random.once_in(4) => self.move_on(random).await,
            13 if random.once_in(20) => self.lane.close(),
            14 if random.once_in(20) => self.lane.peer_exited(),
            15 if random.once_in(10) => self.waiting.iter().for_each(JoinHandle::abort),
            _ => turn().await,
        }
    }

    fn something(&self, random: &mut Random, bait: &Bait) -> Talk {
        match random.below(8) {
            0 => Talk::Text("x".repeat(random.below(LIMIT + 100))),
            1 | 2 => Talk::Text("x".repeat(random.below(1000))),
            3 => Talk::With(bait.end().try_clone().unwrap().into()),
            _ => Talk::Note(random.next()),
        }
    }

    fn take(&mut self) -> bool {
        match self.lane.try_recv() {
            Received::Message(message) => {
                self.taken += 1;
                match message {
                    Talk::Ask(reply) => self.asked.push(Question::Text(reply)),
                    Talk::AskFor(reply) => self.asked.push(Question::Descriptor(reply)),
                    Talk::Stream(replies) => self.asked.push(Question::Stream(replies)),
                    Talk::Note(_) | Talk::Text(_) | Talk::With(_) => {}
                }
                true
            }
            Received::Empty | Received::Ended => false,
        }
    }

    fn answer(&mut self, random: &mut Random, bait: &Bait) {
        for _ in 0..random.below(10).min(self.asked.len()) {
            match self.asked.swap_remove(random.below(self.asked.len())) {
                unanswered if random.once_in(4) => drop(unanswered),
                Question::Text(reply) if random.once_in(8) => reply.send("x".repeat(random.below(LIMIT + 100))),
                Question::Text(reply) => reply.send("x".repeat(random.below(1000))),
                Question::Descriptor(reply) => reply.send(bait.end().try_clone().unwrap().into()),
                Question::Stream(replies) if random.once_in(4) => replies.finish(),
                Question::Stream(replies) => {
                    let size = if random.once_in(8) { LIMIT + 100 } else { 1000 };
                    (0..random.below(50)).for_each(|_| _ = replies.try_send("x".repeat(random.below(size))));
                    self.asked.push(Question::Stream(replies));
                }
            }
        }
    }

    /// The lane goes on as another, and the program that it was in is the same; a question that was taken has its answer.
    async fn move_on(&mut self, random: &mut Random) {
        let (suspended, socket) = soon(self.lane.suspend(Duration::from_secs(60))).await.unwrap();
        self.asked.clear();
        self.lane = if random.once_in(2) {
            resumed(&suspended)
        } else {
            Side::resume(suspended, Expansion::DEFAULT, Arc::default()).unwrap()
        };
        // One that has ended has no socket any more, and needs none.
        if let Some(socket) = socket {
            self.driven = tokio::spawn(self.lane.drive(socket));
        }
    }

    /// What the lane holds is as `ipc` says.
    fn check(&self) {
        let (to_send, received) = self.lane.core().buffered();
        let largest = LIMIT + 1000;
        let most = WINDOW + 2 * largest + 4 * WINDOW + largest + 26 * self.taken + 10_000;
        assert!(to_send <= most, "{to_send} bytes are to be sent, and {most} would be enough");
        assert!(received <= WINDOW + 2 * largest, "{received} bytes are here that nobody took");
    }

    /// The peer goes, and everything comes to its end.
    async fn end(self, random: &mut Random) {
        match random.below(3) {
            0 => self.peer.socket.shutdown(std::net::Shutdown::Both).unwrap(),
            1 => drop(self.peer),
            _ => self.lane.peer_exited(),
        }
        soon(self.driven).await.unwrap();
        let mut small = 0;
        while !matches!(self.lane.try_recv(), Received::Ended) {
            small += 1;
            assert!(small <= WINDOW, "it never ends");
        }
        drop(self.asked);
        for one in self.waiting {
            if let Err(error) = soon(one).await {
                assert!(error.is_cancelled(), "{error}");
            }
        }
        assert_eq!(self.lane.core().open_questions(), 0);
        assert_eq!(self.lane.core().open_streams(), (0, 0));
        assert_eq!(self.lane.core().buffered().1, 0);
    }
}

impl Peer {
    /// A frame, or half of one, or anything, with the descriptors that belong to it or others.
    fn write(&mut self, random: &mut Random, bait: &Bait) {
        let (mut bytes, mut fds) = match random.below(8) {
            0 if self.cost > 0 => {
                let credit = std::mem::take(&mut self.cost) as u32;
                (frame::credit(credit).to_vec(), 0)
            }
            1 | 2 if !self.tags.is_empty() => self.answer(random),
            3 if self.items.1 > 0 => {
                let (tag, cost) = std::mem::take(&mut self.items);
                (frame::more(tag, cost as u32).to_vec(), 0)
            }
            _ => frame_of_any_kind(random),
        };
        if random.once_in(self.sanity) {
            random.damage(&mut bytes);
        }
        if random.once_in(self.sanity) {
            fds = random.below(30);
        }
        let descriptors = vec![bait.end().as_fd(); fds];
        let at = if random.once_in(2) { bytes.len() } else { random.below(bytes.len() + 1) };
        // What does not fit is lost, which is a fault of its own.
        let sent = match &bytes[..at] {
            [] => 0,
            first if fds > 0 => os::send_stream(self.socket.as_fd(), &[IoSlice::new(first)], &descriptors).unwrap_or(0),
            first => os::send_stream(self.socket.as_fd(), &[IoSlice::new(first)], &[]).unwrap_or(0),
        };
        if sent == at && at < bytes.len() {
            _ = os::send_stream(self.socket.as_fd(), &[IoSlice::new(&bytes[at..])], &[]);
        }
    }

    fn answer(&mut self, random: &mut Random) -> (Vec<u8>, usize) {
        let at = random.below(self.tags.len());
        let tag = self.tags[at];
        let size = if random.once_in(8) { LIMIT - 100 } else { 1000 };
        let text = encoded(&"x".repeat(random.below(size)));
        let answer = match random.below(8) {
            0 => frame::unanswered(tag).to_vec(),
            1 => reply_frame(tag, &text),
            2 => frame::end(tag).to_vec(),
            3 | 4 => return (frame::taken(tag).to_vec(), 0),
            _ => return (item_frame(tag, &text), 0),
        };
        if !random.once_in(8) {
            self.tags.swap_remove(at);
        }
        (answer, 0)
    }

    /// # Panics
    /// If what the lane says is not sound.
    fn read(&mut self) {
        while let Ok(read @ os::Received { len: 1.., .. }) =
            os::receive_stream(self.socket.as_fd(), &mut self.frames.space())
        {
            self.frames.was_read(read.len);
            if !read.fds.is_empty() || read.is_cut {
                self.frames.arrive(Parcel::new(read.fds, read.is_cut)).expect("they belong to a message");
            }
            while let Some(part) = self.frames.next().expect("this side keeps to the protocol") {
                self.note(part);
            }
        }
    }

    fn note(&mut self, part: Part) {
        match part {
            Part::Messages(run) => {
                self.cost += run.len();
                let mut rest = &run[..];
                while let Some((payload, size)) = frame::first_message(rest) {
                    if let Ok(TalkWire::Ask(tag) | TalkWire::AskFor(tag) | TalkWire::Stream(tag)) = decode(payload) {
                        self.tags.push(tag.number());
                    }
                    rest = &rest[size..];
                }
            }
            Part::Single(message) => self.cost += message.cost(),
            Part::Stream { tag, word: Word::Item(item) } if self.items.0 == tag => self.items.1 += item.cost(),
            Part::Stream { tag, word: Word::Item(item) } => self.items = (tag, item.cost()),
            Part::Reply { .. } | Part::Unanswered { .. } | Part::Credit(_) | Part::Stream { .. } => {}
        }
    }
}

/// Asks for a stream and takes some of it.
async fn take_items(lane: &Side, most: usize) {
    let Ok(mut items) = lane.stream(Talk::Stream).await else { return };
    for _ in 0..most {
        if !matches!(items.next().await, Ok(Some(_))) {
            return;
        }
    }
}

/// A sound frame, and how many descriptors it says to come with.
fn frame_of_any_kind(random: &mut Random) -> (Vec<u8>, usize) {
    let tag = random.next() >> random.below(64);
    let payload = match random.below(12) {
        0 => vec![7; random.below(LIMIT)],
        1 => vec![7; PIECE - 10 + random.below(20)],
        2 => encoded(&any_value(random)),
        3 => encoded(&TalkWire::Ask(ReplyTag::test(tag))),
        4 => encoded(&TalkWire::Stream(ReplyTag::test(tag))),
        5 => encoded(&TalkWire::AskFor(ReplyTag::test(tag))),
        6 | 7 => encoded(&TalkWire::Text("x".repeat(random.below(2000)))),
        _ => encoded(&TalkWire::Note(tag)),
    };
    match random.below(24) {
        0 => (frame::credit(tag as u32).to_vec(), 0),
        4 => (frame::taken(tag).to_vec(), 0),
        5 => (frame::end(tag).to_vec(), 0),
        6 => (frame::cancel(tag).to_vec(), 0),
        7 => (frame::more(tag, random.next() as u32 >> random.below(32)).to_vec(), 0),
        8 => (item_frame(tag, &payload), 0),
        1 => (frame::unanswered(tag).to_vec(), 0),
        2 => (reply_frame(tag, &payload), 0),
        3 => {
            let count = 1 + random.below(4);
            // The fourth variant's only field is which of them it means.
            let body = [&[7][..], &encoded(&2_u32), &[random.below(count) as u8], &[count as u8]].concat();
            ([&(body.len() as u32).to_le_bytes()[..], &body].concat(), count)
        }
        _ => (message_frame(&payload), 0),
    }
}

/// The parts of a stream that comes in reads of such sizes, and the fault in it.
fn parts(stream: &[u8], mut size: impl FnMut(usize) -> usize) -> Vec<String> {
    let mut frames = Deframer::new(LIMIT);
    let mut parts = Vec::new();
    let mut rest = stream;
    while !rest.is_empty() {
        let most = size(rest.len()).min(rest.len());
        // As a read does it: never more than there is room for.
        let (now, later) = rest.split_at(most.min(frames.space().remaining_mut()));
        frames.space().put_slice(now);
        frames.was_read(now.len());
        rest = later;
        loop {
            match frames.next() {
                Ok(Some(Part::Messages(run))) => {
                    let mut run = &run[..];
                    while let Some((payload, size)) = frame::first_message(run) {
                        parts.push(format!("message {}", sum(payload)));
                        run = &run[size..];
                    }
                    assert!(run.is_empty(), "a run is made of whole messages");
                }
                Ok(Some(Part::Single(message))) => parts.push(format!("message {}", sum(&message.open().0))),
                Ok(Some(Part::Reply { tag, payload, parcel: _ })) => {
                    parts.push(format!("reply {tag} {}", sum(&payload)));
                }
                Ok(Some(part)) => parts.push(format!("{part:?}")),
                Ok(None) => break,
                Err(violation) => {
                    parts.push(violation);
                    return parts;
                }
            }
        }
        let arrived = stream.len() - rest.len();
        assert!(frames.buffered() <= arrived);
        assert!(frames.capacity() <= 2 * arrived + PIECE + (320 << 10), "{} bytes reserved", frames.capacity());
    }
    parts
}

fn sum(payload: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    payload.hash(&mut hasher);
    format!("of {} bytes, {:x}", payload.len(), hasher.finish())
}

fn any_value(random: &mut Random) -> Anything {
    let seed: Vec<u8> = random.bytes(32);
    let random = TestRng::from_seed(RngAlgorithm::ChaCha, &seed);
    let mut runner = TestRunner::new_with_rng(Config::default(), random);
    anything().new_tree(&mut runner).expect("there is always one").current()
}

fn on_one_thread(case: impl Future<Output = ()>) {
    thread_local! {
        static RUNTIME: Runtime = Builder::new_current_thread().enable_all().build().unwrap();
    }
    RUNTIME.with(|runtime| runtime.block_on(case));
}
