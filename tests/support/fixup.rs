//! Tests how domains are fixed. Each folder in `tests/fixup` is a case:
//!
//! * `domain.xml`: the user's domain;
//! * `case.toml`: `host` (a folder of `tests/hosts`), `qemu` and `libvirt` (versions; left out if unknown);
//! * `policy.toml`: the policy, in the words of gfxplane.toml; may be missing;
//! * `out.xml`: the expected XML; missing if nothing changes;
//! * `said.txt`: the changes and notes.
//!
//! `UPDATE_GOLDEN=1 cargo test --test cases` writes the last two anew: read what git says then.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};

use gfxplane::device::facts::Reason;
use gfxplane::device::id::DeviceId;
use gfxplane::domain::Domain;
use gfxplane::domain::policy::{Policy, Wishes};
use gfxplane::host::Root;
use gfxplane::host::config::Config;
use gfxplane::host::sysfs::here;
use gfxplane::plan::fixup::{Fixed, Surroundings, fix};
use gfxplane::plan::undo::{inverse, undo};
use gfxplane::plan::words;
use gfxplane::predict::abilities::Abilities;
use gfxplane::predict::screens::Known;
use gfxplane::predict::{Outcome, Prediction};
use gfxplane::publish::inventory::{DeviceEntry, Sources, inventory};
use libtest_mimic::{Failed, Trial};
use serde::Deserialize;

use crate::support::folders::{self, nothing_but};
use crate::support::hosts::{golden, updating};
use crate::support::oracle::parse;
use crate::support::promises::{kept, outline};
use crate::support::schema::{Against, problems};

/// A recorded host, with the versions that the case assumes.
pub(crate) struct Host {
    pub(crate) devices: BTreeMap<DeviceId, DeviceEntry>,
    pub(crate) abilities: Abilities,
    root: Root,
}

impl Host {
    /// Reads one of `tests/hosts`.
    pub(crate) fn named(name: &str, mut abilities: Abilities) -> Self {
        // This is the default if qemu.conf does not set it.
        for listen in [&mut abilities.spice_listen, &mut abilities.vnc_listen] {
            listen.get_or_insert_with(|| "127.0.0.1".into());
        }
        abilities.own_dev.get_or_insert(true);
        let root = hosts().join(name).join("root");
        assert!(root.is_dir(), "there is no host {name}");
        let root = Root::recorded(root);
        let all = inventory(&Sources::read(&root));
        // This is the default if qemu.conf does not set it.
        abilities.spice_tls.get_or_insert(false);
        Host {
            devices: all.devices.into_iter().map(|d| (d.id, d)).collect(),
            abilities,
            root,
        }
    }
}

impl Surroundings for Host {
    fn known(&self, device: DeviceId) -> Known {
        if let Some(entry) = self.devices.get(&device) {
            return entry.clone().into();
        }
        let reason = match device {
            DeviceId::Mdev(_) => Reason::NotActive,
            DeviceId::Pci(_) => Reason::NoDriver,
        };
        Known {
            here: here(&self.root, device),
            ..Known::nothing(reason)
        }
    }

    fn abilities(&self, _domain: &Domain<'_, '_>) -> Abilities {
        self.abilities.clone()
    }
}

fn hosts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts")
}

#[derive(Deserialize)]
struct Case {
    host: String,
    /// The options of `gfxplane fixup`.
    #[serde(default)]
    trust_rules: bool,
    #[serde(default)]
    no_display: bool,
    #[serde(flatten)]
    abilities: Abilities,
}

/// Returns all cases.
pub(crate) fn trials() -> Vec<Trial> {
    folders::trials("fixup", of_folder)
}

fn of_folder(folder: &Path) -> Result<(), Failed> {
    let case: Case = toml::from_str(&fs::read_to_string(folder.join("case.toml"))?)?;
    let host = Host::named(&case.host, case.abilities);
    let policy = match fs::read_to_string(folder.join("policy.toml")) {
        Ok(text) => Config::default().with_file(&text)?.policy,
        Err(_) => Policy::default(),
    };
    let text = fs::read_to_string(folder.join("domain.xml"))?;
    let wishes = Wishes {
        trust_rules: case.trust_rules,
        no_display: case.no_display,
        ..Wishes::default()
    };
    let fixed = match fix(&text, &host, &policy, &wishes) {
        Ok(fixed) => fixed,
        Err(problem) => {
            if !folder.ends_with("-invalid") && !name(folder).ends_with("-invalid") {
                return Err(format!("refused: {problem}").into());
            }
            nothing_but(
                folder,
                &["case.toml", "policy.toml", "domain.xml", "said.txt"],
            )?;
            return golden(&folder.join("said.txt"), &format!("refused: {problem}\n"));
        }
    };
    if name(folder).ends_with("-invalid") {
        return Err("it must be refused, and is not".into());
    }
    let changed = fixed.text != text;
    let mut files = vec!["case.toml", "policy.toml", "domain.xml", "said.txt"];
    if changed {
        files.push("out.xml");
    } else if updating() {
        let _ = fs::remove_file(folder.join("out.xml"));
    }
    nothing_but(folder, &files)?;
    if changed {
        golden(&folder.join("out.xml"), &fixed.text)?;
    }
    golden(&folder.join("said.txt"), &said(&fixed))?;
    undoing_leaves_others_alone(&text, &fixed.text)?;
    holds(&text, &fixed, &host, &policy, &wishes)
}

/// Checks that it makes no difference whether somebody else changes something before or after the
/// undo.
fn undoing_leaves_others_alone(text: &str, fixed: &str) -> Result<(), Failed> {
    let inverses = inverse(text, fixed)?;
    let changes: [(&str, &str, &str); 4] = [
        ("</name>", "</name><!-- mine -->", "<title>mine</title>"),
        ("<devices>", "<devices>", "<emulator>/mine</emulator>"),
        (
            "</devices>",
            "<rng model='virtio'><backend model='random'>/mine</backend></rng>",
            "</devices>",
        ),
        (
            "</devices>",
            "<graphics type='desktop' display=':7'/>",
            "</devices>",
        ),
    ];
    for (at, before, after) in changes {
        let change = |text: &str| text.replacen(at, &format!("{before}{after}"), 1);
        let undone = undo(&change(fixed), &inverses)?.text;
        let (undone, expected) = (undone.as_str(), change(&undo(fixed, &inverses)?.text));
        for kept in ["<!-- mine -->", "/mine", "display=':7'"] {
            if change(fixed).contains(kept) && !undone.contains(kept) {
                return Err(format!("{kept} is gone:\n{undone}").into());
            }
        }
        // The order of things beside each other in one place is not known.
        let lines = |text: &str| -> Result<Vec<String>, String> {
            let Ok(document) = parse(text) else {
                return Ok(Vec::new());
            };
            let mut lines: Vec<String> = outline(&document).lines().map(str::to_owned).collect();
            lines.sort();
            Ok(lines)
        };
        if lines(undone)? != lines(&expected)? {
            let diff = gfxplane::cli::fixup::diff(&expected, undone);
            return Err(
                format!("{before}{after} is not kept, or all else not undone:\n{diff}").into(),
            );
        }
    }
    Ok(())
}

fn name(folder: &Path) -> String {
    folder
        .file_name()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

/// Checks what must hold of every domain that was fixed.
pub(crate) fn holds(
    text: &str,
    fixed: &Fixed,
    host: &Host,
    policy: &Policy,
    wishes: &Wishes,
) -> Result<(), Failed> {
    kept(text, fixed, host, policy, wishes)?;
    // It is as valid as before: an older schema does not know what newer libvirts take.
    let before = problems(Against::Domain, text)?;
    let after = problems(Against::Domain, &fixed.text)?;
    if before.is_empty() && !after.is_empty() {
        return Err(format!("no longer valid:\n  {}", after.join("\n  ")).into());
    }
    Ok(())
}

/// Returns the changes and notes as text for people.
fn said(fixed: &Fixed) -> String {
    let mut said = String::new();
    let Some(plan) = &fixed.plan else {
        return "no vfio devices\n".into();
    };
    let _ = writeln!(said, "before: {}", outcome(&plan.before));
    if let Some(refusal) = &plan.host {
        let _ = writeln!(
            said,
            "as the host is: {} refuses, {}: {}",
            refusal.stage.who(),
            refusal.about,
            refusal.message
        );
    }
    for change in &plan.changes {
        let _ = writeln!(said, "change: {}: {}", words(&change.action), change.reason);
        if let Some(consent) = change.consent {
            let _ = writeln!(said, "  agreed: {consent}");
        }
    }
    for note in &plan.notes {
        let _ = writeln!(said, "{:?}: {}: {}", note.level, note.about, note.text);
        for fix in &note.fixes {
            let _ = writeln!(said, "  fix: {fix}");
        }
    }
    let _ = writeln!(said, "after: {}", outcome(&plan.after));
    for head in &plan.after.heads {
        let by: Vec<String> = head
            .shown_by
            .iter()
            .map(|(kind, how)| format!("{kind} {how:?}"))
            .collect();
        let by = if by.is_empty() {
            "nobody".into()
        } else {
            by.join(", ")
        };
        let _ = writeln!(said, "{} is shown by {by}", head.of);
    }
    said
}

fn outcome(prediction: &Prediction) -> String {
    match &prediction.outcome {
        Outcome::Yes => "starts".into(),
        Outcome::No(refusal) => format!(
            "{} refuses, {}: {}",
            refusal.stage.who(),
            refusal.about,
            refusal.message
        ),
        Outcome::Doubt { refusal, because } => format!(
            "{} may refuse: {}; {because}",
            refusal.stage.who(),
            refusal.message
        ),
    }
}
