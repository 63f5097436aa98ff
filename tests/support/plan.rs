//! Makes domains by chance, in worlds made by chance, and checks that the promises hold for all.

use std::fmt::Write;

use gfxplane::plan::fixup::fix;
use libtest_mimic::{Failed, Trial};
use proptest::collection::vec;
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestRng, TestRunner};

use crate::support::promises::kept;
use crate::support::schema::{Against, problems};
use crate::support::worlds::of_bytes;

const CASES: u32 = 400;

/// The share of the cases that are validated against the schema, which takes longest.
const VALIDATED: u32 = 12;

/// Returns one test of many domains.
pub(crate) fn trials() -> Vec<Trial> {
    vec![
        Trial::test("plan::any-domain-in-any-world", || {
            run(CASES, 0, domain(), holds)
        }),
        // With few attributes at once, more of the domains start, and more changes are made.
        Trial::test("plan::any-plain-domain-in-any-world", || {
            run(CASES, 1, plain(), holds)
        }),
        Trial::test("plan::valid-stays-valid", || {
            run(VALIDATED, 2, plain(), |text, world| {
                let (surroundings, policy, wishes) = of_bytes(world);
                let Ok(fixed) = fix(text, &surroundings, &policy, &wishes) else {
                    return Ok(());
                };
                if fixed.text == text || !problems(Against::Domain, text)?.is_empty() {
                    return Ok(());
                }
                // The installed schema may be older than libvirt 10.3, which gave these to PCI
                // hostdevs.
                let newer = |problem: &&String| {
                    let names = ["`display`", "`ramfb`"];
                    names.iter().any(|name| problem.contains(name))
                };
                let problems = problems(Against::Domain, &fixed.text)?;
                match problems.iter().find(|problem| !newer(problem)) {
                    None => Ok(()),
                    Some(problem) => Err(format!("no longer valid: {problem}\n{}", fixed.text)),
                }
            })
        }),
    ]
}

/// Runs the same cases every time; more of them with `PROPTEST_CASES`.
pub(crate) fn run(
    cases: u32,
    seed: u8,
    domains: impl Strategy<Value = String>,
    holds: impl Fn(&str, &[u8]) -> Result<(), String>,
) -> Result<(), Failed> {
    let more = std::env::var("PROPTEST_CASES").ok();
    let config = Config {
        cases: more.and_then(|number| number.parse().ok()).unwrap_or(cases),
        failure_persistence: None,
        max_shrink_iters: 4096,
        ..Config::default()
    };
    let chance = TestRng::from_seed(RngAlgorithm::ChaCha, &[seed; 32]);
    TestRunner::new_with_rng(config, chance)
        .run(&(domains, vec(any::<u8>(), 20)), |(text, world)| {
            holds(&text, &world)
                .map_err(|problem| TestCaseError::fail(format!("{problem}\nin:\n{text}")))
        })
        .map_err(|error| error.to_string().into())
}

fn holds(text: &str, world: &[u8]) -> Result<(), String> {
    let (surroundings, policy, wishes) = of_bytes(world);
    let fixed = fix(text, &surroundings, &policy, &wishes).map_err(|error| error.to_string())?;
    kept(text, &fixed, &surroundings, &policy, &wishes)
}

/// The way in which a document is written.
#[derive(Debug, Clone)]
struct Hand {
    quote: char,
    line: &'static str,
    indent: &'static str,
    mark: bool,
    comment: Option<&'static str>,
    spaced: bool,
}

fn hand() -> impl Strategy<Value = Hand> {
    (
        select(vec!['\'', '\'', '"']),
        select(vec!["\n", "\n", "\r\n", ""]),
        select(vec!["  ", "  ", "\t", "", "   "]),
        prop::bool::weighted(0.05),
        option::weighted(0.3, select(vec!["hostdev display='on'", " what for? ", ""])),
        prop::bool::weighted(0.1),
    )
        .prop_map(|(quote, line, indent, mark, comment, spaced)| Hand {
            quote,
            line,
            indent,
            mark,
            comment,
            spaced,
        })
}

/// An element, before it is written down.
#[derive(Debug, Clone, Default)]
struct Part {
    name: &'static str,
    attributes: Vec<(&'static str, String)>,
    children: Vec<Part>,
    text: String,
}

fn part(name: &'static str, attributes: &[(&'static str, &str)]) -> Part {
    Part {
        name,
        attributes: attributes
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect(),
        ..Part::default()
    }
}

impl Part {
    fn with(mut self, children: impl IntoIterator<Item = Part>) -> Self {
        self.children.extend(children);
        self
    }

    fn set(mut self, name: &'static str, value: Option<impl ToString>) -> Self {
        self.attributes
            .extend(value.map(|value| (name, value.to_string())));
        self
    }

    fn write(&self, hand: &Hand, depth: usize, out: &mut String) {
        let indent = if hand.line.is_empty() {
            String::new()
        } else {
            hand.indent.repeat(depth)
        };
        let _ = write!(out, "{indent}<{}", self.name);
        for (name, value) in &self.attributes {
            let (quote, value) = (hand.quote, gfxplane::xml::escape(value));
            let around = if hand.spaced { " " } else { "" };
            let _ = write!(out, " {name}{around}={around}{quote}{value}{quote}");
        }
        if self.children.is_empty() && self.text.is_empty() {
            let _ = write!(out, "/>{}", hand.line);
            return;
        }
        let _ = write!(out, ">{}", self.text);
        if !self.children.is_empty() {
            out.push_str(hand.line);
            if let Some(comment) = hand.comment {
                let _ = write!(out, "{indent}<!--{comment}-->{}", hand.line);
            }
            for child in &self.children {
                child.write(hand, depth + 1, out);
            }
            out.push_str(&indent);
        }
        let _ = write!(out, "</{}>{}", self.name, hand.line);
    }
}

fn switch() -> impl Strategy<Value = Option<&'static str>> {
    select(vec![None, Some("on"), Some("on"), Some("off")])
}

const ALIASES: [&str; 3] = ["ua-one", "ua-vgpu0", "ua-vgpu1"];

/// Makes a hostdev, and sometimes an element that takes one of the numbers of its alias.
fn hostdev() -> impl Strategy<Value = Part> {
    let vfio = (
        0..5_usize,
        switch(),
        select(vec![None, None, None, Some("on"), Some("off")]),
        prop::bool::weighted(0.1),
        option::weighted(0.15, select(ALIASES.to_vec())),
        option::weighted(0.2, select(vec!["on", "off"])),
    );
    let vfio = vfio.prop_map(|(number, display, ramfb, other, alias, rom)| {
        let (kind, source) = if number < 4 {
            let uuid = format!("c1a20000-0000-4000-8000-00000000000{number}");
            ("mdev", part("address", &[("uuid", &uuid)]))
        } else {
            let address = [
                ("domain", "0x0000"),
                ("bus", "0x06"),
                ("slot", "0x12"),
                ("function", "0x5"),
            ];
            ("pci", part("address", &address))
        };
        let model = if other { "vfio-ap" } else { "vfio-pci" };
        part("hostdev", &[("mode", "subsystem"), ("type", kind)])
            .set("managed", (kind == "pci").then_some("yes"))
            .set("model", (kind == "mdev").then_some(model))
            .set("display", display)
            .set("ramfb", ramfb)
            .with([part("source", &[]).with([source])])
            .with(alias.map(|alias| part("alias", &[("name", alias)])))
            .with(rom.map(|bar| part("rom", &[("bar", bar)])))
    });
    let usb = Just(
        part("hostdev", &[("mode", "subsystem"), ("type", "usb")]).with([part("source", &[])
            .with([
                part("vendor", &[("id", "0x1234")]),
                part("product", &[("id", "0xbeef")]),
            ])]),
    );
    let address = [("type", "pci"), ("bus", "0x03"), ("slot", "0x07")];
    let nic = Just(part("interface", &[("type", "hostdev")]).with([
        part("source", &[]).with([part("address", &address).set("function", Some("0x1"))]),
    ]));
    prop_oneof![8 => vfio, 1 => usb, 1 => nic]
}

fn graphics() -> impl Strategy<Value = Part> {
    let kinds = vec![
        "spice",
        "spice",
        "spice",
        "vnc",
        "vnc",
        "dbus",
        "egl-headless",
        "rdp",
        "sdl",
        "desktop",
    ];
    (
        select(kinds),
        select(vec![
            None,
            None,
            Some("none"),
            Some("address"),
            Some("address"),
            Some("socket"),
            Some("network"),
        ]),
        select(vec![None, Some("127.0.0.1"), Some("0.0.0.0"), Some("::1")]),
        select(vec![None, Some("yes"), Some("no")]),
        select(vec![None, Some("-1"), Some("5901")]),
        select(vec![None, None, Some("yes"), Some("no")]),
        option::weighted(0.3, select(vec!["/dev/dri/renderD128", ""])),
        option::weighted(0.2, Just("pass&word")),
        prop::bool::weighted(0.15),
    )
        .prop_map(
            |(kind, listen, address, autoport, port, gl, node, password, secure)| {
                let serves = matches!(kind, "spice" | "vnc" | "rdp");
                let mut made = part("graphics", &[("type", kind)]);
                if serves {
                    made = made
                        .set("port", port)
                        .set("autoport", autoport)
                        .set("listen", address.filter(|_| listen.is_none()))
                        .set("passwd", password);
                }
                if kind == "spice" && secure {
                    made = made.set("defaultMode", Some("secure"));
                }
                if kind == "dbus" && !secure {
                    made = made.set("p2p", Some("yes"));
                }
                if let Some(listen) = listen.filter(|_| serves) {
                    let (name, value) = match listen {
                        "address" => ("address", address),
                        "network" => ("network", Some("default")),
                        _ => ("socket", None),
                    };
                    made = made.with([part("listen", &[("type", listen)]).set(name, value)]);
                }
                if kind == "spice" && secure {
                    made = made.with([part("channel", &[("name", "main"), ("mode", "secure")])]);
                }
                let has_gl = gl.is_some() || node.is_some();
                if has_gl && !matches!(kind, "vnc" | "rdp" | "desktop") {
                    let enable = gl.filter(|_| kind != "egl-headless");
                    made = made.with([part("gl", &[])
                        .set("enable", enable)
                        .set("rendernode", node)]);
                }
                made
            },
        )
}

fn video() -> impl Strategy<Value = Part> {
    (
        select(vec![
            "vga", "qxl", "virtio", "virtio", "none", "ramfb", "bochs", "",
        ]),
        prop::bool::weighted(0.2),
        prop::bool::weighted(0.3),
    )
        .prop_map(|(kind, primary, accelerated)| {
            if kind.is_empty() {
                return part("video", &[]);
            }
            let mut model =
                part("model", &[("type", kind)]).set("primary", primary.then_some("yes"));
            if accelerated && kind == "virtio" {
                model = model.with([part("acceleration", &[("accel3d", "yes")])]);
            }
            part("video", &[]).with([model])
        })
}

const NAMES: [&str; 5] = ["hostdev0", "hostdev1", "hostdev2", "ua-one", "ua-vgpu0"];

/// Makes arguments for QEMU, as how-tos have them.
fn arguments() -> impl Strategy<Value = Vec<String>> {
    let properties = vec![
        "display=on",
        "display=off",
        "ramfb=on",
        "driver=vfio-pci-nohotplug",
        "driver=nonesuch",
        "x-igd-opregion=on",
        "romfile=/a/rom",
        "xres=1280",
        "bare",
    ];
    let set = (select(NAMES.to_vec()), select(properties))
        .prop_map(|(name, property)| vec!["-set".to_owned(), format!("device.{name}.{property}")]);
    let other = select(vec![
        vec!["-display", "gtk"],
        vec!["-device", "pci-testdev,id=hostdev1"],
        vec!["-set"],
        vec!["-cpu", "host"],
    ])
    .prop_map(|words| words.into_iter().map(String::from).collect());
    vec(prop_oneof![6 => set, 1 => other], 0..3).prop_map(|all| all.concat())
}

/// Makes properties in `qemu:override`.
fn overrides() -> impl Strategy<Value = Vec<Part>> {
    let properties = vec![
        ("display", "string", "on"),
        ("display", "string", "off"),
        ("ramfb", "bool", "true"),
        ("ramfb", "bool", "false"),
        ("xres", "unsigned", "1280"),
        ("yres", "unsigned", "720"),
        ("x-igd-opregion", "bool", "true"),
        ("display", "remove", ""),
    ];
    let property = select(properties).prop_map(|(name, kind, value)| {
        part("qemu:property", &[("name", name), ("type", kind)])
            .set("value", (kind != "remove").then_some(value))
    });
    let device = (select(NAMES.to_vec()), vec(property, 1..3)).prop_map(|(alias, properties)| {
        part("qemu:device", &[("alias", alias)]).with([part("qemu:frontend", &[]).with(properties)])
    });
    vec(device, 0..3)
}

fn metadata() -> impl Strategy<Value = Vec<Part>> {
    let windows = part(
        "libosinfo:libosinfo",
        &[(
            "xmlns:libosinfo",
            "http://libosinfo.org/xmlns/libvirt/domain/1.0",
        )],
    )
    .with([part(
        "libosinfo:os",
        &[("id", "http://microsoft.com/win/10")],
    )]);
    let nova = part(
        "nova:instance",
        &[("xmlns:nova", "http://openstack.org/xmlns/libvirt/nova/1.1")],
    );
    let policy = (
        select(vec![
            None,
            Some("full"),
            Some("asked"),
            Some("off"),
            Some("auto"),
        ]),
        select(vec![None, Some("remote"), Some("all"), Some("")]),
        select(vec![None, Some("ramfb")]),
    )
        .prop_map(|(display, consent, boot)| {
            part(
                "gfxplane:policy",
                &[("xmlns:gfxplane", "urn:gfxplane:domain:1")],
            )
            .set("display", display)
            .set("consent", consent)
            .set("boot_display", boot)
        });
    (
        option::weighted(0.3, Just(windows)),
        option::weighted(0.1, Just(nova)),
        option::weighted(0.3, policy),
    )
        .prop_map(|(one, two, three)| [one, two, three].into_iter().flatten().collect())
}

/// Makes a domain with a bit of everything.
pub(crate) fn domain() -> impl Strategy<Value = String> {
    (
        vec(hostdev(), 1..4),
        vec(graphics(), 0..5),
        vec(video(), 0..3),
        metadata(),
        arguments(),
        overrides(),
        any::<bool>(),
        hand(),
    )
        .prop_map(
            |(hostdevs, graphics, videos, metadata, arguments, overrides, turned, hand)| {
                let mut devices = [graphics, videos, hostdevs].concat();
                if turned {
                    devices.reverse();
                }
                write(devices, metadata, &arguments, overrides, &hand)
            },
        )
}

/// Makes a domain as most are.
pub(crate) fn plain() -> impl Strategy<Value = String> {
    (
        vec(hostdev(), 1..3),
        vec(graphics(), 0..3),
        vec(video(), 0..2),
        hand(),
    )
        .prop_map(|(hostdevs, graphics, videos, hand)| {
            let devices = [graphics, videos, hostdevs].concat();
            write(devices, Vec::new(), &[], Vec::new(), &hand)
        })
}

fn write(
    devices: Vec<Part>,
    metadata: Vec<Part>,
    arguments: &[String],
    overrides: Vec<Part>,
    hand: &Hand,
) -> String {
    let said = |name, text: &str| Part {
        text: text.into(),
        ..part(name, &[])
    };
    let mut root = part("domain", &[("type", "kvm")]);
    if !arguments.is_empty() || !overrides.is_empty() {
        root = root.set(
            "xmlns:qemu",
            Some("http://libvirt.org/schemas/domain/qemu/1.0"),
        );
    }
    let system = Part {
        text: "hvm".into(),
        ..part("type", &[("arch", "x86_64"), ("machine", "q35")])
    };
    root = root.with([said("name", "guest")]);
    if !metadata.is_empty() {
        root = root.with([part("metadata", &[]).with(metadata)]);
    }
    root = root.with([
        said("memory", "1048576"),
        said("vcpu", "1"),
        part("os", &[]).with([system]),
        part("devices", &[]).with(devices),
    ]);
    if !arguments.is_empty() {
        let arguments = arguments
            .iter()
            .map(|value| part("qemu:arg", &[("value", value)]));
        root = root.with([part("qemu:commandline", &[]).with(arguments)]);
    }
    if !overrides.is_empty() {
        root = root.with([part("qemu:override", &[]).with(overrides)]);
    }
    let mut text = String::new();
    if hand.mark {
        text.push('\u{feff}');
    }
    root.write(hand, 0, &mut text);
    text
}
