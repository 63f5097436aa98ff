//! The decisions of the qemu hook (libvirt docs/hooks.rst). A [`Verdict`] follows from the domain's
//! XML and the facts about its host.
//!
//! * At `prepare` libvirt is about to start the domain. [`start`] vetoes the start only if measured
//!   facts show that every version of QEMU refuses the domain. The veto then only replaces QEMU's
//!   own refusal, and names the fix. A less certain refusal becomes a line in the journal.
//! * At `migrate` and `restore` libvirt uses the hook's output as the domain's XML. [`incoming`]
//!   changes only what libvirt accepts at that point: it compares the guest's hardware with the
//!   saved one (src/conf/domain_conf.c, `virDomainDefCheckABIStability`), but not graphics and not
//!   `display`.
//!
//! With the host's setting `hook = "warn"`, the hook only writes to the journal; with `"off"`, it
//! decides nothing. The start of a domain whose policy is `display = "off"` is vetoed all the same,
//! because QEMU would refuse it, too. If the domain's policy can't be read, the start is never
//! vetoed.

use std::collections::{BTreeSet, HashSet};

use serde::Deserialize;

use crate::device::facts::{Display, Reason};
use crate::device::id::{DeviceId, from_word};
use crate::domain::policy::{BootDisplay, Consent, Displays, EmulatedVideo, Guest, Policy, Wishes};
use crate::domain::shell::{LONGEST_NAME, operand, plain};
use crate::domain::{Domain, Switch};
use crate::host::config::{Config, HookMode};
use crate::plan::edits::{How, edits};
use crate::plan::fixup::{Surroundings, fix};
use crate::plan::trial;
use crate::plan::{Action, plan, words};
use crate::predict::abilities::Abilities;
use crate::predict::arguments::Arguments;
use crate::predict::qemu_messages::NEEDS_KVM;
use crate::predict::screens::{Found, Known, Screens, Vgpu};
use crate::predict::versions::reads_override;
use crate::predict::{About, Outcome, Program, Refusal, predict};
use crate::xml::Document;

/// An operation of libvirt's in which the hook has something to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Operation {
    /// libvirt is about to start the domain.
    Prepare,
    /// The domain has ended, or its start has failed.
    Release,
    /// libvirt accepts a domain that migrates from another host.
    Migrate,
    /// libvirt restores a saved domain.
    Restore,
}

impl Operation {
    /// Reads libvirt's name of an operation (src/util/virhook.c, `virHookQemuOp`); `None` for any
    /// other operation.
    pub fn parse(word: &str) -> Option<Self> {
        from_word(word)
    }
}

/// Where the domain's definition is kept, which decides about the command that the hook names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Definition {
    /// libvirt has the definition, or it is not known who has it.
    Persistent,
    /// Only the program that starts the domain has the definition (`virsh create`).
    Transient,
}

/// The hook's decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The hook does nothing.
    Nothing,
    /// The hook writes this line to the journal.
    Warn(String),
    /// The hook stops the start. The user sees the reason and the command.
    Veto {
        /// The reason for the veto.
        why: String,
        /// The command that fixes the domain.
        fix: String,
    },
    /// The hook prints another XML for libvirt to use, and writes a line to the journal.
    Rewrite {
        /// The whole new XML.
        text: String,
        /// The line about the changes.
        line: String,
    },
}

/// Returns the vfio devices of a domain. Empty for a domain that does not concern the hook: QEMU
/// does not run it, or gfxplane made it for a trial.
pub fn devices(domain: &Domain<'_, '_>) -> BTreeSet<DeviceId> {
    let is_ours = domain.name.as_deref().is_some_and(trial::is_name);
    if is_ours || !domain.is_qemu() {
        return BTreeSet::new();
    }
    domain.hostdevs.iter().map(|hostdev| hostdev.id).collect()
}

/// Decides whether a domain may start: never returns [`Verdict::Rewrite`]. `text` is the domain's
/// XML.
pub fn start(
    text: &str,
    domain: &Domain<'_, '_>,
    surroundings: &dyn Surroundings,
    config: &Config,
    definition: Definition,
) -> Verdict {
    if config.hook == HookMode::Off || devices(domain).is_empty() || !has_a_wish(domain) {
        return Verdict::Nothing;
    }
    let of_host = |abilities: &Abilities| screens(domain, surroundings, abilities);
    let screens = of_host(&Abilities::default());
    if predict(&cautious(&screens), &Abilities::default()).starts() {
        return Verdict::Nothing;
    }
    let abilities = surroundings.abilities(domain);
    let certain = certain(&screens, &abilities);
    let (refusal, doubt) = match certain.clone() {
        Some(refusal) => (refusal, None),
        None => match refused(&of_host(&abilities), &abilities) {
            Some(refused) => refused,
            None => return Verdict::Nothing,
        },
    };
    // libvirt itself has already checked and accepted the domain.
    if refusal.by() == Program::Libvirt {
        return Verdict::Nothing;
    }
    let report = Report {
        domain,
        definition,
        refusal: &refusal,
        screens: &screens,
    };
    if let Err(problem) = config.policy.clone().for_domain(domain) {
        let refused = report.refused(doubt.as_deref());
        return Verdict::Warn(plain(&format!(
            "{}: {refused}; its policy can't be read: {problem}",
            report.title()
        )));
    }
    let fixes = report.fixes(text, surroundings, &config.policy);
    let (title, refused) = (report.title(), report.refused(doubt.as_deref()));
    if certain.is_some() && config.hook == HookMode::Enforce {
        Verdict::Veto {
            why: plain(&format!("{title} is not started: {refused}")),
            fix: plain(&format!("type: {fixes}")),
        }
    } else {
        Verdict::Warn(plain(&format!("{title}: {refused}; to fix it: {fixes}")))
    }
}

/// Decides whether to change the XML of a domain that comes from another host or was saved: never
/// returns [`Verdict::Veto`]. `document` and `domain` are views of that XML.
pub fn incoming(
    document: &Document<'_>,
    domain: &Domain<'_, '_>,
    surroundings: &dyn Surroundings,
    config: &Config,
) -> Verdict {
    if config.hook == HookMode::Off || devices(domain).is_empty() || !has_a_wish(domain) {
        return Verdict::Nothing;
    }
    let abilities = surroundings.abilities(domain);
    let before = screens(domain, surroundings, &abilities);
    let Some((refusal, doubt)) = refused(&before, &abilities) else {
        return Verdict::Nothing;
    };
    let report = Report {
        domain,
        definition: Definition::Persistent,
        refusal: &refusal,
        screens: &before,
    };
    let title = report.title();
    let refused = report.refused(doubt.as_deref());
    let warn = |why: &str| Verdict::Warn(plain(&format!("{title}: {refused}{why}")));
    let policy = match config.policy.clone().for_domain(domain) {
        Ok(policy) => unasked(policy),
        Err(problem) => return warn(&format!("; its policy can't be read: {problem}")),
    };
    if policy.display == Displays::Off || config.hook == HookMode::Warn {
        return warn("");
    }
    let plan = plan(domain, &before, &abilities, &policy);
    let changes: Vec<_> = plan
        .changes
        .into_iter()
        .filter(|change| may_pass(&change.action))
        .collect();
    let how = How {
        keep_aliases: true,
        no_override: reads_override(&abilities) == Some(false),
    };
    let text = document.apply(&edits(domain, &changes, how));
    let is_mended = Document::parse(&text).is_ok_and(|document| {
        Domain::new(&document).is_ok_and(|domain| {
            predict(&screens(&domain, surroundings, &abilities), &abilities).starts()
        })
    });
    if changes.is_empty() || !is_mended {
        return warn("; no change that is allowed here is known to help");
    }
    let what: Vec<String> = changes.iter().map(|change| words(&change.action)).collect();
    let what = what.join(", ");
    Verdict::Rewrite {
        text,
        line: plain(&format!(
            "{title} was changed: {what}; without that, {refused}"
        )),
    }
}

/// Returns the policy for changes that nobody has asked for and that must not touch the hardware.
fn unasked(policy: Policy) -> Policy {
    Policy {
        display: policy.display.min(Displays::Asked),
        video: EmulatedVideo::Keep,
        boot_display: BootDisplay::Keep,
        guest: Some(Guest::Other),
        ..policy
    }
}

/// Returns whether libvirt accepts this change when a domain is migrated or restored, and the guest
/// can't notice it. Returns `false` for changes that add or remove graphics, which are left to the
/// domain's owner.
fn may_pass(action: &Action) -> bool {
    matches!(
        action,
        Action::Gl { .. }
            | Action::RenderNode { .. }
            | Action::ListenNone { .. }
            | Action::Display { .. }
    )
}

/// Returns whether the domain switches on the display or ramfb of a vfio device, overrides its
/// properties, or has its own arguments for QEMU. In other domains, QEMU asks no device for a
/// display.
fn has_a_wish(domain: &Domain<'_, '_>) -> bool {
    let on = |switch: Option<Switch>| switch == Some(Switch::On);
    let aliases = domain.properties.iter().map(|p| p.alias.as_str());
    let aliases: HashSet<&str> = aliases.collect();
    let said = |alias: &str| aliases.contains(alias);
    let wishes = |hostdev: &crate::domain::Hostdev<'_, '_>| {
        on(hostdev.display) || on(hostdev.ramfb) || said(&hostdev.alias)
    };
    domain.hostdevs.iter().any(wishes) || !domain.arguments.is_empty()
}

fn screens(
    domain: &Domain<'_, '_>,
    surroundings: &dyn Surroundings,
    abilities: &Abilities,
) -> Screens {
    Screens::of(domain, &|id| surroundings.known(id), abilities)
}

/// Returns why the domain is, or may be, refused; `None` if it starts. If this is in doubt, also
/// returns the unknown fact on which it depends.
fn refused(screens: &Screens, abilities: &Abilities) -> Option<(Refusal, Option<String>)> {
    let outcome = predict(screens, abilities).outcome;
    let (refusal, because) = outcome.refused()?;
    Some((refusal.clone(), because.map(str::to_owned)))
}

/// Returns the screens as if nothing were known about the devices that were not measured.
fn cautious(screens: &Screens) -> Screens {
    let mut cautious = screens.clone();
    for vgpu in &mut cautious.vgpus {
        if !vgpu.known.is_measured() {
            vgpu.known = Known::nothing(Reason::NotProbed);
        }
    }
    cautious
}

/// Returns the refusal that is certain; `None` if there is none. It is one that every version of
/// QEMU gives, about a device whose display was measured, whatever displays the other devices have.
/// If the domain has arguments of its own for QEMU, nothing is certain. Of the host's `abilities`,
/// only libvirt's version counts, because libvirt reads the XML.
fn certain(screens: &Screens, abilities: &Abilities) -> Option<Refusal> {
    // The effect of the user's own arguments is not known well enough to veto a start.
    if screens.arguments != Arguments::default() {
        return None;
    }
    let abilities = Abilities {
        libvirt: abilities.libvirt.clone(),
        ..Abilities::default()
    };
    let always = |screens: &Screens| match predict(screens, &abilities).outcome {
        Outcome::No(refusal) if refusal.by() == Program::Qemu && refusal.always => Some(refusal),
        _ => None,
    };
    let mut measured = cautious(screens);
    let mut refusal = always(&measured)?;
    if !measured.vgpus.iter().all(|vgpu| vgpu.known.is_measured()) {
        // The refusal may have been about one of the other devices.
        measured.vgpus.retain(|vgpu| vgpu.known.is_measured());
        refusal = always(&measured)?;
    }
    Some(refusal).filter(|refusal| matches!(refusal.about, About::Device(_)))
}

/// A refusal, with the domain and the screens to describe it.
struct Report<'r, 'd, 'a> {
    domain: &'r Domain<'d, 'a>,
    definition: Definition,
    refusal: &'r Refusal,
    screens: &'r Screens,
}

impl Report<'_, '_, '_> {
    fn title(&self) -> String {
        let name = self.domain.name.as_deref();
        let name = name.filter(|name| !name.is_empty() && name.len() <= LONGEST_NAME);
        match (name, self.domain.uuid) {
            (Some(name), _) => format!("domain {name}"),
            (None, Some(uuid)) => format!("domain {uuid}"),
            (None, None) => "the domain".into(),
        }
    }

    /// Describes the refusal: the program that refuses, the subject, the message and the reason.
    /// `doubt` is the reason why the refusal is uncertain; `None` if it is certain.
    fn refused(&self, doubt: Option<&str>) -> String {
        let Refusal { about, message, .. } = self.refusal;
        let by = self.refusal.by().word();
        let what = match about {
            About::Domain => "it".to_owned(),
            other => other.to_string(),
        };
        match doubt {
            Some(because) => format!("{by} may refuse {what} (\"{message}\"): {because}"),
            None => {
                let is_it = |vgpu: &&Vgpu| *about == About::Device(vgpu.id);
                let vgpu = self.screens.vgpus.iter().find(is_it);
                let why = vgpu.map_or_else(String::new, |vgpu| why_refused(vgpu, message));
                format!("{by} would refuse {what} (\"{message}\"){why}")
            }
        }
    }

    /// Returns the commands that the user can type to fix the domain.
    fn fixes(&self, text: &str, surroundings: &dyn Surroundings, policy: &Policy) -> String {
        let own = policy.clone().for_domain(self.domain);
        let is_off = own.is_ok_and(|policy| policy.display == Displays::Off);
        let wishes = Wishes {
            display: is_off.then_some(Displays::Asked),
            ..Wishes::default()
        };
        let (asked, left_alone) = if is_off {
            let said = "; its own policy is display=\"off\", which the command overrules";
            (" --policy asked", said)
        } else {
            ("", "")
        };
        if fixes(text, surroundings, policy, &wishes).is_some() {
            return format!("{}{left_alone}", self.command(asked));
        }
        let off = format!(
            "{} (the device then shows no screen)",
            self.command(" --no-display")
        );
        let agreed = Wishes {
            consent: Some([Consent::Remote, Consent::Video].into()),
            ..wishes
        };
        let Some(changes) = fixes(text, surroundings, policy, &agreed) else {
            return off;
        };
        let consents = changes.iter().filter_map(|change| change.consent);
        let consents: BTreeSet<String> = consents.map(|consent| consent.to_string()).collect();
        let consents = Vec::from_iter(consents).join(",");
        let command = self.command(&format!("{asked} --consent {consents}"));
        format!("{command} (the screen is then visible only on this host), or {off}{left_alone}")
    }

    fn command(&self, options: &str) -> String {
        match self.definition {
            Definition::Persistent => format!(
                "gfxplane fixup {} --define{options}",
                operand(self.domain.name.as_deref(), self.domain.uuid)
            ),
            Definition::Transient => format!(
                "gfxplane fixup FILE{options} > NEW.xml # FILE: the XML from which the domain is created"
            ),
        }
    }
}

/// Returns the changes after which the domain starts. `None` if it needs none, if the changes that
/// `wishes` allow are not enough, or if the domain or its policy can't be read.
fn fixes(
    text: &str,
    surroundings: &dyn Surroundings,
    policy: &Policy,
    wishes: &Wishes,
) -> Option<Vec<crate::plan::Change>> {
    let plan = fix(text, surroundings, policy, wishes).ok()?.plan?;
    (plan.after.starts() && !plan.is_empty()).then_some(plan.changes)
}

fn why_refused(vgpu: &Vgpu, message: &str) -> String {
    if message == NEEDS_KVM {
        return "; its driver opens it only for a KVM VM: <domain type='kvm'>".into();
    }
    let facts = &vgpu.known.finding.facts;
    let how = if vgpu.known.is_measured() {
        "measured"
    } else {
        "not measured"
    };
    // Only with this message is OpenGL missing. With others, graphics that can show dmabufs are.
    let needs = if message.contains("opengl") {
        ": the graphics need OpenGL for that"
    } else {
        ""
    };
    match vgpu.found()[..] {
        _ if facts.display == Display::Unknown(Reason::Untrusted) => format!(
            "; its driver says yes to every question, so QEMU takes its screen for a dmabuf{needs}"
        ),
        [Found::Dmabuf] => format!("; it hands over its screen as a dmabuf ({how}){needs}"),
        [Found::Nothing] => format!("; it has no display ({how})"),
        _ => String::new(),
    }
}
