"""What fixing domains costs, beside what users would use instead. No virtual machine.

    domains.py PROGRAMS HOST DOMAIN CORPUS ENGINE LIBXML2"""

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from spawn import alternate, figure, peak, run

PROGRAMS, HOST, DOMAIN, CORPUS, ENGINE, LIBXML2 = sys.argv[1:]
GFXPLANE = f"{PROGRAMS}/gfxplane"
VERSIONS = ["--host", HOST, "--qemu", "10.0.13", "--libvirt-version", "11.3.0"]


def whole_process():
    text = Path(DOMAIN).read_text()
    assert "opengl" not in text
    fixed = subprocess.run([GFXPLANE, "fixup", *VERSIONS, DOMAIN], capture_output=True, text=True)
    assert fixed.returncode == 0 and "<gl enable='yes'" in fixed.stdout, fixed
    edit = ["virt-xml", "--connect", "test:///default", "--edit", "--graphics", "gl.enable=yes"]
    assert "<gl" in subprocess.run(edit, input=text, capture_output=True, text=True).stdout

    def virt_xml():
        source = os.open(DOMAIN, os.O_RDONLY)
        try:
            time, status = run("/usr/bin/virt-xml", *edit[1:], stdin=source)
            assert status == 0, status
            return time, status
        finally:
            os.close(source)

    found = alternate(
        15,
        xmllint=lambda: run("/usr/bin/xmllint", "--noout", DOMAIN),
        fixup=lambda: run(GFXPLANE, "fixup", "--quiet", *VERSIONS, DOMAIN),
        virt_xml=virt_xml,
    )
    more = alternate(
        300,
        xmllint=lambda: run("/usr/bin/xmllint", "--noout", DOMAIN),
        fixup=lambda: run(GFXPLANE, "fixup", "--quiet", *VERSIONS, DOMAIN),
    )
    print("gfxplane fixup FILE, whole process, a domain of 2 kB that is changed")
    median, least = more["fixup"]
    peer, fastest = more["xmllint"]
    print(f"  xmllint --noout FILE  median {peer:.2f} ms, least {fastest:.2f} ms")
    print(f"  gfxplane fixup FILE   median {median:.2f} ms = {median / peer:.2f} x, least {least:.2f} ms = {least / fastest:.2f} x")
    slow, ours = found["virt_xml"][0], found["fixup"][0]
    print(f"  virt-xml --edit       median {slow:.0f} ms = {slow / ours:.0f} times gfxplane fixup ({ours:.2f} ms)")
    what = "gfxplane fixup FILE, a domain of 2 kB"
    figure(what, "ms", median, "xmllint --noout", peer)
    figure(what, "ms", ours, "virt-xml --edit", slow)


def throughput():
    rounds = {"gfxplane": [], "libxml2": []}
    for _ in range(5):
        for name, program in (("gfxplane", ENGINE), ("libxml2", LIBXML2)):
            output = subprocess.run([program, CORPUS, "3"], check=True, capture_output=True, text=True)
            rounds[name] += [float(line) / 1e6 for line in output.stdout.split()]
    ours, theirs = (statistics.median(r) for r in rounds.values())
    count = len(list(Path(CORPUS).glob("*.xml")))
    print(f"reading the {count} documents of libvirt's tests, {len(rounds['libxml2'])} rounds each")
    print(f"  gfxplane's engine {ours:.0f} MB/s, libxml2 {theirs:.0f} MB/s: {ours / theirs:.2f} times as fast")
    figure(f"reading the {count} documents of libvirt's tests, a MB", "ms", 1000 / ours, "libxml2", 1000 / theirs)


def memory():
    print("largest memory of the whole process, by the size of the document")
    text = Path(DOMAIN).read_text()
    head, tail = text.split("</devices>")
    device = "    <channel type='pty'>\n      <target type='virtio' name='a.b.c'/>\n    </channel>\n"
    for mebibytes in (0, 1, 4, 15):
        with tempfile.NamedTemporaryFile("w", suffix=".xml") as file:
            file.write(head + device * (mebibytes * 1024 * 1024 // len(device)) + "</devices>" + tail)
            file.flush()
            ours = peak(GFXPLANE, "fixup", "--quiet", *VERSIONS, file.name)
            theirs = peak("/usr/bin/xmllint", "--noout", file.name)
        print(f"  {mebibytes:2} MiB: gfxplane fixup {ours:.1f} MiB, xmllint --noout {theirs:.1f} MiB")
        figure(f"gfxplane fixup FILE, {mebibytes} MiB, memory", "MiB", ours, "xmllint --noout", theirs)


whole_process()
throughput()
memory()
