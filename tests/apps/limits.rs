//! A fixture: HTTP with limits. `HTTP` has them, as in `header=300,idle=off,streams=2`; the first argument says how connections come.

use std::convert::Infallible;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request};
use axum::response::Response;
use axum::routing::{any, get, post};
use cluster::{Address, Config, Http, HttpClosed, Protocols};
use futures_util::stream::unfold;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::sleep;

fn main() -> cluster::Result {
    cluster::run(Config::new().workers(1), program)
}

async fn program() -> cluster::Result {
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:0".into());
    match std::env::args().nth(1).as_deref() {
        None => http().serve(address, app()).await,
        Some(way) => carried(way, address).await,
    }
}

/// Every connection comes by another way than a listener of `serve`.
async fn carried(way: &str, address: String) -> cluster::Result {
    let (http, listener) = (http(), cluster::listen(address).await?);
    let mut clients = JoinSet::new();
    while let Ok((mut stream, peer)) = listener.accept().await {
        match way {
            "descriptor" => {
                let tcp = tokio::net::TcpStream::from_std(stream.into_fd()?.into())?;
                clients.spawn(http.serve_connection(tcp, app()));
            }
            "duplex" => {
                let (mut near, far) = tokio::io::duplex(1024);
                clients.spawn(http.serve_connection_from(far, peer, app()));
                clients.spawn(async move { _ = tokio::io::copy_bidirectional(&mut stream, &mut near).await });
            }
            _ => return Err(format!("no way {way:?}").into()),
        }
    }
    while clients.join_next().await.is_some() {}
    Ok(())
}

fn http() -> Http {
    let settings = std::env::var("HTTP").unwrap_or_default();
    settings.split(',').filter(|setting| !setting.is_empty()).fold(Http::new(), |http, setting| {
        let (name, value) = setting.split_once('=').expect("a name and a value");
        let number = (value != "off").then(|| value.parse::<usize>().ok()).flatten();
        let time = number.map(|milliseconds| Duration::from_millis(milliseconds as u64));
        match name {
            "header" => http.header_timeout(time),
            "idle" => http.idle_timeout(time),
            "body" => http.body_timeout(time),
            "write" => http.write_timeout(time),
            "head" => http.max_head(number),
            "headers" => http.max_headers(number),
            "streams" => http.max_streams(number.map(|number| number as u32)),
            "list" => http.max_header_list(number.map(|number| number as u32)),
            "flood" => http.max_control_frames(number.map(|number| number as u32)),
            "host" => http.require_host(number.is_some()),
            "concurrency" => http.concurrency(number),
            "requests" => http.max_requests_per_connection(number.map(|number| number as u64)),
            "connect" => http.extended_connect(number.is_some()),
            "ping" => time.map_or_else(|| http.clone(), |time| http.clone().keep_alive(time, time)),
            "protocols" => http.protocols(match value {
                "1" => Protocols::Http1,
                "2" => Protocols::Http2,
                _ => Protocols::Both,
            }),
            _ => panic!("no setting {name:?}"),
        }
    })
}

fn app() -> Router {
    Router::new()
        .route("/", get(|| async { "hello" }))
        .route("/peer", get(|peer: Address| async move { peer.to_string() }))
        .route("/length", post(async |body: Bytes| body.len().to_string()))
        .route("/ignore/{ms}", post(ignore))
        .route("/late/{ms}", post(late))
        .route("/slow/{ms}", get(slow))
        .route("/whole/{kib}", get(async |Path(kib): Path<usize>| vec![b'x'; kib << 10]))
        .route("/stream/{kib}", get(stream))
        .route("/events/{ms}", get(events))
        .route("/tunnel", any(tunnel))
        .route("/held", get(|| async { HELD.load(Ordering::SeqCst).to_string() }))
        .route("/closed", get(closed))
}

/// Answers that the server has not let go of.
static HELD: AtomicUsize = AtomicUsize::new(0);

struct Held;

impl Held {
    fn new() -> Self {
        HELD.fetch_add(1, Ordering::SeqCst);
        Self
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Never looks at what is sent.
async fn ignore(Path(ms): Path<u64>, _request: Request) -> &'static str {
    let _held = Held::new();
    sleep(Duration::from_millis(ms)).await;
    "ignored"
}

/// Looks at what is sent only after some time.
async fn late(Path(ms): Path<u64>, request: Request) -> String {
    sleep(Duration::from_millis(ms)).await;
    match axum::body::to_bytes(request.into_body(), usize::MAX).await {
        Ok(body) => body.len().to_string(),
        Err(error) => error.to_string(),
    }
}

async fn slow(Path(ms): Path<u64>) -> &'static str {
    let _held = Held::new();
    sleep(Duration::from_millis(ms)).await;
    "slow"
}

/// One part after the other, each when the one before is taken.
async fn stream(Path(kib): Path<usize>) -> Body {
    const PART: usize = 16 << 10;
    let parts = unfold((Held::new(), kib << 10), async |(held, rest)| {
        let length = rest.min(PART);
        (length > 0).then(|| (Ok::<_, Infallible>(vec![b'x'; length]), (held, rest - length)))
    });
    Body::from_stream(parts)
}

/// Four events, with some time before each.
async fn events(Path(ms): Path<u64>) -> Body {
    Body::from_stream(unfold(0, move |count| async move {
        if count == 4 {
            return None;
        }
        sleep(Duration::from_millis(ms)).await;
        Some((Ok::<_, Infallible>(format!("data: {count}\n\n")), count + 1))
    }))
}

/// Says every byte back, as another protocol: after an upgrade in HTTP/1, and as a stream of HTTP/2.
async fn tunnel(request: Request) -> Response {
    let is_http2 = request.version() == axum::http::Version::HTTP_2;
    tokio::spawn(async move {
        let Ok(upgraded) = hyper::upgrade::on(request).await else { return };
        let mut stream = TokioIo::new(upgraded);
        let mut byte = [0];
        while stream.read_exact(&mut byte).await.is_ok() && stream.write_all(&byte).await.is_ok() {
            _ = stream.flush().await;
        }
    });
    let response = Response::builder();
    let response = if is_http2 {
        response.status(200)
    } else {
        response.status(101).header("connection", "upgrade").header("upgrade", "echo")
    };
    response.body(Body::empty()).expect("it is a response")
}

async fn closed() -> String {
    let line = |why: HttpClosed| format!("{why:?} {}\n", why.counter().total());
    HttpClosed::ALL.map(line).concat()
}
