//! gfxplane finds out what display a vfio device offers and what that display needs, and says both
//! in libvirt's words.
//!
//! A vfio device (mediated device, SR-IOV virtual function, passed-through GPU) may hand its
//! guest's screen to the host through a region of device memory, through a dmabuf that needs
//! OpenGL, or not at all. The only way to find out is `VFIO_DEVICE_QUERY_GFX_PLANE` on the opened
//! device, and QEMU opens the device long after libvirt has fixed the guest's settings.
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
//! Everything to the right of the two readers is pure: values in, values out.
//!
//! * [`host`] reads and keeps files: sysfs, mdevctl's definitions, rules, and the records that
//!   earlier probes left in `/run/gfxplane`. Each function takes the root directory as an argument.
//! * [`probe`] opens devices. Nothing else does.
//! * [`facts`], [`evidence`], [`rules`], [`hints`] are the model: what is known of a device, how it
//!   is known, what follows from it. [`inventory`] joins them for a whole host.
//! * [`nodedev`] writes them in the forms that libvirt, mdevctl and udev take.
//! * [`callout`] reads mdevctl's calls of our helper.
//! * [`export`] writes measured facts as rules.
//! * [`domain`] reads a domain's XML. [`screens`] keeps of it what a prediction needs: the screens
//!   and what shows them. [`arguments`] reads the user's own arguments for QEMU, and [`properties`]
//!   knows the types of QEMU's properties. [`abilities`] is what the host's QEMU and libvirt can do.
//! * [`predict`] says what QEMU and libvirt will do with a domain. The differences between their
//!   versions stand in one table there.
//! * [`plan`] is what has to be changed and why; [`policy`] is what may be changed. [`fixup`] runs
//!   all of it: text in, plan and text out.
//! * [`hook`] decides for the qemu hook when libvirt starts, restores or lets in a domain. [`watch`]
//!   decides what the daemon does about a definition. [`managed`] does the work of KubeVirt's and
//!   oVirt's hooks. [`undo`] takes changes back, and [`log`] tells what was done.
//! * [`verify`] makes a domain small enough for a trial and compares the outcome with the prediction.
//!   [`shape`] is the part of a domain that decides the outcome, with the measured shapes.
//! * [`learn`] finds it in a domain's log.
//! * [`explain`] knows the messages of QEMU and libvirt, their causes and what helps. [`doctor`]
//!   finds what is in the way on a whole host.
//! * [`shell`] makes text safe for a terminal and names safe for a shell.
//! * [`cli`] is what the programs share: arguments, tables, exit codes.
//! * [`xml`] edits XML by its bytes and knows nothing of libvirt.
//!
//! This library never asks a device for its real plane (it uses only the PROBE form of the query).
//! It never resets a device, and never opens one that somebody else holds.

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
