//! Large messages between real processes: how large they may be, and what they do to everything else.

use support::release::Release;
use support::{Cluster, Launch, Signal, send};

const BULKY: &str = env!("CARGO_BIN_EXE_bulky");

fn bulky<const N: usize>(args: [&str; N]) -> Launch {
    Cluster::of(BULKY).args(args)
}

#[track_caller]
fn stop(cluster: &mut Cluster) {
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// The numbers in a line.
fn numbers(line: &str) -> Vec<u64> {
    line.split(' ').filter_map(|word| word.trim_end_matches(';').parse().ok()).collect()
}

#[test]
fn a_message_of_64_mb_passes_both_ways_and_one_above_64_mib_is_refused_where_it_is_sent() {
    expect_limit(bulky(["sizes", "64000000", "67108864"]), 64_000_000, 64 << 20, 64 << 20);
}

#[test]
fn max_message_says_what_passes() {
    let launch = bulky(["sizes", "15728640", "16777216"]).env("CLUSTER_MAX_MESSAGE", "16MiB");
    expect_limit(launch, 15 << 20, 16 << 20, 16 << 20);
}

/// Payloads of the first size pass, and those of the second do not, which is the limit: there is something around them.
#[track_caller]
fn expect_limit(launch: Launch, passes: usize, too_large: usize, limit: usize) {
    let mut cluster = launch.start();
    // Smaller ones may overtake it.
    for line in ["worker 1: took ", "primary: took ", "primary: done"] {
        cluster.wait_logged(line);
    }
    stop(&mut cluster);
    let log = cluster.log_text();
    for who in ["worker 1", "primary"] {
        let lines: Vec<_> = log.lines().filter_map(|line| line.strip_prefix(who)?.strip_prefix(": ")).collect();
        let said =
            |what: &str| assert_eq!(lines.iter().filter(|line| **line == what).count(), 1, "{who} {what}: {log}");
        said(&format!("sends {passes}: ()"));
        said(&format!("took {passes}"));
        said(&format!("asks for {passes}: {passes}"));
        said(&format!("asks for {too_large}: the request was dropped without an answer"));
        let refused = lines.iter().find(|line| line.starts_with(&format!("sends {too_large}: the message takes ")));
        let refused = refused.unwrap_or_else(|| panic!("{who}: {log}"));
        assert!(refused.ends_with(&format!(" bytes and the limit is {limit} (max_message)")), "{refused}");
    }
    let to_all = format!("primary: sends {too_large} to all: the message takes ");
    assert!(log.contains(&to_all), "{log}");
}

#[test]
fn requests_are_answered_while_large_messages_are_on_their_way_in_both_directions() {
    let mut cluster = bulky(["between"]).start();
    for who in ["worker 1", "primary"] {
        expect_small_between_large(&mut cluster, &format!("{who}: took 4 large ones in order, and before the last "));
    }
    stop(&mut cluster);
}

#[test]
fn large_answers_come_side_by_side_and_small_ones_between_them_in_both_directions() {
    let mut cluster = bulky(["answers"]).start();
    for who in ["worker 1", "primary"] {
        expect_small_between_large(&mut cluster, &format!("{who}: has 64000000 and 64000000, and before the last "));
    }
    stop(&mut cluster);
}

#[track_caller]
fn expect_small_between_large(cluster: &mut Cluster, what: &str) {
    let line = cluster.wait_logged(what);
    let small = *numbers(&line).last().unwrap();
    assert!(small >= 20, "{line}");
}

/// What two messages of 64 MB take, with some change for the program itself, in kB.
const TWO: u64 = 2 * 62_500 + 20_000;

#[test]
fn large_messages_that_nobody_takes_make_the_sender_wait_and_take_no_more_memory_than_two() {
    let mut cluster = bulky(["flood"]).start();
    let stuck = cluster.wait_for("primary: stuck at ");
    assert!(matches!(numbers(&stuck)[..], [2, peak] if peak < TWO), "{stuck}");
    // One more that is arriving, and one as it came and decoded.
    let taken = cluster.wait_for("primary: took all in order; peak ");
    assert!(numbers(&taken)[0] < 2 * TWO, "{taken}");
    stop(&mut cluster);
}

/// A program with the file that says how many bytes it allows.
fn of_releases(program: &str, mode: &str) -> (Release, Cluster) {
    let release = Release::of(BULKY);
    release.set_mode(mode);
    let launch = Cluster::of(release.program().to_str().unwrap()).args([program]);
    let cluster = launch.env("MODE", release.mode().to_str().unwrap()).start();
    (release, cluster)
}

/// What somebody says whose message of 3 MiB is refused because 1 MiB is allowed.
#[track_caller]
fn expect_refusal(cluster: &mut Cluster, who: &str) {
    let line = cluster.wait_logged(&format!("{who}: the message takes "));
    assert!(line.ends_with(" bytes and the limit is 1048576 (max_message)"), "{line}");
}

#[test]
fn an_upgrade_that_raises_max_message_raises_it_for_the_new_workers() {
    let (release, mut cluster) = of_releases("releases", "1 1048576");
    expect_refusal(&mut cluster, "worker 1: of release 1 sends");
    expect_refusal(&mut cluster, "primary: of release 1 sends to 1");
    release.set_mode("2 4194304");
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_logged("worker 2: of release 2 sends: ()");
    cluster.wait_logged("primary: of release 2 sends to 2: ()");
    cluster.wait_logged("worker 2: took 3145728");
    cluster.wait_logged("primary: took 3145728");
    // The lane to the worker of before is as it was.
    expect_refusal(&mut cluster, "primary: of release 2 sends to 1");
    cluster.wait_for_workers(1);
    stop(&mut cluster);
}

#[test]
fn a_reload_to_a_program_that_raises_max_message_leaves_it_as_the_primary_has_it() {
    let (release, mut cluster) = of_releases("releases", "1 1048576");
    expect_refusal(&mut cluster, "worker 1: of release 1 sends");
    release.set_mode("2 4194304");
    cluster.signal(Signal::SIGHUP);
    expect_refusal(&mut cluster, "worker 2: of release 2 sends");
    expect_refusal(&mut cluster, "primary: of release 1 sends to 2");
    cluster.wait_for_workers(1);
    stop(&mut cluster);
}

#[test]
fn a_worker_that_is_started_before_an_upgrade_and_let_in_after_it_keeps_to_the_max_message_of_before() {
    let (release, mut cluster) = of_releases("releases", "1 1048576");
    expect_refusal(&mut cluster, "worker 1: of release 1 sends");
    let worker = *cluster.wait_for_workers(1).first().unwrap();
    release.set_mode("2 4194304 held");
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_logged("primary: is to leave");
    send(worker, Signal::SIGKILL);
    cluster.wait_logged("cluster: upgraded");
    release.set_mode("2 4194304");
    expect_refusal(&mut cluster, "worker 2: of release 2 sends");
    expect_refusal(&mut cluster, "primary: of release 2 sends to 2");
    cluster.wait_logged("worker 3: took 3145728");
    cluster.wait_for_workers(1);
    stop(&mut cluster);
    let log = cluster.log_text();
    assert!(!log.contains("broke the protocol") && !log.contains("cannot be read"), "{log}");
}

#[test]
fn between_a_worker_of_before_an_upgrade_that_raises_max_message_and_a_new_one_the_smaller_limit_holds() {
    expect_smaller_limit("1 1048576", "2 4194304");
}

#[test]
fn between_a_worker_of_before_an_upgrade_that_lowers_max_message_and_a_new_one_the_smaller_limit_holds() {
    expect_smaller_limit("1 4194304", "2 1048576");
}

#[track_caller]
fn expect_smaller_limit(before: &str, after: &str) {
    let (release, mut cluster) = of_releases("neighbours", before);
    cluster.wait_logged("2 workers ready");
    release.set_mode(after);
    cluster.signal(Signal::SIGUSR2);
    for (who, other) in [("worker 2", "worker 3"), ("worker 3", "worker 2")] {
        expect_refusal(&mut cluster, &format!("{who}: sends 3145728"));
        expect_refusal(&mut cluster, &format!("{who}: tries 3145728"));
        cluster.wait_logged(&format!("{who}: asks for 3145728: the request was dropped without an answer"));
        // On the same lanes, which live on.
        cluster.wait_logged(&format!("{who}: sends 100000: ()"));
        cluster.wait_logged(&format!("{who}: tries 100000: ()"));
        cluster.wait_logged(&format!("{who}: asks for 100000: 100000"));
        let took = format!("{other}: took 100000");
        cluster.wait_until("what was sent, to it and to all", |cluster| {
            (cluster.log_text().lines().filter(|line| **line == took).count() >= 4).then_some(())
        });
        expect_refusal(&mut cluster, &format!("{who}: tells all 3145728"));
        cluster.wait_logged(&format!("{who}: tells all 100000: 1"));
    }
    expect_refusal(&mut cluster, "primary: tells all 3145728");
    cluster.wait_logged("primary: tells all 100000: true");
    stop(&mut cluster);
    let log = cluster.log_text();
    assert!(!log.contains("cannot be read"), "{log}");
}
