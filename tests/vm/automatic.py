"""The machine test of what nobody has asked for: the qemu hook and the daemon, with libvirt as it
is and AppArmor enforced. Run as root in the guest by tests/vm/test. Every test is a function
below, run in their order; each leaves no domains behind. Waits poll with a generous limit; times
are printed, never asserted. FULL=1 does all of what is otherwise done a tenth of the times."""

import collections
import difflib
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import clients
import libvirt
import libvirt_qemu
from lab import CONF, FULL, LIMIT, RUN, SPICE_GL_OVER_TCP, connected, cursor, define, definition, denials, destroy, domain, domain_xml, equal
from lab import eventually, gone, install, journal, listed, names, out, run_tests, sh, state, undefine, uuid

DMABUF = [uuid(n) for n in range(1, 9)]
REGION = [uuid(20), uuid(21)]
NONE = uuid(30)
DEVICES = {"mbochs-small": DMABUF, "mdpy-vga": REGION, "mtty-1": [NONE]}

VNC = "<graphics type='vnc'/>"
VNC_ANYWHERE = "<graphics type='vnc' listen='0.0.0.0'/>"
SPICE = "<graphics type='spice' autoport='yes'><listen type='address' address='127.0.0.1'/></graphics>"
SPICE_ANYWHERE = "<graphics type='spice' autoport='yes'><listen type='address' address='0.0.0.0'/></graphics>"
SPICE_SILENT = "<graphics type='spice'><listen type='none'/></graphics>"
SPICE_GL = "<graphics type='spice'><listen type='none'/><gl enable='yes'/></graphics>"
DBUS = "<graphics type='dbus' p2p='yes'/>"

HOOK = Path("/etc/libvirt/hooks/qemu.d/50-gfxplane")
HELPER = Path("/usr/bin/gfxplane-helper")
STATE = Path("/var/lib/gfxplane")
SOCKETS = "libvirtd.socket libvirtd-ro.socket libvirtd-admin.socket"
UNIT = "gfxplane.service"
DROP_IN = Path(f"/run/systemd/system/{UNIT}.d/vm.conf")


def times(full, otherwise):
    return full if FULL else otherwise


def answer_of_qemu(name):
    """What QEMU itself says, through a libvirtd that may just have been started. Before it has found its guests again,
    and has asked the hook whether they may live, it knows their state from a file."""
    with connected() as connection:
        return eventually(
            f"the QEMU of {name} answers",
            lambda: libvirt_qemu.qemuMonitorCommand(
                connection.lookupByName(name), "info status", libvirt_qemu.VIR_DOMAIN_QEMU_MONITOR_COMMAND_HMP
            ),
        )


def check(name):
    return sh(f"gfxplane check {name}", check=False)


def becomes_right(name, since=None):
    """Waits until the definition has OpenGL and will start; how long that took."""
    began = since or time.monotonic()
    xml = eventually(f"{name} is fixed", lambda: "<gl enable='yes'" in (xml := definition(name)) and xml)
    seconds = time.monotonic() - began
    result = check(name)
    equal(result.returncode, 0, f"check of {name}: {result.stdout}{result.stderr}{xml}")
    return seconds


def works(name):
    """The first start is the one that counts."""
    result = sh(f"virsh start --paused {name}", check=False)
    equal(result.returncode, 0, f"start of {name}: {result.stderr}")
    equal(state(name), "paused", name)
    destroy(name)


def is_our_line(name, said):
    """A refusal that was ours and not QEMU's."""
    assert "Hook script execution failed" in said, said
    assert f"gfxplane: domain {name} is not started: QEMU would refuse " in said, said
    for theirs in ("process exited while connecting", "qemu-system", "monitor"):
        assert theirs not in said, said


def daemon_pid():
    return int(out(f"systemctl show -P MainPID {UNIT}"))


def daemon_is_up():
    return out(f"systemctl show -P ActiveState {UNIT}").strip() == "active"


def waits_for_libvirt(since, times=1):
    return eventually("connected", lambda: journal(since).count("connected to libvirt") >= times)


def with_drop_in(text):
    DROP_IN.parent.mkdir(parents=True, exist_ok=True)
    DROP_IN.write_text(text)
    out(f"systemctl daemon-reload && systemctl restart {UNIT}")


def without_drop_in():
    DROP_IN.unlink(missing_ok=True)
    out(f"systemctl daemon-reload && systemctl restart {UNIT}")


def make_devices():
    out("load_modules")
    for kind, devices in DEVICES.items():
        for device in devices:
            out(f"create_mdev {kind} {device}")


def all_known():
    devices = json.loads(out("gfxplane --quiet list --json"))["devices"]
    for kind, of_kind in DEVICES.items():
        for device in of_kind:
            equal(listed(device, devices)["evidence"]["method"], "probe", kind)
    return True


# The package


def test_install():
    """The hook is there, libvirt sees it without having been restarted, the daemon runs, and what QEMU
    can do is known."""
    out("apparmor_enforced")
    make_devices()
    # libvirtd ends by itself when nobody has been connected for two minutes, and the guest may take that long.
    connected = subprocess.Popen(["virsh", "event", "--all", "--loop"], stdout=subprocess.DEVNULL)
    out("virsh uri")
    libvirtd = out("systemctl show -P MainPID libvirtd.service")
    said = install()
    print(said)
    assert "README.Debian" in said, "it says what is switched on"
    equal(out("systemctl show -P MainPID libvirtd.service"), libvirtd, "libvirtd is the same")
    connected.terminate()
    connected.wait(LIMIT)
    equal(oct(HOOK.stat().st_mode & 0o7777), "0o755", str(HOOK))
    assert HOOK.is_file() and not HOOK.is_symlink()
    assert str(HOOK) in out("dpkg-query -W -f '${Conffiles}' gfxplane"), "no conffile"
    eventually("the daemon runs", daemon_is_up)
    pid = int(out(f"systemctl show -P MainPID {UNIT}"))
    equal(os.readlink(f"/proc/{pid}/exe"), "/usr/libexec/gfxplane/gfxplane-daemon", "the program without the other verbs")
    equal(out(f"systemctl is-enabled {UNIT}").strip(), "enabled")
    eventually("libvirt is watched", lambda: "connected to libvirt" in out(f"journalctl -b -o cat -u {UNIT}"))
    eventually("all devices are known", all_known)
    [kept] = eventually("what QEMU can do is known", lambda: list(Path("/var/cache/gfxplane/qemu").iterdir()))
    assert json.loads(kept.read_text())["abilities"]["qemu"], kept.read_text()


# What libvirt is told of


LINK = Path("/etc/mdevctl.d/scripts.d/callouts/99-gfxplane-watch")


def has_attributes():
    """Whether libvirt shows what was found of the devices."""
    with connected() as connection:
        devices = [d for d in connection.listAllDevices(libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_MDEV) if d.isActive()]
        return bool(devices) and all("<attr name='gfxplane.display'" in device.XMLDesc() for device in devices)


def answers():
    """libvirt answers, which it does once it has listed its devices."""
    with connected() as connection:
        return len(connection.listAllDevices(libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_MDEV)) > 0


def test_callout_comes_and_goes_with_libvirt():
    """mdevctl's link is there while libvirt runs, and not while it starts or when the daemon has ended, however."""
    eventually("libvirt shows attributes", has_attributes)
    assert LINK.is_symlink() and LINK.resolve() == HELPER
    equal([str(path) for path in Path("/usr/lib/mdevctl").rglob("callouts/*gfxplane*")], [], "links for good")
    out("systemctl stop libvirtd.service")
    eventually("no link without libvirt", lambda: not LINK.is_symlink())
    out("systemctl start libvirtd.service")
    eventually("libvirt answers", answers)
    began = time.monotonic()
    eventually("libvirt shows attributes", has_attributes)
    print(f"  attributes {time.monotonic() - began:.2f} s after libvirt answered")
    out(f"systemctl kill -s KILL {UNIT}")
    eventually("the daemon is there again", lambda: daemon_is_up() and LINK.is_symlink())
    out(f"systemctl stop {UNIT}")
    assert not LINK.is_symlink(), "a link without the daemon"
    eventually("libvirt shows nothing", lambda: not has_attributes())
    # For hosts without the daemon.
    setting = CONF / "conf.d/callout.toml"
    setting.write_text("callout = 'static'\n")
    out("gfxplane-helper callout")
    try:
        eventually("libvirt shows attributes", has_attributes)
    finally:
        setting.unlink()
        out(f"gfxplane-helper callout; systemctl start {UNIT}")
    eventually("libvirt shows attributes", has_attributes)
    equal([path.name for path in LINK.parent.iterdir()], [LINK.name], "links")


def test_there_is_one_daemon():
    result = sh("gfxplane watch --once", check=False)
    equal(result.returncode, 3, result.stderr)
    assert f"as process {daemon_pid()}" in result.stderr, result.stderr


# What the daemon fixes


def test_defined():
    domain("defined", DMABUF[0], graphics=SPICE)
    print(f"  right {becomes_right('defined'):.1f} s after it was defined")
    works("defined")
    gone("defined")


def test_attached():
    """libvirt before 10 sends no event for it."""
    domain("attached", None, graphics=SPICE)
    Path("/tmp/hostdev.xml").write_text(
        "<hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on'>"
        f"<source><address uuid='{DMABUF[0]}'/></source></hostdev>"
    )
    out("virsh attach-device attached /tmp/hostdev.xml --config")
    print(f"  right {becomes_right('attached'):.1f} s after it was attached")
    works("attached")
    gone("attached")


EDITOR = f"""#!/usr/bin/python3
import re, sys
text = open(sys.argv[1]).read()
text, found = re.subn("<graphics type='spice'.*?</graphics>", {SPICE!r}, text, flags=re.S)
assert found == 1, text
open(sys.argv[1], "w").write(text)
"""


def test_edited():
    """By script. Who insists has his way: the third time it is left as he wants it."""
    Path("/tmp/editor").write_text(EDITOR)
    Path("/tmp/editor").chmod(0o755)
    domain("edited", DMABUF[0], graphics=SPICE)
    becomes_right("edited")
    said = out("EDITOR=/tmp/editor env -u VISUAL virsh edit edited")
    assert "edited" in said, said
    print(f"  right {becomes_right('edited'):.1f} s after the edit")
    works("edited")
    since = cursor()
    out("EDITOR=/tmp/editor env -u VISUAL virsh edit edited")
    line = eventually("it is left alone", lambda: re.search("edited: left alone .*", journal(since)))[0]
    print(f"  {line}")
    assert "2 times" in line, line
    assert "<gl enable='yes'" not in definition("edited")
    gone("edited")


def test_after_a_restart_of_libvirtd():
    since = cursor()
    domain("early", None, graphics=SPICE)
    out("systemctl restart libvirtd.service")
    domain("late", DMABUF[0], graphics=SPICE)
    print(f"  right {becomes_right('late'):.1f} s after it was defined")
    works("late")
    said = waits_for_libvirt(since)
    equal(out(f"systemctl show -P NRestarts {UNIT}").strip(), "0", f"the daemon went on: {said}")
    gone("early", "late")


def test_defined_while_the_daemon_was_down():
    """The hook refuses it, the daemon fixes it, and then it starts."""
    out(f"systemctl stop {UNIT}")
    domain("unseen", DMABUF[0], graphics=SPICE)
    refused = sh("virsh start --paused unseen", check=False)
    equal(refused.returncode, 1, refused.stderr)
    is_our_line("unseen", refused.stderr)
    print(f"  {refused.stderr.strip()}")
    assert "gfxplane fixup unseen --define" in refused.stderr, refused.stderr
    assert "<gl enable='yes'" not in definition("unseen")
    out(f"systemctl start {UNIT}")
    becomes_right("unseen")
    equal(state("unseen"), "shut off", "it is no autostart domain, so nobody starts it")
    works("unseen")
    gone("unseen")


def test_veto_is_mended_by_a_daemon_that_runs():
    """A start that comes too early is refused, and leaves a request; the second one works."""
    out(f"systemctl kill -s STOP {UNIT}")
    try:
        domain("hasty", DMABUF[0], graphics=SPICE)
        refused = sh("virsh start --paused hasty", check=False)
        is_our_line("hasty", refused.stderr)
        equal(len(list((RUN / "requests").iterdir())) > 0, True, "a request")
    finally:
        out(f"systemctl kill -s CONT {UNIT}")
    becomes_right("hasty")
    works("hasty")
    eventually("no request is left", lambda: not list((RUN / "requests").iterdir()))
    gone("hasty")


def test_define_and_start_in_one_line():
    rounds, first = times(20, 2), 0
    for number in range(rounds):
        name = f"oneline{number}"
        Path(f"/tmp/{name}.xml").write_text(domain_xml(name, DMABUF[0], SPICE))
        result = sh(f"virsh define /tmp/{name}.xml && virsh start --paused {name}", check=False)
        if result.returncode == 0:
            first += 1
        else:
            is_our_line(name, result.stderr)
            becomes_right(name)
            out(f"virsh start --paused {name}")
        equal(state(name), "paused", name)
        gone(name)
    print(f"  the first start worked {first} of {rounds} times, the second always")


# What it does not


def untouched(name, graphics):
    since = cursor()
    domain(name, DMABUF[0], graphics=graphics)
    before = definition(name)
    line = eventually("the daemon says why", lambda: re.search(f"{name}: .*consent.*", journal(since)))[0]
    print(f"  {line}")
    said = check(name)
    equal(said.returncode, 1, said.stdout)
    refused = sh(f"virsh start --paused {name}", check=False)
    is_our_line(name, refused.stderr)
    print(f"  {refused.stderr.strip()}")
    for where, text in (("log", journal(since)), ("check", said.stdout + said.stderr), ("veto", refused.stderr)):
        assert "consent" in text and "--no-display" in text, f"both fixes are not named by the {where}: {text}"
    # The veto has left a request, and the daemon takes it; what it says is what was said.
    eventually("no request is left", lambda: not list((RUN / "requests").iterdir()))
    equal(definition(name), before, "to the byte")


def test_remote_access_is_not_taken():
    """VNC, and spice on another address: untouched, until somebody says so. A QEMU with OpenGL for spice
    over TCP leaves nothing to ask."""
    for name, graphics in (("vnc", VNC), ("vnc0", VNC_ANYWHERE), ("spice0", SPICE_ANYWHERE)):
        if graphics == SPICE_ANYWHERE and SPICE_GL_OVER_TCP:
            domain(name, DMABUF[0], graphics=graphics)
            becomes_right(name)
            assert "listen='0.0.0.0'" in definition(name), definition(name)
            works(name)
            gone(name)
            continue
        untouched(name, graphics)
        out(f"gfxplane policy {name} consent=remote")
        becomes_right(name)
        assert "consent" in definition(name), definition(name)
        works(name)
        gone(name)


def test_a_domain_that_is_right_is_left_alone():
    for name, device, graphics, display in (
        ("right", DMABUF[0], SPICE_GL, "on"),
        ("region", REGION[0], VNC, "on"),
        ("dark", DMABUF[0], VNC, "off"),
        ("none", NONE, VNC, "off"),
    ):
        since = cursor()
        domain(name, device, display=display, graphics=graphics)
        before = definition(name)
        eventually("it was looked at", lambda: f"{name}: " in journal(since))
        equal(definition(name), before, name)
        assert "changed" not in journal(since), journal(since)
        works(name)
        gone(name)


# What nobody has seen


def with_card(name, model, device=None):
    """A domain that would be refused, with an emulated card of which nothing is measured."""
    xml = domain_xml(name, device or DMABUF[0], SPICE).replace("type='none'", f"type='{model}'")
    Path(f"/tmp/{name}.xml").write_text(xml)
    define(xml)


def test_what_was_not_measured_is_tried():
    """A small copy of it starts, and then it is defined; the next of its shape needs none."""
    for name, said in (("tried", "tried: a small copy of the domain started in"), ("alike", "tried: a small copy of such a domain started")):
        since = cursor()
        with_card(name, "cirrus")
        print(f"  right {becomes_right(name):.1f} s after it was defined")
        [line] = [line for line in journal(since).splitlines() if f"{name}: tried: " in line]
        print(f"  {line}")
        assert said in line, line
        works(name)
    equal([name for name in names() if name.startswith("gfxplane-verify-")], [], "a copy is left")
    for directory in ("/var/log/libvirt/qemu", "/etc/apparmor.d/libvirt"):
        left = [path.name for path in Path(directory).iterdir() if "gfxplane-verify-" in path.name]
        equal(left, [], f"left in {directory}")
    [kept] = Path("/var/cache/gfxplane/trials").iterdir()
    print(f"  {kept.name}: {json.loads(kept.read_text())['trials']}")
    # What was measured is not tried.
    since = cursor()
    domain("measured", DMABUF[0], graphics=SPICE)
    becomes_right("measured")
    said = journal(since)
    assert "measured: measured: such a domain starts with QEMU" in said or "measured: tried: " in said, said
    gone("tried", "alike", "measured")


def test_a_device_in_use_is_waited_for():
    """The domain stays as it is, and the reason says so, until the device is free."""
    domain("holder", DMABUF[0], graphics=SPICE_GL)
    out("virsh start --paused holder")
    since = cursor()
    with_card("waits", "vmvga")
    before = definition("waits")
    line = eventually("the daemon says why", lambda: re.search("waits: left alone .*", journal(since)))[0]
    print(f"  {line}")
    for words in (f"device {DMABUF[0]} is in use by domain holder", "gfxplane fixup waits --define --no-trial"):
        assert words in line, line
    refused = sh("gfxplane fixup waits --define", check=False)
    equal(refused.returncode, 3, refused.stderr)
    assert "in use by domain holder" in refused.stderr, refused.stderr
    equal(definition("waits"), before, "to the byte")
    destroy("holder")
    print(f"  right {becomes_right('waits'):.1f} s after the device came free")
    works("waits")
    gone("holder", "waits")


UNKNOWN = """<qemu:override xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
    <qemu:device alias='ua-vgpu'>
      <qemu:frontend><qemu:property name='no-such' type='string' value='1'/></qemu:frontend>
    </qemu:device>
  </qemu:override>"""


def test_what_is_refused_when_it_is_tried_stays():
    """QEMU has the last word, whatever gfxplane thinks; a person can do without."""
    since = cursor()
    xml = domain_xml("refused", DMABUF[0], SPICE, more=UNKNOWN)
    define(xml.replace("</source>", "</source><alias name='ua-vgpu'/>"))
    before = definition("refused")
    line = eventually("the daemon says why", lambda: re.search("refused: left alone .*", journal(since)))[0]
    print(f"  {line}")
    assert "was refused after" in line and "no-such" in line, line
    asked = sh("gfxplane fixup refused --define", check=False)
    equal(asked.returncode, 1, asked.stderr)
    assert "no-such" in asked.stderr, asked.stderr
    equal(definition("refused"), before, "to the byte")
    out("gfxplane fixup refused --define --no-trial")
    assert "<gl enable='yes'" in definition("refused"), definition("refused")
    gone("refused")


def test_undo_log_and_policy():
    """What was done is undone, and then the domain is its owner's, until he gives it back."""
    xml = domain_xml("undone", DMABUF[0], "<graphics type='spice' autoport='yes' passwd='geheim'/>")
    out(f"systemctl stop {UNIT}")
    Path("/tmp/undone.xml").write_text(xml)
    out("virsh define /tmp/undone.xml")
    before = definition("undone")
    out(f"systemctl start {UNIT}")
    becomes_right("undone")
    assert "geheim" in definition("undone"), "the password is lost"
    log = out("gfxplane log")
    print("  " + "\n  ".join(line for line in log.splitlines() if "undone" in line))
    assert "undone" in log and "gl" in log, log
    since = cursor()
    out("gfxplane undo undone")
    equal(definition("undone"), before, "undone")
    eventually("the daemon stays away", lambda: re.search("undone: left alone .*undone", journal(since)))
    equal(definition("undone"), before, "undone, and left so")
    since = cursor()
    out(f"systemctl restart {UNIT}")
    out("virsh desc undone --config 'another'")
    eventually("the daemon stays away", lambda: re.search("undone: left alone .*undone", journal(since)))
    assert "<gl enable='yes'" not in definition("undone"), "it is remembered"
    for file in STATE.rglob("*"):
        assert not file.is_file() or "geheim" not in file.read_text(), file
    equal(oct(STATE.stat().st_mode & 0o7777), "0o700", str(STATE))
    out("gfxplane fixup --define undone")
    becomes_right("undone")
    out("gfxplane policy undone display=off")
    shown = out("gfxplane policy undone")
    assert "off" in shown, shown
    Path("/tmp/again.xml").write_text(re.sub("<gl enable.*?>", "", definition("undone")))
    since = cursor()
    out("virsh define /tmp/again.xml")
    eventually("it was looked at", lambda: "undone: " in journal(since))
    assert "<gl enable='yes'" not in definition("undone"), "display=off is hands off"
    assert "geheim" not in out(f"gfxplane log; gfxplane log --json; journalctl -b -o cat -u {UNIT}")
    gone("undone")


# The hook


def test_transient():
    """Of a doomed domain nobody has a definition to fix: our line says what to do."""
    Path("/tmp/doomed.xml").write_text(domain_xml("doomed", DMABUF[0], SPICE))
    result = sh("virsh create --paused /tmp/doomed.xml", check=False)
    equal(result.returncode, 1, result.stdout)
    is_our_line("doomed", result.stderr)
    print(f"  {result.stderr.strip()}")
    assert "doomed" not in names()
    out("gfxplane fixup /tmp/doomed.xml > /tmp/sound.xml")
    for file in ("/tmp/sound.xml", "/tmp/region.xml"):
        if file == "/tmp/region.xml":
            Path(file).write_text(domain_xml("doomed", REGION[0], VNC))
        out(f"virsh create --paused {file}")
        equal(state("doomed"), "paused")
        destroy("doomed")


def test_hook_that_only_warns():
    setting = CONF / "conf.d/hook.toml"
    setting.write_text("hook = 'warn'\n")
    try:
        since = cursor()
        Path("/tmp/warned.xml").write_text(domain_xml("warned", DMABUF[0], SPICE))
        result = sh("virsh create --paused /tmp/warned.xml", check=False)
        assert "vfio-display-dmabuf: opengl not available" in result.stderr, result.stderr
        assert "Hook script" not in result.stderr, result.stderr
        eventually("said in the journal", lambda: "domain warned: QEMU would refuse" in journal(since, "-t gfxplane"))
        setting.write_text("hook = 'off'\n")
        since = cursor()
        result = sh("virsh create --paused /tmp/warned.xml", check=False)
        assert "vfio-display-dmabuf: opengl not available" in result.stderr, result.stderr
        assert "domain warned" not in journal(since, "-t gfxplane"), "off is off"
    finally:
        setting.unlink()


def virt_install(*more):
    """A guest with mbochs, by the tool that most guests are made with."""
    medium = Path("/var/lib/libvirt/images/medium.iso")
    medium.write_bytes(bytes(1 << 20))
    # It knows mdev types of some vendors only, so not `--hostdev`.
    hostdev = ("@mode=subsystem", "@type=mdev", "@model=vfio-pci", "@display=on", f"source/address/@uuid={DMABUF[0]}")
    return [
        "virt-install", "--name", "installed", "--memory", "32", "--virt-type", "qemu", "--arch", "x86_64",
        "--machine", "pc", "--osinfo", "generic", "--disk", "none", "--cdrom", str(medium), "--network", "none",
        "--video", "model.type=none", "--controller", "usb,model=none", "--noautoconsole",
        *(word for part in hostdev for word in ("--xml", f"./devices/hostdev/{part}")), *more,
    ]  # fmt: skip


def test_virt_install():
    """As it would be refused it ends with our line; then through both of its steps: installation, and
    the guest that was installed."""
    doomed = subprocess.run(virt_install("--graphics", "spice,listen=127.0.0.1"), capture_output=True, text=True)
    assert doomed.returncode, doomed.stdout
    is_our_line("installed", doomed.stdout + doomed.stderr)
    gone("installed")
    # As the line says, its XML through fixup: of the installation, and of what stays.
    for step in (1, 2):
        xml = subprocess.run(
            virt_install("--graphics", "spice,listen=127.0.0.1", "--print-xml", str(step)),
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        Path(f"/tmp/step{step}.xml").write_text(xml)
        out(f"gfxplane fixup /tmp/step{step}.xml > /tmp/right{step}.xml")
        out(f"virsh create --paused /tmp/right{step}.xml && virsh destroy installed")
    # The definition that stays is fixed by itself.
    out("virsh define /tmp/step2.xml")
    becomes_right("installed")
    works("installed")
    gone("installed")

    log = open("/tmp/virt-install.log", "w")
    process = subprocess.Popen(
        virt_install("--graphics", "spice,listen=none,gl.enable=yes", "--wait", "-1"), stdout=log, stderr=log
    )
    try:
        eventually("it is installed", lambda: state("installed") == "running")
        installing = out("virsh dumpxml installed")
        assert "<on_reboot>destroy</on_reboot>" in installing, installing
        eventually("what stays is defined", lambda: "<on_reboot>restart</on_reboot>" in definition("installed"))
        # The installer reboots. For that libvirt ends this QEMU, maybe before it has answered.
        sh("virsh reset installed", check=False)
        eventually(
            "it runs from what was installed",
            lambda: "<on_reboot>restart</on_reboot>" in out("virsh dumpxml installed") and state("installed") == "running",
        )
        equal(check("installed").returncode, 0, "check of what stays")
    finally:
        sh("virsh destroy installed", check=False)
        process.terminate()
        process.wait()
        print("  " + Path("/tmp/virt-install.log").read_text().strip().replace("\n", "\n  "))
    gone("installed")


# What is broken changes nothing for any guest


def broken_helpers():
    """Names, and what puts such a helper in the place of ours."""
    yield "missing", "rm -f {}"
    yield "not executable", "install -m 644 /root/helper {}"
    for name, script in (
        ("aborting", "kill -ABRT $$"),
        ("crashing", "kill -SEGV $$"),
        ("panicking", "echo \"thread 'main' panicked\" >&2; exit 101"),
        ("failing", "exit 1"),
        ("printing", "echo '<domain/>'"),
    ):
        Path("/tmp/helper").write_text(f"#!/bin/sh\n{script}\n")
        yield name, "install -m 755 /tmp/helper {}"
    Path("/tmp/lib.c").write_text("int of_library(void) { return 0; }\n")
    Path("/tmp/main.c").write_text("int of_library(void); int main(void) { return of_library(); }\n")
    out("cd /tmp && gcc -shared -fPIC -o libmissing.so lib.c && gcc -o linked main.c -L. -lmissing && rm libmissing.so")
    yield "linked against a library that is not there", "install -m 755 /tmp/linked {}"


def test_broken_helper():
    """Every guest lives, through a restart of libvirtd too, and every guest starts."""
    out(f"cp -p {HELPER} /root/helper")
    domain("lives", REGION[0], graphics=VNC)
    domain("starts", REGION[1], graphics=VNC)
    out("virsh start --paused lives")
    try:
        for name, command in broken_helpers():
            out(command.format(HELPER))
            out("virsh start --paused starts")
            out("systemctl restart libvirtd.service")
            for guest in ("lives", "starts"):
                assert "paused" in answer_of_qemu(guest), f"{guest}, with a helper {name}"
            if name == "missing":
                # What QEMU refuses, QEMU refuses.
                Path("/tmp/refused.xml").write_text(domain_xml("refused", DMABUF[0], SPICE))
                refused = sh("virsh create --paused /tmp/refused.xml", check=False).stderr
                assert "vfio-display-dmabuf: opengl not available" in refused and "Hook" not in refused, refused
            destroy("starts")
            print(f"  {name}: they live and start")
    finally:
        out(f"rm -f {HELPER}; cp -p /root/helper {HELPER}")
        out(f"systemctl restart {UNIT}")
    gone("lives", "starts")


def full_disk(path):
    """What is in `path` is on a file system that is full, of bytes and of names."""
    out(f"cp -a {path} /root/full && mount -t tmpfs -o mode=$(stat -c %a {path}),size=4m,nr_inodes=2k tmpfs {path}")
    out(f"cp -a /root/full/. {path}/; rm -rf /root/full")
    sh(f"dd if=/dev/zero of={path}/filler bs=64k 2> /dev/null; dd if=/dev/zero of={path}/filler2 bs=512 2> /dev/null", check=False)
    sh(f"mkdir {path}/fillers && for n in $(seq 3000); do : > {path}/fillers/$n || break; done", check=False)
    assert sh(f": > {path}/one-more", check=False).returncode, "it is not full"


def test_full_disk():
    """The hook can leave no request, the daemon can remember nothing: guests start, and the daemon lives."""
    domain("lives", REGION[0], graphics=VNC)
    domain("starts", DMABUF[0], graphics=SPICE_GL)
    out(f"systemctl stop {UNIT}")
    for path in (RUN, STATE):
        full_disk(path)
    try:
        out("virsh start --paused lives; virsh start --paused starts")
        Path("/tmp/doomed.xml").write_text(domain_xml("doomed", DMABUF[1], SPICE))
        is_our_line("doomed", sh("virsh create --paused /tmp/doomed.xml", check=False).stderr)
        out("systemctl restart libvirtd.service")
        for guest in ("lives", "starts"):
            assert "paused" in answer_of_qemu(guest), guest
        since = cursor()
        started = sh(f"systemctl start {UNIT}", check=False)
        print(f"  the daemon's start ends with {started.returncode}")
        domain("fixed", DMABUF[2], graphics=SPICE)
        becomes_right("fixed")
        print("  " + "\n  ".join(line for line in journal(since).splitlines() if "space" in line or "No " in line))
        equal(out(f"systemctl show -P NRestarts {UNIT}").strip(), "0")
    finally:
        out(f"systemctl stop {UNIT}; umount {RUN} {STATE}; systemctl start {UNIT}")
    gone("lives", "starts", "fixed")


# Many at once


def start_client(directory, *arguments):
    log = open(directory / f"{arguments[2]}.log", "w")
    return subprocess.Popen(
        ["/usr/bin/python3", "clients.py", *map(str, arguments)], stdout=subprocess.PIPE, stderr=log, text=True
    )


def result_of(client, directory, name):
    """What a client has to say; one that hung in a call of libvirt's has said so in its log."""
    said, _ = client.communicate()
    equal(client.returncode, 0, f"client {name}: {(directory / f'{name}.log').read_text()}")
    return json.loads(said)


def new_directory(name):
    directory = Path("/tmp") / name
    out(f"rm -rf {directory}; mkdir -p {directory}")
    return directory


def test_burst():
    """50 domains by four clients at once: all become right."""
    directory, count = new_directory("burst"), times(50, 5)
    all_names = [f"burst{n}" for n in range(count)]
    for client in range(4):
        mine = all_names[client::4]
        xml = [domain_xml(name, DMABUF[client], SPICE) for name in mine]
        (directory / f"c{client}.json").write_text(json.dumps(xml))
    began = time.monotonic()
    clients_now = [(f"c{n}", start_client(directory, "burst", directory, f"c{n}")) for n in range(4)]
    results = [result_of(client, directory, name) for name, client in clients_now]
    equal(sum(result["defined"] for result in results), count)
    defined = time.monotonic() - began
    eventually("all are right", lambda: all("<gl enable='yes'" in definition(name) for name in all_names))
    print(f"  {count} domains defined within {defined:.1f} s, all right after {time.monotonic() - began:.1f} s")
    print(f"  the longest call of a client: {max(result['longest'] for result in results)}")
    for name in all_names[:: max(1, count // 5)]:
        equal(check(name).returncode, 0, name)
    gone(*all_names)


def make_slots(directory):
    """The domains of the stress, in all the wrong forms in which clients write them, as libvirt has them."""
    out(f"systemctl stop {UNIT}")
    wrongs = [(device, "on", (SPICE, SPICE_SILENT, DBUS)) for device in DMABUF[:4]]
    wrongs += [(REGION[0], "off", (VNC, SPICE)), (NONE, "on", (VNC, SPICE))]
    slots = []
    for number, (device, display, graphics) in enumerate(wrongs):
        name, identity = f"slot{number}", uuid(900 + number)
        more = f"<uuid>{identity}</uuid><metadata>{clients.counts_element({})}</metadata>"
        formatted = []
        for screens in graphics:
            domain(name, device, display=display, graphics=screens, more=more)
            # Once more, as libvirt fills in the rest when it reads what it has written.
            define(definition(name))
            formatted.append(definition(name))
            undefine(name)
        slots.append({"name": name, "uuid": identity, "wrong": formatted})
    (directory / "slots.json").write_text(json.dumps(slots))
    (directory / "seen").mkdir()
    out(f"systemctl start {UNIT}")
    return slots


def plans_to_nothing(xml):
    result = subprocess.run(["gfxplane", "fixup", "-"], input=xml, capture_output=True, text=True)
    return result.returncode == 0 and result.stdout == xml


def judge_what_was_seen(directory, slots):
    """Every definition was as a client had written it, or fully fixed. How many of each kind."""
    written = {clients.bare(xml) for slot in slots for xml in slot["wrong"]}
    seen = [clients.bare(file.read_text()) for file in (directory / "seen").glob("*.xml")]
    fixed = [xml for xml in seen if xml not in written]
    for xml in fixed:
        if not plans_to_nothing(xml):
            [name] = re.findall("<name>(.*?)</name>", xml)
            of_it = [w.splitlines() for w in written if f"<name>{name}</name>" in w]
            differences = [list(difflib.unified_diff(w, xml.splitlines(), "written", "seen", lineterm="")) for w in of_it]
            raise AssertionError("half fixed:\n" + "\n".join(min(differences, key=len)))
    assert fixed, "nothing fixed was seen, so nothing was shown"
    print(f"  {len(seen)} different definitions seen: {len(seen) - len(fixed)} as written, {len(fixed)} fixed")


def all_end_right(slots):
    """Whatever is defined in the end is fixed."""

    def right():
        for name in set(names()) & {slot["name"] for slot in slots}:
            if sh(f"virsh dominfo {name}").stdout.count("Persistent:     yes"):
                xml = definition(name)
                assert plans_to_nothing(xml), xml
        return True

    eventually("all are right in the end", right)


# What the daemon says of what others do while it defines.
KEPT, UNDEFINED, LOST = "their definition was restored", "gfxplane undefined it again", "may be lost"


def report(results, said):
    """Prints what the clients and the daemon's log have to say. Returns the edits that were lost, the
    domains that rose again, and the refusals that may be our doing."""
    did, refused = {}, {}
    for result in results:
        for total, part in ((did, result["did"]), (refused, result["refused"])):
            for word, number in part.items():
                total[word] = total.get(word, 0) + number
    lost = [line for result in results for line in result["lost"]]
    risen = [line for result in results for line in result["risen"]]
    odd = [line for result in results for line in result["odd"]]
    print(f"  done: {did}; refused: {refused}")
    for how in ("defined", "graphics replaced"):
        windows = sorted(int(n) for n in re.findall(rf": {how} (\d+) µs after it was last looked at", said))
        if windows:
            middle = windows[len(windows) // 2]
            print(f"  {how} by the daemon {len(windows)} times; from compare to done: median {middle} µs, largest {windows[-1]} µs")
    late = sum(result["late"] for result in results)
    print(f"  the daemon met another's change {said.count('at the same moment')} times: {said.count(KEPT)} are as they were made, "
          f"{said.count(UNDEFINED)} are undefined again, {said.count(LOST)} may be lost; clients saw {late} before that was done")
    print(f"  the longest call of a client: {max(result['longest'] for result in results)}")
    print(f"  lost edits: {len(lost)}, domains that rose again: {len(risen)}")
    for line in lost + risen + odd:
        print(f"    {line}")
    # libvirt has more words for clients in each other's way than anybody has seen.
    return lost, risen, [line for line in odd if clients.OURS.search(line)]


def memory(pid):
    return int(re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())[1])


def test_stress():
    """200 things at random from three clients beside the daemon: no edit is lost without a word, no call
    hangs, nothing is half fixed, and the daemon does not grow."""
    directory, rounds = new_directory("stress"), times(200, 20)
    slots = make_slots(directory)
    seed = int(os.environ.get("SEED", "1"))
    # What it takes for the first domain, it takes once.
    domain("first", DMABUF[0], graphics=SPICE)
    becomes_right("first")
    gone("first")
    pid, since = daemon_pid(), cursor()
    before, began = memory(pid), time.monotonic()
    each = -(-rounds // len(clients.CLIENTS))
    working = [
        (name, start_client(directory, "stress", directory, name, each, seed + number))
        for number, name in enumerate(clients.CLIENTS)
    ]
    results = [result_of(client, directory, name) for name, client in working]
    said = journal(since)
    print(f"  {each} rounds of each of three clients in {time.monotonic() - began:.0f} s, seed {seed}")
    lost, risen, ours = report(results, said)
    equal(daemon_pid(), pid, "the daemon is the same")
    after = memory(pid)
    print(f"  the daemon's memory: {before} kB before, {after} kB after")
    judge_what_was_seen(directory, slots)
    gone(*(slot["name"] for slot in slots))
    assert after < before + 8 * 1024, "the daemon grows"
    equal(ours, [], "refusals that are our doing")
    told_truly(lost + risen, said)


def told_truly(lost, said):
    """Nothing is lost without a word, and there is no word where nothing is lost. The clients count in their metadata,
    so they can't tell whether graphics are lost."""
    equal(said.count(LOST) - said.count(f"(graphics) {LOST}"), len(lost), f"alarms beside what is lost: {lost}")


def test_edits():
    """Three clients change six domains as fast as they can, in all ways in which a definition can be changed, and the
    daemon fixes them."""
    directory, edits = new_directory("edits"), times(8400, 840)
    slots = make_slots(directory)
    seed = int(os.environ.get("SEED", "1"))
    domain("first", DMABUF[0], graphics=SPICE)
    becomes_right("first")
    gone("first")
    pid, since, began = daemon_pid(), cursor(), time.monotonic()
    working = [
        (name, start_client(directory, "edits", directory, name, edits // 3, seed + number))
        for number, name in enumerate(clients.CLIENTS)
    ]
    results = [result_of(client, directory, name) for name, client in working]
    said = journal(since)
    print(f"  {edits} changes in {time.monotonic() - began:.0f} s, seed {seed}")
    lost, risen, ours = report(results, said)
    equal(daemon_pid(), pid, "the daemon is the same")
    judge_what_was_seen(directory, slots)
    policies = {line.split()[-1] for line in out(f"ps -L -o cls -p {pid}").splitlines()[1:]}
    print(f"  scheduling of the daemon's threads: {sorted(policies)}")
    gone(*(slot["name"] for slot in slots))
    equal(ours, [], "refusals that are our doing")
    told_truly(lost + risen, said)


def test_killed():
    """The daemon, with SIGKILL, at random moments while it fixes, with the clients beside it: every
    definition is old or fixed, and right after the restart."""
    directory, kills = new_directory("killed"), times(50, 5)
    slots = make_slots(directory)
    with_drop_in("[Unit]\nStartLimitIntervalSec=0\n[Service]\nRestartSec=100ms\n")
    chance = random.Random(int(os.environ.get("SEED", "1")))
    domain("usual", DMABUF[4], graphics=SPICE)
    usual = becomes_right("usual")
    gone("usual")
    since = cursor()
    working = [
        (name, start_client(directory, "stress", directory, name, 1000000, number))
        for number, name in enumerate(clients.CLIENTS)
    ]
    outcomes = {"old": 0, "fixed": 0}
    try:
        for number in range(kills):
            name = f"killed{number}"
            xml = domain_xml(name, DMABUF[4], SPICE)
            domain(name, DMABUF[4], graphics=SPICE)
            time.sleep(chance.uniform(0, 1.5 * usual))
            pid = daemon_pid()
            if pid:
                os.kill(pid, signal.SIGKILL)
            found = definition(name)
            is_old = "<gl " not in found
            assert is_old or plans_to_nothing(found), f"half fixed:\n{found}"
            if is_old:
                assert "address='127.0.0.1'" in found, f"half fixed:\n{found}\n{xml}"
            outcomes["old" if is_old else "fixed"] += 1
            eventually("it is there again", lambda: daemon_is_up() and daemon_pid() not in (0, pid))
            becomes_right(name)
            gone(name)
    finally:
        (directory / "stop").touch()
        results = [result_of(client, directory, name) for name, client in working]
    print(f"  killed {kills} times; the definition was then: {outcomes}")
    lost, risen, ours = report(results, journal(since))
    judge_what_was_seen(directory, slots)
    # What it was left alone for is forgotten with it.
    without_drop_in()
    all_end_right(slots)
    gone(*(slot["name"] for slot in slots))
    equal(ours, [], "refusals that are our doing")
    # One that is killed right after a definition can't say what it has met.
    noticed = kills + journal(since).count(LOST)
    assert noticed >= len(lost) + len(risen), f"{len(lost) + len(risen)} lost, {noticed} at most noticed"


def without_identity(xml):
    """What is the same of all domains of a kind."""
    return re.sub(r"<(name|uuid)>.*?</\1>", "", clients.bare(xml))


def test_libvirtd_killed():
    """libvirtd, with SIGKILL, at random moments while the daemon defines: every definition is old or fixed, is fixed
    when libvirtd is there again, and what was changed can be undone."""
    kills = times(30, 5)
    chance = random.Random(int(os.environ.get("SEED", "1")))
    # Nobody fixes this one.
    out("systemctl stop gfxplane.service")
    domain("usual", DMABUF[4], graphics=SPICE)
    as_written = without_identity(definition("usual"))
    gone("usual")
    out("systemctl start gfxplane.service")
    domain("usual", DMABUF[4], graphics=SPICE)
    usual = becomes_right("usual")
    gone("usual")
    pid, since = daemon_pid(), cursor()
    outcomes = collections.Counter()
    for number in range(kills):
        name = f"killed{number}"
        domain(name, DMABUF[4], graphics=SPICE)
        time.sleep(chance.uniform(0, 1.5 * usual))
        out("systemctl kill -s KILL libvirtd.service")
        file = Path(f"/etc/libvirt/qemu/{name}.xml")
        is_old = "<gl " not in file.read_text()
        outcomes["old" if is_old else "fixed"] += 1
        left = [other.name for other in file.parent.glob(f"{name}.xml?*")]
        print(f"  left by libvirt: {left}" if left else "", end="")
        # By its socket, as a client would have it.
        eventually("libvirt answers", lambda: state(name))
        becomes_right(name)
        eventually("it is told", lambda: f'"domain":"{name}"' in (STATE / "log.jsonl").read_text())
        out(f"gfxplane undo {name}")
        equal(without_identity(definition(name)), as_written, f"{name}, undone")
        gone(name)
    print(f"  libvirtd killed {kills} times; the definition was then: {dict(outcomes)}")
    equal(daemon_pid(), pid, "the daemon is the same")
    assert "changed" in journal(since)


def test_clock_jumps():
    """A year ahead, and back: nobody is refused or started for it, and what comes is fixed."""
    domain("starts", DMABUF[0], graphics=SPICE_GL)
    pid, now = daemon_pid(), time.time()
    out("systemctl stop systemd-timesyncd.service || :")
    try:
        for jump in (365 * 86400, -365 * 86400, 0):
            began = time.monotonic()
            out(f"date -s @{int(now + jump)}")
            out("virsh start --paused starts")
            # Its device is taken, and nobody is kept waiting for a mark that seems to be of next year.
            destroy("starts")
            domain("comes", DMABUF[1], graphics=SPICE)
            becomes_right("comes")
            works("comes")
            gone("comes")
            print(f"  clock at {jump:+} s: {time.monotonic() - began:.0f} s for it all")
            equal(daemon_pid(), pid, "the daemon is the same")
    finally:
        out(f"date -s @{int(now)}")
    equal(out("gfxplane log comes").count("comes") > 0, True, "it was told")
    equal(sh("gfxplane --quiet list", check=False).returncode, 0)
    gone("starts")


# Probes beside starts

PROBERS = 4


def test_probing_while_a_domain_starts():
    """Four processes ask a device over and over while a domain with it is started and destroyed: no start
    fails because of them, and each answer is right or in-use."""
    rounds, device, directory = times(200, 20), REGION[0], new_directory("probing")
    domain("between", device, graphics=VNC)
    # Without a pause they would have the emulated processors to themselves; each pause is another.
    pause = "sleep $((RANDOM % 4)).$((RANDOM % 10))"
    loop = f"until [ -e {directory}/stop ]; do gfxplane-probe --fresh --json {device}; {pause}; done"
    probers = [
        subprocess.Popen(
            ["bash", "-c", loop], stdout=open(directory / f"{n}.json", "w"), stderr=open(directory / f"{n}.log", "w")
        )
        for n in range(PROBERS)
    ]
    refused = []
    try:
        for _ in range(rounds):
            result = sh("virsh start --paused between", check=False)
            if result.returncode:
                refused.append(result.stderr.strip())
            else:
                destroy("between")
    finally:
        (directory / "stop").touch()
        for prober in probers:
            prober.wait(LIMIT)
    answers = []
    for number in range(PROBERS):
        text, decoder = (directory / f"{number}.json").read_text(), json.JSONDecoder()
        while text := text.lstrip():
            document, end = decoder.raw_decode(text)
            text = text[end:]
            answers += [(row["display"], row.get("reason")) for row in document["probes"]]
    seen = collections.Counter(reason or ",".join(display) for display, reason in answers)
    print(f"  {rounds} starts, {len(refused)} refused; answers meanwhile: {dict(seen)}")
    equal(refused, [], "starts that failed")
    assert set(seen) <= {"region", "in-use"}, seen
    assert seen["region"], "nobody was ever answered"
    said = "".join((directory / f"{n}.log").read_text() for n in range(PROBERS))
    assert "panicked" not in said, said
    gone("between")


# Save and restore


# Debian's kernel has no bitmap for the driver's dirty pages, so QEMU must not ask for it.
MIGRATES = """<qemu:override xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
    <qemu:device alias='ua-tty'>
      <qemu:frontend>
        <qemu:property name='enable-migration' type='string' value='on'/>
        <qemu:property name='x-device-dirty-page-tracking' type='string' value='off'/>
      </qemu:frontend>
    </qemu:device>
  </qemu:override>"""


def new_tty():
    """A device that has nothing behind it: mtty keeps the state of a migration when it is closed, and
    the next one then ends the kernel (6.12)."""
    out(f"remove_mdev {NONE}; create_mdev mtty-1 {NONE}")
    eventually("all devices are known", all_known)


def restored(xml=""):
    """What runs after a restore, what the hook and libvirt's log of the domain said."""
    new_tty()
    since = cursor()
    out("rm -f /var/log/libvirt/qemu/saved.log.old; : > /var/log/libvirt/qemu/saved.log")
    out(f"virsh restore /var/tmp/saved.save --paused {xml}")
    live = out("virsh dumpxml --security-info saved")
    equal(state("saved"), "paused")
    return live, journal(since, "-t gfxplane"), Path("/var/log/libvirt/qemu/saved.log").read_text()


def test_saved_and_restored():
    """Where nothing is wrong the hook's filter hands nothing back; with made XML libvirt takes what it
    does hand back, and says that it was the hook's."""
    xml = domain_xml("saved", NONE, "<graphics type='vnc' passwd='geheim'/>", "off", more=MIGRATES)
    Path("/tmp/saved.xml").write_text(xml.replace("</source>", "</source><alias name='ua-tty'/>"))
    out("virsh define /tmp/saved.xml && virsh start --paused saved")
    try:
        before = out("virsh dumpxml --security-info saved")
        out("virsh save saved /var/tmp/saved.save --paused")
        live, said, log = restored()
        without_id = [re.sub(r" id='\d+'", "", text, count=1) for text in (before, live)]
        equal(without_id[1], without_id[0], "what runs again")
        equal(said, "", "the hook has nothing to say")
        assert "tainted: hook" not in log, log
        destroy("saved")

        saved = out("virsh save-image-dumpxml --security-info /var/tmp/saved.save")
        assert "geheim" in saved and saved.count("display='off'") == 1, saved
        Path("/tmp/on.xml").write_text(saved.replace("display='off'", "display='on'"))
        live, said, log = restored("--xml /tmp/on.xml")
        assert "display='off'" in live and "display='on'" not in live, live
        assert "geheim" in live, "the password is lost"
        assert "domain saved was changed: " in said and "geheim" not in said, said
        print(f"  {said.strip()}")
        assert "tainted: hook" in log, log
        destroy("saved")

        # Without the hook QEMU refuses that.
        new_tty()
        (CONF / "conf.d/hook.toml").write_text("hook = 'off'\n")
        refused = sh("virsh restore /var/tmp/saved.save --paused --xml /tmp/on.xml", check=False).stderr
        assert "device doesn't support any (known) display method" in refused, refused
    finally:
        (CONF / "conf.d/hook.toml").unlink(missing_ok=True)
        gone("saved")


# The daemon as a service


def test_hangup_reads_the_settings():
    since = cursor()
    pid = daemon_pid()
    domain("later", DMABUF[0], graphics=VNC)
    before = definition("later")
    (CONF / "conf.d/consent.toml").write_text("consent = ['remote']\n")
    try:
        out(f"systemctl reload {UNIT}")
        eventually("it says so", lambda: "settings read again" in journal(since))
        becomes_right("later")
    finally:
        (CONF / "conf.d/consent.toml").unlink()
        out(f"systemctl reload {UNIT}")
    equal(daemon_pid(), pid)
    assert definition("later") != before
    # Settings that can't be read are said, and nothing else happens.
    broken = CONF / "conf.d/broken.toml"
    broken.write_text("retry_start = 'whenever'\n")
    since = cursor()
    try:
        out(f"systemctl reload {UNIT}")
        eventually("it says so", lambda: "broken.toml" in journal(since))
        equal(daemon_pid(), pid)
    finally:
        broken.unlink()
        out(f"systemctl reload {UNIT}")
    gone("later")


def test_what_a_fleet_reads():
    """Written by the daemon within its unit, and copied by another unit to where the settings say."""
    made, place = RUN / "export", Path("/var/lib/fleet")
    place.mkdir()
    os.chown(place, 65534, 65534)
    files = {"prometheus": place / "gfxplane.prom", "nfd": place / "gfxplane"}
    setting = CONF / "conf.d/export.toml"
    assert not made.exists(), "nothing is written unasked"
    equal(sh("systemctl is-enabled gfxplane-export.path", check=False).stdout.strip(), "disabled")
    out("systemctl enable --now gfxplane-export.path")
    try:
        named = ", ".join(f"{name} = '{file}'" for name, file in files.items())
        setting.write_text(f"export = {{ {named} }}\n")
        out(f"systemctl reload {UNIT}")
        eventually("both are copied", lambda: all(file.exists() for file in files.values()))
        for name, file in files.items():
            equal(file.read_text(), (made / name).read_text(), name)
            equal(file.stat().st_mode & 0o777, 0o644, name)
        doctor = lambda: sh("gfxplane doctor", check=False).stdout
        for file in files.values():
            assert f"PASS  export to {file}\n" in doctor(), doctor()
        guests = lambda: re.search(r'gfxplane_guests\{starts="yes"\} (\d+)', files["prometheus"].read_text())[1]
        before, labels = guests(), files["nfd"].stat().st_mtime_ns
        domain("counted", DMABUF[0], graphics=SPICE)
        eventually("the guest is counted", lambda: guests() != before)
        equal(files["nfd"].stat().st_mtime_ns, labels, "labels that say the same")
        gone("counted")
        # One that has stopped on purpose is not started to be asked.
        files["nfd"].unlink()
        assert f"WARN  export to {files['nfd']} " in doctor(), doctor()
        (made / "nfd").unlink()
        out("systemctl stop libvirtd.service")
        out(f"systemctl reload {UNIT}")
        eventually("the labels are there again", files["nfd"].exists)
        equal(out("systemctl show -P ActiveState libvirtd.service").strip(), "inactive", "libvirtd")
    finally:
        setting.unlink()
        out("systemctl disable --now gfxplane-export.path")
        since = cursor()
        out("systemctl start libvirtd.service")
        out(f"systemctl reload {UNIT}")
        shutil.rmtree(place)
    waits_for_libvirt(since)
    equal(out("systemctl show -P Result gfxplane-export.service").strip(), "success")


def test_what_other_managers_write():
    """QEMU refuses it, and takes what their hooks make of it."""
    file = Path("/tmp/domxml")
    ovirt = "<metadata><ovirt-vm:vm xmlns:ovirt-vm='http://ovirt.org/vm/1.0'/></metadata>"
    vmi = '{"spec":{}}'
    on, bare = "display='on' ramfb='on'", ""
    for manager, video, hostdevs in [
        ("oVirt", "none", [(DMABUF[0], on)]),
        ("oVirt", "none", [(NONE, on)]),
        ("oVirt", "none", [(DMABUF[0], on), (REGION[0], "display='on'")]),
        ("KubeVirt", "vga", [(DMABUF[0], on), (REGION[0], bare)]),
        ("KubeVirt", "vga", [(REGION[0], on), (REGION[1], on)]),
        ("KubeVirt", "ramfb", [(REGION[0], on)]),
    ]:
        xml = domain_xml("managed", None, more=ovirt if manager == "oVirt" else "").replace("type='none'", f"type='{video}'")
        for device, display in hostdevs:
            source = f"<source><address uuid='{device}'/></source>"
            hostdev = f"<hostdev mode='subsystem' type='mdev' model='vfio-pci' {display}>{source}</hostdev>"
            xml = xml.replace("</devices>", f"{hostdev}</devices>")
        file.write_text(xml)
        refused = sh(f"virsh create --paused {file}", check=False)
        assert refused.returncode != 0, (manager, hostdevs)
        if manager == "oVirt":
            print(out(f"_hook_domxml={file} gfxplane-helper before_vm_start 2>&1"))
        else:
            file.write_text(out(f"gfxplane-helper onDefineDomain --vmi '{vmi}' --domain \"$(cat {file})\""))
        out(f"virsh create --paused {file}")
        screen = file.read_text().replace("'", '"')
        assert 'display="on"' in screen or '<model type="vga"/>' in screen, screen
        destroy("managed")


def test_a_device_that_comes_free_is_asked():
    """By the daemon, within the limits of its unit: nobody could as long as a guest had it."""
    device, since = REGION[1], cursor()
    domain("holds", device, graphics=VNC)
    out("virsh start --paused holds")
    record = Path(f"/run/gfxplane/records/{device}.json")
    record.unlink()
    equal(sh(f"gfxplane probe --fresh {device}", check=False).returncode, 1)
    assert "in-use" in record.read_text(), record.read_text()
    destroy("holds")
    eventually("it is asked", lambda: listed(device)["evidence"]["method"] == "probe")
    equal(listed(device)["display"], ["region"])
    assert f"{device}: is free now, and is probed" in journal(since), journal(since)
    gone("holds")


def test_terminated():
    since = cursor()
    out(f"systemctl stop {UNIT}")
    equal(out(f"systemctl show -P Result {UNIT}").strip(), "success")
    assert "ends" in journal(since), journal(since)
    out(f"systemctl start {UNIT}")
    # Type=notify: it is up when it says so.
    equal(out(f"systemctl show -P ActiveState {UNIT}").strip(), "active")
    domain("after", DMABUF[0], graphics=SPICE)
    becomes_right("after")
    gone("after")


def watchdog():
    """When the daemon has said last that it lives."""
    return out(f"systemctl show -P WatchdogTimestampMonotonic {UNIT}").strip()


def test_watchdog():
    """A daemon that has stopped is started anew."""
    print("  " + out(f"systemctl show -p Type,WatchdogUSec,NRestarts,Restart {UNIT}").replace("\n", " "))
    assert out(f"systemctl show -P WatchdogUSec {UNIT}").strip() not in ("0", "infinity")
    with_drop_in("[Service]\nWatchdogSec=6\n")
    try:
        pid, told = daemon_pid(), set()
        # It lives longer than that by itself: it says so twice in that time.
        eventually("it has said so four times", lambda: told.add(watchdog()) or len(told) >= 5)
        equal(daemon_pid(), pid, "it says that it lives")
        os.kill(pid, signal.SIGSTOP)
        eventually("it is another", lambda: daemon_is_up() and daemon_pid() not in (0, pid))
    finally:
        without_drop_in()
    domain("after", DMABUF[0], graphics=SPICE)
    becomes_right("after")
    gone("after")


def test_libvirt_that_is_stopped_stays_so():
    """The daemon waits, and does not have systemd start libvirtd again; then all domains are looked at."""
    since, pid = cursor(), daemon_pid()
    domain("before", DMABUF[0], graphics=SPICE)
    becomes_right("before")
    out("systemctl stop libvirtd.service")
    eventually("it waits", lambda: "waits for libvirt" in journal(since))
    # Whatever comes meanwhile: a request of the hook's, and a hangup.
    (RUN / "requests" / uuid(900)).touch()
    out(f"systemctl reload {UNIT}")
    eventually("it has read its settings", lambda: "settings read again" in journal(since))
    equal(out("systemctl show -P ActiveState libvirtd.service").strip(), "inactive", "libvirtd")
    equal(out("systemctl show -P ActiveState libvirtd.socket").strip(), "active", "its socket")
    # By hand, as nobody should: no event tells of it.
    file = Path("/etc/libvirt/qemu/before.xml")
    text, found = re.subn("<gl .*?/>", "", file.read_text())
    equal(found, 1, file.read_text())
    file.write_text(text)
    out("systemctl start libvirtd.service")
    becomes_right("before")
    waits_for_libvirt(since)
    eventually("no request is left", lambda: not list((RUN / "requests").iterdir()))
    equal(daemon_pid(), pid)
    gone("before")


def test_security():
    print(out(f"systemd-analyze security --no-pager {UNIT}"))


def test_no_apparmor_denial():
    """None of hook, helper and daemon; what Mesa is denied in QEMU is not ours."""
    ours = [line for line in denials() if 'profile="libvirt-' not in line]
    equal(ours, [], "denials")
    said = out(f"journalctl -b -o cat -u {UNIT} -t gfxplane")
    assert "panicked" not in said, said


# Boots


def devices_at_boot(order):
    """mdevs made anew at boot, by a unit before or after libvirtd."""
    lines = ["#!/bin/bash", ". /usr/local/lib/gfxplane/lib.sh", "load_modules"]
    for kind, devices in DEVICES.items():
        lines += [f"create_mdev {kind} {device}" for device in devices]
    Path("/root/devices").write_text("\n".join(lines) + "\n")
    Path("/root/devices").chmod(0o755)
    Path("/etc/systemd/system/vm-devices.service").write_text(
        f"[Unit]\n{order}\n[Service]\nType=oneshot\nExecStart=/root/devices\n[Install]\nWantedBy=multi-user.target\n"
    )
    out("systemctl daemon-reload && systemctl enable vm-devices.service")


def wrong_and_autostarted(name):
    out(f"systemctl stop {UNIT}")
    gone(*names())
    domain(name, DMABUF[0], graphics=SPICE)
    out(f"virsh autostart {name}")
    assert "<gl " not in definition(name)
    out("sync")


def what_was_said_at_boot():
    print("  " + out(
        "journalctl -b -o short-monotonic -u libvirtd.service -u gfxplane.service -u vm-devices.service -t gfxplane "
        "| grep -v 'audit\\|polkit' | tail -40"
    ).replace("\n", "\n  "))


def test_before_a_boot_with_devices_before_libvirtd():
    devices_at_boot("Before=libvirtd.service")
    wrong_and_autostarted("early")


def test_boot_with_devices_before_libvirtd():
    """An autostart domain whose definition is wrong comes up by itself."""
    try:
        eventually("it runs", lambda: state("early") == "running")
    finally:
        what_was_said_at_boot()
    becomes_right("early")
    assert "early" in out("gfxplane log"), "gfxplane log"
    destroy("early")
    devices_at_boot("After=libvirtd.service")
    wrong_and_autostarted("tardy")


def test_boot_with_devices_after_libvirtd():
    """It becomes right all the same. libvirtd says that it is up before it starts its domains, so most often
    the devices are there by then; if not, libvirt itself could not start it with any definition."""
    try:
        becomes_right("tardy")
        # What comes of a veto is said before its request is gone.
        eventually("no request is left", lambda: not list((RUN / "requests").iterdir()))
    finally:
        what_was_said_at_boot()
    was_vetoed = "tardy: is started" in out(f"journalctl -b -o cat -u {UNIT}")
    if was_vetoed:
        eventually("it runs", lambda: state("tardy") == "running")
    print(f"  by itself the domain is: {state('tardy')}")
    if not was_vetoed:
        works("tardy")
    gone("tardy")


BOOTS = {"test_boot_with_devices_before_libvirtd": 1, "test_boot_with_devices_after_libvirtd": 2}


# The package goes


def test_all_is_undone():
    """Who removes the package gets the guests as they were, and the daemon leaves them so."""
    before = {}
    for name, device in (("one", DMABUF[0]), ("two", DMABUF[1])):
        out(f"systemctl stop {UNIT}")
        domain(name, device, graphics=SPICE)
        before[name] = definition(name)
        out(f"systemctl start {UNIT}")
        becomes_right(name)
    since = cursor()
    print(out("gfxplane undo --all 2>&1"))
    equal({name: definition(name) for name in before}, before)
    # It has looked at both by the time at which it has fixed a third.
    domain("three", DMABUF[2], graphics=SPICE)
    becomes_right("three")
    equal({name: definition(name) for name in before}, before, journal(since))
    gone("one", "two", "three")


def test_removed_with_a_running_guest():
    eventually("all devices are known", all_known)
    domain("lives", REGION[0], graphics=VNC)
    domain("starts", DMABUF[0], graphics=SPICE_GL)
    domain("kept", DMABUF[1], graphics=SPICE)
    becomes_right("kept")
    out("virsh start --paused lives")
    pid = daemon_pid()
    said = out("dpkg -r gfxplane")
    print(said)
    assert "gfxplane undo --all" in said, "the change of kept is remembered"
    assert not Path(f"/proc/{pid}").exists(), "the daemon is gone"
    assert HOOK.exists() and not HELPER.exists(), "a conffile stays"
    out("systemctl restart libvirtd.service")
    assert "paused" in answer_of_qemu("lives")
    out("virsh start --paused starts")
    equal(state("starts"), "paused")
    destroy("starts")
    gone("kept")


def test_purged():
    since = cursor()
    print(out("dpkg -P gfxplane"))
    assert not list(Path("/etc/libvirt/hooks").rglob("*gfxplane*"))
    for path in (STATE, Path("/var/cache/gfxplane"), CONF, RUN):
        assert not path.exists(), path
    equal(sh(f"systemctl cat {UNIT}", check=False).returncode, 1, "its unit is gone")
    equal([str(path) for path in Path("/etc/systemd/system").rglob(UNIT)], [], "links to its unit")
    assert "eload" in journal(since, "-u libvirtd.service"), "libvirtd was reloaded"
    equal(state("lives"), "paused", "the guest lives")
    out("virsh start --paused starts && virsh destroy starts")
    out("systemctl restart libvirtd.service")
    assert "paused" in answer_of_qemu("lives"), "the guest lives"
    gone("lives", "starts")


def main():
    tests, boot = [], 0
    for name, test in globals().items():
        if name.startswith("test_"):
            # What comes after a boot has the devices that the test of that boot has made.
            if len(sys.argv) == 1 or name in sys.argv:
                boot = BOOTS.get(name, boot)
            tests.append((name, test, boot))
    return run_tests(tests, "test_install", lambda: gone(*names()))


if __name__ == "__main__":
    sys.exit(main())
