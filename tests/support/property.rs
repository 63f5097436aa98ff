//! Checks that with any texts in sysfs the list can be written, the XML is well-formed and valid,
//! and libvirt can print the attributes.

use std::fmt;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use gfxplane::host::Root;
use gfxplane::publish::inventory::{Sources, inventory};
use gfxplane::publish::words;
use libtest_mimic::Trial;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tempfile::TempDir;

use crate::support::hosts::{attributes_are_plain, documents};
use crate::support::schema::validate_all;

const MDEV: &str = "c1a20000-0000-4000-8000-000000000001";
const DEFINED: &str = "c1a20000-0000-4000-8000-000000000002";

/// Returns one test of many hosts.
pub(crate) fn trials() -> Vec<Trial> {
    vec![Trial::test("property::any-text-in-sysfs", || {
        let config = Config {
            cases: 64,
            failure_persistence: None,
            ..Config::default()
        };
        TestRunner::new(config)
            .run(&texts(), |texts| {
                let host = texts.host();
                let (base, kept) = (host.path().to_owned(), host);
                let result = holds(&Root::recorded(&base));
                drop(kept);
                result.map_err(TestCaseError::fail)
            })
            .map_err(|error| error.to_string().into())
    })]
}

fn holds(root: &Root) -> Result<(), String> {
    let sources = Sources::read(root);
    let inventory = inventory(&sources);
    serde_json::to_string(&inventory).map_err(|error| error.to_string())?;
    // The defined device may have the parent's name, but neither of the others can be missing.
    let documents = documents(&sources)?;
    if documents.len() < 4 {
        return Err(format!("only {} node devices", documents.len()));
    }
    for document in &documents {
        document.can_be_stripped()?;
    }
    validate_all(documents.iter().map(|document| document.full.as_str()))?;
    for entry in &inventory.devices {
        attributes_are_plain(&words::words(&entry.finding, &entry.require))?;
    }
    Ok(())
}

/// The texts of one host: first the names of files and links, then contents.
#[derive(Debug, Clone)]
struct Texts {
    parent: Name,
    type_id: Name,
    class: Name,
    driver: Name,
    vgpu_driver: Name,
    render_node: Name,
    kernel: Vec<u8>,
    version: Vec<u8>,
    attributes: Vec<Vec<u8>>,
    /// The vendor, device and class of a PCI device, which decide whether it is one.
    ids: Vec<Option<Vec<u8>>>,
    defined_type: String,
}

/// A text that can be a file's name.
#[derive(Clone)]
struct Name(String);

impl fmt::Debug for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl AsRef<Path> for Name {
    fn as_ref(&self) -> &Path {
        self.0.as_ref()
    }
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<String>(),
        "[<>&'\"= /\\]\\[\t\r\n\u{0}-\u{1f}\u{7f}-\u{9f}\u{fffe}\u{feff}]{0,24}",
        "(<!\\[CDATA\\[|\\]\\]>|<!--|-->|&#0;|&lt;|</capability>|<\\?xml |\\$\\(x\\)){1,6}",
    ]
}

fn bytes() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        3 => text().prop_map(String::into_bytes),
        1 => vec(any::<u8>(), 0..32),
        1 => "-?[0-9]{1,24}|0x[0-9a-f]{1,12}".prop_map(String::into_bytes),
    ]
}

fn name() -> impl Strategy<Value = Name> {
    text().prop_map(|text| {
        let mut name = text.replace(['/', '\0'], "_");
        while name.len() > 150 {
            name.pop();
        }
        match name.as_str() {
            "" | "." | ".." => Name("x".into()),
            _ => Name(name),
        }
    })
}

fn texts() -> impl Strategy<Value = Texts> {
    let names = (name(), name(), name(), name(), name(), name());
    let contents = (
        bytes(),
        bytes(),
        vec(bytes(), 8),
        vec(proptest::option::weighted(0.3, bytes()), 3),
        text(),
    );
    (names, contents).prop_map(|(names, contents)| {
        let (parent, type_id, class, driver, vgpu_driver, render_node) = names;
        let (kernel, version, attributes, ids, defined_type) = contents;
        Texts {
            parent,
            type_id,
            class,
            driver,
            vgpu_driver,
            render_node,
            kernel,
            version,
            attributes,
            ids,
            defined_type,
        }
    })
}

impl Texts {
    /// Makes a host with an mdev on a parent of its own kind, a PCI device that offers the same
    /// type, a virtual function, and a defined mdev.
    fn host(&self) -> TempDir {
        let host = tempfile::tempdir().expect("a temporary directory can be made");
        let tree = Tree(host.path());
        let devices = Path::new("sys/devices/virtual");
        let parent = devices.join("class").join(&self.parent);
        let pci = Path::new("sys/devices/pci0000:00");
        let (gpu, function) = (pci.join("0000:00:02.0"), pci.join("0000:00:03.0"));
        tree.file("proc/sys/kernel/osrelease", &self.kernel);
        tree.file("proc/sys/kernel/random/boot_id", b"a boot\n");
        let module = Path::new("sys/module").join(&self.driver);
        tree.file(module.join("version"), &self.version);

        for parent in [&parent, &gpu] {
            let name = parent.file_name().expect("it has one");
            tree.link(Path::new("sys/class/mdev_bus").join(name), parent);
            let of_type = parent.join("mdev_supported_types").join(&self.type_id);
            let names = ["name", "description", "device_api", "available_instances"];
            for (name, text) in names.iter().zip(&self.attributes) {
                tree.file(of_type.join(name), text);
            }
            // This is sometimes a type that libvirt would list.
            let sound = parent.join("mdev_supported_types/sound-1");
            tree.file(sound.join("name"), &self.attributes[0]);
            tree.file(sound.join("device_api"), b"vfio-pci\n");
            tree.file(sound.join("available_instances"), b"3\n");
        }
        let plane = "vfio-pci/device/gfx_plane/dmabuf";
        let sound = gpu.join("mdev_supported_types/sound-1");
        tree.file(sound.join(plane), &self.attributes[4]);
        // This puts the render node among the attributes.
        let of_type = parent.join("mdev_supported_types").join(&self.type_id);
        tree.file(of_type.join(plane), b"Y\n");
        tree.link(
            parent.join("subsystem"),
            Path::new("sys/class").join(&self.class),
        );
        tree.file(
            parent
                .join("drm")
                .join(format!("renderD{}", self.render_node.0)),
            b"",
        );

        let mdev = parent.join(MDEV);
        tree.link(Path::new("sys/bus/mdev/devices").join(MDEV), &mdev);
        let driver = Path::new("sys/bus/mdev/drivers").join(&self.driver);
        tree.link(mdev.join("driver"), &driver);
        tree.link(driver.join("module"), &module);
        tree.link(
            mdev.join("mdev_type"),
            parent.join("mdev_supported_types").join(&self.type_id),
        );
        tree.link(mdev.join("iommu_group"), "sys/kernel/iommu_groups/7");

        for (device, driver) in [(&gpu, &self.driver), (&function, &self.vgpu_driver)] {
            let name = device.file_name().expect("it has one");
            tree.link(Path::new("sys/bus/pci/devices").join(name), device);
            tree.link(device.join("subsystem"), "sys/bus/pci");
            let driver = Path::new("sys/bus/pci/drivers").join(driver);
            tree.link(device.join("driver"), driver);
        }
        let sound: [&[u8]; 3] = [b"0x10de\n", b"0x2235\n", b"0x030200\n"];
        for (index, name) in ["vendor", "device", "class"].iter().enumerate() {
            tree.file(function.join(name), sound[index]);
            tree.file(
                gpu.join(name),
                self.ids[index].as_deref().unwrap_or(sound[index]),
            );
        }
        tree.file(gpu.join("sriov_totalvfs"), &self.attributes[5]);
        tree.file(
            function.join("nvidia/current_vgpu_type"),
            &self.attributes[6],
        );

        let definition = serde_json::json!({
            "mdev_type": self.defined_type,
            "start": "auto",
            "attrs": [{"x": String::from_utf8_lossy(&self.attributes[7])}],
        });
        tree.file(
            Path::new("etc/mdevctl.d").join(&self.parent).join(DEFINED),
            definition.to_string().as_bytes(),
        );
        host
    }
}

struct Tree<'a>(&'a Path);

impl Tree<'_> {
    fn place(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = self.0.join(path);
        fs::create_dir_all(path.parent().expect("it lies in the tree")).unwrap();
        path
    }

    fn file(&self, path: impl AsRef<Path>, text: &[u8]) {
        fs::write(self.place(path), text).unwrap();
    }

    fn link(&self, path: impl AsRef<Path>, target: impl AsRef<Path>) {
        symlink(self.0.join(target), self.place(path)).unwrap();
    }
}
