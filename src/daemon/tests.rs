//! Tests the daemon against a simulated libvirt, which is a map. The machine test has the real one.

mod conflicts;
mod connection;
mod definitions;
mod starts;
mod trials;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::Receiver;
use std::time::Instant;

use super::tasks::NEVER_QUIET;
use super::*;
use crate::device::version::Version;
use crate::host::Root;
use crate::host::emulator::pretend;
use crate::host::log::What;
use crate::libvirt::{Definition, New, Replaced, Sink, Start, User};
use crate::predict::abilities::Abilities;

const UUID: Uuid = Uuid::from_u128(0x9a7e_6a0c_0000_4000_8000_0000_0000_0001);
/// The recorded lab's devices of mdpy (region) and mbochs (dmabuf).
const REGION: &str = "c1a20000-0000-4000-8000-000000000001";
const DMABUF: &str = "c1a20000-0000-4000-8000-000000000002";

#[derive(Default)]
struct Fake {
    domains: Mutex<BTreeMap<Uuid, String>>,
    sink: Mutex<Option<Sink>>,
    /// Hears when the daemon of the node devices ends.
    devices: Mutex<Option<Sink>>,
    autostart: AtomicBool,
    started: Mutex<Vec<Uuid>>,
    /// The definitions that somebody makes right before each of ours.
    meddling: Mutex<Vec<String>>,
    /// The acts of somebody right after each comparison before a definition, which does not see
    /// them, and right after the domain was undefined. The last one comes first.
    conflicts: Mutex<Vec<Meanwhile>>,
    /// The directory where the definitions are kept, too.
    files: Mutex<PathBuf>,
    refuses: AtomicBool,
    /// libvirt ends at the next definition, before (`false`) or after it has written the file.
    ends: Mutex<Option<bool>>,
    defined: AtomicU32,
    is_active: AtomicBool,
    /// True if an active domain is through with its start.
    is_running: AtomicBool,
    /// The refusal of small copies; they start if there is none.
    trial: Mutex<Option<String>>,
    /// The copies that were started.
    tried: Mutex<Vec<String>>,
    /// Runs while the next copy starts, which is then given up.
    while_tried: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// The domains that run.
    users: Mutex<Vec<User>>,
    /// True if libvirt has not listed its devices yet, and does not answer.
    is_listing: AtomicBool,
    /// The log that appears when libvirt has answered about the domain's state.
    next_log: Mutex<Option<(PathBuf, String)>>,
}

/// An act of somebody else between our look and our definition.
#[derive(Clone)]
enum Meanwhile {
    Nothing,
    Defines(String),
    /// Defines the domain so fast that nobody can read it.
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
        self.domains.lock().unwrap()[&UUID].clone()
    }

    fn put(&self, xml: &str) {
        self.put_at(UUID, xml);
    }

    /// Defines a domain without a report and a file.
    fn put_unseen(&self, uuid: Uuid, xml: &str) {
        self.domains.lock().unwrap().insert(uuid, xml.into());
    }

    fn put_at(&self, uuid: Uuid, xml: &str) {
        self.put_unseen(uuid, xml);
        self.save(xml);
        self.report_of(uuid, Happened::Defined);
    }

    fn file(&self, xml: &str) -> PathBuf {
        let (name, _) = crate::domain::name_and_devices(xml);
        self.files.lock().unwrap().join(format!("{name}.xml"))
    }

    /// Writes a definition to its file, as libvirt does.
    fn save(&self, xml: &str) {
        let path = self.file(xml);
        let new = path.with_extension("xml.new");
        std::fs::write(&new, format!("<!--\nWARNING\n-->\n\n{xml}\n")).unwrap();
        std::fs::rename(new, path).unwrap();
    }

    fn remove(&self, uuid: Uuid) {
        let xml = self.domains.lock().unwrap().remove(&uuid).unwrap();
        std::fs::remove_file(self.file(&xml)).unwrap();
        self.report_of(uuid, Happened::Undefined);
    }

    fn meanwhile(&self, uuid: Uuid) {
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
                self.put_unseen(uuid, &theirs);
                self.report_of(uuid, Happened::Defined);
            }
            Meanwhile::Undefines => self.remove(uuid),
        }
    }

    fn report(&self, what: Happened) {
        self.report_of(UUID, what);
    }

    fn report_of(&self, uuid: Uuid, what: Happened) {
        if let Some(sink) = &*self.sink.lock().unwrap() {
            sink(libvirt::Event::Domain { uuid, what });
        }
    }
}

impl Libvirt for Arc<Fake> {
    fn definition(&self, name: &str, _secrets: bool) -> Result<Definition, Failure> {
        self.persistent(name.parse().unwrap())?
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
                self.put_unseen(before.uuid, &wanted);
            }
            return Err(Failure::Environment(
                "End of file while reading data".into(),
            ));
        }
        if self.refuses.load(Ordering::Relaxed) {
            return Err(Failure::Refused("libvirt refuses it".into()));
        }
        let since = Instant::now();
        self.meanwhile(before.uuid);
        match new {
            New::Whole(_) | New::Checked(_) => self.put_at(before.uuid, &wanted),
            // The changes that somebody else has made meanwhile stay.
            New::Graphics(graphics) => {
                let now = self.domains.lock().unwrap()[&before.uuid].clone();
                self.put_at(before.uuid, &with_graphics(&now, graphics));
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
        self.remove(definition.uuid);
        self.meanwhile(definition.uuid);
        Ok(Replaced::Done {
            window: Duration::ZERO,
        })
    }

    fn persistent(&self, uuid: Uuid) -> Result<Option<Definition>, Failure> {
        let xml = self.domains.lock().unwrap().get(&uuid).cloned();
        Ok(xml.map(|xml| Definition {
            uuid,
            xml,
            is_active: self.is_active.load(Ordering::Relaxed),
        }))
    }

    fn all_persistent(&self) -> Result<Vec<Uuid>, Failure> {
        Ok(self.domains.lock().unwrap().keys().copied().collect())
    }

    fn is_running(&self, _uuid: Uuid) -> Result<bool, Failure> {
        if let Some((path, text)) = self.next_log.lock().unwrap().take() {
            std::fs::write(path, text).unwrap();
        }
        Ok(self.is_running.load(Ordering::Relaxed))
    }

    fn is_autostart(&self, _uuid: Uuid) -> Result<bool, Failure> {
        Ok(self.autostart.load(Ordering::Relaxed))
    }

    fn start_persistent(&self, uuid: Uuid) -> Result<(), Failure> {
        self.started.lock().unwrap().push(uuid);
        Ok(())
    }

    fn version(&self) -> Result<Version, Failure> {
        Ok(Version::of(&[11, 3]))
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

    fn start(&self, xml: &str, uuid: Uuid, is_over: &dyn Fn() -> bool) -> Result<Start, Failure> {
        self.tried.lock().unwrap().push(xml.into());
        assert!(!is_over());
        if let Some(meanwhile) = self.while_tried.lock().unwrap().take() {
            meanwhile();
            assert!(is_over(), "nobody gives the copy up");
            return Err(Failure::Environment("destroyed".into()));
        }
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

/// Replaces the graphics, as libvirt does (src/qemu/qemu_driver.c, qemuDomainUpdateDeviceConfig).
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
        daemon.look_again();
        daemon
    }

    /// A daemon that has looked at this definition of the domain.
    fn having(&self, xml: &str) -> Running<'_> {
        self.libvirt.put(xml);
        self.watched()
    }

    /// Returns how often the daemon has defined a domain.
    fn defined(&self) -> u32 {
        self.libvirt.defined.load(Ordering::Relaxed)
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

    /// libvirt is there again, or still.
    fn look_again(&mut self) {
        self.daemon.connect(true).unwrap();
        self.daemon.work();
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
    requests::Request { domain: UUID, veto }
}

/// Returns a definition to which somebody else has added a title.
fn with_title(xml: &str, title: &str) -> String {
    xml.replace("<name>", &format!("<title>{title}</title><name>"))
}

/// Checks that one change of the domain can be undone, and that this brings the expected
/// definition.
fn can_be_undone(host: &Host, daemon: &Daemon<'_>, expected: &str) {
    let rounds = daemon.domains.state.undo_stack(UUID, &mut Vec::new());
    assert_eq!(rounds.len(), 1);
    let undone = crate::plan::undo::undo(&host.libvirt.xml(), &rounds[0].changes).unwrap();
    let differs = crate::plan::undo::inverse(&undone.text, expected).unwrap();
    assert_eq!((differs, undone.passed_over), (vec![], vec![]));
}

/// Returns the reason why a domain was last left alone.
fn reason(daemon: &Daemon<'_>) -> String {
    let entries = daemon.domains.state.entries(&mut Vec::new());
    let left = entries.iter().filter(|entry| entry.what == What::LeftAlone);
    left.filter_map(|entry| entry.reason.clone())
        .next_back()
        .unwrap()
}
