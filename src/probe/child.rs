//! What the child of a probe does.

use std::io::{self, Write};

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::unistd::getppid;

use crate::evidence::Step;
use crate::facts::Reason;
use crate::host::Root;
use crate::host::run::Lock;
use crate::names::DeviceId;
use crate::probe::group::Group;
use crate::probe::{Answer, Failure, Message, Opener, Tell, device};

/// The ways to open a device; the first that the kernel offers for it is taken.
const OPENERS: [&dyn Opener; 1] = [&Group];

/// Asks the device, telling the steps and at last the answer to `out`. Dies with `asker`, the
/// process that started it: a device must not stay open for nobody.
pub fn run(root: &Root, id: DeviceId, asker: i32, out: &mut impl Write) {
    // Without it the child merely lives longer than its asker.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    if getppid().as_raw() != asker {
        return;
    }
    let answer = ask(root, id, &mut |step| Message::Step(step).tell(out));
    Message::Answer(Box::new(answer)).tell(out);
}

fn ask(root: &Root, id: DeviceId, tell: Tell<'_>) -> Answer {
    tell(Step::Lock);
    let _lock = match Lock::of_device(root, id) {
        Ok(lock) => lock,
        Err(error) => return no_lock(&error),
    };
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
        .and_then(|device| device::ask(&device, tell));
    match answer {
        Ok(facts) => Answer {
            facts,
            path,
            step: None,
            errno: None,
        },
        Err(failure) => Answer {
            path,
            ..Answer::failed(&failure)
        },
    }
    // The device is closed by now, `prepared` goes next, and `_lock` last.
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
