//! Opens a device by its own node, `/dev/vfio/devices/vfioN`, and binds it to an iommufd.
//!
//! The order and the errors follow Linux drivers/vfio/device_cdev.c, vfio_main.c and iommufd.c. The
//! node can always be opened. Until the node is bound, every other ioctl returns EINVAL, so a
//! device whose bind fails can't be asked anything. The bind calls the driver's own open. It needs
//! no address space (IOAS), which is for DMA.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::Path;

use nix::errno::Errno;

use crate::device::evidence::Step;
use crate::device::facts::Reason;
use crate::device::id::DeviceId;
use crate::host::Root;
use crate::host::sysfs::own_node;
use crate::probe::group::group_number;
use crate::probe::{Failure, Prepared, Tell, errno_of, failed, ioctl, open};

/// Returns whether the kernel has iommufd and a node for the device.
pub(super) fn fits(root: &Root, id: DeviceId) -> bool {
    root.join("dev/iommu").exists() && node(&root.device(id)).is_ok()
}

/// Does all steps before the bind, and reports each step before doing it.
pub(super) fn prepare(root: &Root, id: DeviceId, tell: Tell<'_>) -> Result<Prepared, Failure> {
    tell(Step::Find);
    let name = node(&root.device(id))?;

    tell(Step::Iommufd);
    let iommufd = open(&root.join("dev/iommu")).map_err(failed(Step::Iommufd))?;

    tell(Step::Cdev);
    let device = open(&root.join("dev/vfio/devices").join(name)).map_err(failed(Step::Cdev))?;
    Ok(Prepared {
        file: device.into(),
        keep: iommufd.into(),
    })
}

/// Binds the device, for which vfio calls the driver's own open. Returns the open device. May be
/// called again after a failure, which leaves `prepared` unchanged.
pub(super) fn open_device(
    root: &Root,
    prepared: &Prepared,
    id: DeviceId,
    tell: Tell<'_>,
) -> Result<File, Failure> {
    tell(Step::Bind);
    let bind = || ioctl::device_bind_iommufd(prepared.file.as_fd(), prepared.keep.as_fd());
    bound(bind, || is_held(root, id))?;
    // Once it is bound, the node's file is the open device.
    let device = prepared.file.try_clone().map(File::from);
    device.map_err(|error| failed(Step::Bind)(errno_of(&error)))
}

/// Returns the name of the device's node. A device without the directory `vfio-dev` has no vfio
/// driver. A kernel that makes no nodes leaves that directory empty.
fn node(device: &Path) -> Result<String, Failure> {
    own_node(device, &mut Vec::new()).ok_or_else(|| {
        let reason = if device.join("vfio-dev").exists() {
            Reason::NoVfio
        } else if device.exists() {
            Reason::NoDriver
        } else {
            Reason::Vanished
        };
        Failure::new(Step::Find, Errno::ENOENT, reason)
    })
}

/// Calls `bind`, and finds out what an EINVAL means.
///
/// vfio itself returns EINVAL only if the device is already open by its node (vfio_main.c,
/// `vfio_df_open`), because our arguments are valid and our files are new. But the driver's own
/// open may return EINVAL, too. If `is_held` returns true, the device is in use. If not, its holder
/// may have just closed it, so `bind` is called a second time.
fn bound(bind: impl Fn() -> nix::Result<()>, is_held: impl Fn() -> bool) -> Result<(), Failure> {
    let attempt = || {
        bind().map_err(|errno| match failed(Step::Bind)(errno) {
            failure if errno == Errno::EINVAL && is_held() => Failure {
                reason: Reason::InUse,
                ..failure
            },
            failure => failure,
        })
    };
    match attempt() {
        Err(Failure {
            errno: Errno::EINVAL,
            reason: Reason::OpenFailed,
            ..
        }) => attempt(),
        answer => answer,
    }
}

/// Returns whether somebody has the device open: tries to open its group, which then fails
/// (group.c, `vfio_group_fops_open`, `cdev_device_open_cnt`). Any other failure counts, too.
/// Without groups nobody can tell, and `true` is returned, because vfio's EINVAL means that the
/// device is open.
fn is_held(root: &Root, id: DeviceId) -> bool {
    group_number(&root.device(id)).map_or(true, |number| {
        open(&root.join("dev/vfio").join(number)).is_err()
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::tests::failing_step;
    use std::cell::RefCell;
    use std::fs;

    #[test]
    fn busy_is_told_from_a_driver_that_says_einval() {
        // The results of the bind, and whether somebody has the device at each check.
        for (name, binds, looks, expected) in [
            ("nobody has it", "ok", "", "ok"),
            ("by its group", "busy", "", "EBUSY in-use"),
            ("by its node", "inval", "held", "EINVAL in-use"),
            ("let go in between", "inval ok", "free", "ok"),
            ("another came", "inval inval", "free held", "EINVAL in-use"),
            ("its group came", "inval busy", "free", "EBUSY in-use"),
            ("driver", "inval inval", "free free", "EINVAL open-failed"),
        ] {
            let binds = RefCell::new(binds.split_whitespace());
            let looks = RefCell::new(looks.split_whitespace());
            let bind = || match binds.borrow_mut().next().unwrap() {
                "ok" => Ok(()),
                "busy" => Err(Errno::EBUSY),
                _ => Err(Errno::EINVAL),
            };
            let found = bound(bind, || looks.borrow_mut().next().unwrap() == "held");
            let found = match found {
                Ok(()) => "ok".to_owned(),
                Err(failure) => format!("{:?} {}", failure.errno, failure.reason),
            };
            assert_eq!(found, expected, "{name}");
            let left = (
                binds.borrow().clone().count(),
                looks.borrow().clone().count(),
            );
            assert_eq!(left, (0, 0), "{name}");
        }
    }

    #[test]
    fn steps_are_told_and_the_failing_one_is_named() {
        let (_keep, root) = crate::host::empty();
        let id: DeviceId = "c1a20000-0000-4000-8000-000000000002".parse().unwrap();
        let attempt = || failing_step(|tell| prepare(&root, id, tell));
        let missing = |step, reason| (step, Errno::ENOENT, reason);
        assert_eq!(attempt(), missing(Step::Find, Reason::Vanished));
        let device = root.device(id);
        fs::create_dir_all(&device).unwrap();
        assert_eq!(attempt(), missing(Step::Find, Reason::NoDriver));
        // A name without a number is not a node's, and could lead elsewhere.
        let nodes = format!("sys/bus/mdev/devices/{id}/vfio-dev");
        root.put(&format!("{nodes}/vfio../dev"), "511:7\n");
        assert_eq!(attempt(), missing(Step::Find, Reason::NoVfio));
        fs::create_dir_all(device.join("vfio-dev/vfio7")).unwrap();
        assert_eq!(attempt(), missing(Step::Find, Reason::NoVfio));
        fs::write(device.join("vfio-dev/vfio7/dev"), "511:7\n").unwrap();
        assert_eq!(attempt(), missing(Step::Iommufd, Reason::NoVfio));
        assert!(!fits(&root, id));

        fs::create_dir_all(root.join("dev/vfio/devices")).unwrap();
        fs::write(root.join("dev/iommu"), "").unwrap();
        assert!(fits(&root, id));
        assert_eq!(attempt(), missing(Step::Cdev, Reason::NoDriver));
        // A file that is no device fails only at the bind.
        fs::write(root.join("dev/vfio/devices/vfio7"), "").unwrap();
        let mut steps = Vec::new();
        let prepared = prepare(&root, id, &mut |step| steps.push(step)).unwrap();
        let opened = open_device(&root, &prepared, id, &mut |step| steps.push(step));
        let failure = opened.unwrap_err();
        assert_eq!(steps, [Step::Find, Step::Iommufd, Step::Cdev, Step::Bind]);
        assert_eq!((failure.step, failure.errno), (Step::Bind, Errno::ENOTTY));
        assert_eq!(failure.reason, Reason::OpenFailed);
    }

    #[test]
    fn who_has_it_is_seen_at_its_group() {
        let (_keep, root) = crate::host::empty();
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
        root.put("dev/vfio/7", "");
        assert!(!is_held(&root, id));
    }
}
