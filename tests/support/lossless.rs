//! Tests the editing of XML by its bytes: odd documents by hand, many by chance, and libxml2's
//! opinion of them.
//!
//! Each `tests/lossless/*.xml` is read, and edited in many ways. Each `*-invalid.xml` must be
//! refused with the message in `*-invalid.txt` (`UPDATE_GOLDEN=1` writes it).

mod generate;
pub(crate) mod model;

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use gfxplane::xml::{Document, from_bytes};
use libtest_mimic::{Failed, Trial};
use proptest::collection::vec;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::{Config, TestCaseError, TestRunner};

use super::oracle;
use model::check;

/// Returns all tests of the XML engine from outside.
pub(crate) fn trials() -> Vec<Trial> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/lossless");
    let names: BTreeSet<String> = fs::read_dir(&folder)
        .expect("the folder of odd documents is there")
        .map(|entry| entry.expect("it can be read").file_name())
        .map(|name| name.to_string_lossy().into_owned())
        .collect();
    let mut trials: Vec<Trial> = names
        .iter()
        .map(|name| {
            let (path, names, name) = (folder.join(name), names.clone(), name.clone());
            Trial::test(format!("lossless::{name}"), move || {
                file(&path, &name, &names)
            })
        })
        .collect();
    trials.push(Trial::test("lossless::random-edits", random_edits));
    trials.push(Trial::test("lossless::any-text", any_text));
    trials.push(Trial::test("lossless::as-libxml2", as_libxml2));
    trials
}

fn file(path: &Path, name: &str, all: &BTreeSet<String>) -> Result<(), Failed> {
    let refused = |error| Failed::from(format!("{name}: {error}"));
    if let Some(stem) = name.strip_suffix("-invalid.txt") {
        return match all.contains(&format!("{stem}-invalid.xml")) {
            true => Ok(()),
            false => Err(refused("there is no document for it".to_owned())),
        };
    }
    let text = from_bytes(fs::read(path)?);
    if name.ends_with("-invalid.xml") {
        let error = text.and_then(|text| Document::parse(&text).map(drop)).err();
        let error = error.ok_or_else(|| refused("it is taken".into()))?;
        return message(&path.with_extension("txt"), &format!("{error}\n"));
    }
    if !name.ends_with(".xml") {
        return Err(refused("no test looks at it".into()));
    }
    let text = text.map_err(|error| refused(error.to_string()))?;
    check(&text, &[]).map_err(refused)?;
    let mut runner = TestRunner::deterministic();
    let ops = vec(generate::op(), 0..6);
    for _ in 0..256 {
        let ops = ops
            .new_tree(&mut runner)
            .map_err(|error| error.message().to_owned())?;
        check(&text, &ops.current()).map_err(refused)?;
    }
    Ok(())
}

fn message(path: &PathBuf, found: &str) -> Result<(), Failed> {
    if std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1") {
        return Ok(fs::write(path, found)?);
    }
    match fs::read_to_string(path) {
        Ok(expected) if expected == found => Ok(()),
        Ok(expected) => Err(format!("expected: {expected}found: {found}").into()),
        Err(error) => Err(format!("{}: {error}; it says {found}", path.display()).into()),
    }
}

fn config(cases: u32) -> Config {
    Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    }
}

fn random_edits() -> Result<(), Failed> {
    TestRunner::new(config(1024))
        .run(
            &(generate::document(), vec(generate::op(), 0..8)),
            |(text, ops)| check(&text, &ops).map_err(TestCaseError::fail),
        )
        .map_err(|error| error.to_string().into())
}

/// Checks that no bytes cause a panic, and that an accepted text comes back.
fn any_text() -> Result<(), Failed> {
    TestRunner::new(config(2048))
        .run(
            &(generate::mutated(), vec(generate::op(), 0..4)),
            |(text, ops)| {
                if Document::parse(&text).is_ok() {
                    check(&text, &ops).map_err(TestCaseError::fail)?;
                }
                Ok(())
            },
        )
        .map_err(|error| error.to_string().into())
}

/// Compares us with libxml2, with which libvirt reads, through its program xmllint.
fn as_libxml2() -> Result<(), Failed> {
    const EACH: usize = 300;
    let mut runner = TestRunner::deterministic();
    let mut texts = Vec::new();
    for _ in 0..EACH {
        texts.push(generate::document().new_tree(&mut runner)?.current());
        texts.push(generate::mutated().new_tree(&mut runner)?.current());
    }
    texts.extend(generate::ODD.iter().map(ToString::to_string));
    let folder = tempfile::tempdir()?;
    let mut command = Command::new("xmllint");
    command.arg("--noout").current_dir(&folder);
    for (number, text) in texts.iter().enumerate() {
        let name = format!("{number}.xml");
        fs::write(folder.path().join(&name), text)?;
        command.arg(name);
    }
    let output = command
        .output()
        .map_err(|error| format!("xmllint (Debian: libxml2-utils) can't be run: {error}"))?;
    // An error names its file and line; so does a warning, and a message about namespaces.
    let said = String::from_utf8_lossy(&output.stderr);
    let refused: BTreeSet<usize> = said
        .lines()
        .filter(|line| line.contains(" parser error : ") || line.contains(" encoding error : "))
        .filter_map(|line| line.split_once(".xml:")?.0.parse().ok())
        .collect();
    let mut problems = Vec::new();
    let mut taken = 0;
    for (number, text) in texts.iter().enumerate() {
        let ours = Document::parse(text).err();
        taken += usize::from(ours.is_none());
        if ours.is_some() == refused.contains(&number) || exception(text).is_some() {
            continue;
        }
        problems.push(match ours {
            Some(error) => format!("only we refuse it, {error}:\n{text:?}"),
            None => format!("only libxml2 refuses it:\n{text:?}"),
        });
    }
    // The batch must not become all of one kind.
    if taken < EACH || taken > texts.len() - 100 {
        problems.push(format!("{taken} of {} are taken", texts.len()));
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(problems.join("\n").into())
    }
}

/// Returns why we refuse what libxml2 accepts.
fn exception(text: &str) -> Option<&'static str> {
    let declaration = text
        .split_once("?>")
        .map_or("", |(declaration, _)| declaration);
    [
        (text.contains("<!DOCTYPE"), "our decision"),
        (
            declaration.contains("encoding") && declaration.contains("\"standalone"),
            "libxml2 wants no white space before standalone, XML does",
        ),
        (
            text.starts_with('\u{feff}') && declaration.contains("8859"),
            "libxml2 believes the byte order mark; others might not",
        ),
        (declaration.contains("8859"), "our decision"),
        (text.contains('\0'), "libxml2 sees the end there"),
    ]
    .into_iter()
    .find_map(|(is_so, reason)| is_so.then_some(reason))
}
