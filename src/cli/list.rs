//! `gfxplane list`: lists the host's vfio devices and what is known of their displays.

use std::io::Write;

use crate::cli::{End, json, table};
use crate::device::evidence::Finding;
use crate::domain::shell::plain;
use crate::libvirt::Context;
use crate::predict::hints::Hint;
use crate::publish::inventory::{Inventory, Sources, State, inventory};

/// List vfio devices, their displays, and what these need
#[derive(Debug, clap::Args)]
pub struct List {
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
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let inventory = inventory(&Sources::read(&context.root));
        if self.json {
            json(out, &inventory)?;
            return Ok(End::Done);
        }
        context.warn(&inventory.warnings);
        if self.types {
            let head = [
                "PARENT",
                "TYPE",
                "API",
                "AVAILABLE",
                "DISPLAY",
                "NEEDS",
                "KNOWN BY",
            ];
            table(out, &head, &types(&inventory))?;
        } else {
            let head = [
                "DEVICE", "DRIVER", "TYPE", "STATE", "DISPLAY", "NEEDS", "KNOWN BY",
            ];
            table(out, &head, &devices(&inventory))?;
            cards(out, &inventory)?;
        }
        Ok(End::Done)
    }
}

/// Writes why graphics cards offer no vGPU, and what helps.
///
/// # Errors
/// Errors of the output.
pub fn cards(out: &mut dyn Write, inventory: &Inventory) -> std::io::Result<()> {
    for gpu in &inventory.gpus {
        let Some(missing) = &gpu.missing else {
            continue;
        };
        writeln!(out, "{}: {}", gpu.address, plain(&missing.text))?;
        for fix in &missing.fixes {
            writeln!(out, "    fix: {}", plain(fix))?;
        }
    }
    Ok(())
}

fn devices(inventory: &Inventory) -> Vec<Vec<String>> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let row = |entry: &crate::publish::inventory::DeviceEntry| {
        let state = match entry.state {
            State::Active => "active",
            State::Defined => "defined",
        };
        vec![
            entry.id.to_string(),
            text(&entry.driver),
            text(&entry.type_id),
            state.into(),
            display(&entry.finding),
            needs(&entry.require),
            known_by(&entry.finding),
        ]
    };
    inventory.devices.iter().map(row).collect()
}

fn types(inventory: &Inventory) -> Vec<Vec<String>> {
    let row = |entry: &crate::publish::inventory::TypeEntry| {
        vec![
            entry.parent.clone(),
            entry.type_id.clone(),
            entry.device_api.clone().unwrap_or_default(),
            entry
                .available_instances
                .map(|count| count.to_string())
                .unwrap_or_default(),
            display(&entry.finding),
            needs(&entry.require),
            known_by(&entry.finding),
        ]
    };
    inventory.types.iter().map(row).collect()
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

/// Returns the source of the facts and who disagrees: `probe`, `sibling`, `rule gvt-g`, `rule
/// gvt-g; probe: in-use`.
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
