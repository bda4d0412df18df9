//! The error of a user's `main`, and the one table of exit codes.

use std::error::Error as StdError;
use std::{fmt, io};

use crate::ipc::{CallError, SendError};

/// What `main`, the primary function and [`serve`](crate::serve()) return.
///
/// `cluster::Result` alone is `Result<(), cluster::Error>`. It is a convenience: a `main` may return anything that a plain
/// `main` may, `anyhow::Result` among them.
pub type Result<T = (), E = Error> = std::result::Result<T, E>;

/// Anything that ends a worker's `main` or the primary function early.
///
/// Any error fits in: `?` converts the usual ones, [`Error::other`] the rest. Its `Debug` form, which Rust prints when `main`
/// returns it, is the text with all its causes on one line.
#[non_exhaustive]
pub enum Error {
    /// The operating system refused something, such as an address to listen on.
    Io(io::Error),
    /// A message could not be sent.
    Send(SendError),
    /// A request was not answered.
    Call(CallError),
    /// An error of the program's own.
    Other(Box<dyn StdError + Send + Sync>),
}

impl Error {
    /// Wraps any error, or a text.
    ///
    /// ```
    /// fn open() -> cluster::Result {
    ///     Err(cluster::Error::other("the database is missing; create it with `make db`"))
    /// }
    /// # assert!(open().is_err());
    /// ```
    pub fn other(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Other(error.into())
    }

    fn inner(&self) -> &(dyn StdError + 'static) {
        match self {
            Self::Io(error) => error,
            Self::Send(error) => error,
            Self::Call(error) => error,
            Self::Other(error) => error.as_ref(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self.inner(), f)
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.to_string();
        let mut cause = self.source();
        while let Some(error) = cause {
            // Many errors name their cause in their own text already.
            let more = error.to_string();
            if !text.ends_with(&more) {
                text = format!("{text}: {more}");
            }
            cause = error.source();
        }
        f.write_str(&text)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.inner().source()
    }
}

impl From<io::Error> for Error {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

impl From<SendError> for Error {
    fn from(error: SendError) -> Self {
        Self::Send(error)
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        Self::Call(error)
    }
}

impl From<Box<dyn StdError + Send + Sync>> for Error {
    fn from(error: Box<dyn StdError + Send + Sync>) -> Self {
        Self::Other(error)
    }
}

impl From<String> for Error {
    fn from(text: String) -> Self {
        Self::other(text)
    }
}

impl From<&str> for Error {
    fn from(text: &str) -> Self {
        Self::other(text)
    }
}

/// The exit codes of the primary.
///
/// A worker's own exit code is what its `main` returns.
pub mod exit_code {
    /// The cluster stopped as it was asked to, or every worker finished.
    pub const STOPPED: u8 = 0;
    /// The primary function returned an error or panicked; the workers were drained.
    pub const PRIMARY_FAILED: u8 = 1;
    /// A setting, an environment variable or a worker mark is wrong, or the primary lacks what it needs to start; nothing was
    /// spawned. Of a worker: it could not start.
    pub const CONFIG: u8 = 2;
    /// A worker failed before it was ever ready, at the first start; the others were drained.
    pub const START_FAILED: u8 = 3;
    /// Workers kept failing while none was serving, or the last worker is gone, it failed, and none may follow.
    pub const WORKERS_FAILED: u8 = 4;
    /// The cluster stopped as it was asked to, but a worker did not end within the grace period and was killed.
    pub const GRACE_EXPIRED: u8 = 5;
    /// Ctrl-C during the stop killed every worker at once: 128 and the number of the signal, as shells count.
    pub const INTERRUPTED: u8 = 130;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the shop: {0}")]
    struct Shop(#[source] io::Error);

    #[derive(Debug, thiserror::Error)]
    #[error("no bread today")]
    struct Bread(#[source] Shop);

    #[test]
    fn what_rust_prints_names_every_cause_once() {
        let error = Error::other(Bread(Shop(io::Error::other("the door is stuck"))));
        assert_eq!(format!("{error:?}"), "no bread today: cannot open the shop: the door is stuck");
    }
}
