//! Catches the versions of a definition that libvirt writes while we replace it. libvirt has no
//! compare-and-swap, so somebody else may define the domain after we have read it and before our
//! definition is in place. Without this module, their version would be lost.
//!
//! libvirt saves each definition as a new file and renames the file to `NAME.xml`
//! (src/util/virfile.c, `virFileRewrite`). Apart from the comment at its top, the file is what
//! `virsh dumpxml --inactive --security-info` prints. A thread opens each file right after the
//! rename. So the thread catches all versions, as long as it is faster than libvirt's next rename.
//! If it is slower, two events lead to the same file, which shows that a version was missed.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::io::Read;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::libc;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// The largest definition that is read, in bytes. libvirt's protocol can't carry one of this size.
const MAX_SIZE: u64 = 64 * 1024 * 1024;

/// The greatest number of characters of an element's name in a message.
const MOST_CHARACTERS: usize = 40;

/// The greatest number of differing elements that a message names.
const MOST_NAMES: usize = 10;

/// The longest time to wait for the thread to report all events up to the end of the watch.
const PATIENCE: Duration = Duration::from_secs(10);

/// Catches versions of definitions in one directory.
#[derive(Debug)]
pub(crate) struct Versions {
    reader: Arc<Reader>,
    steps: Receiver<Step>,
}

/// An event about the watched file, as the thread saw it.
#[derive(Debug)]
enum Step {
    /// The file has a new version; `None` if the version was replaced or removed before the thread
    /// could open it.
    Written(Option<File>),
    Deleted,
    /// There were more events than the kernel could report.
    Overflow,
    /// The watch has ended.
    End,
}

/// The watch of one domain's definition.
#[derive(Debug)]
pub(crate) struct Watched<'v> {
    versions: &'v Versions,
    watch: WatchDescriptor,
}

/// One change of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Version {
    /// The definition became this text.
    Text(String),
    /// A definition that we could not read, usually because somebody replaced it too soon. Also
    /// takes the place of events that are missing.
    Missed,
    /// The domain was undefined.
    Undefined,
}

/// The definition that was in place when ours replaced it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Replaced {
    /// The definition that we had read.
    Expected,
    /// A definition that somebody else made meanwhile.
    Theirs(String),
    /// No definition: somebody else had undefined the domain.
    Undefined,
    /// A definition by somebody else that could not be read.
    Missed,
}

impl Versions {
    /// Prepares to watch the `directory` where libvirt keeps the definitions, and starts the
    /// thread. The directory need not exist, because the watching begins with [`Self::watch`].
    ///
    /// # Errors
    /// The user has too many inotify instances.
    pub(crate) fn new(directory: PathBuf) -> nix::Result<Self> {
        let reader = Arc::new(Reader {
            directory,
            inotify: Inotify::init(InitFlags::IN_CLOEXEC)?,
            wanted: Mutex::default(),
        });
        let (sink, steps) = mpsc::channel();
        let reads = Arc::clone(&reader);
        thread::spawn(move || reads.read(&sink));
        Ok(Versions { reader, steps })
    }

    /// Watches the definition of the domain `name` until [`Watched::end`]. There can be only one
    /// watch at a time.
    ///
    /// # Errors
    /// The directory does not exist, or the user has too many watches.
    pub(crate) fn watch(&self, name: &str) -> nix::Result<Watched<'_>> {
        *self.reader.wanted() = format!("{name}.xml").into();
        while self.steps.try_recv().is_ok() {}
        // The kernel merges two equal events that follow each other. It reports both ends of each
        // rename, so that no two events in a row are equal.
        let flags = AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE
            | AddWatchFlags::IN_ONLYDIR;
        let Reader {
            inotify, directory, ..
        } = &*self.reader;
        let watch = inotify.add_watch(directory, flags)?;
        Ok(Watched {
            versions: self,
            watch,
        })
    }
}

impl Watched<'_> {
    /// Ends the watch. Returns the changes since it began, the oldest first, with a
    /// [`Version::Missed`] in place of any missing events. Waits for the thread, at most 10 s for
    /// each event.
    #[must_use]
    pub(crate) fn end(self) -> Vec<Version> {
        // The end of the watch is reported after all events before it.
        let mut steps = Vec::new();
        let mut ended = self.versions.reader.inotify.rm_watch(self.watch).is_ok();
        while ended {
            match self.versions.steps.recv_timeout(PATIENCE) {
                Ok(Step::End) => break,
                Ok(step) => steps.push(step),
                Err(_) => ended = false,
            }
        }
        if !ended {
            steps.push(Step::Overflow);
        }
        told(steps)
    }
}

/// Reads the files that were opened. If two events led to the same file, the version of the earlier
/// one was missed.
fn told(steps: Vec<Step>) -> Vec<Version> {
    let identity = |step: &Step| match step {
        Step::Written(Some(file)) => {
            let metadata = file.metadata().ok()?;
            Some((metadata.dev(), metadata.ino()))
        }
        _ => None,
    };
    // All files are still open, so none has the inode number of a file that is gone.
    let identities: Vec<_> = steps.iter().map(identity).collect();
    let version = |(place, step): (usize, Step)| match step {
        Step::Written(Some(file))
            if identities[place].is_some()
                && !identities[place + 1..].contains(&identities[place]) =>
        {
            let mut text = String::new();
            match file.take(MAX_SIZE).read_to_string(&mut text) {
                Ok(_) => Version::Text(body(&text).to_owned()),
                Err(_) => Version::Missed,
            }
        }
        Step::Deleted => Version::Undefined,
        _ => Version::Missed,
    };
    steps.into_iter().enumerate().map(version).collect()
}

/// Returns a definition without the comment at its top, in which libvirt names the domain
/// (src/util/virxml.c, `virXMLEmitWarning`; libvirt leaves out a name with two hyphens).
fn body(text: &str) -> &str {
    match text.trim_start().strip_prefix("<!--") {
        Some(rest) => rest.split_once("-->").map_or(text, |(_, body)| body),
        None => text,
    }
    .trim()
}

/// Finds our definition among the versions that were `seen`. Returns what it has replaced, and our
/// definition as libvirt wrote it (`None` if it was not caught). `expected` is the definition that
/// we had read; ours has replaced it if nothing earlier was seen. `wanted` is the definition that
/// we made, to which libvirt may have added: ours is the nearest text or, without texts, the last
/// version that was missed.
pub(crate) fn replaced(
    seen: &[Version],
    expected: &str,
    wanted: &str,
) -> (Replaced, Option<String>) {
    let distance = |version: &Version| match version {
        Version::Text(text) => Some(distance(text, wanted)),
        _ => None,
    };
    let texts = seen.iter().enumerate();
    let ours = texts
        .filter_map(|(place, version)| Some((distance(version)?, place)))
        .min();
    // If ours was missed, it is the last one that was missed.
    let missed = || seen.iter().rposition(|version| *version == Version::Missed);
    let Some(ours) = ours.map(|(_, place)| place).or_else(missed) else {
        return (Replaced::Expected, None);
    };
    let text = match &seen[ours] {
        Version::Text(text) => Some(text.clone()),
        _ => None,
    };
    let before = match ours.checked_sub(1).map(|before| &seen[before]) {
        None => Replaced::Expected,
        Some(Version::Text(text)) if text == expected.trim() => Replaced::Expected,
        Some(Version::Text(text)) => Replaced::Theirs(text.clone()),
        Some(Version::Missed) => Replaced::Missed,
        Some(Version::Undefined) => Replaced::Undefined,
    };
    (before, text)
}

/// Returns for each tag how many more `one` has than `other`; negative if it has fewer.
fn surplus<'t>(one: &'t str, other: &'t str) -> HashMap<&'t str, i64> {
    let mut tags: HashMap<&str, i64> = HashMap::new();
    for (text, count) in [(one, 1), (other, -1)] {
        for tag in text.split('<') {
            *tags.entry(tag.trim()).or_default() += count;
        }
    }
    tags
}

/// Returns the number of tags that only one of two definitions has; a changed tag counts twice. The
/// version nearest to the definition that we made is ours: a version of somebody else lacks our
/// changes or has others.
pub(crate) fn distance(one: &str, other: &str) -> u64 {
    let tags = surplus(one, other);
    tags.values().map(|count| count.unsigned_abs()).sum()
}

/// Returns the names of the elements in which two definitions differ, for the log, without any
/// values: at most ten names, and then `…`.
pub(crate) fn differing(one: &str, other: &str) -> Vec<String> {
    let counts = surplus(one, other);
    let is_name = |c: char| c.is_alphanumeric() || "_-.:".contains(c);
    let name = |tag: &str| {
        let end = tag.find(|c| !is_name(c)).unwrap_or(tag.len());
        tag[..end].chars().take(MOST_CHARACTERS).collect::<String>()
    };
    let mut names: Vec<String> = counts
        .iter()
        .filter(|(tag, count)| **count != 0 && !tag.starts_with(['/', '!', '?']))
        .map(|(tag, _)| name(tag))
        .filter(|name| !name.is_empty())
        .collect();
    names.sort();
    names.dedup();
    if names.len() > MOST_NAMES {
        names.truncate(MOST_NAMES);
        names.push("…".into());
    }
    names
}

/// Opens the files for the thread.
#[derive(Debug)]
struct Reader {
    directory: PathBuf,
    inotify: Inotify,
    /// The name of the file that is watched.
    wanted: Mutex<OsString>,
}

impl Reader {
    fn read(&self, sink: &Sender<Step>) {
        come_first();
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                // There is no memory left. The caller notices that events are missing.
                Err(_) => {
                    thread::sleep(Duration::from_millis(100));
                    continue;
                }
            };
            for event in events {
                let step = if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    Step::Overflow
                } else if event.mask.contains(AddWatchFlags::IN_IGNORED) {
                    Step::End
                } else if event.name.as_deref() != Some(&*self.wanted()) {
                    continue;
                } else if event.mask.contains(AddWatchFlags::IN_DELETE) {
                    Step::Deleted
                } else if event.mask.contains(AddWatchFlags::IN_MOVED_TO) {
                    Step::Written(self.open(event.name.as_deref()))
                } else {
                    continue;
                };
                if sink.send(step).is_err() {
                    return;
                }
            }
        }
    }

    fn wanted(&self) -> MutexGuard<'_, OsString> {
        self.wanted.lock().expect("nothing panics with it")
    }

    fn open(&self, name: Option<&OsStr>) -> Option<File> {
        // O_NONBLOCK: a FIFO in this place must not hold us up.
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK)
            .open(self.directory.join(name?))
            .ok()
            .filter(|file| file.metadata().is_ok_and(|metadata| metadata.is_file()))
    }
}

/// Gives this thread priority over all normal threads, so that it opens a file right after its
/// rename. This needs systemd's `LimitRTPRIO=` or `CAP_SYS_NICE`. Without them, more versions are
/// missed, and each of them is noticed.
#[allow(unsafe_code)]
fn come_first() {
    // SAFETY: the structure is complete and lives as long as the call, which changes only this
    // thread's priority. The thread sleeps except when it opens a file, and has no children.
    unsafe {
        let parameters = libc::sched_param { sched_priority: 1 };
        libc::sched_setscheduler(
            0,
            libc::SCHED_RR | libc::SCHED_RESET_ON_FORK,
            &raw const parameters,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    const BEFORE: &str = "<domain><a/><b/></domain>";
    const OURS: &str = "<domain><a x='1'/><b/></domain>";
    const THEIRS: &str = "<domain><title>t</title><a/><b/></domain>";
    const LATER: &str = "<domain><title>t</title><a x='1'/><b/></domain>";

    fn text(text: &str) -> Version {
        Version::Text(text.into())
    }

    /// Saves a definition as libvirt does.
    fn save(directory: &Path, name: &str, text: &str) {
        let new = directory.join(format!("{name}.xml.new"));
        let comment = format!(
            "<!--\nWARNING: THIS IS AN AUTO-GENERATED FILE.\n  virsh edit {name}\n-->\n\n{text}\n"
        );
        fs::write(&new, comment).unwrap();
        fs::rename(new, directory.join(format!("{name}.xml"))).unwrap();
    }

    #[test]
    fn each_version_is_caught_and_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        let versions = Versions::new(path.to_owned()).unwrap();
        save(path, "g", "<before/>");
        for _ in 0..3 {
            let watched = versions.watch("g").unwrap();
            for number in 0..20 {
                save(path, "other", "<other/>");
                save(path, "g", &format!("<domain>{number}</domain>"));
            }
            fs::remove_file(path.join("g.xml")).unwrap();
            let seen = watched.end();
            let caught = seen
                .iter()
                .filter(|version| matches!(version, Version::Text(_)));
            let missed = seen.iter().filter(|version| **version == Version::Missed);
            assert_eq!(caught.count() + missed.count(), 20, "{seen:?}");
            assert_eq!(seen.last(), Some(&Version::Undefined));
        }
        assert!(
            Versions::new(path.join("none"))
                .unwrap()
                .watch("g")
                .is_err()
        );
    }

    #[test]
    fn a_version_that_was_missed_is_known_to_be() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path();
        save(path, "g", OURS);
        let open = || Step::Written(File::open(path.join("g.xml")).ok());
        // Two events lead to one file.
        let steps = vec![open(), open()];
        assert_eq!(told(steps), [Version::Missed, text(OURS)]);
        let steps = vec![open(), Step::Deleted, open()];
        assert_eq!(
            told(steps),
            [Version::Missed, Version::Undefined, text(OURS)]
        );
        assert_eq!(told(vec![Step::Written(None)]), [Version::Missed]);
        assert_eq!(told(vec![Step::Overflow]), [Version::Missed]);
    }

    #[test]
    fn what_ours_has_replaced() {
        use Replaced::{Expected, Missed, Theirs, Undefined};
        let theirs = || Theirs(THEIRS.into());
        // Each letter is a version that was seen: before, ours, theirs, later; `-` undefined, `?`
        // missed.
        for (seen, expected) in [
            ("o", Expected),
            ("b o", Expected),
            ("t o", theirs()),
            // A version that comes after ours has lost nothing.
            ("o l", Expected),
            ("t o l", theirs()),
            ("o -", Expected),
            ("- o", Undefined),
            ("- t o", theirs()),
            ("? o", Missed),
            ("?", Expected),
            ("? ?", Missed),
            ("", Expected),
        ] {
            let version = |letter: &str| match letter {
                "b" => text(BEFORE),
                "o" => text(OURS),
                "t" => text(THEIRS),
                "l" => text(LATER),
                "-" => Version::Undefined,
                _ => Version::Missed,
            };
            let versions: Vec<Version> = seen.split_whitespace().map(version).collect();
            let ours = seen.contains('o').then(|| OURS.to_owned());
            assert_eq!(
                replaced(&versions, BEFORE, OURS),
                (expected, ours),
                "{seen}"
            );
        }
    }

    #[test]
    fn a_comment_is_no_part_of_a_definition() {
        for text in [
            "<!--\nvirsh edit x\n-->\n\n<domain/>\n",
            "<domain/>\n",
            "<domain/>",
        ] {
            assert_eq!(body(text), "<domain/>");
        }
    }

    #[test]
    fn differences_are_told_without_values() {
        let other = "<domain><title>geheim</title><a x='1'/><b/></domain>";
        assert_eq!(differing(THEIRS, other), ["a", "title"]);
        assert!(differing(THEIRS, THEIRS).is_empty());
        let long: String = (0..100)
            .map(|n| format!("<x{n}{}/>", "y".repeat(100)))
            .collect();
        let said = differing(THEIRS, &long);
        assert_eq!(said.len(), MOST_NAMES + 1);
        assert!(said.concat().chars().count() <= MOST_NAMES * MOST_CHARACTERS + 1);
    }
}
