//! `gfxplane explain`: explains a message, or a domain's log.

use std::io::{IsTerminal, Read, Write};
use std::path::Path;

use serde_json::{Value, json};
use uuid::Uuid;

use crate::cli::collect::kept::veiled;
use crate::cli::fixup::diff;
use crate::cli::page::{Page, count};
use crate::cli::subject::{Assumed, Subject, SubjectArgs, argument, name};
use crate::cli::{End, json, refused};
use crate::device::id::DeviceId;
use crate::domain::shell::operand;
use crate::domain::{Domain, name_and_devices};
use crate::explain::causes::{Explanation, explain};
use crate::explain::doctor::examine;
use crate::explain::messages::Remedy;
use crate::explain::situation::Situation;
use crate::explain::{Found, Logged, domain_of, find, in_log};
use crate::host::log::rfc3339;
use crate::host::qemu_log;
use crate::libvirt::logs::directory;
use crate::libvirt::{Context, Failure};
use crate::plan::commands::{self, Names};
use crate::xml::Document;

/// The greatest length of a message that is read from stdin, in bytes.
const LONGEST: u64 = 1024 * 1024;

/// Explain a message of QEMU or libvirt about screens, or a domain's log
///
/// Prints the cause of the message, what this domain and this host have to do with it, and the
/// fixes. Without a message, reads the log of the domain's last start. Exit code 1 if nothing can
/// be explained, unless the log shows that the domain started.
#[derive(Debug, clap::Args)]
pub struct Explain {
    /// The message as you saw it, or - for stdin
    // QEMU's own messages begin with "-device".
    #[arg(required_unless_present = "domain", allow_hyphen_values = true)]
    message: Option<String>,
    /// Explain for this libvirt domain (name or UUID), or for the domain in this file (a path that
    /// has a slash or ends in .xml)
    #[arg(long, value_name = "DOMAIN|FILE", value_parser = name)]
    domain: Option<String>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// The domain that an explanation is about.
struct Named {
    name: String,
    uuid: Option<Uuid>,
    is_active: bool,
    names: Names,
    situation: Situation,
}

impl Explain {
    /// Returns whether the command may ask libvirt about a domain that the user or the message
    /// names, or that has the device in the message.
    #[must_use]
    pub(crate) fn asks_libvirt(&self) -> bool {
        let domain = self.domain.as_deref();
        domain.is_none_or(|domain| subject(domain).asks_libvirt())
    }

    /// Explains, and prints. Returns [`End::Refused`] if nothing was explained.
    ///
    /// # Errors
    /// The message is empty; libvirt is on another host; there is no such domain; its log may not
    /// be read; the output can't be written.
    pub fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        context.refuse_remote()?;
        let message = match self.message.as_deref() {
            Some("-") => Some(from_stdin(context)?),
            other => other.map(str::to_owned),
        };
        if message
            .as_deref()
            .is_some_and(|text| text.trim().is_empty())
        {
            let problem = "the message is empty: expected the words of QEMU, libvirt or the kernel";
            return Err(Failure::Usage(problem.into()).into());
        }
        let mut found = message.as_deref().map(find).unwrap_or_default();
        if message.is_some() && found.is_empty() {
            let problem = "this message is not known: it is not about screens, or its wording is new to gfxplane";
            context.say(problem);
            if message.as_deref().is_some_and(|text| !text.is_ascii()) {
                context.say("libvirt's messages are known in English alone: LC_ALL=C virsh start DOMAIN says it in English");
            }
            if self.json {
                json(out, &document(None, None, &[]))?;
            }
            return Ok(End::Refused);
        }
        let named = self.named(context, message.as_deref(), &found)?;
        let mut logged = None;
        if let Some(named) = named.as_ref().filter(|_| message.is_none()) {
            logged = self.log(context, named)?;
            found = logged
                .as_ref()
                .map(|logged| logged.found.clone())
                .unwrap_or_default();
            if found.is_empty() {
                found = predicted(named);
            }
        }
        // Two other verbs, list and doctor, show these warnings.
        let (host, _) = examine::read(&context.root, &|emulator: &Path| {
            context.domain_capabilities(emulator, true)
        });
        let situation = named.as_ref().map(|named| &named.situation);
        let nameless = Names::new(context.connect.as_deref(), commands::Subject::Unknown);
        let names = named.as_ref().map_or(&nameless, |named| &named.names);
        let explanations: Vec<Explanation> = found
            .iter()
            .map(|found| explain(found, &host, names, situation))
            .collect();
        let name = named.as_ref().map(|named| named.name.as_str());
        if self.json {
            json(out, &document(name, logged.as_ref(), &explanations))?;
        } else {
            let mut page = Page::without_verdicts();
            if let Some((logged, name)) = logged.as_ref().zip(name) {
                tell_log(&mut page, name, logged);
            }
            tell(&mut page, &explanations);
            page.print(out)?;
        }
        // If the log shows a successful start, there is nothing to explain.
        let is_well = logged.is_some_and(|logged| logged.started == Some(true));
        Ok(if explanations.is_empty() && !is_well {
            End::Refused
        } else {
            End::Done
        })
    }

    /// Returns the domain that the user or the message names, or that has the device in the
    /// message; `None` if there is none, or if libvirt can't be asked about it. A problem with the
    /// domain is an error only if the user named it.
    fn named(
        &self,
        context: &Context,
        message: Option<&str>,
        found: &[Found],
    ) -> anyhow::Result<Option<Named>> {
        if let Some(domain) = &self.domain {
            let arguments = subject(domain);
            let named = match arguments.subject_of(context) {
                Subject::Domain(name) if !name.is_empty() => {
                    let definition = context.libvirt.definition(&name, false)?;
                    let mut named = look_at(context, None, &definition.xml)?;
                    named.is_active = definition.is_active;
                    named
                }
                Subject::Recorded(..) => look_at(context, None, &arguments.read(context)?)?,
                _ => look_at(context, Some(domain), &arguments.read(context)?)?,
            };
            return Ok(Some(named));
        }
        if context.root.is_recorded() {
            return Ok(None);
        }
        // Without libvirt, the message is still explained, but not for a domain.
        let by_name = message.and_then(domain_of);
        let device = found.iter().find_map(|found| found.device);
        let of_libvirt = match (by_name, device) {
            (Some(name), _) => {
                let definition = context.libvirt.definition(&name, false);
                definition.map(|definition| Some(definition.xml))
            }
            (None, Some(device)) => with_device(context, device),
            (None, None) => return Ok(None),
        };
        let look_at = |xml: Option<String>| xml.map(|xml| look_at(context, None, &xml)).transpose();
        let named = of_libvirt.map_err(Into::into).and_then(look_at);
        Ok(named.unwrap_or_else(|error| {
            context.say(&format!("the explanation leaves the domain out: {error:#}"));
            None
        }))
    }

    /// Reads the domain's last start from its log; `None` if there is no whole start in it.
    fn log(&self, context: &Context, named: &Named) -> anyhow::Result<Option<Logged>> {
        let directory = directory(&context.root, context.connect.as_deref())
            .ok_or_else(|| Failure::Environment("there is no HOME to look for logs in".into()))?;
        let text =
            qemu_log::tail(&context.root, &directory, &named.name).map_err(Failure::Environment)?;
        let Some(text) = text else {
            context.say(&format!(
                "{} has no log: it was never started here",
                named.name
            ));
            return Ok(None);
        };
        let mut logged = in_log(&text, named.uuid);
        match &mut logged {
            None => context.say(&format!(
                "the log of {} has no complete start of this domain: another domain had this name, or the log was rotated",
                named.name
            )),
            // The log of a running domain has no end yet, whatever its guest may have made QEMU
            // print.
            Some(logged) if named.is_active => logged.started = Some(true),
            Some(_) => {}
        }
        Ok(logged)
    }
}

/// Returns the explanations for JSON, with the domain and its last start if they are known.
fn document(domain: Option<&str>, log: Option<&Logged>, explanations: &[Explanation]) -> Value {
    let explained = |explanation: &Explanation| {
        let mut object = json!(explanation);
        let diff = difference(explanation);
        if !diff.is_empty() {
            object["diff"] = json!(diff);
        }
        object
    };
    let explained: Vec<Value> = explanations.iter().map(explained).collect();
    let parts = [
        domain.map(|name| ("domain", json!(name))),
        log.map(|log| ("log", json!(log))),
        Some(("explained", json!(explained))),
    ];
    parts.into_iter().flatten().collect()
}

/// Returns a domain or file as arguments of a verb that takes one.
fn subject(domain: &str) -> SubjectArgs {
    SubjectArgs {
        subject: domain.to_owned(),
        assumed: Assumed::default(),
    }
}

fn from_stdin(context: &Context) -> anyhow::Result<String> {
    let stdin = std::io::stdin();
    if stdin.is_terminal() {
        context.say("reading the message from the terminal; Ctrl-D ends it");
    }
    let mut bytes = Vec::new();
    stdin.lock().take(LONGEST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns the XML of the libvirt domain that has a device. `None` if no domain has it, or if
/// several have it, because it is not known which one is meant.
fn with_device(context: &Context, device: DeviceId) -> Result<Option<String>, Failure> {
    let mut with: Vec<(String, String)> = Vec::new();
    for uuid in context.libvirt.all_persistent()? {
        // The domain may be gone by now.
        let Ok(definition) = context.libvirt.definition(&uuid.to_string(), false) else {
            continue;
        };
        let (name, devices) = name_and_devices(&definition.xml);
        if devices.contains(&device) {
            with.push((operand(Some(&name), Some(uuid)), definition.xml));
        }
    }
    if with.len() > 1 {
        let names: Vec<&str> = with.iter().map(|(name, _)| name.as_str()).collect();
        context.say(&format!(
            "several domains have {device} ({}): --domain says which is meant",
            names.join(", ")
        ));
        return Ok(None);
    }
    Ok(with.pop().map(|(_, xml)| xml))
}

/// Finds out what explanations need to know of a domain, except whether it is active. `file` is its
/// file's name as the user typed it; `None` if libvirt has the domain.
fn look_at(context: &Context, file: Option<&str>, xml: &str) -> anyhow::Result<Named> {
    let surroundings = subject(file.unwrap_or_default()).surroundings(context)?;
    let policy = surroundings.policy();
    let from = file.unwrap_or("libvirt's definition");
    let (name, uuid) = {
        let document = refused(from, Document::parse(xml))?;
        let domain = refused(from, Domain::new(&document))?;
        (domain.name.clone().unwrap_or_default(), domain.uuid)
    };
    let connect = context.connect.as_deref();
    let names = match file {
        None => Names::of_domain(connect, &name, uuid),
        // stdin can't be read again.
        Some("-") => Names::new(connect, commands::Subject::Unknown),
        Some(path) => Names::new(connect, commands::Subject::File(argument(Path::new(path)))),
    };
    let situation = refused(from, Situation::of(xml, &surroundings, &policy, &names))?;
    surroundings.warn();
    Ok(Named {
        name,
        uuid,
        is_active: false,
        names,
        situation,
    })
}

/// Returns the messages that libvirt or QEMU will certainly give when the domain is started.
fn predicted(named: &Named) -> Vec<Found> {
    let plan = named.situation.plan.as_ref();
    let refusal = plan.and_then(|plan| plan.before.refusal());
    refusal.map_or_else(Vec::new, |refusal| find(&refusal.message))
}

/// Adds to the page what the log shows of a domain's last start.
pub fn tell_log(page: &mut Page, name: &str, logged: &Logged) {
    let began = rfc3339(logged.began.as_secs());
    let how = match logged.started {
        Some(true) => "succeeded",
        Some(false) => "failed",
        None => "has no end in its log",
    };
    let qemu = logged.qemu.as_ref();
    let qemu = qemu.map_or_else(String::new, |version| format!(" with QEMU {version}"));
    let start = format!("its last start, at {began}{qemu}, {how}");
    page.words(None, 0, &format!("{name}:"), &start);
    if logged.failed_since > 0 {
        let times = count(logged.failed_since, "time", "times");
        let vetoes =
            format!("{times} since then, a hook or libvirt stopped a start before QEMU ran");
        page.words(None, 1, "", &vetoes);
        let commands = ["gfxplane log # has the vetoes of gfxplane's hook".to_owned()];
        page.commands(1, "shown by", &commands);
    }
    if logged.found.is_empty() {
        page.words(None, 1, "", "no message in it is known");
        for line in &logged.words {
            page.line(2, line);
        }
    }
}

/// Adds explanations to the page.
pub fn tell(page: &mut Page, explanations: &[Explanation]) {
    for explanation in explanations {
        let by = format!("(said by {})", explanation.by.word());
        page.words(None, 0, explanation.message, &by);
        page.words(None, 1, "cause:", &explanation.cause);
        for line in &explanation.here {
            page.words(None, 1, "here:", line);
        }
        let mut difference = difference(explanation);
        for fix in &explanation.fixes {
            match fix {
                Remedy::Command(command) => {
                    page.commands(1, "fix", std::slice::from_ref(command));
                }
                Remedy::Advice(advice) => page.words(None, 1, "advice:", advice),
            }
            // The first fix is the one that changes the domain.
            for change in std::mem::take(&mut difference).lines() {
                page.line(2, change);
            }
        }
    }
}

fn difference(explanation: &Explanation) -> String {
    let fixed = explanation.fixed.as_ref();
    fixed.map_or_else(String::new, |fixed| {
        diff(&veiled(&fixed.before), &veiled(&fixed.after))
    })
}
