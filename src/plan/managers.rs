//! Adapts guests of KubeVirt and oVirt, whose graphics must not change, for gfxplane's hooks. As in
//! [`crate::plan::fixup`], the input is the XML, and the output is the plan and the new XML.

pub mod kubevirt;

use crate::domain::Hostdev;
use crate::domain::policy::{Policy, Wishes};
use crate::plan::fixup::{Fixed, Surroundings, Unfit, in_rounds};
use crate::plan::{Fix, Level, Plan, plan_managed, words};

/// Makes the displays of a domain's vfio devices work with its graphics as they are, or switches
/// them off ([`plan_managed`]). Nothing is changed if the domain would certainly be refused even
/// then, or if the policy has `display = "off"`: the host's `policy` or the domain's own, which
/// overrides it. `is_wanted` returns whether the manager wants a device's display.
///
/// # Errors
/// [`Unfit`]; an [`Unfit::Xml`] has the place.
pub fn adapt(
    text: &str,
    surroundings: &dyn Surroundings,
    policy: &Policy,
    is_wanted: &dyn Fn(&Hostdev<'_, '_>) -> bool,
) -> Result<Fixed, Unfit> {
    in_rounds(
        text,
        surroundings,
        policy,
        &Wishes::default(),
        &|domain, screens, abilities, policy| {
            plan_managed(domain, screens, abilities, policy, is_wanted)
        },
    )
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
                format!(" (fix: {})", fixes.join("; or "))
            }
        };
        format!("{level}{}: {}{fixes}", note.about, note.text)
    });
    changes.chain(notes).collect()
}
