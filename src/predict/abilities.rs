//! The known abilities of a host's QEMU and libvirt.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::device::version::Version;
use crate::domain::{GraphicsType, ListenDefault};

/// The abilities of QEMU and libvirt. An unknown ability does not count as missing: whatever
/// depends on it is in doubt.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Abilities {
    /// QEMU's version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub qemu: Option<Version>,
    /// The version of the libvirt that runs the domain.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub libvirt: Option<Version>,
    /// The frontends that libvirt accepts with this QEMU and whose modules are installed: `vnc`,
    /// `spice`, `dbus`, `egl-headless`, `sdl`, `rdp`, and `spice-gl` for OpenGL in spice. A
    /// distribution may put any of them into a separate package.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub frontends: Option<BTreeSet<String>>,
    /// True if spice in this QEMU can have OpenGL over TCP: QEMU 10.1 or later, built with
    /// spice-server 0.15.3 or later. A build with an older spice-server contains the message of the
    /// refusal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spice_gl_over_tcp: Option<bool>,
    /// `spice_listen` of qemu.conf: the address where spice listens unless the domain names one.
    /// 127.0.0.1 if qemu.conf does not set it; `None` if qemu.conf can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spice_listen: Option<String>,
    /// `vnc_listen` of qemu.conf: the address where VNC listens unless the domain names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnc_listen: Option<String>,
    /// `spice_auto_unix_socket` of qemu.conf: true if spice without an address uses a UNIX socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spice_auto_unix_socket: Option<bool>,
    /// `vnc_auto_unix_socket` of qemu.conf: true if VNC without an address uses a UNIX socket.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vnc_auto_unix_socket: Option<bool>,
    /// `spice_tls` of qemu.conf: true if spice has a TLS port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub spice_tls: Option<bool>,
    /// True if each guest has its own `/dev` with only the devices in its XML. False if qemu.conf
    /// removes `mount` from `namespaces`, and `None` if qemu.conf can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub own_dev: Option<bool>,
    /// True if the host has KVM (`/dev/kvm`); `None` if nobody has looked. The daemon and the hook
    /// don't look, because a sandbox may hide the device from them, and libvirt makes its own check
    /// before it runs a hook.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kvm: Option<bool>,
    /// The result of libvirt's search for a render node, for graphics with OpenGL that name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub render_nodes: Option<RenderNodes>,
    /// The limits that the host sets for its guests.
    #[serde(flatten)]
    pub guests: Guests,
}

/// The limits that a host sets for its guests. An unknown limit does not count against a domain.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Guests {
    /// The names of files below the host's `/dev/dri`, such as `renderD128` and `by-path/…`. `None`
    /// if `/dev/dri` does not exist.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dri: Option<BTreeSet<String>>,
    /// True if libvirt gives each guest an AppArmor profile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apparmor: Option<bool>,
    /// The numbers of this host's X servers that have a socket, such as 0 for `/tmp/.X11-unix/X0`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x_servers: Option<BTreeSet<u32>>,
    /// True if AppArmor keeps a guest from the sockets of X servers: if AppArmor checks UNIX
    /// sockets (Linux 6.17 and later, with policies for such checks), and the guests' profile has
    /// no rule for X's sockets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub x_denied: Option<bool>,
    /// The first TCP port on which a guest's QEMU may listen without capabilities: 1024, or the
    /// kernel's setting `net.ipv4.ip_unprivileged_port_start`. `None` if qemu.conf leaves QEMU its
    /// capabilities, makes QEMU run as root, or can't be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_port: Option<u16>,
    /// True if AppArmor keeps libvirt from starting a dbus-daemon for a guest, as it does on
    /// Debian. A domain with graphics of type dbus on a bus then does not start. `None` if that is
    /// not known, as under SELinux.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dbus_daemon_denied: Option<bool>,
}

/// The result of libvirt's search for a render node (src/util/virutil.c,
/// `virHostGetDRMRenderNode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RenderNodes {
    /// There is at least one render node.
    Present,
    /// `/dev/dri` exists and has no render node.
    Missing,
    /// There is no `/dev/dri`.
    NoDirectory,
}

/// libvirt's error when AppArmor denies a guest a dbus-daemon (seen with 11.3 and 12.8).
pub(crate) const DBUS_DAEMON_DIED: &str = "dbus-daemon died and reported: libvirt: error : cannot execute binary /usr/bin/dbus-daemon: Permission denied";

/// The command that loads KVM.
pub(crate) const LOAD_KVM: &str = "sudo modprobe -a kvm_intel kvm_amd # if neither can be loaded, switch on virtualization in the firmware";

/// The command that makes AppArmor allow guests a dbus-daemon (docs/qemu-and-libvirt.md says how
/// the command was tried).
pub(crate) const ALLOW_DBUS_DAEMON: &str = r"printf '%s\n' '/usr/bin/dbus-daemon rmix,' 'owner /{,var/}run/libvirt/qemu/dbus/* rwk,' | sudo install -D -m 644 /dev/stdin /etc/apparmor.d/abstractions/libvirt-qemu.d/dbus";

impl RenderNodes {
    /// Returns libvirt's refusal of graphics that need a render node; `None` if the host has one.
    pub(crate) fn refusal(self) -> Option<&'static str> {
        match self {
            RenderNodes::Present => None,
            RenderNodes::Missing => Some("No DRM render nodes available"),
            RenderNodes::NoDirectory => Some("cannot open directory '/dev/dri'"),
        }
    }
}

impl Abilities {
    /// Returns whether the host lacks the render node at `path`; `None` if that is not known, as
    /// for a path outside of `/dev/dri`. A text without a slash is no path: returns true for it.
    pub(crate) fn lacks_node(&self, path: &str) -> Option<bool> {
        let Some(name) = path.strip_prefix("/dev/dri/") else {
            // A name without a slash is no path of a device.
            return (!path.contains('/')).then_some(true);
        };
        let dri = self.guests.dri.as_ref()?;
        let directory = name.rsplit_once('/').map(|(directory, _)| directory);
        let is_read = directory.is_none_or(|directory| {
            directory == "by-path" && dri.iter().any(|other| other.starts_with("by-path/"))
        });
        is_read.then(|| !dri.contains(name))
    }

    /// Returns where graphics that name no address listen. If qemu.conf is not known, assumes TCP
    /// on any address, because a remote viewer may rely on it.
    pub(crate) fn listen_default(&self, kind: GraphicsType) -> ListenDefault<'_> {
        let (address, socket) = match kind {
            GraphicsType::Spice => (&self.spice_listen, self.spice_auto_unix_socket),
            GraphicsType::Vnc => (&self.vnc_listen, self.vnc_auto_unix_socket),
            _ => (&self.vnc_listen, None),
        };
        ListenDefault {
            address: address.as_deref(),
            socket: socket == Some(true),
        }
    }

    /// Returns whether `frontends` has this frontend; `None` if the frontends are not known.
    pub(crate) fn has(&self, frontend: &str) -> Option<bool> {
        self.frontends
            .as_ref()
            .map(|frontends| frontends.contains(frontend))
    }
}
