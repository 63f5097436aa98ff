use super::*;
use crate::device::rules::Rules;
use std::path::PathBuf;

/// Writes a shell script that takes the place of gfxplane-probe.
pub(super) fn script(directory: &Path, text: &str) -> PathBuf {
    let path = directory.join("script");
    let draft = path.with_extension("text");
    std::fs::write(&draft, format!("#!/bin/sh\n{text}\n")).unwrap();
    // Another process writes the file. If this one did, a child of another test might still have it
    // open for writing, and nobody could execute it (ETXTBSY).
    let copied = Command::new("install")
        .args(["-m", "755"])
        .args([&draft, &path])
        .status();
    assert!(copied.unwrap().success());
    path
}

/// Returns the failure of a preparation. Asserts that the last reported step is the failed one.
pub(super) fn failing_step(
    prepare: impl FnOnce(Tell<'_>) -> Result<Prepared, Failure>,
) -> (Step, Errno, Reason) {
    let mut steps = Vec::new();
    let failure = prepare(&mut |step| steps.push(step)).unwrap_err();
    assert_eq!(steps.last(), Some(&failure.step));
    (failure.step, failure.errno, failure.reason)
}

#[test]
fn what_each_errno_means() {
    for (step, errno, expected) in [
        (Step::Lock, Errno::EACCES, Reason::Permission),
        (Step::Lock, Errno::ENOSPC, Reason::OpenFailed),
        (Step::Container, Errno::ENOENT, Reason::NoVfio),
        (Step::Container, Errno::EACCES, Reason::Permission),
        (Step::Group, Errno::EBUSY, Reason::InUse),
        (Step::Group, Errno::EACCES, Reason::Permission),
        (Step::Group, Errno::ENOENT, Reason::NoDriver),
        (Step::Group, Errno::EIO, Reason::OpenFailed),
        (Step::Attach, Errno::EBUSY, Reason::InUse),
        (Step::Attach, Errno::EPERM, Reason::OpenFailed),
        (Step::Iommufd, Errno::ENOENT, Reason::NoVfio),
        (Step::Iommufd, Errno::EACCES, Reason::Permission),
        (Step::Cdev, Errno::EACCES, Reason::Permission),
        (Step::Cdev, Errno::ENODEV, Reason::NoDriver),
        (Step::Cdev, Errno::ENOMEM, Reason::OpenFailed),
        (Step::KvmFile, Errno::EBUSY, Reason::NeedsVm),
        (Step::Open, Errno::EPERM, Reason::Permission),
        (Step::Bind, Errno::EPERM, Reason::OpenFailed),
        (Step::Bind, Errno::EACCES, Reason::Permission),
        (Step::Info, Errno::EBUSY, Reason::QueryFailed),
        (Step::QueryRegion, Errno::ENODEV, Reason::Vanished),
    ] {
        assert_eq!(meaning(step, errno), expected, "{step} {errno}");
    }
    for step in [Step::Open, Step::Bind] {
        for (errno, expected) in [
            (Errno::EBUSY, Reason::InUse),
            (Errno::ESRCH, Reason::NeedsVm),
            (Errno::EEXIST, Reason::OpenFailed),
            (Errno::EIO, Reason::OpenFailed),
            (Errno::ENODEV, Reason::Vanished),
        ] {
            assert_eq!(meaning(step, errno), expected, "{step} {errno}");
        }
    }
}

/// Probes through a shell script.
fn ask_script(text: &str, deadline: Duration) -> Answer {
    let directory = tempfile::tempdir().unwrap();
    let prober = script(directory.path(), text);
    let id = "0000:00:02.0".parse().unwrap();
    ask(&prober, id, deadline, Manner::default())
}

const LONG: Duration = Duration::from_secs(60);
const SHORT: Duration = Duration::from_millis(300);

#[test]
fn every_way_a_child_can_end() {
    let answer = Answer::of(Facts::of(Display::NONE), Some(OpenPath::Group));
    let said = serde_json::to_string(&answer).unwrap();
    let whole = ask_script(&format!("echo open >&2; echo '{said}'"), LONG);
    assert_eq!(whole, answer);
    let half = &said[..said.len() / 2];
    let killed = |by| format!("echo query-dmabuf >&2; printf %s '{half}'; kill -{by} $$");
    let (killed, terminated) = (killed("KILL"), killed("TERM"));
    let crash = "echo control >&2; echo thread panicked >&2; kill -SEGV $$";
    let hang = "echo lock >&2; echo open >&2; exec sleep 1000";
    for (text, deadline, reason, step) in [
        (hang, SHORT, Reason::TimedOut, Step::Open),
        (crash, LONG, Reason::QueryFailed, Step::Control),
        (
            killed.as_str(),
            LONG,
            Reason::QueryFailed,
            Step::QueryDmabuf,
        ),
        (
            terminated.as_str(),
            LONG,
            Reason::QueryFailed,
            Step::QueryDmabuf,
        ),
        ("echo nonsense", LONG, Reason::QueryFailed, Step::Spawn),
        ("exec sleep 1000", SHORT, Reason::TimedOut, Step::Spawn),
    ] {
        let answer = ask_script(text, deadline);
        assert_eq!(answer, Answer::none(reason, step), "{text}");
    }
    let missing = ask(
        Path::new("/nonexistent"),
        "0000:00:02.0".parse().unwrap(),
        LONG,
        Manner::default(),
    );
    assert_eq!(
        (missing.step, missing.errno.as_deref()),
        (Some(Step::Spawn), Some("ENOENT"))
    );
}

#[test]
fn a_child_is_told_all() {
    for kvm in [false, true] {
        for path in [None, Some(OpenPath::Group), Some(OpenPath::Cdev)] {
            let manner = Manner { kvm, path };
            let arguments: Vec<String> = manner.to_arguments().collect();
            let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
            assert_eq!(Manner::from_arguments(&arguments), Some(manner));
        }
    }
    assert_eq!(Manner::default().to_arguments().count(), 0);
    for bad in ["--path=", "--path=iommufd", "--path", "-k", ""] {
        assert_eq!(Manner::from_arguments(&["--kvm", bad]), None, "{bad}");
    }
}

#[test]
fn failures_of_a_vm_are_told_apart() {
    let remark = |step, errno, reason| {
        let answer = Answer::failed(&Failure::new(step, errno, reason));
        assert_eq!(
            answer.facts.kvm,
            answer.facts.display == Display::Unknown(Reason::NeedsVm)
        );
        answer.remark().map(str::to_owned)
    };
    let made = |text: Option<String>| text.unwrap().contains("can't be made");
    assert!(made(remark(Step::Kvm, Errno::ENOENT, Reason::NeedsVm)));
    assert!(made(remark(Step::KvmFile, Errno::EINVAL, Reason::NeedsVm)));
    for (step, other) in [(Step::Open, Step::Bind), (Step::Bind, Step::Open)] {
        let refused = remark(step, Errno::ESRCH, Reason::NeedsVm).unwrap();
        assert!(refused.contains("did not accept"), "{refused}");
        let exists = remark(step, Errno::EEXIST, Reason::OpenFailed).unwrap();
        assert!(exists.contains("already"), "{exists}");
        assert_eq!(remark(other, Errno::EIO, Reason::OpenFailed), None);
    }
    assert_eq!(
        remark(Step::Container, Errno::EEXIST, Reason::OpenFailed),
        None
    );
    let busy = remark(Step::Group, Errno::EBUSY, Reason::InUse).unwrap();
    assert!(busy.contains("gfxplane learn DOMAIN"), "{busy}");
    let starting = Answer::none(Reason::InUse, Step::Lock);
    assert_eq!(
        starting.remark(),
        Some("a domain that has it is being started")
    );
}

#[test]
fn who_may_be_opened() {
    let rules = Rules::built_in();
    let named = |name: &str| {
        let mut rules = rules.iter().map(|(_, rule)| rule);
        rules.find(|rule| rule.name == name)
    };
    let [known, all, never] =
        [ProbePolicy::Known, ProbePolicy::All, ProbePolicy::Never].map(Asked::Unasked);
    let by_name = Asked::ByName;
    // Each device is given by its bus, driver and API.
    for (rule, asked, device, expected) in [
        ("mdpy", known, "mdev any vfio-pci", true),
        ("mdpy", never, "mdev any vfio-pci", false),
        ("mdpy", by_name, "mdev any vfio-pci", true),
        ("nvidia-mdev", all, "mdev any vfio-pci", false),
        ("nvidia-mdev", by_name, "mdev any vfio-pci", true),
        ("nvidia-vf", by_name, "pci nvidia vfio-pci", true),
        ("none", known, "mdev any vfio-pci", false),
        ("none", all, "mdev any vfio-pci", true),
        ("none", by_name, "mdev any vfio-pci", true),
        ("none", by_name, "mdev vfio_ap_mdev vfio-ap", false),
        // These results are the same with any rule and without one.
        ("none", by_name, "pci vfio-pci vfio-pci", false),
        ("mdpy", by_name, "pci mlx5_vfio_pci vfio-pci", false),
        ("mdpy", all, "pci nvidia vfio-pci", false),
    ] {
        let words: Vec<&str> = device.split(' ').collect();
        let mdev = "11111111-2222-3333-4444-555555555555";
        let id = if words[0] == "pci" {
            "0000:00:02.0"
        } else {
            mdev
        };
        let found = Device {
            driver: Some(words[1].into()),
            device_api: Some(words[2].into()),
            ..Device::named(id.parse().unwrap(), "/sys/devices/x")
        };
        assert_eq!(named(rule).is_some(), rule != "none");
        let allowed = may_open(&found, named(rule), asked);
        assert_eq!(allowed.is_ok(), expected, "{device} {rule}: {allowed:?}");
    }
}
