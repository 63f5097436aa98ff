//! Chooses the frontends that show the screens. It predicts the outcome of each way to rearrange
//! the domain's graphics, and chooses the way that costs the user least.
//!
//! There are few ways: each graphics may be left alone, get or lose OpenGL, stop listening on TCP,
//! change from a D-Bus daemon to peer-to-peer or be removed, and one graphics may be added.

use std::collections::BTreeSet;

use crate::device::id::DeviceId;
use crate::domain::policy::Consent;
use crate::domain::{GraphicsSettings, GraphicsType, Reach};
use crate::plan::{Action, Change};
use crate::predict::abilities::Abilities;
use crate::predict::qemu_messages::NO_SPICE_SERVER;
use crate::predict::screens::{Found, Frontend, Screens};
use crate::predict::{About, Danger, DangerKind, Prediction, Refusal, predict};

/// A way to arrange the graphics so that they show the screens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Arrangement {
    /// The screens after the changes.
    pub screens: Screens,
    /// The changes that lead to these screens.
    pub changes: Vec<Change>,
}

impl Arrangement {
    /// Returns what the user loses by these changes; `None` if nothing is lost.
    pub(crate) fn loss(&self) -> Option<Consent> {
        self.changes.iter().find_map(|change| change.consent)
    }

    /// Returns whether the user has agreed to the loss.
    pub(crate) fn is_allowed(&self, consent: &BTreeSet<Consent>) -> bool {
        self.loss().is_none_or(|loss| consent.contains(&loss))
    }
}

/// Returns whether the domain certainly starts, the screens of the `wanted` devices are visible,
/// and QEMU does not exit when a viewer chooses one of the screens.
pub(crate) fn is_good(prediction: &Prediction, wanted: &[DeviceId]) -> bool {
    let shown = prediction.shown();
    let ends = |danger: &Danger| danger.kind == DangerKind::ViewerEndsGuest;
    prediction.starts()
        && wanted.iter().all(|id| shown.contains(id))
        && !prediction.dangers.iter().any(ends)
}

/// Returns the best way to show the screens of the wanted devices, or `None` if no way is known.
/// Returns a way that loses something only if no other way helps.
///
/// The function tries all ways. There are few as long as each type of graphics occurs once, as in
/// every domain that a plan may change.
pub(crate) fn best(
    screens: &Screens,
    abilities: &Abilities,
    wanted: &[DeviceId],
    may_add: bool,
) -> Option<Arrangement> {
    let mut best: Option<(Cost, Vec<Action>, Screens)> = None;
    // A user who passes QEMU a display behind libvirt's back has to decide which one is meant.
    if screens.arguments.display.is_some() {
        return None;
    }
    for way in ways(&screens.frontends, may_add) {
        let cost = cost(&screens.frontends, &way);
        if best.as_ref().is_some_and(|(least, _, _)| *least <= cost) {
            continue;
        }
        let then = after(screens, &way);
        if is_good(&predict(&then, abilities), wanted) {
            best = Some((cost, way, then));
        }
    }
    let (_, way, then) = best?;
    Some(Arrangement {
        changes: changes(screens, &then, way, &predict(screens, abilities)),
        screens: then,
    })
}

/// Returns a way with one more action at its end.
fn and(way: &[Action], more: &Action) -> Vec<Action> {
    [way, std::slice::from_ref(more)].concat()
}

/// Returns every combination of actions; with `may_add`, also those that add a frontend.
fn ways(frontends: &[Frontend], may_add: bool) -> Vec<Vec<Action>> {
    let mut ways = vec![Vec::new()];
    for frontend in frontends {
        let graphics = frontend.kind;
        let gl = |on| vec![Action::Gl { graphics, on }];
        let removal = || vec![Action::RemoveGraphics { graphics }];
        let mut options: Vec<Vec<Action>> = vec![Vec::new()];
        let with = |options: &mut Vec<Vec<Action>>, action: &Action| {
            let more: Vec<_> = options.iter().map(|way| and(way, action)).collect();
            options.extend(more);
        };
        match graphics {
            GraphicsType::Spice => {
                if !frontend.gl {
                    options.push(gl(true));
                }
                if frontend.reach != Reach::Local {
                    with(&mut options, &Action::ListenNone { graphics });
                }
            }
            GraphicsType::Dbus => {
                options.push(gl(!frontend.gl));
                if frontend.has_daemon() {
                    with(&mut options, &Action::PeerToPeer);
                }
                options.push(removal());
            }
            GraphicsType::Vnc | GraphicsType::Sdl | GraphicsType::EglHeadless => {
                options.push(removal());
            }
            GraphicsType::Rdp | GraphicsType::Gtk => {}
        }
        ways = ways
            .iter()
            .flat_map(|way| {
                options
                    .iter()
                    .map(move |option| [&way[..], option].concat())
            })
            .collect();
    }
    if may_add {
        let has = |kind| frontends.iter().any(|frontend| frontend.kind == kind);
        let additions = [
            (GraphicsType::EglHeadless, true),
            (GraphicsType::Spice, false),
            (GraphicsType::Spice, true),
            (GraphicsType::Vnc, false),
            (GraphicsType::Dbus, true),
        ];
        let additions = additions.into_iter().filter(|(kind, _)| !has(*kind));
        let added: Vec<Vec<Action>> = additions
            .flat_map(|(graphics, gl)| {
                let addition = Action::AddGraphics { graphics, gl };
                let fits = move |way: &&Vec<Action>| !is_hidden(frontends, way, graphics);
                let ways = ways.iter().filter(fits);
                ways.map(move |way| and(way, &addition))
            })
            .collect();
        ways.extend(added);
    }
    ways
}

/// Returns whether the frontend of `addition` would hide a frontend that `way` keeps, or be hidden
/// by it: if QEMU gets several `-display`, only the last one counts.
fn is_hidden(frontends: &[Frontend], way: &[Action], added: GraphicsType) -> bool {
    let locals = [
        GraphicsType::Sdl,
        GraphicsType::Dbus,
        GraphicsType::EglHeadless,
    ];
    let is_local = |kind| locals.contains(&kind);
    is_local(added)
        && frontends.iter().any(|frontend| {
            let graphics = frontend.kind;
            is_local(graphics) && !way.contains(&Action::RemoveGraphics { graphics })
        })
}

/// The cost of a way to show the screens. The first field that differs decides which is lower.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    losses: usize,
    removed: usize,
    added: usize,
    changes: usize,
}

fn cost(frontends: &[Frontend], way: &[Action]) -> Cost {
    let count = |test: &dyn Fn(&Action) -> bool| way.iter().filter(|action| test(action)).count();
    Cost {
        losses: count(&|action| loss(frontends, action).is_some()),
        removed: count(&|action| matches!(action, Action::RemoveGraphics { .. })),
        added: count(&|action| matches!(action, Action::AddGraphics { .. })),
        changes: way.len(),
    }
}

/// Returns what the user loses by an action; `None` if nothing is lost. If Spice stops listening on
/// loopback, nothing is lost: only this host could see it, and still can.
fn loss(frontends: &[Frontend], action: &Action) -> Option<Consent> {
    let is_remote = |kind| {
        let mut remote = frontends.iter().filter(|f| f.reach == Reach::Remote);
        remote.any(|frontend| frontend.kind == kind)
    };
    let is_lost = match action {
        Action::ListenNone { graphics } => is_remote(*graphics),
        Action::RemoveGraphics { graphics } => *graphics != GraphicsType::EglHeadless,
        _ => false,
    };
    is_lost.then_some(Consent::Remote)
}

fn after(screens: &Screens, way: &[Action]) -> Screens {
    let mut then = screens.clone();
    // The user's choice of a render node outlives the graphics for which it was made.
    let mut chosen = None;
    for action in way {
        match *action {
            Action::RemoveGraphics { graphics } => {
                let gone = then.frontends.extract_if(.., |f| f.kind == graphics);
                let node = gone.filter_map(|frontend| frontend.rendernode).next();
                chosen = chosen.or(node);
            }
            Action::AddGraphics { graphics, gl } => {
                // Helpers such as qemu-rdp need a dbus display that is on a bus.
                let on_a_bus = then.frontends.iter().any(|f| f.kind == GraphicsType::Rdp);
                then.frontends.push(Frontend {
                    place: None,
                    kind: graphics,
                    gl,
                    reach: Reach::Local,
                    listens: graphics == GraphicsType::Vnc,
                    p2p: graphics == GraphicsType::Dbus && !on_a_bus,
                    rendernode: None,
                    settings: GraphicsSettings {
                        autoport: true,
                        ..GraphicsSettings::default()
                    },
                });
                // The guest must not get a card that it did not have.
                then.video_said |= screens.frontends.is_empty();
            }
            _ => then.frontends.iter_mut().for_each(|f| alter(f, action)),
        }
    }
    for frontend in &mut then.frontends {
        let takes_one = matches!(frontend.kind, GraphicsType::Spice | GraphicsType::Dbus);
        if takes_one && frontend.gl && frontend.rendernode.is_none() {
            frontend.rendernode.clone_from(&chosen);
        }
    }
    then.imply();
    then
}

/// Makes the change to a frontend if the action is about it.
fn alter(frontend: &mut Frontend, action: &Action) {
    match *action {
        Action::Gl { graphics, on } if graphics == frontend.kind => frontend.gl = on,
        Action::ListenNone { graphics } if graphics == frontend.kind => {
            frontend.reach = Reach::Local;
            frontend.listens = false;
            frontend.settings = GraphicsSettings::default();
        }
        Action::PeerToPeer if frontend.kind == GraphicsType::Dbus => frontend.p2p = true,
        _ => {}
    }
}

/// Returns the reason for an action. `device` is the device whose screen is to be shown. `refusal`
/// is the refusal of the domain without the action.
fn reason(
    screens: &Screens,
    then: &Screens,
    action: &Action,
    device: &str,
    refusal: Option<&Refusal>,
) -> String {
    match action {
        Action::Gl { on: true, .. } => {
            format!("{device} hands over its screen as a dmabuf, for which QEMU needs OpenGL")
        }
        Action::Gl { graphics, .. } => {
            format!("with OpenGL, {graphics} allows no other frontend beside itself")
        }
        Action::ListenNone { graphics }
            if then.frontends.iter().all(|f| f.kind != *graphics || !f.gl) =>
        {
            format!("QEMU can't listen on its port: \"{NO_SPICE_SERVER}\"")
        }
        Action::ListenNone { .. } => match loss(&screens.frontends, action) {
            Some(_) => {
                "with OpenGL, this QEMU shows spice on this host only; viewers on other hosts lose it, and you agreed to that"
            }
            None => {
                "with OpenGL, this QEMU shows spice on this host only; viewers on this host still work (virt-viewer --attach, virt-manager), but a virt-manager that connects from another host over ssh does not"
            }
        }
        .into(),
        Action::PeerToPeer => {
            "AppArmor keeps libvirt from starting a dbus-daemon for the guest, and p2p needs none"
                .into()
        }
        Action::RemoveGraphics {
            graphics: GraphicsType::EglHeadless,
        } if then.frontends.iter().any(|f| f.gl) => {
            "other graphics of the domain have OpenGL, and QEMU allows only one with OpenGL".into()
        }
        Action::RemoveGraphics {
            graphics: GraphicsType::EglHeadless,
        } => "this QEMU has no egl-headless, and no screen needs it".into(),
        Action::RemoveGraphics { graphics } => format!(
            "{graphics} can't show the screen of {device}: QEMU would refuse to start, or exit when a viewer switches to it"
        ),
        Action::AddGraphics {
            graphics: GraphicsType::EglHeadless,
            ..
        } => format!(
            "{device} hands over its screen as a dmabuf; egl-headless gives the other graphics OpenGL"
        ),
        Action::AddGraphics { graphics, gl: true } => format!(
            "{device} hands over its screen as a dmabuf, and {graphics} with OpenGL can show it"
        ),
        _ => match refusal {
            Some(refusal) => format!(
                "without it, {} refuses the domain: \"{}\"",
                refusal.by().word(),
                refusal.message
            ),
            None => format!("nothing else would show the screen of {device}"),
        },
    }
}

/// Returns the changes of a way, with their reasons. `now` is the prediction without the changes.
fn changes(screens: &Screens, then: &Screens, way: Vec<Action>, now: &Prediction) -> Vec<Change> {
    // A refusal that is about a device is not the reason for a change.
    let refusal = now
        .refusal()
        .filter(|refusal| !matches!(refusal.about, About::Device(_)));
    let dmabuf = screens
        .vgpus
        .iter()
        .find(|vgpu| vgpu.display && vgpu.found() == [Found::Dmabuf]);
    let device = dmabuf.or(screens.vgpus.first()).map(|vgpu| vgpu.id);
    let device = device.map(|id| id.to_string()).unwrap_or_default();
    let mut changes = Vec::new();
    for action in way {
        changes.push(Change {
            reason: reason(screens, then, &action, &device, refusal),
            consent: loss(&screens.frontends, &action),
            action,
        });
    }
    for frontend in &then.frontends {
        let before = frontend.place.map(|place| {
            let old = screens.frontends.iter().find(|f| f.place == Some(place));
            old.and_then(|old| old.rendernode.clone())
        });
        if let Some(node) = &frontend.rendernode
            && before.flatten().is_none()
        {
            changes.push(Change {
                action: Action::RenderNode {
                    graphics: frontend.kind,
                    rendernode: node.clone(),
                },
                reason: "it was chosen for the graphics that are removed".into(),
                consent: None,
            });
        }
    }
    if then.video_said && !screens.video_said {
        changes.push(Change {
            action: Action::VideoNone,
            reason: "libvirt adds a video card to a domain that gets graphics; this guest has none"
                .into(),
            consent: None,
        });
    }
    changes
}
