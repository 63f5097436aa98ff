//! libvirt's checks of a `<hostdev>` of any type, and of an `<interface type='hostdev'>`, as tables
//! in libvirt's order and with its words.
//!
//! libvirt first parses all devices ([`PARSED`]) and then checks each as a whole ([`WHOLE`]). The
//! tables follow the source of libvirt 11.3. Where 9.0 and 10.0 have different messages, the tables
//! have both; nobody looked up which version in between changed the message.

use super::{number_in, parse_long, parse_number, parse_uuid};
use crate::domain::values::missing;
use crate::domain::{Misread, Switch, Versions, invalid};
use crate::xml::Element;

/// A hostdev or interface as libvirt's parser reads it.
struct Given<'d, 'a> {
    /// The `<hostdev>` or `<interface>`.
    element: Element<'d, 'a>,
    /// The device's type: `usb`, `pci`, `scsi`, `scsi_host` or `mdev`.
    kind: String,
    /// The element's `<source>`.
    source: Option<Element<'d, 'a>>,
}

/// One of libvirt's checks of a hostdev.
struct Check {
    /// The types of hostdevs that libvirt checks in this way.
    of: &'static [&'static str],
    versions: Versions,
    /// Returns libvirt's message if the hostdev does not pass, and `None` if it does.
    broken: fn(&Given<'_, '_>) -> Option<String>,
}

impl Check {
    const fn new(
        of: &'static [&'static str],
        broken: fn(&Given<'_, '_>) -> Option<String>,
    ) -> Self {
        Check {
            of,
            versions: Versions::EVERY,
            broken,
        }
    }

    const fn since(mut self, version: &'static [u32]) -> Self {
        self.versions.since = version;
        self.versions.always = false;
        self
    }

    /// Limits the check to the versions that have this message: from `since` on, and before
    /// `until`. The other versions refuse with another message.
    const fn in_these_words(mut self, since: &'static [u32], until: &'static [u32]) -> Self {
        self.versions.since = since;
        self.versions.until = until;
        self
    }

    fn ask(&self, given: &Given<'_, '_>) -> Option<Misread> {
        if !self.of.contains(&given.kind.as_str()) {
            return None;
        }
        Some(Misread {
            message: (self.broken)(given)?,
            versions: self.versions,
        })
    }
}

/// The types of hostdevs that libvirt knows (src/conf/domain_conf.c, `virDomainHostdevSubsys`).
const ANY: [&str; 5] = ["usb", "pci", "scsi", "scsi_host", "mdev"];

/// The types of hostdevs with `mode='capabilities'`, which only containers have
/// (src/conf/domain_conf.c, `virDomainHostdevCaps`).
const OF_CONTAINERS: [&str; 3] = ["storage", "misc", "net"];

/// The first version for which the tables have the messages of libvirt 12.8, which was asked. Which
/// version after 11.3 brought them was not read.
const NEWER: &[u32] = &[11, 4];

/// The models of mediated devices (src/conf/device_conf.c, `virMediatedDeviceModel`).
const MDEV_MODELS: [&str; 3] = ["vfio-pci", "vfio-ccw", "vfio-ap"];

/// The models of a vhost-scsi device (src/conf/domain_conf.c,
/// `virDomainHostdevSubsysSCSIVHostModel`).
const SCSI_HOST_MODELS: [&str; 4] = [
    "default",
    "virtio",
    "virtio-transitional",
    "virtio-non-transitional",
];

/// The types of addresses in the guest that libvirt accepts (src/conf/device_conf.c,
/// `virDomainDeviceAddress`).
const ADDRESSES: [&str; 11] = [
    "pci",
    "drive",
    "virtio-serial",
    "ccid",
    "usb",
    "spapr-vio",
    "ccw",
    "virtio-mmio",
    "isa",
    "dimm",
    "unassigned",
];

/// The values of an attribute of the type that libvirt calls `virTristateBool`.
const YES_OR_NO: [&str; 2] = ["yes", "no"];

/// The checks while libvirt parses a hostdev (src/conf/domain_conf.c,
/// `virDomainHostdevDefParseXMLSubsys` and the functions for each type).
const PARSED: [Check; 38] = [
    Check::new(&ANY, |given| {
        let words = "Missing <source> element in hostdev device";
        given.source.is_none().then(|| words.to_owned())
    }),
    Check::new(&["pci", "scsi", "scsi_host", "mdev"], |given| {
        let words = "Setting startupPolicy is only allowed for USB devices";
        given.source?.attribute("startupPolicy")?;
        Some(words.to_owned())
    }),
    Check::new(&ANY, |given| {
        word(given.element, "sgio", &["filtered", "unfiltered"])
    }),
    Check::new(&["usb", "pci", "scsi_host", "mdev"], |given| {
        given.element.attribute("sgio")?;
        Some("sgio is only supported for scsi host device".into())
    }),
    Check::new(&ANY, |given| word(given.element, "rawio", &YES_OR_NO)),
    Check::new(&["usb", "pci", "scsi_host", "mdev"], |given| {
        given.element.attribute("rawio")?;
        Some("rawio is only supported for scsi host device".into())
    }),
    Check::new(&["usb", "pci", "scsi"], |given| {
        given.element.attribute("model")?;
        let kind = &given.kind;
        Some(format!(
            "'model' attribute in <hostdev> is only supported when type='{kind}'"
        ))
    }),
    Check::new(&["scsi_host"], |given| {
        word(given.element, "model", &SCSI_HOST_MODELS)
    }),
    Check::new(&["mdev"], |given| {
        required(given.element, "model").or_else(|| word(given.element, "model", &MDEV_MODELS))
    }),
    Check::new(&["mdev"], |given| switch(given.element, "display")),
    Check::new(&["mdev"], |given| switch(given.element, "ramfb")),
    Check::new(&["pci"], |given| switch(given.element, "display")).since(&[10, 3]),
    Check::new(&["pci"], |given| switch(given.element, "ramfb")).since(&[10, 3]),
    Check::new(&["pci"], |given| {
        word(given.source?, "writeFiltering", &YES_OR_NO)
    }),
    Check::new(&["pci"], |given| {
        pci_address(given.source?.child("address")?)
    }),
    Check::new(&["pci"], |given| {
        let driver = given.element.child("driver")?;
        word(driver, "name", &["kvm", "vfio", "xen"])
    }),
    Check::new(&["usb"], |given| usb(given.source?)),
    Check::new(&["usb"], |given| {
        numbers(given.source?.child("address")?, &["device"])
    })
    .in_these_words(&[], NEWER),
    Check::new(&["usb"], |given| {
        device_or_port(given.source?.child("address")?)
    })
    .in_these_words(NEWER, &[]),
    // The checks of `protocol`: each check of 9.0 comes before the check that replaced it
    Check::new(&["scsi"], |given| {
        let protocol = given.source?.attribute("protocol")?;
        let is_known = matches!(&*protocol, "adapter" | "iscsi");
        (!is_known).then(|| format!("Unknown SCSI subsystem protocol '{protocol}'"))
    })
    .in_these_words(&[], &[10, 0]),
    Check::new(&["scsi"], |given| {
        word(given.source?, "protocol", &["adapter", "iscsi"])
    })
    .in_these_words(&[10, 0], &[]),
    Check::new(&["scsi"], |given| scsi_at_an_adapter(given.source?)),
    Check::new(&["scsi"], |given| iscsi(given.source?)),
    Check::new(&["scsi_host"], |given| {
        given.source?.attribute("protocol").map_or_else(
            || Some("Missing scsi_host subsystem protocol".into()),
            |protocol| {
                let words = || format!("Unknown scsi_host subsystem protocol '{protocol}'");
                (protocol != "vhost").then(words)
            },
        )
    })
    .in_these_words(&[], &[10, 0]),
    Check::new(&["scsi_host"], |given| {
        let source = given.source?;
        required(source, "protocol").or_else(|| word(source, "protocol", &["vhost"]))
    })
    .in_these_words(&[10, 0], &[]),
    Check::new(&["scsi_host"], |given| {
        let missing = || "missing vhost-scsi hostdev source wwpn".to_owned();
        given.source?.attribute("wwpn").is_none().then(missing)
    }),
    Check::new(&["scsi_host"], |given| {
        let wwpn = given.source?.attribute("wwpn")?;
        (!is_wwpn(&wwpn)).then(|| "malformed 'wwpn' value".to_owned())
    }),
    Check::new(&["mdev"], |given| {
        let missing = || "Missing <address> element".to_owned();
        given.source?.child("address").is_none().then(missing)
    }),
    Check::new(&["mdev"], |given| {
        let address = given.source?.child("address")?;
        let missing = || "Missing 'uuid' attribute for element <address>".to_owned();
        address.attribute("uuid").is_none().then(missing)
    })
    .in_these_words(&[], NEWER),
    Check::new(&["mdev"], |given| {
        let uuid = given.source?.child("address")?.attribute("uuid")?;
        let words = || "Cannot parse uuid attribute of element <address>".to_owned();
        parse_uuid(&uuid).is_none().then(words)
    })
    .in_these_words(&[], NEWER),
    Check::new(&["mdev"], |given| {
        let address = given.source?.child("address")?;
        required(address, "uuid").or_else(|| {
            let uuid = address.attribute("uuid")?;
            let words = || format!("{} Expected UUID", invalid("uuid", "address", &uuid));
            parse_uuid(&uuid).is_none().then(words)
        })
    })
    .in_these_words(NEWER, &[]),
    // virDomainDeviceAddressParseXML, for the address in the guest
    Check::new(&ANY, |given| {
        let address = given.element.child("address")?;
        required(address, "type").map(|_| "No type specified for device address".to_owned())
    })
    .in_these_words(&[], &[10, 0]),
    Check::new(&ANY, |given| {
        let address = given.element.child("address")?;
        required(address, "type")
    })
    .in_these_words(&[10, 0], &[]),
    Check::new(&ANY, |given| {
        let kind = given.element.child("address")?.attribute("type")?;
        (kind == "virtio-s390").then(|| "virtio-s390 bus doesn't have an address".into())
    }),
    Check::new(&ANY, |given| {
        let kind = given.element.child("address")?.attribute("type")?;
        let is_known = ADDRESSES.contains(&&*kind) || kind == "virtio-s390";
        (!is_known).then(|| format!("unknown address type '{kind}'"))
    })
    .in_these_words(&[], &[10, 0]),
    Check::new(&ANY, |given| {
        let address = given.element.child("address")?;
        let is_for_s390 = address.attribute("type").as_deref() == Some("virtio-s390");
        word(address, "type", &ADDRESSES).filter(|_| !is_for_s390)
    })
    .in_these_words(&[10, 0], &[]),
    Check::new(&ANY, |given| {
        let address = given.element.child("address")?;
        (address.attribute("type").as_deref() == Some("pci")).then_some(())?;
        pci_address(address)
    }),
    // virDomainNetTeamingInfoParseXML
    Check::new(&ANY, |given| {
        let teaming = given.element.child("teaming")?;
        let kind = teaming.attribute("type");
        if kind.is_none() && teaming.attribute("persistent").is_none() {
            return None;
        }
        let kind = kind.unwrap_or("(null)".into());
        let is_known = matches!(&*kind, "persistent" | "transient");
        (!is_known).then(|| format!("unknown teaming type '{kind}'"))
    }),
];

/// The checks of a whole hostdev (src/conf/domain_validate.c, `virDomainHostdevDefValidate`; then
/// src/qemu/qemu_validate.c, `qemuValidateDomainDeviceDefHostdev`). For an interface, libvirt makes
/// other checks, which are not here.
const WHOLE: [Check; 10] = [
    Check::new(&["pci"], |given| {
        address(given, &["pci", "unassigned"])
            .then(|| "PCI host devices must use 'pci' or 'unassigned' address type".into())
    }),
    Check::new(&["scsi"], |given| {
        address(given, &["drive"]).then(|| "SCSI host device must use 'drive' address type".into())
    }),
    Check::new(&["scsi"], |given| {
        let is_unfiltered = given.element.attribute("sgio").as_deref() == Some("unfiltered");
        is_unfiltered.then(|| "unfiltered sgio is no longer supported".into())
    }),
    Check::new(&["scsi_host"], |given| {
        address(given, &["pci", "ccw"])
            .then(|| "SCSI_host host device must use 'pci' or 'ccw' address type".into())
    }),
    Check::new(&["usb"], |given| {
        address(given, &["usb"]).then(|| "USB host device must use 'usb' address type".into())
    }),
    Check::new(&ANY, |given| {
        let kind = given.element.child("teaming")?.attribute("type")?;
        (kind != "transient").then(|| "teaming hostdev devices must have type='transient'".into())
    }),
    Check::new(&ANY, |given| {
        let teaming = given.element.child("teaming")?;
        teaming.attribute("type")?;
        let missing =
            || "missing required persistent attribute in hostdev teaming element".to_owned();
        teaming.attribute("persistent").is_none().then(missing)
    }),
    Check::new(&["usb", "scsi", "scsi_host", "mdev"], |given| {
        given.element.child("teaming")?.attribute("type")?;
        Some("teaming is only supported for pci hostdev devices".into())
    }),
    Check::new(&["pci"], |given| {
        given.source?.attribute("writeFiltering")?;
        Some("Write filtering of PCI device configuration space is not supported by qemu".into())
    }),
    Check::new(&["scsi_host"], |given| {
        given.element.child("boot")?;
        Some("booting from assigned devices is not supported by vhost SCSI devices".into())
    }),
];

/// Returns the errors that libvirt's parser would report for a hostdev (src/conf/domain_conf.c,
/// `virDomainHostdevDefParseXML`; for `mode='capabilities'` also src/qemu/qemu_validate.c,
/// `qemuValidateDomainDeviceDefHostdev`). `virt` is the domain's type.
pub(in crate::domain) fn misread(hostdev: Element<'_, '_>, virt: &str) -> Vec<Misread> {
    let mode = hostdev.attribute("mode");
    let (types, is_of_container) = match mode.as_deref() {
        None | Some("subsystem") => (&ANY[..], false),
        Some("capabilities") => (&OF_CONTAINERS[..], true),
        Some(word) => {
            let then = format!("unknown hostdev mode '{word}'");
            return in_two_words(then, invalid("mode", "hostdev", word));
        }
    };
    let wrong = required(hostdev, "type").or_else(|| word(hostdev, "type", types));
    if let Some(words) = wrong {
        let then = match hostdev.attribute("type") {
            Some(kind) => format!("unknown host device source address type '{kind}'"),
            None => "missing source address type".into(),
        };
        return in_two_words(then, words);
    }
    if is_of_container {
        let words = format!("hostdev mode 'capabilities' is not supported in {virt}");
        return vec![words.into()];
    }
    asked(&PARSED, hostdev)
}

/// Returns the errors that libvirt's parser would report for an `<interface type='hostdev'>`; empty
/// for any other interface (src/conf/domain_conf.c, `virDomainNetDefParseXML`).
pub(in crate::domain) fn misread_interface(interface: Element<'_, '_>) -> Vec<Misread> {
    if interface.attribute("type").as_deref() != Some("hostdev") {
        return Vec::new();
    }
    match kind(interface) {
        Some(kind) if ANY.contains(&kind.as_str()) => asked(&PARSED, interface),
        Some(kind) => {
            vec![format!("unknown host device source address type '{kind}'").into()]
        }
        None => in_two_words(
            "missing source address type".into(),
            "unknown host device source address type '(null)'".into(),
        ),
    }
}

/// Returns an error twice: with the message `then` for libvirt before 10.0, and `now` from 10.0 on.
fn in_two_words(then: String, now: String) -> Vec<Misread> {
    let [mut then, mut now] = [then, now].map(Misread::from);
    then.versions.until = &[10, 0];
    now.versions.since = &[10, 0];
    vec![then, now]
}

/// Returns the errors that libvirt would report for a whole `<hostdev>`, once all devices are
/// parsed.
pub(in crate::domain) fn unfit(hostdev: Element<'_, '_>) -> Vec<Misread> {
    asked(&WHOLE, hostdev)
}

fn asked(checks: &[Check], element: Element<'_, '_>) -> Vec<Misread> {
    let Some(kind) = kind(element) else {
        return Vec::new();
    };
    let given = Given {
        element,
        kind,
        source: element.child("source"),
    };
    checks
        .iter()
        .filter_map(|check| check.ask(&given))
        .collect()
}

/// Returns the type of the host's device; `None` if the XML doesn't say. For an interface, the
/// `<address>` in its `<source>` has the type; with a `<vendor>` instead, the type is usb.
pub(super) fn kind(element: Element<'_, '_>) -> Option<String> {
    if element.name() == "hostdev" {
        return element.attribute("type").map(Into::into);
    }
    let source = element.child("source")?;
    let address = source.child("address");
    let kind = address.and_then(|address| address.attribute("type"));
    let usb = || source.child("vendor").map(|_| "usb".into());
    kind.map(Into::into).or_else(usb)
}

/// Returns libvirt's error if an attribute is missing (src/util/virxml.c, `virXMLPropEnum`
/// and the functions beside it).
fn required(element: Element<'_, '_>, name: &str) -> Option<String> {
    let is_missing = element.attribute(name).is_none();
    is_missing.then(|| missing(name, element.name()))
}

/// Returns libvirt's error if an attribute has a value that is not one of `words`.
fn word(element: Element<'_, '_>, name: &str, words: &[&str]) -> Option<String> {
    let value = element.attribute(name)?;
    (!words.contains(&&*value)).then(|| invalid(name, element.name(), &value))
}

/// Returns libvirt's error if an attribute has a value that is neither `on` nor `off`.
fn switch(element: Element<'_, '_>, name: &str) -> Option<String> {
    let value = element.attribute(name)?;
    let is_switch = Switch::parse(&value).is_some();
    (!is_switch).then(|| invalid(name, element.name(), &value))
}

/// Returns libvirt's error if an attribute has a value that is not a number.
fn number(element: Element<'_, '_>, name: &str) -> Option<String> {
    let value = element.attribute(name)?;
    // virXMLPropULongLong for the unit, virXMLPropUInt for all others
    let is_number = match name {
        "unit" => parse_long(&value).is_some(),
        _ => parse_number(&value).is_some(),
    };
    (!is_number).then(|| {
        let invalid = invalid(name, element.name(), &value);
        format!("{invalid} Expected non-negative integer value")
    })
}

/// Returns libvirt's error for the first attribute in `names` that is missing or not a number.
fn numbers(element: Element<'_, '_>, names: &[&str]) -> Option<String> {
    names
        .iter()
        .find_map(|name| required(element, name).or_else(|| number(element, name)))
}

/// Returns whether the hostdev has an address in the guest of a type that is not in `types`.
fn address(given: &Given<'_, '_>, types: &[&str]) -> bool {
    let address = given.element.child("address");
    let kind = address.and_then(|address| address.attribute("type"));
    kind.is_some_and(|kind| !types.contains(&&*kind))
}

/// Returns libvirt's first error in the `<source>` of a USB device, if any
/// (`virDomainHostdevSubsysUSBDefParseXML`).
fn usb(source: Element<'_, '_>) -> Option<String> {
    let policies = ["mandatory", "requisite", "optional"];
    let resets = ["off", "uninitialized", "on"];
    let (vendor, product) = (source.child("vendor"), source.child("product"));
    let zero = |vendor: Element<'_, '_>| {
        let id = vendor.attribute("id")?;
        (parse_number(&id) == Some(0)).then(|| {
            "Invalid value for attribute 'id' in element 'vendor': Zero is not permitted".into()
        })
    };
    word(source, "startupPolicy", &policies)
        .or_else(|| word(source, "autoAddress", &YES_OR_NO))
        .or_else(|| word(source, "guestReset", &resets))
        .or_else(|| numbers(vendor?, &["id"]).or_else(|| zero(vendor?)))
        .or_else(|| (vendor.is_some() && product.is_none()).then(|| "missing product".into()))
        .or_else(|| numbers(product?, &["id"]))
        .or_else(|| (product.is_some() && vendor.is_none()).then(|| "missing vendor".into()))
        .or_else(|| numbers(source.child("address")?, &["bus"]))
}

/// Returns libvirt's error if a USB device's address has no device number and no port, or both.
fn device_or_port(address: Element<'_, '_>) -> Option<String> {
    let has_port = address
        .attribute("port")
        .is_some_and(|port| !port.is_empty());
    number(address, "device").or_else(|| match (address.attribute("device"), has_port) {
        (Some(_), true) => {
            Some("found both device id and port in usb address (ambiguous setting)".into())
        }
        (None, false) => Some("usb address needs either device id or port".into()),
        _ => None,
    })
}

/// Returns libvirt's first error in the `<source>` of a SCSI device at an adapter, if any
/// (`virDomainHostdevSubsysSCSIHostDefParseXML`).
fn scsi_at_an_adapter(source: Element<'_, '_>) -> Option<String> {
    if source.attribute("protocol").as_deref() == Some("iscsi") {
        return None;
    }
    let Some(address) = source.child("address") else {
        return Some("'address' must be specified for scsi hostdev source".into());
    };
    let name = || source.child("adapter")?.attribute("name");
    numbers(address, &["bus", "target", "unit"]).or_else(|| {
        name()
            .is_none_or(|name| name.is_empty())
            .then(|| "'adapter' name must be specified for scsi hostdev source".into())
    })
}

/// Returns libvirt's first error in the `<source>` of an iSCSI device, if any
/// (`virDomainHostdevSubsysSCSIiSCSIDefParseXML`).
fn iscsi(source: Element<'_, '_>) -> Option<String> {
    if source.attribute("protocol").as_deref() != Some("iscsi") {
        return None;
    }
    if source.attribute("name").is_none() {
        return Some("missing iSCSI hostdev source path name".into());
    }
    let hosts = || source.children().filter(|child| child.name() == "host");
    let has_no_name = |host: Element<'_, '_>| {
        let is_unix = host.attribute("transport").as_deref() == Some("unix");
        !is_unix && host.attribute("name").is_none()
    };
    if hosts().any(has_no_name) {
        return Some("missing name for host".into());
    }
    match hosts().count() {
        0 => Some("missing the host address for the iSCSI hostdev".into()),
        1 => None,
        _ => Some("only one source host address may be specified for the iSCSI hostdev".into()),
    }
}

/// Returns whether a text can name a vhost-scsi target (src/util/virutil.c, `virValidateWWN`).
fn is_wwpn(text: &str) -> bool {
    let Some(name) = text.strip_prefix("naa.") else {
        return false;
    };
    let digits = name.strip_prefix("0x").unwrap_or(name);
    digits.len() == 16 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns the first error that libvirt's parser would report for a PCI address, if there is one
/// (src/conf/device_conf.c, `virPCIDeviceAddressParseXML`; src/util/virpci.c,
/// `virPCIDeviceAddressIsValid`).
fn pci_address(address: Element<'_, '_>) -> Option<String> {
    let names = ["domain", "bus", "slot", "function"];
    if let Some(words) = names.iter().find_map(|name| number(address, name)) {
        return Some(words);
    }
    let value = |name| number_in(address, name).unwrap_or(0);
    let (bus, slot, function) = (value("bus"), value("slot"), value("function"));
    if value("domain") == 0 && bus == 0 && slot == 0 {
        // libvirt chooses an address then (src/util/virpci.c, `virPCIDeviceAddressIsEmpty`).
        None
    } else if bus > 0xff {
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

#[cfg(test)]
mod tests;
