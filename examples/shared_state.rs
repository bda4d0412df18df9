//! State that all workers share, in the primary: a small key-value service. Workers ask it by `call`; it outlives their crashes, and an
//! upgrade of the primary.
//!
//! `cargo run --release --example shared_state`, then
//!
//! ```sh
//! curl -X PUT --data one http://127.0.0.1:3000/kv/a
//! curl -i http://127.0.0.1:3000/kv/a                                        # `etag: "1"`: which version this is
//! curl -X PUT --data two -H 'if-match: "1"' http://127.0.0.1:3000/kv/a      # only if nobody has changed it since
//! curl -X PUT --data one -H 'if-none-match: *' http://127.0.0.1:3000/kv/a   # only if there is none: 412
//! curl -X DELETE http://127.0.0.1:3000/kv/a
//! ```
//!
//! `ADDR` sets another address. What it costs: one process answers for all. What must outlive the machine belongs in a database.

use std::collections::BTreeMap;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use cluster::{CallError, Event, Message, Primary, Reply, Worker};
use serde::{Deserialize, Serialize};

/// The service, as workers see it.
#[derive(Message)]
enum ToPrimary {
    Get { key: String, reply: Reply<Option<Entry>> },
    Put { key: String, value: String, only_if: Condition, reply: Reply<Result<Version, Refusal>> },
    Remove { key: String, reply: Reply<bool> },
}

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    value: String,
    version: Version,
}

/// Of all that was ever put, the how manieth: no two values have the same one, not even of a key that was removed meanwhile.
type Version = u64;

#[derive(Debug, Serialize, Deserialize)]
enum Condition {
    Any,
    Absent,
    /// Compare and swap: nobody has put anything since this version was read.
    Is(Version),
}

#[derive(Debug, Serialize, Deserialize)]
enum Refusal {
    /// The condition does not hold.
    Changed,
    KeyTooLong,
    /// The value would take the store beyond [`MOST_BYTES`].
    Full,
}

/// Longest key, in bytes.
const MOST_KEY: usize = 256;
/// Longest value, in bytes. Longer ones are refused in the worker already.
const MOST_VALUE: usize = 64 << 10;
/// What all keys and values may take, so that nobody fills the primary's memory.
const MOST_BYTES: usize = 16 << 20;
/// What an entry takes beside its key and its value, roughly.
const OVERHEAD: usize = 128;

#[cluster::main(workers = "auto", primary = keep)]
async fn main(worker: Worker<ToPrimary>) -> cluster::Result {
    let app = Router::new()
        .route("/", get(hello))
        .route("/kv/{key}", get(read).put(write).delete(remove))
        .layer(DefaultBodyLimit::max(MOST_VALUE))
        .with_state(worker);
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    cluster::serve(address, app).await
}

async fn hello(State(worker): State<Worker<ToPrimary>>) -> String {
    format!("hello from worker {} (pid {})\n", worker.id(), std::process::id())
}

async fn read(State(worker): State<Worker<ToPrimary>>, Path(key): Path<String>) -> Result<Response, Unavailable> {
    let entry = worker.call(|reply| ToPrimary::Get { key, reply }).await?;
    let answer = |Entry { value, version }| ([(header::ETAG, etag(version))], value).into_response();
    Ok(entry.map_or_else(|| StatusCode::NOT_FOUND.into_response(), answer))
}

async fn write(
    State(worker): State<Worker<ToPrimary>>,
    Path(key): Path<String>,
    headers: HeaderMap,
    value: String,
) -> Result<Response, Unavailable> {
    let Some(only_if) = condition(&headers) else {
        return Ok((StatusCode::BAD_REQUEST, "send If-Match with one etag, or If-None-Match: *").into_response());
    };
    let outcome = worker.call(|reply| ToPrimary::Put { key, value, only_if, reply }).await?;
    Ok(match outcome {
        Ok(version) => (StatusCode::NO_CONTENT, [(header::ETAG, etag(version))]).into_response(),
        Err(Refusal::Changed) => StatusCode::PRECONDITION_FAILED.into_response(),
        Err(Refusal::KeyTooLong) => (StatusCode::PAYLOAD_TOO_LARGE, "a key has at most 256 bytes").into_response(),
        Err(Refusal::Full) => (StatusCode::INSUFFICIENT_STORAGE, "the store is full: remove something").into_response(),
    })
}

async fn remove(State(worker): State<Worker<ToPrimary>>, Path(key): Path<String>) -> Result<StatusCode, Unavailable> {
    let was_there = worker.call(|reply| ToPrimary::Remove { key, reply }).await?;
    Ok(if was_there { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND })
}

fn etag(version: Version) -> String {
    format!("\"{version}\"")
}

/// `None` for what is neither of the conditions that this service knows.
fn condition(headers: &HeaderMap) -> Option<Condition> {
    match (headers.get(header::IF_MATCH), headers.get(header::IF_NONE_MATCH)) {
        (None, None) => Some(Condition::Any),
        (None, Some(value)) => (value == "*").then_some(Condition::Absent),
        (Some(value), None) => {
            let version = value.to_str().ok()?.strip_prefix('"')?.strip_suffix('"')?;
            Some(Condition::Is(version.parse().ok()?))
        }
        (Some(_), Some(_)) => None,
    }
}

/// The primary has not answered: it is gone, and this worker drains.
struct Unavailable;

impl From<CallError> for Unavailable {
    fn from(_: CallError) -> Self {
        Self
    }
}

impl IntoResponse for Unavailable {
    fn into_response(self) -> Response {
        StatusCode::SERVICE_UNAVAILABLE.into_response()
    }
}

/// Runs in the primary.
async fn keep(mut primary: Primary<ToPrimary>) -> cluster::Result {
    let Carried::First(mut store) = primary.carried()?.unwrap_or_default();
    while let Some(event) = primary.next().await {
        match event {
            Event::Message(_, ToPrimary::Get { key, reply }) => reply.send(store.entries.get(&key).cloned()),
            Event::Message(_, ToPrimary::Put { key, value, only_if, reply }) => {
                reply.send(store.put(key, value, &only_if));
            }
            Event::Message(_, ToPrimary::Remove { key, reply }) => reply.send(store.remove(&key)),
            // The next program reads it; nothing is answered in between, and what is asked waits.
            Event::Upgrading => return primary.carry(&Carried::First(store)),
            _ => {}
        }
    }
    Ok(())
}

/// What goes along in an upgrade. It says of itself how it is laid out, so that a later program can read what an earlier one has left.
#[derive(Serialize, Deserialize)]
enum Carried {
    First(Store),
}

impl Default for Carried {
    fn default() -> Self {
        Self::First(Store::default())
    }
}

#[derive(Default, Serialize, Deserialize)]
struct Store {
    entries: BTreeMap<String, Entry>,
    bytes: usize,
    newest: Version,
}

impl Store {
    fn put(&mut self, key: String, value: String, only_if: &Condition) -> Result<Version, Refusal> {
        let present = self.entries.get(&key);
        let holds = match only_if {
            Condition::Any => true,
            Condition::Absent => present.is_none(),
            Condition::Is(version) => present.is_some_and(|entry| entry.version == *version),
        };
        if !holds {
            return Err(Refusal::Changed);
        }
        if key.len() > MOST_KEY {
            return Err(Refusal::KeyTooLong);
        }
        let before = present.map_or(0, |entry| size(&key, entry));
        let entry = Entry { value, version: self.newest + 1 };
        let bytes = self.bytes - before + size(&key, &entry);
        if bytes > MOST_BYTES {
            return Err(Refusal::Full);
        }
        self.bytes = bytes;
        self.newest = entry.version;
        self.entries.insert(key, entry);
        Ok(self.newest)
    }

    fn remove(&mut self, key: &str) -> bool {
        let removed = self.entries.remove(key);
        self.bytes -= removed.as_ref().map_or(0, |entry| size(key, entry));
        removed.is_some()
    }
}

fn size(key: &str, entry: &Entry) -> usize {
    key.len() + entry.value.len() + OVERHEAD
}
