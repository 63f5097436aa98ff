"""Runs what the page in Cockpit asks for: tests/cockpit writes each command into the share, and reads what came of it.

The daemon is out of it: it would change the guest by itself."""

import json
import os
import subprocess
import time
from pathlib import Path

import lab

CALLS = Path("/mnt/share/calls")
DEVICE = lab.uuid(1)


def write(name, text):
    """Whole, and at once: hostfs writes when it likes."""
    new = CALLS / f"{name}.new"
    with new.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    new.rename(CALLS / name)


def answer(asked):
    words = json.loads(asked.read_text())
    asked.unlink()
    done = subprocess.run(["gfxplane", *words], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    print(done.returncode, words, flush=True)
    write("definition", lab.definition("dark.xml"))
    result = {"stdout": done.stdout, "stderr": done.stderr, "code": done.returncode}
    write(f"{asked.stem}.done", json.dumps(result))


def main():
    lab.install()
    lab.without_hook_and_daemon()
    lab.out(f"load_modules; create_mdev mbochs-small {DEVICE}")
    lab.eventually("the device's record", lambda: lab.listed(DEVICE)["display"] == ["dmabuf"])
    # A name that the tool would take for a file.
    spice = "<graphics type='spice' autoport='yes' listen='127.0.0.1' passwd='secret'/>"
    lab.domain("dark.xml", DEVICE, graphics=spice)
    write("definition", lab.definition("dark.xml"))
    write("ready", "")
    while not (CALLS / "end").exists():
        for asked in sorted(CALLS.glob("*.asked")):
            answer(asked)
        if (CALLS / "change").exists():
            lab.define(lab.definition("dark.xml").replace("</name>", "</name><title>of somebody else</title>"))
            (CALLS / "change").unlink()
        time.sleep(0.1)


main()
