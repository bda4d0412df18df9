//! A fixture: programs that use listeners in their own ways; the first argument chooses one. `ADDR` says where.

use std::io;
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::routing::get;
use axum::{Router, extract::Request};
use cluster::{Address, CurrentWorker, Http, Listener, worker};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn main() -> cluster::Result {
    if std::env::args().nth(1).as_deref() == Some("grandchild") {
        println!("grandchild: worker={} primary={}", cluster::is_worker(), cluster::is_primary());
        return Ok(());
    }
    println!("before run: worker={} primary={}", cluster::is_worker(), cluster::is_primary());
    cluster::run(cluster::Config::new().workers(2), program)
}

async fn program() -> cluster::Result {
    match std::env::args().nth(1).as_deref() {
        Some("plain") => plain().await,
        Some("axum") => Ok(axum::serve(listen().await?, app()).await?),
        Some("axum-graceful") => {
            Ok(axum::serve(listen().await?, app()).with_graceful_shutdown(worker().shutdown()).await?)
        }
        Some("several") => several().await,
        Some("twice") => twice().await,
        Some("hasty") => hasty().await,
        Some("stubborn") => stubborn().await,
        Some("impatient") => {
            let patience = Duration::from_millis(200);
            Http::new().header_timeout(patience).idle_timeout(patience).serve(address(), app()).await
        }
        Some("upgrade") => cluster::serve(address(), Router::new().route("/upgrade", get(upgrade))).await,
        Some("heavy") => {
            let nap = || async { tokio::time::sleep(Duration::from_millis(50)).await };
            let app = Router::new().route("/", get(|| async { vec![b'x'; HEAVY] })).route("/nap", get(nap));
            Http::new().header_timeout(Duration::from_millis(700)).serve(address(), app).await
        }
        Some("panics-beside-a-task") => panics_beside_a_task().await,
        Some("quiet") => quiet().await,
        Some("idle") => idle().await,
        Some("parent") => parent().await,
        other => Err(format!("no program {other:?}").into()),
    }
}

/// More than all buffers between a server and its client hold.
const HEAVY: usize = 32 << 20;

/// What runs on a blocking thread cannot be ended; the worker must not wait for it.
async fn panics_beside_a_task() -> cluster::Result {
    tokio::task::spawn_blocking(std::thread::park);
    tokio::task::yield_now().await;
    panic!("while a blocking task runs")
}

fn address() -> String {
    std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:0".into())
}

async fn listen() -> io::Result<Listener> {
    cluster::listen(address()).await
}

fn say(what: &str) {
    println!("worker {}: {what}", worker().id());
}

fn app() -> Router {
    let hello = |ConnectInfo(peer): ConnectInfo<Address>| async move { format!("{} {peer}", worker().id()) };
    let plain = Router::new().route("/", get(|| async { worker().id().to_string() }));
    plain.route("/peer", get(hello))
}

/// A loop over `accept`, as for any protocol.
async fn plain() -> cluster::Result {
    let listener = listen().await?;
    while let Ok((mut stream, _)) = listener.accept().await {
        let greeting = worker().id().to_string();
        stream.write_all(greeting.as_bytes()).await?;
    }
    say("the loop has ended");
    Ok(())
}

/// Two kernel-chosen ports, closed and asked for again.
async fn several() -> cluster::Result {
    let (one, two) = (listen().await?, listen().await?);
    let (first, second) = (one.local_addr()?, two.local_addr()?);
    drop(one);
    let again = listen().await?.local_addr()?;
    say(&format!("ports {first} {second} {again}"));
    worker().shutdown().await;
    Ok(())
}

async fn twice() -> cluster::Result {
    let first = listen().await?;
    let error = cluster::listen(first.local_addr()?.to_string()).await.expect_err("this port is the cluster's already");
    say(&format!("the second is refused: {:?}", error.kind()));
    let fixed = std::env::var("FIXED").expect("the test says where");
    let _held = cluster::listen(&fixed).await?;
    let error = cluster::listen(&fixed).await.expect_err("this worker listens there already");
    say(&format!("the same is refused: {:?}", error.kind()));
    worker().shutdown().await;
    Ok(())
}

/// Asks for a port and does not wait for it, many times over.
async fn hasty() -> cluster::Result {
    let open = || std::fs::read_dir("/proc/self/fd").map(Iterator::count);
    drop(listen().await?);
    let before = open()?;
    for _ in 0..200 {
        tokio::select! {
            biased;
            _ = listen() => return Err("the primary cannot have answered yet".into()),
            () = std::future::ready(()) => {}
        }
    }
    // The answers come in order, so the ones that nobody waited for have come when this one has.
    let listener = listen().await?;
    say(&format!("{} more descriptors", open()? - before));
    axum::serve(listener, app()).await?;
    Ok(())
}

/// Tries until it works, and says why it did not.
async fn stubborn() -> cluster::Result {
    let listener = loop {
        match listen().await {
            Ok(listener) => break listener,
            Err(error) => say(&format!("{:?}: {error}", error.kind())),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    say("listens at last");
    worker().shutdown().await;
    drop(listener);
    Ok(())
}

/// Speaks a protocol of its own after the upgrade, and says goodbye when the worker goes.
async fn upgrade(request: Request) -> axum::response::Response {
    tokio::spawn(async move {
        let upgraded = hyper::upgrade::on(request).await.expect("the client asked for it");
        let mut stream = hyper_util::rt::TokioIo::new(upgraded);
        let mut byte = [0];
        loop {
            tokio::select! {
                read = stream.read(&mut byte) => match read {
                    Ok(1) => stream.write_all(&byte).await.expect("the client reads"),
                    Ok(_) | Err(_) => return,
                },
                () = worker().shutdown() => return stream.write_all(b"bye").await.expect("the client reads"),
            }
        }
    });
    let response =
        axum::http::Response::builder().status(101).header("connection", "upgrade").header("upgrade", "echo");
    response.body(axum::body::Body::empty()).expect("it is a response")
}

/// No listener at all: a consumer of queues, say.
async fn quiet() -> cluster::Result {
    let me: CurrentWorker = worker();
    me.ready();
    me.shutdown().await;
    say("was told to go");
    Ok(())
}

/// Listens, and does not care how it ends.
async fn idle() -> cluster::Result {
    let _listener = listen().await?;
    std::future::pending().await
}

/// Starts this program again, as a worker may do.
async fn parent() -> cluster::Result {
    let program = std::env::current_exe()?;
    std::process::Command::new(program).arg("grandchild").status()?;
    worker().ready();
    worker().shutdown().await;
    Ok(())
}
