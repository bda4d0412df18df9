//! A fixture: programs that fail to start, each in its own way; the first argument chooses one.
//!
//! `FAIL_SLOT` limits it to the workers of one slot, `FAIL_FLAG` to the time while that file exists; the others serve.
//! What begins with `primary-` is what the primary function does.

use std::time::Duration;

use axum::Router;
use axum::routing::get;
use cluster::{Config, Event, Primary, worker};
use nix::sys::resource::{Resource, setrlimit};

fn main() -> cluster::Result {
    // Once for each process, so that a test sees that none was spawned.
    println!("a process starts");
    let behaviour = behaviour();
    if behaviour == "thread" && cluster::is_worker() {
        std::thread::spawn(|| std::thread::sleep(Duration::from_secs(60)));
    }
    if behaviour == "twice" {
        let first: cluster::Result = cluster::run(Config::new(), async || Ok(()));
        first?;
    }
    cluster::run(Config::new().workers(2).primary(watch), program)
}

fn behaviour() -> String {
    std::env::args().nth(1).unwrap_or_default()
}

fn is_to_fail() -> bool {
    let slot = std::env::var("FAIL_SLOT").ok().map(|slot| slot.parse().expect("a slot's number"));
    let flag = std::env::var_os("FAIL_FLAG");
    slot.is_none_or(|slot: usize| slot == worker().slot())
        && flag.is_none_or(|flag| std::fs::exists(flag).is_ok_and(|is| is))
}

async fn program() -> cluster::Result {
    if !is_to_fail() {
        return serve().await;
    }
    match behaviour().as_str() {
        "panic" => panic!("the worker's own panic"),
        "error" => Err("the worker's own error".into()),
        "abort" => std::process::abort(),
        "overflow" => Err(deeper(0).to_string().into()),
        "memory" => {
            // Less than is asked for below, and more than this process has.
            setrlimit(Resource::RLIMIT_AS, 1 << 30, 1 << 30).expect("a lower limit is allowed");
            Err(vec![1_u8; 4 << 30].len().to_string().into())
        }
        "exit-0" => std::process::exit(0),
        "exit-42" => std::process::exit(42),
        "never" => std::future::pending().await,
        "finish" => Ok(()),
        "ready-exit-42" => {
            worker().ready();
            // The word is on its way before the end.
            tokio::time::sleep(Duration::from_millis(100)).await;
            std::process::exit(42)
        }
        _ => serve().await,
    }
}

fn deeper(depth: u64) -> u64 {
    let here = std::hint::black_box([depth; 1024]);
    if depth == u64::MAX { 0 } else { deeper(depth + 1) + here[0] }
}

async fn serve() -> cluster::Result {
    let app = Router::new().route("/who", get(who)).route("/orphan", get(orphan));
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:0".into());
    cluster::serve(address, app).await
}

async fn who() -> String {
    let worker = worker();
    format!("{} {} {} {}", worker.id(), worker.slot(), worker.generation(), std::process::id())
}

/// Starts a process that nobody will wait for.
async fn orphan() {
    let shell = std::process::Command::new("sh").args(["-c", "sleep 1 &"]).status();
    assert!(shell.expect("there is a shell").success());
}

/// The primary function: prints what happens, so that a test can wait for it.
async fn watch(mut primary: Primary) -> cluster::Result {
    match behaviour().as_str() {
        "primary-error" => return Err("the function's own error".into()),
        "primary-panic" => panic!("the function's own panic"),
        "primary-returns" => return Ok(()),
        "primary-logs" => {
            tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false).init();
            println!("the subscriber is installed");
        }
        _ => {}
    }
    let mut ready = 0;
    while let Some(event) = primary.next().await {
        println!("{event:?}");
        ready += usize::from(matches!(event, Event::Ready(_)));
        if ready == 2 {
            match behaviour().as_str() {
                "primary-error-later" => return Err("the function's own error".into()),
                "primary-panic-later" => panic!("the function's own panic"),
                "primary-blocks" => std::thread::sleep(Duration::from_secs(600)),
                _ => {}
            }
        }
    }
    Ok(())
}
