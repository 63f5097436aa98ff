//! How QEMU is called without libvirt, to try a domain that [`super::reduce`] has made small.
//!
//! The devices are written as libvirt writes them (libvirt src/qemu/qemu_command.c): video cards
//! first, then hostdevs, as JSON, with the same ids; graphics in the order of the XML. What stands
//! in for the rest of libvirt opens no file, and no port to anybody but this host.

use std::path::PathBuf;

use serde_json::{Map, Value, json};

use crate::abilities::Abilities;
use crate::domain::{Domain, Graphics, GraphicsType, Hostdev, Listen, Switch, Video};
use crate::names::DeviceId;
use crate::predict::versions::Libvirt;

/// How QEMU is called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The program.
    pub program: PathBuf,
    /// Its arguments. It speaks QMP on stdin and stdout.
    pub arguments: Vec<String>,
    /// What its environment has beside ours.
    pub environment: Vec<(String, String)>,
}

/// A domain that can be tried through libvirt only.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} can't be tried without libvirt: leave --offline out")]
pub struct NeedsLibvirt {
    what: String,
}

/// The call for a reduced domain. `port`: one on 127.0.0.1 that is free, for spice, which can't
/// look for one itself.
///
/// # Errors
/// [`NeedsLibvirt`] if another process belongs to the domain, which libvirt starts.
pub fn call(
    domain: &Domain<'_, '_>,
    abilities: &Abilities,
    port: u16,
) -> Result<Call, NeedsLibvirt> {
    // Where its version is not known, it is taken for one that passes everything on.
    let libvirt = Libvirt::possible(abilities)[0];
    let machine = domain
        .machine
        .as_deref()
        .unwrap_or(match domain.arch.as_deref() {
            None | Some("x86_64" | "i686") => "pc",
            Some("s390x") => "s390-ccw-virtio",
            Some("ppc64" | "ppc64le") => "pseries",
            Some(_) => "virt",
        });
    let accelerator = match domain.virt_type.as_str() {
        "qemu" => "tcg",
        other => other,
    };
    let mut arguments: Vec<String> = Vec::new();
    let mut add = |words: &[&str]| arguments.extend(words.iter().map(ToString::to_string));
    add(&["-name", domain.name.as_deref().unwrap_or("gfxplane-verify")]);
    if let Some(uuid) = domain.uuid {
        add(&["-uuid", &uuid.to_string()]);
    }
    add(&["-no-user-config", "-nodefaults", "-S", "-machine", machine]);
    add(&["-accel", accelerator, "-m", "64"]);
    let cpu = domain
        .element
        .child("cpu")
        .and_then(|cpu| cpu.attribute("mode"));
    match cpu.as_deref() {
        Some("maximum") => add(&["-cpu", "max"]),
        Some(_) if accelerator != "tcg" => add(&["-cpu", "host"]),
        _ => {}
    }
    add(&["-monitor", "none", "-qmp", "stdio"]);
    if domain.graphics.is_empty() {
        add(&["-display", "none"]);
    }
    let on_a_bus = |g: &Graphics<'_, '_>| g.kind == Some(GraphicsType::Dbus) && !g.p2p;
    let vnc_elsewhere = abilities.libvirt.is_some()
        && libvirt.vnc_from_dbus
        && domain.graphics.iter().any(on_a_bus);
    for each in &domain.graphics {
        if each.kind == Some(GraphicsType::Vnc) && vnc_elsewhere {
            continue;
        }
        arguments.extend(graphics(each, port));
    }
    for (place, video) in in_order(&domain.videos) {
        if video.vhost_user {
            let what = "video with a vhost-user process".into();
            return Err(NeedsLibvirt { what });
        }
        if let Some(device) = card(domain, video, place) {
            arguments.extend(["-device".into(), device.to_string()]);
        }
    }
    // libvirt adds one where there are graphics (src/conf/domain_conf.c,
    // virDomainDefAddImplicitVideo).
    if domain.videos.is_empty() && !domain.graphics.is_empty() {
        let device = json!({"driver": first_card(domain, None), "id": "video0"});
        arguments.extend(["-device".into(), device.to_string()]);
    }
    for each in &domain.hostdevs {
        let device = Value::Object(hostdev(domain, each, &libvirt));
        arguments.extend(["-device".into(), device.to_string()]);
    }
    // What -nographic and -curses would do to stdio, QMP has need of.
    for argument in &domain.arguments {
        match argument.value.as_str() {
            "-nographic" | "--nographic" => arguments.extend(["-display".into(), "none".into()]),
            other => arguments.push(other.into()),
        }
    }
    let variables = domain
        .element
        .children()
        .filter(|child| child.local_name() == "commandline")
        .flat_map(crate::xml::Element::children)
        .filter(|child| child.local_name() == "env");
    let environment = variables.filter_map(|variable| {
        let name = variable.attribute("name")?.into_owned();
        Some((
            name,
            variable.attribute("value").unwrap_or_default().into_owned(),
        ))
    });
    Ok(Call {
        program: domain.program(),
        arguments,
        environment: std::iter::once(("LC_ALL".into(), "C".into()))
            .chain(environment)
            .collect(),
    })
}

/// The arguments for graphics.
fn graphics(graphics: &Graphics<'_, '_>, port: u16) -> Vec<String> {
    let mut options = Vec::new();
    let gl = |options: &mut Vec<String>| {
        if graphics.gl {
            options.push("gl=on".into());
        }
    };
    let node = |options: &mut Vec<String>| {
        if let Some(node) = &graphics.rendernode {
            // QEMU's way to write a comma in a value.
            options.push(format!("rendernode={}", node.replace(',', ",,")));
        }
    };
    let option = match graphics.kind {
        Some(GraphicsType::Vnc) => {
            options.push(match graphics.listen {
                Listen::None => "none".into(),
                // Over TCP in place of a socket: to VNC that is the same, and leaves no file behind.
                // QEMU looks for a free port itself.
                _ => "127.0.0.1:0,to=99".into(),
            });
            "-vnc"
        }
        Some(GraphicsType::Spice) => {
            // Without disable-ticketing, and with no password set, nobody gets in.
            match graphics.listen {
                Listen::Address(_) | Listen::Network => {
                    options.push(format!("port={port},addr=127.0.0.1"));
                }
                // Without ports spice waits to be handed a file descriptor.
                Listen::None | Listen::Socket => options.push("disable-ticketing=on".into()),
            }
            gl(&mut options);
            if graphics.gl {
                node(&mut options);
            }
            "-spice"
        }
        Some(GraphicsType::Dbus) => {
            // Peer to peer, so that no bus is needed: nobody is going to look.
            options.push("dbus,p2p=yes".into());
            gl(&mut options);
            if graphics.gl {
                node(&mut options);
            }
            "-display"
        }
        Some(GraphicsType::EglHeadless) => {
            options.push("egl-headless".into());
            node(&mut options);
            "-display"
        }
        Some(GraphicsType::Sdl) => {
            options.push("sdl".into());
            gl(&mut options);
            "-display"
        }
        // rdp is another process that looks at the dbus display.
        Some(GraphicsType::Rdp | GraphicsType::Gtk) | None => return Vec::new(),
    };
    vec![option.into(), options.join(",")]
}

/// The video cards in the order in which QEMU makes them, with their places in the XML.
fn in_order<'v, 'd, 'a>(videos: &'v [Video<'d, 'a>]) -> Vec<(usize, &'v Video<'d, 'a>)> {
    let mut all: Vec<_> = videos.iter().enumerate().collect();
    all.sort_by_key(|(_, video)| !video.primary);
    all
}

fn is_x86(domain: &Domain<'_, '_>) -> bool {
    domain
        .arch
        .as_deref()
        .is_none_or(|arch| matches!(arch, "x86_64" | "i686"))
}

/// QEMU's device for the first card of a model (libvirt's `qemuDeviceVideo` and
/// `qemuDeviceVideoSecondary`); `None`: libvirt chooses. Which VGA it takes then makes no
/// difference to a screen.
fn first_card(domain: &Domain<'_, '_>, model: Option<&str>) -> &'static str {
    match model {
        Some("virtio") if is_x86(domain) => "virtio-vga",
        Some("virtio") => "virtio-gpu-pci",
        Some("qxl") => "qxl-vga",
        Some("cirrus") => "cirrus-vga",
        Some("vmvga") => "vmware-svga",
        Some("bochs") => "bochs-display",
        Some("ramfb") => "ramfb",
        None if !is_x86(domain) => "virtio-gpu-pci",
        _ => "VGA",
    }
}

fn card(domain: &Domain<'_, '_>, video: &Video<'_, '_>, place: usize) -> Option<Value> {
    let model = video.model.as_deref();
    let is_first = video.primary || (place == 0 && !domain.videos.iter().any(|v| v.primary));
    let driver = match model {
        Some("none") => return None,
        Some("virtio") if !is_first => "virtio-gpu-pci",
        Some("qxl") if !is_first => "qxl",
        model => first_card(domain, model),
    };
    // virtio-vga-gl and virtio-gpu-gl-pci: QEMU 6.1, which took virgl from the plain ones.
    let driver = match (video.accel3d, driver) {
        (true, "virtio-vga") => "virtio-vga-gl",
        (true, "virtio-gpu-pci") => "virtio-gpu-gl-pci",
        (_, driver) => driver,
    };
    let alias = video
        .element
        .child("alias")
        .and_then(|a| a.attribute("name"));
    let alias = alias.map_or_else(|| format!("video{place}"), std::borrow::Cow::into_owned);
    let mut device = Map::new();
    device.insert("driver".into(), driver.into());
    device.insert("id".into(), alias.as_str().into());
    overrides(domain, &alias, &mut device);
    Some(Value::Object(device))
}

/// A vfio device (`qemuBuildHostdevMediatedDevProps`, `qemuBuildPCIHostdevDevProps`).
fn hostdev(
    domain: &Domain<'_, '_>,
    hostdev: &Hostdev<'_, '_>,
    libvirt: &Libvirt,
) -> Map<String, Value> {
    let mut device = Map::new();
    let takes_display = libvirt.takes_display(hostdev.id) && hostdev.model == "vfio-pci";
    let ramfb = takes_display && hostdev.ramfb == Some(Switch::On);
    let driver = match hostdev.model.as_str() {
        "vfio-pci" | "" if ramfb => "vfio-pci-nohotplug",
        "" => "vfio-pci",
        model => model,
    };
    device.insert("driver".into(), driver.into());
    match hostdev.id {
        DeviceId::Mdev(id) => {
            let path = format!("/sys/bus/mdev/devices/{id}");
            device.insert("sysfsdev".into(), path.into());
        }
        DeviceId::Pci(id) => {
            device.insert("host".into(), id.to_string().into());
        }
    }
    device.insert("id".into(), hostdev.alias.as_str().into());
    // libvirt fills in `off` for mediated devices; QEMU's default is `off`, too.
    if takes_display {
        let on = hostdev.display == Some(Switch::On);
        device.insert("display".into(), if on { "on" } else { "off" }.into());
    }
    if ramfb {
        device.insert("ramfb".into(), true.into());
    }
    // Of a mediated device it drops it (`qemuBuildHostdevMediatedDevProps`).
    if matches!(hostdev.id, DeviceId::Pci(_))
        && let Some(rom) = hostdev.element.child("rom")
    {
        let off = |name: &str, word: &str| rom.attribute(name).as_deref() == Some(word);
        if off("bar", "off") || off("enabled", "no") {
            device.insert("rombar".into(), 0.into());
        }
        if let Some(file) = rom.attribute("file") {
            device.insert("romfile".into(), file.into_owned().into());
        }
    }
    overrides(domain, &hostdev.alias, &mut device);
    device
}

/// What `qemu:override` does to a device (libvirt `qemuBuildDeviceAddCustomProps`…).
fn overrides(domain: &Domain<'_, '_>, alias: &str, device: &mut Map<String, Value>) {
    for property in domain.properties.iter().filter(|p| p.alias == alias) {
        let text = property.value.clone().unwrap_or_default();
        let number = || {
            let parsed = text.parse::<u64>().map(Value::from);
            parsed.or_else(|_| text.parse::<i64>().map(Value::from))
        };
        let value = match property.kind.as_str() {
            "remove" => {
                device.shift_remove(&property.name);
                continue;
            }
            "bool" => Value::from(text == "true"),
            "signed" | "unsigned" => number().unwrap_or_else(|_| text.clone().into()),
            _ => text.clone().into(),
        };
        device.insert(property.name.clone(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verify::reduce;
    use crate::version::Version;
    use crate::xml::Document;
    use uuid::Uuid;

    fn of(devices: &str, rest: &str, libvirt: &[u32]) -> Result<Vec<String>, NeedsLibvirt> {
        let text = format!(
            "<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
             <os><type arch='x86_64' machine='pc'>hvm</type></os><devices>{devices}</devices>{rest}</domain>"
        );
        let reduced = reduce(&text, "n", Uuid::from_u128(1), &Abilities::default()).unwrap();
        let document = Document::parse(&reduced.xml).unwrap();
        let abilities = Abilities {
            libvirt: (!libvirt.is_empty()).then(|| Version::of(libvirt)),
            ..Abilities::default()
        };
        let call = call(&Domain::new(&document).unwrap(), &abilities, 5999)?;
        assert_eq!(call.program, PathBuf::from("/usr/bin/qemu-system-x86_64"));
        assert_eq!(call.environment[0], ("LC_ALL".into(), "C".into()));
        let start = "-name n -uuid 00000000-0000-0000-0000-000000000001 -no-user-config -nodefaults -S \
                     -machine pc -accel tcg -m 64 -monitor none -qmp stdio";
        let start: Vec<&str> = start.split_whitespace().collect();
        assert_eq!(call.arguments[..start.len()], start);
        Ok(call.arguments[start.len()..].to_vec())
    }

    const MDEV: &str = "<hostdev type='mdev' model='vfio-pci' display='on'><source><address uuid='c1a20000-0000-4000-8000-000000000002'/></source></hostdev>";

    #[test]
    fn as_libvirt_calls_it() {
        let none = "<video><model type='none'/></video>";
        let mdev = r#"{"driver":"vfio-pci","sysfsdev":"/sys/bus/mdev/devices/c1a20000-0000-4000-8000-000000000002","id":"hostdev0","display":"on"}"#;
        for (devices, expected) in [
            ("", "-display none".to_owned()),
            (MDEV, format!("-display none -device {mdev}")),
            // libvirt drops it.
            (&MDEV.replace("</hostdev>", "<rom bar='off' file='/x'/></hostdev>"), format!("-display none -device {mdev}")),
            (&format!("<graphics type='vnc'/>{none}{MDEV}"), format!("-vnc 127.0.0.1:0,to=99 -device {mdev}")),
            ("<graphics type='vnc'><listen type='none'/></graphics>", r#"-vnc none -device {"driver":"VGA","id":"video0"}"#.into()),
            (
                &format!("<graphics type='spice' port='5900'><listen type='address' address='0.0.0.0'/></graphics>{none}"),
                "-spice port=5999,addr=127.0.0.1".into(),
            ),
            (
                &format!("<graphics type='spice'><listen type='none'/><gl enable='yes' rendernode='/dev/dri/a,b'/></graphics>{none}"),
                "-spice disable-ticketing=on,gl=on,rendernode=/dev/dri/a,,b".into(),
            ),
            (
                &format!("<graphics type='dbus'><gl enable='yes'/></graphics><graphics type='rdp'/>{none}"),
                "-display dbus,p2p=yes,gl=on".into(),
            ),
            (
                &format!("<graphics type='egl-headless'><gl rendernode='/dev/dri/renderD128'/></graphics><graphics type='sdl'/>{none}"),
                "-display egl-headless,rendernode=/dev/dri/renderD128 -display sdl".into(),
            ),
            (
                "<video><model type='virtio'><acceleration accel3d='yes'/></model></video><video><model type='qxl' primary='yes'/></video>",
                r#"-display none -device {"driver":"qxl-vga","id":"video1"} -device {"driver":"virtio-gpu-gl-pci","id":"video0"}"#.into(),
            ),
        ] {
            assert_eq!(of(devices, "", &[11, 3]).unwrap().join(" "), expected, "{devices}");
        }
        let vhost = "<video><driver name='vhostuser'/><model type='virtio'/></video>";
        assert!(
            of(vhost, "", &[])
                .unwrap_err()
                .to_string()
                .contains("leave --offline out")
        );
    }

    #[test]
    fn versions_of_libvirt() {
        let pci = "<hostdev type='pci' display='on' ramfb='on'><source><address bus='6'/></source></hostdev>";
        let device = |libvirt: &[u32]| of(pci, "", libvirt).unwrap()[3].clone();
        let with = r#"{"driver":"vfio-pci-nohotplug","host":"0000:06:00.0","id":"hostdev0","display":"on","ramfb":true}"#;
        assert_eq!(device(&[10, 3]), with);
        assert_eq!(device(&[]), with);
        assert_eq!(
            device(&[10, 2]),
            r#"{"driver":"vfio-pci","host":"0000:06:00.0","id":"hostdev0"}"#
        );
        let both =
            "<graphics type='dbus'/><graphics type='vnc'/><video><model type='none'/></video>";
        assert_eq!(of(both, "", &[11, 3]).unwrap().len(), 4);
        assert_eq!(
            of(both, "", &[12, 5]).unwrap().len(),
            2,
            "qemu-vnc serves it"
        );
    }

    #[test]
    fn overrides_and_arguments() {
        let rest = "<qemu:override><qemu:device alias='hostdev0'><qemu:frontend>\
             <qemu:property name='x-igd-opregion' type='bool' value='true'/>\
             <qemu:property name='xres' type='unsigned' value='800'/>\
             <qemu:property name='display' type='remove'/></qemu:frontend></qemu:device></qemu:override>\
             <qemu:commandline><qemu:arg value='-nographic'/><qemu:arg value='-global'/><qemu:arg value='vfio-pci.x=y'/></qemu:commandline>";
        assert_eq!(
            of(MDEV, rest, &[]).unwrap()[2..].join(" "),
            r#"-device {"driver":"vfio-pci","sysfsdev":"/sys/bus/mdev/devices/c1a20000-0000-4000-8000-000000000002","id":"hostdev0","x-igd-opregion":true,"xres":800} -display none -global vfio-pci.x=y"#
        );
    }
}
