//! Creates a temporary mediated device to probe it, for a type of which no device exists yet.
//!
//! The device is always removed, even if its maker is killed. Before creating it, the maker leaves
//! a mark ([`marks`]), holds the mark's lock, and starts a keeper. The keeper is a process of its
//! own (`gfxplane-probe --keep UUID`). It waits until the maker ends, by an exit, a panic or any
//! signal, and then removes the device and the mark. If the keeper is killed as well, nobody holds
//! the mark's lock any more, and [`sweep`] removes the device in a later run.
//!
//! Only a keeper or a sweep, which are processes of their own, writes to a device's `remove`. The
//! kernel may make that write wait until the driver releases the device, and no signal ends the
//! wait.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};
use uuid::Uuid;

use crate::device::id::DeviceId;
use crate::host::run::{self, Lock};
use crate::host::sysfs::MdevType;
use crate::host::{Root, Warning, marks, udev};

/// The time between two checks whether a child has ended.
const POLL: Duration = Duration::from_millis(5);

/// The longest time that a keeper waits for the mark's lock after its stdin has ended. The maker's
/// end closes the pipe and releases the lock, but not always in this order.
const LOCK_GOES: Duration = Duration::from_secs(10);

/// A device that is removed when this value is ended or dropped, or when its maker is killed.
#[derive(Debug)]
pub(crate) struct Instance {
    /// The device's id, which is random.
    pub id: DeviceId,
    device: PathBuf,
    lock: Lock,
    /// The keeper's process, which waits for the end of its stdin.
    keeper: Child,
}

/// The reason why no device was created, or why it was removed again at once.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotMade {
    /// The type has no instance left.
    #[error(
        "available_instances is 0: a device of this type can be created only after another is removed"
    )]
    NoneLeft,
    /// The device would be the type's last one, which somebody may be about to create.
    #[error(
        "available_instances is 1: this would use up the last one, which somebody may need; \
         --force creates it anyway"
    )]
    Last,
    /// While the device exists, no device of these types can be created on the parent, although one
    /// could be before.
    #[error(
        "while it exists, no device of {} can be created, and one could before. It was removed again; \
         --force asks it anyway", .0.join(", ")
    )]
    TakesTheLastOf(Vec<String>),
    /// The kernel does not tell how many devices of the type can still be created.
    #[error(
        "available_instances is missing or no number, so it may be the last one; --force creates it \
         anyway"
    )]
    NotKnown,
    /// No mark could be made in /run/gfxplane, or no keeper could be started.
    #[error("no device was created, because its removal can't be prepared: {0}")]
    NoKeeper(io::Error),
    /// The kernel's error for the write to `create`: EACCES without rights; ENOSPC or another error
    /// of the driver if no more devices can be created.
    #[error("the kernel refuses: {0}")]
    Kernel(io::Error),
}

impl NotMade {
    /// Returns whether `force` would have allowed the device.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(
            self,
            NotMade::Last | NotMade::TakesTheLastOf(_) | NotMade::NotKnown
        )
    }
}

/// Checks whether one more device of a type may be created. `force` allows it also if it is the
/// last one (`available` is 1) or may be (`None`: the kernel gives no number).
fn may_make(available: Option<u32>, force: bool) -> Result<(), NotMade> {
    match available {
        Some(0) => Err(NotMade::NoneLeft),
        Some(1) if !force => Err(NotMade::Last),
        None if !force => Err(NotMade::NotKnown),
        _ => Ok(()),
    }
}

/// Returns the types of a parent that had an instance left before and have none now. Types may
/// share resources (mbochs its memory, GVT-g the GPU's), and NVIDIA's driver allows only one type
/// at a time on a GPU.
pub(crate) fn taken(before: &[MdevType], now: impl Fn(&str) -> Option<u32>) -> Vec<String> {
    let could = before.iter().filter(|t| t.available_instances > Some(0));
    let cannot = could.filter(|of_type| now(&of_type.id) == Some(0));
    cannot.map(|of_type| of_type.id.clone()).collect()
}

impl Instance {
    /// Creates a device of a type, and waits until udev has processed it, at most until `limit`. By
    /// then, udev's rule may have probed the device.
    ///
    /// `types` are all types of the parent in their present state. `force` allows the last device
    /// of a type, and one that keeps others from being created. `program` is gfxplane-probe.
    pub(crate) fn make(
        root: &Root,
        program: &Path,
        (parent, type_id): (&str, &str),
        types: &[MdevType],
        force: bool,
        limit: Instant,
    ) -> Result<Self, NotMade> {
        let wanted = types.iter().find(|of_type| of_type.id == type_id);
        may_make(wanted.and_then(|t| t.available_instances), force)?;
        let uuid = Uuid::new_v4();
        let id = DeviceId::Mdev(uuid);
        let lock = marks::mark(root, id).map_err(NotMade::NoKeeper)?;
        let keep = ["--keep", &uuid.to_string()];
        let keeper = match start(program, &keep, Stdio::piped()) {
            Ok(keeper) => keeper,
            Err(error) => {
                let _ = marks::unmark(root, id);
                return Err(NotMade::NoKeeper(error));
            }
        };
        let instance = Instance {
            id,
            device: root.device(id),
            lock,
            keeper,
        };
        let supported = root
            .join("sys/class/mdev_bus")
            .join(parent)
            .join("mdev_supported_types");
        if let Err(error) = write(&supported.join(type_id).join("create"), &uuid.to_string()) {
            let _ = instance.end(limit);
            return Err(NotMade::Kernel(error));
        }
        let now = |id: &str| {
            let path = supported.join(id).join("available_instances");
            fs::read_to_string(path).ok()?.trim().parse().ok()
        };
        let taken = taken(types, now);
        if !taken.is_empty() && !force {
            let _ = instance.end(limit);
            return Err(NotMade::TakesTheLastOf(taken));
        }
        let _ = udev::wait_for_udev(root, id, Duration::ZERO, limit);
        Ok(instance)
    }

    /// Makes the keeper remove the device, and waits for that until `limit`. Returns `false` if the
    /// device still exists then, because its driver has not released it, or because the keeper was
    /// killed. It disappears as soon as the driver releases it, or with the next [`sweep`].
    #[must_use = "it may still be there"]
    pub(crate) fn end(self, limit: Instant) -> bool {
        let Instance {
            device,
            lock,
            mut keeper,
            ..
        } = self;
        drop(lock);
        drop(keeper.stdin.take());
        ends(keeper, limit).is_some() && !device.exists()
    }
}

/// Writes to an existing file, as sysfs requires. Does not create the file.
fn write(path: &Path, text: &str) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).open(path)?;
    file.write_all(text.as_bytes())
}

/// Starts a keeper or a sweep.
fn start(program: &Path, arguments: &[&str], stdin: Stdio) -> io::Result<Child> {
    Command::new(program)
        .args(arguments)
        .stdin(stdin)
        // Somebody who waits for the end of our output must not wait for this process.
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // A signal from the terminal that ends us must not end this process.
        .process_group(0)
        .spawn()
}

/// Waits for a child until `limit`. Returns how the child ended; `None` if it is still running.
/// Then a thread waits for it, so that the daemon accumulates no dead children.
fn ends(mut child: Child, limit: Instant) -> Option<ExitStatus> {
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return Some(status),
            Ok(None) if Instant::now() < limit => thread::sleep(POLL),
            Ok(None) | Err(_) => {
                thread::spawn(move || child.wait());
                return None;
            }
        }
    }
}

/// Does a keeper's work: waits for the end of its stdin, and then removes the device that its maker
/// created or was about to create. Returns `false` if the device may still exist.
#[must_use]
pub fn keep(root: &Root, id: DeviceId) -> bool {
    // Ending a service or closing a terminal sends these signals to each of its processes.
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP]);
    let _ = signals.thread_block();
    let _ = io::stdin().read_to_end(&mut Vec::new());
    match marks::take_over(root, id, Instant::now() + LOCK_GOES) {
        Ok(Some(_lock)) => remove(root, id),
        // The device and its mark are removed already.
        Ok(None) => true,
        // A sweep is removing it.
        Err(_) => false,
    }
}

/// Removes the temporary devices whose makers and keepers were both killed. Leaves a device alone
/// if somebody holds its mark. Returns `false` if a device that this tried to remove still exists.
#[must_use]
pub fn sweep(root: &Root) -> bool {
    let gone = |id| match marks::take_over(root, id, Instant::now()) {
        Ok(Some(_lock)) => remove(root, id),
        Ok(None) | Err(_) => true,
    };
    // This tries to remove every device, even if an earlier one could not be removed.
    let all: Vec<bool> = marks::marked(root).into_iter().map(gone).collect();
    all.into_iter().all(|is_gone| is_gone)
}

/// Starts a [`sweep`] if any device is marked, and waits for it at most for `patience`. Fails with
/// a warning if the sweep can't start, leaves a device, or does not end in time. Does nothing on a
/// recorded host.
pub(crate) fn clean_up(root: &Root, program: &Path, patience: Duration) -> Result<(), Warning> {
    if root.is_recorded() || marks::marked(root).is_empty() {
        return Ok(());
    }
    let warning = |problem: String| Warning::new(marks::directory(root), problem);
    let sweep = start(program, &["--sweep"], Stdio::null());
    let sweep = sweep.map_err(|error| warning(format!("not looked at: {error}")))?;
    let ended = ends(sweep, Instant::now() + patience);
    if ended.is_some_and(|status| status.success()) {
        return Ok(());
    }
    let problem = "temporary devices for probing still exist, because their driver has not released \
                   them; a later run removes them";
    Err(warning(problem.into()))
}

/// Removes a temporary device, its records and its mark, whose lock the caller holds. Tries this
/// for two seconds, and longer if the driver makes a write wait. Returns `false` if the device or
/// the mark still exists.
fn remove(root: &Root, id: DeviceId) -> bool {
    let device = root.device(id);
    for _ in 0..20 {
        // EBUSY or EAGAIN: somebody (a prober that hangs, a quick manager) still has it.
        let _ = write(&device.join("remove"), "1");
        if !device.exists() {
            break;
        }
        thread::sleep(Duration::from_millis(100));
    }
    if device.exists() {
        return false;
    }
    // If udev runs, its rule does this, too.
    let _ = run::forget(root, id);
    marks::unmark(root, id).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe::tests::script;
    use std::os::unix::fs::PermissionsExt;

    fn of_type(id: &str, available_instances: Option<u32>) -> MdevType {
        MdevType {
            id: id.into(),
            name: None,
            description: None,
            device_api: None,
            available_instances,
            kernel_facts: None,
        }
    }

    #[test]
    fn the_last_one_is_left_to_others() {
        for (available, force, expected) in [
            (Some(2), false, "made"),
            (Some(1), false, "Last"),
            (Some(1), true, "made"),
            (Some(0), false, "NoneLeft"),
            (Some(0), true, "NoneLeft"),
            (None, false, "NotKnown"),
            (None, true, "made"),
        ] {
            let answer = match may_make(available, force) {
                Ok(()) => "made".to_owned(),
                Err(why) => {
                    assert_eq!(why.is_refusal(), why.to_string().contains("--force"));
                    format!("{why:?}")
                }
            };
            assert_eq!(answer, expected, "{available:?}, force {force}");
        }
    }

    #[test]
    fn types_that_share_what_they_are_made_of() {
        // mbochs has 64 MiB: a small device needs 4 of them, a medium one 16, a large one all.
        let before = [
            of_type("small", Some(16)),
            of_type("medium", Some(4)),
            of_type("large", Some(1)),
            of_type("sold-out", Some(0)),
            of_type("odd", None),
        ];
        let now = |id: &str| match id {
            "small" => Some(15),
            "medium" => Some(3),
            "odd" => None,
            _ => Some(0),
        };
        assert_eq!(taken(&before, now), ["large"]);
        assert!(taken(&before, |_| None).is_empty(), "nothing can be read");
    }

    const TYPES: &str = "sys/class/mdev_bus/p/mdev_supported_types";

    /// A host with one type, and a kernel that does nothing. tests/instances.rs has one that does.
    fn host() -> (tempfile::TempDir, Root) {
        let (directory, root) = crate::host::empty();
        fs::create_dir_all(root.join("sys/bus/mdev/devices")).unwrap();
        for (name, text) in [("create", ""), ("available_instances", "3\n")] {
            root.put(&format!("{TYPES}/p-t/{name}"), text);
        }
        (directory, root)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(60)
    }

    #[test]
    fn a_directory_of_somebody_else_is_not_believed() {
        let (_keep, recorded) = host();
        let root = Root::strict(recorded.path());
        let id = DeviceId::Mdev(Uuid::new_v4());
        drop(marks::mark(&recorded, id).unwrap());
        assert_eq!(marks::marked(&recorded), [id]);
        let directory = root.join("run/gfxplane/instances");
        fs::write(directory.join("not a UUID"), "").unwrap();
        fs::write(directory.join("0000:00:02.0"), "").unwrap();
        assert_eq!(marks::marked(&recorded), [id], "an mdev's UUID only");
        fs::set_permissions(&directory, fs::Permissions::from_mode(0o777)).unwrap();
        assert!(marks::marked(&root).is_empty());
    }

    #[test]
    fn the_keeper_is_there_before_the_device_and_ends_with_its_maker() {
        let (_keep, root) = host();
        let create = root.join(TYPES).join("p-t/create");
        let told = root.join("told");
        let program = script(
            root.path(),
            &format!(
                "cat >/dev/null; echo \"$1 $2 $(cat {})\" >{}",
                create.display(),
                told.display()
            ),
        );
        let types = [of_type("p-t", Some(3))];
        let make = |type_id| Instance::make(&root, &program, ("p", type_id), &types, false, soon());
        let instance = make("p-t").unwrap();
        let id = instance.id;
        assert_eq!(fs::read_to_string(&create).unwrap(), id.to_string());
        assert_eq!(marks::marked(&root), [id]);
        assert!(instance.end(soon()));
        let told = fs::read_to_string(&told).unwrap();
        assert_eq!(told, format!("--keep {id} {id}\n"));

        // If the device can't be created, a keeper was started, but there is no device.
        fs::remove_file(&create).unwrap();
        assert!(matches!(make("p-t"), Err(NotMade::Kernel(_))));
        assert!(matches!(make("p-x"), Err(NotMade::NotKnown)));
        let marked = marks::marked(&root).len();
        let missing = Path::new("/nonexistent");
        let made = Instance::make(&root, missing, ("p", "p-t"), &types, false, soon());
        assert!(matches!(made, Err(NotMade::NoKeeper(_))));
        assert_eq!(marks::marked(&root).len(), marked);
    }

    #[test]
    fn one_that_takes_the_last_of_another_type_is_removed_at_once() {
        let (_keep, root) = host();
        root.put(&format!("{TYPES}/p-large/available_instances"), "0\n");
        let program = script(root.path(), "cat >/dev/null");
        let types = [of_type("p-t", Some(3)), of_type("p-large", Some(1))];
        let make = |force| Instance::make(&root, &program, ("p", "p-t"), &types, force, soon());
        match make(false) {
            Err(NotMade::TakesTheLastOf(taken)) => assert_eq!(taken, ["p-large"]),
            other => panic!("{other:?}"),
        }
        assert!(make(true).unwrap().end(soon()));
    }
}
