//! The policy: the changes that a domain may get, and the losses to which its owner has agreed.

use std::collections::BTreeSet;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::device::id::{display_as_serde, from_word};
use crate::domain::Domain;
use crate::xml::{Element, XmlError};

/// The displays that gfxplane manages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Displays {
    /// No display: gfxplane leaves the domain alone.
    Off,
    /// Displays that the domain asks for with `display='on'`.
    Asked,
    /// Also measured displays that the domain's graphics can show without any change.
    Auto,
    /// Also displays for which graphics or GL must be added.
    Full,
}

/// A loss that a change may cause, to which the user may agree.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Consent {
    /// A way to see the screen over a network, or with the viewer that the user has now.
    Remote,
    /// A video card that the guest has.
    Video,
}

/// The treatment of `display='on'` on a device whose display is unknown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Unknown {
    /// The display stays on.
    Keep,
    /// The display is switched off.
    Off,
}

/// The treatment of emulated video cards if a vGPU has a display of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EmulatedVideo {
    /// The cards stay.
    Keep,
    /// The cards are removed, so that the vGPU is the guest's only screen.
    None,
}

/// The treatment of ramfb if a vGPU is the guest's only screen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootDisplay {
    /// gfxplane does not change ramfb, unless ramfb can't work.
    Keep,
    /// ramfb is switched on.
    Ramfb,
}

/// The guest's operating system, on which some options depend.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Guest {
    /// Windows, whose driver needs the OpRegion.
    Windows,
    /// Any other system.
    Other,
}

/// The policy for one domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Policy {
    /// The setting `display`.
    pub display: Displays,
    /// The setting `unknown`.
    pub unknown: Unknown,
    /// The setting `video`.
    pub video: EmulatedVideo,
    /// The setting `boot_display`.
    pub boot_display: BootDisplay,
    /// The setting `guest`; `None` if libosinfo's metadata decide.
    pub guest: Option<Guest>,
    /// The setting `consent`: the losses to which the user has agreed.
    pub consent: BTreeSet<Consent>,
    /// True if gfxplane switches on a display that is known but not measured, like a measured one.
    /// No file and no domain can set this: only a person can, for one command.
    pub trust_rules: bool,
    /// True if all displays are switched off. Only a person can set this, for one command.
    pub no_display: bool,
}

impl Default for Policy {
    fn default() -> Self {
        Policy {
            display: Displays::Auto,
            unknown: Unknown::Keep,
            video: EmulatedVideo::Keep,
            boot_display: BootDisplay::Keep,
            guest: None,
            consent: BTreeSet::new(),
            trust_rules: false,
            no_display: false,
        }
    }
}

/// The error for an unknown word in a policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name} is {found:?}: expected {expected}")]
pub struct BadWord {
    /// The name of the setting that has the word as its value; for the name of an unknown setting,
    /// the text `the name of a setting`.
    pub name: &'static str,
    /// The unknown word.
    pub found: String,
    /// The allowed words, as a text for people.
    pub expected: &'static str,
}

macro_rules! words {
    ($($type:ty: $name:literal, $expected:literal;)+) => {$(
        display_as_serde!($type);

        impl FromStr for $type {
            type Err = BadWord;
            fn from_str(text: &str) -> Result<Self, BadWord> {
                from_word(text).ok_or_else(|| BadWord {
                    name: $name,
                    found: text.into(),
                    expected: $expected,
                })
            }
        }
    )+};
}

words! {
    Displays: "display", "asked, auto, full or off";
    Consent: "consent", "remote, video or all";
    Unknown: "unknown", "keep or off";
    EmulatedVideo: "video", "keep or none";
    BootDisplay: "boot_display", "keep or ramfb";
    Guest: "guest", "windows or other";
}

/// Reads a list of losses, such as `remote,video` or `all`. The list may be empty.
///
/// # Errors
/// [`BadWord`] for any other word.
pub fn consent(text: &str) -> Result<BTreeSet<Consent>, BadWord> {
    let mut all = BTreeSet::new();
    for word in text
        .split(',')
        .map(str::trim)
        .filter(|word| !word.is_empty())
    {
        if word == "all" {
            all.extend([Consent::Remote, Consent::Video]);
        } else {
            all.insert(word.parse()?);
        }
    }
    Ok(all)
}

/// A policy as files and domains write it. [`Policy::with`] applies it to another policy, of which
/// it keeps each setting that is `None` here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Wishes {
    /// `display = "asked" | "auto" | "full" | "off"`
    pub display: Option<Displays>,
    /// `unknown = "keep" | "off"`
    pub unknown: Option<Unknown>,
    /// `video = "keep" | "none"`
    pub video: Option<EmulatedVideo>,
    /// `boot_display = "keep" | "ramfb"`
    pub boot_display: Option<BootDisplay>,
    /// `guest = "windows" | "other"`
    pub guest: Option<Guest>,
    /// `consent = ["remote", "video"]`
    pub consent: Option<BTreeSet<Consent>>,
    /// [`Policy::trust_rules`]
    pub trust_rules: bool,
    /// [`Policy::no_display`]
    pub no_display: bool,
}

impl Wishes {
    /// Sets the setting that has this name in files and domains. With the value `None`, unsets it.
    ///
    /// # Errors
    /// [`BadWord`] for an unknown name or word.
    pub fn set(&mut self, name: &str, value: Option<&str>) -> Result<(), BadWord> {
        fn word<T: FromStr>(value: Option<&str>) -> Result<Option<T>, T::Err> {
            value.map(str::parse).transpose()
        }
        match name {
            "display" => self.display = word(value)?,
            "unknown" => self.unknown = word(value)?,
            "video" => self.video = word(value)?,
            "boot_display" => self.boot_display = word(value)?,
            "guest" => self.guest = word(value)?,
            "consent" => self.consent = value.map(consent).transpose()?,
            _ => {
                return Err(BadWord {
                    name: "the name of a setting",
                    found: name.into(),
                    expected: "display, unknown, video, boot_display, guest or consent",
                });
            }
        }
        Ok(())
    }

    /// Returns the name of each setting that files and domains can have, in the order of the
    /// documentation, each with its value; `None` if the setting is not set.
    pub fn words(&self) -> [(&'static str, Option<String>); 6] {
        let consent = self.consent.as_ref().map(|all| {
            let all: Vec<String> = all.iter().map(ToString::to_string).collect();
            all.join(",")
        });
        [
            ("display", self.display.map(|word| word.to_string())),
            ("unknown", self.unknown.map(|word| word.to_string())),
            ("video", self.video.map(|word| word.to_string())),
            (
                "boot_display",
                self.boot_display.map(|word| word.to_string()),
            ),
            ("guest", self.guest.map(|word| word.to_string())),
            ("consent", consent),
        ]
    }

    /// Returns the wishes with which a plan changes nothing, and so shows the domain as it is.
    #[must_use]
    pub fn as_it_is() -> Self {
        Wishes {
            display: Some(Displays::Off),
            ..Wishes::default()
        }
    }

    /// Reads a domain's wishes from the attributes of its `<gfxplane:policy>`.
    ///
    /// # Errors
    /// [`XmlError`] for an unknown attribute or word.
    pub(crate) fn of_element(element: Element<'_, '_>) -> Result<Self, XmlError> {
        let mut wishes = Wishes::default();
        for (name, value) in element.attributes() {
            if name == "xmlns" || name.starts_with("xmlns:") {
                continue;
            }
            let set = wishes.set(name, Some(&value));
            set.map_err(|problem| element.refused(format!("<{}>: {problem}", element.name())))?;
        }
        Ok(wishes)
    }
}

impl Policy {
    /// Returns the whole policy as wishes.
    pub(crate) fn as_wishes(&self) -> Wishes {
        Wishes {
            display: Some(self.display),
            unknown: Some(self.unknown),
            video: Some(self.video),
            boot_display: Some(self.boot_display),
            guest: self.guest,
            consent: Some(self.consent.clone()),
            trust_rules: self.trust_rules,
            no_display: self.no_display,
        }
    }

    /// Lowers `display` from `auto` or `full` to `asked`: gfxplane then manages only the displays
    /// of devices to which the domain itself gives `display='on'`. Meant for a domain that another
    /// manager made, or that is older than the package.
    #[must_use]
    pub(crate) fn asked_only(mut self) -> Self {
        self.display = self.display.min(Displays::Asked);
        self
    }

    /// Returns this policy with the settings in `wishes` in place of its own. No wish switches
    /// `trust_rules` or `no_display` off.
    #[must_use]
    pub fn with(mut self, wishes: &Wishes) -> Self {
        self.display = wishes.display.unwrap_or(self.display);
        self.unknown = wishes.unknown.unwrap_or(self.unknown);
        self.video = wishes.video.unwrap_or(self.video);
        self.boot_display = wishes.boot_display.unwrap_or(self.boot_display);
        self.guest = wishes.guest.or(self.guest);
        if let Some(consent) = &wishes.consent {
            self.consent.clone_from(consent);
        }
        self.trust_rules |= wishes.trust_rules;
        self.no_display |= wishes.no_display;
        self
    }

    /// Returns the policy for a domain. The domain's own wishes override the host's policy. If
    /// another manager made the domain, the host's `display` is first lowered to `asked`
    /// ([`Policy::asked_only`]).
    ///
    /// # Errors
    /// [`XmlError`] if the domain's own policy can't be read.
    pub fn for_domain(self, domain: &Domain<'_, '_>) -> Result<Self, XmlError> {
        let policy = if domain.manager.is_some() {
            self.asked_only()
        } else {
            self
        };
        match domain.policy {
            Some(element) => Ok(policy.with(&Wishes::of_element(element)?)),
            None => Ok(policy),
        }
    }

    /// Returns whether the guest is Windows: according to the policy's `guest`, or if that is
    /// `None`, to libosinfo's metadata.
    pub(crate) fn is_windows(&self, domain: &Domain<'_, '_>) -> bool {
        let os = domain.os_id.as_deref().unwrap_or_default();
        self.guest
            .map_or(os.contains("microsoft.com/win"), |guest| {
                guest == Guest::Windows
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::xml::Document;

    #[test]
    fn words_of_consent() {
        let words = |text| consent(text).map(|all| all.into_iter().collect::<Vec<_>>());
        assert_eq!(words("all"), Ok(vec![Consent::Remote, Consent::Video]));
        assert_eq!(words("video, remote"), words("all"));
        assert_eq!(words(""), Ok(Vec::new()));
        let error = words("remote,most").unwrap_err().to_string();
        assert_eq!(error, "consent is \"most\": expected remote, video or all");
    }

    #[test]
    fn a_domains_own_wishes_go_over_another_managers() {
        const NOVA: &str =
            "<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'/>";
        const OWN: &str = "<gfxplane:policy xmlns:gfxplane='urn:gfxplane:domain:1' display='full' guest='windows'/>";
        let off = Policy {
            display: Displays::Off,
            ..Policy::default()
        };
        for (host, own, display) in [
            (Policy::default(), OWN, Displays::Full),
            // Another manager adds nothing.
            (off, "", Displays::Off),
        ] {
            let text = format!("<domain><metadata>{NOVA}{own}</metadata></domain>");
            let document = Document::parse(&text).unwrap();
            let domain = Domain::new(&document).unwrap();
            let policy = host.for_domain(&domain).unwrap();
            assert_eq!(policy.display, display, "{own}");
            assert_eq!(policy.is_windows(&domain), !own.is_empty());
        }
    }

    #[test]
    fn names_and_words_of_wishes() {
        let mut wishes = Wishes::default();
        for (name, value) in [("display", "full"), ("guest", "other"), ("consent", "all")] {
            wishes.set(name, Some(value)).unwrap();
        }
        let words = |wishes: &Wishes| -> Vec<String> {
            let words = wishes.words().into_iter();
            words
                .filter_map(|(name, word)| Some(format!("{name}={}", word?)))
                .collect()
        };
        assert_eq!(
            words(&wishes),
            ["display=full", "guest=other", "consent=remote,video"]
        );
        wishes.set("guest", None).unwrap();
        assert!(wishes.set("guests", None).is_err() && wishes.set("guests", Some("")).is_err());
        assert_eq!(
            Policy::default().with(&wishes).as_wishes().consent,
            wishes.consent
        );
        for (name, _) in wishes.words() {
            wishes.set(name, None).unwrap();
        }
        assert_eq!(wishes, Wishes::default());
    }

    #[test]
    fn what_is_wrong_with_a_policy() {
        for (attributes, part) in [
            (
                "display='yes'",
                "display is \"yes\": expected asked, auto, full or off",
            ),
            ("colour='red'", "the name of a setting is \"colour\""),
            ("consent='everything'", "expected remote, video or all"),
        ] {
            let text = format!("<domain>\n <policy {attributes}/></domain>");
            let document = Document::parse(&text).unwrap();
            let element = document.root().child("policy").unwrap();
            let error = Wishes::of_element(element).unwrap_err().to_string();
            assert!(
                error.starts_with("line 2, column 2: <policy>: ") && error.contains(part),
                "{error}"
            );
        }
    }
}
