//! Who serves a connection: every policy, what happens where a worker is stuck or missing, and that nothing is lost or left open
//! by a hand-over.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::time::{Duration, Instant};

use nix::unistd::Pid;
use socket2::{Domain, SockRef, Socket, Type};

use support::http::Connection;
use support::scratch::Scratch;
use support::who::{self, Who};
use support::{Cluster, DEADLINE, Launch, Signal, send};

const PLACEMENT: &str = env!("CARGO_BIN_EXE_placement");

#[test]
fn balanced_connections_that_come_one_by_one_to_idle_workers_are_spread_to_the_last_one() {
    let mut running = Running::start(policy("balanced").workers(8));
    let kept: Vec<Kept> = (0..64).map(|_| running.keep()).collect();
    assert_eq!(by_slot(kept.iter().map(|kept| kept.who.slot)), (0..8).map(|slot| (slot, 8)).collect());
    drop(kept);
    running.expect_nothing_open();
}

/// Mostly nobody has a connection any more when the next one comes, so that it stays where the kernel's hash has sent it: this
/// cannot be much more even than that.
#[test]
fn short_balanced_connections_reach_every_worker() {
    let running = Running::start(policy("balanced").workers(8));
    let slots = by_slot((0..800).map(|_| running.who().slot));
    assert_eq!(slots.len(), 8, "{slots:?}");
    assert!(slots.values().all(|count| (50..150).contains(count)), "{slots:?}");
}

#[test]
fn round_robin_serves_in_turn() {
    let mut running = Running::start(policy("round-robin").workers(4));
    let mut last = running.keep().who.slot;
    for _ in 0..16 {
        let next = running.keep().who.slot;
        assert_eq!(next, (last + 1) % 4);
        last = next;
    }
}

/// A thread that has nothing to do must be seen, also one that never had.
#[test]
fn the_policies_hold_for_workers_of_several_threads() {
    for name in ["balanced", "round-robin"] {
        let mut running = Running::start(policy(name).workers(4).env("CLUSTER_THREADS", "3"));
        let kept: Vec<Kept> = (0..32).map(|_| running.keep()).collect();
        let slots = by_slot(kept.iter().map(|kept| kept.who.slot));
        assert_eq!(slots, (0..4).map(|slot| (slot, 8)).collect(), "{name}");
    }
}

#[test]
fn round_robin_passes_a_busy_worker_over() {
    let mut running = Running::start(policy("round-robin").workers(4));
    let _spinning = running.spin_in(2);
    let mut last = running.keep().who.slot;
    for _ in 0..12 {
        let next = running.keep().who.slot;
        assert_eq!(next, if last == 1 { 3 } else { (last + 1) % 4 });
        last = next;
    }
}

#[test]
fn the_kernels_choice_is_final_where_that_is_the_policy() {
    let mut running = Running::start(policy("kernel").workers(4));
    let kept: Vec<_> = (0..200).map(|_| running.connection()).collect();
    let figures = running.figures();
    assert!(figures.values().all(|figures| figures.handed_over == 0), "{figures:?}");
    assert_eq!(figures.values().map(|figures| figures.open).sum::<u64>(), 200, "{figures:?}");
    assert_eq!(figures.values().map(|figures| figures.accepted).sum::<u64>(), 200, "{figures:?}");
    drop(kept);
    running.expect_nothing_open();
}

#[test]
fn a_sticky_client_stays_with_its_slot_and_many_fill_all_slots() {
    let running = Running::start(policy("sticky").workers(4));
    let clients = (2..66).map(|low| IpAddr::from([127, 0, 0, low]));
    let slots: BTreeMap<_, _> = clients.map(|client| (client, running.ask_from(client).slot)).collect();
    assert_eq!(by_slot(slots.values().copied()).len(), 4, "{slots:?}");
    for (client, slot) in slots.iter().chain(&slots) {
        assert_eq!(running.ask_from(*client).slot, *slot);
    }
}

#[test]
fn a_sticky_client_stays_with_its_slot_by_ipv6_and_by_ipv4_at_a_socket_for_both() {
    if std::net::TcpListener::bind("[::1]:0").is_err() {
        return support::skip("there is no IPv6");
    }
    let running = Running::start(policy("sticky").workers(4).env("ADDR", "[::]:0"));
    let clients = (2..34).map(|low| IpAddr::from([127, 0, 0, low])).chain([Ipv6Addr::LOCALHOST.into()]);
    let slots: BTreeMap<_, _> = clients.map(|client| (client, running.ask_from(client).slot)).collect();
    assert_eq!(by_slot(slots.values().copied()).len(), 4, "{slots:?}");
    for (client, slot) in slots.iter().chain(&slots) {
        assert_eq!(running.ask_from(*client).slot, *slot);
    }
}

/// Meanwhile they wait: another slot would be the wrong one.
#[test]
fn sticky_clients_of_a_killed_worker_find_its_replacement_and_no_others_move() {
    let holder = Holder::new();
    let mut running = Running::start(holder.hold(policy("sticky").workers(4)));
    let clients: Vec<_> = (2..34).map(|low| IpAddr::from([127, 0, 0, low])).collect();
    let before: BTreeMap<_, _> = clients.iter().map(|client| (*client, running.ask_from(*client))).collect();
    let victim = before[&clients[0]];
    running.kill(victim.pid);
    let (bereft, others): (Vec<_>, Vec<_>) = before.iter().partition(|(_, who)| who.slot == victim.slot);
    let mut waiting: Vec<_> = bereft.iter().map(|(client, _)| running.send_from(**client, GET_WHO)).collect();
    for (client, who) in &others {
        assert_eq!(running.ask_from(**client), **who, "{client} has moved");
    }
    holder.release();
    for connection in &mut waiting {
        let who = who::parse(&connection.answer().unwrap().body);
        assert_eq!((who.slot, who.id), (victim.slot, 5));
    }
    for (client, who) in before {
        assert_eq!(running.ask_from(client).slot, who.slot);
    }
}

#[test]
fn sticky_clients_of_a_slot_that_stays_empty_are_spread_over_the_others_and_nobody_else_moves() {
    let mut running = Running::start(policy("sticky").workers(4).env("CLUSTER_RESTART", "never"));
    let clients: Vec<_> = (2..130).map(|low| IpAddr::from([127, 0, 0, low])).collect();
    let before: BTreeMap<_, _> = clients.iter().map(|client| (*client, running.ask_from(*client))).collect();
    let victim = before[&clients[0]];
    running.kill(victim.pid);
    let after: BTreeMap<_, _> = clients.iter().map(|client| (*client, running.ask_from(*client))).collect();
    let (bereft, others): (Vec<_>, Vec<_>) = clients.iter().partition(|client| before[*client].slot == victim.slot);
    assert!(others.iter().all(|client| after[client] == before[client]));
    assert_eq!(by_slot(bereft.iter().map(|client| after[client].slot)).len(), 3);
    assert!(bereft.iter().all(|client| running.ask_from(*client) == after[client]));
}

#[test]
fn the_same_cookie_leads_to_the_same_slot_from_everywhere() {
    let running = Running::start(fixture("cookie").workers(4));
    same_name_same_slot(&running, "cookie: theme=dark; sid=");
}

/// There the primary accepts, and does not look.
#[test]
fn the_same_cookie_leads_to_the_same_slot_at_a_unix_socket() {
    let scratch = Scratch::new();
    let path = scratch.path("socket");
    let mut cluster = fixture("cookie").workers(4).env("ADDR", &format!("unix:{}", path.display())).start();
    cluster.wait_for(" ready on ");
    let ask = |name: usize| {
        let mut connection = Connection::over(unix(&path));
        connection.send(&get_with_cookie(&name.to_string())).unwrap();
        who::parse(&connection.answer().unwrap().body).slot
    };
    let slots: Vec<_> = (0..24).map(ask).collect();
    assert_eq!(by_slot(slots.iter().copied()).len(), 4, "{slots:?}");
    for _ in 0..4 {
        assert_eq!((0..24).map(ask).collect::<Vec<_>>(), slots);
    }
}

#[test]
fn the_same_header_leads_to_the_same_slot_from_everywhere() {
    let running = Running::start(fixture("header").workers(4));
    same_name_same_slot(&running, "X-User: ");
}

fn same_name_same_slot(running: &Running, line: &str) {
    let mut slots = BTreeSet::new();
    for name in 0..24 {
        let request = format!("GET /who HTTP/1.1\r\nhost: test\r\n{line}{name}\r\n\r\n");
        let clients = (2..6).map(|low| IpAddr::from([127, 0, 0, low]));
        let found: BTreeSet<_> = clients.map(|client| running.ask_by(client, &request).slot).collect();
        assert_eq!(found.len(), 1, "{line}{name}");
        slots.extend(found);
    }
    assert_eq!(slots.len(), 4);
}

#[test]
fn clients_known_by_a_cookie_move_only_if_their_slot_stays_empty() {
    let mut running = Running::start(fixture("cookie").workers(4).env("CLUSTER_RESTART", "never"));
    let ask = |running: &Running, name: usize| running.ask_by(LOCAL, &get_with_cookie(&name.to_string()));
    let before: Vec<_> = (0..64).map(|name| ask(&running, name)).collect();
    running.kill(before[0].pid);
    let after: Vec<_> = (0..64).map(|name| ask(&running, name)).collect();
    let (bereft, others): (Vec<_>, Vec<_>) = (0..64).partition(|name| before[*name].slot == before[0].slot);
    assert!(others.iter().all(|name| after[*name] == before[*name]));
    assert_eq!(by_slot(bereft.iter().map(|name| after[*name].slot)).len(), 3);
    assert!(bereft.iter().all(|name| ask(&running, *name) == after[*name]));
}

#[test]
fn a_client_without_the_cookie_is_known_by_its_address() {
    let running = Running::start(fixture("cookie").workers(4));
    let clients = (2..34).map(|low| IpAddr::from([127, 0, 0, low]));
    let slots: BTreeMap<_, _> = clients.map(|client| (client, running.ask_from(client).slot)).collect();
    assert_eq!(by_slot(slots.values().copied()).len(), 4, "{slots:?}");
    for (client, slot) in slots {
        let other_cookie = "GET /who HTTP/1.1\r\nhost: test\r\ncookie: side=1\r\n\r\n";
        assert_eq!(running.ask_by(client, other_cookie).slot, slot);
    }
}

#[test]
fn a_request_that_was_looked_at_arrives_whole() {
    let running = Running::start(fixture("cookie").workers(4));
    for name in 0..8 {
        let slot = running.ask_by(LOCAL, &get_with_cookie(&name.to_string())).slot;
        for length in [0, 1, 5_000, 300_000] {
            let body: String = (0..length).map(|nth| char::from(b'a' + (nth % 26) as u8)).collect();
            let head =
                format!("POST /echo HTTP/1.1\r\nhost: test\r\ncookie: sid={name}\r\ncontent-length: {length}\r\n\r\n");
            let mut connection = running.send_from(LOCAL, &(head + &body));
            assert!(connection.answer().unwrap().body == format!("{slot} {body}"), "of {length} bytes");
            // What comes later on the same connection is not looked at.
            connection.send(&get_with_cookie("another")).unwrap();
            assert_eq!(who::parse(&connection.answer().unwrap().body).slot, slot);
        }
    }
}

#[test]
fn a_head_in_several_packets_is_looked_at_as_a_whole() {
    let running = Running::start(fixture("cookie").workers(4));
    for name in 0..8 {
        let request = get_with_cookie(&name.to_string());
        let slot = running.ask_by(LOCAL, &request).slot;
        let mut connection = running.send_from(LOCAL, "");
        for piece in request.as_bytes().chunks(7) {
            connection.send(str::from_utf8(piece).unwrap()).unwrap();
        }
        assert_eq!(who::parse(&connection.answer().unwrap().body).slot, slot);
    }
}

#[test]
fn a_client_that_is_silent_at_first_is_known_by_its_address_and_served_when_it_speaks() {
    let running = Running::start(fixture("cookie").workers(4));
    let by_address = running.ask_from(LOCAL).slot;
    let names = (0..).map(|name| name.to_string());
    let elsewhere = names.map(|name| get_with_cookie(&name)).find(|get| running.ask_by(LOCAL, get).slot != by_address);
    let mut silent = running.stream_from(LOCAL);
    // The server says nothing for longer than it looks.
    silent.set_read_timeout(Some(Duration::from_millis(1_500))).unwrap();
    assert_eq!(silent.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock);
    silent.set_read_timeout(Some(DEADLINE)).unwrap();
    let mut connection = Connection::over(silent);
    connection.send(&elsewhere.unwrap()).unwrap();
    assert_eq!(who::parse(&connection.answer().unwrap().body).slot, by_address);
}

#[test]
fn clients_that_leave_before_they_are_placed_leave_nothing_behind() {
    let mut running = Running::start(fixture("cookie").workers(2));
    _ = running.who();
    let before = running.descriptors();
    for nth in 0..300 {
        let mut client = running.stream_from(LOCAL);
        if nth % 2 == 0 {
            client.write_all(b"GET /who HTT").unwrap();
        }
        // By a reset or in order.
        SockRef::from(&client).set_linger((nth % 4 < 2).then_some(Duration::ZERO)).unwrap();
    }
    running.expect_nothing_open();
    running.expect_descriptors(&before);
    _ = running.who();
}

/// Neither by those that look at it nor by the primary, which looks after slots that nobody serves.
#[test]
fn a_connection_for_a_slot_whose_worker_is_coming_waits_there_and_is_not_passed_around() {
    let holder = Holder::new();
    let mut running = Running::start(holder.hold(fixture("cookie").workers(4)));
    let request = get_with_cookie("name");
    let victim = running.ask_by(LOCAL, &request);
    let others = (0..).map(|name| get_with_cookie(&name.to_string()));
    let others = others.filter(|get| running.ask_by(LOCAL, get).slot != victim.slot).take(4).collect::<Vec<_>>();
    running.kill(victim.pid);
    let accepted = |running: &Running| running.figures().values().map(|figures| figures.accepted).sum::<u64>();
    let before = accepted(&running);
    let mut waiting: Vec<_> = (0..10).map(|_| running.send_from(LOCAL, &request)).collect();
    for other in others.iter().cycle().take(200) {
        assert_ne!(running.ask_by(LOCAL, other).slot, victim.slot);
    }
    holder.release();
    let ids = waiting.iter_mut().map(|connection| who::parse(&connection.answer().unwrap().body).id);
    assert_eq!(ids.collect::<BTreeSet<_>>(), BTreeSet::from([5]));
    // Each is accepted once where it arrives and once where it belongs.
    let accepted = accepted(&running) - before;
    assert!(accepted <= 2 * 210, "{accepted}");
}

#[test]
fn a_custom_policy_is_obeyed() {
    let running = Running::start(fixture("custom").workers(4));
    for low in (10..14).chain(10..14) {
        assert_eq!(running.ask_from([127, 0, 0, low].into()).slot, usize::from(low) - 10);
    }
    // It says nothing or nonsense of these.
    for low in [2, 14, 200] {
        running.ask_from([127, 0, 0, low].into());
    }
}

/// On a Unix socket the primary asks it, too.
#[test]
fn everybody_is_served_and_no_process_ends_although_a_custom_policy_panics() {
    let mut running = Running::start(fixture("panicking").workers(2));
    let workers = running.cluster.workers();
    let kept: Vec<_> = (0..20).map(|_| running.keep()).collect();
    assert_eq!(by_slot(kept.iter().map(|kept| kept.who.slot)), BTreeMap::from([(0, 10), (1, 10)]));
    assert_eq!(running.cluster.workers(), workers);
    running.cluster.signal(Signal::SIGTERM);
    drop(kept);
    running.cluster.expect_exit(0);

    let scratch = Scratch::new();
    let path = scratch.path("socket");
    let address = format!("unix:{}", path.display());
    let mut cluster = fixture("panicking").workers(2).env("ADDR", &address).start();
    cluster.wait_for(" ready on ");
    let workers = cluster.workers();
    let mut clients: Vec<_> = (0..40).map(|_| Connection::over(unix(&path))).collect();
    clients.iter_mut().for_each(|client| client.send(GET_WHO).unwrap());
    let slots = by_slot(clients.iter_mut().map(|client| who::parse(&client.answer().unwrap().body).slot));
    assert_eq!(slots.len(), 2, "{slots:?}");
    assert_eq!(cluster.workers(), workers);
    cluster.wait_logged("a bug where unix: is to be placed");
    cluster.signal(Signal::SIGTERM);
    drop(clients);
    cluster.expect_exit(0);
}

#[test]
fn who_is_sent_to_an_empty_slot_is_served_by_the_least_loaded_worker() {
    let mut running = Running::start(fixture("custom").workers(4).env("CLUSTER_RESTART", "never"));
    let victim = running.ask_from([127, 0, 0, 12].into());
    running.kill(victim.pid);
    let kept: Vec<_> = [10, 10, 10, 11, 13, 13].map(|low| running.keep_from([127, 0, 0, low].into())).into();
    assert_eq!(by_slot(kept.iter().map(|kept| kept.who.slot)), BTreeMap::from([(0, 3), (1, 1), (3, 2)]));
    let of_the_empty: Vec<_> = (0..3).map(|_| running.keep_from([127, 0, 0, 12].into())).collect();
    // To 3, 1, 2; then 3, 2, 2 and 3, 3, 2 or 3, 2, 3.
    assert_eq!(of_the_empty[0].who.slot, 1);
    let rest: BTreeSet<_> = of_the_empty[1..].iter().map(|kept| kept.who.slot).collect();
    assert_eq!(rest, BTreeSet::from([1, 3]));
}

/// That its queue is not its own to empty for once does not mean that its clients are anybody else's.
#[test]
fn who_is_sent_to_a_busy_slot_by_a_custom_policy_waits_there() {
    let scratch = Scratch::new();
    let release = scratch.path("release");
    let mut running = Running::start(fixture("custom").workers(2).env("RELEASE", release.to_str().unwrap()));
    let mut spinning = running.keep_from([127, 0, 0, 10].into()).connection;
    running.spin(0, &mut spinning);
    let mut waiting: Vec<_> = (0..20).map(|_| running.send_from([127, 0, 0, 10].into(), GET_WHO)).collect();
    for _ in 0..20 {
        assert_eq!(running.ask_from([127, 0, 0, 11].into()).slot, 1);
    }
    fs::write(release, "").unwrap();
    let slots = by_slot(waiting.iter_mut().map(|connection| who::parse(&connection.answer().unwrap().body).slot));
    assert_eq!(slots, BTreeMap::from([(0, 20)]));
}

#[test]
fn nobody_waits_behind_a_worker_that_is_busy_for_ever() {
    let mut running = Running::start(policy("balanced").workers(2));
    let _spinning = running.spin_in(0);
    for _ in 0..200 {
        assert_eq!(running.who().slot, 1);
    }
}

/// Some wait in its queue, others were handed to it as it has less to do.
#[test]
fn those_who_wait_already_when_a_worker_becomes_busy_for_ever_are_served_by_others() {
    let mut running = Running::start(policy("balanced").workers(2));
    let mut spinning = running.connection_to(0);
    running.settle();
    assert_eq!(spinning.get("/spin-next").unwrap().status, 200);
    running.settle();
    let pid = running.pid(0);
    // A sleeping worker is not a busy one, so it is sent its part. When it goes on, it looks at none of it.
    send(pid, Signal::SIGSTOP);
    let mut waiting: Vec<_> = (0..100).map(|_| running.send_from(LOCAL, GET_WHO)).collect();
    running.wait_figures("connections to be handed over", |figures| figures[&0].open > figures[&0].accepted);
    send(pid, Signal::SIGCONT);
    running.cluster.wait_for("spinning");
    for connection in &mut waiting {
        assert_eq!(who::parse(&connection.answer().unwrap().body).slot, 1);
    }
}

#[test]
fn who_comes_while_all_workers_are_busy_is_served_when_one_is_free() {
    let scratch = Scratch::new();
    let release = scratch.path("release");
    let launch = policy("balanced").workers(2).env("RELEASE", release.to_str().unwrap());
    let mut running = Running::start(launch);
    let mut spinning: Vec<_> = (0..2).map(|slot| running.spin_in(slot)).collect();
    let mut waiting: Vec<_> = (0..50).map(|_| running.send_from(LOCAL, GET_WHO)).collect();
    fs::write(release, "").unwrap();
    waiting.iter_mut().for_each(|connection| _ = connection.answer().unwrap());
    spinning.iter_mut().for_each(|connection| assert_eq!(connection.answer().unwrap().body, "released"));
    drop((waiting, spinning));
    running.expect_nothing_open();
}

#[test]
fn who_waits_for_a_missing_worker_is_served_by_one_that_is_busy_when_the_cluster_stops() {
    let scratch = Scratch::new();
    let release = scratch.path("release");
    let launch = policy("balanced").workers(2).env("RELEASE", release.to_str().unwrap());
    let mut running = Running::start(launch.env("CLUSTER_RESTART", "never"));
    let _spinning = running.spin_in(1);
    running.settle();
    let missing = running.pid(0);
    send(missing, Signal::SIGSTOP);
    let mut waiting: Vec<_> = (0..100).map(|_| running.send_from(LOCAL, GET_WHO)).collect();
    running.kill(missing);
    running.cluster.signal(Signal::SIGTERM);
    running.cluster.wait_logged("stopping within");
    fs::write(release, "").unwrap();
    let failed = waiting.iter_mut().filter_map(|connection| connection.answer().err()).collect::<Vec<_>>();
    assert!(failed.is_empty(), "{}: {:?}", failed.len(), failed[0]);
}

/// As long as its own queue is not empty for good: a worker that drains takes no connection after that.
#[test]
fn who_waits_for_a_worker_that_dies_while_the_cluster_stops_is_served_by_one_that_still_empties_its_queue() {
    for name in ["balanced", "kernel", "round-robin"] {
        let mut running = Running::start(policy(name).workers(2));
        running.settle();
        let [dying, other] = [0, 1].map(|slot| running.pid(slot));
        [dying, other].iter().for_each(|pid| send(*pid, Signal::SIGSTOP));
        let mut waiting: Vec<_> = (0..100).map(|_| running.send_from(LOCAL, GET_WHO)).collect();
        running.cluster.signal(Signal::SIGTERM);
        running.cluster.wait_logged("stopping within");
        send(dying, Signal::SIGKILL);
        running.cluster.wait_for("Exited");
        send(other, Signal::SIGCONT);
        for connection in &mut waiting {
            assert_eq!(who::parse(&connection.answer().unwrap().body).slot, 1, "{name}");
        }
        drop(waiting);
        running.cluster.wait_exit();
        running.cluster.expect_nothing_left();
    }
}

/// Its replacement starts, and never gets ready.
#[test]
fn nobody_waits_for_a_worker_that_is_coming_where_another_serves() {
    for name in ["balanced", "kernel", "round-robin"] {
        let holder = Holder::new();
        let mut running = Running::start(holder.hold(policy(name).workers(2)));
        running.kill(running.pid(0));
        for _ in 0..200 {
            assert_eq!(running.who().slot, 1, "{name}");
        }
    }
}

#[test]
fn nobody_waits_for_a_slot_that_stays_empty() {
    for name in ["balanced", "kernel", "round-robin", "sticky"] {
        let mut running = Running::start(policy(name).workers(2).env("CLUSTER_RESTART", "never"));
        running.kill(running.pid(0));
        for low in 2..202 {
            assert_eq!(running.ask_from([127, 0, 0, low].into()).slot, 1, "{name}");
        }
    }
}

#[test]
fn nobody_is_lost_in_a_slot_whose_worker_crashes_again_and_again() {
    for name in ["balanced", "kernel", "round-robin", "sticky"] {
        let mut running = Running::start(policy(name).workers(2).env("CRASHING", "1"));
        running.kill(running.pid(0));
        for pause in ["100ms", "200ms", "400ms"] {
            for low in 2..102 {
                assert_eq!(running.ask_from([127, 0, 0, low].into()).slot, 1, "{name}");
            }
            running.cluster.wait_logged(&format!("crashed (exit code 1); restarted in {pause}"));
        }
    }
}

/// The other slots have shards of it, too, which nobody will ever serve.
#[test]
fn all_clients_are_served_on_a_port_of_one_slot_beside_one_of_all_also_after_that_slots_worker_was_killed() {
    for name in ["balanced", "kernel", "round-robin", "sticky"] {
        // Another address, as on the same one the second port of slot 0 would be the first of others.
        let mut running = Running::start(policy(name).workers(3).env("SECOND", "127.0.0.2:0"));
        let all = running.address;
        let listed = running.cluster.wait_logged(" ready on ");
        let own = listed.split([' ', ',', ';']).find(|word| word.starts_with("127.0.0.2:"));
        let own: SocketAddr = own.unwrap_or_else(|| panic!("no second port in {listed:?}")).parse().unwrap();
        let ask_all = || {
            let clients = (2..62).map(|low| IpAddr::from([127, 0, 0, low]));
            let open = |(client, port)| {
                let mut connection = Connection::over(connect(client, port).unwrap());
                connection.send(GET_WHO).unwrap();
                (port == own, connection)
            };
            let mut open: Vec<_> = clients.flat_map(|client| [(client, all), (client, own)]).map(open).collect();
            let whos = open.iter_mut().map(|(is_own, one)| (*is_own, who::parse(&one.answer().unwrap().body)));
            whos.partition::<Vec<_>, _>(|(is_own, _)| *is_own)
        };
        let (of_the_one, _) = ask_all();
        assert!(of_the_one.iter().all(|(_, who)| (who.id, who.slot) == (1, 0)), "{name}: {of_the_one:?}");
        running.kill(of_the_one[0].1.pid);
        let (of_the_one, of_all) = ask_all();
        assert!(of_the_one.iter().all(|(_, who)| (who.id, who.slot) == (4, 0)), "{name}: {of_the_one:?}");
        assert!(of_all.iter().all(|(_, who)| who.id > 1), "{name}: {of_all:?}");
        running.expect_nothing_open();
    }
}

#[test]
fn nothing_that_was_handed_to_a_worker_is_lost_if_it_is_killed_before_it_looks() {
    for name in ["balanced", "round-robin"] {
        let mut running = Running::start(policy(name).workers(2));
        let before = running.descriptors()[&running.cluster.primary()];
        let victim = running.pid(0);
        send(victim, Signal::SIGSTOP);
        let mut waiting: Vec<_> = (0..100).map(|_| running.send_from(LOCAL, GET_WHO)).collect();
        running.wait_figures("connections to be handed over", |figures| {
            figures[&0].open > 10 && figures[&0].accepted == 0
        });
        send(victim, Signal::SIGKILL);
        waiting.iter_mut().for_each(|connection| _ = connection.answer().unwrap());
        drop(waiting);
        running.expect_nothing_open();
        running.cluster.wait_logged("Ready(WorkerId(3))");
        let primary = running.cluster.primary();
        running.expect_descriptors(&BTreeMap::from([(primary, before)]));
    }
}

#[test]
fn everybody_is_served_although_a_mailbox_is_full() {
    let mut running = Running::start(policy("round-robin").workers(2));
    running.settle();
    let stopped = running.pid(0);
    send(stopped, Signal::SIGSTOP);
    let mut waiting = Vec::new();
    // They come in turn, but for those that pass over a worker that is busy, as the stopped one never is; until it takes no more.
    // One by one, as many that come at once are one letter.
    while running.figures()[&1].open < running.figures()[&0].open + 20 {
        waiting.push(running.send_from(LOCAL, GET_WHO));
        let count = waiting.len() as u64;
        running.wait_figures("all to be placed", |figures| figures[&0].open + figures[&1].open == count);
    }
    send(stopped, Signal::SIGCONT);
    let slots = by_slot(waiting.iter_mut().map(|connection| who::parse(&connection.answer().unwrap().body).slot));
    assert_eq!(slots.len(), 2, "{slots:?}");
    drop(waiting);
    running.expect_nothing_open();
}

#[test]
fn nobody_is_refused_or_reset_if_one_of_several_stuck_workers_is_killed() {
    for round in 0..20 {
        let running = Running::start(policy("balanced").workers(4));
        let pids: Vec<_> = (0..4).map(|slot| running.pid(slot)).collect();
        pids.iter().for_each(|pid| send(*pid, Signal::SIGSTOP));
        let mut waiting: Vec<_> = (0..200).map(|_| running.send_from(LOCAL, GET_WHO)).collect();
        let victim = pids[round % 4];
        send(victim, Signal::SIGKILL);
        pids.iter().filter(|pid| **pid != victim).for_each(|pid| send(*pid, Signal::SIGCONT));
        let failed = waiting.iter_mut().filter_map(|connection| connection.answer().err()).collect::<Vec<_>>();
        assert!(failed.is_empty(), "in round {round}, {}: {:?}", failed.len(), failed[0]);
    }
}

#[test]
fn thousands_of_hand_overs_leave_no_descriptor_and_no_count_behind() {
    let mut running = Running::start(policy("balanced").workers(4));
    _ = running.who();
    let before = running.descriptors();
    let handed_over = |running: &Running| running.figures().values().map(|figures| figures.handed_over).sum::<u64>();
    while handed_over(&running) < 4_000 {
        let mut kept: Vec<_> = (0..64).map(|_| running.send_from(LOCAL, GET_WHO)).collect();
        kept.iter_mut().for_each(|connection| _ = connection.answer().unwrap());
    }
    running.expect_nothing_open();
    running.expect_descriptors(&before);
}

#[test]
fn thousands_of_connections_by_way_of_the_primary_leave_no_descriptor_and_no_count_behind() {
    let mut running = Running::start(policy("round-robin").workers(4));
    _ = running.who();
    let before = running.descriptors();
    for _ in 0..4_000 {
        _ = running.who();
    }
    running.expect_nothing_open();
    running.expect_descriptors(&before);
}

#[test]
fn an_idle_cluster_sleeps() {
    for name in ["balanced", "kernel", "round-robin", "sticky"] {
        expect_sleep(policy(name));
    }
}

#[test]
fn an_idle_cluster_sleeps_whose_workers_have_several_threads() {
    for name in ["balanced", "round-robin"] {
        expect_sleep(policy(name).env("CLUSTER_THREADS", "3"));
    }
}

fn expect_sleep(launch: Launch) {
    let mut running = Running::start(launch.workers(4));
    // Open connections are no reason to wake up, and neither are those that were.
    let _kept = (0..8).map(|_| running.keep()).collect::<Vec<_>>();
    _ = running.who();
    running.wait_quiet(Duration::from_secs(1));
}

const LOCAL: IpAddr = IpAddr::V4(std::net::Ipv4Addr::LOCALHOST);
const GET_WHO: &str = "GET /who HTTP/1.1\r\nhost: test\r\n\r\n";

fn get_with_cookie(name: &str) -> String {
    format!("GET /who HTTP/1.1\r\nhost: test\r\ncookie: sid={name}\r\n\r\n")
}

/// The fixture with a policy that the environment has a word for.
fn policy(name: &str) -> Launch {
    Cluster::of(PLACEMENT).env("CLUSTER_DISPATCH", name)
}

/// The fixture with a policy of its own.
fn fixture(name: &str) -> Launch {
    Cluster::of(PLACEMENT).args([name])
}

fn by_slot(slots: impl Iterator<Item = usize>) -> BTreeMap<usize, usize> {
    slots.fold(BTreeMap::new(), |mut counts, slot| {
        *counts.entry(slot).or_default() += 1;
        counts
    })
}

/// A fixture that runs, with all workers ready.
struct Running {
    cluster: Cluster,
    address: SocketAddr,
    figures: SocketAddr,
    /// Stuck workers, which nobody should wait for.
    stuck: BTreeSet<Pid>,
}

/// What the primary says of a slot's worker.
#[derive(Debug)]
struct Figures {
    pid: Pid,
    open: u64,
    accepted: u64,
    handed_over: u64,
}

/// An open connection and who serves it.
struct Kept {
    who: Who,
    connection: Connection,
}

impl Running {
    #[track_caller]
    fn start(launch: Launch) -> Self {
        let mut cluster = launch.start();
        let address = cluster.wait_ready();
        let line = cluster.wait_logged("figures on ");
        let figures = line.rsplit(' ').next().unwrap().parse().unwrap();
        Self { cluster, address, figures, stuck: BTreeSet::new() }
    }

    #[track_caller]
    fn figures(&self) -> BTreeMap<usize, Figures> {
        figures(self.figures)
    }

    #[track_caller]
    fn wait_figures(&mut self, what: &str, is_right: impl Fn(&BTreeMap<usize, Figures>) -> bool) {
        let desk = self.figures;
        self.cluster.wait_until(what, |_| is_right(&figures(desk)).then_some(()));
    }

    #[track_caller]
    fn expect_nothing_open(&mut self) {
        self.wait_figures("every connection to be closed", |figures| figures.values().all(|figures| figures.open == 0));
    }

    /// Waits until no worker has anything to do. What comes then comes to idle workers: none of them counts as busy because it
    /// has to wait for a processor.
    #[track_caller]
    fn settle(&mut self) {
        let Self { cluster, stuck, .. } = self;
        cluster.wait_until("all workers to sleep", |cluster| {
            cluster.workers().difference(stuck).all(|pid| is_asleep(*pid)).then_some(())
        });
    }

    /// Opens a connection while nobody has anything to do, and asks who serves it.
    #[track_caller]
    fn keep(&mut self) -> Kept {
        self.keep_from(LOCAL)
    }

    #[track_caller]
    fn keep_from(&mut self, client: IpAddr) -> Kept {
        self.settle();
        let mut connection = self.send_from(client, GET_WHO);
        Kept { who: who::parse(&connection.answer().unwrap().body), connection }
    }

    #[track_caller]
    fn who(&self) -> Who {
        self.ask_from(LOCAL)
    }

    /// Opens a connection that somebody serves.
    #[track_caller]
    fn connection(&self) -> Connection {
        let mut connection = self.send_from(LOCAL, GET_WHO);
        assert_eq!(connection.answer().unwrap().status, 200);
        connection
    }

    #[track_caller]
    fn ask_from(&self, client: IpAddr) -> Who {
        self.ask_by(client, GET_WHO)
    }

    #[track_caller]
    fn ask_by(&self, client: IpAddr, request: &str) -> Who {
        who::parse(&self.send_from(client, request).answer().unwrap().body)
    }

    /// Connects from this address, and sends this.
    #[track_caller]
    fn send_from(&self, client: IpAddr, request: &str) -> Connection {
        let mut connection = Connection::over(self.stream_from(client));
        connection.send(request).unwrap();
        connection
    }

    #[track_caller]
    fn stream_from(&self, client: IpAddr) -> TcpStream {
        let server = if client.is_ipv4() { LOCAL } else { Ipv6Addr::LOCALHOST.into() };
        connect(client, SocketAddr::new(server, self.address.port())).unwrap()
    }

    #[track_caller]
    fn connection_to(&self, slot: usize) -> Connection {
        let tries = (0..1000).map(|_| self.send_from(LOCAL, GET_WHO));
        let mut tries = tries.map(|mut connection| (who::parse(&connection.answer().unwrap().body).slot, connection));
        tries.find(|(found, _)| *found == slot).expect("the worker answers one of many").1
    }

    /// Makes the worker of `slot` busy; the connection is the one that it does not answer.
    #[track_caller]
    fn spin_in(&mut self, slot: usize) -> Connection {
        let mut connection = self.connection_to(slot);
        self.spin(slot, &mut connection);
        connection
    }

    /// The same by a connection that it serves already.
    #[track_caller]
    fn spin(&mut self, slot: usize, connection: &mut Connection) {
        self.stuck.insert(self.pid(slot));
        connection.send_get("/spin").unwrap();
        self.cluster.wait_for("spinning");
    }

    /// Kills a worker and waits until the primary knows.
    #[track_caller]
    fn kill(&mut self, worker: Pid) {
        send(worker, Signal::SIGKILL);
        self.cluster.wait_for("reason: Crashed");
    }

    fn pid(&self, slot: usize) -> Pid {
        self.figures()[&slot].pid
    }

    /// Open files of each process, once it has nothing to do.
    #[track_caller]
    fn descriptors(&mut self) -> BTreeMap<Pid, usize> {
        // A primary that looks after somebody holds what it looks after, and does so every few milliseconds.
        self.wait_quiet(Duration::from_millis(100));
        let processes = self.cluster.workers().into_iter().chain([self.cluster.primary()]);
        processes.map(|pid| (pid, fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count())).collect()
    }

    #[track_caller]
    fn expect_descriptors(&mut self, expected: &BTreeMap<Pid, usize>) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let found = self.descriptors();
            if expected.iter().all(|(pid, count)| found.get(pid) == Some(count)) {
                return;
            }
            assert!(Instant::now() < deadline, "open files were {expected:?} and are {found:?}");
        }
    }

    /// Waits until no process of the cluster has woken up for so long.
    #[track_caller]
    fn wait_quiet(&mut self, time: Duration) {
        let mut last = (Instant::now(), Vec::new());
        self.cluster.wait_until("all processes to sleep on", |cluster| {
            let switches: Vec<_> = cluster.workers().into_iter().chain([cluster.primary()]).map(switches).collect();
            if last.1 != switches {
                last = (Instant::now(), switches);
            }
            (last.0.elapsed() > time).then_some(())
        });
    }
}

/// Holds replacements back while it is there.
struct Holder {
    scratch: Scratch,
    listener: UnixListener,
}

impl Holder {
    fn new() -> Self {
        let scratch = Scratch::new();
        let listener = UnixListener::bind(scratch.path("holder")).unwrap();
        Self { scratch, listener }
    }

    fn hold(&self, launch: Launch) -> Launch {
        launch.env("HELD", self.scratch.path("holder").to_str().unwrap()).env("CLUSTER_START_TIMEOUT", "1h")
    }

    fn release(self) {
        drop(self.listener);
    }
}

/// By slot.
#[track_caller]
fn figures(desk: SocketAddr) -> BTreeMap<usize, Figures> {
    let mut text = String::new();
    TcpStream::connect(desk).unwrap().read_to_string(&mut text).unwrap();
    let parse = |line: &str| {
        let numbers: Vec<u64> = line.split(' ').map(|number| number.parse().unwrap()).collect();
        let [slot, pid, open, accepted, handed_over] = numbers[..] else { panic!("{line:?}") };
        (slot as usize, Figures { pid: Pid::from_raw(pid as i32), open, accepted, handed_over })
    };
    text.lines().map(parse).collect()
}

fn connect(from: IpAddr, to: SocketAddr) -> io::Result<TcpStream> {
    let socket = Socket::new(Domain::for_address(to), Type::STREAM, None)?;
    if from != LOCAL {
        socket.bind(&SocketAddr::new(from, 0).into())?;
    }
    // Closed by a reset: the port of a connection that was closed in order is not free again for a minute, and thousands are needed.
    socket.set_linger(Some(Duration::ZERO))?;
    socket.connect_timeout(&to.into(), DEADLINE)?;
    socket.set_read_timeout(Some(DEADLINE))?;
    socket.set_write_timeout(Some(DEADLINE))?;
    socket.set_tcp_nodelay(true)?;
    Ok(socket.into())
}

fn unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    stream
}

/// Whether every thread waits for something to do.
fn is_asleep(pid: Pid) -> bool {
    tasks(pid, "stat").iter().all(|stat| stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('S')))
}

/// How often the threads of a process went to sleep so far.
fn switches(pid: Pid) -> u64 {
    let count = |status: &String| {
        status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")?.trim().parse::<u64>().ok())
    };
    tasks(pid, "status").iter().filter_map(count).sum()
}

/// A file of /proc for each thread.
fn tasks(pid: Pid, file: &str) -> Vec<String> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks.filter_map(|task| fs::read_to_string(task.path().join(file)).ok()).collect()
}
