//! `gfxplane verify`: finds out whether a domain starts, by starting a copy.
//!
//! The copy is a small domain with a name and UUID of its own ([`crate::plan::trial::reduce`]). It
//! is paused and transient, and libvirt destroys it when our connection ends, however we end. So
//! libvirt's command line, labels and clean-up are tried, and no definition is touched.
//!
//! The copy gets only devices that nobody uses (`idle.rs` says how that is found out). A problem
//! that is not about the domain (a device in use, no libvirt, no answer in time) is a failure of
//! the environment; a refusal is an answer.

use std::io::Write;
use std::time::{Duration, Instant};

use serde::Serialize;
use uuid::Uuid;

use crate::cli::progress::Progress;
use crate::cli::subject::SubjectArgs;
use crate::cli::{End, json, seconds};
use crate::device::id::DeviceId;
use crate::device::record::FORMAT;
use crate::domain::Domain;
use crate::domain::policy::{Displays, Wishes};
use crate::libvirt::Start;
use crate::libvirt::trial::SmallCopy;
use crate::libvirt::{Context, Failure};
use crate::plan::fixup::{Surroundings as _, fix};
use crate::plan::trial::{LeftOut, Reduced, name, reduce, said};
use crate::plan::words;
use crate::predict::Prediction;
use crate::xml::Document;

/// The longest deadline for an answer, in seconds.
const MAX_DEADLINE: f64 = 3600.0;

/// Tell whether a domain starts, by starting a small copy of it for a moment
///
/// The copy has the domain's vfio devices, graphics and video, and nothing else: no disk, no
/// network, no password. It is started paused, so that nothing runs in it, and destroyed again. Its
/// devices must be active and used by nobody.
///
/// Prints `starts`, or what QEMU or libvirt said and what that means (exit code 1). Exit code 3 if
/// it could not be tried.
#[derive(Debug, clap::Args)]
pub struct Verify {
    #[command(flatten)]
    about: SubjectArgs,
    /// Wait at most this long for the copy to start
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, value_parser = seconds)]
    deadline: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'p> {
    format: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'p str>,
    starts: bool,
    /// The message of the program that refused; `None` if the domain starts.
    message: Option<&'p str>,
    explained: &'p [String],
    predicted: Option<&'p Prediction>,
    /// The changes that fixup would make.
    fixup: Vec<String>,
    left_out: &'p [LeftOut],
}

impl Verify {
    /// Tries the domain, and prints the result.
    ///
    /// # Errors
    /// The XML can't be read; the domain can't be tried ([`Failure::Environment`]); errors of the
    /// output. A refusal is no error but exit code 1.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        self.see_that_it_can_be_tried(context)?;
        let surroundings = self.about.surroundings(context)?;
        let text = self.about.read(context)?;
        let policy = surroundings.policy();
        let bad = |error: &dyn std::fmt::Display| {
            Failure::Refused(format!("{}: {error}", self.about.subject))
        };
        let as_it_is = Wishes {
            display: Some(Displays::Off),
            ..Wishes::default()
        };
        let fix = |wishes| fix(&text, &surroundings, &policy, wishes).map_err(|error| bad(&error));
        let (fixed, better) = (fix(&as_it_is)?, fix(&self.about.wishes())?);
        surroundings.warn();
        let uuid = Uuid::new_v4();
        let reduced = {
            let document = Document::parse(&text).map_err(|error| bad(&error))?;
            let domain = Domain::new(&document).map_err(|error| bad(&error))?;
            let abilities = surroundings.abilities(&domain);
            reduce(&text, &name(uuid), uuid, &abilities).map_err(|error| bad(&error))?
        };
        let limit = Instant::now() + Duration::from_secs_f64(self.deadline);
        let progress = Progress::begin(context.quiet, "starting a small copy of the domain");
        let start = try_it(context, &reduced, uuid, limit)?;
        drop(progress);

        let message = match &start {
            Start::Starts => None,
            Start::Refused(message) => Some(message.as_str()),
        };
        let missing: Vec<&str> = reduced
            .left_out
            .iter()
            .filter(|left| left.matters)
            .map(|left| left.what.as_str())
            .collect();
        let (plan, better) = (fixed.plan.as_ref(), better.plan.as_ref());
        let explained = said::explain(message, plan, better, &missing);
        if self.json {
            let changes = better.into_iter().flat_map(|plan| &plan.changes);
            json(
                out,
                &Report {
                    format: FORMAT,
                    domain: fixed.name.as_deref(),
                    starts: message.is_none(),
                    message,
                    explained: &explained,
                    predicted: plan.map(|plan| &plan.before),
                    fixup: changes.map(|change| words(&change.action)).collect(),
                    left_out: &reduced.left_out,
                },
            )?;
        } else {
            writeln!(out, "{}", message.unwrap_or("starts"))?;
            for line in &explained {
                writeln!(out, "{line}")?;
            }
            for left in &reduced.left_out {
                let matters = if left.matters {
                    ", which may make a difference"
                } else {
                    ""
                };
                context.say(&format!("tried without {}{matters}", left.what));
            }
        }
        Ok(End::of(message.is_none()))
    }

    fn see_that_it_can_be_tried(&self, context: &Context) -> Result<(), Failure> {
        if !(self.deadline > 0.0 && self.deadline <= MAX_DEADLINE) {
            let problem = format!(
                "--deadline is {}: expected seconds above 0, at most {MAX_DEADLINE}",
                self.deadline
            );
            return Err(Failure::Usage(problem));
        }
        if context.root.is_recorded() {
            let problem = "a recorded host has no devices to start a domain with: `gfxplane check` predicts what would happen";
            return Err(Failure::Usage(problem.into()));
        }
        Ok(())
    }
}

/// Starts the small copy through libvirt, and removes everything of it.
fn try_it(
    context: &Context,
    reduced: &Reduced,
    uuid: Uuid,
    limit: Instant,
) -> anyhow::Result<Start> {
    let document = Document::parse(&reduced.xml)?;
    let domain = Domain::new(&document)?;
    let devices: Vec<DeviceId> = domain.hostdevs.iter().map(|hostdev| hostdev.id).collect();
    let copy = SmallCopy {
        root: &context.root,
        connect: context.connect.as_deref(),
        reduced,
        uuid,
        devices: &devices,
    };
    // The user knows better whether a start is still under way.
    let start = copy.start_by(context.libvirt.as_ref(), limit, &|| Ok(()));
    Ok(start.map_err(Failure::from)?)
}
