//! A domain's screens, apart from its XML: the cards and devices that make pictures, and the
//! graphics that show them.
//!
//! Predictions are made from [`Screens`], and plans change them.

mod known;
mod own_arguments;
mod vgpu;

use std::collections::{BTreeMap, BTreeSet};

use crate::device::id::DeviceId;
use crate::domain::{
    Domain, DomainSettings, GraphicsSettings, GraphicsType, Listen, QEMU_NAMESPACE, Reach,
    VideoSettings, in_qemu,
};
use crate::predict::abilities::Abilities;
use crate::predict::arguments::{Arguments, Device, Setting};

pub use known::{GpuPart, Here, Known};

pub use vgpu::{Found, Vgpu};

use vgpu::vgpus;

/// A video card that QEMU emulates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Card {
    /// The card's place among the domain's `<video>` elements. `None` if libvirt adds the card
    /// because there are `<graphics>` and no `<video>` (libvirt src/conf/domain_conf.c,
    /// `virDomainDefAddImplicitVideo`).
    pub place: Option<usize>,
    /// The `type` of the card's model; `None` if libvirt chooses.
    pub model: Option<String>,
    /// True if the card renders with the host's OpenGL (virtio with accel3d).
    pub gl: bool,
    /// The settings that libvirt's checks depend on.
    pub settings: VideoSettings,
}

/// A `<graphics>`, as QEMU's frontend that shows screens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// The frontend's place among the domain's `<graphics>`; `None` if a plan adds it.
    pub place: Option<usize>,
    /// The frontend's type.
    pub kind: GraphicsType,
    /// True if the frontend has OpenGL.
    pub gl: bool,
    /// The distance from which a viewer can reach the frontend.
    pub reach: Reach,
    /// True if the frontend listens on an address or a socket.
    pub listens: bool,
    /// For dbus: true if the display is peer to peer, and not on a bus.
    pub p2p: bool,
    /// The path of the frontend's render node; `None` if no node is named.
    pub rendernode: Option<String>,
    /// The settings that libvirt's checks depend on.
    pub settings: GraphicsSettings,
}

/// The screens of a domain and the graphics that show them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screens {
    /// The emulated cards, in the order in which QEMU creates them.
    pub cards: Vec<Card>,
    /// The vfio devices, in the order in which QEMU creates them, after the cards (libvirt
    /// src/qemu/qemu_command.c, `qemuBuildCommandLine`).
    pub vgpus: Vec<Vgpu>,
    /// The graphics, in the order of the XML.
    pub frontends: Vec<Frontend>,
    /// True if there is any `<video>`, even with model `none`. libvirt then adds no card.
    pub video_said: bool,
    /// True if the machine has fw_cfg with DMA, which ramfb needs (QEMU hw/display/ramfb.c). pc,
    /// q35, microvm and virt have it; machines of POWER, s390 and MIPS don't. Any other is assumed
    /// to have it.
    pub has_fw_cfg_dma: bool,
    /// True if libvirt knows no PCI bus of the machine (microvm, isapc, none).
    pub lacks_pci: bool,
    /// True if the guest runs without KVM, in QEMU's emulation (`<domain type='qemu'>`).
    pub without_kvm: bool,
    /// libvirt's refusal of the guest on a host without KVM; `None` if the guest needs no KVM.
    pub refused_without_kvm: Option<String>,
    /// The number of `<video>` elements with model `none`.
    pub none_cards: usize,
    /// True if there is a `<graphics type='desktop'>`, which QEMU does not have.
    pub desktop: bool,
    /// The settings that libvirt's and QEMU's checks depend on, and that no plan changes.
    pub settings: DomainSettings,
    /// The user's own arguments for QEMU.
    pub arguments: Arguments,
    /// The cards of the user's own arguments that QEMU creates before all others.
    pub cards_before: Vec<Card>,
    /// The cards of the user's own arguments that QEMU creates after all others.
    pub cards_after: Vec<Card>,
    /// True if each guest has its own `/dev` with only the devices in its XML; `None` if that is
    /// not known.
    pub own_dev: Option<bool>,
    /// True if the domain gives QEMU an X or Wayland display in its environment.
    pub has_a_screen: bool,
    /// QEMU's message if a device of the user's own takes the slot of one of libvirt's devices.
    pub slot_taken: Option<String>,
    /// The `-set device.…` arguments for devices of libvirt's that QEMU does not find, because
    /// libvirt describes devices in JSON; also the arguments that QEMU can't parse.
    pub dead_settings: Vec<String>,
    /// The `-set device.…` arguments for which QEMU finds libvirt's device, by the device's id in
    /// QEMU and the property.
    pub live_settings: BTreeMap<(String, String), Vec<Setting>>,
}

impl Frontend {
    /// Returns whether libvirt starts a dbus-daemon for the display: one of type dbus that is
    /// neither peer to peer nor on a bus that has an address.
    pub(crate) fn has_daemon(&self) -> bool {
        self.kind == GraphicsType::Dbus && !self.p2p && !self.settings.has_address
    }

    /// Returns whether libvirt gives QEMU a render node for the frontend.
    pub(crate) fn renders(&self) -> bool {
        match self.kind {
            GraphicsType::Spice | GraphicsType::Dbus => self.gl,
            GraphicsType::EglHeadless => true,
            _ => false,
        }
    }

    /// Returns whether libvirt lets the guest open the render node that the frontend names. For
    /// dbus, libvirt does so even without gl (libvirt src/conf/domain_conf.c,
    /// `virDomainGraphicsGetRenderNode`).
    pub(crate) fn hands_over_its_node(&self) -> bool {
        self.rendernode.is_some() && (self.renders() || self.kind == GraphicsType::Dbus)
    }

    /// Returns whether the frontend listens on TCP, that is on an address (127.0.0.1 included) or
    /// on a network.
    pub(crate) fn is_on_tcp(&self) -> bool {
        let kinds = [GraphicsType::Spice, GraphicsType::Vnc, GraphicsType::Rdp];
        kinds.contains(&self.kind) && self.listens && self.reach != Reach::Local
    }
}

impl Screens {
    /// Returns the screens of a domain. `known` returns the facts about a device. `abilities` are
    /// the host's.
    pub fn of(
        domain: &Domain<'_, '_>,
        known: &dyn Fn(DeviceId) -> Known,
        abilities: &Abilities,
    ) -> Self {
        let mut screens = Screens {
            cards: cards(domain),
            vgpus: vgpus(domain, known, abilities),
            video_said: !domain.videos.is_empty(),
            has_fw_cfg_dma: !domain.arch.as_deref().is_some_and(|arch| {
                ["ppc", "s390", "mips"]
                    .iter()
                    .any(|without| arch.starts_with(without))
            }),
            lacks_pci: matches!(
                domain.machine.as_deref(),
                Some("microvm" | "isapc" | "none")
            ),
            frontends: frontends(domain, abilities),
            without_kvm: domain.virt_type == "qemu",
            refused_without_kvm: refused_without_kvm(domain),
            none_cards: domain
                .videos
                .iter()
                .filter(|video| video.model.as_deref() == Some("none"))
                .count(),
            desktop: domain
                .graphics
                .iter()
                .any(|graphics| graphics.element.attribute("type").as_deref() == Some("desktop")),
            settings: domain.settings.clone(),
            arguments: Arguments::read(domain.arguments.iter().map(|a| a.value.as_str())),
            cards_before: Vec::new(),
            cards_after: Vec::new(),
            own_dev: abilities.own_dev,
            has_a_screen: has_a_screen(domain),
            slot_taken: None,
            dead_settings: Vec::new(),
            live_settings: BTreeMap::new(),
        };
        screens.imply();
        screens.apply_arguments(domain, abilities);
        screens
    }

    /// Adds the card that libvirt implies if there are graphics and no `<video>`; else removes it.
    pub(crate) fn imply(&mut self) {
        self.cards.retain(|card| card.place.is_some());
        if !self.video_said && !self.frontends.is_empty() {
            self.cards.push(Card {
                settings: VideoSettings {
                    heads: 1,
                    ..VideoSettings::default()
                },
                ..Card::default()
            });
        }
    }

    /// Returns a device that occurs twice in the domain, if there is one. libvirt refuses every
    /// such domain.
    pub(crate) fn twice(&self) -> Option<DeviceId> {
        let mut seen = BTreeSet::new();
        let mut ids = self.vgpus.iter().map(|vgpu| vgpu.id);
        ids.find(|id| !seen.insert(*id))
    }

    /// Returns the first device whose driver opens it only for a VM with KVM, if the guest runs
    /// without KVM.
    #[must_use]
    pub(crate) fn lacks_kvm(&self) -> Option<&Vgpu> {
        let mut vgpus = self.vgpus.iter();
        vgpus.find(|vgpu| self.without_kvm && vgpu.known.finding.facts.kvm)
    }

    /// Returns the vfio devices in the user's own arguments.
    pub(crate) fn own_vfio(&self) -> impl Iterator<Item = &Device> {
        self.arguments
            .devices
            .iter()
            .filter(|device| device.is_vfio())
    }

    /// Returns the arguments that are not read and may decide whether the domain starts. Empty if
    /// no vfio device wants a display, because gfxplane then ignores their effect.
    pub(crate) fn unread(&self) -> &[String] {
        if self.wants_display() {
            &self.arguments.unread
        } else {
            &[]
        }
    }

    /// Returns whether gfxplane ignores QEMU's refusals: if no vfio device wants a display, and
    /// arguments that are not read decide what QEMU does. A `-set` that certainly ends QEMU
    /// ([`Screens::dead_settings`]) is never ignored.
    pub(crate) fn is_none_of_ours(&self) -> bool {
        let is_read = self.arguments.unread.is_empty() || !self.dead_settings.is_empty();
        !is_read && !self.wants_display()
    }

    fn wants_display(&self) -> bool {
        let hostdev = self.vgpus.iter().any(|vgpu| vgpu.is_pci && vgpu.display);
        hostdev || self.own_vfio().any(Device::wants_display)
    }

    /// Returns whether QEMU finds a render node; `None` if that is not known. libvirt puts only the
    /// nodes of graphics with OpenGL into the guest's `/dev`.
    pub(crate) fn has_render_node(&self) -> Option<bool> {
        let mut all = self.frontends.iter();
        if all.any(|f| f.renders() || f.hands_over_its_node()) {
            return Some(true);
        }
        (self.own_dev == Some(true)).then_some(false)
    }
}

/// Returns libvirt's refusal of a guest of type kvm on a host without KVM; `None` for other types
/// (src/qemu/qemu_domain.c, `qemuDomainDefMachinePostParse`; src/qemu/qemu_validate.c,
/// `qemuValidateDomainDef`; seen with 11.3).
fn refused_without_kvm(domain: &Domain<'_, '_>) -> Option<String> {
    let program = domain.program();
    let program = program.display();
    (domain.virt_type == "kvm").then(|| match &domain.machine {
        None => format!("could not get preferred machine for {program} type=kvm"),
        Some(_) => format!("Emulator '{program}' does not support virt type 'kvm'"),
    })
}

/// Returns the emulated cards in the order in which QEMU creates them: first the primary cards,
/// from the last to the first in the XML, and then the other cards in the XML's order.
fn cards(domain: &Domain<'_, '_>) -> Vec<Card> {
    let (mut first, mut cards) = (Vec::new(), Vec::new());
    for (place, video) in domain.videos.iter().enumerate() {
        if video.model.as_deref() == Some("none") {
            continue;
        }
        let card = Card {
            place: Some(place),
            model: video.model.clone(),
            // vhost-user-gpu draws in a process of its own, and asks QEMU for no OpenGL.
            gl: video.settings.accel3d
                && !video.settings.vhost_user
                && video.model.as_deref() == Some("virtio"),
            settings: video.settings.clone(),
        };
        if video.settings.primary {
            first.push(card);
        } else {
            cards.push(card);
        }
    }
    first.reverse();
    first.append(&mut cards);
    first
}

fn frontends(domain: &Domain<'_, '_>, abilities: &Abilities) -> Vec<Frontend> {
    domain
        .graphics
        .iter()
        .enumerate()
        .filter_map(|(place, graphics)| {
            let kind = graphics.kind?;
            Some(Frontend {
                place: Some(place),
                kind,
                gl: graphics.gl,
                reach: graphics.listen.reach(abilities.listen_default(kind)),
                listens: graphics.listen != Listen::None,
                p2p: graphics.p2p,
                rendernode: graphics.rendernode.clone(),
                settings: graphics.settings.clone(),
            })
        })
        .collect()
}

/// Returns whether a `<qemu:env>` of the domain may give QEMU an X or Wayland display, or chooses
/// between them (`GDK_BACKEND`).
fn has_a_screen(domain: &Domain<'_, '_>) -> bool {
    let variables = ["DISPLAY", "WAYLAND_DISPLAY", "GDK_BACKEND"];
    in_qemu(domain.element, "commandline").any(|env| {
        let name = env.attribute("name");
        env.is(Some(QEMU_NAMESPACE), "env")
            && name.is_some_and(|name| variables.contains(&name.as_ref()))
    })
}
