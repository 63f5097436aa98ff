//! Tests the hooks of other managers. Each folder in `tests/managed` is a case:
//!
//! * `case.toml`: `host` (a folder of `tests/hosts`) and `manager` (`kubevirt` or `ovirt`);
//! * `domain.xml`: the domain that the manager hands over; for KubeVirt also `vmi.json`, which may be
//!   missing;
//! * `README`: the version and the source file of the manager that writes such a domain; may be missing;
//! * `rules.toml`, `gfxplane.toml`: rules and configuration of the node; may be missing;
//! * `out.xml`: the expected XML; missing if nothing changes;
//! * `said.txt`: the expected stderr.
//!
//! The helper itself is run, as the manager runs it, and must always succeed. KubeVirt's nodes have
//! no records, as its containers see none. `UPDATE_GOLDEN=1 cargo test --test cases` writes the
//! last two anew.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use gfxplane::domain::policy::Policy;
use gfxplane::domain::{Domain, Hostdev};
use gfxplane::plan::fixup::{Fixed, Surroundings, Unfit};
use gfxplane::plan::managers::adapt;
use gfxplane::predict::Outcome;
use gfxplane::predict::libvirt_checks::is_beyond_repair;
use gfxplane::xml::Document;
use libtest_mimic::{Failed, Trial};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde::Deserialize;
use tempfile::TempDir;

use crate::support::folders::{self, nothing_but};
use crate::support::hostile::copy;
use crate::support::hosts::{golden, updating};
use crate::support::plan::{domain, plain, run};
use crate::support::promises::only_what_is_named;
use crate::support::worlds::of_bytes;

const HELPER: &str = env!("CARGO_BIN_EXE_gfxplane-helper");

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Manager {
    Kubevirt,
    Ovirt,
}

#[derive(Deserialize)]
struct Case {
    host: String,
    manager: Manager,
}

/// Returns all cases, and the tests of what must hold of any.
pub(crate) fn trials() -> Vec<Trial> {
    folders::trials("managed", of_folder)
        .into_iter()
        .chain([
            Trial::test("managed::any-domain-in-any-world", || {
                run(400, 3, domain(), holds)
            }),
            Trial::test("managed::any-plain-domain-in-any-world", || {
                run(400, 4, plain(), holds)
            }),
            Trial::test("managed::any-arguments", any_arguments),
            Trial::test("managed::nothing-to-hand-back", nothing_to_hand_back),
            Trial::test("managed::any-file-of-vdsm", any_file_of_vdsm),
            Trial::test("managed::host-devices-of-vdsm", host_devices),
            Trial::test("managed::manifests", manifests),
            Trial::test("managed::a-device-that-vdsm-has-just-made", just_made),
        ])
        .collect()
}

/// A node and the links by which it calls the helper.
struct Node {
    directory: TempDir,
}

impl Node {
    /// Makes a node of a host in `tests/hosts`, with the case's files in /etc/gfxplane.
    fn of(host: &str, manager: Manager, case: Option<&Path>) -> Self {
        let hosts = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts");
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        let node = Node { directory };
        let root = node.root();
        fs::create_dir(&root).unwrap();
        copy(&hosts.join(host).join("root"), &root);
        if let Manager::Kubevirt = manager {
            let _ = fs::remove_dir_all(root.join("run"));
        }
        if let Manager::Ovirt = manager {
            // vdsm-tool configures it like this.
            fs::create_dir_all(root.join("etc/libvirt")).unwrap();
            fs::write(root.join("etc/libvirt/qemu.conf"), "spice_tls=1\n").unwrap();
        }
        let files = [
            ("rules.toml", "etc/gfxplane/rules.d/50-measured.toml"),
            ("gfxplane.toml", "etc/gfxplane/gfxplane.toml"),
        ];
        for (from, to) in files {
            let from = case.map(|case| case.join(from));
            if let Some(from) = from.filter(|from| from.exists()) {
                fs::create_dir_all(root.join(to).parent().unwrap()).unwrap();
                fs::copy(from, root.join(to)).unwrap();
            }
        }
        let hooks = node.path("before_vm_start");
        fs::create_dir(&hooks).unwrap();
        symlink(HELPER, hooks.join("90_gfxplane")).unwrap();
        let hooks = node.path("after_hostdev_list_by_caps");
        fs::create_dir(&hooks).unwrap();
        symlink(HELPER, hooks.join("90_gfxplane")).unwrap();
        symlink(HELPER, node.path("onDefineDomain")).unwrap();
        node
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn root(&self) -> PathBuf {
        self.path("root")
    }

    fn command(&self, program: &Path) -> Command {
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("GFXPLANE_ROOT", self.root())
            .stdin(Stdio::null());
        command
    }

    /// Calls the helper as the shim does.
    fn on_define_domain(&self, arguments: &[OsString]) -> Output {
        let mut command = self.command(&self.path("onDefineDomain"));
        command.args(arguments).output().unwrap()
    }

    /// Calls the helper as vdsm does. Returns the file's new content, and the output.
    fn before_vm_start(&self, domain: &[u8]) -> (Vec<u8>, Output) {
        let file = self.path("domxml");
        fs::write(&file, domain).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
        let mut command = self.command(&self.path("before_vm_start/90_gfxplane"));
        let output = command.env("_hook_domxml", &file).output().unwrap();
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o640);
        let after = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        (after, output)
    }
}

fn options(vmi: Option<&str>, domain: &str) -> Vec<OsString> {
    let vmi = vmi.into_iter().flat_map(|vmi| ["--vmi", vmi]);
    vmi.chain(["--domain", domain])
        .map(OsString::from)
        .collect()
}

fn of_folder(folder: &Path) -> Result<(), Failed> {
    let case: Case = toml::from_str(&fs::read_to_string(folder.join("case.toml"))?)?;
    let text = fs::read_to_string(folder.join("domain.xml"))?;
    let vmi = fs::read_to_string(folder.join("vmi.json")).ok();
    let node = Node::of(&case.host, case.manager, Some(folder));
    let call = |domain: &str| match case.manager {
        Manager::Kubevirt => {
            let output = node.on_define_domain(&options(vmi.as_deref(), domain));
            (output.stdout.clone(), output)
        }
        Manager::Ovirt => node.before_vm_start(domain.as_bytes()),
    };
    let (after, output) = call(&text);
    if output.status.code() != Some(0) {
        return Err(format!("it ended with {}", output.status).into());
    }
    let after = String::from_utf8(after)?;
    let mut files = vec![
        "case.toml",
        "domain.xml",
        "vmi.json",
        "rules.toml",
        "gfxplane.toml",
        "said.txt",
        "README",
    ];
    if after == text {
        if updating() {
            let _ = fs::remove_file(folder.join("out.xml"));
        }
    } else {
        files.push("out.xml");
        golden(&folder.join("out.xml"), &after)?;
    }
    nothing_but(folder, &files)?;
    // The node lies in another place each time.
    let said = String::from_utf8(output.stderr)?;
    let said = said.replace(&node.directory.path().display().to_string(), "NODE");
    golden(&folder.join("said.txt"), &said)?;
    if call(&after).0 != after.as_bytes() {
        return Err("a second run changes more".into());
    }
    // With the arguments in the other order and the other form, it is the same call.
    if let (Manager::Kubevirt, Some(vmi)) = (case.manager, &vmi) {
        let turned = [format!("--domain={text}"), format!("--vmi={vmi}")];
        let turned = node.on_define_domain(&turned.map(OsString::from));
        if turned.stdout != after.as_bytes() {
            return Err("--domain=XML --vmi=JSON gives something else".into());
        }
    }
    Ok(())
}

/// Wishes for a display of one device in two.
fn wish(hostdev: &Hostdev<'_, '_>) -> bool {
    hostdev.id.to_string().ends_with(['1', '3', '5'])
}

fn holds(text: &str, world: &[u8]) -> Result<(), String> {
    let (surroundings, policy, _) = of_bytes(world);
    let Ok(fixed) = adapt(text, &surroundings, &policy, &wish) else {
        return Ok(());
    };
    let Some(plan) = &fixed.plan else {
        return same(text, &fixed.text);
    };
    let refused = |outcome: &Outcome| matches!(outcome, Outcome::No(_));
    if plan.before.starts() && !plan.after.starts() {
        return Err(format!("it started, and no longer does: {:?}", plan.after));
    }
    if refused(&plan.after.outcome) && !refused(&plan.before.outcome) {
        return Err(format!("it is refused, and was not: {:?}", plan.after));
    }
    if (fixed.text == text) != plan.changes.is_empty() {
        return Err("changes that change nothing, or changes that nobody planned".into());
    }
    let again = adapt(&fixed.text, &surroundings, &policy, &wish);
    let again: Result<Fixed, Unfit> = again;
    let again = again.map_err(|error| format!("it can't be read again: {error}"))?;
    same(&fixed.text, &again.text)?;
    if again.plan.is_none_or(|again| again.before != plan.after) {
        return Err("the XML does not give what the plan promised".into());
    }
    graphics_stay(text, &fixed.text)?;
    one_ramfb(&fixed.text, &surroundings, &policy)?;
    only_what_is_named(text, &fixed.text, plan)
}

fn same(before: &str, after: &str) -> Result<(), String> {
    if before == after {
        return Ok(());
    }
    Err(format!(
        "more changes:\n{}",
        gfxplane::cli::fixup::diff(before, after)
    ))
}

/// Checks that the graphics and the video cards stay to the byte.
fn graphics_stay(before: &str, after: &str) -> Result<(), String> {
    let of = |text: &str| -> Result<Vec<String>, String> {
        let document = Document::parse(text).map_err(|error| error.to_string())?;
        let domain = Domain::new(&document).map_err(|error| error.to_string())?;
        let graphics = domain.graphics.iter().map(|graphics| graphics.element);
        let all = graphics.chain(domain.videos.iter().map(|video| video.element));
        Ok(all.map(|element| text[element.span()].to_owned()).collect())
    };
    same(&of(before)?.join("\n"), &of(after)?.join("\n"))
}

/// Checks that at most one device has ramfb, whatever was written, unless the domain is to be left
/// alone or nobody knows which device is meant.
fn one_ramfb(text: &str, surroundings: &dyn Surroundings, policy: &Policy) -> Result<(), String> {
    let asked = adapt(text, surroundings, policy, &wish).map_err(|error| error.to_string())?;
    let Some(plan) = asked.plan else {
        return Ok(());
    };
    let is_off = |policy: &Policy| policy.display == gfxplane::domain::policy::Displays::Off;
    let document = Document::parse(text).map_err(|error| error.to_string())?;
    let domain = Domain::new(&document).map_err(|error| error.to_string())?;
    let policy = policy.clone().for_domain(&domain);
    if policy.is_ok_and(|policy| is_off(&policy))
        || is_beyond_repair(&plan.screens, &surroundings.abilities(&domain))
    {
        return Ok(());
    }
    let with: Vec<_> = plan
        .screens
        .vgpus
        .iter()
        .filter(|vgpu| vgpu.is_pci && vgpu.ramfb)
        .collect();
    // A domain that is refused whatever is done stays as it is.
    if plan.before.starts() && (with.len() > 1 || with.iter().any(|vgpu| !vgpu.display)) {
        return Err(format!("{} devices with ramfb", with.len()));
    }
    Ok(())
}

/// Checks that no arguments cause a panic, and that the given domain comes back.
fn any_arguments() -> Result<(), Failed> {
    let node = Node::of("lab", Manager::Kubevirt, None);
    // An argument can't contain a zero byte.
    let word = prop_oneof![
        vec(1..=255_u8, 0..64),
        "[ -~]{0,40}".prop_map(String::into_bytes),
        "(<domain[^<]{0,20}>|</domain>|<devices>|<hostdev type='mdev'/>|&x;|<!\\[CDATA\\[){0,6}"
            .prop_map(String::into_bytes),
        "\\{\"spec\":[\\[\\]{}0-9,\":]{0,20}\\}?".prop_map(String::into_bytes),
    ];
    let word = word.prop_map(|mut bytes: Vec<u8>| {
        bytes.retain(|byte| *byte != 0);
        bytes
    });
    let pair = (word.clone(), word, vec("-?-?[a-z=]{0,8}", 0..3));
    let config = Config {
        cases: 200,
        failure_persistence: None,
        ..Config::default()
    };
    let test = |(vmi, domain, others): (Vec<u8>, Vec<u8>, Vec<String>)| {
        let mut arguments: Vec<OsString> = others.iter().map(OsString::from).collect();
        arguments.retain(|word| word != "--vmi" && word != "--domain");
        arguments.push("--vmi".into());
        arguments.push(OsString::from_vec(vmi));
        arguments.push("--domain".into());
        arguments.push(OsString::from_vec(domain.clone()));
        let output = node.on_define_domain(&arguments);
        let code = if domain.is_empty() { 2 } else { 0 };
        prop_assert_eq!(output.status.code(), Some(code), "{:?}", output);
        prop_assert_eq!(output.stdout, domain);
        Ok::<(), TestCaseError>(())
    };
    let result = TestRunner::new(config).run(&pair, test);
    result.map_err(|error| error.to_string().into())
}

/// Checks that nothing that the shim would take for a domain is printed when there is none to
/// print.
fn nothing_to_hand_back() -> Result<(), Failed> {
    let node = Node::of("lab", Manager::Kubevirt, None);
    for arguments in [&[][..], &["--vmi", "{}"], &["--domain"], &["--domain", ""]] {
        let arguments: Vec<OsString> = arguments.iter().map(OsString::from).collect();
        let output = node.on_define_domain(&arguments);
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.code() != Some(2) || !output.stdout.is_empty() {
            return Err(format!("{arguments:?}: {output:?}").into());
        }
        if !said.contains("expected --vmi JSON --domain XML") {
            return Err(format!("{arguments:?}: {said}").into());
        }
    }
    let full = fs::OpenOptions::new().write(true).open("/dev/full")?;
    let mut command = node.command(&node.path("onDefineDomain"));
    let output = command
        .args(options(Some("{\"spec\":{}}"), "<domain/>"))
        .stdout(full)
        .output()?;
    if output.status.code() != Some(1) {
        return Err(format!("a full disk: {output:?}").into());
    }
    Ok(())
}

/// Checks that the VM starts whatever the file contains, and whatever kind of file it is.
fn any_file_of_vdsm() -> Result<(), Failed> {
    let node = Node::of("lab", Manager::Ovirt, None);
    for bytes in [
        &b""[..],
        b"\xff\xfe<\0d\0",
        b"<domain",
        b"<domain type='kvm'>\xc3</domain>",
        b"{}",
        b"<domain type='kvm'><devices><hostdev type='mdev'><source/></hostdev></devices></domain>",
    ] {
        let (after, output) = node.before_vm_start(bytes);
        if after != bytes || output.status.code() != Some(0) || !output.stdout.is_empty() {
            return Err(format!("{bytes:?}: {after:?} {output:?}").into());
        }
    }
    let fifo = node.path("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
    let files = [
        (Some(fifo.as_os_str()), "is no regular file"),
        (
            Some(node.directory.path().as_os_str()),
            "is no regular file",
        ),
        (Some(OsStr::new("/nonexistent/domxml")), "No such file"),
        (Some(OsStr::new("")), "_hook_domxml names no file"),
        (None, "_hook_domxml names no file"),
    ];
    for (file, said) in files {
        let mut command = node.command(&node.path("before_vm_start/90_gfxplane"));
        command.envs(file.map(|file| ("_hook_domxml", file)));
        let output = command.output()?;
        let stderr = String::from_utf8_lossy(&output.stderr);
        if output.status.code() != Some(0) || !stderr.contains(said) {
            return Err(format!("{file:?}: {output:?}").into());
        }
    }
    Ok(())
}

/// Checks that the engine is told the displays, and that vdsm gets its own list back if not.
fn host_devices() -> Result<(), Failed> {
    let told = |host: &str, list: &str| -> Result<String, Failed> {
        let node = Node::of(host, Manager::Ovirt, None);
        let file = node.path("list");
        fs::write(&file, list)?;
        let mut command = node.command(&node.path("after_hostdev_list_by_caps/90_gfxplane"));
        let output = command.env("_hook_json", &file).output()?;
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        Ok(fs::read_to_string(&file)?)
    };
    // The form of vdsm's lib/vdsm/common/hostdev.py, list_by_caps.
    let list = r#"{"computer":{"params":{"capability":"system"}},"pci_0000_00_03_0":{"params":{"capability":"pci","is_assignable":"true","mdev":{"of-nobody":{"name":"x"},"virtio-pci-both":{"available_instances":"4","description":"an example","name":"both"},"virtio-pci-hang":{"name":"hang"},"virtio-pci-region":{"available_instances":"4","name":"region"}},"product":"Virtio 1.0 GPU","totalvfs":0}}}"#;
    let expected = list
        .replace("an example", "an example, display=dmabuf-region (sibling)")
        .replace(
            r#""4","name":"region""#,
            r#""4","name":"region","description":"display=region (sibling)""#,
        );
    let new = told("lab", list)?;
    if new != expected || told("lab", &new)? != expected {
        return Err(new.into());
    }
    let list = r#"{"pci_0000_41_00_5":{"params":{"product":"AD102GL [L40]"}}}"#;
    let new = told("nvidia-sriov", list)?;
    if new != list.replace("[L40]", "[L40], display=region (rule)") {
        return Err(new.into());
    }
    for list in [
        "",
        "[]",
        "{",
        "{\"a\":7}",
        "{\"pci_0000_00_03_0\":{\"params\":{\"mdev\":[]}}}",
    ] {
        assert_eq!(told("lab", list)?, list);
    }
    Ok(())
}

/// Checks that the hook waits until udev's probe of a new device has ended.
fn just_made() -> Result<(), Failed> {
    const DEVICE: &str = "c1a20000-0000-4000-8000-000000000005";
    let case = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/managed/ovirt-dmabuf");
    let text = fs::read_to_string(case.join("domain.xml"))?;
    let text = text.replace("c1a20000-0000-4000-8000-000000000002", DEVICE);
    let node = Node::of("lab", Manager::Ovirt, None);
    let run = node.root().join("run");
    fs::remove_file(run.join("gfxplane/types/virtio-pci-both.json"))?;
    let record = run.join(format!("gfxplane/records/{DEVICE}.json"));
    let kept = node.path("record");
    fs::rename(&record, &kept)?;
    let asked = node.before_vm_start(text.as_bytes()).0;
    if asked != text.as_bytes() {
        return Err("nothing is known of the device, and yet the domain changed".into());
    }
    fs::create_dir_all(run.join("udev/data"))?;
    fs::write(run.join("udev/control"), "")?;
    let after = std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(300));
            fs::rename(&kept, &record).unwrap();
            fs::write(run.join(format!("udev/data/+mdev:{DEVICE}")), "I:1\n").unwrap();
        });
        node.before_vm_start(text.as_bytes()).0
    });
    let expected = text.replace(
        "display=\"on\" ramfb=\"on\"",
        "display=\"off\" ramfb=\"off\"",
    );
    if after != expected.as_bytes() {
        return Err(String::from_utf8_lossy(&after).into_owned().into());
    }
    Ok(())
}

/// Checks that the manifests in packaging/kubevirt mean what they say.
fn manifests() -> Result<(), Failed> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("packaging/kubevirt");
    let below = |file: &str, key: &str| -> Result<String, Failed> {
        let text = fs::read_to_string(folder.join(file))?;
        let indent = |line: &str| line.len() - line.trim_start().len();
        let mut lines = text
            .lines()
            .skip_while(|line| !line.trim_start().starts_with(key));
        let head = lines.next().ok_or_else(|| format!("{file} has no {key}"))?;
        let block = lines.take_while(|line| line.is_empty() || indent(line) > indent(head));
        Ok(block.map(str::trim).collect::<Vec<_>>().join("\n"))
    };
    let mut rules = gfxplane::device::rules::Rules::default();
    rules.add_file("rules.yaml", &below("rules.yaml", "50-measured.toml:")?)?;
    let sidecars: serde_json::Value =
        serde_json::from_str(&below("vmi.yaml", "hooks.kubevirt.io/hookSidecars:")?)?;
    let path = &sidecars[0]["configMap"]["hookPath"];
    let has_rules = path == "/etc/gfxplane/rules.d/50-measured.toml";
    if rules.iter().count() != 1 || !has_rules || sidecars[0]["args"][0] != "--version" {
        return Err(format!("{sidecars:#}").into());
    }
    Ok(())
}
