use super::*;
use crate::device::evidence::{Evidence, Method, resolve};
use crate::device::facts::{Display, Facts, Reason};
use crate::domain::name_and_devices;
use crate::predict::abilities::Abilities;
use crate::predict::screens::Known;

const UUID: &str = "11111111-2222-4333-8444-555555555555";

/// A host on which the device has a measured dmabuf (or region).
struct Host {
    display: Display,
}

impl Surroundings for Host {
    fn known(&self, _device: DeviceId) -> Known {
        Known {
            finding: resolve(
                vec![(Facts::of(self.display.clone()), Evidence::by(Method::Probe))],
                Reason::NotProbed,
            ),
            render_node: None,
            here: None,
        }
    }

    fn abilities(&self, _domain: &Domain<'_, '_>) -> Abilities {
        Abilities {
            qemu: Some("10.0.13".parse().unwrap()),
            libvirt: Some("11.3.0".parse().unwrap()),
            ..Abilities::default()
        }
    }
}

const DMABUF: Host = Host {
    display: Display::Unknown(Reason::NotProbed),
};

fn dmabuf() -> Host {
    Host {
        display: Display::from_answers(true, false),
    }
}

fn domain(graphics: &str, display: &str) -> String {
    format!(
        "<domain type='kvm'><name>g</name><devices>{graphics}<video><model type='none'/></video>\
             <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='{display}'><source>\
             <address uuid='{UUID}'/></source></hostdev></devices></domain>"
    )
}

const LOOPBACK: &str = "<graphics type='spice' autoport='yes' listen='127.0.0.1'/>";
const VNC: &str = "<graphics type='vnc' port='-1' listen='0.0.0.0'/>";

fn decide(memory: &mut Memory, text: &str, standing: Standing) -> Decision {
    memory
        .decide(text, &dmabuf(), &Policy::default(), standing)
        .unwrap()
}

fn why(decision: &Decision) -> String {
    match decision {
        Decision::Leave { why, .. } => why.iter().map(|line| line.words("DOMAIN") + "\n").collect(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn what_is_refused_is_mended_and_then_left() {
    let mut memory = Memory::default();
    let text = domain(LOOPBACK, "on");
    let Decision::Act(fixed) = decide(&mut memory, &text, Standing::default()) else {
        panic!("it is refused as it is")
    };
    assert!(fixed.plan.as_ref().unwrap().after.starts());
    let graphics = only_graphics(&fixed).unwrap();
    assert!(
        graphics.starts_with("<graphics ") && graphics.ends_with("</graphics>"),
        "{graphics}"
    );
    assert!(graphics.contains("<gl enable='yes'"), "{graphics}");
    let again = decide(&mut memory, &fixed.text, Standing::default());
    assert!(
        matches!(again, Decision::Leave { is_bad: false, .. }),
        "{again:?}"
    );
}

#[test]
fn remote_access_is_not_taken_and_both_fixes_are_named() {
    let text = domain(VNC, "on");
    let decision = decide(&mut Memory::default(), &text, Standing::default());
    assert!(matches!(decision, Decision::Leave { is_bad: true, .. }));
    let why = why(&decision);
    assert!(why.contains("consent") && why.contains("display"), "{why}");
}

#[test]
fn what_was_undone_stays() {
    let standing = Standing {
        is_hands_off: true,
        ..Standing::default()
    };
    let decision = decide(&mut Memory::default(), &domain(LOOPBACK, "on"), standing);
    assert!(why(&decision).contains("was undone"), "{decision:?}");
}

/// Puts a definition there, and lets the daemon fix it. Returns `false` if it was left alone.
fn round(memory: &mut Memory, text: &str) -> bool {
    match decide(memory, text, Standing::default()) {
        Decision::Act(fixed) => {
            memory.did(fixed.plan.as_ref().unwrap());
            memory.is_ours(&fixed.text);
            let ours = decide(memory, &fixed.text, Standing::default());
            assert!(matches!(ours, Decision::Leave { is_bad: false, .. }));
            true
        }
        Decision::Leave { gave_up, .. } => {
            assert!(gave_up);
            false
        }
        Decision::NotOurs => unreachable!("it has a device"),
    }
}

#[test]
fn somebody_who_insists_has_his_way_after_two_rounds() {
    let mut memory = Memory::default();
    let text = domain(LOOPBACK, "on");
    // libvirt gives the same file another MAC address each time.
    let other = |round: u32| text.replace("<name>", &format!("<title>{round}</title><name>"));
    let rounds: Vec<bool> = (0..4).map(|n| round(&mut memory, &other(n))).collect();
    assert_eq!(rounds, [true, true, false, false]);
    // The same holds for two definitions that are put back in turn.
    let vnc_beside = domain(
        &format!("{LOOPBACK}{VNC}").replace("0.0.0.0", "127.0.0.1"),
        "on",
    );
    let mut memory = Memory::default();
    let turns = [&text, &vnc_beside, &text, &vnc_beside, &text, &vnc_beside];
    let acted = turns.iter().filter(
        |text| match decide(&mut memory, text, Standing::default()) {
            Decision::Act(fixed) => {
                memory.did(fixed.plan.as_ref().unwrap());
                true
            }
            _ => false,
        },
    );
    assert!(acted.count() <= 4);
}

#[test]
fn a_definition_that_is_right_by_itself_ends_the_quarrel() {
    let mut memory = Memory::default();
    let text = domain(LOOPBACK, "on");
    while round(&mut memory, &text) {}
    assert!(!round(&mut memory, &text));
    let right = domain(
        "<graphics type='spice'><listen type='none'/><gl enable='yes'/></graphics>",
        "on",
    )
    .replace("<name>", "<title>fixed by hand</title><name>");
    let theirs = decide(&mut memory, &right, Standing::default());
    assert!(
        matches!(theirs, Decision::Leave { is_bad: false, .. }),
        "{theirs:?}"
    );
    assert!(round(&mut memory, &text));
}

#[test]
fn what_libvirt_refused_is_not_tried_again_until_the_domain_changes() {
    let mut memory = Memory::default();
    let text = domain(LOOPBACK, "on");
    memory.was_refused(&text);
    let decision = decide(&mut memory, &text, Standing::default());
    assert!(
        why(&decision).contains("libvirt has refused"),
        "{decision:?}"
    );
    let other = text.replace("<name>", "<title>other</title><name>");
    let decision = decide(&mut memory, &other, Standing::default());
    assert!(matches!(decision, Decision::Act(_)), "{decision:?}");
    memory.try_again();
    let decision = decide(&mut memory, &text, Standing::default());
    assert!(matches!(decision, Decision::Act(_)), "{decision:?}");
}

#[test]
fn a_display_is_switched_on_only_in_newer_definitions() {
    let region = Host {
        display: Display::from_answers(false, true),
    };
    let text = domain(VNC, "off");
    let decide = |is_older| {
        let standing = Standing {
            is_older,
            ..Standing::default()
        };
        Memory::default()
            .decide(&text, &region, &Policy::default(), standing)
            .unwrap()
    };
    let Decision::Act(fixed) = decide(false) else {
        panic!("it can be shown")
    };
    assert_eq!(only_graphics(&fixed), None);
    assert!(matches!(decide(true), Decision::Leave { .. }));
}

#[test]
fn what_is_not_known_is_left() {
    let decision = Memory::default()
        .decide(
            &domain(LOOPBACK, "on"),
            &DMABUF,
            &Policy::default(),
            Standing::default(),
        )
        .unwrap();
    assert!(
        matches!(decision, Decision::Leave { is_bad: true, .. }),
        "{decision:?}"
    );
}

#[test]
fn a_domain_without_vfio_devices_is_not_ours() {
    let text = "<domain type='kvm'><name>g</name><devices/></domain>";
    let decision = decide(&mut Memory::default(), text, Standing::default());
    assert_eq!(decision, Decision::NotOurs);
    assert_eq!(name_and_devices(text), ("g".into(), Vec::new()));
    assert_eq!(name_and_devices(&domain(VNC, "on")).1.len(), 1);
}
