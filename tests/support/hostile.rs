//! The hostile host: files that no kernel would write, and files that somebody with write access
//! might leave.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::path::Path;

use gfxplane::publish::inventory::Inventory;
use libtest_mimic::Failed;
use tempfile::TempDir;

const PARENT: &str = "sys/devices/virtual/evil/it's <evil> & \"more\"";

/// Makes a copy of the committed part, with what git would not keep or should not have to: large
/// files, names with newlines, names that are not UTF-8.
pub(crate) fn make(committed: &Path) -> TempDir {
    let made = tempfile::tempdir().expect("a temporary directory can be made");
    copy(committed, made.path());
    let types = made.path().join(PARENT).join("mdev_supported_types");
    let add = |id: &[u8], description: &[u8]| {
        let directory = types.join(OsStr::from_bytes(id));
        fs::create_dir(&directory).unwrap();
        for (name, text) in [
            ("description", description),
            ("device_api", b"vfio-pci\n"),
            ("available_instances", b"1\n"),
        ] {
            fs::write(directory.join(name), text).unwrap();
        }
    };
    add(b"one-megabyte", "<'\u{1f600}".repeat(1 << 17).as_bytes());
    add(b"new\nline", b"its name has two lines");
    add(b"not-utf-8-\xff\xfe", b"");
    let devices = made.path().join("sys/bus/mdev/devices");
    symlink("nowhere", devices.join(OsStr::from_bytes(b"\xff\n"))).unwrap();
    let large = " ".repeat(1 << 20);
    for path in [
        "run/gfxplane/records/c1a20000-0000-4000-8000-000000000009.json",
        "etc/mdevctl.d/0000:00:02.0/c1a20000-0000-4000-8000-000000000036",
        "etc/gfxplane/rules.d/30-large.toml",
    ] {
        fs::write(made.path().join(path), &large).unwrap();
    }
    made
}

/// Checks that each odd thing has a warning, and nothing else has.
pub(crate) fn what_is_odd(inventory: &Inventory) -> Result<(), Failed> {
    let mut missing = Vec::new();
    let mut warnings: Vec<_> = inventory.warnings.iter().collect();
    for (path, part) in ODD {
        let found = warnings.iter().position(|warning| {
            warning.path.to_string_lossy().ends_with(path) && warning.problem.contains(part)
        });
        match found {
            Some(found) => drop(warnings.remove(found)),
            None => missing.push(format!("{path}: …{part}…")),
        }
    }
    if missing.is_empty() && warnings.is_empty() {
        return Ok(());
    }
    let list = |warnings: Vec<String>| warnings.join("\n  ");
    Err(format!(
        "no warning of:\n  {}\nwarned of:\n  {}",
        list(missing),
        list(warnings.iter().map(ToString::to_string).collect())
    )
    .into())
}

/// The end of the path, and a part of the problem.
const ODD: &[(&str, &str)] = &[
    (
        "it's <evil> & \"more\"/mdev_supported_types/huge-number/available_instances",
        "expected a number",
    ),
    (
        "it's <evil> & \"more\"/mdev_supported_types/negative/available_instances",
        "expected a number",
    ),
    (
        "it's <evil> & \"more\"/mdev_supported_types/no-number/available_instances",
        "expected a number",
    ),
    ("i915-no-number/available_instances", "expected a number"),
    (
        "it's <evil> & \"more\"/mdev_supported_types/link-nowhere",
        "is no directory",
    ),
    (
        "it's <evil> & \"more\"/mdev_supported_types/link-outside",
        "is no directory",
    ),
    (
        "it's <evil> & \"more\"/mdev_supported_types/no-directory",
        "is no directory",
    ),
    (
        "it's <evil> & \"more\"/mdev_supported_types/odd-plane/vfio-pci/device/gfx_plane/dmabuf",
        "neither Y, N, 1 nor 0",
    ),
    (
        "it's <evil> & \"more\"/mdev_supported_types/one-megabyte/description",
        "larger than 64 KiB",
    ),
    (
        "it's <evil> & \"more\"/mdev_supported_types/plain-1/name",
        "not UTF-8",
    ),
    (
        "it's <evil> & \"more\"/mdev_supported_types/not-utf-8-\u{fffd}\u{fffd}",
        "a name that is not UTF-8",
    ),
    (
        "mdev/devices/c1a20000-0000-4000-8000-000000000020",
        "leads nowhere",
    ),
    (
        "mdev/devices/c1a20000-0000-4000-8000-000000000021",
        "leads out of sysfs",
    ),
    (
        "mdev/devices/c1a20000-0000-4000-8000-000000000022",
        "leads nowhere",
    ),
    (
        "mdev/devices/c1a20000-0000-4000-8000-000000000023",
        "leads out of sysfs",
    ),
    ("mdev/devices/no <uuid>", "no UUID"),
    ("mdev/devices/\u{fffd}\n", "a name that is not UTF-8"),
    ("mdev_bus/loop", "leads nowhere"),
    ("mdev_bus/nowhere", "leads nowhere"),
    ("mdev_bus/outside", "leads out of sysfs"),
    ("pci/devices/0000:00:1f.7", "leads nowhere"),
    ("pci/devices/no:address", "no PCI address"),
    (
        "it's <evil> & \"more\"/c1a20000-0000-4000-8000-000000000003",
        "a type that its parent does not offer",
    ),
    (
        "it's <evil> & \"more\"/c1a20000-0000-4000-8000-000000000005/iommu_group",
        "a group that is no number",
    ),
    (
        "it's <evil> & \"more\"/c1a20000-0000-4000-8000-00000000000b/iommu_group",
        "is no link",
    ),
    ("0000:00:02.0/vendor", "expected a number"),
    ("0000:00:03.0/vendor", "expected a number"),
    ("0000:00:04.0/class", "expected a number"),
    ("0000:00:05.0/nvidia/current_vgpu_type", "expected a number"),
    ("0000:00:05.0/physfn", "no PCI device"),
    ("0000:00:05.0/sriov_totalvfs", "expected a number"),
    ("0000:00:06.0/iommu_group", "is no link"),
    ("0000:00:07.0/virtfn0", "no PCI device"),
    ("0000:00:09.0", "no vendor and device id"),
    ("iommu_groups/25/devices/not <an> address", "no PCI address"),
    (
        "records/c1a20000-0000-4000-8000-000000000002.json",
        "damaged",
    ),
    (
        "records/c1a20000-0000-4000-8000-000000000006.json",
        "about c1a20000-0000-4000-8000-000000000007",
    ),
    (
        "records/c1a20000-0000-4000-8000-000000000007.json",
        "a link",
    ),
    (
        "records/c1a20000-0000-4000-8000-000000000008.json",
        "its format is 2",
    ),
    (
        "records/c1a20000-0000-4000-8000-000000000009.json",
        "larger than 64 KiB",
    ),
    ("types/plain-1.json", "damaged"),
    ("types/negative.json", "about another type"),
    (
        "c1a20000-0000-4000-8000-000000000032",
        "is not a definition",
    ),
    (
        "c1a20000-0000-4000-8000-000000000033",
        "missing field `mdev_type`",
    ),
    ("c1a20000-0000-4000-8000-000000000034", "not UTF-8"),
    ("c1a20000-0000-4000-8000-000000000035", "can't be read"),
    ("c1a20000-0000-4000-8000-000000000036", "larger than 64 KiB"),
    ("rules.d/10-broken.toml", "the key `source` is missing"),
    ("rules.d/30-large.toml", "larger than 64 KiB"),
];

pub(crate) fn copy(from: &Path, to: &Path) {
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_dir() {
            fs::create_dir(&to).unwrap();
            copy(&from, &to);
        } else if kind.is_symlink() {
            symlink(fs::read_link(&from).unwrap(), &to).unwrap();
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}
