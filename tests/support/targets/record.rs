//! Checks what is kept between two runs: records, the log, and the data for undo.
//!
//! Input: a text, which is taken for each of these, and after the first NUL a domain that it is to
//! undo.

use gfxplane::device::evidence::resolve;
use gfxplane::device::facts::Reason;
use gfxplane::device::record::{MAX_SIZE, Record};
use gfxplane::host::log::Entry;
use gfxplane::plan::undo::{Inverse, undo};
use gfxplane::predict::hints::hints;
use gfxplane::publish::capability::of_device;
use gfxplane::publish::words::{attributes, properties, words};
use gfxplane::xml::{Document, from_bytes};
use serde_json::Value;

use super::{parts, same};

/// Checks one input.
///
/// # Errors
/// The property that it breaks.
pub(crate) fn check(input: &[u8]) -> Result<(), String> {
    let [text, domain] = parts(input);
    let Ok(text) = std::str::from_utf8(text) else {
        return Ok(());
    };
    record(text)?;
    entry(text)?;
    let Ok(inverses) = serde_json::from_str::<Vec<Inverse>>(text) else {
        return Ok(());
    };
    match from_bytes(domain.to_vec()) {
        Ok(domain) => undone(&domain, &inverses),
        Err(_) => Ok(()),
    }
}

/// Checks that a record comes back as it was read, and can be read in the other forms.
fn record(text: &str) -> Result<(), String> {
    let Ok(record) = Record::parse(text) else {
        return Ok(());
    };
    let kept = record.to_text();
    if kept.len() > MAX_SIZE {
        return Err(format!("{} bytes can't be read again", kept.len()));
    }
    let again = Record::parse(&kept).map_err(|error| error.to_string())?;
    same("kept", &again, &record)?;
    let evidence = record.evidence();
    if record.qemu.is_some() && evidence.method.is_measured() {
        return Err("what QEMU says is no measurement".into());
    }
    let finding = resolve(vec![(record.facts.clone(), evidence)], Reason::NotProbed);
    // The node may have any name.
    let node = record.circumstances.driver.as_deref();
    let hints = hints(&finding.facts, node);
    told(&words(&finding, &hints))?;
    let capability = of_device(&finding, &hints);
    let document = roxmltree::Document::parse(&capability)
        .map_err(|error| format!("{error} in {capability}"))?;
    let displays = document.root_element().children();
    let displays: Vec<&str> = displays
        .filter(|node| node.has_tag_name("display"))
        .filter_map(|node| node.attribute("type"))
        .collect();
    same("the display", &displays, &finding.facts.display.words())
}

/// Checks that libvirt can print the attributes as they are, and that udev gets one line for each
/// property.
fn told(words: &[(String, String)]) -> Result<(), String> {
    let is_plain = |text: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "_.:,=+/-".contains(c);
        !text.is_empty() && text.chars().all(allowed)
    };
    let printed: Vec<Value> =
        serde_json::from_str(&attributes(words)).map_err(|error| error.to_string())?;
    same("attributes", &printed.len(), &words.len())?;
    for (attribute, (name, value)) in printed.iter().zip(words) {
        same(
            "attribute",
            attribute,
            &serde_json::json!({ format!("gfxplane.{name}"): value }),
        )?;
        if !is_plain(name) || !(value.is_empty() || is_plain(value)) {
            return Err(format!("{name:?}={value:?} would have to be escaped"));
        }
    }
    let lines = properties(words);
    same("properties", &lines.lines().count(), &words.len())?;
    for (line, (_, value)) in lines.lines().zip(words) {
        let (name, said) = line.split_once('=').ok_or("a property without a value")?;
        same("property", &said, &value.as_str())?;
        if !name
            .bytes()
            .all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
        {
            return Err(format!("{name:?} is no name of a property"));
        }
    }
    Ok(())
}

/// Checks that a line of the log stays one line.
fn entry(text: &str) -> Result<(), String> {
    let Ok(entry) = serde_json::from_str::<Entry>(text) else {
        return Ok(());
    };
    let line = serde_json::to_string(&entry).map_err(|error| error.to_string())?;
    if line.contains('\n') {
        return Err("the log has whole lines".into());
    }
    let again: Entry = serde_json::from_str(&line).map_err(|error| error.to_string())?;
    same("log", &again, &entry)
}

/// Checks that the result is a document whatever the file contains, and that every change is
/// reported.
fn undone(domain: &str, inverses: &[Inverse]) -> Result<(), String> {
    let json = serde_json::to_string(inverses).map_err(|error| error.to_string())?;
    let again: Vec<Inverse> = serde_json::from_str(&json).map_err(|error| error.to_string())?;
    same("inverses", &again.as_slice(), &inverses)?;
    let Ok(undone) = undo(domain, inverses) else {
        return match Document::parse(domain) {
            Ok(_) => Err("a good document can't be read".into()),
            Err(_) => Ok(()),
        };
    };
    if undone.put_back.is_empty() {
        same("nothing was put back", &undone.text.as_str(), &domain)?;
    }
    Document::parse(&undone.text)
        .map(drop)
        .map_err(|error| format!("undone, it can't be read: {error}\n{}", undone.text))
}
