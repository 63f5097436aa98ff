//! The prober, called without the tool.

use super::*;

#[test]
fn the_prober_alone() {
    let root = lab();
    let root = root.to_str().unwrap();
    ends(&run(PROBER, &["--root", root, DEVICE]), 0, "");
    ends(&run(PROBER, &["--udev", "gpu"]), 2, "is not a device");
    ends(&run(PROBER, &[]), 2, "DEVICE");
    let manner = ["--child", DEVICE, "1", "--kvm", "--path=iommufd"];
    ends(&run(PROBER, &manner), 2, "--child ID PID");
    // No such device here: its child says so, and udev still gets a property.
    let child = run(PROBER, &["--udev", "00000000-0000-0000-0000-00000000ffff"]);
    ends(&child, 0, "");
    assert_eq!(
        text(&child.stdout),
        "GFXPLANE_DISPLAY=unknown\nGFXPLANE_DISPLAY_REASON=vanished\n\
         ID_VFIO_DISPLAY=unknown\nID_VFIO_DISPLAY_REASON=vanished\n"
    );
}

/// Whoever made the device may have been ended by a signal to all of its service or terminal.
#[test]
fn a_keeper_outlives_its_maker() {
    let mut keeper = Command::new(PROBER)
        .args(["--keep", "00000000-0000-0000-0000-00000000ffff"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(keeper.id().cast_signed());
    let status = format!("/proc/{pid}/status");
    // SIGHUP, SIGINT and SIGTERM.
    let blocks = |line: &str| line.starts_with("SigBlk:") && line.ends_with("4003");
    while !fs::read_to_string(&status).unwrap().lines().any(blocks) {
        assert!(keeper.try_wait().unwrap().is_none(), "it waits for us");
        std::thread::sleep(Duration::from_millis(5));
    }
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        kill(pid, signal).unwrap();
    }
    drop(keeper.stdin.take());
    let status = keeper.wait().unwrap();
    assert!(status.code().is_some(), "{status}");
}
