//! Runs the commands in the documents, and compares their output with the documents.
//!
//! A block marked `console` has commands after `$ `, continued after `> `. Each is followed by its
//! stdout and stderr, and by `exit code: N` if that is not 0. The commands run in the source's
//! directory, on the recorded hosts that they name. `UPDATE_GOLDEN=1` writes the present output
//! into the documents.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libtest_mimic::{Failed, Trial};

use crate::support::hosts::golden;

const BEGIN: &str = "```console";
const END: &str = "```";

/// Returns a test for each document that has commands.
pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = Vec::new();
    for path in documents() {
        let text = fs::read_to_string(&path).expect("a document can be read");
        if text.lines().any(|line| line == BEGIN) {
            let name = path.file_name().expect("it is a file").to_string_lossy();
            trials.push(Trial::test(format!("commands::{name}"), move || {
                golden(&path, &with_output(&text)?)
            }));
        }
    }
    assert!(!trials.is_empty(), "no document has commands");
    trials
}

/// Returns the documents of the project: those at the top, and those in docs.
pub(crate) fn documents() -> Vec<PathBuf> {
    let top = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found: Vec<PathBuf> = [top.to_owned(), top.join("docs")]
        .iter()
        .flat_map(|folder| fs::read_dir(folder).expect("it is there"))
        .map(|entry| entry.expect("it can be read").path())
        .filter(|path| path.extension().is_some_and(|kind| kind == "md"))
        .collect();
    found.sort();
    found
}

/// Returns the document with the present output of its commands.
fn with_output(text: &str) -> Result<String, Failed> {
    let mut made = String::new();
    let mut inside = false;
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let command = line.strip_prefix("$ ").filter(|_| inside);
        // The old output is left out.
        if inside && command.is_none() && line != END {
            continue;
        }
        inside = line == BEGIN || (inside && line != END);
        made += line;
        made.push('\n');
        if let Some(command) = command {
            let mut command = command.to_owned();
            while let Some(more) = lines.next_if(|line| line.starts_with("> ")) {
                made += more;
                made.push('\n');
                command.push('\n');
                command += &more[2..];
            }
            made += &run(&command)?;
        }
    }
    Ok(made)
}

fn run(command: &str) -> Result<String, Failed> {
    let programs = Path::new(env!("CARGO_BIN_EXE_gfxplane"))
        .parent()
        .expect("it lies in a directory");
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths(
        [programs.to_owned()]
            .into_iter()
            .chain(env::split_paths(&path)),
    )?;
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1\n{command}\n")])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PATH", path)
        .env("LC_ALL", "C.UTF-8")
        .env_remove("GFXPLANE_ROOT")
        .stdin(Stdio::null())
        .output()?;
    let mut printed = String::from_utf8(output.stdout)?;
    match output.status.code() {
        Some(0) => {}
        // A program that is missing is no example.
        None | Some(126 | 127) => {
            return Err(format!("{command}: {}: {printed}", output.status).into());
        }
        Some(code) => printed += &format!("exit code: {code}\n"),
    }
    if printed
        .lines()
        .any(|line| line == END || line.starts_with("$ "))
    {
        return Err(format!("{command}: it prints what ends a block: {printed}").into());
    }
    Ok(printed)
}
