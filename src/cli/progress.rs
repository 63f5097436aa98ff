//! Shows on a terminal which work takes longer than a second.

use std::io::{self, IsTerminal, Write};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::thread::{JoinHandle, spawn};
use std::time::{Duration, Instant};

/// A line on stderr: what is being done, and how many seconds it has taken so far. The line
/// disappears when this value is dropped.
#[derive(Debug)]
pub(crate) struct Progress(Option<(Sender<()>, JoinHandle<()>)>);

impl Progress {
    /// Begins to show the line, unless stderr is no terminal or the user wants no messages.
    #[must_use]
    pub(crate) fn begin(quiet: bool, doing: &'static str) -> Self {
        if quiet || !io::stderr().is_terminal() {
            return Progress(None);
        }
        let (end, ended) = channel();
        let began = Instant::now();
        let tell = move || {
            let mut shown = false;
            while ended.recv_timeout(Duration::from_secs(1)) == Err(RecvTimeoutError::Timeout) {
                let seconds = began.elapsed().as_secs();
                let _ = write!(io::stderr(), "\r{doing}, {seconds} s ");
                shown = true;
            }
            if shown {
                let _ = write!(io::stderr(), "\r\x1b[K");
            }
        };
        Progress(Some((end, spawn(tell))))
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.0.take() {
            drop(end);
            let _ = thread.join();
        }
    }
}
