//! Writes the facts about a device as names and values: `display=dmabuf`, `graphics.gl=yes`,
//! `hostdev.display=on`, …
//!
//! The same list becomes udev properties (`GFXPLANE_GRAPHICS_GL`) and mdevctl attributes
//! (`gfxplane.graphics.gl`), which `virsh nodedev-dumpxml` shows. The capability's XML and the JSON
//! use the same names and values.

use crate::device::evidence::Finding;
use crate::predict::hints::Hint;
use crate::publish::capability::evidence_parts;

use crate::device::facts::PREFIX;

/// Returns the names and values for a finding and its hints, in a fixed order.
///
/// Names and values consist only of `A-Z a-z 0-9 _ . : , = + / -`, because libvirt prints
/// attributes without escaping them (src/conf/node_device_conf.c,
/// `virNodeDeviceCapMdevAttrFormat`). Any other character becomes `_`.
pub fn words(finding: &Finding, hints: &[Hint]) -> Vec<(String, String)> {
    let facts = &finding.facts;
    let mut words = vec![("display".to_owned(), facts.display.words().join(","))];
    let mut say = |name: &str, value: &str| words.push((allowed(name), allowed(value)));
    if let Some(reason) = facts.display.reason() {
        say("display.reason", &reason.to_string());
    }
    if let Some(edid) = facts.edid {
        say("edid.max_xres", &edid.max_xres.to_string());
        say("edid.max_yres", &edid.max_yres.to_string());
    }
    if let Some(opregion) = facts.opregion {
        say("opregion.size", &opregion.size.to_string());
    }
    for hint in hints {
        let name = format!("{}.{}", hint.scope, hint.name);
        say(&name, &hint.value);
        if let Some(purpose) = hint.purpose {
            say(&format!("{name}.for"), &purpose.to_string());
        }
        if let Some(version) = &hint.qemu_below {
            say(&format!("{name}.qemu_below"), &version.to_string());
        }
    }
    if let Some(evidence) = &finding.evidence {
        say("evidence", &evidence.method.to_string());
        if let Some(path) = evidence.path {
            say("evidence.path", &path.to_string());
        }
    }
    words
}

/// Returns the output of an mdevctl callout for `get attributes`: a JSON array with an object for
/// each name and its value (mdevctl src/callouts.rs, `add_attributes`).
pub fn attributes(words: &[(String, String)]) -> String {
    let attribute = |(name, value): &(String, String)| {
        let name = serde_json::Value::String(format!("{PREFIX}{name}"));
        format!("{{{name}:{}}}", serde_json::Value::String(value.clone()))
    };
    format!(
        "[{}]\n",
        words.iter().map(attribute).collect::<Vec<_>>().join(",")
    )
}

/// Returns the output of a program from which udev imports properties: lines like
/// `GFXPLANE_DISPLAY=dmabuf`.
pub fn properties(words: &[(String, String)]) -> String {
    let property = |(name, value): &(String, String)| {
        let name = name.replace(|c: char| !c.is_ascii_alphanumeric(), "_");
        format!("GFXPLANE_{}={value}\n", name.to_ascii_uppercase())
    };
    words.iter().map(property).collect()
}

/// Returns udev properties without gfxplane's name, such as `ID_VFIO_DISPLAY=dmabuf`. From these, a
/// node-device driver can make the capability (docs/udev.md). udev allows only one line for a
/// property. So blanks separate the options, and `;` separates the parts of an option or of the
/// evidence.
pub fn neutral_properties(finding: &Finding, hints: &[Hint]) -> String {
    let facts = &finding.facts;
    let joined = |parts: Vec<(&str, String)>| {
        let parts = parts
            .iter()
            .map(|(name, value)| format!(";{name}={}", allowed(value)));
        parts.collect::<String>()
    };
    let option = |hint: &Hint| {
        let mut parts = Vec::new();
        parts.extend(hint.purpose.map(|purpose| ("for", purpose.to_string())));
        parts.extend(
            hint.qemu_below
                .as_ref()
                .map(|version| ("qemu_below", version.to_string())),
        );
        let value = allowed(&hint.value);
        format!("{}.{}={value}{}", hint.scope, hint.name, joined(parts))
    };
    let options: Vec<String> = hints.iter().map(option).collect();
    let evidence = finding.evidence.as_ref().map(|evidence| {
        let mut parts = evidence_parts(evidence);
        let (_, method) = parts.remove(0);
        format!("{method}{}", joined(parts))
    });
    [
        ("", Some(facts.display.words().join(","))),
        ("_REASON", facts.display.reason().map(ToString::to_string)),
        (
            "_EDID_MAX",
            facts
                .edid
                .map(|edid| format!("{}x{}", edid.max_xres, edid.max_yres)),
        ),
        (
            "_OPREGION",
            facts.opregion.map(|opregion| opregion.size.to_string()),
        ),
        ("_REQUIRE", (!options.is_empty()).then(|| options.join(" "))),
        ("_EVIDENCE", evidence),
    ]
    .into_iter()
    .filter_map(|(name, value)| Some(format!("ID_VFIO_DISPLAY{name}={}\n", value?)))
    .collect()
}

fn allowed(text: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.:,=+/-".contains(c);
    text.replace(|c| !fits(c), "_")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::evidence::{Evidence, Method, OpenPath, resolve};
    use crate::device::facts::{Display, Edid, Facts, OpRegion, Reason};
    use crate::predict::hints::hints;
    use crate::publish::capability::of_device;

    fn of(facts: Facts, node: Option<&str>) -> Vec<(String, String)> {
        let evidence = Evidence {
            path: Some(OpenPath::Group),
            ..Evidence::by(Method::Probe)
        };
        let finding = resolve(vec![(facts, evidence)], Reason::NotProbed);
        words(&finding, &hints(&finding.facts, node))
    }

    #[test]
    fn properties_of_the_contract() {
        let edid = Some(Edid {
            max_xres: 1920,
            max_yres: 1440,
        });
        let facts = Facts {
            edid,
            ..Facts::of(Display::from_answers(true, false))
        };
        let evidence = Evidence {
            path: Some(OpenPath::Group),
            driver: Some("a driver;of=two\nlines".into()),
            ..Evidence::by(Method::Probe)
        };
        let finding = resolve(vec![(facts, evidence)], Reason::NotProbed);
        let hints = hints(&finding.facts, Some("/dev/dri/renderD128"));
        assert_eq!(
            neutral_properties(&finding, &hints),
            "ID_VFIO_DISPLAY=dmabuf\n\
             ID_VFIO_DISPLAY_EDID_MAX=1920x1440\n\
             ID_VFIO_DISPLAY_REQUIRE=graphics.gl=yes hostdev.display=on hostdev.ramfb=on;for=boot-display \
             host.rendernode=/dev/dri/renderD128\n\
             ID_VFIO_DISPLAY_EVIDENCE=probe;path=group;driver=a_driver_of=two_lines\n"
        );
        let properties = properties(&words(&finding, &hints));
        assert!(properties.starts_with("GFXPLANE_DISPLAY=dmabuf\nGFXPLANE_EDID_MAX_XRES=1920\n"));
        let nobody_knows = resolve(Vec::new(), Reason::NotProbed);
        assert_eq!(
            neutral_properties(&nobody_knows, &[]),
            "ID_VFIO_DISPLAY=unknown\nID_VFIO_DISPLAY_REASON=not-probed\n"
        );
    }

    #[test]
    fn only_characters_that_libvirt_need_not_escape() {
        let unknown = Facts::of(Display::Unknown(Reason::Other("a'b<&\n\"é".into())));
        assert_eq!(
            of(unknown, None)[1],
            ("display.reason".into(), "a_b_____".into())
        );
        let words = of(
            Facts::of(Display::from_answers(true, true)),
            Some("/dev/dri/by-path/pci-0000:00:02.0-render"),
        );
        assert_eq!(words[0].1, "dmabuf,region");
        assert!(
            words
                .iter()
                .any(|(_, value)| value == "/dev/dri/by-path/pci-0000:00:02.0-render")
        );
    }

    /// Each fact of the capability is an attribute and a neutral property, too, and docs/udev.md
    /// shows it in both forms.
    #[test]
    fn a_fact_of_the_capability_has_all_forms() {
        let edid = Some(Edid {
            max_xres: 1920,
            max_yres: 1440,
        });
        let facts = Facts {
            edid,
            opregion: Some(OpRegion { size: 8192 }),
            ..Facts::of(Display::from_answers(true, false))
        };
        let finding = resolve(
            vec![(facts, Evidence::by(Method::Probe))],
            Reason::NotProbed,
        );
        let hints = hints(&finding.facts, None);
        let page = include_str!("../../docs/udev.md");
        let (attributes, properties) = (
            words(&finding, &hints),
            neutral_properties(&finding, &hints),
        );
        let is_fact = |line: &&str| {
            let name = line.trim_start_matches(['<', '/', ' ']);
            let others = ["capability", "display", "require", "option", "evidence"];
            !others.iter().any(|other| name.starts_with(other))
        };
        let xml = of_device(&finding, &hints);
        let facts: Vec<&str> = xml.lines().filter(is_fact).map(str::trim).collect();
        assert_eq!(facts.len(), 2, "{xml}");
        for line in facts {
            assert!(page.contains(&format!("`{line}`")), "docs/udev.md: {line}");
            for value in line.split('\'').skip(1).step_by(2) {
                assert!(properties.contains(value), "no property has {line}");
                let mut values = attributes.iter().map(|(_, value)| value);
                assert!(
                    values.any(|word| word.contains(value)),
                    "no attribute has {line}"
                );
            }
        }
    }
}
