//! Tests how the daemon acts when libvirt comes and goes.

use super::*;

/// libvirt's daemon with this file is there, until it is killed.
fn lives(host: &Host, file: &str) -> Process {
    let process = Command::new("sleep").arg("600").spawn().unwrap();
    let pid = process.id().to_string();
    std::fs::write(host.context.root.join("run").join(file), pid).unwrap();
    Process(process)
}

struct Process(std::process::Child);

impl Drop for Process {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

fn is_linked(host: &Host) -> bool {
    let link = "etc/mdevctl.d/scripts.d/callouts/99-gfxplane-watch";
    host.context.root.join(link).is_symlink()
}

#[test]
fn mdevctl_asks_us_once_libvirt_has_listed_its_devices() {
    let host = Host::new();
    // An earlier daemon was killed.
    crate::host::callout::make(&host.context.root, crate::host::callout::OF_DAEMON).unwrap();
    let mut libvirtd = lives(&host, "libvirtd.pid");
    host.libvirt.is_listing.store(true, Ordering::Relaxed);
    let mut daemon = host.daemon();
    daemon.set_link();
    assert!(!is_linked(&host));
    for _ in 0..2 {
        daemon.look_again();
        assert!(!is_linked(&host), "it is still looking for them");
        host.libvirt.is_listing.store(false, Ordering::Relaxed);
        daemon.eventually(|| is_linked(&host));
        host.libvirt.is_listing.store(true, Ordering::Relaxed);
        daemon.event(Event::Libvirt(libvirt::Event::Lost));
        assert!(is_linked(&host), "it is still ending");
        drop(libvirtd);
        daemon.eventually(|| !is_linked(&host));
        libvirtd = lives(&host, "libvirtd.pid");
    }
    host.libvirt.is_listing.store(false, Ordering::Relaxed);
    daemon.connect(true).unwrap();
    daemon.eventually(|| is_linked(&host));
    // Whoever wants none has none.
    let settings = |text: &str| host.context.root.put("etc/gfxplane/gfxplane.toml", text);
    for (text, expected) in [
        ("attributes = 'off'", false),
        ("", true),
        ("callout = 'static'", false),
    ] {
        settings(text);
        daemon.event(Event::Reload);
        assert_eq!(is_linked(&host), expected, "{text}");
    }
    settings("");
    let schema = crate::host::callout::SCHEMA_OF_LIBVIRT;
    host.context.root.put(schema, "");
    daemon.event(Event::Reload);
    assert!(!is_linked(&host), "libvirt tells displays by itself");
}

/// Each driver of libvirt's has a daemon of its own, and that of the devices comes and goes by
/// itself.
#[test]
fn mdevctl_asks_us_beside_modular_daemons() {
    let host = Host::new();
    let _virtqemud = lives(&host, "virtqemud.pid");
    let mut daemon = host.watched();
    assert!(!is_linked(&host), "there is no virtnodedevd");
    for _ in 0..2 {
        let virtnodedevd = lives(&host, "virtnodedevd.pid");
        daemon.eventually(|| is_linked(&host));
        let lost = host.libvirt.devices.lock().unwrap().take().unwrap();
        lost(libvirt::Event::Lost);
        drop(virtnodedevd);
        daemon.eventually(|| !is_linked(&host));
        std::fs::remove_file(host.context.root.join("run/virtnodedevd.pid")).unwrap();
    }
    assert!(daemon.libvirt.is_some(), "virtqemud is still there");
}

#[test]
fn there_is_one_daemon() {
    let host = Host::new();
    let first = alone(&host.context).unwrap();
    assert!(first.is_some());
    let said = alone(&host.context).unwrap_err().to_string();
    let pid = std::process::id().to_string();
    assert!(said.contains(&format!("as process {pid}")), "{said}");
    drop(first);
    assert!(alone(&host.context).unwrap().is_some());
}

#[test]
fn a_libvirt_that_goes_is_waited_for_and_not_woken() {
    let host = Host::new();
    let mut daemon = host.watched();
    daemon.event(Event::Libvirt(libvirt::Event::Lost));
    let later = daemon.retry.unwrap().0;
    assert!(daemon.libvirt.is_none() && later > Instant::now() + LATEST / 2);
    host.libvirt.put_unseen(UUID, &doomed());
    // The next one says that it is there by its process id.
    let pid = host.context.root.join("run/libvirtd.pid");
    let mut file = std::fs::File::create(pid).unwrap();
    std::io::Write::write_all(&mut file, std::process::id().to_string().as_bytes()).unwrap();
    let limit = Instant::now() + Duration::from_secs(60);
    while daemon.retry.unwrap().0 >= later {
        assert!(Instant::now() < limit, "its file was not seen");
        if let Ok(event) = daemon.receive.recv_timeout(Duration::from_millis(50)) {
            daemon.event(event);
        }
    }
    std::thread::sleep(SOONEST);
    daemon.time_passes();
    daemon.work();
    host.has(&["<gl enable='yes'"]);
}

/// libvirt is killed before or after it has written the definition: either way the domain is fixed
/// in the end, told once, and the change can be undone.
#[test]
fn libvirt_that_ends_while_it_defines() {
    for (doomed, is_written) in [
        (doomed(), false),
        (doomed(), true),
        (domain(REGION, "off", VNC), false),
        (domain(REGION, "off", VNC), true),
    ] {
        let host = Host::new();
        let mut daemon = host.watched();
        *host.libvirt.ends.lock().unwrap() = Some(is_written);
        daemon.meets(&doomed);
        assert_eq!(host.libvirt.xml() != doomed, is_written);
        assert_eq!(entries(&daemon), [], "nobody knows yet");
        // It is there again.
        daemon.look_again();
        let fixed = host.libvirt.xml();
        assert_ne!(fixed, doomed);
        assert_eq!(entries(&daemon), [What::Fixed]);
        can_be_undone(&host, &daemon, &doomed);
        // Once.
        daemon.look_again();
        assert_eq!(entries(&daemon), [What::Fixed]);
        assert_eq!(host.libvirt.xml(), fixed);
    }
}

/// The daemon does not take a definition of somebody else for its own.
#[test]
fn libvirt_that_ends_while_it_defines_and_somebody_else_is_there_first() {
    let host = Host::new();
    let mut daemon = host.watched();
    *host.libvirt.ends.lock().unwrap() = Some(false);
    daemon.meets(&doomed());
    let theirs = domain(REGION, "on", VNC);
    host.libvirt.put(&theirs);
    daemon.look_again();
    assert_eq!((host.libvirt.xml(), entries(&daemon)), (theirs, vec![]));
    assert_eq!(daemon.domains.state.undo_stack(UUID, &mut Vec::new()), []);
}
