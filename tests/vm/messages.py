"""The machine test of `gfxplane explain` and `gfxplane doctor`, run as root in the guest: what libvirt and
QEMU really say is known, the fix that is named is one, and what is in the way of a host's hook is seen.
Every test is a function below, run in their order."""

import json
import sys
from pathlib import Path

from lab import CONF, domain, domain_xml, equal, eventually, install, listed, out, run_tests, sh, uuid, version

OLD_LIBVIRT = version("libvirtd --version") < (10, 1)
HOOK = Path("/etc/libvirt/hooks/qemu.d/50-gfxplane")
AWAY = Path("/root/50-gfxplane")
REGION, DMABUF, NONE = uuid(1), uuid(2), uuid(3)
DEVICES = {REGION: "mdpy-vga", DMABUF: "mbochs-small", NONE: "mtty-1"}
SPICE_GL = "<graphics type='spice'><listen type='none'/><gl enable='yes'/></graphics>"


def explain(arguments, **options):
    result = sh(f"gfxplane explain --json {arguments}", check=False, **options)
    return result.returncode, json.loads(result.stdout) if result.stdout else None, result.stderr


def doctor():
    """Its exit status, and the lines by what was checked."""
    result = sh("gfxplane doctor --json", check=False)
    said = json.loads(result.stdout)
    return result.returncode, {line["what"]: line for line in said["lines"]}


def verdict(what):
    code, lines = doctor()
    equal(code, 1 if any(line["verdict"] == "FAIL" for line in lines.values()) else 0, "exit status")
    return lines[what]["verdict"]


def refused(name):
    """libvirt's words when it does not start a domain."""
    result = sh(f"virsh start --paused {name}", check=False)
    assert result.returncode, f"{name} starts"
    return result.stderr


def by_itself(switch):
    """Whether QEMU refuses by itself, and nobody fixes a definition."""
    settings = CONF / "conf.d/zz-by-itself.toml"
    if switch:
        settings.write_text("hook = 'off'\n")
        out("systemctl stop gfxplane.service")
    else:
        settings.unlink()
        out("systemctl start gfxplane.service")


def forget(*names):
    for name in names:
        sh(f"virsh destroy {name}; virsh undefine {name}", check=False)


def tidy():
    if AWAY.exists() and not HOOK.exists():
        out(f"mv {AWAY} {HOOK}")
    sh(f"chmod 755 {HOOK}; systemctl reload libvirtd", check=False)
    forget(*out("virsh list --all --name").split())


def test_install():
    out("load_modules")
    print(install())
    for device, kind in DEVICES.items():
        out(f"create_mdev {kind} {device}")
        eventually(f"{kind} is known", lambda: listed(device)["evidence"]["method"] == "probe")


def test_nothing_fails_on_this_host():
    code, lines = doctor()
    print(sh("gfxplane doctor", check=False).stdout)
    failed = [line for line in lines.values() if line["verdict"] == "FAIL"]
    equal((code, failed), (0, []))
    for what in (
        "vfio",
        "mdevctl",
        "gfxplane's callout of mdevctl",
        "gfxplane's notifier of mdevctl",
        "gfxplane's qemu hook",
        "qemu hook as libvirtd sees it",
        "AppArmor's profile of libvirtd",
        "udev rule",
        "daemon",
        "render nodes",
        "EGL",
        "OpenGL in /usr/bin/qemu-system-x86_64",
        "stale records",
    ):
        equal(lines[what]["verdict"], "PASS", lines[what])
    assert "(enforce)" in lines["AppArmor's profile of libvirtd"]["more"], lines
    shows = lines["displays in virsh nodedev-dumpxml"]["verdict"]
    equal(shows, "WARN" if OLD_LIBVIRT else "PASS")
    for device in DEVICES:
        line = lines[f"display of {device}"]
        assert "measured" in line["more"] and line["verdict"] == "PASS", line


def test_what_is_in_the_way_is_seen():
    out("systemctl stop gfxplane.service")
    equal(verdict("daemon"), "WARN")
    out("systemctl start gfxplane.service")
    equal(verdict("daemon"), "PASS")
    out(f"chmod 644 {HOOK}")
    equal(verdict("gfxplane's qemu hook"), "FAIL")
    out(f"chmod 755 {HOOK}")
    settings = CONF / "conf.d/zz-mistake.toml"
    settings.write_text("hook = 'enforced'\n")
    equal(verdict("gfxplane's settings and rules"), "FAIL")
    settings.unlink()
    equal(verdict("gfxplane's settings and rules"), "PASS")
    record = Path(f"/run/gfxplane/records/{REGION}.json")
    kept = record.read_text()
    record.write_text(kept.replace('"kernel": "', '"kernel": "0.'))
    equal(verdict("stale records"), "WARN")
    record.write_text(kept)
    equal(verdict("stale records"), "PASS")


def test_a_hook_that_libvirtd_has_not_seen():
    """libvirtd looks for hooks when it starts, and when it is told to reload; what doctor says of that
    is what libvirtd does."""
    out("systemctl stop gfxplane.service")
    domain("unseen", DMABUF)
    out(f"mv {HOOK} {AWAY}; systemctl restart libvirtd; sleep 2; mv {AWAY} {HOOK}")
    eventually("libvirtd is back", lambda: not sh("virsh list", check=False).returncode)
    # A file keeps its time when it is moved, but not that of its last change.
    what = "qemu hook as libvirtd sees it"
    equal(verdict(what), "WARN")
    said = refused("unseen")
    assert "opengl not available" in said and "Hook script" not in said, said
    out("systemctl reload libvirtd")
    eventually("it has reloaded", lambda: verdict(what) == "PASS")
    eventually("the hook is run", lambda: "gfxplane: domain unseen is not started" in refused("unseen"))
    forget("unseen")
    out("systemctl start gfxplane.service")


def test_what_qemu_and_libvirt_say_is_known():
    """Each message, as virsh shows it and as it stands in the log; and the fix that is named first is one."""
    by_itself(True)
    try:
        fail_and_fix()
    finally:
        by_itself(False)


def fail_and_fix():
    vnc = "<graphics type='vnc'/>"
    spice = "<graphics type='spice' autoport='yes'><listen type='address' address='127.0.0.1'/></graphics>"
    for name, device, graphics, symptom, in_log in (
        ("dmabuf", DMABUF, vnc, "opengl-missing", True),
        ("loopback", DMABUF, spice, "opengl-missing", True),
        ("none", NONE, vnc, "no-display", True),
        ("context", DMABUF, SPICE_GL + vnc, "console-needs-context", True),
        ("without", REGION, "", "graphics-missing", False),
        ("twice", DMABUF, SPICE_GL + "<graphics type='egl-headless'/>", "opengl-twice", False),
    ):
        if name == "context" and version("qemu-system-x86_64 --version") < (9, 0):
            continue
        if in_log:
            domain(name, device, graphics=graphics)
            said = refused(name)
        else:
            # libvirt refuses it when it is defined, or when it is started.
            result = sh("virsh create /dev/stdin", check=False, input=domain_xml(name, device, graphics=graphics))
            assert result.returncode, f"{name} starts"
            said = result.stderr
        code, found, err = explain("-", input=said)
        equal(code, 0, f"{name}: {said}{err}")
        equal([one["symptom"] for one in found["explained"]], [symptom], said)
        if not in_log:
            continue
        # The message names the domain, or its device.
        equal(found.get("domain"), name, said)
        code, logged, err = explain(f"--domain {name}")
        equal((code, logged["log"]["started"]), (0, False), err)
        equal([one["symptom"] for one in logged["explained"]], [symptom], logged)
        [one] = logged["explained"]
        fix = one["fixes"][0]["command"]
        assert fix.startswith(f"gfxplane fixup {name} --define"), one
        assert one["diff"].startswith("--- Original XML"), one
        out(fix)
        out(f"virsh start --paused {name}")
        code, after, err = explain(f"--domain {name}")
        equal((code, after["log"]["started"]), (0, True), err)
        # QEMU resets a device when it starts, and mbochs offers no reset.
        assert all("this message is harmless" in one["cause"] for one in after["explained"]), after
        forget(name)


def test_hostdevs_that_libvirt_refuses():
    """Each row of hostdevs.tsv: libvirt says what stands there, and check says it before. A row has the devices beside
    a vGPU, libvirt 11.3's words (- for none), and those of 9.0 and 12.8 if they are others."""
    wrong = []
    column = 2 if OLD_LIBVIRT else 3 if version("libvirtd --version") >= (12, 8) else 1
    for row in Path("hostdevs.tsv").read_text().splitlines():
        devices, *words = row.split("\t")
        others = words[column - 1 : column]
        words = (others and others[0] or words[0]).replace("VIRT", "qemu")
        xml = domain_xml("hostdevs", REGION, graphics="<graphics type='vnc'/>" + devices)
        xml = xml.replace("<controller type='usb' model='none'/>\n", "", 1)
        result = sh("virsh define /dev/stdin", check=False, input=xml)
        forget("hostdevs")
        said = result.stderr if result.returncode else "-\n"
        checked = json.loads(sh("gfxplane check --json -", check=False, input=xml).stdout)
        foreseen = checked["message"] if checked.get("stage") == "define" else "-"
        if words != foreseen or words not in said:
            wrong.append(f"{devices}\n  expected {words}\n  libvirt {said}  check {foreseen}")
    print(*wrong, sep="\n")
    equal(len(wrong), 0)


def test_a_veto_is_explained():
    out("systemctl stop gfxplane.service")
    domain("vetoed", DMABUF)
    code, found, err = explain("-", input=refused("vetoed"))
    equal((code, found["domain"]), (0, "vetoed"), err)
    symptoms = {one["symptom"] for one in found["explained"]}
    assert "vetoed" in symptoms and "hook-failed" not in symptoms, found
    forget("vetoed")
    out("systemctl start gfxplane.service")


def test_what_is_not_known_is_said_to_be_so():
    disk = "<disk type='file'><source file='/nowhere.img'/><target dev='vda' bus='virtio'/></disk>"
    domain("diskless", REGION, graphics="<graphics type='vnc'/>" + disk)
    said = refused("diskless")
    code, _, err = explain("-", input=said)
    equal(code, 1, said)
    assert "not known" in err, err
    forget("diskless")


TESTS = [(name, test, 0) for name, test in list(globals().items()) if name.startswith("test_")]
sys.exit(run_tests(TESTS, "test_install", tidy))
