//! `gfxplane nodedev-dumpxml`: prints libvirt's XML of a node device, with the display that
//! libvirt can't know.

use std::io::Write;

use anyhow::Context as _;

use crate::cli::End;
use crate::libvirt::{Context, Failure};
use crate::publish::inventory::Sources;
use crate::publish::{offline, plain, with_capability};

/// Print a node device's XML, with the vfio_display capability added
#[derive(Debug, clap::Args)]
pub(crate) struct NodedevDumpxml {
    /// A UUID, a PCI address, or libvirt's name of the node device
    #[arg(value_name = "DEVICE")]
    device: String,
    /// Make libvirt's part of the XML from sysfs, without asking libvirt
    #[arg(long)]
    pub(super) offline: bool,
    /// Leave out all that gfxplane adds, so that nodedev-define and nodedev-create accept the XML
    #[arg(long)]
    plain: bool,
}

impl NodedevDumpxml {
    /// Prints the XML.
    ///
    /// # Errors
    /// There is no such device; libvirt can't be reached or its XML can't be read; the output can't
    /// be written.
    pub(crate) fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let sources = Sources::read(&context.root);
        context.warn(&sources.host.warnings);
        let mut found = offline::find(&sources, &self.device);
        if !self.offline && context.is_remote() {
            context
                .say("this libvirt is on another host, and gfxplane's records are about this one");
            found = None;
        }
        let xml = if self.offline || context.root.is_recorded() {
            let missing = || {
                Failure::Environment(format!(
                    "there is no vfio device or mdev parent {:?}: gfxplane nodedev-list --offline names those of this host",
                    self.device
                ))
            };
            let (_, node) = found.as_ref().ok_or_else(missing)?;
            node.xml(&sources)
        } else {
            // libvirt may know devices that don't concern gfxplane. Their XML is printed as it is.
            let name = found
                .as_ref()
                .map_or(self.device.as_str(), |(name, _)| name);
            context.libvirt.nodedev_xml(name)?
        };
        let xml = if self.plain {
            plain(&xml)
        } else {
            let capability = found.map(|(_, node)| node.capability(&sources));
            with_capability(&xml, capability.as_deref())
        };
        out.write_all(xml.context("reading libvirt's XML")?.as_bytes())?;
        Ok(End::Done)
    }
}
