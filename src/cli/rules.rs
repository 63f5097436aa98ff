//! `gfxplane rules`: lists the built-in knowledge about device types, with sources.

use std::io::Write;

use serde::Serialize;

use crate::cli::{End, json, table};
use crate::device::record::FORMAT;
use crate::device::rules::Rule;
use crate::libvirt::Context;
use crate::publish::export::export;
use crate::publish::inventory::{Sources, inventory};

/// List the rules that match devices or types of this host
#[derive(Debug, clap::Args)]
pub struct RulesCommand {
    /// List all rules, also those that match nothing here
    #[arg(long)]
    all: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Write the measurements of this host as rules, for /etc/gfxplane/rules.d of other hosts
    #[arg(long, conflicts_with_all = ["all", "json"])]
    export: bool,
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
    /// Errors of the output.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
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
            #[derive(Serialize)]
            struct Document<'a> {
                format: u32,
                rules: Vec<Row<'a>>,
            }
            json(
                out,
                &Document {
                    format: FORMAT,
                    rules: rows,
                },
            )?;
            return Ok(End::Done);
        }
        context.warn(&inventory.warnings);
        let cells = rows.iter().map(|row| {
            let display = row
                .rule
                .facts
                .as_ref()
                .map(|facts| facts.display.words().join(","));
            let open = serde_json::to_value(row.rule.open).expect("a word");
            vec![
                row.rule.name.clone(),
                display.unwrap_or_default(),
                open.as_str().unwrap_or_default().to_owned(),
                row.devices.len().to_string(),
                row.types.len().to_string(),
                row.file.to_owned(),
                row.rule.source.clone(),
            ]
        });
        let head = [
            "RULE", "DISPLAY", "OPEN", "DEVICES", "TYPES", "FILE", "SOURCE",
        ];
        table(out, &head, &cells.collect::<Vec<_>>())?;
        Ok(End::Done)
    }
}
