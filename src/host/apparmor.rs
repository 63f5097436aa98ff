//! Reads AppArmor's files: which programs a profile may execute, and whether a guest's profile
//! denies the sockets of X servers, or the D-Bus daemon that libvirt starts for a guest.

use std::path::Path;

use globset::GlobBuilder;

use super::{Root, exists, read_names, read_text};

/// The libvirt daemons that run QEMU.
pub(crate) const DAEMONS: [&str; 2] = ["libvirtd", "virtqemud"];

/// AppArmor's own directory.
const PROFILES: &str = "etc/apparmor.d";

/// The file that all profiles of QEMU guests include.
const GUESTS: &str = "abstractions/libvirt-qemu";

/// The program that libvirt starts for a `<graphics type='dbus'>` on a bus.
const DBUS_DAEMON: &str = "/usr/bin/dbus-daemon";

/// Returns whether the kernel has AppArmor enabled.
pub(crate) fn is_enabled(root: &Root) -> bool {
    let enabled = root.join("sys/module/apparmor/parameters/enabled");
    read_text(&enabled, &mut Vec::new()).as_deref() == Some("Y")
}

/// Returns whether libvirt gives each guest an AppArmor profile; `None` (unknown) under SELinux.
/// `drivers` is the setting `security_driver` of qemu.conf.
///
/// libvirt does so if AppArmor is enabled and has a profile for libvirt's daemon (libvirt
/// src/security/security_apparmor.c, `use_apparmor`), unless `drivers` names only others. It does
/// not matter whether the daemon's own profile is enforced.
pub(super) fn confines_guests(root: &Root, drivers: Option<&str>) -> Option<bool> {
    if !is_enabled(root) {
        // It is not known what SELinux does.
        let has_selinux = exists(&root.join("sys/fs/selinux/enforce"));
        return (!has_selinux).then_some(false);
    }
    if drivers.is_some_and(|drivers| !drivers.contains("apparmor")) {
        return Some(false);
    }
    let directory = root.join(PROFILES);
    // aa-disable makes a link in `disable` for each profile that it switches off.
    let is_there = |path: &Path| path.symlink_metadata().is_ok();
    let has_profile = DAEMONS.iter().any(|daemon| {
        let name = format!("usr.sbin.{daemon}");
        directory.join(&name).exists() && !is_there(&directory.join("disable").join(&name))
    });
    Some(has_profile)
}

/// Returns whether AppArmor keeps libvirt from starting a dbus-daemon for a guest; `None` if the
/// guests' rules can't be read. libvirt runs the dbus-daemon under the guest's profile if guests
/// are `confined` (libvirt src/qemu/qemu_dbus.c, `qemuDBusStart`).
pub(super) fn denies_dbus_daemon(root: &Root, confined: bool) -> Option<bool> {
    if !confined {
        return Some(false);
    }
    let rules = guests_rules(root)?;
    Some(!may_execute(&rules, DBUS_DAEMON))
}

/// Returns whether AppArmor keeps a guest from the sockets of X servers; `None` if a file on which
/// this depends can't be read.
///
/// AppArmor does so if guests are `confined`, the kernel checks unix sockets, the features for
/// which policies are compiled include unix sockets (apparmor_parser(8), `policy-features`), and
/// the guests' profile has no rule that allows X's sockets.
pub(super) fn denies_x(root: &Root, confined: bool) -> Option<bool> {
    let kernels = "sys/kernel/security/apparmor/features/network_v9/af_unix";
    if !confined || !exists(&root.join(kernels)) {
        return Some(false);
    }
    let unheard = &mut Vec::new();
    let parser = read_text(&root.join("etc/apparmor/parser.conf"), unheard).unwrap_or_default();
    let mut settings = parser.lines().map(str::trim);
    if let Some(path) = settings.find_map(|line| line.strip_prefix("policy-features=/")) {
        let features = read_text(&root.join(path), unheard)?;
        if !features.contains("af_unix {yes") {
            return Some(false);
        }
    }
    let rules = guests_rules(root)?;
    let allows = rules.lines().any(|line| {
        let line = line.trim();
        let is_rule = !line.starts_with('#') || line.starts_with("#include");
        is_rule
            && (line.contains("<abstractions/X>") || line.contains(".X11-unix/") || line == "unix,")
    });
    Some(!allows)
}

/// Returns the rules of the profile that libvirt gives to a guest, without the rules for the
/// guest's own files; `None` if the rules can't be read.
fn guests_rules(root: &Root) -> Option<String> {
    let unheard = &mut Vec::new();
    let directory = root.join(PROFILES);
    let mut rules = read_text(&directory.join("libvirt/TEMPLATE.qemu"), unheard)?;
    let guests = read_text(&directory.join(GUESTS), unheard)?;
    let mut add = |text: Option<String>| {
        rules.push('\n');
        rules.push_str(&text.unwrap_or_default());
    };
    // Local rules may be in a directory and in Debian's older file. Not all versions include both.
    let more = format!("{GUESTS}.d");
    if guests.contains(&format!("<{more}>")) {
        for name in read_names(&directory.join(&more), unheard) {
            add(read_text(&directory.join(&more).join(name), unheard));
        }
    }
    let local = format!("local/{GUESTS}");
    if guests.contains(&format!("<{local}>")) {
        add(read_text(&directory.join(&local), unheard));
    }
    add(Some(guests));
    Some(rules)
}

/// Returns whether a profile's text has a rule to execute a program: `[owner] PATH PERMISSIONS,`
/// (apparmor.d(5)). Files that it includes don't count.
pub(crate) fn may_execute(profile: &str, program: &str) -> bool {
    profile.lines().any(|line| {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let path = words.find(|word| !["allow", "audit", "file", "owner"].contains(word));
        let permissions = words.next().unwrap_or_default();
        permissions.trim_end_matches(',').contains('x')
            && path.is_some_and(|path| is_of(path.trim_matches('"'), program))
    })
}

/// Returns whether a rule's path matches a program. Of the variables in
/// `/etc/apparmor.d/tunables/global`, only `@{bin}` is known here.
fn is_of(path: &str, program: &str) -> bool {
    let path = path.replace("@{bin}", "/{,usr/}{,s}bin");
    let glob = GlobBuilder::new(&path)
        .literal_separator(true)
        .empty_alternates(true)
        .build();
    glob.is_ok_and(|glob| glob.compile_matcher().is_match(program))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;

    const FEATURES: &str = "usr/share/apparmor-features/features";
    const KERNELS: &str = "sys/kernel/security/apparmor/features/network_v9/af_unix";
    const ABSTRACTION: &str = "etc/apparmor.d/abstractions/libvirt-qemu";
    const LOCAL: &str = "etc/apparmor.d/local/abstractions/libvirt-qemu";

    fn host() -> (tempfile::TempDir, Root) {
        let keep = tempfile::tempdir().unwrap();
        let root = Root::strict(keep.path());
        (keep, root)
    }

    fn put_template(root: &Root) {
        let template = "profile LIBVIRT_TEMPLATE {\n}\n";
        root.put("etc/apparmor.d/libvirt/TEMPLATE.qemu", template);
    }

    #[test]
    fn what_a_profile_lets_be_executed() {
        for (profile, allowed) in [
            ("  /etc/libvirt/hooks/** rmix,\n", true),
            ("  \"/etc/libvirt/hooks/**\" rmix, # hooks\n", true),
            ("  owner /etc/libvirt/{hooks,other}/qemu.d/* PUx,\n", true),
            (
                "  audit /etc/{,x/}libvirt/hooks/qemu.d/5?-gfxplane ix,",
                true,
            ),
            ("  /etc/libvirt/hooks/* rmix,\n", false),
            ("  /etc/libvirt/hooks/** r,\n", false),
            ("  deny /etc/libvirt/hooks/** x,\n", false),
            ("  # /etc/libvirt/hooks/** rmix,\n", false),
            ("  /etc/libvirt/hooks/\n", false),
            ("", false),
        ] {
            let found = may_execute(profile, "/etc/libvirt/hooks/qemu.d/50-gfxplane");
            assert_eq!(found, allowed, "{profile}");
        }
        for path in ["@{bin}/*", "/{,usr/}bin/*", "/usr/bin/**"] {
            assert!(is_of(path, DBUS_DAEMON), "{path}");
        }
        assert!(!is_of("/usr/bin/[", DBUS_DAEMON));
    }

    #[test]
    fn an_x_server_for_a_guest() {
        let (_keep, root) = host();
        let denied = || denies_x(&root, true);
        assert_eq!(denied(), Some(false), "the kernel does not look");
        root.put(KERNELS, "yes");
        assert_eq!(denies_x(&root, false), Some(false));
        assert_eq!(denied(), None, "the guests' profile is not readable");
        put_template(&root);
        let guests = "  # /tmp/.X11-unix/* rw,\n  unix (send, receive) type=stream addr=none peer=(label=libvirtd),\n  include if exists <local/abstractions/libvirt-qemu>\n";
        root.put(ABSTRACTION, guests);
        assert_eq!(denied(), Some(true));
        let parser = format!("# x\npolicy-features=/{FEATURES}\n");
        root.put("etc/apparmor/parser.conf", &parser);
        assert_eq!(denied(), None, "the features are not readable");
        root.put(FEATURES, "network_v8 {af_mask {unspec unix\n}\n}\n");
        assert_eq!(denied(), Some(false), "as in Debian 13");
        let newer = "network_v9 {af_mask {unspec unix\n}\naf_unix {yes\n}\n}\n";
        root.put(FEATURES, newer);
        assert_eq!(denied(), Some(true));
        root.put(LOCAL, "  #include <abstractions/X>\n");
        assert_eq!(denied(), Some(false));
    }

    #[test]
    fn a_dbus_daemon_for_a_guest() {
        let (_keep, root) = host();
        let of = |drivers| denies_dbus_daemon(&root, confines_guests(&root, drivers)?);
        let denied = || of(None);
        assert_eq!(denied(), Some(false), "nothing confines anybody");
        root.put("sys/fs/selinux/enforce", "1");
        assert_eq!(denied(), None);
        root.put("sys/module/apparmor/parameters/enabled", "Y\n");
        assert_eq!(denied(), Some(false), "libvirt has no profile");
        root.put("etc/apparmor.d/usr.sbin.libvirtd", "");
        assert_eq!(denied(), None, "the guests' are not readable");
        put_template(&root);
        let guests = "  /var/lib/dbus/machine-id r,\n  /{usr/,}bin/dash rmix,\n";
        let included = "  include if exists <abstractions/libvirt-qemu.d>\n  include if exists <local/abstractions/libvirt-qemu>\n";
        root.put(ABSTRACTION, &format!("{guests}{included}"));
        assert_eq!(denied(), Some(true));
        for (drivers, expected) in [
            ("\"none\"", Some(false)),
            ("[ \"selinux\" ]", Some(false)),
            ("\"apparmor\"", Some(true)),
        ] {
            assert_eq!(of(Some(drivers)), expected, "{drivers}");
        }
        let rule = "  /usr/bin/dbus-daemon mrix,\n";
        for path in [&*format!("{ABSTRACTION}.d/dbus"), LOCAL] {
            root.put(path, rule);
            assert_eq!(denied(), Some(false), "{path}");
            // In libvirt 9, and in later versions without Debian's patch, nothing is included.
            root.put(ABSTRACTION, guests);
            assert_eq!(denied(), Some(true), "{path} is not included");
            root.put(ABSTRACTION, &format!("{guests}{included}"));
            fs::remove_file(root.join(path)).unwrap();
        }
        root.put(ABSTRACTION, &format!("{guests}{rule}"));
        assert_eq!(denied(), Some(false));
        root.put(ABSTRACTION, guests);
        fs::create_dir(root.join("etc/apparmor.d/disable")).unwrap();
        let disabled = root.join("etc/apparmor.d/disable/usr.sbin.libvirtd");
        symlink("../usr.sbin.libvirtd", disabled).unwrap();
        assert_eq!(denied(), Some(false), "switched off");
    }
}
