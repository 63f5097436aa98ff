//! `gfxplane list`: lists the host's vfio devices and the knowledge about their displays.

use std::io::Write;

use crate::cli::page::{Page, count};
use crate::cli::{End, json};
use crate::device::evidence::Finding;
use crate::explain::doctor::Verdict;
use crate::libvirt::Context;
use crate::predict::hints::Hint;
use crate::publish::inventory::{Inventory, Sources, State, inventory};

/// List vfio devices, their displays, and what these need
#[derive(Debug, clap::Args)]
pub(crate) struct List {
    /// List mdev types with their parents instead of devices
    #[arg(long)]
    types: bool,
    /// Print JSON: devices, types and warnings
    #[arg(long)]
    json: bool,
}

impl List {
    /// Prints the list.
    ///
    /// # Errors
    /// Errors of the output.
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

/// Adds the first line. `none` is the text for an empty list.
fn head(page: &mut Page, known: &[bool], nouns: (&str, &str), none: &str) {
    if known.is_empty() {
        page.words(None, 0, none, "");
        let doctor = "gfxplane doctor # says what is missing";
        return page.commands(0, "see", &[doctor.to_owned()]);
    }
    let unknown = known.iter().filter(|known| !**known).count();
    let mut text = count(known.len(), nouns.0, nouns.1);
    if unknown > 0 {
        text.push_str(&format!(", the display of {unknown} is not known"));
    }
    page.words(Some(verdict(unknown == 0)), 0, &text, "");
    page.blank();
}

fn verdict(known: bool) -> Verdict {
    if known { Verdict::Pass } else { Verdict::Warn }
}

fn is_known(finding: &Finding) -> bool {
    finding.facts.display.reason().is_none()
}

/// Returns the facts about a display, and the options that it needs.
fn known(finding: &Finding, hints: &[Hint]) -> [String; 2] {
    let by = match known_by(finding) {
        by if by.is_empty() => String::new(),
        by => format!(" by {by}"),
    };
    let needs = match needs(hints) {
        needs if needs.is_empty() => String::new(),
        needs => format!("needs {needs}"),
    };
    [format!("display {}{by}", display(finding)), needs]
}

fn joined(parts: impl IntoIterator<Item = String>) -> String {
    let parts: Vec<String> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    parts.join(", ")
}

/// Returns the devices as text, and why graphics cards offer no vGPU.
#[must_use]
pub fn devices(inventory: &Inventory) -> Page {
    let mut page = Page::default();
    let devices = &inventory.devices;
    let all: Vec<bool> = devices.iter().map(|one| is_known(&one.finding)).collect();
    let nouns = ("vfio device", "vfio devices");
    head(&mut page, &all, nouns, "This host has no vfio device.");
    for entry in devices {
        let driver = entry
            .driver
            .as_ref()
            .map(|driver| format!("driver {driver}"));
        let state = match entry.state {
            State::Active => "",
            State::Defined => "not started",
        };
        let parts = [
            entry.type_id.clone().unwrap_or_default(),
            driver.unwrap_or_default(),
            state.into(),
        ];
        let rest = joined(
            parts
                .into_iter()
                .chain(known(&entry.finding, &entry.require)),
        );
        let verdict = verdict(is_known(&entry.finding));
        page.words(Some(verdict), 0, &entry.id.to_string(), &rest);
    }
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
    let mut page = Page::default();
    let types = &inventory.types;
    let all: Vec<bool> = types.iter().map(|one| is_known(&one.finding)).collect();
    let nouns = ("type of mediated devices", "types of mediated devices");
    let none = "This host offers no type of mediated devices.";
    head(&mut page, &all, nouns, none);
    for entry in types {
        let api = entry.device_api.clone().filter(|api| api != "vfio-pci");
        let left = entry.available_instances.map(|left| match left {
            0 => "none left".to_owned(),
            left => format!("{left} left"),
        });
        let parts = [
            entry
                .name
                .clone()
                .filter(|name| *name != entry.type_id)
                .unwrap_or_default(),
            format!("of {}", entry.parent),
            api.unwrap_or_default(),
            left.unwrap_or_default(),
        ];
        let rest = joined(
            parts
                .into_iter()
                .chain(known(&entry.finding, &entry.require)),
        );
        let verdict = verdict(is_known(&entry.finding));
        page.words(Some(verdict), 0, &entry.type_id, &rest);
    }
    page
}

/// Returns a display in words: `dmabuf`, `dmabuf,region`, `none`, `unknown (in-use)`.
pub(crate) fn display(finding: &Finding) -> String {
    let words = finding.facts.display.words().join(",");
    match finding.facts.display.reason() {
        Some(reason) => format!("{words} ({reason})"),
        None => words,
    }
}

/// Returns the options that are needed whenever the display is used.
fn needs(hints: &[Hint]) -> String {
    let always = hints.iter().filter(|hint| hint.purpose.is_none());
    always
        .map(|hint| format!("{}={}", hint.name, hint.value))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Returns the source of the facts and any source that disagrees: `probe`, `sibling`, `rule gvt-g`,
/// `rule gvt-g; probe: in-use`.
pub(crate) fn known_by(finding: &Finding) -> String {
    let Some(evidence) = &finding.evidence else {
        return String::new();
    };
    let mut text = evidence.method.to_string();
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
