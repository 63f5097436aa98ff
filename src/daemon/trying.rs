//! Tries domains for the daemon. Unless it is asked, the daemon defines only what was seen to
//! start.

use std::time::{Duration, Instant};

use super::service::Priority;
use super::{Daemon, SOON, Task};
use crate::daemon::decision::{left_alone, mark};
use crate::domain::shell::operand;
use crate::host::log::What;
use crate::libvirt::Failure;
use crate::libvirt::Libvirt;
use crate::libvirt::surroundings::HostSurroundings;
use crate::libvirt::trial::{NotTried, Question, Seen};
use crate::plan::fixup::Fixed;

/// The longest time that the start of a domain's small copy may take: as long as libvirt waits for
/// a QEMU that does not answer (src/qemu/qemu_monitor.c, `QEMU_DEFAULT_MONITOR_WAIT`). Other
/// domains wait meanwhile.
const DEADLINE: Duration = Duration::from_secs(30);

impl Daemon<'_> {
    /// Returns whether the planned domain was seen to start: in a measurement, in an earlier trial,
    /// or in a trial now. If not, the caller must leave the domain as it is: the reason was
    /// written, and a trial that may succeed later is planned.
    pub(super) fn is_seen(
        &mut self,
        libvirt: &dyn Libvirt,
        task: Task,
        fixed: &Fixed,
    ) -> Result<bool, Failure> {
        let uuid = task.uuid;
        let wanted = mark(&fixed.text);
        let domain = self.domains.watched(uuid);
        let typed = operand(Some(&domain.name), Some(uuid));
        let no_trial =
            format!("`gfxplane fixup {typed} --define --no-trial` does it without a trial");
        if let Some((text, why)) = &domain.in_vain
            && *text == wanted
        {
            let why = why.clone();
            self.leave(task, fixed, &why);
            return Ok(false);
        }
        let why = match self.see(libvirt, fixed) {
            Ok(seen) if seen.starts => {
                self.tell(uuid, Priority::Info, &seen.to_string());
                return Ok(true);
            }
            Ok(seen) => format!("{seen}; `gfxplane fixup {typed} --define` tries it again"),
            Err(NotTried::Failed(problem)) => return Err(Failure::Environment(problem)),
            Err(error @ (NotTried::Late(_) | NotTried::LeftOut(_))) => {
                format!("not tried: {error}; {no_trial}")
            }
            Err(error @ (NotTried::InUse(_) | NotTried::Gone(_))) => {
                self.domains.watched(uuid).waits = true;
                let again = "gfxplane checks it again when a domain has ended";
                let why = format!("not tried: {error}; {again}; {no_trial}");
                self.leave(task, fixed, &why);
                return Ok(false);
            }
            Err(error @ (NotTried::Ours(_) | NotTried::Start(_))) => {
                let text = format!("not tried yet: {error}");
                self.tell(uuid, Priority::Info, &text);
                self.again(task, SOON);
                return Ok(false);
            }
        };
        self.leave(task, fixed, &why);
        self.domains.watched(uuid).in_vain = Some((wanted, why));
        Ok(false)
    }

    fn see(&mut self, libvirt: &dyn Libvirt, fixed: &Fixed) -> Result<Seen, NotTried> {
        let surroundings = HostSurroundings::as_it_is(self.context);
        let question = Question::new(self.context, &fixed.text, &surroundings);
        let question = question.map_err(|error| NotTried::Failed(error.to_string()))?;
        let mut warnings = surroundings.warnings();
        let known = question.known(&mut warnings);
        self.warn(&warnings);
        if let Some(seen) = known {
            return Ok(seen);
        }
        self.trial = Some(question.uuid());
        question.try_it(libvirt, Instant::now() + DEADLINE)
    }

    fn leave(&mut self, task: Task, fixed: &Fixed, why: &str) {
        self.say_of(task.uuid, left_alone(fixed, why), Some(What::LeftAlone));
        self.handled(task.uuid, false);
    }
}
