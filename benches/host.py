"""The figures that need no virtual machine."""

import json
import os
import shutil
import statistics
import sys
import tempfile
from pathlib import Path

from spawn import alternate, figure, peak, run

PROGRAMS, LAB = Path(sys.argv[1]), Path(sys.argv[2])


def helper():
    [record] = [r for r in (LAB / "run/gfxplane/records").iterdir() if '"dmabuf"' in r.read_text()][:1]
    call = ["-t", "t", "-e", "get", "-a", "attributes", "-s", "none", "-u", record.stem, "-p", "p"]
    program, first = str(PROGRAMS / "gfxplane-helper"), {"GFXPLANE_ROOT": str(LAB)}
    with tempfile.TemporaryDirectory() as copy:
        shutil.copytree(LAB, copy, symlinks=True, dirs_exist_ok=True)
        # As packaging/gfxplane.tmpfiles makes it: here an answer is kept and given again.
        (Path(copy) / "run/gfxplane/answers").mkdir()
        root = {"GFXPLANE_ROOT": copy}
        # 0: it has answered with attributes, which is what is measured.
        assert run(program, *call, **root)[1] == run(program, *call, **first)[1] == 0
        assert (Path(copy) / "run/gfxplane/answers" / record.stem).exists()
        found = alternate(
            1000,
            nothing=lambda: run("./nothing-static"),
            again=lambda: run(program, *call, **root),
            first=lambda: run(program, *call, **first),
            not_mine=lambda: run(program, "-t", "t", "-e", "pre", "-a", "start", **root),
        )
    floor, fastest = found["nothing"]
    print("gfxplane-helper against a static C program that does nothing (the floor), whole process, 1000 runs each")
    for name, (median, least) in found.items():
        print(f"  {name:10} median {median:.3f} ms = {median / floor:.2f} x floor, least {least:.3f} ms = {least / fastest:.2f} x")
    for name, what, goal in (
        ("again", "gfxplane-helper answers mdevctl's callout again", 1.2),
        ("first", "gfxplane-helper answers it for the first time", None),
        ("not_mine", "gfxplane-helper is not meant", None),
    ):
        figure(what, "ms", found[name][0], "a static C program that does nothing", floor, goal)


def made_host(root, count):
    """mdevs of mbochs, as sysfs shows them."""
    parent = root / "sys/devices/virtual/mbochs/mbochs"
    kind = parent / "mdev_supported_types/mbochs-small"
    kind.mkdir(parents=True)
    for name, text in (("name", "Bochs"), ("device_api", "vfio-pci"), ("available_instances", "1")):
        (kind / name).write_text(text + "\n")
    for directory in ("sys/bus/mdev/devices", "sys/bus/mdev/drivers/mbochs", "sys/class/mdev_bus", "sys/class/mbochs"):
        (root / directory).mkdir(parents=True)
    (root / "sys/class/mdev_bus/mbochs").symlink_to("../../devices/virtual/mbochs/mbochs")
    (parent / "subsystem").symlink_to("../../../../class/mbochs")
    (root / "proc/sys/kernel/random").mkdir(parents=True)
    (root / "proc/sys/kernel/osrelease").write_text("6.12.0\n")
    (root / "proc/sys/kernel/random/boot_id").write_text("b\n")
    records = root / "run/gfxplane/records"
    records.mkdir(parents=True)
    for n in range(count):
        uuid = f"{n:08x}-0000-4000-8000-000000000000"
        device = parent / uuid
        device.mkdir()
        (device / "mdev_type").symlink_to("../mdev_supported_types/mbochs-small")
        (device / "driver").symlink_to("../../../../../bus/mdev/drivers/mbochs")
        (device / "iommu_group").symlink_to(f"../../../../../kernel/iommu_groups/{n}")
        record = {
            "format": 1, "device": uuid, "boot_id": "b", "kernel": "6.12.0", "driver": "mbochs",
            "driver_version": None, "type": "mbochs-small", "facts": {"display": ["dmabuf"]},
        }
        (records / f"{uuid}.json").write_text(json.dumps(record))
        (root / "sys/bus/mdev/devices" / uuid).symlink_to(f"../../../devices/virtual/mbochs/mbochs/{uuid}")


def listing():
    print("gfxplane list on a made sysfs")
    figures = {}
    for count in (1000, 10000):
        with tempfile.TemporaryDirectory() as directory:
            made_host(Path(directory), count)
            program = str(PROGRAMS / "gfxplane")
            runs = [run(program, "--root", directory, "list") for _ in range(7)]
            memory = peak(program, "--root", directory, "list")
        assert all(code == 0 for _, code in runs)
        figures[count] = statistics.median(r[0] for r in runs), memory
        print(f"  {count:6} mdevs: {figures[count][0]:.0f} ms, {figures[count][1]:.1f} MiB")
    (small, little), (large, much) = figures.values()
    print(f"  ten times as many: {large / small:.1f} times the time, {much / little:.1f} times the memory")
    figure("gfxplane list, 10,000 mdevs, time", "ms", large, "itself, 1,000 mdevs", small)
    figure("gfxplane list, 10,000 mdevs, memory", "MiB", much, "itself, 1,000 mdevs", little)


helper()
listing()
