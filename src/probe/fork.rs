//! A child that is a copy of this process: nothing to load, nothing to relocate.
//!
//! Only for a process with a single thread. In the copy of one with several, a lock that another
//! thread held (the allocator's, say) would stay taken for ever, fork(2).
#![allow(unsafe_code)]

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::libc;
use nix::unistd::{ForkResult, Pid, fork};

/// Runs `run` in a copy of this process, which ends with it, whatever comes of it. `None`: this
/// process has several threads, and nothing was done.
///
/// # Errors
/// Those of fork(2).
pub(super) fn in_a_copy(run: impl FnOnce()) -> nix::Result<Option<Pid>> {
    if !has_one_thread() {
        return Ok(None);
    }
    // SAFETY: only this thread could have started another one since we looked, so there is none:
    // nothing is half done or locked by somebody who is missing in the copy.
    match unsafe { fork() }? {
        ForkResult::Parent { child } => Ok(Some(child)),
        ForkResult::Child => {
            // Dropped before anything is returned, so nothing is.
            let _end = End;
            run();
            Ok(None)
        }
    }
}

/// Closes everything but stdin, stdout and stderr. A kernel before 5.9 has no such call: there the
/// child keeps what its parent had.
pub(super) fn close_others() {
    // SAFETY: called by the child, whose owners of other files never run again: it ends without
    // returning to them.
    unsafe { libc::close_range(3, libc::c_uint::MAX, 0) };
}

/// Ends the process, also when a panic unwinds: what called us belongs to the parent.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        // SAFETY: ends the process without running what the parent has set up for its own end.
        unsafe { libc::_exit(0) }
    }
}

/// `/proc/self/task` has a link for each thread beside the two of every directory (Linux
/// fs/proc/base.c, `proc_task_getattr`). Without /proc: no.
fn has_one_thread() -> bool {
    fs::metadata("/proc/self/task").is_ok_and(|task| task.nlink() == 3)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The test harness has threads: one that waits, and one for each test.
    #[test]
    fn a_process_with_threads_is_not_copied() {
        assert!(!has_one_thread());
        assert_eq!(in_a_copy(|| unreachable!()), Ok(None));
    }
}
