//! Asking a QEMU what it can do.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use serde_json::Value;

use super::is_multiarch;
use super::on_host;
use crate::abilities::Abilities;
use crate::host::{Root, read_names_that};
use crate::predict::versions::SPICE_GL_OVER_TCP;
use crate::version::Version;

/// How long QEMU may take to answer everything. libvirt gives it 30 s for its own questions
/// (src/qemu/qemu_capabilities.c); measured: 0.2 s.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// The longest answer that is read, in bytes; real ones have some thousands.
const MAX_ANSWER: usize = 1024 * 1024;

/// The largest file that is searched for a text. A QEMU with its symbols has about 100 MiB.
const MAX_SEARCHED: u64 = 512 * 1024 * 1024;

/// What every ui/spice-core.c has in it.
const SPICE: &str = "failed to initialize spice server";

/// What ui/spice-core.c has in it if it was built with a spice-server older than 0.15.3.
const LOCAL_ONLY: &str = "SPICE GL support is local-only";

/// The questions over QMP. Listing the types of a class has QEMU load all modules that have types
/// (qom/qom-qmp-cmds.c, `qmp_qom_list_types`), which those of spice do; only then does it know the
/// options of spice.
const QUESTIONS: &str = r#"{"execute":"qmp_capabilities"}
{"execute":"qom-list-types","arguments":{"implements":"chardev"},"id":"types"}
{"execute":"query-command-line-options","arguments":{"option":"spice"},"id":"spice"}
{"execute":"query-command-line-options","arguments":{"option":"vnc"},"id":"vnc"}
{"execute":"quit"}
"#;

/// A QEMU that does nothing but answer. tcg comes first because it needs nothing of the host.
const ANSWERING: &[&str] = &[
    "-no-user-config",
    "-nodefaults",
    "-S",
    "-machine",
    "none",
    "-accel",
    "tcg",
    "-accel",
    "kvm",
    "-display",
    "none",
    "-qmp",
    "stdio",
];

/// Asks `program`, which is what `emulator` leads to.
pub(super) fn ask(
    root: &Root,
    emulator: &Path,
    program: &Path,
    limit: Instant,
) -> Result<Abilities, String> {
    let said = output(program, ANSWERING, QUESTIONS, limit)?;
    let (version, mut frontends) = parse_qmp(&said).ok_or("did not answer over QMP")?;
    let said = output(program, &["-display", "help"], "", limit)?;
    frontends.extend(parse_displays(&said).ok_or("did not answer -display help")?);
    let may = SPICE_GL_OVER_TCP.is_in(&version);
    let asked = may && frontends.contains("spice-gl");
    Ok(Abilities {
        qemu: Some(version),
        spice_gl_over_tcp: asked.then(|| spice_gl_over_tcp(root, emulator)).flatten(),
        frontends: Some(frontends),
        ..Abilities::default()
    })
}

/// What a program says to `input` on its stdout, if it ends by itself before `limit`.
fn output(
    program: &Path,
    arguments: &[&str],
    input: &str,
    limit: Instant,
) -> Result<String, String> {
    let child = Command::new(program)
        .args(arguments)
        // QEMU reads some (QEMU_MODULE_DIR, QEMU_AUDIO_DRV), and so do its libraries.
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        // Some distributions have a script in this place: what it starts goes with it.
        .process_group(0)
        .spawn();
    let mut child = child.map_err(|error| format!("can't be run: {error}"))?;
    // It fits into a pipe, so this does not wait. A program that does not read it has ended, or
    // says nothing.
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(input.as_bytes());
    }
    let answer = listen(&mut child, limit);
    end(
        &mut child,
        if answer.is_ok() {
            limit
        } else {
            Instant::now()
        },
    );
    answer
}

fn listen(child: &mut Child, limit: Instant) -> Result<String, String> {
    let mut out = child.stdout.take().expect("stdout is piped");
    let (mut said, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let left = limit.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err("did not answer in time, and was killed".into());
        }
        // Rounded up: a poll of 0 ms before the deadline would spin.
        let timeout =
            PollTimeout::try_from(left + Duration::from_micros(999)).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(out.as_fd(), PollFlags::POLLIN)], timeout) {
            Ok(0) | Err(Errno::EINTR) => continue,
            Ok(_) => {}
            Err(error) => return Err(format!("can't be heard: {error}")),
        }
        match out.read(&mut buffer) {
            Ok(0) => return Ok(String::from_utf8_lossy(&said).into_owned()),
            Ok(count) => said.extend_from_slice(&buffer[..count]),
            Err(error) => return Err(format!("can't be heard: {error}")),
        }
        if said.len() > MAX_ANSWER {
            return Err("says more than anybody asked, and was killed".into());
        }
    }
}

/// Waits for a child that has said everything, and kills it if it does not end. One that can't be
/// killed now is left behind.
fn end(child: &mut Child, limit: Instant) {
    const PATIENCE: Duration = Duration::from_secs(1);
    let mut limit = limit.max(Instant::now());
    let mut killed = false;
    while let Ok(None) = child.try_wait() {
        if Instant::now() >= limit {
            if killed {
                return;
            }
            let group = i32::try_from(child.id()).map(Pid::from_raw);
            let _ = group.map(|group| killpg(group, Signal::SIGKILL));
            killed = true;
            limit = Instant::now() + PATIENCE;
        }
        thread::sleep(Duration::from_millis(2));
    }
}

/// The version, and which of VNC and spice there are. `None` if a question was not answered.
///
/// QEMU docs/interop/qmp-spec.rst. An option group that is not there is an error
/// (util/qemu-config.c, `qmp_query_command_line_options`); spice has `gl` if it was built with
/// OpenGL (ui/spice-core.c, `qemu_spice_opts`), and no module of spice loads without ui-opengl then.
fn parse_qmp(said: &str) -> Option<(Version, BTreeSet<String>)> {
    let messages: Vec<Value> = said
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let greeting = messages
        .iter()
        .find_map(|message| message.pointer("/QMP/version/qemu"))?;
    let number = |name: &str| u32::try_from(greeting.get(name)?.as_u64()?).ok();
    let version = Version::of(&[number("major")?, number("minor")?, number("micro")?]);
    let answer = |id: &str| messages.iter().find(|message| message["id"] == id);
    // The inner `None`: there is no such option.
    let options = |name: &str| match answer(name)? {
        answer if answer.get("error").is_some() => Some(None),
        answer => Some(Some(answer["return"][0]["parameters"].as_array()?.clone())),
    };
    answer("types")?.get("return")?;
    let mut frontends = BTreeSet::new();
    if options("vnc")?.is_some() {
        frontends.insert("vnc".to_owned());
    }
    if let Some(parameters) = options("spice")? {
        frontends.insert("spice".to_owned());
        if parameters.iter().any(|parameter| parameter["name"] == "gl") {
            frontends.insert("spice-gl".to_owned());
        }
    }
    Some((version, frontends))
}

/// The list of `-display help` (ui/console.c, `qemu_display_help`): a head line, a name on each
/// line, and, with some versions, more text after an empty line.
fn parse_displays(said: &str) -> Option<BTreeSet<String>> {
    let is_name = |line: &str| {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !line.is_empty() && line.bytes().all(plain)
    };
    let mut lines = said.lines().map(str::trim_end);
    lines.find(|line| line.starts_with("Available display backend types"))?;
    let names: BTreeSet<String> = lines
        .take_while(|line| !line.is_empty())
        .filter(|line| is_name(line))
        .map(str::to_owned)
        .collect();
    (!names.is_empty()).then_some(names)
}

/// Whether spice takes OpenGL over TCP; `None` if that can't be told.
///
/// ui/spice-core.c refuses it only if it was built with an old spice-server, and only then has the
/// words for that. It is a module, or part of the program.
fn spice_gl_over_tcp(root: &Root, emulator: &Path) -> Option<bool> {
    let modules = module_directories(root, emulator)
        .into_iter()
        .map(|directory| directory.join("ui-spice-core.so"))
        .filter(|path| path.exists());
    let mut files: Vec<PathBuf> = modules.collect();
    if files.is_empty() {
        files.push(on_host(root, emulator));
    }
    let answers: Option<BTreeSet<bool>> = files
        .iter()
        .map(|file| match contains(file, [SPICE, LOCAL_ONLY]) {
            Ok([true, local_only]) => Some(!local_only),
            // It is none of spice's, such as a script that starts the program.
            _ => None,
        })
        .collect();
    match answers?.into_iter().collect::<Vec<_>>()[..] {
        [answer] => Some(answer),
        _ => None,
    }
}

/// Which of the texts a file has in it.
fn contains(path: &Path, texts: [&str; 2]) -> io::Result<[bool; 2]> {
    const STEP: usize = 256 * 1024;
    let mut file = File::open(path)?;
    if !file.metadata()?.is_file() || file.metadata()?.len() > MAX_SEARCHED {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let overlap = texts.iter().map(|text| text.len()).max().unwrap_or(1) - 1;
    let (mut piece, mut found) = (Vec::new(), [false; 2]);
    loop {
        let before = piece.len();
        if (&mut file).take(STEP as u64).read_to_end(&mut piece)? == 0 {
            return Ok(found);
        }
        for (text, found) in texts.iter().zip(&mut found) {
            let text = text.as_bytes();
            *found = *found || piece.windows(text.len()).any(|window| window == text);
        }
        debug_assert!(before <= overlap);
        // A text may begin in this piece and end in the next.
        piece.drain(..piece.len().saturating_sub(overlap));
    }
}

/// Where this QEMU may have its modules: `lib/qemu` of the directory it was installed below, in
/// each of the names that distributions have for that (its own `--libdir` and `CONFIG_QEMU_MODDIR`
/// can't be asked).
pub(super) fn module_directories(root: &Root, emulator: &Path) -> Vec<PathBuf> {
    let named = on_host(root, emulator);
    let real = named.canonicalize().ok();
    let mut found = BTreeSet::new();
    let programs: BTreeSet<PathBuf> = [Some(named), real].into_iter().flatten().collect();
    for program in programs {
        let Some(prefix) = program.parent().and_then(Path::parent) else {
            continue;
        };
        let lib = prefix.join("lib");
        let multiarch = read_names_that(is_multiarch, &lib, &mut Vec::new())
            .into_iter()
            .map(|name| lib.join(name));
        let multiarch: Vec<PathBuf> = multiarch.collect();
        for lib in [lib, prefix.join("lib64")].into_iter().chain(multiarch) {
            let directories = ["qemu", "qemu-kvm"].map(|name| lib.join(name));
            found.extend(directories.into_iter().filter(|path| path.is_dir()));
        }
    }
    found.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::super::Asking;
    use super::super::fake::{DISPLAYS, Host, QEMU, QMP, set};
    use super::*;
    use std::fs;

    /// The same without ui-opengl.so or ui-spice-core.so.
    const NO_SPICE: &str = r#"{"error": {"class": "GenericError", "desc": "invalid option name: spice"}, "id": "spice"}"#;

    #[test]
    fn what_qemu_says_over_qmp() {
        let answer = |spice: &str| {
            let lines = QMP
                .lines()
                .map(|line| match line.contains("\"id\": \"spice\"") {
                    true => spice,
                    false => line,
                });
            parse_qmp(&lines.collect::<Vec<_>>().join("\n"))
        };
        let (version, frontends) = parse_qmp(QMP).unwrap();
        assert_eq!(version, Version::of(&[7, 2, 22]));
        assert_eq!(frontends, set(&["spice", "spice-gl", "vnc"]));
        assert_eq!(answer(NO_SPICE).unwrap().1, set(&["vnc"]));
        let no_gl = r#"{"return": [{"parameters": [{"name": "port"}]}], "id": "spice"}"#;
        assert_eq!(answer(no_gl).unwrap().1, set(&["spice", "vnc"]));
        for not_answered in [
            "",
            "{",
            r#"{"id": "spice"}"#,
            r#"{"return": 3, "id": "spice"}"#,
        ] {
            assert_eq!(answer(not_answered), None, "{not_answered}");
        }
        assert_eq!(parse_qmp(""), None);
        assert_eq!(
            parse_qmp(&QMP.replace("\"major\": 7", "\"major\": -7")),
            None
        );
        assert_eq!(
            parse_qmp(&QMP.replace("\"major\": 7", "\"major\": 1e300")),
            None
        );
        assert_eq!(parse_qmp(&QMP.replace("chardev-spicevmc\"", "")), None);
    }

    #[test]
    fn what_qemu_lists_as_displays() {
        let more = "\nSome display backends support suboptions, which can be set with\n   x\n";
        for (text, expected) in [
            (
                DISPLAYS,
                Some(&["none", "egl-headless", "curses", "dbus"][..]),
            ),
            (
                &format!("{DISPLAYS}{more}"),
                Some(&["none", "egl-headless", "curses", "dbus"]),
            ),
            (
                "qemu: module ui-ui-gtk not found\nAvailable display backend types:\nsdl\r\n",
                Some(&["sdl"]),
            ),
            ("Available display backend types:\n", None),
            ("Available display backend types:\nSDL !\n", None),
            ("sdl\n", None),
            ("", None),
        ] {
            assert_eq!(parse_displays(text), expected.map(set), "{text:?}");
        }
    }

    #[test]
    fn a_qemu_that_hangs_or_never_stops_talking_is_killed() {
        let host = Host::new("", "");
        let pid = host.root().join("pid");
        let program = on_host(&host.root(), Path::new(QEMU));
        let asked = |limit| ask(&host.root(), Path::new(QEMU), &program, limit);
        let soon = || Instant::now() + Duration::from_millis(500);
        // The shell's child holds the pipe.
        host.program(&format!(
            "sleep 1000 &\necho $! > '{}'\nwait",
            pid.display()
        ));
        let error = asked(soon()).unwrap_err();
        assert!(error.contains("did not answer in time"), "{error}");
        let pid: i32 = fs::read_to_string(pid).unwrap().trim().parse().unwrap();
        let limit = Instant::now() + Duration::from_secs(10);
        let lives = || {
            // A zombie that nobody has waited for yet is as good as gone.
            fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z"))
        };
        while lives() {
            assert!(Instant::now() < limit, "what it started is killed, too");
            thread::sleep(Duration::from_millis(5));
        }
        host.program("exec sleep 1000 > /dev/null");
        let began = Instant::now();
        assert!(asked(soon()).is_err());
        assert!(began.elapsed() < Duration::from_secs(60));
        host.program("yes");
        let long = Instant::now() + Duration::from_secs(60);
        let error = asked(long).unwrap_err();
        assert!(error.contains("more than anybody asked"), "{error}");
    }

    #[test]
    fn spice_says_whether_it_takes_opengl_over_tcp() {
        let newer = QMP.replace("\"minor\": 2, \"major\": 7", "\"minor\": 1, \"major\": 11");
        let host = Host::new(&newer, DISPLAYS);
        let module = |name: &str, text: &str| {
            let directory = host.root().join(name);
            fs::create_dir_all(&directory).unwrap();
            fs::write(directory.join("ui-spice-core.so"), text).unwrap();
        };
        let answer = || {
            let _ = fs::remove_file(host.kept());
            host.ask(Asking::Fresh).0.spice_gl_over_tcp
        };
        assert_eq!(answer(), None, "a script says nothing of spice");
        let lib = "usr/lib/x86_64-linux-gnu/qemu";
        module(lib, &format!("\0{SPICE}\0"));
        assert_eq!(answer(), Some(true));
        module(lib, &format!("\0{SPICE}\0{LOCAL_ONLY} for now\0"));
        assert_eq!(answer(), Some(false));
        module("usr/lib64/qemu", SPICE);
        assert_eq!(answer(), None, "two that disagree");
        let older = Host::new(QMP, DISPLAYS);
        fs::write(older.root().join(lib).join("ui-spice-core.so"), SPICE).unwrap();
        assert_eq!(older.ask(Asking::Fresh).0.spice_gl_over_tcp, None);
    }

    #[test]
    fn a_text_is_found_wherever_it_lies() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let step = 256 * 1024;
        for at in [
            0,
            1,
            step - LOCAL_ONLY.len(),
            step - 5,
            step - 1,
            step,
            2 * step - 3,
        ] {
            let mut bytes = vec![b'S'; at];
            bytes.extend_from_slice(LOCAL_ONLY.as_bytes());
            fs::write(file.path(), &bytes).unwrap();
            let found = contains(file.path(), [LOCAL_ONLY, SPICE]).unwrap();
            assert_eq!(found, [true, false], "at {at}");
            fs::write(file.path(), &bytes[..bytes.len() - 1]).unwrap();
            assert_eq!(
                contains(file.path(), [LOCAL_ONLY, SPICE]).unwrap(),
                [false; 2]
            );
        }
        assert!(contains(Path::new("/dev/null"), [SPICE, SPICE]).is_err());
    }
}
