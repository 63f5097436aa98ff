//! The screens of a domain without its XML: what makes a picture, and what shows it.
//!
//! This is what predictions are made of and what a plan changes; see [`crate::predict`] and
//! [`crate::plan`].

use std::collections::{BTreeMap, BTreeSet};

use crate::abilities::Abilities;
use crate::domain::{
    Domain, GraphicsSettings, GraphicsType, HostdevSettings, Listen, QEMU_NAMESPACE, Reach, Switch,
    VideoSettings,
};
use crate::evidence::{Evidence, Finding, Method, resolve};
use crate::facts::{Display, DisplayInterface, Facts, Reason};
use crate::names::DeviceId;

/// What is known of a device of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    /// Facts and evidence.
    pub finding: Finding,
    /// The render node of the GPU behind it, by path where there is one.
    pub render_node: Option<String>,
    /// Whether the host has it; `None` where nobody looked.
    pub here: Option<Here>,
}

/// Whether a host has a device.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Here {
    /// It has not. A mediated device that is only defined is not there, either: libvirt starts
    /// none.
    Absent,
    /// It has.
    Present {
        /// The driver that is bound to it.
        driver: Option<String>,
        /// The vendor of a PCI device.
        vendor: Option<u16>,
    },
}

impl Known {
    /// Of a device that this host does not have or has not looked at.
    #[must_use]
    pub fn nothing(reason: Reason) -> Self {
        Known {
            finding: resolve(Vec::new(), reason),
            render_node: None,
            here: None,
        }
    }

    /// The driver that is bound to it; `None` if there is none, or nobody looked.
    #[must_use]
    pub fn driver(&self) -> Option<&str> {
        match &self.here {
            Some(Here::Present { driver, .. }) => driver.as_deref(),
            _ => None,
        }
    }

    /// Whether it is a measurement of the device itself.
    #[must_use]
    pub fn is_measured(&self) -> bool {
        let evidence = self.finding.evidence.as_ref();
        self.finding.facts.display.is_answer()
            && evidence.is_some_and(|evidence| evidence.method.is_measured())
    }
}

/// What QEMU will find when it asks a device with `display=on`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Found {
    /// A dmabuf.
    Dmabuf,
    /// A region.
    Region,
    /// Nothing.
    Nothing,
}

/// A video card that QEMU emulates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Card {
    /// Its place among the domain's `<video>`s; `None`: libvirt adds it because there are
    /// `<graphics>` and no `<video>` (libvirt src/conf/domain_conf.c,
    /// `virDomainDefAddImplicitVideo`).
    pub place: Option<usize>,
    /// `type` of its model; `None`: libvirt chooses.
    pub model: Option<String>,
    /// Whether it renders with the host's OpenGL (virtio with accel3d).
    pub gl: bool,
    /// Whether it hands over dmabufs (virtio served by vhost-user-gpu; `blob` does not count).
    pub dmabuf: bool,
    /// What libvirt's rules depend on.
    pub settings: VideoSettings,
}

/// A vfio device of the domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vgpu {
    /// Its place among the domain's hostdevs.
    pub place: usize,
    /// Which device.
    pub id: DeviceId,
    /// Whether it is one for which QEMU has a display: `vfio-pci`.
    pub is_pci: bool,
    /// mdev: `model`; PCI devices are `vfio-pci`.
    pub model: String,
    /// What libvirt's rules and its handling of the device depend on.
    pub settings: HostdevSettings,
    /// Whether QEMU is told `display=on`: by the attribute, or by `qemu:override`, which goes over
    /// it.
    pub display: bool,
    /// Whether the attribute says so.
    pub asked: bool,
    /// `ramfb='on'`.
    pub ramfb: bool,
    /// What `qemu:override` sets.
    pub properties: BTreeMap<String, String>,
    /// What is known of it, as QEMU will find it.
    pub known: Known,
    /// A vendor's driver that libvirt takes the device from, as it is managed='yes', and what that
    /// driver made of the device is lost: a vGPU.
    pub lost: Option<String>,
    /// Whether libvirt binds it to vfio-pci before QEMU runs.
    pub rebound: bool,
}

/// Intel's PCI vendor ID.
const INTEL: u16 = 0x8086;

/// NVIDIA's driver, which is a vfio driver for virtual functions with a vGPU.
const NVIDIA: &str = "nvidia";

impl Vgpu {
    /// Whether libvirt binds the device to vfio-pci (or to the variant of vfio-pci for the device)
    /// before QEMU runs: with managed='yes', where a driver of the host's is bound to it, or none,
    /// and not the one that `<driver model=…>` names (libvirt src/util/virpci.c,
    /// `virPCIDeviceDetach`, `virPCIDeviceFindBestVFIOVariant`). NVIDIA's own driver is taken from
    /// its virtual functions, too: libvirt looks for variants in the kernel's modules.alias, and
    /// NVIDIA's is not among them. Another vendor's may be.
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

    /// What QEMU may find: one answer where the display is known.
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

    /// Whether it has an OpRegion; `None` if that is not known: rules and kernel attributes say
    /// nothing of a missing one, but that a device without a display has none, unless it is a
    /// passed-through GPU of Intel's. Only Intel's devices have one (vfio's vfio_pci_igd.c).
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

    /// Whether it has an EDID region; `None` if that is not known.
    #[must_use]
    pub fn has_edid(&self) -> Option<bool> {
        let facts = &self.known.finding.facts;
        match (&facts.edid, &facts.device) {
            (Some(_), _) => Some(true),
            (None, Some(_)) => Some(false),
            (None, None) => None,
        }
    }

    /// Switches the display on or off, where that is said: in `qemu:override` or by the attribute.
    pub fn set_display(&mut self, on: bool) {
        self.display = on;
        match self.properties.get_mut("display") {
            Some(value) => *value = if on { "on" } else { "off" }.into(),
            None => self.asked = on,
        }
    }

    /// A property of `qemu:override` that is a switch.
    #[must_use]
    pub fn switch(&self, property: &str) -> Option<bool> {
        match self.properties.get(property)?.as_str() {
            "on" | "true" | "yes" => Some(true),
            _ => Some(false),
        }
    }
}

/// Something that shows screens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frontend {
    /// Its place among the domain's `<graphics>`; `None`: a plan adds it.
    pub place: Option<usize>,
    /// Its type.
    pub kind: GraphicsType,
    /// Whether it has OpenGL.
    pub gl: bool,
    /// From where it is reached.
    pub reach: Reach,
    /// Whether it listens for itself; VNC that doesn't is not there until a viewer comes.
    pub listens: bool,
    /// dbus: peer to peer, not on a bus.
    pub p2p: bool,
    /// dbus: libvirt starts a dbus-daemon for it, as it is neither p2p nor on a bus that has an address.
    pub daemon: bool,
    /// The render node.
    pub rendernode: Option<String>,
    /// What libvirt's rules depend on.
    pub settings: GraphicsSettings,
}

/// The screens of a domain and what shows them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Screens {
    /// The emulated cards, in the order in which QEMU makes them.
    pub cards: Vec<Card>,
    /// The vfio devices, in the order in which QEMU makes them: after the cards (libvirt
    /// src/qemu/qemu_command.c, `qemuBuildCommandLine`).
    pub vgpus: Vec<Vgpu>,
    /// The graphics, in the order of the XML.
    pub frontends: Vec<Frontend>,
    /// Whether there is a `<video>` at all, `none` included: libvirt then adds no card.
    pub video_said: bool,
    /// QEMU arguments of the user's that have to do with displays: what they do is not known here.
    pub arguments: Vec<String>,
    /// Whether the guest's memory is a memfd.
    pub memfd: bool,
    /// How many `<video>`s have the model `none`.
    pub none_cards: usize,
    /// Character devices that need spice, by their `type`.
    pub spice_chardevs: Vec<String>,
    /// Whether there is an `<audio type='spice'>`.
    pub spice_audio: bool,
    /// Whether there is a `<graphics type='desktop'>`, which QEMU does not have.
    pub desktop: bool,
    /// What libvirt's parser refuses, in its words.
    pub misread: Vec<String>,
    /// `-set device.…` arguments for devices that libvirt makes: QEMU does not find these, as libvirt hands
    /// devices over as JSON.
    pub dead_settings: Vec<String>,
}

/// Options of QEMU that change what shows a screen.
const DISPLAY_OPTIONS: [&str; 8] = [
    "-readconfig",
    "-display",
    "-vnc",
    "-spice",
    "-nographic",
    "-sdl",
    "-curses",
    "-vga",
];

impl Screens {
    /// Those of a domain. `known` tells of each device; of `abilities` counts where spice and VNC
    /// listen by qemu.conf.
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
        let mut cards: Vec<Card> = Vec::new();
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
            let at = if video.primary { 0 } else { cards.len() };
            cards.insert(at, card);
        }
        let mut screens = Screens {
            cards,
            vgpus: vgpus(domain, known),
            video_said: !domain.videos.is_empty(),
            frontends,
            arguments: Vec::new(),
            memfd: domain.memfd,
            none_cards: domain
                .videos
                .iter()
                .filter(|video| video.model.as_deref() == Some("none"))
                .count(),
            spice_chardevs: domain.spice_chardevs.clone(),
            spice_audio: domain.spice_audio,
            desktop: domain
                .graphics
                .iter()
                .any(|graphics| graphics.element.attribute("type").as_deref() == Some("desktop")),
            misread: domain.misread.clone(),
            dead_settings: Vec::new(),
        };
        screens.imply();
        screens.read_arguments(domain);
        screens
    }

    /// Puts in the card that libvirt adds, or takes it out, whichever follows from the rest.
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

    /// A device that is there twice, which libvirt takes in no domain.
    #[must_use]
    pub fn twice(&self) -> Option<DeviceId> {
        let mut seen = BTreeSet::new();
        let mut ids = self.vgpus.iter().map(|vgpu| vgpu.id);
        ids.find(|id| !seen.insert(*id))
    }

    /// Whether there is something twice that libvirt takes only once, so that nobody knows which of
    /// them is meant.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        let kinds: BTreeSet<GraphicsType> = self.frontends.iter().map(|f| f.kind).collect();
        self.twice().is_some() || kinds.len() < self.frontends.len()
    }

    fn read_arguments(&mut self, domain: &Domain<'_, '_>) {
        let values: Vec<&str> = domain.arguments.iter().map(|a| a.value.as_str()).collect();
        // QEMU looks a -set up at once, so only what stands before it counts.
        let own = |id: &str, before: usize| {
            let (comma, start) = (format!(",id={id},"), format!("id={id},"));
            values[..before].iter().any(|value| {
                let value = format!("{value},");
                value.contains(&comma) || value.starts_with(&start)
            })
        };
        // With QEMU told to take devices as they were, -set finds them.
        let as_it_was = domain.element.children().any(|child| {
            child.is(Some(QEMU_NAMESPACE), "capabilities")
                && child.children().any(|deleted| {
                    let name = deleted.attribute("capability");
                    deleted.local_name() == "del"
                        && name.is_some_and(|name| name.starts_with("device.json"))
                })
        });
        let mut is_value = false;
        for (place, value) in values.iter().enumerate() {
            // Whatever follows -set is its value, another -set included.
            if std::mem::take(&mut is_value) {
                continue;
            }
            let option = value.replacen("--", "-", 1);
            let next = values.get(place + 1);
            is_value = option == "-set";
            if DISPLAY_OPTIONS.contains(&option.as_str()) {
                let words = std::iter::once(*value).chain(next.copied());
                self.arguments.push(words.collect::<Vec<_>>().join(" "));
            } else if next.is_some_and(|next| match option.as_str() {
                "-device" => makes_a_screen(next),
                "-global" => next.starts_with("vfio-pci"),
                _ => false,
            }) {
                self.arguments
                    .push(format!("{value} {}", next.unwrap_or(&"")));
            } else if let Some(setting) = next.filter(|_| option == "-set")
                && let Some(rest) = setting.strip_prefix("device.")
                && let Some((id, property)) = rest.split_once('.')
                && !own(id, place)
            {
                let property = property.split('=').next().unwrap_or_default();
                if !as_it_was {
                    self.dead_settings.push((*setting).to_owned());
                } else if matches!(property, "display" | "ramfb") {
                    self.arguments.push(format!("-set {setting}"));
                }
            }
        }
    }
}

/// Devices of QEMU that make a screen all by themselves, by the start of their names.
const EMULATED: [&str; 9] = [
    "VGA",
    "secondary-vga",
    "bochs-display",
    "cirrus-vga",
    "qxl",
    "ramfb",
    "virtio-gpu",
    "virtio-vga",
    "vmware-svga",
];

/// Those for whose screens something outside of QEMU is needed: a device of the host's, or a
/// process that draws.
const SERVED: [&str; 3] = ["vfio-pci", "vhost-user-gpu", "vhost-user-vga"];

/// Whether a device of QEMU's, by the name of its driver, makes a screen and needs nothing outside
/// of QEMU for it.
#[must_use]
pub fn is_emulated(driver: &str) -> bool {
    EMULATED.iter().any(|screen| driver.starts_with(screen))
}

/// Whether a device of QEMU's, by the name of its driver, makes a screen.
#[must_use]
pub fn is_screen(driver: &str) -> bool {
    is_emulated(driver) || SERVED.iter().any(|screen| driver.starts_with(screen))
}

/// Whether a `-device` of the user's is something with a screen.
fn makes_a_screen(device: &str) -> bool {
    let driver = device.split(',').next().unwrap_or_default();
    let driver = driver.strip_prefix("driver=").unwrap_or(driver);
    is_screen(driver) || device.trim_start().starts_with('{')
}

fn vgpus(domain: &Domain<'_, '_>, known: &dyn Fn(DeviceId) -> Known) -> Vec<Vgpu> {
    let mut all = Vec::new();
    for (place, hostdev) in domain.hostdevs.iter().enumerate() {
        let properties: BTreeMap<String, String> = domain
            .properties
            .iter()
            .filter(|property| property.alias == hostdev.alias)
            // What is removed is as QEMU has it by default; of these two that is known.
            .filter(|p| p.kind != "remove" || matches!(p.name.as_str(), "display" | "ramfb"))
            .map(|p| match p.kind.as_str() {
                "remove" => (p.name.clone(), "off".to_owned()),
                _ => (p.name.clone(), p.value.clone().unwrap_or_default()),
            })
            .collect();
        let on = |switch| switch == Some(Switch::On);
        let mut vgpu = Vgpu {
            place,
            id: hostdev.id,
            is_pci: hostdev.model == "vfio-pci",
            model: hostdev.model.clone(),
            settings: hostdev.settings.clone(),
            display: on(hostdev.display),
            asked: on(hostdev.display),
            ramfb: on(hostdev.ramfb),
            properties,
            known: known(hostdev.id),
            lost: None,
            rebound: false,
        };
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
        vgpu.display = match vgpu.properties.get("display").map(String::as_str) {
            // QEMU shows what there is, and starts where there is nothing.
            Some("auto") => vgpu.found() != [Found::Nothing],
            _ => vgpu.switch("display").unwrap_or(vgpu.display),
        };
        vgpu.ramfb = vgpu.switch("ramfb").unwrap_or(vgpu.ramfb);
        all.push(vgpu);
    }
    all
}
