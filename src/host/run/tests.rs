use super::*;
use crate::device::evidence::Step;
use crate::device::facts::{Display, Reason};
use crate::device::record::MAX_SIZE;
use crate::device::record::tests::{record, said_by_qemu};
use crate::host::empty as host;
use nix::libc;
use std::fs::DirBuilder;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Instant;

const UUID: &str = "11111111-2222-3333-4444-555555555555";

#[test]
fn what_qemu_said_is_kept_apart_from_records_and_forgotten_with_them() {
    let (_keep, root) = host();
    let region = |learned| said_by_qemu(Display::from_answers(false, true), learned);
    let none = |learned| said_by_qemu(Display::NONE, learned);
    let id = none(true).device;
    for (new, expected, kept) in [
        (none(true), Written::Changed, none(true)),
        (none(true), Written::Same, none(true)),
        (region(true), Written::Changed, region(true)),
        (region(false), Written::Same, region(false)),
        (none(true), Written::Kept, region(false)),
        (none(false), Written::Changed, none(false)),
    ] {
        assert_eq!(write_record(&root, &new, Some("parent")).unwrap(), expected);
        assert_eq!(read_qemu(&root, id, &mut Vec::new()), Some(kept));
    }
    assert_eq!(read_record(&root, id, &mut Vec::new()), None);
    let base = fs::read_dir(root.join(BASE)).unwrap();
    let mut there: Vec<_> = base.map(|entry| entry.unwrap().file_name()).collect();
    there.sort();
    assert_eq!(there, ["lock", "qemu"], "no type, no tree, no record");
    forget(&root, id).unwrap();
    assert_eq!(read_qemu(&root, id, &mut Vec::new()), None);
}

#[test]
fn a_record_is_kept_published_and_forgotten() {
    let (_keep, root) = host();
    let id = UUID.parse().unwrap();
    let dmabuf = record(Display::from_answers(true, false));
    let none = record(Display::NONE);
    let in_use = Record {
        step: Some(Step::Group),
        ..record(Display::Unknown(Reason::InUse))
    };
    for (new, expected, kept) in [
        (&dmabuf, Written::Changed, &dmabuf),
        (&dmabuf, Written::Same, &dmabuf),
        (&in_use, Written::Kept, &dmabuf),
        (&none, Written::Changed, &none),
    ] {
        assert_eq!(write_record(&root, new, Some("mbochs")).unwrap(), expected);
        let read = read_record(&root, id, &mut Vec::new());
        assert_eq!(read.as_ref(), Some(kept));
    }
    let base = root.join(BASE);
    for device in [
        "devices/11111111-2222-3333-4444-555555555555",
        "mdev_supported_types/mbochs/mbochs-small",
    ] {
        let plane = base.join(device).join("vfio-pci/device/gfx_plane");
        assert_eq!(fs::read_to_string(plane.join("dmabuf")).unwrap(), "0\n");
    }
    forget(&root, id).unwrap();
    forget(&root, id).unwrap();
    assert_eq!(read_record(&root, id, &mut Vec::new()), None);
    assert!(!base.join("devices").join(UUID).exists());
    assert_eq!(
        read_type(&root, "mbochs-small", &mut Vec::new()),
        Some(none)
    );
    for left in fs::read_dir(&base).unwrap() {
        let name = left.unwrap().file_name();
        assert!(!name.to_string_lossy().starts_with('.'), "{name:?}");
    }
}

#[test]
fn a_device_that_is_not_asked_is_published_and_forgotten() {
    let (_keep, root) = host();
    let id = "0000:01:00.0".parse().unwrap();
    let facts = Facts::of(Display::NONE);
    publish_unasked(&root, id, &facts, Method::Rule).unwrap();
    let tree = root.join(BASE).join("devices/0000:01:00.0");
    let read = |name: &str| fs::read_to_string(tree.join(name)).unwrap();
    assert_eq!(read("evidence"), "rule\n");
    assert_eq!(read("vfio-pci/device/gfx_plane/region"), "0\n");
    assert_eq!(read_record(&root, id, &mut Vec::new()), None);
    forget(&root, id).unwrap();
    assert!(!tree.exists());
}

#[test]
fn unsafe_files_are_ignored_and_named() {
    let (_keep, recorded) = host();
    let strict = Root::strict(recorded.path());
    let id: DeviceId = UUID.parse().unwrap();
    write_record(&recorded, &record(Display::NONE), None).unwrap();
    let path = record_path(&recorded, id);
    let check = |root: &Root, expected: &str| {
        let mut warnings = Vec::new();
        assert_eq!(read_record(root, id, &mut warnings), None, "{expected}");
        assert_eq!(warnings.len(), 1, "{expected}");
        let text = warnings[0].to_string();
        assert!(text.contains(expected) && text.contains(UUID), "{text}");
    };
    // These tests run as root in CI, and as another user on a developer's machine.
    let root_runs = nix::unistd::geteuid().is_root();
    if root_runs {
        assert!(read_record(&strict, id, &mut Vec::new()).is_some());
        fs::set_permissions(&path, Permissions::from_mode(0o664)).unwrap();
        check(&strict, "written by others");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        std::os::unix::fs::chown(&path, Some(65534), None).unwrap();
    }
    check(&strict, "not root's");
    fs::write(&path, "{").unwrap();
    check(&recorded, "damaged");
    fs::write(&path, vec![b' '; MAX_SIZE + 1]).unwrap();
    check(&recorded, "larger than 64 KiB");
    fs::write(&path, [0xff, 0xfe]).unwrap();
    check(&recorded, "UTF-8");
    let other = record(Display::NONE)
        .to_text()
        .replace("11111111", "21111111");
    fs::write(&path, other).unwrap();
    check(&recorded, "about 21111111");
    fs::rename(&path, path.with_extension("else")).unwrap();
    std::os::unix::fs::symlink(path.with_extension("else"), &path).unwrap();
    check(&recorded, "is a link");
    fs::remove_file(&path).unwrap();
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    check(&recorded, "no regular file");
}

#[test]
fn a_foreign_run_directory_is_not_written_to() {
    let (_keep, recorded) = host();
    let strict = Root::strict(recorded.path());
    fs::create_dir(recorded.join(BASE)).unwrap();
    fs::set_permissions(recorded.join(BASE), Permissions::from_mode(0o777)).unwrap();
    let error = write_record(&strict, &record(Display::NONE), None).unwrap_err();
    assert!(error.to_string().contains("remove it"), "{error}");
}

/// Writes a file of each kind on a host whose `/run/gfxplane` `prepare` may have made.
fn write_all(prepare: impl FnOnce(&Path)) -> (tempfile::TempDir, io::Result<()>) {
    let (keep, recorded) = host();
    let strict = Root::strict(recorded.path());
    prepare(&recorded.join(BASE));
    let id = UUID.parse().unwrap();
    let written = write_record(&strict, &record(Display::NONE), Some("mbochs"))
        .and_then(|_| Lock::of_device(&strict, id))
        .and_then(|_lock| requests::mark_start(&strict, id))
        .and_then(|()| forget(&strict, id));
    (keep, written)
}

/// Nothing is made, changed or removed through a link, wherever the link is.
#[test]
fn no_link_is_followed() {
    if !nix::unistd::geteuid().is_root() {
        // The existing file is then not root's, and is refused for that.
        return;
    }
    write_all(|_| ()).1.unwrap();
    let outside = tempfile::tempdir().unwrap();
    let precious = outside.path().join(format!("{UUID}.json"));
    let links = "/records/types/devices/lock/starting/mdev_supported_types";
    for at in links.split('/').chain(["mdev_supported_types/mbochs"]) {
        fs::write(&precious, "precious").unwrap();
        let (_keep, written) = write_all(|base| {
            let link = base.join(at);
            let link = Path::new(link.to_str().unwrap().trim_end_matches('/')).to_owned();
            let mut make = DirBuilder::new();
            let make = make.recursive(true).mode(0o755);
            make.create(link.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(outside.path(), link).unwrap();
        });
        let error = written.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{at}: {error}");
        assert!(
            error.to_string().contains("is no directory"),
            "{at}: {error}"
        );
        let left: Vec<_> = fs::read_dir(outside.path()).unwrap().flatten().collect();
        assert_eq!(left.len(), 1, "{at}: {left:?}");
        assert_eq!(fs::read_to_string(&precious).unwrap(), "precious", "{at}");
    }
}

/// The directory existed before, made by a user with another umask.
#[test]
fn locks_are_nobody_elses_to_take() {
    let (keep, written) = write_all(|base| {
        fs::create_dir_all(base.join("lock")).unwrap();
        for path in [base.to_owned(), base.join("lock")] {
            fs::set_permissions(path, Permissions::from_mode(0o755)).unwrap();
        }
    });
    let lock = keep.path().join(BASE).join("lock");
    if nix::unistd::geteuid().is_root() {
        written.unwrap();
        assert_eq!(fs::metadata(&lock).unwrap().mode() & 0o777, 0o700);
    } else {
        assert_eq!(written.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
    // The file is made for its owner alone, and a link in its place is not followed.
    let (_keep, root) = host();
    let id = UUID.parse().unwrap();
    drop(Lock::of_device(&root, id).unwrap());
    let path = lock_path(&root, id);
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    fs::rename(&path, path.with_extension("else")).unwrap();
    std::os::unix::fs::symlink(path.with_extension("else"), &path).unwrap();
    let error = Lock::of_device(&root, id).unwrap_err();
    assert_eq!(error.raw_os_error(), Some(libc::ELOOP));
}

/// Somebody swaps the file for a link while it is written and read. The link's target is neither
/// changed nor read as a record.
#[test]
fn links_that_come_and_go() {
    let (keep, root) = host();
    let id = UUID.parse().unwrap();
    let ours = record(Display::NONE);
    let foreign = record(Display::from_answers(true, false));
    write_record(&root, &ours, None).unwrap();
    let (path, outside) = (record_path(&root, id), keep.path().join("outside"));
    fs::write(&outside, foreign.to_text()).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            let link = keep.path().join("link");
            while !done.load(Ordering::Relaxed) {
                let _ = std::os::unix::fs::symlink(&outside, &link);
                let _ = fs::rename(&link, &path);
            }
        });
        let _end = End(&done);
        for _ in 0..200 {
            // The record is either written anew or the same as before.
            write_record(&root, &ours, None).unwrap();
            let seen = read_record(&root, id, &mut Vec::new());
            assert!(seen.is_none() || seen.as_ref() == Some(&ours));
        }
    });
    assert_eq!(fs::read_to_string(&outside).unwrap(), foreign.to_text());
}

/// Ends the readers, even if a test fails first.
struct End<'d>(&'d AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn readers_never_see_half_a_record() {
    let (_keep, root) = host();
    let id = UUID.parse().unwrap();
    let a = record(Display::from_answers(true, false));
    let b = record(Display::from_answers(false, true));
    write_record(&root, &a, Some("p")).unwrap();
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        let write = |record| {
            for _ in 0..100 {
                write_record(&root, record, Some("p")).unwrap();
            }
        };
        let read = || {
            let mut reads = 0;
            while !done.load(Ordering::Relaxed) {
                let mut warnings = Vec::new();
                let seen = read_record(&root, id, &mut warnings).expect("always there");
                assert!(seen == a || seen == b);
                assert!(warnings.is_empty());
                let plane = format!("{BASE}/devices/{UUID}/vfio-pci/device");
                assert!(tree::read_gfx_plane(&root.join(plane), &mut warnings).is_some());
                reads += 1;
            }
            reads
        };
        let writers = [&a, &b].map(|record| scope.spawn(move || write(record)));
        let readers = [0; 2].map(|_| scope.spawn(read));
        let end = End(&done);
        for writer in writers {
            writer.join().unwrap();
        }
        drop(end);
        let reads = readers.map(|reader| reader.join().unwrap());
        assert!(reads.iter().sum::<u32>() > 0);
    });
}

#[test]
fn the_lock_holds_until_it_is_dropped() {
    let (_keep, root) = host();
    let id = UUID.parse().unwrap();
    let soon = || Instant::now() + Duration::from_millis(30);
    assert!(
        wait_until_free(&root, id, soon()).unwrap(),
        "no lock, nobody holds it"
    );
    let lock = Lock::of_device(&root, id).unwrap();
    assert!(!wait_until_free(&root, id, soon()).unwrap());
    drop(lock);
    assert!(wait_until_free(&root, id, soon()).unwrap());
}
