//! Checks that the devices of a domain exist and are free, and keeps them free.
//!
//! The check opens no device, but asks libvirt which domains have one. A user of a device whom
//! libvirt does not know is noticed by QEMU, at the group (`/dev/vfio/N`, EBUSY) or when it binds
//! the device (iommufd). Both come before the driver's own open, so the user is not disturbed.
//!
//! **Locks.** A probe holds `lock/ID` while it has the device open. This code waits for that lock,
//! but does not hold it during the trial: a probe that begins then finds the device `in-use`, and
//! keeps the earlier answer. This code holds `lock/ID.verify`, so that two runs never try with one
//! device. The start of a user's domain marks the device and waits for both locks
//! (`src/bin/gfxplane-helper/qemu_hook.rs`). A run that holds `lock/ID.verify` ends its QEMU when
//! it sees the mark: the user comes first. The start of a trial copy ([`crate::plan::trial::NAME`])
//! neither marks nor waits.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::device::id::DeviceId;
use crate::host::Root;
use crate::host::run::{Lock, trying_path, wait_until_free};
use crate::libvirt::User;
use crate::libvirt::trial::NotTried;
use crate::plan::trial;
use crate::publish::inventory::{Sources, State, inventory};

/// Checks that all these devices are active vfio devices.
///
/// # Errors
/// [`NotTried::Gone`]: at least one device is not. The error names all such devices, and the fix.
pub(crate) fn are_there(root: &Root, devices: &[DeviceId]) -> Result<(), NotTried> {
    let mut missing = devices.to_vec();
    missing.retain(|id| Sources::read_device(root, *id).1.is_none());
    if missing.is_empty() {
        return Ok(());
    }
    let defined = inventory(&Sources::read(root)).devices;
    let problems: Vec<String> = missing
        .iter()
        .map(|id| {
            let entry = defined.iter().find(|d| d.id == *id && d.state == State::Defined);
            if let Some(entry) = entry {
                format!(
                    "device {id} is defined but not active: start it with virsh nodedev-start {}",
                    entry.nodedev
                )
            } else if let DeviceId::Pci(_) = id
                && root.device(*id).exists()
            {
                let driver = fs::read_link(root.device(*id).join("driver")).ok();
                let driver = driver.as_deref().and_then(Path::file_name);
                let driver = driver.map_or("no driver".into(), |name| {
                    format!("the host's driver {}", name.display())
                });
                format!(
                    "device {id} has {driver}, and gfxplane does not take it from the host: type virsh nodedev-detach {}",
                    crate::publish::node_device::name_of(*id, None)
                )
            } else {
                format!("device {id} is not on this host")
            }
        })
        .collect();
    Err(NotTried::Gone(problems.join("; ")))
}

/// Checks that no active domain has one of these devices.
///
/// # Errors
/// [`NotTried::Ours`]: a small copy of ours has one. [`NotTried::InUse`]: another domain has one.
/// The error names the device and the domain.
pub(crate) fn are_unused(users: &[User], devices: &[DeviceId]) -> Result<(), NotTried> {
    let (mut problems, mut are_ours) = (Vec::new(), false);
    for user in users {
        let is_ours = trial::is_name(&user.domain);
        let fix = if is_ours {
            "another gfxplane verify, which ends soon"
        } else {
            "shut that down first"
        };
        for id in user.devices.iter().filter(|id| devices.contains(id)) {
            let domain = &user.domain;
            problems.push(format!("device {id} is in use by domain {domain}: {fix}"));
            are_ours |= is_ours;
        }
    }
    let problem = problems.join("; ");
    match are_ours {
        _ if problems.is_empty() => Ok(()),
        true => Err(NotTried::Ours(problem)),
        false => Err(NotTried::InUse(problem)),
    }
}

/// The lock `lock/ID.verify` of a device, which keeps other runs from trying with this device. Its
/// file is removed when this value is dropped.
#[derive(Debug)]
pub(crate) struct Hold {
    path: PathBuf,
    _lock: Lock,
}

impl Drop for Hold {
    fn drop(&mut self) {
        // The file is still locked, so anybody who opened it before notices its removal (`Lock`).
        let _ = fs::remove_file(&self.path);
    }
}

/// Waits until no probe of ours has one of the devices open, at most until `limit`, and takes the
/// [`Hold`] of each device. Does not wait for the hold of another run.
///
/// For a user without access to `/run/gfxplane/lock`, takes no lock: libvirt may let them start
/// domains all the same, and itself checks whether devices are in use.
///
/// # Errors
/// [`NotTried::Ours`]: a probe does not end, or another run has a device. [`NotTried::Failed`]: the
/// locks can't be used.
pub(crate) fn hold(
    root: &Root,
    devices: &[DeviceId],
    limit: Instant,
) -> Result<Vec<Hold>, NotTried> {
    let mut held = Vec::new();
    for id in devices {
        match hold_one(root, *id, limit) {
            Ok(Ok(hold)) => held.push(hold),
            Ok(Err(holder)) => return Err(NotTried::Ours(format!("device {id} is {holder}"))),
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
            Err(error) => {
                let problem = format!("the lock of device {id}: {error}");
                return Err(NotTried::Failed(problem));
            }
        }
    }
    Ok(held)
}

/// Waits until no probe of ours has the device open, at most until `limit`, and takes the device's
/// [`Hold`]. The inner error says what has the device: a probe, or another `gfxplane verify`.
fn hold_one(root: &Root, id: DeviceId, limit: Instant) -> io::Result<Result<Hold, &'static str>> {
    if !wait_until_free(root, id, limit)? {
        let prober = "still being probed: its driver may hang; try again, or set --deadline";
        return Ok(Err(prober));
    }
    // This makes the directory, or checks that it can be trusted. The lock was free a moment ago.
    drop(Lock::of_device(root, id)?);
    let path = trying_path(root, id);
    match Lock::of_file(&path, Instant::now()) {
        Ok(lock) => Ok(Ok(Hold { path, _lock: lock })),
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(Err(
            "in use by another gfxplane verify, which ends soon: try again",
        )),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::run::wait_until_tried;
    use std::time::Duration;

    const ID: &str = "c1a20000-0000-4000-8000-000000000002";

    fn lab() -> Root {
        Root::recorded(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/lab/root"))
    }

    fn message(result: Result<(), NotTried>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn what_is_there() {
        are_there(&lab(), &[ID.parse().unwrap()]).unwrap();
        let ids = ["00000000-0000-4000-8000-00000000ffff", "0000:ff:1f.7"];
        let ids: Vec<DeviceId> = ids.iter().map(|id| id.parse().unwrap()).collect();
        let text = message(are_there(&lab(), &ids));
        assert_eq!(text.matches("is not on this host").count(), 2, "{text}");
    }

    #[test]
    fn a_device_that_is_not_active_or_the_hosts() {
        let (_keep, root) = crate::host::empty();
        root.put(
            &format!("etc/mdevctl.d/gpu/{ID}"),
            r#"{"mdev_type":"t","start":"manual","attrs":[]}"#,
        );
        let text = message(are_there(&root, &[ID.parse().unwrap()]));
        let command = format!("virsh nodedev-start mdev_{}", ID.replace('-', "_"));
        assert!(text.contains(&command), "{text}");

        root.put("sys/bus/pci/devices/0000:01:00.0/vendor", "0x8086\n");
        let driver = root.join("sys/bus/pci/devices/0000:01:00.0/driver");
        std::os::unix::fs::symlink("../../drivers/i915", driver).unwrap();
        let text = message(are_there(&root, &["0000:01:00.0".parse().unwrap()]));
        assert!(text.contains("the host's driver i915"), "{text}");
        let command = "virsh nodedev-detach pci_0000_01_00_0";
        assert!(text.contains(command), "{text}");
    }

    #[test]
    fn who_uses_it() {
        let id: DeviceId = ID.parse().unwrap();
        let user = |domain: &str| User {
            domain: domain.into(),
            devices: vec![id],
        };
        are_unused(&[user("holder")], &["0000:01:00.0".parse().unwrap()]).unwrap();
        let expected = format!("device {ID} is in use by domain holder: shut that down first");
        let used = are_unused(&[user("holder")], &[id]);
        assert_eq!(used, Err(NotTried::InUse(expected)));
        let ours = user(&trial::name(uuid::Uuid::nil()));
        let used = are_unused(&[ours], &[id]);
        assert!(matches!(&used, Err(NotTried::Ours(_))), "{used:?}");
        assert!(message(used).contains("another gfxplane verify"));
    }

    #[test]
    fn one_run_at_a_time() {
        let (_keep, root) = crate::host::empty();
        let id: DeviceId = ID.parse().unwrap();
        let soon = || Instant::now() + Duration::from_millis(50);
        let held = hold(&root, &[id], soon()).unwrap();
        let refused = hold(&root, &[id], soon()).unwrap_err();
        assert!(matches!(refused, NotTried::Ours(_)));
        assert!(refused.to_string().contains("another gfxplane verify"));
        // Our own start does not wait for that lock, but the starts of users do.
        assert!(wait_until_free(&root, id, soon()).unwrap());
        assert!(!wait_until_tried(&root, id, soon()).unwrap());
        drop(held);
        assert!(wait_until_tried(&root, id, soon()).unwrap());
        drop(hold(&root, &[id], soon()).unwrap());
        assert!(!trying_path(&root, id).exists());

        let probe = Lock::of_device(&root, id).unwrap();
        let refused = hold(&root, &[id], soon()).unwrap_err();
        assert!(matches!(refused, NotTried::Ours(_)));
        assert!(refused.to_string().contains("still being probed"));
        drop(probe);
    }

    #[test]
    fn a_lock_that_cant_be_used_is_no_user() {
        let (_keep, root) = crate::host::empty();
        let id: DeviceId = ID.parse().unwrap();
        fs::create_dir_all(trying_path(&root, id)).unwrap();
        let refused = hold(&root, &[id], Instant::now()).unwrap_err();
        assert!(matches!(refused, NotTried::Failed(_)), "{refused}");
    }
}
