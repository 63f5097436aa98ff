//! gfxplane finds out what display a vfio device offers and what that display needs, and says it
//! in libvirt's words.
//!
//! A vfio device (mediated device, SR-IOV virtual function, passed-through GPU) may hand the
//! screen of its guest to the host through a region of device memory, through a dmabuf that needs
//! OpenGL, or not at all. Only `VFIO_DEVICE_QUERY_GFX_PLANE` on the opened device tells, and
//! libvirt has to decide long before QEMU opens it.
//!
//! ```text
//! /sys ──host::sysfs──┐
//! /dev/vfio ─probe────┼─> facts ──hints──> nodedev: capability XML, mdevctl attributes,
//! rules, records ─────┘     │                      udev properties, JSON
//!                           │
//! domain XML ──domain, screens──> predict ──> plan ──> edits ──> domain XML
//! abilities, policy ───────────────┘───────────┘
//! ```
//!
//! Everything right of the two readers is pure: values in, values out.
//!
//! * [`host`] reads (and keeps) files: sysfs, mdevctl's definitions, rules, and what earlier
//!   probes left in `/run/gfxplane`. Each function takes the root directory as an argument.
//! * [`probe`] opens devices. Nothing else does.
//! * [`facts`], [`evidence`], [`rules`], [`hints`] are the model: what is known, how it is known,
//!   what follows from it. [`inventory`] joins them for a whole host.
//! * [`nodedev`] writes it down in the forms that libvirt, mdevctl and udev take.
//! * [`callout`] reads how mdevctl calls us.
//! * [`export`] writes what was measured as rules.
//! * [`domain`] reads a domain's XML, [`screens`] is what is left of it for predictions: what makes
//!   a picture, and what shows it. [`arguments`] reads the user's own arguments for
//!   QEMU, [`properties`] knows the types of its properties. [`abilities`] is what the host's QEMU and libvirt can do.
//! * [`predict`] says what these will make of it; what differs between their versions is in one
//!   table there.
//! * [`plan`] is what has to be changed, and why; [`policy`] what may be. [`fixup`] does all of it:
//!   text in, plan and text out.
//! * [`hook`] is what the qemu hook decides when libvirt starts, restores or lets in a domain;
//!   [`watch`] what the daemon does about a definition; [`managed`] what the hooks of KubeVirt and
//!   oVirt do. [`undo`] is what a change takes to be taken back, [`log`] what is told of it.
//! * [`verify`] makes a domain small enough to be tried, and holds the answer against the prediction.
//!   [`shape`] is what of a domain decides about that, and what was measured of shapes.
//! * [`learn`] finds what a QEMU said of a device in the log of a domain.
//! * [`explain`] knows the messages of QEMU and libvirt, why they are said, and what helps; [`doctor`] what
//!   of a whole host is in the way.
//! * [`shell`] is how a text is shown in a terminal, and a name typed in a shell.
//! * [`cli`] is what the programs share: arguments, tables, exit codes.
//! * [`xml`] edits XML by its bytes and knows nothing of libvirt.
//!
//! What this library does not do: it never asks a device for its real plane (only the PROBE form
//! of the query), never resets one, and never opens one that somebody else holds.

pub mod abilities;
pub mod arguments;
pub mod callout;
pub mod cli;
pub mod config;
pub mod doctor;
pub mod domain;
pub mod evidence;
pub mod explain;
pub mod export;
pub mod facts;
pub mod fixup;
pub mod hints;
pub mod hook;
pub mod host;
pub mod inventory;
pub mod learn;
pub mod log;
pub mod managed;
pub mod names;
pub mod nodedev;
pub mod plan;
pub mod policy;
pub mod predict;
pub mod probe;
pub mod properties;
pub mod record;
pub mod rules;
pub mod screens;
pub mod shape;
pub mod shell;
pub mod undo;
pub mod verify;
pub mod version;
pub mod watch;
pub mod xml;
