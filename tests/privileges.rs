//! A dropped user stays dropped: what a worker that has given up root cannot have opened, bound or inherited; and what none inherits.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::Instant;

use nix::pty::openpty;
use nix::unistd::{Pid, getuid};
use support::scratch::Scratch;
use support::who::{self, Who, who};
use support::{Cluster, DEADLINE, Launch, Signal, http, send, skip};

const SETUP: &str = env!("CARGO_BIN_EXE_setup");
const NOBODY: u32 = 65534;

fn setup(arguments: &[&str]) -> Launch {
    Cluster::of(SETUP).with(|command| _ = command.args(arguments)).env("CLUSTER_GRACE", "3s")
}

fn is_root() -> bool {
    let is_root = getuid().is_root();
    if !is_root {
        skip("only root may change the user");
    }
    is_root
}

fn stop(mut cluster: Cluster) {
    cluster.signal(Signal::SIGTERM);
    cluster.expect_exit(0);
}

/// A line of a process's status.
fn status(pid: Pid, key: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    line.unwrap_or_else(|| panic!("no {key} in {status}")).split_whitespace().collect::<Vec<_>>().join(" ")
}

fn variable(pid: Pid, name: &str) -> Option<String> {
    let environment = String::from_utf8(fs::read(format!("/proc/{pid}/environ")).unwrap()).unwrap();
    environment.split('\0').find_map(|variable| Some(variable.strip_prefix(name)?.strip_prefix('=')?.to_owned()))
}

/// A field of a process's stat, by its number in proc(5).
fn stat(pid: Pid, field: usize) -> i32 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(") ").next().unwrap().split(' ').nth(field - 3).unwrap().parse().unwrap()
}

/// What a shell prints that the worker of a slot starts.
fn run(address: SocketAddr, slot: usize, script: &str) -> String {
    let escaped: String = script.bytes().map(|byte| format!("%{byte:02x}")).collect();
    who::keep(address, |who| who.slot == slot).body(&format!("/run/{escaped}"))
}

/// What a worker hears that asks to listen there; one that drains is not asked.
fn listen(address: SocketAddr, place: &str) -> String {
    let deadline = Instant::now() + DEADLINE;
    loop {
        let answer = http::body(address, &format!("/listen/{place}"));
        if !answer.starts_with("NotConnected: ") {
            return answer;
        }
        assert!(Instant::now() < deadline, "{answer}");
    }
}

/// A directory of this owner.
fn directory(path: PathBuf, owner: u32, mode: u32) -> PathBuf {
    fs::create_dir(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    chown(&path, Some(owner), Some(owner)).unwrap();
    path
}

/// Ports that nobody uses and that are not free for everybody.
fn low_ports<const N: usize>() -> Option<[u16; N]> {
    let lowest = fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    let lowest: u16 = lowest.trim().parse().unwrap();
    // From somewhere of its own, as tests run beside each other.
    let start = 1 + u16::try_from(std::process::id() % 300).unwrap() + 300 * (N as u16 % 2);
    let bound: Vec<_> =
        (start..lowest).filter_map(|port| TcpListener::bind(("127.0.0.1", port)).ok()).take(N).collect();
    let ports: Vec<u16> = bound.iter().map(|listener| listener.local_addr().unwrap().port()).collect();
    let ports = ports.try_into().ok();
    if ports.is_none() {
        skip("too few ports are kept from everybody here (net.ipv4.ip_unprivileged_port_start)");
    }
    ports
}

#[test]
fn a_worker_that_puts_something_else_in_its_logs_place_gets_nothing_opened() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let secret = directory(scratch.path("secret"), 0, 0o700);
    fs::write(secret.join("shadow"), "root's own").unwrap();
    let target = secret.join("cron");
    let logs = directory(scratch.path("logs"), NOBODY, 0o755);
    let mut cluster = setup(&["user=nobody", &format!("output={}/{{slot}}.log", logs.display())]).start();
    let address = cluster.wait_ready();
    assert_eq!(fs::metadata(logs.join("0.log")).unwrap().uid(), NOBODY, "it is opened as that user");
    let sibling = who::find(address, |who| who.slot == 1);
    let mut kept = who::keep(address, |who| who.id == sibling.id);
    let outside = scratch.path("outside");
    fs::write(&outside, "").unwrap();
    chown(&outside, Some(NOBODY), Some(NOBODY)).unwrap();
    for (attack, told) in [
        (format!("ln -s {} 0.log", target.display()), "it is a symbolic link, which is not followed; remove it"),
        (format!("ln -sf {} 0.log", secret.join("shadow").display()), "it is a symbolic link"),
        (format!("ln {} 0.log", outside.display()), "it has 2 names (hard links)"),
        ("mkfifo 0.log".into(), "it is a FIFO that nobody reads"),
        ("mkfifo 0.log && true".into(), "it is neither a regular file nor a character device"),
        ("mkdir 0.log".into(), "Is a directory"),
    ] {
        let victim = who::find(address, |who| who.slot == 0);
        let answer = run(address, 0, &format!("cd {} && mv 0.log old && {attack}", logs.display()));
        assert_eq!(answer, "");
        // With somebody who reads it, a FIFO can be opened.
        let is_read = attack == "mkfifo 0.log && true";
        let _reader = is_read.then(|| fs::File::options().read(true).write(true).open(logs.join("0.log")).unwrap());
        cluster.signal(Signal::SIGUSR1);
        let line = cluster.wait_for("its output goes on where it went: cannot open its log file");
        assert!(line.contains("slot=0 ") && line.contains(told), "{attack}: {line}");
        // Not for each: with every failure it takes longer until the next attempt.
        let is_killed = attack.starts_with("ln -s ") || attack == "mkfifo 0.log";
        if is_killed {
            send(victim.pid, Signal::SIGKILL);
            let line = cluster.wait_for("cannot be spawned: cannot open its log file");
            assert!(line.contains("slot=0 ") && line.contains(told), "{attack}: {line}");
        }
        assert_eq!(kept.ask(), sibling, "{attack}");
        assert!(!target.exists() && fs::read(secret.join("shadow")).unwrap() == b"root's own");
        // What is there is put right, and the worker comes by itself, if it is gone.
        fs::remove_file(logs.join("0.log")).or_else(|_| fs::remove_dir(logs.join("0.log"))).unwrap();
        if is_killed {
            who::find(address, |who| who.slot == 0 && who.id > victim.id);
        } else {
            cluster.signal(Signal::SIGUSR1);
        }
        cluster.wait_until("the log", |_| fs::metadata(logs.join("0.log")).is_ok_and(|it| it.is_file()).then_some(()));
        fs::remove_file(logs.join("old")).unwrap();
    }
    stop(cluster);
}

#[test]
fn a_fifo_in_the_logs_place_does_not_keep_the_primary_from_stopping() {
    for user in [&[][..], &["user=nobody"]] {
        if !user.is_empty() && !is_root() {
            return;
        }
        let scratch = Scratch::new();
        let logs = if user.is_empty() { scratch.path("") } else { directory(scratch.path("l"), NOBODY, 0o755) };
        let output = format!("output={}/{{slot}}.log", logs.display());
        let mut cluster = setup(&[&[output.as_str()], user].concat()).start();
        let address = cluster.wait_ready();
        for slot in [0, 1] {
            assert_eq!(run(address, slot, &format!("cd {} && rm {slot}.log && mkfifo {slot}.log", logs.display())), "");
        }
        cluster.workers().into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
        cluster.wait_for("it is a FIFO that nobody reads");
        cluster.signal(Signal::SIGTERM);
        cluster.wait_exit();
        cluster.expect_nothing_left();
    }
}

/// Not the file itself, but a directory on the way.
#[test]
fn a_worker_that_turns_a_directory_on_the_way_to_its_log_gets_nothing_opened() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let secret = directory(scratch.path("secret"), 0, 0o700);
    let base = directory(scratch.path("base"), NOBODY, 0o755);
    directory(base.join("logs"), NOBODY, 0o755);
    let mut cluster = setup(&["user=nobody", &format!("output={}/logs/{{slot}}.log", base.display())]).start();
    let address = cluster.wait_ready();
    let attack = format!("cd {} && mv logs old && ln -s {} logs", base.display(), secret.display());
    assert_eq!(run(address, 0, &attack), "");
    cluster.signal(Signal::SIGUSR1);
    cluster.wait_for("so root must not open it; give the file to that user");
    send(who(address).pid, Signal::SIGKILL);
    cluster.wait_for("cannot be spawned: cannot open its log file");
    assert_eq!(fs::read_dir(&secret).unwrap().count(), 0);
    stop(cluster);
}

#[test]
fn a_directory_of_roots_alone_is_as_good_for_logs_as_before() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let logs = directory(scratch.path("logs"), 0, 0o700);
    let mut cluster = setup(&["user=nobody", &format!("output={}/{{slot}}.log", logs.display())]).start();
    let address = cluster.wait_ready();
    fs::rename(logs.join("0.log"), logs.join("old")).unwrap();
    cluster.signal(Signal::SIGUSR1);
    cluster.wait_until("the file", |_| logs.join("0.log").exists().then_some(()));
    assert_eq!(fs::metadata(logs.join("0.log")).unwrap().uid(), 0);
    let victim = who(address);
    send(victim.pid, Signal::SIGKILL);
    who::find(address, |who| who.slot == victim.slot && who.id > 2);
    assert!(!cluster.log_text().contains("cannot open"));
    stop(cluster);
}

/// The file of a server that is dead, root's own, in a directory of root's own.
fn dead_server(scratch: &Scratch) -> (PathBuf, u64) {
    let path = directory(scratch.path("roots"), 0, 0o700).join("db.sock");
    drop(UnixListener::bind(&path).unwrap());
    let inode = fs::metadata(&path).unwrap().ino();
    (path, inode)
}

#[track_caller]
fn expect_refused(address: SocketAddr, low: u16, path: &Path) {
    for place in [format!("127.0.0.1:{low}"), format!("unix:{}", path.display()), "unix:/cluster-x.sock".into()] {
        let answer = listen(address, &place);
        assert!(answer.starts_with("PermissionDenied: "), "{place}: {answer}");
        assert!(answer.contains("name it in Setup::ports"), "{place}: {answer}");
        assert!(answer.contains("user nobody"), "{place}: {answer}");
    }
    assert!(!Path::new("/cluster-x.sock").exists());
    TcpListener::bind(("127.0.0.1", low)).expect("nobody has it");
}

#[test]
fn a_dropped_user_gets_no_new_privileged_port_and_no_new_path_once_it_serves() {
    if !is_root() {
        return;
    }
    let Some([own, low]) = low_ports() else { return };
    let scratch = Scratch::new();
    let (path, inode) = dead_server(&scratch);
    let mut cluster = setup(&["user=nobody"]).env("ADDR", &format!("127.0.0.1:{own}")).start();
    let address = cluster.wait_ready();
    expect_refused(address, low, &path);
    // What is everybody's, or has been the cluster's all along.
    assert!(listen(address, "127.0.0.1:0").starts_with("listens on 127.0.0.1:"));
    let name = format!("unix:@cluster-test-{}", std::process::id());
    assert_eq!(listen(address, &name), format!("listens on {name}"));
    let victim = who(address);
    send(victim.pid, Signal::SIGKILL);
    who::find(address, |who| who.id > 2);
    expect_refused(address, low, &path);

    cluster.signal(Signal::SIGTTIN);
    cluster.wait_for_workers(3);
    who::find(address, |who| who.slot == 2);
    cluster.signal(Signal::SIGHUP);
    cluster.wait_for("reloaded: ");
    expect_refused(address, low, &path);
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_for("cluster: upgraded");
    expect_refused(address, low, &path);
    cluster.wait_for("reloaded: ");
    expect_refused(address, low, &path);
    assert_eq!(fs::metadata(&path).unwrap().ino(), inode);
    stop(cluster);
}

#[test]
fn what_the_setup_names_can_be_had_at_any_time() {
    if !is_root() {
        return;
    }
    let Some([low, later, other]) = low_ports() else { return };
    let scratch = Scratch::new();
    let (path, _) = dead_server(&scratch);
    let socket = format!("unix:{}", path.display());
    let ports = format!("ports=127.0.0.1:{low},{socket},localhost:{later}");
    let mut cluster = setup(&["user=nobody", &ports]).start();
    let address = cluster.wait_ready();
    for place in [format!("127.0.0.1:{low}"), socket] {
        assert_eq!(listen(address, &place), format!("listens on {place}"));
    }
    assert!(listen(address, &format!("127.0.0.1:{other}")).starts_with("PermissionDenied: "));
    assert!(listen(address, &format!("0.0.0.0:{low}")).starts_with("PermissionDenied: "));
    cluster.signal(Signal::SIGUSR2);
    cluster.wait_for("cluster: upgraded");
    cluster.wait_for("reloaded: ");
    assert_eq!(listen(address, &format!("127.0.0.1:{later}")), format!("listens on 127.0.0.1:{later}"));
    stop(cluster);
}

#[test]
fn a_path_is_bound_for_a_dropped_user_before_it_serves_and_for_its_replacement() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let path = directory(scratch.path("roots"), 0, 0o755).join("a.sock");
    let mut cluster = setup(&["user=nobody"]).env("ADDR", &format!("unix:{}", path.display())).start();
    cluster.wait_for("2 workers ready");
    let victim = *cluster.workers().first().unwrap();
    send(victim, Signal::SIGKILL);
    cluster.wait_for("restarted at once");
    cluster.wait_for_workers(2);
    cluster.signal(Signal::SIGHUP);
    cluster.wait_for("reloaded: ");
    assert!(!cluster.log_text().contains("name it in Setup::ports"));
    stop(cluster);
    assert!(!path.exists());
}

#[test]
fn without_a_user_every_port_can_be_had_at_any_time() {
    let scratch = Scratch::new();
    let socket = format!("unix:{}", scratch.path("a.sock").display());
    let mut cluster = setup(&["ports=127.0.0.1:9"]).start();
    let address = cluster.wait_ready();
    assert_eq!(listen(address, &socket), format!("listens on {socket}"));
    stop(cluster);
}

#[test]
fn a_port_that_is_none_is_refused_with_the_forms_that_there_are() {
    let mut cluster = setup(&["ports=nonsense"]).start();
    cluster.expect_exit(2);
    let line = cluster.wait_for("ports of the setup: cannot listen on \"nonsense\"");
    assert!(line.contains("write host:port"), "{line}");
}

/// Started badly: with a file of root's open. Workers, what they start and the program after an upgrade do not have it.
#[test]
fn what_the_primary_was_started_with_goes_to_nobody_else() {
    let scratch = Scratch::new();
    let secret = scratch.path("secret");
    fs::write(&secret, "root's own").unwrap();
    fs::set_permissions(&secret, fs::Permissions::from_mode(0o600)).unwrap();
    let has_it = |pid: Pid| {
        let open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap();
        open.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).any(|path| path == secret)
    };
    for user in [&[][..], &["user=nobody"]] {
        if !user.is_empty() && !is_root() {
            return;
        }
        let open = r#"exec "$0" "$@" 3<"$SECRET" 9<"$SECRET" 200<"$SECRET""#;
        let open = format!("bash -c '{open}' \"$0\" \"$@\"");
        let launch = Cluster::of("sh").args(["-c", &format!("exec {open}"), SETUP]);
        let launch = launch.with(|command| _ = command.args(user).env("SECRET", &secret));
        let mut cluster = launch.env("CLUSTER_GRACE", "3s").start();
        let address = cluster.wait_ready();
        assert!(has_it(cluster.primary()), "this test is of some use");
        for slot in [0, 1] {
            assert!(!has_it(who::find(address, |who| who.slot == slot).pid));
            let told = run(address, slot, "cat <&3; cat <&9; ls -l /proc/self/fd");
            assert!(!told.contains("root's own") && !told.contains("secret"), "{told}");
        }
        cluster.signal(Signal::SIGUSR2);
        cluster.wait_for("cluster: upgraded");
        cluster.wait_for("reloaded: ");
        assert!(!has_it(cluster.primary()));
        assert!(!has_it(who(address).pid));
        stop(cluster);
    }
}

/// A cluster with a controlling terminal, and the terminal's other end.
fn on_a_terminal(arguments: &[&str]) -> Option<(Cluster, OwnedFd)> {
    let terminal = openpty(None, None).unwrap();
    let launch = Cluster::of("setsid").args(["--ctty", SETUP]).env("CLUSTER_GRACE", "3s");
    let launch = launch.with(|command| _ = command.args(arguments).stdin(terminal.slave));
    let mut cluster = launch.start();
    cluster.wait_for("2 workers ready");
    assert_ne!(stat(cluster.primary(), 7), 0, "the primary has a terminal");
    Some((cluster, terminal.master))
}

#[test]
fn no_worker_has_the_terminal_of_the_primary_and_ctrl_c_stops_the_cluster_all_the_same() {
    for user in [&[][..], &["user=nobody"]] {
        if !user.is_empty() && !is_root() {
            return;
        }
        let Some((mut cluster, keyboard)) = on_a_terminal(user) else { return };
        let log = cluster.log_text();
        let address = log.lines().find_map(|line| line.split(" ready on ").nth(1)).unwrap();
        let address: SocketAddr = address.split([',', ';']).next().unwrap().trim().parse().unwrap();
        for slot in [0, 1] {
            let pid = who::find(address, |who| who.slot == slot).pid;
            // No terminal and a group of its own; a session only where the user is another.
            let session = if user.is_empty() { stat(cluster.primary(), 6) } else { pid.as_raw() };
            assert_eq!((stat(pid, 7), stat(pid, 6), stat(pid, 5)), (0, session, pid.as_raw()));
            let told = run(address, slot, "echo typed </dev/tty");
            assert!(told.contains("/dev/tty") && !told.contains("typed\n"), "{told}");
        }
        nix::unistd::write(keyboard.as_fd(), b"\x03").unwrap();
        cluster.wait_for("stopping within");
        cluster.expect_exit(0);
    }
}

const NO_CAPABILITIES: &str = "0000000000000000";

#[test]
fn a_dropped_user_has_no_capability_and_no_way_to_one() {
    if !is_root() {
        return;
    }
    for (arguments, no_new_privs) in [
        (&["user=nobody"][..], "1"),
        (&["user=nobody", "no_new_privs=false"], "0"),
        (&["user=54322", "group=54323"], "1"),
    ] {
        let mut cluster = setup(arguments).start();
        let pid = who(cluster.wait_ready()).pid;
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(pid, set), NO_CAPABILITIES, "{arguments:?} {set}");
        }
        assert_eq!(status(pid, "NoNewPrivs"), no_new_privs, "{arguments:?}");
        assert_ne!(status(cluster.primary(), "CapEff"), NO_CAPABILITIES);
        assert_eq!(status(cluster.primary(), "NoNewPrivs"), status(Pid::this(), "NoNewPrivs"));
        stop(cluster);
    }
    for arguments in [&[][..], &["user=root"], &["group=54323"]] {
        let mut cluster = setup(arguments).start();
        let pid = who(cluster.wait_ready()).pid;
        for key in ["CapEff", "CapBnd", "NoNewPrivs"] {
            assert_eq!(status(pid, key), status(Pid::this(), key), "{arguments:?}");
        }
        stop(cluster);
    }
}

/// Capabilities that pass over a change of the user: inheritable and ambient ones, and all with the securebit for that.
#[test]
fn what_the_primary_was_given_to_keep_is_not_kept() {
    if !is_root() {
        return;
    }
    for given in [
        &["--inh-caps", "+net_admin,+chown", "--ambient-caps", "+net_admin,+chown"][..],
        &["--securebits", "+no_setuid_fixup"],
    ] {
        let launch = Cluster::of("setpriv").with(|command| _ = command.args(given).args([SETUP, "user=nobody"]));
        if !std::process::Command::new("setpriv").args(given).arg("true").status().is_ok_and(|it| it.success()) {
            return skip("there is no setpriv, or it may not do that");
        }
        let mut cluster = launch.start();
        let pid = who(cluster.wait_ready()).pid;
        for set in ["CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"] {
            assert_eq!(status(pid, set), NO_CAPABILITIES, "{given:?} {set}");
        }
        stop(cluster);
    }
}

/// A container's root that may not empty its bounding set.
#[test]
fn a_root_of_few_capabilities_can_drop_its_user_all_the_same() {
    if !is_root() {
        return;
    }
    let bounded = ["--bounding-set", "-all,+setuid,+setgid,+kill,+chown"];
    if !std::process::Command::new("setpriv").args(bounded).arg("true").status().is_ok_and(|it| it.success()) {
        return skip("there is no setpriv, or it may not do that");
    }
    let mut cluster = Cluster::of("setpriv").args(bounded).args([SETUP, "user=nobody"]).start();
    let pid = who(cluster.wait_ready()).pid;
    assert_eq!((status(pid, "CapEff").as_str(), status(pid, "NoNewPrivs").as_str()), (NO_CAPABILITIES, "1"));
    stop(cluster);
    let mut cluster = Cluster::of("setpriv").args(bounded).args([SETUP, "user=nobody", "no_new_privs=false"]).start();
    cluster.expect_exit(3);
    cluster.wait_for("while setting up its capability bounding set: ");
}

#[test]
fn the_environment_says_who_the_worker_is_and_not_who_the_primary_is() {
    if !is_root() {
        return;
    }
    let entry = nix::unistd::User::from_name("nobody").unwrap().unwrap();
    let all = |pid: Pid| ["HOME", "USER", "LOGNAME", "SHELL"].map(|name| variable(pid, name));
    let start = |arguments: &[&str]| {
        let launch = setup(arguments).env("HOME", "/root").env("USER", "root").env("LOGNAME", "root");
        launch.env("SHELL", "/bin/zsh").env("OTHER", "kept").start()
    };
    let text = |text: &str| Some(text.to_owned());
    let nobodys = [entry.dir.to_str().unwrap(), "nobody", "nobody", entry.shell.to_str().unwrap()].map(text);
    let roots = ["/root", "root", "root", "/bin/zsh"].map(text);
    for (arguments, expected) in [
        (&["user=nobody"][..], nobodys.clone()),
        (&["user=65534"], nobodys.clone()),
        // No name, so no home.
        (&["user=54322", "group=54323"], [const { None }; 4]),
        (&["user=nobody", "env=HOME"], [&[text("from the setup")], &nobodys[1..]].concat().try_into().unwrap()),
        (&["group=54323"], roots.clone()),
        (&[], roots),
    ] {
        let mut cluster = start(arguments);
        let pid = who(cluster.wait_ready()).pid;
        assert_eq!(all(pid), expected, "{arguments:?}");
        assert_eq!(variable(pid, "OTHER").as_deref(), Some("kept"));
        stop(cluster);
    }
}

#[test]
fn a_directory_is_entered_with_the_rights_of_the_user_also_by_a_link() {
    if !is_root() {
        return;
    }
    let scratch = Scratch::new();
    let open = directory(scratch.path("open"), 0, 0o755);
    let closed = directory(scratch.path("closed"), 0, 0o700);
    for (name, target) in [("to-open", &open), ("to-closed", &closed)] {
        std::os::unix::fs::symlink(target, scratch.path(name)).unwrap();
    }
    let mut cluster = setup(&["user=nobody", &format!("cwd={}", scratch.path("to-open").display())]).start();
    let Who { pid, .. } = who(cluster.wait_ready());
    assert_eq!(fs::read_link(format!("/proc/{pid}/cwd")).unwrap(), open);
    stop(cluster);
    let mut cluster = setup(&["user=nobody", &format!("cwd={}", scratch.path("to-closed").display())]).start();
    cluster.expect_exit(3);
    cluster.wait_for("while setting up its directory ");
}

#[test]
fn prefixed_output_shows_control_characters_and_lets_none_through() {
    let mut cluster = setup(&["output=prefixed"]).start();
    let address = cluster.wait_ready();
    _ = http::body(address, "/print/%1b[2J%0dcluster:%20forged%00%07%c2%9b31m%09%e2%82%ac");
    for stream in ["stdout", "stderr"] {
        let line = cluster.wait_logged(&format!("on {stream}"));
        let shown = format!(": \\x1b[2J\\x0dcluster: forged\\x00\\x07\\x9b31m\t€ on {stream}");
        assert!(line.starts_with("slot=") && line.ends_with(&shown), "{line:?}");
    }
    assert!(!cluster.log_text().contains(['\x1b', '\r', '\0', '\u{9b}']));
    stop(cluster);
}
