//! libvirt's checks of the emulated video cards.

use super::rule::{OfCard, World, if_so};
use crate::domain::Switch;
use crate::predict::screens::Card;

fn is_virtio(card: &Card) -> bool {
    card.model.as_deref() == Some("virtio")
}

/// Returns the model of a card if it is not one of `models`; `None` if it is, or if libvirt
/// chooses the model.
fn other_than<'c>(card: &'c Card, models: &[&str]) -> Option<&'c str> {
    let model = card.model.as_deref()?;
    (!models.contains(&model)).then_some(model)
}

/// Returns whether the card is the first one, or marked as primary.
fn is_primary(world: &World<'_>, card: &Card) -> bool {
    let first = world.screens.cards.first();
    card.settings.primary || first.is_some_and(|first| first.place == card.place)
}

/// The checks of each card (src/conf/domain_validate.c, `virDomainVideoDefValidate`;
/// src/qemu/qemu_validate.c, `qemuValidateDomainDeviceDefVideo`).
pub(super) const VIDEO: [OfCard; 23] = [
    OfCard::define(
        "'vhostuser' driver is only supported with 'virtio' device",
        |_, card| if_so(card.settings.vhost_user && other_than(card, &["virtio"]).is_some()),
    ),
    OfCard::define(
        "unsupported rendernode accel attribute without 'vhostuser'",
        |_, card| if_so(card.settings.rendernode && !card.settings.vhost_user),
    ),
    OfCard::define(
        "video resolution values must be greater than 0",
        |_, card| {
            let empty = |(x, y): (u32, u32)| x == 0 || y == 0;
            if_so(card.settings.resolution.is_some_and(empty))
        },
    ),
    OfCard::define(
        "{} attribute only supported for video type qxl",
        |_, card| {
            let settings = &card.settings;
            other_than(card, &["qxl"])?;
            let sizes = [
                ("ram", settings.ram),
                ("vram64", settings.vram64),
                ("vgamem", settings.vgamem),
            ];
            let mut named = sizes.into_iter().filter(|(_, size)| *size != 0);
            named.next().map(|(name, _)| name.to_owned())
        },
    ),
    OfCard::define("address not supported for video type ramfb", |_, card| {
        if_so(card.settings.has_address && card.model.as_deref() == Some("ramfb"))
    }),
    OfCard::define(
        "video type '{}' does not support blob resources",
        |_, card| {
            card.settings.blob?;
            other_than(card, &["virtio"]).map(str::to_owned)
        },
    )
    .since(&[9, 2]),
    OfCard::define("video type '{}' does not support edid", |_, card| {
        card.settings.edid?;
        other_than(card, &["vga", "bochs", "virtio"]).map(str::to_owned)
    })
    .since(&[11, 7]),
    // No QEMU has any of these models.
    OfCard::define(
        "domain configuration does not support video model '{}'",
        |_, card| {
            let model = card.model.as_deref()?;
            let is_foreign = matches!(model, "xen" | "vbox" | "parallels" | "gop");
            is_foreign.then(|| model.to_owned())
        },
    ),
    OfCard::define(
        "video type '{}' is only valid as primary video device",
        |world, card| {
            let model = other_than(card, &["qxl", "virtio"])?;
            (!is_primary(world, card)).then(|| model.to_owned())
        },
    ),
    OfCard::define(
        "video type '{}' doesn't support multiple 'heads'",
        |_, card| {
            let model = other_than(card, &["qxl", "virtio"])?;
            (card.settings.heads != 1).then(|| model.to_owned())
        },
    ),
    OfCard::define("qemu does not support the accel2d setting", |_, card| {
        if_so(card.settings.accel2d)
    }),
    OfCard::define("value for 'vram' must be less than '4194303'", |_, card| {
        if_so(card.model.as_deref() == Some("qxl") && card.settings.vram > 4_194_303)
    }),
    OfCard::define("value for 'ram' must be less than '4194303'", |_, card| {
        if_so(card.model.as_deref() == Some("qxl") && card.settings.ram > 4_194_303)
    }),
    OfCard::define(
        "value for 'vgamem' must be at least 1 MiB (1024 KiB)",
        |_, card| if_so((1..1024).contains(&card.settings.vgamem)),
    ),
    OfCard::define("value for 'vgamem' must be power of two", |_, card| {
        let vgamem = card.settings.vgamem;
        if_so(vgamem != 0 && !vgamem.is_power_of_two())
    }),
    OfCard::define("model resolution is not supported", |_, card| {
        let other = other_than(card, &["vga", "qxl", "virtio", "bochs"]);
        if_so(card.settings.resolution.is_some() && other.is_some())
    }),
    OfCard::define(
        "value for 'vram' must be at least 1 MiB (1024 KiB)",
        |_, card| {
            let has_rule = matches!(card.model.as_deref(), Some("vga" | "vmvga"));
            if_so(has_rule && (1..1024).contains(&card.settings.vram))
        },
    ),
    // 12.8 does not have this message. 12.5, which brought the frontends below, probably dropped
    // it.
    OfCard::define(
        "3d acceleration is supported only with 'virtio' video device",
        |_, card| {
            let is_its = card.settings.accel3d && !card.settings.vhost_user;
            if_so(is_its && other_than(card, &["virtio"]).is_some())
        },
    )
    .until(&[12, 5]),
    OfCard::define(
        "'blob' support for virtio-gpu devices requires a memfd memory backend",
        |world, card| {
            let is_on = card.settings.blob == Some(Switch::On);
            if_so(is_virtio(card) && is_on && !world.screens.settings.memfd)
        },
    )
    .since(&[9, 2]),
    OfCard::define(
        "Invalid value for attribute 'device' in element 'model': '{}'.",
        |_, card| {
            let device = card.settings.device.as_ref()?;
            (!FRONTENDS.contains(&device.as_str())).then(|| device.clone())
        },
    )
    .since(&[12, 5]),
    OfCard::define(
        "the '{}' virtio video device frontend can be only used as primary video device",
        |world, card| {
            let device = card.settings.device.as_ref()?;
            let is_vga = device.contains("-vga");
            (is_virtio(card) && is_vga && !is_primary(world, card)).then(|| device.clone())
        },
    )
    .since(&[12, 5]),
    OfCard::define(
        "the '{}' virtio video device frontend can be only with enabled 3d acceleration",
        |_, card| {
            let device = card.settings.device.as_ref()?;
            let is_gl = device.ends_with("-gl");
            (is_virtio(card) && is_gl && !card.settings.accel3d).then(|| device.clone())
        },
    )
    .since(&[12, 5]),
    OfCard::define(
        "the '{}' virtio video device doesn't match the selected vhostuser backend",
        |_, card| {
            let device = card.settings.device.as_ref()?;
            let is_its = device.starts_with("vhost-user-");
            (is_virtio(card) && is_its != card.settings.vhost_user).then(|| device.clone())
        },
    )
    .since(&[12, 5]),
];

/// The values of `device` in `<model type='virtio' device=…>`.
const FRONTENDS: [&str; 6] = [
    "virtio-vga",
    "virtio-gpu",
    "virtio-vga-gl",
    "virtio-gpu-gl",
    "vhost-user-vga",
    "vhost-user-gpu",
];
