//! One of libvirt's checks as a value, and the domain and the host that it checks.

use std::collections::BTreeMap;

use super::graphics_checks::lacks_audio;
use crate::domain::{GraphicsType, Versions};
use crate::predict::abilities::Abilities;
use crate::predict::screens::{Card, Frontend, Screens, Vgpu};
use crate::predict::versions::Libvirt;
use crate::predict::{About, Refusal, Stage};

/// A domain, and a host on which every setting is known or assumed.
pub(super) struct World<'w> {
    pub(super) screens: &'w Screens,
    /// The number of the domain's graphics of each type.
    pub(super) kinds: BTreeMap<GraphicsType, usize>,
    /// True if the domain's first dbus display is on a bus. libvirt ignores the other dbus displays
    /// (`virDomainDefHasDBus`).
    pub(super) has_bus: bool,
    /// True if the domain has no `<audio>`, and libvirt adds none.
    pub(super) lacks_audio: bool,
    pub(super) abilities: &'w Abilities,
    pub(super) libvirt: &'w Libvirt,
    /// The setting `spice_tls` of qemu.conf.
    pub(super) tls: bool,
    /// True if AppArmor keeps libvirt from starting or using a dbus-daemon for the guest.
    pub(super) daemon_denied: bool,
}

/// One of libvirt's checks of a thing: a hostdev, a card, a graphics or the whole domain.
pub(super) struct Rule<T> {
    stage: Stage,
    versions: Versions,
    /// libvirt's message, with `{}` where the text that `broken` returns is filled in.
    words: &'static str,
    /// True if a plan may change the thing that breaks the rule.
    repair: bool,
    /// Returns the text for `{}` if the rule is broken, and `None` if it is not.
    broken: Check<T>,
}

/// A function that returns the text for `{}` if the rule is broken, and `None` if it is not.
pub(super) type Check<T> = fn(&World<'_>, &T) -> Option<String>;

pub(super) type OfHostdev = Rule<Vgpu>;
pub(super) type OfCard = Rule<Card>;
pub(super) type OfGraphics = Rule<Frontend>;
pub(super) type OfDomain = Rule<Screens>;

impl<T> Rule<T> {
    const fn at(stage: Stage, words: &'static str, broken: Check<T>) -> Self {
        Rule {
            stage,
            versions: Versions::EVERY,
            words,
            repair: false,
            broken,
        }
    }

    pub(super) const fn define(words: &'static str, broken: Check<T>) -> Self {
        Self::at(Stage::Define, words, broken)
    }

    pub(super) const fn arguments(words: &'static str, broken: Check<T>) -> Self {
        Self::at(Stage::Arguments, words, broken)
    }

    pub(super) const fn start(words: &'static str, broken: Check<T>) -> Self {
        Self::at(Stage::Start, words, broken)
    }

    pub(super) const fn since(mut self, version: &'static [u32]) -> Self {
        self.versions.since = version;
        self.versions.always = false;
        self
    }

    pub(super) const fn until(mut self, version: &'static [u32]) -> Self {
        self.versions.until = version;
        self.versions.always = false;
        self
    }

    /// Marks a rule by which every version refuses, because other versions have a rule like it.
    pub(super) const fn always(mut self) -> Self {
        self.versions.always = true;
        self
    }

    pub(super) const fn repairable(mut self) -> Self {
        self.repair = true;
        self
    }

    pub(super) fn ask(&self, world: &World<'_>, thing: &T, about: About) -> Option<Broken> {
        if !world.libvirt.has_check(self.versions) {
            return None;
        }
        let words = self.words.replacen("{}", &(self.broken)(world, thing)?, 1);
        Some(Broken {
            refusal: Refusal::new(self.stage, about, words, self.versions.always),
            repair: self.repair,
        })
    }
}

/// A broken rule: libvirt's refusal, and whether a plan may change the thing that breaks the rule.
pub(super) struct Broken {
    pub(super) refusal: Refusal,
    pub(super) repair: bool,
}

/// Returns an empty text if a rule without `{}` is broken, and `None` if it is not.
pub(super) fn if_so(is_broken: bool) -> Option<String> {
    is_broken.then(String::new)
}

impl<'w> World<'w> {
    /// Makes a world. Counts the graphics once for all rules, because with some thousands of
    /// graphics, a count for each of them would take a second.
    pub(super) fn new(
        screens: &'w Screens,
        abilities: &'w Abilities,
        libvirt: &'w Libvirt,
        tls: bool,
        daemon_denied: bool,
    ) -> Self {
        let mut kinds = BTreeMap::new();
        for frontend in &screens.frontends {
            *kinds.entry(frontend.kind).or_default() += 1;
        }
        let mut all = screens.frontends.iter();
        let dbus = all.find(|f| f.kind == GraphicsType::Dbus);
        World {
            screens,
            kinds,
            has_bus: dbus.is_some_and(|dbus| !dbus.p2p),
            lacks_audio: lacks_audio(screens),
            abilities,
            libvirt,
            tls,
            daemon_denied,
        }
    }

    pub(super) fn has_graphics(&self, kind: GraphicsType) -> bool {
        self.kinds.contains_key(&kind)
    }
}
