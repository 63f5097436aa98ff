//! The work of the child that opens a device.
//!
//! The child writes each step to stderr before it does it, one word a line, and its answer to
//! stdout, one line of JSON.

use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::process::parent_id;

use nix::sys::prctl;
use nix::sys::signal::Signal;

use crate::device::evidence::{OpenPath, Step};
use crate::device::facts::{Facts, Reason};
use crate::device::id::DeviceId;
use crate::host::Root;
use crate::host::requests::start_under_way;
use crate::host::run::Lock;
use crate::probe::kvm::Vm;
use crate::probe::{Answer, Failure, Manner, Tell, cdev, errno_of, failed, group, queries, rights};

/// The ways to open a device, in order. The child uses the first that the kernel offers for it.
///
/// Groups come first, because distributions' kernels have groups, and QEMU and libvirt use them by
/// default. Only a group reports before the open that a device is not viable. A device that is open
/// in one way is busy for the other, and both lead to the same driver, so nothing else depends on
/// the choice. On a kernel without groups, the device is opened by its own node.
const PATHS: [OpenPath; 2] = [OpenPath::Group, OpenPath::Cdev];

/// Probes the device, and writes the answer to stdout. The child is killed when its parent `asker`
/// (a process id) ends, and does nothing if `asker` has ended already, because the device must not
/// stay open when nobody reads the answer.
///
/// A device whose domain is being started counts as in use, because QEMU must not find it open. The
/// hook marks the device and then waits for its lock. The child takes the lock and then looks for
/// the mark. So either the hook waits for the child, or the child sees the mark.
pub fn run(root: &Root, id: DeviceId, asker: u32, manner: Manner) {
    // If this fails, the child may outlive its asker.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    if parent_id() != asker {
        return;
    }
    rights::limit();
    // An error is ignored here and below: nobody is left to whom it could be reported.
    let mut tell = |step: Step| {
        let _ = io::stderr().write_all(format!("{step}\n").as_bytes());
    };
    let answer = ask(root, id, manner, &mut tell);
    let answer = serde_json::to_string(&answer).expect("an answer has only string keys");
    let _ = writeln!(io::stdout(), "{answer}");
}

fn ask(root: &Root, id: DeviceId, manner: Manner, tell: Tell<'_>) -> Answer {
    tell(Step::Lock);
    let _lock = match Lock::of_device(root, id) {
        Ok(lock) => lock,
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            return Answer::none(Reason::UnsafeState, Step::Lock);
        }
        Err(error) => return Answer::failed(&failed(Step::Lock)(errno_of(&error))),
    };
    if start_under_way(root, id) {
        return Answer::none(Reason::InUse, Step::Lock);
    }
    by_opening(root, id, manner, tell)
    // The device is closed by now, and `_lock` is released last.
}

fn by_opening(root: &Root, id: DeviceId, manner: Manner, tell: Tell<'_>) -> Answer {
    let fits = |path: &OpenPath| match path {
        OpenPath::Group => group::fits(root),
        OpenPath::Cdev => cdev::fits(root, id),
    };
    // If the kernel offers no way for the device, the first way fails with the reason.
    let offered = || PATHS.into_iter().find(fits).unwrap_or(PATHS[0]);
    let path = manner.path.unwrap_or_else(offered);
    match open_and_ask(path, root, id, manner.kvm, tell) {
        Ok(facts) => Answer::of(facts, Some(path)),
        Err(failure) => Answer {
            path: Some(path),
            ..Answer::failed(&failure)
        },
    }
}

/// Opens the device and asks it. If `kvm` is true, first associates a VM with the device; otherwise
/// only if the driver refuses the open without a VM. The fact `kvm` tells whether a VM was
/// associated.
fn open_and_ask(
    path: OpenPath,
    root: &Root,
    id: DeviceId,
    kvm: bool,
    tell: Tell<'_>,
) -> Result<Facts, Failure> {
    let prepared = match path {
        OpenPath::Group => group::prepare(root, id, tell)?,
        OpenPath::Cdev => cdev::prepare(root, id, tell)?,
    };
    let open = |tell: Tell<'_>| match path {
        OpenPath::Group => group::open_device(&prepared, id, tell),
        OpenPath::Cdev => cdev::open_device(root, &prepared, id, tell),
    };
    let mut vm = None;
    if kvm {
        vm = Some(Vm::of(root, prepared.file.as_fd(), tell)?);
    }
    // The group or the node stays open in between. The second open is a complete one (vfio_main.c,
    // `vfio_df_open`, counts only successful ones). A group can't be opened by anybody else in
    // between. But a failed bind of a node releases the group (device_cdev.c,
    // `vfio_device_unblock_group`): if somebody then opens it, they have the device, and the second
    // bind reports it as in use.
    let device = match open(tell) {
        Err(failure) if failure.reason == Reason::NeedsVm && vm.is_none() => {
            vm = Some(Vm::of(root, prepared.file.as_fd(), tell)?);
            open(tell)?
        }
        opened => opened?,
    };
    let facts = queries::ask(&device, tell)?;
    Ok(Facts {
        kvm: vm.is_some(),
        ..facts
    })
    // The device closes first, then the VM, which also has the vfio file open, then the others.
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::requests::{forget_start, mark_start};

    #[test]
    fn a_device_that_is_being_started_is_left_alone() {
        let (_keep, root) = crate::host::empty();
        let id = "c1a20000-0000-4000-8000-000000000002".parse().unwrap();
        let steps = || {
            let mut steps = Vec::new();
            let answer = ask(&root, id, Manner::default(), &mut |step| steps.push(step));
            (answer.step, answer.facts.display.reason().cloned(), steps)
        };
        mark_start(&root, id).unwrap();
        let (step, reason, told) = steps();
        assert_eq!((step, reason), (Some(Step::Lock), Some(Reason::InUse)));
        assert_eq!(
            told,
            [Step::Lock],
            "nothing was looked for, let alone opened"
        );
        forget_start(&root, id).unwrap();
        assert_eq!(steps().2[1], Step::Find);
    }
}
