use super::*;
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;

const UUID: Uuid = Uuid::from_u128(0xc1a2_0000_0000_4000_8000_0000_0000_0002);

struct Host {
    directory: tempfile::TempDir,
    state: State,
}

fn host() -> Host {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir_all(directory.path().join("var/lib")).unwrap();
    let state = State::new(&Root::strict(directory.path()));
    Host { directory, state }
}

impl Host {
    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(BASE).join(name)
    }

    /// Returns the value of a read, and its warnings.
    fn warnings<T>(&self, read: impl FnOnce(&State, &mut Vec<Warning>) -> T) -> (T, String) {
        let mut warnings = Vec::new();
        let value = read(&self.state, &mut warnings);
        let base = self.directory.path().display().to_string();
        let said = warnings.iter().map(|w| w.to_string().replace(&base, ""));
        (value, said.collect::<Vec<_>>().join("\n"))
    }

    fn stack(&self) -> (Vec<Round>, String) {
        self.warnings(|state, warnings| state.undo_stack(UUID, warnings))
    }

    fn log(&self) -> (Vec<Entry>, String) {
        self.warnings(State::entries)
    }
}

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
    Entry::new(7, What::LeftAlone, By::Daemon, "guest", Some(UUID)).because(reason)
}

#[test]
fn what_is_not_there_is_nothing() {
    let host = host();
    assert_eq!(host.stack(), (vec![], String::new()));
    assert_eq!(host.log(), (vec![], String::new()));
    assert_eq!(host.warnings(State::older), (None, String::new()));
    let hands_off = host.warnings(|state, warnings| state.hands_off(UUID, warnings));
    assert_eq!(hands_off, (false, String::new()));
    host.state.forget(UUID).unwrap();
    host.state.clear_undo(UUID).unwrap();
    host.state.set_hands_off(UUID, "guest", false).unwrap();
    host.state.push_undo(UUID, "guest", vec![]).unwrap();
    assert!(!host.path("").exists(), "nothing was made for nothing");
}

#[test]
fn domains_are_remembered_and_forgotten() {
    let host = host();
    let state = &host.state;
    state.push_undo(UUID, "guest", change("1")).unwrap();
    state.push_undo(UUID, "guest", change("2")).unwrap();
    state.set_hands_off(UUID, "guest", true).unwrap();
    let changes: Vec<_> = host
        .stack()
        .0
        .into_iter()
        .map(|round| round.changes)
        .collect();
    assert_eq!(changes, [change("1"), change("2")]);
    let mode = |name: &str| fs::metadata(host.path(name)).unwrap().permissions().mode() & 0o777;
    let file = format!("domains/{UUID}.json");
    assert_eq!(
        (mode(""), mode("domains"), mode(&file)),
        (0o700, 0o700, 0o600)
    );
    let (hands_off, _) = host.warnings(|state, warnings| state.hands_off(UUID, warnings));
    assert!(hands_off);
    state.clear_undo(UUID).unwrap();
    assert_eq!(host.stack().0, []);
    assert!(host.path(&file).exists());
    state.set_hands_off(UUID, "guest", false).unwrap();
    assert!(!host.path(&file).exists(), "there is nothing to remember");
    state.push_undo(UUID, "guest", change("3")).unwrap();
    state.forget(UUID).unwrap();
    assert_eq!(host.stack().0, []);
}

#[test]
fn hands_stay_off_what_was_undefined() {
    let host = host();
    let state = &host.state;
    state.push_undo(UUID, "guest", change("1")).unwrap();
    state.undefined(UUID).unwrap();
    assert!(state.domains().is_empty());
    state.push_undo(UUID, "guest", change("1")).unwrap();
    state.set_hands_off(UUID, "guest", true).unwrap();
    state.undefined(UUID).unwrap();
    state.undefined(UUID).unwrap();
    assert!(state.hands_off(UUID, &mut Vec::new()) && host.stack().0.is_empty());
}

#[test]
fn the_oldest_changes_go() {
    let host = host();
    for number in 0..MAX_ROUNDS + 3 {
        let change = change(&number.to_string());
        host.state.push_undo(UUID, "guest", change).unwrap();
    }
    let stack = host.stack().0;
    assert_eq!((stack.len(), &stack[0].changes), (MAX_ROUNDS, &change("3")));
    let large = change(&"x".repeat(MAX_DOMAIN / 3));
    for _ in 0..4 {
        host.state.push_undo(UUID, "guest", large.clone()).unwrap();
    }
    let stack = host.stack().0;
    assert_eq!((stack.len(), &stack[0].changes), (2, &large));
}

#[test]
fn what_cant_be_believed_is_named_and_not_lost() {
    let host = host();
    host.state.push_undo(UUID, "guest", change("1")).unwrap();
    let name = format!("domains/{UUID}.json");
    let path = host.path(&name);
    let good = fs::read_to_string(&path).unwrap();
    let other = good.replace("0002", "0003");
    for (text, problem) in [
        ("{", "it is damaged: EOF"),
        (
            "{\"format\": 2}",
            "its format is 2, but this version reads 1",
        ),
        ("{\"format\": 1}", "it is damaged: missing field"),
        (&other, "it is about c1a20000-0000-4000-8000-000000000003"),
        ("\u{0}", "it is damaged"),
    ] {
        fs::write(&path, text).unwrap();
        let (stack, said) = host.stack();
        let expected = format!("/{BASE}/{name}: ignored: {problem}");
        assert!(
            stack.is_empty() && said.starts_with(&expected),
            "{text}: {said}"
        );
        let (hands_off, said) = host.warnings(|state, all| state.hands_off(UUID, all));
        assert!(hands_off && said.contains("left alone"), "{text}: {said}");
        host.state.undefined(UUID).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
    fs::set_permissions(&path, Permissions::from_mode(0o622)).unwrap();
    assert!(host.stack().1.contains("can be written by others"));
    fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &path).unwrap();
    assert!(host.stack().1.contains("it is a link"));
    host.state.push_undo(UUID, "guest", change("2")).unwrap();
    assert_eq!(host.stack().0[0].changes, change("2"));
    assert!(fs::symlink_metadata(path.with_extension("json.damaged")).is_ok());
}

#[test]
fn the_log_has_whole_lines() {
    let host = host();
    host.state.append(&entry("one")).unwrap();
    let path = host.path("log.jsonl");
    let whole = fs::read(&path).unwrap();
    assert_eq!(
        String::from_utf8_lossy(&whole),
        format!(
            "{{\"format\":1,\"time\":7,\"domain\":\"guest\",\"uuid\":\"{UUID}\",\"what\":\"left-alone\",\"by\":\"daemon\",\"reason\":\"one\"}}\n"
        )
    );
    let mode = fs::metadata(&path).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // The writer was killed within a character.
    fs::write(
        &path,
        [&whole[..], b"{\"format\":1,\"domain\":\"\xc3"].concat(),
    )
    .unwrap();
    let (entries, said) = host.log();
    assert_eq!(entries, [entry("one")]);
    assert_eq!(
        said,
        format!("/{BASE}/log.jsonl: line 2 ignored: it is torn")
    );
    host.state.append(&entry("two")).unwrap();
    let (entries, said) = host.log();
    assert_eq!(entries, [entry("one"), entry("two")]);
    assert!(said.contains("line 2 ignored: it is damaged"), "{said}");
}

#[test]
fn the_log_is_put_aside_once() {
    let host = host();
    let long = "x".repeat(100_000);
    for number in 0..25 {
        // The entry is longer than any that gfxplane makes now.
        let mut entry = entry("");
        entry.reason = Some(format!("{number} {long}"));
        host.state.append(&entry).unwrap();
    }
    let (entries, said) = host.log();
    let reasons: Vec<_> = entries
        .iter()
        .filter_map(|e| e.reason.as_deref()?.split_once(' '))
        .collect();
    assert_eq!(
        (reasons[0].0, reasons[reasons.len() - 1].0, said.as_str()),
        ("10", "24", "")
    );
    assert_eq!(reasons.len(), 15);
    assert!(fs::metadata(host.path("log.jsonl")).unwrap().len() <= MAX_LOG);
    assert!(!host.path("log.jsonl.2").exists());
}

/// Repeats a write until it succeeds, however long a slow disk makes a writer wait for others.
fn in_turn<T>(mut write: impl FnMut() -> Result<T, NotRemembered>) -> T {
    loop {
        match write() {
            Err(NotRemembered::Io { error, .. }) if error.kind() == io::ErrorKind::TimedOut => {}
            done => return done.unwrap(),
        }
    }
}

#[test]
fn many_writers_take_turns() {
    let host = host();
    let state = &host.state;
    std::thread::scope(|scope| {
        for writer in 0..4 {
            scope.spawn(move || {
                for number in 0..8 {
                    in_turn(|| state.append(&entry(&format!("{writer} {number}"))));
                    in_turn(|| state.push_undo(UUID, "guest", change("1")));
                }
            });
        }
    });
    assert_eq!(host.log().0.len(), 32);
    assert_eq!(host.stack().0.len(), 32);
}

#[test]
fn where_nothing_can_be_written_nothing_changes() {
    let host = host();
    let base = host.path("");
    fs::write(base.as_os_str().to_str().unwrap().trim_end_matches('/'), "").unwrap();
    let error = host.state.append(&entry("one")).unwrap_err().to_string();
    assert!(
        error.contains("/var/lib/gfxplane is no directory: remove it"),
        "{error}"
    );
    let error = host
        .state
        .push_undo(UUID, "guest", change("1"))
        .unwrap_err()
        .to_string();
    assert!(error.contains("is no directory"), "{error}");
    let elsewhere = State::new(&Root::strict(host.directory.path().join("none")));
    assert!(elsewhere.append(&entry("one")).is_err());
}

#[test]
fn older_domains() {
    let host = host();
    let none = BTreeSet::new();
    host.state.set_older(&none).unwrap();
    assert_eq!(host.warnings(State::older), (Some(none), String::new()));
    let some = BTreeSet::from([UUID]);
    host.state.set_older(&some).unwrap();
    assert_eq!(host.warnings(State::older).0, Some(some));
    fs::write(host.path("older.json"), "[]").unwrap();
    let (older, said) = host.warnings(State::older);
    assert!(
        older.is_none() && said.contains("older.json: ignored: it is damaged"),
        "{said}"
    );
}

#[test]
fn a_change_is_remembered_and_told() {
    let host = host();
    let action = crate::plan::Action::Display {
        device: crate::device::id::DeviceId::Mdev(UUID),
        on: true,
    };
    let changes = [Change {
        action,
        reason: "it offers a region".into(),
        consent: None,
    }];
    let made = Made {
        uuid: UUID,
        name: "guest",
        before: "<domain><x y='1'/></domain>",
        after: "<domain><x y='2'/></domain>",
        changes: &changes,
    };
    host.state.made(By::Daemon, &made).unwrap();
    let stack = host.stack().0;
    let undone = crate::plan::undo::undo(made.after, &stack[0].changes).unwrap();
    assert_eq!(undone.text, made.before);
    let log = host.log().0;
    assert_eq!((log.len(), log[0].what), (1, What::Fixed));
    let said = &log[0].changes[0];
    assert_eq!(said.change, format!("display='on' for {UUID}"));
    assert_eq!(said.device, Some(UUID.to_string()));
}
