//! Matches a rule's conditions against a device or type.

use std::sync::OnceLock;

use globset::{Glob, GlobMatcher};

use crate::device::rules::{Match, Rule, RuleText, Subject};
use crate::device::toml::Step;
use crate::device::version::Version;

/// An error in a rule that is well-formed TOML: a contradiction, or a value that can't be used.
#[derive(Debug)]
pub(super) struct Bad {
    /// The steps from the rule to the value.
    pub(super) way: Vec<Step<'static>>,
    /// The problem, and what was expected.
    pub(super) what: String,
}

impl Bad {
    pub(super) fn at(
        way: impl IntoIterator<Item = Step<'static>>,
        what: impl Into<String>,
    ) -> Self {
        Bad {
            way: way.into_iter().collect(),
            what: what.into(),
        }
    }

    /// Makes the error for the condition with this key.
    fn of(key: &'static str, what: impl Into<String>) -> Self {
        Bad::at([Step::Key("match"), Step::Key(key)], what)
    }
}

#[derive(Debug, Clone)]
pub(super) struct Compiled {
    pub(super) rule: Rule,
    pub(super) file: String,
    driver: Vec<Pattern>,
    parent_driver: Vec<Pattern>,
    type_id: Vec<Pattern>,
    device_api: Vec<Pattern>,
    address: Vec<Pattern>,
    vendor: Option<u16>,
    class: Option<Pattern>,
    kernel_from: Option<Version>,
    kernel_below: Option<Version>,
}

/// A glob. Its matcher is compiled only when a value begins like the pattern: for each event, udev
/// starts a program that reads all rules, and most rules are about other devices.
#[derive(Debug, Clone)]
struct Pattern {
    glob: Glob,
    /// The number of bytes at the start of the pattern that contain no wildcard.
    literal: usize,
    matcher: OnceLock<GlobMatcher>,
}

pub(super) fn compile(rule: RuleText, file: &str) -> Result<Compiled, Bad> {
    let matches = &rule.matches;
    if *matches == Match::default() {
        let what = "it has no condition and would match every device: expected one, such as driver = [\"…\"]";
        return Err(Bad::at([Step::Key("match")], what));
    }
    for (place, attribute) in matches.attribute.iter().enumerate() {
        let bad = |key: Option<&'static str>, what| {
            let way = [Step::Key("match"), Step::Key("attribute"), Step::At(place)];
            Bad::at(way.into_iter().chain(key.map(Step::Key)), what)
        };
        let path = std::path::Path::new(&attribute.path);
        let inside = path
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !inside || attribute.path.is_empty() {
            let what = format!(
                "attribute path {:?} leads out of the device's directory: expected one below it, such as vendor",
                attribute.path
            );
            return Err(bad(Some("path"), what));
        }
        if attribute.is.is_some() == attribute.is_not.is_some() {
            let what = format!(
                "attribute {:?}: expected one of is and is_not",
                attribute.path
            );
            return Err(bad(None, what));
        }
    }
    let vendor = |text: &String| {
        let digits = text.strip_prefix("0x");
        let number = digits.and_then(|digits| u16::from_str_radix(digits, 16).ok());
        let what = || format!("{text:?} is no PCI vendor: expected one like 0x8086");
        number.ok_or_else(|| Bad::of("vendor", what()))
    };
    let class = |text: &String| glob(text).map_err(|what| Bad::of("class", what));
    Ok(Compiled {
        driver: globs("driver", &matches.driver)?,
        parent_driver: globs("parent_driver", &matches.parent_driver)?,
        type_id: globs("type", &matches.type_id)?,
        device_api: globs("device_api", &matches.device_api)?,
        address: globs("address", &matches.address)?,
        vendor: matches.vendor.as_ref().map(vendor).transpose()?,
        class: matches.class.as_ref().map(class).transpose()?,
        kernel_from: version("kernel_from", matches.kernel_from.as_deref())?,
        kernel_below: version("kernel_below", matches.kernel_below.as_deref())?,
        file: file.into(),
        rule: Rule {
            facts: rule.facts()?,
            name: rule.name,
            source: rule.source,
            matches: rule.matches,
            open: rule.open,
        },
    })
}

fn version(key: &'static str, text: Option<&str>) -> Result<Option<Version>, Bad> {
    let what = |text| format!("{text:?} is no kernel version: expected one like 5.10");
    let parsed = |text| Version::parse(text).ok_or_else(|| Bad::of(key, what(text)));
    text.map(parsed).transpose()
}

fn globs(key: &'static str, patterns: &[String]) -> Result<Vec<Pattern>, Bad> {
    let patterns = patterns.iter().enumerate();
    let read = |(place, pattern): (usize, &String)| {
        let way = [Step::Key("match"), Step::Key(key), Step::At(place)];
        glob(pattern).map_err(|what| Bad::at(way, what))
    };
    patterns.map(read).collect()
}

fn glob(pattern: &str) -> Result<Pattern, String> {
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

impl Pattern {
    fn is_match(&self, value: &str) -> bool {
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

impl Compiled {
    pub(super) fn matches(&self, subject: &Subject<'_>) -> bool {
        let one_of = |globs: &[Pattern], value: Option<&str>| {
            globs.is_empty() || value.is_some_and(|value| globs.iter().any(|g| g.is_match(value)))
        };
        let matches = &self.rule.matches;
        let kernel = |limit: &Option<Version>, fits: fn(&Version, &Version) -> bool| {
            let is_in = |limit| Version::parse(subject.kernel).is_some_and(|k| fits(&k, limit));
            limit.as_ref().is_none_or(is_in)
        };
        let address = subject
            .address
            .filter(|_| !self.address.is_empty())
            .map(|a| a.to_string());
        matches.bus.is_none_or(|bus| subject.bus == Some(bus))
            && one_of(&self.driver, subject.driver)
            && one_of(&self.parent_driver, subject.parent_driver)
            && one_of(&self.type_id, subject.type_id)
            && one_of(&self.device_api, subject.device_api)
            && one_of(&self.address, address.as_deref())
            && self
                .vendor
                .is_none_or(|vendor| subject.vendor == Some(vendor))
            && self.class.as_ref().is_none_or(|glob| {
                subject
                    .class
                    .is_some_and(|class| glob.is_match(&format!("0x{class:06x}")))
            })
            && kernel(&self.kernel_from, |kernel, from| kernel >= from)
            && kernel(&self.kernel_below, |kernel, below| kernel < below)
            && matches.attribute.iter().all(|wanted| {
                let value = subject.attributes.and_then(|all| all.get(&wanted.path));
                match (&wanted.is, &wanted.is_not) {
                    (Some(is), _) => value == Some(is),
                    (_, Some(is_not)) => value.is_some_and(|value| value != is_not),
                    (None, None) => false,
                }
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_agree_with_the_globs_that_they_stand_for() {
        let patterns =
            "mtty-* a* * x-[12] 0x03???? *_vfio_pci {a,b}-c vfio-pci a\\* i915-GVTg_V[45]_[124]";
        // One of these values is empty.
        let values = " mtty-1 mtty- a ab a* x-1 x-3 0x030000 0x0300000 mlx5_vfio_pci b-c vfio-pci vfio-pci2 i915-GVTg_V5_4 i915-GVTg_V5_8";
        for pattern in patterns.split(' ') {
            let matcher = Glob::new(pattern).unwrap().compile_matcher();
            let ours = glob(pattern).unwrap();
            for value in values.split(' ') {
                assert_eq!(
                    ours.is_match(value),
                    matcher.is_match(value),
                    "{pattern} {value}"
                );
            }
        }
    }
}
