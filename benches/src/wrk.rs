//! The client that makes load: wrk, with one thread and 64 connections.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

/// How connections are used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Load {
    /// As many requests as fit, on connections that stay.
    Kept,
    /// A connection for each request.
    Each,
}

/// What wrk counted.
pub(crate) struct Served {
    pub(crate) requests: f64,
    pub(crate) per_second: f64,
}

impl Load {
    pub(crate) const ALL: [Self; 2] = [Self::Kept, Self::Each];

    /// Puts `address` under load.
    pub(crate) fn run(self, address: SocketAddr, span: Duration) -> Served {
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "-c64", &format!("-d{}s", span.as_secs())]);
        match self {
            Self::Kept => {}
            Self::Each => _ = wrk.args(["-H", "Connection: close"]),
        }
        let output = wrk.arg(format!("http://{address}/")).output().expect("wrk runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = text.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors"));
        assert!(errors.is_none_or(is_harmless), "wrk saw errors:\n{text}");
        read(&text).unwrap_or_else(|| panic!("wrk says nothing of requests:\n{text}"))
    }
}

/// wrk's version, if it is installed.
pub(crate) fn version() -> Option<String> {
    let output = Command::new("wrk").arg("-v").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    Some(text.split_whitespace().nth(1).unwrap_or_default().to_owned())
}

/// wrk counts a connection that the server closes after its answer, as it was asked to, as a read error.
fn is_harmless(line: &str) -> bool {
    line.contains("connect 0,") && line.contains("write 0,") && line.contains("timeout 0")
}

fn read(text: &str) -> Option<Served> {
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok())?;
    let per_second = text.lines().find_map(|line| line.trim().strip_prefix("Requests/sec:")?.trim().parse().ok())?;
    Some(Served { requests, per_second })
}
