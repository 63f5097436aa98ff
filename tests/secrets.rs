//! A secret in every place of a domain that libvirt's schema has for a text of somebody's: none of it
//! is told, by no verb, in no journal, log or file, and none goes into a recording of the host.
//!
//! The domain is made from domain.rng: each element of it with each of its attributes, whatever the
//! schema allows beside one another. What is no word of the schema's own is a secret.

#[path = "support/hooked.rs"]
#[expect(dead_code, reason = "tests/hook.rs uses all of it")]
mod hooked;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Parser as _;
use gfxplane::cli::explain::Explain;
use gfxplane::cli::fixup::Fixup;
use gfxplane::cli::learn::Learn;
use gfxplane::cli::log::Log;
use gfxplane::cli::policy::PolicyCommand;
use gfxplane::cli::undo::Undo;
use gfxplane::cli::verify::Verify;
use gfxplane::device::version::Version;
use gfxplane::domain::QEMU_NAMESPACE;
use gfxplane::host::Root;
use gfxplane::host::log::{By, Entry, What};
use gfxplane::libvirt::{Context, Definition, Failure, Libvirt, New, Replaced, Sink, Start, User};
use gfxplane::plan::words;
use gfxplane::predict::arguments::without_values;
use gfxplane::xml::Document;
use hooked::Hooked;
use roxmltree::Node;
use uuid::Uuid;

const TOOL: &str = env!("CARGO_BIN_EXE_gfxplane");
const HELPER: &str = env!("CARGO_BIN_EXE_gfxplane-helper");
const SECRET: &str = "s3cretXYZZY";

/// libvirt's schemas, as Debian's libvirt-common has them.
const SCHEMAS: &str = "/usr/share/libvirt/schemas";

/// What may stand at one place of a document.
#[derive(Default)]
struct Grown {
    /// Its value is a word of the schema's, or a secret.
    attributes: BTreeMap<String, Option<String>>,
    children: BTreeMap<String, Grown>,
    text: bool,
}

/// The definitions of a schema and of those that it includes.
struct Schema<'t> {
    defines: HashMap<String, Vec<Node<'t, 't>>>,
}

fn texts(name: &str, known: &mut BTreeMap<String, String>) {
    if known.contains_key(name) {
        return;
    }
    let text = fs::read_to_string(Path::new(SCHEMAS).join(name)).unwrap();
    known.insert(name.into(), text.clone());
    let document = roxmltree::Document::parse(&text).unwrap();
    for include in document
        .descendants()
        .filter(|node| node.has_tag_name((RNG, "include")))
    {
        texts(include.attribute("href").unwrap(), known);
    }
}

const RNG: &str = "http://relaxng.org/ns/structure/1.0";

/// Deeper than any element that is read, and than any that holds a secret of another kind.
const DEEPEST: usize = 9;

impl<'t> Schema<'t> {
    /// Grows what a pattern allows. `depth`: of elements; `within`: the definitions it is in.
    fn grow(
        &self,
        pattern: Node<'t, 't>,
        into: &mut Grown,
        depth: usize,
        within: &mut Vec<String>,
    ) {
        for node in pattern.children().filter(Node::is_element) {
            match node.tag_name().name() {
                "element" => {
                    if let Some(name) = node.attribute("name").filter(|_| depth < DEEPEST) {
                        let child = into.children.entry(name.into()).or_default();
                        self.grow(node, child, depth + 1, within);
                    }
                }
                "attribute" => {
                    if let Some(name) = node.attribute("name") {
                        let word = self.word(node, 0);
                        // A place that may hold a text holds one.
                        let known = into.attributes.entry(name.into()).or_insert(word.clone());
                        if word.is_none() {
                            *known = None;
                        }
                    }
                }
                "text" | "data" => into.text = true,
                "ref" => {
                    let name = node.attribute("name").unwrap_or_default().to_owned();
                    if within.iter().filter(|other| **other == name).count() < 2 {
                        within.push(name.clone());
                        for define in self.defines.get(&name).into_iter().flatten() {
                            self.grow(*define, into, depth, within);
                        }
                        within.pop();
                    }
                }
                "name" | "anyName" | "nsName" | "except" => {}
                _ => self.grow(node, into, depth, within),
            }
        }
    }

    /// The first word that an attribute may have, if it may have nothing but words.
    fn word(&self, pattern: Node<'t, 't>, depth: usize) -> Option<String> {
        let mut first = None;
        for node in pattern.children().filter(Node::is_element) {
            let word = match node.tag_name().name() {
                "value" => node.text()?.to_owned(),
                "choice" | "group" | "optional" => self.word(node, depth)?,
                "ref" if depth < 5 => {
                    let define = self.defines.get(node.attribute("name")?)?.first()?;
                    self.word(*define, depth + 1)?
                }
                _ => return None,
            };
            first.get_or_insert(word);
        }
        first
    }
}

/// All that a domain may have.
fn grown() -> Grown {
    let mut all = BTreeMap::new();
    texts("domain.rng", &mut all);
    let documents: Vec<_> = all
        .values()
        .map(|text| roxmltree::Document::parse(text).unwrap())
        .collect();
    let mut schema = Schema {
        defines: HashMap::new(),
    };
    for document in &documents {
        for define in document
            .descendants()
            .filter(|node| node.has_tag_name((RNG, "define")))
        {
            let name = define.attribute("name").unwrap_or_default();
            schema.defines.entry(name.into()).or_default().push(define);
        }
    }
    let mut grown = Grown::default();
    let mut within = Vec::new();
    for define in &schema.defines["domain"] {
        schema.grow(*define, &mut grown, 0, &mut within);
    }
    grown.children.remove("domain").expect("a domain")
}

/// Elements of it as XML; `skip`: names at the top that stand elsewhere.
fn write(grown: &Grown, name: &str, depth: usize, text: &mut String) {
    let _ = write!(text, "{}<{name}", "  ".repeat(depth));
    for (attribute, word) in &grown.attributes {
        let _ = write!(text, " {attribute}='{}'", word.as_deref().unwrap_or(SECRET));
    }
    text.push('>');
    if grown.text {
        text.push_str(SECRET);
    }
    for (name, child) in &grown.children {
        text.push('\n');
        write(child, name, depth + 1, text);
    }
    let _ = writeln!(text, "<!-- {SECRET} --></{name}>");
}

/// Arguments of QEMU's, each option with a secret in its value (qemu-options.hx).
const ARGUMENTS: &[&str] = &[
    "-spice",
    "port=5900,password=@",
    "-vnc",
    ":1,password-secret=@",
    "-object",
    "secret,id=s,data=@",
    "-object",
    r#"{"qom-type":"secret","id":"s","data":"@"}"#,
    "-fw_cfg",
    "name=opt/x,string=@",
    "-smbios",
    "type=11,value=@",
    "-append",
    "@",
    "-drive",
    "file=https://user:@host/x",
    "-netdev",
    "user,id=n,guestfwd=@",
    "-device",
    "virtio-vga,edid=@,id=v",
    "-device",
    r#"{"driver":"virtio-vga","x":"@"}"#,
    "-device",
    "@",
    "-device",
    "vfio-pci,host=01:00.0,x=@",
    "-display",
    "@",
    "-display",
    "spice-app,x=@",
    "-vga",
    "@",
    "-set",
    "device.hostdev0.x-y=@",
    "-set",
    "device.hostdev0.ramfb=@",
    "-set",
    "device.hostdev0.romfile=/@",
    "-set",
    "device.hostdev0.driver=@",
    "-set",
    "device.hostdev0.display=@",
    "-set",
    "@",
    "-set",
    "device.@",
    "-global",
    "vfio-pci.ramfb=@",
    "-global",
    "@",
    "-readconfig",
    "@",
    "-unknown",
    "@",
    "@",
    "-@",
];

/// A domain that QEMU refuses for its screens, with secrets everywhere. `own`: for its screens.
fn domain(own: &str, arguments: &[&str]) -> String {
    let mut grown = grown();
    let mut devices = grown.children.remove("devices").expect("devices");
    // These decide what is said.
    for name in ["name", "uuid", "os", "metadata"] {
        grown.children.remove(name);
    }
    let mut text = format!(
        "<domain type='kvm' xmlns:qemu='{QEMU_NAMESPACE}'>\n<name>g</name><uuid>0d0c2f26-4b1a-4c6e-9d52-6f5a1f7b6a01</uuid>\n\
         <metadata><x:x xmlns:x='urn:{SECRET}' y='{SECRET}'>{SECRET}</x:x></metadata>\n\
         <os><type arch='x86_64' machine='pc-q35-10.0'>hvm</type></os>\n<devices>\n{own}\n"
    );
    // Of these only what is no refusal for itself.
    let graphics = devices.children.remove("graphics");
    devices.children.remove("video");
    devices.children.remove("emulator");
    // One hostdev has what all types have, so its type is the one that reads the least.
    let hostdev = devices.children.get_mut("hostdev").expect("hostdevs");
    for (name, word) in [("mode", "subsystem"), ("type", "usb")] {
        hostdev.attributes.insert(name.into(), Some(word.into()));
    }
    for name in ["model", "rawio", "sgio"] {
        hostdev.attributes.remove(name);
    }
    let source = hostdev.children.get_mut("source").expect("sources");
    for name in ["vendor", "product"] {
        let named = source.children.get_mut(name).expect("USB devices");
        named.attributes.insert("id".into(), Some("0x1d6b".into()));
    }
    source.children.remove("address");
    for name in ["address", "teaming"] {
        hostdev.children.remove(name);
    }
    let interface = devices.children.get_mut("interface").expect("interfaces");
    interface
        .attributes
        .insert("type".into(), Some("user".into()));
    assert!(graphics.is_some_and(|of| of.attributes.contains_key("passwd")));
    for (name, child) in &devices.children {
        write(child, name, 1, &mut text);
    }
    text.push_str("</devices>\n");
    for (name, child) in grown.children.iter().filter(|(name, _)| !is_of_qemu(name)) {
        write(child, name, 1, &mut text);
    }
    text.push_str("<qemu:commandline>\n");
    for argument in arguments {
        let argument = argument.replace('@', SECRET).replace('"', "&quot;");
        let _ = writeln!(text, "<qemu:arg value='{argument}'/>");
    }
    let _ = write!(
        text,
        "<qemu:env name='{SECRET}' value='{SECRET}'/><qemu:env name='DISPLAY' value='{SECRET}'/></qemu:commandline>\n\
         <qemu:override><qemu:device alias='hostdev0'><qemu:frontend><qemu:property name='x' type='string' value='{SECRET}'/>\
         </qemu:frontend></qemu:device></qemu:override></domain>\n"
    );
    Document::parse(&text).unwrap();
    text
}

/// These are in QEMU's namespace, and made by hand.
fn is_of_qemu(name: &str) -> bool {
    ["commandline", "capabilities", "override", "deprecation"].contains(&name)
}

fn hostdev(device: &str) -> String {
    format!(
        "<hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on'><source>\
         <address uuid='{device}'/></source></hostdev>"
    )
}

const DMABUF: &str = "c1a20000-0000-4000-8000-000000000002";

/// Domains that are refused, that start, and of which nothing is known.
fn domains() -> Vec<(&'static str, String)> {
    let spice = format!(
        "<graphics type='spice' port='-1' passwd='{SECRET}' passwdValidTo='{SECRET}' keymap='{SECRET}'><listen type='address' address='127.0.0.1'/></graphics>"
    );
    let vnc = format!("<graphics type='vnc' port='-1' passwd='{SECRET}' listen='0.0.0.0'/>");
    let gl = format!(
        "<graphics type='spice' passwd='{SECRET}'><listen type='none'/><gl enable='yes'/></graphics>"
    );
    let with = |graphics: &str| format!("{graphics}{}", hostdev(DMABUF));
    let mut all = vec![
        ("spice", domain(&with(&spice), &[])),
        ("vnc", domain(&with(&vnc), &[])),
        ("gl", domain(&with(&gl), &[])),
        ("all arguments", domain(&with(&spice), ARGUMENTS)),
    ];
    for pair in ARGUMENTS.chunks(2) {
        all.push(("arguments", domain(&with(&spice), pair)));
        all.push(("arguments with gl", domain(&with(&gl), pair)));
    }
    all
}

/// Where the secret is told.
fn told(what: &str, bytes: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().find(|line| line.contains(SECRET))?;
    Some(format!("{what}: {line}"))
}

fn output_told(what: &str, output: &Output, is_document: bool) -> Vec<String> {
    let out = told(what, &output.stdout).filter(|_| !is_document);
    out.into_iter().chain(told(what, &output.stderr)).collect()
}

/// All files below a directory that have it.
fn files_told(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut ahead: Vec<PathBuf> = vec![directory.into()];
    while let Some(path) = ahead.pop() {
        let Ok(data) = fs::symlink_metadata(&path) else {
            continue;
        };
        let shown = path.display().to_string();
        if shown.contains(SECRET) {
            found.push(format!("the name {shown}"));
        }
        if data.is_dir() {
            ahead.extend(
                fs::read_dir(&path)
                    .unwrap()
                    .map(|entry| entry.unwrap().path()),
            );
        } else if data.is_file() {
            found.extend(told(&shown, &fs::read(&path).unwrap()));
        }
    }
    found
}

fn tool(root: &Path, arguments: &[&str]) -> Output {
    Command::new(TOOL)
        .arg("--root")
        .arg(root)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
#[allow(clippy::print_stdout)]
fn no_secret_is_told() {
    if !Path::new(SCHEMAS).join("domain.rng").exists() {
        println!(
            "SKIPPED: there are no schemas of libvirt's in {SCHEMAS}: apt install libvirt-common"
        );
        return;
    }
    let keep = tempfile::tempdir().unwrap();
    let xml = keep.path().join("d.xml");
    let xml = xml.to_str().unwrap();
    let mut found = BTreeSet::new();
    let mut places = 0;
    for (name, text) in domains() {
        places = places.max(text.matches(SECRET).count());
        fs::write(xml, &text).unwrap();
        let host = Hooked::new("lab", Path::new(HELPER));
        let root = host.path("");
        for (verb, is_document) in [
            (&["check", "--qemu", "10.0.13", xml][..], false),
            (&["check", "--qemu", "10.0.13", "--json", xml], false),
            (&["fixup", "--qemu", "10.0.13", xml], true),
            (
                &[
                    "fixup",
                    "--qemu",
                    "10.0.13",
                    "--consent",
                    "all",
                    "--policy",
                    "full",
                    xml,
                ],
                true,
            ),
        ] {
            let what = format!("{name}: {}", verb[..verb.len() - 1].join(" "));
            found.extend(output_told(&what, &tool(&root, verb), is_document));
        }
        for operation in ["prepare", "restore", "migrate", "release"] {
            let answer = host.call(&["g", operation, "begin", "-"], text.as_bytes());
            let what = format!("{name}: hook {operation}");
            found.extend(told(&what, answer.stderr.as_bytes()));
            found.extend(
                answer
                    .journal
                    .iter()
                    .filter_map(|line| told(&what, line.as_bytes())),
            );
            if matches!(operation, "prepare" | "release") {
                found.extend(told(&what, &answer.stdout));
            }
        }
        found.extend(files_told(&root));
        found.extend(log_told(name, &text, &host));
        let copy = keep.path().join("copy");
        let _ = fs::remove_dir_all(&copy);
        let output = tool(&root, &["collect", copy.to_str().unwrap(), "--xml", xml]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        found.extend(output_told("collect", &output, false));
        found.extend(files_told(&copy));
    }
    println!("{places} places");
    assert!(
        places > 1000,
        "{places} places are too few: has the schema changed?"
    );
    assert!(found.is_empty(), "{found:#?}");
}

/// What the daemon writes into its log of a plan.
fn log_told(name: &str, text: &str, host: &Hooked) -> Option<String> {
    let plan = hooked_plan(text, host)?;
    let entry = Entry::new(0, What::Fixed, By::Daemon, "g", None).changes(&plan.changes);
    let entry = entry.said(
        &plan
            .changes
            .iter()
            .map(|change| words(&change.action))
            .collect::<Vec<_>>(),
    );
    let line = serde_json::to_string(&entry).unwrap();
    told(&format!("{name}: log"), line.as_bytes())
}

fn hooked_plan(text: &str, host: &Hooked) -> Option<gfxplane::plan::Plan> {
    struct Around(gfxplane::publish::inventory::Reading);
    impl gfxplane::plan::fixup::Surroundings for Around {
        fn known(
            &self,
            device: gfxplane::device::id::DeviceId,
        ) -> gfxplane::predict::screens::Known {
            self.0.known(device, &mut Vec::new())
        }
        fn abilities(
            &self,
            _: &gfxplane::domain::Domain<'_, '_>,
        ) -> gfxplane::predict::abilities::Abilities {
            gfxplane::predict::abilities::Abilities::default()
        }
    }
    let around = Around(gfxplane::publish::inventory::Reading::new(&host.root()));
    let policy = gfxplane::domain::policy::Policy::default();
    gfxplane::plan::fixup::fix(
        text,
        &around,
        &policy,
        &gfxplane::domain::policy::Wishes::default(),
    )
    .ok()?
    .plan
}

/// A libvirt with one domain that QEMU refuses with a secret in its words. As the real one it gives
/// passwords away only if it is asked for them.
#[derive(Debug, Clone)]
struct OneDomain(Arc<Mutex<String>>);

const UUID: &str = "0d0c2f26-4b1a-4c6e-9d52-6f5a1f7b6a01";

/// QEMU's words, with the argument that they are about.
fn refused() -> String {
    format!(
        "internal error: process exited while connecting to monitor: 2026-11-22T18:34:31.012345Z qemu-system-x86_64: \
         -device vfio-pci,x={SECRET}: vfio {DMABUF}: vfio-display-dmabuf: opengl not available"
    )
}

impl Libvirt for OneDomain {
    fn definition(&self, _name: &str, secrets: bool) -> Result<Definition, Failure> {
        let xml = self.0.lock().unwrap().clone();
        let without = || xml.replace(&format!(" passwd='{SECRET}'"), "");
        Ok(Definition {
            uuid: UUID.parse().expect("a UUID"),
            xml: if secrets { xml } else { without() },
            is_active: false,
        })
    }
    fn define(&self, _before: &Definition, new: New<'_>) -> Result<Replaced, Failure> {
        let (New::Whole(xml) | New::Checked(xml)) = new else {
            return Err(Failure::Refused("a part is not taken".into()));
        };
        *self.0.lock().unwrap() = xml.into();
        let window = Duration::ZERO;
        Ok(Replaced::Done { window })
    }
    fn persistent(&self, uuid: Uuid) -> Result<Option<Definition>, Failure> {
        self.definition(&uuid.to_string(), true).map(Some)
    }
    fn all_persistent(&self) -> Result<Vec<Uuid>, Failure> {
        Ok(vec![UUID.parse().expect("a UUID")])
    }
    fn is_running(&self, _uuid: Uuid) -> Result<bool, Failure> {
        Ok(false)
    }
    fn is_autostart(&self, _uuid: Uuid) -> Result<bool, Failure> {
        Ok(false)
    }
    fn start_persistent(&self, _uuid: Uuid) -> Result<(), Failure> {
        Ok(())
    }
    fn version(&self) -> Result<Version, Failure> {
        Ok(Version::of(&[11, 3]))
    }
    fn domain_capabilities(&self, _emulator: Option<&Path>) -> Result<Option<String>, Failure> {
        Ok(Some(
            "<domainCapabilities><path>/usr/bin/qemu-system-x86_64</path><devices>\
             <graphics supported='yes'><enum name='type'><value>vnc</value><value>spice</value>\
             <value>egl-headless</value><value>dbus</value></enum></graphics></devices></domainCapabilities>"
                .into(),
        ))
    }
    fn watch(&self, _sink: Sink) -> Result<Arc<dyn Libvirt>, Failure> {
        Ok(Arc::new(self.clone()))
    }
    fn set_policy(&self, _uuid: Uuid, _xml: Option<&str>) -> Result<(), Failure> {
        Ok(())
    }
    fn users(&self) -> Result<Vec<User>, Failure> {
        Ok(Vec::new())
    }
    fn start(&self, xml: &str, _uuid: Uuid, _is_over: &dyn Fn() -> bool) -> Result<Start, Failure> {
        // What can be fixed starts, and the daemon defines it.
        if xml.contains("<gl enable='yes'") {
            return Ok(Start::Starts);
        }
        // As the real one (src/libvirt/library.rs).
        Ok(Start::Refused(without_values(&refused())))
    }
    fn nodedev_xml(&self, _name: &str) -> Result<String, Failure> {
        Err(Failure::Environment("there is none".into()))
    }
    fn nodedev_names(&self) -> Result<HashSet<String>, Failure> {
        Ok(HashSet::new())
    }
}

#[derive(clap::Parser)]
enum Verb {
    Explain(Explain),
    Fixup(Fixup),
    Learn(Learn),
    Log(Log),
    Policy(PolicyCommand),
    Undo(Undo),
    Verify(Verify),
}

/// What the verbs are called with. Those that print XML print it whole.
const VERBS: &[&[&str]] = &[
    &["verify", "g"],
    &["verify", "--json", "g"],
    &["explain", "--domain", "g"],
    &["explain", "--json", "--domain", "g"],
    &["explain", "MESSAGE", "--domain", "g"],
    &["explain", "MESSAGE"],
    &["learn", "g"],
    &["learn", "--json", "g"],
    &[
        "fixup",
        "--define",
        "--consent",
        "all",
        "--policy",
        "full",
        "--no-trial",
        "g",
    ],
    &["fixup", "--define", "g"],
    &["policy", "g"],
    &["policy", "--json", "g"],
    &["policy", "g", "display=full"],
    &["policy", "g", "--clear"],
    &["undo", "--dry-run", "g"],
    &["undo", "g"],
    &["undo", "g"],
    &["log"],
    &["log", "--json"],
];

/// The name of the variable with the directory for [`in_a_child`].
const DIRECTORY: &str = "GFXPLANE_SECRETS";

/// Runs the daemon and the verbs; the process that started this one reads what they say. It is ignored because
/// `no_secret_is_told_of_a_domain_of_libvirts` runs it in a child, in every run of the tests.
#[test]
#[ignore = "no_secret_is_told_of_a_domain_of_libvirts starts it"]
#[allow(clippy::print_stdout, clippy::print_stderr)]
fn in_a_child() {
    let Some(directory) = std::env::var_os(DIRECTORY) else {
        return;
    };
    for (number, (name, text)) in domains().into_iter().enumerate() {
        let root = Path::new(&directory).join(number.to_string());
        let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/lab/root");
        let copied = Command::new("cp").arg("-a").arg(lab).arg(&root).status();
        assert!(copied.unwrap().success());
        let write = |below: &str, text: &str| {
            let path = root.join(below);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("dev/dri/renderD128", "");
        write("var/lib/x", "");
        write("etc/libvirt/qemu/x", "");
        write("usr/lib/x86_64-linux-gnu/libvirt.so.0.11003.0", "");
        write(
            "usr/bin/qemu-system-x86_64",
            "\x7fELF\0QEMU emulator version 10.0.13 (Debian)\nCopyright\0ui-opengl\0ui-egl-headless\0ui-dbus\0ui-spice-core\0",
        );
        // The last start of the domain, as libvirt and QEMU write of it.
        write(
            "var/log/libvirt/qemu/g.log",
            &format!(
                "2026-11-22 18:34:30.123+0000: starting up libvirt version: 11.3.0, qemu version: 10.0.13Debian, kernel: 6.12, hostname: {SECRET}\n\
                 LC_ALL=C \\\nX={SECRET} \\\n/usr/bin/qemu-system-x86_64 \\\n-name guest=g,debug-threads=on \\\n-uuid {UUID} \\\n\
                 -spice port=5900,password={SECRET} \\\n\
                 -device '{{\"driver\":\"vfio-pci\",\"id\":\"hostdev0\",\"sysfsdev\":\"/sys/bus/mdev/devices/{DMABUF}\",\"display\":\"on\"}}' \\\n-msg timestamp=on\n\
                 2026-11-22T18:34:31.012345Z qemu-system-x86_64: -spice port=5900,password={SECRET}: warning: it is old\n\
                 {}\n2026-11-22 18:34:31.456+0000: shutting down, reason=failed\n",
                if number % 2 == 0 {
                    refused()
                } else {
                    format!("qemu-system-x86_64: -drive file={SECRET}: no such file")
                }
            ),
        );
        let libvirt = OneDomain(Arc::new(Mutex::new(text.clone())));
        let context = Context {
            root: Root::strict(&root),
            connect: None,
            quiet: false,
            libvirt: Arc::new(libvirt.clone()),
        };
        println!("{name}: daemon");
        eprintln!("{name}: daemon");
        let daemon = gfxplane::daemon::run(&context, std::path::Path::new("/bin/true"), true);
        println!("{daemon:?}");
        assert!(daemon.is_ok());
        *libvirt.0.lock().unwrap() = text;
        for verb in VERBS {
            println!("{name}: {verb:?}");
            eprintln!("{name}: {verb:?}");
            let words = verb.iter().map(|word| match *word {
                "MESSAGE" => refused(),
                word => word.to_owned(),
            });
            let mut out = Vec::new();
            let words = std::iter::once("gfxplane".to_owned()).chain(words);
            let result = match Verb::parse_from(words) {
                Verb::Explain(verb) => verb.run(&context, &mut out),
                Verb::Fixup(verb) => verb.run(&context, &mut out),
                Verb::Learn(verb) => verb.run(&context, &mut out),
                Verb::Log(verb) => verb.run(&context, &mut out),
                Verb::Policy(verb) => verb.run(&context, &mut out),
                Verb::Undo(verb) => verb.run(&context, &mut out),
                Verb::Verify(verb) => verb.run(&context, &mut out),
            };
            println!(
                "{}{:?}",
                String::from_utf8(out).unwrap(),
                result.map_err(|e| e.to_string())
            );
        }
        // These are the host's own.
        fs::remove_dir_all(root.join("var/log")).unwrap();
    }
}

/// By verify, explain, learn, fixup --define, policy, undo, log and the daemon, and their files.
#[test]
#[allow(clippy::print_stdout)]
fn no_secret_is_told_of_a_domain_of_libvirts() {
    if !Path::new(SCHEMAS).join("domain.rng").exists() {
        println!(
            "SKIPPED: there are no schemas of libvirt's in {SCHEMAS}: apt install libvirt-common"
        );
        return;
    }
    let keep = tempfile::tempdir().unwrap();
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "in_a_child", "--ignored", "--nocapture"])
        .env(DIRECTORY, keep.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let all =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    let mut found = BTreeSet::new();
    for text in &all {
        let mut what = "";
        for line in text.lines() {
            let is_title = line.starts_with("arguments")
                || line.starts_with("spice: ")
                || line.contains(": [")
                || line.ends_with(": daemon");
            if is_title {
                what = line;
            } else {
                found.extend(told(what, line.as_bytes()));
            }
        }
    }
    let [out, err] = all;
    assert!(output.status.success(), "{out}{err}");
    found.extend(files_told(keep.path()));
    // They did what they are for.
    for part in [
        "\"starts\": false",
        "opengl not available  (said by QEMU)",
        "fixed (fixup)",
    ] {
        assert!(out.contains(part), "{part}: {out}");
    }
    assert!(found.is_empty(), "{found:#?}");
}
