//! Shows the host as a tree: graphics cards, the types and devices that they offer, and the guests
//! that have them. Each problem is listed where it occurs, with the commands that fix it.
//!
//! The result is a value; the command line prints it.

mod devices;
mod guests;

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use crate::device::facts::Display;
use crate::device::id::{DeviceId, PciAddress};
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
    /// The guest's state is not known.
    Unknown,
}

impl GuestState {
    /// Returns the state in words, as virsh prints it: `shut off`.
    pub fn word(self) -> &'static str {
        match self {
            GuestState::Running => "running",
            GuestState::Paused => "paused",
            GuestState::ShutOff => "shut off",
            GuestState::Unknown => "state unknown",
        }
    }
}

/// A domain, as libvirt or a file of libvirt's describes it.
#[derive(Debug, Clone)]
pub struct Defined {
    /// The domain's name.
    pub name: String,
    /// The domain's XML.
    pub xml: String,
    /// The domain's state.
    pub state: GuestState,
}

/// The domains of a host, and where they come from.
#[derive(Debug)]
pub struct Guests {
    /// The domains; empty if they are not known.
    pub domains: Vec<Defined>,
    /// The source of the domains.
    pub from: GuestsFrom,
    /// The reason why the domains are not known, if they are not.
    pub unknown: Option<Problem>,
}

/// The source of the list of guests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum GuestsFrom {
    /// libvirt itself was asked.
    Libvirt,
    /// libvirt's files in `/etc/libvirt/qemu` were read.
    Files,
    /// There is no source: no libvirt, and no such files.
    Nowhere,
}

/// A problem of a device or guest, or a hint about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// The severity of the problem.
    pub level: Level,
    /// The problem or hint, in words.
    pub text: String,
    /// The commands that fix the problem, the best first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub fixes: Vec<String>,
}

/// A guest that has a device, as the overview lists it below the device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct GuestEntry {
    /// The guest's name in libvirt.
    pub name: String,
    /// The guest's state.
    pub state: GuestState,
    /// The prediction for a start of the guest: `yes`, `no` or `doubt`. `None` if the guest's XML
    /// can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub starts: Option<&'static str>,
    /// The graphics that show the device's screen.
    pub shown_by: Vec<(GraphicsType, Shown)>,
    /// The command that shows the screen; `None` unless Spice or VNC shows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub look: Option<String>,
    /// The problems of the guest that are listed with this device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
}

impl GuestEntry {
    /// Returns whether the guest has its devices open: it runs or is paused.
    fn holds_it(&self) -> bool {
        matches!(self.state, GuestState::Running | GuestState::Paused)
    }
}

/// The line about a device, below its graphics card or other parent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct DeviceLine {
    /// The device's UUID or PCI address.
    pub id: DeviceId,
    /// True for a graphics card that is passed through as a whole.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_whole: bool,
    /// The id of the device's type.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub type_id: Option<String>,
    /// The device's state; `None` for a device that this host does not have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// The driver that is bound to the device.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<String>,
    /// The display: `dmabuf`, `region` or both; otherwise only `none` or only `unknown`.
    pub display: Vec<String>,
    /// The evidence for the display, in words. If the display of a device of this host is not
    /// known: the reason, or the host's driver that has the device.
    pub known: String,
    /// The problems of the device itself.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub problems: Vec<Problem>,
    /// The guests that have the device.
    pub guests: Vec<GuestEntry>,
}

/// The line about a type of mediated devices that a parent offers.
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
    /// The number of devices of the type that can still be made; `None` if it can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub available_instances: Option<u32>,
    /// The display: `dmabuf`, `region` or both; otherwise only `none` or only `unknown`.
    pub display: Vec<String>,
    /// The evidence for the display, in words: `measured`, `known by rule, not measured`.
    pub known: String,
}

/// The line about a graphics card or another device that makes mdevs or is passed through.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ParentLine {
    /// The card or parent. For a card that offers no vGPU, it has the reason.
    #[serde(flatten)]
    pub card: GpuEntry,
    /// True for a graphics card, false for any other parent.
    pub gpu: bool,
    /// The names of vendor and device; `None` if pci.ids has none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The types of mediated devices that the card or parent offers.
    pub types: Vec<TypeLine>,
    /// The devices of the card or parent.
    pub devices: Vec<DeviceLine>,
}

/// The counts in the overview.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Summary {
    /// The number of graphics cards.
    pub gpus: usize,
    /// The number of guests with a vfio device.
    pub guests: usize,
    /// The number of guests that would be refused.
    pub refused: usize,
    /// The number of guests for which it is not known whether they start.
    pub unknown: usize,
    /// The number of displays that are on, but that no graphics show.
    pub dark: usize,
}

/// The host as a tree. `gfxplane --json` prints it as JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Overview {
    /// The kernel's release.
    pub kernel: String,
    /// The level of the worst problem; [`Level::Info`] if there is none.
    pub worst: Level,
    /// The source of the list of guests.
    pub guests_from: GuestsFrom,
    /// The reason why the guests are not known; `None` if they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub guests_unknown: Option<Problem>,
    /// The counts of cards, guests and dark displays.
    pub summary: Summary,
    /// The graphics cards and other parents.
    pub parents: Vec<ParentLine>,
    /// The devices that guests have, and that are below none of the parents.
    pub absent: Vec<DeviceLine>,
    /// The guests whose hostdevs name no device, although libvirt requires one, or whose XML can't
    /// be read.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub guests: Vec<GuestEntry>,
    /// Warnings about files that could not be read.
    pub warnings: Vec<Warning>,
}

impl Overview {
    /// Returns this host's devices that running or paused guests have open, each with its guest's
    /// name.
    pub fn holders(&self) -> BTreeMap<DeviceId, String> {
        let devices = self.parents.iter().flat_map(|parent| &parent.devices);
        let holder = |line: &DeviceLine| {
            let guest = line.guests.iter().find(|guest| guest.holds_it())?;
            Some((line.id, guest.name.clone()))
        };
        devices.filter_map(holder).collect()
    }
}

/// Everything from which the overview is made, except the knowledge in [`Surroundings`].
#[derive(Debug, Clone, Copy)]
pub struct Given<'g> {
    /// The facts that were read from the host.
    pub sources: &'g Sources,
    /// The inventory of the host.
    pub inventory: &'g Inventory,
    /// The host's IOMMU groups, and whether the host has KVM.
    pub around: &'g Around,
    /// The names of PCI devices, by vendor and device ID.
    pub names: &'g BTreeMap<(u16, u16), String>,
    /// The host's domains.
    pub guests: &'g Guests,
    /// The host's policy.
    pub policy: &'g Policy,
    /// libvirt's URI, if the user gave it.
    pub connect: Option<&'g str>,
    /// True to leave nothing out (`--all`): unused virtual functions, parents without a display,
    /// and hints are listed, too.
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
    for domain in &given.guests.domains {
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
        kernel: given.inventory.kernel.clone(),
        worst: Level::Info,
        guests_from: given.guests.from,
        guests_unknown: given.guests.unknown.clone(),
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
    /// Returns the severity: [`Level::Warn`] if this is certainly a problem, else [`Level::Info`].
    pub fn level(&self) -> Level {
        if self.certain {
            Level::Warn
        } else {
            Level::Info
        }
    }
}

/// Returns whether the overview lists a parent that is not a graphics card: one of its types or
/// devices may have a display, or a guest has one of its devices.
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
    // The other devices are PCI devices of another class, or defined for a parent that does not
    // exist.
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
        // The card's line has the number of virtual functions without a vGPU.
        let is_dull = is_bare(given, entry) && guests.is_empty();
        if given.all || !is_dull {
            lines.push(device(given, entry, guests));
        }
    }
    lines
}
