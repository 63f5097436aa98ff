//! `gfxplane watch`: runs the daemon.

use crate::cli::End;
use crate::cli::probe::prober;
use crate::daemon;
use crate::libvirt::Context;

/// Keep the definitions of all domains right, as a service
///
/// Looks at every domain, and again whenever one is defined, its devices are better known, or the
/// hook has refused it. Makes the changes that it may make unasked, and reports the others with the
/// reason.
#[derive(Debug, Default, clap::Args)]
pub(crate) struct Watch {
    /// Look at every domain once, and end
    #[arg(long)]
    once: bool,
}

impl Watch {
    /// Runs the daemon until it is told to end.
    ///
    /// # Errors
    /// The host is a recorded one or another; with `--once`, libvirt can't be reached.
    pub(crate) fn run(&self, context: &Context) -> anyhow::Result<End> {
        daemon::run(context, &prober()?, self.once)?;
        Ok(End::Done)
    }
}
