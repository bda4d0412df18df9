//! What a program says, line by line.

use std::io::{BufRead as _, BufReader, Read};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The lines of one output of a program, in their order; a thread takes them in as they come.
pub(crate) struct Lines(Receiver<String>);

impl Lines {
    pub(crate) fn of(output: impl Read + Send + 'static) -> Self {
        let (sender, lines) = channel();
        let mut output = BufReader::new(output).lines();
        thread::spawn(move || output.by_ref().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self(lines)
    }

    /// Waits until `look` makes something of a line; `wanted` says what that is to be.
    pub(crate) fn find<T>(
        &self,
        wanted: &str,
        patience: Duration,
        mut look: impl FnMut(&str) -> Option<Result<T, String>>,
    ) -> Result<T, String> {
        let deadline = Instant::now() + patience;
        let mut last = String::from("nothing");
        loop {
            match self.0.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) => match look(&line) {
                    Some(found) => return found,
                    None => last = line,
                },
                Err(RecvTimeoutError::Timeout) => {
                    return Err(format!("no line `{wanted}` within {patience:?}; the last was: {last}"));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(format!("the program has ended instead of `{wanted}`; its last line was: {last}"));
                }
            }
        }
    }
}
