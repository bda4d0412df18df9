//! Clients that ask one thing after another until they are stopped or nobody listens any more.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use crate::http::{Answer, Connection};
use crate::{DEADLINE, POLL};

/// Running clients.
#[derive(Debug)]
pub struct Load {
    clients: Vec<thread::JoinHandle<()>>,
    shared: Arc<Shared>,
}

/// A little less than a worker that drains leaves to a client to bring another request.
const LINGER: Duration = Duration::from_millis(400);

/// A request that was not answered with 200.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Whether the connection had been made, so that the request was lost. Refused is not lost: the client knows at once that
    /// it may go elsewhere.
    pub was_accepted: bool,
    /// What the client saw.
    pub what: String,
}

#[derive(Debug, Default)]
struct Shared {
    served: AtomicUsize,
    failures: Mutex<Vec<Failure>>,
    stop: AtomicBool,
}

impl Load {
    /// Starts clients that make a connection for each request.
    #[must_use]
    pub fn start(address: SocketAddr, clients: usize, path: &'static str) -> Self {
        Self::start_over(clients, path, move || Connection::open(address))
    }

    /// [`start`](Self::start) over connections of another kind.
    #[must_use]
    pub fn start_over<S: Read + Write>(
        clients: usize,
        path: &'static str,
        connect: impl Fn() -> io::Result<Connection<S>> + Clone + Send + 'static,
    ) -> Self {
        Self::start_with(clients, move |shared| {
            while !shared.stop.load(Ordering::Relaxed) {
                let Some(mut connection) = shared.connect(&connect) else { continue };
                let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
                let begun = Instant::now();
                let sent = connection.send(&request);
                let silence = begun.elapsed();
                shared.count(sent.and_then(|()| connection.answer()), silence);
            }
        })
    }

    /// Starts clients that keep their connections as long as the server does.
    #[must_use]
    pub fn start_keep_alive(address: SocketAddr, clients: usize, path: &'static str) -> Self {
        Self::start_keep_alive_over(clients, path, move || Connection::open(address))
    }

    /// [`start_keep_alive`](Self::start_keep_alive) over connections of another kind.
    #[must_use]
    pub fn start_keep_alive_over<S: Read + Write>(
        clients: usize,
        path: &'static str,
        connect: impl Fn() -> io::Result<Connection<S>> + Clone + Send + 'static,
    ) -> Self {
        Self::start_with(clients, move |shared| {
            let mut kept = None;
            while !shared.stop.load(Ordering::Relaxed) {
                let new = || Some((shared.connect(&connect)?, Instant::now()));
                let Some((mut connection, heard)) = kept.take().or_else(new) else { continue };
                let begun = Instant::now();
                let sent = connection.send_get(path);
                let silence = heard.elapsed();
                let answer = sent.and_then(|()| connection.answer());
                if answer.as_ref().is_ok_and(|answer| !answer.has_header("connection: close")) {
                    // The server may have answered then, though this client came to read it later.
                    kept = Some((connection, begun));
                }
                shared.count(answer, silence);
            }
        })
    }

    /// How many requests were answered so far.
    #[must_use]
    pub fn served(&self) -> usize {
        self.shared.served.load(Ordering::Relaxed)
    }

    /// Stops the clients, once one of them has been answered or not; how many requests were answered, and those that were not.
    ///
    /// # Panics
    /// If a client has.
    #[must_use]
    pub fn stop(self) -> (usize, Vec<Failure>) {
        // What a test did meanwhile may have taken no time at all.
        let deadline = Instant::now() + DEADLINE;
        while self.served() == 0 && self.shared.failures.lock().unwrap().is_empty() && Instant::now() < deadline {
            thread::sleep(POLL);
        }
        self.shared.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            client.join().unwrap();
        }
        (self.shared.served.load(Ordering::Relaxed), self.shared.failures.lock().unwrap().clone())
    }

    fn start_with(clients: usize, client: impl Fn(&Shared) + Clone + Send + 'static) -> Self {
        let shared = Arc::new(Shared::default());
        let start = |_| {
            let (client, shared) = (client.clone(), Arc::clone(&shared));
            thread::spawn(move || client(&shared))
        };
        Self { clients: (0..clients).map(start).collect(), shared }
    }
}

impl Shared {
    fn connect<S: Read + Write>(&self, connect: impl Fn() -> io::Result<Connection<S>>) -> Option<Connection<S>> {
        match connect() {
            Ok(connection) => Some(connection),
            Err(error) => {
                // Nobody listens: this client is done.
                self.stop.store(true, Ordering::Relaxed);
                self.fail(false, error.to_string());
                None
            }
        }
    }

    /// `silence`: for so long the server had not heard of the client at most, when it had sent its request.
    fn count(&self, answer: io::Result<Answer>, silence: Duration) {
        match answer {
            // A worker that drains closes a connection that has idled so long, while the request is on its way perhaps. That is the client's
            // to try again: on this machine, which had no time for it.
            Err(_) if silence >= LINGER => {}
            Ok(answer) if answer.status == 200 => _ = self.served.fetch_add(1, Ordering::Relaxed),
            Ok(answer) => self.fail(true, format!("{answer:?}")),
            Err(error) => self.fail(true, error.to_string()),
        }
    }

    fn fail(&self, was_accepted: bool, what: String) {
        self.failures.lock().unwrap().push(Failure { was_accepted, what });
    }
}
