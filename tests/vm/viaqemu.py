"""The machine test of what QEMU tells, run as root in the guest: `gfxplane probe --via qemu`
on every device that QEMU can be asked about, held against what the device itself says;
and what is learned from the starts of domains. Every test is a function below, run in their order."""

import json
import re
import subprocess
import sys
from pathlib import Path

from lab import CONF, NO_KVM, RUN, UML, cursor, document, domain, equal, eventually, install, journal, listed, out, run_tests, sh, uuid
from lab import without_hook_and_daemon

# number: type, what the device says of itself, what QEMU takes
DEVICES = {
    1: ("mdpy-vga", ["region"], ["region"]),
    2: ("mbochs-small", ["dmabuf"], ["dmabuf"]),
    3: ("mtty-1", ["none"], ["none"]),
    4: ("virtio-pci-region", ["region"], ["region"]),
    5: ("virtio-pci-dmabuf", ["dmabuf"], ["dmabuf"]),
    6: ("virtio-pci-both", ["dmabuf", "region"], ["dmabuf"]),
    7: ("virtio-pci-none", ["none"], ["none"]),
    8: ("virtio-pci-yes", ["unknown"], ["dmabuf"]),
    9: ("virtio-pci-zero", ["unknown"], ["dmabuf"]),
    10: ("virtio-pci-beyond", ["region"], ["region"]),
}
# It opens for a QEMU alone, and for us with EIO.
WANTS_QEMU = 11
# Nobody asks these unless they are named, as with NVIDIA's.
NAMED = {21: ("virtio-pci-dmabuf", ["dmabuf"]), 22: ("virtio-pci-region", ["region"]), 23: ("virtio-pci-none", ["none"])}
HANGS = 30
WANTS_KVM = 32
RULES = """[[rule]]
name = 'hangs'
source = 'tests/kmod'
match = { type = ['virtio-pci-hang', 'virtio-pci-uuid'] }
open = 'named'

[[rule]]
name = 'samples'
source = 'tests/kmod'
match = { type = ['virtio-pci-*'] }
open = 'safe'
"""
NAMED_RULE = """[[rule]]
name = 'named'
source = 'tests/kmod'
match = { type = ['virtio-pci-*'] }
open = 'named'
"""
LOGS = Path("/var/log/libvirt/qemu")


def version():
    return re.search(r"version (\d+(\.\d+)+)", out("qemu-system-x86_64 --version")).group(1)


def settings(name, text):
    (CONF / "conf.d" / f"{name}.toml").write_text(text)


def via_qemu(number, more="", check=True):
    """The answer, and the exit code."""
    result = sh(f"gfxplane probe --via qemu --deadline 300 --json {more} {uuid(number)}", check=False)
    assert result.stdout, result
    [row] = json.loads(result.stdout)["probes"]
    if check:
        equal(result.returncode, 0, str(row))
    return row, result.returncode


def spice_with_gl():
    """On the render node that Mesa's software renderer serves; the guest's GPU has one, too."""
    nodes = sorted(Path("/sys/class/drm").glob("renderD*"))
    node = next(node.name for node in nodes if "/vgem" in str(node.resolve()))
    gl = f"<gl enable='yes' rendernode='/dev/dri/{node}'/>"
    return f"<graphics type='spice'><listen type='none'/>{gl}</graphics>"


def leftovers():
    found = [name for name in out("virsh list --all --name").split() if "gfxplane-verify" in name]
    for place in ("/var/log/libvirt/qemu", "/run/gfxplane/lock", "/etc/apparmor.d/libvirt"):
        for path in Path(place).iterdir():
            if "gfxplane-verify" in path.name or path.suffix == ".verify":
                found.append(str(path))
    return found + [line for line in out("ps -eo args").splitlines() if "-name gfxplane-verify-" in line]


def forget(number):
    """What is known of the device, its type and from QEMU."""
    for below in ("records", "qemu"):
        (RUN / below / f"{uuid(number)}.json").unlink(missing_ok=True)
    (RUN / "types" / f"{listed(uuid(number))['type']}.json").unlink(missing_ok=True)


def test_install():
    out("apparmor_enforced")
    out("load_modules")
    print(install(rules=RULES))
    without_hook_and_daemon()
    for number, (kind, display, _) in DEVICES.items():
        out(f"create_mdev {kind} {uuid(number)}")
        eventually(f"{kind} was asked", lambda: listed(uuid(number))["evidence"]["method"] == "probe")
        equal(listed(uuid(number))["display"], display, kind)


def test_qemu_agrees_with_the_device():
    for number, (kind, _, taken) in DEVICES.items():
        row, _ = via_qemu(number, "--fresh")
        equal((row["display"], row["from_record"]), (taken, False), kind)
        assert f"said by QEMU {version()}" in row["note"], row
        equal(leftovers(), [], f"left of {kind}")
        # the device's own answer is believed first, and QEMU's is none other
        entry = listed(uuid(number))
        equal((entry["display"], entry["evidence"]["method"]), (DEVICES[number][1], "probe"), kind)
        assert "disagreements" not in entry, entry
        kept = json.loads((RUN / "qemu" / f"{uuid(number)}.json").read_text())
        equal((kept["facts"]["display"], kept["qemu"]), (taken, {"version": version()}), kind)
    row, _ = via_qemu(8)
    assert row["from_record"] and "the device itself answered unknown (untrusted)" in row["note"], row


def test_qemu_alone():
    """Where the device was not asked, QEMU's answer stands, for this device alone; and asking it
    overrules that."""
    number, other = 5, 15
    out(f"create_mdev virtio-pci-dmabuf {uuid(other)}")
    eventually("the other one is known", lambda: listed(uuid(other))["display"] == ["dmabuf"])
    forget(number)
    forget(other)
    equal(listed(uuid(number))["display"], ["unknown"])
    via_qemu(number)
    entry = listed(uuid(number))
    equal((entry["display"], entry["evidence"]["method"], entry["evidence"]["qemu"]), (["dmabuf"], "qemu", version()))
    equal(listed(uuid(other))["display"], ["unknown"], "no sibling")
    assert not (RUN / "types/virtio-pci-dmabuf.json").exists()
    assert "method='qemu'" in out(f"gfxplane nodedev-dumpxml {uuid(number)}")
    eventually(
        "udev has it",
        lambda: "GFXPLANE_EVIDENCE=qemu" in out(f"udevadm info --query=property /sys/bus/mdev/devices/{uuid(number)}"),
    )
    out(f"gfxplane probe {uuid(number)}")
    equal(listed(uuid(number))["evidence"]["method"], "probe")
    via_qemu(other)
    kept = RUN / "qemu" / f"{uuid(other)}.json"
    assert kept.exists()
    out(f"remove_mdev {uuid(other)}")
    eventually("it is forgotten", lambda: not kept.exists())


def test_a_driver_that_opens_for_qemu_alone():
    """What --via qemu is for: EIO to the prober, a region for QEMU, which has -uuid on its command line."""
    number = WANTS_QEMU
    out(f"create_mdev virtio-pci-uuid {uuid(number)}; udevadm settle")

    def refused():
        result = sh(f"gfxplane probe --fresh --json {uuid(number)}", check=False)
        [row] = json.loads(result.stdout)["probes"]
        seen = tuple(row.get(key) for key in ("display", "reason", "step", "errno"))
        equal((*seen, result.returncode), (["unknown"], "open-failed", "open", "EIO", 1), str(row))

    forget(number)
    refused()
    equal(listed(uuid(number))["display"], ["unknown"])
    row, _ = via_qemu(number, "--fresh")
    equal(row["display"], ["region"])
    equal(leftovers(), [], "left")
    entry = listed(uuid(number))
    equal((entry["display"], entry["evidence"]["method"]), (["region"], "qemu"), str(entry))
    equal(entry["attempt"]["evidence"]["errno"], "EIO", str(entry))
    refused()
    equal(listed(uuid(number))["display"], ["region"], "that we can't open it says nothing against it")
    assert via_qemu(number)[0]["from_record"]
    out(f"remove_mdev {uuid(number)}")


def test_in_use():
    domain("holder", uuid(4))
    out("virsh start --paused holder")
    row, code = via_qemu(4, "--fresh", check=False)
    equal((row["display"], row["reason"], code), (["unknown"], "in-use", 1))
    print(row["note"])
    equal(out("virsh domstate holder").strip(), "paused", "the guest lives")
    out("virsh destroy holder; virsh undefine holder")


def test_a_driver_that_wants_kvm():
    out("modprobe kvm_amd nested=1")
    assert Path("/dev/kvm").exists(), "this guest has no KVM"
    out(f"create_mdev virtio-pci-kvm {uuid(WANTS_KVM)}; udevadm settle")
    row, _ = via_qemu(WANTS_KVM, "--fresh")
    equal((row["display"], row["from_record"]), (["dmabuf"], False))
    equal(leftovers(), [])


def qemus():
    """Those that were started to be asked."""
    processes = [line for line in out("ps -eo args").splitlines() if "gfxplane-verify-" in line]
    return processes + [name for name in out("virsh list --all --name").split() if "gfxplane-verify" in name]


def status():
    """What the kernel says of the QEMU that was started to be asked."""
    [pid] = out("pgrep -f '^[^ ]*qemu-system[^ ]* .*gfxplane-verify-'").split()
    return Path(f"/proc/{pid}/status").read_text()


def sleeps():
    """It is in the driver's open, where no signal reaches it."""
    return re.search(r"^State:\s+D", status(), re.M)


def is_told_to_end():
    """A signal waits for it."""
    return any(int(mask, 16) for mask in re.findall(r"^(?:Shd|Sig)Pnd:\s+([0-9a-f]+)", status(), re.M))


def test_a_start_comes_first():
    """The hook lets the start wait, and the QEMU that tries the device is ended for it."""
    out(f"create_mdev virtio-pci-hang {uuid(HANGS)}; udevadm settle")
    mark = RUN / "starting" / uuid(HANGS)
    domain("first", uuid(HANGS), display="off")
    mark.unlink(missing_ok=True)
    command = f"gfxplane probe --via qemu --fresh --deadline 300 --json {uuid(HANGS)}"
    asking = subprocess.Popen(command.split(), stdout=subprocess.PIPE, text=True)
    # One that is ended before it opens the device never gets that far.
    eventually("QEMU opens the device", sleeps)
    starting = subprocess.Popen(["virsh", "start", "--paused", "first"])
    eventually("the start is marked", mark.exists)
    # When it wakes it must have been told to end.
    eventually("its QEMU is told to end", is_told_to_end)
    out("release")
    [row] = json.loads(asking.communicate()[0])["probes"]
    equal((row["display"], row["reason"]), (["unknown"], "in-use"))
    equal(starting.wait(), 0, "the start")
    out("virsh destroy first; virsh undefine first; hold")
    eventually("its QEMU is gone", lambda: not qemus())
    out(f"remove_mdev {uuid(HANGS)}")


def test_a_driver_that_hangs():
    out(f"create_mdev virtio-pci-hang {uuid(HANGS)}; udevadm settle")
    result = sh(f"gfxplane probe --via qemu --deadline 10 --json {uuid(HANGS)}", check=False)
    print(result.stdout, result.stderr)
    out("release")
    [row] = json.loads(result.stdout)["probes"]
    equal((row["display"], row["reason"], result.returncode), (["unknown"], "timed-out", 1))
    eventually("its QEMU is gone", lambda: not qemus())
    out("hold")
    # libvirt may have written of its end after we had removed the log: the next run does that.
    via_qemu(4, "--fresh")
    equal(leftovers(), [])


def start(name, check):
    return sh(f"virsh start --paused {name}", check=check)


def test_learn():
    # a start that fails for want of OpenGL, and one for want of a display
    for number, word, why in ((2, "dmabuf", "refused it because OpenGL is missing"), (3, "none", "has found no display")):
        forget(number)
        domain("guest", uuid(number))
        result = start("guest", False)
        equal(result.returncode, 1, result.stderr)
        print(result.stderr)
        said = out("gfxplane learn guest")
        assert f"{uuid(number)}: {word}: QEMU {version()} {why}" in said, said
        entry = listed(uuid(number))
        equal((entry["display"], entry["evidence"]["method"]), ([word], "qemu"))
        learned = json.loads(out("gfxplane log guest --json"))["entries"][-1]
        equal((learned["what"], learned["by"]), ("learned", "learn"))
        again = document("learn", out("gfxplane learn guest --json"))
        equal(again["learned"][0]["is_new"], False)
        # asking the device overrules it
        out(f"gfxplane probe {uuid(number)}")
        equal(listed(uuid(number))["evidence"]["method"], "probe")
        out("virsh undefine guest")
    # one that starts: while it runs, and after
    forget(1)
    domain("guest", uuid(1))
    start("guest", True)
    said = out("gfxplane learn guest")
    assert f"{uuid(1)}: region: QEMU {version()} has started" in said, said
    equal(listed(uuid(1))["evidence"]["method"], "qemu")
    out("virsh destroy guest")
    forget(1)
    out("gfxplane learn guest")
    equal(listed(uuid(1))["display"], ["region"])
    # what a running guest's process could have written
    log = LOGS / "guest.log"
    with log.open("a") as file:
        file.write(f"2026-11-22T18:50:00.000000Z qemu: -device x: vfio {uuid(1)}: vfio-display-dmabuf: opengl not available\n")
    forget(1)
    out("gfxplane learn guest")
    equal(listed(uuid(1))["display"], ["region"])
    # not through a link, and not of a device that is younger than the start
    log.rename("/root/guest.log")
    log.symlink_to("/root/guest.log")
    result = sh("gfxplane learn guest", check=False)
    assert result.returncode == 3 and "is a link" in result.stderr, result
    log.unlink()
    Path("/root/guest.log").rename(log)
    out(f"remove_mdev {uuid(1)}; create_mdev mdpy-vga {uuid(1)}; udevadm settle")
    result = sh("gfxplane learn guest", check=False)
    assert result.returncode == 1 and "before the present devices" in result.stderr, result
    out("virsh undefine guest")
    # with OpenGL nothing is learned
    forget(2)
    domain("guest", uuid(2), graphics=spice_with_gl())
    start("guest", True)
    result = sh("gfxplane learn guest", check=False)
    assert result.returncode == 1 and "OpenGL" in result.stderr, result
    out("virsh destroy guest; virsh undefine guest")


def test_the_daemon_learns():
    (CONF / "rules.d/40-named.toml").write_text(NAMED_RULE)
    settings("zz-by-itself", "hook = 'warn'\n")
    out("systemctl unmask --runtime gfxplane.service; systemctl restart gfxplane.service")
    for number, (kind, display) in NAMED.items():
        out(f"create_mdev {kind} {uuid(number)}; udevadm settle")
        forget(number)
        equal(listed(uuid(number))["display"], ["unknown"], "nobody has named it")
        name = f"learn{number}"
        since = cursor()
        # The daemon leaves it as it is: nothing is known of its device.
        domain(name, uuid(number))
        eventually("it was looked at", lambda: name in journal(since))
        result = start(name, False)
        print(result.stderr)
        equal(result.returncode, 0 if display == ["region"] else 1, kind)
        eventually(f"{kind} is learned", lambda: listed(uuid(number))["display"] == display)
        equal(listed(uuid(number))["evidence"]["method"], "qemu", kind)
        eventually("it is said", lambda: f"{name}: learned: {uuid(number)}: {display[0]}" in journal(since))
        entries = json.loads(out(f"gfxplane log {name} --json"))["entries"]
        assert ("learned", "daemon") in [(entry["what"], entry["by"]) for entry in entries], entries
    # What it learned is no reason to keep a domain from starting: QEMU itself refuses again.
    settings("zz-by-itself", "hook = 'enforce'\n")
    result = start("learn21", False)
    assert "Hook script" not in result.stderr and "opengl not available" in result.stderr, result.stderr
    # The same, measured, is.
    out(f"gfxplane probe {uuid(21)}")
    result = start("learn21", False)
    assert "Hook script" in result.stderr, result.stderr


TESTS = [(name, test, 0) for name, test in list(globals().items()) if name.startswith("test_")]


def tidy():
    for name in out("virsh list --all --name").split():
        sh(f"virsh destroy {name}; virsh undefine {name}", check=False)
    # Who sleeps in a driver goes, and the next one that opens it sleeps again.
    sh("release", check=False)
    eventually("no QEMU is left", lambda: not qemus())
    sh(f"hold; remove_mdev {uuid(HANGS)}", check=False)


if __name__ == "__main__":
    sys.exit(run_tests(TESTS, "test_install", tidy, {"test_a_driver_that_wants_kvm": NO_KVM} if UML else None))
