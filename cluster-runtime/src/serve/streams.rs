//! The streams of an HTTP/2 connection: which bodies are to come, which answers are held back, and how much comes that is neither.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use tokio::task::AbortHandle;

use super::activity::Activity;
use super::closed::HttpClosed;
use super::frames::{CONTINUATION, DATA, Frame, Frames, HEADERS, Part, RST_STREAM, WINDOW_UPDATE};

/// The window in which a client may send a body before it is read. hyper's own default, which is named here to be known.
pub(super) const WINDOW: u32 = 1 << 20;
/// What a connection's window begins with, by the RFC.
const FIRST_WINDOW: i64 = 65_535;
/// With less than a usual frame of window left, it is the app's turn to read, and not the client's to send.
const NEXT_TO_NOTHING: i64 = 16 << 10;

/// What has passed over the wire.
#[derive(Debug)]
pub(super) struct Streams {
    theirs: Frames,
    ours: Frames,
    /// The highest stream that the client has opened.
    highest: u32,
    /// Streams that the client has opened and the app has not been called for, in their order.
    uncalled: VecDeque<u32>,
    uploads: Vec<Upload>,
    /// How much of bodies the client may send on the whole connection.
    window: i64,
    answers: Vec<Weak<Stream>>,
    flood: Flood,
    /// Heads that are complete.
    heads: u64,
    /// A head was begun and has not ended.
    has_half_a_head: bool,
}

/// A body that is to come.
#[derive(Debug)]
struct Upload {
    id: u32,
    /// When a part of it last came.
    since: u64,
    window: i64,
    stream: Weak<Stream>,
}

impl Streams {
    pub(super) fn new(flood: Flood) -> Self {
        Self {
            theirs: Frames::of_client(),
            ours: Frames::of_server(),
            highest: 0,
            uncalled: VecDeque::new(),
            uploads: Vec::new(),
            window: FIRST_WINDOW,
            answers: Vec::new(),
            flood,
            heads: 0,
            has_half_a_head: false,
        }
    }

    /// The client has sent this.
    ///
    /// # Errors
    /// When it sends too much that is nothing.
    pub(super) fn read(&mut self, bytes: &[u8], now: u64) -> Result<(), HttpClosed> {
        let mut theirs = std::mem::replace(&mut self.theirs, Frames::of_server());
        let mut is_flooded = false;
        theirs.feed(bytes, |part| match part {
            Part::Begin(frame) => {
                is_flooded |= frame.is_control() && self.flood.count(now);
                if matches!(frame.kind, HEADERS | CONTINUATION) {
                    self.has_half_a_head = true;
                }
            }
            Part::Payload(frame, count) if frame.kind == DATA => self.receive(frame.stream, count, now),
            Part::Payload(..) => {}
            Part::End(frame, _) => self.take_frame(frame, now),
        });
        self.theirs = theirs;
        if is_flooded { Err(HttpClosed::Flood) } else { Ok(()) }
    }

    pub(super) const fn has_half_a_head(&self) -> bool {
        self.has_half_a_head
    }

    pub(super) const fn heads(&self) -> u64 {
        self.heads
    }

    fn receive(&mut self, id: u32, count: u32, now: u64) {
        self.window -= i64::from(count);
        if let Some(upload) = self.uploads.iter_mut().find(|upload| upload.id == id) {
            upload.window -= i64::from(count);
            upload.since = now;
        }
    }

    fn take_frame(&mut self, frame: Frame, now: u64) {
        if frame.ends_head() {
            self.has_half_a_head = false;
            self.heads += 1;
        }
        let id = frame.stream;
        match frame.kind {
            HEADERS if id > self.highest => {
                self.highest = id;
                self.flood.forgive(frame);
                self.uncalled.push_back(id);
                if !frame.ends_stream() {
                    self.uploads.push(Upload { id, since: now, window: WINDOW.into(), stream: Weak::new() });
                }
            }
            DATA | HEADERS if frame.ends_stream() => self.end_upload(id),
            RST_STREAM => self.forget(id),
            _ => {}
        }
    }

    /// This was written to the client. Whether an answer was refused before the app was called: h2 does so when a head is too large.
    pub(super) fn wrote(&mut self, bytes: &[u8], now: u64) -> bool {
        let mut ours = std::mem::replace(&mut self.ours, Frames::of_server());
        let mut has_refused = false;
        ours.feed(bytes, |part| {
            let Part::End(frame, value) = part else { return };
            self.flood.forgive(frame);
            match frame.kind {
                WINDOW_UPDATE => self.open_window(frame.stream, value.into(), now),
                HEADERS if self.uncalled.contains(&frame.stream) => {
                    has_refused = true;
                    self.forget(frame.stream);
                }
                RST_STREAM => self.forget(frame.stream),
                // What more comes of its request is of no interest any more.
                _ if frame.ends_stream() => self.end_upload(frame.stream),
                _ => {}
            }
        });
        self.ours = ours;
        has_refused
    }

    fn open_window(&mut self, id: u32, more: i64, now: u64) {
        if id == 0 {
            self.window += more;
        }
        for upload in self.uploads.iter_mut().filter(|upload| id == 0 || upload.id == id) {
            // Only now can it go on.
            upload.since = now;
            if id != 0 {
                upload.window += more;
            }
        }
    }

    fn end_upload(&mut self, id: u32) {
        self.uploads.retain(|upload| upload.id != id);
    }

    fn forget(&mut self, id: u32) {
        self.end_upload(id);
        self.uncalled.retain(|uncalled| *uncalled != id);
    }

    /// The app is called for the next stream. A tunnel is no body, and may be silent.
    pub(super) fn call(&mut self, stream: &Arc<Stream>, is_tunnel: bool) {
        if self.answers.len() >= 2 * stream.activity.streams_in_hand() + 8 {
            self.answers.retain(|stream| stream.strong_count() > 0);
        }
        self.answers.push(Arc::downgrade(stream));
        let Some(id) = self.uncalled.pop_front() else { return };
        if is_tunnel {
            self.end_upload(id);
        } else if let Some(upload) = self.uploads.iter_mut().find(|upload| upload.id == id) {
            upload.stream = Arc::downgrade(stream);
        }
    }

    /// Whether any body is to come.
    pub(super) fn awaits_any(&self) -> bool {
        !self.uploads.is_empty()
    }

    /// Since when the body is awaited that has been for longest; those that the client cannot send now do not count.
    pub(super) fn awaited_since(&self) -> Option<u64> {
        self.awaited().map(|upload| upload.since).min()
    }

    fn awaited(&self) -> impl Iterator<Item = &Upload> {
        let can_send = self.window >= NEXT_TO_NOTHING;
        self.uploads.iter().filter(move |upload| can_send && upload.window >= NEXT_TO_NOTHING)
    }

    /// The stream of that body, which is not awaited any more.
    pub(super) fn give_up_body(&mut self) -> Option<Arc<Stream>> {
        let (id, stream) = self.awaited().min_by_key(|upload| upload.since).map(|it| (it.id, it.stream.clone()))?;
        self.end_upload(id);
        stream.upgrade()
    }

    /// The answer that the client has held back for longest, and since when by the flow clock.
    pub(super) fn held_back(&self) -> Option<(u64, Arc<Stream>)> {
        let held_back = |stream: &Weak<Stream>| {
            let stream = stream.upgrade()?;
            Some((stream.held_back()?, stream))
        };
        self.answers.iter().filter_map(held_back).min_by_key(|(since, _)| *since)
    }
}

/// Too many frames in too little time that carry nothing.
#[derive(Debug)]
pub(super) struct Flood {
    /// `None` for no limit.
    most: Option<u32>,
    /// What has come since the last mark, less what was to be expected for all that was written.
    count: i64,
    /// When each of the last tenths of the limit was reached.
    marks: [u64; Self::MARKS],
    next: usize,
}

impl Flood {
    const MARKS: usize = 10;
    /// The time for which the limit holds.
    const SPAN: u64 = 10_000;
    /// A client may acknowledge what it gets by a WINDOW_UPDATE each so many bytes.
    const BYTES_A_FRAME: u32 = 1024;
    /// And by others: it may measure by PINGs, and call off what it has asked for.
    const FRAMES_A_FRAME: u32 = 2;
    /// So many of them it may be behind with.
    const MOST_FORGIVEN: i64 = 10_000;

    pub(super) const fn new(most: Option<u32>) -> Self {
        Self { most, count: 0, marks: [0; Self::MARKS], next: 0 }
    }

    /// One more; whether it is one too many.
    fn count(&mut self, now: u64) -> bool {
        let Some(most) = self.most else { return false };
        self.count += 1;
        if self.count <= i64::from(most) / Self::MARKS as i64 {
            return false;
        }
        self.count = 0;
        let oldest = std::mem::replace(&mut self.marks[self.next], now.max(1));
        self.next = (self.next + 1) % Self::MARKS;
        // The mark that is replaced is as old as the whole limit.
        oldest != 0 && now.saturating_sub(oldest) < Self::SPAN
    }

    /// For what carries something, in either direction, some that carry nothing may come.
    fn forgive(&mut self, frame: Frame) {
        if !frame.is_control() && frame.kind != CONTINUATION {
            let frames = Self::FRAMES_A_FRAME + frame.length / Self::BYTES_A_FRAME;
            self.count = (self.count - i64::from(frames)).max(-Self::MOST_FORGIVEN);
        }
    }
}

/// A request in hand, until neither the app nor h2 has anything of it any more.
#[derive(Debug)]
pub(super) struct Stream {
    activity: Arc<Activity>,
    /// Parts of the answer that h2 has, and the client has not taken.
    pieces: AtomicU32,
    /// When it last took one, by the flow clock.
    since: AtomicU64,
    task: OnceLock<AbortHandle>,
}

impl Stream {
    pub(super) fn new(activity: &Arc<Activity>) -> Arc<Self> {
        activity.enter_stream();
        Arc::new(Self {
            activity: Arc::clone(activity),
            pieces: AtomicU32::new(0),
            since: AtomicU64::new(0),
            task: OnceLock::new(),
        })
    }

    /// The task that serves it.
    pub(super) fn runs_as(&self, task: AbortHandle) {
        _ = self.task.set(task);
    }

    /// Ends it, so that the client gets a RST_STREAM; false if the app is through with it, so that there is nothing to be ended.
    pub(super) fn cut(&self) -> bool {
        let Some(task) = self.task.get().filter(|task| !task.is_finished()) else { return false };
        task.abort();
        // Its parts go a little later.
        self.note_progress();
        true
    }

    fn held_back(&self) -> Option<u64> {
        (self.pieces.load(Ordering::Relaxed) > 0).then(|| self.since.load(Ordering::Relaxed))
    }

    fn note_progress(&self) {
        self.since.store(self.activity.flow_now(), Ordering::Relaxed);
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.activity.leave_stream();
    }
}

/// A part of an answer, as long as h2 has it.
#[derive(Debug)]
pub(super) struct Queued(Arc<Stream>);

impl Queued {
    pub(super) fn new(stream: &Arc<Stream>) -> Self {
        stream.note_progress();
        stream.pieces.fetch_add(1, Ordering::Relaxed);
        stream.activity.expect_write();
        Self(Arc::clone(stream))
    }

    /// The client takes something of it.
    pub(super) fn note_progress(&self) {
        self.0.note_progress();
    }
}

impl Drop for Queued {
    fn drop(&mut self) {
        self.0.note_progress();
        self.0.pieces.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::super::frames::tests::frame;
    use super::*;

    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;

    fn streams() -> Streams {
        let mut streams = Streams::new(Flood::new(Some(10_000)));
        streams.read(PREFACE, 0).unwrap();
        // What hyper opens the connection's window by.
        streams.wrote(&frame(WINDOW_UPDATE, 0, 0, &(WINDOW - 65_535).to_be_bytes()), 0);
        streams
    }

    #[test]
    fn a_body_is_awaited_from_its_head_to_its_last_frame() {
        let mut streams = streams();
        streams.read(&frame(HEADERS, END_HEADERS | END_STREAM, 1, b"get"), 5).unwrap();
        assert_eq!(streams.awaited_since(), None);
        streams.read(&frame(HEADERS, END_HEADERS, 3, b"post"), 10).unwrap();
        assert_eq!(streams.awaited_since(), Some(10));
        streams.read(&frame(DATA, 0, 3, b"part"), 20).unwrap();
        assert_eq!(streams.awaited_since(), Some(20));
        streams.read(&frame(6, 0, 0, &[0; 8]), 30).unwrap();
        assert_eq!(streams.awaited_since(), Some(20), "a PING is no part of it");
        streams.read(&frame(DATA, END_STREAM, 3, b"end"), 40).unwrap();
        assert_eq!(streams.awaited_since(), None);
    }

    #[test]
    fn a_body_is_not_awaited_after_a_reset_of_either_side_or_the_end_of_the_answer() {
        for end in [RST_STREAM, HEADERS, DATA] {
            let mut streams = streams();
            streams.read(&frame(HEADERS, END_HEADERS, 1, b"post"), 10).unwrap();
            if end == RST_STREAM {
                streams.read(&frame(RST_STREAM, 0, 1, &[0; 4]), 20).unwrap();
            } else {
                assert!(!streams.wrote(&frame(HEADERS, END_HEADERS, 3, b"another's"), 20));
                streams.uncalled.clear();
                streams.wrote(&frame(end, END_STREAM, 1, b""), 20);
            }
            assert_eq!(streams.awaited_since(), None, "{end}");
        }
    }

    #[test]
    fn a_body_whose_window_is_used_up_is_not_awaited_before_there_is_more() {
        for id in [0, 1] {
            let mut streams = streams();
            streams.read(&frame(HEADERS, END_HEADERS, 1, b"post"), 10).unwrap();
            streams.read(&frame(DATA, 0, 1, &vec![0; WINDOW as usize - 100]), 20).unwrap();
            assert_eq!(streams.awaited_since(), None);
            for update in [0, 1] {
                streams.wrote(&frame(WINDOW_UPDATE, 0, (update + id) % 2, &(1_u32 << 19).to_be_bytes()), 500);
                assert_eq!(streams.awaited_since(), (update == 1).then_some(500), "both windows count");
            }
        }
    }

    #[test]
    fn an_answer_to_a_request_that_the_app_does_not_know_is_a_refusal() {
        let mut streams = streams();
        streams.read(&frame(HEADERS, END_HEADERS | END_STREAM, 1, b"huge"), 5).unwrap();
        assert!(streams.wrote(&frame(HEADERS, END_HEADERS | END_STREAM, 1, b"431"), 6));
        assert!(!streams.wrote(&frame(HEADERS, END_HEADERS | END_STREAM, 1, b"431"), 6));
    }

    #[test]
    fn a_head_is_half_until_its_last_byte() {
        let mut streams = streams();
        let bytes = [frame(HEADERS, END_STREAM, 1, b"half"), frame(CONTINUATION, END_HEADERS, 1, b"rest")].concat();
        for (index, byte) in bytes.iter().enumerate() {
            assert_eq!(streams.has_half_a_head(), index >= 9, "{index}");
            streams.read(&[*byte], 1).unwrap();
        }
        assert!(!streams.has_half_a_head());
    }

    #[test]
    fn more_control_frames_than_the_limit_in_ten_seconds_are_a_flood_and_as_many_in_a_longer_time_are_not() {
        let ping = frame(6, 0, 0, &[0; 8]);
        let first_refused = |milliseconds_apart: u64| {
            let mut streams = streams();
            (0..100_000_u64).find(|count| streams.read(&ping, count * milliseconds_apart).is_err())
        };
        let refused = first_refused(0).expect("it is a flood");
        assert!((10_000..=12_000).contains(&refused), "{refused}");
        assert_eq!(first_refused(2), None);
    }

    #[test]
    fn what_acknowledges_an_answer_is_no_flood_and_a_limit_that_is_off_is_none() {
        let update = frame(WINDOW_UPDATE, 0, 1, &[0, 0, 16, 0]);
        let data = frame(DATA, 0, 1, &[0; 4096]);
        let mut acknowledged = streams();
        for _ in 0..50_000 {
            acknowledged.wrote(&data, 1);
            acknowledged.read(&update, 1).unwrap();
            acknowledged.read(&update, 1).unwrap();
        }
        let mut streams = Streams::new(Flood::new(None));
        streams.read(PREFACE, 0).unwrap();
        for _ in 0..50_000 {
            streams.read(&update, 1).unwrap();
        }
    }
}
