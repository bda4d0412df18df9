//! Messages between workers: what arrives, in which order, at whom, and what becomes of it when somebody goes.

use std::collections::BTreeSet;
use std::fs;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use nix::unistd::Pid;
use support::http;
use support::release::Release;
use support::who::{self, Kept, Who};
use support::{Cluster, Launch, Signal, send};

const PEERS: &str = env!("CARGO_BIN_EXE_peers");

fn peers<const N: usize>(args: [&str; N]) -> Launch {
    Cluster::of(PEERS).args(args)
}

#[track_caller]
fn stop(cluster: &mut Cluster) {
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// The worker of a slot, and a connection that is kept to it.
fn keep(address: SocketAddr, slot: usize) -> (Who, Kept) {
    let mut kept = who::keep(address, |who| who.slot == slot);
    (kept.ask(), kept)
}

fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

#[test]
fn messages_of_all_to_all_and_to_oneself_keep_their_order_and_calls_pass_between_them() {
    let mut cluster = peers(["order", "3"]).workers(3).start();
    let lines: Vec<_> = (1..=3)
        .flat_map(|id| (0..3).map(move |slot| (id, slot)))
        .flat_map(|(id, slot)| {
            [
                format!("worker {id}: took 30000 of slot {slot} in order"),
                format!("worker {id}: 200 answers of slot {slot} are right"),
            ]
        })
        .collect();
    cluster.wait_until(&format!("{lines:?}"), |cluster| {
        let log = cluster.log_text();
        lines.iter().all(|line| log.lines().any(|found| found == line)).then_some(())
    });
    // Nobody asks for the shutdown, so that the mains are ended.
    stop(&mut cluster);
}

#[test]
fn a_broadcast_reaches_the_workers_of_all_other_slots_and_says_how_many() {
    let mut cluster = peers(["broadcast"]).workers(4).start();
    cluster.wait_logged("reaches 3");
    for _ in 0..3 {
        cluster.wait_until("three that have heard it", |cluster| {
            (cluster.log_text().matches(": heard ").count() == 3).then_some(())
        });
    }
    cluster.signal(Signal::SIGTTOU);
    cluster.wait_logged("reaches 2");
    stop(&mut cluster);
}

#[test]
fn what_a_worker_has_sent_to_others_before_main_returns_arrives() {
    let mut cluster = peers(["parting"]).start();
    // It is replaced, and its successor does the same.
    for _ in 0..2 {
        cluster.wait_for(": took 20000 in order");
    }
    stop(&mut cluster);
}

/// Two windows, two socket buffers, and some change.
const ON_THE_WAY: u64 = 40;

#[test]
fn a_worker_that_takes_nothing_makes_its_peers_wait() {
    let mut cluster = peers(["flood"]).start();
    let line = cluster.wait_for(": stuck at ");
    let sent: u64 = line.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(sent <= ON_THE_WAY, "{sent} were sent though none was taken");
    stop(&mut cluster);
}

#[test]
fn where_no_worker_is_sending_and_calling_fails_at_once() {
    let mut cluster = peers(["service"]).start();
    let address = cluster.wait_ready();
    for slot in ["2", "1023", "1024", "18446744073709551615"] {
        assert_eq!(http::body(address, &format!("/try/{slot}")), "Err(Gone) Err(Failed(Gone))");
        assert_eq!(http::body(address, &format!("/peer/{slot}")), "Gone");
    }
    assert_eq!(http::body(address, "/try/1"), "Ok(()) Ok(())");
    stop(&mut cluster);
}

#[test]
fn the_death_of_a_peer_fails_what_was_asked_of_it_at_once_and_its_replacement_is_reached() {
    let mut cluster = peers(["service"]).start();
    let address = cluster.wait_ready();
    let (_, mut zero) = keep(address, 0);
    let (one, _) = keep(address, 1);
    assert_eq!(zero.body("/peer/1"), format!("{} 1", one.id));
    let asking = thread::spawn(move || {
        let answer = zero.body("/hold/1");
        (zero, answer)
    });
    cluster.wait_for(&format!("worker {}: does not answer", one.id));
    send(one.pid, Signal::SIGKILL);
    let (mut zero, answer) = asking.join().unwrap();
    assert_eq!(answer, "Err(Gone)");
    // Until it has said hello there is nobody.
    let replaced = cluster.wait_until("the replacement", |_| Some(zero.body("/peer/1")).filter(|it| it != "Gone"));
    assert_eq!(replaced, "3 1");
    stop(&mut cluster);
}

/// Asks one worker after the other for its peers, all the time.
struct Talk {
    stop: Arc<AtomicBool>,
    asking: Vec<thread::JoinHandle<(usize, Vec<String>)>>,
}

impl Talk {
    fn start(address: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let ask = |slot: usize| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let (mut answered, mut errors) = (0, Vec::new());
                while answered == 0 || !stop.load(Ordering::SeqCst) {
                    match http::body(address, &format!("/peer/{slot}")) {
                        answer if answer.split(' ').count() == 2 => answered += 1,
                        error => errors.push(error),
                    }
                }
                (answered, errors)
            })
        };
        let asking = vec![ask(0), ask(1), ask(0), ask(1)];
        Self { stop, asking }
    }

    /// What was answered, and what was not.
    fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::SeqCst);
        let parts = self.asking.into_iter().map(|asking| asking.join().unwrap());
        parts.fold((0, Vec::new()), |(all, mut errors), (answered, more)| {
            errors.extend(more);
            (all + answered, errors)
        })
    }
}

fn generations(address: SocketAddr) -> BTreeSet<String> {
    let answers = (0..20).flat_map(|_| ["/peer/0", "/peer/1"].map(|path| http::body(address, path)));
    answers.map(|answer| answer.rsplit(' ').next().unwrap().to_owned()).collect()
}

#[test]
fn reloads_and_upgrades_lose_no_call_but_those_that_the_old_had_not_taken_and_then_all_go_to_the_new() {
    let release = Release::of(PEERS);
    let program = release.program();
    let mut cluster = Cluster::of(program.to_str().unwrap()).args(["service"]).start();
    let address = cluster.wait_ready();
    let talk = Talk::start(address);
    for generation in 2..=5 {
        let signal = if generation % 2 == 0 { Signal::SIGHUP } else { Signal::SIGUSR2 };
        cluster.signal(signal);
        cluster.wait_for(&format!("reloaded: all workers are of generation {generation}"));
        // Who still serves may be one of before, but not whom it asks.
        assert_eq!(generations(address), BTreeSet::from([generation.to_string()]));
    }
    let (answered, errors) = talk.stop();
    assert!(errors.iter().all(|error| error == "Gone"), "{errors:?}");
    // One that the old one's main had not taken when it returned: of each of two askers, in each of two slots, four times.
    assert!(errors.len() <= 16, "{answered} answered, {errors:?}");
    stop(&mut cluster);
}

#[test]
fn workers_that_have_lost_their_primary_still_talk_while_they_drain() {
    let mut cluster = peers(["service", "orphans"]).env("CLUSTER_GRACE", "5s").start();
    let address = cluster.wait_ready();
    let (zero, mut to_zero) = keep(address, 0);
    let (one, mut to_one) = keep(address, 1);
    assert_eq!(to_zero.body("/peer/1"), format!("{} 1", one.id));
    assert_eq!(to_one.body("/peer/0"), format!("{} 1", zero.id));
    cluster.signal(Signal::SIGKILL);
    for (asker, asked) in [(zero, one), (one, zero)] {
        cluster.wait_logged(&format!("worker {}: drains; round 1: {} 1", asker.id, asked.id));
    }
    cluster.wait_exit();
    cluster.expect_nothing_left();
}

/// Each waits for what the other may send; they would be killed when the grace period is over.
#[test]
fn workers_that_have_lost_their_primary_do_not_wait_for_each_other_for_ever() {
    let mut cluster = peers(["mutual"]).env("CLUSTER_GRACE", "3s").start();
    for id in [1, 2] {
        cluster.wait_logged(&format!("worker {id}: has heard of the other"));
    }
    cluster.signal(Signal::SIGKILL);
    for id in [1, 2] {
        cluster.wait_logged(&format!("worker {id}: takes no more"));
    }
    cluster.wait_exit();
    cluster.expect_nothing_left();
}

#[test]
fn fifty_reloads_leave_no_descriptor_behind() {
    let mut cluster = peers(["service"]).start();
    let address = cluster.wait_ready();
    let talk_all = |cluster: &mut Cluster| {
        let pids = cluster.wait_for_workers(2);
        for slot in [0, 1] {
            let (_, mut kept) = keep(address, slot);
            for peer in ["/peer/0", "/peer/1"] {
                assert_eq!(kept.body(peer).split(' ').count(), 2);
            }
        }
        (descriptors(cluster.primary()), pids.into_iter().map(descriptors).max().unwrap())
    };
    let reload = |cluster: &mut Cluster, generation: usize| {
        cluster.signal(Signal::SIGHUP);
        cluster.wait_for(&format!("reloaded: all workers are of generation {generation}"));
        cluster.wait_for_workers(2);
    };
    reload(&mut cluster, 2);
    let (primary, worker) = talk_all(&mut cluster);
    for generation in 3..=51 {
        reload(&mut cluster, generation);
        _ = talk_all(&mut cluster);
    }
    cluster.wait_until("as many descriptors as before", |cluster| {
        let (primary_now, worker_now) = talk_all(cluster);
        (primary_now <= primary && worker_now <= worker).then_some(())
    });
    stop(&mut cluster);
}

/// A cluster of two, one of which is followed by a hostile one.
struct Scene {
    cluster: Cluster,
    address: SocketAddr,
    sibling: Who,
    kept: Kept,
    descriptors: (usize, usize),
}

impl Scene {
    fn set(behaviour: &str) -> Self {
        let mut cluster = peers(["service", "plain", behaviour]).env("CLUSTER_GRACE", "5s").start();
        let address = cluster.wait_ready();
        let (sibling, mut kept) = keep(address, 0);
        let (victim, to_victim) = keep(address, 1);
        // It has a lane of its own; its sibling's to it goes with it.
        assert_eq!(kept.body("/peer/0"), format!("{} 1", sibling.id));
        assert_eq!(kept.body("/peer/1"), format!("{} 1", victim.id));
        drop(to_victim);
        let descriptors = (descriptors(cluster.primary()), descriptors(sibling.pid));
        send(victim.pid, Signal::SIGKILL);
        Self { cluster, address, sibling, kept, descriptors }
    }

    /// Waits for a line while the sibling serves, and talks to itself.
    #[track_caller]
    fn wait_for(&mut self, text: &str) {
        let own = format!("{} 1", self.sibling.id);
        let Self { cluster, kept, .. } = self;
        cluster.wait_until(text, |cluster| {
            assert_eq!(kept.body("/peer/0"), own);
            cluster.log_text().contains(text).then_some(())
        });
    }

    /// The hostile one is gone, a good one follows, and everything is as before.
    #[track_caller]
    fn expect_no_harm(mut self) {
        self.wait_for("Ready(WorkerId(4))");
        let (four, _) = keep(self.address, 1);
        assert_eq!((four.id, self.kept.body("/peer/1")), (4, "4 1".to_owned()));
        let (primary, sibling) = (self.cluster.primary(), self.sibling.pid);
        let before = self.descriptors;
        self.cluster.wait_until("as many descriptors as before", |_| {
            let now = (descriptors(primary), descriptors(sibling));
            (now.0 <= before.0 && now.1 <= before.1).then_some(())
        });
        assert!(!self.cluster.log_text().contains("panicked"));
        stop(&mut self.cluster);
    }

    fn end_the_hostile_one(&mut self) {
        let hostile = self.cluster.workers().into_iter().find(|pid| *pid != self.sibling.pid).unwrap();
        send(hostile, Signal::SIGKILL);
    }
}

#[test]
fn whoever_asks_for_lanes_in_a_loop_gets_one_to_each_worker() {
    let mut scene = Scene::set("loop");
    // One to the sibling, and one to itself, of which it has both ends.
    scene.wait_for("hostile: got 3 lanes");
    assert!(descriptors(scene.sibling.pid) <= scene.descriptors.1 + 1);
    scene.end_the_hostile_one();
    scene.expect_no_harm();
}

#[test]
fn whoever_asks_for_absurd_slots_and_workers_gets_nothing() {
    let mut scene = Scene::set("absurd");
    scene.wait_for("hostile: got 0 lanes");
    scene.end_the_hostile_one();
    scene.expect_no_harm();
}

#[test]
fn whoever_talks_nonsense_to_a_worker_loses_that_lane_and_the_worker_serves_on() {
    let mut scene = Scene::set("garbage");
    scene.wait_for("hostile: lost 1 lanes");
    scene.wait_for(
        "the messages between this worker and worker 3 end, as they cannot be read: a frame of 542393671 bytes",
    );
    scene.end_the_hostile_one();
    scene.expect_no_harm();
}

#[test]
fn whoever_asks_and_never_listens_is_told_off() {
    let mut scene = Scene::set("deaf");
    scene.wait_for("broke the protocol and is killed: it does not read its control lane");
    scene.expect_no_harm();
}
