//! `gfxplane nodedev-list`: the node devices that have something to do with vfio displays.

use std::io::Write;

use crate::cli::{Context, End, Failure};
use crate::inventory::{Sources, State};
use crate::nodedev::offline;

/// List the names of node devices that nodedev-dumpxml adds something to
#[derive(Debug, clap::Args)]
pub struct NodedevList {
    /// Also mdevs that are defined but not there
    #[arg(long)]
    all: bool,
    /// Only mdevs that are defined but not there
    #[arg(long, conflicts_with = "all")]
    inactive: bool,
    /// From sysfs, without asking libvirt which of them it shows
    #[arg(long)]
    offline: bool,
}

impl NodedevList {
    /// Whether libvirt is asked.
    #[must_use]
    pub fn asks_libvirt(&self) -> bool {
        !self.offline
    }

    /// Prints the names, one a line.
    ///
    /// # Errors
    /// libvirt can't be reached; those of the output.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        if !self.offline && context.is_remote() {
            let problem = "nodedev-list is about the devices of this host: leave -c out";
            return Err(Failure::Usage(problem.into()).into());
        }
        let sources = Sources::read(&context.root);
        context.warn(&sources.host.warnings);
        let known = if self.offline || context.root.is_recorded() {
            None
        } else {
            Some(context.libvirt.nodedev_names()?)
        };
        for (name, node) in offline::nodes(&sources) {
            let wanted = match node.state() {
                State::Active => !self.inactive,
                State::Defined => self.all || self.inactive,
            };
            if wanted && known.as_ref().is_none_or(|known| known.contains(&name)) {
                writeln!(out, "{name}")?;
            }
        }
        Ok(End::Done)
    }
}
