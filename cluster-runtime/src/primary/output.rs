//! Writes what workers print, line by line with their names before it, and with control characters made visible.
//!
//! One thread for stdout and one for stderr: each may be stuck with somebody who does not read, without the other, and without the
//! supervisor.

use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::unistd::{Pid, read};
use tokio::net::unix::pipe;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::escape::escape;
use crate::boot::Identity;
use crate::os;
use crate::report::say;

/// A longer line is written in pieces.
const LONGEST_LINE: usize = 16 * 1024;
/// What is read at a time.
const READ: usize = 16 * 1024;
/// The most that a pipe holds, unless root made it larger: so much is still read at the end from one that somebody goes on filling.
const MOST_LEFT: usize = 1024 * 1024;

/// The two threads; without them, nobody's output is prefixed.
#[derive(Debug)]
pub(super) struct Printers {
    stdout: Printer,
    stderr: Printer,
}

impl Printers {
    pub(super) fn start() -> io::Result<Self> {
        Ok(Self { stdout: Printer::start(Stream::Stdout)?, stderr: Printer::start(Stream::Stderr)? })
    }

    /// Prints from now on what comes from this worker's pipes.
    pub(super) fn follow(&self, who: Identity, pid: Pid, [stdout, stderr]: [OwnedFd; 2]) {
        let Identity { worker, slot, generation } = who;
        let prefix = format!("slot={slot} generation={generation} worker={worker} pid={pid}: ");
        self.stderr.follow(prefix.clone(), stderr);
        self.stdout.follow(prefix, stdout);
    }

    /// Waits until everything is printed that workers have written, but not for longer than `time`. Nothing is printed afterwards,
    /// whoever still holds a pipe.
    pub(super) fn finish(self, time: Duration) {
        let deadline = Instant::now() + time;
        for printed in [self.stdout.finish(), self.stderr.finish()] {
            _ = printed.recv_timeout(deadline.saturating_duration_since(Instant::now()));
        }
    }
}

#[derive(Debug)]
struct Printer(mpsc::UnboundedSender<Order>);

#[derive(Debug)]
enum Order {
    Follow { prefix: String, pipe: OwnedFd },
    Finish(SyncSender<()>),
}

impl Printer {
    fn start(stream: Stream) -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_io().build()?;
        let (orders, received) = mpsc::unbounded_channel();
        let name = match stream {
            Stream::Stdout => "cluster-stdout",
            Stream::Stderr => "cluster-stderr",
        };
        thread::Builder::new().name(name.into()).spawn(move || print_all(&runtime, stream, received))?;
        Ok(Self(orders))
    }

    fn follow(&self, prefix: String, pipe: OwnedFd) {
        // The thread ends with this process, or when it is told to.
        _ = self.0.send(Order::Follow { prefix, pipe });
    }

    fn finish(self) -> std::sync::mpsc::Receiver<()> {
        let (done, printed) = sync_channel(1);
        _ = self.0.send(Order::Finish(done));
        printed
    }
}

fn print_all(runtime: &Runtime, stream: Stream, mut orders: mpsc::UnboundedReceiver<Order>) {
    os::leave_signals_to_main();
    runtime.block_on(async {
        let ending = watch::Sender::new(false);
        let mut pipes = JoinSet::new();
        while let Some(order) = orders.recv().await {
            match order {
                Order::Follow { prefix, pipe } => match pipe::Receiver::from_owned_fd(pipe) {
                    Ok(pipe) => _ = pipes.spawn(print(stream, Lines::after(prefix), pipe, ending.subscribe())),
                    Err(error) => say(format_args!("{prefix}its output cannot be read: {error}")),
                },
                Order::Finish(done) => {
                    ending.send_replace(true);
                    while pipes.join_next().await.is_some() {}
                    // Whoever has asked may have lost its patience.
                    _ = done.send(());
                    return;
                }
            }
            while pipes.try_join_next().is_some() {}
        }
    });
}

/// Prints one pipe until all who hold its other end are gone, or the cluster has ended.
async fn print(stream: Stream, mut lines: Lines, pipe: pipe::Receiver, mut ending: watch::Receiver<bool>) {
    loop {
        tokio::select! {
            biased;
            _ = ending.wait_for(|ends| *ends) => {
                stream.write(&take_rest(&mut lines, &pipe));
                break;
            }
            ready = pipe.readable() => if ready.is_err() || !print_some(stream, &mut lines, &pipe) {
                break;
            },
        }
    }
    stream.write(&lines.end());
}

/// Whether more may come.
fn print_some(stream: Stream, lines: &mut Lines, pipe: &pipe::Receiver) -> bool {
    let mut buffer = [0; READ];
    match pipe.try_read(&mut buffer) {
        Ok(0) => false,
        Ok(len) => {
            stream.write(&lines.take(&buffer[..len]));
            true
        }
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// What is in the pipe now, and no more: a process that a worker has left behind may go on writing for ever.
fn take_rest(lines: &mut Lines, pipe: &pipe::Receiver) -> Vec<u8> {
    let mut buffer = [0; READ];
    let (mut text, mut left) = (Vec::new(), MOST_LEFT);
    // Past tokio, whose idea of what there is to read may be older than what the worker wrote last.
    while left > 0
        && let Ok(len @ 1..) = read(pipe.as_fd(), &mut buffer)
    {
        text.append(&mut lines.take(&buffer[..len]));
        left = left.saturating_sub(len);
    }
    text
}

#[derive(Clone, Copy, Debug)]
enum Stream {
    Stdout,
    Stderr,
}

impl Stream {
    /// Where nobody reads any more, workers must not be stopped for it: what they print is lost then, as the primary's own words are.
    fn write(self, text: &[u8]) {
        if text.is_empty() {
            return;
        }
        _ = match self {
            Self::Stdout => {
                let mut stdout = io::stdout().lock();
                stdout.write_all(text).and_then(|()| stdout.flush())
            }
            Self::Stderr => io::stderr().lock().write_all(text),
        };
    }
}

/// Makes prefixed lines of what comes in pieces.
#[derive(Debug)]
struct Lines {
    prefix: String,
    /// The line that has no end yet.
    open: Vec<u8>,
}

impl Lines {
    fn after(prefix: String) -> Self {
        Self { prefix, open: Vec::new() }
    }

    /// The whole lines that `bytes` complete.
    fn take(&mut self, bytes: &[u8]) -> Vec<u8> {
        self.open.extend_from_slice(bytes);
        let (mut text, mut rest) = (Vec::new(), self.open.as_slice());
        loop {
            let window = &rest[..rest.len().min(LONGEST_LINE + 1)];
            let (line, next) = match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => (&rest[..end], end + 1),
                None if window.len() > LONGEST_LINE => {
                    let end = character_start(window, LONGEST_LINE);
                    (&rest[..end], end)
                }
                None => break,
            };
            self.write(line, &mut text);
            rest = &rest[next..];
        }
        let done = self.open.len() - rest.len();
        self.open.drain(..done);
        text
    }

    /// What is left at the end.
    fn end(self) -> Vec<u8> {
        let mut text = Vec::new();
        if !self.open.is_empty() {
            self.write(&self.open, &mut text);
        }
        text
    }

    fn write(&self, line: &[u8], text: &mut Vec<u8>) {
        text.extend_from_slice(self.prefix.as_bytes());
        escape(line, text);
        text.push(b'\n');
    }
}

/// The last start of a UTF-8 character at or before `at`; `at` itself where the text is something else.
fn character_start(text: &[u8], at: usize) -> usize {
    let is_inside = |index: usize| text[index] & 0b1100_0000 == 0b1000_0000;
    (at.saturating_sub(3)..=at).rev().find(|index| !is_inside(*index)).unwrap_or(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines() -> Lines {
        Lines::after("w: ".into())
    }

    #[test]
    fn a_line_comes_whole_however_it_is_cut() {
        let mut lines = lines();
        assert_eq!(lines.take(b"one\ntw"), b"w: one\n");
        assert_eq!(lines.take(b"o"), b"");
        assert_eq!(lines.take(b"\n\nthree"), b"w: two\nw: \n");
        assert_eq!(lines.end(), b"w: three\n");
    }

    #[test]
    fn what_ends_with_a_line_has_no_rest() {
        let mut lines = lines();
        assert_eq!(lines.take(b"one\n"), b"w: one\n");
        assert_eq!(lines.end(), b"");
    }

    #[test]
    fn a_long_line_is_cut_and_none_of_it_is_lost() {
        for len in [LONGEST_LINE - 1, LONGEST_LINE, LONGEST_LINE + 1, 3 * LONGEST_LINE, 3 * LONGEST_LINE + 7] {
            for piece in [100, READ, 10 * READ] {
                let mut lines = lines();
                let line = [&b"x".repeat(len)[..], b"\n"].concat();
                let mut text: Vec<u8> = line.chunks(piece).flat_map(|piece| lines.take(piece)).collect();
                text.extend(lines.end());
                let text = String::from_utf8(text).unwrap();
                assert_eq!(text.lines().count(), len.div_ceil(LONGEST_LINE), "{len}");
                assert!(text.lines().all(|line| line.starts_with("w: x") && line.len() <= LONGEST_LINE + 3));
                assert_eq!(text.matches('x').count(), len);
            }
        }
    }

    /// Whatever is read at a time: the line is whole before it is looked at, and a long one is cut where no character is.
    #[test]
    fn a_control_character_does_not_pass_in_pieces() {
        let mut lines = lines();
        let pieces = [&b"a\xc2"[..], b"\x9b31m \x1b", b"[2J\r", b"\n\x9b"].map(|piece| lines.take(piece)).concat();
        assert_eq!(pieces, b"w: a\\x9b31m \\x1b[2J\\x0d\n");
        assert_eq!(lines.end(), b"w: \\x9b\n");
        for padding in LONGEST_LINE - 3..LONGEST_LINE + 3 {
            let mut lines = self::lines();
            let text = lines.take(&[&b"x".repeat(padding)[..], b"\xc2\x9b31m\xc2\n"].concat());
            assert!(text.windows(4).any(|bytes| bytes == b"\\x9b"), "{padding}");
            assert!(!text.windows(2).any(|bytes| bytes == b"\xc2\x9b"), "{padding}");
            assert!(!text.contains(&b'\x9b'), "{padding}");
        }
    }

    #[tokio::test]
    async fn the_rest_of_a_pipe_is_what_is_in_it_also_while_somebody_holds_it_open() {
        let (ours, theirs) = nix::unistd::pipe().unwrap();
        let pipe = pipe::Receiver::from_owned_fd(ours).unwrap();
        let line = [&b"x".repeat(99)[..], b"\n"].concat();
        nix::unistd::write(&theirs, &line.repeat(500)).unwrap();
        nix::unistd::write(&theirs, b"open").unwrap();
        let mut lines = lines();
        assert_eq!(take_rest(&mut lines, &pipe).len(), 500 * (3 + line.len()));
        assert_eq!(lines.end(), b"w: open\n");
        drop(theirs);
    }

    #[test]
    fn a_long_line_is_cut_between_characters() {
        let mut lines = lines();
        let text = lines.take("é€🦀".repeat(LONGEST_LINE).as_bytes());
        assert!(text.len() > 4 * LONGEST_LINE);
        String::from_utf8(text).unwrap();
    }
}
