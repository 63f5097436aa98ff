//! Checks the documents' statements wherever something can be asked whether they are true.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory;
use gfxplane::cli::tool;
use libtest_mimic::{Failed, Trial};
use roxmltree::{Document, Node};

use crate::support::commands::documents;
use crate::support::hosts::entries;

/// Returns all tests of the documents.
pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("docs::links-lead-somewhere", links),
        Trial::test("docs::have-no-conflict-markers", markers),
        Trial::test("docs::tests-that-faults-names-exist", named_tests),
        Trial::test("docs::index-has-all", index),
        Trial::test("docs::every-verb-is-in-the-readme", verbs),
        Trial::test("docs::every-dependency-is-explained", dependencies),
        Trial::test("docs::capability-is-the-schema's", capability),
        Trial::test("docs::unsafe-is-where-it-is-said-to-be", unsafe_modules),
        Trial::test("docs::rooms-need-only-rooms-above", rooms),
        Trial::test("docs::files-and-functions-are-short", lengths),
    ]
}

fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(name: &str) -> Result<String, Failed> {
    let path = top().join(name);
    fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()).into())
}

fn none(problems: &[String]) -> Result<(), Failed> {
    match problems.is_empty() {
        true => Ok(()),
        false => Err(problems.join("\n").into()),
    }
}

/// Returns the targets of links and pictures outside of code blocks.
fn targets(text: &str) -> Vec<&str> {
    let prose = text.split("\n```").step_by(2);
    prose
        .flat_map(|part| part.split("](").skip(1))
        .filter_map(|rest| rest.split_once(')').map(|(target, _)| target))
        .collect()
}

/// Returns the anchors that a forge makes of headings.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    headings
        .map(|line| {
            let kept = |c: &char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_');
            let words: String = line
                .trim_start_matches('#')
                .trim()
                .chars()
                .filter(kept)
                .collect();
            words.to_lowercase().replace(' ', "-")
        })
        .collect()
}

/// Checks that links inside the project lead to an existing file, and to a heading that it has.
fn links() -> Result<(), Failed> {
    let mut problems = Vec::new();
    let mut count = 0;
    for document in documents() {
        let text = fs::read_to_string(&document)?;
        for target in targets(&text) {
            if target.contains("://") {
                continue;
            }
            count += 1;
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let path: PathBuf = match file {
                "" => document.clone(),
                _ => document.parent().expect("it lies in a folder").join(file),
            };
            let leads = match anchor {
                "" => path.exists(),
                _ => anchors(&fs::read_to_string(&path).unwrap_or_default()).contains(anchor),
            };
            if !leads {
                problems.push(format!("{}: {target} is not there", document.display()));
            }
        }
    }
    assert!(count > 0, "the documents have no links");
    none(&problems)
}

/// Checks that no merge left both of its sides in a document.
fn markers() -> Result<(), Failed> {
    let mut problems = Vec::new();
    for document in documents() {
        let text = fs::read_to_string(&document)?;
        let marker = |line: &&str| line.starts_with("<<<<<<< ") || line.starts_with(">>>>>>> ");
        if let Some(line) = text.lines().find(marker) {
            problems.push(format!("{}: {line}", document.display()));
        }
    }
    none(&problems)
}

/// Checks that docs/faults.md names only tests that exist. The last column has the names of
/// functions, each in the file named before it, or in that of the machine tests after `VM:`.
fn named_tests() -> Result<(), Failed> {
    let text = read("docs/faults.md")?;
    let mut problems = Vec::new();
    let mut count = 0;
    for row in text.lines().filter(|line| line.starts_with("| ")).skip(1) {
        let column = row.rsplit(" | ").next().unwrap_or_default();
        let mut file = String::new();
        for (number, part) in column.split('`').enumerate() {
            if number % 2 == 0 {
                let words = part.split_whitespace();
                for word in words.map(|word| word.trim_matches([';', ',', '(', ')'])) {
                    if word == "VM:" {
                        file = "tests/vm/automatic.py".into();
                    } else if word.ends_with(".rs") {
                        file = word.into();
                    } else if word.ends_with(".py") {
                        file = format!("tests/vm/{word}");
                    }
                }
                continue;
            }
            if part.starts_with('-') {
                continue; // an option of QEMU's
            }
            count += 1;
            // Unit tests may have a file of their own.
            let apart = file.replace(".rs", "/tests.rs");
            let code = read(&file)? + &read(&apart).unwrap_or_default();
            let name = part.trim_end_matches('…');
            let is_there = |head| code.contains(&format!("{head}{name}"));
            if !["fn ", "def ", "\""].into_iter().any(is_there) {
                problems.push(format!("docs/faults.md: {file} has no test {part}"));
            }
        }
    }
    assert!(count > 50, "docs/faults.md names {count} tests");
    none(&problems)
}

/// Checks that docs/README.md names each file beside it.
fn index() -> Result<(), Failed> {
    let text = read("docs/README.md")?;
    let linked: BTreeSet<&str> = targets(&text).into_iter().collect();
    let missing: Vec<String> = entries(&top().join("docs"))
        .into_iter()
        .filter(|name| name != "README.md" && !linked.contains(name.as_str()))
        .map(|name| format!("docs/README.md has no link to {name}"))
        .collect();
    none(&missing)
}

fn verbs() -> Result<(), Failed> {
    let readme = read("README.md")?;
    let rows: Vec<&str> = readme
        .lines()
        .filter(|line| line.starts_with("| `"))
        .filter_map(|line| line[1..].split(" | ").next())
        .collect();
    let command = tool::Arguments::command();
    let shown = command.get_subcommands().filter(|verb| !verb.is_hide_set());
    let missing: Vec<String> = shown
        .map(clap::Command::get_name)
        .filter(|verb| {
            let is_word = |word: &str| word.trim_matches('`') == *verb;
            !rows.iter().any(|row| row.split([' ', ',']).any(is_word))
        })
        .map(|verb| format!("README.md: the table of commands has no {verb}"))
        .collect();
    none(&missing)
}

/// Returns the first column of the table below a heading, without its backquotes.
fn rows(text: &str, heading: &str) -> Result<BTreeSet<String>, Failed> {
    let (_, below) = text
        .split_once(&format!("{heading}\n"))
        .ok_or_else(|| format!("there is no {heading}"))?;
    let section = below.split("\n## ").next().unwrap_or_default();
    Ok(section
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .map(|(word, _)| word.to_owned())
        .collect())
}

/// Checks that docs/crates.md says what each crate is for, and names no other.
fn dependencies() -> Result<(), Failed> {
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")?)?;
    let text = read("docs/crates.md")?;
    for (table, heading) in [
        ("dependencies", "## Crates in the programs"),
        ("dev-dependencies", "## Crates in the tests"),
    ] {
        let crates = manifest.get(table).and_then(toml::Value::as_table);
        let crates: BTreeSet<String> = crates
            .into_iter()
            .flat_map(toml::Table::keys)
            .cloned()
            .collect();
        let told = rows(&text, heading)?;
        if told != crates {
            return Err(format!("{heading} has {told:?}, Cargo.toml {crates:?}").into());
        }
    }
    Ok(())
}

/// Checks that docs/capability.md has each element of the schemas with its attributes and their
/// values, and no other.
fn capability() -> Result<(), Failed> {
    let mut elements: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in ["gfxplane-nodedev.rng", "vfio-display.rng"] {
        let schema = read(&format!("xml-schemas/{file}"))?;
        let schema = Document::parse(&schema)?;
        let of_kind = |kind: &'static str| {
            let all = schema.descendants();
            all.filter(move |node| node.has_tag_name(kind))
        };
        for attribute in of_kind("attribute") {
            let of = attribute
                .ancestors()
                .skip(1)
                .find(|node| node.has_tag_name("element") || node.has_tag_name("define"));
            let of = of
                .and_then(|node| node.attribute("name"))
                .ok_or("an attribute of nothing")?;
            let name = attribute
                .attribute("name")
                .ok_or("an attribute without a name")?;
            let values = attribute
                .descendants()
                .filter(|node| node.has_tag_name("value"));
            let words = elements.entry(of.to_owned()).or_default();
            words.insert(format!("@{name}"));
            words.extend(
                values
                    .filter_map(|value| Node::text(&value))
                    .map(str::to_owned),
            );
        }
        for element in of_kind("element") {
            elements
                .entry(element.attribute("name").unwrap_or_default().to_owned())
                .or_default();
        }
    }
    let text = read("docs/capability.md")?;
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for section in text.split("\n## `<").skip(1) {
        let (name, body) = section.split_once(">`").ok_or("a heading is no element")?;
        let rows = body.lines().filter(|line| line.starts_with("| `"));
        let words = rows.flat_map(|row| {
            // The attribute comes first, then its values, then prose.
            let mut cells = row[1..].split(" | ");
            let attribute = cells.next().map(|cell| cell.trim().trim_matches('`'));
            let values = cells
                .next()
                .unwrap_or_default()
                .split('`')
                .skip(1)
                .step_by(2);
            attribute
                .map(|name| format!("@{name}"))
                .into_iter()
                .chain(values.map(str::to_owned))
        });
        told.insert(name.to_owned(), words.collect());
    }
    match told == elements {
        true => Ok(()),
        false => Err(format!("docs/capability.md has {told:#?}, the schema {elements:#?}").into()),
    }
}

/// Returns the Rust files below `src`, relative to the top.
fn sources() -> Result<Vec<(String, String)>, Failed> {
    let mut found = Vec::new();
    let mut folders = vec![top().join("src")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(top())?.display().to_string();
                found.push((name, fs::read_to_string(&path)?));
            }
        }
    }
    Ok(found)
}

/// Checks that each room of `src` names only rooms above it in lib.rs's list, and that the pure
/// rooms have no way to a file, a process, the network, the clock or the environment.
fn rooms() -> Result<(), Failed> {
    const PURE: usize = 5;
    // The processor's name is fixed when the program is built.
    const HARMLESS: [&str; 2] = ["std::env::consts", "std::net::IpAddr"];
    let library = read("src/lib.rs")?;
    let listed: Vec<&str> = library
        .lines()
        .filter_map(|line| line.strip_prefix("//! * [`")?.split('`').next())
        .collect();
    let declared: BTreeSet<&str> = library
        .lines()
        .filter_map(|line| line.strip_prefix("pub mod ")?.strip_suffix(';'))
        .collect();
    if declared != listed.iter().copied().collect() {
        return Err(format!("lib.rs lists {listed:?} and declares {declared:?}").into());
    }
    let rank = |room: &str| listed.iter().position(|listed| *listed == room);
    let impure = [
        "fs",
        "process",
        "net",
        "env",
        "os",
        "time::SystemTime",
        "time::Instant",
    ]
    .map(|module| format!("std::{module}"))
    .into_iter()
    .chain(["nix::".to_owned(), "libc::".to_owned()])
    .collect::<Vec<_>>();
    let mut problems = Vec::new();
    for (name, text) in sources()? {
        let Some(own) = name.split('/').nth(1).and_then(rank) else {
            continue;
        };
        for (number, line) in text.lines().enumerate() {
            let at = format!("{name}:{}", number + 1);
            for path in line.split("crate::").skip(1) {
                let room = path
                    .split(|end: char| !end.is_alphanumeric() && end != '_')
                    .next();
                if let Some(room) = room.filter(|room| rank(room) > Some(own)) {
                    problems.push(format!("{at}: {} must not need {room}", listed[own]));
                }
            }
            // A unit test may read its cases.
            let is_test = name.ends_with("tests.rs")
                || text.lines().take(number).any(|line| line == "#[cfg(test)]");
            if own >= PURE || is_test {
                continue;
            }
            let line = HARMLESS
                .iter()
                .fold(line.to_owned(), |line, harmless| line.replace(harmless, ""));
            if let Some(word) = impure.iter().find(|word| line.contains(word.as_str())) {
                problems.push(format!(
                    "{at}: {} is pure and must not need {word}",
                    listed[own]
                ));
            }
        }
    }
    none(&problems)
}

/// Checks that no file of `src` has over 600 lines, and no function over 80. A comment `// Long:` above a
/// function says why it is longer. Tests may be of any length.
fn lengths() -> Result<(), Failed> {
    const FILE: usize = 600;
    const FUNCTION: usize = 80;
    let mut problems = Vec::new();
    for (name, text) in sources()? {
        let lines: Vec<&str> = text.lines().collect();
        if name.ends_with("tests.rs") {
            continue;
        }
        if lines.len() > FILE {
            problems.push(format!("{name} has {} lines", lines.len()));
        }
        // The tests of a file are its last module.
        let is_tests = |two: &[&str]| two[0] == "#[cfg(test)]" && two[1].ends_with(" {");
        let tests = lines.windows(2).position(is_tests);
        for (at, line) in lines[..tests.unwrap_or(lines.len())].iter().enumerate() {
            let code = line.trim_start();
            let head = code.split_once("fn ").map(|(head, _)| head);
            let begins = ["pub", "const ", "unsafe ", "extern "];
            let is_function =
                |head: &str| head.is_empty() || begins.iter().any(|word| head.starts_with(word));
            if !head.is_some_and(is_function) || line.ends_with(['}', ';']) {
                continue;
            }
            let end = format!("{}}}", &line[..line.len() - code.len()]);
            let length = lines[at..].iter().position(|line| *line == end);
            let above = lines[..at].iter().rev().map(|line| line.trim_start());
            let is_above = |line: &&str| line.starts_with("//") || line.starts_with("#[");
            let has_reason = above
                .take_while(is_above)
                .any(|line| line.starts_with("// Long:"));
            if length.is_some_and(|length| length >= FUNCTION) && !has_reason {
                problems.push(format!("{name}:{}: over {FUNCTION} lines: {code}", at + 1));
            }
        }
    }
    none(&problems)
}

/// Checks that SECURITY.md names the modules that may have `unsafe`, and no other. The compiler and
/// clippy check that only these have it, with a note at each block, as long as they are told to.
fn unsafe_modules() -> Result<(), Failed> {
    let manifest: toml::Table = toml::from_str(&read("Cargo.toml")?)?;
    for (tool, lint) in [
        ("rust", "unsafe_code"),
        ("clippy", "undocumented_unsafe_blocks"),
    ] {
        let level = manifest["lints"][tool].get(lint);
        if level.and_then(toml::Value::as_str) != Some("deny") {
            return Err(format!("Cargo.toml does not deny {lint}: {level:?}").into());
        }
    }
    let mut allowed = BTreeSet::new();
    for (name, text) in sources()? {
        if text.contains("allow(unsafe_code") {
            allowed.insert(name);
        }
    }
    let told = rows(&read("SECURITY.md")?, "## Unsafe code")?;
    match told == allowed {
        true => Ok(()),
        false => Err(format!("SECURITY.md has {told:?}, the source {allowed:?}").into()),
    }
}
