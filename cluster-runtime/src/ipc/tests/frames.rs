//! The byte layout, without a socket.

use bytes::BufMut;

use super::super::codec::Sink as _;
use super::super::frame::{self, Deframer, Frame, FrameBuf, Item, PIECE, Part, STREAM_WINDOW, TooLarge, WINDOW, Word};
use super::{Random, bytes_of, item_frame, message_frame, reply_frame};

const LIMIT: usize = 1 << 20;

#[test]
fn every_kind_of_frame_survives_the_round_trip() {
    let mut frames = Deframer::new(LIMIT);
    for frame in [&message(b"one"), &reply_frame(7, b"answer"), &frame::unanswered(8)[..], &frame::credit(9)] {
        frames.extend(frame);
    }
    assert_eq!(messages(frames.next().unwrap().unwrap()), [b"one"]);
    assert_eq!(frames.next(), Ok(Some(Part::Reply { tag: 7, payload: b"answer"[..].into(), parcel: None })));
    assert_eq!(frames.next(), Ok(Some(Part::Unanswered { tag: 8 })));
    assert_eq!(frames.next(), Ok(Some(Part::Credit(9))));
    assert_eq!(frames.next(), Ok(None));
}

#[test]
fn every_word_of_a_stream_survives_the_round_trip() {
    let mut frames = Deframer::new(LIMIT);
    for frame in [&frame::taken(1)[..], &item_frame(2, b"value"), &frame::end(3), &frame::more(4, 5), &frame::cancel(6)]
    {
        frames.extend(frame);
    }
    let as_message = Item::Whole(message(b"value").into());
    for (tag, word) in
        [(1, Word::Taken), (2, Word::Item(as_message)), (3, Word::End), (4, Word::More(5)), (6, Word::Cancel)]
    {
        assert_eq!(frames.next(), Ok(Some(Part::Stream { tag, word })));
    }
    assert_eq!(frames.next(), Ok(None));
}

#[test]
fn an_item_of_any_size_costs_both_ends_the_same_and_fits_into_its_window() {
    for size in [0, 1, 127, 1000, PIECE - 9, PIECE - 8, PIECE, STREAM_WINDOW, 3 * STREAM_WINDOW] {
        let payload = vec![size as u8; size];
        let mut front = [0; 128];
        let mut frame = FrameBuf::item(&mut front, 7, LIMIT);
        frame.put(&payload);
        let frame = frame.finish().unwrap();
        let cost = frame.item_cost();
        assert!(cost > 0 && cost <= STREAM_WINDOW / 4 * 3);
        let mut frames = Deframer::new(LIMIT);
        frames.extend(&bytes_of(frame));
        let Ok(Some(Part::Stream { tag: 7, word: Word::Item(item) })) = frames.next() else { panic!("{size}") };
        assert_eq!(item.cost(), cost, "{size}");
        match item {
            Item::Whole(frame) => assert!(frame == message(&payload), "{size}"),
            Item::Single(whole) => assert!(whole.open().0 == payload, "{size}"),
        }
    }
}

#[test]
fn messages_in_a_row_come_as_one_run() {
    let mut frames = Deframer::new(LIMIT);
    for payload in [&b"a"[..], b"", b"ccc"] {
        frames.extend(&message(payload));
    }
    assert_eq!(messages(frames.next().unwrap().unwrap()), [&b"a"[..], b"", b"ccc"]);
    assert_eq!(frames.next(), Ok(None));
}

#[test]
fn every_way_to_split_a_stream_gives_the_same_parts() {
    let mut stream = message(b"one");
    stream.extend(message(b"two"));
    stream.extend(frame::unanswered(3));
    stream.extend(message(b""));
    stream.extend(reply_frame(4, b"x"));
    stream.extend(frame::credit(5));
    stream.extend(item_frame(6, b"y"));
    stream.extend(frame::more(7, 8));
    stream.extend(frame::end(9));
    let whole = parts_of(&[&stream]);
    assert_eq!(whole.len(), 9);
    for at in 0..=stream.len() {
        let (front, back) = stream.split_at(at);
        assert_eq!(parts_of(&[front, back]), whole, "split at {at}");
    }
    let bytes: Vec<_> = stream.chunks(1).collect();
    assert_eq!(parts_of(&bytes), whole, "split everywhere");
}

#[test]
fn a_frame_is_the_same_whatever_its_size_and_what_was_before_it() {
    for size in (0..600).chain([70_000, PIECE - 1]) {
        let payload = vec![size as u8; size];
        let mut front = [0; 128];
        let mut frame = FrameBuf::message(&mut front, LIMIT);
        for piece in payload.chunks(13) {
            frame.put(piece);
        }
        assert_eq!(bytes_of(frame.finish().unwrap()), message(&payload), "payload of {size}");
    }
}

#[test]
fn a_large_frame_travels_in_pieces_with_others_between_them() {
    for size in [PIECE, 2 * PIECE - 1, 2 * PIECE, 5 * PIECE + 17, LIMIT] {
        let payload: Vec<u8> = (0..size).map(|at| at as u8 ^ (at >> 8) as u8).collect();
        for step in [1000, size] {
            let mut front = [0; 128];
            let mut frame = FrameBuf::message(&mut front, LIMIT);
            payload.chunks(step).for_each(|bytes| frame.put(bytes));
            let Frame::Large(large) = frame.finish().unwrap() else { panic!("a large frame was expected") };
            let (mut large, cost) = (large.clone(), large.cost());
            let mut frames = Deframer::new(LIMIT);
            let mut found = Vec::new();
            while large.len() > 0 {
                let (piece, _) = large.next_piece();
                assert!(piece.len() <= 5 + PIECE);
                frames.extend(&piece);
                frames.extend(&message(b"between"));
                while let Some(part) = frames.next().unwrap() {
                    found.push(part);
                }
            }
            let behind = found.pop().unwrap();
            let Some(Part::Single(whole)) = found.pop() else { panic!("the large one was expected") };
            assert_eq!(whole.cost(), cost, "{size} by {step}");
            assert!(whole.open().0 == payload, "{size} by {step}");
            for part in found.into_iter().chain([behind]) {
                assert_eq!(messages(part), [b"between"]);
            }
        }
    }
}

#[test]
fn a_large_reply_travels_in_pieces_too() {
    let payload = vec![7; 3 * PIECE];
    let mut frames = Deframer::new(LIMIT);
    frames.extend(&reply_frame(9, &payload));
    assert_eq!(frames.next(), Ok(Some(Part::Reply { tag: 9, payload: payload.into(), parcel: None })));
}

#[test]
fn what_has_come_of_a_frame_can_be_handed_on_at_every_point() {
    let large = vec![3; 2 * PIECE + 5];
    let stream = [message(b"one"), message_frame(&large), message(b"two")].concat();
    let whole = parts_of(&[&stream]);
    for at in (0..stream.len()).step_by(997).chain([8, 9, 12, 13, 13 + PIECE, 18 + PIECE, stream.len()]) {
        let mut first = Deframer::new(LIMIT);
        let (front, back) = stream.split_at(at);
        let mut parts = Vec::new();
        first.space().put_slice(&front[..front.len().min(5)]);
        first.extend(&front[front.len().min(5)..]);
        take_parts(&mut first, &mut parts);
        let mut second = Deframer::new(LIMIT);
        second.extend(&first.into_begun().0);
        take_parts(&mut second, &mut parts);
        second.extend(back);
        take_parts(&mut second, &mut parts);
        assert_eq!(parts, whole, "handed on at {at}");
    }
}

#[test]
fn a_payload_over_the_limit_is_only_counted() {
    let mut front = [0; 128];
    let mut frame = FrameBuf::message(&mut front, LIMIT);
    frame.put(&vec![0; LIMIT]);
    assert!(matches!(frame.finish(), Ok(Frame::Large(large)) if large.len() > LIMIT));
    let mut front = [0; 128];
    let mut frame = FrameBuf::message(&mut front, LIMIT);
    frame.put(&vec![0; LIMIT]);
    frame.put(&[0; 10]);
    frame.put(&[0; 10]);
    assert_eq!(frame.finish().err(), Some(TooLarge { size: LIMIT + 20, limit: LIMIT }));
}

#[test]
fn two_frames_of_any_size_fit_into_the_window() {
    assert_eq!(FrameBuf::message(&mut [0; 128], LIMIT).finish().unwrap().cost(), 5);
    for size in [PIECE - 1, PIECE, LIMIT] {
        let mut front = [0; 128];
        let mut frame = FrameBuf::message(&mut front, LIMIT);
        frame.put(&vec![0; size]);
        assert!(2 * frame.finish().unwrap().cost() <= WINDOW);
    }
}

#[test]
fn a_bad_head_is_refused_before_its_body_is_there() {
    for (head, complaint) in [
        (&[0, 0, 0, 0][..], "a frame without a kind"),
        (&[2, 0, 2, 0], "a frame of 131074 bytes; the limit is 131073"),
        (&[255, 255, 255, 255], "a frame of 4294967295 bytes; the limit is 131073"),
        (&[9, 0, 0, 0, 0], "a frame of the unknown kind 0"),
        (&[9, 0, 0, 0, 99], "a frame of the unknown kind 99"),
        (&[1, 0, 0, 0, 5], "a frame of kind 5 with the impossible length 1"),
        (&[8, 0, 0, 0, 2], "a frame of kind 2 with the impossible length 8"),
        (&[10, 0, 0, 0, 3], "a frame of kind 3 with the impossible length 10"),
        (&[4, 0, 0, 0, 4], "a frame of kind 4 with the impossible length 4"),
    ] {
        let mut frames = Deframer::new(LIMIT);
        frames.extend(head);
        assert_eq!(frames.next(), Err(complaint.to_owned()));
    }
}

#[test]
fn pieces_are_refused_that_make_no_large_frame_or_one_over_the_limit() {
    let piece = |kind: u8, bytes: &[u8]| [&(1 + bytes.len() as u32).to_le_bytes()[..], &[kind], bytes].concat();
    let first = |kind: u8| [vec![kind], vec![0; PIECE - 1]].concat();
    let full = piece(5, &[1; PIECE]);
    for (stream, complaint) in [
        (piece(6, b"\x01small"), "a frame of 6 bytes in pieces"),
        ([piece(5, &first(4)), piece(6, &[0])].concat(), "a frame of kind 4 in pieces"),
        (full.repeat(9), "a message of 1179648 bytes; the limit is 1048576"),
    ] {
        let mut frames = Deframer::new(LIMIT);
        frames.extend(&stream);
        assert_eq!(frames.next(), Err(complaint.to_owned()));
    }
}

#[test]
fn a_length_from_the_wire_reserves_no_more_than_a_piece() {
    for kind in [1, 5] {
        let mut frames = Deframer::new(LIMIT);
        frames.extend(&(PIECE as u32).to_le_bytes());
        frames.extend(&[kind]);
        assert_eq!(frames.next(), Ok(None));
        frames.space();
        assert!(frames.capacity() < PIECE + (64 << 10), "{} bytes reserved", frames.capacity());
    }
}

#[test]
fn sound_messages_before_a_fault_are_still_given_out() {
    let mut frames = Deframer::new(LIMIT);
    frames.extend(&message(b"fine"));
    frames.extend(&[0, 0, 0, 0]);
    assert_eq!(messages(frames.next().unwrap().unwrap()), [b"fine"]);
    assert!(frames.next().is_err());
}

#[test]
fn garbage_never_panics_and_never_holds_more_than_arrived() {
    for seed in 1..=2000 {
        let mut random = Random(seed);
        let mut frames = Deframer::new(LIMIT);
        let mut arrived = 0;
        'stream: for _ in 0..50 {
            let bytes: Vec<u8> = match random.below(4) {
                // Half-sound heads reach further than noise does.
                0 => frame::credit(random.next() as u32).to_vec(),
                1 => message(&vec![0; random.below(300) as usize]),
                2 => [random.below(20) as u8, 0, 0, 0, random.below(8) as u8].to_vec(),
                _ => (0..random.below(40)).map(|_| random.next() as u8).collect(),
            };
            for bytes in bytes.chunks(1 + random.below(40) as usize) {
                // As a read does it: never more than there is room for.
                let mut bytes = bytes;
                while !bytes.is_empty() {
                    let (now, later) = bytes.split_at(bytes.len().min(frames.space().remaining_mut()));
                    frames.space().put_slice(now);
                    frames.was_read(now.len());
                    bytes = later;
                }
            }
            arrived += bytes.len();
            loop {
                match frames.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'stream,
                }
                assert!(frames.buffered() <= arrived, "seed {seed}");
            }
            assert!(frames.capacity() <= 2 * arrived + PIECE + (64 << 10), "seed {seed}");
        }
    }
}

fn message(payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32 + 1).to_le_bytes().to_vec();
    bytes.push(1);
    bytes.extend_from_slice(payload);
    bytes
}

fn messages(part: Part) -> Vec<Vec<u8>> {
    let Part::Messages(run) = part else { panic!("messages were expected, not {part:?}") };
    let mut payloads = Vec::new();
    let mut rest = &run[..];
    while let Some((payload, size)) = frame::first_message(rest) {
        payloads.push(payload.to_vec());
        rest = &rest[size..];
    }
    assert!(rest.is_empty(), "a run is made of whole messages");
    payloads
}

/// Every part as text, runs taken apart.
fn parts_of(pieces: &[&[u8]]) -> Vec<String> {
    let mut frames = Deframer::new(LIMIT);
    let mut parts = Vec::new();
    for piece in pieces {
        frames.extend(piece);
        take_parts(&mut frames, &mut parts);
    }
    parts
}

fn take_parts(frames: &mut Deframer, parts: &mut Vec<String>) {
    while let Some(part) = frames.next().unwrap() {
        if matches!(part, Part::Messages(_)) {
            parts.extend(messages(part).iter().map(|payload| format!("{payload:?}")));
        } else {
            parts.push(format!("{part:?}"));
        }
    }
}
