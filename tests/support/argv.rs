//! Compares a QEMU command line that libvirt's tests expect with the domain that it is for.

use gfxplane::device::id::DeviceId;
use gfxplane::domain::{Domain, Graphics, GraphicsType, Listen, Reach};
use gfxplane::predict::screens::Screens;
use serde_json::Value;

/// The parts of a command line that concern screens.
#[derive(Debug, Default)]
pub(crate) struct Read {
    /// The options `-spice`, `-vnc` and `-display`, each with its value.
    frontends: Vec<(String, String)>,
    /// The emulated cards, in their order.
    cards: Vec<Value>,
    /// The vfio devices, in their order.
    devices: Vec<Value>,
}

/// QEMU's devices for each of libvirt's models.
const MODELS: [(&str, &[&str]); 8] = [
    ("vga", &["VGA"]),
    ("cirrus", &["cirrus-vga"]),
    ("qxl", &["qxl-vga", "qxl"]),
    ("vmvga", &["vmware-svga"]),
    ("bochs", &["bochs-display"]),
    ("ramfb", &["ramfb"]),
    (
        "virtio",
        &[
            "virtio-vga",
            "virtio-vga-gl",
            "virtio-gpu-pci",
            "virtio-gpu-gl-pci",
            "virtio-gpu-ccw",
            "virtio-gpu-device",
            "vhost-user-vga",
            "vhost-user-gpu-pci",
        ],
    ),
    ("xen", &[]),
];

impl Read {
    /// Reads a `*.args` file, which has one option a line, quoted for a shell.
    pub(crate) fn of_args(text: &str) -> Self {
        let words = words(text);
        let mut read = Read::default();
        for pair in words.windows(2) {
            let [option, value] = pair else { continue };
            match option.as_str() {
                "-spice" | "-vnc" | "-display" if value != "none" || option == "-vnc" => {
                    read.frontends.push((option.clone(), value.clone()));
                }
                "-device" => {
                    // Devices that are not in JSON are the user's own.
                    let Ok(device) = serde_json::from_str::<Value>(value) else {
                        continue;
                    };
                    let driver = device["driver"].as_str().unwrap_or_default().to_owned();
                    if MODELS.iter().any(|(_, all)| all.contains(&driver.as_str())) {
                        read.cards.push(device);
                    } else if driver.starts_with("vfio-") {
                        read.devices.push(device);
                    }
                }
                _ => {}
            }
        }
        read
    }

    /// Returns the points where our reading of the domain differs from libvirt's.
    pub(crate) fn differences(&self, domain: &Domain<'_, '_>, screens: &Screens) -> Vec<String> {
        let mut found = Vec::new();
        self.frontends_of(domain, screens, &mut found);
        self.cards_of(screens, &mut found);
        self.devices_of(domain, screens, &mut found);
        found
    }

    fn frontends_of(&self, domain: &Domain<'_, '_>, screens: &Screens, found: &mut Vec<String>) {
        let ours: Vec<(&Graphics<'_, '_>, Reach)> = screens
            .frontends
            .iter()
            .filter(|frontend| frontend.kind != GraphicsType::Rdp)
            .filter_map(|frontend| Some((&domain.graphics[frontend.place?], frontend.reach)))
            .collect();
        if ours.len() != self.frontends.len() {
            found.push(format!("{:?} for {} graphics", self.frontends, ours.len()));
            return;
        }
        for ((graphics, reach), (option, value)) in ours.iter().zip(&self.frontends) {
            if let Some(difference) = frontend(graphics, *reach, option, value) {
                found.push(format!("{option} {value}: {difference}"));
            }
        }
    }

    fn cards_of(&self, screens: &Screens, found: &mut Vec<String>) {
        let drivers: Vec<&str> = self
            .cards
            .iter()
            .map(|card| card["driver"].as_str().unwrap_or_default())
            .collect();
        let ours: Vec<Option<&str>> = screens.cards.iter().map(|c| c.model.as_deref()).collect();
        if drivers.len() != ours.len() {
            found.push(format!("{drivers:?} for {ours:?}"));
            return;
        }
        for (driver, card) in drivers.iter().zip(&screens.cards) {
            let expected = MODELS
                .iter()
                .find(|(model, _)| card.model.as_deref() == Some(model));
            if expected.is_some_and(|(_, drivers)| !drivers.contains(driver)) {
                found.push(format!("{drivers:?} for {ours:?}"));
            }
            if card.gl != driver.contains("-gl") {
                found.push(format!("{driver} for a card with gl: {}", card.gl));
            }
            if card.settings.vhost_user != driver.starts_with("vhost-user") {
                found.push(format!(
                    "{driver} for a card of vhost-user: {}",
                    card.settings.vhost_user
                ));
            }
        }
    }

    fn devices_of(&self, domain: &Domain<'_, '_>, screens: &Screens, found: &mut Vec<String>) {
        // Interfaces may be vfio devices, too, but are no hostdevs.
        let interfaces = domain.devices.into_iter().flat_map(|d| d.children());
        let interfaces = interfaces
            .filter(|child| child.name() == "interface")
            .count();
        if self.devices.len() < screens.vgpus.len()
            || self.devices.len() > screens.vgpus.len() + interfaces
        {
            found.push(format!(
                "{} vfio devices for {}",
                self.devices.len(),
                screens.vgpus.len()
            ));
        }
        for (vgpu, hostdev) in screens.vgpus.iter().zip(&domain.hostdevs) {
            let of_it = |device: &&Value| match vgpu.id {
                DeviceId::Mdev(uuid) => device["sysfsdev"]
                    .as_str()
                    .is_some_and(|path| path.ends_with(&uuid.to_string())),
                DeviceId::Pci(address) => device["host"] == address.to_string(),
            };
            let Some(device) = self.devices.iter().find(of_it) else {
                found.push(format!("nothing for {}", vgpu.id));
                continue;
            };
            let driver = device["driver"].as_str().unwrap_or_default();
            let display = device.get("display").is_some_and(|value| value == "on");
            let ramfb = device.get("ramfb").is_some_and(|value| value == true);
            if display != vgpu.display || ramfb != vgpu.ramfb {
                found.push(format!(
                    "{device} for display {} and ramfb {}",
                    vgpu.display, vgpu.ramfb
                ));
            }
            if vgpu.is_pci != driver.starts_with("vfio-pci") {
                found.push(format!("{driver} for model {}", hostdev.model));
            }
            if device["id"] != hostdev.alias.as_str() {
                found.push(format!("{} for alias {}", device["id"], hostdev.alias));
            }
        }
    }
}

/// Returns what is wrong with our reading of a `<graphics>`.
fn frontend(
    graphics: &Graphics<'_, '_>,
    reach: Reach,
    option: &str,
    value: &str,
) -> Option<String> {
    let kind = graphics.kind?;
    // libvirt doubles a comma that is part of a value.
    let escaped = value.replace(",,", "\u{1}");
    let parts: Vec<String> = escaped
        .split(',')
        .map(|part| part.replace('\u{1}', ","))
        .collect();
    let of = |name: &str| {
        let found = parts
            .iter()
            .find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
        found.map(str::to_owned)
    };
    let first = parts.first().map(String::as_str).unwrap_or_default();
    let (expected, is_gl) = match kind {
        GraphicsType::Spice => ("-spice", graphics.gl),
        GraphicsType::Vnc => ("-vnc", false),
        _ => ("-display", graphics.gl && kind != GraphicsType::EglHeadless),
    };
    if option != expected || option == "-display" && first != kind.word() {
        return Some(format!("for {kind}"));
    }
    if is_gl != (of("gl").as_deref() == Some("on")) {
        return Some(format!("for gl {is_gl}"));
    }
    let node = of("rendernode");
    if graphics.rendernode.is_some() && node != graphics.rendernode {
        return Some(format!("for render node {:?}", graphics.rendernode));
    }
    if (of("p2p").as_deref() == Some("on")) != graphics.p2p {
        return Some(format!("for p2p {}", graphics.p2p));
    }
    let heard = match kind {
        GraphicsType::Spice => match (of("unix"), of("addr")) {
            (Some(_), _) => Listen::Socket,
            (None, None) => Listen::None,
            (None, address) => Listen::Address(address),
        },
        GraphicsType::Vnc if first == "none" => Listen::None,
        GraphicsType::Vnc if first.starts_with("vnc=unix:") => Listen::Socket,
        GraphicsType::Vnc => {
            let address = first.rsplit_once(':').map_or(first, |(address, _)| address);
            Listen::Address(Some(address.trim_matches(['[', ']']).to_owned()))
        }
        _ => Listen::None,
    };
    let is_so = match (&heard, &graphics.listen) {
        // libvirt chooses the network's address and the default address.
        (Listen::Address(_), Listen::Network) => true,
        (Listen::Address(_), Listen::Address(None)) => reach != Reach::Local,
        (Listen::Socket, Listen::Address(None)) => reach == Reach::Local,
        (heard, ours) => heard == ours,
    };
    (!is_so).then(|| format!("for {:?}", graphics.listen))
}

/// Returns the words of a shell script of one command. Its variables come first and do no harm.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut letters = text.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\'' => {
                let word = word.get_or_insert_default();
                word.extend(letters.by_ref().take_while(|letter| *letter != '\''));
            }
            '"' => {
                let word = word.get_or_insert_default();
                word.extend(letters.by_ref().take_while(|letter| *letter != '"'));
            }
            '\\' => match letters.next() {
                Some('\n') | None => {}
                Some(letter) => word.get_or_insert_default().push(letter),
            },
            _ if letter.is_whitespace() => words.extend(word.take()),
            _ => word.get_or_insert_default().push(letter),
        }
    }
    words.extend(word);
    words
}
