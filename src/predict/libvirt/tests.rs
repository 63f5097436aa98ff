use super::*;
use crate::device::version::Version;
use crate::domain::Domain;
use crate::predict::screens::Known;
use crate::predict::{Outcome, predict};
use crate::xml::Document;

const VNC: &str = "<graphics type='vnc'/>";
const MDEV: &str = "<hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on'>\
        <source><address uuid='aaaaaaaa-0000-4000-8000-000000000001'/></source></hostdev>";
const AP: &str = "<hostdev mode='subsystem' type='mdev' model='vfio-ap'>\
        <source><address uuid='aaaaaaaa-0000-4000-8000-000000000002'/></source></hostdev>";

fn outcome(devices: &str, libvirt: &[u32], tls: Option<bool>) -> Outcome {
    let text = format!("<domain type='kvm'><devices>{devices}</devices></domain>");
    let document = Document::parse(&text).unwrap();
    let domain = Domain::new(&document).unwrap();
    let abilities = Abilities {
        qemu: Some(Version::of(&[10, 0])),
        libvirt: (!libvirt.is_empty()).then(|| Version::of(libvirt)),
        spice_tls: tls,
        ..Abilities::default()
    };
    let known = |_| Known::nothing(Reason::NotProbed);
    predict(&Screens::of(&domain, &known, &abilities), &abilities).outcome
}

fn card(model: &str) -> String {
    format!("{VNC}<video><model {model}/></video>")
}

/// Definitions with the words of libvirt 11.3 and 12.8. The words were seen there, unless
/// docs/qemu-and-libvirt.md says otherwise.
#[test]
fn in_libvirts_words() {
    use Stage::{Arguments, Define, Start};
    let old = &[11, 3][..];
    let new = &[12, 8][..];
    for (versions, devices, stage, words) in [
            (
                [old, new],
                card("type='vga'") + "<video><model type='bochs'/></video>",
                Define,
                "video type 'bochs' is only valid as primary video device",
            ),
            (
                [old, new],
                card("type='vga' heads='2'"),
                Define,
                "video type 'vga' doesn't support multiple 'heads'",
            ),
            (
                [old, new],
                card("type='virtio' blob='on'"),
                Define,
                "'blob' support for virtio-gpu devices requires a memfd memory backend",
            ),
            (
                [old, new],
                card("type='vga' blob='off'"),
                Define,
                "video type 'vga' does not support blob resources",
            ),
            (
                [old, new],
                format!("{VNC}<video><driver name='vhostuser'/><model type='vga'/></video>"),
                Define,
                "'vhostuser' driver is only supported with 'virtio' device",
            ),
            (
                [old, new],
                card("type='foo'"),
                Define,
                "Invalid value for attribute 'type' in element 'model': 'foo'.",
            ),
            (
                [old, new],
                card("type='xen'"),
                Define,
                "domain configuration does not support video model 'xen'",
            ),
            (
                [old, new],
                card("type='vga' ram='65536'"),
                Define,
                "ram attribute only supported for video type qxl",
            ),
            (
                [old, new],
                card("type='qxl' vgamem='3000'"),
                Define,
                "value for 'vgamem' must be power of two",
            ),
            (
                [old, new],
                card("type='vga' vram='512'"),
                Define,
                "value for 'vram' must be at least 1 MiB (1024 KiB)",
            ),
            (
                [old, old],
                format!("{VNC}<video><model type='vga'><acceleration accel3d='yes'/></model></video>"),
                Define,
                "3d acceleration is supported only with 'virtio' video device",
            ),
            (
                [new, new],
                card("type='cirrus' edid='on'"),
                Define,
                "video type 'cirrus' does not support edid",
            ),
            (
                [new, new],
                card("type='virtio' device='virtio-vga-gl'"),
                Define,
                "the 'virtio-vga-gl' virtio video device frontend can be only with enabled 3d acceleration",
            ),
            (
                [old, new],
                card("type='none'") + "<video><model type='vga'/></video>",
                Define,
                "a 'none' video type must be the only video device defined for the domain",
            ),
            (
                [old, new],
                card("type='qxl' primary='yes'") + "<video><model type='qxl' primary='yes'/></video>",
                Define,
                "Only one primary video device is supported",
            ),
            (
                [old, new],
                format!("{VNC}<channel type='spicevmc'/>"),
                Define,
                "chardev 'spicevmc' not supported without spice graphics",
            ),
            (
                [old, new],
                format!("{VNC}<audio id='1' type='spice'/>"),
                Define,
                "Spice audio is not supported without spice graphics",
            ),
            (
                [old, new],
                "<graphics type='spice' port='5901' tlsPort='5902' autoport='no'/>".into(),
                Define,
                "spice TLS port set in XML configuration, but TLS is disabled in qemu.conf",
            ),
            (
                [old, new],
                "<graphics type='spice' autoport='yes' defaultMode='secure'/>".into(),
                Start,
                NO_TLS_PORT,
            ),
            (
                [old, new],
                "<graphics type='spice' port='5901' autoport='no' defaultMode='secure'/>".into(),
                Arguments,
                "spice defaultMode secure requested in XML configuration, but TLS connection is not available",
            ),
            (
                [old, new],
                "<graphics type='spice'><listen type='none'/><channel name='main' mode='secure'/></graphics>".into(),
                Arguments,
                "spice secure channels set in XML configuration, but TLS connection is not available",
            ),
            (
                [old, new],
                "<graphics type='dbus' p2p='yes' address='unix:path=/x'/>".into(),
                Define,
                "D-Bus p2p with an address is not supported",
            ),
            (
                [new, new],
                "<graphics type='rdp'/>".into(),
                Define,
                "qemu-rdp support requires a D-Bus bus graphics device.",
            ),
            (
                [old, old],
                "<graphics type='dbus' p2p='yes'/><graphics type='rdp'/>".into(),
                Start,
                "qemu-rdp support requires a D-Bus bus graphics device.",
            ),
            (
                [old, new],
                "<graphics type='dbus'/><graphics type='rdp'><listen type='socket'/></graphics>".into(),
                Define,
                "listen type 'socket' is not available for graphics type 'rdp'",
            ),
            (
                [old, new],
                "<graphics type='vnc' port='80'/>".into(),
                Arguments,
                "vnc port must be in range [5900,65535]",
            ),
            (
                [old, new],
                "<graphics type='vnc' autoport='no'/>".into(),
                Arguments,
                "vnc port must be in range [5900,65535]",
            ),
            (
                [old, old],
                "<graphics type='vnc'><listen type='none'/><listen type='none'/></graphics>".into(),
                Start,
                "QEMU does not support multiple listens for one graphics device.",
            ),
            (
                [new, new],
                "<graphics type='vnc'><listen type='none'/><listen type='none'/></graphics>".into(),
                Define,
                "QEMU does not support multiple listens for one graphics device.",
            ),
            (
                [old, new],
                "<graphics type='vnc' passwd='123456789'/>".into(),
                Define,
                "VNC password is 9 characters long, only 8 permitted",
            ),
            (
                [old, new],
                format!("{VNC}{VNC}"),
                Arguments,
                "only 1 graphics device of each type (sdl, vnc, spice, headless, dbus, rdp) is supported",
            ),
            (
                [old, new],
                "<graphics type='desktop'/>".into(),
                Define,
                "desktop graphics are not supported with this QEMU",
            ),
            (
                [old, new],
                "<graphics type='foo'/>".into(),
                Define,
                "Invalid value for attribute 'type' in element 'graphics': 'foo'.",
            ),
            (
                [old, new],
                MDEV.replace("display='on'", "display='maybe'"),
                Define,
                "Invalid value for attribute 'display' in element 'hostdev': 'maybe'.",
            ),
            (
                [old, new],
                MDEV.replace("</hostdev>", "<boot order='1'/></hostdev>"),
                Define,
                "booting from assigned devices is not supported by mediated devices of model vfio-pci",
            ),
            (
                [old, new],
                AP.to_owned() + &AP.replace("02'", "03'"),
                Define,
                "Only one hostdev of model vfio-ap is supported",
            ),
            // A hostdev comes before all else, and what occurs twice comes last.
            (
                [old, new],
                format!("{MDEV}{MDEV}<video><model type='vga' heads='2'/></video>"),
                Define,
                "graphics device is needed for attribute value 'display=on' in <hostdev>",
            ),
            (
                [old, new],
                format!("{}{MDEV}{MDEV}", card("type='vga' heads='2'")),
                Define,
                "video type 'vga' doesn't support multiple 'heads'",
            ),
            (
                [old, new],
                format!("{VNC}{VNC}{MDEV}{MDEV}"),
                Define,
                "Hostdev already exists in the domain configuration",
            ),
        ] {
            for libvirt in versions {
                match outcome(&devices, libvirt, Some(false)) {
                    Outcome::No(refusal) => assert_eq!(
                        (refusal.stage, refusal.message.as_str()),
                        (stage, words),
                        "{devices}"
                    ),
                    other => panic!("{devices}: {other:?}"),
                }
            }
        }
}

#[test]
fn what_libvirt_takes() {
    for devices in [
            card("type='virtio' heads='2'"),
            card("type='virtio'") + "<video><model type='virtio'/></video>",
            card("type='virtio' device='virtio-vga'"),
            "<graphics type='spice' autoport='yes'><channel name='main' mode='any'/></graphics><channel type='spicevmc'/>".into(),
            "<graphics type='vnc' port='80' autoport='no'><listen type='none'/></graphics>".into(),
            "<graphics type='vnc' port='-1'/>".into(),
            "<graphics type='spice' defaultMode='insecure'><listen type='none'/></graphics>".into(),
            format!("{VNC}{AP}"),
        ] {
            let taken = outcome(&devices, &[12, 8], Some(false));
            assert_eq!(taken, Outcome::Yes, "{devices}");
        }
}

#[test]
fn what_qemu_conf_decides_is_in_doubt_without_it() {
    let devices = "<graphics type='spice' port='5901' tlsPort='5902' autoport='no'/>";
    assert_eq!(outcome(devices, &[11, 3], Some(true)), Outcome::Yes);
    assert!(matches!(
        outcome(devices, &[11, 3], None),
        Outcome::Doubt { refusal, .. } if refusal.stage == Stage::Define
    ));
}

#[test]
fn arguments_do_not_soften_what_libvirt_refuses() {
    let text = format!(
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <devices>{MDEV}</devices><qemu:commandline><qemu:arg value='-device'/>\
             <qemu:arg value='vfio-pci,host=00:02.0'/></qemu:commandline></domain>"
    );
    let document = Document::parse(&text).unwrap();
    let domain = Domain::new(&document).unwrap();
    let abilities = Abilities::default();
    let known = |_| Known::nothing(Reason::NotProbed);
    let screens = Screens::of(&domain, &known, &abilities);
    assert!(matches!(
        predict(&screens, &abilities).outcome,
        Outcome::No(refusal) if refusal.stage == Stage::Define
    ));
}
