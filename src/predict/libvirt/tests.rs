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

/// Definitions that are not cases in tests/fixup, with the messages of libvirt 11.3 and 12.8. The
/// messages were seen there, unless docs/qemu-and-libvirt.md says otherwise.
#[test]
fn in_libvirts_words() {
    use Stage::{Arguments, Define, Start};
    let old = &[11, 3][..];
    let new = &[12, 8][..];
    for (versions, stage, rows) in [
        (
            [old, new],
            Define,
            vec![
                (
                    card("type='vga' blob='off'"),
                    "video type 'vga' does not support blob resources",
                ),
                (
                    card("type='foo'"),
                    "Invalid value for attribute 'type' in element 'model': 'foo'.",
                ),
                (
                    card("type='xen'"),
                    "domain configuration does not support video model 'xen'",
                ),
                (
                    card("type='vga' ram='65536'"),
                    "ram attribute only supported for video type qxl",
                ),
                (
                    card("type='qxl' vgamem='3000'"),
                    "value for 'vgamem' must be power of two",
                ),
                (
                    card("type='vga' vram='512'"),
                    "value for 'vram' must be at least 1 MiB (1024 KiB)",
                ),
                (
                    card("type='qxl' primary='yes'") + "<video><model type='qxl' primary='yes'/></video>",
                    "Only one primary video device is supported",
                ),
                (
                    format!("{VNC}<audio id='1' type='spice'/>"),
                    "Spice audio is not supported without spice graphics",
                ),
                (
                    "<graphics type='dbus'/><graphics type='rdp'><listen type='socket'/></graphics>".into(),
                    "listen type 'socket' is not available for graphics type 'rdp'",
                ),
                (
                    "<graphics type='vnc' passwd='123456789'/>".into(),
                    "VNC password is 9 characters long, only 8 permitted",
                ),
                (
                    "<graphics type='foo'/>".into(),
                    "Invalid value for attribute 'type' in element 'graphics': 'foo'.",
                ),
                (
                    MDEV.replace("display='on'", "display='maybe'"),
                    "Invalid value for attribute 'display' in element 'hostdev': 'maybe'.",
                ),
                (
                    MDEV.replace("</hostdev>", "<boot order='1'/></hostdev>"),
                    "booting from assigned devices is not supported by mediated devices of model vfio-pci",
                ),
                (
                    AP.to_owned() + &AP.replace("02'", "03'"),
                    "Only one hostdev of model vfio-ap is supported",
                ),
                (
                    format!("{MDEV}{MDEV}<video><model type='vga' heads='2'/></video>"),
                    "graphics device is needed for attribute value 'display=on' in <hostdev>",
                ),
                (
                    format!("{}{MDEV}{MDEV}", card("type='vga' heads='2'")),
                    "video type 'vga' doesn't support multiple 'heads'",
                ),
                (
                    format!("{VNC}{VNC}{MDEV}{MDEV}"),
                    "Hostdev already exists in the domain configuration",
                ),
            ],
        ),
        (
            [old, old],
            Define,
            vec![
                (
                    format!("{VNC}<video><model type='vga'><acceleration accel3d='yes'/></model></video>"),
                    "3d acceleration is supported only with 'virtio' video device",
                ),
            ],
        ),
        (
            [new, new],
            Define,
            vec![
                (
                    "<graphics type='rdp'/>".into(),
                    "qemu-rdp support requires a D-Bus bus graphics device.",
                ),
                (
                    "<graphics type='vnc'><listen type='none'/><listen type='none'/></graphics>".into(),
                    "QEMU does not support multiple listens for one graphics device.",
                ),
            ],
        ),
        (
            [old, new],
            Start,
            vec![
                (
                    "<graphics type='spice' autoport='yes' defaultMode='secure'/>".into(),
                    NO_TLS_PORT,
                ),
            ],
        ),
        (
            [old, new],
            Arguments,
            vec![
                (
                    "<graphics type='spice' port='5901' autoport='no' defaultMode='secure'/>".into(),
                    "spice defaultMode secure requested in XML configuration, but TLS connection is not available",
                ),
                (
                    "<graphics type='spice'><listen type='none'/><channel name='main' mode='secure'/></graphics>".into(),
                    "spice secure channels set in XML configuration, but TLS connection is not available",
                ),
                (
                    "<graphics type='vnc' autoport='no'/>".into(),
                    "vnc port must be in range [5900,65535]",
                ),
            ],
        ),
    ] {
        for (devices, words) in rows {
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
