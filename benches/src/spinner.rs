//! A neighbour that burns one core and has nothing to do with the service.

use std::process::{Child, Command};

use crate::programs;

/// One that runs; ended by being dropped.
pub(crate) struct Spinner(Child);

impl Spinner {
    /// At most this long it spins, whatever becomes of this program.
    const SECONDS: &str = "30";

    pub(crate) fn start() -> Self {
        Self(Command::new(programs::path("spinner")).arg(Self::SECONDS).spawn().expect("the spinner starts"))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}
