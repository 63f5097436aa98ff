"""How long libvirtd takes to start with mdevs, run as root in a guest under User Mode Linux: with gfxplane's daemon, which
makes mdevctl's link once libvirt has listed its devices, and without gfxplane's callout; once with the link that is there
for good (`callout = "static"`)."""

import statistics
import subprocess
import time
from pathlib import Path

import libvirt

from spawn import figure

ROUNDS = 5
KINDS = [("mbochs-small", 40), ("virtio-pci-region", 60)]
LINK = Path("/etc/mdevctl.d/scripts.d/callouts/99-gfxplane-watch")
SETTING = Path("/etc/gfxplane/conf.d/callout.toml")

libvirt.registerErrorHandler(lambda *_: None, None)


def sh(command):
    command = f". /usr/local/lib/gfxplane/lib.sh; {command}"
    return subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True).stdout


def listed():
    connection = libvirt.open("qemu:///system")
    try:
        flags = libvirt.VIR_CONNECT_LIST_NODE_DEVICES_CAP_MDEV | libvirt.VIR_CONNECT_LIST_NODE_DEVICES_ACTIVE
        return connection.listAllDevices(flags)
    finally:
        connection.close()


def until(condition):
    began = time.perf_counter()
    while True:
        try:
            if condition():
                return time.perf_counter() - began
        except libvirt.libvirtError:
            pass
        time.sleep(0.02)


def has_attributes():
    return any("<attr name='gfxplane.display'" in device.XMLDesc() for device in listed())


def start(count):
    began = time.perf_counter()
    sh("systemctl restart libvirtd")
    until(lambda: len(listed()) >= count)
    return time.perf_counter() - began


def with_daemon(count):
    sh("systemctl start gfxplane.service")
    until(LINK.is_symlink)
    took = start(count)
    shown.append(until(has_attributes))
    return took


def without(count):
    sh("systemctl stop gfxplane.service")
    assert not LINK.is_symlink()
    return start(count)


def with_static_link(count):
    sh("systemctl stop gfxplane.service")
    SETTING.write_text("callout = 'static'\n")
    sh("gfxplane-helper callout")
    took = start(count)
    SETTING.unlink()
    sh("gfxplane-helper callout")
    return took


sh("load_modules; mkdir -p /etc/gfxplane/conf.d; dpkg -i ./gfxplane.deb; udevadm settle")
made, shown = 0, []
for count in (30, 100):
    while made < count:
        kind = next(kind for kind, end in zip((kind for kind, _ in KINDS), (40, 100)) if made < end)
        sh(f"create_mdev {kind} {made:08d}-1111-4000-8000-000000000000")
        made += 1
    sh("udevadm settle")
    start(count)
    times = {"with": [], "without": []}
    for _ in range(ROUNDS):
        times["with"].append(with_daemon(count))
        times["without"].append(without(count))
    ours, theirs = statistics.median(times["with"]), statistics.median(times["without"])
    print(f"libvirtd from restart until it lists {count} mdevs: {ours:.2f} s with the daemon, {theirs:.2f} s without = {ours / theirs:.2f} x")
    print(f"  with {sorted(times['with'])}")
    print(f"  without {sorted(times['without'])}")
    print(f"  attributes are there {statistics.median(shown):.2f} s later, at most {max(shown):.2f} s", flush=True)
    figure(f"libvirtd from restart until it lists {count} mdevs, beside the daemon (User Mode Linux)", "s", ours, "without gfxplane", theirs, 1.1)
    if count == 30:
        figure(
            "libvirtd from restart until it lists 30 mdevs, callout = \"static\" (User Mode Linux)",
            "s", with_static_link(count), "without gfxplane", theirs,
        )  # fmt: skip
    figure(f"from libvirt's answer until it shows attributes of {count} mdevs (User Mode Linux)", "s", statistics.median(shown), "", 0)
    shown.clear()
