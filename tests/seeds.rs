//! Tests the inputs from which fuzzing starts, and those that it has found: each file in
//! `fuzz/seeds/TARGET` is a test of its own.

#[path = "support/lossless/model.rs"]
mod model;
#[path = "support/oracle.rs"]
mod oracle;
#[path = "support/promises.rs"]
mod promises;
#[path = "support/targets/mod.rs"]
mod targets;
#[path = "support/worlds.rs"]
mod worlds;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial, run};

/// A target: takes bytes, and returns the property that they break.
type Check = fn(&[u8]) -> Result<(), String>;

const TARGETS: [(&str, Check); 8] = [
    ("callout", targets::callout::check),
    ("fixup", targets::fixup::check),
    ("log", targets::log::check),
    ("nodedev", targets::nodedev::check),
    ("record", targets::record::check),
    ("rules", targets::rules::check),
    ("sysfs", targets::sysfs::check),
    ("xml", targets::xml::check),
];

fn main() -> ExitCode {
    let fuzz = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    let mut trials = vec![Trial::test("targets", {
        let fuzz = fuzz.clone();
        move || targets_are_known(&fuzz).map_err(Into::into)
    })];
    for (name, check) in TARGETS {
        let seeds = fuzz.join("seeds").join(name);
        for seed in names(&seeds) {
            let path = seeds.join(&seed);
            trials.push(Trial::test(format!("{name}::{seed}"), move || {
                Ok(check(&fs::read(&path)?)?)
            }));
        }
    }
    run(&Arguments::from_args(), trials).exit_code()
}

/// Checks that each target has seeds, all seeds have a target, and both are listed here.
fn targets_are_known(fuzz: &Path) -> Result<(), String> {
    let here: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let strip = |name: String| name.trim_end_matches(".rs").to_owned();
    let built: BTreeSet<String> = names(&fuzz.join("fuzz_targets"))
        .into_iter()
        .map(strip)
        .collect();
    let seeded: BTreeSet<String> = names(&fuzz.join("seeds")).into_iter().collect();
    if here != built || here != seeded {
        return Err(format!(
            "here {here:?}, built {built:?}, with seeds {seeded:?}"
        ));
    }
    match here
        .iter()
        .find(|name| names(&fuzz.join("seeds").join(name)).is_empty())
    {
        Some(name) => Err(format!("{name} has no seeds")),
        None => Ok(()),
    }
}

fn names(directory: &Path) -> Vec<String> {
    let mut names: Vec<String> = fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}
