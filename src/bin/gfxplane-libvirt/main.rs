//! The tool with libvirt's library. `gfxplane` runs it for verbs that need libvirt.

use std::process::ExitCode;
use std::sync::Arc;

use clap::{CommandFactory, Parser};

use gfxplane::cli::complete::Line;
use gfxplane::cli::exit_code;
use gfxplane::cli::tool::{Arguments, run};
use gfxplane::libvirt::ByLibrary;

fn main() -> ExitCode {
    if let Some(line) = Line::asked() {
        let libvirt = Arc::new(ByLibrary::new(line.connect().as_deref()));
        return ExitCode::from(exit_code(&line.end(Arguments::command(), libvirt)));
    }
    let arguments = Arguments::parse();
    let libvirt = ByLibrary::new(arguments.connect());
    ExitCode::from(exit_code(&run(arguments, Arc::new(libvirt))))
}
