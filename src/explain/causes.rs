//! Why a message is said, and what helps: in general, and for a domain and its host.

use serde::Serialize;

use super::Found;
use super::find;
use super::messages::{Speaker, Symptom};
use super::situation::{Mended, Situation};
use crate::abilities::ALLOW_DBUS_DAEMON;
use crate::doctor::{self, Line, Topic, Verdict, examine};
use crate::evidence::Finding;
use crate::facts::{Display, Reason};
use crate::inventory::{DeviceEntry, State};
use crate::names::DeviceId;
use crate::policy::Consent;
use crate::predict::versions::{OPREGION_BY_DEFAULT, SPICE_GL_OVER_TCP, VNC_BINDS};
use crate::predict::{Danger, Outcome};

/// A message, explained.
#[derive(Debug, Clone, Serialize)]
pub struct Explanation {
    /// What is the matter.
    pub symptom: Symptom,
    /// The words by which it was recognised.
    pub message: &'static str,
    /// Who says it.
    pub by: Speaker,
    /// The versions that are known to.
    pub versions: &'static str,
    /// Where it is said.
    pub source: &'static str,
    /// The device that it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device: Option<DeviceId>,
    /// Why it is said.
    pub cause: String,
    /// What is known of this domain and this host.
    pub here: Vec<String>,
    /// What helps, the best first.
    pub cures: Vec<String>,
    /// What the first of them changes in the domain, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub changes: Vec<String>,
    /// The domain before and after that.
    #[serde(skip)]
    pub mended: Option<Mended>,
}

/// When `gfxplane fixup` is the cure.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fixup {
    /// Never.
    Never,
    /// If the domain would be refused.
    Refused,
    /// Whenever it would change something.
    Always,
}

/// What is known of a symptom.
struct Knowledge {
    cause: String,
    cures: Vec<String>,
    fixup: Fixup,
    /// Checks of [`doctor`] that are about the same.
    topics: &'static [Topic],
}

/// Explains a message. `domain`: the one that it is about, if that is known.
#[must_use]
pub fn explain(found: &Found, host: &doctor::Host, domain: Option<&Situation>) -> Explanation {
    let wording = found.wording;
    let knowledge = knowledge(found);
    let mut here = Vec::new();
    for id in devices(found, domain) {
        here.extend(of_device(id, host, wording.symptom));
    }
    let refused = match wording.symptom {
        // Which message it rests on stands beside it.
        Symptom::Vetoed => None,
        symptom => domain.map(|domain| prediction(domain, symptom, &mut here)),
    };
    let mended = domain.and_then(|domain| {
        let wanted = match knowledge.fixup {
            Fixup::Never => false,
            Fixup::Refused => refused == Some(true),
            Fixup::Always => true,
        };
        domain.mended.clone().filter(|_| wanted)
    });
    let mut cures = Vec::new();
    let mut changes = Vec::new();
    if let Some(mended) = &mended {
        changes.clone_from(&mended.changes);
        let lost: Vec<&str> = mended.loses.iter().map(|consent| loss(*consent)).collect();
        cures.push(match &lost[..] {
            [] => mended.command.clone(),
            _ => format!("{} ({})", mended.command, lost.join("; ")),
        });
    } else if let Some(domain) = domain.filter(|_| knowledge.fixup != Fixup::Never) {
        cures.extend(domain.cures.iter().cloned());
    }
    let ends = domain.is_some_and(|domain| viewers_end(domain, wording.symptom, &mut here));
    if domain.is_none() && knowledge.fixup != Fixup::Never {
        cures.push("gfxplane explain --domain DOMAIN shows what has to be changed in it".into());
    }
    // What is missing on the host may not show in a prediction.
    let by_domain_alone = knowledge.fixup == Fixup::Refused && knowledge.topics.is_empty();
    // Of a domain without vfio devices nothing is predicted.
    let is_predicted = domain.is_some_and(|domain| domain.plan.is_some());
    let is_over = refused == Some(false) && is_predicted && by_domain_alone && !ends;
    if is_over {
        cures = vec!["none, if the domain has been changed since: start it again; else this is a mistake of gfxplane's (gfxplane collect DIR, for a report)".into()];
    }
    let lines = of_host(host, knowledge.topics, &devices(found, domain));
    for line in &lines {
        here.push(format!(
            "{}: {} ({})",
            line.verdict.word(),
            line.what,
            line.more
        ));
    }
    // What certainly stands in the way comes first, what only may last.
    let (fails, warns): (Vec<Line>, Vec<Line>) = lines
        .into_iter()
        .partition(|line| line.verdict == Verdict::Fail);
    let [fails, warns] = [fails, warns].map(|lines| lines.into_iter().flat_map(|line| line.cures));
    let general = knowledge.cures.into_iter().filter(|_| !is_over);
    for cure in fails.chain(general).chain(warns) {
        let cure = match domain.and_then(|domain| domain.operand.as_ref()) {
            Some(operand) => cure.replace("DOMAIN", operand),
            None => cure,
        };
        if !cures.contains(&cure) {
            cures.push(cure);
        }
    }
    Explanation {
        symptom: wording.symptom,
        message: wording.words,
        by: wording.by,
        versions: wording.versions,
        source: wording.source,
        device: found.device,
        cause: knowledge.cause,
        here,
        cures,
        changes,
        mended,
    }
}

/// What is lost with a consent.
fn loss(consent: Consent) -> &'static str {
    match consent {
        Consent::Remote => "a screen is then seen on this host only",
        Consent::Video => "the guest loses its video card",
    }
}

/// The devices that a message may be about.
fn devices(found: &Found, domain: Option<&Situation>) -> Vec<DeviceId> {
    if let Some(id) = found.device {
        return vec![id];
    }
    let about_displays = is_about_displays(found.wording.symptom);
    let vgpus = domain.and_then(|domain| domain.plan.as_ref());
    let vgpus = vgpus.iter().flat_map(|plan| &plan.screens.vgpus);
    let asked = vgpus.filter(|vgpu| about_displays && vgpu.display);
    asked.map(|vgpu| vgpu.id).collect()
}

/// Whether a message is about the display that a device has.
fn is_about_displays(symptom: Symptom) -> bool {
    matches!(
        symptom,
        Symptom::OpenglMissing
            | Symptom::NoDisplay
            | Symptom::ConsoleNeedsDmabuf
            | Symptom::ConsoleNeedsContext
            | Symptom::NotInitialized
            | Symptom::NoSurface
            | Symptom::DmabufLost
            | Symptom::ImportFailed
            | Symptom::NoOpregion
            | Symptom::ModesWithoutEdid
            | Symptom::ModesWithoutDisplay
            | Symptom::RamfbWithoutDisplay
            | Symptom::NotVga
    )
}

/// What this host knows of a device.
fn of_device(id: DeviceId, host: &doctor::Host, symptom: Symptom) -> Vec<String> {
    let entry = host.inventory.devices.iter().find(|entry| entry.id == id);
    let Some(entry) = entry else {
        return vec![match id {
            DeviceId::Mdev(_) => format!("{id} is not on this host"),
            // libvirt gives a managed one back to its driver after a start that has failed.
            DeviceId::Pci(_) => format!("{id} is not bound to a vfio driver now"),
        }];
    };
    let mut said = vec![format!("{id}: {}", display(&entry.finding))];
    if entry.state == State::Defined {
        said[0] = format!(
            "{id} is defined, but not active; {}",
            display(&entry.finding)
        );
    }
    if symptom == Symptom::NoOpregion && entry.finding.facts.opregion.is_some() {
        said.push(format!("{id} has an OpRegion"));
    }
    if symptom == Symptom::NotActive && entry.state == State::Active {
        said.push(format!("{id} is active now"));
    }
    said.extend(node(entry).filter(|_| symptom == Symptom::ImportFailed));
    said
}

fn node(entry: &DeviceEntry) -> Option<String> {
    let node = entry.render_node.as_ref()?;
    Some(format!(
        "the render node of the GPU behind {} is {node}",
        entry.id
    ))
}

fn display(finding: &Finding) -> String {
    let facts = &finding.facts.display;
    let how = finding.how_known();
    match facts {
        Display::Unknown(Reason::Untrusted) => {
            "its driver says yes to every question, so QEMU takes its screen for a dmabuf, and what it really is nobody knows".into()
        }
        Display::Unknown(reason) => format!("what display it has is not known: {reason}"),
        Display::Known(interfaces) if interfaces.is_empty() => format!("it has no display ({how})"),
        Display::Known(_) => format!("it hands over its screen as {} ({how})", facts.words().join(" or ")),
    }
}

/// Says what is predicted of the domain as it is now; whether it would or may be refused.
fn prediction(domain: &Situation, symptom: Symptom, here: &mut Vec<String>) -> bool {
    let name = &domain.name;
    let Some(plan) = &domain.plan else {
        here.push(format!("domain {name} has no vfio devices"));
        return false;
    };
    let is_same = |message: &str| {
        find(message)
            .iter()
            .any(|found| found.wording.symptom == symptom)
    };
    match &plan.before.outcome {
        Outcome::Yes => {
            here.push(format!(
                "domain {name}, as it is defined now, starts, as far as its screens decide"
            ));
            false
        }
        Outcome::No(refusal) if is_same(&refusal.message) => {
            here.push(format!(
                "domain {name}, as it is defined now, is refused for that, for {}",
                refusal.about
            ));
            true
        }
        Outcome::No(refusal) => {
            here.push(format!(
                "domain {name}, as it is defined now, is refused for another reason: {}: \"{}\"",
                refusal.by().word(),
                refusal.message
            ));
            true
        }
        Outcome::Doubt { refusal, because } => {
            here.push(format!(
                "domain {name}, as it is defined now, may be refused (\"{}\"): {because}",
                refusal.message
            ));
            true
        }
    }
}

/// Says whose screen ends the guest if a viewer chooses it; whether there is one.
fn viewers_end(domain: &Situation, symptom: Symptom, here: &mut Vec<String>) -> bool {
    if !matches!(
        symptom,
        Symptom::ConsoleNeedsDmabuf | Symptom::ConsoleNeedsContext
    ) {
        return false;
    }
    let dangers = domain.plan.iter().flat_map(|plan| &plan.before.dangers);
    let before = here.len();
    here.extend(dangers.filter_map(|danger| match danger {
        Danger::ViewerEndsGuest { screen } => Some(format!(
            "domain {}: whoever chooses the screen of {screen} in a VNC viewer ends the guest",
            domain.name
        )),
        _ => None,
    }));
    here.len() > before
}

/// What the checks of a host about these topics have against it; of devices, against these.
fn of_host(host: &doctor::Host, topics: &[Topic], ids: &[DeviceId]) -> Vec<Line> {
    if topics.is_empty() {
        return Vec::new();
    }
    let is_about = |line: &Line| {
        let concerned = match line.device {
            Some(id) if !ids.is_empty() => ids.contains(&id),
            // It may be any.
            Some(_) => line.verdict == Verdict::Fail,
            None => true,
        };
        topics.contains(&line.topic) && concerned && line.verdict != Verdict::Pass
    };
    examine(host).into_iter().filter(is_about).collect()
}

/// What is known of a symptom in general.
fn knowledge(found: &Found) -> Knowledge {
    let said = |cause: &str, cures: &[&str], fixup, topics| Knowledge {
        cause: cause.into(),
        cures: cures.iter().map(|cure| (*cure).to_owned()).collect(),
        fixup,
        topics,
    };
    let filled_in = |place: usize| found.filled_in.get(place).map_or("", String::as_str);
    const OFF: &str = "display='off' on the hostdev: no screen from the device";
    const GL: &str = "spice with <listen type='none'/> and <gl enable='yes'/>, or dbus with gl";
    const NODE: &str = "<gl rendernode='/dev/dri/by-path/…'/> of another GPU";
    match found.wording.symptom {
        Symptom::OpenglMissing => said(
            "the device hands over its screen as a dmabuf, for which the graphics must have OpenGL, and none of the domain's has",
            &[GL, OFF],
            Fixup::Refused,
            &[],
        ),
        Symptom::NoDisplay => said(
            "the hostdev has display='on', and its device has no display: a compute profile, a whole device that is passed through, or a driver without one",
            &["display='off' on the hostdev"],
            Fixup::Refused,
            &[],
        ),
        Symptom::GraphicsMissing => said(
            "the hostdev has display='on', and the domain has no <graphics> that could show it",
            &[
                "a <graphics>: spice with <listen type='none'/>, and <video> with model none",
                OFF,
            ],
            Fixup::Refused,
            &[],
        ),
        Symptom::NotVfioPci => said(
            "display is for devices with model='vfio-pci'; those of s390 (vfio-ap, vfio-ccw) have none",
            &["take display out of that hostdev"],
            Fixup::Never,
            &[],
        ),
        Symptom::RamfbTwice => said(
            "a guest can have one ramfb, and two devices, or a device and a <video> of model ramfb, have it",
            &["ramfb='off' on all but one hostdev"],
            Fixup::Refused,
            &[],
        ),
        Symptom::RamfbWithoutDisplay => said(
            "ramfb shows firmware and boot on a device's display, which is off",
            &["display='on', or no ramfb"],
            Fixup::Refused,
            &[],
        ),
        Symptom::RamfbWithoutFwCfg => said(
            "the machine type has no fw_cfg with DMA, by which ramfb is set up",
            &["machine q35 or pc (x86) or virt (Arm), or no ramfb"],
            Fixup::Never,
            &[],
        ),
        Symptom::RamfbHotplugged => said(
            "ramfb is for devices that are there when the guest starts (vfio-pci-nohotplug); this one is plugged in, or is given ramfb (true or false) by an argument or by qemu:override, and its <hostdev> has no ramfb='on'",
            &[
                "no ramfb on a device that is attached to a running guest; else ramfb='on' in its <hostdev>, and no property ramfb",
            ],
            Fixup::Never,
            &[],
        ),
        Symptom::ModesWithoutDisplay => said(
            "xres and yres are about the device's display, which is off",
            &["display='on', or take xres and yres out"],
            Fixup::Refused,
            &[],
        ),
        Symptom::ModesWithoutEdid => said(
            "xres and yres go to the guest by the device's EDID region, and it has none: its screen is a region, or its driver is too old (Linux before 5.0)",
            &["take xres and yres out"],
            Fixup::Refused,
            &[],
        ),
        Symptom::OpenglTwice => said(
            "QEMU has one OpenGL context, and both spice with gl and egl-headless want it",
            &["one of them: spice with gl alone shows the same"],
            Fixup::Refused,
            &[],
        ),
        Symptom::EglHeadlessUnfit => said(
            "egl-headless draws for VNC or spice without gl, and nothing else can be beside it",
            &["take egl-headless out, and give the other graphics gl"],
            Fixup::Refused,
            &[],
        ),
        Symptom::GraphicsTwice => said(
            "the domain has two <graphics> of one type, and QEMU takes one",
            &["take one of them out"],
            Fixup::Refused,
            &[],
        ),
        Symptom::SpiceGlOverTcp => Knowledge {
            cause: format!(
                "spice with gl hands its viewer a dmabuf, which goes over a socket only; QEMU {} and later, built with spice-server 0.15.3 or later, can encode it for TCP",
                SPICE_GL_OVER_TCP.since()
            ),
            ..said(
                "",
                &["<listen type='none'/> or a socket, and virt-viewer --attach on this host"],
                Fixup::Refused,
                &[],
            )
        },
        Symptom::ConsoleNeedsDmabuf => Knowledge {
            cause: format!(
                "a screen is a dmabuf, and one of the graphics can't show it: VNC (from QEMU {} on, if it is the first screen or a viewer chooses it), or spice without gl, also beside egl-headless. If the guest ran until then, a viewer has chosen that screen (Ctrl-Alt-2), and QEMU has ended",
                VNC_BINDS.since()
            ),
            ..said("", &[GL], Fixup::Refused, &[])
        },
        Symptom::ConsoleNeedsContext => said(
            "a screen needs OpenGL, and two of the graphics can't have it together: what has it (spice with gl, dbus with gl) takes no VNC beside it",
            &["spice with gl alone, or dbus with gl alone"],
            Fixup::Refused,
            &[],
        ),
        Symptom::NoRenderNode => said(
            "OpenGL needs a render node (/dev/dri/renderD*): there is none, or QEMU may not open the one that the domain names or libvirt found",
            &["<gl rendernode='/dev/dri/by-path/…'/> of a node that is there"],
            Fixup::Never,
            &[Topic::RenderNodes],
        ),
        Symptom::RenderNodeForbidden => said(
            "QEMU may not open the render node. libvirt opens it to a guest (owner, cgroup, AppArmor, SELinux) only if it stands in <gl rendernode=…> of spice, dbus or egl-headless, or libvirt has chosen it for one of these; for a -display of one's own in qemu:commandline it does nothing",
            &["libvirt's own <graphics> with <gl> instead of QEMU arguments"],
            Fixup::Never,
            &[Topic::RenderNodes],
        ),
        Symptom::EglFailed => said(
            "there is a render node, and EGL can't use it: the wrong GPU's (where a domain names none, libvirt takes the first that it finds), a driver without Mesa's extensions (NVIDIA's own), or no library for it",
            &[NODE],
            Fixup::Never,
            &[Topic::RenderNodes, Topic::OpenGl],
        ),
        Symptom::ImportFailed => said(
            "the GPU of the render node can't take the device's buffers: for a vGPU it must be the GPU that the device is on",
            &[
                "<gl rendernode=…> with the render node of the device's own GPU",
                NODE,
            ],
            Fixup::Always,
            &[Topic::RenderNodes],
        ),
        Symptom::DbusDaemonDied => said(
            "libvirt starts a dbus-daemon for <graphics type='dbus'/> that is on a bus, under the guest's own AppArmor profile, and Debian's has no rule that lets it run (\"cannot execute binary /usr/bin/dbus-daemon: Permission denied\")",
            &[
                "<graphics type='dbus' p2p='yes'/>, which needs none",
                ALLOW_DBUS_DAEMON,
            ],
            Fixup::Refused,
            &[Topic::DbusDaemon],
        ),
        Symptom::FrontendMissing => said(
            "this QEMU lacks what the domain asks for: distributions have spice, OpenGL and each kind of graphics in packages of their own",
            &["install the module, then gfxplane qemu"],
            Fixup::Refused,
            &[Topic::OpenGl],
        ),
        Symptom::CardNeedsOpengl => said(
            "an emulated card with 3D (<acceleration accel3d='yes'/>) needs graphics with OpenGL, and the domain has none",
            &[GL, "accel3d='no' on the video card"],
            Fixup::Never,
            &[],
        ),
        Symptom::NotInitialized => said(
            "the screen is there, and nothing draws on it yet: a vGPU is dark until the guest's driver sets a mode, also while firmware and boot run, and for ever if the guest has no driver",
            &[
                "gfxplane policy DOMAIN boot_display=ramfb, then gfxplane fixup --define DOMAIN: ramfb shows firmware and boot",
                "keep an emulated video card until the guest's driver is installed",
                "for a Windows guest of an Intel vGPU: gfxplane policy DOMAIN guest=windows, for the OpRegion",
            ],
            Fixup::Never,
            &[],
        ),
        Symptom::NoGraphicDevice => said(
            "the domain has no screen at all: its video is none, and display is off (libvirt fills that in) or missing on its hostdev",
            &[
                "display='on' on the hostdev, if its device has a display",
                "a <video>",
            ],
            Fixup::Always,
            &[],
        ),
        Symptom::NoSurface => said(
            "a screenshot is taken of memory, and this screen is a dmabuf, which is none of QEMU's",
            &[
                "a screenshot by the viewer",
                "gfxplane check DOMAIN tells which graphics show the screen",
            ],
            Fixup::Never,
            &[],
        ),
        Symptom::DmabufLost => said(
            "QEMU had a dmabuf to show and no longer has its descriptor: seen with QEMU 11.1 and a viewer of dbus where Mesa 26.2 renders in software and the guest's mode was not 640x480 (docs/domains.md)",
            &["a GPU's render node in the <gl> of <graphics type='dbus'>"],
            Fixup::Never,
            &[],
        ),
        Symptom::NoOpregion => Knowledge {
            cause: format!(
                "x-igd-opregion asks for a region that only Intel's devices have, and this one has none; QEMU {} and later hand it on unasked where it is",
                OPREGION_BY_DEFAULT.since()
            ),
            ..said("", &["take x-igd-opregion out"], Fixup::Refused, &[])
        },
        Symptom::OpregionHotplugged => said(
            "the OpRegion is handed to firmware at start, so it can't be for a device that is attached later",
            &["attach the device to the definition (--config), and start the guest again"],
            Fixup::Never,
            &[],
        ),
        Symptom::NotVga => said(
            "x-vga is for whole graphics cards; a vGPU has no VGA registers",
            &["take x-vga out"],
            Fixup::Never,
            &[],
        ),
        Symptom::DeadSetting => Knowledge {
            cause: format!(
                "a -set in qemu:commandline names the device \"{}\", and since libvirt 7.9 with QEMU 6.2 devices are given as JSON, which -set does not find",
                filled_in(0)
            ),
            ..said(
                "",
                &["libvirt's own attributes (display, ramfb), or qemu:override"],
                Fixup::Refused,
                &[],
            )
        },
        Symptom::NamespaceMissing => said(
            "elements that begin with qemu: need their namespace on <domain>; without it tools drop them, or refuse the domain",
            &["<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>"],
            Fixup::Never,
            &[],
        ),
        Symptom::NotActive => {
            let start = match found.device {
                Some(DeviceId::Mdev(uuid)) => {
                    format!("mdevctl start -u {uuid}, or virsh nodedev-start of its node device")
                }
                Some(DeviceId::Pci(_)) => {
                    "look at lspci -D whether the device has another address now".to_owned()
                }
                None => "gfxplane list shows which devices are active".to_owned(),
            };
            Knowledge {
                cures: vec![
                    start,
                    "mdevctl modify -u UUID --auto, for devices that are to be there at boot"
                        .to_owned(),
                ],
                ..said(
                    "the device is not there: a mediated device is gone after a reboot unless it is defined, and a defined one has to be started",
                    &[],
                    Fixup::Never,
                    &[Topic::Mdevctl],
                )
            }
        }
        Symptom::InUse => said(
            "somebody else has the device: another domain, a probe, or a program of its own",
            &[
                "virsh list shows the domains that run; gfxplane list shows the device as in-use until it is free",
            ],
            Fixup::Never,
            &[],
        ),
        Symptom::NotViable => said(
            "other devices of the same IOMMU group are bound to drivers of the host, so none of the group may be handed out",
            &["hand out all of the group, or unbind the others (virsh nodedev-detach)"],
            Fixup::Never,
            &[],
        ),
        Symptom::NoIommuGroup => said(
            "the device has no IOMMU group: it has no vfio driver, or, if it is a whole device, the IOMMU is off",
            &[
                "intel_iommu=on or amd_iommu=on on the kernel's command line, and VT-d or AMD-Vi in the firmware",
                "gfxplane list shows which driver it has",
            ],
            Fixup::Never,
            &[],
        ),
        Symptom::VfioForbidden => said(
            "QEMU may not open /dev/vfio: libvirt gives it to the guests whose <hostdev> names the device, and to no -device of one's own in qemu:commandline",
            &["a <hostdev> instead of QEMU arguments"],
            Fixup::Never,
            &[],
        ),
        Symptom::NeedsVm => said(
            "the driver (GVT-g) opens the device for a KVM VM only, and there is none: the domain is of type qemu, or /dev/kvm can't be used",
            &["<domain type='kvm'>"],
            Fixup::Never,
            &[Topic::Devices],
        ),
        Symptom::NvidiaUuid => said(
            "NVIDIA's manager looks for -uuid on the command line of the process that opens the device, and there is none: it is no QEMU of libvirt's",
            &[
                "start it by libvirt, or with -uuid UUID",
                "gfxplane probe --via qemu DEVICE",
            ],
            Fixup::Never,
            &[],
        ),
        Symptom::OpenFailed => said(
            "the device's driver refused to open it, whatever QEMU advises about binding. With NVIDIA's the manager says why, in the journal",
            &["journalctl -u nvidia-vgpu-mgr -b", "dmesg"],
            Fixup::Never,
            &[],
        ),
        Symptom::MdevctlMissing => said(
            "libvirt starts, stops and defines mediated devices by mdevctl, which is not installed where libvirtd runs (in its container, perhaps)",
            &["install mdevctl"],
            Fixup::Never,
            &[Topic::Mdevctl],
        ),
        Symptom::AttributesDefined => said(
            "the device was made from XML that virsh nodedev-dumpxml printed: it has gfxplane's attributes, which mdevctl tries to write to sysfs",
            &[
                "virsh nodedev-create of what gfxplane nodedev-dumpxml --plain DEVICE prints",
                "of a definition: gfxplane takes them out again by its notifier of mdevctl; virsh nodedev-start tries it again",
            ],
            Fixup::Never,
            &[Topic::Callouts],
        ),
        Symptom::NoMigration => said(
            "the device's driver can't save its state, so the guest can be neither saved, snapshotted with memory nor moved while it has it",
            &["virsh detach-device first, or shut the guest down"],
            Fixup::Never,
            &[],
        ),
        Symptom::Sandboxed => said(
            "QEMU's sandbox has ended it: a GPU's libraries (Mesa) use system calls that it forbids",
            &[
                "seccomp_sandbox = 0 in /etc/libvirt/qemu.conf, then systemctl restart libvirtd (or virtqemud): it takes a guard away from all guests",
                "a newer Mesa or QEMU",
            ],
            Fixup::Never,
            &[],
        ),
        Symptom::Vetoed => Knowledge {
            cause: format!(
                "gfxplane's hook has kept domain {} from starting, as QEMU would have refused it; the line has QEMU's message, and what to type",
                filled_in(0)
            ),
            ..said(
                "",
                &[
                    "gfxplane fixup --define DOMAIN, as the line says",
                    "hook = \"warn\" in /etc/gfxplane/gfxplane.toml leaves it to QEMU",
                ],
                Fixup::Never,
                &[],
            )
        },
        Symptom::HookFailed => said(
            "a hook script has ended with an error, which libvirt takes for a veto; what it printed on stderr stands behind that, or in the journal of libvirtd",
            &["journalctl -u libvirtd -u virtqemud -b; sh -x the script that is named"],
            Fixup::Never,
            &[Topic::Hook, Topic::Confinement],
        ),
    }
}
