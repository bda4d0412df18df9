//! Burns one core for as many seconds as asked: what a busy neighbour costs that has nothing to do with the service.

use std::env;
use std::hint::spin_loop;
use std::time::{Duration, Instant};

fn main() {
    let seconds = env::args().nth(1).and_then(|text| text.parse().ok()).expect("the argument is a number of seconds");
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(seconds) {
        spin_loop();
    }
}
