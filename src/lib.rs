//! gfxplane finds out what display a vfio device offers, tells libvirt, and makes guests' XML
//! match.
//!
//! A room needs only rooms above it in this list:
//!
//! * [`xml`] edits XML by its bytes, and knows nothing of libvirt.
//! * [`device`] is what a device is, what is known about it, and how.
//! * [`domain`] is what a guest's XML asks for, and what its owner allows.
//! * [`predict`] foretells what libvirt and QEMU do with it.
//! * [`plan`] finds the changes that make a domain match its devices, and takes them back.
//! * [`host`] reads this machine, and keeps files on it.
//! * [`publish`] tells others: node-device XML, attributes, properties, JSON.
//! * [`probe`] opens devices. Nothing else does.
//! * [`explain`] knows what a message means, and what is in the way on a host.
//! * [`libvirt`] is the connection to libvirt.
//! * [`daemon`] decides and acts when nobody asks: the daemon and libvirt's hook.
//! * [`cli`] is a file for each verb.
//!
//! The first five are pure: values in, values out.
//!
//! This library has three limits: it never asks a device for its real plane (only the PROBE form
//! of the query), never resets one, and never opens one that somebody else holds.

pub mod cli;
pub mod daemon;
pub mod device;
pub mod domain;
pub mod explain;
pub mod host;
pub mod libvirt;
pub mod plan;
pub mod predict;
pub mod probe;
pub mod publish;
pub mod xml;
