//! Writes a domain for a recording. The result has the parts that gfxplane reads ([`KEPT`]), and no
//! others. It is written anew, so that unforeseen comments, texts and names are left out.

mod arguments;

use arguments::kept_arguments;

use crate::cli::collect::says_nothing;
use crate::device::id::DeviceId;
use crate::domain::shell::is_harmless;
use crate::domain::{LIBOSINFO_NAMESPACE, MANAGERS, POLICY_NAMESPACE, QEMU_NAMESPACE};
use crate::predict::arguments::is_telling;
use crate::xml::{Document, Edit, Element, escape};

/// The text that replaces a value.
const LEFT_OUT: &str = "left-out";

/// The way in which the value of an attribute is kept.
#[derive(Debug, Clone, Copy)]
enum How {
    /// The value stays if it is a single word.
    Word,
    /// The value stays if it is a number.
    Number,
    /// The value stays if it is a unit of memory.
    Unit,
    /// The value stays if it names a device of the host.
    Device,
    /// The value stays if libvirt accepts it as an alias.
    Alias,
    /// The value stays if it is a vfio driver.
    Driver,
    /// The value stays if it is `none`.
    None_,
    /// The value stays if it is an address that many machines have. Otherwise another address
    /// replaces it.
    Address,
    /// The value stays if it is a render node. Otherwise another path replaces it.
    Node,
    /// Another text replaces the value, to show only that the attribute exists.
    There,
    /// The value stays if it is no more than a switch or a number.
    Telling,
}
use How::{Address, Alias, Device, Driver, Node, None_, Number, Telling, There, Unit, Word};

/// The elements that are kept, by their paths below `<domain>`, and their attributes. `devices/*`
/// means any of [`DEVICES`], and any hostdev, graphics or video.
const KEPT: &[(&str, &[(&str, How)])] = &[
    ("", &[("type", Word)]),
    ("memory", &[("unit", Unit)]),
    ("currentMemory", &[("unit", Unit)]),
    ("vcpu", &[]),
    ("memoryBacking", &[]),
    ("memoryBacking/source", &[("type", Word)]),
    ("memoryBacking/access", &[("mode", Word)]),
    ("os", &[("firmware", Word)]),
    ("os/type", &[("arch", Word), ("machine", Word)]),
    ("os/loader", &[("type", Word)]),
    ("metadata", &[]),
    ("metadata/libosinfo:libosinfo", &[]),
    ("metadata/libosinfo:libosinfo/libosinfo:os", &[("id", Word)]),
    (
        "metadata/gfxplane:policy",
        &[
            ("display", Word),
            ("unknown", Word),
            ("video", Word),
            ("boot_display", Word),
            ("guest", Word),
            ("consent", Word),
        ],
    ),
    ("devices", &[]),
    ("devices/emulator", &[]),
    (
        "devices/hostdev",
        &[
            ("mode", Word),
            ("type", Word),
            ("managed", Word),
            ("model", Word),
            ("display", Word),
            ("ramfb", Word),
        ],
    ),
    ("devices/hostdev/source", &[]),
    (
        "devices/hostdev/source/address",
        &[
            ("uuid", Device),
            ("domain", Number),
            ("bus", Number),
            ("slot", Number),
            ("function", Number),
        ],
    ),
    (
        "devices/hostdev/driver",
        &[("name", Driver), ("model", Driver)],
    ),
    ("devices/hostdev/boot", &[("order", Number)]),
    ("devices/hostdev/rom", &[("bar", Word), ("file", There)]),
    ("devices/interface", &[("type", Word)]),
    ("devices/interface/mac", &[]),
    (
        "devices/graphics",
        &[
            ("type", Word),
            ("port", Number),
            ("tlsPort", Number),
            ("autoport", Word),
            ("listen", Address),
            ("socket", There),
            ("address", There),
            ("defaultMode", Word),
            ("p2p", Word),
            ("replaceUser", Word),
            ("multiUser", Word),
        ],
    ),
    (
        "devices/graphics/listen",
        &[
            ("type", Word),
            ("address", Address),
            ("network", There),
            ("socket", There),
        ],
    ),
    (
        "devices/graphics/gl",
        &[("enable", Word), ("rendernode", Node)],
    ),
    (
        "devices/graphics/channel",
        &[("name", Word), ("mode", Word)],
    ),
    ("devices/video", &[]),
    ("devices/video/driver", &[("name", Word)]),
    (
        "devices/video/model",
        &[
            ("type", Word),
            ("ram", Number),
            ("vram", Number),
            ("vram64", Number),
            ("vgamem", Number),
            ("heads", Number),
            ("primary", Word),
            ("blob", Word),
            ("edid", Word),
            ("device", Word),
        ],
    ),
    (
        "devices/video/model/acceleration",
        &[("accel2d", Word), ("accel3d", Word), ("rendernode", Node)],
    ),
    (
        "devices/video/model/resolution",
        &[("x", Number), ("y", Number)],
    ),
    ("devices/*", &[("type", Word), ("model", Word)]),
    ("devices/*/model", &[("type", None_)]),
    ("devices/*/alias", &[("name", Alias)]),
    (
        "devices/*/address",
        &[
            ("type", Word),
            ("domain", Number),
            ("bus", Number),
            ("slot", Number),
            ("function", Number),
            ("multifunction", Word),
        ],
    ),
    ("qemu:commandline", &[]),
    ("qemu:commandline/qemu:arg", &[]),
    ("qemu:commandline/qemu:env", &[("name", Word)]),
    ("qemu:capabilities", &[]),
    ("qemu:capabilities/qemu:add", &[("capability", Word)]),
    ("qemu:capabilities/qemu:del", &[("capability", Word)]),
    ("qemu:override", &[]),
    ("qemu:override/qemu:device", &[("alias", Alias)]),
    ("qemu:override/qemu:device/qemu:frontend", &[]),
    (
        "qemu:override/qemu:device/qemu:frontend/qemu:property",
        &[("name", Word), ("type", Word), ("value", Telling)],
    ),
];

/// The libvirt devices whose type and address are kept, because an address decides where other
/// devices go (libvirt docs/formatdomain.rst). Disks and file systems have nothing to do with
/// screens.
const DEVICES: [&str; 24] = [
    "audio",
    "channel",
    "console",
    "controller",
    "crypto",
    "hub",
    "input",
    "interface",
    "iommu",
    "lease",
    "memballoon",
    "memory",
    "panic",
    "parallel",
    "pstore",
    "redirdev",
    "rng",
    "serial",
    "shmem",
    "smartcard",
    "sound",
    "tpm",
    "vsock",
    "watchdog",
];

/// Variables of QEMU's environment that are kept, without their values.
const VARIABLES: [&str; 3] = ["DISPLAY", "WAYLAND_DISPLAY", "GDK_BACKEND"];

/// Returns the text of a domain with the parts that gfxplane reads. `number` is the domain's place
/// in the recording.
pub(super) fn kept(document: &Document<'_>, number: usize) -> String {
    let arguments = document
        .elements()
        .filter(|element| element.is(Some(QEMU_NAMESPACE), "arg") && is_in_command_line(*element))
        .map(|element| element.attribute("value").unwrap_or_default().into_owned());
    let arguments: Vec<String> = arguments.collect();
    let mut writer = Writer {
        text: String::new(),
        number,
        cards: 0,
        arguments: kept_arguments(&arguments).into_iter(),
    };
    writer.element(document.root(), "", 0);
    writer.text
}

/// Returns the text of a domain with three dots in place of each value that may be a secret: each
/// value that [`kept`] would not keep. Returns an empty text if `text` is not XML.
pub(in crate::cli) fn veiled(text: &str) -> String {
    let Ok(document) = Document::parse(text) else {
        return String::new();
    };
    let mut edits = Vec::new();
    let mut arguments = Vec::new();
    veil(document.root(), Some(""), &mut arguments, &mut edits);
    let values: Vec<String> = arguments.iter().map(|(_, value)| value.clone()).collect();
    for ((element, value), kept) in arguments.iter().zip(kept_arguments(&values)) {
        let told = if *value == kept { value } else { VEIL };
        edits.push(element.set_attribute("value", told));
    }
    without_comments(&document.apply(&edits))
}

/// The text that replaces a value that may be a secret.
const VEIL: &str = "…";

fn veil<'d, 'a>(
    element: Element<'d, 'a>,
    path: Option<&str>,
    arguments: &mut Vec<(Element<'d, 'a>, String)>,
    edits: &mut Vec<Edit>,
) {
    let known = path.and_then(attributes).unwrap_or_default();
    for (name, value) in element.attributes() {
        let is_arg = path == Some("qemu:commandline/qemu:arg") && name == "value";
        let namespaces = [QEMU_NAMESPACE, POLICY_NAMESPACE, LIBOSINFO_NAMESPACE];
        let is_namespace = name.starts_with("xmlns") && namespaces.contains(&value.as_ref());
        let how = known.iter().find(|(known, _)| *known == name);
        let kept = how.and_then(|(_, how)| how.kept(&value));
        if is_arg {
            arguments.push((element, value.into_owned()));
        } else if !is_namespace && kept.as_deref() != Some(&value) {
            edits.push(element.set_attribute(name, VEIL));
        }
    }
    let is_told = |text: &str| match path {
        Some("name" | "uuid") => true,
        Some(path) => text_kept(text, path),
        None => false,
    };
    if let Some(text) = element.text().filter(|text| !text.trim().is_empty())
        && !is_told(text.trim())
    {
        edits.push(element.set_text(VEIL));
    }
    for child in element.children() {
        let below = path.zip(name(child)).map(|(path, name)| match path {
            "" => name,
            path => format!("{path}/{name}"),
        });
        veil(child, below.as_deref(), arguments, edits);
    }
}

/// Returns a well-formed text without the content of its comments.
fn without_comments(text: &str) -> String {
    let mut all = String::new();
    let mut rest = text;
    while let Some((before, comment)) = rest.split_once("<!--") {
        let (_, after) = comment.split_once("-->").unwrap_or_default();
        all += &format!("{before}<!-- {VEIL} -->");
        rest = after;
    }
    all + rest
}

/// Returns whether an element is in the place where libvirt reads QEMU's arguments.
fn is_in_command_line(element: Element<'_, '_>) -> bool {
    element.parent().is_some_and(|parent| {
        let above = parent.parent();
        parent.is(Some(QEMU_NAMESPACE), "commandline")
            && above.is_some_and(|a| a.parent().is_none())
    })
}

struct Writer {
    text: String,
    number: usize,
    cards: usize,
    /// The kept argument for each `<qemu:arg>`, in their order.
    arguments: std::vec::IntoIter<String>,
}

/// Returns the name of an element in [`KEPT`]; `None` for an element of another namespace.
fn name(element: Element<'_, '_>) -> Option<String> {
    let local = element.local_name();
    match element.namespace().as_deref() {
        None => Some(local.to_owned()),
        Some(QEMU_NAMESPACE) => Some(format!("qemu:{local}")),
        Some(POLICY_NAMESPACE) => Some(format!("gfxplane:{local}")),
        Some(LIBOSINFO_NAMESPACE) => Some(format!("libosinfo:{local}")),
        Some(_) => None,
    }
}

fn attributes(path: &str) -> Option<&'static [(&'static str, How)]> {
    let of = |path: &str| KEPT.iter().find(|(kept, _)| *kept == path);
    let general = || {
        let mut parts: Vec<&str> = path.split('/').collect();
        let is_known = |device| {
            DEVICES.contains(&device) || matches!(device, "hostdev" | "graphics" | "video")
        };
        match parts[..] {
            ["devices", device, ..] if is_known(device) => {
                parts[1] = "*";
                of(&parts.join("/"))
            }
            _ => None,
        }
    };
    of(path).or_else(general).map(|(_, attributes)| *attributes)
}

impl Writer {
    /// Writes an element. `path` is the element's path below `<domain>`.
    fn element(&mut self, element: Element<'_, '_>, path: &str, depth: usize) {
        let Some(attributes) = attributes(path) else {
            return;
        };
        let is_arg = path == "qemu:commandline/qemu:arg";
        let is_variable = |name: &str| VARIABLES.contains(&name);
        if path.ends_with("/qemu:env")
            && !element.attribute("name").is_some_and(|n| is_variable(&n))
        {
            return;
        }
        let shown = path.rsplit('/').next().filter(|name| !name.is_empty());
        let shown = shown.unwrap_or("domain");
        let indent = "  ".repeat(depth);
        self.text += &format!("{indent}<{shown}");
        for (name, how) in attributes {
            let value = element.attribute(name).and_then(|value| how.kept(&value));
            if let Some(value) = value {
                self.text += &format!(" {name}='{}'", escape(&value));
            }
        }
        let has_qemu = element
            .children()
            .any(|child| child.namespace().as_deref() == Some(QEMU_NAMESPACE));
        match shown {
            "domain" if has_qemu => self.text += &format!(" xmlns:qemu='{QEMU_NAMESPACE}'"),
            "gfxplane:policy" => self.text += &format!(" xmlns:gfxplane='{POLICY_NAMESPACE}'"),
            "libosinfo:libosinfo" => {
                self.text += &format!(" xmlns:libosinfo='{LIBOSINFO_NAMESPACE}'");
            }
            _ => {}
        }
        if is_arg {
            let value = self.arguments.next().unwrap_or_default();
            self.text += &format!(" value='{}'", escape(&value));
        }
        if path == "devices/interface/mac" {
            self.cards += 1;
            let (high, low) = (self.cards / 256 % 256, self.cards % 256);
            self.text += &format!(" address='52:54:00:00:{high:02x}:{low:02x}'");
        }
        if let Some(text) = self.text_of(element, path) {
            self.text += &format!(">{}</{shown}>\n", escape(&text));
            return;
        }
        let start = self.text.len();
        self.text += ">\n";
        let inside = self.text.len();
        if depth == 0 {
            let number = self.number;
            self.text += &format!("  <name>domain-{number}</name>\n");
            self.text += &format!("  <uuid>00000000-0000-4000-8000-{number:012}</uuid>\n");
        }
        // The source of any other hostdev stays empty.
        let is_other = path == "devices/hostdev/source" && {
            let hostdev = element.parent();
            let kind = hostdev.and_then(|hostdev| hostdev.attribute("type"));
            !matches!(kind.as_deref(), Some("mdev" | "pci"))
        };
        for child in element.children().filter(|_| !is_other) {
            match name(child) {
                Some(name) if path.is_empty() => self.element(child, &name, depth + 1),
                Some(name) => self.element(child, &format!("{path}/{name}"), depth + 1),
                None if path == "metadata" => self.manager(child),
                None => {}
            }
        }
        if self.text.len() == inside {
            self.text.truncate(start);
            self.text += "/>\n";
        } else {
            self.text += &format!("{indent}</{shown}>\n");
        }
    }

    /// Writes an element in place of the metadata of another manager, if it is a known one.
    fn manager(&mut self, metadata: Element<'_, '_>) {
        let namespace = metadata.namespace().unwrap_or_default();
        let part = MANAGERS.iter().find(|(part, _)| namespace.contains(part));
        if let Some((part, _)) = part {
            let left = format!("    <left-out:metadata xmlns:left-out='urn:left-out:{part}'/>\n");
            self.text += &left;
        }
    }

    /// Returns the text of an element; `None` if the text is not kept.
    fn text_of(&self, element: Element<'_, '_>, path: &str) -> Option<String> {
        let text = element.text()?.trim().to_owned();
        (text_kept(&text, path) && !text.is_empty()).then_some(text)
    }
}

/// Returns whether the text of an element is kept.
fn text_kept(text: &str, path: &str) -> bool {
    match path {
        "memory" | "currentMemory" | "vcpu" => text.bytes().all(|byte| byte.is_ascii_digit()),
        "os/type" => is_word(text),
        // The emulator's path leads to the record of its abilities.
        "devices/emulator" => text.chars().all(is_harmless),
        _ => false,
    }
}

/// Returns whether a text is one word.
fn is_word(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.:,+/-".contains(c);
    text.len() <= 64 && text.chars().all(fits)
}

/// libvirt's units (docs/formatdomain.rst, "memory").
const UNITS: [&str; 14] = [
    "b", "bytes", "KB", "k", "KiB", "MB", "M", "MiB", "GB", "G", "GiB", "TB", "T", "TiB",
];

fn is_number(text: &str) -> bool {
    let number = text.strip_prefix('-').unwrap_or(text);
    let digits = number.strip_prefix("0x").unwrap_or(number);
    (1..=10).contains(&digits.len())
        && number.starts_with(|c: char| c.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns whether libvirt accepts a text as an alias, its own or a user's (src/conf/domain_conf.c,
/// `virDomainDeviceAliasIsUserAlias`).
fn is_alias(text: &str) -> bool {
    let number = text.strip_prefix("hostdev");
    let is_own = number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    is_own || text.starts_with("ua-") && is_word(text)
}

impl How {
    /// Returns the kept form of a value; `None` if the attribute is left out.
    fn kept(self, value: &str) -> Option<String> {
        let kept = |is_kept: bool, other: &str| if is_kept { value } else { other }.to_owned();
        match self {
            Word => is_word(value).then(|| value.to_owned()),
            Number => is_number(value).then(|| value.to_owned()),
            Unit => UNITS.contains(&value).then(|| value.to_owned()),
            Device => is_a_device(value).then(|| value.to_owned()),
            Alias => is_alias(value).then(|| value.to_owned()),
            Driver => (value.starts_with("vfio") && is_word(value)).then(|| value.to_owned()),
            None_ => (value == "none").then(|| value.to_owned()),
            Address => Some(kept(value.is_empty() || says_nothing(value), "192.0.2.1")),
            Node => {
                let is_node = value.starts_with("/dev/dri/") && is_word(value);
                Some(kept(is_node, "/dev/dri/left-out"))
            }
            There => Some(kept(value.is_empty(), LEFT_OUT)),
            Telling => Some(kept(is_telling(value), LEFT_OUT)),
        }
    }
}

/// Returns whether a text names a device of the host's: a path in sysfs, or an address.
fn is_a_device(text: &str) -> bool {
    let name = text
        .trim_end_matches('/')
        .rsplit('/')
        .next()
        .unwrap_or_default();
    name.parse::<DeviceId>().is_ok()
}
