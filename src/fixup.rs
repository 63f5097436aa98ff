//! A domain's XML, fixed: text in, plan and text out.

use std::cell::{OnceCell, RefCell};
use std::collections::BTreeMap;

use crate::abilities::Abilities;
use crate::arguments::{Arguments, Device};
use crate::domain::{Domain, NotADomain};
use crate::names::DeviceId;
use crate::plan::edits::{How, edits};
use crate::plan::{Level, Note, Plan, Topic, plan};
use crate::policy::{BadPolicy, Displays, Policy, Wishes};
use crate::predict::versions::reads_override;
use crate::screens::{Known, Screens};
use crate::xml::{Document, XmlError};

/// What has to be found out about a domain's host. Asked only for domains that have vfio devices,
/// and only about these.
pub trait Surroundings {
    /// What is known of a device.
    fn known(&self, device: DeviceId) -> Known;
    /// What QEMU (the domain's emulator, if it names one) and libvirt can do.
    fn abilities(&self, domain: &Domain<'_, '_>) -> Abilities;
}

/// A text that can't be fixed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unfit {
    /// Not well-formed, or refused as XML.
    #[error(transparent)]
    Xml(#[from] XmlError),
    /// Not a domain.
    #[error(transparent)]
    NotADomain(#[from] NotADomain),
    /// Its own policy can't be read.
    #[error(transparent)]
    Policy(#[from] BadPolicy),
}

/// A domain, fixed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// The domain's name.
    pub name: Option<String>,
    /// What was planned; `None` for a domain that is none of QEMU's or has no vfio devices, of
    /// which nothing is known and nothing changed.
    pub plan: Option<Plan>,
    /// The XML afterwards.
    pub text: String,
}

/// Fixes a domain as a whole, or leaves it as it is. If it would be refused with all that may be changed, nothing is
/// changed, and the notes say what is in the way: a definition that is half mended helps nobody, and a pipe may
/// hand it to libvirt. A domain that starts gets each change that needs no consent, also where one for more
/// is missing.
///
/// `policy` is the host's; the domain's own wishes and then `wishes` go over it.
///
/// # Errors
/// [`Unfit`], with the place.
pub fn fix(
    text: &str,
    surroundings: &dyn Surroundings,
    policy: &Policy,
    wishes: &Wishes,
) -> Result<Fixed, Unfit> {
    in_rounds(text, surroundings, policy, wishes, &plan)
}

/// What makes the plan for a domain.
pub(crate) type Planning<'m> = &'m dyn Fn(&Domain<'_, '_>, &Screens, &Abilities, &Policy) -> Plan;

/// Plans and edits until there is nothing left to do.
///
/// # Errors
/// [`Unfit`], with the place.
pub(crate) fn in_rounds(
    text: &str,
    surroundings: &dyn Surroundings,
    policy: &Policy,
    wishes: &Wishes,
    plan: Planning<'_>,
) -> Result<Fixed, Unfit> {
    let known = Remembering {
        surroundings,
        devices: RefCell::default(),
        abilities: OnceCell::new(),
    };
    let mut fixed = once(text, &known, policy, wishes, plan)?;
    // What one change makes possible is done at once, not when somebody runs this again.
    for _ in 0..MOST_ROUNDS {
        let Some(made) = fixed.plan.as_mut().filter(|plan| !plan.is_empty()) else {
            break;
        };
        let again = once(&fixed.text, &known, policy, wishes, plan)?;
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
    let mut whole = once(text, &known, policy, &hands_off, plan)?;
    if let Some(plan) = &mut whole.plan {
        let is_why = |note: &Note| {
            note.topic == Topic::Start || note.consent.is_some() || note.level > Level::Info
        };
        let why = notes.into_iter().filter(is_why);
        let others = std::mem::take(&mut plan.notes).into_iter();
        plan.notes.extend(why);
        for note in others.filter(|note| note.topic != Topic::Start) {
            if !plan.notes.contains(&note) {
                plan.notes.push(note);
            }
        }
    }
    Ok(whole)
}

/// More than any domain needs.
const MOST_ROUNDS: usize = 4;

/// What was found out, so that nothing is looked at twice.
struct Remembering<'s> {
    surroundings: &'s dyn Surroundings,
    devices: RefCell<BTreeMap<DeviceId, Known>>,
    abilities: OnceCell<Abilities>,
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
    let has_none = || domain.hostdevs.is_empty() && !own().devices.iter().any(Device::is_vfio);
    if !domain.is_qemu() || has_none() {
        return Ok(Fixed {
            name: domain.name,
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
        plan: Some(plan),
        text,
    })
}
