//! Opens a device by its own node, `/dev/vfio/devices/vfioN`, bound to an iommufd.
//!
//! The order and the errors follow Linux drivers/vfio/device_cdev.c, vfio_main.c and iommufd.c. The
//! node always opens. Until it is bound, every other ioctl returns EINVAL, so a device that did not
//! bind is not asked. The bind runs the driver's own open. It needs no address space (IOAS), which
//! is for DMA.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;

use crate::device::evidence::{OpenPath, Step};
use crate::device::facts::Reason;
use crate::device::id::DeviceId;
use crate::host::Root;
use crate::host::sysfs::own_node;
use crate::probe::group::{failed, group_number, open};
use crate::probe::{Failure, Opener, Prepared, Tell, errno_of, ioctl};

/// The way that opens the device's own node and `/dev/iommu`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cdev;

impl Opener for Cdev {
    fn path(&self) -> OpenPath {
        OpenPath::Cdev
    }

    fn fits(&self, root: &Root, id: DeviceId) -> bool {
        root.join("dev/iommu").exists() && node(&root.device(id)).is_ok()
    }

    fn prepare(&self, root: &Root, id: DeviceId, tell: Tell<'_>) -> Result<Prepared, Failure> {
        tell(Step::Find);
        let name = node(&root.device(id))?;

        tell(Step::Iommufd);
        let iommufd = open(&root.join("dev/iommu")).map_err(failed(Step::Iommufd, no_iommufd))?;

        tell(Step::Cdev);
        let device =
            open(&root.join("dev/vfio/devices").join(name)).map_err(failed(Step::Cdev, no_node))?;
        Ok(Prepared {
            file: device.into(),
            keep: iommufd.into(),
        })
    }

    fn open(
        &self,
        root: &Root,
        prepared: &Prepared,
        id: DeviceId,
        tell: Tell<'_>,
    ) -> Result<File, Failure> {
        tell(Step::Bind);
        let bind = || ioctl::device_bind_iommufd(prepared.file.as_fd(), prepared.keep.as_fd());
        bound(bind, || is_held(root, id))
            // Once bound, the node is the device.
            .and_then(|()| {
                let device = prepared.file.try_clone();
                device.map_err(|error| (errno_of(&error), Reason::OpenFailed))
            })
            .map(File::from)
            .map_err(|(errno, reason)| Failure {
                step: Step::Bind,
                errno,
                reason,
            })
    }
}

/// Returns the name of the device's node. A device without the directory `vfio-dev` has no vfio
/// driver. If the directory has no node, the kernel makes none.
fn node(device: &Path) -> Result<String, Failure> {
    let failure = |reason| Failure {
        step: Step::Find,
        errno: Errno::ENOENT,
        reason,
    };
    own_node(device, &mut Vec::new()).ok_or_else(|| {
        failure(if device.join("vfio-dev").exists() {
            Reason::NoVfio
        } else if device.exists() {
            Reason::NoDriver
        } else {
            Reason::Vanished
        })
    })
}

/// Binds the device. An error is the errno and its meaning.
///
/// If the arguments are right and both files are new, vfio's own EINVAL has only one meaning: the
/// device is open by its node already (vfio_main.c, `vfio_df_open`). But the driver's own open may
/// return EINVAL, too, and `is_held` distinguishes the two. If a holder closed the device before
/// that check, a second attempt succeeds.
fn bound(
    bind: impl Fn() -> nix::Result<()>,
    is_held: impl Fn() -> bool,
) -> Result<(), (Errno, Reason)> {
    let attempt = || {
        bind().map_err(|errno| match errno {
            Errno::EINVAL if is_held() => (errno, Reason::InUse),
            _ => (errno, not_bound(errno)),
        })
    };
    match attempt() {
        Err((Errno::EINVAL, Reason::OpenFailed)) => attempt(),
        answer => answer,
    }
}

/// Returns whether somebody has the device open. In that case its group doesn't open (group.c,
/// `vfio_group_fops_open`, `cdev_device_open_cnt`). On a kernel without groups this can't be found
/// out. Then returns true, because that is what vfio itself means by EINVAL.
fn is_held(root: &Root, id: DeviceId) -> bool {
    group_number(&root.device(id)).map_or(true, |number| {
        open(&root.join("dev/vfio").join(number)).is_err()
    })
}

fn no_iommufd(errno: Errno) -> Reason {
    match errno {
        Errno::EACCES | Errno::EPERM => Reason::Permission,
        _ => Reason::NoVfio,
    }
}

fn no_node(errno: Errno) -> Reason {
    match errno {
        Errno::EACCES | Errno::EPERM => Reason::Permission,
        Errno::ENOENT | Errno::ENODEV | Errno::ENXIO => Reason::NoDriver,
        _ => Reason::OpenFailed,
    }
}

/// Returns the meaning of an errno of the bind.
///
/// EBUSY: the group is open (group.c, `vfio_device_block_group`), or the driver says so itself.
/// (For a physical device it may also mean that another device of its group has a host driver,
/// iommu.c, `iommu_device_claim_dma_owner`. Physical devices are opened only when somebody names
/// them.)
///
/// EPERM is no lack of rights: iommufd returns it for a device without interrupt remapping
/// (iommufd/device.c, `iommufd_device_bind`). All others come from the driver's own open.
fn not_bound(errno: Errno) -> Reason {
    match errno {
        Errno::EBUSY => Reason::InUse,
        Errno::EACCES => Reason::Permission,
        Errno::ESRCH => Reason::NeedsVm,
        Errno::ENODEV => Reason::Vanished,
        _ => Reason::OpenFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::fs;

    #[test]
    fn what_each_errno_means() {
        for (reason, errno, expected) in [
            (
                no_iommufd as fn(Errno) -> Reason,
                Errno::ENOENT,
                Reason::NoVfio,
            ),
            (no_iommufd, Errno::EACCES, Reason::Permission),
            (no_node, Errno::EACCES, Reason::Permission),
            (no_node, Errno::ENODEV, Reason::NoDriver),
            (no_node, Errno::ENOMEM, Reason::OpenFailed),
            (not_bound, Errno::EBUSY, Reason::InUse),
            (not_bound, Errno::EPERM, Reason::OpenFailed),
            (not_bound, Errno::ESRCH, Reason::NeedsVm),
            (not_bound, Errno::EEXIST, Reason::OpenFailed),
            (not_bound, Errno::EIO, Reason::OpenFailed),
            (not_bound, Errno::ENODEV, Reason::Vanished),
        ] {
            assert_eq!(reason(errno), expected, "{errno}");
        }
    }

    /// The answers of the bind, and whether somebody has the device at each check.
    #[test]
    fn busy_is_told_from_a_driver_that_says_einval() {
        let (good, inval, busy) = (Ok(()), Err(Errno::EINVAL), Err(Errno::EBUSY));
        let (free, held) = (false, true);
        for (name, binds, looks, expected) in [
            ("nobody has it", vec![good], vec![], Ok(())),
            (
                "by its group",
                vec![busy],
                vec![],
                Err((Errno::EBUSY, Reason::InUse)),
            ),
            (
                "by its node",
                vec![inval],
                vec![held],
                Err((Errno::EINVAL, Reason::InUse)),
            ),
            ("let go in between", vec![inval, good], vec![free], Ok(())),
            (
                "let go, and another came",
                vec![inval, inval],
                vec![free, held],
                Err((Errno::EINVAL, Reason::InUse)),
            ),
            (
                "let go, and its group came",
                vec![inval, busy],
                vec![free],
                Err((Errno::EBUSY, Reason::InUse)),
            ),
            (
                "the driver",
                vec![inval, inval],
                vec![free, free],
                Err((Errno::EINVAL, Reason::OpenFailed)),
            ),
        ] {
            let binds = RefCell::new(binds.into_iter());
            let looks = RefCell::new(looks.into_iter());
            let found = bound(
                || binds.borrow_mut().next().unwrap(),
                || looks.borrow_mut().next().unwrap(),
            );
            assert_eq!(found, expected, "{name}");
            assert_eq!(
                (binds.borrow().len(), looks.borrow().len()),
                (0, 0),
                "{name}"
            );
        }
    }

    #[test]
    fn steps_are_told_and_the_failing_one_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::recorded(directory.path());
        let id: DeviceId = "c1a20000-0000-4000-8000-000000000002".parse().unwrap();
        let attempt = || {
            let mut steps = Vec::new();
            let failure = Cdev
                .prepare(&root, id, &mut |step| steps.push(step))
                .unwrap_err();
            assert_eq!(steps.last(), Some(&failure.step));
            (failure.step, failure.errno, failure.reason)
        };
        let missing = |step, reason| (step, Errno::ENOENT, reason);
        assert_eq!(attempt(), missing(Step::Find, Reason::Vanished));
        let device = root.device(id);
        fs::create_dir_all(&device).unwrap();
        assert_eq!(attempt(), missing(Step::Find, Reason::NoDriver));
        // A node whose name has no number leads elsewhere.
        fs::create_dir_all(device.join("vfio-dev/vfio..")).unwrap();
        fs::write(device.join("vfio-dev/vfio../dev"), "511:7\n").unwrap();
        assert_eq!(attempt(), missing(Step::Find, Reason::NoVfio));
        fs::create_dir_all(device.join("vfio-dev/vfio7")).unwrap();
        assert_eq!(attempt(), missing(Step::Find, Reason::NoVfio));
        fs::write(device.join("vfio-dev/vfio7/dev"), "511:7\n").unwrap();
        assert_eq!(attempt(), missing(Step::Iommufd, Reason::NoVfio));
        assert!(!Cdev.fits(&root, id));

        fs::create_dir_all(root.join("dev/vfio/devices")).unwrap();
        fs::write(root.join("dev/iommu"), "").unwrap();
        assert!(Cdev.fits(&root, id));
        assert_eq!(attempt(), missing(Step::Cdev, Reason::NoDriver));
        // A file that is no device gets as far as the bind.
        fs::write(root.join("dev/vfio/devices/vfio7"), "").unwrap();
        let mut steps = Vec::new();
        let prepared = Cdev
            .prepare(&root, id, &mut |step| steps.push(step))
            .unwrap();
        let failure = Cdev
            .open(&root, &prepared, id, &mut |step| steps.push(step))
            .unwrap_err();
        assert_eq!(steps, [Step::Find, Step::Iommufd, Step::Cdev, Step::Bind]);
        assert_eq!((failure.step, failure.errno), (Step::Bind, Errno::ENOTTY));
        assert_eq!(failure.reason, Reason::OpenFailed);
    }

    #[test]
    fn who_has_it_is_seen_at_its_group() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::recorded(directory.path());
        let id: DeviceId = "0000:00:02.0".parse().unwrap();
        let device = root.device(id);
        fs::create_dir_all(&device).unwrap();
        assert!(
            is_held(&root, id),
            "a kernel without groups: vfio's own meaning"
        );
        std::os::unix::fs::symlink("../../../kernel/iommu_groups/7", device.join("iommu_group"))
            .unwrap();
        assert!(is_held(&root, id), "its group does not open");
        fs::create_dir_all(root.join("dev/vfio")).unwrap();
        fs::write(root.join("dev/vfio/7"), "").unwrap();
        assert!(!is_held(&root, id));
    }
}
