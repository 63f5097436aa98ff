//! The surroundings of a domain: its devices and programs, on this machine or on a recorded host.

use std::cell::RefCell;
use std::path::Path;

use crate::device::id::DeviceId;
use crate::device::version::Version;
use crate::domain::Domain;
use crate::domain::policy::Policy;
use crate::host::emulator::{self, Asking};
use crate::host::{Warning, has_kvm, settings};
use crate::libvirt::{Context, Failure};
use crate::plan::fixup::Surroundings;
use crate::predict::abilities::Abilities;
use crate::predict::screens::Known;
use crate::publish::inventory::Reading;

/// The surroundings of a domain on this machine or on a recorded host.
pub(crate) struct HostSurroundings<'c> {
    context: &'c Context,
    /// True if the domain comes from libvirt. Only then does libvirt get the path of the domain's
    /// emulator.
    is_libvirts: bool,
    qemu: Option<Version>,
    libvirt: Option<Version>,
    /// True if the host has KVM; `None` if that is unknown or does not matter.
    kvm: Option<bool>,
    /// Warnings about files that were ignored.
    warnings: RefCell<Vec<Warning>>,
    reading: Reading,
}

impl<'c> HostSurroundings<'c> {
    /// Makes the surroundings for a domain of this host's libvirt (`is_libvirts` is true) or of a
    /// file. `qemu` and `libvirt` are versions to assume instead of this host's.
    ///
    /// # Errors
    /// libvirt is on another host, and the context has no recording of that host.
    pub(crate) fn new(
        context: &'c Context,
        is_libvirts: bool,
        qemu: Option<Version>,
        libvirt: Option<Version>,
    ) -> Result<Self, Failure> {
        if context.is_remote() && !context.root.is_recorded() {
            return Err(Failure::Environment(
                "this libvirt is on another host, whose devices can't be seen from here: run gfxplane there, or record that host with `gfxplane collect DIR` and name it with --host DIR".into(),
            ));
        }
        Ok(HostSurroundings {
            is_libvirts,
            qemu,
            libvirt,
            kvm: has_kvm(&context.root),
            ..Self::as_it_is(context)
        })
    }

    /// Makes the surroundings for a domain of this host's libvirt, with this host's versions.
    /// Unlike [`Self::new`], does not ask whether the host has KVM, and does not check that libvirt
    /// is on this host.
    pub(crate) fn as_it_is(context: &'c Context) -> Self {
        HostSurroundings {
            context,
            is_libvirts: true,
            qemu: None,
            libvirt: None,
            kvm: None,
            warnings: RefCell::default(),
            reading: Reading::new(&context.root),
        }
    }

    /// Returns the context of the command or the daemon.
    pub(crate) fn context(&self) -> &'c Context {
        self.context
    }

    /// Reads the host's policy from the settings.
    pub(crate) fn policy(&self) -> Policy {
        settings::config(&self.context.root, &mut self.warnings.borrow_mut()).policy
    }

    /// Returns whether mdevctl has a definition of a device, so that the device can be started.
    /// Call [`Surroundings::known`] for an inactive device first: before that, this returns
    /// `false`.
    pub(crate) fn is_defined(&self, device: DeviceId) -> bool {
        self.reading.is_defined(device)
    }

    /// Returns the warnings since the last call, and forgets them.
    pub(crate) fn warnings(&self) -> Vec<Warning> {
        self.warnings.take()
    }

    /// Writes the warnings since the last call to stderr, unless the user has suppressed them.
    pub(crate) fn warn(&self) {
        self.context.warn(&self.warnings());
    }
}

impl Surroundings for HostSurroundings<'_> {
    fn known(&self, device: DeviceId) -> Known {
        self.reading.known(device, &mut self.warnings.borrow_mut())
    }

    fn abilities(&self, domain: &Domain<'_, '_>) -> Abilities {
        let emulator = domain.program();
        // A user who names a version wants to know about that one, not about this machine's.
        let ask = |emulator: &Path| self.context.domain_capabilities(emulator, self.is_libvirts);
        let asking = if self.qemu.is_some() {
            Asking::Cached
        } else {
            Asking::Fresh(&ask)
        };
        let mut abilities = emulator::abilities(
            &self.context.root,
            &emulator,
            asking,
            &mut self.warnings.borrow_mut(),
        );
        if let Some(qemu) = &self.qemu {
            if abilities.qemu.as_ref() != Some(qemu) {
                abilities.frontends = None;
                abilities.spice_gl_over_tcp = None;
            }
            abilities.qemu = Some(qemu.clone());
        }
        abilities.kvm = self.kvm;
        if let Some(libvirt) = &self.libvirt {
            abilities.libvirt = Some(libvirt.clone());
        }
        abilities
    }
}
