//! Finds out whether a domain starts: from the built-in measurements, from an earlier trial on this
//! host, or by a trial now.
//!
//! A trial starts the same small copy as `gfxplane verify` ([`crate::plan::trial::reduce`]). It
//! needs devices that nobody uses, and never runs while a domain with one of them is being started.

use std::fmt;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use serde::Serialize;
use uuid::Uuid;

use crate::device::id::DeviceId;
use crate::device::version::Version;
use crate::domain::{Domain, name_and_devices};
use crate::host::Warning;
use crate::host::emulator::trials::Build;
use crate::host::emulator::{Kind, kind};
use crate::host::requests::start_under_way;
use crate::libvirt::idle;
use crate::libvirt::logs::Logs;
use crate::libvirt::{Context, Failure, Libvirt, Start};
use crate::plan::fixup::Surroundings;
use crate::plan::trial::{Irreducible, Reduced, name, reduce, said};
use crate::predict::abilities::Abilities;
use crate::predict::screens::Screens;
use crate::predict::shape::{Shape, measured};
use crate::xml::Document;

/// The time between two checks whether another run's trial has ended.
const PAUSE: Duration = Duration::from_millis(200);

/// How it is known whether a domain starts.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "by", rename_all = "kebab-case")]
pub(crate) enum Source {
    /// A domain of the same shape was measured with exactly these versions of QEMU and libvirt; the
    /// measurements are built into gfxplane.
    Measured {
        /// The measured version of QEMU.
        qemu: Version,
        /// The measured version of libvirt.
        libvirt: Version,
    },
    /// A small copy of a domain with the same shape was tried on this host earlier, with the same
    /// build of QEMU and the same libvirt.
    Earlier {
        /// The time of that trial, in seconds since 1970.
        time: u64,
    },
    /// A small copy of the domain was tried just now.
    Trial {
        /// The duration of the trial.
        seconds: f64,
    },
}

/// The answer whether a domain starts.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Seen {
    /// How this is known.
    #[serde(flatten)]
    pub source: Source,
    /// True if the domain starts.
    pub starts: bool,
    /// The message of the program that refused the domain; `None` if the domain starts.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

impl Seen {
    fn new(source: Source, message: Option<String>) -> Self {
        Seen {
            source,
            starts: message.is_none(),
            message,
        }
    }

    /// Returns whether the answer is good enough for a user who asks now. An earlier refusal is
    /// not: the domain may start by now, for example because somebody granted a right.
    pub(crate) fn is_final(&self) -> bool {
        self.starts || !matches!(self.source, Source::Earlier { .. })
    }
}

impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let either = |yes, no| if self.starts { yes } else { no };
        match &self.source {
            Source::Measured { qemu, libvirt } => {
                let what = either("starts", "is refused");
                write!(
                    f,
                    "measured: such a domain {what} with QEMU {qemu} and libvirt {libvirt}"
                )?;
            }
            Source::Earlier { time } => {
                let what = either("started", "was refused");
                let time = crate::host::log::rfc3339(*time);
                write!(
                    f,
                    "tried: a small copy of such a domain {what} with this QEMU on {time}"
                )?;
            }
            Source::Trial { seconds } => {
                let what = either("started in", "was refused after");
                write!(f, "tried: a small copy of the domain {what} {seconds:.1} s")?;
            }
        }
        match &self.message {
            Some(message) => write!(f, ": {message}"),
            None => Ok(()),
        }
    }
}

/// The reason why a domain could not be tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotTried {
    /// A device is in use.
    #[error("{0}")]
    InUse(String),
    /// A device can't be used, because it does not exist or has no vfio driver.
    #[error("{0}")]
    Gone(String),
    /// Another run of ours has a device and will release it soon.
    #[error("{0}")]
    Ours(String),
    /// A domain with one of the devices is being started. That domain comes first.
    #[error("a domain that has device {0} is being started and has priority")]
    Start(DeviceId),
    /// The copy had not started by the deadline.
    #[error("{0}")]
    Late(String),
    /// The copy would lack this part of the domain, without which a trial shows nothing about the
    /// domain.
    #[error("a small copy would lack {0}")]
    LeftOut(String),
    /// libvirt can't be reached, or something else failed.
    #[error("{0}")]
    Failed(String),
}

impl From<NotTried> for Failure {
    fn from(error: NotTried) -> Self {
        let again = match error {
            NotTried::Start(_) => ": try again later",
            _ => "",
        };
        Failure::Environment(format!("{error}{again}"))
    }
}

/// The question whether a domain starts.
pub(crate) struct Question<'c> {
    copy: SmallCopy<'c>,
    emulator: PathBuf,
    abilities: Abilities,
    shape: Option<Shape>,
}

impl<'c> Question<'c> {
    /// Makes the question about a domain of the context's libvirt, and starts nothing yet. `text`
    /// is the domain's XML; `surroundings` are its devices and what the host can do.
    ///
    /// # Errors
    /// [`Irreducible`] if the XML can't be read, or QEMU does not run the domain.
    pub(crate) fn new(
        context: &'c Context,
        text: &str,
        surroundings: &dyn Surroundings,
    ) -> Result<Self, Irreducible> {
        let document = Document::parse(text)?;
        let domain = Domain::new(&document)?;
        let abilities = surroundings.abilities(&domain);
        let known = |id| surroundings.known(id);
        let emulator = domain.program();
        // It is unknown how a script changes QEMU's arguments. A session's libvirt has other
        // rights, and was never measured.
        let counts = context.is_system() && kind(&context.root, &emulator) != Kind::Script;
        let shape = counts.then(|| Shape::of(&domain, &Screens::of(&domain, &known, &abilities)));
        Ok(Question {
            copy: SmallCopy::of(context, text, &abilities)?,
            emulator,
            abilities,
            shape: shape.flatten(),
        })
    }

    /// Returns the UUID of the copy that would be started.
    pub(crate) fn uuid(&self) -> Uuid {
        self.copy.uuid
    }

    fn build(&self) -> Option<Build<'_>> {
        Build::of(&self.copy.context.root, &self.emulator)
    }

    /// Returns the answer if it needs no trial, or else `None`. A session's libvirt, and a script
    /// as the emulator, always need one. Adds warnings about files that were ignored.
    pub(crate) fn known(&self, warnings: &mut Vec<Warning>) -> Option<Seen> {
        let shape = self.shape.as_ref()?;
        if let Some(measured) = measured(shape, &self.abilities) {
            let source = Source::Measured {
                qemu: measured.qemu.clone(),
                libvirt: measured.libvirt.clone(),
            };
            return Some(Seen::new(source, measured.message.clone()));
        }
        let earlier = self.build()?.result(&shape.on_this_host(), warnings)?;
        let source = Source::Earlier { time: earlier.time };
        Some(Seen::new(source, earlier.message))
    }

    /// Tries the domain with `libvirt`, until `limit` at most. Keeps the result for this build of
    /// QEMU, if our user may write it and [`Self::known`] could use it.
    pub(crate) fn try_it(&self, libvirt: &dyn Libvirt, limit: Instant) -> Result<Seen, NotTried> {
        let matters = self.copy.reduced.left_out.iter().find(|left| left.matters);
        if let Some(left) = matters {
            return Err(NotTried::LeftOut(left.what.clone()));
        }
        let began = Instant::now();
        let start = self.copy.start_by(libvirt, limit)?;
        let seconds = (began.elapsed().as_secs_f64() * 10.0).round() / 10.0;
        let message = match start {
            Start::Starts => None,
            Start::Refused(message) => Some(message),
        };
        if let Some(shape) = &self.shape
            && let Some(build) = self.build()
        {
            // A user who may not write to the cache makes a new trial the next time.
            let _ = build.keep(&shape.on_this_host(), message.as_deref());
        }
        Ok(Seen::new(Source::Trial { seconds }, message))
    }

    /// Tries the domain like [`Self::try_it`], but waits, until `limit`, for other runs of ours to
    /// release the devices.
    pub(crate) fn try_in_turn(
        &self,
        libvirt: &dyn Libvirt,
        limit: Instant,
    ) -> Result<Seen, NotTried> {
        loop {
            match self.try_it(libvirt, limit) {
                Err(NotTried::Ours(_)) if Instant::now() + PAUSE < limit => thread::sleep(PAUSE),
                result => return result,
            }
        }
    }
}

/// A domain's small copy that can be started.
pub(crate) struct SmallCopy<'c> {
    context: &'c Context,
    uuid: Uuid,
    /// The copy, and what it lacks.
    pub(crate) reduced: Reduced,
    devices: Vec<DeviceId>,
}

impl<'c> SmallCopy<'c> {
    /// Makes the small copy of a domain for an emulator with these abilities. `text` is the
    /// domain's XML.
    ///
    /// # Errors
    /// [`Irreducible`] if the XML contains nothing that could be started.
    pub(crate) fn of(
        context: &'c Context,
        text: &str,
        abilities: &Abilities,
    ) -> Result<Self, Irreducible> {
        let uuid = Uuid::new_v4();
        let reduced = reduce(text, &name(uuid), uuid, abilities)?;
        Ok(SmallCopy {
            context,
            uuid,
            devices: name_and_devices(&reduced.xml).1,
            reduced,
        })
    }

    /// Starts the copy with libvirt, and removes everything that is left of it.
    pub(crate) fn start_by(
        &self,
        libvirt: &dyn Libvirt,
        limit: Instant,
    ) -> Result<Start, NotTried> {
        let failed = |error: Failure| NotTried::Failed(error.to_string());
        let root = &self.context.root;
        let starting = || self.devices.iter().find(|id| start_under_way(root, **id));
        idle::are_there(root, &self.devices)?;
        let logs = Logs::of(self.context.connect.as_deref());
        // This must be done before a device is held: libvirt does not answer about a domain while
        // its hook waits for us.
        let users = libvirt.users().map_err(failed)?;
        idle::are_unused(&users, &self.devices)?;
        logs.sweep(&users);
        let _held = idle::hold(root, &self.devices, limit)?;
        if let Some(id) = starting() {
            return Err(NotTried::Start(*id));
        }
        // A user's domain comes first.
        let is_over = || Instant::now() >= limit || starting().is_some();
        let result = libvirt.start(&self.reduced.xml, self.uuid, &is_over);
        logs.remove(&name(self.uuid));
        let start = result.map_err(|error| match starting() {
            // The copy was ended for a user's domain.
            Some(id) => NotTried::Start(*id),
            None if Instant::now() >= limit => NotTried::Late(error.to_string()),
            None => failed(error),
        })?;
        match &start {
            Start::Refused(message) => match said::about(message) {
                said::Answers::TheDomain => Ok(start),
                said::Answers::InUse => Err(NotTried::InUse(format!(
                    "a device is in use, so nothing can be tried: {message}"
                ))),
                said::Answers::Gone => Err(NotTried::Gone(format!(
                    "a device has gone meanwhile: {message}"
                ))),
            },
            Start::Starts => Ok(start),
        }
    }
}
