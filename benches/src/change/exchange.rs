//! One request and its answer, and by what it failed. HTTP as a correct client speaks it, who trusts nothing that comes back.

use std::fmt::{self, Display, Formatter};
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout_at;

/// How a request is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Kind {
    pub(crate) method: Method,
    /// The connection stays for further requests.
    pub(crate) is_kept: bool,
    pub(crate) road: Road,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Method {
    Get,
    /// With a body that comes back.
    Post,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Road {
    Tcp,
    Unix,
}

/// Where the service listens.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub(crate) tcp: SocketAddr,
    pub(crate) unix: PathBuf,
}

/// By what a request failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fate {
    /// No connection was to be had.
    Refused,
    /// The first request of a connection, which ended before any byte of the answer came.
    Reset,
    /// The same, on a connection on which there were answers before. The request is not tried again.
    KeptReset,
    /// The connection ended in the middle of the answer.
    Cut,
    /// An answer, but not 200.
    Status,
    /// 200, but not what was asked for.
    Wrong,
    /// The client gave up.
    Timeout,
}

/// A request that failed, and what the client saw.
#[derive(Clone, Debug)]
pub(crate) struct Failed {
    pub(crate) fate: Fate,
    pub(crate) text: String,
}

/// Who answered, as the answer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answerer {
    pub(crate) slot: usize,
    pub(crate) pid: u32,
    pub(crate) generation: u64,
}

/// The bytes of requests of one kind, no two of which are the same if they have a body.
pub(crate) struct Requests {
    bytes: Vec<u8>,
    /// Where the body begins; for a GET, the end.
    body: usize,
    number: u64,
}

/// A connection to the service.
pub(crate) struct Connection {
    stream: Box<dyn Stream>,
    /// Who gave the last answer.
    pub(crate) answerer: Option<Answerer>,
    answers: u64,
    received: Vec<u8>,
}

trait Stream: AsyncRead + AsyncWrite + Unpin + Send {
    /// Whether the peer has ended the connection, as far as is known here.
    fn is_closed(&self) -> bool;
}

/// What a head says.
struct Head {
    length: usize,
    body: usize,
    /// As it stands there.
    who: String,
    closes: bool,
}

/// Bytes of the body of a POST.
const BODY: usize = 16 * 1024;

impl Kind {
    pub(crate) const ALL: [Self; 8] = {
        use Method::{Get, Post};
        use Road::{Tcp, Unix};
        [
            Self { method: Get, is_kept: true, road: Tcp },
            Self { method: Post, is_kept: true, road: Tcp },
            Self { method: Get, is_kept: false, road: Tcp },
            Self { method: Post, is_kept: false, road: Tcp },
            Self { method: Get, is_kept: true, road: Unix },
            Self { method: Post, is_kept: true, road: Unix },
            Self { method: Get, is_kept: false, road: Unix },
            Self { method: Post, is_kept: false, road: Unix },
        ]
    };
}

impl Requests {
    pub(crate) fn of(kind: Kind) -> Self {
        let connection = if kind.is_kept { "keep-alive" } else { "close" };
        let head = match kind.method {
            Method::Get => format!("GET / HTTP/1.1\r\nhost: bench\r\nconnection: {connection}\r\n\r\n"),
            Method::Post => format!(
                "POST /echo HTTP/1.1\r\nhost: bench\r\nconnection: {connection}\r\ncontent-length: {BODY}\r\n\r\n"
            ),
        };
        let mut bytes = head.into_bytes();
        let body = bytes.len();
        if kind.method == Method::Post {
            bytes.extend((0..BODY).map(|index| (index * 31 % 251) as u8));
        }
        Self { bytes, body, number: 0 }
    }

    /// From now on it is the next one.
    pub(crate) fn advance(&mut self) {
        self.number += 1;
        if let Some(stamp) = self.bytes[self.body..].first_chunk_mut() {
            *stamp = self.number.to_be_bytes();
        }
    }
}

impl Connection {
    /// Connects, or gives up at the deadline.
    pub(crate) async fn open(target: &Target, road: Road, deadline: Instant) -> Result<Self, Failed> {
        let connect = async {
            let stream: Box<dyn Stream> = match road {
                Road::Tcp => {
                    let stream = TcpStream::connect(target.tcp).await?;
                    stream.set_nodelay(true)?;
                    Box::new(stream)
                }
                Road::Unix => Box::new(UnixStream::connect(&target.unix).await?),
            };
            Ok(stream)
        };
        let connected: io::Result<_> = in_time(deadline, connect).await?;
        let stream = connected.map_err(|error| Failed::new(Fate::Refused, &error))?;
        Ok(Self { stream, answerer: None, answers: 0, received: Vec::new() })
    }

    /// How many requests were answered on it.
    pub(crate) fn answers(&self) -> u64 {
        self.answers
    }

    /// Whether the server has closed it, which is its right while nothing is asked.
    pub(crate) fn is_closed(&self) -> bool {
        self.stream.is_closed()
    }

    /// Sends a request and checks its answer, or gives up at the deadline. Whether the connection may be used again.
    pub(crate) async fn ask(&mut self, requests: &Requests, deadline: Instant) -> Result<bool, Failed> {
        in_time(deadline, async {
            // Whoever cannot write may still find an answer that says why.
            _ = self.stream.write_all(&requests.bytes).await;
            self.receive(&requests.bytes[requests.body..]).await
        })
        .await?
    }

    async fn receive(&mut self, sent: &[u8]) -> Result<bool, Failed> {
        self.received.clear();
        let head = loop {
            self.read().await?;
            if let Some(head) = Head::parse(&self.received)? {
                break head;
            }
        };
        while self.received.len() < head.body + head.length {
            self.read().await?;
        }
        let (body, rest) = self.received[head.body..].split_at(head.length);
        if !rest.is_empty() {
            return Err(Failed::new(Fate::Wrong, &"more than was asked for"));
        }
        let wanted = if sent.is_empty() { format!("hello from {}\n", head.who).into_bytes() } else { sent.to_vec() };
        if body != wanted {
            return Err(Failed::new(Fate::Wrong, &"the body is another"));
        }
        let answerer = Answerer::parse(&head.who);
        self.answers += 1;
        self.answerer = Some(answerer.ok_or_else(|| Failed::new(Fate::Wrong, &"nobody says who answers"))?);
        Ok(!head.closes)
    }

    /// At least a byte; whatever ends the connection instead is a failure.
    async fn read(&mut self) -> Result<(), Failed> {
        let fate = match (self.received.is_empty(), self.answerer) {
            (true, None) => Fate::Reset,
            (true, Some(_)) => Fate::KeptReset,
            (false, _) => Fate::Cut,
        };
        match self.stream.read_buf(&mut self.received).await {
            Ok(0) => Err(Failed::new(fate, &"closed")),
            Ok(_) => Ok(()),
            Err(error) => Err(Failed::new(fate, &error)),
        }
    }
}

impl Head {
    /// None, if it is not complete.
    fn parse(bytes: &[u8]) -> Result<Option<Self>, Failed> {
        let mut headers = [httparse::EMPTY_HEADER; 16];
        let mut response = httparse::Response::new(&mut headers);
        let body = match response.parse(bytes) {
            Ok(httparse::Status::Complete(body)) => body,
            Ok(httparse::Status::Partial) => return Ok(None),
            Err(error) => return Err(Failed::new(Fate::Wrong, &error)),
        };
        if response.code != Some(200) {
            let status = response.code.unwrap_or_default();
            return Err(Failed::new(Fate::Status, &status));
        }
        let value = |name: &str| {
            let mut found = response.headers.iter().filter(|header| header.name.eq_ignore_ascii_case(name));
            found.next().and_then(|header| std::str::from_utf8(header.value).ok())
        };
        let length = value("content-length").and_then(|length| length.parse().ok());
        Ok(Some(Self {
            length: length.ok_or_else(|| Failed::new(Fate::Wrong, &"the body has no length"))?,
            body,
            who: value("x-worker").unwrap_or_default().to_owned(),
            closes: response.version != Some(1)
                || value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")),
        }))
    }
}

impl Answerer {
    fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(' ');
        let answerer = Self {
            slot: parts.next()?.parse().ok()?,
            pid: parts.next()?.parse().ok()?,
            generation: parts.next()?.parse().ok()?,
        };
        parts.next().is_none().then_some(answerer)
    }
}

impl Failed {
    fn new(fate: Fate, text: &dyn Display) -> Self {
        Self { fate, text: text.to_string() }
    }
}

async fn in_time<T>(deadline: Instant, what: impl Future<Output = T>) -> Result<T, Failed> {
    timeout_at(deadline.into(), what).await.map_err(|elapsed| Failed::new(Fate::Timeout, &elapsed))
}

impl Stream for TcpStream {
    fn is_closed(&self) -> bool {
        is_ended(self.as_raw_fd())
    }
}

impl Stream for UnixStream {
    fn is_closed(&self) -> bool {
        is_ended(self.as_raw_fd())
    }
}

/// Asks the kernel and not tokio, who learns of it later.
fn is_ended(socket: i32) -> bool {
    match recv(socket, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) {
        Ok(count) => count == 0,
        Err(error) => error != Errno::EAGAIN,
    }
}

impl Display for Kind {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let method = match self.method {
            Method::Get => "GET",
            Method::Post => "POST of 16 KiB",
        };
        let manner = if self.is_kept { "keep-alive" } else { "a connection each" };
        let road = match self.road {
            Road::Tcp => "TCP",
            Road::Unix => "Unix",
        };
        write!(f, "{method}, {manner}, {road}")
    }
}

impl Fate {
    pub(crate) const ALL: [Self; 7] =
        [Self::Refused, Self::Reset, Self::KeptReset, Self::Cut, Self::Status, Self::Wrong, Self::Timeout];
}

impl Display for Fate {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refused => "refused",
            Self::Reset => "reset before the answer",
            Self::KeptReset => "kept connection reset",
            Self::Cut => "cut in the middle",
            Self::Status => "another status",
            Self::Wrong => "wrong answer",
            Self::Timeout => "no answer in time",
        })
    }
}
