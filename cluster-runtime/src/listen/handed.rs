//! The descriptors that a primary hands down to the program that it becomes.

use std::io;
use std::os::fd::OwnedFd;

/// They come in the order in which they were handed down, and each is somebody's.
#[derive(Debug)]
pub(crate) struct HandedDown(std::vec::IntoIter<OwnedFd>);

impl HandedDown {
    pub(crate) fn new(fds: Vec<OwnedFd>) -> Self {
        Self(fds.into_iter())
    }

    /// # Errors
    /// `InvalidData` after the last.
    pub(crate) fn next(&mut self) -> io::Result<OwnedFd> {
        self.0.next().ok_or_else(|| invalid("descriptors are missing"))
    }

    /// # Errors
    /// `InvalidData` if there are more.
    pub(crate) fn end(self) -> io::Result<()> {
        if self.0.len() == 0 { Ok(()) } else { Err(invalid("there are more descriptors than there should be")) }
    }
}

/// What was handed down makes no sense.
pub(crate) fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("what the program before has handed down makes no sense: {why}"))
}
