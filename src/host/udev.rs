//! Finds out whether udev has processed a device.

use std::thread;
use std::time::{Duration, Instant};

use crate::device::id::DeviceId;
use crate::device::record::MAX_SIZE;
use crate::host::run::POLL;
use crate::host::{Root, read_whole};

/// The file of our udev rules. A file of this name in /etc hides it.
pub(crate) const UDEV_RULE: &str = "61-gfxplane.rules";

/// Waits until udev has processed the `add` event of an mdev, at most until `limit`. Only then is
/// it certain whether a probe of ours has begun. Returns `true` at once if no udev runs or our rule
/// is masked. Returns `false` if udev has not processed the event by `limit`.
///
/// udev stores the properties that its rules set in `/run/udev/data/+SUBSYSTEM:NAME` (systemd
/// src/libsystemd/sd-device/device-private.c). Our rule sets at least one property for every mdev,
/// so the file exists once the rules have run. If udev first saw the device before `since`
/// (CLOCK_MONOTONIC), the file is about an earlier device of that name.
#[must_use]
pub fn wait_for_udev(root: &Root, id: DeviceId, since: Duration, limit: Instant) -> bool {
    let runs = root.join("run/udev/control").exists();
    if !runs || root.join("etc/udev/rules.d").join(UDEV_RULE).exists() {
        return true;
    }
    while initialized_at(root, id) < Some(since) {
        if Instant::now() >= limit {
            return false;
        }
        thread::sleep(POLL);
    }
    true
}

/// Returns the time at which udev first saw a device (CLOCK_MONOTONIC); `None` if it has not.
pub(super) fn initialized_at(root: &Root, id: DeviceId) -> Option<Duration> {
    let data = root.join("run/udev/data");
    let text = read_whole(&data.join(format!("+{}:{id}", id.bus())), MAX_SIZE).ok()?;
    let microseconds = text.lines().find_map(|line| line.strip_prefix("I:"))?;
    Some(Duration::from_micros(microseconds.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "11111111-2222-3333-4444-555555555555";

    #[test]
    fn udev_is_waited_for_where_it_runs() {
        let (_keep, root) = crate::host::empty();
        let id = UUID.parse().unwrap();
        let soon = || Instant::now() + Duration::from_millis(30);
        let (before, since) = (Duration::from_micros(999), Duration::from_micros(1000));
        assert!(wait_for_udev(&root, id, since, soon()), "no udev");
        root.put("run/udev/control", "");
        assert!(!wait_for_udev(&root, id, since, soon()));
        let data = format!("run/udev/data/+mdev:{UUID}");
        root.put(&data, "I:999\nE:GFXPLANE_DISPLAY=none\n");
        assert!(wait_for_udev(&root, id, before, soon()));
        assert!(
            !wait_for_udev(&root, id, since, soon()),
            "that was another device of this name"
        );
        root.put("etc/udev/rules.d/61-gfxplane.rules", "");
        assert!(
            wait_for_udev(&root, id, since, soon()),
            "our rule is masked"
        );
    }
}
