//! Checks that a domain that is fixed keeps the promises of promises.rs.
//!
//! Input: a document, and after the first NUL bytes that stand for what is known of its devices,
//! for the versions of QEMU and libvirt, and for what is allowed (worlds.rs).

use gfxplane::plan::fixup::fix;
use gfxplane::xml::from_bytes;

use super::parts;
use crate::{promises, worlds};

/// Checks one input.
///
/// # Errors
/// The property that it breaks.
pub(crate) fn check(input: &[u8]) -> Result<(), String> {
    let [text, _] = parts::<2>(input);
    // The rest may contain NULs of its own.
    let world = input.get(text.len() + 1..).unwrap_or_default();
    let Ok(text) = from_bytes(text.to_vec()) else {
        return Ok(());
    };
    let (world, policy, wishes) = worlds::of_bytes(world);
    match fix(&text, &world, &policy, &wishes) {
        Ok(fixed) => promises::kept(&text, &fixed, &world, &policy, &wishes),
        Err(_) => Ok(()),
    }
}
