//! Writes the knowledge about a host for other programs, with a module for each program's format.
//!
//! This module itself writes a host's measurements as rules for hosts that can't measure: nodes
//! whose hooks run in containers, and machines that are installed from one image.
//!
//! Each rule is about one measured type and names its type id and driver. On another host, the rule
//! is evidence of [`Method::Rule`], and never a reason for a veto.

pub(crate) mod nfd;
pub(crate) mod nova;
pub(crate) mod prometheus;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use serde::Serialize;

use crate::device::evidence::{Evidence, Finding, Method};
use crate::device::facts::{Display, Facts};
use crate::device::id::DeviceId;
use crate::device::record::Record;
use crate::device::rules::{Bus, Match, Open, Pattern, Rule};
use crate::publish::inventory::{Inventory, Sources, active, rule_for_type, sibling_of_type};

/// The result of exporting measurements as rules.
#[derive(Debug, Clone, Default)]
pub struct Export {
    /// The rules, one for each type and driver, sorted by bus, driver and type.
    pub rules: Vec<Rule>,
    /// The measurements that did not become a rule, each with the reason.
    pub left_out: Vec<String>,
}

/// The properties that devices must have in common to get one rule.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    bus: Bus,
    /// The parent's driver for an mdev, the vfio driver for a PCI device.
    driver: Option<String>,
    type_id: String,
}

/// Returns the rules for the measurements of this host: valid records of active devices, records of
/// types from this boot, and the kernel's own statements. A type whose measurements differ, or a
/// measured device without a type, gets no rule, but an entry in `left_out`.
pub fn export(sources: &Sources) -> Export {
    // Each measurement is a rule, beside the name of what was measured.
    let mut kinds: BTreeMap<Kind, Vec<(String, Rule)>> = BTreeMap::new();
    let mut export = Export::default();
    let host = &sources.host;
    for device in &host.devices {
        let entry = active(sources, device);
        let Some(evidence) = measured(&entry.finding) else {
            continue;
        };
        let (bus, driver) = match device.id {
            DeviceId::Mdev(_) => (Bus::Mdev, device.parent_driver.clone()),
            DeviceId::Pci(_) => (Bus::Pci, device.driver.clone()),
        };
        let Some(type_id) = device.type_id.clone() else {
            let text = format!("{}: it has no type that a rule could name", device.id);
            export.left_out.push(text);
            continue;
        };
        let kind = Kind {
            bus,
            driver,
            type_id,
        };
        let rule = rule(&kind, &entry.finding.facts, &evidence, entry.open);
        let all = kinds.entry(kind).or_default();
        all.push((entry.id.to_string(), rule));
    }
    for parent in &host.parents {
        for of_type in &parent.types {
            let record = sibling_of_type(sources, &of_type.id);
            let is_this_boots = |record: &&Record| record.circumstances.boot_id == host.boot_id;
            let Some(record) = record.filter(is_this_boots) else {
                continue;
            };
            let known = rule_for_type(sources, Some(parent), &of_type.id, Some(of_type));
            let open = known.map_or(Open::Named, |rule| rule.open);
            let kind = Kind {
                bus: Bus::Mdev,
                driver: parent.driver.clone(),
                type_id: of_type.id.clone(),
            };
            let rule = rule(&kind, &record.facts, &record.evidence(), open);
            let all = kinds.entry(kind).or_default();
            all.push((format!("the record of {}", of_type.id), rule));
        }
    }
    for (kind, all) in kinds {
        let said = |(of, rule): &(String, Rule)| {
            let facts = rule.facts.as_ref().map(said);
            format!("{of} says {}", facts.unwrap_or_default())
        };
        let mut all = all.into_iter();
        let Some(first) = all.next() else { continue };
        match all.find(|(_, other)| other.facts != first.1.facts) {
            Some(other) => export.left_out.push(format!(
                "{}: {}, {}",
                kind.type_id,
                said(&first),
                said(&other)
            )),
            None => export.rules.push(first.1),
        }
    }
    let names: Vec<String> = export.rules.iter().map(|rule| rule.name.clone()).collect();
    for rule in &mut export.rules {
        let is_twice = names.iter().filter(|name| **name == rule.name).count() > 1;
        let driver = rule
            .matches
            .parent_driver
            .iter()
            .chain(&rule.matches.driver);
        if let Some(driver) = driver.last().filter(|_| is_twice) {
            rule.name = format!("{}-of-{driver}", rule.name);
        }
    }
    export
}

/// Returns the display of each type of mdevs and of vGPUs on virtual functions whose display is
/// known. Leaves out types whose devices have different displays, and returns a text about each.
fn displays_of_types(inventory: &Inventory) -> (BTreeMap<&str, String>, Vec<String>) {
    let types = inventory.types.iter();
    let types = types.map(|entry| (Some(entry.type_id.as_str()), &entry.finding));
    let devices = inventory.devices.iter();
    let devices = devices.map(|entry| (entry.type_id.as_deref(), &entry.finding));
    let mut found: BTreeMap<&str, BTreeSet<String>> = BTreeMap::new();
    for (type_id, finding) in types.chain(devices) {
        if let (Some(type_id), Display::Known(_)) = (type_id, &finding.facts.display) {
            let words = finding.facts.display.words().join("-");
            found.entry(type_id).or_default().insert(words);
        }
    }
    let (mut known, mut left_out) = (BTreeMap::new(), Vec::new());
    for (type_id, words) in found {
        let is_clear = words.len() == 1;
        let words = Vec::from_iter(words).join(", ");
        if is_clear {
            known.insert(type_id, words);
        } else {
            left_out.push(format!("{type_id}: its displays are {words}"));
        }
    }
    (known, left_out)
}

/// Returns the evidence of a finding; `None` unless the device was measured and answered.
fn measured(finding: &Finding) -> Option<Evidence> {
    let evidence = finding.evidence.clone()?;
    (finding.facts.display.is_answer() && evidence.method.is_measured()).then_some(evidence)
}

/// Makes the rule that a measurement of a kind of devices becomes.
fn rule(kind: &Kind, facts: &Facts, evidence: &Evidence, open: Open) -> Rule {
    let driver: Vec<Pattern> = kind
        .driver
        .iter()
        .map(|driver| Pattern::literally(driver))
        .collect();
    let (driver, parent_driver) = match kind.bus {
        Bus::Mdev => (Vec::new(), driver),
        Bus::Pci => (driver, Vec::new()),
    };
    Rule {
        name: format!("measured-{}", kind.type_id),
        source: source(evidence),
        matches: Match {
            bus: Some(kind.bus),
            driver,
            parent_driver,
            type_id: vec![Pattern::literally(&kind.type_id)],
            ..Match::default()
        },
        facts: Some(Facts {
            device: None,
            ..facts.clone()
        }),
        open,
    }
}

/// Returns a measurement's source for a rule: `measured: driver mbochs, kernel 6.12.107`.
fn source(evidence: &Evidence) -> String {
    let mut words = Vec::new();
    if let Some(driver) = &evidence.driver {
        let version = evidence.driver_version.as_ref();
        let version = version.map_or_else(String::new, |version| format!(" {version}"));
        words.push(format!("driver {driver}{version}"));
    }
    if let Some(kernel) = &evidence.kernel {
        words.push(format!("kernel {kernel}"));
    }
    let by = match evidence.method {
        Method::Kernel => "said by the kernel",
        _ => "measured",
    };
    format!("{by}: {}", words.join(", "))
}

/// Describes the facts about a device in one line, for people to read.
pub(crate) fn said(facts: &Facts) -> String {
    let mut words = facts.display.words().join(",");
    if let Display::Unknown(reason) = &facts.display {
        let _ = write!(words, " ({reason})");
    }
    match facts.edid.map(|edid| (edid.max_xres, edid.max_yres)) {
        Some((0, 0)) => words.push_str(", EDID without a limit"),
        Some((x, y)) => drop(write!(words, ", EDID up to {x}x{y}")),
        None => {}
    }
    if let Some(opregion) = facts.opregion {
        let _ = write!(words, ", OpRegion of {} bytes", opregion.size);
    }
    if facts.kvm && facts.display.is_answer() {
        words.push_str(", opened with a VM");
    }
    words
}

impl Export {
    /// Returns the text of a file for `/etc/gfxplane/rules.d`.
    pub fn to_toml(&self) -> String {
        #[derive(Serialize)]
        struct File<'r> {
            rule: &'r [Rule],
        }
        let mut text = String::from(
            "# What gfxplane measured on a host (gfxplane rules --export), for /etc/gfxplane/rules.d of hosts\n\
             # that have the same devices, drivers and kernel.\n",
        );
        if !self.rules.is_empty() {
            let rules = toml::to_string(&File { rule: &self.rules });
            text.push('\n');
            text.push_str(&rules.expect("a rule is a table of TOML"));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::facts::{Edid, OpRegion, Reason};
    use crate::device::rules::{Rules, Subject};

    fn exported(kind: &Kind, facts: &Facts, open: Open) -> Export {
        let evidence = Evidence {
            driver: Some("d".into()),
            driver_version: Some("1\"2".into()),
            kernel: Some("6.12".into()),
            ..Evidence::by(Method::Probe)
        };
        Export {
            rules: vec![rule(kind, facts, &evidence, open)],
            left_out: Vec::new(),
        }
    }

    #[test]
    fn what_is_written_is_read() {
        let whole = Facts {
            edid: Some(Edid {
                max_xres: 0,
                max_yres: 1200,
            }),
            opregion: Some(OpRegion { size: 8192 }),
            kvm: true,
            ..Facts::of(Display::from_answers(true, true))
        };
        for (facts, open) in [
            (whole, Open::Safe),
            (Facts::of(Display::NONE), Open::Never),
            (Facts::of(Display::Unknown(Reason::Untrusted)), Open::Named),
        ] {
            for name in ["plain-1", "a*[b]{c,d}?!\\", "t\u{1}\"'\n\u{7f}ü", "-", "]"] {
                for bus in [Bus::Mdev, Bus::Pci] {
                    let kind = Kind {
                        bus,
                        driver: Some(format!("{name}-driver")),
                        type_id: name.into(),
                    };
                    let text = exported(&kind, &facts, open).to_toml();
                    let mut rules = Rules::default();
                    rules
                        .add_file("x", &text)
                        .unwrap_or_else(|error| panic!("{error}\n{text}"));
                    let driver = kind.driver.as_deref();
                    let subject = |type_id| Subject {
                        bus: Some(bus),
                        driver: driver.filter(|_| bus == Bus::Pci),
                        parent_driver: driver.filter(|_| bus == Bus::Mdev),
                        type_id: Some(type_id),
                        kernel: "5.4",
                        ..Subject::default()
                    };
                    let found = rules.find(&subject(name)).expect(&text);
                    assert_eq!(found.facts.as_ref(), Some(&facts), "{text}");
                    assert_eq!(found.open, open);
                    assert_eq!(found.source, "measured: driver d 1\"2, kernel 6.12");
                    for other in ["", "plain-12", "abc", "ab*", "x"] {
                        assert!(rules.find(&subject(other)).is_none(), "{name} {other}");
                    }
                }
            }
        }
    }
}
