//! A program on disk that is replaced by its next release, as a deployment does it.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use crate::scratch::Scratch;

/// Where the program is, and what its workers do when they start.
#[derive(Debug)]
pub struct Release {
    directory: Scratch,
}

impl Release {
    /// Puts `program` there; its workers behave.
    ///
    /// # Panics
    /// If there is no place for it.
    #[must_use]
    pub fn of(program: &str) -> Self {
        let release = Self { directory: Scratch::new() };
        release.deploy(program);
        release.set_mode("good first");
        release
    }

    /// Where the program is.
    #[must_use]
    pub fn program(&self) -> PathBuf {
        self.directory.path("app")
    }

    /// Where the mode is, for the variable `MODE`.
    #[must_use]
    pub fn mode(&self) -> PathBuf {
        self.directory.path("mode")
    }

    /// How workers behave that start from now on, and which release they say they are.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn set_mode(&self, mode: &str) {
        self.replace("mode", mode.as_bytes());
    }

    /// Puts a copy of `program` in its place, in one moment.
    ///
    /// # Panics
    /// If it cannot be copied.
    pub fn deploy(&self, program: &str) {
        self.deploy_bytes(&fs::read(program).unwrap());
    }

    /// Puts a file of these bytes in its place.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn deploy_bytes(&self, bytes: &[u8]) {
        self.replace("app", bytes);
    }

    fn replace(&self, name: &str, bytes: &[u8]) {
        let new = self.directory.path("new");
        fs::write(&new, bytes).unwrap();
        fs::set_permissions(&new, fs::Permissions::from_mode(0o755)).unwrap();
        fs::rename(new, self.directory.path(name)).unwrap();
    }
}
