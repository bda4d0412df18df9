//! The long run, in short: it works, and it sees what fails.

use std::process::Command;

#[test]
fn a_trial_loses_nothing_but_what_killed_workers_had_and_sees_a_cluster_die() {
    let trial = ["change", "--trial", "--measure", "control,kill", "--kills", "2"];
    let output = Command::new(env!("CARGO_BIN_EXE_benches")).args(trial).output().unwrap();
    let (table, log) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{table}\n{log}");
    for promise in ["requests lost, all processes killed", "workers killed", "requests failed"] {
        assert!(table.lines().any(|line| line.contains(promise) && line.ends_with("| met |")), "{promise}: {table}");
    }
}

#[test]
fn an_unknown_measure_is_refused_by_name() {
    let output = Command::new(env!("CARGO_BIN_EXE_benches")).args(["change", "--measure", "luck"]).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("--measure luck: there are control, reload"));
}
