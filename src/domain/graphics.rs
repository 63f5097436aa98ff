//! A domain's graphics, and where they listen.

use serde::{Deserialize, Serialize};

use super::{is_yes, owned};
use crate::device::id::{display_as_serde, from_word};
use crate::xml::Element;

/// The distance from which a viewer can reach graphics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reach {
    /// Without a network: over a socket, a file descriptor, or the host's own screen.
    Local,
    /// Over TCP, but only from this host.
    Loopback,
    /// Over TCP, also from other hosts.
    Remote,
}

/// The `type` of a `<graphics>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GraphicsType {
    /// `spice`
    Spice,
    /// `vnc`
    Vnc,
    /// `dbus` (libvirt 8.4)
    Dbus,
    /// `rdp` (libvirt 11.1 for QEMU, served by qemu-rdp from a dbus display)
    Rdp,
    /// `egl-headless`
    EglHeadless,
    /// `sdl`
    Sdl,
    /// `gtk`: a display of QEMU's own, which only the user's arguments can add. libvirt has no
    /// such graphics.
    #[serde(skip_deserializing)]
    Gtk,
}

impl GraphicsType {
    /// Returns the word that XML uses for this type.
    pub fn word(self) -> &'static str {
        match self {
            GraphicsType::Spice => "spice",
            GraphicsType::Vnc => "vnc",
            GraphicsType::Dbus => "dbus",
            GraphicsType::Rdp => "rdp",
            GraphicsType::EglHeadless => "egl-headless",
            GraphicsType::Sdl => "sdl",
            GraphicsType::Gtk => "gtk",
        }
    }
}

display_as_serde!(GraphicsType);

/// A `<graphics>`.
#[derive(Debug, Clone)]
pub struct Graphics<'d, 'a> {
    /// The element, for edits.
    pub element: Element<'d, 'a>,
    /// The type; `None` for a type that QEMU does not have (`desktop`) or that gfxplane does not
    /// know.
    pub kind: Option<GraphicsType>,
    /// True for `<gl enable='yes'>`, and always for egl-headless.
    pub gl: bool,
    /// The attribute `rendernode` of `<gl>`.
    pub rendernode: Option<String>,
    /// The place where the graphics listen.
    pub listen: Listen,
    /// For dbus: true for `p2p='yes'`.
    pub p2p: bool,
    /// The settings that libvirt's checks depend on.
    pub settings: GraphicsSettings,
}

/// The settings of a `<graphics>` that libvirt checks, and that don't change what it shows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GraphicsSettings {
    /// The `type` of each `<listen>`, and whether it has the attribute `network`. Empty if there is
    /// no `<listen>`; libvirt then adds one.
    pub listens: Vec<(String, bool)>,
    /// The attribute `port`; 0 if it is missing or with `autoport`, -1 if libvirt chooses only this
    /// port.
    pub port: i32,
    /// True if libvirt chooses `port`, and for spice also `tls_port`.
    pub autoport: bool,
    /// For spice: the attribute `tlsPort`; 0 and -1 as for `port`.
    pub tls_port: i32,
    /// For vnc: the attribute `websocket`; 0 if it is missing, -1 if libvirt chooses this port.
    pub websocket: i32,
    /// For spice: the attribute `defaultMode`.
    pub default_mode: SpiceMode,
    /// For spice: the `mode` of each `<channel>`.
    pub channels: Vec<SpiceMode>,
    /// For dbus: true if the XML has the address of a bus.
    pub has_address: bool,
    /// For sdl: the attribute `display`, the X display that QEMU opens.
    pub x_display: Option<String>,
    /// For sdl: the attribute `xauth`, the path of a file.
    pub xauth: Option<String>,
    /// For vnc: the length of `passwd` in bytes; 0 if there is none.
    pub password: usize,
    /// For rdp: true for `replaceUser='yes'`.
    pub replace_user: bool,
    /// For rdp: true for `multiUser='yes'`.
    pub multi_user: bool,
}

/// The protection of a spice channel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum SpiceMode {
    /// With or without TLS.
    #[default]
    Any,
    /// Only with TLS.
    Secure,
    /// Only without TLS.
    Insecure,
}

impl<'d, 'a> Graphics<'d, 'a> {
    /// Returns the `<channel>` elements with `mode='secure'`.
    pub(crate) fn secure_channels(&self) -> impl Iterator<Item = Element<'d, 'a>> {
        let is_secure = |child: &Element<'d, 'a>| {
            child.name() == "channel" && child.attribute("mode").as_deref() == Some("secure")
        };
        self.element.children().filter(is_secure)
    }
}

impl GraphicsSettings {
    /// Returns whether `defaultMode` or the `mode` of a channel is `secure`.
    pub(crate) fn wants_tls(&self) -> bool {
        self.default_mode == SpiceMode::Secure || self.channels.contains(&SpiceMode::Secure)
    }
}

/// The place where a `<graphics>` listens. libvirt uses only its first `<listen>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// TCP on this address. `None`: the address in `qemu.conf`, 127.0.0.1 by default (libvirt
    /// src/qemu/qemu_conf.c, `virQEMUDriverConfigNew`).
    Address(Option<String>),
    /// TCP on the address of one of libvirt's networks.
    Network,
    /// A UNIX socket.
    Socket,
    /// No place: `virsh` and viewers pass QEMU a file descriptor, or the type never listens (sdl).
    None,
}

/// The place where graphics listen if they name no address, according to `qemu.conf`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ListenDefault<'a> {
    /// The address; `None` if it is not known, so that it may be any.
    pub address: Option<&'a str>,
    /// True if libvirt uses a UNIX socket instead, whatever the address (libvirt
    /// src/qemu/qemu_process.c, `qemuProcessGraphicsSetupListen`).
    pub socket: bool,
}

impl Listen {
    /// Returns the distance from which a viewer can reach graphics that listen at this place. An
    /// address counts as remote if it is not known, or is a host name other than `localhost`.
    pub fn reach(&self, default: ListenDefault<'_>) -> Reach {
        let address = match self {
            Listen::None | Listen::Socket => return Reach::Local,
            Listen::Network => return Reach::Remote,
            Listen::Address(None) if default.socket => return Reach::Local,
            Listen::Address(address) => address.as_deref().or(default.address),
        };
        let Some(address) = address else {
            return Reach::Remote;
        };
        let loopback = match address.parse::<std::net::IpAddr>() {
            Ok(ip) => ip.is_loopback(),
            Err(_) => address == "localhost",
        };
        if loopback {
            Reach::Loopback
        } else {
            Reach::Remote
        }
    }
}

pub(super) fn graphics<'d, 'a>(element: Element<'d, 'a>) -> Graphics<'d, 'a> {
    let kind = element.attribute("type").and_then(|word| from_word(&word));
    let gl = element.child("gl");
    Graphics {
        element,
        kind,
        gl: kind == Some(GraphicsType::EglHeadless) || is_yes(gl, "enable"),
        rendernode: gl.and_then(|gl| owned(gl.attribute("rendernode"))),
        listen: listen(element, kind),
        p2p: is_yes(Some(element), "p2p"),
        settings: graphics_settings(element, kind),
    }
}

/// Reads the settings as libvirt reads them in an inactive definition (src/conf/domain_conf.c,
/// `virDomainGraphicsDefParseXMLVNC` and the functions beside it).
fn graphics_settings(graphics: Element<'_, '_>, kind: Option<GraphicsType>) -> GraphicsSettings {
    let number = |name| {
        let text = graphics.attribute(name)?;
        text.trim().parse::<i32>().ok()
    };
    let mode = |text: Option<std::borrow::Cow<'_, str>>| match text.as_deref() {
        Some("secure") => SpiceMode::Secure,
        Some("insecure") => SpiceMode::Insecure,
        _ => SpiceMode::Any,
    };
    let named = |name| {
        graphics
            .children()
            .filter(move |child| child.name() == name)
    };
    let (port, tls_port) = (number("port"), number("tlsPort").unwrap_or(0));
    let said = graphics.attribute("autoport");
    let autoport = match (kind, said.as_deref()) {
        (_, Some("yes")) => true,
        (Some(GraphicsType::Spice), _) => port == Some(-1) && tls_port == -1,
        (_, Some("no")) => false,
        _ => matches!(port, None | Some(-1)),
    };
    let chosen = |port| if autoport { 0 } else { port };
    GraphicsSettings {
        listens: named("listen")
            .map(|listen| {
                let kind = owned(listen.attribute("type")).unwrap_or_default();
                (kind, listen.attribute("network").is_some())
            })
            .collect(),
        port: chosen(port.unwrap_or(0)),
        autoport,
        tls_port: chosen(tls_port),
        websocket: number("websocket").unwrap_or(0),
        default_mode: mode(graphics.attribute("defaultMode")),
        channels: named("channel")
            .map(|channel| mode(channel.attribute("mode")))
            .collect(),
        has_address: graphics.attribute("address").is_some(),
        x_display: owned(graphics.attribute("display")),
        xauth: owned(graphics.attribute("xauth")),
        password: graphics.attribute("passwd").map_or(0, |text| text.len()),
        replace_user: is_yes(Some(graphics), "replaceUser"),
        multi_user: is_yes(Some(graphics), "multiUser"),
    }
}

fn listen(graphics: Element<'_, '_>, kind: Option<GraphicsType>) -> Listen {
    let first = graphics.child("listen");
    let attribute = |name: &str| owned(graphics.attribute(name)).filter(|text| !text.is_empty());
    let address = |listen: Option<Element<'_, '_>>| {
        listen
            .and_then(|listen| owned(listen.attribute("address")))
            .filter(|text| !text.is_empty())
            .or_else(|| attribute("listen"))
    };
    let declared = match first
        .and_then(|listen| owned(listen.attribute("type")))
        .as_deref()
    {
        Some("none") => Listen::None,
        Some("socket") => Listen::Socket,
        Some("network") => Listen::Network,
        // An old VNC element has the socket as an attribute.
        _ if kind == Some(GraphicsType::Vnc) && attribute("socket").is_some() => Listen::Socket,
        _ => Listen::Address(address(first)),
    };
    // A spice that listens on an address but asks for no port listens nowhere (libvirt
    // src/conf/domain_postparse.c, virDomainDefPostParseGraphics). With -1, libvirt chooses a port.
    let port = |name: &str| {
        attribute(name)
            .and_then(|text| text.trim().parse::<i32>().ok())
            .is_some_and(|port| port != 0)
    };
    let asks_for_a_port =
        port("port") || port("tlsPort") || attribute("autoport").as_deref() == Some("yes");
    match (kind, &declared) {
        (Some(GraphicsType::Spice), Listen::Address(_)) if !asks_for_a_port => Listen::None,
        (Some(GraphicsType::Spice | GraphicsType::Vnc | GraphicsType::Rdp), _) => declared,
        _ => Listen::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::tests::with;

    #[test]
    fn what_graphics_listen_on() {
        for row in [
            "<graphics type='spice'/> None",
            "<graphics type='spice' autoport='yes'/> Address(None)",
            "<graphics type='spice' port='-1'/> Address(None)",
            "<graphics type='spice' port='0'/> None",
            "<graphics type='spice' tlsPort='5901' listen='::'/> Address(Some(\"::\"))",
            "<graphics type='spice' port='1' listen='a'><listen type='address' address='b'/></graphics> Address(Some(\"b\"))",
            "<graphics type='spice' autoport='yes'><listen type='none'/></graphics> None",
            "<graphics type='spice'><listen type='network' network='n'/></graphics> Network",
            "<graphics type='vnc'/> Address(None)",
            "<graphics type='vnc' socket='/s'/> Socket",
            "<graphics type='vnc'><listen type='socket'/></graphics> Socket",
            "<graphics type='dbus'/> None",
        ] {
            let (graphics, expected) = row.rsplit_once(' ').unwrap();
            let seen = with(graphics, |domain| {
                format!("{:?}", domain.graphics[0].listen)
            });
            assert_eq!(seen, expected, "{graphics}");
        }
    }

    #[test]
    fn from_where_it_is_reached() {
        for (address, default, expected) in [
            (Some("127.0.0.1"), None, Reach::Loopback),
            (Some("127.1.2.3"), None, Reach::Loopback),
            (Some("::1"), None, Reach::Loopback),
            (Some("localhost"), None, Reach::Loopback),
            (Some("0.0.0.0"), Some("127.0.0.1"), Reach::Remote),
            (Some("gateway"), None, Reach::Remote),
            (None, Some("127.0.0.1"), Reach::Loopback),
            (None, Some("::"), Reach::Remote),
            (None, None, Reach::Remote),
        ] {
            let listen = Listen::Address(address.map(str::to_owned));
            let by_conf = |socket| ListenDefault {
                address: default,
                socket,
            };
            let reach = listen.reach(by_conf(false));
            assert_eq!(reach, expected, "{address:?} {default:?}");
            let with_sockets = match address {
                Some(_) => expected,
                None => Reach::Local,
            };
            assert_eq!(listen.reach(by_conf(true)), with_sockets, "{address:?}");
        }
        let loopback = ListenDefault {
            address: Some("127.0.0.1"),
            socket: true,
        };
        assert_eq!(Listen::Network.reach(loopback), Reach::Remote);
        assert_eq!(Listen::Socket.reach(ListenDefault::default()), Reach::Local);
    }
}
