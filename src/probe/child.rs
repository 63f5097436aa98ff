//! What the child of a probe does.
//!
//! To stderr it tells each step before it takes it, a word a line; to stdout its answer, one line of
//! JSON. Both go past the buffers of std: in a copy of its parent these are the parent's.

use std::io;
use std::os::fd::AsFd;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::{getppid, write};

use crate::evidence::Step;
use crate::facts::Reason;
use crate::host::Root;
use crate::host::requests::start_under_way;
use crate::host::run::Lock;
use crate::names::DeviceId;
use crate::probe::device::Whose;
use crate::probe::group::Group;
use crate::probe::{Answer, Failure, Manner, Opener, Tell, device, running};

/// The ways to open a device; the first that the kernel offers for it is taken.
const OPENERS: [&dyn Opener; 1] = [&Group];

/// Asks the device. Dies with `asker`, the process that started it: a device must not stay open for
/// nobody.
///
/// A device of a domain that is being started may be left alone ([`Manner`]). The hook marks the
/// start and then waits for the lock; this looks at the mark when it has the lock. So either the hook
/// waits for us, or we see the mark.
pub fn run(root: &Root, id: DeviceId, asker: i32, manner: Manner) {
    // Without it the child merely lives longer than its asker.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    if getppid().as_raw() != asker {
        return;
    }
    say_answer(&ask(root, id, manner, &mut say_step));
}

/// Tells a step to whoever started this process.
pub(super) fn say_step(step: Step) {
    say(io::stderr(), &step.to_string());
}

/// Tells the answer to whoever started this process.
pub(super) fn say_answer(answer: &Answer) {
    let answer = serde_json::to_string(answer).expect("an answer has only string keys");
    say(io::stdout(), &answer);
}

/// Says a line. If nobody listens any more there is nobody to tell.
fn say(out: impl AsFd, text: &str) {
    let line = format!("{text}\n");
    let mut rest = line.as_bytes();
    while !rest.is_empty() {
        match write(&out, rest) {
            Ok(count) => rest = &rest[count..],
            Err(Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

fn ask(root: &Root, id: DeviceId, manner: Manner, tell: Tell<'_>) -> Answer {
    tell(Step::Lock);
    let _lock = match Lock::of_device(root, id) {
        Ok(lock) => lock,
        Err(error) => return no_lock(&error),
    };
    // Who asks on while guests come and go must not meet one that is about to open the device.
    let leave_alone = manner.unless_starting || manner.running;
    let answer = if leave_alone && start_under_way(root, id) {
        Answer::none(Reason::InUse, Step::Lock)
    } else {
        open_and_ask(root, id, tell)
    };
    if manner.running && answer.facts.display.reason() == Some(&Reason::InUse) {
        return running::ask(root, id, tell);
    }
    answer
    // The device, or the copy of its descriptor, is closed by now, and `_lock` goes last.
}

fn open_and_ask(root: &Root, id: DeviceId, tell: Tell<'_>) -> Answer {
    let opener = OPENERS
        .into_iter()
        .find(|opener| opener.fits(root, id))
        .unwrap_or(&Group);
    let path = Some(opener.path());
    // Here a VM will be associated with `prepared.file`, for the drivers that want one.
    let prepared = match opener.prepare(root, id, tell) {
        Ok(prepared) => prepared,
        Err(failure) => {
            return Answer {
                path,
                ..Answer::failed(&failure)
            };
        }
    };
    let answer = opener
        .open(&prepared, id, tell)
        .and_then(|device| device::ask(&device, Whose::Ours, tell));
    match answer {
        Ok(facts) => Answer {
            facts,
            path,
            step: None,
            errno: None,
            note: None,
        },
        Err(failure) => Answer {
            path,
            ..Answer::failed(&failure)
        },
    }
    // The device is closed by now, and `prepared` goes last.
}

fn no_lock(error: &io::Error) -> Answer {
    let reason = match error.kind() {
        io::ErrorKind::PermissionDenied => Reason::Permission,
        io::ErrorKind::InvalidData => return Answer::none(Reason::UnsafeState, Step::Lock),
        _ => Reason::OpenFailed,
    };
    let errno = Errno::from_raw(error.raw_os_error().unwrap_or_default());
    Answer::failed(&Failure {
        step: Step::Lock,
        errno,
        reason,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::requests::{forget_start, mark_start};

    #[test]
    fn a_device_that_is_being_started_is_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir(directory.path().join("run")).unwrap();
        let root = Root::recorded(directory.path());
        let id = "c1a20000-0000-4000-8000-000000000002".parse().unwrap();
        let steps = |unless_starting, running| {
            let manner = Manner {
                unless_starting,
                running,
            };
            let mut steps = Vec::new();
            let answer = ask(&root, id, manner, &mut |step| steps.push(step));
            (answer.step, answer.facts.display.reason().cloned(), steps)
        };
        mark_start(&root, id).unwrap();
        let (step, reason, told) = steps(true, false);
        assert_eq!((step, reason), (Some(Step::Lock), Some(Reason::InUse)));
        assert_eq!(
            told,
            [Step::Lock],
            "nothing was looked for, let alone opened"
        );
        assert!(
            steps(false, false).2.len() > 1,
            "somebody who names it has his way"
        );
        // The guest that may have it already is looked for, and nothing is opened.
        let (step, reason, told) = steps(false, true);
        assert_eq!((step, reason), (Some(Step::Guest), Some(Reason::InUse)));
        assert_eq!(told, [Step::Lock, Step::Guest]);
        forget_start(&root, id).unwrap();
        assert_eq!(steps(true, false).2[1], Step::Find);
        assert_eq!(steps(false, true).2[1], Step::Find);
    }
}
