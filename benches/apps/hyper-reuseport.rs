//! As little as serving HTTP in Rust can cost: hyper without a framework, and a runtime and a socket of its own for each of `WORKERS` threads.

mod report;

use std::convert::Infallible;
use std::net::SocketAddr;
use std::{env, io, process, thread};

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use socket2::{Domain, Socket, Type};
use tokio::net::TcpListener;

fn main() {
    let address = env::var("ADDR").ok().and_then(|text| text.parse().ok()).expect("ADDR is an address");
    let workers: usize = env::var("WORKERS").ok().and_then(|text| text.parse().ok()).expect("WORKERS is a number");
    let threads: Vec<_> = (0..workers).map(|number| thread::spawn(move || run(number, address))).collect();
    for thread in threads {
        thread.join().expect("no thread panics").expect("the sockets work");
    }
}

#[tokio::main(flavor = "current_thread")]
async fn run(number: usize, address: SocketAddr) -> io::Result<()> {
    let listener = listen(address)?;
    loop {
        let (stream, _) = listener.accept().await?;
        let service = service_fn(move |request| answer(number, request));
        tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
    }
}

fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(1024)?;
    TcpListener::from_std(socket.into())
}

async fn answer(number: usize, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = match request.uri().path() {
        "/" => format!("hello from pid {}\n", process::id()),
        "/who" => number.to_string(),
        "/generate-report" => report::generate().await,
        _ => return Ok(not_found()),
    };
    let mut response = Response::new(Full::from(body));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    Ok(response)
}

fn not_found() -> Response<Full<Bytes>> {
    let mut response = Response::default();
    *response.status_mut() = StatusCode::NOT_FOUND;
    response
}
