//! The programs' output, and their end if it can't be written.

use super::*;

/// The filter for texts of others lets the colours of a page through.
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

/// Returns a domain as somebody could make it to harm an administrator who reads it.
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
