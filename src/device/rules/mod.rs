//! Rules: built-in knowledge about device types, with sources, and whether such devices may be
//! opened.
//!
//! Rules are data: TOML files with `[[rule]]` tables. The package's are in
//! `/usr/share/gfxplane/rules.d`, the administrator's in `/etc/gfxplane/rules.d`. The first rule
//! that matches a device applies to it. The administrator's rules come before the package's, and
//! within each directory the files are read in order of their names.

mod matching;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};

use serde::{Deserialize, Serialize};

use crate::device::evidence::{Evidence, Method};
use crate::device::facts::{Display, DisplayWords, Edid, Facts, OpRegion, Reason};
use crate::device::id::{PciAddress, display_as_serde};
use crate::device::toml::{BadToml, Step, Toml};
use crate::device::version::Version;
pub use matching::{Pattern, Vendor};

/// The rules that come with this version, for hosts where the package is not installed.
pub(crate) const BUILT_IN: &[(&str, &str)] = &[
    ("50-kernel.toml", include_str!("../rules.d/50-kernel.toml")),
    ("60-nvidia.toml", include_str!("../rules.d/60-nvidia.toml")),
];

/// The permission to open a device for a probe.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Open {
    /// Opening the device has no noticeable side effect. It may be opened unasked.
    Safe,
    /// The device may be opened only if the user names it.
    #[default]
    Named,
    /// The device may never be opened, because opening it does harm or gives no answer.
    Never,
}

display_as_serde!(Open);

/// One rule: knowledge about the devices that it matches.
#[derive(Debug, Clone, Serialize)]
pub struct Rule {
    /// The rule's name, unique among all rules. A later rule of the same name is ignored.
    pub name: String,
    /// The basis of the rule: a file and function, or the name of the person who measured it.
    pub source: String,
    /// The conditions that select the rule's devices.
    #[serde(rename = "match")]
    pub matches: Match,
    /// The facts about these devices. Without facts, the rule says only whether the devices may be
    /// opened.
    #[serde(flatten)]
    pub facts: Option<Facts>,
    /// The permission to open these devices.
    pub open: Open,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RulesFile {
    #[serde(default)]
    rule: Vec<RuleText>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleText {
    name: String,
    source: String,
    #[serde(rename = "match")]
    matches: Match,
    display: Option<Vec<String>>,
    reason: Option<Reason>,
    edid: Option<EdidText>,
    opregion: Option<OpRegionText>,
    #[serde(default)]
    kvm: bool,
    #[serde(default)]
    open: Open,
}

/// [`Edid`] as people write it. A misspelt key is refused here, while a record may have unknown
/// keys.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EdidText {
    max_xres: u32,
    max_yres: u32,
}

/// [`OpRegion`] as people write it. A misspelt key is refused, too.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OpRegionText {
    size: u64,
}

/// A contradiction in a rule that is well-formed, or an attribute that can't be read.
struct Bad {
    /// The way to the value, from the rule on.
    way: Vec<Step<'static>>,
    /// The problem, and what was expected.
    what: String,
}

impl RuleText {
    fn facts(&self) -> Result<Option<Facts>, Bad> {
        let bad = |key, what| Bad {
            way: vec![Step::Key(key)],
            what,
        };
        let Some(display) = self.display.clone() else {
            let facts = [
                ("reason", self.reason.is_some()),
                ("edid", self.edid.is_some()),
                ("opregion", self.opregion.is_some()),
                ("kvm", self.kvm),
            ];
            return match facts.iter().find(|(_, is_said)| *is_said) {
                Some((key, _)) => {
                    let what =
                        format!("it states `{key}` without a display: expected display = [\"…\"]");
                    Err(bad(key, what))
                }
                None => Ok(None),
            };
        };
        let display = Display::try_from(DisplayWords {
            display,
            reason: self.reason.clone(),
        });
        let display = display.map_err(|what| bad("display", what))?;
        Ok(Some(Facts {
            edid: self.edid.as_ref().map(|edid| Edid {
                max_xres: edid.max_xres,
                max_yres: edid.max_yres,
            }),
            opregion: self
                .opregion
                .as_ref()
                .map(|region| OpRegion { size: region.size }),
            kvm: self.kvm,
            ..Facts::of(display)
        }))
    }

    fn checked(self) -> Result<Rule, Bad> {
        self.matches.check()?;
        Ok(Rule {
            facts: self.facts()?,
            name: self.name,
            source: self.source,
            matches: self.matches,
            open: self.open,
        })
    }
}

/// The conditions of a rule. All conditions that are given must be true. A list of globs is true if
/// one of them matches.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// The bus: `mdev` or `pci`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bus: Option<Bus>,
    /// Globs on the vfio driver of the device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub driver: Vec<Pattern>,
    /// Globs on the driver of the mdev's parent or, without a driver, on the parent's class or
    /// bus.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parent_driver: Vec<Pattern>,
    /// Globs on the mdev type id or the vGPU type.
    #[serde(rename = "type", skip_serializing_if = "Vec::is_empty")]
    pub type_id: Vec<Pattern>,
    /// Globs on the mdev type's `device_api`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub device_api: Vec<Pattern>,
    /// Globs on the PCI address of the device itself, or of the mdev's parent.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub address: Vec<Pattern>,
    /// The PCI vendor (`0x8086`) of the device itself, or of the mdev's parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub vendor: Option<Vendor>,
    /// A glob on the PCI class (`0x0300??`) of the device itself, or of the mdev's parent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<Pattern>,
    /// The oldest kernel to which the rule applies: `5.0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_from: Option<Version>,
    /// The first kernel to which the rule no longer applies: `4.16`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernel_below: Option<Version>,
    /// Conditions on sysfs attributes of the device.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub attribute: Vec<AttributeMatch>,
}

impl Match {
    /// Checks that there is a condition, and that each attribute has one and is below the device's
    /// directory.
    fn check(&self) -> Result<(), Bad> {
        let bad = |more: &[Step<'static>], what| Bad {
            way: [&[Step::Key("match")], more].concat(),
            what,
        };
        if *self == Match::default() {
            let what = "it has no condition and would match every device: expected one, such as driver = [\"…\"]";
            return Err(bad(&[], what.into()));
        }
        for (place, AttributeMatch { path, is, is_not }) in self.attribute.iter().enumerate() {
            let way = [Step::Key("attribute"), Step::At(place), Step::Key("path")];
            let mut parts = Path::new(path).components();
            if path.is_empty() || !parts.all(|part| matches!(part, Component::Normal(_))) {
                let what = format!(
                    "attribute path {path:?} leads out of the device's directory: expected one below it, such as vendor"
                );
                return Err(bad(&way, what));
            }
            if is.is_some() == is_not.is_some() {
                let what = format!("attribute {path:?}: expected one of is and is_not");
                return Err(bad(&way[..2], what));
            }
        }
        Ok(())
    }
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

/// A condition on a sysfs attribute: either `is` or `is_not`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AttributeMatch {
    /// The path below the device's directory, without `..`.
    pub path: String,
    /// The whole content that the attribute must have, without white space around it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is: Option<String>,
    /// A content that the attribute must not have. The attribute must exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub is_not: Option<String>,
}

impl Rule {
    /// Returns the evidence for the rule's facts.
    pub fn evidence(&self) -> Evidence {
        Evidence {
            rule: Some(self.name.clone()),
            source: Some(self.source.clone()),
            ..Evidence::by(Method::Rule)
        }
    }
}

/// The values of a device or mdev type that conditions are compared with. A condition on `None` is
/// false.
#[derive(Debug, Clone, Default)]
pub struct Subject<'a> {
    /// The bus; `None` only in tests.
    pub bus: Option<Bus>,
    /// The vfio driver; `None` for a type or a defined device.
    pub driver: Option<&'a str>,
    /// The driver of the parent, for mdevs and types.
    pub parent_driver: Option<&'a str>,
    /// The id of the mdev type or the vGPU type.
    pub type_id: Option<&'a str>,
    /// The `device_api` of the mdev type.
    pub device_api: Option<&'a str>,
    /// The PCI address of the device, or of the mdev's parent.
    pub address: Option<PciAddress>,
    /// The PCI vendor of the device, or of the mdev's parent.
    pub vendor: Option<u16>,
    /// The PCI class in 24 bits, of the device or of the mdev's parent.
    pub class: Option<u32>,
    /// The kernel's release.
    pub kernel: &'a str,
    /// The attributes that [`Rules::attribute_paths`] names and the device has.
    pub attributes: Option<&'a BTreeMap<String, String>>,
}

/// A set of rules, in the order in which they are tried.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The rules, each with the name of its file.
    rules: Vec<(String, Rule)>,
}

impl Rules {
    /// Returns the rules that come with this version.
    ///
    /// # Panics
    /// Never: a test reads them.
    pub fn built_in() -> Self {
        let mut rules = Rules::default();
        for (name, text) in BUILT_IN {
            rules
                .add_file(name, text)
                .expect("the built-in rules are tested");
        }
        rules
    }

    /// Appends the rules of the file that is called `file` and contains `text`. Leaves out a rule
    /// if an earlier one has its name, so that a rule in /etc replaces the package's rule of the
    /// same name.
    ///
    /// # Errors
    /// [`BadToml`] for a mistake anywhere in the text; then none of the file's rules is added.
    pub fn add_file(&mut self, file: &str, text: &str) -> Result<(), BadToml> {
        let toml = Toml::parse(text)?;
        let mut checked = Vec::new();
        for (place, rule) in toml.read::<RulesFile>()?.rule.into_iter().enumerate() {
            let name = rule.name.clone();
            checked.push(rule.checked().map_err(|bad| {
                let start = [Step::Key("rule"), Step::At(place)];
                let way: Vec<Step<'_>> = start.into_iter().chain(bad.way).collect();
                toml.mistake(&way, format!("rule {name:?}: {}", bad.what))
            })?);
        }
        for new in checked {
            if !self.rules.iter().any(|(_, old)| old.name == new.name) {
                self.rules.push((file.into(), new));
            }
        }
        Ok(())
    }

    /// Returns the paths of all attributes that a rule needs, each once.
    pub(crate) fn attribute_paths(&self) -> Vec<&str> {
        let attributes = self
            .rules
            .iter()
            .flat_map(|(_, rule)| &rule.matches.attribute);
        let paths: BTreeSet<&str> = attributes.map(|a| a.path.as_str()).collect();
        paths.into_iter().collect()
    }

    /// Returns the first rule that matches this device or type, which is the one that applies;
    /// `None` if no rule matches.
    pub fn find(&self, subject: &Subject<'_>) -> Option<&Rule> {
        let mut rules = self.rules.iter().map(|(_, rule)| rule);
        rules.find(|rule| rule.matches.is_of(subject))
    }

    /// Returns all rules in order, each with the name of its file.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Rule)> {
        self.rules.iter().map(|(file, rule)| (file.as_str(), rule))
    }
}

#[cfg(test)]
mod tests;
