//! A copy of another process's descriptor, held by a process that ends soon whatever happens.
//!
//! Whoever holds a copy of a device's descriptor keeps the device open, so the holder is a child of
//! its own with nothing else to do. It is killed [`HOLD`] after it was started: by its asker, which
//! waits for it that long, and by a timer that the kernel keeps and that sends SIGKILL, which nothing
//! can block or ignore; should its asker die before, that kills it, too. It inherits the lock of the
//! device from its asker and never lets go of it, so the lock is held for as long as the copy,
//! whichever of the two processes ends first.
#![allow(unsafe_code)]

use std::fs::File;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::libc;
use nix::sys::prctl;
use nix::sys::signal::{SigEvent, SigevNotify, Signal};
use nix::sys::timer::{Expiration, Timer, TimerSetTimeFlags};
use nix::time::ClockId;
use nix::unistd::{getpid, getppid};

use crate::evidence::{OpenPath, Step};
use crate::facts::{Display, Facts, Reason};
use crate::probe::{Answer, Child, child};

/// How long a copy is held at most.
pub const HOLD: Duration = Duration::from_millis(100);

/// A hold of a process: it stays this process's when its number is given to another.
///
/// # Errors
/// Those of pidfd_open(2): ESRCH if there is none, ENOSYS before Linux 5.3.
pub fn open(pid: i32) -> nix::Result<OwnedFd> {
    // SAFETY: the arguments are numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })?;
    owned(fd)
}

/// A copy of a descriptor of a process.
///
/// # Errors
/// Those of pidfd_getfd(2): EBADF without such a descriptor, ESRCH if the process has ended, EPERM
/// without leave to trace it, ENOSYS before Linux 5.6.
pub fn copy(process: &OwnedFd, number: RawFd) -> nix::Result<File> {
    let process = process.as_raw_fd();
    // SAFETY: the arguments are numbers.
    let fd = Errno::result(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process, number, 0) })?;
    owned(fd).map(File::from)
}

fn owned(fd: libc::c_long) -> nix::Result<OwnedFd> {
    let fd = RawFd::try_from(fd).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Has `ask` ask through a copy of a descriptor, in a child that is gone when this returns, unless
/// not even SIGKILL ends it. What `ask` is given it must drop.
///
/// Only for a process with a single thread, as a `--child` is.
#[must_use]
pub fn ask(
    process: &OwnedFd,
    number: RawFd,
    ask: impl FnOnce(nix::Result<File>) -> Answer,
) -> Answer {
    let asker = getpid();
    let limit = Instant::now() + HOLD;
    let holder = Child::in_a_copy(|| {
        // Without it the holder merely has the timer.
        let _ = prctl::set_pdeathsig(Signal::SIGKILL);
        if getppid() != asker {
            return;
        }
        child::say_step(Step::Copy);
        let answer = match killed_in(HOLD) {
            Ok(_timer) => ask(copy(process, number)),
            // Without a timer there is no copy.
            Err(errno) => ask(Err(errno)),
        };
        child::say_answer(&answer);
    });
    let mut holder = match holder {
        Ok(Some(holder)) => holder,
        Ok(None) => return no_holder("this process has several threads"),
        Err(error) => return no_holder(&error.to_string()),
    };
    let answer = holder.listen(limit);
    let is_late = Instant::now() >= limit && answer.path.is_none();
    if is_late {
        holder.kill();
    }
    holder.end();
    let is_answer = !matches!(
        answer.facts.display,
        Display::Unknown(Reason::TimedOut | Reason::QueryFailed)
    );
    if is_answer || answer.path.is_some() {
        return answer;
    }
    let note = if is_late {
        format!(
            "it did not answer within {} ms, for which a guest's descriptor is held at most",
            HOLD.as_millis()
        )
    } else {
        "who held its guest's descriptor ended without an answer".to_owned()
    };
    // Nothing that is to be kept as the device's own: it is asked again when it is free.
    Answer {
        facts: Facts::of(Display::Unknown(Reason::InUse)),
        path: Some(OpenPath::Guest),
        note: Some(note),
        ..answer
    }
}

fn no_holder(why: &str) -> Answer {
    Answer {
        note: Some(format!("nobody can hold its guest's descriptor: {why}")),
        ..Answer::none(Reason::InUse, Step::Spawn)
    }
}

/// Has the kernel kill this process in a while. SIGKILL instead of alarm(2)'s SIGALRM, which may be
/// blocked since before the exec.
fn killed_in(time: Duration) -> nix::Result<Timer> {
    let event = SigEvent::new(SigevNotify::SigevSignal {
        signal: Signal::SIGKILL,
        si_value: 0,
    });
    let mut timer = Timer::new(ClockId::CLOCK_MONOTONIC, event)?;
    timer.set(Expiration::OneShot(time.into()), TimerSetTimeFlags::empty())?;
    Ok(timer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Seek, SeekFrom, Write};
    use std::os::unix::process::ExitStatusExt;
    use std::process::{Command, Stdio};

    /// A process of our own with a file that we know, of which a copy is taken.
    #[test]
    fn a_copy_of_a_known_file() {
        let mut known = tempfile::tempfile().unwrap();
        known.write_all(b"known\n").unwrap();
        let mut other = Command::new("sleep");
        other.arg("1000").stdin(known.try_clone().unwrap());
        let mut other = other.spawn().unwrap();
        let process = open(other.id().cast_signed()).unwrap();
        let mut taken = copy(&process, 0).unwrap();
        taken.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        taken.read_to_string(&mut text).unwrap();
        assert_eq!(text, "known\n");
        assert_eq!(copy(&process, 999).unwrap_err(), Errno::EBADF);
        other.kill().unwrap();
        other.wait().unwrap();
        assert_eq!(copy(&process, 0).unwrap_err(), Errno::ESRCH);
    }

    #[test]
    fn a_process_that_is_gone() {
        let mut gone = Command::new("true").spawn().unwrap();
        gone.wait().unwrap();
        assert_eq!(open(gone.id().cast_signed()).unwrap_err(), Errno::ESRCH);
    }

    /// The harness has threads, and then nothing is copied.
    #[test]
    fn not_in_a_process_with_threads() {
        let me = open(getpid().as_raw()).unwrap();
        let answer = ask(&me, 0, |_| unreachable!());
        assert_eq!(answer.step, Some(Step::Spawn));
        assert!(answer.note.unwrap().contains("threads"));
    }

    /// In a process of its own: this one would be killed.
    #[test]
    fn the_timer_kills_also_who_blocks_signals() {
        const INSIDE: &str = "GFXPLANE_TEST_TIMER";
        if std::env::var_os(INSIDE).is_some() {
            nix::sys::signal::SigSet::all().thread_block().unwrap();
            let _timer = killed_in(Duration::from_millis(1)).unwrap();
            loop {
                std::thread::sleep(Duration::from_secs(1000));
            }
        }
        let name = "the_timer_kills_also_who_blocks_signals";
        let mut inside = Command::new(std::env::current_exe().unwrap());
        inside.args([name]).env(INSIDE, "1").stdout(Stdio::null());
        let status = inside.status().unwrap();
        assert_eq!(status.signal(), Some(Signal::SIGKILL as i32));
    }
}
