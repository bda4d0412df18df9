//! The worker process as the runtime sees it: one per process, reachable from anywhere in it.

use std::collections::{BTreeSet, HashMap};
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use nix::errno::Errno;
use tokio::io::unix::AsyncFd;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::{Instant, sleep_until, timeout};

use super::peers::{Ask, Introduction, Line};
use super::spread::{self, Share};
use crate::boot::Identity;
use crate::control::{Control, FromWorker, Granted, ToWorker};
use crate::listen::reception::Reception;
use crate::listen::{Endpoint, Options, PortId, PortKey, PortRequest, Scheme, Tally, too_late};
use crate::ticket_keys::TicketKeys;
use crate::{os, report};

/// Where the worker stands in its life, as far as its own code must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    Draining {
        /// Over so much time from then on, what idles or lasts comes to its end.
        since: Instant,
        spread: Duration,
        /// What is not finished by then is cut.
        cut: Instant,
        /// Nobody takes the accept queues over: serve what is in them.
        last: bool,
    },
}

impl Phase {
    /// When whoever has this share of the spread comes to its end.
    fn moment(&self, share: Share) -> Option<Instant> {
        match *self {
            Self::Running => None,
            Self::Draining { since, spread, .. } => Some(since + share.of(spread)),
        }
    }
}

/// Everything that the worker's parts share.
#[derive(Debug)]
pub(crate) struct Process {
    identity: Identity,
    control: ControlHandle,
    phase: watch::Sender<Phase>,
    /// Whether it is not running any more: the same for those who ask often.
    draining: AtomicBool,
    /// How often this worker was told to open its logs anew.
    reopens: watch::Sender<u64>,
    grace: Duration,
    /// As it is set; a drain may not have room for all of it.
    drain_spread: Duration,
    /// The drain will begin soon.
    stops_soon: AtomicBool,
    /// `main` has asked for the shutdown, so it will end by itself.
    main_to_end: AtomicBool,
    /// What the task that attends to the primary is to say next.
    ready: AtomicBool,
    leaving: AtomicBool,
    say: Notify,
    ports: Mutex<Ports>,
    requests: AtomicU64,
    reception: Reception,
    streams: Arc<Tally>,
    /// Connections that are served here and came by another way than a listener.
    carried: Arc<Tally>,
    listeners: Arc<Tally>,
    introductions: mpsc::UnboundedSender<Introduction>,
    /// The ports on which nothing more comes, of those from which the primary accepts.
    closed: watch::Sender<Closed>,
    /// The keys of TLS session tickets, once the primary has answered.
    ticket_keys: watch::Sender<Option<TicketKeys>>,
}

/// On which of the ports from which the primary accepts nothing more comes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Closed {
    Ports(BTreeSet<PortId>),
    /// The primary is gone, or cannot be heard.
    All,
}

impl Closed {
    pub(crate) fn has(&self, port: PortId) -> bool {
        match self {
            Self::Ports(ports) => ports.contains(&port),
            Self::All => true,
        }
    }
}

/// What the user's program listens on and is about to.
#[derive(Debug)]
struct Ports {
    claimed: Vec<PortKey>,
    /// By request number. `None` once the primary is gone: dropping the senders tells whoever waits.
    awaited: Option<HashMap<u64, Answer>>,
}

/// Where the answer to a request for a port goes.
type Answer = oneshot::Sender<io::Result<(Option<OwnedFd>, Granted)>>;

/// This worker's own claim on a port, until it is dropped: it cannot have it twice.
#[derive(Debug)]
pub(crate) struct Claim {
    process: Arc<Process>,
    key: PortKey,
}

/// Carries the place into the message and keeps the cause as its source.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {endpoint}: {source}")]
struct ListenError {
    endpoint: Endpoint,
    source: io::Error,
}

struct ControlHandle(Control);

impl std::fmt::Debug for ControlHandle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Control")
    }
}

static CURRENT: OnceLock<Arc<Process>> = OnceLock::new();

impl Process {
    /// The process that this code runs in.
    ///
    /// # Panics
    /// Outside a worker.
    pub(crate) fn current() -> &'static Arc<Self> {
        CURRENT.get().expect(
            "this is not a worker: cluster::worker(), listen and serve work in the main of a program started by \
             #[cluster::main] or cluster::run; cluster::is_worker() tells the processes apart",
        )
    }

    /// Makes this process the current one and begins to attend to the primary. `primary` becomes readable when that dies.
    pub(super) fn start(
        identity: Identity,
        control: Control,
        primary: AsyncFd<OwnedFd>,
        grace: Duration,
        drain_spread: Duration,
        peers: Line,
        reception: impl FnOnce(Arc<Tally>) -> io::Result<Reception>,
    ) -> io::Result<Arc<Self>> {
        let terminate = signal(SignalKind::terminate())?;
        let Line { asks, introductions } = peers;
        let process = Arc::new(Self::new(identity, control, grace, drain_spread, introductions, reception)?);
        if os::was_terminated() {
            process.leave();
        }
        tokio::spawn(attend(Arc::clone(&process), primary, terminate, asks));
        Ok(Arc::clone(CURRENT.get_or_init(|| process)))
    }

    fn new(
        identity: Identity,
        control: Control,
        grace: Duration,
        drain_spread: Duration,
        introductions: mpsc::UnboundedSender<Introduction>,
        reception: impl FnOnce(Arc<Tally>) -> io::Result<Reception>,
    ) -> io::Result<Self> {
        let streams = Arc::<Tally>::default();
        Ok(Self {
            identity,
            control: ControlHandle(control),
            phase: watch::Sender::new(Phase::Running),
            draining: AtomicBool::new(false),
            reopens: watch::Sender::new(0),
            grace,
            drain_spread,
            stops_soon: AtomicBool::new(false),
            main_to_end: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            say: Notify::new(),
            ports: Mutex::new(Ports { claimed: Vec::new(), awaited: Some(HashMap::new()) }),
            requests: AtomicU64::new(0),
            reception: reception(Arc::clone(&streams))?,
            streams,
            carried: Arc::default(),
            listeners: Arc::default(),
            introductions,
            closed: watch::Sender::new(Closed::Ports(BTreeSet::new())),
            ticket_keys: watch::Sender::new(None),
        })
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
    }

    pub(crate) fn closed(&self) -> watch::Receiver<Closed> {
        self.closed.subscribe()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    pub(super) fn reopens(&self) -> watch::Receiver<u64> {
        self.reopens.subscribe()
    }

    pub(crate) fn reception(&self) -> &Reception {
        &self.reception
    }

    pub(crate) fn streams(&self) -> &Arc<Tally> {
        &self.streams
    }

    pub(crate) fn carried(&self) -> &Arc<Tally> {
        &self.carried
    }

    pub(crate) fn listeners(&self) -> &Arc<Tally> {
        &self.listeners
    }

    pub(crate) fn ready(&self) {
        if !self.ready.swap(true, Ordering::Relaxed) {
            self.say.notify_one();
        }
    }

    /// Leaves without having been asked to. The primary answers with the order to drain, as only it knows whether somebody takes
    /// the accept queue over: TERM may have gone to all processes at once.
    pub(crate) fn leave(&self) {
        if !self.is_draining() && !self.leaving.swap(true, Ordering::Relaxed) {
            self.say.notify_one();
        }
    }

    /// Says what is still to be said when nothing runs any more that would.
    pub(super) fn say_last(&self) {
        for (is_due, what) in [(&self.ready, FromWorker::Ready), (&self.leaving, FromWorker::Leaving)] {
            if is_due.load(Ordering::Relaxed) {
                // The primary passes over what it has heard before, and one that is gone needs no word.
                _ = self.control.0.send_now(&what, &[]);
            }
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }

    pub(super) fn is_healthy(&self) -> bool {
        self.is_ready() && !self.is_draining() && !self.stops_soon.load(Ordering::Relaxed)
    }

    /// Somebody's part of the spread.
    pub(crate) fn draw_share(&self) -> Share {
        // The usual case, and a hash for each connection less.
        if self.drain_spread.is_zero() { Share::NONE } else { Share::draw() }
    }

    /// Whether the worker drains and the moment of whoever has this share has come; [`turn_of`] for those who ask often.
    #[cfg(any(feature = "axum", test))]
    pub(crate) fn is_turn_of(&self, share: Share) -> bool {
        self.is_draining() && self.phase.borrow().moment(share).is_some_and(|moment| moment <= Instant::now())
    }

    pub(crate) fn expect_main_to_end(&self) {
        self.main_to_end.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_main_to_end(&self) -> bool {
        self.main_to_end.load(Ordering::Relaxed)
    }

    /// Tells the primary something that matters only while it lives.
    pub(crate) async fn tell(&self, what: FromWorker) {
        _ = self.control.0.send(&what).await;
    }

    /// Gets the keys of TLS session tickets, each of which is to seal tickets for so long. What is returned has new ones whenever there are
    /// any; it may have none, where the primary has none or this worker drains and must not wait.
    ///
    /// Cancel safe.
    #[cfg(feature = "rustls")]
    pub(crate) async fn obtain_ticket_keys(&self, lifetime: Duration) -> watch::Receiver<Option<TicketKeys>> {
        // From here on an answer is a change, to another question too.
        let mut keys = self.ticket_keys.subscribe();
        self.tell(FromWorker::TicketKeys { lifetime }).await;
        tokio::select! {
            _ = keys.changed() => {}
            () = draining(self.phase()) => {}
        }
        keys
    }

    /// Claims a port of the cluster for this worker and gets its socket from the primary.
    pub(crate) async fn obtain_port(
        self: &Arc<Self>,
        endpoint: Endpoint,
        http: Option<Scheme>,
        options: Options,
    ) -> io::Result<(Claim, (Option<OwnedFd>, Granted))> {
        let failed = |source: io::Error| {
            let endpoint = endpoint.clone();
            io::Error::new(source.kind(), ListenError { endpoint, source })
        };
        let claim = self.claim_port(&endpoint).map_err(failed)?;
        let request = PortRequest { key: claim.key.clone(), http, options };
        let obtained = self.request_port(request).await.map_err(failed)?;
        Ok((claim, obtained))
    }

    /// With port 0 the claim is on the lowest free ordinal, so that closing and listening again gives the same port.
    fn claim_port(self: &Arc<Self>, endpoint: &Endpoint) -> io::Result<Claim> {
        let mut ports = self.ports();
        let key = |ordinal| PortKey { endpoint: endpoint.clone(), ordinal };
        let key = match (0..).map(key).find(|key| !ports.claimed.contains(key)) {
            Some(key) if key.ordinal == 0 || endpoint.is_any_port() => key,
            _ => return Err(io::Error::new(io::ErrorKind::AddrInUse, "this worker listens there already")),
        };
        ports.claimed.push(key.clone());
        Ok(Claim { process: Arc::clone(self), key })
    }

    /// Asks the primary for this worker's shard of a port.
    async fn request_port(&self, port: PortRequest) -> io::Result<(Option<OwnedFd>, Granted)> {
        let request = self.requests.fetch_add(1, Ordering::Relaxed);
        let (answer, answered) = oneshot::channel();
        // One that drains as the last still gets its shard: there may be connections in it that nobody else would serve.
        if let Phase::Draining { last: false, .. } = *self.phase.borrow() {
            return Err(too_late());
        }
        self.ports().awaited.as_mut().ok_or_else(too_late)?.insert(request, answer);
        self.control.0.send(&FromWorker::Listen { request, port }).await.map_err(|_| too_late())?;
        answered.await.unwrap_or_else(|_| Err(too_late()))
    }

    /// Enters the draining phase, or shortens it; it is never lengthened.
    fn drain(&self, grace: Duration, last: bool) {
        self.reception.leave();
        let now = Instant::now();
        let cut = now + grace - margin(grace);
        let fitting = spread::fitting(self.drain_spread, grace);
        self.phase.send_modify(|phase| {
            // Whoever is woken by this finds it, and whoever finds it, the phase.
            self.draining.store(true, Ordering::Relaxed);
            *phase = match *phase {
                Phase::Running => Phase::Draining { since: now, spread: fitting, cut, last },
                Phase::Draining { since, spread, cut: earlier, last: already } => Phase::Draining {
                    since,
                    spread: spread.min(now - since + fitting),
                    cut: cut.min(earlier),
                    last: last || already,
                },
            }
        });
    }

    pub(super) fn obey(&self, order: ToWorker, fds: Vec<OwnedFd>) {
        match order {
            ToWorker::StopSoon => self.stops_soon.store(true, Ordering::Relaxed),
            ToWorker::Drain { grace, last } => self.drain(grace, last),
            ToWorker::Listening { request, outcome } => {
                let answer = match (outcome, fds.into_iter().next()) {
                    (Ok(granted), fd) if granted.by_primary || fd.is_some() => Ok((fd, granted)),
                    (Ok(_), _) => Err(no_room_for_socket()),
                    (Err(refusal), _) => Err(refusal.into_io()),
                };
                let waiter = self.ports().awaited.as_mut().and_then(|awaited| awaited.remove(&request));
                if let Some(waiter) = waiter {
                    // A waiter that was cancelled has no use for the socket; it is closed here.
                    _ = waiter.send(answer);
                }
            }
            ToWorker::Closed(port) => self.closed.send_modify(|closed| {
                if let Closed::Ports(ports) = closed {
                    ports.insert(port);
                }
            }),
            ToWorker::Reopen => {
                redirect_output(&fds);
                self.reopens.send_modify(|count| *count += 1);
            }
            ToWorker::Mailboxes { first } => self.reception.exchange().mailboxes().put(first, fds),
            ToWorker::Mailbox => {
                if let Some(mailbox) = fds.into_iter().next() {
                    self.reception.move_to(mailbox);
                }
            }
            ToWorker::Peer { slot, worker } => {
                self.introduce(Introduction::Answer { ask: Ask { slot, worker }, socket: fds.into_iter().next() });
            }
            ToWorker::Visitor { from, slot } => {
                if let Some(socket) = fds.into_iter().next() {
                    self.introduce(Introduction::Visitor { from, slot, socket });
                }
            }
            ToWorker::TicketKeys(keys) => _ = self.ticket_keys.send_replace(keys),
            // They belong to the handshake.
            ToWorker::Welcome { .. } | ToWorker::Refused => {}
        }
    }

    fn introduce(&self, introduction: Introduction) {
        // Whoever takes it runs as long as the process.
        _ = self.introductions.send(introduction);
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        // Nothing that runs under this lock can leave it half done.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Claim {
    /// What tells the port from others, in words.
    #[cfg(all(feature = "axum", feature = "rustls"))]
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.key.endpoint, self.key.ordinal)
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        self.process.ports().claimed.retain(|key| *key != self.key);
    }
}

/// Puts the file that came along, if one did, in the place of stdout and stderr.
pub(super) fn redirect_output(fds: &[OwnedFd]) {
    if let Some(file) = fds.first() {
        let done = nix::unistd::dup2_stdout(file).and_then(|()| nix::unistd::dup2_stderr(file));
        if let Err(error) = done {
            tracing::error!(%error, "the output goes on where it went");
        }
    }
}

/// Completes when the worker drains.
pub(crate) async fn draining(mut phase: watch::Receiver<Phase>) {
    // An error would mean that the process is gone, and with it whoever waits.
    _ = phase.wait_for(|phase| *phase != Phase::Running).await;
}

/// Completes when the worker drains and the moment of whoever has this share has come.
pub(crate) async fn turn_of(share: Share, phase: watch::Receiver<Phase>) {
    reach(phase, |phase| phase.moment(share)).await;
}

/// Completes when what is still open must be cut.
pub(crate) async fn cut(phase: watch::Receiver<Phase>) {
    reach(phase, |phase| match phase {
        Phase::Running => None,
        Phase::Draining { cut, .. } => Some(*cut),
    })
    .await;
}

/// Completes at a time that the phase names.
async fn reach(mut phase: watch::Receiver<Phase>, named: impl Fn(&Phase) -> Option<Instant>) {
    loop {
        let time = named(&phase.borrow_and_update());
        if time.is_some_and(|time| time <= Instant::now()) {
            return;
        }
        let due = async {
            match time {
                Some(time) => sleep_until(time).await,
                None => pending().await,
            }
        };
        tokio::select! {
            () = due => return,
            // The drain begins, or a second order shortens its time. The sender lives as long as the process.
            _ = phase.changed() => {}
        }
    }
}

/// Speaks with the primary until it is gone or can no longer be heard, and drains then.
async fn attend(
    process: Arc<Process>,
    primary: AsyncFd<OwnedFd>,
    mut terminate: Signal,
    mut asks: mpsc::UnboundedReceiver<Ask>,
) {
    let end = loop {
        tokio::select! {
            () = process.say.notified() => say(&process).await,
            _ = terminate.recv() => process.leave(),
            Some(Ask { slot, worker }) = asks.recv() => process.tell(FromWorker::Peer { slot, worker }).await,
            order = process.control.0.receive() => match order {
                Ok(Some((order, fds))) => process.obey(order, fds),
                Ok(None) => break "it has ended".to_owned(),
                Err(error) => break error.to_string(),
            },
        }
    };
    // Dropping the senders tells what waits for an answer.
    process.ports().awaited = None;
    if timeout(DEATH, primary.readable()).await.is_err() {
        let worker = process.identity.worker;
        let who = "leaves, as it can no longer hear its primary, which is alive";
        report::say(format_args!("worker {worker} {who}: its control lane cannot be read: {end}"));
        // Only the death of the primary makes a worker the last one: until then others take the accept queue over.
        process.drain(process.grace, false);
        process.introduce(Introduction::NoMore);
        process.closed.send_replace(Closed::All);
        _ = primary.readable().await;
    }
    process.drain(process.grace, true);
    process.closed.send_replace(Closed::All);
    process.introduce(Introduction::NoMore);
}

/// How long after the end of its lanes a process that dies may still look alive: the kernel closes them first.
const DEATH: Duration = Duration::from_secs(1);

fn no_room_for_socket() -> io::Error {
    let text = "this worker has as many open files as it may have, and none is left for the socket; raise the limit (ulimit -n), or \
                listen before connections are taken";
    io::Error::new(io::Error::from(Errno::EMFILE).kind(), text)
}

/// Says what there is to say. Readiness comes first: a worker may be ready and leave in one breath.
async fn say(process: &Arc<Process>) {
    if process.ready.load(Ordering::Relaxed) {
        process.tell(FromWorker::Ready).await;
    }
    if process.leaving.load(Ordering::Relaxed) {
        process.tell(FromWorker::Leaving).await;
        tokio::spawn(drain_unasked(Arc::clone(process)));
    }
}

/// A primary that does not answer a worker that wants to leave is stopped, or busy beyond measure.
async fn drain_unasked(process: Arc<Process>) {
    tokio::time::sleep(PATIENCE).await;
    process.drain(process.grace, false);
}

/// How long a worker that leaves waits for the order to drain.
const PATIENCE: Duration = Duration::from_secs(1);

/// What is cut, is cut a little before the primary would kill, so that the worker can still end by itself.
pub(super) fn margin(grace: Duration) -> Duration {
    (grace / 10).min(Duration::from_millis(500))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::WorkerId;
    use crate::board::{Board, Tag};
    use crate::listen::Dispatch;
    use crate::listen::exchange::Exchange;
    use crate::listen::mailbox::{self, Mailboxes};
    use crate::listen::reception::Seat;
    use crate::reserve::Reserve;

    const SECOND: Duration = Duration::from_secs(1);

    /// A worker of 30 s of grace, and the primary's end of its lane.
    fn worker(drain_spread: Duration) -> (Process, OwnedFd) {
        let identity = Identity { worker: WorkerId::new(1), slot: 0, generation: 1 };
        let (theirs, ours) = crate::control::pair().unwrap();
        let (_, mailbox) = mailbox::pair().unwrap();
        let (board, _) = Board::create().unwrap();
        let process = Process::new(
            identity,
            Control::new(ours).unwrap(),
            30 * SECOND,
            drain_spread,
            mpsc::unbounded_channel().0,
            |streams| {
                let seat = Seat { slot: 0, tag: Tag::of(identity.worker), line: &board.slot(0).lines()[0] };
                let exchange = Exchange::new(board, Mailboxes::default(), Dispatch::Balanced);
                Reception::new(seat, exchange, mailbox, streams, Arc::new(Reserve::new(1024)?))
            },
        );
        (process.unwrap(), theirs)
    }

    fn drain(process: &Process, grace: Duration) {
        process.obey(ToWorker::Drain { grace, last: false }, Vec::new());
    }

    #[tokio::test]
    async fn a_worker_is_healthy_from_ready_until_its_stop_is_announced_and_goes_on_serving() {
        let (process, _primary) = worker(Duration::ZERO);
        assert!(!process.is_healthy());
        process.ready();
        assert!(process.is_healthy());
        process.obey(ToWorker::StopSoon, Vec::new());
        assert!(!process.is_healthy());
        assert!(!process.is_draining() && *process.phase().borrow() == Phase::Running);
        drain(&process, SECOND);
        assert!(!process.is_healthy() && process.is_draining());
    }

    #[tokio::test]
    async fn a_worker_that_drains_unannounced_is_no_longer_healthy() {
        let (process, _primary) = worker(Duration::ZERO);
        process.ready();
        drain(&process, SECOND);
        assert!(!process.is_healthy());
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_spread_it_is_everybodys_turn_as_soon_as_the_worker_drains() {
        let (process, _primary) = worker(Duration::ZERO);
        let share = process.draw_share();
        let mut turn = Box::pin(turn_of(share, process.phase()));
        timeout(60 * SECOND, turn.as_mut()).await.expect_err("the worker does not drain");
        assert!(!process.is_turn_of(share));
        drain(&process, 30 * SECOND);
        assert!(process.is_turn_of(share));
        let begin = Instant::now();
        turn.await;
        assert_eq!(Instant::now(), begin);
    }

    #[tokio::test(start_paused = true)]
    async fn everybody_has_a_turn_of_his_own_within_the_spread() {
        let (process, _primary) = worker(10 * SECOND);
        drain(&process, 30 * SECOND);
        let begin = Instant::now();
        let mut moments = Vec::new();
        for _ in 0..100 {
            let share = process.draw_share();
            let (process, turn) = (&process, turn_of(share, process.phase()));
            moments.push(async move {
                turn.await;
                assert!(process.is_turn_of(share));
                begin.elapsed()
            });
        }
        let mut reached = Vec::new();
        for moment in moments {
            // One after the other: one that is in the past already is reached at once.
            reached.push(moment.await);
        }
        assert!(reached.iter().max() < Some(&(10 * SECOND + Duration::from_millis(1))), "{reached:?}");
        assert!(reached.iter().max() > Some(&(5 * SECOND)), "one of a hundred lies in the second half");
    }

    #[tokio::test(start_paused = true)]
    async fn a_second_order_that_leaves_less_time_brings_every_turn_forward() {
        let (process, _primary) = worker(10 * SECOND);
        drain(&process, 30 * SECOND);
        let begin = Instant::now();
        let turns: Vec<_> = (0..100).map(|_| turn_of(process.draw_share(), process.phase())).collect();
        drain(&process, 4 * SECOND);
        for turn in turns {
            turn.await;
        }
        assert!(begin.elapsed() <= 2 * SECOND + Duration::from_millis(1), "{:?}", begin.elapsed());
    }
}
