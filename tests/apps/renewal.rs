//! A fixture: a service that is reloaded, scaled and watched, and the orders for that over HTTP.
//!
//! `MODE` names a file whose first word says how the workers behave that start from now on, and whose second is their release.
//! `renewal_other` is its next release, whose messages are others.

use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::routing::{get, post};
use cluster::{Config, Dispatch, Event, Message, Primary, PrimaryHandle, Reply, Worker, WorkerId};
use tokio::time::sleep;

#[derive(Debug, Message)]
enum ToPrimary {
    Do {
        order: String,
        outcome: Reply<String>,
    },
    /// The outcome is printed.
    Begin {
        order: String,
    },
    Hit,
    Total(Reply<u64>),
    /// Never answered.
    Forget(Reply<u64>),
}

static COUNTED: cluster::Counter = cluster::counter!("counted", "requests to count");
static HELD: cluster::Gauge = cluster::gauge!("held", "what a worker holds");
static SIZES: cluster::Histogram = cluster::histogram!("sizes", "sizes that were asked for");

fn main() -> cluster::Result {
    let mark = std::env::var("CLUSTER_WORKER").unwrap_or_default();
    let mut config = Config::new().workers(2);
    // As the next program of a primary, or one that is tried for it.
    if let Some(role) = mark.strip_prefix("2 ") {
        let is_trial = role.contains("verdict=");
        let is_first = !role.contains("reason=-1");
        match (mode().0.as_str(), is_trial) {
            ("trial-hangs", true) => std::thread::sleep(Duration::from_secs(600)),
            ("trial-crashes", true) => std::process::abort(),
            ("trial-exits", true) => std::process::exit(0),
            ("in-primary", _) => config = config.dispatch(Dispatch::RoundRobin),
            // It could go on, and cannot. The program that was can.
            ("trial-lies", false) if !is_first => config = config.grace(Duration::MAX),
            ("both-lie", false) => config = config.grace(Duration::MAX),
            _ => {}
        }
    }
    cluster::run(config.primary(obey), work)
}

async fn work(worker: Worker<ToPrimary>) -> cluster::Result {
    let (mode, release) = mode();
    if mode == "chatty" {
        tokio::spawn(chat(worker.clone()));
    }
    if mode == "hundred" {
        for _ in 0..100 {
            worker.send(ToPrimary::Hit).await?;
        }
        println!("has sent a hundred");
    }
    match mode.as_str() {
        "slow" => sleep(Duration::from_secs(2)).await,
        "hang" => std::future::pending().await,
        "spin" => spin().await,
        "exit" => std::process::exit(7),
        "exit-or-deaf" if worker.slot() == 0 => {
            sleep(Duration::from_secs(1)).await;
            std::process::exit(7);
        }
        "exit-or-deaf" => std::thread::sleep(Duration::from_secs(600)),
        "abort" => std::process::abort(),
        _ => {}
    }
    let app = Router::new()
        .route("/who", get(who))
        .route("/release", get(async move || release))
        .route("/do/{order}", get(order))
        .route("/begin/{order}", get(begin))
        .route("/slow/{ms}", get(slow))
        .route("/hit", get(hit))
        .route("/count", get(async || COUNTED.add(1)))
        .route("/counted", get(counted))
        .route("/hold/{held}", get(async |Path(held): Path<i64>| HELD.set(held)))
        .route("/size/{size}", get(async |Path(size): Path<u64>| SIZES.record(size)))
        .route("/total", get(total))
        .route("/forget", get(forget))
        .route("/length", post(async |body: Bytes| body.len().to_string()))
        .route("/spin", get(spin))
        .route("/block", get(async || std::thread::sleep(Duration::from_secs(60))))
        .route("/eat/{mib}", get(eat))
        .with_state(worker);
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:0".into());
    cluster::serve(address, app).await?;
    if mode == "deaf" {
        println!("deaf");
        std::future::pending::<()>().await;
    }
    Ok(())
}

fn mode() -> (String, String) {
    let text = std::env::var("MODE").ok().and_then(|path| std::fs::read_to_string(path).ok()).unwrap_or_default();
    let mut words = text.split_whitespace().map(str::to_owned);
    (words.next().unwrap_or_default(), words.next().unwrap_or_default())
}

async fn obey(mut primary: Primary<ToPrimary>) -> cluster::Result {
    let mut hits: u64 = primary.carried()?.unwrap_or_default();
    let (mut forgotten, mode) = (Vec::new(), mode().0);
    println!("begins with {hits} hits");
    if std::env::var_os("SHOW_MASK").is_some() {
        let signals = std::process::Command::new("grep").args(["SigBlk", "/proc/self/status"]).output()?;
        println!("signals blocked in a child: {}", String::from_utf8_lossy(&signals.stdout).trim());
    }
    while let Some(event) = primary.next().await {
        match event {
            Event::Message(_, ToPrimary::Do { order, outcome }) => {
                let handle = primary.handle();
                tokio::spawn(async move { outcome.send(carry_out(&handle, &order).await) });
            }
            Event::Message(_, ToPrimary::Begin { order }) => {
                let handle = primary.handle();
                tokio::spawn(async move { println!("done: {order}: {}", carry_out(&handle, &order).await) });
            }
            // As fast as a slow function is.
            Event::Message(_, ToPrimary::Hit) => {
                hits += 1;
                if mode == "chatty" && hits.is_multiple_of(10) {
                    sleep(Duration::from_millis(1)).await;
                }
            }
            Event::Message(_, ToPrimary::Total(reply)) => reply.send(hits),
            Event::Message(_, ToPrimary::Forget(reply)) => forgotten.push(reply),
            Event::Upgrading => {
                println!("Upgrading");
                primary.carry(&hits)?;
                if std::env::var_os("LINGER").is_some() {
                    sleep(Duration::from_secs(3)).await;
                }
            }
            event => println!("{event:?}"),
        }
    }
    println!("ends with {hits} hits");
    if mode == "blocked" {
        std::future::pending::<()>().await;
    }
    Ok(())
}

/// Sends as fast as it may.
async fn chat(worker: Worker<ToPrimary>) {
    for _ in 0..CHAT {
        worker.send(ToPrimary::Hit).await.expect("the primary lives");
    }
    println!("has sent all");
}

/// Messages of a chatty worker.
const CHAT: usize = 20_000;

/// An order is a word, or a word and numbers, with dashes between.
async fn carry_out(primary: &PrimaryHandle<ToPrimary>, order: &str) -> String {
    let words: Vec<_> = order.split('-').collect();
    let number = |nth: usize| words[nth].parse::<u64>().expect("a number");
    let worker = |nth: usize| -> WorkerId {
        let found = primary.workers().into_iter().find(|worker| worker.id.get() == number(nth));
        found.expect("a worker's number").id
    };
    match words[0] {
        "upgrade" => format!("{:?}", primary.upgrade().await.map_err(|error| error.to_string())),
        "reload" => format!("{:?}", primary.reload().await.map_err(|error| error.to_string())),
        "scale" => format!("{:?}", primary.scale(number(1) as usize).await.map_err(|error| error.to_string())),
        "fork" => format!("{:?}", primary.fork().await),
        "disconnect" => format!("{:?}", primary.disconnect(worker(1)).await),
        "kill" => format!("{:?}", primary.kill(worker(1), number(2) as i32).await.map_err(|error| error.to_string())),
        "list" => primary.workers().iter().map(|worker| format!("{}:{:?} ", worker.id, worker.state)).collect(),
        "counted" => format!("{} {}", COUNTED.total(), HELD.total()),
        _ => format!("no such order: {order}"),
    }
}

async fn order(State(worker): State<Worker<ToPrimary>>, Path(order): Path<String>) -> String {
    let answer = worker.call(|outcome| ToPrimary::Do { order, outcome }).await;
    answer.unwrap_or_else(|error| format!("no answer: {error}"))
}

/// For orders that end only when this worker is gone.
async fn begin(State(worker): State<Worker<ToPrimary>>, Path(order): Path<String>) {
    worker.send(ToPrimary::Begin { order }).await.expect("the primary lives");
}

async fn who(State(worker): State<Worker<ToPrimary>>) -> String {
    format!("{} {} {} {}", worker.id(), worker.slot(), worker.generation(), std::process::id())
}

async fn hit(State(worker): State<Worker<ToPrimary>>) {
    worker.send(ToPrimary::Hit).await.expect("the primary lives");
}

async fn total(State(worker): State<Worker<ToPrimary>>) -> String {
    worker.call(ToPrimary::Total).await.map_or_else(|error| error.to_string(), |total| total.to_string())
}

async fn forget(State(worker): State<Worker<ToPrimary>>) -> String {
    worker.call(ToPrimary::Forget).await.map_or_else(|error| error.to_string(), |total| total.to_string())
}

/// What all have counted, and what each slot has; what all hold; how many sizes there are and where their middle is.
async fn counted() -> String {
    let sizes = SIZES.summary();
    let of_slots: u64 = (0..8).map(|slot| COUNTED.of_slot(slot)).sum();
    format!("{} {of_slots} {} {} {}", COUNTED.total(), HELD.total(), sizes.count(), sizes.quantile(0.5))
}

async fn slow(Path(ms): Path<u64>) -> String {
    println!("slow request begins");
    sleep(Duration::from_millis(ms)).await;
    format!("slept {ms}")
}

#[expect(clippy::infinite_loop, reason = "it is meant to keep the worker busy for ever")]
async fn spin() {
    println!("spinning");
    loop {
        std::hint::spin_loop();
    }
}

/// Takes so much memory for ever.
async fn eat(Path(mib): Path<usize>) -> String {
    let eaten = vec![1_u8; mib << 20].leak();
    eaten.len().to_string()
}
