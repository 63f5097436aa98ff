"""What the tests in the guest share: commands, waits, devices, domains, the journal, and who runs
the tests. Waits poll with a generous limit; times are printed, never asserted."""

import errno
import json
import os
import re
import subprocess
import sys
import time
import traceback
import xml.etree.ElementTree as ET
from contextlib import contextmanager
from pathlib import Path

import libvirt

# What fails is raised.
libvirt.registerErrorHandler(lambda *_: None, None)

LIB = "/usr/local/lib/gfxplane/lib.sh"
CONF = Path("/etc/gfxplane")
RUN = Path("/run/gfxplane")
LIMIT = 300
# What is done over and over is done less often, unless FULL=1 asks for all of it.
FULL = os.environ.get("FULL") == "1"
# User Mode Linux has iommufd and character devices beside groups, and neither KVM nor an IOMMU (README.md).
UML = "gfxplane.share=hostfs" in Path("/proc/cmdline").read_text()
NO_KVM = "there is no KVM in User Mode Linux"
# Where it is kept what earlier boots of the same guest came to.
BOOTS = Path("/root/boots.json")


def sh(command, check=True, **options):
    result = subprocess.run(
        ["bash", "-c", f". {LIB}; {command}"], capture_output=True, text=True, **options
    )
    if check and result.returncode:
        raise AssertionError(f"{command!r} ended with {result.returncode}: {result.stdout}{result.stderr}")
    return result


def out(command):
    return sh(command).stdout


def document(kind, text):
    """JSON that a program printed. A copy stays in the share: tests/vm/test holds it against json-schemas."""
    folder = Path("/mnt/share/documents")
    folder.mkdir(exist_ok=True)
    (folder / f"{kind}-{len(list(folder.iterdir()))}.json").write_text(text)
    return json.loads(text)


def version(command):
    """The first version in what a program prints, as numbers: (9, 0, 0)."""
    said = out(command)
    return tuple(int(part) for part in re.search(r"\d+(?:\.\d+)+", said)[0].split("."))


# Debian's from that version on is built with a spice-server that can encode OpenGL for TCP; before,
# SPICE with OpenGL is for a local viewer alone.
SPICE_GL_OVER_TCP = version("qemu-system-x86_64 --version") >= (10, 1)


def eventually(what, condition, limit=LIMIT):
    """Polls until condition() is true; its last error or value is in the message."""
    end = time.monotonic() + limit
    while True:
        try:
            value = condition()
            if value:
                return value
        except (AssertionError, ET.ParseError, KeyError, IndexError, StopIteration, OSError, libvirt.libvirtError) as error:
            value = error
        if time.monotonic() > end:
            raise AssertionError(f"in vain for {limit} s: {what}: {value}")
        time.sleep(0.2)


# What is looked at over and over comes from libvirt's library: a virsh is a process with fifty libraries, and in
# User Mode Linux that takes half a second. What users type is typed.


@contextmanager
def connected():
    connection = libvirt.open("qemu:///system")
    try:
        yield connection
    finally:
        connection.close()


def names():
    with connected() as connection:
        return [found.name() for found in connection.listAllDomains()]


def state(name):
    with connected() as connection:
        number = connection.lookupByName(name).state()[0]
    words = {libvirt.VIR_DOMAIN_RUNNING: "running", libvirt.VIR_DOMAIN_PAUSED: "paused", libvirt.VIR_DOMAIN_SHUTOFF: "shut off"}
    return words.get(number, number)


def definition(name):
    """As it is kept, with its passwords."""
    with connected() as connection:
        return connection.lookupByName(name).XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE)


def define(xml):
    with connected() as connection:
        connection.defineXML(xml)


def destroy(*domains):
    with connected() as connection:
        for name in domains:
            connection.lookupByName(name).destroy()


def undefine(*domains):
    with connected() as connection:
        for name in domains:
            connection.lookupByName(name).undefine()


def gone(*domains):
    """They are neither running nor defined any more, whatever they were."""
    with connected() as connection:
        for found in connection.listAllDomains():
            if found.name() in domains:
                for end in (found.destroy, found.undefine):
                    try:
                        end()
                    except libvirt.libvirtError:
                        pass
    equal(set(names()) & set(domains), set(), "still there")


def nodedevs():
    """The names of the active mdevs."""
    with connected() as connection:
        flags = libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_MDEV | libvirt.VIR_CONNECT_LIST_NODE_DEVICES_ACTIVE
        return [found.name() for found in connection.listAllDevices(flags)]


def nodedev_xml(name):
    with connected() as connection:
        return connection.nodeDeviceLookupByName(name).XMLDesc()


def equal(seen, expected, what=""):
    assert seen == expected, f"{what}: saw {seen!r}, expected {expected!r}"


def uuid(number):
    return f"{number:08d}-1111-4222-8333-444444444444"


def listed(device, devices=None):
    devices = devices or json.loads(out("gfxplane --quiet list --json"))["devices"]
    return next(entry for entry in devices if entry["id"] == device)


def domain_xml(name, device, graphics="<graphics type='vnc'/>", display="on", more="", memory=16):
    """A domain with one vfio device; without one if `device` is None. `more` goes before <devices>."""
    hostdev = "" if device is None else f"""
    <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='{display}'>
      <source><address uuid='{device}'/></source>
    </hostdev>"""
    return f"""<domain type='qemu'>
  <name>{name}</name>
  <memory unit='MiB'>{memory}</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  {more}
  <devices>
    <controller type='usb' model='none'/>
    <memballoon model='none'/>
    {graphics}
    <video><model type='none'/></video>{hostdev}
  </devices>
</domain>
"""


def domain(name, device, display="on", **options):
    """Defines it, and leaves it in /tmp/NAME.xml."""
    xml = domain_xml(name, device, display=display, **options)
    Path(f"/tmp/{name}.xml").write_text(xml)
    define(xml)


def vgem_node():
    """The render node that Mesa's software renderer serves; the guest's GPU has one, too."""
    for node in sorted(Path("/sys/class/drm").glob("renderD*")):
        if "/vgem" in str(node.resolve()):
            return f"/dev/dri/{node.name}"
    raise AssertionError("no render node of vgem")


def groups(devices):
    """The IOMMU groups of mdevs."""
    return [Path(f"/sys/bus/mdev/devices/{device}/iommu_group").resolve().name for device in devices]


def free(groups):
    """Whether nobody has a device of these groups."""
    for group in groups:
        try:
            os.close(os.open(f"/dev/vfio/{group}", os.O_RDWR))
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise
            return False
    return True


def short(text):
    """An error of libvirt's without what differs from run to run: time, domain, arguments, devices."""
    lines = [line for line in text.splitlines() if "qemu-system" in line] or text.splitlines()
    line = re.sub(r"^.*qemu-system-\w+: ", "", lines[-1]) if lines else ""
    line = re.sub(r"^(-\w+) ('?\{.*\}'?|\S+): ", r"\1: ", line)
    line = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "UUID", line)
    return re.sub(r"\s+", " ", line)[:300]


def spare_card():
    """The address and the directory of the network card that gfxplane_bus or tests/vm/run --iommu gives the guest."""
    devices = Path("/sys/bus/pci/devices").iterdir()
    [card] = [device for device in devices if (device / "class").read_text().startswith("0x0200")]
    return card.name, card


def bind_to_vfio(device):
    """A PCI device, by its directory."""
    if UML:
        out("modprobe vfio && echo 1 > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode")
    out(f"modprobe vfio-pci; echo vfio-pci > {device}/driver_override")
    if (device / "driver").exists():
        out(f"echo {device.name} > {device}/driver/unbind")
    out(f"echo {device.name} > /sys/bus/pci/drivers_probe")
    equal((device / "driver").resolve().name, "vfio-pci")


def install(rules=None):
    """The package, with settings for a machine that is slow."""
    for directory in ("conf.d", "rules.d"):
        (CONF / directory).mkdir(parents=True, exist_ok=True)
    (CONF / "conf.d/vm.toml").write_text("deadline = 60\n")
    if rules:
        (CONF / "rules.d/50-vm.toml").write_text(rules)
    return out("dpkg -i ./gfxplane.deb 2>&1")


def without_hook_and_daemon():
    """From now on libvirt and QEMU do what they do by themselves, and definitions stay as they are,
    also after the package is installed once more."""
    (CONF / "conf.d/zz-by-itself.toml").write_text("hook = 'off'\n")
    out("systemctl mask --runtime --now gfxplane.service")


def cursor():
    """Where the journal is now: an entry of our own. Counting from one that is no unit's, systemd 252 skips
    the first that is (--after-cursor)."""
    out("logger --tag lab here; journalctl --sync")
    return json.loads(out("journalctl --quiet -t lab -n 1 -o json"))["__CURSOR"]


def journal(since, which="-u gfxplane.service"):
    """What it has after a cursor() of some unit, or of `-t` some program."""
    return out(f"journalctl --sync; journalctl --quiet -o cat --cursor='{since}' {which}")


def denials():
    """AppArmor's, of whomever, a line each."""
    # Not splitlines(): audit puts another of its separators before the names of users.
    return [line for line in sh("apparmor_denials", check=False).stdout.split("\n") if line]


def what_happened(began):
    """What everybody has written down since then (time.time()): the journal, libvirt's and QEMU's logs of domains, and
    AppArmor's denials, which auditd keeps from the journal."""
    said = [("journal", sh(f"journalctl --sync; journalctl --quiet --no-pager -o short-precise --since=@{began:.0f}", check=False).stdout)]
    for log in sorted(Path("/var/log/libvirt/qemu").glob("*.log")):
        if log.stat().st_mtime >= began:
            said.append((str(log), log.read_text(errors="replace")))
    stamped = [(line, re.search(r"audit\((\d+)", line)) for line in denials()]
    said.append(("AppArmor", "\n".join(line for line, at in stamped if at and int(at[1]) >= began - 1)))
    for where, text in said:
        lines = text.strip().split("\n")
        print(f"--- {where}, the last {min(len(lines), 80)} of {len(lines)} lines")
        print("\n".join(line[:600] for line in lines[-80:]))
    print("---", flush=True)


def tidy_up(tidy):
    try:
        tidy()
    except Exception:
        traceback.print_exc(file=sys.stdout)


def run_tests(tests, first, tidy=lambda: None, not_here=None):
    """Runs tests, (name, function, boot) each, and prints what came of them; the exit status. `not_here`
    tells of tests, by name, why this machine has not what they need.

    Those of boot 0 are run first. If there are some of a later boot, the guest is asked to boot
    again, and they are run then: tests/vm/run --reboots. The arguments of the program are the names
    of the tests that are wanted; `first` is always run, and nothing can be told without it. `tidy` is
    called after a failure, so that the next test fails for itself alone."""
    wanted = [name for name in sys.argv[1:] if not name.startswith("--")]
    unknown = set(wanted) - {name for name, _, _ in tests}
    if unknown:
        print(f"no such tests: {' '.join(sorted(unknown))}")
        return 2
    tests = [test for test in tests if not wanted or test[0] in wanted or test[0] == first]
    for name in [name for name, _, _ in tests if name in (not_here or {})]:
        print(f"not on this machine: {name}: {not_here[name]}")
    tests = [test for test in tests if test[0] not in (not_here or {})]
    results = json.loads(BOOTS.read_text()) if BOOTS.exists() else {"boot": 0, "passed": 0, "failed": []}
    boot, broken = results["boot"], False
    for name, test, _ in [test for test in tests if test[2] == boot]:
        began, at = time.monotonic(), time.time()
        try:
            test()
            results["passed"] += 1
            verdict = "ok"
        except Exception:
            results["failed"].append(name)
            verdict = "FAILED"
            traceback.print_exc(file=sys.stdout)
        print(f"{verdict}: {name} ({time.monotonic() - began:.0f} s)", flush=True)
        if verdict == "FAILED":
            what_happened(at)
            tidy_up(tidy)
        broken = verdict == "FAILED" and name == first
        if broken:
            break
    if not broken and any(test[2] > boot for test in tests):
        BOOTS.write_text(json.dumps(results | {"boot": boot + 1}))
        Path("again").touch()
        print(f"boot {boot + 2}", flush=True)
        return 0
    print(" ".join([f"{results['passed']} passed, {len(results['failed'])} failed", *results["failed"]]), flush=True)
    return 1 if results["failed"] or broken else 0
