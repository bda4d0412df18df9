//! The worker process as the runtime sees it: one per process, reachable from anywhere in it.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{Notify, oneshot, watch};
use tokio::time::{Instant, sleep_until};

use crate::boot::Identity;
use crate::control::{Control, FromWorker, Granted, ToWorker};
use crate::listen::reception::Reception;
use crate::listen::{Endpoint, Options, PortKey, PortRequest, Tally, too_late};
use crate::os;

/// Where the worker stands in its life, as far as its own code must know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Running,
    Draining {
        /// What is not finished by then is cut.
        cut: Instant,
        /// Nobody takes the accept queues over: serve what is in them.
        last: bool,
    },
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
    listeners: Arc<Tally>,
}

/// What the user's program listens on and is about to.
#[derive(Debug)]
struct Ports {
    claimed: Vec<PortKey>,
    /// By request number. `None` once the primary is gone: dropping the senders tells whoever waits.
    awaited: Option<HashMap<u64, Answer>>,
}

/// Where the answer to a request for a port goes.
type Answer = oneshot::Sender<io::Result<(OwnedFd, Granted)>>;

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

    /// Makes this process the current one and begins to attend to the primary.
    pub(super) fn start(
        identity: Identity,
        control: Control,
        grace: Duration,
        reception: impl FnOnce(Arc<Tally>) -> io::Result<Reception>,
    ) -> io::Result<Arc<Self>> {
        let terminate = signal(SignalKind::terminate())?;
        let streams = Arc::<Tally>::default();
        let process = Arc::new(Self {
            identity,
            control: ControlHandle(control),
            phase: watch::Sender::new(Phase::Running),
            draining: AtomicBool::new(false),
            reopens: watch::Sender::new(0),
            grace,
            main_to_end: AtomicBool::new(false),
            ready: AtomicBool::new(false),
            leaving: AtomicBool::new(false),
            say: Notify::new(),
            ports: Mutex::new(Ports { claimed: Vec::new(), awaited: Some(HashMap::new()) }),
            requests: AtomicU64::new(0),
            reception: reception(Arc::clone(&streams))?,
            streams,
            listeners: Arc::default(),
        });
        if os::was_terminated() {
            process.leave();
        }
        tokio::spawn(attend(Arc::clone(&process), terminate));
        Ok(Arc::clone(CURRENT.get_or_init(|| process)))
    }

    pub(crate) fn identity(&self) -> &Identity {
        &self.identity
    }

    pub(crate) fn phase(&self) -> watch::Receiver<Phase> {
        self.phase.subscribe()
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

    /// Claims a port of the cluster for this worker and gets its socket from the primary.
    pub(crate) async fn obtain_port(
        self: &Arc<Self>,
        endpoint: Endpoint,
        http: bool,
        options: Options,
    ) -> io::Result<(Claim, (OwnedFd, Granted))> {
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
    async fn request_port(&self, port: PortRequest) -> io::Result<(OwnedFd, Granted)> {
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
        let cut = Instant::now() + grace - margin(grace);
        self.draining.store(true, Ordering::Relaxed);
        self.phase.send_modify(|phase| {
            *phase = match *phase {
                Phase::Running => Phase::Draining { cut, last },
                Phase::Draining { cut: earlier, last: already } => {
                    Phase::Draining { cut: cut.min(earlier), last: last || already }
                }
            }
        });
    }

    pub(super) fn obey(&self, order: ToWorker, fds: Vec<OwnedFd>) {
        match order {
            ToWorker::Drain { grace, last } => self.drain(grace, last),
            ToWorker::Listening { request, outcome } => {
                let answer = match (outcome, fds.into_iter().next()) {
                    (Ok(granted), Some(fd)) => Ok((fd, granted)),
                    (Ok(_), None) => Err(io::Error::other("the socket did not come along")),
                    (Err(refusal), _) => Err(refusal.into_io()),
                };
                let waiter = self.ports().awaited.as_mut().and_then(|awaited| awaited.remove(&request));
                if let Some(waiter) = waiter {
                    // A waiter that was cancelled has no use for the socket; it is closed here.
                    _ = waiter.send(answer);
                }
            }
            ToWorker::Reopen => {
                redirect_output(&fds);
                self.reopens.send_modify(|count| *count += 1);
            }
            ToWorker::Mailboxes { first } => self.reception.exchange().mailboxes().add(first, fds),
            // They belong to the handshake.
            ToWorker::Welcome { .. } | ToWorker::Refused => {}
        }
    }

    fn ports(&self) -> MutexGuard<'_, Ports> {
        // Nothing that runs under this lock can leave it half done.
        self.ports.lock().unwrap_or_else(PoisonError::into_inner)
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

/// Completes when what is still open must be cut.
pub(crate) async fn cut(mut phase: watch::Receiver<Phase>) {
    loop {
        let time = match *phase.borrow_and_update() {
            Phase::Running => None,
            Phase::Draining { cut, .. } => Some(cut),
        };
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

/// Speaks with the primary until it is gone, and drains then.
async fn attend(process: Arc<Process>, mut terminate: Signal) {
    loop {
        tokio::select! {
            () = process.say.notified() => say(&process).await,
            _ = terminate.recv() => process.leave(),
            order = process.control.0.receive() => match order {
                Ok(Some((order, fds))) => process.obey(order, fds),
                Ok(None) => break,
                Err(error) => {
                    tracing::error!(%error, "lost the primary");
                    break;
                }
            },
        }
    }
    process.drain(process.grace, true);
    process.ports().awaited = None;
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
fn margin(grace: Duration) -> Duration {
    (grace / 10).min(Duration::from_millis(500))
}
