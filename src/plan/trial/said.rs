//! Interprets the answer of libvirt and QEMU to a start, and compares it with the prediction.

use crate::device::facts::{Display, Reason};
use crate::plan::{Plan, Topic, words};
use crate::predict::{Outcome, qemu_messages as words_of_qemu};

/// The subject of libvirt's or QEMU's answer to a start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answers {
    /// The answer is about the domain.
    TheDomain,
    /// The answer is about a device that is in use, so the domain itself was not judged.
    InUse,
    /// The answer is about a device that has disappeared.
    Gone,
}

/// Returns the subject of a message: the domain, unless the message is about a device's state.
///
/// Messages about devices in use: libvirt src/hypervisor/virhostdev.c ("… is in use by driver
/// QEMU, domain …"); QEMU hw/vfio/container.c and iommufd.c, with the kernel's EBUSY.
pub(crate) fn about(message: &str) -> Answers {
    let has = |text: &str| message.contains(text);
    let vfio = has("vfio") || has("iommufd");
    if has("is in use by driver") || vfio && has("Device or resource busy") {
        Answers::InUse
    } else if vfio && has("no such host device") {
        Answers::Gone
    } else {
        Answers::TheDomain
    }
}

/// Returns whether a refusal is about the accelerator (KVM or TCG). QEMU has not opened a device
/// at that time, so the refusal says nothing about devices.
///
/// QEMU: system/vl.c, `do_configure_accelerator`; accel/kvm/kvm-all.c, `kvm_init`. libvirt:
/// src/qemu/qemu_capabilities.c, `virQEMUCapsCacheLookupDefault`, and the check of a domain's
/// type against the capabilities.
pub(crate) fn is_of_accelerator(message: &str) -> bool {
    [
        "invalid accelerator",
        "no accelerator found",
        "failed to initialize kvm",
        "failed to initialize KVM",
        "Could not access KVM kernel module",
        "does not support virt type",
    ]
    .iter()
    .any(|words| message.contains(words))
}

/// Returns the display of a device, from a start of a QEMU without OpenGL that has only this vfio
/// device, with `display=on`. `message` is QEMU's refusal; `None` if QEMU started.
///
/// QEMU asks the device for dmabuf first, and refuses a dmabuf for lack of OpenGL. So if QEMU
/// starts, the display is a region. Any other message becomes the reason for [`Display::Unknown`].
pub fn display(message: Option<&str>) -> Display {
    let Some(message) = message else {
        return Display::from_answers(false, true);
    };
    let has = |text: &str| message.contains(text);
    if has(words_of_qemu::DMABUF_NEEDS_OPENGL) {
        return Display::from_answers(true, false);
    } else if has(words_of_qemu::NO_DISPLAY) {
        return Display::NONE;
    }
    let vfio = has("vfio") || has("iommufd");
    Display::Unknown(match about(message) {
        Answers::InUse => Reason::InUse,
        Answers::Gone => Reason::Vanished,
        // kvmgt: ESRCH without a VM.
        Answers::TheDomain if vfio && has("No such process") => Reason::NeedsVm,
        Answers::TheDomain
            if vfio && (has("Permission denied") || has("Operation not permitted")) =>
        {
            Reason::Permission
        }
        Answers::TheDomain => Reason::OpenFailed,
    })
}

/// Returns QEMU's messages from its output, without empty lines. Also leaves out warnings and the
/// line about the VNC server, unless the output has nothing else.
pub fn words_of(printed: &str) -> String {
    let lines: Vec<&str> = printed
        .lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty())
        .collect();
    let grave: Vec<&str> = lines
        .iter()
        .filter(|line| !line.starts_with("warning: ") && !line.starts_with("VNC server running"))
        .copied()
        .collect();
    if grave.is_empty() { lines } else { grave }.join("\n")
}

/// Returns the meaning of an answer, in sentences: whether it was predicted, its reason, and what
/// `gfxplane fixup` would do. Empty if there was no prediction, or if the domain starts as
/// predicted.
///
/// `message` is the refusal; `None` if the domain starts. `plan` is the plan for the whole domain
/// as it is; `None` if there was no prediction. `better` is the plan with all changes that the
/// policy allows; if `None`, the changes of `plan` count. `missing` are the left-out parts that may
/// explain a wrong prediction.
pub fn explain(
    message: Option<&str>,
    plan: Option<&Plan>,
    better: Option<&Plan>,
    missing: &[&str],
) -> Vec<String> {
    let Some(plan) = plan else {
        return Vec::new();
    };
    let mut said = Vec::new();
    let report = if missing.is_empty() {
        "please report this, with `gfxplane collect DIR`".to_owned()
    } else {
        format!(
            "the reason may be something that was left out: {}",
            missing.join(", ")
        )
    };
    match (message, &plan.before.outcome) {
        (None, Outcome::Yes) => {}
        (None, Outcome::No(refusal)) => said.push(format!(
            "gfxplane predicted that {} refuses it (\"{}\"), and was wrong: {report}",
            refusal.by().word(),
            refusal.message
        )),
        (None, Outcome::Doubt { because, .. }) => {
            said.push(format!("gfxplane was in doubt: {because}"));
        }
        (Some(_), Outcome::Yes) => {
            said.push(format!("gfxplane predicted that it starts: {report}"));
        }
        (Some(message), Outcome::No(refusal)) if message.contains(&refusal.message) => {
            said.push(format!(
                "as gfxplane predicted, {} refuses it for {}",
                refusal.by().word(),
                refusal.about
            ));
        }
        (Some(_), Outcome::No(refusal)) => said.push(format!(
            "gfxplane predicted another message (\"{}\"): {report}",
            refusal.message
        )),
        (Some(message), Outcome::Doubt { refusal, because }) => {
            let as_feared = if message.contains(&refusal.message) {
                "as it feared"
            } else {
                "with another message than it expected"
            };
            said.push(format!(
                "gfxplane was in doubt ({because}); it is refused, {as_feared}"
            ));
        }
    }
    if message.is_some() {
        said.extend(fixes(better.unwrap_or(plan)));
    }
    said
}

/// Returns the changes that fixup would make, and the notes about the start with their fixes.
fn fixes(better: &Plan) -> Vec<String> {
    let mut said: Vec<String> = better
        .changes
        .iter()
        .map(|change| {
            let what = words(&change.action);
            format!("gfxplane fixup would change: {what}: {}", change.reason)
        })
        .collect();
    for note in better
        .notes
        .iter()
        .filter(|note| note.topic == Topic::Start)
    {
        said.push(note.about.before(&note.text));
        said.extend(note.fixes.iter().map(|fix| format!("fix: {fix}")));
    }
    said
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device::id::DeviceId;
    use crate::domain::Domain;
    use crate::domain::policy::{Policy, Wishes};
    use crate::plan::fixup::{Surroundings, fix};
    use crate::predict::abilities::Abilities;
    use crate::predict::screens::Known;
    use crate::predict::{About, Refusal, Stage};

    struct Nothing;

    impl Surroundings for Nothing {
        fn known(&self, _device: DeviceId) -> Known {
            Known::nothing(Reason::NotProbed)
        }

        fn abilities(&self, _domain: &Domain<'_, '_>) -> Abilities {
            Abilities::default()
        }
    }

    fn plan_with(outcome: Outcome) -> Plan {
        let text = "<domain type='kvm'><devices><hostdev type='mdev' model='vfio-pci' display='off'>\
                    <source><address uuid='c1a20000-0000-4000-8000-000000000002'/></source></hostdev></devices></domain>";
        let fixed = fix(text, &Nothing, &Policy::default(), &Wishes::default()).unwrap();
        let mut plan = fixed.plan.unwrap();
        plan.before.outcome = outcome;
        plan.changes.clear();
        plan.notes.clear();
        plan
    }

    fn refusal() -> Refusal {
        Refusal::new(Stage::Qemu, About::Domain, "opengl not available", true)
    }

    #[test]
    fn what_it_is_about() {
        for row in [
            "TheDomain vfio-display-dmabuf: opengl not available",
            "TheDomain binding socket: Device or resource busy",
            "InUse Requested operation is not valid: mediated device /sys/bus/mdev/devices/c1a2 is in use by driver QEMU, domain holder",
            "InUse -device {…}: vfio 0000:06:00.0: failed to open /dev/vfio/12: Device or resource busy",
            "Gone -device {…}: vfio /sys/bus/mdev/devices/c1a2: no such host device: No such file or directory",
        ] {
            let (expected, message) = row.split_once(' ').unwrap();
            assert_eq!(format!("{:?}", about(message)), expected, "{message}");
        }
    }

    #[test]
    fn what_is_about_no_device() {
        for message in [
            "-accel tcg: invalid accelerator tcg",
            "Could not access KVM kernel module: Permission denied\n\
             -accel kvm: failed to initialize kvm: Permission denied",
            "invalid argument: Emulator '/usr/bin/qemu-kvm' does not support virt type 'qemu'",
        ] {
            assert!(is_of_accelerator(message), "{message}");
        }
        let of_device = "vfio 0000:06:00.0: error getting device from group 12: No such process";
        for message in [of_device, words_of_qemu::DMABUF_NEEDS_OPENGL] {
            assert!(!is_of_accelerator(message), "{message}");
        }
    }

    #[test]
    fn what_qemu_tells_of_a_display() {
        // As QEMU 4.2 (GVT-g, gvt-linux issue 227), 10.0 (ours) and libvirt say it.
        assert_eq!(display(None), Display::from_answers(false, true));
        let dmabuf = "internal error: qemu unexpectedly closed the monitor: 2023-03-20T20:27:09.549017Z qemu-system-x86_64: -device vfio-pci,id=hostdev0,sysfsdev=/sys/bus/mdev/devices/1a99,display=on,bus=pci.9,addr=0x0: vfio 1a99: vfio-display-dmabuf: opengl not available";
        assert_eq!(display(Some(dmabuf)), Display::from_answers(true, false));
        let none = "-device {\"driver\":\"vfio-pci\",\"display\":\"on\"}: vfio c1a2: vfio: device doesn't support any (known) display method";
        assert_eq!(display(Some(none)), Display::NONE);
        let busy = "vfio 0000:06:00.0: failed to open /dev/vfio/12: Device or resource busy";
        let held = "mediated device c1a2 is in use by driver QEMU, domain holder";
        let gone = "vfio c1a2: no such host device: No such file or directory";
        let no_vm = "vfio c1a2: error getting device from group 3: No such process";
        let denied = "vfio c1a2: Could not open '/dev/vfio/3': Permission denied";
        let broken = "vfio c1a2: error getting device from group 3: Input/output error";
        for (message, expected) in [
            (busy, Reason::InUse),
            (held, Reason::InUse),
            (gone, Reason::Vanished),
            (no_vm, Reason::NeedsVm),
            (denied, Reason::Permission),
            (broken, Reason::OpenFailed),
            (words_of_qemu::CONSOLE_NEEDS_DMABUF, Reason::OpenFailed),
            ("", Reason::OpenFailed),
        ] {
            assert_eq!(display(Some(message)), Display::Unknown(expected));
        }
    }

    #[test]
    fn qemus_words() {
        let printed = "warning: x\na\n\nb \nVNC server running on 127.0.0.1:5900\n";
        assert_eq!(words_of(printed), "a\nb");
        assert_eq!(words_of("warning: x\n"), "warning: x");
        assert_eq!(words_of(""), "");
    }

    #[test]
    fn predictions_and_answers() {
        let doubt = || Outcome::Doubt {
            refusal: refusal(),
            because: "who knows".into(),
        };
        let no = || Outcome::No(refusal());
        let said = "x: opengl not available";
        let wrong = "gfxplane predicted that QEMU refuses it (\"opengl not available\"), and was wrong: please report this";
        let starts =
            "gfxplane predicted that it starts: please report this, with `gfxplane collect DIR`";
        let right = "as gfxplane predicted, QEMU refuses it for domain";
        let other =
            "gfxplane predicted another message (\"opengl not available\"): please report this";
        let left_out = "the reason may be something that was left out: -vnc";
        for (message, outcome, missing, expected) in [
            (None, no(), &[][..], wrong),
            (None, no(), &["-vnc"], left_out),
            (None, doubt(), &[], "gfxplane was in doubt: who knows"),
            (Some(said), Outcome::Yes, &[], starts),
            (Some(said), no(), &[], right),
            (Some("other"), no(), &[], other),
            (Some(said), doubt(), &[], "it is refused, as it feared"),
            (
                Some("other"),
                doubt(),
                &[],
                "with another message than it expected",
            ),
        ] {
            let explained = explain(message, Some(&plan_with(outcome)), None, missing);
            assert!(explained[0].contains(expected), "{explained:?}");
        }
        let yes = plan_with(Outcome::Yes);
        assert!(explain(None, Some(&yes), None, &[]).is_empty());
        assert!(
            explain(Some(said), None, None, &[]).is_empty(),
            "nothing was predicted"
        );
    }
}
