//! `gfxplane doctor`: finds what stands between this host and a working display.

use std::io::Write;
use std::path::Path;

use serde::Serialize;

use crate::cli::{End, json, overview};
use crate::device::record::FORMAT;
use crate::domain::shell;
use crate::explain::doctor::examine as reader;
use crate::explain::doctor::{Line, Verdict, examine, guests, worst};
use crate::host::Warning;
use crate::host::domains::DEFINITIONS;
use crate::libvirt::{Context, Failure};

/// Find what stands between this host and a working display
///
/// Prints PASS, WARN, FAIL and SKIP lines about guests, devices and what is known of them, render nodes and who
/// may open them, QEMU's OpenGL, mdevctl and its callouts, libvirt's hooks, SELinux and AppArmor,
/// versions with known faults, the daemon, and records. A recorded host lacks what SKIP lines are
/// about. Exit code 1 if anything fails. Only root sees all of it.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'l> {
    format: u32,
    verdict: Verdict,
    lines: &'l [Line],
    warnings: &'l [Warning],
}

impl Doctor {
    /// Examines the host, and prints lines as virt-host-validate does.
    ///
    /// # Errors
    /// libvirt is another host's; errors of the output. A check that fails is no error but exit
    /// code 1.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let (lines, warnings) = read(context)?;
        let verdict = worst(&lines);
        if self.json {
            let document = Document {
                format: FORMAT,
                verdict,
                lines: &lines,
                warnings: &warnings,
            };
            json(out, &document)?;
        } else {
            context.warn(&warnings);
            print(out, &lines)?;
        }
        Ok(if verdict == Verdict::Fail {
            End::Refused
        } else {
            End::Done
        })
    }
}

/// Examines a host and its guests. Also returns the warnings that have no line of their own.
///
/// # Errors
/// libvirt is another host's.
pub fn read(context: &Context) -> Result<(Vec<Line>, Vec<Warning>), Failure> {
    if context.is_remote() {
        let problem = "this libvirt is another host's, which can't be examined from here: run gfxplane doctor there";
        return Err(Failure::Environment(problem.into()));
    }
    let (host, mut warnings) = reader::read(&context.root, &|emulator: &Path| {
        context.domain_capabilities(emulator, true)
    });
    let overview = overview::read(context, false)?;
    let mut lines = examine(&host);
    lines.extend(guests(&overview, host.recording));
    // The others have a line, or were found before.
    let domains = context.root.join(DEFINITIONS);
    let of_domains = overview.warnings.into_iter();
    warnings.extend(of_domains.filter(|warning| warning.path.starts_with(&domains)));
    Ok((lines, warnings))
}

/// Writes lines.
///
/// # Errors
/// Errors of the output.
pub fn print(out: &mut dyn Write, lines: &[Line]) -> std::io::Result<()> {
    let widths = lines.iter().map(|line| line.what.chars().count());
    let width = widths.max().unwrap_or(0);
    for line in lines {
        let more = if line.more.is_empty() {
            String::new()
        } else {
            format!(" ({})", plain(&line.more))
        };
        let (what, verdict) = (plain(&line.what), line.verdict.word());
        writeln!(out, "host: Checking {what:<width$} : {verdict}{more}")?;
        for fix in &line.fixes {
            writeln!(out, "    fix: {}", plain(fix))?;
        }
    }
    Ok(())
}

/// Makes a text one line on which no terminal acts. Names of files may contain anything.
fn plain(text: &str) -> String {
    let words: Vec<&str> = text.split_whitespace().collect();
    shell::plain(&words.join(" "))
}
