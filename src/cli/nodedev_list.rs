//! `gfxplane nodedev-list`: lists the node devices to which nodedev-dumpxml adds a capability.

use std::io::Write;

use crate::cli::End;
use crate::libvirt::{Context, Failure};
use crate::publish::inventory::{Sources, State};
use crate::publish::offline;

/// List the node devices to which nodedev-dumpxml adds a capability
#[derive(Debug, clap::Args)]
pub(crate) struct NodedevList {
    /// Also list mdevs that are defined but not active
    #[arg(long)]
    all: bool,
    /// List only mdevs that are defined but not active
    #[arg(long, conflicts_with = "all")]
    inactive: bool,
    /// List the devices in sysfs, without asking libvirt which of them it knows
    #[arg(long)]
    pub(super) offline: bool,
}

impl NodedevList {
    /// Prints the names, one a line.
    ///
    /// # Errors
    /// libvirt can't be reached; the output can't be written.
    pub(crate) fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
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
        let nodes = offline::nodes(&sources);
        if nodes.is_empty() {
            context.say("this host has no vfio device and no type of one; gfxplane doctor says what is missing");
        }
        for (name, node) in nodes {
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
