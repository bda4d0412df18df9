//! Bytes ↔ frames. Pure: no socket, no clock, no lock but the one around a spare buffer.
//!
//! A frame is `length: u32 | kind: u8 | body`, little-endian; the length counts kind and body.
//!
//! | kind | body | cost |
//! | --- | --- | --- |
//! | 1 message | payload | its size, at most half a window |
//! | 2 reply | tag: u64, payload | none |
//! | 3 unanswered | tag: u64 | none |
//! | 4 credit | bytes: u32 | none |

use std::fmt;
use std::mem;
use std::sync::{Mutex, PoisonError};

use bytes::buf::Limit;
use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Part of every fingerprint; to be counted up when the layout changes.
pub(super) const PROTOCOL: &str = "frames-1";

/// The most that the length of a frame may say.
pub(super) const MAX_FRAME: usize = 16 << 20;

/// How many bytes of messages one side may have sent that the other side's user has not taken yet.
pub(super) const WINDOW: usize = 1 << 20;

const MESSAGE: u8 = 1;
const REPLY: u8 = 2;
const UNANSWERED: u8 = 3;
const CREDIT: u8 = 4;

const LENGTH: usize = 4;
const HEADER: usize = LENGTH + 1;
const TAG: usize = 8;

/// What a message frame of this size spends of the window: itself, but two of any size fit.
pub(super) fn cost(frame: usize) -> usize {
    frame.min(WINDOW / 2)
}

pub(super) fn unanswered(tag: u64) -> [u8; HEADER + TAG] {
    let mut frame = [0; HEADER + TAG];
    frame[..LENGTH].copy_from_slice(&(1 + TAG as u32).to_le_bytes());
    frame[LENGTH] = UNANSWERED;
    frame[HEADER..].copy_from_slice(&tag.to_le_bytes());
    frame
}

pub(super) fn credit(bytes: u32) -> [u8; HEADER + 4] {
    let mut frame = [0; HEADER + 4];
    frame[..LENGTH].copy_from_slice(&5_u32.to_le_bytes());
    frame[LENGTH] = CREDIT;
    frame[HEADER..].copy_from_slice(&bytes.to_le_bytes());
    frame
}

/// What a run of message frames has cost; refuses what is none, or no whole one.
pub(super) fn cost_of_run(run: &[u8]) -> Result<usize, Violation> {
    let (mut end, mut cost_of_run) = (0, 0);
    while end < run.len() {
        match head(&run[end..])? {
            Some(Head { kind: MESSAGE, size }) => {
                end += size;
                cost_of_run += cost(size);
            }
            Some(_) | None => return Err("not a run of whole messages".to_owned()),
        }
    }
    Ok(cost_of_run)
}

/// The payload inside a reply frame that was built here.
pub(super) fn reply_payload(frame: &[u8]) -> &[u8] {
    &frame[HEADER + TAG..]
}

// ---- writing ----

/// A buffer kept for the next frame that does not fit on the stack.
pub(super) type Spare = Mutex<Vec<u8>>;

/// One frame under construction: on the stack while it is small, in a buffer that is used again when not. Past the cap
/// it only counts.
pub(super) struct FrameBuf<'a> {
    size: usize,
    heap: Vec<u8>,
    spare: Option<&'a Spare>,
    stack: [u8; ON_STACK],
}

const ON_STACK: usize = 256;

impl<'a> FrameBuf<'a> {
    pub(super) fn message(spare: Option<&'a Spare>) -> Self {
        let mut frame = Self { size: HEADER, heap: Vec::new(), spare, stack: [0; ON_STACK] };
        frame.stack[LENGTH] = MESSAGE;
        frame
    }

    pub(super) fn reply(tag: u64, spare: Option<&'a Spare>) -> Self {
        let mut frame = Self { size: HEADER, heap: Vec::new(), spare, stack: [0; ON_STACK] };
        frame.stack[LENGTH] = REPLY;
        frame.put(&tag.to_le_bytes());
        frame
    }

    #[inline]
    pub(super) fn put(&mut self, bytes: &[u8]) {
        let end = self.size + bytes.len();
        if end <= ON_STACK {
            self.stack[self.size..end].copy_from_slice(bytes);
        } else if end <= LENGTH + MAX_FRAME {
            self.put_on_heap(bytes);
        }
        self.size = end;
    }

    /// The bytes of the frame.
    pub(super) fn finish(&mut self) -> Result<&[u8], TooLarge> {
        let length = self.size - LENGTH;
        if length > MAX_FRAME {
            return Err(TooLarge { size: length, limit: MAX_FRAME });
        }
        let frame = if self.size <= ON_STACK { &mut self.stack[..self.size] } else { &mut self.heap[..] };
        frame[..LENGTH].copy_from_slice(&(length as u32).to_le_bytes());
        Ok(frame)
    }

    fn put_on_heap(&mut self, bytes: &[u8]) {
        if self.size <= ON_STACK {
            if let Some(spare) = self.spare {
                self.heap = mem::take(&mut *spare.lock().unwrap_or_else(PoisonError::into_inner));
            }
            self.heap.extend_from_slice(&self.stack[..self.size]);
        }
        self.heap.extend_from_slice(bytes);
    }
}

impl Drop for FrameBuf<'_> {
    fn drop(&mut self) {
        if let Some(spare) = self.spare
            && (1..=WINDOW).contains(&self.heap.capacity())
        {
            self.heap.clear();
            *spare.lock().unwrap_or_else(PoisonError::into_inner) = mem::take(&mut self.heap);
        }
    }
}

/// The frame would be longer than a frame may be.
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
    /// Message frames in a row, whole and checked, still in their bytes.
    Messages {
        run: Bytes,
        cost: usize,
    },
    Reply {
        tag: u64,
        payload: Bytes,
    },
    Unanswered {
        tag: u64,
    },
    Credit(u32),
}

/// How a peer broke the protocol, for people.
pub(super) type Violation = String;

/// Cuts a byte stream into its parts. Holds what has arrived and never more than a chunk of room beside it, whatever a
/// length says.
#[derive(Debug)]
pub(super) struct Deframer {
    buffer: BytesMut,
    chunk: usize,
}

/// A lane that is quiet reads in small chunks, one that is busy in large ones.
const SMALL_CHUNK: usize = 8 << 10;
const LARGE_CHUNK: usize = 256 << 10;

impl Deframer {
    pub(super) fn new() -> Self {
        Self { buffer: BytesMut::new(), chunk: SMALL_CHUNK }
    }

    /// Where the next bytes of the stream go. Never without room.
    pub(super) fn space(&mut self) -> Limit<&mut BytesMut> {
        if self.buffer.capacity() - self.buffer.len() < self.chunk / 2 {
            self.buffer.reserve(self.chunk);
        }
        (&mut self.buffer).limit(self.chunk)
    }

    /// Learns from the size of a read how much to ask for next time.
    pub(super) fn was_read(&mut self, bytes: usize) {
        if bytes >= self.chunk / 2 {
            self.chunk = (self.chunk * 2).min(LARGE_CHUNK);
        }
    }

    /// Bytes of the stream that were read elsewhere.
    pub(super) fn extend(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// What is left when no part is here in full: the beginning of one.
    pub(super) fn into_begun(self) -> Bytes {
        self.buffer.freeze()
    }

    /// The next part that is here in full.
    pub(super) fn next(&mut self) -> Result<Option<Part>, Violation> {
        let (mut end, mut cost_of_run) = (0, 0);
        // A fault behind sound messages is found again by the next call.
        while let Ok(Some(Head { kind: MESSAGE, size })) = head(&self.buffer[end..]) {
            end += size;
            cost_of_run += cost(size);
        }
        if end > 0 {
            return Ok(Some(Part::Messages { run: self.split(end), cost: cost_of_run }));
        }
        let Some(Head { kind, size }) = head(&self.buffer)? else { return Ok(None) };
        let mut body = self.split(size);
        body.advance(HEADER);
        Ok(Some(match kind {
            REPLY => Part::Reply { tag: body.get_u64_le(), payload: compact(body) },
            UNANSWERED => Part::Unanswered { tag: body.get_u64_le() },
            CREDIT => Part::Credit(body.get_u32_le()),
            kind => return Err(unknown(kind)),
        }))
    }

    /// Bytes that have arrived and are not part of a whole frame yet.
    #[cfg(test)]
    pub(super) fn buffered(&self) -> usize {
        self.buffer.len()
    }

    #[cfg(test)]
    pub(super) fn capacity(&self) -> usize {
        self.buffer.capacity()
    }

    fn split(&mut self, size: usize) -> Bytes {
        let part = self.buffer.split_to(size).freeze();
        if size > 2 * LARGE_CHUNK {
            // What is left moves out, or the block of a giant frame would serve small ones for ever.
            self.buffer = BytesMut::from(&self.buffer[..]);
        }
        part
    }
}

/// Walks over a run of message frames: the payload of the first one, and what the message had cost.
pub(super) fn take_message(run: &mut Bytes) -> Option<(Bytes, usize)> {
    if run.is_empty() {
        return None;
    }
    let length = run.get_u32_le() as usize;
    run.advance(1);
    Some((run.split_to(length - 1), cost(LENGTH + length)))
}

/// Small bytes get a block of their own: a slice keeps the whole block alive that it was cut from.
pub(super) fn compact(bytes: Bytes) -> Bytes {
    if bytes.len() < LARGE_CHUNK / 4 { Bytes::copy_from_slice(&bytes) } else { bytes }
}

/// A frame that is here in full.
struct Head {
    kind: u8,
    size: usize,
}

/// The frame at the front of `bytes`, if it is there in full. Refuses a bad one as soon as its head is there.
#[inline]
fn head(bytes: &[u8]) -> Result<Option<Head>, Violation> {
    let Some((&length, rest)) = bytes.split_first_chunk::<LENGTH>() else { return Ok(None) };
    let length = u32::from_le_bytes(length) as usize;
    if length == 0 {
        return Err("a frame without a kind".to_owned());
    }
    if length > MAX_FRAME {
        return Err(format!("a frame of {length} bytes; the limit is {MAX_FRAME}"));
    }
    let Some(&kind) = rest.first() else { return Ok(None) };
    check_length(kind, length)?;
    Ok((rest.len() >= length).then_some(Head { kind, size: LENGTH + length }))
}

fn check_length(kind: u8, length: usize) -> Result<(), Violation> {
    let sound = match kind {
        MESSAGE => true,
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
