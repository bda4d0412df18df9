//! Requests that are answered by many values.

use std::io::{Read as _, Write as _};
use std::pin::pin;

use super::super::frame::{self, PIECE, STREAM_WINDOW, WINDOW};
use super::*;

/// The same at both ends, so that both can do everything.
type Peer = Lane<Up, Up>;

#[tokio::test]
async fn values_arrive_in_order_and_then_the_end_again_and_again() {
    let (worker, primary, ..) = connected();
    let (mut answers, lines) = begin(&worker, &primary).await;
    for number in 0..3_u64 {
        lines.send(number.to_string()).await.unwrap();
    }
    lines.finish();
    for number in 0..3_u64 {
        assert_eq!(soon(answers.next()).await, Ok(Some(number.to_string())));
    }
    assert_eq!(soon(answers.next()).await, Ok(None));
    assert_eq!(soon(answers.next()).await, Ok(None));
    assert_nothing_left(&[worker.core(), primary.core()]).await;
}

#[tokio::test]
async fn a_stream_that_is_dropped_unfinished_is_told_from_a_complete_one() {
    let (worker, primary, ..) = connected();
    let (mut answers, lines) = begin(&worker, &primary).await;
    lines.send("one".into()).await.unwrap();
    drop(lines);
    assert_eq!(soon(answers.next()).await, Ok(Some("one".into())));
    for _ in 0..2 {
        assert_eq!(soon(answers.next()).await, Err(CallError::Unanswered));
    }
    assert_nothing_left(&[worker.core(), primary.core()]).await;
}

#[tokio::test]
async fn a_handle_that_is_not_put_into_the_message_ends_the_stream_too() {
    let (worker, primary, ..) = connected();
    let mut dropped = worker.stream(|_: Replies<u64>| Up::Count(1)).await.unwrap();
    assert_eq!(soon(dropped.next()).await, Err(CallError::Unanswered));
    let mut finished = worker.stream(|replies: Replies<u64>| finish_here(replies)).await.unwrap();
    assert_eq!(soon(finished.next()).await, Ok(None));
    assert_eq!((count(&primary).await, count(&primary).await), (1, 2));
    assert_nothing_left(&[worker.core(), primary.core()]).await;
}

fn finish_here(replies: Replies<u64>) -> Up {
    assert_eq!(replies.try_send(1), Err(TrySendError::Failed(SendError::Gone)));
    replies.finish();
    Up::Count(2)
}

#[tokio::test]
async fn a_request_that_is_not_sent_is_not_remembered() {
    let (worker, primary, ..) = connected();
    let (elsewhere, ..) = connected();
    let (_answers, lines) = begin(&worker, &primary).await;
    let forwarded = elsewhere.stream(|_: Replies<String>| Up::Tail { of: 0, lines }).await;
    assert_eq!(forwarded.map(drop), Err(SendError::ForwardedReply));
    until(|| worker.core().open_streams() == (0, 0)).await;
    fill(&worker).await;
    {
        let mut waiting = pin!(worker.stream(|lines| Up::Tail { of: 0, lines }));
        assert!(poll_once(waiting.as_mut()).is_pending());
        assert_eq!(worker.core().open_streams(), (1, 0));
    }
    assert_eq!(worker.core().open_streams(), (0, 0));
    worker.close();
    let refused = soon(worker.stream(|lines| Up::Tail { of: 0, lines })).await;
    assert_eq!(refused.map(drop), Err(SendError::Gone));
    assert_eq!(elsewhere.core().open_streams(), (0, 0));
    assert_eq!(worker.core().open_streams(), (0, 0));
}

#[tokio::test]
async fn a_slow_reader_makes_the_answerer_wait_and_nobody_else() {
    let (worker, primary, ..) = connected();
    let (mut answers, lines) = begin(&worker, &primary).await;
    let line = "x".repeat(1000);
    let mut sent = 0;
    while lines.try_send(line.clone()).is_ok() || comes_true(|| lines.try_send(line.clone()).is_ok()).await {
        sent += 1;
    }
    assert!((STREAM_WINDOW / 1100..=STREAM_WINDOW / 1000).contains(&sent), "{sent} of 1 kB");
    assert_eq!(lines.try_send(line.clone()), Err(TrySendError::Full));
    let mut waiting = pin!(lines.send(line.clone()));
    assert!(poll_once(waiting.as_mut()).is_pending());
    // Messages and other streams pass.
    worker.send(Up::Count(1)).await.unwrap();
    assert_eq!(count(&primary).await, 1);
    primary.send(Down::Count(2)).await.unwrap();
    assert_eq!(soon(worker.recv()).await, Some(Down::Count(2)));
    let (mut others, other) = begin(&worker, &primary).await;
    other.send("passes".into()).await.unwrap();
    assert_eq!(soon(others.next()).await, Ok(Some("passes".into())));
    assert!(poll_once(waiting.as_mut()).is_pending());
    for _ in 0..sent {
        assert_eq!(soon(answers.next()).await, Ok(Some(line.clone())));
    }
    soon(waiting).await.unwrap();
    assert_eq!(soon(answers.next()).await, Ok(Some(line)));
}

#[tokio::test]
async fn a_send_that_is_dropped_while_it_waits_has_sent_nothing_and_keeps_no_room() {
    let (worker, primary, ..) = connected();
    let (mut answers, lines) = begin(&worker, &primary).await;
    let half = "x".repeat(STREAM_WINDOW / 2);
    lines.send(half.clone()).await.unwrap();
    {
        let mut waiting = pin!(lines.send("y".repeat(10 * STREAM_WINDOW)));
        assert!(poll_once(waiting.as_mut()).is_pending());
        assert_eq!(lines.try_send("z".into()), Err(TrySendError::Full), "who came first gets room first");
    }
    lines.try_send("z".into()).unwrap();
    lines.finish();
    assert_eq!(soon(answers.next()).await, Ok(Some(half)));
    assert_eq!(soon(answers.next()).await, Ok(Some("z".into())));
    assert_eq!(soon(answers.next()).await, Ok(None));
}

#[tokio::test]
async fn values_of_any_size_keep_their_order() {
    let (worker, primary, ..) = connected();
    let (mut answers, lines) = begin(&worker, &primary).await;
    let sizes = [0, 5, PIECE + 1, 3, 15 * WINDOW, 1, 2, 90_000, 2 * PIECE, 7, STREAM_WINDOW, 200_000, 200_000, 4];
    let answering = tokio::spawn(async move {
        for size in sizes.repeat(3) {
            lines.send("x".repeat(size)).await.unwrap();
        }
        lines.finish();
    });
    for size in sizes.repeat(3) {
        assert_eq!(soon(answers.next()).await.map(|line| line.map(|line| line.len())), Ok(Some(size)));
    }
    assert_eq!(soon(answers.next()).await, Ok(None));
    soon(answering).await.unwrap();
    assert_nothing_left(&[worker.core(), primary.core()]).await;
}

#[tokio::test]
async fn small_values_behind_a_large_one_do_not_travel_one_by_one() {
    let (worker, primary, ..) = connected();
    let (_answers, lines) = begin(&worker, &primary).await;
    until(|| primary.core().buffered().0 == 0).await;
    lines.try_send("x".repeat(PIECE)).unwrap();
    for _ in 0..100 {
        lines.try_send("small".into()).unwrap();
    }
    let core = primary.core();
    let mut outbox = core.outbox.lock().unwrap();
    let (mut first, mut second) = (Vec::new(), Vec::new());
    let pieces = [outbox.fetch(&mut first).0.len(), outbox.fetch(&mut second).0.len()];
    assert!(first.is_empty() && pieces[0] == 5 + PIECE && pieces[1] > 0, "the large one goes first");
    let mut rest = Vec::new();
    assert!(outbox.fetch(&mut rest).0.is_empty());
    assert_eq!(outbox.large_frames(), 0);
    assert_eq!(second.len() + rest.len(), 100 * item_frame(0, &encoded(&"small")).len());
}

#[tokio::test]
async fn values_with_descriptors_keep_their_order_behind_large_ones_and_each_has_its_own() {
    let (one, other): (Lane<Opening, Opening>, Lane<Opening, Opening>) = (lane(), lane());
    let (first, second) = UnixStream::pair().unwrap();
    tokio::spawn(one.drive(first));
    tokio::spawn(other.drive(second));
    let mut answers = one.stream(Opening::Files).await.unwrap();
    let Some(Opening::Files(files)) = soon(other.recv()).await else { panic!("a request was sent") };
    let sizes = [3, 2 * PIECE, 5, 0, 3 * PIECE, 1, 2, 40_000, 9];
    let answering = tokio::spawn(async move {
        for (number, size) in sizes.into_iter().enumerate() {
            let (mut near, far) = UnixStream::pair().unwrap();
            near.write_all(&[number as u8]).unwrap();
            let end = (number % 3 > 0).then(|| Fd::new(far));
            files.send((number, "x".repeat(size), end)).await.unwrap();
        }
        files.finish();
    });
    for (number, size) in sizes.into_iter().enumerate() {
        let (found, text, end) = soon(answers.next()).await.unwrap().expect("more values");
        assert_eq!((found, text.len(), end.is_some()), (number, size, number % 3 > 0));
        if let Some(end) = end {
            let mut byte = [0];
            end.into_inner().unwrap().read_exact(&mut byte).unwrap();
            assert_eq!(byte, [number as u8]);
        }
    }
    assert!(soon(answers.next()).await.unwrap().is_none());
    soon(answering).await.unwrap();
}

/// A request for values with descriptors in some of them.
enum Opening {
    Files(Replies<Numbered>),
}

type Numbered = (usize, String, Option<Fd<UnixStream>>);

impl Message for Opening {
    type Wire = ReplyTag;

    const NAME: &'static str = "Opening";

    fn fingerprint() -> Fingerprint {
        Fingerprint::of("enum Opening")
    }

    fn into_wire(self) -> Result<ReplyTag, ForwardedReply> {
        let Self::Files(replies) = self;
        replies.into_tag()
    }

    fn from_wire(tag: ReplyTag, origin: &Origin) -> Self {
        Self::Files(origin.replies(tag))
    }
}

#[tokio::test]
async fn a_value_that_cannot_be_sent_is_an_error_and_the_stream_goes_on() {
    let (worker, primary, ..) = connected();
    let (mut answers, lines) = begin(&worker, &primary).await;
    let huge = "x".repeat(17 << 20);
    let size = encoded(&huge).len();
    assert_eq!(lines.send(huge).await, Err(SendError::TooLarge { size, limit: LIMIT }));
    lines.send("fits".into()).await.unwrap();
    assert_eq!(soon(answers.next()).await, Ok(Some("fits".into())));
}

#[tokio::test]
async fn who_drops_the_asking_end_stops_the_answerer() {
    let (worker, primary, ..) = connected();
    let (answers, lines) = begin(&worker, &primary).await;
    let line = "x".repeat(1000);
    let answering = tokio::spawn({
        async move {
            while lines.send(line.clone()).await.is_ok() {}
            assert_eq!(lines.try_send(line.clone()), Err(TrySendError::Failed(SendError::Gone)));
            soon(lines.closed()).await;
            lines.finish();
        }
    });
    assert!(!comes_true(|| answering.is_finished()).await, "it waits for room");
    drop(answers);
    soon(answering).await.unwrap();
    assert_nothing_left(&[worker.core(), primary.core()]).await;
}

#[tokio::test]
async fn a_request_whose_asker_left_before_it_was_taken_is_cancelled_when_it_is_taken() {
    let (worker, primary, ..) = connected();
    drop(worker.stream(|lines| Up::Tail { of: 0, lines }).await.unwrap());
    until(|| primary.has_messages()).await;
    let Some(Up::Tail { lines, .. }) = soon(primary.recv()).await else { panic!("a request was sent") };
    soon(lines.closed()).await;
    assert_eq!(lines.send("late".into()).await, Err(SendError::Gone));
    assert_nothing_left(&[worker.core(), primary.core()]).await;
}

#[tokio::test]
async fn an_asker_hears_of_the_end_of_its_peer_after_what_had_come() {
    let (worker, primary, ..) = connected();
    let (mut answers, lines) = begin(&worker, &primary).await;
    lines.send("one".into()).await.unwrap();
    primary.flush().await;
    primary.close();
    assert_eq!(soon(answers.next()).await, Ok(Some("one".into())));
    for _ in 0..2 {
        assert_eq!(soon(answers.next()).await, Err(CallError::Gone));
    }
    assert_nothing_left(&[worker.core(), primary.core()]).await;
}

#[tokio::test]
async fn an_answerer_hears_of_the_end_of_its_peer_wherever_it_waits() {
    let (worker, primary, ..) = connected();
    let mut answering = Vec::new();
    for _ in 0..10 {
        let (answers, lines) = begin(&worker, &primary).await;
        answering.push(tokio::spawn(async move {
            let _answers = answers;
            while lines.send("x".repeat(100_000)).await.is_ok() {}
        }));
    }
    tokio::task::yield_now().await;
    worker.close();
    for one in answering {
        soon(one).await.unwrap();
    }
}

#[tokio::test]
async fn a_lane_that_closes_sends_no_more_values_and_no_end_of_what_was_cut_short() {
    let (worker, primary, ..) = connected();
    let (mut cut, mut complete) = (begin(&worker, &primary).await, begin(&worker, &primary).await);
    for (_, lines) in [&cut, &complete] {
        lines.send("one".into()).await.unwrap();
    }
    complete.1.finish();
    primary.close();
    assert_eq!(cut.1.send("two".into()).await, Err(SendError::Gone));
    soon(cut.1.closed()).await;
    cut.1.finish();
    for answers in [&mut cut.0, &mut complete.0] {
        assert_eq!(soon(answers.next()).await, Ok(Some("one".into())));
    }
    assert_eq!(soon(cut.0.next()).await, Err(CallError::Unanswered));
    assert_eq!(soon(complete.0.next()).await, Ok(None));
}

#[tokio::test]
async fn a_thousand_streams_to_a_peer_that_reads_nothing_hold_no_more_than_one_does() {
    const STREAMS: usize = 1000;
    let (worker, primary): (Worker, Primary) = (lane(), lane());
    let (one, other) = UnixStream::pair().unwrap();
    let mut driver = Box::pin(worker.drive(one));
    tokio::spawn(primary.drive(other));
    let mut asked = Vec::new();
    let mut answering = Vec::new();
    let line = "x".repeat(20_000);
    while answering.len() < STREAMS {
        if asked.len() < STREAMS {
            asked.push(worker.stream(|lines| Up::Tail { of: 0, lines }).await.unwrap());
        }
        tokio::select! {
            biased;
            message = primary.recv() => {
                let Some(Up::Tail { lines, .. }) = message else { panic!("a request was expected") };
                answering.push(lines);
            }
            _ = &mut driver => panic!("the worker's driver ended"),
        }
    }
    // From here on nobody reads at the worker's end.
    let answering: Vec<_> = answering
        .into_iter()
        .map(|lines| {
            let line = line.clone();
            tokio::spawn(async move {
                for _ in 0..30 {
                    lines.send(line.clone()).await.unwrap();
                }
                lines.finish();
            })
        })
        .collect();
    for _ in 0..100 {
        tokio::task::yield_now().await;
        let held = primary.core().buffered().0;
        assert!(held <= WINDOW / 2 + 21_000, "{held} bytes of items are held");
    }
    // Messages are handed out all the same.
    let driving = tokio::spawn(driver);
    let reading: Vec<_> = asked
        .into_iter()
        .map(|mut answers| {
            tokio::spawn(async move {
                let mut lines = 0;
                while answers.next().await.unwrap().is_some() {
                    lines += 1;
                }
                lines
            })
        })
        .collect();
    for one in reading {
        assert_eq!(soon(one).await.unwrap(), 30);
    }
    for one in answering {
        soon(one).await.unwrap();
    }
    assert_nothing_left(&[worker.core(), primary.core()]).await;
    assert!(!driving.is_finished());
}

#[tokio::test]
async fn a_request_whose_answerer_is_suspended_is_unanswered_after_what_was_sent() {
    let (worker, primary, ..) = connected();
    let (mut answers, lines) = begin(&worker, &primary).await;
    for size in [1, 2 * PIECE, 2] {
        lines.try_send("x".repeat(size)).unwrap();
    }
    let primary = moved(primary).await;
    assert_eq!(lines.send("late".into()).await, Err(SendError::Gone));
    lines.finish();
    for size in [1, 2 * PIECE, 2] {
        assert_eq!(soon(answers.next()).await, Ok(Some("x".repeat(size))));
    }
    assert_eq!(soon(answers.next()).await, Err(CallError::Unanswered));
    assert_nothing_left(&[worker.core(), primary.core()]).await;
}

#[tokio::test]
async fn an_asker_that_is_suspended_leaves_its_streams_whether_they_were_taken_or_not() {
    let (one, other): (Peer, Peer) = (lane(), lane());
    let (first, second) = UnixStream::pair().unwrap();
    tokio::spawn(one.drive(first));
    tokio::spawn(other.drive(second));
    let mut taken = one.stream(|lines| Up::Tail { of: 1, lines }).await.unwrap();
    let Some(Up::Tail { of: 1, lines }) = soon(other.recv()).await else { panic!("a request was sent") };
    lines.send("one".into()).await.unwrap();
    assert_eq!(soon(taken.next()).await, Ok(Some("one".into())));
    let mut waiting = one.stream(|lines| Up::Tail { of: 2, lines }).await.unwrap();
    drop(one.stream(|lines| Up::Tail { of: 3, lines }).await.unwrap());
    until(|| other.has_messages()).await;
    let one = moved(one).await;
    assert_eq!(soon(taken.next()).await, Err(CallError::Gone));
    assert_eq!(soon(waiting.next()).await, Err(CallError::Gone));
    soon(lines.closed()).await;
    for expected in [2, 3] {
        let Some(Up::Tail { of, lines }) = soon(other.recv()).await else { panic!("a request was sent") };
        assert_eq!(of, expected);
        soon(lines.closed()).await;
    }
    assert_nothing_left(&[one.core(), other.core()]).await;
}

/// The lane in another program, driven there.
async fn moved<Out: Message, In: Message>(lane: Lane<Out, In>) -> Lane<Out, In> {
    let (suspended, socket) = soon(lane.suspend(Duration::from_secs(30))).await.unwrap();
    let read = codec::decode_state(&codec::encode_state(&suspended).unwrap()).unwrap();
    let lane = Lane::resume(read, Expansion::DEFAULT, Arc::default()).unwrap();
    tokio::spawn(lane.drive(socket.unwrap()));
    lane
}

// ---- a peer that does not keep to the protocol ----

#[tokio::test]
async fn more_items_than_the_window_allows_end_the_lane() {
    let (mut answers, mut peer, tag, end) = asked_of_a_raw_peer().await;
    let value = item_frame(tag, &encoded(&"x".repeat(60_000)));
    let flood = value.repeat(STREAM_WINDOW / value.len() + 1);
    let writing = std::thread::spawn(move || peer.write_all(&flood).map(|()| peer));
    let LaneEnd::Violation(text) = soon(end).await.unwrap() else { panic!("a violation was expected") };
    assert!(text.starts_with("items for ") && text.ends_with("; the window is 262144"), "{text}");
    for _ in 0..4 {
        assert!(soon(answers.next()).await.unwrap().is_some());
    }
    assert_eq!(soon(answers.next()).await, Err(CallError::Gone));
    drop(writing.join().unwrap());
}

#[tokio::test]
async fn a_value_that_cannot_be_decoded_fails_its_stream_and_ends_the_lane() {
    let (mut answers, mut peer, tag, end) = asked_of_a_raw_peer().await;
    peer.write_all(&item_frame(tag, &encoded(&"fine"))).unwrap();
    peer.write_all(&item_frame(tag, &[0xff; 9])).unwrap();
    assert_eq!(soon(answers.next()).await, Ok(Some("fine".into())));
    for _ in 0..2 {
        assert!(matches!(soon(answers.next()).await, Err(CallError::Malformed(_))));
    }
    let LaneEnd::Violation(text) = soon(end).await.unwrap() else { panic!("a violation was expected") };
    assert!(text.starts_with("a value of a stream cannot be decoded: "), "{text}");
}

#[tokio::test]
async fn room_in_a_stream_that_is_not_due_ends_the_lane() {
    for (bytes, text) in [(0, "for 0 bytes when 14 were due"), (15, "for 15 bytes when 14 were due")] {
        let (mut peer, primary, end) = raw();
        peer.write_all(&asking(7)).unwrap();
        let Some(Up::Tail { lines, .. }) = soon(primary.recv()).await else { panic!("a request was sent") };
        lines.send("x".into()).await.unwrap();
        assert_eq!(item_frame(7, &encoded(&"x")).len() - 8, if cfg!(feature = "bincode") { 14 } else { 7 });
        let bytes = if cfg!(feature = "bincode") { bytes } else { bytes / 2 + bytes % 2 };
        let text = if cfg!(feature = "bincode") { text.to_owned() } else { text.replace("15", "8").replace("14", "7") };
        peer.write_all(&frame::more(7, bytes)).unwrap();
        assert_eq!(soon(end).await.unwrap(), LaneEnd::Violation(format!("more room in a stream, {text}")));
        assert_eq!(lines.send("x".into()).await, Err(SendError::Gone));
    }
}

#[tokio::test]
async fn words_of_streams_that_nobody_knows_are_ignored_and_not_kept() {
    let (mut peer, primary, end) = raw();
    let writing = std::thread::spawn(move || {
        for tag in 0..20_000 {
            let tag = u64::MAX - tag;
            peer.write_all(&item_frame(tag, &[0; 1000])).unwrap();
            peer.write_all(
                &[&frame::taken(tag)[..], &frame::cancel(tag), &frame::end(tag), &frame::more(tag, 9)].concat(),
            )
            .unwrap();
        }
        peer.write_all(&item_frame(1, &vec![0; 10 * PIECE])).unwrap();
        peer.write_all(&message_frame(&encoded(&UpWire::Count(1)))).unwrap();
        peer
    });
    assert_eq!(count(&primary).await, 1);
    assert_eq!(primary.core().buffered(), (0, 0));
    assert_nothing_left(&[primary.core()]).await;
    drop(writing.join().unwrap());
    assert_eq!(soon(end).await.unwrap(), LaneEnd::PeerClosed);
}

#[tokio::test]
async fn a_tag_that_is_used_twice_leaves_nobody_waiting() {
    let (mut peer, primary, _end) = raw();
    peer.write_all(&asking(7).repeat(2)).unwrap();
    let mut both = Vec::new();
    for _ in 0..2 {
        let Some(Up::Tail { lines, .. }) = soon(primary.recv()).await else { panic!("a request was sent") };
        both.push(lines);
    }
    soon(both[0].closed()).await;
    both.remove(0).finish();
    both[0].send("x".into()).await.unwrap();
    peer.write_all(&frame::cancel(7)).unwrap();
    soon(both[0].closed()).await;
    assert_nothing_left(&[primary.core()]).await;
}

#[tokio::test]
async fn a_peer_that_asks_for_streams_and_reads_nothing_gets_no_more_than_its_window_of_them() {
    let (mut peer, primary, _end) = raw();
    peer.set_nonblocking(true).unwrap();
    let lot: Vec<u8> = (0..1000).flat_map(asking).collect();
    let (mut spent, mut left, mut taken) = (0, &lot[..], Vec::new());
    loop {
        let wrote = peer.write(&left[..left.len().min(WINDOW - spent)]).unwrap_or(0);
        spent += wrote;
        left = if wrote == left.len() { &lot } else { &left[wrote..] };
        let before = taken.len();
        while let Received::Message(Up::Tail { lines, .. }) = primary.try_recv() {
            _ = lines.try_send("x".repeat(10_000));
            taken.push(lines);
        }
        let held = primary.core().buffered().0;
        assert!(held <= WINDOW / 2 + 11_000 + 13 * taken.len(), "{held} bytes are held");
        if wrote == 0 && taken.len() == before && !comes_true(|| primary.has_messages()).await {
            break;
        }
        tokio::task::yield_now().await;
    }
    assert_eq!(spent, WINDOW);
    assert!(taken.len() <= WINDOW / asking(0).len());
}

// ---- all at once ----

/// Streams both ways, of all sizes, finished, broken off and cancelled at random moments, beside messages.
#[tokio::test]
async fn whatever_happens_to_other_streams_each_is_in_order_and_ends_as_it_should() {
    for seed in 1..=12 {
        let (one, other): (Peer, Peer) = (lane(), lane());
        let (first, second) = UnixStream::pair().unwrap();
        let ends = [tokio::spawn(one.drive(first)), tokio::spawn(other.drive(second))];
        let serving: Vec<_> = [&one, &other].map(|lane| tokio::spawn(serve(lane.clone(), Random(seed)))).into();
        let mut random = Random(seed);
        let mut asking = Vec::new();
        for of in 0..30 {
            let lane = [&one, &other][random.below(2) as usize].clone();
            asking.push(tokio::spawn(ask(lane, of, Random(random.next()))));
        }
        for one in asking {
            soon(one).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
        assert_nothing_left(&[one.core(), other.core()]).await;
        assert!(ends.iter().all(|end| !end.is_finished()), "seed {seed}");
        one.close();
        for side in serving {
            soon(side).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        }
    }
}

/// Answers requests; a stream's number decides how it goes, so that the one who asked knows.
async fn serve(lane: Peer, mut random: Random) {
    let mut answering = Vec::new();
    while let Some(message) = lane.recv().await {
        match message {
            Up::Tail { of, lines } => answering.push(tokio::spawn(answer(of, lines, Random(random.next())))),
            Up::Count(_) => {}
            other => panic!("nobody has sent {other:?}"),
        }
    }
    for one in answering {
        one.await.unwrap();
    }
}

async fn answer(of: u64, lines: Replies<String>, mut random: Random) {
    for number in 0..length(of) {
        let size = match random.below(10) {
            0 => random.below(40_000) * random.below(10),
            1..3 => random.below(20_000),
            _ => random.below(100),
        };
        let line = format!("{number} {}", "x".repeat(size as usize));
        let sent = match random.below(3) {
            0 => lines.try_send(line.clone()),
            _ => Err(TrySendError::Full),
        };
        let sent = match sent {
            Err(TrySendError::Full) => lines.send(line).await,
            Err(TrySendError::Failed(error)) => Err(error),
            Ok(()) => Ok(()),
        };
        match sent {
            Ok(()) => {}
            Err(SendError::Gone) => return lines.finish(),
            Err(error) => panic!("{error}"),
        }
        if random.below(5) == 0 {
            tokio::task::yield_now().await;
        }
    }
    if is_finished(of) {
        lines.finish();
    }
}

async fn ask(lane: Peer, of: u64, mut random: Random) {
    let mut answers = lane.stream(|lines| Up::Tail { of, lines }).await.unwrap();
    let leaves_after = if random.below(3) == 0 { random.below(length(of) + 1) } else { u64::MAX };
    let mut expected = 0;
    while expected < leaves_after {
        if random.below(4) == 0 {
            lane.send(Up::Count(expected)).await.unwrap();
            tokio::task::yield_now().await;
        }
        match soon(answers.next()).await {
            Ok(Some(line)) => {
                let (number, rest) = line.split_once(' ').unwrap();
                assert_eq!(number.parse(), Ok(expected), "of stream {of}");
                assert!(rest.bytes().all(|byte| byte == b'x'));
                expected += 1;
            }
            ended => {
                assert_eq!(ended, if is_finished(of) { Ok(None) } else { Err(CallError::Unanswered) });
                assert_eq!(expected, length(of));
                return;
            }
        }
    }
}

fn length(of: u64) -> u64 {
    of * 7 % 150
}

fn is_finished(of: u64) -> bool {
    !of.is_multiple_of(4)
}

// ---- helpers ----

/// A stream that is asked for and taken.
async fn begin(worker: &Worker, primary: &Primary) -> (Answers<String>, Replies<String>) {
    let answers = worker.stream(|lines| Up::Tail { of: 0, lines }).await.unwrap();
    let Some(Up::Tail { lines, .. }) = soon(primary.recv()).await else { panic!("a request was sent") };
    (answers, lines)
}

/// In the end both ends of each stream are forgotten, and nothing is on its way.
async fn assert_nothing_left(ends: &[&Arc<Core>]) {
    for core in ends {
        until(|| core.open_streams() == (0, 0)).await;
        until(|| core.outbox.lock().unwrap().unanswered.is_empty()).await;
        until(|| core.outbox.lock().unwrap().unread_answers() == 0).await;
    }
}

/// A lane whose peer is a bare socket.
fn raw() -> (UnixStream, Primary, JoinHandle<LaneEnd>) {
    let primary: Primary = lane();
    let (one, peer) = UnixStream::pair().unwrap();
    let end = tokio::spawn(primary.drive(one));
    (peer, primary, end)
}

/// A stream that was asked for of a bare socket, and its tag.
async fn asked_of_a_raw_peer() -> (Answers<String>, UnixStream, u64, JoinHandle<LaneEnd>) {
    let worker: Worker = lane();
    let (one, mut peer) = UnixStream::pair().unwrap();
    let end = tokio::spawn(worker.drive(one));
    let answers = worker.stream(|lines| Up::Tail { of: 0, lines }).await.unwrap();
    worker.flush().await;
    let mut question = [0; 64];
    let size = peer.read(&mut question).unwrap();
    let UpWire::Tail { lines, .. } = codec::decode(&question[5..size]).unwrap() else { panic!("it asks for a stream") };
    (answers, peer, lines.number(), end)
}

fn asking(tag: u64) -> Vec<u8> {
    message_frame(&encoded(&UpWire::Tail { of: 0, lines: ReplyTag::test(tag) }))
}
