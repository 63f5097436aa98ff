"""The figures of `gfxplane watch`, run as root in the guest, beside a C program that does the least
that a client of libvirt's events can do (events.c)."""

import re
import statistics
import subprocess
import threading
import time
from pathlib import Path

import libvirt

from spawn import figure

UNIT = "gfxplane.service"
DEVICE = "00000001-0000-4000-8000-00000000000d"
SPICE = "<graphics type='spice'><listen type='none'/></graphics>"
OLD, NEW = "<listen type='none'/>", "<listen type='none'/><gl enable='yes'/>"
ROUNDS, DOMAINS, IDLE = 100, 1000, 60
LIMIT = 300


def sh(command):
    command = f". /usr/local/lib/gfxplane/lib.sh; {command}"
    return subprocess.run(["bash", "-c", command], check=True, capture_output=True, text=True).stdout


def domain(name, graphics, kind="qemu"):
    return f"""<domain type='{kind}'>
  <name>{name}</name>
  <memory unit='MiB'>16</memory>
  <os><type>hvm</type></os>
  <devices>
    {graphics}
    <video><model type='none'/></video>
    <hostdev mode='subsystem' type='mdev' model='vfio-pci' display='on'>
      <source><address uuid='{DEVICE}'/></source>
    </hostdev>
  </devices>
</domain>
"""


class Watcher:
    """A client that notes when a domain was reported to be defined."""

    def __init__(self):
        libvirt.virEventRegisterDefaultImpl()
        self.defined = []
        self.changed = threading.Condition()
        self.connection = libvirt.open("qemu:///system")
        kind = libvirt.VIR_DOMAIN_EVENT_ID_LIFECYCLE
        self.connection.domainEventRegisterAny(None, kind, self.happened, None)
        threading.Thread(target=self.run, daemon=True).start()

    def run(self):
        while True:
            libvirt.virEventRunDefaultImpl()

    def happened(self, connection, of, event, detail, opaque):
        now = time.perf_counter()
        if event == libvirt.VIR_DOMAIN_EVENT_DEFINED:
            with self.changed:
                self.defined.append((of.name(), now))
                self.changed.notify()

    def from_event_to_mended(self, number):
        """Milliseconds between the report of a definition and that of the one that fixes it."""
        name = f"d{number}"
        with self.changed:
            self.defined.clear()
        mine = self.connection.defineXML(domain(name, SPICE))
        with self.changed:
            both = self.changed.wait_for(lambda: len(self.defined) >= 2, LIMIT)
            assert both, f"{name}: reported {len(self.defined)} times in {LIMIT} s"
            (_, first), (_, second) = self.defined[:2]
        assert "<gl enable='yes'" in mine.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)
        mine.undefine()
        return (second - first) * 1000


def status(pid, what):
    """Sums a number over all threads of a process."""
    files = Path(f"/proc/{pid}/task").glob("*/status")
    return sum(int(re.search(rf"^{what}:\s+(\d+)", file.read_text(), re.M)[1]) for file in files)


def memory(pid):
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())[1])


def idle(pids):
    """How often each of the processes has let go of the processor by itself, while nothing happens."""
    before = [status(pid, "voluntary_ctxt_switches") for pid in pids]
    time.sleep(IDLE)
    return [status(pid, "voluntary_ctxt_switches") - b for pid, b in zip(pids, before)]


def daemon():
    return int(sh(f"systemctl show -P MainPID {UNIT}"))


def latency(watcher):
    found = {}
    found["gfxplane watch"] = [watcher.from_event_to_mended(n) for n in range(ROUNDS)]
    sh(f"systemctl stop {UNIT}")
    peer = subprocess.Popen(["./events", "qemu:///system", OLD, NEW])
    time.sleep(3)
    found["C"] = [watcher.from_event_to_mended(n) for n in range(ROUNDS)]
    peer.kill()
    peer.wait()
    sh(f"systemctl start {UNIT}")
    print(f"From the DEFINED event to the fixed definition, {ROUNDS} domains, against a C program that replaces a string")
    floor = statistics.median(found["C"])
    for name, times in found.items():
        print(f"  {name:15} median {statistics.median(times):.0f} ms = {statistics.median(times) / floor:.2f} x, worst {max(times):.0f} ms")
    ours = statistics.median(found["gfxplane watch"])
    figure("daemon, from the event to the fixed definition (User Mode Linux)", "ms", ours, "a C program that replaces a string", floor)


def at_rest():
    peer = subprocess.Popen(["./events", "qemu:///system"])
    time.sleep(10)
    ours, theirs = memory(daemon()), memory(peer.pid)
    wakes = idle([daemon(), peer.pid])
    watchdog = sh(f"systemctl show -P WatchdogUSec {UNIT}").strip()
    print("The daemon at rest, after all of the above, against a C program that has registered for events")
    print(f"  resident memory: {ours} kB against {theirs} kB: {ours - theirs} kB more")
    print(f"  wake-ups in {IDLE} s: {wakes[0]} against {wakes[1]} (its watchdog: {watchdog})")
    peer_is = "a C program that has registered for events"
    figure("daemon at rest, resident memory", "kB", ours, peer_is, theirs)
    figure(f"daemon at rest, wake-ups in {IDLE} s", "", wakes[0], peer_is, wakes[1])
    peer.kill()
    peer.wait()


def full_pass():
    """libvirt's test driver has no domains of QEMU's, so of those nothing is planned: they show what
    reading costs. Of the system's all is planned."""
    gl = SPICE.replace(OLD, NEW)
    domains = "".join(domain(f"t{n}", gl, "test") for n in range(DOMAINS))
    Path("/root/host.xml").write_text(f"<node>{domains}</node>")
    passes_over("test:///root/host.xml", "of libvirt's test driver")
    sh(f"systemctl stop {UNIT}")
    connection = libvirt.open("qemu:///system")
    defined = [connection.defineXML(domain(f"t{n}", gl)) for n in range(DOMAINS)]
    passes_over("qemu:///system", "with a vfio device each, all of them right")
    for one in defined:
        one.undefine()
    sh(f"systemctl start {UNIT}")


def passes_over(uri, which):
    commands = {
        "gfxplane watch --once": ["gfxplane", "--connect", uri, "watch", "--once"],
        "C": ["./events", uri, "--pass"],
    }
    print(f"A full pass over {DOMAINS} domains {which}, whole process, against a C program that reads their XML")
    times = {name: [] for name in commands}
    for _ in range(5):
        for name, command in commands.items():
            began = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            times[name].append(time.perf_counter() - began)
    floor = statistics.median(times["C"])
    for name, of in times.items():
        print(f"  {name:22} median {statistics.median(of):.2f} s = {statistics.median(of) / floor:.2f} x, worst {max(of):.2f} s")
    ours = statistics.median(times["gfxplane watch --once"])
    figure(f"full pass over {DOMAINS} domains {which} (User Mode Linux)", "s", ours, "a C program that reads their XML", floor)


def figures():
    sh(f"create_mdev mbochs-small {DEVICE}; udevadm settle; gfxplane probe {DEVICE}")
    watcher = Watcher()
    latency(watcher)
    at_rest()
    full_pass()


if __name__ == "__main__":
    sh("load_modules; mkdir -p /etc/gfxplane/conf.d; echo 'deadline = 60' > /etc/gfxplane/conf.d/vm.toml; dpkg -i ./gfxplane.deb")
    figures()
