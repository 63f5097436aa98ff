//! What must hold is told in tests/support/targets/log.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gfxplane_fuzz::log(input));
