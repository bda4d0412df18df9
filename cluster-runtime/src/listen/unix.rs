//! Unix listening sockets: binding to a file, with everything that the file brings along.
//!
//! A TCP port is free again once its server is dead. The file of a Unix socket stays, and the next server cannot bind:
//! it must find out whether anybody is behind the file, and only if not, take its place. Two that start at the same
//! moment must not take it from one another, so whoever binds holds a lock on the directory meanwhile. Nobody waits
//! long for it, since anyone who can read the directory can hold it for ever: without the lock a socket is bound all
//! the same, but nothing is removed.

use std::ffi::OsString;
use std::fs::{self, File, Metadata, OpenOptions, Permissions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::stat::{Mode, fchmod};
use socket2::{Domain, SockAddr, Socket, Type};

use crate::aside::Aside;

/// Binds a stream socket to the absolute `path` and listens. The file is there as long as the guard.
///
/// With `mode`, the file has these permissions (the nine bits of them), and at no moment wider ones; without, what the
/// umask leaves.
///
/// The file of a server that is dead is replaced. A server of another kind that stands between its bind(2) and its
/// listen(2) looks dead, too.
///
/// # Errors
/// `AddrInUse` where a server is alive or the file is no socket, `TimedOut` where the path does not answer, else what the kernel says. The
/// text names the path and, where there is one, the remedy.
pub(crate) fn bind(path: &Path, mode: Option<u32>, backlog: i32) -> io::Result<(Socket, FileGuard)> {
    let there = path.to_owned();
    SOCKETS.run(path, move || bind_there(&there, mode, backlog))
}

static SOCKETS: Aside = Aside::new();

fn bind_there(path: &Path, mode: Option<u32>, backlog: i32) -> io::Result<(Socket, FileGuard)> {
    let place = Place::open(path)?;
    let mode = mode.map(|mode| mode & MODES);
    let lock = lock(&place.directory);
    let socket = stream_socket()?;
    if let Some(mode) = mode {
        restrict(&socket, mode)?;
    }
    let guard = place.bind(&socket, lock.is_some())?;
    if let Some(mode) = mode {
        guard.widen(mode).map_err(|error| place.failed(&error))?;
    }
    // Still under the lock: a socket that is bound and does not listen looks like one of a dead server.
    socket.listen(backlog).map_err(|error| place.failed(&error))?;
    Ok((socket, guard))
}

/// Binds a stream socket to a name in the abstract namespace and listens.
///
/// There is no file: nothing to clean up, and no permissions either. Everyone in the network namespace can connect.
///
/// # Errors
/// `AddrInUse` where somebody has the name, `InvalidInput` for a name that is empty or too long.
pub(crate) fn bind_abstract(name: &[u8], backlog: i32) -> io::Result<Socket> {
    let shown = format!("@{}", name.escape_ascii());
    if name.is_empty() || name.len() >= SUN_PATH {
        return Err(refused(Path::new(&shown), format_args!("an abstract name has 1 to {} bytes", SUN_PATH - 1)));
    }
    let address = SockAddr::unix(PathBuf::from(OsString::from_vec([&[0], name].concat())))?;
    let socket = stream_socket()?;
    let listening = socket.bind(&address).and_then(|()| socket.listen(backlog));
    listening.map_err(|error| text(error.kind(), Path::new(&shown), error))?;
    Ok(socket)
}

/// Removes the file of a Unix socket when it is dropped, unless another one has taken its place since.
#[derive(Debug)]
pub(crate) struct FileGuard {
    path: PathBuf,
    /// The file itself. While it is open, no new file can get its inode number.
    file: Option<File>,
}

impl FileGuard {
    /// Leaves the file where it is.
    pub(crate) fn keep(mut self) {
        self.file = None;
    }

    /// What the file is told by from others; see [`again`](Self::again).
    pub(crate) fn file(&self) -> Option<BorrowedFd<'_>> {
        self.file.as_ref().map(AsFd::as_fd)
    }

    /// Guards the file of a socket that another guard has [kept](Self::keep): in the program before, as a rule. `file` is what
    /// that one held.
    ///
    /// # Errors
    /// `InvalidData` if it is not the file of a socket.
    pub(crate) fn again(path: PathBuf, file: OwnedFd) -> io::Result<Self> {
        let file = File::from(file);
        if !file.metadata()?.file_type().is_socket() {
            return Err(text(io::ErrorKind::InvalidData, &path, "what was handed down is not the file of a socket"));
        }
        Ok(Self { path, file: Some(file) })
    }

    fn of(path: PathBuf) -> io::Result<Self> {
        let file = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_NOFOLLOW).open(&path)?;
        Ok(Self { path, file: Some(file) })
    }

    /// Gives the file the permissions `mode` that the umask may have taken away.
    fn widen(&self, mode: u32) -> io::Result<()> {
        let Some(file) = &self.file else { return Ok(()) };
        let now = file.metadata()?;
        if !now.file_type().is_socket() || now.permissions().mode() & MODES == mode {
            return Ok(());
        }
        // By its descriptor, so that it is this file whatever is at the path by now.
        fs::set_permissions(by_descriptor(file), Permissions::from_mode(mode))
    }
}

impl Drop for FileGuard {
    fn drop(&mut self) {
        if let Some(file) = self.file.take() {
            let path = std::mem::take(&mut self.path);
            // A file that cannot be removed is in nobody's way: the next server takes it over.
            _ = SOCKETS.run(&path.clone(), move || remove(&path, &file));
        }
    }
}

/// Removes what is at the path if it is this file.
fn remove(path: &Path, file: &File) -> io::Result<()> {
    let directory = Place::open(path)?.directory;
    // Against a newcomer that takes the path over just now.
    let _lock = lock(&directory);
    if is_same(&file.metadata()?, &fs::symlink_metadata(path)?) {
        fs::remove_file(path)?;
    }
    Ok(())
}

/// What the kernel has room for in an address, with the zero at the end.
const SUN_PATH: usize = 108;
/// The bits of a mode that say who may do what.
const MODES: u32 = 0o777;
/// What is done under the lock takes well below a millisecond; whoever holds it for longer does something else.
const LOCK_TRIES: usize = 20;
const LOCK_PAUSE: Duration = Duration::from_millis(10);

/// A path that a socket can be bound to.
struct Place {
    path: PathBuf,
    /// Open for nothing but to be named and locked.
    directory: File,
    address: SockAddr,
}

impl Place {
    fn open(path: &Path) -> io::Result<Self> {
        let (true, Some(parent), Some(name)) = (path.is_absolute(), path.parent(), path.file_name()) else {
            return Err(refused(path, "it is not the absolute path of a file"));
        };
        if path.as_os_str().as_bytes().contains(&0) {
            return Err(refused(path, "there is a zero byte in it"));
        }
        let open = OpenOptions::new().read(true).custom_flags(libc::O_PATH | libc::O_DIRECTORY).open(parent);
        let directory =
            open.map_err(|error| text(error.kind(), path, format_args!("{}: {error}", parent.display())))?;

        let path = parent.join(name);
        let short = by_descriptor(&directory).join(name);
        let fitting = [&path, &short].into_iter().find_map(|path| SockAddr::unix(path).ok());
        let Some(address) = fitting else {
            let excess = short.as_os_str().len() + 1 - SUN_PATH;
            return Err(refused(&path, format_args!("the name of the file is {excess} bytes too long")));
        };
        Ok(Self { path, directory, address })
    }

    /// Binds the socket. What is in the way is removed if it is the file of a dead server and `may_remove`.
    fn bind(&self, socket: &Socket, may_remove: bool) -> io::Result<FileGuard> {
        let mut bound = socket.bind(&self.address);
        if bound.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AddrInUse) {
            self.make_room(may_remove)?;
            bound = socket.bind(&self.address);
        }
        bound.map_err(|error| self.failed(&error))?;
        // Without a guard nobody would remove the file. It is the one just made, as far as anybody can tell.
        FileGuard::of(self.path.clone()).map_err(|error| {
            _ = fs::remove_file(&self.path);
            self.failed(&error)
        })
    }

    fn make_room(&self, may_remove: bool) -> io::Result<()> {
        let there = match fs::symlink_metadata(&self.path) {
            Ok(there) => there,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(self.failed(&error)),
        };
        if !there.file_type().is_socket() {
            let what = describe(&there);
            return Err(self.in_use(format_args!("{what} is there; remove it, or listen on another path")));
        }
        match self.is_alive() {
            Ok(true) => Err(self.in_use("another server listens there; stop it, or listen on another path")),
            Ok(false) if may_remove => fs::remove_file(&self.path).map_err(|error| self.failed(&error)),
            Ok(false) => Err(self.in_use(
                "a dead server has left its file, which can be replaced safely only under a lock on the directory, \
                 and that is not to be had; remove the file",
            )),
            Err(error) => {
                Err(self
                    .in_use(format_args!("a socket is there, and whether its server is alive cannot be seen: {error}")))
            }
        }
    }

    /// Whether somebody has the socket at the path open, for listening or otherwise. Never waits.
    fn is_alive(&self) -> io::Result<bool> {
        match stream_socket()?.connect(&self.address) {
            Ok(()) => Ok(true),
            Err(error) => match error.raw_os_error().map(Errno::from_raw) {
                Some(Errno::ECONNREFUSED) => Ok(false),
                // Its queue is full, or it is not for streams.
                Some(Errno::EAGAIN | Errno::EPROTOTYPE) => Ok(true),
                _ => Err(error),
            },
        }
    }

    fn in_use(&self, why: impl std::fmt::Display) -> io::Error {
        text(io::ErrorKind::AddrInUse, &self.path, why)
    }

    fn failed(&self, error: &io::Error) -> io::Error {
        text(error.kind(), &self.path, error)
    }
}

/// Closed on exec; non-blocking holds for every duplicate, the workers' too.
fn stream_socket() -> io::Result<Socket> {
    Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)
}

/// Has the file made with `mode` or less, when the socket is bound.
///
/// bind(2) gives the file the mode of the socket's own inode, less the umask. To change the umask instead would change
/// it for every thread of the process.
fn restrict(socket: &Socket, mode: u32) -> io::Result<()> {
    fchmod(socket, Mode::from_bits_truncate(mode))?;
    Ok(())
}

/// An exclusive lock on the directory, or nothing where it cannot be had soon.
fn lock(directory: &File) -> Option<Flock<File>> {
    let mut file = File::open(by_descriptor(directory)).ok()?;
    for _ in 0..LOCK_TRIES {
        match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => return Some(lock),
            Err((back, Errno::EWOULDBLOCK)) => file = back,
            Err(_not_on_this_file_system) => return None,
        }
        thread::sleep(LOCK_PAUSE);
    }
    None
}

/// A path to the open file, short and proof against renaming.
fn by_descriptor(file: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", file.as_raw_fd()))
}

fn is_same(one: &Metadata, other: &Metadata) -> bool {
    (one.dev(), one.ino()) == (other.dev(), other.ino())
}

fn describe(file: &Metadata) -> &'static str {
    let kind = file.file_type();
    if kind.is_dir() {
        "a directory"
    } else if kind.is_symlink() {
        "a symbolic link"
    } else if kind.is_file() {
        "a file that is no socket"
    } else {
        "something that is no socket"
    }
}

fn refused(path: &Path, why: impl std::fmt::Display) -> io::Error {
    text(io::ErrorKind::InvalidInput, path, why)
}

fn text(kind: io::ErrorKind, path: &Path, why: impl std::fmt::Display) -> io::Error {
    io::Error::new(kind, format!("{why} ({})", path.display()))
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::os::unix::fs::symlink;
    use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::{Arc, Barrier};
    use std::time::Instant;

    use nix::fcntl::{FcntlArg, FdFlag, OFlag, fcntl};

    use super::*;

    /// A directory that goes when the test ends.
    struct Temp(PathBuf);

    impl Temp {
        fn new() -> Self {
            static COUNT: AtomicUsize = AtomicUsize::new(0);
            let name = format!("cluster-unix-{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
            let path = std::env::temp_dir().join(name);
            fs::create_dir(&path).unwrap();
            Self(path)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.join(name)
        }
    }

    impl Drop for Temp {
        fn drop(&mut self) {
            _ = fs::remove_dir_all(&self.0);
        }
    }

    fn bind_plain(path: &Path) -> io::Result<(Socket, FileGuard)> {
        bind(path, None, 16)
    }

    fn mode(path: &Path) -> u32 {
        fs::symlink_metadata(path).unwrap().permissions().mode() & MODES
    }

    #[test]
    fn what_listens_can_be_connected_to_and_its_file_goes_with_the_guard() {
        let temp = Temp::new();
        let path = temp.path("a.sock");
        let (socket, guard) = bind_plain(&path).unwrap();
        UnixStream::connect(&path).unwrap();
        assert_eq!(socket.local_addr().unwrap().as_pathname(), Some(path.as_path()));
        socket.accept().expect("the connection waits in the queue");
        drop(guard);
        assert!(!path.exists());
    }

    #[test]
    fn the_socket_is_non_blocking_and_closed_on_exec() {
        let temp = Temp::new();
        let (file, _guard) = bind_plain(&temp.path("a.sock")).unwrap();
        let name = bind_abstract(format!("cluster-flags-{}", std::process::id()).as_bytes(), 16).unwrap();
        for socket in [file, name] {
            let get = |what| fcntl(socket.as_fd(), what).unwrap();
            assert!(FdFlag::from_bits_retain(get(FcntlArg::F_GETFD)).contains(FdFlag::FD_CLOEXEC));
            assert!(OFlag::from_bits_retain(get(FcntlArg::F_GETFL)).contains(OFlag::O_NONBLOCK));
        }
    }

    #[test]
    fn the_file_has_the_permissions_that_were_asked_for_whatever_the_umask() {
        let temp = Temp::new();
        for asked in [0o600, 0o660, 0o666, 0o777, 0o000] {
            let path = temp.path("a.sock");
            let (_socket, _guard) = bind(&path, Some(asked), 16).unwrap();
            assert_eq!(mode(&path), asked);
        }
    }

    #[test]
    fn the_file_is_never_more_open_than_asked() {
        let temp = Temp::new();
        for asked in [0o600, 0o640, 0o000] {
            let path = temp.path(&format!("{asked}.sock"));
            let socket = stream_socket().unwrap();
            restrict(&socket, asked).unwrap();
            let _guard = Place::open(&path).unwrap().bind(&socket, true).unwrap();
            assert_eq!(mode(&path) & !asked, 0, "right after bind(2), before anything else was done");
        }
    }

    #[test]
    fn the_file_of_a_dead_server_is_replaced() {
        let temp = Temp::new();
        let path = temp.path("a.sock");
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "the standard library leaves it");
        let (_socket, _guard) = bind_plain(&path).unwrap();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_living_server_keeps_its_path() {
        let temp = Temp::new();
        let path = temp.path("a.sock");
        let (socket, _guard) = bind_plain(&path).unwrap();
        let error = bind_plain(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains("another server listens there"), "{error}");
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
        // A duplicate is as alive, as a worker's is whose primary died.
        let duplicate = socket.try_clone().unwrap();
        drop(socket);
        bind_plain(&path).unwrap_err();
        drop(duplicate);
        bind_plain(&path).unwrap();
    }

    #[test]
    fn a_server_whose_queue_is_full_is_alive() {
        let temp = Temp::new();
        let path = temp.path("a.sock");
        let (_socket, _guard) = bind(&path, None, 0).unwrap();
        let _waiting = UnixStream::connect(&path).unwrap();
        let client = stream_socket().unwrap();
        let full = client.connect(&SockAddr::unix(&path).unwrap()).unwrap_err();
        assert_eq!(full.kind(), ErrorKind::WouldBlock);
        let error = bind_plain(&path).unwrap_err();
        assert!(error.to_string().contains("another server listens there"), "{error}");
    }

    #[test]
    fn a_living_datagram_server_keeps_its_path() {
        let temp = Temp::new();
        let path = temp.path("a.sock");
        let server = UnixDatagram::bind(&path).unwrap();
        assert_eq!(bind_plain(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        drop(server);
        bind_plain(&path).expect("a dead one does not");
    }

    #[test]
    fn nothing_but_a_socket_is_ever_removed() {
        let temp = Temp::new();
        fs::write(temp.path("file"), "precious").unwrap();
        fs::create_dir(temp.path("directory")).unwrap();
        drop(UnixListener::bind(temp.path("dead")).unwrap());
        symlink(temp.path("dead"), temp.path("link")).unwrap();
        for (name, what) in
            [("file", "a file that is no socket"), ("directory", "a directory"), ("link", "a symbolic link")]
        {
            let error = bind_plain(&temp.path(name)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::AddrInUse);
            assert!(error.to_string().contains(&format!("{what} is there; remove it")), "{error}");
            assert!(fs::symlink_metadata(temp.path(name)).is_ok());
        }
    }

    #[test]
    fn a_missing_directory_is_named() {
        let temp = Temp::new();
        let error = bind_plain(&temp.path("missing/a.sock")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert!(error.to_string().contains(temp.path("missing").to_str().unwrap()), "{error}");
    }

    #[test]
    fn what_is_no_path_of_a_file_is_refused() {
        for path in ["/", "", "relative.sock", "/tmp/..", "/tmp/a\0b"] {
            assert_eq!(bind_plain(Path::new(path)).unwrap_err().kind(), ErrorKind::InvalidInput, "{path:?}");
        }
    }

    #[test]
    fn a_path_longer_than_an_address_works_all_the_same() {
        let temp = Temp::new();
        let deep = temp.path(&"d".repeat(150));
        fs::create_dir(&deep).unwrap();
        let path = deep.join("a.sock");
        let (_socket, guard) = bind(&path, Some(0o640), 16).unwrap();
        assert_eq!(mode(&path), 0o640);
        assert_eq!(bind_plain(&path).unwrap_err().kind(), ErrorKind::AddrInUse);
        let directory = File::open(&deep).unwrap();
        UnixStream::connect(by_descriptor(&directory).join("a.sock")).unwrap();
        drop(guard);
        assert!(!path.exists());
        drop(UnixListener::bind(by_descriptor(&directory).join("a.sock")).unwrap());
        bind_plain(&path).expect("a dead server there is found out, too");
    }

    #[test]
    fn a_name_that_fits_into_no_address_is_refused_with_its_excess() {
        let temp = Temp::new();
        let error = bind_plain(&temp.path(&"n".repeat(120))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidInput);
        assert!(error.to_string().contains("bytes too long"), "{error}");
    }

    #[test]
    fn a_guard_spares_the_file_of_a_newer_server() {
        let temp = Temp::new();
        let path = temp.path("a.sock");
        let (_socket, guard) = bind_plain(&path).unwrap();
        fs::remove_file(&path).unwrap();
        let (_newer, _its_guard) = bind_plain(&path).unwrap();
        drop(guard);
        UnixStream::connect(&path).expect("the newer file is still there");
    }

    #[test]
    fn a_guard_is_not_misled_by_an_inode_number_that_comes_again() {
        let temp = Temp::new();
        let path = temp.path("a.sock");
        let (socket, guard) = bind_plain(&path).unwrap();
        // Without the guard's own hold on the file, many file systems give its number away at once.
        drop(socket);
        fs::remove_file(&path).unwrap();
        let (_newer, _its_guard) = bind_plain(&path).unwrap();
        drop(guard);
        assert!(path.exists());
    }

    #[test]
    fn a_kept_file_stays() {
        let temp = Temp::new();
        let path = temp.path("a.sock");
        let (_socket, guard) = bind_plain(&path).unwrap();
        guard.keep();
        UnixStream::connect(&path).unwrap();
    }

    #[test]
    fn a_kept_file_that_is_guarded_again_goes_with_the_second_guard() {
        let temp = Temp::new();
        let path = temp.path("a.sock");
        let (_socket, guard) = bind_plain(&path).unwrap();
        let file = guard.file().unwrap().try_clone_to_owned().unwrap();
        guard.keep();
        let again = FileGuard::again(path.clone(), file).unwrap();
        UnixStream::connect(&path).unwrap();
        bind_plain(&path).expect_err("it is in use");
        drop(again);
        assert!(!path.exists());
    }

    #[test]
    fn a_file_that_is_guarded_again_and_was_replaced_since_is_spared() {
        let temp = Temp::new();
        let path = temp.path("a.sock");
        let (_socket, guard) = bind_plain(&path).unwrap();
        let file = guard.file().unwrap().try_clone_to_owned().unwrap();
        guard.keep();
        let again = FileGuard::again(path.clone(), file).unwrap();
        fs::remove_file(&path).unwrap();
        let (_newer, _its_guard) = bind_plain(&path).unwrap();
        drop(again);
        UnixStream::connect(&path).expect("the newer file is still there");
        let plain = File::open(&temp.0).unwrap();
        assert_eq!(FileGuard::again(path, plain.into()).unwrap_err().kind(), ErrorKind::InvalidData);
    }

    #[test]
    fn of_many_that_start_over_a_dead_server_at_once_one_wins_and_stays() {
        let temp = Temp::new();
        let path = temp.path("a.sock");
        for _ in 0..20 {
            drop(UnixListener::bind(&path).unwrap());
            let start = Arc::new(Barrier::new(8));
            let starters = (0..8).map(|_| {
                let (path, start) = (path.clone(), Arc::clone(&start));
                thread::spawn(move || {
                    start.wait();
                    bind_plain(&path)
                })
            });
            let starters: Vec<_> = starters.collect();
            let won: Vec<_> = starters.into_iter().filter_map(|starter| starter.join().unwrap().ok()).collect();
            assert_eq!(won.len(), 1);
            UnixStream::connect(&path).expect("the winner's file is the one at the path");
        }
    }

    #[test]
    fn a_directory_that_somebody_keeps_locked_delays_a_server_but_does_not_stop_it() {
        let temp = Temp::new();
        let path = temp.path("a.sock");
        drop(UnixListener::bind(temp.path("dead.sock")).unwrap());
        let held = Flock::lock(File::open(&temp.0).unwrap(), FlockArg::LockExclusive).unwrap();
        let start = Instant::now();
        drop(bind_plain(&path).unwrap());
        let error = bind_plain(&temp.path("dead.sock")).unwrap_err();
        assert!(start.elapsed() < Duration::from_secs(5));
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains("remove the file"), "{error}");
        drop(held);
        bind_plain(&temp.path("dead.sock")).unwrap();
    }

    #[test]
    fn an_abstract_name_is_taken_once_and_free_when_its_socket_is_closed() {
        let name = format!("cluster-test-{}", std::process::id());
        let socket = bind_abstract(name.as_bytes(), 16).unwrap();
        let error = bind_abstract(name.as_bytes(), 16).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::AddrInUse);
        assert!(error.to_string().contains(&format!("@{name}")), "{error}");
        let address = SockAddr::unix(format!("\0{name}")).unwrap();
        stream_socket().unwrap().connect(&address).unwrap();
        drop(socket);
        bind_abstract(name.as_bytes(), 16).unwrap();
    }

    #[test]
    fn an_abstract_name_that_fits_into_no_address_is_refused() {
        for name in [vec![], vec![b'n'; SUN_PATH]] {
            assert_eq!(bind_abstract(&name, 16).unwrap_err().kind(), ErrorKind::InvalidInput);
        }
        let longest = vec![std::process::id() as u8; SUN_PATH - 1];
        bind_abstract(&longest, 16).unwrap();
    }
}
