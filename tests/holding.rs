//! The process that holds a copy of a guest's descriptor, with a pipe in the place of the device: who
//! has the other end sees when the last copy is closed. One test after the other and without threads
//! of the harness: a process that has some is not copied.
#![allow(unsafe_code)]

use std::fs::File;
use std::io::{PipeReader, Read, Write};
use std::os::fd::RawFd;
use std::process::{Child, Command, ExitCode, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use gfxplane::evidence::{OpenPath, Step};
use gfxplane::facts::{Display, Facts, Reason};
use gfxplane::host::Root;
use gfxplane::host::run::{Lock, wait_until_free};
use gfxplane::probe::Answer;
use gfxplane::probe::running::held;
use libtest_mimic::{Arguments, Failed, Trial, run};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::waitpid;
use nix::unistd::{ForkResult, fork, getppid};

fn main() -> ExitCode {
    let arguments = Arguments {
        test_threads: Some(1),
        ..Arguments::from_args()
    };
    let trials = vec![
        Trial::test("what_was_asked_comes_through", comes_through),
        Trial::test("who_takes_too_long_is_killed", is_killed),
        Trial::test("who_ends_without_an_answer", ends_without_an_answer),
        Trial::test("no_such_descriptor", no_such_descriptor),
        Trial::test("who_asks_may_be_killed", asker_dies),
        Trial::test("who_holds_keeps_the_lock", lock_is_kept),
    ];
    run(&arguments, trials).exit_code()
}

/// A process that has the writing end of a pipe as its stdin, as QEMU has a device.
struct Guest {
    process: Child,
    other_end: PipeReader,
}

impl Guest {
    fn new() -> Self {
        let (other_end, end) = std::io::pipe().unwrap();
        let mut sleep = Command::new("sleep");
        let process = sleep.arg("1000").stdin(end).stdout(Stdio::null());
        let process = process.spawn().unwrap();
        drop(sleep);
        Guest { process, other_end }
    }

    fn ask(&self, ask: impl FnOnce(nix::Result<File>) -> Answer) -> Answer {
        self.ask_through(0, ask)
    }

    fn ask_through(&self, number: RawFd, ask: impl FnOnce(nix::Result<File>) -> Answer) -> Answer {
        let pid = self.process.id().cast_signed();
        held::ask(&held::open(pid).unwrap(), number, ask)
    }

    /// Until whoever holds the copy got a processor in its tenth of a second, on a machine that has
    /// other things to do.
    fn ask_in_time(&self, number: RawFd, ask: impl Fn(nix::Result<File>) -> Answer) -> Answer {
        for _ in 0..1000 {
            let seen = self.ask_through(number, &ask);
            if !is_late(&seen) {
                return seen;
            }
        }
        panic!("never in time");
    }

    /// Ends the guest; what was written into its descriptor until nobody had it any more.
    fn end(mut self) -> String {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        let mut written = String::new();
        self.other_end.read_to_string(&mut written).unwrap();
        written
    }
}

fn is_late(seen: &Answer) -> bool {
    let note = seen.note.as_deref();
    note.is_some_and(|note| note.contains("within 100 ms"))
}

fn answer(display: Display) -> Answer {
    Answer {
        facts: Facts::of(display),
        path: Some(OpenPath::Guest),
        step: None,
        errno: None,
        note: None,
    }
}

fn comes_through() -> Result<(), Failed> {
    let guest = Guest::new();
    let region = Display::from_answers(false, true);
    let seen = guest.ask_in_time(0, |copy| {
        copy.unwrap().write_all(b"asked").unwrap();
        answer(region.clone())
    });
    assert_eq!(seen, answer(region));
    // What was asked too late may have been asked, too.
    let asked = guest.end();
    assert!(asked.ends_with("asked"), "{asked:?}");
    assert_eq!(asked.replace("asked", ""), "");
    Ok(())
}

/// That `end` returns is what matters: while there is a copy nobody sees the end of the pipe.
fn is_killed() -> Result<(), Failed> {
    let guest = Guest::new();
    let seen = guest.ask(|copy| {
        let mut copy = copy.unwrap();
        copy.write_all(b"asked").unwrap();
        thread::sleep(Duration::from_secs(1000));
        copy.write_all(b"too late").unwrap();
        answer(Display::NONE)
    });
    assert_eq!(seen.facts.display, Display::Unknown(Reason::InUse));
    assert_eq!(seen.path, Some(OpenPath::Guest));
    assert!(is_late(&seen), "{seen:?}");
    // If it had no processor all the time, it has not asked.
    let asked = guest.end();
    assert!(["", "asked"].contains(&asked.as_str()), "{asked:?}");
    assert!(
        asked.is_empty() || seen.step == Some(Step::Copy),
        "{seen:?}"
    );
    Ok(())
}

fn ends_without_an_answer() -> Result<(), Failed> {
    let guest = Guest::new();
    let seen = guest.ask_in_time(0, |copy| {
        let _copy = copy.unwrap();
        nix::sys::signal::raise(nix::sys::signal::Signal::SIGKILL).unwrap();
        unreachable!()
    });
    assert_eq!(seen.facts.display, Display::Unknown(Reason::InUse));
    assert_eq!(seen.path, Some(OpenPath::Guest));
    assert!(seen.note.unwrap().contains("without an answer"));
    assert_eq!(guest.end(), "");
    Ok(())
}

fn no_such_descriptor() -> Result<(), Failed> {
    let guest = Guest::new();
    let seen = guest.ask_in_time(999, |copy| {
        assert_eq!(copy.unwrap_err(), nix::errno::Errno::EBADF);
        answer(Display::NONE)
    });
    assert_eq!(seen, answer(Display::NONE));
    guest.end();
    Ok(())
}

/// Somebody kills the one who asks, in the middle: neither the copy nor the lock outlives it.
fn asker_dies() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    std::fs::create_dir(directory.path().join("run"))?;
    let root = Root::recorded(directory.path());
    let id = "c1a20000-0000-4000-8000-000000000002".parse()?;
    let mut guest = Guest::new();
    // SAFETY: this process has a single thread, so nothing is half done in its copy, which ends by
    // a signal and never returns.
    let asker = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => {
            let _lock = Lock::of_device(&root, id).unwrap();
            // Again if it had no processor for as long as it may take.
            loop {
                let _ = guest.ask(|copy| {
                    copy.unwrap().write_all(b"asked").unwrap();
                    let _ = kill(getppid(), Signal::SIGSTOP);
                    thread::sleep(Duration::from_secs(1000));
                    unreachable!()
                });
            }
        }
    };
    let mut asked = [0; 5];
    guest.other_end.read_exact(&mut asked)?;
    kill(asker, Signal::SIGKILL)?;
    waitpid(asker, None)?;
    assert_eq!(guest.end().replace("asked", ""), "");
    let long = Instant::now() + Duration::from_secs(60);
    assert!(wait_until_free(&root, id, long)?);
    Ok(())
}

/// A driver may sleep so that nothing ends the holder, and the asker goes its way. Any copy of the
/// asker inherits its lock as the holder does; this one ends when it is told to.
fn lock_is_kept() -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    std::fs::create_dir(directory.path().join("run"))?;
    let root = Root::recorded(directory.path());
    let id = "c1a20000-0000-4000-8000-000000000002".parse()?;
    let lock = Lock::of_device(&root, id)?;
    // SAFETY: this process has a single thread, so nothing is half done in its copy, which ends by
    // a signal and never returns.
    let holder = match unsafe { fork() }? {
        ForkResult::Parent { child } => child,
        ForkResult::Child => loop {
            thread::sleep(Duration::from_secs(1000));
        },
    };
    drop(lock);
    let is_free = wait_until_free(&root, id, Instant::now());
    kill(holder, Signal::SIGKILL)?;
    waitpid(holder, None)?;
    assert!(!is_free?, "the asker has let go, the holder has not");
    assert!(wait_until_free(&root, id, Instant::now())?);
    Ok(())
}
