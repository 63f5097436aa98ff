//! Matches a rule's conditions against a device or type.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;

use globset::{Glob, GlobMatcher};

use crate::device::id::serde_as_text;
use crate::device::rules::{Match, Subject};
use crate::device::version::Version;

/// A glob. Its matcher is compiled only when a value begins like the pattern: for each event, udev
/// starts a program that reads all rules, and most rules are about other devices.
#[derive(Debug, Clone)]
pub struct Pattern {
    glob: Glob,
    /// The number of bytes at the start of the pattern that contain no wildcard.
    literal: usize,
    matcher: OnceLock<GlobMatcher>,
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(pattern: &str) -> Result<Self, String> {
        let glob = Glob::new(pattern).map_err(|error| {
            let problem = error.kind();
            format!("{pattern:?} is no pattern ({problem}): expected one like nvidia-*, with \\ before a literal [ or {{")
        })?;
        let literal = pattern
            .find(['*', '?', '[', '{', '\\'])
            .unwrap_or(pattern.len());
        Ok(Pattern {
            glob,
            literal,
            matcher: OnceLock::new(),
        })
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.glob.glob())
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.glob == other.glob
    }
}

impl Pattern {
    /// Makes a pattern that matches this text and no other.
    pub(crate) fn literally(text: &str) -> Self {
        let mut pattern = String::new();
        for c in text.chars() {
            if "*?[]{}\\!,".contains(c) {
                pattern.push('\\');
            }
            pattern.push(c);
        }
        pattern.parse().expect("it has no wildcards")
    }

    /// Returns whether the whole value matches.
    pub(super) fn is_match(&self, value: &str) -> bool {
        let pattern = self.glob.glob();
        let (start, rest) = pattern.split_at(self.literal);
        match rest {
            "" => value == pattern,
            "*" => value.starts_with(start),
            _ if !value.starts_with(start) => false,
            _ => self
                .matcher
                .get_or_init(|| self.glob.compile_matcher())
                .is_match(value),
        }
    }
}

/// The number of a PCI vendor, as a rule spells it: `0x8086`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Vendor(pub u16);

impl FromStr for Vendor {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let digits = text.strip_prefix("0x");
        let number = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let what = || format!("{text:?} is no PCI vendor: expected one like 0x8086");
        number.map(Vendor).ok_or_else(what)
    }
}

impl fmt::Display for Vendor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:#06x}", self.0)
    }
}

serde_as_text!(Pattern, Vendor);

impl Match {
    /// Returns whether all conditions hold for this device or type.
    pub(super) fn is_of(&self, subject: &Subject<'_>) -> bool {
        let one_of = |patterns: &[Pattern], value: Option<&str>| {
            let is_like = |value| patterns.iter().any(|pattern| pattern.is_match(value));
            patterns.is_empty() || value.is_some_and(is_like)
        };
        let kernel = |limit: &Option<Version>, fits: fn(&Version, &Version) -> bool| {
            let is_in = |limit| Version::parse(subject.kernel).is_some_and(|k| fits(&k, limit));
            limit.as_ref().is_none_or(is_in)
        };
        let address = subject.address.filter(|_| !self.address.is_empty());
        let address = address.map(|address| address.to_string());
        let class = subject.class.filter(|_| self.class.is_some());
        let class = class.map(|class| format!("0x{class:06x}"));
        self.bus.is_none_or(|bus| subject.bus == Some(bus))
            && one_of(&self.driver, subject.driver)
            && one_of(&self.parent_driver, subject.parent_driver)
            && one_of(&self.type_id, subject.type_id)
            && one_of(&self.device_api, subject.device_api)
            && one_of(&self.address, address.as_deref())
            && one_of(self.class.as_slice(), class.as_deref())
            && self
                .vendor
                .is_none_or(|Vendor(vendor)| subject.vendor == Some(vendor))
            && kernel(&self.kernel_from, |kernel, from| kernel >= from)
            && kernel(&self.kernel_below, |kernel, below| kernel < below)
            && self.attribute.iter().all(|wanted| {
                let value = subject.attributes.and_then(|all| all.get(&wanted.path));
                match (&wanted.is, &wanted.is_not) {
                    (Some(is), _) => value == Some(is),
                    (_, Some(is_not)) => value.is_some_and(|value| value != is_not),
                    (None, None) => false,
                }
            })
    }
}
