//! The names of devices. They are parsed once, where they enter the program.

use std::fmt;
use std::str::FromStr;

use serde::de::IntoDeserializer;
use serde::de::value::{self, StrDeserializer};
use uuid::Uuid;

/// The address of a PCI device as sysfs spells it: `0000:00:02.0`.
///
/// The domain may have more than four digits (`VMD` bridges: `10000:e1:00.0`). The bus is 0 to
/// 0xff, the device 0 to 0x1f, the function 0 to 7 (`PCI_SLOT` and `PCI_FUNC` in Linux
/// include/uapi/linux/pci.h).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    /// The PCI domain (segment).
    pub domain: u32,
    /// The bus number.
    pub bus: u8,
    /// The device number, 0 to 31; libvirt calls it slot.
    pub device: u8,
    /// The function number, 0 to 7.
    pub function: u8,
}

/// The identity of a vfio device: the UUID of a mediated device, the PCI address of any other.
///
/// Its [`Display`](fmt::Display) form is the name of its directory in sysfs, and the name that
/// `VFIO_GROUP_GET_DEVICE_FD` expects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum DeviceId {
    /// A mediated device (`/sys/bus/mdev/devices/UUID`).
    Mdev(Uuid),
    /// A PCI device (`/sys/bus/pci/devices/ADDRESS`).
    Pci(PciAddress),
}

/// The error for a text that names no device.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a device: expected a UUID (c1a2…-…), a PCI address (0000:00:02.0), \
     a node-device name (mdev_…, pci_0000_00_02_0) or a device's directory in /sys"
)]
pub struct NotADevice {
    /// The text that names no device.
    pub text: String,
}

impl DeviceId {
    /// Returns the name of the bus in `/sys/bus`: `mdev` or `pci`.
    pub fn bus(&self) -> &'static str {
        match self {
            DeviceId::Mdev(_) => "mdev",
            DeviceId::Pci(_) => "pci",
        }
    }

    /// Reads a device as a user types it: a UUID, a PCI address, a directory in sysfs, or libvirt's
    /// name of the node device (`mdev_UUID_PARENT`, `pci_0000_00_02_0`; libvirt
    /// src/node_device/node_device_udev.c, `udevGenerateDeviceName`: each byte that is not a letter
    /// or digit becomes `_`).
    ///
    /// # Errors
    /// [`NotADevice`] if the text is none of these.
    pub(crate) fn from_user(text: &str) -> Result<Self, NotADevice> {
        let name = last_name(text);
        if let Ok(id) = name.parse() {
            return Ok(id);
        }
        let id = if let Some(rest) = name.strip_prefix("mdev_") {
            rest.get(..36)
                .filter(|_| rest.len() == 36 || rest.as_bytes()[36] == b'_')
                .and_then(|uuid| uuid.replace('_', "-").parse().ok())
        } else if let Some(rest) = name.strip_prefix("pci_") {
            let parts: Vec<&str> = rest.split('_').collect();
            match parts[..] {
                [domain, bus, device, function] => {
                    format!("{domain}:{bus}:{device}.{function}").parse().ok()
                }
                _ => None,
            }
        } else {
            None
        };
        id.ok_or_else(|| NotADevice { text: text.into() })
    }
}

/// Returns the last component of a path, without slashes at its end.
pub(crate) fn last_name(text: &str) -> &str {
    let path = text.trim_end_matches('/');
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            device,
            function,
        } = self;
        write!(f, "{domain:04x}:{bus:02x}:{device:02x}.{function}")
    }
}

impl FromStr for PciAddress {
    type Err = NotADevice;

    fn from_str(text: &str) -> Result<Self, NotADevice> {
        parse_pci(text).ok_or_else(|| NotADevice { text: text.into() })
    }
}

/// Reads a hexadecimal number with one of the `lengths`; `None` for anything else. `from_str_radix`
/// would also accept a sign.
fn hex(text: &str, lengths: std::ops::RangeInclusive<usize>) -> Option<u32> {
    let fits = lengths.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit());
    fits.then(|| u32::from_str_radix(text, 16).ok()).flatten()
}

fn parse_pci(text: &str) -> Option<PciAddress> {
    let (rest, function) = text.rsplit_once('.')?;
    let mut parts = rest.rsplitn(3, ':');
    let device = hex(parts.next()?, 2..=2)?;
    let bus = hex(parts.next()?, 2..=2)?;
    let domain = parts.next().map_or(Some(0), |domain| hex(domain, 4..=8))?;
    let function = hex(function, 1..=1)?;
    (device < 32 && function < 8).then_some(PciAddress {
        domain,
        bus: bus as u8,
        device: device as u8,
        function: function as u8,
    })
}

impl fmt::Display for DeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            DeviceId::Mdev(uuid) => uuid.hyphenated().fmt(f),
            DeviceId::Pci(address) => address.fmt(f),
        }
    }
}

impl FromStr for DeviceId {
    type Err = NotADevice;

    fn from_str(text: &str) -> Result<Self, NotADevice> {
        if text.len() == 36
            && let Ok(uuid) = Uuid::try_parse(text)
        {
            return Ok(DeviceId::Mdev(uuid));
        }
        text.parse().map(DeviceId::Pci)
    }
}

/// Displays enums without fields by their serde names.
macro_rules! display_as_serde {
    ($($type:ty),+) => {$(
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                serde::Serialize::serialize(self, f)
            }
        }
    )+};
}
pub(crate) use display_as_serde;

/// Returns the value of `T` that serde reads from this word; `None` if there is none. If `T` has a
/// variant with `#[serde(other)]`, an unknown word yields that variant.
pub(crate) fn from_word<'w, T: serde::Deserialize<'w>>(word: &'w str) -> Option<T> {
    let word: StrDeserializer<'_, value::Error> = word.into_deserializer();
    T::deserialize(word).ok()
}

/// Serializes types as their `Display` text.
macro_rules! serialize_as_text {
    ($($type:ty),+) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )+};
}
pub(crate) use serialize_as_text;

/// Serializes types as their `Display` text, and reads them from it.
macro_rules! serde_as_text {
    ($($type:ty),+) => {$(
        $crate::device::id::serialize_as_text!($type);
        impl<'de> serde::Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?
                    .parse()
                    .map_err(serde::de::Error::custom)
            }
        }
    )+};
}
pub(crate) use serde_as_text;
serde_as_text!(PciAddress, DeviceId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pci_addresses() {
        for (text, expected) in [
            ("0000:00:02.0", Some("0000:00:02.0")),
            ("00:1f.7", Some("0000:00:1f.7")),
            ("10000:e1:00.0", Some("10000:e1:00.0")),
            ("0000:00:20.0", None),
            ("0000:00:02.8", None),
            ("0000:00:02", None),
            ("0000:0:02.0", None),
            ("0000:00:+2.0", None),
            ("", None),
            ("0000:00:02.0\n", None),
        ] {
            assert_eq!(
                text.parse()
                    .ok()
                    .map(|a: PciAddress| a.to_string())
                    .as_deref(),
                expected,
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_users_type() {
        let uuid = "11111111-2222-3333-4444-555555555555";
        for (text, expected) in [
            (uuid, Some(uuid)),
            ("mdev_11111111_2222_3333_4444_555555555555", Some(uuid)),
            (
                "mdev_11111111_2222_3333_4444_555555555555_0000_00_02_0",
                Some(uuid),
            ),
            ("mdev_11111111_2222_3333_4444_5555555555556", None),
            ("pci_0000_00_02_0", Some("0000:00:02.0")),
            ("00:02.0", Some("0000:00:02.0")),
            (
                "/sys/bus/mdev/devices/11111111-2222-3333-4444-555555555555",
                Some(uuid),
            ),
            (
                "/sys/devices/pci0000:00/0000:00:02.0/",
                Some("0000:00:02.0"),
            ),
            ("/", None),
            ("11111111222233334444555555555555", None),
            ("pci_0000_00_02", None),
            ("net_lo_00_00", None),
            ("mdev_é", None),
            ("-", None),
        ] {
            let id = DeviceId::from_user(text).ok().map(|id| id.to_string());
            assert_eq!(id.as_deref(), expected, "{text:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn display_and_parse_agree(domain in 0u32..=0xffff_ffff, bus: u8, device in 0u8..32, function in 0u8..8) {
            let address = PciAddress { domain, bus, device, function };
            proptest::prop_assert_eq!(address.to_string().parse(), Ok(address));
        }

        #[test]
        fn no_text_panics(text in ".*") {
            let _ = DeviceId::from_user(&text);
        }
    }
}
