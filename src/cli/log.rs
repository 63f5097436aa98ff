//! `gfxplane log`: lists the changes to domains, with times and reasons.

use std::io::Write;

use serde::Serialize;
use serde_json::json;

use crate::cli::subject::name;
use crate::cli::{End, json, number};
use crate::domain::shell::plain;
use crate::host::log::{Entry, rfc3339};
use crate::host::state::State;
use crate::libvirt::{Context, Failure};

/// List what gfxplane has done to domains, and why
///
/// Prints the oldest entry first. Only root can read the log.
#[derive(Debug, clap::Args)]
pub struct Log {
    /// List only entries about this domain (name or UUID)
    #[arg(value_parser = name)]
    domain: Option<String>,
    /// List only the newest NUMBER entries
    #[arg(short = 'n', long, value_name = "NUMBER", value_parser = number)]
    number: Option<usize>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Timed<'e> {
    when: String,
    #[serde(flatten)]
    entry: &'e Entry,
}

impl Log {
    /// Prints the log, the oldest entry first.
    ///
    /// # Errors
    /// The log may not be read; the output can't be written.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let state = State::new(&context.root);
        state.readable().map_err(|error| {
            Failure::Environment(format!("the log can't be read: {error}: run this as root"))
        })?;
        let mut warnings = Vec::new();
        let mut entries = state.entries(&mut warnings);
        context.warn(&warnings);
        if let Some(wanted) = &self.domain {
            let uuid = wanted.parse().ok();
            entries
                .retain(|entry| entry.domain == *wanted || (uuid.is_some() && entry.uuid == uuid));
        }
        let surplus = entries.len() - self.number.unwrap_or(entries.len()).min(entries.len());
        let entries = &entries[surplus..];
        if self.json {
            let timed = entries.iter().map(|entry| Timed {
                when: rfc3339(entry.time),
                entry,
            });
            let timed: Vec<Timed<'_>> = timed.collect();
            json(out, &json!({"entries": timed}))?;
            return Ok(End::Done);
        }
        // Lines are not wrapped, because people search the log.
        for line in entries.iter().flat_map(lines) {
            writeln!(out, "{line}")?;
        }
        if entries.is_empty() {
            let of_it = if self.domain.is_some() {
                " of this domain"
            } else {
                ""
            };
            context.say(&format!("the log has no entry{of_it}"));
        }
        Ok(End::Done)
    }
}

/// Returns an entry as lines of text: the entry itself, and then its changes with their reasons.
fn lines(entry: &Entry) -> Vec<String> {
    let because = |reason: &Option<String>| match reason {
        Some(reason) => format!(": {reason}"),
        None => String::new(),
    };
    let (when, domain) = (rfc3339(entry.time), &entry.domain);
    let reason = because(&entry.reason);
    let first = format!("{when}  {domain}  {} ({}){reason}", entry.what, entry.by);
    let changes = entry.changes.iter().map(|said| {
        let reason = because(&said.reason);
        format!("    {}{reason}", said.change)
    });
    std::iter::once(first)
        .chain(changes)
        .map(|line| plain(&line))
        .collect()
}
