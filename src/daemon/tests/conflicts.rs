//! Tests how the daemon acts if somebody else changes a definition, too.

use super::*;

#[test]
fn what_somebody_defines_meanwhile_is_kept() {
    let host = Host::new();
    let theirs = with_title(&doomed(), "theirs");
    host.libvirt.meddling.lock().unwrap().push(theirs);
    let _daemon = host.having(&doomed());
    host.has(&["theirs", "<gl enable='yes'"]);
}

/// Somebody else does this at the moment when a definition is replaced.
fn at_the_same_moment(
    definition: &str,
    conflicts: impl IntoIterator<Item = Meanwhile>,
    expected: &[What],
    parts: &[&str],
    undone: Option<&str>,
) {
    let host = Host::new();
    *host.libvirt.conflicts.lock().unwrap() = conflicts.into_iter().collect();
    let mut daemon = host.watched();
    daemon.meets(definition);
    assert_eq!(entries(&daemon), expected);
    if parts.is_empty() {
        assert!(host.libvirt.domains.lock().unwrap().is_empty());
    } else {
        host.has(parts);
    }
    if let Some(undone) = undone {
        can_be_undone(&host, &daemon, undone);
    }
}

#[test]
fn a_definition_at_the_same_moment_is_kept_and_mended() {
    let off = domain(REGION, "off", VNC);
    let theirs = with_title(&off, "theirs");
    let conflict = [Meanwhile::Defines(theirs.clone())];
    let (expected, parts) = ([What::Kept, What::Fixed], ["theirs", "display='on'"]);
    at_the_same_moment(&off, conflict, &expected, &parts, Some(&theirs));
    // Also if it comes while the first one is put back, and as often as that.
    let conflicts = ["0", "1", "2"].map(|title| Meanwhile::Defines(with_title(&off, title)));
    let parts = ["<title>0</title>", "display='on'"];
    at_the_same_moment(&off, conflicts, &expected, &parts, None);
}

#[test]
fn a_definition_that_nobody_could_read_is_told_as_an_error() {
    let off = domain(REGION, "off", VNC);
    let conflict = [Meanwhile::DefinesUnseen(with_title(&off, "theirs"))];
    // Their change is lost and can't be undone; ours can.
    let expected = [What::Conflict, What::Fixed];
    at_the_same_moment(&off, conflict, &expected, &["display='on'"], Some(&off));
    // If only graphics are replaced, nothing else can be lost.
    let host = Host::new();
    let theirs = Meanwhile::DefinesUnseen(with_title(&doomed(), "theirs"));
    host.libvirt.conflicts.lock().unwrap().push(theirs);
    let mut daemon = host.watched();
    daemon.meets(&doomed());
    host.has(&["theirs", "<gl enable='yes'"]);
    let log = daemon.domains.state.entries(&mut Vec::new());
    let conflict = log.iter().find(|entry| entry.what == What::Conflict);
    let reason = conflict.and_then(|entry| entry.reason.as_deref()).unwrap();
    assert!(
        reason.contains("their change (graphics) may be lost"),
        "{reason}"
    );
}

#[test]
fn what_is_undefined_at_the_same_moment_stays_so() {
    let off = domain(REGION, "off", VNC);
    at_the_same_moment(&off, [Meanwhile::Undefines], &[What::Kept], &[], None);
    // Somebody who defines it as soon as we have undefined it again loses nothing.
    let theirs = Meanwhile::Defines(with_title(&off, "theirs"));
    let conflicts = [theirs, Meanwhile::Undefines];
    let (expected, parts) = ([What::Kept, What::Fixed], ["theirs", "display='on'"]);
    at_the_same_moment(&off, conflicts, &expected, &parts, None);
}

#[test]
fn where_only_graphics_are_replaced_nobody_loses_anything() {
    let theirs = with_title(&doomed(), "theirs");
    let conflict = [Meanwhile::Defines(theirs.clone())];
    let parts = ["theirs", "<gl enable='yes'"];
    at_the_same_moment(&doomed(), conflict, &[What::Fixed], &parts, Some(&theirs));
    // Unless it is these graphics that somebody else has changed.
    let conflict = [Meanwhile::Defines(doomed().replace("geheim", "neu"))];
    let parts = ["passwd='neu'", "<gl enable='yes'"];
    let expected = [What::Kept, What::Fixed];
    at_the_same_moment(&doomed(), conflict, &expected, &parts, None);
}

#[test]
fn a_report_of_somebody_else_alone_is_no_alarm() {
    let host = Host::new();
    let mut daemon = host.watched();
    host.libvirt.put(&domain(REGION, "off", VNC));
    // Metadata, and the same definition once more.
    host.libvirt.report(Happened::Metadata);
    host.libvirt.report(Happened::Defined);
    daemon.work();
    assert_eq!(entries(&daemon), [What::Fixed]);
    let undo = daemon.domains.state.undo_stack(UUID, &mut Vec::new());
    assert_eq!(undo.len(), 1);
}

#[test]
fn somebody_who_puts_the_old_definition_back_wins() {
    let host = Host::new();
    let mut daemon = host.watched();
    // libvirt gives the same file another MAC address each time.
    let round = |number: u32| with_title(&doomed(), &number.to_string());
    daemon.meets(&round(0));
    let fixed = host.libvirt.xml();
    for number in 1..5 {
        daemon.meets(&round(number));
    }
    assert_eq!(host.libvirt.xml(), round(4));
    assert_eq!(host.defined(), crate::daemon::decision::ROUNDS);
    assert_eq!(entries(&daemon), [What::Fixed, What::Fixed, What::GaveUp]);
    // A definition that is right by itself ends the quarrel.
    daemon.meets(&with_title(&fixed, "fixed by hand"));
    daemon.meets(&round(5));
    host.has(&["<gl enable='yes'"]);
}

#[test]
fn somebody_who_puts_two_definitions_back_in_turn_wins() {
    let host = Host::new();
    let mut daemon = host.watched();
    let beside = VNC.replace("0.0.0.0", "127.0.0.1");
    let other = domain(DMABUF, "on", &format!("{SPICE}{beside}"));
    for _ in 0..3 {
        daemon.meets(&doomed());
        daemon.meets(&other);
    }
    assert_eq!(host.libvirt.xml(), other);
    assert!(host.defined() <= 4);
}

#[test]
fn hands_off_means_hands_off() {
    let host = Host::new();
    let mut daemon = host.watched();
    daemon.domains.state.set_hands_off(UUID, "g", true).unwrap();
    daemon.meets(&doomed());
    assert_eq!(host.libvirt.xml(), doomed());
    // Undefined and defined again, it is the same domain; also for the next daemon.
    host.libvirt.remove(UUID);
    daemon.work();
    daemon.meets(&doomed());
    assert_eq!(host.libvirt.xml(), doomed());
    host.libvirt.remove(UUID);
    drop(daemon);
    let mut daemon = host.watched();
    daemon.meets(&doomed());
    assert_eq!(host.libvirt.xml(), doomed());
}

#[test]
fn somebody_who_insists_by_defining_anew_wins() {
    let host = Host::new();
    let mut daemon = host.watched();
    for _ in 0..5 {
        daemon.meets(&doomed());
        host.libvirt.remove(UUID);
        daemon.work();
    }
    daemon.meets(&doomed());
    assert_eq!(host.libvirt.xml(), doomed());
    let defined = host.defined();
    assert_eq!(defined, crate::daemon::decision::ROUNDS);
}
