//! Arguments, exit codes and messages of the tool's verbs.

use super::*;

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
