//! Checks rules and settings: a file that is refused changes nothing, and rules that are taken find
//! what their conditions say.
//!
//! Input: a file, and after the first NUL lines that describe a device: its driver, its parent's
//! driver, type, `device_api`, address, vendor, class, kernel, and attributes as `PATH=VALUE`.

use std::collections::{BTreeMap, BTreeSet};

use gfxplane::device::rules::{Bus, Rule, Rules, Subject, Vendor};
use gfxplane::device::version::Version;
use gfxplane::host::config::Config;

use super::{parts, same};

/// Checks one input.
///
/// # Errors
/// The property that it breaks.
pub(crate) fn check(input: &[u8]) -> Result<(), String> {
    let [text, subject] = parts(input);
    let (Ok(text), Ok(subject)) = (std::str::from_utf8(text), std::str::from_utf8(subject)) else {
        return Ok(());
    };
    settings(text)?;
    let mut rules = Rules::built_in();
    let all = |rules: &Rules| -> Vec<(String, String)> {
        let json = |rule: &Rule| serde_json::to_string(rule).unwrap_or_else(|e| e.to_string());
        let rules = rules.iter();
        rules
            .map(|(file, rule)| (file.into(), json(rule)))
            .collect()
    };
    let before = all(&rules);
    if let Err(error) = rules.add_file("fuzzed.toml", text) {
        if error.to_string().trim().is_empty() {
            return Err("a file is refused, and nobody says why".into());
        }
        return same("after a refusal", &all(&rules), &before);
    }
    let after = all(&rules);
    same("those before", &&after[..before.len()], &before.as_slice())?;
    let names: BTreeSet<&str> = rules.iter().map(|(_, rule)| rule.name.as_str()).collect();
    same("names", &names.len(), &after.len())?;
    let mut twice = rules.clone();
    twice
        .add_file("again.toml", text)
        .map_err(|error| error.to_string())?;
    same("added twice", &all(&twice), &after)?;
    // The rules stand by themselves, so that those of the package do not come first.
    let mut rules = Rules::default();
    rules
        .add_file("fuzzed.toml", text)
        .map_err(|error| error.to_string())?;
    finds(&rules, subject)
}

/// Checks that the rule that is found is the first that fits, if it is simple to say whether it
/// fits.
fn finds(rules: &Rules, subject: &str) -> Result<(), String> {
    let mut lines = subject.lines();
    let mut line = || lines.next().filter(|line| !line.is_empty());
    let (driver, parent_driver, type_id, device_api) = (line(), line(), line(), line());
    let address = line().and_then(|line| line.parse().ok());
    let hex = |text: Option<&str>| u32::from_str_radix(text?, 16).ok();
    let vendor = hex(line()).and_then(|number| number.try_into().ok());
    let class = hex(line()).map(|class| class & 0x00ff_ffff);
    let kernel = line().unwrap_or_default();
    let attributes: BTreeMap<String, String> = lines
        .filter_map(|line| line.split_once('='))
        .map(|(path, value)| (path.into(), value.into()))
        .collect();
    let bus = if type_id.is_some() {
        Bus::Mdev
    } else {
        Bus::Pci
    };
    let subject = Subject {
        bus: Some(bus),
        driver,
        parent_driver,
        type_id,
        device_api,
        address,
        vendor,
        class,
        kernel,
        attributes: Some(&attributes),
    };
    let mut first = None;
    for (_, rule) in rules.iter() {
        match fits(rule, &subject) {
            // Its globs are not simple, so this says nothing about the rest.
            None => return Ok(()),
            Some(true) => {
                first = Some(rule.name.as_str());
                break;
            }
            Some(false) => {}
        }
    }
    let found = rules.find(&subject).map(|rule| rule.name.as_str());
    same("the rule that is found", &found, &first)
}

/// Returns whether a rule fits; `None` if it has a glob with more than `*` and `?`.
fn fits(rule: &Rule, subject: &Subject<'_>) -> Option<bool> {
    let conditions = &rule.matches;
    let address = subject.address.map(|address| address.to_string());
    let class = subject.class.map(|class| format!("0x{class:06x}"));
    let one = Vec::from_iter(conditions.class.clone());
    let mut all = true;
    for (globs, value) in [
        (&conditions.driver, subject.driver),
        (&conditions.parent_driver, subject.parent_driver),
        (&conditions.type_id, subject.type_id),
        (&conditions.device_api, subject.device_api),
        (&conditions.address, address.as_deref()),
        (&one, class.as_deref()),
    ] {
        let globs: Vec<String> = globs.iter().map(ToString::to_string).collect();
        let is_simple = |glob: &String| !glob.contains(['[', ']', '{', '}', '\\', ',']);
        if !globs
            .iter()
            .all(|glob| is_simple(glob) && !glob.contains("**"))
        {
            return None;
        }
        all &= globs.is_empty()
            || value.is_some_and(|value| {
                let value: Vec<char> = value.chars().collect();
                let mut globs = globs.iter().map(|glob| glob.chars().collect::<Vec<_>>());
                globs.any(|glob| is_like(&glob, &value))
            });
    }
    let kernel = Version::parse(subject.kernel);
    if conditions.kernel_from.is_some() {
        all &= kernel.is_some() && kernel >= conditions.kernel_from;
    }
    if conditions.kernel_below.is_some() {
        all &= kernel.is_some() && kernel < conditions.kernel_below;
    }
    if let Some(Vendor(vendor)) = conditions.vendor {
        all &= subject.vendor == Some(vendor);
    }
    all &= conditions.bus.is_none() || conditions.bus == subject.bus;
    for wanted in &conditions.attribute {
        let value = subject.attributes.and_then(|all| all.get(&wanted.path));
        all &= match &wanted.is {
            Some(is) => value == Some(is),
            None => value.is_some() && value != wanted.is_not.as_ref(),
        };
    }
    Some(all)
}

/// Returns whether a text matches a glob of `*`, `?` and characters that stand for themselves.
fn is_like(glob: &[char], text: &[char]) -> bool {
    match (glob.split_first(), text.split_first()) {
        (None, None) => true,
        (Some((&'*', rest)), _) => {
            is_like(rest, text) || !text.is_empty() && is_like(glob, &text[1..])
        }
        (Some((&'?', rest)), Some((_, more))) => is_like(rest, more),
        (Some((wanted, rest)), Some((found, more))) => wanted == found && is_like(rest, more),
        _ => false,
    }
}

/// Checks that the same settings twice are the same settings.
fn settings(text: &str) -> Result<(), String> {
    let read = |config: Config| config.with_file(text).map_err(|error| error.to_string());
    match read(Config::default()) {
        Ok(config) => same("settings read twice", &read(config.clone())?, &config),
        Err(problem) if problem.trim().is_empty() => {
            Err("settings are refused without a word".into())
        }
        Err(_) => Ok(()),
    }
}
