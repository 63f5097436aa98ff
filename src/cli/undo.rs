//! `gfxplane undo`: restores a domain's definition from before our changes.

use std::io::Write;

use crate::cli::End;
use crate::cli::fixup::diff;
use crate::cli::subject::name;
use crate::domain::name_and_devices;
use crate::host::log::{By, Entry, What};
use crate::host::state::{State, now};
use crate::libvirt::replace;
use crate::libvirt::{Context, Failure};
use crate::plan::undo::undo_all;

/// Undo what gfxplane changed in domains
///
/// Restores each part of a domain that is still as gfxplane left it. Prints which parts somebody
/// has changed since, and leaves these as they are. From then on the daemon leaves the domain
/// alone, until you use `gfxplane policy DOMAIN KEY=VALUE` or `gfxplane fixup --define DOMAIN`.
#[derive(Debug, clap::Args)]
pub struct Undo {
    /// A domain of this machine's libvirt (name or UUID)
    #[arg(required_unless_present = "all", conflicts_with = "all", value_parser = name)]
    domain: Option<String>,
    /// Undo the changes of all domains, for example before the package is removed
    #[arg(long)]
    all: bool,
    /// Print the changes as a unified diff, and change nothing
    #[arg(long, alias = "diff")]
    print_diff: bool,
    /// Print the restored XML, and change nothing
    #[arg(long, conflicts_with = "all")]
    print_xml: bool,
    /// Print what would be restored, and change nothing
    #[arg(long)]
    dry_run: bool,
}

impl Undo {
    /// Undoes our changes, or prints what would be undone. Returns [`End::Refused`] if none of our
    /// changes is left. With `--all`, returns [`End::Lacking`] if a domain fails.
    ///
    /// # Errors
    /// libvirt can't be reached or refuses the definition; the remembered changes can't be read;
    /// the daemon can't be kept away.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let Some(state) = context.state() else {
            let problem = "only what was done to domains of this machine's own libvirt (qemu:///system) is remembered: leave -c and --root out";
            return Err(Failure::Usage(problem.into()).into());
        };
        state.readable().map_err(|error| {
            Failure::Environment(format!(
                "what was done can't be read: {error}: run this as root"
            ))
        })?;
        if let Some(domain) = &self.domain {
            return self.undo(context, &state, domain, out);
        }
        let mut domains = context.libvirt.all_persistent()?;
        domains.retain(|uuid| {
            // If the remembered changes can't be read, the domain's own undo says why.
            let mut problems = Vec::new();
            !state.undo_stack(*uuid, &mut problems).is_empty() || !problems.is_empty()
        });
        if domains.is_empty() {
            context.say("there is nothing to undo: no change of any domain is remembered");
        }
        let mut end = End::Done;
        for domain in domains {
            let undone = self.undo(context, &state, &domain.to_string(), out);
            end = end.max(undone.unwrap_or_else(|error| {
                context.say(&format!("{domain} stays as it is: {error:#}"));
                End::Lacking
            }));
        }
        Ok(end)
    }

    fn undo(
        &self,
        context: &Context,
        state: &State,
        domain: &str,
        out: &mut dyn Write,
    ) -> anyhow::Result<End> {
        let shows = self.print_diff || self.print_xml || self.dry_run;
        // A definition without its passwords must never be written back, and one with them never
        // shown.
        let before = context.libvirt.definition(domain, !shows)?;
        let (name, _) = name_and_devices(&before.xml);
        let say = |text: &str| match self.all {
            true => context.say(&format!("{name}: {text}")),
            false => context.say(text),
        };
        let uuid = before.uuid;
        let mut warnings = Vec::new();
        let rounds = state.undo_stack(uuid, &mut warnings);
        let was_left_alone = state.hands_off(uuid, &mut warnings);
        context.warn(&warnings);
        if rounds.is_empty() {
            say("there is nothing to undo: no change of this domain is remembered");
            return Ok(End::Refused);
        }
        let rounds = rounds.iter().map(|round| round.changes.as_slice());
        let undone = undo_all(&before.xml, rounds);
        let undone = undone.map_err(|error| Failure::Refused(error.to_string()))?;
        for what in &undone.put_back {
            say(what);
        }
        for why in &undone.passed_over {
            say(&format!("left as it is: {why}"));
        }
        if undone.put_back.is_empty() {
            say("nothing was changed: none of gfxplane's changes is still in place");
            return Ok(End::Refused);
        }
        if self.print_diff {
            out.write_all(diff(&before.xml, &undone.text).as_bytes())?;
        }
        if self.print_xml {
            out.write_all(undone.text.as_bytes())?;
        }
        if shows {
            say("nothing was changed");
            return Ok(End::Done);
        }
        // This comes first, because the daemon hears of the new definition at once.
        state.set_hands_off(uuid, &name, true).map_err(|error| {
            Failure::Environment(format!(
                "nothing was changed: the daemon can't be told to stay away: {error}"
            ))
        })?;
        if let Err(failure) = replace(context.libvirt.as_ref(), &before, &undone.text) {
            if let Err(error) = state.set_hands_off(uuid, &name, was_left_alone) {
                say(&format!(
                    "warning: the daemon still stays away from the domain: {error}"
                ));
            }
            return Err(failure.into());
        }
        say("the domain was defined as it was; the daemon stays away from it");
        if before.is_active {
            say("changes take effect after the domain is fully powered off");
        }
        let mut entry = Entry::new(now(), What::Undone, By::Undo, &name, Some(uuid));
        entry = entry.said(&undone.put_back);
        if !undone.passed_over.is_empty() {
            let passed_over = undone.passed_over.join("; ");
            entry = entry.because(format!("left as it is: {passed_over}"));
        }
        let written = state.clear_undo(uuid).and(state.append(&entry));
        if let Err(error) = written {
            say(&format!("warning: the undo was not recorded: {error}"));
        }
        Ok(End::Done)
    }
}
