//! A domain's XML, fixed: text in, plan and text out.

use crate::abilities::Abilities;
use crate::domain::{Domain, NotADomain};
use crate::names::DeviceId;
use crate::plan::edits::edits;
use crate::plan::{Plan, plan};
use crate::policy::{BadPolicy, Policy, Wishes};
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

/// Fixes a domain. `policy` is the host's; the domain's own wishes and then `wishes` go over it.
///
/// # Errors
/// [`Unfit`], with the place.
pub fn fix(
    text: &str,
    surroundings: &dyn Surroundings,
    policy: &Policy,
    wishes: &Wishes,
) -> Result<Fixed, Unfit> {
    let document = Document::parse(text)?;
    let domain = Domain::new(&document)?;
    let policy = policy.clone().for_domain(&domain)?.with(wishes);
    if !domain.is_qemu() || domain.hostdevs.is_empty() {
        return Ok(Fixed {
            name: domain.name,
            plan: None,
            text: text.into(),
        });
    }
    let abilities = surroundings.abilities(&domain);
    let known = |id| surroundings.known(id);
    let screens = Screens::of(
        &domain,
        &known,
        abilities.spice_listen.as_deref(),
        abilities.vnc_listen.as_deref(),
    );
    let plan = plan(&domain, &screens, &abilities, &policy);
    let text = document.apply(&edits(&domain, &plan.changes));
    Ok(Fixed {
        name: domain.name,
        plan: Some(plan),
        text,
    })
}
