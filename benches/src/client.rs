//! As much of an HTTP client as counting needs: it blocks, and believes in `Content-Length`.

use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// The longest that anybody waits for an answer; several times what the slowest peer takes to give one.
pub(crate) const DEADLINE: Duration = Duration::from_secs(2);

/// A connection that may be kept.
pub(crate) struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, DEADLINE)?;
        stream.set_read_timeout(Some(DEADLINE))?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// A request and the body of its answer.
    pub(crate) fn ask(&mut self, path: &str) -> io::Result<String> {
        self.send(path)?;
        self.receive()
    }

    pub(crate) fn send(&mut self, path: &str) -> io::Result<()> {
        self.stream.get_mut().write_all(request(path, "keep-alive").as_bytes())
    }

    pub(crate) fn receive(&mut self) -> io::Result<String> {
        let mut length = None;
        let status = self.line()?;
        loop {
            let line = self.line()?.to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            length = line.strip_prefix("content-length:").and_then(|text| text.trim().parse().ok()).or(length);
        }
        let mut body = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
        self.stream.read_exact(&mut body)?;
        let complete = status.starts_with("HTTP/1.1 200").then_some(body).ok_or(io::ErrorKind::InvalidData)?;
        String::from_utf8(complete).map_err(io::Error::other)
    }

    /// Another handle to the same socket, to close it while this one waits.
    pub(crate) fn socket(&self) -> io::Result<TcpStream> {
        self.stream.get_ref().try_clone()
    }

    /// Without its end; a peer that closes instead is an error.
    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        self.stream.read_line(&mut line)?;
        let line = line.strip_suffix("\r\n").ok_or(io::ErrorKind::UnexpectedEof)?;
        Ok(line.to_owned())
    }
}

/// A request on a connection of its own.
pub(crate) fn ask_once(address: SocketAddr, path: &str) -> io::Result<String> {
    let mut connection = Connection::open(address)?;
    connection.stream.get_mut().write_all(request(path, "close").as_bytes())?;
    connection.receive()
}

/// The text of a request.
pub(crate) fn request(path: &str, connection: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: bench\r\nconnection: {connection}\r\n\r\n")
}
