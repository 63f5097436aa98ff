//! Reading what `guest` decides by: libvirt's status files and pidfiles, and what the kernel tells of
//! a process and its descriptors. Nothing is opened but files of text.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::stat::{major, minor};

use crate::host::Root;
use crate::host::run::{open_trusted, read_trusted_bytes};
use crate::host::sysfs::own_node;
use crate::names::DeviceId;
use crate::probe::group::group_number;
use crate::probe::running::guest::{ANONYMOUS, Descriptor, Node, Of, Process, Status, Wanted};
use crate::probe::running::guest::{node, syspath};
use crate::xml::escape;

/// Where libvirt's system daemon keeps what it must know after a restart of its own.
const STATUS: &str = "run/libvirt/qemu";

/// The largest status file that is read, in bytes; one has some dozens of thousands.
const MAX_STATUS: usize = 8 << 20;

/// The status files of all domains that run. Like records they must be root's and nobody else's to
/// write; one that is not is passed over, as one is that libvirt has just removed.
pub(super) fn statuses(root: &Root) -> Vec<Status> {
    let Ok(entries) = fs::read_dir(root.join(STATUS)) else {
        return Vec::new();
    };
    let files = entries.flatten().map(|entry| entry.path());
    files
        .filter(|path| path.extension().is_some_and(|ending| ending == "xml"))
        .filter_map(|path| status(root, &path))
        .collect()
}

/// One status file; `None` also if it is of another domain than its name says.
fn status(root: &Root, path: &Path) -> Option<Status> {
    let bytes = read_trusted_bytes(root, path, None, MAX_STATUS).ok()??;
    let status = Status::parse(std::str::from_utf8(&bytes).ok()?)?;
    (path.file_stem()?.to_str() == Some(&status.name)).then_some(status)
}

/// The device's names in the kernel; `None` if it is gone.
pub(super) fn wanted(root: &Root, id: DeviceId) -> Option<Wanted> {
    let device = root.device(id);
    let directory = device.canonicalize().ok()?;
    let base = root.path().canonicalize().ok()?;
    let below = directory.strip_prefix(base).ok()?.to_str()?;
    Some(Wanted {
        syspath: format!("/{below}"),
        node: own_node(&device, &mut Vec::new())
            .and_then(|name| number_in(&device.join("vfio-dev").join(name))),
        group: group_number(&device)
            .ok()
            .and_then(|group| number_in(&root.join("sys/class/vfio").join(group))),
    })
}

/// The number of the node that belongs to a directory in sysfs.
fn number_in(directory: &Path) -> Option<Node> {
    node(&fs::read_to_string(directory.join("dev")).ok()?)
}

/// What there is to see of the process that a status file names. What can't be seen is missing in
/// it, and then the process is not asked.
pub(super) fn process(root: &Root, status: &Status) -> Process {
    // libvirt escapes the name here, and nowhere else (src/util/virpidfile.c, virPidFileBuildPath).
    let name = format!("{}.pid", escape(&status.name));
    let (pidfile, holder) = pidfile(root, &root.join(STATUS).join(name)).unwrap_or_default();
    let proc = root.join("proc").join(status.pid.to_string());
    // The groups come last: QEMU opens a device's before the device, and closes it after.
    let descriptors = numbers(&proc).into_iter();
    let descriptors = descriptors.filter_map(|number| descriptor(&proc, number));
    let descriptors = descriptors.collect();
    let groups = numbers(&proc).into_iter();
    Process {
        pidfile,
        holder,
        cgroup: fs::read_to_string(proc.join("cgroup")).unwrap_or_default(),
        descriptors,
        groups: groups.filter_map(|number| group(&proc, number)).collect(),
    }
}

/// The number in a pidfile, and who has its first byte locked by fcntl(2).
fn pidfile(root: &Root, path: &Path) -> Option<(Option<i32>, Option<i32>)> {
    let file = open_trusted(root, path, None).ok()??;
    let mut text = String::new();
    (&file).take(64).read_to_string(&mut text).ok()?;
    let pid = text.trim().parse().ok();
    let mut lock = libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 1,
        l_pid: 0,
    };
    fcntl(&file, FcntlArg::F_GETLK(&mut lock)).ok()?;
    let is_locked = lock.l_type != libc::F_UNLCK as libc::c_short;
    Some((pid, is_locked.then_some(lock.l_pid)))
}

/// The numbers of a process's descriptors, sorted.
fn numbers(proc: &Path) -> Vec<i32> {
    let Ok(entries) = fs::read_dir(proc.join("fd")) else {
        return Vec::new();
    };
    let mut numbers: Vec<i32> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .collect();
    numbers.sort_unstable();
    numbers
}

/// A descriptor of a process, if it is of a vfio device or may be.
///
/// The link is the kernel's own word: nothing that a process can open itself has a name that begins
/// with `anon_inode:`. A node's path is that of the process's own /dev, so its number counts.
fn descriptor(proc: &Path, number: i32) -> Option<Descriptor> {
    let path = proc.join("fd").join(number.to_string());
    let link = fs::read_link(&path).ok()?;
    let of = if link.as_os_str() == ANONYMOUS {
        // One that says nothing counts, too.
        let fdinfo = fs::read_to_string(proc.join("fdinfo").join(number.to_string()));
        Of::Group(fdinfo.ok().as_deref().and_then(syspath))
    } else {
        let name = link.file_name()?.to_str()?.strip_prefix("vfio")?;
        // /dev/vfio/vfio is the container.
        name.parse::<u32>().ok()?;
        Of::Node(device_number(&path)?)
    };
    Some(Descriptor { number, of })
}

/// The number of a descriptor that is of a group's node (`/dev/vfio/7`, `/dev/vfio/noiommu-7`), if it
/// is of one or may be. One whose number can't be seen is no device's.
fn group(proc: &Path, number: i32) -> Option<Option<Node>> {
    let path = proc.join("fd").join(number.to_string());
    let link = fs::read_link(&path).ok()?;
    let is_group = link.parent()?.file_name()? == "vfio" && link.file_name()? != "vfio";
    is_group.then(|| device_number(&path))
}

/// The number of a character device.
fn device_number(path: &Path) -> Option<Node> {
    let metadata = fs::metadata(path).ok()?;
    let number = metadata.rdev();
    let is_device = metadata.file_type().is_char_device();
    is_device.then(|| (major(number), minor(number)))
}

/// What a descriptor of this process is of.
pub(super) fn own_descriptor(root: &Root, file: &File) -> Option<Of> {
    descriptor(&root.join("proc/self"), file.as_raw_fd()).map(|descriptor| descriptor.of)
}

#[cfg(test)]
mod tests {
    #![allow(unsafe_code)]

    use super::*;
    use crate::probe::running::guest::{Chosen, Refusal, choose, domain_with};
    use std::os::unix::fs::symlink;
    use std::os::unix::process::CommandExt;
    use std::process::{Child, Command, Stdio};

    const UUID: &str = "c1a20000-0000-4000-8000-000000000002";
    const DEVICE: &str = "sys/devices/virtual/mdpy/mdpy";

    /// A host with the device, and a domain of that name, of which a process of ours is the QEMU.
    struct Host {
        directory: tempfile::TempDir,
        root: Root,
        qemu: Child,
        name: String,
    }

    impl Host {
        fn new(name: &str) -> Self {
            let directory = tempfile::tempdir().unwrap();
            let root = Root::recorded(directory.path());
            for made in [
                "sys/bus/mdev/devices",
                "run/libvirt/qemu",
                &format!("{DEVICE}/{UUID}"),
            ] {
                fs::create_dir_all(root.join(made)).unwrap();
            }
            symlink(
                format!("../../../../{DEVICE}/{UUID}"),
                root.device(UUID.parse().unwrap()),
            )
            .unwrap();
            let group = root.join("sys/class/vfio/7");
            fs::create_dir_all(&group).unwrap();
            fs::write(group.join("dev"), "1:3\n").unwrap();
            symlink(
                "../../../../kernel/iommu_groups/7",
                root.device(UUID.parse().unwrap()).join("iommu_group"),
            )
            .unwrap();
            let pidfile = root.join(STATUS).join(format!("{}.pid", escape(name)));
            let file = File::create(&pidfile).unwrap();
            let mut sleep = Command::new("sleep");
            sleep.arg("1000").stdin(Stdio::null());
            // SAFETY: between fork and exec only fcntl(2) is called.
            unsafe { sleep.pre_exec(move || lock_as_libvirt_does(&file)) };
            let qemu = sleep.spawn().unwrap();
            fs::write(&pidfile, qemu.id().to_string()).unwrap();
            let host = Host {
                directory,
                root,
                qemu,
                name: name.into(),
            };
            let proc = host.proc();
            fs::create_dir_all(proc.join("fd")).unwrap();
            fs::create_dir(proc.join("fdinfo")).unwrap();
            fs::write(proc.join("cgroup"), "0::/\n").unwrap();
            host.write_status(name, host.qemu.id());
            host
        }

        fn write_status(&self, file: &str, pid: u32) {
            let text = format!(
                "<domstatus pid='{pid}'><domain type='qemu' id='1'><name>{}</name><devices>\
                 <hostdev mode='subsystem' type='mdev' model='vfio-pci'><source>\
                 <address uuid='{UUID}'/></source></hostdev></devices></domain></domstatus>",
                escape(&self.name)
            );
            let path = self.root.join(STATUS).join(format!("{file}.xml"));
            fs::write(path, text).unwrap();
        }

        fn proc(&self) -> std::path::PathBuf {
            self.root.join("proc").join(self.qemu.id().to_string())
        }

        fn open(&self, number: i32, link: impl AsRef<Path>, fdinfo: &str) {
            symlink(link, self.proc().join("fd").join(number.to_string())).unwrap();
            let fdinfo = format!("pos:\t0\n{fdinfo}\n");
            fs::write(self.proc().join("fdinfo").join(number.to_string()), fdinfo).unwrap();
        }

        /// A character device as a group's node: the device's own is 7.
        fn open_group(&self, number: i32, name: &str) {
            let nodes = self.directory.path().join("dev/vfio");
            fs::create_dir_all(&nodes).unwrap();
            let device = if name == "7" {
                "/dev/null"
            } else {
                "/dev/zero"
            };
            symlink(device, nodes.join(name)).unwrap();
            self.open(number, nodes.join(name), "");
        }

        fn choose(&self) -> Result<Chosen, Refusal> {
            let id = UUID.parse().unwrap();
            let status = domain_with(statuses(&self.root), id)?;
            let wanted = wanted(&self.root, id).unwrap();
            choose(&status, &process(&self.root, &status), &wanted)
        }
    }

    impl Drop for Host {
        fn drop(&mut self) {
            self.qemu.kill().unwrap();
            self.qemu.wait().unwrap();
        }
    }

    /// The process that will be QEMU has the lock, and keeps it over its exec.
    fn lock_as_libvirt_does(file: &File) -> std::io::Result<()> {
        let lock = libc::flock {
            l_type: libc::F_WRLCK as libc::c_short,
            l_whence: libc::SEEK_SET as libc::c_short,
            l_start: 0,
            l_len: 1,
            l_pid: 0,
        };
        fcntl(file, FcntlArg::F_SETLK(&lock))?;
        fcntl(file, FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty()))?;
        Ok(())
    }

    #[test]
    fn a_domain_that_runs() {
        let host = Host::new("it's <one> & only");
        host.open(3, "socket:[1]", "");
        host.open(4, "/dev/vfio/vfio", "");
        host.open_group(5, "7");
        assert!(matches!(host.choose(), Err(Refusal::NotOpen(_))));
        host.open(12, ANONYMOUS, "");
        let pid = host.qemu.id().cast_signed();
        let chosen = || -> Result<_, Refusal> {
            let chosen = host.choose()?;
            Ok((chosen.pid, chosen.descriptor.number, chosen.is_told()))
        };
        assert_eq!(chosen(), Ok((pid, 12, false)));
        let told = format!("vfio-device-syspath: /{DEVICE}/{UUID}");
        host.open(11, ANONYMOUS, &told);
        assert_eq!(chosen(), Ok((pid, 11, true)));
    }

    /// A device that libvirt does not tell of (yet), while the one that it tells of has just gone.
    #[test]
    fn a_descriptor_of_another_group() {
        let host = Host::new("g1");
        host.open(12, ANONYMOUS, "");
        let is_refused = || assert!(matches!(host.choose(), Err(Refusal::NotItsGroup(_))));
        is_refused();
        host.open_group(5, "8");
        is_refused();
        host.open_group(6, "7");
        is_refused();
        fs::remove_file(host.proc().join("fd/5")).unwrap();
        assert_eq!(host.choose().unwrap().descriptor.number, 12);
        host.open_group(5, "noiommu-1");
        is_refused();
        // A node that has just been removed is one, too; what can't be seen of it is no excuse.
        fs::remove_file(host.proc().join("fd/5")).unwrap();
        host.open(5, "/dev/vfio/8 (deleted)", "");
        is_refused();
    }

    /// It counts, so that nobody takes the other one for the only one.
    #[test]
    fn a_descriptor_that_says_nothing() {
        let host = Host::new("g1");
        host.open_group(5, "7");
        host.open(12, ANONYMOUS, "");
        host.choose().unwrap();
        symlink(ANONYMOUS, host.proc().join("fd/13")).unwrap();
        assert!(matches!(
            host.choose(),
            Err(Refusal::Untold { descriptors: 2, .. })
        ));
    }

    #[test]
    fn a_device_that_is_open_by_its_own_node() {
        let host = Host::new("g1");
        let node = host
            .root
            .device(UUID.parse().unwrap())
            .join("vfio-dev/vfio4");
        fs::create_dir_all(&node).unwrap();
        // The test needs a character device, whichever.
        symlink("/dev/null", host.directory.path().join("vfio4")).unwrap();
        host.open(9, host.directory.path().join("vfio4"), "");
        fs::write(node.join("dev"), "1:5\n").unwrap();
        assert!(matches!(host.choose(), Err(Refusal::NotOpen(_))));
        fs::write(node.join("dev"), "1:3\n").unwrap();
        assert_eq!(host.choose().unwrap().descriptor.number, 9);
    }

    #[test]
    fn a_process_that_is_not_the_domains() {
        let host = Host::new("g1");
        host.open(12, ANONYMOUS, "");
        host.open_group(5, "7");
        host.choose().unwrap();
        let pidfile = host.root.join(STATUS).join("g1.pid");
        let not_its = |problem: &str| match host.choose() {
            Err(Refusal::NotItsProcess { problem: seen, .. }) => assert!(seen.contains(problem)),
            other => panic!("{problem}: {other:?}"),
        };
        // Somebody else has the domain's number by now: the status file says it, the pidfile does
        // not; then both say it, but whoever it is has not locked the pidfile.
        host.write_status("g1", 1_000_000);
        not_its("pidfile does not say");
        let other = Command::new("sleep").arg("1000").spawn();
        let mut other = other.unwrap();
        host.write_status("g1", other.id());
        fs::write(&pidfile, other.id().to_string()).unwrap();
        not_its("lock");
        other.kill().unwrap();
        other.wait().unwrap();
        // A new file in its place is locked by nobody.
        host.write_status("g1", host.qemu.id());
        fs::remove_file(&pidfile).unwrap();
        not_its("pidfile does not say");
        fs::write(&pidfile, host.qemu.id().to_string()).unwrap();
        not_its("lock");
    }

    #[test]
    fn status_files_that_are_not_believed() {
        let host = Host::new("g1");
        let path = host.root.join(STATUS).join("g1.xml");
        assert_eq!(statuses(&host.root).len(), 1);
        fs::copy(&path, path.with_file_name("g2.xml")).unwrap();
        assert_eq!(statuses(&host.root).len(), 1, "g2.xml is about g1");
        fs::rename(&path, path.with_file_name("g1")).unwrap();
        symlink("g1", &path).unwrap();
        assert!(statuses(&host.root).is_empty(), "a link");
        fs::remove_file(&path).unwrap();
        host.write_status("g1", 4711);
        // As on the machine itself: another user's file, or one that others may write.
        let strict = Root::strict(host.root.path());
        let mode = |mode| {
            let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
            fs::set_permissions(&path, permissions).unwrap();
            statuses(&strict).len()
        };
        assert_eq!(mode(0o666), 0);
        assert_eq!(mode(0o600), usize::from(nix::unistd::geteuid().is_root()));
    }
}
