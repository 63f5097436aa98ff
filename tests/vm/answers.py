"""What the devices of tests/kmod, and the kernel's samples, answer, asked with bare ioctls: the
table of README.md. Nothing of gfxplane is in it; what gfxplane makes of them is for other tests.

Run in the guest by tests/vm/test. On a kernel with character devices each question is asked on
both ways, and the two get in each other's way as they should."""

import errno
import mmap
import os
import re
import signal
import struct
import sys
from array import array
from contextlib import contextmanager, nullcontext
from fcntl import ioctl
from pathlib import Path

from lab import LIMIT, NO_KVM, UML, equal, eventually, out, run_tests, sh, uuid

MDEVS = Path("/sys/bus/mdev/devices")

# linux/vfio.h
SET_IOMMU, GROUP_SET_CONTAINER, GROUP_GET_DEVICE_FD = 0x3B66, 0x3B68, 0x3B6A
GET_INFO, GET_REGION_INFO, HOT_RESET_INFO = 0x3B6B, 0x3B6C, 0x3B70
QUERY_GFX_PLANE, GET_GFX_DMABUF, BIND_IOMMUFD = 0x3B72, 0x3B73, 0x3B76
TYPE1V2 = 3
PROBE, DMABUF, REGION = 1, 2, 4
PLANE_SIZE = 64
READ, WRITE, MMAP, CAPS = 1, 2, 4, 8
XRGB8888 = 0x34325258
# linux/kvm.h
KVM_CREATE_VM, KVM_CREATE_DEVICE, KVM_SET_DEVICE_ATTR = 0xAE01, 0xC00CAEE0, 0x4018AEE1
KVM_DEV_TYPE_VFIO, KVM_DEV_VFIO_FILE, KVM_DEV_VFIO_FILE_ADD, KVM_DEV_VFIO_FILE_DEL = 4, 1, 1, 2

# type -> answers to PROBE|DMABUF, PROBE|REGION, PROBE, PROBE|DMABUF|REGION; num_regions
REFUSED, UNKNOWN = "EINVAL", "ENOTTY"
ANSWERS = {
    "region": (REFUSED, 0, REFUSED, REFUSED, 9),
    "dmabuf": (0, REFUSED, REFUSED, REFUSED, 10),
    "both": (0, 0, REFUSED, REFUSED, 10),
    "none": (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, 9),
    "mail": (REFUSED, 0, REFUSED, REFUSED, 9),
    "kvm": (0, REFUSED, REFUSED, REFUSED, 10),
    "opregion": (0, REFUSED, REFUSED, REFUSED, 11),
    "zero": (0, 0, 0, 0, 9),
    "beyond": (REFUSED, 0, REFUSED, 0, 9),
    "uuid": (REFUSED, 0, REFUSED, 0, 9),
    "yes": (0, 0, 0, 0, 9),
    "mdpy-vga": (REFUSED, 0, REFUSED, REFUSED, 9),
    "mbochs-small": (0, REFUSED, REFUSED, REFUSED, 10),
    "mtty-1": (UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN, 9),
}
if UML:
    # Its driver wants a VM of the opener's.
    del ANSWERS["kvm"]
KERNELS_OWN = ("mdpy-vga", "mbochs-small", "mtty-1")
NUMBERS = {kind: 50 + number for number, kind in enumerate([*ANSWERS, *(["kvm"] if UML else []), "hang", "hang-ioctl", "eio"])}
# A second one, for two devices at one VM.
SECOND_KVM = 90


def attempt(function, *arguments):
    """What it returned, or the name of its error."""
    try:
        return function(*arguments)
    except OSError as error:
        return errno.errorcode[error.errno]


def device(kind):
    return uuid(NUMBERS[kind])


class Kvm:
    """An empty VM of this process."""

    def __init__(self):
        self.node = os.open("/dev/kvm", os.O_RDWR)
        self.vm = ioctl(self.node, KVM_CREATE_VM, 0)
        request = bytearray(struct.pack("III", KVM_DEV_TYPE_VFIO, 0, 0))
        ioctl(self.vm, KVM_CREATE_DEVICE, request, True)
        self.vfio = struct.unpack("III", request)[1]

    @contextmanager
    def with_file(self, file):
        """The VM keeps the file open, and the device busy, until it is told to let go."""
        self.set_attribute(KVM_DEV_VFIO_FILE_ADD, file)
        try:
            yield
        finally:
            self.set_attribute(KVM_DEV_VFIO_FILE_DEL, file)

    def set_attribute(self, attribute, file):
        number = array("i", [file])
        request = struct.pack("IIQQ", 0, KVM_DEV_VFIO_FILE, attribute, number.buffer_info()[0])
        ioctl(self.vfio, KVM_SET_DEVICE_ATTR, bytearray(request), True)

    def close(self):
        for file in (self.vfio, self.vm, self.node):
            os.close(file)


@contextmanager
def files():
    """Closes what was put in the list, the last one first."""
    opened = []
    try:
        yield opened
    finally:
        for file in reversed(opened):
            os.close(file)


def node(name):
    """The device's character device, if the kernel has them."""
    [name] = [entry.name for entry in (MDEVS / name / "vfio-dev").iterdir()]
    path = Path("/dev/vfio/devices") / name
    return path if path.exists() else None


class Group:
    """Group and container. `attach` gives the file that KVM is told of, `open` the device."""

    @staticmethod
    def attach(opened, name):
        number = (MDEVS / name / "iommu_group").resolve().name
        opened.append(os.open("/dev/vfio/vfio", os.O_RDWR))
        opened.append(os.open(f"/dev/vfio/{number}", os.O_RDWR))
        container, group = opened
        ioctl(group, GROUP_SET_CONTAINER, bytearray(struct.pack("i", container)), True)
        ioctl(container, SET_IOMMU, TYPE1V2)
        return group

    @staticmethod
    def open(opened, name):
        opened.append(ioctl(opened[1], GROUP_GET_DEVICE_FD, bytearray(name.encode() + b"\0"), True))
        return opened[2]


class Cdev:
    """Character device and iommufd."""

    @staticmethod
    def attach(opened, name):
        opened.append(os.open("/dev/iommu", os.O_RDWR))
        opened.append(os.open(node(name), os.O_RDWR))
        return opened[1]

    @staticmethod
    def open(opened, name):
        iommufd, file = opened
        ioctl(file, BIND_IOMMUFD, bytearray(struct.pack("IIiI", 16, 0, iommufd, 0)), True)
        return file


def ways():
    return [Group, Cdev] if node(device("region")) else [Group]


@contextmanager
def device_file(way, name, kvm=None):
    with files() as opened:
        file = way.attach(opened, name)
        with kvm.with_file(file) if kvm else nullcontext():
            yield way.open(opened, name)


def open_fails(way, name, kvm=None):
    """The name of the error with which it doesn't open; 0 if it does."""
    try:
        with device_file(way, name, kvm):
            return 0
    except OSError as error:
        return errno.errorcode[error.errno]


def query(file, flags):
    """The answer, and the struct afterwards. It has marks where drivers write."""
    plane = bytearray(struct.pack("II", PLANE_SIZE, flags) + b"\xaa" * (PLANE_SIZE - 8))
    return attempt(ioctl, file, QUERY_GFX_PLANE, plane, True), plane


def plane_of(file, flags):
    answer, plane = query(file, flags)
    equal(answer, 0, f"the plane for flags {flags}")
    (form,) = struct.unpack_from("I", plane, 12)
    width, height, stride, size = struct.unpack_from("IIII", plane, 24)
    (index,) = struct.unpack_from("I", plane, 56)
    return form, width, height, stride, size, index


def info(file):
    """flags, number of regions, number of interrupts"""
    request = bytearray(struct.pack("IIIII", 20, 0, 0, 0, 0))
    ioctl(file, GET_INFO, request, True)
    return struct.unpack_from("III", request, 4)


def region(file, index):
    """flags, size, offset, and the type and subtype of its capability"""
    request = bytearray(struct.pack("IIIIQQ", 32, 0, index, 0, 0, 0))
    ioctl(file, GET_REGION_INFO, request, True)
    (argsz,) = struct.unpack_from("I", request)
    if argsz > 32:
        request = bytearray(struct.pack("IIIIQQ", argsz, 0, index, 0, 0, 0) + bytes(argsz - 32))
        ioctl(file, GET_REGION_INFO, request, True)
    _, flags, _, cap, size, offset = struct.unpack_from("IIIIQQ", request)
    kind = None
    if flags & CAPS:
        identity, _, _, *kind = struct.unpack_from("HHIII", request, cap)
        equal(identity, 2, "the capability is a type")
    return flags, size, offset, tuple(kind or ())


def words(file, offset, count):
    return [struct.unpack("I", os.pread(file, 4, offset + 4 * at))[0] for at in range(count)]


def ended(child):
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def that_open(*kinds):
    """Those that can be opened on this machine."""
    return [kind for kind in kinds if kind in ANSWERS]


def opened(kind):
    """The device, opened on each way with what it wants, one after the other."""
    for way in ways():
        kvm = Kvm() if kind == "kvm" else None
        try:
            with device_file(way, device(kind), kvm) as file:
                yield file
        finally:
            if kvm:
                kvm.close()


def with_uuid(command, *arguments):
    """Runs `command`, see the end, in a process that has -uuid on its command line."""
    return out(f"python3 ./answers.py -uuid {uuid(1)} {command} {' '.join(arguments)}")


def test_the_devices_are_there():
    out("load_modules" if UML else "load_modules; modprobe kvm_amd nested=1")
    for kind in NUMBERS:
        prefix = "" if kind in KERNELS_OWN else "virtio-pci-"
        out(f"create_mdev {prefix}{kind} {device(kind)}")
    out(f"create_mdev virtio-pci-kvm {uuid(SECOND_KVM)}; udevadm settle")
    print("ways:", *[way.__name__ for way in ways()], flush=True)


def answers_of(file):
    asked = [PROBE | DMABUF, PROBE | REGION, PROBE, PROBE | DMABUF | REGION]
    return tuple(query(file, flags)[0] for flags in asked) + (info(file)[1],)


def test_plane_queries():
    for kind, expected in ANSWERS.items():
        if kind == "uuid":
            continue
        seen = [answers_of(file) for file in opened(kind)]
        equal(seen, [expected] * len(ways()), kind)


def test_the_struct():
    """PROBE writes nothing, but for KubeVirt's fake; old kvmgt never writes."""
    marks = b"\xaa" * (PLANE_SIZE - 8)
    for kind in ("region", "dmabuf", "zero", "beyond"):
        for file in opened(kind):
            for flags in (PROBE | REGION, PROBE | DMABUF):
                equal(bytes(query(file, flags)[1]), struct.pack("II", PLANE_SIZE, flags) + marks, kind)
    for file in opened("zero"):
        equal(bytes(query(file, REGION)[1][8:]), marks, "zero, a real query")
    for file in opened("yes"):
        for flags in (PROBE, PROBE | DMABUF, PROBE | 0x40):
            equal(bytes(query(file, flags)[1]), struct.pack("II", PLANE_SIZE, REGION) + marks, "yes")
        equal(query(file, DMABUF)[0], "EINVAL", "yes, a real dmabuf")
        equal(plane_of(file, REGION)[5], 0, "yes, a real region")


def test_planes():
    picture = (XRGB8888, 640, 480, 2560, 640 * 480 * 4)
    for kind, index in (("region", 0), ("both", 0), ("beyond", 9)):
        for file in opened(kind):
            equal(plane_of(file, REGION), (*picture, index), kind)
    for kind in that_open("dmabuf", "opregion", "kvm"):
        for file in opened(kind):
            equal(plane_of(file, DMABUF), (0, 0, 0, 0, 0, 0), kind)


def test_unknown_ioctls():
    for kind, expected in (("region", "ENOTTY"), ("zero", 0), ("beyond", "EINVAL")):
        for file in opened(kind):
            equal(attempt(ioctl, file, HOT_RESET_INFO, bytearray(12), True), expected, kind)
            equal(attempt(ioctl, file, GET_GFX_DMABUF, bytearray(4), True), expected, kind)
    for kind in ("dmabuf", "yes"):
        for file in opened(kind):
            equal(attempt(ioctl, file, GET_GFX_DMABUF, bytearray(4), True), "EINVAL", kind)


def test_a_region_beyond_num_regions():
    for file in opened("beyond"):
        count = info(file)[1]
        flags, size, offset, kind = region(file, count)
        equal((flags, size, kind), (READ | WRITE | MMAP, 2 << 20, ()), "beyond")
        equal(attempt(region, file, count + 1), "EINVAL", "one more")
        equal(os.pread(file, 4, offset), b"\xff\xff\xff\0", "a white pixel")
        with mmap.mmap(file, size, offset=offset) as memory:
            equal(memory[2560 - 4 : 2560], b"\x20\x20\x20\0", "the last of the first line")
    for file in opened("region"):
        equal(attempt(region, file, 9), "EINVAL", "others have none there")


def test_edid():
    edid = (READ | WRITE | CAPS, 24 + 4096, (1, 1))
    for kind in that_open("dmabuf", "both", "kvm"):
        for file in opened(kind):
            flags, size, offset, types = region(file, 9)
            equal((flags, size, types), edid, kind)
            equal(words(file, offset, 5), [24, 4096, 0, 1920, 1080], kind)


def test_opregion():
    """kvmgt.c: OpRegion 9, EDID 10, whose size is that of a blob that begins far behind it."""
    for file in opened("opregion"):
        flags, size, offset, types = region(file, 9)
        equal((flags, size, types), (READ | CAPS, 8192, (0x80008086, 1)), "OpRegion")
        equal(os.pread(file, 24, offset), b"IntelGraphicsMem\x08\0\0\0\0\0\0\x02", "its header")
        equal(len(os.pread(file, 9000, offset)), 8192, "all of it")
        equal(attempt(os.pwrite, file, b"X", offset), "EFAULT", "it is read only")
        flags, size, offset, types = region(file, 10)
        equal((flags, size, types), (READ | WRITE | CAPS, 128, (1, 1)), "EDID")
        equal(words(file, offset, 5), [2048, 128, 0, 1920, 1200], "EDID")
        equal(attempt(os.pread, file, 2, offset), "EFAULT", "two bytes")
        equal(attempt(os.pread, file, 4, offset + 24), "EFAULT", "behind the registers")
        equal(os.pread(file, 128, offset + 2048), bytes(128), "the blob")
        _, _, config, _ = region(file, 7)
        equal(os.pread(file, 4, config), b"\x86\x80\x16\x59", "Intel's")


def test_without_a_vm():
    """Who makes none gets what a kernel without KVM gives everybody."""
    for way in ways():
        equal(open_fails(way, device("kvm")), "ESRCH")


def test_kvm_association():
    first, second = device("kvm"), uuid(SECOND_KVM)
    for way in ways():
        ours, other = Kvm(), Kvm()
        with device_file(way, first, ours) as file:
            equal(query(file, PROBE | DMABUF)[0], 0, "with one")
            equal(open_fails(way, second, ours), "EEXIST", "the VM has one already")
            equal(open_fails(way, second, other), 0, "another VM")
        equal(open_fails(way, second, ours), 0, "it has none any more")
        with files() as opened:
            with ours.with_file(way.attach(opened, first)):
                child = os.fork()
                if not child:
                    os._exit(attempt(way.open, opened, first) != "ESRCH")
                equal(ended(child), 0, "the VM of another process")
        equal(open_fails(way, device("region"), ours), 0, "who wants none has nothing against one")
        ours.close()
        other.close()


def test_uuid_on_the_command_line():
    name = device("uuid")
    for way in ways():
        equal(open_fails(way, name), "EIO", "without")
        equal(with_uuid("open", way.__name__, name).strip(), "0", "with")
        equal(with_uuid("answers", way.__name__, name).strip(), str(ANSWERS["uuid"]), "with")
        alike = out(f"python3 ./answers.py -uuids {uuid(1)} open {way.__name__} {name}")
        equal(alike.strip(), "EIO", "a word that only begins so")


def test_open_fails():
    for way in ways():
        equal(open_fails(way, device("eio")), "EIO")


def state(process):
    return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]


def wakeups(process):
    """How many times it has gone to sleep."""
    return int(re.search(r"^voluntary_ctxt_switches:\s+(\d+)", Path(f"/proc/{process}/status").read_text(), re.M)[1])


def asks_in_a_child(way, kind):
    """Forks who asks for the region; it ends with 0 if it gets `kind`'s answer."""
    child = os.fork()
    if child:
        return child
    try:
        with device_file(way, device(kind)) as file:
            os._exit(query(file, PROBE | REGION)[0] != HANGS[kind])
    finally:
        os._exit(2)


# What is answered after `release`.
HANGS = {"hang": "ENOTTY", "hang-ioctl": 0}


def test_a_hang():
    """No signal ends it, only `release`."""
    for kind in HANGS:
        for way in ways():
            for killed in (False, True):
                out("hold")
                child = asks_in_a_child(way, kind)
                eventually(f"{kind}: who asks is in state D", lambda: state(child) == "D")
                if killed:
                    os.kill(child, signal.SIGKILL)
                # The driver wakes it ten times a second, to look; "Z" would be the end.
                looked = wakeups(child)
                eventually(f"{kind}: it has looked, killed: {killed}", lambda: wakeups(child) >= looked + 5)
                eventually(f"{kind}: it still sleeps, killed: {killed}", lambda: state(child) == "D", 10)
                out("release")
                equal(ended(child), -signal.SIGKILL if killed else 0, kind)
    out("hold")


def test_the_type_tells():
    [plane] = Path("/sys/class/mdev_bus").glob("*/mdev_supported_types/virtio-pci-mail/vfio-pci/device/gfx_plane")
    equal({path.name: path.read_text() for path in plane.iterdir()}, {"dmabuf": "N\n", "region": "Y\n"})
    others = Path("/sys/class/mdev_bus").glob("*/mdev_supported_types/*/vfio-pci")
    equal([path.parent.name for path in others], ["virtio-pci-mail"], "nobody else does")


def test_busy():
    """Group against group, and, where there are both, group against character device."""
    for kind in that_open("region", "kvm", "mdpy-vga", "mbochs-small"):
        kvm = None if UML else Kvm()
        busy(device(kind), kvm)
        if kvm:
            kvm.close()


def busy(name, kvm):
    with device_file(Group, name, kvm):
        equal(open_fails(Group, name, kvm), "EBUSY", "group, group")
        if Cdev in ways():
            equal(open_fails(Cdev, name, kvm), "EBUSY", "group, cdev")
    if Cdev not in ways():
        return
    with device_file(Cdev, name, kvm):
        equal(open_fails(Cdev, name, kvm), "EINVAL", "cdev, cdev")
        equal(open_fails(Group, name, kvm), "EBUSY", "cdev, group")
    with files() as opened:
        file = Cdev.attach(opened, name)
        for flags in (PROBE, PROBE | DMABUF, PROBE | REGION):
            equal(query(file, flags)[0], "EINVAL", "unbound")
        equal(attempt(info, file), "EINVAL", "unbound")
        equal(open_fails(Group, name, kvm), 0, "an unbound one is in nobody's way")


def test_the_module_goes_and_comes():
    """No file of a type, and no VM, is left behind."""
    for path in list(MDEVS.iterdir()):
        out(f"remove_mdev {path.name}")
    for _ in range(2):
        out("rmmod gfxplane_samples")
        equal(list(Path("/sys/class/mdev_bus").glob("0000:*")), [], "the parent")
        out("modprobe gfxplane_samples; hold")
        test_the_type_tells()
    complaints = sh("journalctl -k -b -o cat | grep -E 'BUG|WARNING|Oops|Call Trace'", check=False).stdout
    equal(complaints, "", "the kernel's complaints")


TESTS = [(name, test, 0) for name, test in list(globals().items()) if name.startswith("test_")]

if __name__ == "__main__":
    # -uuid UUID open|answers WAY DEVICE
    if sys.argv[1:2] in (["-uuid"], ["-uuids"]):
        _, _, _, command, way, name = sys.argv
        if command == "open":
            print(open_fails(globals()[way], name))
        else:
            with device_file(globals()[way], name) as file:
                print(answers_of(file))
        sys.exit(0)
    signal.alarm(10 * LIMIT)
    sys.exit(run_tests(TESTS, "test_the_devices_are_there", lambda: out("release"), {"test_kvm_association": NO_KVM} if UML else None))
