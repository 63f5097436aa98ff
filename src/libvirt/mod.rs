//! The connection to libvirt: the calls that commands make.

mod context;
pub(crate) mod definition_versions;
#[cfg(feature = "libvirt")]
mod events;
pub(crate) mod idle;
#[cfg(feature = "libvirt")]
mod library;
pub(crate) mod logs;
pub(crate) mod surroundings;
pub mod trial;

pub use context::{Context, Failure};
pub(crate) use context::{SYSTEM, columns, say};
use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

#[cfg(feature = "libvirt")]
pub use library::ByLibrary;

use uuid::Uuid;

use crate::device::id::DeviceId;
use crate::device::version::Version;
use crate::publish::overview::Defined;

/// A domain's persistent definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The domain's UUID, by which libvirt finds the domain again.
    pub uuid: Uuid,
    /// The definition's XML.
    pub xml: String,
    /// True if the domain is active: it runs or is paused.
    pub is_active: bool,
}

/// An active domain and its vfio devices.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The domain's name.
    pub domain: String,
    /// The domain's vfio devices.
    pub devices: Vec<DeviceId>,
}

/// The outcome of a start: libvirt and QEMU accept the domain, or refuse it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// libvirt and QEMU accept the domain.
    Starts,
    /// libvirt or QEMU refuses the domain with this message.
    Refused(String),
}

/// The XML that replaces a definition, or one element of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum New<'n> {
    /// This XML, which libvirt first checks against its schema. The check takes time.
    Checked(&'n str),
    /// This XML, without a check against libvirt's schema.
    Whole(&'n str),
    /// The old XML with this `<graphics>` in place of the first one of its type. libvirt replaces
    /// only this element, so what somebody else changes in other elements at the same moment is not
    /// lost.
    Graphics(&'n str),
}

/// The result of replacing or undefining a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// The definition was replaced, or the domain was undefined.
    Done {
        /// The time between our last look at the old definition and libvirt's answer to the change.
        /// libvirt has no compare-and-swap, so a definition that somebody else made within this
        /// time was overwritten as well ([`definition_versions`]).
        window: Duration,
    },
    /// Nothing was done, because the definition is no longer the one that was read, or there is
    /// none any more.
    Changed,
}

/// An event that libvirt reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something has happened to a domain.
    Domain {
        /// The domain's UUID.
        uuid: Uuid,
        /// The event in the domain's life.
        what: Happened,
    },
    /// The connection has ended.
    Lost,
}

/// An event in a domain's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Happened {
    /// The domain's persistent definition is new or different.
    Defined,
    /// The domain no longer has a persistent definition.
    Undefined,
    /// The domain has started.
    Started,
    /// The domain has ended.
    Stopped,
    /// The domain's metadata are different.
    Metadata,
}

/// The function that receives the events.
pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;

/// The calls that commands make to libvirt. This is a trait, so that a program without libvirt does
/// not load libvirt's library and the fifty others that it needs. Without libvirt, each method
/// fails unless its docstring says otherwise.
///
/// # Errors
/// Every method fails if libvirt can't be reached. Its own `# Errors` lists other reasons.
pub trait Libvirt: fmt::Debug + Send + Sync {
    /// Returns the persistent definition of a domain, by name or UUID. Includes its passwords if
    /// `secrets` is true.
    ///
    /// # Errors
    /// There is no such domain, or it is transient.
    fn definition(&self, _name: &str, _secrets: bool) -> Result<Definition, Failure> {
        Without::missing(NEEDED)
    }

    /// Replaces a definition or a part of it, if the definition is still `before`, which must have
    /// been read with its passwords. Otherwise returns [`Replaced::Changed`].
    ///
    /// # Errors
    /// libvirt refuses the new definition. The definition then stays as it was.
    fn define(&self, _before: &Definition, _new: New<'_>) -> Result<Replaced, Failure> {
        Without::missing(NEEDED)
    }

    /// Undefines a domain if its definition, with its passwords, is still this one; otherwise
    /// returns [`Replaced::Changed`]. Removes nothing else of the domain: neither its NVRAM, nor
    /// its TPM's state, nor its disks.
    ///
    /// # Errors
    /// libvirt refuses. The domain then stays as it was.
    fn undefine(&self, _definition: &Definition) -> Result<Replaced, Failure> {
        Without::missing(NEEDED)
    }

    /// Returns the persistent definition of a domain with its passwords; `None` if there is no such
    /// domain or it is transient.
    fn persistent(&self, _uuid: Uuid) -> Result<Option<Definition>, Failure> {
        Without::missing(NEEDED)
    }

    /// Returns the UUIDs of all persistent domains.
    fn all_persistent(&self) -> Result<Vec<Uuid>, Failure> {
        Without::missing(NEEDED)
    }

    /// Returns all domains, including transient ones, with their states and without their secrets.
    /// Returns `None` if this program has no libvirt.
    fn guests(&self) -> Result<Option<Vec<Defined>>, Failure> {
        Ok(None)
    }

    /// Returns whether a domain runs or is paused. Returns `false` for a domain that is being
    /// started or shut down.
    ///
    /// # Errors
    /// There is no such domain.
    fn is_running(&self, _uuid: Uuid) -> Result<bool, Failure> {
        Without::missing(NEEDED)
    }

    /// Returns whether libvirt starts a domain by itself when libvirt starts.
    ///
    /// # Errors
    /// There is no such domain.
    fn is_autostart(&self, _uuid: Uuid) -> Result<bool, Failure> {
        Without::missing(NEEDED)
    }

    /// Starts a persistent domain.
    ///
    /// # Errors
    /// The domain does not start, or runs already.
    fn start_persistent(&self, _uuid: Uuid) -> Result<(), Failure> {
        Without::missing(NEEDED)
    }

    /// Returns the version of the libvirt that runs the domains.
    fn version(&self) -> Result<Version, Failure> {
        Without::missing(NEEDED)
    }

    /// Returns the XML of `<domainCapabilities>` for an emulator or, for `None`, for libvirt's own.
    /// Returns `None` if this program has no libvirt. If libvirt does not know an emulator yet, it
    /// runs the emulator as the user of the guests.
    ///
    /// # Errors
    /// libvirt does not accept the emulator.
    fn domain_capabilities(&self, _emulator: Option<&Path>) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    /// Opens a connection that stays open until it is dropped, and reports its events to `sink`.
    fn watch(&self, _sink: Sink) -> Result<Arc<dyn Libvirt>, Failure> {
        Without::missing(NEEDED)
    }

    /// Opens a read-only connection to `uri` that stays open, and reports only its end to `sink`
    /// ([`Event::Lost`]).
    fn stay(&self, _uri: &str, _sink: Sink) -> Result<Arc<dyn Libvirt>, Failure> {
        Without::missing(NEEDED)
    }

    /// Waits until libvirt has listed the host's devices.
    ///
    /// # Errors
    /// libvirt has no driver for the host's devices.
    fn lists_nodedevs(&self) -> Result<(), Failure> {
        Without::missing(NEEDED)
    }

    /// Puts `<policy>` (`xml`, without its namespace) into the metadata of a persistent definition,
    /// in place of an earlier one. `None` removes it. libvirt changes only the metadata, so nothing
    /// else of the domain can be lost.
    ///
    /// # Errors
    /// There is no such domain, or libvirt refuses. The metadata then stay as they were.
    fn set_policy(&self, _uuid: Uuid, _xml: Option<&str>) -> Result<(), Failure> {
        Without::missing("a domain's own policy is in libvirt's definition of it")
    }

    /// Returns the active domains, each with its vfio devices.
    fn users(&self) -> Result<Vec<User>, Failure> {
        Without::missing(NEEDED)
    }

    /// Starts a transient domain, paused, and destroys it. Gives the start up as soon as `is_over`
    /// returns true.
    ///
    /// # Errors
    /// libvirt denies us the right, or the start was given up.
    fn start(
        &self,
        _xml: &str,
        _uuid: Uuid,
        _is_over: &dyn Fn() -> bool,
    ) -> Result<Start, Failure> {
        Without::missing(NEEDED)
    }

    /// Lets libvirt check a domain without a start. libvirt translates the XML into QEMU's
    /// arguments (`virConnectDomainXMLToNative`), for which it makes the checks of a definition and
    /// most checks of a start. Defines nothing. Returns `None` if this program has no libvirt, or
    /// if this driver of libvirt's can't translate.
    ///
    /// # Errors
    /// libvirt denies us the right or fails.
    fn dry_run(&self, _xml: &str) -> Result<Option<Start>, Failure> {
        Ok(None)
    }

    /// Returns the XML of a node device.
    ///
    /// # Errors
    /// There is no such device.
    fn nodedev_xml(&self, _name: &str) -> Result<String, Failure> {
        Without::missing("use --offline")
    }

    /// Returns the names of all node devices.
    fn nodedev_names(&self) -> Result<HashSet<String>, Failure> {
        Without::missing("use --offline")
    }
}

/// The advice to a user whose program lacks libvirt.
const NEEDED: &str = "install one that has it";

/// Replaces a definition that the caller has just read with its passwords. libvirt checks `xml`
/// against its schema.
///
/// # Errors
/// The errors of [`Libvirt::define`]; somebody else has changed the definition meanwhile.
pub fn replace(libvirt: &dyn Libvirt, before: &Definition, xml: &str) -> Result<(), Failure> {
    match libvirt.define(before, New::Checked(xml))? {
        Replaced::Done { .. } => Ok(()),
        Replaced::Changed => Err(Failure::Environment(
            "somebody else changed the domain meanwhile, and their definition stays: run this again".into(),
        )),
    }
}

/// The missing libvirt of a program that was built without it, or that must not need it.
#[derive(Debug, Clone, Copy)]
pub struct Without;

impl Without {
    fn missing<T>(fix: &str) -> Result<T, Failure> {
        let problem = format!("this gfxplane was built or installed without libvirt: {fix}");
        Err(Failure::Environment(problem))
    }
}

impl Libvirt for Without {}
