//! `gfxplane check`: says whether domains will start and their screens will be visible.

use std::io::Write;

use serde::Serialize;

use crate::cli::page::{Page, count};
use crate::cli::subject::{Assumed, SubjectArgs};
use crate::cli::{End, json};
use crate::device::id::DeviceId;
use crate::device::record::FORMAT;
use crate::domain::policy::{Displays, Wishes};
use crate::explain::doctor::Verdict;
use crate::host::domains;
use crate::libvirt::Start;
use crate::libvirt::surroundings::HostSurroundings;
use crate::libvirt::{Context, Failure};
use crate::plan::fixup::fix;
use crate::plan::{Action, Fix, Level, Note, Plan, Topic, words};
use crate::predict::arguments::Device;
use crate::predict::libvirt;
use crate::predict::screens::{Here, Vgpu};
use crate::predict::{
    About, Head, HeadOf, Outcome, Prediction, Program, Refusal, Stage, UNKNOWN_LIBVIRT,
    UNKNOWN_QEMU, viewers,
};

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
    verdict: Verdict,
    /// The lines of the text form.
    lines: Vec<Line>,
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
    Checked(Box<Document>),
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
    /// Domains without a vfio device.
    skipped: usize,
}

impl Summary {
    /// Counts a domain.
    fn count(&mut self, checked: &Checked) {
        if checked.document.verdict == Verdict::Skip {
            self.skipped += 1;
        } else if checked.refused {
            self.refused += 1;
        } else if checked.is_doubt() {
            self.unknown += 1;
        } else {
            self.start += 1;
        }
    }

    /// Returns the numbers as a line.
    fn line(&self) -> String {
        let verb = if self.start == 1 { "starts" } else { "start" };
        let domains = count(self.domains, "domain", "domains");
        let mut text = format!(
            "{domains}: {} {verb}, {} would be refused, {} unknown",
            self.start, self.refused, self.unknown
        );
        if self.skipped > 0 {
            text.push_str(&format!(", {} without a vfio device", self.skipped));
        }
        text
    }

    /// `failed`: the number of subjects that could not be checked, which count as unknown.
    fn verdict(&self, failed: usize) -> Verdict {
        match (self.refused + failed, self.unknown) {
            (0, 0) => Verdict::Pass,
            (0, _) => Verdict::Warn,
            _ => Verdict::Fail,
        }
    }
}

/// A domain that was checked.
struct Checked {
    document: Document,
    refused: bool,
}

impl Checked {
    fn is_doubt(&self) -> bool {
        let prediction = self.document.prediction.as_ref();
        self.document.foreign.is_some()
            || prediction.is_some_and(|now| matches!(now.outcome, Outcome::Doubt { .. }))
    }

    fn tell(&self, page: &mut Page) {
        let name = self.document.domain.as_deref().unwrap_or("domain");
        tell(page, name, &self.document.lines);
        if !self.document.fixup.is_empty() {
            let changes = self.document.fixup.join("; ");
            page.words(
                None,
                1,
                "",
                &format!("gfxplane fixup would change: {changes}"),
            );
        }
    }
}

/// Adds the lines about a domain. The first says whether it starts.
fn tell(page: &mut Page, name: &str, lines: &[Line]) {
    for (number, line) in lines.iter().enumerate() {
        if number == 0 {
            page.words(Some(worst(lines)), 0, name, &line.more);
        } else {
            page.words(Some(line.verdict), 1, &line.what, &line.more);
        }
        page.commands(1 + usize::from(number > 0), "fix", &line.fixes);
    }
}

fn worst(lines: &[Line]) -> Verdict {
    let verdicts = lines.iter().map(|line| line.verdict);
    verdicts.max().unwrap_or(Verdict::Skip)
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

    /// Predicts, and prints lines.
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
                let mut page = Page::default();
                checked.tell(&mut page);
                page.print(out)?;
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
        let mut page = Page::default();
        for subject in subjects {
            match self.about(subject.clone()).check(context) {
                Ok(checked) => {
                    summary.count(&checked);
                    checked.tell(&mut page);
                    page.blank();
                    domains.push(Entry::Checked(Box::new(checked.document)));
                }
                Err(error) => {
                    summary.unknown += 1;
                    let error_text = format!("{error:#}");
                    // The line begins with the subject.
                    let subjects = format!("{subject}: ");
                    let why = error_text.strip_prefix(&subjects).unwrap_or(&error_text);
                    let line = Line::new(START, Verdict::Fail, why);
                    tell(&mut page, &subject, &[line]);
                    page.blank();
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
            page.words(Some(summary.verdict(failed.len())), 0, &summary.line(), "");
            page.print(out)?;
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
                || {
                    Line::new(
                        "vfio devices",
                        Verdict::Skip,
                        "no vfio device: nothing to check",
                    )
                },
                |words| Line::new("vfio devices", Verdict::Warn, words),
            )],
            Some((plan, now)) => self.lines(&surroundings, plan, now, better.plan.as_ref()),
        };
        report.extend(mistake);
        let fails = |plan: &Plan| plan.notes.iter().any(|note| note.level == Level::Fail);
        let is_no = |now: &Prediction| matches!(now.outcome, Outcome::No(_));
        let refused = now.as_ref().is_some_and(is_no) || plan.is_some_and(fails);
        Ok(Checked {
            document: Document {
                domain: fixed.name,
                foreign: fixed.foreign,
                verdict: worst(&report),
                lines: report,
                prediction: now,
                notes: fixed
                    .plan
                    .into_iter()
                    .flat_map(|plan| plan.notes)
                    .chain(off)
                    .collect(),
                fixup,
            },
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
        let what = "libvirt's own answer";
        match context.libvirt.dry_run(text) {
            Ok(answer) => {
                let wrong = disagreement(answer?, now)?;
                Some(Line {
                    fixes: vec![
                        "gfxplane collect gfxplane-report # for a report of the mistake".into(),
                    ],
                    ..Line::new(what, Verdict::Warn, wrong)
                })
            }
            Err(failure) => Some(Line::new(
                what,
                Verdict::Warn,
                format!("not asked: {failure}"),
            )),
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

/// The subject of the first line.
const START: &str = "start";

/// A line of the report.
#[derive(Debug, Serialize)]
struct Line {
    what: String,
    verdict: Verdict,
    #[serde(skip_serializing_if = "String::is_empty")]
    more: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    fixes: Vec<String>,
}

impl Line {
    fn new(what: impl Into<String>, verdict: Verdict, more: impl Into<String>) -> Self {
        Line {
            what: what.into(),
            verdict,
            more: more.into(),
            fixes: Vec::new(),
        }
    }
}

impl SubjectArgs {
    /// Returns the lines about a domain as it is. `better`: what fixup would make of it.
    fn lines(
        &self,
        surroundings: &HostSurroundings<'_>,
        plan: &Plan,
        now: &Prediction,
        better: Option<&Plan>,
    ) -> Vec<Line> {
        let context = surroundings.context();
        let mut start = start(now);
        // Only the planning run knows what would help but needs consent.
        let notes = better.iter().flat_map(|plan| &plan.notes);
        let notes = notes.filter(|note| matches!(note.topic, Topic::Start | Topic::Seen));
        start.fixes = notes.flat_map(|note| self.fixes(context, note)).collect();
        start.fixes.dedup();
        if let Outcome::Doubt { because, .. } = &now.outcome {
            start.fixes.splice(0..0, self.versions(context, because));
        }
        if let Outcome::No(refusal) = &now.outcome
            && refusal.stage == Stage::Devices
        {
            start.fixes = self.devices_fix(surroundings, plan, refusal);
        }
        let changes = better.is_some_and(|plan| !plan.changes.is_empty());
        if now.refusal().is_some() && start.fixes.is_empty() && changes {
            start.fixes.push(self.command(context, &Fix::fixup()));
        }
        let mut report = vec![start];
        report.extend(plan.screens.vgpus.iter().map(|vgpu| {
            self.if_it_is_off(context, vgpu, better)
                .unwrap_or_else(|| display(vgpu))
        }));
        report.extend(plan.screens.own_vfio().map(own_vfio));
        report.extend(now.heads.iter().filter_map(seen));
        let notes = plan.notes.iter();
        for note in notes.filter(|note| note.topic == Topic::Other) {
            report.push(Line {
                fixes: self.fixes(context, note),
                ..Line::new(note.about.to_string(), note.level.into(), &note.text)
            });
        }
        report
    }

    /// Returns what helps against a device that libvirt can't prepare.
    fn devices_fix(
        &self,
        surroundings: &HostSurroundings<'_>,
        plan: &Plan,
        refusal: &Refusal,
    ) -> Vec<String> {
        let About::Device(id) = refusal.about else {
            return Vec::new();
        };
        let vgpu = plan.screens.vgpus.iter().find(|vgpu| vgpu.id == id);
        let is_here = vgpu.is_some_and(|vgpu| vgpu.known.here != Some(Here::Absent));
        let fix = Fix::for_device(id, is_here, surroundings.is_defined(id));
        vec![self.command(surroundings.context(), &fix)]
    }

    /// Returns the command that names the versions, if it is only they that are not known.
    fn versions(&self, context: &Context, because: &str) -> Option<String> {
        let mut options = String::new();
        for reason in because.split("; ") {
            options.push_str(match reason {
                UNKNOWN_QEMU => " --qemu VERSION",
                UNKNOWN_LIBVIRT => " --libvirt-version VERSION",
                _ => return None,
            });
        }
        let fix = Fix::Command {
            verb: "check",
            options: options.trim_start().to_owned(),
            reason: String::new(),
        };
        Some(self.command(context, &fix))
    }

    fn fixes(&self, context: &Context, note: &Note) -> Vec<String> {
        let fixes = note.fixes.iter();
        fixes.map(|fix| self.command(context, fix)).collect()
    }

    /// Returns the line for a device whose display is off and need not be.
    fn if_it_is_off(&self, context: &Context, vgpu: &Vgpu, better: Option<&Plan>) -> Option<Line> {
        let better = better?;
        let is_about =
            |note: &&Note| note.topic == Topic::Off && note.about == About::Device(vgpu.id);
        let (text, fixes) = if let Some(note) = better.notes.iter().find(is_about) {
            (note.text.clone(), self.fixes(context, note))
        } else {
            let on = Action::Display {
                device: vgpu.id,
                on: true,
            };
            let change = better.changes.iter().find(|change| change.action == on)?;
            let fix = self.command(context, &Fix::fixup());
            (format!("off: {}", change.reason), vec![fix])
        };
        Some(Line {
            fixes,
            ..Line::new(display_of(vgpu.id), Verdict::Warn, text)
        })
    }
}

/// Returns the line about who shows the screen of a device.
fn seen(head: &Head) -> Option<Line> {
    let HeadOf::Device(_) = head.of else {
        return None;
    };
    let by = viewers(&head.shown_by);
    let what = format!("screen of {}", head.of);
    Some(if by.is_empty() {
        Line::new(what, Verdict::Warn, "nobody shows it")
    } else {
        Line::new(what, Verdict::Pass, format!("shown by {}", by.join(", ")))
    })
}

fn display_of(id: DeviceId) -> String {
    format!("display of {id}")
}

fn display(vgpu: &Vgpu) -> Line {
    let display = &vgpu.known.finding.facts.display;
    let words = display.words().join(", ");
    let (verdict, more) = match display.reason() {
        _ if vgpu.rebound => (
            Verdict::Pass,
            "none: managed='yes' binds it to vfio-pci".into(),
        ),
        Some(_) if vgpu.known.here == Some(Here::Absent) => {
            (Verdict::Fail, "this host does not have the device".into())
        }
        Some(reason) => (Verdict::Warn, format!("not known: {}", reason.why())),
        None if vgpu.known.is_measured() => (Verdict::Pass, format!("{words}, measured")),
        None => (Verdict::Pass, format!("{words}, not measured")),
    };
    Line::new(display_of(vgpu.id), verdict, more)
}

/// Returns the line for a vfio device that comes only from the user's own arguments. libvirt knows
/// nothing of it.
fn own_vfio(device: &Device) -> Line {
    let id = device
        .vfio_id()
        .map_or_else(|| "a vfio device".to_owned(), |id| id.to_string());
    Line::new(
        format!("-device {} in qemu:commandline", device.driver),
        Verdict::Warn,
        format!(
            "its display is not looked at: libvirt does not know that the guest has {id}, and gives it no access to that; a hostdev does"
        ),
    )
}

fn start(now: &Prediction) -> Line {
    match &now.outcome {
        Outcome::Yes => Line::new(START, Verdict::Pass, "starts"),
        Outcome::No(refusal) => {
            let who = refusal.stage.who();
            let text = format!(
                "would be refused by {who}: {}: {}",
                refusal.about,
                refusal.words()
            );
            Line::new(START, Verdict::Fail, text)
        }
        Outcome::Doubt { refusal, because } => {
            let who = refusal.stage.who();
            let text = format!(
                "may be refused: {because}; {who} may say: {}",
                refusal.message
            );
            Line::new(START, Verdict::Warn, text)
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
