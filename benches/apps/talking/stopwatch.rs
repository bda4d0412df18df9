//! The clock of a program that measures itself. The bench hears from it when what counts begins and ends, and looks at the
//! processes then. Programs of other packages include this file.

use std::env;
use std::time::{Duration, Instant};

/// Runs for as many milliseconds as `SPAN` says, after a quarter of that in which nothing counts.
pub(crate) struct Stopwatch {
    /// What is measured, in one word.
    name: &'static str,
    span: Duration,
    /// Operations between two looks at the clock, which costs as much as one that is quick.
    stride: u64,
    operations: u64,
    next_look: u64,
    state: State,
}

enum State {
    /// Since the first operation.
    WarmingUp(Option<Instant>),
    Running(Instant),
    Over,
}

impl Stopwatch {
    /// Begins with the first lap.
    pub(crate) fn new(name: &'static str, stride: u64) -> Self {
        let span = env::var("SPAN").ok().and_then(|span| span.parse().ok()).expect("SPAN is a number of milliseconds");
        let span = Duration::from_millis(span);
        Self { name, span, stride, operations: 0, next_look: 0, state: State::WarmingUp(None) }
    }

    /// Counts an operation. `false` once the time is over: then nothing counts any more.
    pub(crate) fn lap(&mut self) -> bool {
        self.operations += 1;
        if self.operations < self.next_look {
            return true;
        }
        self.look()
    }

    #[cold]
    fn look(&mut self) -> bool {
        self.next_look = self.operations + self.stride;
        match self.state {
            State::WarmingUp(None) => self.state = State::WarmingUp(Some(Instant::now())),
            State::WarmingUp(Some(since)) if since.elapsed() >= self.span / 4 => {
                println!("begin {}", self.name);
                (self.operations, self.next_look) = (0, self.stride);
                self.state = State::Running(Instant::now());
            }
            State::Running(since) if since.elapsed() >= self.span => {
                println!("end {} {} {}", self.name, self.operations, since.elapsed().as_nanos());
                self.state = State::Over;
            }
            State::WarmingUp(_) | State::Running(_) => {}
            State::Over => return false,
        }
        !matches!(self.state, State::Over)
    }
}
