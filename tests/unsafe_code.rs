//! `unsafe` stands only in modules that are named here, each block with a note of why it is sound.
//!
//! The compiler and clippy see to the rest (Cargo.toml: `unsafe_code`, `undocumented_unsafe_blocks`);
//! but any module could allow itself what they deny.

use std::fs;
use std::path::Path;

/// Where it may be, and what for.
const MODULES: [&str; 8] = [
    // libvirt's C functions that the `virt` crate lacks.
    "src/cli/libvirt/events.rs",
    // fork(2), _exit(2), close_range(2).
    "src/probe/fork.rs",
    // The ioctls of vfio,
    "src/probe/ioctl.rs",
    // and of KVM.
    "src/probe/kvm.rs",
    // pidfd_open(2), pidfd_getfd(2).
    "src/probe/running/held.rs",
    // In its tests: a lock between fork and exec.
    "src/probe/running/look.rs",
    // C's main.
    "src/start.rs",
    // fork(2) in a test.
    "tests/holding.rs",
];

/// All files of Rust below a directory, but for what is built.
fn sources(directory: &Path, found: &mut Vec<String>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        let is_link = path.is_symlink();
        if path.is_dir() && !is_link && name != "target" && !name.starts_with('.') {
            sources(&path, found);
        } else if name.ends_with(".rs") {
            let below = path.strip_prefix(env!("CARGO_MANIFEST_DIR")).unwrap();
            found.push(below.to_str().unwrap().to_owned());
        }
    }
}

#[test]
fn unsafe_code_is_where_it_is_named() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for part in ["src", "tests", "benches"] {
        sources(&root.join(part), &mut files);
    }
    files.push("build.rs".into());
    let read = |file: &String| fs::read_to_string(root.join(file)).unwrap();
    // Not this file, which has to name the word.
    files.retain(|file| !file.ends_with("unsafe_code.rs"));
    let mut having: Vec<String> = files
        .into_iter()
        .filter(|file| read(file).contains("unsafe_code"))
        .collect();
    having.sort();
    assert_eq!(having, MODULES);
    for file in &having {
        let text = read(file);
        assert!(text.contains("#![allow(unsafe_code"), "{file}");
        // Else it has no use for it any more.
        assert!(text.contains("// SAFETY:"), "{file}");
    }
}

#[test]
fn what_else_is_denied() {
    let manifest = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/Cargo.toml")).unwrap();
    for lint in [
        "unsafe_code = \"deny\"",
        "undocumented_unsafe_blocks = \"deny\"",
    ] {
        assert!(manifest.lines().any(|line| line == lint), "{lint}");
    }
}
