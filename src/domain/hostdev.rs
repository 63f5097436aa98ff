//! A domain's vfio devices, and the names that libvirt gives them.

mod checks;
mod twice;

use uuid::Uuid;

pub(super) use checks::{misread, misread_interface, unfit};
pub(super) use twice::twice;

use super::{Switch, is_yes, owned};
use crate::device::id::{DeviceId, PciAddress};
use crate::xml::Element;

/// A `<hostdev>` that is a vfio device, of type mdev or pci.
#[derive(Debug, Clone)]
pub struct Hostdev<'d, 'a> {
    /// The element, for edits.
    pub element: Element<'d, 'a>,
    /// The device that the hostdev passes to the guest.
    pub id: DeviceId,
    /// The attribute `model` of a mediated device, empty if it is missing; `vfio-pci` for a PCI
    /// device.
    pub model: String,
    /// The attribute `display`. If it is missing, libvirt adds `off` for a mediated device, and
    /// nothing for a PCI device.
    pub display: Option<Switch>,
    /// The attribute `ramfb`.
    pub ramfb: Option<Switch>,
    /// The id by which QEMU knows the device: the user's alias (`ua-…`) or libvirt's `hostdevN`
    /// (libvirt src/qemu/qemu_alias.c, `qemuAssignDeviceHostdevAlias`).
    pub alias: String,
    /// The settings that libvirt's checks and its handling of the device depend on.
    pub settings: HostdevSettings,
}

/// The settings of a `<hostdev>` that libvirt reads before QEMU runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostdevSettings {
    /// True for `managed='yes'`: libvirt binds a PCI device to a vfio driver at start, and gives
    /// the device back to its driver afterwards. libvirt ignores the attribute of mediated devices.
    pub managed: bool,
    /// The attribute `model` of `<driver>`: the vfio driver that libvirt binds (libvirt 10.0).
    pub driver: Option<String>,
    /// True if there is a `<boot order=…>`.
    pub boot: bool,
    /// The `type` of the device's own `<address>` in the guest.
    pub address: Option<String>,
}

impl Hostdev<'_, '_> {
    /// Returns whether the user chose the alias. libvirt keeps such an alias, so `qemu:override`
    /// can rely on it.
    pub(crate) fn has_user_alias(&self) -> bool {
        self.alias.starts_with("ua-")
    }
}

/// Returns the elements that libvirt counts for its `hostdevN`, with their aliases.
pub(super) fn aliases<'d, 'a>(
    interfaces: impl Iterator<Item = Element<'d, 'a>>,
    hostdevs: impl Iterator<Item = Element<'d, 'a>>,
) -> Vec<(Element<'d, 'a>, String)> {
    let is_hostdev =
        |interface: &Element<'_, '_>| interface.attribute("type").as_deref() == Some("hostdev");
    let counted: Vec<_> = interfaces.filter(is_hostdev).chain(hostdevs).collect();
    let names = numbered(counted.iter().map(|element| users_alias(*element)));
    counted.into_iter().zip(names).collect()
}

/// Returns the alias that the user has chosen for a device; `None` if there is none or libvirt
/// drops it. libvirt keeps an alias that begins with `ua-` and has only ASCII letters, digits, `_`
/// and `-` (src/conf/domain_conf.c, `virDomainDeviceInfoParseXML`).
pub(super) fn users_alias(device: Element<'_, '_>) -> Option<String> {
    let alias = device.child("alias")?.attribute("name")?;
    let is_kept = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    (alias.starts_with("ua-") && alias.chars().all(is_kept)).then(|| alias.into_owned())
}

/// Returns the PCI address that the XML gives a device in the guest, in the form `0000:00:02.0`.
/// `None` if there is none, or it can't be read, or it is all zeros, because libvirt then chooses
/// an address (src/util/virpci.c, `virPCIDeviceAddressIsEmpty`).
pub(super) fn address_in_guest(device: Element<'_, '_>) -> Option<String> {
    let address = device.child("address")?;
    let numbers = ["domain", "bus", "slot", "function"].map(|name| number_in(address, name));
    let [domain, bus, slot, function] = numbers;
    let (domain, bus, slot, function) = (domain?, bus?, slot?, function?);
    let is_given = domain | bus | slot | function != 0;
    let is_pci = address.attribute("type").as_deref() == Some("pci");
    (is_pci && is_given).then(|| format!("{domain:04x}:{bus:02x}:{slot:02x}.{function}"))
}

/// Returns each device's alias: the user's, or else libvirt's `hostdevN`, where N counts from 0
/// only the devices without an alias of the user's.
pub(crate) fn numbered(aliases: impl Iterator<Item = Option<String>>) -> Vec<String> {
    let mut next = 0..;
    aliases
        .map(|alias| alias.unwrap_or_else(|| format!("hostdev{}", next.next().unwrap_or_default())))
        .collect()
}

pub(super) fn hostdevs<'d, 'a>(aliases: &[(Element<'d, 'a>, String)]) -> Vec<Hostdev<'d, 'a>> {
    let mut found = Vec::new();
    for (element, alias) in aliases {
        let element = *element;
        if element.name() != "hostdev" {
            continue;
        }
        let Some((id, model)) = device(element) else {
            continue;
        };
        // libvirt takes the PCI device from the host, and does not give it to the guest (libvirt
        // docs/formatdomain.rst).
        let address = element.child("address");
        let address = address.and_then(|address| owned(address.attribute("type")));
        if matches!(id, DeviceId::Pci(_)) && address.as_deref() == Some("unassigned") {
            continue;
        }
        let switch = |name| Switch::parse(&element.attribute(name)?);
        found.push(Hostdev {
            element,
            id,
            model,
            display: switch("display"),
            ramfb: switch("ramfb"),
            alias: alias.clone(),
            settings: HostdevSettings {
                managed: is_yes(Some(element), "managed"),
                driver: element
                    .child("driver")
                    .and_then(|driver| owned(driver.attribute("model"))),
                boot: element.child("boot").is_some(),
                address,
            },
        });
    }
    found
}

/// Returns the vfio device of a hostdev, and its model: `vfio-pci` for a PCI device, and empty for
/// a mediated device without the attribute `model`. As in libvirt, a missing part of a PCI address
/// is 0, and a missing `<address>` in `<source>` is all zeros. `None` if the hostdev names no vfio
/// device.
pub(crate) fn device(hostdev: Element<'_, '_>) -> Option<(DeviceId, String)> {
    let address = hostdev.child("source")?.child("address");
    // QEMU has no hostdevs with mode='capabilities'.
    let mode = hostdev.attribute("mode");
    if mode.is_some_and(|mode| mode != "subsystem") {
        return None;
    }
    match hostdev.attribute("type").as_deref() {
        Some("mdev") => {
            let uuid = parse_uuid(&address?.attribute("uuid")?)?;
            let model = owned(hostdev.attribute("model")).unwrap_or_default();
            Some((DeviceId::Mdev(uuid), model))
        }
        Some("pci") => {
            // libvirt uses 0 for all numbers without an <address>.
            let number = |name| address.map_or(Some(0), |address| number_in(address, name));
            let narrow = |name, limit| {
                number(name)
                    .and_then(|value| u8::try_from(value).ok())
                    .filter(|value| *value <= limit)
            };
            let id = DeviceId::Pci(PciAddress {
                domain: number("domain")?,
                bus: narrow("bus", 0xff)?,
                device: narrow("slot", 0x1f)?,
                function: narrow("function", 7)?,
            });
            Some((id, "vfio-pci".into()))
        }
        _ => None,
    }
}

/// Reads a UUID as libvirt does (src/util/viruuid.c, `virUUIDParse`): sixteen pairs of hexadecimal
/// digits, each after any hyphens and blanks. `None` if libvirt can't read it.
fn parse_uuid(text: &str) -> Option<Uuid> {
    let mut rest = text.trim().as_bytes();
    let mut uuid = [0; 16];
    for byte in &mut uuid {
        while let [b'-' | b' ', after @ ..] = rest {
            rest = after;
        }
        let (pair, after) = rest.split_at_checked(2)?;
        let digit = |digit: u8| char::from(digit).to_digit(16);
        *byte = u8::try_from(16 * digit(pair[0])? + digit(pair[1])?).ok()?;
        rest = after;
    }
    rest.is_empty().then(|| Uuid::from_bytes(uuid))
}

/// Returns a number of an address; 0 if the attribute is missing, as in libvirt. `None` if it is no
/// number.
pub(crate) fn number_in(address: Element<'_, '_>, name: &str) -> Option<u32> {
    let text = address.attribute(name);
    text.map_or(Some(0), |text| parse_number(&text))
}

/// Reads a decimal, octal (`010`) or hexadecimal (`0x8`) number of up to 32 bits, as libvirt does
/// (src/conf/device_conf.c, `virPCIDeviceAddressParseXML`). `None` for anything else.
fn parse_number(text: &str) -> Option<u32> {
    parse_long(text).and_then(|number| u32::try_from(number).ok())
}

/// Reads a number as [`parse_number`] does, but with up to 64 bits.
fn parse_long(text: &str) -> Option<u64> {
    let text = text.trim_start();
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        u64::from_str_radix(digits, 16).ok()
    } else if text.len() > 1 && text.starts_with('0') {
        u64::from_str_radix(&text[1..], 8).ok()
    } else {
        text.parse().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tests::with;

    #[test]
    fn which_devices_and_what_qemu_calls_them() {
        const DEVICES: &str = "<interface type='hostdev'/><interface type='network'/>
            <hostdev mode='subsystem' type='usb'><source><vendor id='1'/></source></hostdev>
            <hostdev type='mdev' model='vfio-pci'><source><address uuid='c1a20000-0000-4000-8000-000000000002'/></source><alias name='ua-gpu'/></hostdev>
            <hostdev type='pci' display='on' ramfb='off'><source><address domain='0x0000' bus='0xe1' slot='010' function='7'/></source><alias name='hostdev7'/></hostdev>
            <hostdev type='pci'><source><address bus='0x100'/></source></hostdev>
            <hostdev type='mdev' model='vfio-ap'><source><address uuid='C1A20000-0000-4000-8000-000000000003'/></source></hostdev>";
        with(DEVICES, |domain| {
            let seen: Vec<String> = domain
                .hostdevs
                .iter()
                .map(|h| format!("{} {} {}", h.id, h.model, h.alias))
                .collect();
            assert_eq!(
                seen,
                [
                    "c1a20000-0000-4000-8000-000000000002 vfio-pci ua-gpu",
                    "0000:e1:08.7 vfio-pci hostdev2",
                    "c1a20000-0000-4000-8000-000000000003 vfio-ap hostdev4",
                ]
            );
            assert_eq!(domain.hostdevs[1].display, Some(Switch::On));
            assert_eq!(domain.hostdevs[1].ramfb, Some(Switch::Off));
        });
    }
}
