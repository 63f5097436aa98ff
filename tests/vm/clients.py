"""The clients of the stress in automatic.py, each a process of its own:

    clients.py stress DIRECTORY NAME ROUNDS SEED [URI]
    clients.py edits DIRECTORY NAME ROUNDS SEED [URI]
    clients.py burst DIRECTORY NAME [URI]

`stress` does ROUNDS things at random to the domains of DIRECTORY/slots.json: define, edit, start,
destroy, undefine, look. Each client counts its edits of a domain in an attribute of the domain's
metadata; it ends sooner if there is a file DIRECTORY/stop. Clients keep out of each other's way by a lock; the daemon is not in it, so a count that is
not what it was is an edit that the daemon has lost, unless it is there again soon. `edits` does nothing but change
definitions, ROUNDS times: by define, by metadata, by undefine. `burst` defines what DIRECTORY/NAME.json lists.

A call of libvirt's that takes longer than LIMIT ends the client, with a traceback that says which.
"""

import fcntl
import faulthandler
import hashlib
import json
import random
import re
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import libvirt

LIMIT = 300
# So long the daemon may take to put back what it has met.
SOON = 5
CLIENTS = ["one", "two", "three"]
NAMESPACE = "urn:gfxplane:test:counts"
# What libvirt says to a client that came when something else was going on.
IN_THE_WAY = re.compile(
    "Domain not found|no domain with|domain is not running|domain is already (active|running)|"
    "not found: no domain|cannot acquire state change lock|is already being started|domain is transient|"
    "Requested operation is not valid|is already being removed|is no longer running|"
    # Destroyed by another client before it had started; QEMU says the last of these when it has all of its devices.
    "terminating on signal 15|process exited while connecting to monitor$|no available reset mechanism\\.$"
)

# What a definition that is half fixed, or a device that one of us holds, would bring to them.
OURS = re.compile(
    "opengl|display method|DMABUF|GL context|[Bb]usy|XML error|unsupported configuration|[Hh]ook|[Tt]imed? ?out|"
    "Permission denied|No such"
)


def counts_element(counts):
    said = " ".join(f'{name}="{counts.get(name, 0)}"' for name in CLIENTS)
    return f'<counts:counts xmlns:counts="{NAMESPACE}" {said}/>'


COUNTS = re.compile(r"<counts:counts [^>]*/>")


def counts_of(xml):
    """What each client has counted to; nothing if the element is not there."""
    found = COUNTS.search(xml)
    return {k: int(v) for k, v in re.findall(r"(\w+)=[\"'](\d+)[\"']", found[0])} if found else {}


def with_counts(xml, counts):
    xml, replaced = COUNTS.subn(counts_element(counts), xml)
    assert replaced == 1, f"{replaced} counts in {xml}"
    return xml


def bare(xml):
    """The definition with all counts at nought, and as many newlines at its end: what can be compared."""
    return COUNTS.sub(counts_element({}), xml).strip() + "\n"


class Call:
    """Runs what it is told within LIMIT, and remembers the longest."""

    def __init__(self):
        self.longest = (0, "")

    def __call__(self, function, *arguments):
        faulthandler.dump_traceback_later(LIMIT, exit=True)
        began = time.monotonic()
        try:
            return function(*arguments)
        finally:
            faulthandler.cancel_dump_traceback_later()
            self.longest = max(self.longest, (round(time.monotonic() - began, 1), function.__name__))


class Client:
    """One of those who work on the domains at the same time."""

    SECURE = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE

    # What it does, how often.
    STRESS = {"define": 4, "edit": 6, "start": 2, "destroy": 2, "undefine": 2, "look": 3}
    EDITS = {"define": 4, "edit": 10, "describe": 4, "undefine": 2}

    def __init__(self, directory, name, seed, uri):
        libvirt.registerErrorHandler(lambda *_: None, None)
        self.directory, self.name = directory, name
        self.random = random.Random(seed)
        self.call = Call()
        self.connection = self.call(libvirt.open, uri)
        self.slots = json.loads((directory / "slots.json").read_text())
        self.state = directory / "state.json"
        self.result = {"name": name, "did": {}, "lost": [], "risen": [], "late": 0, "refused": {}, "odd": []}

    @contextmanager
    def locked(self):
        """No other client defines or undefines meanwhile. Gives what the clients expect to find."""
        with (self.directory / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            expected = json.loads(self.state.read_text()) if self.state.exists() else {}
            try:
                yield expected
            finally:
                new = self.state.with_suffix(f".{self.name}")
                new.write_text(json.dumps(expected))
                new.rename(self.state)

    def if_there(self, function, *arguments):
        """What the call returns; None if libvirt has no such domain."""
        try:
            return self.call(function, *arguments)
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                return None
            raise

    def find(self, slot):
        return self.if_there(self.connection.lookupByUUIDString, slot["uuid"])

    def definition(self, slot):
        """The persistent definition, kept among those that were seen."""
        domain = self.find(slot)
        # An undefined domain that runs is gone once another client destroys it, for which nobody takes the lock.
        if domain is None or not self.if_there(domain.isPersistent):
            return None, None
        xml = self.if_there(domain.XMLDesc, self.SECURE)
        if xml is None:
            return None, None
        file = self.directory / "seen" / (hashlib.sha256(bare(xml).encode()).hexdigest()[:24] + ".xml")
        if not file.exists():
            new = file.with_suffix(f".{self.name}")
            new.write_text(bare(xml))
            new.rename(file)
        return domain, xml

    def current(self, slot, expected):
        """The persistent definition, once all counts are what they were, or will not be. With the lock held."""
        name = slot["name"]
        was, end = expected.get(name), time.monotonic() + SOON
        domain, xml = self.definition(slot)
        if (xml and counts_of(xml)) == was:
            return domain, xml
        while (xml and counts_of(xml)) != was and time.monotonic() < end:
            domain, xml = self.definition(slot)
        if (xml and counts_of(xml)) == was:
            self.result["late"] += 1
        self.check(slot, expected, xml)
        return domain, xml

    def check(self, slot, expected, xml):
        name = slot["name"]
        was, seen = expected.get(name), xml and counts_of(xml)
        if was is None and xml is not None:
            self.result["risen"].append(f"{name} was undefined, and is there again with {seen}")
        elif was is not None and seen != was:
            self.result["lost"].append(f"{name}: {was} expected, {seen} seen")
        else:
            return
        expected.pop(name, None)
        if xml:
            expected[name] = seen

    def define(self, slot):
        with self.locked() as expected:
            _, xml = self.current(slot, expected)
            if xml:
                return False
            counts = {name: 0 for name in CLIENTS} | {self.name: 1}
            self.call(self.connection.defineXML, with_counts(self.random.choice(slot["wrong"]), counts))
            expected[slot["name"]] = counts

    def edit(self, slot):
        with self.locked() as expected:
            _, xml = self.current(slot, expected)
            if not xml:
                return False
            counts = counts_of(xml)
            counts[self.name] += 1
            # Half of them put back what the daemon has fixed.
            new = self.random.choice([xml, self.random.choice(slot["wrong"])])
            self.call(self.connection.defineXML, with_counts(new, counts))
            expected[slot["name"]] = counts

    def describe(self, slot):
        with self.locked() as expected:
            domain, xml = self.current(slot, expected)
            if not xml:
                return False
            counts = counts_of(xml)
            counts[self.name] += 1
            element = "<counts " + " ".join(f'{name}="{count}"' for name, count in counts.items()) + "/>"
            kind, config = libvirt.VIR_DOMAIN_METADATA_ELEMENT, libvirt.VIR_DOMAIN_AFFECT_CONFIG
            self.call(domain.setMetadata, kind, element, "counts", NAMESPACE, config)
            expected[slot["name"]] = counts

    def undefine(self, slot):
        with self.locked() as expected:
            domain, xml = self.current(slot, expected)
            if not xml:
                return False
            self.call(domain.undefine)
            expected.pop(slot["name"], None)

    def start(self, slot):
        domain = self.find(slot)
        if domain is None:
            return False
        self.call(domain.createWithFlags, libvirt.VIR_DOMAIN_START_PAUSED)

    def destroy(self, slot):
        domain = self.find(slot)
        if domain is None or not self.call(domain.isActive):
            return False
        self.call(domain.destroy)

    def look(self, slot):
        _, xml = self.definition(slot)
        return None if xml else False

    def round(self, often):
        """One thing that can be done, whatever it is."""
        while True:
            slot = self.random.choice(self.slots)
            [what] = self.random.choices(list(often), list(often.values()))
            try:
                if getattr(self, what)(slot) is False:
                    # There was nothing of the kind to do.
                    continue
            except libvirt.libvirtError as error:
                self.refused(what, slot, str(error))
            self.result["did"][what] = self.result["did"].get(what, 0) + 1
            return

    def refused(self, what, slot, message):
        if what == "start" and "gfxplane: domain " in message:
            word = "start: our veto"
        elif IN_THE_WAY.search(message):
            word = f"{what}: in the way"
        else:
            word = f"{what}: other"
            self.result["odd"].append(f"{what} {slot['name']}: {message}")
        self.result["refused"][word] = self.result["refused"].get(word, 0) + 1

    def run(self, rounds, often):
        stop = self.directory / "stop"
        for _ in range(rounds):
            self.round(often)
            if stop.exists():
                break
        # Once more, so that what was lost last is seen, too.
        with self.locked() as expected:
            for slot in self.slots:
                self.current(slot, expected)
        self.result["longest"] = self.call.longest
        return self.result


def stress(directory, name, rounds, seed, uri="qemu:///system", often=Client.STRESS):
    directory = Path(directory)
    (directory / "seen").mkdir(exist_ok=True)
    return Client(directory, name, int(seed), uri).run(int(rounds), often)


def edits(*arguments):
    return stress(*arguments, often=Client.EDITS)


def burst(directory, name, uri="qemu:///system"):
    call = Call()
    connection = call(libvirt.open, uri)
    domains = json.loads((Path(directory) / f"{name}.json").read_text())
    for xml in domains:
        call(connection.defineXML, xml)
    return {"defined": len(domains), "longest": call.longest}


def main():
    what, *arguments = sys.argv[1:]
    print(json.dumps({"stress": stress, "edits": edits, "burst": burst}[what](*arguments)))


if __name__ == "__main__":
    main()
