//! Checks that the completions in packaging/completions fit the programs' arguments.
//! `UPDATE_GOLDEN=1` writes them anew.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::CommandFactory;
use clap_complete::{Shell, generate};
use gfxplane::cli::{probe, tool};
use libtest_mimic::{Failed, Trial};

use crate::support::hosts::{entries, golden};

const SHELLS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash"),
    (Shell::Zsh, "zsh"),
    (Shell::Fish, "fish"),
];

/// Returns all tests of the completions.
pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = vec![
        Trial::test("completions::folder", folder_is_tidy),
        Trial::test("completions::bash-completes", bash_completes),
    ];
    for (shell, kind) in SHELLS {
        for command in commands() {
            let path = folder().join(file(command.get_name(), kind));
            trials.push(Trial::test(
                format!("completions::{}::{kind}", command.get_name()),
                move || golden(&path, &script(command, shell)?),
            ));
        }
    }
    trials
}

/// Returns the commands without verbs that nobody types.
fn commands() -> [clap::Command; 2] {
    let tool = tool::Arguments::command();
    let verbs = tool.get_subcommands().filter(|verb| !verb.is_hide_set());
    let typed = clap::Command::new("gfxplane")
        .version(env!("CARGO_PKG_VERSION"))
        .args(tool.get_arguments())
        .subcommands(verbs);
    [typed, probe::Arguments::command()]
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/completions")
}

/// Returns the name of the file that a shell expects.
fn file(program: &str, shell: &str) -> String {
    match shell {
        "zsh" => format!("zsh/_{program}"),
        "fish" => format!("fish/{program}.fish"),
        _ => format!("bash/{program}"),
    }
}

fn script(mut command: clap::Command, shell: Shell) -> Result<String, Failed> {
    let name = command.get_name().to_owned();
    let mut script = Vec::new();
    generate(shell, &mut command, name, &mut script);
    Ok(String::from_utf8(script)?)
}

fn folder_is_tidy() -> Result<(), Failed> {
    for (_, shell) in SHELLS {
        let wanted: BTreeSet<String> = commands()
            .iter()
            .map(|command| file(command.get_name(), shell))
            .collect();
        let found = entries(&folder().join(shell)).into_iter();
        let found: BTreeSet<String> = found.map(|name| format!("{shell}/{name}")).collect();
        if found != wanted {
            return Err(format!("there are {found:?}: expected {wanted:?}").into());
        }
    }
    Ok(())
}

/// Checks what bash makes of the script.
fn bash_completes() -> Result<(), Failed> {
    for (line, expected) in [
        ("gfxplane nodedev", "nodedev-list nodedev-dumpxml"),
        ("gfxplane fixup --print", "--print-diff --print-xml"),
        ("gfxplane verify-", ""),
    ] {
        let script = format!(
            "source bash/gfxplane && COMP_WORDS=({line}) COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)) &&\n\
             _gfxplane gfxplane \"${{COMP_WORDS[-1]}}\" && echo \"${{COMPREPLY[*]}}\""
        );
        let output = Command::new("bash")
            .args(["--norc", "-c", &script])
            .current_dir(folder())
            .stdin(Stdio::null())
            .output()?;
        let found = String::from_utf8(output.stdout)?;
        if found.trim_end() != expected {
            let stderr = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{line}: {found}{stderr}: expected {expected}").into());
        }
    }
    Ok(())
}
