"""Running programs and measuring them, for the other scripts here."""

import json
import os
import statistics
import time

# What table.py makes its table of.
FIGURES = os.path.abspath(os.environ.get("FIGURES", "figures.jsonl"))
NULL = os.open("/dev/null", os.O_RDWR)


def run(program, *arguments, stdin=NULL, **environment):
    """Whole-process time in ms, exit status."""
    actions = [(os.POSIX_SPAWN_DUP2, stdin, 0), (os.POSIX_SPAWN_DUP2, NULL, 1), (os.POSIX_SPAWN_DUP2, NULL, 2)]
    began = time.perf_counter()
    pid = os.posix_spawn(program, [program, *arguments], {**os.environ, **environment}, file_actions=actions)
    _, status = os.waitpid(pid, 0)
    return (time.perf_counter() - began) * 1000, os.waitstatus_to_exitcode(status)


def peak(program, *arguments):
    """Largest memory in MiB. Through a shell, because what is spawned from here counts this
    process' own memory as its first."""
    command = " ".join([program, *arguments])
    pid = os.posix_spawn("/bin/sh", ["sh", "-c", f"{command} > /dev/null; exit $?"], os.environ)
    return os.wait4(pid, 0)[2].ru_maxrss / 1024


def alternate(rounds, **calls):
    """Runs the calls in turn, so that whatever else the machine does hits them alike."""
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            times[name].append(call()[0])
    return {name: (statistics.median(t), min(t)) for name, t in times.items()}


def figure(what, unit, ours, peer, theirs, goal=None):
    """Keeps a figure and its peer's, of the same run, for the table. `goal`: the ratio that is wanted, at
    most."""
    line = {"what": what, "unit": unit, "ours": ours, "peer": peer, "theirs": theirs, "goal": goal}
    with open(FIGURES, "a") as file:
        file.write(json.dumps(line) + "\n")
