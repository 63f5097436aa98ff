//! How `gfxplane-probe` and `gfxplane-helper` are linked: with all their libraries in them, and to a fixed address.
//!
//! udev runs the first for each device and mdevctl the second. Loading and relocating would take longer than all that
//! they do (`make bench`). The address is fixed for the same reason. The other programs are linked as Rust does it.
//!
//! rustc has a setting for all programs only, not for one of them (`crt-static`; gfxplane-libvirt and
//! gfxplane-daemon must load libvirt). So the `-lc` and the like of these two are led to the archives: the linker takes
//! what the first directory has. Debian has them in libc6-dev and libgcc-*-dev, which cc brings.
//! Where one is missing (Fedora: glibc-static), or cc is not GCC, they load libc.so, at a
//! fixed address still.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, fs};

/// What is linked to every program (by std, and libvirt by virt-sys), and which archives take its
/// place. There must be no shared library among them, even if nothing of it is used: the linker
/// would then leave to the loader what nobody does here. These programs call nothing of libvirt's.
const LIBRARIES: [(&str, &[&str]); 8] = [
    ("virt", &["c"]),
    ("gcc_s", &["gcc_eh", "gcc", "c"]),
    ("c", &["c"]),
    ("m", &["m"]),
    ("util", &["util"]),
    ("rt", &["rt"]),
    ("pthread", &["pthread"]),
    ("dl", &["dl"]),
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let of_target = |name: &str| env::var(format!("CARGO_CFG_TARGET_{name}")).unwrap_or_default();
    // Another target's C compiler is not ours to guess.
    if of_target("OS") != "linux"
        || of_target("ENV") != "gnu"
        || env::var("HOST") != env::var("TARGET")
    {
        return;
    }
    let directory = PathBuf::from(env::var_os("OUT_DIR").expect("cargo says it")).join("archives");
    let arguments = match archives(&directory) {
        Some(specs) => vec![format!("-specs={}", specs.display()), "-static".into()],
        None => Vec::new(),
    };
    for argument in arguments.iter().map(String::as_str).chain(["-no-pie"]) {
        for program in ["gfxplane-helper", "gfxplane-probe"] {
            println!("cargo:rustc-link-arg-bin={program}={argument}");
        }
    }
}

/// Makes a directory in which each library is its archive, and the specs with which GCC looks there
/// before anywhere else, also before the directories that rustc names; `None` if an archive is
/// missing, or the C compiler is not GCC.
fn archives(directory: &Path) -> Option<PathBuf> {
    fs::create_dir_all(directory).expect("OUT_DIR can be written to");
    for (library, archives) in LIBRARIES {
        let paths: Option<Vec<String>> = archives.iter().map(|name| archive(name)).collect();
        let script = format!("GROUP ( {} )\n", paths?.join(" "));
        fs::write(directory.join(format!("lib{library}.a")), script)
            .expect("OUT_DIR can be written to");
    }
    // "GCC: Specifying subprocesses": what follows + is added to what ld is called with.
    let specs = directory.join("specs");
    let text = format!(
        "*link:\n+ -L{}\n",
        directory.to_str().filter(|path| is_plain(path))?
    );
    fs::write(&specs, text).expect("OUT_DIR can be written to");
    let takes_them = Command::new("cc")
        .arg(format!("-specs={}", specs.display()))
        .args(["-###", "-static", "-no-pie", "-x", "c", "/dev/null"])
        .output()
        .ok()?;
    let commands = String::from_utf8(takes_them.stderr).ok()?;
    let named = commands.contains(&format!("-L{}", directory.display()));
    (takes_them.status.success() && named).then_some(specs)
}

/// Whether a path means itself in specs and linker scripts.
fn is_plain(path: &str) -> bool {
    path.chars()
        .all(|c| c.is_ascii_alphanumeric() || "/._-+".contains(c))
}

/// Where the C compiler has an archive.
fn archive(name: &str) -> Option<String> {
    let answer = Command::new("cc")
        .arg(format!("-print-file-name=lib{name}.a"))
        .output()
        .ok()?;
    let path = String::from_utf8(answer.stdout).ok()?.trim().to_owned();
    (Path::new(&path).is_absolute() && is_plain(&path)).then_some(path)
}
