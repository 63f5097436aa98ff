"""What the qemu hook costs a start, beside a C program that does nothing behind the same script, and
beside a hook in Python that makes the same check. No virtual machine.

    hook.py PROGRAMS HOST SCRIPT CASES"""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from spawn import alternate, run

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


def behind_the_script(directory, name, program):
    text = Path(SCRIPT).read_text()
    assert text.count("/usr/bin/gfxplane-helper") == 1
    path = directory / name
    path.write_text(text.replace("/usr/bin/gfxplane-helper", str(program)))
    path.chmod(0o755)
    return str(path)


def calling(hook, root, domain, code):
    def call():
        source = os.open(domain, os.O_RDONLY)
        try:
            time, status = run(hook, "guest", "prepare", "begin", "-", stdin=source, GFXPLANE_ROOT=str(root))
            assert status == code, f"{hook} {domain}: {status}"
            return time, status
        finally:
            os.close(source)

    return call


def report(what, goal, found):
    print(what)
    floor, fastest = found["nothing"]
    for name, (median, least) in found.items():
        wanted = f" (goal {goal})" if name == "gfxplane" else ""
        print(
            f"  {name:10} median {median:.3f} ms = {median / floor:.2f} x nothing{wanted},"
            f" least {least:.3f} ms = {least / fastest:.2f} x"
        )


with tempfile.TemporaryDirectory() as directory:
    directory = Path(directory)
    root = directory / "host"
    subprocess.run(["cp", "-a", HOST, root], check=True)
    cache = root / "var/cache/gfxplane/qemu"
    cache.mkdir(parents=True)
    (cache / "usr,bin,qemu-system-x86_64.json").write_text(
        '{"format": 1, "emulator": "/usr/bin/qemu-system-x86_64", "abilities":'
        ' {"qemu": "10.0.13", "frontends": ["vnc", "spice", "spice-gl", "egl-headless", "dbus"]}}'
    )
    peer = directory / "peer.py"
    peer.write_text(f"#!{sys.executable}\n" + PEER)
    peer.chmod(0o755)
    nothing = shutil.copy("nothing", directory / "nothing-here")
    doomed = Path(CASES) / "veto-dmabuf-spice-loopback/domain.xml"
    plain = directory / "plain.xml"
    text = doomed.read_text()
    start, end = text.index("    <hostdev"), text.index("</hostdev>") + len("</hostdev>\n")
    plain.write_text(text[:start] + text[end:])
    hooks = {
        name: behind_the_script(directory, f"hook-{name}", program)
        for name, program in (
            ("nothing", nothing),
            ("gfxplane", Path(PROGRAMS) / "gfxplane-helper"),
            ("python", peer),
        )
    }

    def measure(domain, code):
        codes = {"nothing": 0, "gfxplane": code, "python": code}
        few = {name: calling(hook, root, domain, codes[name]) for name, hook in hooks.items()}
        python = alternate(30, **few)["python"]
        del few["python"]
        return alternate(1000, **few) | {"python": python}

    report("the qemu hook at prepare, whole process, a domain without vfio devices", 1.3, measure(plain, 0))
    report("the same, a domain with one mbochs that needs a plan: vetoed", 2.0, measure(doomed, 1))
