//! The programs as their callers see them: arguments, exit codes, what goes to stdout.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use gfxplane::host::Root;
use gfxplane::host::run::Lock;
use nix::sys::signal::{Signal, kill};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, mkfifo};

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

/// What filters the text of others lets the colours of a page through.
#[test]
fn pages_have_colours() {
    let root = lab();
    let message = "vfio-display-dmabuf: opengl not available";
    for verb in [
        &["list"][..],
        &["doctor"],
        &["rules"],
        &["explain", message],
    ] {
        let mut arguments = vec!["--host", root.to_str().unwrap(), "--color", "always"];
        arguments.extend(verb);
        let out = text(&run(TOOL, &arguments).stdout);
        assert!(out.contains("\u{1b}[1m"), "{verb:?}: {out}");
        assert!(!out.contains('\u{fffd}'), "{verb:?}: {out}");
    }
}

/// A message is wrapped on a terminal, and a line in a file. A fix stays whole, as it is pasted.
#[test]
fn messages_are_wrapped_on_a_terminal() {
    let domain = "tests/fixup/dmabuf-spice-loopback/domain.xml";
    let root = lab();
    let arguments = ["--root", root.to_str().unwrap(), "fixup", domain];
    let in_a_file = text(&run(TOOL, &arguments).stderr);
    let command = format!(
        "unset COLUMNS; stty rows 24 cols 60; {TOOL} {} >/dev/null",
        arguments.join(" ")
    );
    let shown = text(&run("script", &["-qec", &command, "/dev/null"]).stdout);
    let (fixes, words): (Vec<&str>, Vec<&str>) =
        shown.lines().partition(|line| line.contains(" fix: "));
    assert!(
        words.iter().all(|line| line.chars().count() <= 60),
        "{shown}"
    );
    assert!(words.len() > in_a_file.lines().count(), "{shown}");
    assert!(
        fixes.iter().all(|fix| in_a_file.contains(fix)) && !fixes.is_empty(),
        "{shown}"
    );
    let joined = |text: &str| text.split_whitespace().collect::<String>();
    assert_eq!(joined(&shown), joined(&in_a_file));
}

/// KubeVirt 1.9 writes domains of type hyperv for QEMU on Microsoft's hypervisor.
#[test]
fn domains_that_are_not_qemus() {
    let alone = Alone::new();
    let (root, file) = (lab(), alone.0.path().join("d.xml"));
    let of_type = |kind: &str, verb: &[&str]| {
        let hostdev = format!(
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on'><source><address uuid='{DEVICE}'/></source></hostdev>"
        );
        let text = format!(
            "<domain type='{kind}'><name>d</name><devices><graphics type='vnc'/>{hostdev}</devices></domain>"
        );
        fs::write(&file, text).unwrap();
        let mut arguments = vec!["--root", root.to_str().unwrap()];
        arguments.extend(verb);
        arguments.push(file.to_str().unwrap());
        run(TOOL, &arguments)
    };
    for kind in ["kvm", "hyperv"] {
        let output = of_type(kind, &["check"]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
    }
    for kind in ["xen", "test", "lxc"] {
        let words = format!("not looked at: a domain of type '{kind}' is not QEMU's");
        let output = of_type(kind, &["check"]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
        let said = text(&output.stdout);
        assert!(said.starts_with("WARN") && said.contains(&words), "{said}");
        let json = text(&of_type(kind, &["check", "--json"]).stdout);
        assert!(json.contains(&format!("\"foreign\": \"{kind}\"")), "{json}");
        ends(
            &of_type(kind, &["fixup"]),
            0,
            &format!("nothing to do: {words}"),
        );
    }
}

/// Ansible runs a fact that is executable, and reads any other.
#[test]
fn an_export_is_a_whole_file() {
    use std::os::unix::fs::PermissionsExt;
    let alone = Alone::new();
    let (root, directory) = (lab(), alone.0.path().join("d"));
    fs::create_dir(&directory).unwrap();
    let file = directory.join("f");
    let export = |format: &str, more: &[&str]| {
        let mut arguments = vec!["--root", root.to_str().unwrap(), "export", format];
        if format == "nova" {
            arguments.extend(["--node", "n"]);
        }
        arguments.extend(more);
        run(TOOL, &arguments)
    };
    for format in ["prometheus", "ansible", "nova"] {
        let printed = export(format, &[]);
        let written = export(format, &["-o", file.to_str().unwrap()]);
        assert_eq!(written.status.code(), Some(0), "{written:?}");
        assert!(written.stdout.is_empty());
        assert_eq!(fs::read(&file).unwrap(), printed.stdout);
        let mode = fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o100 != 0, format == "ansible", "{mode:o}");
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1);
    }
    let lost = export("nfd", &["-o", "/nonexistent/f"]);
    ends(&lost, 3, "/nonexistent/f: No such file");
    // Nothing can be made there, and the file that could not be made is not the user's.
    let lost = export("nfd", &["-o", "/proc/f"]);
    ends(&lost, 3, "gfxplane: /proc/f: ");
    assert!(!text(&lost.stderr).contains("tmp"), "{lost:?}");
    let printed = export("nova", &[]).stdout;
    assert_eq!(export("nova", &["-o", "-"]).stdout, printed);
    // A link stays one, and what is no file is written to.
    let link = directory.join("l");
    std::os::unix::fs::symlink(&file, &link).unwrap();
    fs::remove_file(&file).unwrap();
    fs::write(&file, "").unwrap();
    export("nova", &["-o", link.to_str().unwrap()]);
    assert!(link.is_symlink());
    assert_eq!(fs::read(&file).unwrap(), printed);
    let fifo = directory.join("p");
    mkfifo(&fifo, Mode::S_IRWXU).unwrap();
    let mut reader = File::options().read(true).write(true).open(&fifo).unwrap();
    export("nova", &["-o", fifo.to_str().unwrap()]);
    let mut read = vec![0; printed.len()];
    reader.read_exact(&mut read).unwrap();
    assert_eq!(read, printed);
    assert!(!fs::metadata(&fifo).unwrap().is_file());
}

#[test]
fn options_of_another_export() {
    let root = lab();
    let export = |rest: &[&str]| {
        let mut arguments = vec!["--root", root.to_str().unwrap(), "export"];
        arguments.extend(rest);
        run(TOOL, &arguments)
    };
    for format in ["prometheus", "nfd", "ansible"] {
        let refused = export(&[format, "--node", "n"]);
        ends(&refused, 2, "--node is an option of gfxplane export nova");
    }
    for format in ["prometheus", "nova", "ansible"] {
        let refused = export(&[format, "--valid", "1d"]);
        ends(&refused, 2, "--valid is an option of gfxplane export nfd");
    }
    for valid in ["1m", "1d", "1y"] {
        ends(&export(&["nfd", "--valid", valid]), 0, "");
    }
    for valid in ["", "0s", "59s", "-1d", "2y", "500000000000y", "soon"] {
        let refused = export(&["nfd", &format!("--valid={valid}")]);
        ends(&refused, 2, "expected a time from 1m (a minute) to 1y");
    }
    for node in ["", " ", "a\nb", "a\tb"] {
        let refused = export(&["nova", "--node", node]);
        ends(
            &refused,
            2,
            "expected the name that openstack hypervisor list prints",
        );
    }
    ends(&export(&["nova", "--node", "don't"]), 0, "");
    // Placement takes names of 200 characters, and NODE_pci_0000_41_00_0 has 17 of its own.
    let host = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/hosts/nvidia-sriov/root");
    for (length, is_taken) in [(183, true), (184, false)] {
        let node = "ü".repeat(length);
        let host = host.to_str().unwrap();
        let made = run(TOOL, &["--root", host, "export", "nova", "--node", &node]);
        assert_eq!(text(&made.stdout).contains("CUSTOM_"), is_taken, "{made:?}");
        let said = text(&made.stderr).contains("accepts names of at most 200 characters");
        assert_eq!(said, !is_taken, "{made:?}");
    }
    ends(&export(&[]), 2, "<FORMAT>");
    ends(&export(&["copies", "-o", "f"]), 2, "--output is of no use");
}

/// When a device was asked is told by its record alone, if that can be read.
#[test]
fn a_damaged_record_has_no_time() {
    let host = Host::new();
    let sample = format!("gfxplane_record_timestamp_seconds{{device=\"{DEVICE}\"}}");
    let export = || text(&run(TOOL, &["--root", host.path(), "export", "prometheus"]).stdout);
    assert!(export().contains(&sample));
    host.write(&format!("run/gfxplane/records/{DEVICE}.json"), "{");
    assert!(!export().contains(&sample));
}

/// What the daemon has written is copied to where the settings say, and nowhere else.
#[test]
fn a_copy_of_what_the_daemon_has_written() {
    let alone = Alone::new();
    let root = alone.0.path().join("root");
    let made = root.join("run/gfxplane/export");
    for directory in [&made, &root.join("etc/gfxplane"), &root.join("sys")] {
        fs::create_dir_all(directory).unwrap();
    }
    for format in ["prometheus", "nfd"] {
        fs::write(made.join(format), format!("{format}\n")).unwrap();
    }
    let copy = || {
        run(
            TOOL,
            &["--root", root.to_str().unwrap(), "export", "copies"],
        )
    };
    ends(&copy(), 0, "");
    let file = alone.0.path().join("f");
    let set = |text: &str| fs::write(root.join("etc/gfxplane/gfxplane.toml"), text).unwrap();
    set(&format!("export = {{ nfd = {file:?} }}"));
    ends(&copy(), 0, "");
    assert_eq!(fs::read_to_string(&file).unwrap(), "nfd\n");
    let first = File::open(&file).unwrap();
    ends(&copy(), 0, "");
    let inode = |file: &File| std::os::unix::fs::MetadataExt::ino(&file.metadata().unwrap());
    assert_eq!(inode(&File::open(&file).unwrap()), inode(&first));
    fs::remove_file(made.join("nfd")).unwrap();
    ends(&copy(), 0, "");
    assert_eq!(fs::read_to_string(&file).unwrap(), "nfd\n");
    set("export = { prometheus = '/nonexistent/f' }");
    ends(&copy(), 3, "/nonexistent/f: No such file");
    set("export = { prometheus = 'f' }");
    ends(&copy(), 0, "expected a path that begins with /");
}

#[test]
fn exit_codes_of_the_tool() {
    let alone = Alone::new();
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
            "this host has no such device: gfxplane list",
        ),
        // Its record came by its group, so it answers for that.
        (&["--root", root, "probe", "--path", "group", DEVICE], 0, ""),
        (&["--root", root, "probe", "--path", "cdev", DEVICE], 1, ""),
        (
            &["--root", root, "probe", "--path", "iommufd", DEVICE],
            2,
            "expected group or cdev",
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
            &["--root", root, "probe", "--type", "mdpy", "--instantiate"],
            2,
            "expected PARENT/TYPE",
        ),
        (
            &["--root", root, "probe", "--type", "mdpy/x", "--instantiate"],
            3,
            "no parent here has it",
        ),
        (
            &[
                "--root",
                root,
                "probe",
                "--type",
                "mdpy/mdpy-hd",
                "--instantiate",
                "--force",
            ],
            3,
            "recorded host",
        ),
        (
            &["--root", root, "probe", "--type", "mdpy/mdpy-hd", "--force"],
            2,
            "--instantiate",
        ),
        (
            &["--root", root, "nodedev-dumpxml", "gpu"],
            3,
            "there is no vfio device or mdev parent \"gpu\": gfxplane nodedev-list --offline",
        ),
        (
            &["--root", "/nonexistent", "list"],
            3,
            "there is no such directory",
        ),
        (&["--host", "/dev/null", "list"], 3, "it is no directory"),
        (
            &["--host", "/dev/fd", "list"],
            3,
            "it is not a recorded host: it has no directory sys",
        ),
        // As collect makes it
        (&["--host", &format!("{root}/.."), "list"], 0, ""),
        (
            &[
                "--root",
                root,
                "nodedev-dumpxml",
                &format!("/sys/bus/mdev/devices/{DEVICE}/"),
            ],
            0,
            "",
        ),
        (
            &["--root", root, "probe", "--deadline", "x", DEVICE],
            2,
            "expected a number of seconds",
        ),
        (
            &["--root", root, "log", "-n", "x"],
            2,
            "expected a whole number",
        ),
        (
            &["--root", root, "check", ""],
            2,
            "the name of the domain is empty",
        ),
        (
            &["--root", root, "fixup", ""],
            2,
            "the name of the domain is empty",
        ),
        (
            &["--root", root, "check", "g", "--policy", "x"],
            2,
            "expected asked, auto, full or off",
        ),
        (
            &["--root", root, "check", "/nonexistent"],
            3,
            "/nonexistent: No such file or directory\n",
        ),
        (
            &["--root", root, "fixup", "--define", "guest"],
            2,
            "recorded host",
        ),
        (&["lst"], 2, "unrecognized subcommand"),
        (&["--root", root], 0, ""),
        (&["--version"], 0, ""),
        (&["nodedev-dumpxml", "-c", "nonsense:///", DEVICE], 3, ""),
    ] {
        ends(&run(TOOL, arguments), code, stderr);
        ends(&alone.run(arguments), code, stderr);
    }
}

/// A FIFO in the place of a file or of a directory makes nobody wait, and is not replaced.
#[test]
fn a_fifo_holds_nobody_up() {
    let alone = Alone::new();
    let root = alone.0.path().join("root");
    for directory in ["etc/gfxplane", "run/gfxplane", "sys"] {
        fs::create_dir_all(root.join(directory)).unwrap();
    }
    let fifo = |path: &Path| mkfifo(path, Mode::S_IRUSR | Mode::S_IWUSR).unwrap();
    let to = alone.0.path().join("to");
    let set = format!("export = {{ nfd = {:?} }}", to.join("f"));
    fs::write(root.join("etc/gfxplane/gfxplane.toml"), set).unwrap();
    let copy = || {
        run(
            TOOL,
            &["--root", root.to_str().unwrap(), "export", "copies"],
        )
    };
    let export = root.join("run/gfxplane/export");
    fifo(&export);
    fifo(&to);
    ends(&copy(), 3, "/to/f: Not a directory");
    fs::remove_file(&export).unwrap();
    fs::create_dir(&export).unwrap();
    fifo(&export.join("nfd"));
    ends(&copy(), 3, "it is no regular file");
    fs::remove_file(export.join("nfd")).unwrap();
    fs::write(export.join("nfd"), "nfd\n").unwrap();
    ends(&copy(), 3, "/to/f: Not a directory");
    fs::remove_file(&to).unwrap();
    fs::create_dir(&to).unwrap();
    fifo(&to.join("f"));
    ends(&copy(), 3, "it is no regular file");
}

/// The shells ask for a word after the program's name.
#[test]
fn nothing_completes_the_programs_own_name() {
    for (place, words) in [
        ("0", &[][..]),
        ("0", &["--", "gfxplane"]),
        ("7", &["--", "gfxplane"]),
        ("1", &[]),
    ] {
        let output = Command::new(TOOL)
            .env("_GFXPLANE_COMPLETE", place)
            .args(words)
            .output()
            .unwrap();
        ends(&output, 0, "");
        assert_eq!(text(&output.stdout), "", "{place} {words:?}");
    }
}

/// Guests that could not be asked are not "no guests".
#[test]
fn the_overview_says_that_guests_are_not_known() {
    let uri = "qemu+unix:///system?socket=/nonexistent";
    let why = "Failed to connect socket to '/nonexistent'";
    let output = run(TOOL, &["-c", uri]);
    ends(&output, 3, "");
    let said = text(&output.stdout);
    assert!(
        said.starts_with("WARN") && said.contains(", guests are not known"),
        "{said}"
    );
    assert!(said.contains("fix: virsh -c 'qemu+unix:"), "{said}");
    let output = run(TOOL, &["-c", uri, "--json"]);
    ends(&output, 3, "");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(found["worst"], "warn", "{found}");
    let unknown = &found["guests_unknown"];
    assert!(unknown["text"].as_str().unwrap().contains(why), "{unknown}");
    // check --all ends in the same way.
    ends(&run(TOOL, &["-c", uri, "check", "--all"]), 3, why);
}

/// A domain of a recorded host has the commands that its owner types.
#[test]
fn a_domain_of_a_recorded_host_has_a_name() {
    let host = Host::new();
    let hostdev = "<hostdev type='mdev' model='vfio-pci' display='on'><source><address uuid='c1a20000-0000-4000-8000-000000000099'/></source></hostdev>";
    let text_of = |name: &str| {
        format!(
            "<domain type='kvm'><name>{name}</name><devices>{hostdev}<graphics type='vnc'/></devices></domain>"
        )
    };
    host.write("etc/libvirt/qemu/g one.xml", &text_of("g one"));
    host.write("etc/libvirt/qemu/cut.xml", "<domain>");
    let command = "fix: virsh -c qemu:///system edit 'g one' # name a device that this host has";
    let check = |arguments: &[&str]| {
        let mut all = vec!["--root", host.path(), "check"];
        all.extend(arguments);
        Command::new(TOOL)
            .args(all)
            .env("COLUMNS", "200")
            .output()
            .unwrap()
    };
    for arguments in [&["g one"][..], &["--all"]] {
        let said = text(&check(arguments).stdout);
        assert!(said.contains(command), "{said}");
    }
    let overview = Command::new(TOOL)
        .args(["--root", host.path()])
        .env("COLUMNS", "200")
        .output();
    let overview = text(&overview.unwrap().stdout);
    assert!(overview.contains(command), "{overview}");
    assert!(
        overview.contains("its definition can't be read: line 1"),
        "{overview}"
    );
    let output = check(&["--all", "--json"]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    let verdicts: Vec<&str> = found["domains"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["verdict"].as_str().unwrap())
        .collect();
    assert_eq!(verdicts, ["FAIL", "FAIL"], "{found}");
}

/// The tool without gfxplane-libvirt beside it. It does what a tool does that was built without the feature.
struct Alone(tempfile::TempDir);

impl Alone {
    fn new() -> Self {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
        // Not a copy: one that this process has written might still be open in a child of another test, and then it
        // can't be executed (ETXTBSY).
        for (program, name) in [(TOOL, "gfxplane"), (PROBER, "gfxplane-probe")] {
            fs::hard_link(program, directory.path().join(name)).unwrap();
        }
        Alone(directory)
    }

    fn run(&self, arguments: &[&str]) -> Output {
        run(self.0.path().join("gfxplane").to_str().unwrap(), arguments)
    }
}

#[test]
fn who_needs_libvirt_and_has_none_is_told() {
    let alone = Alone::new();
    for (arguments, fix) in [
        (&["check", "guest"][..], "give the domain's XML as a file"),
        (&["fixup", "guest"], "give the domain's XML as a file"),
        (
            &["fixup", "--define", "guest"],
            "give the domain's XML as a file",
        ),
        (&["undo", "guest"], "install one that has it"),
        (&["policy", "guest"], "install one that has it"),
        (&["nodedev-list"], "use --offline"),
        (&["nodedev-dumpxml", DEVICE], "use --offline"),
    ] {
        let output = alone.run(arguments);
        ends(&output, 3, "built or installed without libvirt");
        ends(&output, 3, fix);
    }
}

#[test]
fn messages_logs_and_hosts_are_explained() {
    let host = Host::new();
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let case = |name: &str| tests.join("explain").join(name);
    let read = |path: PathBuf| fs::read_to_string(path).unwrap();
    let log = read(case("log-dmabuf-without-opengl").join("log"));
    host.write("var/log/libvirt/qemu/guest.log", &log);
    let xml = case("log-dmabuf-without-opengl").join("domain.xml");
    let xml = xml.to_str().unwrap();
    host.write("etc/libvirt/qemu/guest.xml", &read(xml.into()));
    let alone = Alone::new();
    let explain = |arguments: &[&str]| {
        let mut all = vec!["--root", host.path(), "explain"];
        all.extend(arguments);
        let output = run(TOOL, &all);
        assert_eq!(alone.run(&all), output, "{all:?}");
        output
    };
    let known = "vfio-display-dmabuf: opengl not available";
    for (arguments, code, stderr) in [
        (&[known][..], 0, ""),
        (&[known, "--domain", xml], 0, ""),
        (&["--domain", xml], 0, ""),
        // The recording has it.
        (&["--domain", "guest"], 0, ""),
        (&["--domain", ""], 2, "the name of the domain is empty"),
        (&[""], 2, "the message is empty"),
        (&["no space left on device"], 1, "is not known"),
        (&["--json", "no space left on device"], 1, "is not known"),
        (&["kein Gerät"], 1, "LC_ALL=C"),
        (&[], 2, "<MESSAGE>"),
        (&["--domain", "/nowhere.xml"], 3, "/nowhere.xml"),
    ] {
        ends(&explain(arguments), code, stderr);
    }
    let json =
        |output: &Output| -> serde_json::Value { serde_json::from_slice(&output.stdout).unwrap() };
    let found = json(&explain(&["--json", "--domain", xml]));
    assert_eq!(
        (&found["format"], &found["domain"]),
        (&1.into(), &"guest".into())
    );
    assert_eq!(found["log"]["began"], "2026-11-22T18:34:30Z");
    let explained = &found["explained"][0];
    assert_eq!(explained["symptom"], "opengl-missing");
    assert_eq!(explained["device"], DEVICE);
    let fix = explained["fixes"][0]["command"].as_str().unwrap();
    assert!(
        fix.starts_with(&format!("gfxplane fixup {xml} ")) && fix.contains(" > NEW.xml"),
        "{fix}"
    );
    // Commands name the file, which libvirt need not have.
    let fixes = explained["fixes"].as_array().unwrap();
    let edit = fixes.iter().filter_map(|fix| fix["command"].as_str());
    let edit: Vec<&str> = edit.filter(|fix| fix.contains("EDITOR")).collect();
    assert!(
        edit.iter().all(|fix| fix.contains(xml)) && !edit.is_empty(),
        "{explained}"
    );
    assert!(
        explained["diff"].as_str().unwrap().contains("\n+"),
        "{explained}"
    );
    // Without a log, what is predicted of the domain.
    fs::remove_file(host.0.path().join("var/log/libvirt/qemu/guest.log")).unwrap();
    let output = explain(&["--domain", xml]);
    ends(&output, 0, "has no log");
    assert!(
        text(&output.stdout).contains(known),
        "{}",
        text(&output.stdout)
    );

    // As the host was recorded nobody looked for what doctor wants.
    fs::remove_file(host.0.path().join("etc/libvirt/qemu/guest.xml")).unwrap();
    let output = run(TOOL, &["--root", host.path(), "doctor", "--json"]);
    ends(&output, 0, "");
    let said = json(&output);
    assert_eq!(
        (&said["format"], &said["verdict"]),
        (&1.into(), &"WARN".into())
    );
    let lines = said["lines"].as_array().unwrap();
    assert!(
        lines
            .iter()
            .any(|line| line["what"] == "vfio" && line["verdict"] == "SKIP")
    );
}

#[test]
fn nobody_reading_is_no_failure() {
    let script = format!("{TOOL} --root {} list --json | head -1", lab().display());
    let output = run("bash", &["-c", &format!("set -o pipefail; {script}")]);
    ends(&output, 0, "");
    assert_eq!(text(&output.stdout), "{\n");
}

/// The output is not gfxplane's fault.
#[test]
fn a_full_disk_is_named() {
    let host = Host::new();
    for verb in [
        &[][..],
        &["list"],
        &["list", "--json"],
        &["nodedev-list"],
        &["check", "--all"],
    ] {
        host.write(
            "etc/libvirt/qemu/g.xml",
            "<domain type='kvm'><name>g</name></domain>",
        );
        let output = Command::new(TOOL)
            .args(["--root", host.path()])
            .args(verb)
            .stdout(File::options().write(true).open("/dev/full").unwrap())
            .output()
            .unwrap();
        ends(
            &output,
            3,
            "gfxplane: the output can't be written: No space left on device",
        );
    }
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
    ends(&output, 1, "there is no key `prob`");
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
    let manner = ["--child", DEVICE, "1", "--kvm", "--path=iommufd"];
    ends(&run(PROBER, &manner), 2, "--child ID PID");
    // No such device here: its child says so, and udev still gets a property.
    let child = run(PROBER, &["--udev", "00000000-0000-0000-0000-00000000ffff"]);
    ends(&child, 0, "");
    assert_eq!(
        text(&child.stdout),
        "GFXPLANE_DISPLAY=unknown\nGFXPLANE_DISPLAY_REASON=vanished\n\
         ID_VFIO_DISPLAY=unknown\nID_VFIO_DISPLAY_REASON=vanished\n"
    );
}

/// Whoever made the device may have been ended by a signal to all of its service or terminal.
#[test]
fn a_keeper_outlives_its_maker() {
    let mut keeper = Command::new(PROBER)
        .args(["--keep", "00000000-0000-0000-0000-00000000ffff"])
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    let pid = Pid::from_raw(keeper.id().cast_signed());
    let status = format!("/proc/{pid}/status");
    // SIGHUP, SIGINT and SIGTERM.
    let blocks = |line: &str| line.starts_with("SigBlk:") && line.ends_with("4003");
    while !fs::read_to_string(&status).unwrap().lines().any(blocks) {
        assert!(keeper.try_wait().unwrap().is_none(), "it waits for us");
        std::thread::sleep(Duration::from_millis(5));
    }
    for signal in [Signal::SIGHUP, Signal::SIGINT, Signal::SIGTERM] {
        kill(pid, signal).unwrap();
    }
    drop(keeper.stdin.take());
    let status = keeper.wait().unwrap();
    assert!(status.code().is_some(), "{status}");
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

/// An answer is kept and given again until something changes that it was made of.
#[test]
fn the_callout_answers_again() {
    let host = Host::new();
    let kept = format!("run/gfxplane/answers/{DEVICE}");
    let list = || {
        let output = host.attributes(&["mdevctl", "list"]);
        ends(&output, 0, "");
        String::from_utf8(output.stdout).unwrap()
    };
    let first = list();
    let kept_now = || fs::read_to_string(host.0.path().join(&kept)).ok();
    assert_eq!(kept_now(), None, "nobody has made the directory");
    fs::create_dir_all(host.0.path().join("run/gfxplane/answers")).unwrap();
    assert_eq!(list(), first);
    // The helper prints the kept answer as it is: the test puts other words into it.
    let other_words = || {
        let text = kept_now().unwrap();
        assert!(text.ends_with(&first), "{text}");
        host.write(&kept, &text.replace("dmabuf", "region"));
    };
    other_words();
    assert_ne!(list(), first);

    let record = format!("run/gfxplane/records/{DEVICE}.json");
    let text = fs::read_to_string(host.0.path().join(&record)).unwrap();
    host.write(&record, &text);
    assert_eq!(list(), first, "the record was written again");

    other_words();
    let driver = host
        .0
        .path()
        .join(format!("sys/bus/mdev/devices/{DEVICE}/driver"));
    let target = fs::read_link(&driver).unwrap();
    std::os::unix::fs::symlink(&target, driver.with_extension("new")).unwrap();
    fs::rename(driver.with_extension("new"), &driver).unwrap();
    assert_eq!(list(), first, "the device was bound again");

    other_words();
    let parent = driver.with_file_name("..");
    fs::create_dir_all(parent.join("drm/renderD128")).unwrap();
    assert!(
        list().contains("renderD128"),
        "its parent has a render node"
    );
    fs::remove_dir_all(parent.join("drm")).unwrap();

    assert_eq!(list(), first, "and has none");
    other_words();
    host.write("etc/gfxplane/gfxplane.toml", "");
    assert_eq!(list(), first, "there are settings");
    other_words();
    host.write("etc/gfxplane/conf.d/a.toml", "");
    assert_eq!(list(), first, "there is a directory of settings");
    // A file in it may be written in place, which no time of the directory shows.
    host.write("etc/gfxplane/conf.d/a.toml", "attributes = 'off'");
    ends(&host.attributes(&["mdevctl", "list"]), 2, "");
    host.write("etc/gfxplane/conf.d/a.toml", "");

    let schema = "usr/share/libvirt/schemas/vfio-display.rng";
    assert_eq!(list(), first);
    host.write(schema, "");
    ends(&host.attributes(&["mdevctl", "list"]), 2, "");
    fs::remove_file(host.0.path().join(schema)).unwrap();
    assert_eq!(list(), first, "libvirt tells displays by itself no more");

    fs::write(host.0.path().join(&kept), [0xff; 100_000]).unwrap();
    assert_eq!(list(), first, "what is kept is damaged");
    fs::remove_file(&driver).unwrap();
    ends(&host.attributes(&["mdevctl", "list"]), 2, "");
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

/// Who has the device that a message names, and what a domain is called in the fixes.
#[cfg(feature = "libvirt")]
#[test]
fn a_message_is_about_one_domain() {
    let domain = |name: &str, last: char, device: &str| {
        format!(
            "<domain type='test'><name>{name}</name><uuid>0d0c2f26-4b1a-4c6e-9d52-6f5a1f7b6a0{last}</uuid>\
             <memory>65536</memory><os><type>hvm</type></os><devices><hostdev mode='subsystem' type='mdev' \
             model='vfio-pci'><source><address uuid='{device}'/></source></hostdev></devices></domain>"
        )
    };
    let (shared, own) = (DEVICE, "c1a20000-0000-4000-8000-0000000000aa");
    let host = Host::new();
    let node = [
        domain("one", '1', shared),
        domain("-two", '2', shared),
        domain("my friend's guest", '3', own),
    ];
    host.write("node.xml", &format!("<node>{}</node>", node.concat()));
    let uri = format!("test://{}/node.xml", host.path());
    let explain = |message: &str| run(TOOL, &["-c", &uri, "explain", "--json", message]);
    let said = |output: &Output| {
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        json["domain"].as_str().map(str::to_owned)
    };
    let refusal =
        |device: &str| format!("vfio {device}: vfio-display-dmabuf: opengl not available");
    let of_two = explain(&refusal(shared));
    ends(&of_two, 0, "--domain says which is meant");
    // A name that would be an option is not what one types.
    ends(&of_two, 0, "0d0c2f26-4b1a-4c6e-9d52-6f5a1f7b6a02");
    assert_eq!(said(&of_two), None);
    for message in [
        refusal(own),
        format!(
            "error: Failed to start domain 'my friend's guest'\nerror: {}",
            refusal(own)
        ),
        format!(
            "gfxplane: domain my friend's guest is not started: {}",
            refusal(own)
        ),
    ] {
        let output = explain(&message);
        ends(&output, 0, "");
        assert_eq!(
            said(&output).as_deref(),
            Some("my friend's guest"),
            "{output:?}"
        );
        let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let fixes = json["explained"][0]["fixes"].as_array().unwrap();
        let commands = fixes.iter().filter_map(|fix| fix["command"].as_str());
        for command in commands.filter(|one| one.contains("guest")) {
            let libvirt = format!(" -c {uri} ");
            assert!(command.contains(&libvirt), "{command}");
        }
    }
    let odd = explain(&format!(
        "error: Failed to start domain 'a\u{1b}[2Jb'\n{}",
        refusal(own)
    ));
    ends(&odd, 0, "the explanation leaves the domain out");
    assert!(!odd.stderr.contains(&0x1b), "{odd:?}");
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

#[test]
fn verify_does_not_try_what_it_cannot() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("guest.xml");
    let xml = file.to_str().unwrap();
    let verify = |text: &str, more: &[&str]| {
        fs::write(&file, text).unwrap();
        run(
            TOOL,
            &[&["verify", "-c", "nonsense:///", xml], more].concat(),
        )
    };
    let guest = "<domain type='qemu'><name>guest</name><os><type>hvm</type></os></domain>";
    ends(&verify(guest, &["--deadline", "0"]), 2, "--deadline is 0");
    let host = lab();
    let recorded = ["--root", host.to_str().unwrap()];
    ends(&verify(guest, &recorded), 2, "gfxplane check");
    ends(&verify(guest, &[]), 3, "");
    ends(&Alone::new().run(&["verify", xml]), 3, "without libvirt");
    ends(
        &verify("<domain type='lxc'/>", &[]),
        1,
        "is not run by QEMU",
    );
    ends(&verify("<domain type='qemu'", &[]), 1, "line 1");
}

#[allow(dead_code)]
#[path = "support/schema.rs"]
mod schema;

/// What is given to libvirt is as valid as what it was made of.
#[test]
fn reduced_domains_are_valid() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixup");
    let problems = |text: &str| schema::problems(schema::Against::Domain, text).unwrap();
    let id = uuid::Uuid::from_u128(1);
    let mut all: Vec<PathBuf> = fs::read_dir(cases)
        .unwrap()
        .map(|case| case.unwrap().path().join("domain.xml"))
        .collect();
    all.sort();
    let mut seen = 0;
    // Each takes a tenth of a second and more, and most differ in what is kept as it is.
    for path in all.iter().step_by(3) {
        let text = fs::read_to_string(path).unwrap();
        let Ok(reduced) = gfxplane::plan::trial::reduce(
            &text,
            &gfxplane::plan::trial::name(id),
            id,
            &gfxplane::predict::abilities::Abilities::default(),
        ) else {
            continue;
        };
        let problems_now = problems(&reduced.xml);
        assert!(
            problems_now.is_empty() || !problems(&text).is_empty(),
            "{}: {problems_now:?}\n{}",
            path.display(),
            reduced.xml
        );
        seen += usize::from(problems_now.is_empty());
    }
    assert!(seen > 20, "{seen}");
}

/// What somebody could have put into a domain that is sent to an administrator.
fn hostile_domain(emulator: &str) -> String {
    // A control sequence in C1, right to left, no width, a line separator, DEL.
    const HARMFUL: &str = "a\u{9b}31mb\u{202e}c\u{200b}d\u{2028}e\u{7f}f";
    let long = "x".repeat(700_000);
    format!(
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>{HARMFUL}</name>\
         <os><type arch='x86_64' machine='q35'>hvm</type></os><devices><emulator>{emulator}</emulator>\
         <graphics type='{HARMFUL}{long}'/><video><model type='{HARMFUL}{long}'/></video>\
         <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='{HARMFUL}{long}' ramfb='on'><source>\
         <address uuid='{DEVICE}'/></source></hostdev></devices>\
         <qemu:commandline><qemu:arg value='-set'/><qemu:arg value='device.hostdev0.{HARMFUL}={long}'/>\
         <qemu:arg value='-display'/><qemu:arg value='{HARMFUL}'/></qemu:commandline></domain>"
    )
}

/// A terminal acts on C1 as on an escape sequence, and text from right to left hides what it is.
#[test]
fn what_others_have_written_harms_no_terminal() {
    let keep = tempfile::tempdir().unwrap();
    let file = keep.path().join("d.xml");
    fs::write(&file, hostile_domain("/usr/bin/qemu\u{9b}")).unwrap();
    let (root, file) = (lab(), file.to_str().unwrap());
    let copy = keep.path().join("copy");
    for arguments in [
        &["check", file][..],
        &["check", "--json", file],
        &["fixup", "--print-diff", file],
        &[
            "explain",
            "--domain",
            file,
            "vfio-display-dmabuf: opengl not available",
        ],
        &["collect", copy.to_str().unwrap(), "--xml", file],
    ] {
        let output = Command::new(TOOL)
            .arg("--root")
            .arg(&root)
            .args(arguments)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert_ne!(output.status.code(), Some(2), "{arguments:?}: usage");
        // A document is printed as it is, but not to a terminal.
        let is_document = arguments[0] == "fixup";
        for bytes in [&output.stdout, &output.stderr]
            .into_iter()
            .skip(usize::from(is_document))
        {
            let text = text(bytes);
            let harmful = text
                .chars()
                .find(|c| !gfxplane::domain::shell::is_harmless(*c) && !matches!(c, '\n' | '\t'));
            assert_eq!(harmful, None, "{arguments:?}");
            let longest = text.lines().map(str::len).max().unwrap_or_default();
            let is_json = arguments.contains(&"--json");
            assert!(
                is_json || longest < 20_000,
                "{arguments:?}: a line of {longest} bytes"
            );
        }
    }
}

/// Whoever sends somebody a file must not have a program run by it.
#[test]
fn nothing_that_a_file_names_is_run() {
    let keep = tempfile::tempdir().unwrap();
    let at = |name: &str| keep.path().join(name).to_str().unwrap().to_owned();
    let (emulator, was_here) = (at("emulator"), at("was-here"));
    fs::write(at("text"), format!("#!/bin/sh\ntouch {was_here}\n")).unwrap();
    let installed = Command::new("install")
        .args(["-m", "755", &at("text"), &emulator])
        .status();
    assert!(installed.unwrap().success());
    let xml = format!(
        "<domain type='kvm'><name>g</name><os><type arch='x86_64' machine='q35'>hvm</type></os><devices>\
         <emulator>{emulator}</emulator><graphics type='vnc'/>\
         <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on'><source>\
         <address uuid='{DEVICE}'/></source></hostdev></devices></domain>"
    );
    fs::write(at("d.xml"), xml).unwrap();
    for arguments in [
        &["check", &at("d.xml")][..],
        &["fixup", &at("d.xml")],
        &["collect", &at("copy"), "--xml", &at("d.xml")],
    ] {
        // Not of a recorded host, of which nothing is run anyway.
        let output = run(TOOL, arguments);
        assert!(output.status.code().is_some(), "{arguments:?}");
    }
    assert!(!Path::new(&was_here).exists());
    // The hook is root. It writes into a /run of its own here.
    for operation in ["prepare", "restore", "migrate", "release"] {
        let mut command = Command::new("unshare");
        if !nix::unistd::geteuid().is_root() {
            command.args(["--user", "--map-root-user"]);
        }
        let output = command
            .args(["--mount", "sh", "-c"])
            .args(["mount -t tmpfs none /run && exec \"$@\"", "-", HELPER])
            .args(["qemu-hook", "g", operation, "begin", "-"])
            .stdin(fs::File::open(at("d.xml")).unwrap())
            .output()
            .unwrap();
        ends(&output, 0, "");
    }
    assert!(!Path::new(&was_here).exists());
    // It can be run.
    ends(&run(&emulator, &[]), 0, "");
    assert!(Path::new(&was_here).exists());
}

/// A user may define a domain with as many of something as libvirt reads, and the hook and the daemon
/// look at it. What is quadratic takes minutes for so many, and gigabytes; the limits are of the
/// processor's time and of memory, whatever else the machine does. benches/linear.rs has more kinds.
#[test]
fn very_many_of_something_are_looked_at_in_time() {
    let hostdev = |number: usize| {
        format!(
            "<hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on'><source>\
             <address uuid='c1a2ffff-0000-4000-8000-{number:012x}'/></source></hostdev>"
        )
    };
    let many =
        |count: usize, one: &dyn Fn(usize) -> String| (0..count).map(one).collect::<String>();
    let globals = |number: usize| {
        format!("<qemu:arg value='-global'/><qemu:arg value='vfio-pci.p{number}=on'/>")
    };
    let keep = tempfile::tempdir().unwrap();
    for (what, devices, arguments) in [
        (
            "graphics",
            many(50_000, &|_| "<graphics type='vnc'/>".into()) + &hostdev(1),
            String::new(),
        ),
        (
            "-global for hostdevs",
            many(8_000, &hostdev),
            many(8_000, &globals),
        ),
    ] {
        let text = format!(
            "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>g</name>\
             <os><type arch='x86_64' machine='q35'>hvm</type></os><devices>{devices}</devices>\
             <qemu:commandline>{arguments}</qemu:commandline></domain>"
        );
        let file = keep.path().join("d.xml");
        fs::write(&file, text).unwrap();
        let output = Command::new("prlimit")
            .args(["--cpu=30", "--as=4294967296", "--core=0", TOOL, "--root"])
            .arg(lab())
            .args(["check", "--qemu", "10.0.13"])
            .arg(&file)
            .output()
            .unwrap();
        let said = text_of_end(&output);
        assert!(
            matches!(output.status.code(), Some(0 | 1)),
            "{what}: {said}"
        );
    }
}

/// How a program ended, and the end of what it said.
fn text_of_end(output: &Output) -> String {
    let err = String::from_utf8_lossy(&output.stderr);
    let last = err.lines().last().unwrap_or_default();
    format!(
        "{} {}",
        output.status,
        last.chars().take(300).collect::<String>()
    )
}
