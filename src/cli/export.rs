//! `gfxplane export`: writes what is known of a host for a fleet's tools.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use clap::ValueEnum;

use crate::cli::End;
use crate::cli::overview::{read, write_whole};
use crate::host::run::record_path;
use crate::host::state::{State, now};
use crate::libvirt::{Context, Failure};
use crate::publish::export::nfd::nfd;
use crate::publish::export::nova::nova;
use crate::publish::export::prometheus::{Told, prometheus};
use crate::publish::inventory::{Sources, inventory};
use crate::publish::overview::GuestsFrom;

/// The program for Ansible, which runs a fact that is executable and reads any other.
const FACT: &str = "#!/bin/sh\n# Made by gfxplane export ansible.\nexec gfxplane list --json\n";

/// Write what is known of this host for a fleet's tools
#[derive(Debug, clap::Args)]
pub(crate) struct ExportCommand {
    /// The tool that reads it
    format: Format,
    /// Write this file, as a whole, instead of stdout
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// nova: the name of the compute node, as openstack hypervisor list has it [default: this
    /// host's name]
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// nfd: how long the labels hold
    #[arg(long, value_name = "DURATION", default_value = "1d", value_parser = humantime::parse_duration)]
    valid: Duration,
}

/// A tool that reads what is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Format {
    /// Metrics for node_exporter's textfile collector
    Prometheus,
    /// Labels for Node Feature Discovery's features.d
    Nfd,
    /// A program for Ansible's facts.d that prints what gfxplane list --json prints
    Ansible,
    /// Traits for Nova's provider_config
    Nova,
}

impl ExportCommand {
    /// Returns whether libvirt is asked.
    #[must_use]
    pub(crate) fn asks_libvirt(&self) -> bool {
        self.format == Format::Prometheus
    }

    /// Writes the file.
    ///
    /// # Errors
    /// The host has no name; libvirt is another host's; errors of the output and of the file.
    pub(crate) fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let sources = Sources::read(&context.root);
        let inventory = inventory(&sources);
        context.warn(&inventory.warnings);
        let (text, left_out) = match self.format {
            Format::Prometheus => {
                let text = prometheus(&inventory, &told(context, &sources)?);
                (text, Vec::new())
            }
            Format::Nfd => nfd(&inventory, now() + self.valid.as_secs()),
            Format::Ansible => (FACT.into(), Vec::new()),
            Format::Nova => {
                let node = match &self.node {
                    Some(node) => node.clone(),
                    None => own_name(context)?,
                };
                nova(&sources, &inventory, &node)
            }
        };
        for problem in &left_out {
            context.say(&format!("not exported: {problem}"));
        }
        match &self.output {
            None => out.write_all(text.as_bytes())?,
            Some(path) if path == Path::new("-") => out.write_all(text.as_bytes())?,
            Some(path) => write_whole(path, &text, self.format == Format::Ansible)
                .map_err(|error| Failure::Environment(format!("{}: {error}", path.display())))?,
        }
        Ok(End::Done)
    }
}

fn own_name(context: &Context) -> Result<String, Failure> {
    let path = context.root.join("proc/sys/kernel/hostname");
    let name = std::fs::read_to_string(&path).map_err(|error| {
        let path = path.display();
        Failure::Environment(format!("{path}: {error}: name the node with --node"))
    })?;
    Ok(name.trim().to_owned())
}

/// Reads what the metrics tell beside the inventory. Only root reads the log.
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
