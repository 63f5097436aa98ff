//! `gfxplane watch`: runs the daemon.

use std::sync::Arc;

use crate::cli::probe::prober;
use crate::cli::tool::start;
use crate::cli::{End, GlobalArgs};
use crate::daemon;
use crate::libvirt::{Context, Libvirt};

/// Runs the daemon of this host until a signal ends it.
///
/// # Errors
/// Another daemon runs, or something that the daemon needs can't be opened.
pub fn daemon(libvirt: Arc<dyn Libvirt>) -> anyhow::Result<End> {
    Watch { once: false }.run(&start(GlobalArgs::default(), libvirt)?)
}

/// Keep the definitions of all domains correct, as a service
///
/// Checks every domain, and checks it again whenever it is defined, its guest ends, more is known
/// about its devices, or the hook has stopped its start. Makes the changes that it may make by
/// itself, and reports the others with the reason. gfxplane.service runs this.
#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    /// Check every domain once, and end
    #[arg(long)]
    once: bool,
}

impl Watch {
    /// Runs the daemon.
    ///
    /// # Errors
    /// The errors of [`daemon::run`].
    pub(crate) fn run(&self, context: &Context) -> anyhow::Result<End> {
        daemon::run(context, &prober()?, self.once)?;
        Ok(End::Done)
    }
}
