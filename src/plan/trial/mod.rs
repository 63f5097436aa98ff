//! Prepares a trial, which shows whether a domain really starts, and interprets the answer.
//!
//! [`reduce`] makes the smallest domain for which libvirt and QEMU give the same answer as for the
//! whole domain: it has the vfio devices, the graphics and the video of the given XML. [`said`]
//! compares the answer with the prediction. `gfxplane verify` and the daemon start the domain.
//!
//! The reduced domain is written anew from a list of the parts that are kept, so that no other part
//! (a password, a disk, a port) can slip in.

mod kept_arguments;
mod names;
mod reduce;
pub mod said;
mod writer;

pub use names::name;
pub(crate) use names::{is_name, uuid_of};
pub use reduce::{Irreducible, LeftOut, Reduced, reduce};
