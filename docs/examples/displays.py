"""Reads `gfxplane list --json`, and says for each device whether a console can show it."""

import json
import sys

answer = json.load(sys.stdin)
assert answer["format"] == 1
for device in answer["devices"]:
    if device["state"] != "active":
        continue
    # QEMU takes the first of two.
    match device["display"][0]:
        case "region":
            says = "display=on, any console"
        case "dmabuf":
            says = "display=on, a console with OpenGL on this host; or display=off"
        case "none":
            says = "display=off"
        case _:
            says = f"not known ({device.get('reason')}): display=off"
    measured = device.get("evidence", {}).get("method") in ("kernel", "probe")
    print(f"{device['id']}  {device.get('type', '-'):18} {says}{'' if measured else ' (not measured)'}")
