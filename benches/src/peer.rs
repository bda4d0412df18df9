//! The programs to measure.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

use crate::programs;

/// A program that answers `GET /`.
pub(crate) struct Peer {
    pub(crate) name: &'static str,
    program: Program,
}

enum Program {
    /// Of this package; serves by processes.
    Service {
        dispatch: &'static str,
    },
    /// Of this package; serve by threads.
    Tokio,
    Hyper,
    Node {
        policy: &'static str,
    },
    Nginx {
        reuseport: bool,
    },
}

/// The library under its default policy, which most bars are about.
pub(crate) const DEFAULT: &str = "cluster-balanced";

pub(crate) const ALL: [Peer; 10] = [
    Peer { name: DEFAULT, program: Program::Service { dispatch: "balanced" } },
    Peer { name: "cluster-kernel", program: Program::Service { dispatch: "kernel" } },
    Peer { name: "cluster-round-robin", program: Program::Service { dispatch: "round-robin" } },
    Peer { name: "cluster-sticky", program: Program::Service { dispatch: "sticky" } },
    Peer { name: "tokio-threads", program: Program::Tokio },
    Peer { name: "hyper-reuseport", program: Program::Hyper },
    Peer { name: "node-rr", program: Program::Node { policy: "rr" } },
    Peer { name: "node-none", program: Program::Node { policy: "none" } },
    Peer { name: "nginx", program: Program::Nginx { reuseport: false } },
    Peer { name: "nginx-reuseport", program: Program::Nginx { reuseport: true } },
];

/// Those that were asked for by name, or all.
pub(crate) fn select(names: &[String]) -> Result<Vec<&'static Peer>, String> {
    let known: Vec<&str> = ALL.iter().map(|peer| peer.name).collect();
    if let Some(stranger) = names.iter().find(|name| !known.contains(&name.as_str())) {
        return Err(format!("--only {stranger}: there are {}", known.join(", ")));
    }
    Ok(ALL.iter().filter(|peer| names.is_empty() || names.iter().any(|name| name == peer.name)).collect())
}

impl Peer {
    /// Its workers are processes, so they can be killed, replaced, and weighed.
    pub(crate) fn has_processes(&self) -> bool {
        !matches!(self.program, Program::Tokio | Program::Hyper)
    }

    /// It answers `/generate-report`.
    pub(crate) fn has_reports(&self) -> bool {
        !matches!(self.program, Program::Nginx { .. })
    }

    /// Its answer to `/who` names the worker. tokio's threads share all connections, so there is nothing to balance.
    pub(crate) fn tells_who(&self) -> bool {
        !matches!(self.program, Program::Tokio | Program::Nginx { .. })
    }

    /// What the program says of its version, if that is not this package's.
    pub(crate) fn version(&self) -> Option<String> {
        let ask = |flag| Command::new(self.executable()?).arg(flag).output().ok();
        let output = match self.program {
            Program::Service { .. } | Program::Tokio | Program::Hyper => return None,
            Program::Node { .. } => ask("--version")?.stdout,
            Program::Nginx { .. } => ask("-v")?.stderr,
        };
        let text = String::from_utf8_lossy(&output).into_owned();
        Some(text.trim().trim_start_matches("nginx version: nginx/").trim_start_matches('v').to_owned())
    }

    /// None, if it is not installed.
    pub(crate) fn executable(&self) -> Option<PathBuf> {
        let path = match self.program {
            Program::Service { .. } => programs::path("peer-service"),
            Program::Tokio => programs::path("peer-tokio-threads"),
            Program::Hyper => programs::path("peer-hyper-reuseport"),
            Program::Node { .. } => return find_node(),
            Program::Nginx { .. } => find_nginx()?,
        };
        path.exists().then_some(path)
    }

    /// How to run it in the foreground; files that it needs are written to `scratch`.
    pub(crate) fn command(&self, address: SocketAddr, workers: usize, scratch: &Path) -> Command {
        let mut command = Command::new(self.executable().expect("only installed peers are run"));
        command.env("ADDR", address.to_string());
        match self.program {
            Program::Service { dispatch } => command
                .env("CLUSTER_DISPATCH", dispatch)
                .env("CLUSTER_WORKERS", workers.to_string())
                .env("CLUSTER_QUIET", "true"),
            Program::Tokio => command.env("TOKIO_WORKER_THREADS", workers.to_string()),
            Program::Hyper => command.env("WORKERS", workers.to_string()),
            Program::Node { policy } => command
                .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("apps/node-cluster.js"))
                .env("NODE_CLUSTER_SCHED_POLICY", policy)
                .env("WORKERS", workers.to_string()),
            Program::Nginx { reuseport } => {
                let configuration = scratch.join("nginx.conf");
                let text = nginx_configuration(address, workers, reuseport, scratch);
                fs::write(&configuration, text).expect("the scratch directory can be written");
                command.arg("-e").arg("stderr").arg("-p").arg(scratch).arg("-c").arg(configuration)
            }
        };
        command
    }
}

/// Where `install-peers` puts it: beside the directory of this program.
pub(crate) fn find_node() -> Option<PathBuf> {
    let here = env::current_exe().ok()?;
    let path = here.parent()?.with_file_name("peers").join("node_modules/node/bin/node");
    path.exists().then_some(path)
}

pub(crate) fn node_version() -> Option<String> {
    ALL.iter().find(|peer| matches!(peer.program, Program::Node { .. }))?.version()
}

/// Debian has it where only root's PATH leads.
fn find_nginx() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let directories = env::split_paths(&path).chain([PathBuf::from("/usr/sbin")]);
    directories.map(|directory| directory.join("nginx")).find(|file| file.exists())
}

/// Connections are kept for as many requests as the other peers keep them for, which is without end.
fn nginx_configuration(address: SocketAddr, workers: usize, reuseport: bool, scratch: &Path) -> String {
    let reuseport = if reuseport { " reuseport" } else { "" };
    let scratch = scratch.display();
    format!(
        r#"daemon off;
worker_processes {workers};
pid {scratch}/nginx.pid;
error_log stderr emerg;
events {{ worker_connections 1024; }}
http {{
    access_log off;
    server_tokens off;
    keepalive_requests 1000000000;
    client_body_temp_path {scratch}/body;
    proxy_temp_path {scratch}/proxy;
    fastcgi_temp_path {scratch}/fastcgi;
    uwsgi_temp_path {scratch}/uwsgi;
    scgi_temp_path {scratch}/scgi;
    server {{
        listen {address}{reuseport};
        default_type "text/plain; charset=utf-8";
        location / {{ return 200 "hello from pid $pid\n"; }}
    }}
}}
"#
    )
}
