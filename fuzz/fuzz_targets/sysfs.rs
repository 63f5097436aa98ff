//! What must hold is told in tests/support/targets/sysfs.rs.

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| gfxplane_fuzz::sysfs(input));
