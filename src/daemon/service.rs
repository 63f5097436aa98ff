//! Talks to systemd and the journal: sd_notify(3), lines with a priority (sd-daemon(3)), signals.

use std::env;
use std::ffi::OsString;
use std::io::{self, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::mpsc::Sender;
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{SigSet, Signal};

use super::Event;
use crate::domain::shell::plain;
use crate::plan::Level;

/// The service manager, if it has started us.
#[derive(Debug)]
pub(super) struct Service {
    socket: Option<OsString>,
    /// The time between two reports to systemd (half of what systemd demands), and the time of the
    /// next report. `None` if systemd demands no reports.
    watchdog: Option<(Duration, Instant)>,
}

impl Service {
    /// Reads the environment variables that systemd sets.
    pub(super) fn new() -> Self {
        let socket = env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty());
        let is_ours =
            env::var("WATCHDOG_PID").map_or(true, |pid| pid.parse() == Ok(std::process::id()));
        let microseconds = env::var("WATCHDOG_USEC").ok();
        let interval = microseconds
            .and_then(|text| text.parse().ok())
            .filter(|interval| *interval > 0 && is_ours && socket.is_some())
            // We report twice in each interval, as sd_watchdog_enabled(3) recommends.
            .map(|interval: u64| Duration::from_micros(interval / 2));
        Service {
            socket,
            watchdog: interval.map(|interval| (interval, Instant::now() + interval)),
        }
    }

    /// Sends a message to the manager (`READY=1`, `STATUS=…`). Ignores a failure.
    pub(super) fn tell(&self, text: &str) {
        let Some(path) = &self.socket else { return };
        let bytes = path.as_bytes();
        let address = match bytes.strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name),
            None => SocketAddr::from_pathname(path),
        };
        // If the manager does not listen, there is nothing to do about it.
        let _ = address
            .and_then(|address| UnixDatagram::unbound()?.send_to_addr(text.as_bytes(), &address));
    }

    /// Reports that we are alive, if a report is due. Returns the time of the next report; `None`
    /// if systemd demands none.
    pub(super) fn still_here(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let (interval, next) = self.watchdog?;
        if next > now {
            return Some(next);
        }
        self.tell("WATCHDOG=1");
        self.watchdog = Some((interval, now + interval));
        Some(now + interval)
    }
}

/// The log: stderr, which systemd passes to the journal.
#[derive(Debug)]
pub(super) struct Journal {
    with_priority: bool,
}

impl Journal {
    pub(super) fn new() -> Self {
        Journal {
            with_priority: env::var_os("JOURNAL_STREAM").is_some(),
        }
    }

    /// Writes a line to the journal. The priority `Error` means that something is lost or broken.
    pub(super) fn say(&self, priority: Priority, text: &str) {
        // A name may contain anything. The text must stay one line, and harmless for a terminal.
        let text = plain(&text.replace(['\n', '\t'], " "));
        let mut err = io::stderr().lock();
        let _ = if self.with_priority {
            writeln!(err, "<{}>{text}", priority as u8)
        } else {
            writeln!(err, "gfxplane: {text}")
        };
    }
}

/// The severity of a line, with syslog's number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Priority {
    Error = 3,
    Warning = 4,
    Notice = 5,
    Info = 6,
}

impl From<Level> for Priority {
    fn from(level: Level) -> Self {
        match level {
            Level::Info => Priority::Info,
            Level::Warn | Level::Fail => Priority::Warning,
        }
    }
}

/// Turns SIGHUP, SIGTERM and SIGINT into events. Call this before starting other threads, so that
/// these also block the signals.
pub(super) fn take_signals(sink: &Sender<Event>) -> anyhow::Result<()> {
    let signals = SigSet::from_iter([Signal::SIGHUP, Signal::SIGTERM, Signal::SIGINT]);
    signals.thread_block()?;
    let sink = sink.clone();
    thread::spawn(move || {
        loop {
            let event = match signals.wait() {
                Ok(Signal::SIGHUP) => Event::Reload,
                Ok(_) => Event::End,
                Err(_) => continue,
            };
            if sink.send(event).is_err() {
                return;
            }
        }
    });
    Ok(())
}
