//! The helper as mdevctl calls it.

use super::*;

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
