//! Edits the elements of QEMU's namespace in a domain: `<qemu:override>` and `<qemu:commandline>`.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::Edits;
use crate::device::id::DeviceId;
use crate::domain::{Hostdev, QEMU_NAMESPACE, in_qemu, numbered, of_qemu};
use crate::plan::Action;
use crate::predict::arguments::options;
use crate::predict::properties;
use crate::xml::{Edit, Element, escape};

/// All aliases that are taken: by devices, by overrides (even of devices that don't exist), and by
/// devices that get an alias from this plan.
pub(super) struct Aliases {
    taken: HashSet<String>,
    /// The number of the next alias to try for a device, if the alias with the device's own number
    /// is taken.
    next: usize,
}

impl<'d, 'a> Edits<'_, 'd, 'a> {
    pub(super) fn set_properties(&mut self) {
        let mut by_device: BTreeMap<DeviceId, Vec<(&str, &str)>> = BTreeMap::new();
        for ((device, name), value) in &self.properties {
            if let Some(value) = value {
                by_device.entry(*device).or_default().push((name, value));
            }
        }
        let mut new = String::new();
        let mut edits = Vec::new();
        let overrides = of_qemu(self.domain.element, "override").next();
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

    /// Adjusts the aliases in `qemu:override` to those that libvirt will give. libvirt does not
    /// number a device with an alias of the user's, so each new alias in `given` changes the
    /// numbers of later devices.
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
        for device in in_qemu(self.domain.element, "override") {
            let Some(alias) = device.attribute("alias") else {
                continue;
            };
            if let Some(after) = changed.get(alias.as_ref()) {
                edits.push(device.set_attribute("alias", after));
            }
        }
    }

    /// Returns the prefix for elements in QEMU's namespace, with its colon, and whether it is
    /// declared already. It is the prefix of the element `overrides`, if given, and may then be
    /// empty.
    fn prefix(&self, overrides: Option<Element<'d, 'a>>) -> (String, bool) {
        if let Some(element) = overrides {
            return (prefix_of(element.name()), true);
        }
        // If the domain uses the prefix `qemu` without declaring it, a declaration would make
        // libvirt read elements that it has ignored so far.
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

    /// Returns the alias by which `qemu:override` can name the hostdev. If the hostdev has no user
    /// alias (`ua-…`), adds an edit that gives it one, because libvirt keeps no other aliases.
    /// With `keep_aliases`, returns the alias that the hostdev already has.
    fn user_alias(&self, hostdev: &Hostdev<'_, '_>, edits: &mut Vec<Edit>) -> String {
        if self.how.keep_aliases || hostdev.has_user_alias() {
            return hostdev.alias.clone();
        }
        let mut aliases = self.aliases.borrow_mut();
        let aliases = aliases.get_or_insert_with(|| {
            let devices = self.domain.devices.into_iter().flat_map(Element::children);
            let own = devices.filter_map(|device| device.child("alias")?.attribute("name"));
            let overridden = in_qemu(self.domain.element, "override");
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

    /// Removes the properties that have the value `None`, and elements that become empty.
    pub(super) fn take_out_properties(&mut self) {
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
        for all in of_qemu(self.domain.element, "override") {
            take_out(all, &goes, &mut self.edits);
        }
    }

    pub(super) fn take_out_settings(&mut self) {
        let settings: HashSet<&str> = self
            .changes
            .iter()
            .filter_map(|change| match &change.action {
                Action::RemoveSetting { setting } => Some(setting.as_str()),
                _ => None,
            })
            .collect();
        let arguments = &self.domain.arguments;
        let mut gone = HashSet::new();
        for (place, option, value) in options(arguments.iter().map(|a| a.value.as_str())) {
            if option == "-set" && value.is_some_and(|value| settings.contains(value)) {
                gone.extend([arguments[place].element, arguments[place + 1].element]);
            }
        }
        if gone.is_empty() {
            return;
        }
        for all in of_qemu(self.domain.element, "commandline") {
            take_out(all, &|element| gone.contains(element), &mut self.edits);
        }
    }
}

/// Adds edits that remove the elements for which `goes` is true, and each element in which nothing
/// is left by that, not even a comment. Returns whether `element` itself is removed.
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

fn property_element(prefix: &str, name: &str, value: &str) -> String {
    let kind = properties::kind(name, value);
    format!(
        "<{prefix}property name='{}' type='{kind}' value='{}'/>",
        escape(name),
        escape(value)
    )
}

/// Returns the prefix of a name with its colon; empty if the name has no prefix.
fn prefix_of(name: &str) -> String {
    name.split_once(':')
        .map(|(prefix, _)| format!("{prefix}:"))
        .unwrap_or_default()
}

/// Returns the first `<qemu:frontend>` in the overrides of each device, by the device's alias.
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
