//! Turns a plan into edits of the domain's XML.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, HashSet};

use crate::device::id::DeviceId;
use crate::domain::{
    Domain, Graphics, GraphicsType, Hostdev, Property, QEMU_NAMESPACE, SpiceMode, numbered,
};
use crate::plan::{Action, Change};
use crate::predict::properties;
use crate::xml::{Edit, Element, escape};

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

/// The limits that the edits must respect.
#[derive(Debug, Clone, Copy, Default)]
pub struct How {
    /// True if no device may get an alias of the user's. Such an alias renames the device, and a
    /// `-set` would no longer find it.
    pub keep_aliases: bool,
    /// True if libvirt does not read `qemu:override`, so that the attributes count.
    pub no_override: bool,
}

/// Returns the edits that make the changes.
#[must_use]
pub fn edits(domain: &Domain<'_, '_>, changes: &[Change], how: How) -> Vec<Edit> {
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
    /// The properties that `qemu:override` has to set; `None` for one that it must not set.
    properties: BTreeMap<(DeviceId, String), Option<String>>,
    /// The places of the hostdevs; for a device that occurs twice, the first place.
    hostdevs: HashMap<DeviceId, usize>,
    /// The properties in `qemu:override` by alias and name. libvirt takes the last of several.
    said: HashMap<(&'e str, &'e str), &'e Property<'d, 'a>>,
    aliases: RefCell<Option<Aliases>>,
}

/// All aliases of devices and overrides, also of overrides for devices that are not there, and those
/// that were given to devices.
struct Aliases {
    taken: HashSet<String>,
    /// Where to look next for a number that is free, if a device can't have its own.
    next: usize,
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
            // All settings go together at the end, because an emptied command line goes as a whole.
            Action::RemoveSetting { .. } => {}
        }
    }

    /// Sets the display in `qemu:override` if that has it, or else in the attribute.
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
            // QEMU wants this type, whatever type was there.
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

    /// Returns the render node that the plan chooses for these graphics.
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
        // for one.
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
        // The new element goes after all graphics that are there, because QEMU takes the last of
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

    fn set_properties(&mut self) {
        let mut by_device: BTreeMap<DeviceId, Vec<(&str, &str)>> = BTreeMap::new();
        for ((device, name), value) in &self.properties {
            if let Some(value) = value {
                by_device.entry(*device).or_default().push((name, value));
            }
        }
        let mut new = String::new();
        let mut edits = Vec::new();
        let overrides = self
            .domain
            .element
            .children()
            .find(|child| child.is(Some(QEMU_NAMESPACE), "override"));
        let (prefix, declared) = self.prefix(overrides);
        let frontends: HashMap<_, _> = overrides.map(frontends_of).unwrap_or_default();
        let mut given = Vec::new();
        for (device, given_properties) in &by_device {
            let Some(hostdev) = self.hostdev(*device) else {
                continue;
            };
            let alias = self.user_alias(hostdev, &mut edits);
            let frontend = frontends.get(hostdev.alias.as_str());
            given.push((hostdev.element, alias.clone()));
            let own = frontend.map_or(prefix.clone(), |f| prefix_of(f.name()));
            let mut lines = Vec::new();
            for (name, value) in given_properties {
                let said = self.said.get(&(hostdev.alias.as_str(), *name));
                match said.filter(|_| frontend.is_some()) {
                    Some(said) => edits.extend([
                        said.element
                            .set_attribute("type", properties::kind(name, value)),
                        said.element.set_attribute("value", value),
                    ]),
                    None => lines.push(property_element(&own, name, value)),
                }
            }
            match frontend {
                Some(frontend) => {
                    for line in &lines {
                        edits.push(frontend.append(line));
                    }
                }
                None if lines.is_empty() => {}
                None => {
                    new.push_str(&format!(
                        "<{prefix}device alias='{}'>\n  <{prefix}frontend>\n    {}\n  </{prefix}frontend>\n</{prefix}device>\n",
                        escape(&alias),
                        lines.join("\n    ")
                    ));
                }
            }
        }
        if !self.how.keep_aliases {
            self.renumber(&given, &mut edits);
        }
        if !new.is_empty() {
            let new = new.trim_end();
            match overrides {
                Some(all) => edits.push(all.append(new)),
                None => {
                    let inner = new.replace('\n', "\n  ");
                    let xml = format!("<{prefix}override>\n  {inner}\n</{prefix}override>");
                    if !declared {
                        let name = format!("xmlns:{}", prefix.trim_end_matches(':'));
                        edits.push(self.domain.element.set_attribute(&name, QEMU_NAMESPACE));
                    }
                    edits.push(self.domain.element.append(&xml));
                }
            }
        }
        self.edits.append(&mut edits);
    }

    /// Adjusts the aliases in `qemu:override`. libvirt does not count a device that gets an alias
    /// of the user's, so the devices after it get other numbers.
    fn renumber(&self, given: &[(Element<'d, 'a>, String)], edits: &mut Vec<Edit>) {
        let given: HashMap<&Element<'d, 'a>, &String> = given
            .iter()
            .map(|(element, alias)| (element, alias))
            .collect();
        let own = |(element, alias): &(Element<'d, 'a>, String)| {
            let new = given.get(element).map(|alias| (*alias).clone());
            new.or_else(|| alias.starts_with("ua-").then(|| alias.clone()))
        };
        let after = numbered(self.domain.aliases.iter().map(own));
        let before = self.domain.aliases.iter().map(|(_, alias)| alias.as_str());
        let changed: HashMap<&str, &String> = before
            .zip(&after)
            .rev()
            .filter(|(before, after)| before != after)
            .collect();
        for device in self.overridden() {
            let Some(alias) = device.attribute("alias") else {
                continue;
            };
            if let Some(after) = changed.get(alias.as_ref()) {
                edits.push(device.set_attribute("alias", after));
            }
        }
    }

    /// Returns the prefix for QEMU's namespace with its colon, and whether it is declared.
    fn prefix(&self, overrides: Option<Element<'d, 'a>>) -> (String, bool) {
        if let Some(element) = overrides {
            return (prefix_of(element.name()), true);
        }
        // If the domain uses the prefix `qemu` without declaring it, a declaration would make
        // libvirt read what it has passed over so far.
        let is_undeclared = |child: Element<'_, '_>| {
            child.name().starts_with("qemu:") && child.namespace().is_none()
        };
        let mut taken = self.domain.element.children().any(is_undeclared);
        for (name, value) in self.domain.element.attributes() {
            if let Some(prefix) = name.strip_prefix("xmlns:") {
                // A prefix with a colon does not count: an element that uses it is in no namespace.
                if value == QEMU_NAMESPACE && !prefix.contains(':') {
                    return (format!("{prefix}:"), true);
                }
                taken |= prefix == "qemu";
            }
        }
        (if taken { "libvirt-qemu:" } else { "qemu:" }.into(), false)
    }

    /// Returns the user's alias of a hostdev. A hostdev without one gets one, as libvirt keeps no
    /// other.
    fn user_alias(&self, hostdev: &Hostdev<'_, '_>, edits: &mut Vec<Edit>) -> String {
        if self.how.keep_aliases || hostdev.has_user_alias() {
            return hostdev.alias.clone();
        }
        let mut aliases = self.aliases.borrow_mut();
        let aliases = aliases.get_or_insert_with(|| {
            let devices = self.domain.devices.into_iter().flat_map(Element::children);
            let own = devices.filter_map(|device| device.child("alias")?.attribute("name"));
            let overridden = self.overridden();
            let overridden = overridden.filter_map(|device| device.attribute("alias"));
            Aliases {
                taken: own.chain(overridden).map(Into::into).collect(),
                next: 0,
            }
        });
        let at = self.hostdevs.get(&hostdev.id).copied().unwrap_or(0);
        let mut alias = format!("ua-vgpu{at}");
        while !aliases.taken.insert(alias.clone()) {
            let number = aliases.next.max(at + 1);
            aliases.next = number + 1;
            alias = format!("ua-vgpu{number}");
        }
        edits.push(match hostdev.element.child("alias") {
            Some(element) => element.set_attribute("name", &alias),
            None => hostdev
                .element
                .insert_before(&["rom", "address"], &format!("<alias name='{alias}'/>")),
        });
        alias
    }

    /// Returns the devices in `qemu:override`.
    fn overridden(&self) -> impl Iterator<Item = Element<'d, 'a>> {
        let children = self.domain.element.children();
        children
            .filter(|child| child.is(Some(QEMU_NAMESPACE), "override"))
            .flat_map(Element::children)
    }

    /// Removes properties, and their containers if these become empty.
    fn take_out_properties(&mut self) {
        let mut aliases: HashMap<DeviceId, Vec<&str>> = HashMap::new();
        for hostdev in &self.domain.hostdevs {
            let own = aliases.entry(hostdev.id).or_default();
            own.push(hostdev.alias.as_str());
        }
        let mut out: HashSet<(&str, &str)> = HashSet::new();
        for ((id, name), _) in self.properties.iter().filter(|(_, value)| value.is_none()) {
            let own = aliases.get(id).into_iter().flatten();
            out.extend(own.map(|alias| (*alias, name.as_str())));
        }
        let properties = self.domain.properties.iter();
        let gone: HashSet<Element<'_, '_>> = properties
            .filter(|p| out.contains(&(p.alias.as_str(), p.name.as_str())))
            .map(|p| p.element)
            .collect();
        let goes = |element: &Element<'_, '_>| gone.contains(element);
        let overrides = self
            .domain
            .element
            .children()
            .filter(|child| child.is(Some(QEMU_NAMESPACE), "override"));
        let mut edits = Vec::new();
        for all in overrides {
            take_out(all, &goes, &mut edits);
        }
        self.edits.append(&mut edits);
    }

    fn take_out_settings(&mut self) {
        let settings: HashSet<&str> = self
            .changes
            .iter()
            .filter_map(|change| match &change.action {
                Action::RemoveSetting { setting } => Some(setting.as_str()),
                _ => None,
            })
            .collect();
        let mut gone = HashSet::new();
        // The argument after -set is its value, even if that is another -set.
        let mut is_value = false;
        for pair in self.domain.arguments.windows(2) {
            let [option, value] = pair else { continue };
            if std::mem::take(&mut is_value) {
                continue;
            }
            let is_set = matches!(option.value.as_str(), "-set" | "--set");
            is_value = is_set;
            if is_set && settings.contains(value.value.as_str()) {
                gone.extend([option.element, value.element]);
            }
        }
        if gone.is_empty() {
            return;
        }
        let command_lines = self
            .domain
            .element
            .children()
            .filter(|child| child.is(Some(QEMU_NAMESPACE), "commandline"));
        let mut edits = Vec::new();
        for command_line in command_lines {
            take_out(command_line, &|element| gone.contains(element), &mut edits);
        }
        self.edits.append(&mut edits);
    }
}

/// Removes the elements that must go, and each element that has nothing left in it, not even a
/// comment. Returns whether the element itself goes.
fn take_out(
    element: Element<'_, '_>,
    goes: &dyn Fn(&Element<'_, '_>) -> bool,
    edits: &mut Vec<Edit>,
) -> bool {
    if goes(&element) {
        edits.push(element.remove());
        return true;
    }
    let before = edits.len();
    let children: Vec<Element<'_, '_>> = element.children().collect();
    let gone = children
        .iter()
        .filter(|child| take_out(**child, goes, edits))
        .count();
    let emptied = gone > 0 && gone == children.len() && !element.has_comment();
    if emptied {
        edits.truncate(before);
        edits.push(element.remove());
    }
    emptied
}

fn gl_element(enable: Option<&str>, rendernode: Option<&str>) -> String {
    let mut xml = String::from("<gl");
    if let Some(enable) = enable {
        xml.push_str(&format!(" enable='{enable}'"));
    }
    if let Some(node) = rendernode {
        xml.push_str(&format!(" rendernode='{}'", escape(node)));
    }
    xml.push_str("/>");
    xml
}

fn property_element(prefix: &str, name: &str, value: &str) -> String {
    let kind = properties::kind(name, value);
    format!(
        "<{prefix}property name='{}' type='{kind}' value='{}'/>",
        escape(name),
        escape(value)
    )
}

/// Returns the prefix of a name with its colon.
fn prefix_of(name: &str) -> String {
    name.split_once(':')
        .map(|(prefix, _)| format!("{prefix}:"))
        .unwrap_or_default()
}

/// Returns the first `<qemu:frontend>` for each alias.
fn frontends_of<'d, 'a>(overrides: Element<'d, 'a>) -> HashMap<String, Element<'d, 'a>> {
    let mut all = HashMap::new();
    for device in overrides.children() {
        let is_its = |child: &Element<'_, '_>| child.is(Some(QEMU_NAMESPACE), "frontend");
        let alias = device.attribute("alias");
        if let Some((alias, frontend)) = alias.zip(device.children().find(is_its)) {
            all.entry(alias.into_owned()).or_insert(frontend);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::Document;

    /// Returns the XML of a domain with these attributes, devices and elements after these changes.
    fn changed(attributes: &str, devices: &str, elements: &str, actions: Vec<Action>) -> String {
        let text = format!("<domain{attributes}><devices>{devices}</devices>{elements}</domain>");
        let document = Document::parse(&text).unwrap();
        let domain = Domain::new(&document).unwrap();
        let change = |action| Change {
            action,
            reason: String::new(),
            consent: None,
        };
        let changes: Vec<Change> = actions.into_iter().map(change).collect();
        document.apply(&edits(&domain, &changes, How::default()))
    }

    #[test]
    fn each_graphics_has_its_own_render_node() {
        let node = |graphics, node: &str| Action::RenderNode {
            graphics,
            rendernode: node.into(),
        };
        let (graphics, gl) = (GraphicsType::Dbus, true);
        let after = changed(
            "",
            "<graphics type='spice'/>",
            "",
            vec![
                Action::Gl {
                    graphics: GraphicsType::Spice,
                    on: true,
                },
                Action::AddGraphics { graphics, gl },
                node(GraphicsType::Dbus, "/dev/dri/renderD129"),
                node(GraphicsType::Spice, "/dev/dri/renderD128"),
            ],
        );
        let [spice, dbus] = ["type='spice'", "type='dbus'"].map(|kind| after.find(kind).unwrap());
        let [first, second] = ["renderD128", "renderD129"].map(|node| after.find(node).unwrap());
        assert!(spice < first && first < dbus && dbus < second, "{after}");
        assert_eq!(after.matches("rendernode").count(), 2, "{after}");
    }

    /// libvirt refuses a domain with an alias twice.
    #[test]
    fn no_alias_is_given_twice() {
        let hostdev = |number: usize| {
            format!(
                "<hostdev mode='subsystem' type='mdev' model='vfio-pci'><source>\
                 <address uuid='c1a20000-0000-4000-8000-00000000000{number}'/></source></hostdev>"
            )
        };
        let xres = |number: usize| Action::SetProperty {
            device: format!("c1a20000-0000-4000-8000-00000000000{number}")
                .parse()
                .unwrap(),
            name: "xres".into(),
            value: "800".into(),
        };
        let devices: String = (0..4).map(hostdev).collect();
        let taken = "<disk><alias name='ua-vgpu0'/></disk><disk><alias name='ua-vgpu2'/></disk>";
        let actions = (0..4).map(xres).collect();
        let after = changed("", &format!("{devices}{taken}"), "", actions);
        for number in 0..6 {
            let said = format!("<alias name='ua-vgpu{number}'/>");
            assert_eq!(after.matches(&said).count(), 1, "{number}: {after}");
        }
    }

    #[test]
    fn the_prefix_is_one_that_changes_nothing_else() {
        let hostdev = "<hostdev mode='subsystem' type='mdev' model='vfio-pci'>\
             <source><address uuid='c1a20000-0000-4000-8000-000000000001'/></source></hostdev>";
        let prefix = |attributes: &str, elements: &str| {
            let property = Action::SetProperty {
                device: "c1a20000-0000-4000-8000-000000000001".parse().unwrap(),
                name: "xres".into(),
                value: "800".into(),
            };
            let after = changed(attributes, hostdev, elements, vec![property]);
            let (before, _) = after.split_once(":override>").unwrap();
            before[before.rfind('<').unwrap() + 1..].to_owned()
        };
        let namespace = QEMU_NAMESPACE;
        assert_eq!(prefix("", ""), "qemu");
        assert_eq!(prefix(&format!(" xmlns:q='{namespace}'"), ""), "q");
        assert_eq!(prefix(" xmlns:q='urn:q'", ""), "qemu");
        assert_eq!(prefix(" xmlns:qemu='urn:q'", ""), "libvirt-qemu");
        // The order does not matter.
        for others in [
            "xmlns:qemu='urn:q' xmlns:r='urn:r'",
            "xmlns:r='urn:r' xmlns:qemu='urn:q'",
        ] {
            assert_eq!(prefix(&format!(" {others}"), ""), "libvirt-qemu");
        }
        // A prefix with a colon does not count, and libvirt goes on passing over these elements.
        assert_eq!(prefix(&format!(" xmlns:a:b='{namespace}'"), ""), "qemu");
        assert_eq!(prefix("", "<qemu:commandline/>"), "libvirt-qemu");
        assert_eq!(prefix("", "<other:commandline/>"), "qemu");
    }
}
