//! Reads and writes the tree that Alex Williamson sketched in 2018 for sysfs, where libvirt could
//! read it: `…/vfio-pci/device/{gfx_plane,irqs,regions}`.
//!
//! No kernel has this tree. It is read in the place where a kernel would have it (below
//! `mdev_supported_types/TYPE`). It is published below `/run/gfxplane`, by type as in the mail, and
//! also by device, because sysfs would serve only mdevs. The published tree has one more file
//! beside `vfio-pci`, which a kernel would not need: `evidence`, the source of the facts.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use crate::device::evidence::Method;
use crate::device::facts::{Display, DisplayInterface, Facts};
use crate::host::{Warning, read_text};

/// Reads `gfx_plane/{dmabuf,region}`, which have a kernel's values: `Y`, `N`, `1` or `0`. Returns
/// `None` if neither attribute can be read. If only one of them is missing, it counts as no.
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

/// Writes the tree for these facts, and the file `evidence`, into an empty directory.
///
/// `gfx_plane` is left out if the display is unknown; `irqs` and `regions` are left out if the
/// device was not probed. Counts are decimal; flags, offsets and sizes are hexadecimal.
///
/// # Errors
/// Any error of the file system.
pub fn write(directory: &Path, facts: &Facts, method: Method) -> io::Result<()> {
    for (name, content) in entries(facts, method) {
        let path = directory.join(name);
        match content {
            None => fs::create_dir(path)?,
            Some(text) => fs::write(path, text)?,
        }
    }
    Ok(())
}

/// Returns whether a directory has exactly what [`write()`] would put there for these facts.
pub fn is_of(directory: &Path, facts: &Facts, method: Method) -> bool {
    let entries = entries(facts, method);
    let is_as = |(name, content): &(String, Option<String>)| {
        let path = directory.join(name);
        let Some(content) = content else {
            let below = |other: &str| {
                let name = other.strip_prefix(name.as_str())?.strip_prefix('/')?;
                (!name.contains('/')).then_some(())
            };
            let expected = entries.iter().filter(|(other, _)| below(other).is_some());
            return fs::read_dir(path).is_ok_and(|found| found.count() == expected.count());
        };
        // One byte more is read than expected, to notice a file that is too long.
        let mut found = Vec::with_capacity(content.len() + 1);
        let read = File::open(path)
            .and_then(|file| file.take(content.len() as u64 + 1).read_to_end(&mut found));
        read.is_ok() && found == content.as_bytes()
    };
    entries.iter().all(is_as)
}

/// Returns the tree's directories (whose content is `None`) and files, each after its parent.
fn entries(facts: &Facts, method: Method) -> Vec<(String, Option<String>)> {
    const DEVICE: &str = "vfio-pci/device";
    let mut entries = vec![
        ("evidence".to_owned(), Some(format!("{method}\n"))),
        ("vfio-pci".to_owned(), None),
        (DEVICE.to_owned(), None),
    ];
    if let Display::Known(interfaces) = &facts.display {
        entries.push((format!("{DEVICE}/gfx_plane"), None));
        for kind in [DisplayInterface::Dmabuf, DisplayInterface::Region] {
            let value = u8::from(interfaces.contains(&kind));
            let path = format!("{DEVICE}/gfx_plane/{}", kind.word());
            entries.push((path, Some(format!("{value}\n"))));
        }
    }
    let Some(info) = &facts.device else {
        return entries;
    };
    if !info.irqs.is_empty() {
        entries.push((format!("{DEVICE}/irqs"), None));
    }
    for irq in &info.irqs {
        let path = format!("{DEVICE}/irqs/{}", irq.index);
        let count = format!("{}\n", irq.count);
        let flags = format!("{:#x}\n", irq.flags);
        entries.push((path.clone(), None));
        entries.push((format!("{path}/count"), Some(count)));
        entries.push((format!("{path}/flags"), Some(flags)));
    }
    if !info.regions.is_empty() {
        entries.push((format!("{DEVICE}/regions"), None));
    }
    for region in &info.regions {
        let path = format!("{DEVICE}/regions/{}", region.index);
        entries.push((path.clone(), None));
        for (name, value) in [
            ("flags", u64::from(region.flags)),
            ("offset", region.offset),
            ("size", region.size),
        ] {
            entries.push((format!("{path}/{name}"), Some(format!("{value:#x}\n"))));
        }
    }
    entries
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
    fn a_tree_is_of_the_facts_that_it_was_written_for() {
        use crate::device::facts::{DeviceInfo, HotReset, Irq, Region};
        let region = |index, size| Region {
            index,
            flags: 7,
            offset: 0,
            size,
            capabilities: vec![],
        };
        let told = |display, regions: Vec<Region>| Facts {
            device: Some(DeviceInfo {
                flags: 2,
                num_regions: 9,
                num_irqs: 5,
                regions,
                irqs: vec![Irq {
                    index: 0,
                    flags: 7,
                    count: 1,
                }],
                hot_reset: HotReset::Devices(0),
                edid: None,
            }),
            ..Facts::of(display)
        };
        let all = [
            Facts::of(Display::Unknown(Reason::TimedOut)),
            Facts::of(Display::NONE),
            told(Display::NONE, vec![]),
            told(Display::NONE, vec![region(0, 0x10)]),
            told(Display::NONE, vec![region(0, 0x100)]),
            told(Display::NONE, vec![region(10, 0x10)]),
            told(Display::NONE, vec![region(0, 0x10), region(1, 0x10)]),
            told(
                Display::from_answers(true, false),
                vec![region(0, 0x10), region(1, 0x10)],
            ),
        ];
        for facts in &all {
            let directory = tempfile::tempdir().unwrap();
            let is = |facts, method| is_of(directory.path(), facts, method);
            assert!(!is(facts, Method::Probe), "nothing is there");
            write(directory.path(), facts, Method::Probe).unwrap();
            for others in &all {
                assert_eq!(is(others, Method::Probe), facts == others);
            }
            assert!(!is(facts, Method::Rule), "known otherwise");
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
