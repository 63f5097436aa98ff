//! The connection to libvirt: the questions that commands ask it.

mod context;
#[cfg(feature = "libvirt")]
mod events;
pub(crate) mod idle;
#[cfg(feature = "libvirt")]
mod library;
pub(crate) mod logs;
pub(crate) mod surroundings;
pub mod trial;
pub(crate) mod versions;

pub use context::{Context, Failure};
pub(crate) use context::{SYSTEM, columns, say};
use std::collections::HashSet;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[cfg(feature = "libvirt")]
pub use library::ByLibrary;

use crate::device::id::DeviceId;
use crate::publish::overview::Defined;

/// A domain's persistent definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Definition {
    /// The domain's UUID, by which libvirt finds the domain again.
    pub uuid: String,
    /// The XML.
    pub xml: String,
    /// True if the domain runs.
    pub is_active: bool,
}

/// An active domain and the vfio devices that it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// The domain's name.
    pub domain: String,
    /// The devices.
    pub devices: Vec<DeviceId>,
}

/// The outcome of starting a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// The domain started.
    Starts,
    /// libvirt or QEMU refused the domain with these words.
    Refused(String),
}

/// The time that a start may take.
#[derive(Clone, Copy)]
pub struct Term<'t> {
    /// The time at which the start has to be over.
    pub limit: Instant,
    /// Returns whether somebody else needs the devices now, so that the start has to be given up.
    pub gives_way: &'t dyn Fn() -> bool,
}

impl Term<'_> {
    /// The time between two calls of `gives_way`.
    const SLICE: Duration = Duration::from_millis(50);

    /// Returns whether to stop waiting.
    #[cfg(feature = "libvirt")]
    pub(crate) fn is_over(&self) -> bool {
        Instant::now() >= self.limit || (self.gives_way)()
    }

    /// Returns the time to wait until the next check.
    pub fn slice(&self) -> Duration {
        let left = self.limit.saturating_duration_since(Instant::now());
        left.min(Self::SLICE)
    }

    /// Returns why the wait ended. `late` is the reason if the time is over.
    #[cfg(feature = "libvirt")]
    pub(crate) fn failure(&self, late: String) -> Failure {
        Failure::Environment(if (self.gives_way)() {
            "a domain that has one of the devices is being started, and comes first: try again later".into()
        } else {
            late
        })
    }
}

/// The new form of a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum New<'n> {
    /// This XML, which libvirt first checks against its schema. The check takes time.
    Checked(&'n str),
    /// This XML.
    Whole(&'n str),
    /// The old XML with this `<graphics>` in place of the first of its type. libvirt replaces only
    /// that element, so everything else that somebody changes at the same moment stays.
    Graphics(&'n str),
}

/// The result of replacing a definition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// The definition was replaced.
    Done {
        /// The time from our last look at the old definition until the new one was there. libvirt
        /// has no compare-and-swap: a definition that somebody else made within this time was
        /// replaced, too ([`versions`]).
        window: Duration,
    },
    /// The definition is no longer the one that was read, and was left as it is.
    Changed,
}

/// A report that libvirt makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Something has happened to a domain.
    Domain {
        /// The domain's UUID.
        uuid: String,
        /// The event.
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

/// The receiver of the reports.
pub type Sink = Arc<dyn Fn(Event) + Send + Sync>;

/// The questions that commands ask libvirt. This is a trait, so that a program without libvirt does
/// not load libvirt's library and the fifty others that it brings. Unless a method says otherwise,
/// it fails without libvirt.
///
/// # Errors
/// Every method fails if libvirt can't be reached. Its own `# Errors` says what else it fails for.
pub trait Libvirt: fmt::Debug + Send + Sync {
    /// Returns the persistent definition of a domain, by name or UUID, and with its passwords if
    /// `secrets` is true.
    ///
    /// # Errors
    /// There is no such domain.
    fn definition(&self, _name: &str, _secrets: bool) -> Result<Definition, Failure> {
        Without::missing(NEEDED)
    }

    /// Replaces a definition, or a part of it, if the definition is still the one that was read.
    ///
    /// # Errors
    /// libvirt refuses the new definition or can't be reached. The definition stays as it was.
    fn define(&self, _before: &Definition, _new: New<'_>) -> Result<Replaced, Failure> {
        Without::missing(NEEDED)
    }

    /// Undefines a domain if its definition is still this one. Nothing else of the domain is
    /// removed: neither its NVRAM, nor its TPM's state, nor its disks.
    ///
    /// # Errors
    /// libvirt refuses that, or can't be reached. The domain then stays as it was.
    fn undefine(&self, _definition: &Definition) -> Result<Replaced, Failure> {
        Without::missing(NEEDED)
    }

    /// Returns the persistent definition of a domain with its passwords; `None` if there is no such
    /// domain or it is transient.
    fn persistent(&self, _uuid: &str) -> Result<Option<Definition>, Failure> {
        Without::missing(NEEDED)
    }

    /// Returns the UUIDs of all persistent domains.
    fn all_persistent(&self) -> Result<Vec<String>, Failure> {
        Without::missing(NEEDED)
    }

    /// Returns all domains, also those that are not persistent, with their states and without their
    /// secrets; `None` if this program has no libvirt.
    fn guests(&self) -> Result<Option<Vec<Defined>>, Failure> {
        Ok(None)
    }

    /// Returns whether a domain runs. A domain whose start is under way does not run yet.
    ///
    /// # Errors
    /// There is no such domain.
    fn is_running(&self, _uuid: &str) -> Result<bool, Failure> {
        Without::missing(NEEDED)
    }

    /// Returns whether libvirt starts a domain by itself.
    ///
    /// # Errors
    /// There is no such domain.
    fn is_autostart(&self, _uuid: &str) -> Result<bool, Failure> {
        Without::missing(NEEDED)
    }

    /// Starts a persistent domain.
    ///
    /// # Errors
    /// The domain does not start, or runs already.
    fn start_persistent(&self, _uuid: &str) -> Result<(), Failure> {
        Without::missing(NEEDED)
    }

    /// Returns the version of the libvirt that runs the domains: 1,000,000 major + 1,000 minor +
    /// release.
    fn version(&self) -> Result<u32, Failure> {
        Without::missing(NEEDED)
    }

    /// Returns the XML of `<domainCapabilities>` for an emulator, or for libvirt's own; `None` if
    /// there is no libvirt. libvirt runs an emulator that it does not know yet, as the user of the
    /// guests.
    ///
    /// # Errors
    /// libvirt can't be reached, or does not accept the emulator.
    fn domain_capabilities(&self, _emulator: Option<&Path>) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    /// Opens one connection that stays open, and reports events to `sink` until the connection is
    /// dropped.
    fn watch(&self, _sink: Sink) -> Result<Arc<dyn Libvirt>, Failure> {
        Without::missing(NEEDED)
    }

    /// Opens a connection to `uri` that stays open, and reports only its end to `sink`
    /// ([`Event::Lost`]).
    fn stay(&self, _uri: &str, _sink: Sink) -> Result<Arc<dyn Libvirt>, Failure> {
        Without::missing(NEEDED)
    }

    /// Waits until libvirt has listed the host's devices.
    ///
    /// # Errors
    /// libvirt can't be reached, or has no driver for them.
    fn lists_nodedevs(&self) -> Result<(), Failure> {
        Without::missing(NEEDED)
    }

    /// Puts `<policy>` (`xml`, without its namespace) into the metadata of a persistent definition,
    /// in place of the present one. `None` removes it. libvirt changes only the metadata, so
    /// nothing else of the domain can be lost.
    ///
    /// # Errors
    /// There is no such domain; libvirt can't be reached, or refuses. The metadata stay as they
    /// were.
    fn set_policy(&self, _uuid: &str, _xml: Option<&str>) -> Result<(), Failure> {
        Without::missing("a domain's own policy is in libvirt's definition of it")
    }

    /// Returns the active domains.
    fn users(&self) -> Result<Vec<User>, Failure> {
        Without::missing(NEEDED)
    }

    /// Starts a transient domain, paused, and destroys it again.
    ///
    /// # Errors
    /// libvirt can't be reached, denies us the right, or has not started it by `limit`.
    fn start(&self, _xml: &str, _uuid: &str, _term: Term<'_>) -> Result<Start, Failure> {
        Without::missing(NEEDED)
    }

    /// Has libvirt check a domain without a start: libvirt translates the XML into QEMU's arguments
    /// (`virConnectDomainXMLToNative`), and for that makes the checks of a definition and most of
    /// those of a start. Nothing is defined. Returns `None` if this driver of libvirt's can't
    /// translate.
    ///
    /// # Errors
    /// libvirt can't be reached, or denies us the right.
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

/// Replaces a definition for a caller who has just read it.
///
/// # Errors
/// The errors of [`Libvirt::define`]; an error if somebody else has changed the definition first.
pub fn replace(libvirt: &dyn Libvirt, before: &Definition, xml: &str) -> Result<(), Failure> {
    match libvirt.define(before, New::Checked(xml))? {
        Replaced::Done { .. } => Ok(()),
        Replaced::Changed => Err(Failure::Environment(
            "the domain was changed by somebody else meanwhile, and is left as they made it: run this again".into(),
        )),
    }
}

/// The absence of libvirt: this program was built without libvirt, or must not need it.
#[derive(Debug, Clone, Copy)]
pub struct Without;

impl Without {
    fn missing<T>(fix: &str) -> Result<T, Failure> {
        let problem = format!("this gfxplane was built or installed without libvirt: {fix}");
        Err(Failure::Environment(problem))
    }
}

impl Libvirt for Without {}
