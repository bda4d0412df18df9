//! Ports that go on in another program: here in this process, with duplicates; and once over a real exec.

use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use super::*;
use crate::ipc::{Fingerprint, ForwardedReply, Lane, Message, Origin, Suspended, codec};
use crate::listen::mailbox::Connection;
use crate::listen::{Endpoint, Options, PortKey};

const DEADLINE: Duration = Duration::from_secs(30);

fn ports(slots: usize, dispatch: Dispatch) -> Ports {
    Ports::new(slots, dispatch, InheritedSockets::default(), 1024).unwrap()
}

fn on(endpoint: Endpoint) -> PortRequest {
    PortRequest { key: PortKey { endpoint, ordinal: 0 }, http: None, options: Options::default() }
}

fn any() -> PortRequest {
    on(Endpoint::Tcp("127.0.0.1:0".parse().unwrap()))
}

fn listen(ports: &mut Ports, slot: usize, request: &PortRequest) -> (PortId, Address, u64) {
    let (granted, fd) = ports.listen(slot, request).unwrap();
    let inode = fd.map_or(0, |fd| std::fs::File::from(fd.try_clone_to_owned().unwrap()).metadata().unwrap().ino());
    (granted.port, granted.address, inode)
}

/// The ports as another program has them, which gets duplicates here.
fn adopted(old: Ports, dispatch: Dispatch) -> io::Result<Ports> {
    let (state, fds) = old.hand_down().unwrap();
    let state = codec::encode_state(&state).unwrap();
    let fds = fds.into_iter().map(|fd| fd.try_clone_to_owned().unwrap()).collect();
    old.leave();
    Ports::adopt(codec::decode_state(&state).unwrap(), fds, dispatch, 1024)
}

/// A worker that takes connections from the port, and never looks into its mailbox.
fn man(ports: &mut Ports, slot: usize, port: PortId) {
    ports.expect(slot, WorkerId::new(slot as u64 + 1), 1 << 20);
    let line = ports.board().slot(slot).line_of(WorkerId::new(slot as u64 + 1)).unwrap();
    line.set_accepts(port.0, true);
}

/// Connections that wait in the shards of the port, and in all mailboxes.
fn waiting(ports: &Ports, port: PortId) -> (usize, usize) {
    let in_shard = |slot| match ports.registry.shard(port, slot) {
        Some(shard) => std::iter::from_fn(|| os::accept(shard).ok()).count(),
        None => 0,
    };
    let letters = |mailbox: &OwnedFd| {
        let mailbox = mailbox.as_fd();
        std::iter::from_fn(|| mailbox::receive(mailbox).ok()).map(|letter| letter.connections.len()).sum::<usize>()
    };
    ((0..ports.slots()).map(in_shard).sum(), ports.mailboxes.iter().map(letters).sum())
}

fn connect(address: &Address, clients: usize) -> Vec<TcpStream> {
    (0..clients).map(|_| TcpStream::connect(address.socket().unwrap()).unwrap()).collect()
}

fn connections(clients: usize) -> Vec<Connection> {
    let end = || Connection { fd: UnixStream::pair().unwrap().0.into(), client: Address::Unnamed };
    (0..clients).map(|_| end()).collect()
}

fn soon() -> Instant {
    Instant::now() + DEADLINE
}

#[tokio::test]
async fn sockets_queues_mailboxes_and_board_are_the_same_in_the_next_program() {
    let mut old = ports(2, Dispatch::Balanced);
    let before = [0, 1].map(|slot| listen(&mut old, slot, &any()));
    let (port, address, _) = before[0].clone();
    man(&mut old, 1, port);
    let _clients = connect(&address, 10);
    assert!(old.exchange.leave_with(0, port, connections(3)).is_empty());
    old.quiesce(soon()).await.unwrap();
    let mut new = adopted(old, Dispatch::Balanced).unwrap();
    assert_eq!([0, 1].map(|slot| listen(&mut new, slot, &any())), before);
    assert!(new.board().slot(1).accepting(port.0).is_some());
    assert!(new.exchange.leave_with(1, port, connections(2)).is_empty(), "the sending ends are there");
    assert_eq!(waiting(&new, port), (10, 5));
    assert!(!new.is_stopping());
}

#[tokio::test]
async fn a_look_is_due_in_the_next_program_as_nobody_rings_for_one_that_looks() {
    let mut old = ports(1, Dispatch::Balanced);
    let (port, ..) = listen(&mut old, 0, &any());
    man(&mut old, 0, port);
    _ = old.board().slot(0).lines()[0].wake();
    old.look();
    assert!(!old.board().must_ring(board::now()), "it looks by itself");
    old.quiesce(soon()).await.unwrap();
    let mut new = adopted(old, Dispatch::Balanced).unwrap();
    tokio::time::timeout(DEADLINE, new.is_due()).await.unwrap();
    // Once all sleep, the bell is heard.
    new.board().slot(0).lines()[0].rest();
    while new.next_look.is_some() {
        tokio::time::timeout(DEADLINE, new.is_due()).await.unwrap();
        new.look();
        assert!(new.inspect().is_empty(), "nothing was changed");
    }
    assert!(new.board().must_ring(board::now()));
    nix::unistd::write(new.bell.get_ref(), &1_u64.to_ne_bytes()).unwrap();
    tokio::time::timeout(DEADLINE, new.is_due()).await.unwrap();
}

#[tokio::test]
async fn a_cluster_that_stops_goes_on_stopping() {
    let mut old = ports(2, Dispatch::Balanced);
    let (port, address, _) = listen(&mut old, 0, &any());
    man(&mut old, 1, port);
    old.stop(&BTreeSet::from([1]), soon());
    old.quiesce(soon()).await.unwrap();
    let mut new = adopted(old, Dispatch::Balanced).unwrap();
    assert!(new.is_stopping() && new.board().is_stopping());
    assert!(new.listen(0, &any()).is_err(), "its shard is closed");
    assert!(new.listen(1, &any()).is_ok());
    new.drained(1, port);
    assert!(TcpStream::connect(address.socket().unwrap()).is_err());
}

#[tokio::test]
async fn the_next_program_is_refused_with_a_policy_for_other_sockets_and_can_be_asked_before() {
    let mut old = ports(2, Dispatch::Balanced);
    listen(&mut old, 0, &any());
    let (state, _) = old.hand_down().unwrap();
    state.check(&Dispatch::Kernel).unwrap();
    assert_eq!(state.check(&Dispatch::RoundRobin).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    assert!(adopted(old, Dispatch::RoundRobin).is_err());
}

#[tokio::test]
async fn once_all_is_quiet_every_connection_waits_in_the_kernel() {
    // From the first moment of tending to a late one.
    for turns in (0..40).step_by(4) {
        let mut ports = ports(3, Dispatch::Balanced);
        let (port, address, _) = listen(&mut ports, 0, &any());
        let _clients = connect(&address, 60);
        man(&mut ports, 1, port);
        ports.look();
        assert!(ports.hand_down().is_err(), "somebody is at work");
        for _ in 0..turns {
            tokio::task::yield_now().await;
        }
        ports.quiesce(soon()).await.unwrap();
        assert!(ports.hand_down().is_ok());
        let (in_shards, in_mailboxes) = waiting(&ports, port);
        assert_eq!(in_shards + in_mailboxes, 60, "after {turns} turns");
        // An upgrade that is given up: the next look begins anew.
        ports.look();
        assert!(!ports.tended.is_empty() && ports.hand_down().is_err());
    }
}

#[tokio::test]
async fn what_a_task_holds_that_was_told_to_stop_earlier_is_waited_for_too() {
    let (mut ports, port, _clients) = with_full_mailboxes().await;
    // Slot 0 is served again: its shard is its own, and whoever tended that holds a connection still.
    let line = ports.board().slot(0).line_of(WorkerId::new(1)).unwrap();
    line.set_accepts(port.0, true);
    ports.look();
    assert!(ports.tended.is_empty());
    assert!(ports.quiesce(Instant::now() + Duration::from_millis(50)).await.is_err());
    let (_, in_mailboxes) = waiting(&ports, port);
    ports.quiesce(soon()).await.unwrap();
    assert!(in_mailboxes > 0);
    assert_eq!(waiting(&ports, port), (0, 1), "it is in a mailbox, as there is room");
}

#[tokio::test]
async fn what_cannot_be_put_down_in_time_is_an_error_and_tending_goes_on() {
    let (mut ports, port, _clients) = with_full_mailboxes().await;
    let error = ports.quiesce(Instant::now() + Duration::from_millis(50)).await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(error.to_string().contains("the mailboxes are full"), "{error}");
    assert!(!ports.tended.is_empty() && ports.hand_down().is_err());
    waiting(&ports, port);
    ports.quiesce(soon()).await.unwrap();
    assert_eq!(waiting(&ports, port), (0, 1));
}

/// Slot 0 does not serve the port and slot 1 does, but no mailbox has room: whoever tends the shard of slot 0 cannot put down
/// the one connection that it has taken from there.
async fn with_full_mailboxes() -> (Ports, PortId, Vec<TcpStream>) {
    let mut ports = ports(2, Dispatch::Balanced);
    let (port, address, _) = listen(&mut ports, 0, &any());
    // It looks into its mailbox for another port, so that nobody else does.
    man(&mut ports, 0, PortId(5));
    let mut clients = Vec::new();
    while ports.board().slot(1).line_of(WorkerId::new(2)).is_none() {
        // The kernel chooses; all that it does not give to slot 0 go.
        clients = connect(&address, 1);
        if waits_in_first_shard(&ports, port) {
            man(&mut ports, 1, port);
        } else {
            waiting(&ports, port);
        }
    }
    for slot in 0..2 {
        while ports.exchange.leave_with(slot, port, connections(1)).is_empty() {}
    }
    ports.look();
    let taken = async {
        while waits_in_first_shard(&ports, port) {
            // Nothing announces that a queue has become empty.
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(DEADLINE, taken).await.unwrap();
    (ports, port, clients)
}

fn waits_in_first_shard(ports: &Ports, port: PortId) -> bool {
    let shard = ports.registry.shard(port, 0).unwrap();
    let mut polled = [nix::poll::PollFd::new(shard, nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut polled, nix::poll::PollTimeout::ZERO).unwrap() > 0
}

/// What the program before says to the next one.
#[derive(Serialize, Deserialize)]
struct Handed {
    ports: PortsState,
    fds: Vec<RawFd>,
    /// Both ends of a lane, so that this process is its own worker.
    lanes: [(Suspended, RawFd); 2],
}

#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Word(String);

impl Message for Word {
    type Wire = Self;

    const NAME: &'static str = "Word";

    fn fingerprint() -> Fingerprint {
        Fingerprint::of("struct Word")
    }

    fn into_wire(self) -> Result<Self, ForwardedReply> {
        Ok(self)
    }

    fn from_wire(wire: Self, _: &Origin) -> Self {
        wire
    }
}

const TEST: &str = "primary::ports::tests::a_port_and_a_lane_go_on_over_a_real_exec";
/// The path of the Unix socket, in the program before; in the next one, the number of the state beside it.
const BEFORE: &str = "CLUSTER_TEST_BEFORE_EXEC";
const AFTER: &str = "CLUSTER_TEST_AFTER_EXEC";

/// Plays three parts: the test; the process that it starts; and that process again, once it has become another program.
#[test]
fn a_port_and_a_lane_go_on_over_a_real_exec() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    if let Ok(number) = std::env::var(AFTER) {
        return runtime.block_on(after_exec(number.parse().unwrap()));
    }
    if let Ok(path) = std::env::var(BEFORE) {
        return runtime.block_on(before_exec(path.into()));
    }
    let path = std::env::temp_dir().join(format!("cluster-exec-{}.sock", std::process::id()));
    let mut child = Command::new("/proc/self/exe")
        .args([TEST, "--exact", "--nocapture", "--test-threads=1"])
        .env(BEFORE, &path)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let (mut order, mut said) = (child.stdin.take().unwrap(), BufReader::new(child.stdout.take().unwrap()));
    let mut hear = move |what: &str| loop {
        let mut line = String::new();
        assert!(said.read_line(&mut line).unwrap() > 0, "it ended before it said {what}");
        if let Some((_, rest)) = line.split_once(what) {
            return rest.trim().to_owned();
        }
    };
    let address: SocketAddr = hear("listening at ").parse().unwrap();
    let mut clients: Vec<_> = (0..8).map(|_| TcpStream::connect(address).unwrap()).collect();
    let mut local = UnixStream::connect(&path).unwrap();
    writeln!(order, "become another program").unwrap();
    assert_eq!(hear("went on as "), child.id().to_string());
    assert!(path.exists(), "the file outlives the exec");
    clients.push(TcpStream::connect(address).unwrap());
    writeln!(order, "serve and end").unwrap();
    let mut text = String::new();
    for client in &mut clients {
        client.read_to_string(&mut text).unwrap();
    }
    local.read_to_string(&mut text).unwrap();
    assert_eq!(text, "served".repeat(10));
    assert!(child.wait().unwrap().success());
    assert!(!path.exists(), "it went with the program that had it last");
}

async fn before_exec(path: PathBuf) {
    let mut ports = ports(2, Dispatch::Balanced);
    let (_, address, _) = listen(&mut ports, 0, &any());
    listen(&mut ports, 0, &on(Endpoint::Unix(path)));
    let lanes = [(); 2].map(|()| Lane::<Word, Word>::new(1 << 20, Arc::default()));
    let (one, other) = UnixStream::pair().unwrap();
    for (lane, socket) in lanes.iter().zip([one, other]) {
        tokio::spawn(lane.drive(socket));
    }
    for lane in &lanes {
        lane.send(Word("before".into())).await.unwrap();
        lane.send(Word("not taken before".into())).await.unwrap();
    }
    for lane in &lanes {
        assert_eq!(lane.recv().await, Some(Word("before".into())));
        lane.send(Word("last".into())).await.unwrap();
    }
    println!("listening at {}", address.socket().unwrap());
    wait_for_order();
    ports.quiesce(soon()).await.unwrap();
    let [one, other] = lanes;
    let parts = [one.suspend(DEADLINE).await.unwrap(), other.suspend(DEADLINE).await.unwrap()];
    let parts = parts.map(|(lane, socket)| (lane, socket.unwrap()));
    let (state, mut fds) = ports.hand_down().unwrap();
    let handed = Handed {
        ports: state,
        fds: fds.iter().map(|fd| fd.as_raw_fd()).collect(),
        lanes: parts.each_ref().map(|(lane, socket)| (lane.clone(), socket.as_raw_fd())),
    };
    let state = os::create_state(&codec::encode_state(&handed).unwrap()).unwrap();
    fds.extend(parts.iter().map(|(_, socket)| socket.as_fd()).chain([state.as_fd()]));
    fds.iter().for_each(|fd| os::keep_number_on_exec(fd.as_raw_fd()).unwrap());
    let mut command = Command::new("/proc/self/exe");
    command.args(std::env::args_os().skip(1)).env_remove(BEFORE).env(AFTER, state.as_raw_fd().to_string());
    panic!("{}", command.exec());
}

async fn after_exec(number: RawFd) {
    let adopt = |number| os::adopt_inherited(number).unwrap();
    let handed: Handed = codec::decode_state(&os::read_state(&adopt(number)).unwrap()).unwrap();
    let fds = handed.fds.into_iter().map(adopt).collect();
    let ports = Ports::adopt(handed.ports, fds, Dispatch::Balanced, 1024).unwrap();
    println!("went on as {}", std::process::id());
    let lanes = handed.lanes.map(|(lane, socket)| {
        let lane = Lane::<Word, Word>::resume(lane, Arc::default()).unwrap();
        tokio::spawn(lane.drive(adopt(socket).into()));
        lane
    });
    for lane in &lanes {
        lane.send(Word("after".into())).await.unwrap();
    }
    for lane in &lanes {
        for word in ["not taken before", "last", "after"] {
            assert_eq!(lane.recv().await, Some(Word(word.into())));
        }
    }
    wait_for_order();
    let sources =
        [ports.registry.shard(PortId(0), 0), ports.registry.shard(PortId(0), 1), ports.registry.shared(PortId(1))];
    for source in sources {
        while let Ok((connection, _)) = os::accept(source.unwrap()) {
            std::fs::File::from(connection).write_all(b"served").unwrap();
        }
    }
}

fn wait_for_order() {
    io::stdin().read_line(&mut String::new()).unwrap();
}
