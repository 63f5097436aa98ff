//! Adapts guests of other managers, whose graphics must not change, for the hooks of KubeVirt and
//! oVirt. Text in, plan and text out, as in [`crate::plan::fixup`].

pub mod kubevirt;

use crate::domain::Hostdev;
use crate::domain::policy::{Policy, Wishes};
pub use crate::plan::Wish;
use crate::plan::fixup::{Fixed, Surroundings, Unfit, in_rounds};
use crate::plan::{Fix, Level, Plan, plan_managed, words};

/// Makes the displays of a domain's vfio devices work with the graphics that the domain has, or
/// switches the displays off ([`plan_managed`]). Leaves the graphics alone. `policy` is the host's;
/// if its `display` is `"off"`, the domain is not changed at all. `wish` returns what the manager
/// wants for each device.
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

/// Returns oVirt's wish: the display stays as the engine has written it. The engine switches on the
/// display of every mediated device that is not set to have none (ovirt-engine LibvirtVmXmlBuilder,
/// `nodisplay`).
pub fn ovirt_wish(_: &Hostdev<'_, '_>) -> Wish {
    Wish::AsWritten
}

/// Returns lines for a manager's log: one for each change, and one for each note.
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
        let fixes = match &note.fixes[..] {
            [] => String::new(),
            fixes => {
                let fixes: Vec<String> = fixes.iter().map(Fix::to_string).collect();
                format!(" (what helps: {})", fixes.join("; or "))
            }
        };
        format!("{level}{}: {}{fixes}", note.about, note.text)
    });
    changes.chain(notes).collect()
}
