//! Tests explanations of messages and logs. Each folder in `tests/explain` is a case:
//!
//! * `message`: what somebody was shown, or `log`: the log of a domain's last start;
//! * `domain.xml`: the domain that it is about; may be missing with a message;
//! * `case.toml`: `host` (a folder of `tests/hosts`) or `doctor` (a folder of `tests/doctor`, whose host it
//!   is), `qemu` and `libvirt` (versions; left out if unknown), `file` if libvirt does not have the domain,
//!   `connect` if the user named a libvirt;
//! * `root`: files that the host has beside those of its folder; may be missing;
//! * `said.txt`: the expected explanation.
//!
//! `tests/explain-reported.tsv` has messages as users were shown them, each with its symptom.
//!
//! `UPDATE_GOLDEN=1 cargo test --test cases` writes the last anew: read what git says then. A case
//! without a known message has a name that begins with `unknown-`, and no other has.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gfxplane::cli::explain::{tell, tell_log};
use gfxplane::cli::page::Page;
use gfxplane::device::id::DeviceId;
use gfxplane::domain::Domain;
use gfxplane::domain::policy::Policy;
use gfxplane::domain::shell::quoted;
use gfxplane::explain::causes::{Explanation, explain};
use gfxplane::explain::doctor::examine;
use gfxplane::explain::messages::{Remedy, wordings};
use gfxplane::explain::situation::Situation;
use gfxplane::explain::{find, in_log};
use gfxplane::host::Root;
use gfxplane::plan::commands::{Names, Subject};
use gfxplane::plan::fixup::Surroundings;
use gfxplane::predict::Outcome;
use gfxplane::predict::abilities::Abilities;
use gfxplane::predict::screens::Known;
use gfxplane::publish::inventory;
use gfxplane::xml::Document;
use libtest_mimic::{Failed, Trial};
use serde::Deserialize;

use crate::support::doctor;
use crate::support::folders::{self, nothing_but};
use crate::support::hosts::{entries, golden};
use crate::support::overview::without_colours;

#[derive(Deserialize)]
struct Case {
    host: Option<String>,
    doctor: Option<String>,
    /// The file's name as the user typed it.
    file: Option<String>,
    /// libvirt's URI as the user typed it.
    connect: Option<String>,
    #[serde(flatten)]
    abilities: Abilities,
}

/// The host of a case.
struct Here {
    root: Root,
    abilities: Abilities,
}

impl Surroundings for Here {
    fn known(&self, device: DeviceId) -> Known {
        inventory::Reading::new(&self.root).known(device, &mut Vec::new())
    }

    fn abilities(&self, _domain: &Domain<'_, '_>) -> Abilities {
        self.abilities.clone()
    }
}

fn tests() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests")
}

/// Returns all cases, and the tests of what must hold of all predictions.
pub(crate) fn trials() -> Vec<Trial> {
    let mut trials = folders::trials("explain", of_folder);
    trials.push(Trial::test("explain: what was measured", measured));
    trials.push(Trial::test("explain: what is learned from", learned));
    trials.push(Trial::test("explain: each wording", each_wording));
    trials.push(Trial::test("explain: what was reported", reported));
    trials.push(Trial::test("explain: docs/messages.md", documented));
    trials
}

fn of_folder(folder: &Path) -> Result<(), Failed> {
    let name = folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    nothing_but(
        folder,
        &[
            "case.toml",
            "domain.xml",
            "log",
            "message",
            "root",
            "said.txt",
        ],
    )?;
    if folder.join("log").exists() == folder.join("message").exists() {
        return Err("expected one of log and message".into());
    }
    let case: Case = toml::from_str(&fs::read_to_string(folder.join("case.toml"))?)?;
    let made;
    let root = match (&case.host, &case.doctor) {
        (Some(_), None) if folder.join("root").is_dir() => {
            made = doctor::tree(folder)?;
            made.path().to_owned()
        }
        (Some(host), None) => tests().join("hosts").join(host).join("root"),
        (None, Some(of)) => {
            made = doctor::tree(&tests().join("doctor").join(of))?;
            made.path().to_owned()
        }
        _ => return Err("case.toml names neither host nor doctor, or both".into()),
    };
    if !root.is_dir() {
        return Err(format!("{} is no directory", root.display()).into());
    }
    let mut abilities = case.abilities;
    // This is the default if qemu.conf does not set it.
    for listen in [&mut abilities.spice_listen, &mut abilities.vnc_listen] {
        listen.get_or_insert_with(|| "127.0.0.1".into());
    }
    let here = Here {
        root: Root::recorded(&root),
        abilities,
    };
    let mut said = Page::without_verdicts();
    let is_known = folder.join("domain.xml").exists();
    let subject = match case.file.as_deref() {
        Some(file) => Subject::File(quoted(file)),
        None if is_known => Subject::Domain("guest".into()),
        None => Subject::Unknown,
    };
    let names = Names::new(case.connect.as_deref(), subject);
    let (situation, uuid) = match fs::read_to_string(folder.join("domain.xml")) {
        Ok(text) => {
            let situation = Situation::of(&text, &here, &Policy::default(), &names)?;
            let document = Document::parse(&text)?;
            (Some(situation), Domain::new(&document)?.uuid)
        }
        Err(_) => (None, None),
    };
    let found = match fs::read_to_string(folder.join("log")) {
        Ok(log) => {
            let logged = in_log(&log, uuid).ok_or("there is no whole start of the domain in it")?;
            tell_log(&mut said, "guest", &logged);
            logged.found
        }
        Err(_) => find(&fs::read_to_string(folder.join("message"))?),
    };
    if found.is_empty() != name.starts_with("unknown-") {
        return Err(format!("found: {found:?}").into());
    }
    let (host, _) = examine::read(&here.root, &|_| Ok(None));
    let explanations: Vec<Explanation> = found
        .iter()
        .map(|found| explain(found, &host, &names, situation.as_ref()))
        .collect();
    for explanation in &explanations {
        fixes(explanation, &here)?;
    }
    tell(&mut said, &explanations);
    golden(&folder.join("said.txt"), &without_colours(&said, 80))
}

/// Checks that a fix fixes: the domain then starts, as far as is known.
fn fixes(explanation: &Explanation, here: &Here) -> Result<(), Failed> {
    if explanation.fixes.is_empty() {
        return Err(format!("{}: nothing helps", explanation.message).into());
    }
    let Some(fixed) = &explanation.fixed else {
        return Ok(());
    };
    let names = Names::new(None, Subject::Unknown);
    let after = Situation::of(&fixed.after, here, &Policy::default(), &names)?;
    let plan = after.plan.ok_or("its vfio devices are gone")?;
    match plan.before.outcome {
        Outcome::No(refusal) => Err(format!("it is still refused: {}", refusal.message).into()),
        _ if fixed.before == fixed.after => Err("nothing is changed".into()),
        _ => Ok(()),
    }
}

/// Checks that each message of libvirt and QEMU in the machine test is known.
fn measured() -> Result<(), Failed> {
    #[derive(Deserialize)]
    struct Measured {
        message: Option<String>,
    }
    let folder = tests().join("vm/matrix-measured");
    let mut messages = BTreeSet::new();
    for name in entries(&folder) {
        for line in fs::read_to_string(folder.join(name))?.lines() {
            messages.extend(serde_json::from_str::<Measured>(line)?.message);
        }
    }
    if messages.len() < 5 {
        return Err(format!("there are only {messages:?}").into());
    }
    let unknown: Vec<&String> = messages
        .iter()
        .filter(|message| find(message).len() != 1)
        .collect();
    if unknown.is_empty() {
        Ok(())
    } else {
        Err(format!("not known, or for more than one thing: {unknown:#?}").into())
    }
}

/// Checks that in the logs of `tests/learn` a message is known wherever a display was learned from
/// a refusal.
fn learned() -> Result<(), Failed> {
    let folder = tests().join("learn");
    let mut explained = 0;
    for name in entries(&folder) {
        let log = fs::read_to_string(folder.join(&name).join("log"))?;
        let learned = fs::read_to_string(folder.join(&name).join("learned.txt"))?;
        let found = in_log(&log, None)
            .map(|logged| logged.found)
            .unwrap_or_default();
        if learned.contains("domain: refused") {
            explained += 1;
            if found.is_empty() {
                return Err(format!("{name}: nothing is explained").into());
            }
        }
    }
    if explained < 5 {
        return Err(format!("only {explained} of them were refused").into());
    }
    Ok(())
}

/// Checks that each message is found as itself, and explained without a domain: with a cause and a
/// fix, in which everything is filled in. A shell can read each command.
fn each_wording() -> Result<(), Failed> {
    let (host, _) = examine::read(&Root::recorded(tests().join("hosts/lab/root")), &|_| {
        Ok(None)
    });
    let names = Names::new(Some("qemu:///session"), Subject::Unknown);
    let mut commands = BTreeSet::new();
    let mut count = 0;
    for (symptom, wording) in wordings() {
        count += 1;
        let words = wording.words.replace('*', "x");
        let said = format!("{{\\\"id\\\": \\\"x\\\"}}: {}", words.replace('"', "\\\""));
        let found = find(&said);
        let [found] = &found[..] else {
            return Err(format!("{said}: found {found:#?}").into());
        };
        let explanation = explain(found, &host, &names, None);
        let fixes = explanation.fixes.iter();
        let texts = fixes.clone().map(Remedy::text);
        let texts = texts.chain([explanation.cause.as_str()]);
        commands.extend(fixes.filter_map(|fix| match fix {
            Remedy::Command(command) => Some(command.clone()),
            Remedy::Advice(_) => None,
        }));
        if found.symptom != symptom || explanation.fixes.is_empty() || explanation.cause.is_empty()
        {
            return Err(format!("{said}: {explanation:#?}").into());
        }
        if wording.versions.is_empty() || !wording.source.contains(['.', ' ']) {
            return Err(format!("{said}: by which version, and where?").into());
        }
        for text in texts {
            if text.trim() != text || text.ends_with('.') {
                return Err(format!("{said}: {text:?}").into());
            }
        }
    }
    if count < 150 {
        return Err(format!("there are only {count}").into());
    }
    let script = commands.into_iter().collect::<Vec<String>>().join("\n");
    let shell = Command::new("sh").args(["-n", "-c", &script]).output()?;
    if !shell.status.success() {
        return Err(String::from_utf8_lossy(&shell.stderr).into_owned().into());
    }
    Ok(())
}

/// Checks that messages that users have reported are known, as what they are.
fn reported() -> Result<(), Failed> {
    let text = fs::read_to_string(tests().join("explain-reported.tsv"))?;
    let mut wrong = Vec::new();
    for line in text.lines() {
        let (symptom, message) = line.split_once('\t').ok_or("a line has no symptom")?;
        let found: Vec<&str> = find(message).iter().map(|found| found.symptom).collect();
        if found != [symptom] {
            wrong.push(format!("{message}: {found:?}, not {symptom}"));
        }
    }
    if wrong.is_empty() {
        Ok(())
    } else {
        Err(wrong.join("\n").into())
    }
}

/// Checks that the list for people has all messages.
fn documented() -> Result<(), Failed> {
    let cell = |text: &str| {
        text.replace('|', "\\|")
            .replace('<', "&lt;")
            .replace('*', "…")
    };
    let mut text = String::from(
        "# Messages that are known\n\n\
         `gfxplane explain` recognizes these messages ([trouble.md](trouble.md)); `…` stands for the part that differs. src/explain/messages.toml\n\
         says how the words were checked; `UPDATE_GOLDEN=1 cargo test --test cases` makes this list from it.\n\n\
         | symptom | words | said by | versions known to | where |\n|---|---|---|---|---|\n",
    );
    for (symptom, wording) in wordings() {
        let by = wording.by.word();
        let (words, versions, source) = (
            cell(&wording.words),
            cell(&wording.versions),
            cell(&wording.source),
        );
        writeln!(
            text,
            "| {symptom} | {words} | {by} | {versions} | {source} |"
        )?;
    }
    golden(&tests().join("../docs/messages.md"), &text)
}
