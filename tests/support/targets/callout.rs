//! Checks what passes between mdevctl and us: the words of a call, the definitions on disk, the
//! lists that it prints.
//!
//! Input: a first byte that says what the rest is: `a` the words of a call, `c` the command line of
//! the caller, `d` a definition, `l` a list. NULs separate words.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use gfxplane::host::mdevctl::{with_attributes, without_our_attributes};
use gfxplane::publish::mdevctl_call::{Call, is_list, verb};
use serde_json::Value;

use super::same;

/// Checks one input.
///
/// # Errors
/// The property that it breaks.
pub(crate) fn check(input: &[u8]) -> Result<(), String> {
    match input.split_first() {
        Some((b'a', rest)) => call(rest),
        Some((b'c', rest)) => caller(rest),
        Some((b'd', rest)) => std::str::from_utf8(rest).map_or(Ok(()), definition),
        Some((b'l', rest)) => std::str::from_utf8(rest).map_or(Ok(()), list),
        _ => Ok(()),
    }
}

/// Checks that the last of each option with a value counts, counted from the end.
fn call(words: &[u8]) -> Result<(), String> {
    let words: Vec<OsString> = words
        .split(|byte| *byte == 0)
        .map(|word| OsStr::from_bytes(word).to_owned())
        .collect();
    let call = Call::parse(&words);
    same("is a call", &call.is_some(), &(words[0] == "-t"))?;
    let Some(call) = call else { return Ok(()) };
    let last = |option: &str| -> String {
        let places = (0..words.len().saturating_sub(1)).rev();
        places
            .filter(|place| place % 2 == 0)
            .find(|place| words[*place] == option)
            .and_then(|place| words[place + 1].to_str())
            .unwrap_or_default()
            .into()
    };
    let expected = Call {
        event: last("-e"),
        action: last("-a"),
        state: last("-s"),
        uuid: last("-u"),
        parent: last("-p"),
    };
    same("the call", &call, &expected)?;
    let mut again: Vec<OsString> = ["-t", "type"].map(OsString::from).to_vec();
    for (option, value) in [
        ("-e", &call.event),
        ("-a", &call.action),
        ("-s", &call.state),
        ("-u", &call.uuid),
        ("-p", &call.parent),
    ] {
        again.extend([option.into(), value.into()]);
    }
    same("said again", &Call::parse(&again), &Some(call))
}

/// Checks that only a program of mdevctl's names lists, and that what follows its command changes
/// nothing.
fn caller(cmdline: &[u8]) -> Result<(), String> {
    let ours = ["mdevctl", "lsmdev"];
    let words: Vec<&[u8]> = cmdline.split(|byte| *byte == 0).collect();
    let program = OsStr::from_bytes(words[0]).to_string_lossy().into_owned();
    let base = program.split('/').next_back().unwrap_or_default();
    if verb(cmdline).is_some() && !ours.contains(&base) {
        return Err(format!("{program:?} is not mdevctl"));
    }
    let expected = base == "lsmdev" || base == "mdevctl" && words.get(1) == Some(&&b"list"[..]);
    same("lists", &is_list(cmdline), &expected)?;
    if words.len() > 1 {
        let more = [cmdline, b"\0list\0mdevctl"].concat();
        same("with more words", &verb(&more), &verb(cmdline))?;
    }
    Ok(())
}

fn is_ours(attr: &Value) -> bool {
    match attr {
        Value::Object(attr) => {
            !attr.is_empty() && !attr.keys().any(|k| !k.starts_with("gfxplane."))
        }
        _ => false,
    }
}

/// Checks that a definition loses exactly our attributes and keeps its order, and that once is
/// enough.
fn definition(text: &str) -> Result<(), String> {
    let value: Option<Value> = serde_json::from_str(text).ok();
    let cleaned = match (without_our_attributes(text), value) {
        (Err(_), None) => return Ok(()),
        (Ok(cleaned), Some(value)) => (cleaned, value),
        (result, _) => return Err(format!("whether it is JSON: {result:?}")),
    };
    let (cleaned, mut value) = cleaned;
    let mut removed = 0;
    if let Some(Value::Array(attrs)) = value.get_mut("attrs") {
        for place in (0..attrs.len()).rev() {
            if is_ours(&attrs[place]) {
                attrs.remove(place);
                removed += 1;
            }
        }
    }
    same("whether anything goes", &cleaned.is_some(), &(removed > 0))?;
    let Some(cleaned) = cleaned else {
        return Ok(());
    };
    let left: Value = serde_json::from_str(&cleaned).map_err(|error| error.to_string())?;
    // The comparison is of text, which has the order of the members.
    same("what is left", &left.to_string(), &value.to_string())?;
    let again = without_our_attributes(&cleaned).map_err(|error| error.to_string())?;
    same("cleaned twice", &again, &None)
}

/// Checks that a list with our attributes is the same list to the byte when they are removed again.
fn list(text: &str) -> Result<(), String> {
    let mut told = 0;
    let more = with_attributes(text, |_, uuid| {
        told += 1;
        let (_, low) = uuid.as_u64_pair();
        // Of some devices nothing is known, and of some there is nothing to say.
        match low % 3 {
            0 => None,
            1 => Some(Vec::new()),
            _ => Some(vec![
                ("display".into(), "dmabuf".into()),
                ("graphics.gl".into(), "yes".into()),
            ]),
        }
    });
    let Some(more) = more else { return Ok(()) };
    if told == 0 {
        return Err("attributes of no device".into());
    }
    let mut value: Value = serde_json::from_str(&more).map_err(|error| error.to_string())?;
    let was: Value = serde_json::from_str(text).map_err(|error| error.to_string())?;
    for (parents, old) in [(&mut value, &was)] {
        let parents = parents[0].as_object_mut().ok_or("no parents")?;
        for (parent, devices) in parents {
            let devices = devices.as_array_mut().ok_or("no devices")?;
            for (place, device) in devices.iter_mut().enumerate() {
                let device = device.as_object_mut().ok_or("no device")?;
                for (uuid, definition) in device {
                    let before = &old[0][parent.as_str()][place][uuid.as_str()]["attrs"];
                    let before = before.as_array().map_or(0, Vec::len);
                    let attrs = definition["attrs"].as_array_mut().ok_or("no attrs")?;
                    if !attrs[before..].iter().all(is_ours) {
                        return Err(format!("something else was added to {uuid}"));
                    }
                    attrs.truncate(before);
                }
            }
        }
    }
    let ending = &text[text.trim_end().len()..];
    let pretty = serde_json::to_string_pretty(&value).map_err(|error| error.to_string())?;
    same("taken out again", &(pretty + ending), &text.to_owned())?;
    // A device that has our attributes already gets no more.
    same(
        "twice",
        &with_attributes(&more, |_, uuid| {
            let (_, low) = uuid.as_u64_pair();
            (low % 3 == 2).then(|| vec![("display".into(), "dmabuf".into())])
        }),
        &None,
    )
}
