//! Tests every document in libvirt's source package.
//!
//! * If it is well-formed for libxml2, it is so for us.
//! * A domain without vfio devices comes out as it went in.
//! * A domain with vfio devices keeps the promises whatever is known of its devices. Afterwards it is as
//!   valid as before, by the package's own schema.
//! * Where the package says what libvirt makes of a domain (a QEMU command line in `*.args`, a refusal in
//!   `*.err`), we read the domain as libvirt does.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use gfxplane::device::version::Version;
use gfxplane::domain::Domain;
use gfxplane::domain::policy::{self, Displays, Policy, Wishes};
use gfxplane::plan::fixup::{Surroundings, Unfit, fix};
use gfxplane::predict::abilities::Abilities;
use gfxplane::predict::screens::Screens;
use gfxplane::predict::{Outcome, Prediction, Program, predict};
use gfxplane::xml::{Document, from_bytes};
use libtest_mimic::{Failed, Trial};

use crate::support::argv::Read;
use crate::support::promises::kept;
use crate::support::schema::{Schema, domain_schema, problems_by};
use crate::support::worlds::{World, known};

/// Documents on which we and libxml2 differ, each with the reason.
const EXCEPTIONS: [(&str, &str); 0] = [];

/// Cases that libvirt reads in a way that their XML does not show.
const NOT_IN_THE_XML: [(&str, &str); 1] = [(
    "graphics-vnc-remove-generated-socket",
    "libvirt forgets a socket in its own directory, as it once wrote these down unasked",
)];

/// The knowledge of all devices of a domain, for [`known`].
const WORLDS: [(&str, usize); 4] = [("dmabuf", 0), ("region", 2), ("none", 4), ("unknown", 15)];

/// The versions of QEMU and libvirt: Debian's three, and unknown ones.
const VERSIONS: [Option<[[u32; 2]; 2]>; 4] = [
    Some([[7, 2], [9, 0]]),
    Some([[10, 0], [11, 3]]),
    Some([[11, 1], [12, 8]]),
    None,
];

/// Returns all tests. The source package is fetched first.
pub(crate) fn trials() -> Vec<Trial> {
    let source = match source() {
        Ok(source) => source,
        Err(problem) => {
            return vec![Trial::test("corpus::libvirt-source", move || {
                Err(Failed::from(problem))
            })];
        }
    };
    let mut trials = vec![
        trial("well-formed", source, well_formed),
        trial("without-vfio-devices", source, without_vfio_devices),
        trial("read-as-libvirt-reads-it", source, as_libvirt),
        trial("displays", source, displays),
        trial("refused-in-libvirts-words", source, refused),
    ];
    let with_devices = domains(source).filter(|file| has_vfio_devices(&file.text));
    for file in with_devices {
        trials.push(Trial::test(
            format!("corpus::in-all-worlds::{}", file.name),
            move || in_all_worlds(source, &file),
        ));
    }
    trials
}

fn trial(name: &str, source: &'static Source, test: fn(&Source) -> Result<(), Failed>) -> Trial {
    Trial::test(format!("corpus::{name}"), move || test(source))
}

/// The source package.
struct Source {
    root: PathBuf,
    /// Every `*.xml` among libvirt's tests, by its path there. Links to other documents are left
    /// out.
    documents: BTreeMap<String, PathBuf>,
}

/// A document that is text.
struct File {
    name: String,
    text: String,
}

fn source() -> Result<&'static Source, String> {
    static SOURCE: OnceLock<Result<Source, String>> = OnceLock::new();
    let source = SOURCE.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/libvirt-source");
        let output = Command::new(&script)
            .output()
            .map_err(|error| format!("{}: {error}", script.display()))?;
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        let root = PathBuf::from(String::from_utf8_lossy(&output.stdout).trim_end());
        let mut documents = BTreeMap::new();
        let tests = root.join("tests");
        collect(&tests, &tests, &mut documents)?;
        if documents.len() < 4_000 {
            return Err(format!(
                "{} has only {} documents",
                root.display(),
                documents.len()
            ));
        }
        Ok(Source { root, documents })
    });
    source.as_ref().map_err(Clone::clone)
}

fn collect(
    folder: &Path,
    tests: &Path,
    documents: &mut BTreeMap<String, PathBuf>,
) -> Result<(), String> {
    let problem = |error: std::io::Error| format!("{}: {error}", folder.display());
    for entry in fs::read_dir(folder).map_err(problem)? {
        let entry = entry.map_err(problem)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(problem)?);
        if kind.is_dir() {
            collect(&path, tests, documents)?;
        } else if kind.is_file() && path.extension().is_some_and(|ending| ending == "xml") {
            let name = path.strip_prefix(tests).unwrap_or(&path);
            documents.insert(name.to_string_lossy().into_owned(), path);
        }
    }
    Ok(())
}

/// Returns the documents that are domains.
fn domains(source: &'static Source) -> impl Iterator<Item = File> {
    source.documents.iter().filter_map(|(name, path)| {
        let text = fs::read_to_string(path).ok()?;
        let is_domain = roxmltree::Document::parse(&text)
            .is_ok_and(|document| document.root_element().has_tag_name("domain"));
        is_domain.then(|| File {
            name: name.clone(),
            text,
        })
    })
}

/// Returns whether a domain has hostdevs of a type that can be a vfio device.
fn has_vfio_devices(text: &str) -> bool {
    roxmltree::Document::parse(text).is_ok_and(|document| {
        let devices = document
            .root_element()
            .children()
            .filter(|node| node.has_tag_name("devices"));
        let mut hostdevs = devices
            .flat_map(|devices| devices.children())
            .filter(|node| node.has_tag_name("hostdev"));
        hostdevs.any(|node| matches!(node.attribute("type"), Some("mdev" | "pci")))
    })
}

fn failed_if(problems: &[String], of: usize) -> Result<(), Failed> {
    if problems.is_empty() {
        Ok(())
    } else {
        Err(format!("{} of {of}:\n{}", problems.len(), problems.join("\n")).into())
    }
}

fn at_least(number: usize, least: usize, of: &str) -> Result<(), Failed> {
    if number < least {
        return Err(format!("only {number} {of}: expected {least} or more").into());
    }
    Ok(())
}

fn well_formed(source: &Source) -> Result<(), Failed> {
    let mut refused = BTreeSet::new();
    let paths: Vec<&PathBuf> = source.documents.values().collect();
    for batch in paths.chunks(500) {
        let output = Command::new("xmllint")
            .arg("--noout")
            .args(batch)
            .output()
            .map_err(|error| format!("xmllint (Debian: libxml2-utils) can't be run: {error}"))?;
        // An error names its file and line; so does a warning, and a message about namespaces.
        let said = String::from_utf8_lossy(&output.stderr);
        let errors = said.lines().filter(|line| {
            line.contains(" parser error : ") || line.contains(" encoding error : ")
        });
        refused
            .extend(errors.filter_map(|line| Some(format!("{}.xml", line.split_once(".xml:")?.0))));
    }
    let mut problems = Vec::new();
    for (name, path) in &source.documents {
        let ours = from_bytes(fs::read(path)?)
            .and_then(|text| Document::parse(&text).map(drop))
            .err();
        let theirs = refused.contains(&*path.to_string_lossy());
        let excepted = EXCEPTIONS.iter().any(|(exception, _)| exception == name);
        if (ours.is_some() == theirs) == excepted {
            problems.push(match ours {
                _ if excepted => format!("{name} is no exception any more"),
                Some(error) => format!("only we refuse {name}: {error}"),
                None => format!("only libxml2 refuses {name}"),
            });
        }
    }
    failed_if(&problems, source.documents.len())
}

fn without_vfio_devices(source: &Source) -> Result<(), Failed> {
    let everything = Policy {
        display: Displays::Full,
        consent: policy::consent("all")?,
        ..Policy::default()
    };
    let world = World {
        devices: vec![known(0)],
        abilities: Abilities::default(),
    };
    let (mut problems, mut number) = (Vec::new(), 0);
    for (name, path) in &source.documents {
        let Ok(text) = from_bytes(fs::read(path)?) else {
            continue;
        };
        match fix(&text, &world, &everything, &Wishes::default()) {
            Ok(fixed) if has_vfio_devices(&text) => {
                let is_qemu = text.contains("type='kvm'") || text.contains("type='qemu'");
                if fixed.plan.is_none() && is_qemu && !UNREADABLE.iter().any(|(n, _)| n == name) {
                    problems.push(format!("{name} has vfio devices that nobody sees"));
                }
            }
            Ok(fixed) => {
                number += 1;
                if fixed.text != text || fixed.plan.is_some() {
                    problems.push(format!("{name} has no vfio devices, and is changed"));
                }
            }
            Err(Unfit::Xml(error)) if !error.problem.contains("is not a domain") => {}
            Err(Unfit::Xml(_)) if !text.contains("<domain type=") => {}
            Err(Unfit::Xml(_)) if HOLDS_A_DOMAIN.iter().any(|word| text.contains(word)) => {}
            Err(error) => problems.push(format!("{name}: {error}")),
        }
    }
    at_least(number, 2_000, "domains without vfio devices")?;
    failed_if(&problems, number)
}

/// The beginnings of documents that contain a domain without being one.
const HOLDS_A_DOMAIN: [&str; 5] = [
    "<domainsnapshot",
    "<domaincheckpoint",
    "<domstatus",
    "<qemu-migration",
    "<capabilities",
];

/// Hostdevs of type pci or mdev that no libvirt would take, so that we see none.
const UNREADABLE: [(&str, &str); 1] = [(
    "qemuxmlconfdata/hostdev-mdev-src-address-invalid.xml",
    "an mdev without a uuid",
)];

fn schema(source: &Source) -> Result<&'static Schema, String> {
    static SCHEMA: OnceLock<Result<Schema, String>> = OnceLock::new();
    let schema = SCHEMA.get_or_init(|| domain_schema(&source.root.join("src/conf/schemas")));
    schema.as_ref().map_err(Clone::clone)
}

fn version(numbers: &[u32]) -> Option<Version> {
    Some(Version::of(numbers))
}

fn in_all_worlds(source: &Source, file: &File) -> Result<(), Failed> {
    let policies = [
        Policy {
            display: Displays::Asked,
            ..Policy::default()
        },
        Policy::default(),
        Policy {
            display: Displays::Full,
            consent: policy::consent("all")?,
            ..Policy::default()
        },
    ];
    let mut outcomes = BTreeSet::new();
    for (word, kind) in WORLDS {
        for versions in VERSIONS {
            let world = World {
                devices: vec![known(kind)],
                abilities: Abilities {
                    qemu: versions.and_then(|[qemu, _]| version(&qemu)),
                    libvirt: versions.and_then(|[_, libvirt]| version(&libvirt)),
                    ..Abilities::default()
                },
            };
            for policy in &policies {
                let told = |problem: String| {
                    format!("{word}, {versions:?}, {}: {problem}", policy.display)
                };
                let wishes = Wishes::default();
                let fixed = fix(&file.text, &world, policy, &wishes)
                    .map_err(|error| told(error.to_string()))?;
                kept(&file.text, &fixed, &world, policy, &wishes).map_err(told)?;
                outcomes.insert(fixed.text);
            }
        }
    }
    outcomes.remove(&file.text);
    if outcomes.is_empty() {
        return Ok(());
    }
    let schema = schema(source)?;
    if !problems_by(schema, &file.text)?.is_empty() {
        return Ok(());
    }
    for text in outcomes {
        if let Some(problem) = problems_by(schema, &text)?.first() {
            return Err(format!(
                "no longer valid, {problem}:\n{}",
                gfxplane::cli::fixup::diff(&file.text, &text)
            )
            .into());
        }
    }
    Ok(())
}

/// A test of libvirt's from XML to a QEMU command line, or to a refusal.
struct Case<'s> {
    /// The name, without an ending.
    name: &'s str,
    /// The QEMU that the case is for; `None`: the newest that libvirt 11.3 knows.
    qemu: Option<Version>,
    /// The XML that libvirt was given, and the XML that it wrote of it.
    inputs: Vec<PathBuf>,
    /// The file `*.args` or `*.err`.
    verdict: PathBuf,
}

/// The newest QEMU of x86_64 whose capabilities libvirt 11.3 has.
const NEWEST: &[u32] = &[10, 0];

const ARCHITECTURES: [&str; 9] = [
    "x86_64",
    "i686",
    "aarch64",
    "armv7l",
    "ppc",
    "ppc64",
    "riscv64",
    "s390x",
    "loongarch64",
];

/// Returns all cases with one of these endings.
fn cases<'s>(folder: &Path, names: &'s [String], ending: &str) -> Vec<Case<'s>> {
    let mut cases = Vec::new();
    for file in names {
        let Some(stem) = file.strip_suffix(ending) else {
            continue;
        };
        let long = stem.strip_suffix(".abi-update").unwrap_or(stem);
        let of_arch = |arch: &str| long.rfind(&format!(".{arch}-"));
        let Some(place) = ARCHITECTURES.iter().find_map(|arch| of_arch(arch)) else {
            continue;
        };
        let (name, variant) = (&long[..place], &long[place + 1..]);
        let qemu = variant.strip_prefix("x86_64-").and_then(Version::parse);
        let inputs = [format!("{name}.xml"), format!("{stem}.xml")];
        cases.push(Case {
            name: file,
            qemu,
            inputs: inputs
                .iter()
                .map(|name| folder.join(name))
                .filter(|path| path.is_file())
                .collect(),
            verdict: folder.join(file),
        });
    }
    cases
}

impl Case<'_> {
    fn abilities(&self) -> Abilities {
        // libvirt's tests set this in qemu.conf.
        let has = |start| Some(self.name.starts_with(start));
        Abilities {
            spice_auto_unix_socket: has("graphics-spice-auto-socket-cfg"),
            vnc_auto_unix_socket: has("graphics-vnc-auto-socket-cfg"),
            qemu: self.qemu.clone().or(version(NEWEST)),
            libvirt: version(&[11, 3]),
            ..Abilities::default()
        }
    }

    /// Returns the prediction for a domain in a world.
    fn prediction(&self, domain: &Domain<'_, '_>, kind: usize) -> (Screens, Prediction) {
        let world = World {
            devices: vec![known(kind)],
            abilities: self.abilities(),
        };
        let screens = Screens::of(domain, &|id| world.known(id), &world.abilities);
        let prediction = predict(&screens, &world.abilities);
        (screens, prediction)
    }
}

fn folder_of(source: &Source) -> Result<(PathBuf, Vec<String>), Failed> {
    let folder = source.root.join("tests/qemuxmlconfdata");
    let mut names = Vec::new();
    for entry in fs::read_dir(&folder)? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok((folder, names))
}

fn as_libvirt(source: &Source) -> Result<(), Failed> {
    let (folder, names) = folder_of(source)?;
    let (mut problems, mut number, mut refusals) = (Vec::new(), 0, 0);
    let mut left_out = BTreeSet::new();
    for case in cases(&folder, &names, ".args") {
        let name = case.name;
        let of_name = |(start, _): &&(&str, &str)| name.split('.').next() == Some(start);
        let exception = NOT_IN_THE_XML.iter().find(of_name);
        let line = Read::of_args(&fs::read_to_string(&case.verdict)?);
        for path in &case.inputs {
            let text = fs::read_to_string(path)?;
            let document = Document::parse(&text).map_err(|error| format!("{name}: {error}"))?;
            let domain = Domain::new(&document).map_err(|error| format!("{name}: {error}"))?;
            let (screens, _) = case.prediction(&domain, 15);
            number += 1;
            for difference in line.differences(&domain, &screens) {
                if let Some((name, _)) = exception {
                    left_out.insert(*name);
                    continue;
                }
                let file = path.file_name().unwrap_or_default().to_string_lossy();
                problems.push(format!("{name} of {file}: {difference}"));
            }
            for (word, kind) in WORLDS {
                if let Outcome::No(refusal) = case.prediction(&domain, kind).1.outcome
                    && refusal.by() == Program::Libvirt
                {
                    problems.push(format!(
                        "{name}, {word}: libvirt takes it, and we say it says {:?}",
                        refusal.message
                    ));
                }
            }
        }
    }
    for case in cases(&folder, &names, ".err") {
        let name = case.name;
        let said = fs::read_to_string(&case.verdict)?;
        for path in &case.inputs {
            let Ok(text) = fs::read_to_string(path) else {
                continue;
            };
            let Ok(document) = Document::parse(&text) else {
                continue;
            };
            let domain = Domain::new(&document).map_err(|error| format!("{name}: {error}"))?;
            refusals += 1;
            for (word, kind) in WORLDS {
                if let Outcome::No(refusal) = case.prediction(&domain, kind).1.outcome
                    && refusal.by() == Program::Libvirt
                    && !said.contains(&refusal.message)
                {
                    problems.push(format!(
                        "{name}, {word}: libvirt says {:?}, and we {:?}",
                        said.trim_end(),
                        refusal.message
                    ));
                }
            }
        }
    }
    let gone = NOT_IN_THE_XML
        .iter()
        .filter(|(name, _)| !left_out.contains(name));
    problems.extend(gone.map(|(name, _)| format!("{name} is no exception any more")));
    at_least(number, 1_500, "domains with a command line")?;
    at_least(refusals, 150, "domains that are refused")?;
    failed_if(&problems, number + refusals)
}

/// libvirt's refusals that have nothing to do with screens.
const OF_OTHERS: [(&str, &str); 7] = [
    ("hostdevs-drive-address-conflict", "a SCSI device"),
    (
        "hostdev-subsys-mdev-vfio-ccw-duplicate-address",
        "two addresses in the guest that are the same",
    ),
    ("hostdev-vfio-zpci-duplicate", "an address of s390"),
    (
        "hostdev-vfio-zpci-invalid-uid-valid-fid",
        "an address of s390",
    ),
    ("hostdev-vfio-zpci-set-zero", "an address of s390"),
    ("hostdev-vfio-zpci-uid-set-zero", "an address of s390"),
    ("hostdev-vfio-zpci-wrong-arch", "an address of s390"),
];

/// Checks that we refuse the graphics, cards, hostdevs and channels that libvirt refuses, in its
/// words, whatever the devices are.
fn refused(source: &Source) -> Result<(), Failed> {
    let (folder, names) = folder_of(source)?;
    let is_one = |name: &str| {
        let subjects = ["graphics-", "video-", "hostdev", "channel-"];
        subjects.iter().any(|subject| name.starts_with(subject))
    };
    let (mut problems, mut number) = (Vec::new(), 0);
    let mut of_others = BTreeSet::new();
    for case in cases(&folder, &names, ".err") {
        let name = case.name.split('.').next().unwrap_or_default();
        if !is_one(name) {
            continue;
        }
        let said = fs::read_to_string(&case.verdict)?;
        let exception = OF_OTHERS.iter().find(|(other, _)| *other == name);
        for path in &case.inputs {
            number += 1;
            let text = fs::read_to_string(path)?;
            let document = Document::parse(&text).map_err(|error| format!("{name}: {error}"))?;
            let domain = Domain::new(&document).map_err(|error| format!("{name}: {error}"))?;
            for (word, kind) in WORLDS {
                let outcome = case.prediction(&domain, kind).1.outcome;
                let is_so = matches!(&outcome, Outcome::No(refusal)
                    if refusal.by() == Program::Libvirt && said.contains(&refusal.message));
                match exception {
                    Some((other, _)) if !is_so => {
                        of_others.insert(*other);
                    }
                    None if is_so => {}
                    _ => problems.push(format!(
                        "{name}, {word}: libvirt says {:?}, and we {outcome:?}",
                        said.trim_end()
                    )),
                }
            }
        }
    }
    let gone = OF_OTHERS
        .iter()
        .filter(|(name, _)| !of_others.contains(name));
    problems.extend(gone.map(|(name, _)| format!("{name} is no exception any more")));
    // The schema refuses it, and so does libvirt's parser.
    let path = source
        .root
        .join("tests/genericxml2xmlindata/graphics-listen-network-invalid.xml");
    let text = fs::read_to_string(path)?;
    let document = Document::parse(&text)?;
    let screens = World {
        devices: vec![known(0)],
        abilities: Abilities::default(),
    };
    let domain = Domain::new(&document)?;
    let seen = Screens::of(&domain, &|id| screens.known(id), &screens.abilities);
    match predict(&seen, &screens.abilities).outcome {
        Outcome::No(refusal)
            if refusal
                .message
                .starts_with("'network' attribute is required") => {}
        other => problems.push(format!("graphics-listen-network-invalid: {other:?}")),
    }
    at_least(number, 20, "domains that are refused")?;
    failed_if(&problems, number)
}

/// The outcome of a domain's start.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Start {
    Starts,
    Refused(Program, &'static str),
}

const NO_DISPLAY: Start = Start::Refused(
    Program::Qemu,
    "device doesn't support any (known) display method",
);
const NO_OPENGL: Start = Start::Refused(Program::Qemu, "vfio-display-dmabuf: opengl not available");
const NO_DMABUF: Start = Start::Refused(
    Program::Qemu,
    "The console requires display DMABUF support.",
);

/// libvirt's cases of displays of vfio devices, with the outcome in QEMU 10.0 if the device has a
/// dmabuf, a region or no display. The outcomes follow QEMU's own rules as measured
/// (tests/vm/matrix.py).
const DISPLAYS: [(&str, [Start; 3]); 9] = [
    // display='on' and graphics of type vnc
    (
        "hostdev-mdev-display",
        [NO_OPENGL, Start::Starts, NO_DISPLAY],
    ),
    (
        "hostdev-mdev-display-vnc",
        [NO_OPENGL, Start::Starts, NO_DISPLAY],
    ),
    (
        "hostdev-mdev-display-ramfb",
        [NO_OPENGL, Start::Starts, NO_DISPLAY],
    ),
    (
        "hostdev-pci-display-ramfb",
        [NO_OPENGL, Start::Starts, NO_DISPLAY],
    ),
    (
        "hostdev-mdev-display-spice-opengl",
        [Start::Starts, Start::Starts, NO_DISPLAY],
    ),
    // an emulated card comes first, so VNC never meets the dmabuf
    (
        "hostdev-mdev-display-vnc-egl-headless",
        [Start::Starts, Start::Starts, NO_DISPLAY],
    ),
    (
        "hostdev-mdev-display-spice-egl-headless",
        [NO_DMABUF, Start::Starts, NO_DISPLAY],
    ),
    (
        "hostdev-mdev-display-missing-graphics",
        [Start::Refused(Program::Libvirt, "graphics device is needed"); 3],
    ),
    (
        "hostdev-mdev-display-ramfb-multiple",
        [Start::Refused(
            Program::Libvirt,
            "Only one vgpu device can have 'ramfb' enabled",
        ); 3],
    ),
];

/// Checks that each case about displays is one of [`DISPLAYS`], or has no vfio device with a
/// display; and that our verdict is libvirt's.
fn displays(source: &Source) -> Result<(), Failed> {
    let (folder, names) = folder_of(source)?;
    let is_one = |name: &str| {
        name.starts_with("hostdev-") && name.contains("display")
            || name.starts_with("graphics-") && name.contains("gl")
            || name.contains("egl-headless")
            || name.contains("dbus")
    };
    let consents = Policy {
        display: Displays::Full,
        consent: policy::consent("all")?,
        ..Policy::default()
    };
    let mut problems = Vec::new();
    let mut met = BTreeSet::new();
    let mut number = 0;
    let taken = cases(&folder, &names, ".args")
        .into_iter()
        .map(|case| (case, true));
    let refused = cases(&folder, &names, ".err")
        .into_iter()
        .map(|case| (case, false));
    for (case, is_taken) in taken.chain(refused).filter(|(case, _)| is_one(case.name)) {
        let name = case
            .name
            .split_once(".x86_64-")
            .map_or(case.name, |(name, _)| name);
        let said = fs::read_to_string(&case.verdict)?;
        for path in &case.inputs {
            number += 1;
            let text = fs::read_to_string(path)?;
            let document = Document::parse(&text).map_err(|error| format!("{name}: {error}"))?;
            let domain = Domain::new(&document).map_err(|error| format!("{name}: {error}"))?;
            let expected = DISPLAYS.iter().find(|(expected, _)| *expected == name);
            if expected.is_none()
                && domain
                    .hostdevs
                    .iter()
                    .any(|device| device.display.is_some())
            {
                problems.push(format!("{name}: what must come out is not written down"));
            }
            for (world, (word, kind)) in WORLDS.iter().enumerate() {
                let outcome = case.prediction(&domain, *kind).1.outcome;
                let is_refused_by_libvirt = matches!(&outcome, Outcome::No(refusal)
                    if refusal.by() == Program::Libvirt && said.contains(&refusal.message));
                if is_taken == is_refused_by_libvirt {
                    problems.push(format!(
                        "{name}, {word}: libvirt has another verdict: {outcome:?}"
                    ));
                }
                let Some((name, starts)) = expected else {
                    continue;
                };
                met.insert(*name);
                let Some(start) = starts.get(world) else {
                    continue;
                };
                let is_so = match (&outcome, start) {
                    (Outcome::Yes, Start::Starts) => true,
                    (Outcome::No(refusal), Start::Refused(by, message)) => {
                        refusal.by() == *by && refusal.message.contains(message)
                    }
                    _ => false,
                };
                if !is_so {
                    problems.push(format!("{name}, {word}: {outcome:?}, and not {start:?}"));
                }
                // Whatever it was, it starts with all consents, or at least we are not to blame.
                let surroundings = World {
                    devices: vec![known(*kind)],
                    abilities: case.abilities(),
                };
                let fixed = fix(&text, &surroundings, &consents, &Wishes::default())?;
                if !fixed.plan.is_some_and(|plan| plan.after.starts()) {
                    problems.push(format!("{name}, {word}: it is not repaired"));
                }
            }
        }
    }
    problems.extend(
        DISPLAYS
            .iter()
            .filter(|(name, _)| !met.contains(name))
            .map(|(name, _)| format!("{name} is not there")),
    );
    at_least(number, 40, "cases with displays")?;
    failed_if(&problems, number)
}
