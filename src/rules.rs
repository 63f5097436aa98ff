//! Rules: what is known of kinds of devices without asking one, and which may be opened.
//!
//! Rules are data: TOML files with `[[rule]]` tables, shipped in `/usr/share/gfxplane/rules.d`,
//! more in `/etc/gfxplane/rules.d`. The first rule that matches a device speaks for it; the
//! administrator's come before the package's, and within each directory files go by name.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use globset::{Glob, GlobMatcher};
use serde::{Deserialize, Serialize};

use crate::evidence::{Evidence, Method};
use crate::facts::{Display, DisplayWords, Edid, Facts, OpRegion, Reason};
use crate::names::PciAddress;
use crate::version::Version;

/// The rules that come with this version, for hosts on which it is not installed.
pub const BUILT_IN: &[(&str, &str)] = &[
    ("50-kernel.toml", include_str!("rules.d/50-kernel.toml")),
    ("60-nvidia.toml", include_str!("rules.d/60-nvidia.toml")),
];

/// Whether a device may be opened to ask it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Open {
    /// Opening has no side effect that anybody would notice: it may be done unasked.
    Safe,
    /// Only if somebody names the device.
    Named,
    /// Never: opening it does harm or can't answer anything.
    Never,
}

/// One rule.
#[derive(Debug, Clone, Serialize)]
pub struct Rule {
    /// Its name, unique among all rules; a later one of the same name is ignored.
    pub name: String,
    /// On what it rests: file and function, or who measured it.
    pub source: String,
    /// Which devices.
    #[serde(rename = "match")]
    pub matches: Match,
    /// What it says of them; without it the rule says only whether they may be opened.
    #[serde(flatten)]
    pub facts: Option<Facts>,
    /// Whether they may be opened.
    pub open: Open,
}

/// A rule as it stands in the file.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    name: String,
    source: String,
    #[serde(rename = "match")]
    matches: Match,
    display: Option<Vec<String>>,
    reason: Option<Reason>,
    edid: Option<Edid>,
    opregion: Option<OpRegion>,
    #[serde(default)]
    kvm: bool,
    #[serde(default = "RuleText::open_default")]
    open: Open,
}

impl RuleText {
    fn open_default() -> Open {
        Open::Named
    }

    fn facts(&self) -> Result<Option<Facts>, String> {
        let Some(display) = self.display.clone() else {
            let says_more = self.reason.is_some() || self.edid.is_some() || self.opregion.is_some();
            return if says_more || self.kvm {
                Err("it states facts without a display: expected display = [\"…\"]".into())
            } else {
                Ok(None)
            };
        };
        let display = Display::try_from(DisplayWords {
            display,
            reason: self.reason.clone(),
        })?;
        Ok(Some(Facts {
            edid: self.edid,
            opregion: self.opregion,
            kvm: self.kvm,
            ..Facts::of(display)
        }))
    }
}

/// The conditions of a rule; all that are given must hold.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// `mdev` or `pci`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<Bus>,
    /// Globs on the vfio driver of the device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub driver: Vec<String>,
    /// Globs on the driver of the mdev's parent; without a driver: its class or bus.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parent_driver: Vec<String>,
    /// Globs on the mdev type id or the vGPU type.
    #[serde(rename = "type", skip_serializing_if = "Vec::is_empty")]
    pub type_id: Vec<String>,
    /// Globs on the mdev type's `device_api`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_api: Vec<String>,
    /// Globs on the PCI address of the device itself, or of the mdev's parent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<String>,
    /// PCI vendor (`0x8086`): of the device itself, or of the mdev's parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<String>,
    /// Glob on the PCI class (`0x0300??`) of the device itself, or of the mdev's parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The oldest kernel: `5.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_from: Option<String>,
    /// The kernel from which on it no longer holds: `4.16`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_below: Option<String>,
    /// sysfs attributes of the device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attribute: Vec<AttributeMatch>,
}

/// The bus of a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Bus {
    /// Mediated devices.
    Mdev,
    /// PCI devices.
    Pci,
}

/// A condition on a sysfs attribute.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AttributeMatch {
    /// Path below the device's directory, without `..`.
    pub path: String,
    /// Its whole content, white space around it taken off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<String>,
    /// It is there and its content is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_not: Option<String>,
}

impl Rule {
    /// The evidence that its facts carry.
    #[must_use]
    pub fn evidence(&self) -> Evidence {
        Evidence {
            rule: Some(self.name.clone()),
            source: Some(self.source.clone()),
            ..Evidence::by(Method::Rule)
        }
    }
}

/// What a rule is matched against: one device or one mdev type.
#[derive(Debug, Clone, Default)]
pub struct Subject<'a> {
    /// `None` only in tests.
    pub bus: Option<Bus>,
    /// The vfio driver; of a type or a defined device: unknown.
    pub driver: Option<&'a str>,
    /// The parent's driver, for mdevs and types.
    pub parent_driver: Option<&'a str>,
    /// mdev type id or vGPU type.
    pub type_id: Option<&'a str>,
    /// The type's `device_api`.
    pub device_api: Option<&'a str>,
    /// PCI address of the device or the mdev's parent.
    pub address: Option<PciAddress>,
    /// PCI vendor of the device or the mdev's parent.
    pub vendor: Option<u16>,
    /// PCI class, 24 bits.
    pub class: Option<u32>,
    /// Kernel release.
    pub kernel: &'a str,
    /// Those attributes that [`Rules::attribute_paths`] names and the device has.
    pub attributes: Option<&'a BTreeMap<String, String>>,
}

/// A rules file that can't be used, or a rule in it.
#[derive(Debug, thiserror::Error)]
pub enum BadRules {
    /// Not TOML, or not of the rules' shape.
    #[error("{}", .0.to_string().trim_end())]
    Toml(#[from] toml::de::Error),
    /// A rule says something that makes no sense.
    #[error("rule {rule:?}: {what}")]
    Rule {
        /// Its name.
        rule: String,
        /// What is wrong, and what was expected.
        what: String,
    },
}

#[derive(Debug, Clone)]
struct Compiled {
    rule: Rule,
    file: String,
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

/// A glob. What it takes to match one is made at the first value that could match: udev starts a
/// program that reads all rules for each event, and most rules are about other devices.
#[derive(Debug, Clone)]
struct Pattern {
    glob: Glob,
    /// How many bytes at its start stand for themselves.
    literal: usize,
    matcher: OnceLock<GlobMatcher>,
}

/// A set of rules in the order in which they are tried.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    rules: Vec<Compiled>,
}

impl Rules {
    /// The rules that come with this version.
    ///
    /// # Panics
    /// Never: a test reads them.
    #[must_use]
    pub fn built_in() -> Self {
        let mut rules = Rules::default();
        for (name, text) in BUILT_IN {
            rules
                .add_file(name, text)
                .expect("the built-in rules are tested");
        }
        rules
    }

    /// Appends the rules of one file. A rule whose name is already there is left out: the first
    /// one stands, so a file in /etc can replace a rule of the package by its name.
    ///
    /// # Errors
    /// [`BadRules`], and then nothing of the file is taken.
    pub fn add_file(&mut self, file: &str, text: &str) -> Result<(), BadRules> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct RulesFile {
            #[serde(default)]
            rule: Vec<RuleText>,
        }
        let parsed: RulesFile = toml::from_str(text)?;
        let compiled: Vec<Compiled> = parsed
            .rule
            .into_iter()
            .map(|rule| {
                let name = rule.name.clone();
                compile(rule, file).map_err(|what| BadRules::Rule { rule: name, what })
            })
            .collect::<Result<_, _>>()?;
        for new in compiled {
            if !self.rules.iter().any(|old| old.rule.name == new.rule.name) {
                self.rules.push(new);
            }
        }
        Ok(())
    }

    /// The attributes that some rule wants to see, each once.
    #[must_use]
    pub fn attribute_paths(&self) -> Vec<&str> {
        let mut paths: Vec<&str> = self
            .rules
            .iter()
            .flat_map(|r| &r.rule.matches.attribute)
            .map(|a| a.path.as_str())
            .collect();
        paths.sort_unstable();
        paths.dedup();
        paths
    }

    /// The rule that speaks for this device or type.
    #[must_use]
    pub fn find(&self, subject: &Subject<'_>) -> Option<&Rule> {
        self.rules
            .iter()
            .find(|compiled| compiled.matches(subject))
            .map(|compiled| &compiled.rule)
    }

    /// All rules with the files they stand in, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Rule)> {
        self.rules
            .iter()
            .map(|compiled| (compiled.file.as_str(), &compiled.rule))
    }
}

fn compile(rule: RuleText, file: &str) -> Result<Compiled, String> {
    let globs = |patterns: &[String]| {
        patterns
            .iter()
            .map(|p| glob(p))
            .collect::<Result<Vec<_>, _>>()
    };
    let version = |text: &Option<String>| match text {
        Some(text) => Version::parse(text)
            .map(Some)
            .ok_or_else(|| format!("{text:?} is no kernel version: expected one like 5.10")),
        None => Ok(None),
    };
    let matches = &rule.matches;
    if *matches == Match::default() {
        return Err("it has no condition and would match every device".into());
    }
    for attribute in &matches.attribute {
        let path = std::path::Path::new(&attribute.path);
        let inside = path
            .components()
            .all(|part| matches!(part, std::path::Component::Normal(_)));
        if !inside || attribute.path.is_empty() {
            return Err(format!(
                "attribute path {:?} leads out of the device's directory",
                attribute.path
            ));
        }
        if attribute.is.is_some() == attribute.is_not.is_some() {
            return Err(format!(
                "attribute {:?}: expected one of is and is_not",
                attribute.path
            ));
        }
    }
    let vendor = match &matches.vendor {
        Some(text) => Some(
            text.strip_prefix("0x")
                .and_then(|digits| u16::from_str_radix(digits, 16).ok())
                .ok_or_else(|| format!("{text:?} is no PCI vendor: expected one like 0x8086"))?,
        ),
        None => None,
    };
    Ok(Compiled {
        driver: globs(&matches.driver)?,
        parent_driver: globs(&matches.parent_driver)?,
        type_id: globs(&matches.type_id)?,
        device_api: globs(&matches.device_api)?,
        address: globs(&matches.address)?,
        vendor,
        class: matches.class.as_deref().map(glob).transpose()?,
        kernel_from: version(&matches.kernel_from)?,
        kernel_below: version(&matches.kernel_below)?,
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

fn glob(pattern: &str) -> Result<Pattern, String> {
    let glob = Glob::new(pattern).map_err(|error| error.to_string())?;
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
    fn matches(&self, subject: &Subject<'_>) -> bool {
        let one_of = |globs: &[Pattern], value: Option<&str>| {
            globs.is_empty() || value.is_some_and(|value| globs.iter().any(|g| g.is_match(value)))
        };
        let matches = &self.rule.matches;
        let kernel = || Version::parse(subject.kernel);
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
            && self
                .kernel_from
                .as_ref()
                .is_none_or(|from| kernel().is_some_and(|k| k >= *from))
            && self
                .kernel_below
                .as_ref()
                .is_none_or(|below| kernel().is_some_and(|k| k < *below))
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

    fn subject<'a>(bus: Bus, type_id: &'a str, kernel: &'a str) -> Subject<'a> {
        Subject {
            bus: Some(bus),
            type_id: Some(type_id).filter(|t| !t.is_empty()),
            kernel,
            ..Subject::default()
        }
    }

    #[test]
    fn the_built_in_rules() {
        let rules = Rules::built_in();
        let with = |value: &str| {
            BTreeMap::from([("nvidia/current_vgpu_type".to_owned(), value.to_owned())])
        };
        let (some, zero) = (with("556"), with("0"));
        let i915 = |type_id, kernel| Subject {
            parent_driver: Some("i915"),
            device_api: Some("vfio-pci"),
            ..subject(Bus::Mdev, type_id, kernel)
        };
        let nvidia = |attributes, kernel| Subject {
            driver: Some("nvidia"),
            vendor: Some(0x10de),
            attributes: Some(attributes),
            ..subject(Bus::Pci, "", kernel)
        };
        let pci = |driver: &'static str| Subject {
            driver: Some(driver),
            ..subject(Bus::Pci, "", "6.12.107+deb13-amd64")
        };
        let mdev = |type_id| Subject {
            device_api: Some("vfio-pci"),
            ..subject(Bus::Mdev, type_id, "6.12.1")
        };
        for (name, subject, display, edid, open) in [
            (
                "gvt",
                i915("i915-GVTg_V5_4", "6.1.0"),
                "dmabuf",
                Some((1920, 1200)),
                Open::Safe,
            ),
            (
                "gvt, small",
                i915("i915-GVTg_V5_8", "5.0"),
                "dmabuf",
                Some((1024, 768)),
                Open::Safe,
            ),
            (
                "gvt before EDID",
                i915("i915-GVTg_V4_1", "4.19.0-27"),
                "dmabuf",
                None,
                Open::Safe,
            ),
            (
                "gvt that lies",
                i915("i915-GVTg_V4_1", "4.15.18"),
                "none",
                None,
                Open::Safe,
            ),
            ("mdpy", mdev("mdpy-hd"), "region", None, Open::Safe),
            (
                "mbochs",
                mdev("mbochs-small"),
                "dmabuf",
                Some((800, 600)),
                Open::Safe,
            ),
            (
                "mbochs, no limit",
                mdev("mbochs-large"),
                "dmabuf",
                Some((0, 0)),
                Open::Safe,
            ),
            ("mtty", mdev("mtty-2"), "none", None, Open::Safe),
            (
                "nvidia mdev",
                mdev("nvidia-222"),
                "region",
                None,
                Open::Named,
            ),
            (
                "nvidia mdev, old kernel",
                subject(Bus::Mdev, "nvidia-11", "4.14"),
                "none",
                None,
                Open::Named,
            ),
            (
                "nvidia VF",
                nvidia(&some, "6.8.0-generic"),
                "region",
                None,
                Open::Named,
            ),
            (
                "nvidia VF, nothing set up",
                nvidia(&zero, "6.8.0-generic"),
                "none",
                None,
                Open::Named,
            ),
            ("plain vfio-pci", pci("vfio-pci"), "none", None, Open::Never),
            ("variant", pci("mlx5_vfio_pci"), "none", None, Open::Never),
            ("xe", pci("xe-vfio-pci"), "none", None, Open::Never),
            (
                "ccw",
                Subject {
                    device_api: Some("vfio-ccw"),
                    ..subject(Bus::Mdev, "vfio_ccw-io", "6.1")
                },
                "none",
                None,
                Open::Never,
            ),
        ] {
            let rule = rules
                .find(&subject)
                .unwrap_or_else(|| panic!("{name}: no rule"));
            let facts = rule.facts.clone().unwrap();
            assert_eq!(facts.display.words(), [display], "{name}: {}", rule.name);
            assert_eq!(
                facts.edid.map(|e| (e.max_xres, e.max_yres)),
                edid,
                "{name}: {}",
                rule.name
            );
            assert_eq!(rule.open, open, "{name}: {}", rule.name);
        }
        assert!(rules.find(&mdev("acme-1")).is_none());
        assert!(rules.iter().all(|(_, rule)| !rule.source.is_empty()));
    }

    #[test]
    fn igd_and_gvt_have_an_opregion() {
        let rules = Rules::built_in();
        let igd = Subject {
            driver: Some("vfio-pci"),
            vendor: Some(0x8086),
            class: Some(0x03_0000),
            address: "0000:00:02.0".parse().ok(),
            ..subject(Bus::Pci, "", "6.12")
        };
        let arc = Subject {
            address: "0000:03:00.0".parse().ok(),
            ..igd.clone()
        };
        assert!(
            rules
                .find(&arc)
                .unwrap()
                .facts
                .clone()
                .unwrap()
                .opregion
                .is_none()
        );
        assert!(
            rules
                .find(&igd)
                .unwrap()
                .facts
                .as_ref()
                .unwrap()
                .opregion
                .is_some()
        );
        let gvt = Subject {
            parent_driver: Some("i915"),
            ..subject(Bus::Mdev, "i915-GVTg_V5_4", "6.1")
        };
        let facts = rules.find(&gvt).unwrap().facts.clone().unwrap();
        assert!(facts.opregion.is_some() && facts.kvm);
    }

    #[test]
    fn first_rule_wins_and_names_are_unique() {
        let mut rules = Rules::default();
        let rule = |name: &str, word: &str| {
            format!(
                "[[rule]]\nname = '{name}'\nsource = 'x'\nmatch.type = ['acme-*']\ndisplay = ['{word}']\n"
            )
        };
        rules.add_file("a", &rule("one", "region")).unwrap();
        rules.add_file("b", &rule("one", "dmabuf")).unwrap();
        rules.add_file("c", &rule("two", "none")).unwrap();
        assert_eq!(rules.iter().count(), 2);
        let found = rules.find(&subject(Bus::Mdev, "acme-7", "6.1")).unwrap();
        assert_eq!(
            found.facts.clone().unwrap().display,
            Display::from_answers(false, true)
        );
    }

    #[test]
    fn bad_rules_are_named() {
        let rule = |body: &str| format!("[[rule]]\nname = 'r'\nsource = 's'\n{body}\n");
        for (text, part) in [
            (rule(""), "match"),
            (rule("match = {}"), "would match every device"),
            (rule("match.type = ['[']"), "rule \"r\""),
            (rule("match.kernel_from = 'new'"), "no kernel version"),
            (rule("match.vendor = '8086'"), "no PCI vendor"),
            (
                rule("match.attribute = [{ path = '../x', is = '1' }]"),
                "leads out",
            ),
            (
                rule("match.attribute = [{ path = 'x' }]"),
                "expected one of is and is_not",
            ),
            (rule("match.typ = ['a']"), "unknown field"),
            (rule("match.bus = 'usb'"), "unknown variant"),
            (
                rule("match.type = ['a']\ndisplay = ['none', 'region']"),
                "not a display interface",
            ),
            (rule("match.type = ['a']\nkvm = true"), "without a display"),
            ("[rules]".into(), "unknown field"),
        ] {
            let error = Rules::default()
                .add_file("x", &text)
                .unwrap_err()
                .to_string();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn patterns_agree_with_the_globs_that_they_stand_for() {
        for pattern in [
            "mtty-*",
            "a*",
            "*",
            "x-[12]",
            "0x03????",
            "*_vfio_pci",
            "{a,b}-c",
            "vfio-pci",
            "a\\*",
            "i915-GVTg_V[45]_[124]",
        ] {
            let matcher = Glob::new(pattern).unwrap().compile_matcher();
            let ours = glob(pattern).unwrap();
            for value in [
                "",
                "mtty-1",
                "mtty-",
                "a",
                "ab",
                "a*",
                "x-1",
                "x-3",
                "0x030000",
                "0x0300000",
                "mlx5_vfio_pci",
                "b-c",
                "vfio-pci",
                "vfio-pci2",
                "i915-GVTg_V5_4",
                "i915-GVTg_V5_8",
            ] {
                assert_eq!(
                    ours.is_match(value),
                    matcher.is_match(value),
                    "{pattern} {value}"
                );
            }
        }
    }
}
