//! Reads libvirt's `<domainCapabilities>` (libvirt docs/formatdomaincaps.rst).

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use crate::host::Root;
use crate::xml::Document;

/// The part of `<domainCapabilities>` that is about screens.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Capabilities {
    /// The emulator that the capabilities are about.
    pub(super) emulator: PathBuf,
    /// The types of `<graphics>` that libvirt accepts with this emulator. libvirt lists `sdl`,
    /// `egl-headless` and `dbus` if QEMU was built with them, whether or not their modules are
    /// installed.
    pub(super) graphics: BTreeSet<String>,
}

impl Capabilities {
    /// Reads the XML of `<domainCapabilities>`.
    ///
    /// # Errors
    /// The text is not XML, or has no path of an emulator or no graphics.
    pub(super) fn parse(xml: &str) -> Result<Self, String> {
        let document = Document::parse(xml).map_err(|error| error.to_string())?;
        let root = document.root();
        let path = root.child("path").and_then(|path| path.text());
        let devices = root.child("devices");
        let graphics = devices.and_then(|devices| devices.child("graphics"));
        let (Some(path), Some(graphics)) = (path, graphics) else {
            return Err("libvirt's domain capabilities have no path or no graphics".into());
        };
        let types = graphics
            .children()
            .filter(|child| child.attribute("name").as_deref() == Some("type"))
            .flat_map(|types| types.children())
            .filter_map(|value| Some(value.text()?.trim().to_owned()));
        Ok(Capabilities {
            emulator: PathBuf::from(path.trim()),
            graphics: types.collect(),
        })
    }

    /// Returns the types of graphics, if the capabilities are about this emulator. They are about
    /// libvirt's own emulator if the caller may not ask about this one.
    ///
    /// # Errors
    /// The capabilities are about another emulator.
    pub(super) fn of(self, root: &Root, emulator: &Path) -> Result<BTreeSet<String>, String> {
        let file = |path: &Path| fs::canonicalize(root.join(path)).ok();
        if self.emulator == emulator
            || file(emulator).is_some_and(|found| file(&self.emulator) == Some(found))
        {
            return Ok(self.graphics);
        }
        Err(format!(
            "libvirt uses {}, and is not asked about another that only a file names (gfxplane qemu {} asks)",
            self.emulator.display(),
            emulator.display()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_graphics() {
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
            let found = Capabilities::parse(&around(graphics)).ok();
            let expected = expected.map(|types| Capabilities {
                emulator: "/usr/bin/qemu-system-x86_64".into(),
                graphics: types.iter().map(ToString::to_string).collect(),
            });
            assert_eq!(found, expected, "{graphics}");
        }
        assert!(Capabilities::parse("<domainCapabilities/>").is_err());
        assert!(Capabilities::parse("").is_err());
    }
}
