//! The properties of QEMU's vfio-pci and their types.
//!
//! `-set` accepts every value as a text, which QEMU converts to the property's type.
//! `qemu:override` has to name the type, because libvirt writes JSON, where QEMU accepts no other
//! type (`Invalid parameter type for 'x-no-mmap', expected: boolean`).

use crate::predict::qemu_messages::{self, is_in};

/// Properties whose values are texts, even if they look like numbers (hw/vfio/pci.c, hw/pci/pci.c).
/// `addr` may also be a number, but with another meaning: "2" is slot 2, 2 is function 2 of slot 0.
const TEXTS: &str = "\
    addr bus driver failover_pair_id host iommufd romfile sysfsdev vf-token";

/// Properties whose values are words: `on` and `off`, but also `auto` (`ON_OFF_AUTO`) or others.
const WORDS: &str = "\
    display enable-migration x-device-dirty-page-tracking x-igd-legacy-mode \
    x-migration-load-config-after-iter x-migration-multifd-transfer x-msix-relocation \
    x-pre-copy-dirty-page-tracking x-ramfb-migrate";

/// Properties whose values can only be on or off (QEMU's type `bool`).
const SWITCHES: &str = "\
    migration-events multifunction ramfb skip-vsc-check use-legacy-x86-rom x-balloon-allowed \
    x-igd-lpc x-igd-opregion x-no-geforce-quirks x-no-kvm-intx x-no-kvm-ioeventfd x-no-kvm-msi \
    x-no-kvm-msix x-no-mmap x-no-vfio-ioeventfd x-pcie-ari-nextfn-1 x-pcie-err-unc-mask \
    x-pcie-ext-tag x-pcie-extcap-init x-pcie-lnksta-dllla x-req x-vga x-write-lnksta";

/// Properties whose values are numbers without a sign.
const NUMBERS: &str = "\
    acpi-index romsize x-igd-gms x-intx-mmap-timeout-ms x-nv-gpudirect-clique x-pci-class-code \
    x-pci-device-id x-pci-sub-device-id x-pci-sub-vendor-id x-pci-vendor-id x-vpasid-cap-offset \
    xres yres";

/// The type of a property.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Type {
    /// A text, or a word such as `auto`.
    Text,
    /// On or off.
    Switch,
    /// A number without a sign.
    Number,
}

/// Returns the type of a property; `None` for `addr`, and if the property is not listed here
/// (`qemu-system-x86_64 -device vfio-pci-nohotplug,help` of 7.2.22, 10.0.13 and 11.1.3).
fn type_of(property: &str) -> Option<Type> {
    // addr may also be a number, with another meaning.
    let is = |list| is_in(list, property) && property != "addr";
    if is(TEXTS) || is(WORDS) {
        Some(Type::Text)
    } else if is(SWITCHES) {
        Some(Type::Switch)
    } else if is(NUMBERS) {
        Some(Type::Number)
    } else {
        None
    }
}

/// Returns QEMU's refusal of a property to which `qemu:override` gives the type `kind` and this
/// value. `None` if QEMU accepts them, or if the property's type is not known.
pub(crate) fn mistake(property: &str, kind: &str, value: &str) -> Option<String> {
    let is_switch = is_in(WORDS, property) && property != "x-msix-relocation";
    if kind == "string" && is_switch && !["on", "off", "auto"].contains(&value) {
        let words = qemu_messages::filled(qemu_messages::NO_SUCH_WORD, property);
        return Some(qemu_messages::filled(&words, value));
    }
    let words = match (type_of(property)?, kind) {
        (_, "remove") | (Type::Text, "string") | (Type::Switch, "bool") => return None,
        (Type::Number, "signed" | "unsigned") => return None,
        (Type::Text, _) => qemu_messages::EXPECTED_A_TEXT,
        (Type::Switch, _) => qemu_messages::EXPECTED_A_SWITCH,
        (Type::Number, _) => qemu_messages::EXPECTED_A_NUMBER,
    };
    Some(qemu_messages::filled(words, property))
}

/// Returns the place of a property in the order in which QEMU sets a device's properties from JSON,
/// which is the order of a hash table (qobject/qdict.c, `tdb_hash`).
pub(crate) fn place(property: &str) -> u32 {
    let length = u32::try_from(property.len()).unwrap_or_default();
    let shifted = |(at, byte): (usize, u8)| u32::from(byte) << (at * 5 % 24);
    let sum = property
        .bytes()
        .enumerate()
        .map(shifted)
        .fold(length.wrapping_mul(0x238F_13AF), u32::wrapping_add);
    sum.wrapping_mul(1_103_515_243).wrapping_add(12345) % 512
}

/// Returns whether QEMU is known to read the value of a property as a text.
pub fn is_text(property: &str) -> bool {
    is_in(TEXTS, property) || is_in(WORDS, property)
}

/// Returns the value of a `-set` as `qemu:override` has to write it: `true` or `false` for a
/// switch, and decimal for a number. Judges a property by its value, unless the property is known
/// to be a text.
pub(crate) fn overriding(property: &str, value: &str) -> String {
    if is_text(property) {
        return value.to_owned();
    }
    let hexadecimal = value
        .strip_prefix("0x")
        .and_then(|digits| u64::from_str_radix(digits, 16).ok());
    match (value, hexadecimal) {
        (_, Some(number)) => number.to_string(),
        ("on" | "yes" | "true" | "y", _) => "true".to_owned(),
        ("off" | "no" | "false" | "n", _) => "false".to_owned(),
        (other, _) => other.to_owned(),
    }
}

/// Returns the `type` that a property needs in `qemu:override`. Judges by the value, in the form of
/// `overriding`, unless the property is known to be a text.
pub fn kind(property: &str, value: &str) -> &'static str {
    if is_text(property) {
        "string"
    } else if matches!(value, "true" | "false") {
        "bool"
    } else if value.parse::<u64>().is_ok() {
        "unsigned"
    } else if value.parse::<i64>().is_ok() {
        "signed"
    } else {
        "string"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_and_their_types() {
        for (property, said, expected, type_) in [
            ("addr", "0x2", "0x2", "string"),
            ("addr", "2", "2", "string"),
            ("romfile", "1", "1", "string"),
            ("display", "on", "on", "string"),
            ("enable-migration", "off", "off", "string"),
            ("x-no-mmap", "on", "true", "bool"),
            ("ramfb", "off", "false", "bool"),
            ("x-pci-device-id", "0x1234", "4660", "unsigned"),
            ("xres", "1440", "1440", "unsigned"),
            ("bootindex", "-1", "-1", "signed"),
            ("x-other", "0xzz", "0xzz", "string"),
        ] {
            let value = overriding(property, said);
            assert_eq!(value, expected, "{property}");
            assert_eq!(kind(property, &value), type_, "{property}");
        }
    }
}
