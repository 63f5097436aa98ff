//! Tests `gfxplane fixup --define`, `undo`, `log` and `policy` with a real libvirt: its test
//! driver, whose domains live as long as somebody is connected to it.
#![cfg(feature = "libvirt")]

use std::collections::{BTreeSet, HashSet};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use clap::Parser;
use gfxplane::cli::exit_code;
use gfxplane::cli::fixup::Fixup;
use gfxplane::cli::log::Log;
use gfxplane::cli::policy::PolicyCommand;
use gfxplane::cli::undo::Undo;
use gfxplane::device::version::Version;
use gfxplane::host::Root;
use gfxplane::host::log::{By, What};
use gfxplane::host::state::State;
use gfxplane::libvirt::{ByLibrary, Definition, Libvirt, New, Replaced, Sink, Start, User};
use gfxplane::libvirt::{Context, Failure};
use uuid::Uuid;
use virt::connect::Connect;

const URI: &str = "test:///default";
const UUID: &str = "5a1ade00-0000-4000-8000-000000000001";
const OTHER: &str = "5a1ade00-0000-4000-8000-000000000003";
const VGPU: &str = "c1a20000-0000-4000-8000-000000000002";

/// The test driver as if its domains were QEMU's. It has only domains of its own type and
/// architecture. gfxplane knows that QEMU does not run these, and has measured none.
#[derive(Debug)]
struct AsKvm {
    libvirt: ByLibrary,
    /// A change that somebody makes to the definition right before it is replaced.
    meddler: Mutex<Option<String>>,
    /// The outcome of a trial, as the test driver has no devices.
    trial: Mutex<Option<Start>>,
    /// The user of the device.
    user: Mutex<Option<User>>,
}

fn shown(xml: &str) -> String {
    xml.replacen("<domain type='test'", "<domain type='kvm'", 1)
        .replacen("arch='i686'", "arch='x86_64'", 1)
}

fn hidden(xml: &str) -> String {
    xml.replacen("<domain type='kvm'", "<domain type='test'", 1)
        .replacen("arch='x86_64'", "arch='i686'", 1)
}

impl Libvirt for AsKvm {
    fn definition(&self, name: &str, secrets: bool) -> Result<Definition, Failure> {
        let definition = self.libvirt.definition(name, secrets)?;
        Ok(Definition {
            xml: shown(&definition.xml),
            ..definition
        })
    }

    fn define(&self, before: &Definition, new: New<'_>) -> Result<Replaced, Failure> {
        if let Some(xml) = self.meddler.lock().unwrap().take() {
            let connection = Connect::open(Some(URI)).unwrap();
            connection.define_domain_xml(&xml).unwrap();
        }
        let before = Definition {
            xml: hidden(&before.xml),
            ..before.clone()
        };
        let New::Checked(xml) = new else {
            panic!("a command has it held against the schema")
        };
        self.libvirt.define(&before, New::Checked(&hidden(xml)))
    }

    fn set_policy(&self, uuid: Uuid, xml: Option<&str>) -> Result<(), Failure> {
        self.libvirt.set_policy(uuid, xml)
    }

    fn domain_capabilities(&self, _emulator: Option<&Path>) -> Result<Option<String>, Failure> {
        // The test driver has none.
        Ok(None)
    }

    fn persistent(&self, uuid: Uuid) -> Result<Option<Definition>, Failure> {
        self.definition(&uuid.to_string(), true).map(Some)
    }

    fn all_persistent(&self) -> Result<Vec<Uuid>, Failure> {
        self.libvirt.all_persistent()
    }

    fn is_running(&self, uuid: Uuid) -> Result<bool, Failure> {
        self.libvirt.is_running(uuid)
    }

    fn is_autostart(&self, uuid: Uuid) -> Result<bool, Failure> {
        self.libvirt.is_autostart(uuid)
    }

    fn start_persistent(&self, uuid: Uuid) -> Result<(), Failure> {
        self.libvirt.start_persistent(uuid)
    }

    fn version(&self) -> Result<Version, Failure> {
        self.libvirt.version()
    }

    fn watch(&self, sink: Sink) -> Result<Arc<dyn Libvirt>, Failure> {
        self.libvirt.watch(sink)
    }

    fn users(&self) -> Result<Vec<User>, Failure> {
        Ok(self.user.lock().unwrap().iter().cloned().collect())
    }

    fn start(&self, xml: &str, _uuid: Uuid, _is_over: &dyn Fn() -> bool) -> Result<Start, Failure> {
        assert!(
            xml.contains("<gl enable='yes'") && !xml.contains("geheim"),
            "{xml}"
        );
        let trial = self.trial.lock().unwrap().clone();
        trial.ok_or_else(|| Failure::Environment("nothing was to be tried".into()))
    }

    fn nodedev_xml(&self, name: &str) -> Result<String, Failure> {
        self.libvirt.nodedev_xml(name)
    }

    fn nodedev_names(&self) -> Result<HashSet<String>, Failure> {
        self.libvirt.nodedev_names()
    }
}

#[derive(Parser)]
enum Verb {
    Fixup(Fixup),
    Undo(Undo),
    Log(Log),
    Policy(PolicyCommand),
}

/// A host with a libvirt that has one domain.
struct Host {
    directory: tempfile::TempDir,
    context: Context,
    libvirt: Arc<AsKvm>,
    /// The domains of the test driver exist as long as this connection.
    connection: Connect,
    /// Only one test at a time may connect, because all connections of a process get the same
    /// driver.
    _alone: MutexGuard<'static, ()>,
}

static ALONE: Mutex<()> = Mutex::new(());

impl Host {
    fn new() -> Self {
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().unwrap();
        let lab = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/lab/root");
        let copied = Command::new("cp")
            .arg("-a")
            .arg(format!("{}/.", lab.display()))
            .arg(directory.path())
            .status();
        assert!(copied.unwrap().success());
        for below in ["var/lib", "dev/dri"] {
            std::fs::create_dir_all(directory.path().join(below)).unwrap();
        }
        std::fs::write(directory.path().join("dev/dri/renderD128"), "").unwrap();
        let libvirt = Arc::new(AsKvm {
            libvirt: ByLibrary::new(Some(URI)),
            meddler: Mutex::default(),
            trial: Mutex::default(),
            user: Mutex::default(),
        });
        let host = Host {
            context: Context {
                root: Root::strict(directory.path()),
                connect: None,
                quiet: false,
                libvirt: libvirt.clone(),
            },
            directory,
            libvirt,
            connection: Connect::open(Some(URI)).unwrap(),
            _alone: alone,
        };
        host.define(&domain());
        host
    }

    fn define(&self, xml: &str) {
        self.connection.define_domain_xml(&hidden(xml)).unwrap();
    }

    fn xml(&self) -> String {
        self.libvirt.definition(UUID, true).unwrap().xml
    }

    fn state(&self) -> State {
        State::new(&self.context.root)
    }

    fn hands_off(&self) -> bool {
        self.state()
            .hands_off(UUID.parse().unwrap(), &mut Vec::new())
    }

    fn rounds(&self) -> usize {
        self.state()
            .undo_stack(UUID.parse().unwrap(), &mut Vec::new())
            .len()
    }

    fn run(&self, arguments: &[&str]) -> (u8, String) {
        let arguments = ["gfxplane"].iter().chain(arguments);
        let mut out = Vec::new();
        let result = match Verb::parse_from(arguments) {
            Verb::Fixup(fixup) => fixup.run(&self.context, &mut out),
            Verb::Undo(undo) => undo.run(&self.context, &mut out),
            Verb::Log(log) => log.run(&self.context, &mut out),
            Verb::Policy(policy) => policy.run(&self.context, &mut out),
        };
        (exit_code(&result), String::from_utf8(out).unwrap())
    }

    fn fix(&self) {
        self.fix_domain("guest");
    }

    fn fix_domain(&self, name: &str) {
        let versions = ["--qemu", "10.0.13", "--libvirt-version", "11.3.0"];
        let (code, _) = self.run(&[&["fixup", "--define", name][..], &versions].concat());
        assert_eq!(code, 0);
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for uuid in [UUID, OTHER] {
            if let Ok(domain) = self.connection.lookup_domain_by_uuid_string(uuid) {
                let _ = domain.undefine();
            }
        }
    }
}

fn domain() -> String {
    format!(
        "<domain type='kvm'><name>guest</name><uuid>{UUID}</uuid><memory>65536</memory>
        <metadata><mine:x xmlns:mine='urn:mine'>kept</mine:x></metadata>
        <os><type>hvm</type></os>
        <devices>
          <graphics type='spice' autoport='yes' listen='127.0.0.1' passwd='geheim'/>
          <video><model type='none'/></video>
          <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on'>
            <source><address uuid='{VGPU}'/></source>
          </hostdev>
        </devices></domain>"
    )
}

#[test]
fn fixed_undone_and_given_back() {
    let host = Host::new();
    let before = host.xml();
    assert!(
        before.contains("passwd='geheim'") && !before.contains("<gl"),
        "{before}"
    );
    host.fix();
    let fixed = host.xml();
    assert!(
        fixed.contains("<gl enable='yes'/>") && fixed.contains("<listen type='none'/>"),
        "{fixed}"
    );
    assert_eq!((host.rounds(), host.hands_off()), (1, false));
    // A preview changes nothing and shows no password.
    let (code, diff) = host.run(&["undo", "--print-diff", "guest"]);
    assert!(
        code == 0 && diff.contains("\n-      <gl enable='yes'/>\n"),
        "{diff}"
    );
    let (code, xml) = host.run(&["undo", "--print-xml", "guest"]);
    assert!(
        code == 0 && !xml.contains("geheim") && !xml.contains("<gl"),
        "{xml}"
    );
    assert_eq!(host.run(&["undo", "--dry-run", "guest"]).0, 0);
    assert_eq!(
        (host.xml(), host.rounds(), host.hands_off()),
        (fixed, 1, false)
    );

    assert_eq!(host.run(&["undo", "guest"]).0, 0);
    assert_eq!(host.xml(), before);
    assert_eq!((host.rounds(), host.hands_off()), (0, true));
    assert_eq!(host.run(&["undo", "guest"]).0, 1);
    let (_, shown) = host.run(&["policy", "guest"]);
    assert!(
        shown.contains("the daemon stays away: what was changed in the domain was undone"),
        "{shown}"
    );

    assert_eq!(host.run(&["policy", "guest", "display=full"]).0, 0);
    assert!(!host.hands_off());
    let entries = host.state().entries(&mut Vec::new());
    let told: Vec<_> = entries.iter().map(|entry| (entry.what, entry.by)).collect();
    assert_eq!(
        told,
        [
            (What::Fixed, By::Fixup),
            (What::Undone, By::Undo),
            (What::Policy, By::Policy)
        ]
    );
    assert!(
        entries[0]
            .changes
            .iter()
            .any(|said| said.change == "gl enabled for spice")
    );

    host.fix();
    assert_eq!(host.run(&["undo", UUID]).0, 0);
    host.fix();
    assert_eq!(
        (host.rounds(), host.hands_off()),
        (1, false),
        "fixup gives it back, too"
    );
    let everything = Command::new("grep")
        .args(["-r", "geheim"])
        .arg(host.directory.path().join("var"))
        .output();
    assert_eq!(everything.unwrap().stdout, b"");
}

#[test]
fn all_domains_are_undone_but_those_in_which_somebody_is_faster() {
    let host = Host::new();
    let other = domain()
        .replace(UUID, OTHER)
        .replace("<name>guest<", "<name>other<");
    host.define(&other);
    let xml_of = |uuid: &str| host.libvirt.definition(uuid, true).unwrap().xml;
    assert_eq!(host.run(&["undo", "--all"]), (0, String::new()));
    let before = [UUID, OTHER].map(xml_of);
    host.fix_domain("guest");
    host.fix_domain("other");
    let fixed = [UUID, OTHER].map(xml_of);

    let (code, diffs) = host.run(&["undo", "--all", "--print-diff"]);
    assert_eq!((code, diffs.matches("-      <gl enable").count()), (0, 2));
    assert_eq!([UUID, OTHER].map(xml_of), fixed);
    assert!(Verb::try_parse_from(["gfxplane", "undo", "--all", "guest"]).is_err());
    assert!(Verb::try_parse_from(["gfxplane", "undo"]).is_err());

    // Whichever comes first meets somebody else's change.
    let theirs = fixed[0].replace(
        "<name>guest</name>",
        "<name>guest</name><title>theirs</title>",
    );
    *host.libvirt.meddler.lock().unwrap() = Some(hidden(&theirs));
    let (code, _) = host.run(&["undo", "--all"]);
    let now = [UUID, OTHER].map(xml_of);
    assert!(now[0].contains("theirs"), "{}", now[0]);
    let undone = now.iter().filter(|xml| !xml.contains("<gl")).count();
    assert!(
        (code, undone) == (3, 1) || (code, undone) == (0, 2),
        "{code}: {now:?}"
    );

    assert_eq!(host.run(&["undo", "--all"]).0, 0);
    assert_eq!(xml_of(OTHER), before[1]);
    assert!(!host.xml().contains("<gl") && host.xml().contains("theirs"));
    let mut problems = Vec::new();
    assert!(
        host.state()
            .hands_off(OTHER.parse().unwrap(), &mut problems)
    );
    assert_eq!(host.run(&["undo", "--all"]), (0, String::new()));
}

#[test]
fn what_somebody_has_changed_since_is_kept() {
    let host = Host::new();
    host.fix();
    let own = host.xml().replace(
        "<name>guest</name>",
        "<name>guest</name><title>mine</title>",
    );
    let listens = own.replace("<listen type='none'/>", "<listen type='socket'/>");
    host.define(&listens);
    assert_eq!(host.run(&["undo", "guest"]).0, 1);
    assert!(host.xml().contains("<listen type='socket'"));
    host.define(&own);
    assert_eq!(host.run(&["undo", "guest"]).0, 0);
    let now = host.xml();
    assert!(
        now.contains("<title>mine</title>") && !now.contains("<gl"),
        "{now}"
    );
}

#[test]
fn nothing_of_ours_still_stands() {
    let host = Host::new();
    host.fix();
    host.define(
        &domain()
            .replace(
                "spice' autoport='yes' listen='127.0.0.1' passwd='geheim'",
                "vnc'",
            )
            .replace("display='on'", ""),
    );
    let now = host.xml();
    assert_eq!(host.run(&["undo", "guest"]).0, 1);
    assert_eq!((host.xml(), host.hands_off()), (now, false));
}

#[test]
fn somebody_was_faster_and_nothing_is_lost() {
    let host = Host::new();
    host.fix();
    let theirs = host.xml().replace(
        "<name>guest</name>",
        "<name>guest</name><title>theirs</title>",
    );
    *host.libvirt.meddler.lock().unwrap() = Some(hidden(&theirs));
    assert_eq!(host.run(&["undo", "guest"]).0, 3);
    let now = host.xml();
    assert!(now.contains("theirs") && now.contains("<gl"), "{now}");
    assert_eq!((host.rounds(), host.hands_off()), (1, false));
}

#[test]
fn where_nothing_can_be_remembered() {
    let host = Host::new();
    let base = host.directory.path().join("var/lib/gfxplane");
    std::fs::write(&base, "").unwrap();
    host.fix();
    assert!(
        host.xml().contains("<gl"),
        "that it is not remembered is no reason not to do it"
    );
    let fixed = host.xml();
    assert_eq!(host.run(&["undo", "guest"]), (1, String::new()));
    assert_eq!(host.run(&["log"]), (0, String::new()));
    assert_eq!(host.xml(), fixed);
}

#[test]
fn policy_in_the_metadata() {
    let host = Host::new();
    let before = host.xml();
    let words = |name: &str| -> Vec<String> {
        let (code, out) = host.run(&["policy", "guest"]);
        assert_eq!(code, 0);
        let row = out.lines().find(|line| line.starts_with(name)).unwrap();
        row.split_whitespace().skip(1).map(str::to_owned).collect()
    };
    assert_eq!(words("display"), ["auto", "-", "auto"]);
    assert_eq!(
        host.run(&["policy", "guest", "display=asked", "consent=all"])
            .0,
        0
    );
    let element = "<gfxplane:policy xmlns:gfxplane=\"urn:gfxplane:domain:1\" display=\"asked\" consent=\"remote,video\"/>";
    assert!(host.xml().contains(element), "{}", host.xml());
    assert!(host.xml().contains("kept</mine:x>"));
    // The other words stay.
    assert_eq!(
        host.run(&["policy", "guest", "display=full", "guest=windows"])
            .0,
        0
    );
    assert_eq!(words("display"), ["auto", "full", "full"]);
    assert_eq!(words("consent"), ["-", "remote,video", "remote,video"]);
    assert_eq!(words("guest"), ["-", "windows", "windows"]);
    assert_eq!(host.run(&["policy", "guest", "consent=", "guest="]).0, 0);
    assert_eq!(words("consent"), ["-", "-", "-"]);
    assert_eq!(host.xml().matches("<gfxplane:policy").count(), 1);
    assert_eq!(host.run(&["policy", "guest", "--clear", "video=none"]).0, 0);
    assert_eq!(words("display"), ["auto", "-", "auto"]);
    assert_eq!(host.run(&["policy", "guest", "--clear"]).0, 0);
    assert_eq!(host.xml(), before);
    let (_, text) = host.run(&["policy", "guest", "display=off", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&text).unwrap();
    let check = "import json, jsonschema, sys; jsonschema.validate(json.loads(sys.argv[1]), json.load(open('json-schemas/policy.json')))";
    let valid = Command::new("python3")
        .args(["-c", check, &text])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        valid.status.success(),
        "{}",
        String::from_utf8_lossy(&valid.stderr)
    );
    assert_eq!(
        (&json["format"], &json["domain"]),
        (&1.into(), &"guest".into())
    );
    assert_eq!(json["policy"][0]["effect"], "off");
    assert_eq!(json["hands_off"], "the policy says display='off'");
}

#[test]
fn wrong_words_change_nothing() {
    let host = Host::new();
    let before = host.xml();
    for words in [
        &["display=yes"][..],
        &["colour=red"],
        &["display"],
        &["display=full", "display=off"],
        &["colour="],
        &["consent=everything"],
    ] {
        assert_eq!(
            host.run(&[&["policy", "guest"], words].concat()).0,
            2,
            "{words:?}"
        );
    }
    assert_eq!(host.xml(), before);
    // A policy that somebody else has written.
    let own = "<metadata><g:policy xmlns:g='urn:gfxplane:domain:1' colour='red'/>";
    host.define(&domain().replace("<metadata>", own));
    assert_eq!(host.run(&["policy", "guest"]).0, 1);
    assert_eq!(host.run(&["policy", "guest", "display=full"]).0, 1);
    assert!(host.xml().contains("colour=\"red\""));
    assert_eq!(
        host.run(&["policy", "guest", "display=full", "--clear"]).0,
        0
    );
    assert!(!host.xml().contains("colour") && host.xml().contains("display=\"full\""));
    assert_eq!(host.run(&["policy", "nobody"]).0, 3);
}

#[test]
fn older_domains_and_other_managers() {
    let host = Host::new();
    let uuid: Uuid = UUID.parse().unwrap();
    host.state().set_older(&BTreeSet::from([uuid])).unwrap();
    let (_, shown) = host.run(&["policy", "guest"]);
    assert!(
        shown.contains("it is older than gfxplane on this host"),
        "{shown}"
    );
    assert!(shown.lines().any(|line| line.ends_with("asked")), "{shown}");
    assert_eq!(host.run(&["policy", "guest", "display=auto"]).0, 0);
    let (_, shown) = host.run(&["policy", "guest"]);
    assert!(
        !shown.lines().any(|line| line.ends_with("asked")),
        "{shown}"
    );
}

#[test]
fn the_log_for_people_and_programs() {
    let host = Host::new();
    let (code, out) = host.run(&["log"]);
    assert_eq!((code, out.as_str()), (0, ""));
    host.fix();
    assert_eq!(host.run(&["policy", "guest", "video=none"]).0, 0);
    let (_, out) = host.run(&["log"]);
    let lines: Vec<&str> = out.lines().collect();
    assert!(lines[0].ends_with("Z  guest  fixed (fixup)"), "{out}");
    assert!(
        lines
            .iter()
            .any(|line| line.starts_with("    gl enabled for spice: ")),
        "{out}"
    );
    assert_eq!(lines[lines.len() - 1], "    video='none'");
    assert_eq!(host.run(&["log", "other"]).1, "");
    assert_eq!(host.run(&["log", UUID]).1, out);
    let (_, json) = host.run(&["log", "guest", "-n", "1", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["entries"].as_array().unwrap().len(), 1);
    let entry = &json["entries"][0];
    assert_eq!(
        (&entry["what"], &entry["by"]),
        (&"policy".into(), &"policy".into())
    );
    assert!(entry["when"].as_str().unwrap().ends_with('Z') && entry["time"].is_u64());
}

#[test]
fn the_program_itself() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_gfxplane"))
            .args(["-c", URI])
            .args(arguments)
            .env_remove("GFXPLANE_ROOT")
            .output()
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (
            output.status.code().unwrap(),
            text(output.stdout),
            text(output.stderr),
        )
    };
    // The test driver's changes are gone with the connection, before they are shown.
    let (code, out, err) = run(&["policy", "test", "display=full"]);
    assert_eq!((code, err.as_str()), (0, "gfxplane: the policy was set\n"));
    assert!(out.starts_with("WORD "), "{out}");
    let (code, _, err) = run(&["undo", "test"]);
    assert!(
        code == 2 && err.contains("leave -c and --root out"),
        "{err}"
    );
}

#[test]
fn nothing_is_defined_that_nobody_has_seen_start() {
    let host = Host::new();
    let before = host.xml();
    // Nothing was measured with a QEMU that does not exist.
    let define = ["fixup", "--define", "--json", "guest"];
    let trial = |out: &str| {
        let document: serde_json::Value = serde_json::from_str(out).unwrap();
        document["trial"].clone()
    };
    *host.libvirt.user.lock().unwrap() = Some(User {
        domain: "holder".into(),
        devices: vec![VGPU.parse().unwrap()],
    });
    let (code, out) = host.run(&define);
    let reason = trial(&out)["reason"].to_string();
    assert!(
        code == 3 && reason.contains("in use by domain holder"),
        "{out}"
    );
    *host.libvirt.user.lock().unwrap() = None;
    *host.libvirt.trial.lock().unwrap() = Some(Start::Refused("no OpenGL today".into()));
    let (code, out) = host.run(&define);
    assert_eq!(code, 1);
    let said = trial(&out);
    assert_eq!(
        (&said["by"], &said["starts"]),
        (&"trial".into(), &false.into())
    );
    assert_eq!(said["message"], "no OpenGL today");
    let (code, out) = host.run(&["fixup", "--define", "--dry-run", "--json", "guest"]);
    assert!(code == 0 && trial(&out).is_null(), "{out}");
    assert_eq!((host.xml(), host.rounds()), (before.clone(), 0));

    *host.libvirt.trial.lock().unwrap() = Some(Start::Starts);
    let (code, out) = host.run(&define);
    assert!(code == 0 && trial(&out)["starts"] == true, "{out}");
    assert!(host.xml().contains("<gl enable='yes'/>"));

    host.define(&domain());
    *host.libvirt.trial.lock().unwrap() = None;
    let (code, out) = host.run(&["fixup", "--define", "--no-trial", "--json", "guest"]);
    assert!(code == 0 && trial(&out).is_null(), "{out}");
    assert!(host.xml().contains("<gl enable='yes'/>"));
}

#[test]
fn what_was_measured_needs_no_trial() {
    let host = Host::new();
    let versions = ["--qemu", "10.0.13", "--libvirt-version", "11.3.0"];
    let (code, out) =
        host.run(&[&["fixup", "--define", "--json", "guest"][..], &versions].concat());
    assert_eq!(code, 0, "{out}");
    assert!(out.contains("\"by\": \"measured\""), "{out}");
}
