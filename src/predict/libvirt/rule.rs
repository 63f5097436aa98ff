//! A check of libvirt's as a value, with the domain and the host that it is made for.

use std::collections::BTreeMap;

use super::graphics::lacks_audio;
use crate::device::version::Version;
use crate::domain::GraphicsType;
use crate::predict::abilities::Abilities;
use crate::predict::screens::{Card, Frontend, Screens, Vgpu};
use crate::predict::versions::Libvirt;
use crate::predict::{About, Refusal, Stage};

/// A domain and one host that it may be on.
pub(super) struct World<'w> {
    pub(super) screens: &'w Screens,
    /// The number of the domain's graphics of each type.
    pub(super) kinds: BTreeMap<GraphicsType, usize>,
    /// True if the domain's first dbus display is on a bus. libvirt does not look at the others
    /// (`virDomainDefHasDBus`).
    pub(super) has_bus: bool,
    /// True if the domain has no `<audio>`, and libvirt adds none.
    pub(super) lacks_audio: bool,
    pub(super) abilities: &'w Abilities,
    pub(super) libvirt: &'w Libvirt,
    /// The setting `spice_tls` of qemu.conf.
    pub(super) tls: bool,
    /// True if AppArmor keeps libvirt from a dbus-daemon for the guest.
    pub(super) daemon_denied: bool,
}

/// A check of libvirt's for a thing: a hostdev, a card, a graphics or the whole domain.
pub(super) struct Rule<T> {
    stage: Stage,
    /// The first version with the check; empty: every version.
    since: &'static [u32],
    /// The first version without it; empty: none.
    until: &'static [u32],
    /// True if every version refuses this, and some in other words or at another stage.
    always: bool,
    /// libvirt's words; `{}` stands for the text that `broken` returns.
    words: &'static str,
    /// True if a plan may change the thing that breaks the rule.
    repair: bool,
    /// Returns the text for `{}` if the rule is broken.
    broken: Check<T>,
}

/// A function that returns the text for `{}` if the rule is broken.
pub(super) type Check<T> = fn(&World<'_>, &T) -> Option<String>;

pub(super) type OfHostdev = Rule<Vgpu>;
pub(super) type OfCard = Rule<Card>;
pub(super) type OfGraphics = Rule<Frontend>;
pub(super) type OfDomain = Rule<Screens>;

impl<T> Rule<T> {
    const fn at(stage: Stage, words: &'static str, broken: Check<T>) -> Self {
        Rule {
            stage,
            since: &[],
            until: &[],
            always: true,
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
        self.since = version;
        self.always = false;
        self
    }

    pub(super) const fn until(mut self, version: &'static [u32]) -> Self {
        self.until = version;
        self.always = false;
        self
    }

    /// Says that the other versions refuse the same, by another rule.
    pub(super) const fn always(mut self) -> Self {
        self.always = true;
        self
    }

    pub(super) const fn repairable(mut self) -> Self {
        self.repair = true;
        self
    }

    pub(super) fn ask(&self, world: &World<'_>, thing: &T, about: About) -> Option<Broken> {
        if !world.has(self.since, self.until) {
            return None;
        }
        let found = (self.broken)(world, thing)?;
        Some(Broken {
            refusal: Refusal::new(
                self.stage,
                about,
                self.words.replacen("{}", &found, 1),
                self.always,
            ),
            repair: self.repair,
        })
    }
}

/// A rule that is broken.
pub(super) struct Broken {
    pub(super) refusal: Refusal,
    pub(super) repair: bool,
}

/// Returns the empty text for a broken rule whose words have no `{}`.
pub(super) fn if_so(is_broken: bool) -> Option<String> {
    is_broken.then(String::new)
}

impl<'w> World<'w> {
    /// Makes a world. Finds out once what several rules need: a rule that went through all graphics
    /// for each of them would take a second for some thousands.
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

    /// Returns whether this libvirt has a check with these limits of versions. An unknown version
    /// counts as the newest or the oldest, as in [`Libvirt::possible`].
    pub(super) fn has(&self, since: &[u32], until: &[u32]) -> bool {
        match &self.abilities.libvirt {
            Some(version) => {
                let is_older = |than: &[u32]| *version < Version::of(than);
                !is_older(since) && (until.is_empty() || is_older(until))
            }
            None if self.libvirt.pci_display => until.is_empty(),
            None => since.is_empty(),
        }
    }

    pub(super) fn has_graphics(&self, kind: GraphicsType) -> bool {
        self.kinds.contains_key(&kind)
    }
}
