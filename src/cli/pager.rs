//! Shows long output in the user's pager, as git does: only on a terminal, in the program that
//! `PAGER` names, or else in less.

use std::io::{self, IsTerminal, Stdout, Write};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};

/// An output that the pager shows. The first byte starts the pager. Dropping this value waits until
/// the pager has ended.
#[derive(Debug, Default)]
pub(crate) struct Paged {
    pager: Option<Child>,
    /// The pager's input or stdout; `None` before the first byte.
    input: Option<Input>,
    /// All text that the pager got, to print it if the pager can't be run.
    text: Vec<u8>,
}

#[derive(Debug)]
enum Input {
    Pager(ChildStdin),
    Stdout(Stdout),
}

impl Paged {
    /// Starts the pager at the first call. If there is none, the output goes to stdout.
    fn begin(&mut self) -> &mut Input {
        let pager = &mut self.pager;
        self.input.get_or_insert_with(|| {
            *pager = start();
            let input = pager.as_mut().and_then(|pager| pager.stdin.take());
            input.map_or_else(|| Input::Stdout(io::stdout()), Input::Pager)
        })
    }
}

/// Starts the pager; `None` if there is no pager, if none is wanted, or if stdout is no terminal.
fn start() -> Option<Child> {
    let is_dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb");
    if is_dumb || !io::stdout().is_terminal() {
        return None;
    }
    let mut command = match std::env::var("PAGER") {
        Ok(pager) if pager.is_empty() || pager == "cat" => return None,
        Ok(pager) => {
            let mut shell = Command::new("sh");
            shell.args(["-c", &pager]);
            shell
        }
        Err(_) => Command::new("less"),
    };
    // F: less ends at once if the text fits on the screen; R: colours; X: the text stays on the
    // screen afterwards; K: Ctrl-C ends less as it ends us.
    for (name, value) in [("LESS", "FRXK"), ("LV", "-c")] {
        if std::env::var_os(name).is_none() {
            command.env(name, value);
        }
    }
    command.stdin(Stdio::piped()).spawn().ok()
}

impl Write for Paged {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.begin() {
            Input::Pager(pager) => {
                let written = pager.write(bytes);
                self.text.extend_from_slice(bytes);
                // If the pager is gone, it was missing, or its user has seen enough.
                written.or(Ok(bytes.len()))
            }
            Input::Stdout(stdout) => stdout.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match &mut self.input {
            Some(Input::Stdout(stdout)) => stdout.flush(),
            _ => Ok(()),
        }
    }
}

impl Drop for Paged {
    fn drop(&mut self) {
        // The pager ends when its user has read its input to the end.
        self.input = None;
        let ended = self.pager.as_mut().map(Child::wait);
        // The shell's codes for a command that it can't run, or does not find.
        let is_missing = |status: ExitStatus| matches!(status.code(), Some(126 | 127));
        if ended.and_then(Result::ok).is_some_and(is_missing) {
            let _ = io::stdout().write_all(&self.text);
        }
    }
}
