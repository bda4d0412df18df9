//! Two workers and the primary between them, in one process.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::timeout;

use super::super::peer::Sender;
use super::super::visitors::Next;
use super::*;
use crate::ipc::{Expansion, Fingerprint, ForwardedReply, NoMessages, Origin, SendError, TrySendError};

const DEADLINE: Duration = Duration::from_secs(30);
const MAX_MESSAGE: usize = 16 << 20;
const LIMITS: Limits = Limits { message: MAX_MESSAGE, expansion: Expansion::DEFAULT };

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Number(u64);

impl Message for Number {
    type Wire = Self;

    const NAME: &'static str = "Number";

    fn fingerprint() -> Fingerprint {
        Fingerprint::of("struct Number")
    }

    fn into_wire(self) -> Result<Self, ForwardedReply> {
        Ok(self)
    }

    fn from_wire(wire: Self, _: &Origin) -> Self {
        wire
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Bulk(Vec<u8>);

impl Message for Bulk {
    type Wire = Self;

    const NAME: &'static str = "Bulk";

    fn fingerprint() -> Fingerprint {
        Fingerprint::of("struct Bulk")
    }

    fn into_wire(self) -> Result<Self, ForwardedReply> {
        Ok(self)
    }

    fn from_wire(wire: Self, _: &Origin) -> Self {
        wire
    }
}

/// A worker, and what the task has that speaks with the primary.
struct Worker {
    peers: Arc<Peers<Number>>,
    line: Line,
    primary: Lane<NoMessages, Number>,
}

impl Worker {
    fn on(board: Board) -> Self {
        let arrivals = Arc::default();
        let primary = Lane::new(LIMITS, Arc::clone(&arrivals));
        let (peers, line) = Peers::start(board, LIMITS, arrivals);
        Self { peers, line, primary }
    }

    /// What this worker asks for next.
    async fn asks(&mut self) -> Ask {
        timeout(DEADLINE, self.line.asks.recv()).await.expect("it asks").unwrap()
    }

    fn hears(&self, introduction: Introduction) {
        self.line.introductions.send(introduction).unwrap();
    }

    async fn next(&self) -> Option<(Sender, Number)> {
        tokio::task::coop::consume_budget().await;
        loop {
            let arrival = self.peers.visitors().arrival();
            match self.peers.visitors().next(&self.primary) {
                Next::Message(sender, number) => return Some((sender, number)),
                Next::Ended => return None,
                Next::Nothing { .. } => timeout(DEADLINE, arrival).await.expect("something comes"),
            }
        }
    }

    async fn next_number(&self) -> u64 {
        self.next().await.expect("a number").1.0
    }

    /// Does what the primary would: `from` gets a lane to this worker.
    fn is_visited(&self, from: &Self, (id, slot): (u64, usize), ask: Ask) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        self.hears(Introduction::Visitor { from: WorkerId::new(id), slot, socket: ours.into() });
        from.hears(Introduction::Answer { ask, socket: Some(theirs.into()) });
    }
}

fn ask(slot: usize, worker: u64) -> Ask {
    Ask { slot, worker: WorkerId::new(worker) }
}

fn board() -> Board {
    Board::create().unwrap().0
}

fn lead(board: &Board, slot: usize, worker: u64) {
    board.slot(slot).set_lead(Some(WorkerId::new(worker)));
}

#[tokio::test]
async fn a_lane_is_asked_for_once_and_what_was_tried_before_comes_first() {
    let board = board();
    let (mut one, other) = (Worker::on(board), Worker::on(board));
    lead(&board, 3, 9);
    let peer = one.peers.peer(3);
    peer.try_send(Number(1)).unwrap();
    peer.try_send(Number(2)).unwrap();
    let again = one.peers.peer(3);
    let sending = tokio::spawn(async move { again.send(Number(3)).await });
    let asked = one.asks().await;
    assert_eq!(asked, ask(3, 9));
    other.is_visited(&one, (7, 0), asked);
    timeout(DEADLINE, sending).await.unwrap().unwrap().unwrap();
    let sender = Sender::Worker { id: WorkerId::new(7), slot: 0 };
    for number in 1..=3 {
        assert_eq!(other.next().await, Some((sender, Number(number))));
    }
    assert!(one.line.asks.try_recv().is_err(), "once");
}

#[tokio::test]
async fn the_smaller_limit_of_two_workers_holds_for_the_first_message_already() {
    const MIB: usize = 1 << 20;
    // What nobody can have been set to has been written by somebody gone mad.
    for (theirs, limit) in [(MIB, MIB), (MAX_MESSAGE + 1, MAX_MESSAGE), (usize::MAX, MAX_MESSAGE), (1, MIB / 8)] {
        let board = board();
        board.slot(3).lines()[1].give_to(WorkerId::new(9), theirs);
        lead(&board, 3, 9);
        let (peers, _line) = Peers::<Bulk>::start(board, LIMITS, Arc::default());
        let refused = peers.peer(3).try_send(Bulk(vec![7; limit])).unwrap_err();
        assert!(matches!(refused, TrySendError::Failed(SendError::TooLarge { limit: told, .. }) if told == limit));
        assert_eq!(peers.peer(3).try_send(Bulk(vec![7; limit - 100])), Ok(()));
    }
}

#[tokio::test]
async fn where_nobody_is_sending_fails_at_once_and_nobody_is_asked() {
    let mut one = Worker::on(board());
    for slot in [0, 5, MOST_SLOTS - 1, MOST_SLOTS, usize::MAX] {
        assert_eq!(one.peers.peer(slot).send(Number(1)).await, Err(SendError::Gone));
        assert_eq!(one.peers.peer(slot).try_send(Number(1)), Err(TrySendError::Failed(SendError::Gone)));
    }
    assert!(one.line.asks.try_recv().is_err());
}

#[tokio::test]
async fn one_to_whom_there_is_no_way_is_not_asked_for_again_but_its_replacement_is() {
    let board = board();
    let mut one = Worker::on(board);
    lead(&board, 1, 4);
    let peer = one.peers.peer(1);
    let sending = tokio::spawn(async move { peer.send(Number(1)).await });
    let asked = one.asks().await;
    one.hears(Introduction::Answer { ask: asked, socket: None });
    assert_eq!(timeout(DEADLINE, sending).await.unwrap().unwrap(), Err(SendError::Gone));
    assert_eq!(one.peers.peer(1).send(Number(2)).await, Err(SendError::Gone));
    assert!(one.line.asks.try_recv().is_err());
    lead(&board, 1, 5);
    one.peers.peer(1).try_send(Number(3)).unwrap();
    assert_eq!(one.asks().await, ask(1, 5));
}

#[tokio::test]
async fn sends_go_to_the_successor_once_it_leads_and_who_cannot_wait_for_it_reaches_the_predecessor() {
    let board = board();
    let (mut one, old, new) = (Worker::on(board), Worker::on(board), Worker::on(board));
    lead(&board, 1, 4);
    let peer = one.peers.peer(1);
    peer.try_send(Number(1)).unwrap();
    let asked = one.asks().await;
    old.is_visited(&one, (7, 0), asked);
    assert_eq!(old.next_number().await, 1);
    lead(&board, 1, 8);
    peer.try_send(Number(2)).unwrap();
    let sending = tokio::spawn({
        let peer = peer.clone();
        async move { peer.send(Number(3)).await }
    });
    let asked = one.asks().await;
    assert_eq!(asked, ask(1, 8));
    assert_eq!(old.next_number().await, 2);
    new.is_visited(&one, (7, 0), asked);
    timeout(DEADLINE, sending).await.unwrap().unwrap().unwrap();
    peer.try_send(Number(4)).unwrap();
    assert_eq!((new.next_number().await, new.next_number().await), (3, 4));
}

/// Others can write on the board.
#[tokio::test]
async fn whatever_the_board_says_an_open_lane_goes_on() {
    let board = board();
    let (mut one, other) = (Worker::on(board), Worker::on(board));
    lead(&board, 1, 4);
    let peer = one.peers.peer(1);
    peer.try_send(Number(0)).unwrap();
    let asked = one.asks().await;
    other.is_visited(&one, (7, 0), asked);
    assert_eq!(other.next_number().await, 0);
    board.slot(1).set_lead(None);
    peer.send(Number(1)).await.unwrap();
    for nonsense in [5, u64::MAX, 5] {
        lead(&board, 1, nonsense);
        let sending = tokio::spawn({
            let peer = peer.clone();
            async move { peer.send(Number(nonsense)).await }
        });
        let asked = one.asks().await;
        one.hears(Introduction::Answer { ask: asked, socket: None });
        timeout(DEADLINE, sending).await.unwrap().unwrap().unwrap();
    }
    for number in [1, 5, u64::MAX, 5] {
        assert_eq!(other.next_number().await, number);
    }
}

#[tokio::test]
async fn without_the_primary_open_lanes_go_on_and_no_others_are_opened() {
    let board = board();
    let (mut one, other) = (Worker::on(board), Worker::on(board));
    lead(&board, 1, 4);
    lead(&board, 2, 5);
    lead(&board, 3, 6);
    one.peers.peer(1).try_send(Number(1)).unwrap();
    let asked = one.asks().await;
    other.is_visited(&one, (7, 0), asked);
    assert_eq!(other.next_number().await, 1);
    let opening = one.peers.peer(2);
    let sending = tokio::spawn(async move { opening.send(Number(2)).await });
    assert_eq!(one.asks().await, ask(2, 5));
    one.hears(Introduction::NoMore);
    assert_eq!(timeout(DEADLINE, sending).await.unwrap().unwrap(), Err(SendError::Gone));
    assert_eq!(one.peers.peer(3).send(Number(3)).await, Err(SendError::Gone));
    one.peers.peer(1).send(Number(4)).await.unwrap();
    assert_eq!(other.next_number().await, 4);
}

#[tokio::test]
async fn a_visitor_that_talks_nonsense_ends_its_own_lane_only() {
    use std::io::{Read as _, Write as _};
    let board = board();
    let (mut one, other) = (Worker::on(board), Worker::on(board));
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    other.hears(Introduction::Visitor { from: WorkerId::new(9), slot: 2, socket: ours.into() });
    theirs.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    lead(&board, 1, 4);
    one.peers.peer(1).try_send(Number(1)).unwrap();
    let asked = one.asks().await;
    other.is_visited(&one, (7, 0), asked);
    assert_eq!(other.next_number().await, 1);
    let end = tokio::task::spawn_blocking(move || theirs.read(&mut [0; 64])).await.unwrap();
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
}

/// A visitor whose lane is driven from here.
fn visitor(worker: &Worker, id: u64, slot: usize, numbers: std::ops::Range<u64>) -> Lane<Number, Number> {
    let (ours, theirs) = UnixStream::pair().unwrap();
    worker.hears(Introduction::Visitor { from: WorkerId::new(id), slot, socket: ours.into() });
    let lane = Lane::new(LIMITS, Arc::default());
    tokio::spawn(lane.drive(theirs));
    numbers.for_each(|number| lane.try_send(Number(number)).unwrap());
    lane
}

#[tokio::test]
async fn one_who_floods_does_not_keep_the_others_from_being_heard() {
    let one = Worker::on(board());
    let flooder = visitor(&one, 1, 1, 0..10_000);
    assert_eq!(one.next_number().await, 0);
    let quiet = visitor(&one, 2, 2, 0..10);
    flooder.flush().await;
    quiet.flush().await;
    let mut taken_before = 0;
    while one.next().await.expect("more").0 != (Sender::Worker { id: WorkerId::new(2), slot: 2 }) {
        taken_before += 1;
    }
    assert!(taken_before < 9_000, "{taken_before}");
}

#[tokio::test]
async fn what_workers_have_left_is_taken_and_what_more_of_one_slot_have_left_is_not_kept() {
    let one = Worker::on(board());
    for id in 1..=5 {
        let lane = visitor(&one, id, 1, id..id + 1);
        lane.flush().await;
        lane.close();
        let has_ended = async {
            while one.peers.visitors().lanes().is_empty() || !one.peers.visitors().has_ended(WorkerId::new(id)) {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, has_ended).await.unwrap();
    }
    one.primary.peer_exited();
    assert_eq!(one.next_number().await, 4);
    assert_eq!(one.next_number().await, 5);
    assert_eq!(one.next().await, None);
    assert!(one.peers.visitors().lanes().is_empty());
}

#[tokio::test]
async fn the_end_comes_when_the_primary_and_all_visitors_are_gone() {
    let one = Worker::on(board());
    let lane = visitor(&one, 1, 1, 0..1);
    assert_eq!(one.next_number().await, 0);
    one.primary.peer_exited();
    assert_eq!(one.peers.visitors().next(&one.primary), Next::Nothing { is_primary_gone: true });
    lane.try_send(Number(1)).unwrap();
    assert_eq!(one.next_number().await, 1);
    lane.close();
    assert_eq!(one.next().await, None);
}
