//! Compares two trees of elements.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::{Inverse, Piece};
use crate::domain::{QEMU_NAMESPACE, device};
use crate::xml::{Document, Edit, Element, escape};

/// The name of an element that tells it from its siblings.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Step(String);

/// The beginning of the steps of `<qemu:arg>`.
const ARGUMENT: &str = "qemu:arg[";

impl Step {
    pub(super) fn is(&self, text: &str) -> bool {
        self.0 == text
    }

    /// Returns whether the order of elements of this name matters, so that an element may occur
    /// twice.
    pub(super) fn may_repeat(step: &str) -> bool {
        step.starts_with(ARGUMENT)
    }
}

/// The attributes (of a child, if one is named) that tell libvirt's elements apart.
const IDENTITIES: [(&str, Option<&str>, &[&str]); 12] = [
    ("audio", None, &["id"]),
    ("channel", Some("target"), &["type", "name"]),
    ("controller", None, &["type", "index"]),
    ("disk", Some("target"), &["dev"]),
    ("filesystem", Some("target"), &["dir"]),
    ("graphics", None, &["type"]),
    ("input", None, &["type", "bus"]),
    ("interface", Some("mac"), &["address"]),
    ("qemu:device", None, &["alias"]),
    ("qemu:env", None, &["name"]),
    ("qemu:property", None, &["name"]),
    ("video", Some("model"), &["type"]),
];

/// Returns the children of an element by their steps, each different from the others.
pub(super) fn steps<'d, 'a>(parent: Element<'d, 'a>) -> Vec<(Step, Element<'d, 'a>)> {
    let mut seen: HashMap<String, usize> = HashMap::new();
    let numbered = |child: Element<'d, 'a>| {
        let base = identity(child);
        let count = seen.entry(base.clone()).or_default();
        *count += 1;
        let step = if *count == 1 {
            base
        } else {
            format!("{base}[{count}]")
        };
        (Step(step), child)
    };
    parent.children().map(numbered).collect()
}

fn identity(element: Element<'_, '_>) -> String {
    let name = canonical(element);
    if name == "hostdev"
        && let Some((id, _)) = device(element)
    {
        let word = match id {
            crate::device::id::DeviceId::Mdev(_) => "uuid",
            crate::device::id::DeviceId::Pci(_) => "pci",
        };
        return format!("hostdev[{word}={id}]");
    }
    if name == "qemu:arg" {
        // An argument may be anything, so a path of steps must not reveal it.
        let value = element.attribute("value").unwrap_or_default();
        return format!("{ARGUMENT}{:08x}]", hash(&value));
    }
    let Some((_, child, attributes)) = IDENTITIES.iter().find(|(other, _, _)| *other == name)
    else {
        return name;
    };
    let Some(element) = child.map_or(Some(element), |child| element.child(child)) else {
        return name;
    };
    let values: Vec<String> = attributes
        .iter()
        .filter_map(|attribute| Some((attribute, element.attribute(attribute)?)))
        .filter(|(_, value)| !is_secret(value))
        .map(|(attribute, value)| format!("{attribute}={value}"))
        .collect();
    if values.is_empty() {
        name
    } else {
        format!("{name}[{}]", values.join(","))
    }
}

/// Returns the FNV-1a hash of a text, which is the same in all versions of gfxplane.
fn hash(text: &str) -> u32 {
    text.bytes().fold(0x811c_9dc5, |hash, byte| {
        (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
    })
}

/// Returns the element's name with its namespace, whatever the prefix.
fn canonical(element: Element<'_, '_>) -> String {
    match element.namespace() {
        None => element.local_name().into(),
        Some(namespace) if namespace == QEMU_NAMESPACE => format!("qemu:{}", element.local_name()),
        Some(namespace) => format!("{{{namespace}}}{}", element.local_name()),
    }
}

/// Returns the element at a path.
pub(super) fn at<'d, 'a>(root: Element<'d, 'a>, path: &[String]) -> Option<Element<'d, 'a>> {
    path.iter().try_fold(root, |element, wanted| {
        let mut children = steps(element).into_iter();
        children
            .find(|(step, _)| step.is(wanted))
            .map(|(_, child)| child)
    })
}

/// Returns a path as text for people.
pub(super) fn path_label(path: &[String]) -> String {
    let path = match path {
        [devices, rest @ ..] if devices == "devices" && !rest.is_empty() => rest,
        _ => path,
    };
    if path.is_empty() {
        "domain".into()
    } else {
        path.join("/")
    }
}

/// Returns whether two elements have the same content.
pub(super) fn same(one: Element<'_, '_>, other: Element<'_, '_>) -> bool {
    canonical(one) == canonical(other)
        && attributes(one) == attributes(other)
        && text(one) == text(other)
        && one.children().count() == other.children().count()
        && one
            .children()
            .zip(other.children())
            .all(|(a, b)| same(a, b))
}

fn attributes<'a>(element: Element<'_, 'a>) -> BTreeMap<&'a str, Cow<'a, str>> {
    element
        .attributes()
        .filter(|(name, _)| prefix_declared(name).is_none())
        .collect()
}

/// Returns the prefix that an attribute declares; empty for the namespace of names without one.
fn prefix_declared(attribute: &str) -> Option<&str> {
    match attribute.strip_prefix("xmlns")? {
        "" => Some(""),
        rest => rest.strip_prefix(':'),
    }
}

/// Returns the text of an element that has one and contains no elements.
fn text<'a>(element: Element<'_, 'a>) -> Option<Cow<'a, str>> {
    element.text().filter(|text| !text.trim().is_empty())
}

/// Returns what must be put back in `after` to get `before` again.
pub(super) fn differences(before: Element<'_, '_>, after: Element<'_, '_>) -> Vec<Inverse> {
    let mut differences = Differences {
        path: Vec::new(),
        found: Vec::new(),
    };
    differences.of(before, after);
    differences.found
}

struct Differences {
    path: Vec<String>,
    found: Vec<Inverse>,
}

impl Differences {
    fn of(&mut self, before: Element<'_, '_>, after: Element<'_, '_>) {
        let start = self.found.len();
        self.attributes(before, after);
        // The display of a device and its ramfb were switched one by one.
        if before.name() != "hostdev" {
            self.join(start, |_| true);
        }
        self.text(before, after);
        self.children(&steps(before), &steps(after));
        // Attributes and elements together say where graphics listen, and they must agree.
        if before.name() == "graphics" {
            let depth = self.path.len();
            let listens = |path: &[String]| {
                path.get(depth)
                    .is_none_or(|step| step.starts_with("listen") || step.starts_with("channel"))
            };
            self.join(start, |inverse| match inverse {
                Inverse::Attribute { element, .. } | Inverse::Text { element, .. } => {
                    listens(element)
                }
                Inverse::Elements {
                    parent, old, new, ..
                } => {
                    let piece = old.first().or(new.first());
                    let mut path = parent.clone();
                    path.extend(piece.map(|piece| piece.step.clone()));
                    listens(&path)
                }
                Inverse::Together { .. } | Inverse::Withheld { .. } => false,
            });
        }
    }

    /// Makes one group of the differences that belong together, in the place of the first. Withheld
    /// values stay outside, as they can't be put back.
    fn join(&mut self, start: usize, belongs: impl Fn(&Inverse) -> bool) {
        let single = self.found.drain(start..).flat_map(|inverse| match inverse {
            Inverse::Together { changes } => changes,
            single => vec![single],
        });
        let (together, others): (Vec<_>, Vec<_>) = single
            .partition(|inverse| !matches!(inverse, Inverse::Withheld { .. }) && belongs(inverse));
        match together.len() {
            0 | 1 => self.found.extend(together),
            _ => self.found.push(Inverse::Together { changes: together }),
        }
        self.found.extend(others);
    }

    fn attributes(&mut self, before: Element<'_, '_>, after: Element<'_, '_>) {
        let (old, new) = (attributes(before), attributes(after));
        let names: BTreeSet<&str> = old.keys().chain(new.keys()).copied().collect();
        for name in names {
            let (old, new) = (old.get(name), new.get(name));
            if old == new {
                continue;
            }
            let secret = |value: Option<&Cow<'_, str>>| value.is_some_and(|value| is_secret(value));
            if is_secret(name) || secret(old) || secret(new) {
                self.withhold(&[name]);
                continue;
            }
            self.found.push(Inverse::Attribute {
                element: self.path.clone(),
                name: name.into(),
                old: old.map(ToString::to_string),
                new: new.map(ToString::to_string),
            });
        }
    }

    fn text(&mut self, before: Element<'_, '_>, after: Element<'_, '_>) {
        let (old, new) = (text(before), text(after));
        if old != new && before.text().is_some() && after.text().is_some() {
            let (old, new) = (old.unwrap_or_default(), new.unwrap_or_default());
            if is_secret(before.name()) || is_secret(&old) || is_secret(&new) {
                self.withhold(&[]);
            } else {
                self.found.push(Inverse::Text {
                    element: self.path.clone(),
                    old: old.into(),
                    new: new.into(),
                });
            }
        }
    }

    fn withhold(&mut self, below: &[&str]) {
        let mut element = self.path.clone();
        element.extend(below.iter().map(ToString::to_string));
        self.found.push(Inverse::Withheld { element });
    }

    fn children(&mut self, before: &[(Step, Element<'_, '_>)], after: &[(Step, Element<'_, '_>)]) {
        let places: HashMap<&Step, usize> = after
            .iter()
            .enumerate()
            .map(|(place, (step, _))| (step, place))
            .collect();
        let both = before
            .iter()
            .enumerate()
            .filter_map(|(old, (step, element))| {
                let new = *places.get(step)?;
                let fits = text(*element).is_none() == text(after[new].1).is_none()
                    || (element.text().is_some() && after[new].1.text().is_some());
                fits.then_some((old, new))
            });
        let kept = longest_rising(&both.collect::<Vec<_>>());
        let (mut old_start, mut new_start) = (0, 0);
        let mut above = None;
        for (old, new) in kept.iter().copied().chain([(before.len(), after.len())]) {
            let below = before.get(old).map(|(step, _)| step.0.as_str());
            self.between(
                above,
                below,
                &before[old_start..old],
                &after[new_start..new],
            );
            if let (Some((step, element)), Some((_, other))) = (before.get(old), after.get(new)) {
                self.path.push(step.0.clone());
                self.of(*element, *other);
                self.path.pop();
                above = Some(step.0.as_str());
            }
            (old_start, new_start) = (old + 1, new + 1);
        }
    }

    /// Compares the elements that stood between two siblings with the elements that stand there
    /// now. Elements of one name belong together.
    fn between(
        &mut self,
        above: Option<&str>,
        below: Option<&str>,
        before: &[(Step, Element<'_, '_>)],
        after: &[(Step, Element<'_, '_>)],
    ) {
        let name = |(_, element): &(Step, Element<'_, '_>)| canonical(*element);
        let mut instead: BTreeMap<String, Vec<&(Step, Element<'_, '_>)>> = BTreeMap::new();
        for child in after {
            instead.entry(name(child)).or_default().push(child);
        }
        let mut groups: Vec<(Vec<_>, Vec<_>)> = before
            .chunk_by(|one, other| name(one) == name(other))
            .map(|old| {
                let new = instead.remove(&name(&old[0])).unwrap_or_default();
                (old.iter().collect(), new)
            })
            .collect();
        groups.extend(instead.into_values().map(|new| (Vec::new(), new)));
        for (old, new) in groups {
            let secret = old
                .iter()
                .chain(&new)
                .find(|(_, element)| holds_secret(*element));
            if let Some((step, _)) = secret {
                self.withhold(&[&step.0]);
                continue;
            }
            let pieces = |children: &[&(Step, Element<'_, '_>)]| {
                children
                    .iter()
                    .map(|(step, element)| Piece {
                        step: step.0.clone(),
                        xml: written(*element),
                    })
                    .collect()
            };
            self.found.push(Inverse::Elements {
                parent: self.path.clone(),
                after: above.map(str::to_owned),
                before: below.map(str::to_owned),
                old: pieces(&old),
                new: pieces(&new),
            });
        }
    }
}

/// Returns the longest selection of pairs in which both numbers rise. The first numbers rise
/// already.
fn longest_rising(pairs: &[(usize, usize)]) -> Vec<(usize, usize)> {
    // `ends[n]` is the index of the smallest end of a row of n + 1.
    let mut ends: Vec<usize> = Vec::new();
    let mut previous = vec![None; pairs.len()];
    for (index, (_, new)) in pairs.iter().enumerate() {
        let length = ends.partition_point(|end| pairs[*end].1 < *new);
        previous[index] = length.checked_sub(1).map(|shorter| ends[shorter]);
        ends.truncate(ends.len().max(length));
        match ends.get_mut(length) {
            Some(end) => *end = index,
            None => ends.push(index),
        }
    }
    let mut row = Vec::new();
    let mut at = ends.last().copied();
    while let Some(index) = at {
        row.push(pairs[index]);
        at = previous[index];
    }
    row.reverse();
    row
}

/// Returns whether a name or a value may be about a password.
fn is_secret(text: &str) -> bool {
    const WORDS: [&str; 4] = ["passw", "passphrase", "secret", "cookie"];
    let text = text.to_lowercase();
    WORDS.iter().any(|word| text.contains(word))
}

fn holds_secret(element: Element<'_, '_>) -> bool {
    is_secret(element.name())
        || element
            .attributes()
            .any(|(name, value)| is_secret(name) || is_secret(&value))
        || text(element).is_some_and(|text| is_secret(&text))
        || element.children().any(holds_secret)
}

/// Returns an element's XML in the form that the engine inserts: no indentation, two spaces for
/// each deeper level, and all namespaces declared that it needs.
fn written(element: Element<'_, '_>) -> String {
    let mut declarations = BTreeMap::new();
    let mut above = element.parent();
    while let Some(parent) = above {
        for (name, value) in parent.attributes() {
            if let Some(prefix) = prefix_declared(name) {
                declarations.entry(prefix).or_insert(value);
            }
        }
        above = parent.parent();
    }
    declarations.retain(|prefix, value| !value.is_empty() && uses(element, prefix));
    let mut result = String::new();
    write(element, 0, &declarations, &mut result);
    result
}

/// Returns whether something in the element has this prefix and the element does not declare it.
fn uses(element: Element<'_, '_>, prefix: &str) -> bool {
    let declared = element
        .attributes()
        .any(|(name, _)| prefix_declared(name) == Some(prefix));
    let has = |name: &str| match name.split_once(':') {
        Some((before, _)) => before == prefix,
        None => prefix.is_empty(),
    };
    !declared
        && (has(element.name())
            || element
                .attributes()
                .any(|(name, _)| name.contains(':') && has(name))
            || element.children().any(|child| uses(child, prefix)))
}

fn write(
    element: Element<'_, '_>,
    depth: usize,
    declarations: &BTreeMap<&str, Cow<'_, str>>,
    result: &mut String,
) {
    let indentation = "  ".repeat(depth);
    result.push_str(&format!("{indentation}<{}", element.name()));
    for (prefix, namespace) in declarations {
        let colon = if prefix.is_empty() { "" } else { ":" };
        result.push_str(&format!(" xmlns{colon}{prefix}='{}'", escape(namespace)));
    }
    for (name, value) in element.attributes() {
        result.push_str(&format!(" {name}='{}'", escape(&value)));
    }
    if element.children().next().is_none() {
        match text(element) {
            None => result.push_str("/>"),
            Some(text) => result.push_str(&format!(">{}</{}>", escape(&text), element.name())),
        }
        return;
    }
    result.push('>');
    for child in element.children() {
        result.push('\n');
        write(child, depth + 1, &BTreeMap::new(), result);
    }
    result.push_str(&format!("\n{indentation}</{}>", element.name()));
}

/// Returns the XML of an element without the declarations that it inherits in this place; `None`
/// if the text is no XML.
pub(super) fn local_scope(parent: Element<'_, '_>, xml: &str) -> Option<String> {
    let document = Document::parse(xml).ok()?;
    let root = document.root();
    let in_scope = |wanted: &str| {
        let mut around = Some(parent);
        while let Some(element) = around {
            if let Some(value) = element.attribute(wanted) {
                return Some(value);
            }
            around = element.parent();
        }
        None
    };
    let superfluous: Vec<Edit> = root
        .attributes()
        .filter(|(name, value)| {
            prefix_declared(name).is_some() && in_scope(name).as_ref() == Some(value)
        })
        .map(|(name, _)| root.remove_attribute(name))
        .collect();
    Some(document.apply(&superfluous))
}
