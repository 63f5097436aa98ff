//! Tests the completions in packaging/completions, each in its shell. On a recorded host the words
//! are known.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use libtest_mimic::{Failed, Trial};

const GUESTS: &str = "--host tests/overview/gvt-g-guests/root";
const LAB: &str = "--host tests/hosts/lab/root";
const CARDS: &str = "--host tests/hosts/nvidia-vfs/root";

/// Returns a test for each shell.
pub(crate) fn trials() -> Vec<Trial> {
    [
        ("bash", bash as fn(&str) -> Result<Command, Failed>),
        ("zsh", zsh),
        ("fish", fish),
    ]
    .into_iter()
    .map(|(name, ask)| Trial::test(format!("completions::{name}"), move || completes(ask)))
    .collect()
}

/// Asks a shell about command lines. Each has the words that are offered, and words that are not.
fn completes(ask: fn(&str) -> Result<Command, Failed>) -> Result<(), Failed> {
    for (line, offered, not) in [
        (
            "gfxplane nodedev".into(),
            &["nodedev-list", "nodedev-dumpxml"][..],
            &["check"][..],
        ),
        (
            "gfxplane fixup --print".into(),
            &["--print-diff", "--print-xml"],
            &["--define"],
        ),
        (
            "gfxplane probe --".into(),
            &["--fresh", "--all"],
            &["--unasked"],
        ),
        ("gfxplane probe --una".into(), &[], &["--unasked"]),
        ("gfxplane-probe --fr".into(), &["--fresh"], &["--all"]),
        (
            format!("gfxplane {GUESTS} check "),
            &["desktop", "waits"],
            &["mbochs"],
        ),
        (
            format!("gfxplane {GUESTS} check d"),
            &["dark", "desktop"],
            &["waits"],
        ),
        (
            format!("gfxplane {GUESTS} explain --domain wa"),
            &["waits"],
            &["dark"],
        ),
        (
            format!("gfxplane {GUESTS} log desk"),
            &["desktop"],
            &["dark"],
        ),
        (
            format!("gfxplane {LAB} probe c1a20000-0000-4000-8000-00000000000"),
            &["c1a20000-0000-4000-8000-000000000003"],
            &["c1a20000-0000-4000-8000-000000000010"],
        ),
        (
            format!("gfxplane {LAB} probe --type mtty/"),
            &["mtty/mtty-1", "mtty/mtty-2"],
            &[],
        ),
        (
            "gfxplane policy guest display=a".into(),
            &["display=asked", "display=auto"],
            &[],
        ),
        (
            "gfxplane policy guest b".into(),
            &["boot_display=keep"],
            &["display=auto"],
        ),
        ("gfxplane fixup --policy ".into(), &["asked", "full"], &[]),
        (
            "gfxplane check tests/fixup/dmabuf-vnc/dom".into(),
            &["tests/fixup/dmabuf-vnc/domain.xml"],
            &[],
        ),
        (
            format!("gfxplane {CARDS} nodedev-dumpxml 0000:41:00"),
            &["0000:41:00.5"],
            &[],
        ),
    ] {
        let found = said(ask(&line)?)?;
        for word in offered {
            if !found.iter().any(|one| is_same(one, word)) {
                return Err(format!("{line}: {word} is not in {found:?}").into());
            }
        }
        for word in not {
            if found.iter().any(|one| one == word) {
                return Err(format!("{line}: {word} is offered").into());
            }
        }
    }
    Ok(())
}

/// Returns whether a word is offered. bash takes what follows the last `=` or `:` for the word.
fn is_same(found: &str, word: &str) -> bool {
    let after = |separator| word.rsplit_once(separator).map(|(_, after)| after);
    found == word || Some(found) == after('=') || Some(found) == after(':')
}

/// Runs a shell that prints a word a line.
fn said(mut shell: Command) -> Result<Vec<String>, Failed> {
    let programs = Path::new(env!("CARGO_BIN_EXE_gfxplane")).parent();
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::env::split_paths(&path);
    let path = std::env::join_paths(programs.map(PathBuf::from).into_iter().chain(path))?;
    let name = shell.get_program().to_owned();
    let output = shell
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .env("PATH", path)
        .env("HOME", env!("CARGO_TARGET_TMPDIR"))
        .env_remove("GFXPLANE_ROOT")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("{name:?} can't be run ({error}): packaging/setup installs it"))?;
    if !output.stderr.is_empty() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let found = String::from_utf8(output.stdout)?;
    Ok(found.lines().map(str::to_owned).collect())
}

fn bash(line: &str) -> Result<Command, Failed> {
    let mut shell = Command::new("bash");
    shell.args(["--norc", "-c"]).arg(
        "source packaging/completions/bash/gfxplane\n\
         COMP_LINE=$1 COMP_POINT=${#1}\n\
         _gfxplane \"${1%% *}\"\n\
         for word in \"${COMPREPLY[@]}\"; do echo \"$word\"; done",
    );
    shell.args(["bash", line]);
    Ok(shell)
}

/// Asks zsh. Outside of its line editor there is no compadd: this one prints the names.
fn zsh(line: &str) -> Result<Command, Failed> {
    let mut shell = Command::new("zsh");
    shell.args(["-f", "-c"]).arg(
        "compadd() { print -rl -- $names }\n\
         words=(\"${(@s: :)1}\") CURRENT=${#words}\n\
         complete_it() { source packaging/completions/zsh/_gfxplane }\n\
         complete_it",
    );
    shell.args(["zsh", line]);
    Ok(shell)
}

fn fish(line: &str) -> Result<Command, Failed> {
    let mut shell = Command::new("fish");
    let script = "source packaging/completions/fish/gfxplane.fish; complete -C $argv[1] | string split -f 1 \\t";
    shell.args(["--no-config", "-c", script, line]);
    Ok(shell)
}
