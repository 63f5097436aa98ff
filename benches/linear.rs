//! How long a domain is looked at that has very many of one thing: for each kind of element and
//! argument the time with 1,000 and with 10,000 of them, side by side. Ten times as many may take
//! about ten times as long.
//!
//! `cargo bench --bench linear [-- [ROOT] [FILTER]]`: ROOT is that of a recorded host (tests/hosts).

#![allow(clippy::print_stdout)]

use std::fmt::Write;
use std::time::Duration;

use gfxplane::daemon::hook::{self, Definition};
use gfxplane::device::id::DeviceId;
use gfxplane::domain::Domain;
use gfxplane::domain::policy::{Consent, Displays, Policy, Unknown, Wishes};
use gfxplane::host::Root;
use gfxplane::host::config::Config;
use gfxplane::plan::fixup::{Surroundings, fix};
use gfxplane::predict::abilities::Abilities;
use gfxplane::predict::screens::Known;
use gfxplane::publish::inventory::Reading;
use gfxplane::xml::Document;
use nix::time::{ClockId, clock_gettime};

/// A kind of element that a domain has many of. Each part is the XML of one, made from its number, and the place where it
/// stands. A kind with several parts has that many of each.
struct Kind {
    name: &'static str,
    parts: &'static [(Place, One)],
}

type One = fn(usize) -> String;

#[derive(Clone, Copy, PartialEq)]
enum Place {
    Devices,
    Arguments,
    /// The value of one argument.
    Argument,
    /// Beside `<devices>`.
    Domain,
    /// In the `<qemu:frontend>` of the first hostdev.
    Override,
    Metadata,
    /// In the place of the domain's own `<graphics>`.
    Graphics,
    /// In that.
    InGraphics,
    /// One of its attributes.
    Attribute,
}

fn argument(words: &[String]) -> String {
    let mut text = String::new();
    for word in words {
        let _ = write!(text, "<qemu:arg value='{word}'/>");
    }
    text
}

fn video(_: usize) -> String {
    "<video><model type='virtio' heads='1' primary='yes'/></video>".into()
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
        parts: &[(Place::Arguments, |n| {
            argument(&["-set".into(), format!("device.hostdev0.p{n}=on")])
        })],
    },
    Kind {
        name: "-set of one property",
        parts: &[(Place::Arguments, |n| {
            argument(&["-set".into(), format!("device.hostdev0.xres={n}")])
        })],
    },
    Kind {
        name: "-set, another device each",
        parts: &[(Place::Arguments, |n| {
            argument(&["-set".into(), format!("device.d{n}.display=on")])
        })],
    },
    Kind {
        name: "-set that is malformed",
        parts: &[(Place::Arguments, |n| {
            argument(&["-set".into(), format!("x{n}")])
        })],
    },
    Kind {
        name: "-global",
        parts: &[(Place::Arguments, |n| {
            argument(&["-global".into(), format!("vfio-pci.p{n}=on")])
        })],
    },
    Kind {
        name: "-device with a screen",
        parts: &[(Place::Arguments, |n| {
            argument(&["-device".into(), format!("VGA,id=v{n}")])
        })],
    },
    Kind {
        name: "-device that is not known",
        parts: &[(Place::Arguments, |n| {
            argument(&["-device".into(), format!("qxl{n},id=v{n}")])
        })],
    },
    Kind {
        name: "-device vfio-pci",
        parts: &[(Place::Arguments, |n| {
            let host = format!(
                "vfio-pci,host={:02x}:{:02x}.{}",
                n / 256 % 256,
                n / 8 % 32,
                n % 8
            );
            argument(&["-device".into(), host])
        })],
    },
    Kind {
        name: "-device and a -set for it",
        parts: &[(Place::Arguments, |n| {
            let device = format!("VGA,id=v{n}");
            argument(&[
                "-device".into(),
                device,
                "-set".into(),
                format!("device.v{n}.edid=on"),
            ])
        })],
    },
    Kind {
        name: "-display",
        parts: &[(Place::Arguments, |n| {
            argument(&["-display".into(), format!("x{n}")])
        })],
    },
    Kind {
        name: "-vnc",
        parts: &[(Place::Arguments, |n| {
            argument(&["-vnc".into(), format!(":{n}")])
        })],
    },
    Kind {
        name: "one argument of many options",
        parts: &[(Place::Argument, |n| format!(",p{n}=on"))],
    },
    Kind {
        name: "another argument",
        parts: &[(Place::Arguments, |n| {
            argument(&[format!("-other{n}"), "x".into()])
        })],
    },
    Kind {
        name: "qemu:property of a hostdev",
        parts: &[(Place::Override, |n| {
            format!("<qemu:property name='p{n}' type='string' value='x'/>")
        })],
    },
    Kind {
        name: "mdev that is not here",
        parts: &[(Place::Devices, mdev)],
    },
    Kind {
        name: "one mdev again and again",
        parts: &[(Place::Devices, |_| mdev(1))],
    },
    Kind {
        name: "PCI device",
        parts: &[(Place::Devices, |n| {
            format!(
                "<hostdev mode='subsystem' type='pci' managed='yes'><source><address domain='{}' bus='{}' \
                 slot='{}' function='{}'/></source></hostdev>",
                n / 65536,
                n / 256 % 256,
                n / 8 % 32,
                n % 8
            )
        })],
    },
    Kind {
        name: "USB hostdev",
        parts: &[(Place::Devices, |n| {
            format!(
                "<hostdev mode='subsystem' type='usb'><source><address bus='1' device='{n}'/></source></hostdev>"
            )
        })],
    },
    Kind {
        name: "graphics vnc",
        parts: &[(Place::Graphics, |n| {
            format!("<graphics type='vnc' port='{n}'/>")
        })],
    },
    Kind {
        name: "graphics dbus",
        parts: &[(Place::Graphics, |_| {
            "<graphics type='dbus' p2p='yes'/>".into()
        })],
    },
    Kind {
        name: "listen of a graphics",
        parts: &[(Place::InGraphics, |_| {
            "<listen type='address' address='::'/>".into()
        })],
    },
    Kind {
        name: "channel of a graphics",
        parts: &[(Place::InGraphics, |_| {
            "<channel name='main' mode='secure'/>".into()
        })],
    },
    Kind {
        name: "video",
        parts: &[(Place::Devices, video)],
    },
    Kind {
        name: "channel spicevmc",
        parts: &[(Place::Devices, |n| {
            format!("<channel type='spicevmc'><target type='virtio' name='c{n}'/></channel>")
        })],
    },
    Kind {
        name: "disk",
        parts: &[(Place::Devices, |n| {
            format!("<disk type='file'><source file='/d{n}'/><target dev='vd{n}'/></disk>")
        })],
    },
    Kind {
        name: "metadata of others",
        parts: &[(Place::Metadata, |n| {
            format!("<m:x xmlns:m='urn:m{n}'>text</m:x>")
        })],
    },
    Kind {
        name: "comment",
        parts: &[(Place::Devices, |n| format!("<!-- {n} -->"))],
    },
    Kind {
        name: "graphics spice",
        parts: &[(Place::Graphics, |n| {
            format!("<graphics type='spice' port='{n}'/>")
        })],
    },
    Kind {
        name: "graphics sdl",
        parts: &[(Place::Graphics, |n| {
            format!("<graphics type='sdl' display=':{n}'/>")
        })],
    },
    Kind {
        name: "graphics egl-headless",
        parts: &[(Place::Graphics, |_| {
            "<graphics type='egl-headless'/>".into()
        })],
    },
    Kind {
        name: "graphics rdp",
        parts: &[(Place::Graphics, |n| {
            format!("<graphics type='rdp' port='{n}'/>")
        })],
    },
    Kind {
        name: "graphics desktop",
        parts: &[(Place::Graphics, |_| "<graphics type='desktop'/>".into())],
    },
    Kind {
        name: "graphics vnc, dbus, video",
        parts: &[
            (Place::Graphics, |_| "<graphics type='vnc'/>".into()),
            (Place::Graphics, |_| "<graphics type='dbus'/>".into()),
            (Place::Devices, video),
        ],
    },
    Kind {
        name: "video none",
        parts: &[(Place::Devices, |_| {
            "<video><model type='none'/></video>".into()
        })],
    },
    Kind {
        name: "attribute of a graphics",
        parts: &[(Place::Attribute, |n| format!("a{n}='x'"))],
    },
    Kind {
        name: "controller",
        parts: &[(Place::Devices, |n| {
            format!("<controller type='pci' index='{n}' model='pcie-root-port'/>")
        })],
    },
    Kind {
        name: "interface of type hostdev",
        parts: &[(Place::Devices, |n| {
            format!("<interface type='hostdev'><alias name='ua-{n}'/></interface>")
        })],
    },
    Kind {
        name: "sound and audio",
        parts: &[(Place::Devices, |n| {
            format!("<sound model='ich9'/><audio id='{n}' type='spice'/>")
        })],
    },
    Kind {
        name: "policy of ours",
        parts: &[(Place::Metadata, |_| {
            "<gfxplane:policy xmlns:gfxplane='urn:gfxplane:domain:1' display='asked'/>".into()
        })],
    },
    Kind {
        name: "qemu:env",
        parts: &[(Place::Arguments, |n| {
            format!("<qemu:env name='E{n}' value='x'/>")
        })],
    },
    Kind {
        name: "qemu:del",
        parts: &[(Place::Domain, |n| {
            format!("<qemu:capabilities><qemu:del capability='c{n}'/></qemu:capabilities>")
        })],
    },
    Kind {
        name: "-vga",
        parts: &[(Place::Arguments, |_| {
            argument(&["-vga".into(), "std".into()])
        })],
    },
    Kind {
        name: "-spice",
        parts: &[(Place::Arguments, |n| {
            argument(&["-spice".into(), format!("port={n}")])
        })],
    },
    Kind {
        name: "-readconfig",
        parts: &[(Place::Arguments, |n| {
            argument(&["-readconfig".into(), format!("/{n}")])
        })],
    },
    Kind {
        name: "-vnc and cards",
        parts: &[
            (Place::Arguments, |n| {
                argument(&["-vnc".into(), format!(":{n}")])
            }),
            (Place::Devices, video),
        ],
    },
    Kind {
        name: "-global and hostdevs",
        parts: &[
            (Place::Arguments, |n| {
                argument(&["-global".into(), format!("vfio-pci.p{n}=on")])
            }),
            (Place::Devices, mdev),
        ],
    },
    Kind {
        name: "-device vfio-pci and hostdevs",
        parts: &[
            (Place::Arguments, |n| {
                argument(&[
                    "-device".into(),
                    format!(
                        "vfio-pci,display=on,sysfsdev=/sys/bus/mdev/devices/c1a2eeee-0000-4000-8000-{n:012x}"
                    ),
                ])
            }),
            (Place::Devices, mdev),
        ],
    },
    Kind {
        name: "a -set for each hostdev",
        parts: &[
            (Place::Arguments, |n| {
                argument(&["-set".into(), format!("device.hostdev{n}.display=off")])
            }),
            (Place::Devices, mdev),
        ],
    },
    Kind {
        name: "the same, and QEMU finds it",
        parts: &[
            (Place::Arguments, |n| {
                argument(&["-set".into(), format!("device.hostdev{n}.xres=800")])
            }),
            (Place::Devices, mdev),
            (Place::Domain, |n| match n {
                1 => "<qemu:capabilities><qemu:del capability='device.json'/>\
                      <qemu:del capability='device.json+hotplug'/></qemu:capabilities>"
                    .into(),
                _ => String::new(),
            }),
        ],
    },
    Kind {
        name: "an override for each hostdev",
        parts: &[
            (Place::Domain, |n| {
                format!(
                    "<qemu:override><qemu:device alias='hostdev{n}'><qemu:frontend>\
                     <qemu:property name='display' type='string' value='on'/>\
                     <qemu:property name='x-no-mmap' type='string' value='on'/>\
                     </qemu:frontend></qemu:device></qemu:override>"
                )
            }),
            (Place::Devices, mdev),
        ],
    },
    Kind {
        name: "overrides and hostdevs in one",
        parts: &[
            (Place::Override, |n| {
                format!("<qemu:property name='p{n}' type='string' value='x'/>")
            }),
            (Place::Devices, mdev),
        ],
    },
    Kind {
        name: "hostdevs and taken aliases",
        parts: &[
            (Place::Devices, |n| {
                format!("<disk><alias name='ua-vgpu{n}'/></disk>")
            }),
            (Place::Arguments, |n| {
                argument(&["-set".into(), format!("device.hostdev{n}.xres=800")])
            }),
            (Place::Devices, mdev),
        ],
    },
];

fn domain(kind: &Kind, many: usize) -> String {
    let all = |place: Place| -> String {
        let parts = kind.parts.iter().filter(|(other, _)| *other == place);
        parts
            .flat_map(|(_, one)| (1..=many).map(|number| one(number) + "\n"))
            .collect()
    };
    let mut arguments = all(Place::Arguments);
    let options = all(Place::Argument).replace('\n', "");
    if !options.is_empty() {
        arguments = argument(&["-device".into(), format!("VGA,id=v{options}")]);
    }
    let mut graphics = all(Place::Graphics);
    if graphics.is_empty() {
        graphics = format!(
            "<graphics type='spice' {}><listen type='address' address='127.0.0.1'/>{}</graphics>",
            all(Place::Attribute),
            all(Place::InGraphics)
        );
    }
    format!(
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>g</name>\
         <uuid>0d0c2f26-4b1a-4c6e-9d52-6f5a1f7b6a01</uuid><metadata>{}</metadata>\
         <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os><devices>\
         <emulator>/usr/bin/qemu-system-x86_64</emulator>{graphics}\n\
         <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on'><source>\
         <address uuid='c1a20000-0000-4000-8000-000000000002'/></source></hostdev>\n{}\
         <memballoon model='none'/></devices>\n{}<qemu:commandline>{arguments}</qemu:commandline>\
         <qemu:override><qemu:device alias='hostdev0'><qemu:frontend>{}</qemu:frontend></qemu:device></qemu:override></domain>\n",
        all(Place::Metadata),
        all(Place::Devices),
        all(Place::Domain),
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

/// The fastest of three, in time of the processor: what else the machine does changes nothing.
fn least(mut run: impl FnMut()) -> Duration {
    let once = |run: &mut dyn FnMut()| {
        let now = || {
            clock_gettime(ClockId::CLOCK_PROCESS_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
        };
        let began = now();
        run();
        now() - began
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
    let ways: [(&str, Way); 5] = [
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
        ("fixup off", |text, host| {
            let policy = Policy {
                unknown: Unknown::Off,
                ..Config::default().policy
            };
            let _ = fix(text, host, &policy, &Wishes::default());
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
    print!("{:30}", "ms with 1,000, 10,000: times");
    for (way, _) in &ways {
        print!("{way:>26}");
    }
    println!();
    for kind in KINDS {
        if arguments
            .first()
            .is_some_and(|wanted| !kind.name.contains(wanted.as_str()))
        {
            continue;
        }
        print!("{:30}", kind.name);
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
            print!("{few:9.1}{many:10.1}:{:6.1}", many / few);
            let _ = std::io::Write::flush(&mut std::io::stdout());
        }
        println!();
    }
}
