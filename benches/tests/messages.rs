//! The bench of messages, in short: it works.

use std::process::Command;

#[test]
fn a_trial_finds_a_figure_wherever_this_library_is_measured() {
    let trial = ["messages", "--trial", "--measure", "one-way,calls,bulk,counter,memory,drain"];
    let output = Command::new(env!("CARGO_BIN_EXE_benches")).args(trial).output().unwrap();
    let (table, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{table}\n{log}");
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| cluster |")).collect();
    // Serving and echoes, the latter in two places, were not asked for.
    let (empty, full): (Vec<&str>, Vec<&str>) = rows.into_iter().partition(|row| row.contains("| – |"));
    assert_eq!((empty.len(), full.len()), (3, 6), "{table}\n{log}");
}

#[test]
fn an_unknown_measure_is_refused_by_name() {
    let output = Command::new(env!("CARGO_BIN_EXE_benches")).args(["messages", "--measure", "luck"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--measure luck: there are one-way, serving"));
}
