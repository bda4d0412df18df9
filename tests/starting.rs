//! Workers, settings, marks and primary functions that fail at the start or soon after: the exit code, what the operator is
//! told, and that nothing is left.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use support::scratch::Scratch;
use support::who::{self, who};
use support::{Cluster, Launch, Signal, send};

const STARTER: &str = env!("CARGO_BIN_EXE_starter");

/// Every way to fail before a worker is ready: the worker's own word, and how the primary names the end.
const FAILURES: [(&str, &str, &str); 7] = [
    ("panic", "the worker's own panic", "failed before it was ready (exit code 101)"),
    ("error", "Error: the worker's own error", "failed before it was ready (exit code 1)"),
    ("abort", "", "failed before it was ready (killed by SIGABRT)"),
    ("overflow", "has overflowed its stack", "failed before it was ready (killed by SIGABRT)"),
    ("memory", "memory allocation of 4294967296 bytes failed", "failed before it was ready (killed by SIGABRT)"),
    ("exit-0", "", "failed before it was ready (exit code 0)"),
    ("exit-42", "", "failed before it was ready (exit code 42)"),
];

fn starter(behaviour: &str) -> Launch {
    Cluster::of(STARTER).args([behaviour])
}

#[test]
fn workers_that_fail_at_the_first_start_end_the_cluster_and_are_told_with_their_own_error() {
    for (behaviour, word, told) in FAILURES {
        // One, as the words of two would mingle.
        let mut cluster = starter(behaviour).workers(1).start();
        cluster.expect_exit(3);
        expect_told_start(&mut cluster, word, told);
    }
}

#[test]
fn many_workers_that_fail_at_the_first_start_are_told_as_one_failed_start() {
    let mut cluster = starter("exit-42").workers(8).start();
    cluster.expect_exit(3);
    expect_told_start(&mut cluster, "", "failed before it was ready (exit code 42)");
    let log = cluster.log_text();
    assert_eq!(log.matches("so the cluster stops").count(), 1, "{log}");
}

/// One that is ready already is drained, not killed.
#[test]
fn one_slot_that_fails_at_the_first_start_ends_the_others_too() {
    for (behaviour, word, told) in FAILURES {
        let mut cluster = starter(behaviour).env("FAIL_SLOT", "1").start();
        cluster.expect_exit(3);
        expect_told_start(&mut cluster, word, told);
        let log = cluster.log_text();
        let line = log.lines().find(|line| line.contains(told)).unwrap();
        assert!(line.contains("slot=1 generation=1 worker=2 pid="), "{line}");
        let sibling = "Exited(WorkerId(1), Exit { status: ";
        let asked = ["Code(0), reason: Asked }", "Signal(15), reason: Asked }"];
        assert!(asked.iter().any(|asked| log.contains(&format!("{sibling}{asked}"))), "{log}");
    }
}

#[test]
fn workers_that_are_never_ready_are_killed_at_the_start_timeout() {
    let mut cluster = starter("never").env("CLUSTER_START_TIMEOUT", "300ms").start();
    cluster.expect_exit(3);
    expect_told_start(&mut cluster, "", "was not ready within the start timeout (killed by SIGKILL)");
}

/// The workers wait for their primary, so it must not blame them for the time.
#[test]
fn workers_do_not_fail_because_their_primary_stood_still() {
    let mut cluster = starter("serve").env("CLUSTER_START_TIMEOUT", "1s").start();
    cluster.wait_for_workers(2);
    cluster.signal(Signal::SIGSTOP);
    let stopped = Instant::now();
    cluster.wait_until("more than the start timeout", |_| (stopped.elapsed() > Duration::from_secs(4)).then_some(()));
    cluster.signal(Signal::SIGCONT);
    cluster.wait_ready();
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    assert!(!cluster.log_text().contains("start timeout"));
}

fn expect_told_start(cluster: &mut Cluster, word: &str, told: &str) {
    let log = cluster.log_text();
    assert!(log.contains(word), "{word}: {log}");
    let line = log.lines().find(|line| line.contains(told)).unwrap_or_else(|| panic!("{told}: {log}"));
    for part in ["cluster: slot=", " generation=1 worker=", " pid="] {
        assert!(line.contains(part), "{line}");
    }
    assert!(log.contains("cluster: a worker failed before it was ever ready, so the cluster stops"), "{log}");
    for misleading in ["restarted", "workers ready", "cluster: stopped"] {
        assert!(!log.contains(misleading), "{misleading}: {log}");
    }
}

/// The same later: what serves goes on serving, and the slot is tried again after growing pauses until it works.
#[test]
fn a_replacement_that_fails_to_start_is_tried_again_while_its_sibling_serves() {
    let timeout = ("never", "", "was not ready within the start timeout (killed by SIGKILL)");
    for (behaviour, word, told) in FAILURES.into_iter().chain([timeout]) {
        let scratch = Scratch::new();
        let flag = scratch.path("fail");
        let mut cluster =
            starter(behaviour).env("CLUSTER_START_TIMEOUT", "3s").with(|c| _ = c.env("FAIL_FLAG", &flag)).start();
        let address = cluster.wait_ready();
        let victim = who(address);
        let sibling = who::find(address, |who| who.id != victim.id);
        let mut kept = who::keep(address, |who| who.id == sibling.id);
        fs::write(&flag, "").unwrap();
        send(victim.pid, Signal::SIGKILL);
        cluster.wait_for("crashed (killed by SIGKILL); restarted at once");
        for pause in ["100ms", "200ms"] {
            let line = cluster.wait_for(&format!("{told}; restarted in {pause}"));
            assert!(line.contains(&format!("slot={} generation=1 worker=", victim.slot)), "{line}");
            assert_eq!(kept.ask(), sibling);
        }
        fs::remove_file(&flag).unwrap();
        let replacement = who::find(address, |who| who.id > 2);
        assert_eq!(replacement.slot, victim.slot);
        assert_eq!(kept.ask(), sibling);
        cluster.signal(Signal::SIGTERM);
        cluster.expect_exit(0);
        assert!(cluster.log_text().contains(word), "{behaviour}");
    }
}

/// The breaker is a rate: 11 ends for each slot within a quarter of an hour, while none is ready. The pauses alone take most of a
/// minute; readiness of ten seconds in between starts them anew, and the ends before it still count.
#[test]
fn a_cluster_none_of_whose_workers_starts_any_more_gives_up() {
    let scratch = Scratch::new();
    let flag = scratch.path("fail");
    let mut cluster = starter("exit-42").with(|c| _ = c.env("FAIL_FLAG", &flag)).start();
    let address = cluster.wait_ready();
    let kill_all = |cluster: &mut Cluster| {
        fs::write(&flag, "").unwrap();
        for worker in cluster.wait_for_workers(2) {
            send(worker, Signal::SIGKILL);
        }
    };
    kill_all(&mut cluster);
    for _ in 0..2 {
        cluster.wait_for("exit code 42); restarted in 800ms");
    }
    fs::remove_file(&flag).unwrap();
    for slot in 0..2 {
        who::find(address, |who| who.slot == slot && who.id > 2);
    }
    let ready = Instant::now();
    cluster.wait_until("readiness that counts", |_| (ready.elapsed() > Duration::from_millis(10_500)).then_some(()));
    kill_all(&mut cluster);
    cluster.wait_for("restarted at once");
    cluster.wait_for("workers keep failing and none is serving, so the cluster gives up");
    cluster.expect_exit(4);
}

/// Batch programs: they listen on nothing and never say that they are ready.
#[test]
fn workers_that_finish_under_a_policy_that_lets_them_end_the_cluster_well() {
    for policy in ["on-failure", "never"] {
        let mut cluster = starter("finish").env("CLUSTER_RESTART", policy).start();
        cluster.expect_exit(0);
        let log = cluster.log_text();
        assert_eq!(log.matches("finished (exit code 0); not restarted").count(), 2, "{log}");
        assert_eq!(log.matches("a process starts").count(), 3, "{log}");
    }
}

#[test]
fn a_worker_that_finishes_without_a_word_is_a_failure_where_all_are_to_be_replaced() {
    let mut cluster = starter("finish").start();
    cluster.expect_exit(3);
    expect_told_start(&mut cluster, "", "failed before it was ready (exit code 0)");
}

#[test]
fn under_the_policy_never_a_cluster_goes_on_with_who_is_left_and_fails_with_the_last() {
    let mut cluster = starter("serve").env("CLUSTER_RESTART", "never").start();
    let address = cluster.wait_ready();
    let mut kept = who::keep(address, |_| true);
    let survivor = kept.ask();
    let victim = cluster.workers().into_iter().find(|pid| *pid != survivor.pid).unwrap();
    send(victim, Signal::SIGKILL);
    cluster.wait_for("crashed (killed by SIGKILL); not restarted");
    assert_eq!(kept.ask(), survivor);
    assert_eq!(cluster.wait_for_workers(1).first(), Some(&survivor.pid));
    send(survivor.pid, Signal::SIGKILL);
    cluster.wait_for("crashed (killed by SIGKILL); not restarted");
    cluster.expect_exit(4);
}

#[test]
fn under_the_policy_on_failure_a_crash_is_replaced_and_the_end_is_well_once_all_have_finished() {
    let scratch = Scratch::new();
    let flag = scratch.path("fail");
    fs::write(&flag, "").unwrap();
    let launch = starter("ready-exit-42").with(|c| _ = c.env("FAIL_FLAG", &flag));
    let mut cluster = launch.env("CLUSTER_RESTART", "on-failure").start();
    cluster.wait_for("crashed (exit code 42); restarted at once");
    cluster.wait_for("crashed (exit code 42); restarted in 100ms");
    fs::remove_file(&flag).unwrap();
    // From here on they serve; TERM to one of them is an order to it, and not a failure.
    cluster.wait_logged("Listening(");
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// The fixture's file cannot be executed any more: the one that serves goes on, and the slot recovers.
#[test]
fn a_replacement_that_cannot_be_spawned_is_tried_again() {
    use std::os::unix::fs::PermissionsExt as _;
    let scratch = Scratch::new();
    let program = scratch.path("starter");
    fs::copy(STARTER, &program).unwrap();
    let mut cluster = Cluster::of(program.to_str().unwrap()).args(["serve"]).start();
    let address = cluster.wait_ready();
    let victim = who(address);
    let mut kept = who::keep(address, |who| who.id != victim.id);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o600)).unwrap();
    send(victim.pid, Signal::SIGKILL);
    let line = cluster.wait_for("cannot be spawned: Permission denied");
    assert!(line.contains(&format!("slot={} generation=1 worker=3", victim.slot)), "{line}");
    cluster.wait_for("restarted in 200ms");
    assert_ne!(kept.ask().id, victim.id);
    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    assert_eq!(who::find(address, |who| who.id > 2).slot, victim.slot);
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// However few descriptors there are: it works, or the start fails with a reason.
#[test]
fn a_start_without_enough_descriptors_fails_with_a_reason() {
    let mut started = false;
    for limit in 8..40 {
        let script = format!("ulimit -n {limit}; exec \"$0\" serve");
        let mut cluster = Cluster::of("sh").args(["-c", &script, STARTER]).start();
        let outcome = cluster.wait_until("a decision", |cluster| {
            let log = cluster.log_text();
            ["the primary cannot start: ", "a worker failed before", "2 workers ready", "error while loading"]
                .into_iter()
                .find(|outcome| log.contains(outcome))
        });
        match outcome {
            "the primary cannot start: " => cluster.expect_exit(2),
            "a worker failed before" => cluster.expect_exit(3),
            "2 workers ready" => {
                started = true;
                cluster.signal(Signal::SIGTERM);
                cluster.expect_exit(0);
            }
            _ => cluster.expect_exit(127),
        }
        let log = cluster.log_text();
        assert!(started || log.contains("Too many open files") || outcome == "error while loading", "{limit}: {log}");
        assert!(!log.contains("panicked"), "{limit}: {log}");
    }
    assert!(started);
}

#[test]
fn a_setting_that_cannot_be_is_refused_by_its_variables_name_before_anything_is_spawned() {
    for (name, value, remedy) in [
        ("CLUSTER_WORKERS", "0", "1 to 1024"),
        ("CLUSTER_WORKERS", "-1", "a number from 1 to 1024, or auto"),
        ("CLUSTER_WORKERS", "1025", "1 to 1024"),
        ("CLUSTER_WORKERS", "many", "a number from 1 to 1024, or auto"),
        ("WEB_CONCURRENCY", "0", "1 to 1024"),
        ("WEB_CONCURRENCY", "two", "a number from 1 to 1024, or auto"),
        ("CLUSTER_THREADS", "0", "1 to 1024"),
        ("CLUSTER_THREADS", "99999999999999999999", "1 to 1024"),
        ("CLUSTER_RESTART", "sometimes", "always, on-failure or never"),
        ("CLUSTER_START_TIMEOUT", "0s", "more than 0s and at most 24h"),
        ("CLUSTER_START_TIMEOUT", "25h", "more than 0s and at most 24h"),
        ("CLUSTER_START_TIMEOUT", "5", "a time with its unit, such as 30s or 500ms"),
        ("CLUSTER_GRACE", "2days", "at most 24h"),
        ("CLUSTER_GRACE", "soon", "a time with its unit, such as 30s or 500ms"),
        ("CLUSTER_QUIET", "maybe", "true or false"),
    ] {
        let log = refused(starter("serve").env(name, value));
        assert!(log.contains(remedy), "{name}={value}: {log}");
        assert!(log.contains(name), "the variable {name}={value} is named: {log}");
    }
    for name in ["CLUSTER_WORKERS", "WEB_CONCURRENCY", "CLUSTER_THREADS", "CLUSTER_RESTART", "CLUSTER_GRACE"] {
        let log = refused(starter("serve").with(|command| _ = command.env(name, OsStr::from_bytes(b"\xff4"))));
        assert!(log.contains(&format!("{name} is not text")) && log.contains("unset it"), "{log}");
    }
}

#[test]
fn web_concurrency_is_the_number_of_workers_where_nothing_else_says_it() {
    let mut cluster = starter("serve").env("WEB_CONCURRENCY", "3").env("CLUSTER_WORKERS", "").start();
    cluster.wait_for("3 workers ready on ");
    assert_eq!(cluster.workers().len(), 3);
}

#[test]
fn a_worker_mark_that_no_primary_has_made_is_refused_with_a_remedy() {
    let me = std::process::id();
    let (stream, _far) = inherited(SockType::Stream);
    let (packets, _far) = inherited(SockType::SeqPacket);
    let (stream, packets) = (stream.as_raw_fd(), packets.as_raw_fd());
    let stranger = format!("names process {} as the primary, which is not this process's parent", u32::MAX >> 1);
    for (mark, told) in [
        ("4".to_owned(), "is this library's own mark. Unset it (for the number of workers, set CLUSTER_WORKERS)"),
        (String::new(), "is this library's own mark. Unset it"),
        (mark(u32::MAX >> 1, 9, 11), stranger.as_str()),
        (mark(1, 9, 11), "names process 1 as the primary, which is not this process's parent. Unset it"),
        (mark(0, 9, 11), "names process 0 as the primary, which is not this process's parent. Unset it"),
        (mark(me, 900, 901), "names descriptor 900, which is not a lane to the primary (Bad file descriptor"),
        (
            mark(me, 0, packets),
            "names descriptor 0, which is not a lane to the primary (that is standard input or output)",
        ),
        (mark(me, 2, packets), "(that is standard input or output)"),
        (mark(me, stream, packets), "which is not a lane to the primary (another kind of socket). Unset it"),
        (mark(me, packets, packets), "is this library's own mark. Unset it"),
    ] {
        let log = refused(starter("serve").env("CLUSTER_WORKER", &mark));
        assert!(log.contains(told), "{mark}: {log}");
    }
    // A file that the shell leaves open for it; sh becomes the program, so this process is its parent.
    let script = "exec 9</dev/null; exec \"$0\" serve";
    let log = refused(Cluster::of("sh").args(["-c", script, STARTER]).env("CLUSTER_WORKER", &mark(me, 9, 900)));
    assert!(
        log.contains("names descriptor 9, which is not a lane to the primary (Socket operation on non-socket"),
        "{log}"
    );
}

fn mark(primary: u32, control: i32, messages: i32) -> String {
    format!("1 worker=17 slot=2 generation=1 primary={primary} control={control} messages={messages}")
}

/// One end of a socket pair that children inherit, and the other.
fn inherited(kind: SockType) -> (std::os::fd::OwnedFd, std::os::fd::OwnedFd) {
    socketpair(AddressFamily::Unix, kind, None, SockFlag::empty()).unwrap()
}

/// Starts what must be refused at once, and returns what it said.
fn refused(launch: Launch) -> String {
    let mut cluster = launch.start();
    cluster.expect_exit(2);
    let log = cluster.log_text();
    let lines: Vec<_> = log.lines().filter(|line| *line != "a process starts").collect();
    assert!(lines.len() == 1 && lines[0].starts_with("cluster: "), "{log}");
    assert_eq!(log.matches("a process starts").count(), 1, "nothing was spawned: {log}");
    log
}

#[test]
fn a_program_that_runs_twice_is_told_so() {
    let mut cluster = starter("twice").start();
    cluster.expect_exit(3);
    expect_told_start(
        &mut cluster,
        "cluster: cluster::run was called a second time in this process; call it once, as the body of main",
        "failed before it was ready (exit code 2)",
    );
}

#[test]
fn a_thread_that_was_started_before_is_told() {
    let mut cluster = starter("thread").start();
    cluster.expect_exit(3);
    expect_told_start(
        &mut cluster,
        "another thread was started before cluster took over; start it after",
        "failed before it was ready (exit code 2)",
    );
}

#[test]
fn a_primary_function_that_fails_stops_the_cluster_gracefully() {
    for (behaviour, told) in [
        ("primary-error", "the primary function failed, so the cluster stops: the function's own error"),
        ("primary-panic", "the primary function failed, so the cluster stops: it panicked: the function's own panic"),
        ("primary-error-later", "the primary function failed, so the cluster stops: the function's own error"),
        (
            "primary-panic-later",
            "the primary function failed, so the cluster stops: it panicked: the function's own panic",
        ),
    ] {
        let mut cluster = starter(behaviour).start();
        cluster.expect_exit(1);
        let log = cluster.log_text();
        assert!(log.contains(told), "{log}");
        assert!(!log.contains("killed") && !log.contains("crashed"), "the workers were drained: {log}");
    }
}

#[test]
fn a_primary_function_that_returns_early_leaves_the_cluster_running() {
    let mut cluster = starter("primary-returns").start();
    let address = cluster.wait_ready();
    let victim = who(address);
    send(victim.pid, Signal::SIGKILL);
    cluster.wait_for("crashed (killed by SIGKILL); restarted at once");
    who::find(address, |who| who.id == 3);
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

#[test]
fn a_primary_function_that_blocks_its_thread_does_not_stop_supervision() {
    let mut cluster = starter("primary-blocks").env("CLUSTER_GRACE", "2s").start();
    let address = cluster.wait_ready();
    let victim = who(address);
    send(victim.pid, Signal::SIGKILL);
    cluster.wait_for("crashed (killed by SIGKILL); restarted at once");
    who::find(address, |who| who.id == 3);
    let ordered = Instant::now();
    cluster.signal(Signal::SIGTERM);
    cluster.wait_for("the primary function did not return; exiting");
    cluster.expect_exit(0);
    assert!(ordered.elapsed() < Duration::from_secs(20), "the grace period is 2 s");
}

#[test]
fn a_quiet_primary_says_nothing() {
    let mut cluster = starter("serve").env("CLUSTER_QUIET", "true").start();
    cluster.wait_for("Ready(");
    cluster.wait_for("Ready(");
    let victim = *cluster.wait_for_workers(2).first().unwrap();
    send(victim, Signal::SIGKILL);
    cluster.wait_for("Ready(WorkerId(3))");
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    let log = cluster.log_text();
    assert!(!log.contains("cluster: "), "{log}");
}

#[test]
fn what_happens_goes_to_the_tracing_subscriber_and_then_nowhere_else() {
    let mut cluster = starter("primary-logs").start();
    cluster.wait_for("the subscriber is installed");
    let first = *cluster.wait_for_workers(2).first().unwrap();
    cluster.wait_for("Ready(");
    cluster.wait_for("Ready(");
    send(first, Signal::SIGKILL);
    let line = cluster.wait_logged("crashed (killed by SIGKILL); restarted at once");
    assert!(line.contains(" WARN ") && line.contains("generation=1 worker="), "{line}");
    assert!(line.contains("slot=") && line.contains(&format!("pid={first}")), "{line}");
    cluster.wait_logged("Ready(WorkerId(3))");
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    let log = cluster.log_text();
    assert_eq!(log.matches("crashed (killed by SIGKILL)").count(), 1, "{log}");
    assert_eq!(log.matches("2 workers ready").count(), 1, "{log}");
    for told in ["spawned", "ready"] {
        let form = format!("{told} slot=");
        assert!(log.lines().any(|l| l.contains(&form) && l.contains(" generation=1 worker=3 pid=")), "{told}: {log}");
    }
}

/// Whoever reads the log is gone (a pipe into `head`, a logger that was restarted): that is no reason to end.
#[test]
fn a_cluster_outlives_the_reader_of_its_stderr() {
    let scratch = Scratch::new();
    let pipe = scratch.path("pipe");
    let script = "mkfifo \"$1\"; exec 9<>\"$1\"; exec \"$0\" serve 2>\"$1\" 9<&-";
    let mut cluster = Cluster::of("sh").args(["-c", script, STARTER, pipe.to_str().unwrap()]).start();
    cluster.wait_logged("Ready(WorkerId(1))");
    cluster.wait_logged("Ready(WorkerId(2))");
    for id in 3..6 {
        send(*cluster.wait_for_workers(2).first().unwrap(), Signal::SIGKILL);
        cluster.wait_logged(&format!("Ready(WorkerId({id}))"));
    }
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// A build that is copied over a running one is not picked up by accident.
#[test]
fn a_crash_is_repaired_with_the_program_that_runs_and_not_with_the_one_on_disk() {
    let scratch = Scratch::new();
    let program = scratch.path("starter");
    fs::copy(STARTER, &program).unwrap();
    let image = inode(&program);
    let mut cluster = Cluster::of(program.to_str().unwrap()).args(["serve"]).start();
    let address = cluster.wait_ready();
    fs::copy("/bin/false", scratch.path("next")).unwrap();
    fs::rename(scratch.path("next"), &program).unwrap();
    for id in 3..5 {
        send(who(address).pid, Signal::SIGKILL);
        let replacement = who::find(address, |who| who.id == id);
        assert_eq!(inode(Path::new(&format!("/proc/{}/exe", replacement.pid))), image);
    }
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// It was executed by descriptor, which would make it a number in `ps`.
#[test]
fn a_worker_has_the_programs_name() {
    let mut cluster = starter("serve").start();
    let address = cluster.wait_ready();
    for pid in [cluster.primary(), who(address).pid] {
        assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "starter\n");
    }
}
