//! Bytes ↔ frames. Pure: no socket, no clock, no lock but the one around a spare buffer.
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
//!
//! No frame is longer than a [`PIECE`], so that none keeps others waiting for long. What is larger, kind and body of a message
//! or a reply, travels in pieces, one large frame after the other, and any frames between its pieces.

use std::fmt;
use std::mem;
use std::sync::{Mutex, PoisonError};

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Part of every fingerprint; to be counted up when the layout changes.
pub(super) const PROTOCOL: &str = "frames-2";

/// The most bytes of kind and body in one frame.
pub(super) const PIECE: usize = 128 << 10;

/// How many bytes of messages one side may have sent that the other side's user has not taken yet.
pub(super) const WINDOW: usize = 1 << 20;

const MESSAGE: u8 = 1;
const REPLY: u8 = 2;
const UNANSWERED: u8 = 3;
const CREDIT: u8 = 4;
const PART: u8 = 5;
const LAST_PART: u8 = 6;

const LENGTH: usize = 4;
const HEADER: usize = LENGTH + 1;
const TAG: usize = 8;

/// What a message with so many bytes of kind and body spends of the window: its size as a frame, but two of any size fit.
fn cost(bytes: usize) -> usize {
    (LENGTH + bytes).min(WINDOW / 2)
}

pub(super) fn unanswered(tag: u64) -> [u8; HEADER + TAG] {
    let mut frame = [0; HEADER + TAG];
    frame[..HEADER].copy_from_slice(&header(UNANSWERED, TAG));
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
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Frame<'a> {
    /// The first bytes of the buffer: a copy of all of it is quicker than one of so many bytes.
    Small(&'a [u8; ON_STACK], usize),
    Whole(&'a [u8]),
    Large(Large),
}

/// A frame in pieces, as they travel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Large {
    pieces: Bytes,
    cost: usize,
}

impl Frame<'_> {
    /// What it costs if it is a message.
    #[inline]
    pub(super) fn cost(&self) -> usize {
        match self {
            Self::Small(_, size) => *size,
            Self::Whole(frame) => frame.len(),
            Self::Large(large) => large.cost,
        }
    }
}

impl Large {
    pub(super) fn len(&self) -> usize {
        self.pieces.len()
    }

    /// The next piece, a frame of its own; nothing after the last.
    pub(super) fn next_piece(&mut self) -> Bytes {
        match self.pieces.first_chunk::<LENGTH>() {
            Some(&length) => self.pieces.split_to(LENGTH + u32::from_le_bytes(length) as usize),
            None => Bytes::new(),
        }
    }

    /// All pieces that are left.
    pub(super) fn into_pieces(self) -> Bytes {
        self.pieces
    }
}

/// A buffer kept for the next frame that does not fit on the stack.
pub(super) type Spare = Mutex<Vec<u8>>;

/// One frame under construction: on the stack while it is small, in a buffer that is used again when not, and in one of its own
/// when it is large. Past the limit it only counts.
pub(super) struct FrameBuf<'a> {
    /// Bytes of kind and body.
    size: usize,
    /// How many of those are no payload.
    head: usize,
    /// The most bytes of payload.
    limit: usize,
    /// Behind [`HEADER`] bytes, kind and body, with a header before each further piece.
    heap: Vec<u8>,
    spare: Option<&'a Spare>,
    /// Behind [`LENGTH`] bytes, kind and body.
    stack: [u8; ON_STACK],
}

const ON_STACK: usize = 128;

impl<'a> FrameBuf<'a> {
    #[inline]
    pub(super) fn message(limit: usize, spare: Option<&'a Spare>) -> Self {
        let mut frame = Self { size: 1, head: 1, limit, heap: Vec::new(), spare, stack: [0; ON_STACK] };
        frame.stack[LENGTH] = MESSAGE;
        frame
    }

    pub(super) fn reply(tag: u64, limit: usize, spare: Option<&'a Spare>) -> Self {
        let mut frame = Self { size: 1, head: 1 + TAG, limit, heap: Vec::new(), spare, stack: [0; ON_STACK] };
        frame.stack[LENGTH] = REPLY;
        frame.put(&tag.to_le_bytes());
        frame
    }

    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let start = LENGTH + self.size;
        self.size += bytes.len();
        match self.stack.get_mut(start..start + bytes.len()) {
            Some(place) => place.copy_from_slice(bytes),
            None => self.put_on_heap(bytes),
        }
    }

    /// The frame.
    #[inline]
    pub(super) fn finish(&mut self) -> Result<Frame<'_>, TooLarge> {
        let length = LENGTH + self.size;
        if length <= ON_STACK {
            self.stack[..LENGTH].copy_from_slice(&(self.size as u32).to_le_bytes());
            return Ok(Frame::Small(&self.stack, length));
        }
        self.finish_on_heap()
    }

    fn put_on_heap(&mut self, bytes: &[u8]) {
        if self.size - self.head > self.limit {
            self.heap = Vec::new();
            return;
        }
        if self.heap.is_empty() {
            let before = self.size - bytes.len();
            if let Some(spare) = self.spare {
                self.heap = mem::take(&mut *spare.lock().unwrap_or_else(PoisonError::into_inner));
            }
            self.heap.extend_from_slice(&[0; HEADER]);
            self.heap.extend_from_slice(&self.stack[LENGTH..LENGTH + before]);
        }
        self.heap.reserve(bytes.len() + bytes.len() / PIECE * HEADER);
        let mut bytes = bytes;
        while !bytes.is_empty() {
            let in_piece = self.heap.len() % (HEADER + PIECE);
            if in_piece == 0 {
                self.heap.extend_from_slice(&header(PART, PIECE));
                continue;
            }
            let (now, later) = bytes.split_at(bytes.len().min(HEADER + PIECE - in_piece));
            self.heap.extend_from_slice(now);
            bytes = later;
        }
    }

    fn finish_on_heap(&mut self) -> Result<Frame<'_>, TooLarge> {
        let payload = self.size - self.head;
        if payload > self.limit {
            return Err(TooLarge { size: payload, limit: self.limit });
        }
        if self.size <= PIECE {
            self.heap[1..HEADER].copy_from_slice(&(self.size as u32).to_le_bytes());
            return Ok(Frame::Whole(&self.heap[1..]));
        }
        self.heap[..HEADER].copy_from_slice(&header(PART, PIECE));
        let last = (self.heap.len() - 1) / (HEADER + PIECE) * (HEADER + PIECE);
        let body = self.heap.len() - last - HEADER;
        self.heap[last..last + HEADER].copy_from_slice(&header(LAST_PART, body));
        Ok(Frame::Large(Large { pieces: mem::take(&mut self.heap).into(), cost: cost(self.size) }))
    }
}

impl Drop for FrameBuf<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some(spare) = self.spare
            && (1..=WINDOW).contains(&self.heap.capacity())
        {
            self.heap.clear();
            *spare.lock().unwrap_or_else(PoisonError::into_inner) = mem::take(&mut self.heap);
        }
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
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Part {
    /// Message frames in a row, whole and checked, still in their bytes, which are what they cost.
    Messages(Bytes),
    /// A message that came in pieces.
    LargeMessage(LargeMessage),
    Reply {
        tag: u64,
        payload: Bytes,
    },
    Unanswered {
        tag: u64,
    },
    Credit(u32),
}

/// A message that came in pieces.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct LargeMessage {
    /// The kind and the payload.
    whole: Bytes,
}

impl LargeMessage {
    pub(super) fn cost(&self) -> usize {
        cost(self.whole.len())
    }

    pub(super) fn payload(&self) -> &[u8] {
        &self.whole[1..]
    }

    /// As it came.
    pub(super) fn to_pieces(&self, stream: &mut BytesMut) {
        put_pieces(&self.whole, true, stream);
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
        Self { buffer: BytesMut::new(), chunk: SMALL_CHUNK, limit, large: BytesMut::new(), piece: None }
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
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// What is left when no part is here in full: the beginning of one, as it came or as if it had come so.
    pub(super) fn into_begun(self) -> Bytes {
        let mut begun = BytesMut::new();
        put_pieces(&self.large, false, &mut begun);
        if let Some(Piece { left, is_last }) = self.piece {
            begun.extend_from_slice(&header(if is_last { LAST_PART } else { PART }, left));
        }
        begun.unsplit(self.buffer);
        begun.freeze()
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
        let mut body = self.buffer.split_to(head.size).freeze();
        body.advance(HEADER);
        Ok(match head.kind {
            REPLY => Part::Reply { tag: body.get_u64_le(), payload: compact(body) },
            UNANSWERED => Part::Unanswered { tag: body.get_u64_le() },
            CREDIT => Part::Credit(body.get_u32_le()),
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
        large_frame(mem::take(&mut self.large).freeze()).map(Filled::Frame)
    }
}

/// What a piece has become.
enum Filled {
    NotYet,
    Piece,
    /// It was the last one.
    Frame(Part),
}

/// What came in pieces.
fn large_frame(mut whole: Bytes) -> Result<Part, Violation> {
    if whole.len() <= PIECE {
        return Err(format!("a frame of {} bytes in pieces", whole.len()));
    }
    match whole[0] {
        MESSAGE => Ok(Part::LargeMessage(LargeMessage { whole })),
        REPLY => {
            whole.advance(1);
            Ok(Part::Reply { tag: whole.get_u64_le(), payload: whole })
        }
        kind => Err(format!("a frame of kind {kind} in pieces")),
    }
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
        REPLY => length > TAG,
        UNANSWERED => length == 1 + TAG,
        CREDIT => length == 1 + 4,
        kind => return Err(unknown(kind)),
    };
    if sound { Ok(()) } else { Err(format!("a frame of kind {kind} with the impossible length {length}")) }
}

fn unknown(kind: u8) -> Violation {
    format!("a frame of the unknown kind {kind}")
}
