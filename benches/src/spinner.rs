//! A neighbour that burns one core and has nothing to do with the service.

use std::env;
use std::process::{Child, Command};

/// One that runs; ended by being dropped.
pub(crate) struct Spinner(Child);

impl Spinner {
    /// At most this long it spins, whatever becomes of this program.
    const SECONDS: &str = "30";

    pub(crate) fn start() -> Self {
        let program = env::current_exe().expect("this program has a path").with_file_name("spinner");
        Self(Command::new(program).arg(Self::SECONDS).spawn().expect("the spinner starts"))
    }
}

impl Drop for Spinner {
    fn drop(&mut self) {
        _ = self.0.kill();
        _ = self.0.wait();
    }
}
