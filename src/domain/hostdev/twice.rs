//! Finds out whether two hostdevs of a domain name the same device of the host.

use std::collections::HashSet;

use super::checks::kind;
use super::{number_in, parse_uuid};
use crate::xml::Element;

/// Returns whether two of these interfaces and hostdevs name the same device of the host
/// (src/conf/domain_conf.c, `virDomainHostdevMatch`). The strings, which are aliases, don't matter.
pub(in crate::domain) fn twice(hostdevs: &[(Element<'_, '_>, String)]) -> bool {
    let mut seen: HashSet<String> = HashSet::new();
    hostdevs.iter().any(|(hostdev, _)| {
        let keys = keys(*hostdev);
        let is_there = keys.iter().any(|key| seen.contains(key));
        // libvirt compares a later hostdev with a USB device's address if the device has one, and
        // otherwise with its vendor and product.
        seen.extend(keys.into_iter().next());
        is_there
    })
}

/// Returns texts that identify a hostdev's device; empty for a hostdev that can't be read. An
/// earlier hostdev has the same device if its first text is among these texts.
fn keys<'d, 'a>(hostdev: Element<'d, 'a>) -> Vec<String> {
    let Some((kind, source)) = kind(hostdev).zip(hostdev.child("source")) else {
        return Vec::new();
    };
    let number = |element: Option<Element<'_, '_>>, name: &str| {
        let number = element.and_then(|element| number_in(element, name));
        number.unwrap_or(0)
    };
    let address = source.child("address");
    let at = |names: &[&str]| -> String {
        let values = names.iter().map(|name| number(address, name).to_string());
        values.collect::<Vec<_>>().join(":")
    };
    let text = |element: Option<Element<'d, 'a>>, name: &str| {
        let text = element.and_then(|element| element.attribute(name));
        text.unwrap_or_default()
    };
    let key = match kind.as_str() {
        "usb" => {
            let id = |name| number(source.child(name), "id");
            let bus = format!("usb at {}", at(&["bus", "device"]));
            let ids = format!("usb {:04x}:{:04x}", id("vendor"), id("product"));
            let port = text(address, "port");
            let has_address = number(address, "bus") != 0 && number(address, "device") != 0;
            return if has_address {
                vec![bus, ids]
            } else if !port.is_empty() {
                vec![format!("usb port {}:{port}", number(address, "bus")), ids]
            } else {
                vec![ids, bus]
            };
        }
        "pci" => at(&["domain", "bus", "slot", "function"]),
        "scsi" if text(Some(source), "protocol") == "iscsi" => {
            let host = |name| text(source.child("host"), name);
            let name = text(Some(source), "name");
            format!("iscsi {}:{} {name}", host("name"), host("port"))
        }
        "scsi" => {
            let adapter = text(source.child("adapter"), "name");
            format!("{adapter} {}", at(&["bus", "target", "unit"]))
        }
        "scsi_host" => text(Some(source), "wwpn").into_owned(),
        "mdev" => match parse_uuid(&text(address, "uuid")) {
            Some(uuid) => uuid.to_string(),
            None => return Vec::new(),
        },
        _ => return Vec::new(),
    };
    vec![format!("{kind} {key}")]
}
