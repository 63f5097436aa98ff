//! Predicts libvirt's own refusals, before libvirt starts QEMU. libvirt's checks are tables here,
//! in libvirt's order and with its words.
//!
//! The tables follow the source of libvirt 11.3; docs/qemu-and-libvirt.md says what differs in
//! older and newer versions. libvirt checks each hostdev, then each card, each character device and
//! each graphics, then looks for parts that occur twice. These are the checks of a definition. A
//! start makes them again, checks the graphics, and then handles the host's devices.

mod cards;
mod graphics_checks;
mod rule;

use crate::device::facts::{Display, Reason};
use crate::device::id::DeviceId;
use crate::domain::{GraphicsType, Misread};
use crate::predict::abilities::Abilities;
use crate::predict::screens::{Frontend, Here, Screens, Vgpu};
use crate::predict::versions::Libvirt;
use crate::predict::{About, Refusal, Stage};

use cards::VIDEO;
pub use graphics_checks::NO_TLS_PORT;
use graphics_checks::{
    ARGUMENTS, CGROUP, DAEMON, GRAPHICS, NO_AUDIO, ONE_OF_EACH, PORTS, PROFILE, RENDER_NODE, START,
};
pub(crate) use graphics_checks::{NO_APPARMOR_PROFILE, is_of_real_starts};
use rule::{Broken, OfDomain, OfHostdev, Rule, World, if_so};

/// The checks once a hostdev is parsed (src/conf/domain_postparse.c,
/// `virDomainHostdevDefPostParse`).
const HOSTDEV_PARSED: [Rule<Vgpu>; 1] =
    [Rule::define("Unsupported address type '{}", |_, vgpu| {
        let wanted = match vgpu.model.as_str() {
            "vfio-pci" => "pci",
            "vfio-ccw" => "ccw",
            _ => return None,
        };
        let address = vgpu.settings.address.as_deref()?;
        let is_mdev = matches!(vgpu.id, DeviceId::Mdev(_));
        let model = &vgpu.model;
        (is_mdev && address != wanted)
            .then(|| format!("{address}' with mediated device model '{model}'"))
    })];

/// The checks of each hostdev (src/qemu/qemu_validate.c, `qemuValidateDomainMdevDefVFIOPCI`,
/// `qemuValidateDomainMdevDefVFIOAP`, `qemuValidateDomainDeviceDefHostdev`).
const HOSTDEV: [OfHostdev; 3] = [
    OfHostdev::define(
        "booting from assigned devices is not supported by mediated devices of model {}",
        |_, vgpu| {
            let is_mdev = matches!(vgpu.id, DeviceId::Mdev(_));
            let has_rule = matches!(vgpu.model.as_str(), "vfio-pci" | "vfio-ap");
            (is_mdev && has_rule && vgpu.settings.boot).then(|| vgpu.model.clone())
        },
    ),
    // libvirt checks the attribute, whatever qemu:override sets.
    OfHostdev::define(
        "graphics device is needed for attribute value 'display=on' in <hostdev>",
        |world, vgpu| {
            let is_asked = vgpu.asked && vgpu.is_pci && world.libvirt.takes_display(vgpu.id);
            let has_none = world.screens.frontends.is_empty() && !world.screens.desktop;
            if_so(is_asked && has_none)
        },
    )
    .repairable(),
    OfHostdev::define(
        "Only one hostdev of model vfio-ap is supported",
        |world, vgpu| {
            let mut of_model = world.screens.vgpus.iter().filter(|v| v.model == "vfio-ap");
            if_so(vgpu.model == "vfio-ap" && of_model.nth(1).is_some())
        },
    ),
];

/// The checks for parts that occur twice, once every device has passed (src/conf/domain_validate.c,
/// `virDomainDefHostdevValidate`, `virDomainDefValidateAliases`, `virDomainDefVideoValidate`).
const TWICE: [OfDomain; 4] = [
    OfDomain::define(
        "Hostdev already exists in the domain configuration",
        |_, screens| if_so(screens.settings.has_a_device_twice),
    ),
    OfDomain::define(
        "Only one vgpu device can have 'ramfb' enabled",
        |world, screens| if_so(with_ramfb(world, screens).count() > 1),
    )
    .repairable(),
    OfDomain::define("non unique alias detected: {}", |_, screens| {
        screens.settings.alias_twice.clone()
    }),
    OfDomain::define(
        "Only one primary video device is supported",
        |_, screens| {
            let primary = screens.cards.iter().filter(|card| card.settings.primary);
            if_so(primary.count() > 1)
        },
    ),
];

/// Returns the devices whose attribute asks for ramfb, if this libvirt reads the attribute.
fn with_ramfb<'w>(world: &World<'w>, screens: &'w Screens) -> impl Iterator<Item = &'w Vgpu> {
    let libvirt = world.libvirt;
    let asks = screens.vgpus.iter().filter(|vgpu| vgpu.ramfb_asked);
    asks.filter(move |vgpu| libvirt.takes_display(vgpu.id))
}

/// Returns a refusal of the definition with this message, for a reason that no plan changes.
fn define(message: impl Into<String>) -> Broken {
    Broken {
        refusal: Refusal::new(Stage::Define, About::Domain, message, true),
        repair: false,
    }
}

/// Returns a refusal for each error that this version of libvirt reports.
fn reported<'w>(world: &'w World<'w>, errors: &'w [Misread]) -> impl Iterator<Item = Broken> + 'w {
    let is_reported = |error: &&Misread| world.libvirt.has_check(error.versions);
    let errors = errors.iter().filter(is_reported);
    errors.map(|error| {
        let mut broken = define(error.message.clone());
        broken.refusal.always = error.versions.always;
        broken
    })
}

/// Returns the rules that `things` break: all rules of the first thing, then of the next.
fn each<'w, T>(
    world: &'w World<'w>,
    things: &'w [T],
    about: fn(&T) -> About,
    rules: &'static [Rule<T>],
) -> impl Iterator<Item = Broken> + 'w {
    things.iter().flat_map(move |thing| {
        rules
            .iter()
            .filter_map(move |rule| rule.ask(world, thing, about(thing)))
    })
}

/// Returns all rules that the domain breaks, in the order in which libvirt finds them.
fn broken<'w>(world: &'w World<'w>) -> impl Iterator<Item = Broken> + 'w {
    let screens = world.screens;
    let vgpus = |rules| each(world, &screens.vgpus, |vgpu| About::Device(vgpu.id), rules);
    let frontends = |rules| {
        each(
            world,
            &screens.frontends,
            |f| About::Graphics(f.kind),
            rules,
        )
    };
    // src/conf/domain_validate.c, virDomainVideoDefValidate, for the first card
    let none_beside = screens.none_cards > 0 && screens.none_cards + screens.cards.len() > 1;
    let none_beside = none_beside.then(|| {
        define("a 'none' video type must be the only video device defined for the domain")
    });
    // src/conf/domain_addr.c, virDomainPCIAddressValidate; seen with 9.0
    let no_bus = (screens.lacks_pci && screens.vgpus.iter().any(|vgpu| vgpu.is_pci))
        .then(|| define("No PCI buses available"));
    // src/conf/domain_addr.c, virDomainPCIAddressReserveAddrInternal
    let address_twice = screens.settings.address_twice.as_ref();
    let address_twice = address_twice
        .map(|address| define(format!("Attempted double use of PCI Address {address}")));
    let has_spice = world.has_graphics(GraphicsType::Spice);
    // src/qemu/qemu_validate.c, qemuValidateDomainChrSourceDef
    let chardevs = screens
        .settings
        .spice_chardevs
        .iter()
        .filter(move |_| !has_spice);
    let chardevs = chardevs.map(move |kind| {
        define(format!(
            "chardev '{kind}' not supported without spice graphics"
        ))
    });
    let desktop = screens
        .desktop
        .then(|| define("desktop graphics are not supported with this QEMU"));
    let audio = (screens.settings.audio.iter().any(|kind| kind == "spice") && !has_spice)
        .then(|| define("Spice audio is not supported without spice graphics"));
    let sound = (screens.settings.sound && world.lacks_audio).then(|| Broken {
        refusal: Refusal::new(Stage::Arguments, About::Domain, NO_AUDIO, false),
        repair: true,
    });
    let twice = TWICE.iter().filter_map(move |rule| {
        let ramfb = || with_ramfb(world, screens).nth(1).map(|vgpu| vgpu.id);
        let about = screens.twice().or_else(ramfb);
        rule.ask(world, screens, about.map_or(About::Domain, About::Device))
    });
    reported(world, &screens.settings.misread)
        .chain(vgpus(&HOSTDEV_PARSED))
        .chain(no_bus)
        .chain(address_twice)
        .chain(reported(world, &screens.settings.unfit))
        .chain(vgpus(&HOSTDEV))
        .chain(none_beside)
        .chain(each(world, &screens.cards, |_| About::Domain, &VIDEO))
        .chain(chardevs)
        .chain(frontends(&GRAPHICS))
        .chain(desktop)
        .chain(audio)
        .chain(twice)
        .chain(frontends(&START))
        .chain(frontends(&PROFILE))
        .chain(frontends(&RENDER_NODE))
        .chain(frontends(&PORTS))
        .chain(frontends(&DAEMON))
        .chain(frontends(&ONE_OF_EACH))
        .chain(frontends(&ARGUMENTS))
        .chain(sound)
        .chain(frontends(&CGROUP))
}

/// Returns the possible values of `spice_tls` of qemu.conf. If it is not known, returns both values
/// if the domain depends on it, and else only `false`.
pub(super) fn tls(abilities: &Abilities, screens: &Screens) -> Vec<bool> {
    let cares = screens.frontends.iter().any(|frontend| {
        let settings = &frontend.settings;
        settings.tls_port != 0 || settings.wants_tls()
    });
    match abilities.spice_tls {
        Some(tls) => vec![tls],
        None if cares => vec![true, false],
        None => vec![false],
    }
}

/// Returns whether AppArmor keeps libvirt from starting or using a dbus-daemon for the guest:
/// `false` unless AppArmor is known to deny guests a dbus-daemon, and some graphics need one. Both
/// values for a guest without a profile: its daemon runs, and libvirt 9.0 on Linux 7.2 could talk
/// to it, but 12.8 could not (measured).
pub(super) fn daemon_denied(abilities: &Abilities, screens: &Screens) -> Vec<bool> {
    let is_denied = abilities.guests.dbus_daemon_denied == Some(true);
    match is_denied && screens.frontends.iter().any(Frontend::has_daemon) {
        true if screens.settings.unconfined => vec![true, false],
        is_denied => vec![is_denied],
    }
}

/// Returns the worlds that are possible: one for each combination of the unknown settings' values.
fn worlds<'w>(
    screens: &'w Screens,
    abilities: &'w Abilities,
    libvirt: &'w Libvirt,
) -> impl Iterator<Item = World<'w>> {
    let denied = daemon_denied(abilities, screens);
    tls(abilities, screens).into_iter().flat_map(move |tls| {
        let world = move |denied| World::new(screens, abilities, libvirt, tls, denied);
        denied.clone().into_iter().map(world)
    })
}

/// Returns libvirt's refusal to define or to start the domain in each possible world, as if the
/// host had KVM and all devices; `None` for a world without a refusal.
pub(crate) fn refusals(
    screens: &Screens,
    abilities: &Abilities,
    libvirt: &Libvirt,
) -> Vec<Option<Refusal>> {
    worlds(screens, abilities, libvirt)
        .map(|world| broken(&world).next().map(|broken| broken.refusal))
        .collect()
}

/// Returns whether libvirt refuses the domain in every possible world because of a part that no
/// plan changes.
pub fn is_beyond_repair(screens: &Screens, abilities: &Abilities) -> bool {
    Libvirt::possible(abilities).iter().all(|libvirt| {
        worlds(screens, abilities, libvirt).all(|world| broken(&world).any(|broken| !broken.repair))
    })
}

/// Returns libvirt's refusal because of the present state of the host, if there is one: the host
/// has no KVM, lacks a device, or has no vfio driver on a PCI device without managed='yes'. No
/// change of the screens fixes that, so [`predict`](super::predict) assumes that KVM and the
/// devices are ready.
///
/// Sources for KVM: [`Screens::refused_without_kvm`]. For the devices: src/hypervisor/virhostdev.c,
/// `virHostdevPreparePCIDevicesImpl`, then src/util/virmdev.c, `virMediatedDeviceNew`. Only then
/// does libvirt notice that a PCI device does not exist (src/util/virpci.c, `virPCIDeviceNew`).
pub fn host(screens: &Screens, abilities: &Abilities) -> Option<Refusal> {
    let kvm = screens.refused_without_kvm.as_ref();
    if let Some(words) = kvm.filter(|_| abilities.kvm == Some(false)) {
        return Some(define(words.clone()).refusal);
    }
    let is_absent = |vgpu: &&Vgpu| vgpu.known.here == Some(Here::Absent);
    let is_the_hosts = |vgpu: &&Vgpu| {
        // The device is bound to a driver that is not for vfio, or to none at all.
        let is_here = matches!(vgpu.known.here, Some(Here::Present { .. }));
        let display = &vgpu.known.finding.facts.display;
        is_here && !vgpu.settings.managed && *display == Display::Unknown(Reason::NoDriver)
    };
    let vgpus = || screens.vgpus.iter();
    let pci = |vgpu: &&Vgpu| matches!(vgpu.id, DeviceId::Pci(_));
    let mdev = |vgpu: &&Vgpu| matches!(vgpu.id, DeviceId::Mdev(_));
    let words = |vgpu: &Vgpu| match (vgpu.id, &vgpu.known.here) {
        (DeviceId::Mdev(uuid), _) => {
            format!("device not found: mediated device '{uuid}' not found")
        }
        (DeviceId::Pci(address), Some(Here::Present { .. })) => {
            format!("Unmanaged PCI device {address} must be manually detached from the host")
        }
        (DeviceId::Pci(address), _) => format!(
            "Device {address} not found: could not access /sys/bus/pci/devices/{address}/config: No such file or directory"
        ),
    };
    let first = vgpus()
        .filter(pci)
        .find(is_the_hosts)
        .or_else(|| vgpus().filter(mdev).find(is_absent))
        .or_else(|| vgpus().filter(pci).find(is_absent))?;
    Some(Refusal::new(
        Stage::Devices,
        About::Device(first.id),
        words(first),
        true,
    ))
}

#[cfg(test)]
mod tests;
