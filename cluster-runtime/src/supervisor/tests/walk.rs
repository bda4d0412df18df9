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
const SIGHTS: &[&str] = &[
    "aborted",
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
    "opened again",
    "opened again while its worker goes",
    "pause reset",
    "recovered",
    "recycled",
    "recycling put off",
    "reload abandoned by the stop",
    "reload abandoned, a worker failed",
    "reload complete",
    "reload into an empty seat",
    "reload queued",
    "retired",
    "retired during a reload",
    "scaled up",
    "scaled up during a reload",
    "seat taken over by a successor that starts",
    "served on during the drain delay",
    "start failed",
    "start timed out",
    "stopped",
    "stopped by a failed primary",
    "stopped by force",
    "terminated again",
    "stuck and would not dump",
    "successor is ready",
    "told again that it is the last",
    "became the last",
    "two in a slot",
    "upgraded",
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
/// misbehaviour, a lie about an id, a second start, a stop; a reload, another scale, a fork, stuck, worn out.
const TEMPERS: [[u64; 14]; 8] = [
    [50, 150, 50, 5, 25, 10, 25, 5, 2, 20, 10, 5, 10, 20], // of every kind
    [100, 150, 25, 0, 150, 5, 10, 1, 0, 10, 2, 2, 5, 10],  // leaves all the time
    [25, 15, 300, 50, 5, 10, 5, 1, 0, 5, 2, 2, 2, 5],      // hardly ever comes up
    [100, 200, 150, 5, 1, 25, 5, 1, 0, 5, 2, 2, 5, 5],     // comes up and crashes
    [200, 50, 10, 0, 10, 1, 5, 1, 1, 5, 1, 1, 50, 5],      // hangs
    [25, 100, 50, 10, 50, 10, 25, 5, 50, 10, 5, 5, 5, 10], // is stopped
    [50, 300, 20, 2, 10, 2, 2, 1, 0, 100, 20, 5, 2, 20],   // is reloaded all the time
    [50, 300, 20, 2, 10, 2, 2, 1, 0, 20, 100, 30, 2, 100], // is scaled all the time
];

struct Walk {
    dice: Dice,
    supervisor: Supervisor,
    shadow: Shadow,
    began: Moment,
    now: Moment,
    temper: [u64; 14],
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
            drain_delay: ms(dice.pick(&[0, 0, 1, 5_000])),
            surge: dice.pick(&[1, 1, 2, 5]),
            max_age: dice.pick(&[None, None, Some(ms(100)), Some(ms(60_000))]),
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
        if self.dice.one_in(50) {
            self.upgrade();
        }
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

    /// Everything that the supervisor knows goes through what is written down of it.
    fn upgrade(&mut self) {
        let mut written = Vec::new();
        codec::encode(self.supervisor.memory(), &mut written).expect("it can be written");
        let memory = codec::decode(&written).expect("it can be read");
        self.supervisor = Supervisor::adopt(self.shadow.settings, memory);
        self.shadow.seen.insert("upgraded");
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
            return match self.dice.weigh([300, 30, 10, 10, 1]) {
                0 => Event::Tick,
                1 => self.lie(),
                2 => Event::Reload,
                3 => Event::Fork,
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
            8 => self.any_stop(),
            9 => Event::Reload,
            10 => Event::Scale(usize::try_from(self.dice.below(8)).unwrap()),
            11 => Event::Fork,
            12 => Event::Stuck(id(worker)),
            _ => Event::WornOut(id(worker)),
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
        let stuck = Event::Stuck(id(worker));
        let worn = Event::WornOut(id(worker));
        self.dice.pick(&[
            ready(worker),
            leaving(worker),
            misbehaved(worker),
            exited(worker, status),
            failed,
            stuck,
            worn,
        ])
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
        for _ in 0..40 * self.shadow.wanted {
            let restless = self.shadow.workers.iter().find(|(_, known)| known.state() == State::Starting);
            let is_close = self.shadow.unasked.len() + 2 >= 10 * self.shadow.wanted;
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
        for _ in 0..40 * self.shadow.slots.len() + 40 {
            let next = self.shadow.workers.iter().find_map(|(&worker, known)| match known {
                Known { killed: Some(_), .. } => Some(exited(worker, Signal(SIGKILL))),
                Known { aborting: Some(_), .. } => Some(exited(worker, Signal(SIGABRT))),
                Known { asked: Some(_), .. } => Some(exited(worker, Code(0))),
                Known { ready: None, .. } => Some(ready(worker)),
                Known { .. } => None,
            });
            match (next, self.shadow.next_deadline()) {
                (Some(event), _) => self.step(event),
                // Those that serve may be worn out one day, over and over again.
                (None, _) if self.shadow.is_settled() => break,
                (None, Some(deadline)) => {
                    let due = self.shadow.slots.iter().filter_map(|place| place.due).max();
                    self.now = due.map_or(deadline, |due| due.max(deadline));
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
        for _ in 0..8 * self.shadow.slots.len() + 3 {
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
    unasked: Vec<Moment>,
    /// The others, which nobody is to be blamed for.
    spared: Vec<Moment>,
    started: bool,
    all_ready: bool,
    /// So many slots are to have workers.
    wanted: usize,
    /// Of new slots.
    generation: u64,
    last_generation: u64,
    reload: Option<Reloading>,
    /// Another reload was asked for.
    wants_reload: bool,
    stopping: Option<Stopping>,
    ended: bool,
    /// Actions that the last event demands and that did not come yet.
    owed_reap: Option<(u64, usize, Exit)>,
    owed_shutdown: Option<ShutdownCause>,
    owed_abandon: Option<Abandoned>,
    owed_opens: Vec<usize>,
    seen: BTreeSet<&'static str>,
}

struct Reloading {
    generation: u64,
    waiting: BTreeSet<usize>,
    candidates: BTreeSet<u64>,
}

/// Where a worker stands in its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Holder,
    Successor,
    Predecessor,
}

struct Known {
    slot: usize,
    generation: u64,
    role: Role,
    start_by: Moment,
    ready: Option<Moment>,
    /// It is worn out then, or is already.
    worn_at: Option<Moment>,
    worn: bool,
    asked: Option<Request>,
    /// It is stuck: whether it was aborted already, and when it is killed.
    aborting: Option<(bool, Moment)>,
    /// It has to be killed in this step, for this.
    condemned: Option<ExitReason>,
    killed: Option<ExitReason>,
    /// How long it was ready, once it is not any more.
    served: Option<Duration>,
}

#[derive(Clone, Copy)]
struct Request {
    deadline: Moment,
    told: Option<bool>,
    last: bool,
}

#[derive(Clone)]
struct Place {
    generation: u64,
    was_ready: bool,
    /// Nobody will come any more, because the policy says so.
    closed: bool,
    /// Somebody is to come after the one that goes, whatever the policy says.
    wanted: bool,
    failures: usize,
    /// The next worker is due then.
    due: Option<Moment>,
    ended_well: Option<bool>,
}

struct Stopping {
    cause: ShutdownCause,
    stops: Vec<StopCause>,
    forced: bool,
    /// The workers are asked to go then, if they are not yet.
    drain_at: Option<Moment>,
}

impl Known {
    fn stays(&self) -> bool {
        self.asked.is_none() && self.aborting.is_none() && self.killed.is_none() && self.condemned.is_none()
    }

    fn is_serving(&self) -> bool {
        self.ready.is_some() && self.stays()
    }

    /// It goes because it was asked to.
    fn leaves(&self) -> bool {
        self.asked.is_some() && self.killed.is_none_or(|why| why == GraceExpired) && self.condemned.is_none()
    }

    fn stop_serving(&mut self, now: Moment) {
        if self.is_serving() {
            self.served = self.ready.map(|ready| now - ready);
        }
    }

    fn ask(&mut self, now: Moment, grace: Duration, last: bool) {
        if let Some((_, deadline)) = &mut self.aborting {
            *deadline = (*deadline).min(now + grace);
        } else if self.killed.is_none() && self.condemned.is_none() {
            self.stop_serving(now);
            let asked = self.asked.get_or_insert(Request { deadline: now + grace, told: None, last });
            asked.last |= last;
        }
    }

    fn condemn(&mut self, now: Moment, why: ExitReason) {
        if self.killed.is_none() {
            self.stop_serving(now);
            self.condemned = Some(if self.aborting.is_some() { Stuck } else { why });
        }
    }

    fn deadline(&self) -> Option<Moment> {
        if self.killed.is_some() {
            return None;
        }
        match (self.aborting, self.asked, self.ready) {
            (Some((_, deadline)), _, _) => Some(deadline),
            (None, Some(asked), _) => Some(asked.deadline),
            (None, None, Some(_)) => self.worn_at.filter(|_| !self.worn),
            (None, None, None) => Some(self.start_by),
        }
    }

    fn reason(&self, status: ExitStatus, restart: Restart) -> ExitReason {
        if let Some(why) = self.killed {
            return why;
        }
        if self.aborting.is_some() {
            return Stuck;
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
            (None, _, _) if self.aborting.is_some() => State::Killed,
            (None, Some(_), _) => State::Draining,
            (None, None, Some(_)) => State::Ready,
            (None, None, None) => State::Starting,
        }
    }
}

impl Place {
    fn new(generation: u64) -> Self {
        Self { generation, was_ready: false, closed: false, wanted: false, failures: 0, due: None, ended_well: None }
    }
}

impl Shadow {
    fn new(settings: Settings) -> Self {
        Self {
            settings,
            workers: BTreeMap::new(),
            last_id: 0,
            slots: vec![Place::new(1); settings.slots],
            wanted: settings.slots,
            generation: 1,
            last_generation: 1,
            reload: None,
            wants_reload: false,
            owed_abandon: None,
            owed_opens: Vec::new(),
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

    fn in_role(&self, slot: usize, role: Role) -> Option<u64> {
        let mut all = self.workers.iter().filter(|(_, known)| known.slot == slot && known.role == role);
        let found = all.next().map(|(&worker, _)| worker);
        assert!(all.next().is_none(), "slot {slot} has two of one kind");
        found
    }

    fn is_alone(&self, slot: usize) -> bool {
        self.in_role(slot, Role::Successor).is_none() && self.in_role(slot, Role::Predecessor).is_none()
    }

    /// The policy for a slot now.
    fn policy(&self, slot: usize) -> Restart {
        if self.is_running() && slot < self.wanted { self.settings.restart } else { Restart::Never }
    }

    /// Whether somebody serves in the slot, or will.
    fn will_serve(&self, slot: usize, leaver: u64) -> bool {
        let place = &self.slots[slot];
        let is_replaced = place.wanted || self.policy(slot) != Restart::Never;
        let mut all = self.workers.iter().filter(|(_, known)| known.slot == slot);
        place.due.is_some()
            || (self.in_role(slot, Role::Holder).is_some() && is_replaced)
            || all.any(|(id, known)| *id != leaver && known.stays())
    }

    fn next_deadline(&self) -> Option<Moment> {
        let due = self.slots.iter().filter_map(|place| place.due);
        let drain = self.stopping.iter().filter_map(|stopping| stopping.drain_at);
        if self.ended {
            return None;
        }
        self.workers.values().filter_map(Known::deadline).chain(due).chain(drain).min()
    }

    /// Every slot that is to have a worker has one that serves, and nothing is under way.
    fn is_settled(&self) -> bool {
        let mut slots = self.slots.iter().enumerate().filter(|(_, place)| !place.closed);
        let serves = |slot| matches!(self.alive_in(slot)[..], [worker] if self.workers[&worker].is_serving());
        slots.all(|(slot, place)| serves(slot) && place.due.is_none()) && self.reload.is_none() && !self.wants_reload
    }
}

/// What an event means.
impl Shadow {
    fn hear(&mut self, now: Moment, event: Event) {
        match event {
            Event::Start if !self.started && self.stopping.is_none() => {
                self.started = true;
                self.slots.iter_mut().for_each(|place| place.due = Some(now));
            }
            Event::Ready(worker) => self.hear_ready(now, worker.get()),
            Event::Leaving(worker) => self.hear_leaving(now, worker.get()),
            Event::Misbehaved(worker) => {
                if let Some(known) = self.workers.get_mut(&worker.get()) {
                    known.condemn(now, Misbehaved);
                }
            }
            Event::Stuck(worker) => {
                if let Some(known) = self.workers.get_mut(&worker.get()).filter(|known| known.is_serving()) {
                    known.stop_serving(now);
                    known.aborting = Some((false, now + ms(10_000)));
                }
            }
            Event::WornOut(worker) => {
                if let Some(known) = self.workers.get_mut(&worker.get()).filter(|known| known.is_serving()) {
                    known.worn = true;
                }
            }
            Event::Reload if self.is_running() => {
                if self.reload.is_some() {
                    self.seen.insert("reload queued");
                }
                self.wants_reload = true;
            }
            Event::Scale(count) if self.is_running() => self.hear_scale(now, count),
            Event::Fork if self.is_running() => match (0..self.wanted).find(|slot| self.slots[*slot].closed) {
                Some(slot) => self.open(now, slot),
                None => self.hear_scale(now, self.wanted + 1),
            },
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
            Event::Reload | Event::Scale(_) | Event::Fork => {}
        }
        self.hear_time(now);
    }

    fn hear_time(&mut self, now: Moment) {
        for known in self.workers.values_mut().filter(|known| known.is_serving()) {
            known.worn |= known.worn_at.is_some_and(|time| time <= now);
        }
        let grace = self.settings.grace;
        if let Some(stopping) = &mut self.stopping
            && stopping.drain_at.take_if(|time| *time <= now).is_some()
        {
            self.workers.values_mut().for_each(|known| known.ask(now, grace, true));
        }
    }

    fn hear_scale(&mut self, now: Moment, count: usize) {
        let before = std::mem::replace(&mut self.wanted, count.max(1));
        for slot in self.wanted..before {
            self.seen.insert(if self.reload.is_some() { "retired during a reload" } else { "retired" });
            let closed = self.in_role(slot, Role::Holder).is_none();
            self.slots[slot] = Place { due: None, wanted: false, closed, ..self.slots[slot].clone() };
            let grace = self.settings.grace;
            for (worker, known) in self.workers.iter_mut().filter(|(_, known)| known.slot == slot) {
                known.ask(now, grace, false);
                if let Some(reload) = &mut self.reload {
                    reload.candidates.remove(worker);
                }
            }
            if let Some(reload) = &mut self.reload {
                reload.waiting.remove(&slot);
            }
        }
        for slot in before..self.wanted {
            self.seen.insert(if self.reload.is_some() { "scaled up during a reload" } else { "scaled up" });
            self.open(now, slot);
        }
    }

    fn open(&mut self, now: Moment, slot: usize) {
        self.owed_opens.push(slot);
        if slot == self.slots.len() {
            self.slots.push(Place::new(self.generation));
        } else {
            self.seen.insert("opened again");
        }
        if !self.all_ready {
            self.slots[slot].was_ready = false;
        }
        self.slots[slot].closed = false;
        if self.in_role(slot, Role::Holder).is_some() {
            self.seen.insert("opened again while its worker goes");
            self.slots[slot].wanted = true;
            self.let_go(now, slot);
        } else {
            self.slots[slot].due = Some(now);
        }
        if let Some(reload) = &mut self.reload {
            reload.waiting.insert(slot);
        }
    }

    fn hear_ready(&mut self, now: Moment, worker: u64) {
        let max_age = self.settings.max_age;
        let Some(known) = self.workers.get_mut(&worker) else { return };
        if known.ready.is_some() || !known.stays() {
            return;
        }
        known.ready = Some(now);
        known.worn_at = max_age.map(|age| now + age * share_of_limit(id(worker)) / 1000);
        let (slot, role, generation) = (known.slot, known.role, known.generation);
        self.slots[slot].was_ready = true;
        if let Some(reload) = &mut self.reload {
            reload.candidates.remove(&worker);
        }
        if role == Role::Successor {
            self.seen.insert("successor is ready");
            let old = self.in_role(slot, Role::Holder).expect("somebody is succeeded");
            self.swap(old, worker);
            self.workers.get_mut(&old).unwrap().ask(now, self.settings.grace, false);
        }
        if self.workers[&worker].role == Role::Holder {
            self.slots[slot].generation = generation;
        }
    }

    fn swap(&mut self, old: u64, new: u64) {
        self.workers.get_mut(&old).unwrap().role = Role::Predecessor;
        self.workers.get_mut(&new).unwrap().role = Role::Holder;
    }

    fn hear_leaving(&mut self, now: Moment, worker: u64) {
        let (grace, last) = (self.settings.grace, self.leaves_nobody(worker));
        let Some(known) = self.workers.get_mut(&worker) else { return };
        if known.killed.is_some() || known.asked.is_some() {
            return;
        }
        known.ask(now, grace, last);
        let slot = known.slot;
        if known.ready.is_none() {
            self.seen.insert("left while starting");
        }
        if self.in_role(slot, Role::Predecessor).is_some() {
            self.seen.insert("leaver in its seat");
        }
        self.let_go(now, slot);
    }

    fn leaves_nobody(&self, leaver: u64) -> bool {
        !(0..self.slots.len()).any(|slot| self.will_serve(slot, leaver))
    }

    fn hear_end(&mut self, now: Moment, worker: u64, exit: Exit) {
        self.workers.get_mut(&worker).unwrap().stop_serving(now);
        let known = self.workers.remove(&worker).unwrap();
        self.owed_reap = Some((worker, known.slot, exit));
        self.see_end(&known, exit.reason);
        let place = &mut self.slots[known.slot];
        place.ended_well = Some(exit.status == Code(0) && matches!(exit.reason, Finished | Asked));
        if let Some(stopping) = &mut self.stopping {
            stopping.forced |= exit.reason == GraceExpired;
        }
        if known.role == Role::Holder {
            self.holder_ended(now, worker, &known, exit);
        }
        if self.owed_shutdown.is_some() && self.stopping.is_none() {
            return self.begin_stop(now);
        }
        let is_candidate = self.reload.as_ref().is_some_and(|reload| reload.candidates.contains(&worker));
        if is_candidate {
            self.abandon(now, Abandoned::Failed { worker: id(worker), exit });
        } else if known.role == Role::Successor
            && let Some(holder) = self.in_role(known.slot, Role::Holder)
            && let Some(holder) = self.workers.get_mut(&holder)
            && holder.is_serving()
            && holder.worn
        {
            self.seen.insert("recycling put off");
            (holder.worn, holder.worn_at) = (false, Some(now + ms(30_000)));
        }
        self.let_go(now, known.slot);
    }

    fn abandon(&mut self, now: Moment, why: Abandoned) {
        let Some(Reloading { candidates, .. }) = self.reload.take() else { return };
        self.owed_abandon = Some(why);
        if why == Abandoned::Stopping {
            return;
        }
        for worker in candidates {
            let Some(known) = self.workers.get_mut(&worker).filter(|known| known.role == Role::Successor) else {
                continue;
            };
            known.ask(now, self.settings.grace, false);
            known.role = Role::Predecessor;
        }
    }

    /// The seat is empty.
    fn holder_ended(&mut self, now: Moment, worker: u64, known: &Known, exit: Exit) {
        let asked = matches!(exit.reason, Asked | GraceExpired);
        let failed_start = matches!(exit.reason, FailedToStart | StartTimedOut | Misbehaved);
        if self.is_running() {
            let place = &self.slots[known.slot];
            let is_awaited = !self.all_ready && !place.was_ready && known.slot < self.wanted;
            if is_awaited && failed_start {
                self.owed_shutdown = Some(ShutdownCause::StartFailed { worker: id(worker), exit });
            } else if !asked && self.replaces(known.slot, exit.reason) {
                self.count_against_breaker(now, known);
            }
        }
        if self.owed_shutdown.is_some() {
            return;
        }
        if let Some(successor) = self.in_role(known.slot, Role::Successor) {
            let next = self.workers.get_mut(&successor).unwrap();
            if next.stays() {
                next.role = Role::Holder;
                self.slots[known.slot].wanted = false;
                self.seen.insert("seat taken over by a successor that starts");
                return;
            }
            next.role = Role::Predecessor;
        }
        if self.replaces(known.slot, exit.reason) || self.slots[known.slot].wanted {
            self.pay(now, known.slot, known.ready.is_some(), known.served, asked);
        } else {
            self.slots[known.slot].closed = true;
        }
    }

    fn replaces(&self, slot: usize, reason: ExitReason) -> bool {
        match (self.policy(slot), reason) {
            (Restart::Never, _) | (Restart::OnFailure, Finished) => false,
            (Restart::Always | Restart::OnFailure, _) => true,
        }
    }

    fn count_against_breaker(&mut self, now: Moment, known: &Known) {
        let limit = 10 * self.wanted;
        let recent = |ends: &[Moment]| ends.iter().filter(|&&end| now - end <= ms(900_000)).count();
        let has_served_long = known.served.is_some_and(|served| served >= ms(10_000));
        if self.serves() || has_served_long {
            self.spared.push(now);
        } else {
            self.unasked.push(now);
        }
        if recent(&self.unasked) > limit && !self.serves() && !has_served_long {
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

    /// If the one in the seat is on its way out, whoever is there already takes it, or a successor is due if there is room.
    fn let_go(&mut self, now: Moment, slot: usize) {
        let Some(holder) = self.in_role(slot, Role::Holder) else { return };
        if !self.workers[&holder].leaves() {
            return;
        }
        if let Some(successor) = self.in_role(slot, Role::Successor) {
            if self.workers[&successor].stays() {
                self.swap(holder, successor);
            }
        } else if self.is_alone(slot) && (self.replaces(slot, Asked) || self.slots[slot].wanted) {
            let known = self.workers.get_mut(&holder).unwrap();
            known.role = Role::Predecessor;
            let (ready, served) = (known.ready.is_some(), known.served);
            self.pay(now, slot, ready, served, true);
        }
    }

    fn pay(&mut self, now: Moment, slot: usize, ready: bool, served: Option<Duration>, asked: bool) {
        const PAUSES: [u64; 11] = [0, 100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000];
        let place = &mut self.slots[slot];
        place.wanted = false;
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

    fn hear_stop(&mut self, now: Moment, cause: StopCause) {
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
            self.workers.values_mut().for_each(|known| known.condemn(now, GraceExpired));
        }
    }

    fn begin_stop(&mut self, now: Moment) {
        let cause = self.owed_shutdown.expect("a cause");
        let stops = match cause {
            ShutdownCause::Stop(cause) => vec![cause],
            ShutdownCause::StartFailed { .. } | ShutdownCause::Breaker => Vec::new(),
        };
        let delay = match cause {
            ShutdownCause::Stop(StopCause::Terminate) if self.serves() => self.settings.drain_delay,
            ShutdownCause::Stop(_) | ShutdownCause::StartFailed { .. } | ShutdownCause::Breaker => Duration::ZERO,
        };
        if !delay.is_zero() {
            self.seen.insert("served on during the drain delay");
        }
        self.stopping = Some(Stopping { cause, stops, forced: false, drain_at: Some(now + delay) });
        // The end that caused the stop is a part of it already.
        if let (Some(stopping), Some((_, _, exit))) = (&mut self.stopping, self.owed_reap) {
            stopping.forced |= exit.reason == GraceExpired;
        }
        for place in &mut self.slots {
            (place.due, place.wanted) = (None, false);
        }
        // A slot whose seat has become empty by that end is left to whoever starts there.
        for slot in 0..self.slots.len() {
            if self.in_role(slot, Role::Holder).is_none()
                && let Some(successor) = self.in_role(slot, Role::Successor)
            {
                let next = self.workers.get_mut(&successor).unwrap();
                next.role = if next.stays() { Role::Holder } else { Role::Predecessor };
            }
        }
        self.wants_reload = false;
        self.abandon(now, Abandoned::Stopping);
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
            Stuck if known.killed.is_some() => "stuck and would not dump",
            Stuck => "aborted",
        });
    }
}

/// Which actions may be.
impl Shadow {
    fn witness(&mut self, now: Moment, action: Action) {
        assert!(!self.ended, "nothing comes after the end");
        match action {
            Spawn { worker, slot, generation } => self.witness_spawn(now, worker.get(), slot, generation),
            Drain { worker, grace, last } => self.witness_drain(now, worker.get(), grace, last),
            Kill(worker) => self.witness_kill(now, worker.get()),
            Action::Abort(worker) => {
                let known = self.workers.get_mut(&worker.get()).expect("aborts only who is there");
                let (told, _) = known.aborting.as_mut().expect("only who is stuck");
                assert!(!std::mem::replace(told, true) && known.killed.is_none(), "aborted once");
            }
            Action::Open { slot } => {
                assert!(!self.owed_opens.is_empty(), "nobody has asked for it");
                assert_eq!(self.owed_opens.remove(0), slot);
            }
            Action::Reloading { generation } => self.witness_reload(generation),
            Action::Reloaded { generation, outcome } => self.witness_reload_end(generation, outcome),
            Reaped { worker, slot, generation, exit, next } => {
                assert_eq!(self.owed_reap.take(), Some((worker.get(), slot, exit)), "reaped once, for what happened");
                assert!(generation <= self.last_generation);
                assert_eq!(next, self.next(now, slot));
            }
            AllReady => {
                assert!(!self.all_ready, "told once");
                assert!(self.is_all_ready());
                self.all_ready = true;
                self.seen.insert("all ready");
            }
            Shutdown { cause, delay } => {
                assert_eq!(self.owed_shutdown.take(), Some(cause));
                let left = self.stopping.as_ref().and_then(|stopping| stopping.drain_at);
                assert_eq!(left.map_or(Duration::ZERO, |time| time - now), delay);
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

    fn witness_reload(&mut self, generation: u64) {
        assert!(self.is_running() && self.all_ready && self.wants_reload && self.reload.is_none());
        assert_eq!(generation, self.last_generation + 1, "generations are used once");
        self.wants_reload = false;
        self.last_generation = generation;
        self.reload = Some(Reloading { generation, waiting: (0..self.wanted).collect(), candidates: BTreeSet::new() });
    }

    fn witness_reload_end(&mut self, generation: u64, outcome: Result<(), Abandoned>) {
        assert!(generation <= self.last_generation);
        match outcome {
            Ok(()) => {
                self.forget_closed_slots();
                let reload = self.reload.take().expect("a reload that runs");
                assert_eq!(reload.generation, generation);
                assert!(reload.waiting.is_empty() && reload.candidates.is_empty(), "all have had their turn");
                self.generation = generation;
                self.seen.insert("reload complete");
            }
            Err(why) => {
                assert_eq!(self.owed_abandon.take(), Some(why));
                self.seen.insert(match why {
                    Abandoned::Stopping => "reload abandoned by the stop",
                    Abandoned::Failed { .. } => "reload abandoned, a worker failed",
                });
            }
        }
    }

    /// Where nobody will serve, nobody is to be succeeded.
    fn forget_closed_slots(&mut self) {
        let kept = |slot: &usize| self.will_serve(*slot, 0);
        let waiting = self.reload.iter().flat_map(|reload| reload.waiting.iter().copied()).filter(kept).collect();
        if let Some(reload) = &mut self.reload {
            reload.waiting = waiting;
        }
    }

    fn witness_spawn(&mut self, now: Moment, worker: u64, slot: usize, generation: u64) {
        assert!(self.is_running(), "no spawn after the stop began");
        assert_eq!(worker, self.last_id + 1, "ids are used once");
        assert!(self.alive_in(slot).len() < 2, "at most two processes in a slot");
        assert!(slot < self.wanted && !self.slots[slot].closed, "the policy wants nobody here");
        let is_due = self.slots[slot].due.is_some_and(|due| due <= now);
        let may_reload = self.is_alone(slot)
            && self.reload.as_ref().is_some_and(|reload| {
                let is_next = reload.waiting.contains(&slot) && reload.candidates.len() < self.settings.surge;
                is_next && reload.generation == generation
            });
        let role = if is_due && generation == self.slots[slot].generation && !may_reload {
            self.slots[slot].due = None;
            Role::Holder
        } else if self.reload.is_some() {
            self.witness_candidate(worker, slot, generation)
        } else {
            self.witness_recycling(slot, generation)
        };
        if !self.alive_in(slot).is_empty() {
            self.seen.insert("two in a slot");
        }
        let start_by = now + self.settings.start_timeout;
        let known = Known {
            slot,
            generation,
            role,
            start_by,
            ready: None,
            worn_at: None,
            worn: false,
            asked: None,
            aborting: None,
            condemned: None,
            killed: None,
            served: None,
        };
        self.workers.insert(worker, known);
        self.last_id = worker;
    }

    fn witness_candidate(&mut self, worker: u64, slot: usize, generation: u64) -> Role {
        assert!(self.is_alone(slot), "room for it");
        let is_unserved = self.slots[slot].due.take().is_some();
        let reload = self.reload.as_mut().unwrap();
        assert_eq!(generation, reload.generation);
        assert!(reload.waiting.remove(&slot), "each slot once");
        assert!(reload.candidates.len() < self.settings.surge, "no more than the surge");
        reload.candidates.insert(worker);
        if is_unserved {
            self.seen.insert("reload into an empty seat");
            return Role::Holder;
        }
        assert!(self.in_role(slot, Role::Holder).is_some());
        Role::Successor
    }

    fn witness_recycling(&mut self, slot: usize, generation: u64) -> Role {
        assert!(self.all_ready && !self.wants_reload, "a reload comes first");
        assert!((0..self.slots.len()).all(|slot| self.is_alone(slot)), "one at a time");
        let holder = self.in_role(slot, Role::Holder).expect("somebody to be succeeded");
        assert!(
            self.workers[&holder].is_serving() && self.workers[&holder].worn,
            "nobody is succeeded without a reason"
        );
        assert_eq!(generation, self.slots[slot].generation);
        self.seen.insert("recycled");
        Role::Successor
    }

    fn witness_drain(&mut self, now: Moment, worker: u64, grace: Duration, last: bool) {
        let is_alone = self.leaves_nobody(0);
        let known = self.workers.get_mut(&worker).expect("drains only who is there");
        assert!(known.killed.is_none(), "no request after a kill");
        let asked = known.asked.as_mut().expect("a worker is drained only in a stop or if it leaves");
        if is_alone && last && !asked.last {
            asked.last = true;
            self.seen.insert("became the last");
        }
        // That it is the last may become clear later in the same step.
        assert!(asked.last || !last);
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

    fn witness_kill(&mut self, now: Moment, worker: u64) {
        let known = self.workers.get_mut(&worker).expect("kills only who is there");
        assert!(known.killed.is_none(), "killed once");
        let reason = match (known.condemned.take(), known.asked) {
            (Some(reason), _) => reason,
            (None, Some(asked)) if asked.deadline <= now => GraceExpired,
            (None, _) if known.aborting.is_some_and(|(told, deadline)| told && deadline <= now) => Stuck,
            (None, None) if known.ready.is_none() && known.start_by <= now => StartTimedOut,
            (None, _) => panic!("worker {worker} is killed without a reason"),
        };
        known.killed = Some(reason);
    }

    fn next(&self, now: Moment, slot: usize) -> Next {
        let place = &self.slots[slot];
        match place.due {
            _ if self.stopping.is_some() => Next::Stopping,
            Some(due) => Next::Restart { after: due.since(now) },
            None if place.closed => Next::Empty,
            None => Next::Taken,
        }
    }

    fn is_all_ready(&self) -> bool {
        self.is_running()
            && self.serves()
            && self.slots[..self.wanted].iter().all(|place| place.was_ready || place.closed)
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
    fn settle(&mut self, now: Moment) {
        assert_eq!(self.owed_reap, None, "an end is told");
        assert_eq!(self.owed_shutdown, None, "the cluster has to stop");
        assert_eq!(self.owed_abandon, None, "the reload has to be told to have ended");
        assert_eq!(self.owed_opens, Vec::<usize>::new(), "a slot has to be opened");
        self.settle_renewal();
        let is_last = self.leaves_nobody(0);
        for (worker, known) in &self.workers {
            assert_eq!(known.condemned, None, "worker {worker} has to be killed");
            assert!(known.deadline().is_none_or(|deadline| deadline > now), "worker {worker} is overdue");
            assert!(
                known.aborting.is_none_or(|(told, _)| told || known.killed.is_some()),
                "worker {worker} has to be aborted"
            );
            if let (Some(asked), None) = (known.asked, known.killed) {
                assert_eq!(asked.told, Some(asked.last), "worker {worker} has to be told");
                assert!(!is_last || asked.last, "worker {worker} has to be told that nobody stays");
                assert!(asked.deadline <= now + self.settings.grace);
            }
        }
        for (slot, place) in self.slots.iter().enumerate() {
            assert!(place.due.is_none_or(|due| due > now), "slot {slot} has to be filled");
            let alive = self.alive_in(slot);
            let staying = alive.iter().filter(|worker| self.workers[*worker].stays()).count();
            let is_succeeded = self.in_role(slot, Role::Successor).is_some();
            assert!(alive.len() <= 2 && staying <= 1 + usize::from(is_succeeded), "slot {slot} is overcrowded");
            let is_cared_for = place.closed || place.due.is_some() || self.in_role(slot, Role::Holder).is_some();
            assert!(!self.is_running() || is_cared_for, "slot {slot} is forgotten");
        }
        assert!(self.all_ready || !self.is_all_ready(), "all are ready");
        let is_over = self.stopping.is_some() || (self.started && self.slots.iter().all(|place| place.closed));
        assert!(self.ended || !is_over || !self.workers.is_empty(), "the cluster has ended");
    }

    /// Nobody waits for a successor that could have one.
    fn settle_renewal(&mut self) {
        if !self.is_running() || !self.all_ready {
            return;
        }
        assert!(self.reload.is_some() || !self.wants_reload, "a reload has to begin");
        self.forget_closed_slots();
        if let Some(reload) = &self.reload {
            let may_spawn = reload.candidates.len() < self.settings.surge;
            let has_room = reload.waiting.iter().find(|slot| self.is_alone(**slot));
            assert!(!may_spawn || has_room.is_none(), "the reload sleeps before slot {has_room:?}");
            assert!(!reload.waiting.is_empty() || !reload.candidates.is_empty(), "the reload is complete");
            assert!(reload.candidates.iter().all(|worker| self.workers.contains_key(worker)), "a candidate is gone");
        } else if (0..self.slots.len()).all(|slot| self.is_alone(slot)) {
            let worn = self.workers.iter().find(|(_, known)| known.is_serving() && known.worn);
            assert!(worn.is_none(), "worker {:?} has to be replaced", worn.map(|(worker, _)| worker));
        }
    }

    fn compare(&self, now: Moment, supervisor: &Supervisor) {
        let deadline = supervisor.next_deadline();
        assert!(deadline.is_none_or(|deadline| deadline > now), "the shell would spin");
        assert_eq!(deadline, self.next_deadline(), "the shell would sleep too long, or wake for nothing");
        let mut status = 0;
        for worker in supervisor.status() {
            let known = &self.workers[&worker.worker.get()];
            assert_eq!((worker.slot, worker.generation, worker.state), (known.slot, known.generation, known.state()));
            let asked = match known.killed {
                Some(reason) => reason == GraceExpired,
                None => known.asked.is_some(),
            };
            assert_eq!(worker.asked_to_go, asked);
            status += 1;
        }
        assert_eq!(status, self.workers.len(), "nobody is forgotten");
        if !self.ended {
            assert_eq!(supervisor.wanted(), self.wanted);
        }
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
