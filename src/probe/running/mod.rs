//! Asking a device that a guest uses, through the guest's own descriptor of it.
//!
//! The kernel opens a device for one process only, but gives root a copy of a descriptor of another
//! (pidfd_getfd(2), Linux 5.6). While there is a copy the device stays open, also when its guest has
//! ended, and the next start would find it in use. So:
//!
//! * The device's lock is held from before the copy is taken until after it is closed: the qemu hook
//!   waits for it before a start.
//! * The copy is in a process of its own ([`held`]), which ends in [`held::HOLD`] at the latest.
//! * Only the process that is certain to be the domain's QEMU is asked, and only the descriptor that
//!   is certain to be the device's ([`guest`]).
//! * Nothing is asked that changes or takes anything: GET_INFO, regions, IRQs, the PROBE form of the
//!   plane query, and the header of the EDID region. That header is read because a display with an
//!   EDID region is another one than without (QEMU's `xres` and `yres` need it); vfio.h defines it as
//!   registers that may be read at any time, kvmgt and mbochs answer from memory, QEMU itself has
//!   read it by the same reads, and a read at an offset leaves the guest's file position alone.
//!
//! What can't be helped: a driver that sleeps in one of these calls and can't be killed keeps the
//! copy, and with it the lock, for as long as it sleeps. Only drivers that hang when they are asked
//! what they support do that, so `--all` asks only those that a rule calls safe, as always.

pub mod guest;
pub mod held;
mod look;

use nix::errno::Errno;

use crate::evidence::{OpenPath, Step};
use crate::facts::{Display, Facts, Reason};
use crate::host::Root;
use crate::names::DeviceId;
use crate::probe::device::Whose;
use crate::probe::running::guest::{Refusal, Status, choose, domain_with};
use crate::probe::{Answer, Failure, Tell, child, device, errno_name};

/// Asks a device that is in use. The caller has its lock.
///
/// `kvm`: whether its driver is known to want a KVM VM. An open device does not tell; if it does, its
/// guest has one.
#[must_use]
pub fn ask(root: &Root, id: DeviceId, kvm: bool, tell: Tell<'_>) -> Answer {
    try_ask(root, id, kvm, tell).unwrap_or_else(|refusal| in_use(&refusal))
}

fn try_ask(root: &Root, id: DeviceId, kvm: bool, tell: Tell<'_>) -> Result<Answer, Refusal> {
    tell(Step::Guest);
    let status = domain_with(look::statuses(root), id)?;
    let Some(wanted) = look::wanted(root, id) else {
        return Ok(Answer::none(Reason::Vanished, Step::Guest));
    };
    // What is looked at from here on belongs to this process, or to none: a number is given to
    // another process only after the pidfile's lock has gone with the first.
    let process = match held::open(status.pid) {
        Ok(process) => process,
        Err(errno) => return Ok(not_copied(&status, errno)),
    };
    tell(Step::Descriptor);
    let choose = |status: &Status| choose(status, &look::process(root, status), &wanted);
    let chosen = choose(&status)?;
    tell(Step::Copy);
    let answer = held::ask(&process, chosen.descriptor.number, |copy| {
        let copy = match copy {
            Ok(copy) => copy,
            Err(errno) => return not_copied(&status, errno),
        };
        // The number may have become another descriptor's.
        let is_it = look::own_descriptor(root, &copy) == Some(chosen.descriptor.of.clone());
        if !is_it {
            return in_use(&Refusal::Changed(status.name.clone()));
        }
        let path = Some(OpenPath::Guest);
        match device::ask(&copy, Whose::Guests, &mut child::say_step) {
            Ok(facts) => Answer {
                facts: Facts { kvm, ..facts },
                path,
                step: None,
                errno: None,
                note: None,
            },
            Err(failure) => not_answered(&failure),
        }
    });
    // What tells which descriptor it is if the kernel doesn't must not have changed.
    let again = || choose(&domain_with(look::statuses(root), id)?);
    if !chosen.is_told() && again().as_ref() != Ok(&chosen) {
        return Err(Refusal::Changed(status.name.clone()));
    }
    Ok(answer)
}

fn in_use(refusal: &Refusal) -> Answer {
    Answer {
        note: Some(refusal.to_string()),
        ..Answer::none(Reason::InUse, refusal.step())
    }
}

/// A question that failed. Of a device that is in use this says no more than that: its guest may have
/// ended, and it is to be asked again when it is free.
fn not_answered(failure: &Failure) -> Answer {
    Answer {
        facts: Facts::of(Display::Unknown(Reason::InUse)),
        path: Some(OpenPath::Guest),
        note: Some("a question through its guest's descriptor failed".into()),
        ..Answer::failed(failure)
    }
}

/// No copy of a descriptor of the domain's QEMU, or not even a hold of that process.
fn not_copied(status: &Status, errno: Errno) -> Answer {
    let (reason, note) = match errno {
        Errno::EPERM | Errno::EACCES => (
            Reason::Permission,
            "the kernel refuses a copy of its guest's descriptor: it takes CAP_SYS_PTRACE, and Yama \
             (kernel.yama.ptrace_scope), SELinux or AppArmor may forbid it"
                .to_owned(),
        ),
        Errno::ENOSYS => (
            Reason::InUse,
            "this kernel gives no copy of another process's descriptor (Linux 5.6 does)".to_owned(),
        ),
        Errno::ESRCH | Errno::EBADF => {
            let changed = Refusal::Changed(status.name.clone());
            (Reason::InUse, changed.to_string())
        }
        errno => (
            Reason::InUse,
            format!("its guest's descriptor can't be copied: {}", errno.desc()),
        ),
    };
    Answer {
        errno: Some(errno_name(errno)),
        note: Some(note),
        ..Answer::none(reason, Step::Copy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whatever the driver said: udev and `--all` ask such a device again.
    #[test]
    fn a_question_that_fails() {
        for reason in [Reason::QueryFailed, Reason::Vanished] {
            let answer = not_answered(&Failure {
                step: Step::QueryDmabuf,
                errno: Errno::EIO,
                reason,
            });
            assert_eq!(answer.facts, Facts::of(Display::Unknown(Reason::InUse)));
            let how = (answer.path, answer.step, answer.errno.as_deref());
            let expected = (OpenPath::Guest, Step::QueryDmabuf, "EIO");
            assert_eq!(how, (Some(expected.0), Some(expected.1), Some(expected.2)));
            assert!(answer.note.unwrap().contains("descriptor failed"));
        }
    }

    #[test]
    fn what_each_errno_means() {
        let status = Status {
            name: "g1".into(),
            id: 1,
            pid: 4711,
            devices: vec![],
            vfio: 1,
        };
        for (errno, reason, note) in [
            (Errno::EPERM, Reason::Permission, "Yama"),
            (Errno::EACCES, Reason::Permission, "SELinux"),
            (Errno::ENOSYS, Reason::InUse, "Linux 5.6"),
            (Errno::EBADF, Reason::InUse, "domain g1 changed"),
            (Errno::ESRCH, Reason::InUse, "domain g1 changed"),
            (Errno::EMFILE, Reason::InUse, "Too many open files"),
        ] {
            let answer = not_copied(&status, errno);
            assert_eq!(answer.facts.display.reason(), Some(&reason));
            assert_eq!(answer.step, Some(Step::Copy));
            assert_eq!(answer.errno, Some(errno_name(errno)));
            assert!(answer.note.unwrap().contains(note), "{errno}");
        }
    }
}
