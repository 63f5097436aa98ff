//! Checks a host: whatever its files contain, it can be read, each device alone gives the same as
//! among all, and each output can be read by those it is made for.
//!
//! Input: lines. `PATH=TEXT` is a file, `PATH>TARGET` a link, `PATH` alone a directory. In a text,
//! `|` stands for a line end.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path};

use gfxplane::device::id::DeviceId;
use gfxplane::device::rules::Rules;
use gfxplane::host::{Root, sysfs};
use gfxplane::predict::screens::Known;
use gfxplane::publish::export::export;
use gfxplane::publish::inventory::{DeviceEntry, Reading, Sources, active, inventory};
use gfxplane::publish::{offline, with_capability};
use serde_json::Value;

use super::same;

/// The greatest number of lines. Each takes a system call or two.
const MOST_LINES: usize = 200;

/// Checks one input.
///
/// # Errors
/// The property that it breaks.
pub(crate) fn check(input: &[u8]) -> Result<(), String> {
    // The directory is in memory if possible.
    let memory = Path::new("/dev/shm");
    let directory = if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    };
    let directory = directory.map_err(|error| error.to_string())?;
    let base = directory
        .path()
        .canonicalize()
        .map_err(|error| error.to_string())?;
    for line in input.split(|byte| *byte == b'\n').take(MOST_LINES) {
        make(&base, &String::from_utf8_lossy(line));
    }
    let root = Root::recorded(&base);
    let sources = Sources::read(&root);
    let listed = inventory(&sources);
    let json = |value: &gfxplane::publish::inventory::Inventory| {
        serde_json::to_string(value).map_err(|error| error.to_string())
    };
    same(
        "read twice",
        &json(&inventory(&Sources::read(&root)))?,
        &json(&listed)?,
    )?;
    let mut seen = BTreeSet::new();
    for entry in &listed.devices {
        if !seen.insert(entry.id) {
            return Err(format!("{} is listed twice", entry.id));
        }
    }
    for device in &sources.host.devices {
        alone(&root, &sources, device, &listed.devices)?;
    }
    for (name, node) in offline::nodes(&sources) {
        let xml = node.xml(&sources);
        let full = with_capability(&xml, Some(&node.capability(&sources)))
            .map_err(|error| format!("{name}: {error}\n{xml}"))?;
        let document = roxmltree::Document::parse(&full)
            .map_err(|error| format!("{name}: {error}\n{full}"))?;
        let said = document
            .root_element()
            .children()
            .find(|node| node.has_tag_name("name"));
        same(
            "the node's name",
            &said.and_then(|node| node.text()),
            &Some(name.as_str()),
        )?;
        let bare = with_capability(&full, None).map_err(|error| error.to_string())?;
        same("without the capability", &bare, &xml)?;
    }
    for warning in &sources.host.warnings {
        if !warning.path.starts_with(&base) {
            return Err(format!("{warning} is not of this host"));
        }
        if warning
            .to_string()
            .contains(|c: char| c.is_control() && !matches!(c, '\n' | '\t'))
        {
            return Err(format!("{warning:?} would be told to a terminal as it is"));
        }
    }
    let rules = export(&sources).to_toml();
    Rules::default()
        .add_file("exported.toml", &rules)
        .map_err(|error| format!("{error}\n{rules}"))
}

/// Makes one file, link or directory. What can't be made does not exist.
fn make(base: &Path, line: &str) {
    let at = line.find(['=', '>']).unwrap_or(line.len());
    let (path, rest) = line.split_at(at);
    let path = Path::new(path.trim_start_matches('/'));
    let is_inside = path
        .components()
        .all(|part| matches!(part, Component::Normal(_)));
    if !is_inside || path.as_os_str().is_empty() || path.as_os_str().len() > 300 {
        return;
    }
    let path = base.join(path);
    if let Some(above) = path.parent() {
        // A link that leads out is not followed.
        let _ = fs::create_dir_all(above);
        if !above
            .canonicalize()
            .is_ok_and(|above| above.starts_with(base))
        {
            return;
        }
    }
    let _ = match rest.split_at_checked(1) {
        Some(("=", text)) if !path.is_symlink() => fs::write(path, text.replace('|', "\n")),
        Some((">", target)) => symlink(target, path),
        _ => fs::create_dir(path),
    };
}

/// Checks that a device read alone is the same as among all.
fn alone(
    root: &Root,
    all: &Sources,
    device: &sysfs::Device,
    listed: &[DeviceEntry],
) -> Result<(), String> {
    let id = device.id;
    let listed = listed
        .iter()
        .find(|entry| entry.id == id)
        .ok_or_else(|| format!("{id} is not listed"))?;
    let json = |entry: &DeviceEntry| {
        let mut value = serde_json::to_value(entry).unwrap_or_default();
        value["defined"] = Value::Null;
        value
    };
    let (sources, found) = Sources::read_device(root, id);
    let found = found.map(|device| json(&active(&sources, &device)));
    same("alone", &found, &Some(json(listed)))?;
    same(
        "known",
        &Reading::new(root).known(id, &mut Vec::new()),
        &Known::from(listed.clone()),
    )?;
    // In a real sysfs it is always a link.
    if matches!(id, DeviceId::Mdev(_)) && root.device(id).is_symlink() {
        let expected = (device.circumstances(&all.host), device.render_node.clone());
        same(
            "circumstances",
            &sysfs::read_circumstances(root, id),
            &Some(expected),
        )?;
    }
    Ok(())
}
