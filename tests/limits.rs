//! What one HTTP client may hold: every limit of `Http`, what well-behaved clients may still do, and how each end is counted.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::thread;
use std::time::Duration;

use support::http::{self, Connection};
use support::http2::{
    CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, Http2, PING, RST_STREAM, SETTINGS, head,
};
use support::{Cluster, DEADLINE, Signal};

const LIMITS: &str = env!("CARGO_BIN_EXE_limits");
/// More than all buffers between a server and its client hold.
const HUGE: &str = "65536";
/// What the RFC says.
const WINDOW: u32 = 65_535;

/// A server with these limits; the others are far away.
fn serve(limits: &str) -> (Cluster, SocketAddr) {
    let mut cluster = Cluster::of(LIMITS).env("HTTP", limits).start();
    let address = cluster.wait_ready();
    (cluster, address)
}

/// Waits until so many have been ended for these reasons, and none for any other.
#[track_caller]
fn expect_closed(cluster: &mut Cluster, address: SocketAddr, expected: &[(&str, u64)]) {
    cluster.wait_until(&format!("{expected:?} to be counted"), |_| {
        let text = http::body(address, "/closed");
        let counted = text.lines().map(|line| line.split_once(' ').unwrap());
        let mut counted = counted.filter(|(_, count)| *count != "0").map(|(why, count)| (why, count.parse().unwrap()));
        let all: Vec<(&str, u64)> = counted.by_ref().collect();
        let excess = all.iter().find(|(why, count)| {
            let most = expected.iter().find(|(expected, _)| expected == why).map_or(0, |(_, most)| *most);
            *count > most
        });
        assert_eq!(excess, None, "beyond {expected:?}");
        (all.len() == expected.len() && all.iter().all(|it| expected.contains(it))).then_some(())
    });
}

/// Waits until the server has let go of all answers.
#[track_caller]
fn expect_nothing_held(cluster: &mut Cluster, address: SocketAddr) {
    cluster.wait_until("answers to be let go", |_| (http::body(address, "/held") == "0").then_some(()));
}

/// Between two steps of a slow client; limits are at least four times as long.
fn step() {
    thread::sleep(Duration::from_millis(500));
}

const STEPS: usize = 8;

#[test]
fn half_a_head_is_answered_with_408_and_nothing_with_nothing() {
    let (mut cluster, address) = serve("header=300,idle=400");
    for begin in ["GET / HTTP/1.1\r\nho", "P", "PRI * HTTP/2.0\r\n\r\nSM", "POST / HTTP/1.1\r\nhost: test\r\n\r"] {
        let mut half = Connection::open(address).unwrap();
        half.send(begin).unwrap();
        let (status, headers) = half.head().unwrap();
        assert_eq!(status, 408, "{begin:?}");
        assert!(headers.iter().any(|line| line == "connection: close"));
        assert_eq!(half.rest().unwrap(), "");
    }
    assert_eq!(Connection::open(address).unwrap().rest().unwrap(), "");
    let mut idle = Connection::open(address).unwrap();
    idle.get("/").unwrap();
    assert_eq!(idle.rest().unwrap(), "");
    expect_closed(&mut cluster, address, &[("HeadTimeout", 4), ("IdleTimeout", 2)]);
}

#[test]
fn a_head_that_drips_is_not_waited_for_and_one_after_another_answer_neither() {
    let (mut cluster, address) = serve("header=1000");
    let mut connection = Connection::open(address).unwrap();
    connection.get("/").unwrap();
    let head = "GET / HTTP/1.1\r\nhost: test\r\nx: y";
    let is_cut = head.chars().chain(std::iter::repeat('z')).take(400).any(|letter| {
        thread::sleep(Duration::from_millis(50));
        connection.send(&letter.to_string()).is_err()
    });
    assert!(is_cut, "it dripped for 20 s");
    expect_closed(&mut cluster, address, &[("HeadTimeout", 1)]);
}

#[test]
fn a_body_that_does_not_come_is_answered_with_408() {
    let (mut cluster, address) = serve("body=500");
    for body in
        ["content-length: 10\r\n\r\nhalf", "transfer-encoding: chunked\r\n\r\n5\r\nhe", "content-length: 5\r\n\r\n"]
    {
        let mut slow = Connection::open(address).unwrap();
        slow.send(&format!("POST /length HTTP/1.1\r\nhost: test\r\n{body}")).unwrap();
        let (status, headers) = slow.head().unwrap();
        assert_eq!(status, 408, "{body:?}");
        assert!(headers.iter().any(|line| line == "connection: close"));
        assert_eq!(slow.rest().unwrap(), "");
    }
    expect_closed(&mut cluster, address, &[("BodyTimeout", 3)]);
}

#[test]
fn a_body_that_nobody_asks_for_is_to_come_all_the_same() {
    let (mut cluster, address) = serve("body=500");
    let mut absent = Connection::open(address).unwrap();
    absent.send("POST /ignore/600000 HTTP/1.1\r\nhost: test\r\ncontent-length: 10\r\n\r\n").unwrap();
    absent.rest().unwrap();
    let mut absent = Http2::open(address, WINDOW);
    absent.request(1, "POST /ignore/600000");
    absent.wait_closed();
    expect_nothing_held(&mut cluster, address);
    expect_closed(&mut cluster, address, &[("BodyTimeout", 2)]);
}

/// It lies in the server's own socket, or behind its own windows.
#[test]
fn a_body_that_the_app_leaves_unread_is_not_the_clients_fault() {
    let (mut cluster, address) = serve("body=500");
    let mut client = Connection::open(address).unwrap();
    let body = "x".repeat(400_000);
    let answer = client.request("POST /late/2500", &[], &body).unwrap();
    assert_eq!(answer.body, "400000");
    let mut expecting = Connection::open(address).unwrap();
    expecting
        .send("POST /late/2500 HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\ncontent-length: 2\r\n\r\n")
        .unwrap();
    assert_eq!(expecting.head().unwrap().0, 100);
    expecting.send("ab").unwrap();
    assert_eq!(expecting.answer().unwrap().body, "2");
    let mut client = Http2::open(address, WINDOW);
    client.request(1, "POST /late/2500");
    for part in [16_000; 4] {
        client.send(DATA, 0, 1, &vec![0; part]).unwrap();
    }
    client.send(DATA, END_STREAM, 1, b"!").unwrap();
    assert_eq!(client.body(1), b"64001");
    expect_closed(&mut cluster, address, &[]);
}

#[test]
fn in_http2_a_body_that_does_not_come_ends_its_stream_and_no_other() {
    let (mut cluster, address) = serve("body=500");
    let mut alone = Http2::open(address, WINDOW);
    alone.request(1, "POST /length");
    alone.send(DATA, 0, 1, b"half").unwrap();
    alone.wait_closed();
    let mut client = Http2::open(address, WINDOW);
    client.request(1, "GET /slow/4000");
    client.request(3, "POST /length");
    let reset = client.next_of(RST_STREAM).expect("a stream is reset");
    assert_eq!(reset.stream, 3);
    assert_eq!(client.body(1), b"slow");
    expect_closed(&mut cluster, address, &[("BodyTimeout", 2)]);
}

/// F10: streamed or not, large or endless.
#[test]
fn who_takes_nothing_of_an_answer_is_let_go() {
    let (mut cluster, address) = serve("write=1000");
    let mut clients = Vec::new();
    for path in ["/stream", "/whole"] {
        let mut deaf = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
        deaf.write_all(format!("GET {path}/{HUGE} HTTP/1.1\r\nhost: test\r\n\r\n").as_bytes()).unwrap();
        clients.push(deaf);
    }
    expect_closed(&mut cluster, address, &[("WriteTimeout", 2)]);
    expect_nothing_held(&mut cluster, address);
    for mut client in clients {
        client.set_read_timeout(Some(DEADLINE)).unwrap();
        assert!(client.read_to_end(&mut Vec::new()).is_err(), "it is reset");
    }
}

#[test]
fn in_http2_who_holds_the_windows_back_is_let_go() {
    let (mut cluster, address) = serve("write=1000");
    let mut clients = Vec::new();
    for (path, window) in [("/stream/1024", 0), ("/whole/1024", 0), ("/stream/1024", 100), ("/whole/1024", 100)] {
        let mut client = Http2::open(address, window);
        client.request(1, &format!("GET {path}"));
        clients.push(client);
    }
    // What is small enough to be given away at once is held by the connection alone.
    let mut small = Http2::open(address, 100);
    small.request(1, "GET /whole/1");
    clients.push(small);
    expect_closed(&mut cluster, address, &[("WriteTimeout", 5)]);
    expect_nothing_held(&mut cluster, address);
    clients.iter_mut().for_each(Http2::wait_closed);
}

/// PINGs, SETTINGS and requests beside it are no progress of the stream that stands.
#[test]
fn in_http2_one_stream_that_is_held_back_is_reset_beside_others_that_go_on() {
    let (mut cluster, address) = serve("write=1500");
    let mut client = Http2::open(address, WINDOW);
    client.request(1, &format!("GET /stream/{HUGE}"));
    // The connection would be ended with the last stream.
    client.request(3, "GET /slow/600000");
    let reset = (10_001..11_000).find_map(|number: u32| {
        thread::sleep(Duration::from_millis(100));
        // Only the connection's window, so that the others have one.
        client.open_window(0, WINDOW);
        client.send(PING, 0, 0, &[0; 8]).unwrap();
        let stream = 2 * number + 1;
        client.request(stream, "GET /slow/50");
        loop {
            let frame = client.next_frame().expect("the connection stays open");
            match frame.kind {
                RST_STREAM => return Some(frame.stream),
                DATA if frame.stream == stream && frame.flags & END_STREAM != 0 => return None,
                _ => {}
            }
        }
    });
    assert_eq!(reset, Some(1));
    cluster.wait_until("the one to be let go", |_| (http::body(address, "/held") == "1").then_some(()));
    expect_closed(&mut cluster, address, &[("WriteTimeout", 1)]);
    client.request(30_001, "GET /");
    assert_eq!(client.body(30_001), b"hello");
}

#[test]
fn a_ping_does_not_prolong_the_idling_of_an_http2_client() {
    let (mut cluster, address) = serve("idle=1500");
    for has_asked in [false, true] {
        let mut client = Http2::open(address, WINDOW);
        if has_asked {
            client.request(1, "GET /");
            assert_eq!(client.body(1), b"hello");
        }
        let is_ended = (0..200).any(|_| {
            thread::sleep(Duration::from_millis(100));
            client.send(PING, 0, 0, &[0; 8]).is_err() || !client.has(PING, 0)
        });
        assert!(is_ended, "it idled for 20 s");
    }
    expect_closed(&mut cluster, address, &[("IdleTimeout", 2)]);
}

/// A connection whose settings both sides have acknowledged: an acknowledgement in the middle of a head would be an error.
fn settled(address: SocketAddr) -> Http2 {
    let mut client = Http2::open(address, WINDOW);
    for what in ["settings", "acknowledgement"] {
        client.next_of(SETTINGS).expect(what);
    }
    client
}

#[test]
fn half_an_http2_head_is_not_waited_for() {
    let (mut cluster, address) = serve("header=500");
    let mut dripping = settled(address);
    dripping.send(HEADERS, END_STREAM, 1, b"").unwrap();
    dripping.wait_closed();
    let mut half = settled(address);
    half.socket().write_all(&[0, 0, 5, HEADERS, END_HEADERS, 0, 0, 0, 1, 0]).unwrap();
    assert!(half.has(GOAWAY, 0));
    expect_closed(&mut cluster, address, &[("HeadTimeout", 2)]);
}

#[test]
fn a_flood_of_frames_that_carry_nothing_ends_the_connection() {
    let (mut cluster, address) = serve("flood=1000");
    let kinds: [(u8, u32, &[u8]); 6] = [
        (PING, 0, &[0; 8]),
        (4, 0, &[]),
        (2, 1, &[0, 0, 0, 0, 1]),
        (8, 0, &[0, 0, 0, 1]),
        (0x77, 0, b"unknown"),
        (DATA, 1, b""),
    ];
    for (kind, stream, payload) in kinds {
        let mut client = Http2::open(address, WINDOW);
        client.request(1, if kind == DATA { "POST /length" } else { "GET /slow/600000" });
        // Its answers are read, or it would be blocked and not ended.
        let mut answers = client.socket().try_clone().unwrap();
        let reading = thread::spawn(move || while answers.read(&mut [0; 4096]).is_ok_and(|count| count > 0) {});
        let is_ended = (0..20_000).any(|_| client.send(kind, 0, stream, payload).is_err());
        // What was sent last may not have been noticed yet.
        reading.join().unwrap();
        drop((client, is_ended));
    }
    // An empty DATA without an end is an error of the protocol to h2 when there are many.
    cluster.wait_until("floods to be counted", |_| {
        let text = http::body(address, "/closed");
        let count: u64 = text.lines().find_map(|line| line.strip_prefix("Flood ")).unwrap().parse().unwrap();
        (count >= 5).then_some(())
    });
    expect_nothing_held(&mut cluster, address);
}

#[test]
fn a_request_without_a_host_or_with_two_is_refused_with_400() {
    let (mut cluster, address) = serve("");
    for hosts in ["", "host: a\r\nhost: b\r\n", "Host: a\r\nx: y\r\nHOST: a\r\n"] {
        let mut client = Connection::open(address).unwrap();
        client.send(&format!("GET / HTTP/1.1\r\n{hosts}\r\n")).unwrap();
        let answer = client.answer().unwrap();
        assert_eq!(answer.status, 400, "{hosts:?}");
        assert!(answer.has_header("connection: close"), "{answer:?}");
        assert_eq!(client.rest().unwrap(), "");
    }
    let mut old = Connection::open(address).unwrap();
    old.send("GET / HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!(old.answer().unwrap().status, 200);
    expect_closed(&mut cluster, address, &[("Host", 3)]);
    let (mut cluster, address) = serve("host=off");
    let mut client = Connection::open(address).unwrap();
    client.send("GET / HTTP/1.1\r\n\r\n").unwrap();
    assert_eq!(client.answer().unwrap().status, 200);
    expect_closed(&mut cluster, address, &[]);
}

#[test]
fn a_request_with_two_kinds_of_length_is_refused_with_400_and_nothing_after_it_is_answered() {
    let (mut cluster, address) = serve("");
    for lines in [
        "content-length: 5\r\ntransfer-encoding: chunked",
        "transfer-encoding: chunked\r\ncontent-length: 5",
        "Transfer-Encoding: chunked\r\nx: y\r\nCONTENT-LENGTH: 0",
    ] {
        for before in ["", "GET / HTTP/1.1\r\nhost: test\r\n\r\n"] {
            let mut client = Connection::open(address).unwrap();
            let smuggled = "GET /peer HTTP/1.1\r\nhost: test\r\n\r\n";
            let post = format!("POST /length HTTP/1.1\r\nhost: test\r\n{lines}\r\n\r\n0\r\n\r\n{smuggled}");
            client.send(&format!("{before}{post}")).unwrap();
            if !before.is_empty() {
                assert_eq!(client.answer().unwrap().status, 200);
            }
            let answer = client.answer().unwrap();
            assert_eq!(answer.status, 400, "{lines:?}");
            assert!(answer.has_header("connection: close"));
            // It may be reset, as something unread remains.
            assert_eq!(client.rest().unwrap_or_default(), "");
        }
    }
    expect_closed(&mut cluster, address, &[("AmbiguousLength", 6)]);
}

#[test]
fn a_head_that_is_too_large_is_refused_with_431() {
    let (mut cluster, address) = serve("");
    let line = |length: usize| format!("x: {}\r\n", "y".repeat(length));
    let lines = |count: usize| "a: b\r\n".repeat(count);
    // The host is one of the hundred.
    for (lines, status) in
        [(line(60 << 10), 200), (line(66 << 10), 431), (line(100 << 10), 431), (lines(99), 200), (lines(100), 431)]
    {
        let mut client = Connection::open(address).unwrap();
        _ = client.send(&format!("GET / HTTP/1.1\r\nhost: test\r\n{lines}\r\n"));
        assert_eq!(client.head().unwrap().0, status, "{}", lines.len());
    }
    // Without an end, too: what is unfinished takes memory.
    let mut client = Connection::open(address).unwrap();
    _ = client.send(&format!("GET / HTTP/1.1\r\nhost: test\r\nx: {}", "y".repeat(80 << 10)));
    assert_eq!(client.head().unwrap().0, 431);
    expect_closed(&mut cluster, address, &[("HeadTooLarge", 4)]);
    let (_cluster, address) = serve("head=200000,headers=300");
    for lines in [line(150_000), lines(299)] {
        let mut client = Connection::open(address).unwrap();
        client.send(&format!("GET / HTTP/1.1\r\nhost: test\r\n{lines}\r\n")).unwrap();
        assert_eq!(client.answer().unwrap().status, 200);
    }
}

#[test]
fn in_http2_a_head_that_is_too_large_is_refused_and_the_next_one_is_answered() {
    let (mut cluster, address) = serve("");
    let begin = [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "test")];
    let mut client = Http2::open(address, WINDOW);
    let many = [&begin[..], &[("a", "b"); 101]].concat();
    client.send(HEADERS, END_HEADERS | END_STREAM, 1, &head(&many)).unwrap();
    assert_eq!(client.next_of(HEADERS).unwrap().stream, 1);
    let value = "y".repeat(10_000);
    let large = head(&[&begin[..], &[("x", value.as_str()); 8]].concat());
    let (first, rest) = large.split_at(16_000);
    client.send(HEADERS, END_STREAM, 3, first).unwrap();
    for part in rest.chunks(16_000) {
        client.send(CONTINUATION, 0, 3, part).unwrap();
    }
    client.send(CONTINUATION, END_HEADERS, 3, b"").unwrap();
    client.request(5, "GET /");
    assert_eq!(client.body(5), b"hello");
    expect_closed(&mut cluster, address, &[("HeadTooLarge", 2)]);
}

#[test]
fn what_is_no_http_is_refused_with_400() {
    let (mut cluster, address) = serve("");
    let mut client = Connection::open(address).unwrap();
    client.send("\x16\x03\x01 this is no HTTP\r\n\r\n").unwrap();
    assert_eq!(client.head().unwrap().0, 400);
    expect_closed(&mut cluster, address, &[("Malformed", 1)]);
}

#[test]
fn more_requests_than_a_worker_may_have_in_hand_are_answered_with_503_in_either_version() {
    let (mut cluster, address) = serve("concurrency=2");
    let mut busy = Connection::open(address).unwrap();
    busy.send_get("/slow/600000").unwrap();
    let mut other = Http2::open(address, WINDOW);
    other.request(1, "GET /slow/600000");
    cluster.wait_until("503", |_| {
        let answer = http::get(address, "/").unwrap();
        (answer.status == 503 && answer.header("retry-after") == Some("1")).then_some(())
    });
    other.request(3, "GET /");
    other.next_of(HEADERS).expect("an answer");
    // A place that is left can be had.
    drop(busy);
    cluster.wait_until("200", |_| (http::get(address, "/").unwrap().status == 200).then_some(()));
    drop(other);
    cluster.wait_until("all places", |_| {
        let mut connection = Connection::open(address).unwrap();
        let answers = [(); 2].map(|()| connection.get("/").unwrap().status);
        (answers == [200; 2]).then_some(())
    });
}

#[test]
fn a_connection_brings_as_many_requests_as_it_may() {
    let (mut cluster, address) = serve("requests=3");
    let mut client = Connection::open(address).unwrap();
    for number in 1..=3 {
        assert_eq!(client.get("/").unwrap().has_header("connection: close"), number == 3);
    }
    assert_eq!(client.rest().unwrap(), "");
    let mut client = Http2::open(address, WINDOW);
    for stream in [1, 3, 5] {
        client.request(stream, "GET /slow/100");
    }
    assert_eq!(client.body(1), b"slow");
    client.wait_closed();
    cluster.wait_until("the ends to be counted", |_| {
        http::body(address, "/closed").contains("MaxRequests 2").then_some(())
    });
}

#[test]
fn only_the_protocols_that_are_meant_are_spoken() {
    let (_cluster, address) = serve("protocols=1");
    assert_eq!(http::body(address, "/"), "hello");
    let mut http2 = Connection::open(address).unwrap();
    http2.send("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    assert!(http2.rest().unwrap_or_default().lines().all(|line| !line.contains(" 200 ")));
    let (_cluster, address) = serve("protocols=2");
    let mut client = Http2::open(address, WINDOW);
    client.request(1, "GET /");
    assert_eq!(client.body(1), b"hello");
    assert!(http::get(address, "/").is_err());
}

#[test]
fn an_http2_client_that_answers_no_ping_is_let_go() {
    let (mut cluster, address) = serve("ping=300");
    let mut dead = Http2::open(address, WINDOW);
    dead.ignore_pings();
    dead.request(1, "GET /slow/600000");
    // It is read from, and nothing is said.
    dead.wait_closed();
    expect_nothing_held(&mut cluster, address);
    expect_closed(&mut cluster, address, &[("KeepAlive", 1)]);
}

#[test]
fn an_http2_client_has_no_more_streams_open_than_it_may() {
    let (_cluster, address) = serve("streams=5");
    let mut client = Http2::open(address, WINDOW);
    for number in 0..6 {
        client.request(2 * number + 1, "GET /slow/600000");
    }
    assert_eq!(client.next_of(RST_STREAM).unwrap().stream, 11);
}

#[test]
fn every_limit_can_be_off() {
    let off = "header=off,idle=off,body=off,write=off,head=off,headers=off,streams=off,list=off,flood=off,host=off,\
               concurrency=off,requests=off";
    let (mut cluster, address) = serve(off);
    let mut client = Connection::open(address).unwrap();
    client.send(&format!("GET / HTTP/1.1\r\nx: {}\r\n{}\r\n", "y".repeat(200_000), "a: b\r\n".repeat(500))).unwrap();
    assert_eq!(client.answer().unwrap().status, 200);
    let mut client = Http2::open(address, WINDOW);
    for number in 0..150 {
        client.request(2 * number + 1, "GET /slow/1000");
    }
    for number in 0..150 {
        assert_eq!(client.next_of(DATA).unwrap().payload, b"slow", "{number}");
    }
    for _ in 0..30_000 {
        client.send(0x77, 0, 0, b"").unwrap();
    }
    client.request(1001, "GET /");
    assert_eq!(client.body(1001), b"hello");
    expect_closed(&mut cluster, address, &[]);
}

/// Each takes several times as long as every limit.
const SLOW: &str = "header=2000,idle=2000,body=2000,write=2000";

#[test]
fn a_handler_may_take_its_time_and_events_may_be_far_apart() {
    let (mut cluster, address) = serve(SLOW);
    assert_eq!(http::body(address, "/slow/5000"), "slow");
    assert!(http::body(address, "/events/2500").ends_with("data: 3\n\n"));
    let mut client = Http2::open(address, WINDOW);
    client.request(1, "GET /slow/5000");
    assert_eq!(client.body(1), b"slow");
    client.request(3, "GET /events/2500");
    assert!(client.body(3).ends_with(b"data: 3\n\n"));
    expect_closed(&mut cluster, address, &[]);
}

#[test]
fn an_upload_that_goes_on_may_last() {
    let (mut cluster, address) = serve(SLOW);
    let mut client = Connection::open(address).unwrap();
    client.send(&format!("POST /length HTTP/1.1\r\nhost: test\r\ncontent-length: {STEPS}\r\n\r\n")).unwrap();
    let mut chunked = Connection::open(address).unwrap();
    chunked.send("POST /length HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n").unwrap();
    let mut http2 = Http2::open(address, WINDOW);
    http2.request(1, "POST /length");
    for _ in 0..STEPS {
        step();
        client.send("x").unwrap();
        chunked.send("1\r\nx\r\n").unwrap();
        http2.send(DATA, 0, 1, b"x").unwrap();
    }
    chunked.send("0\r\n\r\n").unwrap();
    http2.send(DATA, END_STREAM, 1, b"").unwrap();
    for answer in [client.answer().unwrap(), chunked.answer().unwrap()] {
        assert_eq!(answer.body, STEPS.to_string());
    }
    assert_eq!(http2.body(1), STEPS.to_string().as_bytes());
    expect_closed(&mut cluster, address, &[]);
}

/// The kernel's buffers are large: what is taken from them shows long before there is room for more.
#[test]
fn a_download_that_goes_on_may_last() {
    let (mut cluster, address) = serve(SLOW);
    let mut readers = ["/stream", "/whole"].map(|path| {
        let mut slow = TcpStream::connect_timeout(&address, DEADLINE).unwrap();
        slow.set_read_timeout(Some(DEADLINE)).unwrap();
        slow.write_all(format!("GET {path}/{HUGE} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n").as_bytes())
            .unwrap();
        slow
    });
    let mut http2 = Http2::open(address, 16);
    http2.request(1, "GET /whole/1");
    let mut part = vec![0; 1 << 20];
    for _ in 0..2 * STEPS {
        step();
        for reader in &mut readers {
            reader.read_exact(&mut part).unwrap();
        }
        http2.open_window(1, 16);
    }
    for mut reader in readers {
        let rest = std::io::copy(&mut reader, &mut std::io::sink()).unwrap();
        assert!(rest as usize + 2 * STEPS * part.len() > 65_536 << 10, "{rest}");
    }
    http2.open_window(1, 1024);
    assert!(http2.next_of(DATA).is_some());
    expect_closed(&mut cluster, address, &[]);
}

#[test]
fn a_tunnel_may_be_silent() {
    let (mut cluster, address) = serve(SLOW);
    let mut upgraded = Connection::open(address).unwrap();
    upgraded.send("GET /tunnel HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").unwrap();
    assert_eq!(upgraded.head().unwrap().0, 101);
    let mut http2 = Http2::open(address, WINDOW);
    let connect = head(&[
        (":method", "CONNECT"),
        (":protocol", "websocket"),
        (":scheme", "http"),
        (":path", "/tunnel"),
        (":authority", "test"),
    ]);
    http2.send(HEADERS, END_HEADERS, 1, &connect).unwrap();
    (0..2 * STEPS).for_each(|_| step());
    upgraded.send("x").unwrap();
    http2.send(DATA, 0, 1, b"x").unwrap();
    assert_eq!(http2.next_of(DATA).unwrap().payload, b"x");
    // The server ends as soon as the tunnels do.
    cluster.signal(Signal::SIGTERM);
    http2.socket().shutdown(Shutdown::Both).unwrap();
    drop(http2);
    let mut byte = [0];
    upgraded.read_exact(&mut byte).unwrap();
    assert_eq!(byte, *b"x");
    drop(upgraded);
    cluster.expect_exit(0);
}

#[test]
fn connections_that_came_by_other_ways_have_the_same_limits_and_ends() {
    for way in ["descriptor", "duplex"] {
        let limits = "header=500,idle=700,body=500,write=1000";
        let mut cluster = Cluster::of(LIMITS).args([way]).env("HTTP", limits).start();
        let address = cluster.wait_ready();
        let mut client = Connection::open(address).unwrap();
        assert!(client.get("/peer").unwrap().body.starts_with("127.0.0.1:"));
        assert_eq!(client.rest().unwrap(), "", "it has idled");
        let mut half = Connection::open(address).unwrap();
        half.send("GET / HT").unwrap();
        assert_eq!(half.head().unwrap().0, 408);
        let mut slow = Connection::open(address).unwrap();
        slow.send("POST /length HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\n").unwrap();
        assert_eq!(slow.head().unwrap().0, 408);
        let mut deaf = Connection::open(address).unwrap();
        deaf.send_get(&format!("/stream/{HUGE}")).unwrap();
        expect_closed_of_all_but_idle(
            &mut cluster,
            address,
            &[("HeadTimeout", 1), ("BodyTimeout", 1), ("WriteTimeout", 1)],
        );
        expect_nothing_held(&mut cluster, address);
        let mut running = Connection::open(address).unwrap();
        running.send_get("/slow/1500").unwrap();
        let mut tunnel = Connection::open(address).unwrap();
        tunnel.send("GET /tunnel HTTP/1.1\r\nhost: test\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n").unwrap();
        assert_eq!(tunnel.head().unwrap().0, 101);
        cluster.wait_until("the request", |_| (http::body(address, "/held") == "1").then_some(()));
        cluster.signal(Signal::SIGTERM);
        let answer = running.answer().unwrap();
        assert_eq!(answer.body, "slow");
        assert!(answer.has_header("connection: close"), "{answer:?}");
        // What copies for a duplex ends with its client.
        drop((tunnel, deaf, running, slow, half, client));
        cluster.expect_exit(0);
    }
}

/// Clients that asked for `/closed` may have idled meanwhile.
#[track_caller]
fn expect_closed_of_all_but_idle(cluster: &mut Cluster, address: SocketAddr, expected: &[(&str, u64)]) {
    cluster.wait_until(&format!("{expected:?} to be counted"), |_| {
        let text = http::body(address, "/closed");
        expected.iter().all(|(name, count)| text.lines().any(|line| line == format!("{name} {count}"))).then_some(())
    });
}
