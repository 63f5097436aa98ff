//! Decides what the daemon does about a domain: the definition and what is remembered go in, a
//! decision comes out.
//!
//! It makes the changes that `gfxplane fixup --define` would make, within these limits:
//! * It acts only if the result was seen to start ([`crate::libvirt::trial`]).
//! * It acts only if the result is not refused. No screen may become invisible, and no viewer may become able to end the guest.
//! * A definition from before the package counts as `display = "asked"`.
//! * It touches the OpRegion only if the policy or the domain says that the guest is Windows.
//! * It makes the same plan at most twice: somebody who puts the old definition back each time means it.

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use crate::device::id::DeviceId;
use crate::domain::policy::{Guest, Policy, Wishes};
use crate::domain::{Domain, GraphicsType};
use crate::plan::fixup::{Fixed, Surroundings, Unfit, fix};
use crate::plan::{Action, Fix, Level, Note, Plan, words};
use crate::predict::{About, Danger, Head, Outcome};
use crate::xml::Document;

/// The number of times that the same plan is carried out. Whoever has undone it that often does not
/// want it.
pub(crate) const ROUNDS: u32 = 2;

/// The number of different plans for one domain that are remembered.
const MOST_PLANS: usize = 16;

/// The daemon's memory of a domain, for as long as the daemon runs. It has no definition, because
/// that contains passwords.
#[derive(Debug, Clone, Default)]
pub(crate) struct Memory {
    /// The plans that were carried out, each with the number of times. Emptied once the domain
    /// needs no change and its definition is not ours.
    done: Vec<(Vec<Action>, u32)>,
    /// A mark of the last definition of ours, as libvirt has written it.
    ours: Option<u64>,
    /// A mark of the definition whose change libvirt refused.
    refused: Option<u64>,
}

/// Returns a mark that stands for a text.
pub(crate) fn mark(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// The standing of a domain: facts that are not in its definition.
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
        /// The reason, as lines.
        why: Vec<Note>,
    },
    /// The daemon defines the domain with this result.
    Act(Box<Fixed>),
}

/// Returns the host's policy for changes that nobody has asked for. A guest does not
/// count as Windows unless the policy says so.
pub(crate) fn unasked(policy: &Policy, is_older: bool) -> Policy {
    let mut policy = policy.clone();
    if is_older {
        policy = policy.asked_only();
    }
    // libosinfo's metadata are not enough to give a part of the host's graphics to the guest.
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
            // The domain is right, and not by us: nobody insists on anything any more.
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
            Some("what gfxplane did here was undone; `gfxplane fixup --define` or `gfxplane policy` gives the domain back".into())
        } else {
            let refused = self.refused == Some(mark(definition));
            let refused = refused.then(|| "libvirt has refused that definition".to_owned());
            objection(plan).or(refused)
        };
        if let Some(problem) = problem {
            return leave(false, left_alone(&fixed, &problem));
        }
        if self.times(plan) >= ROUNDS {
            let problem = format!(
                "that was done {ROUNDS} times, and somebody has put the old definition back each time; `gfxplane fixup --define` does it once more"
            );
            let mut why = left_alone(&fixed, &problem);
            why[0].fixes.push(Fix::Command {
                verb: "policy",
                options: "display=off".into(),
                reason: "the old one is meant".into(),
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

    /// Returns whether no plan was carried out that would have to be remembered.
    pub(crate) fn is_empty(&self) -> bool {
        self.done.is_empty()
    }

    /// Notes a definition of ours, in the form that libvirt gave it.
    pub(crate) fn is_ours(&mut self, definition: &str) {
        self.ours = Some(mark(definition));
    }

    /// Returns whether a definition is the last one of ours.
    pub(crate) fn has_made(&self, definition: &str) -> bool {
        self.ours == Some(mark(definition))
    }

    /// Notes that libvirt refused our change of this definition.
    pub(crate) fn was_refused(&mut self, definition: &str) {
        self.refused = Some(mark(definition));
    }

    /// Forgets that libvirt refused our change, because the libvirt that we have connected to now
    /// may accept it.
    pub(crate) fn try_again(&mut self) {
        self.refused = None;
    }
}

/// Returns the `<graphics>` that a plan changes, if it changes nothing else: libvirt can replace
/// that alone.
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
    // libvirt takes the first of its type.
    if of_kind.next().is_some() {
        return None;
    }
    Some(fixed.text[element.span()].to_owned())
}

/// Returns the graphics of a definition as its text has them. Empty if the definition can't be
/// read.
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

/// Returns the lines for a domain whose plan is not carried out, with the reason `why`.
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

/// Returns why a plan is not carried out unasked, though a user may want it.
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
        .map(|id| format!("it would start, but nobody would see the screen of {id}"))
}
