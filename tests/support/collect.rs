//! What `gfxplane collect` makes of a recorded host is the same host.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use gfxplane::explain::doctor::examine;
use gfxplane::explain::doctor::examine as reader;
use gfxplane::host::Root;
use gfxplane::host::emulator::{self, Asking};
use gfxplane::predict::abilities::{Abilities, Guests};
use gfxplane::publish::inventory::{Sources, inventory};
use gfxplane::publish::offline;
use libtest_mimic::{Failed, Trial};
use serde_json::Value;

use crate::support::doctor;
use crate::support::hostile;
use crate::support::hosts::{documents, entries};

const TOOL: &str = env!("CARGO_BIN_EXE_gfxplane");
const QEMU: &str = "/usr/bin/qemu-system-x86_64";

/// One test for each of `tests/hosts`.
pub(crate) fn trials() -> Vec<Trial> {
    let hosts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts");
    let of_host = |name: String| {
        let root = hosts.join(&name).join("root");
        Trial::test(format!("collect::{name}"), move || {
            if name == "hostile" {
                return equal(hostile::make(&root).path());
            }
            equal(&root)
        })
    };
    let mut trials: Vec<Trial> = entries(&hosts).into_iter().map(of_host).collect();
    let lab = hosts.join("lab/root");
    let mut more = |name: &str, test: fn(&Path) -> Result<(), Failed>| {
        let lab = lab.clone();
        trials.push(Trial::test(format!("collect::{name}"), move || test(&lab)));
    };
    more("refusals", refusals);
    more("domains", domains);
    more("what-identifies", what_identifies);
    more("readme", readme);
    let doctor = hosts.with_file_name("doctor");
    for name in entries(&doctor) {
        let folder = doctor.join(&name);
        let test = move || examined(&folder);
        trials.push(Trial::test(format!("collect::doctor::{name}"), test));
    }
    trials
}

/// `gfxplane doctor` says the same of the copy of a host.
fn examined(folder: &Path) -> Result<(), Failed> {
    let host = doctor::tree(folder)?;
    let directory = tempfile::tempdir()?;
    let copy = directory.path().join("copy");
    collect(host.path(), &copy)?;
    let lines = |root: &Path| -> Vec<String> {
        let inside = |text: String| text.replace(&root.display().to_string(), "");
        let (host, _) = reader::read(&Root::recorded(root), &|_| Ok(None));
        let lines = examine(&host, &BTreeMap::new());
        lines
            .iter()
            .map(|line| inside(format!("{line:?}")))
            .collect()
    };
    let (expected, found) = (lines(host.path()), lines(&copy.join("root")));
    if expected == found {
        return Ok(());
    }
    let missing: Vec<&String> = expected
        .iter()
        .filter(|line| !found.contains(line))
        .collect();
    let new: Vec<&String> = found
        .iter()
        .filter(|line| !expected.contains(line))
        .collect();
    Err(format!("of the copy is not said: {missing:#?}, but {new:#?}").into())
}

const DOMAIN: &str = "<domain type='kvm'>
  <name>payroll</name>
  <uuid>11111111-2222-3333-4444-555555555555</uuid>
  <title>Payroll of Example Ltd.</title>
  <!-- the password is s3cret -->
  <metadata>
    <nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'><nova:name>s3cret</nova:name></nova:instance>
  </metadata>
  <sysinfo type='smbios'><system><entry name='serial'>s3cret</entry></system></sysinfo>
  <devices>
    <emulator>/usr/libexec/qemu-kvm</emulator>
    <disk type='file'><source file='/home/s3cret/disk'/><target dev='vda'/></disk>
    <interface type='network'>
      <mac address='52:54:00:be:ef:01'/>
    </interface>
    <graphics type='vnc' passwd='s3cret' listen='192.168.7.7'/>
    <graphics type='spice' autoport='yes'><listen type='address' address='127.0.0.1'/></graphics>
  </devices>
  <qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
    <qemu:arg value='-object'/>
    <qemu:arg value='secret,id=s,data=s3cret'/>
    <qemu:arg value='-set'/>
    <qemu:arg value='device.hostdev0.ramfb=on'/>
  </qemu:commandline>
</domain>
";

const DOMAIN_SHOWN: &str =
    "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>domain-1</name>
  <uuid>00000000-0000-4000-8000-000000000001</uuid>
  <metadata>
    <left-out:metadata xmlns:left-out='urn:left-out:openstack.org'/>
  </metadata>
  <devices>
    <emulator>/usr/libexec/qemu-kvm</emulator>
    <interface type='network'/>
    <graphics type='vnc' listen='192.0.2.1'/>
    <graphics type='spice' autoport='yes'>
      <listen type='address' address='127.0.0.1'/>
    </graphics>
  </devices>
  <qemu:commandline>
    <qemu:arg value='-object'/>
    <qemu:arg value='left-out'/>
    <qemu:arg value='-set'/>
    <qemu:arg value='device.hostdev0.ramfb=on'/>
  </qemu:commandline>
</domain>
";

#[track_caller]
fn ends(root: &Path, arguments: &[&str], code: i32, said: &str) {
    let output = Command::new(TOOL)
        .arg("--root")
        .arg(root)
        .arg("collect")
        .args(arguments)
        .output()
        .unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(code), "{error}");
    assert!(error.contains(said), "{error}");
}

fn refusals(lab: &Path) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let at = |name: &str| directory.path().join(name).display().to_string();
    fs::create_dir(at("full"))?;
    fs::write(at("full/x"), "")?;
    fs::create_dir(at("empty"))?;
    fs::write(at("no-domain.xml"), "<network/>")?;
    fs::write(at("no-xml.xml"), "<network>")?;
    ends(lab, &[&at("full")], 2, "is not empty: name a directory");
    ends(
        lab,
        &[&at("full/x")],
        2,
        "is no directory: name a directory",
    );
    ends(lab, &[], 2, "<DIR>");
    let missing = at("missing.xml");
    for (file, code, said) in [
        ("missing.xml", 3, missing.as_str()),
        ("no-domain.xml", 1, "<network> is not a domain"),
        ("no-xml.xml", 1, "no-xml.xml"),
    ] {
        ends(lab, &[&at("new"), "--xml", &at(file)], code, said);
        assert!(!Path::new(&at("new")).exists(), "nothing was written");
    }
    ends(lab, &[&at("empty")], 0, "read them before");
    ends(lab, &[&at("empty")], 2, "is not empty");
    ends(lab, &[&at("full/x/below")], 2, "is no directory");
    ends(lab, &["/proc/nowhere/x"], 3, "/proc/nowhere");
    Ok(())
}

fn domains(lab: &Path) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let (xml, to) = (
        directory.path().join("d.xml"),
        directory.path().join("case"),
    );
    fs::write(&xml, DOMAIN)?;
    let (xml, shown) = (xml.display().to_string(), to.display().to_string());
    ends(lab, &[&shown, "--xml", &xml, &xml], 0, "");
    let read = |number: u32| fs::read_to_string(to.join(format!("domains/domain-{number}.xml")));
    assert_eq!(read(1)?, DOMAIN_SHOWN);
    assert!(read(2)?.contains("<name>domain-2</name>"));
    assert!(entries(&to) == ["README", "domains", "root"].map(str::to_owned).into());
    Ok(())
}

/// What no rule of ours reads, but one of the administrator's.
fn what_identifies(lab: &Path) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let host = with_abilities(lab, directory.path())?;
    let device = "sys/bus/mdev/devices/c1a20000-0000-4000-8000-000000000001";
    let wanted = ["serial", "binary", "fine"].map(|path| format!("{{path='{path}', is='x'}}"));
    let wanted = wanted.join(", ");
    let rule = format!(
        "[[rule]]\nname='x'\nsource='x'\nopen='safe'\nmatch={{type=['x'], attribute=[{wanted}]}}\n"
    );
    fs::write(host.join("etc/gfxplane/rules.d/90-x.toml"), rule)?;
    for (name, text) in [
        ("serial", "s3cret"),
        ("binary", "s3cret\0"),
        ("fine", "x"),
        ("unread", "x"),
    ] {
        fs::write(host.join(device).join(name), text)?;
    }
    let to = directory.path().join("case");
    collect(&host, &to)?;
    let copy = to.join("root").join(device);
    let there = |name: &str| copy.join(name).exists();
    assert_eq!(
        ["serial", "binary", "fine", "unread"].map(there),
        [false, false, true, false]
    );
    let readme = fs::read_to_string(to.join("README"))?;
    for note in [
        "serial: left out: it identifies this machine",
        "binary: left out: it is no text",
    ] {
        assert!(readme.contains(note), "{readme}");
    }
    Ok(())
}

fn readme(lab: &Path) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let host = with_abilities(lab, directory.path())?;
    let to = directory.path().join("case");
    collect(&host, &to)?;
    let readme = fs::read_to_string(to.join("README"))?;
    for part in [
        "Recorded by `gfxplane collect`",
        "Kernel 6.12.107+deb13-amd64; libvirt 11.3.0; /usr/bin/qemu-system-x86_64: QEMU 10.0.13",
        "UPDATE_GOLDEN=1",
    ] {
        assert!(readme.contains(part), "{readme}");
    }
    Ok(())
}

/// The copy of a host says what the host says, and the copy of the copy is the copy.
fn equal(original: &Path) -> Result<(), Failed> {
    let directory = tempfile::tempdir()?;
    let (first, second) = (directory.path().join("1"), directory.path().join("2"));
    let with = with_abilities(original, directory.path())?;
    collect(&with, &first)?;
    collect(&first.join("root"), &second)?;
    let (original, copy) = (said(&with)?, said(&first.join("root"))?);
    if original.list != copy.list {
        let text = serde_json::to_string_pretty(&copy.list)?;
        return Err(format!("the copy says something else:\n{text}").into());
    }
    if original.nodedev != copy.nodedev {
        return Err(format!("another nodedev-dumpxml: {:#?}", copy.nodedev).into());
    }
    if original.abilities != copy.abilities {
        return Err(format!("QEMU and libvirt: {:#?}", copy.abilities).into());
    }
    // What leads out of the host, or is too large, is left out, and its warning with it.
    for warning in &copy.warnings {
        if !original.warnings.contains(warning) {
            return Err(format!("the copy has a warning of its own: {warning}").into());
        }
    }
    let (first, second) = (tree(&first.join("root"))?, tree(&second.join("root"))?);
    if first != second {
        let differ = |(path, what): &(&PathBuf, &Vec<u8>)| second.get(*path) != Some(*what);
        let first: Vec<_> = first.iter().filter(differ).collect();
        return Err(format!("the copy of the copy is another one: not {first:?}").into());
    }
    let original = tree(&with)?;
    let made = |path: &Path| {
        path.ends_with("uevent") || path.starts_with("var/cache") || path.starts_with("etc/libvirt")
    };
    match first
        .iter()
        .find(|(path, what)| original.get(*path) != Some(*what) && !made(path))
    {
        Some((path, _)) => Err(format!("{}: is not as it was", path.display()).into()),
        None => Ok(()),
    }
}

/// The host with a QEMU and a libvirt: recorded hosts may have been made before these were.
fn with_abilities(original: &Path, below: &Path) -> Result<PathBuf, Failed> {
    let host = below.join("host");
    let copied = Command::new("cp")
        .arg("-a")
        .arg(original)
        .arg(&host)
        .status()?;
    if !copied.success() {
        return Err("cp fails".into());
    }
    let words = |words: &[&str]| Some(words.iter().map(ToString::to_string).collect());
    let abilities = Abilities {
        qemu: Some("10.0.13".parse()?),
        libvirt: Some("11.3.0".parse()?),
        frontends: words(&["vnc", "spice", "spice-gl", "dbus"]),
        spice_gl_over_tcp: None,
        spice_listen: Some("0.0.0.0".into()),
        vnc_listen: Some("127.0.0.1".into()),
        spice_auto_unix_socket: Some(false),
        vnc_auto_unix_socket: Some(true),
        spice_tls: Some(true),
        own_dev: Some(true),
        kvm: None,
        render_nodes: None,
        guests: Guests {
            dbus_daemon_denied: Some(true),
            ..Guests::default()
        },
    };
    emulator::record(&Root::recorded(&host), Path::new(QEMU), &abilities)?;
    Ok(host)
}

fn collect(root: &Path, to: &Path) -> Result<(), Failed> {
    let output = Command::new(TOOL)
        .arg("--root")
        .arg(root)
        .arg("collect")
        .arg(to)
        .stdin(Stdio::null())
        .output()?;
    if !output.status.success() {
        return Err(String::from_utf8_lossy(&output.stderr).into_owned().into());
    }
    let printed = String::from_utf8(output.stdout)?;
    let written = tree(to)?.len();
    if printed.lines().count() != written {
        return Err(format!("{written} files and links, but it names:\n{printed}").into());
    }
    Ok(())
}

struct Said {
    list: Value,
    warnings: Vec<String>,
    nodedev: Vec<(String, String)>,
    abilities: Abilities,
}

fn said(root: &Path) -> Result<Said, Failed> {
    let base = root.canonicalize()?;
    let root = Root::recorded(&base);
    let sources = Sources::read(&root);
    let mut inventory = inventory(&sources);
    let inside = |path: &Path| {
        path.strip_prefix(&base)
            .unwrap_or(path)
            .display()
            .to_string()
    };
    let warnings = std::mem::take(&mut inventory.warnings);
    // An error of the parser's may name the file.
    let problem = |problem: &str| problem.replace(&base.display().to_string(), "");
    let names = offline::nodes(&sources).into_iter().map(|(name, _)| name);
    let full = documents(&sources)?
        .into_iter()
        .map(|document| document.full);
    let mut odd = Vec::new();
    let abilities = emulator::abilities(&root, Path::new(QEMU), Asking::Cached, &mut odd);
    Ok(Said {
        list: serde_json::to_value(&inventory)?,
        warnings: warnings
            .iter()
            .map(|warning| format!("{}: {}", inside(&warning.path), problem(&warning.problem)))
            .collect(),
        nodedev: names.zip(full).collect(),
        abilities,
    })
}

/// Files with their content, links with their target.
fn tree(directory: &Path) -> Result<BTreeMap<PathBuf, Vec<u8>>, Failed> {
    let mut found = BTreeMap::new();
    let mut ahead = vec![PathBuf::new()];
    while let Some(at) = ahead.pop() {
        for entry in fs::read_dir(directory.join(&at))? {
            let entry = entry?;
            let path = at.join(entry.file_name());
            let kind = entry.file_type()?;
            if kind.is_dir() {
                ahead.push(path);
            } else if kind.is_symlink() {
                let target = fs::read_link(entry.path())?;
                found.insert(path, format!("-> {}", target.display()).into_bytes());
            } else if kind.is_file() {
                found.insert(path, fs::read(entry.path())?);
            }
        }
    }
    Ok(found)
}
