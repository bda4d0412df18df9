//! Calls by tarpc over a Unix socket with bincode: one at a time, and many at once. Both ends are single-threaded.

use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use std::{env, fs, process};

use futures_util::StreamExt as _;
use tarpc::server::{BaseChannel, Channel as _};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::{client, context, serde_transport};

use crate::start_other;
use crate::stopwatch::Stopwatch;

#[tarpc::service]
trait Question {
    async fn double(a: u64) -> u64;
}

#[derive(Clone)]
struct Answers;

impl Question for Answers {
    async fn double(self, _: context::Context, a: u64) -> u64 {
        2 * a
    }
}

/// As many as the worker of a cluster has open in the same program.
const AT_ONCE: usize = 64;

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn serve(program: &str) {
    let path = env::temp_dir().join(format!("benches-rivals-{}.sock", process::id()));
    let mut incoming = serde_transport::unix::listen(&path, Bincode::default).await.expect("a socket can be made");
    let mut other = start_other(program, path.to_str().expect("a name in ASCII"));
    let transport = incoming.next().await.expect("it listens for ever").expect("the other connects");
    _ = fs::remove_file(&path);
    let calls = BaseChannel::with_defaults(transport).execute(Answers.serve());
    calls
        .for_each(|call| {
            tokio::spawn(call);
            ready(())
        })
        .await;
    _ = other.wait();
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn ask_one_by_one(path: &str) {
    let client = connect(path).await;
    let mut stopwatch = Stopwatch::new("call", 16);
    while stopwatch.lap() && ask(&client).await {}
    wait_for_the_end(&client).await;
}

#[tokio::main(flavor = "current_thread")]
pub(crate) async fn ask_many(path: &str) {
    let client = connect(path).await;
    let stopwatch = Arc::new(Mutex::new(Stopwatch::new("pipelined", 64)));
    for _ in 0..AT_ONCE {
        let (client, stopwatch) = (client.clone(), Arc::clone(&stopwatch));
        tokio::spawn(async move {
            while stopwatch.lock().unwrap_or_else(PoisonError::into_inner).lap() && ask(&client).await {}
        });
    }
    wait_for_the_end(&client).await;
}

async fn connect(path: &str) -> QuestionClient {
    let transport = serde_transport::unix::connect(path, Bincode::default).await.expect("the other listens");
    QuestionClient::new(client::Config::default(), transport).spawn()
}

/// Whether it was answered.
async fn ask(client: &QuestionClient) -> bool {
    match client.double(context::current(), 21).await {
        Ok(doubled) => doubled == 42,
        Err(_gone) => false,
    }
}

/// Of the other process, which a call in a while notices.
async fn wait_for_the_end(client: &QuestionClient) {
    while ask(client).await {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
