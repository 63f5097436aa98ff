//! The domain that a command is about, and the domain's host.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{IsTerminal, Read};
use std::path::{Path, PathBuf};

use crate::cli::refused;
use crate::device::version::Version;
use crate::domain::policy::{self, BadWord, Consent, Displays, Wishes};
use crate::domain::shell::quoted;
use crate::host::domains;
use crate::libvirt::surroundings::HostSurroundings;
use crate::libvirt::{Context, Definition, Failure};
use crate::plan::commands::{self, Names};
use crate::plan::{Fix, Note};
use crate::xml;

/// Returns the name of a domain or a file.
///
/// # Errors
/// The name is empty.
pub(crate) fn name(text: &str) -> Result<String, &'static str> {
    if text.is_empty() {
        Err("the name of the domain is empty: expected a name, a UUID or a file")
    } else {
        Ok(text.into())
    }
}

/// The domain or file, and the command line's values in place of the host's and the policy's.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct SubjectArgs {
    /// A libvirt domain (name or UUID), a file (a path that has a slash or ends in .xml),
    /// or - for stdin
    #[arg(value_name = "DOMAIN|FILE|-", value_parser = name)]
    pub subject: String,
    /// The command line's values in place of the host's and the policy's.
    #[command(flatten)]
    pub assumed: Assumed,
}

/// The command line's values in place of the host's and the policy's.
#[derive(Debug, Clone, Default, clap::Args)]
pub(crate) struct Assumed {
    /// Assume this version of QEMU, instead of the version of the domain's emulator
    #[arg(long, value_name = "VERSION")]
    pub qemu: Option<Version>,
    /// Assume this version of libvirt, instead of the host's
    #[arg(long, value_name = "VERSION")]
    pub libvirt_version: Option<Version>,
    /// Manage these displays, whatever the policy says: asked, auto, full or off
    ///
    /// asked: the displays that the domain has switched on. auto: also measured displays that the
    /// domain's graphics can show as they are. full: also displays for which graphics or OpenGL
    /// must be added. off: none, so that nothing in the domain is changed.
    #[arg(long, value_name = "WORD", value_parser = displays)]
    pub policy: Option<Displays>,
    /// Allow losing remote viewing (remote), the emulated card (video), or both (all)
    #[arg(long, value_name = "WORDS", value_parser = consent)]
    pub consent: Option<BTreeSet<Consent>>,
    /// Also switch on displays that are known (for example by a rule), but not measured
    #[arg(long)]
    pub trust_rules: bool,
}

fn displays(text: &str) -> Result<Displays, String> {
    text.parse()
        .map_err(|bad: BadWord| format!("expected {}", bad.expected))
}

fn consent(text: &str) -> Result<BTreeSet<Consent>, String> {
    policy::consent(text).map_err(|bad| format!("expected {}, with commas between", bad.expected))
}

/// The source of a domain's XML.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Subject {
    /// libvirt, which knows the domain by this name or UUID.
    Domain(String),
    /// A domain of a recorded host: its name, and the path of its XML file in the recording.
    Recorded(String, PathBuf),
    /// A file with the domain's XML.
    File(PathBuf),
    /// The standard input.
    Stdin,
}

impl SubjectArgs {
    /// Returns the source that the argument names.
    #[must_use]
    pub(crate) fn subject(&self) -> Subject {
        let text = self.subject.as_str();
        let is_xml = Path::new(text)
            .extension()
            .is_some_and(|extension| extension.eq_ignore_ascii_case("xml"));
        if text == "-" {
            Subject::Stdin
        } else if text.contains('/') || is_xml {
            Subject::File(text.into())
        } else {
            Subject::Domain(text.into())
        }
    }

    /// Returns the source that the argument names. For a domain of a recorded host, this is the
    /// domain's file in the recording, unless there is none or the user has named a libvirt.
    #[must_use]
    pub(crate) fn subject_of(&self, context: &Context) -> Subject {
        let subject = self.subject();
        if let Subject::Domain(name) = &subject
            && context.root.is_recorded()
            && context.connect.is_none()
        {
            let path = domains::path(&context.root, name);
            if path.exists() {
                return Subject::Recorded(name.clone(), path);
            }
        }
        subject
    }

    /// Returns whether libvirt may be asked for the XML.
    #[must_use]
    pub(crate) fn asks_libvirt(&self) -> bool {
        matches!(self.subject(), Subject::Domain(_))
    }

    /// Reads the XML. From libvirt, it is the persistent definition without its secrets.
    ///
    /// # Errors
    /// The XML can't be read or is not UTF-8; libvirt has no such domain.
    pub(crate) fn read(&self, context: &Context) -> Result<String, Failure> {
        match self.subject_of(context) {
            Subject::Domain(name) => Ok(definition(context, &name, false)?.xml),
            Subject::File(path) | Subject::Recorded(_, path) => text_in(&path),
            Subject::Stdin => {
                let stdin = std::io::stdin();
                if stdin.is_terminal() {
                    context.say("reading domain XML from the terminal; Ctrl-D ends it");
                }
                text_of(stdin.lock(), "stdin")
            }
        }
    }

    /// Returns the surroundings of the domain.
    ///
    /// # Errors
    /// libvirt is on another host, about which nothing is known here.
    pub(crate) fn surroundings<'c>(
        &self,
        context: &'c Context,
    ) -> Result<HostSurroundings<'c>, Failure> {
        let assumed = &self.assumed;
        let (qemu, libvirt) = (assumed.qemu.clone(), assumed.libvirt_version.clone());
        HostSurroundings::new(context, self.asks_libvirt(), qemu, libvirt)
    }

    /// Returns the names by which commands refer to this domain or file.
    #[must_use]
    pub(crate) fn names(&self, context: &Context) -> Names {
        let connect = context.connect.as_deref();
        match self.subject_of(context) {
            Subject::Domain(name) | Subject::Recorded(name, _) => {
                Names::of_domain(connect, &name, None)
            }
            Subject::File(path) => Names::new(connect, commands::Subject::File(argument(&path))),
            Subject::Stdin => Names::new(connect, commands::Subject::File("-".into())),
        }
    }

    /// Replaces the fixes in the notes by commands about this domain or file.
    pub(crate) fn name_in(&self, context: &Context, notes: &mut [Note]) {
        let names = self.names(context);
        for fix in notes.iter_mut().flat_map(|note| &mut note.fixes) {
            *fix = Fix::Words(names.command(fix));
        }
    }

    /// Returns the command line's wishes, which overrule the policy.
    #[must_use]
    pub(crate) fn wishes(&self) -> Wishes {
        Wishes {
            display: self.assumed.policy,
            consent: self.assumed.consent.clone(),
            trust_rules: self.assumed.trust_rules,
            ..Wishes::default()
        }
    }
}

/// Returns libvirt's definition of a domain, with its passwords if `secrets` is true. An error
/// advises to give a file instead.
///
/// # Errors
/// There is no such domain, or libvirt can't be reached.
pub(crate) fn definition(
    context: &Context,
    name: &str,
    secrets: bool,
) -> Result<Definition, Failure> {
    let definition = context.libvirt.definition(name, secrets);
    definition.map_err(|failure| match failure {
        Failure::Environment(text) => {
            Failure::Environment(format!("{text}; or give the domain's XML as a file"))
        }
        other => other,
    })
}

/// Returns a file's path as an argument in a shell, which no program takes for an option.
pub(super) fn argument(path: &Path) -> String {
    let text = path.to_string_lossy();
    let at = if text.starts_with('-') { "./" } else { "" };
    quoted(&format!("{at}{text}"))
}

/// Returns the XML in a file.
///
/// # Errors
/// The file can't be read, is not UTF-8, or is too large.
pub(super) fn text_in(path: &Path) -> Result<String, Failure> {
    let name = path.display().to_string();
    match File::open(path) {
        Ok(file) => text_of(file, &name),
        Err(error) => Err(Failure::Environment(format!("{name}: {error}"))),
    }
}

fn text_of(from: impl Read, name: &str) -> Result<String, Failure> {
    let mut bytes = Vec::new();
    // One byte more than the limit is read, to notice a text that is too large.
    let read = from.take(xml::MAX_SIZE as u64 + 1).read_to_end(&mut bytes);
    read.map_err(|error| Failure::Environment(format!("{name}: {error}")))?;
    refused(name, xml::from_bytes(bytes))
}
