//! Checks mdevctl, the callouts and the hooks that libvirt runs, and what may keep libvirt from
//! running them.

use crate::device::version::Version;
use crate::explain::doctor::{
    HOOK_PROGRAM, Host, REINSTALL, Report, Script, Topic, Verdict, listed,
};
use crate::host::config::HookMode;
use crate::predict::abilities::ALLOW_DBUS_DAEMON;

/// The first libvirt that shows a callout's attributes of an active device (NEWS 10.1.0; seen with
/// 9.0, 11.3 and 12.8).
const SHOWS_ATTRIBUTES: &[u32] = &[10, 1];

/// The first libvirt that runs the scripts in `qemu.d` (libvirt docs/hooks.rst).
const HOOK_DIRECTORIES: &[u32] = &[6, 5];

/// Returns whether the host has mediated devices or can create them.
fn has_mdevs(host: &Host) -> bool {
    let mut devices = host.inventory.devices.iter();
    !host.inventory.types.is_empty() || devices.any(|entry| entry.bus == "mdev")
}

/// Checks mdevctl, and whether libvirt shows its attributes.
pub(super) fn mdevctl(host: &Host, report: &mut Report) {
    let what = "mdevctl";
    match &host.mdevctl {
        Some(path) => {
            report.line(
                Topic::Mdevctl,
                what,
                Verdict::Pass,
                path.display().to_string(),
            );
        }
        None if has_mdevs(host) => {
            report
                .missing(
                    Topic::Mdevctl,
                    what,
                    Verdict::Fail,
                    "it is not installed: libvirt can neither start nor define mediated devices, and shows nothing of gfxplane's",
                )
                .fix("sudo apt install mdevctl # Fedora: sudo dnf install mdevctl");
        }
        None => {
            report.line(
                Topic::Mdevctl,
                what,
                Verdict::Pass,
                "it is not installed; this host has no mediated devices",
            );
            return;
        }
    }
    let what = "displays in virsh nodedev-dumpxml";
    if host.is_told_by_libvirt {
        let more = "libvirt tells them by itself, in the capability vfio_display";
        report.line(Topic::Attributes, what, Verdict::Pass, more);
        return;
    }
    if !host.attributes {
        let more = "the settings say attributes = \"off\"";
        report
            .line(Topic::Attributes, what, Verdict::Warn, more)
            .fix("sudoedit /etc/gfxplane/gfxplane.toml # attributes = \"on\"; gfxplane nodedev-dumpxml shows displays without that");
        return;
    }
    match &host.libvirt {
        None => {
            let more = "libvirt's version is not known";
            report.unknown(Topic::Attributes, what, more);
        }
        Some(version) if *version < Version::of(SHOWS_ATTRIBUTES) && host.wrapper => {
            let more = format!("libvirt {version}, of devices that mdevctl has a definition of");
            report.line(Topic::Attributes, what, Verdict::Pass, more);
        }
        Some(version) if *version < Version::of(SHOWS_ATTRIBUTES) => {
            report
                .line(
                    Topic::Attributes,
                    what,
                    Verdict::Warn,
                    format!("libvirt {version} shows no attributes of active devices"),
                )
                .fix("sudo /usr/libexec/gfxplane/libvirt-9 on # docs/libvirt-9.md; gfxplane nodedev-dumpxml shows displays without that");
        }
        Some(version) => {
            let more = format!("libvirt {version}");
            report.line(Topic::Attributes, what, Verdict::Pass, more);
        }
    }
}

/// Checks mdevctl's callouts and notifiers: ours, and the scripts that come before ours. If there
/// are several links to our callout, the last one counts. The one in `/usr/lib` does not answer
/// while somebody else's is in `/etc` (hooks/README.md).
pub(super) fn callouts(host: &Host, report: &mut Report) {
    if host.mdevctl.is_none() {
        return;
    }
    for (callouts, what) in [
        (true, "gfxplane's callout of mdevctl"),
        (false, "gfxplane's notifier of mdevctl"),
    ] {
        if callouts && host.is_told_by_libvirt {
            let more = "not needed: libvirt tells displays by itself";
            report.line(Topic::Callouts, what, Verdict::Pass, more);
            continue;
        }
        let directories = || {
            host.scripts
                .iter()
                .filter(move |of| of.callouts == callouts)
        };
        let scripts: Vec<&Script> = directories().flat_map(|of| &of.scripts).collect();
        let place = match callouts {
            true => scripts.iter().rposition(|script| script.is_ours),
            false => scripts.iter().position(|script| script.is_ours),
        };
        let Some(place) = place else {
            let (more, fix) = match (callouts, directories().next()) {
                (true, _) => (
                    "it is not there",
                    "sudo systemctl enable --now gfxplane.service # it makes the callout while libvirt runs",
                ),
                (false, None) => ("mdevctl's directory for it is not there", REINSTALL),
                (false, Some(_)) => ("it is not installed", REINSTALL),
            };
            let line = report.missing(Topic::Callouts, what, Verdict::Warn, more);
            line.fix(fix);
            if callouts {
                line.fix("echo 'callout = \"static\"' | sudo install -D -m 644 /dev/stdin /etc/gfxplane/conf.d/callout.toml && sudo gfxplane-helper callout # without the service");
            }
            continue;
        };
        let ours = scripts[place];
        if !ours.executable {
            report
                .line(
                    Topic::Callouts,
                    what,
                    Verdict::Fail,
                    format!(
                        "{} can't be executed, or leads nowhere",
                        ours.path.display()
                    ),
                )
                .fix(REINSTALL);
            continue;
        }
        // A file there that can't be executed counts, too.
        let mut later = scripts.iter().filter(|s| s.path.starts_with("/etc"));
        if callouts
            && !ours.path.starts_with("/etc")
            && let Some(other) = later.next()
        {
            report
                .line(
                    Topic::Callouts,
                    what,
                    Verdict::Fail,
                    format!(
                        "{} answers for nothing: {} is there, and no link of gfxplane's beside it",
                        ours.path.display(),
                        other.path.display()
                    ),
                )
                .fix(REINSTALL);
            continue;
        }
        report.line(
            Topic::Callouts,
            what,
            Verdict::Pass,
            ours.path.display().to_string(),
        );
        // mdevctl runs every notifier, but only the first callout that answers.
        let others = |script: &&&Script| script.executable && !script.is_ours;
        let before: Vec<&&Script> = scripts[..place].iter().filter(others).collect();
        if callouts && !before.is_empty() {
            report
                .line(
                    Topic::Callouts,
                    "callouts that are asked before it",
                    Verdict::Warn,
                    format!(
                        "{}: for a device that one of them answers for, virsh shows its attributes instead of gfxplane's, which gfxplane list and gfxplane nodedev-dumpxml show",
                        listed(before.iter().map(|script| &script.path))
                    ),
                );
        }
    }
}

/// Checks that libvirt's qemu hook is installed, executable, and seen by the running daemon.
pub(super) fn hook(host: &Host, report: &mut Report) {
    let what = "gfxplane's qemu hook";
    if host.hooks_hidden {
        report
            .line(
                Topic::Hook,
                what,
                Verdict::Warn,
                "/etc/libvirt/hooks can't be looked into by this user",
            )
            .fix("sudo gfxplane doctor");
        return;
    }
    let place = host.hooks.iter().position(|hook| hook.is_ours);
    let Some(place) = place else {
        report
            .missing(
                Topic::Hook,
                what,
                Verdict::Warn,
                "it is not in /etc/libvirt/hooks/qemu.d: nobody says before a start what QEMU would refuse",
            )
            .fix(REINSTALL);
        return;
    };
    let ours = &host.hooks[place];
    if !ours.executable {
        report
            .line(
                Topic::Hook,
                what,
                Verdict::Fail,
                format!(
                    "{} can't be executed, so libvirt passes it over",
                    ours.path.display()
                ),
            )
            .fix(format!("sudo chmod 755 {}", ours.path.display()));
        return;
    }
    if let Some(version) = host.libvirt.as_ref()
        && *version < Version::of(HOOK_DIRECTORIES)
    {
        report
            .line(
                Topic::Hook,
                what,
                Verdict::Fail,
                format!("libvirt {version} does not look into qemu.d"),
            )
            .fix("sudo cp /etc/libvirt/hooks/qemu.d/50-gfxplane /etc/libvirt/hooks/qemu # if there is none yet; libvirt 6.5 and later need none");
        return;
    }
    let mode = match host.hook_mode {
        HookMode::Off => "; the settings say hook = \"off\": it looks at nothing",
        HookMode::Warn => "; the settings say hook = \"warn\": it keeps no domain from starting",
        HookMode::Enforce => "",
    };
    report.line(
        Topic::Hook,
        what,
        Verdict::Pass,
        format!("{}{mode}", ours.path.display()),
    );
    let others: Vec<&Script> = host
        .hooks
        .iter()
        .filter(|hook| !hook.is_ours && hook.executable)
        .collect();
    if !others.is_empty() {
        report
            .line(
                Topic::Hook,
                "other qemu hooks",
                Verdict::Warn,
                format!(
                    "{}: any of them can keep a domain from starting, and those after gfxplane's have the last word on the XML of domains that are restored or come from elsewhere",
                    listed(others.iter().map(|hook| &hook.path))
                ),
            );
    }
    seen(host, ours, report);
}

/// Checks whether the running daemons have seen the hook. libvirt looks for hooks when it starts
/// and when it is told to reload. If it has found any hook then, it also runs hooks that appear in
/// `qemu.d` later (src/util/virhook.c, `virHookInitialize` and `virHookCall`).
fn seen(host: &Host, ours: &Script, report: &mut Report) {
    let what = "qemu hook as libvirt sees it";
    let changed = |script: &Script| {
        let access = host.moment.access.get(&script.path)?;
        Some(access.changed)
    };
    if host.moment.daemons.is_empty() {
        let more = "no daemon of libvirt's runs; it looks when it starts";
        report.line(Topic::Hook, what, Verdict::Pass, more);
    }
    for daemon in &host.moment.daemons {
        let what = format!("qemu hook as {} sees it", daemon.name);
        let Some(since) = daemon.since else {
            let more = "since when it runs can't be seen by this user";
            report
                .line(Topic::Hook, what, Verdict::Warn, more)
                .fix("sudo gfxplane doctor");
            continue;
        };
        let there = |script: &Script| changed(script).is_some_and(|at| at <= since);
        let runs = |script: &&Script| script.executable;
        if host.hooks.iter().filter(runs).any(there) {
            report.line(Topic::Hook, what, Verdict::Pass, "seen");
        } else if changed(ours).is_none() {
            let more = "since when the hook is there is not known";
            report.line(Topic::Hook, what, Verdict::Warn, more);
        } else {
            report
                .line(
                    Topic::Hook,
                    what,
                    Verdict::Warn,
                    "there was no hook yet, or none as it is now, when it was started or last told to look: it may run none",
                )
                .fix(format!("sudo systemctl reload {} # guests run on", daemon.name));
        }
    }
}

fn is_link(host: &Host, hook: &Script) -> bool {
    let access = host.moment.access.get(&hook.path);
    access.is_some_and(|access| access.link)
}

/// Checks whether SELinux lets libvirt's daemons run the hook. The words here are about Fedora's
/// policy (docs/selinux.md): virtqemud may not execute files of the type of `/etc/libvirt/hooks`,
/// whatever the boolean says, and finds out when a domain is started. libvirtd is not confined.
fn selinux(host: &Host, report: &mut Report) {
    let Some(selinux) = host.selinux else { return };
    let Some(hook) = host.hooks.iter().find(|hook| hook.is_ours) else {
        return;
    };
    let what = "qemu hook under SELinux";
    let boolean = match selinux.hooks_unconfined {
        Some(true) => "; virt_hooks_unconfined is on, and says nothing of virtqemud",
        Some(false) => "; virt_hooks_unconfined is off, and says nothing of virtqemud",
        None => "",
    };
    let monolithic = host.moment.daemons.iter().any(|d| d.name == "libvirtd");
    let is_link = is_link(host, hook);
    if !selinux.enforcing {
        report.line(
            Topic::Confinement,
            what,
            Verdict::Pass,
            "it is not enforced",
        );
    } else if monolithic {
        let more = "it does not confine libvirtd";
        report.line(Topic::Confinement, what, Verdict::Pass, more);
    } else if is_link {
        let more = format!("it is a link to a program{boolean}");
        report.line(Topic::Confinement, what, Verdict::Pass, more);
    } else {
        let more = format!(
            "it is a file of type virt_hook_t, which virtqemud may not execute, and then no domain starts{boolean}"
        );
        report
            .line(Topic::Confinement, what, Verdict::Fail, more)
            .fix(format!(
                "sudo install -D {hook} {HOOK_PROGRAM} && sudo ln -sf {HOOK_PROGRAM} {hook}",
                hook = hook.path.display()
            ));
    }
}

/// Checks whether a guest may have a D-Bus daemon. Writes no line under SELinux, where that is not
/// known.
pub(super) fn dbus_daemon(host: &Host, report: &mut Report) {
    if host.dbus_daemon_denied != Some(true) {
        return;
    }
    report
        .line(
            Topic::DbusDaemon,
            "dbus-daemon of a guest under AppArmor",
            Verdict::Warn,
            "it does not: no domain with <graphics type='dbus'/> on a bus starts; one with p2p='yes' needs none",
        )
        .fix(ALLOW_DBUS_DAEMON)
        .fix(format!(
            "{} # libvirt 9",
            ALLOW_DBUS_DAEMON.replace(
                "sudo install -D -m 644 /dev/stdin /etc/apparmor.d/abstractions/libvirt-qemu.d/dbus",
                "sudo tee -a /etc/apparmor.d/local/abstractions/libvirt-qemu"
            )
        ));
}

/// Checks SELinux and AppArmor.
pub(super) fn confinement(host: &Host, report: &mut Report) {
    selinux(host, report);
    for profile in &host.profiles {
        let mut daemons = host.moment.daemons.iter();
        let label = daemons
            .find(|daemon| daemon.name == profile.daemon)
            .and_then(|daemon| daemon.label.as_deref());
        let what = format!("AppArmor's profile of {}", profile.daemon);
        // For a daemon that does not run, nobody knows how it will be confined.
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
            report
                .line(
                    Topic::Confinement,
                    what,
                    verdict,
                    format!("the hook is a link to what it does not let libvirt run, {HOOK_PROGRAM}, and then no domain starts"),
                )
                .fix(format!("sudo cp --remove-destination {HOOK_PROGRAM} {hook}"));
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
            let more = label.unwrap_or("not known whether it is enforced");
            report.line(Topic::Confinement, what, Verdict::Pass, more);
            continue;
        }
        report
            .line(
                Topic::Confinement,
                what,
                verdict,
                format!("it does not let the hook run {}", refused.join(" and ")),
            )
            .fix(format!(
                "printf '%s\\n' '/etc/libvirt/hooks/** rmix,' '/usr/bin/gfxplane-helper PUx,' | sudo tee -a /etc/apparmor.d/local/usr.sbin.{} && sudo systemctl reload apparmor",
                profile.daemon
            ));
    }
}
