//! Reads and writes a tree of files with a device's facts:
//! `…/vfio-pci/device/{gfx_plane,irqs,regions}`. Alex Williamson proposed it by mail in 2018, for
//! libvirt to read in sysfs.
//!
//! No kernel has this tree. We read it where a kernel would have it (below
//! `mdev_supported_types/TYPE`). We publish it below `/run/gfxplane`: by type as in the mail, and
//! also by device, because in sysfs only mdevs would have it. The published tree has one more file
//! beside `vfio-pci`, which a kernel would not need: `evidence`, the source of the facts.

use std::fs;
use std::io;
use std::path::Path;

use crate::device::evidence::Method;
use crate::device::facts::{Display, DisplayInterface, Facts};
use crate::host::{Warning, read_text};

/// Reads `gfx_plane/{dmabuf,region}` in `device`, the tree's `vfio-pci/device`. Their values are
/// `Y`, `N`, `1` or `0`, as in other files of sysfs; any other value is ignored, with a warning.
/// Returns `None` if neither attribute can be read. If only one of them is missing, it counts as
/// no.
pub(crate) fn read_gfx_plane(device: &Path, warnings: &mut Vec<Warning>) -> Option<Display> {
    let mut read = |name: &str| {
        let path = device.join("gfx_plane").join(name);
        let text = read_text(&path, warnings)?;
        match text.as_str() {
            "Y" | "y" | "1" => Some(true),
            "N" | "n" | "0" => Some(false),
            _ => {
                let start: String = text.chars().take(40).collect();
                warnings.push(Warning::new(
                    path,
                    format!("{start:?} is neither Y, N, 1 nor 0: ignored"),
                ));
                None
            }
        }
    };
    let (dmabuf, region) = (read("dmabuf"), read("region"));
    (dmabuf.is_some() || region.is_some())
        .then(|| Display::from_answers(dmabuf.unwrap_or(false), region.unwrap_or(false)))
}

/// Writes the tree of these facts into a directory: `vfio-pci/device`, and the file `evidence`.
/// Removes no files that are there.
///
/// `gfx_plane` is left out if the display is unknown; `irqs` and `regions` are left out if the
/// device was not probed. Counts are decimal; flags, offsets and sizes are hexadecimal.
///
/// # Errors
/// Any error of the file system.
pub fn write(directory: &Path, facts: &Facts, method: Method) -> io::Result<()> {
    fs::create_dir_all(directory.join(DEVICE))?;
    for (name, text) in files(facts, method) {
        let path = directory.join(name);
        fs::create_dir_all(path.parent().unwrap_or(directory))?;
        fs::write(path, text)?;
    }
    Ok(())
}

const DEVICE: &str = "vfio-pci/device";

/// Returns the files of the tree, each with its text.
fn files(facts: &Facts, method: Method) -> Vec<(String, String)> {
    let mut files = vec![("evidence".to_owned(), format!("{method}\n"))];
    let mut add = |name: String, value: String| {
        files.push((format!("{DEVICE}/{name}"), format!("{value}\n")));
    };
    if let Display::Known(interfaces) = &facts.display {
        for kind in [DisplayInterface::Dmabuf, DisplayInterface::Region] {
            let value = u8::from(interfaces.contains(&kind)).to_string();
            add(format!("gfx_plane/{}", kind.word()), value);
        }
    }
    let device = facts.device.iter();
    for irq in device.clone().flat_map(|device| &device.irqs) {
        add(format!("irqs/{}/count", irq.index), irq.count.to_string());
        add(
            format!("irqs/{}/flags", irq.index),
            format!("{:#x}", irq.flags),
        );
    }
    for region in device.flat_map(|device| &device.regions) {
        let path = format!("regions/{}", region.index);
        add(format!("{path}/flags"), format!("{:#x}", region.flags));
        add(format!("{path}/offset"), format!("{:#x}", region.offset));
        add(format!("{path}/size"), format!("{:#x}", region.size));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::facts::Reason;

    #[test]
    fn what_is_written_is_read() {
        for display in [
            Display::from_answers(true, false),
            Display::from_answers(false, true),
            Display::from_answers(true, true),
            Display::NONE,
            Display::Unknown(Reason::TimedOut),
        ] {
            let directory = tempfile::tempdir().unwrap();
            write(directory.path(), &Facts::of(display.clone()), Method::Rule).unwrap();
            let mut warnings = Vec::new();
            let device = directory.path().join("vfio-pci/device");
            let evidence = fs::read_to_string(directory.path().join("evidence"));
            assert_eq!(evidence.unwrap(), "rule\n");
            let expected = Some(display).filter(|display| display.reason().is_none());
            assert_eq!(read_gfx_plane(&device, &mut warnings), expected);
            assert!(warnings.is_empty());
        }
    }

    #[test]
    fn a_kernel_that_says_it_otherwise() {
        for (dmabuf, region, expected, warnings) in [
            (Some("Y\n"), Some("N\n"), "dmabuf", 0),
            (Some("1"), None, "dmabuf", 0),
            (None, Some("0\n"), "none", 0),
            (Some("maybe"), Some("Y"), "region", 1),
            (Some(""), None, "", 1),
            (None, None, "", 0),
        ] {
            let directory = tempfile::tempdir().unwrap();
            fs::create_dir(directory.path().join("gfx_plane")).unwrap();
            for (name, text) in [("dmabuf", dmabuf), ("region", region)] {
                if let Some(text) = text {
                    fs::write(directory.path().join("gfx_plane").join(name), text).unwrap();
                }
            }
            let mut found = Vec::new();
            let display = read_gfx_plane(directory.path(), &mut found);
            let words = display.map(|display| display.words().join(" "));
            assert_eq!(words.unwrap_or_default(), expected);
            assert_eq!(found.len(), warnings);
        }
    }
}
