//! Bytes ↔ frames. Pure: no socket, no clock, no lock.
//!
//! A frame is `length: u32 | kind: u8 | body`, little-endian; the length counts kind and body.
//!
//! | kind | body | cost |
//! | --- | --- | --- |
//! | 1 message | payload | its size |
//! | 2 reply | tag: u64, payload | none |
//! | 3 unanswered | tag: u64 | none |
//! | 4 credit | bytes: u32 | none |
//! | 5 piece | the next bytes of a large frame | none |
//! | 6 last piece | its last bytes: now it counts as if it had come as one | of the whole, at most half a window |
//! | 7 message with descriptors | payload, how many: u8 | as a message, and 16 KiB for each |
//! | 8 reply with descriptors | tag: u64, payload, how many: u8 | none |
//! | 9 taken | tag: u64 | none |
//! | 10 item | tag: u64, payload | of its stream's window, as a message without the tag |
//! | 11 item with descriptors | tag: u64, payload, how many: u8 | likewise |
//! | 12 end | tag: u64 | none |
//! | 13 more | tag: u64, bytes: u32 | none |
//! | 14 cancel | tag: u64 | none |
//!
//! The descriptors of a frame come with its first byte, those of a large one with that of its last piece.
//!
//! No frame is longer than a [`PIECE`], so that none keeps others waiting for long. What is larger, kind and body of a message,
//! a reply or an item, travels in pieces, one large frame after the other, and any frames between its pieces.
//!
//! What 9 to 14 mean is said in [`stream`](super::stream).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::mem;

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::codec::Sink;
use super::fd::{Fds, Parcel};

/// Part of every fingerprint; to be counted up when the layout changes.
pub(super) const PROTOCOL: &str = "frames-3";

/// The most bytes of kind and body in one frame.
pub(super) const PIECE: usize = 128 << 10;

/// How many bytes of messages one side may have sent that the other side's user has not taken yet.
pub(super) const WINDOW: usize = 1 << 20;

/// How many bytes of items of one stream may be on their way that the asking user has not taken yet.
pub(super) const STREAM_WINDOW: usize = 256 << 10;

/// Room in a stream's window is given back in lots of at least this size.
pub(super) const STREAM_LOT: usize = STREAM_WINDOW / 4;

const MESSAGE: u8 = 1;
const REPLY: u8 = 2;
const UNANSWERED: u8 = 3;
const CREDIT: u8 = 4;
const PART: u8 = 5;
const LAST_PART: u8 = 6;
const MESSAGE_WITH: u8 = 7;
const REPLY_WITH: u8 = 8;
const TAKEN: u8 = 9;
const ITEM: u8 = 10;
const ITEM_WITH: u8 = 11;
const END: u8 = 12;
const MORE: u8 = 13;
const CANCEL: u8 = 14;

const LENGTH: usize = 4;
const HEADER: usize = LENGTH + 1;
const TAG: usize = 8;

/// The most descriptors of one message.
pub(super) const MOST_FDS: usize = 16;

/// What a message with so many bytes of kind and body and so many descriptors spends of the window: its size as a frame, but two of
/// any size fit; and for descriptors so much that a window has room for 64.
fn cost(bytes: usize, fds: usize) -> usize {
    (LENGTH + bytes).min(WINDOW / 2) + fds * (WINDOW / 64)
}

/// What an item spends of its stream's window that would cost so much as a message: the same, but one of any size fits, also
/// while less than a lot has not been given back.
pub(super) fn item_cost(cost: usize) -> usize {
    cost.min(STREAM_WINDOW - STREAM_LOT)
}

pub(super) fn unanswered(tag: u64) -> [u8; HEADER + TAG] {
    about(tag, UNANSWERED)
}

pub(super) fn taken(tag: u64) -> [u8; HEADER + TAG] {
    about(tag, TAKEN)
}

pub(super) fn end(tag: u64) -> [u8; HEADER + TAG] {
    about(tag, END)
}

pub(super) fn cancel(tag: u64) -> [u8; HEADER + TAG] {
    about(tag, CANCEL)
}

pub(super) fn more(tag: u64, bytes: u32) -> [u8; HEADER + TAG + 4] {
    let mut frame = [0; HEADER + TAG + 4];
    frame[..HEADER].copy_from_slice(&header(MORE, TAG + 4));
    frame[HEADER..HEADER + TAG].copy_from_slice(&tag.to_le_bytes());
    frame[HEADER + TAG..].copy_from_slice(&bytes.to_le_bytes());
    frame
}

/// A frame that says one thing of one request.
fn about(tag: u64, kind: u8) -> [u8; HEADER + TAG] {
    let mut frame = [0; HEADER + TAG];
    frame[..HEADER].copy_from_slice(&header(kind, TAG));
    frame[HEADER..].copy_from_slice(&tag.to_le_bytes());
    frame
}

pub(super) fn credit(bytes: u32) -> [u8; HEADER + 4] {
    let mut frame = [0; HEADER + 4];
    frame[..HEADER].copy_from_slice(&header(CREDIT, 4));
    frame[HEADER..].copy_from_slice(&bytes.to_le_bytes());
    frame
}

fn header(kind: u8, body: usize) -> [u8; HEADER] {
    let [a, b, c, d] = (1 + body as u32).to_le_bytes();
    [a, b, c, d, kind]
}

// ---- writing ----

/// A frame that is ready to be sent.
#[derive(Clone, Copy, Debug)]
pub(super) enum Frame<'a> {
    /// The first bytes of the buffer: a copy of all of it is quicker than one of so many bytes.
    Small(&'a Front, usize),
    Whole(&'a [u8]),
    Large(&'a Large),
}

/// Where a small frame is made.
pub(super) type Front = [u8; SMALL];

const SMALL: usize = 128;

/// A frame in pieces, as they travel; or any with descriptors.
#[derive(Clone, Debug)]
pub(crate) struct Large {
    pieces: Bytes,
    cost: usize,
    fds: Fds,
}

impl Frame<'_> {
    /// What it costs if it is a message.
    #[inline]
    pub(super) fn cost(self) -> usize {
        match self {
            Self::Small(_, size) => size,
            Self::Whole(frame) => frame.len(),
            Self::Large(large) => large.cost,
        }
    }

    /// What it costs if it is an item.
    #[inline]
    pub(super) fn item_cost(self) -> usize {
        item_cost(self.cost() - TAG)
    }

    pub(super) fn is_in_pieces(self) -> bool {
        matches!(self, Self::Large(large) if large.is_in_pieces())
    }

    /// As if it were large; one that is small is its only piece.
    pub(super) fn to_large(self) -> Large {
        let pieces = match self {
            Self::Small(buffer, size) => Bytes::copy_from_slice(&buffer[..size]),
            Self::Whole(frame) => Bytes::copy_from_slice(frame),
            Self::Large(large) => return Large::clone(large),
        };
        Large { pieces, cost: self.cost(), fds: Fds::new() }
    }
}

impl Large {
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    pub(super) const fn cost(&self) -> usize {
        self.cost
    }

    /// Whether it is a large frame, and not one with descriptors alone.
    pub(super) fn is_in_pieces(&self) -> bool {
        matches!(self.pieces.get(LENGTH), Some(&(PART | LAST_PART)))
    }

    /// Whether it carries descriptors.
    pub(super) fn has_fds(&self) -> bool {
        !self.fds.is_empty()
    }

    /// The frame at the front of a stream of them, with descriptors that it was to have.
    pub(super) fn rest_of_frame(stream: &mut Bytes, fds: Fds) -> Option<Self> {
        let length = LENGTH + u32::from_le_bytes(*stream.first_chunk()?) as usize;
        let pieces = (length <= stream.len()).then(|| stream.split_to(length))?;
        Some(Self { pieces, cost: 0, fds })
    }

    /// The next piece, a frame of its own, and the descriptors that go with it; nothing after the last.
    pub(super) fn next_piece(&mut self) -> (Bytes, Fds) {
        let Some(&length) = self.pieces.first_chunk::<LENGTH>() else { return Default::default() };
        let piece = self.pieces.split_to(LENGTH + u32::from_le_bytes(length) as usize);
        let fds = if self.pieces.is_empty() { mem::take(&mut self.fds) } else { Fds::new() };
        (piece, fds)
    }
}

/// One frame under construction: in the front while it is small, and behind that in a buffer that is used again, unless the frame
/// is large. Past the limit it only counts.
pub(super) struct FrameBuf<'a> {
    /// Behind [`LENGTH`] bytes, kind and body.
    front: &'a mut Front,
    /// Bytes of kind and body.
    size: usize,
    /// How many of those are no payload.
    head: usize,
    /// The most bytes of payload.
    limit: usize,
    beyond: Option<Box<Beyond>>,
}

/// A frame that is not small.
#[derive(Default)]
struct Beyond {
    /// Behind [`HEADER`] bytes, kind and body, with a header before each further piece. Nothing past the limit.
    bytes: Vec<u8>,
    /// What became of it.
    large: Option<Large>,
}

thread_local! {
    static FRONT: RefCell<Front> = const { RefCell::new([0; SMALL]) };
    static SPARE: Cell<Option<Box<Beyond>>> = const { Cell::new(None) };
}

/// Lends out the place where this thread makes its frames.
#[inline(always)]
pub(super) fn with_front<R>(make: impl FnOnce(&mut Front) -> R) -> R {
    FRONT.with(|front| match front.try_borrow_mut() {
        Ok(mut front) => make(&mut front),
        // One frame may be made while another one is, by a `Serialize` that sends.
        Err(_in_use) => make(&mut [0; SMALL]),
    })
}

impl<'a> FrameBuf<'a> {
    #[inline]
    pub(super) fn message(front: &'a mut Front, limit: usize) -> Self {
        front[LENGTH] = MESSAGE;
        Self { front, size: 1, head: 1, limit, beyond: None }
    }

    pub(super) fn reply(front: &'a mut Front, tag: u64, limit: usize) -> Self {
        Self::tagged(front, REPLY, tag, limit)
    }

    pub(super) fn item(front: &'a mut Front, tag: u64, limit: usize) -> Self {
        Self::tagged(front, ITEM, tag, limit)
    }

    #[inline]
    fn tagged(front: &'a mut Front, kind: u8, tag: u64, limit: usize) -> Self {
        front[LENGTH] = kind;
        let mut frame = Self { front, size: 1, head: 1 + TAG, limit, beyond: None };
        frame.put(&tag.to_le_bytes());
        frame
    }

    /// The frame.
    #[inline]
    pub(super) fn finish(&mut self) -> Result<Frame<'_>, TooLarge> {
        let length = LENGTH + self.size;
        if length <= SMALL {
            self.front[..LENGTH].copy_from_slice(&(self.size as u32).to_le_bytes());
            return Ok(Frame::Small(self.front, length));
        }
        self.finish_beyond()
    }

    /// The frame, with descriptors if there are any.
    #[inline]
    pub(super) fn finish_carrying(&mut self, fds: Option<Box<Fds>>) -> Result<Frame<'_>, TooLarge> {
        match fds {
            None => self.finish(),
            Some(fds) => self.finish_with(*fds),
        }
    }

    /// The frame with these descriptors.
    pub(super) fn finish_with(&mut self, fds: Fds) -> Result<Frame<'_>, TooLarge> {
        let kind = match self.front[LENGTH] {
            MESSAGE => MESSAGE_WITH,
            ITEM => ITEM_WITH,
            _ => REPLY_WITH,
        };
        let count = fds.len();
        self.put(&[count as u8]);
        self.front[LENGTH] = kind;
        if let Some(first) = self.beyond.as_mut().and_then(|beyond| beyond.bytes.get_mut(HEADER)) {
            *first = kind;
        }
        let pieces = self.finish()?.to_large().pieces;
        let large = Large { pieces, cost: cost(self.size, count), fds };
        Ok(Frame::Large(self.beyond.get_or_insert_default().large.insert(large)))
    }

    #[inline(never)]
    fn put_beyond(&mut self, bytes: &[u8]) {
        let before = self.size - bytes.len();
        let beyond = self.beyond.get_or_insert_with(|| {
            let mut spare = SPARE.try_with(Cell::take).ok().flatten().unwrap_or_default();
            spare.bytes.extend_from_slice(&[0; HEADER]);
            spare.bytes.extend_from_slice(&self.front[LENGTH..LENGTH + before]);
            spare
        });
        let whole = &mut beyond.bytes;
        if self.size - self.head > self.limit {
            *whole = Vec::new();
            return;
        }
        whole.reserve(bytes.len() + bytes.len() / PIECE * HEADER);
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let in_piece = whole.len() % (HEADER + PIECE);
            if in_piece == 0 {
                whole.extend_from_slice(&header(PART, PIECE));
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(HEADER + PIECE - in_piece));
            whole.extend_from_slice(now);
            bytes = later;
        }
    }

    fn finish_beyond(&mut self) -> Result<Frame<'_>, TooLarge> {
        let payload = self.size - self.head;
        if payload > self.limit {
            return Err(TooLarge { size: payload, limit: self.limit });
        }
        let Beyond { bytes, large } = &mut **self.beyond.get_or_insert_default();
        if self.size <= PIECE {
            bytes[HEADER - LENGTH..HEADER].copy_from_slice(&(self.size as u32).to_le_bytes());
            return Ok(Frame::Whole(&bytes[HEADER - LENGTH..]));
        }
        bytes[..HEADER].copy_from_slice(&header(PART, PIECE));
        let last = (bytes.len() - 1) / (HEADER + PIECE) * (HEADER + PIECE);
        let body = bytes.len() - last - HEADER;
        bytes[last..last + HEADER].copy_from_slice(&header(LAST_PART, body));
        let pieces = mem::take(bytes).into();
        Ok(Frame::Large(large.insert(Large { pieces, cost: cost(self.size, 0), fds: Fds::new() })))
    }
}

impl Sink for FrameBuf<'_> {
    #[inline]
    fn put(&mut self, bytes: &[u8]) {
        let start = LENGTH + self.size;
        self.size += bytes.len();
        match self.front.get_mut(start..start + bytes.len()) {
            Some(place) => place.copy_from_slice(bytes),
            None => self.put_beyond(bytes),
        }
    }

    #[inline]
    fn len(&self) -> usize {
        self.size
    }
}

impl Drop for FrameBuf<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(beyond) = self.beyond.take() {
            keep(beyond);
        }
    }
}

/// Keeps the buffer for the next frame.
fn keep(mut beyond: Box<Beyond>) {
    beyond.large = None;
    beyond.bytes.clear();
    if beyond.bytes.capacity() <= WINDOW {
        // A thread that ends keeps nothing.
        _ = SPARE.try_with(|spare| spare.set(Some(beyond)));
    }
}

/// The payload would be larger than it may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct TooLarge {
    pub(super) size: usize,
    pub(super) limit: usize,
}

impl fmt::Display for TooLarge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "it takes {} bytes and the limit is {}", self.size, self.limit)
    }
}

// ---- reading ----

/// The next part of a byte stream.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(super) enum Part {
    /// Message frames in a row, whole and checked, still in their bytes, which are what they cost.
    Messages(Bytes),
    /// A message that is none of a row: it came in pieces, or with descriptors.
    Single(Single),
    Reply {
        tag: u64,
        payload: Bytes,
        parcel: Option<Parcel>,
    },
    Unanswered {
        tag: u64,
    },
    Credit(u32),
    /// What concerns one stream.
    Stream {
        tag: u64,
        word: Word,
    },
}

/// What one end of a stream says to the other.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(super) enum Word {
    /// The request is with the one who answers.
    Taken,
    Item(Item),
    /// Regular: there are no more items.
    End,
    /// Room for so many bytes of further items.
    More(u32),
    /// Nobody wants the rest.
    Cancel,
}

/// From here on an item is kept as if it were a message.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(super) enum Item {
    /// In the bytes that it came in, with a header in place of the tag.
    Whole(Bytes),
    /// What stands in place of its kind is not looked at.
    Single(Single),
}

impl Item {
    pub(super) fn cost(&self) -> usize {
        item_cost(match self {
            Self::Whole(frame) => frame.len(),
            Self::Single(message) => message.cost(),
        })
    }
}

/// A message that came in pieces, or with descriptors.
#[derive(Debug)]
#[cfg_attr(test, derive(PartialEq, Eq))]
pub(super) struct Single {
    /// Its kind and body.
    whole: Bytes,
    parcel: Option<Parcel>,
}

impl Single {
    pub(super) fn cost(&self) -> usize {
        // As many as it says, if they have come or not.
        let fds = if self.parcel.is_some() { self.whole[self.whole.len() - 1] } else { 0 };
        cost(self.whole.len(), fds.into())
    }

    /// The payload, and what came along.
    pub(super) fn open(self) -> (Bytes, Option<Parcel>) {
        let behind = usize::from(self.parcel.is_some());
        (self.whole.slice(1..self.whole.len() - behind), self.parcel)
    }

    /// As it came.
    pub(super) fn put_into(self, stream: &mut BytesMut) -> Option<Parcel> {
        if self.whole.len() > PIECE {
            put_pieces(&self.whole, true, stream);
        } else {
            stream.extend_from_slice(&(self.whole.len() as u32).to_le_bytes());
            stream.extend_from_slice(&self.whole);
        }
        self.parcel
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.whole.len()
    }
}

/// How a peer broke the protocol, for people.
pub(super) type Violation = String;

/// Cuts a byte stream into its parts. Holds what has arrived and never much more than a chunk of room beside it, whatever a
/// length says.
#[derive(Debug)]
pub(super) struct Deframer {
    buffer: BytesMut,
    chunk: usize,
    /// The most bytes of payload in a message or reply.
    limit: usize,
    /// What is here of the large frame under way.
    large: BytesMut,
    /// The piece whose body is arriving. While the buffer is empty, it arrives where it belongs.
    piece: Option<Piece>,
    /// Descriptors whose frames are not here in full.
    parcels: VecDeque<Parcel>,
}

#[derive(Clone, Copy, Debug)]
struct Piece {
    left: usize,
    is_last: bool,
}

/// A lane that is quiet reads in small chunks, one that is busy in large ones.
const SMALL_CHUNK: usize = 8 << 10;
const LARGE_CHUNK: usize = 256 << 10;

impl Deframer {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            chunk: SMALL_CHUNK,
            limit,
            large: BytesMut::new(),
            piece: None,
            parcels: VecDeque::new(),
        }
    }

    /// With what has arrived already.
    pub(super) fn holding(stream: &[u8], parcels: impl IntoIterator<Item = Parcel>, limit: usize) -> Self {
        Self { buffer: stream.into(), parcels: parcels.into_iter().collect(), ..Self::new(limit) }
    }

    /// Where the next bytes of the stream go. Never without room.
    pub(super) fn space(&mut self) -> Limit<&mut BytesMut> {
        if let Some(left) = self.left_of_piece() {
            self.large.reserve(left);
            return (&mut self.large).limit(left);
        }
        if self.buffer.capacity() - self.buffer.len() < self.chunk / 2 {
            self.buffer.reserve(self.chunk);
        }
        (&mut self.buffer).limit(self.chunk)
    }

    /// So many bytes were read into the space. Learns from that how much to ask for next time.
    pub(super) fn was_read(&mut self, bytes: usize) {
        if let (Some(_), Some(piece)) = (self.left_of_piece(), &mut self.piece) {
            piece.left -= bytes;
        } else if bytes >= self.chunk / 2 {
            self.chunk = (self.chunk * 2).min(LARGE_CHUNK);
        }
    }

    /// Bytes of the stream that were read elsewhere.
    #[cfg(test)]
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// Descriptors came with these bytes.
    pub(super) fn arrive(&mut self, parcel: Parcel) -> Result<(), Violation> {
        let count = parcel.len();
        self.parcels.push_back(parcel);
        // A read brings one parcel, and all frames before have been taken.
        if count > MOST_FDS || self.parcels.len() > 2 {
            return Err("descriptors that belong to no message".to_owned());
        }
        Ok(())
    }

    /// What is left when no part is here in full: the beginning of one, as it came or as if it had come so, and descriptors.
    pub(super) fn into_begun(self) -> (Bytes, VecDeque<Parcel>) {
        let mut begun = BytesMut::new();
        put_pieces(&self.large, false, &mut begun);
        if let Some(Piece { left, is_last }) = self.piece {
            begun.extend_from_slice(&header(if is_last { LAST_PART } else { PART }, left));
        }
        begun.unsplit(self.buffer);
        (begun.freeze(), self.parcels)
    }

    /// The next part that is here in full.
    pub(super) fn next(&mut self) -> Result<Option<Part>, Violation> {
        loop {
            if let Some(piece) = self.piece {
                match self.fill(piece)? {
                    Filled::NotYet => return Ok(None),
                    Filled::Piece => {}
                    Filled::Frame(part) => return Ok(Some(part)),
                }
            }
            let run = run_of_messages(&self.buffer);
            if run > 0 {
                return Ok(Some(Part::Messages(self.buffer.split_to(run).freeze())));
            }
            let Some(head) = head(&self.buffer)? else { return Ok(None) };
            match head.kind {
                PART | LAST_PART => self.begin_piece(head)?,
                _ if self.buffer.len() < head.size => return Ok(None),
                _ => return self.take_frame(head).map(Some),
            }
        }
    }

    /// Bytes that have arrived and are not part of a whole frame yet.
    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.buffer.len() + self.large.len()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity() + self.large.capacity()
    }

    /// How much of a piece is still to come, and can be read to where it belongs.
    fn left_of_piece(&self) -> Option<usize> {
        let piece = self.piece.filter(|piece| piece.left > 0 && self.buffer.is_empty())?;
        Some(piece.left)
    }

    fn take_frame(&mut self, head: Head) -> Result<Part, Violation> {
        let frame = self.buffer.split_to(head.size);
        if head.kind == ITEM {
            return Ok(whole_item(frame));
        }
        let mut body = frame.freeze();
        if let REPLY | REPLY_WITH | MESSAGE_WITH | ITEM_WITH = head.kind {
            body.advance(LENGTH);
            return self.whole_frame(compact(body));
        }
        body.advance(HEADER);
        Ok(match head.kind {
            UNANSWERED => Part::Unanswered { tag: body.get_u64_le() },
            CREDIT => Part::Credit(body.get_u32_le()),
            TAKEN => Part::Stream { tag: body.get_u64_le(), word: Word::Taken },
            END => Part::Stream { tag: body.get_u64_le(), word: Word::End },
            MORE => Part::Stream { tag: body.get_u64_le(), word: Word::More(body.get_u32_le()) },
            CANCEL => Part::Stream { tag: body.get_u64_le(), word: Word::Cancel },
            kind => return Err(unknown(kind)),
        })
    }

    fn begin_piece(&mut self, head: Head) -> Result<(), Violation> {
        let left = head.size - HEADER;
        let whole = self.large.len() + left;
        if whole > 1 + TAG + self.limit {
            return Err(format!("a message of {whole} bytes; the limit is {}", self.limit));
        }
        self.buffer.advance(HEADER);
        self.piece = Some(Piece { left, is_last: head.kind == LAST_PART });
        Ok(())
    }

    /// Moves on what has come of a piece.
    fn fill(&mut self, piece: Piece) -> Result<Filled, Violation> {
        let here = piece.left.min(self.buffer.len());
        self.large.extend_from_slice(&self.buffer[..here]);
        self.buffer.advance(here);
        let left = piece.left - here;
        if left > 0 {
            self.piece = Some(Piece { left, ..piece });
            return Ok(Filled::NotYet);
        }
        self.piece = None;
        if !piece.is_last {
            return Ok(Filled::Piece);
        }
        let whole = mem::take(&mut self.large).freeze();
        if whole.len() <= PIECE {
            return Err(format!("a frame of {} bytes in pieces", whole.len()));
        }
        self.whole_frame(whole).map(Filled::Frame)
    }

    /// The kind and body of a frame that may come in pieces, or with descriptors.
    fn whole_frame(&mut self, mut whole: Bytes) -> Result<Part, Violation> {
        let kind = whole[0];
        let parcel = match kind {
            MESSAGE_WITH | REPLY_WITH | ITEM_WITH => Some(self.claim(whole[whole.len() - 1].into())?),
            _ => None,
        };
        match kind {
            MESSAGE | MESSAGE_WITH => Ok(Part::Single(Single { whole, parcel })),
            REPLY | REPLY_WITH => {
                whole.advance(1);
                let tag = whole.get_u64_le();
                whole.truncate(whole.len() - usize::from(parcel.is_some()));
                Ok(Part::Reply { tag, payload: whole, parcel })
            }
            ITEM | ITEM_WITH => {
                let tag = (&whole[1..]).get_u64_le();
                whole.advance(TAG);
                Ok(Part::Stream { tag, word: Word::Item(Item::Single(Single { whole, parcel })) })
            }
            kind => Err(format!("a frame of kind {kind} in pieces")),
        }
    }

    fn claim(&mut self, count: usize) -> Result<Parcel, Violation> {
        let parcel = self.parcels.pop_front().filter(|parcel| count > 0 && parcel.is_of(count));
        parcel.ok_or_else(|| format!("a frame that says to come with {count} descriptors, and does not"))
    }
}

fn whole_item(mut frame: BytesMut) -> Part {
    let tag = (&frame[HEADER..]).get_u64_le();
    frame.advance(TAG);
    let payload = frame.len() - HEADER;
    frame[..HEADER].copy_from_slice(&header(MESSAGE, payload));
    Part::Stream { tag, word: Word::Item(Item::Whole(frame.freeze())) }
}

/// What a piece has become.
enum Filled {
    NotYet,
    Piece,
    /// It was the last one.
    Frame(Part),
}

/// Cuts a large frame, or its beginning, anew.
fn put_pieces(whole: &[u8], is_complete: bool, stream: &mut BytesMut) {
    let last = whole.len().saturating_sub(1) / PIECE;
    for (index, piece) in whole.chunks(PIECE).enumerate() {
        let kind = if is_complete && index == last { LAST_PART } else { PART };
        stream.extend_from_slice(&header(kind, piece.len()));
        stream.extend_from_slice(piece);
    }
}

/// How many bytes the whole message frames take that `bytes` begins with. A fault behind them is for the next look.
fn run_of_messages(bytes: &[u8]) -> usize {
    let mut end = 0;
    while let Some((&length, rest)) = bytes[end..].split_first_chunk::<LENGTH>() {
        let length = u32::from_le_bytes(length) as usize;
        if length.wrapping_sub(1) > PIECE || length > rest.len() || rest[0] != MESSAGE {
            break;
        }
        end += LENGTH + length;
    }
    end
}

/// The payload of the message frame at the front of a run, and the size of the frame.
#[inline]
pub(super) fn first_message(run: &[u8]) -> Option<(&[u8], usize)> {
    let (&length, rest) = run.split_first_chunk::<LENGTH>()?;
    let length = u32::from_le_bytes(length) as usize;
    Some((rest.get(1..length)?, LENGTH + length))
}

/// Small bytes get a block of their own: a slice keeps the whole block alive that it was cut from.
pub(super) fn compact(bytes: Bytes) -> Bytes {
    if bytes.len() < LARGE_CHUNK / 4 { Bytes::copy_from_slice(&bytes) } else { bytes }
}

/// How a frame begins.
#[derive(Clone, Copy)]
struct Head {
    kind: u8,
    size: usize,
}

/// The head of the frame at the front of `bytes`, if it is here. Refuses a bad one.
#[inline]
fn head(bytes: &[u8]) -> Result<Option<Head>, Violation> {
    let Some((&length, rest)) = bytes.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let length = u32::from_le_bytes(length) as usize;
    if length.wrapping_sub(1) > PIECE {
        return Err(match length {
            0 => "a frame without a kind".to_owned(),
            _ => format!("a frame of {length} bytes; the limit is {}", 1 + PIECE),
        });
    }
    let Some(&kind) = rest.first() else { return Ok(None) };
    check_length(kind, length)?;
    Ok(Some(Head { kind, size: LENGTH + length }))
}

#[inline]
fn check_length(kind: u8, length: usize) -> Result<(), Violation> {
    let sound = match kind {
        MESSAGE => true,
        PART | LAST_PART => length > 1,
        MESSAGE_WITH => length > 1,
        REPLY | ITEM => length > TAG,
        REPLY_WITH | ITEM_WITH => length > TAG + 1,
        UNANSWERED | TAKEN | END | CANCEL => length == 1 + TAG,
        MORE => length == 1 + TAG + 4,
        CREDIT => length == 1 + 4,
        kind => return Err(unknown(kind)),
    };
    if sound { Ok(()) } else { Err(format!("a frame of kind {kind} with the impossible length {length}")) }
}

fn unknown(kind: u8) -> Violation {
    format!("a frame of the unknown kind {kind}")
}
