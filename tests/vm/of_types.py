"""The machine test of types without a device, and of devices that are never opened, run as root in
the guest: what `gfxplane probe --type … --instantiate` leaves behind, whatever ends it, and what is
known of a PCI device that is bound to vfio-pci. Every test is a function below, run in their order.

(Python has a module `types`, so this is not called that.)"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

from lab import FULL, RUN, bind_to_vfio, cursor, equal, eventually, install, journal, listed, out, run_tests, sh
from lab import spare_card, uuid

MDEVS = Path("/sys/bus/mdev/devices")
MARKS = RUN / "instances"
SCHEMAS = "/usr/share/gfxplane/schemas/gfxplane-nodedev.rng"
RULES = """[[rule]]
name = 'samples'
source = 'tests/kmod'
match = { type = ['virtio-pci-*'] }
open = 'safe'
"""
# PARENT/TYPE, what is said of it, and the exit code
KINDS = [
    ("mbochs/mbochs-small", "dmabuf", 0),
    ("mdpy/mdpy-hd", "region", 0),
    ("GPU/virtio-pci-region", "region", 0),
    ("GPU/virtio-pci-dmabuf", "dmabuf", 0),
    ("GPU/virtio-pci-both", "dmabuf,region", 0),
    ("GPU/virtio-pci-none", "none", 0),
    ("GPU/virtio-pci-yes", "unknown (untrusted)", 1),
]


def gpu():
    return out("parent_of virtio-pci-region").strip()


def named(kind):
    return kind.replace("GPU", gpu())


def mdevs():
    return set(os.listdir(MDEVS))


def marks():
    return set(os.listdir(MARKS)) if MARKS.exists() else set()


def of_type(kind):
    parent, name = named(kind).split("/")
    types = json.loads(out("gfxplane --quiet list --json"))["types"]
    return next(t for t in types if t["type"] == name and t["parent"] == parent)


def instantiate(kind, more=""):
    return sh(f"gfxplane probe --type {named(kind)} --instantiate {more}", check=False)


def nothing_is_left(before=frozenset()):
    eventually("no device is left", lambda: mdevs() == set(before))
    eventually("no mark is left", lambda: not marks())
    eventually("no record is left", lambda: {p.stem for p in (RUN / "records").iterdir()} == set(before))


def keepers():
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        if words[1:2] == [b"--keep"]:
            found.append(int(process.parent.name))
    return found


def test_install():
    out("load_modules")
    print(install(rules=RULES))
    equal(mdevs(), set())


def test_each_type():
    """Known by one that is gone again: in the list, in the parent's node device, in the tree."""
    since = cursor()
    for kind, said, code in KINDS:
        result = instantiate(kind)
        equal(result.returncode, code, f"{kind}: {result.stderr}")
        assert f": {said}" in result.stdout, f"{kind}: {result.stdout}"
        equal((mdevs(), marks()), (set(), set()), kind)
        entry = of_type(kind)
        equal(entry["evidence"]["method"], "sibling", kind)
        equal(",".join(entry["display"]), said.split()[0], kind)
        tree = RUN / "mdev_supported_types" / named(kind)
        equal((tree / "evidence").read_text(), "sibling\n", kind)
        for interface in ("dmabuf", "region"):
            plane = tree / "vfio-pci/device/gfx_plane" / interface
            if said.startswith("unknown"):
                assert not plane.exists(), kind
            else:
                equal(plane.read_text(), f"{int(interface in said)}\n", f"{kind}: {interface}")
    nothing_is_left()
    for more in ("", "--offline"):
        xml = out(f"gfxplane nodedev-dumpxml {more} {gpu()}")
        [found] = [c for c in ET.fromstring(xml).findall("capability") if c.get("type") == "vfio_display"]
        types = {t.get("id"): t for t in found.findall("type")}
        for name, display in (("region", "region"), ("dmabuf", "dmabuf"), ("none", "none")):
            seen = types[f"virtio-pci-{name}"]
            equal(seen.find("display").get("type"), display, more)
            equal(seen.find("evidence").get("method"), "sibling", more)
    # Neither libvirt nor the daemon minds what was there for a moment.
    eventually("libvirt has forgotten them", lambda: not out("virsh nodedev-list --cap mdev").split())
    equal(out("mdevctl list").strip(), "")
    equal(journal(since), "", "the daemon")


def test_what_is_wrong_is_named():
    for text, code, said in (
        ("mdpy", 2, "expected PARENT/TYPE"),
        ("mdpy/nothing", 3, "no parent here has it"),
        ("nobody/mdpy-hd", 3, "no parent here has it"),
        ("../mdpy/mdpy-hd", 3, "no parent here has it"),
    ):
        result = sh(f"gfxplane probe --type {text} --instantiate", check=False)
        equal(result.returncode, code, result.stderr)
        assert said in result.stderr, result.stderr
    equal((mdevs(), marks()), (set(), set()))


def test_the_last_one_is_left_to_others():
    """mdpy has four of them, of whatever type."""
    made = [uuid(n) for n in range(1, 5)]
    for device in made[:3]:
        out(f"create_mdev mdpy-vga {device}")
    equal(of_type("mdpy/mdpy-hd")["available_instances"], 1)
    refused = instantiate("mdpy/mdpy-hd")
    equal(refused.returncode, 1, refused.stderr)
    assert "this would use up the last one" in refused.stderr and "--force" in refused.stderr, refused.stderr
    equal(mdevs(), set(made[:3]))
    forced = instantiate("mdpy/mdpy-hd", "--force")
    equal(forced.returncode, 0, forced.stderr)
    equal(mdevs(), set(made[:3]))
    out(f"create_mdev mdpy-vga {made[3]}")
    for more in ("", "--force"):
        none = instantiate("mdpy/mdpy-hd", more)
        equal(none.returncode, 3, none.stderr)
        assert "only after another is removed" in none.stderr, none.stderr
    equal((mdevs(), marks()), (set(made), set()))
    for device in made:
        out(f"remove_mdev {device}")
    nothing_is_left()


def test_types_that_share_what_they_are_made_of():
    """mbochs has 256 MiB: a small one has 4, a large one 64."""
    made = [uuid(n) for n in range(1, 4)]
    for device in made:
        out(f"create_mdev mbochs-large {device}")
    equal(of_type("mbochs/mbochs-large")["available_instances"], 1)
    equal(of_type("mbochs/mbochs-small")["available_instances"], 16)
    refused = instantiate("mbochs/mbochs-small")
    equal(refused.returncode, 1, refused.stderr)
    assert "no device of mbochs-large can be created" in refused.stderr, refused.stderr
    equal((mdevs(), marks()), (set(made), set()))
    equal(instantiate("mbochs/mbochs-small", "--force").returncode, 0)
    equal((mdevs(), marks()), (set(made), set()))
    for device in made:
        out(f"remove_mdev {device}")
    nothing_is_left()


def start(kind, program="gfxplane-probe"):
    verb = [program] + (["probe"] if program == "gfxplane" else [])
    return subprocess.Popen(
        [*verb, "--type", named(kind), "--instantiate"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )


def test_ended_by_a_signal_its_keeper_removes_it():
    had = 0
    signals = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL]
    for number in range(40 if FULL else 12):
        process = start(KINDS[number % 4][0], ["gfxplane-probe", "gfxplane"][number % 2])
        while not mdevs() and process.poll() is None:
            time.sleep(0.01)
        time.sleep(number % 5 * 0.1)
        had += bool(mdevs())
        process.send_signal(signals[number % len(signals)])
        process.wait()
        nothing_is_left()
    equal(keepers(), [])
    print(f"  {had} devices were there when whoever made them was ended")
    assert had, "nothing was shown"


def next_run(number):
    """Whoever comes next, and may be anybody."""
    if number % 3 == 0:
        sh("gfxplane-probe --all", check=False)
    elif number % 3 == 1:
        sh("gfxplane probe --all", check=False)
    else:
        # systemd refuses a sixth start within ten seconds.
        out("systemctl reset-failed gfxplane.service; systemctl restart gfxplane.service")
        eventually("the daemon has swept", lambda: not mdevs())


def test_killed_with_its_keeper_the_next_run_removes_it():
    rounds, left, kinds = 200 if FULL else 20, 0, KINDS[:6]
    for number in range(rounds):
        process = start(kinds[number % len(kinds)][0])
        # At several moments: before there is a device, while udev asks it, while we do, at the end.
        if number % 4:
            while not mdevs() and process.poll() is None:
                time.sleep(0.01)
            time.sleep(number % 7 * 0.15)
        else:
            time.sleep(number % 5 * 0.05)
        for keeper in keepers():
            try:
                os.kill(keeper, signal.SIGKILL)
            except ProcessLookupError:
                pass
        process.kill()
        process.wait()
        # One that came between the look and the end.
        eventually("no keeper", lambda: not keepers())
        left += bool(mdevs())
        next_run(number)
        equal(mdevs(), set(), f"round {number}")
        nothing_is_left()
    print(f"  {left} devices were left in {rounds} rounds, and all were removed by the next run")
    assert left, "nothing was shown"


def test_what_somebody_holds_is_not_swept():
    """A run beside one that lasts leaves its device alone; when that is killed, it does not."""
    device, foreign = uuid(1), uuid(2)
    out(f"create_mdev mdpy-vga {device}; create_mdev mdpy-vga {foreign}")
    with open(MARKS / device, "w") as mark:
        fcntl.flock(mark, fcntl.LOCK_EX)
        sh("gfxplane-probe --all", check=False)
        equal(mdevs(), {device, foreign})
    sh("gfxplane-probe --all", check=False)
    equal(mdevs(), {foreign}, "a device without a mark is nobody's of ours")
    out(f"remove_mdev {foreign}")
    nothing_is_left()


def test_a_driver_that_hangs():
    """It does not let go of its device: nobody waits for that longer than the deadline, and it goes
    when the driver lets go."""
    result = instantiate("GPU/virtio-pci-hang", "--deadline 30")
    equal(result.returncode, 1, result.stderr)
    assert "timed-out" in result.stdout and "its driver still holds it" in result.stderr, result
    # The kernel takes it out of /sys/bus/mdev/devices first, and then waits for the driver.
    there = lambda: {path.name for path in Path(f"/sys/class/mdev_bus/{gpu()}").glob("*-*-*-*-*")}
    equal((len(there()), mdevs()), (1, set()))
    equal(marks(), there())
    sh("timeout 200 gfxplane-probe --all --deadline 1", check=False)
    equal(marks(), there())
    equal(len(there()), 1)
    out("release")
    eventually("it is gone", lambda: not there())
    nothing_is_left()
    out("hold")


def test_a_pci_device_that_is_never_opened():
    """The network card that is there for that."""
    address, card = spare_card()
    bind_to_vfio(card)
    tree = RUN / "devices" / address
    eventually("it is published", lambda: (tree / "evidence").read_text() == "rule\n")
    for interface in ("dmabuf", "region"):
        equal((tree / "vfio-pci/device/gfx_plane" / interface).read_text(), "0\n")
    properties = f"udevadm info --query=property /sys/bus/pci/devices/{address}"
    eventually("udev has it", lambda: "GFXPLANE_DISPLAY=none" in out(properties).splitlines())
    entry = listed(address)
    equal((entry["display"], entry["open"], entry["evidence"]["rule"]), (["none"], "never", "vfio-pci"))
    asked = sh(f"gfxplane probe {address}", check=False)
    equal(asked.returncode, 1, asked.stdout)
    assert "opening it would reset it" in asked.stdout, asked.stdout
    assert not (RUN / "records" / f"{address}.json").exists()
    for more in ("", "--offline"):
        xml = out(f"gfxplane nodedev-dumpxml {more} {address}")
        Path("/tmp/document.xml").write_text(xml)
        out(f"xmllint --noout --relaxng {SCHEMAS} /tmp/document.xml")
        assert "<display type='none'/>" in xml and "rule='vfio-pci'" in xml, xml
        plain = out(f"gfxplane nodedev-dumpxml --plain {more} {address}")
        assert "vfio_display" not in plain, plain
    domain, bus, rest = address.split(":")
    slot, function = rest.split(".")
    Path("/tmp/whole.xml").write_text(
        f"""<domain type='qemu'><name>whole</name><memory unit='MiB'>16</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices><graphics type='vnc'/><hostdev mode='subsystem' type='pci' managed='no' display='on'><source>
    <address domain='0x{domain}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/>
  </source></hostdev></devices></domain>"""
    )
    checked = sh("gfxplane check /tmp/whole.xml", check=False)
    equal(checked.returncode, 1, checked.stdout + checked.stderr)
    assert "display='off'" in out("gfxplane fixup --print-xml /tmp/whole.xml")

    out(f"echo {address} > {card}/driver/unbind")
    eventually("it is forgotten", lambda: not tree.exists())
    eventually("by udev, too", lambda: "GFXPLANE_DISPLAY" not in out(properties))


def tidy():
    out("release")
    for device in mdevs():
        sh(f"remove_mdev {device}", check=False)
    for mark in marks():
        (MARKS / mark).unlink(missing_ok=True)
    out("hold")


if __name__ == "__main__":
    TESTS = [(name, test, 0) for name, test in globals().items() if name.startswith("test_")]
    sys.exit(run_tests(TESTS, "test_install", tidy))
