//! `gfxplane check`: whether a domain will start and its screens be seen.

use std::io::Write;

use serde::Serialize;

use crate::arguments::Device;
use crate::cli::subject::{HostSurroundings, SubjectArgs};
use crate::cli::{Context, End, Failure, json};
use crate::fixup::fix;
use crate::plan::{Level, Note, Plan, Topic, words};
use crate::policy::{Displays, Wishes};
use crate::predict::{HeadOf, Outcome, Shown};
use crate::record::FORMAT;
use crate::screens::Vgpu;

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
    /// Whether libvirt is asked.
    #[must_use]
    pub fn asks_libvirt(&self) -> bool {
        self.about.asks_libvirt()
    }

    /// Predicts, and prints lines as virt-host-validate does.
    ///
    /// # Errors
    /// XML that can't be read; libvirt can't be reached; those of the output.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let surroundings = HostSurroundings::new(context, &self.about)?;
        let text = self.about.read(context)?;
        let policy = surroundings.policy();
        // As it is: whatever the policy would change is for the end.
        let as_it_is = Wishes {
            display: Some(Displays::Off),
            ..Wishes::default()
        };
        let fix = |wishes: &Wishes| {
            fix(&text, &surroundings, &policy, wishes)
                .map_err(|error| Failure::Refused(format!("{}: {error}", self.about.subject)))
        };
        let fixed = fix(&as_it_is)?;
        let better = fix(&self.about.wishes())?;
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
            let report = match plan {
                None => vec![Line::new("for vfio devices", "PASS", "the domain has none")],
                Some(plan) => lines(plan, better.plan.as_ref()),
            };
            let name = fixed.name.as_deref().unwrap_or("domain");
            print(out, name, &report)?;
            if !fixup.is_empty() {
                writeln!(out, "gfxplane fixup would change: {}", fixup.join("; "))?;
            }
        }
        let refused = plan.is_some_and(|plan| matches!(plan.before.outcome, Outcome::No(_)));
        Ok(if refused { End::Refused } else { End::Done })
    }
}

/// A line of the report.
struct Line {
    what: String,
    verdict: &'static str,
    more: String,
    cures: Vec<String>,
}

impl Line {
    fn new(what: impl Into<String>, verdict: &'static str, more: impl Into<String>) -> Self {
        Line {
            what: what.into(),
            verdict,
            more: more.into(),
            cures: Vec::new(),
        }
    }
}

fn print(out: &mut dyn Write, name: &str, report: &[Line]) -> std::io::Result<()> {
    let width = report
        .iter()
        .map(|line| line.what.chars().count())
        .max()
        .unwrap_or(0);
    for line in report {
        let more = if line.more.is_empty() {
            String::new()
        } else {
            format!(" ({})", line.more)
        };
        let Line { what, verdict, .. } = line;
        writeln!(out, "{name}: Checking {what:<width$} : {verdict}{more}")?;
        for cure in &line.cures {
            writeln!(out, "    cure: {cure}")?;
        }
    }
    Ok(())
}

fn lines(plan: &Plan, better: Option<&Plan>) -> Vec<Line> {
    let mut report: Vec<Line> = plan.screens.vgpus.iter().map(display).collect();
    let mut start = start(plan);
    // What would help but needs a consent is known only to who tried to repair.
    let cures = better.iter().flat_map(|plan| &plan.notes);
    let cures = cures.filter(|note| note.topic != Topic::Other);
    start.cures = cures.flat_map(|note| note.cures.clone()).collect();
    start.cures.dedup();
    report.push(start);
    report.extend(plan.screens.own_vfio().map(own_vfio));
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
        let what = format!("who shows the screen of {}", head.of);
        report.push(if by.is_empty() {
            Line::new(what, "WARN", "nobody")
        } else {
            Line::new(what, "PASS", by.join(", "))
        });
    }
    for note in plan.notes.iter().filter(|note| note.topic == Topic::Other) {
        let verdict = match note.level {
            Level::Info => "PASS",
            Level::Warn => "WARN",
            Level::Fail => "FAIL",
        };
        report.push(Line {
            cures: note.cures.clone(),
            ..Line::new(note.about.to_string(), verdict, &note.text)
        });
    }
    report
}

fn display(vgpu: &Vgpu) -> Line {
    let display = &vgpu.known.finding.facts.display;
    let words = display.words().join(", ");
    let what = format!("for the display of {}", vgpu.id);
    match display.reason() {
        Some(reason) => Line::new(what, "WARN", format!("not known: {reason}")),
        None if vgpu.known.is_measured() => Line::new(what, "PASS", format!("{words}, measured")),
        None => Line::new(what, "PASS", format!("{words}, not measured")),
    }
}

/// A vfio device that is whole in the user's own arguments, of which libvirt knows nothing.
fn own_vfio(device: &Device) -> Line {
    let id = device
        .vfio_id()
        .map_or_else(|| "a vfio device".to_owned(), |id| id.to_string());
    Line::new(
        format!("-device {} in qemu:commandline", device.driver),
        "WARN",
        format!(
            "its display is not looked at: libvirt does not know that the guest has {id}, and gives it no access to that; a hostdev does"
        ),
    )
}

fn start(plan: &Plan) -> Line {
    let what = "if the domain starts";
    match &plan.before.outcome {
        Outcome::Yes => Line::new(what, "PASS", ""),
        Outcome::No(refusal) => {
            let by = refusal.by.word();
            Line::new(
                what,
                "FAIL",
                format!("{by}: {}: {}", refusal.about, refusal.message),
            )
        }
        Outcome::Doubt { refusal, because } => {
            let by = refusal.by.word();
            Line::new(
                what,
                "WARN",
                format!("{by} may say: {}; {because}", refusal.message),
            )
        }
    }
}
