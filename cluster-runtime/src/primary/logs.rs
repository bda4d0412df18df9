//! Log files of workers: opened by the primary, by a path in which those workers may have a hand.
//!
//! A worker that has been taken over could put something else at that path: a link to a file that is root's, another name of such a
//! file, a FIFO that nobody reads. So the file is opened with the rights of the workers' user, never through a link, never waiting, and it is looked
//! at before it is used. Where that user may not do what is needed, root opens it, if that user has no hand in any directory on
//! the way; see [`Way`].

use std::collections::VecDeque;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FcntlArg, OFlag, fcntl, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};
use nix::unistd::Uid;

use crate::aside::Aside;
use crate::boot::Identity;
use crate::os::{self, Actor};

/// A file that a worker's output goes to, opened anew when it was renamed.
#[derive(Clone, Debug)]
pub(super) struct LogFile(PathBuf);

static LOGS: Aside = Aside::new();

impl LogFile {
    pub(super) fn of(pattern: &Path, identity: Identity) -> Self {
        let fill = |bytes: &[u8]| {
            // Whatever is not text in it has no placeholder in it either.
            let text = str::from_utf8(bytes).ok()?;
            let (slot, worker) = (identity.slot.to_string(), identity.worker.to_string());
            Some(text.replace("{slot}", &slot).replace("{worker}", &worker).into())
        };
        Self(fill(pattern.as_os_str().as_bytes()).unwrap_or_else(|| pattern.into()))
    }

    pub(super) fn to_bytes(&self) -> Vec<u8> {
        self.0.as_os_str().as_bytes().to_vec()
    }

    pub(super) fn from_bytes(path: Vec<u8>) -> Self {
        Self(OsString::from_vec(path).into())
    }

    /// Opens it as `actor`, or as this process.
    ///
    /// # Errors
    /// With its path, the reason and the remedy.
    pub(super) fn open(&self, actor: Option<&Actor>) -> io::Result<File> {
        let mut opened = Self::open_all(vec![(self.clone(), actor.cloned())]);
        opened.pop().unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()))
    }

    /// The same for many, in the time of one.
    pub(super) fn open_all(all: Vec<(Self, Option<Actor>)>) -> Vec<io::Result<File>> {
        let paths: Vec<_> = all.iter().map(|(log, _)| log.0.clone()).collect();
        let errands = all.into_iter().map(|(Self(path), actor)| (path.clone(), move || open(&path, actor.as_ref())));
        let told = |(path, opened): (PathBuf, io::Result<File>)| {
            opened.map_err(|error| {
                io::Error::new(error.kind(), format!("cannot open its log file {}: {error}", path.display()))
            })
        };
        paths.into_iter().zip(LOGS.run_all(errands.collect())).map(told).collect()
    }
}

fn open(path: &Path, actor: Option<&Actor>) -> io::Result<File> {
    let whole = CString::new(path.as_os_str().as_bytes())?;
    let Some(actor) = actor else { return open_in(AT_FDCWD, &whole).and_then(check) };
    match os::act_as(actor, || open_in(AT_FDCWD, &whole)) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let way = Way::to(path, actor.user)?;
            way.check(actor)?;
            way.open().and_then(check)
        }
        opened => opened.and_then(check),
    }
}

/// Opens what is there, or makes a file, without following a link that is there, and without waiting.
fn open_in(directory: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    // O_NONBLOCK for a FIFO, O_NOCTTY for a terminal.
    let flags = OFlag::O_WRONLY | OFlag::O_APPEND | OFlag::O_CREAT | OFlag::O_CLOEXEC;
    let flags = flags | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
    let told = |errno: Errno| match errno {
        Errno::ELOOP => {
            refused("it is a symbolic link, which is not followed; remove it, or set the path that it leads to")
        }
        Errno::ENXIO => refused(
            "it is a FIFO that nobody reads, a socket, or no device; remove it, or set the path of a regular file",
        ),
        errno => errno.into(),
    };
    openat(directory, name, flags, Mode::from_bits_truncate(0o666)).map_err(told)
}

/// Whether it is a file to write to, and only this one. Writing to it waits from here on, as workers expect.
fn check(opened: OwnedFd) -> io::Result<File> {
    let found = fstat(&opened)?;
    match kind(&found) {
        SFlag::S_IFREG if found.st_nlink > 1 => {
            return Err(refused(format_args!(
                "it has {} names (hard links), so it may be another one's file; remove it",
                found.st_nlink
            )));
        }
        SFlag::S_IFREG | SFlag::S_IFCHR => {}
        _ => {
            return Err(refused(
                "it is neither a regular file nor a character device; remove it, or set the path of a regular file",
            ));
        }
    }
    let flags = OFlag::from_bits_retain(fcntl(&opened, FcntlArg::F_GETFL)?);
    fcntl(&opened, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK))?;
    Ok(opened.into())
}

/// The directories that lead to a file, each one open, so that it is the same whatever becomes of its name.
///
/// Root may follow it if the workers' user can have put nothing into it: it owns none of them, and may rename, make or remove files in none.
/// In a directory with the sticky bit, as `/tmp`, it may, but not what is another one's. So a directory that is another one's may be in
/// such a one; a link or the file may not, as that user could have moved it there.
struct Way {
    directories: Vec<Directory>,
    name: CString,
}

struct Directory {
    fd: OwnedFd,
    found: FileStat,
    /// All that was taken out of it is safe there, if it has the sticky bit.
    is_kept: bool,
    path: PathBuf,
}

/// As the kernel has it.
const MOST_LINKS: usize = 40;

impl Way {
    /// Walks there as root, one name after the other.
    fn to(path: &Path, user: Uid) -> io::Result<Self> {
        let name = path.file_name().ok_or_else(|| refused("it is not the path of a file"))?;
        let mut ahead = steps(path.parent().unwrap_or(Path::new("")));
        let mut way = Self { directories: Vec::new(), name: c_string(name)? };
        if !path.is_absolute() {
            way.directories.push(Directory::open(OsStr::new("."))?);
        }
        let mut links = 0;
        while let Some(step) = ahead.pop_front() {
            let Some(here) = way.directories.last_mut().filter(|_| step != "/") else {
                way.directories.push(Directory::open(OsStr::new("/"))?);
                continue;
            };
            let next = open_node(&here.fd, &step)?;
            let found = fstat(&next)?;
            if kind(&found) == SFlag::S_IFLNK {
                links += 1;
                if links > MOST_LINKS {
                    return Err(Errno::ELOOP.into());
                }
                here.is_kept = false;
                let target = readlinkat(&next, c"")?;
                steps(Path::new(&target)).into_iter().rev().for_each(|step| ahead.push_front(step));
                continue;
            }
            if kind(&found) != SFlag::S_IFDIR {
                return Err(Errno::ENOTDIR.into());
            }
            here.is_kept &= Uid::from_raw(found.st_uid) != user;
            let path = here.path.join(&step);
            way.directories.push(Directory { fd: next, found, is_kept: true, path });
        }
        if let Some(last) = way.directories.last_mut() {
            last.is_kept = false;
        }
        Ok(way)
    }

    /// # Errors
    /// If root may not follow it because of this user.
    fn check(&self, actor: &Actor) -> io::Result<()> {
        let writable = os::act_as(actor, || {
            Ok(self.directories.iter().map(|directory| os::may_write(directory.fd.as_fd())).collect::<Vec<_>>())
        })?;
        let mut all = self.directories.iter().zip(writable);
        match all.find(|(directory, may_write)| directory.may_be_changed(actor.user, *may_write)) {
            None => Ok(()),
            Some((Directory { path, .. }, _)) => Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "user {} may not write it, and may put links into {}, so root must not open it; give the file to that user, \
                     or set a path below directories that are only root's",
                    actor.user,
                    path.display()
                ),
            )),
        }
    }

    fn open(&self) -> io::Result<OwnedFd> {
        let Some(last) = self.directories.last() else { return Err(Errno::ENOENT.into()) };
        open_in(&last.fd, &self.name)
    }
}

impl Directory {
    fn open(name: &OsStr) -> io::Result<Self> {
        let fd = open_node(AT_FDCWD, name)?;
        Ok(Self { found: fstat(&fd)?, fd, is_kept: true, path: name.into() })
    }

    /// Whether `user` can have put there what was taken out of it, or would be made in it. `may_write` is what the kernel says.
    fn may_be_changed(&self, user: Uid, may_write: Option<bool>) -> bool {
        let mode = self.found.st_mode;
        // Nothing is known of an access list then; its widest entry shows in the bits of the group.
        let may_write = may_write.unwrap_or(mode & 0o022 != 0);
        let is_kept = mode & libc::S_ISVTX != 0 && self.is_kept;
        Uid::from_raw(self.found.st_uid) == user || (may_write && !is_kept)
    }
}

/// Whatever is there, to be looked at: a link itself too.
fn open_node(at: impl AsFd, name: &OsStr) -> io::Result<OwnedFd> {
    Ok(openat(at, name, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty())?)
}

fn steps(path: &Path) -> VecDeque<OsString> {
    path.components().filter(|step| *step != Component::CurDir).map(|step| step.as_os_str().to_owned()).collect()
}

fn kind(found: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT
}

fn c_string(name: &OsStr) -> io::Result<CString> {
    Ok(CString::new(name.as_bytes())?)
}

fn refused(why: impl std::fmt::Display) -> io::Error {
    io::Error::other(why.to_string())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::unistd::{Gid, geteuid, mkfifo};

    use super::*;

    const NOBODY: u32 = 65534;

    /// A directory of root's that goes when the test ends.
    struct Temp(PathBuf);

    impl Temp {
        /// Nothing where the test cannot run.
        fn for_root() -> Option<Self> {
            if !geteuid().is_root() {
                eprintln!("SKIPPED: only root may act as another user");
                return None;
            }
            static COUNT: AtomicU32 = AtomicU32::new(0);
            let name = format!("cluster-logs-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let temp = Self(std::env::temp_dir().join(name));
            temp.directory("", 0, 0o755);
            Some(temp)
        }

        fn directory(&self, name: &str, owner: u32, mode: u32) -> PathBuf {
            let path = self.0.join(name);
            fs::create_dir(&path).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            chown(&path, Some(owner), Some(owner)).unwrap();
            path
        }

        fn file(&self, name: &str, owner: u32, mode: u32) -> PathBuf {
            let path = self.0.join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            chown(&path, Some(owner), Some(owner)).unwrap();
            path
        }

        fn link(&self, name: &str, target: &str, owner: u32) -> PathBuf {
            let path = self.0.join(name);
            symlink(target, &path).unwrap();
            std::os::unix::fs::lchown(&path, Some(owner), Some(owner)).unwrap();
            path
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            _ = fs::remove_dir_all(&self.0);
        }
    }

    fn nobody() -> Actor {
        Actor { user: Uid::from_raw(NOBODY), group: Gid::from_raw(NOBODY), groups: vec![Gid::from_raw(NOBODY)] }
    }

    /// As whom the file was made, or why it was not.
    fn owner(path: PathBuf) -> Result<u32, String> {
        let opened = LogFile(path).open(Some(&nobody())).map_err(|error| error.to_string())?;
        Ok(fstat(&opened).unwrap().st_uid)
    }

    #[track_caller]
    fn expect_refused(path: PathBuf, why: &str) {
        let error = owner(path.clone()).unwrap_err();
        let told = format!("cannot open its log file {}: ", path.display());
        assert!(error.starts_with(&told) && error.contains(why), "{error}");
    }

    #[test]
    fn a_file_is_made_as_the_user_where_that_one_may_and_as_root_where_it_has_no_hand_in_it() {
        let Some(temp) = Temp::for_root() else { return };
        temp.directory("mine", NOBODY, 0o755);
        temp.directory("roots", 0, 0o755);
        temp.directory("closed", 0, 0o700);
        temp.directory("closed/below", 0, 0o700);
        temp.directory("sticky", 0, 0o1777);
        temp.directory("sticky/roots", 0, 0o755);
        temp.link("current", "roots/../roots", 0);
        for (name, by) in [
            ("mine/a.log", NOBODY),
            ("roots/a.log", 0),
            ("roots/../closed/below/a.log", 0),
            ("sticky/a.log", NOBODY),
            ("sticky/roots/a.log", 0),
            ("current/b.log", 0),
        ] {
            assert_eq!(owner(temp.0.join(name)), Ok(by), "{name}");
        }
        // It is there already, from a time when root opened everything.
        temp.file("roots/old.log", 0, 0o644);
        assert_eq!(owner(temp.0.join("roots/old.log")), Ok(0));
    }

    #[test]
    fn root_opens_nothing_in_which_the_user_may_have_a_hand() {
        let Some(temp) = Temp::for_root() else { return };
        let why = "so root must not open it; give the file to that user";
        temp.directory("mine", NOBODY, 0o755);
        temp.directory("mine/roots", 0, 0o755);
        temp.directory("shared", 0, 0o777);
        temp.directory("shared/roots", 0, 0o755);
        temp.directory("group", 0, 0o775);
        chown(temp.0.join("group"), None, Some(NOBODY)).unwrap();
        temp.directory("group/roots", 0, 0o755);
        // It could make itself a way in.
        temp.directory("shut", NOBODY, 0o555);
        temp.directory("sticky", 0, 0o1777);
        temp.directory("sticky/mine", NOBODY, 0o755);
        temp.directory("roots", 0, 0o755);
        temp.link("sticky/link", "../roots", 0);
        temp.link("link", "mine/roots", 0);
        temp.file("mine/a.log", 0, 0o644);
        temp.file("sticky/a.log", 0, 0o644);
        for name in [
            "mine/a.log",
            "mine/roots/a.log",
            "mine/../roots/a.log",
            "shared/roots/a.log",
            "group/roots/a.log",
            "shut/a.log",
            "sticky/a.log",
            "sticky/link/a.log",
            "link/a.log",
        ] {
            expect_refused(temp.0.join(name), why);
        }
        temp.directory("sticky/mine/roots", 0, 0o755);
        expect_refused(temp.0.join("sticky/mine/roots/a.log"), why);
    }

    #[test]
    fn what_is_no_file_of_one_name_is_refused_whoever_opens_it() {
        let Some(temp) = Temp::for_root() else { return };
        temp.directory("mine", NOBODY, 0o755);
        temp.file("secret", NOBODY, 0o600);
        temp.link("mine/link", "../secret", NOBODY);
        temp.link("mine/dangling", "made", NOBODY);
        fs::hard_link(temp.0.join("secret"), temp.0.join("mine/hard")).unwrap();
        mkfifo(&temp.0.join("mine/fifo"), Mode::from_bits_truncate(0o666)).unwrap();
        chown(temp.0.join("mine/fifo"), Some(NOBODY), Some(NOBODY)).unwrap();
        mkfifo(&temp.0.join("mine/read"), Mode::from_bits_truncate(0o666)).unwrap();
        chown(temp.0.join("mine/read"), Some(NOBODY), Some(NOBODY)).unwrap();
        let _reader = File::options().read(true).write(true).open(temp.0.join("mine/read")).unwrap();
        temp.directory("mine/directory", NOBODY, 0o755);
        let _socket = std::os::unix::net::UnixListener::bind(temp.0.join("mine/socket")).unwrap();
        chown(temp.0.join("mine/socket"), Some(NOBODY), Some(NOBODY)).unwrap();
        for (name, why) in [
            ("link", "it is a symbolic link, which is not followed"),
            ("dangling", "it is a symbolic link, which is not followed"),
            ("hard", "it has 2 names (hard links)"),
            ("fifo", "it is a FIFO that nobody reads"),
            ("read", "it is neither a regular file nor a character device"),
            ("directory", "Is a directory"),
            ("socket", "it is a FIFO that nobody reads, a socket"),
            ("missing/a.log", "No such file"),
        ] {
            let path = temp.0.join("mine").join(name);
            expect_refused(path.clone(), why);
            let error = LogFile(path).open(None).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
        assert!(!temp.0.join("mine/made").exists());
    }

    #[test]
    fn writing_to_what_was_opened_waits_as_it_always_did() {
        let file = LogFile("/dev/null".into()).open(None).unwrap();
        let flags = OFlag::from_bits_retain(fcntl(&file, FcntlArg::F_GETFL).unwrap());
        assert!(flags.contains(OFlag::O_APPEND) && !flags.contains(OFlag::O_NONBLOCK), "{flags:?}");
    }

    #[test]
    fn acting_as_a_user_changes_one_thread_and_that_one_for_good() {
        let Some(temp) = Temp::for_root() else { return };
        let ids = || fs::read_to_string("/proc/thread-self/status").unwrap();
        let line = |text: &str, key: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.split_whitespace().collect::<Vec<_>>().join(" ")
        };
        let before = ids();
        let acted = os::act_as(&nobody(), || Ok(ids())).unwrap();
        assert_eq!(line(&acted, "Uid:"), format!("0 0 0 {NOBODY}"));
        assert_eq!(line(&acted, "Groups:"), NOBODY.to_string());
        assert_eq!(line(&acted, "CapEff:"), "0000000000000000");
        for key in ["Uid:", "Gid:", "Groups:", "CapEff:"] {
            assert_eq!(line(&ids(), key), line(&before, key));
        }
        let closed = temp.directory("closed", 0, 0o700);
        assert!(os::act_as(&nobody(), || fs::read_dir(&closed)).is_err());
    }
}
