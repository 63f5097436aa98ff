//! A domain's vfio devices, and the names that libvirt gives them.

use uuid::Uuid;

use super::{Misread, Switch, invalid, is_yes, owned};
use crate::device::id::{DeviceId, PciAddress};
use crate::xml::Element;

/// A `<hostdev>` that is a vfio device, of type mdev or pci.
#[derive(Debug, Clone)]
pub struct Hostdev<'d, 'a> {
    /// The element.
    pub element: Element<'d, 'a>,
    /// The device that the hostdev passes to the guest.
    pub id: DeviceId,
    /// The attribute `model` of a mediated device; `vfio-pci` for a PCI device.
    pub model: String,
    /// The attribute `display`. libvirt adds `off` for mediated devices, and nothing for PCI
    /// devices.
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
    /// The attribute `model` of `<driver>`: the vfio driver that libvirt binds to (libvirt 10.0).
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

/// Returns the elements that libvirt counts for its `hostdevN`, each with its alias if the user has
/// chosen one. libvirt keeps only aliases that begin with `ua-` (src/conf/domain_conf.c,
/// `virDomainDeviceAliasIsUserAlias`).
pub(super) fn counted<'d, 'a>(
    interfaces: impl Iterator<Item = Element<'d, 'a>>,
    hostdevs: impl Iterator<Item = Element<'d, 'a>>,
) -> Vec<(Element<'d, 'a>, Option<String>)> {
    interfaces
        .filter(|interface| interface.attribute("type").as_deref() == Some("hostdev"))
        .chain(hostdevs)
        .map(|element| {
            let alias = element.child("alias");
            let alias = alias.and_then(|alias| alias.attribute("name"));
            (
                element,
                owned(alias.filter(|alias| alias.starts_with("ua-"))),
            )
        })
        .collect()
}

/// Returns the aliases after libvirt has numbered the elements to which the user has given none.
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
        // The host gives the device up, and the guest does not get it (libvirt
        // docs/formatdomain.rst).
        let is_unassigned = element
            .child("address")
            .is_some_and(|address| address.attribute("type").as_deref() == Some("unassigned"));
        if is_unassigned {
            continue;
        }
        let Some((id, model)) = device(element) else {
            continue;
        };
        let switch = |name| {
            element
                .attribute(name)
                .and_then(|value| Switch::parse(&value))
        };
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
                address: element
                    .child("address")
                    .and_then(|address| owned(address.attribute("type"))),
            },
        });
    }
    found
}

/// Returns the vfio device of a hostdev, and the hostdev's model; `None` if the hostdev names no
/// vfio device.
pub(crate) fn device(hostdev: Element<'_, '_>) -> Option<(DeviceId, String)> {
    let address = hostdev.child("source")?.child("address");
    // Of the other mode, capabilities, there are none in QEMU.
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
            // libvirt takes 0 for an attribute that is left out, and for all of them without an <address>.
            let number = |name| match address.and_then(|address| address.attribute(name)) {
                None => Some(0),
                Some(text) => parse_number(&text),
            };
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

/// Reads a UUID as libvirt does (src/util/viruuid.c, `virUUIDParse`): pairs of digits, with hyphens
/// and blanks before each.
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

/// Reads a number as C's strtoul with base 0 does (libvirt src/conf/device_conf.c,
/// `virPCIDeviceAddressParseXML`).
pub(crate) fn parse_number(text: &str) -> Option<u32> {
    let text = text.trim_start();
    if let Some(digits) = text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        u32::from_str_radix(digits, 16).ok()
    } else if text.len() > 1 && text.starts_with('0') {
        u32::from_str_radix(&text[1..], 8).ok()
    } else {
        text.parse().ok()
    }
}

/// Returns the errors that libvirt would report for a hostdev (src/conf/domain_conf.c,
/// `virDomainHostdevDefParseXML` and `virDomainHostdevDefParseXMLSubsys`; for capabilities also
/// src/qemu/qemu_validate.c, `qemuValidateDomainDeviceDefHostdev`). `virt` is the domain's type.
pub(super) fn misread(hostdev: Element<'_, '_>, virt: &str) -> Vec<Misread> {
    let mode = hostdev.attribute("mode");
    let (types, is_of_container) = match mode.as_deref() {
        None | Some("subsystem") => (&LIBVIRTS_HOSTDEVS[..], false),
        Some("capabilities") => (&LIBVIRTS_CAPABILITIES[..], true),
        Some(word) => return vec![invalid("mode", "hostdev", word).into()],
    };
    let kind = match hostdev.attribute("type") {
        None => {
            let words = "Missing required attribute 'type' in element 'hostdev'";
            return vec![words.to_owned().into()];
        }
        Some(word) if !types.contains(&&*word) => {
            return vec![invalid("type", "hostdev", &word).into()];
        }
        Some(word) => word,
    };
    if is_of_container {
        let words = format!("hostdev mode 'capabilities' is not supported in {virt}");
        return vec![words.into()];
    }
    let Some(source) = hostdev.child("source") else {
        return vec![Misread::from(
            "Missing <source> element in hostdev device".to_owned(),
        )];
    };
    let mut said: Vec<Misread> = Vec::new();
    if kind != "usb" && source.attribute("startupPolicy").is_some() {
        let words = "Setting startupPolicy is only allowed for USB devices";
        said.push(words.to_owned().into());
    }
    said.extend(misread_model(hostdev, &kind).map(Misread::from));
    if matches!(&*kind, "mdev" | "pci") {
        for name in ["display", "ramfb"] {
            let value = hostdev.attribute(name);
            let value = value.filter(|value| Switch::parse(value).is_none());
            said.extend(value.map(|value| Misread {
                message: invalid(name, "hostdev", &value),
                is_display_of_pci: kind == "pci",
            }));
        }
    }
    said.extend(misread_source(source, &kind).map(Misread::from));
    said
}

/// Returns the error for the attribute `model`.
fn misread_model(hostdev: Element<'_, '_>, kind: &str) -> Option<String> {
    let model = hostdev.attribute("model");
    match (kind, model) {
        ("mdev", None) => Some("Missing required attribute 'model' in element 'hostdev'".into()),
        ("mdev", Some(word)) => {
            (!LIBVIRTS_MODELS.contains(&&*word)).then(|| invalid("model", "hostdev", &word))
        }
        ("usb" | "pci" | "scsi", Some(_)) => Some(format!(
            "'model' attribute in <hostdev> is only supported when type='{kind}'"
        )),
        _ => None,
    }
}

/// Returns the error for the address of the device on the host.
fn misread_source(source: Element<'_, '_>, kind: &str) -> Option<String> {
    match (kind, source.child("address")) {
        ("pci", Some(address)) => misread_address(address),
        ("mdev", None) => Some("Missing <address> element".into()),
        ("mdev", Some(address)) => match address.attribute("uuid") {
            None => Some("Missing 'uuid' attribute for element <address>".into()),
            Some(uuid) if parse_uuid(&uuid).is_none() => {
                Some("Cannot parse uuid attribute of element <address>".into())
            }
            Some(_) => None,
        },
        _ => None,
    }
}

/// Returns the error that libvirt's parser would report for the address of a PCI device
/// (src/conf/device_conf.c, `virPCIDeviceAddressParseXML`; src/util/virpci.c,
/// `virPCIDeviceAddressIsValid`).
fn misread_address(address: Element<'_, '_>) -> Option<String> {
    let number = |name| {
        address
            .attribute(name)
            .map(|text| (parse_number(&text), text))
    };
    for name in ["domain", "bus", "slot", "function"] {
        if let Some((None, text)) = number(name) {
            let invalid = invalid(name, "address", &text);
            return Some(format!("{invalid} Expected non-negative integer value"));
        }
    }
    let value = |name| number(name).and_then(|(value, _)| value).unwrap_or(0);
    let (bus, slot, function) = (value("bus"), value("slot"), value("function"));
    if bus > 0xff {
        Some(format!(
            "Invalid PCI address bus='{bus:#x}', must be <= 0xFF"
        ))
    } else if slot > 0x1f {
        Some(format!(
            "Invalid PCI address slot='{slot:#x}', must be <= 0x1F"
        ))
    } else if function > 7 {
        Some(format!(
            "Invalid PCI address function={function:#x}, must be <= 7"
        ))
    } else {
        None
    }
}

/// The types of hostdevs that libvirt knows (src/conf/domain_conf.c, `virDomainHostdevSubsys`).
const LIBVIRTS_HOSTDEVS: [&str; 5] = ["usb", "pci", "scsi", "scsi_host", "mdev"];

/// The types of hostdevs of containers, in the mode capabilities (`virDomainHostdevCaps` there).
const LIBVIRTS_CAPABILITIES: [&str; 3] = ["storage", "misc", "net"];

/// The models of mediated devices that libvirt knows (src/conf/device_conf.c, `virMediatedDeviceModel`).
const LIBVIRTS_MODELS: [&str; 3] = ["vfio-pci", "vfio-ccw", "vfio-ap"];

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

    /// As libvirt 11.3 answers `virsh define`.
    #[test]
    fn hostdevs_that_libvirt_refuses() {
        let mdev = |source: &str| {
            format!("<hostdev mode='subsystem' type='mdev' model='vfio-pci'>{source}</hostdev>")
        };
        let uuid = |uuid: &str| mdev(&format!("<source><address uuid='{uuid}'/></source>"));
        let pci = |source: &str| format!("<hostdev mode='subsystem' type='pci'>{source}</hostdev>");
        let at = |at: &str| pci(&format!("<source><address {at}/></source>"));
        let id = "c1a20000-0000-4000-8000-000000000002";
        let one = format!("<source><address uuid='{id}'/></source>");
        let found = |xml: &str| {
            with(xml, |domain| {
                let last = domain.hostdevs.last().map(|hostdev| hostdev.id.to_string());
                let misread = domain.misread.first().map(|first| first.message.clone());
                misread.or(last).unwrap()
            })
        };
        let cannot = "Cannot parse uuid attribute of element <address>";
        for (xml, expected) in [
            (mdev(""), "Missing <source> element in hostdev device"),
            (mdev("<source/>"), "Missing <address> element"),
            (
                mdev("<source><address/></source>"),
                "Missing 'uuid' attribute for element <address>",
            ),
            (uuid("zz"), cannot),
            (uuid(&format!("{{{id}}}")), cannot),
            (uuid(&format!("urn:uuid:{id}")), cannot),
            (uuid(&format!("{id}-")), cannot),
            (uuid("c-1a20000-0000-4000-8000-000000000002"), cannot),
            (
                format!("<hostdev mode='x' type='mdev' model='vfio-pci'>{one}</hostdev>"),
                "Invalid value for attribute 'mode' in element 'hostdev': 'x'.",
            ),
            (
                format!("<hostdev mode='capabilities' type='misc'>{one}</hostdev>"),
                "hostdev mode 'capabilities' is not supported in kvm",
            ),
            (
                format!("<hostdev mode='capabilities' type='pci'>{one}</hostdev>"),
                "Invalid value for attribute 'type' in element 'hostdev': 'pci'.",
            ),
            (
                "<hostdev type='pci' model='vfio-pci'><source/></hostdev>".into(),
                "'model' attribute in <hostdev> is only supported when type='pci'",
            ),
            (
                "<hostdev type='pci'><source startupPolicy='optional'/></hostdev>".into(),
                "Setting startupPolicy is only allowed for USB devices",
            ),
            (
                "<hostdev type='pci' display='perhaps'><source/></hostdev>".into(),
                "Invalid value for attribute 'display' in element 'hostdev': 'perhaps'.",
            ),
            (uuid(id), id),
            (uuid("c1a20000000040008000000000000002"), id),
            (uuid("c1-a2-0000-000040008000000000000002"), id),
            (uuid(&format!(" {} ", id.to_uppercase())), id),
            (
                format!("<hostdev type='mdev'>{one}</hostdev>"),
                "Missing required attribute 'model' in element 'hostdev'",
            ),
            (
                format!("<hostdev type='mdev' model='x'>{one}</hostdev>"),
                "Invalid value for attribute 'model' in element 'hostdev': 'x'.",
            ),
            (
                format!("<hostdev>{one}</hostdev>"),
                "Missing required attribute 'type' in element 'hostdev'",
            ),
            (
                format!("<hostdev type='x'>{one}</hostdev>"),
                "Invalid value for attribute 'type' in element 'hostdev': 'x'.",
            ),
            (pci(""), "Missing <source> element in hostdev device"),
            (pci("<source/>"), "0000:00:00.0"),
            (at("slot='1'"), "0000:00:01.0"),
            (at("domain='0x10000' bus=' 1'"), "10000:01:00.0"),
            (
                at("bus='0x100'"),
                "Invalid PCI address bus='0x100', must be <= 0xFF",
            ),
            (
                at("slot='0x20'"),
                "Invalid PCI address slot='0x20', must be <= 0x1F",
            ),
            (
                at("function='8'"),
                "Invalid PCI address function=0x8, must be <= 7",
            ),
        ] {
            assert_eq!(found(&xml), expected, "{xml}");
        }
        for (name, value) in [
            ("bus", "zz"),
            ("bus", "1 "),
            ("domain", "0x1ffffffff"),
            ("function", "08"),
        ] {
            let found = found(&at(&format!("{name}='{value}'")));
            let expected = format!(
                "Invalid value for attribute '{name}' in element 'address': '{value}'. Expected non-negative integer value"
            );
            assert_eq!(found, expected);
        }
    }
}
