//! [`Address`]: of a listener, or of its client.

use std::ffi::OsStr;
use std::fmt;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use socket2::SockAddr;

/// An address of a listener or of its client.
///
/// Displays as what [`listen`](crate::listen()) takes: `127.0.0.1:3000`, `unix:/run/app.sock`, `unix:@name` for an abstract
/// name; a client on a Unix socket has no name as a rule and is shown as `unix:`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum Address {
    /// TCP over IPv4 or IPv6.
    Tcp(SocketAddr),
    /// UDP over IPv4 or IPv6.
    Udp(SocketAddr),
    /// A Unix socket with a file.
    Unix(#[serde(with = "path")] PathBuf),
    /// A Unix socket with a name that is no file.
    Abstract(Vec<u8>),
    /// A Unix socket without a name, as clients have it.
    Unnamed,
}

impl Address {
    /// The internet address, where it is one.
    #[must_use]
    pub const fn socket(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) | Self::Udp(address) => Some(*address),
            Self::Unix(_) | Self::Abstract(_) | Self::Unnamed => None,
        }
    }

    /// The port number, where the address has one.
    #[must_use]
    pub const fn port(&self) -> Option<u16> {
        match self.socket() {
            Some(address) => Some(address.port()),
            None => None,
        }
    }

    /// The file of a Unix socket, where it has one.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) => Some(path),
            Self::Tcp(_) | Self::Udp(_) | Self::Abstract(_) | Self::Unnamed => None,
        }
    }

    /// What the kernel calls the address of a stream.
    pub(crate) fn of_stream(address: &SockAddr) -> Self {
        if let Some(address) = address.as_socket() {
            Self::Tcp(address)
        } else if let Some(path) = address.as_pathname() {
            Self::Unix(path.to_owned())
        } else if let Some(name) = address.as_abstract_namespace() {
            Self::Abstract(name.to_owned())
        } else {
            Self::Unnamed
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) | Self::Udp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Abstract(name) => write!(f, "unix:@{}", OsStr::from_bytes(name).display()),
            Self::Unnamed => f.write_str("unix:"),
        }
    }
}

/// Any path can be sent: serde by itself refuses what is not UTF-8.
pub(crate) mod path {
    use std::ffi::OsString;
    use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
    use std::path::{Path, PathBuf};

    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer};

    pub(crate) fn serialize<S: Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
        path.as_os_str().as_bytes().serialize(serializer)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PathBuf, D::Error> {
        Vec::<u8>::deserialize(deserializer).map(|bytes| OsString::from_vec(bytes).into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_reads_as_what_listen_takes() {
        assert_eq!(Address::Tcp("[::1]:80".parse().unwrap()).to_string(), "[::1]:80");
        assert_eq!(Address::of_stream(&SockAddr::unix("/run/a.sock").unwrap()).to_string(), "unix:/run/a.sock");
        assert_eq!(Address::of_stream(&SockAddr::unix("\0name").unwrap()).to_string(), "unix:@name");
    }

    #[test]
    fn a_path_that_is_not_text_can_be_sent() {
        let address = Address::Unix(OsStr::from_bytes(b"/run/\xff.sock").into());
        let mut bytes = Vec::new();
        crate::ipc::codec::encode(&address, &mut bytes).unwrap();
        assert_eq!(crate::ipc::codec::decode(&bytes), Ok(address));
    }
}
