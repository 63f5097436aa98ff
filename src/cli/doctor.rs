//! `gfxplane doctor`: finds problems between this host and a working display.

use std::io::Write;
use std::path::Path;

use serde_json::json;

use crate::cli::page::{Page, count};
use crate::cli::{End, json, overview};
use crate::explain::doctor::examine as reader;
use crate::explain::doctor::{Line, Verdict, examine, guests, worst};
use crate::host::Warning;
use crate::host::domains::DEFINITIONS;
use crate::libvirt::{Context, Failure};
use crate::plan::commands::Names;

/// Find problems that keep guests of this host from showing their screens
///
/// Prints PASS, WARN, FAIL and SKIP lines about guests, devices and their records, render nodes and
/// who may open them, QEMU's OpenGL, mdevctl and its callouts, libvirt's hooks, SELinux and
/// AppArmor, versions with known faults, and the daemon. SKIP marks a check for which the recorded
/// host has no data. Exit code 1 if anything fails. Run it as root, so that it
/// can read everything.
#[derive(Debug, clap::Args)]
pub(crate) struct Doctor {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Doctor {
    /// Examines the host, and prints a line for each check. If a check fails, returns
    /// [`End::Refused`].
    ///
    /// # Errors
    /// libvirt is on another host; the output can't be written.
    pub(crate) fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let (lines, warnings) = read(context)?;
        let verdict = worst(&lines);
        if self.json {
            json(
                out,
                &json!({"verdict": verdict, "lines": lines, "warnings": warnings}),
            )?;
        } else {
            context.warn(&warnings);
            text(&lines).print(out)?;
        }
        Ok(End::of(verdict != Verdict::Fail))
    }
}

/// Examines a host and its guests. Also returns the warnings that have no line of their own.
///
/// # Errors
/// libvirt is on another host.
pub fn read(context: &Context) -> Result<(Vec<Line>, Vec<Warning>), Failure> {
    context.refuse_remote()?;
    let (host, mut warnings) = reader::read(&context.root, &|emulator: &Path| {
        context.domain_capabilities(emulator, true)
    });
    let overview = overview::read(context, false)?;
    let connect = context.connect.as_deref();
    let holders = overview.holders().into_iter();
    let holders = holders.map(|(id, name)| (id, Names::of_domain(connect, &name, None).operand()));
    let mut lines = examine(&host, &holders.collect());
    lines.extend(guests(&overview, host.recording));
    // The other warnings have a line, or were found before.
    let domains = context.root.join(DEFINITIONS);
    let of_domains = overview.warnings.into_iter();
    warnings.extend(of_domains.filter(|warning| warning.path.starts_with(&domains)));
    Ok((lines, warnings))
}

/// Returns the lines as text.
#[must_use]
pub fn text(lines: &[Line]) -> Page {
    let mut page = Page::default();
    let of = |verdict| lines.iter().filter(|line| line.verdict == verdict).count();
    let counts = [
        (of(Verdict::Fail), "failed"),
        (of(Verdict::Warn), "with warnings"),
        (of(Verdict::Pass), "passed"),
        (of(Verdict::Skip), "skipped"),
    ];
    let counts: Vec<String> = counts
        .iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, word)| format!("{count} {word}"))
        .collect();
    let checks = count(lines.len(), "check", "checks");
    let head = format!("{checks}: {}", counts.join(", "));
    page.words(Some(worst(lines)), 0, &head, "");
    page.blank();
    for line in lines {
        page.words(Some(line.verdict), 0, &line.what, &line.more);
        page.commands(1, "fix", &line.fixes);
    }
    page
}
