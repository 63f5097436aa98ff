//! What a device is, what is known about it, and how that is known.
//!
//! * [`id`]: a device's name; [`version`]: versions of kernels and programs.
//! * [`facts`]: what a device has. [`evidence`]: how a fact is known, and which of two sources counts.
//! * [`record`]: the kept answer of one device. [`rules`]: built-in knowledge about types of devices.

pub mod evidence;
pub mod facts;
pub mod id;
pub mod record;
pub mod rules;
pub mod version;
