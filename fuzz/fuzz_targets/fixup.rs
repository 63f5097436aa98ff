//! Whatever the bytes: a domain that is fixed keeps the promises of tests/support/promises.rs, and
//! nothing panics.
//!
//! Input: a document, and after the first NUL (which no document has) bytes that say what is known of
//! its devices, which QEMU and libvirt there are, and what is allowed.

#![no_main]

use gfxplane::fixup::fix;
use gfxplane::xml::from_bytes;
use libfuzzer_sys::fuzz_target;

#[path = "../../tests/support/promises.rs"]
mod promises;
#[path = "../../tests/support/worlds.rs"]
mod worlds;

fuzz_target!(|input: &[u8]| {
    let mut parts = input.splitn(2, |byte| *byte == 0);
    let text = parts.next().unwrap_or_default().to_vec();
    let Ok(text) = from_bytes(text) else { return };
    let (world, policy, wishes) = worlds::of_bytes(parts.next().unwrap_or_default());
    let Ok(fixed) = fix(&text, &world, &policy, &wishes) else {
        return;
    };
    if let Err(problem) = promises::kept(&text, &fixed, &world, &policy, &wishes) {
        panic!("{problem}");
    }
});
