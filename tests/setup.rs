//! What workers run in: environment, directory, output, user, limits, cores; and log files that are opened anew.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getuid};
use support::scratch::Scratch;
use support::who::{self, Who, who};
use support::{Cluster, DEADLINE, Launch, Signal, send, skip};

const SETUP: &str = env!("CARGO_BIN_EXE_setup");

/// The user of whom every system has one; its number where there is no name for it.
const NOBODY: &str = "65534";

fn setup<const N: usize>(arguments: [&str; N]) -> Launch {
    Cluster::of(SETUP).args(arguments)
}

/// The workers of both slots.
fn both(address: SocketAddr) -> [Who; 2] {
    [0, 1].map(|slot| who::find(address, |who| who.slot == slot))
}

fn stop(mut cluster: Cluster) {
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

fn proc(pid: Pid, name: &str) -> String {
    String::from_utf8(fs::read(format!("/proc/{pid}/{name}")).unwrap()).unwrap()
}

fn status(pid: Pid, key: &str) -> String {
    let status = proc(pid, "status");
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in {status}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Soft and hard.
fn open_files(pid: Pid) -> [u64; 2] {
    let limits = proc(pid, "limits");
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
    let mut numbers = line.split_whitespace().map_while(|word| word.parse().ok());
    [(); 2].map(|()| numbers.next().unwrap())
}

fn nice(pid: Pid) -> i32 {
    // The 19th field, counted from 1; the second is the name in brackets.
    let stat = proc(pid, "stat");
    stat.rsplit(") ").next().unwrap().split(' ').nth(16).unwrap().parse().unwrap()
}

fn oom_score(pid: Pid) -> i32 {
    proc(pid, "oom_score_adj").trim().parse().unwrap()
}

/// The cores in a list such as `0-3,7`.
fn cores(pid: Pid) -> Vec<usize> {
    let list = status(pid, "Cpus_allowed_list");
    let ranges = list.split(',').map(|range| range.split_once('-').unwrap_or((range, range)));
    ranges.flat_map(|(first, last)| first.parse().unwrap()..=last.parse::<usize>().unwrap()).collect()
}

fn variable(pid: Pid, name: &str) -> Option<String> {
    let environment = proc(pid, "environ");
    environment.split('\0').find_map(|variable| Some(variable.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

fn is_root() -> bool {
    let is_root = getuid().is_root();
    if !is_root {
        skip("only root may change the user");
    }
    is_root
}

/// The fixture, started by somebody without privileges.
fn unprivileged<const N: usize>(arguments: [&str; N]) -> Option<Launch> {
    if !getuid().is_root() {
        return Some(setup(arguments));
    }
    if Command::new("setpriv").arg("--version").output().is_err() {
        skip("there is no setpriv");
        return None;
    }
    let drop = ["--reuid", NOBODY, "--regid", NOBODY, "--clear-groups", SETUP];
    Some(Cluster::of("setpriv").args(drop).args(arguments))
}

#[test]
fn each_worker_has_its_own_environment_beside_that_of_all() {
    let mut cluster = setup(["env=PLAIN", "env=SHARED", "each=names"]).start();
    let address = cluster.wait_ready();
    for Who { id, slot, pid } in both(address) {
        assert_eq!(variable(pid, "NAME"), Some(format!("worker {id} slot {slot} generation 1")));
        assert_eq!(variable(pid, "PLAIN").as_deref(), Some("from the setup"));
        assert_eq!(variable(pid, "SHARED").as_deref(), Some("from the closure"));
    }
    assert_eq!(variable(cluster.primary(), "PLAIN"), None);
    let victim = who(address);
    send(victim.pid, Signal::SIGKILL);
    let replacement = who::find(address, |who| who.id > 2);
    let name = format!("worker {} slot {} generation 1", replacement.id, victim.slot);
    assert_eq!(variable(replacement.pid, "NAME"), Some(name));
    stop(cluster);
}

#[test]
fn workers_run_in_the_directory_and_the_primary_stays_where_it_is() {
    let scratch = Scratch::new();
    let directory = scratch.path("");
    let mut cluster = setup([&format!("cwd={}", directory.display())]).start();
    let address = cluster.wait_ready();
    for who in both(address) {
        assert_eq!(fs::read_link(format!("/proc/{}/cwd", who.pid)).unwrap(), directory.canonicalize().unwrap());
    }
    let primary = fs::read_link(format!("/proc/{}/cwd", cluster.primary())).unwrap();
    assert_eq!(primary, std::env::current_dir().unwrap());
    stop(cluster);
}

/// 600 lines of each worker on each stream, those on stdout in two writes.
#[test]
fn prefixed_lines_come_whole_and_in_order_however_many_print_at_once() {
    let mut cluster = setup(["output=prefixed"]).env("CHATTER", "storm").workers(4).start();
    cluster.wait_ready();
    let pids: BTreeSet<i32> = cluster.workers().into_iter().map(Pid::as_raw).collect();
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    let log = cluster.log_text();
    let mut next = BTreeMap::<(String, String), usize>::new();
    for line in log.lines().filter(|line| line.contains("out ") || line.contains("err ")) {
        let (prefix, text) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
        let words: Vec<&str> = prefix.split(' ').collect();
        let [slot, "generation=1", worker, pid] = words[..] else { panic!("{line}") };
        let number = |word: &str, key: &str| word.strip_prefix(key).and_then(|number| number.parse::<i32>().ok());
        assert!(number(slot, "slot=").is_some() && number(worker, "worker=").is_some(), "{line}");
        assert!(pids.contains(&number(pid, "pid=").unwrap()), "{line}");
        let (stream, rest) = text.split_once(' ').unwrap();
        let next = next.entry((prefix.to_owned(), stream.to_owned())).or_default();
        assert_eq!(rest, format!("{next} {}.", "x".repeat(*next * 7 % 300)), "{line}");
        *next += 1;
    }
    assert_eq!(next.into_values().collect::<Vec<_>>(), [600; 8]);
}

#[test]
fn what_workers_print_last_is_not_lost_even_without_a_newline() {
    let mut cluster = setup(["output=prefixed"]).env("CHATTER", "last-words").start();
    cluster.wait_for("2 workers ready");
    stop_and_look(&mut cluster, expect_last_words);
}

#[test]
fn what_workers_print_last_is_not_lost_on_a_reader_that_comes_late() {
    let (mut unread, stdout) = std::io::pipe().unwrap();
    let launch = setup(["output=prefixed"]).env("CHATTER", "last-words").with(|command| _ = command.stdout(stdout));
    let mut cluster = launch.start();
    cluster.wait_for("2 workers ready");
    cluster.signal(Signal::SIGTERM);
    // All workers are gone, and most of what they have printed is on its way.
    cluster.wait_for("cluster: stopped");
    let stopped = Instant::now();
    cluster.wait_until("the primary to have nothing else to do", |_| {
        (stopped.elapsed() > Duration::from_secs(1)).then_some(())
    });
    let mut log = String::new();
    unread.read_to_string(&mut log).unwrap();
    cluster.expect_exit(0);
    expect_last_words(&log);
}

#[track_caller]
fn expect_last_words(log: &str) {
    for slot in [0, 1] {
        let lines: Vec<_> = log.lines().filter(|line| line.starts_with(&format!("slot={slot} "))).collect();
        assert_eq!(lines.iter().filter(|line| line.contains(": farewell ")).count(), 2000, "{log}");
        assert_eq!(lines.iter().filter(|line| line.ends_with(": no newline after this")).count(), 1, "{log}");
    }
}

#[track_caller]
fn stop_and_look(cluster: &mut Cluster, look: impl FnOnce(&str)) {
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
    look(&cluster.log_text());
}

#[test]
fn processes_that_workers_leave_behind_do_not_keep_the_primary() {
    let mut cluster = setup(["output=prefixed"]).env("CHATTER", "family").start();
    cluster.wait_ready();
    cluster.wait_for(": busy");
    cluster.signal(Signal::SIGTERM);
    assert_eq!(cluster.wait_exit().code(), Some(0));
    // They had better be there until now.
    assert!(!cluster.workers().is_empty());
}

#[test]
fn the_primary_supervises_on_while_nobody_reads_what_workers_print() {
    let (unread, stdout) = std::io::pipe().unwrap();
    let launch = setup(["output=prefixed"]).env("CHATTER", "endless").with(|command| _ = command.stdout(stdout));
    let mut cluster = launch.start();
    let address = cluster.wait_ready();
    let victim = who(address);
    send(victim.pid, Signal::SIGKILL);
    cluster.wait_for("restarted at once");
    assert_eq!(who::find(address, |who| who.id > 2).slot, victim.slot);
    stop(cluster);
    drop(unread);
}

#[test]
fn output_goes_to_a_file_for_each_slot_and_to_the_new_one_after_usr1() {
    let scratch = Scratch::new();
    let pattern = format!("output={}", scratch.path("slot-{slot}.log").display());
    let mut cluster = setup([&pattern]).env("CHATTER", "logs").start();
    let address = cluster.wait_ready();
    let log = |slot: usize| scratch.path(&format!("slot-{slot}.log"));
    print_in_both(address, "before");
    for slot in [0, 1] {
        expect_in_file(&mut cluster, &log(slot), &["before on stdout", "before on stderr"]);
        fs::rename(log(slot), scratch.path(&format!("old-{slot}.log"))).unwrap();
    }
    cluster.signal(Signal::SIGUSR1);
    cluster.wait_for("ReopenLogs");
    for slot in [0, 1] {
        expect_in_file(&mut cluster, &log(slot), &["reopened 1"]);
    }
    print_in_both(address, "after");
    for slot in [0, 1] {
        expect_in_file(&mut cluster, &log(slot), &["after on stdout", "after on stderr"]);
        let old = fs::read_to_string(scratch.path(&format!("old-{slot}.log"))).unwrap();
        assert!(old.contains("before on stdout") && !old.contains("after"), "{old}");
    }
    // A replacement goes on in the same file.
    let victim = who(address);
    send(victim.pid, Signal::SIGKILL);
    who::find(address, |who| who.id > 2);
    let text = fs::read_to_string(log(victim.slot)).unwrap();
    assert!(text.contains("after on stdout") && text.contains("a process starts"), "{text}");
    assert!(!cluster.log_text().contains("after on"));
    stop(cluster);
}

/// Has the worker of each slot print.
fn print_in_both(address: SocketAddr, text: &str) {
    for slot in [0, 1] {
        who::keep(address, |who| who.slot == slot).body(&format!("/print/{text}"));
    }
}

#[track_caller]
fn expect_in_file(cluster: &mut Cluster, path: &Path, texts: &[&str]) {
    cluster.wait_until(&format!("{texts:?} in {}", path.display()), |_| {
        let log = fs::read_to_string(path).unwrap_or_default();
        texts.iter().all(|text| log.lines().any(|line| line == *text)).then_some(())
    });
}

#[test]
fn workers_write_one_file_together_and_it_can_be_named_by_worker() {
    let scratch = Scratch::new();
    let shared = scratch.path("all.log");
    let mut cluster = setup([&format!("output={}", shared.display())]).env("CHATTER", "storm").start();
    cluster.wait_ready();
    cluster.wait_until("the last line of both", |_| {
        let log = fs::read_to_string(&shared).unwrap_or_default();
        (log.lines().filter(|line| line.contains("err 599 ")).count() == 2).then_some(())
    });
    stop(cluster);

    let pattern = format!("output={}", scratch.path("worker-{worker}.log").display());
    let mut cluster = setup([&pattern]).start();
    cluster.wait_ready();
    stop(cluster);
    assert!(scratch.path("worker-1.log").exists() && scratch.path("worker-2.log").exists());
}

#[test]
fn a_log_file_that_cannot_be_opened_anew_is_told_and_the_old_one_goes_on() {
    let scratch = Scratch::new();
    let directory = scratch.path("logs");
    fs::create_dir(&directory).unwrap();
    let mut cluster = setup([&format!("output={}/{{slot}}.log", directory.display())]).env("CHATTER", "logs").start();
    cluster.wait_ready();
    let moved = scratch.path("moved");
    fs::rename(&directory, &moved).unwrap();
    cluster.signal(Signal::SIGUSR1);
    let line = cluster.wait_for("its output goes on where it went: cannot open its log file");
    assert!(line.contains("slot=") && line.contains("No such file"), "{line}");
    for slot in [0, 1] {
        expect_in_file(&mut cluster, &moved.join(format!("{slot}.log")), &["reopened 1"]);
    }
    stop(cluster);
}

/// The workers of before live on beside the next program, which has their pipes.
#[test]
fn workers_print_on_across_an_upgrade_and_no_line_is_lost_or_without_its_prefix() {
    let scratch = Scratch::new();
    let hold = scratch.path("hold");
    let launch = setup(["output=prefixed"]).env("CHATTER", "ticks").with(|command| _ = command.env("HOLD", &hold));
    let mut cluster = launch.start();
    cluster.wait_ready();
    for generation in [2, 3] {
        let old: Vec<String> = cluster.workers().into_iter().map(|pid| format!("pid={pid}: err tick ")).collect();
        fs::write(&hold, "").unwrap();
        cluster.signal(Signal::SIGUSR2);
        cluster.wait_for("cluster: upgraded");
        cluster.wait_for(&format!("reloading: generation {generation} takes over"));
        for prefix in &old {
            // More than was on its way.
            for _ in 0..20 {
                cluster.wait_for(prefix);
            }
        }
        fs::remove_file(&hold).unwrap();
        cluster.wait_for(&format!("reloaded: all workers are of generation {generation}"));
        cluster.wait_for_workers(2);
    }
    stop_and_look(&mut cluster, |log| {
        let ticks = expect_whole_ticks(log.lines().filter(|line| line.contains(" tick ")));
        assert_eq!(ticks.len(), 2 * 6, "each worker on each stream: {ticks:?}");
        assert!(!log.contains("Crashed"), "{log}");
    });
}

/// Every line has its prefix, and each worker's numbers have no gap. Returns how many there are of each worker on each stream.
#[track_caller]
fn expect_whole_ticks<'a>(lines: impl Iterator<Item = &'a str>) -> BTreeMap<(String, String), usize> {
    let mut next = BTreeMap::new();
    for line in lines {
        let (prefix, text) = line.split_once(": ").unwrap_or_else(|| panic!("no prefix: {line}"));
        let worker = prefix.split(' ').find(|word| word.starts_with("worker="));
        let worker = worker.unwrap_or_else(|| panic!("no worker: {line}"));
        let (stream, number) = text.split_once(" tick ").unwrap();
        let next: &mut usize = next.entry((worker.to_owned(), stream.to_owned())).or_default();
        assert_eq!(number, next.to_string(), "{line}");
        *next += 1;
    }
    next
}

#[test]
fn log_files_go_on_across_an_upgrade_and_are_opened_anew_for_the_workers_of_before() {
    let scratch = Scratch::new();
    let (hold, log) = (scratch.path("hold"), |slot: usize| scratch.path(&format!("slot-{slot}.log")));
    let pattern = format!("output={}", scratch.path("slot-{slot}.log").display());
    let launch = setup([&pattern]).env("CHATTER", "ticks").with(|command| _ = command.env("HOLD", &hold));
    let mut cluster = launch.start();
    cluster.wait_ready();
    fs::write(&hold, "").unwrap();
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_for("cluster: upgraded");
    cluster.wait_for("reloading: generation 2 takes over");
    let last_tick = |path: &Path| -> Option<usize> {
        let text = fs::read_to_string(path).ok()?;
        text.lines().rev().find_map(|line| line.strip_prefix("err tick ")?.parse().ok())
    };
    // Slot 1 has its worker of before: slot 0 goes first, and waits.
    let (path, old) = (log(1), scratch.path("old.log"));
    let upgraded = last_tick(&path).unwrap();
    cluster.wait_until("the worker of before to print on", |_| last_tick(&path).filter(|tick| *tick > upgraded + 20));
    fs::rename(&path, &old).unwrap();
    cluster.signal(Signal::SIGUSR1);
    cluster.wait_until("a new file", |_| last_tick(&path));
    fs::remove_file(&hold).unwrap();
    cluster.wait_for("reloaded: all workers are of generation 2");
    cluster.wait_for_workers(2);
    stop_and_look(&mut cluster, |log| assert!(!log.contains("Crashed") && !log.contains(" tick "), "{log}"));
    let text = [old, path].map(|path| fs::read_to_string(path).unwrap()).concat();
    let numbers: Vec<usize> = text.lines().filter_map(|line| line.strip_prefix("out tick ")?.parse().ok()).collect();
    // Both print for a while; each number is the next of one of them.
    let mut next = [0, 0];
    for number in &numbers {
        let of_whom = next.iter_mut().find(|next| *next == number);
        *of_whom.unwrap_or_else(|| panic!("a gap before {number}: {numbers:?}")) += 1;
    }
    assert!(next.iter().all(|count| *count > 0), "its successor has the same file: {next:?}");
}

/// Two that come while a worker is busy with the one before are as one, and none is missed.
#[test]
fn a_worker_hears_of_a_usr1_that_came_while_it_was_not_asking() {
    let scratch = Scratch::new();
    let hold = scratch.path("hold");
    fs::write(&hold, "").unwrap();
    let launch = setup([]).env("CHATTER", "logs").workers(1).with(|command| _ = command.env("HOLD", &hold));
    let mut cluster = launch.start();
    cluster.wait_ready();
    cluster.signal(Signal::SIGUSR1);
    cluster.wait_logged("reopened 1");
    cluster.wait_for("ReopenLogs");
    for _ in 0..2 {
        cluster.signal(Signal::SIGUSR1);
        cluster.wait_for("ReopenLogs");
    }
    fs::remove_file(&hold).unwrap();
    cluster.wait_logged("reopened 2");
    cluster.signal(Signal::SIGUSR1);
    cluster.wait_logged("reopened 3");
    stop_and_look(&mut cluster, |log| assert!(!log.contains("reopened 4"), "{log}"));
}

/// Nobody may bind such a port but root, which the workers are not.
#[test]
fn workers_without_privileges_serve_a_low_port_and_so_do_their_replacements() {
    if !is_root() {
        return;
    }
    let Some(port) = low_port() else { return };
    let address = format!("127.0.0.1:{port}");
    let mut cluster = setup(["user=nobody", "no_new_privs=true"]).env("ADDR", &address).start();
    let address = cluster.wait_ready();
    let check = |pid: Pid| {
        assert_eq!(status(pid, "Uid"), [NOBODY; 4].join(" "));
        let group = id("nobody", "-g");
        assert_eq!(status(pid, "Gid"), [group.as_str(); 4].join(" "));
        // Neither at hand nor to be had.
        for set in ["CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(status(pid, set), "0000000000000000");
        }
    };
    for who in both(address) {
        check(who.pid);
    }
    assert_eq!(status(cluster.primary(), "Uid"), "0 0 0 0");
    send(who(address).pid, Signal::SIGKILL);
    check(who::find(address, |who| who.id > 2).pid);
    stop(cluster);
}

/// One that nobody uses and that is not free for everybody.
fn low_port() -> Option<u16> {
    let lowest = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let lowest: u16 = lowest.trim().parse().unwrap();
    let port = (600..lowest).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok());
    if port.is_none() {
        skip("every port is free for everybody here (net.ipv4.ip_unprivileged_port_start)");
    }
    port
}

fn id(user: &str, option: &str) -> String {
    let output = Command::new("id").args([option, user]).output().unwrap();
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// In a mount namespace whose group database has one more group; started with groups that workers must not keep.
#[test]
fn a_user_comes_with_its_supplementary_groups_and_a_group_alone() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let groups = scratch.path("group");
    fs::write(&groups, fs::read_to_string("/etc/group").unwrap() + "\ncluster-test:x:54321:nobody\n").unwrap();
    let script = r#"mount --bind "$GROUPS_FILE" /etc/group && exec setpriv --groups 4,5 "$0" "$@""#;
    let contained = ["--mount", "sh", "-c", script];
    let start = |arguments: &[&str]| {
        let launch = Cluster::of("unshare").args(contained).args([SETUP]);
        launch.with(|command| _ = command.args(arguments).env("GROUPS_FILE", &groups)).start()
    };
    let tried = Command::new("unshare").args(contained).arg("true").env("GROUPS_FILE", &groups).status();
    if !tried.is_ok_and(|status| status.success()) {
        return skip("unshare cannot make a mount namespace, or there is no setpriv");
    }
    let own = id("nobody", "-g");
    let with_groups = BTreeSet::from([own.as_str(), "54321"]);
    for (arguments, uid, gid, expected) in [
        (&["user=nobody"][..], NOBODY, own.as_str(), with_groups.clone()),
        (&["user=65534"], NOBODY, own.as_str(), with_groups),
        (&["user=nobody", "group=cluster-test"], NOBODY, "54321", BTreeSet::from(["54321"])),
        (&["user=54322", "group=54323"], "54322", "54323", BTreeSet::from(["54323"])),
        (&["group=54321"], "0", "54321", BTreeSet::from(["54321"])),
    ] {
        let mut cluster = start(arguments);
        let pid = who(cluster.wait_ready()).pid;
        let found = status(pid, "Groups");
        assert_eq!(found.split(' ').collect::<BTreeSet<_>>(), expected, "{arguments:?}");
        assert_eq!(status(pid, "Gid"), [gid; 4].join(" "), "{arguments:?}");
        assert_eq!(status(pid, "Uid"), [uid; 4].join(" "), "{arguments:?}");
        stop(cluster);
    }
}

#[test]
fn a_user_may_run_a_program_that_it_may_execute_but_not_reach() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    fs::set_permissions(scratch.path(""), fs::Permissions::from_mode(0o700)).unwrap();
    let program = scratch.path("program");
    // Copied by another process: what this one has open for writing, a child of another test might keep, and nobody could execute it.
    assert!(Command::new("cp").arg(SETUP).arg(&program).status().unwrap().success());
    fs::set_permissions(&program, fs::Permissions::from_mode(0o711)).unwrap();
    let start = || Cluster::of(program.to_str().unwrap()).args(["user=nobody"]).start();
    let mut cluster = start();
    cluster.wait_ready();
    stop(cluster);

    fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
    let mut cluster = start();
    cluster.expect_exit(3);
    let line = cluster.wait_for("cannot be spawned: Permission denied");
    assert!(line.contains("may user nobody execute the program's file? If not: chmod a+x"), "{line}");
}

#[test]
fn only_root_may_choose_a_user_but_everybody_may_name_the_own() {
    let Some(other) = unprivileged(["user=root"]) else { return };
    let mut cluster = other.start();
    cluster.expect_exit(2);
    let line = cluster.wait_for("workers are to run as user root, but only root may choose");
    assert!(line.contains("start the program as root, or leave the user out"), "{line}");

    let me = if getuid().is_root() { NOBODY.to_owned() } else { getuid().to_string() };
    let mut cluster = unprivileged([&format!("user={me}")]).unwrap().start();
    let address = cluster.wait_ready();
    assert_eq!(status(who(address).pid, "Uid"), [me.as_str(); 4].join(" "));
    stop(cluster);
}

#[test]
fn no_new_privs_holds_for_workers_and_not_for_the_primary() {
    let mut cluster = setup(["no_new_privs=true"]).start();
    let address = cluster.wait_ready();
    for who in both(address) {
        assert_eq!(status(who.pid, "NoNewPrivs"), "1");
    }
    assert_eq!(status(cluster.primary(), "NoNewPrivs"), status(Pid::this(), "NoNewPrivs"));
    stop(cluster);
}

#[test]
fn limits_niceness_and_oom_score_hold_for_workers_and_not_for_the_primary() {
    let mut cluster = setup(["files=200:300", "nice=11", "oom_score=700"]).start();
    let address = cluster.wait_ready();
    for who in both(address) {
        assert_eq!((open_files(who.pid), nice(who.pid), oom_score(who.pid)), ([200, 300], 11, 700));
    }
    let (primary, this) = (cluster.primary(), Pid::this());
    assert_eq!((nice(primary), oom_score(primary)), (nice(this), oom_score(this)));
    assert_eq!(open_files(primary)[1], open_files(this)[1]);
    stop(cluster);
}

/// The kernel would find no number below the limit for a file that the child opens.
#[test]
fn a_low_limit_of_files_is_no_obstacle_for_what_else_is_set() {
    let mut cluster = setup(["files=64:64", "oom_score=600"]).workers(32).start();
    let address = cluster.wait_ready();
    let pid = who(address).pid;
    assert_eq!((open_files(pid), oom_score(pid)), ([64, 64], 600));
    stop(cluster);
}

#[test]
fn automatic_affinity_gives_each_slot_one_of_the_cores_in_turn() {
    let mut cluster = setup(["cores=auto"]).workers(3).start();
    let address = cluster.wait_ready();
    let allowed = cores(Pid::this());
    for slot in 0..3 {
        let pid = who::find(address, |who| who.slot == slot).pid;
        assert_eq!(cores(pid), [allowed[slot % allowed.len()]]);
    }
    assert_eq!(cores(cluster.primary()), allowed);
    stop(cluster);
}

#[test]
fn workers_keep_to_the_cores_that_are_named() {
    let last = *cores(Pid::this()).last().unwrap();
    let mut cluster = setup([&format!("cores={last}")]).start();
    let address = cluster.wait_ready();
    for who in both(address) {
        assert_eq!(cores(who.pid), [last]);
    }
    stop(cluster);
}

#[test]
fn the_closure_can_set_everything_else_for_one_worker() {
    let mut cluster = setup(["each=differs", "nice=3"]).start();
    let address = cluster.wait_ready();
    let [first, second] = both(address).map(|who| who.pid);
    let this = Pid::this();
    assert_eq!((open_files(first), nice(first), oom_score(first)), ([222, 333], 3, oom_score(this)));
    assert_eq!((nice(second), oom_score(second)), (7, 300));
    assert_eq!(fs::read_link(format!("/proc/{second}/cwd")).unwrap(), Path::new("/"));
    assert_eq!(fs::read_link(format!("/proc/{first}/cwd")).unwrap(), std::env::current_dir().unwrap());
    let allowed = cores(this);
    assert_eq!((cores(first), cores(second)), (allowed.clone(), vec![allowed[1 % allowed.len()]]));
    stop(cluster);
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_spawned_and_with_a_remedy() {
    for (argument, told, remedy) in [
        ("user=no-such-user", "user \"no-such-user\" does not exist", "set one"),
        ("user=54321", "user \"54321\" has no name here", "set a group"),
        ("group=no-such-group", "group \"no-such-group\" does not exist", "set one"),
        ("nice=20", "nice is 20", "set -20 to 19"),
        ("nice=-21", "nice is -21", "set -20 to 19"),
        ("oom_score=1001", "oom_score is 1001", "set -1000 to 1000"),
        ("oom_score=-1001", "oom_score is -1001", "set -1000 to 1000"),
        ("cwd=/no/such/directory", "cwd /no/such/directory cannot be used (No such file", "make it"),
        ("cwd=/etc/passwd", "cwd /etc/passwd cannot be used (it is no directory)", "set another"),
        ("cores=1023", "affinity names core 1023", "name some of ["),
        ("cores=", "affinity names no core", "name some"),
        ("files=5:4", "the soft limit 5 of Files is above the hard one 4", "set soft at most to hard"),
        ("output=/no/such/directory/a.log", "output cannot go to the file", "make its directory"),
        ("output=/", "output cannot go to the file", "set another path"),
        ("env=A=B", "cannot stand in an environment", "set a name without ="),
        ("env=CLUSTER_WORKER", "is this library's own mark", "set another variable"),
    ] {
        let mut cluster = setup([argument]).start();
        cluster.expect_exit(2);
        let log = cluster.log_text();
        let line = log.lines().find(|line| line.contains(told)).unwrap_or_else(|| panic!("{argument}: {log}"));
        assert!(line.starts_with("cluster: ") && line.contains(remedy), "{line}");
        assert_eq!(log.matches("a process starts").count(), 1, "{log}");
    }
}

#[test]
fn what_the_kernel_refuses_at_the_spawn_is_told_by_its_step() {
    let hard = open_files(Pid::this())[1];
    let higher = format!("files=1:{}", hard.saturating_add(1));
    for (argument, code, told) in [
        ("nice=-5", 3, "cannot be spawned: while setting up its nice value -5: "),
        ("oom_score=-1000", 3, "cannot be spawned: while setting up its OOM score -1000: Permission denied"),
        (&higher, 2, "of Files is above this process's"),
    ] {
        let Some(launch) = unprivileged([argument]) else { return };
        let mut cluster = launch.start();
        cluster.expect_exit(code);
        assert!(cluster.log_text().contains(told), "{argument}: {}", cluster.log_text());
    }
}

#[test]
fn a_closure_that_panics_or_sets_what_cannot_be_fails_that_spawn() {
    for (argument, told) in [
        ("each=panic", "cannot be spawned: the closure given to Setup::each panicked: the closure's own panic"),
        ("each=bad", "cannot be spawned: nice is 100; set -20 to 19"),
    ] {
        let mut cluster = setup([argument]).start();
        cluster.expect_exit(3);
        let log = cluster.log_text();
        assert!(
            log.lines().any(|line| line.contains("slot=0 generation=1 worker=1: ") && line.contains(told)),
            "{log}"
        );
    }
}

#[test]
fn a_closure_that_panics_later_leaves_what_serves_alone_and_is_called_again() {
    let scratch = Scratch::new();
    let flag = scratch.path("panic");
    let mut cluster = setup([&format!("each={}", flag.display())]).start();
    let address = cluster.wait_ready();
    let victim = who(address);
    let sibling = who::find(address, |who| who.id != victim.id);
    let mut kept = who::keep(address, |who| who.id == sibling.id);
    fs::write(&flag, "").unwrap();
    send(victim.pid, Signal::SIGKILL);
    cluster.wait_for("cannot be spawned: the closure given to Setup::each panicked");
    assert_eq!(kept.ask(), sibling);
    fs::remove_file(&flag).unwrap();
    let deadline = Instant::now() + DEADLINE;
    cluster.wait_until("the replacement", |_| {
        let found = who(address);
        assert!(Instant::now() < deadline);
        (found.id > 2).then_some(found)
    });
    stop(cluster);
}

#[test]
fn workers_inherit_the_output_without_a_setup() {
    let mut cluster = setup([]).with(|command| _ = command.stdin(Stdio::null())).start();
    let address = cluster.wait_ready();
    print_in_both(address, "plain");
    cluster.wait_logged("plain on stdout");
    cluster.wait_logged("plain on stderr");
    let log = cluster.log_text();
    assert!(log.lines().any(|line| line == "plain on stdout"), "{log}");
    stop(cluster);
}
