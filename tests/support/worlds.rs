//! Surroundings that no recorded host has: whatever may be known of a device, with any versions and
//! any policy.

use std::collections::BTreeSet;

use gfxplane::device::evidence::{Evidence, Method, resolve};
use gfxplane::device::facts::{DeviceInfo, Display, Edid, Facts, HotReset, OpRegion, Reason};
use gfxplane::device::id::DeviceId;
use gfxplane::device::version::Version;
use gfxplane::domain::Domain;
use gfxplane::domain::policy::{
    BootDisplay, Consent, Displays, EmulatedVideo, Guest, Policy, Unknown, Wishes,
};
use gfxplane::plan::fixup::Surroundings;
use gfxplane::predict::abilities::{Abilities, Guests, RenderNodes};
use gfxplane::predict::screens::Known;

/// A world.
#[derive(Debug, Clone)]
pub(crate) struct World {
    /// What is known of its devices, by the last digit of their names.
    pub(crate) devices: Vec<Known>,
    pub(crate) abilities: Abilities,
}

impl Surroundings for World {
    fn known(&self, device: DeviceId) -> Known {
        let number = match device {
            DeviceId::Mdev(uuid) => usize::from(uuid.as_bytes()[15]),
            DeviceId::Pci(address) => {
                usize::from(address.device) * 8 + usize::from(address.function)
            }
        };
        self.devices[number % self.devices.len()].clone()
    }

    fn abilities(&self, _domain: &Domain<'_, '_>) -> Abilities {
        self.abilities.clone()
    }
}

/// How many [`known`] there are.
pub(crate) const KINDS: usize = 16;

/// One of all kinds of knowledge of a device.
pub(crate) fn known(kind: usize) -> Known {
    let dmabuf = || Display::from_answers(true, false);
    let region = || Display::from_answers(false, true);
    let unknown = |reason| Display::Unknown(reason);
    let (display, method) = match kind % KINDS {
        0 | 1 => (dmabuf(), Method::Probe),
        2 | 3 => (region(), Method::Probe),
        4 => (Display::NONE, Method::Probe),
        5 => (Display::from_answers(true, true), Method::Probe),
        6 => (unknown(Reason::Untrusted), Method::Probe),
        7 => (unknown(Reason::InUse), Method::Probe),
        8 => (unknown(Reason::TimedOut), Method::Probe),
        9 => (dmabuf(), Method::Kernel),
        10 => (dmabuf(), Method::Qemu),
        11 => (region(), Method::Sibling),
        12 => (dmabuf(), Method::Rule),
        13 => (region(), Method::Rule),
        14 => (Display::NONE, Method::Rule),
        _ => {
            return Known {
                finding: resolve(Vec::new(), Reason::NotProbed),
                render_node: None,
                here: None,
            };
        }
    };
    let mut facts = Facts::of(display);
    // The even ones have told all of themselves.
    let is_whole = kind.is_multiple_of(2);
    if method == Method::Probe && is_whole {
        facts.device = Some(DeviceInfo {
            flags: 2,
            num_regions: 10,
            num_irqs: 5,
            regions: Vec::new(),
            irqs: Vec::new(),
            hot_reset: HotReset::Devices(1),
            edid: None,
        });
    }
    if kind.is_multiple_of(KINDS) {
        facts.edid = Some(Edid {
            max_xres: 1920,
            max_yres: 1200,
        });
        facts.opregion = Some(OpRegion { size: 8192 });
    }
    Known {
        finding: resolve(vec![(facts, Evidence::by(method))], Reason::NotProbed),
        render_node: is_whole
            .then(|| format!("/dev/dri/by-path/pci-0000:0{}:02.0-render", kind % 3)),
        here: None,
    }
}

/// What a few bytes stand for: a world, the host's policy, and somebody's wishes. Any bytes will do,
/// and those that are missing are 0.
pub(crate) fn of_bytes(bytes: &[u8]) -> (World, Policy, Wishes) {
    let byte = |place: usize| usize::from(bytes.get(place).copied().unwrap_or_default());
    let pick = |place: usize, number: usize| byte(place) % number;
    let abilities = Abilities {
        qemu: [
            Some(&[10, 0, 13][..]),
            Some(&[7, 2, 22]),
            Some(&[8, 2, 2]),
            Some(&[9, 0]),
            Some(&[10, 1, 1]),
            Some(&[11, 1, 3]),
            None,
        ][pick(0, 7)]
        .map(Version::of),
        libvirt: [
            Some(&[11, 3, 0][..]),
            Some(&[8, 0, 0]),
            Some(&[9, 0, 0]),
            Some(&[10, 3, 0]),
            Some(&[12, 8, 0]),
            None,
        ][pick(1, 6)]
        .map(Version::of),
        frontends: [
            None,
            Some(&["vnc", "spice", "spice-gl", "dbus", "egl-headless", "sdl"][..]),
            Some(&["vnc", "dbus", "egl-headless"]),
            Some(&["vnc", "spice"]),
        ][pick(2, 4)]
        .map(|words| words.iter().map(ToString::to_string).collect()),
        spice_gl_over_tcp: [None, Some(true), Some(false)][pick(3, 3)],
        spice_tls: [None, Some(true), Some(false), None][byte(3) >> 5 & 3],
        spice_listen: [None, Some("0.0.0.0".to_owned())][pick(4, 2)].clone(),
        vnc_listen: [None, Some("0.0.0.0".to_owned())][pick(5, 2)].clone(),
        spice_auto_unix_socket: [None, Some(true)][usize::from(byte(4) & 12 == 12)],
        render_nodes: [None, Some(RenderNodes::Missing)][usize::from(byte(3) & 24 == 24)],
        vnc_auto_unix_socket: [None, Some(true)][usize::from(byte(5) & 12 == 12)],
        own_dev: [None, Some(true)][usize::from(byte(5) & 48 == 48)],
        kvm: None,
        guests: Guests {
            dbus_daemon_denied: [None, Some(true)][usize::from(byte(5) & 192 == 192)],
            apparmor: [None, Some(true)][usize::from(byte(4) & 48 == 48)],
            x_servers: [None, Some(BTreeSet::new())][usize::from(byte(4) & 192 == 192)].clone(),
            x_denied: None,
            first_port: [None, Some(1024)][usize::from(byte(3) & 3 == 3)],
            dri: [None, Some(BTreeSet::new())][usize::from(byte(3) & 12 == 12)].clone(),
        },
    };
    let displays = [
        Displays::Auto,
        Displays::Full,
        Displays::Asked,
        Displays::Off,
    ];
    let consents = |place| {
        let all = [Consent::Remote, Consent::Video];
        let given = byte(place);
        let is_given = |(bit, _): &(usize, Consent)| given & (1 << bit) != 0;
        let given = all.into_iter().enumerate().filter(is_given);
        given.map(|(_, consent)| consent).collect()
    };
    let policy = Policy {
        display: displays[pick(6, 4)],
        unknown: [Unknown::Keep, Unknown::Off][pick(7, 2)],
        video: [EmulatedVideo::Keep, EmulatedVideo::None][pick(8, 2)],
        boot_display: [BootDisplay::Keep, BootDisplay::Ramfb][pick(9, 2)],
        guest: [None, Some(Guest::Windows), Some(Guest::Other)][pick(10, 3)],
        consent: consents(11),
        ..Policy::default()
    };
    let wishes = Wishes {
        display: [None, None, Some(Displays::Full), Some(Displays::Asked)][pick(12, 4)],
        unknown: [None, Some(Unknown::Off)][pick(13, 2)],
        video: [None, Some(EmulatedVideo::None)][pick(14, 2)],
        boot_display: None,
        guest: None,
        consent: [None, Some(consents(15))][pick(15, 3) % 2].clone(),
        trust_rules: byte(15) & 8 != 0,
        no_display: byte(15) & 48 == 48,
    };
    let devices = (16..20).map(|place| known(byte(place))).collect();
    (World { devices, abilities }, policy, wishes)
}
