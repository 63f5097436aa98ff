//! A domain's emulated video cards.

use super::{Switch, is_yes, owned};
use crate::xml::Element;

/// A `<video>`.
#[derive(Debug, Clone)]
pub struct Video<'d, 'a> {
    /// The element, for edits.
    pub element: Element<'d, 'a>,
    /// The `type` of `<model>`; `None` if libvirt chooses the model.
    pub model: Option<String>,
    /// The settings on which the card's screen and libvirt's checks depend.
    pub settings: VideoSettings,
}

/// The settings of a `<video>` that libvirt checks. `primary`, `vhost_user`, `accel3d` and `heads`
/// also change the card's screens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VideoSettings {
    /// True for `<model primary='yes'>`: libvirt puts this card first.
    pub primary: bool,
    /// True for `<driver name='vhostuser'>`.
    pub vhost_user: bool,
    /// True for `<acceleration accel3d='yes'>`.
    pub accel3d: bool,
    /// True for `<acceleration accel2d='yes'>`.
    pub accel2d: bool,
    /// True if `<acceleration>` names a render node.
    pub rendernode: bool,
    /// The attribute `heads` of the model; 1 if it is missing or can't be read.
    pub heads: u32,
    /// The attribute `blob` of the model (libvirt 9.2).
    pub blob: Option<Switch>,
    /// The attribute `edid` of the model (libvirt 11.7).
    pub edid: Option<Switch>,
    /// The attribute `device` of the model (libvirt 12.5).
    pub device: Option<String>,
    /// The width and height in `<resolution>`, in pixels; 0 for a side that can't be read.
    pub resolution: Option<(u32, u32)>,
    /// The attribute `ram` of the model, in KiB; here and below, 0 where the XML names none.
    pub ram: u64,
    /// The attribute `vram` of the model, in KiB.
    pub vram: u64,
    /// The attribute `vram64` of the model, in KiB.
    pub vram64: u64,
    /// The attribute `vgamem` of the model, in KiB.
    pub vgamem: u64,
    /// True if the card has an `<address>`.
    pub has_address: bool,
}

pub(super) fn video<'d, 'a>(element: Element<'d, 'a>) -> Video<'d, 'a> {
    let model = element.child("model");
    Video {
        element,
        model: model
            .and_then(|model| owned(model.attribute("type")))
            .filter(|model| model != "default"),
        settings: video_settings(element),
    }
}

fn video_settings(video: Element<'_, '_>) -> VideoSettings {
    let model = video.child("model");
    let attribute = |name| model.and_then(|model| owned(model.attribute(name)));
    let switch = |name| attribute(name).and_then(|text| Switch::parse(&text));
    let number = |name| {
        let text = attribute(name);
        text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
    };
    let acceleration = model.and_then(|model| model.child("acceleration"));
    let resolution = model.and_then(|model| model.child("resolution"));
    let driver = video.child("driver");
    VideoSettings {
        primary: is_yes(model, "primary"),
        vhost_user: driver
            .is_some_and(|driver| driver.attribute("name").as_deref() == Some("vhostuser")),
        accel3d: is_yes(acceleration, "accel3d"),
        accel2d: is_yes(acceleration, "accel2d"),
        rendernode: acceleration.is_some_and(|a| a.attribute("rendernode").is_some()),
        heads: attribute("heads")
            .and_then(|text| text.trim().parse().ok())
            .unwrap_or(1),
        blob: switch("blob"),
        edid: switch("edid"),
        device: attribute("device"),
        resolution: resolution.map(|resolution| {
            let side = |name| {
                let text = resolution.attribute(name);
                text.and_then(|text| text.trim().parse().ok()).unwrap_or(0)
            };
            (side("x"), side("y"))
        }),
        ram: number("ram"),
        vram: number("vram"),
        vram64: number("vram64"),
        vgamem: number("vgamem"),
        has_address: video.child("address").is_some(),
    }
}
