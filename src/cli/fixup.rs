//! `gfxplane fixup`: makes a domain's XML match its devices.

use std::io::{self, BufRead, IsTerminal, Write};
use std::time::{Duration, Instant};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use serde::Serialize;
use serde_json::{Value, json};

use crate::cli::progress::Progress;
use crate::cli::subject::{self, Subject, SubjectArgs};
use crate::cli::{End, json, refused};
use crate::domain::policy::Displays;
use crate::domain::shell::{operand, plain_lines};
use crate::host::log::By;
use crate::host::state::{Made, State};
use crate::libvirt::surroundings::HostSurroundings;
use crate::libvirt::trial::{NotTried, Question, Seen};
use crate::libvirt::{Context, Failure};
use crate::libvirt::{Definition, replace};
use crate::plan::fixup::{Fixed, fix};
use crate::plan::{Level, Plan, words};

/// The time that a trial may take.
const DEADLINE: Duration = Duration::from_secs(120);

/// Make a domain's XML match its vfio devices
///
/// For a file or stdin, prints the new XML to stdout, and the changes with their reasons to stderr.
/// For a domain, reads its persistent definition and shows the changes; --define makes them.
///
/// Fixes a domain as a whole or leaves it as it is. Exit code 1 if QEMU or libvirt would refuse the
/// result, or if consent is missing. In that case, a file's XML is printed only with
/// --print-xml.
#[derive(Debug, clap::Args)]
pub struct Fixup {
    #[command(flatten)]
    pub(super) about: SubjectArgs,
    /// Switch off the displays of all vfio devices
    #[arg(long, conflicts_with_all = ["trust_rules", "policy"])]
    no_display: bool,
    /// Print the changes as a unified diff
    #[arg(long, alias = "diff")]
    print_diff: bool,
    /// Print the new XML
    #[arg(long)]
    print_xml: bool,
    /// Print the changes as a diff, and ask whether to define the domain
    #[arg(long)]
    confirm: bool,
    /// Define the domain with the new XML, which takes effect at its next start
    #[arg(long)]
    define: bool,
    /// Define and start nothing, even with --define or --confirm
    #[arg(long)]
    dry_run: bool,
    /// Define the domain even if it is not known to start
    ///
    /// Without this option, a domain is defined only if it is known to start: because such a domain
    /// was measured with the same versions of QEMU and libvirt, or because a small copy of it has
    /// started on this host. If neither is known, gfxplane first starts a copy, for a moment and on
    /// devices that nobody uses.
    #[arg(long)]
    no_trial: bool,
    /// Print the plan and the new XML as JSON
    #[arg(long, conflicts_with_all = ["print_diff", "print_xml", "confirm"])]
    json: bool,
}

#[derive(Serialize)]
struct Document<'p> {
    #[serde(skip_serializing_if = "Option::is_none")]
    domain: Option<&'p str>,
    changed: bool,
    #[serde(flatten)]
    plan: Option<&'p Plan>,
    /// How it is known that the new definition starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    trial: Option<Value>,
    xml: &'p str,
    /// The changes, as a diff.
    #[serde(skip_serializing_if = "String::is_empty")]
    diff: String,
}

impl Fixup {
    /// Plans, prints, and defines the domain if asked to. Returns [`End::Refused`] if the domain
    /// would still be refused or consent is missing.
    ///
    /// # Errors
    /// The XML can't be read; libvirt can't be reached or refuses the new definition; the changed
    /// domain is not known to start; the output can't be written.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let subject = self.about.subject_of(context);
        let defines = self.define || self.confirm;
        if defines && !matches!(subject, Subject::Domain(_) | Subject::Recorded(..)) {
            let problem = "--define and --confirm are for domains of libvirt's: a file is not defined (virsh define does that)";
            return Err(Failure::Usage(problem.into()).into());
        }
        if defines {
            let why = "a domain of this libvirt can't be defined by the facts of a recorded host";
            context.refuse_recorded(why)?;
        }
        let surroundings = self.about.surroundings(context)?;
        let definition = match &subject {
            // A definition without its passwords must never be written back.
            Subject::Domain(name) => Some(subject::definition(context, name, defines)?),
            _ => None,
        };
        let text = match &definition {
            Some(definition) => definition.xml.clone(),
            None => self.about.read(context)?,
        };
        let policy = surroundings.policy();
        let mut wishes = self.about.wishes();
        if self.no_display {
            // The domain's own policy may forbid managing displays. The user has the last word.
            wishes.no_display = true;
            wishes.display = Some(Displays::Asked);
        }
        let fix = |text: &str| {
            let fixed = fix(text, &surroundings, &policy, &wishes);
            refused(&self.about.subject, fixed)
        };
        let fixed = fix(&text)?;
        let is_refused = fixed.plan.as_ref().is_some_and(|plan| {
            let lacks_consent = plan.notes.iter().any(|note| note.consent.is_some());
            let fails = plan.notes.iter().any(|note| note.level == Level::Fail);
            lacks_consent || fails || plan.after.refusal().is_some()
        });
        let end = End::of(!is_refused);
        // The shown XML has no passwords in it.
        let (shown, mut fixed_shown) = match &subject {
            Subject::Domain(name) if defines => {
                let shown = context.libvirt.definition(name, false)?.xml;
                let fixed = fix(&shown)?;
                (shown, fixed)
            }
            _ => (text.clone(), fixed.clone()),
        };
        surroundings.warn();
        let definition = definition.as_ref();
        let changes = definition.filter(|_| defines && fixed.text != text);
        let try_it = || self.see(context, &surroundings, &fixed.text);
        if self.json {
            let seen = changes.and_then(|_| try_it());
            if let Some(plan) = &mut fixed_shown.plan {
                self.about.name_in(context, &mut plan.notes);
            }
            json(out, &document(&fixed_shown, &shown, seen.as_ref()))?;
            if let Some(definition) = changes {
                self.define(context, out, definition, &fixed, &|| seen.clone())?;
            }
        } else {
            let is_domain = definition.is_some();
            self.show(context, out, &shown, &fixed_shown, is_domain, end)?;
            if let Some(definition) = changes {
                self.define(context, out, definition, &fixed, &try_it)?;
            }
        }
        Ok(end)
    }

    /// Prints to stdout what the user asked for, and the reasons to stderr. `text` is the XML
    /// without the changes. `is_domain` is true if libvirt has the domain. The XML of a file is
    /// printed only if `end` is [`End::Done`] or the user asked for it.
    fn show(
        &self,
        context: &Context,
        out: &mut dyn Write,
        text: &str,
        fixed: &Fixed,
        is_domain: bool,
        end: End,
    ) -> anyhow::Result<()> {
        if let Some(words) = fixed.foreign_words() {
            context.say(&format!("nothing to do: {words}"));
        } else if let Some(plan) = &fixed.plan {
            for change in &plan.changes {
                context.say(&format!("{}: {}", words(&change.action), change.reason));
            }
            for note in &plan.notes {
                let level = match note.level {
                    Level::Info => "note",
                    Level::Warn => "warning",
                    Level::Fail => "not fixed",
                };
                context.say(&format!("{level}: {}", note.about.before(&note.text)));
                for fix in &note.fixes {
                    context.say(&format!(
                        "  fix: {}",
                        self.about.names(context).command(fix)
                    ));
                }
            }
            if plan.is_empty() && plan.notes.is_empty() {
                context.say("nothing to do: the domain matches its devices");
            }
        } else if is_domain {
            context.say("nothing to do: the domain has no vfio devices");
        }
        let shows_diff =
            self.print_diff || self.confirm || (is_domain && !self.print_xml && !self.define);
        if shows_diff {
            show_diff(out, &diff(text, &fixed.text))?;
        }
        let is_asked = !is_domain && !self.print_diff;
        if self.print_xml || is_asked && end == End::Done {
            let is_terminal = io::stdout().is_terminal();
            let shown = is_terminal.then(|| plain_lines(&fixed.text));
            out.write_all(shown.unwrap_or_else(|| fixed.text.clone()).as_bytes())?;
        } else if is_asked {
            // The reader of stdout may define the XML.
            context.say("no XML is printed, as not all is fixed; --print-xml prints it");
        }
        if is_domain && !self.define && !self.confirm && !self.dry_run && fixed.text != text {
            context.say("nothing was changed; --define makes the changes");
        }
        Ok(())
    }

    /// Finds out whether the changed domain starts, from what is known or by a trial; `None` with
    /// `--no-trial` or `--dry-run`.
    fn see(
        &self,
        context: &Context,
        surroundings: &HostSurroundings<'_>,
        text: &str,
    ) -> Option<Result<Seen, NotTried>> {
        if self.no_trial || self.dry_run {
            return None;
        }
        let limit = Instant::now() + DEADLINE;
        let question = match Question::new(context, text, surroundings) {
            Ok(question) => question,
            Err(error) => return Some(Err(NotTried::Failed(error.to_string()))),
        };
        let mut warnings = Vec::new();
        let known = question.known(&mut warnings);
        context.warn(&warnings);
        Some(match known.filter(Seen::is_final) {
            Some(seen) => Ok(seen),
            None => {
                let doing = "starting a small copy of the domain";
                let _progress = Progress::begin(context.quiet, doing);
                question.try_in_turn(context.libvirt.as_ref(), limit)
            }
        })
    }

    /// Returns an error unless `seen` shows that the changed domain starts. Without a trial
    /// (`None`), accepts any domain.
    fn judge(
        &self,
        context: &Context,
        before: &Definition,
        name: Option<&str>,
        seen: Option<Result<Seen, NotTried>>,
    ) -> Result<(), Failure> {
        let Some(seen) = seen else { return Ok(()) };
        let typed = operand(name, Some(before.uuid));
        let no_trial =
            format!("gfxplane fixup {typed} --define --no-trial defines it all the same");
        match seen {
            Ok(seen) if seen.starts => {
                context.say(&seen.to_string());
                Ok(())
            }
            Ok(seen) => Err(Failure::Refused(format!(
                "the domain was not changed: {seen}; {no_trial}"
            ))),
            Err(error) => Err(Failure::Environment(format!(
                "the domain was not changed, because it is not known to start: {error}; {no_trial}"
            ))),
        }
    }

    fn define(
        &self,
        context: &Context,
        out: &mut dyn Write,
        before: &Definition,
        fixed: &Fixed,
        see: &dyn Fn() -> Option<Result<Seen, NotTried>>,
    ) -> anyhow::Result<()> {
        if self.confirm {
            write!(out, "\nDefine the domain with the changed XML? (y/n): ")?;
            out.flush()?;
            let mut answer = String::new();
            std::io::stdin().lock().read_line(&mut answer)?;
            if !matches!(answer.trim(), "y" | "Y" | "yes") {
                context.say("the domain was not changed");
                return Ok(());
            }
        }
        if self.dry_run {
            context.say("--dry-run: the domain was not changed");
            return Ok(());
        }
        self.judge(context, before, fixed.name.as_deref(), see())?;
        replace(context.libvirt.as_ref(), before, &fixed.text)?;
        context.say("the domain was defined with the changes");
        if let Some(state) = context.state()
            && let Err(error) = remember(context, &state, before, fixed)
        {
            context.say(&format!(
                "warning: not remembered, so `gfxplane undo` can't put it back: {error:#}"
            ));
        }
        if before.is_active {
            context.say("changes take effect after the domain is fully powered off");
        }
        Ok(())
    }
}

/// Remembers the change for undo, as the daemon does with its own changes. If changes of this
/// domain were undone before, lets the daemon manage the domain again.
fn remember(
    context: &Context,
    state: &State,
    before: &Definition,
    fixed: &Fixed,
) -> anyhow::Result<()> {
    let uuid = before.uuid;
    let name = fixed.name.as_deref().unwrap_or_default();
    let after = context.libvirt.definition(&uuid.to_string(), true)?;
    let changes = fixed.plan.as_ref().map(|plan| plan.changes.as_slice());
    let made = Made {
        uuid,
        name,
        before: &before.xml,
        after: &after.xml,
        changes: changes.unwrap_or_default(),
    };
    state.made(By::Fixup, &made)?;
    let mut warnings = Vec::new();
    if state.hands_off(uuid, &mut warnings) {
        state.set_hands_off(uuid, name, false)?;
        context.say("the daemon manages the domain again");
    }
    Ok(())
}

fn document<'p>(
    fixed: &'p Fixed,
    text: &str,
    seen: Option<&Result<Seen, NotTried>>,
) -> Document<'p> {
    Document {
        domain: fixed.name.as_deref(),
        changed: fixed.text != text,
        plan: fixed.plan.as_ref(),
        trial: seen.map(|seen| match seen {
            Ok(seen) => json!(seen),
            Err(error) => json!({"reason": error.to_string()}),
        }),
        xml: &fixed.text,
        diff: diff(text, &fixed.text),
    }
}

/// Prints a diff: with colours if stdout shows them, and unchanged if it is no terminal.
fn show_diff(out: &mut dyn Write, diff: &str) -> io::Result<()> {
    let stdout = io::stdout();
    let has_colours = AutoStream::choice(&stdout) != anstream::ColorChoice::Never;
    if !has_colours && !stdout.is_terminal() {
        return out.write_all(diff.as_bytes());
    }
    for line in diff.lines() {
        let style = match line.as_bytes() {
            _ if !has_colours => Style::new(),
            [b'-', b'-', b'-', ..] | [b'+', b'+', b'+', ..] => Style::new().bold(),
            [b'@', ..] => AnsiColor::Cyan.on_default(),
            [b'+', ..] => AnsiColor::Green.on_default(),
            [b'-', ..] => AnsiColor::Red.on_default(),
            _ => Style::new(),
        };
        writeln!(out, "{style}{}{style:#}", plain_lines(line))?;
    }
    Ok(())
}

/// Returns the difference as a unified diff with virt-xml's headers; empty if there is none.
#[must_use]
pub fn diff(before: &str, after: &str) -> String {
    if before == after {
        return String::new();
    }
    similar::TextDiff::from_lines(before, after)
        .unified_diff()
        .header("Original XML", "Altered XML")
        .to_string()
}
