//! Tests how the daemon treats the definitions of domains.

use super::*;

#[test]
fn the_first_pass_mends_and_remembers() {
    let host = Host::new();
    let daemon = host.having(&doomed());
    host.has(&["<gl enable='yes'", "passwd='geheim'"]);
    assert_eq!(entries(&daemon), [What::Fixed]);
    let state = &daemon.domains.state;
    assert_eq!(state.undo_stack(UUID, &mut Vec::new()).len(), 1);
    assert_eq!(host.defined(), 1);
}

#[test]
fn a_definition_that_comes_is_mended_and_ours_is_not_looked_at_again() {
    let host = Host::new();
    let mut daemon = host.watched();
    daemon.meets(&doomed());
    host.has(&["<gl enable='yes'"]);
    daemon.work();
    assert_eq!(host.defined(), 1);
    assert_eq!(entries(&daemon), [What::Fixed]);
}

#[test]
fn older_definitions_keep_their_display_off_until_somebody_defines_them_anew() {
    let host = Host::new();
    let off = domain(REGION, "off", VNC);
    host.libvirt.put(&off);
    {
        let mut daemon = host.watched();
        assert_eq!(host.libvirt.xml(), off);
        // The daemon of libvirt read its files again.
        daemon.meets(&off);
        assert_eq!(host.libvirt.xml(), off);
    }
    // Also for the next daemon.
    let mut daemon = host.watched();
    assert_eq!(host.libvirt.xml(), off);
    daemon.meets(&with_title(&off, "t"));
    host.has(&["display='on'"]);
}

/// The daemon is root, and whoever may define a domain is not.
#[test]
fn no_emulator_of_a_domain_is_run() {
    let host = Host::new();
    let root = &host.context.root;
    let was_here = root.join("was-here");
    let script = root.join("script");
    let text = format!("#!/bin/sh\ntouch {}\n", was_here.display());
    std::fs::write(&script, text).unwrap();
    // As it would be found on this machine, and on the host that is looked at.
    let emulator = root.join("opt/qemu");
    let inside = root.join(emulator.strip_prefix("/").unwrap());
    for path in [&emulator, &inside] {
        let installed = Command::new("install")
            .args(["-D", "-m", "755"])
            .args([&script, path])
            .status();
        assert!(installed.unwrap().success());
    }
    let named = format!("<devices><emulator>{}</emulator>", emulator.display());
    let mut daemon = host.having(&doomed().replace("<devices>", &named));
    host.libvirt.report(Happened::Started);
    host.libvirt.report(Happened::Stopped);
    daemon.work();
    assert!(!was_here.exists());
    // It can be run.
    assert!(Command::new(&emulator).status().unwrap().success() && was_here.exists());
}

#[test]
fn a_domain_that_is_being_changed_is_waited_for() {
    let host = Host::new();
    let mut daemon = host.watched();
    daemon.quiet = Duration::from_secs(3600);
    daemon.meets(&doomed());
    assert_eq!((host.libvirt.xml(), daemon.later.len()), (doomed(), 1));
    // It is never quiet, and yet not waited for for ever.
    let until = daemon.later.keys().next().unwrap().0;
    daemon.meets(&with_title(&doomed(), "more"));
    let last = daemon.later.keys().next().unwrap().0;
    assert_eq!((last, daemon.later.len()), (until, 1));
    assert!(last <= Instant::now() + NEVER_QUIET);
    // Other work on the domain waits, too, and is done at once.
    daemon.task(UUID, false);
    assert!(daemon.tasks.is_empty());
    let task = daemon.later.remove(&(last, UUID)).unwrap();
    daemon.later.insert((Instant::now(), UUID), task);
    daemon.domains.watched(UUID).loud.as_mut().unwrap().until = Instant::now();
    daemon.time_passes();
    daemon.work();
    host.has(&["<gl enable='yes'"]);
}

#[test]
fn what_needs_consent_is_left_and_both_fixes_are_named() {
    let host = Host::new();
    host.libvirt.put(&domain(DMABUF, "on", VNC));
    let why = reason(&host.watched());
    assert!(why.contains("consent") && why.contains("display"), "{why}");
}

#[test]
fn what_libvirt_refuses_is_tried_once() {
    let host = Host::new();
    host.libvirt.refuses.store(true, Ordering::Relaxed);
    let mut daemon = host.watched();
    for _ in 0..3 {
        daemon.meets(&doomed());
    }
    assert_eq!(host.libvirt.xml(), doomed());
    assert_eq!(entries(&daemon), [What::Refused, What::LeftAlone]);
    // Another libvirt may take it.
    host.libvirt.refuses.store(false, Ordering::Relaxed);
    daemon.look_again();
    host.has(&["<gl enable='yes'"]);
}

#[test]
fn a_device_that_becomes_known_has_its_domains_looked_at() {
    let host = Host::new();
    let record = host
        .context
        .root
        .join(format!("run/gfxplane/records/{DMABUF}.json"));
    let text = std::fs::read_to_string(&record).unwrap();
    std::fs::remove_file(&record).unwrap();
    // The rules know it, too; what a rule says is enough to fix what is refused anyway, so the
    // device is one that no rule knows here.
    let rules = "usr/share/gfxplane/rules.d/none.toml";
    host.context.root.put(rules, "");
    let others = host.context.root.join("run/gfxplane/types");
    let _ = std::fs::remove_dir_all(others);
    let mut daemon = host.watched();
    daemon.meets(&doomed());
    assert_eq!(host.libvirt.xml(), doomed());
    std::fs::write(&record, text).unwrap();
    daemon.eventually(|| host.libvirt.xml().contains("<gl enable='yes'"));
}

#[test]
fn what_is_undefined_is_not_defined_again() {
    let host = Host::new();
    let mut daemon = host.having(&doomed());
    let path = host
        .context
        .root
        .join(format!("var/lib/gfxplane/domains/{UUID}.json"));
    assert!(path.exists(), "it can be undone");
    // A report that is late: the domain is defined again when we hear that it was undefined.
    host.libvirt.put(&doomed());
    host.libvirt.report(Happened::Undefined);
    daemon.work();
    assert!(path.exists() && host.libvirt.xml().contains("<gl enable='yes'"));
    daemon.meets(&doomed());
    host.libvirt.remove(UUID);
    daemon.work();
    assert!(!path.exists());
    // Or while nobody watched.
    daemon.meets(&domain(REGION, "off", VNC));
    assert!(path.exists());
    host.libvirt.remove(UUID);
    drop(daemon);
    let _again = host.watched();
    assert!(!path.exists());
}

#[test]
fn lines_are_said_once() {
    let mut watched = memory::Watched::default();
    let (level, about) = (crate::plan::Level::Info, crate::predict::About::Domain);
    let line = crate::plan::Note::new(level, about, "t");
    assert_eq!(watched.news(vec![line.clone()]).len(), 1);
    assert_eq!(watched.news(vec![line]).len(), 0);
    let mut seen = BTreeSet::new();
    seen.insert(watched.note("n", "one", Vec::new()));
    assert_eq!(seen, [false].into());
    assert!(watched.note("n", "two", Vec::new()));
}

/// At the first look as many are fixed as are wrong, each told and remembered once; the second
/// changes nothing.
#[test]
fn five_thousand_domains() {
    const MANY: u128 = 5000;
    let host = Host::new();
    let uuids: Vec<Uuid> = (0..MANY)
        .map(|number| Uuid::from_u128(UUID.as_u128() + number))
        .collect();
    for uuid in &uuids {
        let xml = doomed().replace(&UUID.to_string(), &uuid.to_string());
        host.libvirt.domains.lock().unwrap().insert(*uuid, xml);
    }
    let mut daemon = host.watched();
    let is_mended = |xml: &String| xml.contains("<gl enable='yes'") && xml.contains("geheim");
    let all = host.libvirt.domains.lock().unwrap().clone();
    assert_eq!(all.values().filter(|xml| is_mended(xml)).count(), 5000);
    daemon.look_again();
    assert_eq!(*host.libvirt.domains.lock().unwrap(), all);
    assert_eq!(host.defined(), 5000);
    let state = &daemon.domains.state;
    let remembered = |uuid: &&Uuid| state.undo_stack(**uuid, &mut Vec::new()).len() == 1;
    assert_eq!(uuids.iter().filter(remembered).count(), 5000);
    // The log is put aside at its size, whatever there is to tell.
    assert!(!entries(&daemon).is_empty());
}
