//! The client: wrk, with one thread and 64 connections.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

/// How connections are used.
#[derive(Clone, Copy)]
pub(crate) enum Load {
    /// As many requests as fit, on connections that stay.
    KeepAlive,
    /// A connection for each request.
    Connections,
}

impl Load {
    /// Puts `address` under load, and returns how many requests were answered.
    pub(crate) fn run(self, address: SocketAddr, span: Duration) -> f64 {
        let mut wrk = Command::new("wrk");
        wrk.args(["-t1", "-c64", &format!("-d{}s", span.as_secs())]);
        match self {
            Self::KeepAlive => {}
            Self::Connections => _ = wrk.args(["-H", "Connection: close"]),
        }
        let output = wrk.arg(format!("http://{address}/")).output().expect("wrk runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = text.lines().find(|line| line.contains("Non-2xx") || line.contains("Socket errors"));
        assert!(errors.is_none_or(is_harmless), "wrk saw errors:\n{text}");
        let count = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse().ok());
        count.unwrap_or_else(|| panic!("wrk says nothing of requests:\n{text}"))
    }
}

/// wrk counts a connection that the server closes after its answer, as it was asked to, as a read error.
fn is_harmless(line: &str) -> bool {
    line.contains("connect 0,") && line.contains("write 0,") && line.contains("timeout 0")
}
