//! `gfxplane list`: lists the host's vfio devices, and what is known about their displays.

use std::io::Write;

use crate::cli::page::{Page, count};
use crate::cli::{End, json};
use crate::device::evidence::Finding;
use crate::explain::doctor::Verdict;
use crate::libvirt::Context;
use crate::predict::hints::Hint;
use crate::publish::inventory::{Inventory, Sources, State, inventory};

/// List vfio devices, their displays, and the options that these need
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// List mdev types with their parents, instead of devices
    #[arg(long)]
    types: bool,
    /// Print JSON with devices, types and warnings
    #[arg(long)]
    json: bool,
}

impl List {
    /// Prints the list.
    ///
    /// # Errors
    /// The output can't be written.
    pub(crate) fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let inventory = inventory(&Sources::read(&context.root));
        if self.json {
            json(out, &inventory)?;
            return Ok(End::Done);
        }
        context.warn(&inventory.warnings);
        let page = if self.types {
            types(&inventory)
        } else {
            devices(&inventory)
        };
        page.print(out)?;
        Ok(End::Done)
    }
}

/// A line of the list: the name, the parts before the display, the display with its evidence, and
/// its requirements.
type Entry<'i> = (String, Vec<Option<String>>, &'i Finding, &'i [Hint]);

/// Returns the list as text. `nouns` are the singular and the plural, `none` is the text for an
/// empty list.
fn list(nouns: (&str, &str), none: &str, entries: &[Entry<'_>]) -> Page {
    let mut page = Page::default();
    if entries.is_empty() {
        page.words(None, 0, none, "");
        let doctor = "gfxplane doctor # says what is missing";
        page.commands(0, "see", &[doctor.to_owned()]);
        return page;
    }
    let is_known = |finding: &Finding| finding.facts.display.reason().is_none();
    let verdict = |known: bool| if known { Verdict::Pass } else { Verdict::Warn };
    let unknown = entries
        .iter()
        .filter(|(_, _, finding, _)| !is_known(finding));
    let unknown = unknown.count();
    let mut text = count(entries.len(), nouns.0, nouns.1);
    if unknown > 0 {
        text.push_str(&format!(", the display of {unknown} is not known"));
    }
    page.words(Some(verdict(unknown == 0)), 0, &text, "");
    page.blank();
    for (name, parts, finding, hints) in entries {
        let display = format!("display {}{}", display(finding), known_by(finding));
        let known = [Some(display), needs(hints)];
        let parts: Vec<&str> = parts
            .iter()
            .chain(&known)
            .flatten()
            .map(String::as_str)
            .collect();
        page.words(Some(verdict(is_known(finding))), 0, name, &parts.join(", "));
    }
    page
}

/// Returns the devices as text, and what keeps graphics cards from offering vGPUs.
#[must_use]
pub fn devices(inventory: &Inventory) -> Page {
    let entries = inventory.devices.iter().map(|one| {
        let parts = vec![
            one.type_id.clone(),
            one.driver.as_ref().map(|driver| format!("driver {driver}")),
            (one.state == State::Defined).then(|| "not started".to_owned()),
        ];
        (one.id.to_string(), parts, &one.finding, &one.require[..])
    });
    let nouns = ("vfio device", "vfio devices");
    let none = "This host has no vfio device.";
    let mut page = list(nouns, none, &entries.collect::<Vec<_>>());
    let missing = inventory.gpus.iter().filter_map(|gpu| {
        let missing = gpu.missing.as_ref()?;
        Some((gpu.address.to_string(), missing))
    });
    for (number, (address, missing)) in missing.enumerate() {
        if number == 0 {
            page.blank();
        }
        let verdict = missing.certain.then_some(Verdict::Warn);
        page.words(verdict, 0, &address, &missing.text);
        page.commands(1, "fix", &missing.fixes);
    }
    page
}

/// Returns the types as text.
#[must_use]
pub(crate) fn types(inventory: &Inventory) -> Page {
    let entries = inventory.types.iter().map(|one| {
        let parts = vec![
            one.name.clone().filter(|name| *name != one.type_id),
            Some(format!("of {}", one.parent)),
            one.device_api.clone().filter(|api| api != "vfio-pci"),
            one.available_instances.map(|left| match left {
                0 => "none left".to_owned(),
                left => format!("{left} left"),
            }),
        ];
        (one.type_id.clone(), parts, &one.finding, &one.require[..])
    });
    let nouns = ("type of mediated devices", "types of mediated devices");
    let none = "This host offers no type of mediated devices.";
    list(nouns, none, &entries.collect::<Vec<_>>())
}

/// Returns a display in words: `dmabuf`, `dmabuf,region`, `none`, `unknown (in-use)`.
pub(crate) fn display(finding: &Finding) -> String {
    let words = finding.facts.display.words().join(",");
    match finding.facts.display.reason() {
        Some(reason) => format!("{words} ({reason})"),
        None => words,
    }
}

/// Describes the options that the display always needs; `None` if it needs none.
fn needs(hints: &[Hint]) -> Option<String> {
    let always = hints.iter().filter(|hint| hint.purpose.is_none());
    let words: Vec<String> = always
        .map(|hint| format!("{}={}", hint.name, hint.value))
        .collect();
    (!words.is_empty()).then(|| format!("needs {}", words.join(" ")))
}

/// Describes the evidence for the facts, and any that contradicts it: ` by probe`, ` by sibling`, `
/// by rule gvt-g; probe: in-use`. Empty if there is none.
fn known_by(finding: &Finding) -> String {
    let Some(evidence) = &finding.evidence else {
        return String::new();
    };
    let mut text = format!(" by {}", evidence.method);
    if let Some(rule) = &evidence.rule {
        text = format!("{text} {rule}");
    }
    if let Some(step) = evidence.step {
        text = format!("{text}, step {step}");
    }
    if let Some(errno) = &evidence.errno {
        text = format!("{text}: {errno}");
    }
    if let Some(reason) = finding
        .attempt
        .as_ref()
        .and_then(|attempt| attempt.display.reason())
    {
        text = format!("{text}; probe: {reason}");
    }
    for other in &finding.disagreements {
        let words = other.display.words().join(",");
        text = format!("{text}; {} says {words}", other.evidence.method);
    }
    text
}
