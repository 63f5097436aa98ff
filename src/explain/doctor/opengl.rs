//! Checks OpenGL: render nodes, the users who may open them, the libraries, and QEMU's support.

use std::path::Path;

use crate::explain::doctor::{Host, Report, Topic, Verdict, listed};
use crate::predict::abilities::Abilities;
use crate::publish::gpus::load_driver;

/// Returns the verdict about a missing part of OpenGL, and a text to add to the line: a failure if
/// a device of the host may hand over a dmabuf, otherwise a warning.
fn serious(host: &Host) -> (Verdict, &'static str) {
    if host.has_dmabuf() {
        (Verdict::Fail, "")
    } else {
        (
            Verdict::Warn,
            " (no device of this host is known to need one)",
        )
    }
}

/// Checks the render nodes, and whether QEMU's user may open them.
pub(super) fn render_nodes(host: &Host, report: &mut Report) {
    let mut check = report.check(Topic::RenderNodes, "render nodes");
    if host.render_nodes.is_empty() {
        let (verdict, who) = serious(host);
        let more = format!("there is none in /dev/dri{who}");
        let line = check.missing(verdict, more);
        for gpu in &host.inventory.gpus {
            match gpu.driver.as_deref() {
                None => line.fix(load_driver(&gpu.address)),
                Some("nvidia") => line.fix("sudo modprobe nvidia-drm modeset=1"),
                Some(_) => line,
            };
        }
        line.fix("sudo modprobe vgem # without a GPU: renders in software");
        return;
    }
    check.pass(listed(host.render_nodes.iter().map(|node| &node.path)));
    if host.render_nodes.len() > 1 {
        report
            .check(Topic::RenderNodes, "choice of the render node")
            .warn("if a domain names no render node, libvirt uses the first one that it finds")
            .fix("ls -l /dev/dri/by-path # lists the nodes for <gl rendernode='/dev/dri/by-path/…'/>; gfxplane fixup writes the node of the device's own GPU");
    }
    for node in &host.render_nodes {
        access(host, &node.path, node.driver.as_deref(), report);
    }
}

fn access(host: &Host, path: &Path, driver: Option<&str>, report: &mut Report) {
    if driver == Some("nvidia") {
        report
            .check(Topic::RenderNodes, format!("driver of {}", path.display()))
            .warn("NVIDIA's own: QEMU needs EGL extensions of Mesa's, which it may lack (\"egl: eglInitialize failed\")")
            .fix("ls -l /dev/dri/by-path # a domain names another GPU's by <gl rendernode='/dev/dri/by-path/…'/>");
    }
    let mut check = report.check(Topic::RenderNodes, format!("access to {}", path.display()));
    let (Some(access), Some(qemu)) = (host.moment.access.get(path), &host.moment.qemu) else {
        check.unknown("the user that libvirt runs QEMU as, or the owner of the node, is not known");
        return;
    };
    let whose = format!("{} {}:{}", access.mode, access.user, access.group);
    if qemu.own_dev {
        check.pass(format!(
            "{whose}; libvirt opens it to those guests whose graphics name it, or have OpenGL and name none"
        ));
    } else if access.is_open_to(&qemu.user, &qemu.groups) {
        check.pass(format!("{whose}; QEMU runs as {}", qemu.user));
    } else {
        let (verdict, who) = serious(host);
        let more = format!(
            "{whose}; QEMU runs as {}, and qemu.conf keeps libvirt from opening it to guests{who}",
            qemu.user
        );
        check
            .line(verdict, more)
            .fix("sudoedit /etc/libvirt/qemu.conf # namespaces = [ \"mount\" ] and dynamic_ownership = 1, as is the default")
            .fix(format!("sudo usermod -aG {} {}", access.group, qemu.user));
    }
}

/// Checks whether an EGL library is installed, which QEMU's OpenGL needs.
pub(super) fn libraries(host: &Host, report: &mut Report) {
    let mut check = report.check(Topic::OpenGl, "EGL");
    if host.egl_vendor {
        check.pass("");
        return;
    }
    let (verdict, who) = serious(host);
    let more = format!("no library for it is in egl_vendor.d{who}");
    check
        .missing(verdict, more)
        .fix("sudo apt install libegl1 libgl1-mesa-dri # Debian, Ubuntu")
        .fix("sudo dnf install mesa-libEGL mesa-dri-drivers # Fedora");
}

/// Checks the OpenGL support of each QEMU.
pub(super) fn emulators(host: &Host, report: &mut Report) {
    if host.emulators.is_empty() {
        report
            .check(Topic::OpenGl, "QEMU")
            .missing(Verdict::Warn, "none was found where libvirt looks for one")
            .fix("sudo apt install qemu-system-x86 # Debian, Ubuntu")
            .fix("sudo dnf install qemu-kvm # Fedora");
    }
    for (emulator, abilities) in &host.emulators {
        one(host, emulator, abilities, report);
    }
}

/// Returns QEMU's frontends with OpenGL; empty if QEMU's frontends are not known.
fn with_opengl(abilities: &Abilities) -> Vec<&'static str> {
    let is_there = |frontend: &&str| {
        let frontends = abilities.frontends.as_ref();
        frontends.is_some_and(|frontends| frontends.contains(*frontend))
    };
    let all = ["spice-gl", "dbus", "egl-headless"].into_iter();
    all.filter(is_there).collect()
}

fn one(host: &Host, emulator: &Path, abilities: &Abilities, report: &mut Report) {
    let mut check = report.check(Topic::OpenGl, format!("OpenGL in {}", emulator.display()));
    let Some(frontends) = &abilities.frontends else {
        check
            .unknown("libvirt was not asked about it yet, or did not answer")
            .fix("gfxplane qemu");
        return;
    };
    let with_gl = with_opengl(abilities);
    if with_gl.is_empty() {
        let (mut verdict, who) = serious(host);
        // Perhaps no domain that needs OpenGL uses this emulator.
        let mut emulators = host.emulators.iter();
        if emulators.any(|(_, abilities)| !with_opengl(abilities).is_empty()) {
            verdict = Verdict::Warn;
        }
        let more = format!("none of its frontends has it: its modules are not installed{who}");
        check
            .line(verdict, more)
            .fix("sudo apt install qemu-system-modules-opengl qemu-system-modules-spice # Debian 13; qemu-system-gui in Debian 12")
            .fix("sudo dnf install qemu-ui-opengl qemu-ui-egl-headless qemu-ui-spice-core # Fedora");
    } else if !frontends.contains("spice-gl") && !frontends.contains("dbus") {
        check
            .warn("egl-headless alone: a dmabuf can be shown by VNC with QEMU before 9.0 only")
            .fix("sudo apt install qemu-system-modules-spice # Debian 13")
            .fix("sudo dnf install qemu-ui-spice-core # Fedora");
    } else {
        check.pass(with_gl.join(", "));
    }
}
