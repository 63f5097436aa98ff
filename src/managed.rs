//! Guests of other managers, whose graphics can't be changed: what the hooks of KubeVirt and oVirt do
//! to a domain's XML. Text in, plan and text out, as [`crate::fixup`] has it.

pub mod kubevirt;

use crate::domain::Hostdev;
use crate::fixup::{Fixed, Surroundings, Unfit, in_rounds};
pub use crate::plan::Wish;
use crate::plan::{Cure, Level, Plan, plan_managed, words};
use crate::policy::{Policy, Wishes};

/// Makes the displays of a domain's vfio devices work with its graphics as they are, or switches them
/// off ([`plan_managed`]). `policy` is the host's: with `display = "off"` nothing is done. `wish` tells
/// what the manager wants of each device.
///
/// # Errors
/// [`Unfit`], with the place.
pub fn adapt(
    text: &str,
    surroundings: &dyn Surroundings,
    policy: &Policy,
    wish: &dyn Fn(&Hostdev<'_, '_>) -> Wish,
) -> Result<Fixed, Unfit> {
    in_rounds(
        text,
        surroundings,
        policy,
        &Wishes::default(),
        &|domain, screens, abilities, policy| {
            plan_managed(domain, screens, abilities, policy, wish)
        },
    )
}

/// What oVirt wants: what its engine wrote. It asks for the display of every mediated device that is
/// not set to have none (ovirt-engine LibvirtVmXmlBuilder, `nodisplay`).
#[must_use]
pub fn ovirt_wish(_: &Hostdev<'_, '_>) -> Wish {
    Wish::AsWritten
}

/// What was done and what wasn't, a line for each, for a manager's log.
#[must_use]
pub fn lines(plan: &Plan) -> Vec<String> {
    let changes = plan
        .changes
        .iter()
        .map(|change| format!("{}: {}", words(&change.action), change.reason));
    let notes = plan.notes.iter().map(|note| {
        let level = match note.level {
            Level::Info => "",
            Level::Warn => "warning: ",
            Level::Fail => "error: ",
        };
        let cures = match &note.cures[..] {
            [] => String::new(),
            cures => {
                let cures: Vec<String> = cures.iter().map(Cure::to_string).collect();
                format!(" (what helps: {})", cures.join("; or "))
            }
        };
        format!("{level}{}: {}{cures}", note.about, note.text)
    });
    changes.chain(notes).collect()
}
