//! What must hold is told in tests/support/targets/fixup.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gfxplane_fuzz::fixup(input));
