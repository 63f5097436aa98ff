//! How long a domain is looked at that has very many of one thing: for each kind of element and
//! argument the time with 1,000 and with 10,000 of them, side by side. Ten times as many may take
//! about ten times as long.
//!
//! `cargo bench --bench linear [-- [ROOT] [FILTER]]`: ROOT is that of a recorded host (tests/hosts).

#![allow(clippy::print_stdout)]

use std::fmt::Write;
use std::time::{Duration, Instant};

use gfxplane::daemon::hook::{self, Definition};
use gfxplane::device::id::DeviceId;
use gfxplane::domain::Domain;
use gfxplane::domain::policy::{Consent, Displays, Wishes};
use gfxplane::host::Root;
use gfxplane::host::config::Config;
use gfxplane::plan::fixup::{Surroundings, fix};
use gfxplane::predict::abilities::Abilities;
use gfxplane::predict::screens::Known;
use gfxplane::publish::inventory::Reading;
use gfxplane::xml::Document;

/// What a domain has many of: its name, and the XML of one with a number, where it stands.
struct Kind {
    name: &'static str,
    place: Place,
    one: fn(usize) -> String,
}

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Devices,
    Arguments,
    Override,
    Metadata,
    Graphics,
}

fn argument(words: &[String]) -> String {
    let mut text = String::new();
    for word in words {
        let _ = write!(text, "<qemu:arg value='{word}'/>");
    }
    text
}

fn mdev(number: usize) -> String {
    format!(
        "<hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on'><source>\
         <address uuid='c1a2ffff-0000-4000-8000-{number:012x}'/></source></hostdev>"
    )
}

const KINDS: &[Kind] = &[
    Kind {
        name: "-set of a hostdev",
        place: Place::Arguments,
        one: |n| argument(&["-set".into(), format!("device.hostdev0.p{n}=on")]),
    },
    Kind {
        name: "-set of one property",
        place: Place::Arguments,
        one: |n| argument(&["-set".into(), format!("device.hostdev0.xres={n}")]),
    },
    Kind {
        name: "-set, another device each",
        place: Place::Arguments,
        one: |n| argument(&["-set".into(), format!("device.d{n}.display=on")]),
    },
    Kind {
        name: "-set that is malformed",
        place: Place::Arguments,
        one: |n| argument(&["-set".into(), format!("x{n}")]),
    },
    Kind {
        name: "-global",
        place: Place::Arguments,
        one: |n| argument(&["-global".into(), format!("vfio-pci.p{n}=on")]),
    },
    Kind {
        name: "-device with a screen",
        place: Place::Arguments,
        one: |n| argument(&["-device".into(), format!("VGA,id=v{n}")]),
    },
    Kind {
        name: "-device that is not known",
        place: Place::Arguments,
        one: |n| argument(&["-device".into(), format!("qxl{n},id=v{n}")]),
    },
    Kind {
        name: "-device vfio-pci",
        place: Place::Arguments,
        one: |n| {
            let host = format!(
                "vfio-pci,host={:02x}:{:02x}.{}",
                n / 256 % 256,
                n / 8 % 32,
                n % 8
            );
            argument(&["-device".into(), host])
        },
    },
    Kind {
        name: "-device and a -set for it",
        place: Place::Arguments,
        one: |n| {
            let device = format!("VGA,id=v{n}");
            argument(&[
                "-device".into(),
                device,
                "-set".into(),
                format!("device.v{n}.edid=on"),
            ])
        },
    },
    Kind {
        name: "-display",
        place: Place::Arguments,
        one: |n| argument(&["-display".into(), format!("x{n}")]),
    },
    Kind {
        name: "-vnc",
        place: Place::Arguments,
        one: |n| argument(&["-vnc".into(), format!(":{n}")]),
    },
    Kind {
        name: "one argument of many options",
        place: Place::Arguments,
        one: |n| format!(",p{n}=on"),
    },
    Kind {
        name: "another argument",
        place: Place::Arguments,
        one: |n| argument(&[format!("-other{n}"), "x".into()]),
    },
    Kind {
        name: "qemu:property of a hostdev",
        place: Place::Override,
        one: |n| format!("<qemu:property name='p{n}' type='string' value='x'/>"),
    },
    Kind {
        name: "mdev that is not here",
        place: Place::Devices,
        one: mdev,
    },
    Kind {
        name: "one mdev again and again",
        place: Place::Devices,
        one: |_| mdev(1),
    },
    Kind {
        name: "PCI device",
        place: Place::Devices,
        one: |n| {
            format!(
                "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='{}' bus='{}' \
                 slot='{}' function='{}'/></source></hostdev>",
                n / 65536,
                n / 256 % 256,
                n / 8 % 32,
                n % 8
            )
        },
    },
    Kind {
        name: "USB hostdev",
        place: Place::Devices,
        one: |n| {
            format!(
                "<hostdev mode='subsystem' type='usb'><source><address bus='1' device='{n}'/></source></hostdev>"
            )
        },
    },
    Kind {
        name: "graphics vnc",
        place: Place::Graphics,
        one: |n| format!("<graphics type='vnc' port='{n}'/>"),
    },
    Kind {
        name: "graphics dbus",
        place: Place::Graphics,
        one: |_| "<graphics type='dbus' p2p='yes'/>".into(),
    },
    Kind {
        name: "listen of a graphics",
        place: Place::Graphics,
        one: |_| "<listen type='address' address='::'/>".into(),
    },
    Kind {
        name: "channel of a graphics",
        place: Place::Graphics,
        one: |_| "<channel name='main' mode='secure'/>".into(),
    },
    Kind {
        name: "video",
        place: Place::Devices,
        one: |_| "<video><model type='virtio' heads='1' primary='yes'/></video>".into(),
    },
    Kind {
        name: "channel spicevmc",
        place: Place::Devices,
        one: |n| format!("<channel type='spicevmc'><target type='virtio' name='c{n}'/></channel>"),
    },
    Kind {
        name: "disk",
        place: Place::Devices,
        one: |n| format!("<disk type='file'><source file='/d{n}'/><target dev='vd{n}'/></disk>"),
    },
    Kind {
        name: "metadata of others",
        place: Place::Metadata,
        one: |n| format!("<m:x xmlns:m='urn:m{n}'>text</m:x>"),
    },
    Kind {
        name: "comment",
        place: Place::Devices,
        one: |n| format!("<!-- {n} -->"),
    },
];

fn domain(kind: &Kind, many: usize) -> String {
    let all = |place: Place| -> String {
        if kind.place != place {
            return String::new();
        }
        (1..=many).map(|number| (kind.one)(number) + "\n").collect()
    };
    let arguments = match kind.name {
        "one argument of many options" => {
            let options = all(Place::Arguments).replace('\n', "");
            argument(&["-device".into(), format!("VGA,id=v{options}")])
        }
        _ => all(Place::Arguments),
    };
    let graphics = match kind.name {
        "graphics vnc" | "graphics dbus" => all(Place::Graphics),
        _ => format!(
            "<graphics type='spice'><listen type='address' address='127.0.0.1'/>{}</graphics>",
            all(Place::Graphics)
        ),
    };
    format!(
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>g</name>\
         <uuid>0d0c2f26-4b1a-4c6e-9d52-6f5a1f7b6a01</uuid><metadata>{}</metadata>\
         <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os><devices>\
         <emulator>/usr/bin/qemu-system-x86_64</emulator>{graphics}\n\
         <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on'><source>\
         <address uuid='c1a20000-0000-4000-8000-000000000002'/></source></hostdev>\n{}\
         <memballoon model='none'/></devices>\n<qemu:commandline>{arguments}</qemu:commandline>\
         <qemu:override><qemu:device alias='hostdev0'><qemu:frontend>{}</qemu:frontend></qemu:device></qemu:override></domain>\n",
        all(Place::Metadata),
        all(Place::Devices),
        all(Place::Override),
    )
}

/// A recorded host, read as the hook reads it.
struct Host {
    reading: Reading,
}

impl Surroundings for Host {
    fn known(&self, device: DeviceId) -> Known {
        self.reading.known(device, &mut Vec::new())
    }

    fn abilities(&self, _domain: &Domain<'_, '_>) -> Abilities {
        Abilities {
            qemu: "10.0.13".parse().ok(),
            libvirt: "11.3.0".parse().ok(),
            ..Abilities::default()
        }
    }
}

/// A way to look at a domain, by its XML.
type Way = fn(&str, &Host);

/// The fastest of three.
fn least(mut run: impl FnMut()) -> Duration {
    let once = |run: &mut dyn FnMut()| {
        let began = Instant::now();
        run();
        began.elapsed()
    };
    let first = once(&mut run);
    // Nobody wants to wait for what is slow three times.
    if first > Duration::from_secs(2) {
        return first;
    }
    (0..2).map(|_| once(&mut run)).fold(first, Duration::min)
}

fn main() {
    let mut arguments: Vec<String> = std::env::args()
        .skip(1)
        .filter(|a| a != "--bench")
        .collect();
    let lab = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hosts/lab/root");
    let root = arguments.iter().position(|word| word.contains('/'));
    let root = root.map_or(lab.into(), |place| arguments.remove(place));
    let root = Root::recorded(root);
    let ways: [(&str, Way); 4] = [
        ("start", |text, host| {
            let document = Document::parse(text).expect("it is well-formed");
            let domain = Domain::new(&document).expect("it is a domain");
            let _ = hook::start(
                text,
                &domain,
                host,
                &Config::default(),
                Definition::Persistent,
            );
        }),
        ("restore", |text, host| {
            let document = Document::parse(text).expect("it is well-formed");
            let domain = Domain::new(&document).expect("it is a domain");
            let _ = hook::incoming(&document, &domain, host, &Config::default());
        }),
        ("fixup", |text, host| {
            let _ = fix(text, host, &Config::default().policy, &Wishes::default());
        }),
        ("fixup all", |text, host| {
            let wishes = Wishes {
                display: Some(Displays::Full),
                consent: Some([Consent::Remote, Consent::Video].into()),
                ..Wishes::default()
            };
            let _ = fix(text, host, &Config::default().policy, &wishes);
        }),
    ];
    print!("{:28}", "ms with 1,000, 10,000: times");
    for (way, _) in &ways {
        print!("{way:>30}");
    }
    println!();
    for kind in KINDS {
        if arguments
            .first()
            .is_some_and(|wanted| !kind.name.contains(wanted.as_str()))
        {
            continue;
        }
        print!("{:28}", kind.name);
        let texts = [domain(kind, 1_000), domain(kind, 10_000)];
        for (_, way) in &ways {
            let mut times = texts.iter().map(|text| {
                least(|| {
                    way(
                        text,
                        &Host {
                            reading: Reading::new(&root),
                        },
                    );
                })
                .as_secs_f64()
                    * 1000.0
            });
            let (few, many) = (
                times.next().unwrap_or_default(),
                times.next().unwrap_or_default(),
            );
            print!("{few:11.1}{many:11.1}:{:6.1}", many / few);
            let _ = std::io::Write::flush(&mut std::io::stdout());
        }
        println!();
    }
}
