//! The context in which a command or the daemon runs, and the way in which it fails.

use std::io::{self, IsTerminal, Write as _};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;

pub(crate) use crate::domain::shell::SYSTEM;
use crate::domain::shell::{in_words, wrapping};
use crate::host::state::State;
use crate::host::{Root, Warning};
use crate::libvirt::Libvirt;

/// The context in which every command runs.
#[derive(Debug, Clone)]
pub struct Context {
    /// The host.
    pub root: Root,
    /// libvirt's URI, if the user gave one.
    pub connect: Option<String>,
    /// True to suppress warnings.
    pub quiet: bool,
    /// The connection to libvirt.
    pub libvirt: Arc<dyn Libvirt>,
}

/// Returns the number of columns of an output, from the environment or from the terminal.
pub(crate) fn columns(output: impl AsFd) -> usize {
    /// The columns of an output that is no terminal.
    const USUAL: usize = 80;
    /// The smallest number of columns. With fewer, each word would have a line of its own.
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

/// Writes a message to stderr. On a terminal words are wrapped, but for a fix, which is pasted. In
/// a file a message is a line.
pub(crate) fn say(text: &str) {
    let mut text = format!("gfxplane: {}", in_words(text));
    if io::stderr().is_terminal() && !text.contains(" fix: ") {
        let options = wrapping(columns(io::stderr())).subsequent_indent("  ");
        text = textwrap::fill(&text, options);
    }
    let _ = writeln!(io::stderr(), "{text}");
}

/// The reason why a command failed, which decides its exit code.
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
    /// Returns whether libvirt is this machine's system daemon.
    pub(crate) fn is_system(&self) -> bool {
        matches!(self.connect.as_deref(), None | Some(SYSTEM))
    }

    /// Returns whether libvirt is another host's: its URI names a host (`qemu+ssh://host/system`).
    pub(crate) fn is_remote(&self) -> bool {
        let rest = self
            .connect
            .as_deref()
            .and_then(|uri| uri.split_once("://"));
        rest.is_some_and(|(_, rest)| !rest.is_empty() && !rest.starts_with(['/', '?']))
    }

    /// Refuses a libvirt of another host's.
    pub(crate) fn refuse_remote(&self) -> Result<(), Failure> {
        let problem = "this libvirt is another host's, whose devices and logs can't be seen from here: run gfxplane there";
        match self.is_remote() {
            true => Err(Failure::Environment(problem.into())),
            false => Ok(()),
        }
    }

    /// Refuses a recorded host, for this reason.
    pub(crate) fn refuse_recorded(&self, why: &str) -> Result<(), Failure> {
        match self.root.is_recorded() {
            true => Err(Failure::Usage(why.into())),
            false => Ok(()),
        }
    }

    /// Asks libvirt for the domain capabilities of an emulator on this machine
    /// ([`crate::host::emulator::AskLibvirt`]).
    ///
    /// libvirt may get the emulator's path only if `named_here` is true, that is if libvirt, the
    /// host or the user names the path, and not a file of somebody's. Otherwise libvirt answers for
    /// its own emulator.
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

    /// Returns the remembered state of the domains, if they are those of this machine's own
    /// libvirt.
    pub fn state(&self) -> Option<State> {
        (self.is_system() && !self.root.is_recorded()).then(|| State::new(&self.root))
    }

    /// Writes a message to stderr.
    pub(crate) fn say(&self, text: &str) {
        if !self.quiet {
            say(text);
        }
    }

    /// Writes warnings to stderr.
    pub fn warn(&self, warnings: &[Warning]) {
        if !self.quiet {
            for warning in warnings {
                say(&format!("warning: {warning}"));
            }
        }
    }
}
