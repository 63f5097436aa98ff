//! Tests reports about hosts. Each folder in `tests/doctor` is a case:
//!
//! * `root/`: the host, as in `tests/hosts` (`gfxplane collect` makes it). If there is a `case.toml`, its
//!   `host` names a folder of `tests/hosts`, and `root/` lies over that host: its files go before, and an
//!   empty `.absent` file beside a name removes that name. What has no place in a tree is in
//!   `var/cache/gfxplane/moment.json`;
//! * `said.txt`: the report.
//!
//! `UPDATE_GOLDEN=1 cargo test --test cases` writes the last anew: read what git says then.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use gfxplane::cli::doctor::{read, text};
use gfxplane::host::Root;
use gfxplane::libvirt::{Context, Without};
use libtest_mimic::{Failed, Trial};
use serde::Deserialize;
use tempfile::TempDir;

use crate::support::folders::{self, nothing_but};
use crate::support::hosts::golden;
use crate::support::overview::without_colours;

#[derive(Default, Deserialize)]
struct Case {
    host: Option<String>,
}

/// Returns all cases.
pub(crate) fn trials() -> Vec<Trial> {
    folders::trials("doctor", of_folder)
}

fn of_folder(folder: &Path) -> Result<(), Failed> {
    nothing_but(folder, &["case.toml", "root", "said.txt"])?;
    let made = tree(folder)?;
    let context = Context {
        root: Root::recorded(made.path()),
        connect: None,
        quiet: true,
        libvirt: Arc::new(Without),
    };
    let (lines, warnings) = read(&context)?;
    for fix in lines.iter().flat_map(|line| &line.fixes) {
        is_command(fix)?;
    }
    let mut said = Vec::new();
    for warning in warnings {
        let inside = warning.path.strip_prefix(made.path())?;
        said.extend(format!("warning: /{}: {}\n", inside.display(), warning.problem).bytes());
    }
    said.extend(without_colours(&text(&lines), 80).bytes());
    golden(&folder.join("said.txt"), std::str::from_utf8(&said)?)
}

/// Checks that a fix is a whole command: a shell can read it, and it begins with a program.
pub(crate) fn is_command(fix: &str) -> Result<(), Failed> {
    const PROGRAMS: [&str; 23] = [
        "apt",
        "chmod",
        "dmesg",
        "cp",
        "dnf",
        "echo",
        "editor",
        "fuser",
        "gfxplane",
        "gfxplane-helper",
        "install",
        "ls",
        "mdevctl",
        "modprobe",
        "nvidia-smi",
        "printf",
        "rm",
        "sudoedit",
        "systemctl",
        "usermod",
        "virsh",
        "/usr/lib/nvidia/sriov-manage",
        "/usr/libexec/gfxplane/libvirt-9",
    ];
    let read = Command::new("sh").args(["-n", "-c", fix]).output()?;
    let command = fix.strip_prefix("sudo ").unwrap_or(fix);
    let program = command.split_whitespace().next().unwrap_or_default();
    let words = command.split(" # ").next().unwrap_or_default();
    let has_place = words.contains("DOMAIN") || words.contains("DEVICE");
    match read.status.success() && PROGRAMS.contains(&program) && !has_place {
        true => Ok(()),
        false => Err(format!("this can't be typed: {fix}").into()),
    }
}

/// Makes the host of a case.
pub(crate) fn tree(folder: &Path) -> Result<TempDir, Failed> {
    let case: Case = match fs::read_to_string(folder.join("case.toml")) {
        Ok(text) => toml::from_str(&text)?,
        Err(_) => Case::default(),
    };
    let made = tempfile::tempdir()?;
    if let Some(host) = case.host {
        let hosts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts");
        lay(&hosts.join(host).join("root"), made.path())?;
    }
    lay(&folder.join("root"), made.path())?;
    Ok(made)
}

/// Lays a tree over another.
fn lay(from: &Path, to: &Path) -> Result<(), Failed> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if let Some(absent) = source
            .file_name()
            .and_then(|name| name.to_str()?.strip_suffix(".absent"))
        {
            let absent = to.join(absent);
            if absent.is_dir() {
                fs::remove_dir_all(absent)?;
            } else {
                fs::remove_file(absent)?;
            }
        } else if kind.is_dir() {
            lay(&source, &target)?;
        } else {
            let _ = fs::remove_file(&target);
            if kind.is_symlink() {
                std::os::unix::fs::symlink(fs::read_link(&source)?, &target)?;
            } else {
                fs::copy(&source, &target)?;
            }
        }
    }
    Ok(())
}
