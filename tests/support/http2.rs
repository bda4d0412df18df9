//! A client of HTTP/2 that lets a test decide which frame is sent when, and which window is opened.

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};

use crate::DEADLINE;

/// One frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// Such as [`DATA`].
    pub kind: u8,
    /// Such as [`END_STREAM`].
    pub flags: u8,
    /// 0 for the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Vec<u8>,
}

/// A part of a body.
pub const DATA: u8 = 0;
/// A head.
pub const HEADERS: u8 = 1;
/// The end of a stream that did not go well.
pub const RST_STREAM: u8 = 3;
/// What one side asks of the other.
pub const SETTINGS: u8 = 4;
/// A question whether the other side is there.
pub const PING: u8 = 6;
/// The end of the connection.
pub const GOAWAY: u8 = 7;
/// Permission to send more.
pub const WINDOW_UPDATE: u8 = 8;
/// More of a head.
pub const CONTINUATION: u8 = 9;
/// Its sender sends nothing more on the stream.
pub const END_STREAM: u8 = 1;
/// The head is complete.
pub const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The setting for what a stream may send at first.
const INITIAL_WINDOW_SIZE: [u8; 2] = [0, 4];

/// One connection.
#[derive(Debug)]
pub struct Http2 {
    stream: TcpStream,
    answers_pings: bool,
}

impl Http2 {
    /// Connects, and lets the server send so much on each stream at first.
    ///
    /// # Panics
    /// When the server cannot be reached.
    #[must_use]
    pub fn open(address: SocketAddr, window: u32) -> Self {
        let stream = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        stream.set_write_timeout(Some(DEADLINE)).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Self { stream, answers_pings: true };
        let settings = [&INITIAL_WINDOW_SIZE[..], &window.to_be_bytes()].concat();
        client.stream.write_all(PREFACE).unwrap();
        client.send(SETTINGS, 0, 0, &settings).unwrap();
        client
    }

    /// From here on PINGs are not answered.
    pub const fn ignore_pings(&mut self) {
        self.answers_pings = false;
    }

    /// The socket itself.
    #[must_use]
    pub const fn socket(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Sends one frame.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) -> io::Result<()> {
        self.stream.write_all(&frame(kind, flags, stream, payload))
    }

    /// Sends the head of a request, such as `POST /length`, which is all of it for a GET.
    ///
    /// # Panics
    /// When the connection is gone.
    pub fn request(&mut self, stream: u32, what: &str) {
        let (method, path) = what.split_once(' ').unwrap();
        let flags = if method == "GET" { END_HEADERS | END_STREAM } else { END_HEADERS };
        let head = head(&[(":method", method), (":scheme", "http"), (":path", path), (":authority", "test")]);
        self.send(HEADERS, flags, stream, &head).unwrap();
    }

    /// Opens a window; 0 is the connection's.
    ///
    /// # Panics
    /// When the connection is gone.
    pub fn open_window(&mut self, stream: u32, more: u32) {
        self.send(WINDOW_UPDATE, 0, stream, &more.to_be_bytes()).unwrap();
    }

    /// The next frame; `None` once the connection is closed or reset.
    ///
    /// # Panics
    /// When nothing comes in time.
    pub fn next_frame(&mut self) -> Option<Frame> {
        let mut header = [0; 9];
        match self.stream.read_exact(&mut header) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => panic!("nothing comes"),
            Err(_) => return None,
        }
        let [a, b, c, kind, flags, id @ ..] = header;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        self.stream.read_exact(&mut payload).ok()?;
        if kind == SETTINGS && flags & ACK == 0 {
            _ = self.send(SETTINGS, ACK, 0, &[]);
        }
        if kind == PING && flags & ACK == 0 && self.answers_pings {
            _ = self.send(PING, ACK, 0, &payload);
        }
        Some(Frame { kind, flags, stream: u32::from_be_bytes(id), payload })
    }

    /// The next frame of this kind; `None` once the connection is closed.
    pub fn next_of(&mut self, kind: u8) -> Option<Frame> {
        std::iter::from_fn(|| self.next_frame()).find(|frame| frame.kind == kind)
    }

    /// Whether a frame of this kind comes on the stream before the connection is closed.
    pub fn has(&mut self, kind: u8, stream: u32) -> bool {
        std::iter::from_fn(|| self.next_frame()).any(|frame| (frame.kind, frame.stream) == (kind, stream))
    }

    /// Reads a whole answer's body, opening the windows for it.
    ///
    /// # Panics
    /// When it does not come whole.
    pub fn body(&mut self, stream: u32) -> Vec<u8> {
        let mut body = Vec::new();
        loop {
            let frame = self.next_frame().expect("the connection is open");
            if frame.stream != stream {
                continue;
            }
            assert_ne!(frame.kind, RST_STREAM, "the stream was reset");
            if frame.kind == DATA {
                body.extend(&frame.payload);
                let more = frame.payload.len() as u32;
                if more > 0 && frame.flags & END_STREAM == 0 {
                    self.open_window(0, more);
                    self.open_window(stream, more);
                }
            }
            if matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                return body;
            }
        }
    }

    /// Reads until the server closes.
    pub fn wait_closed(&mut self) {
        while self.next_frame().is_some() {}
    }
}

/// The bytes of one frame.
#[must_use]
pub fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    bytes.extend([kind, flags]);
    bytes.extend(stream.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// A head in HPACK, without its tables.
#[must_use]
pub fn head(lines: &[(&str, &str)]) -> Vec<u8> {
    let text = |text: &str| {
        let mut bytes = vec![];
        let length = text.len();
        if length < 127 {
            bytes.push(length as u8);
        } else {
            bytes.push(127);
            let mut rest = length - 127;
            while rest >= 128 {
                bytes.push((rest % 128 + 128) as u8);
                rest /= 128;
            }
            bytes.push(rest as u8);
        }
        bytes.extend(text.as_bytes());
        bytes
    };
    lines.iter().flat_map(|(name, value)| [vec![0], text(name), text(value)].concat()).collect()
}
