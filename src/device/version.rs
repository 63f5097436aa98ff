//! Versions of kernels, QEMU and libvirt, compared by their numbers.

use std::fmt;

use crate::device::id::serde_as_text;

/// The leading numbers of a version: `6.12.107+deb13-amd64` is 6, 12, 107.
///
/// `10.0` is less than `10.0.0`. So a limit has no zeros at its end: every 10.0.x is at least
/// `10.0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(Vec<u32>);

/// The error for a text that is no version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no version: expected numbers and dots, like 10.0.13")]
pub struct NotAVersion(pub String);

impl Version {
    /// Reads the numbers up to the first character that is neither digit nor dot; `None` if the
    /// text begins with no number, or has one above 32 bits.
    pub fn parse(text: &str) -> Option<Self> {
        let end = text
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(text.len());
        let numbers: Option<Vec<u32>> = text[..end]
            .split('.')
            .filter(|part| !part.is_empty())
            .map(|part| part.parse().ok())
            .collect();
        numbers.filter(|numbers| !numbers.is_empty()).map(Version)
    }

    /// Returns whether this is the version with these numbers, or a later one.
    pub(crate) fn is_from(&self, numbers: &[u32]) -> bool {
        self.0.as_slice() >= numbers
    }

    /// Makes a version of these numbers.
    pub fn of(numbers: &[u32]) -> Self {
        Version(numbers.to_vec())
    }

    /// Reads libvirt's form of a version: major * 1,000,000 + minor * 1,000 + release (libvirt
    /// include/libvirt/libvirt-host.h, `virConnectGetLibVersion`). `virConnectGetVersion` gives
    /// QEMU's version in the same form.
    pub(crate) fn from_libvirt(number: u32) -> Self {
        Version(vec![
            number / 1_000_000,
            number / 1_000 % 1_000,
            number % 1_000,
        ])
    }
}

impl std::str::FromStr for Version {
    type Err = NotAVersion;

    fn from_str(text: &str) -> Result<Self, NotAVersion> {
        Version::parse(text).ok_or_else(|| NotAVersion(text.to_owned()))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let numbers: Vec<String> = self.0.iter().map(ToString::to_string).collect();
        f.write_str(&numbers.join("."))
    }
}

serde_as_text!(Version);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        let v = |text| Version::parse(text);
        assert!(v("6.12.107+deb13-amd64") > v("6.12") && v("4.9.0") < v("4.16"));
        assert!(v("6.1") < v("6.10") && v("10.0.13") < v("10.1"));
        assert_eq!(
            v("10.0.13 (Debian 1:10.0.13)").unwrap().to_string(),
            "10.0.13"
        );
        assert_eq!(v("x"), None);
        assert_eq!(v(""), None);
        assert_eq!(v("99999999999"), None);
        assert_eq!(Version::from_libvirt(11_003_000), Version::of(&[11, 3, 0]));
        let error = "ten".parse::<Version>().unwrap_err().to_string();
        assert!(error.contains("\"ten\" is no version"), "{error}");
    }
}
