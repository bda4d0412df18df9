//! The frames in the bytes of an HTTP/2 connection, in one direction, without what is in them.

/// Cuts bytes into frames, whatever pieces they come in.
#[derive(Debug)]
pub(super) struct Frames {
    /// How much of the preface, which only clients send, is to come.
    preface: usize,
    header: [u8; HEADER],
    has: usize,
    /// The one whose payload is passing, and how much of that is to come.
    current: Option<(Frame, u32)>,
    /// The first bytes of the payload.
    value: [u8; 4],
}

const HEADER: usize = 9;
const PREFACE: usize = 24;

/// What a frame says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Frame {
    pub(super) length: u32,
    pub(super) kind: u8,
    flags: u8,
    pub(super) stream: u32,
}

/// What has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Begin(Frame),
    /// So much of its payload.
    Payload(Frame, u32),
    /// All of it; with the number that a WINDOW_UPDATE has as its payload.
    End(Frame, u32),
}

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const WINDOW_UPDATE: u8 = 8;
pub(super) const CONTINUATION: u8 = 9;

impl Frame {
    /// Its sender sends nothing more on the stream.
    pub(super) const fn ends_stream(self) -> bool {
        matches!(self.kind, DATA | HEADERS) && self.flags & 0x1 != 0
    }

    /// A head is complete with it.
    pub(super) const fn ends_head(self) -> bool {
        matches!(self.kind, HEADERS | CONTINUATION) && self.flags & 0x4 != 0
    }

    /// It carries neither a head nor a part of a body.
    pub(super) const fn is_control(self) -> bool {
        match self.kind {
            DATA => self.length == 0 && !self.ends_stream(),
            HEADERS => false,
            CONTINUATION => self.length == 0,
            _ => true,
        }
    }

    fn parse(header: [u8; HEADER]) -> Self {
        let [a, b, c, kind, flags, id @ ..] = header;
        Self { length: u32::from_be_bytes([0, a, b, c]), kind, flags, stream: u32::from_be_bytes(id) & (u32::MAX >> 1) }
    }
}

impl Frames {
    /// What a client sends.
    pub(super) const fn of_client() -> Self {
        Self { preface: PREFACE, ..Self::of_server() }
    }

    pub(super) const fn of_server() -> Self {
        Self { preface: 0, header: [0; HEADER], has: 0, current: None, value: [0; 4] }
    }

    /// Tells `tell` of what is in the bytes.
    pub(super) fn feed(&mut self, mut bytes: &[u8], mut tell: impl FnMut(Part)) {
        bytes = &bytes[take(&mut self.preface, bytes.len())..];
        while !bytes.is_empty() {
            let Some((frame, rest)) = &mut self.current else {
                let count = bytes.len().min(HEADER - self.has);
                self.header[self.has..self.has + count].copy_from_slice(&bytes[..count]);
                self.has += count;
                bytes = &bytes[count..];
                if self.has == HEADER {
                    self.has = 0;
                    let frame = Frame::parse(self.header);
                    tell(Part::Begin(frame));
                    if frame.length == 0 {
                        tell(Part::End(frame, 0));
                    } else {
                        self.current = Some((frame, frame.length));
                    }
                }
                continue;
            };
            let passed = (frame.length - *rest) as usize;
            let mut left = *rest as usize;
            let count = take(&mut left, bytes.len());
            let (part, after) = bytes.split_at(count);
            for (place, byte) in self.value.iter_mut().skip(passed).zip(part) {
                *place = *byte;
            }
            bytes = after;
            *rest = left as u32;
            let frame = *frame;
            tell(Part::Payload(frame, count as u32));
            if left == 0 {
                self.current = None;
                tell(Part::End(frame, u32::from_be_bytes(self.value) & (u32::MAX >> 1)));
            }
        }
    }
}

/// Takes as much of `rest` as there is.
fn take(rest: &mut usize, there: usize) -> usize {
    let count = there.min(*rest);
    *rest -= count;
    count
}

#[cfg(test)]
pub(super) mod tests {
    use proptest::prelude::*;

    use super::*;

    pub(in super::super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
        let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    /// All parts, those of one payload together.
    fn parts(frames: &mut Frames, bytes: &[u8], into: &mut Vec<Part>) {
        frames.feed(bytes, |part| match (part, into.last_mut()) {
            (Part::Payload(_, more), Some(Part::Payload(_, count))) => *count += more,
            _ => into.push(part),
        });
    }

    #[test]
    fn a_frame_begins_brings_its_payload_and_ends() {
        let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        bytes.extend(frame(4, 0, 0, &[]));
        bytes.extend(frame(WINDOW_UPDATE, 0, 1, &[0x80, 0, 1, 0]));
        bytes.extend(frame(DATA, 1, 3, b"hello"));
        let mut seen = Vec::new();
        parts(&mut Frames::of_client(), &bytes, &mut seen);
        let of = |length, kind, flags, stream| Frame { length, kind, flags, stream };
        let (settings, update, data) = (of(0, 4, 0, 0), of(4, WINDOW_UPDATE, 0, 1), of(5, DATA, 1, 3));
        assert_eq!(seen[..2], [Part::Begin(settings), Part::End(settings, 0)]);
        assert_eq!(seen[2..5], [Part::Begin(update), Part::Payload(update, 4), Part::End(update, 256)]);
        assert_eq!(seen[5..7], [Part::Begin(data), Part::Payload(data, 5)]);
        assert!(matches!(seen[7], Part::End(end, _) if end == data && end.ends_stream()));
        assert_eq!(seen.len(), 8);
    }

    #[test]
    fn what_carries_nothing_is_control() {
        let of = |kind, flags, length| Frame { length, kind, flags, stream: 1 };
        assert!((2..=8).all(|kind| of(kind, 0, 8).is_control()) && of(77, 0, 1).is_control());
        assert!(of(DATA, 0, 0).is_control() && !of(DATA, 1, 0).is_control() && !of(DATA, 0, 1).is_control());
        assert!(!of(HEADERS, 0, 0).is_control());
        assert!(of(CONTINUATION, 0, 0).is_control() && !of(CONTINUATION, 0, 1).is_control());
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_does_not_matter(
            frames in proptest::collection::vec((0..12_u8, any::<u8>(), any::<u32>(), 0..40_usize), 0..20),
            noise in proptest::collection::vec(any::<u8>(), 0..40),
            cuts in proptest::collection::vec(1_usize..30, 1..50),
        ) {
            let frames = frames.iter().map(|&(kind, flags, id, length)| frame(kind, flags, id, &vec![flags; length]));
            let mut bytes = frames.collect::<Vec<_>>().concat();
            bytes.extend(noise);
            let (mut whole, mut cut) = (Vec::new(), Vec::new());
            parts(&mut Frames::of_server(), &bytes, &mut whole);
            let mut frames = Frames::of_server();
            let mut rest = &bytes[..];
            for length in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (part, after) = rest.split_at(rest.len().min(*length));
                parts(&mut frames, part, &mut cut);
                rest = after;
            }
            prop_assert_eq!(whole, cut);
        }
    }
}
