//! A fixture: programs that listen on ports of every kind; the first argument chooses one, `ADDR` says where and other variables how.

use std::io;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::routing::get;
use cluster::{Address, Config, Listener, Port, Sticky, Stream, worker};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

fn main() -> cluster::Result {
    if cluster::is_worker() {
        tracing_subscriber::fmt().with_ansi(false).with_writer(io::stderr).init();
    }
    let config = Config::new().workers(2);
    match variable("COOKIE") {
        Some(name) => cluster::run(config.dispatch(Sticky::cookie(&name)), program),
        None => cluster::run(config, program),
    }
}

async fn program() -> cluster::Result {
    if let Some(directory) = variable("DIRECTORY") {
        std::env::set_current_dir(directory)?;
    }
    if variable("SATURATED").is_some() {
        // The runtime always has something to do, and never parks.
        tokio::spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        });
    }
    match std::env::args().nth(1).as_deref() {
        Some("http") => cluster::serve(port(), app()).await,
        Some("greet") => greet().await,
        Some("stay") => stay().await,
        Some("starved") => starved().await,
        Some("parent") => parent().await,
        Some("options") => options().await,
        Some("fast-open") => fast_open().await,
        Some("again") => again().await,
        Some("udp") => udp().await,
        Some("attempt") => attempt().await,
        other => Err(format!("no program {other:?}").into()),
    }
}

/// Descriptors that the starved worker may open besides those that it has when it listens.
const SPARE: u64 = 40;

/// Connects with the data, where the server allows it; see tcp(7).
const MSG_FASTOPEN: i32 = 0x2000_0000;

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

fn number(name: &str) -> Option<u32> {
    variable(name).map(|text| text.parse().expect("the test gives a number"))
}

fn address() -> String {
    variable("ADDR").unwrap_or_else(|| "127.0.0.1:0".into())
}

fn port() -> Port {
    let mut port = Port::at(address());
    if let Some(mode) = variable("MODE") {
        port = port.mode(u32::from_str_radix(&mode, 8).expect("the test gives an octal number"));
    }
    if let Some(only) = variable("V6_ONLY") {
        port = port.v6_only(only == "true");
    }
    if let Some(most) = number("MAX") {
        port = port.max_connections(most as usize);
    }
    if let Some(backlog) = number("BACKLOG") {
        port = port.backlog(backlog);
    }
    if let Some(seconds) = number("KEEPALIVE") {
        port = port.keepalive(Duration::from_secs(seconds.into()));
    }
    if let Some(seconds) = number("DEFER_ACCEPT") {
        port = port.defer_accept(Duration::from_secs(seconds.into()));
    }
    if let Some(nodelay) = variable("NODELAY") {
        port = port.nodelay(nodelay == "true");
    }
    if let Some(pending) = number("FAST_OPEN") {
        port = port.fast_open(pending);
    }
    port
}

fn say(what: &str) {
    println!("worker {}: {what}", worker().id());
}

fn me() -> String {
    format!("{} {} {} {}", worker().id(), worker().slot(), worker().generation(), std::process::id())
}

fn app() -> Router {
    let peer = |ConnectInfo(peer): ConnectInfo<Address>| async move { format!("{peer:?}") };
    let socket = |ConnectInfo(peer): ConnectInfo<SocketAddr>| async move { peer.to_string() };
    Router::new().route("/who", get(|| async { me() })).route("/peer", get(peer)).route("/socket", get(socket))
}

/// Tells every client who it is and keeps the connection until the client closes it.
async fn greet() -> cluster::Result {
    greet_all(&cluster::listen(port()).await?).await;
    Ok(())
}

/// Greets, and does not end before its last client has gone.
async fn stay() -> cluster::Result {
    greet_all(&cluster::listen(port()).await?).await;
    // The library ends a worker that drains and has no connection.
    std::future::pending().await
}

async fn greet_all(listener: &Listener) {
    let most = number("MAX").map_or(usize::MAX, |most| most as usize);
    let open = Arc::new(AtomicUsize::new(0));
    while let Ok((mut stream, _)) = listener.accept().await {
        let open = Arc::clone(&open);
        if open.fetch_add(1, Ordering::Relaxed) + 1 > most {
            say("has more connections than it may");
        }
        tokio::spawn(async move {
            // How a client goes is its own business.
            _ = attend(&mut stream).await;
            // The library counts the stream until it is dropped, so ours must not be the higher count.
            open.fetch_sub(1, Ordering::Relaxed);
            drop(stream);
        });
    }
}

async fn attend(stream: &mut Stream) -> io::Result<()> {
    stream.write_all(format!("{}\n", me()).as_bytes()).await?;
    stream.read_to_end(&mut Vec::new()).await?;
    Ok(())
}

/// The worker of slot 0 can open but a few files more; it greets until it runs into that, and goes on.
async fn starved() -> cluster::Result {
    let listener = cluster::listen(port()).await?;
    if worker().slot() == 0 {
        let open = std::fs::read_dir("/proc/self/fd")?.count() as u64;
        let (_, most) = getrlimit(Resource::RLIMIT_NOFILE).map_err(io::Error::from)?;
        setrlimit(Resource::RLIMIT_NOFILE, open + SPARE, most).map_err(io::Error::from)?;
        say("has few descriptors");
    }
    greet_all(&listener).await;
    Ok(())
}

/// Serves, and has a child that lives as long as it does.
async fn parent() -> cluster::Result {
    let child = Command::new("cat").stdin(Stdio::piped()).spawn()?;
    say(&format!("has the child {}", child.id()));
    cluster::serve(port(), app()).await
}

/// Says what is set on every connection that it accepts.
async fn options() -> cluster::Result {
    let listener = cluster::listen(port()).await?;
    while let Ok((mut stream, client)) = listener.accept().await {
        let socket = SockRef::from(&stream);
        let (nodelay, keepalive) = (socket.tcp_nodelay()?, socket.keepalive()?);
        let idle = socket.tcp_keepalive_time()?.as_secs();
        say(&format!("accepted {client}: nodelay={nodelay} keepalive={keepalive} idle={idle}"));
        stream.write_all(format!("{}\n", me()).as_bytes()).await?;
    }
    Ok(())
}

/// Connects to itself twice, the second time with data in the first packet, and says how often the kernel has taken such data.
async fn fast_open() -> cluster::Result {
    let listener = cluster::listen(port()).await?;
    let address = listener.local_addr()?.socket().expect("it is TCP");
    let client = tokio::task::spawn_blocking(move || {
        // The first brings the cookie that the second needs.
        for _ in 0..2 {
            let client = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
            client.send_to_with_flags(b"hello", &address.into(), MSG_FASTOPEN)?;
            client.recv(&mut [MaybeUninit::uninit(); 64])?;
        }
        io::Result::Ok(())
    });
    for _ in 0..2 {
        let mut stream = listener.accept().await?.0;
        stream.read_exact(&mut [0; 5]).await?;
        stream.write_all(b"hello").await?;
    }
    client.await.expect("it does not panic")?;
    let counters = std::fs::read_to_string("/proc/self/net/netstat")?;
    let mut lines = counters.lines().filter_map(|line| line.strip_prefix("TcpExt: "));
    let (names, values) = (lines.next().unwrap_or_default(), lines.next().unwrap_or_default());
    let taken = names.split(' ').zip(values.split(' ')).find(|(name, _)| *name == "TCPFastOpenPassive");
    say(&format!("data in the first packet: {}", taken.map_or("not counted", |(_, count)| count)));
    worker().shutdown().await;
    Ok(())
}

/// Listens, greets one client, drops the listener, and listens again once the file `GATE` is there.
async fn again() -> cluster::Result {
    let listener = cluster::listen(port()).await?;
    let first = listener.local_addr()?;
    // The first client to come tells who is asked for.
    let mut stream = listener.accept().await?.0;
    drop(listener);
    stream.write_all(format!("{}\n", me()).as_bytes()).await?;
    drop(stream);
    say("does not listen");
    let gate = variable("GATE").expect("the test says where");
    while !Path::new(&gate).exists() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let listener = cluster::listen(port()).await?;
    say(&format!("had {first} and has {}", listener.local_addr()?));
    greet_all(&listener).await;
    Ok(())
}

/// Answers every datagram with who it is and what the datagram said.
async fn udp() -> cluster::Result {
    let socket = cluster::udp(port()).await?;
    let mut datagram = [0; 1500];
    loop {
        tokio::select! {
            () = worker().shutdown() => return Ok(()),
            received = socket.recv_from(&mut datagram) => {
                let (len, client) = received?;
                let answer = [format!("{} ", me()).as_bytes(), &datagram[..len]].concat();
                socket.send_to(&answer, client).await?;
            }
        }
    }
}

/// Tries to listen, once, and says what comes of it.
async fn attempt() -> cluster::Result {
    let outcome = match variable("UDP") {
        Some(_) => cluster::udp(port()).await.map(|socket| socket.address().clone()),
        None => cluster::listen(port()).await.and_then(|listener| listener.local_addr()),
    };
    match outcome {
        Ok(address) => say(&format!("listened on {address}")),
        Err(error) => say(&format!("{:?}: {error}", error.kind())),
    }
    worker().ready();
    worker().shutdown().await;
    Ok(())
}
