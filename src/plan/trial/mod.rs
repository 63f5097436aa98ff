//! Whether a domain really starts: what is needed to try it, and what to make of the answer.
//!
//! [`reduce`] makes, of a domain's XML, the smallest domain about which libvirt and QEMU decide
//! as about the whole one: its vfio devices, its graphics and its video. [`said`] holds the answer
//! against what was predicted. All of it is pure; `gfxplane verify` starts the domain.
//!
//! The reduced domain is written anew from a list of what is kept, so that nothing that is not on
//! the list (a password, a disk, a port) can slip in.

mod arguments;
mod names;
mod reduce;
pub mod said;
mod writer;

pub use names::name;
pub(crate) use names::{is_name, uuid_of};
pub use reduce::{Irreducible, LeftOut, Reduced, reduce};
