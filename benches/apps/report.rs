//! The heavy route, the same in every peer written in Rust.

use std::time::{Duration, Instant};

/// How long a report keeps its thread.
const EFFORT: Duration = Duration::from_millis(200);

/// Computes without a pause, as code that nobody made asynchronous does.
pub(crate) async fn generate() -> String {
    let started = Instant::now();
    let primes = (2_u64..).take_while(|_| started.elapsed() < EFFORT).filter(|n| is_prime(*n)).count();
    format!("the first {primes} primes\n")
}

fn is_prime(number: u64) -> bool {
    (2..).take_while(|divisor| divisor * divisor <= number).all(|divisor| !number.is_multiple_of(divisor))
}
