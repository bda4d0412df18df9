//! Situations by name, each an exact sequence of actions, in virtual time. The random walk over all of them is in `walk`.

mod walk;

use std::time::Duration;

use super::{
    Abandoned,
    Action::{self, AllReady, Drain, Kill, Reaped, Shutdown, Spawn},
    Event, Next, Outcome, Restart, Settings, ShutdownCause, State, StopCause, Supervisor, share_of_limit,
};
use crate::{
    Exit,
    ExitReason::{self, Asked, Crashed, FailedToStart, Finished, GraceExpired, Misbehaved, StartTimedOut, Stuck},
    ExitStatus::{self, Code, Signal},
    WorkerId,
    ipc::codec,
    moment::Moment,
};

/// What most situations leave as it is.
const PLAIN: Settings = Settings {
    slots: 1,
    restart: Restart::Always,
    start_timeout: ms(START_TIMEOUT),
    grace: ms(GRACE),
    drain_delay: Duration::ZERO,
    surge: 1,
    max_age: None,
};
const START_TIMEOUT: u64 = 5_000;
const GRACE: u64 = 3_000;
const SIGINT: i32 = 2;
const SIGABRT: i32 = 6;
const SIGKILL: i32 = 9;
const SIGSEGV: i32 = 11;
const SIGTERM: i32 = 15;

/// A supervisor and its clock.
struct Play {
    supervisor: Supervisor,
    now: Moment,
}

impl Play {
    fn with(settings: Settings) -> Self {
        Self { supervisor: Supervisor::new(settings), now: origin() }
    }

    fn new(slots: usize, restart: Restart) -> Self {
        Self::with(Settings { slots, restart, start_timeout: ms(START_TIMEOUT), grace: ms(GRACE), ..PLAIN })
    }

    /// Workers 1 to `slots` are in their slots and ready.
    fn serving(slots: u64, restart: Restart) -> Self {
        let mut play = Self::new(usize::try_from(slots).unwrap(), restart);
        play.step(Event::Start);
        for worker in 1..=slots {
            play.step(ready(worker));
        }
        play
    }

    #[track_caller]
    fn step(&mut self, event: Event) -> Vec<Action> {
        let mut actions = Vec::new();
        self.supervisor.step(self.now, event, &mut actions);
        let deadline = self.supervisor.next_deadline();
        assert!(deadline.is_none_or(|deadline| deadline > self.now), "the shell would spin");
        actions
    }

    #[track_caller]
    fn after(&mut self, millis: u64, event: Event) -> Vec<Action> {
        self.now += ms(millis);
        self.step(event)
    }

    /// Lets time pass until the supervisor wants to be called, and tells how much that was.
    #[track_caller]
    fn wait(&mut self) -> (Duration, Vec<Action>) {
        let deadline = self.supervisor.next_deadline().expect("nothing to wait for");
        let waited = deadline - self.now;
        self.now = deadline;
        (waited, self.step(Event::Tick))
    }

    fn states(&self) -> Vec<(u64, usize, State)> {
        self.supervisor.status().map(|status| (status.worker.get(), status.slot, status.state)).collect()
    }
}

const fn origin() -> Moment {
    Moment::from_nanos(1_000_000_000_000_000)
}

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

const fn id(number: u64) -> WorkerId {
    WorkerId::new(number)
}

const fn ready(worker: u64) -> Event {
    Event::Ready(id(worker))
}

const fn leaving(worker: u64) -> Event {
    Event::Leaving(id(worker))
}

const fn misbehaved(worker: u64) -> Event {
    Event::Misbehaved(id(worker))
}

const fn exited(worker: u64, status: ExitStatus) -> Event {
    Event::Exited(id(worker), status)
}

const fn spawn(worker: u64, slot: usize) -> Action {
    Spawn { worker: id(worker), slot, generation: 1 }
}

const fn drain(worker: u64, grace: u64) -> Action {
    Drain { worker: id(worker), grace: ms(grace), last: false }
}

const fn drain_last(worker: u64, grace: u64) -> Action {
    Drain { worker: id(worker), grace: ms(grace), last: true }
}

const fn kill(worker: u64) -> Action {
    Kill(id(worker))
}

const fn reaped(worker: u64, slot: usize, status: ExitStatus, reason: ExitReason, next: Next) -> Action {
    Reaped { worker: id(worker), slot, generation: 1, exit: Exit { status, reason }, next }
}

const fn restart_after(millis: u64) -> Next {
    Next::Restart { after: ms(millis) }
}

const fn stop(cause: StopCause) -> Event {
    Event::Stop(cause)
}

const fn stopping(cause: ShutdownCause) -> Action {
    Shutdown { cause, delay: Duration::ZERO }
}

const fn shutdown(cause: StopCause) -> Action {
    stopping(ShutdownCause::Stop(cause))
}

const fn end(outcome: Outcome) -> Action {
    Action::Exit(outcome)
}

const fn stopped(cause: StopCause, forced: bool) -> Action {
    end(Outcome::Stopped { cause, forced })
}

const NOTHING: [Action; 0] = [];

/// Workers 21 and 22 start in the two slots, and one more end trips the breaker.
fn on_the_brink() -> Play {
    let mut play = Play::serving(2, Restart::Always);
    // So that none is ready when worker 1 ends.
    play.step(misbehaved(2));
    for pair in 0..10 {
        for worker in [2 * pair + 1, 2 * pair + 2] {
            let gone = play.step(exited(worker, Code(1)));
            assert!(matches!(gone[0], Reaped { next: Next::Restart { .. }, .. }), "{gone:?}");
        }
        if play.supervisor.status().count() == 0 {
            play.wait();
        }
    }
    assert_eq!(play.states(), [(21, 0, State::Starting), (22, 1, State::Starting)]);
    play
}

mod start {
    use super::*;

    #[test]
    fn every_slot_gets_a_worker_and_ids_count_from_one() {
        let mut play = Play::new(3, Restart::Always);
        assert_eq!(play.step(Event::Start), [spawn(1, 0), spawn(2, 1), spawn(3, 2)]);
        assert_eq!(play.step(Event::Start), NOTHING, "a second start is none");
    }

    #[test]
    fn all_ready_is_told_once_when_every_slot_has_been_ready() {
        let mut play = Play::new(2, Restart::Always);
        play.step(Event::Start);
        assert_eq!(play.step(ready(2)), NOTHING);
        assert_eq!(play.step(ready(1)), [AllReady]);
        play.step(exited(1, Code(1)));
        assert_eq!(play.step(ready(3)), NOTHING);
    }

    #[test]
    fn a_slot_that_was_ready_counts_for_all_ready_even_while_it_is_replaced() {
        let mut play = Play::new(2, Restart::Always);
        play.step(Event::Start);
        play.step(ready(1));
        assert_eq!(
            play.step(exited(1, Code(1))),
            [reaped(1, 0, Code(1), Crashed, restart_after(0)), spawn(3, 0)],
            "the slot was ready before: this is a crash, not a failed first start"
        );
        assert_eq!(play.step(ready(2)), [AllReady]);
    }

    #[test]
    fn a_slot_that_finished_is_not_waited_for_by_all_ready() {
        let mut play = Play::new(2, Restart::OnFailure);
        play.step(Event::Start);
        play.step(ready(1));
        assert_eq!(play.step(exited(2, Code(0))), [reaped(2, 1, Code(0), Finished, Next::Empty), AllReady]);
    }

    /// Worker 2 of 2 fails in one way or another; worker 1 is ready.
    fn failed_start(event: Event, before: &[Action], status: ExitStatus, reason: ExitReason) {
        let mut play = Play::new(2, Restart::Always);
        play.step(Event::Start);
        play.step(ready(1));
        let last_words = match event {
            Event::Tick => {
                assert_eq!(play.wait(), (ms(START_TIMEOUT), before.to_vec()));
                exited(2, status)
            }
            Event::Misbehaved(_) => {
                assert_eq!(play.step(event), before);
                exited(2, status)
            }
            event => event,
        };
        let exit = Exit { status, reason };
        let cause = ShutdownCause::StartFailed { worker: id(2), exit };
        assert_eq!(
            play.step(last_words),
            [reaped(2, 1, status, reason, Next::Stopping), stopping(cause), drain_last(1, GRACE)]
        );
        assert_eq!(
            play.step(exited(1, Code(0))),
            [
                reaped(1, 0, Code(0), Asked, Next::Stopping),
                end(Outcome::StartFailed { worker: id(2), exit: Exit { status, reason } })
            ]
        );
    }

    #[test]
    fn an_exit_before_ready_at_first_start_stops_the_cluster() {
        failed_start(exited(2, Code(1)), &[], Code(1), FailedToStart);
        failed_start(exited(2, Signal(SIGSEGV)), &[], Signal(SIGSEGV), FailedToStart);
    }

    #[test]
    fn code_zero_before_ready_is_a_failure_of_a_server() {
        failed_start(exited(2, Code(0)), &[], Code(0), FailedToStart);
    }

    #[test]
    fn a_failed_spawn_at_first_start_stops_the_cluster() {
        failed_start(Event::SpawnFailed(id(2)), &[], Code(127), FailedToStart);
    }

    #[test]
    fn a_start_timeout_at_first_start_stops_the_cluster() {
        failed_start(Event::Tick, &[kill(2)], Signal(SIGKILL), StartTimedOut);
    }

    #[test]
    fn misbehaviour_before_ready_at_first_start_stops_the_cluster() {
        failed_start(misbehaved(2), &[kill(2)], Signal(SIGKILL), Misbehaved);
    }

    #[test]
    fn ready_at_the_very_deadline_is_in_time() {
        let mut play = Play::new(1, Restart::Always);
        play.step(Event::Start);
        assert_eq!(play.after(START_TIMEOUT, ready(1)), [AllReady]);
    }

    #[test]
    fn ready_after_the_start_timeout_does_not_revive() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(exited(1, Code(1)));
        assert_eq!(play.wait(), (ms(START_TIMEOUT), vec![kill(3)]));
        assert_eq!(play.step(ready(3)), NOTHING);
        assert_eq!(
            play.step(exited(3, Code(0))),
            [reaped(3, 0, Code(0), StartTimedOut, restart_after(100))],
            "even if it ended by itself before the signal arrived"
        );
    }
}

mod restarts {
    use super::*;

    #[test]
    fn a_crash_after_ready_is_replaced_at_once_in_the_same_slot() {
        let mut play = Play::serving(3, Restart::Always);
        assert_eq!(
            play.step(exited(2, Signal(SIGSEGV))),
            [reaped(2, 1, Signal(SIGSEGV), Crashed, restart_after(0)), spawn(4, 1)],
        );
        assert_eq!(play.states(), [(1, 0, State::Ready), (4, 1, State::Starting), (3, 2, State::Ready)]);
    }

    #[test]
    fn the_pause_doubles_up_to_thirty_seconds_if_it_keeps_crashing() {
        let mut play = Play::serving(2, Restart::Always);
        assert_eq!(play.step(exited(1, Code(1)))[1], spawn(3, 0));
        let mut worker = 3;
        for pause in [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000, 30_000] {
            play.step(ready(worker));
            let gone = play.after(9_999, exited(worker, Code(1)));
            assert_eq!(gone, [reaped(worker, 0, Code(1), Crashed, restart_after(pause))]);
            worker += 1;
            assert_eq!(play.wait(), (ms(pause), vec![spawn(worker, 0)]));
        }
    }

    #[test]
    fn the_pause_survives_any_number_of_failures() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(exited(1, Code(1)));
        for worker in 3..300 {
            play.step(exited(worker, Code(1)));
            assert!(play.wait().0 <= ms(30_000));
        }
        assert_eq!(play.step(exited(300, Code(1))), [reaped(300, 0, Code(1), FailedToStart, restart_after(30_000))]);
    }

    #[test]
    fn readiness_that_lasted_ends_the_series() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(exited(1, Code(1)));
        play.step(exited(3, Code(1)));
        play.wait();
        play.step(ready(4));
        let gone = play.after(10_000, exited(4, Code(1)));
        assert_eq!(gone, [reaped(4, 0, Code(1), Crashed, restart_after(0)), spawn(5, 0)]);
    }

    #[test]
    fn readiness_counts_from_the_first_word_of_it() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(exited(1, Code(1)));
        play.step(ready(3));
        play.after(5_000, ready(3));
        assert_eq!(play.after(5_000, exited(3, Code(1)))[0], reaped(3, 0, Code(1), Crashed, restart_after(0)));
    }

    #[test]
    fn readiness_that_lasted_counts_however_the_worker_goes() {
        for last_words in [leaving(4), misbehaved(4)] {
            let mut play = Play::serving(2, Restart::Always);
            play.step(exited(1, Code(1)));
            play.step(exited(3, Code(1)));
            play.wait();
            play.step(ready(4));
            play.after(10_000, last_words);
            play.step(exited(4, Signal(SIGKILL)));
            // The first in a new series, or the second after the misbehaviour, but never the fourth.
            let pause = if last_words == leaving(4) { 0 } else { 100 };
            play.step(ready(5));
            assert_eq!(play.step(exited(5, Code(1)))[0], reaped(5, 0, Code(1), Crashed, restart_after(pause)));
        }
    }

    #[test]
    fn the_time_from_a_kill_to_the_exit_does_not_count_as_service() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(exited(1, Code(1)));
        play.step(ready(3));
        play.after(9_999, misbehaved(3));
        let gone = play.after(10_000, exited(3, Signal(SIGKILL)));
        assert_eq!(gone, [reaped(3, 0, Signal(SIGKILL), Misbehaved, restart_after(100))]);
    }

    #[test]
    fn a_pause_is_of_one_slot_only() {
        let mut play = Play::serving(3, Restart::Always);
        play.step(exited(1, Code(1)));
        play.step(exited(4, Code(1)));
        assert_eq!(play.step(exited(2, Code(1))), [reaped(2, 1, Code(1), Crashed, restart_after(0)), spawn(5, 1)]);
        assert_eq!(play.wait(), (ms(100), vec![spawn(6, 0)]));
    }

    #[test]
    fn a_replacement_that_fails_to_start_waits_and_the_others_serve_on() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(exited(1, Code(1)));
        assert_eq!(play.step(exited(3, Code(1))), [reaped(3, 0, Code(1), FailedToStart, restart_after(100))]);
        assert_eq!(play.wait(), (ms(100), vec![spawn(4, 0)]));
        assert_eq!(play.step(Event::SpawnFailed(id(4))), [reaped(4, 0, Code(127), FailedToStart, restart_after(200))]);
        assert_eq!(play.wait(), (ms(200), vec![spawn(5, 0)]));
        assert_eq!(play.wait(), (ms(START_TIMEOUT), vec![kill(5)]));
        assert_eq!(
            play.step(exited(5, Signal(SIGKILL))),
            [reaped(5, 0, Signal(SIGKILL), StartTimedOut, restart_after(400))]
        );
        assert_eq!(play.states(), [(2, 1, State::Ready)]);
    }

    #[test]
    fn a_first_failed_start_waits_too() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(leaving(1));
        assert_eq!(play.step(exited(3, Code(1))), [reaped(3, 0, Code(1), FailedToStart, restart_after(100))]);
        assert_eq!(play.wait(), (ms(100), vec![spawn(4, 0)]));
        assert_eq!(play.step(exited(4, Code(1))), [reaped(4, 0, Code(1), FailedToStart, restart_after(200))]);
    }

    #[test]
    fn an_unasked_code_zero_of_a_server_is_replaced_like_a_crash() {
        let mut play = Play::serving(2, Restart::Always);
        assert_eq!(play.step(exited(1, Code(0))), [reaped(1, 0, Code(0), Finished, restart_after(0)), spawn(3, 0)]);
        play.step(ready(3));
        assert_eq!(play.step(exited(3, Code(0))), [reaped(3, 0, Code(0), Finished, restart_after(100))]);
    }

    #[test]
    fn on_failure_replaces_crashes_and_leaves_the_slot_of_a_finished_worker_empty() {
        let mut play = Play::serving(2, Restart::OnFailure);
        assert_eq!(play.step(exited(1, Code(3))), [reaped(1, 0, Code(3), Crashed, restart_after(0)), spawn(3, 0)]);
        play.step(ready(3));
        assert_eq!(play.step(exited(3, Code(0))), [reaped(3, 0, Code(0), Finished, Next::Empty)]);
        assert_eq!(play.supervisor.next_deadline(), None);
        assert_eq!(
            play.step(exited(2, Code(0))),
            [reaped(2, 1, Code(0), Finished, Next::Empty), end(Outcome::AllFinished { failed: false })]
        );
    }

    #[test]
    fn a_batch_program_may_finish_before_it_is_ready() {
        for restart in [Restart::OnFailure, Restart::Never] {
            let mut play = Play::new(2, restart);
            play.step(Event::Start);
            assert_eq!(play.step(exited(1, Code(0))), [reaped(1, 0, Code(0), Finished, Next::Empty)]);
            assert_eq!(
                play.step(exited(2, Code(0))),
                [reaped(2, 1, Code(0), Finished, Next::Empty), end(Outcome::AllFinished { failed: false })]
            );
        }
    }

    #[test]
    fn never_leaves_the_slot_of_a_crashed_worker_empty() {
        let mut play = Play::serving(2, Restart::Never);
        assert_eq!(play.step(exited(1, Code(1))), [reaped(1, 0, Code(1), Crashed, Next::Empty)]);
        assert_eq!(
            play.step(exited(2, Code(0))),
            [reaped(2, 1, Code(0), Finished, Next::Empty), end(Outcome::AllFinished { failed: true })]
        );
    }

    #[test]
    fn misbehaviour_kills_and_is_replaced_like_a_crash() {
        let mut play = Play::serving(2, Restart::Always);
        assert_eq!(play.step(misbehaved(1)), [kill(1)]);
        assert_eq!(play.step(misbehaved(1)), NOTHING);
        assert_eq!(
            play.step(exited(1, Signal(SIGKILL))),
            [reaped(1, 0, Signal(SIGKILL), Misbehaved, restart_after(0)), spawn(3, 0)]
        );
        play.step(misbehaved(3));
        assert_eq!(
            play.step(exited(3, Signal(SIGKILL))),
            [reaped(3, 0, Signal(SIGKILL), Misbehaved, restart_after(100))]
        );
    }
}

mod leaving_workers {
    use super::*;

    #[test]
    fn a_worker_that_leaves_drains_and_is_replaced_at_once() {
        for restart in [Restart::Always, Restart::OnFailure] {
            let mut play = Play::serving(2, restart);
            assert_eq!(play.step(leaving(1)), [drain(1, GRACE), spawn(3, 0)]);
            assert_eq!(play.step(leaving(1)), NOTHING);
            assert_eq!(play.step(ready(1)), NOTHING);
            assert_eq!(play.states(), [(3, 0, State::Starting), (1, 0, State::Draining), (2, 1, State::Ready)]);
            assert_eq!(play.step(exited(1, Code(1))), [reaped(1, 0, Code(1), Asked, Next::Taken)]);
        }
    }

    #[test]
    fn under_never_nobody_comes_and_only_the_last_one_drains_its_queue_too() {
        let mut play = Play::serving(2, Restart::Never);
        assert_eq!(play.step(leaving(1)), [drain(1, GRACE)]);
        assert_eq!(play.step(exited(1, Code(0))), [reaped(1, 0, Code(0), Asked, Next::Empty)]);
        assert_eq!(play.step(leaving(2)), [drain_last(2, GRACE)]);
        assert_eq!(
            play.step(exited(2, Code(0))),
            [reaped(2, 1, Code(0), Asked, Next::Empty), end(Outcome::AllFinished { failed: false })]
        );
    }

    #[test]
    fn under_never_one_that_leaves_and_becomes_the_last_is_told_so() {
        let mut play = Play::serving(2, Restart::Never);
        assert_eq!(play.step(leaving(1)), [drain(1, GRACE)]);
        play.after(100, Event::Tick);
        assert_eq!(
            play.step(exited(2, Signal(9))),
            [reaped(2, 1, Signal(9), Crashed, Next::Empty), drain_last(1, GRACE - 100)]
        );
    }

    #[test]
    fn one_that_leaves_after_it_served_for_long_is_no_failure() {
        let mut play = Play::serving(1, Restart::Always);
        for worker in 1..100 {
            assert_eq!(play.after(10_000, leaving(worker)), [drain(worker, GRACE), spawn(worker + 1, 0)]);
            play.step(exited(worker, Code(0)));
            play.step(ready(worker + 1));
        }
    }

    #[test]
    fn leaving_after_it_served_for_long_starts_a_new_series_and_is_not_a_part_of_it() {
        let mut play = Play::serving(1, Restart::Always);
        for (worker, served, pause) in [(1, 0, 0), (2, 0, 100), (3, 10_000, 0), (4, 9_999, 0), (5, 9_999, 100)] {
            play.after(served, leaving(worker));
            let gone = play.step(exited(worker, Code(0)));
            if pause == 0 {
                assert_eq!(gone, [reaped(worker, 0, Code(0), Asked, Next::Taken)], "worker {worker}");
            } else {
                assert_eq!(gone, [reaped(worker, 0, Code(0), Asked, restart_after(pause))], "worker {worker}");
                assert_eq!(play.wait(), (ms(pause), vec![spawn(worker + 1, 0)]));
            }
            play.step(ready(worker + 1));
        }
    }

    #[test]
    fn a_program_that_leaves_as_soon_as_it_is_ready_does_not_spin() {
        let mut play = Play::serving(1, Restart::Always);
        assert_eq!(play.step(leaving(1)), [drain(1, GRACE), spawn(2, 0)], "the first one is replaced at once");
        play.step(exited(1, Code(0)));
        let mut worker = 2;
        for pause in [100, 200, 400, 800, 1_600, 3_200, 6_400, 12_800, 25_600, 30_000, 30_000, 30_000] {
            play.step(ready(worker));
            assert_eq!(play.after(9_999, leaving(worker)), [drain(worker, GRACE)]);
            assert_eq!(
                play.step(exited(worker, Code(0))),
                [reaped(worker, 0, Code(0), Asked, restart_after(pause))],
                "a pause, but nothing for the breaker"
            );
            worker += 1;
            assert_eq!(play.wait(), (ms(pause), vec![spawn(worker, 0)]));
        }
    }

    #[test]
    fn leaving_and_crashing_make_one_series() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(exited(1, Code(1)));
        play.step(ready(3));
        assert_eq!(play.step(leaving(3)), [drain(3, GRACE)]);
        play.step(exited(3, Code(0)));
        assert_eq!(play.wait(), (ms(100), vec![spawn(4, 0)]));
        play.step(ready(4));
        assert_eq!(play.step(exited(4, Code(1))), [reaped(4, 0, Code(1), Crashed, restart_after(200))]);
    }

    #[test]
    fn the_time_to_drain_does_not_count_as_service() {
        let mut play = Play::with(Settings {
            slots: 1,
            restart: Restart::Always,
            start_timeout: ms(START_TIMEOUT),
            grace: ms(60_000),
            ..PLAIN
        });
        play.step(Event::Start);
        play.step(ready(1));
        play.step(leaving(1));
        play.step(ready(2));
        play.after(5_000, leaving(2));
        // Worker 2 drains in its seat for longer than a lasting readiness takes.
        assert_eq!(play.after(10_000, exited(1, Code(0))), [reaped(1, 0, Code(0), Asked, restart_after(100))]);
    }

    #[test]
    fn a_slot_never_has_three_workers() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(leaving(1));
        play.step(ready(2));
        assert_eq!(play.after(1_000, leaving(2)), [drain(2, GRACE)], "drains in its seat");
        assert_eq!(
            play.step(exited(1, Code(0))),
            [reaped(1, 0, Code(0), Asked, restart_after(100))],
            "replaced as soon as there is room, after the pause for the second that leaves"
        );
        assert_eq!(play.wait(), (ms(100), vec![spawn(3, 0)]));
        assert_eq!(play.states(), [(3, 0, State::Starting), (2, 0, State::Draining)]);
    }

    #[test]
    fn a_leaver_that_drained_in_its_seat_is_replaced_when_it_is_gone() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(leaving(1));
        play.step(ready(2));
        play.step(leaving(2));
        assert_eq!(play.step(exited(2, Code(0))), [reaped(2, 0, Code(0), Asked, restart_after(100))]);
        assert_eq!(play.wait(), (ms(100), vec![spawn(3, 0)]));
        assert_eq!(play.states(), [(3, 0, State::Starting), (1, 0, State::Draining)]);
    }

    #[test]
    fn a_program_that_leaves_while_it_starts_does_not_spin() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(exited(1, Code(1)));
        assert_eq!(play.step(leaving(3)), [drain(3, GRACE)]);
        assert_eq!(play.after(40, exited(3, Code(0))), [reaped(3, 0, Code(0), Asked, restart_after(60))]);
        assert_eq!(play.wait(), (ms(60), vec![spawn(4, 0)]));
        assert_eq!(play.step(leaving(4)), [drain(4, GRACE)]);
        assert_eq!(play.wait(), (ms(200), vec![spawn(5, 0)]), "and the pause grows");
    }

    #[test]
    fn leaving_at_first_start_is_no_failure() {
        let mut play = Play::new(1, Restart::Always);
        play.step(Event::Start);
        assert_eq!(play.step(leaving(1)), [drain(1, GRACE)]);
        assert_eq!(play.step(exited(1, Code(1))), [reaped(1, 0, Code(1), Asked, restart_after(100))]);
        assert_eq!(play.wait(), (ms(100), vec![spawn(2, 0)]));
        assert_eq!(play.step(ready(2)), [AllReady]);
    }

    #[test]
    fn a_leaver_that_misbehaves_at_first_start_does_not_stop_the_cluster() {
        let mut play = Play::new(1, Restart::Always);
        play.step(Event::Start);
        play.step(leaving(1));
        assert_eq!(play.step(misbehaved(1)), [kill(1)]);
        assert_eq!(
            play.step(exited(1, Signal(SIGKILL))),
            [reaped(1, 0, Signal(SIGKILL), Misbehaved, restart_after(100))]
        );
    }

    #[test]
    fn a_leaver_that_does_not_go_in_time_is_killed() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(leaving(1));
        play.step(ready(2));
        assert_eq!(play.wait(), (ms(GRACE), vec![kill(1)]));
        assert_eq!(play.step(exited(1, Signal(SIGKILL))), [reaped(1, 0, Signal(SIGKILL), GraceExpired, Next::Taken)]);
    }

    #[test]
    fn a_crash_while_it_drains_is_told_but_restarts_nothing() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(leaving(1));
        play.step(ready(2));
        assert_eq!(play.step(exited(1, Signal(SIGSEGV))), [reaped(1, 0, Signal(SIGSEGV), Crashed, Next::Taken)]);
        assert_eq!(play.states(), [(2, 0, State::Ready)]);
    }

    #[test]
    fn the_signals_that_ask_to_go_are_no_crash_of_one_that_was_asked() {
        for signal in [SIGTERM, SIGINT] {
            let mut play = Play::serving(1, Restart::Always);
            play.step(leaving(1));
            assert_eq!(play.step(exited(1, Signal(signal))), [reaped(1, 0, Signal(signal), Asked, Next::Taken)]);
            assert_eq!(
                play.step(exited(2, Signal(signal)))[0],
                reaped(2, 0, Signal(signal), FailedToStart, restart_after(100))
            );
        }
    }

    #[test]
    fn the_successor_may_fail_while_the_predecessor_drains() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(leaving(1));
        assert_eq!(play.step(exited(2, Code(1))), [reaped(2, 0, Code(1), FailedToStart, restart_after(100))]);
        assert_eq!(play.step(exited(1, Code(0))), [reaped(1, 0, Code(0), Asked, restart_after(100))]);
        assert_eq!(play.wait(), (ms(100), vec![spawn(3, 0)]));
    }

    #[test]
    fn without_a_grace_period_a_leaver_is_killed_at_once_and_replaced() {
        let mut play = Play::with(Settings {
            slots: 1,
            restart: Restart::Always,
            start_timeout: ms(START_TIMEOUT),
            grace: Duration::ZERO,
            ..PLAIN
        });
        play.step(Event::Start);
        play.step(ready(1));
        assert_eq!(play.step(leaving(1)), [kill(1), spawn(2, 0)]);
    }
}

mod breaker {
    use super::*;

    /// Lets the only slot fail to start again and again until something other than a wait comes of it.
    fn fail_until_end(play: &mut Play, mut worker: u64) -> (u32, Vec<Action>) {
        for failures in 1..100 {
            let gone = play.step(exited(worker, Code(1)));
            if !matches!(gone[..], [Reaped { next: Next::Restart { .. }, .. }]) {
                return (failures, gone);
            }
            worker += 1;
            assert_eq!(play.wait().1, [spawn(worker, 0)]);
        }
        panic!("it goes on and on");
    }

    /// One slot, and workers that have all the time they want to start.
    fn patient() -> Play {
        let mut play = Play::with(Settings {
            slots: 1,
            restart: Restart::Always,
            start_timeout: ms(3_600_000),
            grace: ms(GRACE),
            ..PLAIN
        });
        play.step(Event::Start);
        play.step(ready(1));
        play
    }

    /// Ends workers without readiness, one every so many milliseconds, until the cluster gives up.
    fn ends_until_breaker(play: &mut Play, every: u64) -> Option<u64> {
        play.step(exited(1, Code(1)));
        for worker in 2..1_000 {
            let due = play.now + ms(every);
            if play.supervisor.status().count() == 0 {
                play.wait();
            }
            play.now = due;
            let gone = play.step(exited(worker, Code(1)));
            if gone.contains(&stopping(ShutdownCause::Breaker)) {
                return Some(worker);
            }
        }
        None
    }

    #[test]
    fn eleven_ends_in_fifteen_minutes_are_too_many_and_in_more_are_not() {
        assert_eq!(ends_until_breaker(&mut patient(), 90_000), Some(11));
        assert_eq!(ends_until_breaker(&mut patient(), 90_001), None);
    }

    #[test]
    fn a_cluster_whose_every_attempt_takes_the_default_start_timeout_gives_up_within_fifteen_minutes() {
        for slots in [1, 2, 5] {
            let mut play = Play::with(Settings {
                slots,
                restart: Restart::Always,
                start_timeout: ms(30_000),
                grace: ms(GRACE),
                ..PLAIN
            });
            play.step(Event::Start);
            let workers = u64::try_from(slots).unwrap();
            for worker in 1..=workers {
                play.step(ready(worker));
            }
            play.now += ms(3_600_000);
            let broke = play.now;
            // From now on the program hangs in its start.
            for worker in 1..=workers {
                play.step(exited(worker, Code(1)));
            }
            let end = 'hang: loop {
                assert!(play.now - broke < ms(900_000), "still at it with {slots} slots");
                for action in play.wait().1 {
                    if let Kill(worker) = action {
                        let gone = play.step(Event::Exited(worker, Signal(SIGKILL)));
                        if gone.contains(&stopping(ShutdownCause::Breaker)) {
                            break 'hang play.now - broke;
                        }
                    }
                }
            };
            assert!(end > ms(300_000), "{end:?}");
        }
    }

    #[test]
    fn slow_starts_short_service_and_the_longest_pause_still_trip_it() {
        let mut play = Play::with(Settings {
            slots: 1,
            restart: Restart::Always,
            start_timeout: ms(30_000),
            grace: ms(GRACE),
            ..PLAIN
        });
        play.step(Event::Start);
        // By leaving, which does not count, it comes to the longest pause.
        for worker in 1..=12 {
            play.step(ready(worker));
            play.step(leaving(worker));
            play.step(exited(worker, Code(0)));
            if worker > 1 {
                play.wait();
            }
        }
        let mut first = None;
        for worker in 13..=23 {
            play.after(30_000, ready(worker));
            let gone = play.after(9_999, exited(worker, Code(1)));
            let first = *first.get_or_insert(play.now);
            if worker == 23 {
                assert_eq!(gone[1], stopping(ShutdownCause::Breaker));
                assert_eq!(play.now - first, ms(10 * (30_000 + 9_999 + 30_000)));
            } else {
                assert_eq!(gone, [reaped(worker, 0, Code(1), Crashed, restart_after(30_000))]);
                play.wait();
            }
        }
    }

    #[test]
    fn a_single_worker_that_serves_between_its_crashes_may_crash_for_ever() {
        let mut play = Play::serving(1, Restart::Always);
        for worker in 1..1_000 {
            let gone = play.after(59_000, exited(worker, Signal(SIGSEGV)));
            assert_eq!(gone, [reaped(worker, 0, Signal(SIGSEGV), Crashed, restart_after(0)), spawn(worker + 1, 0)]);
            play.after(1_000, ready(worker + 1));
        }
    }

    #[test]
    fn readiness_that_does_not_last_counts() {
        for (served, is_end) in [(9_999, true), (10_000, false)] {
            let mut play = Play::serving(1, Restart::Always);
            let mut gone = Vec::new();
            for worker in 1..=11 {
                if worker > 1 {
                    if play.supervisor.status().count() == 0 {
                        play.wait();
                    }
                    play.step(ready(worker));
                }
                gone = play.after(served, exited(worker, Code(1)));
            }
            assert_eq!(gone.contains(&stopping(ShutdownCause::Breaker)), is_end, "{gone:?}");
        }
    }

    #[test]
    fn the_end_of_one_that_served_for_long_neither_counts_nor_clears() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(exited(1, Code(1)));
        for worker in 2..=10 {
            play.step(exited(worker, Code(1)));
            assert_eq!(play.wait().1, [spawn(worker + 1, 0)]);
        }
        // Ten counted, so that one more is too many.
        play.step(ready(11));
        let gone = play.after(10_000, exited(11, Code(1)));
        assert_eq!(gone, [reaped(11, 0, Code(1), Crashed, restart_after(0)), spawn(12, 0)]);
        play.step(ready(12));
        assert_eq!(play.after(10_000, misbehaved(12)), [kill(12)]);
        let gone = play.step(exited(12, Signal(SIGKILL)));
        assert_eq!(gone, [reaped(12, 0, Signal(SIGKILL), Misbehaved, restart_after(0)), spawn(13, 0)]);
        play.step(ready(13));
        assert_eq!(play.after(9_999, exited(13, Code(1)))[1], stopping(ShutdownCause::Breaker));
    }

    #[test]
    fn what_failed_while_another_served_is_not_held_against_the_rest() {
        let mut play = Play::serving(2, Restart::Always);
        // Slot 0 is out of order while worker 2 serves for an hour.
        let mut sick = 1;
        let mut next = 3;
        while play.now < origin() + ms(3_600_000) {
            play.step(exited(sick, Code(1)));
            if play.states().len() == 1 {
                play.wait();
            }
            sick = next;
            next += 1;
        }
        // Then that one is replaced, and before its successor is ready slot 0 fails again.
        assert_eq!(play.step(leaving(2)), [drain(2, GRACE), spawn(next, 1)]);
        assert_eq!(
            play.step(exited(sick, Code(1))),
            [reaped(sick, 0, Code(1), FailedToStart, restart_after(30_000))],
            "many ends, but only one with nobody ready"
        );
    }

    #[test]
    fn too_many_failures_with_nobody_ready_end_the_cluster() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(exited(1, Code(1)));
        let (failures, end_of_it) = fail_until_end(&mut play, 2);
        assert_eq!(failures, 10, "with the crash these are more than ten");
        assert_eq!(
            end_of_it,
            [
                reaped(11, 0, Code(1), FailedToStart, Next::Stopping),
                stopping(ShutdownCause::Breaker),
                end(Outcome::Breaker)
            ]
        );
    }

    #[test]
    fn whoever_still_starts_when_the_breaker_trips_is_drained() {
        let mut play = on_the_brink();
        assert_eq!(
            play.step(exited(21, Code(1))),
            [
                reaped(21, 0, Code(1), FailedToStart, Next::Stopping),
                stopping(ShutdownCause::Breaker),
                drain_last(22, GRACE)
            ]
        );
        assert_eq!(play.step(exited(22, Code(1)))[1], end(Outcome::Breaker));
    }

    #[test]
    fn while_one_is_ready_the_others_may_fail_as_often_as_they_like() {
        // One of forty slots serves. The others fail in step, more than ten for each slot within a quarter of an hour.
        let mut play = Play::serving(40, Restart::Always);
        let mut failures = 0;
        while play.now < origin() + ms(60_000) {
            for (worker, ..) in play.states().into_iter().filter(|&(_, slot, _)| slot > 0) {
                let gone = play.step(exited(worker, Code(1)));
                assert!(matches!(gone[0], Reaped { next: Next::Restart { .. }, .. }), "{gone:?}");
                failures += 1;
            }
            if play.supervisor.status().count() == 1 {
                play.wait();
            }
        }
        assert!(failures > 400, "{failures}");
        assert!(matches!(play.step(exited(1, Code(1)))[1], Spawn { slot: 0, .. }));
    }

    #[test]
    fn a_failure_now_and_then_never_adds_up() {
        let mut play = Play::serving(1, Restart::Always);
        for worker in 1..1_000 {
            let gone = play.after(10_000, exited(worker, Code(1)));
            assert_eq!(gone, [reaped(worker, 0, Code(1), Crashed, restart_after(0)), spawn(worker + 1, 0)]);
            play.step(ready(worker + 1));
        }
    }

    #[test]
    fn those_that_leave_do_not_count() {
        let mut play = Play::with(Settings {
            slots: 1,
            restart: Restart::Always,
            start_timeout: ms(START_TIMEOUT),
            grace: ms(600_000),
            ..PLAIN
        });
        play.step(Event::Start);
        play.step(ready(1));
        play.step(leaving(1));
        // Worker 1 takes its time, so that the others drain in the seat.
        for worker in 2..20 {
            play.step(ready(worker));
            assert_eq!(play.step(leaving(worker)), [drain(worker, 600_000)]);
            let gone = play.step(exited(worker, Code(0)));
            assert!(matches!(gone[..], [Reaped { next: Next::Restart { .. }, .. }]), "{gone:?}");
            assert_eq!(play.wait().1, [spawn(worker + 1, 0)]);
        }
    }

    #[test]
    fn the_end_of_a_predecessor_does_not_count_however_it_comes() {
        let mut play = Play::serving(1, Restart::Always);
        for worker in 1..100 {
            assert_eq!(play.after(10_000, leaving(worker)), [drain(worker, GRACE), spawn(worker + 1, 0)]);
            let gone = play.step(exited(worker, Signal(SIGSEGV)));
            assert_eq!(gone, [reaped(worker, 0, Signal(SIGSEGV), Crashed, Next::Taken)]);
            play.step(ready(worker + 1));
        }
    }
}

mod stopping {
    use super::*;

    const CAUSES: [StopCause; 4] =
        [StopCause::Terminate, StopCause::Interrupt, StopCause::Asked, StopCause::PrimaryFailed];

    #[test]
    fn a_stop_drains_all_at_once_and_ends_with_the_last() {
        for cause in CAUSES {
            let mut play = Play::serving(2, Restart::Always);
            assert_eq!(play.step(stop(cause)), [shutdown(cause), drain_last(1, GRACE), drain_last(2, GRACE)]);
            assert_eq!(play.step(exited(2, Code(1))), [reaped(2, 1, Code(1), Asked, Next::Stopping)]);
            assert_eq!(
                play.step(exited(1, Code(0))),
                [reaped(1, 0, Code(0), Asked, Next::Stopping), stopped(cause, false)]
            );
        }
    }

    #[test]
    fn whoever_does_not_go_in_time_is_killed_and_the_end_says_so() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(stop(StopCause::Terminate));
        play.after(1_000, exited(1, Code(0)));
        assert_eq!(play.wait(), (ms(GRACE - 1_000), vec![kill(2)]));
        assert_eq!(play.step(Event::Tick), NOTHING);
        assert_eq!(
            play.step(exited(2, Signal(SIGKILL))),
            [reaped(2, 1, Signal(SIGKILL), GraceExpired, Next::Stopping), stopped(StopCause::Terminate, true)]
        );
    }

    #[test]
    fn a_starting_worker_is_drained_too() {
        let mut play = Play::new(1, Restart::Always);
        play.step(Event::Start);
        assert_eq!(play.step(stop(StopCause::Terminate)), [shutdown(StopCause::Terminate), drain_last(1, GRACE)]);
        assert_eq!(play.step(ready(1)), NOTHING, "too late to be all ready");
        assert_eq!(
            play.step(exited(1, Code(1))),
            [reaped(1, 0, Code(1), Asked, Next::Stopping), stopped(StopCause::Terminate, false)]
        );
    }

    #[test]
    fn a_failed_spawn_whose_news_come_after_the_stop_ends_it_all_the_same() {
        let mut play = Play::new(1, Restart::Always);
        play.step(Event::Start);
        play.step(stop(StopCause::Terminate));
        assert_eq!(
            play.step(Event::SpawnFailed(id(1))),
            [reaped(1, 0, Code(127), FailedToStart, Next::Stopping), stopped(StopCause::Terminate, false)]
        );
    }

    #[test]
    fn an_empty_slot_is_not_filled_any_more() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(exited(1, Code(1)));
        play.step(exited(3, Code(1)));
        assert_eq!(play.step(stop(StopCause::Terminate)), [shutdown(StopCause::Terminate), drain_last(2, GRACE)]);
        assert_eq!(play.wait(), (ms(GRACE), vec![kill(2)]));
    }

    #[test]
    fn a_seat_that_is_due_in_the_moment_of_the_stop_stays_empty() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(exited(1, Code(1)));
        play.step(exited(2, Code(1)));
        assert_eq!(
            play.after(100, stop(StopCause::Terminate)),
            [shutdown(StopCause::Terminate), stopped(StopCause::Terminate, false)]
        );
    }

    #[test]
    fn a_leaver_keeps_its_earlier_deadline_and_is_told_that_it_is_the_last() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(leaving(1));
        assert_eq!(
            play.after(1_000, stop(StopCause::Asked)),
            [shutdown(StopCause::Asked), drain_last(2, GRACE), drain_last(1, GRACE - 1_000)]
        );
        assert_eq!(play.wait(), (ms(GRACE - 1_000), vec![kill(1)]));
        assert_eq!(play.wait(), (ms(1_000), vec![kill(2)]));
    }

    #[test]
    fn the_end_waits_for_a_leaver_too() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(leaving(1));
        play.step(stop(StopCause::Terminate));
        assert_eq!(play.step(exited(2, Code(0))), [reaped(2, 0, Code(0), Asked, Next::Stopping)]);
        assert_eq!(
            play.step(exited(1, Code(0))),
            [reaped(1, 0, Code(0), Asked, Next::Stopping), stopped(StopCause::Terminate, false)]
        );
    }

    #[test]
    fn a_leaver_that_knows_that_it_is_the_last_is_not_told_again() {
        let mut play = Play::serving(1, Restart::Never);
        play.step(leaving(1));
        assert_eq!(play.step(stop(StopCause::Asked)), [shutdown(StopCause::Asked)]);
    }

    #[test]
    fn a_crash_during_the_stop_is_told_and_not_replaced() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(stop(StopCause::Terminate));
        assert_eq!(play.step(exited(1, Signal(SIGSEGV))), [reaped(1, 0, Signal(SIGSEGV), Crashed, Next::Stopping)]);
        assert_eq!(
            play.step(exited(2, Code(0))),
            [reaped(2, 1, Code(0), Asked, Next::Stopping), stopped(StopCause::Terminate, false)]
        );
    }

    #[test]
    fn misbehaviour_during_the_stop_kills_one() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(stop(StopCause::Terminate));
        assert_eq!(play.step(misbehaved(1)), [kill(1)]);
        assert_eq!(play.step(exited(1, Signal(SIGKILL))), [reaped(1, 0, Signal(SIGKILL), Misbehaved, Next::Stopping)]);
    }

    #[test]
    fn an_interrupt_during_a_stop_kills_at_once_whatever_caused_it() {
        for cause in CAUSES {
            let mut play = Play::serving(2, Restart::Always);
            play.step(stop(cause));
            assert_eq!(play.step(stop(StopCause::Interrupt)), [kill(1), kill(2)], "{cause:?}");
            assert_eq!(play.step(stop(StopCause::Interrupt)), NOTHING);
            play.step(exited(1, Signal(SIGKILL)));
            let outcome = match cause {
                StopCause::PrimaryFailed => Outcome::Stopped { cause, forced: true },
                StopCause::Terminate | StopCause::Interrupt | StopCause::Asked => Outcome::Killed,
            };
            assert_eq!(
                play.step(exited(2, Signal(SIGKILL))),
                [reaped(2, 1, Signal(SIGKILL), GraceExpired, Next::Stopping), end(outcome)]
            );
        }
    }

    #[test]
    fn an_interrupt_kills_only_what_is_left() {
        let mut play = Play::serving(3, Restart::Always);
        play.step(stop(StopCause::Asked));
        play.step(exited(1, Code(0)));
        play.step(misbehaved(2));
        assert_eq!(play.step(stop(StopCause::Interrupt)), [kill(3)]);
    }

    #[test]
    fn to_terminate_or_to_ask_again_does_nothing() {
        for cause in CAUSES {
            let mut play = Play::serving(1, Restart::Always);
            play.step(stop(cause));
            for _ in 0..3 {
                assert_eq!(play.step(stop(StopCause::Terminate)), NOTHING, "{cause:?}");
                assert_eq!(play.step(stop(StopCause::Asked)), NOTHING, "{cause:?}");
            }
            assert_eq!(play.step(exited(1, Code(0)))[1], stopped(cause, false), "the first cause stays");
        }
    }

    #[test]
    fn a_failure_of_the_primary_outlives_the_interrupt() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(stop(StopCause::Interrupt));
        assert_eq!(play.step(stop(StopCause::PrimaryFailed)), NOTHING);
        assert_eq!(play.step(stop(StopCause::Interrupt)), [kill(1)]);
        assert_eq!(play.step(exited(1, Signal(SIGKILL)))[1], stopped(StopCause::PrimaryFailed, true));
    }

    #[test]
    fn after_a_failed_start_the_first_interrupt_kills_and_the_outcome_stays() {
        let mut play = Play::new(2, Restart::Always);
        play.step(Event::Start);
        play.step(exited(1, Code(7)));
        for cause in [StopCause::PrimaryFailed, StopCause::Terminate, StopCause::Asked, StopCause::Terminate] {
            assert_eq!(play.step(stop(cause)), NOTHING, "{cause:?}");
        }
        assert_eq!(play.step(stop(StopCause::Interrupt)), [kill(2)]);
        let exit = Exit { status: Code(7), reason: FailedToStart };
        assert_eq!(play.step(exited(2, Signal(SIGKILL)))[1], end(Outcome::StartFailed { worker: id(1), exit }));
    }

    #[test]
    fn after_the_breaker_the_first_interrupt_kills_and_the_outcome_stays() {
        let mut play = on_the_brink();
        assert_eq!(play.step(exited(21, Code(1)))[1], stopping(ShutdownCause::Breaker));
        assert_eq!(play.step(stop(StopCause::Terminate)), NOTHING);
        assert_eq!(play.step(stop(StopCause::Interrupt)), [kill(22)]);
        assert_eq!(play.step(exited(22, Signal(SIGKILL)))[1], end(Outcome::Breaker));
    }

    #[test]
    fn without_a_grace_period_a_stop_kills() {
        let mut play = Play::with(Settings {
            slots: 1,
            restart: Restart::Always,
            start_timeout: ms(START_TIMEOUT),
            grace: Duration::ZERO,
            ..PLAIN
        });
        play.step(Event::Start);
        play.step(ready(1));
        assert_eq!(play.step(stop(StopCause::Terminate)), [shutdown(StopCause::Terminate), kill(1)]);
        assert_eq!(play.step(exited(1, Signal(SIGKILL)))[1], stopped(StopCause::Terminate, true));
    }

    #[test]
    fn a_stop_before_the_start_ends_at_once() {
        let mut play = Play::new(2, Restart::Always);
        assert_eq!(
            play.step(stop(StopCause::Terminate)),
            [shutdown(StopCause::Terminate), stopped(StopCause::Terminate, false)]
        );
        assert_eq!(play.step(Event::Start), NOTHING);
    }

    #[test]
    fn nothing_comes_after_the_end() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(stop(StopCause::Terminate));
        play.step(exited(1, Code(0)));
        let exit = exited(1, Code(0));
        for event in [Event::Start, ready(1), leaving(1), misbehaved(1), exit, stop(StopCause::Terminate), Event::Tick]
        {
            assert_eq!(play.after(1_000, event), NOTHING);
        }
        assert_eq!(play.supervisor.next_deadline(), None);
        assert_eq!(play.supervisor.status().count(), 0);
    }
}

mod odd_events {
    use super::*;

    #[test]
    fn unknown_late_and_repeated_ids_are_ignored() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(exited(1, Code(1)));
        for worker in [0, 1, 4, u64::MAX] {
            let failed = Event::SpawnFailed(id(worker));
            for event in [ready(worker), leaving(worker), misbehaved(worker), exited(worker, Code(1)), failed] {
                assert_eq!(play.step(event), NOTHING, "{event:?}");
            }
        }
        assert_eq!(play.states(), [(3, 0, State::Starting), (2, 1, State::Ready)]);
    }

    #[test]
    fn a_worker_that_was_ready_cannot_have_failed_to_spawn() {
        let mut play = Play::serving(1, Restart::Always);
        assert_eq!(play.step(Event::SpawnFailed(id(1))), NOTHING);
    }

    #[test]
    fn spans_beyond_the_clock_do_no_harm() {
        let mut play = Play::with(Settings {
            slots: 1,
            restart: Restart::Always,
            start_timeout: Duration::MAX,
            grace: Duration::MAX,
            ..PLAIN
        });
        play.step(Event::Start);
        play.step(ready(1));
        assert!(matches!(play.step(stop(StopCause::Terminate))[..], [Shutdown { .. }, Drain { last: true, .. }]));
    }

    #[test]
    fn a_clock_that_was_far_behind_settles_in_one_step() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(leaving(1));
        play.step(exited(2, Code(1)));
        play.step(exited(4, Code(1)));
        assert_eq!(play.after(3_600_000, Event::Tick), [kill(3), kill(1), spawn(5, 1)]);
    }

    #[test]
    fn the_status_names_every_worker_and_whether_it_was_asked_to_go() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(leaving(1));
        play.step(misbehaved(2));
        let status: Vec<_> = play.supervisor.status().collect();
        let asked: Vec<_> = status.iter().map(|status| (status.worker.get(), status.asked_to_go)).collect();
        assert_eq!(asked, [(3, false), (1, true), (2, false)]);
        assert_eq!(play.states(), [(3, 0, State::Starting), (1, 0, State::Draining), (2, 1, State::Killed)]);
        assert!(status.iter().all(|status| status.generation == 1));
    }
}

mod renewal {
    use super::*;

    const fn spawn_of(generation: u64, worker: u64, slot: usize) -> Action {
        Spawn { worker: id(worker), slot, generation }
    }

    const fn reloading(generation: u64) -> Action {
        Action::Reloading { generation }
    }

    const fn reloaded(generation: u64) -> Action {
        Action::Reloaded { generation, outcome: Ok(()) }
    }

    fn abandoned(generation: u64, worker: u64, status: ExitStatus, reason: ExitReason) -> Action {
        let exit = Exit { status, reason };
        Action::Reloaded { generation, outcome: Err(Abandoned::Failed { worker: id(worker), exit }) }
    }

    fn reaped_of(generation: u64, worker: u64, slot: usize, reason: ExitReason, next: Next) -> Action {
        let status = if reason == Asked { Code(0) } else { Code(1) };
        Reaped { worker: id(worker), slot, generation, exit: Exit { status, reason }, next }
    }

    #[test]
    fn a_reload_succeeds_one_slot_after_the_other_and_nobody_goes_before_its_successor_is_ready() {
        let mut play = Play::serving(2, Restart::Always);
        assert_eq!(play.step(Event::Reload), [reloading(2), spawn_of(2, 3, 0)]);
        assert_eq!(play.after(1_000, ready(3)), [drain(1, GRACE), spawn_of(2, 4, 1)]);
        assert_eq!(play.step(exited(1, Code(0))), [reaped(1, 0, Code(0), Asked, Next::Taken)]);
        assert_eq!(play.step(ready(4)), [drain(2, GRACE), reloaded(2)]);
        assert_eq!(play.step(exited(2, Code(0))), [reaped(2, 1, Code(0), Asked, Next::Taken)]);
        assert_eq!(play.states(), [(3, 0, State::Ready), (4, 1, State::Ready)]);
    }

    #[test]
    fn with_a_surge_so_many_successors_start_at_a_time() {
        let mut play = Play::with(Settings { slots: 3, surge: 2, ..PLAIN });
        play.step(Event::Start);
        (1..=3).for_each(|worker| _ = play.step(ready(worker)));
        assert_eq!(play.step(Event::Reload), [reloading(2), spawn_of(2, 4, 0), spawn_of(2, 5, 1)]);
        assert_eq!(play.step(ready(5)), [drain(2, GRACE), spawn_of(2, 6, 2)]);
    }

    #[test]
    fn a_successor_that_dies_ends_the_reload_and_those_that_serve_are_not_touched() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(Event::Reload);
        assert_eq!(
            play.step(exited(3, Code(1))),
            [reaped_of(2, 3, 0, FailedToStart, Next::Taken), abandoned(2, 3, Code(1), FailedToStart)]
        );
        assert_eq!(play.states(), [(1, 0, State::Ready), (2, 1, State::Ready)]);
        assert_eq!(play.step(Event::Reload), [reloading(3), spawn_of(3, 4, 0)], "the next one begins anew");
    }

    #[test]
    fn a_successor_that_is_not_ready_in_time_ends_the_reload_too() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(Event::Reload);
        assert_eq!(play.wait(), (ms(START_TIMEOUT), vec![kill(2)]));
        let gone = play.step(exited(2, Signal(SIGKILL)));
        assert_eq!(gone[1], abandoned(2, 2, Signal(SIGKILL), StartTimedOut));
        assert_eq!(play.states(), [(1, 0, State::Ready)]);
    }

    #[test]
    fn after_an_abandoned_reload_each_slot_goes_on_with_what_served_there() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(Event::Reload);
        play.step(ready(3));
        play.step(exited(1, Code(0)));
        play.step(exited(4, Code(1)));
        assert_eq!(play.step(exited(3, Code(1)))[1], spawn_of(2, 5, 0));
        assert_eq!(play.step(exited(2, Code(1)))[1], spawn_of(1, 6, 1));
    }

    #[test]
    fn a_second_reload_follows_the_first_and_more_are_joined_to_it() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(Event::Reload);
        assert_eq!(play.step(Event::Reload), []);
        assert_eq!(play.step(Event::Reload), []);
        assert_eq!(play.step(ready(2)), [drain(1, GRACE), reloaded(2), reloading(3)]);
        assert_eq!(
            play.step(exited(1, Code(0))),
            [reaped(1, 0, Code(0), Asked, Next::Taken), spawn_of(3, 3, 0)],
            "once there is room in the slot"
        );
        let last = play.step(ready(3));
        assert_eq!(last, [drain(2, GRACE), reloaded(3)]);
    }

    #[test]
    fn a_reload_that_is_asked_for_during_the_start_waits_for_it() {
        let mut play = Play::new(1, Restart::Always);
        play.step(Event::Start);
        assert_eq!(play.step(Event::Reload), []);
        assert_eq!(play.step(ready(1)), [AllReady, reloading(2), spawn_of(2, 2, 0)]);
    }

    #[test]
    fn a_slot_that_waits_out_its_backoff_is_first_and_waits_no_longer() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(exited(2, Code(1)));
        play.step(exited(3, Code(1)));
        assert_eq!(play.step(Event::Reload), [reloading(2), spawn_of(2, 4, 1)]);
        assert_eq!(play.step(ready(4)), [spawn_of(2, 5, 0)]);
    }

    #[test]
    fn a_worker_that_crashes_while_its_successor_starts_is_not_replaced_by_yet_another_one() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(Event::Reload);
        assert_eq!(play.step(exited(1, Signal(SIGSEGV))), [reaped(1, 0, Signal(SIGSEGV), Crashed, Next::Taken)]);
        assert_eq!(play.step(ready(2)), [reloaded(2)]);
    }

    #[test]
    fn a_stop_ends_the_reload_and_drains_the_successor_too() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(Event::Reload);
        assert_eq!(
            play.step(stop(StopCause::Terminate)),
            [
                Action::Reloaded { generation: 2, outcome: Err(Abandoned::Stopping) },
                shutdown(StopCause::Terminate),
                drain_last(1, GRACE),
                drain_last(2, GRACE)
            ]
        );
        assert_eq!(play.step(Event::Reload), []);
    }

    #[test]
    fn a_clock_that_leaps_costs_the_successor_that_starts_and_nobody_who_serves() {
        for leap in [START_TIMEOUT, 86_400_000, 1_000 * 86_400_000] {
            let mut play = Play::serving(3, Restart::Always);
            play.step(Event::Reload);
            assert_eq!(play.after(leap, Event::Tick), [kill(4)]);
            assert_eq!(play.after(leap, ready(4)), [], "its word comes too late");
            let gone = play.step(exited(4, Signal(SIGKILL)));
            assert_eq!(gone[1], abandoned(2, 4, Signal(SIGKILL), StartTimedOut));
            assert_eq!(play.states(), [(1, 0, State::Ready), (2, 1, State::Ready), (3, 2, State::Ready)]);
            assert_eq!(play.supervisor.next_deadline(), None);
        }
    }

    #[test]
    fn a_clock_that_stands_still_keeps_everybody_as_they_are() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(Event::Reload);
        for _ in 0..1_000 {
            assert_eq!(play.step(Event::Tick), []);
        }
        assert_eq!(play.step(ready(3))[0], drain(1, GRACE));
    }

    #[test]
    fn a_worker_that_has_had_its_share_is_succeeded_by_one_of_its_generation() {
        let mut play = Play::serving(2, Restart::Always);
        assert_eq!(play.step(Event::WornOut(id(2))), [spawn_of(1, 3, 1)]);
        assert_eq!(play.step(Event::WornOut(id(1))), [], "one at a time");
        assert_eq!(play.step(ready(3)), [drain(2, GRACE)]);
        assert_eq!(
            play.step(exited(2, Code(0))),
            [reaped(2, 1, Code(0), Asked, Next::Taken), spawn_of(1, 4, 0)],
            "and not before the predecessor is gone"
        );
    }

    #[test]
    fn a_worn_out_worker_serves_on_when_its_successor_fails_and_another_one_is_tried_later() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(Event::WornOut(id(1)));
        assert_eq!(play.step(exited(2, Code(1))), [reaped(2, 0, Code(1), FailedToStart, Next::Taken)]);
        assert_eq!(play.states(), [(1, 0, State::Ready)]);
        assert_eq!(play.wait(), (ms(30_000), vec![spawn_of(1, 3, 0)]));
    }

    #[test]
    fn workers_of_one_age_do_not_go_all_at_once() {
        let mut play = Play::with(Settings { slots: 4, max_age: Some(ms(3_600_000)), ..PLAIN });
        play.step(Event::Start);
        (1..=4).for_each(|worker| _ = play.step(ready(worker)));
        let (mut ages, mut next) = (Vec::new(), 5);
        while ages.len() < 4 {
            let (_, actions) = play.wait();
            ages.push(play.now - origin());
            assert!(matches!(actions[..], [Spawn { .. }]), "{actions:?}");
            play.step(ready(next));
            let old = play.states().iter().find(|(_, _, state)| *state == State::Draining).unwrap().0;
            play.step(exited(old, Code(0)));
            next += 1;
        }
        assert!(ages[0] >= ms(3_240_000) && ages[3] <= ms(3_600_000), "{ages:?}");
        assert!(ages.windows(2).all(|pair| pair[1] - pair[0] > ms(10_000)), "{ages:?}");
    }

    #[test]
    fn the_share_of_a_limit_is_from_nine_tenths_to_all_of_it() {
        let shares: Vec<_> = (1..1_000).map(|worker| share_of_limit(id(worker))).collect();
        assert_eq!((shares.iter().min(), shares.iter().max()), (Some(&900), Some(&1_000)));
    }
}

mod scaling {
    use super::*;

    #[test]
    fn more_workers_come_at_once_in_new_slots() {
        let mut play = Play::serving(1, Restart::Always);
        assert_eq!(
            play.step(Event::Scale(3)),
            [Action::Open { slot: 1 }, Action::Open { slot: 2 }, spawn(2, 1), spawn(3, 2)]
        );
        assert_eq!(play.supervisor.wanted(), 3);
    }

    #[test]
    fn fewer_drain_from_the_last_slot_on_and_are_not_replaced() {
        let mut play = Play::serving(3, Restart::Always);
        assert_eq!(play.step(Event::Scale(1)), [drain(2, GRACE), drain(3, GRACE)]);
        assert_eq!(play.step(exited(3, Code(0))), [reaped(3, 2, Code(0), Asked, Next::Empty)]);
        assert_eq!(play.step(exited(2, Signal(SIGSEGV))), [reaped(2, 1, Signal(SIGSEGV), Crashed, Next::Empty)]);
        assert_eq!(play.states(), [(1, 0, State::Ready)]);
    }

    #[test]
    fn a_slot_that_is_opened_again_does_not_wait_for_who_still_drains_there() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(Event::Scale(1));
        assert_eq!(play.step(Event::Scale(2)), [Action::Open { slot: 1 }, spawn(3, 1)]);
        assert_eq!(play.step(exited(2, Code(0))), [reaped(2, 1, Code(0), Asked, Next::Taken)]);
    }

    #[test]
    fn a_slot_that_is_opened_during_a_reload_takes_part_in_it() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(Event::Reload);
        assert_eq!(play.step(Event::Scale(2)), [Action::Open { slot: 1 }, spawn(3, 1)], "the surge is used up");
        let next = play.step(ready(2));
        assert_eq!(next, [drain(1, GRACE), Spawn { worker: id(4), slot: 1, generation: 2 }]);
    }

    #[test]
    fn a_slot_that_is_retired_during_a_reload_does_not_hold_it_up() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(Event::Reload);
        assert_eq!(play.step(Event::Scale(1)), [drain(2, GRACE)]);
        assert_eq!(play.step(ready(3)), [drain(1, GRACE), Action::Reloaded { generation: 2, outcome: Ok(()) }]);
    }

    #[test]
    fn there_is_always_one() {
        let mut play = Play::serving(2, Restart::Always);
        play.step(Event::Scale(0));
        assert_eq!(play.supervisor.wanted(), 1);
    }

    #[test]
    fn a_fork_fills_a_slot_that_the_policy_has_left_empty_or_else_opens_one() {
        let mut play = Play::serving(2, Restart::Never);
        play.step(exited(1, Code(1)));
        assert_eq!(play.step(Event::Fork), [Action::Open { slot: 0 }, spawn(3, 0)]);
        assert_eq!(play.step(Event::Fork), [Action::Open { slot: 2 }, spawn(4, 2)]);
    }

    #[test]
    fn when_those_that_stay_are_none_the_leavers_empty_their_queues() {
        let mut play = Play::serving(2, Restart::Never);
        play.step(exited(1, Code(0)));
        assert_eq!(play.step(Event::Scale(1)), [drain(2, GRACE), drain_last(2, GRACE)]);
    }
}

mod watchdog {
    use super::*;

    #[test]
    fn a_stuck_worker_is_aborted_and_replaced_when_it_is_gone() {
        let mut play = Play::serving(2, Restart::Always);
        assert_eq!(play.step(Event::Stuck(id(1))), [Action::Abort(id(1))]);
        assert_eq!(play.step(Event::Stuck(id(1))), []);
        let gone = play.step(exited(1, Signal(SIGABRT)));
        assert_eq!(gone, [reaped(1, 0, Signal(SIGABRT), Stuck, restart_after(0)), spawn(3, 0)]);
    }

    #[test]
    fn one_that_survives_the_abort_is_killed() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(Event::Stuck(id(1)));
        assert_eq!(play.wait(), (ms(10_000), vec![kill(1)]));
        let gone = play.step(exited(1, Signal(SIGKILL)));
        assert_eq!(gone[0], reaped(1, 0, Signal(SIGKILL), Stuck, restart_after(0)));
    }

    #[test]
    fn a_stop_does_not_wait_longer_for_it_than_for_others() {
        let mut play = Play::serving(1, Restart::Always);
        play.step(Event::Stuck(id(1)));
        play.step(stop(StopCause::Terminate));
        assert_eq!(play.wait(), (ms(GRACE), vec![kill(1)]));
    }

    #[test]
    fn one_that_starts_or_drains_has_its_deadline_already() {
        let mut play = Play::new(2, Restart::Always);
        play.step(Event::Start);
        assert_eq!(play.step(Event::Stuck(id(1))), []);
        play.step(ready(1));
        play.step(ready(2));
        play.step(leaving(1));
        assert_eq!(play.step(Event::Stuck(id(1))), []);
    }
}

mod drain_delay {
    use super::*;

    fn delayed() -> Play {
        let mut play = Play::with(Settings { drain_delay: ms(5_000), ..PLAIN });
        play.step(Event::Start);
        play.step(ready(1));
        play
    }

    #[test]
    fn after_terminate_the_workers_serve_on_for_a_while_and_drain_then() {
        let mut play = delayed();
        let cause = ShutdownCause::Stop(StopCause::Terminate);
        assert_eq!(play.step(stop(StopCause::Terminate)), [Shutdown { cause, delay: ms(5_000) }]);
        assert_eq!(play.wait(), (ms(5_000), vec![drain_last(1, GRACE)]));
    }

    #[test]
    fn an_interrupt_does_not_wait() {
        let mut play = delayed();
        assert_eq!(play.step(stop(StopCause::Interrupt)), [shutdown(StopCause::Interrupt), drain_last(1, GRACE)]);
        let mut play = delayed();
        play.step(stop(StopCause::Terminate));
        assert_eq!(play.step(stop(StopCause::Interrupt)), [kill(1)], "a stop is under way");
    }

    #[test]
    fn whoever_dies_meanwhile_is_not_replaced() {
        let mut play = delayed();
        play.step(stop(StopCause::Terminate));
        assert_eq!(play.step(exited(1, Code(1))).len(), 2, "reaped, and the end");
    }
}
