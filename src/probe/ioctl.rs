//! The kernel's vfio interface: numbers and structs of include/uapi/linux/vfio.h.
//!
//! The kernel writes plain numbers into the structs. This module does not check them: the user of a
//! size or an offset must.
#![allow(unsafe_code, missing_docs)]

use std::ffi::CString;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use nix::errno::Errno;
use nix::libc;
use nix::{
    Result, ioctl_none_bad, ioctl_readwrite_bad, ioctl_write_int_bad, ioctl_write_ptr_bad,
    request_code_none,
};
use vfio_bindings::bindings::vfio;

/// `VFIO_TYPE1v2_IOMMU`.
pub(crate) const TYPE1_V2_IOMMU: i32 = vfio::VFIO_TYPE1v2_IOMMU as i32;
/// `VFIO_TYPE1_IOMMU`.
pub(crate) const TYPE1_IOMMU: i32 = vfio::VFIO_TYPE1_IOMMU as i32;
/// The largest region information with capabilities that is read, in bytes. Real chains have a few
/// dozen bytes.
const MAX_INFO: usize = 64 * 1024;

const fn code(number: u32) -> libc::c_ulong {
    request_code_none!(vfio::VFIO_TYPE, vfio::VFIO_BASE + number) as libc::c_ulong
}

const QUERY_GFX_PLANE: libc::c_ulong = code(14);
const BIND_IOMMUFD: libc::c_ulong = code(18);

ioctl_none_bad!(raw_get_api_version, code(0));
ioctl_write_int_bad!(raw_check_extension, code(1));
ioctl_write_int_bad!(raw_set_iommu, code(2));
ioctl_readwrite_bad!(raw_group_get_status, code(3), vfio::vfio_group_status);
ioctl_write_ptr_bad!(raw_group_set_container, code(4), libc::c_int);
ioctl_write_ptr_bad!(raw_group_get_device_fd, code(6), libc::c_char);
ioctl_readwrite_bad!(raw_get_info, code(7), vfio::vfio_device_info);
ioctl_readwrite_bad!(raw_get_region_info, code(8), vfio::vfio_region_info);
ioctl_readwrite_bad!(raw_get_irq_info, code(9), vfio::vfio_irq_info);
ioctl_readwrite_bad!(
    raw_get_pci_hot_reset_info,
    code(12),
    vfio::vfio_pci_hot_reset_info
);
ioctl_readwrite_bad!(
    raw_query_gfx_plane,
    QUERY_GFX_PLANE,
    vfio::vfio_device_gfx_plane_info
);
ioctl_readwrite_bad!(
    raw_bind_iommufd,
    BIND_IOMMUFD,
    vfio::vfio_device_bind_iommufd
);

/// Calls `VFIO_GET_API_VERSION`. The only version is 0.
pub(crate) fn get_api_version(container: BorrowedFd<'_>) -> Result<i32> {
    // SAFETY: the call has no argument.
    unsafe { raw_get_api_version(container.as_raw_fd()) }
}

/// Calls `VFIO_CHECK_EXTENSION`: returns whether the container has the extension.
pub(crate) fn check_extension(container: BorrowedFd<'_>, extension: i32) -> Result<bool> {
    // SAFETY: the argument is a number.
    unsafe { raw_check_extension(container.as_raw_fd(), extension) }.map(|value| value > 0)
}

/// Calls `VFIO_SET_IOMMU`.
pub(crate) fn set_iommu(container: BorrowedFd<'_>, kind: i32) -> Result<()> {
    // SAFETY: the argument is a number.
    unsafe { raw_set_iommu(container.as_raw_fd(), kind) }.map(drop)
}

/// Calls `VFIO_GROUP_GET_STATUS`: returns whether the group is viable.
pub(crate) fn group_is_viable(group: BorrowedFd<'_>) -> Result<bool> {
    let mut status = vfio::vfio_group_status {
        argsz: size_of::<vfio::vfio_group_status>() as u32,
        ..vfio::vfio_group_status::default()
    };
    // SAFETY: the struct is as large as its argsz says, and lives through the call.
    unsafe { raw_group_get_status(group.as_raw_fd(), &raw mut status) }?;
    Ok(status.flags & vfio::VFIO_GROUP_FLAGS_VIABLE != 0)
}

/// Calls `VFIO_GROUP_SET_CONTAINER`.
pub(crate) fn group_set_container(group: BorrowedFd<'_>, container: BorrowedFd<'_>) -> Result<()> {
    let container = container.as_raw_fd();
    // SAFETY: the kernel reads one int, which lives through the call.
    unsafe { raw_group_set_container(group.as_raw_fd(), &raw const container) }.map(drop)
}

/// Calls `VFIO_GROUP_GET_DEVICE_FD`, which opens the group's device of this name.
pub(crate) fn group_get_device_fd(group: BorrowedFd<'_>, name: &str) -> Result<OwnedFd> {
    let name = CString::new(name).map_err(|_| Errno::EINVAL)?;
    // SAFETY: the kernel reads a string that ends with NUL and lives through the call.
    let fd = unsafe { raw_group_get_device_fd(group.as_raw_fd(), name.as_ptr()) }?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Calls `VFIO_DEVICE_BIND_IOMMUFD`, which opens the device to which this node belongs.
pub(crate) fn device_bind_iommufd(device: BorrowedFd<'_>, iommufd: BorrowedFd<'_>) -> Result<()> {
    let mut bind = vfio::vfio_device_bind_iommufd {
        // The size leaves out the token, which is newer than the call.
        argsz: std::mem::offset_of!(vfio::vfio_device_bind_iommufd, token_uuid_ptr) as u32,
        iommufd: iommufd.as_raw_fd(),
        ..vfio::vfio_device_bind_iommufd::default()
    };
    // SAFETY: the struct is at least as large as its argsz says, and lives through the call.
    unsafe { raw_bind_iommufd(device.as_raw_fd(), &raw mut bind) }.map(drop)
}

/// Calls `VFIO_DEVICE_GET_INFO`.
pub(crate) fn device_get_info(device: BorrowedFd<'_>) -> Result<vfio::vfio_device_info> {
    let mut info = vfio::vfio_device_info {
        argsz: size_of::<vfio::vfio_device_info>() as u32,
        ..vfio::vfio_device_info::default()
    };
    // SAFETY: the struct is as large as its argsz says, and lives through the call.
    unsafe { raw_get_info(device.as_raw_fd(), &raw mut info) }?;
    Ok(info)
}

/// Calls `VFIO_DEVICE_GET_REGION_INFO`. Returns the struct, and the bytes of the struct followed by
/// its capability chain. (Offsets in the chain count from the start of the struct.)
///
/// The first call passes the bare struct, the second the size that the kernel has asked for: mbochs
/// before 6.19 refuses a larger argsz than it expects.
pub(crate) fn device_get_region_info(
    device: BorrowedFd<'_>,
    index: u32,
) -> Result<(vfio::vfio_region_info, Vec<u8>)> {
    const BARE: usize = size_of::<vfio::vfio_region_info>();
    let mut size = BARE;
    loop {
        // An array of u64 is aligned as the struct needs.
        let mut buffer = vec![0u64; size.div_ceil(8)];
        let info = buffer.as_mut_ptr().cast::<vfio::vfio_region_info>();
        // SAFETY: the buffer is at least as large as the struct and aligned for it.
        unsafe {
            (*info).argsz = size as u32;
            (*info).index = index;
        }
        // SAFETY: the buffer has at least `size` bytes, which is what argsz says, and lives
        // through the call.
        unsafe { raw_get_region_info(device.as_raw_fd(), info) }?;
        // SAFETY: the kernel has written the struct, and any bytes make a valid one.
        let answer = unsafe { info.read() };
        let needed = answer.argsz as usize;
        let has_more = answer.flags & vfio::VFIO_REGION_INFO_FLAG_CAPS != 0;
        if has_more && needed > size && needed <= MAX_INFO {
            size = needed;
            continue;
        }
        let bytes = buffer.iter().flat_map(|word| word.to_ne_bytes());
        return Ok((answer, bytes.take(size).collect()));
    }
}

/// Calls `VFIO_DEVICE_GET_IRQ_INFO`.
pub(crate) fn device_get_irq_info(
    device: BorrowedFd<'_>,
    index: u32,
) -> Result<vfio::vfio_irq_info> {
    let mut info = vfio::vfio_irq_info {
        argsz: size_of::<vfio::vfio_irq_info>() as u32,
        index,
        ..vfio::vfio_irq_info::default()
    };
    // SAFETY: the struct is as large as its argsz says, and lives through the call.
    unsafe { raw_get_irq_info(device.as_raw_fd(), &raw mut info) }?;
    Ok(info)
}

/// Calls `VFIO_DEVICE_GET_PCI_HOT_RESET_INFO`. Returns the number of devices that a hot reset
/// affects. The kernel writes this number even when it returns ENOSPC, because our struct has no
/// room for the list of the devices.
pub(crate) fn device_get_pci_hot_reset_info(device: BorrowedFd<'_>) -> Result<u32> {
    let mut info = vfio::vfio_pci_hot_reset_info {
        argsz: size_of::<vfio::vfio_pci_hot_reset_info>() as u32,
        ..vfio::vfio_pci_hot_reset_info::default()
    };
    // SAFETY: the struct is as large as its argsz says, and lives through the call.
    match unsafe { raw_get_pci_hot_reset_info(device.as_raw_fd(), &raw mut info) } {
        Ok(_) | Err(Errno::ENOSPC) => Ok(info.count),
        Err(errno) => Err(errno),
    }
}

/// Calls `VFIO_DEVICE_QUERY_GFX_PLANE` with `VFIO_GFX_PLANE_TYPE_PROBE` and these flags, which only
/// asks whether the driver supports a plane type. gfxplane never queries the plane itself.
pub(crate) fn device_probe_gfx_plane(device: BorrowedFd<'_>, flags: u32) -> Result<()> {
    // SAFETY: the struct is plain numbers, for which zero is a value.
    let mut info: vfio::vfio_device_gfx_plane_info = unsafe { std::mem::zeroed() };
    info.argsz = size_of::<vfio::vfio_device_gfx_plane_info>() as u32;
    info.flags = vfio::VFIO_GFX_PLANE_TYPE_PROBE | flags;
    // SAFETY: the struct is as large as its argsz says, and lives through the call.
    unsafe { raw_query_gfx_plane(device.as_raw_fd(), &raw mut info) }.map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::fd::AsFd;

    #[test]
    fn numbers_and_sizes_of_the_abi() {
        assert_eq!(
            (code(0), code(8), code(12), QUERY_GFX_PLANE, BIND_IOMMUFD),
            (0x3b64, 0x3b6c, 0x3b70, 15218, 0x3b76)
        );
        assert_eq!(size_of::<vfio::vfio_device_gfx_plane_info>(), 64);
        assert_eq!(size_of::<vfio::vfio_region_info>(), 32);
        assert_eq!(size_of::<vfio::vfio_device_info>(), 24);
        assert_eq!(size_of::<vfio::vfio_irq_info>(), 16);
        assert_eq!(size_of::<vfio::vfio_pci_hot_reset_info>(), 12);
        assert_eq!(size_of::<vfio::vfio_group_status>(), 8);
        assert_eq!(
            std::mem::offset_of!(vfio::vfio_device_bind_iommufd, token_uuid_ptr),
            16
        );
    }

    #[test]
    fn a_file_that_is_no_device() {
        let null = std::fs::File::open("/dev/null").unwrap();
        let fd = null.as_fd();
        assert_eq!(get_api_version(fd), Err(Errno::ENOTTY));
        assert_eq!(device_probe_gfx_plane(fd, 0), Err(Errno::ENOTTY));
        assert_eq!(device_bind_iommufd(fd, fd), Err(Errno::ENOTTY));
        assert_eq!(device_get_info(fd).unwrap_err(), Errno::ENOTTY);
        assert_eq!(device_get_region_info(fd, 0).unwrap_err(), Errno::ENOTTY);
        assert_eq!(device_get_pci_hot_reset_info(fd), Err(Errno::ENOTTY));
        assert_eq!(group_get_device_fd(fd, "a\0b").unwrap_err(), Errno::EINVAL);
    }
}
