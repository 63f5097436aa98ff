//! Opens a device over `/dev/vfio/vfio` and `/dev/vfio/GROUP`.
//!
//! The order and the errors follow Linux drivers/vfio/group.c and container.c. The files are closed
//! in reverse order.

use std::fs::{File, OpenOptions};
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;

use crate::device::evidence::{OpenPath, Step};
use crate::device::facts::Reason;
use crate::device::id::DeviceId;
use crate::host::Root;
use crate::probe::{Failure, Opener, Prepared, Tell, errno_of, ioctl};

/// The way over container and group.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Group;

impl Opener for Group {
    fn path(&self) -> OpenPath {
        OpenPath::Group
    }

    fn fits(&self, root: &Root, _id: DeviceId) -> bool {
        root.join("dev/vfio/vfio").exists()
    }

    fn prepare(&self, root: &Root, id: DeviceId, tell: Tell<'_>) -> Result<Prepared, Failure> {
        tell(Step::Find);
        let number = group_number(&root.device(id))?;

        tell(Step::Container);
        let container =
            open(&root.join("dev/vfio/vfio")).map_err(failed(Step::Container, no_container))?;
        let version = ioctl::get_api_version(container.as_fd())
            .map_err(failed(Step::Container, no_container))?;
        let kind = [ioctl::TYPE1_V2_IOMMU, ioctl::TYPE1_IOMMU]
            .into_iter()
            .find(|kind| ioctl::check_extension(container.as_fd(), *kind) == Ok(true));
        let Some(kind) = kind.filter(|_| version == 0) else {
            return Err(failed(Step::Container, |_| Reason::NoVfio)(
                Errno::EPROTONOSUPPORT,
            ));
        };

        tell(Step::Group);
        let group =
            open(&root.join("dev/vfio").join(&number)).map_err(failed(Step::Group, no_group))?;

        tell(Step::Viable);
        let viable = ioctl::group_is_viable(group.as_fd())
            .map_err(failed(Step::Viable, |_| Reason::OpenFailed))?;
        if !viable {
            return Err(failed(Step::Viable, |_| Reason::NotViable)(Errno::EPERM));
        }

        tell(Step::Attach);
        ioctl::group_set_container(group.as_fd(), container.as_fd())
            .and_then(|()| ioctl::set_iommu(container.as_fd(), kind))
            .map_err(failed(Step::Attach, not_attached))?;
        Ok(Prepared {
            file: group.into(),
            keep: container.into(),
        })
    }

    fn open(
        &self,
        _root: &Root,
        prepared: &Prepared,
        id: DeviceId,
        tell: Tell<'_>,
    ) -> Result<File, Failure> {
        tell(Step::Open);
        ioctl::group_get_device_fd(prepared.file.as_fd(), &id.to_string())
            .map(File::from)
            .map_err(failed(Step::Open, not_opened))
    }
}

pub(super) fn failed(step: Step, meaning: fn(Errno) -> Reason) -> impl Fn(Errno) -> Failure {
    move |errno| Failure {
        step,
        errno,
        reason: meaning(errno),
    }
}

/// Returns the number of the device's group.
///
/// # Errors
/// A device without a group has no vfio driver, and a device without a directory is gone. The
/// kernel makes the group before the device's own node. So if a device has a node but no group, the
/// kernel has no groups.
pub(super) fn group_number(device: &Path) -> Result<String, Failure> {
    let failure = |errno, reason| Failure {
        step: Step::Find,
        errno,
        reason,
    };
    let link = match std::fs::read_link(device.join("iommu_group")) {
        Ok(link) => link,
        Err(_) if !device.exists() => return Err(failure(Errno::ENOENT, Reason::Vanished)),
        Err(_) if device.join("vfio-dev").exists() => {
            return Err(failure(Errno::ENOENT, Reason::NoVfio));
        }
        Err(error) => {
            return Err(failure(errno_of(&error), Reason::NoDriver));
        }
    };
    let name = link.file_name().and_then(|name| name.to_str());
    name.filter(|name| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_digit()))
        .map(str::to_owned)
        .ok_or_else(|| failure(Errno::EINVAL, Reason::NoDriver))
}

pub(super) fn open(path: &Path) -> Result<File, Errno> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .open(path)
        .map_err(|error| errno_of(&error))
}

fn no_container(errno: Errno) -> Reason {
    match errno {
        Errno::EACCES | Errno::EPERM => Reason::Permission,
        _ => Reason::NoVfio,
    }
}

/// Returns the meaning of an errno of opening the group. EBUSY: somebody has the group open, or the
/// device by its own node (group.c, `vfio_group_fops_open`).
fn no_group(errno: Errno) -> Reason {
    match errno {
        Errno::EBUSY => Reason::InUse,
        Errno::EACCES | Errno::EPERM => Reason::Permission,
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => Reason::NoDriver,
        _ => Reason::OpenFailed,
    }
}

/// Returns the meaning of an errno of attaching the group. EPERM is no lack of rights here: type1
/// returns it for a device without interrupt remapping.
fn not_attached(errno: Errno) -> Reason {
    match errno {
        Errno::EBUSY => Reason::InUse,
        _ => Reason::OpenFailed,
    }
}

/// Returns the meaning of an errno of opening the device. ESRCH: kvmgt found no KVM VM
/// (i915/gvt/kvmgt.c, `intel_vgpu_open_device`).
fn not_opened(errno: Errno) -> Reason {
    match errno {
        Errno::EBUSY => Reason::InUse,
        Errno::EACCES | Errno::EPERM => Reason::Permission,
        Errno::ESRCH => Reason::NeedsVm,
        Errno::ENODEV => Reason::Vanished,
        _ => Reason::OpenFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_each_errno_means() {
        for (reason, errno, expected) in [
            (
                no_container as fn(Errno) -> Reason,
                Errno::ENOENT,
                Reason::NoVfio,
            ),
            (no_container, Errno::EACCES, Reason::Permission),
            (no_group, Errno::EBUSY, Reason::InUse),
            (no_group, Errno::EACCES, Reason::Permission),
            (no_group, Errno::ENOENT, Reason::NoDriver),
            (no_group, Errno::EIO, Reason::OpenFailed),
            (not_attached, Errno::EPERM, Reason::OpenFailed),
            (not_opened, Errno::ESRCH, Reason::NeedsVm),
            (not_opened, Errno::EEXIST, Reason::OpenFailed),
            (not_opened, Errno::EBUSY, Reason::InUse),
            (not_opened, Errno::EIO, Reason::OpenFailed),
            (not_opened, Errno::ENODEV, Reason::Vanished),
        ] {
            assert_eq!(reason(errno), expected, "{errno}");
        }
    }

    #[test]
    fn steps_are_told_and_the_failing_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::recorded(directory.path());
        let id: DeviceId = "0000:00:02.0".parse().unwrap();
        let attempt = || {
            let mut steps = Vec::new();
            let failure = Group
                .prepare(&root, id, &mut |step| steps.push(step))
                .unwrap_err();
            assert_eq!(steps.last(), Some(&failure.step));
            (failure.step, failure.errno, failure.reason)
        };
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
        fs::create_dir_all(root.join("dev/vfio")).unwrap();
        fs::write(root.join("dev/vfio/vfio"), "").unwrap();
        assert_eq!(attempt(), (Step::Container, Errno::ENOTTY, Reason::NoVfio));
    }
}
