//! A fixture: a service whose workers run in what the arguments say, each a `key=value`. `CHATTER` says what its workers print.

use std::io::Write as _;
use std::process::Command;
use std::sync::Mutex;
use std::time::Duration;
use std::{fs, thread};

use axum::Router;
use axum::extract::Path;
use axum::routing::get;
use cluster::{Affinity, Config, Output, Primary, Resource, Setup, Spawn, worker};

fn main() -> cluster::Result {
    // Once for each process, so that a test sees that none was spawned.
    eprintln!("a process starts");
    let setup = std::env::args().skip(1).fold(Setup::new(), |setup, argument| {
        let (key, value) = argument.split_once('=').expect("an argument is key=value");
        set(setup, key, value.to_owned())
    });
    cluster::run(Config::new().workers(2).setup(setup).primary(watch), program)
}

fn set(setup: Setup, key: &str, value: String) -> Setup {
    let number = || value.parse::<i32>().expect("a number");
    match key {
        "env" => setup.env(value, "from the setup"),
        "cwd" => setup.cwd(value),
        "user" => setup.user(value),
        "group" => setup.group(value),
        "no_new_privs" => setup.no_new_privs(value == "true"),
        "ports" => setup.ports(value.split(',')),
        "files" => {
            let (soft, hard) = value.split_once(':').expect("soft:hard");
            setup.rlimit(Resource::Files, soft.parse().expect("a number"), hard.parse().expect("a number"))
        }
        "nice" => setup.nice(number()),
        "oom_score" => setup.oom_score(number()),
        "cores" if value == "auto" => setup.affinity(Affinity::Auto),
        "cores" => {
            let cores = value.split_terminator(',').map(|core| core.parse().expect("a core's number"));
            setup.affinity(Affinity::Cores(cores.collect()))
        }
        "output" if value == "prefixed" => setup.output(Output::Prefixed),
        "output" => setup.output(Output::File(value.into())),
        "each" => setup.each(move |spawn| each(spawn, &value)),
        _ => panic!("no key {key:?}"),
    }
}

/// What is called before every spawn.
fn each(spawn: &mut Spawn, way: &str) {
    match way {
        "names" => {
            let name = format!("worker {} slot {} generation {}", spawn.worker(), spawn.slot(), spawn.generation());
            spawn.env("NAME", name).env("SHARED", "from the closure");
        }
        "differs" if spawn.slot() == 1 => _ = spawn.cwd("/").nice(7).oom_score(300).affinity(Affinity::Auto),
        "differs" => _ = spawn.rlimit(Resource::Files, 222, 333),
        "bad" => _ = spawn.nice(100),
        "panic" => panic!("the closure's own panic"),
        flag if fs::exists(flag).is_ok_and(|is| is) => panic!("the closure's own panic"),
        _ => {}
    }
}

/// Prints on stderr: where stdout is not read, it goes on.
async fn watch(mut primary: Primary) -> cluster::Result {
    while let Some(event) = primary.next().await {
        eprintln!("{event:?}");
    }
    Ok(())
}

async fn program() -> cluster::Result {
    match std::env::var("CHATTER").as_deref() {
        Ok("storm") => storm(),
        Ok("endless") => _ = thread::spawn(endless),
        Ok("family") => family(),
        Ok("last-words") => return last_words().await,
        Ok("ticks") => ticks().await,
        Ok("logs") => _ = tokio::spawn(reopen_logs()),
        _ => {}
    }
    let print = |Path(text): Path<String>| async move {
        println!("{text} on stdout");
        eprintln!("{text} on stderr");
    };
    let app = Router::new().route("/who", get(who)).route("/print/{text}", get(print));
    let app = app.route("/listen/{*address}", get(listen)).route("/run/{*script}", get(run));
    let address = std::env::var("ADDR").unwrap_or_else(|_| "127.0.0.1:0".into());
    cluster::serve(address, app).await
}

async fn who() -> String {
    let worker = worker();
    format!("{} {} {} {}", worker.id(), worker.slot(), worker.generation(), std::process::id())
}

/// Listens there, too, for as long as the worker lives; says what became of it.
async fn listen(Path(address): Path<String>) -> String {
    static LISTENERS: Mutex<Vec<cluster::Listener>> = Mutex::new(Vec::new());
    match cluster::listen(&address).await {
        Ok(listener) => {
            LISTENERS.lock().unwrap().push(listener);
            format!("listens on {address}")
        }
        Err(error) => format!("{:?}: {error}", error.kind()),
    }
}

/// What a shell prints that runs this, as a process of the worker.
async fn run(Path(script): Path<String>) -> String {
    let output = Command::new("sh").args(["-c", &script]).output().expect("there is a shell");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// Lines of many lengths, those on stdout in pieces with a flush between them.
fn storm() {
    thread::scope(|scope| {
        scope.spawn(|| {
            let mut stdout = std::io::stdout().lock();
            for number in 0..LINES {
                let (start, end) = (format!("out {number} "), "x".repeat(number * 7 % 300));
                _ = stdout.write_all(start.as_bytes()).and_then(|()| stdout.flush());
                _ = stdout.write_all(format!("{end}.\n").as_bytes());
            }
        });
        scope.spawn(|| {
            for number in 0..LINES {
                eprintln!("err {number} {}.", "x".repeat(number * 7 % 300));
            }
        });
    });
}

/// A multiple of 300, so that all lengths come equally often.
const LINES: usize = 600;

fn endless() {
    loop {
        println!("endless");
    }
}

/// Counts on both streams for as long as it lives; whoever cannot print crashes. While the file `HOLD` exists, it does not serve.
async fn ticks() {
    thread::spawn(|| {
        for number in 0_u64.. {
            // Each in one write, so that it is whole whenever it is read.
            let written = std::io::stdout().lock().write_all(format!("out tick {number}\n").as_bytes());
            written
                .and_then(|()| std::io::stderr().write_all(format!("err tick {number}\n").as_bytes()))
                .unwrap_or_else(|_| std::process::abort());
            thread::sleep(Duration::from_millis(2));
        }
    });
    let hold = std::env::var("HOLD").unwrap_or_default();
    while fs::exists(&hold).is_ok_and(|is| is) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Leaves processes behind that hold the output: one is silent, one goes on printing.
fn family() {
    let script = "sleep 1000 & while echo busy; do sleep 0.01; done &";
    assert!(Command::new("sh").args(["-c", script]).status().expect("there is a shell").success());
}

async fn last_words() -> cluster::Result {
    let worker = worker();
    worker.ready();
    worker.shutdown().await;
    // Less than a pipe holds, and more with the prefixes.
    for number in 0..2000 {
        println!("farewell {number}");
    }
    print!("no newline after this");
    std::io::stdout().flush()?;
    std::process::exit(0)
}

/// Counts on stdout. While the file `HOLD` exists, it does not ask anew.
async fn reopen_logs() {
    let hold = std::env::var("HOLD").unwrap_or_default();
    let worker = worker();
    for count in 1.. {
        worker.logs_to_reopen().await;
        println!("reopened {count}");
        while fs::exists(&hold).is_ok_and(|is| is) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
