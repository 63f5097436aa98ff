//! Tests what may go wrong on a host: disks that are full or read-only, writers that are killed at
//! any system call, files that are half written, thousands of devices and domains, documents of 16
//! MiB, a sysfs that changes while it is read. docs/faults.md tells which test shows what.
//!
//! Some tests need a process of their own, traced, or with mounts of its own. This program then
//! runs itself, with the name of the work in `GFXPLANE_FAULT`.

#[allow(dead_code)]
#[path = "support/hooked.rs"]
mod hooked;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use gfxplane::device::evidence::{Method, OpenPath};
use gfxplane::device::facts::{Display, Facts};
use gfxplane::device::id::DeviceId;
use gfxplane::device::record::{Circumstances, FORMAT, Record};
use gfxplane::host::log::{By, Entry, What};
use gfxplane::host::run::{self, read_record, read_type, write_record};
use gfxplane::host::state::State;
use gfxplane::host::{Root, mdevctl, tree, watched};
use gfxplane::plan::undo::Inverse;
use gfxplane::publish::inventory::{Sources, inventory, recorded};
use hooked::Hooked;
use libtest_mimic::{Arguments, Failed, Trial};
use nix::sys::ptrace;
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{Pid, geteuid};
use uuid::Uuid;

const TOOL: &str = env!("CARGO_BIN_EXE_gfxplane");
const HELPER: &str = env!("CARGO_BIN_EXE_gfxplane-helper");

/// The variable that names the work for which this process was started. The work's directory is the
/// first argument.
const WORK: &str = "GFXPLANE_FAULT";

type Outcome = Result<(), Failed>;

fn main() -> ExitCode {
    if let Some(work) = std::env::var_os(WORK) {
        let directory = std::env::args_os().nth(1).expect("a directory");
        work_on(&work.to_string_lossy(), Path::new(&directory));
        return ExitCode::SUCCESS;
    }
    let trials = vec![
        Trial::test("a_record_is_written_and_its_writer_killed", record_killed),
        Trial::test(
            "a_first_record_is_written_and_its_writer_killed",
            first_record_killed,
        ),
        Trial::test(
            "a_device_is_forgotten_and_who_does_it_killed",
            forget_killed,
        ),
        Trial::test(
            "a_change_is_remembered_and_who_does_it_killed",
            state_killed,
        ),
        Trial::test(
            "a_definition_is_cleaned_and_who_does_it_killed",
            definition_killed,
        ),
        Trial::test("a_record_that_is_half_written", half_a_record),
        Trial::test("state_on_a_full_disk", || {
            in_mounts("full-state", "size=64k")
        }),
        Trial::test("records_on_a_full_disk", || {
            in_mounts("full-run", "size=256k")
        }),
        Trial::test("state_and_records_on_a_read_only_disk", || {
            in_mounts("read-only", "size=256k")
        }),
        Trial::test("the_hook_without_a_place_to_write", hook_without_a_place),
        Trial::test("ten_thousand_mdevs", ten_thousand_mdevs),
        Trial::test("a_sysfs_that_changes_while_it_is_read", changing_sysfs),
        Trial::test("a_domain_of_16_mib", large_domain),
        #[cfg(feature = "libvirt")]
        Trial::test(
            "five_thousand_domains_of_a_real_libvirt",
            five_thousand_domains,
        ),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// Does the work of a process of its own.
fn work_on(work: &str, directory: &Path) {
    let root = Root::recorded(directory);
    let id = device(1);
    match work {
        "record" => traced(|| write_record(&root, &region(id), Some("thing")).map(drop)),
        "forget" => traced(|| run::forget(&root, id)),
        "state" => traced(|| {
            let state = State::new(&root);
            let done = |result: Result<(), _>| result.map_err(io::Error::other);
            done(state.push_undo(DOMAIN, "guest", change("2")))?;
            done(state.append(&entry("two")))?;
            done(state.set_hands_off(DOMAIN, "guest", true))
        }),
        "definition" => traced(|| mdevctl::clean(&root, "mbochs", uuid_of(id)).map(drop)),
        "full-state" => full_state(directory),
        "full-run" => full_run(directory),
        "read-only" => read_only(directory),
        other => panic!("{other}"),
    }
}

fn ourselves(work: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().expect("it runs"));
    command.env(WORK, work);
    command
}

fn device(number: u32) -> DeviceId {
    let text = format!("c1a20000-0000-4000-8000-{number:012x}");
    text.parse().expect("a UUID")
}

fn uuid_of(id: DeviceId) -> Uuid {
    match id {
        DeviceId::Mdev(uuid) => uuid,
        DeviceId::Pci(_) => unreachable!("all here are mdevs"),
    }
}

fn circumstances() -> Circumstances {
    Circumstances {
        boot_id: "b".into(),
        kernel: "6.12".into(),
        driver: Some("thing".into()),
        driver_version: None,
        type_id: Some("thing-vga".into()),
    }
}

fn record(id: DeviceId, display: Display) -> Record {
    Record {
        format: FORMAT,
        device: id,
        circumstances: circumstances(),
        facts: Facts::of(display),
        path: Some(OpenPath::Group),
        step: None,
        errno: None,
        qemu: None,
    }
}

fn region(id: DeviceId) -> Record {
    record(id, Display::from_answers(false, true))
}

fn dmabuf(id: DeviceId) -> Record {
    record(id, Display::from_answers(true, false))
}

/// Makes a directory with a `run` in it.
fn with_run() -> Result<(tempfile::TempDir, Root), Failed> {
    let directory = tempfile::tempdir()?;
    fs::create_dir_all(directory.path().join("run"))?;
    fs::create_dir_all(directory.path().join("var/lib"))?;
    let root = Root::recorded(directory.path());
    Ok((directory, root))
}

/// Returns all files below a directory with their contents.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut left = vec![directory.to_owned()];
    while let Some(directory) = left.pop() {
        for entry in fs::read_dir(&directory).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => left.push(entry.path()),
                _ => drop(found.insert(entry.path(), fs::read(entry.path()).unwrap_or_default())),
            }
        }
    }
    found
}

/// Returns the files whose names none of ours has once it is whole.
fn left_behind(directory: &Path) -> Vec<PathBuf> {
    let is_new = |path: &PathBuf| {
        let inside = path.strip_prefix(directory).unwrap_or(path);
        inside
            .iter()
            .any(|name| name.to_string_lossy().starts_with('.'))
    };
    files(directory).into_keys().filter(is_new).collect()
}

/// Returns whether a directory has exactly the files of the tree for these facts.
fn is_tree_of(directory: &Path, facts: &Facts, method: Method) -> bool {
    let wanted = tempfile::tempdir().expect("there is room");
    tree::write(wanted.path(), facts, method).expect("there is room");
    let inside = |directory: &Path| -> BTreeMap<PathBuf, _> {
        let files = files(directory).into_iter();
        let inside = |path: &Path| path.strip_prefix(directory).unwrap_or(path).to_owned();
        files
            .map(|(path, content)| (inside(&path), content))
            .collect()
    };
    inside(directory) == inside(wanted.path())
}

fn is_empty<T: std::fmt::Debug>(what: &str, found: &[T]) -> Outcome {
    if found.is_empty() {
        return Ok(());
    }
    Err(format!("{what}: {found:?}").into())
}

// Killed at any system call

/// Stops until the tracer is there, works, and ends.
fn traced(work: impl FnOnce() -> io::Result<()>) {
    ptrace::traceme().expect("nobody else traces this process");
    raise(Signal::SIGSTOP).expect("the tracer waits for this");
    work().expect("it works where nobody kills it");
}

/// Repeats the work until it is done, each time in what `prepare` makes, and kills it one system
/// call later each time. Runs `check` on what is left.
fn killed_everywhere(
    work: &str,
    prepare: impl Fn(&Root) -> Outcome,
    check: impl Fn(&Root) -> Outcome,
) -> Outcome {
    // Nothing changes between the end of a system call and the beginning of the next.
    for stops in (1..).step_by(2) {
        let (directory, root) = with_run()?;
        prepare(&root)?;
        let is_through = killed_at(work, directory.path(), stops)?;
        check(&root).map_err(|failed| {
            let why = failed.message().unwrap_or_default().to_owned();
            format!("killed at stop {stops}: {why}")
        })?;
        if is_through {
            // With fewer stops, the work would not have been done.
            assert!(stops > 10, "it made {stops} stops");
            return Ok(());
        }
    }
    unreachable!("it ends")
}

/// Ends the readers, even if a test fails first.
struct End<'d>(&'d AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Returns whether the work was done before that many stops.
fn killed_at(work: &str, directory: &Path, stops: usize) -> Result<bool, Failed> {
    let mut command = ourselves(work);
    command.arg(directory).stdin(Stdio::null());
    let child = command.spawn()?;
    let pid = Pid::from_raw(child.id().cast_signed());
    let begun = waitpid(pid, None)?;
    if begun != WaitStatus::Stopped(pid, Signal::SIGSTOP) {
        return Err(format!("{work}: {begun:?} instead of its beginning").into());
    }
    for _ in 0..stops {
        ptrace::syscall(pid, None)?;
        match waitpid(pid, None)? {
            WaitStatus::Stopped(..) => {}
            WaitStatus::Exited(_, 0) => return Ok(true),
            other => return Err(format!("{work}: {other:?}").into()),
        }
    }
    nix::sys::signal::kill(pid, Signal::SIGKILL)?;
    while !matches!(waitpid(pid, None)?, WaitStatus::Signaled(..)) {}
    Ok(false)
}

/// Checks that the record of the device and of its type is one of these, and that the tree agrees
/// with it. Then the next writer must find nothing in its way and leave nothing.
fn one_of(root: &Root, ones: &[Option<Record>]) -> Outcome {
    let id = device(1);
    let mut warnings = Vec::new();
    for found in [
        read_record(root, id, &mut warnings),
        read_type(root, "thing-vga", &mut warnings),
    ] {
        if !ones.contains(&found) {
            return Err(format!("{found:?} is read").into());
        }
    }
    is_empty("warnings", &warnings)?;
    for below in ["devices", "mdev_supported_types/thing"] {
        let name = if below == "devices" {
            id.to_string()
        } else {
            "thing-vga".into()
        };
        let directory = root.join("run/gfxplane").join(below).join(name);
        let methods = [Method::Probe, Method::Sibling];
        let says = |record: &Record| {
            methods
                .iter()
                .any(|m| is_tree_of(&directory, &record.facts, *m))
        };
        if !ones
            .iter()
            .any(|one| one.as_ref().map_or(!directory.exists(), says))
        {
            return Err(format!("{} is half there", directory.display()).into());
        }
    }
    // The next writer.
    write_record(root, &region(id), Some("thing"))?;
    let found = read_record(root, id, &mut warnings);
    assert_eq!(
        (found, warnings),
        (Some(region(id)), vec![]),
        "written again"
    );
    is_empty("left behind", &left_behind(&root.join("run")))
}

fn record_killed() -> Outcome {
    let old = dmabuf(device(1));
    killed_everywhere(
        "record",
        |root| {
            write_record(root, &old, Some("thing"))?;
            Ok(())
        },
        |root| one_of(root, &[Some(old.clone()), Some(region(device(1)))]),
    )
}

fn first_record_killed() -> Outcome {
    killed_everywhere(
        "record",
        |_| Ok(()),
        |root| one_of(root, &[None, Some(region(device(1)))]),
    )
}

/// The next event, or the next boot, removes the records of a device that is gone. Until then the
/// device is known or not.
fn forget_killed() -> Outcome {
    let id = device(1);
    killed_everywhere(
        "forget",
        |root| {
            write_record(root, &region(id), Some("thing"))?;
            Ok(())
        },
        |root| {
            let mut warnings = Vec::new();
            let found = read_record(root, id, &mut warnings);
            is_empty("warnings", &warnings)?;
            if found.is_some_and(|found| found != region(id)) {
                return Err("it is known to be something else".into());
            }
            run::forget(root, id)?;
            let of_it = |path: &PathBuf| path.to_string_lossy().contains(&id.to_string());
            let left: Vec<PathBuf> = files(&root.join("run")).into_keys().filter(of_it).collect();
            is_empty("left of it", &left)
        },
    )
}

const DOMAIN: Uuid = Uuid::from_u128(0x0d0c_2f26_4b1a_4c6e_9d52_6f5a_1f7b_6a01);

fn change(value: &str) -> Vec<Inverse> {
    vec![Inverse {
        old: format!("<x a='{value}'/>"),
        new: String::new(),
        is_device: true,
        hashes: [1, 0],
        around: [None, None],
    }]
}

fn entry(reason: &str) -> Entry {
    Entry::new(7, What::LeftAlone, By::Daemon, "guest", Some(DOMAIN)).because(reason)
}

/// All that is remembered: the changes, the log, and whether the domain is left alone.
type Remembered = (Vec<Vec<Inverse>>, Vec<Entry>, bool);

fn remembered(state: &State) -> Result<Remembered, Failed> {
    let mut warnings = Vec::new();
    let stack = state.undo_stack(DOMAIN, &mut warnings);
    let changes = stack.into_iter().map(|round| round.changes).collect();
    let log = state.entries(&mut warnings);
    let hands_off = state.hands_off(DOMAIN, &mut warnings);
    is_empty("warnings", &warnings)?;
    Ok((changes, log, hands_off))
}

fn state_killed() -> Outcome {
    let prepare = |root: &Root| -> Outcome {
        let state = State::new(root);
        state.push_undo(DOMAIN, "guest", change("1"))?;
        Ok(state.append(&entry("one"))?)
    };
    killed_everywhere("state", prepare, |root| {
        let state = State::new(root);
        let found = remembered(&state)?;
        let (changes, log) = ([change("1"), change("2")], [entry("one"), entry("two")]);
        let expected = [
            (&changes[..1], &log[..1], false),
            (&changes[..], &log[..1], false),
            (&changes[..], &log[..], false),
            (&changes[..], &log[..], true),
        ];
        if !expected.contains(&(&found.0[..], &found.1[..], found.2)) {
            return Err(format!("{found:?} is remembered").into());
        }
        state.push_undo(DOMAIN, "guest", change("3"))?;
        state.append(&entry("three"))?;
        let after = remembered(&state)?;
        assert_eq!(after.0.len(), found.0.len() + 1);
        assert_eq!(after.1.len(), found.1.len() + 1);
        is_empty("left behind", &left_behind(&root.join("var")))
    })
}

fn definition_killed() -> Outcome {
    let dirty = "{\"mdev_type\":\"mbochs-small\",\"start\":\"manual\",\"attrs\":[{\"gfxplane.display\":\"dmabuf\"},{\"a\":\"b\"}]}";
    let clean = mdevctl::without_our_attributes(dirty)?.ok_or("there is one")?;
    let path = |root: &Root| {
        root.join("etc/mdevctl.d/mbochs")
            .join(device(1).to_string())
    };
    let prepare = |root: &Root| -> Outcome {
        fs::create_dir_all(root.join("etc/mdevctl.d/mbochs"))?;
        Ok(fs::write(path(root), dirty)?)
    };
    killed_everywhere("definition", prepare, |root| {
        let found = fs::read_to_string(path(root))?;
        if ![dirty, clean.trim()].contains(&found.trim_end()) {
            return Err(format!("half a definition: {found:?}").into());
        }
        let definitions = mdevctl::read(root, &mut Vec::new());
        assert_eq!(definitions.len(), 1, "mdevctl sees one");
        mdevctl::clean(root, "mbochs", uuid_of(device(1)))?;
        assert_eq!(fs::read_to_string(path(root))?.trim_end(), clean.trim());
        is_empty("left behind", &left_behind(&root.join("etc")))
    })
}

// Half written

/// A record that was cut off anywhere, or ends in zeros as after a power cut, does not count and
/// gets a warning.
fn half_a_record() -> Outcome {
    let (_directory, root) = with_run()?;
    let id = device(1);
    write_record(&root, &region(id), Some("thing"))?;
    let path = root.join("run/gfxplane/records").join(format!("{id}.json"));
    let whole = fs::read(&path)?;
    for length in 0..whole.trim_ascii_end().len() {
        let mut zeros = whole.clone();
        zeros[length..].fill(0);
        for half in [&whole[..length], &zeros] {
            fs::write(&path, half)?;
            let mut warnings = Vec::new();
            let found = read_record(&root, id, &mut warnings);
            let said: Vec<String> = warnings.iter().map(ToString::to_string).collect();
            let expected = format!("{}: ignored: it is damaged: ", path.display());
            assert!(found.is_none(), "{length}");
            assert!(
                matches!(&said[..], [one] if one.starts_with(&expected)),
                "{length}: {said:?}"
            );
        }
    }
    // The next probe writes it anew.
    write_record(&root, &region(id), Some("thing"))?;
    assert_eq!(fs::read(&path)?, whole);
    Ok(())
}

// Full and read-only

/// Returns a command that has mounts of its own: as root those of `unshare --mount`, as another
/// user those of a user namespace.
fn unshared() -> Command {
    let mut command = Command::new("unshare");
    if !geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.arg("--mount");
    command
}

fn succeeded(output: &Output) -> Outcome {
    if output.status.success() {
        return Ok(());
    }
    let said = [&output.stdout[..], &output.stderr].concat();
    Err(format!("{}: {}", output.status, String::from_utf8_lossy(&said)).into())
}

/// Does the work on a small file system of its own.
fn in_mounts(work: &str, options: &str) -> Outcome {
    let directory = tempfile::tempdir()?;
    let script = format!("mount -t tmpfs -o mode=755,{options} tmpfs \"$0\" && exec \"$1\" \"$0\"");
    let output = unshared()
        .args(["sh", "-c", &script])
        .arg(directory.path())
        .arg(std::env::current_exe()?)
        .env(WORK, work)
        .output()?;
    succeeded(&output)
}

/// Fills a file system.
fn fill(directory: &Path) {
    let mut file =
        fs::File::create(directory.join("filler")).expect("it is made before it is full");
    for size in [4096, 1] {
        while file.write_all(&vec![0; size]).is_ok() {}
    }
}

fn full_state(directory: &Path) {
    fs::create_dir_all(directory.join("var/lib")).unwrap();
    let state = State::new(&Root::strict(directory));
    state.push_undo(DOMAIN, "guest", change("1")).unwrap();
    let before = state.undo_stack(DOMAIN, &mut Vec::new());
    let mut written = 0;
    let told = loop {
        match state.append(&entry(&"x".repeat(1000))) {
            Ok(()) => written += 1,
            Err(error) => break error.to_string(),
        }
    };
    assert!(told.contains("/var/lib/gfxplane/log.jsonl: "), "{told}");
    // 1000 bytes don't fit any more. A line that fits is a whole one.
    fill(directory);
    let file = directory.join("gfxplane.fact");
    let exported = Command::new(TOOL)
        .args(["export", "ansible", "-o"])
        .arg(&file)
        .output();
    let told = format!("gfxplane: {}: No space left on device\n", file.display());
    assert_eq!(String::from_utf8_lossy(&exported.unwrap().stderr), told);
    let mut warnings = Vec::new();
    assert_eq!(state.entries(&mut warnings).len(), written);
    let told = state
        .push_undo(DOMAIN, "guest", change("2"))
        .unwrap_err()
        .to_string();
    assert!(told.contains(".json: No space left on device"), "{told}");
    assert!(state.set_hands_off(DOMAIN, "guest", true).is_err());
    assert!(state.set_older(&BTreeSet::from([DOMAIN])).is_err());
    assert_eq!(state.undo_stack(DOMAIN, &mut warnings), before);
    assert!(!state.hands_off(DOMAIN, &mut warnings));
    assert_eq!(warnings, []);
    assert_eq!(left_behind(&directory.join("var")), [] as [PathBuf; 0]);
    // Somebody has freed some space.
    fs::remove_file(directory.join("var/lib/gfxplane/log.jsonl")).unwrap();
    state.push_undo(DOMAIN, "guest", change("2")).unwrap();
    assert_eq!(
        state.undo_stack(DOMAIN, &mut warnings).len(),
        before.len() + 1
    );
}

fn full_run(directory: &Path) {
    fs::create_dir(directory.join("run")).unwrap();
    let root = Root::strict(directory);
    let mut written = 0;
    let error = loop {
        match write_record(&root, &dmabuf(device(written + 1)), Some("thing")) {
            Ok(_) => written += 1,
            Err(error) => break error,
        }
    };
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    assert!(written > 1, "{written}");
    fill(directory);
    // The existing record can't be changed, and stays.
    let error = write_record(&root, &region(device(1)), Some("thing")).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull, "{error}");
    let mut warnings = Vec::new();
    for number in 1..=written {
        let id = device(number);
        assert_eq!(read_record(&root, id, &mut warnings), Some(dmabuf(id)));
    }
    assert_eq!(read_record(&root, device(written + 1), &mut warnings), None);
    assert_eq!(warnings, []);
    assert_eq!(left_behind(&directory.join("run")), [] as [PathBuf; 0]);
    // No start has to wait, and a device that is gone can be removed.
    let now = std::time::Instant::now();
    assert!(run::wait_until_free(&root, device(1), now).unwrap());
    run::forget(&root, device(2)).unwrap();
    fs::remove_file(directory.join("filler")).unwrap();
    write_record(&root, &region(device(1)), Some("thing")).unwrap();
    assert_eq!(
        read_record(&root, device(1), &mut warnings),
        Some(region(device(1)))
    );
}

fn read_only(directory: &Path) {
    for below in ["run", "var/lib"] {
        fs::create_dir_all(directory.join(below)).unwrap();
    }
    let root = Root::strict(directory);
    let state = State::new(&root);
    state.push_undo(DOMAIN, "guest", change("1")).unwrap();
    state.append(&entry("one")).unwrap();
    write_record(&root, &dmabuf(device(1)), Some("thing")).unwrap();
    let before = files(directory);
    let remounted = Command::new("mount")
        .args(["-o", "remount,ro"])
        .arg(directory)
        .status();
    assert!(remounted.unwrap().success());
    for error in [
        write_record(&root, &region(device(1)), Some("thing"))
            .map(drop)
            .unwrap_err(),
        write_record(&root, &region(device(2)), Some("thing"))
            .map(drop)
            .unwrap_err(),
        run::forget(&root, device(1)).unwrap_err(),
    ] {
        assert_eq!(error.kind(), io::ErrorKind::ReadOnlyFilesystem, "{error}");
    }
    for told in [
        state.push_undo(DOMAIN, "guest", change("2")).unwrap_err(),
        state.append(&entry("two")).unwrap_err(),
        state.set_hands_off(DOMAIN, "guest", true).unwrap_err(),
        state.forget(DOMAIN).unwrap_err(),
    ] {
        let told = told.to_string();
        assert!(
            told.contains("/var/lib/gfxplane/") && told.contains("Read-only file system"),
            "{told}"
        );
    }
    assert_eq!(files(directory), before);
    let mut warnings = Vec::new();
    assert_eq!(
        read_record(&root, device(1), &mut warnings),
        Some(dmabuf(device(1)))
    );
    assert_eq!(state.undo_stack(DOMAIN, &mut warnings).len(), 1);
    assert_eq!(warnings, []);
}

/// A good guest starts, and a guest that QEMU would refuse gets its veto, whatever the state of
/// `/run/gfxplane`.
fn hook_without_a_place() -> Outcome {
    let domain = |device: &str| {
        let graphics = "<graphics type='vnc' port='-1' listen='127.0.0.1'/>";
        format!(
            "<domain type='kvm'><name>g</name><uuid>{DOMAIN}</uuid><devices>{graphics}<video><model type='none'/></video>\
             <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on'><source><address uuid='{device}'/></source>\
             </hostdev></devices></domain>"
        )
    };
    let region = "c1a20000-0000-4000-8000-000000000001";
    let dmabuf = "c1a20000-0000-4000-8000-000000000002";
    for (place, is_read_only) in [("read-only", true), ("full", false)] {
        let host = Hooked::new("lab", Path::new(HELPER));
        let run = host.path("run/gfxplane");
        // All files are there again, and then nothing more can be written.
        let mounted = if is_read_only {
            "mount -t tmpfs -o mode=755 tmpfs \"$run\"; cp -r \"$keep/.\" \"$run\"; mount -o remount,ro \"$run\""
        } else {
            "mount -t tmpfs -o mode=755,size=1m,nr_inodes=600 tmpfs \"$run\"; cp -r \"$keep/.\" \"$run\"
             dd if=/dev/zero of=\"$run/filler\" bs=4k 2>/dev/null || :
             n=0; while true > \"$run/name$n\"; do n=$((n + 1)); done 2>/dev/null"
        };
        let keep = host.path("keep");
        succeeded(&Command::new("cp").arg("-r").arg(&run).arg(&keep).output()?)?;
        let script = format!("run=$0; keep=$1; shift; {mounted}; exec \"$@\"");
        for (device, expected) in [(region, Some(0)), (dmabuf, Some(1))] {
            let call = host.command(&["g", "prepare", "begin", "-"]);
            let mut command = unshared();
            command.args(["sh", "-c", &script]).arg(&run).arg(&keep);
            command.arg(call.get_program()).args(call.get_args());
            command.env_clear();
            let named = call
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?)));
            let mut child = command
                .envs(named)
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()?;
            let mut stdin = child.stdin.take().ok_or("it has one")?;
            stdin.write_all(domain(device).as_bytes())?;
            drop(stdin);
            let output = child.wait_with_output()?;
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), expected, "{place}, {device}: {said}");
            assert!(output.stdout.is_empty(), "{place}");
            if expected == Some(1) {
                assert!(
                    said.contains("is not started: QEMU would refuse"),
                    "{place}: {said}"
                );
            } else {
                assert_eq!(said, "", "{place}");
            }
        }
    }
    Ok(())
}

// Many

/// Makes a sysfs with mdevs of one parent, each with a record.
fn make_mdevs(base: &Path, number: u32) -> Outcome {
    let parent = base.join("sys/devices/virtual/thing/thing");
    let of_type = parent.join("mdev_supported_types/thing-vga");
    for directory in [
        of_type.clone(),
        base.join("sys/bus/mdev/devices"),
        base.join("sys/bus/mdev/drivers/thing"),
        base.join("sys/class/mdev_bus"),
        base.join("proc/sys/kernel/random"),
        base.join("run/gfxplane/records"),
    ] {
        fs::create_dir_all(directory)?;
    }
    for (name, text) in [
        ("device_api", "vfio-pci\n"),
        ("available_instances", "5\n"),
        ("name", "VGA\n"),
    ] {
        fs::write(of_type.join(name), text)?;
    }
    fs::write(base.join("proc/sys/kernel/osrelease"), "6.12\n")?;
    fs::write(base.join("proc/sys/kernel/random/boot_id"), "b\n")?;
    symlink(
        "../../devices/virtual/thing/thing",
        base.join("sys/class/mdev_bus/thing"),
    )?;
    for number in 1..=number {
        add_mdev(base, device(number))?;
        let record = dmabuf(device(number));
        let name = format!("run/gfxplane/records/{}.json", record.device);
        fs::write(base.join(name), record.to_text())?;
    }
    Ok(())
}

fn add_mdev(base: &Path, id: DeviceId) -> io::Result<()> {
    let parent = base.join("sys/devices/virtual/thing/thing");
    let home = parent.join(id.to_string());
    fs::create_dir(&home)?;
    symlink("../../../../../bus/mdev/drivers/thing", home.join("driver"))?;
    symlink("../mdev_supported_types/thing-vga", home.join("mdev_type"))?;
    let link = base.join("sys/bus/mdev/devices").join(id.to_string());
    symlink(format!("../../../devices/virtual/thing/thing/{id}"), link)
}

/// Makes a directory in memory if possible, because there are many files.
fn in_memory() -> io::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory)
    } else {
        tempfile::tempdir()
    }
}

/// All devices are listed with what is known of them. A question about one device reads no more
/// files than it does with ten of them.
fn ten_thousand_mdevs() -> Outcome {
    let (few, many) = (in_memory()?, in_memory()?);
    make_mdevs(few.path(), 10)?;
    make_mdevs(many.path(), 10_000)?;
    let (few, root) = (Root::recorded(few.path()), Root::recorded(many.path()));
    let looked_at = |root: &Root| {
        let (known, seen) = watched(|| recorded(root, device(7), &mut Vec::new()));
        assert_eq!(
            known.expect("it has a record").finding.facts,
            dmabuf(device(7)).facts
        );
        seen.len()
    };
    assert_eq!(looked_at(&root), looked_at(&few));
    let of_all = |root: &Root| watched(|| inventory(&Sources::read(root)));
    let ((list, seen), (_, of_ten)) = (of_all(&root), of_all(&few));
    assert_eq!(list.warnings, []);
    assert_eq!(list.devices.len(), 10_000);
    let of_one = of_ten.len().div_ceil(10);
    assert!(
        seen.len() <= 10_000 * of_one,
        "{} files, {of_one} for each of ten",
        seen.len()
    );
    let output = Command::new(TOOL)
        .arg("--root")
        .arg(root.path())
        .args(["list", "--json"])
        .output()?;
    succeeded(&output)?;
    let list: serde_json::Value = serde_json::from_slice(&output.stdout)?;
    let devices = list["devices"].as_array().ok_or("a list")?;
    let known = devices
        .iter()
        .filter(|device| device["display"][0] == "dmabuf")
        .count();
    assert_eq!((devices.len(), known), (10_000, 10_000));
    let xml = Command::new(HELPER)
        .args(["capability", &device(9_999).to_string()])
        .env("GFXPLANE_ROOT", root.path())
        .output()?;
    succeeded(&xml)?;
    assert!(String::from_utf8_lossy(&xml.stdout).contains("<display type='dmabuf'/>"));
    Ok(())
}

/// Devices come and go while the host is read. Those that stay always look the same, and of the
/// others nothing is told that no record says.
fn changing_sysfs() -> Outcome {
    let directory = in_memory()?;
    make_mdevs(directory.path(), 3)?;
    let base = directory.path();
    let root = Root::recorded(base);
    let off = AtomicBool::new(false);
    let stays = |all: &gfxplane::publish::inventory::Inventory| -> Vec<serde_json::Value> {
        let devices = all.devices.iter().filter(|entry| entry.id <= device(3));
        devices
            .map(|entry| serde_json::to_value(entry).unwrap_or_default())
            .collect()
    };
    let before = stays(&inventory(&Sources::read(&root)));
    assert_eq!(before.len(), 3);
    let come_and_go = || -> io::Result<usize> {
        let mut rounds = 0;
        while !off.load(Ordering::Relaxed) {
            rounds += 1;
            let id = device(100 + rounds % 5);
            let link = base.join("sys/bus/mdev/devices").join(id.to_string());
            let home = base
                .join("sys/devices/virtual/thing/thing")
                .join(id.to_string());
            // As in the kernel, the link comes last and goes first.
            add_mdev(base, id)?;
            let record = base.join(format!("run/gfxplane/records/{id}.json"));
            fs::write(&record, dmabuf(id).to_text())?;
            fs::remove_file(link)?;
            fs::remove_dir_all(home)?;
            fs::remove_file(record)?;
        }
        Ok(rounds as usize)
    };
    let mut seen = BTreeSet::new();
    let rounds = thread::scope(|scope| {
        let changing = scope.spawn(come_and_go);
        let end = End(&off);
        let mut read = 0;
        // The loop runs until a device was seen to come or go in the middle of a read, and for a
        // while longer.
        while read < 200 || seen.is_empty() && read < 100_000 && !changing.is_finished() {
            read += 1;
            let all = inventory(&Sources::read(&root));
            assert_eq!(stays(&all), before, "those that stay");
            for entry in all.devices.iter().filter(|entry| entry.id > device(3)) {
                seen.insert(entry.id);
                let display = &entry.finding.facts.display;
                let is_said = *display == dmabuf(entry.id).facts.display;
                assert!(
                    is_said || !display.is_known(),
                    "{} is {display:?}",
                    entry.id
                );
            }
            for number in 100..105 {
                let known = recorded(&root, device(number), &mut Vec::new());
                let display = known.map(|known| known.finding.facts.display);
                let said = [None, Some(dmabuf(device(number)).facts.display)];
                assert!(said.contains(&display), "{number} is {display:?}");
            }
        }
        drop(end);
        changing.join().expect("it changes")
    })?;
    assert!(
        rounds > 1 && !seen.is_empty(),
        "{rounds} came and went, {seen:?} were seen"
    );
    Ok(())
}

// Large

/// A domain at the limit is fixed like any other. Beyond the limit, every part says why not.
fn large_domain() -> Outcome {
    const LIMIT: usize = gfxplane::xml::MAX_SIZE;
    let host = Hooked::new("lab", Path::new(HELPER));
    let of_size = |size: usize| {
        let start = "<domain type='kvm'><name>g</name><description>";
        let end = "</description><devices><graphics type='vnc' port='-1' listen='127.0.0.1'/><video><model type='none'/></video>\
             <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='off'><source>\
             <address uuid='c1a20000-0000-4000-8000-000000000001'/></source></hostdev></devices></domain>";
        let filler = "x".repeat(size - start.len() - end.len());
        format!("{start}{filler}{end}")
    };
    let (fits, exceeds) = (of_size(LIMIT), of_size(LIMIT + 1));
    assert_eq!(fits.len(), 16 * 1024 * 1024);
    let root = host.root();
    let run = |verb: &str, text: &str| -> Result<Output, Failed> {
        let path = host.path("large.xml");
        fs::write(&path, text)?;
        let mut command = Command::new(TOOL);
        command
            .arg("--root")
            .arg(root.path())
            .args([verb, "--qemu", "10.0.13"])
            .arg(path);
        Ok(command.stdin(Stdio::null()).output()?)
    };
    let fixed = run("fixup", &fits)?;
    succeeded(&fixed)?;
    let expected = fits.replacen("display='off'", "display='on'", 1);
    assert!(
        fixed.stdout == expected.as_bytes(),
        "it is fixed, and nothing else changes"
    );
    for verb in ["fixup", "check"] {
        let refused = run(verb, &exceeds)?;
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{verb}: {said}");
        assert!(
            said.contains("large.xml") && said.contains("16 MiB"),
            "{verb}: {said}"
        );
        assert!(refused.stdout.is_empty(), "{verb}");
    }
    for text in [&fits, &exceeds] {
        let answer = host.call(&["g", "prepare", "begin", "-"], text.as_bytes());
        assert_eq!(
            (answer.code, answer.stdout.len()),
            (Some(0), 0),
            "{}",
            answer.stderr
        );
    }
    Ok(())
}

/// libvirt's own test driver has all these domains in our process. They are found, read and left
/// alone, as QEMU runs none of them. src/daemon/tests/definitions.rs shows with a libvirt of ours that
/// as many are fixed.
#[cfg(feature = "libvirt")]
fn five_thousand_domains() -> Outcome {
    const WITH_LIBVIRT: &str = env!("CARGO_BIN_EXE_gfxplane-libvirt");
    let directory = tempfile::tempdir()?;
    let mut node = String::from("<node>\n");
    for number in 0..5000 {
        node += &format!(
            "<domain type='test'><name>g{number}</name><uuid>0d0c2f26-4b1a-4c6e-9d52-{number:012x}</uuid><memory>1024</memory>\
             <vcpu>1</vcpu><os><type>hvm</type></os><devices><hostdev mode='subsystem' type='mdev' model='vfio-pci' \
             display='on'><source><address uuid='c1a20000-0000-4000-8000-{number:012x}'/></source></hostdev></devices></domain>\n"
        );
    }
    let path = directory.path().join("node.xml");
    fs::write(&path, node + "</node>\n")?;
    let uri = format!("test://{}", path.display());
    // The daemon writes only to /run, /var/lib and /var/cache.
    let script = "for d in run var/lib var/cache; do mount -t tmpfs -o mode=755 tmpfs /$d || exit 9; done; \"$@\" || exit; ls -A /var/lib/gfxplane 2>/dev/null || :";
    let watch = unshared()
        .args([
            "sh",
            "-c",
            script,
            "sh",
            WITH_LIBVIRT,
            "watch",
            "--once",
            "-c",
            &uri,
        ])
        .output()?;
    succeeded(&watch)?;
    let said = String::from_utf8_lossy(&watch.stderr).into_owned();
    assert!(
        said.starts_with("gfxplane: connected to libvirt ") && said.lines().count() == 1,
        "{said}"
    );
    assert_eq!(
        String::from_utf8_lossy(&watch.stdout),
        "",
        "nothing is remembered of what was left alone"
    );
    let last = Command::new(WITH_LIBVIRT)
        .args(["check", "-c", &uri, "g4999"])
        .output()?;
    succeeded(&last)
}
