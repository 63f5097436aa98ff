//! `gfxplane collect`: records a host as a test case, in the form of tests/hosts.
//!
//! The readers report the files that they looked at ([`watched`]), and exactly these are copied. So
//! no file that a reader needs is missing from the recording.

mod copy;
pub(super) mod kept;

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use copy::Copy;
use kept::kept;

use crate::cli::subject::{argument, text_in};
use crate::cli::{End, refused};
use crate::domain::Domain;
use crate::domain::shell::plain;
use crate::explain::doctor::examine;
use crate::host::emulator;
use crate::host::log::rfc3339;
use crate::host::state::now;
use crate::host::{Warning, settings, watched};
use crate::libvirt::{Context, Failure};
use crate::predict::abilities::Abilities;
use crate::publish::inventory::Sources;
use crate::xml::Document;

/// Record this host in a directory, as a test case or for a bug report
///
/// Leaves out serial numbers, MAC addresses and host names. Keeps PCI addresses and the UUIDs of
/// mdevs.
#[derive(Debug, clap::Args)]
pub(crate) struct Collect {
    /// The directory for the recording, which must be empty or not exist
    #[arg(value_name = "DIR")]
    directory: PathBuf,
    /// Also record the domains in these XML files, without identifying data, and what their
    /// emulators can do
    #[arg(long, value_name = "DOMAIN-XML-FILE", num_args = 1..)]
    xml: Vec<PathBuf>,
}

impl Collect {
    /// Records the host, and prints what was written.
    ///
    /// # Errors
    /// The directory is not empty or can't be written to; a domain's file can't be read. A file of
    /// the host that can't be read is not an error: it is left out with a warning.
    pub(crate) fn run(&self, context: &Context, out: &mut dyn Write) -> anyhow::Result<End> {
        self.see_that_it_is_free()?;
        let mut domains = Vec::new();
        for (place, path) in self.xml.iter().enumerate() {
            domains.push(read_domain(path, place + 1)?);
        }
        let root = &context.root;
        let mut notes = Vec::new();
        let (sources, seen) = watched(|| {
            settings::config(root, &mut notes);
            examine::render_nodes(root, &mut notes);
            Sources::read(root)
        });
        notes.extend(sources.host.warnings.iter().cloned());
        let mut copy = Copy::new(root, &self.directory);
        let mut emulators = emulator::all(root, &mut notes);
        emulators.extend(domains.iter().filter_map(|domain| domain.emulator.clone()));
        copy.host(&seen, &mut notes)?;
        let ask = |emulator: &Path| {
            let is_of_a_file = domains
                .iter()
                .any(|domain| domain.emulator.as_deref() == Some(emulator));
            context.domain_capabilities(emulator, !is_of_a_file)
        };
        let abilities = copy.emulators(&emulators, &ask, &mut notes)?;
        copy.examined(&examine::read(root, &ask).0)?;
        for (place, domain) in domains.iter().enumerate() {
            let name = format!("domains/domain-{}.xml", place + 1);
            copy.text(Path::new(&name), &domain.text)?;
        }
        notes.sort_by(|a, b| (&a.path, &a.problem).cmp(&(&b.path, &b.problem)));
        notes.dedup();
        let readme = readme(&sources.host.kernel, &abilities, &copy.of_the_host(&notes));
        copy.text(Path::new("README"), &readme)?;
        for path in &copy.written {
            let shown = plain(&path.to_string_lossy());
            writeln!(out, "{shown}")?;
        }
        out.flush()?;
        context.warn(&notes);
        let root = argument(&self.directory.join("root"));
        context.say(&format!(
            "these are all files: read them before you pass them on; \
             `gfxplane --root {root} list` shows this host"
        ));
        Ok(End::Done)
    }

    fn see_that_it_is_free(&self) -> Result<(), Failure> {
        let shown = self.directory.display();
        let problem = match fs::read_dir(&self.directory) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotADirectory => "is no directory",
            Err(error) => return Err(Failure::Environment(format!("{shown}: {error}"))),
            Ok(mut entries) => match entries.next() {
                None => return Ok(()),
                Some(_) => "is not empty",
            },
        };
        Err(Failure::Usage(format!(
            "{shown} {problem}: name a directory that is not there yet"
        )))
    }
}

struct Recorded {
    text: String,
    emulator: Option<PathBuf>,
}

fn read_domain(path: &Path, number: usize) -> Result<Recorded, Failure> {
    let text = text_in(path)?;
    let document = refused(path.display(), Document::parse(&text))?;
    let domain = refused(path.display(), Domain::new(&document))?;
    Ok(Recorded {
        emulator: domain.emulator.as_ref().map(PathBuf::from),
        text: kept(&document, number),
    })
}

/// Returns whether an address is one that many machines have, so that it identifies none.
fn says_nothing(address: &str) -> bool {
    let ip = address.parse::<std::net::IpAddr>();
    ip.is_ok_and(|ip| ip.is_loopback() || ip.is_unspecified())
}

/// Returns the text of the recording's readme: its content, its time, and the versions.
fn readme(kernel: &str, abilities: &[(PathBuf, Abilities)], notes: &[Warning]) -> String {
    let version = env!("CARGO_PKG_VERSION");
    let libvirt = abilities
        .iter()
        .find_map(|(_, known)| known.libvirt.as_ref());
    let unknown = || "not known".to_owned();
    let libvirt = libvirt.map_or_else(unknown, ToString::to_string);
    let kernel = Some(kernel).filter(|kernel| !kernel.is_empty());
    let kernel = kernel.map_or_else(unknown, ToString::to_string);
    let mut text = format!(
        "Recorded by `gfxplane collect` (gfxplane {version}) on {}.\n\n\
         Kernel {kernel}; libvirt {libvirt}",
        &rfc3339(now())[..10]
    );
    for (emulator, known) in abilities {
        if let Some(qemu) = &known.qemu {
            text.push_str(&format!("; {}: QEMU {qemu}", emulator.display()));
        }
    }
    text.push_str(
        ".\n\n\
         root/ has what gfxplane reads of the host: vfio devices and their parents in sysfs, records\n\
         of probes, definitions of mdevs, configuration and rules, what QEMU and libvirt can do.\n\n\
         UUIDs of mdevs, PCI addresses, the boot id and the kernel release are the host's own. Serial\n\
         numbers, MAC addresses and host names are left out. A domain has only the elements and attributes\n\
         that gfxplane reads, with made-up names and addresses. QEMU's arguments have only values that are\n\
         switches or numbers. Hooks and scripts of others have their names, and no content. Configuration\n\
         and definitions of mdevs are copied as they are.\n\n\
         As a test case: put it into tests/hosts (a domain into tests/fixup) and run\n\
         `UPDATE_GOLDEN=1 cargo test --test cases`.\n",
    );
    if !notes.is_empty() {
        text.push_str("\nIgnored, or left out:\n\n");
        for note in notes {
            text.push_str(&format!("* {note}\n"));
        }
    }
    text
}
