//! The arguments, tables and exit codes that the programs share. Only this module prints anything.

pub mod check;
pub mod collect;
pub mod complete;
pub mod doctor;
pub mod explain;
pub mod export;
pub mod fixup;
pub mod learn;
pub mod list;
pub mod log;
mod nodedev_dumpxml;
mod nodedev_list;
pub mod overview;
pub mod page;
mod pager;
pub mod policy;
pub mod probe;
mod progress;
pub mod qemu;
pub mod rules;
mod subject;
pub mod tool;
pub mod undo;
pub mod verify;
mod via;
pub mod watch;

use crate::libvirt::{self, Context, Failure};
use std::fmt;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use crate::device::record::FORMAT;
use crate::domain::shell::is_harmless;
use crate::host::Root;

/// Options that every command takes.
#[derive(Debug, Default, Clone, clap::Args)]
pub struct GlobalArgs {
    /// Read the host that gfxplane collect has recorded in this directory, instead of this machine
    #[arg(
        long,
        visible_alias = "host",
        global = true,
        value_name = "DIR",
        env = "GFXPLANE_ROOT"
    )]
    pub root: Option<PathBuf>,
    /// Use the libvirt with this URI [default: qemu:///system]
    #[arg(short, long, global = true, value_name = "URI")]
    pub connect: Option<String>,
    /// Suppress warnings, notes and reasons
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Use colours: always, never, or only on a terminal (auto)
    #[arg(
        long,
        global = true,
        value_name = "WHEN",
        default_value = "auto",
        hide_possible_values = true
    )]
    pub color: clap::ColorChoice,
}

/// How a command ended that did not fail; the best first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum End {
    /// Done, or nothing to do: exit code 0.
    Done,
    /// Refused, or the answer is unknown: exit code 1.
    Refused,
    /// The command did what the environment allows, and reported what it could not do: exit code 3.
    Lacking,
}

impl End {
    /// Returns [`End::Done`] for `true`, [`End::Refused`] for `false`.
    pub fn of(is_done: bool) -> Self {
        if is_done { End::Done } else { End::Refused }
    }
}

impl GlobalArgs {
    /// Makes the context from these options, without libvirt. Sets the colours of all streams.
    ///
    /// # Errors
    /// The directory has no recorded host.
    pub fn context(self) -> Result<Context, Failure> {
        anstream::ColorChoice::write_global(match self.color {
            clap::ColorChoice::Always => anstream::ColorChoice::Always,
            clap::ColorChoice::Never => anstream::ColorChoice::Never,
            clap::ColorChoice::Auto => anstream::ColorChoice::Auto,
        });
        // GFXPLANE_ROOT may be empty.
        let root = self.root.filter(|path| !path.as_os_str().is_empty());
        let root = match root {
            None => Root::system(),
            Some(path) => recorded(path)?,
        };
        Ok(Context {
            root,
            connect: self.connect,
            quiet: self.quiet,
            libvirt: Arc::new(libvirt::Without),
        })
    }
}

/// Returns the recorded host in a directory, or in the `root` below it, as `gfxplane collect` makes
/// it.
///
/// # Errors
/// There is no recorded host.
fn recorded(path: PathBuf) -> Result<Root, Failure> {
    let is_host = |path: &Path| {
        ["sys", "etc", "run", "var"]
            .iter()
            .any(|name| path.join(name).is_dir())
    };
    let below = path.join("root");
    let what = if is_host(&path) {
        return Ok(Root::recorded(path));
    } else if is_host(&below) {
        return Ok(Root::recorded(below));
    } else if path.is_dir() {
        "it is not a recorded host: it has no directory sys"
    } else if path.exists() {
        "it is no directory"
    } else {
        "there is no such directory"
    };
    let path = path.display();
    Err(Failure::Environment(format!(
        "--host {path}: {what}: gfxplane collect DIR records a host, and --host DIR/root names it"
    )))
}

/// Returns the exit code of a command: 0 done, 1 refused or unknown, 2 usage, 3 the environment
/// lacks something, 4 internal. Prints the error. A closed pipe is no failure.
#[must_use]
pub fn exit_code(result: &anyhow::Result<End>) -> u8 {
    match result {
        Ok(End::Done) => 0,
        Ok(End::Refused) => 1,
        Ok(End::Lacking) => 3,
        Err(error) => {
            let broken_pipe = |error: &(dyn std::error::Error + 'static)| {
                error
                    .downcast_ref::<io::Error>()
                    .is_some_and(|e| e.kind() == io::ErrorKind::BrokenPipe)
            };
            if error.chain().any(broken_pipe) {
                return 0;
            }
            // The message may quote text from another program or user.
            libvirt::say(&format!("{error:#}"));
            code(error)
        }
    }
}

fn code(error: &anyhow::Error) -> u8 {
    match error.downcast_ref() {
        Some(Failure::Refused(_)) => 1,
        Some(Failure::Usage(_)) => 2,
        Some(Failure::Environment(_)) => 3,
        None => 4,
    }
}

/// Returns the result of reading something that the user gave, such as a file. `what` is its name.
///
/// # Errors
/// [`Failure::Refused`], with `what` before the error.
pub(crate) fn refused<T>(
    what: impl fmt::Display,
    result: Result<T, impl fmt::Display>,
) -> Result<T, Failure> {
    result.map_err(|error| Failure::Refused(format!("{what}: {error}")))
}

/// Reads a number of seconds from an option, of any size; [`deadline`] checks it.
pub(crate) fn seconds(text: &str) -> Result<f64, &'static str> {
    text.parse().map_err(|_| "expected a number of seconds")
}

/// Checks and returns the time of the option `--deadline`.
///
/// # Errors
/// The time is not above 0, or longer than an hour.
pub(crate) fn deadline(seconds: f64) -> Result<Duration, Failure> {
    const MOST: f64 = 3600.0;
    if seconds > 0.0 && seconds <= MOST {
        return Ok(Duration::from_secs_f64(seconds));
    }
    Err(Failure::Usage(format!(
        "--deadline is {seconds}: expected seconds above 0, at most {MOST}"
    )))
}

/// Reads a whole number from an option.
pub(crate) fn number(text: &str) -> Result<usize, &'static str> {
    text.parse().map_err(|_| "expected a whole number")
}

/// Writes an object as JSON, after the format's version, with `\uXXXX` for each character that may
/// harm a terminal.
///
/// # Errors
/// The output can't be written.
pub fn json(out: &mut dyn Write, object: &impl Serialize) -> anyhow::Result<()> {
    #[derive(Serialize)]
    struct Document<'o, O> {
        format: u32,
        #[serde(flatten)]
        object: &'o O,
    }
    let document = Document {
        format: FORMAT,
        object,
    };
    let mut escaped = String::new();
    // Outside of its texts, JSON has only harmless characters and line endings.
    for c in serde_json::to_string_pretty(&document)?.chars() {
        match c {
            '\n' => escaped.push(c),
            c if is_harmless(c) => escaped.push(c),
            c => escaped.extend(
                c.encode_utf16(&mut [0; 2])
                    .iter()
                    .map(|unit| format!("\\u{unit:04x}")),
            ),
        }
    }
    writeln!(out, "{escaped}")?;
    Ok(())
}
