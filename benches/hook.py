"""What the qemu hook costs a start, beside a C program that does nothing behind the same script, and
beside a hook in Python that makes the same check. Root's, no virtual machine.

    hook.py PROGRAMS HOST SCRIPT CASES"""

import json
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

from spawn import alternate, figure, run

PROGRAMS, HOST, SCRIPT, CASES = sys.argv[1:]

# What somebody would write who has one kind of device and knows what it needs.
PEER = """\
import json
import os
import sys
import xml.etree.ElementTree as ET

if len(sys.argv) < 4 or sys.argv[3] != "prepare":
    sys.exit(0)
domain = ET.parse(sys.stdin).getroot()
name = domain.findtext("name")
gl = any(
    gl.get("enable") == "yes" for gl in domain.findall("devices/graphics/gl")
) or domain.find("devices/graphics[@type='egl-headless']") is not None
for hostdev in domain.findall("devices/hostdev[@type='mdev']"):
    if hostdev.get("display") != "on":
        continue
    uuid = hostdev.find("source/address").get("uuid")
    try:
        with open(os.environ["GFXPLANE_ROOT"] + f"/run/gfxplane/records/{uuid}.json") as file:
            record = json.load(file)
        with open(os.environ["GFXPLANE_ROOT"] + "/proc/sys/kernel/random/boot_id") as file:
            if record["boot_id"] != file.read().strip():
                continue
    except OSError:
        continue
    display = record["facts"]["display"]
    if not display:
        sys.exit(f"{name}: {uuid} has no display: set display='off'")
    if display[0] == "dmabuf" and not gl:
        print(f"{name}: {uuid} needs OpenGL: add <gl enable='yes'/> to its graphics", file=sys.stderr)
        sys.exit(77)
"""


QEMU = "/usr/bin/qemu-system-x86_64"


def sh(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def made_host(root):
    """The recorded host as a root directory: the helper takes one that the environment names for a
    recording, and looks less closely there."""
    sh("cp", "-a", HOST, str(root))
    for directory in ("bin", "dev", "usr/bin", "usr/lib", "run", "var/cache/gfxplane/qemu"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    shutil.copy("/bin/sh", root / "bin/sh")
    shutil.copy("nothing", root / "nothing")
    shutil.copy(f"{PROGRAMS}/gfxplane-helper", root / "usr/bin/gfxplane-helper")
    # The helper has its libraries in it.
    for word in sh("ldd", "/bin/sh", "nothing").split():
        if word.startswith("/") and word.count(":") == 0:
            (root / word[1:]).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(word, root / word[1:])
    # Whatever is written at a start is written there.
    sh("mount", "-t", "tmpfs", "tmpfs", str(root / "run"))
    sh("cp", "-a", f"{HOST}/run/.", str(root / "run"))
    (root / "dev/dri").mkdir()
    os.mknod(root / "dev/dri/renderD128", 0o600 | stat.S_IFCHR, os.makedev(226, 128))
    # As many as a host with a desktop's libraries has.
    for number in range(300):
        (root / f"usr/lib/package-{number}").mkdir()
    library = root / "usr/lib/x86_64-linux-gnu"
    library.mkdir(exist_ok=True)
    (library / "libvirt.so.0.11003.0").write_text("")
    (library / "libvirt.so.0").symlink_to("libvirt.so.0.11003.0")
    qemu = root / QEMU[1:]
    qemu.write_text("")
    data = qemu.stat()
    key = {
        "device": data.st_dev,
        "inode": data.st_ino,
        "size": data.st_size,
        "modified": f"{data.st_mtime_ns // 10**9}.{data.st_mtime_ns % 10**9:09}",
        "modules": {},
    }
    abilities = {"qemu": "10.0.13", "frontends": ["dbus", "egl-headless", "spice", "spice-gl", "vnc"]}
    kept = {"format": 1, "emulator": QEMU, "key": key, "abilities": abilities}
    (root / "var/cache/gfxplane/qemu" / (QEMU[1:].replace("/", ",") + ".json")).write_text(json.dumps(kept))
    sh("install", "-m", "666", "/dev/null", str(root / "dev/null"))
    peer = root / "peer.py"
    peer.write_text(f"#!{sys.executable}\n" + PEER)
    peer.chmod(0o755)
    sh("chown", "-R", "0:0", str(root))
    sh("chmod", "-R", "go-w", str(root / "run"), str(root / "var"))


def behind_the_script(path, program):
    text = Path(SCRIPT).read_text()
    assert text.count("/usr/bin/gfxplane-helper") == 1
    path.parent.mkdir()
    path.write_text(text.replace("/usr/bin/gfxplane-helper", program))
    path.chmod(0o755)


def calling(hook, domain, code, **environment):
    def call():
        source = os.open(domain, os.O_RDONLY)
        try:
            time, status = run(hook, "guest", "prepare", "begin", "-", stdin=source, **environment)
            assert status == code, f"{hook} {domain}: {status}"
            return time, status
        finally:
            os.close(source)

    return call


def report(name, found, goal=None):
    floor, fastest = found["nothing"]
    median, least = found[name]
    wanted = f" (goal {goal})" if goal else ""
    print(
        f"  {name:8} median {median:.2f} ms = {median / floor:.2f} x nothing{wanted},"
        f" least {least:.2f} ms = {least / fastest:.2f} x"
    )


with tempfile.TemporaryDirectory() as directory:
    root = Path(directory) / "host"
    made_host(root)
    programs = {"nothing": "/nothing", "gfxplane": "/usr/bin/gfxplane-helper"}
    for name, program in programs.items():
        behind_the_script(root / f"hook-{name}/50-gfxplane", program)
    # These two see the whole machine: there is a Python in it.
    behind_the_script(root / "hook-python/50-gfxplane", f"{root}/peer.py")
    behind_the_script(root / "hook-floor/50-gfxplane", f"{root}/nothing")
    text = (Path(CASES) / "veto-dmabuf-spice-loopback/domain.xml").read_text()
    start, end = text.index("    <hostdev"), text.index("</hostdev>") + len("</hostdev>\n")
    (root / "plain.xml").write_text(text[:start] + text[end:])
    (root / "doomed.xml").write_text(text)
    python = {}
    for domain, code in (("plain", 0), ("doomed", 1)):
        path = root / f"{domain}.xml"
        python[domain] = alternate(
            30,
            nothing=calling(f"{root}/hook-floor/50-gfxplane", path, 0),
            python=calling(f"{root}/hook-python/50-gfxplane", path, code, GFXPLANE_ROOT=str(root)),
        )
    print("the qemu hook at prepare, whole process, beside a C program that does nothing behind the same script")
    outside = os.open("/", os.O_RDONLY)
    os.chroot(root)
    os.chdir("/")
    figures = []
    for what, domain, code, goal in (
        ("a domain without vfio devices", "plain", 0, 1.3),
        ("a domain with one mbochs that needs a plan: vetoed", "doomed", 1, 2.0),
    ):
        calls = {"nothing": 0, "gfxplane": code}
        calls = {name: calling(f"/hook-{name}/50-gfxplane", f"/{domain}.xml", code) for name, code in calls.items()}
        found = alternate(1000, **calls)
        print(f" {what}: nothing median {found['nothing'][0]:.2f} ms, least {found['nothing'][1]:.2f} ms")
        report("gfxplane", found, goal)
        report("python", python[domain])
        what = f"qemu hook, {what}"
        figures.append((what, "ms", found["gfxplane"][0], "the same script, a C program that does nothing", found["nothing"][0], goal))
        in_python = python[domain]["python"][0] / python[domain]["nothing"][0] * found["nothing"][0]
        figures.append((what, "ms", found["gfxplane"][0], "the same check in Python", in_python))
    # Out again, to remove it.
    os.fchdir(outside)
    os.chroot(".")
    sh("umount", str(root / "run"))
    for one in figures:
        figure(*one)
