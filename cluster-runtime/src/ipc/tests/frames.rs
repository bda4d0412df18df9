//! The byte layout, without a socket.

use bytes::BufMut;

use super::super::frame::{self, Deframer, FrameBuf, MAX_FRAME, Part, TooLarge, WINDOW, cost};
use super::Random;

#[test]
fn every_kind_of_frame_survives_the_round_trip() {
    let mut frames = Deframer::new();
    let mut reply = FrameBuf::reply(7, None);
    reply.put(b"answer");
    for frame in [&message(b"one"), reply.finish().unwrap(), &frame::unanswered(8), &frame::credit(9)] {
        frames.extend(frame);
    }
    assert_eq!(messages(frames.next().unwrap().unwrap()), (vec![b"one".to_vec()], 8));
    assert_eq!(frames.next(), Ok(Some(Part::Reply { tag: 7, payload: b"answer"[..].into() })));
    assert_eq!(frames.next(), Ok(Some(Part::Unanswered { tag: 8 })));
    assert_eq!(frames.next(), Ok(Some(Part::Credit(9))));
    assert_eq!(frames.next(), Ok(None));
}

#[test]
fn messages_in_a_row_come_as_one_run() {
    let mut frames = Deframer::new();
    for payload in [&b"a"[..], b"", b"ccc"] {
        frames.extend(&message(payload));
    }
    let (payloads, cost) = messages(frames.next().unwrap().unwrap());
    assert_eq!(payloads, [&b"a"[..], b"", b"ccc"]);
    assert_eq!(cost, 3 * 5 + 4);
    assert_eq!(frames.next(), Ok(None));
}

#[test]
fn every_way_to_split_a_stream_gives_the_same_parts() {
    let mut stream = message(b"one");
    stream.extend(message(b"two"));
    stream.extend(frame::unanswered(3));
    stream.extend(message(b""));
    let mut reply = FrameBuf::reply(4, None);
    reply.put(b"x");
    stream.extend_from_slice(reply.finish().unwrap());
    stream.extend(frame::credit(5));
    let whole = parts_of(&[&stream]);
    assert_eq!(whole.len(), 6);
    for at in 0..=stream.len() {
        let (front, back) = stream.split_at(at);
        assert_eq!(parts_of(&[front, back]), whole, "split at {at}");
    }
    let bytes: Vec<_> = stream.chunks(1).collect();
    assert_eq!(parts_of(&bytes), whole, "split everywhere");
}

#[test]
fn a_frame_is_the_same_on_the_stack_and_on_the_heap() {
    let spare = frame::Spare::default();
    for size in (0..600).chain([70_000]) {
        let payload = vec![size as u8; size];
        let mut frame = FrameBuf::message(Some(&spare));
        for piece in payload.chunks(13) {
            frame.put(piece);
        }
        assert_eq!(frame.finish().unwrap(), message(&payload), "payload of {size}");
    }
}

#[test]
fn a_frame_over_the_cap_is_only_counted() {
    let mut frame = FrameBuf::message(None);
    frame.put(&vec![0; MAX_FRAME - 1]);
    assert_eq!(frame.finish().unwrap().len(), 4 + MAX_FRAME);
    frame.put(&[0; 10]);
    frame.put(&[0; 10]);
    assert_eq!(frame.finish(), Err(TooLarge { size: MAX_FRAME + 20, limit: MAX_FRAME }));
}

#[test]
fn two_frames_of_any_size_fit_into_the_window() {
    assert_eq!(cost(5), 5);
    assert!(2 * cost(4 + MAX_FRAME) <= WINDOW);
}

#[test]
fn a_bad_head_is_refused_before_its_body_is_there() {
    for (head, complaint) in [
        (&[0, 0, 0, 0][..], "a frame without a kind"),
        (&[1, 0, 0, 1], "a frame of 16777217 bytes; the limit is 16777216"),
        (&[255, 255, 255, 255], "a frame of 4294967295 bytes; the limit is 16777216"),
        (&[9, 0, 0, 0, 0], "a frame of the unknown kind 0"),
        (&[9, 0, 0, 0, 5], "a frame of the unknown kind 5"),
        (&[8, 0, 0, 0, 2], "a frame of kind 2 with the impossible length 8"),
        (&[10, 0, 0, 0, 3], "a frame of kind 3 with the impossible length 10"),
        (&[4, 0, 0, 0, 4], "a frame of kind 4 with the impossible length 4"),
    ] {
        let mut frames = Deframer::new();
        frames.extend(head);
        assert_eq!(frames.next(), Err(complaint.to_owned()));
    }
}

#[test]
fn a_length_from_the_wire_reserves_nothing() {
    let mut frames = Deframer::new();
    frames.extend(&(MAX_FRAME as u32).to_le_bytes());
    frames.extend(&[1]);
    assert_eq!(frames.next(), Ok(None));
    frames.space();
    assert!(frames.capacity() < 64 << 10, "{} bytes reserved", frames.capacity());
}

#[test]
fn sound_messages_before_a_fault_are_still_given_out() {
    let mut frames = Deframer::new();
    frames.extend(&message(b"fine"));
    frames.extend(&[0, 0, 0, 0]);
    assert_eq!(messages(frames.next().unwrap().unwrap()).0, [b"fine"]);
    assert!(frames.next().is_err());
}

#[test]
fn garbage_never_panics_and_never_holds_more_than_arrived() {
    for seed in 1..=2000 {
        let mut random = Random(seed);
        let mut frames = Deframer::new();
        let mut arrived = 0;
        'stream: for _ in 0..50 {
            let bytes: Vec<u8> = match random.below(4) {
                // Half-sound heads reach further than noise does.
                0 => frame::credit(random.next() as u32).to_vec(),
                1 => message(&vec![0; random.below(300) as usize]),
                2 => [random.below(20) as u8, 0, 0, 0, random.below(6) as u8].to_vec(),
                _ => (0..random.below(40)).map(|_| random.next() as u8).collect(),
            };
            frames.space().put_slice(&bytes);
            arrived += bytes.len();
            loop {
                match frames.next() {
                    Ok(Some(_)) => {}
                    Ok(None) => break,
                    Err(_) => break 'stream,
                }
                assert!(frames.buffered() <= arrived, "seed {seed}");
            }
            assert!(frames.capacity() <= 2 * arrived + (64 << 10), "seed {seed}");
        }
    }
}

fn message(payload: &[u8]) -> Vec<u8> {
    let mut bytes = (payload.len() as u32 + 1).to_le_bytes().to_vec();
    bytes.push(1);
    bytes.extend_from_slice(payload);
    bytes
}

fn messages(part: Part) -> (Vec<Vec<u8>>, usize) {
    let Part::Messages { mut run, cost } = part else { panic!("messages were expected, not {part:?}") };
    let mut payloads = Vec::new();
    let mut total = 0;
    while let Some((payload, cost)) = frame::take_message(&mut run) {
        payloads.push(payload.to_vec());
        total += cost;
    }
    assert_eq!(total, cost, "a run costs what its messages cost");
    (payloads, cost)
}

/// Every part as text, runs taken apart.
fn parts_of(pieces: &[&[u8]]) -> Vec<String> {
    let mut frames = Deframer::new();
    let mut parts = Vec::new();
    for piece in pieces {
        frames.extend(piece);
        while let Some(part) = frames.next().unwrap() {
            if matches!(part, Part::Messages { .. }) {
                parts.extend(messages(part).0.iter().map(|payload| format!("{payload:?}")));
            } else {
                parts.push(format!("{part:?}"));
            }
        }
    }
    parts
}
