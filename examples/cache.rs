//! A cache in each worker, and a word to all others when something in it is out of date.
//!
//! `cargo run --release --example cache`, then `curl http://127.0.0.1:3000/greeting` a few times: each worker reads it once.
//! `curl -X PUT -d hello http://127.0.0.1:3000/greeting` changes it for all. `ADDR` sets another address, `DATA` the directory of the
//! values, which is `data` otherwise.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::get;
use cluster::{Message, NoMessages, Worker};

/// What workers say to each other.
#[derive(Message)]
enum ToWorker {
    Forget(String),
}

#[derive(Clone)]
struct App {
    worker: Worker<NoMessages, ToWorker>,
    cache: Arc<Mutex<HashMap<String, String>>>,
}

#[cluster::main(workers = "auto")]
async fn main(worker: Worker<NoMessages, ToWorker>) -> cluster::Result {
    let app = App { worker, cache: Arc::default() };
    tokio::spawn(forget(app.clone()));
    let router = Router::new().route("/{name}", get(look_up).put(change)).with_state(app);
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    cluster::serve(address, router).await
}

/// Does what other workers say.
async fn forget(app: App) {
    while let Some(ToWorker::Forget(name)) = app.worker.recv().await {
        app.cache.lock().unwrap().remove(&name);
    }
}

async fn look_up(State(app): State<App>, Path(name): Path<String>) -> Result<String, StatusCode> {
    let cached = app.cache.lock().unwrap().get(&name).cloned();
    let (value, found) = match cached {
        Some(value) => (value, "in its cache"),
        None => (file(&name).and_then(std::fs::read_to_string).map_err(|error| status(&error))?, "on disk"),
    };
    app.cache.lock().unwrap().insert(name, value.clone());
    Ok(format!("{value} (worker {} found it {found})\n", app.worker.id()))
}

async fn change(State(app): State<App>, Path(name): Path<String>, value: String) -> Result<String, StatusCode> {
    file(&name).and_then(|file| std::fs::write(file, value)).map_err(|error| status(&error))?;
    app.cache.lock().unwrap().remove(&name);
    // They hear of it soon, though maybe after this is answered; to be sure, one would have each of them answer a call.
    let told = app.worker.broadcast(ToWorker::Forget(name)).await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(format!("worker {} told {told} others\n", app.worker.id()))
}

/// Where a value is; only plain names are names of files here.
fn file(name: &str) -> io::Result<PathBuf> {
    if !name.chars().all(|letter| letter.is_ascii_alphanumeric()) {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let directory = PathBuf::from(std::env::var_os("DATA").unwrap_or_else(|| "data".into()));
    std::fs::create_dir_all(&directory)?;
    Ok(directory.join(name))
}

fn status(error: &io::Error) -> StatusCode {
    match error.kind() {
        io::ErrorKind::InvalidInput => StatusCode::BAD_REQUEST,
        io::ErrorKind::NotFound => StatusCode::NOT_FOUND,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    }
}
