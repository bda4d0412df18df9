//! The control lane: what the runtime itself says between a worker and its primary, both ends.
//!
//! A SEQPACKET socket pair: small packets, whole or not at all, descriptors along with them. The user's messages never travel
//! here, so that a flood of them cannot delay an order to drain.
//!
//! A packet says how many descriptors come along. A worker that has used up its own takes them from a [`Reserve`]. Where not even
//! that has room, the kernel drops them, and the packet is an order without descriptors: it never ends the lane.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::ipc::{Fingerprint, codec};
use crate::listen::{Address, PortId, PortRequest, Refusal};
use crate::reserve::Reserve;
use crate::ticket_keys::TicketKeys;
use crate::{WorkerId, os};

/// Raised whenever the vocabulary below changes.
pub(crate) const VERSION: u8 = 6;
/// The first byte of every packet. The second says how many descriptors come along.
pub(crate) const PROTOCOL: u8 = VERSION | codec::MARK;
/// No packet is larger. Text in them is cut to fit.
const LARGEST_PACKET: usize = 4096;

/// What a worker says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum FromWorker {
    /// The first packet: what this build's messages look like.
    Hello { up: Schema, down: Schema },
    /// The user's program listens on this address; answered by [`ToWorker::Listening`] with the same number.
    Listen { request: u64, port: PortRequest },
    /// It serves.
    Ready,
    /// It has begun to drain although nobody asked it to: TERM came to it directly, or the user called `disconnect`.
    Leaving,
    /// It takes no more connections from this port, whose queue is empty.
    Drained(PortId),
    /// It wants a lane to this worker, which leads that slot as far as it knows; answered by [`ToWorker::Peer`].
    Peer { slot: usize, worker: WorkerId },
    /// It serves TLS, and wants the keys of session tickets, each of which is to seal tickets for so long; answered by
    /// [`ToWorker::TicketKeys`].
    TicketKeys { lifetime: Duration },
}

/// What the primary says.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum ToWorker {
    /// The hello was accepted; the user's `main` may start. The board, the bell and the slot's mailbox come along; `line` is the
    /// worker's on the board, and no message or answer may have more bytes than `max_message`.
    Welcome { grace: Duration, line: usize, max_message: usize },
    /// The sending ends of mailboxes come along, from that of the slot `first` on: new ones, or ones in the place of those before. All
    /// slots' come before the welcome.
    Mailboxes { first: usize },
    /// The receiving end of the slot's mailbox comes along, in the place of the one before.
    Mailbox,
    /// The hello was not accepted; the worker ends.
    Refused,
    /// The socket comes along as a descriptor, unless the primary accepts for all; or why there is none.
    Listening { request: u64, outcome: Result<Granted, Refusal> },
    /// The primary has handed over all that waited on this port, from which it accepted for all, and no more comes.
    Closed(PortId),
    /// The drain will begin soon: go on serving, and let whoever asks for your health know.
    StopSoon,
    /// Finish what runs, then end. `last`: nobody takes the accept queue over, so serve what is in it too.
    Drain { grace: Duration, last: bool },
    /// Log files were renamed: open them anew. A new stdout and stderr come along where the primary has opened one.
    Reopen,
    /// One end of a lane to that worker comes along; if none does, there is no way to it.
    Peer { slot: usize, worker: WorkerId },
    /// The worker `from`, of that slot, has opened a lane to this one; its other end comes along.
    Visitor { from: WorkerId, slot: usize },
    /// The keys of TLS session tickets, to a worker that has asked for them, and again whenever they change; `None` if there are none.
    TicketKeys(Option<TicketKeys>),
}

/// A message type as both sides must agree on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Schema {
    pub(crate) name: String,
    pub(crate) fingerprint: Fingerprint,
}

impl Schema {
    pub(crate) fn of<M: crate::Message>() -> Self {
        // Cut so that a hello always fits into a packet; the fingerprint is what is compared.
        Self { name: M::NAME.chars().take(200).collect(), fingerprint: M::fingerprint() }
    }

    /// What people are told of one that is not `theirs`, of which `whose` says who they are.
    pub(crate) fn difference(&self, theirs: &Self, whose: &str) -> Option<String> {
        let told = || {
            format!(
                "its message type {} ({}) differs from {whose} {} ({})",
                self.name, self.fingerprint, theirs.name, theirs.fingerprint
            )
        };
        (self != theirs).then(told)
    }
}

/// A port that a worker may use.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Granted {
    pub(crate) port: PortId,
    /// With the real port number.
    pub(crate) address: Address,
    /// The primary accepts and hands connections over; the worker has no socket.
    pub(crate) by_primary: bool,
}

/// One end of the lane.
pub(crate) struct Control {
    socket: AsyncFd<OwnedFd>,
    reserve: Option<Arc<Reserve>>,
}

/// Why the lane cannot go on.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ControlError {
    #[error("control lane: {0}")]
    Io(#[from] io::Error),
    #[error("control lane: protocol {found} instead of {VERSION}: it is of another build of cluster")]
    Protocol { found: u8 },
    #[error(
        "control lane: it is built with cluster's feature `{theirs}`, and this one with `{}`: build both with the same",
        codec::feature(codec::MARK)
    )]
    Codec { theirs: &'static str },
    #[error("control lane: a packet that makes no sense ({0})")]
    Malformed(String),
}

/// Makes the two ends of a lane.
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    Ok(socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?)
}

impl Control {
    /// Must be called inside a tokio runtime.
    pub(crate) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { socket: os::register(socket, Interest::READABLE | Interest::WRITABLE)?, reserve: None })
    }

    /// The same lane, whose packets find room for their descriptors in `reserve`.
    pub(crate) fn with_reserve(self, reserve: Arc<Reserve>) -> Self {
        Self { reserve: Some(reserve), ..self }
    }

    /// The socket itself.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.get_ref().as_fd()
    }

    /// Sends one packet, waiting for room in the socket. Cancel safe: it was sent or it was not.
    pub(crate) async fn send<T: Serialize>(&self, message: &T) -> io::Result<()> {
        let packet = encode(message, 0)?;
        self.socket.async_io(Interest::WRITABLE, |socket| os::send_packet(socket.as_fd(), &packet, &[])).await
    }

    /// Sends one packet without waiting; `WouldBlock` means that the peer has not read for long.
    pub(crate) fn send_now<T: Serialize>(&self, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        os::send_packet(self.socket.get_ref().as_fd(), &encode(message, fds.len())?, fds)
    }

    /// The next packet, or `None` once the peer has closed. Cancel safe.
    pub(crate) async fn receive<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, ControlError> {
        let mut buffer = [0; LARGEST_PACKET];
        let packet = self.socket.async_io(Interest::READABLE, |socket| self.take(socket.as_fd(), &mut buffer)).await;
        match packet {
            Ok(packet) => decode(&buffer, packet),
            // The peer died with unread packets from us in its socket: an end like any other.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Like [`receive`](Self::receive), but only what is there already.
    pub(crate) fn receive_now<T: DeserializeOwned>(&self) -> Result<Option<(T, Vec<OwnedFd>)>, ControlError> {
        let mut buffer = [0; LARGEST_PACKET];
        match self.take(self.socket.get_ref().as_fd(), &mut buffer) {
            Ok(packet) => decode(&buffer, packet),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionReset) => {
                Ok(None)
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Receives one packet, with room from the reserve for as many descriptors as it announces.
    fn take(&self, socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<os::Packet> {
        let Some(reserve) = &self.reserve else { return os::receive_packet(socket, buffer) };
        let mut head = [0; 2];
        let announced = match os::peek_packet(socket, &mut head)? {
            2 => usize::from(head[1]),
            _ => 0,
        };
        reserve.lend(announced, || os::receive_packet(socket, buffer))
    }
}

fn encode<T: Serialize>(message: &T, fds: usize) -> io::Result<Vec<u8>> {
    let mut packet = vec![PROTOCOL, u8::try_from(fds).map_err(io::Error::other)?];
    codec::encode(message, &mut packet).map_err(io::Error::other)?;
    debug_assert!(packet.len() <= LARGEST_PACKET, "the vocabulary is made of small things");
    Ok(packet)
}

fn decode<T: DeserializeOwned>(buffer: &[u8], packet: os::Packet) -> Result<Option<(T, Vec<OwnedFd>)>, ControlError> {
    if packet.is_oversized {
        return Err(ControlError::Malformed("larger than any of ours".into()));
    }
    match &buffer[..packet.len] {
        [] => Ok(None),
        [PROTOCOL] => Err(ControlError::Malformed("it ends after its first byte".into())),
        [PROTOCOL, announced, body @ ..] => match codec::decode(body) {
            Ok(message) => {
                let mut fds = packet.fds;
                // Some of several would be taken for others.
                if fds.len() != usize::from(*announced) {
                    fds.clear();
                }
                Ok(Some((message, fds)))
            }
            Err(error) => Err(ControlError::Malformed(error)),
        },
        [found, ..] => Err(match found & !codec::MARKS {
            VERSION => ControlError::Codec { theirs: codec::feature(*found) },
            found => ControlError::Protocol { found },
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane() -> (Control, Control) {
        let (one, other) = pair().unwrap();
        (Control::new(one).unwrap(), Control::new(other).unwrap())
    }

    #[tokio::test]
    async fn descriptors_travel_with_their_packet() {
        let (primary, worker) = lane();
        let (mut far, near) = std::os::unix::net::UnixStream::pair().unwrap();
        let address = Address::Tcp("127.0.0.1:3000".parse().unwrap());
        let granted = Granted { port: PortId(3), address: address.clone(), by_primary: false };
        let answer = ToWorker::Listening { request: 7, outcome: Ok(granted) };
        primary.send_now(&answer, &[near.as_fd()]).unwrap();
        drop(near);
        let (packet, fds) = worker.receive::<ToWorker>().await.unwrap().unwrap();
        assert!(matches!(packet, ToWorker::Listening { request: 7, outcome: Ok(found) } if found.address == address));
        let near: OwnedFd = fds.into_iter().next().unwrap();
        use std::io::{Read as _, Write as _};
        std::os::unix::net::UnixStream::from(near).write_all(b"through").unwrap();
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "through");
    }

    #[tokio::test]
    async fn a_packet_whose_descriptors_are_lost_is_an_order_without_them_and_the_lane_goes_on() {
        let (primary, worker) = lane();
        let (_far, near) = std::os::unix::net::UnixStream::pair().unwrap();
        let socket = primary.as_fd();
        // As the kernel delivers it to a process without room: some or all of what was announced is missing.
        for fds in [&[][..], &[near.as_fd()]] {
            os::send_packet(socket, &encode(&ToWorker::Mailboxes { first: 1 }, 2).unwrap(), fds).unwrap();
            let (packet, fds) = worker.receive::<ToWorker>().await.unwrap().unwrap();
            assert!(matches!(packet, ToWorker::Mailboxes { first: 1 }) && fds.is_empty());
        }
        primary.send_now(&ToWorker::Reopen, &[near.as_fd()]).unwrap();
        let (packet, fds) = worker.receive::<ToWorker>().await.unwrap().unwrap();
        assert!(matches!(packet, ToWorker::Reopen) && fds.len() == 1);
    }

    #[tokio::test]
    async fn an_ended_peer_is_the_end_of_the_lane() {
        let (primary, worker) = lane();
        worker.send(&FromWorker::Ready).await.unwrap();
        drop(worker);
        assert!(matches!(primary.receive().await, Ok(Some((FromWorker::Ready, _)))));
        assert!(matches!(primary.receive::<FromWorker>().await, Ok(None)));
    }

    #[tokio::test]
    async fn what_a_build_with_another_codec_says_is_refused_with_the_remedy() {
        let (primary, worker) = lane();
        os::send_packet(worker.socket.get_ref().as_fd(), &[PROTOCOL ^ codec::MARKS, 0, 2], &[]).unwrap();
        let error = primary.receive::<FromWorker>().await.unwrap_err().to_string();
        let (ours, theirs) = (codec::feature(codec::MARK), codec::feature(!codec::MARK));
        let told =
            format!("built with cluster's feature `{theirs}`, and this one with `{ours}`: build both with the same");
        assert!(ours != theirs && error.ends_with(&told), "{error}");
    }

    #[tokio::test]
    async fn nonsense_is_an_error_and_never_a_panic() {
        let cases: [&[u8]; 6] = [
            &[2, 0],
            &[PROTOCOL],
            &[PROTOCOL, 0],
            &[PROTOCOL, 0, 99],
            &[PROTOCOL, 0, 2, 0],
            &[0xff; LARGEST_PACKET + 1],
        ];
        for case in cases {
            let (primary, worker) = lane();
            os::send_packet(worker.socket.get_ref().as_fd(), case, &[]).unwrap();
            assert!(primary.receive::<FromWorker>().await.is_err(), "{case:?}");
        }
    }

    mod fuzz {
        use super::*;
        use crate::fuzz::{Bait, Random, fuzz};
        use crate::ipc::NoMessages;
        use crate::listen::{Endpoint, Options, PortKey, Scheme};
        use crate::ticket_keys::TicketKey;

        /// Any packet, read as either side does: something that can be said again, or an error; and no descriptor is kept.
        #[test]
        fn packets() {
            fuzz("control::tests::fuzz::packets", |random| {
                let bait = Bait::new();
                let (one, other) = pair().unwrap();
                for _ in 0..20 {
                    let mut packet = if random.once_in(8) { noise(random) } else { sound_packet(random) };
                    if !random.once_in(4) {
                        random.damage(&mut packet);
                    }
                    let fds = vec![bait.end().as_fd(); random.below(5) * random.below(60)];
                    os::send_packet(one.as_fd(), &packet, &fds).unwrap();
                    if random.once_in(2) { receive::<FromWorker>(&other) } else { receive::<ToWorker>(&other) }
                }
                drop((one, other));
                bait.expect_closed();
            });
        }

        fn receive<T: Serialize + DeserializeOwned>(socket: &OwnedFd) {
            let mut buffer = [0; LARGEST_PACKET];
            let packet = os::receive_packet(socket.as_fd(), &mut buffer).unwrap();
            match decode::<T>(&buffer, packet) {
                Ok(Some((packet, fds))) => assert!(encode(&packet, fds.len()).unwrap().len() <= LARGEST_PACKET),
                Ok(None) => {}
                Err(error) => assert!(!error.to_string().is_empty()),
            }
        }

        fn noise(random: &mut Random) -> Vec<u8> {
            let size = random.below(2 * LARGEST_PACKET);
            let mut noise = random.bytes(size);
            if let Some(first) = noise.first_mut().filter(|_| random.once_in(2)) {
                *first = PROTOCOL;
            }
            noise
        }

        fn sound_packet(random: &mut Random) -> Vec<u8> {
            let (number, slot) = (random.next() >> random.below(64), random.below(1024));
            let worker = WorkerId::new(number);
            let time = Duration::from_millis(number);
            let schema = Schema::of::<NoMessages>;
            let address = || Address::Tcp("[::1]:3000".parse().unwrap());
            let key = PortKey { endpoint: Endpoint::Tcp("127.0.0.1:0".parse().unwrap()), ordinal: 7 };
            let port = PortRequest { key, http: Some(Scheme::Https), options: Options::default() };
            let granted = Granted { port: PortId(slot), address: address(), by_primary: random.once_in(2) };
            let key = TicketKey([number as u8; 32]);
            let keys = TicketKeys { current: key, next: key, previous: key };
            let packet = match random.below(18) {
                0 => encode(&FromWorker::Hello { up: schema(), down: schema() }, 0),
                1 => encode(&FromWorker::Listen { request: number, port }, 0),
                2 => encode(&FromWorker::Ready, 0),
                3 => encode(&FromWorker::Drained(PortId(slot)), 0),
                4 => encode(&FromWorker::Peer { slot, worker }, 0),
                5 => encode(&ToWorker::Welcome { grace: time, line: 1, max_message: slot }, 0),
                6 => encode(&ToWorker::Mailboxes { first: slot }, random.below(50)),
                7 => encode(&ToWorker::Refused, 0),
                8 => encode(&ToWorker::Listening { request: number, outcome: Ok(granted) }, 0),
                9 => encode(&ToWorker::Drain { grace: time, last: true }, 0),
                10 => encode(&ToWorker::StopSoon, 0),
                11 => encode(&ToWorker::Peer { slot, worker }, 0),
                12 => encode(&ToWorker::Visitor { from: worker, slot }, 0),
                13 => encode(&ToWorker::Mailbox, 1),
                14 => encode(&ToWorker::Closed(PortId(slot)), 0),
                15 => encode(&FromWorker::TicketKeys { lifetime: time }, 0),
                16 => encode(&ToWorker::TicketKeys(Some(keys)), 0),
                _ => encode(&FromWorker::Leaving, 0),
            };
            packet.unwrap()
        }
    }
}
