"""The two ways to open a device, by its group and by its own node, and the VM for the drivers that
want one: what gfxplane-probe makes of devices that only the kernel can make.

Run in the guest by tests/vm/test. `--cdev`: the kernel has both ways, and what takes both is
tested; without it the kernel must have groups alone. User Mode Linux has both ways and no KVM."""

import itertools
import json
import os
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path

from lab import (
    CONF,
    LIMIT,
    NO_KVM,
    RUN,
    UML,
    bind_to_vfio,
    domain,
    domain_xml,
    equal,
    eventually,
    install,
    listed,
    out,
    run_tests,
    sh,
    spare_card,
    uuid,
    version,
    without_hook_and_daemon,
)

CDEV = UML or "--cdev" in sys.argv
PATHS = ["group", "cdev"] if CDEV else ["group"]
MDEVS = Path("/sys/bus/mdev/devices")
BIND_IOMMUFD = 0x3B76

# type -> number, display, whether its driver wants a VM
KINDS = {
    "mdpy-vga": (1, ["region"], False),
    "mbochs-small": (2, ["dmabuf"], False),
    "virtio-pci-kvm": (3, ["dmabuf"], True),
}
# type -> number, and what asking it comes to: display, reason, step and errno by group
OTHERS = {
    "virtio-pci-opregion": (11, ["dmabuf"], None, None, None),
    "virtio-pci-beyond": (12, ["region"], None, None, None),
    "virtio-pci-mail": (13, ["region"], None, None, None),
    "virtio-pci-zero": (14, ["unknown"], "untrusted", None, None),
    "virtio-pci-eio": (15, ["unknown"], "open-failed", "open", "EIO"),
    "virtio-pci-uuid": (16, ["unknown"], "open-failed", "open", "EIO"),
}
if UML:
    OTHERS["virtio-pci-kvm"] = (KINDS.pop("virtio-pci-kvm")[0], ["unknown"], "needs-vm", "kvm", "ENOENT")
HANGS = 17
RULES = """[[rule]]
name = 'hangs'
source = 'tests/kmod'
match = { type = ['virtio-pci-hang-ioctl'] }
open = 'named'

[[rule]]
name = 'samples'
source = 'tests/kmod'
match = { type = ['virtio-pci-*'] }
open = 'safe'
"""
# Both say that the driver wants a VM, and of mdpy that is not so.
RULES_THAT_WANT_KVM = """[[rule]]
name = 'wants-kvm'
source = 'tests/kmod'
match = { type = ['virtio-pci-kvm'] }
display = ['dmabuf']
kvm = true
open = 'safe'

[[rule]]
name = 'does-not-care'
source = 'tests/vm'
match = { type = ['mdpy-vga'] }
display = ['region']
kvm = true
open = 'safe'
"""
TO_GROUP = ["lock", "find", "container", "group", "viable", "attach"]
TO_CDEV = ["lock", "find", "iommufd", "cdev"]
VM = ["kvm", "kvm-vm", "kvm-device", "kvm-file"]
QUESTIONS = ["info", "region-info", "edid", "irq-info", "hot-reset", "control", "query-dmabuf", "query-region"]


def device(kind):
    return uuid(KINDS[kind][0])


def probe(kind, more="", code=None):
    """What asking anew comes to. The exit code is told by the answer, if not by `code`."""
    result = sh(f"gfxplane-probe --fresh --json {more} {device(kind)}", check=False)
    [answer] = json.loads(result.stdout)["probes"]
    known = answer["display"] != ["unknown"]
    equal(result.returncode, code if code is not None else int(not known), f"{kind}: {result.stdout}{result.stderr}")
    return answer, result.stderr


def fails(kind, reason, step, errno, more="", code=None):
    answer, said = probe(kind, more, code)
    seen = tuple(answer.get(key) for key in ("reason", "step", "errno"))
    equal(seen, (reason, step, errno), f"{kind} {more}: {said}")
    return answer, said


def steps(kind, *manner):
    """Those that a child takes, as it is started by who asks."""
    command = ["/usr/bin/gfxplane-probe", "--child", device(kind), str(os.getpid()), *manner]
    child = subprocess.run(command, capture_output=True, text=True)
    equal(json.loads(child.stdout)["facts"]["display"], KINDS[kind][1], f"{kind}: {child.stderr}")
    return child.stderr.split()


def group(kind):
    return Path("/dev/vfio") / (MDEVS / device(kind) / "iommu_group").resolve().name


def node(kind):
    [entry] = (MDEVS / device(kind) / "vfio-dev").iterdir()
    return Path("/dev/vfio/devices") / entry.name


@contextmanager
def away(path):
    """While this is not there."""
    aside = path.with_name(path.name + ".away")
    path.rename(aside)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        aside.rename(path)


@contextmanager
def opened(*paths):
    files = [os.open(path, os.O_RDWR) for path in paths]
    try:
        yield files
    finally:
        for file in reversed(files):
            os.close(file)


@contextmanager
def bound(kind):
    with opened("/dev/iommu", node(kind)) as (iommufd, file):
        ioctl(file, BIND_IOMMUFD, bytearray(struct.pack("IIiI", 16, 0, iommufd, 0)), True)
        yield


def test_udev_asks_all_of_them():
    """Without a rule that tells of KVM: the driver itself says so."""
    out("load_modules" if UML else "load_modules; modprobe kvm_amd nested=1")
    equal(Path("/dev/kvm").exists(), not UML, "/dev/kvm")
    equal(Path("/dev/iommu").exists(), CDEV, "/dev/iommu")
    print(install(rules=RULES))
    without_hook_and_daemon()
    for kind, (_, display, kvm) in KINDS.items():
        out(f"create_mdev {kind} {device(kind)}")
        eventually(f"{kind} is known", lambda: listed(device(kind))["evidence"]["method"] == "probe")
        entry = listed(device(kind))
        seen = entry["display"], entry["evidence"]["path"], entry.get("kvm", False)
        equal(seen, (display, "group", kvm), f"{kind}: {entry}")
    if not UML:
        assert "GFXPLANE_HOST_KVM=yes" in out(f"udevadm info /sys/bus/mdev/devices/{device('virtio-pci-kvm')}")


def test_the_steps():
    kind = "mdpy-vga"
    equal(steps(kind), [*TO_GROUP, "open", *QUESTIONS])
    if CDEV:
        equal(steps(kind, "--path=cdev"), [*TO_CDEV, "bind", *QUESTIONS])


def test_the_steps_with_a_vm():
    kvm, other = "virtio-pci-kvm", "mdpy-vga"
    equal(steps(other, "--kvm"), [*TO_GROUP, *VM, "open", *QUESTIONS], "a driver that does not care")
    equal(steps(kvm), [*TO_GROUP, "open", *VM, "open", *QUESTIONS], "refused, then with a VM")
    equal(steps(kvm, "--kvm"), [*TO_GROUP, *VM, "open", *QUESTIONS], "from the start")
    if CDEV:
        equal(steps(other, "--path=cdev", "--kvm"), [*TO_CDEV, *VM, "bind", *QUESTIONS])
        equal(steps(kvm, "--path=cdev"), [*TO_CDEV, "bind", *VM, "bind", *QUESTIONS])
        equal(steps(kvm, "--path=cdev", "--kvm"), [*TO_CDEV, *VM, "bind", *QUESTIONS])


def test_both_ways_say_the_same():
    for kind, (_, display, kvm) in KINDS.items():
        answers = {}
        for path in PATHS:
            began = time.monotonic()
            answer, _ = probe(kind, f"--path {path}")
            print(f"  {kind} by {path}: {time.monotonic() - began:.2f} s")
            equal((answer.pop("path"), answer["display"], answer.get("kvm", False)), (path, display, kvm), kind)
            equal(listed(device(kind))["evidence"]["path"], path, f"{kind}: the record")
            assert answer["device"]["regions"], answer
            answers[path] = answer
        for answer in answers.values():
            equal(answer, answers["group"], kind)
        # The record is of the last way, and answers for no other.
        for path in reversed(PATHS):
            from_record = "[from its record]" in out(f"gfxplane probe --path {path} {device(kind)}")
            equal(from_record, path == PATHS[-1], f"{kind}: {path}")


def test_no_vm_can_be_made():
    """Each time its record stays, because nothing else was measured."""
    kind = "virtio-pci-kvm"
    for path in PATHS:
        more = f"--path {path}"
        with away(Path("/dev/kvm")):
            answer, _ = fails(kind, "needs-vm", "kvm", "ENOENT", more)
            equal((answer["path"], answer["kvm"]), (path, True))
            assert "can't be made here" in answer["note"], answer
            os.mknod("/dev/kvm", 0o020666, os.makedev(1, 3))
            fails(kind, "needs-vm", "kvm-vm", "ENOTTY", more)
            equal(probe("mdpy-vga", more)[0]["display"], ["region"], "who wants no VM")
        equal(listed(device(kind))["display"], ["dmabuf"], "the record")
        equal(probe(kind, more)[0]["display"], ["dmabuf"], "again with KVM")


def test_a_rule_says_that_it_wants_one():
    rules = CONF / "rules.d/40-kvm.toml"
    rules.write_text(RULES_THAT_WANT_KVM)
    for path in PATHS:
        for kind in ("virtio-pci-kvm", "mdpy-vga"):
            answer, _ = probe(kind, f"--path {path}")
            equal((answer["display"], answer["kvm"]), (KINDS[kind][1], True), kind)
    rules.unlink()
    # That it was so in a record is believed until the device is made anew.
    equal(probe("mdpy-vga")[0]["kvm"], True)
    out(f"remove_mdev {device('mdpy-vga')}; create_mdev mdpy-vga {device('mdpy-vga')}")

    def is_asked_anew():
        entry = listed(device("mdpy-vga"))
        return entry["evidence"]["method"] == "probe" and "kvm" not in entry

    eventually("made anew it wants none", is_asked_anew)


def test_busy():
    for kind, (_, display, kvm) in KINDS.items():
        with opened(group(kind)):
            fails(kind, "in-use", "group", "EBUSY", "--path group")
            fails(kind, "in-use", "group", "EBUSY")
            if CDEV:
                fails(kind, "in-use", "bind", "EBUSY", "--path cdev")
        if CDEV:
            with opened(node(kind)):
                for path in PATHS:
                    equal(probe(kind, f"--path {path}")[0]["display"], display, "unbound it is in nobody's way")
        # One that wants a VM binds for nobody without.
        if CDEV and not kvm:
            with bound(kind):
                fails(kind, "in-use", "group", "EBUSY", "--path group")
                fails(kind, "in-use", "bind", "EINVAL", "--path cdev")
                # A kernel without groups has nothing else to tell by.
                with away(group(kind)):
                    fails(kind, "in-use", "bind", "EINVAL", "--path cdev")
        for path in PATHS:
            equal(probe(kind, f"--path {path}")[0]["display"], display, "free again")


def test_it_is_free_when_the_answer_is_there():
    """The VM has the device's file open, too, and lets go of it before the child ends."""
    for kind in {"virtio-pci-kvm", "mbochs-small"} & set(KINDS):
        for turn in range(12):
            path = PATHS[turn % len(PATHS)]
            equal(probe(kind, f"--path {path}")[0]["display"], ["dmabuf"], f"{kind}, turn {turn}, {path}")


def test_a_way_that_the_kernel_has_not():
    if CDEV:
        with away(Path("/dev/iommu")):
            _, said = fails("mdpy-vga", "no-vfio", "iommufd", "ENOENT", "--path cdev", code=3)
            assert "CONFIG_IOMMUFD" in said, said
        with away(Path("/dev/vfio/vfio")):
            _, said = fails("mdpy-vga", "no-vfio", "container", "ENOENT", "--path group", code=3)
            for kind, (_, display, kvm) in KINDS.items():
                answer, _ = probe(kind)
                seen = answer["path"], answer["display"], answer.get("kvm", False)
                equal(seen, ("cdev", display, kvm), "what is left is taken")
    else:
        _, said = fails("mdpy-vga", "no-vfio", "find", "ENOENT", "--path cdev", code=3)
        assert "CONFIG_VFIO_DEVICE_CDEV" in said, said
    # Nothing of it was kept.
    equal(listed(device("mdpy-vga"))["display"], ["region"])


def ask(device, more="--fresh"):
    """The answer, and the exit code."""
    result = sh(f"gfxplane-probe --json {more} {device}", check=False)
    [answer] = json.loads(result.stdout)["probes"]
    return answer, result.returncode


def said(answer):
    return tuple(answer.get(key) for key in ("display", "reason", "step", "errno"))


def test_what_else_there_is():
    """Each outcome that the others have not, by both ways, of devices that udev had asked."""
    for kind, (number, *expected) in OTHERS.items():
        device, known = uuid(number), expected[0] != ["unknown"]
        out(f"create_mdev {kind} {device}")
        eventually(f"{kind} was asked", lambda: (RUN / "records" / f"{device}.json").exists())
        entry = listed(device)
        equal((entry["display"], entry.get("reason")), tuple(expected[:2]), f"{kind}: {entry}")
        for path in PATHS:
            answer, code = ask(device, f"--fresh --path {path}")
            display, reason, step, errno = expected
            step = "bind" if (step, path) == ("open", "cdev") else step
            equal((*said(answer), code), (display, reason, step, errno, int(not known)), f"{kind} by {path}: {answer}")
            regions = [region["index"] for region in (answer.get("device") or {}).get("regions", [])]
            if kind == "virtio-pci-opregion":
                equal(answer["opregion"], {"size": 8192}, kind)
                equal(answer["edid"], {"max_xres": 1920, "max_yres": 1200}, kind)
            else:
                assert "opregion" not in answer and "edid" not in answer, f"{kind}: {answer}"
            if kind == "virtio-pci-beyond":
                # Its plane is in region 9, for which nobody has asked.
                equal(answer["device"]["num_regions"], 9, kind)
                assert max(regions) < 9, answer
        evidence = listed(device)["evidence"]
        method = "kernel" if kind == "virtio-pci-mail" else "probe"
        equal(evidence["method"], method, f"{kind}: {evidence}")
    xml = out(f"gfxplane nodedev-dumpxml {uuid(OTHERS['virtio-pci-opregion'][0])}")
    assert "<opregion size='8192'/>" in xml and "<edid max_xres='1920' max_yres='1200'/>" in xml, xml


def test_the_kernel_is_believed_before_the_device():
    """The mail's files of a real sysfs; then they say what the device denies."""
    device = uuid(OTHERS["virtio-pci-mail"][0])
    assert "disagreements" not in listed(device), listed(device)
    plane = MDEVS / device / "mdev_type/vfio-pci/device/gfx_plane"
    equal({path.name: path.read_text() for path in plane.iterdir()}, {"dmabuf": "N\n", "region": "Y\n"})
    Path("/root/yes").write_text("Y\n")
    Path("/root/no").write_text("N\n")
    out(f"mount --bind /root/yes {plane}/dmabuf; mount --bind /root/no {plane}/region")
    try:
        entry = listed(device)
        equal((entry["display"], entry["evidence"]["method"]), (["dmabuf"], "kernel"), entry)
        others = [(other["display"], other["evidence"]["method"]) for other in entry["disagreements"]]
        equal(others[0], (["region"], "probe"), entry)
        equal(ask(device)[0]["display"], ["region"], "the device itself")
    finally:
        out(f"umount {plane}/dmabuf {plane}/region")
    equal(listed(device)["display"], ["region"])


def test_a_query_that_hangs():
    """It opens at once, and hangs at the first question about its display. Its lock is kept as long."""
    device = uuid(HANGS)
    out(f"hold; create_mdev virtio-pci-hang-ioctl {device}; udevadm settle")
    equal(listed(device)["display"], ["unknown"], "nobody has named it")
    try:
        for path in PATHS:
            out("hold")
            answer, code = ask(device, f"--fresh --path {path} --deadline 30")
            equal((*said(answer), code), (["unknown"], "timed-out", "control", None, 1), f"by {path}: {answer}")
            entry = listed(device)
            # What has been measured by the first way outlives an attempt by the second.
            known = ["unknown"] if path == PATHS[0] else ["region"]
            equal((entry["display"], entry["evidence"].get("step")), (known, "control" if path == PATHS[0] else None))
            answer, _ = ask(device, f"--fresh --path {path} --deadline 5")
            equal(said(answer)[1:3], ("timed-out", "lock"), "nobody is sent after it")
            equal(listed(device), entry, "that says nothing of the device")
            out("release")
            answer, _ = ask(device, f"--fresh --path {path}")
            equal(said(answer), (["region"], None, None, None), f"released, by {path}: {answer}")
    finally:
        out("release")


def test_what_who_asks_may_still_do():
    """With the device open: new rights by nothing, no capability, few system calls, no other file."""
    device = uuid(HANGS)
    if not (MDEVS / device).exists():
        out(f"hold; create_mdev virtio-pci-hang-ioctl {device}; udevadm settle")
    # The second as udev's service is with systemd before 255.
    without = ["systemd-run", "--quiet", "--wait", "--collect", "-p", "SystemCallErrorNumber=EPERM"]
    without += ["-p", "SystemCallFilter=~seccomp landlock_create_ruleset"]
    for path, confined in itertools.product(PATHS, ([], without)):
        out("hold")
        command = [*confined, "/usr/bin/gfxplane-probe", "--json", "--fresh", "--path", path, "--deadline", "60", device]
        asker = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        what_is = f"{path} {confined}"
        try:
            eventually(f"{what_is}: somebody sleeps in the query", lambda: len(sleepers()) == 1)
            [status] = sleepers()
            for what, expected in (("NoNewPrivs", "1"), ("Seccomp", "2"), ("CapPrm", "0" * 16), ("CapEff", "0" * 16)):
                equal(status[what], expected, f"{what_is}: {what}")
            asks = Path(f"/proc/{status['PPid']}/status").read_text()
            [others] = [line.split()[1] for line in asks.splitlines() if line.startswith("Seccomp_filters:")]
            equal((int(others) > 0, int(status["Seccomp_filters"])), (bool(confined), int(others) + 1), what_is)
            limits = Path(f"/proc/{status['Pid']}/limits").read_text()
            [files] = [line for line in limits.splitlines() if line.startswith("Max open files")]
            equal(files.split()[3:5], ["0", "0"], f"{what_is}: {files}")
        finally:
            out("release")
            equal(asker.wait(LIMIT), 0, f"{what_is}: and it answers")


def sleepers():
    """The status of each gfxplane-probe that sleeps and can't be killed."""
    found = []
    for file in Path("/proc").glob("[0-9]*/status"):
        try:
            status = dict(line.split(":\t", 1) for line in file.read_text().splitlines() if ":\t" in line)
        except OSError:
            continue
        if status["Name"] == "gfxplane-probe" and status["State"].startswith("D"):
            found.append({name: value.strip() for name, value in status.items()})
    return found


QEMU = "qemu-system-x86_64 -display none -vga none -nodefaults -S -monitor none -serial none -m 16"


def by(way, kind, display):
    """The arguments with which a QEMU opens it."""
    first, more = {"group": ("", ""), "cdev": (" -object iommufd,id=iommufd0", ",iommufd=iommufd0")}[way]
    return f"{first} -device vfio-pci,sysfsdev={MDEVS / device(kind)}{more},display={display}"


def files(process):
    """What it has open of vfio's and iommufd's."""
    links = [os.readlink(link) for link in Path(f"/proc/{process}/fd").iterdir()]
    return {link for link in links if link.startswith(("/dev/vfio", "/dev/iommu"))}


def in_use_by_both_ways(kind):
    fails(kind, "in-use", "group", "EBUSY", "--path group")
    # As others who have bound it: EINVAL, and a group in use is EBUSY.
    for answer in (probe(kind, "--path cdev")[0], probe(kind)[0]):
        equal((answer["display"], answer["reason"]), (["unknown"], "in-use"), f"{kind}: {answer}")


def cdev_a_qemu():
    """It says of a display what it says by the group, and who it has is in use by both ways."""
    for kind, expected in {"mdpy-vga": None, "mbochs-small": "opengl not available"}.items():
        for way in PATHS:
            qemu = subprocess.Popen((QEMU + by(way, kind, "on")).split(), stderr=subprocess.PIPE, text=True)
            try:
                if expected:
                    _, said = qemu.communicate(timeout=120)
                    assert qemu.returncode and expected in said, f"{kind} by {way}: {said}"
                    continue
                opened_by_it = {"group": str(group(kind)), "cdev": str(node(kind))}
                eventually(f"{kind} by {way}", lambda: opened_by_it[way] in files(qemu.pid))
                equal({p for p in PATHS if opened_by_it[p] in files(qemu.pid)}, {way}, f"{kind}: {files(qemu.pid)}")
                eventually("it has bound it", lambda: probe(kind)[0].get("reason") == "in-use")
                in_use_by_both_ways(kind)
                equal(qemu.poll(), None, "the QEMU still runs")
            finally:
                qemu.kill()
                qemu.wait()
        for path in PATHS:
            equal(probe(kind, f"--path {path}")[0]["display"], KINDS[kind][1], "free again")


def cdev_a_domain():
    """libvirt 12 has iommufd for PCI hostdevs alone: of an mdev it is dropped, and the group opened."""
    kind, name = "mdpy-vga", "iommufd"
    whole = domain_xml(name, device(kind), more="<iommufd enabled='yes'/>")
    asked = whole.replace("<source>", "<driver iommufd='yes'/><source>")
    assert asked != whole
    Path("/tmp/asked.xml").write_text(asked)
    refused = sh("virsh define --validate /tmp/asked.xml", check=False)
    assert refused.returncode and "schema" in refused.stderr, refused
    out("virsh define /tmp/asked.xml")
    try:
        defined = out(f"virsh dumpxml {name}")
        assert "<iommufd enabled='yes'" in defined and "<driver iommufd" not in defined, defined
        out(f"virsh start --paused {name}")
        process = int(Path(f"/run/libvirt/qemu/{name}.pid").read_text())
        opened_by_it = files(process)
        assert str(group(kind)) in opened_by_it and str(node(kind)) not in opened_by_it, opened_by_it
        # Two minutes long the hook's word is enough; then the device itself is tried.
        fails(kind, "in-use", "lock", None, "--path cdev")
        (RUN / "starting" / device(kind)).unlink()
        in_use_by_both_ways(kind)
    finally:
        sh(f"virsh destroy {name}; virsh undefine {name}", check=False)


def cdev_a_domain_with_a_pci_device():
    """Of a PCI device libvirt opens the node and hands it on. gfxplane opens neither way."""
    address, card = spare_card()
    bind_to_vfio(card)
    name, (domain_number, bus, rest) = "pci", address.split(":")
    slot, function = rest.split(".")
    hostdev = f"""<hostdev mode='subsystem' type='pci' managed='no'>
      <driver name='vfio' iommufd='yes'/>
      <source><address domain='0x{domain_number}' bus='0x{bus}' slot='0x{slot}' function='0x{function}'/></source>
    </hostdev>"""
    Path("/tmp/pci.xml").write_text(domain_xml(name, None, more="<iommufd enabled='yes'/>").replace("</devices>", f"{hostdev}</devices>"))
    out("virsh define --validate /tmp/pci.xml")
    try:
        before = out("gfxplane fixup --print-xml pci"), listed(address)
        out(f"virsh start --paused {name}")
        process = int(Path(f"/run/libvirt/qemu/{name}.pid").read_text())
        opened_by_it, [entry] = files(process), (card / "vfio-dev").iterdir()
        print(f"  {opened_by_it}")
        assert f"/dev/vfio/devices/{entry.name}" in opened_by_it, opened_by_it
        equal((out("gfxplane fixup --print-xml pci"), listed(address)), before, "what is said of it")
        equal((listed(address)["display"], listed(address)["open"]), (["none"], "never"))
    finally:
        sh(f"virsh destroy {name}; virsh undefine {name}", check=False)


def cdev_a_domain_with_arguments():
    """Its QEMU is told to open it by its own node, and its /dev has no /dev/iommu."""
    kind, name = "mdpy-vga", "arguments"
    words = by("cdev", kind, "on").split()
    arguments = "".join(f"<qemu:arg value='{word}'/>" for word in words)
    more = f"<qemu:commandline xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>{arguments}</qemu:commandline>"
    domain(name, None, more=more)
    try:
        refused = sh(f"virsh start --paused {name}", check=False)
        assert refused.returncode and "/dev/iommu" in refused.stderr, refused
        equal(probe(kind)[0]["display"], ["region"], "nobody has it")
    finally:
        sh(f"virsh destroy {name}; virsh undefine {name}", check=False)


NEEDS_LIBVIRT_12 = [cdev_a_domain, cdev_a_domain_with_a_pci_device, cdev_a_domain_with_arguments]
TESTS = [(name, test, 0) for name, test in list(globals().items()) if name.startswith("test_")]
# QEMU has the object iommufd since 8.2.
if CDEV and version("qemu-system-x86_64 --version") >= (8, 2):
    TESTS.append(("cdev_a_qemu", cdev_a_qemu, 0))
    if version("virsh --version") >= (12, 0):
        TESTS += [(test.__name__, test, 0) for test in NEEDS_LIBVIRT_12]
NOT_IN_UML = {test.__name__: NO_KVM for test in (test_the_steps_with_a_vm, test_no_vm_can_be_made, test_a_rule_says_that_it_wants_one)}
NOT_IN_UML["cdev_a_domain_with_a_pci_device"] = "there is no IOMMU in User Mode Linux"
sys.exit(run_tests(TESTS, "test_udev_asks_all_of_them", not_here=NOT_IN_UML if UML else None))
