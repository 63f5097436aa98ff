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
use crate::predict::screens::{Found, Frontend, Screens};
use crate::predict::words::NO_SPICE_SERVER;
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
    /// Returns the losses that the changes cause; empty if the user loses nothing.
    pub(crate) fn loses(&self) -> BTreeSet<Consent> {
        self.changes
            .iter()
            .filter_map(|change| change.consent)
            .collect()
    }

    /// Returns the losses in the form of `--consent`: `remote,video`; empty if there are none.
    pub(crate) fn losses(&self) -> String {
        let losses: Vec<String> = self.loses().iter().map(ToString::to_string).collect();
        losses.join(",")
    }

    /// Returns whether `consent` includes every loss that the changes cause.
    pub(crate) fn is_allowed(&self, consent: &BTreeSet<Consent>) -> bool {
        self.loses().is_subset(consent)
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

/// Returns the best way to show the screens of the `wanted` devices. Returns a way that causes a
/// loss only if no other way helps, and one without changes if none is needed. Returns `None` if no
/// way is known, or if the user's arguments for QEMU choose a display. With `may_add`, a way may
/// add graphics.
///
/// The function tries all ways. The number of ways is small as long as each type of graphics occurs
/// only once ([`Screens::is_ambiguous`]).
pub(crate) fn best(
    screens: &Screens,
    abilities: &Abilities,
    wanted: &[DeviceId],
    may_add: bool,
) -> Option<Arrangement> {
    let mut best: Option<(Cost, Vec<Move>, Screens)> = None;
    // A user who passes QEMU a display behind libvirt's back has to decide which one is meant.
    if screens.arguments.display.is_some() {
        return None;
    }
    for moves in ways(&screens.frontends, may_add) {
        let cost = cost(&screens.frontends, &moves);
        if best.as_ref().is_some_and(|(least, _, _)| *least <= cost) {
            continue;
        }
        let then = after(screens, &moves);
        if is_good(&predict(&then, abilities), wanted) {
            best = Some((cost, moves, then));
        }
    }
    let (_, moves, then) = best?;
    Some(Arrangement {
        changes: changes(screens, &then, &moves, &predict(screens, abilities)),
        screens: then,
    })
}

/// A change to the frontend with the index `usize`, or a new frontend. `bool`: true for OpenGL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Move {
    Gl(usize, bool),
    ListenNone(usize),
    PeerToPeer(usize),
    Remove(usize),
    Add(GraphicsType, bool),
}

impl Move {
    /// Returns the type of the graphics that the move changes or adds.
    fn kind(self, screens: &Screens) -> GraphicsType {
        match self {
            Move::Gl(place, _)
            | Move::ListenNone(place)
            | Move::PeerToPeer(place)
            | Move::Remove(place) => screens.frontends[place].kind,
            Move::Add(kind, _) => kind,
        }
    }
}

/// Returns the moves of `way`, followed by those of `more`.
fn and(way: &[Move], more: &[Move]) -> Vec<Move> {
    [way, more].concat()
}

/// Returns all combinations of moves that may help; with `may_add`, some of them add a frontend.
fn ways(frontends: &[Frontend], may_add: bool) -> Vec<Vec<Move>> {
    let mut ways = vec![Vec::new()];
    for (place, frontend) in frontends.iter().enumerate() {
        let mut options: Vec<Vec<Move>> = vec![Vec::new()];
        match frontend.kind {
            GraphicsType::Spice => {
                if !frontend.gl {
                    options.push(vec![Move::Gl(place, true)]);
                }
                if frontend.reach != Reach::Local {
                    let local = options
                        .iter()
                        .map(|way| and(way, &[Move::ListenNone(place)]));
                    options.extend(Vec::from_iter(local));
                }
            }
            GraphicsType::Dbus => {
                options.push(vec![Move::Gl(place, !frontend.gl)]);
                if frontend.daemon {
                    let p2p = options
                        .iter()
                        .map(|way| and(way, &[Move::PeerToPeer(place)]));
                    options.extend(Vec::from_iter(p2p));
                }
                options.push(vec![Move::Remove(place)]);
            }
            GraphicsType::Vnc | GraphicsType::Sdl | GraphicsType::EglHeadless => {
                options.push(vec![Move::Remove(place)]);
            }
            GraphicsType::Rdp | GraphicsType::Gtk => {}
        }
        ways = ways
            .iter()
            .flat_map(|way| options.iter().map(move |option| and(way, option)))
            .collect();
    }
    if may_add {
        let has = |kind| frontends.iter().any(|frontend| frontend.kind == kind);
        let additions = [
            Move::Add(GraphicsType::EglHeadless, true),
            Move::Add(GraphicsType::Spice, false),
            Move::Add(GraphicsType::Spice, true),
            Move::Add(GraphicsType::Vnc, false),
            Move::Add(GraphicsType::Dbus, true),
        ];
        let added: Vec<Vec<Move>> = additions
            .into_iter()
            .filter(|addition| !matches!(addition, Move::Add(kind, _) if has(*kind)))
            .flat_map(|addition| {
                let fits = move |way: &&Vec<Move>| !is_hidden(frontends, way, addition);
                ways.iter()
                    .filter(fits)
                    .map(move |way| and(way, &[addition]))
            })
            .collect();
        ways.extend(added);
    }
    ways
}

/// Returns whether the frontend of `addition` would hide a frontend that `way` keeps, or be hidden
/// by it: if QEMU gets several `-display`, only the last one counts.
fn is_hidden(frontends: &[Frontend], way: &[Move], addition: Move) -> bool {
    let Move::Add(GraphicsType::Dbus | GraphicsType::EglHeadless, _) = addition else {
        return false;
    };
    frontends.iter().enumerate().any(|(place, frontend)| {
        let is_local = matches!(
            frontend.kind,
            GraphicsType::Sdl | GraphicsType::Dbus | GraphicsType::EglHeadless
        );
        is_local && !way.contains(&Move::Remove(place))
    })
}

/// The cost of a way to show the screens. The first field that differs decides which is lower.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Cost {
    losses: usize,
    removed: usize,
    added: usize,
    moves: usize,
}

fn cost(frontends: &[Frontend], moves: &[Move]) -> Cost {
    let count = |test: fn(&Move) -> bool| moves.iter().filter(|action| test(action)).count();
    let losses = moves
        .iter()
        .filter(|action| loss(frontends, **action).is_some());
    Cost {
        losses: losses.count(),
        removed: count(|action| matches!(action, Move::Remove(_))),
        added: count(|action| matches!(action, Move::Add(..))),
        moves: moves.len(),
    }
}

/// Returns the loss that a move causes; `None` if nothing is lost. If Spice stops listening on
/// loopback, nothing is lost: viewers on this host can still see the screen.
fn loss(frontends: &[Frontend], action: Move) -> Option<Consent> {
    match action {
        Move::ListenNone(place) if frontends[place].reach == Reach::Remote => Some(Consent::Remote),
        Move::Remove(place) if frontends[place].kind != GraphicsType::EglHeadless => {
            Some(Consent::Remote)
        }
        _ => None,
    }
}

fn after(screens: &Screens, moves: &[Move]) -> Screens {
    let mut then = screens.clone();
    let mut removed = Vec::new();
    for action in moves {
        match *action {
            Move::Gl(place, on) => then.frontends[place].gl = on,
            Move::ListenNone(place) => {
                then.frontends[place].reach = Reach::Local;
                then.frontends[place].listens = false;
                then.frontends[place].settings = GraphicsSettings::default();
            }
            Move::PeerToPeer(place) => {
                then.frontends[place].p2p = true;
                then.frontends[place].daemon = false;
            }
            Move::Remove(place) => removed.push(place),
            Move::Add(kind, gl) => {
                // The guest must not get a card that it did not have.
                if then.frontends.is_empty() {
                    then.video_said = true;
                }
                // Helpers such as qemu-rdp need a dbus display that is on a bus.
                let on_a_bus = then.frontends.iter().any(|f| f.kind == GraphicsType::Rdp);
                then.frontends.push(Frontend {
                    place: None,
                    kind,
                    gl,
                    reach: Reach::Local,
                    listens: kind == GraphicsType::Vnc,
                    p2p: kind == GraphicsType::Dbus && !on_a_bus,
                    daemon: kind == GraphicsType::Dbus && on_a_bus,
                    rendernode: None,
                    settings: GraphicsSettings {
                        autoport: true,
                        ..GraphicsSettings::default()
                    },
                });
            }
        }
    }
    // The user's choice of a render node outlives the graphics for which it was made.
    let chosen = removed
        .iter()
        .find_map(|place| then.frontends[*place].rendernode.clone());
    for frontend in &mut then.frontends {
        let takes_one = matches!(frontend.kind, GraphicsType::Spice | GraphicsType::Dbus);
        if takes_one && frontend.gl && frontend.rendernode.is_none() {
            frontend.rendernode.clone_from(&chosen);
        }
    }
    let mut place = 0;
    then.frontends.retain(|_| {
        place += 1;
        !removed.contains(&(place - 1))
    });
    then.imply();
    then
}

/// Returns the action of a move, and the reason. `then`: the screens after all moves. `device`: the
/// device whose screen must be shown. `refusal`: the refusal of the domain without the moves.
fn change(
    screens: &Screens,
    then: &Screens,
    action: Move,
    device: &str,
    refusal: Option<&Refusal>,
) -> (Action, String) {
    let kind = action.kind(screens);
    match action {
        Move::Gl(_, on) => {
            let reason = match on {
                true => format!(
                    "{device} hands over its screen as a dmabuf, for which QEMU needs OpenGL"
                ),
                false => format!("with OpenGL, {kind} allows no other frontend beside itself"),
            };
            (Action::Gl { graphics: kind, on }, reason)
        }
        Move::ListenNone(_) if then.frontends.iter().all(|f| f.kind != kind || !f.gl) => {
            let reason = format!("QEMU can't listen on its port: \"{NO_SPICE_SERVER}\"");
            (Action::ListenNone { graphics: kind }, reason)
        }
        Move::ListenNone(place) => {
            let reason = match screens.frontends[place].reach {
                Reach::Remote => {
                    "this QEMU has spice with OpenGL on this host only; it could be reached over the network, and you agreed to lose that"
                }
                _ => {
                    "this QEMU has spice with OpenGL on this host only; it listened on loopback, so viewers on this host still see it (virt-viewer --attach, virt-manager); a virt-manager on another machine, which came over ssh, does not"
                }
            };
            (Action::ListenNone { graphics: kind }, reason.to_owned())
        }
        Move::PeerToPeer(_) => (
            Action::PeerToPeer,
            "AppArmor keeps libvirt from starting a dbus-daemon for the guest, and p2p needs none"
                .into(),
        ),
        Move::Remove(_) => {
            let reason = match kind {
                GraphicsType::EglHeadless if then.frontends.iter().any(|f| f.gl) => {
                    "other graphics of the domain have OpenGL, and QEMU allows only one of these"
                        .into()
                }
                GraphicsType::EglHeadless => {
                    "this QEMU has no egl-headless, and no screen needs it".into()
                }
                _ => format!(
                    "{kind} can't show the screen of {device}: QEMU would refuse to start, or exit when a viewer switches to it"
                ),
            };
            (Action::RemoveGraphics { graphics: kind }, reason)
        }
        Move::Add(_, gl) => {
            let reason = match kind {
                GraphicsType::EglHeadless => format!(
                    "{device} hands over its screen as a dmabuf; egl-headless gives the other graphics OpenGL"
                ),
                _ if gl => format!(
                    "{device} hands over its screen as a dmabuf, and {kind} with OpenGL can show it"
                ),
                _ => match refusal {
                    Some(refusal) => format!(
                        "without it, {} refuses the domain: \"{}\"",
                        refusal.by().word(),
                        refusal.message
                    ),
                    None => format!("nothing else would show the screen of {device}"),
                },
            };
            (Action::AddGraphics { graphics: kind, gl }, reason)
        }
    }
}

/// Returns the changes that the moves make, with their reasons. `screens` and `then` are the
/// screens before and after the moves, and `now` is the prediction without the moves.
fn changes(screens: &Screens, then: &Screens, moves: &[Move], now: &Prediction) -> Vec<Change> {
    // A refusal that is about a device is not the reason for a move.
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
    for action in moves {
        let (made, reason) = change(screens, then, *action, &device, refusal);
        changes.push(Change {
            action: made,
            reason,
            consent: loss(&screens.frontends, *action),
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
