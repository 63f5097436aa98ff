//! The context of a command or the daemon, and the reasons why a command fails.

use std::io::{self, IsTerminal, Write as _};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

pub(crate) use crate::domain::shell::SYSTEM;
use crate::domain::shell::{in_words, wrapping};
use crate::host::state::State;
use crate::host::{Root, Warning};
use crate::libvirt::Libvirt;

/// The context of a command: the host, libvirt, and the user's general options.
#[derive(Debug, Clone)]
pub struct Context {
    /// The host: this machine or a recorded one.
    pub root: Root,
    /// libvirt's URI; `None` for this machine's system libvirt.
    pub connect: Option<String>,
    /// True to suppress warnings and other messages, but not errors.
    pub quiet: bool,
    /// The connection to libvirt.
    pub libvirt: Arc<dyn Libvirt>,
}

/// Returns the width of an output in columns, from `COLUMNS`, from the terminal, or else 80; at
/// least 20.
pub(crate) fn columns(output: impl AsFd) -> usize {
    /// The width of an output that is no terminal, without `COLUMNS`.
    const USUAL: usize = 80;
    /// The smallest width. With fewer columns, each word would have a line of its own.
    const LEAST: usize = 20;
    let named = std::env::var("COLUMNS").ok();
    let named = named.and_then(|columns| columns.parse().ok());
    let named = named.filter(|columns| *columns > 0);
    let columns = named.or_else(|| {
        let (width, _) = terminal_size::terminal_size_of(output)?;
        Some(usize::from(width.0))
    });
    columns.unwrap_or(USUAL).max(LEAST)
}

/// Writes a message to stderr, after `gfxplane: ` and without control characters. Wraps it on a
/// terminal, unless it contains a fix, which must stay whole to be pasted. Elsewhere, a message is
/// one line.
pub(crate) fn say(text: &str) {
    let mut text = format!("gfxplane: {}", in_words(text));
    if io::stderr().is_terminal() && !text.contains(" fix: ") {
        let options = wrapping(columns(io::stderr())).subsequent_indent("  ");
        text = textwrap::fill(&text, options);
    }
    let _ = writeln!(io::stderr(), "{text}");
}

/// The reason why a command failed, which determines the exit code.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The command's input is refused: exit code 1.
    #[error("{0}")]
    Refused(String),
    /// The command was called wrongly: exit code 2.
    #[error("{0}")]
    Usage(String),
    /// The host lacks something, such as the device, a right or libvirt: exit code 3.
    #[error("{0}")]
    Environment(String),
}

impl Context {
    /// Returns whether the context's libvirt is this machine's system daemon.
    pub(crate) fn is_system(&self) -> bool {
        matches!(self.connect.as_deref(), None | Some(SYSTEM))
    }

    /// Returns whether libvirt is on another host: its URI names one (`qemu+ssh://host/system`).
    pub(crate) fn is_remote(&self) -> bool {
        let rest = self
            .connect
            .as_deref()
            .and_then(|uri| uri.split_once("://"));
        rest.is_some_and(|(_, rest)| !rest.is_empty() && !rest.starts_with(['/', '?']))
    }

    /// Returns [`Failure::Environment`] if libvirt is on another host.
    pub(crate) fn refuse_remote(&self) -> Result<(), Failure> {
        let problem = "this libvirt is on another host, whose devices and logs can't be seen from here: run gfxplane there";
        match self.is_remote() {
            true => Err(Failure::Environment(problem.into())),
            false => Ok(()),
        }
    }

    /// Returns [`Failure::Usage`] with the text `why` if the host is a recorded one.
    pub(crate) fn refuse_recorded(&self, why: &str) -> Result<(), Failure> {
        match self.root.is_recorded() {
            true => Err(Failure::Usage(why.into())),
            false => Ok(()),
        }
    }

    /// Asks libvirt for the domain capabilities of an emulator on this machine
    /// ([`crate::host::emulator::AskLibvirt`]). Returns `None` if libvirt is on another host, or if
    /// this program has no libvirt.
    ///
    /// `named_here` is true if libvirt, the host or the user named the emulator. If only a file
    /// named it, libvirt does not get its path, and answers for libvirt's own emulator.
    pub(crate) fn domain_capabilities(
        &self,
        emulator: &Path,
        named_here: bool,
    ) -> Result<Option<String>, String> {
        if self.is_remote() {
            return Ok(None);
        }
        let answer = self
            .libvirt
            .domain_capabilities(named_here.then_some(emulator));
        answer.map_err(|error| error.to_string())
    }

    /// Returns what gfxplane remembers of domains; `None` unless they are this machine's system
    /// libvirt's.
    pub fn state(&self) -> Option<State> {
        (self.is_system() && !self.root.is_recorded()).then(|| State::new(&self.root))
    }

    /// Writes a message to stderr, unless the user has suppressed messages.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// Writes warnings to stderr, unless the user has suppressed them.
    pub fn warn(&self, warnings: &[Warning]) {
        if !self.quiet {
            for warning in warnings {
                say(&format!("warning: {warning}"));
            }
        }
    }
}
