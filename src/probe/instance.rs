//! A mediated device made for the sake of one question: what a type is, before anybody has one.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use uuid::Uuid;

use crate::host::Root;
use crate::host::run;
use crate::names::DeviceId;

/// A device that is removed again when this is dropped.
#[derive(Debug)]
pub struct Instance {
    /// Its id, made up.
    pub id: DeviceId,
    remove: PathBuf,
}

impl Instance {
    /// Makes a device of a type, and waits until udev is through with it (whose rule may have
    /// asked it already), at most until `limit`.
    ///
    /// # Errors
    /// What the kernel says to a write to `create`: EACCES without rights, ENOSPC or another
    /// error of the driver if no more can be made.
    pub fn make(root: &Root, parent: &str, type_id: &str, limit: Instant) -> io::Result<Self> {
        let id = DeviceId::Mdev(Uuid::new_v4());
        let types = root
            .join("sys/class/mdev_bus")
            .join(parent)
            .join("mdev_supported_types");
        fs::write(types.join(type_id).join("create"), id.to_string())?;
        let remove = root
            .join("sys/bus/mdev/devices")
            .join(id.to_string())
            .join("remove");
        let instance = Instance { id, remove };
        let _ = run::wait_for_udev(root, id, Duration::ZERO, limit);
        Ok(instance)
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        // EBUSY or EAGAIN: somebody (a prober that hangs, a manager that is quick) still has it.
        for _ in 0..20 {
            if fs::write(&self.remove, "1").is_ok() || !self.remove.exists() {
                return;
            }
            thread::sleep(Duration::from_millis(100));
        }
    }
}
