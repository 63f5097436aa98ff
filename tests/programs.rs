//! The programs as their callers see them: arguments, exit codes, what goes to stdout.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use gfxplane::host::Root;
use gfxplane::host::run::Lock;

const TOOL: &str = env!("CARGO_BIN_EXE_gfxplane");
const PROBER: &str = env!("CARGO_BIN_EXE_gfxplane-probe");
const HELPER: &str = env!("CARGO_BIN_EXE_gfxplane-helper");
/// A device of host lab that has a record: dmabuf with an EDID.
const DEVICE: &str = "c1a20000-0000-4000-8000-000000000002";

fn lab() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/lab/root")
}

fn run(program: &str, arguments: &[&str]) -> Output {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

#[track_caller]
fn ends(output: &Output, code: i32, stderr: &str) {
    let (out, err) = (text(&output.stdout), text(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{out}{err}");
    assert!(err.contains(stderr), "{err}");
}

#[test]
fn exit_codes_of_the_tool() {
    let root = lab();
    let root = root.to_str().unwrap();
    for (arguments, code, stderr) in [
        (&["--root", root, "list"][..], 0, ""),
        (&["--root", root, "list", "--json"], 0, ""),
        (&["--root", root, "rules"], 0, ""),
        (&["--root", root, "nodedev-list", "--all"], 0, ""),
        (&["--root", root, "nodedev-dumpxml", DEVICE], 0, ""),
        // A recorded host has no devices to open; those with a record are known.
        (&["--root", root, "probe", DEVICE], 0, ""),
        (&["--root", root, "probe", "--fresh", DEVICE], 1, ""),
        (
            &[
                "--root",
                root,
                "probe",
                "00000000-0000-0000-0000-000000000000",
            ],
            3,
            "there is no such vfio device",
        ),
        (&["--root", root, "probe"], 2, "DEVICE"),
        (
            &["--root", root, "probe", "gpu"],
            2,
            "\"gpu\" is not a device",
        ),
        (
            &["--root", root, "probe", "--deadline", "0", DEVICE],
            2,
            "--deadline is 0",
        ),
        (
            &["--root", root, "nodedev-dumpxml", "gpu"],
            3,
            "there is no vfio device or mdev parent \"gpu\"",
        ),
        (
            &["--root", "/nonexistent", "list"],
            3,
            "there is no such directory",
        ),
        (&["lst"], 2, "unrecognized subcommand"),
        (&[], 2, "Usage"),
        (&["--version"], 0, ""),
        (&["nodedev-dumpxml", "-c", "nonsense:///", DEVICE], 3, ""),
    ] {
        ends(&run(TOOL, arguments), code, stderr);
    }
}

#[test]
fn nobody_reading_is_no_failure() {
    let script = format!("{TOOL} --root {} list --json | head -1", lab().display());
    let output = run("bash", &["-c", &format!("set -o pipefail; {script}")]);
    ends(&output, 0, "");
    assert_eq!(text(&output.stdout), "{\n");
}

#[test]
fn json_has_a_format() {
    let root = lab();
    for arguments in [
        &["list", "--json"][..],
        &["rules", "--json"],
        &["probe", "--json", DEVICE],
    ] {
        let output = Command::new(TOOL)
            .args(arguments)
            .env("GFXPLANE_ROOT", &root)
            .output()
            .unwrap();
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!(json["format"], 1, "{arguments:?}");
    }
}

#[test]
fn a_broken_configuration_is_named_and_left_out() {
    let host = Host::new();
    host.write(
        "etc/gfxplane/gfxplane.toml",
        "attributes = 'off'\nprob = 'all'\n",
    );
    host.write("etc/gfxplane/rules.d/mine.toml", "[[rule]]\nname = 'x'\n");
    let output = run(TOOL, &["--root", host.path(), "probe", "--all"]);
    ends(&output, 1, "gfxplane.toml: ignored:");
    ends(&output, 1, "mine.toml: ignored:");
    ends(&output, 1, "unknown field `prob`");
    assert!(
        run(TOOL, &["--root", host.path(), "-q", "list"])
            .stderr
            .is_empty()
    );
}

#[test]
fn the_prober_alone() {
    let root = lab();
    let root = root.to_str().unwrap();
    ends(&run(PROBER, &["--root", root, DEVICE]), 0, "");
    ends(&run(PROBER, &["--udev", "gpu"]), 2, "is not a device");
    ends(&run(PROBER, &[]), 2, "DEVICE");
    // No such device here: its child says so, and udev still gets a property.
    let child = run(PROBER, &["--udev", "00000000-0000-0000-0000-00000000ffff"]);
    ends(&child, 0, "");
    assert_eq!(
        text(&child.stdout),
        "GFXPLANE_DISPLAY=unknown\nGFXPLANE_DISPLAY_REASON=vanished\n"
    );
}

/// A host of our own with one mdev that has a record.
struct Host(tempfile::TempDir);

impl Host {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let copied = Command::new("cp")
            .args(["-a"])
            .arg(lab().join("."))
            .arg(directory.path())
            .status()
            .unwrap();
        assert!(copied.success());
        Host(directory)
    }

    fn path(&self) -> &str {
        self.0.path().to_str().unwrap()
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// Calls the helper as mdevctl does: by a process that was started with these words. `helper`
    /// is the file by which it is called.
    fn called_by(&self, caller: &[&str], helper: &Path, call: &[&str]) -> Output {
        let script = self.0.path().join("caller");
        let words: Vec<String> = call.iter().map(|word| format!("'{word}'")).collect();
        fs::write(
            &script,
            format!("{} {}\nexit $?\n", helper.display(), words.join(" ")),
        )
        .unwrap();
        // A shell that carries the caller's name and reads the script from stdin; its further
        // words are parameters to it.
        let (name, rest) = caller.split_first().unwrap();
        let shell = self.0.path().join(name);
        // A link: a copy might still be open for writing in a child of another test (ETXTBSY).
        std::os::unix::fs::symlink("/bin/bash", &shell)
            .or_else(|error| if shell.exists() { Ok(()) } else { Err(error) })
            .unwrap();
        // bash takes its first word for a script: let that be one.
        fs::create_dir_all(self.0.path().join("cwd")).unwrap();
        let first = rest.first().copied().unwrap_or("script");
        fs::copy(&script, self.0.path().join("cwd").join(first)).unwrap();
        Command::new(&shell)
            .args(if rest.is_empty() { &["script"] } else { rest })
            .current_dir(self.0.path().join("cwd"))
            .env("GFXPLANE_ROOT", self.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn attributes(&self, caller: &[&str]) -> Output {
        self.called_by(caller, Path::new(HELPER), &get_attributes(DEVICE))
    }
}

fn get_attributes(uuid: &str) -> Vec<&str> {
    vec![
        "-t",
        "mbochs-small",
        "-e",
        "get",
        "-a",
        "attributes",
        "-s",
        "none",
        "-u",
        uuid,
        "-p",
        "mbochs",
    ]
}

#[test]
fn the_callout_answers_those_who_list_and_nobody_else() {
    let host = Host::new();
    for caller in [&["mdevctl", "list", "--dumpjson"][..], &["lsmdev"]] {
        let output = host.attributes(caller);
        ends(&output, 0, "");
        let attributes: Vec<serde_json::Map<String, serde_json::Value>> =
            serde_json::from_slice(&output.stdout).unwrap();
        assert!(
            attributes
                .iter()
                .all(|a| a.len() == 1 && a.values().all(serde_json::Value::is_string))
        );
        assert_eq!(attributes[0]["gfxplane.display"], "dmabuf");
    }
    for caller in [
        &["mdevctl", "define", "-u"][..],
        &["mdevctl", "modify"],
        &["bash2", "list"],
    ] {
        let output = host.attributes(caller);
        ends(&output, 2, "");
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn the_callout_leaves_everything_else_alone() {
    let host = Host::new();
    for event in ["pre", "post", "get", "live", "soon"] {
        for action in [
            "start",
            "stop",
            "define",
            "undefine",
            "modify",
            "capabilities",
            "dance",
        ] {
            let call = [
                "-t", "t", "-e", event, "-a", action, "-s", "none", "-u", DEVICE, "-p", "mbochs",
            ];
            let output = host.called_by(&["mdevctl", "list"], Path::new(HELPER), &call);
            ends(&output, 2, "");
            assert!(output.stdout.is_empty());
        }
    }
    for uuid in [
        "00000000-0000-0000-0000-00000000ffff",
        "",
        "../../etc/passwd",
        "--help",
    ] {
        let output = host.called_by(
            &["mdevctl", "list"],
            Path::new(HELPER),
            &get_attributes(uuid),
        );
        ends(&output, 2, "");
        assert!(output.stdout.is_empty(), "no record, no attributes: {uuid}");
    }
}

#[test]
fn attributes_can_be_switched_off() {
    let host = Host::new();
    host.write("etc/gfxplane/conf.d/off.toml", "attributes = 'off'");
    ends(&host.attributes(&["mdevctl", "list"]), 2, "");
}

#[test]
fn a_record_of_other_circumstances_says_nothing() {
    let host = Host::new();
    host.write("proc/sys/kernel/osrelease", "6.13.0\n");
    ends(&host.attributes(&["mdevctl", "list"]), 2, "");
}

/// mdevctl asks the old directory last, so there is our turn if somebody else is in it.
#[test]
fn vendors_in_the_old_directory_come_first() {
    let host = Host::new();
    host.write("etc/mdevctl.d/scripts.d/callouts/99-gfxplane", "");
    ends(&host.attributes(&["mdevctl", "list"]), 0, "");
    host.write("etc/mdevctl.d/scripts.d/callouts/vendor", "#!/bin/sh\n");
    ends(&host.attributes(&["mdevctl", "list"]), 2, "");
}

/// On another libvirt than this host's, what is known here says nothing.
#[cfg(feature = "libvirt")]
#[test]
fn through_libvirt() {
    let test = ["-c", "test:///default"];
    let dump =
        |device: &'static str| run(TOOL, &[&test[..], &["nodedev-dumpxml", device]].concat());
    let output = dump("computer");
    ends(&output, 0, "");
    let xml = text(&output.stdout);
    assert!(
        xml.contains("<name>computer</name>") && !xml.contains("vfio_display"),
        "{xml}"
    );
    ends(&dump("gpu"), 3, "libvirt:");
    ends(&run(TOOL, &[&test[..], &["nodedev-list"]].concat()), 0, "");
    ends(
        &run(TOOL, &["-c", "qemu+ssh://elsewhere/system", "nodedev-list"]),
        2,
        "leave -c out",
    );
}

#[test]
fn definitions_are_cleaned() {
    let host = Host::new();
    let dirty = r#"{"mdev_type":"mbochs-small","start":"manual","attrs":[{"gfxplane.display":"dmabuf"},{"a":"1"}]}"#;
    let path = format!("etc/mdevctl.d/mbochs/{DEVICE}");
    for (action, state, cleaned) in [
        ("define", "success", true),
        ("modify", "success", true),
        ("define", "failure", false),
        ("undefine", "success", false),
    ] {
        host.write(&path, dirty);
        let call = [
            "-t", "t", "-e", "notify", "-a", action, "-s", state, "-u", DEVICE, "-p", "mbochs",
        ];
        ends(
            &host.called_by(&["mdevctl", action], Path::new(HELPER), &call),
            0,
            "",
        );
        let text = fs::read_to_string(host.0.path().join(&path)).unwrap();
        assert_eq!(!text.contains("gfxplane"), cleaned, "{action} {state}");
        assert!(text.contains("\"a\""));
    }
    host.write(&path, "{");
    let call = [
        "-t", "t", "-e", "notify", "-a", "define", "-s", "success", "-u", DEVICE, "-p", "mbochs",
    ];
    ends(
        &host.called_by(&["mdevctl", "define"], Path::new(HELPER), &call),
        1,
        "taking gfxplane's attributes",
    );
    assert_eq!(
        fs::read_to_string(host.0.path().join(&path)).unwrap(),
        "{",
        "what can't be read is left as it is"
    );
}

#[test]
fn a_start_waits_for_the_probe_but_not_for_ever() {
    let host = Host::new();
    host.write("etc/gfxplane/gfxplane.toml", "deadline = 0.5");
    let call = [
        "-t", "t", "-e", "notify", "-a", "start", "-s", "success", "-u", DEVICE, "-p", "mbochs",
    ];
    let start = || host.called_by(&["mdevctl", "start"], Path::new(HELPER), &call);
    ends(&start(), 0, "");
    let root = Root::recorded(host.path());
    let lock = Lock::of_device(&root, DEVICE.parse().unwrap()).unwrap();
    ends(&start(), 1, "is still being probed");
    // Somebody lets go in time.
    host.write("etc/gfxplane/gfxplane.toml", "deadline = 60");
    let began = Instant::now();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(300));
            drop(lock);
        });
        ends(&start(), 0, "");
    });
    assert!(began.elapsed() >= Duration::from_millis(300));
}

#[test]
fn the_bare_capability() {
    let host = Host::new();
    let output = Command::new(HELPER)
        .args(["capability", DEVICE])
        .env("GFXPLANE_ROOT", host.path())
        .output()
        .unwrap();
    ends(&output, 0, "");
    let xml = text(&output.stdout);
    let capability = roxmltree::Document::parse(&xml).unwrap();
    assert_eq!(
        capability.root_element().attribute("type"),
        Some("vfio_display")
    );
    let output = Command::new(HELPER)
        .args(["capability", "gpu"])
        .env("GFXPLANE_ROOT", host.path())
        .output()
        .unwrap();
    ends(&output, 1, "there is no vfio device");
    ends(&run(HELPER, &["--help"]), 2, "usage");
}
