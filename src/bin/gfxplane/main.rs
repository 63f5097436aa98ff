//! The tool: everything that a person types.

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use nix::sys::stat::{Mode, umask};

use gfxplane::cli::check::Check;
use gfxplane::cli::fixup::Fixup;
use gfxplane::cli::list::List;
use gfxplane::cli::nodedev_dumpxml::NodedevDumpxml;
use gfxplane::cli::nodedev_list::NodedevList;
use gfxplane::cli::probe::Probe;
use gfxplane::cli::rules::RulesCommand;
use gfxplane::cli::{End, GlobalArgs, exit_code};

/// Finds out what display a vfio device offers, and tells libvirt.
///
/// Exit codes: 0 done, 1 refused or unknown, 2 usage, 3 the environment lacks something, 4 internal.
#[derive(Debug, Parser)]
#[command(name = "gfxplane", version)]
struct Arguments {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(List),
    Check(Check),
    Fixup(Fixup),
    Probe(Probe),
    Rules(RulesCommand),
    NodedevList(NodedevList),
    NodedevDumpxml(NodedevDumpxml),
}

fn main() -> ExitCode {
    // What is published in /run is for everybody to read and for nobody else to write.
    let _ = umask(Mode::S_IWGRP | Mode::S_IWOTH);
    ExitCode::from(exit_code(&run(Arguments::parse())))
}

fn run(arguments: Arguments) -> anyhow::Result<End> {
    let context = arguments.global.context()?;
    let mut out = std::io::BufWriter::new(std::io::stdout().lock());
    let end = match arguments.verb {
        Verb::List(list) => list.run(&context, &mut out),
        Verb::Check(check) => check.run(&context, &mut out),
        Verb::Fixup(fixup) => fixup.run(&context, &mut out),
        Verb::Probe(probe) => probe.run(&context, &mut out),
        Verb::Rules(rules) => rules.run(&context, &mut out),
        Verb::NodedevList(list) => list.run(&context, &mut out),
        Verb::NodedevDumpxml(dumpxml) => dumpxml.run(&context, &mut out),
    };
    // What was printed before a failure is seen before its message.
    out.flush()?;
    end
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    #[test]
    fn the_arguments_make_sense() {
        super::Arguments::command().debug_assert();
    }
}
