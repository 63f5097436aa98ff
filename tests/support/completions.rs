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
    let bare = |word: &str| word.to_owned();
    [
        // The text that bash inserts has the quotation marks.
        ("bash", bash as Ask, OPEN_IN_BASH),
        // compadd and fish add them.
        ("zsh", zsh, [ODD; 4]),
        ("fish", fish, [ODD; 4]),
    ]
    .into_iter()
    .flat_map(|(name, ask, odd)| {
        let home = if name == "zsh" { "" } else { "~/" };
        let file = if name == "bash" {
            r"a\ b.xml"
        } else {
            "a b.xml"
        };
        let file = format!("{home}{file}");
        [
            Trial::test(format!("completions::{name}"), move || completes(ask)),
            Trial::test(format!("completions::{name}-quotes"), move || {
                quotes(ask, &odd.map(bare), &file)
            }),
        ]
    })
    .collect()
}

/// Makes the call of a shell that completes a command line.
type Ask = fn(&str) -> Result<Command, Failed>;

/// A guest of a recorded host.
const ODD: &str = "off <&> it's";

/// The text that bash inserts for [`ODD`] in the lines of [`quotes`].
const OPEN_IN_BASH: [&str; 4] = [
    r"off\ \<\&\>\ it\'s",
    r"off\ \<\&\>\ it\'s",
    r"off <&> it'\''s",
    "off <&> it's",
];

/// Asks a shell about words with quotation marks, with a tilde, and with commas.
fn quotes(ask: Ask, odd: &[String], file: &str) -> Result<(), Failed> {
    let home = Path::new(env!("CARGO_TARGET_TMPDIR"));
    std::fs::create_dir_all(home.join("sub"))?;
    std::fs::write(home.join("a b.xml"), "<domain/>")?;
    let guest = |word: &str| format!("gfxplane {GUESTS} check {word}");
    let losses = |words: &str| format!("gfxplane fixup {words}");
    for (line, offered) in [
        (guest("of"), odd[0].as_str()),
        (guest(r"off\ \<"), &odd[1]),
        (guest("'off <"), &odd[2]),
        (guest("\"off <"), &odd[3]),
        ("gfxplane check ~/a".into(), file),
        (losses("--consent remote,"), "remote,video"),
        (losses("--consent vid"), "video"),
        // The shell does not replace this tilde.
        ("gfxplane check '~/a".into(), ""),
    ] {
        let found = said(ask(&line)?)?;
        let offered: Vec<&str> = [offered]
            .into_iter()
            .filter(|one| !one.is_empty())
            .collect();
        if found != offered {
            return Err(format!("{line}: {found:?}, not {offered:?}").into());
        }
    }
    Ok(())
}

/// Asks a shell about command lines. Each has the words that are offered, and words that are not.
fn completes(ask: Ask) -> Result<(), Failed> {
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
    let words = found.lines().filter(|word| !word.is_empty());
    Ok(words.map(str::to_owned).collect())
}

fn bash(line: &str) -> Result<Command, Failed> {
    let mut shell = Command::new("bash");
    shell.args(["--norc", "-c"]).arg(
        "source packaging/completions/bash/gfxplane\n\
         COMP_WORDBREAKS=$' \\t\\n\"\\'@><=;|&(:'\n\
         COMP_LINE=$1 COMP_POINT=${#1}\n\
         _gfxplane \"${1%% *}\"\n\
         for word in \"${COMPREPLY[@]}\"; do echo \"$word\"; done",
    );
    shell.args(["bash", line]);
    Ok(shell)
}

/// Asks zsh. Outside of its line editor there is neither compadd, which this one prints the words
/// for, nor compset.
fn zsh(line: &str) -> Result<Command, Failed> {
    let mut shell = Command::new("zsh");
    shell.args(["-f", "-c"]).arg(
        "compadd() { print -rl -- \"${(@P)argv[-1]}\" }\n\
         compset() { [[ $PREFIX == '~/'* ]] }\n\
         words=(\"${(@z)1}\")\n\
         [[ $1 == *' ' ]] && words+=('')\n\
         CURRENT=${#words} PREFIX=${words[-1]#[\\'\\\"]}\n\
         QIPREFIX=${words[-1]%$PREFIX}\n\
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
