//! A peer that does not keep to the protocol: it loses the lane, and this side stays small and sound.

use std::io::{ErrorKind, Read, Write};
use std::net::Shutdown;

use super::super::frame::{self, WINDOW};
use super::*;

#[tokio::test]
async fn garbage_ends_the_lane() {
    for seed in 1..50 {
        let (mut peer, _primary, end) = raw();
        let mut random = Random(seed);
        let garbage: Vec<u8> = (0..4096).map(|_| random.next() as u8).collect();
        peer.write_all(&garbage).unwrap();
        peer.shutdown(Shutdown::Write).unwrap();
        // A length that is allowed by chance waits for its body, and the stream ends first.
        let end = soon(end).await.unwrap();
        assert!(matches!(end, LaneEnd::Violation(_) | LaneEnd::PeerClosed), "seed {seed}: {end:?}");
    }
}

#[tokio::test]
async fn half_a_frame_before_the_end_is_a_peer_that_died_and_costs_no_message_before_it() {
    let (mut peer, primary, end) = raw();
    peer.write_all(&counting(1)).unwrap();
    peer.write_all(&counting(u64::MAX)[..7]).unwrap();
    drop(peer);
    assert_eq!(soon(end).await.unwrap(), LaneEnd::PeerClosed);
    assert_eq!(count(&primary).await, 1);
    assert!(soon(primary.recv()).await.is_none());
}

#[tokio::test]
async fn a_giant_length_ends_the_lane() {
    assert_eq!(end_after(&[0xff, 0xff, 0xff, 0x7f, 1]).await, "a frame of 2147483647 bytes; the limit is 131073");
}

#[tokio::test]
async fn an_unknown_kind_ends_the_lane() {
    assert_eq!(end_after(&[2, 0, 0, 0, 77, 0]).await, "a frame of the unknown kind 77");
}

#[tokio::test]
async fn credit_that_is_not_due_ends_the_lane() {
    assert_eq!(end_after(&frame::credit(1)).await, "credit for 1 bytes when 0 were due");
    assert_eq!(end_after(&frame::credit(0)).await, "credit for 0 bytes when 0 were due");
}

#[tokio::test]
async fn credit_for_what_has_not_left_ends_the_lane_and_its_output_does_not_grow() {
    let (mut peer, primary, end) = raw();
    // It reads nothing, and gives credit again and again for what it might have got.
    let crediting = std::thread::spawn(move || while peer.write_all(&frame::credit(10_000)).is_ok() {});
    soon(async {
        let mut number = 0;
        while primary.send(Down::Count(number)).await.is_ok() {
            number += 1;
            let held = primary.core().buffered().0;
            assert!(held <= 3 * WINDOW, "{held} bytes are held");
        }
    })
    .await;
    let LaneEnd::Violation(text) = soon(end).await.unwrap() else { panic!("a violation was expected") };
    assert!(text.starts_with("credit for 10000 bytes when "), "{text}");
    crediting.join().unwrap();
}

#[tokio::test]
async fn more_messages_than_the_window_allows_end_the_lane() {
    let (peer, primary, end) = raw();
    let writing = std::thread::spawn(move || {
        let mut peer = peer;
        let lot: Vec<u8> = (0..1000).flat_map(counting).collect();
        while peer.write_all(&lot).is_ok() {}
    });
    let LaneEnd::Violation(text) = soon(end).await.unwrap() else { panic!("a violation was expected") };
    assert!(text.ends_with("the window is 1048576"), "{text}");
    assert!(primary.core().buffered().1 <= WINDOW);
    writing.join().unwrap();
}

#[tokio::test]
async fn a_message_that_cannot_be_decoded_ends_the_lane_and_nothing_after_it_is_looked_at() {
    let (mut peer, primary, end) = raw();
    peer.write_all(&counting(1)).unwrap();
    peer.write_all(&message_frame(&encoded(&99_u32))).unwrap();
    peer.write_all(&counting(2)).unwrap();
    assert_eq!(count(&primary).await, 1);
    assert!(soon(primary.recv()).await.is_none());
    assert!(matches!(primary.try_recv(), Received::Ended));
    let LaneEnd::Violation(text) = soon(end).await.unwrap() else { panic!("a violation was expected") };
    assert!(text.starts_with("a message of type Up cannot be decoded: "), "{text}");
}

#[tokio::test]
async fn a_peer_that_floods_messages_nested_a_million_deep_loses_the_lane_and_this_process_lives() {
    let primary: Lane<Down, List> = lane();
    let (one, mut peer) = UnixStream::pair().unwrap();
    let end = tokio::spawn(primary.drive(one));
    let writing = std::thread::spawn(move || {
        let deep = message_frame(&encoded(&1_u32).repeat(MILLION));
        // As many as the window allows: it is the first of them that is to end the lane.
        peer.write_all(&deep).and_then(|()| peer.write_all(&deep)).ok();
        peer
    });
    assert_eq!(soon(primary.recv()).await, None);
    let text = "a message of type List cannot be decoded: values are nested deeper than 128 levels".to_owned();
    assert_eq!(soon(end).await.unwrap(), LaneEnd::Violation(text));
    drop(writing.join().unwrap());
}

#[tokio::test]
async fn bytes_behind_a_message_are_a_fault_of_the_message() {
    let (mut peer, primary, end) = raw();
    let mut payload = counting(1)[5..].to_vec();
    payload.push(0);
    peer.write_all(&message_frame(&payload)).unwrap();
    assert!(soon(primary.recv()).await.is_none());
    let text = "a message of type Up cannot be decoded: 1 bytes are left over".to_owned();
    assert_eq!(soon(end).await.unwrap(), LaneEnd::Violation(text));
}

#[tokio::test]
async fn an_answer_that_cannot_be_decoded_fails_its_call_and_ends_the_lane() {
    let worker: Worker = lane();
    let (one, mut peer) = UnixStream::pair().unwrap();
    let end = tokio::spawn(worker.drive(one));
    let asking = tokio::spawn({
        let worker = worker.clone();
        async move { worker.call(Up::Total).await }
    });
    let question = read_frame(&mut peer).await;
    let (_variant, tag) = codec::decode::<(u32, u64)>(&question[5..]).unwrap();
    peer.write_all(&reply_frame(tag, b"no u64")).unwrap();
    assert!(matches!(soon(asking).await.unwrap(), Err(CallError::Malformed(_))));
    assert!(matches!(soon(end).await.unwrap(), LaneEnd::Violation(_)));
    assert_eq!(soon(worker.recv()).await, None);
}

#[tokio::test]
async fn answers_that_nobody_asked_for_are_ignored_and_not_kept() {
    let (mut peer, primary, end) = raw();
    let writing = std::thread::spawn(move || {
        for tag in 0..20_000 {
            peer.write_all(&reply_frame(u64::MAX - tag, &[0; 1000])).unwrap();
            peer.write_all(&frame::unanswered(u64::MAX - tag)).unwrap();
        }
        peer.write_all(&counting(1)).unwrap();
        peer
    });
    assert_eq!(count(&primary).await, 1);
    assert_eq!(primary.core().buffered(), (0, 0));
    drop(writing.join().unwrap());
    assert_eq!(soon(end).await.unwrap(), LaneEnd::PeerClosed);
}

#[tokio::test]
async fn messages_scattered_among_other_frames_do_not_keep_what_was_read_with_them() {
    let (mut peer, primary, _end) = raw();
    let writing = std::thread::spawn(move || {
        let filler = reply_frame(u64::MAX, &[0; 100_000]);
        for number in 0..1000 {
            peer.write_all(&counting(number)).unwrap();
            peer.write_all(&filler).unwrap();
        }
        peer
    });
    // Debug builds are slow at this; the bound is what the inbox holds, not how fast.
    let size: usize = (0..1000).map(|number| counting(number).len()).sum();
    until(|| primary.core().buffered().1 == size).await;
    assert!(primary.core().inbox_blocks() <= 1, "the messages are gathered in one block");
    let _peer = writing.join().unwrap();
}

#[tokio::test]
async fn a_peer_that_asks_and_never_reads_is_not_listened_to_until_it_reads() {
    const ANSWER: usize = 64 << 10;
    let answer = "x".repeat(ANSWER);
    let (mut peer, primary, _end) = raw();
    let mut asked = 0;
    let mut spent = 0;
    peer.set_nonblocking(true).unwrap();
    let mut question = asking(0);
    let mut answered = 0;
    loop {
        let mut idle = true;
        while spent + question.len() <= WINDOW && peer.write(&question).is_ok_and(|n| n == question.len()) {
            spent += question.len();
            asked += 1;
            question = asking(asked);
            idle = false;
        }
        tokio::task::yield_now().await;
        while let Received::Message(message) = primary.try_recv() {
            let Up::Echo { reply, .. } = message else { panic!("a question was expected") };
            reply.send(answer.clone());
            answered += 1;
            idle = false;
        }
        let held = primary.core().buffered().0;
        assert!(held <= WINDOW + 2 * ANSWER, "{held} bytes of answers are held");
        if idle && !comes_true(|| primary.has_messages()).await {
            break;
        }
    }
    assert!(asked > 100 && answered < asked, "{answered} of {asked} were taken");
    // It begins to read: the rest is taken.
    let frame = (5 + 8 + encoded(&answer).len()) as u64;
    let reading = std::thread::spawn(move || {
        peer.set_nonblocking(false).unwrap();
        let mut chunk = vec![0; 1 << 20];
        let mut left = asked * frame;
        while left > 0 {
            match peer.read(&mut chunk) {
                Ok(0) => break,
                Ok(bytes) => left = left.saturating_sub(bytes as u64),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => panic!("{error}"),
            }
        }
        peer
    });
    while answered < asked {
        let Some(Up::Echo { reply, .. }) = soon(primary.recv()).await else { panic!("a question was expected") };
        reply.send(answer.clone());
        answered += 1;
    }
    soon(primary.flush()).await;
    let _peer = reading.join().unwrap();
}

#[tokio::test]
async fn answers_that_a_peer_leaves_unread_stay_bounded_and_the_lane_works_again_when_it_reads() {
    const ASKED: usize = 100;
    let (worker, primary): (Worker, Primary) = (lane(), lane());
    let (one, other) = UnixStream::pair().unwrap();
    let mut driver = Box::pin(worker.drive(one));
    tokio::spawn(primary.drive(other));
    let ask = || {
        let worker = worker.clone();
        tokio::spawn(async move { worker.call(|reply| Up::Echo { text: String::new(), reply }).await })
    };
    let asking: Vec<_> = (0..ASKED).map(|_| ask()).collect();
    let mut replies = Vec::new();
    while replies.len() < ASKED {
        tokio::select! {
            _ = &mut driver => panic!("the worker's driver ended"),
            message = soon(primary.recv()) => {
                let Some(Up::Echo { reply, .. }) = message else { panic!("a question was expected") };
                replies.push(reply);
            }
        }
    }
    // From here on nobody reads at the worker's end.
    // Of which each counts half.
    let answer = "x".repeat(WINDOW);
    for reply in replies {
        reply.send(answer.clone());
        let held = primary.core().buffered().0;
        assert!(held <= 9 * (WINDOW + 1000) + 13 * ASKED, "{held} bytes of answers are held");
        tokio::task::yield_now().await;
    }
    // Now somebody does.
    tokio::spawn(driver);
    let mut answered = 0;
    for one in asking {
        match soon(one).await.unwrap() {
            Ok(text) => {
                assert!(text == answer);
                answered += 1;
            }
            Err(CallError::Unanswered) => {}
            Err(error) => panic!("{error}"),
        }
    }
    assert!((8..=10).contains(&answered), "{answered} of {ASKED} were answered");
    for size in [1, WINDOW, 15 * WINDOW, 15 * WINDOW] {
        let asking = ask();
        let Some(Up::Echo { reply, .. }) = soon(primary.recv()).await else { panic!("a question was expected") };
        reply.send("x".repeat(size));
        assert_eq!(soon(asking).await.unwrap().map(|text| text.len()), Ok(size));
    }
}

#[tokio::test]
async fn a_lane_survives_every_point_at_which_its_peer_can_die() {
    let stream: Vec<u8> = [counting(1), asking(2), frame::unanswered(3).to_vec(), counting(4)].concat();
    for at in 0..=stream.len() {
        let (mut peer, primary, end) = raw();
        peer.write_all(&stream[..at]).unwrap();
        drop(peer);
        assert_eq!(soon(end).await.unwrap(), LaneEnd::PeerClosed, "died after {at} bytes");
        while soon(primary.recv()).await.is_some() {}
    }
}

/// A lane whose peer is a bare socket.
fn raw() -> (UnixStream, Primary, JoinHandle<LaneEnd>) {
    let primary: Primary = lane();
    let (one, peer) = UnixStream::pair().unwrap();
    let end = tokio::spawn(primary.drive(one));
    (peer, primary, end)
}

async fn end_after(bytes: &[u8]) -> String {
    let (mut peer, primary, end) = raw();
    peer.write_all(bytes).unwrap();
    let LaneEnd::Violation(text) = soon(end).await.unwrap() else { panic!("a violation was expected") };
    assert!(soon(primary.recv()).await.is_none());
    text
}

async fn read_frame(peer: &mut UnixStream) -> Vec<u8> {
    peer.set_nonblocking(true).unwrap();
    let mut bytes = Vec::new();
    soon(async {
        let mut byte = [0];
        while bytes.len() < 4 || bytes.len() < 4 + u32::from_le_bytes(bytes[..4].try_into().unwrap()) as usize {
            match peer.read(&mut byte) {
                Ok(0) => panic!("the stream ended"),
                Ok(_) => bytes.push(byte[0]),
                Err(_) => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    bytes
}

fn counting(number: u64) -> Vec<u8> {
    message_frame(&encoded(&UpWire::Count(number)))
}

fn asking(tag: u64) -> Vec<u8> {
    message_frame(&encoded(&UpWire::Echo { text: String::new(), reply: ReplyTag::test(tag) }))
}
