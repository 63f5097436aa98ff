//! Decides what the daemon does about a domain. The decision follows from the definition and the
//! daemon's memory.
//!
//! The daemon makes the changes that `gfxplane fixup --define` would make, within these limits:
//! * It acts only if the result was seen to start ([`crate::libvirt::trial`]).
//! * It acts only if the result is not refused, no screen becomes invisible, and no viewer becomes
//!   able to end the guest.
//! * For a domain that is older than the package, the policy is `display = "asked"` at most.
//! * It touches the OpRegion only if the policy says that the guest is Windows.
//! * It makes the same plan at most twice, because an owner who undoes it twice does not want it.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::device::id::DeviceId;
use crate::domain::policy::{Guest, Policy, Wishes};
use crate::domain::{Domain, GraphicsType};
use crate::plan::fixup::{Fixed, Surroundings, Unfit, fix};
use crate::plan::{Action, Fix, Level, Note, Plan, words};
use crate::predict::{About, Danger, Head, Outcome};
use crate::xml::Document;

/// The number of times that the same plan is carried out. An owner who has undone it that often
/// does not want it.
pub(crate) const ROUNDS: u32 = 2;

/// The greatest number of different plans that are remembered for one domain.
const MOST_PLANS: usize = 16;

/// The daemon's memory of a domain, which lasts as long as the daemon runs. It contains no
/// definition, because definitions contain passwords.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    /// The plans that were carried out, each with the number of times. Emptied when the domain
    /// needs no change and its definition is not ours.
    done: Vec<(Vec<Action>, u32)>,
    /// The hash of our last definition, as libvirt wrote it.
    ours: Option<u64>,
    /// The hash of the definition whose change libvirt refused.
    refused: Option<u64>,
}

/// Returns a hash of a text, to recognize the text later without keeping it.
pub(crate) fn mark(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// Facts about a domain that are not in its definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Standing {
    /// True if the domain existed before the package and has not been changed since.
    pub is_older: bool,
    /// True if somebody has undone our changes (`gfxplane undo`).
    pub is_hands_off: bool,
}

/// The daemon's decision about a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// The domain has no vfio devices.
    NotOurs,
    /// The domain stays as it is, with the reason.
    Leave {
        /// True if QEMU would, or may, refuse the domain.
        is_bad: bool,
        /// True if somebody keeps undoing our changes.
        gave_up: bool,
        /// The reason, as notes for the journal.
        why: Vec<Note>,
    },
    /// The daemon defines this result.
    Act(Box<Fixed>),
}

/// Returns the policy for changes that nobody has asked for, made from the host's policy.
/// `is_older`: the domain is older than the package. A guest counts as Windows only if a policy
/// says so.
pub(crate) fn unasked(policy: &Policy, is_older: bool) -> Policy {
    let mut policy = policy.clone();
    if is_older {
        policy = policy.asked_only();
    }
    // libosinfo's metadata are not reason enough to give the guest a part of the host's graphics.
    policy.guest = policy.guest.or(Some(Guest::Other));
    policy
}

impl Memory {
    /// Decides about a definition. `policy` is the host's.
    ///
    /// # Errors
    /// The definition or its own policy can't be read.
    pub(crate) fn decide(
        &mut self,
        definition: &str,
        surroundings: &dyn Surroundings,
        policy: &Policy,
        standing: Standing,
    ) -> Result<Decision, Unfit> {
        let policy = unasked(policy, standing.is_older);
        let fixed = fix(definition, surroundings, &policy, &Wishes::default())?;
        let Some(plan) = &fixed.plan else {
            return Ok(Decision::NotOurs);
        };
        let is_bad = !plan.before.starts();
        let leave = |gave_up, why| {
            Ok(Decision::Leave {
                is_bad,
                gave_up,
                why,
            })
        };
        if plan.is_empty() || fixed.text == definition {
            // The domain is right without our help, so nobody insists on an old definition.
            if !is_bad && !self.has_made(definition) {
                self.done.clear();
            }
            let mut why = plan.notes.clone();
            if why.is_empty() {
                let text = "nothing to do: the domain matches its devices";
                why.push(Note::new(Level::Info, About::Domain, text));
            }
            return leave(false, why);
        }
        let problem = if standing.is_hands_off {
            Some("gfxplane's changes were undone; `gfxplane fixup --define` or `gfxplane policy` lets the daemon manage the domain again".into())
        } else {
            let refused = self.refused == Some(mark(definition));
            let refused = refused.then(|| "libvirt refused this change".to_owned());
            objection(plan).or(refused)
        };
        if let Some(problem) = problem {
            return leave(false, left_alone(&fixed, &problem));
        }
        if self.times(plan) >= ROUNDS {
            let problem = format!(
                "gfxplane made this change {ROUNDS} times, and somebody restored the old definition each time; `gfxplane fixup --define` makes it once more"
            );
            let mut why = left_alone(&fixed, &problem);
            why[0].fixes.push(Fix::Command {
                verb: "policy",
                options: "display=off".into(),
                reason: "keeps the old definition".into(),
            });
            return leave(true, why);
        }
        Ok(Decision::Act(Box::new(fixed)))
    }

    fn times(&self, plan: &Plan) -> u32 {
        let same = |(actions, _): &&(Vec<Action>, u32)| {
            actions.iter().eq(plan.changes.iter().map(|c| &c.action))
        };
        self.done.iter().find(same).map_or(0, |(_, times)| *times)
    }

    /// Counts that a plan was carried out.
    pub(crate) fn did(&mut self, plan: &Plan) {
        let actions: Vec<Action> = plan.changes.iter().map(|c| c.action.clone()).collect();
        match self.done.iter_mut().find(|(done, _)| *done == actions) {
            Some((_, times)) => *times += 1,
            None => {
                if self.done.len() == MOST_PLANS {
                    self.done.remove(0);
                }
                self.done.push((actions, 1));
            }
        }
    }

    /// Returns whether there is no plan to remember.
    pub(crate) fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    /// Notes our last definition, as libvirt wrote it.
    pub(crate) fn is_ours(&mut self, definition: &str) {
        self.ours = Some(mark(definition));
    }

    /// Returns whether this is our last definition.
    pub(crate) fn has_made(&self, definition: &str) -> bool {
        self.ours == Some(mark(definition))
    }

    /// Notes that libvirt refused our change of this definition.
    pub(crate) fn was_refused(&mut self, definition: &str) {
        self.refused = Some(mark(definition));
    }

    /// Forgets that libvirt refused our change, because a newly connected libvirt may accept it.
    pub(crate) fn try_again(&mut self) {
        self.refused = None;
    }
}

/// Returns the new text of the `<graphics>` that a plan changes, if libvirt can replace it alone
/// ([`New::Graphics`](crate::libvirt::New)): the plan changes nothing else, and the domain has no
/// other graphics of its type. Otherwise returns `None`.
pub(crate) fn only_graphics(fixed: &Fixed) -> Option<String> {
    let mut changed = fixed
        .plan
        .iter()
        .flat_map(|plan| &plan.changes)
        .map(|change| match &change.action {
            Action::Gl { graphics, .. }
            | Action::ListenNone { graphics }
            | Action::RenderNode { graphics, .. } => Some(*graphics),
            Action::PeerToPeer => Some(GraphicsType::Dbus),
            _ => None,
        });
    let kind = changed.next()??;
    if !changed.all(|other| other == Some(kind)) {
        return None;
    }
    let document = Document::parse(&fixed.text).ok()?;
    let domain = Domain::new(&document).ok()?;
    let mut of_kind = domain
        .graphics
        .iter()
        .filter(|graphics| graphics.kind == Some(kind));
    let element = of_kind.next()?.element;
    // libvirt replaces the first of the type.
    if of_kind.next().is_some() {
        return None;
    }
    Some(fixed.text[element.span()].to_owned())
}

/// Returns the text of each `<graphics>` in a definition. Empty if the definition can't be read.
pub(crate) fn all_graphics(definition: &str) -> Vec<String> {
    let Ok(document) = Document::parse(definition) else {
        return Vec::new();
    };
    let domain = Domain::new(&document).ok();
    let graphics = domain.iter().flat_map(|domain| &domain.graphics);
    graphics
        .map(|graphics| definition[graphics.element.span()].to_owned())
        .collect()
}

/// Returns the notes about a domain whose plan is not carried out, for the reason `why`. Empty if
/// there is no plan.
pub(crate) fn left_alone(fixed: &Fixed, why: &str) -> Vec<Note> {
    let Some(plan) = &fixed.plan else {
        return Vec::new();
    };
    let wanted: Vec<String> = plan.changes.iter().map(|c| words(&c.action)).collect();
    let level = if plan.before.starts() {
        Level::Info
    } else {
        Level::Warn
    };
    let text = format!("left alone ({}): {why}", wanted.join(", "));
    let mut lines = vec![Note::new(level, About::Domain, text)];
    lines.extend(plan.notes.iter().cloned());
    lines
}

/// Returns the reason not to carry out a plan unasked, or `None`. A user may still want the plan.
fn objection(plan: &Plan) -> Option<String> {
    if let Outcome::No(refusal) = &plan.after.outcome {
        return Some(format!(
            "the domain would still be refused: \"{}\"",
            refusal.message
        ));
    }
    let known: HashSet<&Danger> = plan.before.dangers.iter().collect();
    let new = |danger: &&Danger| !known.contains(danger);
    if let Some(danger) = plan.after.dangers.iter().find(new) {
        let screen = &danger.screen;
        return Some(match danger.fault() {
            Some((text, _)) => {
                format!("it would start, but with the screen of {screen}: {text}")
            }
            None => format!(
                "it would start, but a viewer who switches to the screen of {screen} would end the guest"
            ),
        });
    }
    let unseen = |heads: &[Head]| -> Vec<DeviceId> {
        let unseen = heads.iter().filter(|head| head.shown_by.is_empty());
        unseen.filter_map(|head| head.of.device()).collect()
    };
    let before: HashSet<DeviceId> = unseen(&plan.before.heads).into_iter().collect();
    unseen(&plan.after.heads)
        .into_iter()
        .find(|id| !before.contains(id))
        .map(|id| format!("it would start, but no graphics would show the screen of {id}"))
}
