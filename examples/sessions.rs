//! Sessions that every worker knows: `tower-sessions`, kept in Redis, as workers share no memory. A client may come to any worker, and
//! its session outlives them all.
//!
//! `examples/sessions.sh` starts a Redis of its own and this example; then
//!
//! ```sh
//! curl --cookie-jar jar --cookie jar http://127.0.0.1:3000/          # visit 1, 2, 3, … at whichever worker
//! curl --cookie-jar jar --cookie jar http://127.0.0.1:3000/forget
//! ```
//!
//! `REDIS_URL` names another Redis: `redis://host:6379`, `unix:///run/redis.sock`. `ADDR` sets another address.

use std::fmt;
use std::time::Duration;

use async_trait::async_trait;
use axum::http::StatusCode;
use axum::{Router, routing::get};
use redis::aio::{ConnectionManager, ConnectionManagerConfig};
use redis::{ExistenceCheck, SetExpiry, SetOptions, ToRedisArgs, cmd};
use serde::{Deserialize, Serialize};
use tower_sessions::cookie::time;
use tower_sessions::session::{Id, Record};
use tower_sessions::session_store::{self, Error};
use tower_sessions::{Expiry, Session, SessionManagerLayer, SessionStore};

/// The longest that a request waits for Redis.
const PATIENCE: Duration = Duration::from_secs(2);

#[cluster::main(workers = "auto")]
async fn main() -> cluster::Result {
    let sessions = SessionManagerLayer::new(RedisStore::connect().await?)
        .with_expiry(Expiry::OnInactivity(time::Duration::hours(1)))
        // Only for the plain HTTP of an example: else browsers send the cookie over TLS only.
        .with_secure(false);
    let app = Router::new().route("/", get(visit)).route("/forget", get(forget)).layer(sessions);
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:3000".into());
    cluster::serve(address, app).await
}

/// What is known of a client.
#[derive(Default, Serialize, Deserialize)]
struct Visits {
    count: u64,
    /// The worker that served the last one.
    last: Option<u64>,
}

async fn visit(session: Session) -> Result<String, StatusCode> {
    let here = cluster::worker().id().get();
    let before: Visits = session.get("visits").await.map_err(|error| unavailable(&error))?.unwrap_or_default();
    let now = Visits { count: before.count + 1, last: Some(here) };
    session.insert("visits", &now).await.map_err(|error| unavailable(&error))?;
    // It is saved before the answer goes out, so whoever has that finds the session at any worker.
    let last = before.last.map_or_else(String::new, |last| format!(", the last at worker {last}"));
    Ok(format!("visit {} at worker {here}{last}\n", now.count))
}

async fn forget(session: Session) -> Result<&'static str, StatusCode> {
    session.flush().await.map_err(|error| unavailable(&error))?;
    Ok("forgotten\n")
}

fn unavailable(error: &tower_sessions::session::Error) -> StatusCode {
    eprintln!("a session is out of reach: {error}");
    StatusCode::SERVICE_UNAVAILABLE
}

/// Keeps each session as JSON under its id, for as long as it lasts. Of two requests of one session that are served at the same time, the
/// later to save wins, as with every store.
#[derive(Clone)]
struct RedisStore {
    /// One connection for all requests of a worker, made anew when it breaks.
    connection: ConnectionManager,
}

impl RedisStore {
    async fn connect() -> cluster::Result<Self> {
        let url = std::env::var("REDIS_URL").unwrap_or_else(|_| "redis://127.0.0.1".into());
        let no_redis = |error| {
            let remedy = "start one with examples/sessions.sh, or name another by REDIS_URL";
            cluster::Error::other(format!("no Redis at {url}: {error}: {remedy}"))
        };
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE))
            .set_number_of_retries(1);
        let client = redis::Client::open(url.as_str()).map_err(no_redis)?;
        let connection = client.get_connection_manager_with_config(config).await.map_err(no_redis)?;
        Ok(Self { connection })
    }

    /// Whether it was written: with `Absent`, another session may have this id.
    async fn set(&self, record: &Record, only_if: Option<ExistenceCheck>) -> session_store::Result<bool> {
        let value = serde_json::to_vec(record).map_err(|error| Error::Encode(error.to_string()))?;
        let end = u64::try_from(record.expiry_date.unix_timestamp()).unwrap_or_default();
        let options = SetOptions::default().with_expiration(SetExpiry::EXAT(end));
        let options = only_if.into_iter().fold(options, SetOptions::conditional_set);
        let set: Option<String> = self.ask("SET", (key(&record.id), value, options)).await?;
        Ok(set.is_some())
    }

    async fn ask<T: redis::FromRedisValue>(&self, name: &str, args: impl ToRedisArgs) -> session_store::Result<T> {
        let mut connection = self.connection.clone();
        let answer = cmd(name).arg(args).query_async(&mut connection).await;
        answer.map_err(|error| Error::Backend(error.to_string()))
    }
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn create(&self, record: &mut Record) -> session_store::Result<()> {
        while !self.set(record, Some(ExistenceCheck::NX)).await? {
            record.id = Id::default();
        }
        Ok(())
    }

    async fn save(&self, record: &Record) -> session_store::Result<()> {
        self.set(record, None).await.map(drop)
    }

    async fn load(&self, id: &Id) -> session_store::Result<Option<Record>> {
        let value: Option<Vec<u8>> = self.ask("GET", key(id)).await?;
        let read = |value: Vec<u8>| serde_json::from_slice(&value).map_err(|error| Error::Decode(error.to_string()));
        value.map(read).transpose()
    }

    async fn delete(&self, id: &Id) -> session_store::Result<()> {
        self.ask("DEL", key(id)).await
    }
}

impl fmt::Debug for RedisStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedisStore").finish_non_exhaustive()
    }
}

fn key(id: &Id) -> String {
    format!("session:{id}")
}
