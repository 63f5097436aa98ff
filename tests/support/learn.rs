//! Tests what is learned from logs. Each folder in `tests/learn` is a case:
//!
//! * `log`: the log of a domain, as libvirt and QEMU write it. The messages are those of
//!   `tests/vm/matrix-measured`, and for GVT-g those of public reports;
//! * `case.toml`: `domain` (its UUID); `devices`, which it has; `running = true` if it runs;
//! * `learned.txt`: the expected result.
//!
//! `UPDATE_GOLDEN=1 cargo test --test cases` writes the last anew: read what git says then.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use gfxplane::device::id::DeviceId;
use gfxplane::explain::learn::learn;
use gfxplane::host::log::rfc3339;
use libtest_mimic::{Failed, Trial};
use serde::Deserialize;
use uuid::Uuid;

use crate::support::folders::{self, nothing_but};
use crate::support::hosts::golden;

#[derive(Deserialize)]
struct Case {
    domain: Uuid,
    devices: Vec<DeviceId>,
    #[serde(default)]
    running: bool,
}

/// Returns all cases.
pub(crate) fn trials() -> Vec<Trial> {
    folders::trials("learn", of_folder)
}

fn of_folder(folder: &Path) -> Result<(), Failed> {
    nothing_but(folder, &["case.toml", "learned.txt", "log"])?;
    let case: Case = toml::from_str(&fs::read_to_string(folder.join("case.toml"))?)?;
    let log = fs::read_to_string(folder.join("log"))?;
    let mut said = String::new();
    match learn(&log, case.domain, &case.devices, case.running) {
        Err(why) => writeln!(said, "nothing: {why}")?,
        Ok(lesson) => {
            let qemu = lesson.qemu.map(|version| version.to_string());
            let what = if lesson.started { "started" } else { "refused" };
            writeln!(said, "began: {}", rfc3339(lesson.began.as_secs()))?;
            writeln!(said, "qemu: {}", qemu.as_deref().unwrap_or("not known"))?;
            writeln!(said, "emulator: {}", lesson.emulator.display())?;
            writeln!(said, "domain: {what}")?;
            for (id, display) in lesson.displays {
                writeln!(said, "{id}: {}", display.words().join(" and "))?;
            }
        }
    }
    cut_anywhere(&log, &case)?;
    golden(&folder.join("learned.txt"), &said)
}

/// Checks that a log without its beginning or end teaches nothing else than the whole one, and
/// breaks nothing.
fn cut_anywhere(log: &str, case: &Case) -> Result<(), Failed> {
    let whole = learn(log, case.domain, &case.devices, case.running);
    for at in (0..log.len())
        .step_by(7)
        .filter(|at| log.is_char_boundary(*at))
    {
        let tail = learn(&log[at..], case.domain, &case.devices, case.running);
        if let Ok(lesson) = tail
            && Ok(&lesson) != whole.as_ref()
        {
            return Err(format!("from byte {at} on another thing is learned: {lesson:?}").into());
        }
        let _ = learn(&log[..at], case.domain, &case.devices, case.running);
    }
    Ok(())
}
