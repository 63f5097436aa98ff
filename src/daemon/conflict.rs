//! Restores a definition that somebody else made while we replaced it.

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

/// Makes a definition from its text, and adds the line break at the end.
fn definition(uuid: Uuid, text: &str) -> Definition {
    Definition {
        uuid,
        xml: format!("{text}\n"),
        is_active: false,
    }
}

/// Returns whether undefining the domain was the first of the changes that were `seen`, and only
/// definitions follow; also true if none was seen. It then removed our definition, and a definition
/// that somebody made afterwards is still there.
fn was_first(seen: &[Version]) -> bool {
    match seen {
        [] => true,
        [first, later @ ..] => {
            let is_text = |version| matches!(version, &Version::Text(_));
            *first == Version::Undefined && later.iter().all(is_text)
        }
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
    /// Finds out which definition we have replaced by `fixed`. Returns it, and ours as libvirt
    /// wrote it (`None` if we did not see that). `seen` are the versions that were caught
    /// meanwhile. Without `seen`, or if one was missed, assumes that we have replaced `before`; if
    /// one was missed, also reports that a change may be lost.
    ///
    /// If we have replaced somebody else's definition, or defined a domain that somebody else had
    /// undefined, tries to restore their change and returns `None`. But if we replaced graphics
    /// alone, and they changed no graphics, their definition is returned: libvirt kept the rest of
    /// it.
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
                // libvirt itself has put our graphics into their definition: the rest is there.
                let what = only_graphics(fixed).map_or("", |_| "graphics");
                self.may_be_lost(moment, what);
                before.xml.clone()
            }
        };
        Ok(Some((base, ours)))
    }

    /// Restores somebody else's definition, which we have replaced. The daemon then looks at the
    /// domain again. Without `ours`, our definition as libvirt wrote it, only reports a possible
    /// loss.
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

    /// Undefines a domain that somebody else had undefined, and that we have defined again. Without
    /// `ours`, our definition as libvirt wrote it, only reports a possible loss.
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
            Ok(Replaced::Done { .. }) if was_first(&seen) => {
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

    /// Reports that somebody else's change may be lost, and has the daemon look at the domain
    /// again. `what` names the changed elements; it is empty if they are not known.
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
