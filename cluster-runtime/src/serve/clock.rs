//! What a connection waits for, and when that has lasted too long. Pure: times are milliseconds since it was opened.

use std::time::Duration;

use super::closed::HttpClosed;

/// How long a connection may wait for each thing that its client owes; `None` is for ever.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    pub(super) head: Option<Duration>,
    pub(super) idle: Option<Duration>,
    pub(super) body: Option<Duration>,
    pub(super) write: Option<Duration>,
}

/// What is known of a connection; each `Option` is since when it is so.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seen {
    /// When something was last written in HTTP/1, or the last stream ended in HTTP/2.
    pub(super) quiet: u64,
    /// A head was begun, and its end has not come.
    pub(super) head: Option<u64>,
    /// A part of a body is to come.
    pub(super) body: Option<u64>,
    /// An answer has parts that HTTP/2's windows hold back.
    pub(super) held_back: Option<u64>,
    /// The socket takes nothing.
    pub(super) blocked: Option<u64>,
    /// Requests are in hand.
    pub(super) is_busy: bool,
    pub(super) is_http2: bool,
}

/// When the patience with a client ends, if nothing comes before, and what it is then said to have done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub(super) at: u64,
    pub(super) why: HttpClosed,
}

impl Times {
    /// What is due first; `None` while the app has to act, or where there is no limit.
    pub(super) fn due(&self, seen: &Seen) -> Option<Due> {
        // Whoever cannot be written to cannot be told either that more may be sent, or that a request has been understood.
        if let Some(since) = seen.blocked {
            return after(since, self.write, HttpClosed::WriteTimeout);
        }
        let head = |since| after(since, self.head, HttpClosed::HeadTimeout);
        let body = seen.body.and_then(|since| after(since, self.body, HttpClosed::BodyTimeout));
        let idle = || after(seen.quiet, self.idle, HttpClosed::IdleTimeout).filter(|_| !seen.is_busy);
        if seen.is_http2 {
            let held_back = seen.held_back.and_then(|since| after(since, self.write, HttpClosed::WriteTimeout));
            let idle = if seen.head.is_none() && seen.held_back.is_none() { idle() } else { None };
            return [seen.head.and_then(head), body, held_back, idle].into_iter().flatten().min();
        }
        match seen.head {
            // The one before it has a part to come.
            _ if seen.body.is_some() => body,
            // The next head is not read before the answer is written.
            Some(since) if !seen.is_busy => head(since.max(seen.quiet)),
            Some(_) => None,
            None => idle(),
        }
    }
}

fn after(since: u64, time: Option<Duration>, why: HttpClosed) -> Option<Due> {
    time.map(|time| Due { at: since.saturating_add(millis(time)), why })
}

/// Cut to what fits.
pub(super) fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// The time in which a connection's socket took what was written: it stands still while the socket does not. By it are the windows of
/// HTTP/2 measured, so that a stream whose turn does not come on a slow line is not taken for one that its client holds back.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct FlowClock {
    /// For how long it has stood in all, before it stands now.
    pub(super) stood: u64,
    pub(super) stands_since: Option<u64>,
}

impl FlowClock {
    /// The socket takes something again.
    pub(super) fn go(&mut self, now: u64) {
        if let Some(since) = self.stands_since.take() {
            self.stood += now.saturating_sub(since);
        }
    }

    pub(super) fn read(&self, now: u64) -> u64 {
        self.stands_since.unwrap_or(now).saturating_sub(self.stood)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TIMES: Times = Times {
        head: Some(Duration::from_millis(30)),
        idle: Some(Duration::from_millis(75)),
        body: Some(Duration::from_millis(60)),
        write: Some(Duration::from_millis(50)),
    };
    const OFF: Times = Times { head: None, idle: None, body: None, write: None };

    fn due(seen: Seen) -> Option<(u64, HttpClosed)> {
        assert_eq!(OFF.due(&seen), None);
        TIMES.due(&seen).map(|due| (due.at, due.why))
    }

    #[test]
    fn a_connection_idles_from_its_opening_and_from_its_last_answer() {
        assert_eq!(due(Seen::default()), Some((75, HttpClosed::IdleTimeout)));
        assert_eq!(due(Seen { quiet: 1000, ..Seen::default() }), Some((1075, HttpClosed::IdleTimeout)));
        assert_eq!(due(Seen { quiet: 1000, is_http2: true, ..Seen::default() }), Some((1075, HttpClosed::IdleTimeout)));
        assert_eq!(due(Seen { is_busy: true, ..Seen::default() }), None, "the app may take its time");
        assert_eq!(due(Seen { is_busy: true, is_http2: true, ..Seen::default() }), None);
    }

    #[test]
    fn a_head_is_due_from_its_first_byte_but_not_before_the_answer_before_it() {
        let begun = Seen { head: Some(100), ..Seen::default() };
        assert_eq!(due(begun), Some((130, HttpClosed::HeadTimeout)));
        assert_eq!(due(Seen { quiet: 200, ..begun }), Some((230, HttpClosed::HeadTimeout)));
        assert_eq!(due(Seen { is_busy: true, ..begun }), None);
        assert_eq!(due(Seen { is_busy: true, is_http2: true, ..begun }), Some((130, HttpClosed::HeadTimeout)));
    }

    #[test]
    fn a_body_is_due_whether_the_app_waits_or_not() {
        for is_http2 in [false, true] {
            let seen = Seen { body: Some(100), is_busy: true, is_http2, ..Seen::default() };
            assert_eq!(due(seen), Some((160, HttpClosed::BodyTimeout)));
        }
    }

    #[test]
    fn a_socket_that_takes_nothing_excuses_all_else() {
        for is_http2 in [false, true] {
            let all = Some(1);
            let seen = Seen { blocked: Some(100), head: all, body: all, held_back: all, is_http2, ..Seen::default() };
            assert_eq!(due(seen), Some((150, HttpClosed::WriteTimeout)));
        }
    }

    #[test]
    fn in_http2_the_first_of_all_that_is_due_counts() {
        let seen = Seen { held_back: Some(100), is_http2: true, ..Seen::default() };
        assert_eq!(due(seen), Some((150, HttpClosed::WriteTimeout)));
        assert_eq!(due(Seen { body: Some(80), ..seen }), Some((140, HttpClosed::BodyTimeout)));
        assert_eq!(due(Seen { body: Some(80), head: Some(100), ..seen }), Some((130, HttpClosed::HeadTimeout)));
    }

    #[test]
    fn the_flow_clock_stands_still_while_the_socket_takes_nothing() {
        let mut clock = FlowClock::default();
        assert_eq!(clock.read(10), 10);
        clock.stands_since = Some(10);
        assert_eq!(clock.read(100), 10);
        clock.go(110);
        clock.go(115);
        assert_eq!(clock.read(120), 20);
    }
}
