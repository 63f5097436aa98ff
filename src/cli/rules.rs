//! `gfxplane rules`: lists the built-in knowledge about device types, with sources.

use std::io::Write;

use serde::Serialize;
use serde_json::json;

use crate::cli::page::{Page, count};
use crate::cli::{End, json};
use crate::device::rules::Rule;
use crate::libvirt::Context;
use crate::publish::export::export;
use crate::publish::inventory::{Sources, inventory};

/// List the rules that match devices or types of this host
///
/// A rule is built-in knowledge about a kind of device: its display, and whether gfxplane may open
/// the device by itself. gfxplane-rules(5) explains the rules.
#[derive(Debug, clap::Args)]
pub(crate) struct RulesCommand {
    /// List all rules, also those that match nothing on this host
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Print this host's measurements as rules, for /etc/gfxplane/rules.d of other hosts
    #[arg(long, conflicts_with_all = ["all", "json"])]
    pub(super) export: bool,
}

#[derive(Serialize)]
struct Row<'a> {
    #[serde(flatten)]
    rule: &'a Rule,
    file: &'a str,
    devices: Vec<String>,
    types: Vec<String>,
}

impl RulesCommand {
    /// Prints the rules.
    ///
    /// # Errors
    /// The output can't be written.
    pub(crate) fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let sources = Sources::read(&context.root);
        if self.export {
            let export = export(&sources);
            context.warn(&sources.host.warnings);
            for problem in &export.left_out {
                context.say(&format!("not exported: {problem}"));
            }
            if export.rules.is_empty() {
                context
                    .say("nothing was measured here since this boot: gfxplane probe asks devices");
            }
            out.write_all(export.to_toml().as_bytes())?;
            return Ok(End::Done);
        }
        let inventory = inventory(&sources);
        let rows = sources.rules.iter().map(|(file, rule)| {
            let name = Some(rule.name.as_str());
            let devices = inventory
                .devices
                .iter()
                .filter(|entry| entry.rule.as_deref() == name);
            let types = inventory
                .types
                .iter()
                .filter(|entry| entry.rule.as_deref() == name);
            Row {
                rule,
                file,
                devices: devices.map(|entry| entry.id.to_string()).collect(),
                types: types
                    .map(|entry| format!("{}/{}", entry.parent, entry.type_id))
                    .collect(),
            }
        });
        let applies = |row: &Row<'_>| self.all || !row.devices.is_empty() || !row.types.is_empty();
        let rows: Vec<Row<'_>> = rows.filter(applies).collect();
        if self.json {
            json(out, &json!({"rules": rows}))?;
            return Ok(End::Done);
        }
        context.warn(&inventory.warnings);
        if rows.is_empty() {
            context.say("no rule matches a device or type of this host; --all lists all rules");
        }
        let mut page = Page::without_verdicts();
        for row in &rows {
            row.tell(&mut page);
        }
        page.print(out)?;
        Ok(End::Done)
    }
}

impl Row<'_> {
    fn tell(&self, page: &mut Page) {
        let rule = self.rule;
        let facts = rule.facts.as_ref();
        let display = facts.map(|facts| format!("display {}", facts.display.words().join(",")));
        let parts = [
            display,
            Some(format!("open: {}", rule.open)),
            Some(count(self.devices.len(), "device", "devices")),
            Some(count(self.types.len(), "type", "types")),
            Some(self.file.to_owned()),
        ];
        let parts: Vec<String> = parts.into_iter().flatten().collect();
        page.words(None, 0, &rule.name, &parts.join(", "));
        page.words(None, 1, "", &rule.source);
    }
}
