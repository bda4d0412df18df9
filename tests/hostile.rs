//! A worker breaks the protocol: it is told off and replaced, and neither its sibling nor the primary is hurt.

use std::fs;
use std::net::SocketAddr;
use std::thread;

use nix::unistd::Pid;
use support::who::{self, Kept, Who, who};
use support::{Cluster, Signal, send};

const HOSTILE: &str = env!("CARGO_BIN_EXE_hostile");

/// What a primary may hold more afterwards than before: what its allocator keeps, and not what a worker has sent.
const GROWTH_KB: u64 = 8 << 10;

/// The most bytes of a message.
const MAX_MESSAGE: u64 = 32 << 20;

#[test]
fn garbage_on_the_control_lane_is_told_off() {
    told_off("garbage", "control lane: a packet that makes no sense (");
    told_off("empty", "control lane: a packet that makes no sense (");
}

#[test]
fn a_packet_that_is_too_large_is_told_off() {
    told_off("oversized", "control lane: a packet that makes no sense (larger than any of ours");
    told_off("huge", "control lane: a packet that makes no sense (larger than any of ours");
}

#[test]
fn another_version_of_the_protocol_is_told_off() {
    told_off("protocol", "control lane: protocol 7 instead of 6: it is of another build of cluster");
}

#[test]
fn another_codec_is_told_off_by_its_feature() {
    let (ours, theirs) = if cfg!(feature = "bincode") { ("bincode", "postcard") } else { ("postcard", "bincode") };
    told_off(
        "codec",
        &format!("built with cluster's feature `{theirs}`, and this one with `{ours}`: build both with the"),
    );
}

#[test]
fn other_message_types_are_told_off_by_name() {
    told_off("fingerprint", "its message type ToPrimary (000000000000002a) differs from the primary's ToPrimary (");
    told_off(
        "type-name",
        "its message type FromAnotherProgram (000000000000002a) differs from the primary's ToPrimary (",
    );
}

#[test]
fn speaking_out_of_turn_is_told_off() {
    told_off("hello-twice", "it said hello twice");
    told_off("no-hello", "it spoke before it said hello");
}

#[test]
fn descriptors_that_nobody_asked_for_are_closed() {
    told_off("descriptors", "control lane: a packet that makes no sense (");
    told_off("descriptors-with-sense", "control lane: a packet that makes no sense (");
}

#[test]
fn a_worker_that_closes_its_control_lane_and_lives_on_is_killed_after_some_seconds() {
    told_off("silence", "it closed its control lane and lives on");
}

#[test]
fn a_flood_of_requests_whose_answers_nobody_reads_is_told_off() {
    told_off("ports", "it does not read its control lane");
}

#[test]
fn nonsense_on_the_messages_lane_is_told_off() {
    // "GET " as a length.
    told_off("message-garbage", "a frame of 542393671 bytes; the limit is 131073");
    told_off("message-giant", "a frame of 2147483647 bytes; the limit is 131073");
    told_off("message-kind", "a frame of the unknown kind 99");
    told_off("message-credit", "credit");
}

#[test]
fn messages_that_cannot_be_decoded_are_told_off_by_the_types_name() {
    told_off("message-unknown", "a message of type ToPrimary cannot be decoded");
    told_off("message-longer", "a message of type ToPrimary cannot be decoded: 1 bytes are left over");
}

/// Half a message is no message, and no more than that: the worker has crashed.
#[test]
fn a_worker_that_ends_in_the_middle_of_a_message_is_replaced_like_any_other() {
    let mut scene = Scene::set("message-half");
    scene.bring_in_the_hostile_one();
    scene.wait_for("failed before it was ready (exit code 7); restarted in 100ms");
    scene.expect_no_harm();
}

fn told_off(behaviour: &str, told: &str) {
    let mut scene = Scene::set(behaviour);
    scene.bring_in_the_hostile_one();
    let line = scene.wait_for("broke the protocol and is killed: ");
    assert!(line.contains(told), "{line}");
    let form = format!("cluster: slot={} generation=1 worker=3 pid=", scene.victim.slot);
    assert!(line.starts_with(&form), "{line}");
    scene.wait_for("Exited(WorkerId(3), Exit { status: Signal(9), reason: Misbehaved })");
    scene.expect_no_harm();
    let log = scene.cluster.log_text();
    assert_eq!(log.matches("broke the protocol (killed by SIGKILL); restarted in 100ms").count(), 1, "{log}");
}

#[test]
fn floods_of_descriptors_on_the_messages_lane_are_told_off_and_closed() {
    told_off("rights-without-frames", "descriptors that belong to no message");
    told_off("rights-too-many", "descriptors that belong to no message");
    told_off("rights-too-few", "a frame that says to come with 3 descriptors, and does not");
    told_off("rights-that-nobody-wants", "a message of type ToPrimary cannot be decoded");
}

#[test]
fn a_message_in_pieces_without_an_end_is_told_off_at_the_limit() {
    told_off("message-pieces-beyond-the-limit", "the limit is 33554432");
}

/// It may still come. Until then it costs what has come of it, which `max_message` bounds, and afterwards nothing.
#[test]
fn a_message_that_is_begun_and_never_finished_takes_no_more_memory_than_one_may() {
    let mut scene = Scene::set("message-pieces");
    scene.bring_in_the_hostile_one();
    scene.wait_for("Ready(WorkerId(3))");
    scene.go_on_for(200);
    let most = scene.resident_kb + (MAX_MESSAGE >> 10) + GROWTH_KB;
    let held = resident_kb(scene.cluster.primary());
    assert!(held < most, "{held} kB where {most} would be enough");
    scene.put_an_end_to_the_hostile_one();
    scene.expect_no_harm();
}

#[test]
fn half_a_frame_and_then_silence_costs_nobody_anything() {
    for behaviour in ["message-half-and-silence", "rights-half-a-frame"] {
        let mut scene = Scene::set(behaviour);
        scene.bring_in_the_hostile_one();
        scene.wait_for("Ready(WorkerId(3))");
        scene.go_on_for(200);
        assert!(resident_kb(scene.cluster.primary()) < scene.resident_kb + GROWTH_KB);
        scene.put_an_end_to_the_hostile_one();
        scene.expect_no_harm();
    }
}

#[test]
fn a_worker_that_says_nothing_at_all_is_replaced_when_its_time_to_start_is_over() {
    for behaviour in ["nothing", "hello-and-nothing"] {
        let mut scene = Scene::set_with(behaviour, "2s");
        scene.bring_in_the_hostile_one();
        scene.wait_for("was not ready within the start timeout");
        scene.expect_no_harm();
    }
}

/// Who gets a connection, and when, may be wrong as long as it goes on, and nothing else: what is given to a worker that only seems to take
/// it waits for the one after it.
#[test]
fn a_worker_that_scribbles_all_over_the_board_costs_no_request() {
    let mut scene = Scene::set("board");
    scene.bring_in_the_hostile_one();
    scene.wait_for("Ready(WorkerId(3))");
    let address = scene.address;
    let clients: Vec<_> = (0..16).map(|_| thread::spawn(move || (0..10).for_each(|_| _ = who(address)))).collect();
    for _ in 0..500 {
        assert_eq!(scene.kept.ask(), scene.sibling);
    }
    assert!(resident_kb(scene.cluster.primary()) < scene.resident_kb + GROWTH_KB);
    scene.put_an_end_to_the_hostile_one();
    clients.into_iter().for_each(|client| client.join().expect("all are answered"));
    // By what stands on the board now, the primary may have to look after the shard and the mailbox of either slot.
    scene.spare_descriptors = 4;
    scene.expect_no_harm();
}

#[test]
fn a_worker_that_fills_the_mailboxes_of_others_costs_no_request() {
    go_on_beside("mailboxes-garbage");
    go_on_beside("mailboxes-forged");
}

#[test]
fn a_worker_that_shuts_all_mailboxes_down_costs_no_request() {
    go_on_beside("mailboxes-shut");
}

#[test]
fn a_worker_that_jams_the_bell_costs_no_request() {
    go_on_beside("bell");
}

/// What it does goes on until it is killed, and cannot be seen by the primary.
fn go_on_beside(behaviour: &str) {
    let mut scene = Scene::set(behaviour);
    scene.bring_in_the_hostile_one();
    scene.wait_for("Ready(WorkerId(3))");
    scene.go_on_for(300);
    // The primary is not held up, either.
    send(scene.sibling.pid, Signal::SIGKILL);
    scene.cluster.wait_logged("Ready(WorkerId(4))");
    scene.sibling = who::find(scene.address, |who| who.id == 4);
    scene.kept = who::keep(scene.address, |who| who.id == 4);
    scene.go_on_for(300);
    assert!(resident_kb(scene.cluster.primary()) < scene.resident_kb + GROWTH_KB);
    scene.put_an_end_to_the_hostile_one();
    scene.expect_no_harm_from(5);
}

/// It is not a fault to be slow: whoever broadcasts waits, but supervision does not, and memory does not grow.
#[test]
fn a_worker_that_never_reads_its_messages_holds_up_the_broadcaster_only() {
    let mut scene = Scene::set("deaf");
    scene.bring_in_the_hostile_one();
    scene.wait_for("a broadcast waits");
    assert!(resident_kb(scene.cluster.primary()) < scene.resident_kb + GROWTH_KB);
    scene.put_an_end_to_the_hostile_one();
    scene.wait_for("the broadcast is done");
    scene.expect_no_harm();
}

/// The primary goes on with its work, and a stop ends this one too.
#[test]
fn a_worker_that_never_stops_talking_cannot_keep_the_primary_from_its_work() {
    let mut scene = Scene::set("chatter");
    scene.bring_in_the_hostile_one();
    scene.wait_for("Ready(WorkerId(3))");
    send(scene.sibling.pid, Signal::SIGKILL);
    scene.cluster.wait_logged("Ready(WorkerId(4))");
    assert!(resident_kb(scene.cluster.primary()) < scene.resident_kb + GROWTH_KB);
    scene.cluster.signal(Signal::SIGTERM);
    scene.cluster.expect_exit(5);
}

/// Every port costs the primary a descriptor, and there must be some left for a replacement.
#[test]
fn a_worker_that_asks_for_port_after_port_does_not_use_up_the_primarys_descriptors() {
    let mut scene = Scene::set("many-ports");
    scene.bring_in_the_hostile_one();
    let asked = scene.cluster.wait_until("the end of the flood", |cluster| {
        scene.kept.ask();
        let log = cluster.log_text();
        ["it has asked for many ports", "broke the protocol"].into_iter().find(|end| log.contains(end))
    });
    if asked == "it has asked for many ports" {
        scene.put_an_end_to_the_hostile_one();
    }
    scene.wait_for("Ready(WorkerId(4))");
    assert_eq!(scene.kept.ask(), scene.sibling);
    scene.cluster.signal(Signal::SIGTERM);
    scene.cluster.expect_exit(0);
}

/// A cluster of two good workers, one of which will be followed by the hostile one.
struct Scene {
    cluster: Cluster,
    address: SocketAddr,
    victim: Who,
    sibling: Who,
    /// The sibling's connection, which must not notice anything.
    kept: Kept,
    descriptors: usize,
    /// How many more the primary may have in the end.
    spare_descriptors: usize,
    resident_kb: u64,
}

impl Scene {
    fn set(behaviour: &str) -> Self {
        Self::set_with(behaviour, "60s")
    }

    fn set_with(behaviour: &str, start_timeout: &str) -> Self {
        // Fewer descriptors than a shell gives, so that a leak is not hidden by their number.
        let script = "ulimit -n 256; exec \"$0\" \"$@\"";
        let launch = Cluster::of("sh").args(["-c", script, HOSTILE, behaviour]);
        let launch = launch.env("CLUSTER_GRACE", "5s").env("CLUSTER_START_TIMEOUT", start_timeout);
        let mut cluster = launch.env("CLUSTER_MAX_MESSAGE", &MAX_MESSAGE.to_string()).start();
        let address = cluster.wait_ready();
        let victim = who(address);
        let sibling = who::find(address, |who| who.id != victim.id);
        let kept = who::keep(address, |who| who.id == sibling.id);
        let descriptors = descriptors(cluster.primary());
        let resident_kb = resident_kb(cluster.primary());
        Self { cluster, address, victim, sibling, kept, descriptors, spare_descriptors: 0, resident_kb }
    }

    fn bring_in_the_hostile_one(&mut self) {
        send(self.victim.pid, Signal::SIGKILL);
        self.wait_for("Forked(WorkerId(3))");
    }

    /// The primary cannot see what it does, or does not mind.
    fn put_an_end_to_the_hostile_one(&mut self) {
        let hostile = self.cluster.workers().into_iter().find(|pid| *pid != self.sibling.pid).unwrap();
        send(hostile, Signal::SIGKILL);
    }

    /// So many requests on the sibling's connection, and as many on new ones.
    #[track_caller]
    fn go_on_for(&mut self, requests: usize) {
        for _ in 0..requests {
            assert_eq!(self.kept.ask(), self.sibling);
            assert_eq!(who(self.address), self.sibling);
        }
    }

    /// Waits for a line while the sibling serves.
    #[track_caller]
    fn wait_for(&mut self, text: &str) -> String {
        let Self { cluster, kept, sibling, .. } = self;
        cluster.wait_until(text, |cluster| {
            assert_eq!(kept.ask(), *sibling);
            cluster.log_text().lines().find(|line| line.contains(text)).map(str::to_owned)
        })
    }

    /// A good worker follows, and everything is as it was before.
    #[track_caller]
    fn expect_no_harm(&mut self) {
        self.expect_no_harm_from(4);
    }

    #[track_caller]
    fn expect_no_harm_from(&mut self, follower: u64) {
        self.wait_for(&format!("Ready(WorkerId({follower}))"));
        let replacement = who::find(self.address, |who| who.id == follower);
        assert_eq!(replacement.slot, self.victim.slot);
        let primary = self.cluster.primary();
        let most = self.descriptors + self.spare_descriptors;
        self.cluster.wait_until("no more descriptors than before", |_| (descriptors(primary) <= most).then_some(()));
        let (before, after) = (self.resident_kb, resident_kb(primary));
        assert!(after < before + GROWTH_KB, "{before} kB before and {after} kB after");
        assert_eq!(self.kept.ask(), self.sibling);
        self.cluster.signal(Signal::SIGTERM);
        self.cluster.expect_exit(0);
    }
}

fn descriptors(pid: Pid) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count()
}

fn resident_kb(pid: Pid) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
