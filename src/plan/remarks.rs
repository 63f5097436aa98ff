//! Adds the last notes of a plan: about what the other steps could not solve.

use std::collections::{BTreeSet, HashSet};

use crate::device::id::DeviceId;
use crate::plan::planner::Planner;
use crate::plan::{Level, Topic};
use crate::predict::libvirt_checks::NO_APPARMOR_PROFILE;
use crate::predict::screens::{Found, GpuPart, Vgpu};
use crate::predict::versions::{Libvirt, OVERRIDE, PCI_DISPLAY, reads_override};
use crate::predict::{About, HeadOf, Outcome, Prediction, Program, Refusal, qemu_messages};

/// The severity, the text and the fix of a note.
pub(super) type Remark = (Level, String, String);

/// Returns the fix for a refusal that concerns neither a device's screen nor the frontends for it;
/// `None` if no fix is known.
pub(super) fn fix_of(refusal: &Refusal) -> Option<&'static str> {
    let message = refusal.message.as_str();
    if message.starts_with("Path '") {
        return Some(
            "name a rendernode that this host has (gfxplane doctor lists them), or none, so that libvirt takes the first",
        );
    }
    if message.starts_with("PCI: slot ") {
        return Some(
            "give the -device an addr= with a free slot, or write it in JSON, so that QEMU makes it after libvirt's devices",
        );
    }
    match message {
        qemu_messages::NEEDS_KVM => Some("<domain type='kvm'>"),
        NO_APPARMOR_PROFILE => Some(
            "in xauth of the SDL graphics, name the X authority file of the user who looks at the screen; AppArmor allows none in /etc or /usr",
        ),
        qemu_messages::NO_SDL => Some(
            "in display and xauth of the SDL graphics, name an X server that runs; newer AppArmor also needs #include <abstractions/X> in /etc/apparmor.d/local/abstractions/libvirt-qemu",
        ),
        qemu_messages::NO_SECOND_GL_ON_X => Some("keep SDL or spice with gl, not both"),
        qemu_messages::NO_DBUS_FOR_AUDIO => Some("use an audio of another type than dbus"),
        _ => None,
    }
}

impl Planner<'_, '_, '_> {
    /// Adds the last notes. `after` is the prediction with all changes.
    pub(super) fn remarks(&mut self, after: &Prediction) {
        if self.screens.vgpus.is_empty() && self.screens.settings.misread.is_empty() {
            return;
        }
        self.how_it_ends(after);
        self.what_libvirt_drops();
        self.pictures_of_gpus();
        self.no_screen(after);
        if after.starts() {
            self.what_is_seen(after);
        }
    }

    /// Adds a note about each device for which `remark` returns one.
    pub(super) fn note_each(&mut self, remark: &dyn Fn(&Self, &Vgpu) -> Option<Remark>) {
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            if let Some((level, text, fix)) = remark(self, vgpu) {
                self.note(level, About::Device(vgpu.id), text, &[&fix]);
            }
        }
    }

    /// Adds a note if the start is refused or in doubt, unless an earlier note is at least as
    /// severe. If a `-set` that QEMU no longer accepts is left, a refusal always gets its note.
    pub(super) fn how_it_ends(&mut self, after: &Prediction) {
        let said = |level| self.notes.iter().any(|note| note.level >= level);
        match &after.outcome {
            Outcome::No(refusal)
                if !said(Level::Fail) || !self.screens.dead_settings.is_empty() =>
            {
                let mut fixes = Vec::new();
                if refusal.by() == Program::Qemu && !self.screens.dead_settings.is_empty() {
                    fixes.push("replace the -set in qemu:commandline by qemu:override: QEMU's -set does not find devices that libvirt describes in JSON");
                }
                fixes.extend(fix_of(refusal));
                let concerned = |id: &DeviceId| refusal.about == About::Device(*id);
                let mut others = self.screens.vgpus.iter().filter(|vgpu| !vgpu.is_pci);
                if others.any(|vgpu| concerned(&vgpu.id) && vgpu.says_display) {
                    fixes.push(
                        "remove the attribute display of the hostdev: only model='vfio-pci' has it",
                    );
                }
                let text = refusal.will();
                self.note_on(Topic::Start, Level::Fail, refusal.about, text, fixes);
            }
            Outcome::Doubt { refusal, because } if !said(Level::Warn) => {
                let fixes = Vec::from_iter(fix_of(refusal));
                let text = refusal.may(because);
                self.note_on(Topic::Start, Level::Warn, refusal.about, text, fixes);
            }
            _ => {}
        }
    }

    /// Adds notes about parts of hostdevs that libvirt drops, and vGPUs lost by `managed='yes'`.
    fn what_libvirt_drops(&mut self) {
        self.note_each(&|_, vgpu| {
            let driver = vgpu.lost.as_ref()?;
            let text = format!(
                "managed='yes' makes libvirt take the device from the driver {driver} and bind it to vfio-pci before QEMU runs, so the guest gets no vGPU"
            );
            Some((Level::Fail, text, "set managed='no' on the hostdev".into()))
        });
        let properties = self.domain.properties.iter();
        let overridden: HashSet<&str> = properties.map(|p| p.alias.as_str()).collect();
        let pci_is_old = Libvirt::possible(self.abilities)
            .iter()
            .all(|libvirt| !libvirt.has(PCI_DISPLAY));
        let no_override = reads_override(self.abilities) == Some(false);
        self.note_each(&|planner, vgpu| {
            let hostdev = planner.hostdev(vgpu);
            let asks = hostdev.display.is_some() || hostdev.ramfb.is_some();
            let (text, since) = if no_override && overridden.contains(hostdev.alias.as_str()) {
                let text =
                    "this libvirt does not read qemu:override, so the device does not get the properties there";
                (text, OVERRIDE.since())
            } else if matches!(vgpu.id, DeviceId::Pci(_)) && asks && pci_is_old {
                let text = "this libvirt silently drops display and ramfb of PCI hostdevs";
                (text, PCI_DISPLAY.since())
            } else {
                return None;
            };
            Some((
                Level::Warn,
                text.into(),
                format!("libvirt {since} or later"),
            ))
        });
        self.note_each(&|planner, vgpu| {
            let rom = planner.hostdev(vgpu).element.child("rom");
            (matches!(vgpu.id, DeviceId::Mdev(_)) && rom.is_some()).then(|| {
                let text = "libvirt silently drops the <rom> of a mediated device";
                let fix = "set the properties romfile and rombar in qemu:override, with a file that AppArmor and SELinux let QEMU read";
                (Level::Warn, text.into(), fix.into())
            })
        });
    }

    /// Adds notes about screens that make QEMU exit or crash, and about dark screens.
    fn what_is_seen(&mut self, after: &Prediction) {
        let dangers = after.dangers.iter();
        let ends = dangers.filter(|danger| danger.fault().is_none());
        let ends: Vec<&HeadOf> = ends.map(|danger| &danger.screen).collect();
        if let Some(last) = ends.last() {
            let screens: Vec<String> = ends.iter().map(ToString::to_string).collect();
            let text = format!(
                "a VNC viewer that switches to the screen of {} (Ctrl-Alt-1, Ctrl-Alt-2) ends the guest: QEMU exits, for example with \"{}\"",
                screens.join(" or "),
                qemu_messages::CONSOLE_NEEDS_DMABUF
            );
            let fix = "remove VNC, and use spice with gl that listens on a socket or nowhere";
            self.note(Level::Warn, last.about(), text, &[fix]);
        }
        for danger in &after.dangers {
            if let Some((text, fix)) = danger.fault() {
                self.note(Level::Warn, danger.screen.about(), text, &[&fix]);
            }
        }
        for head in &after.heads {
            if head.shown_by.is_empty() && head.of.device().is_some() {
                let fix = "add spice with gl that listens on a socket or nowhere";
                let (about, text) = (
                    head.of.about(),
                    "none of the domain's graphics shows its screen",
                );
                self.note_on(Topic::Seen, Level::Warn, about, text, [fix]);
            }
        }
        let ramfb = self.screens.vgpus.iter().any(|vgpu| vgpu.ramfb);
        if self.screens.cards.is_empty()
            && !ramfb
            && self.screens.has_fw_cfg_dma
            && let Some(head) = after.heads.first().and_then(|head| head.of.device())
        {
            let text = if after.heads.len() == 1 {
                "it is the guest's only screen and stays dark until the guest's driver sets a mode"
            } else {
                "it is the guest's first screen, and there is no emulated card: all screens are dark until the guest's drivers set a mode"
            };
            let fix = "set ramfb='on' on the hostdev to see firmware and boot (or boot_display = \"ramfb\" in the policy)";
            self.note(Level::Info, About::Device(head), text, &[fix]);
        }
    }

    /// Returns whether the guest has graphics, but no screen for them to show. Returns false if the
    /// domain is refused.
    pub(super) fn is_dark(&self, after: &Prediction) -> bool {
        let has_graphics = !self.screens.frontends.is_empty();
        after.refusal().is_none() && after.heads.is_empty() && has_graphics
    }

    /// Adds a note if the guest has graphics, but no screen. Adds none if the guest has a GPU, or a
    /// virtual function of a GPU: see [`Self::pictures_of_gpus`].
    pub(super) fn no_screen(&mut self, after: &Prediction) {
        let mut vgpus = self.screens.vgpus.iter();
        let is_elsewhere = |vgpu: &Vgpu| vgpu.known.gpu().is_some();
        if self.is_dark(after) && !vgpus.any(is_elsewhere) {
            let text = "the guest has no screen, so nobody sees anything of it";
            let fixes = ["replace <model type='none'/> by a video card"];
            self.note(Level::Warn, About::Domain, text, &fixes);
        }
    }

    /// Adds notes about GPUs whose picture QEMU can't show: where the picture appears.
    fn pictures_of_gpus(&mut self) {
        let graphics: BTreeSet<&str> = self
            .screens
            .frontends
            .iter()
            .map(|frontend| frontend.kind.word())
            .collect();
        let graphics: Vec<&str> = graphics.into_iter().collect();
        let viewer = match (&graphics[..], self.screens.cards.is_empty()) {
            ([], _) => String::new(),
            (all, true) => format!("; {} shows no screen", all.join(" and ")),
            (all, false) => format!("; {} shows only the emulated card", all.join(" and ")),
        };
        for place in 0..self.screens.vgpus.len() {
            let vgpu = &self.screens.vgpus[place];
            if vgpu.lost.is_some() || vgpu.found() != [Found::Nothing] {
                continue;
            }
            let text = match vgpu.known.gpu() {
                None => continue,
                Some(GpuPart::Whole) => {
                    format!(
                        "the guest has the whole GPU, so its picture goes to the GPU's own connectors{viewer}"
                    )
                }
                Some(GpuPart::Function) => {
                    format!(
                        "this virtual function has no display, so its picture is shown nowhere{viewer}"
                    )
                }
            };
            let text = format!(
                "{text}; to see the picture elsewhere, run RDP, Sunshine or Looking Glass in the guest"
            );
            self.note(Level::Info, About::Device(vgpu.id), text, &[]);
        }
    }
}
