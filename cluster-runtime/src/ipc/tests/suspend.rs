//! Lanes that are taken apart and go on: nothing is lost, doubled or out of order, whatever the moment.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::Write as _;
use std::os::fd::AsFd as _;
use std::pin::{Pin, pin};

use bytes::Bytes;
use nix::sys::socket::{setsockopt, sockopt};
use proptest::prelude::*;

use super::super::frame::{PIECE, WINDOW};
use super::super::reply::next_tag;
use super::super::suspend::Suspended;
use super::*;

/// The same at both ends, so that both can do everything.
type Peer = Lane<Up, Up>;

const AT_ONCE: Duration = Duration::from_secs(30);

#[tokio::test]
async fn what_came_is_received_first_and_what_was_queued_leaves_first() {
    let (worker, primary, ..) = connected();
    for number in 0..3 {
        worker.send(Up::Count(number)).await.unwrap();
    }
    until(|| primary.has_messages()).await;
    assert_eq!(count(&primary).await, 0);
    let filled = fill_down(&primary);
    let (primary, socket) = moved(&primary).await;
    worker.send(Up::Count(3)).await.unwrap();
    tokio::spawn(primary.drive(socket.unwrap()));
    for number in 1..4 {
        assert_eq!(count(&primary).await, number);
    }
    let sending = tokio::spawn({
        let primary = primary.clone();
        async move { primary.send(Down::Count(filled)).await }
    });
    for number in 0..=filled {
        assert_eq!(soon(worker.recv()).await, Some(Down::Count(number)));
    }
    soon(sending).await.unwrap().unwrap();
}

#[tokio::test]
async fn the_end_that_is_left_behind_is_over_for_everybody_who_waits_there() {
    let (worker, primary, _, driven) = connected();
    let sent = fill_down(&primary);
    let waiting = tokio::spawn({
        let primary = primary.clone();
        async move { primary.send(Down::Count(sent)).await }
    });
    let receiving = tokio::spawn({
        let primary = primary.clone();
        async move { primary.recv().await.is_none() }
    });
    tokio::task::yield_now().await;
    let (suspended, socket) = soon(primary.suspend(AT_ONCE)).await.unwrap();
    assert_eq!(soon(driven).await.unwrap(), LaneEnd::Suspended);
    assert_eq!(soon(waiting).await.unwrap(), Err(SendError::Gone));
    assert!(soon(receiving).await.unwrap());
    assert_eq!(primary.try_send(Down::Count(0)), Err(TrySendError::Failed(SendError::Gone)));
    soon(primary.flush()).await;
    // The message that waited for room was refused and does not appear.
    let primary = Primary::resume(suspended, Expansion::DEFAULT, Arc::default()).unwrap();
    tokio::spawn(primary.drive(socket.unwrap()));
    for number in 0..sent {
        assert_eq!(soon(worker.recv()).await, Some(Down::Count(number)));
    }
    soon(primary.send(Down::Count(7))).await.unwrap();
    assert_eq!(soon(worker.recv()).await, Some(Down::Count(7)));
}

#[tokio::test]
async fn a_call_that_waits_fails_and_its_late_answer_is_not_taken_for_that_of_a_new_one() {
    let (one, other): (Peer, Peer) = (lane(), lane());
    let (first, second) = UnixStream::pair().unwrap();
    tokio::spawn(one.drive(first));
    tokio::spawn(other.drive(second));
    let asking = tokio::spawn({
        let one = one.clone();
        async move { one.call(Up::Total).await }
    });
    let Some(Up::Total(late)) = soon(other.recv()).await else { panic!("a question was sent") };
    let (suspended, socket) = soon(one.suspend(AT_ONCE)).await.unwrap();
    assert_eq!(soon(asking).await.unwrap(), Err(CallError::Gone));
    let one = Peer::resume(suspended, Expansion::DEFAULT, Arc::default()).unwrap();
    tokio::spawn(one.drive(socket.unwrap()));
    late.send(1);
    let asking = tokio::spawn(async move { one.call(Up::Total).await });
    let Some(Up::Total(reply)) = soon(other.recv()).await else { panic!("a question was sent") };
    reply.send(2);
    assert_eq!(soon(asking).await.unwrap(), Ok(2));
}

#[tokio::test]
async fn a_program_that_has_asked_nothing_yet_leaves_out_the_questions_of_the_one_before() {
    let (mut suspended, _) = soon(lane::<Up, Up>().suspend(AT_ONCE)).await.unwrap();
    suspended.next_call += 1_000_000;
    let lowest = suspended.next_call;
    let primary: Peer = resumed(&suspended);
    let mut asked = pin!(primary.call(Up::Total));
    assert!(poll_once(asked.as_mut()).is_pending());
    assert!(next_tag() > lowest);
}

#[tokio::test]
async fn a_request_that_nobody_has_answered_is_answered_as_unanswered() {
    let (worker, primary, ..) = connected();
    let ask = |text: &str| {
        let (worker, text) = (worker.clone(), text.to_owned());
        tokio::spawn(async move { worker.call(|reply| Up::Echo { text, reply }).await })
    };
    let (dropped, kept, waiting) = (ask("dropped"), ask("kept"), ask("waiting"));
    let mut taken = Vec::new();
    for _ in 0..2 {
        let Some(Up::Echo { reply, .. }) = soon(primary.recv()).await else { panic!("a question was sent") };
        taken.push(reply);
    }
    until(|| primary.has_messages()).await;
    drop(taken.remove(0));
    let (primary, socket) = moved(&primary).await;
    // Whoever has it still, answers into the void.
    taken.remove(0).send("too late".into());
    tokio::spawn(primary.drive(socket.unwrap()));
    assert_eq!(soon(dropped).await.unwrap(), Err(CallError::Unanswered));
    assert_eq!(soon(kept).await.unwrap(), Err(CallError::Unanswered));
    let Some(Up::Echo { text, reply }) = soon(primary.recv()).await else { panic!("a question was sent") };
    reply.send(text.clone());
    assert_eq!(soon(waiting).await.unwrap(), Ok(text));
}

#[tokio::test]
async fn a_lane_whose_worker_has_exited_still_hands_out_what_it_had_sent() {
    let (worker, primary, _, primary_end) = connected();
    for number in 0..100 {
        worker.send(Up::Count(number)).await.unwrap();
    }
    worker.close();
    soon(primary_end).await.unwrap();
    assert_eq!(count(&primary).await, 0);
    let (ghost, socket) = moved(&primary).await;
    assert!(socket.is_none());
    let (ghost, socket) = moved(&ghost).await;
    assert!(socket.is_none(), "a second time");
    for number in 1..100 {
        assert_eq!(count(&ghost).await, number);
    }
    assert!(soon(ghost.recv()).await.is_none());
    assert_eq!(ghost.try_send(Down::Count(0)), Err(TrySendError::Failed(SendError::Gone)));
    ghost.peer_exited();
    soon(ghost.flush()).await;
}

#[tokio::test]
async fn a_lane_whose_worker_exits_while_it_is_suspended_ends_where_it_goes_on() {
    let (worker, primary, ..) = connected();
    let (primary, socket) = moved(&primary).await;
    worker.send(Up::Count(1)).await.unwrap();
    worker.close();
    let end = tokio::spawn(primary.drive(socket.unwrap()));
    primary.peer_exited();
    assert_eq!(soon(end).await.unwrap(), LaneEnd::PeerClosed);
    assert_eq!(count(&primary).await, 1);
    assert!(soon(primary.recv()).await.is_none());
}

#[tokio::test]
async fn a_lane_that_is_not_attached_yet_keeps_what_waits_for_its_worker() {
    let (worker, primary): (Worker, Primary) = (lane(), lane());
    primary.send(Down::Count(1)).await.unwrap();
    let (primary, socket) = moved(&primary).await;
    assert!(socket.is_none());
    primary.send(Down::Count(2)).await.unwrap();
    let (primary, _) = moved(&primary).await;
    let (one, other) = UnixStream::pair().unwrap();
    tokio::spawn(worker.drive(one));
    tokio::spawn(primary.drive(other));
    for number in 1..3 {
        assert_eq!(soon(worker.recv()).await, Some(Down::Count(number)));
    }
}

#[tokio::test]
async fn a_frame_that_has_come_by_half_is_completed_by_what_comes_afterwards() {
    let mut primary: Peer = lane();
    let (mut socket, mut peer) = UnixStream::pair().unwrap();
    let frame = message_frame(&encoded(&UpWire::Text("x".repeat(100))));
    for at in [1, 4, 5, 6, 50, frame.len() - 1] {
        peer.write_all(&frame[..at]).unwrap();
        loop {
            tokio::spawn(primary.drive(socket));
            turn().await;
            let (suspended, back) = soon(primary.suspend(AT_ONCE)).await.unwrap();
            primary = resumed(&suspended);
            socket = back.unwrap();
            if suspended.begun == frame[..at] {
                break;
            }
        }
        tokio::spawn(primary.drive(socket));
        peer.write_all(&frame[at..]).unwrap();
        assert!(matches!(soon(primary.recv()).await, Some(Up::Text(text)) if text.len() == 100), "cut at {at}");
        let (next, back) = moved(&primary).await;
        (primary, socket) = (next, back.unwrap());
    }
}

#[tokio::test(start_paused = true)]
async fn a_driver_that_does_not_stop_in_time_goes_on_as_before() {
    let (worker, primary): (Worker, Primary) = (lane(), lane());
    let (one, other) = UnixStream::pair().unwrap();
    let held_up = Box::pin(primary.drive(other));
    assert!(primary.suspend(Duration::from_secs(1)).await.is_err());
    {
        let mut dropped = pin!(primary.suspend(Duration::from_secs(1)));
        assert!(poll_once(dropped.as_mut()).is_pending());
    }
    tokio::time::resume();
    tokio::spawn(held_up);
    tokio::spawn(worker.drive(one));
    worker.send(Up::Count(1)).await.unwrap();
    assert_eq!(count(&primary).await, 1);
    primary.send(Down::Count(2)).await.unwrap();
    assert_eq!(soon(worker.recv()).await, Some(Down::Count(2)));
}

#[tokio::test]
async fn what_is_not_the_state_of_a_lane_is_refused() {
    let sound = soon(lane::<Down, Up>().suspend(AT_ONCE)).await.unwrap().0;
    Primary::resume(sound.clone(), Expansion::DEFAULT, Arc::default()).unwrap();
    let frames = [&b"\x01"[..], &[0, 0, 0, 0, 1], &frame::unanswered(1), &[9, 0, 0, 0, 1, 7]];
    for incoming in frames.map(Bytes::copy_from_slice) {
        let mut broken = sound.clone();
        broken.incoming = incoming;
        assert!(Primary::resume(broken, Expansion::DEFAULT, Arc::default()).is_err());
    }
    for change in [
        |broken: &mut Suspended| broken.spent = WINDOW + 1,
        |broken: &mut Suspended| broken.unreturned = WINDOW + 1,
        |broken: &mut Suspended| broken.limit = usize::MAX / 2,
        // It waits, and nobody has been asked for credit.
        |broken: &mut Suspended| broken.incoming = Bytes::from_static(&[2, 0, 0, 0, 1, 7]),
    ] {
        let mut broken = sound.clone();
        change(&mut broken);
        assert!(Primary::resume(broken, Expansion::DEFAULT, Arc::default()).is_err());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_message_arrives_once_and_in_order_whenever_either_end_is_taken_apart(
        steps in proptest::collection::vec(steps(), 1..80)
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(soon(async {
            let mut pair = Pair::new();
            for step in steps {
                pair.take_step(step).await;
            }
            pair.come_to_rest().await;
        }));
    }
}

#[derive(Clone, Copy, Debug)]
enum Step {
    /// A message of so many bytes.
    Send(Side, usize),
    Take(Side),
    Ask(Side),
    /// The longest-held request is answered with so many bytes.
    Answer(Side, usize),
    Refuse(Side),
    /// The driver is polled so many times.
    Drive(Side, u8),
    Move(Side),
}

type Side = usize;

fn steps() -> impl Strategy<Value = Step> {
    let side = 0..2_usize;
    // Whether one that is just under a piece is large depends on how it is encoded.
    let clear = |size| if (PIECE - 100..=PIECE).contains(&size) { PIECE + 1 } else { size };
    let size = move || prop_oneof![4 => 0..100_usize, 2 => 0..50_000_usize, 1 => (0..2 * WINDOW).prop_map(clear)];
    prop_oneof![
        6 => (side.clone(), size()).prop_map(|(side, size)| Step::Send(side, size)),
        4 => side.clone().prop_map(Step::Take),
        2 => side.clone().prop_map(Step::Ask),
        2 => (side.clone(), size()).prop_map(|(side, size)| Step::Answer(side, size)),
        1 => side.clone().prop_map(Step::Refuse),
        6 => (side.clone(), 1..8_u8).prop_map(|(side, times)| Step::Drive(side, times)),
        3 => side.prop_map(Step::Move),
    ]
}

type Driving = Pin<Box<dyn Future<Output = LaneEnd> + Send>>;
type Asking = JoinHandle<Result<String, CallError>>;

/// Two ends of one lane, driven by hand.
struct Pair([End; 2]);

struct End {
    lane: Peer,
    driver: Driving,
    /// The numbers of the messages that were queued for the other end and not taken there yet, and their sizes.
    sent: VecDeque<(u64, usize)>,
    next: u64,
    /// Requests of the other end, with the answer that its asker is to get in the end.
    held: VecDeque<(Reply<String>, u64)>,
    asked: Vec<(Asking, u64, Expected)>,
}

/// What the asker of a question hears in the end.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Expected {
    Unknown,
    Text(usize),
    Unanswered,
    Gone,
}

impl Pair {
    fn new() -> Self {
        let (one, other) = UnixStream::pair().unwrap();
        Self([one, other].map(|socket| {
            // A small buffer, so that frames are written by halves.
            setsockopt(&socket.as_fd(), sockopt::SndBuf, &4096).unwrap();
            let lane: Peer = lane();
            let driver = Box::pin(lane.drive(socket));
            End { lane, driver, sent: VecDeque::new(), next: 0, held: VecDeque::new(), asked: Vec::new() }
        }))
    }

    async fn take_step(&mut self, step: Step) {
        match step {
            Step::Send(side, size) => self.0[side].send(size),
            Step::Take(side) => _ = self.take(side),
            Step::Ask(side) => self.ask(side).await,
            Step::Answer(side, size) => {
                if let Some((reply, question)) = self.0[side].held.pop_front() {
                    self.answer(side, reply, question, size);
                }
            }
            Step::Refuse(side) => {
                if let Some((_reply, question)) = self.0[side].held.pop_front() {
                    self.0[1 - side].expect(question, Expected::Unanswered);
                }
            }
            Step::Drive(side, times) => {
                for _ in 0..times {
                    self.0[side].poll().await;
                    turn().await;
                }
            }
            Step::Move(side) => self.move_end(side).await,
        }
    }

    /// Takes the next message of `side`, which must be the oldest that is on its way: of the large ones or of the others.
    fn take(&mut self, side: Side) -> bool {
        let Received::Message(message) = self.0[side].lane.try_recv() else { return false };
        let sent = &mut self.0[1 - side].sent;
        let mut oldest = |is_large| {
            let index = sent.iter().position(|(_, size)| (*size > PIECE) == is_large);
            sent.remove(index.expect("a message that nobody has sent")).unwrap()
        };
        match message {
            Up::Text(text) => {
                let (number, rest) = text.split_once(' ').unwrap();
                let expected = oldest(rest.len() > PIECE);
                assert_eq!((number.parse(), rest.len()), (Ok(expected.0), expected.1));
            }
            Up::Echo { text, reply } => {
                let expected = oldest(false);
                assert_eq!(text.parse(), Ok(expected.0));
                self.0[side].held.push_back((reply, expected.0));
            }
            other => panic!("nobody has sent {other:?}"),
        }
        true
    }

    async fn ask(&mut self, side: Side) {
        let End { lane, next, sent, asked, .. } = &mut self.0[side];
        // A call that waits for room has not been sent, and is none of ours.
        if lane.core().outbox.lock().unwrap().room < 1000 {
            return;
        }
        let (number, lane) = (*next, lane.clone());
        let text = number.to_string();
        let asking = tokio::spawn(async move { lane.call(|reply| Up::Echo { text, reply }).await });
        // It runs before anybody else does something to the lane.
        tokio::task::yield_now().await;
        *next += 1;
        sent.push_back((number, 0));
        asked.push((asking, number, Expected::Unknown));
    }

    async fn move_end(&mut self, side: Side) {
        // Whose answer is here, hears it.
        turn().await;
        let (suspended, socket) = {
            let End { lane, driver, .. } = &mut self.0[side];
            let mut suspending = pin!(lane.suspend(AT_ONCE));
            loop {
                if let Poll::Ready(parts) = poll_fn(|cx| Poll::Ready(suspending.as_mut().poll(cx))).await {
                    break parts.unwrap();
                }
                let end = poll_fn(|cx| Poll::Ready(driver.as_mut().poll(cx))).await;
                assert_eq!(end, Poll::Ready(LaneEnd::Suspended));
            }
        };
        self.0[side].lane = resumed(&suspended);
        self.0[side].driver = Box::pin(self.0[side].lane.drive(socket.unwrap()));
        // What is held is answered as unanswered, whatever is done with it from now on.
        let held: Vec<_> = self.0[side].held.drain(..).collect();
        for (reply, question) in held {
            reply.send("too late".into());
            self.0[1 - side].expect(question, Expected::Unanswered);
        }
        // Whoever waits here hears that nothing comes.
        for (_, _, expected) in self.0[side].asked.iter_mut().filter(|(asking, ..)| !asking.is_finished()) {
            *expected = Expected::Gone;
        }
        tokio::task::yield_now().await;
    }

    /// Everything on its way arrives, and both windows are as wide as they were.
    async fn come_to_rest(&mut self) {
        for round in 0.. {
            assert!(round < 10_000, "it never comes to rest");
            for side in 0..2 {
                self.0[side].poll().await;
                turn().await;
                while self.take(side) {}
                while let Some((reply, question)) = self.0[side].held.pop_front() {
                    self.answer(side, reply, question, 0);
                }
            }
            if (0..2).all(|side| self.is_at_rest(side)) {
                break;
            }
        }
        for end in &mut self.0 {
            for (asking, number, expected) in end.asked.drain(..) {
                let heard = match asking.await.unwrap() {
                    Ok(text) => Expected::Text(text.len()),
                    Err(CallError::Unanswered) => Expected::Unanswered,
                    Err(CallError::Gone) => Expected::Gone,
                    Err(error) => panic!("{error}"),
                };
                assert_eq!(heard, expected, "question {number}");
            }
        }
    }

    /// Nothing is on its way from here; and what this end has spent and got no credit for, the other one owes it.
    fn is_at_rest(&self, side: Side) -> bool {
        let [end, other] = [&self.0[side], &self.0[1 - side]];
        let owed = {
            let core = other.lane.core();
            let taken = core.inbox.lock().unwrap().taken;
            core.outbox.lock().unwrap().owed + taken
        };
        let core = end.lane.core();
        let outbox = core.outbox.lock().unwrap();
        assert_eq!((outbox.room, outbox.waiting), (WINDOW - outbox.spent(), 0));
        end.sent.is_empty()
            && outbox.total_queued() == outbox.total_written
            && outbox.unanswered.is_empty()
            && end.asked.iter().all(|(asking, ..)| asking.is_finished())
            && outbox.spent() == owed
            && owed < WINDOW / 4
    }

    fn answer(&mut self, side: Side, reply: Reply<String>, question: u64, size: usize) {
        let unread = self.0[side].lane.core().outbox.lock().unwrap().unread_answers();
        reply.send("y".repeat(size));
        let heard = if unread > 4 * WINDOW { Expected::Unanswered } else { Expected::Text(size) };
        self.0[1 - side].expect(question, heard);
    }
}

impl End {
    fn send(&mut self, size: usize) {
        let text = format!("{} {}", self.next, "x".repeat(size));
        if self.lane.try_send(Up::Text(text)).is_ok() {
            self.sent.push_back((self.next, size));
            self.next += 1;
        }
    }

    async fn poll(&mut self) {
        let end = poll_fn(|cx| Poll::Ready(self.driver.as_mut().poll(cx))).await;
        assert!(end.is_pending(), "{end:?}");
    }

    fn expect(&mut self, question: u64, what: Expected) {
        let asked = self.asked.iter_mut().find(|(_, number, _)| *number == question);
        let (_, _, expected) = asked.expect("somebody asks");
        // Whoever was told that nothing comes is not told again.
        if *expected == Expected::Unknown {
            *expected = what;
        }
    }
}

/// Lets the reactor look at the sockets, and then every task have its turn.
pub(super) async fn turn() {
    for _ in 0..3 {
        tokio::task::yield_now().await;
    }
}

/// The lane in another program: its state has been bytes.
async fn moved<Out: Message, In: Message>(lane: &Lane<Out, In>) -> (Lane<Out, In>, Option<UnixStream>) {
    let (suspended, socket) = soon(lane.suspend(AT_ONCE)).await.unwrap();
    (resumed(&suspended), socket)
}

pub(super) fn resumed<Out: Message, In: Message>(suspended: &Suspended) -> Lane<Out, In> {
    let read = codec::decode_state(&codec::encode_state(suspended).unwrap()).unwrap();
    assert_eq!(*suspended, read);
    Lane::resume(read.take_over().unwrap(), Expansion::DEFAULT, Arc::default()).unwrap()
}

/// Sends downwards until there is no room; says how many went.
fn fill_down(primary: &Primary) -> u64 {
    (0..).find(|number| primary.try_send(Down::Count(*number)).is_err()).unwrap()
}
