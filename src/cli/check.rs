//! `gfxplane check`: predicts whether domains will start and their screens will be visible.

mod lines;

use std::io::Write;

use serde::Serialize;
use serde_json::json;
use uuid::Uuid;

use lines::{Line, START};

use crate::cli::page::{Page, count};
use crate::cli::subject::{Assumed, SubjectArgs, name};
use crate::cli::{End, code, json, refused};
use crate::domain::policy::Wishes;
use crate::explain::doctor::Verdict;
use crate::host::domains;
use crate::libvirt::Start;
use crate::libvirt::{Context, Failure};
use crate::plan::fixup::fix;
use crate::plan::{Level, Note, Plan, Topic, words};
use crate::predict::libvirt_checks;
use crate::predict::{About, Outcome, Prediction, Program, Refusal, Stage};

/// Check whether domains will start and their screens will be visible
///
/// Predicts what QEMU and libvirt will do, and starts nothing. Prints PASS, WARN, FAIL or SKIP (no
/// vfio device) for each domain, with the reasons and the fixes. Exit code 1 if QEMU or libvirt
/// would refuse one of the domains.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Libvirt domains (name or UUID), files (a path that has a slash or ends in .xml),
    /// or - for stdin
    #[arg(
        value_name = "DOMAIN|FILE|-",
        value_parser = name,
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
    #[serde(skip_serializing_if = "Option::is_none")]
    uuid: Option<Uuid>,
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

/// The counts of several domains.
#[derive(Default, Serialize)]
struct Summary {
    domains: usize,
    start: usize,
    /// The number of domains that start, but have a warning.
    warned: usize,
    refused: usize,
    unknown: usize,
    /// The number of domains without a vfio device.
    skipped: usize,
}

impl Summary {
    fn count(&mut self, checked: &Checked) {
        if checked.document.verdict == Verdict::Skip {
            self.skipped += 1;
        } else if checked.refused {
            self.refused += 1;
        } else if checked.is_doubt() {
            self.unknown += 1;
        } else {
            self.start += 1;
            self.warned += usize::from(checked.document.verdict > Verdict::Pass);
        }
    }

    fn line(&self) -> String {
        let verb = if self.start == 1 { "starts" } else { "start" };
        let domains = count(self.domains, "domain", "domains");
        let warned = match self.warned {
            0 => String::new(),
            some => format!(" ({some} with a warning)"),
        };
        let mut text = format!(
            "{domains}: {} {verb}{warned}, {} would be refused, {} unknown",
            self.start, self.refused, self.unknown
        );
        if self.skipped > 0 {
            text.push_str(&format!(", {} without a vfio device", self.skipped));
        }
        text
    }

    /// Returns the verdict about all domains: a failure if one is refused or if some could not be
    /// checked (`failed`), a warning if one may be refused or has a warning.
    fn verdict(&self, failed: usize) -> Verdict {
        match (self.refused + failed, self.unknown + self.warned) {
            (0, 0) => Verdict::Pass,
            (0, _) => Verdict::Warn,
            _ => Verdict::Fail,
        }
    }
}

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
            let fixup = format!("gfxplane fixup would change: {changes}");
            page.words(None, 1, "", &fixup);
        }
    }
}

/// Adds the lines about a domain to the page. The first line says whether the domain starts.
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
    /// Returns whether a subject is a domain of libvirt's. `--all` does not count.
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

    /// Predicts, and prints the lines. Returns [`End::Refused`] if a domain would be refused.
    ///
    /// # Errors
    /// The XML can't be read; libvirt can't be reached or is on another host; the output can't be
    /// written. With several domains, an error about one is returned after all others were checked.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        if let ([subject], false) = (&self.subjects[..], self.all) {
            let checked = self.about(subject.clone()).check(context)?;
            if self.json {
                json(out, &checked.document)?;
            } else {
                let mut page = Page::default();
                checked.tell(&mut page);
                page.print(out)?;
            }
            return Ok(End::of(!checked.refused));
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
                    domains.push(json!(checked.document));
                }
                Err(error) => {
                    summary.unknown += 1;
                    let error_text = format!("{error:#}");
                    // The line begins with the subject.
                    let subjects = format!("{subject}: ");
                    let why = error_text.strip_prefix(&subjects).unwrap_or(&error_text);
                    let lines = [Line::new(START, Verdict::Fail, why)];
                    tell(&mut page, &subject, &lines);
                    page.blank();
                    failed.push(error);
                    let verdict = Verdict::Fail;
                    domains.push(json!({"domain": subject, "verdict": verdict, "lines": lines, "error": error_text}));
                }
            }
        }
        let refused = summary.refused > 0;
        if self.json {
            json(out, &json!({"domains": domains, "summary": summary}))?;
        } else {
            page.words(Some(summary.verdict(failed.len())), 0, &summary.line(), "");
            page.print(out)?;
        }
        // The error with the highest exit code decides how the command ends.
        match failed.into_iter().max_by_key(code) {
            Some(error) => Err(error),
            None => Ok(End::of(!refused)),
        }
    }
}

/// Returns the UUIDs of libvirt's domains, or the names of a recorded host's.
///
/// # Errors
/// libvirt can't be reached, or the recording has no domains.
fn all(context: &Context) -> Result<Vec<String>, Failure> {
    if !context.root.is_recorded() {
        let all = context.libvirt.all_persistent()?;
        return Ok(all.iter().map(ToString::to_string).collect());
    }
    let mut warnings = Vec::new();
    let names = domains::names(&context.root, &mut warnings);
    context.warn(&warnings);
    names.ok_or_else(|| {
        let directory = context.root.join(domains::DEFINITIONS);
        Failure::Environment(format!(
            "{}: the recording has no domains: name their files",
            directory.display()
        ))
    })
}

impl SubjectArgs {
    /// Predicts the outcome of starting one domain.
    fn check(&self, context: &Context) -> anyhow::Result<Checked> {
        let surroundings = self.surroundings(context)?;
        let text = self.read(context)?;
        let policy = surroundings.policy();
        let fix = |wishes| refused(&self.subject, fix(&text, &surroundings, &policy, wishes));
        // The changes that the policy asks for come last, as a hint.
        let (fixed, better) = (fix(&Wishes::as_it_is())?, fix(&self.wishes())?);
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
            None => {
                let (verdict, words) = match fixed.foreign_words() {
                    None => (Verdict::Skip, "no vfio device: nothing to check".to_owned()),
                    Some(words) => (Verdict::Warn, words),
                };
                vec![Line::new("vfio devices", verdict, words)]
            }
            Some((plan, now)) => self.lines(&surroundings, plan, now, better.plan.as_ref()),
        };
        report.extend(mistake);
        let fails = |plan: &Plan| plan.notes.iter().any(|note| note.level == Level::Fail);
        let is_no = now.as_ref().is_some_and(|now| now.refusal().is_some());
        let refused = is_no || plan.is_some_and(fails);
        let planned = fixed.plan.into_iter().flat_map(|plan| plan.notes);
        let mut notes: Vec<Note> = planned.chain(off).collect();
        self.name_in(context, &mut notes);
        Ok(Checked {
            document: Document {
                domain: fixed.name,
                uuid: fixed.uuid,
                foreign: fixed.foreign,
                verdict: worst(&report),
                lines: report,
                prediction: now,
                notes,
                fixup,
            },
            refused,
        })
    }

    /// Asks libvirt to apply its checks to the domain, and corrects the prediction by the answer.
    /// Returns a line about the difference or about libvirt's failure; `None` if there is neither,
    /// or if libvirt is not asked: about a file, for a recorded host, or with assumed versions.
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

/// Compares libvirt's answer with the prediction, and describes the difference; `None` if there is
/// none. Corrects the prediction: a refusal by libvirt becomes certain, and a certain one that
/// libvirt does not give becomes doubtful. An expected refusal that was in doubt, or that only a
/// real start gives, is no difference if libvirt does not give it.
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
                || libvirt_checks::is_of_real_starts(&refusal.message)
            {
                return None;
            }
            let refusal = refusal.clone();
            let wrong = format!(
                "libvirt accepts the domain; gfxplane wrongly expected {:?}",
                refusal.message
            );
            now.outcome = Outcome::Doubt {
                refusal,
                because: "libvirt accepts the definition".into(),
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
                let refusal = Refusal::new(stage, About::Domain, words, false);
                *now = Prediction::of(Outcome::No(refusal));
            }
            wrong
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libvirts_answer_wins() {
        let no =
            |stage, message: &str| Outcome::No(Refusal::new(stage, About::Domain, message, true));
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
                no(Stage::Start, libvirt_checks::NO_TLS_PORT),
                Start::Starts,
                false,
                libvirt_checks::NO_TLS_PORT,
            ),
        ] {
            let told = format!("{predicted:?} {answer:?}");
            let mut now = Prediction::of(predicted);
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
