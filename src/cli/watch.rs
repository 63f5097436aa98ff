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
/// Looks at every domain, and again whenever one is defined, its devices are better known, or the
/// hook has refused it. Makes the changes that it may make unasked, and reports the others with the
/// reason.
#[derive(Debug, clap::Args)]
pub(crate) struct Watch {
    /// Look at every domain once, and end
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
