//! Messages one way and both ways, flow control, and the ends of a lane.

use std::pin::pin;

use super::super::frame::WINDOW;
use super::suspend::turn;
use super::*;

const MANY: u64 = 100_000;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn order_is_kept_in_both_directions_at_once() {
    let (worker, primary, ..) = connected();
    let (up, down) = (worker.clone(), primary.clone());
    let upwards = tokio::spawn(async move {
        for number in 0..MANY {
            up.send(Up::Count(number)).await.unwrap();
        }
    });
    let downwards = tokio::spawn(async move {
        for number in 0..MANY {
            down.send(Down::Count(number)).await.unwrap();
        }
    });
    let arriving = tokio::spawn(async move {
        for number in 0..MANY {
            assert_eq!(worker.recv().await, Some(Down::Count(number)));
        }
    });
    for number in 0..MANY {
        assert_eq!(count(&primary).await, number);
    }
    soon(upwards).await.unwrap();
    soon(downwards).await.unwrap();
    soon(arriving).await.unwrap();
}

#[tokio::test]
async fn two_sides_that_flood_each_other_do_not_deadlock() {
    // Both have a full window to write, more than the socket takes, before either has read a byte.
    let (worker, primary): (Worker, Primary) = (lane(), lane());
    let (mut up, mut down) = (0, 0);
    while worker.try_send(Up::Count(up)).is_ok() {
        up += 1;
    }
    while primary.try_send(Down::Count(down)).is_ok() {
        down += 1;
    }
    let (one, other) = UnixStream::pair().unwrap();
    tokio::spawn(worker.drive(one));
    tokio::spawn(primary.drive(other));
    soon(worker.flush()).await;
    soon(primary.flush()).await;
    for number in 0..up {
        assert_eq!(count(&primary).await, number);
    }
    for number in 0..down {
        assert_eq!(soon(worker.recv()).await, Some(Down::Count(number)));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_wake_up_is_lost_when_every_message_waits_for_the_one_before() {
    let (worker, primary, ..) = connected();
    let echoing = tokio::spawn(async move {
        while let Some(Up::Count(number)) = primary.recv().await {
            primary.send(Down::Count(number)).await.unwrap();
        }
    });
    for number in 0..MANY / 2 {
        worker.send(Up::Count(number)).await.unwrap();
        assert_eq!(soon(worker.recv()).await, Some(Down::Count(number)));
    }
    worker.close();
    soon(echoing).await.unwrap();
}

#[tokio::test]
async fn a_sender_waits_while_nobody_receives_and_goes_on_when_somebody_does() {
    let (worker, primary, ..) = connected();
    let sent = fill(&worker).await;
    let mut waiting = pin!(worker.send(Up::Count(sent)));
    assert!(poll_once(waiting.as_mut()).is_pending());
    let held = worker.core().buffered().0 + primary.core().buffered().1;
    assert!(held <= WINDOW, "{held} bytes are held");
    for number in 0..sent {
        assert_eq!(count(&primary).await, number);
    }
    soon(waiting).await.unwrap();
    assert_eq!(count(&primary).await, sent);
}

#[tokio::test]
async fn a_send_that_is_dropped_while_it_waits_was_not_sent() {
    let (worker, primary, ..) = connected();
    let sent = fill(&worker).await;
    {
        let mut waiting = pin!(worker.send(Up::Count(1_000_000)));
        assert!(poll_once(waiting.as_mut()).is_pending());
    }
    for number in 0..sent {
        assert_eq!(count(&primary).await, number);
    }
    soon(worker.send(Up::Count(7))).await.unwrap();
    assert_eq!(count(&primary).await, 7);
}

#[tokio::test]
async fn the_whole_window_is_free_again_after_any_number_of_messages() {
    let (worker, primary, ..) = connected();
    let first = fill(&worker).await;
    for _ in 0..5 {
        while let Received::Message(_) = primary.try_recv() {}
        until(|| worker.try_send(Up::Count(0)).is_ok()).await;
        let sent = fill(&worker).await;
        // Up to a lot of credit may not be returned yet.
        assert!(sent >= first / 4 * 3 - 10, "{sent} after {first}");
    }
}

#[tokio::test]
async fn what_was_sent_before_the_lane_was_attached_is_delivered() {
    let (worker, primary): (Worker, Primary) = (lane(), lane());
    let sent = fill(&worker).await;
    assert!(worker.core().buffered().0 <= WINDOW);
    let (one, other) = UnixStream::pair().unwrap();
    tokio::spawn(worker.drive(one));
    tokio::spawn(primary.drive(other));
    for number in 0..sent {
        assert_eq!(count(&primary).await, number);
    }
}

#[tokio::test]
async fn everything_that_was_sent_before_the_end_is_delivered() {
    let (worker, primary, worker_end, primary_end) = connected();
    for number in 0..1000 {
        worker.send(Up::Count(number)).await.unwrap();
    }
    worker.close();
    assert_eq!(soon(worker_end).await.unwrap(), LaneEnd::Closed);
    assert_eq!(soon(primary_end).await.unwrap(), LaneEnd::PeerClosed);
    assert!(!primary.is_drained() && primary.has_messages());
    for number in 0..1000 {
        assert_eq!(count(&primary).await, number);
    }
    assert!(soon(primary.recv()).await.is_none());
    assert!(matches!(primary.try_recv(), Received::Ended));
    assert!(primary.is_drained() && !primary.has_messages());
}

#[tokio::test]
async fn a_side_that_closes_still_gets_what_was_on_its_way() {
    let (worker, primary, worker_end, primary_end) = connected();
    for number in 0..100 {
        primary.send(Down::Count(number)).await.unwrap();
    }
    soon(primary.flush()).await;
    worker.close();
    assert_eq!(soon(worker_end).await.unwrap(), LaneEnd::Closed);
    assert_eq!(soon(primary_end).await.unwrap(), LaneEnd::PeerClosed);
    for number in 0..100 {
        assert_eq!(soon(worker.recv()).await, Some(Down::Count(number)));
    }
    assert_eq!(soon(worker.recv()).await, None);
}

#[tokio::test]
async fn a_send_after_the_end_says_gone_and_so_do_those_that_waited() {
    let (worker, primary, worker_end, _) = connected();
    let sent = fill(&worker).await;
    let waiting = tokio::spawn({
        let worker = worker.clone();
        async move { worker.send(Up::Count(sent)).await }
    });
    tokio::task::yield_now().await;
    primary.close();
    assert_eq!(soon(waiting).await.unwrap(), Err(SendError::Gone));
    assert_eq!(soon(worker_end).await.unwrap(), LaneEnd::PeerClosed);
    assert!(!worker.is_open() && !primary.is_open());
    assert_eq!(worker.send(Up::Count(0)).await, Err(SendError::Gone));
    assert_eq!(worker.try_send(Up::Count(0)), Err(TrySendError::Failed(SendError::Gone)));
    assert_eq!(primary.try_send(Down::Count(0)), Err(TrySendError::Failed(SendError::Gone)));
}

#[tokio::test]
async fn flush_returns_when_the_kernel_has_everything() {
    let worker: Worker = lane();
    for number in 0..1000 {
        worker.send(Up::Count(number)).await.unwrap();
    }
    let mut flushing = pin!(worker.flush());
    assert!(poll_once(flushing.as_mut()).is_pending());
    let (one, _other) = UnixStream::pair().unwrap();
    let end = tokio::spawn(worker.drive(one));
    soon(flushing).await;
    assert_eq!(worker.core().buffered().0, 0);
    drop(_other);
    soon(end).await.unwrap();
    soon(worker.flush()).await;
}

#[tokio::test]
async fn a_peer_that_exited_ends_the_lane_although_somebody_holds_its_end() {
    let (worker, primary): (Worker, Primary) = (lane(), lane());
    let (one, other) = UnixStream::pair().unwrap();
    let _held_by_a_grandchild = one.try_clone().unwrap();
    let worker_end = tokio::spawn(worker.drive(one));
    for number in 0..5000 {
        worker.send(Up::Count(number)).await.unwrap();
    }
    worker.close();
    assert_eq!(soon(worker_end).await.unwrap(), LaneEnd::Closed);
    // Only now is the primary's end looked at: all of it must come out of the socket in one go.
    let primary_end = tokio::spawn(primary.drive(other));
    primary.peer_exited();
    assert_eq!(soon(primary_end).await.unwrap(), LaneEnd::PeerClosed);
    for number in 0..5000 {
        assert_eq!(count(&primary).await, number);
    }
    assert!(soon(primary.recv()).await.is_none());
}

#[tokio::test]
async fn a_lane_whose_peer_exited_before_it_was_attached_ends_at_once() {
    let primary: Primary = lane();
    primary.try_send(Down::Count(1)).unwrap();
    primary.peer_exited();
    assert!(soon(primary.recv()).await.is_none());
    soon(primary.flush()).await;
    let (one, _other) = UnixStream::pair().unwrap();
    assert_eq!(soon(primary.drive(one)).await, LaneEnd::PeerClosed);
}

#[tokio::test]
async fn a_driver_that_is_dropped_ends_the_lane() {
    let worker: Worker = lane();
    let (one, _other) = UnixStream::pair().unwrap();
    drop(worker.drive(one));
    assert_eq!(soon(worker.recv()).await, None);
    assert_eq!(worker.send(Up::Count(0)).await, Err(SendError::Gone));
}

#[tokio::test]
async fn a_message_just_under_the_cap_passes_and_one_over_it_is_refused_at_the_sender() {
    let (worker, primary, ..) = connected();
    let large = "x".repeat(15 << 20);
    for _ in 0..4 {
        soon(worker.send(Up::Text(large.clone()))).await.unwrap();
        assert!(matches!(soon(primary.recv()).await, Some(Up::Text(text)) if text == large));
    }
    let huge = "x".repeat(17 << 20);
    let size = encoded(&UpWire::Text(huge.clone())).len();
    assert_eq!(worker.send(Up::Text(huge)).await, Err(SendError::TooLarge { size, limit: LIMIT }));
    soon(worker.send(Up::Count(1))).await.unwrap();
    assert_eq!(count(&primary).await, 1);
}

#[tokio::test]
async fn a_message_that_cannot_be_encoded_harms_nobody_else() {
    let (worker, primary, ..) = connected();
    primary.send(Down::Count(1)).await.unwrap();
    let Err(SendError::Encode(reason)) = primary.send(Down::Unencodable).await else { panic!("it refuses") };
    assert!(["not today", "it was refused, and postcard keeps no reasons"].contains(&&*reason), "{reason}");
    let panicking = tokio::spawn({
        let primary = primary.clone();
        async move { primary.send(Down::Panicking).await }
    });
    assert!(panicking.await.unwrap_err().is_panic());
    primary.send(Down::Count(2)).await.unwrap();
    assert_eq!(soon(worker.recv()).await, Some(Down::Count(1)));
    assert_eq!(soon(worker.recv()).await, Some(Down::Count(2)));
}

#[tokio::test]
async fn a_message_that_is_nested_too_deep_is_refused_at_the_sender() {
    let (sender, receiver): (Lane<List, Down>, Lane<Down, List>) = (lane(), lane());
    let (one, other) = UnixStream::pair().unwrap();
    tokio::spawn(sender.drive(one));
    tokio::spawn(receiver.drive(other));
    let nested = |levels| (0..levels).fold(List::End, |inner, _| List::Next(Box::new(inner)));
    let refusal = "values are nested deeper than 128 levels".to_owned();
    assert_eq!(sender.send(nested(200)).await, Err(SendError::Encode(refusal)));
    sender.send(nested(100)).await.unwrap();
    assert_eq!(soon(receiver.recv()).await, Some(nested(100)));
}

#[tokio::test]
async fn one_encoding_serves_many_lanes() {
    let lanes = [connected(), connected(), connected()];
    let encoded = Primary::encode_once(Down::Count(5), LIMIT).unwrap();
    for (_, primary, ..) in &lanes {
        primary.try_send_encoded(&encoded).unwrap();
        primary.send_encoded(&encoded).await.unwrap();
    }
    for (worker, ..) in &lanes {
        assert_eq!(soon(worker.recv()).await, Some(Down::Count(5)));
        assert_eq!(soon(worker.recv()).await, Some(Down::Count(5)));
    }
    let refused = Worker::encode_once(Up::Text("x".repeat(17 << 20)), LIMIT).unwrap_err();
    assert!(matches!(refused, SendError::TooLarge { .. }));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_receivers_share_a_lane_and_none_sleeps_through_a_message() {
    let (worker, primary, ..) = connected();
    let receivers: Vec<_> = (0..4)
        .map(|_| {
            let primary = primary.clone();
            tokio::spawn(async move {
                let mut sum = 0;
                while let Some(Up::Count(number)) = primary.recv().await {
                    sum += number;
                }
                sum
            })
        })
        .collect();
    for number in 0..10_000 {
        worker.send(Up::Count(number)).await.unwrap();
        if number % 100 == 0 {
            tokio::task::yield_now().await;
        }
    }
    worker.close();
    let mut sum = 0;
    for receiver in receivers {
        sum += soon(receiver).await.unwrap();
    }
    assert_eq!(sum, 9_999 * 10_000 / 2);
}

#[tokio::test]
async fn lanes_that_share_their_arrivals_wake_one_waiter() {
    let arrivals = Arc::new(Notify::new());
    let primaries = [Primary::new(LIMITS, Arc::clone(&arrivals)), Primary::new(LIMITS, Arc::clone(&arrivals))];
    let workers: [Worker; 2] = [lane(), lane()];
    for (worker, primary) in workers.iter().zip(&primaries) {
        let (one, other) = UnixStream::pair().unwrap();
        tokio::spawn(worker.drive(one));
        tokio::spawn(primary.drive(other));
    }
    for round in 0..100_usize {
        let arrival = arrivals.notified();
        assert!(!primaries[round % 2].has_messages());
        workers[round % 2].send(Up::Count(0)).await.unwrap();
        soon(arrival).await;
        assert!(matches!(primaries[round % 2].try_recv(), Received::Message(Up::Count(0))));
    }
}

#[tokio::test]
async fn what_is_left_of_a_batch_goes_back_to_its_place_and_is_paid_for_once() {
    let (worker, primary, ..) = connected();
    let mut batch = Batch::default();
    let (mut sent, mut taken) = (0, 0);
    for round in 0..200 {
        sent += fill(&worker).await;
        for _ in 0..round * 37 {
            match primary.try_recv_in_batches(&mut batch) {
                Received::Message(Up::Count(_)) => taken += 1,
                other => panic!("{other:?}"),
            }
        }
        // Somebody else goes on, and then the one with the batch again.
        primary.put_back(&mut batch);
        for _ in 0..round {
            count(&primary).await;
            taken += 1;
        }
    }
    while taken < sent {
        if let Received::Message(_) = primary.try_recv_in_batches(&mut batch) {
            taken += 1;
        }
    }
    assert!(matches!(primary.try_recv_in_batches(&mut batch), Received::Empty));
    // All of the window but a lot has come back.
    assert!(fill(&worker).await as usize * counting_size() >= WINDOW / 4 * 3 - 100);
}

#[tokio::test]
async fn messages_keep_their_order_whether_they_are_taken_in_batches_or_one_by_one() {
    let (worker, primary, ..) = connected();
    let mut batch = Batch::default();
    let mut random = Random(7);
    let (mut sent, mut taken) = (0, 0);
    while taken < 50_000 {
        for _ in 0..random.below(3000) {
            sent += u64::from(worker.try_send(Up::Count(sent)).is_ok());
        }
        turn().await;
        for _ in 0..random.below(3000) {
            let Received::Message(Up::Count(number)) = primary.try_recv_in_batches(&mut batch) else { break };
            assert_eq!(number, taken);
            taken += 1;
        }
        primary.put_back(&mut batch);
        if let Received::Message(Up::Count(number)) = primary.try_recv() {
            assert_eq!(number, taken);
            taken += 1;
        }
    }
}

#[tokio::test]
async fn nothing_of_a_batch_is_looked_at_behind_what_cannot_be_decoded() {
    let (worker, primary): (Lane<Down, Down>, Primary) = (lane(), lane());
    // Of another type: no such variant.
    for number in [0, 1] {
        worker.try_send(Down::Count(number)).unwrap();
    }
    let (one, other) = UnixStream::pair().unwrap();
    tokio::spawn(worker.drive(one));
    let end = tokio::spawn(primary.drive(other));
    worker.send(Down::Wrong).await.unwrap();
    worker.send(Down::Count(2)).await.unwrap();
    soon(worker.flush()).await;
    until(|| primary.core().buffered().1 > 0).await;
    let mut batch = Batch::default();
    let mut found = Vec::new();
    until(|| primary.has_messages()).await;
    while let Received::Message(message) = primary.try_recv_in_batches(&mut batch) {
        found.push(format!("{message:?}"));
    }
    assert_eq!(found, ["Count(0)", "Count(1)"]);
    assert!(matches!(primary.try_recv_in_batches(&mut batch), Received::Ended));
    assert!(matches!(soon(end).await.unwrap(), LaneEnd::Violation(_)));
}

/// What a count spends of the window.
fn counting_size() -> usize {
    5 + encoded(&UpWire::Count(u64::MAX / 2)).len()
}

#[tokio::test]
async fn a_receive_that_is_dropped_has_taken_nothing() {
    let (worker, primary, ..) = connected();
    {
        let mut receiving = pin!(primary.recv());
        assert!(poll_once(receiving.as_mut()).is_pending());
        worker.send(Up::Count(1)).await.unwrap();
        until(|| primary.has_messages()).await;
    }
    assert_eq!(count(&primary).await, 1);
}
