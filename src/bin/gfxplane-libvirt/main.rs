//! The tool with libvirt. `gfxplane` runs it for what needs libvirt.

use std::process::ExitCode;
use std::sync::Arc;

use clap::Parser;

use gfxplane::cli::exit_code;
use gfxplane::cli::tool::{Arguments, run};
use gfxplane::libvirt::ByLibrary;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let libvirt = ByLibrary::new(arguments.connect());
    ExitCode::from(exit_code(&run(arguments, Arc::new(libvirt))))
}
