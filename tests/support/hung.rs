//! A file system whose server is there and never answers, as a dead network mount is.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::skip;

/// Whatever is looked up below it waits until this is dropped. Then it fails, and what was at the place before is back.
#[derive(Debug)]
pub struct Hung {
    place: PathBuf,
    /// The server's end; closed, nobody waits any more.
    server: Option<File>,
}

impl Hung {
    /// Mounts it over the directory `place`; `None`, loudly, where that is not possible.
    ///
    /// # Panics
    /// If `mount` cannot be run.
    #[must_use]
    pub fn over(place: &Path) -> Option<Self> {
        let Ok(server) = File::options().read(true).write(true).open("/dev/fuse") else {
            skip("only root may mount, and there has to be FUSE");
            return None;
        };
        let mut mount = Command::new("mount");
        mount.args(["-i", "-t", "fuse", "-o", "fd=0,rootmode=40000,user_id=0,group_id=0", "hung"]).arg(place);
        let status = mount.stdin(server.try_clone().unwrap()).stderr(Stdio::null()).status().expect("there is mount");
        if !status.success() {
            skip("this process may not mount");
            return None;
        }
        Some(Self { place: place.to_owned(), server: Some(server) })
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        // First, so that whoever waits there is let go.
        self.server = None;
        _ = Command::new("umount").arg("-l").arg(&self.place).status();
    }
}
