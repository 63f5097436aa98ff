//! Writes a domain for a recording. The result has only the parts that gfxplane reads ([`KEPT`]).
//! It is written from nothing, so that unforeseen comments, texts and names are left out.

mod commandline;

use commandline::kept_arguments;

use crate::cli::collect::says_nothing;
use crate::device::id::DeviceId;
use crate::domain::shell::is_harmless;
use crate::domain::{LIBOSINFO_NAMESPACE, MANAGERS, POLICY_NAMESPACE, QEMU_NAMESPACE};
use crate::predict::arguments::is_telling;
use crate::xml::{Document, Edit, Element, escape};

/// The text in place of a value that is left out.
const LEFT_OUT: &str = "left-out";

/// The elements that are kept, one a line: the path below `<domain>`, and the attributes. `.` is
/// `<domain>` itself, and `devices/*` is each of [`DEVICES`]. After a colon comes the kind of the
/// attribute's value. A value without a kind is kept if it is a word ([`is_word`]).
///
/// * `number`, `unit` (of memory), `device` (a name of the host's), `alias`, `driver` (of vfio),
///   `none`: an attribute with a value of another kind is left out.
/// * `address` (one that many machines have), `node` (a render node), `telling` (a switch or a
///   number), `there` (only an empty value): a value of another kind is replaced.
const KEPT: &str = "
. type
memory unit:unit
currentMemory unit:unit
vcpu
memoryBacking
memoryBacking/source type
memoryBacking/access mode
os firmware
os/type arch machine
os/loader type
metadata
metadata/libosinfo:libosinfo
metadata/libosinfo:libosinfo/libosinfo:os id
metadata/gfxplane:policy display unknown video boot_display guest consent
devices
devices/emulator
devices/hostdev mode type managed model display ramfb
devices/hostdev/source
devices/hostdev/source/address uuid:device domain:number bus:number slot:number function:number
devices/hostdev/driver name:driver model:driver
devices/hostdev/boot order:number
devices/hostdev/rom bar file:there
devices/interface type
devices/graphics type port:number tlsPort:number autoport listen:address socket:there \
    address:there defaultMode p2p replaceUser multiUser
devices/graphics/listen type address:address network:there socket:there
devices/graphics/gl enable rendernode:node
devices/graphics/channel name mode
devices/video
devices/video/driver name
devices/video/model type ram:number vram:number vram64:number vgamem:number heads:number primary \
    blob edid device
devices/video/model/acceleration accel2d accel3d rendernode:node
devices/video/model/resolution x:number y:number
devices/* type model
devices/*/model type:none
devices/*/alias name:alias
devices/*/address type domain:number bus:number slot:number function:number multifunction
qemu:commandline
qemu:commandline/qemu:arg
qemu:commandline/qemu:env name
qemu:capabilities
qemu:capabilities/qemu:add capability
qemu:capabilities/qemu:del capability
qemu:override
qemu:override/qemu:device alias:alias
qemu:override/qemu:device/qemu:frontend
qemu:override/qemu:device/qemu:frontend/qemu:property name type value:telling";

/// The libvirt devices whose type and address are kept, because an address decides where other
/// devices go (libvirt docs/formatdomain.rst). Disks and file systems have nothing to do with
/// screens.
const DEVICES: &str = "audio channel console controller crypto graphics hostdev hub input interface iommu \
    lease memballoon memory panic parallel pstore redirdev rng serial shmem smartcard sound tpm \
    video vsock watchdog";

/// Variables of QEMU's environment that are kept, without their values.
const VARIABLES: [&str; 3] = ["DISPLAY", "WAYLAND_DISPLAY", "GDK_BACKEND"];

/// Returns the text of a domain with only the parts that gfxplane reads. Its name and UUID are made
/// from `number`.
pub(super) fn kept(document: &Document<'_>, number: usize) -> String {
    let arguments = document
        .elements()
        .filter(|element| element.is(Some(QEMU_NAMESPACE), "arg") && is_in_command_line(*element))
        .map(|element| element.attribute("value").unwrap_or_default().into_owned());
    let arguments: Vec<String> = arguments.collect();
    let mut writer = Writer {
        text: String::new(),
        number,
        arguments: kept_arguments(&arguments).into_iter(),
    };
    writer.element(document.root(), "", 0);
    writer.text
}

/// Returns the text of a domain with `…` in place of each comment, and of each value that [`kept`]
/// would not keep. The name and the UUID stay. Empty if `text` is not XML.
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
        let kind = known.iter().find(|(known, _)| *known == name);
        let kept = kind.and_then(|(_, kind)| kept_as(kind, &value));
        if is_arg {
            arguments.push((element, value.into_owned()));
        } else if !is_namespace && kept != Some(&value) {
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

/// Returns a well-formed XML text with `…` as the content of each comment.
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

/// Returns whether an element is where libvirt reads QEMU's arguments.
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
    /// The kept argument for each `<qemu:arg>`, in their order.
    arguments: std::vec::IntoIter<String>,
}

/// Returns the name that an element has in [`KEPT`]; `None` if the element has another namespace.
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

/// Returns the attributes that are kept of the element at this path, each with the kind of its
/// value; `None` if the element is not kept.
fn attributes(path: &str) -> Option<Vec<(&'static str, &'static str)>> {
    let of = |path: &str| {
        let mut lines = KEPT.lines().map(str::split_ascii_whitespace);
        lines.find_map(|mut words| (words.next() == Some(path)).then_some(words))
    };
    let general = || {
        let below = path.strip_prefix("devices/")?;
        let (device, _) = below.split_once('/').unwrap_or((below, ""));
        let is_known = DEVICES.split(' ').any(|known| known == device);
        of(&format!("devices/*{}", &below[device.len()..])).filter(|_| is_known)
    };
    let words = of(if path.is_empty() { "." } else { path }).or_else(general)?;
    Some(
        words
            .map(|word| word.split_once(':').unwrap_or((word, "word")))
            .collect(),
    )
}

impl Writer {
    /// Writes an element and its content, as far as they are kept. `path` is the element's path
    /// below `<domain>`, and `depth` the number of its ancestors.
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
        for (name, kind) in attributes {
            if let Some(value) = element.attribute(name)
                && let Some(kept) = kept_as(kind, &value)
            {
                self.text += &format!(" {name}='{}'", escape(kept));
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
        // A hostdev of another type keeps its source, but nothing in it.
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

    /// If the metadata are those of a known manager, writes an empty element that only names the
    /// manager.
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

fn is_word(text: &str) -> bool {
    let fits = |c: char| c.is_ascii_alphanumeric() || "_.:,+/-".contains(c);
    text.len() <= 64 && text.chars().all(fits)
}

/// libvirt's units (docs/formatdomain.rst, "memory").
const UNITS: &str = "b bytes KB k KiB MB M MiB GB G GiB TB T TiB";

fn is_number(text: &str) -> bool {
    let number = text.strip_prefix('-').unwrap_or(text);
    let digits = number.strip_prefix("0x").unwrap_or(number);
    (1..=10).contains(&digits.len())
        && number.starts_with(|c: char| c.is_ascii_digit())
        && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Returns whether a text can be an alias, libvirt's for a hostdev or a user's
/// (src/conf/domain_conf.c, `virDomainDeviceAliasIsUserAlias`).
fn is_alias(text: &str) -> bool {
    let number = text.strip_prefix("hostdev");
    let is_own = number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()));
    is_own || text.starts_with("ua-") && is_word(text)
}

/// Returns the kept form of a value of this kind ([`KEPT`]); `None` if the attribute is left out.
fn kept_as<'v>(kind: &str, value: &'v str) -> Option<&'v str> {
    let (is_kept, otherwise) = match kind {
        "word" => (is_word(value), None),
        "number" => (is_number(value), None),
        "unit" => (UNITS.split(' ').any(|unit| unit == value), None),
        "device" => (is_a_device(value), None),
        "alias" => (is_alias(value), None),
        "driver" => (value.starts_with("vfio") && is_word(value), None),
        "none" => (value == "none", None),
        "address" => (value.is_empty() || says_nothing(value), Some("192.0.2.1")),
        "node" => (
            value.starts_with("/dev/dri/") && is_word(value),
            Some("/dev/dri/left-out"),
        ),
        "there" => (value.is_empty(), Some(LEFT_OUT)),
        "telling" => (is_telling(value), Some(LEFT_OUT)),
        _ => unreachable!("KEPT has no values of the kind {kind}"),
    };
    if is_kept { Some(value) } else { otherwise }
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
