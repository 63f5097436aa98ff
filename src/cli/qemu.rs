//! `gfxplane qemu`: finds out the abilities of this host's QEMU and libvirt.

use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::json;

use crate::cli::page::Page;
use crate::cli::{End, json};
use crate::device::version::Version;
use crate::host::emulator::{self, Asking};
use crate::libvirt::Context;
use crate::predict::abilities::Abilities;

/// Find out what the host's QEMU and libvirt can do, and keep the answer
///
/// Asks libvirt which graphics it accepts with an emulator, and reads the rest from QEMU's files.
/// Keeps the answer in /var/cache/gfxplane until QEMU, its modules or libvirt change. The other
/// commands, the daemon and the qemu hook use it. Exit code 1 if a QEMU's version is not known.
#[derive(Debug, clap::Args)]
pub(crate) struct QemuCommand {
    /// The paths of the emulators [default: all that gfxplane finds on this host]
    #[arg(value_name = "EMULATOR", value_parser = absolute)]
    emulators: Vec<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Reads the path of an emulator, and makes it absolute, as libvirt's names of emulators are.
fn absolute(text: &str) -> std::io::Result<PathBuf> {
    std::path::absolute(text)
}

#[derive(Serialize)]
struct Row {
    emulator: PathBuf,
    #[serde(flatten)]
    abilities: Abilities,
}

impl QemuCommand {
    /// Finds out the abilities, and prints them. Returns [`End::Refused`] if the version of a QEMU
    /// is not known.
    ///
    /// # Errors
    /// The output can't be written.
    pub(crate) fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        let mut warnings = Vec::new();
        let mut emulators: BTreeSet<PathBuf> = self.emulators.iter().cloned().collect();
        if emulators.is_empty() {
            emulators = emulator::all(&context.root, &mut warnings);
        }
        let ask = |emulator: &Path| context.domain_capabilities(emulator, true);
        let rows: Vec<Row> = emulators
            .into_iter()
            .map(|emulator| Row {
                abilities: emulator::abilities(
                    &context.root,
                    &emulator,
                    Asking::Fresh(&ask),
                    &mut warnings,
                ),
                emulator,
            })
            .collect();
        context.warn(&warnings);
        let answered = rows.iter().all(|row| row.abilities.qemu.is_some());
        if self.json {
            json(out, &json!({"emulators": rows}))?;
        } else {
            if rows.is_empty() {
                context.say("no QEMU was found; gfxplane doctor says what is missing");
                return Ok(End::Done);
            }
            let mut page = Page::without_verdicts();
            for row in &rows {
                row.tell(&mut page);
            }
            page.print(out)?;
        }
        Ok(End::of(answered))
    }
}

impl Row {
    fn tell(&self, page: &mut Page) {
        let can = &self.abilities;
        let version = |version: &Option<Version>| match version {
            Some(version) => version.to_string(),
            None => "of an unknown version".to_owned(),
        };
        let versions = format!(
            "QEMU {}, libvirt {}",
            version(&can.qemu),
            version(&can.libvirt)
        );
        page.words(None, 0, &self.emulator.display().to_string(), &versions);
        let frontends = match &can.frontends {
            Some(all) => all.iter().cloned().collect::<Vec<_>>().join(", "),
            None => "unknown".into(),
        };
        page.words(None, 1, "", &format!("graphics: {frontends}"));
        let over_tcp = match can.spice_gl_over_tcp {
            Some(true) => "spice with gl listens on TCP, too",
            Some(false) => "spice with gl listens on a socket or nowhere",
            None => return,
        };
        page.words(None, 1, "", over_tcp);
    }
}
