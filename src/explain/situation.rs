//! The domain that a message is about: what is predicted of it, and what would mend it.

use crate::domain::Domain;
use crate::domain::policy::{Consent, Displays, Policy, Wishes};
use crate::plan::fixup::{Surroundings, Unfit, fix};
use crate::plan::{Cure, Plan, words};
use crate::predict::Outcome;
use crate::xml::Document;

/// How the domain is named to `gfxplane fixup`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operand<'o> {
    /// One of libvirt's, as the user types it in a shell.
    Domain(&'o str),
    /// A file, likewise.
    File(&'o str),
}

/// A domain.
#[derive(Debug, Clone)]
pub struct Situation {
    /// Its name, or how it was named.
    pub name: String,
    /// What is planned for it as it is: nothing. `None` if it has no vfio devices.
    pub plan: Option<Plan>,
    /// What would mend it.
    pub mended: Option<Mended>,
    /// What the user can do where nothing does that by itself.
    pub cures: Vec<String>,
    /// What fills the place of the domain in a command; `None` for a file, which only `fixup` takes.
    pub operand: Option<String>,
}

/// What mends a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mended {
    /// What to type.
    pub command: String,
    /// What that changes, and why.
    pub changes: Vec<String>,
    /// What may be lost by it.
    pub loses: Vec<Consent>,
    /// The XML as it was.
    pub before: String,
    /// The XML afterwards.
    pub after: String,
}

impl Situation {
    /// Looks at a domain. `text`: its XML; `policy`: the host's.
    ///
    /// # Errors
    /// [`Unfit`]: it can't be read.
    pub fn of(
        text: &str,
        surroundings: &dyn Surroundings,
        policy: &Policy,
        operand: Operand<'_>,
    ) -> Result<Self, Unfit> {
        let left_alone = Wishes {
            display: Some(Displays::Off),
            ..Wishes::default()
        };
        let as_it_is = fix(text, surroundings, policy, &left_alone)?;
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
        let mut mended = None;
        let mut cures: Vec<String> = Vec::new();
        for wishes in [&asked, &agreed] {
            let fixed = fix(text, surroundings, policy, wishes)?;
            let Some(plan) = fixed.plan else { break };
            let refused = matches!(plan.after.outcome, Outcome::No(_));
            if plan.is_empty() || refused {
                let notes = plan.notes.iter().flat_map(|note| &note.cures);
                let said = notes.map(Cure::to_string);
                let new: Vec<String> = said.filter(|cure| !cures.contains(cure)).collect();
                cures.extend(new);
                continue;
            }
            let policy = if is_off { " --policy asked" } else { "" };
            mended = Some(mend(&plan, policy, operand, text, fixed.text));
            break;
        }
        let (Operand::Domain(typed) | Operand::File(typed)) = operand;
        Ok(Situation {
            name: as_it_is.name.unwrap_or_else(|| typed.to_owned()),
            plan: as_it_is.plan,
            // With something that mends it, what was said before is not all.
            cures: if mended.is_some() { Vec::new() } else { cures },
            mended,
            operand: matches!(operand, Operand::Domain(_)).then(|| typed.to_owned()),
        })
    }
}

fn mend(plan: &Plan, options: &str, operand: Operand<'_>, before: &str, after: String) -> Mended {
    let mut loses: Vec<Consent> = plan
        .changes
        .iter()
        .filter_map(|change| change.consent)
        .collect();
    loses.sort();
    loses.dedup();
    let consent: Vec<String> = loses.iter().map(ToString::to_string).collect();
    let consent = if consent.is_empty() {
        String::new()
    } else {
        format!(" --consent {}", consent.join(","))
    };
    let command = match operand {
        Operand::Domain(name) => format!("gfxplane fixup --define{options}{consent} {name}"),
        Operand::File(path) => format!("gfxplane fixup{options}{consent} {path} > NEW.xml"),
    };
    let changes = plan.changes.iter();
    Mended {
        command,
        changes: changes
            .map(|change| format!("{}: {}", words(&change.action), change.reason))
            .collect(),
        loses,
        before: before.to_owned(),
        after,
    }
}
