//! Starts a child as a copy of this process, which need not load or relocate anything.
//!
//! Only a process with a single thread can be copied. If another thread held a lock (the
//! allocator's, for example), the lock would stay taken for ever in the copy, fork(2).
#![allow(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::libc;
use nix::unistd::{ForkResult, Pid, fork};

/// Runs `run` in a copy of this process. The copy ends when `run` ends or panics. Returns the
/// copy's process id. Returns `None`, without making a copy, if this process has several threads.
pub(super) fn in_a_copy(run: impl FnOnce()) -> nix::Result<Option<Pid>> {
    if !has_one_thread() {
        return Ok(None);
    }
    // SAFETY: this process still has one thread, because only this thread could have started
    // another since the check. So no lock is held by a thread that the copy lacks.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => {
            // `_end` is dropped before this function returns, so the copy never returns from it.
            let _end = End;
            run();
            Ok(None)
        }
    }
}

/// Closes all files except stdin, stdout and stderr. On kernels before 5.9, which lack
/// close_range(2), the files stay open.
pub(super) fn close_others() {
    // SAFETY: the child calls this. The owners of other files never run again in it, because it
    // ends without returning to them.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Ends the process when this value is dropped, also by a panic: the callers up the stack belong to
/// the parent, and must not run in the copy.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        // SAFETY: this ends the process without running the parent's exit handlers.
        unsafe { libc::_exit(0) }
    }
}

/// Returns whether the process has one thread; `false` without /proc. The link count of
/// `/proc/self/task` is the number of threads plus two, as for any directory (Linux fs/proc/base.c,
/// `proc_task_getattr`).
fn has_one_thread() -> bool {
    fs::metadata("/proc/self/task").is_ok_and(|task| task.nlink() == 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test harness has several threads: one that waits, and one for each test.
    #[test]
    fn a_process_with_threads_is_not_copied() {
        assert!(!has_one_thread());
        assert_eq!(in_a_copy(|| unreachable!()), Ok(None));
    }
}
