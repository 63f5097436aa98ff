//! Answers the calls of other managers of guests: KubeVirt's sidecar shim and oVirt's vdsm.
//!
//! If their hook fails, both stop the guest's start without telling the user why. So if anything
//! goes wrong here, the domain stays as it was given, and the hook succeeds. The hook fails only if
//! it can't print a domain for the shim, because the shim would define whatever was printed.

use std::cell::RefCell;
use std::ffi::{OsStr, OsString};
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use gfxplane::device::id::DeviceId;
use gfxplane::domain::shell::plain;
use gfxplane::domain::{Domain, Hostdev};
use gfxplane::host::emulator::{self, Asking};
use gfxplane::host::rewrite::rewrite;
use gfxplane::host::{Root, Warning, open_file, read_whole, settings, udev};
use gfxplane::plan::fixup::Surroundings;
use gfxplane::plan::managers::kubevirt::Vmi;
use gfxplane::plan::managers::{adapt, lines};
use gfxplane::predict::abilities::Abilities;
use gfxplane::predict::screens::Known;
use gfxplane::publish::inventory::{Reading, Sources, inventory};
use gfxplane::publish::ovirt::host_devices;
use gfxplane::xml::{MAX_SIZE, from_bytes};

use crate::{FAILURE, SUCCESS, USAGE_ERROR};

/// The name by which KubeVirt's shim looks for its hook (cmd/sidecars/sidecar_shim.go).
const ON_DEFINE_DOMAIN: &str = "onDefineDomain";

/// The directories in which vdsm looks for its hooks (lib/vdsm/common/hooks.py): this one and
/// [`HOSTDEV_LIST`].
const BEFORE_VM_START: &str = "before_vm_start";
const HOSTDEV_LIST: &str = "after_hostdev_list_by_caps";

/// A call by a manager of VMs: KubeVirt, or oVirt's vdsm.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Call<'a> {
    /// KubeVirt's `onDefineDomain`, with these arguments.
    OnDefineDomain(&'a [OsString]),
    /// vdsm's hook `before_vm_start`.
    BeforeVmStart,
    /// vdsm's hook `after_hostdev_list_by_caps`.
    HostdevList,
}

impl<'a> Call<'a> {
    /// Reads the manager's call from the name by which we are called, the directory of our link, or
    /// the first argument. `None` if no manager calls.
    pub(crate) fn parse(program: &OsStr, arguments: &'a [OsString]) -> Option<Self> {
        let path = Path::new(program);
        let directory = path.parent().and_then(Path::file_name);
        if path.file_name() == Some(OsStr::new(ON_DEFINE_DOMAIN)) {
            return Some(Call::OnDefineDomain(arguments));
        }
        let verb = arguments.first().map(OsString::as_os_str);
        let is = |name: &str| [path.file_name(), directory, verb].contains(&Some(OsStr::new(name)));
        if is(BEFORE_VM_START) {
            Some(Call::BeforeVmStart)
        } else if is(HOSTDEV_LIST) {
            Some(Call::HostdevList)
        } else if verb == Some(OsStr::new(ON_DEFINE_DOMAIN)) {
            Some(Call::OnDefineDomain(&arguments[1..]))
        } else {
            None
        }
    }
}

/// Answers a call of KubeVirt's or oVirt's. Returns the exit code.
pub(crate) fn run(root: &Root, call: &Call<'_>) -> u8 {
    match call {
        Call::OnDefineDomain(arguments) => on_define_domain(root, arguments),
        Call::BeforeVmStart => of_vdsm("_hook_domxml", |path| before_vm_start(root, path)),
        Call::HostdevList => of_vdsm("_hook_json", |path| hostdev_list(root, path)),
    }
}

/// The arguments of the shim. If one occurs twice, the last one counts, as in Go's pflag.
#[derive(Debug, Default, PartialEq, Eq)]
struct Given<'a> {
    vmi: Option<&'a [u8]>,
    domain: Option<&'a [u8]>,
}

impl<'a> Given<'a> {
    /// Reads `--vmi JSON --domain XML`, also as `--vmi=JSON`. Ignores all other arguments, because
    /// a newer shim may pass more.
    fn parse(arguments: &'a [OsString]) -> Self {
        let mut given = Given::default();
        let mut words = arguments.iter().map(|argument| argument.as_bytes());
        while let Some(word) = words.next() {
            let (name, value) = match word.iter().position(|byte| *byte == b'=') {
                Some(at) => (&word[..at], Some(&word[at + 1..])),
                None => (word, None),
            };
            let place = match name {
                b"--vmi" => &mut given.vmi,
                b"--domain" => &mut given.domain,
                _ => continue,
            };
            *place = value.or_else(|| words.next()).or(*place);
        }
        given
    }
}

/// Prints the domain's XML: changed, or as it was given if it can't be changed. Returns the exit
/// code: a failure only without `--domain`, or if the XML can't be printed.
fn on_define_domain(root: &Root, arguments: &[OsString]) -> u8 {
    let given = Given::parse(arguments);
    let Some(domain) = given.domain.filter(|domain| !domain.is_empty()) else {
        say(
            "no --domain: expected --vmi JSON --domain XML, as KubeVirt's sidecar shim passes them",
        );
        return USAGE_ERROR;
    };
    let node = Node::new(root, false);
    let adapted = vmi(given.vmi).and_then(|vmi| {
        let wish = |hostdev: &Hostdev<'_, '_>| vmi.wants(hostdev);
        node.adapt(&xml(domain.to_vec())?, &wish)
    });
    let adapted = match adapted {
        Ok((text, said)) => {
            node.warn();
            said.iter().for_each(|line| say(line));
            Some(text)
        }
        Err(problem) => {
            say(&format!("the domain stays as it is: {problem}"));
            None
        }
    };
    let text = adapted.as_deref().map_or(domain, str::as_bytes);
    let mut out = io::stdout();
    match out.write_all(text).and_then(|()| out.flush()) {
        Ok(()) => SUCCESS,
        // The shim must not mistake half a domain for a whole one.
        Err(error) => {
            say(&format!("the domain can't be returned: {error}"));
            FAILURE
        }
    }
}

fn vmi(given: Option<&[u8]>) -> Result<Vmi, String> {
    let text = given.ok_or("there is no --vmi")?;
    let text = str::from_utf8(text).map_err(|error| format!("--vmi: {error}"))?;
    Vmi::parse(text).map_err(|error| format!("--vmi: {error}"))
}

/// Runs `hook` on the file that vdsm names in the environment `variable`. Always returns success.
fn of_vdsm(variable: &str, hook: impl FnOnce(&Path) -> Result<(), String>) -> u8 {
    match std::env::var_os(variable).filter(|path| !path.is_empty()) {
        None => say(&format!(
            "{variable} names no file: vdsm sets it when it runs its hooks"
        )),
        Some(path) => {
            if let Err(problem) = hook(Path::new(&path)) {
                let path = path.display();
                say(&format!("nothing is changed: {path}: {problem}"));
            }
        }
    }
    // Any other code keeps the VM from starting (lib/vdsm/common/hooks.py, before_vm_start).
    SUCCESS
}

fn xml(bytes: Vec<u8>) -> Result<String, String> {
    from_bytes(bytes).map_err(|error| error.to_string())
}

fn before_vm_start(root: &Root, path: &Path) -> Result<(), String> {
    let mut bytes = Vec::new();
    // Read one byte more than the limit, to notice a larger file.
    let limit = MAX_SIZE as u64 + 1;
    let read = open_file(path).and_then(|file| file.take(limit).read_to_end(&mut bytes));
    read.map_err(|error| error.to_string())?;
    let old = xml(bytes)?;
    let node = Node::new(root, true);
    // The engine asks for the display of every mediated device that is not set to have none
    // (ovirt-engine LibvirtVmXmlBuilder, `nodisplay`), so each stays as it is written.
    let (new, said) = node.adapt(&old, &|_| false)?;
    node.warn();
    if new != old {
        rewrite(path, &old, &new).map_err(|error| error.to_string())?;
    }
    // Report the changes only after they were made.
    said.iter().for_each(|line| say(line));
    Ok(())
}

fn hostdev_list(root: &Root, path: &Path) -> Result<(), String> {
    let old = read_whole(path, MAX_SIZE).map_err(|error| error.to_string())?;
    let inventory = inventory(&Sources::read(root));
    let new = host_devices(&old, &inventory).map_err(|error| error.to_string())?;
    rewrite(path, &old, &new).map_err(|error| error.to_string())
}

/// The node that we run on.
struct Node<'r> {
    root: &'r Root,
    /// True if we see the host itself, with its QEMU and its udev. A container has neither.
    is_host: bool,
    /// The time until which we wait for devices that are being probed.
    limit: Instant,
    warnings: RefCell<Vec<Warning>>,
    reading: Reading,
}

impl<'r> Node<'r> {
    fn new(root: &'r Root, is_host: bool) -> Self {
        let deadline = settings::config(root, &mut Vec::new()).deadline;
        Node {
            root,
            is_host,
            limit: Instant::now() + deadline,
            warnings: RefCell::default(),
            reading: Reading::new(root),
        }
    }

    /// Returns the changed XML, and a message for each change. `is_wanted` returns whether a
    /// device's display is wanted. The error says why the XML can't be changed.
    fn adapt(
        &self,
        text: &str,
        is_wanted: &dyn Fn(&Hostdev<'_, '_>) -> bool,
    ) -> Result<(String, Vec<String>), String> {
        let policy = settings::config(self.root, &mut self.warnings.borrow_mut()).policy;
        let fixed = adapt(text, self, &policy, is_wanted).map_err(|error| error.to_string())?;
        let name = fixed.name.unwrap_or_default();
        let said = fixed.plan.iter().flat_map(lines);
        let said = said.map(|line| format!("{name}: {line}")).collect();
        Ok((fixed.text, said))
    }

    fn warn(&self) {
        for warning in self.warnings.take() {
            say(&format!("warning: {warning}"));
        }
    }
}

impl Surroundings for Node<'_> {
    fn known(&self, device: DeviceId) -> Known {
        // vdsm creates its mdevs a moment before it runs its hooks, and udev's rules start their
        // probe.
        let is_new = self.is_host && matches!(device, DeviceId::Mdev(_));
        if is_new && self.root.device(device).exists() {
            let _ = udev::wait_for_udev(self.root, device, Duration::ZERO, self.limit);
        }
        self.reading.known(device, &mut self.warnings.borrow_mut())
    }

    fn abilities(&self, domain: &Domain<'_, '_>) -> Abilities {
        if !self.is_host {
            return Abilities::default();
        }
        let arch = domain.arch.as_deref().unwrap_or(std::env::consts::ARCH);
        let emulator = domain.emulator.as_ref().map_or_else(
            || PathBuf::from(format!("/usr/bin/qemu-system-{arch}")),
            PathBuf::from,
        );
        let mut warnings = self.warnings.borrow_mut();
        let mut abilities =
            emulator::abilities(self.root, &emulator, Asking::Cached, &mut warnings);
        // vdsm-tool switches TLS on (lib/vdsm/tool/configurators/libvirt.py), but the user vdsm
        // can't read qemu.conf where libvirt.spec makes /etc/libvirt root's alone.
        abilities.spice_tls.get_or_insert(true);
        abilities
    }
}

/// Writes a line to stderr, which vdsm and the shim of KubeVirt 1.3 and later log
/// (cmd/sidecars/sidecar_shim.go, `logStderr`).
fn say(text: &str) {
    // The text is one line, even if a name in it contains line breaks.
    let line = format!("gfxplane: {}\n", plain(&text.replace('\n', " ")));
    let _ = io::stderr().write_all(line.as_bytes());
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(text: &str) -> Vec<OsString> {
        text.split_whitespace().map(OsString::from).collect()
    }

    #[test]
    fn who_calls() {
        for (program, arguments, expected) in [
            ("onDefineDomain", "--vmi {} --domain x", "shim 4"),
            ("/usr/bin/onDefineDomain", "--vmi {}", "shim 2"),
            ("gfxplane-helper", "onDefineDomain --domain x", "shim 2"),
            ("gfxplane-helper", "--vmi {} --domain x", "none"),
            ("gfxplane-helper", "", "none"),
            ("", "", "none"),
            ("/hooks/before_vm_start/90_gfxplane", "", "start"),
            ("before_vm_start", "--vmi {}", "start"),
            ("/hooks/after_hostdev_list_by_caps/90_gfxplane", "", "list"),
            ("gfxplane-helper", "before_vm_start", "start"),
            ("/mdevctl/scripts.d/callouts/99-gfxplane", "", "none"),
        ] {
            let arguments = words(arguments);
            let found = match Call::parse(OsStr::new(program), &arguments) {
                Some(Call::OnDefineDomain(rest)) => format!("shim {}", rest.len()),
                Some(Call::BeforeVmStart) => "start".into(),
                Some(Call::HostdevList) => "list".into(),
                None => "none".into(),
            };
            assert_eq!(found, expected, "{program} {arguments:?}");
        }
    }

    #[test]
    fn spice_has_tls_unless_qemu_conf_says_otherwise() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::recorded(directory.path());
        let conf = root.join("etc/libvirt/qemu.conf");
        let document = gfxplane::xml::Document::parse("<domain type='kvm'/>").unwrap();
        let domain = Domain::new(&document).unwrap();
        let tls = || Node::new(&root, true).abilities(&domain).spice_tls;
        // This test may run as root, but not even root can read a directory as a file.
        std::fs::create_dir_all(&conf).unwrap();
        assert_eq!(tls(), Some(true));
        std::fs::remove_dir(&conf).unwrap();
        std::fs::write(&conf, "spice_tls=0\n").unwrap();
        assert_eq!(tls(), Some(false));
    }

    #[test]
    fn arguments_of_the_shim() {
        for (arguments, vmi, domain) in [
            ("--vmi {} --domain <a/>", Some("{}"), Some("<a/>")),
            ("--domain <a/> --vmi {}", Some("{}"), Some("<a/>")),
            ("--vmi={} --domain=<a=''/>", Some("{}"), Some("<a=''/>")),
            (
                "--new --vmi --domain --domain x",
                Some("--domain"),
                Some("x"),
            ),
            ("--domain x --domain y", None, Some("y")),
            ("--domain x --domain", None, Some("x")),
            ("--vmi", None, None),
            ("", None, None),
        ] {
            let expected = Given {
                vmi: vmi.map(str::as_bytes),
                domain: domain.map(str::as_bytes),
            };
            assert_eq!(Given::parse(&words(arguments)), expected, "{arguments}");
        }
    }
}
