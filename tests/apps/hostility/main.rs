//! A fixture: a service in which one worker does one hostile thing to what it holds, when a request asks for it.
//!
//! `hostility list` prints the table of what can be done. `hostility serve` serves, on what `ADDR` and other variables say:
//! `GET /who` tells which worker answers, `GET /news` has it tell all others something, `GET /act/<number>` does what stands at that place of the table, and `GET /held` lists
//! what the worker holds.

mod acts;
mod calls;
mod held;
mod options;
mod wire;

use std::fmt::Write as _;

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use cluster::{Config, Message, Output, Port, Primary, Resource, Setup, Sticky, Worker, worker};
use held::Held;

#[derive(Debug, Message)]
enum ToPrimary {
    /// Never sent; something to get wrong.
    Hit(u64),
}

#[derive(Debug, Message)]
enum ToWorker {
    News(String),
}

fn main() -> cluster::Result {
    // Before the library takes the mark away.
    held::remember_lanes();
    match std::env::args().nth(1).as_deref() {
        Some("list") => {
            print!("{}", list());
            Ok(())
        }
        Some("serve") => serve(),
        other => Err(format!("no program {other:?}").into()),
    }
}

/// One line for each act: its number, on what, the call, and what it may cost until the worker has gone; with tabs between.
fn list() -> String {
    let mut list = String::new();
    for (number, act) in acts::table().iter().enumerate() {
        _ = writeln!(list, "{number}\t{}\t{}\t{}", act.on, act.call, act.cost.unwrap_or_default());
    }
    list
}

fn serve() -> cluster::Result {
    let mut setup = Setup::new();
    if let Some(most) = std::env::var("FILES").ok().and_then(|text| text.parse().ok()) {
        setup = setup.rlimit(Resource::Files, most, most);
    }
    if let Ok(log) = std::env::var("LOG_FILE") {
        setup = setup.output(Output::File(log.into()));
    }
    let config = Config::new().workers(3).primary(watch).setup(setup);
    match std::env::var("COOKIE") {
        Ok(name) => cluster::run(config.dispatch(Sticky::cookie(&name)), program),
        Err(_) => cluster::run(config, program),
    }
}

/// The primary function: prints what happens.
async fn watch(mut primary: Primary<ToPrimary, ToWorker>) -> cluster::Result {
    while let Some(event) = primary.next().await {
        println!("{event:?}");
    }
    Ok(())
}

type Crew = Worker<ToPrimary, ToWorker>;

async fn program(worker: Crew) -> cluster::Result {
    let listener = worker.clone();
    tokio::spawn(async move { while let Some(ToWorker::News(_)) = listener.recv().await {} });
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:0".into());
    if let Ok(echo) = std::env::var("UDP_ADDR") {
        let socket = cluster::udp(Port::at(echo)).await?;
        println!("datagrams go to {}", socket.address());
        tokio::spawn(answer_datagrams(socket));
    }
    match std::env::var("SECOND_ADDR") {
        Ok(second) => {
            let (first, second) =
                tokio::join!(cluster::serve(address, app(&worker)), cluster::serve(second, app(&worker)));
            first.and(second)
        }
        Err(_) => cluster::serve(address, app(&worker)).await,
    }
}

fn app(worker: &Crew) -> Router {
    let worker = worker.clone();
    Router::new()
        .route("/news", get(async move || tell(&worker).await))
        .route("/who", get(|| async { me() }))
        .route("/held", get(|| async { Held::look().map_or_else(|error| error.to_string(), |held| held.to_string()) }))
        .route("/act/{number}", get(|Path(number): Path<usize>| async move { act(number) }))
}

/// The first time, this needs lanes to all others.
async fn tell(worker: &Crew) -> String {
    match worker.broadcast(ToWorker::News("news".into())).await {
        Ok(reached) => format!("{reached}"),
        Err(error) => error.to_string(),
    }
}

fn me() -> String {
    format!("{} {} {} {}", worker().id(), worker().slot(), worker().generation(), std::process::id())
}

/// Says what has come of it, if it comes back.
fn act(number: usize) -> String {
    let table = acts::table();
    let Some(act) = table.get(number) else { return format!("failed: no act {number}") };
    match Held::look().and_then(|held| act.commit(&held)) {
        Ok(0) => "none".into(),
        Ok(done) => format!("done {done}"),
        Err(error) => format!("failed: {error}"),
    }
}

/// Until there is no socket any more: a worker that has broken its own one is told so, and goes on with the rest.
async fn answer_datagrams(socket: cluster::UdpSocket) {
    let mut datagram = [0; 1500];
    loop {
        let answered = async {
            let (len, client) = socket.recv_from(&mut datagram).await?;
            socket.send_to(&datagram[..len], client).await
        };
        tokio::select! {
            () = worker().shutdown() => return,
            answered = answered => if answered.is_err() {
                tokio::task::yield_now().await;
            },
        }
    }
}
