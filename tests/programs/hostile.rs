//! Files that somebody has made to harm whoever looks at them.

use super::*;

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
