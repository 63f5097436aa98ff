//! The qemu hook as libvirt runs it, with whatever may come: libvirt takes any failure of it for a
//! veto, and whatever it prints at `migrate` and `restore` for the domain's XML.
//!
//! `tests/hook` has what it makes of domains that are well (see tests/support/hook.rs). Here it is
//! called at random, with what is broken. FULL=1 makes all calls; HOOK_SEED=N repeats a run.

#[path = "support/hooked.rs"]
mod hooked;

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::Read;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use gfxplane::host::requests;
use gfxplane::host::run::{Lock, trying_path};
use gfxplane::xml::{Document, MAX_SIZE};
use hooked::{Answer, Hooked, SCRIPT};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

const HELPER: &str = env!("CARGO_BIN_EXE_gfxplane-helper");
const DEVICE: &str = "c1a20000-0000-4000-8000-000000000002";
const DOMAIN: &str = "0d0c2f26-4b1a-4c6e-9d52-6f5a1f7b6a01";

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn lab() -> Hooked {
    Hooked::new("lab", Path::new(HELPER))
}

fn case(name: &str) -> Vec<u8> {
    fs::read(
        repository()
            .join("tests/hook")
            .join(name)
            .join("domain.xml"),
    )
    .unwrap()
}

/// A domain that every QEMU refuses.
fn doomed() -> Vec<u8> {
    case("veto-dmabuf-spice-loopback")
}

/// Puts an executable where it can be run at once: a file that this process has written might still
/// be open for writing in a child of another test (ETXTBSY).
fn install(from: &Path, to: &Path) {
    let installed = Command::new("install")
        .args(["-m", "755"])
        .args([from, to])
        .status();
    assert!(installed.unwrap().success());
}

#[test]
fn the_script_is_one_that_libvirt_runs() {
    let path = repository().join("hooks/qemu.d/50-gfxplane");
    let mode = fs::symlink_metadata(&path).unwrap();
    assert!(mode.is_file() && mode.permissions().mode() & 0o111 == 0o111);
    let text = fs::read_to_string(&path).unwrap();
    assert!(text.starts_with("#!/bin/sh\n"));
    // It must not be installed with a path that somebody else can set.
    assert!(!text.contains("${GFXPLANE") && !text.contains("$PATH"));
}

/// Every way a helper can be broken, for every operation: the domain starts, lives, is restored as
/// it was.
#[test]
fn a_broken_helper_changes_nothing() {
    let keep = tempfile::tempdir().unwrap();
    let path = |name: &str| keep.path().join(name);
    let script = |name: &str, text: &str| {
        fs::write(path("text"), format!("#!/bin/sh\n{text}\n")).unwrap();
        install(&path("text"), &path(name));
        path(name)
    };
    let mut helpers: Vec<PathBuf> = vec![
        path("missing"),
        PathBuf::from("/"),
        script("aborts", "kill -ABRT $$"),
        script("is-killed", "kill -KILL $$"),
        script("crashes", "kill -SEGV $$"),
        script(
            "prints-half-and-crashes",
            "printf '<domain><name>'; kill -SEGV $$",
        ),
        script("prints-and-is-killed", "cat; kill -KILL $$"),
        script("prints-nothing", "cat >/dev/null"),
        script("reads-nothing", "exit 0"),
    ];
    for code in [1, 2, 64, 76, 78, 126, 127, 134, 139, 255] {
        let text = format!("cat; exit {code}");
        helpers.push(script(&format!("ends-with-{code}"), &text));
    }
    fs::write(path("not-executable"), "#!/bin/sh\nexit 77\n").unwrap();
    fs::write(path("text"), "\x7fELF and nothing more").unwrap();
    install(&path("text"), &path("no-program"));
    // A built program, with a library that isn't there instead of libc.
    let mut elf = fs::read(env!("CARGO_BIN_EXE_gfxplane")).unwrap();
    let at = elf.windows(10).position(|w| w == b"libc.so.6\0").unwrap();
    elf[at + 3] = b'_';
    fs::write(path("text"), elf).unwrap();
    install(&path("text"), &path("lacks-a-library"));
    let alone = Command::new(path("lacks-a-library")).output().unwrap();
    assert_eq!(alone.status.code(), Some(127), "it must not start");
    helpers.extend(["not-executable", "no-program", "lacks-a-library"].map(path));
    for helper in helpers {
        let host = Hooked::new("lab", &helper);
        for operation in [
            "prepare",
            "release",
            "migrate",
            "restore",
            "start",
            "reconnect",
        ] {
            let answer = host.call(&["guest", operation, "begin", "-"], &doomed());
            let what = format!("{} {operation}: {answer:?}", helper.display());
            // libvirt reads it at these two.
            let is_read = matches!(operation, "migrate" | "restore");
            let said = is_read && !answer.stdout.is_empty();
            assert!(answer.code == Some(0) && !said, "{what}");
        }
    }
}

/// 77 is a veto where there is something to veto, and nowhere else.
#[test]
fn one_code_is_a_veto() {
    let keep = tempfile::tempdir().unwrap();
    let (text, helper) = (keep.path().join("text"), keep.path().join("helper"));
    fs::write(&text, "#!/bin/sh\necho out\necho reason >&2\nexit 77\n").unwrap();
    install(&text, &helper);
    let host = Hooked::new("lab", &helper);
    for (operation, code) in [
        ("prepare", 1),
        ("migrate", 0),
        ("restore", 0),
        ("start", 0),
        ("started", 0),
        ("stopped", 0),
        ("reconnect", 0),
        ("attach", 0),
    ] {
        let answer = host.call(&["guest", operation, "begin", "-"], &doomed());
        assert_eq!(answer.code, Some(code), "{operation}");
        // At prepare libvirt does not read it.
        assert!(
            operation == "prepare" || answer.stdout.is_empty(),
            "{operation}"
        );
        assert!(code == 0 || answer.stderr == "reason\n", "{operation}");
    }
}

#[test]
fn closed_files_and_no_arguments() {
    let host = lab();
    let hook = host.path(SCRIPT);
    for (redirection, code) in [
        ("<&-", 0),
        (">&-", 1),
        ("2>&-", 1),
        (">/dev/full", 1),
        ("2>/dev/full", 1),
    ] {
        fs::write(host.path("domain.xml"), doomed()).unwrap();
        let line = format!(
            "exec <{}; sh {} guest prepare begin - {redirection}",
            host.path("domain.xml").display(),
            hook.display()
        );
        let status = Command::new("sh")
            .args(["-c", &line])
            .env("GFXPLANE_ROOT", host.path(""))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        assert_eq!(status.unwrap().code(), Some(code), "{redirection}");
    }
    for count in 0..3 {
        let answer = host.call(&["guest", "prepare"][..count], b"");
        assert_eq!((answer.code, answer.stdout.len()), (Some(0), 0));
    }
}

/// The shells that are `/bin/sh` somewhere: Debian's, Fedora's, Alpine's.
const SHELLS: [&[&str]; 3] = [&["dash"], &["bash"], &["busybox", "sh"]];

/// The shells that this machine has.
#[allow(clippy::print_stdout)]
fn shells() -> Vec<&'static [&'static str]> {
    let is_here = |shell: &&[&str]| {
        let mut runs = Command::new(shell[0]);
        runs.args(&shell[1..]).args(["-c", ":"]);
        let runs = runs.status().is_ok_and(|status| status.success());
        if !runs {
            println!("SKIPPED under {}: it is not installed", shell.join(" "));
        }
        runs
    };
    SHELLS.into_iter().filter(is_here).collect()
}

/// A helper in sh.
fn helper(keep: &Path, text: &str) -> PathBuf {
    let (from, to) = (keep.join("text"), keep.join("helper"));
    fs::write(&from, format!("#!/bin/sh\n{text}\n")).unwrap();
    install(&from, &to);
    to
}

/// The script under a shell, behind other programs (`prlimit …`).
fn behind(host: &Hooked, before: &[&str], shell: &[&str], operation: &str) -> Answer {
    let mut words = [before, shell].concat().into_iter();
    let mut command = Command::new(words.next().unwrap());
    let script = host.path(SCRIPT);
    command
        .args(words)
        .arg(script)
        .args(["guest", operation, "begin", "-"])
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C");
    let stdin = fs::File::open(host.path("domain.xml")).unwrap();
    let output = command.stdin(stdin).output().unwrap();
    Answer {
        code: output.status.code(),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        journal: Vec::new(),
    }
}

/// A full pids cgroup looks the same: fork(2) fails with EAGAIN. bash tries for 15 seconds.
#[test]
fn no_process_left() {
    let keep = tempfile::tempdir().unwrap();
    fs::set_permissions(keep.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let host = Hooked::new("lab", &helper(keep.path(), "exit 77"));
    host.write("domain.xml", doomed());
    fs::set_permissions(host.path(""), PermissionsExt::from_mode(0o755)).unwrap();
    let mut before = vec!["prlimit", "--nproc=0"];
    if nix_is_root() {
        // For root there is no such limit.
        let other = [
            "setpriv",
            "--reuid=65533",
            "--regid=65533",
            "--clear-groups",
        ];
        before.splice(0..0, other);
    }
    std::thread::scope(|scope| {
        for shell in shells() {
            for operation in OURS {
                let (host, before) = (&host, &before);
                scope.spawn(move || {
                    let answer = behind(host, before, shell, operation);
                    let what = format!("{shell:?} {operation}: {answer:?}");
                    assert!(answer.stderr.contains("fork"), "it could: {what}");
                    assert!(answer.code == Some(0) && answer.stdout.is_empty(), "{what}");
                });
            }
        }
    });
}

/// With too little of something the XML passes on whole or not at all, and nothing is a veto. Where
/// the shell does not come as far as to leave for an operation that is not ours, nobody can help.
#[test]
fn too_little_of_something() {
    let keep = tempfile::tempdir().unwrap();
    let host = Hooked::new("lab", &helper(keep.path(), "cat"));
    let text = format!("<domain>{}</domain>\n", "x".repeat(1_000_000));
    host.write("domain.xml", &text);
    let memory = |name: &str, step: usize| -> Vec<String> {
        let sizes = (1..16).map(|many| many * step * 1024);
        sizes.map(|size| format!("--{name}={size}")).collect()
    };
    let mut limits = [memory("as", 700), memory("data", 400)].concat();
    limits.extend((3..16).map(|files| format!("--nofile={files}")));
    limits.push("--fsize=0".into());
    limits.push("--stack=131072".into());
    let (mut tried, mut failed) = (0, 0);
    for shell in shells() {
        for limit in &limits {
            let before = ["prlimit", "--core=0", limit];
            if behind(&host, &before, shell, "start").code != Some(0) {
                continue;
            }
            for operation in OURS {
                let answer = behind(&host, &before, shell, operation);
                let (length, code) = (answer.stdout.len(), answer.code);
                let what = format!("{shell:?} {limit} {operation}: {code:?} {length} bytes");
                assert_eq!(code, Some(0), "{what} {}", answer.stderr);
                if matches!(operation, "migrate" | "restore") {
                    tried += 1;
                    failed += usize::from(length == 0);
                    assert!(length == 0 || answer.stdout == text.as_bytes(), "{what}");
                }
            }
        }
    }
    assert!(0 < failed && failed < tried, "{failed} of {tried} failed");
}

/// Sent to the script alone, and to all that it has started.
#[test]
fn a_signal_is_no_veto() {
    let keep = tempfile::tempdir().unwrap();
    for signal in [
        "HUP", "INT", "QUIT", "PIPE", "ALRM", "TERM", "USR1", "USR2", "XCPU", "XFSZ",
    ] {
        for to in ["$PPID", "0"] {
            let text = format!("kill -{signal} {to}\nexit 77");
            let host = Hooked::new("lab", &helper(keep.path(), &text));
            host.write("domain.xml", doomed());
            for shell in shells() {
                for operation in OURS {
                    // As libvirt starts it, whatever has started this test.
                    let before = ["env", "--default-signal", "setsid", "--wait"];
                    let before = [&before[..], &["prlimit", "--core=0"]].concat();
                    let answer = behind(&host, &before, shell, operation);
                    let what = format!("{signal} to {to}, {shell:?} {operation}: {answer:?}");
                    assert!(answer.code == Some(0) && answer.stdout.is_empty(), "{what}");
                }
            }
        }
    }
}

/// How a child ends within a time in which it has to; it is killed then.
fn ends(child: &mut Child, limit: Duration) -> Option<ExitStatus> {
    let began = Instant::now();
    while began.elapsed() < limit {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let _ = child.kill();
    let _ = child.wait();
    None
}

/// The helper ends itself, and the domain passes.
#[test]
fn a_stdin_without_an_end_is_not_waited_for() {
    let host = lab();
    std::thread::scope(|scope| {
        for operation in OURS {
            let host = &host;
            scope.spawn(move || {
                let mut command = host.command(&["guest", operation, "begin", "-"]);
                let mut child = command
                    .stdin(Stdio::piped())
                    .stdout(Stdio::piped())
                    .spawn()
                    .unwrap();
                let open = child.stdin.take();
                let status = ends(&mut child, Duration::from_secs(60));
                assert_eq!(status.and_then(|s| s.code()), Some(0), "{operation}");
                let mut out = Vec::new();
                child.stdout.take().unwrap().read_to_end(&mut out).unwrap();
                assert!(out.is_empty());
                drop(open);
            });
        }
    });
}

/// What stands where a file of ours belongs is not waited for.
#[test]
fn a_fifo_in_our_place_holds_nobody_up() {
    let record = format!("run/gfxplane/records/{DEVICE}.json");
    let lock = format!("run/gfxplane/lock/{DEVICE}");
    let trying = format!("{lock}.verify");
    let starting = format!("run/gfxplane/starting/{DEVICE}");
    let request = format!("run/gfxplane/requests/{DOMAIN}.veto");
    for place in [
        record.as_str(),
        &lock,
        &trying,
        &starting,
        &request,
        "etc/gfxplane/gfxplane.toml",
        "etc/gfxplane/rules.d/50-x.toml",
        "usr/bin/qemu-system-x86_64",
        "var/cache/gfxplane/qemu/usr,bin,qemu-system-x86_64.json",
    ] {
        for kind in ["fifo", "socket", "directory", "device"] {
            let host = lab();
            let path = host.path(place);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            let _ = fs::remove_file(&path);
            match kind {
                "fifo" => mkfifo(&path, Mode::S_IRWXU).unwrap(),
                "socket" => drop(UnixListener::bind(&path).unwrap()),
                "directory" => fs::create_dir(&path).unwrap(),
                // Nobody but root makes devices.
                _ => symlink("/dev/zero", &path).unwrap(),
            }
            for operation in ["prepare", "restore", "release"] {
                let mut command = host.command(&["guest", operation, "begin", "-"]);
                host.write("domain.xml", doomed());
                let stdin = fs::File::open(host.path("domain.xml")).unwrap();
                let mut child = command
                    .stdin(stdin)
                    .stdout(Stdio::null())
                    .stderr(Stdio::null())
                    .spawn()
                    .unwrap();
                // Well before the alarm.
                let status = ends(&mut child, Duration::from_secs(8));
                let status = status.unwrap_or_else(|| panic!("{place} {kind} {operation}"));
                // What else is measured still counts.
                let code = status.code().unwrap();
                assert!(
                    code == 0 || operation == "prepare",
                    "{place} {kind} {operation}"
                );
            }
        }
    }
}

/// A panic, or whatever else ends the helper, leaves no core with the domain's XML in it.
#[test]
#[allow(clippy::print_stdout)]
fn no_core() {
    let ends_with_core = |program: &OsStr, arguments: &[&str]| {
        let directory = tempfile::tempdir().unwrap();
        let mut command = Command::new("prlimit");
        command.arg("--core=unlimited").arg(program).args(arguments);
        let mut child = command
            .current_dir(directory.path())
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        // Until it waits for its stdin.
        let stat = PathBuf::from(format!("/proc/{}/wchan", child.id()));
        let name = PathBuf::from(format!("/proc/{}/comm", child.id()));
        let began = Instant::now();
        let waits = || {
            let is_it = fs::read_to_string(&name).is_ok_and(|name| !name.starts_with("prlimit"));
            let waits = fs::read_to_string(&stat).is_ok_and(|text| text.contains("pipe"));
            is_it && (waits || began.elapsed() > Duration::from_secs(1))
        };
        while !waits() {
            std::thread::sleep(Duration::from_millis(10));
        }
        let pid = nix::unistd::Pid::from_raw(child.id() as i32);
        // It may have gone where that limit may not be set.
        let _ = nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGABRT);
        let status = child.wait().unwrap();
        status.signal().is_some() && status.core_dumped()
    };
    if !ends_with_core(OsStr::new("cat"), &[]) {
        println!("SKIPPED: this machine writes no core dumps at all");
        return;
    }
    let hook = ["qemu-hook", "guest", "prepare", "begin", "-"];
    assert!(!ends_with_core(OsStr::new(HELPER), &hook));
}

/// libvirt runs every executable file in qemu.d.
#[test]
fn a_copy_beside_it_does_nothing() {
    let keep = tempfile::tempdir().unwrap();
    let host = Hooked::new("lab", &helper(keep.path(), "echo out; exit 77"));
    for shell in shells() {
        for (name, code) in [
            (SCRIPT, 1),
            ("10-gfxplane", 1),
            ("50-gfxplane.dpkg-dist", 0),
            ("50-gfxplane.dpkg-new", 0),
            ("50-gfxplane.dpkg-old", 0),
            ("50-gfxplane.rpmnew", 0),
            ("50-gfxplane.rpmsave", 0),
            ("50-gfxplane.bak", 0),
            ("50-gfxplane~", 0),
            ("#50-gfxplane#", 0),
            (".50-gfxplane.swp", 0),
            ("old-50-gfxplane", 0),
        ] {
            let path = host.path(name);
            if name != SCRIPT {
                fs::copy(host.path(SCRIPT), &path).unwrap();
            }
            for operation in OURS {
                let output = Command::new(shell[0])
                    .args(&shell[1..])
                    .arg(&path)
                    .args(["guest", operation, "begin", "-"])
                    .output()
                    .unwrap();
                let expected = if operation == "prepare" { code } else { 0 };
                let seen = output.status.code();
                assert_eq!(seen, Some(expected), "{shell:?} {name} {operation}");
                assert!(code == 1 || output.stdout.is_empty());
            }
        }
    }
}

/// As libvirt of a session runs it: nothing can be written, and nothing is said.
#[test]
fn without_rights_it_is_silent() {
    let keep = tempfile::tempdir().unwrap();
    fs::set_permissions(keep.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let helper = keep.path().join("helper");
    install(Path::new(HELPER), &helper);
    let before = fs::metadata("/run/gfxplane").is_ok();
    for operation in ["prepare", "release", "restore"] {
        let mut command = if nix_is_root() {
            let mut command = Command::new("setpriv");
            command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
            command.arg(&helper);
            command
        } else {
            Command::new(&helper)
        };
        fs::write(keep.path().join("domain.xml"), doomed()).unwrap();
        let output = command
            .args(["qemu-hook", "guest", operation, "begin", "-"])
            .stdin(fs::File::open(keep.path().join("domain.xml")).unwrap())
            .output()
            .unwrap();
        assert_eq!(output.status.code(), Some(0), "{operation}");
        assert!(output.stdout.is_empty() && output.stderr.is_empty());
    }
    assert_eq!(fs::metadata("/run/gfxplane").is_ok(), before);
}

fn nix_is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

#[test]
fn a_start_is_marked_waits_for_the_probe_and_is_over_with_the_release() {
    let host = lab();
    let root = host.root();
    let id = DEVICE.parse().unwrap();
    let lock = Lock::of_device(&root, id).unwrap();
    let sound = case("nothing-spice-gl");
    host.write("etc/gfxplane/gfxplane.toml", "deadline = 0.3");
    let began = Instant::now();
    let answer = host.call(&["guest", "prepare", "begin", "-"], &sound);
    assert_eq!(answer.code, Some(0));
    assert!(began.elapsed() >= Duration::from_millis(300));
    let [line] = &answer.journal[..] else {
        panic!("{:?}", answer.journal);
    };
    assert!(line.contains("still being probed"), "{line}");
    assert!(requests::start_under_way(&root, id));
    // A probe that ends in time is waited for.
    host.write("etc/gfxplane/gfxplane.toml", "deadline = 60");
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(Duration::from_millis(200));
            drop(lock);
        });
        let answer = host.call(&["guest", "prepare", "begin", "-"], &sound);
        assert!(answer.journal.is_empty(), "{:?}", answer.journal);
    });
    let answer = host.call(&["guest", "release", "end", "failed"], &sound);
    assert_eq!(answer.code, Some(0));
    assert!(!requests::start_under_way(&root, id));
    assert_eq!(host.names("requests"), [DOMAIN]);
}

/// A QEMU that tries the device (`gfxplane verify`, `probe --via qemu`) is waited for, too: whoever
/// has started it ends it when it sees the mark.
#[test]
fn a_start_waits_for_the_end_of_a_try() {
    let host = lab();
    let root = host.root();
    let id = DEVICE.parse().unwrap();
    drop(Lock::of_device(&root, id).unwrap());
    let path = trying_path(&root, id);
    let trying = fs::File::create(&path).unwrap();
    trying.lock().unwrap();
    let sound = case("nothing-spice-gl");
    host.write("etc/gfxplane/gfxplane.toml", "deadline = 0.3");
    let answer = host.call(&["guest", "prepare", "begin", "-"], &sound);
    assert_eq!(answer.code, Some(0));
    assert!(answer.journal[0].contains("still being probed"));
    // Our own domain's start would wait for us.
    let ours = case("nothing-verify");
    let answer = host.call(&["guest", "prepare", "begin", "-"], &ours);
    assert!(answer.journal.is_empty(), "{:?}", answer.journal);
    host.write("etc/gfxplane/gfxplane.toml", "deadline = 60");
    requests::forget_start(&root, id).unwrap();
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !requests::start_under_way(&root, id) {
                std::thread::sleep(Duration::from_millis(5));
            }
            fs::remove_file(&path).unwrap();
            drop(trying);
        });
        let answer = host.call(&["guest", "prepare", "begin", "-"], &sound);
        assert!(answer.journal.is_empty(), "{:?}", answer.journal);
    });
}

/// A few steps of xorshift64*: what is needed here of a random number is that it can be repeated.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.next() >> 11) as usize % limit
    }

    fn one_in(&mut self, many: usize) -> bool {
        self.below(many) == 0
    }

    fn of<'a, T: ?Sized>(&mut self, all: &[&'a T]) -> &'a T {
        all[self.below(all.len())]
    }

    fn bytes(&mut self, most: usize) -> Vec<u8> {
        (0..self.below(most)).map(|_| self.next() as u8).collect()
    }

    /// An argument: anything but a NUL.
    fn argument(&mut self) -> OsString {
        let mut bytes = self.bytes(40);
        bytes.retain(|byte| *byte != 0);
        OsString::from_vec(bytes)
    }
}

const OURS: [&str; 4] = ["prepare", "release", "migrate", "restore"];
const OTHERS: [&str; 14] = [
    "start",
    "started",
    "stopped",
    "reconnect",
    "attach",
    "",
    "-",
    "--help",
    "PREPARE",
    "prepare ",
    "qemu-hook",
    "*",
    "restore\n",
    "öffnen",
];
const NAMES: [&str; 12] = [
    "guest",
    "-",
    "--help",
    "",
    "-n",
    "my guest",
    "Gäste\u{1f5a5}",
    "$(touch was-here)",
    "*",
    "a/b",
    "\\c",
    "'\"`",
];

/// What the settings say of the hook.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Settings {
    MayVeto,
    MayNot,
}

/// Makes some of the host's files missing or broken.
fn shake(host: &Hooked, random: &mut Random) -> Settings {
    let records = host.path("run/gfxplane/records");
    let run = host.path("run/gfxplane");
    let _ = fs::remove_dir_all(&run).or_else(|_| fs::remove_file(&run));
    let _ = fs::remove_dir_all(host.path("var/cache/gfxplane"));
    let _ = fs::remove_dir_all(host.path("etc/gfxplane/conf.d"));
    let _ = fs::remove_file(host.path("etc/gfxplane/gfxplane.toml"));
    match random.below(10) {
        0 => {}
        1 => fs::write(run, "a file").unwrap(),
        2 => symlink("/nonexistent", run).unwrap(),
        many => {
            fs::create_dir_all(&records).unwrap();
            let lab = repository().join("tests/hosts/lab/root/run/gfxplane/records");
            for entry in fs::read_dir(lab).unwrap().flatten() {
                let to = records.join(entry.file_name());
                let text = fs::read(entry.path()).unwrap();
                match random.below(if many > 6 { 1 } else { 6 }) {
                    1 => fs::write(to, &text[..random.below(text.len())]).unwrap(),
                    2 => fs::create_dir(to).unwrap(),
                    3 => symlink("/dev/zero", to).unwrap(),
                    4 => fs::write(to, random.bytes(500)).unwrap(),
                    _ => fs::write(to, text).unwrap(),
                }
            }
            // As others may leave it.
            match random.below(8) {
                0 => fs::write(host.path("run/gfxplane/requests"), "").unwrap(),
                1 => symlink("/proc/self", host.path("run/gfxplane/starting")).unwrap(),
                2 => fs::write(host.path("run/gfxplane/lock"), "").unwrap(),
                _ => {}
            }
        }
    }
    match random.below(4) {
        0 => {}
        1 => host.write(
            "var/cache/gfxplane/qemu/usr,bin,qemu-system-x86_64.json",
            random.bytes(300),
        ),
        _ => host.write(
            "var/cache/gfxplane/qemu/usr,bin,qemu-system-x86_64.json",
            r#"{"format":1,"emulator":"/usr/bin/qemu-system-x86_64","abilities":{"qemu":"10.0.13"}}"#,
        ),
    }
    let (text, settings) = match random.below(8) {
        0 => ("hook = 'off'", Settings::MayNot),
        1 => ("hook = 'warn'", Settings::MayNot),
        2 => ("hook = 'enforce'\nhook = 'off'", Settings::MayNot),
        3 => ("hook = 7", Settings::MayNot),
        4 => ("hook = 'enforce'\ndisplay = 'off'", Settings::MayVeto),
        5 => ("consent = ['remote']", Settings::MayVeto),
        _ => return Settings::MayVeto,
    };
    host.write("etc/gfxplane/gfxplane.toml", text);
    settings
}

/// Domains of all kinds, as they are and broken.
fn stdin(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut bytes = corpus[random.below(corpus.len())].clone();
    match random.below(12) {
        0 => random.bytes(3000),
        1 => Vec::new(),
        2 => {
            bytes.truncate(random.below(bytes.len()));
            bytes
        }
        3 | 4 => {
            for _ in 0..=random.below(8) {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
            bytes
        }
        5 => {
            let at = random.below(bytes.len());
            let more = corpus[random.below(corpus.len())].clone();
            bytes.splice(at..at, more);
            bytes
        }
        6 if random.one_in(20) => {
            let size = MAX_SIZE - 1 + random.below(3);
            let at = bytes.len() - 1;
            let room = size.saturating_sub(bytes.len());
            bytes.splice(at..at, std::iter::repeat_n(b' ', room));
            bytes
        }
        _ => bytes,
    }
}

/// Prints its seed, by which a failure is repeated, and how much there was to decide.
#[test]
#[allow(clippy::print_stdout)]
fn whatever_comes_nobody_is_hurt() {
    let full = std::env::var_os("FULL").is_some_and(|full| full == "1");
    let calls = if full { 10_000 } else { 1_000 };
    let seed = std::env::var("HOOK_SEED")
        .ok()
        .map(|seed| seed.parse().unwrap());
    let seed = seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        now.unwrap().as_nanos() as u64 | 1
    });
    println!("{calls} calls, HOOK_SEED={seed}");
    let mut random = Random(seed);
    let mut folders: Vec<PathBuf> = ["hook", "fixup"]
        .iter()
        .flat_map(|kind| fs::read_dir(repository().join("tests").join(kind)).unwrap())
        .map(|folder| folder.unwrap().path())
        .collect();
    // A directory has no order, and a seed is to mean the same everywhere.
    folders.sort();
    let domain = |folder: &PathBuf| fs::read(folder.join("domain.xml")).unwrap();
    let corpus: Vec<Vec<u8>> = folders.iter().map(domain).collect();
    let host = lab();
    let mut settings = Settings::MayVeto;
    let (mut vetoes, mut rewritten, mut worst) = (0, 0, Duration::ZERO);
    for number in 0..calls {
        if number % 10 == 0 {
            settings = shake(&host, &mut random);
        }
        // By chance alone there may be no veto in a thousand calls, and nothing rewritten.
        let is_doomed = random.one_in(6);
        let operation: OsString = match random.below(8) {
            _ if is_doomed => random.of(&["prepare", "restore"]).into(),
            0 => random.argument(),
            1 => random.of(&OTHERS).into(),
            _ => random.of(&OURS).into(),
        };
        let name: OsString = match random.below(3) {
            0 => random.argument(),
            _ => random.of(&NAMES).into(),
        };
        let mut arguments = vec![name, operation.clone()];
        arguments.extend((0..random.below(4)).map(|_| random.argument()));
        if random.one_in(20) {
            arguments.truncate(random.below(2));
        }
        let operation = arguments
            .get(1)
            .map_or("", |word| word.to_str().unwrap_or("?"));
        let input = match is_doomed {
            true => doomed(),
            false => stdin(&mut random, &corpus),
        };
        let began = Instant::now();
        let answer = host.call(&arguments, &input);
        worst = worst.max(began.elapsed());
        let what = || {
            let shown = String::from_utf8_lossy(&input[..input.len().min(3000)]).into_owned();
            format!(
                "HOOK_SEED={seed}, call {number}: {arguments:?} {settings:?}\n{shown}\n{answer:?}"
            )
        };
        match answer.code {
            // That of a panic, too, would be no veto; but there are none.
            Some(0) => assert!(answer.stderr.is_empty(), "{}", what()),
            Some(1) => {
                vetoes += 1;
                assert!(
                    operation == "prepare" && settings == Settings::MayVeto,
                    "{}",
                    what()
                );
                explains(&answer, &input).unwrap_or_else(|why| panic!("{why}: {}", what()));
            }
            _ => panic!("{}", what()),
        }
        if answer.stdout.is_empty() {
            continue;
        }
        rewritten += 1;
        let reads = matches!(operation, "migrate" | "restore");
        assert!(reads && settings == Settings::MayVeto, "{}", what());
        let out = std::str::from_utf8(&answer.stdout).unwrap();
        let document = Document::parse(out).unwrap_or_else(|why| panic!("{why}: {}", what()));
        assert_eq!(document.root().name(), "domain", "{}", what());
        assert_ne!(answer.stdout, input, "{}", what());
        // What it has printed it leaves alone.
        let again = host.call(&arguments, &answer.stdout);
        assert!(
            again.code == Some(0) && again.stdout.is_empty(),
            "{}",
            what()
        );
    }
    assert!(!repository().join("was-here").exists(), "a name was run");
    println!("{vetoes} vetoes, {rewritten} rewritten, the slowest call {worst:?}");
    assert!(
        vetoes > 0 && rewritten > 0,
        "nothing was tried that matters"
    );
}

/// A veto names its reason in one line and what to type in the next, and is about a domain that has what it takes.
fn explains(answer: &Answer, input: &[u8]) -> Result<(), String> {
    let lines: Vec<&str> = answer.stderr.lines().collect();
    let [why, fix] = lines[..] else {
        return Err(format!("{} lines", lines.len()));
    };
    let text = std::str::from_utf8(input).map_err(|why| why.to_string())?;
    let document = Document::parse(text).map_err(|why| why.to_string())?;
    let is_domain = document.root().name() == "domain";
    let named = "is not started: QEMU would refuse c1a20000-";
    if !why.contains(named) || !why.starts_with("gfxplane: ") {
        return Err("its reason is missing".into());
    }
    if !fix.starts_with("gfxplane: type: gfxplane fixup ") {
        return Err("what to type is missing".into());
    }
    if is_domain && text.contains("<hostdev") {
        Ok(())
    } else {
        Err("nothing could be refused".into())
    }
}

/// That arguments reach the helper as they are.
#[test]
fn arguments_are_operands() {
    let keep = tempfile::tempdir().unwrap();
    let (text, helper) = (keep.path().join("text"), keep.path().join("helper"));
    fs::write(&text, "#!/bin/sh\nprintf '[%s]' \"$@\" >&2\n").unwrap();
    install(&text, &helper);
    let host = Hooked::new("lab", &helper);
    for name in NAMES
        .map(OsStr::new)
        .into_iter()
        .chain([OsStr::from_bytes(b"\xff\xfe")])
    {
        for operation in OURS {
            let arguments = [
                name,
                OsStr::new(operation),
                OsStr::new("begin"),
                OsStr::new("-"),
            ];
            let answer = host.call(&arguments, b"");
            let name = name.to_string_lossy();
            assert_eq!(
                answer.stderr,
                format!("[qemu-hook][{name}][{operation}][begin][-]")
            );
        }
    }
}
