//! Writes the user's own arguments for QEMU in a recording.

use super::{LEFT_OUT, is_a_device, is_word};
use crate::predict::arguments::{self, OPTIONS, Setting, is_screen, is_telling, pairs};
use crate::predict::qemu_messages::is_in;

/// The text in place of an option of QEMU's that is left out. It looks like an option itself; in
/// place of a value stands [`LEFT_OUT`].
const OPTION_LEFT_OUT: &str = "-left-out";

/// Returns the user's own arguments, with everything replaced that does not decide about screens:
/// it may be a secret.
pub(super) fn kept_arguments(arguments: &[String]) -> Vec<String> {
    let mut kept = Vec::new();
    let mut option: Option<&str> = None;
    for argument in arguments {
        let name = argument
            .strip_prefix("--")
            .or_else(|| argument.strip_prefix('-'));
        let value = option
            .take()
            .and_then(|option| kept_value(option, argument));
        kept.push(match (value, name) {
            (Some(value), _) => value,
            (None, Some(name)) if is_in(OPTIONS, name) => {
                option = Some(name);
                argument.clone()
            }
            (None, Some(_)) => OPTION_LEFT_OUT.to_owned(),
            (None, None) => LEFT_OUT.to_owned(),
        });
    }
    kept
}

/// Returns the kept form of an option's value; `None` if gfxplane does not know the value's form.
fn kept_value(option: &str, value: &str) -> Option<String> {
    let telling = |value: &str| if is_telling(value) { value } else { LEFT_OUT }.to_owned();
    let pair = |name: &str, value: &str| format!("{name}={}", telling(value));
    let known = |words: &str, value: &str| {
        let value = if is_in(words, value) { value } else { LEFT_OUT };
        value.to_owned()
    };
    let has_words = |words: &[&str]| words.iter().all(|word| is_word(word));
    match option {
        "set" => match Setting::read(value) {
            Some(Setting {
                id,
                property,
                value,
                ..
            }) if has_words(&[&id, &property]) => {
                Some(format!("device.{id}.{}", pair(&property, &value)))
            }
            _ => Some(LEFT_OUT.into()),
        },
        "global" => {
            let (name, value) = value.split_once('=')?;
            let is_ours = name.starts_with("vfio-pci") && is_word(name);
            Some(if is_ours {
                pair(name, value)
            } else {
                LEFT_OUT.into()
            })
        }
        "vga" => Some(known("none std cirrus vmware virtio qxl", value)),
        "vnc" => Some(if value == "none" { value } else { ":0" }.into()),
        "display" => {
            let all = pairs(value, "type");
            let kind = all.first().filter(|(name, _)| name == "type")?.1.as_str();
            let kind = known("none egl-headless dbus sdl gtk curses spice-app", kind);
            let rest = all.iter().skip(1).filter(|(name, value)| {
                matches!(name.as_str(), "gl" | "p2p")
                    && (is_telling(value) || matches!(value.as_str(), "core" | "es"))
            });
            let rest = rest.map(|(name, value)| format!(",{name}={value}"));
            Some(kind + &rest.collect::<String>())
        }
        "device" => {
            let device = arguments::Device::read(value)?;
            if !(device.is_vfio() || is_screen(&device.driver)) || !is_word(&device.driver) {
                return Some(LEFT_OUT.into());
            }
            let own = |name: &str, value: &str| match name {
                "host" | "sysfsdev" if is_word(value) && is_a_device(value) => value.to_owned(),
                "bus" | "addr" if is_word(value) => value.to_owned(),
                _ => telling(value),
            };
            let mut parts = vec![("driver".to_owned(), device.driver.clone())];
            let id = device.id.clone().filter(|id| is_word(id));
            parts.extend(id.map(|id| ("id".to_owned(), id)));
            let properties = device.properties.iter().filter(|(name, _)| is_word(name));
            parts.extend(properties.map(|(name, value)| (name.clone(), own(name, value))));
            if device.json {
                let object = parts.into_iter().map(|(name, value)| (name, value.into()));
                return Some(serde_json::Value::Object(object.collect()).to_string());
            }
            let parts: Vec<String> = parts.iter().map(|(n, v)| format!("{n}={v}")).collect();
            Some(parts.join(","))
        }
        _ => None,
    }
}
