//! Reads libvirt's `<domainCapabilities>` (libvirt docs/formatdomaincaps.rst).

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::host::Root;
use crate::xml::Document;

/// Returns the types of `<graphics>` that libvirt accepts with `emulator`, according to the
/// `<domainCapabilities>` in `xml`. libvirt lists `sdl`, `egl-headless` and `dbus` if QEMU was
/// built with them, whether or not their modules are installed.
///
/// # Errors
/// `xml` is no `<domainCapabilities>`, or describes another emulator. It describes libvirt's own if
/// only a file names `emulator`: libvirt would run that program, so it was not asked about it.
pub(super) fn graphics(
    xml: &str,
    root: &Root,
    emulator: &Path,
) -> Result<BTreeSet<String>, String> {
    let document = Document::parse(xml).map_err(|error| error.to_string())?;
    let path = document.root().child("path").and_then(|path| path.text());
    let devices = document.root().child("devices");
    let graphics = devices.and_then(|devices| devices.child("graphics"));
    let (Some(path), Some(graphics)) = (path, graphics) else {
        return Err("libvirt's domain capabilities have no path or no graphics".into());
    };
    let told = Path::new(path.trim());
    let file = |path: &Path| fs::canonicalize(root.join(path)).ok();
    if told != emulator && file(emulator).is_none_or(|found| file(told) != Some(found)) {
        return Err(format!(
            "libvirt uses {}, and is not asked about another that only a file names (gfxplane qemu {} asks)",
            told.display(),
            emulator.display()
        ));
    }
    let types = graphics
        .children()
        .filter(|child| child.attribute("name").as_deref() == Some("type"))
        .flat_map(|types| types.children())
        .filter_map(|value| Some(value.text()?.trim().to_owned()));
    Ok(types.collect())
}

#[cfg(test)]
mod tests {
    use super::super::made::{QEMU, set};
    use super::*;

    #[test]
    fn types_of_graphics() {
        let of = |xml: &str| graphics(xml, &Root::recorded("/nowhere"), Path::new(QEMU));
        let around = |graphics: &str| {
            format!(
                "<domainCapabilities><path>/usr/bin/qemu-system-x86_64</path><domain>kvm</domain>\
                 <devices><video supported='yes'><enum name='modelType'><value>vga</value></enum></video>\
                 {graphics}</devices></domainCapabilities>"
            )
        };
        for (graphics, expected) in [
            (
                "<graphics supported='yes'><enum name='type'><value>vnc</value><value>dbus</value></enum></graphics>",
                Some(&["dbus", "vnc"][..]),
            ),
            ("<graphics supported='no'/>", Some(&[])),
            (
                "<graphics supported='yes'><enum name='other'><value>vnc</value></enum></graphics>",
                Some(&[]),
            ),
            ("", None),
        ] {
            let found = of(&around(graphics)).ok();
            assert_eq!(found, expected.map(set), "{graphics}");
        }
        assert!(of("<domainCapabilities/>").is_err());
        assert!(of("").is_err());
    }
}
