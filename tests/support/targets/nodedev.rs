//! Checks node-device XML against roxmltree: our capability comes in once, as the last one, and
//! goes out again with our attributes. Nothing else changes.
//!
//! Input: libvirt's XML of a device, and after the first NUL a byte that stands for what is known
//! of it.

use gfxplane::predict::hints::hints;
use gfxplane::publish::capability::of_device;
use gfxplane::publish::{plain, with_capability};
use gfxplane::xml::from_bytes;
use roxmltree::Node;

use super::{outline, parts, same};
use crate::oracle::parse;
use crate::promises::is;
use crate::worlds::known;

/// Checks one input.
///
/// # Errors
/// The property that it breaks.
pub(crate) fn check(input: &[u8]) -> Result<(), String> {
    let [text, kind] = parts(input);
    let Ok(text) = from_bytes(text.to_vec()) else {
        return Ok(());
    };
    let known = known(kind.first().copied().unwrap_or_default().into());
    let facts = &known.finding.facts;
    let ours = of_device(&known.finding, &hints(facts, known.render_node.as_deref()));
    let read = |result: Result<String, gfxplane::xml::XmlError>| {
        result.map_err(|error| format!("what came out can't be read again: {error}"))
    };
    let Ok(with) = with_capability(&text, Some(&ours)) else {
        return match plain(&text) {
            Ok(_) => Err("plain reads what with_capability does not".into()),
            Err(_) => Ok(()),
        };
    };
    let bare = read(with_capability(&text, None))?;
    let plain_one = read(plain(&text))?;
    let again = read(with_capability(&with, Some(&ours)))?;
    let plain_again = read(plain(&plain_one))?;
    // An undeclared prefix is an error for roxmltree, but not for libxml2.
    let Ok(before) = parse(&text) else {
        return Ok(());
    };
    let root = before.root_element();
    let rest = |left_out: &dyn Fn(Node<'_, '_>) -> bool| {
        let mut lines = Vec::new();
        outline(root, left_out, &mut lines);
        lines
    };
    let without_capability = rest(&|node| is_capability(node, root));
    let all_out = rest(&|node| is_capability(node, root) || is_attribute(node, root));
    // White space is not compared. It comes and goes with elements that have text beside them.
    for with in [&with, &again] {
        one_and_last(with, &ours)?;
    }
    for (what, text, expected) in [
        ("without our capability", &bare, &without_capability),
        (
            "with our capability, taken out again",
            &read(with_capability(&with, None))?,
            &without_capability,
        ),
        (
            "with our capability twice, taken out again",
            &read(with_capability(&again, None))?,
            &without_capability,
        ),
        ("plain", &plain_one, &all_out),
        ("plain twice", &plain_again, &all_out),
        ("plain of the whole", &read(plain(&with))?, &all_out),
    ] {
        let document = parse(text)?;
        let mut lines = Vec::new();
        outline(document.root_element(), &|_| false, &mut lines);
        same(what, &lines, expected)?;
    }
    Ok(())
}

/// Checks that our capability occurs once, as it was given, and that no element of the device
/// follows it.
fn one_and_last(with: &str, ours: &str) -> Result<(), String> {
    let (document, given) = (parse(with)?, parse(ours)?);
    let root = document.root_element();
    let capabilities = root.children().filter(|node| is_capability(*node, root));
    same("capabilities of ours", &capabilities.count(), &1)?;
    let [mut found, mut expected] = [Vec::new(), Vec::new()];
    if let Some(last) = root.last_element_child() {
        outline(last, &|_| false, &mut found);
    }
    outline(given.root_element(), &|_| false, &mut expected);
    // Our names have no prefix, and so are in the device's default namespace.
    let default = root.default_namespace().filter(|uri| !uri.is_empty());
    if let Some(uri) = default {
        for line in &mut expected {
            *line = line.replacen('<', &format!("<{{{uri}}}"), 1);
        }
    }
    same("the last element", &found, &expected)
}

/// Returns whether a node is a capability of the device that is ours.
fn is_capability(node: Node<'_, '_>, root: Node<'_, '_>) -> bool {
    node.parent() == Some(root)
        && is(node, "capability")
        && node.attribute("type") == Some("vfio_display")
}

/// Returns whether a node is an mdevctl attribute of the device that is ours.
fn is_attribute(node: Node<'_, '_>, root: Node<'_, '_>) -> bool {
    let within = |node: Node<'_, '_>| is(node, "capability") && node.parent() == Some(root);
    let name = node.attribute("name").unwrap_or_default();
    is(node, "attr") && node.parent().is_some_and(within) && name.starts_with("gfxplane.")
}
