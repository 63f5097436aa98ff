//! Makes tests of folders that are cases, wherever they are put.

use std::path::Path;

use libtest_mimic::{Failed, Trial};

use crate::support::hosts::entries;

/// Returns a test for each folder in `tests/KIND`, of which there must be some.
pub(crate) fn trials(kind: &str, test: fn(&Path) -> Result<(), Failed>) -> Vec<Trial> {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(kind);
    let folders = entries(&cases);
    assert!(!folders.is_empty(), "{} is empty", cases.display());
    folders
        .into_iter()
        .map(|name| {
            let folder = cases.join(&name);
            Trial::test(format!("{kind}::{name}"), move || test(&folder))
        })
        .collect()
}

/// Checks that a folder contains only files that tests read.
pub(crate) fn nothing_but(folder: &Path, wanted: &[&str]) -> Result<(), Failed> {
    let there = entries(folder);
    let is_stray = |name: &&String| !wanted.contains(&name.as_str());
    let stray: Vec<&String> = there.iter().filter(is_stray).collect();
    if stray.is_empty() {
        Ok(())
    } else {
        Err(format!("nothing looks at {stray:?}").into())
    }
}
