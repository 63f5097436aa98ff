//! The lines of `gfxplane check` about one domain.

use serde::Serialize;

use crate::cli::subject::SubjectArgs;
use crate::device::id::DeviceId;
use crate::explain::doctor::Verdict;
use crate::libvirt::surroundings::HostSurroundings;
use crate::plan::commands::Names;
use crate::plan::{Fix, Plan, Topic};
use crate::predict::arguments::Device;
use crate::predict::screens::{Here, Vgpu};
use crate::predict::{Head, HeadOf, Outcome, Prediction, UNKNOWN_LIBVIRT, UNKNOWN_QEMU, viewers};

/// The name of the first line: whether the domain starts.
pub(super) const START: &str = "start";

/// A line of the check's report about one domain.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    pub(super) what: String,
    pub(super) verdict: Verdict,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(super) more: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) fixes: Vec<String>,
}

impl Line {
    pub(super) fn new(what: impl Into<String>, verdict: Verdict, more: impl Into<String>) -> Self {
        Line {
            what: what.into(),
            verdict,
            more: more.into(),
            fixes: Vec::new(),
        }
    }
}

impl SubjectArgs {
    /// Returns the lines about a domain as it is. `plan` changes nothing, `now` is its prediction,
    /// and `better` is the plan that fixup would make.
    pub(super) fn lines(
        &self,
        surroundings: &HostSurroundings<'_>,
        plan: &Plan,
        now: &Prediction,
        better: Option<&Plan>,
    ) -> Vec<Line> {
        let names = self.names(surroundings.context());
        let fixup = || names.command(&Fix::fixup("", ""));
        let mut start = start(now);
        // Only the plan of fixup knows which changes would help but need consent.
        let notes = better.iter().flat_map(|plan| &plan.notes);
        let notes = notes.filter(|note| matches!(note.topic, Topic::Start | Topic::Seen));
        start.fixes = notes.flat_map(|note| names.fixes(note)).collect();
        start.fixes.dedup();
        if let Outcome::Doubt { because, .. } = &now.outcome {
            start.fixes.splice(0..0, versions(&names, because));
        }
        if let Outcome::No(refusal) = &now.outcome
            && plan.host.as_ref() == Some(refusal)
        {
            start.fixes = vec![names.ready(plan, refusal, |id| surroundings.is_defined(id))];
        }
        let changes = better.is_some_and(|plan| !plan.changes.is_empty());
        if now.refusal().is_some() && start.fixes.is_empty() && changes {
            start.fixes.push(fixup());
        }
        let mut report = vec![start];
        report.extend(plan.screens.vgpus.iter().map(|vgpu| {
            let off = better.and_then(|better| names.off(vgpu.id, better, vec![fixup()]));
            off.map_or_else(
                || display(vgpu),
                |(text, fixes)| Line {
                    fixes,
                    ..Line::new(display_of(vgpu.id), Verdict::Warn, text)
                },
            )
        }));
        report.extend(plan.screens.own_vfio().map(own_vfio));
        report.extend(now.heads.iter().filter_map(seen));
        let notes = plan.notes.iter();
        for note in notes.filter(|note| note.topic == Topic::Other) {
            report.push(Line {
                fixes: names.fixes(note),
                ..Line::new(note.about.to_string(), note.level.into(), &note.text)
            });
        }
        report
    }
}

/// Returns the command with options for the versions, if `because` names no other reason for the
/// doubt than unknown versions; otherwise `None`.
fn versions(names: &Names, because: &str) -> Option<String> {
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
    Some(names.command(&fix))
}

/// Returns the line about the screen of a device; `None` for the screen of an emulated card.
fn seen(head: &Head) -> Option<Line> {
    let HeadOf::Device(_) = head.of else {
        return None;
    };
    let by = viewers(&head.shown_by);
    let what = format!("screen of {}", head.of);
    Some(if by.is_empty() {
        Line::new(what, Verdict::Warn, "no graphics show it")
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

/// Returns the line for a vfio device that is only in the user's own arguments, so that libvirt
/// does not know about it.
fn own_vfio(device: &Device) -> Line {
    let id = device
        .vfio_id()
        .map_or_else(|| "a vfio device".to_owned(), |id| id.to_string());
    Line::new(
        format!("-device {} in qemu:commandline", device.driver),
        Verdict::Warn,
        format!(
            "its display is not checked: libvirt does not know of {id} and gives QEMU no access to it. Use a hostdev instead"
        ),
    )
}

fn start(now: &Prediction) -> Line {
    match &now.outcome {
        Outcome::Yes => Line::new(START, Verdict::Pass, "starts"),
        Outcome::No(refusal) => {
            let who = refusal.stage.who();
            let text = format!("would be refused by {who}: {}", refusal.told());
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
