//! Tests how the daemon acts on starts that the hook has vetoed or reported.

use super::*;

#[test]
fn what_is_vetoed_is_mended_and_started_if_it_is_to_start_by_itself() {
    for autostart in [false, true] {
        let host = Host::new();
        host.libvirt.autostart.store(autostart, Ordering::Relaxed);
        let mut daemon = host.watched();
        host.libvirt.put_unseen(UUID, &doomed());
        requests::leave(&host.context.root, &request(true)).unwrap();
        daemon.eventually(|| host.libvirt.xml().contains("<gl enable='yes'"));
        if autostart {
            daemon.eventually(|| !host.libvirt.started.lock().unwrap().is_empty());
            assert_eq!(entries(&daemon), [What::Fixed, What::Started]);
        } else {
            assert_eq!(entries(&daemon), [What::Fixed]);
        }
        // Once for a veto.
        daemon.meets(&host.libvirt.xml());
        let started = host.libvirt.started.lock().unwrap().len();
        assert_eq!(started, usize::from(autostart));
    }
}

#[test]
fn one_retry_for_each_definition() {
    let host = Host::new();
    host.libvirt.autostart.store(true, Ordering::Relaxed);
    let mut daemon = host.watched();
    let right = domain(REGION, "on", VNC);
    daemon.meets(&right);
    let request = request(true);
    let left = || requests::directory(&host.context.root).join(format!("{UUID}.veto"));
    // The hook sees another definition than we do, such as that of a saved guest.
    for _ in 0..3 {
        requests::leave(&host.context.root, &request).unwrap();
        daemon.eventually(|| !left().exists());
        daemon.eventually(|| host.libvirt.started.lock().unwrap().len() == 1);
    }
    assert_eq!(host.libvirt.started.lock().unwrap().len(), 1);
}

/// The log of a start that has just been made, of a domain with one device.
fn write_log(host: &Host, device: &str, end: &str) {
    let root = &host.context.root;
    root.put("usr/bin/qemu", "\x7fELF");
    let now = crate::host::log::rfc3339(crate::host::state::now());
    let now = now.replace('T', " ").replace('Z', ".000+0000");
    let log = format!(
        "{now}: starting up libvirt version: 11.3.0, qemu version: 10.0.13, kernel: x, hostname: y\n\
         LC_ALL=C \\\n/usr/bin/qemu \\\n-uuid {UUID} \\\n-vnc none \\\n\
         -device vfio-pci,sysfsdev=/sys/bus/mdev/devices/{device},display=on\n{}",
        end.replace("NOW", &now)
    );
    root.put("var/log/libvirt/qemu/g.log", &log);
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(root.join("var/log/libvirt/qemu/g.log"), mode).unwrap();
}

#[test]
fn starts_teach() {
    // It was in use when it was asked, and no other of its type was.
    const IN_USE: &str = "c1a20000-0000-4000-8000-000000000008";
    let host = Host::new();
    let mut daemon = host.having(&domain(IN_USE, "on", VNC));
    let root = &host.context.root;
    let known = || {
        let id = IN_USE.parse().unwrap();
        let known = crate::publish::inventory::Reading::new(root).known(id, &mut Vec::new());
        known.finding.facts.display.words().join(",")
    };
    let learned = |daemon: &Daemon<'_>| {
        let what = entries(daemon);
        what.iter().filter(|what| **what == What::Learned).count()
    };
    assert_eq!(known(), "unknown");
    let refusal = format!(
        "Z qemu: -device x: vfio {IN_USE}: vfio-display-dmabuf: opengl not available\n\
         NOW: shutting down, reason=failed\n"
    );
    write_log(&host, IN_USE, &refusal);
    let request = request(false);
    requests::leave(root, &request).unwrap();
    daemon.eventually(|| known() == "dmabuf");
    assert_eq!(learned(&daemon), 1);
    // Nothing new.
    requests::leave(root, &request).unwrap();
    daemon.take_requests();
    assert_eq!(learned(&daemon), 1);
    // An earlier start is reported, and the one in the log is still under way.
    write_log(&host, IN_USE, "");
    let started = |daemon: &mut Running<'_>| {
        host.libvirt.report(Happened::Started);
        daemon.work();
        (known(), learned(daemon))
    };
    assert_eq!(started(&mut daemon), ("dmabuf".into(), 1));
    host.libvirt.is_active.store(true, Ordering::Relaxed);
    assert_eq!(started(&mut daemon), ("dmabuf".into(), 1));
    host.libvirt.is_running.store(true, Ordering::Relaxed);
    // That one has failed meanwhile, and another one runs.
    let path = root.join("var/log/libvirt/qemu/g.log");
    let log = std::fs::read_to_string(&path).unwrap();
    let later = log.replacen("000+0000: starting", "001+0000: starting", 1);
    *host.libvirt.next_log.lock().unwrap() = Some((path.clone(), later));
    assert_eq!(started(&mut daemon), ("dmabuf".into(), 1));
    // QEMU has started with it, so it is something else now.
    write_log(&host, IN_USE, "");
    assert_eq!(started(&mut daemon), ("region".into(), 2));
    // The log of a domain that runs does not show a failure, whatever was requested before.
    write_log(&host, IN_USE, &refusal);
    requests::leave(root, &request).unwrap();
    daemon.take_requests();
    assert_eq!((known().as_str(), learned(&daemon)), ("region", 2));
    // A device that is not the domain's own is not learned.
    write_log(&host, DMABUF, "");
    assert_eq!(started(&mut daemon), ("region".into(), 2));
}
