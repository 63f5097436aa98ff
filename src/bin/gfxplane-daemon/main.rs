//! The daemon alone. `gfxplane watch` runs it, to keep the other verbs and clap out of the memory
//! of a process that never ends.

use std::process::ExitCode;
use std::sync::Arc;

use gfxplane::cli::exit_code;
use gfxplane::cli::watch::daemon;
use gfxplane::libvirt::ByLibrary;

fn main() -> ExitCode {
    let libvirt = Arc::new(ByLibrary::new(None));
    ExitCode::from(exit_code(&daemon(libvirt)))
}
