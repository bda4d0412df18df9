//! The smallest HTTP/1.1 client that still lets a test decide which byte is sent when.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::DEADLINE;

/// What a server answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The head's lines, their names in lower case, without the status line.
    pub headers: Vec<String>,
    /// The whole body.
    pub body: String,
}

impl Answer {
    /// Whether the head has this line, such as `connection: close`.
    #[must_use]
    pub fn has_header(&self, line: &str) -> bool {
        self.headers.iter().any(|header| header == line)
    }

    /// The value of the first header of this name.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find_map(|header| header.strip_prefix(name)?.strip_prefix(": "))
    }
}

/// The status of an answer that never has a body.
const NO_CONTENT: u16 = 204;

/// One connection, kept alive.
#[derive(Debug)]
pub struct Connection<S = TcpStream> {
    stream: BufReader<S>,
}

/// One GET on a connection of its own.
///
/// # Errors
/// When the server cannot be reached, or the answer does not come whole.
pub fn get(address: SocketAddr, path: &str) -> io::Result<Answer> {
    let mut connection = Connection::open(address)?;
    connection.send(&format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"))?;
    connection.answer()
}

/// [`get`] of what must be there.
///
/// # Panics
/// If the answer is not 200.
#[track_caller]
#[must_use]
pub fn body(address: SocketAddr, path: &str) -> String {
    let answer = get(address, path).unwrap_or_else(|error| panic!("GET {path}: {error}"));
    assert_eq!(answer.status, 200, "GET {path}: {answer:?}");
    answer.body
}

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// When the server cannot be reached.
    pub fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        stream.set_write_timeout(Some(DEADLINE))?;
        stream.set_nodelay(true)?;
        Ok(Self::over(stream))
    }
}

impl<S: Read + Write> Connection<S> {
    /// Speaks over a stream that is there already.
    pub fn over(stream: S) -> Self {
        Self { stream: BufReader::new(stream) }
    }

    /// Sends these bytes and no others.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send(&mut self, text: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(text.as_bytes())
    }

    /// Sends a whole GET.
    ///
    /// # Errors
    /// When the connection is gone.
    pub fn send_get(&mut self, path: &str) -> io::Result<()> {
        self.send(&format!("GET {path} HTTP/1.1\r\nhost: test\r\n\r\n"))
    }

    /// Sends a whole GET and reads its answer.
    ///
    /// # Errors
    /// When the answer does not come whole.
    pub fn get(&mut self, path: &str) -> io::Result<Answer> {
        self.send_get(path)?;
        self.answer()
    }

    /// Sends a whole request, such as `PUT /a` with the headers `["if-match: 1"]`, and reads its answer.
    ///
    /// # Errors
    /// When the answer does not come whole.
    pub fn request(&mut self, what: &str, headers: &[&str], body: &str) -> io::Result<Answer> {
        let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
        let length = body.len();
        self.send(&format!("{what} HTTP/1.1\r\nhost: test\r\n{headers}content-length: {length}\r\n\r\n{body}"))?;
        self.answer()
    }

    /// Reads one answer, whose body is framed by its length, in chunks, or by the end of the connection.
    ///
    /// # Errors
    /// When it does not come whole.
    pub fn answer(&mut self) -> io::Result<Answer> {
        let (status, headers) = self.head()?;
        let mut body = Vec::new();
        let length = headers.iter().find_map(|line| line.strip_prefix("content-length: ")?.parse::<usize>().ok());
        if let Some(length) = length {
            body.resize(length, 0);
            self.stream.read_exact(&mut body)?;
        } else if headers.iter().any(|line| line == "transfer-encoding: chunked") {
            while let Some(chunk) = self.chunk()? {
                body.extend(chunk);
            }
        } else if status != NO_CONTENT {
            self.stream.read_to_end(&mut body)?;
        }
        let body = String::from_utf8(body).map_err(io::Error::other)?;
        Ok(Answer { status, headers, body })
    }

    /// Reads the head of an answer only.
    ///
    /// # Errors
    /// When it does not come whole.
    pub fn head(&mut self) -> io::Result<(u16, Vec<String>)> {
        let status = self.line()?;
        let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
        let code = code.ok_or_else(|| io::Error::other(format!("no status line: {status:?}")))?;
        let mut headers = Vec::new();
        loop {
            let line = self.line()?;
            if line.is_empty() {
                return Ok((code, headers));
            }
            let (name, value) = line.split_once(':').ok_or_else(|| io::Error::other(format!("no header: {line:?}")))?;
            headers.push(format!("{}:{value}", name.to_lowercase()));
        }
    }

    /// Reads one chunk of a chunked body; `None` is its end.
    ///
    /// # Errors
    /// When it does not come whole.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let size = usize::from_str_radix(&self.line()?, 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; size];
        self.stream.read_exact(&mut chunk)?;
        self.line()?;
        Ok((size > 0).then_some(chunk))
    }

    /// Reads so many bytes.
    ///
    /// # Errors
    /// When they do not come.
    pub fn read_exact(&mut self, bytes: &mut [u8]) -> io::Result<()> {
        self.stream.read_exact(bytes)
    }

    /// Reads until the server closes.
    ///
    /// # Errors
    /// When it resets instead, or never closes.
    pub fn rest(&mut self) -> io::Result<String> {
        let mut text = String::new();
        self.stream.read_to_string(&mut text)?;
        Ok(text)
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end().to_owned())
    }
}
