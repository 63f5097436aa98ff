//! `gfxplane check`: whether a domain will start and its screens be seen.

use std::io::Write;

use anyhow::Context as _;
use serde::Serialize;

use crate::cli::subject::{HostSurroundings, SubjectArgs};
use crate::cli::{Context, End, json};
use crate::fixup::fix;
use crate::plan::{Level, Note, Plan, words};
use crate::policy::{Displays, Wishes};
use crate::predict::{HeadOf, Outcome, Shown};
use crate::record::FORMAT;

/// Tell whether a domain will start and its screens be seen
///
/// Exit code 1 if QEMU or libvirt would refuse the domain.
#[derive(Debug, clap::Args)]
pub struct Check {
    #[command(flatten)]
    about: SubjectArgs,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document<'p> {
    format: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'p str>,
    #[serde(flatten)]
    prediction: Option<&'p crate::predict::Prediction>,
    notes: &'p [Note],
    /// What fixup would change.
    fixup: Vec<String>,
}

impl Check {
    /// Predicts, and prints lines as virt-host-validate does.
    ///
    /// # Errors
    /// XML that can't be read; libvirt can't be reached; those of the output.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let surroundings = HostSurroundings::new(context, &self.about)?;
        let text = self.about.read(context, false)?;
        let policy = surroundings.policy();
        // As it is: whatever the policy would change is for the end.
        let as_it_is = Wishes {
            display: Some(Displays::Off),
            ..Wishes::default()
        };
        let what = || self.about.subject.clone();
        let fixed = fix(&text, &surroundings, &policy, &as_it_is).with_context(what)?;
        let better = fix(&text, &surroundings, &policy, &self.about.wishes()).with_context(what)?;
        surroundings.warn();
        let plan = fixed.plan.as_ref();
        let fixup: Vec<String> = better
            .plan
            .iter()
            .flat_map(|plan| plan.changes.iter().map(|change| words(&change.action)))
            .collect();
        if self.json {
            let document = Document {
                format: FORMAT,
                domain: fixed.name.as_deref(),
                prediction: plan.map(|plan| &plan.before),
                notes: plan.map_or(&[], |plan| &plan.notes),
                fixup,
            };
            json(out, &document)?;
        } else {
            match plan {
                None => line(out, "vfio devices", "PASS", "the domain has none")?,
                Some(plan) => lines(out, plan, better.plan.as_ref(), &fixup)?,
            }
        }
        let refused = plan.is_some_and(|plan| matches!(plan.before.outcome, Outcome::No(_)));
        Ok(if refused { End::Refused } else { End::Done })
    }
}

fn line(out: &mut dyn Write, what: &str, verdict: &str, more: &str) -> std::io::Result<()> {
    let more = if more.is_empty() {
        String::new()
    } else {
        format!(" ({more})")
    };
    writeln!(out, "{:<66}: {verdict}{more}", format!("Checking {what}"))
}

fn lines(
    out: &mut dyn Write,
    plan: &Plan,
    better: Option<&Plan>,
    fixup: &[String],
) -> std::io::Result<()> {
    for vgpu in &plan.screens.vgpus {
        let display = &vgpu.known.finding.facts.display;
        let words = display.words().join(", ");
        let (verdict, more) = match display.reason() {
            Some(reason) => ("WARN", format!("not known: {reason}")),
            None if vgpu.known.is_measured() => ("PASS", format!("{words}, measured")),
            None => ("PASS", format!("{words}, not measured")),
        };
        line(
            out,
            &format!("for the display of {}", vgpu.id),
            verdict,
            &more,
        )?;
    }
    let (verdict, more) = match &plan.before.outcome {
        Outcome::Yes => ("PASS", String::new()),
        Outcome::No(refusal) => (
            "FAIL",
            format!(
                "{}: {}: {}",
                refusal.by.word(),
                refusal.about,
                refusal.message
            ),
        ),
        Outcome::Doubt { refusal, because } => (
            "WARN",
            format!(
                "{} may say: {}; {because}",
                refusal.by.word(),
                refusal.message
            ),
        ),
    };
    line(out, "if the domain starts", verdict, &more)?;
    for head in &plan.before.heads {
        let HeadOf::Device(_) = head.of else { continue };
        let by: Vec<String> = head
            .shown_by
            .iter()
            .map(|(kind, how)| match how {
                Shown::AtOnce => kind.to_string(),
                Shown::AfterSwitch => format!("{kind} after Ctrl-Alt-2"),
            })
            .collect();
        let verdict = if by.is_empty() { "WARN" } else { "PASS" };
        let more = if by.is_empty() {
            "by nobody".into()
        } else {
            format!("by {}", by.join(", "))
        };
        line(
            out,
            &format!("if the screen of {} is seen", head.of),
            verdict,
            &more,
        )?;
    }
    let level = |level| match level {
        Level::Info => "PASS",
        Level::Warn => "WARN",
        Level::Fail => "FAIL",
    };
    // The refusal has had its line.
    for note in plan.notes.iter().filter(|note| note.level != Level::Fail) {
        line(
            out,
            &format!("{}", note.about),
            level(note.level),
            &note.text,
        )?;
        for cure in &note.cures {
            writeln!(out, "    cure: {cure}")?;
        }
    }
    if fixup.is_empty() {
        for note in better.iter().flat_map(|plan| &plan.notes) {
            if note.consent.is_some() {
                for cure in &note.cures {
                    writeln!(out, "    cure: {cure}")?;
                }
            }
        }
    } else {
        writeln!(out, "gfxplane fixup would change: {}", fixup.join("; "))?;
    }
    Ok(())
}
