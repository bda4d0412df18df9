//! The table of what one worker does, each a system call or a few.

use std::fmt;
use std::io;
use std::net::Shutdown;
use std::os::fd::AsRawFd as _;
use std::time::Duration;

use nix::fcntl::{FallocateFlags, FcntlArg, FlockArg, OFlag, SealFlag, fallocate, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, ftruncate};
use rustix::process::{Resource, Rlimit, prlimit};
use socket2::SockRef;

use super::calls::*;
use super::held::{Held, Kind, Thing};
use super::options::*;
use super::wire;

/// One row of the table.
pub(crate) struct Act {
    pub(crate) on: On,
    pub(crate) call: String,
    /// Why it may cost connections as long as the worker lives; without a reason it must cost none.
    pub(crate) cost: Option<&'static str>,
    deed: Deed,
}

/// What an act is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum On {
    /// Each descriptor of this kind.
    Each(Kind),
    /// The shared memory, as it is mapped.
    Memory,
    Siblings,
    Itself,
}

/// What is done to one thing that the worker holds.
type Each = Box<dyn Fn(&Held, &Thing) -> io::Result<()>>;
/// What is done once, whatever it holds.
type Once = Box<dyn Fn(&Held) -> io::Result<()>>;

enum Deed {
    ToEach(Each),
    Once(Once),
}

impl Act {
    /// Does it, and says to how many things; it may not come back.
    pub(crate) fn commit(&self, held: &Held) -> io::Result<usize> {
        let (kind, deed) = match (&self.deed, self.on) {
            (Deed::ToEach(deed), On::Each(kind)) => (kind, deed),
            (Deed::Once(deed), _) => return deed(held).map(|()| 1),
            (Deed::ToEach(_), _) => return Err(io::Error::other("it is about no descriptor")),
        };
        let outcomes: Vec<_> = held.of(kind).map(|thing| deed(held, thing)).collect();
        let done = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        // What one kind of socket does not know, another may.
        if done == 0 { outcomes.into_iter().collect::<io::Result<Vec<_>>>().map(|_| 0) } else { Ok(done) }
    }
}

impl fmt::Display for On {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Each(Kind::Listening) => "listening sockets",
            Self::Each(Kind::Datagrams) => "UDP socket",
            Self::Each(Kind::Control) => "control lane",
            Self::Each(Kind::Messages) => "messages lane",
            Self::Each(Kind::Sending) => "mailboxes, sending",
            Self::Each(Kind::Receiving) => "mailbox, receiving",
            Self::Each(Kind::Bell) => "bell",
            Self::Each(Kind::Board) => "board, as a file",
            Self::Each(Kind::Pidfd) => "primary's pidfd",
            Self::Each(Kind::Epoll) => "epoll",
            Self::Each(Kind::Connection) => "connections",
            Self::Each(Kind::Other) => "other files",
            Self::Memory => "board, in memory",
            Self::Siblings => "siblings",
            Self::Itself => "itself",
        })
    }
}

/// All of them, in a fixed order.
pub(crate) fn table() -> Vec<Act> {
    let mut table = Table(Vec::new());
    table.sockets();
    table.lanes();
    table.options_of_all_sockets();
    table.options_of_listening_sockets();
    table.packets();
    table.mail();
    table.bell_and_board();
    table.other_files();
    table.siblings();
    table.itself();
    table.0
}

/// The kinds that are sockets and shared in one way or another.
const SOCKETS: [Kind; 6] =
    [Kind::Listening, Kind::Datagrams, Kind::Control, Kind::Messages, Kind::Sending, Kind::Receiving];
const PUBLIC: [Kind; 2] = [Kind::Listening, Kind::Datagrams];
const MAILBOXES: [Kind; 2] = [Kind::Sending, Kind::Receiving];

const NUMBER_OF_MANY: usize = 20_000;

fn int(value: i32) -> Vec<u8> {
    value.to_ne_bytes().to_vec()
}

struct Table(Vec<Act>);

impl Table {
    fn each<F>(&mut self, kinds: &[Kind], call: &str, deed: F)
    where
        F: Fn(&Held, &Thing) -> io::Result<()> + Clone + 'static,
    {
        for kind in kinds {
            let deed = Deed::ToEach(Box::new(deed.clone()));
            self.0.push(Act { on: On::Each(*kind), call: call.into(), cost: None, deed });
        }
    }

    fn once(&mut self, on: On, call: &str, deed: impl Fn(&Held) -> io::Result<()> + 'static) {
        self.0.push(Act { on, call: call.into(), cost: None, deed: Deed::Once(Box::new(deed)) });
    }

    /// The last one may cost connections while the worker lives.
    fn costs(&mut self, why: &'static str) {
        if let Some(act) = self.0.last_mut() {
            act.cost = Some(why);
        }
    }

    fn option(&mut self, kinds: &[Kind], option: Opt, value_name: &str, value: Vec<u8>) {
        let call = format!("setsockopt {} {value_name}", option.name);
        self.each(kinds, &call, move |_, thing| set(thing, option, &value));
    }

    fn number(&mut self, kinds: &[Kind], option: Opt, value: i32) {
        self.option(kinds, option, &value.to_string(), int(value));
    }

    fn sockets(&mut self) {
        for how in [Shutdown::Read, Shutdown::Write, Shutdown::Both] {
            self.each(&SOCKETS, &format!("shutdown {how:?}"), move |_, thing| SockRef::from(&thing.same).shutdown(how));
        }
        self.each(&SOCKETS, "close", |_, thing| Ok(nix::unistd::close(thing.number)?));
        self.each(&SOCKETS, "dup2 of /dev/null over it", |_, thing| put_over(thing.number, &dev("null")?));
        self.each(&SOCKETS, "dup2 of /dev/full over it", |_, thing| put_over(thing.number, &dev("full")?));
        self.each(&SOCKETS, "dup2 of another socket over it", |_, thing| put_over(thing.number, &stranger(thing)?));
        self.each(&SOCKETS, "dup2 of a sibling lane over it", |held, thing| {
            let other = held.things.iter().find(|other| other.kind != thing.kind && SOCKETS.contains(&other.kind));
            put_over(thing.number, &other.ok_or(io::ErrorKind::NotFound)?.same)
        });
        for act in &mut self.0 {
            let is_lost = act.call == "close" || act.call.starts_with("dup2");
            if is_lost && [On::Each(Kind::Control), On::Each(Kind::Messages)].iter().all(|lane| act.on != *lane) {
                act.cost = Some(
                    "its own library now uses what has the number, and looks idle: its share waits until it is gone",
                );
            }
        }
        self.each(&SOCKETS, "fcntl O_NONBLOCK cleared", |_, thing| {
            change_flags(thing, |flags| flags & !OFlag::O_NONBLOCK)
        });
        self.each(&SOCKETS, "fcntl O_APPEND, O_DIRECT, O_NOATIME", |_, thing| {
            change_flags(thing, |flags| flags | OFlag::O_APPEND | OFlag::O_DIRECT | OFlag::O_NOATIME)
                .or_else(|_| change_flags(thing, |flags| flags | OFlag::O_APPEND))
        });
        self.each(&SOCKETS, "fcntl FD_CLOEXEC cleared", |_, thing| {
            fcntl(&thing.same, FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
            Ok(())
        });
        self.each(&PUBLIC, "fcntl F_SETOWN sibling, O_ASYNC", signal_sibling);
        self.each(&[Kind::Receiving, Kind::Bell], "fcntl F_SETOWN sibling, O_ASYNC", signal_sibling);
        for act in self.0.iter_mut().filter(|act| act.call.starts_with("fcntl F_SETOWN")) {
            act.cost = Some("it is as if it killed a sibling with each connection");
        }
        self.each(&SOCKETS, "listen 0", |_, thing| listen_again(thing, 0));
        self.each(&PUBLIC, "listen 1", |_, thing| listen_again(thing, 1));
        self.each(&SOCKETS, "connect AF_UNSPEC", |_, thing| disconnect(thing));
        self.each(&SOCKETS, "connect to 127.0.0.1:9", |_, thing| connect(thing));
        self.each(&SOCKETS, "bind to another address", |_, thing| bind_elsewhere(thing));
        self.each(&[Kind::Listening], "accept in a thread, serving none", |_, thing| accept_and_keep(thing));
        self.costs("what it accepts itself, it may keep");
        self.each(&[Kind::Listening], "shutdown of its connections", |held, _| {
            held.of(Kind::Connection).try_for_each(|one| SockRef::from(&one.same).shutdown(Shutdown::Both))
        });
    }

    /// What a lane is asked for that only its owner may take from it.
    fn lanes(&mut self) {
        let lanes = [Kind::Control, Kind::Messages, Kind::Receiving, Kind::Datagrams];
        self.each(&lanes, "recv of all that is there, for ever", |_, thing| {
            let lane = thing.same.try_clone()?;
            std::thread::spawn(move || {
                loop {
                    if SockRef::from(&lane).recv(&mut [std::mem::MaybeUninit::uninit(); 4096]).is_err() {
                        std::thread::sleep(Duration::from_millis(1));
                    }
                }
            });
            Ok(())
        });
        if let [.., _, mail, datagrams] = self.0.as_mut_slice() {
            mail.cost = Some("what is handed over to it, it may keep");
            datagrams.cost = Some("what comes to it, it may keep");
        }
    }

    fn options_of_all_sockets(&mut self) {
        self.number(&SOCKETS, SO_RCVLOWAT, i32::MAX);
        self.inherited();
        self.number(&SOCKETS, SO_RCVBUF, 1);
        self.number(&SOCKETS, SO_SNDBUF, 1);
        self.number(&SOCKETS, SO_RCVBUF, i32::MAX);
        self.option(&SOCKETS, SO_RCVTIMEO, "1 µs", [0_i64.to_ne_bytes(), 1_i64.to_ne_bytes()].concat());
        self.option(&SOCKETS, SO_SNDTIMEO, "1 µs", [0_i64.to_ne_bytes(), 1_i64.to_ne_bytes()].concat());
        self.option(&SOCKETS, SO_LINGER, "on, 0 s", [int(1), int(0)].concat());
        self.option(&SOCKETS, SO_LINGER, "on, 1 h", [int(1), int(3600)].concat());
        self.number(&SOCKETS, SO_PASSCRED, 1);
        self.number(&SOCKETS, SO_PASSSEC, 1);
        self.number(&SOCKETS, SO_PASSPIDFD, 1);
        self.number(&SOCKETS, SO_PASSRIGHTS, 0);
        self.number(&SOCKETS, SO_PEEK_OFF, 4000);
        self.number(&SOCKETS, SO_TIMESTAMP, 1);
        self.number(&SOCKETS, SO_TIMESTAMPING, 0x7fff);
        self.number(&SOCKETS, SO_RXQ_OVFL, 1);
        self.number(&SOCKETS, SO_PRIORITY, 6);
        self.number(&SOCKETS, SO_BUSY_POLL, 100_000);
        self.number(&SOCKETS, SO_ZEROCOPY, 1);
        self.each(&SOCKETS, "setsockopt SO_ATTACH_FILTER take nothing", |_, thing| filter(thing, &take_nothing()));
        self.each(&SOCKETS, "setsockopt SO_ATTACH_FILTER cut to 1 byte", |_, thing| filter(thing, &cut_to(1)));
        self.each(&[Kind::Listening], "setsockopt SO_ATTACH_FILTER drop SYN", |_, thing| {
            filter(thing, &take_no_newcomers())
        });
        self.inherited();
        self.each(&SOCKETS, "setsockopt SO_LOCK_FILTER", |_, thing| set(thing, SO_LOCK_FILTER, &int(1)));
        self.each(&SOCKETS, "setsockopt SO_ATTACH_FILTER take nothing, and SO_LOCK_FILTER", |_, thing| {
            filter(thing, &take_nothing())?;
            set(thing, SO_LOCK_FILTER, &int(1))
        });
        self.inherited();
    }

    /// The same of those options that what comes next is spoilt by, before the primary has looked.
    fn inherited(&mut self) {
        let spoils = ["SO_RCVLOWAT", "SO_ATTACH_FILTER"];
        for act in self.0.iter_mut().filter(|act| spoils.iter().any(|option| act.call.contains(option))) {
            if act.on != On::Each(Kind::Control) && act.on != On::Each(Kind::Messages) {
                act.cost = Some("what comes before the primary looks has inherited it, or has been dropped");
            }
        }
    }

    fn options_of_listening_sockets(&mut self) {
        for index in [0, 1, 2, 1000] {
            self.each(&PUBLIC, &format!("setsockopt SO_ATTACH_REUSEPORT_CBPF to {index}"), move |_, thing| {
                steer_to(thing, index)
            });
        }
        for (option, value) in [
            (SO_DETACH_REUSEPORT_BPF, 0),
            (SO_REUSEPORT, 0),
            (SO_REUSEADDR, 0),
            (SO_KEEPALIVE, 1),
            (SO_OOBINLINE, 1),
            (SO_DONTROUTE, 1),
            (SO_BROADCAST, 1),
            (SO_MARK, 77),
            (SO_INCOMING_CPU, 1),
            (SO_MAX_PACING_RATE, 1),
            (SO_NO_CHECK, 1),
            (SO_DETACH_FILTER, 0),
            (IP_TOS, 0xb8),
            (IP_TTL, 1),
            (IP_MINTTL, 255),
            (IP_MTU_DISCOVER, 2),
            (IP_RECVERR, 1),
            (IP_TRANSPARENT, 1),
            (IP_FREEBIND, 1),
            (IP_PKTINFO, 1),
        ] {
            self.number(&PUBLIC, option, value);
        }
        self.option(&PUBLIC, SO_BINDTODEVICE, "dummy0", b"dummy0\0".to_vec());
        self.option(&PUBLIC, SO_BINDTODEVICE, "lo", b"lo\0".to_vec());
        self.option(&PUBLIC, IP_OPTIONS, "record route", vec![7, 39, 4].into_iter().chain([0; 37]).collect());
        for (option, value) in [
            (TCP_NODELAY, 0),
            (TCP_MAXSEG, 88),
            (TCP_CORK, 1),
            (TCP_KEEPIDLE, 1),
            (TCP_KEEPINTVL, 1),
            (TCP_KEEPCNT, 1),
            (TCP_SYNCNT, 1),
            (TCP_LINGER2, -1),
            (TCP_DEFER_ACCEPT, 3600),
            (TCP_WINDOW_CLAMP, 1),
            (TCP_QUICKACK, 0),
            (TCP_USER_TIMEOUT, 1),
            (TCP_FASTOPEN, 1000),
            (TCP_FASTOPEN_NO_COOKIE, 1),
            (TCP_NOTSENT_LOWAT, 1),
            (TCP_SAVE_SYN, 2),
            (TCP_REPAIR, 1),
            (TCP_INQ, 1),
            (TCP_TX_DELAY, 5_000_000),
        ] {
            self.number(&[Kind::Listening], option, value);
        }
        self.option(&[Kind::Listening], TCP_CONGESTION, "reno", b"reno".to_vec());
        self.option(&[Kind::Listening], TCP_ULP, "tls", b"tls".to_vec());
        self.each(&[Kind::Listening], "setsockopt TCP_MD5SIG_EXT for all clients", |_, thing| sign_all(thing));
        self.costs("the kernel shows it to no other process, so its own share is refused until it is gone");
        for (option, value) in [(UDP_CORK, 1), (UDP_SEGMENT, 1), (UDP_GRO, 1), (UDP_ENCAP, 2)] {
            self.number(&[Kind::Datagrams], option, value);
        }
    }

    /// Words on the two lanes to the primary.
    fn packets(&mut self) {
        let to = On::Each(Kind::Control);
        let mut say = |call: &str, packet: Vec<u8>, times: usize| {
            let deed = move |_: &Held, thing: &Thing| {
                (0..times).try_for_each(|turn| match send(thing, &packet, &[]) {
                    Err(_) if turn > 0 => Ok(()),
                    sent => sent.map(drop),
                })
            };
            self.0.push(Act { on: to, call: call.into(), cost: None, deed: Deed::ToEach(Box::new(deed)) });
        };
        say("send garbage", vec![wire::PROTOCOL, 0, 0xff, 0xfe, 0xfd], 1);
        say("send an unknown protocol", vec![wire::PROTOCOL + 1, 0, 1, 0, 0, 0], 1);
        say("send 100 kB", vec![wire::PROTOCOL; 100_000], 1);
        say("send Ready, 20,000 times", wire::ready(), NUMBER_OF_MANY);
        say("send Leaving", wire::leaving(), 1);
        say("send Drained of port 0", wire::drained(0), 1);
        say("send Drained of port 63", wire::drained(63), 1);
        say("send Drained of port 2^40", wire::drained(1 << 40), 1);
        say("send Peer, 20,000 times", wire::peer(1, 2), NUMBER_OF_MANY);
        self.once(to, "send Listen for 1000 ports", |held| {
            let lane = held.of(Kind::Control).next().ok_or(io::ErrorKind::NotFound)?;
            for ordinal in 0..1000 {
                if send(lane, &wire::listen(1 << 32 | u64::from(ordinal), ordinal), &[]).is_err() {
                    break;
                }
            }
            Ok(())
        });
        self.each(&[Kind::Control, Kind::Messages], "send of odd descriptors", |held, thing| {
            let odd = odd_things(held)?;
            let (bytes, often) = (wire::ready(), 50);
            (0..often).try_for_each(|_| send(thing, &bytes, &raw(&odd)).map(drop)).or(Ok(()))
        });
        self.each(&[Kind::Messages], "send garbage", |_, thing| send(thing, &[0xff; 4096], &[]).map(drop));
        self.each(&[Kind::Messages], "send half a frame", |_, thing| send(thing, &[200, 0, 0, 0, 1], &[]).map(drop));
        self.each(&[Kind::Messages], "send until it is full", |_, thing| fill(thing, &[0; 4096], &[]));
    }

    /// Letters that other workers get.
    fn mail(&mut self) {
        self.each(&MAILBOXES, "send garbage", |_, thing| send(thing, &[0xff; 60], &[]).map(drop));
        self.each(&MAILBOXES, "send an empty letter", |_, thing| send(thing, &[], &[]).map(drop));
        self.each(&MAILBOXES, "send 5 kB", |_, thing| send(thing, &[0; 5000], &[]).map(drop));
        self.each(&MAILBOXES, "send until it is full", |_, thing| fill(thing, &[0xff; 60], &[]));
        self.each(&MAILBOXES, "send forged letters until it is full", |_, thing| {
            let (one, _other) = std::os::unix::net::UnixStream::pair()?;
            fill(thing, &wire::letter(0, 0, 1), &[one.as_raw_fd()])
        });
        self.each(&[Kind::Sending], "send of odd descriptors as connections", |held, thing| {
            let odd = odd_things(held)?;
            (0..4).try_for_each(|_| send(thing, &wire::letter(0, 0, odd.len() as u64), &raw(&odd)).map(drop))
        });
        self.each(&[Kind::Sending], "send of odd descriptors for another port", |held, thing| {
            let odd = odd_things(held)?;
            (0..4).try_for_each(|_| send(thing, &wire::letter(63, 7, odd.len() as u64), &raw(&odd)).map(drop))
        });
        self.each(&[Kind::Sending], "send of descriptors without a letter", |held, thing| {
            let odd = odd_things(held)?;
            (0..4).try_for_each(|_| send(thing, &[], &raw(&odd)).map(drop))
        });
        self.each(&[Kind::Sending], "send of the mailboxes and the board", |held, thing| {
            let shared: Vec<_> = held.of(Kind::Sending).chain(held.of(Kind::Control)).map(|one| one.number).collect();
            (0..4).try_for_each(|_| send(thing, &wire::letter(0, 0, shared.len() as u64), &shared).map(drop))
        });
        self.each(&[Kind::Sending], "fcntl O_NONBLOCK cleared, and full", |_, thing| {
            change_flags(thing, |flags| flags & !OFlag::O_NONBLOCK)?;
            fill(thing, &[0xff; 60], &[])
        });
    }

    fn bell_and_board(&mut self) {
        let full = (u64::MAX - 1).to_ne_bytes();
        let ring = move |thing: &Thing| {
            change_flags(thing, |flags| flags | OFlag::O_NONBLOCK)?;
            _ = nix::unistd::write(&thing.same, &full);
            Ok(())
        };
        self.each(&[Kind::Bell], "write until it is full", move |_, thing| ring(thing));
        self.each(&[Kind::Bell], "fcntl O_NONBLOCK cleared", |_, thing| {
            change_flags(thing, |flags| flags & !OFlag::O_NONBLOCK)
        });
        self.each(&[Kind::Bell], "write until it is full, and O_NONBLOCK cleared", move |_, thing| {
            ring(thing)?;
            change_flags(thing, |flags| flags & !OFlag::O_NONBLOCK)
        });
        self.each(&[Kind::Bell], "read", |_, thing| nix::unistd::read(&thing.same, &mut [0; 8]).map(drop).or(Ok(())));
        self.each(&[Kind::Bell], "close", |_, thing| Ok(nix::unistd::close(thing.number)?));
        self.each(&[Kind::Bell], "dup2 of /dev/null over it", |_, thing| put_over(thing.number, &dev("null")?));
        self.each(&[Kind::Bell], "write for ever", |_, thing| {
            let bell = thing.same.try_clone()?;
            std::thread::spawn(move || {
                loop {
                    _ = nix::unistd::write(&bell, &1_u64.to_ne_bytes());
                    std::thread::sleep(Duration::from_micros(100));
                }
            });
            Ok(())
        });
        for byte in [0x00, 0xff, 0x01, 0x80] {
            self.once(On::Memory, &format!("write 0x{byte:02x} over all of it"), move |_| fill_board(byte));
        }
        for word in 0..2 {
            self.once(On::Memory, &format!("write 0xff over word {word} of the head"), move |_| {
                write_to_board(8 * word, &[0xff; 8])
            });
        }
        for slot in 0..3 {
            for (name, bytes) in [("0xff", [0xff; SLOT]), ("0x00", [0; SLOT])] {
                self.once(On::Memory, &format!("write {name} over slot {slot}"), move |_| {
                    write_to_board(HEAD + slot * SLOT as u64, &bytes)
                });
            }
        }
        for word in 0..7_u64 {
            for (name, value) in [("0", 0), ("2^32-1", u64::from(u32::MAX)), ("2^64-1", u64::MAX)] {
                self.once(On::Memory, &format!("write {name} over word {word} of all lines"), move |_| {
                    for line in (0..3).flat_map(|slot| (1..3).map(move |line| HEAD + slot * SLOT as u64 + 64 * line)) {
                        write_to_board(line + 8 * word, &u64::to_ne_bytes(value))?;
                    }
                    Ok(())
                });
            }
        }
        self.once(On::Memory, "ftruncate to 0", |_| Ok(ftruncate(board_file()?, 0)?));
        self.once(On::Memory, "ftruncate to twice its size", |_| Ok(ftruncate(board_file()?, 1 << 30)?));
        self.once(On::Memory, "fallocate PUNCH_HOLE", |_| {
            let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
            Ok(fallocate(board_file()?, flags, 0, 1 << 16)?)
        });
        self.once(On::Memory, "fcntl F_ADD_SEALS", |_| {
            fcntl(board_file()?, FcntlArg::F_ADD_SEALS(SealFlag::all()))?;
            Ok(())
        });
        self.once(On::Memory, "flock", |_| {
            let locked = nix::fcntl::Flock::lock(board_file()?, FlockArg::LockExclusive).map_err(|(_, error)| error)?;
            std::mem::forget(locked);
            Ok(())
        });
    }

    fn other_files(&mut self) {
        let others = [Kind::Board, Kind::Pidfd, Kind::Epoll, Kind::Connection, Kind::Other];
        self.each(&others, "close", |_, thing| Ok(nix::unistd::close(thing.number)?));
        self.each(&others, "dup2 of /dev/null over it", |_, thing| put_over(thing.number, &dev("null")?));
        let number_of_others = 2 * others.len();
        for act in self.0.iter_mut().rev().take(number_of_others) {
            act.cost = Some("its own connections, and what its runtime waits for, are gone");
        }
        self.once(On::Itself, "close of all above 2", |held| {
            for thing in held.things.iter().filter(|thing| thing.number > 2) {
                nix::unistd::close(thing.number)?;
            }
            Ok(())
        });
        self.once(On::Itself, "close of 0, 1 and 2", |_| Ok((0..3).try_for_each(nix::unistd::close)?));
    }

    fn siblings(&mut self) {
        for signal in
            [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGSTOP, Signal::SIGINT, Signal::SIGHUP, Signal::SIGUSR1]
        {
            self.once(On::Siblings, &format!("kill {signal}, of one"), move |held| {
                Ok(kill(*held.siblings.first().ok_or(io::ErrorKind::NotFound)?, signal)?)
            });
        }
        self.once(On::Siblings, "kill SIGSTOP, of all", |held| {
            Ok(held.siblings.iter().try_for_each(|pid| kill(*pid, Signal::SIGSTOP))?)
        });
        self.once(On::Siblings, "kill SIGKILL, of all", |held| {
            Ok(held.siblings.iter().try_for_each(|pid| kill(*pid, Signal::SIGKILL))?)
        });
        self.once(On::Siblings, "ptrace ATTACH, of one", |held| {
            Ok(nix::sys::ptrace::attach(*held.siblings.first().ok_or(io::ErrorKind::NotFound)?)?)
        });
        self.costs("a process that is traced stands still, and nothing can free it but the end of its tracer");
        self.once(On::Siblings, "ptrace ATTACH, of one, and exit", |held| {
            nix::sys::ptrace::attach(*held.siblings.first().ok_or(io::ErrorKind::NotFound)?)?;
            std::process::exit(0);
        });
        self.once(On::Siblings, "prlimit NOFILE 10, of all", |held| {
            let limit = Rlimit { current: Some(10), maximum: Some(10) };
            held.siblings.iter().try_for_each(|pid| {
                prlimit(rustix::process::Pid::from_raw(pid.as_raw()), Resource::Nofile, limit).map(drop)
            })?;
            Ok(())
        });
        self.once(On::Siblings, "setpriority 19, of all", |held| {
            for pid in &held.siblings {
                rustix::process::setpriority_process(rustix::process::Pid::from_raw(pid.as_raw()), 19)?;
            }
            Ok(())
        });
        self.once(On::Siblings, "sched_setaffinity to CPU 0, of all", |held| {
            let mut first = nix::sched::CpuSet::new();
            first.set(0)?;
            Ok(held.siblings.iter().try_for_each(|pid| nix::sched::sched_setaffinity(*pid, &first))?)
        });
        self.once(On::Siblings, "kill SIGSTOP, of one, by its pidfd", |held| {
            let sibling = held.siblings.first().and_then(|pid| rustix::process::Pid::from_raw(pid.as_raw()));
            let pidfd = rustix::process::pidfd_open(
                sibling.ok_or(io::ErrorKind::NotFound)?,
                rustix::process::PidfdFlags::empty(),
            )?;
            Ok(rustix::process::pidfd_send_signal(pidfd, rustix::process::Signal::STOP)?)
        });
    }

    fn itself(&mut self) {
        let limit = |most: u64| {
            let limit = Rlimit { current: Some(most), maximum: Some(most) };
            prlimit(None, Resource::Nofile, limit).map(drop).map_err(io::Error::from)
        };
        self.once(On::Itself, "setrlimit NOFILE to what is open", move |held| {
            limit(1 + held.things.iter().map(|thing| thing.number).max().unwrap_or_default().cast_unsigned() as u64)
        });
        self.once(On::Itself, "setrlimit NOFILE 0", move |_| limit(0));
        self.once(On::Itself, "kill SIGSTOP", |_| Ok(kill(Pid::this(), Signal::SIGSTOP)?));
        self.once(On::Itself, "nothing", |_| Ok(()));
        self.once(On::Itself, "exit 0", |_| std::process::exit(0));
        self.once(On::Itself, "exit 1", |_| std::process::exit(1));
        self.once(On::Itself, "abort", |_| std::process::abort());
        self.once(On::Itself, "kill SIGKILL", |_| Ok(kill(Pid::this(), Signal::SIGKILL)?));
        self.once(On::Itself, "kill SIGTERM", |_| Ok(kill(Pid::this(), Signal::SIGTERM)?));
        self.once(On::Itself, "sleep for ever in the runtime's thread", |_| {
            loop {
                std::thread::park();
            }
        });
        self.once(On::Itself, "turn for ever in the runtime's thread", |_| {
            loop {
                std::hint::spin_loop();
            }
        });
        self.once(On::Itself, "fork of a child that lives on", |_| {
            // Without the variables, so that it is not taken for a process of the cluster.
            std::process::Command::new("/bin/sleep").arg("60").env_clear().spawn().map(drop)
        });
    }
}

/// Where the board's slots begin, and the size of one.
const HEAD: u64 = 64;
const SLOT: usize = 192;
