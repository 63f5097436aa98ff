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

fn assert_refused(devices: &str, libvirt: &[u32], tls: bool, stage: &str, words: &str) {
    let Outcome::No(refusal) = outcome(devices, libvirt, Some(tls)) else {
        panic!("{devices}: it is not refused");
    };
    let found = format!("{:?} {}", refusal.stage, refusal.message);
    assert_eq!(found, format!("{stage} {words}"), "{devices} {libvirt:?}");
}

/// Definitions that are not cases in tests/fixup, with the messages of libvirt 11.3 and 12.8. The
/// messages were seen there, unless docs/qemu-and-libvirt.md says otherwise.
#[test]
fn in_libvirts_words() {
    // The stage, and the version if it is not both; the devices, of which VNC and MDEV are above;
    // the words.
    for row in [
        "Define | VNC<video><model type='vga' blob='off'/></video> | video type 'vga' does not support blob resources",
        "Define | VNC<video><model type='foo'/></video> | Invalid value for attribute 'type' in element 'model': 'foo'.",
        "Define | VNC<video><model type='xen'/></video> | domain configuration does not support video model 'xen'",
        "Define | VNC<video><model type='vga' ram='65536'/></video> | ram attribute only supported for video type qxl",
        "Define | VNC<video><model type='qxl' vgamem='3000'/></video> | value for 'vgamem' must be power of two",
        "Define | VNC<video><model type='vga' vram='512'/></video> | value for 'vram' must be at least 1 MiB (1024 KiB)",
        "Define | VNC<video><model type='qxl' primary='yes'/></video><video><model type='qxl' primary='yes'/></video> | Only one primary video device is supported",
        "Define | VNC<audio id='1' type='spice'/> | Spice audio is not supported without spice graphics",
        "Define | <graphics type='dbus'/><graphics type='rdp'><listen type='socket'/></graphics> | listen type 'socket' is not available for graphics type 'rdp'",
        "Define | <graphics type='vnc' passwd='123456789'/> | VNC password is 9 characters long, only 8 permitted",
        "Define | <graphics type='foo'/> | Invalid value for attribute 'type' in element 'graphics': 'foo'.",
        "Define | MDEVMDEV<video><model type='vga' heads='2'/></video> | graphics device is needed for attribute value 'display=on' in <hostdev>",
        "Define | VNC<video><model type='vga' heads='2'/></video>MDEVMDEV | video type 'vga' doesn't support multiple 'heads'",
        "Define | VNCVNCMDEVMDEV | Hostdev already exists in the domain configuration",
        "Define 11.3 | VNC<video><model type='vga'><acceleration accel3d='yes'/></model></video> | 3d acceleration is supported only with 'virtio' video device",
        "Define 12.8 | <graphics type='rdp'/> | qemu-rdp support requires a D-Bus bus graphics device.",
        "Define 12.8 | <graphics type='vnc'><listen type='none'/><listen type='none'/></graphics> | QEMU does not support multiple listens for one graphics device.",
        "Start | <graphics type='spice' autoport='yes' defaultMode='secure'/> | Auto allocation of spice TLS port requested but spice TLS is disabled in qemu.conf",
        "Arguments | <graphics type='spice' port='5901' autoport='no' defaultMode='secure'/> | spice defaultMode secure requested in XML configuration, but TLS connection is not available",
        "Arguments | <graphics type='spice'><listen type='none'/><channel name='main' mode='secure'/></graphics> | spice secure channels set in XML configuration, but TLS connection is not available",
        "Arguments | <graphics type='vnc' autoport='no'/> | vnc port must be in range [5900,65535]",
    ] {
        let [when, devices, words] = row.split(" | ").collect::<Vec<_>>()[..] else {
            panic!("{row}");
        };
        let devices = devices.replace("VNC", VNC).replace("MDEV", MDEV);
        let (stage, only) = when.split_once(' ').unwrap_or((when, ""));
        for (version, libvirt) in [("11.3", [11, 3]), ("12.8", [12, 8])] {
            if version.starts_with(only) {
                assert_refused(&devices, &libvirt, false, stage, words);
            }
        }
    }
    for (devices, words) in [
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
    ] {
        assert_refused(&devices, &[11, 3], false, "Define", words);
        assert_refused(&devices, &[12, 8], false, "Define", words);
    }
    for (insecure, words) in [
        (" defaultMode='insecure'>", "defaultMode insecure requested"),
        (
            "><channel name='main' mode='insecure'/>",
            "insecure channels set",
        ),
    ] {
        let devices = format!("<graphics type='spice' tlsPort='5901'{insecure}</graphics>");
        let words = format!(
            "spice {words} in XML configuration, but plaintext connection is not available"
        );
        assert_refused(&devices, &[11, 3], true, "Arguments", &words);
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
