//! What the child of a probe does.

use std::io::Write;

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;

use crate::evidence::Step;
use crate::facts::Reason;
use crate::host::Root;
use crate::host::run::Lock;
use crate::names::DeviceId;
use crate::probe::group::Group;
use crate::probe::{Answer, Failure, Message, Opener, device};

/// The ways to open a device, the first that fits is taken.
const OPENERS: [&dyn Opener; 1] = [&Group];

/// Asks the device and tells the steps and the answer to `out`, until which nobody else of us
/// opens it. Dies with whoever started it: a device must not stay open for nobody.
pub fn run(root: &Root, id: DeviceId, out: &mut impl Write) {
    // Without it the child merely lives longer than its asker.
    let _ = prctl::set_pdeathsig(Signal::SIGKILL);
    let answer = ask(root, id, &mut |step| Message::Step(step).tell(out));
    Message::Answer(answer).tell(out);
}

fn ask(root: &Root, id: DeviceId, tell: &mut dyn FnMut(Step)) -> Answer {
    tell(Step::Lock);
    let _lock = match Lock::of_device(root, id) {
        Ok(lock) => lock,
        Err(error) => {
            let errno = Errno::from_raw(error.raw_os_error().unwrap_or(Errno::EACCES as i32));
            let denied = error.kind() == std::io::ErrorKind::PermissionDenied;
            let reason = if denied {
                Reason::Permission
            } else {
                Reason::OpenFailed
            };
            return Answer::failed(&Failure {
                step: Step::Lock,
                errno,
                reason,
            });
        }
    };
    let opener = OPENERS
        .into_iter()
        .find(|opener| opener.fits(root, id))
        .unwrap_or(&Group);
    let opened = match opener.open(root, id, tell) {
        Ok(opened) => opened,
        Err(failure) => return Answer::failed(&failure),
    };
    let answer = match device::ask(&opened.device, tell) {
        Ok(facts) => Answer {
            facts,
            path: None,
            step: None,
            errno: None,
        },
        Err(failure) => Answer::failed(&failure),
    };
    // `opened` goes before `_lock`: the device is closed first, only then is the lock given back.
    Answer {
        path: Some(opener.path()),
        ..answer
    }
}
