//! gfxplane, the tool for everything that a person types. It does not load libvirt, which brings
//! fifty libraries with it. For verbs that need libvirt, it runs `gfxplane-libvirt`, the same
//! program with libvirt; for `watch`, `gfxplane-daemon`, which has nothing but the daemon.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::sync::Arc;

use clap::{CommandFactory, Parser};

use gfxplane::cli::complete::Line;
use gfxplane::cli::exit_code;
use gfxplane::cli::tool::{self, Arguments};
use gfxplane::libvirt::Without;

fn main() -> ExitCode {
    ExitCode::from(run())
}

fn run() -> u8 {
    if let Some(line) = Line::asked() {
        return match other("gfxplane-libvirt").filter(|_| cfg!(feature = "libvirt")) {
            Some(program) => with(&program),
            None => exit_code(&line.end(Arguments::command(), Arc::new(Without))),
        };
    }
    if std::env::args_os().skip(1).eq(["watch"])
        && std::env::var_os("GFXPLANE_ROOT").is_none()
        && let Some(program) = other("gfxplane-daemon")
    {
        return with(&program);
    }
    let arguments = Arguments::parse();
    if cfg!(feature = "libvirt")
        && arguments.ask_libvirt()
        && let Some(program) = other("gfxplane-libvirt")
    {
        return with(&program);
    }
    exit_code(&tool::run(arguments, Arc::new(Without)))
}

/// Replaces this process by another program, with the same arguments. Returns only if that program
/// can't be run, with the exit code.
fn with(program: &Path) -> u8 {
    let error = Command::new(program)
        .args(std::env::args_os().skip(1))
        .exec();
    let problem = anyhow::Error::new(error).context(program.display().to_string());
    exit_code(&Err(problem))
}

/// Returns the path of another program of this package: next to this program in a build tree, in
/// libexec once installed. Returns `None` if the program is not there, for example in a build
/// without libvirt.
fn other(name: &str) -> Option<PathBuf> {
    let me = std::env::current_exe().ok()?;
    let beside = me.with_file_name(name);
    let installed = me.parent()?.parent()?.join("libexec/gfxplane").join(name);
    [beside, installed].into_iter().find(|path| path.exists())
}
