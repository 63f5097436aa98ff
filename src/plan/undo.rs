//! Takes back a change of a domain's XML. It keeps the old values and the new ones, so that it does
//! not touch a value that somebody has changed since.
//!
//! Both texts are as libvirt prints a definition, one before the change and one after it. So what
//! libvirt itself adds to a change goes with it. White space between elements, comments and
//! declarations of namespaces don't count as differences.
//!
//! A value that may be a password is never kept; it becomes [`Inverse::Withheld`].

mod tree;

use serde::{Deserialize, Serialize};

use crate::xml::{Document, Edit, Element, XmlError};
use tree::{Step, at, differences, local_scope, path_label, same, steps};

/// One thing to put back.
///
/// An element is named by its path below the root. Each step has what distinguishes an element from
/// its siblings: `devices`, `graphics[type=spice]`, `listen[2]`. Steps are compared, never taken
/// apart.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
pub enum Inverse {
    /// The value of an attribute.
    Attribute {
        /// The path of the attribute's element.
        element: Vec<String>,
        /// The attribute's name.
        name: String,
        /// The value before the change; `None` if there was no attribute.
        old: Option<String>,
        /// The value after the change; `None` if there is no attribute.
        new: Option<String>,
    },
    /// The text of an element that contains no others.
    Text {
        /// The path of the element.
        element: Vec<String>,
        /// The text before the change.
        old: String,
        /// The text after the change.
        new: String,
    },
    /// Elements of one name in one place.
    Elements {
        /// The path of the element that contains these elements.
        parent: Vec<String>,
        /// The nearest sibling above that existed before and after the change.
        after: Option<String>,
        /// The nearest sibling below that existed before and after the change.
        before: Option<String>,
        /// The elements that existed before and not after.
        old: Vec<Piece>,
        /// The elements that exist instead.
        new: Vec<Piece>,
    },
    /// Values that make sense only together. Either all of them are put back, or none.
    Together {
        /// The single values. None of them is a group itself.
        changes: Vec<Inverse>,
    },
    /// A value that can't be put back. It was not kept, because it may hold a password.
    Withheld {
        /// The path of the element.
        element: Vec<String>,
    },
}

/// A whole element.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Piece {
    /// The element's name among its siblings.
    pub step: String,
    /// The XML, with the namespaces that it needs.
    pub xml: String,
}

/// A domain with old values put back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Undone {
    /// The domain's XML.
    pub text: String,
    /// The values that were put back, in words. Empty if none of ours still stood.
    pub put_back: Vec<String>,
    /// The values that were not put back, each with the reason.
    pub passed_over: Vec<String>,
}

/// The error for a text that can't be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the definition {which}: {error}")]
pub struct Unreadable {
    /// The text, as one of several: `before the change`, `after the change`, `as it is`.
    pub which: &'static str,
    /// The problem.
    pub error: XmlError,
}

/// Returns what must be put back in `after` to get `before` again; empty if they are the same.
///
/// # Errors
/// [`Unreadable`], with the place.
pub fn inverse(before: &str, after: &str) -> Result<Vec<Inverse>, Unreadable> {
    let before = parse(before, "before the change")?;
    let after = parse(after, "after the change")?;
    Ok(differences(before.root(), after.root()))
}

/// Puts old values back where our new values still stand. Everything else stays unchanged to the
/// byte.
///
/// # Errors
/// [`Unreadable`], with the place.
pub fn undo(current: &str, inverses: &[Inverse]) -> Result<Undone, Unreadable> {
    let document = parse(current, "as it is")?;
    let mut undoing = Undoing {
        root: document.root(),
        ours: Vec::new(),
        edits: Vec::new(),
        undone: Undone::default(),
    };
    // Elements that we added may stand where something is to be put back.
    let groups: Vec<Vec<_>> = inverses
        .iter()
        .map(|inverse| {
            let single = std::slice::from_ref(inverse);
            let single = match inverse {
                Inverse::Together { changes } => changes.as_slice(),
                _ => single,
            };
            let standing = single.iter().map(|one| (one, undoing.standing(one)));
            standing.collect()
        })
        .collect();
    for group in &groups {
        undoing.group(group);
    }
    let text = document.apply(&undoing.edits);
    // The values come from a file that somebody, or a disk, may have damaged.
    if let Err(error) = Document::parse(&text) {
        let problem = format!("what is remembered makes no document of it: {error}");
        return Ok(Undone {
            text: current.to_owned(),
            put_back: Vec::new(),
            passed_over: vec![problem],
        });
    }
    Ok(Undone {
        text,
        ..undoing.undone
    })
}

/// Undoes several changes, given from the oldest to the newest.
pub(crate) fn undo_all<'r>(
    current: &str,
    rounds: impl DoubleEndedIterator<Item = &'r [Inverse]>,
) -> Result<Undone, Unreadable> {
    let mut all = Undone {
        text: current.to_owned(),
        ..Undone::default()
    };
    for round in rounds.rev() {
        let undone = undo(&all.text, round)?;
        all.text = undone.text;
        all.put_back.extend(undone.put_back);
        all.passed_over.extend(undone.passed_over);
    }
    Ok(all)
}

fn parse<'a>(text: &'a str, which: &'static str) -> Result<Document<'a>, Unreadable> {
    Document::parse(text).map_err(|error| Unreadable { which, error })
}

struct Undoing<'d, 'a> {
    root: Element<'d, 'a>,
    /// The elements that we added and that nobody has changed since.
    ours: Vec<Element<'d, 'a>>,
    edits: Vec<Edit>,
    undone: Undone,
}

impl<'d, 'a> Undoing<'d, 'a> {
    /// Returns the elements that a change added; `None` if somebody has changed one of them since.
    fn standing(&mut self, inverse: &Inverse) -> Option<Vec<Element<'d, 'a>>> {
        let Inverse::Elements { parent, new, .. } = inverse else {
            return None;
        };
        let siblings = steps(at(self.root, parent)?);
        let found = unchanged(&siblings, new, &self.ours)?;
        self.ours.extend(&found);
        Some(found)
    }

    /// Undoes the whole group, or none of it.
    fn group(&mut self, group: &[(&Inverse, Option<Vec<Element<'d, 'a>>>)]) {
        let before = (
            self.edits.len(),
            self.undone.put_back.len(),
            self.undone.passed_over.len(),
        );
        for (inverse, ours) in group {
            self.one(inverse, ours.as_deref());
        }
        let (edits, put_back, passed_over) = before;
        if self.undone.passed_over.len() == passed_over {
            return;
        }
        self.edits.truncate(edits);
        for stays in self.undone.put_back.split_off(put_back) {
            let (what, _) = stays.split_once(": ").unwrap_or((&stays, ""));
            let why = format!("{what} stays with it");
            if !self.undone.passed_over[passed_over..].contains(&why) {
                self.pass(why);
            }
        }
    }

    /// Undoes one change. `ours` is the result of [`Self::standing`].
    fn one(&mut self, inverse: &Inverse, ours: Option<&[Element<'d, 'a>]>) {
        match inverse {
            Inverse::Attribute {
                element,
                name,
                old,
                new,
            } => self.attribute(element, name, old.as_deref(), new.as_deref()),
            Inverse::Text { element, old, new } => self.text(element, old, new),
            Inverse::Elements {
                parent,
                after,
                before,
                old,
                new,
            } => {
                let Some(element) = self.find(parent) else {
                    return;
                };
                let around = [after.as_deref(), before.as_deref()];
                self.elements(element, parent, around, old, new, ours);
            }
            Inverse::Together { .. } => self.pass("what is kept of it is damaged".into()),
            Inverse::Withheld { element } => {
                let what = path_label(element);
                self.pass(format!(
                    "{what} can't be put back, because of its password, which is not kept"
                ));
            }
        }
    }

    fn pass(&mut self, why: String) {
        self.undone.passed_over.push(why);
    }

    fn find(&mut self, path: &[String]) -> Option<Element<'d, 'a>> {
        let found = at(self.root, path);
        if found.is_none() {
            self.pass(format!("{} is not there any more", path_label(path)));
        }
        found
    }

    fn attribute(&mut self, path: &[String], name: &str, old: Option<&str>, new: Option<&str>) {
        let Some(element) = self.find(path) else {
            return;
        };
        let label = path_label(path);
        let now = element.attribute(name);
        if now.as_deref() == old {
            return;
        }
        if now.as_deref() != new {
            let now = valued(name, now.as_deref());
            return self.pass(format!("{label}: {now} is somebody else's"));
        }
        self.edits.push(match old {
            Some(old) => element.set_attribute(name, old),
            None => element.remove_attribute(name),
        });
        let (old, new) = (valued(name, old), valued(name, new));
        let said = format!("{label}: {old} again, instead of {new}");
        self.undone.put_back.push(said);
    }

    fn text(&mut self, path: &[String], old: &str, new: &str) {
        let Some(element) = self.find(path) else {
            return;
        };
        let label = path_label(path);
        // White space alone counts as no text.
        let now = element.text().map(|now| {
            if now.trim().is_empty() {
                "".into()
            } else {
                now
            }
        });
        match now {
            Some(now) if now == old => {}
            Some(now) if now == new => {
                self.edits.push(element.set_text(old));
                let said = format!("{label}: {old:?} again, instead of {new:?}");
                self.undone.put_back.push(said);
            }
            _ => self.pass(format!("{label}: its text is somebody else's")),
        }
    }

    fn elements(
        &mut self,
        parent: Element<'d, 'a>,
        path: &[String],
        around: [Option<&str>; 2],
        old: &[Piece],
        new: &[Piece],
        ours: Option<&[Element<'d, 'a>]>,
    ) {
        let siblings = steps(parent);
        let label = |pieces: &[Piece]| {
            let labels = pieces.iter().map(|piece| {
                let mut path = path.to_vec();
                path.push(piece.step.clone());
                path_label(&path)
            });
            labels.collect::<Vec<_>>().join(", ")
        };
        let is_as_before = !old.is_empty() && unchanged(&siblings, old, &self.ours).is_some();
        let Some(ours) = ours else {
            // Somebody may have undone it already.
            let is_gone = || {
                let is_ours = |step: &Step| new.iter().any(|piece| step.is(&piece.step));
                !siblings.iter().any(|(step, _)| is_ours(step))
            };
            if !(is_as_before || old.is_empty() && is_gone()) {
                let what = label(new);
                self.pass(format!("{what} is not as it was made, and stays"));
            }
            return;
        };
        let is_there = |piece: &Piece| {
            let mut others = siblings.iter().filter(|(_, e)| !self.ours.contains(e));
            others.any(|(step, _)| step.is(&piece.step))
        };
        // An argument may occur more than once, and arguments have a meaning only as a sequence.
        let already = match old.first() {
            None => false,
            Some(piece) if Step::may_repeat(&piece.step) => old.iter().all(is_there),
            Some(_) => old.iter().any(is_there),
        };
        if already && !is_as_before {
            let what = label(old);
            self.pass(format!(
                "{what}: there is one again that is somebody else's"
            ));
        }
        if already && new.is_empty() {
            return;
        }
        if !already {
            let xml: Option<Vec<String>> = old
                .iter()
                .map(|piece| local_scope(parent, &piece.xml))
                .collect();
            let Some(xml) = xml else {
                let what = label(old);
                return self.pass(format!("{what}: what is kept of it is damaged"));
            };
            let anchor = anchor(&siblings, around);
            let inserted = xml.iter().map(|xml| parent.insert_after(anchor, xml));
            self.edits.extend(inserted);
        }
        self.edits.extend(ours.iter().map(Element::remove));
        self.undone.put_back.push(if new.is_empty() {
            format!("{} put back", label(old))
        } else if old.is_empty() || already {
            format!("{} taken out", label(new))
        } else {
            format!("{} put back instead of {}", label(old), label(new))
        });
    }
}

/// Returns the sibling below which something is put back; `None` stands for the top. All elements
/// that stood in one place have the same sibling, so that they keep their order.
fn anchor<'d, 'a>(
    siblings: &[(Step, Element<'d, 'a>)],
    [after, before]: [Option<&str>; 2],
) -> Option<Element<'d, 'a>> {
    let place = |step: Option<&str>| {
        let step = step?;
        siblings.iter().position(|(other, _)| other.is(step))
    };
    if let Some(place) = place(after) {
        return Some(siblings[place].1);
    }
    match (place(before), after, before) {
        (Some(place), _, _) => Some(siblings[place.checked_sub(1)?].1),
        (None, None, None) => None,
        (None, _, _) => siblings.last().map(|(_, element)| *element),
    }
}

/// Returns the siblings that equal these pieces and are not yet counted; `None` if one is missing.
fn unchanged<'d, 'a>(
    siblings: &[(Step, Element<'d, 'a>)],
    pieces: &[Piece],
    counted: &[Element<'d, 'a>],
) -> Option<Vec<Element<'d, 'a>>> {
    let mut found = Vec::new();
    for piece in pieces {
        let document = Document::parse(&piece.xml).ok()?;
        let free = |(_, sibling): &&(Step, Element<'d, 'a>)| {
            !found.contains(sibling)
                && !counted.contains(sibling)
                && same(*sibling, document.root())
        };
        // The element may have another number by now.
        let by_step = siblings
            .iter()
            .filter(free)
            .find(|(step, _)| step.is(&piece.step));
        let (_, element) = by_step.or_else(|| siblings.iter().find(free))?;
        let element = *element;
        found.push(element);
    }
    Some(found)
}

/// Returns `name='value'`, or words for a missing value.
fn valued(name: &str, value: Option<&str>) -> String {
    match value {
        Some(value) => format!("{name}='{value}'"),
        None => format!("no {name}"),
    }
}

#[cfg(test)]
mod tests;
