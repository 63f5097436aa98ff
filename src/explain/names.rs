//! Writes commands about a domain, which name it and its libvirt as the user did.

use crate::domain::shell::{SYSTEM, quoted};
use crate::plan::Fix;

/// The domain that commands are about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Subject {
    /// A domain of libvirt's, as the user types it in a shell.
    Domain(String),
    /// A file, as the user types it in a shell.
    File(String),
    /// A domain that nobody has named.
    Unknown,
}

/// The names of a domain and its libvirt.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// libvirt's URI, if the user gave one.
    connect: Option<String>,
    subject: Subject,
}

impl Names {
    /// Makes the names. `connect`: libvirt's URI, if the user gave one.
    #[must_use]
    pub fn new(connect: Option<&str>, subject: Subject) -> Self {
        Names {
            connect: connect.map(str::to_owned),
            subject,
        }
    }

    /// Returns the domain as an argument of virsh; `DOMAIN` if libvirt need not have it.
    #[must_use]
    pub(super) fn domain(&self) -> &str {
        match &self.subject {
            Subject::Domain(name) => name,
            Subject::File(_) | Subject::Unknown => "DOMAIN",
        }
    }

    /// Returns the domain or the file as the user typed it.
    #[must_use]
    pub(super) fn typed(&self) -> &str {
        self.file().unwrap_or(self.domain())
    }

    /// Returns the file, if the user gave the domain as a file.
    fn file(&self) -> Option<&str> {
        match &self.subject {
            Subject::File(path) => Some(path),
            Subject::Domain(_) | Subject::Unknown => None,
        }
    }

    /// Returns gfxplane's option that names libvirt, with a blank behind it.
    fn option(&self) -> String {
        let uri = self.connect.as_deref();
        uri.map_or_else(String::new, |uri| format!("-c {} ", quoted(uri)))
    }

    /// Returns the domain as an argument of a verb of gfxplane's that takes no file.
    pub(super) fn operand(&self) -> String {
        format!("{}{}", self.option(), self.domain())
    }

    fn uri(&self) -> String {
        quoted(self.connect.as_deref().unwrap_or(SYSTEM))
    }

    /// Returns virsh, with the option that names libvirt.
    pub(super) fn virsh(&self) -> String {
        format!("virsh -c {}", self.uri())
    }

    /// Returns the command that opens the domain's XML.
    pub(super) fn edit(&self) -> String {
        match self.file() {
            Some(path) => format!("${{EDITOR:-vi}} {path}"),
            None => format!("{} edit {}", self.virsh(), self.domain()),
        }
    }

    /// Returns the command that checks the domain.
    pub(super) fn check(&self) -> String {
        let operand = self.file().map_or_else(|| self.operand(), str::to_owned);
        format!("gfxplane check {operand}")
    }

    /// Returns the command that explains the domain's last start.
    pub(super) fn explain(&self) -> String {
        format!(
            "gfxplane explain {}--domain {}",
            self.option(),
            self.typed()
        )
    }

    /// Returns the command that makes the domain match its devices.
    pub(super) fn fixup(&self, options: &str) -> String {
        let options = options.trim().to_owned();
        self.command(&Fix::Command {
            verb: "fixup",
            options,
            reason: String::new(),
        })
    }

    /// Returns the command that makes a change by virt-xml.
    pub(super) fn virt_xml(&self, options: &str) -> String {
        match self.file() {
            Some(path) => format!("virt-xml {options} < {path} > NEW.xml"),
            None => format!(
                "virt-xml -c {} {} {options} --define",
                self.uri(),
                self.domain()
            ),
        }
    }

    /// Returns the command that shows the domain's screen on this host.
    pub(super) fn viewer(&self) -> String {
        format!("virt-viewer -c {} --attach {}", self.uri(), self.domain())
    }

    /// Returns a fix as a command.
    pub(super) fn command(&self, fix: &Fix) -> String {
        if let (
            Some(path),
            Fix::Command {
                verb: "fixup",
                options,
                reason,
            },
        ) = (self.file(), fix)
        {
            // The file itself stays as it is.
            let fix = Fix::Command {
                verb: "fixup",
                options: format!("{options} > NEW.xml").trim_start().to_owned(),
                reason: reason.clone(),
            };
            return fix.of_file(path);
        }
        let by_hand = fix.by_hand(&self.edit());
        by_hand.unwrap_or_else(|| fix.of_domain(&self.operand()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_name_what_the_user_named() {
        let guest = || Subject::Domain("'my guest'".into());
        let file = || Subject::File("./-x.xml".into());
        let session = Some("qemu:///session");
        for (connect, subject, edit, fixup, check, virt_xml) in [
            (
                None,
                guest(),
                "virsh -c qemu:///system edit 'my guest'",
                "gfxplane fixup 'my guest' --define --no-display",
                "gfxplane check 'my guest'",
                "virt-xml -c qemu:///system 'my guest' --edit --boot uefi --define",
            ),
            (
                session,
                guest(),
                "virsh -c qemu:///session edit 'my guest'",
                "gfxplane fixup -c qemu:///session 'my guest' --define --no-display",
                "gfxplane check -c qemu:///session 'my guest'",
                "virt-xml -c qemu:///session 'my guest' --edit --boot uefi --define",
            ),
            (
                session,
                file(),
                "${EDITOR:-vi} ./-x.xml",
                "gfxplane fixup ./-x.xml --no-display > NEW.xml",
                "gfxplane check ./-x.xml",
                "virt-xml --edit --boot uefi < ./-x.xml > NEW.xml",
            ),
            (
                session,
                Subject::Unknown,
                "virsh -c qemu:///session edit DOMAIN",
                "gfxplane fixup -c qemu:///session DOMAIN --define --no-display",
                "gfxplane check -c qemu:///session DOMAIN",
                "virt-xml -c qemu:///session DOMAIN --edit --boot uefi --define",
            ),
        ] {
            let names = Names::new(connect, subject);
            assert_eq!(names.edit(), edit);
            assert_eq!(names.fixup("--no-display"), fixup);
            assert_eq!(names.check(), check);
            assert_eq!(names.virt_xml("--edit --boot uefi"), virt_xml);
        }
    }

    #[test]
    fn a_reason_stays_behind_the_command() {
        let names = Names::new(None, Subject::File("d.xml".into()));
        let fix = Fix::Command {
            verb: "fixup",
            options: "--consent video".into(),
            reason: "the guest loses its card".into(),
        };
        assert_eq!(
            names.command(&fix),
            "gfxplane fixup d.xml --consent video > NEW.xml # the guest loses its card"
        );
        assert_eq!(
            names.command(&Fix::from("display='off'")),
            "${EDITOR:-vi} d.xml # display='off'"
        );
    }
}
