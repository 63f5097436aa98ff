//! A QEMU of our own, without libvirt.
//!
//! It is asked over QMP on its stdin and stdout: the answer to `query-status` comes from QEMU's main
//! loop, so after all devices and displays were made, while the greeting may come before (seen with
//! QEMU 7.2: a refused display follows it). Nothing is left of it: it makes no file, it is killed at
//! the deadline, and the kernel kills it when this process dies, however that dies.

use std::ffi::OsString;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::AsFd;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, getppid};
use serde_json::Value;

use crate::abilities::Abilities;
use crate::cli::libvirt::{Start, Term};
use crate::cli::{End, Failure};
use crate::domain::Domain;
use crate::verify::argv::{Call, call};
use crate::verify::said;

/// As much of what QEMU prints is kept as anybody reads.
const MAX_PRINTED: usize = 64 * 1024;

/// How long QEMU may take to end once it was told to, or has said that it will: giving a device
/// back may take seconds.
const PATIENCE: Duration = Duration::from_secs(10);

/// What `VerifyChild` exits with if there is nothing to run: QEMU has no such code.
const NOT_RUN: i32 = 125;

/// Run a program that dies with this one's parent (internal)
///
/// The kernel keeps the wish over the exec, so it needs a process of ours before QEMU's, and no
/// code between fork and exec.
#[derive(Debug, clap::Args)]
pub struct VerifyChild {
    /// The process that started this one
    parent: i32,
    /// The program and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<OsString>,
}

impl VerifyChild {
    /// Becomes that program.
    ///
    /// # Errors
    /// Never returned: a program that can't be run ends this process.
    pub fn run(&self) -> anyhow::Result<End> {
        prctl::set_pdeathsig(Signal::SIGKILL).context("PR_SET_PDEATHSIG")?;
        // It may have died before that.
        if getppid().as_raw() == self.parent {
            let error = Command::new(&self.command[0])
                .args(&self.command[1..])
                .exec();
            let program = self.command[0].display();
            let _ = writeln!(std::io::stderr(), "{program}: {error}");
        }
        std::process::exit(NOT_RUN)
    }
}

/// Starts QEMU with a reduced domain, asks it how it is, and ends it.
///
/// # Errors
/// It can't be run, or does not answer within `term`.
pub(in crate::cli) fn start(
    domain: &Domain<'_, '_>,
    abilities: &Abilities,
    term: Term<'_>,
) -> anyhow::Result<Start> {
    let program = domain.program();
    if !program.is_file() {
        let problem = format!(
            "{}: there is no such emulator: install it, or name another in the domain's <emulator>",
            program.display()
        );
        return Err(Failure::Environment(problem).into());
    }
    let call = call(domain, abilities, free_port()?)
        .map_err(|error| Failure::Environment(error.to_string()))?;
    let me = std::env::current_exe().context("finding this program's own file")?;
    let mut child = spawn(&me, &call)?;
    let talk = talk(&mut child, term);
    let patience = match talk {
        Talk::Answered | Talk::Ended { .. } => PATIENCE,
        Talk::Late => Duration::ZERO,
    };
    let status = end(&mut child, patience);
    let name = call
        .program
        .file_name()
        .unwrap_or_default()
        .to_string_lossy();
    match talk {
        Talk::Answered => Ok(Start::Starts),
        Talk::Late => {
            let program = call.program.display();
            let late = format!("{program} had not started in time and was killed: set --deadline");
            Err(term.failure(late).into())
        }
        Talk::Ended { printed } => {
            let words = said::words_of(&printed, &name);
            if status.and_then(|status| status.code()) == Some(NOT_RUN) {
                return Err(Failure::Environment(format!("{words}: it can't be run")).into());
            }
            let signal = status.and_then(|status| status.signal());
            let signal = signal.and_then(|number| Signal::try_from(number).ok());
            if let Some(signal @ (Signal::SIGKILL | Signal::SIGTERM)) = signal {
                let program = call.program.display();
                let killed = format!(
                    "{program} was killed ({signal}) before it had answered, by somebody or by the kernel for want of memory: try again"
                );
                return Err(Failure::Environment(killed).into());
            }
            Ok(Start::Refused(refusal(&words, status)))
        }
    }
}

/// What QEMU said, and how it ended if that is not as usual.
fn refusal(words: &str, status: Option<ExitStatus>) -> String {
    let signal = status.and_then(|status| status.signal());
    let how = match signal.map(|number| (number, Signal::try_from(number))) {
        Some((_, Ok(signal))) => format!("QEMU crashed ({signal})"),
        Some((number, Err(_))) => format!("QEMU crashed (signal {number})"),
        None if words.is_empty() => "QEMU ended without a word".into(),
        None => return words.into(),
    };
    if words.is_empty() {
        how
    } else {
        format!("{words}\n{how}")
    }
}

/// A port that nobody listens on. Somebody may take it before QEMU does; then QEMU says so.
fn free_port() -> Result<u16, Failure> {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(|error| Failure::Environment(format!("no free port on 127.0.0.1: {error}")))
}

fn spawn(me: &Path, call: &Call) -> anyhow::Result<Child> {
    Command::new(me)
        .arg("verify-child")
        .arg(std::process::id().to_string())
        .arg(&call.program)
        .args(&call.arguments)
        .envs(call.environment.iter().map(|(name, value)| (name, value)))
        // A group of its own, so that an emulator that is a script is killed with what it runs.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("starting this program anew")
}

/// How a talk with QEMU ended.
enum Talk {
    /// It has told its status: it has started.
    Answered,
    /// It has closed its stdout.
    Ended {
        /// What it printed to stderr.
        printed: String,
    },
    /// It did neither in time, or there was no more time for it.
    Late,
}

const QUESTIONS: &[u8] = b"{\"execute\":\"qmp_capabilities\"}\n{\"execute\":\"query-status\"}\n";

fn talk(child: &mut Child, term: Term<'_>) -> Talk {
    let (Some(mut stdin), Some(mut stdout), Some(mut stderr)) =
        (child.stdin.take(), child.stdout.take(), child.stderr.take())
    else {
        return Talk::Late;
    };
    let (mut said, mut printed) = (Vec::new(), Vec::new());
    let (mut out_open, mut err_open) = (true, true);
    let mut limit = term.limit;
    // stderr is read to its end: the reason comes after QMP has closed.
    while out_open || err_open {
        let left = limit.saturating_duration_since(Instant::now());
        if out_open && term.is_over() {
            return Talk::Late;
        }
        // Somebody else has its stderr, too.
        if left.is_zero() {
            break;
        }
        // Rounded up: a poll of 0 ms before the deadline would spin.
        let timeout = PollTimeout::try_from(left.min(term.slice()) + Duration::from_micros(999))
            .unwrap_or(PollTimeout::MAX);
        let mut fds = Vec::new();
        if out_open {
            fds.push(PollFd::new(stdout.as_fd(), PollFlags::POLLIN));
        }
        if err_open {
            fds.push(PollFd::new(stderr.as_fd(), PollFlags::POLLIN));
        }
        if poll(&mut fds, timeout).is_err() {
            continue;
        }
        let ready: Vec<bool> = fds.iter().map(|fd| fd.any() == Some(true)).collect();
        drop(fds);
        if out_open && ready[0] {
            out_open = more(&mut stdout, &mut said);
            if !out_open {
                limit = limit.min(Instant::now() + PATIENCE);
            }
            while let Some(line) = line(&mut said) {
                match serde_json::from_slice::<Value>(&line) {
                    // It may have gone already; that is seen when it is read from.
                    Ok(value) if value.get("QMP").is_some() => {
                        let _ = stdin.write_all(QUESTIONS);
                    }
                    Ok(value) if value.pointer("/return/status").is_some() => {
                        let _ = stdin.write_all(b"{\"execute\":\"quit\"}\n");
                        // It is read from for as long as it prints: a full pipe would hold it up.
                        child.stdin = Some(stdin);
                        std::thread::spawn(move || {
                            let _ = std::io::copy(&mut stdout, &mut std::io::sink());
                        });
                        return Talk::Answered;
                    }
                    _ => {}
                }
            }
        }
        if err_open && ready[ready.len() - 1] {
            err_open = more(&mut stderr, &mut printed);
        }
    }
    Talk::Ended {
        printed: String::from_utf8_lossy(&printed).into_owned(),
    }
}

/// Reads what there is; `false` at the end. The beginning of very much is kept.
fn more(from: &mut impl Read, into: &mut Vec<u8>) -> bool {
    let mut buffer = [0; 4096];
    match from.read(&mut buffer) {
        Ok(count) if count > 0 => {
            let room = MAX_PRINTED.saturating_sub(into.len());
            into.extend_from_slice(&buffer[..count.min(room)]);
            true
        }
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => true,
        _ => false,
    }
}

fn line(said: &mut Vec<u8>) -> Option<Vec<u8>> {
    let end = said.iter().position(|byte| *byte == b'\n')?;
    Some(said.drain(..=end).collect())
}

/// Sees to it that QEMU ends, by itself if it does so within `patience`. `None`: it did not, so how
/// it ended says nothing. One that is stuck in the kernel, where not even a signal reaches it, is
/// not waited for.
fn end(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let group = Pid::from_raw(child.id().cast_signed());
    let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
    // It stays a zombie meanwhile, so that its number is nobody else's when its group is killed:
    // an emulator that is a script may leave something.
    let has_ended = || !matches!(waitid(Id::Pid(group), flags), Ok(WaitStatus::StillAlive));
    let wait = |patience: Duration| {
        let limit = Instant::now() + patience;
        while !has_ended() {
            if Instant::now() >= limit {
                return false;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        true
    };
    let by_itself = wait(patience);
    let _ = killpg(group, Signal::SIGKILL);
    if !by_itself && !wait(PATIENCE) {
        return None;
    }
    child.wait().ok().filter(|_| by_itself)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn talk_with(command: &str, gives_way: &dyn Fn() -> bool) -> (Talk, Failure) {
        let mut child = Command::new("sh")
            .args(["-c", command])
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let term = Term {
            limit: Instant::now() + Duration::from_secs(3600),
            gives_way,
        };
        let talk = talk(&mut child, term);
        end(&mut child, Duration::ZERO);
        (talk, term.failure("late".into()))
    }

    #[test]
    fn who_starts_a_domain_comes_first() {
        let (talk, failure) = talk_with("exec sleep 3600", &|| true);
        assert!(matches!(talk, Talk::Late));
        assert!(failure.to_string().contains("comes first"), "{failure}");
        let (talk, failure) = talk_with("echo words >&2", &|| false);
        assert!(matches!(talk, Talk::Ended { printed } if printed == "words\n"));
        assert_eq!(failure.to_string(), "late");
    }
}
