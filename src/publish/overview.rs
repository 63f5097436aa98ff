//! Shows the host as a tree: graphics cards, the types and devices that they offer, and the guests
//! that have these. Each problem stands where it occurs, with the commands that fix it.
//!
//! The facts go in, a value comes out; the command line prints the value.

mod devices;
mod guests;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::device::facts::Display;
use crate::device::id::{DeviceId, PciAddress};
use crate::device::record::FORMAT;
use crate::domain::GraphicsType;
use crate::domain::policy::Policy;
use crate::host::Warning;
use crate::host::sysfs::Gpu;
use crate::plan::Level;
use crate::plan::fixup::Surroundings;
use crate::predict::Shown;
use crate::publish::gpus::{self, GpuEntry, Missing, is_of};
use crate::publish::inventory::{DeviceEntry, Inventory, Sources, State, TypeEntry};
use crate::publish::unknown::Around;
use devices::{device, functions, is_bare};

/// The state of a guest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestState {
    /// The guest runs.
    Running,
    /// The guest is paused.
    Paused,
    /// The guest is off.
    ShutOff,
    /// The state is not known.
    Unknown,
}

impl GuestState {
    /// Returns the state as virsh words it.
    pub fn word(self) -> &'static str {
        match self {
            GuestState::Running => "running",
            GuestState::Paused => "paused",
            GuestState::ShutOff => "shut off",
            GuestState::Unknown => "state unknown",
        }
    }
}

/// A domain, as libvirt or its file describes it.
#[derive(Debug, Clone)]
pub struct Defined {
    /// The domain's name.
    pub name: String,
    /// The domain's XML.
    pub xml: String,
    /// The domain's state.
    pub state: GuestState,
}

/// The source of the guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestsFrom {
    /// libvirt.
    Libvirt,
    /// libvirt's files in `/etc/libvirt/qemu`.
    Files,
    /// There is no source: no libvirt, and no such files.
    Nowhere,
}

/// Something that is wrong, or good to know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The severity.
    pub level: Level,
    /// The problem.
    pub text: String,
    /// The fixes, the best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fixes: Vec<String>,
}

/// A guest below a device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestEntry {
    /// The guest's name.
    pub name: String,
    /// The guest's state.
    pub state: GuestState,
    /// The answer whether the guest would start: `yes`, `no`, `doubt`. `None` if its XML can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts: Option<&'static str>,
    /// The graphics that show the device's screen.
    pub shown_by: Vec<(GraphicsType, Shown)>,
    /// The command that shows the screen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub look: Option<String>,
    /// The guest's problems.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl GuestEntry {
    /// Returns whether the guest has its devices open.
    fn holds_it(&self) -> bool {
        matches!(self.state, GuestState::Running | GuestState::Paused)
    }
}

/// A device below a graphics card or another parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceLine {
    /// The UUID or PCI address.
    pub id: DeviceId,
    /// True for a card that is handed out as a whole.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_whole: bool,
    /// The device's type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_id: Option<String>,
    /// The device's state; `None` for a device that this host does not have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// The driver that is bound to the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The display, as in every JSON of gfxplane.
    pub display: Vec<String>,
    /// The evidence for the display, in words.
    pub known: String,
    /// The device's problems.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// The guests that have the device.
    pub guests: Vec<GuestEntry>,
}

/// A type of mediated devices.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TypeLine {
    /// The sysfs name of the type's parent.
    pub parent: String,
    /// The type's id.
    #[serde(rename = "type")]
    pub type_id: String,
    /// The type's name for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The number of devices of the type that can still be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_instances: Option<u32>,
    /// The display, as in every JSON of gfxplane.
    pub display: Vec<String>,
    /// The evidence for the display, in words.
    pub known: String,
}

/// A graphics card, or another device that makes mediated devices or is handed out.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ParentLine {
    /// The card or parent, and the reason why it offers no vGPU.
    #[serde(flatten)]
    pub card: GpuEntry,
    /// True for a graphics card.
    pub gpu: bool,
    /// The names of vendor and device in pci.ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The types.
    pub types: Vec<TypeLine>,
    /// The devices.
    pub devices: Vec<DeviceLine>,
}

/// The numbers in the overview.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The number of graphics cards.
    pub gpus: usize,
    /// The number of guests with a vfio device.
    pub guests: usize,
    /// The number of guests that would be refused.
    pub refused: usize,
    /// The number of guests of which it is not known whether they start.
    pub unknown: usize,
    /// The number of devices whose screens are switched on and that no graphics show.
    pub dark: usize,
}

/// The host as a tree. Its JSON is that of `gfxplane --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    /// The format's version, [`FORMAT`].
    pub format: u32,
    /// The kernel's release.
    pub kernel: String,
    /// The worst of all problems.
    pub worst: Level,
    /// The source of the guests.
    pub guests_from: GuestsFrom,
    /// The reason why the guests are not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guests_unknown: Option<Problem>,
    /// The numbers.
    pub summary: Summary,
    /// The graphics cards and other parents.
    pub parents: Vec<ParentLine>,
    /// The devices that guests have and the host does not.
    pub absent: Vec<DeviceLine>,
    /// The guests whose hostdevs name no device, although libvirt demands one, or whose XML can't be
    /// read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub guests: Vec<GuestEntry>,
    /// Warnings about what could not be read.
    pub warnings: Vec<Warning>,
}

impl Overview {
    /// Returns the devices that running domains have, each with the name of the domain.
    pub fn holders(&self) -> BTreeMap<DeviceId, String> {
        let devices = self.parents.iter().flat_map(|parent| &parent.devices);
        let holder = |line: &DeviceLine| {
            let guest = line.guests.iter().find(|guest| guest.holds_it())?;
            Some((line.id, guest.name.clone()))
        };
        devices.filter_map(holder).collect()
    }
}

/// Everything from which the overview is made, apart from the knowledge of [`Surroundings`].
#[derive(Debug, Clone, Copy)]
pub struct Given<'g> {
    /// The host.
    pub sources: &'g Sources,
    /// The inventory of the host.
    pub inventory: &'g Inventory,
    /// The host's IOMMU groups, and whether the host has KVM.
    pub around: &'g Around,
    /// The names of PCI devices.
    pub names: &'g BTreeMap<(u16, u16), String>,
    /// The domains.
    pub domains: &'g [Defined],
    /// The source of the domains.
    pub guests_from: GuestsFrom,
    /// The reason why the domains are not known.
    pub guests_unknown: Option<&'g Problem>,
    /// The host's policy.
    pub policy: &'g Policy,
    /// libvirt's URI, if the user gave it.
    pub connect: Option<&'g str>,
    /// True to leave out no device.
    pub all: bool,
}

/// Makes the overview of a host.
pub fn overview(given: Given<'_>, surroundings: &dyn Surroundings) -> Overview {
    let mut summary = Summary {
        gpus: given.sources.host.gpus.len(),
        ..Summary::default()
    };
    let mut guests: BTreeMap<DeviceId, Vec<GuestEntry>> = BTreeMap::new();
    let mut without_device = Vec::new();
    for domain in given.domains {
        for (id, guest) in guests::entries(given, domain, surroundings, &mut summary) {
            match id {
                Some(id) => guests.entry(id).or_default().push(guest),
                None => without_device.push(guest),
            }
        }
    }
    let mut parents = parents(given, &mut guests);
    if !given.all {
        parents.retain(|parent| parent.gpu || is_told(parent));
    }
    let absent: Vec<DeviceLine> = guests
        .into_iter()
        .map(|(id, guests)| guests::absent(id, guests, surroundings))
        .collect();
    let mut overview = Overview {
        format: FORMAT,
        kernel: given.inventory.kernel.clone(),
        worst: Level::Info,
        guests_from: given.guests_from,
        guests_unknown: given.guests_unknown.cloned(),
        summary,
        parents,
        absent,
        guests: without_device,
        warnings: given.inventory.warnings.clone(),
    };
    overview.worst = worst(&overview);
    overview
}

fn worst(overview: &Overview) -> Level {
    let devices = || {
        let parents = overview.parents.iter();
        parents
            .flat_map(|parent| &parent.devices)
            .chain(&overview.absent)
    };
    let problems = devices().flat_map(|device| {
        let guests = device.guests.iter().flat_map(|guest| &guest.problems);
        device.problems.iter().chain(guests)
    });
    let of_guests = overview.guests.iter().flat_map(|guest| &guest.problems);
    let problems = problems.chain(of_guests).chain(&overview.guests_unknown);
    let levels = problems.map(|problem| problem.level);
    let cards = overview
        .parents
        .iter()
        .filter_map(|p| p.card.missing.as_ref());
    let cards = cards.map(Missing::level);
    levels.chain(cards).max().unwrap_or(Level::Info)
}

impl Missing {
    /// Returns the severity: a warning if the reason is certain, and otherwise good to know.
    pub fn level(&self) -> Level {
        if self.certain {
            Level::Warn
        } else {
            Level::Info
        }
    }
}

/// Returns whether a parent that is no graphics card is shown: it is if one of its types or devices
/// may have a display, or if a guest has one of its devices.
fn is_told(parent: &ParentLine) -> bool {
    let may_show = |display: &[String]| display != ["none"];
    parent.types.iter().any(|one| may_show(&one.display))
        || parent
            .devices
            .iter()
            .any(|one| may_show(&one.display) || !one.guests.is_empty())
}

fn parents(given: Given<'_>, guests: &mut BTreeMap<DeviceId, Vec<GuestEntry>>) -> Vec<ParentLine> {
    let (host, inventory) = (&given.sources.host, given.inventory);
    let mut placed: BTreeSet<DeviceId> = BTreeSet::new();
    let mut lines = Vec::new();
    for (gpu, entry) in host.gpus.iter().zip(&inventory.gpus) {
        let names: BTreeSet<&str> = host
            .parents
            .iter()
            .filter(|parent| is_of(parent, gpu))
            .map(|parent| parent.name.as_str())
            .collect();
        let ids = (gpu.pci.vendor, gpu.pci.device);
        let mut line = ParentLine {
            card: entry.clone(),
            gpu: true,
            name: given.names.get(&ids).cloned(),
            ..ParentLine::default()
        };
        line.types = types(inventory, |one| names.contains(one.parent.as_str()));
        line.devices = devices(given, guests, &mut placed, |entry| {
            let is_below = entry
                .parent
                .as_deref()
                .is_some_and(|parent| names.contains(parent) || parent == line.card.address);
            is_below || is_at(entry, gpu)
        });
        for device in &mut line.devices {
            device.is_whole = device.id == DeviceId::Pci(gpu.pci.address);
        }
        functions(given, gpu, &placed, guests, &mut line);
        lines.push(line);
    }
    let mut others: BTreeMap<String, ParentLine> = BTreeMap::new();
    for parent in &host.parents {
        if host.gpus.iter().any(|gpu| is_of(parent, gpu)) || others.contains_key(&parent.name) {
            continue;
        }
        let ids = parent.pci.as_ref().map(|pci| (pci.vendor, pci.device));
        let line = ParentLine {
            card: GpuEntry {
                ids: parent.pci.as_ref().map(gpus::ids),
                driver: parent.bound_driver.clone(),
                render_node: parent.render_node.clone(),
                address: parent.name.clone(),
                ..GpuEntry::default()
            },
            name: ids.and_then(|ids| given.names.get(&ids).cloned()),
            types: types(inventory, |one| one.parent == parent.name),
            ..ParentLine::default()
        };
        others.insert(parent.name.clone(), line);
    }
    // What is left is a PCI device of another class, or defined for a parent that is not there.
    let rest = inventory
        .devices
        .iter()
        .filter(|one| !placed.contains(&one.id));
    let rest: Vec<&DeviceEntry> = rest.collect();
    for entry in rest {
        let name = entry.parent.clone().unwrap_or_else(|| entry.id.to_string());
        let line = others.entry(name.clone()).or_default();
        line.card.address = name;
        line.devices
            .extend(devices(given, guests, &mut placed, |one| {
                one.id == entry.id
            }));
    }
    lines.extend(others.into_values());
    lines
}

/// Returns whether a device is this card, or one of its virtual functions.
fn is_at(entry: &DeviceEntry, gpu: &Gpu) -> bool {
    let is = |address: PciAddress| entry.id == DeviceId::Pci(address);
    is(gpu.pci.address) || gpu.functions.iter().any(|one| is(one.address))
}

fn types(inventory: &Inventory, is_its: impl Fn(&TypeEntry) -> bool) -> Vec<TypeLine> {
    let line = |one: &TypeEntry| TypeLine {
        parent: one.parent.clone(),
        type_id: one.type_id.clone(),
        name: one.name.clone(),
        available_instances: one.available_instances,
        display: display_words(&one.finding.facts.display),
        known: one.finding.how_known(),
    };
    let types = inventory.types.iter();
    types.filter(|one| is_its(one)).map(line).collect()
}

fn display_words(display: &Display) -> Vec<String> {
    let words = display.words().into_iter();
    words.map(Into::into).collect()
}

fn devices(
    given: Given<'_>,
    guests: &mut BTreeMap<DeviceId, Vec<GuestEntry>>,
    placed: &mut BTreeSet<DeviceId>,
    is_its: impl Fn(&DeviceEntry) -> bool,
) -> Vec<DeviceLine> {
    let all = given.inventory.devices.iter();
    let mut lines = Vec::new();
    for entry in all.filter(|entry| is_its(entry)) {
        if !placed.insert(entry.id) {
            continue;
        }
        let guests = guests.remove(&entry.id).unwrap_or_default();
        // Virtual functions without a vGPU are a number in the card's line.
        let is_dull = is_bare(given, entry) && guests.is_empty();
        if given.all || !is_dull {
            lines.push(device(given, entry, guests));
        }
    }
    lines
}
