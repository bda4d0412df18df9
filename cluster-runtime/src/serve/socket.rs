//! The socket under a connection, where there is one: what the kernel knows of the client's progress.

use std::os::fd::{AsRawFd as _, RawFd};

use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, recv};

use super::carried::plain;
use crate::os;

/// The number of the descriptor, which whoever has this must know to be open.
///
/// The connection's own future has it, beside the stream, and the stream goes with that future or leaves it at its end.
#[derive(Clone, Copy, Debug)]
pub(super) struct Socket {
    number: RawFd,
    /// TLS lies between, and holds bytes of its own.
    #[cfg(feature = "rustls")]
    is_under_tls: bool,
}

impl Socket {
    pub(super) fn of<IO: 'static>(stream: &IO) -> Option<Self> {
        plain(stream).map(|socket| Self {
            number: socket.as_raw_fd(),
            #[cfg(feature = "rustls")]
            is_under_tls: false,
        })
    }

    /// The same for the socket under a TLS stream.
    #[cfg(feature = "rustls")]
    pub(super) fn under_tls<IO: 'static>(stream: &IO) -> Option<Self> {
        Self::of(stream).map(|socket| Self { is_under_tls: true, ..socket })
    }

    /// How much was written that the client has not taken.
    pub(super) fn unsent(self) -> Option<u32> {
        os::unsent(self.number).ok()
    }

    /// Whether the client has sent something that was not read, or has closed.
    pub(super) fn has_unread(self) -> bool {
        // What TLS has taken from the socket cannot be seen.
        #[cfg(feature = "rustls")]
        if self.is_under_tls {
            return true;
        }
        recv(self.number, &mut [0], MsgFlags::MSG_PEEK | MsgFlags::MSG_DONTWAIT) != Err(Errno::EAGAIN)
    }

    /// What was written and not taken is dropped with the connection.
    pub(super) fn reset_on_close(self) {
        // One that is gone already has nothing left.
        _ = os::reset_on_close(self.number);
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt as _;
    use tokio::net::UnixStream;

    use super::*;

    #[tokio::test]
    async fn a_socket_knows_what_waits_in_either_direction() {
        let (mut ours, mut theirs) = UnixStream::pair().unwrap();
        let socket = Socket::of(&ours).unwrap();
        assert!(!socket.has_unread());
        assert_eq!(socket.unsent(), Some(0));
        theirs.write_all(b"x").await.unwrap();
        ours.write_all(b"x").await.unwrap();
        assert!(socket.has_unread());
        assert!(socket.unsent().unwrap() > 0);
        assert!(Socket::of(&tokio::io::duplex(1).0).is_none());
    }
}
