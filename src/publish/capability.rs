//! The `vfio_display` capability of node-device XML. Its schema is
//! xml-schemas/gfxplane-nodedev.rng.

use std::fmt::Write as _;

use crate::device::evidence::{Evidence, Finding};
use crate::device::facts::Display;
use crate::predict::hints::Hint;
use crate::publish::inventory::TypeEntry;
use crate::xml::escape;

/// The value of the capability's attribute `type`.
pub(crate) const TYPE: &str = "vfio_display";

/// Returns the capability of a device as indented lines, without a line ending after the last.
pub fn of_device(finding: &Finding, hints: &[Hint]) -> String {
    let start = format!("capability type='{TYPE}'");
    wrap(&start, content(finding, hints))
}

/// Returns the capability of a parent: a `<type>` element for each of its types, with the content
/// that a device's capability has.
pub(crate) fn of_parent(types: &[TypeEntry]) -> String {
    let one = |entry: &TypeEntry| {
        let start = format!("type id='{}'", escape(&entry.type_id));
        wrap(&start, content(&entry.finding, &entry.require))
    };
    let start = format!("capability type='{TYPE}'");
    wrap(&start, types.iter().map(one))
}

/// Returns an element around others, each on lines of its own. `start` is the start tag without the
/// brackets.
pub(super) fn wrap(start: &str, content: impl IntoIterator<Item = String>) -> String {
    let name = start.split(' ').next().unwrap_or_default();
    let mut text = String::new();
    for element in content {
        for line in element.lines() {
            text += &format!("  {line}\n");
        }
    }
    match text.is_empty() {
        true => format!("<{start}/>"),
        false => format!("<{start}>\n{text}</{name}>"),
    }
}

fn content(finding: &Finding, hints: &[Hint]) -> Vec<String> {
    let facts = &finding.facts;
    let mut lines = Vec::new();
    match &facts.display {
        Display::Unknown(reason) => {
            lines.push(format!(
                "<display type='unknown' reason='{}'/>",
                escape(&reason.to_string())
            ));
        }
        known => lines.extend(
            known
                .words()
                .iter()
                .map(|word| format!("<display type='{word}'/>")),
        ),
    }
    if let Some(edid) = facts.edid {
        lines.push(format!(
            "<edid max_xres='{}' max_yres='{}'/>",
            edid.max_xres, edid.max_yres
        ));
    }
    if let Some(opregion) = facts.opregion {
        lines.push(format!("<opregion size='{}'/>", opregion.size));
    }
    if !hints.is_empty() {
        lines.push(wrap("require", hints.iter().map(option)));
    }
    if let Some(evidence) = &finding.evidence {
        let attributes = evidence_parts(evidence)
            .into_iter()
            .map(|(name, value)| format!(" {name}='{}'", escape(&value)));
        lines.push(format!("<evidence{}/>", attributes.collect::<String>()));
    }
    lines
}

/// Returns the known parts of a piece of evidence with their names, the method first.
pub(super) fn evidence_parts(evidence: &Evidence) -> Vec<(&'static str, String)> {
    let version = evidence.qemu.as_ref().map(ToString::to_string);
    [
        ("method", Some(evidence.method.to_string())),
        ("path", evidence.path.map(|path| path.to_string())),
        ("driver", evidence.driver.clone()),
        ("version", evidence.driver_version.clone()),
        ("kernel", evidence.kernel.clone()),
        ("qemu", version),
        ("rule", evidence.rule.clone()),
        ("step", evidence.step.map(|step| step.to_string())),
        ("errno", evidence.errno.clone()),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some((name, value?)))
    .collect()
}

fn option(hint: &Hint) -> String {
    let mut attributes = format!(
        "scope='{}' name='{}' value='{}'",
        hint.scope,
        hint.name,
        escape(&hint.value)
    );
    if let Some(purpose) = hint.purpose {
        let _ = write!(attributes, " for='{purpose}'");
    }
    if let Some(version) = &hint.qemu_below {
        let _ = write!(attributes, " qemu_below='{version}'");
    }
    format!("<option {attributes}/>")
}
