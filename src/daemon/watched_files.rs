//! Watches the files from which the daemon learns of events: requests of the hook, records of
//! probes, process ids of libvirt's daemons, and definitions that libvirt writes without a report.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify, WatchDescriptor};

/// The kind of a watched file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A request by the hook.
    Request,
    /// The record of a probe.
    Record,
    /// The process id of a libvirt daemon.
    Daemon,
    /// The definition of a domain.
    Definition,
}

/// A change that was seen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Seen {
    /// A file of this name was written or, for a record or a definition, removed.
    File(Kind, String),
    /// The directory has gone, and is no longer watched; or there were too many changes to report
    /// each.
    All(Kind),
}

/// The directories that are watched.
#[derive(Debug, Clone)]
pub(super) struct Files {
    inotify: Arc<Inotify>,
    watched: Arc<Mutex<Vec<(WatchDescriptor, Kind, PathBuf)>>>,
}

impl Files {
    /// Starts a thread that passes each change to `sink`. Watches no directory yet.
    pub(super) fn new(sink: impl Fn(Seen) + Send + 'static) -> nix::Result<Self> {
        let files = Files {
            inotify: Arc::new(Inotify::init(InitFlags::IN_CLOEXEC)?),
            watched: Arc::default(),
        };
        let reader = files.clone();
        thread::spawn(move || reader.read(&sink));
        Ok(files)
    }

    /// Watches a directory. Does nothing if it is already watched. Fails if it does not exist.
    pub(super) fn watch(&self, kind: Kind, directory: &Path) -> nix::Result<()> {
        let mut watched = self.watched.lock().expect("nothing panics with it");
        if watched.iter().any(|(_, _, path)| path == directory) {
            return Ok(());
        }
        let written = AddWatchFlags::IN_CLOSE_WRITE | AddWatchFlags::IN_MOVED_TO;
        let flags = match kind {
            Kind::Request => written,
            Kind::Record | Kind::Definition => written | AddWatchFlags::IN_DELETE,
            // libvirt keeps this file open, because it holds a lock on it (src/util/virpidfile.c).
            Kind::Daemon => AddWatchFlags::IN_MODIFY | AddWatchFlags::IN_MOVED_TO,
        };
        let flags = flags
            | AddWatchFlags::IN_DELETE_SELF
            | AddWatchFlags::IN_MOVE_SELF
            | AddWatchFlags::IN_ONLYDIR;
        let descriptor = self.inotify.add_watch(directory, flags)?;
        watched.push((descriptor, kind, directory.to_owned()));
        Ok(())
    }

    /// Returns whether a directory of this kind is watched.
    pub(super) fn is_watched(&self, kind: Kind) -> bool {
        let watched = self.watched.lock().expect("nothing panics with it");
        watched.iter().any(|(_, of, _)| *of == kind)
    }

    fn read(&self, sink: &dyn Fn(Seen)) {
        loop {
            let events = match self.inotify.read_events() {
                Ok(events) => events,
                Err(Errno::EINTR) => continue,
                // The kernel had no memory left. Changes were missed, so look for all of them.
                Err(_) => {
                    thread::sleep(Duration::from_secs(1));
                    all(sink);
                    continue;
                }
            };
            for event in events {
                if event.mask.contains(AddWatchFlags::IN_Q_OVERFLOW) {
                    all(sink);
                    continue;
                }
                let mut watched = self.watched.lock().expect("nothing panics with it");
                let Some(place) = watched.iter().position(|(wd, _, _)| *wd == event.wd) else {
                    continue;
                };
                let kind = watched[place].1;
                let gone = AddWatchFlags::IN_IGNORED
                    | AddWatchFlags::IN_DELETE_SELF
                    | AddWatchFlags::IN_MOVE_SELF;
                if event.mask.intersects(gone) {
                    watched.remove(place);
                    drop(watched);
                    // A directory that was moved elsewhere no longer matters.
                    let _ = self.inotify.rm_watch(event.wd);
                    sink(Seen::All(kind));
                    continue;
                }
                drop(watched);
                if let Some(name) = event.name.as_deref().and_then(OsStr::to_str) {
                    sink(Seen::File(kind, name.into()));
                }
            }
        }
    }
}

/// Reports for every kind that files may have changed.
fn all(sink: &dyn Fn(Seen)) {
    let kinds = [Kind::Request, Kind::Record, Kind::Daemon, Kind::Definition];
    kinds.into_iter().map(Seen::All).for_each(sink);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::sync::mpsc;

    #[test]
    fn what_is_written_is_seen_and_a_directory_that_goes_is() {
        let directory = tempfile::tempdir().unwrap();
        let requests = directory.path().join("requests");
        fs::create_dir(&requests).unwrap();
        let (send, seen) = mpsc::channel();
        let files = Files::new(move |what| {
            let _ = send.send(what);
        })
        .unwrap();
        files.watch(Kind::Request, &requests).unwrap();
        files.watch(Kind::Request, &requests).unwrap();
        assert!(
            files
                .watch(Kind::Record, &directory.path().join("none"))
                .is_err()
        );
        assert!(files.is_watched(Kind::Request) && !files.is_watched(Kind::Record));
        fs::write(requests.join("one"), "").unwrap();
        let next = || seen.recv_timeout(Duration::from_secs(20)).unwrap();
        assert_eq!(next(), Seen::File(Kind::Request, "one".into()));
        fs::remove_dir_all(&requests).unwrap();
        assert_eq!(next(), Seen::All(Kind::Request));
        assert!(!files.is_watched(Kind::Request));
    }
}
