//! Decides which parts of an argument may be shown. Any other part may be a secret.

use super::syntax::is_on;

/// The names of QEMU's options that may be shown, without their dash. Any other word may be a
/// secret.
pub(crate) const OPTIONS: &str = "\
    M S accel acpitable alt-grab append audiodev bios boot chardev cpu curses daemonize device \
    display drive enable-kvm full-screen fw_cfg global initrd kernel m machine mem-path \
    mem-prealloc mon monitor name netdev no-reboot no-shutdown nodefaults nographic numa object \
    overcommit readconfig rtc sandbox sdl serial set smbios spice trace vga vnc";

/// Returns true for a value that may be shown: a switch, a small number, or the name of QEMU's vfio
/// driver. Any other value may be a secret, and is never shown.
pub(crate) fn is_telling(value: &str) -> bool {
    let number = value.strip_prefix("0x").unwrap_or(value);
    let is_number =
        (1..=5).contains(&number.len()) && number.bytes().all(|b| b.is_ascii_hexdigit());
    let is_number = is_number && number.starts_with(|c: char| c.is_ascii_digit());
    let is_word = matches!(
        value,
        "" | "off" | "no" | "false" | "n" | "auto" | "vfio-pci" | "vfio-pci-nohotplug"
    );
    is_number || is_on(value) || is_word
}

/// Returns a value as it may be shown: the value itself if [`is_telling`], or three dots.
pub(crate) fn told(value: &str) -> &str {
    if is_telling(value) { value } else { "…" }
}

/// Returns the argument of a `-set`, with its value as [`told`] returns it. Empty if the
/// argument has no `=`.
pub(crate) fn told_setting(setting: &str) -> String {
    let name_and_value = setting.split_once('=');
    name_and_value.map_or_else(String::new, |(name, value)| {
        format!("{name}={}", told(value))
    })
}

/// Returns a message of QEMU's or libvirt's without the values of arguments, which may be secrets.
/// QEMU prints an argument, with its value, before a message about it (util/error-report.c,
/// `print_loc`).
pub fn without_values(message: &str) -> String {
    let lines: Vec<String> = message.split('\n').map(line_without_values).collect();
    lines.join("\n")
}

fn line_without_values(line: &str) -> String {
    let is_option = |rest: &str| {
        let name = rest.strip_prefix('-')?.split(' ').next()?;
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "-_".contains(c);
        let is_name = name.starts_with(|c: char| c.is_ascii_lowercase()) && name.chars().all(fits);
        is_name.then_some(name.len() + 1)
    };
    let starts = std::iter::once(0).chain(line.match_indices(": ").map(|(at, _)| at + 2));
    let found = starts
        .filter_map(|at| Some((at, at + is_option(&line[at..])?)))
        .next();
    let Some((start, end)) = found else {
        return line.to_owned();
    };
    let (option, value) = (&line[start..end], line[end..].trim_start());
    let mut json = serde_json::Deserializer::from_str(value).into_iter::<serde_json::Value>();
    let length = match json.next() {
        Some(Ok(_)) if value.starts_with('{') => Some(json.byte_offset()),
        // QEMU's messages about these options contain ": ", and the values of the options don't.
        _ if ["-device", "-display", "-vga", "-vnc"].contains(&option) => value.find(": "),
        _ => value.rfind(": "),
    };
    let rest = length.map_or("", |length| &value[length..]);
    format!("{}{option} …{rest}", &line[..start])
}
