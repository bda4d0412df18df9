//! What one connection does, as its parts see it: the wire, the requests, and the one timer that watches over both.

use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::task::{Poll, ready};
use std::time::Duration;

use nix::time::{ClockId, clock_gettime};
use tokio::time::{Instant, sleep_until};

use super::clock::{Due, FlowClock, Seen, millis};
use super::closed::HttpClosed;
use super::gate::Gate;
use super::settings::Config;
use super::socket::Socket;
use super::streams::{Flood, Streams};
use crate::worker::{Process, Share};

/// The longest that the coarse clock stands still, in milliseconds.
const TICK: u64 = 10;
/// In so many steps a client is looked at whose socket is full: it may take bytes before there is room for more.
const LOOKS: u64 = 4;
/// Further than any limit.
const FAR: Duration = Duration::from_secs(86_400 * 365);

/// What one connection does.
///
/// hyper has a timeout for request heads, but it makes a timer for each request, does not begin before the first byte, and does not
/// know of bodies, of a client that is slow to read, or of an HTTP/2 client that idles. This is one timer for the life of the
/// connection, which looks again when it goes off. What has to be looked at earlier wakes it, which is seldom: it is set to the first
/// moment at which anything that is usual can be due.
///
/// Times are milliseconds since the connection was opened; 0 is never.
#[derive(Debug)]
pub(super) struct Activity {
    pub(super) config: Arc<Config>,
    gate: Arc<Gate>,
    opened: Duration,
    socket: Option<Socket>,
    /// Held by each request of HTTP/1 that the app has not answered to the end. The last of the answer may still be on its way to the
    /// client.
    pub(super) busy: Arc<Busy>,
    /// When it comes to its end, once the worker drains.
    pub(super) share: Share,
    http2: OnceLock<Box<Mutex<Streams>>>,
    /// Requests that the app was called for.
    requests: AtomicU64,
    /// The number of the first request of HTTP/1 with two kinds of length; 0 for none.
    ambiguous: AtomicU64,
    quiet: AtomicU64,
    head: AtomicU64,
    body: AtomicU64,
    blocked: AtomicU64,
    /// For how long the socket has taken nothing, all in all.
    stood: AtomicU64,
    /// When the timer goes off.
    armed: AtomicU64,
    streams_in_hand: AtomicU32,
    /// What a part of the connection has found that ends it.
    found: AtomicU8,
    /// hyper waits for the client to send something.
    is_reading: AtomicBool,
    /// The client sends its body when it is told to.
    expects: AtomicBool,
    /// The answer to the request of HTTP/1 that is in hand has begun.
    is_answered: AtomicBool,
    /// The client is to be told that it was too slow.
    says_farewell: AtomicBool,
    /// What comes is another protocol's.
    is_upgraded: AtomicBool,
}

/// One request under way, until it is dropped.
#[derive(Debug)]
pub(super) struct Busy;

/// What was last seen of a client whose socket is full.
#[derive(Debug, Default)]
struct Probe {
    /// The time at which it became so.
    blocked: u64,
    /// What the kernel had not yet brought to the client, and when that last changed.
    unsent: Option<u32>,
    changed: u64,
}

impl Activity {
    pub(super) fn new(config: Arc<Config>, gate: Arc<Gate>, socket: Option<Socket>) -> Self {
        Self {
            config,
            gate,
            opened: coarse_now(),
            socket,
            busy: Arc::new(Busy),
            share: Process::current().draw_share(),
            http2: OnceLock::new(),
            requests: AtomicU64::new(0),
            ambiguous: AtomicU64::new(0),
            quiet: AtomicU64::new(0),
            head: AtomicU64::new(0),
            body: AtomicU64::new(0),
            blocked: AtomicU64::new(0),
            stood: AtomicU64::new(0),
            armed: AtomicU64::new(u64::MAX),
            streams_in_hand: AtomicU32::new(0),
            found: AtomicU8::new(0),
            is_reading: AtomicBool::new(false),
            expects: AtomicBool::new(false),
            is_answered: AtomicBool::new(false),
            says_farewell: AtomicBool::new(false),
            is_upgraded: AtomicBool::new(false),
        }
    }

    pub(super) fn now(&self) -> u64 {
        millis(coarse_now().saturating_sub(self.opened)).max(1)
    }

    pub(super) fn is_http2(&self) -> bool {
        self.http2.get().is_some()
    }

    pub(super) fn speak_http2(&self) {
        self.note_head(false);
        self.http2.get_or_init(|| Box::new(Mutex::new(Streams::new(Flood::new(self.config.limits.control_frames)))));
    }

    pub(super) fn streams(&self) -> Option<MutexGuard<'_, Streams>> {
        // Nothing that runs under this lock can leave it half done.
        self.http2.get().map(|streams| streams.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn streams_in_hand(&self) -> usize {
        self.streams_in_hand.load(Ordering::Relaxed) as usize
    }

    pub(super) fn enter_stream(&self) {
        self.streams_in_hand.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn leave_stream(&self) {
        self.quiet.store(self.now(), Ordering::Relaxed);
        self.streams_in_hand.fetch_sub(1, Ordering::Release);
    }

    /// One request more; its number.
    pub(super) fn count_request(&self) -> u64 {
        // Only the connection's own task does.
        let number = self.requests.load(Ordering::Relaxed) + 1;
        self.requests.store(number, Ordering::Relaxed);
        self.is_answered.store(false, Ordering::Relaxed);
        number
    }

    pub(super) fn is_ambiguous(&self, request: u64) -> bool {
        self.ambiguous.load(Ordering::Relaxed) == request
    }

    pub(super) fn note_ambiguous(&self, request: u64) {
        self.ambiguous.store(request, Ordering::Relaxed);
    }

    pub(super) fn expect_continue(&self, expects: bool) {
        self.expects.store(expects, Ordering::Relaxed);
    }

    pub(super) fn note_answer(&self) {
        self.is_answered.store(true, Ordering::Relaxed);
    }

    pub(super) fn note_reading(&self, is_reading: bool) {
        self.is_reading.store(is_reading, Ordering::Relaxed);
    }

    /// Something was written in HTTP/1: a client that is slow to read what is answered does not idle.
    pub(super) fn note_write(&self, now: u64) {
        self.quiet.store(now, Ordering::Relaxed);
    }

    /// Whether a head was begun, and its end has not come.
    pub(super) fn note_head(&self, is_begun: bool) {
        if !is_begun {
            self.head.store(0, Ordering::Relaxed);
        } else if self.head.load(Ordering::Relaxed) == 0 {
            let now = self.now();
            self.head.store(now, Ordering::Relaxed);
            self.expect(now, self.config.limits.times.head);
        }
    }

    /// Whether a part of a body of HTTP/1 is to come; one has come now.
    pub(super) fn note_body(&self, is_to_come: bool) {
        if is_to_come {
            let now = self.now();
            self.body.store(now, Ordering::Relaxed);
            self.expect(now, self.config.limits.times.body);
        } else {
            self.body.store(0, Ordering::Relaxed);
        }
    }

    /// Bodies of HTTP/2 may be to come.
    pub(super) fn expect_bodies(&self, now: u64) {
        self.expect(now, self.config.limits.times.body);
    }

    /// Something is to be taken by the client.
    pub(super) fn expect_write(&self) {
        self.expect(self.now(), self.config.limits.times.write);
    }

    pub(super) fn is_blocked(&self) -> bool {
        self.blocked.load(Ordering::Relaxed) != 0
    }

    /// The socket takes nothing.
    pub(super) fn block(&self) {
        if !self.is_blocked() {
            let now = self.now();
            self.blocked.store(now, Ordering::Relaxed);
            self.expect(now, self.config.limits.times.write.map(|time| time / LOOKS as u32));
        }
    }

    /// It has taken something.
    pub(super) fn unblock(&self, now: u64) {
        let mut flow = self.flow();
        flow.go(now);
        self.stood.store(flow.stood, Ordering::Relaxed);
        self.blocked.store(0, Ordering::Relaxed);
    }

    /// The time by which HTTP/2's windows are measured.
    pub(super) fn flow_now(&self) -> u64 {
        self.flow().read(self.now())
    }

    fn flow(&self) -> FlowClock {
        FlowClock { stood: self.stood.load(Ordering::Relaxed), stands_since: since(&self.blocked) }
    }

    /// Has the timer look again if it would go off too late.
    fn expect(&self, since: u64, time: Option<Duration>) {
        if time.is_some_and(|time| since.saturating_add(millis(time)) < self.armed.load(Ordering::Relaxed)) {
            self.gate.open();
        }
    }

    /// Why the connection ends, if another part has found that.
    pub(super) fn found(&self) -> Option<HttpClosed> {
        HttpClosed::ALL.get(usize::from(self.found.load(Ordering::Relaxed)).wrapping_sub(1)).copied()
    }

    /// Ends the connection, as soon as its timer looks.
    pub(super) fn end(&self, why: HttpClosed) {
        self.found.store(why as u8 + 1, Ordering::Relaxed);
        self.gate.open();
    }

    /// Whether the connection has left HTTP, and its bytes are nobody's business here.
    pub(super) fn is_upgraded(&self) -> bool {
        self.is_upgraded.load(Ordering::Relaxed)
    }

    pub(super) fn leave_http(&self) {
        self.is_upgraded.store(true, Ordering::Relaxed);
    }

    /// Whether the client is to be told that it was too slow, and hyper nothing any more.
    pub(super) fn says_farewell(&self) -> bool {
        self.says_farewell.load(Ordering::Relaxed)
    }

    /// The client was too slow: in HTTP/1 it is told, if it was not told anything else.
    pub(super) fn say_farewell(&self, why: HttpClosed) {
        let is_meant = matches!(why, HttpClosed::HeadTimeout | HttpClosed::BodyTimeout) && !self.is_http2();
        if is_meant && (!self.is_busy() || !self.is_answered.load(Ordering::Relaxed)) {
            self.says_farewell.store(true, Ordering::Relaxed);
        }
    }

    /// What nobody takes is forgotten by the kernel, too.
    pub(super) fn reset_on_close(&self) {
        self.socket.into_iter().for_each(Socket::reset_on_close);
    }

    fn is_busy(&self) -> bool {
        if self.is_http2() {
            self.streams_in_hand.load(Ordering::Acquire) > 0
        } else {
            Arc::strong_count(&self.busy) > 1
        }
    }

    /// Completes once something has lasted too long, or was found by another part.
    pub(super) async fn overdue(&self) -> HttpClosed {
        let mut probe = Probe::default();
        let mut timer = pin!(sleep_until(Instant::now()));
        poll_fn(|context| {
            loop {
                let now = self.now();
                let next = match self.look(now, &mut probe) {
                    Ok(next) => next,
                    Err(why) => return Poll::Ready(why),
                };
                self.armed.store(next, Ordering::Relaxed);
                let span = Duration::from_millis(next.saturating_sub(now)).min(FAR);
                timer.as_mut().reset(Instant::now() + span);
                ready!(timer.as_mut().poll(context));
            }
        })
        .await
    }

    /// [`overdue`](Self::overdue) after the connection was told to end: what was found before is known.
    pub(super) async fn overdue_again(&self) -> HttpClosed {
        self.found.store(0, Ordering::Relaxed);
        self.overdue().await
    }

    /// When to look again.
    ///
    /// # Errors
    /// Why the connection is to end.
    fn look(&self, now: u64, probe: &mut Probe) -> Result<u64, HttpClosed> {
        let times = &self.config.limits.times;
        loop {
            if let Some(found) = self.found() {
                return Err(found);
            }
            let seen = self.see(now, probe);
            // What begins after this look and is due before the next wakes the timer, but for what is usual.
            let usual = times.idle.map_or(u64::MAX, |idle| now.saturating_add(millis(idle)));
            let Some(Due { at, why }) = times.due(&seen) else { return Ok(usual) };
            if at > now + TICK {
                let step = times.write.filter(|_| seen.blocked.is_some()).map_or(u64::MAX, |time| millis(time) / LOOKS);
                return Ok(at.min(now.saturating_add(step.max(TICK))).min(usual));
            }
            if !self.is_spared(why, now) {
                return Err(why);
            }
        }
    }

    fn see(&self, now: u64, probe: &mut Probe) -> Seen {
        let is_http2 = self.is_http2();
        let blocked = since(&self.blocked).map(|blocked| self.probe(blocked, now, probe));
        let mut seen = Seen {
            quiet: self.quiet.load(Ordering::Relaxed),
            head: since(&self.head),
            body: since(&self.body),
            held_back: None,
            blocked,
            is_busy: self.is_busy(),
            is_http2,
        };
        if let Some(streams) = self.streams() {
            seen.body = streams.awaited_since();
            let flow = self.flow().read(now);
            seen.held_back = streams.held_back().map(|(since, _)| now.saturating_sub(flow.saturating_sub(since)));
        } else if self.expects.load(Ordering::Relaxed) {
            // It was told to send when something was last written.
            let is_told = self.is_reading.load(Ordering::Relaxed);
            seen.body = seen.body.filter(|_| is_told).map(|since| since.max(seen.quiet));
        }
        seen
    }

    /// Since when a client whose socket is full has taken nothing: what is underway in the kernel counts, too.
    fn probe(&self, blocked: u64, now: u64, probe: &mut Probe) -> u64 {
        let Some(unsent) = self.socket.and_then(Socket::unsent) else { return blocked };
        if probe.blocked != blocked || probe.unsent != Some(unsent) {
            *probe = Probe { blocked, unsent: Some(unsent), changed: now };
        }
        probe.changed
    }

    /// Whether the connection may go on although this is due: because only one stream of several is to blame, which is ended, or
    /// because it is not the client who is slow.
    fn is_spared(&self, why: HttpClosed, now: u64) -> bool {
        let Some(mut streams) = self.streams() else { return why == HttpClosed::BodyTimeout && self.has_sent(now) };
        let stream = match why {
            HttpClosed::BodyTimeout => streams.give_up_body(),
            HttpClosed::WriteTimeout if !self.is_blocked() => streams.held_back().map(|(_, stream)| stream),
            _ => return false,
        };
        drop(streams);
        let is_cut = stream.is_some_and(|stream| self.streams_in_hand() > 1 && stream.cut());
        if is_cut {
            why.count();
        }
        is_cut
    }

    /// Whether more of a body lies in the socket, because the app does not ask for it.
    fn has_sent(&self, now: u64) -> bool {
        // An unknown kind of stream cannot be asked: then it is the app's turn.
        let has_sent = !self.is_reading.load(Ordering::Relaxed) && self.socket.is_none_or(Socket::has_unread);
        if has_sent {
            self.body.store(now, Ordering::Relaxed);
        }
        has_sent
    }
}

fn since(time: &AtomicU64) -> Option<u64> {
    Some(time.load(Ordering::Relaxed)).filter(|since| *since != 0)
}

/// The time of a clock that costs next to nothing to read, and stands still for some milliseconds at a time.
fn coarse_now() -> Duration {
    // It fails for a clock that does not exist, which this one does.
    clock_gettime(ClockId::CLOCK_MONOTONIC_COARSE).map_or(Duration::ZERO, Duration::from)
}
