//! Selects the user's arguments for QEMU that concern the devices and screens in a trial.

use std::collections::BTreeMap;

use crate::domain::Domain;
use crate::plan::trial::LeftOut;
use crate::predict::arguments::{Device, OPTIONS, SWITCHES, is_emulated, is_screen, options};
use crate::predict::qemu_messages::is_in;

/// The kinds of `-display` that open no port and do not use stdin.
const DISPLAYS: [&str; 5] = ["dbus", "egl-headless", "gtk", "none", "sdl"];

/// The decision whether a trial keeps an option and its value.
enum Fate {
    /// The option is kept, with this value.
    Kept(String),
    /// The option is left out.
    Dropped {
        /// True if QEMU's answer may be different without the option.
        matters: bool,
    },
}

/// Returns the user's arguments for QEMU that the trial keeps. Adds all others to `left_out`.
/// `aliases` maps the alias of each kept device to its new alias.
pub(super) fn arguments(
    domain: &Domain<'_, '_>,
    aliases: &BTreeMap<String, String>,
    left_out: &mut Vec<LeftOut>,
) -> Vec<String> {
    let values = domain.arguments.iter().map(|a| a.value.as_str());
    let mut kept = Vec::new();
    let mut dropped_ids: Vec<String> = Vec::new();
    // A -set must come after its -device, for QEMU and for us.
    for (_, option, value) in options(values) {
        let fate = match (option, value) {
            ("-nographic" | "-sdl", _) => {
                kept.push(option.to_owned());
                continue;
            }
            ("-vga" | "-vnc", Some("none")) => Fate::Kept("none".into()),
            ("-display", Some(value)) if DISPLAYS.contains(&first(value)) => {
                Fate::Kept(value.to_owned())
            }
            // A -vga may have a slot that is taken in the small domain and free in the whole one.
            // The others would open ports to others, and another domain may already use the port
            // numbers. QEMU refuses all of them without a value; a file of -readconfig may set up
            // screens.
            ("-vga" | "-vnc" | "-spice" | "-display" | "-readconfig" | "-curses", _) => {
                Fate::Dropped { matters: true }
            }
            ("-global", Some(value)) => global(value),
            ("-device", Some(value)) => device(value, &mut dropped_ids),
            ("-set", Some(value)) => set(value, aliases, &dropped_ids),
            _ => Fate::Dropped { matters: false },
        };
        match fate {
            Fate::Kept(value) => kept.extend([option.to_owned(), value]),
            Fate::Dropped { matters } => left_out.push(dropped(option, matters)),
        }
    }
    kept
}

/// Returns the entry for an option that is left out. The entry names the option only if QEMU has
/// it, because any other word may be a secret.
fn dropped(option: &str, matters: bool) -> LeftOut {
    let is_qemus = |name: &&str| is_in(OPTIONS, name) || is_in(SWITCHES, option);
    LeftOut {
        what: match option.strip_prefix('-').filter(is_qemus) {
            Some(_) => format!("QEMU's argument {option}"),
            None => "an argument of QEMU's".into(),
        },
        matters,
    }
}

fn global(value: &str) -> Fate {
    let driver = value.strip_prefix("driver=").unwrap_or(value);
    let driver = driver.split(['.', ',']).next().unwrap_or_default();
    if driver.starts_with("vfio-pci") || is_emulated(driver) {
        Fate::Kept(value.to_owned())
    } else {
        Fate::Dropped { matters: false }
    }
}

fn device(value: &str, dropped_ids: &mut Vec<String>) -> Fate {
    let device = Device::read(value).unwrap_or_default();
    let has = |property| device.properties.contains_key(property);
    let has_slot = device.json || has("addr") || device.driver == "ramfb";
    // Its bus may belong to a controller that the small domain lacks.
    if is_emulated(&device.driver) && !has("bus") && has_slot {
        return Fate::Kept(value.to_owned());
    }
    // The small copy has no backends for other devices, such as disks and networks.
    let matters = is_screen(&device.driver) || device.driver.starts_with("vfio");
    dropped_ids.extend(device.id);
    Fate::Dropped { matters }
}

fn set(value: &str, aliases: &BTreeMap<String, String>, dropped_ids: &[String]) -> Fate {
    let mut parts = value.splitn(3, '.');
    match (parts.next(), parts.next(), parts.next()) {
        // In the small domain, another device has this id.
        (Some("device"), Some(id), Some(_))
            if !aliases.contains_key(id) && aliases.values().any(|new| new == id) =>
        {
            Fate::Dropped { matters: true }
        }
        // A -set for a libvirt device that is left out is kept: QEMU finds no device of
        // libvirt's (see `Screens::dead_settings`), and refuses to start because of it.
        (Some("device"), Some(id), Some(rest))
            if !dropped_ids.iter().any(|dropped| dropped == id) =>
        {
            let id = aliases.get(id).map_or(id, String::as_str);
            Fate::Kept(format!("device.{id}.{rest}"))
        }
        (Some("device"), Some(_), Some(_)) => Fate::Dropped { matters: false },
        // QEMU refuses such a -set.
        _ => Fate::Dropped { matters: true },
    }
}

fn first(value: &str) -> &str {
    let value = value.strip_prefix("type=").unwrap_or(value);
    value.split(',').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use crate::domain::Domain;
    use crate::plan::trial::reduce::tests::{domain, hostdev, small};
    use crate::xml::{Document, escape};

    #[test]
    fn the_users_arguments() {
        let kept = |arguments: &str| {
            let all: String = arguments
                .split_whitespace()
                .map(|value| format!("<qemu:arg value='{}'/>", escape(value)))
                .collect();
            let rest = format!("<qemu:commandline>{all}</qemu:commandline>");
            let reduced = small(&domain(&hostdev(1, ""), &rest));
            let document = Document::parse(&reduced.xml).unwrap();
            let view = Domain::new(&document).unwrap();
            let kept: Vec<String> = view.arguments.iter().map(|a| a.value.clone()).collect();
            let dropped: Vec<String> = reduced
                .left_out
                .iter()
                .map(|left| {
                    let matters = if left.matters { "!" } else { "" };
                    left.what.replace("QEMU's argument ", "") + matters
                })
                .collect();
            (kept.join(" "), dropped.join(" "))
        };
        // The arguments, those that are kept, and those that are dropped; `!` if one matters.
        for row in [
            "-display egl-headless | -display egl-headless |",
            "--display sdl,gl=on | -display sdl,gl=on |",
            "-display vnc=:0 | | -display!",
            "-vnc 0.0.0.0:1,password=on -vga std | | -vnc! -vga!",
            "-spice port=1,password=geheim | | -spice!",
            "-nographic -curses -sdl | -nographic -sdl | -curses!",
            "-global vfio-pci.x-igd-opregion=on | -global vfio-pci.x-igd-opregion=on |",
            "-global ICH9-LPC.disable_s3=1 | | -global",
            "-global driver=qxl-vga,property=x,value=1 | -global driver=qxl-vga,property=x,value=1 |",
            "-object secret,id=s,data=geheim -no-hpet -vga none | -vga none | -object -no-hpet",
            "-device VGA,id=v,addr=9 -set device.v.x=1 | -device VGA,id=v,addr=9 -set device.v.x=1 |",
            "-device VGA,id=v -set device.v.x=1 | | -device! -set",
            "-device VGA,id=v,bus=pci.5 -set device.v.x=1 | | -device! -set",
            r#"-device {"driver":"vfio-pci","id":"v"} | | -device!"#,
            "-device vhost-user-gpu-pci,chardev=c | | -device!",
            r#"-device {"driver":"virtio-gpu-pci"} | -device {"driver":"virtio-gpu-pci"} |"#,
            "-device e1000,id=n -set device.n.mac=x | | -device -set",
            // QEMU refuses this in the whole domain, and so in the small one.
            "-set device.net0.x=1 | -set device.net0.x=1 |",
            "-set | | -set",
        ] {
            let columns: Vec<&str> = row.split('|').map(str::trim).collect();
            let (expected, dropped) = kept(columns[0]);
            assert_eq!([&*expected, &*dropped], columns[1..], "{row}");
        }
    }
}
