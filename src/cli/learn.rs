//! `gfxplane learn`: learns a device's display from the log of a domain's last start.

use std::io::Write;

use serde_json::json;

use crate::cli::subject::name;
use crate::cli::{End, json};
use crate::daemon::lessons::{Logged, Unlearned, entry, learn_from};
use crate::domain::name_and_devices;
use crate::host::log::By;
use crate::libvirt::logs::directory;
use crate::libvirt::{Context, Failure};

/// Learn the displays of a domain's devices from its last start
///
/// Reads QEMU's log of the start. QEMU refuses to start if a display needs OpenGL (a dmabuf) and
/// there is none, or if a device has no display. Without OpenGL, QEMU starts only if the display is
/// a region. The result holds only for the domain's own devices, and a device's own answer
/// overrules it. The daemon learns from each start by itself.
#[derive(Debug, clap::Args)]
pub struct Learn {
    /// A libvirt domain (name or UUID)
    #[arg(value_parser = name)]
    domain: String,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Learn {
    /// Learns, prints the result, and keeps it. Returns [`End::Refused`] if nothing can be learned
    /// from the log.
    ///
    /// # Errors
    /// There is no such domain; libvirt can't be reached; the log may not be read; the result can't
    /// be kept.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        context.refuse_recorded("a domain of this libvirt has not run on a recorded host")?;
        context.refuse_remote()?;
        let definition = context.libvirt.definition(&self.domain, false)?;
        let (name, devices) = name_and_devices(&definition.xml);
        let uuid = definition.uuid;
        let directory = directory(&context.root, context.connect.as_deref())
            .ok_or_else(|| Failure::Environment("there is no HOME to look for logs in".into()))?;
        let logged = Logged {
            name: &name,
            uuid,
            devices: &devices,
            libvirt: &*context.libvirt,
            directory: &directory,
        };
        let (learned, nothing) = match learn_from(&context.root, logged) {
            Ok(learned) => (learned, None),
            Err(Unlearned::Nothing(why)) => (Vec::new(), Some(why)),
            Err(Unlearned::Problem(problem)) => return Err(Failure::Environment(problem).into()),
        };
        if let Some(state) = context.state()
            && let Some(entry) = entry(&learned, &name, uuid, By::Learn)
            && let Err(error) = state.append(&entry)
        {
            context.say(&error.to_string());
        }
        if self.json {
            let mut document = json!({"domain": name, "learned": learned});
            if let Some(why) = &nothing {
                document["nothing"] = json!(why);
            }
            json(out, &document)?;
        } else {
            for learned in &learned {
                writeln!(out, "{}", learned.words())?;
            }
            if let Some(why) = &nothing {
                context.say(&format!("nothing is learned from {name}: {why}"));
            }
        }
        Ok(End::of(nothing.is_none()))
    }
}
