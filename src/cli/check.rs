//! `gfxplane check`: says whether a domain will start and its screens will be visible.

use std::io::Write;

use serde::Serialize;

use crate::cli::subject::SubjectArgs;
use crate::cli::{End, json};
use crate::device::id::DeviceId;
use crate::device::record::FORMAT;
use crate::domain::policy::{Displays, Wishes};
use crate::domain::shell::plain_lines;
use crate::libvirt::Start;
use crate::libvirt::{Context, Failure};
use crate::plan::fixup::fix;
use crate::plan::{Fix, Level, Note, Plan, Topic, words};
use crate::predict::arguments::Device;
use crate::predict::libvirt;
use crate::predict::screens::{Here, Vgpu};
use crate::predict::{About, HeadOf, Outcome, Prediction, Program, Refusal, Shown, Stage};

/// Check whether a domain will start and its screens will be visible
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
    prediction: Option<&'p Prediction>,
    notes: &'p [Note],
    /// The changes that fixup would make.
    fixup: Vec<String>,
}

impl Check {
    /// Returns whether libvirt is asked.
    #[must_use]
    pub fn asks_libvirt(&self) -> bool {
        self.about.asks_libvirt()
    }

    /// Predicts, and prints lines as virt-host-validate does.
    ///
    /// # Errors
    /// The XML can't be read; libvirt can't be reached; errors of the output.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let surroundings = self.about.surroundings(context)?;
        let text = self.about.read(context)?;
        let policy = surroundings.policy();
        // This plan shows the domain as it is. The policy's changes are for the end.
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
        let mut now = plan.map(Plan::now);
        let mistake = now
            .as_mut()
            .and_then(|now| self.hold_against_libvirt(context, &text, now));
        let fixup: Vec<String> = better
            .plan
            .iter()
            .flat_map(|plan| plan.changes.iter().map(|change| words(&change.action)))
            .collect();
        if self.json {
            let document = Document {
                format: FORMAT,
                domain: fixed.name.as_deref(),
                prediction: now.as_ref(),
                notes: plan.map_or(&[], |plan| &plan.notes),
                fixup,
            };
            json(out, &document)?;
        } else {
            let mut report = match plan.zip(now.as_ref()) {
                None => vec![Line::new("for vfio devices", "PASS", "the domain has none")],
                Some((plan, now)) => lines(plan, now, better.plan.as_ref()),
            };
            report.extend(mistake);
            let name = fixed.name.as_deref().unwrap_or("domain");
            print(out, name, &report)?;
            if !fixup.is_empty() {
                let changes = plain_lines(&fixup.join("; "));
                writeln!(out, "gfxplane fixup would change: {changes}")?;
            }
        }
        let fails = |plan: &Plan| plan.notes.iter().any(|note| note.level == Level::Fail);
        let refused =
            now.is_some_and(|now| matches!(now.outcome, Outcome::No(_))) || plan.is_some_and(fails);
        Ok(if refused { End::Refused } else { End::Done })
    }
}

impl Check {
    /// Has libvirt apply its checks to the domain, and believes libvirt if the prediction differs.
    /// Then it returns a line that says so.
    fn hold_against_libvirt(
        &self,
        context: &Context,
        text: &str,
        now: &mut Prediction,
    ) -> Option<Line> {
        let versions = self.about.qemu.is_some() || self.about.libvirt_version.is_some();
        if !self.asks_libvirt() || versions || context.root.is_recorded() {
            return None;
        }
        let what = "what libvirt says of the definition";
        match context.libvirt.dry_run(text) {
            Ok(answer) => {
                let wrong = disagreement(answer?, now)?;
                Some(Line {
                    fixes: vec!["gfxplane collect DIR, and a report with that directory".into()],
                    ..Line::new(what, "WARN", wrong)
                })
            }
            Err(failure) => Some(Line::new(what, "WARN", format!("not asked: {failure}"))),
        }
    }
}

/// Compares libvirt's answer with the prediction. If they differ, the prediction becomes that
/// answer, and the difference is returned.
fn disagreement(answer: Start, now: &mut Prediction) -> Option<String> {
    let is_asked =
        |refusal: &Refusal| refusal.by() == Program::Libvirt && refusal.stage != Stage::Devices;
    let expected = match &now.outcome {
        Outcome::No(refusal) | Outcome::Doubt { refusal, .. } if is_asked(refusal) => Some(refusal),
        _ => None,
    };
    match (answer, expected) {
        (Start::Starts, None) => None,
        (Start::Starts, Some(refusal)) => {
            // A dry run gives out no ports, starts no daemon and has no process.
            if matches!(now.outcome, Outcome::Doubt { .. })
                || libvirt::is_of_real_starts(&refusal.message)
            {
                return None;
            }
            let refusal = refusal.clone();
            let wrong = format!(
                "it takes the domain; gfxplane expected {:?}, which is gfxplane's mistake",
                refusal.message
            );
            now.outcome = Outcome::Doubt {
                refusal,
                because: "libvirt takes the definition".into(),
            };
            Some(wrong)
        }
        (Start::Refused(words), expected) => {
            let is_foreseen = expected.is_some_and(|refusal| words.contains(&refusal.message));
            let wrong = (!is_foreseen).then(|| {
                "gfxplane did not expect this refusal: if it is about graphics, video, channels or hostdevs, that is gfxplane's mistake".to_owned()
            });
            let stage = expected.map_or(Stage::Define, |refusal| refusal.stage);
            if !is_foreseen || matches!(now.outcome, Outcome::Doubt { .. }) {
                *now = Prediction {
                    outcome: Outcome::No(Refusal {
                        stage,
                        about: About::Domain,
                        message: words,
                        always: false,
                    }),
                    heads: Vec::new(),
                    dangers: Vec::new(),
                };
            }
            wrong
        }
    }
}

/// A line of the report.
struct Line {
    what: String,
    verdict: &'static str,
    more: String,
    fixes: Vec<String>,
}

impl Line {
    fn new(what: impl Into<String>, verdict: &'static str, more: impl Into<String>) -> Self {
        Line {
            what: what.into(),
            verdict,
            more: more.into(),
            fixes: Vec::new(),
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
            format!(" ({})", plain_lines(&line.more))
        };
        let Line { what, verdict, .. } = line;
        writeln!(out, "{name}: Checking {what:<width$} : {verdict}{more}")?;
        for fix in &line.fixes {
            writeln!(out, "    fix: {}", plain_lines(fix))?;
        }
    }
    Ok(())
}

fn lines(plan: &Plan, now: &Prediction, better: Option<&Plan>) -> Vec<Line> {
    let mut report: Vec<Line> = plan.screens.vgpus.iter().map(display).collect();
    let mut start = start(now);
    // Only the planning run knows what would help but needs consent.
    let fixes = better.iter().flat_map(|plan| &plan.notes);
    let fixes = fixes.filter(|note| note.topic != Topic::Other);
    start.fixes = fixes
        .flat_map(|note| note.fixes.iter().map(Fix::to_string))
        .collect();
    start.fixes.dedup();
    if let Outcome::No(refusal) = &now.outcome
        && refusal.stage == Stage::Devices
    {
        start.fixes = vec![devices_fix(plan, refusal)];
    }
    report.push(start);
    report.extend(plan.screens.own_vfio().map(own_vfio));
    for head in &now.heads {
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
            fixes: note.fixes.iter().map(Fix::to_string).collect(),
            ..Line::new(note.about.to_string(), verdict, &note.text)
        });
    }
    report
}

fn display(vgpu: &Vgpu) -> Line {
    let display = &vgpu.known.finding.facts.display;
    let words = display.words().join(", ");
    let what = format!("for the display of {}", vgpu.id);
    if vgpu.rebound {
        let more = "none: managed='yes' binds it to vfio-pci";
        return Line::new(what, "PASS", more);
    }
    match display.reason() {
        Some(_) if vgpu.known.here == Some(Here::Absent) => {
            Line::new(what, "FAIL", "this host does not have the device")
        }
        Some(reason) => Line::new(what, "WARN", format!("not known: {reason}")),
        None if vgpu.known.is_measured() => Line::new(what, "PASS", format!("{words}, measured")),
        None => Line::new(what, "PASS", format!("{words}, not measured")),
    }
}

/// Returns the fix for a device that libvirt can't prepare.
fn devices_fix(plan: &Plan, refusal: &Refusal) -> String {
    let About::Device(id) = refusal.about else {
        return String::new();
    };
    let vgpu = plan.screens.vgpus.iter().find(|vgpu| vgpu.id == id);
    let is_here = vgpu.is_some_and(|vgpu| vgpu.known.here != Some(Here::Absent));
    match id {
        DeviceId::Pci(_) if is_here => {
            "managed='yes' on the hostdev, so that libvirt takes the device from its driver".into()
        }
        DeviceId::Pci(_) => "another address: gfxplane list shows this host's devices".into(),
        DeviceId::Mdev(uuid) => format!(
            "mdevctl start --uuid {uuid}, if it is defined; gfxplane list shows this host's devices"
        ),
    }
}

/// Returns the line for a vfio device that comes only from the user's own arguments. libvirt knows
/// nothing of it.
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

fn start(now: &Prediction) -> Line {
    let what = "if the domain starts";
    match &now.outcome {
        Outcome::Yes => Line::new(what, "PASS", ""),
        Outcome::No(refusal) => {
            let who = refusal.stage.who();
            Line::new(
                what,
                "FAIL",
                format!("{who}: {}: {}", refusal.about, refusal.message),
            )
        }
        Outcome::Doubt { refusal, because } => {
            let who = refusal.stage.who();
            Line::new(
                what,
                "WARN",
                format!("{who} may say: {}; {because}", refusal.message),
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prediction(outcome: Outcome) -> Prediction {
        Prediction {
            outcome,
            heads: Vec::new(),
            dangers: Vec::new(),
        }
    }

    fn refusal(stage: Stage, message: &str) -> Refusal {
        Refusal {
            stage,
            about: About::Domain,
            message: message.into(),
            always: true,
        }
    }

    #[test]
    fn libvirts_answer_wins() {
        let no = |stage, message| Outcome::No(refusal(stage, message));
        let refused = |words: &str| Start::Refused(format!("unsupported configuration: {words}"));
        for (predicted, answer, mistake, expected) in [
            (Outcome::Yes, Start::Starts, false, "starts"),
            (no(Stage::Define, "A"), refused("A"), false, "A"),
            (no(Stage::Define, "A"), refused("B"), true, "B"),
            (Outcome::Yes, refused("B"), true, "B"),
            (no(Stage::Qemu, "A"), refused("B"), true, "B"),
            (no(Stage::Qemu, "A"), Start::Starts, false, "A"),
            (no(Stage::Devices, "A"), Start::Starts, false, "A"),
            (no(Stage::Define, "A"), Start::Starts, true, "doubt"),
            (
                no(Stage::Start, libvirt::NO_TLS_PORT),
                Start::Starts,
                false,
                libvirt::NO_TLS_PORT,
            ),
        ] {
            let told = format!("{predicted:?} {answer:?}");
            let mut now = prediction(predicted);
            assert_eq!(disagreement(answer, &mut now).is_some(), mistake, "{told}");
            let seen = match &now.outcome {
                Outcome::Yes => "starts",
                Outcome::No(refusal) => refusal.message.as_str(),
                Outcome::Doubt { .. } => "doubt",
            };
            assert!(seen.ends_with(expected), "{told}: {seen}");
        }
    }
}
