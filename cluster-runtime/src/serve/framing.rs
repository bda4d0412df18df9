//! Where requests begin and end in the bytes of an HTTP/1 connection.
//!
//! hyper parses them, and does not say how far it is: whether a head was begun, and whether a body is still to come. So this looks over
//! the bytes on their way to it. It judges nothing but lengths; what it cannot follow, hyper refuses.

use memchr::memchr;

/// Follows one connection.
#[derive(Debug, Default)]
pub(super) struct Framing {
    place: Place,
    /// Heads that are complete.
    heads: u64,
    /// The number of the first one that gave its body two kinds of length; 0 for none.
    ambiguous: u64,
    length: Option<u64>,
    is_chunked: bool,
    /// The begin of a line whose end has not come.
    partial: Option<Box<Partial>>,
}

/// What the next byte belongs to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    /// Nothing was begun.
    #[default]
    Between,
    Head,
    /// So much of a body is to come.
    Sized(u64),
    ChunkSize,
    /// The rest of a chunk, the end of line after it included.
    Chunk(u64),
    Trailers,
    /// hyper will find it malformed.
    Lost,
}

/// What a connection has come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Between,
    Head,
    Body,
}

#[derive(Debug)]
struct Partial {
    begin: [u8; Self::MOST],
    /// How long the line is so far.
    length: usize,
}

impl Partial {
    /// So much of a line is looked at: the name, and a number.
    const MOST: usize = 64;

    const fn new() -> Self {
        Self { begin: [0; Self::MOST], length: 0 }
    }

    fn add(&mut self, bytes: &[u8]) {
        let rest = self.begin.get_mut(self.length..).unwrap_or_default();
        let count = rest.len().min(bytes.len());
        rest[..count].copy_from_slice(&bytes[..count]);
        self.length += bytes.len();
    }

    fn line(&self) -> &[u8] {
        &self.begin[..self.length.min(Self::MOST)]
    }
}

impl Framing {
    pub(super) fn feed(&mut self, mut bytes: &[u8]) {
        while let Some(&first) = bytes.first() {
            match self.place {
                Place::Lost => return,
                Place::Between if first == b'\r' || first == b'\n' => bytes = &bytes[1..],
                Place::Between => self.place = Place::Head,
                Place::Sized(rest) => self.place = pass(&mut bytes, rest).map_or(Place::Between, Place::Sized),
                Place::Chunk(rest) => self.place = pass(&mut bytes, rest).map_or(Place::ChunkSize, Place::Chunk),
                Place::Head | Place::ChunkSize | Place::Trailers => {
                    let Some(end) = memchr(b'\n', bytes) else {
                        return self.partial.get_or_insert_with(|| Box::new(Partial::new())).add(bytes);
                    };
                    let (line, rest) = bytes.split_at(end + 1);
                    bytes = rest;
                    match self.partial.take() {
                        None => self.take_line(line),
                        Some(mut partial) => {
                            partial.add(line);
                            self.take_line(partial.line());
                        }
                    }
                }
            }
        }
    }

    pub(super) fn stage(&self) -> Stage {
        match self.place {
            Place::Between | Place::Lost => Stage::Between,
            Place::Head => Stage::Head,
            Place::Sized(_) | Place::ChunkSize | Place::Chunk(_) | Place::Trailers => Stage::Body,
        }
    }

    /// How many heads are complete.
    pub(super) fn heads(&self) -> u64 {
        self.heads
    }

    /// The number of the first request with two kinds of length; 0 for none.
    pub(super) fn ambiguous(&self) -> u64 {
        self.ambiguous
    }

    fn take_line(&mut self, line: &[u8]) {
        // The same of a line that comes in one piece as of one that does not.
        let line = &line[..line.len().min(Partial::MOST)];
        let is_empty = matches!(line, b"\n" | b"\r\n");
        match self.place {
            Place::Head if is_empty => self.end_head(),
            Place::Head => self.take_header(line),
            Place::Trailers if is_empty => self.place = Place::Between,
            Place::ChunkSize => {
                self.place = match chunk_size(line) {
                    None => Place::Lost,
                    Some(0) => Place::Trailers,
                    Some(size) => Place::Chunk(size.saturating_add(2)),
                }
            }
            Place::Trailers | Place::Between | Place::Sized(_) | Place::Chunk(_) | Place::Lost => {}
        }
    }

    /// Most lines are none of the two that matter, and their first byte tells.
    fn take_header(&mut self, line: &[u8]) {
        match line[0] | 0x20 {
            b'c' => {
                if let Some(value) = value_of(line, b"content-length") {
                    match value.and_then(number) {
                        None => self.place = Place::Lost,
                        length => self.length = length,
                    }
                }
            }
            b't' if value_of(line, b"transfer-encoding").is_some() => self.is_chunked = true,
            _ => {}
        }
    }

    fn end_head(&mut self) {
        self.heads += 1;
        let length = self.length.take();
        if self.is_chunked && length.is_some() && self.ambiguous == 0 {
            self.ambiguous = self.heads;
        }
        self.place = match length {
            _ if std::mem::take(&mut self.is_chunked) => Place::ChunkSize,
            None | Some(0) => Place::Between,
            Some(length) => Place::Sized(length),
        };
    }
}

/// Goes over what is there of the `rest`; what is still to come then, if anything is.
fn pass(bytes: &mut &[u8], rest: u64) -> Option<u64> {
    let count = usize::try_from(rest).unwrap_or(usize::MAX).min(bytes.len());
    *bytes = &bytes[count..];
    Some(rest - count as u64).filter(|rest| *rest > 0)
}

/// The value in the line, if it has this name; `None` in it if that is not text, or too long to be looked at.
fn value_of<'a>(line: &'a [u8], name: &[u8]) -> Option<Option<&'a str>> {
    let (found, rest) = line.split_at_checked(name.len())?;
    let value = rest.strip_prefix(b":").filter(|_| found.eq_ignore_ascii_case(name))?;
    Some(std::str::from_utf8(value).ok().filter(|value| value.ends_with('\n')))
}

fn number(value: &str) -> Option<u64> {
    let digits = value.trim_matches([' ', '\t', '\r', '\n']);
    digits.bytes().all(|digit| digit.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn chunk_size(line: &[u8]) -> Option<u64> {
    let end = line.iter().position(|byte| !byte.is_ascii_hexdigit())?;
    u64::from_str_radix(std::str::from_utf8(&line[..end]).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(text: &str) -> Framing {
        let mut framing = Framing::default();
        framing.feed(text.as_bytes());
        framing
    }

    #[test]
    fn a_head_is_begun_by_its_first_byte_and_ended_by_an_empty_line() {
        for (text, stage) in [
            ("", Stage::Between),
            ("\r\n\r\n", Stage::Between),
            ("G", Stage::Head),
            ("GET / HTTP/1.1\r\n", Stage::Head),
            ("GET / HTTP/1.1\r\nhost: a\r\n\r", Stage::Head),
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", Stage::Between),
            ("GET / HTTP/1.1\nhost: a\n\n", Stage::Between),
            ("GET / HTTP/1.1\r\nhost: a\r\n\r\nG", Stage::Head),
        ] {
            assert_eq!(after(text).stage(), stage, "{text:?}");
        }
    }

    #[test]
    fn a_body_lasts_as_long_as_its_length_says() {
        let head = "POST / HTTP/1.1\r\nContent-LENGTH:  3 \r\n\r\n";
        for (body, stage) in [("", Stage::Body), ("ab", Stage::Body), ("abc", Stage::Between), ("abcG", Stage::Head)] {
            assert_eq!(after(&format!("{head}{body}")).stage(), stage, "{body:?}");
        }
        assert_eq!(after("POST / HTTP/1.1\r\ncontent-length: 0\r\n\r\n").stage(), Stage::Between);
    }

    #[test]
    fn a_body_in_chunks_lasts_until_the_empty_line_after_the_last_one() {
        let head = "POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n";
        for (body, stage) in [
            ("", Stage::Body),
            ("a;x=y\r\n0123456789\r\n", Stage::Body),
            ("1\r\na\r\n0\r\n", Stage::Body),
            ("1\r\na\r\n0\r\nx: y\r\n", Stage::Body),
            ("1\r\na\r\n0\r\n\r\n", Stage::Between),
            ("1\r\na\r\n0\r\nx: y\r\n\r\n", Stage::Between),
            ("0\r\n\r\nGET", Stage::Head),
        ] {
            assert_eq!(after(&format!("{head}{body}")).stage(), stage, "{body:?}");
        }
    }

    #[test]
    fn two_kinds_of_length_are_found_in_either_order_and_in_the_request_that_has_them() {
        let plain = "GET / HTTP/1.1\r\n\r\n";
        for lines in ["content-length: 5\r\ntransfer-encoding: chunked", "Transfer-Encoding: x\r\nContent-Length: 5"] {
            assert_eq!(after(&format!("{plain}{plain}POST / HTTP/1.1\r\n{lines}\r\n\r\n")).ambiguous(), 3, "{lines:?}");
        }
        let apart =
            "POST / HTTP/1.1\r\ncontent-length: 1\r\n\r\naPOST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n";
        assert_eq!(after(apart).ambiguous(), 0);
    }

    #[test]
    fn what_makes_no_sense_is_given_up() {
        for text in [
            "POST / HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 5, 5\r\n\r\n",
            "POST / HTTP/1.1\r\ncontent-length: 99999999999999999999999\r\n\r\n",
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nx\r\n",
        ] {
            assert_eq!(after(text).place, Place::Lost, "{text:?}");
        }
    }

    /// Requests as they may come, one after the other.
    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let long = "x".repeat(200);
        let pieces = vec![
            "GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(),
            format!("GET /{long} HTTP/1.1\r\nc: d\r\ntransfer: e\r\ncontent-length-not: 7\r\n\r\n"),
            "POST / HTTP/1.1\r\ncontent-length: 10\r\n\r\n0123456789".into(),
            "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n".into(),
            "POST / HTTP/1.1\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\na: b\r\n\r\n".into(),
            "\r\n".into(),
            "junk\n\n".into(),
            "POST / HTTP/1.1\r\ncontent-length: many\r\n\r\n".into(),
        ];
        let noise = proptest::collection::vec(any::<u8>(), 0..20);
        let piece = prop_oneof![20 => proptest::sample::select(pieces).prop_map(String::into_bytes), 1 => noise];
        proptest::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn how_the_bytes_are_cut_does_not_matter(bytes in stream(), cuts in proptest::collection::vec(1_usize..40, 1..200)) {
            let mut whole = Framing::default();
            whole.feed(&bytes);
            let mut parts = Framing::default();
            let mut rest = &bytes[..];
            for cut in cuts.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (part, after) = rest.split_at(rest.len().min(*cut));
                parts.feed(part);
                rest = after;
            }
            prop_assert_eq!((whole.place, whole.heads, whole.ambiguous), (parts.place, parts.heads, parts.ambiguous));
        }
    }
}
