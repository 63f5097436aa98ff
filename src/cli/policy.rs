//! `gfxplane policy`: shows or sets a domain's policy.

use std::io::Write;

use serde::Serialize;

use crate::cli::subject::name;
use crate::cli::{End, json, refused};
use crate::domain::Domain;
use crate::domain::policy::{Displays, Wishes};
use crate::host::log::{By, Entry, What};
use crate::host::settings;
use crate::host::state::now;
use crate::libvirt::{Context, Definition, Failure};
use crate::xml::{Document, escape};

/// Show or set a domain's policy
///
/// The policy says what gfxplane may change in a domain; gfxplane.toml(5) explains the keys and
/// values. Without KEY=VALUE, shows the host's policy, the domain's own, and the result. With
/// KEY=VALUE, writes it into the domain's metadata, and keeps the domain's other values. This also
/// lets the daemon manage the domain again after gfxplane undo.
#[derive(Debug, clap::Args)]
pub struct PolicyCommand {
    /// A libvirt domain (name or UUID)
    #[arg(value_parser = name)]
    domain: String,
    /// display=asked|auto|full|off, unknown=keep|off, video=keep|none, boot_display=keep|ramfb,
    /// guest=windows|other, consent=remote,video; KEY= removes the domain's own
    /// value
    #[arg(value_name = "KEY=VALUE")]
    words: Vec<String>,
    /// Remove the domain's own policy first
    #[arg(long)]
    clear: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The output about the policy of one domain.
#[derive(Serialize)]
struct Shown {
    domain: String,
    /// The settings by name: the host's value, the domain's own, and the one in effect.
    policy: Vec<Row>,
    /// The reason why the daemon leaves the domain alone; `None` if it manages the domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    hands_off: Option<String>,
    notes: Vec<String>,
}

#[derive(Serialize)]
struct Row {
    name: &'static str,
    host: Option<String>,
    own: Option<String>,
    effect: Option<String>,
}

impl PolicyCommand {
    /// Shows the policy, or sets it. Setting a value also lets the daemon manage the domain again
    /// after `gfxplane undo`.
    ///
    /// # Errors
    /// A setting is unknown; the domain's own policy can't be read; libvirt can't be reached or
    /// refuses.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let words = self.parsed()?;
        let sets = self.clear || !words.is_empty();
        if sets {
            context.refuse_recorded("a domain of this libvirt is not one of a recorded host's")?;
        }
        let mut definition = context.libvirt.definition(&self.domain, false)?;
        if sets {
            self.set(context, &definition, &words)?;
            definition = context
                .libvirt
                .definition(&definition.uuid.to_string(), false)?;
        }
        let shown = self.look(context, &definition)?;
        if self.json {
            json(out, &shown)?;
        } else {
            print(&shown, out)?;
        }
        Ok(End::Done)
    }

    /// Returns the arguments as keys and values. An empty value removes the key.
    ///
    /// # Errors
    /// An argument is not KEY=VALUE, is unknown, or occurs twice.
    fn parsed(&self) -> Result<Vec<(&str, &str)>, Failure> {
        let mut all: Vec<(&str, &str)> = Vec::new();
        let mut tried = Wishes::default();
        for word in &self.words {
            let Some((name, value)) = word.split_once('=') else {
                let problem =
                    format!("{word:?} is no KEY=VALUE: expected one such as display=full");
                return Err(Failure::Usage(problem));
            };
            if all.iter().any(|(other, _)| *other == name) {
                return Err(Failure::Usage(format!("{name} is given twice")));
            }
            let set = tried.set(name, Some(value).filter(|value| !value.is_empty()));
            set.map_err(|problem| Failure::Usage(problem.to_string()))?;
            all.push((name, value));
        }
        Ok(all)
    }

    fn set(
        &self,
        context: &Context,
        definition: &Definition,
        words: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let document = refused(&self.domain, Document::parse(&definition.xml))?;
        let domain = refused(&self.domain, Domain::new(&document))?;
        let mut wishes = match domain.policy.filter(|_| !self.clear) {
            None => Wishes::default(),
            Some(element) => Wishes::of_element(element).map_err(|problem| {
                let domain = &self.domain;
                Failure::Refused(format!(
                    "{domain}: {problem}; `gfxplane policy {domain} --clear` removes it"
                ))
            })?,
        };
        for (name, value) in words {
            wishes.set(name, Some(*value).filter(|value| !value.is_empty()))?;
        }
        let element = element(&wishes);
        let name = domain.name.clone().unwrap_or_else(|| self.domain.clone());
        let id = definition.uuid;
        let state = context.state();
        let mut warnings = Vec::new();
        let undone = state
            .as_ref()
            .filter(|state| !words.is_empty() && state.readable().is_ok())
            .filter(|state| state.hands_off(id, &mut warnings));
        context.warn(&warnings);
        // This comes first, because the daemon hears of the new policy at once.
        if let Some(state) = undone {
            state.set_hands_off(id, &name, false).map_err(|error| {
                Failure::Environment(format!(
                    "nothing was changed: the domain can't be given back to the daemon: {error}: run this as root"
                ))
            })?;
        }
        let set = context
            .libvirt
            .set_policy(definition.uuid, element.as_deref());
        if let Err(failure) = set {
            if let Some(state) = undone
                && let Err(error) = state.set_hands_off(id, &name, true)
            {
                context.say(&format!(
                    "warning: the daemon manages the domain again: {error}"
                ));
            }
            return Err(failure.into());
        }
        context.say(match &element {
            Some(_) => "the policy was set",
            None => "the domain's own policy is removed",
        });
        if undone.is_some() {
            context.say(
                "what was changed in the domain had been undone: the daemon looks after it again",
            );
        }
        if let Some(state) = state {
            let said: Vec<String> = wishes
                .words()
                .into_iter()
                .filter_map(|(name, word)| Some(format!("{name}='{}'", word?)))
                .collect();
            let mut entry = Entry::new(now(), What::Policy, By::Policy, &name, Some(id));
            entry = entry.said(&said);
            if said.is_empty() {
                entry = entry.because("its own policy was removed");
            }
            if let Err(error) = state.append(&entry) {
                context.say(&format!("warning: it is not in the log: {error}"));
            }
        }
        Ok(())
    }

    fn look(&self, context: &Context, definition: &Definition) -> anyhow::Result<Shown> {
        let document = refused(&self.domain, Document::parse(&definition.xml))?;
        let domain = refused(&self.domain, Domain::new(&document))?;
        let mut warnings = Vec::new();
        let host = settings::config(&context.root, &mut warnings).policy;
        let mut notes = Vec::new();
        let mut in_effect = host.clone();
        if let Some(manager) = domain.manager {
            notes.push(format!(
                "{manager} manages it: at most display='asked', unless its own policy says more"
            ));
        }
        let id = definition.uuid;
        let mut undone = false;
        if let Some(state) = context.state() {
            match state.readable() {
                Ok(()) => {
                    undone = state.hands_off(id, &mut warnings);
                    let older = state.older(&mut warnings);
                    if older.is_some_and(|older| older.contains(&id)) {
                        in_effect = in_effect.asked_only();
                        notes.push("it is older than gfxplane on this host: at most display='asked', unless its own policy says more".into());
                    }
                }
                Err(error) => {
                    notes.push(format!(
                        "it is not known whether the daemon leaves the domain alone: {error}: run this as root"
                    ));
                }
            }
        }
        context.warn(&warnings);
        let in_effect = refused(&self.domain, in_effect.for_domain(&domain))?;
        let own = match domain.policy {
            None => Wishes::default(),
            Some(element) => refused(&self.domain, Wishes::of_element(element))?,
        };
        let hands_off = if undone {
            Some("what was changed in the domain was undone (gfxplane undo); a policy, or gfxplane fixup --define, gives it back".into())
        } else if in_effect.display == Displays::Off {
            Some("the policy says display='off'".into())
        } else {
            None
        };
        let [host, own, effect] = [host.as_wishes(), own, in_effect.as_wishes()].map(|w| w.words());
        let rows = host.into_iter().zip(own).zip(effect);
        Ok(Shown {
            domain: domain.name.clone().unwrap_or_default(),
            policy: rows
                .map(|(((name, host), (_, own)), (_, effect))| Row {
                    name,
                    host,
                    own,
                    effect,
                })
                .collect(),
            hands_off,
            notes,
        })
    }
}

/// Returns the element `<policy>` for the metadata, without its namespace, which libvirt adds;
/// `None` if no setting has a value.
fn element(wishes: &Wishes) -> Option<String> {
    let attributes: String = wishes
        .words()
        .into_iter()
        .filter_map(|(name, word)| Some(format!(" {name}='{}'", escape(&word?))))
        .collect();
    (!attributes.is_empty()).then(|| format!("<policy{attributes}/>"))
}

fn print(shown: &Shown, out: &mut dyn Write) -> anyhow::Result<()> {
    let mut rows = vec![["WORD", "HOST", "DOMAIN", "IN EFFECT"]];
    rows.extend(shown.policy.iter().map(|row| {
        let [host, own, effect] = [&row.host, &row.own, &row.effect].map(|word| {
            let word = word.as_deref().unwrap_or_default();
            if word.is_empty() { "-" } else { word }
        });
        [row.name, host, own, effect]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max();
    let widths: [usize; 4] = std::array::from_fn(|column| width(column).unwrap_or(0));
    for row in &rows {
        let cells = row.iter().zip(widths);
        let cells: Vec<String> = cells
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        writeln!(out, "{}", cells.join("  ").trim_end())?;
    }
    for note in &shown.notes {
        writeln!(out, "{note}")?;
    }
    if let Some(why) = &shown.hands_off {
        writeln!(out, "the daemon stays away: {why}")?;
    }
    Ok(())
}
