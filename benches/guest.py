"""The figures that need real devices, run as root in the guest."""

import os
import shutil
import subprocess
from pathlib import Path

from spawn import alternate, figure, run

LIB = ". /usr/local/lib/gfxplane/lib.sh"


def sh(command):
    return subprocess.run(["bash", "-c", f"{LIB}; {command}"], check=True, capture_output=True, text=True).stdout


ROUNDS = 30


def probing():
    """gfxplane-probe against a C program that asks a device the same with the same ioctls, each from its
    start to its end.

    child: `gfxplane-probe --child`, which takes the device's lock, opens it, asks, and prints the answer
    as JSON. It does what the C prober does, and what `gfxplane` has done for it. This against the C
    prober that is linked as it is (statically) is the figure of the goal: at most 1.2.
    again: `gfxplane-probe --fresh`, which is settings, rules, sysfs, policy, a process with a deadline
    that asks, the record and the published tree, which say this already.
    udev: `gfxplane-probe --udev` as udev calls it for a new device: nothing was kept, all is written.
    C: the prober as a compiler links it by default, to libc.so. nothing: a program that does nothing,
    linked that way.

    All are on the guest's own disk: from the host's share even the pages of a program take long.
    """
    uuids = {kind: f"0000000{n}-0000-4000-8000-000000000000" for n, kind in enumerate(["mdpy-vga", "mbochs-small", "mtty-1"])}
    for kind, uuid in uuids.items():
        sh(f"create_mdev {kind} {uuid}")
    programs = Path("/opt/bench")
    sh(f"install -D -t {programs} prober prober-static nothing")
    sh("udevadm settle")
    print(f"gfxplane-probe against a minimal C prober with the same ioctls, whole process, {ROUNDS} runs each, ms")
    for kind, uuid in uuids.items():
        def done(program, *arguments, **environment):
            took, status = run(program, *arguments, **environment)
            assert status == 0, (program, arguments, status)
            return took, status

        def as_udev_does():
            shutil.rmtree("/run/gfxplane")
            return done("/usr/bin/gfxplane-probe", "--udev", uuid, ACTION="add")

        found = alternate(
            ROUNDS,
            **{
                "nothing": lambda: done(f"{programs}/nothing"),
                "C": lambda: done(f"{programs}/prober", uuid),
                "C static": lambda: done(f"{programs}/prober-static", uuid),
                "child": lambda: done("/usr/bin/gfxplane-probe", "--child", uuid, str(os.getpid())),
                "udev": as_udev_does,
                "again": lambda: done("/usr/bin/gfxplane-probe", "--fresh", uuid),
            },
        )
        print(f"  {kind}")
        for name, (median, least) in found.items():
            ratios = ", ".join(
                f"{median / found[peer][0]:.2f} x {peer} (least {least / found[peer][1]:.2f})" for peer in ("C static", "C")
            )
            if name in ("child", "udev", "again"):
                goal = 1.2 if name == "child" else None
                option = {"child": "--child", "udev": "--udev", "again": "--fresh"}[name]
                figure(f"gfxplane-probe {option}, {kind} (User Mode Linux)", "ms", median, "a C prober, static", found["C static"][0], goal)
            print(f"    {name:9} median {median:6.1f}, least {least:6.1f} = {ratios}")


sh("load_modules; dpkg -i ./gfxplane.deb")
# It keeps what it learns where the probing looks; daemon.py, which comes after this, starts it.
sh("systemctl stop gfxplane.service")
probing()
