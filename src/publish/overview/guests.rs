//! Makes the entries of guests: whether they start, which graphics show their screens, and fixes.

use std::collections::{BTreeMap, BTreeSet};

use super::{Defined, DeviceLine, Given, GuestEntry, GuestState, Problem, Summary, display_words};
use crate::device::id::DeviceId;
use crate::domain::policy::Wishes;
use crate::domain::{GraphicsType, Reach};
use crate::plan::commands::Names;
use crate::plan::fixup::{Surroundings, fix};
use crate::plan::{Fix, Level, Plan, Topic, words};
use crate::predict::screens::{Here, Screens, Vgpu};
use crate::predict::{About, Outcome, Refusal, Shown};
use crate::publish::inventory::State;

/// Returns the entries of one domain, each with its device, and counts the domain in `summary`.
/// Returns none, and counts nothing, for a domain that QEMU does not run, that has no vfio devices,
/// or that has them only in QEMU's arguments.
pub(super) fn entries(
    given: Given<'_>,
    domain: &Defined,
    surroundings: &dyn Surroundings,
    summary: &mut Summary,
) -> Vec<(Option<DeviceId>, GuestEntry)> {
    let fixed = |wishes: &Wishes| fix(&domain.xml, surroundings, given.policy, wishes);
    let (now, better) = match (fixed(&Wishes::as_it_is()), fixed(&Wishes::default())) {
        (Ok(now), Ok(better)) => (now, better.plan),
        (Err(error), _) | (_, Err(error)) => {
            return unreadable(domain, &error.to_string(), summary);
        }
    };
    // A plan has no devices if the hostdevs name none, or if the devices are only in QEMU's
    // arguments.
    let is_told =
        |plan: &Plan| !plan.screens.vgpus.is_empty() || plan.screens.own_vfio().next().is_none();
    let Some(plan) = now.plan.filter(is_told) else {
        return Vec::new();
    };
    let seen = Seen {
        names: Names::of_domain(given.connect, &domain.name, now.uuid),
        given,
        domain,
        plan: &plan,
        better: better.as_ref(),
    };
    summary.guests += 1;
    let now = plan.now();
    let starts = match &now.outcome {
        Outcome::Yes => "yes",
        Outcome::No(_) => "no",
        Outcome::Doubt { .. } => "doubt",
    };
    summary.refused += usize::from(starts == "no");
    summary.unknown += usize::from(starts == "doubt");
    below_devices(&seen, starts, summary)
}

/// Returns one entry for each device of a domain, and counts dark screens in `summary`. If the
/// domain's hostdevs name no device, returns one entry without a device. `starts` is the prediction
/// for a start: `yes`, `no` or `doubt`.
fn below_devices(
    seen: &Seen<'_>,
    starts: &'static str,
    summary: &mut Summary,
) -> Vec<(Option<DeviceId>, GuestEntry)> {
    let (plan, domain, now) = (seen.plan, seen.domain, seen.plan.now());
    let ids: BTreeSet<DeviceId> = plan.screens.vgpus.iter().map(|vgpu| vgpu.id).collect();
    // Problems of the whole domain are listed with its first device.
    let mut left = seen.of_domain(&ids);
    let mut found = Vec::new();
    for vgpu in &plan.screens.vgpus {
        if found.iter().any(|(id, _)| *id == Some(vgpu.id)) {
            continue;
        }
        let head = now.head(vgpu.id);
        let shown_by = head.map(|head| head.shown_by.clone()).unwrap_or_default();
        let mut problems = seen.of_device(vgpu, head.is_some(), &shown_by, summary);
        if found.is_empty() {
            let own = std::mem::take(&mut problems);
            problems = left.remove(&None).unwrap_or_default();
            problems.extend(own);
        }
        problems.extend(left.remove(&Some(vgpu.id)).unwrap_or_default());
        let guest = GuestEntry {
            look: seen.look(&shown_by),
            shown_by,
            ..entry(domain, Some(starts), problems)
        };
        found.push((Some(vgpu.id), guest));
    }
    if found.is_empty() {
        let problems = left.remove(&None).unwrap_or_default();
        found.push((None, entry(domain, Some(starts), problems)));
    }
    found
}

/// Returns an entry of a domain whose screens nothing shows.
fn entry(domain: &Defined, starts: Option<&'static str>, problems: Vec<Problem>) -> GuestEntry {
    GuestEntry {
        name: domain.name.clone(),
        state: domain.state,
        starts,
        look: None,
        shown_by: Vec::new(),
        problems,
    }
}

/// Returns the entries of a domain whose XML can't be read: one for each device that the XML names.
/// If the XML names none, returns one entry without a device. Counts the domain in `summary`. `why`
/// is the error.
fn unreadable(
    domain: &Defined,
    why: &str,
    summary: &mut Summary,
) -> Vec<(Option<DeviceId>, GuestEntry)> {
    let (_, ids) = crate::domain::name_and_devices(&domain.xml);
    summary.guests += 1;
    summary.unknown += 1;
    let problem = Problem {
        level: Level::Warn,
        text: format!("its definition can't be read: {why}"),
        fixes: Vec::new(),
    };
    let guest = entry(domain, None, vec![problem]);
    if ids.is_empty() {
        return vec![(None, guest)];
    }
    ids.into_iter()
        .map(|id| (Some(id), guest.clone()))
        .collect()
}

/// A domain with its plans.
struct Seen<'s> {
    given: Given<'s>,
    domain: &'s Defined,
    names: Names,
    /// The plan that changes nothing, with the prediction for the domain as it is.
    plan: &'s Plan,
    /// The plan with the changes that the policy allows.
    better: Option<&'s Plan>,
}

impl Seen<'_> {
    /// Returns the problems of the domain, each by the device of `ids` that it is about. The key
    /// `None` has the problems of the domain as a whole. Leaves out hints, unless the user gave
    /// `--all`.
    fn of_domain(&self, ids: &BTreeSet<DeviceId>) -> BTreeMap<Option<DeviceId>, Vec<Problem>> {
        let place = |about: &About| match about {
            About::Device(id) if ids.contains(id) => Some(*id),
            _ => None,
        };
        let mut found: BTreeMap<Option<DeviceId>, Vec<Problem>> = BTreeMap::new();
        if let Some((refusal, doubt)) = self.plan.now().outcome.refused() {
            let who = refusal.stage.who();
            let (level, text) = match doubt {
                None => {
                    let words = refusal.words();
                    (Level::Fail, format!("would be refused by {who}: {words}"))
                }
                Some(because) => {
                    let text = format!(
                        "it is not known whether it starts: {because}; {who} may say: {}",
                        refusal.message
                    );
                    (Level::Warn, text)
                }
            };
            let own = found.entry(place(&refusal.about)).or_default();
            own.push(Problem {
                level,
                text,
                fixes: self.fixes(refusal),
            });
        }
        let notes = self
            .plan
            .notes
            .iter()
            .filter(|note| note.topic == Topic::Other);
        for note in notes.filter(|note| self.given.all || note.level > Level::Info) {
            found.entry(place(&note.about)).or_default().push(Problem {
                level: note.level,
                text: note.text.clone(),
                fixes: note
                    .fixes
                    .iter()
                    .map(|fix| self.names.command(fix))
                    .collect(),
            });
        }
        found
    }

    /// Returns the fixup command that makes the changes of `better`; `None` if there are none.
    fn fixup(&self) -> Option<String> {
        let changes = &self.better?.changes;
        let changes: Vec<String> = changes.iter().map(|one| words(&one.action)).collect();
        let fix = Fix::fixup("", changes.join("; "));
        (!changes.is_empty()).then(|| self.names.command(&fix))
    }

    /// Returns the fixes for a refusal.
    fn fixes(&self, refusal: &Refusal) -> Vec<String> {
        if self.plan.host.as_ref() == Some(refusal) {
            let devices = self.given.inventory.devices.iter();
            let is_defined = |id| devices.clone().any(|entry| entry.id == id && entry.defined);
            return vec![self.names.ready(self.plan, refusal, is_defined)];
        }
        let mut fixes: Vec<String> = self.fixup().into_iter().collect();
        let notes = self.better.iter().flat_map(|plan| &plan.notes);
        let notes = notes.filter(|note| matches!(note.topic, Topic::Start | Topic::Seen));
        fixes.extend(notes.flat_map(|note| self.names.fixes(note)));
        fixes.dedup();
        fixes
    }

    /// Returns the problems of one device's screen; none if the domain is refused. Counts the
    /// screen in `summary` if it is dark. `is_head` is true if the prediction has the screen.
    fn of_device(
        &self,
        vgpu: &Vgpu,
        is_head: bool,
        shown_by: &[(GraphicsType, Shown)],
        summary: &mut Summary,
    ) -> Vec<Problem> {
        let is_refused = matches!(self.plan.now().outcome, Outcome::No(_));
        if is_head && shown_by.is_empty() && !is_refused {
            summary.dark += 1;
            return vec![Problem {
                level: Level::Warn,
                text: "no graphics show the screen".into(),
                fixes: self.fixup().into_iter().collect(),
            }];
        }
        if is_head || is_refused {
            return Vec::new();
        }
        let fixup = self.fixup().into_iter().collect();
        let better = self.better;
        let off = better.and_then(|better| self.names.off(vgpu.id, better, fixup));
        let problem = |(text, fixes)| Problem {
            level: Level::Warn,
            text,
            fixes,
        };
        off.map(problem).into_iter().collect()
    }

    /// Returns the command that starts the guest if needed and shows a screen; `None` unless Spice
    /// or VNC shows it.
    fn look(&self, shown_by: &[(GraphicsType, Shown)]) -> Option<String> {
        let (names, guest) = (&self.names, self.names.domain());
        let (kind, _) = shown_by
            .iter()
            .find(|(kind, _)| matches!(kind, GraphicsType::Spice | GraphicsType::Vnc))?;
        let viewer = if is_local(&self.plan.screens, *kind) {
            names.viewer()
        } else {
            format!("virt-viewer -c {} {guest}", names.uri())
        };
        Some(match self.domain.state {
            GuestState::Running | GuestState::Paused => viewer,
            GuestState::ShutOff | GuestState::Unknown => {
                format!("{} start {guest} && {viewer}", names.virsh())
            }
        })
    }
}

/// Returns whether virt-viewer needs `--attach`, because these graphics have no port for it.
fn is_local(screens: &Screens, kind: GraphicsType) -> bool {
    let mut frontends = screens.frontends.iter();
    let frontend = frontends.find(|frontend| frontend.kind == kind);
    frontend.is_some_and(|frontend| !frontend.listens || frontend.reach == Reach::Local)
}

pub(super) fn absent(
    id: DeviceId,
    guests: Vec<GuestEntry>,
    surroundings: &dyn Surroundings,
) -> DeviceLine {
    let known = surroundings.known(id);
    let is_here = !matches!(known.here, Some(Here::Absent) | None);
    let (state, problems) = if is_here {
        (Some(State::Active), Vec::new())
    } else {
        let problem = Problem {
            level: Level::Fail,
            text: "this host does not have the device".into(),
            fixes: Vec::new(),
        };
        (None, vec![problem])
    };
    DeviceLine {
        id,
        is_whole: false,
        type_id: None,
        state,
        driver: known.driver().map(str::to_owned),
        display: display_words(&known.finding.facts.display),
        known: known.finding.how_known(),
        problems,
        guests,
    }
}
