"""The wild test: random domains, and the world's word on each. Run as root in the guest, by tests/vm/test:

    SEED=3 N=100 wild.py [NUMBER…]

N domains of a seed, or those with these numbers. For each domain `gfxplane check` predicts whether it starts.
libvirt then defines it, and starts it paused. `gfxplane fixup` makes it match its devices; that is defined and
started, too; and a second fixup must change nothing. What gfxplane had wrong is printed in one line, and kept
in misses/SEED-NUMBER: case.toml, policy.toml and domain.xml of a case of tests/fixup, fixed.xml, and in
seen.json what was said and what happened.

    wild.py --host          records the guest in host, for tests/hosts/wild

And anywhere:

    wild.py --xml SEED NUMBER [RENDERNODE]      a domain
    wild.py --count SEED N                      how often each ingredient is in the first N
    wild.py --kinds RESULTS…                    the misses of several runs by kind, and the tally
    wild.py --again HOST RESULTS…               the predictions of the gfxplane in PATH on these domains, on a recorded
                                                host (gfxplane --root HOST), held against what was seen then
"""

import json
import os
import random
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

PACKAGE = Path("gfxplane.deb")
MISSES = Path("misses")
RESULTS = Path("results.jsonl")
DOMAIN = "wild"
# vgem's node in the guest that most runs are in.
NODE = "/dev/dri/renderD129"
DISPLAY = ":7"
XAUTH = "/run/wild-xauth"
UUID = "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"

# The devices: their type, their numbers in uuid(), and how often they are drawn. Those that tests/hosts/lab has, too,
# have the same UUIDs there.
DEVICES = {
    "mdpy": ("mdpy-vga", [1, 21], 18),
    "mbochs": ("mbochs-small", [2, 22, 23], 28),
    "mtty": ("mtty-1", [3, 24], 6),
    "region": ("virtio-pci-region", [4, 25], 8),
    "both": ("virtio-pci-both", [5, 26], 6),
    "yes": ("virtio-pci-yes", [6], 2),
    "dmabuf": ("virtio-pci-dmabuf", [27, 28], 8),
    "none": ("virtio-pci-none", [29], 3),
    "opregion": ("virtio-pci-opregion", [30, 31, 32], 14),
    "zero": ("virtio-pci-zero", [33], 2),
    "beyond": ("virtio-pci-beyond", [34], 3),
}
DMABUF = {"mbochs", "both", "dmabuf", "opregion"}


def uuid(number):
    return f"c1a20000-0000-4000-8000-{number:012d}"


class Draw:
    """The random choices of one domain. It is a function of seed and number, and of whether the guest has SDL."""

    def __init__(self, seed, number, node=NODE, sdl=False):
        self.random = random.Random(f"{seed}-{number}")
        self.node, self.sdl = node, sdl
        self.used = Counter()

    def chance(self, percent):
        return self.random.random() * 100 < percent

    def pick(self, weights):
        return self.random.choices(list(weights), list(weights.values()))[0]

    def one(self, *choices):
        return self.random.choice(choices)

    def uses(self, *words):
        self.used.update(words)

    # Devices

    def devices(self):
        """(kind, number of uuid()) of each."""
        found = []
        for _ in range(self.pick({1: 58, 2: 32, 3: 10})):
            weights = {kind: weight for kind, (_, _, weight) in DEVICES.items()}
            if found and found[0][0] == "opregion":
                weights["opregion"] = 60
            kind = self.pick(weights)
            free = [number for number in DEVICES[kind][1] if (kind, number) not in found]
            if free:
                found.append((kind, free[0]))
        if self.chance(1):
            found.append(found[0])
            self.uses("device twice")
        if self.chance(1):
            found[-1] = ("absent", 99)
        return found

    def hostdev(self, number, kind, device):
        """Its XML, its alias, and whether it wants a display."""
        display = self.pick({"on": 66, "off": 17, "": 17})
        ramfb = self.pick({"": 76, "on": 19, "off": 5})
        alias = f"ua-{kind}{number}" if self.chance(30) else ""
        self.uses(f"device {kind}", f"display {display or 'absent'}", f"ramfb {ramfb or 'absent'}")
        attributes = "".join(f" {name}='{value}'" for name, value in (("display", display), ("ramfb", ramfb)) if value)
        lines = [
            f"<hostdev mode='subsystem' type='mdev' managed='no' model='vfio-pci'{attributes}>",
            f"  <source>\n        <address uuid='{uuid(device)}'/>\n      </source>",
        ]
        if alias:
            lines.append(f"  <alias name='{alias}'/>")
            self.uses("alias")
        if self.chance(1):
            lines.append("  <boot order='1'/>")
            self.uses("boot order")
        if self.chance(1.5):
            lines.append("  <rom bar='off'/>")
            self.uses("rom")
        return [*lines, "</hostdev>"], alias, display == "on"

    # Graphics

    def listen(self, kind):
        """Attributes and children of a <graphics> that has a listener."""
        port = " autoport='yes'"
        if self.chance(10):
            port = self.one(" port='5917'", " port='-1'", " port='-1' autoport='yes'", " port='5917' autoport='no'")
        if self.chance(3):
            port = " port='80'"
        how = self.pick({"default": 16, "any": 16, "loopback": 20, "empty": 8, "socket": 16, "none": 20, "attribute": 4, "two": 1.5})
        if kind == "spice gl" and how not in ("socket", "none") and self.chance(70):
            # QEMU before 10.1 refuses the others, and there is more to find out.
            how = self.one("socket", "none")
        self.uses(f"{kind} listen {how}")
        if how in ("socket", "none"):
            return "", [f"<listen type='{how}'/>"]
        listens = {
            "default": [],
            "any": ["<listen type='address' address='0.0.0.0'/>"],
            "loopback": [f"<listen type='address' address='{self.one('127.0.0.1', '127.0.0.2', 'localhost')}'/>"],
            "empty": ["<listen type='address'/>"],
            "two": ["<listen type='address' address='127.0.0.1'/>", "<listen type='socket'/>"],
            "attribute": [],
        }
        if how == "attribute":
            port += f" listen='{self.one('0.0.0.0', '127.0.0.1')}'"
        if kind.startswith("spice") and self.chance(4):
            port += self.one(" tlsPort='-1'", " tlsPort='5918'", " defaultMode='secure'", " defaultMode='insecure'")
        if kind.startswith("spice") and self.chance(2):
            port = ""
        return port, listens[how]

    def gl(self, name="<gl enable='yes'{}/>"):
        node = self.pick({"": 45, self.node: 50, "/dev/dri/renderD199": 2})
        if node == "/dev/dri/renderD199":
            self.uses("render node that is not there")
        return name.format(f" rendernode='{node}'" if node else "")

    def frontend(self, kind):
        self.uses(kind)
        if kind in ("vnc", "rdp"):
            attributes, children = self.listen(kind)
            if kind == "vnc" and self.chance(4):
                attributes += self.one(" passwd='geheim'", " sharePolicy='ignore'", " powerControl='yes'")
            return graphics(kind, attributes, children)
        if kind in ("spice", "spice gl"):
            attributes, children = self.listen(kind)
            if kind == "spice" and self.chance(6):
                children = [*children, "<gl enable='no'/>"]
            return graphics("spice", attributes, children + [self.gl()] * (kind == "spice gl"))
        if kind == "egl-headless":
            return graphics(kind, "", [self.gl("<gl{}/>")] if self.chance(60) else [])
        if kind in ("sdl", "sdl gl"):
            # The helper of libvirt for AppArmor wants an xauth if SDL is the only graphics, and none in /etc.
            screen = self.pick({DISPLAY: 76, f"{DISPLAY}.0": 8, f"localhost{DISPLAY}": 3, ":8": 5, "": 8})
            xauth = self.pick({"": 32, XAUTH: 48, "/run/wild-no-xauth": 10, "/etc/hostname": 10})
            self.uses(f"sdl display {screen or 'absent'}", f"sdl xauth {xauth or 'absent'}")
            attributes = "".join(f" {name}='{value}'" for name, value in (("display", screen), ("xauth", xauth)) if value)
            if self.chance(4):
                attributes += " fullscreen='yes'"
            gl = ["<gl enable='yes'/>"] if kind == "sdl gl" else ["<gl enable='no'/>"] * self.chance(5)
            return graphics("sdl", attributes, gl)
        attributes = " p2p='yes'" if "p2p" in kind else ""
        if "p2p" in kind and self.chance(2):
            attributes += " address='unix:path=/run/wild'"
            self.uses("p2p with address")
        return graphics("dbus", attributes, [self.gl()] if "gl" in kind else [])

    def frontends(self, wants_gl):
        """The kinds."""
        weights = {
            "vnc": 22, "spice": 16, "spice gl": 20, "egl-headless": 14, "dbus p2p": 8, "dbus p2p gl": 12,
            "dbus": 1, "dbus gl": 1, "rdp": 1, "sdl": 5, "sdl gl": 6,
        }  # fmt: skip
        if not self.sdl:
            del weights["sdl"], weights["sdl gl"]
        kinds = []
        for _ in range(self.pick({0: 5, 1: 34, 2: 48, 3: 13})):
            # libvirt takes one of a type only.
            kinds.append(self.pick(weights if self.chance(2) else others(weights, kinds)))
        # Without OpenGL a dmabuf is refused, whatever else there is.
        if wants_gl and kinds and not any(brings_gl(kind) for kind in kinds) and self.chance(60):
            kinds.pop(self.random.randrange(len(kinds)))
            kinds.append(self.pick(others({"spice gl": 1, "egl-headless": 1, "dbus p2p gl": 1}, kinds)))
        # libvirt refuses it beside all others, and there is more to find out.
        if "egl-headless" in kinds and set(kinds) - {"vnc", "spice", "egl-headless"} and self.chance(75):
            kinds.remove("egl-headless")
        return kinds

    # Cards

    def card(self, first):
        model = self.pick(
            {"vga": 22, "qxl": 14, "virtio": 20, "accel3d": 12, "ramfb": 6, "bochs": 8, "cirrus": 3}
            if first
            else {"qxl": 40, "virtio": 40, "accel3d": 8, "vga": 3, "bochs": 2, "ramfb": 2}
        )
        self.uses(f"card {model}")
        attributes, children = "", []
        if self.chance(10 if model in ("qxl", "virtio", "accel3d") else 2):
            attributes += " heads='2'"
            self.uses("heads")
        if first and self.chance(6):
            attributes += " primary='yes'"
        if model == "virtio" and self.chance(3):
            attributes += " blob='on'"
            self.uses("blob")
        if model == "accel3d":
            model, children = "virtio", ["<acceleration accel3d='yes'/>"]
        elif self.chance(2):
            children = ["<acceleration accel3d='yes'/>"]
            self.uses("accel3d on another card")
        inside = f"<model type='{model}'{attributes}/>"
        if children:
            inside = f"<model type='{model}'{attributes}>\n        {children[0]}\n      </model>"
        return ["<video>", f"  {inside}", "</video>"]

    def cards(self):
        how = self.pick({"none": 42, "one": 34, "two": 10, "absent": 14})
        self.uses(f"cards {how}")
        if how == "none":
            lines = ["<video>", "  <model type='none'/>", "</video>"]
            return lines + (self.card(False) if self.chance(2) else [])
        count = {"absent": 0, "one": 1, "two": 2}[how]
        return [line for number in range(count) for line in self.card(number == 0)]

    # Arguments and overrides

    def arguments(self, devices):
        if not self.chance(26):
            return []
        found = []
        for _ in range(self.pick({1: 75, 2: 25})):
            kind = self.pick({"display": 22, "vga": 10, "nographic": 5, "vnc": 4, "device": 26, "set": 8, "global": 10, "harmless": 15})
            self.uses(f"argument {kind}")
            found += getattr(self, f"argument_{kind}")(devices)
        return found

    def argument_display(self, _):
        return ["-display", self.one(
            "none", "egl-headless", "egl-headless", f"egl-headless,rendernode={self.node}", "gtk", "gtk,gl=on", "curses",
            "dbus,p2p=yes", "dbus,p2p=yes,gl=on", "vnc=127.0.0.1:7",
        )]  # fmt: skip

    def argument_vga(self, _):
        return ["-vga", self.one("none", "none", "std", "std", "qxl", "virtio", "cirrus")]

    def argument_nographic(self, _):
        return ["-nographic"]

    def argument_vnc(self, _):
        return ["-vnc", self.one("none", "127.0.0.1:8", "unix:/run/wild-vnc")]

    def argument_device(self, devices):
        driver, properties = self.one(
            ("VGA", {}), ("VGA", {"vgamem_mb": 32}), ("secondary-vga", {}), ("bochs-display", {}), ("virtio-gpu-pci", {}),
            ("virtio-vga", {}), ("virtio-vga-gl", {}), ("virtio-gpu-gl-pci", {}), ("qxl", {}), ("ramfb", {}),
            ("virtio-rng-pci", {}), ("pvpanic", {}), ("virtio-balloon-pci", {"id": "mine"}), ("usb-ehci", {"id": "mine"}),
            ("vfio-pci", {"sysfsdev": f"/sys/bus/mdev/devices/{uuid(devices[-1][1])}", "display": "on"}),
        )  # fmt: skip
        self.uses(f"argument device {driver}")
        if self.chance(50):
            return ["-device", json.dumps({"driver": driver, **properties})]
        return ["-device", ",".join([driver, *(f"{name}={value}" for name, value in properties.items())])]

    def argument_set(self, _):
        what = self.one("display=on", "display=off", "ramfb=on", "x-igd-opregion=on", "xres=1024", "rombar=0")
        return ["-set", f"device.hostdev{self.pick({0: 80, 1: 20})}.{what}"]

    def argument_global(self, _):
        return ["-global", self.one(
            "vfio-pci.display=on", "vfio-pci.display=off", "vfio-pci.x-no-mmap=on", "vfio-pci.x-igd-opregion=on",
            "vfio-pci.x-igd-opregion=off", "vfio-pci.ramfb=on", "VGA.vgamem_mb=32", "vfio-pci.xres=1024",
        )]  # fmt: skip

    def argument_harmless(self, _):
        return list(self.one(
            ("-msg", "timestamp=on"), ("-fw_cfg", "name=opt/wild,string=yes"), ("-smbios", "type=1,serial=wild"),
            ("-no-shutdown",), ("-d", "guest_errors"), ("-rtc", "driftfix=slew"), ("-boot", "menu=on"),
        ))  # fmt: skip

    def override(self, aliases):
        """(alias, properties) each."""
        found = []
        for number, alias in enumerate(aliases):
            if not self.chance(34 if alias else 3):
                continue
            properties = {}
            for _ in range(self.pick({1: 75, 2: 25})):
                name, kind, value = self.pick({
                    ("display", "string", "on"): 8, ("display", "string", "off"): 6, ("display", "string", "auto"): 3,
                    ("display", "remove", None): 2, ("display", "bool", "true"): 1,
                    ("ramfb", "bool", "true"): 6, ("ramfb", "bool", "false"): 3, ("ramfb", "string", "on"): 1,
                    ("driver", "string", "vfio-pci-nohotplug"): 2,
                    ("x-igd-opregion", "bool", "true"): 10, ("x-igd-opregion", "bool", "false"): 6,
                    ("x-igd-opregion", "string", "on"): 2,
                    ("xres", "unsigned", "1024"): 8, ("yres", "unsigned", "768"): 4, ("xres", "string", "wide"): 1,
                    ("rombar", "unsigned", "0"): 2, ("x-no-mmap", "bool", "true"): 2,
                })  # fmt: skip
                properties[name] = (kind, value)
                self.uses(f"override {name}")
            found.append((alias or f"hostdev{number}", properties))
        if self.chance(1):
            found.append(("ua-nobody", {"display": ("string", "on")}))
        return found

    # What else is in a domain

    def channels_and_audio(self, kinds):
        """What hangs on a frontend: if fixup takes that away, this may have to go, too."""
        spice = any(kind.startswith("spice") for kind in kinds)
        lines = []
        if self.chance(25 if spice else 1.5):
            self.uses("spicevmc")
            lines += ["<channel type='spicevmc'>", "  <target type='virtio' name='com.redhat.spice.0'/>", "</channel>"]
        if self.chance(10 if spice else 1):
            self.uses("audio spice")
            lines += ["<audio id='1' type='spice'/>"]
        elif self.chance(10 if any(kind.startswith("dbus") for kind in kinds) else 1):
            self.uses("audio dbus")
            lines += ["<audio id='1' type='dbus'/>"]
        return lines

    def domain(self, name):
        machine = self.pick({"pc": 60, "q35": 40})
        windows = self.chance(15)
        devices = self.devices()
        hostdevs = [self.hostdev(number, *device) for number, device in enumerate(devices)]
        wants_gl = any(on and kind in DMABUF for (_, _, on), (kind, _) in zip(hostdevs, devices))
        kinds = self.frontends(wants_gl)
        lines = [line for kind in kinds for line in self.frontend(kind)]
        lines += self.cards()
        for hostdev, _, _ in hostdevs:
            lines += hostdev
        lines += self.channels_and_audio(kinds)
        arguments = self.arguments(devices)
        override = self.override([alias for _, alias, _ in hostdevs])
        self.uses(machine, f"{len(kinds)} graphics", f"{len(devices)} devices", *["Windows"] * windows)
        return text(name, machine, windows, lines, arguments, override)

    def options(self):
        """Those of fixup: mostly whatever it takes, sometimes what is done unasked."""
        return self.pick({
            ("--consent", "all"): 80, (): 10, ("--policy", "full", "--consent", "all"): 10,
        })  # fmt: skip


def others(weights, kinds):
    """The frontends whose type is not among these."""
    taken = {kind.split()[0] for kind in kinds}
    return {kind: weight for kind, weight in weights.items() if kind.split()[0] not in taken}


def brings_gl(kind):
    return kind.endswith("gl") or kind == "egl-headless"


def graphics(kind, attributes, children):
    if not children:
        return [f"<graphics type='{kind}'{attributes}/>"]
    return [f"<graphics type='{kind}'{attributes}>", *(f"  {child}" for child in children), "</graphics>"]


def quoted(value):
    return value.replace("&", "&amp;").replace("<", "&lt;").replace("'", "&apos;")


def text(name, machine, windows, lines, arguments, override):
    """The XML."""
    namespace = " xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'" if arguments or override else ""
    metadata = """  <metadata>
    <libosinfo:libosinfo xmlns:libosinfo='http://libosinfo.org/xmlns/libvirt/domain/1.0'>
      <libosinfo:os id='http://microsoft.com/win/10'/>
    </libosinfo:libosinfo>
  </metadata>
"""
    tail = ""
    if arguments:
        tail += "  <qemu:commandline>\n"
        tail += "".join(f"    <qemu:arg value='{quoted(argument)}'/>\n" for argument in arguments)
        tail += "  </qemu:commandline>\n"
    if override:
        tail += "  <qemu:override>\n"
        for alias, properties in override:
            tail += f"    <qemu:device alias='{alias}'>\n      <qemu:frontend>\n"
            for property, (kind, value) in properties.items():
                of = "" if value is None else f" value='{value}'"
                tail += f"        <qemu:property name='{property}' type='{kind}'{of}/>\n"
            tail += "      </qemu:frontend>\n    </qemu:device>\n"
        tail += "  </qemu:override>\n"
    devices = "".join(f"    {line}\n" for line in lines)
    return f"""<domain type='qemu'{namespace}>
  <name>{name}</name>
  <uuid>0d0c2f26-4b1a-4c6e-9d52-6f5a1f7b6a01</uuid>
{metadata if windows else ""}  <memory unit='MiB'>16</memory>
  <os>
    <type arch='x86_64' machine='{machine}'>hvm</type>
  </os>
  <devices>
    <controller type='usb' model='none'/>
{devices}    <memballoon model='none'/>
  </devices>
{tail}</domain>
"""


# In the guest


def gfxplane(*arguments):
    """Exit status, the JSON on stdout or None, and stderr."""
    result = subprocess.run(["gfxplane", *arguments], capture_output=True, text=True)
    try:
        said = json.loads(result.stdout)
    except ValueError:
        said = None
    return result.returncode, said, result.stderr.strip()


def told(prediction):
    """A prediction as (yes, no or doubt; who refuses; in which words)."""
    starts = prediction.get("starts")
    refusal = prediction.get("refusal", {}) if starts == "doubt" else prediction
    return starts, refusal.get("by"), refusal.get("message")


def at_start(said, when):
    """What fixup says of a start, "before" or "after", on the host as it is: it says of a device that is not there by itself."""
    prediction = said[when]
    is_earlier = prediction.get("stage") in ("define", "start")
    return prediction if is_earlier or "devices" not in said else {"starts": "no", **said["devices"]}


def judge(prediction, world):
    """right, doubt or wrong."""
    starts, by, message = told(prediction)
    if starts == "doubt":
        return "doubt"
    if world["starts"]:
        return "right" if starts == "yes" else "wrong"
    if ends_without_words(prediction, world):
        return "right"
    # libvirt breaks its lines where it likes. Some refusals come in one of several words.
    text = " ".join(world.get("text", "").split())
    is_said = any(" ".join(words.split()) in text for words in [message or "", *prediction.get("or", [])])
    return "right" if starts == "no" and by == world["by"] and is_said else "wrong"


def ends_without_words(prediction, world):
    """QEMU ends as was foretold, and has no say in it: it crashes at the first draw, or SDL's OpenGL meets another one,
    and Xlib ends the program."""
    if world["by"] != "qemu" or told(prediction)[1] == "libvirt":
        return False
    crashes = any(danger["danger"] == "no-mmap" for danger in prediction["dangers"])
    return crashes or told(prediction)[0] == "no" and "X Error" in world["text"]


def in_words(prediction):
    starts, by, message = told(prediction)
    return starts if starts == "yes" else f"{starts}, {by}: {message}"


def seen(world):
    return "starts" if world["starts"] else f"{world['by']} refuses ({world['at']}): {world['message']}"


class Guest:
    """libvirt, the devices and gfxplane."""

    def __init__(self, seed):
        import lab

        self.lab = lab
        if PACKAGE.exists():
            rules = "[[rule]]\nname = 'samples'\nsource = 'tests/kmod'\nmatch = { type = ['virtio-pci-*'] }\nopen = 'safe'\n"
            print(lab.install(rules))
            lab.without_hook_and_daemon()
        lab.out("load_modules")
        for kind, numbers, _ in DEVICES.values():
            for number in numbers:
                lab.out(f"create_mdev {kind} {uuid(number)}")
        lab.out("udevadm settle")
        self.node = lab.vgem_node()
        self.sdl = self.has_sdl()
        if PACKAGE.exists():
            # Its status tells of two that are not believed.
            lab.sh("gfxplane probe --all", check=False)
            print(lab.out("gfxplane list"))
        # Newer AppArmor keeps guests from X servers, unless somebody lets them, as the guests of odd seeds.
        if re.search("[13579]$", seed):
            local = Path("/etc/apparmor.d/local/abstractions/libvirt-qemu")
            local.parent.mkdir(parents=True, exist_ok=True)
            with local.open("a") as rules:
                rules.write("  #include <abstractions/X>\n")
        self.connection = lab.libvirt.open("qemu:///system")
        self.groups = lab.groups(uuid(number) for _, numbers, _ in DEVICES.values() for number in numbers)

    def has_sdl(self):
        """SDL is tried where it has a screen to open."""
        if not shutil.which("Xvfb") or not list(Path("/usr/lib").glob("*/qemu/ui-sdl.so")):
            print("not on this machine: sdl: no Xvfb or no qemu-system-gui")
            return False
        Path(XAUTH).touch()
        # For everybody, as QEMU is another user.
        subprocess.Popen(["Xvfb", DISPLAY, "-ac", "-screen", "0", "640x480x24"], stderr=subprocess.DEVNULL)
        self.lab.eventually("Xvfb listens", Path(f"/tmp/.X11-unix/X{DISPLAY[1:]}").exists)
        return True

    def versions(self):
        def number(n):
            return f"{n // 1000000}.{n // 1000 % 1000}.{n % 1000}"

        return {"qemu": number(self.connection.getVersion()), "libvirt": number(self.connection.getLibVersion())}

    def world(self, xml):
        """What becomes of a domain: {"starts": …}, and if it does not: who refuses, at which step, with what text."""
        error = self.lab.libvirt.libvirtError
        result, found, at = {"starts": True}, None, "define"
        try:
            found = self.connection.defineXML(xml)
            result["definition"] = found.XMLDesc(self.lab.libvirt.VIR_DOMAIN_XML_INACTIVE | self.lab.libvirt.VIR_DOMAIN_XML_SECURE)
            at = "start"
            found.createWithFlags(self.lab.libvirt.VIR_DOMAIN_START_PAUSED)
            at = "after the start"
            time.sleep(0.2)
            found.destroy()
        except error as problem:
            said = str(problem)
            by = "qemu" if at != "define" and re.search("qemu-system|(connecting to|read from|closed the) monitor", said) else "libvirt"
            result |= {"starts": False, "at": at, "by": by, "text": said, "message": self.lab.short(said)}
        if found:
            self.lab.gone(DOMAIN)
        self.lab.eventually("the devices come free", lambda: self.lab.free(self.groups))
        return result


class Entry:
    """One domain, and what was seen of it."""

    def __init__(self, guest, seed, number):
        self.name, self.guest = f"{seed}-{number}", guest
        self.began, self.seconds = time.monotonic(), {}
        draw = Draw(seed, number, guest.node, guest.sdl)
        self.xml = draw.domain(DOMAIN)
        self.options = draw.options()
        self.misses, self.fixed, self.check, self.said = [], None, None, None
        self.fixed_world = None
        # Asked before the truth is known.
        if PACKAGE.exists():
            self.check = self.predict(self.xml, "check")
        self.lap("check")
        self.world = guest.world(self.xml)
        self.lap("start")
        if PACKAGE.exists():
            self.hold(self.check, self.world, "check")
            if "definition" in self.world:
                self.of_definition()
            self.fix()
        self.lap("fix")

    def lap(self, step):
        now = time.monotonic()
        self.seconds[step] = round(now - self.began, 1)
        self.began = now

    def miss(self, what):
        self.misses.append(what)

    def file(self, xml):
        file = Path(f"/tmp/{DOMAIN}.xml")
        file.write_text(xml)
        return str(file)

    def predict(self, xml, what):
        status, said, stderr = gfxplane("check", "--json", self.file(xml))
        if said is None or status != {"no": 1}.get(told(said)[0], 0):
            self.miss(f"{what} ended with {status}: {stderr}")
        return said or {}

    def hold(self, prediction, world, what):
        if judge(prediction, world) == "wrong":
            self.miss(f"{what} says {in_words(prediction)}; {seen(world)}")

    def of_definition(self):
        """The same must be said of a domain as libvirt keeps it."""
        again = self.predict(self.world["definition"], "check of the definition")
        if told(again) != told(self.check):
            self.miss(f"check says {in_words(self.check)}; of the same as libvirt keeps it {in_words(again)}")

    def fix(self):
        status, said, stderr = gfxplane("fixup", "--json", *self.options, self.file(self.xml))
        if said is None or status not in (0, 1):
            self.miss(f"fixup ended with {status}: {stderr}")
            return
        self.said, self.fixed = said, said["xml"]
        before, after = at_start(said, "before"), at_start(said, "after")
        if told(before) != told(self.check):
            self.miss(f"check says {in_words(self.check)}, fixup {in_words(before)}")
        if self.fixed == self.xml:
            self.fixed_world = self.world
            return
        self.fixed_world = self.guest.world(self.fixed)
        self.hold(after, self.fixed_world, "fixup of the result")
        if self.world["starts"] and not self.fixed_world["starts"]:
            self.miss(f"LOST: it started, and no longer does after fixup: {seen(self.fixed_world)}")
        again = gfxplane("fixup", "--json", *self.options, self.file(self.fixed))
        if again[1] is None or again[1]["xml"] != self.fixed:
            self.miss("a second fixup changes it")

    def kept(self):
        """What is written down."""
        world = {name: value for name, value in self.world.items() if name != "definition"}
        fixed = {name: value for name, value in (self.fixed_world or {}).items() if name != "definition"}
        return {
            "name": self.name, "versions": self.guest.versions(), "options": self.options, "misses": self.misses,
            "check": self.check, "world": world,
            "changes": (self.said or {}).get("changes"), "after": (self.said or {}).get("after"), "fixed": fixed, "seconds": self.seconds,
            "xml": self.xml, "fixed_xml": self.fixed,
        }  # fmt: skip

    def keep(self, versions):
        """As a case of tests/fixup, as far as it can be one."""
        folder = MISSES / self.name
        folder.mkdir(parents=True)
        (folder / "domain.xml").write_text(self.xml)
        lines = ["host = 'wild'", *(f"{program} = '{version}'" for program, version in versions.items())]
        (folder / "case.toml").write_text("\n".join(lines) + "\n")
        policy = ["display = 'full'"] * ("full" in self.options) + ["consent = ['remote', 'video']"] * ("all" in self.options)
        if policy:
            (folder / "policy.toml").write_text("\n".join(policy) + "\n")
        if self.fixed and self.fixed != self.xml:
            (folder / "fixed.xml").write_text(self.fixed)
        seen_of_it = {name: value for name, value in self.kept().items() if not name.endswith("xml")}
        (folder / "seen.json").write_text(json.dumps(seen_of_it, indent=1) + "\n")


def record():
    """The host that the cases name."""
    print(Guest("0").lab.out("rm -rf host; gfxplane collect host"))
    print("recorded")


def run(seed, numbers):
    shutil.rmtree(MISSES, ignore_errors=True)
    guest = Guest(seed)
    versions = guest.versions()
    print(f"seed {seed}: {json.dumps(versions)}")
    entries = []
    with RESULTS.open("w", buffering=1) as results:
        for number in numbers:
            entry = Entry(guest, seed, number)
            entries.append(entry.kept())
            results.write(json.dumps(entries[-1]) + "\n")
            print(f"{entry.name}: {seen(entry.world)} ({sum(entry.seconds.values()):.0f} s)")
            for miss in entry.misses:
                print(f"MISS {entry.name}: {miss}")
            if entry.misses:
                entry.keep(versions)
    return report(entries)


def report(entries):
    """Prints the tally of what Entry.kept() has. Returns the exit status."""
    count = len(entries)
    started = sum(entry["world"]["starts"] for entry in entries)
    seconds = sum(sum(entry["seconds"].values()) for entry in entries)
    print(f"{count} domains: {started} start, {seconds / max(count, 1):.1f} s each")
    asked = [entry for entry in entries if entry["check"]]
    if asked:
        verdicts = Counter(judge(entry["check"], entry["world"]) for entry in asked)
        print("predictions: " + ", ".join(f"{word} {verdicts[word]}" for word in ("right", "doubt", "wrong")))
        changed = [entry for entry in asked if entry["fixed_xml"] not in (None, entry["xml"])]
        works = sum(entry["fixed"].get("starts", False) for entry in asked)
        fixed = sum(entry["fixed"]["starts"] and not entry["world"]["starts"] for entry in changed)
        lost = sum(entry["world"]["starts"] and not entry["fixed"]["starts"] for entry in changed)
        print(f"fixed: {works} of {len(asked)} start, {len(changed)} changed, {fixed} fixed, {lost} lost")
        print(f"{sum(bool(entry['misses']) for entry in asked)} domains with misses")
    return 1 if any(entry["misses"] for entry in entries) or not entries else 0


def read(files):
    """The entries of results."""
    return [json.loads(line) for file in files for line in Path(file).read_text().splitlines()]


def kinds(entries):
    """Prints each kind of miss, how often it was seen, and in which domains."""
    found = {}
    for entry in entries:
        for miss in entry["misses"]:
            found.setdefault(re.sub(UUID, "UUID", miss), []).append(entry["name"])
    for miss, names in sorted(found.items(), key=lambda of: -len(of[1])):
        print(f"{len(names):4} {miss}\n     {' '.join(names)}")


def again(root, entries):
    """Holds predictions against what was seen before, of domains and of what fixup made of them. Nothing is started."""
    verdicts = Counter()
    file = Path(f"/tmp/{DOMAIN}-again.xml")
    for entry in entries:
        versions = entry["versions"]
        options = ["--qemu", versions["qemu"], "--libvirt-version", versions["libvirt"]]
        domains = [(entry["name"], entry["xml"], entry["world"])]
        if entry["fixed_xml"] not in (None, entry["xml"]):
            domains.append((f"{entry['name']} fixed", entry["fixed_xml"], entry["fixed"]))
        for name, xml, world in domains:
            file.write_text(xml)
            status, said, stderr = gfxplane("--root", root, "check", "--json", *options, str(file))
            verdict = judge(said, world) if said else f"ended with {status}: {stderr}"
            verdicts[verdict] += 1
            if verdict != "right":
                print(f"{verdict}: {name}: {in_words(said or {})}; {seen(world)}")
    print(dict(verdicts))


def main(arguments):
    if arguments[:1] == ["--xml"]:
        print(Draw(*arguments[1:3], *arguments[3:4]).domain(DOMAIN), end="")
        return 0
    if arguments[:1] == ["--count"]:
        used = Counter()
        for number in range(1, int(arguments[2]) + 1):
            draw = Draw(arguments[1], number)
            draw.domain(DOMAIN)
            used.update(set(draw.used))
        for word, count in sorted(used.items()):
            print(f"{count:5} {word}")
        return 0
    if arguments[:1] == ["--kinds"]:
        entries = read(arguments[1:])
        kinds(entries)
        report(entries)
        return 0
    if arguments[:1] == ["--again"]:
        again(arguments[1], read(arguments[2:]))
        return 0
    if arguments[:1] == ["--host"]:
        record()
        return 0
    wanted = int(os.environ.get("N") or (250 if os.environ.get("FULL") == "1" else 25))
    return run(os.environ.get("SEED") or "1", [int(word) for word in arguments] or range(1, wanted + 1))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
