//! Tests `gfxplane fixup` and `check` as their callers see them: arguments, streams, exit codes.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

const VERSIONS: [&str; 4] = ["--qemu", "10.0.13", "--libvirt-version", "11.3.0"];

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests")
        .join(name)
}

fn domain(case: &str) -> PathBuf {
    folder("fixup").join(case).join("domain.xml")
}

/// Runs gfxplane about the recorded host of the lab.
fn run(arguments: &[&str], stdin: &[u8]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gfxplane"));
    command
        .args(arguments)
        .arg("--host")
        .arg(folder("hosts/lab/root"));
    with_stdin(command, stdin)
}

fn with_stdin(mut command: Command, stdin: &[u8]) -> Output {
    let mut child = command
        .env_remove("GFXPLANE_ROOT")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // A program that does not read its stdin shows that in its exit code.
    let _ = child.stdin.take().unwrap().write_all(stdin);
    child.wait_with_output().unwrap()
}

fn on(verb: &str, more: &[&str], subject: &str, stdin: &[u8]) -> (i32, String, String) {
    let arguments: Vec<&str> = [verb]
        .into_iter()
        .chain(VERSIONS)
        .chain(more.iter().copied())
        .chain([subject])
        .collect();
    let output = run(&arguments, stdin);
    (
        output.status.code().unwrap(),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

fn file(verb: &str, more: &[&str], case: &str) -> (i32, String, String) {
    on(verb, more, domain(case).to_str().unwrap(), b"")
}

fn read(path: PathBuf) -> String {
    std::fs::read_to_string(path).unwrap()
}

#[test]
fn stdin_goes_to_stdout_fixed_and_the_reasons_to_stderr() {
    let text = read(domain("dmabuf-spice-loopback"));
    let (code, out, err) = on("fixup", &[], "-", text.as_bytes());
    let expected = read(folder("fixup/dmabuf-spice-loopback/out.xml"));
    assert_eq!((code, out), (0, expected));
    assert!(err.contains("gl enabled for spice: "), "{err}");
    assert!(err.contains("spice listens nowhere: "), "{err}");
}

#[test]
fn what_has_no_vfio_devices_comes_out_as_it_went_in() {
    let text = read(domain("no-vfio")).replace('\n', "\r\n");
    let (code, out, err) = on("fixup", &[], "-", text.as_bytes());
    assert_eq!((code, out, err.as_str()), (0, text, ""));
}

#[test]
fn without_consent_nothing_is_lost_and_the_exit_code_says_so() {
    let text = read(domain("dmabuf-vnc"));
    let (code, out, err) = on("fixup", &["--print-xml"], "-", text.as_bytes());
    assert_eq!((code, out), (1, text.clone()));
    assert!(
        err.contains("not fixed") && err.contains("--consent remote"),
        "{err}"
    );
    // A caller who reads stdout would define it.
    let (code, out, err) = on("fixup", &[], "-", text.as_bytes());
    assert_eq!((code, out.as_str()), (1, ""));
    assert!(err.contains("--print-xml prints it"), "{err}");
    let (code, out, _) = on("fixup", &["--consent", "remote"], "-", text.as_bytes());
    let expected = read(folder("fixup/dmabuf-vnc-agreed/out.xml"));
    assert_eq!((code, out), (0, expected));
}

#[test]
fn a_difference_as_virt_xml_prints_it() {
    let (code, out, _) = file("fixup", &["--print-diff"], "dmabuf-spice-loopback");
    assert_eq!(code, 0);
    assert!(
        out.starts_with("--- Original XML\n+++ Altered XML\n@@ "),
        "{out}"
    );
    assert!(out.contains("\n+      <gl enable='yes'/>\n"), "{out}");
    let same = file("fixup", &["--diff"], "dmabuf-spice-loopback");
    assert_eq!(same.1, out);
    let (code, out, _) = file("fixup", &["--print-diff"], "dmabuf-spice-gl");
    assert_eq!((code, out.as_str()), (0, ""));
}

#[test]
fn json_has_the_plan_and_the_xml() {
    let (code, out, _) = file("fixup", &["--json"], "dmabuf-spice-loopback");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(code, 0);
    assert_eq!(json["format"], 1);
    assert_eq!(json["changed"], true);
    assert_eq!(json["before"]["starts"], "no");
    assert_eq!(json["after"]["starts"], "yes");
    assert_eq!(json["changes"][0]["action"], "gl");
    let expected = read(folder("fixup/dmabuf-spice-loopback/out.xml"));
    assert_eq!(json["xml"], expected);
    let (_, diff, _) = file("fixup", &["--print-diff"], "dmabuf-spice-loopback");
    assert_eq!(json["diff"], diff);
    let (code, out, _) = file("check", &["--json"], "dmabuf-vnc");
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &json["starts"]), (1, &"no".into()));
    assert_eq!(json["message"], "vfio-display-dmabuf: opengl not available");
}

#[test]
fn check_reports_line_by_line() {
    let (code, out, _) = file("check", &[], "dmabuf-vnc");
    assert_eq!(code, 1);
    let failed: Vec<&str> = out
        .lines()
        .filter(|line| line.starts_with("FAIL"))
        .collect();
    assert_eq!(failed.len(), 1, "{out}");
    let head = "FAIL  guest  would be refused by QEMU: ";
    assert!(failed[0].starts_with(head), "{out}");
    assert!(out.contains("opengl not available"), "{out}");
    // The comment stands below its command if it does not fit beside it.
    let words: Vec<&str> = out.split_whitespace().collect();
    assert!(
        words
            .join(" ")
            .contains("/dmabuf-vnc/domain.xml --consent remote > NEW.xml # vnc removed"),
        "{out}"
    );
    let (code, out, _) = file("check", &[], "dmabuf-spice-gl");
    assert_eq!(code, 0);
    assert!(!out.contains("FAIL") && !out.contains("WARN"), "{out}");
    let (code, out, _) = file("check", &[], "in-use-on-vnc");
    assert_eq!(code, 0);
    assert!(
        out.contains("  not known: a program has it open (in-use)\n"),
        "{out}"
    );
}

#[test]
fn where_only_versions_are_not_known_the_first_fix_names_them() {
    let xml = domain("dmabuf-vnc-egl-headless");
    let xml = xml.to_str().unwrap();
    for (known, asked) in [
        (&[][..], "--qemu VERSION --libvirt-version VERSION"),
        (&["--libvirt-version", "11.3.0"], "--qemu VERSION"),
    ] {
        let output = run(&[&["check", xml], known].concat(), b"");
        let out = String::from_utf8(output.stdout).unwrap();
        let fix = out
            .lines()
            .find_map(|line| line.trim().strip_prefix("fix: "));
        let expected = format!("gfxplane check {xml} {asked}");
        assert_eq!(fix, Some(expected.as_str()), "{out}");
    }
}

#[test]
fn what_is_not_looked_at_is_not_passed() {
    let (code, out, _) = file("check", &[], "no-vfio");
    let expected = "SKIP  guest  no vfio device: nothing to check\n";
    assert_eq!((code, out.as_str()), (0, expected));
}

#[test]
fn a_user_may_have_colours_or_none() {
    for (options, variable, coloured) in [
        (&["--color", "always"][..], None, true),
        (&[], None, false),
        (&[], Some("CLICOLOR_FORCE"), true),
        (&["--color", "never"], Some("CLICOLOR_FORCE"), false),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_gfxplane"));
        command.args([
            "--host".as_ref(),
            folder("hosts/lab/root").as_path(),
            "list".as_ref(),
        ]);
        command.args(options);
        if let Some(variable) = variable {
            command.env(variable, "1");
        }
        let out = String::from_utf8(with_stdin(command, b"").stdout).unwrap();
        assert_eq!(
            out.contains("\u{1b}["),
            coloured,
            "{options:?} {variable:?}"
        );
    }
}

/// `script` runs a program in a terminal of its own.
#[test]
fn a_terminal_has_the_users_pager() {
    let (tool, root) = (env!("CARGO_BIN_EXE_gfxplane"), folder("hosts/lab/root"));
    let line = format!("{tool} --host {} list", root.display());
    for (pager, terminal, paged) in [
        ("sed s/^/paged:/", "xterm", true),
        ("sed s/^/paged:/", "dumb", false),
        ("cat", "xterm", false),
        ("", "xterm", false),
    ] {
        let output = Command::new("script")
            .args(["-qec", &line, "/dev/null"])
            .envs([("PAGER", pager), ("TERM", terminal)])
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let out = String::from_utf8(output.stdout).unwrap();
        assert!(
            output.status.success() && out.contains("mbochs-small"),
            "{out}"
        );
        assert_eq!(out.contains("paged:"), paged, "{pager:?} {terminal}: {out}");
    }
}

#[test]
fn bad_input_is_refused_with_its_place() {
    for (stdin, code, part) in [
        (&b"<domain>\n  <a>\n</domain>"[..], 1, "-: line 3, column 1"),
        (b"<network/>", 1, "<network> is not a domain"),
        (b"", 1, "line 1, column 1"),
        (b"<domain>\xff</domain>", 1, "not UTF-8"),
        (b"\xff\xfe<\0d\0", 1, "UTF-16"),
        (b"<!DOCTYPE d><domain/>", 1, "DOCTYPE"),
    ] {
        let (seen, out, err) = on("fixup", &[], "-", stdin);
        assert_eq!((seen, out.as_str()), (code, ""), "{stdin:?}: {err}");
        assert!(err.contains(part), "{stdin:?}: {err}");
    }
    let mut large = b"<domain>".to_vec();
    large.resize(16 * 1024 * 1024 + 1, b' ');
    let (code, _, err) = on("fixup", &[], "-", &large);
    assert_eq!(code, 1);
    assert!(err.contains("larger than 16 MiB"), "{err}");
}

#[test]
fn wrong_arguments_say_what_is_right() {
    for (arguments, code, part) in [
        (&["fixup", "--define", "-"][..], 2, "virsh define"),
        (
            &["fixup", "--consent", "most", "-"],
            2,
            "remote, video or all",
        ),
        (
            &["fixup", "--policy", "yes", "-"],
            2,
            "asked, auto, full or off",
        ),
        (&["fixup", "--qemu", "ten", "-"], 2, "is no version"),
        (&["fixup", "./there-is-none.xml"], 3, "there-is-none.xml"),
        (&["fixup", "--define", "guest"], 2, "recorded host"),
    ] {
        let output = run(arguments, b"<domain/>");
        let err = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {err}");
        assert!(err.contains(part), "{arguments:?}: {err}");
    }
    let mut command = Command::new(env!("CARGO_BIN_EXE_gfxplane"));
    command.args(["-c", "qemu+ssh://elsewhere/system", "fixup", "-"]);
    let output = with_stdin(command, b"<domain type='kvm'/>");
    let err = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(3), "{err}");
    assert!(err.contains("gfxplane collect"), "{err}");
}

#[test]
fn the_policy_of_the_command_line_goes_over_the_domains() {
    let (code, out, _) = file(
        "fixup",
        &["--policy", "asked", "--print-diff"],
        "own-policy-off",
    );
    assert_eq!((code, out.as_str()), (1, ""));
    let (code, out, _) = file(
        "fixup",
        &["--policy", "asked", "--consent", "all", "--print-diff"],
        "own-policy-off",
    );
    assert_eq!(code, 0);
    assert!(out.contains("-    <graphics type='vnc'"), "{out}");
}
