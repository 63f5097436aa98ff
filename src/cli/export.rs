//! `gfxplane export`: writes what is known about a host for a fleet's tools.

use std::collections::BTreeMap;
use std::fmt;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use clap::ValueEnum;

use crate::cli::End;
use crate::cli::overview::{read, replace_whole, write_to};
use crate::host::exports::published;
use crate::host::read_whole;
use crate::host::run::record_path;
use crate::host::settings;
use crate::host::state::{State, now};
use crate::libvirt::{Context, Failure};
use crate::publish::export::nfd::nfd;
use crate::publish::export::nova::nova;
use crate::publish::export::prometheus::{Told, prometheus};
use crate::publish::inventory::{Sources, inventory};
use crate::publish::overview::GuestsFrom;

/// The program for Ansible's facts.d. Ansible runs an executable file there, and reads any other.
const FACT: &str = "#!/bin/sh\n# Made by gfxplane export ansible.\nexec gfxplane list --json\n";

/// The time until the labels for Node Feature Discovery expire, unless the user gives another.
const VALID: Duration = Duration::from_secs(24 * 60 * 60);

/// Write what is known about this host for a fleet's tools
#[derive(Debug, clap::Args)]
pub(crate) struct ExportCommand {
    /// The tool that reads the output
    pub(super) format: Format,
    /// Write to this file instead of stdout, and replace the file as a whole
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// nova: the name of the compute node, as openstack hypervisor list prints it [default: this
    /// host's name]
    #[arg(long, value_name = "NAME", value_parser = node)]
    node: Option<String>,
    /// nfd: how long the labels are valid [default: 1d]
    #[arg(long, value_name = "DURATION", value_parser = valid)]
    valid: Option<Duration>,
}

/// A tool for which gfxplane exports.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Format {
    /// Metrics for node_exporter's textfile collector
    Prometheus,
    /// Labels for Node Feature Discovery's features.d
    Nfd,
    /// A program for Ansible's facts.d, which runs gfxplane list --json
    Ansible,
    /// Traits for Nova's provider_config
    Nova,
    /// The daemon's files, copied to their paths in the settings (for gfxplane-export.service)
    #[value(hide = true)]
    Copies,
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.to_possible_value().expect("no format is skipped");
        f.write_str(value.get_name())
    }
}

impl ExportCommand {
    /// Writes the export.
    ///
    /// # Errors
    /// An option belongs to another format; the host has no name; libvirt is on another host; the
    /// file or the output can't be written.
    pub(crate) fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        for (is_given, option, format) in [
            (self.node.is_some(), "--node", Format::Nova),
            (self.valid.is_some(), "--valid", Format::Nfd),
        ] {
            if is_given && self.format != format {
                let problem = format!("{option} is an option of gfxplane export {format}");
                return Err(Failure::Usage(problem).into());
            }
        }
        let read = || {
            let sources = Sources::read(&context.root);
            let inventory = inventory(&sources);
            context.warn(&inventory.warnings);
            (sources, inventory)
        };
        let (text, left_out) = match self.format {
            Format::Prometheus => {
                let (sources, inventory) = read();
                let text = prometheus(&inventory, &told(context, &sources)?);
                (text, Vec::new())
            }
            Format::Nfd => {
                let valid = self.valid.unwrap_or(VALID);
                nfd(&read().1, now().saturating_add(valid.as_secs()))
            }
            Format::Ansible => (FACT.into(), Vec::new()),
            Format::Nova => {
                let node = match &self.node {
                    Some(node) => node.clone(),
                    None => own_name(context)?,
                };
                let (sources, inventory) = read();
                nova(&sources, &inventory, &node)
            }
            Format::Copies if self.output.is_none() => return copy(context),
            Format::Copies => {
                let problem = "export copies writes where the settings say: --output is of no use";
                return Err(Failure::Usage(problem.into()).into());
            }
        };
        for problem in &left_out {
            context.say(&format!("not exported: {problem}"));
        }
        let path = self.output.as_deref().unwrap_or(Path::new("-"));
        write_to(path, &text, self.format == Format::Ansible, out)?;
        Ok(End::Done)
    }
}

/// Copies each of the daemon's files to the file's path in the settings. Leaves a copy alone if its
/// content is already right. If some files can't be copied, or would replace something that is no
/// regular file, fails after it has copied the others.
fn copy(context: &Context) -> anyhow::Result<End> {
    let mut warnings = Vec::new();
    let config = settings::config(&context.root, &mut warnings);
    context.warn(&warnings);
    let mut problems = Vec::new();
    for (format, to) in config.export.named() {
        // The directory may be another user's, who could make a link to any file.
        let copied = published(&context.root, format).and_then(|text| {
            let failed = |error: std::io::Error| format!("{}: {error}", to.display());
            is_plain_or_absent(to).map_err(failed)?;
            // A FIFO that was just put in its place must not block us.
            let is_there = |text: &String| read_whole(to, text.len()).is_ok_and(|old| old == *text);
            match text.filter(|text| !is_there(text)) {
                Some(text) => replace_whole(to, &text, false).map_err(failed),
                None => Ok(()),
            }
        });
        problems.extend(copied.err());
    }
    match problems[..] {
        [] => Ok(End::Done),
        _ => Err(Failure::Environment(problems.join("\n")).into()),
    }
}

/// Returns an error if something that is not a regular file, such as a link, is at this path.
fn is_plain_or_absent(path: &Path) -> std::io::Result<()> {
    match std::fs::symlink_metadata(path) {
        Ok(there) if there.is_file() => Ok(()),
        Ok(_) => Err(std::io::Error::other("it is no regular file")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// Reads the name of a compute node: any text that is not empty and has no control characters,
/// which Nova and YAML accept.
fn node(text: &str) -> Result<String, &'static str> {
    if text.trim().is_empty() || text.contains(char::is_control) {
        return Err("expected the name that openstack hypervisor list prints");
    }
    Ok(text.to_owned())
}

/// Reads how long labels are valid: at least as long as NFD waits before it reads its files again,
/// and at most a year.
fn valid(text: &str) -> Result<Duration, &'static str> {
    const LEAST: Duration = Duration::from_secs(60);
    const MOST: Duration = Duration::from_secs(366 * 24 * 60 * 60);
    let valid = humantime::parse_duration(text).ok();
    let valid = valid.filter(|valid| (LEAST..=MOST).contains(valid));
    valid.ok_or("expected a time from 1m (a minute) to 1y (a year), such as 12h or 1d")
}

fn own_name(context: &Context) -> Result<String, Failure> {
    let path = context.root.join("proc/sys/kernel/hostname");
    let problem = |error: &dyn fmt::Display| {
        let path = path.display();
        Failure::Environment(format!("{path}: {error}: name the node with --node"))
    };
    let text = std::fs::read_to_string(&path).map_err(|error| problem(&error))?;
    node(text.trim()).map_err(|_| problem(&"it is no name"))
}

/// Reads what the metrics contain besides the inventory: the number of events of each kind in the
/// log, the times of the records, and the guests. Leaves out the events if the user may not read
/// the log.
fn told(context: &Context, sources: &Sources) -> Result<Told, Failure> {
    let state = State::new(&context.root);
    let acts = state.readable().is_ok().then(|| {
        let mut warnings = Vec::new();
        let mut acts = BTreeMap::new();
        for entry in state.entries(&mut warnings) {
            let key = (entry.what.to_string(), entry.by.to_string());
            *acts.entry(key).or_default() += 1;
        }
        context.warn(&warnings);
        acts
    });
    let time = |device: &crate::host::sysfs::Device| {
        // A record that can't be read has no time.
        sources.memory.devices.get(&device.id)?;
        let path = record_path(&context.root, device.id);
        let changed = std::fs::metadata(path).ok()?.modified().ok()?;
        let time = changed.duration_since(UNIX_EPOCH).ok()?;
        Some((device.id, time.as_secs()))
    };
    let overview = read(context, true)?;
    let is_known = overview.guests_from != GuestsFrom::Nowhere;
    Ok(Told {
        guests: is_known.then_some(overview.summary),
        acts,
        records: sources.host.devices.iter().filter_map(time).collect(),
    })
}
