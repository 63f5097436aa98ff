//! The tree that Alex Williamson sketched in 2018, so that libvirt could read it in sysfs:
//! `…/vfio-pci/device/{gfx_plane,irqs,regions}`.
//!
//! No kernel has it. It is read where a kernel would have it (below `mdev_supported_types/TYPE`)
//! and published below `/run/gfxplane`, both by type as in the mail and by device, because sysfs
//! would serve mdevs alone.

use std::fs;
use std::io;
use std::path::Path;

use crate::facts::{Display, DisplayInterface, Facts};
use crate::host::{Warning, read_text};

/// Reads `gfx_plane/{dmabuf,region}`: `Y`, `N`, `1` or `0`, as kernel attributes say it. `None`
/// if there is no such directory or no attribute in it; an attribute that is missing is a no.
pub fn read_gfx_plane(device: &Path, warnings: &mut Vec<Warning>) -> Option<Display> {
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

/// Writes the `vfio-pci/device` part for these facts into an empty directory.
///
/// `gfx_plane` is left out if the display is unknown, `irqs` and `regions` if the device was not
/// asked. Numbers are decimal for counts, hexadecimal for flags, offsets and sizes.
///
/// # Errors
/// Any error of the file system.
pub fn write(directory: &Path, facts: &Facts) -> io::Result<()> {
    let device = directory.join("vfio-pci/device");
    fs::create_dir_all(&device)?;
    if let Display::Known(interfaces) = &facts.display {
        let gfx_plane = device.join("gfx_plane");
        fs::create_dir(&gfx_plane)?;
        for kind in [DisplayInterface::Dmabuf, DisplayInterface::Region] {
            let value = u8::from(interfaces.contains(&kind));
            fs::write(gfx_plane.join(kind.word()), format!("{value}\n"))?;
        }
    }
    let Some(info) = &facts.device else {
        return Ok(());
    };
    for irq in &info.irqs {
        let irqs = device.join("irqs").join(irq.index.to_string());
        fs::create_dir_all(&irqs)?;
        fs::write(irqs.join("count"), format!("{}\n", irq.count))?;
        fs::write(irqs.join("flags"), format!("{:#x}\n", irq.flags))?;
    }
    for region in &info.regions {
        let regions = device.join("regions").join(region.index.to_string());
        fs::create_dir_all(&regions)?;
        fs::write(regions.join("flags"), format!("{:#x}\n", region.flags))?;
        fs::write(regions.join("offset"), format!("{:#x}\n", region.offset))?;
        fs::write(regions.join("size"), format!("{:#x}\n", region.size))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::Reason;

    #[test]
    fn what_is_written_is_read() {
        for display in [
            Display::from_answers(true, false),
            Display::from_answers(false, true),
            Display::from_answers(true, true),
            Display::NONE,
        ] {
            let directory = tempfile::tempdir().unwrap();
            write(directory.path(), &Facts::of(display.clone())).unwrap();
            let mut warnings = Vec::new();
            let device = directory.path().join("vfio-pci/device");
            assert_eq!(read_gfx_plane(&device, &mut warnings), Some(display));
            assert!(warnings.is_empty());
        }
    }

    #[test]
    fn an_unknown_display_has_no_directory() {
        let directory = tempfile::tempdir().unwrap();
        write(
            directory.path(),
            &Facts::of(Display::Unknown(Reason::TimedOut)),
        )
        .unwrap();
        assert_eq!(
            read_gfx_plane(&directory.path().join("vfio-pci/device"), &mut Vec::new()),
            None
        );
    }

    #[test]
    fn a_kernel_that_says_it_otherwise() {
        for (dmabuf, region, expected, warnings) in [
            (
                Some("Y\n"),
                Some("N\n"),
                Some(Display::from_answers(true, false)),
                0,
            ),
            (Some("1"), None, Some(Display::from_answers(true, false)), 0),
            (None, Some("0\n"), Some(Display::NONE), 0),
            (
                Some("maybe"),
                Some("Y"),
                Some(Display::from_answers(false, true)),
                1,
            ),
            (Some(""), None, None, 1),
            (None, None, None, 0),
        ] {
            let directory = tempfile::tempdir().unwrap();
            fs::create_dir(directory.path().join("gfx_plane")).unwrap();
            for (name, text) in [("dmabuf", dmabuf), ("region", region)] {
                if let Some(text) = text {
                    fs::write(directory.path().join("gfx_plane").join(name), text).unwrap();
                }
            }
            let mut found = Vec::new();
            assert_eq!(read_gfx_plane(directory.path(), &mut found), expected);
            assert_eq!(found.len(), warnings);
        }
    }
}
