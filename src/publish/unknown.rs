//! Returns the fixes for a device whose display is not known. The overview and the doctor show
//! these fixes.

use std::collections::BTreeMap;
use std::fmt;

use crate::device::facts::Reason;
use crate::device::id::DeviceId;
use crate::host::{Root, Warning, has_kvm, read_names, sysfs};
use crate::plan::Level;
use crate::predict::abilities::LOAD_KVM;
use crate::predict::screens::Here;
use crate::publish::inventory::{DeviceEntry, State};
use crate::publish::node_device::name_of;
use crate::publish::overview::Problem;

/// The command that loads the kernel's vfio.
pub(crate) const LOAD_VFIO: &str = "sudo modprobe vfio_iommu_type1";

/// The text about a driver that opens a device only for a virtual machine.
const KVM_ONLY: &str = "its driver opens it only for a KVM VM";

/// The text about a host that can't make a virtual machine.
const NO_KVM: &str = "there is no /dev/kvm";

/// The facts about a host that decide which fixes for a device apply.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Around {
    /// The IOMMU groups by their numbers, with their members.
    pub groups: BTreeMap<u32, Vec<Member>>,
    /// True if `/dev/kvm` exists; `None` for a recorded host without a directory `dev`.
    pub kvm: Option<bool>,
    /// The active devices that rules and settings allow to be opened unasked.
    pub unasked: Vec<DeviceId>,
}

impl Around {
    /// Reads the IOMMU groups, and whether the host has KVM. Takes `unasked` from the caller.
    pub fn read(root: &Root, unasked: Vec<DeviceId>, warnings: &mut Vec<Warning>) -> Self {
        Around {
            groups: groups(root, warnings),
            kvm: has_kvm(root),
            unasked,
        }
    }

    /// Returns what is wrong with the display of a device: it is not known, or the device's driver
    /// needs a virtual machine that this host can't make. `holder` is the guest that has the device
    /// open, as an argument of `gfxplane`.
    #[must_use]
    pub fn problem(&self, entry: &DeviceEntry, holder: Option<&str>) -> Option<Problem> {
        let lacks_kvm = self.lacks_kvm(entry);
        let (text, fixes) = match entry.finding.facts.display.reason() {
            Some(reason) => {
                let why = format!("not known: {}", reason.why());
                (why, self.fixes(entry, reason, holder))
            }
            None if lacks_kvm => (KVM_ONLY.to_owned(), vec![LOAD_KVM.to_owned()]),
            None => return None,
        };
        let (level, text) = match lacks_kvm {
            true => (Level::Fail, format!("{text}; {NO_KVM}")),
            false => (Level::Warn, text),
        };
        Some(Problem { level, text, fixes })
    }

    /// Returns whether the driver of a device needs a virtual machine that this host can't make.
    fn lacks_kvm(&self, entry: &DeviceEntry) -> bool {
        let wants_vm = entry.require.iter().any(|hint| hint.name == "kvm")
            || entry.finding.facts.display.reason() == Some(&Reason::NeedsVm);
        wants_vm && self.kvm == Some(false)
    }

    /// Returns the commands that may remove `reason`, the best first.
    fn fixes(&self, entry: &DeviceEntry, reason: &Reason, holder: Option<&str>) -> Vec<String> {
        let id = entry.id;
        let fix = match reason {
            Reason::NotActive => match id {
                DeviceId::Mdev(uuid) if entry.state == State::Defined => {
                    format!("sudo mdevctl start --uuid {uuid}")
                }
                _ => return Vec::new(),
            },
            Reason::InUse => match holder {
                Some(domain) => format!("gfxplane learn {domain}"),
                None => "sudo fuser -v /dev/vfio/* # shows the programs that have it open".into(),
            },
            // Asking again is no use: the answers would not be believed.
            Reason::Untrusted => "sudoedit /etc/gfxplane/rules.d/own.toml # a rule that names the display: man 5 gfxplane-rules".into(),
            Reason::NeedsVm if self.kvm == Some(false) => LOAD_KVM.into(),
            Reason::NoDriver => match id {
                DeviceId::Pci(_) => format!(
                    "virsh -c qemu:///system nodedev-detach {} # to vfio-pci",
                    name_of(id, None)
                ),
                DeviceId::Mdev(_) => {
                    "ls /sys/bus/mdev/drivers # bind one of these to the device".into()
                }
            },
            Reason::NoVfio => LOAD_VFIO.into(),
            Reason::NotViable => return self.freed(entry),
            Reason::NotProbed if self.unasked.contains(&id) => format!("sudo gfxplane probe {id}"),
            Reason::NotProbed | Reason::NotAllowed => if_it_may_be_opened(id),
            Reason::UnsafeState => format!(
                "sudo chown root: /run/gfxplane && sudo chmod go-w /run/gfxplane && sudo gfxplane probe {id}"
            ),
            _ => format!("sudo gfxplane probe --fresh {id}"),
        };
        vec![fix]
    }

    /// Returns the commands that take the members of a device's IOMMU group from their host
    /// drivers; if none is seen to be in the way, one that lists the group. Empty if the device has
    /// no group.
    fn freed(&self, entry: &DeviceEntry) -> Vec<String> {
        let Some(number) = entry.iommu_group else {
            return Vec::new();
        };
        let members = self.groups.get(&number).into_iter().flatten();
        let fixes: Vec<String> = members
            .filter(|member| member.is_in_the_way())
            .map(Member::detach)
            .collect();
        if fixes.is_empty() {
            let list = format!("ls /sys/kernel/iommu_groups/{number}/devices");
            vec![format!(
                "{list} # the guest needs all of them, or they must have no host driver"
            )]
        } else {
            fixes
        }
    }
}

/// Returns the fix for a device that is opened only if the user names it.
pub(crate) fn if_it_may_be_opened(id: DeviceId) -> String {
    format!("sudo gfxplane probe {id} # if its driver may be opened: docs/devices.md")
}

/// A member of an IOMMU group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// The member's PCI address or UUID.
    pub id: DeviceId,
    /// The driver that is bound to the member; `None` if no driver is bound.
    pub driver: Option<String>,
}

impl Member {
    /// Returns whether the member's driver keeps the group from being passed through. The kernel
    /// lets a group have members without a driver, with a vfio driver or pci-stub, and bridges
    /// (drivers/iommu/iommu.c, `driver_managed_dma`; drivers/pci/pcie/portdrv.c). A mediated device
    /// is never in the way: it is alone in its group, and its driver is always a vfio driver.
    pub fn is_in_the_way(&self) -> bool {
        if matches!(self.id, DeviceId::Mdev(_)) {
            return false;
        }
        let driver = self.driver.as_deref().unwrap_or("pci-stub");
        !driver.contains("vfio") && !matches!(driver, "pci-stub" | "pcieport")
    }

    /// Returns the command that detaches the member from its driver.
    pub fn detach(&self) -> String {
        let driver = self.driver.as_deref().unwrap_or_default();
        let nodedev = name_of(self.id, None);
        format!(
            "virsh -c qemu:///system nodedev-detach {nodedev} # {driver} has it, and the host loses it"
        )
    }
}

impl fmt::Display for Member {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = self.driver.as_deref().unwrap_or("no driver");
        write!(f, "{} ({driver})", self.id)
    }
}

/// Reads the IOMMU groups, by number, with their PCI and mediated devices.
fn groups(root: &Root, warnings: &mut Vec<Warning>) -> BTreeMap<u32, Vec<Member>> {
    let directory = root.join("sys/kernel/iommu_groups");
    let mut groups = BTreeMap::new();
    for name in read_names(&directory, warnings) {
        let Ok(number) = name.parse() else { continue };
        let ids = read_names(&directory.join(name).join("devices"), warnings);
        let ids = ids.iter().filter_map(|name| name.parse::<DeviceId>().ok());
        let members = ids.map(|id| Member {
            id,
            driver: match sysfs::here(root, id) {
                Some(Here::Present { driver, .. }) => driver,
                _ => None,
            },
        });
        groups.insert(number, members.collect());
    }
    groups
}
