//! Fixes a domain's XML: the input is the text, the output is the plan and the new text.

use std::cell::{OnceCell, RefCell};
use std::collections::{BTreeMap, HashSet};

use uuid::Uuid;

use crate::device::id::DeviceId;
use crate::domain::Domain;
use crate::domain::policy::{Displays, Policy, Wishes};
use crate::plan::edits::{How, edits};
use crate::plan::{Level, Note, Plan, Topic, plan};
use crate::predict::abilities::Abilities;
use crate::predict::arguments::{Arguments, Device};
use crate::predict::screens::{Known, Screens};
use crate::predict::versions::reads_override;
use crate::xml::{Document, XmlError};

/// The source of what a fix needs to know about the host. A fix calls it only for domains with vfio
/// devices, and only for these devices.
pub trait Surroundings {
    /// Returns what is known about a device.
    fn known(&self, device: DeviceId) -> Known;
    /// Returns the abilities of libvirt, and of the QEMU that will run the domain.
    fn abilities(&self, domain: &Domain<'_, '_>) -> Abilities;
}

/// The error for a text that can't be fixed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// The text is not well-formed, is not a domain, or has XML or a policy that gfxplane refuses.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// The domain has no type. libvirt refuses it with "missing domain type attribute".
    #[error("the domain has no type, so libvirt refuses it: write <domain type='kvm'>")]
    NoType,
}

/// The result of fixing a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// The domain's name; `None` if the XML has none.
    pub name: Option<String>,
    /// The domain's UUID; `None` if the XML has none.
    pub uuid: Option<Uuid>,
    /// The plan. `None` if QEMU does not run the domain, or if the domain has no vfio devices:
    /// then nothing was looked up or changed.
    pub plan: Option<Plan>,
    /// The domain's type, such as `xen`, if the domain has vfio devices and QEMU does not run it.
    pub foreign: Option<String>,
    /// The XML after the fix; the same text as before if the plan has no changes.
    pub text: String,
}

impl Fixed {
    /// Returns the message about a domain that QEMU does not run; `None` if `foreign` is `None`.
    pub(crate) fn foreign_words(&self) -> Option<String> {
        let kind = self.foreign.as_ref()?;
        Some(format!(
            "not looked at: a domain of type '{kind}' is not QEMU's"
        ))
    }
}

/// Fixes a domain as a whole, or leaves it as it is.
///
/// If libvirt or QEMU would certainly refuse the domain even after all allowed changes, nothing is
/// changed, and the notes give the reason. A definition that is half fixed helps nobody, and a pipe
/// may pass it on to libvirt. A domain that starts gets each change that needs no consent, even if
/// another change lacks the user's consent.
///
/// The domain's own policy overrides `policy`, the host's policy, and `wishes` override both. If
/// another manager made the domain, `policy` manages only displays that are on already.
///
/// # Errors
/// [`Unfit`]; an [`Unfit::Xml`] has the place.
pub fn fix(
    text: &str,
    surroundings: &dyn Surroundings,
    policy: &Policy,
    wishes: &Wishes,
) -> Result<Fixed, Unfit> {
    in_rounds(text, surroundings, policy, wishes, &plan)
}

/// A function that makes the plan for a domain: [`plan`], or one for the guests of a manager.
pub(crate) type Planning<'m> = &'m dyn Fn(&Domain<'_, '_>, &Screens, &Abilities, &Policy) -> Plan;

/// Plans and edits in rounds until no changes are left. After the first round, at most
/// [`MOST_ROUNDS`] more follow. Returns the text unchanged if the domain would certainly still be
/// refused.
pub(crate) fn in_rounds(
    text: &str,
    surroundings: &dyn Surroundings,
    policy: &Policy,
    wishes: &Wishes,
    plan: Planning<'_>,
) -> Result<Fixed, Unfit> {
    let known = Remembering::new(surroundings);
    let once = |text: &str, wishes: &Wishes| once(text, &known, policy, wishes, plan);
    let mut fixed = once(text, wishes)?;
    // One change may make another possible. Both are made now, so that a second run changes
    // nothing.
    for _ in 0..MOST_ROUNDS {
        let Some(made) = fixed.plan.as_mut().filter(|plan| !plan.is_empty()) else {
            break;
        };
        let again = once(&fixed.text, wishes)?;
        let Some(next) = again.plan.filter(|next| !next.is_empty()) else {
            break;
        };
        fixed.text = again.text;
        made.changes.extend(next.changes);
        made.notes = next.notes;
        made.after = next.after;
        made.screens = next.screens;
    }
    let is_refused = |plan: &Plan| plan.after.refusal().is_some() && !plan.is_empty();
    if !fixed.plan.as_ref().is_some_and(is_refused) {
        return Ok(fixed);
    }
    let notes = fixed.plan.map(|plan| plan.notes).unwrap_or_default();
    let hands_off = Wishes {
        display: Some(Displays::Off),
        ..wishes.clone()
    };
    let mut whole = once(text, &hands_off)?;
    if let Some(plan) = &mut whole.plan {
        let is_why = |note: &Note| {
            note.topic == Topic::Start || note.consent.is_some() || note.level > Level::Info
        };
        let why = notes.into_iter().filter(is_why);
        let others = std::mem::take(&mut plan.notes).into_iter();
        plan.notes.extend(why);
        let mut known: HashSet<Note> = plan.notes.iter().cloned().collect();
        let others = others.filter(|note| note.topic != Topic::Start);
        let new = others.filter(|note| known.insert(note.clone()));
        plan.notes.extend(new);
    }
    Ok(whole)
}

/// The greatest number of rounds after the first. No domain is known to need so many.
const MOST_ROUNDS: usize = 4;

/// The [`Surroundings`] of one domain. They remember each answer and look up nothing twice.
pub struct Remembering<'s> {
    surroundings: &'s dyn Surroundings,
    devices: RefCell<BTreeMap<DeviceId, Known>>,
    abilities: OnceCell<Abilities>,
}

impl<'s> Remembering<'s> {
    /// Wraps `surroundings`. Nothing is looked up yet.
    pub fn new(surroundings: &'s dyn Surroundings) -> Self {
        Remembering {
            surroundings,
            devices: RefCell::default(),
            abilities: OnceCell::new(),
        }
    }
}

impl Surroundings for Remembering<'_> {
    fn known(&self, device: DeviceId) -> Known {
        let mut devices = self.devices.borrow_mut();
        let known = devices
            .entry(device)
            .or_insert_with(|| self.surroundings.known(device));
        known.clone()
    }

    fn abilities(&self, domain: &Domain<'_, '_>) -> Abilities {
        let found = || self.surroundings.abilities(domain);
        self.abilities.get_or_init(found).clone()
    }
}

fn once(
    text: &str,
    surroundings: &dyn Surroundings,
    policy: &Policy,
    wishes: &Wishes,
    plan: Planning<'_>,
) -> Result<Fixed, Unfit> {
    let document = Document::parse(text)?;
    let domain = Domain::new(&document)?;
    let policy = policy.clone().for_domain(&domain)?.with(wishes);
    let own = || Arguments::read(domain.arguments.iter().map(|a| a.value.as_str()));
    let has_none = domain.hostdevs.is_empty()
        && !domain.has_unread_hostdev()
        && !own().devices.iter().any(Device::is_vfio);
    if domain.virt_type.is_empty() && !has_none {
        return Err(Unfit::NoType);
    }
    if !domain.is_qemu() || has_none {
        return Ok(Fixed {
            foreign: (!domain.is_qemu() && !has_none).then(|| domain.virt_type.clone()),
            name: domain.name,
            uuid: domain.uuid,
            plan: None,
            text: text.into(),
        });
    }
    let abilities = surroundings.abilities(&domain);
    let known = |id| surroundings.known(id);
    let screens = Screens::of(&domain, &known, &abilities);
    let plan = plan(&domain, &screens, &abilities, &policy);
    let how = How {
        keep_aliases: !screens.live_settings.is_empty(),
        no_override: reads_override(&abilities) == Some(false),
    };
    let text = document.apply(&edits(&domain, &plan.changes, how));
    Ok(Fixed {
        name: domain.name,
        uuid: domain.uuid,
        plan: Some(plan),
        foreign: None,
        text,
    })
}
