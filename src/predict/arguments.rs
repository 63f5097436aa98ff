//! The user's own arguments for QEMU (`<qemu:commandline>`), as far as they concern displays, read
//! as QEMU reads them.
//!
//! libvirt appends them to its own arguments, so a `-display` of the user's replaces libvirt's.
//! docs/qemu-and-libvirt.md has the sources, under "QEMU: arguments".

mod device;
mod syntax;
mod told;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use device::Device;
pub(crate) use device::{is_emulated, is_screen, is_vfio};
pub(crate) use syntax::pairs;
use syntax::{is_on, json_pairs};
pub use told::without_values;
pub(crate) use told::{OPTIONS, is_telling, told, told_setting};

use crate::predict::qemu_messages::is_in;

/// The user's arguments, as far as they are read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Arguments {
    /// The local display: the last `-display`, or `-nographic`.
    pub display: Option<Display>,
    /// The number of `-vnc` and `-display vnc=…`. Each makes a VNC server that binds itself to a
    /// screen.
    pub vnc: usize,
    /// True if one of these VNC servers listens, as all except `-vnc none` do.
    pub vnc_listens: bool,
    /// The driver of the card of the last `-vga`. QEMU makes the card before all devices.
    pub vga: Option<&'static str>,
    /// The drivers of the `-device`s that QEMU puts into free slots of its first PCI bus before it
    /// makes libvirt's devices: each `-device` in option syntax that names no address.
    pub on_pci: Vec<String>,
    /// Each `-device` that makes a screen or is a vfio device, in the order of the arguments.
    pub devices: Vec<Device>,
    /// The last `-global` for each driver of vfio devices and each property, in their order: a
    /// later one wins.
    pub globals: Vec<Global>,
    /// Each `-set` for a device not the user's own, in their order: later ones overrule earlier
    /// ones.
    pub settings: Vec<Setting>,
    /// Each `-set` that QEMU can't parse.
    pub malformed: Vec<String>,
    /// Arguments that concern displays and whose effect is not known, at most [`MOST_UNREAD`]. They
    /// are kept without their values, which may be secrets, except for the name of a driver, a kind
    /// of display or a property.
    pub unread: Vec<String>,
}

/// A local display.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Display {
    /// The kind of display.
    pub kind: Local,
    /// The option `gl`; `None` if it is not given. `-nographic` keeps the value of an earlier
    /// `-display`.
    pub gl: Option<bool>,
    /// The option `rendernode`.
    pub rendernode: Option<String>,
}

/// The kinds of local displays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Local {
    /// `-display none`
    None,
    /// `-nographic`
    NoGraphic,
    /// `-display egl-headless`
    EglHeadless,
    /// `-display dbus`
    Dbus,
    /// `-display sdl`
    Sdl,
    /// `-display gtk`
    Gtk,
    /// `-display curses`
    Curses,
    /// Another display, which is in [`Arguments::unread`].
    Other,
}

/// A `-global`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Global {
    /// The type of device, as QEMU's driver. The property also reaches types derived from this one.
    pub driver: String,
    /// The name of the property that is set.
    pub property: String,
    /// The property's value. It may be long, and all devices of the driver have it.
    pub value: Arc<str>,
}

/// A `-set device.ID.PROPERTY=VALUE`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    /// The device, by QEMU's id.
    pub id: String,
    /// The name of the property that is set.
    pub property: String,
    /// The property's value, which is always a text.
    pub value: String,
    /// The whole argument after `-set`.
    pub text: String,
}

impl Setting {
    /// Reads the argument of a `-set`; `None` if the argument is not about a device, or is
    /// malformed (`qemu_set_option`, util/qemu-config.c).
    pub fn read(text: &str) -> Option<Self> {
        let (id, rest) = text.strip_prefix("device.")?.split_once('.')?;
        let (property, value) = rest.split_once('=')?;
        let fits = |word: &str| (1..64).contains(&word.len());
        (fits(id) && fits(property)).then(|| Setting {
            id: id.into(),
            property: property.into(),
            value: value.into(),
            text: text.into(),
        })
    }
}

/// QEMU's displays that are not read, or only in some forms (qapi/ui.json, `DisplayType`).
const DISPLAYS: [&str; 5] = ["cocoa", "dbus", "gtk", "sdl", "spice-app"];

/// The greatest length of [`Arguments::unread`]. One entry is enough for a doubt.
const MOST_UNREAD: usize = 16;

/// QEMU's options without a value that are still in use. The word after an unknown option is the
/// option's value, unless the word looks like an option.
pub(crate) const SWITCHES: &str = "\
    -S -alt-grab -ctrl-grab -daemonize -enable-fips -enable-kvm -full-screen -no-acpi \
    -no-fd-bootchk -no-frame -no-hpet -no-quit -no-reboot -no-shutdown -no-user-config -nodefaults \
    -only-migratable -s -snapshot -win2k-hack";

/// Options whose value is always the next word, even a word that looks like an option.
const WITH_A_VALUE: [&str; 8] = [
    "-device",
    "-display",
    "-global",
    "-readconfig",
    "-set",
    "-spice",
    "-vga",
    "-vnc",
];

/// Splits the user's words into options, as QEMU does. Returns the place of each option among the
/// words, the option with one dash, and its value.
pub(crate) fn options<'v>(
    words: impl IntoIterator<Item = &'v str>,
) -> impl Iterator<Item = (usize, &'v str, Option<&'v str>)> {
    let mut words = words.into_iter().enumerate().peekable();
    std::iter::from_fn(move || {
        let (place, word) = words.next()?;
        let option = word.strip_prefix('-').filter(|w| w.starts_with('-'));
        let option = option.unwrap_or(word);
        let takes = !is_in(SWITCHES, option)
            && !matches!(option, "-nographic" | "-sdl" | "-curses")
            && option.starts_with('-');
        let is_value = |next: &str| WITH_A_VALUE.contains(&option) || !next.starts_with('-');
        let value = words.next_if(|(_, next)| takes && is_value(next));
        Some((place, option, value.map(|(_, value)| value)))
    })
}

impl Arguments {
    /// Reads the `value` of each `<qemu:arg>`, in the order of the XML.
    pub fn read<'v>(values: impl IntoIterator<Item = &'v str>) -> Self {
        let mut read = Arguments::default();
        let mut devices: Vec<Device> = Vec::new();
        // The devices that a -set finds, by id: devices in option syntax that come before the -set.
        let mut own: BTreeMap<String, usize> = BTreeMap::new();
        let mut display_unread = None;
        for (_, option, value) in options(values) {
            match (option, value) {
                ("-display", Some(value)) => match local(value) {
                    Some(Ok(display)) => {
                        read.display = Some(display);
                        display_unread = None;
                    }
                    Some(Err(kind)) => {
                        display_unread = Some(unread_display(&kind));
                        read.display = Some(Display::of(Local::Other));
                    }
                    None => read.own_vnc(value.strip_prefix("vnc=").unwrap_or_default()),
                },
                ("-nographic", _) => {
                    let gl = read.display.take().and_then(|display| display.gl);
                    display_unread = None;
                    read.display = Some(Display {
                        gl,
                        ..Display::of(Local::NoGraphic)
                    });
                }
                // Newer versions don't have these options.
                ("-curses" | "-sdl", _) => {
                    display_unread = Some(option.to_owned());
                    read.display = Some(Display::of(Local::Other));
                }
                ("-vnc", Some(value)) => read.own_vnc(value),
                ("-vga", Some(value)) => {
                    read.vga = vga(value).unwrap_or_else(|()| {
                        read.not_read("-vga");
                        None
                    });
                }
                ("-device", Some(value)) => match Device::read(value) {
                    Some(device) => {
                        if let (Some(id), false) = (&device.id, device.json) {
                            own.insert(id.clone(), devices.len());
                        }
                        devices.push(device);
                    }
                    None => read.not_read("-device"),
                },
                ("-global", Some(value)) => read.own_global(value),
                ("-set", Some(value)) => read.own_set(value, &own, &mut devices),
                ("-spice" | "-readconfig", _) => read.not_read(option),
                (option, None) if WITH_A_VALUE.contains(&option) => read.not_read(option),
                _ => {}
            }
        }
        read.own_devices(devices);
        if let Some(text) = display_unread {
            read.not_read(&text);
        }
        read
    }

    fn own_global(&mut self, value: &str) {
        if let Some(new) = global(value) {
            let is_other =
                |old: &Global| (&old.driver, &old.property) != (&new.driver, &new.property);
            self.globals.retain(is_other);
            self.globals.push(new);
        }
    }

    /// Reads a `-set`. For a device of the user's own, sets the property in `devices`, where `own`
    /// has the device's index by its id. Keeps a `-set` for another device in `settings`, and one
    /// that QEMU can't parse in `malformed`. Ignores one for something other than a device.
    fn own_set(&mut self, value: &str, own: &BTreeMap<String, usize>, devices: &mut [Device]) {
        let Some(setting) = Setting::read(value) else {
            // A -set for something other than a device has the same three parts.
            let parts = value.splitn(3, '.').nth(2);
            if !parts.is_some_and(|rest| rest.contains('=')) {
                self.malformed.push(value.to_owned());
            }
            return;
        };
        match own.get(&setting.id) {
            Some(at) => devices[*at].set(setting),
            None => self.settings.push(setting),
        }
    }

    /// Keeps the user's vfio devices and cards in `devices`, and the drivers of devices in free
    /// slots in `on_pci`. Records any other device with screens in `unread`.
    fn own_devices(&mut self, devices: Vec<Device>) {
        for device in devices {
            if device.finds_a_slot() {
                self.on_pci.push(device.driver.clone());
            }
            if device.is_vfio() || device.is_one_card() {
                self.devices.push(device);
            } else if is_screen(&device.driver) {
                self.not_read(&format!("-device {}", device.driver));
            }
        }
    }

    fn own_vnc(&mut self, value: &str) {
        let binds_elsewhere = pairs(value, "vnc").iter().any(|(key, _)| key == "display");
        // It is not known whether QEMU may make that socket.
        if binds_elsewhere || value.starts_with("unix:") {
            self.not_read("-vnc");
        } else {
            self.vnc += 1;
            self.vnc_listens |= pairs(value, "vnc").first() != Some(&("vnc".into(), "none".into()));
        }
    }

    /// Records an argument in `unread`, once, unless `unread` has [`MOST_UNREAD`] entries.
    pub(crate) fn not_read(&mut self, what: &str) {
        let is_full = self.unread.len() >= MOST_UNREAD;
        if !is_full && !self.unread.iter().any(|known| known == what) {
            self.unread.push(what.to_owned());
        }
    }

    /// Returns the values that `-global` gives to the properties of a device with this driver.
    pub(crate) fn globals(&self, driver: &str) -> BTreeMap<String, Arc<str>> {
        // vfio-pci-nohotplug is derived from vfio-pci.
        let is_derived = driver.starts_with("vfio-pci-");
        let reaches =
            |global: &&Global| global.driver == driver || is_derived && global.driver == "vfio-pci";
        let all = self.globals.iter().filter(reaches);
        all.map(|global| (global.property.clone(), global.value.clone()))
            .collect()
    }
}

impl Local {
    /// Returns QEMU's name for the display; `None` for a display that is not read.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Local::None | Local::NoGraphic => Some("none"),
            Local::EglHeadless => Some("egl-headless"),
            Local::Dbus => Some("dbus"),
            Local::Sdl => Some("sdl"),
            Local::Gtk => Some("gtk"),
            Local::Curses => Some("curses"),
            Local::Other => None,
        }
    }
}

impl Display {
    fn of(kind: Local) -> Self {
        Display {
            kind,
            gl: None,
            rendernode: None,
        }
    }
}

/// Returns the driver of the card that `-vga` makes; `None` for `-vga none`.
///
/// # Errors
/// `()` for a value that is not read here.
fn vga(value: &str) -> Result<Option<&'static str>, ()> {
    Ok(match value {
        "none" => None,
        "std" => Some("VGA"),
        "cirrus" => Some("cirrus-vga"),
        "vmware" => Some("vmware-svga"),
        "virtio" => Some("virtio-vga"),
        "qxl" => Some("qxl-vga"),
        _ => return Err(()),
    })
}

/// Returns the entry in `unread` for a `-display`, without an unknown kind, which may be a secret.
fn unread_display(kind: &str) -> String {
    if DISPLAYS.contains(&kind) {
        format!("-display {kind}")
    } else {
        "-display".into()
    }
}

/// Reads the value of `-display` (`parse_display`, system/vl.c). Returns the display or, as the
/// error, the name of a display that is not read; `None` for VNC.
fn local(text: &str) -> Option<Result<Display, String>> {
    if text.starts_with("vnc") {
        return None;
    }
    let pairs = match text.starts_with('{') {
        true => json_pairs(text).unwrap_or_default(),
        false => pairs(text, "type"),
    };
    let get = |key: &str| pairs.iter().rfind(|(name, _)| name == key).map(|(_, v)| v);
    let kind = match get("type").map_or("", String::as_str) {
        "none" => Local::None,
        "egl-headless" => Local::EglHeadless,
        "dbus" => Local::Dbus,
        "sdl" => Local::Sdl,
        "gtk" => Local::Gtk,
        "curses" => Local::Curses,
        other => return Some(Err(other.to_owned())),
    };
    // On an existing bus, the outcome depends on the other programs on the bus.
    let p2p = get("p2p").is_some_and(|value| is_on(value));
    if kind == Local::Dbus && (!p2p || get("addr").is_some()) {
        return Some(Err("dbus".into()));
    }
    Some(Ok(Display {
        kind,
        // on, off, core or es
        gl: get("gl").map(|value| value != "off"),
        rendernode: get("rendernode").cloned(),
    }))
}

/// The properties for which a `-global` is read.
const GLOBALS: &str = "display ramfb x-igd-opregion x-no-mmap x-vga xres yres";

/// Reads the value of `-global` (`qemu_global_option`, system/qdev-monitor.c); `None` if it is not
/// for one of these properties of vfio devices.
fn global(text: &str) -> Option<Global> {
    let short = || {
        let (driver, rest) = text.split_once('.')?;
        let (property, value) = rest.split_once('=')?;
        let is_short = !driver.contains('=') && !driver.is_empty() && !property.is_empty();
        is_short.then(|| (driver.to_owned(), property.to_owned(), value.to_owned()))
    };
    let long = || {
        let pairs = pairs(text, "");
        let get = |key: &str| {
            pairs
                .iter()
                .rfind(|(name, _)| name == key)
                .map(|(_, v)| v.clone())
        };
        Some((get("driver")?, get("property")?, get("value")?))
    };
    let (driver, property, value) = short().or_else(long)?;
    (is_vfio(&driver) && is_in(GLOBALS, &property)).then(|| Global {
        driver,
        property,
        value: value.into(),
    })
}

#[cfg(test)]
mod tests;
