//! Where the program is on disk, so that a reload finds what was put there since.

use std::env;
use std::fs::{self, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::spawn::Image;
use crate::aside::Aside;

/// The file that this process was started from, by the path that was used for it.
///
/// Not what `/proc/self/exe` says: where the path is a symbolic link that a deployment turns to the next release, that still names the
/// release before.
#[derive(Debug)]
pub(super) struct Program {
    path: PathBuf,
}

impl Program {
    /// Call it early: the working directory counts.
    pub(super) fn of_this_process() -> io::Result<Self> {
        let find = || {
            let running = fs::metadata("/proc/self/exe")?;
            match as_invoked(&running) {
                Some(path) => Ok(path),
                None => fs::read_link("/proc/self/exe"),
            }
        };
        Ok(Self { path: PROGRAMS.run(Path::new("the path of this program"), find)? })
    }

    /// The one of the program before this one in the same process, which was found in the same way.
    pub(super) const fn at(path: PathBuf) -> Self {
        Self { path }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What is there now.
    pub(super) fn image(&self) -> io::Result<Image> {
        let path = self.path.clone();
        let open = move || {
            let image = Image::open(&path)?;
            look_into(&image)?;
            Ok(image)
        };
        PROGRAMS
            .run(&self.path, open)
            .map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", self.path.display())))
    }
}

static PROGRAMS: Aside = Aside::new();

/// What is neither would be run by the shell, which takes anything for a script.
fn look_into(image: &Image) -> io::Result<()> {
    let mut start = [0; 4];
    let read = match fs::File::open(image.path()) {
        Ok(mut file) => file.read_exact(&mut start),
        // It may be executable and not readable.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        Err(error) => return Err(error),
    };
    if read.is_ok() && (start == *b"\x7fELF" || start.starts_with(b"#!")) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::InvalidData, "it is neither a program nor a script"))
}

/// The path by which a shell or a service manager has found the program, if that is where it is.
fn as_invoked(running: &Metadata) -> Option<PathBuf> {
    let name = PathBuf::from(env::args_os().next()?);
    let is_running = |path: &PathBuf| {
        fs::metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == (running.dev(), running.ino()))
    };
    if name.components().count() > 1 || name.is_absolute() {
        return Some(env::current_dir().ok()?.join(name)).filter(is_running);
    }
    let places = env::var_os("PATH")?;
    env::split_paths(&places).filter(|place| place.is_absolute()).map(|place| place.join(&name)).find(is_running)
}
