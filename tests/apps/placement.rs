//! A fixture: an HTTP service that says who serves. The first argument is the policy, where `CLUSTER_DISPATCH` has no word for
//! it; `ADDR` says where it listens, and `SECOND` where the worker of slot 0 does besides.
//!
//! Replacements can be made to come late: with `HELD`, the path of a Unix socket, they listen once nobody listens there. Or never:
//! with `CRASHING` set they exit as soon as they are ready.

use std::future::poll_fn;
use std::io;
use std::path::Path;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::routing::{get, post};
use cluster::{Address, Config, Dispatch, Loads, Placement, Primary, Sticky, worker};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UnixStream};

fn main() -> cluster::Result {
    let dispatch = match std::env::args().nth(1).as_deref() {
        None => Dispatch::default(),
        Some("cookie") => Sticky::cookie("sid").into(),
        Some("header") => Sticky::header("x-user").into(),
        Some("custom") => ByLastOctet.into(),
        Some("panicking") => Panicking.into(),
        Some("stuck") => Stuck.into(),
        Some(other) => return Err(format!("no policy {other:?}").into()),
    };
    cluster::run(Config::new().dispatch(dispatch).primary(tell), program)
}

async fn program() -> cluster::Result {
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:0".into());
    if is_replacement() {
        if let Ok(path) = std::env::var("HELD") {
            be_held(&path).await;
        }
        if std::env::var("CRASHING").is_ok() {
            let _listener = cluster::listen(address).await?;
            // Time enough to be sent connections. It accepts none.
            tokio::time::sleep(Duration::from_millis(20)).await;
            std::process::exit(1);
        }
    }
    let app = Router::new()
        .route("/who", get(who))
        .route("/echo", post(async |body: String| format!("{} {body}", worker().slot())))
        .route("/spin", get(spin))
        .route("/spin-next", get(async || SPIN_NEXT.store(true, Ordering::Relaxed)));
    let second = std::env::var("SECOND").ok().filter(|_| worker().slot() == 0);
    let mut served = pin!(async {
        let also = async {
            match second {
                Some(second) => cluster::serve(second, app.clone()).await,
                None => Ok(()),
            }
        };
        tokio::try_join!(also, cluster::serve(address, app.clone())).map(|_| ())
    });
    poll_fn(|context| {
        if SPIN_NEXT.load(Ordering::Relaxed) {
            spin_until_released();
        }
        served.as_mut().poll(context)
    })
    .await
}

/// Whether to spin instead of accepting the next connection.
static SPIN_NEXT: AtomicBool = AtomicBool::new(false);

fn is_replacement() -> bool {
    let first = std::env::var("CLUSTER_WORKERS").ok().and_then(|workers| workers.parse().ok()).unwrap_or(u64::MAX);
    worker().id().get() > first
}

/// Waits until the other end goes.
async fn be_held(path: &str) {
    if let Ok(mut holder) = UnixStream::connect(path).await {
        _ = holder.read(&mut [0]).await;
    }
}

async fn who() -> String {
    let me = worker();
    format!("{} {} {} {}", me.id(), me.slot(), me.generation(), std::process::id())
}

async fn spin() -> &'static str {
    spin_until_released();
    "released"
}

/// Keeps the worker busy until the file `RELEASE` is there, or for ever.
fn spin_until_released() {
    println!("spinning");
    let release = std::env::var("RELEASE").ok();
    while !release.as_ref().is_some_and(|path| Path::new(path).exists()) {
        std::hint::spin_loop();
    }
}

/// Prints what happens, and gives everybody who connects to it the figures of all workers, without any worker's help.
async fn tell(mut primary: Primary) -> io::Result<()> {
    let desk = TcpListener::bind("127.0.0.1:0").await?;
    println!("figures on {}", desk.local_addr()?);
    loop {
        tokio::select! {
            event = primary.next() => match event {
                Some(event) => println!("{event:?}"),
                None => return Ok(()),
            },
            asked = desk.accept() => {
                let lines = primary.workers().into_iter().map(|worker| {
                    let cluster::WorkerInfo { slot, pid, open, accepted, handed_over, .. } = worker;
                    format!("{slot} {pid} {open} {accepted} {handed_over}\n")
                });
                // Who has gone away again does not want it.
                _ = asked?.0.write_all(lines.collect::<String>().as_bytes()).await;
            }
        }
    }
}

/// The client's address says which slot it wants: 127.0.0.10 is for slot 0, and so on.
#[derive(Debug)]
struct ByLastOctet;

impl Placement for ByLastOctet {
    fn place(&self, client: &Address, _: &Loads<'_>) -> Option<usize> {
        match client.socket()?.ip() {
            std::net::IpAddr::V4(address) => usize::from(address.octets()[3]).checked_sub(10),
            std::net::IpAddr::V6(_) => None,
        }
    }
}

/// Says nothing of anybody.
#[derive(Debug)]
struct Panicking;

impl Placement for Panicking {
    fn place(&self, client: &Address, _: &Loads<'_>) -> Option<usize> {
        panic!("a bug where {client} is to be placed")
    }
}

/// Does not come to an end in the primary, until it is released.
#[derive(Debug)]
struct Stuck;

impl Placement for Stuck {
    fn place(&self, _: &Address, loads: &Loads<'_>) -> Option<usize> {
        if cluster::is_primary() {
            spin_until_released();
        }
        loads.least_loaded()
    }
}
