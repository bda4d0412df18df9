//! A seeded random walk through a world of processes that start, serve, crash, hang, disobey and lie, with every promise
//! checked after each step.
//!
//! The supervisor is not asked about itself: [`Shadow`] keeps its own account, from the events and the actions alone and in
//! another form (flat facts about workers, no seats), and says of each action whether it may be, and after each step whether one
//! is missing.
//!
//! `CLUSTER_WALK_SEEDS=100000` walks more; `CLUSTER_WALK_SEED=17` walks one and prints every step of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    panic::{self, AssertUnwindSafe},
};

use super::*;

const DEFAULT_SEEDS: u64 = 2_000;

#[test]
fn every_promise_holds_on_a_random_walk() {
    if let Some(seed) = number_from("CLUSTER_WALK_SEED") {
        Walk::new(seed, true).run(&mut BTreeSet::new());
        return;
    }
    let seeds = number_from("CLUSTER_WALK_SEEDS").unwrap_or(DEFAULT_SEEDS);
    let mut steps = 0;
    let mut seen = BTreeSet::new();
    for seed in 0..seeds {
        match panic::catch_unwind(AssertUnwindSafe(|| Walk::new(seed, false).run(&mut seen))) {
            Ok(walked) => steps += walked,
            Err(failure) => {
                eprintln!("seed {seed} failed; to repeat it:");
                eprintln!("CLUSTER_WALK_SEED={seed} cargo test -p cluster-runtime --lib random_walk -- --nocapture");
                panic::resume_unwind(failure);
            }
        }
    }
    println!("{seeds} seeds, {steps} steps, no failure; seen: {seen:?}");
    if seeds >= DEFAULT_SEEDS {
        let missed: Vec<_> = SIGHTS.iter().filter(|sight| !seen.contains(*sight)).collect();
        assert!(missed.is_empty(), "the walk proves nothing about what it never meets: {missed:?}");
    }
}

fn number_from(variable: &str) -> Option<u64> {
    env::var(variable).ok().map(|text| text.parse().expect("a number"))
}

/// What the walk must have met.
const SIGHTS: [&str; 34] = [
    "all ready",
    "asked",
    "breaker",
    "breaker held by one that serves",
    "breaker held by past service",
    "crashed",
    "crashed while draining",
    "failed to start",
    "finished",
    "finished, all, failed",
    "finished, all, well",
    "grace expired",
    "interrupted after a failed start",
    "interrupted after the breaker",
    "interrupted, and the primary failed",
    "killed by an interrupt",
    "lasting end spared by the breaker",
    "leaver in its seat",
    "left again too soon",
    "left after long service",
    "left while starting",
    "longest pause",
    "misbehaved",
    "pause reset",
    "recovered",
    "start failed",
    "start timed out",
    "stopped",
    "stopped by a failed primary",
    "stopped by force",
    "terminated again",
    "told again that it is the last",
    "became the last",
    "two in a slot",
];

/// splitmix64: small, and good enough to wander with.
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    fn one_in(&mut self, bound: u64) -> bool {
        self.below(bound) == 0
    }

    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[usize::try_from(self.below(of.len() as u64)).unwrap()]
    }

    /// An index, each as likely as its weight.
    fn weigh<const N: usize>(&mut self, weights: [u64; N]) -> usize {
        let mut left = self.below(weights.iter().sum());
        weights.iter().position(|&weight| left.checked_sub(weight).map(|rest| left = rest).is_none()).unwrap()
    }
}

/// How the programs of one walk are, as the weights of what happens next: tick, ready, exit, failed spawn, leaving,
/// misbehaviour, a lie about an id, a second start, a stop.
const TEMPERS: [[u64; 9]; 6] = [
    [50, 150, 50, 5, 25, 10, 25, 5, 2],   // of every kind
    [100, 150, 25, 0, 150, 5, 10, 1, 0],  // leaves all the time
    [25, 15, 300, 50, 5, 10, 5, 1, 0],    // hardly ever comes up
    [100, 200, 150, 5, 1, 25, 5, 1, 0],   // comes up and crashes
    [200, 50, 10, 0, 10, 1, 5, 1, 1],     // hangs
    [25, 100, 50, 10, 50, 10, 25, 5, 50], // is stopped
];

struct Walk {
    dice: Dice,
    supervisor: Supervisor,
    shadow: Shadow,
    began: Instant,
    now: Instant,
    temper: [u64; 9],
    statuses: &'static [ExitStatus],
    verbose: bool,
    steps: u64,
}

impl Walk {
    fn new(seed: u64, verbose: bool) -> Self {
        let mut dice = Dice(seed);
        let began = origin();
        let settings = Settings {
            slots: usize::try_from(1 + dice.below(6)).unwrap(),
            restart: dice.pick(&[
                Restart::Always,
                Restart::Always,
                Restart::Always,
                Restart::OnFailure,
                Restart::Never,
            ]),
            start_timeout: ms(dice.pick(&[0, 1, 300, 5_000, 60_000, 60_000, 600_000, 600_000, 600_000, 600_000])),
            grace: ms(dice.pick(&[0, 1, 200, 3_000, 30_000])),
            ..PLAIN
        };
        if verbose {
            println!("{settings:?}");
        }
        Self {
            temper: dice.pick(&TEMPERS),
            statuses: dice.pick(&[
                &[Code(0), Code(1), Signal(SIGSEGV), Signal(SIGKILL), Signal(SIGTERM), Signal(SIGINT)] as &[_],
                &[Code(1), Signal(SIGSEGV)],
                &[Code(0), Code(0), Code(0), Code(1)],
            ]),
            dice,
            supervisor: Supervisor::new(settings),
            shadow: Shadow::new(settings),
            began,
            now: began,
            verbose,
            steps: 0,
        }
    }

    fn run(mut self, seen: &mut BTreeSet<&'static str>) -> u64 {
        if !self.dice.one_in(50) {
            self.step(Event::Start);
        }
        if !self.dice.one_in(3) {
            self.all_come_up();
            if self.dice.one_in(4) {
                self.storm();
            }
        }
        for _ in 0..50 + self.dice.below(300) {
            self.pass_time();
            let event = self.choose();
            self.step(event);
            if self.shadow.ended {
                break;
            }
        }
        if self.shadow.is_running() && self.dice.one_in(2) {
            self.recover();
        }
        self.stop_for_good();
        seen.append(&mut self.shadow.seen);
        self.steps
    }

    fn step(&mut self, event: Event) {
        let mut actions = Vec::new();
        self.supervisor.step(self.now, event, &mut actions);
        if self.verbose {
            println!("{:?} {event:?} => {actions:?}", self.now - self.began);
        }
        self.steps += 1;
        self.shadow.hear(self.now, event);
        for action in actions {
            self.shadow.witness(self.now, action);
        }
        self.shadow.settle(self.now);
        self.shadow.compare(self.now, &self.supervisor);
    }

    fn pass_time(&mut self) {
        let to_deadline = self.shadow.next_deadline().map_or(ms(5), |deadline| deadline - self.now);
        self.now += match self.dice.weigh([20, 20, 30, 10, 10, 5, 2]) {
            0 => Duration::ZERO,
            1 => ms(self.dice.below(50)),
            2 => to_deadline,
            3 => to_deadline - to_deadline.min(Duration::from_nanos(1)),
            4 => to_deadline + ms(self.dice.below(500)),
            5 => self.dice.pick(&[ms(9_999), ms(10_000), ms(60_000), ms(900_000)]),
            _ => ms(self.dice.below(100_000)),
        };
    }

    fn choose(&mut self) -> Event {
        let Some(worker) = self.any_worker() else {
            return match self.dice.weigh([300, 30, 1]) {
                0 => Event::Tick,
                1 => self.lie(),
                _ => self.any_stop(),
            };
        };
        let known = &self.shadow.workers[&worker];
        // The kernel takes some time over a kill, but not for ever.
        if known.killed.is_some() && !self.dice.one_in(4) {
            return exited(worker, Signal(SIGKILL));
        }
        match self.dice.weigh(self.temper) {
            0 => Event::Tick,
            1 => ready(worker),
            2 => exited(worker, self.dice.pick(self.statuses)),
            3 => Event::SpawnFailed(id(worker)),
            4 => leaving(worker),
            5 => misbehaved(worker),
            6 => self.lie(),
            7 => Event::Start,
            _ => self.any_stop(),
        }
    }

    fn any_worker(&mut self) -> Option<u64> {
        let alive: Vec<_> = self.shadow.workers.keys().copied().collect();
        if alive.is_empty() { None } else { Some(self.dice.pick(&alive)) }
    }

    fn any_stop(&mut self) -> Event {
        stop(self.dice.pick(&[
            StopCause::Terminate,
            StopCause::Terminate,
            StopCause::Interrupt,
            StopCause::Asked,
            StopCause::PrimaryFailed,
        ]))
    }

    /// News of a worker that is gone, is not there yet, or never will be.
    fn lie(&mut self) -> Event {
        let any = self.dice.below(self.shadow.last_id + 3);
        let worker = if self.shadow.workers.contains_key(&any) { u64::MAX } else { any };
        let status = self.dice.pick(self.statuses);
        let failed = Event::SpawnFailed(id(worker));
        self.dice.pick(&[ready(worker), leaving(worker), misbehaved(worker), exited(worker, status), failed])
    }

    fn all_come_up(&mut self) {
        for worker in self.shadow.workers.keys().copied().collect::<Vec<_>>() {
            self.step(ready(worker));
        }
    }

    /// Everything fails as fast as it can, until the breaker is about to trip: then one may come up and serve.
    fn storm(&mut self) {
        // Whether the first of them end while others still serve decides who is the last that the breaker takes.
        if self.dice.one_in(2) {
            for worker in self.shadow.workers.keys().copied().collect::<Vec<_>>() {
                self.step(misbehaved(worker));
            }
        }
        for worker in self.shadow.workers.keys().copied().collect::<Vec<_>>() {
            self.step(exited(worker, Code(1)));
        }
        for _ in 0..40 * self.shadow.settings.slots {
            let restless = self.shadow.workers.iter().find(|(_, known)| known.state() == State::Starting);
            let is_close = self.shadow.unasked.len() + 2 >= 10 * self.shadow.settings.slots;
            match (restless.map(|(&worker, _)| worker), self.shadow.next_deadline()) {
                _ if self.shadow.stopping.is_some() => {
                    for _ in 0..self.dice.below(6) {
                        let event = self.any_stop();
                        self.step(event);
                    }
                    break;
                }
                (Some(worker), _) if is_close && self.dice.one_in(3) => self.step(ready(worker)),
                (Some(worker), _) => self.step(exited(worker, Code(1))),
                (None, Some(deadline)) => {
                    self.now = deadline;
                    self.step(Event::Tick);
                }
                (None, None) => match self.any_worker() {
                    Some(worker) => {
                        if self.dice.one_in(2) {
                            self.now += self.dice.pick(&[ms(9_999), ms(10_000)]);
                        }
                        self.step(exited(worker, Code(1)));
                    }
                    None => break,
                },
            }
        }
    }

    /// From here on the programs behave. Whoever is asked to go goes, whoever starts comes up: soon every slot serves.
    fn recover(&mut self) {
        for _ in 0..20 * self.shadow.settings.slots + 20 {
            let next = self.shadow.workers.iter().find_map(|(&worker, known)| match known {
                Known { killed: Some(_), .. } => Some(exited(worker, Signal(SIGKILL))),
                Known { asked: Some(_), .. } => Some(exited(worker, Code(0))),
                Known { ready: None, .. } => Some(ready(worker)),
                Known { .. } => None,
            });
            match (next, self.shadow.next_deadline()) {
                (Some(event), _) => self.step(event),
                (None, Some(deadline)) => {
                    self.now = deadline;
                    self.step(Event::Tick);
                }
                (None, None) => break,
            }
        }
        // Without time to start nobody can come up, which is a stop for a first start and a backoff for ever later.
        if self.shadow.is_running() && !self.shadow.settings.start_timeout.is_zero() {
            self.shadow.assert_recovered();
        }
    }

    /// Nothing but kills is obeyed any more: the stop has to end nevertheless.
    fn stop_for_good(&mut self) {
        if self.shadow.stopping.is_none() {
            let event = self.any_stop();
            self.step(event);
        }
        for _ in 0..self.dice.below(4) {
            let event = self.any_stop();
            self.step(event);
        }
        for _ in 0..6 * self.shadow.settings.slots + 2 {
            let killed =
                self.shadow.workers.iter().find(|(_, known)| known.killed.is_some()).map(|(&worker, _)| worker);
            match (killed, self.shadow.next_deadline()) {
                (Some(worker), _) => self.step(exited(worker, Signal(SIGKILL))),
                (None, Some(deadline)) => {
                    self.now = deadline;
                    self.step(Event::Tick);
                }
                (None, None) => break,
            }
        }
        assert!(self.shadow.ended, "a stop always ends");
        self.step(Event::Start);
        for _ in 0..5 {
            self.pass_time();
            let event = self.lie();
            self.step(event);
            let event = self.any_stop();
            self.step(event);
        }
    }
}

/// What happened so far, and what follows from it.
struct Shadow {
    settings: Settings,
    /// Those that were spawned and not reaped.
    workers: BTreeMap<u64, Known>,
    last_id: u64,
    slots: Vec<Place>,
    /// Every unasked end ever that called for a replacement: of a worker that had not served for long, when nobody else did.
    unasked: Vec<Instant>,
    /// The others, which nobody is to be blamed for.
    spared: Vec<Instant>,
    started: bool,
    all_ready: bool,
    stopping: Option<Stopping>,
    ended: bool,
    /// Actions that the last event demands and that did not come yet.
    owed_reap: Option<(u64, usize, Exit)>,
    owed_shutdown: Option<ShutdownCause>,
    seen: BTreeSet<&'static str>,
}

struct Known {
    slot: usize,
    start_by: Instant,
    ready: Option<Instant>,
    asked: Option<Request>,
    /// It has to be killed in this step, for this.
    condemned: Option<ExitReason>,
    killed: Option<ExitReason>,
    /// How long it was ready, once it is not any more.
    served: Option<Duration>,
}

#[derive(Clone, Copy)]
struct Request {
    deadline: Instant,
    told: Option<bool>,
    last: bool,
}

#[derive(Clone, Default)]
struct Place {
    was_ready: bool,
    /// Nobody will come any more, because the policy says so.
    closed: bool,
    failures: usize,
    /// The next worker is due then.
    due: Option<Instant>,
    ended_well: Option<bool>,
    /// The worker whose successor is settled: each is paid for once.
    paid: u64,
}

struct Stopping {
    cause: ShutdownCause,
    stops: Vec<StopCause>,
    forced: bool,
}

impl Known {
    fn is_serving(&self) -> bool {
        self.ready.is_some() && self.asked.is_none() && self.killed.is_none() && self.condemned.is_none()
    }

    fn stop_serving(&mut self, now: Instant) {
        if self.is_serving() {
            self.served = self.ready.map(|ready| now - ready);
        }
    }

    fn deadline(&self) -> Option<Instant> {
        match (self.killed, self.asked, self.ready) {
            (Some(_), _, _) | (None, None, Some(_)) => None,
            (None, Some(asked), _) => Some(asked.deadline),
            (None, None, None) => Some(self.start_by),
        }
    }

    fn reason(&self, status: ExitStatus, restart: Restart) -> ExitReason {
        if let Some(why) = self.killed {
            return why;
        }
        match (self.asked, self.ready, status) {
            (Some(_), _, Code(_) | Signal(SIGTERM | SIGINT)) => Asked,
            (Some(_), _, Signal(_)) => Crashed,
            (None, Some(_), Code(0)) => Finished,
            (None, Some(_), _) => Crashed,
            (None, None, Code(0)) if restart != Restart::Always => Finished,
            (None, None, _) => FailedToStart,
        }
    }

    fn state(&self) -> State {
        match (self.killed, self.asked, self.ready) {
            (Some(_), _, _) => State::Killed,
            (None, Some(_), _) => State::Draining,
            (None, None, Some(_)) => State::Ready,
            (None, None, None) => State::Starting,
        }
    }
}

impl Shadow {
    fn new(settings: Settings) -> Self {
        Self {
            settings,
            workers: BTreeMap::new(),
            last_id: 0,
            slots: vec![Place::default(); settings.slots],
            unasked: Vec::new(),
            spared: Vec::new(),
            started: false,
            all_ready: false,
            stopping: None,
            ended: false,
            owed_reap: None,
            owed_shutdown: None,
            seen: BTreeSet::new(),
        }
    }

    const fn is_running(&self) -> bool {
        self.started && self.stopping.is_none() && !self.ended
    }

    fn serves(&self) -> bool {
        self.workers.values().any(Known::is_serving)
    }

    fn alive_in(&self, slot: usize) -> Vec<u64> {
        self.workers.iter().filter(|(_, known)| known.slot == slot).map(|(&worker, _)| worker).collect()
    }

    fn newest_in(&self, slot: usize) -> Option<u64> {
        self.alive_in(slot).last().copied()
    }

    fn next_deadline(&self) -> Option<Instant> {
        let due = self.slots.iter().filter_map(|place| place.due);
        self.workers.values().filter_map(Known::deadline).chain(due).min()
    }
}

/// What an event means.
impl Shadow {
    fn hear(&mut self, now: Instant, event: Event) {
        match event {
            Event::Start if !self.started && self.stopping.is_none() => {
                self.started = true;
                self.slots.iter_mut().for_each(|place| place.due = Some(now));
            }
            Event::Ready(worker) => self.hear_ready(now, worker.get()),
            Event::Leaving(worker) => self.hear_leaving(now, worker.get()),
            Event::Misbehaved(worker) => {
                if let Some(known) = self.workers.get_mut(&worker.get()).filter(|known| known.killed.is_none()) {
                    known.stop_serving(now);
                    known.condemned = Some(Misbehaved);
                }
            }
            Event::Exited(worker, status) => {
                if let Some(known) = self.workers.get(&worker.get()) {
                    let reason = known.reason(status, self.settings.restart);
                    self.hear_end(now, worker.get(), Exit { status, reason });
                }
            }
            Event::SpawnFailed(worker) => {
                if self.workers.get(&worker.get()).is_some_and(|known| !known.is_serving()) {
                    self.hear_end(now, worker.get(), Exit { status: Code(127), reason: FailedToStart });
                }
            }
            Event::Stop(cause) if !self.ended => self.hear_stop(now, cause),
            Event::Start | Event::Stop(_) | Event::Tick => {}
        }
    }

    fn hear_ready(&mut self, now: Instant, worker: u64) {
        let Some(known) = self.workers.get_mut(&worker) else { return };
        if known.ready.is_none() && known.asked.is_none() && known.killed.is_none() {
            known.ready = Some(now);
            self.slots[known.slot].was_ready = true;
        }
    }

    fn hear_leaving(&mut self, now: Instant, worker: u64) {
        let (grace, last) = (self.settings.grace, self.leaves_nobody(worker));
        let Some(known) = self.workers.get_mut(&worker) else { return };
        if known.killed.is_some() || known.asked.is_some() {
            return;
        }
        known.stop_serving(now);
        known.asked = Some(Request { deadline: now + grace, told: None, last });
        let slot = known.slot;
        if known.ready.is_none() {
            self.seen.insert("left while starting");
        }
        if self.alive_in(slot).len() == 2 {
            self.seen.insert("leaver in its seat");
        }
        self.let_go(now, slot);
    }

    fn leaves_nobody(&self, worker: u64) -> bool {
        let stays = |other: &Known| other.asked.is_none() && other.killed.is_none() && other.condemned.is_none();
        self.settings.restart == Restart::Never && !self.workers.iter().any(|(id, other)| *id != worker && stays(other))
    }

    fn hear_end(&mut self, now: Instant, worker: u64, exit: Exit) {
        self.workers.get_mut(&worker).unwrap().stop_serving(now);
        let known = self.workers.remove(&worker).unwrap();
        self.owed_reap = Some((worker, known.slot, exit));
        self.see_end(&known, exit.reason);
        let place = &mut self.slots[known.slot];
        place.ended_well = Some(exit.status == Code(0) && matches!(exit.reason, Finished | Asked));
        if let Some(stopping) = &mut self.stopping {
            stopping.forced |= exit.reason == GraceExpired;
            return;
        }
        if place.paid < worker {
            self.holder_ended(now, worker, &known, exit);
        }
        if self.owed_shutdown.is_none() {
            self.let_go(now, known.slot);
        } else {
            self.begin_stop(now);
        }
    }

    fn holder_ended(&mut self, now: Instant, worker: u64, known: &Known, exit: Exit) {
        let asked = matches!(exit.reason, Asked | GraceExpired);
        let place = &mut self.slots[known.slot];
        let failed_start = matches!(exit.reason, FailedToStart | StartTimedOut | Misbehaved);
        if !place.was_ready && failed_start {
            self.owed_shutdown = Some(ShutdownCause::StartFailed { worker: id(worker), exit });
            return;
        }
        match (self.settings.restart, exit.reason) {
            (Restart::Never, _) | (Restart::OnFailure, Finished) => {
                place.closed = true;
                place.paid = worker;
                return;
            }
            (Restart::Always | Restart::OnFailure, _) => {}
        }
        if !asked {
            let limit = 10 * self.settings.slots;
            let recent = |ends: &[Instant]| ends.iter().filter(|&&end| now - end <= ms(900_000)).count();
            let has_served_long = known.served.is_some_and(|served| served >= ms(10_000));
            if self.serves() || has_served_long {
                self.spared.push(now);
            } else {
                self.unasked.push(now);
            }
            if recent(&self.unasked) > limit {
                self.owed_shutdown = Some(ShutdownCause::Breaker);
                return;
            }
            if recent(&self.unasked) + recent(&self.spared) > limit {
                self.seen.insert(if self.serves() {
                    "breaker held by one that serves"
                } else if has_served_long {
                    "lasting end spared by the breaker"
                } else {
                    "breaker held by past service"
                });
            }
        }
        self.pay(now, worker, known.slot, known.ready.is_some(), known.served, asked);
    }

    /// If the newest worker of the slot is on its way out and has room to go, a successor is due.
    fn let_go(&mut self, now: Instant, slot: usize) {
        let (alive, place) = (self.alive_in(slot), &self.slots[slot]);
        let [worker] = alive[..] else { return };
        let known = &self.workers[&worker];
        let leaves =
            known.asked.is_some() && known.killed.is_none_or(|why| why == GraceExpired) && known.condemned.is_none();
        if leaves && place.paid < worker && self.settings.restart != Restart::Never {
            let (ready, served) = (known.ready.is_some(), known.served);
            self.pay(now, worker, slot, ready, served, true);
        }
    }

    fn pay(&mut self, now: Instant, worker: u64, slot: usize, ready: bool, served: Option<Duration>, asked: bool) {
        const PAUSES: [u64; 11] = [0, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000];
        let place = &mut self.slots[slot];
        place.paid = worker;
        let has_served_long = served.is_some_and(|served| served >= ms(10_000));
        if has_served_long {
            if place.failures > 1 {
                self.seen.insert("pause reset");
            }
            place.failures = 0;
        }
        let pause = match (ready, asked) {
            (true, true) if has_served_long => {
                self.seen.insert("left after long service");
                0
            }
            (true, _) => {
                if asked && place.failures > 0 {
                    self.seen.insert("left again too soon");
                }
                place.failures += 1;
                PAUSES[(place.failures - 1).min(10)]
            }
            (false, _) => {
                place.failures = 2.max(place.failures + 1);
                PAUSES[(place.failures - 1).min(10)]
            }
        };
        if pause == 30_000 {
            self.seen.insert("longest pause");
        }
        place.due = Some(now + ms(pause));
    }

    fn hear_stop(&mut self, now: Instant, cause: StopCause) {
        let Some(stopping) = &mut self.stopping else {
            self.owed_shutdown = Some(ShutdownCause::Stop(cause));
            return self.begin_stop(now);
        };
        stopping.stops.push(cause);
        if cause == StopCause::Terminate {
            self.seen.insert("terminated again");
        }
        if cause == StopCause::Interrupt && self.workers.values().any(|known| known.killed.is_none()) {
            match stopping.cause {
                ShutdownCause::StartFailed { .. } => _ = self.seen.insert("interrupted after a failed start"),
                ShutdownCause::Breaker => _ = self.seen.insert("interrupted after the breaker"),
                ShutdownCause::Stop(StopCause::PrimaryFailed) => {
                    self.seen.insert("interrupted, and the primary failed");
                }
                ShutdownCause::Stop(_) => {}
            }
            for known in self.workers.values_mut().filter(|known| known.killed.is_none()) {
                known.condemned = Some(GraceExpired);
            }
        }
    }

    fn begin_stop(&mut self, now: Instant) {
        let cause = self.owed_shutdown.expect("a cause");
        let stops = match cause {
            ShutdownCause::Stop(cause) => vec![cause],
            ShutdownCause::StartFailed { .. } | ShutdownCause::Breaker => Vec::new(),
        };
        self.stopping = Some(Stopping { cause, stops, forced: false });
        // The end that caused the stop is a part of it already.
        if let (Some(stopping), Some((_, _, exit))) = (&mut self.stopping, self.owed_reap) {
            stopping.forced |= exit.reason == GraceExpired;
        }
        self.slots.iter_mut().for_each(|place| place.due = None);
        for known in self.workers.values_mut().filter(|known| known.killed.is_none()) {
            let asked =
                known.asked.get_or_insert(Request { deadline: now + self.settings.grace, told: None, last: true });
            asked.last = true;
        }
    }

    fn see_end(&mut self, known: &Known, reason: ExitReason) {
        self.seen.insert(match reason {
            Asked => "asked",
            Crashed if known.asked.is_some() => "crashed while draining",
            Crashed => "crashed",
            FailedToStart => "failed to start",
            Finished => "finished",
            GraceExpired => "grace expired",
            Misbehaved => "misbehaved",
            StartTimedOut => "start timed out",
        });
    }
}

/// Which actions may be.
impl Shadow {
    fn witness(&mut self, now: Instant, action: Action) {
        assert!(!self.ended, "nothing comes after the end");
        match action {
            Spawn { worker, slot, generation } => self.witness_spawn(now, worker.get(), slot, generation),
            Drain { worker, grace, last } => self.witness_drain(now, worker.get(), grace, last),
            Kill(worker) => self.witness_kill(now, worker.get()),
            Reaped { worker, slot, generation, exit, next } => {
                assert_eq!(self.owed_reap.take(), Some((worker.get(), slot, exit)), "reaped once, for what happened");
                assert_eq!(generation, 1);
                assert_eq!(next, self.next(now, slot));
            }
            AllReady => {
                assert!(!self.all_ready, "told once");
                assert!(self.is_all_ready());
                self.all_ready = true;
                self.seen.insert("all ready");
            }
            Shutdown(cause) => {
                assert_eq!(self.owed_shutdown.take(), Some(cause));
                assert!(cause != ShutdownCause::Breaker || !self.serves(), "no breaker while one serves");
            }
            Action::Exit(outcome) => {
                assert!(self.workers.is_empty(), "the primary ends last");
                assert_eq!(outcome, self.outcome());
                self.ended = true;
                self.see_outcome(outcome);
            }
        }
    }

    fn witness_spawn(&mut self, now: Instant, worker: u64, slot: usize, generation: u64) {
        assert!(self.stopping.is_none(), "no spawn after the stop began");
        assert_eq!(worker, self.last_id + 1, "ids are used once");
        assert_eq!(generation, 1);
        let alive = self.alive_in(slot);
        assert!(alive.len() < 2, "at most two processes in a slot");
        assert!(alive.iter().all(|other| self.workers[other].asked.is_some()), "only beside one that goes");
        assert!(!self.slots[slot].closed, "the policy wants nobody here");
        let due = self.slots[slot].due.take().expect("nobody is due here");
        assert!(due <= now, "not before the pause is over");
        if !alive.is_empty() {
            self.seen.insert("two in a slot");
        }
        let start_by = now + self.settings.start_timeout;
        let known = Known { slot, start_by, ready: None, asked: None, condemned: None, killed: None, served: None };
        self.workers.insert(worker, known);
        self.last_id = worker;
    }

    fn witness_drain(&mut self, now: Instant, worker: u64, grace: Duration, last: bool) {
        let is_alone = self.leaves_nobody(worker);
        let known = self.workers.get_mut(&worker).expect("drains only who is there");
        assert!(known.killed.is_none(), "no request after a kill");
        let asked = known.asked.as_mut().expect("a worker is drained only in a stop or if it leaves");
        if is_alone && last && !asked.last {
            asked.last = true;
            self.seen.insert("became the last");
        }
        assert_eq!(last, asked.last);
        assert!(
            asked.told.is_none() || (last && asked.told == Some(false)),
            "told once, and once more if it is the last"
        );
        assert_eq!(now + grace, asked.deadline, "told what is left");
        assert!(!grace.is_zero() && grace <= self.settings.grace);
        if asked.told.replace(last).is_some() {
            self.seen.insert("told again that it is the last");
        }
    }

    fn witness_kill(&mut self, now: Instant, worker: u64) {
        let known = self.workers.get_mut(&worker).expect("kills only who is there");
        assert!(known.killed.is_none(), "killed once");
        let reason = match (known.condemned.take(), known.asked) {
            (Some(reason), _) => reason,
            (None, Some(asked)) if asked.deadline <= now => GraceExpired,
            (None, None) if known.ready.is_none() && known.start_by <= now => StartTimedOut,
            (None, _) => panic!("worker {worker} is killed without a reason"),
        };
        known.killed = Some(reason);
    }

    fn next(&self, now: Instant, slot: usize) -> Next {
        let place = &self.slots[slot];
        match place.due {
            _ if self.stopping.is_some() => Next::Stopping,
            Some(due) => Next::Restart { after: due.saturating_duration_since(now) },
            None if place.closed => Next::Empty,
            None => Next::Taken,
        }
    }

    fn is_all_ready(&self) -> bool {
        self.is_running() && self.serves() && self.slots.iter().all(|place| place.was_ready || place.closed)
    }

    fn outcome(&self) -> Outcome {
        let Some(stopping) = &self.stopping else {
            assert!(self.slots.iter().all(|place| place.closed), "the cluster ends by itself when nobody will come");
            return Outcome::AllFinished { failed: self.slots.iter().any(|place| place.ended_well == Some(false)) };
        };
        match stopping.cause {
            ShutdownCause::StartFailed { worker, exit } => Outcome::StartFailed { worker, exit },
            ShutdownCause::Breaker => Outcome::Breaker,
            ShutdownCause::Stop(first) => {
                // The stop that came first is graceful, whatever it was.
                let interrupted = |(index, cause): (usize, &StopCause)| index > 0 && *cause == StopCause::Interrupt;
                let killed = stopping.stops.iter().enumerate().position(interrupted);
                let failed = stopping.stops.iter().position(|cause| *cause == StopCause::PrimaryFailed);
                let forced = stopping.forced;
                match (failed, killed) {
                    (None, None) => Outcome::Stopped { cause: first, forced },
                    (Some(failed), Some(killed)) if killed < failed => Outcome::Killed,
                    (Some(_), _) => Outcome::Stopped { cause: StopCause::PrimaryFailed, forced },
                    (None, Some(_)) => Outcome::Killed,
                }
            }
        }
    }

    fn see_outcome(&mut self, outcome: Outcome) {
        self.seen.insert(match outcome {
            Outcome::Stopped { forced: true, .. } => "stopped by force",
            Outcome::Stopped { cause: StopCause::PrimaryFailed, .. } => "stopped by a failed primary",
            Outcome::Stopped { .. } => "stopped",
            Outcome::Killed => "killed by an interrupt",
            Outcome::StartFailed { .. } => "start failed",
            Outcome::Breaker => "breaker",
            Outcome::AllFinished { failed: true } => "finished, all, failed",
            Outcome::AllFinished { failed: false } => "finished, all, well",
        });
    }
}

/// What must not be missing after a step.
impl Shadow {
    fn settle(&mut self, now: Instant) {
        assert_eq!(self.owed_reap, None, "an end is told");
        assert_eq!(self.owed_shutdown, None, "the cluster has to stop");
        let is_last = self.leaves_nobody(0);
        for (worker, known) in &self.workers {
            assert_eq!(known.condemned, None, "worker {worker} has to be killed");
            assert!(known.deadline().is_none_or(|deadline| deadline > now), "worker {worker} is overdue");
            if let (Some(asked), None) = (known.asked, known.killed) {
                assert_eq!(asked.told, Some(asked.last), "worker {worker} has to be told");
                assert!(!is_last || asked.last, "worker {worker} has to be told that nobody stays");
                assert!(asked.deadline <= now + self.settings.grace);
            }
        }
        for (slot, place) in self.slots.iter().enumerate() {
            assert!(place.due.is_none_or(|due| due > now), "slot {slot} has to be filled");
            let alive = self.alive_in(slot);
            let staying = alive.iter().filter(|worker| self.workers[worker].state() != State::Draining);
            let staying = staying.filter(|worker| self.workers[worker].asked.is_none()).count();
            assert!(alive.len() <= 2 && staying <= 1, "slot {slot} is overcrowded");
            let is_cared_for = place.closed || place.due.is_some() || self.newest_in(slot).is_some();
            assert!(!self.is_running() || is_cared_for, "slot {slot} is forgotten");
        }
        assert!(self.all_ready || !self.is_all_ready(), "all are ready");
        let is_over = self.stopping.is_some() || (self.started && self.slots.iter().all(|place| place.closed));
        assert!(self.ended || !is_over || !self.workers.is_empty(), "the cluster has ended");
    }

    fn compare(&self, now: Instant, supervisor: &Supervisor) {
        let deadline = supervisor.next_deadline();
        assert!(deadline.is_none_or(|deadline| deadline > now), "the shell would spin");
        assert_eq!(deadline, self.next_deadline(), "the shell would sleep too long, or wake for nothing");
        let mut status = 0;
        for worker in supervisor.status() {
            let known = &self.workers[&worker.worker.get()];
            assert_eq!((worker.slot, worker.generation, worker.state), (known.slot, 1, known.state()));
            let asked = match known.killed {
                Some(reason) => reason == GraceExpired,
                None => known.asked.is_some(),
            };
            assert_eq!(worker.asked_to_go, asked);
            status += 1;
        }
        assert_eq!(status, self.workers.len(), "nobody is forgotten");
    }

    fn assert_recovered(&mut self) {
        for (slot, place) in self.slots.iter().enumerate().filter(|(_, place)| !place.closed) {
            let alive = self.alive_in(slot);
            assert!(matches!(alive[..], [worker] if self.workers[&worker].is_serving()), "slot {slot}: {alive:?}");
            assert_eq!(place.due, None);
        }
        self.seen.insert("recovered");
    }
}
