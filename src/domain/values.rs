//! The values that libvirt's parser accepts in `<graphics>` and `<video>`, as a table.
//!
//! The table follows libvirt 9.0 (src/conf/domain_conf.c, `virDomainGraphicsDefParseXML`,
//! `virDomainVideoDefParseXML`), whose error for a wrong value was seen for each row.

use super::{Misread, invalid};
use crate::xml::Element;

/// The types of graphics, or `video` or `model`; the child that has the attribute, or `""` for the
/// element itself; the attribute; true if it is required; the words that it accepts, or none if it
/// is a number.
type Row = (
    &'static [&'static str],
    &'static str,
    &'static str,
    bool,
    &'static [&'static str],
);

const YES_OR_NO: &[&str] = &["yes", "no"];
const PACKED: &[&str] = &["auto", "never", "always"];
const SPICE: &[&str] = &["spice"];
const CHANNELS: &[&str] = &[
    "main",
    "display",
    "inputs",
    "cursor",
    "playback",
    "record",
    "smartcard",
    "usbredir",
];

#[rustfmt::skip]
const ROWS: [Row; 29] = [
    (SPICE, "", "port", false, &[]),
    (SPICE, "", "tlsPort", false, &[]),
    (SPICE, "", "autoport", false, YES_OR_NO),
    (SPICE, "", "defaultMode", false, &["any", "secure", "insecure"]),
    (&["vnc"], "", "websocket", false, &[]),
    (&["vnc"], "", "sharePolicy", false, &["allow-exclusive", "force-shared", "ignore"]),
    (&["vnc"], "", "powerControl", false, YES_OR_NO),
    (&["sdl", "desktop"], "", "fullscreen", false, YES_OR_NO),
    (&["dbus"], "", "p2p", false, YES_OR_NO),
    (&["vnc", "spice", "rdp"], "listen", "type", true, &["none", "address", "network", "socket"]),
    (&["spice", "sdl", "dbus"], "gl", "enable", true, YES_OR_NO),
    (&["vnc", "dbus"], "audio", "id", true, &[]),
    (SPICE, "channel", "name", true, CHANNELS),
    (SPICE, "channel", "mode", true, &["any", "secure", "insecure"]),
    (SPICE, "image", "compression", true, &["auto_glz", "auto_lz", "quic", "glz", "lz", "off"]),
    (SPICE, "jpeg", "compression", true, PACKED),
    (SPICE, "zlib", "compression", true, PACKED),
    (SPICE, "playback", "compression", true, &["on", "off"]),
    (SPICE, "streaming", "mode", true, &["filter", "all", "off"]),
    (SPICE, "clipboard", "copypaste", true, YES_OR_NO),
    (SPICE, "filetransfer", "enable", true, YES_OR_NO),
    (SPICE, "mouse", "mode", true, &["server", "client"]),
    (&["video"], "driver", "name", false, &["qemu", "vhostuser"]),
    (&["video"], "driver", "iommu", false, &["on", "off"]),
    (&["video"], "driver", "ats", false, &["on", "off"]),
    (&["model"], "acceleration", "accel2d", false, YES_OR_NO),
    (&["model"], "acceleration", "accel3d", false, YES_OR_NO),
    (&["model"], "resolution", "x", true, &[]),
    (&["model"], "resolution", "y", true, &[]),
];

/// Returns libvirt's first error about a value in an element, if there is one. `kind` is a type of
/// graphics, `video` or `model`.
pub(super) fn misread(kind: &str, element: Element<'_, '_>) -> Option<Misread> {
    let mut rows = ROWS.iter().filter(|(of, ..)| of.contains(&kind));
    let error = rows.find_map(|&(_, child, attribute, needed, words)| {
        let own = child.is_empty().then_some(element);
        let children = element.children().filter(|found| found.name() == child);
        own.into_iter().chain(children).find_map(|found| {
            let name = found.name();
            match found.attribute(attribute) {
                None => needed.then(|| missing(attribute, name)),
                Some(value) if words.is_empty() => {
                    let is_number = value.trim_start().parse::<i32>().is_ok();
                    (!is_number).then(|| invalid(attribute, name, &value))
                }
                Some(value) => {
                    (!words.contains(&&*value)).then(|| invalid(attribute, name, &value))
                }
            }
        })
    });
    let error = error.or_else(|| listens_elsewhere(kind, element));
    error.map(Misread::from)
}

/// Returns libvirt's message about a missing attribute.
pub(super) fn missing(attribute: &str, element: &str) -> String {
    format!("Missing required attribute '{attribute}' in element '{element}'")
}

/// Returns libvirt's error if the old attribute `listen` or `socket` of `<graphics>` contradicts
/// the first `<listen>` (`virDomainGraphicsListensParseXML`).
fn listens_elsewhere(kind: &str, graphics: Element<'_, '_>) -> Option<String> {
    let listen = graphics.child("listen")?;
    let is_read = matches!(kind, "vnc" | "spice" | "rdp");
    let of = listen.attribute("type").filter(|_| is_read)?;
    let (old, new) = match &*of {
        "address" => ("listen", "address"),
        "socket" => ("socket", "socket"),
        _ => return None,
    };
    let value = listen.attribute(new).filter(|value| !value.is_empty())?;
    let old_value = graphics.attribute(old).filter(|old| *old != value)?;
    Some(format!(
        "graphics '{old}' attribute '{old_value}' must match '{new}' attribute of first listen element (found '{value}')"
    ))
}
