//! A worker drains: when each of its connections comes to its end, and how those that would last are told.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use axum::body::Body;
use futures_util::StreamExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};
use support::http::{Answer, Connection};
use support::{Cluster, DEADLINE, Signal, send, who};
use tokio_websockets::{ClientBuilder, CloseCode};

const WEB: &str = env!("CARGO_BIN_EXE_web");
const WEBSOCKET: &str = env!("CARGO_BIN_EXE_example-websocket");

/// One worker that spreads the end of its connections over two seconds.
fn spreading(program: &str) -> Cluster {
    Cluster::of(program).workers(1).env("ADDR", "127.0.0.1:0").env("CLUSTER_DRAIN_SPREAD", "2s").start()
}

/// The middle half of many moments that were drawn from two seconds lies in one of them; a tenth of that is far from one instant,
/// and no load makes it shorter.
#[track_caller]
fn expect_spread(mut ends: Vec<Instant>) {
    ends.sort();
    let middle = ends[ends.len() * 3 / 4] - ends[ends.len() / 4];
    assert!(middle > Duration::from_millis(100), "the middle half ended within {middle:?}");
}

fn kept(address: SocketAddr) -> Connection {
    let mut connection = Connection::open(address).unwrap();
    assert_eq!(connection.get("/who").unwrap().status, 200);
    connection
}

#[test]
fn connections_that_idle_end_one_after_another_and_those_that_ask_are_answered_until_their_turn() {
    let mut cluster = spreading(WEB);
    let address = cluster.wait_ready();
    let worker = *cluster.wait_for_workers(1).first().unwrap();
    let idle: Vec<_> = (0..40).map(|_| kept(address)).collect();
    let busy: Vec<_> = (0..20).map(|_| kept(address)).collect();
    let ended = AtomicUsize::new(0);
    let (ends, talks): (Vec<Instant>, Vec<Talk>) = thread::scope(|scope| {
        let talkers: Vec<_> = busy.into_iter().map(|connection| scope.spawn(|| talk(connection, &ended))).collect();
        let idlers: Vec<_> = idle
            .into_iter()
            .map(|mut connection| {
                let ended = &ended;
                scope.spawn(move || {
                    assert_eq!(connection.rest().unwrap(), "");
                    ended.fetch_add(1, Ordering::Relaxed);
                    Instant::now()
                })
            })
            .collect();
        send(worker, Signal::SIGTERM);
        let ends = idlers.into_iter().map(|idler| idler.join().unwrap()).collect();
        (ends, talkers.into_iter().map(|talker| talker.join().unwrap()).collect())
    });
    expect_spread(ends);
    let late = talks.iter().map(|talk| talk.ended_at_last_answer).max();
    assert!(late > Some(3), "answered as ever when others had ended: {talks:?}");
    expect_spread(talks.into_iter().map(|talk| talk.end).collect());
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// What came of asking without a pause.
#[derive(Debug)]
struct Talk {
    /// How many others had ended before the last request that was answered as ever.
    ended_at_last_answer: usize,
    end: Instant,
}

/// Asks until an answer closes the connection; each has to come.
fn talk(mut connection: Connection, ended: &AtomicUsize) -> Talk {
    let mut ended_at_last_answer = 0;
    loop {
        let before = ended.load(Ordering::Relaxed);
        let answer = connection.get("/who").expect("whoever asks is answered");
        assert_eq!(answer.status, 200);
        if answer.has_header("connection: close") {
            assert_eq!(connection.rest().unwrap(), "");
            return Talk { ended_at_last_answer, end: Instant::now() };
        }
        ended_at_last_answer = before;
        // Not so many that the worker has to do with nothing else.
        thread::sleep(Duration::from_millis(20));
    }
}

/// The drain begins while the request runs, and so long before most have their turn that the answer cannot know of it.
#[test]
fn before_its_turn_a_connection_is_served_as_ever_and_without_a_spread_every_answer_is_the_last() {
    for (spread, is_spread) in [("0s", false), ("12h", true)] {
        let launch = Cluster::of(WEB).workers(1).env("CLUSTER_GRACE", "24h").env("CLUSTER_DRAIN_SPREAD", spread);
        let mut cluster = launch.start();
        let address = cluster.wait_ready();
        let mut connections: Vec<_> = (0..10).map(|_| kept(address)).collect();
        for connection in &mut connections {
            connection.send_get("/health/at-drain").unwrap();
            cluster.wait_for("waits for the drain");
        }
        cluster.signal(Signal::SIGTERM);
        for connection in &mut connections {
            let answer = connection.answer().unwrap();
            assert_eq!(answer.has_header("connection: close"), !is_spread, "{spread}: {answer:?}");
            assert_eq!(answer.body, "false", "a worker that drains is not healthy");
            if is_spread {
                let next = connection.get("/health").unwrap();
                assert!(next.body == "false" && !next.has_header("connection: close"), "{next:?}");
            } else {
                assert_eq!(connection.rest().unwrap(), "");
            }
        }
        if is_spread {
            // Nobody waits for half a day.
            cluster.signal(Signal::SIGINT);
            cluster.expect_exit(130);
        } else {
            cluster.expect_exit(0);
        }
    }
}

#[test]
fn a_worker_that_serves_is_healthy() {
    let mut cluster = Cluster::of(WEB).start();
    let address = cluster.wait_ready();
    assert_eq!(support::http::body(address, "/health"), "true");
}

/// Two workers that go on serving for so long after TERM.
fn delayed(delay: &str) -> Cluster {
    Cluster::of(WEB).workers(2).env("CLUSTER_DRAIN_DELAY", delay).start()
}

/// The health check of a load balancer, on a connection of its own.
fn health(address: SocketAddr) -> io::Result<Answer> {
    Connection::open(address)?.get("/health")
}

/// Waits until both workers say that they are not healthy.
#[track_caller]
fn expect_unhealthy(cluster: &mut Cluster, kept: &mut [who::Kept]) {
    cluster.wait_until("no worker to be healthy", |_| {
        kept.iter_mut().all(|worker| worker.body("/health") == "false").then_some(())
    });
}

fn keep_both(address: SocketAddr) -> [who::Kept; 2] {
    [0, 1].map(|slot| who::keep(address, |who| who.slot == slot))
}

#[test]
fn after_term_newcomers_are_served_by_workers_that_are_not_healthy_until_the_delay_is_over() {
    const DELAY: Duration = Duration::from_secs(2);
    let mut cluster = delayed("2s");
    let address = cluster.wait_ready();
    let mut kept = keep_both(address);
    let begin = Instant::now();
    cluster.signal(Signal::SIGTERM);
    cluster.wait_for("serving on for 2s, then stopping");
    expect_unhealthy(&mut cluster, &mut kept);
    let mut served = 0;
    // Whatever is otherwise has to be later than the delay.
    let end = cluster.wait_until("newcomers to be refused", |_| {
        let answer = health(address);
        match answer {
            Ok(answer) if !answer.has_header("connection: close") => {
                assert_eq!((answer.status, answer.body.as_str()), (200, "false"));
                served += 1;
                None
            }
            _ => Some(begin.elapsed()),
        }
    });
    assert!(end >= DELAY && served > 0, "{end:?}, {served} served");
    cluster.expect_exit(0);
    assert!(cluster.log_text().contains("cluster: stopped"));
}

#[test]
fn ctrl_c_does_not_wait_for_the_delay() {
    let mut cluster = delayed("12h");
    cluster.wait_ready();
    cluster.signal(Signal::SIGINT);
    cluster.expect_exit(0);
}

#[test]
fn ctrl_c_during_the_delay_kills_at_once_and_another_term_does_not() {
    let mut cluster = delayed("12h");
    let address = cluster.wait_ready();
    let mut kept = keep_both(address);
    for _ in 0..2 {
        cluster.signal(Signal::SIGTERM);
        expect_unhealthy(&mut cluster, &mut kept);
        assert_eq!(health(address).unwrap().body, "false");
    }
    cluster.signal(Signal::SIGINT);
    cluster.expect_exit(130);
}

#[test]
fn a_worker_that_crashes_in_the_delay_is_not_replaced_and_the_other_serves_all_until_the_stop() {
    const DELAY: Duration = Duration::from_secs(3);
    let mut cluster = delayed("3s");
    let address = cluster.wait_ready();
    let [mut victim, survivor] = keep_both(address);
    let begin = Instant::now();
    cluster.signal(Signal::SIGTERM);
    let mut survivor = [survivor];
    expect_unhealthy(&mut cluster, &mut survivor);
    send(victim.ask().pid, Signal::SIGKILL);
    cluster.wait_for("Crashed");
    // Also those whom the kernel sends to the place that is empty.
    let end = cluster.wait_until("newcomers to be refused", |_| match health(address) {
        Ok(answer) if !answer.has_header("connection: close") => None,
        _ => Some(begin.elapsed()),
    });
    assert!(end >= DELAY, "{end:?}");
    cluster.expect_exit(0);
    assert!(!cluster.log_text().contains("WorkerId(3)"), "{}", cluster.log_text());
}

#[test]
fn when_every_worker_has_crashed_in_the_delay_the_stop_is_over() {
    let mut cluster = delayed("12h");
    let address = cluster.wait_ready();
    let mut kept = keep_both(address);
    cluster.signal(Signal::SIGTERM);
    expect_unhealthy(&mut cluster, &mut kept);
    for worker in cluster.workers() {
        send(worker, Signal::SIGKILL);
    }
    cluster.expect_exit(0);
    assert!(!cluster.log_text().contains("WorkerId(3)"), "{}", cluster.log_text());
}

#[test]
fn http2_connections_are_told_to_go_away_one_after_another() {
    let mut cluster = spreading(WEB);
    let address = cluster.wait_ready();
    in_time(async {
        let mut open = Vec::new();
        for _ in 0..40 {
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let (mut client, connection) =
                hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
            let ended = tokio::spawn(async move {
                connection.await.expect("it is told to go, and not cut");
                Instant::now()
            });
            let uri = format!("http://{address}/who");
            let answer = client.send_request(hyper::Request::builder().uri(uri).body(Body::empty()).unwrap()).await;
            assert_eq!(answer.unwrap().status(), 200);
            // Held: without it the client itself would close.
            open.push((client, ended));
        }
        cluster.signal(Signal::SIGTERM);
        let mut ends = Vec::new();
        for (_client, ended) in open {
            ends.push(ended.await.unwrap());
        }
        expect_spread(ends);
    });
    cluster.expect_exit(0);
}

#[test]
fn streams_of_events_say_goodbye_and_end_together_or_one_after_another_as_they_ask() {
    for (path, is_spread) in [("/events/together", false), ("/events/spread", true)] {
        let mut cluster = spreading(WEB);
        let address = cluster.wait_ready();
        let streams: Vec<_> = (0..40)
            .map(|_| {
                let mut stream = Connection::open(address).unwrap();
                stream.send_get(path).unwrap();
                assert_eq!(stream.head().unwrap().0, 200);
                assert_eq!(stream.chunk().unwrap().as_deref(), Some(&b"data: hello\n\n"[..]));
                stream
            })
            .collect();
        cluster.signal(Signal::SIGTERM);
        let followers = streams.into_iter().map(|mut stream| {
            thread::spawn(move || {
                assert_eq!(stream.chunk().unwrap().as_deref(), Some(&b"data: goodbye\n\n"[..]));
                let end = Instant::now();
                assert_eq!(stream.chunk().unwrap(), None, "the answer is whole");
                assert_eq!(stream.rest().unwrap(), "");
                end
            })
        });
        let followers: Vec<_> = followers.collect();
        let ends = followers.into_iter().map(|follower| follower.join().unwrap()).collect();
        if is_spread {
            expect_spread(ends);
        }
        cluster.expect_exit(0);
    }
}

#[test]
fn websockets_get_their_close_frame_one_after_another() {
    let mut cluster = spreading(WEBSOCKET);
    let address = cluster.wait_ready();
    in_time(async {
        let mut clients = Vec::new();
        for _ in 0..40 {
            let tcp = tokio::net::TcpStream::connect(address).await.unwrap();
            let (mut client, _) = ClientBuilder::new().uri("ws://localhost/").unwrap().connect_on(tcp).await.unwrap();
            assert!(client.next().await.unwrap().unwrap().as_text().unwrap().starts_with("hello from worker "));
            clients.push(client);
        }
        cluster.signal(Signal::SIGTERM);
        let told: Vec<_> = clients
            .into_iter()
            .map(|mut client| {
                tokio::spawn(async move {
                    let goodbye = client.next().await.unwrap().unwrap();
                    let end = Instant::now();
                    assert_eq!(goodbye.as_close(), Some((CloseCode::GOING_AWAY, "this worker leaves")));
                    assert!(client.next().await.is_none(), "the connection is closed, not reset");
                    end
                })
            })
            .collect();
        let mut ends = Vec::new();
        for client in told {
            ends.push(client.await.unwrap());
        }
        expect_spread(ends);
    });
    cluster.expect_exit(0);
}

fn in_time(test: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(DEADLINE, test).await }).expect("it ends in time");
}
