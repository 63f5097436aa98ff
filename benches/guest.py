"""The figures that need real devices, run as root in the guest."""

import os
import statistics
import subprocess
import time
from pathlib import Path

LIB = ". /usr/local/lib/gfxplane/lib.sh"


def sh(command):
    return subprocess.run(["bash", "-c", f"{LIB}; {command}"], check=True, capture_output=True, text=True).stdout


def spend(*command):
    null = subprocess.DEVNULL
    began = time.perf_counter()
    subprocess.run(command, check=True, stdin=null, stdout=null, stderr=null)
    return (time.perf_counter() - began) * 1000


def probing():
    uuids = {kind: f"0000000{n}-0000-4000-8000-000000000000" for n, kind in enumerate(["mdpy-vga", "mbochs-small", "mtty-1"])}
    for kind, uuid in uuids.items():
        sh(f"create_mdev {kind} {uuid}")
    sh("udevadm settle")
    print("gfxplane-probe --fresh against a minimal C prober with the same ioctls, whole process, 30 runs each")
    for kind, uuid in uuids.items():
        times = {"nothing": [], "C": [], "child": [], "probe": []}
        for _ in range(30):
            times["nothing"].append(spend("./nothing"))
            times["C"].append(spend("./prober", uuid))
            times["child"].append(spend("/usr/bin/gfxplane-probe", "--child", uuid, str(os.getpid())))
            times["probe"].append(spend("/usr/bin/gfxplane-probe", "--fresh", uuid))
        medians = {name: statistics.median(t) for name, t in times.items()}
        print(
            f"  {kind:13} nothing {medians['nothing']:.0f} ms, C {medians['C']:.0f} ms, what opens the device"
            f" {medians['child']:.0f} ms = {medians['child'] / medians['C']:.2f} x, all with policy, deadline"
            f" and record {medians['probe']:.0f} ms = {medians['probe'] / medians['C']:.2f} x"
        )


def libvirtd_start():
    count = 30
    existing = len(os.listdir("/sys/bus/mdev/devices"))
    for n in range(count - existing):
        sh(f"create_mdev mbochs-small {n:08d}-1111-4000-8000-000000000000")
    sh("udevadm settle")
    callout = Path("/usr/lib/mdevctl/scripts.d/callouts/99-gfxplane")
    aside = Path("/root/99-gfxplane")
    times = {"without": [], "with": []}
    print(f"libvirtd from restart until it lists {count} mdevs, 4 times each, emulated")
    for _ in range(4):
        for name in times:
            if name == "without":
                callout.rename(aside)
            began = time.perf_counter()
            sh("systemctl restart libvirtd")
            while len(sh("virsh nodedev-list --cap mdev").split()) < count:
                time.sleep(0.1)
            times[name].append(time.perf_counter() - began)
            print(f"  {name} our callout: {times[name][-1]:.1f} s")
            if name == "without":
                aside.rename(callout)
    medians = {name: statistics.median(t) for name, t in times.items()}
    print(f"  medians: without {medians['without']:.1f} s, with {medians['with']:.1f} s = {medians['with'] / medians['without']:.2f} x")


sh("load_modules; dpkg -i ./gfxplane.deb")
probing()
libvirtd_start()
