//! A stream socket between the worker and the primary function without anything on top: what the kernel and the runtime alone cost.

use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{self, SocketAddr};
use std::{io, process};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::stopwatch::Stopwatch;

/// For the primary function: the end of the worker, which connects.
pub(super) async fn accept() -> io::Result<UnixStream> {
    let listener = net::UnixListener::bind_addr(&address(process::id())?)?;
    listener.set_nonblocking(true)?;
    Ok(UnixListener::from_std(listener)?.accept().await?.0)
}

/// For the worker: the end of the primary function, once that accepts.
pub(super) async fn connect() -> io::Result<UnixStream> {
    let address = address(nix::unistd::getppid().as_raw().cast_unsigned())?;
    let stream = loop {
        match net::UnixStream::connect_addr(&address) {
            Ok(stream) => break stream,
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => tokio::task::yield_now().await,
            Err(error) => return Err(error),
        }
    };
    stream.set_nonblocking(true)?;
    UnixStream::from_std(stream)
}

/// Sends so many messages of so many bytes together and waits until as much has come back, again and again.
pub(super) async fn ask(stream: &mut UnixStream, size: usize, at_once: usize) -> io::Result<()> {
    let mut stopwatch = Stopwatch::new("bare", 16);
    let mut messages = vec![7; size * at_once];
    loop {
        stream.write_all(&messages).await?;
        stream.read_exact(&mut messages).await?;
        for _ in 0..at_once {
            if !stopwatch.lap() {
                return Ok(());
            }
        }
    }
}

/// Sends back what comes, so much at once, until the other end closes.
pub(super) async fn answer(stream: &mut UnixStream, size: usize) -> io::Result<()> {
    let mut message = vec![0; size];
    while stream.read_exact(&mut message).await.is_ok() {
        stream.write_all(&message).await?;
    }
    Ok(())
}

/// Abstract, and of this cluster alone.
fn address(primary: u32) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("benches-talking-{primary}"))
}
