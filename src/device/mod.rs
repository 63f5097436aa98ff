//! Describes a device: its name, the facts about it, and their evidence.
//!
//! * [`id`]: a device's name; [`version`]: versions of kernels and programs.
//! * [`facts`]: the facts about a device. [`evidence`]: the source of a fact, and the choice
//!   between two sources.
//! * [`toml`]: reads the files that people write.
//! * [`record`]: the kept answer of one device. [`rules`]: built-in knowledge about types of
//!   devices.

pub mod evidence;
pub mod facts;
pub mod id;
pub mod record;
pub mod rules;
pub mod toml;
pub mod version;
