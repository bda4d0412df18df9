//! Small messages in one direction by ipc-channel.

use std::hint::black_box;

use ipc_channel::ipc::{IpcOneShotServer, IpcSender};
use serde::{Deserialize, Serialize};

use crate::start_other;
use crate::stopwatch::Stopwatch;

#[derive(Serialize, Deserialize)]
enum Small {
    Hit { a: u64, b: u64 },
    Miss { a: u64 },
}

pub(crate) fn take() {
    let (server, name) = IpcOneShotServer::<Small>::new().expect("a channel can be made");
    let mut other = start_other("one-way-up", &name);
    let (receiver, _first) = server.accept().expect("the other connects");
    let mut stopwatch = Stopwatch::new("up", 64);
    let mut sum = 0u64;
    // After the last lap it goes on until the bench ends it, as the others do.
    while let Ok(message) = receiver.recv() {
        sum = match message {
            Small::Hit { a, b } => sum.wrapping_add(a ^ b),
            Small::Miss { a } => sum.wrapping_sub(a),
        };
        stopwatch.lap();
    }
    black_box(sum);
    _ = other.wait();
}

pub(crate) fn flood(name: String) {
    let sender = IpcSender::connect(name).expect("the other is there");
    let first = sender.send(Small::Miss { a: 1 });
    let mut a = 0;
    // It fails once the other end is gone.
    while first.is_ok() && sender.send(Small::Hit { a, b: 7 }).is_ok() {
        a += 1;
    }
}
