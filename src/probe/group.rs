//! Opens a device by its group: `/dev/vfio/vfio` and `/dev/vfio/GROUP`.
//!
//! The order and the errors follow Linux drivers/vfio/group.c and container.c. The files are closed
//! in reverse order.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;

use crate::device::evidence::Step;
use crate::device::facts::Reason;
use crate::device::id::DeviceId;
use crate::host::Root;
use crate::probe::{Failure, Prepared, Tell, errno_of, failed, ioctl, open};

/// Returns whether the kernel has groups.
pub(super) fn fits(root: &Root) -> bool {
    root.join("dev/vfio/vfio").exists()
}

/// Does all steps before the open, and reports each step before doing it.
pub(super) fn prepare(root: &Root, id: DeviceId, tell: Tell<'_>) -> Result<Prepared, Failure> {
    tell(Step::Find);
    let number = group_number(&root.device(id))?;

    tell(Step::Container);
    let container = open(&root.join("dev/vfio/vfio")).map_err(failed(Step::Container))?;
    let version = ioctl::get_api_version(container.as_fd()).map_err(failed(Step::Container))?;
    let kind = [ioctl::TYPE1_V2_IOMMU, ioctl::TYPE1_IOMMU]
        .into_iter()
        .find(|kind| ioctl::check_extension(container.as_fd(), *kind) == Ok(true));
    let Some(kind) = kind.filter(|_| version == 0) else {
        return Err(failed(Step::Container)(Errno::EPROTONOSUPPORT));
    };

    tell(Step::Group);
    let group = open(&root.join("dev/vfio").join(&number)).map_err(failed(Step::Group))?;

    tell(Step::Viable);
    if !ioctl::group_is_viable(group.as_fd()).map_err(failed(Step::Viable))? {
        return Err(Failure::new(Step::Viable, Errno::EPERM, Reason::NotViable));
    }

    tell(Step::Attach);
    ioctl::group_set_container(group.as_fd(), container.as_fd())
        .and_then(|()| ioctl::set_iommu(container.as_fd(), kind))
        .map_err(failed(Step::Attach))?;
    Ok(Prepared {
        file: group.into(),
        keep: container.into(),
    })
}

/// Opens the device, for which vfio calls the driver's own open. May be called again after a
/// failure, which leaves `prepared` unchanged.
pub(super) fn open_device(
    prepared: &Prepared,
    id: DeviceId,
    tell: Tell<'_>,
) -> Result<File, Failure> {
    tell(Step::Open);
    ioctl::group_get_device_fd(prepared.file.as_fd(), &id.to_string())
        .map(File::from)
        .map_err(failed(Step::Open))
}

/// Returns the number of the device's group.
///
/// # Errors
/// A device without a group has no vfio driver, and a device without a directory is gone. The
/// kernel makes the group before the device's own node. So if a device has a node but no group, the
/// kernel has no groups.
pub(super) fn group_number(device: &Path) -> Result<String, Failure> {
    let failure = |errno, reason| Failure::new(Step::Find, errno, reason);
    let link = std::fs::read_link(device.join("iommu_group")).map_err(|error| {
        if !device.exists() {
            failure(Errno::ENOENT, Reason::Vanished)
        } else if device.join("vfio-dev").exists() {
            failure(Errno::ENOENT, Reason::NoVfio)
        } else {
            failure(errno_of(&error), Reason::NoDriver)
        }
    })?;
    let name = link.file_name().and_then(|name| name.to_str());
    name.filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()))
        .map(str::to_owned)
        .ok_or_else(|| failure(Errno::EINVAL, Reason::NoDriver))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::tests::failing_step;
    use std::fs;

    #[test]
    fn steps_are_told_and_the_failing_one_is_named() {
        let (_keep, root) = crate::host::empty();
        let id: DeviceId = "0000:00:02.0".parse().unwrap();
        let attempt = || failing_step(|tell| prepare(&root, id, tell));
        assert_eq!(attempt(), (Step::Find, Errno::ENOENT, Reason::Vanished));
        let device = root.join("sys/bus/pci/devices/0000:00:02.0");
        fs::create_dir_all(&device).unwrap();
        assert_eq!(attempt(), (Step::Find, Errno::ENOENT, Reason::NoDriver));
        fs::create_dir(device.join("vfio-dev")).unwrap();
        assert_eq!(attempt(), (Step::Find, Errno::ENOENT, Reason::NoVfio));
        std::os::unix::fs::symlink("../../../kernel/iommu_groups/x", device.join("iommu_group"))
            .unwrap();
        assert_eq!(attempt(), (Step::Find, Errno::EINVAL, Reason::NoDriver));
        fs::remove_file(device.join("iommu_group")).unwrap();
        std::os::unix::fs::symlink("../../../kernel/iommu_groups/7", device.join("iommu_group"))
            .unwrap();
        assert_eq!(attempt(), (Step::Container, Errno::ENOENT, Reason::NoVfio));
        root.put("dev/vfio/vfio", "");
        assert_eq!(attempt(), (Step::Container, Errno::ENOTTY, Reason::NoVfio));
    }
}
