//! The verbs that need libvirt, with another libvirt than the host's or with none.

use super::*;

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

/// explain finds the domain that has the message's device, and names it in the fixes.
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

/// The small copy of a valid domain is valid.
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
