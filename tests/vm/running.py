"""The machine test of devices in use: gfxplane-probe asks them through the descriptor of the guest
that has them, while guests come and go. Run as root in the guest; the hook and the daemon are at
work. Every test is a function below, run in their order; each leaves no domains behind."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

from lab import FULL, RUN, domain, domain_xml, equal, eventually, install, journal, cursor, listed, out
from lab import UML, run_tests, sh, uuid

REGION, DMABUF = uuid(1), uuid(2)
TWO = [uuid(3), uuid(4)]
HANGS = uuid(5)
SPICE_GL = "<graphics type='spice'><listen type='none'/><gl enable='yes'/></graphics>"
STATUS = Path("/run/libvirt/qemu")
# Since then the kernel says of which device a descriptor is.
TELLS = (6, 18)


def kernel():
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int(minor.split("-")[0].split("+")[0])


def probe(device, *options, by=""):
    """What gfxplane-probe says, and its exit status. `by`: a command that runs it."""
    result = sh(f"{by} gfxplane-probe --json {' '.join(options)} {device}", check=False)
    assert result.stdout, result.stderr
    [answer] = json.loads(result.stdout)["probes"]
    return answer | {"status": result.returncode, "stderr": result.stderr}


def without_record(device):
    (RUN / "records" / f"{device}.json").unlink(missing_ok=True)


def ask_the_guest(device):
    """Asks until the answer came in time: under emulation a tenth of a second is little. How often."""
    for tries in range(1, 101):
        answer = probe(device, "--running", "--fresh")
        if answer["display"] != ["unknown"]:
            return answer, tries
        assert answer["reason"] == "in-use" and "within 100 ms" in answer["note"], answer
    raise AssertionError(f"{device}: never in time: {answer}")


def start(name, device, graphics="<graphics type='vnc'/>"):
    domain(name, device, graphics=graphics)
    out(f"virsh start --paused {name}")


def gone(name):
    sh(f"virsh destroy {name}; virsh undefine {name}", check=False)


def tidy():
    for name in out("virsh list --all --name").split():
        gone(name)


def test_install():
    out("load_modules")
    print(install())
    for kind, devices in {"mdpy-vga": [REGION, *TWO], "mbochs-small": [DMABUF]}.items():
        for device in devices:
            out(f"create_mdev {kind} {device}")
    for device in (REGION, DMABUF, *TWO):
        eventually("it is known", lambda: listed(device)["evidence"]["path"] == "group")
    scope = sh("sysctl -n kernel.yama.ptrace_scope", check=False).stdout
    print(f"  kernel {os.uname().release}, ptrace_scope {scope.strip() or 'none: there is no Yama'}")


def is_told_by_the_guest(name, device, display, graphics):
    before = probe(device)
    start(name, device, graphics)
    pid = int((STATUS / f"{name}.pid").read_text())
    print("  cgroup:", Path(f"/proc/{pid}/cgroup").read_text().strip().replace("\n", " "))
    print("  lock:", [line for line in out("cat /proc/locks").splitlines() if f" {pid} " in line])
    for link in Path(f"/proc/{pid}/fd").iterdir():
        if "vfio" in os.readlink(link):
            info = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().replace("\n", " ")
            print(f"  {link.name} -> {os.readlink(link)}: {info}")
    without_record(device)
    # By name, too: its start has just been marked.
    unasked = probe(device)
    equal((unasked["display"], unasked["reason"], unasked["step"]), (["unknown"], "in-use", "lock"))
    equal(unasked["status"], 1)
    answer, tries = ask_the_guest(device)
    print(f"  answered at try {tries}")
    equal((answer["display"], answer["path"], answer["status"]), (display, "guest", 0))
    # All that matters is what it was when we had opened the device.
    for word in ("display", "edid", "opregion", "kvm"):
        equal(answer.get(word), before.get(word), word)
    of_guest, of_ours = answer["device"], before["device"]
    equal(of_guest.pop("hot_reset"), "not-asked")
    of_ours.pop("hot_reset")
    # QEMU gives the screen its EDID and plugs it in.
    for edid in (of_guest.get("edid"), of_ours.get("edid")):
        if edid:
            del edid["edid_size"], edid["link_state"]
    equal(of_guest, of_ours)
    # It is a measurement as others are.
    entry = listed(device)
    equal((entry["display"], entry["evidence"]["method"], entry["evidence"]["path"]), (display, "probe", "guest"))
    equal(probe(device)["from_record"], True)
    xml = out(f"gfxplane nodedev-dumpxml {device}")
    assert "<evidence method='probe' path='guest'" in xml, xml
    Path("/tmp/device.xml").write_text(xml)
    out("xmllint --noout --relaxng /usr/share/gfxplane/schemas/gfxplane-nodedev.rng /tmp/device.xml")
    # The guest has noticed nothing.
    equal(out(f"virsh domstate {name}").strip(), "paused")
    out(f"virsh resume {name}; virsh destroy {name}")
    eventually("it can be opened again", lambda: probe(device, "--fresh")["path"] == "group")
    out(f"virsh start --paused {name}")
    gone(name)


def test_region_of_a_guest():
    is_told_by_the_guest("region", REGION, ["region"], "<graphics type='vnc'/>")


def test_dmabuf_of_a_guest():
    is_told_by_the_guest("dmabuf", DMABUF, ["dmabuf"], SPICE_GL)


def test_all_asks_guests_too():
    start("all", REGION)
    without_record(REGION)

    def answered():
        result = json.loads(sh("gfxplane-probe --json --all --running --fresh", check=False).stdout)
        by_path = {answer["id"]: answer.get("path") for answer in result["probes"]}
        return by_path[REGION] == "guest" and by_path[DMABUF] == "group"

    eventually("the guest's device and an idle one are asked", answered)
    gone("all")


def test_a_name_that_libvirt_escapes():
    text = domain_xml("it&apos;s &amp; only", REGION)
    Path("/tmp/escaped.xml").write_text(text)
    out("virsh define /tmp/escaped.xml")
    out('virsh start --paused "it\'s & only"')
    without_record(REGION)
    print("  ", sorted(path.name for path in STATUS.iterdir() if path.is_file()))
    answer, _ = ask_the_guest(REGION)
    equal(answer["path"], "guest")
    sh('virsh destroy "it\'s & only"; virsh undefine "it\'s & only"')


def test_a_guest_with_two_devices():
    """Before Linux 6.18 nobody says which descriptor is which."""
    second = f"<hostdev mode='subsystem' type='mdev' model='vfio-pci' display='off'><source><address uuid='{TWO[1]}'/></source></hostdev>"
    text = domain_xml("two", TWO[0]).replace("</devices>", f"{second}</devices>")
    Path("/tmp/two.xml").write_text(text)
    out("virsh define /tmp/two.xml; virsh start --paused two")
    for device in TWO:
        without_record(device)
        if kernel() >= TELLS:
            equal(ask_the_guest(device)[0]["display"], ["region"])
            continue
        answer = probe(device, "--running")
        equal((answer["display"], answer["reason"], answer["step"]), (["unknown"], "in-use", "descriptor"))
        assert "Linux 6.18" in answer["note"] and "has 2 vfio devices" in answer["note"], answer
        print("  ", answer["note"])
    gone("two")


def test_a_process_that_is_not_the_domains():
    """Each of the files that say so is another's once: nobody is asked."""
    start("other", REGION)
    equal(ask_the_guest(REGION)[0]["path"], "guest")
    without_record(REGION)
    pidfile, status = STATUS / "other.pid", STATUS / "other.xml"

    def refused(what):
        answer = probe(REGION, "--running")
        equal((answer.get("reason"), answer.get("step")), ("in-use", "guest"), what)
        print("  ", answer["note"])

    # The same text in another file, which QEMU has not locked.
    kept = STATUS / "other.kept"
    pidfile.rename(kept)
    refused("no pidfile")
    pidfile.write_text(kept.read_text())
    refused("nobody has locked it")
    kept.rename(pidfile)
    # Another process's number in both.
    true = pidfile.read_text()
    status_text = status.read_text()
    status.write_text(status_text.replace(f"pid='{true}'", f"pid='{os.getpid()}'", 1))
    assert status.read_text() != status_text
    refused("the pidfile says another")
    with open(pidfile, "r+") as file:
        file.write(str(os.getpid()).ljust(len(true)))
    refused("another has locked it")
    with open(pidfile, "r+") as file:
        file.write(true)
        file.truncate(len(true))
    # A status file that anybody may write.
    status.write_text(status_text)
    status.chmod(0o666)
    refused("others may write it")
    status.chmod(0o600)
    equal(ask_the_guest(REGION)[0]["path"], "guest")
    gone("other")


def test_a_qemu_that_is_nobodys():
    """One that was started by hand has the device: there is no domain to ask."""
    command = f"qemu-system-x86_64 -display none -vga none -nodefaults -S -monitor none -serial none -m 16 -device vfio-pci,sysfsdev=/sys/bus/mdev/devices/{REGION},display=off"
    qemu = subprocess.Popen(command.split())
    try:
        files = Path(f"/proc/{qemu.pid}/fd")
        eventually("it has the device", lambda: "anon_inode:[vfio-device]" in [os.readlink(file) for file in files.iterdir()])
        without_record(REGION)
        answer = probe(REGION, "--running")
        equal((answer["reason"], answer["step"]), ("in-use", "guest"))
        assert "none of libvirt's running domains" in answer["note"], answer
    finally:
        qemu.kill()
        qemu.wait()


def test_a_driver_that_hangs_under_a_guest():
    """Who holds the copy sleeps in the kernel, and not even SIGKILL ends it: the lock is kept until it
    does, and the guest notices nothing."""
    device, name = HANGS, "hangs"
    out(f"hold; create_mdev virtio-pci-hang-ioctl {device}; udevadm settle")
    # Its QEMU asks for no display.
    domain(name, device, display="off")
    out(f"virsh start --paused {name}")
    lock = RUN / "lock" / device
    try:
        # On a busy machine the 100 ms may be over before it asks anything, and then it is not asleep.
        asked = lambda answer: answer if answer["step"] != "copy" else None
        answer = eventually("it is asked", lambda: asked(probe(device, "--running")))
        equal((answer["display"], answer["reason"], answer["step"]), (["unknown"], "in-use", "control"), answer)
        print("  ", answer["note"])
        asleep = out("ps -eo stat=,comm= | grep '^D.*gfxplane'")
        print("  ", asleep.strip())
        equal(sh(f"flock --nonblock {lock} true", check=False).returncode, 1, "the lock")
        answer = probe(device, "--running", "--deadline", "3")
        equal((answer["reason"], answer["step"]), ("timed-out", "lock"), "nobody is sent after it")
        equal(out(f"virsh domstate {name}").strip(), "paused")
    finally:
        out("release")
    eventually("its lock is free", lambda: not sh(f"flock --nonblock {lock} true", check=False).returncode)
    equal(ask_the_guest(device)[0]["display"], ["region"], "released")
    out(f"virsh resume {name}; virsh destroy {name}; virsh start --paused {name}")
    gone(name)


def test_guests_that_come_and_go():
    """No start fails because somebody asks, and every answer is right or in-use."""
    rounds, seen, stop, wrong, guests = 200 if FULL else 20, {}, threading.Event(), [], []
    expected = {REGION: ["region"], DMABUF: ["dmabuf"]}

    def ask_on(device):
        while not stop.is_set():
            answer = probe(device, "--running", "--fresh")
            how = answer.get("path") if answer["display"] != ["unknown"] else f"{answer.get('reason')} at {answer.get('step')}"
            seen[how] = seen.get(how, 0) + 1
            # One that answered too late was asked, too.
            guests.append(answer.get("path") == "guest")
            if answer["display"] != expected[device] and answer.get("reason") != "in-use":
                wrong.append(answer)
            # Four that ask without a pause have the emulated processors to themselves.
            time.sleep(1)

    domain("come0", REGION)
    domain("come1", DMABUF, graphics=SPICE_GL)
    since = cursor()
    asking = [threading.Thread(target=ask_on, args=(device,)) for device in (REGION, DMABUF, REGION, DMABUF)]
    for thread in asking:
        thread.start()
    began, failed = time.monotonic(), []
    try:
        for number in range(rounds):
            name = f"come{number % 2}"
            sh(f"virsh destroy {name}", check=False)
            result = sh(f"virsh start --paused {name}", check=False)
            if result.returncode:
                failed.append(result.stderr)
    finally:
        stop.set()
        for thread in asking:
            thread.join()
    print(f"  {rounds} starts in {time.monotonic() - began:.0f} s; the answers: {seen}")
    equal(failed, [], "starts that failed")
    equal(wrong, [], "answers that are wrong")
    assert any(guests), "no guest was asked, so nothing was shown"
    print(journal(since, "-t gfxplane-helper"))
    tidy()


def test_no_right():
    """Neither for a user, nor for root where the kernel is told so; that can't be taken back."""
    start("right", REGION)
    without_record(REGION)
    answer = probe(REGION, "--running", by="setpriv --reuid 65534 --clear-groups")
    equal((answer["reason"], answer["step"], answer["status"]), ("permission", "lock", 3))
    out("sysctl -w kernel.yama.ptrace_scope=3")
    answer = probe(REGION, "--running")
    equal((answer["reason"], answer["step"], answer["errno"]), ("permission", "copy", "EPERM"))
    equal(answer["status"], 3)
    assert "Yama" in answer["note"], answer
    print("  ", answer["stderr"].strip())
    gone("right")


TESTS = [
    test_install,
    test_region_of_a_guest,
    test_dmabuf_of_a_guest,
    test_all_asks_guests_too,
    test_a_name_that_libvirt_escapes,
    test_a_guest_with_two_devices,
    test_a_process_that_is_not_the_domains,
    test_a_qemu_that_is_nobodys,
    test_a_driver_that_hangs_under_a_guest,
    test_guests_that_come_and_go,
    test_no_right,
]

if __name__ == "__main__":
    not_here = {"test_no_right": "this kernel has no Yama"} if UML else None
    sys.exit(run_tests([(test.__name__, test, 0) for test in TESTS], TESTS[0].__name__, tidy, not_here))
