//! `gfxplane check`: says whether domains will start and their screens will be visible.

use std::io::Write;

use serde::Serialize;

use crate::cli::subject::{Assumed, Subject, SubjectArgs};
use crate::cli::{End, json};
use crate::device::id::DeviceId;
use crate::device::record::FORMAT;
use crate::domain::policy::{Displays, Wishes};
use crate::domain::shell::{operand, plain_lines};
use crate::host::domains;
use crate::libvirt::Start;
use crate::libvirt::{Context, Failure};
use crate::plan::fixup::fix;
use crate::plan::{Action, Fix, Level, Note, Plan, Topic, words};
use crate::predict::arguments::Device;
use crate::predict::libvirt;
use crate::predict::screens::{Here, Vgpu};
use crate::predict::{About, Head, HeadOf, Outcome, Prediction, Program, Refusal, Stage, viewers};

/// Check whether domains will start and their screens will be visible
///
/// Exit code 1 if QEMU or libvirt would refuse one.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Libvirt domains (name or UUID), files (a path with a slash or with the ending .xml),
    /// or - for stdin
    #[arg(
        value_name = "DOMAIN|FILE|-",
        required_unless_present = "all",
        conflicts_with = "all"
    )]
    subjects: Vec<String>,
    /// Check all domains of libvirt, or of the recorded host
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    assumed: Assumed,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Document {
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
    /// The domain's type if QEMU does not run it.
    #[serde(skip_serializing_if = "Option::is_none")]
    foreign: Option<String>,
    #[serde(flatten)]
    prediction: Option<Prediction>,
    notes: Vec<Note>,
    /// The changes that fixup would make.
    fixup: Vec<String>,
}

/// A document by itself.
#[derive(Serialize)]
struct Alone<'d> {
    format: u32,
    #[serde(flatten)]
    document: &'d Document,
}

/// A domain that could not be checked.
#[derive(Serialize)]
struct Failed {
    domain: String,
    error: String,
}

/// An entry of several.
#[derive(Serialize)]
#[serde(untagged)]
enum Entry {
    Checked(Document),
    Failed(Failed),
}

/// The documents of several domains.
#[derive(Serialize)]
struct Documents {
    format: u32,
    domains: Vec<Entry>,
    summary: Summary,
}

/// The numbers of several domains.
#[derive(Default, Serialize)]
struct Summary {
    domains: usize,
    start: usize,
    refused: usize,
    unknown: usize,
}

impl Summary {
    /// Counts a domain.
    fn count(&mut self, checked: &Checked) {
        if checked.refused {
            self.refused += 1;
        } else if checked.is_doubt() {
            self.unknown += 1;
        } else {
            self.start += 1;
        }
    }

    /// Returns the numbers as a line.
    fn line(&self) -> String {
        let noun = if self.domains == 1 {
            "domain"
        } else {
            "domains"
        };
        let verb = if self.start == 1 { "starts" } else { "start" };
        format!(
            "{} {noun}: {} {verb}, {} would be refused, {} unknown",
            self.domains, self.start, self.refused, self.unknown
        )
    }
}

/// A domain that was checked.
struct Checked {
    document: Document,
    report: Vec<Line>,
    refused: bool,
}

impl Checked {
    fn is_doubt(&self) -> bool {
        let prediction = self.document.prediction.as_ref();
        self.document.foreign.is_some()
            || prediction.is_some_and(|now| matches!(now.outcome, Outcome::Doubt { .. }))
    }

    fn print(&self, out: &mut dyn Write) -> std::io::Result<()> {
        let name = self.document.domain.as_deref().unwrap_or("domain");
        print(out, name, &self.report)?;
        if !self.document.fixup.is_empty() {
            let changes = plain_lines(&self.document.fixup.join("; "));
            writeln!(out, "gfxplane fixup would change: {changes}")?;
        }
        Ok(())
    }
}

impl Check {
    /// Returns whether libvirt is asked.
    #[must_use]
    pub fn asks_libvirt(&self) -> bool {
        let about = |subject: &String| self.about(subject.clone()).asks_libvirt();
        self.subjects.iter().any(about)
    }

    fn about(&self, subject: String) -> SubjectArgs {
        SubjectArgs {
            subject,
            assumed: self.assumed.clone(),
        }
    }

    /// Predicts, and prints lines as virt-host-validate does.
    ///
    /// # Errors
    /// The XML can't be read; libvirt can't be reached; errors of the output. Of several domains
    /// the others are checked first.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        if let ([subject], false) = (&self.subjects[..], self.all) {
            let checked = self.about(subject.clone()).check(context)?;
            if self.json {
                let format = FORMAT;
                let document = &checked.document;
                json(out, &Alone { format, document })?;
            } else {
                checked.print(out)?;
            }
            return Ok(if checked.refused {
                End::Refused
            } else {
                End::Done
            });
        }
        let subjects = if self.all {
            all(context)?
        } else {
            self.subjects.clone()
        };
        let mut summary = Summary {
            domains: subjects.len(),
            ..Summary::default()
        };
        let mut domains = Vec::new();
        let mut failed = Vec::new();
        for subject in subjects {
            match self.about(subject.clone()).check(context) {
                Ok(checked) => {
                    summary.count(&checked);
                    if !self.json {
                        checked.print(out)?;
                    }
                    domains.push(Entry::Checked(checked.document));
                }
                Err(error) => {
                    summary.unknown += 1;
                    let error_text = format!("{error:#}");
                    if !self.json {
                        let line = Line::new("if it can be checked", "FAIL", &error_text);
                        print(out, &subject, &[line])?;
                    }
                    failed.push(error);
                    domains.push(Entry::Failed(Failed {
                        domain: subject,
                        error: error_text,
                    }));
                }
            }
        }
        let refused = summary.refused > 0;
        if self.json {
            let format = FORMAT;
            let documents = Documents {
                format,
                domains,
                summary,
            };
            json(out, &documents)?;
        } else {
            writeln!(out, "{}", summary.line())?;
        }
        // The worst exit code is that of a domain that could not be looked at.
        let worst = failed
            .into_iter()
            .max_by_key(|error| match error.downcast_ref() {
                Some(Failure::Refused(_)) => 1,
                Some(Failure::Usage(_)) => 2,
                Some(Failure::Environment(_)) => 3,
                None => 4,
            });
        match worst {
            Some(error) => Err(error),
            None if refused => Ok(End::Refused),
            None => Ok(End::Done),
        }
    }
}

/// Returns all domains: libvirt's by UUID, those of a recorded host by file.
fn all(context: &Context) -> Result<Vec<String>, Failure> {
    if !context.root.is_recorded() {
        return context.libvirt.all_persistent();
    }
    let mut warnings = Vec::new();
    let files = domains::read(&context.root, &mut warnings);
    context.warn(&warnings);
    let files = files.ok_or_else(|| {
        let directory = context.root.join("etc/libvirt/qemu");
        Failure::Environment(format!(
            "{}: the recording has no domains: name their files",
            directory.display()
        ))
    })?;
    let path = |file: domains::DomainFile| {
        let path = context.root.join("etc/libvirt/qemu");
        path.join(file.name + ".xml").display().to_string()
    };
    Ok(files.into_iter().map(path).collect())
}

impl SubjectArgs {
    /// Predicts what happens to one domain.
    fn check(&self, context: &Context) -> anyhow::Result<Checked> {
        let surroundings = self.surroundings(context)?;
        let text = self.read(context)?;
        let policy = surroundings.policy();
        // This plan shows the domain as it is. The policy's changes are for the end.
        let as_it_is = Wishes {
            display: Some(Displays::Off),
            ..Wishes::default()
        };
        let fix = |wishes: &Wishes| {
            fix(&text, &surroundings, &policy, wishes)
                .map_err(|error| Failure::Refused(format!("{}: {error}", self.subject)))
        };
        let fixed = fix(&as_it_is)?;
        let better = fix(&self.wishes())?;
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
        let off = better.plan.iter().flat_map(|plan| &plan.notes);
        let off: Vec<Note> = off
            .filter(|note| note.topic == Topic::Off)
            .cloned()
            .collect();
        let mut report = match plan.zip(now.as_ref()) {
            None => vec![fixed.foreign_words().map_or_else(
                || Line::new("for vfio devices", "PASS", "the domain has none"),
                |words| Line::new("for vfio devices", "WARN", words),
            )],
            Some((plan, now)) => self.lines(plan, now, better.plan.as_ref()),
        };
        report.extend(mistake);
        let fails = |plan: &Plan| plan.notes.iter().any(|note| note.level == Level::Fail);
        let is_no = |now: &Prediction| matches!(now.outcome, Outcome::No(_));
        let refused = now.as_ref().is_some_and(is_no) || plan.is_some_and(fails);
        Ok(Checked {
            document: Document {
                domain: fixed.name,
                foreign: fixed.foreign,
                prediction: now,
                notes: fixed
                    .plan
                    .into_iter()
                    .flat_map(|plan| plan.notes)
                    .chain(off)
                    .collect(),
                fixup,
            },
            report,
            refused,
        })
    }

    /// Has libvirt apply its checks to the domain, and believes libvirt if the prediction differs.
    /// Then it returns a line that says so.
    fn hold_against_libvirt(
        &self,
        context: &Context,
        text: &str,
        now: &mut Prediction,
    ) -> Option<Line> {
        let assumed = &self.assumed;
        let versions = assumed.qemu.is_some() || assumed.libvirt_version.is_some();
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
                        or: Vec::new(),
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

impl SubjectArgs {
    /// Returns the lines about a domain as it is. `better`: what fixup would make of it.
    fn lines(&self, plan: &Plan, now: &Prediction, better: Option<&Plan>) -> Vec<Line> {
        let vgpus = plan.screens.vgpus.iter();
        let mut report: Vec<Line> = vgpus
            .map(|vgpu| {
                self.if_it_is_off(vgpu, better)
                    .unwrap_or_else(|| display(vgpu))
            })
            .collect();
        let mut start = start(now);
        // Only the planning run knows what would help but needs consent.
        let notes = better.iter().flat_map(|plan| &plan.notes);
        let notes = notes.filter(|note| matches!(note.topic, Topic::Start | Topic::Seen));
        start.fixes = notes.flat_map(|note| self.fixes(note)).collect();
        start.fixes.dedup();
        if let Outcome::No(refusal) = &now.outcome
            && refusal.stage == Stage::Devices
        {
            start.fixes = self.devices_fix(plan, refusal);
        }
        report.push(start);
        report.extend(plan.screens.own_vfio().map(own_vfio));
        report.extend(now.heads.iter().filter_map(seen));
        let notes = plan.notes.iter();
        for note in notes.filter(|note| note.topic == Topic::Other) {
            let verdict = match note.level {
                Level::Info => "PASS",
                Level::Warn => "WARN",
                Level::Fail => "FAIL",
            };
            report.push(Line {
                fixes: self.fixes(note),
                ..Line::new(note.about.to_string(), verdict, &note.text)
            });
        }
        report
    }

    /// Returns what helps against a device that libvirt can't prepare.
    fn devices_fix(&self, plan: &Plan, refusal: &Refusal) -> Vec<String> {
        let About::Device(id) = refusal.about else {
            return Vec::new();
        };
        let edit = match self.subject() {
            Subject::Domain(name) => format!("virsh edit {}: ", operand(Some(&name), None)),
            Subject::File(_) | Subject::Stdin => String::new(),
        };
        let vgpu = plan.screens.vgpus.iter().find(|vgpu| vgpu.id == id);
        let is_here = vgpu.is_some_and(|vgpu| vgpu.known.here != Some(Here::Absent));
        vec![match id {
            DeviceId::Pci(_) if is_here => format!(
                "{edit}managed='yes' on the hostdev, so that libvirt takes the device from its driver"
            ),
            DeviceId::Pci(_) => {
                format!("{edit}another address; gfxplane list shows this host's devices")
            }
            DeviceId::Mdev(uuid) => format!(
                "sudo mdevctl start --uuid {uuid} # if it is defined; gfxplane list shows this host's devices"
            ),
        }]
    }

    fn fixes(&self, note: &Note) -> Vec<String> {
        note.fixes.iter().map(|fix| self.typed(fix)).collect()
    }

    /// Returns the line for a device whose display is off and need not be.
    fn if_it_is_off(&self, vgpu: &Vgpu, better: Option<&Plan>) -> Option<Line> {
        let better = better?;
        let is_about =
            |note: &&Note| note.topic == Topic::Off && note.about == About::Device(vgpu.id);
        let (text, fixes) = if let Some(note) = better.notes.iter().find(is_about) {
            (note.text.clone(), self.fixes(note))
        } else {
            let on = Action::Display {
                device: vgpu.id,
                on: true,
            };
            let change = better.changes.iter().find(|change| change.action == on)?;
            let fix = Fix::Command {
                verb: "fixup",
                options: String::new(),
                reason: String::new(),
            };
            (format!("off: {}", change.reason), vec![self.typed(&fix)])
        };
        Some(Line {
            fixes,
            ..Line::new(for_the_display_of(vgpu.id), "WARN", text)
        })
    }
}

/// Returns the line about who shows the screen of a device.
fn seen(head: &Head) -> Option<Line> {
    let HeadOf::Device(_) = head.of else {
        return None;
    };
    let by = viewers(&head.shown_by);
    let what = format!("who shows the screen of {}", head.of);
    Some(if by.is_empty() {
        Line::new(what, "WARN", "nobody")
    } else {
        Line::new(what, "PASS", by.join(", "))
    })
}

fn for_the_display_of(id: DeviceId) -> String {
    format!("for the display of {id}")
}

fn display(vgpu: &Vgpu) -> Line {
    let display = &vgpu.known.finding.facts.display;
    let words = display.words().join(", ");
    let what = for_the_display_of(vgpu.id);
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
                format!("{who}: {}: {}", refusal.about, refusal.words()),
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
            or: Vec::new(),
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
