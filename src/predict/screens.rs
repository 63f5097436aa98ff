//! The screens of a domain without its XML: what makes a picture, and what shows it.
//!
//! Predictions are made from this, and plans change it.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use crate::device::evidence::{Evidence, Finding, Method, resolve};
use crate::device::facts::{Display, DisplayInterface, Facts, Reason};
use crate::device::id::DeviceId;
use crate::domain::{
    Domain, GraphicsSettings, GraphicsType, HostdevSettings, Listen, Property, QEMU_NAMESPACE,
    Reach, Switch, VideoSettings, parse_number,
};
use crate::predict::abilities::Abilities;
use crate::predict::arguments::{Arguments, Device, Globals, Local, Setting};
use crate::predict::properties::mistake;
use crate::predict::versions::{Libvirt, devices_are_json, reads_override};
use crate::xml::Element;

/// What is known of a device of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// The facts and their evidence.
    pub finding: Finding,
    /// The render node of the GPU behind the device, by path if it has one.
    pub render_node: Option<String>,
    /// The device's presence on the host; `None` if nobody looked.
    pub here: Option<Here>,
}

/// The presence of a device on a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Here {
    /// The host does not have it. A mediated device that is only defined counts as absent, because
    /// libvirt starts none.
    Absent,
    /// The host has it.
    Present {
        /// The driver that is bound to it.
        driver: Option<String>,
        /// The vendor of a PCI device.
        vendor: Option<u16>,
        /// The part of a graphics card that it is; `None` for anything else, and if nobody looked.
        gpu: Option<GpuPart>,
    },
}

/// The part of a graphics card that a PCI device is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuPart {
    /// The card itself.
    Whole,
    /// A virtual function of it.
    Function,
}

impl GpuPart {
    /// The PCI base class of display controllers (include/linux/pci_ids.h, `PCI_BASE_CLASS_DISPLAY`).
    const DISPLAY: u32 = 0x03;

    /// Tells it from the PCI class in 24 bits, and from whether the device is a virtual function.
    #[must_use]
    pub fn of(class: u32, is_function: bool) -> Option<Self> {
        (class >> 16 == Self::DISPLAY).then_some(if is_function {
            GpuPart::Function
        } else {
            GpuPart::Whole
        })
    }
}

impl Known {
    /// Makes the knowledge of a device that this host does not have or has not looked at.
    #[must_use]
    pub fn nothing(reason: Reason) -> Self {
        Known {
            finding: resolve(Vec::new(), reason),
            render_node: None,
            here: None,
        }
    }

    /// Returns the driver that is bound to the device; `None` if there is none, or nobody looked.
    #[must_use]
    pub fn driver(&self) -> Option<&str> {
        match &self.here {
            Some(Here::Present { driver, .. }) => driver.as_deref(),
            _ => None,
        }
    }

    /// Returns what the device is of a graphics card; `None` if it is nothing of one, or nobody
    /// looked.
    #[must_use]
    pub fn gpu(&self) -> Option<GpuPart> {
        match self.here {
            Some(Here::Present { gpu, .. }) => gpu,
            _ => None,
        }
    }

    /// Returns whether the display was measured on the device itself.
    #[must_use]
    pub fn is_measured(&self) -> bool {
        let evidence = self.finding.evidence.as_ref();
        self.finding.facts.display.is_answer()
            && evidence.is_some_and(|evidence| evidence.method.is_measured())
    }
}

/// The display that QEMU finds when it asks a device with `display=on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Found {
    /// A dmabuf.
    Dmabuf,
    /// A region.
    Region,
    /// No display.
    Nothing,
}

/// A video card that QEMU emulates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// The card's place among the domain's `<video>` elements. `None` if libvirt adds the card
    /// because there are `<graphics>` and no `<video>` (libvirt src/conf/domain_conf.c,
    /// `virDomainDefAddImplicitVideo`).
    pub place: Option<usize>,
    /// The `type` of its model; `None` if libvirt chooses.
    pub model: Option<String>,
    /// True if it renders with the host's OpenGL (virtio with accel3d).
    pub gl: bool,
    /// True if it hands over dmabufs (virtio served by vhost-user-gpu; `blob` does not count).
    pub dmabuf: bool,
    /// The settings that libvirt's checks depend on.
    pub settings: VideoSettings,
}

/// A vfio device of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vgpu {
    /// The device's place among the domain's hostdevs.
    pub place: usize,
    /// The device.
    pub id: DeviceId,
    /// The attribute `model` of a mediated device; `vfio-pci` for a PCI device.
    pub model: String,
    /// True if QEMU can have a display for it: `vfio-pci`.
    pub is_pci: bool,
    /// The settings that libvirt's checks and its handling of the device depend on.
    pub settings: HostdevSettings,
    /// True if the attribute `display` is there, whatever its value.
    pub says_display: bool,
    /// True if QEMU gets `display=on`, from the attribute or from `qemu:override`, which overrules
    /// the attribute.
    pub display: bool,
    /// True if the attribute says `display='on'`.
    pub asked: bool,
    /// True if QEMU gets `ramfb=on`.
    pub ramfb: bool,
    /// True if the attribute says `ramfb='on'`.
    pub ramfb_asked: bool,
    /// The properties that `qemu:override` gives in a type that QEMU does not take, with its words.
    pub mistyped: BTreeMap<String, String>,
    /// The properties that `qemu:override` sets.
    pub properties: BTreeMap<String, String>,
    /// The properties that `-set` arguments set and QEMU finds. They overrule `qemu:override`.
    pub set: BTreeMap<String, String>,
    /// The properties that `-global` arguments set. Everything else overrules them.
    pub globals: Globals,
    /// What is known of the device, as QEMU will find it.
    pub known: Known,
    /// The vendor's driver from which libvirt takes the device because of managed='yes'. The vGPU
    /// that the driver made of the device is then lost.
    pub lost: Option<String>,
    /// True if libvirt binds it to vfio-pci before QEMU runs.
    pub rebound: bool,
}

/// Intel's PCI vendor ID.
const INTEL: u16 = 0x8086;

/// The last slot of a PCI bus.
const LAST_SLOT: u32 = 31;

/// NVIDIA's driver, which is a vfio driver for virtual functions with a vGPU.
const NVIDIA: &str = "nvidia";

impl Vgpu {
    /// Returns whether libvirt binds the device to vfio-pci (or to the device's variant of
    /// vfio-pci) before QEMU runs.
    ///
    /// It does so with managed='yes' if a driver of the host's is bound to the device, or none, and
    /// not the one that `<driver model=…>` names (libvirt src/util/virpci.c, `virPCIDeviceDetach`,
    /// `virPCIDeviceFindBestVFIOVariant`). NVIDIA's own driver loses its virtual functions, too:
    /// libvirt looks for variants in the kernel's modules.alias, which does not have NVIDIA's. It
    /// may have another vendor's.
    fn is_rebound(&self) -> bool {
        let Some(Here::Present { driver, .. }) = &self.known.here else {
            return false;
        };
        let stays = driver.as_ref().is_some_and(|driver| {
            let is_vfio = self.known.finding.facts.display != Display::Unknown(Reason::NoDriver);
            self.settings.driver.as_ref() == Some(driver) || is_vfio && driver != NVIDIA
        });
        matches!(self.id, DeviceId::Pci(_)) && self.settings.managed && !stays
    }

    /// Returns the displays that QEMU may find: exactly one if the display is known.
    #[must_use]
    pub fn found(&self) -> Vec<Found> {
        if !self.is_pci {
            return vec![Found::Nothing];
        }
        match &self.known.finding.facts.display {
            Display::Known(interfaces) => vec![match interfaces.first() {
                Some(DisplayInterface::Dmabuf) => Found::Dmabuf,
                Some(DisplayInterface::Region) => Found::Region,
                None => Found::Nothing,
            }],
            // QEMU asks for dmabuf first and believes the yes.
            Display::Unknown(Reason::Untrusted) => vec![Found::Dmabuf],
            Display::Unknown(_) => vec![Found::Dmabuf, Found::Region, Found::Nothing],
        }
    }

    /// Returns whether the device has an OpRegion; `None` if that is not known.
    ///
    /// Rules and kernel attributes say nothing of a missing one. But a device without a display has
    /// none, unless it is a passed-through GPU of Intel's. Only Intel's devices have one (vfio's
    /// vfio_pci_igd.c).
    #[must_use]
    pub fn has_opregion(&self) -> Option<bool> {
        let facts = &self.known.finding.facts;
        let vendor = match self.known.here {
            Some(Here::Present { vendor, .. }) => vendor,
            _ => None,
        };
        match (&facts.opregion, &facts.device) {
            (Some(_), _) => Some(true),
            (None, Some(_)) => Some(false),
            (None, None) if vendor.is_some_and(|vendor| vendor != INTEL) => Some(false),
            (None, None) if vendor.is_none() && facts.display == Display::NONE => Some(false),
            (None, None) => None,
        }
    }

    /// Returns whether it has an EDID region; `None` if that is not known.
    #[must_use]
    pub fn has_edid(&self) -> Option<bool> {
        let facts = &self.known.finding.facts;
        match (&facts.edid, &facts.device) {
            (Some(_), _) => Some(true),
            (None, Some(_)) => Some(false),
            (None, None) => None,
        }
    }

    /// Switches the display on or off in the place that sets it: `qemu:override` or the attribute.
    /// Removes a `-set`.
    pub fn set_display(&mut self, on: bool) {
        self.display = on;
        self.set.remove("display");
        self.mistyped.remove("display");
        match self.properties.get_mut("display") {
            Some(value) => *value = if on { "on" } else { "off" }.into(),
            None => self.asked = on,
        }
    }

    /// Switches ramfb on or off by the attribute, by which libvirt chooses the driver that has it.
    /// Removes a `-set`.
    pub fn set_ramfb(&mut self, on: bool) {
        self.set.remove("ramfb");
        self.properties.remove("ramfb");
        self.mistyped.remove("ramfb");
        self.ramfb = on;
        self.ramfb_asked = on;
    }

    /// Returns the value of a property that QEMU gets from `-set`, `qemu:override` or `-global`.
    #[must_use]
    pub fn said(&self, property: &str) -> Option<&str> {
        let value = self.set.get(property);
        let value = value.or_else(|| self.properties.get(property));
        value
            .or_else(|| self.globals.get(property))
            .map(String::as_str)
    }

    /// Returns QEMU's type of the device. The attribute makes libvirt choose `vfio-pci-nohotplug`,
    /// which has ramfb (libvirt src/qemu/qemu_command.c, `qemuBuildHostdevMdevModelTypeString`).
    /// `takes_ramfb` is true if libvirt passes the attribute on.
    #[must_use]
    pub fn driver(&self, takes_ramfb: bool) -> &str {
        let said = self
            .set
            .get("driver")
            .or_else(|| self.properties.get("driver"));
        match said {
            Some(driver) => driver,
            None if self.ramfb_asked && takes_ramfb => "vfio-pci-nohotplug",
            None => "vfio-pci",
        }
    }

    /// Returns whether QEMU gets a value for ramfb, on or off. `takes_ramfb` is true if libvirt
    /// passes the attribute on.
    #[must_use]
    pub fn says_ramfb(&self, takes_ramfb: bool) -> bool {
        self.said("ramfb").is_some() || self.ramfb_asked && takes_ramfb
    }

    /// Returns whether QEMU gets a value for ramfb of a driver that has none. That is the driver of
    /// a device that may be plugged in while the guest runs.
    #[must_use]
    pub fn lacks_ramfb(&self, takes_ramfb: bool) -> bool {
        self.driver(takes_ramfb) == "vfio-pci" && self.says_ramfb(takes_ramfb)
    }

    /// Returns a property as a switch, from its value in [`said`](Self::said).
    #[must_use]
    pub fn switch(&self, property: &str) -> Option<bool> {
        Some(matches!(self.said(property)?, "on" | "true" | "yes"))
    }
}

/// A frontend, which shows screens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// The frontend's place among the domain's `<graphics>`; `None` if a plan adds it.
    pub place: Option<usize>,
    /// Its type.
    pub kind: GraphicsType,
    /// True if it has OpenGL.
    pub gl: bool,
    /// The distance from which a viewer can reach it.
    pub reach: Reach,
    /// True if it listens by itself. A VNC that doesn't is not there until a viewer comes.
    pub listens: bool,
    /// dbus: true if it is peer to peer, and not on a bus.
    pub p2p: bool,
    /// dbus: true if libvirt starts a dbus-daemon for it, as it is neither p2p nor on a bus that
    /// has an address.
    pub daemon: bool,
    /// The path of its render node.
    pub rendernode: Option<String>,
    /// The settings that libvirt's checks depend on.
    pub settings: GraphicsSettings,
}

/// The screens of a domain and what shows them.
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
    /// True if the guest's memory is a memfd.
    pub memfd: bool,
    /// The number of `<video>` elements with model `none`.
    pub none_cards: usize,
    /// The `type` of each character device that needs spice.
    pub spice_chardevs: Vec<String>,
    /// The `type` of each `<audio>`.
    pub audio: Vec<String>,
    /// Whether there is a `<sound>`.
    pub sound: bool,
    /// True if there is a `<graphics type='desktop'>`, which QEMU does not have.
    pub desktop: bool,
    /// The errors of libvirt's parser, in its words.
    pub misread: Vec<String>,
    /// The user's own arguments for QEMU.
    pub arguments: Arguments,
    /// The cards of the user's own arguments that QEMU creates before all others.
    pub cards_before: Vec<Card>,
    /// The cards of the user's own arguments that QEMU creates after all others.
    pub cards_after: Vec<Card>,
    /// True if each guest has a `/dev` of its own that holds only what its XML names; `None` if
    /// that is not known.
    pub own_dev: Option<bool>,
    /// True if QEMU gets an X or a Wayland display to open.
    pub has_a_screen: bool,
    /// What QEMU says if a device of the user's own takes the slot of one of libvirt's devices.
    pub slot_taken: Option<String>,
    /// The `-set device.…` arguments for devices of libvirt's, which QEMU does not find because
    /// libvirt describes devices in JSON; and those that QEMU can't parse.
    pub dead_settings: Vec<String>,
    /// The `-set device.…` arguments for these devices that QEMU finds, by device (as QEMU knows it)
    /// and property.
    pub live_settings: BTreeMap<(String, String), Vec<Setting>>,
}

impl Frontend {
    /// Whether libvirt gives QEMU a render node for it.
    #[must_use]
    pub fn renders(&self) -> bool {
        match self.kind {
            GraphicsType::Spice | GraphicsType::Dbus => self.gl,
            GraphicsType::EglHeadless => true,
            _ => false,
        }
    }

    /// Whether libvirt lets the guest have the render node that it names: dbus may have one without gl (libvirt
    /// src/conf/domain_conf.c, `virDomainGraphicsGetRenderNode`).
    #[must_use]
    pub fn hands_over_its_node(&self) -> bool {
        self.rendernode.is_some() && (self.renders() || self.kind == GraphicsType::Dbus)
    }

    /// Whether it listens on an address or a network.
    #[must_use]
    pub fn is_on_tcp(&self) -> bool {
        let kinds = [GraphicsType::Spice, GraphicsType::Vnc, GraphicsType::Rdp];
        kinds.contains(&self.kind) && self.listens && self.reach != Reach::Local
    }
}

impl Screens {
    /// Returns the screens of a domain. `known` returns what is known of each device. `abilities`
    /// matters for the place where spice and VNC listen by qemu.conf.
    #[must_use]
    pub fn of(
        domain: &Domain<'_, '_>,
        known: &dyn Fn(DeviceId) -> Known,
        abilities: &Abilities,
    ) -> Self {
        let frontends: Vec<Frontend> = domain
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
                    daemon: kind == GraphicsType::Dbus
                        && !graphics.p2p
                        && graphics.element.attribute("address").is_none(),
                    rendernode: graphics.rendernode.clone(),
                    settings: graphics.settings.clone(),
                })
            })
            .collect();
        // The primary ones, the last of them first, and the others.
        let (mut first, mut cards) = (Vec::new(), Vec::new());
        for (place, video) in domain.videos.iter().enumerate() {
            if video.model.as_deref() == Some("none") {
                continue;
            }
            let card = Card {
                place: Some(place),
                model: video.model.clone(),
                // vhost-user-gpu draws in a process of its own, and asks QEMU for no OpenGL.
                gl: video.accel3d && !video.vhost_user && video.model.as_deref() == Some("virtio"),
                dmabuf: video.vhost_user,
                settings: video.settings.clone(),
            };
            if video.primary {
                first.push(card);
            } else {
                cards.push(card);
            }
        }
        first.reverse();
        first.append(&mut cards);
        let cards = first;
        let mut screens = Screens {
            cards,
            vgpus: vgpus(domain, known, abilities),
            video_said: !domain.videos.is_empty(),
            has_fw_cfg_dma: !domain.arch.as_deref().is_some_and(|arch| {
                ["ppc", "s390", "mips"]
                    .iter()
                    .any(|without| arch.starts_with(without))
            }),
            frontends,
            memfd: domain.memfd,
            none_cards: domain
                .videos
                .iter()
                .filter(|video| video.model.as_deref() == Some("none"))
                .count(),
            spice_chardevs: domain.spice_chardevs.clone(),
            audio: domain.audio.clone(),
            sound: domain.sound,
            desktop: domain
                .graphics
                .iter()
                .any(|graphics| graphics.element.attribute("type").as_deref() == Some("desktop")),
            misread: domain.misread.clone(),
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

    /// Adds or removes the card that libvirt implies, according to the rest.
    pub fn imply(&mut self) {
        self.cards.retain(|card| card.place.is_some());
        if !self.video_said && !self.frontends.is_empty() {
            self.cards.push(Card {
                place: None,
                model: None,
                gl: false,
                dmabuf: false,
                settings: VideoSettings {
                    heads: 1,
                    ..VideoSettings::default()
                },
            });
        }
    }

    /// Returns a device that occurs twice, which libvirt refuses in every domain.
    #[must_use]
    pub fn twice(&self) -> Option<DeviceId> {
        let mut seen = BTreeSet::new();
        let mut ids = self.vgpus.iter().map(|vgpu| vgpu.id);
        ids.find(|id| !seen.insert(*id))
    }

    /// Returns whether something occurs twice that libvirt takes only once, so that nobody knows
    /// which of the two is meant.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        let kinds: BTreeSet<GraphicsType> = self.frontends.iter().map(|f| f.kind).collect();
        self.twice().is_some() || kinds.len() < self.frontends.len()
    }

    /// Returns the vfio devices in the user's own arguments.
    pub fn own_vfio(&self) -> impl Iterator<Item = &Device> {
        self.arguments
            .devices
            .iter()
            .filter(|device| device.is_vfio())
    }

    /// Returns the arguments that are not read and may decide whether the domain starts. Empty if
    /// no vfio device wants a display, as they don't concern us then.
    #[must_use]
    pub fn unread(&self) -> &[String] {
        if self.wants_display() {
            &self.arguments.unread
        } else {
            &[]
        }
    }

    /// Returns whether no vfio device wants a display, and arguments that are not read decide what
    /// QEMU does with the others.
    #[must_use]
    pub fn is_none_of_ours(&self) -> bool {
        let is_read = self.arguments.unread.is_empty() || !self.dead_settings.is_empty();
        !is_read && !self.wants_display()
    }

    fn wants_display(&self) -> bool {
        let hostdev = self.vgpus.iter().any(|vgpu| vgpu.is_pci && vgpu.display);
        hostdev || self.own_vfio().any(Device::wants_display)
    }

    /// Returns whether QEMU finds a render node; `None` if that is not known. libvirt puts the
    /// nodes of graphics with OpenGL into the guest's `/dev`, and no others.
    #[must_use]
    pub fn has_render_node(&self) -> Option<bool> {
        let mut all = self.frontends.iter();
        if all.any(|f| f.renders() || f.hands_over_its_node()) {
            return Some(true);
        }
        (self.own_dev == Some(true)).then_some(false)
    }

    /// Applies the user's own arguments to the cards and devices.
    fn apply_arguments(&mut self, domain: &Domain<'_, '_>, abilities: &Abilities) {
        let json = devices_are_json(abilities, |capability| is_deleted(domain, capability));
        let card = |driver: &str| Card {
            place: None,
            model: Some(driver.to_owned()),
            gl: driver.contains("-gl"),
            dmabuf: false,
            settings: VideoSettings::default(),
        };
        let lacks_qxl =
            |driver: &str| driver.starts_with("qxl") && abilities.has("spice") != Some(true);
        let mut taken = 0;
        if let Some(driver) = self.arguments.vga {
            if !self.take_slot(domain, &mut taken) || lacks_qxl(driver) {
                self.doubt("-vga");
            }
            self.cards_before.push(card(driver));
        }
        for driver in self
            .arguments
            .on_pci
            .clone()
            .iter()
            .filter(|_| json == Some(true))
        {
            if !self.take_slot(domain, &mut taken) && is_emulated(driver) {
                self.doubt(&format!("-device {driver}"));
            }
        }
        for device in self.arguments.devices.clone() {
            let what = format!("-device {}", device.driver);
            let before = !device.json && json == Some(true);
            match json {
                _ if device.is_vfio() => {}
                None => self.doubt(&what),
                _ if lacks_qxl(&device.driver) => self.doubt(&what),
                Some(_) if before => self.cards_before.push(card(&device.driver)),
                Some(_) => self.cards_after.push(card(&device.driver)),
            }
        }
        self.apply_settings(domain, json);
        let globals = self.arguments.globals();
        let all = Libvirt::possible(abilities);
        for vgpu in &mut self.vgpus {
            let hostdev = &domain.hostdevs[vgpu.place];
            let takes = all.iter().any(|libvirt| libvirt.takes_display(vgpu.id));
            vgpu.globals = globals(vgpu.driver(takes));
            // Options have no types.
            if json == Some(false) {
                vgpu.mistyped.clear();
            }
            // libvirt always passes it for a mediated device.
            let is_said = match vgpu.id {
                DeviceId::Mdev(_) => true,
                DeviceId::Pci(_) => takes && hostdev.display.is_some(),
            };
            if is_said {
                vgpu.globals.pass_over("display");
            }
            if takes && hostdev.ramfb == Some(Switch::On) {
                vgpu.globals.pass_over("ramfb");
            }
            if let Some(value) = vgpu.said("display").map(str::to_owned) {
                // With auto, QEMU shows what there is, and starts if there is nothing.
                let auto = value == "auto" && vgpu.found() != [Found::Nothing];
                vgpu.display = auto || vgpu.switch("display") == Some(true);
            }
            vgpu.ramfb = vgpu.switch("ramfb").unwrap_or(vgpu.ramfb);
        }
        self.doubt_what_depends_on_more();
    }

    /// A device that QEMU makes before libvirt's devices, and that names no address, gets the next slot
    /// that the machine itself leaves free. libvirt has given the first to one of its own, if it has any. `taken`: how many
    /// of the user's have one. Returns false for a machine whose slots are not known.
    fn take_slot(&mut self, domain: &Domain<'_, '_>, taken: &mut u32) -> bool {
        let machine = domain.machine.as_deref().unwrap_or_default();
        let first = match machine {
            _ if machine.contains("q35") => 1,
            _ if machine.starts_with("pc") => 2,
            _ => return false,
        };
        let slot = first + *taken;
        *taken += 1;
        // The first that is not free counts, and a bus has no more slots: this stays linear.
        if self.slot_taken.is_some() || slot > LAST_SLOT {
            return true;
        }
        let mut devices = domain.devices.into_iter().flat_map(Element::children);
        let is_taken = devices.any(|device| {
            let address = device.children().find(|child| child.name() == "address");
            address.is_some_and(|address| is_at(address, slot))
        });
        // libvirt gives the first free slot to the first of its devices without an address.
        if is_taken || slot == first && !has_addresses(domain) {
            // It goes on: for whom, and that the user's device has it.
            self.slot_taken
                .get_or_insert_with(|| format!("PCI: slot {slot} function 0 not available"));
        }
        true
    }

    fn apply_settings(&mut self, domain: &Domain<'_, '_>, json: Option<bool>) {
        let settings = self.arguments.settings.clone();
        self.dead_settings.clone_from(&self.arguments.malformed);
        if json == Some(true) {
            let texts = settings.into_iter().map(|setting| setting.text);
            self.dead_settings.extend(texts);
            return;
        }
        let alias = |vgpu: &Vgpu| domain.hostdevs[vgpu.place].alias.as_str();
        // Of several the first.
        let places = self.vgpus.iter().enumerate().rev();
        let places: HashMap<&str, usize> = places.map(|(at, vgpu)| (alias(vgpu), at)).collect();
        for setting in settings {
            let Some(place) = places.get(setting.id.as_str()) else {
                continue;
            };
            let vgpu = &mut self.vgpus[*place];
            match json {
                None => self.doubt(&format!("-set {}", setting.property)),
                _ => {
                    let (property, value) = (setting.property.clone(), setting.value.clone());
                    vgpu.set.insert(property.clone(), value);
                    let key = (setting.id.clone(), property);
                    self.live_settings.entry(key).or_default().push(setting);
                }
            }
        }
    }

    /// Returns whether gtk has a screen to try: one of the domain's environment, or the X server of an
    /// SDL, which libvirt puts there (src/qemu/qemu_command.c, `qemuBuildGraphicsSDLCommandLine`).
    #[must_use]
    pub fn gtk_may_open(&self) -> bool {
        let names_a_server = |frontend: &Frontend| frontend.settings.x_display.is_some();
        self.has_a_screen || self.frontends.iter().any(names_a_server)
    }

    /// Marks as doubtful what is read but depends on something that nobody here looks at.
    fn doubt_what_depends_on_more(&mut self) {
        if let Some(display) = self.arguments.display.clone() {
            match display.kind {
                // It depends on whether QEMU may open that screen.
                Local::Gtk if self.gtk_may_open() => self.doubt("-display gtk"),
                Local::Sdl => self.doubt("-display sdl"),
                Local::EglHeadless if self.has_render_node().is_none() => {
                    self.doubt("-display egl-headless");
                }
                Local::Dbus if display.gl == Some(true) && self.has_render_node().is_none() => {
                    self.doubt("-display dbus");
                }
                _ => {}
            }
            if let Some(node) = &display.rendernode {
                let is_it = |f: &Frontend| f.rendernode.as_ref() == Some(node);
                if !self.frontends.iter().any(is_it) {
                    self.doubt("-display with a rendernode");
                }
            }
        }
        let lacks = self.lacks_its_node();
        let uncertain: Vec<String> = self
            .own_vfio()
            .filter(|device| lacks(device).is_none())
            .map(|device| format!("-device {}", device.driver))
            .collect();
        for what in uncertain {
            self.doubt(&what);
        }
        if self
            .vgpus
            .iter()
            .any(|vgpu| vgpu.globals.get("x-vga").is_some())
        {
            self.doubt("-global vfio-pci.x-vga");
        }
    }

    /// Returns a function that says whether the guest's `/dev` lacks the node of a vfio device in the
    /// user's own arguments; `None` if that is not known.
    pub fn lacks_its_node(&self) -> impl Fn(&Device) -> Option<bool> + use<> {
        let hostdevs: HashSet<DeviceId> = self.vgpus.iter().map(|vgpu| vgpu.id).collect();
        let is_pci = |id: DeviceId| matches!(id, DeviceId::Pci(_));
        let has_pci = hostdevs.iter().any(|id| is_pci(*id));
        let has_own_dev = self.own_dev == Some(true);
        move |device| {
            let with_iommufd = device.properties.contains_key("iommufd");
            let id = device.vfio_id();
            // Functions of a card may share a group, and with it a node.
            let may_share = id.is_none_or(is_pci) && has_pci;
            // One that is a hostdev, too, has its node, and what becomes of it twice is not known.
            let is_twice = id.is_some_and(|id| hostdevs.contains(&id));
            (has_own_dev && !with_iommufd && !may_share && !is_twice).then_some(true)
        }
    }

    fn doubt(&mut self, what: &str) {
        self.arguments.not_read(what);
    }
}

/// Returns whether an address is that of a slot on the first bus.
fn is_at(address: Element<'_, '_>, slot: u32) -> bool {
    let number = |name: &str| match address.attribute(name) {
        None => Some(0),
        Some(text) => parse_number(&text),
    };
    address.attribute("type").as_deref() == Some("pci")
        && number("domain") == Some(0)
        && number("bus") == Some(0)
        && number("slot") == Some(slot)
}

/// Returns whether libvirt has given the domain's PCI devices their addresses, as it does when it
/// defines a domain. It adds a memballoon if there is none.
fn has_addresses(domain: &Domain<'_, '_>) -> bool {
    let devices = || domain.devices.into_iter().flat_map(Element::children);
    let is_none = |device: Element<'_, '_>| {
        let model = device.attribute("model");
        let model = model.or_else(|| device.child("model").and_then(|m| m.attribute("type")));
        model.as_deref() == Some("none")
    };
    let on_pci = [
        "filesystem",
        "hostdev",
        "interface",
        "memballoon",
        "rng",
        "sound",
        "video",
    ];
    devices().any(|device| device.name() == "memballoon")
        && devices()
            .filter(|device| on_pci.contains(&device.name()) && !is_none(*device))
            .all(|device| device.child("address").is_some())
}

/// Returns whether QEMU gets an X or a Wayland display from its environment.
fn has_a_screen(domain: &Domain<'_, '_>) -> bool {
    let variables = ["DISPLAY", "WAYLAND_DISPLAY", "GDK_BACKEND"];
    domain.element.children().any(|child| {
        child.is(Some(QEMU_NAMESPACE), "commandline")
            && child.children().any(|env| {
                let name = env.attribute("name");
                env.is(Some(QEMU_NAMESPACE), "env")
                    && name.is_some_and(|name| variables.contains(&name.as_ref()))
            })
    })
}

/// Returns whether `<qemu:capabilities>` removes a capability. One that it also adds stays removed,
/// as libvirt adds first (src/qemu/qemu_process.c, `qemuProcessStartUpdateCustomCaps`).
fn is_deleted(domain: &Domain<'_, '_>, capability: &str) -> bool {
    domain.element.children().any(|child| {
        child.is(Some(QEMU_NAMESPACE), "capabilities")
            && child.children().any(|deleted| {
                deleted.is(Some(QEMU_NAMESPACE), "del")
                    && deleted.attribute("capability").as_deref() == Some(capability)
            })
    })
}

/// The beginnings of the names of QEMU's devices that make a screen by themselves.
const EMULATED: [&str; 12] = [
    "VGA",
    "secondary-vga",
    "ati-vga",
    "isa-vga",
    "isa-cirrus-vga",
    "bochs-display",
    "cirrus-vga",
    "qxl",
    "ramfb",
    "virtio-gpu",
    "virtio-vga",
    "vmware-svga",
];

/// The devices whose screens need something outside of QEMU: a device of the host's, or a process
/// that draws.
const SERVED: [&str; 3] = ["vfio-pci", "vhost-user-gpu", "vhost-user-vga"];

/// Returns whether a device of QEMU's, by the name of its driver, makes a screen without anything
/// outside of QEMU.
#[must_use]
pub fn is_emulated(driver: &str) -> bool {
    EMULATED.iter().any(|screen| driver.starts_with(screen))
}

/// Returns whether a device of QEMU's, by the name of its driver, makes a screen.
#[must_use]
pub fn is_screen(driver: &str) -> bool {
    is_emulated(driver) || SERVED.iter().any(|screen| driver.starts_with(screen))
}

fn vgpus(
    domain: &Domain<'_, '_>,
    known: &dyn Fn(DeviceId) -> Known,
    abilities: &Abilities,
) -> Vec<Vgpu> {
    let mut all = Vec::new();
    let is_overridden = reads_override(abilities) != Some(false);
    let mut overridden: HashMap<&str, Vec<&Property<'_, '_>>> = HashMap::new();
    for property in &domain.properties {
        let own = overridden.entry(property.alias.as_str()).or_default();
        own.push(property);
    }
    for (place, hostdev) in domain.hostdevs.iter().enumerate() {
        // libvirt refuses an alias that two have. Here the first has the properties.
        let own = overridden.remove(hostdev.alias.as_str());
        let own = || own.iter().flatten().filter(|_| is_overridden);
        let properties: BTreeMap<String, String> = own()
            // A removed property has QEMU's default. For these two that is known. Without the
            // attribute there is no ramfb to remove.
            .filter(|p| match p.name.as_str() {
                "display" => true,
                "ramfb" => p.kind != "remove" || hostdev.ramfb == Some(Switch::On),
                _ => p.kind != "remove",
            })
            .map(|p| match p.kind.as_str() {
                "remove" => (p.name.clone(), "off".to_owned()),
                _ => (p.name.clone(), p.value.clone().unwrap_or_default()),
            })
            .collect();
        let on = |switch| switch == Some(Switch::On);
        let mut vgpu = Vgpu {
            place,
            id: hostdev.id,
            model: hostdev.model.clone(),
            is_pci: hostdev.model == "vfio-pci",
            settings: hostdev.settings.clone(),
            says_display: hostdev.display.is_some(),
            display: on(hostdev.display),
            asked: on(hostdev.display),
            ramfb: on(hostdev.ramfb),
            ramfb_asked: on(hostdev.ramfb),
            mistyped: BTreeMap::new(),
            properties,
            set: BTreeMap::new(),
            globals: Globals::default(),
            known: known(hostdev.id),
            lost: None,
            rebound: false,
        };
        // Of several, libvirt lets the last stand.
        for property in own() {
            let value = property.value.as_deref().unwrap_or_default();
            match mistake(&property.name, &property.kind, value) {
                Some(words) => vgpu.mistyped.insert(property.name.clone(), words),
                None => vgpu.mistyped.remove(&property.name),
            };
        }
        if vgpu.is_rebound() {
            vgpu.rebound = true;
            let display = &vgpu.known.finding.facts.display;
            let is_vfio = *display != Display::Unknown(Reason::NoDriver);
            if is_vfio && *display != Display::NONE {
                vgpu.lost = vgpu.known.driver().map(str::to_owned);
            }
            let evidence = Evidence {
                source: Some("managed='yes': libvirt binds it to vfio-pci before QEMU runs".into()),
                ..Evidence::by(Method::Rule)
            };
            let facts = Facts::of(Display::NONE);
            vgpu.known.finding = resolve(vec![(facts, evidence)], Reason::NoDriver);
        }
        all.push(vgpu);
    }
    all
}
