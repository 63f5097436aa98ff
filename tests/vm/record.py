"""Records a host with the sample devices, in the form of tests/hosts. Run as root in a guest."""

import os
import shutil
import subprocess
import time
from pathlib import Path

ROOT = Path("root")
ATTRIBUTES = {
    "vendor", "device", "class", "name", "description", "device_api", "available_instances",
    "version", "srcversion", "sriov_totalvfs",
}
LINKS = {"driver", "subsystem", "iommu_group", "mdev_type", "module", "physfn"}


def sh(command, check=True):
    command = f". /usr/local/lib/gfxplane/lib.sh; {command}"
    return subprocess.run(["bash", "-c", command], check=check, capture_output=True, text=True).stdout


def uuid(number):
    return f"c1a20000-0000-4000-8000-{number:012d}"


def conf(name, text):
    Path(f"/etc/gfxplane/conf.d/{name}.toml").write_text(text)


def until(text):
    for _ in range(600):
        if text in sh("gfxplane -q list"):
            return
        time.sleep(0.5)
    raise SystemExit(f"in vain: {text}\n{sh('gfxplane list')}")


def make_devices():
    for directory in ("conf.d", "rules.d"):
        Path(f"/etc/gfxplane/{directory}").mkdir(parents=True)
    Path("/etc/gfxplane/rules.d/50-samples.toml").write_text(
        "[[rule]]\nname = 'samples'\nsource = 'tests/kmod'\n"
        "match = { type = ['virtio-pci-*'] }\nopen = 'safe'\n"
    )
    conf("deadline", "deadline = 20\n")
    sh("load_modules; dpkg -i ./gfxplane.deb")
    # What is recorded is what the devices say, and not what is done about it.
    sh("systemctl mask --runtime --now gfxplane.service; rm -f /etc/libvirt/hooks/qemu.d/50-gfxplane")
    kinds = ["mdpy-vga", "mbochs-small", "mtty-1"] + [f"virtio-pci-{k}" for k in ("region", "both", "yes", "hang")]
    for number, kind in enumerate(kinds, 1):
        sh(f"create_mdev {kind} {uuid(number)}")
    until("unknown (timed-out)")
    sh("release; udevadm settle")
    # One that is in use, of a type that nobody has asked; one that nobody asks.
    conf("never", "probe = 'never'\n")
    sh(f"create_mdev virtio-pci-dmabuf {uuid(8)}; create_mdev virtio-pci-region {uuid(9)}; udevadm settle")
    group = os.readlink(f"/sys/bus/mdev/devices/{uuid(8)}/iommu_group").rsplit("/", 1)[1]
    holder = os.open(f"/dev/vfio/{group}", os.O_RDWR)
    sh(f"gfxplane probe {uuid(8)}", check=False)
    os.close(holder)
    gpu = sh("parent_of virtio-pci-none").strip()
    sh(f"mdevctl define -u {uuid(10)} -p mbochs -t mbochs-medium")
    sh(f"mdevctl define -u {uuid(11)} -p {gpu} -t virtio-pci-both --auto")
    sh(f"mdevctl define -u {uuid(12)} -p {gpu} -t virtio-pci-none")


def copy_link(path):
    target = ROOT / path.relative_to("/")
    if path.is_symlink() and not target.is_symlink():
        target.parent.mkdir(parents=True, exist_ok=True)
        target.symlink_to(os.readlink(path))


def copy_directory(path, deep=()):
    """The attributes and links of one directory that matter, and the directories named in deep."""
    target = ROOT / path.relative_to("/")
    target.mkdir(parents=True, exist_ok=True)
    for entry in sorted(path.iterdir()):
        if entry.is_symlink():
            if entry.name in LINKS or entry.name.startswith("virtfn"):
                copy_link(entry)
        elif entry.name in ATTRIBUTES and entry.is_file():
            (target / entry.name).write_bytes(entry.read_bytes())
        elif entry.is_dir() and entry.name.startswith(tuple(deep)):
            copy_directory(entry, deep)
            if not any((target / entry.name).iterdir()):
                (target / entry.name / "uevent").write_bytes((entry / "uevent").read_bytes())


def record():
    for bus in ("mdev", "pci"):
        for link in sorted(Path(f"/sys/bus/{bus}/devices").iterdir()):
            copy_link(link)
            copy_directory(link.resolve(), ["vfio-dev", "vfio"] if bus == "mdev" else [])
    for driver in sorted(Path("/sys/bus/mdev/drivers").iterdir()):
        copy_directory(driver)
        copy_directory((driver / "module").resolve())
    for link in sorted(Path("/sys/class/mdev_bus").iterdir()):
        copy_link(link)
        parent = link.resolve()
        copy_directory(parent, ["virtio", "drm", "render", "card"])
        types = parent / "mdev_supported_types"
        for kind in sorted(types.iterdir()):
            copy_directory(kind)
    for path in ("proc/sys/kernel/osrelease", "proc/sys/kernel/random/boot_id"):
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_bytes(Path("/", path).read_bytes())
    for path in ("run/gfxplane/records", "run/gfxplane/types", "etc/mdevctl.d", "etc/gfxplane/rules.d"):
        shutil.copytree(Path("/", path), ROOT / path, symlinks=True)
    shutil.rmtree(ROOT / "etc/mdevctl.d/scripts.d", ignore_errors=True)


make_devices()
record()
print(sh("gfxplane list; gfxplane --root root list"))
print("recorded")
