//! Which domains the daemon tries before it defines them.

use super::*;

/// A card of which nobody has measured anything, and no arguments.
fn unmeasured() -> String {
    doomed().replace("<model type='none'/>", "<model type='cirrus'/>")
}

fn tried(host: &Host) -> usize {
    host.libvirt.tried.lock().unwrap().len()
}

#[test]
fn what_was_measured_is_not_tried() {
    let host = Host::new();
    let _daemon = host.having(&doomed());
    host.has(&["<gl enable='yes'"]);
    assert_eq!(tried(&host), 0);
}

#[test]
fn what_was_not_measured_is_tried_once_for_all_of_its_shape() {
    let host = Host::new();
    let second = Uuid::from_u128(2);
    let mut daemon = host.having(&unmeasured());
    host.has(&["<gl enable='yes'"]);
    assert_eq!(tried(&host), 1);
    {
        let copies = host.libvirt.tried.lock().unwrap();
        assert!(
            copies[0].contains("<name>gfxplane-verify-"),
            "{}",
            copies[0]
        );
        assert!(copies[0].contains("<gl enable='yes'") && !copies[0].contains("geheim"));
    }
    assert_eq!(entries(&daemon), [What::Fixed]);
    // Another domain, and another daemon.
    let alike = unmeasured().replace(&UUID.to_string(), &second.to_string());
    host.libvirt.put_at(second, &alike);
    daemon.work();
    host.libvirt.put(&unmeasured());
    drop(daemon);
    let daemon = host.watched();
    let all = host.libvirt.domains.lock().unwrap();
    assert!(all.values().all(|xml| xml.contains("<gl enable='yes'")));
    assert_eq!((tried(&host), entries(&daemon).len()), (1, 3));
}

#[test]
fn what_is_refused_when_it_is_tried_stays_as_it_is() {
    let host = Host::new();
    *host.libvirt.trial.lock().unwrap() = Some("no such card".into());
    let mut daemon = host.having(&unmeasured());
    assert_eq!(host.libvirt.xml(), unmeasured());
    let said = reason(&daemon);
    for words in ["no such card", "`gfxplane fixup g --define`"] {
        assert!(said.contains(words), "{said}");
    }
    // It is believed, also by the next daemon, until somebody who asks has tried it with success.
    daemon.meets(&unmeasured());
    drop(daemon);
    let _daemon = host.watched();
    assert_eq!((host.libvirt.xml(), tried(&host)), (unmeasured(), 1));
}

/// Two refusals of 700 kB would rotate the log away, which has 1 MiB.
#[test]
fn a_long_refusal_leaves_the_log_its_room() {
    let host = Host::new();
    *host.libvirt.trial.lock().unwrap() = Some("x".repeat(700_000));
    let daemon = host.having(&unmeasured());
    let said = reason(&daemon);
    assert!(said.len() < 1000 && said.contains("more bytes"), "{said}");
}

#[test]
fn an_argument_of_the_users_has_no_shape_and_is_tried_for_itself() {
    let arguments = "<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>\
                     <qemu:arg value='ARG'/></qemu:commandline></domain>";
    let host = Host::new();
    *host.libvirt.trial.lock().unwrap() = Some("no".into());
    let with = |argument: &str| doomed().replace("</domain>", &arguments.replace("ARG", argument));
    let mut daemon = host.having(&with("-no-user-config"));
    assert_eq!((tried(&host), entries(&daemon)), (1, vec![What::LeftAlone]));
    // Nothing new, so nothing is tried.
    daemon.meets(&with("-no-user-config"));
    assert_eq!(tried(&host), 1);
    *host.libvirt.trial.lock().unwrap() = None;
    daemon.meets(&with("-nodefaults"));
    host.has(&["<gl enable='yes'"]);
    assert_eq!(tried(&host), 2);
}

#[test]
fn a_device_in_use_is_waited_for() {
    let host = Host::new();
    let holder = User {
        domain: "holder".into(),
        devices: vec![DMABUF.parse().unwrap()],
    };
    host.libvirt.users.lock().unwrap().push(holder);
    let mut daemon = host.having(&unmeasured());
    assert_eq!((host.libvirt.xml(), tried(&host)), (unmeasured(), 0));
    let said = reason(&daemon);
    for words in [
        &format!("device {DMABUF} is in use by domain holder"),
        "`gfxplane fixup g --define --no-trial`",
    ] {
        assert!(said.contains(words), "{said}");
    }
    host.libvirt.users.lock().unwrap().clear();
    host.libvirt
        .report_of(Uuid::from_u128(9), Happened::Stopped);
    daemon.work();
    host.has(&["<gl enable='yes'"]);
    assert_eq!(tried(&host), 1);
}

#[test]
fn a_start_that_is_under_way_comes_first() {
    let host = Host::new();
    let id = DMABUF.parse().unwrap();
    requests::mark_start(&host.context.root, id).unwrap();
    let mut daemon = host.having(&unmeasured());
    assert_eq!((host.libvirt.xml(), tried(&host)), (unmeasured(), 0));
    assert_eq!(daemon.later.len(), 1, "it is looked at again");
    requests::forget_start(&host.context.root, id).unwrap();
    daemon.task(UUID, false);
    daemon.work();
    host.has(&["<gl enable='yes'"]);
}

/// The daemon does not take the end of its own copy for the end of another domain.
#[test]
fn trials_of_its_own_do_not_wake_the_daemon() {
    let host = Host::new();
    let mut daemon = host.watched();
    let waiting = Uuid::from_u128(7);
    daemon.domains.watched(waiting).waits = true;
    daemon.meets(&unmeasured());
    assert_eq!(tried(&host), 1);
    assert!(
        daemon.domains.known(waiting).is_some(),
        "nobody has looked at it"
    );
}

#[test]
fn a_domain_that_starts_meanwhile_comes_first() {
    let host = Host::new();
    let (root, id) = (host.context.root.clone(), DMABUF.parse().unwrap());
    let mark = move || requests::mark_start(&root, id).unwrap();
    *host.libvirt.while_tried.lock().unwrap() = Some(Box::new(mark));
    let daemon = host.having(&unmeasured());
    assert_eq!((host.libvirt.xml(), tried(&host)), (unmeasured(), 1));
    // Nothing is said of the domain, and it is looked at again.
    assert!(entries(&daemon).is_empty() && !daemon.later.is_empty());
}
