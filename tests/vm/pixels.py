"""The pixels test, run as root in the guest by tests/vm/test: domains that `gfxplane fixup` has
made right boot pixels.S, which paints the device's screen, and what comes out of the frontend is
compared with what was painted, pixel by pixel.

    pixels.py [--wrong | --frontends]

--wrong expects another pattern than is painted, so every picture must be found to differ;
--frontends asks nothing of gfxplane, and prints what `virsh screenshot` gives for each device
with each frontend."""

import struct
import subprocess
import sys
import time
import traceback
import zlib
from pathlib import Path

import libvirt

import pixels_dbus

LIB = "/usr/local/lib/gfxplane/lib.sh"
DISK = Path("/var/lib/libvirt/images/pixels.img")  # where libvirt's AppArmor profile lets QEMU read
LIMIT = 300
SEED = 0x35
# A line is a page, so the picture ends with one: no mapping goes beyond a dmabuf's end.
MBOCHS = {"WIDTH": 800, "HEIGHT": 600, "LINE": 1024}

DEVICES = {
    "mdpy": ("mdpy-vga", "00000001-5555-4666-8777-888888888888", (640, 480)),
    "mbochs": ("mbochs-small", "00000002-5555-4666-8777-888888888888", (MBOCHS["WIDTH"], MBOCHS["HEIGHT"])),
}
VNC = "<graphics type='vnc' autoport='yes'/>"
GRAPHICS = {
    "vnc": VNC,
    "spice": "<graphics type='spice' autoport='yes'/>",
    "spice-gl": "<graphics type='spice'><listen type='none'/><gl enable='yes' rendernode='NODE'/></graphics>",
    "egl-headless": "<graphics type='egl-headless'><gl rendernode='NODE'/></graphics>",
    "dbus": "<graphics type='dbus' p2p='yes'/>",
    "dbus-gl": "<graphics type='dbus' p2p='yes'><gl enable='yes' rendernode='NODE'/></graphics>",
}


def sh(command):
    result = subprocess.run(["bash", "-c", f". {LIB}; {command}"], capture_output=True, text=True)
    if result.returncode:
        raise AssertionError(f"{command!r} ended with {result.returncode}: {result.stdout}{result.stderr}")
    return result.stdout.strip()


# Mesa 26.2's software renderer says that it has exported a texture, and names descriptor 0. QEMU 11.1 sends its own
# standard input instead, and closes it; the device's dmabuf then gets that number, and when QEMU makes its own picture as
# large as the dmabuf, it exports and closes once more, before it sends the dmabuf. So a viewer of dbus never sees the
# guest. (From the system calls of that QEMU, on sid.)
FALSE_EXPORTS = int(sh("dpkg-query -W -f '${Version}' libgl1-mesa-dri").split(".")[0]) >= 26


def painted(size, seed):
    """The lines that pixels.S paints, each as bytes of red, green, blue."""
    width, height = size
    tables = [bytes(i ^ k for i in range(256)) for k in range(256)]
    red = bytes(x & 255 for x in range(width))
    blue = bytes((x ^ x >> 8 << 6) & 255 for x in range(width))
    for y in range(height):
        row = bytearray(3 * width)
        row[0::3] = red
        row[1::3] = bytes([y & 255]) * width
        row[2::3] = blue.translate(tables[(y ^ y >> 8 << 4 ^ seed) & 255])
        yield bytes(row)


def read_png(data):
    """Size and lines of a PNG as QEMU writes it: 8 bits, RGB, not interlaced."""
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        raise AssertionError(f"no PNG: {data[:40]!r}")
    at, packed = 8, b""
    while at < len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        body = data[at + 8 : at + 8 + length]
        at += 12 + length
        if kind == b"IHDR":
            width, height, *form = struct.unpack(">IIBBBBB", body)
            if form != [8, 2, 0, 0, 0]:
                raise AssertionError(f"a PNG of another kind: {form}")
        elif kind == b"IDAT":
            packed += body
    raw, size = zlib.decompress(packed), 3 * width
    if len(raw) != height * (size + 1):
        raise AssertionError(f"{len(raw)} bytes are not {width}x{height} pixels")
    rows, above = [], bytes(size)
    for start in range(0, len(raw), size + 1):
        above = unfiltered(raw[start], bytearray(raw[start + 1 : start + 1 + size]), above)
        rows.append(bytes(above))
    return (width, height), rows


def unfiltered(kind, line, above):
    """A line of a PNG without its filter; all bytes are modulo 256."""
    if kind == 1:
        for i in range(3, len(line)):
            line[i] = line[i] + line[i - 3] & 255
    elif kind == 2:
        for i, up in enumerate(above):
            line[i] = line[i] + up & 255
    elif kind == 3:
        for i, up in enumerate(above):
            line[i] = line[i] + ((line[i - 3] if i > 2 else 0) + up >> 1) & 255
    elif kind == 4:
        for i in range(3):
            line[i] = line[i] + above[i] & 255
        for i in range(3, len(line)):
            left, up, corner = line[i - 3], above[i], above[i - 3]
            to_left, to_up, to_corner = abs(up - corner), abs(left - corner), abs(left + up - 2 * corner)
            nearest = left if to_left <= to_up and to_left <= to_corner else up if to_up <= to_corner else corner
            line[i] = line[i] + nearest & 255
    elif kind:
        raise AssertionError(f"PNG filter {kind}")
    return line


def write_png(path, size, rows):
    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    raw = b"".join(b"\0" + row for row in rows)
    head = struct.pack(">IIBBBBB", *size, 8, 2, 0, 0, 0)
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(raw, 6)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


def difference(size, rows, expected_size, expected):
    """What is wrong with a picture, or None."""
    if size != expected_size:
        return f"it is {size[0]}x{size[1]}, not {expected_size[0]}x{expected_size[1]}"
    if rows == expected:
        return None
    count, first = 0, []
    for y, (row, right) in enumerate(zip(rows, expected)):
        if row == right:
            continue
        for x in range(0, len(row), 3):
            if row[x : x + 3] != right[x : x + 3]:
                count += 1
                if len(first) < 5:
                    first.append(f"at {x // 3},{y} {row[x : x + 3].hex()} for {right[x : x + 3].hex()}")
    black = "it is black: " if not any(map(any, rows)) else ""
    return f"{black}{count} of {size[0] * size[1]} pixels differ: {', '.join(first)}"


class Screenshot:
    """`virsh screenshot`, as often as asked."""

    def __init__(self, domain, path):
        self.domain, self.path = domain, path
        self.data = None

    def take(self):
        """Size and lines. None: as the last time."""
        sh(f"virsh screenshot {self.domain.name()} {self.path}")
        data = self.path.read_bytes()
        if data == self.data:
            return None
        self.data = data
        return read_png(data)


class Viewer:
    """A viewer of the dbus display: QEMU gives it the dmabuf itself."""

    def __init__(self, domain, path):
        self.path = path
        self.screen = pixels_dbus.Screen(domain.openGraphicsFD(0, libvirt.VIR_DOMAIN_OPEN_GRAPHICS_SKIPAUTH))

    def take(self):
        if self.screen.failed:
            raise self.screen.failed
        picture = self.screen.picture()
        write_png(self.path, *picture)
        return picture


# What the user has, what reads the picture back. virsh screenshot can't for mbochs: see --frontends.
CASES = {"mdpy": ("vnc", Screenshot), "mbochs": ("dbus", Viewer)}


def vgem_node():
    """The render node that Mesa's software renderer serves; the guest's GPU has one, too."""
    for node in sorted(Path("/sys/class/drm").glob("renderD*")):
        if "/vgem" in str(node.resolve()):
            return f"/dev/dri/{node.name}"
    raise AssertionError("no render node of vgem")


def domain_xml(device, graphics, display):
    return f"""<domain type='qemu'>
  <name>{device}</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{DISK}'/>
      <target dev='hda' bus='ide'/>
    </disk>
    <controller type='usb' model='none'/>
    {graphics.replace("NODE", vgem_node())}
    <video><model type='none'/></video>
    <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='{display}'>
      <source><address uuid='{DEVICES[device][1]}'/></source>
    </hostdev>
    <memballoon model='none'/>
  </devices>
</domain>
"""


def build_disk():
    symbols = " ".join(f"--defsym {name}={value}" for name, value in {"SEED": SEED, **MBOCHS}.items())
    sh(f"as --32 {symbols} -o /tmp/pixels.o pixels.S")
    sh("ld -m elf_i386 -Ttext=0x7c00 --oformat=binary -o /tmp/pixels.bin /tmp/pixels.o")
    sector = Path("/tmp/pixels.bin").read_bytes()
    assert len(sector) == 512, f"the boot sector has {len(sector)} bytes"
    DISK.write_bytes(sector.ljust(1 << 20, b"\0"))


def install():
    conf = Path("/etc/gfxplane/conf.d")
    conf.mkdir(parents=True)
    (conf / "vm.toml").write_text("deadline = 60\n")
    sh("dpkg -i ./gfxplane.deb && udevadm settle && gfxplane probe --all")
    print(sh("gfxplane list"))


def fixed(xml):
    command = ["gfxplane", "fixup", "--policy", "full", "--consent", "all", "-"]
    result = subprocess.run(command, input=xml, capture_output=True, text=True)
    print(result.stderr, end="")
    assert result.returncode == 0 and result.stdout not in ("", xml), f"fixup: {result.returncode}"
    return result.stdout


def runs(domain):
    try:
        return domain.isActive()
    except libvirt.libvirtError:  # nothing is left of a transient domain that has ended
        return False


def right_picture(domain, reader, size, expected, limit):
    """Waits for it: the guest boots first."""
    end = time.monotonic() + limit
    last = wrong = None
    while True:
        try:
            picture = reader.take()
            last, wrong = picture or last, None
            if last == (size, expected):
                return
        except AssertionError as error:
            wrong = error
        if time.monotonic() > end or not runs(domain):
            raise AssertionError(wrong or difference(*last, size, expected))
        time.sleep(1)


def log(device):
    return Path(f"/var/log/libvirt/qemu/{device}.log").read_text()


def wait_for(what, condition, limit):
    end = time.monotonic() + limit
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"{what}: not within {limit} s")
        time.sleep(1)


def lost_picture(device, viewer, limit):
    """What FALSE_EXPORTS is about: if this fails, pictures may be looked at again."""
    lost = "Failed to setup dmabuf fdlist: dup: Bad file descriptor"
    wait_for(f"QEMU says {lost!r}", lambda: lost in log(device), limit)
    said = viewer.screen.said
    assert said and not any("XR24" in call for call in said), f"it was shown: {said}"


def test(connection, device, seed, limit):
    graphics, reader = CASES[device]
    path = Path(f"{device}-{graphics}.png")
    size = DEVICES[device][2]
    expected = list(painted(size, seed))
    xml = fixed(domain_xml(device, GRAPHICS[graphics], "off"))
    domain = connection.createXML(xml, libvirt.VIR_DOMAIN_START_AUTODESTROY)
    try:
        if reader is Viewer and FALSE_EXPORTS:
            lost_picture(device, reader(domain, path), limit)
            print("  the dmabuf was lost between QEMU and Mesa, as it is here")
            return
        right_picture(domain, reader(domain, path), size, expected, limit)
    except AssertionError:
        write_png(path.with_suffix(".expected.png"), size, expected)
        raise
    finally:
        if runs(domain):
            domain.destroy()
    print(f"  {size[0]}x{size[1]} pixels are right, in {path}")


def frontends(connection):
    """One line for each device and frontend: what `virsh screenshot` gives, in the order in which it did."""
    for device, (_, _, size) in DEVICES.items():
        expected = list(painted(size, SEED))
        for name, graphics in GRAPHICS.items():
            said = []
            try:
                domain = connection.createXML(domain_xml(device, graphics, "on"), libvirt.VIR_DOMAIN_START_AUTODESTROY)
            except libvirt.libvirtError as error:
                print(f"{device}/{name}: refused: {str(error).strip().splitlines()[-1]}", flush=True)
                continue
            reader = Screenshot(domain, Path(f"{device}-{name}.png"))
            end = time.monotonic() + 25
            while runs(domain) and time.monotonic() < end and said[-1:] != ["right"]:
                try:
                    picture = reader.take()
                    now = (difference(*picture, size, expected) or "right") if picture else said[-1]
                except AssertionError as error:
                    now = str(error).strip().splitlines()[-1]
                if said[-1:] != [now]:
                    said.append(now)
            if runs(domain):
                domain.destroy()
            else:
                said.append(f"QEMU has ended: {sh(f'tail -n 3 /var/log/libvirt/qemu/{device}.log')}")
            print(f"{device}/{name}: {'; then: '.join(said)}", flush=True)


def main(arguments):
    libvirt.registerErrorHandler(lambda *_: None, None)
    sh("apparmor_enforced && load_modules")
    for kind, uuid, _ in DEVICES.values():
        sh(f"create_mdev {kind} {uuid}")
    build_disk()
    if arguments == ["--frontends"]:
        frontends(libvirt.open("qemu:///system"))
        return 0
    install()
    wrong = arguments == ["--wrong"]
    connection = libvirt.open("qemu:///system")
    passed = failed = 0
    for device, (graphics, _) in CASES.items():
        began = time.monotonic()
        try:
            test(connection, device, SEED ^ wrong, 60 if wrong else LIMIT)
            passed += 1
            verdict = "ok"
        except Exception:
            failed += 1
            verdict = "FAILED"
            traceback.print_exc(file=sys.stdout)
            print(sh(f"tail -n 5 /var/log/libvirt/qemu/{device}.log 2>/dev/null || :"))
        print(f"{verdict}: {device} with {graphics} ({time.monotonic() - began:.0f} s)", flush=True)
    if failed:
        print(sh("apparmor_denials || :"))
    print(f"{passed} passed, {failed} failed", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
