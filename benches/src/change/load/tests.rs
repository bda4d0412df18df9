//! Whether each way to fail is seen as what it is: servers that do everything wrong, one thing each.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::AtomicU32;
use std::{env, fs, process};

use super::*;
use crate::change::exchange::{Method, Road};
use crate::running::within;

/// What a server does with a request, of which it has the number on its connection and the body.
type Behaviour = fn(u32, &[u8]) -> Deed;

enum Deed {
    Send(Vec<u8>),
    /// After these bytes.
    Close(Vec<u8>),
    /// So that what the client has sent is refused.
    Reset,
    Nothing,
}

/// Serves until the tests end; the file of its socket goes with this.
struct Server(Target);

const LONGEST: Duration = Duration::from_secs(60);
const PATIENT: Manner = Manner { clients: 1, patience: Duration::from_secs(60) };

#[test]
fn an_honest_server_fails_nobody() {
    let tally = tally_until(|_, body| Deed::Send(answer(body)), PATIENT, |load| load.answered() > 5000);
    assert_eq!(fates(&tally), []);
    assert!(Kind::ALL.iter().all(|kind| tally.answered[kind] > 0), "{:?}", tally.answered);
}

#[test]
fn a_server_may_say_that_it_closes() {
    let server: Behaviour = |_, body| Deed::Close(with_header(&answer(body), "connection: close"));
    let tally = tally_until(server, PATIENT, |load| load.answered() > 1000);
    assert_eq!(fates(&tally), []);
    assert!(tally.told_to_close > 0);
}

#[test]
fn nobody_there_is_refused() {
    let target = Target { tcp: crate::running::free_address(), unix: "/nowhere/at/all".into() };
    assert_eq!(fates_of_all(Load::start(&target, PATIENT)), [Fate::Refused]);
}

#[test]
fn an_end_without_an_answer_is_a_reset() {
    assert_eq!(fates_under(|_, _| Deed::Close(Vec::new())), [Fate::Reset]);
    assert_eq!(fates_under(|_, _| Deed::Reset), [Fate::Reset]);
}

#[test]
fn an_end_without_a_further_answer_is_a_reset_of_a_kept_connection() {
    let server: Behaviour = |number, body| if number == 0 { Deed::Send(answer(body)) } else { Deed::Reset };
    let tally = tally_until(server, PATIENT, |load| load.requests() > load.answered() + 100);
    assert_eq!(fates(&tally), [Fate::KeptReset]);
    assert!(tally.failures.iter().all(|failure| failure.kind.is_kept && failure.of.is_some()));
}

#[test]
fn half_an_answer_is_a_cut() {
    let half: Behaviour = |_, body| Deed::Close(answer(body)[..30].to_vec());
    let almost_all: Behaviour = |_, body| Deed::Close(answer(body)[..answer(body).len() - 1].to_vec());
    assert_eq!(fates_under(half), [Fate::Cut]);
    assert_eq!(fates_under(almost_all), [Fate::Cut]);
}

#[test]
fn another_status_is_a_failure() {
    let server: Behaviour = |_, _| Deed::Send(b"HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_vec());
    assert_eq!(fates_under(server), [Fate::Status]);
}

#[test]
fn another_body_is_a_wrong_answer() {
    let one_byte_off: Behaviour = |_, body| {
        let mut answer = answer(body);
        *answer.last_mut().unwrap() ^= 1;
        Deed::Send(answer)
    };
    let nonsense: Behaviour = |_, _| Deed::Send(b"this is no HTTP\r\n\r\n".to_vec());
    let too_much: Behaviour = |_, body| Deed::Send([answer(body), b"!".to_vec()].concat());
    let nobodys: Behaviour = |_, body| {
        let mut answer = answer(body);
        // The first letter of the header's name.
        answer[17] = b'y';
        Deed::Send(answer)
    };
    for server in [one_byte_off, nonsense, too_much, nobodys] {
        assert_eq!(fates_under(server), [Fate::Wrong]);
    }
}

#[test]
fn the_answer_to_the_request_before_is_a_wrong_answer() {
    // That of a POST: all GETs are the same.
    let server: Behaviour = |_, body| {
        let mut stale = body.to_vec();
        stale.iter_mut().take(8).for_each(|byte| *byte = 0);
        Deed::Send(answer(&stale))
    };
    let tally = tally_until(server, PATIENT, |load| load.requests() > load.answered() + 100);
    assert_eq!(fates(&tally), [Fate::Wrong]);
    assert!(tally.failures.iter().all(|failure| failure.kind.method == Method::Post));
}

#[test]
fn no_answer_in_time_is_a_failure() {
    let hasty = Manner { patience: Duration::from_millis(200), ..PATIENT };
    let server = serve(|_, _| Deed::Nothing);
    assert_eq!(fates_of_all(Load::start(&server.0, hasty)), [Fate::Timeout]);
}

#[test]
fn an_end_of_a_connection_that_idles_is_seen_before_anything_is_written() {
    let server = serve(|_, body| Deed::Close(answer(body)));
    for road in [Road::Tcp, Road::Unix] {
        let kind = Kind { method: Method::Get, is_kept: true, road };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let deadline = Instant::now() + LONGEST;
            let mut connection = Connection::open(&server.0, road, deadline).await.unwrap();
            assert!(!connection.is_closed());
            assert!(connection.ask(&Requests::of(kind), deadline).await.unwrap(), "nothing says that it closes");
            assert!(within(LONGEST, || connection.is_closed()));
        });
    }
}

/// By what all requests of all kinds fail, as none is answered.
fn fates_under(behaviour: Behaviour) -> Vec<Fate> {
    let server = serve(behaviour);
    fates_of_all(Load::start(&server.0, PATIENT))
}

fn fates_of_all(load: Load) -> Vec<Fate> {
    assert!(within(LONGEST, || load.requests() >= 100));
    let tally = load.stop();
    assert_eq!(tally.answers(), 0);
    let failed = |kind: &Kind| tally.failures.iter().any(|failure| failure.kind == *kind);
    assert!(Kind::ALL.iter().all(failed), "some kind never failed: {:?}", tally.failures);
    fates(&tally)
}

fn tally_until(behaviour: Behaviour, manner: Manner, is_enough: fn(&Load) -> bool) -> Tally {
    let server = serve(behaviour);
    let load = Load::start(&server.0, manner);
    assert!(within(LONGEST, || is_enough(&load)), "the load stands still");
    load.stop()
}

fn fates(tally: &Tally) -> Vec<Fate> {
    Fate::ALL.into_iter().filter(|fate| tally.of(*fate) > 0).collect()
}

fn serve(behaviour: Behaviour) -> Server {
    static NUMBER: AtomicU32 = AtomicU32::new(0);
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let unix = env::temp_dir().join(format!("benches-{}-{number}.sock", process::id()));
    let (tcp_listener, unix_listener) = (TcpListener::bind("127.0.0.1:0").unwrap(), UnixListener::bind(&unix).unwrap());
    let target = Target { tcp: tcp_listener.local_addr().unwrap(), unix };
    thread::spawn(move || {
        for stream in tcp_listener.incoming().map_while(Result::ok) {
            thread::spawn(move || converse(stream, behaviour, reset_tcp));
        }
    });
    thread::spawn(move || {
        for stream in unix_listener.incoming().map_while(Result::ok) {
            thread::spawn(move || converse(stream, behaviour, reset_unix));
        }
    });
    Server(target)
}

impl Drop for Server {
    fn drop(&mut self) {
        _ = fs::remove_file(&self.0.unix);
    }
}

fn converse<S: Read + Write>(mut stream: S, behaviour: Behaviour, reset: fn(&S)) {
    for number in 0.. {
        let Ok(body) = receive(&mut stream) else { return };
        match behaviour(number, &body) {
            Deed::Send(bytes) => _ = stream.write_all(&bytes),
            Deed::Close(bytes) => {
                _ = stream.write_all(&bytes);
                return;
            }
            Deed::Reset => return reset(&stream),
            Deed::Nothing => {}
        }
    }
}

fn reset_tcp(stream: &TcpStream) {
    socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO)).unwrap();
}

/// A Unix socket is reset only if something is left unread; an end is all that there is here.
fn reset_unix(_: &UnixStream) {}

/// The body of a request.
fn receive(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, _)) = text.split_once("\r\n\r\n") {
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            if bytes.len() >= head.len() + 4 + length {
                return Ok(bytes.split_off(head.len() + 4));
            }
        }
        match stream.read(&mut buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => bytes.extend_from_slice(&buffer[..count]),
        }
    }
}

/// What the service would answer.
fn answer(body: &[u8]) -> Vec<u8> {
    let body = if body.is_empty() { b"hello from 0 1 1\n" } else { body };
    let head = format!("HTTP/1.1 200 OK\r\nx-worker: 0 1 1\r\ncontent-length: {}\r\n\r\n", body.len());
    [head.as_bytes(), body].concat()
}

fn with_header(answer: &[u8], header: &str) -> Vec<u8> {
    let line = b"HTTP/1.1 200 OK\r\n";
    [line, header.as_bytes(), b"\r\n", &answer[line.len()..]].concat()
}
