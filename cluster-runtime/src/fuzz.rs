//! Tries code with input that nobody meant: sound bytes that were damaged, and noise. All of it comes from a seed.
//!
//! The targets are the tests with `fuzz` in their path, beside what they try. They run a few seeds with all other tests;
//! `CLUSTER_FUZZ_SECONDS=60 cargo test --release -p cluster-runtime --lib fuzz` tries each for a minute with seeds that no run had, and
//! `CLUSTER_FUZZ_SEED=17` repeats one.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::panic::{self, AssertUnwindSafe};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Seeds of a run that nobody has asked for more.
const DEFAULT_SEEDS: u64 = 200;

/// Tries a target, which is a test by its path, with one seed after the other.
pub(crate) fn fuzz(target: &str, mut case: impl FnMut(&mut Random)) {
    if let Some(seed) = number_from("CLUSTER_FUZZ_SEED") {
        return case(&mut Random::new(seed));
    }
    let seconds = number_from("CLUSTER_FUZZ_SECONDS").map(Duration::from_secs);
    let first =
        seconds.map_or(0, |_| SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_nanos() as u64));
    let start = Instant::now();
    let is_over = |tried: u64| seconds.map_or(tried >= DEFAULT_SEEDS, |seconds| start.elapsed() >= seconds);
    let mut tried = 0;
    while !is_over(tried) {
        let seed = first.wrapping_add(tried);
        if let Err(failure) = panic::catch_unwind(AssertUnwindSafe(|| case(&mut Random::new(seed)))) {
            eprintln!("seed {seed} failed; to repeat it:");
            eprintln!("CLUSTER_FUZZ_SEED={seed} cargo test -p cluster-runtime --lib {target} -- --exact --nocapture");
            panic::resume_unwind(failure);
        }
        tried += 1;
    }
    println!("{target}: {tried} seeds from {first} on, no failure");
}

fn number_from(variable: &str) -> Option<u64> {
    std::env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// xorshift64*.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        // Neighbours are to have nothing in common, and 0 would stay 0.
        let mixed = (seed ^ 0x9e37_79b9_7f4a_7c15).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        Self((mixed ^ mixed >> 31).max(1))
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }

    /// Once in so many times.
    pub(crate) fn once_in(&mut self, times: usize) -> bool {
        self.below(times) == 0
    }

    pub(crate) fn bytes(&mut self, size: usize) -> Vec<u8> {
        (0..size).map(|_| self.next() as u8).collect()
    }

    /// A part of what is so long; empty perhaps.
    fn range(&mut self, length: usize) -> std::ops::Range<usize> {
        let (one, other) = (self.below(length + 1), self.below(length + 1));
        one.min(other)..one.max(other)
    }

    /// Does to sound bytes what an error, a bug or an enemy would.
    pub(crate) fn damage(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..1 + self.below(4) {
            let at = self.below(bytes.len() + 1);
            match self.below(8) {
                0 => bytes.truncate(at),
                1 => drop(bytes.drain(self.range(bytes.len()))),
                2 => {
                    let again = bytes[self.range(bytes.len())].to_vec();
                    bytes.splice(at..at, again);
                }
                3 => {
                    let noise = self.below(20);
                    bytes.splice(at..at, self.bytes(noise));
                }
                4 => {
                    let length = self.odd_length();
                    let width = if self.once_in(2) { 4 } else { 8 };
                    let end = bytes.len().min(at + width);
                    bytes[at..end].copy_from_slice(&length.to_le_bytes()[..end - at]);
                }
                _ if bytes.is_empty() => {}
                _ => {
                    let at = self.below(bytes.len());
                    bytes[at] ^= 1 << self.below(8);
                }
            }
        }
    }

    /// Those at which something changes, and absurd ones.
    fn odd_length(&mut self) -> u64 {
        let shift = self.below(64);
        match self.below(4) {
            0 => self.below(20) as u64,
            1 => (1 << shift) - 1,
            2 => 1 << shift,
            _ => u64::MAX,
        }
    }
}

/// A descriptor to send, and a way to see that nobody has kept one.
pub(crate) struct Bait {
    end: OwnedFd,
    watched: io::PipeReader,
}

impl Bait {
    pub(crate) fn new() -> Self {
        let (watched, end) = io::pipe().expect("a pipe");
        Self { end: end.into(), watched }
    }

    pub(crate) fn end(&self) -> &OwnedFd {
        &self.end
    }

    /// # Panics
    /// If somebody holds a duplicate.
    pub(crate) fn expect_closed(self) {
        drop(self.end);
        crate::os::set_nonblocking(self.watched.as_fd()).expect("a pipe can");
        let deadline = Instant::now() + Duration::from_secs(30);
        loop {
            match (&self.watched).read(&mut [0]) {
                Ok(0) => return,
                // A process that another test starts has it between its fork and its exec.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock && Instant::now() < deadline => {
                    std::thread::yield_now();
                }
                other => panic!("a descriptor was not closed: {other:?}; open are {}", open_descriptors()),
            }
        }
    }
}

fn open_descriptors() -> String {
    let mut all = String::new();
    for entry in fs::read_dir("/proc/self/fd").into_iter().flatten().flatten() {
        _ = write!(all, "{:?} ", fs::read_link(entry.path()));
    }
    all
}
