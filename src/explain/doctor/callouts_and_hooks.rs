//! Checks mdevctl, the callouts and the hooks that libvirt runs, and what may keep libvirt from
//! running them.

use crate::device::version::Version;
use crate::explain::doctor::{
    HOOK_PROGRAM, Host, REINSTALL, Report, Script, Topic, Verdict, listed,
};
use crate::host::config::HookMode;
use crate::predict::abilities::ALLOW_DBUS_DAEMON;

/// The first version of libvirt that shows a callout's attributes of an active device (NEWS 10.1.0;
/// seen with 9.0, 11.3 and 12.8).
const SHOWS_ATTRIBUTES: &[u32] = &[10, 1];

/// Returns whether the host has mediated devices or can create them.
fn has_mdevs(host: &Host) -> bool {
    let mut devices = host.inventory.devices.iter();
    !host.inventory.types.is_empty() || devices.any(|entry| entry.bus == "mdev")
}

/// Checks whether mdevctl is installed, and whether libvirt's node-device XML shows displays.
pub(super) fn mdevctl(host: &Host, report: &mut Report) {
    let mut check = report.check(Topic::Mdevctl, "mdevctl");
    match &host.mdevctl {
        Some(path) => {
            check.pass(path.display().to_string());
        }
        None if has_mdevs(host) => {
            check
                .missing(Verdict::Fail, "it is not installed, so libvirt can neither start nor define mediated devices, nor show their displays")
                .fix("sudo apt install mdevctl # Fedora: sudo dnf install mdevctl");
        }
        None => {
            check.pass("it is not installed; this host has no mediated devices");
            return;
        }
    }
    let mut check = report.check(Topic::Attributes, "displays in virsh nodedev-dumpxml");
    if host.is_told_by_libvirt {
        check.pass("libvirt shows them itself, in the capability vfio_display");
        return;
    }
    if !host.attributes {
        check
            .warn("the settings say attributes = \"off\"")
            .fix("sudoedit /etc/gfxplane/gfxplane.toml # attributes = \"on\"; gfxplane nodedev-dumpxml shows displays without that");
        return;
    }
    match &host.libvirt {
        None => {
            check.unknown("libvirt's version is not known");
        }
        Some(version) if *version < Version::of(SHOWS_ATTRIBUTES) && host.wrapper => {
            check.pass(format!(
                "libvirt {version} shows them for devices that mdevctl has a definition of"
            ));
        }
        Some(version) if *version < Version::of(SHOWS_ATTRIBUTES) => {
            check
                .warn(format!("libvirt {version} shows no attributes of active devices"))
                .fix("sudo /usr/libexec/gfxplane/libvirt-9 on # docs/libvirt-9.md; gfxplane nodedev-dumpxml shows displays without that");
        }
        Some(version) => {
            check.pass(format!("libvirt {version}"));
        }
    }
}

/// Checks gfxplane's callout and notifier of mdevctl, and the callouts that mdevctl asks first. Of
/// several links to our callout, the last one counts. A link in `/usr/lib` does not answer if any
/// callout is in `/etc` (hooks/README.md).
pub(super) fn callouts(host: &Host, report: &mut Report) {
    if host.mdevctl.is_none() {
        return;
    }
    for callouts in [true, false] {
        scripts_of_mdevctl(host, callouts, report);
    }
}

fn scripts_of_mdevctl(host: &Host, callouts: bool, report: &mut Report) {
    let what = match callouts {
        true => "gfxplane's callout of mdevctl",
        false => "gfxplane's notifier of mdevctl",
    };
    let mut check = report.check(Topic::Callouts, what);
    if callouts && host.is_told_by_libvirt {
        check.pass("not needed: libvirt tells displays by itself");
        return;
    }
    let mut directories = host.scripts.iter().filter(|of| of.callouts == callouts);
    let scripts: Vec<&Script> = directories.clone().flat_map(|of| &of.scripts).collect();
    let place = match callouts {
        true => scripts.iter().rposition(|script| script.is_ours),
        false => scripts.iter().position(|script| script.is_ours),
    };
    let Some(place) = place else {
        if callouts {
            check
                .missing(Verdict::Warn, "it is not there")
                .fix("sudo systemctl enable --now gfxplane.service # it makes the callout while libvirt runs")
                .fix("echo 'callout = \"static\"' | sudo install -D -m 644 /dev/stdin /etc/gfxplane/conf.d/callout.toml && sudo gfxplane-helper callout # without the service");
            return;
        }
        let more = match directories.next() {
            None => "mdevctl's directory for it is not there",
            Some(_) => "it is not installed",
        };
        check.missing(Verdict::Warn, more).fix(REINSTALL);
        return;
    };
    let ours = scripts[place];
    let path = ours.path.display();
    if !ours.executable {
        check
            .fail(format!("{path} can't be executed, or leads nowhere"))
            .fix(REINSTALL);
        return;
    }
    // A file in /etc counts even if it can't be executed.
    let mut later = scripts.iter().filter(|s| s.path.starts_with("/etc"));
    if callouts
        && !ours.path.starts_with("/etc")
        && let Some(other) = later.next()
    {
        let other = other.path.display();
        check
            .fail(format!(
                "{path} answers nothing, because {other} exists and gfxplane has no link beside it"
            ))
            .fix(REINSTALL);
        return;
    }
    check.pass(path.to_string());
    // mdevctl runs every notifier, but only the first callout that answers.
    let others = |script: &&&Script| script.executable && !script.is_ours;
    let before = scripts[..place].iter().filter(others);
    let before = listed(before.map(|script| &script.path));
    if callouts && !before.is_empty() {
        let more = format!(
            "{before}: for a device that one of them answers for, virsh shows its attributes instead of gfxplane's, which gfxplane list and gfxplane nodedev-dumpxml show"
        );
        report
            .check(Topic::Callouts, "callouts that are asked before it")
            .warn(more);
    }
}

/// Checks whether gfxplane's qemu hook is installed and executable, whether libvirt's daemons have
/// seen it, and whether other qemu hooks exist.
pub(super) fn hook(host: &Host, report: &mut Report) {
    let mut check = report.check(Topic::Hook, "gfxplane's qemu hook");
    if host.hooks_hidden {
        check
            .warn("/etc/libvirt/hooks can't be looked into by this user")
            .fix("sudo gfxplane doctor");
        return;
    }
    let Some(ours) = host.hooks.iter().find(|hook| hook.is_ours) else {
        check
            .missing(Verdict::Warn, "it is not in /etc/libvirt/hooks/qemu.d, so nothing stops a start that QEMU will refuse and says how to fix it")
            .fix(REINSTALL);
        return;
    };
    let path = ours.path.display();
    if !ours.executable {
        check
            .fail(format!("{path} can't be executed, so libvirt ignores it"))
            .fix(format!("sudo chmod 755 {path}"));
        return;
    }
    let mode = match host.hook_mode {
        HookMode::Off => "; hook = \"off\" in the settings: it checks nothing",
        HookMode::Warn => "; the settings say hook = \"warn\": it keeps no domain from starting",
        HookMode::Enforce => "",
    };
    check.pass(format!("{path}{mode}"));
    let others = host.hooks.iter().filter(|hook| !hook.is_ours);
    let others = others.filter(|hook| hook.executable);
    let others = listed(others.map(|hook| &hook.path));
    if !others.is_empty() {
        let more = format!(
            "{others}: any of them can keep a domain from starting, and those after gfxplane's have the last word on the XML of domains that are restored or come from elsewhere"
        );
        report.check(Topic::Hook, "other qemu hooks").warn(more);
    }
    seen(host, ours, report);
}

/// Checks whether libvirt's running daemons have seen the hook. A daemon looks for hooks when it
/// starts and when it reloads. If it finds any hook at that time, it also runs hooks that appear in
/// `qemu.d` later (src/util/virhook.c, `virHookInitialize` and `virHookCall`).
fn seen(host: &Host, ours: &Script, report: &mut Report) {
    let mut check = report.check(Topic::Hook, "qemu hook as libvirt sees it");
    let changed = |script: &Script| {
        let access = host.moment.access.get(&script.path)?;
        Some(access.changed)
    };
    if host.moment.daemons.is_empty() {
        check.pass("no daemon of libvirt's runs; it looks when it starts");
    }
    for daemon in &host.moment.daemons {
        let mut check = report.check(Topic::Hook, format!("qemu hook as {} sees it", daemon.name));
        let Some(since) = daemon.since else {
            check
                .warn("this user can't see when it was started")
                .fix("sudo gfxplane doctor");
            continue;
        };
        let there = |script: &Script| changed(script).is_some_and(|at| at <= since);
        let runs = |script: &&Script| script.executable;
        if host.hooks.iter().filter(runs).any(there) {
            check.pass("seen");
        } else if changed(ours).is_none() {
            check.warn("it is not known when the hook was installed");
        } else {
            check
                .warn("the hook was installed or changed after it was started or last reloaded, so it may not run the hook")
                .fix(format!("sudo systemctl reload {} # guests run on", daemon.name));
        }
    }
}

fn is_link(host: &Host, hook: &Script) -> bool {
    let access = host.moment.access.get(&hook.path);
    access.is_some_and(|access| access.link)
}

/// Checks whether SELinux lets libvirt's daemons run the hook. The messages describe Fedora's
/// policy (docs/selinux.md): virtqemud may not execute files of the type that `/etc/libvirt/hooks`
/// has, whether `virt_hooks_unconfined` is on or off, and this shows only when a domain is started.
/// libvirtd is not confined.
fn selinux(host: &Host, report: &mut Report) {
    let Some(selinux) = host.selinux else { return };
    let Some(hook) = host.hooks.iter().find(|hook| hook.is_ours) else {
        return;
    };
    let mut check = report.check(Topic::Confinement, "qemu hook under SELinux");
    let boolean = match selinux.hooks_unconfined {
        Some(true) => "; virt_hooks_unconfined is on, but does not apply to virtqemud",
        Some(false) => "; virt_hooks_unconfined is off, but does not apply to virtqemud",
        None => "",
    };
    let monolithic = host.moment.daemons.iter().any(|d| d.name == "libvirtd");
    let is_link = is_link(host, hook);
    if !selinux.enforcing {
        check.pass("it is not enforced");
    } else if monolithic {
        check.pass("it does not confine libvirtd");
    } else if is_link {
        check.pass(format!("it is a link to a program{boolean}"));
    } else {
        let more = format!(
            "it is a file of type virt_hook_t, which virtqemud may not execute, and then no domain starts{boolean}"
        );
        check.fail(more).fix(format!(
            "sudo install -D {hook} {HOOK_PROGRAM} && sudo ln -sf {HOOK_PROGRAM} {hook}",
            hook = hook.path.display()
        ));
    }
}

/// Warns if AppArmor denies guests a dbus-daemon. Knows nothing about SELinux.
pub(super) fn dbus_daemon(host: &Host, report: &mut Report) {
    if host.dbus_daemon_denied != Some(true) {
        return;
    }
    let more = "it does not, so no domain with <graphics type='dbus'/> on a bus starts; a domain with p2p='yes' needs no dbus-daemon";
    report
        .check(Topic::DbusDaemon, "dbus-daemon of a guest under AppArmor")
        .warn(more)
        .fix(ALLOW_DBUS_DAEMON)
        .fix(format!(
            "{} # libvirt 9",
            ALLOW_DBUS_DAEMON.replace(
                "sudo install -D -m 644 /dev/stdin /etc/apparmor.d/abstractions/libvirt-qemu.d/dbus",
                "sudo tee -a /etc/apparmor.d/local/abstractions/libvirt-qemu"
            )
        ));
}

/// Checks whether SELinux and AppArmor let libvirt's daemons run the hook.
pub(super) fn confinement(host: &Host, report: &mut Report) {
    selinux(host, report);
    for profile in &host.profiles {
        let mut daemons = host.moment.daemons.iter();
        let label = daemons
            .find(|daemon| daemon.name == profile.daemon)
            .and_then(|daemon| daemon.label.as_deref());
        let what = format!("AppArmor's profile of {}", profile.daemon);
        let mut check = report.check(Topic::Confinement, what);
        // A daemon that does not run has no label: its profile counts as enforced.
        let enforced = label.is_none_or(|label| label.ends_with("(enforce)"));
        let verdict = if enforced {
            Verdict::Fail
        } else {
            Verdict::Warn
        };
        let mut hooks = host.hooks.iter();
        let linked = hooks.find(|hook| hook.is_ours && is_link(host, hook));
        if let Some(hook) = linked.filter(|_| !profile.hook_program) {
            let hook = hook.path.display();
            let more = format!(
                "the hook is a link to {HOOK_PROGRAM}, which the profile does not let libvirt run, so no domain starts"
            );
            check.line(verdict, more).fix(format!(
                "sudo cp --remove-destination {HOOK_PROGRAM} {hook}"
            ));
            continue;
        }
        let refused: Vec<&str> = [
            (!profile.hooks).then_some("/etc/libvirt/hooks/**"),
            (!profile.helper).then_some("/usr/bin/gfxplane-helper"),
        ]
        .into_iter()
        .flatten()
        .collect();
        if refused.is_empty() {
            check.pass(label.unwrap_or("not known whether it is enforced"));
            continue;
        }
        let more = format!("it does not let the hook run {}", refused.join(" and "));
        check
            .line(verdict, more)
            .fix(format!(
                "printf '%s\\n' '/etc/libvirt/hooks/** rmix,' '/usr/bin/gfxplane-helper PUx,' | sudo tee -a /etc/apparmor.d/local/usr.sbin.{} && sudo systemctl reload apparmor",
                profile.daemon
            ));
    }
}
