//! Writes the files in `/run/gfxplane/export` for those of a fleet's tools that the settings name.
//! `gfxplane export` makes the texts, in processes of its own, so that the daemon need not wait.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::daemon::service::{Journal, Priority};
use crate::host::Root;
use crate::host::config::Config;
use crate::host::exports::{FRESH, publish};

/// The time from an event until the files are written. Most events are followed by others, and the
/// tools read the files only now and then.
const AFTER: Duration = Duration::from_secs(5);

/// The thread that writes, while there is something to write.
pub(super) struct Publishing {
    root: Root,
    program: PathBuf,
    writer: Option<JoinHandle<()>>,
    /// The time at which the files are to be written; `None` if none is planned.
    pub(super) due: Option<Instant>,
}

impl Publishing {
    /// Makes a publisher that writes below `root`. `program` is `gfxplane`.
    pub(super) fn new(root: &Root, program: PathBuf) -> Self {
        Publishing {
            root: root.clone(),
            program,
            writer: None,
            due: None,
        }
    }

    /// Plans to write the files soon, because something has happened. If the settings name no
    /// files, drops the plan.
    pub(super) fn soon(&mut self, config: &Config) {
        let soon = Instant::now() + AFTER;
        let is_wanted = config.export.named().next().is_some();
        self.due = is_wanted.then(|| self.due.map_or(soon, |due| due.min(soon)));
    }

    /// Starts writing the exported files if they are due and no earlier writing goes on, and plans
    /// the next writing after [`FRESH`]. `with_guests` must be true only while libvirt runs:
    /// without it the file about guests is skipped, because asking libvirt for them would start a
    /// libvirt that was stopped on purpose.
    pub(super) fn time_passes(&mut self, now: Instant, config: &Config, with_guests: bool) {
        if self.due.is_none_or(|due| due > now) {
            return;
        }
        let writer = self.writer.as_ref();
        if writer.is_some_and(|writer| !writer.is_finished()) {
            self.due = Some(now + AFTER);
            return;
        }
        let named = config.export.named().map(|(format, _)| format);
        let formats: Vec<_> = named
            .filter(|format| with_guests || *format != "prometheus")
            .collect();
        let (root, program) = (self.root.clone(), self.program.clone());
        self.writer = Some(thread::spawn(move || {
            for format in formats {
                if let Err(problem) = write(&root, &program, format) {
                    let text = format!("/run/gfxplane/export/{format}: {problem}");
                    Journal::new().say(Priority::Warning, &text);
                }
            }
        }));
        self.due = Some(now + FRESH);
    }
}

fn write(root: &Root, program: &Path, format: &str) -> Result<(), String> {
    // Failures go to stderr, and so to the journal.
    let made = Command::new(program)
        .args(["--quiet", "export", format])
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .map_err(|error| format!("{}: {error}", program.display()))?;
    if !made.status.success() {
        return Err(format!("gfxplane export {format}: {}", made.status));
    }
    let text = String::from_utf8(made.stdout).map_err(|error| error.to_string())?;
    publish(root, format, &text).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::host::exports::published;

    #[test]
    fn what_the_settings_name_is_written() {
        let (_keep, root) = crate::host::empty();
        let named = |text: &str| Config::default().with_file(text).unwrap();
        let mut publishing = Publishing::new(&root, "/bin/echo".into());
        let nothing = Config::default();
        publishing.soon(&nothing);
        assert_eq!(publishing.due, None);
        let both = named("export = { prometheus = '/p', nfd = '/n' }");
        publishing.soon(&both);
        let first = publishing.due.unwrap();
        publishing.soon(&both);
        assert_eq!(publishing.due, Some(first));
        publishing.time_passes(first - AFTER, &both, true);
        assert_eq!(publishing.due, Some(first));
        publishing.time_passes(first, &both, false);
        assert_eq!(publishing.due, Some(first + FRESH));
        // The settings are empty again.
        publishing.soon(&nothing);
        assert_eq!(publishing.due, None);
        let wait = |format: &str| {
            let limit = Instant::now() + Duration::from_secs(60);
            while published(&root, format) == Ok(None) && Instant::now() < limit {
                thread::yield_now();
            }
            published(&root, format).unwrap().unwrap()
        };
        assert_eq!(wait("nfd"), "--quiet export nfd\n");
        assert_eq!(published(&root, "prometheus"), Ok(None));
        // While the files are being written, no second write begins.
        publishing.writer.take().unwrap().join().unwrap();
        let (stop, stopped) = mpsc::channel::<()>();
        publishing.writer = Some(thread::spawn(move || stopped.recv().unwrap_or(())));
        publishing.soon(&both);
        let second = publishing.due.unwrap();
        publishing.time_passes(second, &both, true);
        assert_eq!(publishing.due, Some(second + AFTER));
        drop(stop);
        while !publishing.writer.as_ref().unwrap().is_finished() {
            thread::yield_now();
        }
        publishing.time_passes(second + AFTER, &both, true);
        assert_eq!(wait("prometheus"), "--quiet export prometheus\n");
        let lost = write(&root, Path::new("/bin/false"), "nfd").unwrap_err();
        assert!(lost.contains("exit status: 1"), "{lost}");
    }
}
