//! Tests who removes a temporary device that was created for probing, once its maker is gone. The
//! real gfxplane-probe runs with a directory as its root, in which a thread does the kernel's part.
//! Also tests the program's output for udev where nothing can be kept.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use gfxplane::device::id::DeviceId;
use gfxplane::host::{Root, marks};

const PROBER: &str = env!("CARGO_BIN_EXE_gfxplane-probe");

fn device(number: u32) -> DeviceId {
    let uuid = format!("{number:08}-1111-4222-8333-444444444444");
    uuid.parse().unwrap()
}

/// A machine that has nothing but mediated devices.
struct Machine {
    directory: tempfile::TempDir,
    off: AtomicBool,
}

impl Machine {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        for name in [
            "usr/bin",
            "run",
            "dev",
            "proc/self/task/1",
            "sys/devices/p",
            "sys/bus/mdev/devices",
        ] {
            fs::create_dir_all(path.join(name)).unwrap();
        }
        fs::write(path.join("dev/null"), "").unwrap();
        symlink("/usr/bin/gfxplane-probe", path.join("proc/self/exe")).unwrap();
        // Another process writes the file. If this one did, a child of another test might still
        // hold it open, and then it can't be executed.
        let copied = Command::new("install")
            .arg(PROBER)
            .arg(path.join("usr/bin/gfxplane-probe"))
            .status();
        assert!(copied.unwrap().success());
        Machine {
            directory,
            off: AtomicBool::new(false),
        }
    }

    fn root(&self) -> Root {
        Root::recorded(self.directory.path())
    }

    fn bus(&self) -> PathBuf {
        self.root().join("sys/bus/mdev/devices")
    }

    fn add(&self, id: DeviceId) {
        let home = self.root().join("sys/devices/p").join(id.to_string());
        fs::create_dir(&home).unwrap();
        fs::write(home.join("remove"), "").unwrap();
        let link = self.bus().join(id.to_string());
        symlink(format!("../../../devices/p/{id}"), link).unwrap();
    }

    fn devices(&self) -> Vec<String> {
        let names = fs::read_dir(self.bus()).unwrap();
        let mut names: Vec<String> = names
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// Returns gfxplane-probe on this machine. A static program needs nothing else there.
    fn prober(&self, arguments: &[&str]) -> Command {
        let path = self.directory.path();
        let mut command = if nix::unistd::geteuid().is_root() {
            let mut command = Command::new("chroot");
            command.arg(path);
            command
        } else {
            let mut command = Command::new("unshare");
            command.arg("--map-root-user").arg("--root").arg(path);
            command
        };
        command.arg("/usr/bin/gfxplane-probe").args(arguments);
        command
    }

    fn keeper(&self, id: DeviceId) -> Child {
        let mut keeper = self.prober(&["--keep", &id.to_string()]);
        keeper.stdin(Stdio::piped()).spawn().unwrap()
    }

    /// Removes a device when somebody writes to its `remove`.
    fn kernel(&self) {
        while !self.off.load(Ordering::Relaxed) {
            for name in self.devices() {
                let link = self.bus().join(&name);
                if fs::read_to_string(link.join("remove")).is_ok_and(|text| text == "1") {
                    fs::remove_file(&link).unwrap();
                    fs::remove_dir_all(self.root().join("sys/devices/p").join(name)).unwrap();
                }
            }
            thread::sleep(Duration::from_millis(1));
        }
    }

    fn while_it_runs(&self, act: impl FnOnce()) {
        struct Off<'m>(&'m Machine);
        impl Drop for Off<'_> {
            fn drop(&mut self) {
                self.0.off.store(true, Ordering::Relaxed);
            }
        }
        thread::scope(|scope| {
            scope.spawn(|| self.kernel());
            // Also if a test fails.
            let _off = Off(self);
            act();
        });
    }

    fn marks(&self) -> usize {
        let directory = marks::directory(&self.root());
        fs::read_dir(directory).unwrap().count()
    }
}

#[test]
fn a_keeper_waits_for_its_makers_end_and_removes_the_device() {
    let machine = Machine::new();
    let (ours, other) = (device(1), device(2));
    let lock = marks::mark(&machine.root(), ours).unwrap();
    machine.add(ours);
    machine.add(other);
    machine.while_it_runs(|| {
        let mut keeper = machine.keeper(ours);
        // Its maker is ending: its pipe goes first, its lock a moment later.
        drop(keeper.stdin.take());
        assert!(keeper.try_wait().unwrap().is_none());
        assert_eq!(machine.devices(), [ours.to_string(), other.to_string()]);
        drop(lock);
        assert!(keeper.wait().unwrap().success());
        assert_eq!(machine.devices(), [other.to_string()]);
        assert_eq!(machine.marks(), 0);
    });
}

#[test]
fn a_keeper_takes_nothing_that_is_not_marked() {
    let machine = Machine::new();
    let foreign = device(1);
    machine.add(foreign);
    machine.while_it_runs(|| {
        let mut keeper = machine.keeper(foreign);
        drop(keeper.stdin.take());
        assert!(keeper.wait().unwrap().success());
        assert_eq!(machine.devices(), [foreign.to_string()]);
    });
}

#[test]
fn the_next_run_removes_what_was_killed_with_its_keeper() {
    let machine = Machine::new();
    let (left, held, never_made, foreign) = (device(1), device(2), device(3), device(4));
    for id in [left, never_made] {
        drop(marks::mark(&machine.root(), id).unwrap());
    }
    let lock = marks::mark(&machine.root(), held).unwrap();
    for id in [left, held, foreign] {
        machine.add(id);
    }
    machine.while_it_runs(|| {
        let run = || machine.prober(&["--quiet", "--all"]).output().unwrap();
        let said = run();
        let kept = [held.to_string(), foreign.to_string()];
        assert_eq!(machine.devices(), kept, "{said:?}");
        assert_eq!(machine.marks(), 1);
        drop(lock);
        let said = run();
        assert_eq!(machine.devices(), [foreign.to_string()], "{said:?}");
        assert_eq!(machine.marks(), 0);
    });
}

#[test]
fn a_device_that_does_not_go_stays_marked() {
    let machine = Machine::new();
    let (stays, goes) = (device(1), device(2));
    for id in [stays, goes] {
        drop(marks::mark(&machine.root(), id).unwrap());
        machine.add(id);
    }
    // Not even root can write to it.
    let remove = machine.bus().join(stays.to_string()).join("remove");
    fs::remove_file(&remove).unwrap();
    fs::create_dir(&remove).unwrap();
    machine.while_it_runs(|| {
        let status = machine.prober(&["--sweep"]).status().unwrap();
        assert_eq!(status.code(), Some(1));
        assert_eq!(machine.devices(), [stays.to_string()], "the other one went");
        assert_eq!(machine.marks(), 1, "for the next run");
    });
}

#[test]
fn udev_has_its_properties_whatever_becomes_of_the_tree() {
    let machine = Machine::new();
    let root = machine.root();
    let name = "0000:00:02.0";
    let home = root.join("sys/devices/pci").join(name);
    for directory in [&home, &root.join("sys/bus/pci/devices")] {
        fs::create_dir_all(directory).unwrap();
    }
    fs::create_dir_all(root.join("sys/bus/pci/drivers/vfio-pci")).unwrap();
    symlink("../../../bus/pci/drivers/vfio-pci", home.join("driver")).unwrap();
    for (name, text) in [
        ("vendor", "0x15b3"),
        ("device", "0x1017"),
        ("class", "0x020000"),
    ] {
        fs::write(home.join(name), text).unwrap();
    }
    let link = root.join("sys/bus/pci/devices").join(name);
    symlink(format!("../../../devices/pci/{name}"), link).unwrap();
    let tree = root.join("run/gfxplane/devices").join(name);
    let udev = || {
        let mut prober = machine.prober(&["--udev", name]);
        let said = prober.env("ACTION", "bind").output().unwrap();
        let (out, err) = (said.stdout, said.stderr);
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (said.status.code(), text(out), text(err))
    };
    let (code, properties, complaint) = udev();
    assert_eq!((code, complaint.as_str()), (Some(0), ""), "{properties}");
    assert!(properties.contains("GFXPLANE_DISPLAY=none\n"));
    assert!(tree.is_dir());
    fs::remove_dir_all(root.join("run/gfxplane")).unwrap();
    fs::write(root.join("run/gfxplane"), "").unwrap();
    let (code, same, complaint) = udev();
    assert_eq!((code, same), (Some(0), properties));
    assert!(complaint.contains(&format!("{name} is not in /run/gfxplane/devices")));
}
