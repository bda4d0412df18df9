//! What the primary function hears of its workers, and what the list of workers says meanwhile.

use std::collections::{BTreeMap, BTreeSet};

use support::{Cluster, Launch, Signal, send};

fn talker(program: &str) -> Launch {
    Cluster::of(env!("CARGO_BIN_EXE_talker")).args([program])
}

fn life(way: &str) -> Launch {
    Cluster::of(env!("CARGO_BIN_EXE_talker")).args(["life", way])
}

/// The events of each worker, in the order in which they came.
#[derive(Debug)]
struct Lives(BTreeMap<u64, Vec<String>>);

impl Lives {
    fn read(log: &str) -> Self {
        let mut lives = BTreeMap::<u64, Vec<String>>::new();
        for line in log.lines() {
            if let Some((name, rest)) = line.split_once("(WorkerId(")
                && ["Forked", "Online", "Listening", "Ready", "Message", "Disconnected", "Exited"].contains(&name)
            {
                let (id, _) = rest.split_once(')').unwrap();
                lives.entry(id.parse().unwrap()).or_default().push(line.to_owned());
            }
        }
        Self(lives)
    }

    fn ids(&self) -> Vec<u64> {
        self.0.keys().copied().collect()
    }

    /// Checks that this worker's life had exactly these events. Those between `Online` and `Disconnected` have no fixed order.
    #[track_caller]
    fn expect(&self, id: u64, events: &[&str]) {
        let life = &self.0[&id];
        let mut names: Vec<&str> = life.iter().map(|line| line.split('(').next().unwrap()).collect();
        if let (Some(first), Some(last)) = (position(&names, "Online"), position(&names, "Disconnected"))
            && first < last
        {
            names[first + 1..last].sort_unstable();
        }
        assert_eq!(names, events, "of worker {id}: {life:?}");
    }

    /// The last event of this worker.
    fn end(&self, id: u64) -> &str {
        self.0[&id].last().unwrap()
    }
}

fn position(names: &[&str], name: &str) -> Option<usize> {
    names.iter().position(|found| *found == name)
}

const WHOLE_LIFE: [&str; 6] = ["Forked", "Online", "Listening", "Ready", "Disconnected", "Exited"];

/// Waits until the primary function has heard of so many workers that are ready.
#[track_caller]
fn wait_for_ready(cluster: &mut Cluster, count: usize) {
    wait_for_events(cluster, "Ready(", count);
}

/// Waits until the primary function has heard of so many listeners, and that their workers are ready.
#[track_caller]
fn wait_for_listeners(cluster: &mut Cluster, count: usize) {
    wait_for_events(cluster, "Listening(", count);
    wait_for_events(cluster, "Ready(", count / 2);
}

#[track_caller]
fn wait_for_events(cluster: &mut Cluster, event: &str, count: usize) {
    cluster.wait_until(&format!("{count} times {event:?}"), |cluster| {
        (cluster.log_text().lines().filter(|line| line.starts_with(event)).count() == count).then_some(())
    });
}

/// Stops the cluster; what was heard of its workers.
#[track_caller]
fn stop(cluster: &mut Cluster) -> Lives {
    cluster.signal(Signal::SIGTERM);
    end(cluster, 0)
}

#[track_caller]
fn end(cluster: &mut Cluster, code: i32) -> Lives {
    cluster.expect_exit(code);
    let log = cluster.log_text();
    Lives::read(&log)
}

/// test-cluster-basic: ids start at 1, and each event comes once.
#[test]
fn a_worker_that_stops_is_heard_of_from_fork_to_exit() {
    let mut cluster = life("stops").start();
    wait_for_ready(&mut cluster, 2);
    let lives = stop(&mut cluster);
    assert_eq!(lives.ids(), [1, 2]);
    for id in [1, 2] {
        lives.expect(id, &WHOLE_LIFE);
        assert!(lives.end(id).ends_with("Exit { status: Code(0), reason: Asked })"), "{}", lives.end(id));
    }
}

/// test-cluster-worker-kill-signal, test-cluster-worker-isdead.
#[test]
fn a_worker_that_a_signal_ends_is_heard_of_from_fork_to_exit() {
    let mut cluster = life("is-killed").workers(1).start();
    wait_for_ready(&mut cluster, 1);
    send(*cluster.workers().first().unwrap(), Signal::SIGABRT);
    cluster.wait_for("Ready(WorkerId(2))");
    let lives = stop(&mut cluster);
    assert_eq!(lives.ids(), [1, 2]);
    lives.expect(1, &WHOLE_LIFE);
    lives.expect(2, &WHOLE_LIFE);
    assert!(lives.end(1).ends_with("Exit { status: Signal(6), reason: Crashed })"), "{}", lives.end(1));
}

/// test-cluster-worker-death, test-cluster-worker-exit: the code is the worker's own; one end of messages, one exit.
#[test]
fn a_worker_that_exits_by_itself_is_heard_of_from_fork_to_exit() {
    let mut cluster = life("exits").start();
    wait_for_ready(&mut cluster, 3);
    cluster.wait_for("Exited(WorkerId(1), Exit { status: Code(42), reason: Crashed })");
    let lives = stop(&mut cluster);
    assert_eq!(lives.ids(), [1, 2, 3]);
    lives.ids().into_iter().for_each(|id| lives.expect(id, &WHOLE_LIFE));
}

/// What is said with the last breath counts too.
#[test]
fn a_worker_that_returns_as_soon_as_it_is_ready_was_ready() {
    let mut cluster = life("is-brief").workers(1).env("CLUSTER_RESTART", "never").start();
    let lives = end(&mut cluster, 0);
    lives.expect(1, &["Forked", "Online", "Ready", "Disconnected", "Exited"]);
    assert!(lives.end(1).ends_with("Exit { status: Code(0), reason: Finished })"), "{}", lives.end(1));
}

#[test]
fn a_worker_that_fails_before_it_is_ready_is_heard_of_without_ready() {
    let mut cluster = life("fails").workers(1).start();
    let lives = end(&mut cluster, 3);
    lives.expect(1, &["Forked", "Online", "Disconnected", "Exited"]);
    assert!(lives.end(1).ends_with("Exit { status: Code(1), reason: FailedToStart })"), "{}", lives.end(1));
}

#[test]
fn a_worker_that_fails_before_it_is_online_is_only_forked_and_exited() {
    let mut cluster = life("stillborn").workers(1).start();
    let lives = end(&mut cluster, 3);
    lives.expect(1, &["Forked", "Exited"]);
    assert!(lives.end(1).ends_with("Exit { status: Code(7), reason: FailedToStart })"), "{}", lives.end(1));
}

/// test-cluster-worker-disconnect, test-cluster-worker-destroy.
#[test]
fn a_worker_that_leaves_and_its_successor_are_heard_of_from_fork_to_exit() {
    let mut cluster = life("leaves").start();
    wait_for_ready(&mut cluster, 3);
    cluster.wait_for("Exited(WorkerId(1), Exit { status: Code(0), reason: Asked })");
    let lives = stop(&mut cluster);
    lives.expect(1, &WHOLE_LIFE);
    lives.expect(2, &WHOLE_LIFE);
    assert_eq!(lives.ids(), [1, 2, 3], "one successor");
}

/// test-cluster-basic: the address has the real port.
#[test]
fn each_listener_is_told_once_with_its_real_address() {
    let mut cluster = life("two-ports").start();
    cluster.wait_for("2 workers ready on");
    cluster
        .wait_until("four listeners", |cluster| (cluster.log_text().matches("Listening(").count() == 4).then_some(()));
    let lives = stop(&mut cluster);
    let mut addresses = BTreeMap::<&str, usize>::new();
    for id in [1, 2] {
        lives.expect(id, &["Forked", "Online", "Listening", "Listening", "Ready", "Disconnected", "Exited"]);
        for line in lives.0[&id].iter().filter(|line| line.starts_with("Listening")) {
            let (_, address) = line.split_once("Tcp(").unwrap();
            *addresses.entry(address.trim_end_matches(')')).or_default() += 1;
        }
    }
    assert_eq!(addresses.values().collect::<Vec<_>>(), [&2, &2], "two addresses, the same for both: {addresses:?}");
    let real = |address: &&str| address.strip_prefix("127.0.0.1:").is_some_and(|port| port.parse::<u16>().unwrap() > 0);
    assert!(addresses.keys().all(real), "{addresses:?}");
}

#[test]
fn many_workers_at_once_are_each_heard_of_from_fork_to_exit() {
    let mut cluster = life("two-ports").workers(24).start();
    wait_for_listeners(&mut cluster, 48);
    let lives = stop(&mut cluster);
    assert_eq!(lives.ids(), (1..=24).collect::<Vec<_>>());
    for id in lives.ids() {
        lives.expect(id, &["Forked", "Online", "Listening", "Listening", "Ready", "Disconnected", "Exited"]);
    }
}

/// The last event comes last: messages, then their end, then the exit.
#[test]
fn an_exit_is_told_after_every_message_of_the_worker() {
    let mut cluster = Cluster::of(env!("CARGO_BIN_EXE_talker")).args(["parting", "is-killed"]).start();
    cluster.wait_for("primary: took 10000 of 1 in order");
    cluster.wait_for("Disconnected(WorkerId(1))");
    cluster.wait_for("Exited(WorkerId(1), Exit { status: Signal(9), reason: Crashed })");
    let lives = stop(&mut cluster);
    lives.expect(1, &["Forked", "Online", "Disconnected", "Exited"]);
}

/// test-cluster-worker-isconnected, test-cluster-worker-isdead.
#[test]
fn the_list_of_workers_tells_at_each_stage_how_the_worker_stands() {
    let mut cluster = talker("stages").workers(1).start();
    let mut stages = Vec::new();
    for (when, state, connected, asked) in [
        ("stopped", "Starting", false, false),
        ("online", "Starting", true, false),
        ("ready", "Ready", true, false),
        ("told to go", "Draining", true, true),
    ] {
        let told = cluster.wait_for(&format!("primary: {when}: "));
        let (_, list) = told.split_once(": [").unwrap();
        let expected = format!("state: {state}, connected: {connected}, exit_asked_for: {asked}, open: 0, ");
        assert!(list.starts_with("WorkerInfo { id: WorkerId(1), slot: 0, generation: 1, pid: "), "{told}");
        assert!(list.contains(&expected), "{told}");
        let (_, pid) = list.split_once("pid: ").unwrap();
        stages.push(pid.split(',').next().unwrap().to_owned());
    }
    let pids: BTreeSet<_> = stages.iter().collect();
    assert_eq!(pids.len(), 1, "{stages:?}");
    cluster.wait_for("primary: exited: []");
    cluster.expect_exit(0);
}

/// An event never comes before the list shows it.
#[test]
fn the_list_of_workers_is_never_behind_the_events() {
    for _ in 0..3 {
        let mut cluster = life("two-ports").workers(24).start();
        cluster.wait_until("all to be ready", |cluster| {
            (cluster.log_text().matches("Ready(").count() == 24).then_some(())
        });
        stop(&mut cluster);
        let log = cluster.log_text();
        assert!(!log.contains("CONTRADICTION"), "{log}");
    }
}

#[test]
fn ids_are_never_used_again_and_slots_are() {
    let mut cluster = Cluster::of(env!("CARGO_BIN_EXE_web")).workers(2).start();
    let address = cluster.wait_ready();
    let mut last = 2;
    for round in 0..3 {
        let victim = support::who::find(address, |who| who.slot == round % 2);
        send(victim.pid, Signal::SIGKILL);
        last += 1;
        cluster.wait_for(&format!("Ready(WorkerId({last}))"));
        let successor = support::who::find(address, |who| who.id == last);
        assert_eq!(successor.slot, victim.slot);
    }
    let lives = stop(&mut cluster);
    assert_eq!(lives.ids(), [1, 2, 3, 4, 5]);
    lives.ids().into_iter().for_each(|id| lives.expect(id, &WHOLE_LIFE));
}

#[test]
fn the_primary_function_can_stop_the_cluster_and_hears_everything_to_the_end() {
    let mut cluster = life("stops-itself").workers(3).start();
    let lives = end(&mut cluster, 0);
    for id in [1, 2, 3] {
        lives.expect(id, &WHOLE_LIFE);
        assert!(lives.end(id).ends_with("reason: Asked })"), "{}", lives.end(id));
    }
    let log = cluster.log_text();
    let (before, after) = log.split_once("None, and again None, with 0 workers").expect(&log);
    assert_eq!(before.matches("Exited(").count(), 3);
    assert!(!after.contains("WorkerId"), "nothing follows the end: {after}");
}

#[test]
fn each_function_knows_in_which_process_it_runs() {
    let mut cluster = life("stops").start();
    wait_for_ready(&mut cluster, 2);
    stop(&mut cluster);
    let log = cluster.log_text();
    assert_eq!(log.matches("in a worker: worker=true primary=false").count(), 2, "{log}");
    assert_eq!(log.matches("in the primary: worker=false primary=true").count(), 1, "{log}");
}

#[test]
fn handles_work_in_other_threads_and_tasks_than_the_events() {
    let mut cluster = talker("handles").start();
    cluster.wait_for("primary: in a task: Ok(4) Ok(2)");
    cluster.wait_for("primary: in a thread: Ok(2) Ok(()) 2");
    end(&mut cluster, 0);
    let log = cluster.log_text();
    for heard in ["worker 1: heard 7", "worker 1: heard 8", "worker 2: heard 8"] {
        assert!(log.contains(heard), "{log}");
    }
}
