//! Tests the overview (`gfxplane` without a verb). Each folder in `tests/overview` is a case:
//!
//! * `root/` and `case.toml`: the host, as in `tests/doctor`. `json = true` is a case of `--json`;
//! * `said.txt` or `said.json`: the overview at 80 columns, without colours, and what list and doctor
//!   say of the graphics cards; where there are domains, what `check --all` says of them, too
//!   (with `--json` in `check.json`).
//!
//! `UPDATE_GOLDEN=1 cargo test --test cases` writes the last anew: read what git says then.
//!
//! Every recorded host has an overview, too (`expect/overview.txt`, see [`crate::support::hosts`]).
//! Every page of HTML is held against the text.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use gfxplane::cli::json;
use gfxplane::cli::list::devices;
use gfxplane::cli::overview::{page, read, text};
use gfxplane::cli::page::Page;
use gfxplane::explain::doctor::examine as reader;
use gfxplane::explain::doctor::{Topic, examine};
use gfxplane::host::Root;
use gfxplane::libvirt::{Context, Without};
use gfxplane::plan::Level;
use gfxplane::publish::overview::Overview;
use libtest_mimic::{Failed, Trial};
use roxmltree::{Document, Node, ParsingOptions};
use serde::Deserialize;

use crate::support::doctor::{is_command, tree};
use crate::support::folders::{self, nothing_but};
use crate::support::hosts::golden;

#[derive(Default, Deserialize)]
struct Case {
    #[serde(default)]
    json: bool,
}

/// Returns all cases.
pub(crate) fn trials() -> Vec<Trial> {
    folders::trials("overview", of_folder)
}

/// Reads the overview of a recorded host.
pub(crate) fn overview(root: &Path, all: bool) -> Result<Overview, Failed> {
    let context = Context {
        root: Root::recorded(root),
        connect: None,
        quiet: true,
        libvirt: Arc::new(Without),
    };
    Ok(read(&context, all)?)
}

/// Returns the text without its colours.
pub(crate) fn without_colours(page: &Page, width: usize) -> String {
    anstream::adapter::strip_str(&page.text(width)).to_string()
}

fn of_folder(folder: &Path) -> Result<(), Failed> {
    nothing_but(
        folder,
        &["case.toml", "check.json", "root", "said.txt", "said.json"],
    )?;
    let case: Case = toml::from_str(&fs::read_to_string(folder.join("case.toml"))?)?;
    let made = tree(folder)?;
    let mut found = overview(made.path(), false)?;
    page_is_sound(&found)?;
    page_is_sound(&overview(made.path(), true)?)?;
    if case.json {
        for warning in &mut found.warnings {
            let inside = warning.path.strip_prefix(made.path())?;
            warning.path = Path::new("/").join(inside);
        }
        let mut text = Vec::new();
        json(&mut text, &found)?;
        golden(&folder.join("said.json"), &String::from_utf8(text)?)?;
        let checked = check_all(made.path(), &["--json"])?;
        return golden(&folder.join("check.json"), &checked);
    }
    let mut said = without_colours(&text(&found), 80).into_bytes();
    let (host, _) = reader::read(&Root::recorded(made.path()), &|_| Ok(None));
    said.extend(b"\nlist:\n");
    let list = without_colours(&devices(&host.inventory), 80);
    said.extend(list.bytes());
    said.extend(b"\ndoctor:\n");
    let mut lines = examine(&host, &found.holders());
    lines.retain(|line| line.topic == Topic::Gpus);
    if !lines.is_empty() {
        let lines = without_colours(&gfxplane::cli::doctor::text(&lines), 80);
        said.extend(lines.bytes());
    }
    if made.path().join("etc/libvirt/qemu").exists() {
        said.extend(b"\ncheck --all:\n");
        said.extend(check_all(made.path(), &[])?.bytes());
    }
    golden(&folder.join("said.txt"), std::str::from_utf8(&said)?)
}

/// Runs `gfxplane check --all` on a recorded host, and returns what it prints.
fn check_all(root: &Path, options: &[&str]) -> Result<String, Failed> {
    let output = Command::new(env!("CARGO_BIN_EXE_gfxplane"))
        .arg("--host")
        .arg(root)
        .args(["check", "--all"])
        .args(options)
        .env_remove("GFXPLANE_ROOT")
        // The root's path is taken out, so nothing may be wrapped after it.
        .env("COLUMNS", "1000")
        .output()?;
    let is_json = !options.is_empty();
    let mut said = String::from_utf8(output.stdout)?;
    if !is_json {
        said += &String::from_utf8(output.stderr)?;
        let code = output.status.code();
        said += &format!("exit code: {}\n", code.unwrap_or(-1));
    }
    let root = root.to_str().ok_or("the path is not UTF-8")?;
    Ok(said.replace(root, ""))
}

/// Checks that the page is well-formed, needs nothing from elsewhere, runs nothing, and has all that
/// the text has.
pub(crate) fn page_is_sound(found: &Overview) -> Result<(), Failed> {
    let page = page(found);
    let options = ParsingOptions {
        allow_dtd: true,
        ..ParsingOptions::default()
    };
    let document = Document::parse_with_options(&page, options)?;
    let devices = found.parents.iter().flat_map(|parent| &parent.devices);
    let guests = devices.chain(&found.absent).flat_map(|one| &one.guests);
    let problems = guests.flat_map(|guest| &guest.problems);
    let missing = found.parents.iter().filter_map(|p| p.card.missing.as_ref());
    let fixes = problems
        .filter(|one| one.level > Level::Info)
        .flat_map(|one| &one.fixes);
    for fix in fixes.chain(missing.flat_map(|missing| &missing.fixes)) {
        is_command(fix)?;
    }
    let allowed = [
        "html", "head", "meta", "title", "style", "body", "h1", "section", "div", "span", "code",
        "footer",
    ];
    for node in document.descendants().filter(Node::is_element) {
        let name = node.tag_name().name();
        if !allowed.contains(&name) {
            return Err(format!("the page has a {name}").into());
        }
        for attribute in node.attributes() {
            let is_known = matches!(
                attribute.name(),
                "lang" | "charset" | "name" | "content" | "http-equiv" | "class"
            );
            if !is_known {
                return Err(format!("{name} has the attribute {}", attribute.name()).into());
            }
        }
    }
    if page.contains("url(") || page.contains("@import") {
        return Err("the style loads something".into());
    }
    let body = document
        .descendants()
        .find(|node| node.has_tag_name(("http://www.w3.org/1999/xhtml", "body")))
        .ok_or("there is no body")?;
    let body: String = body
        .descendants()
        .filter(Node::is_text)
        .filter_map(|node| node.text())
        .collect();
    let words = |text: &str| text.split_whitespace().collect::<String>();
    let body = words(&body);
    // At this width nothing is wrapped.
    for line in without_colours(&text(found), 10_000).lines() {
        let line = line.trim();
        let line = ["PASS", "WARN", "FAIL", "fix:", "look:"]
            .iter()
            .fold(line, |line, word| line.strip_prefix(word).unwrap_or(line));
        // The text has short names of devices.
        if !line.split('…').all(|part| body.contains(&words(part))) {
            return Err(format!("the page lacks {line:?}").into());
        }
    }
    Ok(())
}
