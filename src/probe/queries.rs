//! Asks an opened device.
//!
//! No question changes the device. GET_INFO and similar ioctls read tables of the driver; the plane
//! is queried only in the PROBE form; and only the header of the EDID region is read.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::fs::FileExt;

use nix::errno::Errno;
use vfio_bindings::bindings::vfio;

use crate::device::evidence::Step;
use crate::device::facts::{
    DeviceInfo, Display, Edid, EdidHeader, Facts, HotReset, Irq, OpRegion, Reason, Region,
    RegionCapability,
};
use crate::probe::{Failure, errno_name, errno_of, failed, ioctl, rights};

/// The greatest number of regions or interrupts to ask about. No driver has more. A higher number
/// is a driver's mistake, and would only cost time.
const MAX_INDEXES: u32 = 256;

/// The type and subtype of the region of the EDID.
const EDID: (u32, u32) = (
    vfio::VFIO_REGION_TYPE_GFX,
    vfio::VFIO_REGION_SUBTYPE_GFX_EDID,
);

/// The type and subtype of the region of Intel's OpRegion.
const OPREGION: (u32, u32) = (
    vfio::VFIO_REGION_TYPE_PCI_VENDOR_TYPE | 0x8086,
    vfio::VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION,
);

/// Asks all questions. If the driver's answers leave the display in doubt, the display is unknown
/// with a reason; this is not an error.
///
/// First gives up all other rights of the process ([`rights::give_up`]), which must therefore be a
/// child that has nothing else to do.
///
/// # Errors
/// The first question that failed in a way that vfio.h does not provide for.
pub(crate) fn ask(device: &File, tell: &mut dyn FnMut(Step)) -> Result<Facts, Failure> {
    rights::give_up();
    let fd = device.as_fd();
    tell(Step::Info);
    let info = ioctl::device_get_info(fd).map_err(failed(Step::Info))?;

    tell(Step::RegionInfo);
    let regions = regions(fd, info.num_regions).map_err(failed(Step::RegionInfo))?;

    tell(Step::Edid);
    let edid = find_region(&regions, EDID);
    // QEMU refuses a display whose EDID it can't read (hw/vfio/display.c), so a failure here
    // counts.
    let header = edid
        .map(|region| read_edid(device, region.offset))
        .transpose();
    let header = header.map_err(failed(Step::Edid))?;
    let opregion = find_region(&regions, OPREGION).map(|region| OpRegion { size: region.size });

    tell(Step::IrqInfo);
    let irqs = irqs(fd, info.num_irqs).map_err(failed(Step::IrqInfo))?;

    tell(Step::HotReset);
    let hot_reset = match ioctl::device_get_pci_hot_reset_info(fd) {
        Ok(count) => HotReset::Devices(count),
        Err(errno) => HotReset::Unsupported(errno_name(errno)),
    };
    Ok(Facts {
        display: display(info.flags, &mut |step, flags| {
            tell(step);
            supported(ioctl::device_probe_gfx_plane(fd, flags)).map_err(failed(step))
        })?,
        edid: header.map(|header| Edid {
            max_xres: header.max_xres,
            max_yres: header.max_yres,
        }),
        opregion,
        kvm: false,
        device: Some(DeviceInfo {
            flags: info.flags,
            num_regions: info.num_regions,
            num_irqs: info.num_irqs,
            regions,
            irqs,
            hot_reset,
            edid: header,
        }),
    })
}

/// Asks about the first `count` regions, at most [`MAX_INDEXES`]. Leaves out the indexes at which
/// the device has no region.
fn regions(fd: BorrowedFd<'_>, count: u32) -> Result<Vec<Region>, Errno> {
    let mut regions = Vec::new();
    for index in 0..count.min(MAX_INDEXES) {
        match ioctl::device_get_region_info(fd, index) {
            Ok((region, _)) if region.size == 0 && region.flags == 0 => {}
            Ok((region, bytes)) => regions.push(Region {
                index,
                flags: region.flags,
                offset: region.offset,
                size: region.size,
                capabilities: capabilities(&bytes, region.flags, region.cap_offset),
            }),
            // The device has no region with this index (for example no VGA region).
            Err(Errno::EINVAL | Errno::ENOTTY) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(regions)
}

/// Asks about the first `count` interrupts, at most [`MAX_INDEXES`]. Leaves out the indexes at
/// which the device has none.
fn irqs(fd: BorrowedFd<'_>, count: u32) -> Result<Vec<Irq>, Errno> {
    let mut irqs = Vec::new();
    for index in 0..count.min(MAX_INDEXES) {
        match ioctl::device_get_irq_info(fd, index) {
            Ok(irq) if irq.count == 0 => {}
            Ok(irq) => irqs.push(Irq {
                index,
                flags: irq.flags,
                count: irq.count,
            }),
            Err(Errno::EINVAL | Errno::ENOTTY) => {}
            Err(errno) => return Err(errno),
        }
    }
    Ok(irqs)
}

/// Finds out the display by three plane queries: without a type, for dmabuf, and for region.
/// `flags` are the device's; a device without the PCI flag has no display. `probe` makes one query,
/// and returns whether the driver accepted it.
///
/// The driver must refuse the query without a type (with EINVAL as vfio.h says, or ENOTTY). A
/// driver that accepts it accepts anything, as kvmgt before 4.16 did with every ioctl that it did
/// not know.
fn display<E>(
    flags: u32,
    probe: &mut dyn FnMut(Step, u32) -> Result<bool, E>,
) -> Result<Display, E> {
    if flags & vfio::VFIO_DEVICE_FLAGS_PCI == 0 {
        return Ok(Display::NONE);
    }
    if probe(Step::Control, 0)? {
        return Ok(Display::Unknown(Reason::Untrusted));
    }
    let dmabuf = probe(Step::QueryDmabuf, vfio::VFIO_GFX_PLANE_TYPE_DMABUF)?;
    let region = probe(Step::QueryRegion, vfio::VFIO_GFX_PLANE_TYPE_REGION)?;
    Ok(Display::from_answers(dmabuf, region))
}

/// Returns whether the driver supports the plane type. EINVAL: it does not support this type.
/// ENOTTY: it has no such ioctl. EOPNOTSUPP: vfio_ap's way to refuse. Any other error is returned.
fn supported(answer: nix::Result<()>) -> nix::Result<bool> {
    match answer {
        Ok(()) => Ok(true),
        Err(Errno::EINVAL | Errno::ENOTTY | Errno::EOPNOTSUPP) => Ok(false),
        Err(errno) => Err(errno),
    }
}

fn find_region(regions: &[Region], (r#type, subtype): (u32, u32)) -> Option<&Region> {
    let wanted = RegionCapability::Type { r#type, subtype };
    let mut regions = regions.iter();
    regions.find(|region| region.capabilities.contains(&wanted))
}

/// Reads the struct `vfio_region_gfx_edid` at the start of the region, each field as four bytes,
/// because kvmgt accepts no other size. Ignores the region's reported size, which can't be trusted:
/// kvmgt reports the size of an EDID block, not of the region.
fn read_edid(device: &File, offset: u64) -> nix::Result<EdidHeader> {
    let read = |field: u64| {
        let mut bytes = [0; 4];
        let at = offset.checked_add(field).ok_or(Errno::EOVERFLOW)?;
        device
            .read_exact_at(&mut bytes, at)
            .map_err(|error| errno_of(&error))?;
        Ok(u32::from_ne_bytes(bytes))
    };
    Ok(EdidHeader {
        edid_offset: read(0)?,
        edid_max_size: read(4)?,
        edid_size: read(8)?,
        max_xres: read(12)?,
        max_yres: read(16)?,
        link_state: read(20)?,
    })
}

/// Reads the capability chain of a region, whose first header is at the offset `first`; empty if
/// `flags` tell of no chain. A header has an id (u16), a version (u16), and the offset of the next
/// header from the start of the info (u32). The offsets must grow, so that a circular chain ends.
fn capabilities(info: &[u8], flags: u32, first: u32) -> Vec<RegionCapability> {
    let mut chain = Vec::new();
    if flags & vfio::VFIO_REGION_INFO_FLAG_CAPS == 0 {
        return chain;
    }
    let u16_at = |at: usize| Some(u16::from_ne_bytes(info.get(at..at + 2)?.try_into().ok()?));
    let u32_at = |at: usize| Some(u32::from_ne_bytes(info.get(at..at + 4)?.try_into().ok()?));
    let u64_at = |at: usize| Some(u64::from_ne_bytes(info.get(at..at + 8)?.try_into().ok()?));
    let (mut at, mut before) = (first as usize, 0);
    while at > before {
        let (Some(id), Some(version), Some(next)) = (u16_at(at), u16_at(at + 2), u32_at(at + 4))
        else {
            break;
        };
        let body = at + 8;
        let capability = match u32::from(id) {
            vfio::VFIO_REGION_INFO_CAP_SPARSE_MMAP => {
                u32_at(body).map(|count| RegionCapability::SparseMmap {
                    // The number of areas and a reserved field come first, then the areas.
                    areas: (0..count as usize)
                        .map_while(|n| {
                            Some((u64_at(body + 8 + 16 * n)?, u64_at(body + 16 + 16 * n)?))
                        })
                        .collect(),
                })
            }
            vfio::VFIO_REGION_INFO_CAP_TYPE => u32_at(body)
                .zip(u32_at(body + 4))
                .map(|(r#type, subtype)| RegionCapability::Type { r#type, subtype }),
            vfio::VFIO_REGION_INFO_CAP_MSIX_MAPPABLE => Some(RegionCapability::MsixMappable),
            _ => None,
        };
        chain.push(capability.unwrap_or(RegionCapability::Unknown { id, version }));
        (before, at) = (at, next as usize);
    }
    chain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn planes() {
        // The answers to control, dmabuf and region.
        for (driver, answers, expected) in [
            ("mdpy", "EINVAL EINVAL yes", "region"),
            ("mbochs", "EINVAL yes EINVAL", "dmabuf"),
            ("both", "EINVAL yes yes", "dmabuf region"),
            ("mtty", "ENOTTY ENOTTY ENOTTY", "none"),
            ("vfio_ap", "EOPNOTSUPP EOPNOTSUPP EOPNOTSUPP", "none"),
            ("kvmgt 4.15", "yes yes yes", "unknown untrusted"),
            ("a dead manager", "EINVAL EINVAL EIO", "query-region EIO"),
            ("broken", "EIO yes yes", "control EIO"),
        ] {
            let mut answers = answers.split(' ');
            let mut flags_seen = Vec::new();
            let found = display(vfio::VFIO_DEVICE_FLAGS_PCI, &mut |step, flags| {
                flags_seen.push(flags);
                let answer = match answers.next().unwrap() {
                    "yes" => Ok(()),
                    "EINVAL" => Err(Errno::EINVAL),
                    "ENOTTY" => Err(Errno::ENOTTY),
                    "EIO" => Err(Errno::EIO),
                    _ => Err(Errno::EOPNOTSUPP),
                };
                supported(answer).map_err(|errno| format!("{step} {errno:?}"))
            });
            let found = found.map(|display| {
                let reason = display.reason().map(ToString::to_string);
                let words = display.words().into_iter().map(str::to_owned);
                words.chain(reason).collect::<Vec<_>>().join(" ")
            });
            assert_eq!(found.unwrap_or_else(|failed| failed), expected, "{driver}");
            assert_eq!(flags_seen[0], 0, "{driver}: the control query comes first");
        }
        let never = &mut |_: Step, _: u32| -> Result<bool, ()> {
            panic!("a device that is not PCI is not asked")
        };
        assert_eq!(
            display(vfio::VFIO_DEVICE_FLAGS_CCW, never),
            Ok(Display::NONE)
        );
    }

    fn chain(links: &[(u16, u32, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 32];
        for (id, next, body) in links {
            bytes.extend(id.to_ne_bytes());
            bytes.extend(1u16.to_ne_bytes());
            bytes.extend(next.to_ne_bytes());
            bytes.extend(*body);
        }
        bytes
    }

    #[test]
    fn capability_chains() {
        let words = |words: &[u32]| {
            words
                .iter()
                .flat_map(|word| word.to_ne_bytes())
                .collect::<Vec<u8>>()
        };
        let edid = words(&[1, 1]);
        let areas: Vec<u8> = words(&[1, 0])
            .into_iter()
            .chain(0x1000u64.to_ne_bytes())
            .chain(0x2000u64.to_ne_bytes())
            .collect();
        let edid_type = RegionCapability::Type {
            r#type: 1,
            subtype: 1,
        };
        let caps = vfio::VFIO_REGION_INFO_FLAG_CAPS;
        for (name, bytes, first, expected) in [
            ("EDID", chain(&[(2, 0, &edid)]), 32, vec![edid_type.clone()]),
            (
                "three",
                chain(&[(1, 64, &areas), (3, 72, &[]), (2, 0, &edid)]),
                32,
                vec![
                    RegionCapability::SparseMmap {
                        areas: vec![(0x1000, 0x2000)],
                    },
                    RegionCapability::MsixMappable,
                    edid_type.clone(),
                ],
            ),
            (
                "of the future",
                chain(&[(77, 0, &[])]),
                32,
                vec![RegionCapability::Unknown { id: 77, version: 1 }],
            ),
            (
                "bites its tail",
                chain(&[(2, 32, &edid)]),
                32,
                vec![edid_type.clone()],
            ),
            ("leads out", chain(&[(2, 4000, &edid)]), 32, vec![edid_type]),
            (
                "cut off",
                chain(&[(2, 0, &edid)])[..42].to_vec(),
                32,
                vec![RegionCapability::Unknown { id: 2, version: 1 }],
            ),
            (
                "too many areas",
                chain(&[(1, 0, &words(&[u32::MAX, 0]))]),
                32,
                vec![RegionCapability::SparseMmap { areas: vec![] }],
            ),
            ("no chain", chain(&[]), 0, vec![]),
        ] {
            assert_eq!(capabilities(&bytes, caps, first), expected, "{name}");
        }
        assert!(
            capabilities(&chain(&[(2, 0, &edid)]), 0, 32).is_empty(),
            "without the flag there is no chain"
        );
    }

    proptest::proptest! {
        #[test]
        fn no_chain_panics_or_hangs(bytes in proptest::collection::vec(0u8.., 0..200), first: u32) {
            capabilities(&bytes, vfio::VFIO_REGION_INFO_FLAG_CAPS, first % 256);
        }
    }
}
