//! Puts back a definition that somebody else wrote at the moment when we replaced it.

use std::time::Duration;

use uuid::Uuid;

use super::Daemon;
use super::acting::AT_ONCE;
use super::service::Priority;
use crate::daemon::decision::{all_graphics, only_graphics};
use crate::host::log::What;
use crate::libvirt::definition_versions::{self, Replaced as Between, Version, Watched};
use crate::libvirt::{Definition, Failure, Libvirt, New, Replaced};
use crate::plan::fixup::Fixed;

/// Makes a definition from a text, as libvirt would print it.
fn definition(uuid: Uuid, text: &str) -> Definition {
    Definition {
        uuid,
        xml: format!("{text}\n"),
        is_active: false,
    }
}

/// The moment at which we replaced a domain's definition.
#[derive(Clone, Copy)]
pub(super) struct Moment {
    pub(super) uuid: Uuid,
    /// The time in which somebody else could have changed the definition unseen.
    pub(super) window: Duration,
}

impl Daemon<'_> {
    /// Finds out which definition ours has replaced. Returns the definition that we changed, and
    /// ours as libvirt wrote it, if that was seen. Returns `None` if ours has replaced somebody
    /// else's definition, or has brought back a domain that somebody else had undefined; their
    /// change is then restored. If nobody knows what was replaced, reports a possible loss. `seen`
    /// are the versions of the definition that were seen meanwhile; without them, nothing can be
    /// found out.
    pub(super) fn replaced(
        &mut self,
        libvirt: &dyn Libvirt,
        moment: Moment,
        before: &Definition,
        fixed: &Fixed,
        seen: Option<Vec<Version>>,
    ) -> Result<Option<(String, Option<String>)>, Failure> {
        let Some(seen) = seen else {
            return Ok(Some((before.xml.clone(), None)));
        };
        let (replaced, ours) = definition_versions::replaced(&seen, &before.xml, &fixed.text);
        let base = match replaced {
            Between::Expected => before.xml.clone(),
            // libvirt itself has put our graphics into their definition.
            Between::Theirs(theirs)
                if only_graphics(fixed).is_some()
                    && all_graphics(&theirs) == all_graphics(&before.xml) =>
            {
                theirs
            }
            Between::Theirs(theirs) => {
                self.put_back(libvirt, moment, ours, theirs)?;
                return Ok(None);
            }
            Between::Undefined => {
                self.undefine_again(libvirt, moment, ours)?;
                return Ok(None);
            }
            Between::Missed => {
                self.may_be_lost(moment, "");
                before.xml.clone()
            }
        };
        Ok(Some((base, ours)))
    }

    /// Defines somebody else's definition again, which ours has replaced. The daemon then looks at
    /// it like at any other. `ours` is our definition as libvirt wrote it, if that was seen.
    fn put_back(
        &mut self,
        libvirt: &dyn Libvirt,
        moment: Moment,
        mut ours: Option<String>,
        mut theirs: String,
    ) -> Result<(), Failure> {
        let uuid = moment.uuid;
        // The daemon looks at the domain again, whether this succeeds or fails.
        self.soon(uuid, true);
        for _ in 0..AT_ONCE {
            // Every moment counts: anybody who changes our definition now loses their own, too.
            let Some(there) = ours.map(|ours| definition(uuid, &ours)) else {
                break;
            };
            let what = definition_versions::differing(&there.xml, &theirs).join(", ");
            let watched = self.watch(uuid);
            let defined = libvirt.define(&there, New::Whole(&theirs));
            let seen = watched.map(Watched::end).unwrap_or_default();
            if !matches!(defined, Ok(Replaced::Done { .. })) {
                self.may_be_lost(moment, &what);
                return defined.map(drop);
            }
            let (replaced, written) = definition_versions::replaced(&seen, &there.xml, &theirs);
            match replaced {
                Between::Expected => {
                    let text = format!(
                        "somebody else changed it at the same moment ({what}): their definition was restored"
                    );
                    self.tell(uuid, Priority::Notice, &text);
                    self.log(uuid, What::Kept, Some(&text));
                    return Ok(());
                }
                Between::Theirs(newer) => {
                    ours = written;
                    theirs = newer;
                }
                Between::Undefined => return self.undefine_again(libvirt, moment, written),
                Between::Missed => break,
            }
        }
        self.may_be_lost(moment, "");
        Ok(())
    }

    /// Undefines a domain that somebody else had undefined, and that our definition has brought
    /// back. `ours` is that definition as libvirt wrote it, if that was seen.
    fn undefine_again(
        &mut self,
        libvirt: &dyn Libvirt,
        moment: Moment,
        ours: Option<String>,
    ) -> Result<(), Failure> {
        self.soon(moment.uuid, true);
        let Some(there) = ours.map(|ours| definition(moment.uuid, &ours)) else {
            self.may_be_lost(moment, "");
            return Ok(());
        };
        let watched = self.watch(moment.uuid);
        let undefined = libvirt.undefine(&there);
        let seen = watched.map(Watched::end).unwrap_or_default();
        match undefined {
            // Somebody else has changed the definition since.
            Ok(Replaced::Changed) => return Ok(()),
            Ok(Replaced::Done { .. }) if seen.len() <= 1 => {
                let text =
                    "somebody else undefined it at the same moment: gfxplane undefined it again";
                self.tell(moment.uuid, Priority::Notice, text);
                self.log(moment.uuid, What::Kept, Some(text));
                return Ok(());
            }
            Ok(Replaced::Done { .. }) => self.may_be_lost(moment, ""),
            Err(error) => {
                let text = format!(
                    "somebody else undefined it at the same moment, and gfxplane defined it again and can't take that back ({error}): undefine it once more"
                );
                self.conflict(moment.uuid, &text);
            }
        }
        Ok(())
    }

    /// Reports that somebody else's change may be lost. `what` names the changed elements; it is
    /// empty if they are not known.
    fn may_be_lost(&mut self, moment: Moment, what: &str) {
        let what = match what {
            "" => String::new(),
            what => format!(" ({what})"),
        };
        let text = format!(
            "somebody else changed it at the same moment (within {} µs): their change{what} may be lost: check the definition",
            moment.window.as_micros()
        );
        self.conflict(moment.uuid, &text);
        self.soon(moment.uuid, true);
    }

    fn conflict(&mut self, uuid: Uuid, problem: &str) {
        self.tell(uuid, Priority::Error, problem);
        self.log(uuid, What::Conflict, Some(problem));
    }
}
