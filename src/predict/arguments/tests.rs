use super::*;

/// Reads arguments that have spaces between them.
fn read(words: &str) -> Arguments {
    Arguments::read(words.split_whitespace())
}

#[test]
fn messages_without_values() {
    for (message, expected) in [
        (
            r#"internal error: QEMU: 2026-11-29T01:00:00.0Z qemu-system-x86_64: -device {"driver":"vfio-pci","x":"a: b"}: vfio 0000:01:00.0: error getting device"#,
            "internal error: QEMU: 2026-11-29T01:00:00.0Z qemu-system-x86_64: -device …: vfio 0000:01:00.0: error getting device",
        ),
        (
            "qemu-system-x86_64: -spice port=1,password=a: b: -x: no such file",
            "qemu-system-x86_64: -spice …: no such file",
        ),
        (
            "-display egl-headless: egl: no drm render node available",
            "-display …: egl: no drm render node available",
        ),
        ("x: -set a.b.c=d", "x: -set …"),
        (
            "one\nx: -object secret,data=y: bad",
            "one\nx: -object …: bad",
        ),
        (
            "virgl could not be initialized: -1",
            "virgl could not be initialized: -1",
        ),
        ("nothing - of that: sort", "nothing - of that: sort"),
    ] {
        assert_eq!(without_values(message), expected);
    }
}

#[test]
fn option_syntax() {
    let all = |text: &str, implied: &str| {
        let pairs = pairs(text, implied);
        let words: Vec<String> = pairs.iter().map(|(k, v)| format!("{k}={v}")).collect();
        words.join(" ")
    };
    for (text, implied, expected) in [
        ("", "driver", ""),
        ("VGA", "driver", "driver=VGA"),
        ("VGA,id=a", "driver", "driver=VGA id=a"),
        ("id=a,driver=VGA", "driver", "id=a driver=VGA"),
        // A comma is doubled, in the implied value, too.
        ("a,,b,c=d,,e,,,f=g", "driver", "driver=a,b c=d,e, f=g"),
        ("VGA,edid,noedid", "driver", "driver=VGA edid=on edid=off"),
        ("a=b=c", "driver", "a=b=c"),
        ("a=", "driver", "a="),
        ("a=,b", "driver", "a= b=on"),
        ("VGA,", "driver", "driver=VGA"),
        ("x,driver=a", "", "x=on driver=a"),
    ] {
        assert_eq!(all(text, implied), expected, "{text:?}");
    }
}

#[test]
fn the_last_display_counts() {
    // The display and its gl, the number of VNC's, and what is not read.
    for row in [
        " | None 0 ",
        "-display none | Some((None, None)) 0 ",
        "--display egl-headless -nographic | Some((NoGraphic, None)) 0 ",
        "-display dbus,p2p=on,gl=es -nographic | Some((NoGraphic, Some(true))) 0 ",
        "-nographic -display {\"type\":\"gtk\",\"gl\":\"off\"} | Some((Gtk, Some(false))) 0 ",
        // The last -display counts, whatever the first says.
        "-display spice-app -display type=sdl,gl=on | Some((Sdl, Some(true))) 0 ",
        "-display none -display curses | Some((Curses, None)) 0 ",
        "-curses -sdl | Some((Other, None)) 0 -sdl",
        "-display spice-app | Some((Other, None)) 0 -display spice-app",
        "-display dbus | Some((Other, None)) 0 -display dbus",
        // VNC leaves the local display alone.
        "-display gtk -display vnc=:1 -vnc none | Some((Gtk, None)) 2 ",
        "-vnc :1,display=v,head=0 | None 0 -vnc",
        // A value that looks like an option, and an option without its value.
        "-set -nographic | None 0 ",
        "-no-hpet -nographic | Some((NoGraphic, None)) 0 ",
        "-object -nographic | Some((NoGraphic, None)) 0 ",
        "-name nographic -display | None 0 -display",
        // Secrets stay where they are.
        "-spice port=1,password=geheim -spice tls-port=2 | None 0 -spice",
        "-readconfig /etc/a | None 0 -readconfig",
    ] {
        let (words, expected) = row.split_once(" | ").unwrap();
        let read = read(words);
        let display = read.display.as_ref().map(|d| (d.kind, d.gl));
        let found = format!("{display:?} {} {}", read.vnc, read.unread.join("; "));
        assert_eq!(found, expected, "{words}");
    }
}

#[test]
fn devices() {
    let seen = |words: &str| {
        let read = read(words);
        let devices: Vec<String> = read
            .devices
            .iter()
            .map(|d| format!("{}{:?}", d.driver, d.vfio_id().map(|id| id.to_string())))
            .collect();
        (devices.join(" ").replace("None", ""), read.unread.join(" "))
    };
    for row in [
        "-device VGA,id=v | VGA | ",
        "-device id=v,driver=bochs-display | bochs-display | ",
        "-device {\"driver\":\"virtio-gpu-pci\"} | virtio-gpu-pci | ",
        "-device {\"driver\":\"ivshmem-plain\",\"memdev\":\"m\"} |  | ",
        "-device intel-iommu,intremap=on |  | ",
        "-device VGA,bus=pci.3 |  | -device VGA",
        "-device qxl | qxl | ",
        "-device virtio-gpu-pci,max_outputs=2 |  | -device virtio-gpu-pci",
        "-device vhost-user-vga,chardev=c |  | -device vhost-user-vga",
        "-device {\"driver\": |  | -device",
        "-device vfio-pci,sysfsdev=/sys/bus/mdev/devices/c1a20000-0000-4000-8000-000000000001,display=on | vfio-pciSome(\"c1a20000-0000-4000-8000-000000000001\") | ",
        "-device vfio-pci,host=01:00.0 | vfio-pciSome(\"0000:01:00.0\") | ",
        // As a -set has it.
        "-device e1000,id=n -set device.n.driver=VGA | VGA | ",
        "-vga none -vga xenfb |  | -vga",
    ] {
        let columns: Vec<&str> = row.split('|').map(str::trim).collect();
        let (devices, unread) = seen(columns[0]);
        assert_eq!([&*devices, &*unread], columns[1..], "{row}");
    }
    let wants = |text: &str| Device::read(text).unwrap().wants_display();
    assert!(wants("vfio-pci,host=01:00.0,display=auto"));
    assert!(!wants("vfio-pci,host=01:00.0"));
    assert!(!wants(r#"{"driver":"vfio-pci","display":"off"}"#));
    assert_eq!(read("-vga std -vga cirrus").vga, Some("cirrus-vga"));
}

#[test]
fn settings_that_are_not_of_own_devices() {
    let seen = |words: &str| {
        let read = read(words);
        let texts: Vec<String> = read.settings.into_iter().map(|s| s.text).collect();
        texts.join(" ")
    };
    for (words, expected) in [
        ("-set device.hostdev0.x=a.b=c", "device.hostdev0.x=a.b=c"),
        ("-device e1000,id=n -set device.n.x=1", ""),
        ("-set device.n.x=1 -device e1000,id=n", "device.n.x=1"),
        // QEMU looks among the devices in option syntax only.
        (
            r#"-device {"driver":"e1000","id":"n"} -set device.n.x=1"#,
            "device.n.x=1",
        ),
        ("-device e1000,,id=n,id=m -set device.n.x=1", "device.n.x=1"),
        ("-set machine.a.x=1 -set device.a -set", ""),
    ] {
        assert_eq!(seen(words), expected, "{words}");
    }
    assert_eq!(read("-set machine.a.x=1").malformed, [""; 0]);
    assert_eq!(read("-set device.a.x").malformed, ["device.a.x"]);
    let long = format!("device.{}.x=1", "a".repeat(64));
    assert_eq!(Setting::read(&long), None);
}

#[test]
fn globals() {
    let of = |words: &str, driver: &str| {
        let all = read(words).globals(driver);
        let said = |name: &str| Some(format!("{name}={}", all.get(name)?));
        let words: Vec<String> = ["display", "ramfb"].into_iter().filter_map(said).collect();
        words.join(" ")
    };
    let short = "-global vfio-pci.display=on -global vfio-pci.display=off";
    assert_eq!(of(short, "vfio-pci"), "display=off");
    assert_eq!(of(short, "vfio-pci-nohotplug"), "display=off");
    let long = "-global driver=vfio-pci-nohotplug,property=ramfb,value=on";
    assert_eq!(of(long, "vfio-pci"), "");
    assert_eq!(of(long, "vfio-pci-nohotplug"), "ramfb=on");
    // The last one counts, whichever of the two it is for.
    let [first, last] = ["vfio-pci.ramfb=on", "vfio-pci-nohotplug.ramfb=off"];
    let both = &format!("-global {first} -global {last}");
    assert_eq!(of(both, "vfio-pci-nohotplug"), "ramfb=off");
    let both = &format!("-global {last} -global {first}");
    assert_eq!(of(both, "vfio-pci-nohotplug"), "ramfb=on");
    assert_eq!(read("-global ICH9-LPC.disable_s3=1").globals, []);
}
