//! Turns a plan into edits of the domain's XML.

mod qemu_arguments;

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap};

use crate::device::id::DeviceId;
use crate::domain::{Domain, Graphics, GraphicsType, Hostdev, Property, SpiceMode};
use crate::plan::{Action, Change};
use crate::xml::{Edit, escape};

use qemu_arguments::Aliases;

/// The elements that libvirt writes after `<graphics>` (src/conf/domain_conf.c,
/// `virDomainDefFormatInternalSetRootName`).
const AFTER_GRAPHICS: [&str; 18] = [
    "sound",
    "audio",
    "video",
    "hostdev",
    "redirdev",
    "redirfilter",
    "hub",
    "watchdog",
    "memballoon",
    "rng",
    "nvram",
    "panic",
    "shmem",
    "memory",
    "iommu",
    "vsock",
    "crypto",
    "pstore",
];

/// The conditions under which the edits are made.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct How {
    /// True if no device may get a new alias (`ua-…`). Such an alias renames the device, and a
    /// `-set` would no longer find it.
    pub keep_aliases: bool,
    /// True if libvirt does not read `qemu:override`, so that only attributes have an effect.
    pub no_override: bool,
}

/// Returns the edits of the domain's XML that make the changes. There is no edit for a change of an
/// element that the domain does not have.
pub(crate) fn edits(domain: &Domain<'_, '_>, changes: &[Change], how: How) -> Vec<Edit> {
    let mut edits = Edits {
        domain,
        changes,
        how,
        edits: Vec::new(),
        properties: BTreeMap::new(),
        hostdevs: domain
            .hostdevs
            .iter()
            .enumerate()
            .rev()
            .map(|(at, hostdev)| (hostdev.id, at))
            .collect(),
        said: domain
            .properties
            .iter()
            .map(|p| ((p.alias.as_str(), p.name.as_str()), p))
            .collect(),
        aliases: RefCell::default(),
    };
    for change in changes {
        edits.action(&change.action);
    }
    edits.set_properties();
    edits.take_out_properties();
    edits.take_out_settings();
    edits.edits
}

struct Edits<'e, 'd, 'a> {
    domain: &'e Domain<'d, 'a>,
    changes: &'e [Change],
    how: How,
    edits: Vec<Edit>,
    /// The values of properties in `qemu:override`; `None` for a property to remove.
    properties: BTreeMap<(DeviceId, String), Option<String>>,
    /// The index of each device's hostdev in the domain; the first index if a device occurs twice.
    hostdevs: HashMap<DeviceId, usize>,
    /// The properties in `qemu:override` by alias and name. If a property occurs several times, the
    /// last one counts, as for libvirt.
    said: HashMap<(&'e str, &'e str), &'e Property<'d, 'a>>,
    aliases: RefCell<Option<Aliases>>,
}

impl<'e, 'd, 'a> Edits<'e, 'd, 'a> {
    fn hostdev(&self, id: DeviceId) -> Option<&'e Hostdev<'d, 'a>> {
        Some(&self.domain.hostdevs[*self.hostdevs.get(&id)?])
    }

    fn graphics(&self, kind: GraphicsType) -> Option<&'e Graphics<'d, 'a>> {
        self.domain.graphics.iter().find(|g| g.kind == Some(kind))
    }

    fn action(&mut self, action: &Action) {
        match action {
            Action::Display { device, on } => self.display(*device, *on),
            Action::Ramfb { device, on } => self.ramfb(*device, *on),
            Action::Gl { graphics, on } => self.gl(*graphics, *on),
            Action::ListenNone { graphics } => self.listen_none(*graphics),
            Action::PeerToPeer => {
                let dbus = self.graphics(GraphicsType::Dbus);
                self.edits
                    .extend(dbus.map(|dbus| dbus.element.set_attribute("p2p", "yes")));
            }
            Action::RenderNode {
                graphics,
                rendernode,
            } => self.rendernode(*graphics, rendernode),
            Action::AddGraphics { graphics, gl } => self.add_graphics(*graphics, *gl),
            Action::RemoveGraphics { graphics } => {
                let edit = self.graphics(*graphics).map(|g| g.element.remove());
                self.edits.extend(edit);
            }
            Action::VideoNone => self.video_none(),
            Action::VideoVga => {
                let mut videos = self.domain.videos.iter();
                let none = videos.find(|video| video.model.as_deref() == Some("none"));
                let model = none.and_then(|video| video.element.child("model"));
                self.edits
                    .extend(model.map(|model| model.set_attribute("type", "vga")));
            }
            Action::SetProperty {
                device,
                name,
                value,
            } => {
                self.properties
                    .insert((*device, name.clone()), Some(value.clone()));
            }
            Action::RemoveProperty { device, name } => {
                self.properties.insert((*device, name.clone()), None);
            }
            Action::Rom { device, file } => self.rom(*device, file),
            // Settings are removed together at the end: a command line left empty is removed as a
            // whole.
            Action::RemoveSetting { .. } => {}
        }
    }

    /// Sets the property `display` if `qemu:override` has it and libvirt reads `qemu:override`, or
    /// else the hostdev's attribute.
    fn display(&mut self, device: DeviceId, on: bool) {
        let Some(hostdev) = self.hostdev(device) else {
            return;
        };
        let overridden = self
            .said
            .get(&(hostdev.alias.as_str(), "display"))
            .filter(|_| !self.how.no_override);
        let value = if on { "on" } else { "off" };
        let edit = match overridden {
            // QEMU needs this type, whatever type the property had.
            Some(property) => {
                self.edits
                    .push(property.element.set_attribute("type", "string"));
                property.element.set_attribute("value", value)
            }
            None => hostdev.element.set_attribute("display", value),
        };
        self.edits.push(edit);
    }

    fn ramfb(&mut self, device: DeviceId, on: bool) {
        let value = if on { "on" } else { "off" };
        let edit = self
            .hostdev(device)
            .map(|hostdev| hostdev.element.set_attribute("ramfb", value));
        self.edits.extend(edit);
    }

    fn gl(&mut self, kind: GraphicsType, on: bool) {
        let Some(graphics) = self.graphics(kind) else {
            return;
        };
        let enable = if on { "yes" } else { "no" };
        let rendernode = self.chosen_rendernode(kind);
        match graphics.element.child("gl") {
            Some(gl) => self.edits.push(gl.set_attribute("enable", enable)),
            None => {
                let xml = gl_element(Some(enable), rendernode);
                let before: &[&str] = match kind {
                    GraphicsType::Dbus => &["audio"],
                    _ => &[],
                };
                self.edits
                    .push(graphics.element.insert_before(before, &xml));
            }
        }
    }

    /// Returns the render node that the plan chooses for graphics of this type, if any.
    fn chosen_rendernode(&self, kind: GraphicsType) -> Option<&'e str> {
        self.changes.iter().find_map(|change| match &change.action {
            Action::RenderNode {
                graphics,
                rendernode,
            } if *graphics == kind => Some(rendernode.as_str()),
            _ => None,
        })
    }

    fn rendernode(&mut self, kind: GraphicsType, node: &str) {
        // For new graphics or a new <gl>, the code that adds them writes the render node.
        let Some(graphics) = self.graphics(kind) else {
            return;
        };
        match graphics.element.child("gl") {
            Some(gl) => self.edits.push(gl.set_attribute("rendernode", node)),
            None if kind == GraphicsType::EglHeadless => {
                let xml = gl_element(None, Some(node));
                self.edits.push(graphics.element.append(&xml));
            }
            None => {}
        }
    }

    fn listen_none(&mut self, kind: GraphicsType) {
        let Some(graphics) = self.graphics(kind) else {
            return;
        };
        let element = graphics.element;
        for name in ["port", "tlsPort", "autoport", "listen"] {
            self.edits.push(element.remove_attribute(name));
        }
        // Without TLS there are no secure channels, and libvirt refuses to start a domain that asks
        // for a secure channel.
        if graphics.settings.default_mode == SpiceMode::Secure {
            self.edits.push(element.remove_attribute("defaultMode"));
        }
        let secure = graphics.secure_channels().map(|channel| channel.remove());
        self.edits.extend(secure);
        let mut first = true;
        for child in element.children() {
            if child.name() != "listen" {
                continue;
            }
            if std::mem::take(&mut first) {
                for name in ["address", "network", "socket"] {
                    self.edits.push(child.remove_attribute(name));
                }
                self.edits.push(child.set_attribute("type", "none"));
            } else {
                self.edits.push(child.remove());
            }
        }
        if first {
            let others: Vec<&str> = element.children().map(|child| child.name()).collect();
            let edit = element.insert_before(&others, "<listen type='none'/>");
            // This edit must come before the other insertions.
            self.edits.insert(0, edit);
        }
    }

    fn add_graphics(&mut self, kind: GraphicsType, gl: bool) {
        let Some(devices) = self.domain.devices else {
            return;
        };
        let node = self.chosen_rendernode(kind);
        let has_rdp = self.graphics(GraphicsType::Rdp).is_some();
        let mut inner = Vec::new();
        match kind {
            GraphicsType::Spice => inner.push("<listen type='none'/>".to_owned()),
            GraphicsType::Vnc => inner.push("<listen type='socket'/>".to_owned()),
            _ => {}
        }
        match kind {
            GraphicsType::EglHeadless => {
                inner.extend(node.map(|node| gl_element(None, Some(node))));
            }
            _ if gl => inner.push(gl_element(Some("yes"), node)),
            _ => {}
        }
        let p2p = if kind == GraphicsType::Dbus && !has_rdp {
            " p2p='yes'"
        } else {
            ""
        };
        let start = format!("<graphics type='{kind}'{p2p}");
        let xml = if inner.is_empty() {
            format!("{start}/>")
        } else {
            format!("{start}>\n  {}\n</graphics>", inner.join("\n  "))
        };
        // The new element comes after all other graphics, because QEMU uses the last of
        // several.
        let others: Vec<&str> = devices.children().map(|child| child.name()).collect();
        let last = others.iter().rposition(|name| *name == "graphics");
        let above = &others[..last.unwrap_or(0)];
        let below: Vec<&str> = AFTER_GRAPHICS
            .into_iter()
            .filter(|name| !above.contains(name))
            .collect();
        self.edits.push(devices.insert_before(&below, &xml));
    }

    fn video_none(&mut self) {
        let Some(devices) = self.domain.devices else {
            return;
        };
        for video in &self.domain.videos {
            self.edits.push(video.element.remove());
        }
        let xml = "<video>\n  <model type='none'/>\n</video>";
        self.edits
            .push(devices.insert_before(&AFTER_GRAPHICS[3..], xml));
    }

    fn rom(&mut self, device: DeviceId, file: &str) {
        let Some(hostdev) = self.hostdev(device) else {
            return;
        };
        let edit = match hostdev.element.child("rom") {
            Some(rom) => rom.set_attribute("file", file),
            None => hostdev
                .element
                .insert_before(&["address"], &format!("<rom file='{}'/>", escape(file))),
        };
        self.edits.push(edit);
    }
}

fn gl_element(enable: Option<&str>, rendernode: Option<&str>) -> String {
    let enable = enable.map(|enable| format!(" enable='{enable}'"));
    let node = rendernode.map(|node| format!(" rendernode='{}'", escape(node)));
    let (enable, node) = (enable.unwrap_or_default(), node.unwrap_or_default());
    format!("<gl{enable}{node}/>")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::Document;

    #[test]
    fn each_graphics_has_its_own_render_node() {
        let node = |graphics, node: &str| Action::RenderNode {
            graphics,
            rendernode: node.into(),
        };
        let [spice, dbus] = [GraphicsType::Spice, GraphicsType::Dbus];
        let actions = [
            Action::Gl {
                graphics: spice,
                on: true,
            },
            Action::AddGraphics {
                graphics: dbus,
                gl: true,
            },
            node(dbus, "/dev/dri/renderD129"),
            node(spice, "/dev/dri/renderD128"),
        ];
        let changes = actions.map(|action| Change {
            action,
            reason: String::new(),
            consent: None,
        });
        let text = "<domain><devices><graphics type='spice'/></devices></domain>";
        let document = Document::parse(text).unwrap();
        let domain = Domain::new(&document).unwrap();
        let after = document.apply(&edits(&domain, &changes, How::default()));
        let [spice, dbus] = ["type='spice'", "type='dbus'"].map(|kind| after.find(kind).unwrap());
        let [first, second] = ["renderD128", "renderD129"].map(|node| after.find(node).unwrap());
        assert!(spice < first && first < dbus && dbus < second, "{after}");
        assert_eq!(after.matches("rendernode").count(), 2, "{after}");
    }
}
