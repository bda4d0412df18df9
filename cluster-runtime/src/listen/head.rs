//! The first lines of an HTTP/1 request, read before anybody accepts it: who is this client, by a header or a cookie?
//!
//! The bytes are only peeked at and the worker reads them again, so nothing here judges the request. What matters is to
//! answer as early as the bytes allow: the client waits meanwhile, and one that does not speak HTTP/1 may wait for us
//! to speak first. An answer, once given, would be the same with more bytes.

use httparse::{EMPTY_HEADER, Header, Request, Status};

/// What of a request tells its client from others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    /// The first header of this name, in any case of letters.
    Header(String),
    /// The first cookie of exactly this name.
    Cookie(String),
}

/// What can be said of a request whose first bytes are known.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found<'a> {
    /// The value, without what surrounds it; never empty.
    Value(&'a [u8]),
    /// There is none and there will be none: the head is complete or too long, or this is no HTTP/1.
    Absent,
    /// More bytes are needed to tell.
    Incomplete,
}

/// The most bytes of a request that are looked at, and with that the most to peek at.
///
/// Servers refuse longer heads: Node from 16 KiB on, nginx single lines of more than 8 KiB. A receive buffer holds it
/// several times.
pub(crate) const MOST: usize = 16 * 1024;

/// hyper refuses a request with more headers, unless told otherwise.
const MOST_HEADERS: usize = 100;

/// Looks for `key` in `bytes`, which a request begins with.
///
/// Only lines that are complete count. A name without a value counts as absent: it tells nobody from anybody.
pub(crate) fn find<'a>(key: &Key, bytes: &'a [u8]) -> Found<'a> {
    let mut headers = [EMPTY_HEADER; MOST_HEADERS];
    let mut request = Request::new(&mut headers);
    let outcome = request.parse(&bytes[..bytes.len().min(MOST)]);
    // Also of a head that is incomplete or goes wrong later, the parser leaves here what came before, and empty ones
    // behind it.
    let mut lines = request.headers.iter().take_while(|line| !line.name.is_empty());
    match lines.find_map(|line| key.value_in(line)) {
        Some(value) => Found::Value(value),
        None if outcome == Ok(Status::Partial) && bytes.len() < MOST => Found::Incomplete,
        None => Found::Absent,
    }
}

impl Key {
    fn value_in<'a>(&self, line: &Header<'a>) -> Option<&'a [u8]> {
        match self {
            Self::Header(name) if line.name.eq_ignore_ascii_case(name) => Some(line.value.trim_ascii()),
            Self::Cookie(name) if line.name.eq_ignore_ascii_case("cookie") => cookie(name, line.value),
            Self::Header(_) | Self::Cookie(_) => None,
        }
        .filter(|value| !value.is_empty())
    }
}

/// The value of a cookie in a line of `name=value` pairs, without its quotes if it has any.
fn cookie<'a>(name: &str, pairs: &'a [u8]) -> Option<&'a [u8]> {
    let value_of = |pair: &'a [u8]| {
        let equals = pair.iter().position(|byte| *byte == b'=')?;
        (pair[..equals].trim_ascii() == name.as_bytes()).then(|| pair[equals + 1..].trim_ascii())
    };
    let value = pairs.split(|byte| *byte == b';').find_map(value_of)?;
    Some(value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &[u8] = b"POST /chat?room=1 HTTP/1.1\r\nHost: example.org\r\nX-User:  ann \r\nCookie: a=1; sid=xyz\r\n\
        Accept: */*\r\nCookie: theme=\"dark\"; sid=second\r\nContent-Length: 4\r\n\r\nX-Late: body";

    fn header(name: &str) -> Key {
        Key::Header(name.to_owned())
    }

    fn cookie(name: &str) -> Key {
        Key::Cookie(name.to_owned())
    }

    fn value(text: &str) -> Found<'_> {
        Found::Value(text.as_bytes())
    }

    #[test]
    fn a_header_is_found_whatever_the_case_of_its_name_and_trimmed() {
        assert_eq!(find(&header("x-user"), HEAD), value("ann"));
        assert_eq!(find(&header("X-USER"), HEAD), value("ann"));
        assert_eq!(find(&header("x-use"), HEAD), Found::Absent);
        assert_eq!(find(&header("x-late"), HEAD), Found::Absent, "the body is no part of the head");
        assert_eq!(find(&header(""), HEAD), Found::Absent);
    }

    #[test]
    fn a_cookie_is_found_in_any_of_its_lines_and_the_first_counts() {
        assert_eq!(find(&cookie("sid"), HEAD), value("xyz"));
        assert_eq!(find(&cookie("a"), HEAD), value("1"));
        assert_eq!(find(&cookie("theme"), HEAD), value("dark"));
        assert_eq!(find(&cookie("SID"), HEAD), Found::Absent, "names of cookies are exact");
        assert_eq!(find(&cookie("id"), HEAD), Found::Absent);
    }

    #[test]
    fn cookies_are_read_as_browsers_write_them_and_a_little_beyond() {
        let sid = |line: &str| {
            let head = format!("GET / HTTP/1.0\r\ncookie:{line}\r\n\r\n");
            match find(&cookie("sid"), head.as_bytes()) {
                Found::Value(value) => Some(String::from_utf8(value.to_vec()).unwrap()),
                Found::Absent => None,
                Found::Incomplete => panic!("the head is complete"),
            }
        };
        for line in ["sid=v", " sid=v;", ";;sid=v", "x; sid=v", "x=sid;sid = v ", "sid=\"v\"", "sid2=w; sid=v"] {
            assert_eq!(sid(line).as_deref(), Some("v"), "{line}");
        }
        assert_eq!(sid("sid=a=b==").as_deref(), Some("a=b=="));
        assert_eq!(sid("sid=\"v").as_deref(), Some("\"v"), "a quote that nothing closes is part of the value");
        assert_eq!(sid("sid=\"").as_deref(), Some("\""));
        assert_eq!(sid("sid"), None);
        assert_eq!(sid("sid=; a=sid=u"), None);
        assert_eq!(sid("sid=\"\""), None);
        assert_eq!(sid(""), None);
    }

    #[test]
    fn a_name_without_a_value_counts_as_absent() {
        let head = b"GET / HTTP/1.1\r\nX-User:\r\nX-User: \t\r\nX-User: ann\r\n\r\n";
        assert_eq!(find(&header("x-user"), head), value("ann"));
        assert_eq!(find(&header("x-user"), b"GET / HTTP/1.1\r\nX-User: \r\n\r\n"), Found::Absent);
    }

    #[test]
    fn a_value_is_given_as_soon_as_its_line_is_complete() {
        let head = "GET / HTTP/1.1\r\nX-User: ann\r\n";
        assert_eq!(find(&header("x-user"), head.as_bytes()), value("ann"));
        assert_eq!(find(&header("x-user"), &head.as_bytes()[..head.len() - 1]), Found::Incomplete);
        let broken = format!("{head}no header\r\n");
        assert_eq!(find(&header("x-user"), broken.as_bytes()), value("ann"), "what comes later does not matter");
    }

    #[test]
    fn lines_may_end_and_begin_as_old_clients_have_them() {
        assert_eq!(find(&header("x-user"), b"\r\nGET / HTTP/1.1\nX-User: ann\n\n"), value("ann"));
    }

    #[test]
    fn what_is_no_http_1_is_known_at_the_first_byte_that_shows_it() {
        let cases: [(&[u8], usize); 9] = [
            (b"\x16\x03\x01\x02\x00\x01\x00", 1),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 12),
            (b"GET / HTTP/2\r\n", 12),
            (b"GET / HTTP/1.1\rX", 16),
            (b"\0\0\0\x08", 1),
            (b"\xff\xfe", 1),
            (b"*1\r\n$4\r\nPING\r\n", 3),
            (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\r\n", 12),
            (b"GET / HTTP/1.1\r\nno header\r\n", 19),
        ];
        for (bytes, shown) in cases {
            let text = bytes.escape_ascii();
            for len in 0..shown {
                assert_eq!(find(&header("x-user"), &bytes[..len]), Found::Incomplete, "{text} {len}");
            }
            for len in shown..=bytes.len() {
                assert_eq!(find(&header("x-user"), &bytes[..len]), Found::Absent, "{text} {len}");
            }
        }
    }

    #[test]
    fn an_endless_head_is_given_up_at_the_most_bytes() {
        let endless = [b"GET /".to_vec(), vec![b'a'; 2 * MOST]].concat();
        assert_eq!(find(&header("x-user"), &endless[..MOST - 1]), Found::Incomplete);
        assert_eq!(find(&header("x-user"), &endless[..MOST]), Found::Absent);
        assert_eq!(find(&header("x-user"), &endless), Found::Absent);

        let end = b" HTTP/1.1\r\nX-User: ann\r\n";
        let fitting = [&endless[..MOST - end.len()], end].concat();
        assert_eq!(find(&header("x-user"), &fitting), value("ann"));
        let too_late = [&endless[..=MOST - end.len()], end].concat();
        assert_eq!(find(&header("x-user"), &too_late), Found::Absent);
    }

    #[test]
    fn more_headers_than_a_server_takes_are_not_waited_for() {
        let head = |before| format!("GET / HTTP/1.1\r\n{}X-User: ann\r\n", "a: b\r\n".repeat(before));
        assert_eq!(find(&header("x-user"), head(MOST_HEADERS - 1).as_bytes()), value("ann"));
        assert_eq!(find(&header("x-user"), head(MOST_HEADERS).as_bytes()), Found::Absent);
    }

    #[test]
    fn of_a_valid_head_every_beginning_is_incomplete_or_has_the_final_answer() {
        for key in [header("host"), header("x-user"), header("x-none"), cookie("a"), cookie("theme"), cookie("none")] {
            assert_ne!(find(&key, HEAD), Found::Incomplete);
            assert_settles(&key, HEAD);
        }
    }

    #[test]
    fn no_bytes_make_it_panic_or_change_an_answer() {
        let mut random = 0x9e37_79b9_7f4a_7c15_u64;
        let mut below = |bound: usize| {
            random ^= random << 13;
            random ^= random >> 7;
            random ^= random << 17;
            (random % bound as u64) as usize
        };
        for _ in 0..500 {
            let noise: Vec<u8> = (0..below(300)).map(|_| below(256) as u8).collect();
            let mut damaged = HEAD.to_vec();
            for _ in 0..=below(4) {
                let (at, byte) = (below(damaged.len()), b"\r\n :;=\"\0\xff\x16a"[below(11)]);
                damaged[at] = byte;
            }
            for bytes in [noise, damaged] {
                assert_settles(&header("x-user"), &bytes);
                assert_settles(&cookie("sid"), &bytes);
            }
        }
    }

    /// Once there is an answer for a beginning of `bytes`, it is the answer for every longer one.
    fn assert_settles(key: &Key, bytes: &[u8]) {
        let mut answers = (0..=bytes.len()).map(|len| find(key, &bytes[..len]));
        let Some(first) = answers.find(|answer| *answer != Found::Incomplete) else { return };
        assert!(answers.all(|answer| answer == first), "{key:?} in {}", bytes.escape_ascii());
    }
}
