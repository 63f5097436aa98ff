//! A domain that is fixed keeps the promises of promises.rs.
//!
//! Input: a document, and after the first NUL bytes that say what is known of its devices, which QEMU and libvirt
//! there are, and what is allowed (worlds.rs).

use gfxplane::fixup::fix;
use gfxplane::xml::from_bytes;

use super::parts;
use crate::{promises, worlds};

/// # Errors
/// What is broken.
pub(crate) fn check(input: &[u8]) -> Result<(), String> {
    let [text, _] = parts::<2>(input);
    // What follows has NULs of its own.
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
