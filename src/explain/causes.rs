//! Explains why a program gives a message, and how to fix the cause: in general, and for one domain
//! and its host.

use std::collections::BTreeMap;

use serde::Serialize;

use super::Found;
use super::conditions::About;
use super::find;
use super::messages::{Fixup, Remedy, SYMPTOMS, Speaker, Tell};
use super::situation::{Fixed, Situation};
use crate::device::evidence::Finding;
use crate::device::facts::{Display, Reason};
use crate::device::id::DeviceId;
use crate::domain::policy::Consent;
use crate::explain::doctor::{self, Line, Topic, Verdict, examine};
use crate::plan::commands::Names;
use crate::predict::abilities::ALLOW_DBUS_DAEMON;
use crate::predict::versions::{OPREGION_BY_DEFAULT, SPICE_GL_OVER_TCP, VNC_BINDS};
use crate::predict::{Danger, DangerKind, Outcome};
use crate::publish::inventory::State;
use crate::publish::node_device::name_of;
use crate::publish::unknown::Member;

/// The explanation of a message. `gfxplane explain --json` prints it.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// The name of the message's symptom in `messages.toml`.
    pub symptom: &'static str,
    /// The words by which the message was recognized; `*` means any text.
    pub message: &'static str,
    /// The program that gives the message.
    pub by: Speaker,
    /// The versions that are known to give the message.
    pub versions: &'static str,
    /// The origin of the message: a file and a function, or a page that quotes it.
    pub source: &'static str,
    /// The device that the message is about; `None` if it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// The cause of the message, in words.
    pub cause: String,
    /// The facts about this domain and this host that concern the message.
    pub here: Vec<String>,
    /// The fixes of the cause, the best first.
    pub fixes: Vec<Remedy>,
    /// The changes that `gfxplane fixup` makes in the domain, with their reasons; may be empty.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
    /// The fix that `gfxplane fixup` makes; `None` if fixup does not remove the cause.
    #[serde(skip)]
    pub fixed: Option<Fixed>,
}

/// Explains a message. `domain`: the domain that the message is about, if it is known. `names`: the
/// domain's names in commands.
///
/// # Panics
/// If [`SYMPTOMS`] does not have the message's symptom.
#[must_use]
pub fn explain(
    found: &Found,
    host: &doctor::Host,
    names: &Names,
    domain: Option<&Situation>,
) -> Explanation {
    let symptom = &SYMPTOMS[found.symptom];
    let about = About {
        found,
        symptom,
        host,
        names,
        domain,
    };
    let case = symptom.when.iter().find(|case| about.holds(case.is));
    let (cause, general) = match case {
        Some(case) => (&case.cause, &case.fixes),
        None => (&symptom.cause, &symptom.fixes),
    };
    let mut here = Vec::new();
    for id in about.devices() {
        here.extend(of_device(id, &about));
    }
    let refused = domain
        .filter(|_| !about.tells(Tell::NoPrediction))
        .map(|domain| prediction(domain, found.symptom, &mut here));
    let fixed = domain.and_then(|domain| {
        let wanted = match symptom.fixup {
            Fixup::Never => false,
            Fixup::Refused => refused == Some(true),
            Fixup::Always => true,
        };
        domain.fixed.clone().filter(|_| wanted)
    });
    // The domain's fixes are meant for the usual cause.
    let mut fixes = if case.is_none() || fixed.is_some() {
        by_fixup(fixed.as_ref(), &about)
    } else {
        Vec::new()
    };
    let ends =
        about.tells(Tell::Viewers) && domain.is_some_and(|domain| viewers_end(domain, &mut here));
    // A prediction may not show that the host lacks something.
    let by_domain_alone = symptom.fixup == Fixup::Refused && symptom.topics.is_empty();
    // A domain without vfio devices has no prediction.
    let is_predicted = domain.is_some_and(|domain| domain.plan.is_some());
    let starts = refused == Some(false) && is_predicted;
    let is_over = starts && by_domain_alone && !ends && case.is_none();
    if is_over {
        fixes = vec![
            Remedy::Advice("start the domain again if it was changed since then".into()),
            Remedy::Command(
                "gfxplane collect DIR # if it is still refused: gfxplane is wrong, and this records the host for a report".into(),
            ),
        ];
    }
    if about.tells(Tell::Group) {
        group(&about, &mut here, &mut fixes);
    }
    let general = general.iter().filter(|_| !is_over);
    let general = general.map(|fix| fix.map(|text| filled(text, &about)));
    let general = general.collect();
    of_checks(&about, general, &mut here, &mut fixes);
    let wording = found.wording;
    Explanation {
        symptom: found.symptom,
        message: &wording.words,
        by: wording.by,
        versions: &wording.versions,
        source: &wording.source,
        device: found.device,
        cause: filled(cause, &about),
        here,
        changes: fixed
            .as_ref()
            .map_or_else(Vec::new, |fixed| fixed.changes.clone()),
        fixes,
        fixed,
    }
}

/// Adds the doctor's failures and warnings on the symptom's topics to `here`, and their fixes to
/// `fixes`: the failures' fixes, then the `general` fixes, then the warnings' fixes.
fn of_checks(
    about: &About<'_>,
    general: Vec<Remedy>,
    here: &mut Vec<String>,
    fixes: &mut Vec<Remedy>,
) {
    let lines = of_host(about.host, &about.symptom.topics, &about.devices());
    let told = |line: &Line| format!("{}: {} ({})", line.verdict, line.what, line.more);
    here.extend(lines.iter().map(told));
    // A failure certainly is a problem, a warning only perhaps.
    let (fails, warns): (Vec<Line>, Vec<Line>) = lines
        .into_iter()
        .partition(|line| line.verdict == Verdict::Fail);
    let [fails, warns] = [fails, warns].map(|lines| {
        let fixes = lines.into_iter().flat_map(|line| line.fixes);
        fixes.map(Remedy::Command)
    });
    for fix in fails.chain(general).chain(warns) {
        if !fixes.contains(&fix) {
            fixes.push(fix);
        }
    }
}

/// Returns the command for `fixed`. Without `fixed`, returns the fixes that only the user can make,
/// or a command that shows fixes if the domain is not known. Empty if fixup never helps.
fn by_fixup(fixed: Option<&Fixed>, about: &About<'_>) -> Vec<Remedy> {
    let commands = if let Some(fixed) = fixed {
        let lost: Vec<&str> = fixed.loses.iter().map(|consent| loss(*consent)).collect();
        vec![match &lost[..] {
            [] => fixed.command.clone(),
            _ => format!("{} # {}", fixed.command, lost.join("; ")),
        }]
    } else {
        match about.domain {
            _ if about.symptom.fixup == Fixup::Never => Vec::new(),
            Some(domain) => domain.fixes.clone(),
            None => vec![format!(
                "{} # shows what to change in the domain",
                about.names.explain()
            )],
        }
    };
    commands.into_iter().map(Remedy::Command).collect()
}

/// Adds the members of the message's IOMMU group to `here`, and to `fixes` a command for each
/// member that keeps the group from being passed through. Adds nothing for an unknown group.
fn group(about: &About<'_>, here: &mut Vec<String>, fixes: &mut Vec<Remedy>) {
    let by_number = about
        .found
        .filled_in
        .first()
        .and_then(|text| text.parse().ok());
    let has = |members: &[Member]| {
        let id = about.found.device;
        id.is_some_and(|id| members.iter().any(|member| member.id == id))
    };
    let mut groups = about.host.around.groups.iter();
    let Some((number, members)) = groups.find(|(number, members)| {
        Some(**number) == by_number || by_number.is_none() && has(members)
    }) else {
        return;
    };
    let named: Vec<String> = members.iter().map(ToString::to_string).collect();
    here.push(format!("IOMMU group {number}: {}", named.join(", ")));
    for member in members.iter().filter(|member| member.is_in_the_way()) {
        fixes.push(Remedy::Command(member.detach()));
    }
}

/// Returns, in words, what the user loses after giving a consent.
fn loss(consent: Consent) -> &'static str {
    match consent {
        Consent::Remote => "a screen is then visible only on this host",
        Consent::Video => "the guest loses its video card",
    }
}

/// Describes what is known about a device of this host, or why nothing is known. Empty for a PCI
/// device without a vfio driver, if the symptom is about graphics cards.
fn of_device(id: DeviceId, about: &About<'_>) -> Vec<String> {
    let Some(entry) = about.entry(id) else {
        return match id {
            DeviceId::Mdev(_) => vec![format!("{id} is not on this host")],
            // A graphics card that offers vGPUs has its own driver, not vfio's.
            DeviceId::Pci(_) if about.symptom.topics.contains(&Topic::Gpus) => Vec::new(),
            // libvirt gives a managed device back to its driver after a start that has failed.
            DeviceId::Pci(_) => vec![format!("{id} is not bound to a vfio driver now")],
        };
    };
    let display = display(&entry.finding);
    let mut said = vec![match entry.state {
        State::Active => format!("{id}: {display}"),
        State::Defined => format!("{id} is defined, but not active; {display}"),
    }];
    if about.tells(Tell::Opregion) && entry.finding.facts.opregion.is_some() {
        said.push(format!("{id} has an OpRegion"));
    }
    if about.tells(Tell::Active) && entry.state == State::Active {
        said.push(format!("{id} is active now"));
    }
    if about.tells(Tell::RenderNode)
        && let Some(node) = &entry.render_node
    {
        said.push(format!("the render node of the GPU behind {id} is {node}"));
    }
    said
}

fn display(finding: &Finding) -> String {
    let facts = &finding.facts.display;
    let how = finding.how_known();
    match facts {
        Display::Unknown(Reason::Untrusted) => {
            "its driver says yes to every question, so QEMU treats its screen as a dmabuf; what the screen really is, is not known".into()
        }
        Display::Unknown(reason) => format!("its display is not known: {}", reason.why()),
        Display::Known(interfaces) if interfaces.is_empty() => format!("it has no display ({how})"),
        Display::Known(_) => format!("it hands over its screen as {} ({how})", facts.words().join(" or ")),
    }
}

/// Adds the prediction for the domain as it is now, compared with the message of `symptom`. Returns
/// whether the domain would or may be refused; false if it has no vfio devices.
fn prediction(domain: &Situation, symptom: &str, here: &mut Vec<String>) -> bool {
    let name = &domain.name;
    let Some(plan) = &domain.plan else {
        here.push(format!("domain {name} has no vfio devices"));
        return false;
    };
    let is_same = |message: &str| find(message).iter().any(|found| found.symptom == symptom);
    let what = match &plan.before.outcome {
        Outcome::Yes => "its screens don't keep it from starting".to_owned(),
        Outcome::No(refusal) if is_same(&refusal.message) => {
            let by = refusal.by().word();
            format!("{by} refuses it with this message, about {}", refusal.about)
        }
        Outcome::No(refusal) => {
            let by = refusal.by().word();
            let message = &refusal.message;
            format!("{by} refuses it for another reason: \"{message}\"")
        }
        Outcome::Doubt { refusal, because } => refusal.may(because),
    };
    here.push(format!("domain {name}, as it is defined now: {what}"));
    !plan.before.starts()
}

/// Adds to `here` the screens that make QEMU exit if a VNC viewer switches to them. Returns false
/// if there are none.
fn viewers_end(domain: &Situation, here: &mut Vec<String>) -> bool {
    let dangers = domain.plan.iter().flat_map(|plan| &plan.before.dangers);
    let before = here.len();
    let ends = dangers.filter(|danger| danger.kind == DangerKind::ViewerEndsGuest);
    here.extend(ends.map(|Danger { screen, .. }| {
        format!(
            "domain {}: a VNC viewer that switches to the screen of {screen} ends the guest",
            domain.name
        )
    }));
    here.len() > before
}

/// Returns the doctor's failures and warnings on these topics. A line about one device must be
/// about one of `ids` or, if `ids` is empty, must be a failure.
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
        topics.contains(&line.topic) && concerned && line.verdict > Verdict::Pass
    };
    examine(host, &BTreeMap::new())
        .into_iter()
        .filter(is_about)
        .collect()
}

/// Replaces each placeholder of a text, such as `{domain}` or `{fixup OPTIONS}`, by its value.
/// messages.toml explains the placeholders.
fn filled(text: &str, about: &About<'_>) -> String {
    let device = about.devices().first().copied();
    let named = |unknown: &str, name: &dyn Fn(DeviceId) -> String| {
        device.map_or_else(|| unknown.to_owned(), name)
    };
    let names = about.names;
    let value = |place: &str| -> String {
        let (name, options) = place.split_once(' ').unwrap_or((place, ""));
        match name {
            "domain" => names.domain().to_owned(),
            "operand" => names.operand(),
            "virsh" => names.virsh(),
            "edit" => names.edit(),
            "check" => names.check(),
            "fixup" => names.fixup(options),
            "virt-xml" => names.virt_xml(options),
            "viewer" => names.viewer(),
            "device" => named("DEVICE", &|id| id.to_string()),
            "nodedev" => named("NODE-DEVICE", &|id| match about.entry(id) {
                Some(entry) => entry.nodedev.clone(),
                None => name_of(id, None),
            }),
            "start" => match device {
                Some(DeviceId::Mdev(uuid)) => format!("sudo mdevctl start --uuid {uuid}"),
                Some(DeviceId::Pci(_)) => {
                    "lspci -D # shows whether the device has another address now".into()
                }
                None => "gfxplane list # shows which devices are active".into(),
            },
            "allow_dbus_daemon" => ALLOW_DBUS_DAEMON.into(),
            "spice_gl_over_tcp" => SPICE_GL_OVER_TCP.since().to_string(),
            "vnc_binds" => VNC_BINDS.since().to_string(),
            "opregion_by_default" => OPREGION_BY_DEFAULT.since().to_string(),
            number => {
                let place: Option<usize> = number.parse().ok();
                let text = place.and_then(|place| about.found.filled_in.get(place));
                text.cloned().unwrap_or_default()
            }
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
    use super::super::messages::{Remedy, SYMPTOMS, Symptom, Wording};

    /// Returns each symptom with its texts: the causes and the fixes, under all conditions.
    fn texts() -> impl Iterator<Item = (&'static String, &'static Symptom, &'static str)> {
        SYMPTOMS.iter().flat_map(|(name, symptom)| {
            let cases = symptom.when.iter().map(|case| (&case.cause, &case.fixes));
            let cases = [(&symptom.cause, &symptom.fixes)].into_iter().chain(cases);
            let texts = cases.flat_map(move |(cause, fixes)| {
                assert!(!cause.is_empty() && !fixes.is_empty(), "{name}");
                let fixes = fixes.iter().map(Remedy::text);
                std::iter::once(cause.as_str()).chain(fixes)
            });
            texts.map(move |text| (name, symptom, text))
        })
    }

    /// Returns the remedies of all symptoms, under all conditions.
    fn remedies() -> impl Iterator<Item = &'static Remedy> {
        SYMPTOMS.values().flat_map(|symptom| {
            let cases = symptom.when.iter().flat_map(|case| &case.fixes);
            symptom.fixes.iter().chain(cases)
        })
    }

    #[test]
    fn every_text_is_whole_and_every_name_means_something() {
        let names = "domain operand virsh edit check fixup virt-xml viewer device nodedev start allow_dbus_daemon spice_gl_over_tcp vnc_binds opregion_by_default";
        for (name, symptom, text) in texts() {
            for part in text.split('{').skip(1) {
                let place = part.split_once('}').map_or("", |(place, _)| place);
                let value = place.split(' ').next().unwrap_or_default();
                // Each message of the symptom must have a `*` for this number.
                let fills = |said: &Wording| {
                    let stars = said.words.matches('*').count();
                    value.parse().is_ok_and(|place: usize| place < stars)
                };
                let is_name = names.split(' ').any(|name| name == value);
                let known = is_name || symptom.said.iter().all(fills);
                assert!(known, "{name}: {text}");
            }
            assert!(!symptom.said.is_empty(), "{name}");
        }
    }

    /// The programs that need root. A program with a verb needs root for that verb alone.
    const ROOT: &str = "/usr/lib/nvidia/sriov-manage, apt, dmesg, dnf, fuser, gfxplane doctor, gfxplane probe, grubby, install, journalctl, \
         lsof, lspci -vv, lspci -vvs, mdevctl define, mdevctl modify, mdevctl start, mdevctl stop, \
         mkdir, modprobe, prlimit, sed, sh, ss, systemctl, systemd-tmpfiles, tee";

    /// The programs that do not need root.
    const ANYBODY: &str = "{allow_dbus_daemon}, {check}, {edit}, {fixup, {fixup}, {start}, {viewer}, {virsh}, \
         {virt-xml, RUST_LOG=debug, cat, dkms, echo, eglinfo, gfxplane, grep, kubectl, looking-glass-client, \
         ls, lspci, lxc, mdevctl, modinfo, nvidia-smi, printf, qemu-rdp, qemu-system-x86_64, systemctl status";

    /// The programs whose `sudo` is not checked.
    const ELSEWHERE: &str = "sleep, tail, update-grub, update-initramfs, virsh, xhost";

    #[test]
    fn a_command_is_one_and_has_sudo_where_it_needs_root() {
        for remedy in remedies() {
            let (Remedy::Command(whole) | Remedy::Advice(whole)) = remedy;
            // Whoever wrote the message, such as a guest, could put a command there.
            let is_number = |rest: &str| rest.starts_with(|c: char| c.is_ascii_digit());
            assert!(!whole.split('{').skip(1).any(is_number), "{whole}");
            let text = match remedy {
                Remedy::Command(text) => text.split(" # ").next().unwrap_or_default(),
                Remedy::Advice(text) => {
                    assert!(!text.contains('#') && !text.starts_with('{'), "{text}");
                    continue;
                }
            };
            for part in text.replace(" && ", " | ").split(" | ") {
                let (is_root, part) = match part.strip_prefix("sudo ") {
                    Some(rest) => (true, rest),
                    None => (false, part),
                };
                let mut words = part.split(' ');
                let program = words.next().unwrap_or_default();
                let verb = format!("{program} {}", words.next().unwrap_or_default());
                let is_in = |list: &str, name: &str| list.split(", ").any(|one| one == name);
                let find = |name: &str| {
                    is_in(ROOT, name)
                        .then_some(true)
                        .or(is_in(ANYBODY, name).then_some(false))
                };
                let Some(needs_root) = find(&verb).or_else(|| find(program)) else {
                    assert!(is_in(ELSEWHERE, program), "no command: {part} ({text})");
                    continue;
                };
                // A file may be readable only by root.
                let reads = ["cat", "grep"].contains(&program);
                assert!(is_root == needs_root || is_root && reads, "{part} ({text})");
            }
        }
    }
}
