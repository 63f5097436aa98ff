//! Writes commands for a domain. They name the domain and libvirt's URI as the user did.

use super::{Action, Fix, Note, Plan, Topic};
use crate::device::id::DeviceId;
use crate::predict::abilities::LOAD_KVM;
use crate::predict::screens::Here;
use crate::predict::{About, Refusal};
use uuid::Uuid;

use crate::domain::shell::{SYSTEM, operand, quoted};

/// The domain that appears in commands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A domain of libvirt's, as the user types it in a shell.
    Domain(String),
    /// A file, as the user types it in a shell; `-` for stdin.
    File(String),
    /// A domain whose name is not known: commands have the placeholder `DOMAIN`.
    Unknown,
}

/// The words in commands for a domain and for the URI of its libvirt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// libvirt's URI, if the user gave one.
    connect: Option<String>,
    subject: Subject,
}

impl Names {
    /// Makes the names for any subject. `connect`: libvirt's URI, if the user gave one.
    #[must_use]
    pub fn new(connect: Option<&str>, subject: Subject) -> Self {
        Names {
            connect: connect.map(str::to_owned),
            subject,
        }
    }

    /// Makes the names for a domain of libvirt's. Commands have `uuid` if the name is too long or
    /// can't be typed, and `DOMAIN` if there is no `uuid` then.
    #[must_use]
    pub fn of_domain(connect: Option<&str>, name: &str, uuid: Option<Uuid>) -> Self {
        Self::new(connect, Subject::Domain(operand(Some(name), uuid)))
    }

    /// Returns the domain as an argument of virsh; `DOMAIN` if it is in a file or not known.
    #[must_use]
    pub(crate) fn domain(&self) -> &str {
        match &self.subject {
            Subject::Domain(name) => name,
            Subject::File(_) | Subject::Unknown => "DOMAIN",
        }
    }

    /// Returns the domain or the file as the user typed it; `DOMAIN` if the domain is not known.
    #[must_use]
    pub(crate) fn typed(&self) -> &str {
        self.file().unwrap_or(self.domain())
    }

    /// Returns the file, if the user gave the domain as a file.
    fn file(&self) -> Option<&str> {
        match &self.subject {
            Subject::File(path) => Some(path),
            Subject::Domain(_) | Subject::Unknown => None,
        }
    }

    /// Returns gfxplane's option `-c URI` and a blank; empty if the user gave no URI.
    fn option(&self) -> String {
        let uri = self.connect.as_deref();
        uri.map_or_else(String::new, |uri| format!("-c {} ", quoted(uri)))
    }

    /// Returns `-c URI` (if the user gave a URI) and the domain, for a verb that accepts no file.
    pub(crate) fn operand(&self) -> String {
        format!("{}{}", self.option(), self.domain())
    }

    /// Returns libvirt's URI, quoted for a shell; `qemu:///system` if the user gave none.
    pub(crate) fn uri(&self) -> String {
        quoted(self.connect.as_deref().unwrap_or(SYSTEM))
    }

    /// Returns the beginning of a virsh command: `virsh -c URI`.
    pub(crate) fn virsh(&self) -> String {
        format!("virsh -c {}", self.uri())
    }

    /// Returns the command that edits the domain's XML; empty if the XML came from stdin.
    pub(crate) fn edit(&self) -> String {
        match self.file() {
            Some("-") => String::new(),
            Some(path) => format!("${{EDITOR:-vi}} {path}"),
            None => format!("{} edit {}", self.virsh(), self.domain()),
        }
    }

    /// Returns the `gfxplane check` command for the domain or file.
    pub(crate) fn check(&self) -> String {
        let operand = self.file().map_or_else(|| self.operand(), str::to_owned);
        format!("gfxplane check {operand}")
    }

    /// Returns the `gfxplane explain` command for the domain's last start.
    pub(crate) fn explain(&self) -> String {
        format!(
            "gfxplane explain {}--domain {}",
            self.option(),
            self.typed()
        )
    }

    /// Returns the `gfxplane fixup` command with these options. It defines the domain anew; for a
    /// file, it writes `NEW.xml`.
    pub(crate) fn fixup(&self, options: &str) -> String {
        self.command(&Fix::fixup(options.trim(), ""))
    }

    /// Returns the virt-xml command with these options. It defines the domain anew; for a file, it
    /// writes `NEW.xml`.
    pub(crate) fn virt_xml(&self, options: &str) -> String {
        match self.file() {
            Some(path) => format!("virt-xml {options} < {path} > NEW.xml"),
            None => format!(
                "virt-xml -c {} {} {options} --define",
                self.uri(),
                self.domain()
            ),
        }
    }

    /// Returns the virt-viewer command that works on libvirt's host, even without a port.
    pub(crate) fn viewer(&self) -> String {
        format!("virt-viewer -c {} --attach {}", self.uri(), self.domain())
    }

    /// Returns a fix as a line for a shell; for a fix in words, see [`Fix::by_hand`]. For a file,
    /// fixup writes `NEW.xml`, and verbs that accept no file get `DOMAIN`.
    pub(crate) fn command(&self, fix: &Fix) -> String {
        match (self.file(), fix) {
            (Some(path), Fix::Command { verb, .. }) if *verb != "policy" => fix.of_file(path),
            _ => {
                let by_hand = fix.by_hand(&self.edit());
                by_hand.unwrap_or_else(|| fix.of_domain(&self.operand()))
            }
        }
    }

    /// Returns the fixes of a note, each as [`Names::command`] returns it.
    pub(crate) fn fixes(&self, note: &Note) -> Vec<String> {
        note.fixes.iter().map(|fix| self.command(fix)).collect()
    }

    /// Returns the fix for [`Plan::host`]: for a device that libvirt can't prepare if `refusal` is
    /// about a device, otherwise for a host without KVM. `is_defined` returns whether mdevctl has a
    /// definition of a device and can start it.
    pub(crate) fn ready(
        &self,
        plan: &Plan,
        refusal: &Refusal,
        is_defined: impl Fn(DeviceId) -> bool,
    ) -> String {
        let About::Device(id) = refusal.about else {
            return self.command(&LOAD_KVM.into());
        };
        let vgpu = plan.screens.vgpus.iter().find(|vgpu| vgpu.id == id);
        let is_here = vgpu.is_some_and(|vgpu| vgpu.known.here != Some(Here::Absent));
        self.command(&Fix::Words(match id {
            DeviceId::Mdev(uuid) if is_defined(id) => format!("sudo mdevctl start --uuid {uuid}"),
            DeviceId::Pci(_) if is_here => {
                "set managed='yes' on the hostdev, so that libvirt takes the device from its driver"
                    .into()
            }
            _ => "name a device that this host has; gfxplane list shows them".into(),
        }))
    }

    /// Returns the reason why a device's display is off although it could be on, and the fixes.
    /// `None` if `better` neither has a note about the display nor switches it on. `better` is the
    /// plan with the changes that the policy allows, and `fixup` is the command that makes these
    /// changes.
    pub(crate) fn off(
        &self,
        device: DeviceId,
        better: &Plan,
        fixup: Vec<String>,
    ) -> Option<(String, Vec<String>)> {
        let about = About::Device(device);
        let is_off = |note: &&Note| note.topic == Topic::Off && note.about == about;
        if let Some(note) = better.notes.iter().find(is_off) {
            return Some((note.text.clone(), self.fixes(note)));
        }
        let on = Action::Display { device, on: true };
        let change = better.changes.iter().find(|change| change.action == on)?;
        Some((format!("off: {}", change.reason), fixup))
    }
}
