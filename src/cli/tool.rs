//! `gfxplane`: the verbs, for either of the two programs that run them.

use std::io::{IsTerminal, Write};
use std::sync::Arc;

use clap::{Parser, Subcommand};
use nix::sys::stat::{Mode, umask};

use crate::cli::check::Check;
use crate::cli::collect::Collect;
use crate::cli::doctor::Doctor;
use crate::cli::explain::Explain;
use crate::cli::export::{ExportCommand, Format};
use crate::cli::fixup::Fixup;
use crate::cli::learn::Learn;
use crate::cli::list::List;
use crate::cli::log::Log;
use crate::cli::nodedev_dumpxml::NodedevDumpxml;
use crate::cli::nodedev_list::NodedevList;
use crate::cli::overview::OverviewArgs;
use crate::cli::pager::Paged;
use crate::cli::policy::PolicyCommand;
use crate::cli::qemu::QemuCommand;
use crate::cli::rules::RulesCommand;
use crate::cli::undo::Undo;
use crate::cli::verify::Verify;
use crate::cli::via::ProbeCommand;
use crate::cli::watch::Watch;
use crate::cli::{End, GlobalArgs};
use crate::domain::shell::Harmless;
use crate::host::leave_no_core;
use crate::libvirt::{Context, Failure, Libvirt};

/// Find out what display a vfio device offers, and tell libvirt.
///
/// Without a verb (a command below), prints an overview of this host: its graphics cards, the vGPUs
/// that they offer, the guests that use them, what shows the guests' screens, and the problems.
///
/// Exit codes: 0 done, 1 refused or unknown, 2 wrong usage, 3 the environment lacks something, 4 a
/// fault in gfxplane.
#[derive(Debug, Parser)]
#[command(name = "gfxplane", version)]
pub struct Arguments {
    #[command(flatten)]
    global: GlobalArgs,
    #[command(flatten)]
    overview: OverviewArgs,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(Debug, Subcommand)]
enum Verb {
    List(List),
    Check(Check),
    Collect(Collect),
    Doctor(Doctor),
    Explain(Explain),
    Export(ExportCommand),
    Fixup(Fixup),
    Learn(Learn),
    Undo(Undo),
    Log(Log),
    Policy(PolicyCommand),
    Probe(ProbeCommand),
    Qemu(QemuCommand),
    Rules(RulesCommand),
    Verify(Verify),
    Watch(Watch),
    NodedevList(NodedevList),
    NodedevDumpxml(NodedevDumpxml),
}

/// The kind of text that a verb prints.
enum Printed {
    /// A text for people, which may have colours. It lets nothing of others through that a terminal
    /// acts on.
    Page,
    /// A document, which programs read to the byte.
    Document,
    /// Another text.
    Lines,
}

impl Verb {
    /// Returns whether the verb may ask libvirt, what it prints, and whether a pager shows that. A
    /// verb has no pager if it takes long, asks a question, or prints a single line. `here`: true
    /// if the command is about this host.
    fn traits(&self, here: bool) -> (bool, Printed, bool) {
        use Printed::{Document, Lines, Page};
        match self {
            Verb::List(_) => (false, Page, true),
            Verb::Check(check) => (here || check.asks_libvirt(), Page, true),
            Verb::Collect(_) => (here, Lines, false),
            Verb::Doctor(_) | Verb::Qemu(_) => (here, Page, true),
            Verb::Explain(explain) => (explain.asks_libvirt(), Page, true),
            Verb::Export(export) => (here && export.format == Format::Prometheus, Document, true),
            Verb::Fixup(fixup) => (here || fixup.about.asks_libvirt(), Page, true),
            Verb::Learn(_) | Verb::Policy(_) | Verb::Verify(_) | Verb::Watch(_) => {
                (true, Lines, false)
            }
            Verb::Undo(_) => (true, Document, false),
            Verb::Log(_) => (false, Lines, true),
            Verb::Probe(probe) => (probe.via.is_some(), Lines, false),
            Verb::Rules(rules) => (false, if rules.export { Lines } else { Page }, true),
            Verb::NodedevList(list) => (!list.offline, Lines, true),
            Verb::NodedevDumpxml(dumpxml) => (!dumpxml.offline, Document, true),
        }
    }
}

impl Arguments {
    /// Returns whether the command may ask libvirt.
    #[must_use]
    pub fn ask_libvirt(&self) -> bool {
        // libvirt may be asked what this host's QEMU can do.
        let is_about_this_host = self.global.root.is_none();
        let verb = self.verb.as_ref();
        verb.map_or(is_about_this_host, |verb| verb.traits(is_about_this_host).0)
    }

    /// Returns the URI of the libvirt that the user named, if any.
    #[must_use]
    pub fn connect(&self) -> Option<&str> {
        self.global.connect.as_deref()
    }
}

/// Prepares this process for any verb (no core files, a safe umask, the choice of colours), and
/// returns the context that the verb works with.
///
/// # Errors
/// The directory has no recorded host.
pub(crate) fn start(options: GlobalArgs, libvirt: Arc<dyn Libvirt>) -> Result<Context, Failure> {
    leave_no_core();
    // Everybody may read our files in /run, but only we may write them.
    let _ = umask(Mode::S_IWGRP | Mode::S_IWOTH);
    let context = options.context()?;
    Ok(Context { libvirt, ..context })
}

/// Runs the verb that the arguments name, or prints the overview.
///
/// # Errors
/// The errors of the verb; an option of the overview is given with a verb.
pub fn run(arguments: Arguments, libvirt: Arc<dyn Libvirt>) -> anyhow::Result<End> {
    let context = start(arguments.global, libvirt)?;
    let verb = arguments.verb.as_ref();
    let (_, printed, is_paged) = verb.map_or((true, Printed::Page, true), |verb| verb.traits(true));
    let stdout: Box<dyn Write> = if is_paged {
        Box::new(Paged::default())
    } else {
        Box::new(std::io::stdout().lock())
    };
    let stdout = std::io::BufWriter::new(stdout);
    let is_exact = match printed {
        Printed::Page => true,
        Printed::Document => !std::io::stdout().is_terminal(),
        Printed::Lines => false,
    };
    let mut out: Box<dyn Write> = if is_exact {
        Box::new(stdout)
    } else {
        Box::new(Harmless::new(stdout))
    };
    if let (Some(_), Some(option)) = (&arguments.verb, arguments.overview.given()) {
        let problem = format!(
            "{option} before the command belongs to the overview (gfxplane without a command): put it after the command"
        );
        return Err(Failure::Usage(problem).into());
    }
    let end = match arguments.verb {
        None => arguments.overview.run(&context, &mut *out),
        Some(verb) => of_verb(verb, &context, &mut *out),
    };
    // The output before a failure must come before its message.
    let flushed = out.flush().map_err(anyhow::Error::new);
    flushed.and(end).map_err(unwritten)
}

/// Returns the error for an output that can't be written if `error` is an [`std::io::Error`]
/// without a context: verbs give every other one a context. Returns any other error, and that of a
/// closed pipe, as it is.
fn unwritten(error: anyhow::Error) -> anyhow::Error {
    match error.downcast_ref::<std::io::Error>() {
        Some(lost) if lost.kind() != std::io::ErrorKind::BrokenPipe => {
            Failure::Environment(format!("the output can't be written: {lost}")).into()
        }
        _ => error,
    }
}

fn of_verb(verb: Verb, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
    match verb {
        Verb::List(list) => list.run(context, out),
        Verb::Check(check) => check.run(context, out),
        Verb::Collect(collect) => collect.run(context, out),
        Verb::Doctor(doctor) => doctor.run(context, out),
        Verb::Explain(explain) => explain.run(context, out),
        Verb::Export(export) => export.run(context, out),
        Verb::Fixup(fixup) => fixup.run(context, out),
        Verb::Learn(learn) => learn.run(context, out),
        Verb::Undo(undo) => undo.run(context, out),
        Verb::Log(log) => log.run(context, out),
        Verb::Policy(policy) => policy.run(context, out),
        Verb::Qemu(qemu) => qemu.run(context, out),
        Verb::Probe(probe) => probe.run(context, out),
        Verb::Rules(rules) => rules.run(context, out),
        Verb::Verify(verify) => verify.run(context, out),
        Verb::Watch(watch) => watch.run(context),
        Verb::NodedevList(list) => list.run(context, out),
        Verb::NodedevDumpxml(dumpxml) => dumpxml.run(context, out),
    }
}
