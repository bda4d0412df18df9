//! One attribute turns an async `main` into a supervised, crash-isolated, multi-process server.
//!
//! ```no_run
//! use axum::{Router, routing::get};
//!
//! #[cluster::main(workers = "auto")]
//! async fn main() -> cluster::Result {
//!     let app = Router::new().route("/", get(|| async { format!("hello from worker {}\n", cluster::worker().id()) }));
//!     cluster::serve("127.0.0.1:3000", app).await
//! }
//! ```
//!
//! Started by the user, the program becomes the *primary*: it starts itself once more per core, as *workers*, and runs none of
//! the code above itself. The workers run it, each on a runtime of its own, and share the port. A worker that crashes is
//! replaced at once, and what waited in its accept queue is served by others or by its replacement. TERM stops gracefully.
//!
//! ```text
//!  primary (one process)                                   worker i (one process per slot)
//!  ┌───────────────────────────────┐   control  (SEQPACKET)  ┌────────────────────────────────────┐
//!  │ main thread: supervisor loop  │◄───────────────────────►│ runtime of the user's main         │
//!  │   wait → event → step → do    │  hello, listen, ready,  │   control task · message task      │
//!  │   spawns, reaps, signals      │  drain, sockets         │   Listener: accept → place →       │
//!  ├───────────────────────────────┤  messages (STREAM)      │     serve, or hand over            │
//!  │ user thread: the primary      │◄───────────────────────►│ Worker<Up, Down>                   │
//!  │   function, message router    │                         │                                    │
//!  ├───────────────────────────────┤  mailbox (SEQPACKET)    │ Reception: takes in what           │
//!  │ holds sockets, mailboxes, the │───── connections ──────►│   anybody hands over               │
//!  │   board; hands on what waits  │                         ├────────────────────────────────────┤
//!  │   where nobody serves         │                         │ guard thread: waits for the        │
//!  │                               │                         │   primary's death                  │
//!  └───────────────────────────────┘                         └────────────────────────────────────┘
//!       board (shared memory): for each worker its connections, the ports on which it takes more, since when it is busy
//! ```
//!
//! # Where to look
//!
//! | to | see |
//! | --- | --- |
//! | set the number of workers, timeouts, the restart policy | [`main`](macro@main), [`Config`] |
//! | serve HTTP, or anything else on a shared port | [`serve()`], [`Http`], [`listen()`], [`Listener`] |
//! | say how connections are spread over the workers | [`Dispatch`], [`Sticky`], [`Placement`] |
//! | speak TLS | `Port::tls`, `Tls` (feature `rustls`), [`servers`](servers#tls) |
//! | listen on a Unix socket, limit connections, set socket options; UDP | [`Port`], [`udp()`] |
//! | serve gRPC, TLS, WebSockets, with hyper or `axum::serve` | [`servers`] |
//! | exchange typed messages | [`Message`], [`Worker`], [`Primary`], [`Reply`] |
//! | answer by many values, with backpressure | [`Replies`], [`Answers`] |
//! | send messages from worker to worker | [`Worker::peer`], [`Worker::broadcast`], [`Worker::recv_from`] |
//! | follow what happens to the workers | [`Event`], [`Exit`], [`PrimaryHandle::workers`] |
//! | know in which process the code runs | [`worker()`], [`is_worker`], [`is_primary`] |
//! | set environment, directory, output, user, limits and cores of the workers | [`Setup`] |
//! | rotate log files | [`Output::File`], [`CurrentWorker::logs_to_reopen`], [`Event::ReopenLogs`] |
//! | do without the macro | [`run()`] |
//! | know what an exit code means | [`exit_code`] |
//!
//! # Features
//!
//! | feature | default | what |
//! | --- | --- | --- |
//! | `axum` | on | [`serve()`] and [`Http`] for any tower service, and `axum::serve::Listener` for [`Listener`] |
//! | `bincode` | on | messages travel as bincode 2: integers have fixed width, encoding and decoding take the least time |
//! | `rustls` | off | `Port::tls` and `Tls`: TLS whose sessions all workers share, by rustls and ring |
//! | `postcard` | off | messages travel as postcard 1, which is smaller, instead; for those who must not have bincode, because it is no longer maintained (RUSTSEC-2025-0141) |
//!
//! For the latter, turn bincode off: `default-features = false, features = ["axum", "postcard"]`. One of the two must be on; with
//! both it is bincode, since features add up over all dependencies, and one that somebody turns on must not change what others
//! have. Both ends of a cluster need the same. The codec is part of the fingerprint, and a reload or an upgrade to a program with
//! the other one is refused. What may be sent is the same with both; but postcard's errors do not say why a value refused to
//! be encoded or decoded, and it lends what it reads: a `Visitor` of your own needs `visit_str` and `visit_bytes`, and not only
//! `visit_string` and `visit_byte_buf`.
//!
//! # Platform
//!
//! Linux 5.3 or newer, with `/proc`.

#[cfg(not(target_os = "linux"))]
compile_error!("cluster runs on Linux only");

mod aside;
mod board;
mod boot;
mod config;
mod control;
mod error;
mod exit;
mod field;
#[cfg(test)]
mod fuzz;
mod id;
mod ipc;
mod listen;
mod metrics;
mod moment;
mod os;
mod primary;
mod report;
mod reserve;
mod run;
#[cfg(feature = "axum")]
mod serve;
mod setup;
mod steps;
mod supervisor;
mod ticket_keys;
#[cfg(feature = "rustls")]
mod tls;
mod worker;

#[doc = include_str!("docs/message.md")]
pub use cluster_macros::Message;
#[doc = include_str!("docs/main.md")]
pub use cluster_macros::main;

#[cfg(any(doc, doctest))]
#[doc = include_str!("docs/servers.md")]
pub mod servers {}

pub use boot::{is_primary, is_worker};
pub use config::{Config, NoPrimary, Workers};
pub use error::{Error, Result, exit_code};
pub use exit::{Exit, ExitReason, ExitStatus};
pub use id::WorkerId;
pub use ipc::{Answers, CallError, Fd, Message, NoMessages, Replies, Reply, SendError, TrySendError};
pub use listen::{
    Address, Dispatch, Listener, Load, Loads, Placement, Port, Readiness, Sticky, Stream, ToAddress, UdpSocket, listen,
    udp,
};
pub use metrics::{Counter, Gauge, Histogram, Summary};
pub use primary::{Event, OrderError, Primary, PrimaryHandle, ReloadError, UpgradeError, WorkerInfo, WorkerState};
pub use run::{PrimaryMain, PrimaryOutput, WorkerMain, run};
#[cfg(feature = "axum")]
pub use serve::{Http, HttpClosed, Protocols, serve};
pub use setup::{Affinity, Output, Resource, Setup, Spawn};
pub use supervisor::Restart;
#[cfg(feature = "rustls")]
pub use tls::{Tls, TlsAcceptor, TlsClosed, TlsInfo};
/// The TLS library, of the version that this crate takes.
#[cfg(feature = "rustls")]
pub use tokio_rustls::rustls;
/// A connection after its handshake; what [`TlsAcceptor::accept`] returns.
#[cfg(feature = "rustls")]
pub use tokio_rustls::server::TlsStream;
pub use worker::{CurrentWorker, Peer, Sender, Worker, worker};

/// What the macros' expansions use; not for anybody else.
#[doc(hidden)]
pub mod __private {
    pub use crate::field::{bytes, data, must_be_send, replies_tag, reply_tag};
    pub use crate::ipc::{Fingerprint, ForwardedReply, Origin, ReplyTag};
    pub use serde;
}

/// The README's programs must compile.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
struct Readme;
