//! How long a light request takes, while nobody else does anything, while reports keep one worker busy, and while an unrelated
//! process burns a core. The difference of the last two is the service's part.

use std::net::{Shutdown, SocketAddr};
use std::thread;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::runtime;
use tokio::time::timeout;

use super::CORES;
use crate::client::{Connection, DEADLINE, request};
use crate::options::Options;
use crate::peer::Peer;
use crate::results::{Beside, Figure, Rank, Samples};
use crate::running::Running;
use crate::spinner::Spinner;

/// Clients come at a fixed pace, each with a connection of its own, whether or not those before them were served.
const PAUSE: Duration = Duration::from_micros(2500);
/// So many, in two seconds: the 99th percentile is the eighth slowest.
const CLIENTS: u32 = 800;

pub(crate) fn measure(peer: &Peer, _options: &Options, samples: &mut Samples<Figure>) {
    if !peer.has_reports() {
        return;
    }
    let running = Running::start(peer, CORES);
    running.warm_up();
    for beside in Beside::ALL {
        running.settle(if peer.has_processes() { CORES } else { 0 });
        let latencies = match beside {
            Beside::Nobody => light(running.address),
            Beside::Report => {
                let _reports = Reports::start(running.address);
                light(running.address)
            }
            Beside::Spinner => {
                let _spinner = Spinner::start();
                light(running.address)
            }
        };
        for rank in Rank::ALL {
            samples.add(Figure::Light(beside, rank), peer.name, rank.of(&latencies).as_secs_f64() * 1e3);
        }
    }
}

/// Latencies in ascending order, each from the instant at which the client meant to come: a client that is late because the server
/// keeps the machine busy has waited, too.
fn light(address: SocketAddr) -> Vec<Duration> {
    let client = runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime starts");
    let start = Instant::now();
    // This thread keeps the pace, because the runtime's clock has ticks of a millisecond.
    let requests: Vec<_> = (0..CLIENTS)
        .map(|number| start + PAUSE * number)
        .map(|intended| {
            thread::sleep(intended.saturating_duration_since(Instant::now()));
            client.spawn(latency(address, intended))
        })
        .collect();
    let mut latencies: Vec<Duration> =
        requests.into_iter().map(|request| client.block_on(request).expect("no request panics")).collect();
    latencies.sort_unstable();
    latencies
}

/// A client that gets no answer counts as one that waited until the deadline.
async fn latency(address: SocketAddr, intended: Instant) -> Duration {
    match timeout(DEADLINE, ask(address)).await {
        Ok(Ok(answer)) if answer.starts_with("HTTP/1.1 200") => intended.elapsed(),
        _ => DEADLINE,
    }
}

async fn ask(address: SocketAddr) -> std::io::Result<String> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request("/", "close").as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    Ok(answer)
}

/// Somebody who asks for one report after the other on one connection, so that one worker never rests; stops by being dropped.
struct Reports(std::net::TcpStream);

impl Reports {
    /// The worker is busy from now on.
    fn start(address: SocketAddr) -> Self {
        let mut connection = Connection::open(address).expect("the peer accepts");
        let socket = connection.socket().expect("a socket can have two handles");
        connection.ask("/generate-report").expect("the peer reports");
        thread::spawn(move || while connection.ask("/generate-report").is_ok() {});
        Self(socket)
    }
}

impl Drop for Reports {
    fn drop(&mut self) {
        // The thread's next read or write fails.
        _ = self.0.shutdown(Shutdown::Both);
    }
}
