//! Makes a plan step by step, in a fixed order, and has the functions that several steps use. The
//! steps themselves are in the modules [`super::dash_set`], [`super::displays`],
//! [`super::graphics_and_video`], [`super::options`] and [`super::remarks`].

use std::collections::{HashMap, HashSet};

use crate::device::id::DeviceId;
use crate::domain::policy::{Displays, Policy};
use crate::domain::{Domain, Hostdev};
use crate::plan::{Action, Change, Fix, Level, Note, Plan, Topic};
use crate::predict::abilities::Abilities;
use crate::predict::screens::{Screens, Vgpu};
use crate::predict::{About, Prediction, libvirt_checks, predict};

/// Makes the plan for a domain. `screens` are the domain's screens as it is defined, and `policy`
/// is the policy for this domain ([`Policy::for_domain`]).
pub fn plan(
    domain: &Domain<'_, '_>,
    screens: &Screens,
    abilities: &Abilities,
    policy: &Policy,
) -> Plan {
    let planner = Planner::new(domain, screens, abilities, policy);
    let steps = |planner: &mut Planner<'_, '_, '_>| {
        planner.carry_settings_over();
        // The user has to deal with the settings that could not be moved. The plan is made as if
        // they were gone.
        let left = std::mem::take(&mut planner.screens.dead_settings);
        if policy.no_display {
            planner.switch_off_all();
        }
        planner.switch_off_what_cannot_work();
        planner.properties_of_wrong_types();
        planner.opregion_that_is_not_there();
        planner.ramfb_of_another_driver();
        planner.ramfb_that_cannot_work();
        planner.take_out_emulated_video();
        planner.arrange_frontends();
        if !policy.no_display {
            planner.switch_on_what_is_there();
        }
        planner.ramfb_for_boot();
        planner.opregion_for_windows();
        planner.opregion_twice();
        planner.render_nodes();
        planner.screens.dead_settings = left;
    };
    planner.finish(steps, Planner::remarks)
}

/// Returns the changes without those that a later change overrides, and without those that leave
/// the domain as it was (`screens`). For example, a step may move a setting that a later step
/// removes because it can't work.
fn settled(changes: Vec<Change>, screens: &Screens) -> Vec<Change> {
    // Of two changes with the same key, the later one counts. A display is set in one place, the
    // attribute or the property. ramfb may need a change of both.
    let same = |action: &Action| match action {
        Action::Display { device, .. } => Some((*device, "display".to_owned())),
        Action::Ramfb { device, .. } => Some((*device, "attribute ramfb".to_owned())),
        Action::SetProperty { device, name, .. } | Action::RemoveProperty { device, name } => {
            Some((*device, name.clone()))
        }
        _ => None,
    };
    let vgpus = screens.vgpus.iter().rev();
    let vgpus: HashMap<DeviceId, &Vgpu> = vgpus.map(|vgpu| (vgpu.id, vgpu)).collect();
    let as_it_was = |action: &Action| {
        let vgpu = |id: &DeviceId| vgpus.get(id);
        match action {
            Action::Display { device, on } => vgpu(device).is_some_and(|v| v.display == *on),
            Action::Ramfb { device, on } => vgpu(device).is_some_and(|v| v.ramfb_asked == *on),
            Action::RemoveProperty { device, name } => {
                vgpu(device).is_some_and(|v| !v.properties.contains_key(name))
            }
            _ => false,
        }
    };
    let mut later = HashSet::new();
    let mut kept: Vec<Change> = Vec::new();
    for change in changes.into_iter().rev() {
        let is_last = same(&change.action).is_none_or(|same| later.insert(same));
        if is_last && !as_it_was(&change.action) {
            kept.push(change);
        }
    }
    kept.reverse();
    kept
}

/// A plan that is being made. `place` is the index of a device in [`Screens::vgpus`].
pub(super) struct Planner<'p, 'd, 'a> {
    pub(super) domain: &'p Domain<'d, 'a>,
    pub(super) abilities: &'p Abilities,
    pub(super) policy: &'p Policy,
    /// The screens before the changes.
    before: &'p Screens,
    /// The screens after the changes.
    pub(super) screens: Screens,
    pub(super) changes: Vec<Change>,
    pub(super) notes: Vec<Note>,
}

impl<'p, 'd, 'a> Planner<'p, 'd, 'a> {
    pub(super) fn new(
        domain: &'p Domain<'d, 'a>,
        screens: &'p Screens,
        abilities: &'p Abilities,
        policy: &'p Policy,
    ) -> Self {
        Planner {
            domain,
            abilities,
            policy,
            before: screens,
            screens: screens.clone(),
            changes: Vec::new(),
            notes: Vec::new(),
        }
    }

    /// Makes the plan. Runs the steps first, unless the policy is `display = "off"`, or the owner
    /// has to decide or to fix the domain. Drops all changes and the steps' notes if the domain
    /// certainly starts without them but not with them, or if it is refused with them but not
    /// without them. Keeps the changes of a domain that is refused with and without them:
    /// [`crate::plan::fixup::fix`] may drop them after the last round.
    pub(super) fn finish(
        mut self,
        steps: impl FnOnce(&mut Self),
        remarks: impl FnOnce(&mut Self, &Prediction),
    ) -> Plan {
        let screens = self.before;
        let before = predict(screens, self.abilities);
        // If a device or a type of graphics occurs twice, for example, only the owner knows which
        // is meant.
        let is_clear = !screens.vgpus.is_empty()
            && !libvirt_checks::is_beyond_repair(screens, self.abilities)
            // If managed='yes' takes a vGPU away, the owner has to decide.
            && screens.vgpus.iter().all(|vgpu| vgpu.lost.is_none());
        if is_clear && self.policy.display != Displays::Off {
            steps(&mut self);
        }
        let mut after = predict(&self.screens, self.abilities);
        // A domain that starts, or may start, must not get worse.
        if before.starts() && !after.starts()
            || after.refusal().is_some() && before.refusal().is_none()
        {
            self.screens = screens.clone();
            self.changes.clear();
            self.notes.clear();
            after = before.clone();
        }
        // A later step may have fixed what an earlier one could not.
        let is_settled = |note: &Note| {
            note.topic == Topic::Start
                && (after.starts() || note.level == Level::Fail && after.refusal().is_none())
        };
        self.notes.retain(|note| !is_settled(note));
        remarks(&mut self, &after);
        let changes = settled(std::mem::take(&mut self.changes), screens);
        Plan {
            before,
            host: libvirt_checks::host(screens, self.abilities),
            changes: self.told(changes),
            notes: self.notes,
            after,
            screens: self.screens,
        }
    }

    /// Adds the side effects of a change on the XML to the reason of the change.
    fn told(&self, mut changes: Vec<Change>) -> Vec<Change> {
        let hostdevs = self.domain.hostdevs.iter().rev();
        let hostdevs: HashMap<DeviceId, &Hostdev<'_, '_>> =
            hostdevs.map(|hostdev| (hostdev.id, hostdev)).collect();
        let mut named = HashSet::new();
        for change in &mut changes {
            match &change.action {
                Action::SetProperty { device, .. } if named.insert(*device) => {
                    let hostdev = hostdevs.get(device);
                    if hostdev.is_some_and(|hostdev| !hostdev.has_user_alias()) {
                        change.reason +=
                            "; the hostdev gets an alias, so that qemu:override finds it";
                    }
                }
                Action::ListenNone { graphics } => {
                    let mut all = self.domain.graphics.iter();
                    let found = all.find(|other| other.kind == Some(*graphics));
                    if found.is_some_and(|graphics| graphics.settings.wants_tls()) {
                        change.reason += "; without a port there is no TLS, so the settings of secure channels are removed, too";
                    }
                }
                _ => {}
            }
        }
        changes
    }

    pub(super) fn hostdev(&self, vgpu: &Vgpu) -> &'p Hostdev<'d, 'a> {
        &self.domain.hostdevs[vgpu.place]
    }

    pub(super) fn change(&mut self, action: Action, reason: impl Into<String>) -> &mut Change {
        self.changes.push_mut(Change {
            action,
            reason: reason.into(),
            consent: None,
        })
    }

    pub(super) fn note(
        &mut self,
        level: Level,
        about: About,
        text: impl Into<String>,
        fixes: &[&str],
    ) {
        self.note_on(Topic::Other, level, about, text, fixes.iter().copied());
    }

    pub(super) fn note_on(
        &mut self,
        topic: Topic,
        level: Level,
        about: About,
        text: impl Into<String>,
        fixes: impl IntoIterator<Item: Into<Fix>>,
    ) -> &mut Note {
        self.notes.push_mut(Note {
            topic,
            fixes: fixes.into_iter().map(Into::into).collect(),
            ..Note::new(level, about, text)
        })
    }

    /// Sets a property of the vGPU at `place` in `qemu:override`.
    pub(super) fn set_property(
        &mut self,
        place: usize,
        name: &str,
        value: impl Into<String>,
        reason: impl Into<String>,
    ) {
        let (name, value) = (name.to_owned(), value.into());
        let vgpu = &mut self.screens.vgpus[place];
        let device = vgpu.id;
        vgpu.properties.insert(name.clone(), value.clone());
        let action = Action::SetProperty {
            device,
            name,
            value,
        };
        self.change(action, reason);
    }

    pub(super) fn set_display(&mut self, place: usize, on: bool, reason: impl Into<String>) {
        let reason = reason.into();
        self.take_settings_out(place, "display", &reason);
        let was_overridden = self.before.vgpus[place].properties.contains_key("display");
        let vgpu = &mut self.screens.vgpus[place];
        if !was_overridden {
            vgpu.properties.remove("display");
        }
        vgpu.set_display(on);
        let device = vgpu.id;
        self.change(Action::Display { device, on }, reason);
    }

    /// Sets ramfb by the attribute alone, and removes the property from `qemu:override`. Only the
    /// attribute makes libvirt choose QEMU's driver with ramfb.
    pub(super) fn set_ramfb(&mut self, place: usize, on: bool, reason: impl Into<String>) {
        let reason = reason.into();
        self.take_settings_out(place, "ramfb", &reason);
        let vgpu = &mut self.screens.vgpus[place];
        let device = vgpu.id;
        let is_overridden = vgpu.properties.contains_key("ramfb");
        let is_asked = vgpu.ramfb_asked;
        vgpu.set_ramfb(on);
        if is_overridden {
            let name = "ramfb".to_owned();
            self.change(Action::RemoveProperty { device, name }, reason.clone());
        }
        if is_asked != on || !is_overridden {
            self.change(Action::Ramfb { device, on }, reason);
        }
    }

    /// Removes a property from `-set` arguments and from `qemu:override`.
    pub(super) fn remove_property(&mut self, place: usize, name: &str, reason: impl Into<String>) {
        let reason = reason.into();
        self.take_settings_out(place, name, &reason);
        let vgpu = &mut self.screens.vgpus[place];
        vgpu.mistyped.remove(name);
        if vgpu.properties.remove(name).is_none() {
            return;
        }
        let action = Action::RemoveProperty {
            device: vgpu.id,
            name: name.into(),
        };
        self.change(action, reason);
    }
}

/// Returns a display in words, with its evidence: `region, measured` or `region, known by rule`.
pub(super) fn display_words(vgpu: &Vgpu) -> String {
    let finding = &vgpu.known.finding;
    let words = finding.facts.display.words().join(" and ");
    match finding.believed() {
        Some(method) => format!("{words}, known by {method}"),
        None => format!("{words}, measured"),
    }
}

/// Returns the evidence in words, such as ` (known by rule, not measured)`; an empty text for a
/// measurement.
pub(super) fn how_known(vgpu: &Vgpu) -> String {
    let believed = vgpu.known.finding.believed();
    believed.map_or_else(String::new, |method| {
        format!(" (known by {method}, not measured)")
    })
}
