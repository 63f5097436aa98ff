"""The figures of a run as a table: table.py FIGURES… prints it; with --into FILE it also takes the place of
what stands in FILE between the two marks, with what it was measured on."""

import json
import subprocess
import sys
from datetime import date
from pathlib import Path

BEGIN, END = "<!-- made by make bench: begin -->\n", "<!-- made by make bench: end -->\n"


def number(value):
    """Three digits, as more are noise."""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}"


def table(lines):
    rows = ["| | ours | peer | | ratio | goal |", "|---|---:|---|---:|---:|---:|"]
    for line in lines:
        ours, theirs, unit = line["ours"], line["theirs"], line["unit"]
        ratio = f"{ours / theirs:.2f}" if theirs else ""
        goal = f"{line['goal']:.1f}" if line["goal"] else ""
        cells = [line["what"], f"{number(ours)} {unit}".strip(), line["peer"], f"{number(theirs)} {unit}".strip(), ratio, goal]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def machine():
    processors = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    commit = subprocess.run(["git", "log", "-1", "--format=%h"], capture_output=True, text=True).stdout.strip()
    of = f", of {commit}" if commit else ""
    return f"Measured on {date.today()}{of}, {len(processors)} processors ({processors[0].split(':')[1].strip()}).\n"


def main():
    arguments = sys.argv[1:]
    into = None
    if "--into" in arguments:
        into = arguments.pop(arguments.index("--into") + 1)
        arguments.remove("--into")
    lines = [json.loads(line) for name in arguments for line in Path(name).read_text().splitlines()]
    if not lines:
        sys.exit("table.py: there are no figures")
    made = table(lines)
    print(made, end="")
    if into:
        text = Path(into).read_text()
        if text.count(BEGIN) != 1 or text.count(END) != 1:
            sys.exit(f"table.py: {into} has not both marks: {BEGIN.strip()}, {END.strip()}")
        before, rest = text.split(BEGIN)
        after = rest.split(END)[1]
        Path(into).write_text(f"{before}{BEGIN}\n{machine()}\n{made}\n{END}{after}")


main()
