//! Ports of every kind: IPv6, Unix sockets, UDP, inherited sockets; what can be set of them, and what happens when a worker has its
//! fill.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{self, BufRead as _, BufReader, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{SocketAddr as UnixAddress, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use nix::sys::stat::fstat;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::Pid;
use socket2::{Domain, SockAddr, Socket, Type};
use support::http::{self, Connection};
use support::load::Load;
use support::scratch::Scratch;
use support::who::{self, Who, who};
use support::{Cluster, DEADLINE, Launch, Signal, send, skip};

const PORTS: &str = env!("CARGO_BIN_EXE_ports");

/// Of a Unix socket, as the kernel has it: the last byte is not part of it.
const LONGEST_PATH: usize = 107;

fn ports(program: &str) -> Launch {
    Cluster::of(PORTS).args([program])
}

#[test]
fn all_workers_serve_on_an_ipv6_port_that_the_kernel_chose() {
    if !has_ipv6() {
        return skip("there is no IPv6 here");
    }
    let mut cluster = ports("http").env("ADDR", "[::1]:0").start();
    let address = cluster.wait_ready();
    assert!(address.is_ipv6() && address.port() != 0, "{address}");
    for slot in 0..2 {
        who::find(address, |who| who.slot == slot);
    }
    assert!(http::body(address, "/socket").starts_with("[::1]:"));
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn the_ipv6_wildcard_serves_both_families() {
    if !has_ipv6() {
        return skip("there is no IPv6 here");
    }
    let mut cluster = ports("http").env("ADDR", "[::]:0").env("V6_ONLY", "false").start();
    let port = cluster.wait_ready().port();
    for slot in 0..2 {
        who::find(SocketAddr::from((Ipv4Addr::LOCALHOST, port)), |who| who.slot == slot);
        who::find(format!("[::1]:{port}").parse().unwrap(), |who| who.slot == slot);
    }
    // Nobody else gets the IPv4 side.
    assert_eq!(TcpListener::bind(("0.0.0.0", port)).unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

/// test-cluster-net-listen-ipv6only-none, test-cluster-net-listen-ipv6only-rr.
#[test]
fn an_ipv6_only_port_leaves_its_number_to_ipv4() {
    if !has_ipv6() {
        return skip("there is no IPv6 here");
    }
    for dispatch in ["balanced", "round-robin"] {
        let only = ports("http").env("ADDR", "[::]:0").env("V6_ONLY", "true");
        let mut cluster = only.env("CLUSTER_DISPATCH", dispatch).start();
        let port = cluster.wait_ready().port();
        let other = TcpListener::bind(("0.0.0.0", port)).expect("it is free");
        let client = TcpStream::connect(("127.0.0.1", port)).unwrap();
        assert_eq!(other.accept().unwrap().1, client.local_addr().unwrap(), "IPv4 clients are the other's");
        _ = who(format!("[::1]:{port}").parse().unwrap());
        cluster.signal(Signal::SIGTERM);
        cluster.expect_exit(0);
    }
}

#[test]
fn a_unix_socket_is_shared_by_all_workers_and_its_file_goes_with_the_cluster() {
    let scratch = Scratch::new();
    let path = scratch.path("app.sock");
    let mut cluster = ports("http").env("ADDR", &at(&path)).start();
    assert_eq!(ready_on(&mut cluster), at(&path));
    for slot in 0..2 {
        find_at(&path, |who| who.slot == slot);
    }
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    assert!(!path.exists());
}

#[test]
fn a_handler_behind_a_unix_socket_is_told_the_name_of_its_client_which_as_a_rule_has_none() {
    let scratch = Scratch::new();
    let path = scratch.path("app.sock");
    let mut cluster = ports("http").env("ADDR", &at(&path)).start();
    ready_on(&mut cluster);
    assert_eq!(over_unix(&path).get("/peer").unwrap().body, "Unnamed");
    let own = scratch.path("client.sock");
    let named = over(connect_from(&own, &path)).get("/peer").unwrap();
    assert_eq!(named.body, format!("Unix({own:?})"));
}

/// Its address goes along with the connection.
#[test]
fn a_client_on_a_unix_socket_whose_own_path_is_not_text_is_served_and_so_are_those_after_it() {
    let scratch = Scratch::new();
    let path = scratch.path("app.sock");
    let mut cluster = ports("http").env("ADDR", &at(&path)).start();
    ready_on(&mut cluster);
    let own = scratch.path("client").with_extension(OsStr::from_bytes(b"\xff"));
    let mut named = over(connect_from(&own, &path));
    assert_eq!(named.get("/peer").unwrap().body, format!("Unix({own:?})"));
    for slot in 0..2 {
        find_at(&path, |who| who.slot == slot);
    }
    cluster.signal(Signal::SIGTERM);
    drop(named);
    cluster.expect_exit(0);
}

/// Frozen, the primary finds all of them at once, so that they share letters.
#[test]
fn many_clients_on_a_unix_socket_whose_own_paths_are_as_long_as_can_be_and_not_text_are_all_served() {
    let scratch = Scratch::new();
    let path = scratch.path("app.sock");
    let mut cluster = ports("http").env("ADDR", &at(&path)).start();
    ready_on(&mut cluster);
    freeze(cluster.primary());
    let own = |nth: u8| {
        let mut own = scratch.path("").into_os_string().into_vec();
        own.push(nth + 1);
        own.resize(LONGEST_PATH, 0xff);
        PathBuf::from(OsString::from_vec(own))
    };
    let mut waiting: Vec<_> = (0..40).map(|nth| over(connect_from(&own(nth), &path))).collect();
    cluster.signal(Signal::SIGCONT);
    for (nth, client) in (0..).zip(&mut waiting) {
        assert_eq!(client.get("/peer").unwrap().body, format!("Unix({:?})", own(nth)));
    }
}

/// As in Node: the worker's directory counts, not the primary's.
#[test]
fn a_relative_path_is_resolved_in_the_directory_of_the_worker() {
    let scratch = Scratch::new();
    let inner = scratch.path("inner");
    fs::create_dir(&inner).unwrap();
    let relative = ports("http").env("ADDR", "unix:app.sock").env("DIRECTORY", inner.to_str().unwrap());
    let outer = scratch.path(".");
    let mut cluster = relative.with(|command| _ = command.current_dir(outer)).start();
    assert_eq!(ready_on(&mut cluster), at(&inner.join("app.sock")));
    who_at(&inner.join("app.sock"));
    assert!(!scratch.path("app.sock").exists());
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    assert!(!inner.join("app.sock").exists());
}

/// Whatever the umask says.
#[test]
fn the_file_of_a_unix_socket_has_the_mode_that_was_asked_for() {
    let scratch = Scratch::new();
    for (umask, asked) in [("077", "660"), ("000", "600"), ("022", "666")] {
        let path = scratch.path(asked);
        let command = format!("umask {umask}; exec {PORTS} http");
        let mut cluster = Cluster::of("sh").args(["-c", &command]).env("ADDR", &at(&path)).env("MODE", asked).start();
        ready_on(&mut cluster);
        let mode = fs::symlink_metadata(&path).unwrap().permissions().mode() & 0o777;
        assert_eq!(format!("{mode:o}"), asked, "with umask {umask}");
        who_at(&path);
    }
}

#[test]
fn the_file_that_a_killed_cluster_has_left_is_replaced_by_the_next_one() {
    let scratch = Scratch::new();
    let path = scratch.path("app.sock");
    let mut dead = ports("http").env("ADDR", &at(&path)).start();
    ready_on(&mut dead);
    dead.signal(Signal::SIGKILL);
    dead.wait_exit();
    dead.expect_nothing_left();
    assert!(path.exists(), "nobody could remove it");
    let mut next = ports("http").env("ADDR", &at(&path)).start();
    assert_eq!(ready_on(&mut next), at(&path));
    who_at(&path);
    next.signal(Signal::SIGTERM);
    next.expect_exit(0);
    assert!(!path.exists());
}

#[test]
fn a_living_clusters_unix_socket_is_refused_to_a_second_one() {
    let scratch = Scratch::new();
    let path = scratch.path("app.sock");
    let mut first = ports("http").env("ADDR", &at(&path)).start();
    ready_on(&mut first);
    let mut second = ports("attempt").workers(1).env("ADDR", &at(&path)).start();
    let line = second.wait_for("worker 1: AddrInUse: cannot listen on ");
    assert!(line.contains("another server listens there") && line.contains(path.to_str().unwrap()), "{line}");
    second.signal(Signal::SIGTERM);
    second.expect_exit(0);
    // Which is no reason to take the file along.
    who_at(&path);
}

#[test]
fn a_file_in_the_way_of_a_unix_socket_is_neither_used_nor_removed() {
    let scratch = Scratch::new();
    let path = scratch.path("app.sock");
    fs::write(&path, "precious").unwrap();
    let mut cluster = ports("attempt").workers(1).env("ADDR", &at(&path)).start();
    let line = cluster.wait_for("worker 1: AddrInUse: cannot listen on ");
    assert!(line.contains("a file that is no socket is there; remove it"), "{line}");
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
}

#[test]
fn an_abstract_name_is_served_by_all_workers_and_refused_to_a_second_cluster() {
    let name = format!("cluster-ports-{}", std::process::id());
    let address = format!("unix:@{name}");
    let mut cluster = ports("http").env("ADDR", &address).start();
    assert_eq!(ready_on(&mut cluster), address);
    let there = UnixAddress::from_abstract_name(&name).unwrap();
    let ask = || who::parse(&over(UnixStream::connect_addr(&there).unwrap()).get("/who").unwrap().body);
    for slot in 0..2 {
        assert!((0..1000).any(|_| ask().slot == slot));
    }
    let mut second = ports("attempt").workers(1).env("ADDR", &address).start();
    second.wait_for("worker 1: AddrInUse: cannot listen on ");
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    UnixStream::connect_addr(&there).expect_err("the name is free");
}

#[test]
fn the_successor_of_a_killed_worker_serves_on_the_unix_socket() {
    let scratch = Scratch::new();
    let path = scratch.path("app.sock");
    let mut cluster = ports("http").workers(1).env("ADDR", &at(&path)).start();
    ready_on(&mut cluster);
    for id in 1..4 {
        let victim = who_at(&path);
        assert_eq!(victim.id, id);
        send(victim.pid, Signal::SIGKILL);
        // Whoever connects meanwhile waits.
        assert_eq!(who_at(&path).id, id + 1);
    }
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn who_connects_to_a_unix_socket_while_a_worker_is_stuck_is_served_by_its_sibling() {
    let scratch = Scratch::new();
    let path = scratch.path("app.sock");
    let mut cluster = ports("http").env("ADDR", &at(&path)).start();
    ready_on(&mut cluster);
    let victim = who_at(&path);
    freeze(victim.pid);
    let mut waiting: Vec<_> = (0..50).map(|_| over_unix(&path)).collect();
    waiting.iter_mut().for_each(|connection| connection.send_get("/who").unwrap());
    // What had been handed to it is not lost with it.
    send(victim.pid, Signal::SIGKILL);
    let served: Vec<_> = waiting.iter_mut().map(|one| who::parse(&one.answer().unwrap().body).id).collect();
    assert!(served.iter().all(|id| *id != victim.id), "{served:?}");
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn every_worker_has_a_udp_socket_on_the_port_and_a_client_stays_with_its_worker() {
    let mut cluster = ports("udp").start();
    let address = cluster.wait_ready();
    let clients: Vec<_> = (0..40).map(|_| Datagrams::to(address)).collect();
    let before: Vec<_> = clients.iter().map(|client| client.ask("one").slot).collect();
    assert_eq!(BTreeSet::from_iter(&before).len(), 2, "{before:?}");
    let after: Vec<_> = clients.iter().map(|client| client.ask("two").slot).collect();
    assert_eq!(before, after);
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn the_datagrams_that_wait_for_a_killed_worker_are_read_by_its_replacement() {
    let mut cluster = ports("udp").start();
    let address = cluster.wait_ready();
    let client = Datagrams::to(address);
    let victim = client.ask("hello");
    freeze(victim.pid);
    for number in 0..20 {
        client.send(&number.to_string());
    }
    send(victim.pid, Signal::SIGKILL);
    for number in 0..20 {
        let (who, text) = client.receive().expect("none is lost");
        assert_eq!((who.id, who.slot, text), (3, victim.slot, number.to_string()));
    }
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn a_second_cluster_is_refused_a_udp_port_and_the_first_goes_on() {
    let mut first = ports("udp").start();
    let address = first.wait_ready();
    let mut second = ports("attempt").workers(1).env("ADDR", &address.to_string()).env("UDP", "1").start();
    second.wait_for(&format!("worker 1: AddrInUse: cannot listen on {address}: Address already in use"));
    Datagrams::to(address).ask("there?");
}

#[test]
fn the_udp_clients_of_a_worker_that_is_not_replaced_are_served_by_the_rest() {
    let mut cluster = ports("udp").workers(3).env("CLUSTER_RESTART", "never").start();
    let address = cluster.wait_ready();
    let clients: Vec<_> = (0..60).map(|_| Datagrams::to(address)).collect();
    let before: Vec<_> = clients.iter().map(|client| client.ask("one")).collect();
    let victim = before[0];
    send(victim.pid, Signal::SIGKILL);
    cluster.wait_for("not restarted");
    // What was under way when it died may be lost, as datagrams may; a client asks again.
    clients[0].ask_until_answered("two");
    for (client, before) in clients.iter().zip(&before).skip(1) {
        let now = client.ask("two");
        assert_ne!(now.id, victim.id);
        // That of the others goes on as it was, though the kernel may have been told to choose otherwise.
        assert!(cluster.workers().contains(&now.pid), "{before:?} {now:?}");
    }
    cluster.signal(Signal::SIGTERM);
    cluster.wait_exit();
    cluster.expect_nothing_left();
}

/// listen-fd-cluster, by the rules of sd_listen_fds(3).
#[test]
fn a_socket_of_the_service_manager_is_found_by_its_name_and_shared_by_all_workers() {
    let (socket, address) = listening();
    let mut cluster = activated("http", "systemd:http", "http:admin", socket, listening().0).start();
    assert_eq!(cluster.wait_ready(), address);
    for slot in 0..2 {
        who::find(address, |who| who.slot == slot);
    }
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    TcpListener::bind(address).expect("nobody has it any more");
}

#[test]
fn an_inherited_socket_is_found_by_its_number_and_shared_by_all_workers() {
    let (socket, address) = listening();
    let mut cluster = inheriting("exec", "http", "fd:3", socket, listening().0).start();
    assert_eq!(cluster.wait_ready(), address);
    for slot in 0..2 {
        who::find(address, |who| who.slot == slot);
    }
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn an_inherited_socket_is_served_across_an_upgrade_and_after_it_under_its_name_or_number() {
    for by in ["systemd:http", "fd:3"] {
        let (socket, address) = listening();
        let unused = listening().0;
        let both = BTreeSet::from([inode(&socket), inode(&unused)]);
        let mut cluster = activated("http", by, "http:admin", socket, unused).start();
        assert_eq!(cluster.wait_ready(), address);
        let load = Load::start(address, 2, "/who");
        for generation in [2, 3] {
            cluster.signal(Signal::SIGUSR2);
            cluster.wait_for("cluster: upgraded");
            cluster.wait_for(&format!("reloaded: all workers are of generation {generation}"));
            assert!(sockets_of(cluster.primary()).is_superset(&both), "it may want the other one later");
        }
        let (served, failures) = load.stop();
        assert!(served > 0 && failures.is_empty(), "{served} served, {failures:?}");
        for slot in 0..2 {
            who::find(address, |who| who.slot == slot);
        }
        // A replacement asks for it too.
        let victim = who::find(address, |who| who.id > 4);
        send(victim.pid, Signal::SIGKILL);
        who::find(address, |who| who.id > 6 && who.slot == victim.slot);
        cluster.signal(Signal::SIGTERM);
        cluster.expect_exit(0);
        TcpListener::bind(address).expect("nobody has it any more");
    }
}

/// A service manager keeps the socket, and starts the program again when somebody connects.
#[test]
fn what_comes_to_an_inherited_socket_after_the_cluster_has_stopped_waits_for_its_owner() {
    let scratch = Scratch::new();
    let (tcp, address) = listening();
    let unix = UnixListener::bind(scratch.path("app.sock")).unwrap();
    for (socket, owner) in [(tcp.try_clone().unwrap(), tcp), (unix.try_clone().unwrap().into(), unix.into())] {
        let mut cluster = activated("http", "systemd:http", "http:admin", socket, listening().0).start();
        ready_on(&mut cluster);
        cluster.signal(Signal::SIGTERM);
        cluster.expect_exit(0);
        let mut next = activated("greet", "systemd:http", "http:admin", owner, listening().0).start();
        match ready_on(&mut next).parse() {
            Ok(there) => {
                assert_eq!(address, there);
                Client::tcp(there).greeting();
            }
            Err(_no_internet_address) => _ = Client::at(&scratch.path("app.sock")).greeting(),
        }
    }
}

#[test]
fn an_inherited_socket_that_is_not_there_is_refused_with_a_list_of_what_is() {
    let attempt = |address: &str| {
        let mut cluster = activated("attempt", address, "http:admin", listening().0, listening().0).workers(1).start();
        let line = cluster.wait_for("worker 1: ");
        cluster.signal(Signal::SIGTERM);
        cluster.expect_exit(0);
        line
    };
    let line = attempt("systemd:https");
    assert!(line.contains("NotFound: cannot listen on systemd:https: "), "{line}");
    assert!(line.contains("\"https\"; passed were systemd:admin, systemd:http, fd:3, fd:4"), "{line}");
    let line = attempt("fd:9");
    assert!(line.contains("NotFound: cannot listen on fd:9: "), "{line}");
    assert!(line.contains("it has systemd:admin, systemd:http, fd:3, fd:4"), "{line}");
}

/// The variables are meant for the process with this number only; a service manager may have set them for a parent of ours.
#[test]
fn what_the_service_manager_has_passed_to_another_process_has_no_names() {
    let launcher = "export LISTEN_PID=1 LISTEN_FDS=2 LISTEN_FDNAMES=http:admin; exec";
    let mut cluster = inheriting(launcher, "attempt", "systemd:http", listening().0, listening().0).workers(1).start();
    let line = cluster.wait_for("worker 1: ");
    assert!(line.contains("NotFound: ") && line.contains("passed were fd:3, fd:4"), "{line}");
}

/// The primary accepts from an inherited socket, so a worker has none of them, and neither has what it starts.
#[test]
fn inherited_sockets_and_their_variables_stay_with_the_primary() {
    let (used, unused) = (listening().0, listening().0);
    let (used_inode, unused_inode) = (inode(&used), inode(&unused));
    let mut cluster = activated("parent", "systemd:http", "http:admin", used, unused).start();
    let line = cluster.wait_logged("worker 1: has the child ");
    let child = Pid::from_raw(line.rsplit(' ').next().unwrap().parse().unwrap());
    let address = cluster.wait_ready();
    assert!(sockets_of(cluster.primary()).is_superset(&BTreeSet::from([used_inode, unused_inode])));
    let worker = who::find(address, |who| who.id == 1).pid;
    assert!(!sockets_of(worker).is_empty(), "the test looks at the right thing");
    for pid in [worker, child] {
        assert!(sockets_of(pid).is_disjoint(&BTreeSet::from([used_inode, unused_inode])));
    }
    for pid in [worker, child] {
        let environment = String::from_utf8(fs::read(format!("/proc/{pid}/environ")).unwrap()).unwrap();
        assert!(!environment.contains("LISTEN_"), "{environment}");
    }
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn what_is_set_on_a_port_holds_for_every_connection_that_any_worker_accepts() {
    let asked = [("true", 41), ("false", 97)];
    for dispatch in ["balanced", "round-robin"] {
        for (nodelay, idle) in asked {
            let set = ports("options").env("NODELAY", nodelay).env("KEEPALIVE", &idle.to_string());
            let mut cluster = set.env("CLUSTER_DISPATCH", dispatch).start();
            let address = cluster.wait_ready();
            let mut served = BTreeSet::new();
            cluster.wait_until("both workers to have accepted", |cluster| {
                let mut client = Client::tcp(address);
                served.insert(client.greeting().slot);
                let line = cluster.wait_for(client.name());
                assert!(line.ends_with(&format!("nodelay={nodelay} keepalive=true idle={idle}")), "{line}");
                (served.len() == 2).then_some(())
            });
        }
    }
}

#[test]
fn without_settings_keepalive_is_off() {
    let mut cluster = ports("options").start();
    let address = cluster.wait_ready();
    let mut client = Client::tcp(address);
    client.greeting();
    let line = cluster.wait_for(client.name());
    assert!(line.contains("nodelay=false keepalive=false"), "{line}");
}

/// In a network of its own, where the kernel's own setting, which is off as a rule, may be changed.
#[test]
fn with_fast_open_a_client_may_send_data_in_its_first_packet() {
    let set_up = "ip link set lo up && echo 3 > /proc/sys/net/ipv4/tcp_fastopen";
    let unshare = ["--net", "--map-root-user", "sh", "-c"];
    let possible = Command::new("unshare").args(unshare).arg(set_up).stderr(Stdio::null()).status();
    if !possible.is_ok_and(|status| status.success()) {
        return skip("unshare cannot make a network with fast open");
    }
    for (pending, taken) in [(Some("16"), "1"), (None, "0")] {
        let command = format!("{set_up} && exec {PORTS} fast-open");
        let mut launch = Cluster::of("unshare").args(unshare).args([&command]).workers(1);
        if let Some(pending) = pending {
            launch = launch.env("FAST_OPEN", pending);
        }
        let mut cluster = launch.start();
        let line = cluster.wait_for("data in the first packet: ");
        assert!(line.ends_with(&format!(": {taken}")), "{pending:?}: {line}");
        cluster.signal(Signal::SIGTERM);
        cluster.expect_exit(0);
    }
}

/// One worker, whose queue is in order: had the silent client been in it, it would have been greeted before the other.
#[test]
fn with_defer_accept_a_client_that_says_nothing_does_not_reach_a_worker() {
    let mut cluster = ports("options").workers(1).env("DEFER_ACCEPT", "100").start();
    let address = cluster.wait_ready();
    let mut silent = Client::tcp(address);
    let mut quick = Client::tcp(address);
    quick.say("hello");
    quick.greeting();
    cluster.wait_for(quick.name());
    assert!(!cluster.log_text().contains(silent.name()));
    silent.say("at last");
    silent.greeting();
    cluster.wait_for(silent.name());
}

#[test]
fn the_backlog_of_a_port_is_that_of_each_of_its_sockets() {
    let mut cluster = ports("greet").env("BACKLOG", "37").start();
    let address = cluster.wait_ready();
    let Ok(listed) = Command::new("ss").args(["-Htln", &format!("sport = :{}", address.port())]).output() else {
        return skip("there is no ss");
    };
    let listed = String::from_utf8(listed.stdout).unwrap();
    let backlogs: Vec<_> = listed.lines().map(|line| line.split_whitespace().nth(2).unwrap()).collect();
    assert_eq!(backlogs, ["37", "37"], "{listed}");
}

/// A Unix socket tells at once when its queue is full; nobody takes from it while the primary is frozen.
#[test]
fn as_many_connections_wait_on_a_unix_socket_as_its_backlog_allows() {
    let scratch = Scratch::new();
    let path = scratch.path("app.sock");
    let mut cluster = ports("greet").env("ADDR", &at(&path)).env("BACKLOG", "5").start();
    ready_on(&mut cluster);
    freeze(cluster.primary());
    let mut waiting = Vec::new();
    let full = loop {
        match connect_now(&path) {
            Ok(stream) => waiting.push(stream),
            Err(error) => break error,
        }
    };
    assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    // By Linux's way of counting, one more.
    assert_eq!(waiting.len(), 6);
    cluster.signal(Signal::SIGCONT);
    for stream in waiting {
        Client::unix(stream).greeting();
    }
}

/// Slot 0 has few descriptors, its sibling has plenty. In every way in which connections reach a worker.
#[test]
fn a_worker_without_descriptors_says_so_once_and_rests_while_its_sibling_serves_and_serves_again_later() {
    for dispatch in ["kernel", "balanced", "round-robin"] {
        let mut cluster = ports("starved").env("CLUSTER_DISPATCH", dispatch).start();
        cluster.wait_logged("has few descriptors");
        let address = cluster.wait_ready();
        let mut clients = BTreeMap::<usize, Vec<Client<TcpStream>>>::new();
        // Many at a time; each is greeted, whatever becomes of the worker that it came to first.
        let greet_many = |clients: &mut BTreeMap<_, Vec<_>>| {
            let mut many: Vec<_> = (0..20).map(|_| Client::tcp(address)).collect();
            let slots: Vec<_> = many.iter_mut().map(|client| client.greeting().slot).collect();
            slots.iter().zip(many).for_each(|(slot, client)| clients.entry(*slot).or_default().push(client));
            slots
        };
        let pids: BTreeMap<_, _> = cluster.wait_until("both to serve", |_| {
            let whos = (0..20).map(|_| Client::tcp(address).greeting());
            Some(whos.map(|who| (who.slot, who.pid)).collect()).filter(|pids: &BTreeMap<_, _>| pids.len() == 2)
        });
        cluster.wait_until("a worker to run out of descriptors", |cluster| {
            greet_many(&mut clients);
            cluster.log_text().contains("cannot accept").then_some(())
        });
        // One that tries again and again would get as much of the processor as we do.
        let (ours, its) = (cpu_time(), cpu_time_of(pids[&0]));
        while cpu_time() < ours + Duration::from_millis(500) {
            std::hint::spin_loop();
        }
        let its = cpu_time_of(pids[&0]) - its;
        assert!(its < Duration::from_millis(125), "{dispatch}: {its:?}");
        assert!(greet_many(&mut clients).contains(&1));
        assert_eq!(cluster.log_text().matches("cannot accept").count(), 1, "{dispatch}: {}", cluster.log_text());

        // Room again.
        clients.remove(&0);
        cluster.wait_until("the worker to serve again", |_| greet_many(&mut clients).contains(&0).then_some(()));
        cluster.signal(Signal::SIGTERM);
        drop(clients);
        cluster.expect_exit(0);
    }
}

/// test-cluster-net-listen-max-connections and http-server-drop-connections-in-cluster, but here nobody is dropped.
#[test]
fn who_comes_when_all_workers_have_their_fill_waits_until_somebody_goes() {
    for (dispatch, unix) in EVERY_WAY {
        let scratch = Scratch::new();
        let (mut cluster, connect) = limited(2, dispatch, unix, &scratch);
        let mut served: Vec<_> = (0..4).map(|_| greeted(&connect)).collect();
        let slots: Vec<_> = served.iter().map(|(_, who)| who.slot).collect();
        assert_eq!(slots.iter().filter(|slot| **slot == 0).count(), 2, "{dispatch} {slots:?}");
        // One at a time, for each worker in turn: whoever has room takes who waits.
        for slot in [0, 1, 1, 0] {
            let mut waiting = connect();
            let goes = served.iter().position(|(_, who)| who.slot == slot).unwrap();
            let (gone, _) = served.remove(goes);
            drop(gone);
            let who = waiting.greeting();
            assert_eq!(who.slot, slot, "{dispatch}");
            served.push((waiting, who));
        }
        cluster.signal(Signal::SIGTERM);
        drop(served);
        cluster.expect_exit(0);
        assert!(!cluster.log_text().contains("more connections than it may"), "{dispatch}");
    }
}

#[test]
fn many_that_come_at_once_to_workers_with_little_room_are_all_served_one_after_another() {
    for (dispatch, unix) in EVERY_WAY {
        let scratch = Scratch::new();
        let (mut cluster, connect) = limited(1, dispatch, unix, &scratch);
        let clients: Vec<_> = (0..40).map(|_| connect()).collect();
        let waiting: Vec<_> = clients.into_iter().map(|mut client| thread::spawn(move || client.greeting())).collect();
        let served: BTreeSet<_> = waiting.into_iter().map(|client| client.join().unwrap().slot).collect();
        assert_eq!(served.len(), 2, "{dispatch} unix={unix}");
        cluster.signal(Signal::SIGTERM);
        cluster.expect_exit(0);
        assert!(!cluster.log_text().contains("more connections than it may"), "{dispatch} unix={unix}");
    }
}

/// A connection is looked into before it is placed, and is neither served nor forgotten meanwhile.
#[test]
fn connections_that_are_placed_by_a_cookie_are_all_served_by_workers_with_little_room() {
    let mut cluster = ports("greet").env("COOKIE", "session").env("MAX", "1").start();
    let address = cluster.wait_ready();
    let ask = |session: usize| {
        thread::spawn(move || {
            let mut client = Client::tcp(address);
            client.say(&format!("GET / HTTP/1.1\r\ncookie: session={}\r\n\r\n", session % 4));
            client.greeting()
        })
    };
    let asked: Vec<_> = (0..40).map(ask).collect();
    for client in asked {
        client.join().expect("it is greeted");
    }
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    assert!(!cluster.log_text().contains("more connections than it may"));
}

/// In Node the port is closed with its last listener. Here who comes meanwhile waits.
#[test]
fn a_port_stays_bound_while_no_worker_listens_and_comes_back_with_who_waits_in_it() {
    for dispatch in ["balanced", "kernel", "round-robin"] {
        let scratch = Scratch::new();
        let gate = scratch.path("gate");
        let again = ports("again").env("GATE", gate.to_str().unwrap()).env("CLUSTER_DISPATCH", dispatch);
        let mut cluster = again.start();
        let address = cluster.wait_ready();
        let served: BTreeSet<_> = (0..2).map(|_| Client::tcp(address).greeting().slot).collect();
        assert_eq!(served.len(), 2, "each serves one and no more");
        cluster.wait_for("does not listen");
        cluster.wait_for("does not listen");
        let mut waiting: Vec<_> = (0..20).map(|_| Client::tcp(address)).collect();
        fs::write(&gate, "").unwrap();
        waiting.iter_mut().for_each(|client| _ = client.greeting());
        for _ in 0..2 {
            assert!(cluster.wait_for(": had ").ends_with(&format!("had {address} and has {address}")));
        }
        cluster.signal(Signal::SIGTERM);
        drop(waiting);
        cluster.expect_exit(0);
    }
}

/// The same on a Unix socket, whose file stays as well.
#[test]
fn a_unix_socket_stays_while_no_worker_listens_and_comes_back_with_who_waits_in_it() {
    let scratch = Scratch::new();
    let (path, gate) = (scratch.path("app.sock"), scratch.path("gate"));
    let again = ports("again").workers(1).env("ADDR", &at(&path)).env("GATE", gate.to_str().unwrap());
    let mut cluster = again.start();
    ready_on(&mut cluster);
    // Several at once: what the worker was given but had not taken yet when it dropped its listener is served, too.
    freeze(*cluster.wait_for_workers(1).first().unwrap());
    let mut waiting: Vec<_> = (0..20).map(|_| Client::at(&path)).collect();
    send(*cluster.workers().first().unwrap(), Signal::SIGCONT);
    waiting.remove(0).greeting();
    cluster.wait_for("does not listen");
    waiting.push(Client::at(&path));
    fs::write(&gate, "").unwrap();
    waiting.iter_mut().for_each(|client| _ = client.greeting());
    cluster.signal(Signal::SIGTERM);
    drop(waiting);
    cluster.expect_exit(0);
}

/// Those that wait in its queue are served by the one that stays, too.
#[test]
fn a_worker_that_leaves_and_is_not_replaced_closes_the_port_to_nobody_and_the_last_one_when_all_who_wait_are_served() {
    for (dispatch, unix) in EVERY_WAY {
        let scratch = Scratch::new();
        let launch = ports("stay").env("CLUSTER_RESTART", "never");
        let (mut cluster, connect) = reached(launch, dispatch, unix, &scratch);
        let queue_and_leave = |worker: Pid| {
            freeze(worker);
            let waiting: Vec<_> = (0..20).map(|_| connect().expect("somebody listens")).collect();
            send(worker, Signal::SIGTERM);
            send(worker, Signal::SIGCONT);
            waiting
        };
        let served = |who: Who, waiting: Vec<Client<_>>| {
            waiting.into_iter().map(|mut client| client.greeting()).filter(|served| *served == who).count()
        };

        let mut first = connect().expect("somebody listens");
        let leaver = first.greeting();
        let waiting = queue_and_leave(leaver.pid);
        _ = served(leaver, waiting);
        // It lives as long as its last client, and takes no others.
        let stayer = cluster.wait_until("connections to go elsewhere", |_| {
            Some(connect().expect("somebody listens").greeting()).filter(|who| *who != leaver)
        });
        drop(first);
        cluster.wait_for_workers(1);
        let after: Vec<_> = (0..40).map(|_| connect().expect("somebody listens")).collect();
        assert_eq!(served(stayer, after), 40, "{dispatch} unix={unix}");

        let mut last = connect().expect("somebody listens");
        assert_eq!(last.greeting(), stayer);
        let waiting = queue_and_leave(stayer.pid);
        assert_eq!(served(stayer, waiting), 20, "{dispatch} unix={unix}");
        // Its last client is still there. Who gets in at the last moment is served.
        let refused = cluster.wait_until("the port to be closed", |_| match connect() {
            Ok(mut client) => {
                client.greeting();
                None
            }
            Err(error) => Some(error.kind()),
        });
        let expected = [io::ErrorKind::ConnectionRefused, io::ErrorKind::NotFound];
        assert!(expected.contains(&refused), "{dispatch} unix={unix}: {refused}");
        assert_eq!(cluster.workers(), BTreeSet::from([stayer.pid]));
        drop(last);
        cluster.expect_exit(0);
    }
}

/// Those queues are still open when it is told to go, and the kernel gives them their share once it is not steered any more.
#[test]
fn nobody_who_gets_in_when_the_last_worker_leaves_is_lost_in_a_queue_of_one_that_has_left_before() {
    for dispatch in ["balanced", "kernel"].repeat(3) {
        let scratch = Scratch::new();
        let launch = ports("stay").workers(4).env("CLUSTER_RESTART", "never");
        let (mut cluster, connect) = reached(launch, dispatch, false, &scratch);
        let mut served = vec![connect().expect("somebody listens")];
        let last = served[0].greeting().pid;
        cluster.workers().into_iter().filter(|pid| *pid != last).for_each(|pid| send(pid, Signal::SIGKILL));
        cluster.wait_until("the primary to know", |cluster| {
            (cluster.log_text().matches("not restarted").count() == 3).then_some(())
        });
        send(last, Signal::SIGTERM);
        while let Ok(mut client) = connect() {
            client.greeting();
            served.push(client);
        }
        drop(served);
        cluster.wait_exit();
        cluster.expect_nothing_left();
    }
}

/// All of them look busy for ever, and nobody else is there.
#[test]
fn workers_that_always_have_something_to_do_are_given_connections_all_the_same() {
    for (dispatch, unix) in EVERY_WAY {
        let scratch = Scratch::new();
        let launch = ports("greet").env("SATURATED", "1");
        let (mut cluster, connect) = reached(launch, dispatch, unix, &scratch);
        let connect = || connect().expect("somebody listens");
        let mut many: Vec<_> = (0..50).map(|_| connect()).collect();
        many.iter_mut().for_each(|client| _ = client.greeting());
        drop(many);
        // The one that began later may have got them all, as it looked less busy.
        let mut slots = BTreeSet::new();
        cluster.wait_until("both to serve", |_| {
            slots.insert(greeted(&connect).1.slot);
            (slots.len() == 2).then_some(())
        });
        cluster.signal(Signal::SIGTERM);
        cluster.expect_exit(0);
    }
}

/// How connections reach a worker: by its own queue and from its sibling, from its queue alone, or from the primary.
const EVERY_WAY: [(&str, bool); 4] =
    [("balanced", false), ("kernel", false), ("round-robin", false), ("balanced", true)];

/// Somebody who is greeted.
struct Client<S> {
    stream: BufReader<S>,
    name: String,
}

impl Client<TcpStream> {
    #[track_caller]
    fn tcp(address: SocketAddr) -> Self {
        Self::over_tcp(TcpStream::connect_timeout(&address, DEADLINE).unwrap())
    }

    fn over_tcp(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let name = stream.local_addr().unwrap().to_string();
        Self { stream: BufReader::new(stream), name }
    }

    /// As the fixture calls it.
    fn name(&self) -> &str {
        &self.name
    }
}

impl Client<UnixStream> {
    #[track_caller]
    fn at(path: &Path) -> Self {
        Self::unix(UnixStream::connect(path).unwrap())
    }

    fn unix(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        Self { stream: BufReader::new(stream), name: String::new() }
    }
}

impl<S: Read + Write + Send + 'static> Client<S> {
    /// Waits for the worker to say who it is.
    #[track_caller]
    fn greeting(&mut self) -> Who {
        let mut line = String::new();
        self.stream.read_line(&mut line).expect("the worker greets");
        who::parse(line.trim_end())
    }

    fn say(&mut self, text: &str) {
        self.stream.get_mut().write_all(text.as_bytes()).unwrap();
    }

    fn boxed(self) -> Client<Box<dyn Stream>> {
        Client { stream: BufReader::new(Box::new(self.stream.into_inner())), name: self.name }
    }
}

trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

/// A UDP client.
struct Datagrams(UdpSocket);

impl Datagrams {
    fn to(address: SocketAddr) -> Self {
        let socket = UdpSocket::bind(("127.0.0.1", 0)).unwrap();
        socket.connect(address).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(socket)
    }

    fn send(&self, text: &str) {
        self.0.send(text.as_bytes()).unwrap();
    }

    /// An answer: who gave it, and to what.
    fn receive(&self) -> io::Result<(Who, String)> {
        let mut buffer = [0; 1500];
        let len = self.0.recv(&mut buffer)?;
        let answer = str::from_utf8(&buffer[..len]).unwrap();
        let (who, text) = answer.rsplit_once(' ').unwrap();
        Ok((who::parse(who), text.to_owned()))
    }

    #[track_caller]
    fn ask(&self, text: &str) -> Who {
        self.send(text);
        let (who, answered) = self.receive().expect("the worker answers");
        assert_eq!(answered, text);
        who
    }

    /// As clients do whose datagrams may be lost.
    #[track_caller]
    fn ask_until_answered(&self, text: &str) -> Who {
        let deadline = Instant::now() + DEADLINE;
        self.0.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
        loop {
            self.send(text);
            match self.receive() {
                Ok((who, _)) => return who,
                Err(error) => assert!(Instant::now() < deadline, "{error}"),
            }
        }
    }
}

fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

/// How `listen` is told of a Unix socket.
fn at(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// Waits until all workers are ready, and returns where, also where that is no internet address.
#[track_caller]
fn ready_on(cluster: &mut Cluster) -> String {
    let line = cluster.wait_for(" ready on ");
    let place = line.split(" ready on ").nth(1).and_then(|rest| rest.split("; try: ").next());
    place.unwrap_or_else(|| panic!("no address in {line:?}")).to_owned()
}

fn over(stream: UnixStream) -> Connection<UnixStream> {
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    Connection::over(stream)
}

#[track_caller]
fn over_unix(path: &Path) -> Connection<UnixStream> {
    over(UnixStream::connect(path).expect("somebody listens"))
}

/// [`who`] on a Unix socket.
#[track_caller]
fn who_at(path: &Path) -> Who {
    who::parse(&over_unix(path).get("/who").expect("the worker answers").body)
}

#[track_caller]
fn find_at(path: &Path, is_right: impl Fn(&Who) -> bool) -> Who {
    (0..1000).map(|_| who_at(path)).find(is_right).expect("the worker answers one of many connections")
}

/// Connects from a socket that has a file of its own.
fn connect_from(own: &Path, path: &Path) -> UnixStream {
    let socket = Socket::new(Domain::UNIX, Type::STREAM, None).unwrap();
    socket.bind(&SockAddr::unix(own).unwrap()).unwrap();
    socket.connect(&SockAddr::unix(path).unwrap()).unwrap();
    OwnedFd::from(socket).into()
}

/// Connects if that does not take waiting.
fn connect_now(path: &Path) -> io::Result<UnixStream> {
    let socket = Socket::new(Domain::UNIX, Type::STREAM.nonblocking(), None)?;
    socket.connect(&SockAddr::unix(path)?)?;
    socket.set_nonblocking(false)?;
    Ok(OwnedFd::from(socket).into())
}

/// Stops a process, and returns once it runs no more.
fn freeze(pid: Pid) {
    send(pid, Signal::SIGSTOP);
    let deadline = Instant::now() + DEADLINE;
    while !stat_of(pid).starts_with('T') {
        assert!(Instant::now() < deadline, "{pid} does not stop");
        thread::yield_now();
    }
}

/// What /proc says of a process, from its state on.
fn stat_of(pid: Pid) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Its name comes before, in brackets.
    stat.rsplit_once(") ").unwrap().1.to_owned()
}

/// The time that a process has been running on a processor.
fn cpu_time_of(pid: Pid) -> Duration {
    let stat = stat_of(pid);
    let ticks: u64 = stat.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    // Hundredths of a second, whatever the kernel itself counts in.
    Duration::from_millis(ticks * 10)
}

/// The same of this thread.
fn cpu_time() -> Duration {
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap().into()
}

/// A cluster of two workers that may have `most` connections each, and how to connect to it.
fn limited(
    most: usize,
    dispatch: &str,
    unix: bool,
    scratch: &Scratch,
) -> (Cluster, impl Fn() -> Client<Box<dyn Stream>> + use<>) {
    let (cluster, connect) = reached(ports("greet").env("MAX", &most.to_string()), dispatch, unix, scratch);
    (cluster, move || connect().expect("somebody listens"))
}

/// A cluster in one of the ways in which connections reach a worker, and how to connect to it.
fn reached(
    launch: Launch,
    dispatch: &str,
    unix: bool,
    scratch: &Scratch,
) -> (Cluster, impl Fn() -> io::Result<Client<Box<dyn Stream>>> + use<>) {
    let path = scratch.path("app.sock");
    let mut launch = launch.env("CLUSTER_DISPATCH", dispatch);
    if unix {
        launch = launch.env("ADDR", &at(&path));
    }
    let mut cluster = launch.start();
    let address: Option<SocketAddr> = ready_on(&mut cluster).parse().ok();
    let connect = move || match address {
        Some(address) => Ok(Client::over_tcp(TcpStream::connect_timeout(&address, DEADLINE)?).boxed()),
        None => Ok(Client::unix(UnixStream::connect(&path)?).boxed()),
    };
    (cluster, connect)
}

#[track_caller]
fn greeted(connect: &impl Fn() -> Client<Box<dyn Stream>>) -> (Client<Box<dyn Stream>>, Who) {
    let mut client = connect();
    let who = client.greeting();
    (client, who)
}

/// A listening socket, as a service manager makes it.
fn listening() -> (OwnedFd, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    (listener.into(), address)
}

/// Starts the fixture with two sockets as descriptors 3 and 4. The shell gets them in the place of others that it does without.
fn inheriting(launcher: &str, program: &str, address: &str, third: OwnedFd, fourth: OwnedFd) -> Launch {
    let command = format!("exec 3<&0 4<&2 </dev/null 2>&1; {launcher} {PORTS} {program}");
    let launch = Cluster::of("sh").args(["-c", &command]).env("ADDR", address);
    launch.with(|command| _ = command.stdin(third).stderr(fourth))
}

/// The same by the rules of socket activation, with `names` for the two.
fn activated(program: &str, address: &str, names: &str, third: OwnedFd, fourth: OwnedFd) -> Launch {
    // The shell becomes the program, so its number is the program's.
    let launcher = format!("export LISTEN_PID=$$ LISTEN_FDS=2 LISTEN_FDNAMES={names}; exec");
    inheriting(&launcher, program, address, third, fourth)
}

/// What tells a socket from others.
fn inode(socket: &OwnedFd) -> u64 {
    fstat(socket).unwrap().st_ino
}

/// The sockets that a process has open.
fn sockets_of(pid: Pid) -> BTreeSet<u64> {
    let number = |link: &Path| link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok();
    let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    open.filter_map(|entry| number(&fs::read_link(entry.path()).ok()?)).collect()
}
