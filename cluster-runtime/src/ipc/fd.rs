//! Descriptors in messages: [`Fd`], and how they get from a value into a frame and back.
//!
//! serde sees bytes only. So while a lane encodes or decodes a message, its descriptors lie beside it, in a place of the thread
//! ([`pack_while`], [`unpack`]), and what is written is their number in that pile.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

use super::frame::MOST_FDS;

/// An open file, socket or other descriptor that travels in a message: an accepted connection, a listener, a pipe.
///
/// A field of this type may stand anywhere in a message or an answer, also inside other types. `T` is what it is in this process,
/// from the standard library: a `TcpStream`, `TcpListener`, `UnixStream`, `UdpSocket`, `File`, or an `OwnedFd`. What is sent is a
/// duplicate, as `dup` makes it: the receiver's has the same position, options and non-blocking mode, and stays open when the
/// sender, whose own is closed with the message, is gone.
///
/// ```no_run
/// use std::net::TcpStream;
/// use cluster::{Fd, Message, Worker};
///
/// #[derive(Message)]
/// enum ToPrimary {
///     Handle { path: String, connection: Fd<TcpStream> },
/// }
///
/// # async fn f(worker: Worker<ToPrimary>, connection: tokio::net::TcpStream) -> cluster::Result {
/// // A tokio socket goes by way of the standard library's, and back by `tokio::net::TcpStream::from_std`.
/// let connection = Fd::new(connection.into_std()?);
/// worker.send(ToPrimary::Handle { path: "/".into(), connection }).await?;
/// # Ok(()) }
/// # fn primary(message: ToPrimary) -> cluster::Result {
///
/// let ToPrimary::Handle { path, connection } = message;
/// let connection: TcpStream = connection.into_inner()?;
/// # Ok(()) }
/// ```
///
/// A message carries at most 16 descriptors, and at most 64 wait in a connection between two processes for somebody to take them. An
/// `Fd` can be encoded for nothing else: elsewhere its `Serialize` and `Deserialize` fail.
pub struct Fd<T>(Option<T>);

impl<T> Fd<T> {
    /// A descriptor to be sent.
    pub const fn new(value: T) -> Self {
        Self(Some(value))
    }

    /// What came, or was to be sent.
    ///
    /// # Errors
    /// When this process had no room for another descriptor as the message came (`EMFILE`): raise its limit (`ulimit -n`,
    /// [`Setup`](crate::Setup)).
    pub fn into_inner(self) -> io::Result<T> {
        self.0.ok_or_else(|| io::Error::from_raw_os_error(libc::EMFILE))
    }
}

impl<T> From<T> for Fd<T> {
    fn from(value: T) -> Self {
        Self::new(value)
    }
}

impl<T: fmt::Debug> fmt::Debug for Fd<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => f.debug_tuple("Fd").field(value).finish(),
            None => f.write_str("Fd(lost)"),
        }
    }
}

impl<T: AsFd> Serialize for Fd<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Some(value) = &self.0 else { return Err(ser::Error::custom("a descriptor that was lost on the way here")) };
        serializer.serialize_u8(pack(value).map_err(ser::Error::custom)?)
    }
}

impl<'de, T: From<OwnedFd>> Deserialize<'de> for Fd<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let index = u8::deserialize(deserializer)?;
        let taken = UNPACKING.with_borrow_mut(|parcel| parcel.as_mut().map(|parcel| parcel.take(index.into())));
        match taken {
            Some(Ok(fd)) => Ok(Self(fd.map(T::from))),
            Some(Err(NoSuch)) => Err(de::Error::custom("it names a descriptor that it does not carry")),
            None => Err(de::Error::custom("a descriptor, but none came along")),
        }
    }
}

/// Descriptors that are to be sent; several lanes may send the same.
pub(super) type Fds = Vec<Arc<OwnedFd>>;

/// Descriptors that came along with a message.
#[derive(Debug, Default)]
pub(super) struct Parcel {
    fds: Vec<Option<OwnedFd>>,
    /// This process had no room for all of them.
    is_cut: bool,
}

#[cfg(test)]
impl PartialEq for Parcel {
    fn eq(&self, other: &Self) -> bool {
        use std::os::fd::AsRawFd;
        let numbers =
            |parcel: &Self| parcel.fds.iter().map(|fd| fd.as_ref().map(AsRawFd::as_raw_fd)).collect::<Vec<_>>();
        (numbers(self), self.is_cut) == (numbers(other), other.is_cut)
    }
}

#[cfg(test)]
impl Eq for Parcel {}

struct NoSuch;

impl Parcel {
    pub(super) fn new(fds: Vec<OwnedFd>, is_cut: bool) -> Self {
        Self { fds: fds.into_iter().map(Some).collect(), is_cut }
    }

    /// Whether it can be what a message carries that says to carry so many.
    pub(super) fn is_of(&self, count: usize) -> bool {
        if self.is_cut { self.fds.len() <= count } else { self.fds.len() == count }
    }

    pub(super) fn len(&self) -> usize {
        self.fds.len()
    }

    /// `None` for one that was lost.
    fn take(&mut self, index: usize) -> Result<Option<OwnedFd>, NoSuch> {
        match self.fds.get_mut(index) {
            Some(fd) => fd.take().map(Some).ok_or(NoSuch),
            None if self.is_cut => Ok(None),
            None => Err(NoSuch),
        }
    }

    /// The descriptors, for another program to take them in.
    pub(super) fn into_fds(self) -> (Vec<OwnedFd>, bool) {
        (self.fds.into_iter().flatten().collect(), self.is_cut)
    }
}

thread_local! {
    static STATE: Cell<State> = const { Cell::new(State::Idle) };
    static PACKED: RefCell<Fds> = const { RefCell::new(Vec::new()) };
    static REFUSAL: RefCell<String> = const { RefCell::new(String::new()) };
    static UNPACKING: RefCell<Option<Parcel>> = const { RefCell::new(None) };
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// No message is being encoded on this thread.
    Idle,
    Packing,
    /// Something lies in [`PACKED`].
    Packed,
    /// One could not be packed, and [`REFUSAL`] says why: not every codec keeps the text of an error.
    Refused,
    /// A message is encoded while another one is, by whose own `Serialize`. It gets no descriptors.
    Nested,
}

/// A message is being encoded, until this is dropped.
struct Packing {
    outer: State,
}

impl Packing {
    #[inline]
    fn begin() -> Self {
        let outer = STATE.get();
        STATE.set(if outer == State::Idle { State::Packing } else { State::Nested });
        Self { outer }
    }

    /// What became of the descriptors, and why it could not be encoded, if it is for one of them; else what the codec says.
    #[cold]
    fn conclude(&self, encoded: Result<(), String>) -> Result<Option<Box<Fds>>, String> {
        match (encoded, STATE.get()) {
            (Ok(()), State::Packed) => Ok(Some(Box::new(PACKED.take()))),
            (Ok(()), _) => Ok(None),
            (Err(_), State::Refused) => Err(REFUSAL.take()),
            (Err(text), _) => Err(text),
        }
    }

    /// Forgets what was left by one that could not be encoded to its end.
    #[cold]
    fn clear() {
        PACKED.take();
    }
}

impl Drop for Packing {
    #[inline(always)]
    fn drop(&mut self) {
        if let State::Packed | State::Refused = STATE.get() {
            Self::clear();
        }
        STATE.set(self.outer);
    }
}

/// Puts a duplicate beside the message that is being encoded; returns its number there.
fn pack(value: &impl AsFd) -> Result<u8, String> {
    match STATE.get() {
        State::Packing | State::Packed | State::Refused => {}
        State::Idle => return Err("a descriptor travels in messages of cluster only".to_owned()),
        State::Nested => return Err("a message that is sent while another is encoded carries no descriptor".to_owned()),
    }
    try_pack(value).inspect_err(|refusal| {
        REFUSAL.set(refusal.clone());
        STATE.set(State::Refused);
    })
}

fn try_pack(value: &impl AsFd) -> Result<u8, String> {
    PACKED.with_borrow_mut(|packed| {
        if packed.len() == MOST_FDS {
            return Err(format!("a message carries {MOST_FDS} descriptors at most"));
        }
        let duplicate = value.as_fd().try_clone_to_owned();
        packed.push(Arc::new(duplicate.map_err(|error| format!("its descriptor cannot be duplicated: {error}"))?));
        STATE.set(State::Packed);
        Ok(packed.len() as u8 - 1)
    })
}

/// Encodes a message; returns the descriptors in it, if any (boxed: that there are none, which is the rule, is then known from a
/// register). The error is for people.
#[inline(always)]
pub(super) fn pack_while(encode: impl FnOnce() -> Result<(), String>) -> Result<Option<Box<Fds>>, String> {
    let packing = Packing::begin();
    match (encode(), STATE.get()) {
        (Ok(()), State::Packing | State::Nested) => Ok(None),
        (encoded, _) => packing.conclude(encoded),
    }
}

/// Decodes a message that this came with.
#[inline(always)]
pub(super) fn unpack<T>(parcel: Option<Parcel>, decode: impl FnOnce() -> T) -> T {
    match parcel {
        None => decode(),
        Some(parcel) => decode_beside(parcel, decode),
    }
}

fn decode_beside<T>(parcel: Parcel, decode: impl FnOnce() -> T) -> T {
    struct Restore(Option<Parcel>);

    impl Drop for Restore {
        fn drop(&mut self) {
            let unclaimed = UNPACKING.replace(self.0.take());
            drop(unclaimed);
        }
    }

    let _restore = Restore(UNPACKING.replace(Some(parcel)));
    decode()
}
