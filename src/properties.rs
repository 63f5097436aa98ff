//! The properties of QEMU's vfio-pci and their types.
//!
//! `-set` takes every value as a text, and QEMU reads it by the property's type. `qemu:override` has
//! to say the type: libvirt writes JSON, and QEMU takes no other there (`Invalid parameter type for
//! 'x-no-mmap', expected: boolean`).

/// Properties that are texts, whatever they look like (hw/vfio/pci.c, hw/pci/pci.c). `addr` takes a
/// number, too, and reads it otherwise: "2" is slot 2, 2 is function 2 of slot 0.
const TEXTS: [&str; 9] = [
    "addr",
    "bus",
    "driver",
    "failover_pair_id",
    "host",
    "iommufd",
    "romfile",
    "sysfsdev",
    "vf-token",
];

/// Properties whose `on` and `off` are words, as there is an `auto` beside them (`ON_OFF_AUTO`).
const WORDS: [&str; 9] = [
    "display",
    "enable-migration",
    "x-device-dirty-page-tracking",
    "x-igd-legacy-mode",
    "x-migration-load-config-after-iter",
    "x-migration-multifd-transfer",
    "x-msix-relocation",
    "x-pre-copy-dirty-page-tracking",
    "x-ramfb-migrate",
];

/// Whether QEMU takes a text for a property.
#[must_use]
pub fn is_text(property: &str) -> bool {
    TEXTS.contains(&property) || WORDS.contains(&property)
}

/// The value of a `-set` as `qemu:override` has it: switches are `true` and `false`, numbers are
/// decimal.
#[must_use]
pub fn overriding(property: &str, value: &str) -> String {
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

/// The `type` that `qemu:override` needs for a value.
#[must_use]
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
