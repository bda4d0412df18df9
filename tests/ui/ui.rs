//! What the two macros refuse, each mistake with one message that names the remedy, and what they accept.
//!
//! A file in `fail/` is a mistake and its name says which; the `.stderr` beside it is all that the compiler prints. To
//! write them anew after a change of wording: `TRYBUILD=overwrite cargo test -p tests-ui`, then read the diff.
//! The programs in `pass/` are run, too, and so keep their cluster in a module: it must compile, not start.
//!
//! A package of its own, since trybuild compiles all that the package of its test depends on once more.

use std::fs;
use std::path::Path;

#[test]
fn every_mistake_is_refused_as_its_stderr_says() {
    trybuild::TestCases::new().compile_fail("fail/*.rs");
}

#[test]
fn every_mistake_gets_one_message() {
    // Three mistakes in one attribute; data that serde can neither write nor read; and a field beside the type that it is in.
    let more = [
        ("many-wrong-keys", 3),
        ("message-answer-no-data", 2),
        ("message-elements-no-data", 2),
        ("message-field-no-data", 2),
        ("message-generic-no-data", 2),
        ("message-variant-no-data", 2),
        ("message-not-send", 2),
    ];
    for file in fs::read_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("fail")).expect("the directory is there") {
        let path = file.expect("the directory can be read").path();
        if path.extension().is_some_and(|extension| extension == "stderr") {
            let name = path.file_stem().expect("a file has a name").to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).expect("the file can be read");
            let expected = more.iter().find(|(file, _)| *file == name).map_or(1, |(_, count)| *count);
            assert_eq!(text.lines().filter(|line| line.starts_with("error")).count(), expected, "{name}:\n{text}");
            assert!(!text.lines().any(|line| line.starts_with("warning")), "{name}:\n{text}");
        }
    }
}

#[test]
fn every_shape_that_the_docs_promise_compiles_under_strict_lints() {
    trybuild::TestCases::new().pass("pass/*.rs");
}
