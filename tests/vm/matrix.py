"""The matrix: domains with vfio displays in all combinations that differ in kind. Of each one
`gfxplane check` says whether it starts, libvirt and QEMU say the truth, and what `gfxplane fixup`
makes of it has to start. Run as root in the guest, by tests/vm/test:

    matrix.py SUITE [--measured FILE] [--part I/N] [--sample] [NAME…]

--measured: what was seen before, with the same QEMU and libvirt (matrix-measured), is not tried
again. The same domain is started once only, whether it was given or made by fixup.

And anywhere:

    matrix.py --list [--part I/N] [--sample] [NAME…]    the names
    matrix.py --xml NAME [RENDERNODE]                   the domain of that name
    matrix.py --count RESULTS…                          table and counts of several runs
    matrix.py --compact RESULTS…                        their truth, as in matrix-measured
"""

import difflib
import hashlib
import json
import platform
import re
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from pathlib import Path

PACKAGE = Path("gfxplane.deb")
RESULTS = Path("results.jsonl")

# A name is DEVICES/GRAPHICS/VIDEO or DEVICES/GRAPHICS/VIDEO/ramfb: the first device has ramfb then. A device with
# a 0 behind it has display='off'.

UUIDS = {
    "mdpy": ["00000001-2222-4333-8444-555555555555"],
    "mbochs": ["00000002-2222-4333-8444-555555555555", "00000003-2222-4333-8444-555555555555"],
    "mtty": ["00000004-2222-4333-8444-555555555555"],
}
TYPES = {"mdpy": "mdpy-vga", "mbochs": "mbochs-small", "mtty": "mtty-1"}

VNC = "<graphics type='vnc' autoport='yes'/>"
SPICE = "<graphics type='spice' autoport='yes'><listen type='address' address='{}'/>{}</graphics>"
SPICE_LOCAL = "<graphics type='spice'><listen type='none'/>{}</graphics>"
EGL = "<graphics type='egl-headless'><gl rendernode='NODE'/></graphics>"
DBUS = "<graphics type='dbus' p2p='yes'>{}</graphics>"
GL = "<gl enable='yes' rendernode='NODE'/>"

GRAPHICS = {
    "none": [],
    "vnc": [VNC],
    "spice-loopback": [SPICE.format("127.0.0.1", "")],
    "spice-any": [SPICE.format("0.0.0.0", "")],
    "spice-local": [SPICE_LOCAL.format("")],
    "spice-gl": [SPICE_LOCAL.format(GL)],
    "spice-gl+vnc": [SPICE_LOCAL.format(GL), VNC],
    "vnc+egl-headless": [VNC, EGL],
    "spice+egl-headless": [SPICE.format("127.0.0.1", ""), EGL],
    "dbus": [DBUS.format("")],
    "dbus-gl": [DBUS.format(GL)],
}
# Only in EXTRA.
MORE_GRAPHICS = {
    "dbus-gl+vnc": [DBUS.format(GL), VNC],
    "spice-loopback-gl": [SPICE.format("127.0.0.1", GL)],
    "spice-gl-auto": [SPICE_LOCAL.format("<gl enable='yes'/>")],
}

# The models of cards, and what is in them; the last three only in EXTRA.
VIDEOS = {"none": "", "vga": "", "virtio": "", "ramfb": "", "qxl": "", "bochs": "", "virtio3d": "<acceleration accel3d='yes'/>"}

# In CI. Each of the devices, graphics and videos is in it, and refusals by each who refuses.
SAMPLE = [
    "mbochs/vnc/none",  # the mail's case: dmabuf, no GL
    "mdpy/vnc/vga/ramfb",
    "mbochs/vnc+egl-headless/none",  # starts on old QEMU only
    "mbochs/spice-loopback/vga",  # a repair that takes nothing away
    "mbochs+mdpy/spice-any/none",  # a repair that takes remote access away
    "mbochs+mbochs/spice-gl/none",
    "mtty/dbus/virtio",  # no display at all
    "mbochs+mdpy/spice-gl+vnc/vga",  # VNC has the card, so it lets the devices be
    "mbochs/spice+egl-headless/vga",  # SPICE takes every screen, so the card does not help
    "mbochs+mbochs/dbus-gl/virtio/ramfb",
    "mbochs/spice-local/virtio/ramfb",
    "mdpy/none/virtio",  # libvirt refuses, before QEMU is asked
]

# What the issue does not ask for, and a plan must know all the same.
EXTRA = [
    # VNC takes the first screen: with the region device first it never meets the dmabuf.
    "mdpy+mbochs/vnc+egl-headless/none",
    "mdpy+mbochs/spice-gl+vnc/none",
    "mdpy+mbochs/spice+egl-headless/none",
    "mdpy+mbochs/vnc/none",
    # One GL context for a console: VNC beside dbus gl is refused, whatever the device.
    "mdpy/dbus-gl+vnc/none",
    "mdpy/dbus-gl+vnc/vga",
    "mbochs/dbus-gl+vnc/vga",
    "mbochs/spice-loopback-gl/none",
    "mdpy/spice-loopback-gl/none",
    "mbochs/spice-gl-auto/none",  # libvirt picks a render node
    # ramfb is one per domain, the video model of that name included.
    "mdpy/vnc/ramfb",
    "mdpy/vnc/ramfb/ramfb",
    "mbochs/spice-gl/ramfb/ramfb",
    # What fixup makes of a device without a display: nothing is seen of it, with any graphics.
    *(f"mtty0/{graphics}/{video}" for graphics in ("none", "vnc", "spice-loopback", "spice-any") for video in ("none", "vga", "virtio")),
    *(f"mtty0/{graphics}/none" for graphics in ("spice-local", "spice-gl", "dbus", "dbus-gl", "spice-gl+vnc")),
    "mbochs+mtty0/spice-gl/none",
    "mdpy+mtty0/vnc/none",
    # The other cards that guests often have.
    *(f"{devices}/{graphics}/{video}" for devices, graphics in (
        ("mbochs", "spice-gl"), ("mbochs", "spice-gl+vnc"), ("mbochs", "dbus-gl"), ("mdpy", "spice-loopback"),
        ("mdpy", "spice-gl"), ("mdpy", "vnc"),
    ) for video in ("qxl", "bochs", "virtio3d")),
    *(f"mtty0/{graphics}/{video}" for graphics in ("vnc", "spice-loopback") for video in ("qxl", "bochs")),
]  # fmt: skip


def in_kind():
    """The combinations whose outcome can differ. Left out: a second and third video where the
    first says it all, and ramfb, which changes QEMU's device but no outcome, for two of three."""
    videos = ["none", "vga", "virtio"]
    for d, devices in enumerate(["mbochs", "mdpy", "mbochs+mdpy", "mbochs+mbochs", "mtty"]):
        for g, graphics in enumerate(GRAPHICS):
            turn = videos[(d + g) % 3]
            if graphics == "none" or devices == "mtty":
                chosen = [turn]  # refused for the device itself, or by libvirt for want of graphics
            elif devices == "mbochs":
                chosen = videos
            else:
                # The device is the first screen, or a card is; which card matters less.
                chosen = ["none", ["vga", "virtio"][(d + g) % 2]]
            for video in chosen:
                yield f"{devices}/{graphics}/{video}"
                if graphics != "none" and (d + g + videos.index(video)) % 3 == 0:
                    yield f"{devices}/{graphics}/{video}/ramfb"


def everything():
    """All names, the sample first, then in an order without order: a prefix is as varied as it gets,
    and so is every third."""
    rest = sorted([*in_kind(), *EXTRA], key=lambda name: hashlib.sha256(name.encode()).digest())
    return list(dict.fromkeys(SAMPLE + rest))


def wanted(arguments):
    """The names that --part, --sample or names choose."""
    names = everything()
    if arguments[:1] == ["--part"]:
        part, parts = map(int, arguments[1].split("/"))
        if not 1 <= part <= parts:
            raise SystemExit(f"matrix: there is no part {arguments[1]}")
        names, arguments = names[part - 1 :: parts], arguments[2:]
    elif arguments[:1] == ["--sample"]:
        names, arguments = SAMPLE, arguments[1:]
    if not arguments:
        return names
    for name in arguments:
        domain(name, "m", "/dev/null")
    return arguments


def domain(name, called, node):
    """The domain XML of a combination, named called."""
    try:
        devices, graphics, video, *ramfb = name.split("/")
        screens = "".join(f"    {g}\n" for g in {**GRAPHICS, **MORE_GRAPHICS}[graphics])
        kinds = [kind.removesuffix("0") for kind in devices.split("+")]
        displays = ["off" if kind.endswith("0") else "on" for kind in devices.split("+")]
        uuids = [UUIDS[kind][kinds[:n].count(kind)] for n, kind in enumerate(kinds)]
        model = f"<model type='{video.removesuffix('3d')}'>{VIDEOS[video]}</model>"
        if ramfb not in ([], ["ramfb"]):
            raise KeyError
    except (KeyError, ValueError, IndexError):
        raise SystemExit(f"matrix: {name} names no combination") from None
    hostdevs = "".join(
        f"""    <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='{displays[n]}'{" ramfb='on'" * bool(ramfb and not n)}>
      <source><address uuid='{uuid}'/></source>
    </hostdev>
"""
        for n, uuid in enumerate(uuids)
    )
    return f"""<domain type='qemu'>
  <name>{called}</name>
  <memory unit='MiB'>32</memory>
  <os><type arch='x86_64' machine='pc'>hvm</type></os>
  <devices>
    <controller type='usb' model='none'/>
{screens.replace("NODE", node)}    <video>{model}</video>
{hostdevs}    <memballoon model='none'/>
  </devices>
</domain>
"""


def same(xml):
    """The same for all domains that differ in name and white space only."""
    return re.sub("<name>.*?</name>", "", ET.canonicalize(xml, strip_text=True))


class Host:
    """libvirt, and the devices."""

    def __init__(self):
        # Only the guest has libvirt.
        import lab

        self.lab, self.libvirt = lab, lab.libvirt
        lab.out("load_modules")
        self.node = lab.vgem_node()
        for kind, uuids in UUIDS.items():
            for uuid in uuids:
                lab.out(f"create_mdev {TYPES[kind]} {uuid}")
        lab.out("udevadm settle")
        self.groups = lab.groups(uuid for uuids in UUIDS.values() for uuid in uuids)
        if PACKAGE.exists():
            self.install()
        self.connect()
        # What came of a domain, by its XML without its name.
        self.tried = {}

    def knows(self, file, suite):
        """Takes over what was measured with the same versions."""
        versions, *truths = (json.loads(line) for line in Path(file).read_text().splitlines())
        mine = self.versions(suite)
        for name in ("suite", "libvirt", "qemu"):
            if versions[name] != mine[name]:
                raise SystemExit(f"matrix: {file} was measured with {versions}, and this is {mine}")
        for truth in truths:
            name = truth.pop("name")
            xml = domain(name, "m", self.node)
            self.tried[same(xml)] = truth | {"text": truth.get("message", ""), "before": True}

    def start_once(self, xml):
        """What comes of a domain, or came of the same one before."""
        key = same(xml)
        if key not in self.tried:
            self.tried[key] = self.start(xml)
        return self.tried[key]

    def install(self):
        """The package, with all devices asked. Its hook and its daemon go: what libvirt and QEMU
        do by themselves is the truth here."""
        print(self.lab.install())
        self.lab.out("udevadm settle; gfxplane probe --all")
        print(self.lab.out("gfxplane list"))
        self.lab.without_hook_and_daemon()

    def connect(self):
        self.connection = self.libvirt.open("qemu:///system")

    def versions(self, suite):
        def number(n):
            return f"{n // 1000000}.{n // 1000 % 1000}.{n % 1000}"

        packages = self.lab.out("dpkg-query -W -f '${Package} ${Version}\\n' qemu-system-x86 libvirt-daemon libgl1-mesa-dri")
        return {
            "suite": suite,
            "kernel": platform.release(),
            "libvirt": number(self.connection.getLibVersion()),
            "qemu": number(self.connection.getVersion()),
            "packages": dict(line.split() for line in packages.splitlines()),
            "rendernode": self.node,
        }

    def free(self):
        """Whether no domain is left, and nobody has a device."""
        return not self.connection.listAllDomains() and self.lab.free(self.groups)

    def start(self, xml):
        """Whether the domain starts; paused, for there is nothing in it to run."""
        began = time.monotonic()
        flags = self.libvirt.VIR_DOMAIN_START_PAUSED | self.libvirt.VIR_DOMAIN_START_AUTODESTROY
        result = {}
        try:
            started = self.connection.createXML(xml, flags)
            try:
                # What QEMU prints with its last breath is in its log.
                time.sleep(0.2)
                result["starts"] = bool(started.isActive())
                if not result["starts"]:
                    result["text"] = Path(f"/var/log/libvirt/qemu/{started.name()}.log").read_text()[-2000:]
                started.destroy()
            except self.libvirt.libvirtError as error:
                result = {"starts": False, "text": str(error)}
        except self.libvirt.libvirtError as error:
            result = {"starts": False, "text": str(error)}
        if not result["starts"]:
            result["by"] = "qemu" if "qemu-system" in result["text"] else "libvirt"
            result["message"] = self.lab.short(result["text"])
        result["seconds"] = round(time.monotonic() - began, 1)
        self.lab.eventually("the devices come free", self.free)
        return result


def gfxplane(*arguments, text=None):
    """A run of gfxplane on bytes: what it prints has to be compared to the byte."""
    result = subprocess.run(["gfxplane", *arguments], input=text, capture_output=True)
    return result.returncode, result.stdout, result.stderr.decode(errors="replace").strip()


def predict(xml, file):
    """What check says; "starts" is true, false, or what else it said."""
    file.write_bytes(xml)
    status, stdout, stderr = gfxplane("check", "--json", str(file))
    said = {"exit": status}
    try:
        document = json.loads(stdout)
        word = document["starts"] if document["format"] == 1 else f"format {document['format']}"
        said["starts"] = {"yes": True, "no": False}.get(word, word)
        said["says"] = document
    except (ValueError, KeyError, TypeError) as error:
        said["starts"] = f"not to be read: {error!r}: {stdout.decode(errors='replace')[:300]}"
    if said["starts"] is True and status != 0 or said["starts"] is False and status != 1:
        said["starts"] = f"{word}, but exit {status}"
    if stderr:
        said["stderr"] = stderr
    return said


def fix(xml, real, host, file):
    """What fixup makes of it, whether that starts, and what check thinks of that."""
    status, fixed, stderr = gfxplane("fixup", "--consent", "all", "-", text=xml)
    result = {"exit": status}
    if stderr:
        result["stderr"] = stderr
    if not fixed:
        return result
    before, after = (x.decode(errors="replace").splitlines() for x in (xml, fixed))
    result["diff"] = [
        line for line in difflib.unified_diff(before, after, n=0, lineterm="") if line[:2] not in ("--", "++", "@@")
    ]
    again = gfxplane("fixup", "--consent", "all", "-", text=fixed)
    result["stable"] = again[:2] == (0, fixed)
    if fixed == xml:
        result["real"] = real
    else:
        result["check"] = predict(fixed, file)
        result["real"] = host.start_once(fixed.decode())
    return result


def misses(entry):
    """Where gfxplane was wrong."""
    found = []
    for what, of in (("check", entry), ("check of the fixed", entry.get("fixed", {}))):
        if "check" in of and of["check"]["starts"] is not of["real"]["starts"]:
            found.append(f"{what} said {of['check']['starts']}")
    if "fixed" in entry:
        fixed = entry["fixed"]
        if fixed["exit"] or "real" not in fixed:
            found.append(f"fixup ended with {fixed['exit']}: {fixed.get('stderr', '')}")
        if "real" in fixed and not fixed["real"]["starts"]:
            found.append(f"fixed, it is refused: {fixed['real']['message']}")
        if fixed.get("stable") is False:
            found.append("a second fixup changes it")
    return found


def report(entries):
    """Prints table, misses and counts. Returns the exit status."""
    width = max((len(entry["name"]) for entry in entries), default=0)
    right = made = started = tried = same = said = 0
    for entry in entries:
        words = ["starts" if entry["real"]["starts"] else "refused"]
        for of in (entry, entry.get("fixed", {})):
            if "check" in of:
                made += 1
                right += of["check"]["starts"] is of["real"]["starts"]
                if of["check"]["starts"] is of["real"]["starts"] is False:
                    said += 1
                    same += of["check"]["says"].get("message", "?") in of["real"]["text"]
        if "check" in entry:
            words.append({True: "yes", False: "no"}.get(entry["check"]["starts"], "?"))
        if "fixed" in entry:
            tried += 1
            works = entry["fixed"].get("real", {}).get("starts", False)
            started += works
            as_it_was = works and not entry["fixed"]["diff"]
            words.append("as it was" if as_it_was else "fixed" if works else "not fixed")
        message = entry["real"].get("message", "")
        if message:
            message = f"{entry['real']['by']}: {message}"
        print(f"{entry['name']:{width}}  {'  '.join(f'{w:9}' for w in words)}  {message[:90]}".rstrip())
    missed = [(entry["name"], miss) for entry in entries for miss in misses(entry)]
    for name, miss in missed:
        print(f"MISS: {name}: {miss}")
    starts = sum(entry["real"]["starts"] for entry in entries)
    before = sum(entry["real"].get("before", False) for entry in entries)
    if before:
        print(f"{before} of the {len(entries)} truths are of earlier runs with the same QEMU and libvirt")
    print(f"{len(entries)} combinations: {starts} start, {len(entries) - starts} are refused")
    if made or tried:
        print(f"predictions right/made: {right}/{made}, fixed domains started/tried: {started}/{tried}, misses: {len(missed)}")
        print(f"refusals foretold in the words of those who refuse: {same}/{said}")
    return 1 if missed or not entries else 0


def read(files):
    """Versions and entries of results."""
    lines = [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]
    return [x for x in lines if "name" not in x], [x for x in lines if "name" in x]


def compact(files):
    versions, entries = read(files)
    truths = {}
    for entry in entries:
        if entry["real"].get("before"):
            continue  # else what was taken over would pass for measured anew
        truth = {"name": entry["name"]}
        truth |= {k: entry["real"][k] for k in ("starts", "by", "message") if k in entry["real"]}
        if truths.setdefault(entry["name"], truth) != truth:
            raise SystemExit(f"matrix: {truth} once, {truths[entry['name']]} another time")
    for version in versions:
        if version != versions[0]:
            raise SystemExit(f"matrix: results of {versions[0]} and of {version}")
    order = {name: n for n, name in enumerate(everything())}
    for line in [versions[0], *sorted(truths.values(), key=lambda t: order.get(t["name"], len(order)))]:
        print(json.dumps(line))


def run(suite, arguments):
    measured = None
    if arguments[:1] == ["--measured"]:
        measured, arguments = arguments[1], arguments[2:]
    names = wanted(arguments)
    host = Host()
    if measured:
        host.knows(measured, suite)
    file = Path("/tmp/matrix.xml")
    entries = []
    with RESULTS.open("w", buffering=1) as results:
        versions = host.versions(suite)
        print(json.dumps(versions))
        results.write(json.dumps(versions) + "\n")
        for number, name in enumerate(names, 1):
            began = time.monotonic()
            xml = domain(name, f"m{number}", host.node).encode()
            entry = {"name": name}
            # Asked before the truth is known, and the other way round for nobody.
            if PACKAGE.exists():
                entry["check"] = predict(xml, file)
            entry["real"] = host.start_once(xml.decode())
            if PACKAGE.exists():
                entry["fixed"] = fix(xml, entry["real"], host, file)
            results.write(json.dumps(entry) + "\n")
            entries.append(entry)
            outcome = "starts" if entry["real"]["starts"] else f"refused: {entry['real']['message']}"
            verdict = "MISS" if misses(entry) else "ok"
            print(f"{verdict}: {name}: {outcome} ({time.monotonic() - began:.0f} s, {number}/{len(names)})", flush=True)
    return report(entries)


def main(arguments):
    if arguments[:1] == ["--list"]:
        print("\n".join(wanted(arguments[1:])))
    elif arguments[:1] == ["--xml"]:
        print(domain(arguments[1], "matrix", (arguments[2:] or ["/dev/dri/renderD129"])[0]), end="")
    elif arguments[:1] == ["--count"]:
        return report(read(arguments[1:])[1])
    elif arguments[:1] == ["--compact"]:
        compact(arguments[1:])
    else:
        return run(arguments[0], arguments[1:])
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
