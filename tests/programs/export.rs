//! `gfxplane export`: its files and its options.

use super::*;

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

/// `export copies` copies the daemon's files to the paths in the settings, and nowhere else.
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
