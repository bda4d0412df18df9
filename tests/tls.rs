//! TLS by `Port::tls`: whose sessions are resumed where, how a certificate is renewed, and what clients cannot do to it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::http::Connection;
use support::load::Load;
use support::release::Release;
use support::scratch::Scratch;
use support::tls::{Client, Identity, Pin, Visit};
use support::{Cluster, DEADLINE, Launch, Signal, skip};
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::version::{TLS12, TLS13};

const SECURE: &str = env!("CARGO_BIN_EXE_secure");

/// With the kernel's choice of a worker for each connection, so that clients come to all of them.
fn launch(identity: &Identity) -> Launch {
    identity.give_to(Cluster::of(SECURE)).workers(2).env("CLUSTER_DISPATCH", "kernel")
}

/// A client that has visited once, and the worker whose tickets it holds.
#[track_caller]
fn newcomer(client: Client, address: SocketAddr) -> (Client, u64) {
    let visit = client.visit(address).unwrap();
    assert!(!visit.is_resumed, "{visit:?}");
    (client, worker_of(&visit))
}

#[track_caller]
fn newcomers(count: usize, address: SocketAddr) -> Vec<Client> {
    (0..count).map(|_| newcomer(Client::new(&Pin::default()), address).0).collect()
}

/// Whether the client's session was resumed; both ends agree on that.
#[track_caller]
fn is_resumed(client: &Client, address: SocketAddr) -> bool {
    let visit = client.visit(address).unwrap();
    assert!(visit.answer.ends_with(&format!("resumed={}", visit.is_resumed)), "{visit:?}");
    visit.is_resumed
}

/// The id in `hello … from worker 2 (pid 812)…`.
#[track_caller]
fn worker_of(visit: &Visit) -> u64 {
    let id = visit.answer.split(" from worker ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok());
    id.unwrap_or_else(|| panic!("{visit:?}"))
}

fn closed(address: SocketAddr) -> BTreeMap<String, u64> {
    let mut connection = Connection::over(Client::new(&Pin::default()).connect(address).unwrap());
    let lines = connection.get("/closed").unwrap().body;
    lines
        .lines()
        .filter_map(|line| Some((line.split_once(' ')?.0.to_owned(), line.split_once(' ')?.1.parse().ok()?)))
        .collect()
}

#[track_caller]
fn expect_closed(cluster: &mut Cluster, address: SocketAddr, why: &str, count: u64) {
    let what = format!("{count} of {why}");
    cluster.wait_until(&what, |_| (closed(address)[why] == count).then_some(()));
}

#[track_caller]
fn stop(mut cluster: Cluster) {
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn the_line_that_says_where_it_listens_says_how_to_try_it() {
    let identity = Identity::new();
    let mut cluster = launch(&identity).start();
    let line = cluster.wait_for(" ready on ");
    assert!(line.contains("; try: curl --insecure https://127.0.0.1:"), "{line}");
    stop(cluster);
}

#[test]
fn a_handler_knows_the_clients_address_and_its_tls() {
    let identity = Identity::new();
    let mut cluster = launch(&identity).start();
    let address = cluster.wait_ready();
    let pin = Pin::default();
    let client = Client::with(&pin, &[&TLS13], &["http/1.1"]);
    let stream = client.connect(address).unwrap();
    let own = stream.sock.local_addr().unwrap();
    let greeting = Connection::over(stream).get("/").unwrap().body;
    assert!(greeting.starts_with(&format!("hello {own} from worker ")), "{greeting}");
    assert!(greeting.contains("Some(\"http/1.1\") Some(\"localhost\") Some(TLSv1_3) certificates=0"), "{greeting}");
    assert_eq!(pin.certificate(), Some(identity.certificate()));
    stop(cluster);
}

#[test]
fn a_client_and_the_server_agree_on_http_2_or_1_or_on_nothing() {
    let identity = Identity::new();
    let mut cluster = launch(&identity).start();
    let address = cluster.wait_ready();
    let pin = Pin::default();
    for (offered, agreed) in
        [(&["http/1.1"][..], Some("http/1.1")), (&["spdy/1", "http/1.1"], Some("http/1.1")), (&[], None)]
    {
        let stream = Client::with(&pin, &[&TLS13], offered).connect(address).unwrap();
        let mut connection = Connection::over(stream);
        let greeting = connection.get("/").unwrap().body;
        assert!(greeting.contains(&format!("): {agreed:?} ")), "{offered:?}: {greeting}");
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let greeting = runtime.block_on(async { tokio::time::timeout(DEADLINE, http2(&pin, address)).await }).unwrap();
    assert!(greeting.contains("): Some(\"h2\") "), "{greeting}");
    let other = Client::with(&pin, &[&TLS13], &["smtp"]).visit(address).unwrap_err();
    assert!(other.to_string().contains("NoApplicationProtocol"), "{other}");
    expect_closed(&mut cluster, address, "tls_closed_refused", 1);
    stop(cluster);
}

/// One GET by a client that offers both and would rather have HTTP/2.
async fn http2(pin: &Pin, address: SocketAddr) -> String {
    let connector = TlsConnector::from(Client::with(pin, &[&TLS13], &["h2", "http/1.1"]).config());
    let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
    let stream = connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let request = hyper::Request::get("https://localhost/").body(Empty::<Bytes>::new()).unwrap();
    let answer = sender.send_request(request).await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.version()), (200, hyper::Version::HTTP_2));
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

#[test]
fn a_session_of_one_worker_is_resumed_by_any_other_in_both_versions_of_tls() {
    let identity = Identity::new();
    let mut cluster = launch(&identity).workers(3).start();
    let address = cluster.wait_ready();
    for version in [&TLS12, &TLS13] {
        let mut moves = BTreeMap::new();
        cluster.wait_until("a session to move from each worker to each", |_| {
            let (client, issuer) = newcomer(Client::with(&Pin::default(), &[version], &[]), address);
            let visit = client.visit(address).unwrap();
            assert!(visit.is_resumed, "every session is resumed, wherever it comes: {visit:?}");
            moves.insert((issuer, worker_of(&visit)), ());
            (moves.len() == 9).then_some(())
        });
    }
    stop(cluster);
}

#[test]
fn sessions_are_resumed_after_a_reload() {
    let identity = Identity::new();
    let mut cluster = launch(&identity).start();
    let address = cluster.wait_ready();
    let old = newcomers(10, address);
    cluster.signal(Signal::SIGHUP);
    cluster.wait_for("reloaded: all workers");
    cluster.wait_for_workers(2);
    for client in &old {
        let visit = client.visit(address).unwrap();
        assert!(visit.is_resumed && worker_of(&visit) > 2, "{visit:?}");
    }
    stop(cluster);
}

#[test]
fn sessions_are_resumed_after_the_primary_has_become_another_program() {
    let release = Release::of(SECURE);
    let identity = Identity::new();
    let program = release.program();
    let launch = identity.give_to(Cluster::of(program.to_str().unwrap())).workers(2).env("CLUSTER_DISPATCH", "kernel");
    let mut cluster = launch.start();
    let address = cluster.wait_ready();
    let old = newcomers(20, address);
    release.deploy(SECURE);
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_for("cluster: upgraded");
    cluster.wait_for("reloaded: all workers");
    cluster.wait_for_workers(2);
    for client in &old {
        let visit = client.visit(address).unwrap();
        assert!(visit.is_resumed && worker_of(&visit) > 2, "{visit:?}");
    }
    stop(cluster);
}

/// The keys are rotated: a session is resumed after one rotation and refused after two.
#[test]
fn a_session_outlives_one_rotation_of_the_keys_and_not_two() {
    let identity = Identity::new();
    let mut cluster = launch(&identity).env("LIFETIME_MS", "2000").start();
    let address = cluster.wait_ready();
    // Whether a moment was hit in which nothing else than one rotation lies between is the clock's to say, so it is tried until it was.
    cluster.wait_until("a rotation between two visits", |_| {
        let mut old = newcomers(100, address);
        let mut recent = newcomers(1, address);
        while let Some(client) = old.pop() {
            let younger = newcomers(1, address);
            if !is_resumed(&client, address) {
                // The second rotation is just over. When `recent` came, it was not.
                return is_resumed(&recent[0], address).then_some(());
            }
            recent = younger;
            pause(Duration::from_millis(50));
        }
        None
    });
    stop(cluster);
}

/// However much sooner a rotation reaches one worker than another.
#[test]
fn no_rotation_costs_a_client_its_session_that_comes_back_soon_enough() {
    let lifetime = Duration::from_secs(1);
    let identity = Identity::new();
    let mut cluster = launch(&identity).workers(3).env("LIFETIME_MS", "1000").start();
    let address = cluster.wait_ready();
    let mut old = newcomers(50, address);
    cluster.wait_until("two rotations", |_| {
        for _ in 0..5 {
            let came = Instant::now();
            let client = newcomers(1, address).remove(0);
            assert!(is_resumed(&client, address) || came.elapsed() >= lifetime);
            pause(Duration::from_millis(5));
        }
        // One that is no longer resumed tells that two are over.
        (!is_resumed(&old.pop().expect("fifty rounds last longer"), address)).then_some(())
    });
    stop(cluster);
}

#[test]
fn a_session_is_not_resumed_in_another_scope() {
    let place = Scratch::new();
    let scope = place.path("scope");
    fs::write(&scope, "v1").unwrap();
    let identity = Identity::new();
    let mut cluster = launch(&identity).env("SCOPE_FILE", scope.to_str().unwrap()).start();
    let address = cluster.wait_ready();
    let old = newcomers(5, address);
    assert!(old.iter().all(|client| is_resumed(client, address)));
    fs::write(&scope, "v2").unwrap();
    cluster.signal(Signal::SIGHUP);
    cluster.wait_for("reloaded: all workers");
    cluster.wait_for_workers(2);
    assert!(old.iter().all(|client| !is_resumed(client, address)));
    stop(cluster);
}

#[test]
fn with_a_config_of_the_users_own_clients_are_known_by_their_certificates_at_any_worker() {
    let (identity, client) = (Identity::new(), Identity::new());
    let mut cluster = launch(&identity).env("LET_IN", client.file().to_str().unwrap()).start();
    let address = cluster.wait_ready();
    let known = Client::known_as(&client);
    let mut workers = BTreeSet::new();
    let first = known.visit(address).unwrap();
    assert!(!first.is_resumed && first.answer.contains("certificates=1"), "{first:?}");
    cluster.wait_until("a visit to each worker", |_| {
        let visit = known.visit(address).unwrap();
        assert!(visit.is_resumed && visit.answer.contains("certificates=1"), "{visit:?}");
        workers.insert(worker_of(&visit));
        (workers.len() == 2).then_some(())
    });
    for stranger in [Client::new(&Pin::default()), Client::known_as(&Identity::new())] {
        stranger.visit(address).unwrap_err();
    }
    // Those that are let in are asked, and nobody else is there to ask.
    let mut connection = Connection::over(known.connect(address).unwrap());
    cluster.wait_until("both strangers to be counted", |_| {
        connection.get("/closed").unwrap().body.contains("tls_closed_refused 2\n").then_some(())
    });
    stop(cluster);
}

#[test]
fn a_renewed_certificate_is_served_after_a_reload_and_no_request_fails() {
    let mut identity = Identity::new();
    let first = identity.certificate().to_vec();
    let mut cluster = launch(&identity).start();
    let address = cluster.wait_ready();
    let served = |address| {
        let pin = Pin::default();
        Client::new(&pin).visit(address).unwrap();
        pin.certificate().unwrap().to_vec()
    };
    assert!(served(address) == first);
    let connect = move || Ok(Connection::over(Client::new(&Pin::default()).connect(address)?));
    let loads = [Load::start_over(2, "/", connect), Load::start_keep_alive_over(2, "/", connect)];
    let mut kept = connect().unwrap();
    kept.send_get("/slow/2000").unwrap();
    cluster.wait_for("slow request begins");
    let second = identity.renew().to_vec();
    assert!(served(address) == first, "nobody has asked for the new one");
    cluster.signal(Signal::SIGHUP);
    cluster.wait_for("reloaded: all workers");
    assert_eq!(kept.answer().unwrap().body, "slept 2000");
    assert_eq!(kept.rest().unwrap(), "", "it is closed as TLS has it, and not cut off");
    // Those of before serve what waits for them while they go.
    cluster.wait_for_workers(2);
    for _ in 0..20 {
        assert!(served(address) == second, "it is the new one");
    }
    for load in loads {
        let (served, failures) = load.stop();
        assert!(served > 0 && failures.is_empty(), "{served} served, {failures:?}");
    }
    stop(cluster);
}

#[test]
fn with_files_that_are_no_certificate_the_start_fails_clearly() {
    let identity = Identity::new();
    identity.put("no PEM at all\n");
    let mut cluster = launch(&identity).workers(1).start();
    let line = cluster.wait_for("there is no certificate in");
    assert!(line.contains(identity.file().to_str().unwrap()) && line.contains("BEGIN CERTIFICATE"), "{line}");
    cluster.expect_exit(3);
}

#[test]
fn a_reload_with_files_that_are_no_certificate_is_abandoned_and_the_old_ones_go_on() {
    let identity = Identity::new();
    let mut cluster = launch(&identity).start();
    let address = cluster.wait_ready();
    let before = cluster.workers();
    identity.put("");
    cluster.signal(Signal::SIGHUP);
    cluster.wait_for("there is no certificate in");
    cluster.wait_logged("reload abandoned");
    assert_eq!(cluster.wait_for_workers(2), before);
    let pin = Pin::default();
    Client::new(&pin).visit(address).unwrap();
    assert_eq!(pin.certificate(), Some(identity.certificate()));
    stop(cluster);
}

#[test]
fn a_user_who_may_not_read_the_key_is_told_so() {
    if !nix::unistd::geteuid().is_root() {
        return skip("only root may change the user");
    }
    let (identity, place) = (Identity::new(), Scratch::new());
    // Where the target directory is, that user may not be.
    let program = place.path("app");
    fs::copy(SECURE, &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::set_permissions(identity.file(), fs::Permissions::from_mode(0o600)).unwrap();
    let start = || {
        let launch = identity.give_to(Cluster::of(program.to_str().unwrap())).workers(1);
        launch.env("DROP_TO", "nobody").with(|command| _ = command.current_dir("/")).start()
    };
    let mut cluster = start();
    let line = cluster.wait_for("cannot read the certificate");
    let user = "each worker reads it, as user 65534, who must be allowed to read it";
    assert!(line.contains(identity.file().to_str().unwrap()) && line.contains(user), "{line}");
    cluster.expect_exit(3);
    fs::set_permissions(identity.file(), fs::Permissions::from_mode(0o604)).unwrap();
    let mut cluster = start();
    let address = cluster.wait_ready();
    Client::new(&Pin::default()).visit(address).unwrap();
    stop(cluster);
}

#[test]
fn what_does_not_shake_hands_is_refused_with_the_remedy() {
    for server in ["listen", "udp"] {
        let identity = Identity::new();
        let mut cluster = launch(&identity).workers(1).env("SERVER", server).start();
        cluster.wait_for("make an acceptor by Tls::acceptor()");
        cluster.expect_exit(3);
    }
}

/// What a client sends in place of a handshake, and how often it does.
fn odd_clients() -> Vec<(&'static str, Vec<u8>)> {
    let hello = client_hello();
    vec![
        ("silence", Vec::new()),
        ("one byte", hello[..1].to_vec()),
        ("half a hello", hello[..hello.len() / 2].to_vec()),
        ("all but its last byte", hello[..hello.len() - 1].to_vec()),
        ("a hello and no more", hello.clone()),
        ("a large record that never comes whole", [&[22, 3, 1, 0x3f, 0xff][..], &[1; 1000]].concat()),
    ]
}

/// The first that a sound client sends.
fn client_hello() -> Vec<u8> {
    let config = Client::new(&Pin::default()).config();
    let mut client = tokio_rustls::rustls::ClientConnection::new(config, "localhost".try_into().unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}

/// Waits until the server has closed.
fn wait_closed(mut client: &TcpStream) -> io::Result<()> {
    client.set_read_timeout(Some(DEADLINE)).unwrap();
    match client.read_to_end(&mut Vec::new()) {
        // What was not read at the other end makes a reset of a close.
        Err(error) if error.kind() != ErrorKind::ConnectionReset => Err(error),
        Ok(_) | Err(_) => Ok(()),
    }
}

#[test]
fn who_does_not_shake_hands_in_time_is_closed_and_counted_and_not_logged() {
    let identity = Identity::new();
    let mut cluster = launch(&identity).env("HANDSHAKE_MS", "1500").start();
    let address = cluster.wait_ready();
    let lines = cluster.log_text().lines().count();
    let clients = odd_clients().into_iter().cycle().take(60).map(|(what, bytes)| {
        let mut client = TcpStream::connect(address).unwrap();
        client.write_all(&bytes).unwrap();
        (what, client)
    });
    let clients: Vec<_> = clients.collect();
    // Others are served as ever.
    assert!(Client::new(&Pin::default()).visit(address).unwrap().answer.contains("hello "));
    for (what, client) in &clients {
        wait_closed(client).unwrap_or_else(|error| panic!("{what}: {error}"));
    }
    expect_closed(&mut cluster, address, "tls_closed_handshake_timeout", 60);
    assert_eq!(cluster.log_text().lines().count(), lines, "{}", cluster.log_text());
    stop(cluster);
}

#[test]
fn a_hello_that_comes_byte_by_byte_is_not_waited_for_longer() {
    let identity = Identity::new();
    let mut cluster = launch(&identity).env("HANDSHAKE_MS", "1000").start();
    let address = cluster.wait_ready();
    let mut client = TcpStream::connect(address).unwrap();
    let hello = client_hello();
    let sent = hello.iter().take_while(|byte| {
        pause(Duration::from_millis(20));
        client.write_all(&[**byte]).is_ok()
    });
    let sent = sent.count();
    assert!(sent < hello.len(), "the server has read all {sent} bytes, and waited for longer than it may");
    expect_closed(&mut cluster, address, "tls_closed_handshake_timeout", 1);
    stop(cluster);
}

#[test]
fn plain_http_and_noise_are_closed_at_once_and_counted_and_not_logged() {
    let identity = Identity::new();
    let mut cluster = launch(&identity).env("HANDSHAKE_MS", "600000").start();
    let address = cluster.wait_ready();
    let lines = cluster.log_text().lines().count();
    let odd = [
        b"GET / HTTP/1.1\r\nhost: test\r\n\r\n".to_vec(),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec(),
        (0..4096_u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect(),
        // No record is so large.
        vec![22, 3, 1, 0xff, 0xff, 1],
        // A record of nothing that belongs to a handshake.
        vec![23, 3, 3, 0, 4, 1, 2, 3, 4],
    ];
    for _ in 0..10 {
        for bytes in &odd {
            let mut client = TcpStream::connect(address).unwrap();
            client.write_all(bytes).unwrap();
            wait_closed(&client).unwrap_or_else(|error| panic!("{bytes:?}: {error}"));
        }
    }
    expect_closed(&mut cluster, address, "tls_closed_malformed", 60);
    assert_eq!(cluster.log_text().lines().count(), lines, "{}", cluster.log_text());
    stop(cluster);
}

#[test]
fn of_too_many_who_shake_hands_the_one_who_has_taken_longest_is_pushed_out() {
    let identity = Identity::new();
    let mut cluster = launch(&identity).workers(1).env("MOST_HANDSHAKES", "5").env("HANDSHAKE_MS", "600000").start();
    let address = cluster.wait_ready();
    let connect = |_| TcpStream::connect(address).unwrap();
    let silent: Vec<_> = (0..8).map(connect).collect();
    // Accepted after all of them.
    assert!(Client::new(&Pin::default()).visit(address).unwrap().answer.contains("hello "));
    for client in &silent[..4] {
        wait_closed(client).unwrap();
    }
    let counted = closed(address)["tls_closed_pushed_out"];
    assert!((4..=5).contains(&counted), "{counted}");
    silent[7].set_nonblocking(true).unwrap();
    assert_eq!((&silent[7]).read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock, "the youngest still may");
    stop(cluster);
}

#[test]
fn after_the_handshake_the_limits_of_http_hold() {
    let identity = Identity::new();
    let mut cluster = launch(&identity).env("LIMITS_MS", "5000").start();
    let address = cluster.wait_ready();
    let connect = || Connection::over(Client::new(&Pin::default()).connect(address).unwrap());
    let (mut head, mut body, mut idle, mut deaf) = (connect(), connect(), connect(), connect());
    deaf.send_get("/much").unwrap();
    head.send("GET / HTTP/1.1\r\nhost: te").unwrap();
    body.send("POST /length HTTP/1.1\r\nhost: test\r\ncontent-length: 100000\r\n\r\nso far").unwrap();
    assert_eq!(idle.get("/").unwrap().status, 200);
    // Each is told in HTTP, and the end in TLS.
    assert!(head.rest().unwrap().starts_with("HTTP/1.1 408 "));
    assert!(body.rest().unwrap().starts_with("HTTP/1.1 408 "));
    assert_eq!(idle.rest().unwrap(), "");
    for why in [
        "http_closed_head_timeout",
        "http_closed_body_timeout",
        "http_closed_idle_timeout",
        "http_closed_write_timeout",
    ] {
        expect_closed(&mut cluster, address, why, 1);
    }
    stop(cluster);
}

#[test]
fn a_stop_finishes_what_runs_says_goodbye_in_tls_and_does_not_wait_for_a_handshake_that_hangs() {
    let identity = Identity::new();
    let launch = launch(&identity).workers(1).env("HANDSHAKE_MS", "600000").env("CLUSTER_GRACE", "60s");
    let mut cluster = launch.start();
    let address = cluster.wait_ready();
    let _silent = TcpStream::connect(address).unwrap();
    let connect = || Connection::over(Client::new(&Pin::default()).connect(address).unwrap());
    let (mut idle, mut running) = (connect(), connect());
    assert_eq!(idle.get("/").unwrap().status, 200);
    running.send_get("/slow/1000").unwrap();
    cluster.wait_for("slow request begins");
    cluster.signal(Signal::SIGTERM);
    // It fails if the server hangs up without close_notify.
    assert_eq!(idle.rest().unwrap(), "");
    assert_eq!(running.answer().unwrap().body, "slept 1000");
    assert_eq!(running.rest().unwrap(), "");
    cluster.expect_exit(0);
    let log = cluster.log_text();
    assert!(!log.contains("cut what was still open"), "{log}");
}

#[test]
fn a_protocol_of_its_own_speaks_tls_with_the_same_sessions_and_the_same_limits() {
    let identity = Identity::new();
    let launch = launch(&identity).env("SERVER", "echo").env("HANDSHAKE_MS", "1000");
    let mut cluster = launch.start();
    let address = cluster.wait_ready();
    let pin = Pin::default();
    let client = Client::with(&pin, &[&TLS13], &["echo"]);
    let mut kinds = Vec::new();
    for _ in 0..10 {
        let mut stream = client.connect(address).unwrap();
        stream.write_all(b"be heard").unwrap();
        let mut heard = [0; 8];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"be heard");
        kinds.push(format!("{:?}", stream.conn.handshake_kind().unwrap()));
        stream.conn.send_close_notify();
        stream.flush().unwrap();
        assert_eq!(stream.read(&mut heard).unwrap(), 0, "close_notify answers close_notify");
    }
    assert!(kinds[0] == "Full" && kinds[1..].iter().all(|kind| kind == "Resumed"), "{kinds:?}");
    wait_closed(&TcpStream::connect(address).unwrap()).unwrap();
    stop(cluster);
}

#[test]
fn many_clients_at_once_all_come_through() {
    let identity = Identity::new();
    let mut cluster = launch(&identity).start();
    let address = cluster.wait_ready();
    let pin = Arc::new(Pin::default());
    let visits = (0..4).map(|_| {
        let pin = Arc::clone(&pin);
        thread::spawn(move || (0..50).map(|_| Client::new(&pin).visit(address).unwrap()).count())
    });
    let visits: Vec<_> = visits.collect();
    assert_eq!(visits.into_iter().map(|visit| visit.join().unwrap()).sum::<usize>(), 200);
    stop(cluster);
}

/// Between two looks; nothing depends on its length.
fn pause(length: Duration) {
    thread::sleep(length);
}
