//! Plans graphics and video: the frontends that show the displays, and the GPU that renders them.

use crate::device::facts::{Display, Reason};
use crate::device::id::DeviceId;
use crate::domain::GraphicsType;
use crate::domain::policy::{Consent, Displays, EmulatedVideo};
use crate::plan::arrangements::{self, Arrangement};
use crate::plan::planner::{Planner, how_known};
use crate::plan::remarks::fix_of;
use crate::plan::{Action, Fix, Level, Topic, words};
use crate::predict::abilities::{ALLOW_DBUS_DAEMON, DBUS_DAEMON_DIED, RenderNodes};
use crate::predict::arguments::Arguments;
use crate::predict::qemu_messages::{BLOB_AND_VIRGL, NEEDS_KVM};
use crate::predict::screens::{Found, Vgpu};
use crate::predict::versions::BLOB_WITH_VIRGL;
use crate::predict::{About, Outcome, Prediction, Refusal, predict};

impl Planner<'_, '_, '_> {
    /// If the policy has `video = "none"` and a device's display is on, removes the emulated cards,
    /// or adds a note why they stay.
    pub(super) fn take_out_emulated_video(&mut self) {
        if self.policy.video != EmulatedVideo::None || self.screens.cards.is_empty() {
            return;
        }
        let shows = |vgpu: &Vgpu| vgpu.display && !vgpu.found().contains(&Found::Nothing);
        let Some(vgpu) = self.screens.vgpus.iter().find(|vgpu| shows(vgpu)) else {
            return;
        };
        let about = About::Device(vgpu.id);
        if !self.policy.consent.contains(&Consent::Video) {
            let text = "the policy asks for the vGPU to be the only screen; the guest would lose its emulated video card";
            let fixes = [Fix::consent("video")];
            let note = self.note_on(Topic::Other, Level::Info, about, text, fixes);
            note.consent = Some(Consent::Video);
            return;
        }
        let mut without = self.screens.clone();
        without.cards.clear();
        without.video_said = true;
        let wanted = self.wanted();
        let consent = &self.policy.consent;
        let helps = arrangements::is_good(&predict(&without, self.abilities), &wanted)
            || arrangements::best(&without, self.abilities, &wanted, true)
                .is_some_and(|arrangement| arrangement.is_allowed(consent));
        if !helps {
            let text = "the policy asks for the vGPU to be the only screen; without the emulated card the domain would not start, or no graphics would show that screen";
            let fixes = [Fix::consent("all")];
            self.note_on(Topic::Other, Level::Warn, about, text, fixes);
            return;
        }
        let reason = format!(
            "the policy asks for {} to be the guest's only screen",
            vgpu.id
        );
        self.screens = without;
        self.change(Action::VideoNone, reason).consent = Some(Consent::Video);
    }

    /// Arranges the graphics so that they show each known display that is on, or adds a note why
    /// not.
    pub(super) fn arrange_frontends(&mut self) {
        let wanted = self.wanted();
        let shows = |vgpu: &Vgpu| vgpu.display && vgpu.is_pci;
        if !self.screens.vgpus.iter().any(shows) {
            return;
        }
        let now = predict(&self.screens, self.abilities);
        // A domain that starts and shows everything without danger stays as it is.
        if arrangements::is_good(&now, &wanted) {
            return;
        }
        // The graphics are not changed for a device whose display is unknown.
        if wanted.is_empty() {
            self.refused(&now, None);
            return;
        }
        let best = |may_add| arrangements::best(&self.screens, self.abilities, &wanted, may_add);
        // A domain that starts gets more graphics only if the policy or a consent asks for them.
        let may_add = !now.starts()
            || self.policy.display == Displays::Full
            || self.policy.consent.contains(&Consent::Remote);
        match best(may_add) {
            Some(arrangement) if arrangement.is_allowed(&self.policy.consent) => {
                self.make(arrangement);
            }
            found => {
                let found = found.or_else(|| if may_add { None } else { best(true) });
                self.refused(&now, found.as_ref());
            }
        }
    }

    pub(super) fn make(&mut self, arrangement: Arrangement) {
        self.screens = arrangement.screens;
        self.changes.extend(arrangement.changes);
    }

    /// Adds a note about the problem in `now`, with what the user can do. `now` is the prediction
    /// without a change. `found` is an arrangement that would help but is not allowed; `None` if
    /// none is known to help. Adds nothing if the domain starts and `found` is `None`.
    pub(super) fn refused(&mut self, now: &Prediction, found: Option<&Arrangement>) {
        let Some((level, about, text)) = self.said_of(now, found) else {
            return;
        };
        let mut fixes: Vec<Fix> = found.map(by_fixup).into_iter().collect();
        self.fixes_of(now, about, &mut fixes);
        let topic = match now.outcome {
            Outcome::Yes => Topic::Seen,
            _ => Topic::Start,
        };
        let consent = found.and_then(Arrangement::loss);
        self.note_on(topic, level, about, text, fixes).consent = consent;
    }

    /// Returns severity, subject and text of the note that [`Self::refused`] adds; `None` if the
    /// domain starts and `found` is `None`.
    fn said_of(
        &self,
        now: &Prediction,
        found: Option<&Arrangement>,
    ) -> Option<(Level, About, String)> {
        Some(match &now.outcome {
            Outcome::No(refusal) => {
                let text = refusal.will() + &self.explained(refusal);
                (Level::Fail, refusal.about, text)
            }
            Outcome::Doubt { refusal, because } => {
                (Level::Warn, refusal.about, refusal.may(because))
            }
            // The domain starts. The remarks at the end say what is wrong with it.
            Outcome::Yes if found.is_none() => return None,
            Outcome::Yes => {
                let about = self.wanted().first().copied();
                let about = about.map_or(About::Domain, About::Device);
                (
                    Level::Warn,
                    about,
                    "the domain starts, but no viewer can show all of its screens safely".into(),
                )
            }
        })
    }

    /// Adds to `fixes` what the user can do beside the changes of an [`Arrangement`]. `about` is
    /// the subject of the note.
    fn fixes_of(&self, now: &Prediction, about: About, fixes: &mut Vec<Fix>) {
        let lacks_node = self.abilities.render_nodes.and_then(RenderNodes::refusal);
        let is_dmabuf = |vgpu: &Vgpu| vgpu.display && vgpu.found() == [Found::Dmabuf];
        if lacks_node.is_some() && self.screens.vgpus.iter().any(is_dmabuf) {
            fixes.push("sudo modprobe nvidia-drm modeset=1 # or another GPU's driver: this host has no render node in /dev/dri, and OpenGL needs one".into());
        }
        if self.screens.arguments.display.is_some() && !now.starts() {
            fixes.push("replace -display or -nographic in qemu:commandline by <graphics>, so that libvirt gives QEMU what it needs".into());
        }
        if now
            .refusal()
            .is_some_and(|refusal| refusal.message == BLOB_AND_VIRGL)
        {
            let since = BLOB_WITH_VIRGL.since();
            let text =
                format!("blob='off' or accel3d='no' on the video card, or QEMU {since} or later");
            fixes.push(Fix::Words(text));
        }
        fixes.extend(now.refusal().and_then(fix_of).map(Fix::from));
        let mut dark = self.screens.clone();
        dark.vgpus
            .iter_mut()
            .for_each(|vgpu| vgpu.set_display(false));
        let is_of_device = matches!(about, About::Device(_))
            && dark.arguments == Arguments::default()
            && self.screens.lacks_kvm().is_none();
        let is_for_display = is_of_device || predict(&dark, self.abilities).starts();
        let is_daemons = |refusal: &Refusal| refusal.message == DBUS_DAEMON_DIED;
        if now.refusal().is_some_and(is_daemons) {
            fixes.push(ALLOW_DBUS_DAEMON.into());
        } else if !now.starts() && is_for_display {
            fixes.push(Fix::fixup(
                "--no-display",
                "the device then shows no screen",
            ));
        }
    }

    /// Returns an explanation to append to QEMU's message; empty if the message needs none.
    fn explained(&self, refusal: &Refusal) -> String {
        if refusal.message == NEEDS_KVM {
            return "; its driver opens it only for a KVM VM".into();
        }
        let About::Device(id) = refusal.about else {
            return String::new();
        };
        let Some(vgpu) = self.screens.vgpus.iter().find(|vgpu| vgpu.id == id) else {
            return String::new();
        };
        if vgpu.known.finding.facts.display == Display::Unknown(Reason::Untrusted) {
            format!(
                "; the driver of {id} says yes to every question, so QEMU treats its screen as a dmabuf; what the screen really is, is not known"
            )
        } else if vgpu.found() == [Found::Dmabuf] {
            format!(
                "; it hands over its screen as a dmabuf{}: the graphics need OpenGL for that",
                how_known(vgpu)
            )
        } else {
            String::new()
        }
    }

    /// Sets the render node of graphics with OpenGL for which the user has chosen none: the node of
    /// the GPU behind the first device with a dmabuf. Without it, libvirt takes the first node that
    /// it finds (src/qemu/qemu_process.c, `qemuProcessGraphicsSetupRenderNode`). Adds a note about
    /// each device with a dmabuf of another GPU.
    pub(super) fn render_nodes(&mut self) {
        let dmabuf: Vec<(DeviceId, String)> = self
            .screens
            .vgpus
            .iter()
            .filter(|vgpu| vgpu.display && vgpu.is_pci && vgpu.found() == [Found::Dmabuf])
            .filter_map(|vgpu| Some((vgpu.id, vgpu.known.render_node.clone()?)))
            .collect();
        let Some((id, node)) = dmabuf.first() else {
            return;
        };
        for (other, elsewhere) in &dmabuf[1..] {
            if elsewhere != node {
                self.note(
                    Level::Warn,
                    About::Device(*other),
                    format!("its GPU renders at {elsewhere}, and the GPU of {id} at {node}. Graphics have one render node, and only its driver decides whether it accepts the buffers of the other GPU"),
                    &["put the two devices on one GPU"],
                );
            }
        }
        for place in 0..self.screens.frontends.len() {
            let frontend = &mut self.screens.frontends[place];
            let can = matches!(
                frontend.kind,
                GraphicsType::Spice | GraphicsType::Dbus | GraphicsType::EglHeadless
            );
            if !can || !frontend.gl || frontend.rendernode.is_some() {
                continue;
            }
            frontend.rendernode = Some(node.clone());
            let action = Action::RenderNode {
                graphics: frontend.kind,
                rendernode: node.clone(),
            };
            self.change(action, format!("it is the render node of the GPU behind {id}: without one, libvirt takes the first it finds"));
        }
    }
}

/// Returns the fixup command that makes the changes of an arrangement.
fn by_fixup(arrangement: &Arrangement) -> Fix {
    let what: Vec<String> = arrangement
        .changes
        .iter()
        .map(|change| words(&change.action))
        .collect();
    let options = match arrangement.loss() {
        None => "--policy full".to_owned(),
        Some(loss) => format!("--consent {loss}"),
    };
    let what = what.join(", ");
    Fix::fixup(
        options,
        format!("{what}; the screen is then visible only on this host"),
    )
}
