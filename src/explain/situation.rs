//! Finds the prediction and the fix for the domain that a message is about.

use std::collections::BTreeSet;

use crate::domain::Domain;
use crate::domain::policy::{Consent, Displays, Policy, Wishes};
use crate::plan::commands::Names;
use crate::plan::fixup::{Surroundings, Unfit, fix};
use crate::plan::{Plan, words};
use crate::predict::Outcome;
use crate::xml::Document;

/// A domain that a message is about, with the prediction and the fix for it.
#[derive(Debug, Clone)]
pub struct Situation {
    /// The domain's name or, without one, the file that the user typed.
    pub name: String,
    /// The plan with `display = "off"`: it has no changes, but the prediction for the domain as it
    /// is. `None` if the domain has no vfio devices, or if QEMU does not run it.
    pub plan: Option<Plan>,
    /// The fix by `gfxplane fixup`; `None` if no change helps.
    pub fixed: Option<Fixed>,
    /// The commands for the fixes that only the user can make; empty if `fixed` is not `None`.
    pub fixes: Vec<String>,
}

/// A fix of a domain that `gfxplane fixup` makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fixed {
    /// The command that makes the fix.
    pub command: String,
    /// The changes that the fix makes, with their reasons.
    pub changes: Vec<String>,
    /// The consents that the fix needs.
    pub loses: BTreeSet<Consent>,
    /// The domain's XML before the fix.
    pub before: String,
    /// The domain's XML after the fix.
    pub after: String,
}

impl Situation {
    /// Finds the prediction and the fix for a domain. `text`: the domain's XML. `policy`: the
    /// host's policy. `names`: the domain's names in commands.
    ///
    /// # Errors
    /// [`Unfit`] if the XML can't be read, or if the domain has vfio devices and no type.
    pub fn of(
        text: &str,
        surroundings: &dyn Surroundings,
        policy: &Policy,
        names: &Names,
    ) -> Result<Self, Unfit> {
        let as_it_is = fix(text, surroundings, policy, &Wishes::as_it_is())?;
        let own = {
            let document = Document::parse(text)?;
            policy.clone().for_domain(&Domain::new(&document)?)?
        };
        let is_off = own.display == Displays::Off;
        let asked = Wishes {
            display: is_off.then_some(Displays::Asked),
            ..Wishes::default()
        };
        let agreed = Wishes {
            consent: Some([Consent::Remote, Consent::Video].into()),
            ..asked.clone()
        };
        let mut fixed = None;
        let mut fixes: Vec<String> = Vec::new();
        for wishes in [&asked, &agreed] {
            let better = fix(text, surroundings, policy, wishes)?;
            let Some(plan) = better.plan else { break };
            let refused = matches!(plan.after.outcome, Outcome::No(_));
            if plan.is_empty() || refused {
                let notes = plan.notes.iter().flat_map(|note| &note.fixes);
                let said = notes.map(|fix| names.command(fix));
                let new: Vec<String> = said.filter(|fix| !fixes.contains(fix)).collect();
                fixes.extend(new);
                continue;
            }
            let policy = if is_off { "--policy asked" } else { "" };
            fixed = Some(fixed_by(&plan, policy, names, text, better.text));
            break;
        }
        Ok(Situation {
            name: as_it_is.name.unwrap_or_else(|| names.typed().to_owned()),
            plan: as_it_is.plan,
            // If there is a fix, the earlier advice is incomplete.
            fixes: if fixed.is_some() { Vec::new() } else { fixes },
            fixed,
        })
    }
}

/// Describes the fix that a plan makes. `policy` is the option of `gfxplane fixup` that names the
/// plan's policy; empty if no option is needed. `before` and `after` are the domain's XML.
fn fixed_by(plan: &Plan, policy: &str, names: &Names, before: &str, after: String) -> Fixed {
    let changes = plan.changes.iter();
    let loses: BTreeSet<Consent> = changes
        .clone()
        .filter_map(|change| change.consent)
        .collect();
    let consent: Vec<String> = loses.iter().map(ToString::to_string).collect();
    let consent = match &consent[..] {
        [] => String::new(),
        all => format!(" --consent {}", all.join(",")),
    };
    Fixed {
        command: names.fixup(&format!("{policy}{consent}")),
        changes: changes
            .map(|change| format!("{}: {}", words(&change.action), change.reason))
            .collect(),
        loses,
        before: before.to_owned(),
        after,
    }
}
