//! Tests the daemon against a simulated libvirt, which is a map. The machine test has the real one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Mutex, OnceLock};
use std::time::Instant;

use super::tasks::NEVER_QUIET;
use super::*;
use crate::host::Root;
use crate::host::emulator::pretend;
use crate::host::log::What;
use crate::libvirt::{Definition, New, Replaced, Sink, Start, Term, User};
use crate::predict::abilities::Abilities;

const UUID: &str = "9a7e6a0c-0000-4000-8000-000000000001";
/// The recorded lab's devices of mdpy (region) and mbochs (dmabuf).
const REGION: &str = "c1a20000-0000-4000-8000-000000000001";
const DMABUF: &str = "c1a20000-0000-4000-8000-000000000002";

#[derive(Default)]
struct Fake {
    domains: Mutex<BTreeMap<String, String>>,
    sink: Mutex<Option<Sink>>,
    /// The function to call when the daemon of the node devices ends.
    devices: Mutex<Option<Sink>>,
    autostart: AtomicBool,
    started: Mutex<Vec<String>>,
    /// The definitions that somebody else writes right before ours, one at a time.
    meddling: Mutex<Vec<String>>,
    /// The acts of somebody else after our last look, one at a time.
    conflicts: Mutex<Vec<Meanwhile>>,
    /// The directory where the definitions are also kept as files.
    files: Mutex<PathBuf>,
    refuses: AtomicBool,
    /// libvirt ends at the next definition, before it has written it or (`true`) after that.
    ends: Mutex<Option<bool>>,
    defined: AtomicU32,
    is_active: AtomicBool,
    /// True if an active domain has finished its start.
    is_running: AtomicBool,
    /// The error of starting a small copy; `None` if copies start.
    trial: Mutex<Option<String>>,
    /// The copies that were started.
    tried: Mutex<Vec<String>>,
    /// The domains that run.
    users: Mutex<Vec<User>>,
    /// True if libvirt is still listing its devices, and does not answer.
    is_listing: AtomicBool,
    /// The log that appears when libvirt has answered about the domain's state.
    next_log: Mutex<Option<(PathBuf, String)>>,
}

/// An act of somebody else between our last look and our definition.
#[derive(Clone)]
enum Meanwhile {
    Nothing,
    Defines(String),
    /// The definition is replaced before anybody can read it.
    DefinesUnseen(String),
    Undefines,
}

impl std::fmt::Debug for Fake {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Fake")
    }
}

impl Fake {
    fn xml(&self) -> String {
        self.domains.lock().unwrap()[UUID].clone()
    }

    fn put(&self, xml: &str) {
        self.put_at(UUID, xml);
    }

    fn put_at(&self, uuid: &str, xml: &str) {
        self.domains.lock().unwrap().insert(uuid.into(), xml.into());
        self.save(xml);
        self.report_of(uuid, Happened::Defined);
    }

    fn file(&self, xml: &str) -> PathBuf {
        let (name, _) = crate::domain::name_and_devices(xml);
        self.files.lock().unwrap().join(format!("{name}.xml"))
    }

    /// Writes a definition to its file as libvirt does.
    fn save(&self, xml: &str) {
        let path = self.file(xml);
        let new = path.with_extension("xml.new");
        std::fs::write(&new, format!("<!--\nWARNING\n-->\n\n{xml}\n")).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    fn remove(&self, uuid: &str) {
        let xml = self.domains.lock().unwrap().remove(uuid).unwrap();
        std::fs::remove_file(self.file(&xml)).unwrap();
        self.report_of(uuid, Happened::Undefined);
    }

    fn meanwhile(&self, uuid: &str) {
        let what = self.conflicts.lock().unwrap().pop();
        match what.unwrap_or(Meanwhile::Nothing) {
            Meanwhile::Nothing => {}
            Meanwhile::Defines(theirs) => {
                self.put_at(uuid, &theirs);
                // libvirt takes so long until the next definition that somebody has opened this.
                let path = self.file(&theirs);
                let limit = Instant::now() + Duration::from_secs(60);
                while !is_open(&path) {
                    assert!(Instant::now() < limit, "nobody has opened it");
                    std::thread::yield_now();
                }
            }
            Meanwhile::DefinesUnseen(theirs) => {
                let path = self.file(&theirs);
                let new = path.with_extension("xml.new");
                std::os::unix::fs::symlink("/nowhere", &new).unwrap();
                std::fs::rename(new, path).unwrap();
                let mut domains = self.domains.lock().unwrap();
                domains.insert(uuid.into(), theirs);
                drop(domains);
                self.report_of(uuid, Happened::Defined);
            }
            Meanwhile::Undefines => self.remove(uuid),
        }
    }

    fn report(&self, what: Happened) {
        self.report_of(UUID, what);
    }

    fn report_of(&self, uuid: &str, what: Happened) {
        if let Some(sink) = &*self.sink.lock().unwrap() {
            let uuid = uuid.into();
            sink(libvirt::Event::Domain { uuid, what });
        }
    }
}

impl Libvirt for Arc<Fake> {
    fn definition(&self, name: &str, _secrets: bool) -> Result<Definition, Failure> {
        self.persistent(name)?
            .ok_or_else(|| Failure::Environment("none".into()))
    }

    fn define(&self, before: &Definition, new: New<'_>) -> Result<Replaced, Failure> {
        if let Some(theirs) = self.meddling.lock().unwrap().pop() {
            self.put(&theirs);
        }
        let now = self.domains.lock().unwrap().get(&before.uuid).cloned();
        let Some(now) = now.filter(|now| now.trim() == before.xml.trim()) else {
            return Ok(Replaced::Changed);
        };
        let wanted = match new {
            New::Whole(xml) | New::Checked(xml) => xml.to_owned(),
            New::Graphics(graphics) => with_graphics(&now, graphics),
        };
        if let Some(is_written) = self.ends.lock().unwrap().take() {
            if is_written {
                let mut domains = self.domains.lock().unwrap();
                domains.insert(before.uuid.clone(), wanted);
            }
            return Err(Failure::Environment(
                "End of file while reading data".into(),
            ));
        }
        if self.refuses.load(Ordering::Relaxed) {
            return Err(Failure::Refused("libvirt refuses it".into()));
        }
        let since = Instant::now();
        self.meanwhile(&before.uuid);
        match new {
            New::Whole(_) | New::Checked(_) => self.put_at(&before.uuid, &wanted),
            // Changes that somebody else has made to other parts meanwhile stay.
            New::Graphics(graphics) => {
                let now = self.domains.lock().unwrap()[&before.uuid].clone();
                self.put_at(&before.uuid, &with_graphics(&now, graphics));
            }
        }
        self.defined.fetch_add(1, Ordering::Relaxed);
        let window = since.elapsed();
        Ok(Replaced::Done { window })
    }

    fn undefine(&self, definition: &Definition) -> Result<Replaced, Failure> {
        let now = self.domains.lock().unwrap().get(&definition.uuid).cloned();
        if now.as_deref().map(str::trim) != Some(definition.xml.trim()) {
            return Ok(Replaced::Changed);
        }
        self.remove(&definition.uuid);
        Ok(Replaced::Done {
            window: Duration::ZERO,
        })
    }

    fn persistent(&self, uuid: &str) -> Result<Option<Definition>, Failure> {
        let xml = self.domains.lock().unwrap().get(uuid).cloned();
        Ok(xml.map(|xml| Definition {
            uuid: uuid.into(),
            xml,
            is_active: self.is_active.load(Ordering::Relaxed),
        }))
    }

    fn all_persistent(&self) -> Result<Vec<String>, Failure> {
        Ok(self.domains.lock().unwrap().keys().cloned().collect())
    }

    fn is_running(&self, _uuid: &str) -> Result<bool, Failure> {
        if let Some((path, text)) = self.next_log.lock().unwrap().take() {
            std::fs::write(path, text).unwrap();
        }
        Ok(self.is_running.load(Ordering::Relaxed))
    }

    fn is_autostart(&self, _uuid: &str) -> Result<bool, Failure> {
        Ok(self.autostart.load(Ordering::Relaxed))
    }

    fn start_persistent(&self, uuid: &str) -> Result<(), Failure> {
        self.started.lock().unwrap().push(uuid.into());
        Ok(())
    }

    fn version(&self) -> Result<u32, Failure> {
        Ok(11_003_000)
    }

    fn watch(&self, sink: Sink) -> Result<Arc<dyn Libvirt>, Failure> {
        *self.sink.lock().unwrap() = Some(sink);
        Ok(Arc::new(Arc::clone(self)))
    }

    fn lists_nodedevs(&self) -> Result<(), Failure> {
        while self.is_listing.load(Ordering::Relaxed) {
            std::thread::yield_now();
        }
        Ok(())
    }

    fn stay(&self, uri: &str, sink: Sink) -> Result<Arc<dyn Libvirt>, Failure> {
        assert_eq!(uri, "nodedev:///system");
        *self.devices.lock().unwrap() = Some(sink);
        Ok(Arc::new(Arc::clone(self)))
    }

    fn users(&self) -> Result<Vec<User>, Failure> {
        Ok(self.users.lock().unwrap().clone())
    }

    fn start(&self, xml: &str, uuid: &str, _term: Term<'_>) -> Result<Start, Failure> {
        self.tried.lock().unwrap().push(xml.into());
        self.report_of(uuid, Happened::Started);
        self.report_of(uuid, Happened::Stopped);
        let refusal = self.trial.lock().unwrap().clone();
        Ok(refusal.map_or(Start::Starts, Start::Refused))
    }
}

/// Returns whether this process has the file open.
fn is_open(path: &Path) -> bool {
    let descriptors = std::fs::read_dir("/proc/self/fd").unwrap();
    let mut files = descriptors.flatten().map(|entry| entry.path());
    files.any(|file| std::fs::read_link(file).is_ok_and(|target| target == path))
}

/// Replaces graphics as libvirt does (src/qemu/qemu_driver.c, qemuDomainUpdateDeviceConfig).
fn with_graphics(xml: &str, graphics: &str) -> String {
    let start = xml.find("<graphics ").unwrap();
    let ends = ["/>", "</graphics>"].map(|end| xml[start..].find(end).map(|at| at + end.len()));
    let long = xml[start..].contains("</graphics>");
    let end = start + ends[usize::from(long)].unwrap();
    format!("{}{graphics}{}", &xml[..start], &xml[end..])
}

/// A copy of the lab whose records count although it is no recorded host.
struct Host {
    libvirt: Arc<Fake>,
    context: Context,
    _directory: tempfile::TempDir,
}

impl Host {
    fn new() -> Self {
        let directory = crate::host::lab();
        for below in ["run", "var/lib", "dev/dri", DEFINITIONS] {
            std::fs::create_dir_all(directory.path().join(below)).unwrap();
        }
        std::fs::write(directory.path().join("dev/dri/renderD128"), "").unwrap();
        let abilities = Abilities {
            qemu: "10.0.13".parse().ok(),
            frontends: Some(
                ["vnc", "spice", "spice-gl", "dbus", "egl-headless"]
                    .map(String::from)
                    .into(),
            ),
            ..Abilities::default()
        };
        pretend(
            &Root::strict(directory.path()),
            "libvirt.so.0.11003.0",
            &abilities,
        );
        let libvirt = Arc::new(Fake::default());
        *libvirt.files.lock().unwrap() = directory.path().join(DEFINITIONS);
        Host {
            context: Context {
                root: Root::strict(directory.path()),
                connect: None,
                quiet: false,
                libvirt: Arc::new(Arc::clone(&libvirt)),
            },
            libvirt,
            _directory: directory,
        }
    }

    fn daemon(&self) -> Running<'_> {
        let (send, receive) = mpsc::channel();
        let mut daemon = Daemon::new(&self.context, PathBuf::from("/bin/true"), send).unwrap();
        daemon.quiet = Duration::ZERO;
        Running {
            fake: &self.libvirt,
            daemon,
            receive,
        }
    }

    /// Returns a daemon that has looked at all domains.
    fn watched(&self) -> Running<'_> {
        let mut daemon = self.daemon();
        daemon.connect(true).unwrap();
        daemon.work();
        daemon
    }

    /// Asserts that the domain's definition contains all these parts.
    #[track_caller]
    fn has(&self, parts: &[&str]) {
        let now = self.libvirt.xml();
        assert!(parts.iter().all(|part| now.contains(part)), "{now}");
    }
}

/// A daemon with its events.
struct Running<'h> {
    fake: &'h Fake,
    daemon: Daemon<'h>,
    receive: Receiver<Event>,
}

impl Running<'_> {
    fn work(&mut self) {
        self.daemon.work_with(&self.receive);
    }

    /// Defines the domain as somebody else would.
    fn meets(&mut self, xml: &str) {
        self.fake.put(xml);
        self.work();
    }

    /// Waits until another thread has done something.
    fn eventually(&mut self, done: impl Fn() -> bool) {
        let limit = Instant::now() + Duration::from_secs(60);
        while !done() {
            assert!(Instant::now() < limit, "in vain");
            if let Ok(event) = self.receive.recv_timeout(Duration::from_millis(50)) {
                self.event(event);
            }
            self.work();
        }
    }
}

impl<'h> std::ops::Deref for Running<'h> {
    type Target = Daemon<'h>;

    fn deref(&self) -> &Daemon<'h> {
        &self.daemon
    }
}

impl std::ops::DerefMut for Running<'_> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.daemon
    }
}

fn domain(device: &str, display: &str, graphics: &str) -> String {
    format!(
        "<domain type='kvm'><name>g</name><uuid>{UUID}</uuid><devices>{graphics}<video><model type='none'/></video>\
         <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='{display}'><source>\
         <address uuid='{device}'/></source></hostdev></devices></domain>"
    )
}

const SPICE: &str = "<graphics type='spice' autoport='yes' listen='127.0.0.1' passwd='geheim'/>";
const VNC: &str = "<graphics type='vnc' port='-1' listen='0.0.0.0'/>";

fn doomed() -> String {
    domain(DMABUF, "on", SPICE)
}

fn entries(daemon: &Daemon<'_>) -> Vec<What> {
    let entries = daemon.domains.state.entries(&mut Vec::new());
    entries.iter().map(|entry| entry.what).collect()
}

/// Returns a request by the hook.
fn request(veto: bool) -> requests::Request {
    let domain = uuid();
    requests::Request { domain, veto }
}

fn uuid() -> Uuid {
    static PARSED: OnceLock<Uuid> = OnceLock::new();
    *PARSED.get_or_init(|| UUID.parse().unwrap())
}

#[test]
fn the_first_pass_mends_and_remembers() {
    let host = Host::new();
    host.libvirt.put(&doomed());
    let daemon = host.watched();
    host.has(&["<gl enable='yes'", "passwd='geheim'"]);
    assert_eq!(entries(&daemon), [What::Fixed]);
    let state = &daemon.domains.state;
    assert_eq!(state.undo_stack(uuid(), &mut Vec::new()).len(), 1);
    assert_eq!(host.libvirt.defined.load(Ordering::Relaxed), 1);
}

#[test]
fn a_definition_that_comes_is_mended_and_ours_is_not_looked_at_again() {
    let host = Host::new();
    let mut daemon = host.watched();
    daemon.meets(&doomed());
    host.has(&["<gl enable='yes'"]);
    daemon.work();
    assert_eq!(host.libvirt.defined.load(Ordering::Relaxed), 1);
    assert_eq!(entries(&daemon), [What::Fixed]);
}

#[test]
fn older_definitions_keep_their_display_off_until_somebody_defines_them_anew() {
    let host = Host::new();
    let off = domain(REGION, "off", VNC);
    host.libvirt.put(&off);
    {
        let mut daemon = host.watched();
        assert_eq!(host.libvirt.xml(), off);
        // libvirt's daemon has read its files again.
        daemon.meets(&off);
        assert_eq!(host.libvirt.xml(), off);
    }
    // The next daemon leaves it alone, too.
    let mut daemon = host.watched();
    assert_eq!(host.libvirt.xml(), off);
    daemon.meets(&with_title(&off, "t"));
    host.has(&["display='on'"]);
}

/// The daemon is root, but a user who may define a domain is not.
#[test]
fn no_emulator_of_a_domain_is_run() {
    let host = Host::new();
    let root = &host.context.root;
    let was_here = root.join("was-here");
    let script = root.join("script");
    let text = format!("#!/bin/sh\ntouch {}\n", was_here.display());
    std::fs::write(&script, text).unwrap();
    // The emulator exists both on this machine and on the host that the daemon looks at.
    let emulator = root.join("opt/qemu");
    let inside = root.join(emulator.strip_prefix("/").unwrap());
    for path in [&emulator, &inside] {
        let installed = Command::new("install")
            .args(["-D", "-m", "755"])
            .args([&script, path])
            .status();
        assert!(installed.unwrap().success());
    }
    let named = format!("<devices><emulator>{}</emulator>", emulator.display());
    host.libvirt.put(&doomed().replace("<devices>", &named));
    let mut daemon = host.watched();
    host.libvirt.report(Happened::Started);
    host.libvirt.report(Happened::Stopped);
    daemon.work();
    assert!(!was_here.exists());
    // The emulator can be run.
    assert!(Command::new(&emulator).status().unwrap().success() && was_here.exists());
}

#[test]
fn what_somebody_defines_meanwhile_is_kept() {
    let host = Host::new();
    let theirs = with_title(&doomed(), "theirs");
    host.libvirt.meddling.lock().unwrap().push(theirs);
    host.libvirt.put(&doomed());
    let _daemon = host.watched();
    host.has(&["theirs", "<gl enable='yes'"]);
}

/// Adds something to a definition, as somebody else would.
fn with_title(xml: &str, title: &str) -> String {
    xml.replace("<name>", &format!("<title>{title}</title><name>"))
}

/// Asserts that one change can be undone, and that this leads to `expected`.
fn can_be_undone(host: &Host, daemon: &Daemon<'_>, expected: &str) {
    let rounds = daemon.domains.state.undo_stack(uuid(), &mut Vec::new());
    assert_eq!(rounds.len(), 1);
    let undone = crate::plan::undo::undo(&host.libvirt.xml(), &rounds[0].changes).unwrap();
    let differs = crate::plan::undo::inverse(&undone.text, expected).unwrap();
    assert_eq!((differs, undone.passed_over), (vec![], vec![]));
}

/// Replaces a definition while somebody else acts at the same moment.
fn at_the_same_moment(
    definition: &str,
    conflicts: impl IntoIterator<Item = Meanwhile>,
    expected: &[What],
    parts: &[&str],
    undone: Option<&str>,
) {
    let host = Host::new();
    *host.libvirt.conflicts.lock().unwrap() = conflicts.into_iter().collect();
    let mut daemon = host.watched();
    daemon.meets(definition);
    assert_eq!(entries(&daemon), expected);
    if parts.is_empty() {
        assert!(host.libvirt.domains.lock().unwrap().is_empty());
    } else {
        host.has(parts);
    }
    if let Some(undone) = undone {
        can_be_undone(&host, &daemon, undone);
    }
}

#[test]
fn a_definition_at_the_same_moment_is_kept_and_mended() {
    let off = domain(REGION, "off", VNC);
    let theirs = with_title(&off, "theirs");
    let conflict = [Meanwhile::Defines(theirs.clone())];
    let (expected, parts) = ([What::Kept, What::Fixed], ["theirs", "display='on'"]);
    at_the_same_moment(&off, conflict, &expected, &parts, Some(&theirs));
    // Others may also come while the first one is put back, and as often as this.
    let conflicts = ["0", "1", "2"].map(|title| Meanwhile::Defines(with_title(&off, title)));
    let parts = ["<title>0</title>", "display='on'"];
    at_the_same_moment(&off, conflicts, &expected, &parts, None);
}

#[test]
fn a_definition_that_nobody_could_read_is_told_as_an_error() {
    let off = domain(REGION, "off", VNC);
    let conflict = [Meanwhile::DefinesUnseen(with_title(&off, "theirs"))];
    // All of our change can be undone. There is nothing left of what was lost.
    let expected = [What::Conflict, What::Fixed];
    at_the_same_moment(&off, conflict, &expected, &["display='on'"], Some(&off));
}

#[test]
fn what_is_undefined_at_the_same_moment_stays_so() {
    let off = domain(REGION, "off", VNC);
    at_the_same_moment(&off, [Meanwhile::Undefines], &[What::Kept], &[], None);
}

#[test]
fn where_only_graphics_are_replaced_nobody_loses_anything() {
    let theirs = with_title(&doomed(), "theirs");
    let conflict = [Meanwhile::Defines(theirs.clone())];
    let parts = ["theirs", "<gl enable='yes'"];
    at_the_same_moment(&doomed(), conflict, &[What::Fixed], &parts, Some(&theirs));
    // There is a conflict only if somebody else has changed the same graphics.
    let conflict = [Meanwhile::Defines(doomed().replace("geheim", "neu"))];
    let parts = ["passwd='neu'", "<gl enable='yes'"];
    let expected = [What::Kept, What::Fixed];
    at_the_same_moment(&doomed(), conflict, &expected, &parts, None);
}

#[test]
fn a_report_of_somebody_else_alone_is_no_alarm() {
    let host = Host::new();
    let mut daemon = host.watched();
    host.libvirt.put(&domain(REGION, "off", VNC));
    // The metadata changed, and the same definition came once more.
    host.libvirt.report(Happened::Metadata);
    host.libvirt.report(Happened::Defined);
    daemon.work();
    assert_eq!(entries(&daemon), [What::Fixed]);
    let undo = daemon.domains.state.undo_stack(uuid(), &mut Vec::new());
    assert_eq!(undo.len(), 1);
}

#[test]
fn a_domain_that_is_being_changed_is_waited_for() {
    let host = Host::new();
    let mut daemon = host.watched();
    daemon.quiet = Duration::from_secs(3600);
    daemon.meets(&doomed());
    assert_eq!((host.libvirt.xml(), daemon.later.len()), (doomed(), 1));
    // The domain is never quiet, and yet the daemon does not wait for ever.
    let until = daemon.later.keys().next().unwrap().0;
    daemon.meets(&with_title(&doomed(), "more"));
    let last = daemon.later.keys().next().unwrap().0;
    assert_eq!((last, daemon.later.len()), (until, 1));
    assert!(last <= Instant::now() + NEVER_QUIET);
    // Other tasks about the domain wait, too, and all are done at once.
    daemon.task(uuid(), false);
    assert!(daemon.tasks.is_empty());
    let task = daemon.later.remove(&(last, uuid())).unwrap();
    daemon.later.insert((Instant::now(), uuid()), task);
    daemon.domains.watched(uuid()).loud.as_mut().unwrap().until = Instant::now();
    daemon.time_passes();
    daemon.work();
    host.has(&["<gl enable='yes'"]);
}

/// Starts a process that counts as libvirt's daemon with this file, until it is killed.
fn lives(host: &Host, file: &str) -> Process {
    let process = Command::new("sleep").arg("600").spawn().unwrap();
    let pid = process.id().to_string();
    std::fs::write(host.context.root.join("run").join(file), pid).unwrap();
    Process(process)
}

struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn is_linked(host: &Host) -> bool {
    let link = "etc/mdevctl.d/scripts.d/callouts/99-gfxplane-watch";
    host.context.root.join(link).is_symlink()
}

#[test]
fn mdevctl_asks_us_once_libvirt_has_listed_its_devices() {
    let host = Host::new();
    // An earlier daemon was killed and has left its link.
    crate::host::callout::make(&host.context.root, crate::host::callout::OF_DAEMON).unwrap();
    let mut libvirtd = lives(&host, "libvirtd.pid");
    host.libvirt.is_listing.store(true, Ordering::Relaxed);
    let mut daemon = host.daemon();
    daemon.set_link();
    assert!(!is_linked(&host));
    for _ in 0..2 {
        daemon.connect(true).unwrap();
        daemon.work();
        assert!(!is_linked(&host), "it is still looking for them");
        host.libvirt.is_listing.store(false, Ordering::Relaxed);
        daemon.eventually(|| is_linked(&host));
        host.libvirt.is_listing.store(true, Ordering::Relaxed);
        daemon.event(Event::Libvirt(libvirt::Event::Lost));
        assert!(is_linked(&host), "it is still ending");
        drop(libvirtd);
        daemon.eventually(|| !is_linked(&host));
        libvirtd = lives(&host, "libvirtd.pid");
    }
    host.libvirt.is_listing.store(false, Ordering::Relaxed);
    daemon.connect(true).unwrap();
    daemon.eventually(|| is_linked(&host));
    // No link is made if the settings don't want one.
    let settings = |text: &str| host.context.root.put("etc/gfxplane/gfxplane.toml", text);
    for (text, expected) in [
        ("attributes = 'off'", false),
        ("", true),
        ("callout = 'static'", false),
    ] {
        settings(text);
        daemon.event(Event::Reload);
        assert_eq!(is_linked(&host), expected, "{text}");
    }
    settings("");
    let schema = crate::host::callout::SCHEMA_OF_LIBVIRT;
    host.context.root.put(schema, "");
    daemon.event(Event::Reload);
    assert!(!is_linked(&host), "libvirt tells displays by itself");
}

/// Each of libvirt's drivers has a daemon of its own. That of the devices comes and goes by itself.
#[test]
fn mdevctl_asks_us_beside_modular_daemons() {
    let host = Host::new();
    let _virtqemud = lives(&host, "virtqemud.pid");
    let mut daemon = host.watched();
    assert!(!is_linked(&host), "there is no virtnodedevd");
    for _ in 0..2 {
        let virtnodedevd = lives(&host, "virtnodedevd.pid");
        daemon.eventually(|| is_linked(&host));
        let lost = host.libvirt.devices.lock().unwrap().take().unwrap();
        lost(libvirt::Event::Lost);
        drop(virtnodedevd);
        daemon.eventually(|| !is_linked(&host));
        std::fs::remove_file(host.context.root.join("run/virtnodedevd.pid")).unwrap();
    }
    assert!(daemon.libvirt.is_some(), "virtqemud is still there");
}

#[test]
fn there_is_one_daemon() {
    let host = Host::new();
    let first = alone(&host.context).unwrap();
    assert!(first.is_some());
    let said = alone(&host.context).unwrap_err().to_string();
    let pid = std::process::id().to_string();
    assert!(said.contains(&format!("as process {pid}")), "{said}");
    drop(first);
    assert!(alone(&host.context).unwrap().is_some());
}

#[test]
fn what_is_vetoed_is_mended_and_started_if_it_is_to_start_by_itself() {
    for autostart in [false, true] {
        let host = Host::new();
        host.libvirt.autostart.store(autostart, Ordering::Relaxed);
        let mut daemon = host.watched();
        host.libvirt
            .domains
            .lock()
            .unwrap()
            .insert(UUID.into(), doomed());
        requests::leave(&host.context.root, &request(true)).unwrap();
        let libvirt = Arc::clone(&host.libvirt);
        daemon.eventually(|| libvirt.xml().contains("<gl enable='yes'"));
        if autostart {
            daemon.eventually(|| !libvirt.started.lock().unwrap().is_empty());
            assert_eq!(entries(&daemon), [What::Fixed, What::Started]);
        } else {
            assert_eq!(entries(&daemon), [What::Fixed]);
        }
        // One veto leads to one start.
        daemon.meets(&host.libvirt.xml());
        let started = host.libvirt.started.lock().unwrap().len();
        assert_eq!(started, usize::from(autostart));
    }
}

#[test]
fn somebody_who_puts_the_old_definition_back_wins() {
    let host = Host::new();
    let mut daemon = host.watched();
    // libvirt gives the same file a different MAC address each time.
    let round = |number: u32| with_title(&doomed(), &number.to_string());
    daemon.meets(&round(0));
    let fixed = host.libvirt.xml();
    for number in 1..5 {
        daemon.meets(&round(number));
    }
    assert_eq!(host.libvirt.xml(), round(4));
    assert_eq!(
        host.libvirt.defined.load(Ordering::Relaxed),
        crate::daemon::decision::ROUNDS
    );
    assert_eq!(entries(&daemon), [What::Fixed, What::Fixed, What::GaveUp]);
    // A definition that is right by itself ends the quarrel.
    daemon.meets(&with_title(&fixed, "fixed by hand"));
    daemon.meets(&round(5));
    host.has(&["<gl enable='yes'"]);
}

#[test]
fn somebody_who_puts_two_definitions_back_in_turn_wins() {
    let host = Host::new();
    let mut daemon = host.watched();
    let beside = VNC.replace("0.0.0.0", "127.0.0.1");
    let other = domain(DMABUF, "on", &format!("{SPICE}{beside}"));
    for _ in 0..3 {
        daemon.meets(&doomed());
        daemon.meets(&other);
    }
    assert_eq!(host.libvirt.xml(), other);
    assert!(host.libvirt.defined.load(Ordering::Relaxed) <= 4);
}

#[test]
fn what_needs_consent_is_left_and_both_fixes_are_named() {
    let host = Host::new();
    host.libvirt.put(&domain(DMABUF, "on", VNC));
    let why = reason(&host.watched());
    assert!(why.contains("consent") && why.contains("display"), "{why}");
}

#[test]
fn what_libvirt_refuses_is_tried_once() {
    let host = Host::new();
    host.libvirt.refuses.store(true, Ordering::Relaxed);
    let mut daemon = host.watched();
    for _ in 0..3 {
        daemon.meets(&doomed());
    }
    assert_eq!(host.libvirt.xml(), doomed());
    assert_eq!(entries(&daemon), [What::Refused, What::LeftAlone]);
    // Another libvirt may accept the change.
    host.libvirt.refuses.store(false, Ordering::Relaxed);
    daemon.connect(true).unwrap();
    daemon.work();
    host.has(&["<gl enable='yes'"]);
}

#[test]
fn hands_off_means_hands_off() {
    let host = Host::new();
    let mut daemon = host.watched();
    daemon
        .domains
        .state
        .set_hands_off(uuid(), "g", true)
        .unwrap();
    daemon.meets(&doomed());
    assert_eq!(host.libvirt.xml(), doomed());
    // A domain that is undefined and defined again is the same domain, also for the next daemon.
    host.libvirt.remove(UUID);
    daemon.work();
    daemon.meets(&doomed());
    assert_eq!(host.libvirt.xml(), doomed());
    host.libvirt.remove(UUID);
    drop(daemon);
    let mut daemon = host.watched();
    daemon.meets(&doomed());
    assert_eq!(host.libvirt.xml(), doomed());
}

#[test]
fn somebody_who_insists_by_defining_anew_wins() {
    let host = Host::new();
    let mut daemon = host.watched();
    for _ in 0..5 {
        daemon.meets(&doomed());
        host.libvirt.remove(UUID);
        daemon.work();
    }
    daemon.meets(&doomed());
    assert_eq!(host.libvirt.xml(), doomed());
    let defined = host.libvirt.defined.load(Ordering::Relaxed);
    assert_eq!(defined, crate::daemon::decision::ROUNDS);
}

#[test]
fn a_libvirt_that_goes_is_waited_for_and_not_woken() {
    let host = Host::new();
    let mut daemon = host.watched();
    daemon.event(Event::Libvirt(libvirt::Event::Lost));
    let later = daemon.retry.unwrap().0;
    assert!(daemon.libvirt.is_none() && later > Instant::now() + LATEST / 2);
    host.libvirt
        .domains
        .lock()
        .unwrap()
        .insert(UUID.into(), doomed());
    // The next libvirt announces itself by its process id.
    let pid = host.context.root.join("run/libvirtd.pid");
    let mut file = std::fs::File::create(pid).unwrap();
    std::io::Write::write_all(&mut file, std::process::id().to_string().as_bytes()).unwrap();
    let limit = Instant::now() + Duration::from_secs(60);
    while daemon.retry.unwrap().0 >= later {
        assert!(Instant::now() < limit, "its file was not seen");
        if let Ok(event) = daemon.receive.recv_timeout(Duration::from_millis(50)) {
            daemon.event(event);
        }
    }
    std::thread::sleep(SOONEST);
    daemon.time_passes();
    daemon.work();
    host.has(&["<gl enable='yes'"]);
}

#[test]
fn a_device_that_becomes_known_has_its_domains_looked_at() {
    let host = Host::new();
    let record = host
        .context
        .root
        .join(format!("run/gfxplane/records/{DMABUF}.json"));
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::remove_file(&record).unwrap();
    // A rule is enough to fix a domain that is refused anyway, so the test uses a device that no
    // rule knows.
    let rules = "usr/share/gfxplane/rules.d/none.toml";
    host.context.root.put(rules, "");
    let others = host.context.root.join("run/gfxplane/types");
    let _ = std::fs::remove_dir_all(others);
    let mut daemon = host.watched();
    daemon.meets(&doomed());
    assert_eq!(host.libvirt.xml(), doomed());
    std::fs::write(&record, text).unwrap();
    let libvirt = Arc::clone(&host.libvirt);
    daemon.eventually(|| libvirt.xml().contains("<gl enable='yes'"));
}

#[test]
fn one_retry_for_each_definition() {
    let host = Host::new();
    host.libvirt.autostart.store(true, Ordering::Relaxed);
    let mut daemon = host.watched();
    let right = domain(REGION, "on", VNC);
    daemon.meets(&right);
    let request = request(true);
    let libvirt = Arc::clone(&host.libvirt);
    let left = || requests::directory(&host.context.root).join(format!("{UUID}.veto"));
    // The hook sees another definition than the daemon does, such as that of a saved guest.
    for _ in 0..3 {
        requests::leave(&host.context.root, &request).unwrap();
        daemon.eventually(|| !left().exists());
        daemon.eventually(|| libvirt.started.lock().unwrap().len() == 1);
    }
    assert_eq!(libvirt.started.lock().unwrap().len(), 1);
}

#[test]
fn what_is_undefined_is_not_defined_again() {
    let host = Host::new();
    host.libvirt.put(&doomed());
    let mut daemon = host.watched();
    let path = host
        .context
        .root
        .join(format!("var/lib/gfxplane/domains/{UUID}.json"));
    assert!(path.exists(), "it can be undone");
    // A late report: the domain is defined again when the daemon hears that it was undefined.
    host.libvirt.put(&doomed());
    host.libvirt.report(Happened::Undefined);
    daemon.work();
    assert!(path.exists() && host.libvirt.xml().contains("<gl enable='yes'"));
    daemon.meets(&doomed());
    host.libvirt.remove(UUID);
    daemon.work();
    assert!(!path.exists());
    // The domain may also be undefined while no daemon watches.
    daemon.meets(&domain(REGION, "off", VNC));
    assert!(path.exists());
    host.libvirt.remove(UUID);
    drop(daemon);
    let _again = host.watched();
    assert!(!path.exists());
}

/// Writes the log of a start that has just been made, of a domain with one device.
fn write_log(host: &Host, device: &str, end: &str) {
    let root = &host.context.root;
    root.put("usr/bin/qemu", "\x7fELF");
    let now = crate::host::log::rfc3339(crate::host::state::now());
    let now = now.replace('T', " ").replace('Z', ".000+0000");
    let log = format!(
        "{now}: starting up libvirt version: 11.3.0, qemu version: 10.0.13, kernel: x, hostname: y\n\
         LC_ALL=C \\\n/usr/bin/qemu \\\n-uuid {UUID} \\\n-vnc none \\\n\
         -device vfio-pci,sysfsdev=/sys/bus/mdev/devices/{device},display=on\n{}",
        end.replace("NOW", &now)
    );
    root.put("var/log/libvirt/qemu/g.log", &log);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(root.join("var/log/libvirt/qemu/g.log"), mode).unwrap();
}

#[test]
fn starts_teach() {
    // The device was in use when it was probed, and no other of its type was probed.
    const IN_USE: &str = "c1a20000-0000-4000-8000-000000000008";
    let host = Host::new();
    host.libvirt.put(&domain(IN_USE, "on", VNC));
    let mut daemon = host.watched();
    let root = &host.context.root;
    let known = || {
        let id = IN_USE.parse().unwrap();
        let known = crate::publish::inventory::Reading::new(root).known(id, &mut Vec::new());
        known.finding.facts.display.words().join(",")
    };
    let learned = |daemon: &Daemon<'_>| {
        let what = entries(daemon);
        what.iter().filter(|what| **what == What::Learned).count()
    };
    assert_eq!(known(), "unknown");
    let refusal = format!(
        "Z qemu: -device x: vfio {IN_USE}: vfio-display-dmabuf: opengl not available\n\
         NOW: shutting down, reason=failed\n"
    );
    write_log(&host, IN_USE, &refusal);
    let request = request(false);
    requests::leave(root, &request).unwrap();
    daemon.eventually(|| known() == "dmabuf");
    assert_eq!(learned(&daemon), 1);
    // The same log teaches nothing new.
    requests::leave(root, &request).unwrap();
    daemon.take_requests();
    assert_eq!(learned(&daemon), 1);
    // libvirt reports an earlier start; the one in the log is still under way.
    write_log(&host, IN_USE, "");
    let started = |daemon: &mut Running<'_>| {
        host.libvirt.report(Happened::Started);
        daemon.work();
        (known(), learned(daemon))
    };
    assert_eq!(started(&mut daemon), ("dmabuf".into(), 1));
    host.libvirt.is_active.store(true, Ordering::Relaxed);
    assert_eq!(started(&mut daemon), ("dmabuf".into(), 1));
    host.libvirt.is_running.store(true, Ordering::Relaxed);
    // The start in the log has failed meanwhile, and another one is under way.
    let path = root.join("var/log/libvirt/qemu/g.log");
    let log = std::fs::read_to_string(&path).unwrap();
    let later = log.replacen("000+0000: starting", "001+0000: starting", 1);
    *host.libvirt.next_log.lock().unwrap() = Some((path.clone(), later));
    assert_eq!(started(&mut daemon), ("dmabuf".into(), 1));
    // QEMU has started with the device, so its display has changed.
    write_log(&host, IN_USE, "");
    assert_eq!(started(&mut daemon), ("region".into(), 2));
    // Of a running domain, a refusal in the log teaches nothing, whatever was requested before.
    write_log(&host, IN_USE, &refusal);
    requests::leave(root, &request).unwrap();
    daemon.take_requests();
    assert_eq!((known().as_str(), learned(&daemon)), ("region", 2));
    // Nothing is learned of a device that is not the domain's.
    write_log(&host, DMABUF, "");
    assert_eq!(started(&mut daemon), ("region".into(), 2));
}

#[test]
fn lines_are_said_once() {
    let mut watched = domains::Watched::default();
    let (level, about) = (crate::plan::Level::Info, crate::predict::About::Domain);
    let line = crate::plan::Note::new(level, about, "t");
    assert_eq!(watched.news(vec![line.clone()]).len(), 1);
    assert_eq!(watched.news(vec![line]).len(), 0);
    let mut seen = BTreeSet::new();
    seen.insert(watched.note("n", "one", Vec::new()));
    assert_eq!(seen, [false].into());
    assert!(watched.note("n", "two", Vec::new()));
}

/// In the end the domain is fixed, this is told once and can be undone, whether libvirt is killed
/// before or after it has written the definition.
#[test]
fn libvirt_that_ends_while_it_defines() {
    for (doomed, is_written) in [
        (doomed(), false),
        (doomed(), true),
        (domain(REGION, "off", VNC), false),
        (domain(REGION, "off", VNC), true),
    ] {
        let host = Host::new();
        let mut daemon = host.watched();
        *host.libvirt.ends.lock().unwrap() = Some(is_written);
        daemon.meets(&doomed);
        assert_eq!(host.libvirt.xml() != doomed, is_written);
        assert_eq!(entries(&daemon), [], "nobody knows yet");
        // libvirt is back.
        daemon.connect(true).unwrap();
        daemon.work();
        let fixed = host.libvirt.xml();
        assert_ne!(fixed, doomed);
        assert_eq!(entries(&daemon), [What::Fixed]);
        can_be_undone(&host, &daemon, &doomed);
        // A second look changes and tells nothing.
        daemon.connect(true).unwrap();
        daemon.work();
        assert_eq!(entries(&daemon), [What::Fixed]);
        assert_eq!(host.libvirt.xml(), fixed);
    }
}

/// The daemon does not take somebody else's definition for its own.
#[test]
fn libvirt_that_ends_while_it_defines_and_somebody_else_is_there_first() {
    let host = Host::new();
    let mut daemon = host.watched();
    *host.libvirt.ends.lock().unwrap() = Some(false);
    daemon.meets(&doomed());
    let theirs = domain(REGION, "on", VNC);
    host.libvirt.put(&theirs);
    daemon.connect(true).unwrap();
    daemon.work();
    assert_eq!((host.libvirt.xml(), entries(&daemon)), (theirs, vec![]));
    assert_eq!(daemon.domains.state.undo_stack(uuid(), &mut Vec::new()), []);
}

/// The first look fixes, tells and remembers each wrong domain once. The second changes nothing.
#[test]
fn five_thousand_domains() {
    const MANY: u128 = 5000;
    let host = Host::new();
    let uuids: Vec<Uuid> = (0..MANY)
        .map(|number| Uuid::from_u128(uuid().as_u128() + number))
        .collect();
    for uuid in &uuids {
        let uuid = uuid.to_string();
        let xml = doomed().replace(UUID, &uuid);
        host.libvirt.domains.lock().unwrap().insert(uuid, xml);
    }
    let mut daemon = host.watched();
    let is_mended = |xml: &String| xml.contains("<gl enable='yes'") && xml.contains("geheim");
    let all = host.libvirt.domains.lock().unwrap().clone();
    assert_eq!(all.values().filter(|xml| is_mended(xml)).count(), 5000);
    daemon.connect(true).unwrap();
    daemon.work();
    assert_eq!(*host.libvirt.domains.lock().unwrap(), all);
    assert_eq!(host.libvirt.defined.load(Ordering::Relaxed), 5000);
    let state = &daemon.domains.state;
    let remembered = |uuid: &&Uuid| state.undo_stack(**uuid, &mut Vec::new()).len() == 1;
    assert_eq!(uuids.iter().filter(remembered).count(), 5000);
    // The log is renamed at its size, however much is written.
    assert!(!entries(&daemon).is_empty());
}

/// Returns a domain with a card that was never measured, and without arguments.
fn unmeasured() -> String {
    doomed().replace("<model type='none'/>", "<model type='cirrus'/>")
}

fn tried(host: &Host) -> usize {
    host.libvirt.tried.lock().unwrap().len()
}

/// Returns the reason why a domain was last left alone.
fn reason(daemon: &Daemon<'_>) -> String {
    let entries = daemon.domains.state.entries(&mut Vec::new());
    let left = entries.iter().filter(|entry| entry.what == What::LeftAlone);
    left.filter_map(|entry| entry.reason.clone())
        .next_back()
        .unwrap()
}

#[test]
fn what_was_measured_is_not_tried() {
    let host = Host::new();
    host.libvirt.put(&doomed());
    let _daemon = host.watched();
    host.has(&["<gl enable='yes'"]);
    assert_eq!(tried(&host), 0);
}

#[test]
fn what_was_not_measured_is_tried_once_for_all_of_its_shape() {
    let host = Host::new();
    let second = UUID.replace("01", "02");
    host.libvirt.put(&unmeasured());
    let mut daemon = host.watched();
    host.has(&["<gl enable='yes'"]);
    assert_eq!(tried(&host), 1);
    {
        let copies = host.libvirt.tried.lock().unwrap();
        assert!(
            copies[0].contains("<name>gfxplane-verify-"),
            "{}",
            copies[0]
        );
        assert!(copies[0].contains("<gl enable='yes'") && !copies[0].contains("geheim"));
    }
    assert_eq!(entries(&daemon), [What::Fixed]);
    // The outcome also holds for another domain, and for another daemon.
    host.libvirt
        .put_at(&second, &unmeasured().replace(UUID, &second));
    daemon.work();
    host.libvirt.put(&unmeasured());
    drop(daemon);
    let daemon = host.watched();
    let all = host.libvirt.domains.lock().unwrap();
    assert!(all.values().all(|xml| xml.contains("<gl enable='yes'")));
    assert_eq!((tried(&host), entries(&daemon).len()), (1, 3));
}

#[test]
fn what_is_refused_when_it_is_tried_stays_as_it_is() {
    let host = Host::new();
    *host.libvirt.trial.lock().unwrap() = Some("no such card".into());
    host.libvirt.put(&unmeasured());
    let mut daemon = host.watched();
    assert_eq!(host.libvirt.xml(), unmeasured());
    let said = reason(&daemon);
    for words in ["no such card", "`gfxplane fixup g --define`"] {
        assert!(said.contains(words), "{said}");
    }
    // The refusal holds, also for the next daemon, until a trial by a user succeeds.
    daemon.meets(&unmeasured());
    drop(daemon);
    let _daemon = host.watched();
    assert_eq!((host.libvirt.xml(), tried(&host)), (unmeasured(), 1));
}

#[test]
fn an_argument_of_the_users_has_no_shape_and_is_tried_for_itself() {
    let arguments = "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
                     <qemu:arg value='ARG'/></qemu:commandline></domain>";
    let host = Host::new();
    *host.libvirt.trial.lock().unwrap() = Some("no".into());
    let with = |argument: &str| doomed().replace("</domain>", &arguments.replace("ARG", argument));
    host.libvirt.put(&with("-no-user-config"));
    let mut daemon = host.watched();
    assert_eq!((tried(&host), entries(&daemon)), (1, vec![What::LeftAlone]));
    // There is nothing new to try.
    daemon.meets(&with("-no-user-config"));
    assert_eq!(tried(&host), 1);
    *host.libvirt.trial.lock().unwrap() = None;
    daemon.meets(&with("-nodefaults"));
    host.has(&["<gl enable='yes'"]);
    assert_eq!(tried(&host), 2);
}

#[test]
fn a_device_in_use_is_waited_for() {
    let host = Host::new();
    let holder = User {
        domain: "holder".into(),
        devices: vec![DMABUF.parse().unwrap()],
    };
    host.libvirt.users.lock().unwrap().push(holder);
    host.libvirt.put(&unmeasured());
    let mut daemon = host.watched();
    assert_eq!((host.libvirt.xml(), tried(&host)), (unmeasured(), 0));
    let said = reason(&daemon);
    for words in [
        &format!("device {DMABUF} is in use by domain holder"),
        "`gfxplane fixup g --define --no-trial`",
    ] {
        assert!(said.contains(words), "{said}");
    }
    host.libvirt.users.lock().unwrap().clear();
    host.libvirt
        .report_of(&UUID.replace("01", "09"), Happened::Stopped);
    daemon.work();
    host.has(&["<gl enable='yes'"]);
    assert_eq!(tried(&host), 1);
}

#[test]
fn a_start_that_is_under_way_comes_first() {
    let host = Host::new();
    let id = DMABUF.parse().unwrap();
    requests::mark_start(&host.context.root, id).unwrap();
    host.libvirt.put(&unmeasured());
    let mut daemon = host.watched();
    assert_eq!((host.libvirt.xml(), tried(&host)), (unmeasured(), 0));
    assert_eq!(daemon.later.len(), 1, "it is looked at again");
    requests::forget_start(&host.context.root, id).unwrap();
    daemon.task(uuid(), false);
    daemon.work();
    host.has(&["<gl enable='yes'"]);
}

/// A report about a copy does not mean that another domain has ended.
#[test]
fn trials_of_its_own_do_not_wake_the_daemon() {
    let host = Host::new();
    let mut daemon = host.watched();
    let waiting = Uuid::from_u128(7);
    daemon.domains.watched(waiting).waits = true;
    daemon.meets(&unmeasured());
    assert_eq!(tried(&host), 1);
    assert!(
        daemon.domains.known(waiting).is_some(),
        "nobody has looked at it"
    );
}
