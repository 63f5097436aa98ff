//! Explains why a program gives a message, and what helps: in general, and for a domain and its
//! host.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::{Deserialize, Serialize};

use super::Found;
use super::find;
use super::messages::{Speaker, Symptom};
use super::situation::{Fixed, Situation};
use crate::device::evidence::Finding;
use crate::device::facts::{Display, Reason};
use crate::device::id::DeviceId;
use crate::domain::policy::Consent;
use crate::explain::doctor::{self, Line, Topic, Verdict, examine};
use crate::predict::abilities::ALLOW_DBUS_DAEMON;
use crate::predict::versions::{OPREGION_BY_DEFAULT, SPICE_GL_OVER_TCP, VNC_BINDS};
use crate::predict::{Danger, Outcome};
use crate::publish::inventory::{DeviceEntry, State};

/// A message, explained.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The problem.
    pub symptom: Symptom,
    /// The words by which it was recognized.
    pub message: &'static str,
    /// The program that gives it.
    pub by: Speaker,
    /// The versions that are known to give it.
    pub versions: &'static str,
    /// The place in the sources.
    pub source: &'static str,
    /// The device that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// The reason for the message.
    pub cause: String,
    /// What is known of this domain and this host.
    pub here: Vec<String>,
    /// The fixes, the best first.
    pub fixes: Vec<String>,
    /// The changes that the first fix makes in the domain, with their reasons.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
    /// The domain before and after that.
    #[serde(skip)]
    pub fixed: Option<Fixed>,
}

/// The condition under which `gfxplane fixup` is the fix.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Fixup {
    /// Never.
    #[default]
    Never,
    /// If the domain would be refused.
    Refused,
    /// Whenever it would change something.
    Always,
}

/// What is known of a symptom: a table of knowledge.toml, which explains the fields.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Knowledge {
    cause: String,
    fixes: Vec<String>,
    #[serde(default)]
    fixup: Fixup,
    #[serde(default)]
    topics: Vec<Topic>,
}

static KNOWLEDGE: LazyLock<BTreeMap<Symptom, Knowledge>> = LazyLock::new(|| {
    toml::from_str(include_str!("knowledge.toml")).expect("a test has read what is built in")
});

/// Explains a message. `domain` is the domain that it is about, if that is known.
#[must_use]
pub fn explain(found: &Found, host: &doctor::Host, domain: Option<&Situation>) -> Explanation {
    let wording = found.wording;
    let knowledge = &KNOWLEDGE[&wording.symptom];
    let mut here = Vec::new();
    for id in devices(found, domain) {
        here.extend(of_device(id, host, wording.symptom));
    }
    let refused = match wording.symptom {
        // Each cause names the message it was derived from.
        Symptom::Vetoed => None,
        symptom => domain.map(|domain| prediction(domain, symptom, &mut here)),
    };
    let fixed = domain.and_then(|domain| {
        let wanted = match knowledge.fixup {
            Fixup::Never => false,
            Fixup::Refused => refused == Some(true),
            Fixup::Always => true,
        };
        domain.fixed.clone().filter(|_| wanted)
    });
    let mut fixes = Vec::new();
    let mut changes = Vec::new();
    if let Some(fixed) = &fixed {
        changes.clone_from(&fixed.changes);
        let lost: Vec<&str> = fixed.loses.iter().map(|consent| loss(*consent)).collect();
        fixes.push(match &lost[..] {
            [] => fixed.command.clone(),
            _ => format!("{} ({})", fixed.command, lost.join("; ")),
        });
    } else if let Some(domain) = domain.filter(|_| knowledge.fixup != Fixup::Never) {
        fixes.extend(domain.fixes.iter().cloned());
    }
    let ends = domain.is_some_and(|domain| viewers_end(domain, wording.symptom, &mut here));
    if domain.is_none() && knowledge.fixup != Fixup::Never {
        fixes.push("gfxplane explain --domain DOMAIN shows what has to be changed in it".into());
    }
    // What is missing on the host may not show in a prediction.
    let by_domain_alone = knowledge.fixup == Fixup::Refused && knowledge.topics.is_empty();
    // Nothing is predicted of a domain without vfio devices.
    let is_predicted = domain.is_some_and(|domain| domain.plan.is_some());
    let is_over = refused == Some(false) && is_predicted && by_domain_alone && !ends;
    if is_over {
        fixes = vec!["none, if the domain has been changed since: start it again; else this is a mistake of gfxplane's (gfxplane collect DIR, for a report)".into()];
    }
    let lines = of_host(host, &knowledge.topics, &devices(found, domain));
    for line in &lines {
        here.push(format!(
            "{}: {} ({})",
            line.verdict.word(),
            line.what,
            line.more
        ));
    }
    // What certainly stands in the way comes first, what only may comes last.
    let (fails, warns): (Vec<Line>, Vec<Line>) = lines
        .into_iter()
        .partition(|line| line.verdict == Verdict::Fail);
    let [fails, warns] = [fails, warns].map(|lines| lines.into_iter().flat_map(|line| line.fixes));
    let general = knowledge.fixes.iter().filter(|_| !is_over);
    let general = general.map(|fix| filled(fix, found, domain));
    for fix in fails.chain(general).chain(warns) {
        if !fixes.contains(&fix) {
            fixes.push(fix);
        }
    }
    Explanation {
        symptom: wording.symptom,
        message: wording.words,
        by: wording.by,
        versions: wording.versions,
        source: wording.source,
        device: found.device,
        cause: filled(&knowledge.cause, found, domain),
        here,
        fixes,
        changes,
        fixed,
    }
}

/// Returns what is lost with a consent.
fn loss(consent: Consent) -> &'static str {
    match consent {
        Consent::Remote => "a screen is then seen on this host only",
        Consent::Video => "the guest loses its video card",
    }
}

/// Returns the devices that a message may be about.
fn devices(found: &Found, domain: Option<&Situation>) -> Vec<DeviceId> {
    if let Some(id) = found.device {
        return vec![id];
    }
    let about_displays = is_about_displays(found.wording.symptom);
    let vgpus = domain.and_then(|domain| domain.plan.as_ref());
    let vgpus = vgpus.iter().flat_map(|plan| &plan.screens.vgpus);
    let asked = vgpus.filter(|vgpu| about_displays && vgpu.display);
    asked.map(|vgpu| vgpu.id).collect()
}

/// Returns whether a message is about the display of a device.
fn is_about_displays(symptom: Symptom) -> bool {
    matches!(
        symptom,
        Symptom::OpenglMissing
            | Symptom::NoDisplay
            | Symptom::ConsoleNeedsDmabuf
            | Symptom::ConsoleNeedsContext
            | Symptom::NotInitialized
            | Symptom::NoSurface
            | Symptom::DmabufLost
            | Symptom::ImportFailed
            | Symptom::NoOpregion
            | Symptom::ModesWithoutEdid
            | Symptom::ModesWithoutDisplay
            | Symptom::RamfbWithoutDisplay
            | Symptom::NotVga
    )
}

/// Returns what this host knows of a device.
fn of_device(id: DeviceId, host: &doctor::Host, symptom: Symptom) -> Vec<String> {
    let entry = host.inventory.devices.iter().find(|entry| entry.id == id);
    let Some(entry) = entry else {
        return vec![match id {
            DeviceId::Mdev(_) => format!("{id} is not on this host"),
            // libvirt gives a managed device back to its driver after a start that has failed.
            DeviceId::Pci(_) => format!("{id} is not bound to a vfio driver now"),
        }];
    };
    let mut said = vec![format!("{id}: {}", display(&entry.finding))];
    if entry.state == State::Defined {
        said[0] = format!(
            "{id} is defined, but not active; {}",
            display(&entry.finding)
        );
    }
    if symptom == Symptom::NoOpregion && entry.finding.facts.opregion.is_some() {
        said.push(format!("{id} has an OpRegion"));
    }
    if symptom == Symptom::NotActive && entry.state == State::Active {
        said.push(format!("{id} is active now"));
    }
    said.extend(node(entry).filter(|_| symptom == Symptom::ImportFailed));
    said
}

fn node(entry: &DeviceEntry) -> Option<String> {
    let node = entry.render_node.as_ref()?;
    Some(format!(
        "the render node of the GPU behind {} is {node}",
        entry.id
    ))
}

fn display(finding: &Finding) -> String {
    let facts = &finding.facts.display;
    let how = finding.how_known();
    match facts {
        Display::Unknown(Reason::Untrusted) => {
            "its driver says yes to every question, so QEMU takes its screen for a dmabuf, and what it really is nobody knows".into()
        }
        Display::Unknown(reason) => format!("what display it has is not known: {reason}"),
        Display::Known(interfaces) if interfaces.is_empty() => format!("it has no display ({how})"),
        Display::Known(_) => format!("it hands over its screen as {} ({how})", facts.words().join(" or ")),
    }
}

/// Adds the prediction for the domain as it is now. Returns whether it would or may be refused.
fn prediction(domain: &Situation, symptom: Symptom, here: &mut Vec<String>) -> bool {
    let name = &domain.name;
    let Some(plan) = &domain.plan else {
        here.push(format!("domain {name} has no vfio devices"));
        return false;
    };
    let is_same = |message: &str| {
        find(message)
            .iter()
            .any(|found| found.wording.symptom == symptom)
    };
    match &plan.before.outcome {
        Outcome::Yes => {
            here.push(format!(
                "domain {name}, as it is defined now, starts, as far as its screens decide"
            ));
            false
        }
        Outcome::No(refusal) if is_same(&refusal.message) => {
            here.push(format!(
                "domain {name}, as it is defined now, is refused for that, for {}",
                refusal.about
            ));
            true
        }
        Outcome::No(refusal) => {
            here.push(format!(
                "domain {name}, as it is defined now, is refused for another reason: {}: \"{}\"",
                refusal.by().word(),
                refusal.message
            ));
            true
        }
        Outcome::Doubt { refusal, because } => {
            here.push(format!(
                "domain {name}, as it is defined now, may be refused (\"{}\"): {because}",
                refusal.message
            ));
            true
        }
    }
}

/// Adds the screens that end the guest if a viewer chooses them. Returns whether there is one.
fn viewers_end(domain: &Situation, symptom: Symptom, here: &mut Vec<String>) -> bool {
    if !matches!(
        symptom,
        Symptom::ConsoleNeedsDmabuf | Symptom::ConsoleNeedsContext
    ) {
        return false;
    }
    let dangers = domain.plan.iter().flat_map(|plan| &plan.before.dangers);
    let before = here.len();
    here.extend(dangers.filter_map(|danger| match danger {
        Danger::ViewerEndsGuest { screen } => Some(format!(
            "domain {}: whoever chooses the screen of {screen} in a VNC viewer ends the guest",
            domain.name
        )),
        _ => None,
    }));
    here.len() > before
}

/// Returns the failed checks of a host about these topics; for devices, only about these.
fn of_host(host: &doctor::Host, topics: &[Topic], ids: &[DeviceId]) -> Vec<Line> {
    if topics.is_empty() {
        return Vec::new();
    }
    let is_about = |line: &Line| {
        let concerned = match line.device {
            Some(id) if !ids.is_empty() => ids.contains(&id),
            // The message may be about any device.
            Some(_) => line.verdict == Verdict::Fail,
            None => true,
        };
        topics.contains(&line.topic) && concerned && line.verdict != Verdict::Pass
    };
    examine(host).into_iter().filter(is_about).collect()
}

/// Returns the text with the value of each `{name}` in it; knowledge.toml says what these are.
fn filled(text: &str, found: &Found, domain: Option<&Situation>) -> String {
    let value = |name: &str| -> String {
        match name {
            "domain" => {
                let operand = domain.and_then(|domain| domain.operand.clone());
                operand.unwrap_or_else(|| "DOMAIN".into())
            }
            "start" => match found.device {
                Some(DeviceId::Mdev(uuid)) => {
                    format!("mdevctl start -u {uuid}, or virsh nodedev-start of its node device")
                }
                Some(DeviceId::Pci(_)) => {
                    "look at lspci -D whether the device has another address now".into()
                }
                None => "gfxplane list shows which devices are active".into(),
            },
            "allow_dbus_daemon" => ALLOW_DBUS_DAEMON.into(),
            "spice_gl_over_tcp" => SPICE_GL_OVER_TCP.since().to_string(),
            "vnc_binds" => VNC_BINDS.since().to_string(),
            "opregion_by_default" => OPREGION_BY_DEFAULT.since().to_string(),
            _ => found.filled_in.first().cloned().unwrap_or_default(),
        }
    };
    let mut parts = text.split('{');
    let mut filled = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let (name, rest) = part.split_once('}').unwrap_or((part, ""));
        filled.push_str(&value(name));
        filled.push_str(rest);
    }
    filled
}

#[cfg(test)]
mod tests {
    use super::super::messages::WORDINGS;
    use super::KNOWLEDGE;

    #[test]
    fn every_symptom_is_known_and_every_name_means_something() {
        for wording in WORDINGS {
            assert!(KNOWLEDGE.contains_key(&wording.symptom), "{wording:?}");
        }
        const NAMES: [&str; 7] = [
            "0",
            "domain",
            "start",
            "allow_dbus_daemon",
            "spice_gl_over_tcp",
            "vnc_binds",
            "opregion_by_default",
        ];
        for knowledge in KNOWLEDGE.values() {
            for text in knowledge.fixes.iter().chain([&knowledge.cause]) {
                for part in text.split('{').skip(1) {
                    let name = part.split_once('}').map(|(name, _)| name);
                    assert!(name.is_some_and(|name| NAMES.contains(&name)), "{text}");
                }
            }
        }
    }
}
