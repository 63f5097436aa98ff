//! `gfxplane verify`: finds out whether a domain starts, by starting a copy.
//!
//! The copy is a small domain with a name and UUID of its own ([`crate::plan::trial::reduce`]). It
//! is paused and transient, and libvirt destroys it when our connection ends, even if we crash. So
//! libvirt's command line, labels and clean-up are tried, and no definition is touched.
//!
//! The copy gets only devices that nobody uses (`idle.rs`). A refusal of the domain is an answer.
//! Any other problem (a device in use, no libvirt, no answer in time) is a failure of the
//! environment.

use std::io::Write;
use std::time::Instant;

use serde::Serialize;

use crate::cli::progress::Progress;
use crate::cli::subject::SubjectArgs;
use crate::cli::{End, deadline, json, refused, seconds};
use crate::domain::Domain;
use crate::domain::policy::Wishes;
use crate::libvirt::trial::SmallCopy;
use crate::libvirt::{Context, Failure, Start};
use crate::plan::fixup::{Surroundings as _, fix};
use crate::plan::trial::{LeftOut, said};
use crate::plan::words;
use crate::predict::Prediction;
use crate::xml::Document;

/// Test whether a domain starts, by starting a small copy of it
///
/// The copy has the domain's vfio devices, graphics and video, and nothing else: no disk, no
/// network, no password. It is started paused, so that nothing runs in it, and removed at once. Its
/// devices must be active and not in use.
///
/// Prints `starts`, or the message of QEMU or libvirt with an explanation (exit code 1). Exit code
/// 3 if the domain could not be tried.
#[derive(Debug, clap::Args)]
pub struct Verify {
    #[command(flatten)]
    about: SubjectArgs,
    /// Wait at most this long for the start
    #[arg(long, value_name = "SECONDS", default_value_t = 120.0, value_parser = seconds)]
    deadline: f64,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Report<'p> {
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
    /// Tries the domain, and prints the result. Returns [`End::Refused`] if the domain is refused.
    ///
    /// # Errors
    /// The XML can't be read; the domain can't be tried ([`Failure::Environment`]); the output
    /// can't be written.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let deadline = deadline(self.deadline)?;
        context.refuse_recorded("a recorded host has no devices to start a domain with: `gfxplane check` predicts what would happen")?;
        let surroundings = self.about.surroundings(context)?;
        let text = self.about.read(context)?;
        let policy = surroundings.policy();
        let subject = &self.about.subject;
        let fix = |wishes| refused(subject, fix(&text, &surroundings, &policy, wishes));
        let (fixed, better) = (fix(&Wishes::as_it_is())?, fix(&self.about.wishes())?);
        surroundings.warn();
        let copy = {
            let document = refused(subject, Document::parse(&text))?;
            let domain = refused(subject, Domain::new(&document))?;
            let abilities = surroundings.abilities(&domain);
            refused(subject, SmallCopy::of(context, &text, &abilities))?
        };
        let limit = Instant::now() + deadline;
        let progress = Progress::begin(context.quiet, "starting a small copy of the domain");
        let start = copy.start_by(context.libvirt.as_ref(), limit);
        let start = start.map_err(Failure::from)?;
        drop(progress);

        let message = match &start {
            Start::Starts => None,
            Start::Refused(message) => Some(message.as_str()),
        };
        let left_out = &copy.reduced.left_out;
        let missing: Vec<&str> = left_out
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
                    domain: fixed.name.as_deref(),
                    starts: message.is_none(),
                    message,
                    explained: &explained,
                    predicted: plan.map(|plan| &plan.before),
                    fixup: changes.map(|change| words(&change.action)).collect(),
                    left_out,
                },
            )?;
        } else {
            writeln!(out, "{}", message.unwrap_or("starts"))?;
            for line in &explained {
                writeln!(out, "{line}")?;
            }
            for left in left_out {
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
}
