//! A worker that idles (slot 0) beside one that floods the primary function (slot 1), until each is told to end. The second argument
//! says whether the primary function reads.

use std::process;

use cluster::{Event, Message, Primary, Worker};
use nix::time::{ClockId, clock_gettime};

use super::{argument, stdin_closed, take_all};

#[derive(Message)]
pub(super) enum Flood {
    Drop { number: u64 },
}

/// More than waits anywhere if nobody reads.
const UNDER_WAY: u64 = 1000;

pub(super) async fn worker(worker: Worker<Flood>) -> cluster::Result {
    worker.ready();
    match worker.slot() {
        0 => println!("idles {}", process::id()),
        _ => {
            tokio::spawn(flood(worker.clone()));
        }
    }
    worker.shutdown().await;
    println!("told {} {}", process::id(), now());
    Ok(())
}

async fn flood(worker: Worker<Flood>) -> cluster::Result {
    for number in 0.. {
        if number == UNDER_WAY {
            println!("floods {}", process::id());
        }
        worker.send(Flood::Drop { number }).await?;
    }
    Ok(())
}

pub(super) async fn primary(mut primary: Primary<Flood>) -> cluster::Result {
    match argument(2).as_str() {
        "reads" => {
            let mut sum = 0;
            while let Some(event) = primary.next().await {
                if let Event::Message(_, Flood::Drop { number }) = event {
                    sum ^= number;
                }
            }
            std::hint::black_box(sum);
        }
        "never-reads" => stdin_closed().await?,
        other => panic!("there is no way {other:?}"),
    }
    take_all(&mut primary).await
}

/// In ns, by the clock that all processes share.
fn now() -> i64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("there is a clock");
    time.tv_sec() * 1_000_000_000 + time.tv_nsec()
}
