//! What was of use to the fuzzer, and what it once found, through every target.
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{fs, panic, path::Path};

use director_fuzz::TARGETS;

/// Checks all files of a folder, and returns how many there are.
fn replay(folder: &Path, check: fn(&[u8])) -> usize {
    let Ok(entries) = fs::read_dir(folder) else {
        return 0;
    };
    let files = entries.map(|entry| entry.unwrap().path());
    let replayed = files.map(|file| {
        let bytes = fs::read(&file).unwrap();
        let outcome = panic::catch_unwind(|| check(&bytes));
        assert!(outcome.is_ok(), "{} fails, as said above", file.display());
    });
    replayed.count()
}

#[test]
fn all_that_was_found_before_holds() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    for target in &TARGETS {
        let seeds = replay(&here.join("corpus").join(target.name), target.check);
        assert!(seeds > 0, "no corpus of {}", target.name);
        replay(&here.join("regressions").join(target.name), target.check);
    }
}
