//! Tests recorded hosts: one test for the list, one for each node device, and more for what must
//! hold of every host.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use gfxplane::cli::json;
use gfxplane::cli::overview::text;
use gfxplane::device::evidence::Method;
use gfxplane::device::id::DeviceId;
use gfxplane::device::rules::Rules;
use gfxplane::host::Root;
use gfxplane::host::sysfs::{self, Device};
use gfxplane::predict::screens::Known;
use gfxplane::publish::export::export;
use gfxplane::publish::inventory::{
    DeviceEntry, Inventory, Reading, Sources, active, inventory, recorded,
};
use gfxplane::publish::overview::Overview;
use gfxplane::publish::{self, offline, words};
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::support::hostile;
use crate::support::overview::{overview, page_is_sound, without_colours};
use crate::support::schema::{Against, validate};

/// A recorded host, read.
pub(crate) struct Host {
    /// The folder of the host.
    folder: PathBuf,
    /// The inventory, with paths as the host has them.
    pub(crate) inventory: Inventory,
    documents: Vec<Document>,
    /// The host as a tree.
    overview: Overview,
    /// The measurements, as rules for other hosts.
    rules: String,
    /// The devices for which a look at one device alone finds something else.
    otherwise: Vec<String>,
}

/// The XML of one node device.
pub(crate) struct Document {
    name: String,
    /// The XML as libvirt would have it.
    plain: String,
    /// The XML with our capability.
    pub(crate) full: String,
}

/// Returns all tests of all hosts.
pub(crate) fn trials() -> Vec<Trial> {
    let hosts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts");
    let folders = entries(&hosts);
    assert!(
        folders.contains("hostile"),
        "{} is incomplete",
        hosts.display()
    );
    folders
        .into_iter()
        .flat_map(|name| of_host(&name, &hosts.join(&name)))
        .collect()
}

fn of_host(name: &str, folder: &Path) -> Vec<Trial> {
    let host = if name == "hostile" {
        let made = hostile::make(&folder.join("root"));
        Host::read(folder, made.path())
    } else {
        Host::read(folder, &folder.join("root"))
    };
    let host = match host {
        Ok(host) => Arc::new(host),
        // A host that can't be read must not keep the others' tests from running.
        Err(problem) => {
            return vec![Trial::test(
                format!("hosts::{name}"),
                || Err(problem.into()),
            )];
        }
    };
    let trial = |what: &str, test: fn(&Host) -> Result<(), Failed>| {
        let host = Arc::clone(&host);
        Trial::test(format!("hosts::{name}::{what}"), move || test(&host))
    };
    let mut trials = vec![
        trial("folder", Host::folder_is_tidy),
        trial("list", Host::list),
        trial("overview", Host::overview),
        trial("rules", Host::rules),
        trial("attributes", Host::attributes),
        trial("one-by-one", Host::one_by_one),
        trial("warnings", Host::one_warning_for_each_odd_thing),
    ];
    if name == "hostile" {
        trials.push(trial("what-is-odd", |host| {
            hostile::what_is_odd(&host.inventory)
        }));
    }
    for (index, document) in host.documents.iter().enumerate() {
        let host = Arc::clone(&host);
        trials.push(Trial::test(
            format!("hosts::{name}::nodedev::{}", document.name),
            move || host.document(&host.documents[index]),
        ));
    }
    trials
}

impl Host {
    fn read(folder: &Path, root: &Path) -> Result<Self, String> {
        let base = root
            .canonicalize()
            .map_err(|error| format!("{}: {error}", root.display()))?;
        let sources = Sources::read(&Root::recorded(&base));
        let mut inventory = inventory(&sources);
        let documents = documents(&sources)?;
        let root = Root::recorded(&base);
        let overview = overview(&base, true).map_err(|_| "there is no overview")?;
        let alone = |device| seen_alone(&root, &sources, device, &inventory);
        let mut otherwise: Vec<String> = sources.host.devices.iter().filter_map(alone).collect();
        let entries = inventory.devices.iter();
        otherwise.extend(entries.filter_map(|entry| known_alone(&root, entry)));
        for warning in &mut inventory.warnings {
            if let Ok(inside) = warning.path.strip_prefix(&base) {
                warning.path = Path::new("/").join(inside);
            }
        }
        Ok(Host {
            folder: folder.to_owned(),
            inventory,
            documents,
            overview,
            rules: export(&sources).to_toml(),
            otherwise,
        })
    }

    /// Checks `gfxplane list --json`.
    fn list(&self) -> Result<(), Failed> {
        let mut text = Vec::new();
        json(&mut text, &self.inventory)?;
        golden(
            &self.folder.join("expect/list.json"),
            &String::from_utf8(text)?,
        )
    }

    /// Checks `gfxplane --all`, at 80 columns and as a page.
    fn overview(&self) -> Result<(), Failed> {
        page_is_sound(&self.overview)?;
        let text = without_colours(&text(&self.overview), 80);
        golden(&self.folder.join("expect/overview.txt"), &text)
    }

    /// Checks `gfxplane rules --export`, if anything was measured.
    fn rules(&self) -> Result<(), Failed> {
        let path = self.folder.join("expect/rules.toml");
        Rules::default().add_file("expect/rules.toml", &self.rules)?;
        if self.rules.contains("[[rule]]") {
            return golden(&path, &self.rules);
        }
        match path.exists() {
            true => Err("nothing was measured, and expect/rules.toml is there".into()),
            false => Ok(()),
        }
    }

    /// Checks `gfxplane nodedev-dumpxml --offline`.
    fn document(&self, document: &Document) -> Result<(), Failed> {
        let path = format!("expect/nodedev/{}.xml", document.name);
        golden(&self.folder.join(path), &document.full)?;
        Ok(document.is_valid()?)
    }

    /// Checks that libvirt can print the attributes unescaped, and that mdevctl gets objects with
    /// one member each.
    fn attributes(&self) -> Result<(), Failed> {
        for entry in &self.inventory.devices {
            let words = words::words(&entry.finding, &entry.require);
            attributes_are_plain(&words).map_err(|problem| format!("{}: {problem}", entry.id))?;
        }
        Ok(())
    }

    /// Checks that a look at one device, as udev, the hook and the callout take it, agrees with
    /// the list.
    fn one_by_one(&self) -> Result<(), Failed> {
        if self.otherwise.is_empty() {
            Ok(())
        } else {
            Err(self.otherwise.join("\n").into())
        }
    }

    fn one_warning_for_each_odd_thing(&self) -> Result<(), Failed> {
        let mut seen = BTreeSet::new();
        let twice: Vec<String> = self
            .inventory
            .warnings
            .iter()
            .filter(|warning| !seen.insert(&warning.path))
            .map(ToString::to_string)
            .collect();
        if twice.is_empty() {
            Ok(())
        } else {
            Err(format!("warned of before:\n{}", twice.join("\n")).into())
        }
    }

    /// Checks that the folder contains only files that tests read.
    fn folder_is_tidy(&self) -> Result<(), Failed> {
        let nodedev = self.folder.join("expect/nodedev");
        let wanted: BTreeSet<String> = self
            .documents
            .iter()
            .map(|document| format!("{}.xml", document.name))
            .collect();
        if wanted.len() < self.documents.len() {
            return Err("two node devices have the same name".into());
        }
        if updating() {
            for stale in entries(&nodedev).difference(&wanted) {
                fs::remove_file(nodedev.join(stale))?;
            }
        }
        for (directory, wanted) in [
            (self.folder.clone(), names(&["README", "expect", "root"])),
            (
                self.folder.join("expect"),
                names(&["list.json", "nodedev", "overview.txt", "rules.toml"]),
            ),
            (nodedev, wanted),
        ] {
            // The test of a file tells if it is missing.
            let stray: Vec<String> = entries(&directory).difference(&wanted).cloned().collect();
            if !stray.is_empty() {
                return Err(format!(
                    "{}: nothing makes {stray:?}: remove them, or run with UPDATE_GOLDEN=1",
                    directory.display()
                )
                .into());
            }
        }
        let readme = fs::read_to_string(self.folder.join("README"))?;
        if readme.trim().is_empty() {
            return Err("README does not say where the host comes from".into());
        }
        Ok(())
    }
}

impl Document {
    /// Checks that the XML is valid with our capability, and as valid without it.
    fn is_valid(&self) -> Result<(), String> {
        self.can_be_stripped()?;
        validate(Against::Overlay, &self.full)?;
        validate(Against::Libvirt, &self.plain)
    }

    /// Checks that without our capability it is libvirt's XML to the byte.
    pub(crate) fn can_be_stripped(&self) -> Result<(), String> {
        let (name, full) = (&self.name, &self.full);
        if !full.contains("<capability type='vfio_display'>") {
            return Err(format!("{name}: the capability is missing:\n{full}"));
        }
        for stripped in [publish::with_capability(full, None), publish::plain(full)] {
            let stripped = stripped.map_err(|error| format!("{name}: {error}"))?;
            if stripped != self.plain {
                return Err(format!("{name}: something of ours stays:\n{stripped}"));
            }
        }
        Ok(())
    }
}

/// Returns the node devices of a host, as the tool prints them without libvirt.
pub(crate) fn documents(sources: &Sources) -> Result<Vec<Document>, String> {
    offline::nodes(sources)
        .into_iter()
        .map(|(name, node)| {
            let plain = node.xml(sources);
            let capability = node.capability(sources);
            match publish::with_capability(&plain, Some(&capability)) {
                Ok(full) => Ok(Document { name, plain, full }),
                Err(error) => Err(format!("{name}: {error}\n{plain}")),
            }
        })
        .collect()
}

/// Checks that these words can become mdevctl attributes.
pub(crate) fn attributes_are_plain(words: &[(String, String)]) -> Result<(), String> {
    let text = words::attributes(words);
    let attributes: Vec<Value> =
        serde_json::from_str(&text).map_err(|error| format!("{error}: {text}"))?;
    if attributes.len() != words.len() || attributes.is_empty() {
        return Err(format!("not one attribute for each word: {text}"));
    }
    let plain = |text: &str| {
        text.chars()
            .all(|c| c.is_ascii_alphanumeric() || "_.:,=+/-".contains(c))
    };
    for attribute in &attributes {
        let members = attribute.as_object().map(|object| object.iter());
        let fits = members.is_some_and(|mut members| {
            let first = members.next();
            members.next().is_none()
                && first.is_some_and(|(name, value)| {
                    name.starts_with(gfxplane::device::facts::PREFIX)
                        && plain(name)
                        && value.as_str().is_some_and(plain)
                })
        });
        if !fits {
            return Err(format!(
                "{attribute} is no attribute that libvirt can print"
            ));
        }
    }
    Ok(())
}

/// Compares what is known of one device, asked for alone, with the list.
fn known_alone(root: &Root, entry: &DeviceEntry) -> Option<String> {
    let id = entry.id;
    let listed = Known::from(entry.clone());
    let known = Reading::new(root).known(id, &mut Vec::new());
    if known != listed {
        return Some(format!("{id}: known {known:#?}, in the list: {listed:#?}"));
    }
    let (said, evidence) = (recorded(root, id, &mut Vec::new()), &known.finding.evidence);
    let by_record = evidence.as_ref().is_some_and(|e| e.method == Method::Probe);
    let is_same = said.as_ref().is_none_or(|said| {
        let other = said.finding.facts == known.finding.facts;
        (other || !by_record) && said.render_node == known.render_node
    });
    let is_missed = said.is_none() && by_record && matches!(id, DeviceId::Mdev(_));
    (is_missed || !is_same).then(|| format!("{id}: recorded {said:#?}, known {known:#?}"))
}

fn seen_alone(
    root: &Root,
    all: &Sources,
    device: &Device,
    inventory: &Inventory,
) -> Option<String> {
    let id = device.id;
    let without_defined = |entry: &DeviceEntry| {
        let mut value = serde_json::to_value(entry).expect("it has only string keys");
        value["defined"] = Value::Null;
        value
    };
    let listed = inventory.devices.iter().find(|entry| entry.id == id);
    let (sources, alone) = Sources::read_device(root, id);
    let alone = alone.map(|device| without_defined(&active(&sources, &device)));
    if alone != listed.map(without_defined) {
        return Some(format!("{id} alone: {alone:#?}, in the list: {listed:#?}"));
    }
    if let DeviceId::Pci(_) = id {
        return None;
    }
    let expected = (device.circumstances(&all.host), device.render_node.clone());
    let found = sysfs::read_circumstances(root, id);
    (found.as_ref() != Some(&expected))
        .then(|| format!("{id}: circumstances {found:#?}, expected {expected:#?}"))
}

pub(crate) fn updating() -> bool {
    std::env::var_os("UPDATE_GOLDEN").is_some_and(|value| value == "1")
}

pub(crate) fn golden(path: &Path, text: &str) -> Result<(), Failed> {
    if updating() {
        fs::create_dir_all(path.parent().expect("it lies in a folder"))?;
        return Ok(fs::write(path, text)?);
    }
    let name = path.display();
    let expected = fs::read(path)
        .map_err(|error| format!("{name}: {error}; UPDATE_GOLDEN=1 writes what is made now"))?;
    if expected == text.as_bytes() {
        return Ok(());
    }
    let expected = String::from_utf8_lossy(&expected);
    let same = expected
        .lines()
        .zip(text.lines())
        .take_while(|(a, b)| a == b)
        .count();
    let line = |text: &str| text.lines().nth(same).map(str::to_owned);
    Err(format!(
        "{name}, line {}: expected {:?}, got {:?}; UPDATE_GOLDEN=1 accepts what is made now:\n{text}",
        same + 1,
        line(&expected),
        line(text)
    )
    .into())
}

pub(crate) fn entries(directory: &Path) -> BTreeSet<String> {
    let Ok(entries) = fs::read_dir(directory) else {
        return BTreeSet::new();
    };
    entries
        .map(|entry| {
            let name = entry.expect("a directory of ours can be read").file_name();
            name.to_string_lossy().into_owned()
        })
        .collect()
}

fn names(names: &[&str]) -> BTreeSet<String> {
    names.iter().map(ToString::to_string).collect()
}
