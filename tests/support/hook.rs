//! Tests the qemu hook. Each folder in `tests/hook` is a case:
//!
//! * `domain.xml`: the domain that libvirt gives it on stdin;
//! * `case.toml`: `operation`; `host` (a folder of `tests/hosts`); `qemu` and `libvirt` (versions that the
//!   cache knows; left out if unknown); `transient = true` if libvirt has no definition of the domain;
//!   `script = true` if its emulator is a script; `vetoed = true` if it was refused before;
//! * `gfxplane.toml`: the host's settings; may be missing;
//! * `testimony.json`: an earlier statement of QEMU about a device; may be missing;
//! * `out.xml`: the expected stdout; missing if there is none;
//! * `said.txt`: exit code, stderr, the lines of the journal, and the files left in `/run/gfxplane`.
//!
//! The real helper runs behind the installed script. `UPDATE_GOLDEN=1 cargo test --test cases`
//! writes the last two anew: read what git says then.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use gfxplane::device::record::Record;
use gfxplane::domain::Domain;
use gfxplane::host::emulator;
use gfxplane::host::requests::{self, Request};
use gfxplane::host::run::write_record;
use gfxplane::predict::abilities::Abilities;
use gfxplane::xml::Document;
use libtest_mimic::{Failed, Trial};
use serde::Deserialize;

use crate::support::folders::{self, nothing_but};
use crate::support::hooked::Hooked;
use crate::support::hosts::{golden, updating};

#[derive(Deserialize)]
struct Case {
    operation: String,
    host: String,
    #[serde(default)]
    transient: bool,
    #[serde(default)]
    script: bool,
    #[serde(default)]
    vetoed: bool,
    #[serde(flatten)]
    abilities: Abilities,
}

/// Returns all cases.
pub(crate) fn trials() -> Vec<Trial> {
    folders::trials("hook", of_folder)
}

fn of_folder(folder: &Path) -> Result<(), Failed> {
    let case: Case = toml::from_str(&fs::read_to_string(folder.join("case.toml"))?)?;
    let xml = fs::read(folder.join("domain.xml"))?;
    let host = Hooked::new(&case.host, Path::new(env!("CARGO_BIN_EXE_gfxplane-helper")));
    if let Ok(settings) = fs::read(folder.join("gfxplane.toml")) {
        host.write("etc/gfxplane/gfxplane.toml", settings);
    }
    if let Ok(text) = fs::read_to_string(folder.join("testimony.json")) {
        write_record(&host.root(), &Record::parse(&text)?, None)?;
    }
    let (name, path) = about(&xml);
    emulator::record(&host.root(), &path, &case.abilities)?;
    fs::create_dir_all(host.path("etc/libvirt/qemu"))?;
    if !case.transient {
        host.write(&format!("etc/libvirt/qemu/{name}.xml"), "");
    }
    if case.script {
        let path = path.strip_prefix("/").unwrap_or(&path);
        host.write(&path.to_string_lossy(), "#!/bin/sh\n");
    }
    if case.vetoed {
        let document = Document::parse(std::str::from_utf8(&xml)?)?;
        let domain = Domain::new(&document)?
            .uuid
            .ok_or("the domain has no UUID")?;
        let request = Request { domain, veto: true };
        requests::leave(&host.root(), &request)?;
    }
    let sub = if case.operation == "release" {
        "end"
    } else {
        "begin"
    };
    let answer = host.call(&[&name, &case.operation, sub, "-"], &xml);
    let mut said = match answer.code {
        Some(code) => format!("exit: {code}\n"),
        None => "ended by a signal\n".into(),
    };
    for line in answer.stderr.lines() {
        let _ = writeln!(said, "stderr: {line}");
    }
    for line in &answer.journal {
        let _ = writeln!(said, "journal: {line}");
    }
    for below in ["requests", "starting"] {
        for name in host.names(below) {
            let _ = writeln!(said, "{below}: {name}");
        }
    }
    let out = folder.join("out.xml");
    let mut files = vec![
        "case.toml",
        "domain.xml",
        "gfxplane.toml",
        "said.txt",
        "testimony.json",
    ];
    if answer.stdout.is_empty() {
        if updating() {
            let _ = fs::remove_file(&out);
        }
    } else {
        files.push("out.xml");
    }
    nothing_but(folder, &files)?;
    golden(&folder.join("said.txt"), &said)?;
    if answer.stdout.is_empty() {
        return Ok(());
    }
    let text = String::from_utf8(answer.stdout)?;
    golden(&out, &text)?;
    may_pass(std::str::from_utf8(&xml)?, &text)
}

/// Returns the domain's name and emulator, as far as it has any.
fn about(xml: &[u8]) -> (String, PathBuf) {
    let usual = || PathBuf::from("/usr/bin/qemu-system-x86_64");
    let text = String::from_utf8_lossy(xml);
    let Ok(document) = Document::parse(&text) else {
        return ("guest".into(), usual());
    };
    let Ok(domain) = Domain::new(&document) else {
        return ("guest".into(), usual());
    };
    let emulator = domain.emulator.map_or_else(usual, PathBuf::from);
    (domain.name.unwrap_or_else(|| "guest".into()), emulator)
}

/// Checks that what libvirt compares at a restore or a migration is as it was, that the secrets are
/// there, and that nothing is left to do with the printed XML.
fn may_pass(before: &str, after: &str) -> Result<(), Failed> {
    let kept = |text: &str| -> Result<Vec<String>, Failed> {
        let document = roxmltree::Document::parse(text)?;
        let mut kept = Vec::new();
        for node in document.descendants().filter(roxmltree::Node::is_element) {
            let is_in = |names: &[&str]| {
                node.ancestors()
                    .any(|above| names.contains(&above.tag_name().name()))
            };
            let name = node.tag_name().name();
            if name == "gl" || name == "listen" {
                continue;
            }
            let free: &[&str] = match name {
                "hostdev" => &["display"],
                "graphics" => &["port", "tlsPort", "autoport", "listen", "defaultMode"],
                _ => &[],
            };
            let mut line = format!("{name}{}", if is_in(&["devices"]) { " *" } else { "" });
            for attribute in node.attributes() {
                if !free.contains(&attribute.name()) {
                    let _ = write!(line, " {}={:?}", attribute.name(), attribute.value());
                }
            }
            kept.push(line);
        }
        Ok(kept)
    };
    if kept(before)? != kept(after)? {
        return Err("more was changed than gl, rendernode, listen and display".into());
    }
    Ok(())
}
