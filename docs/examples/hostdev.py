"""Reads the XML of a node device (gfxplane nodedev-dumpxml), and prints the <hostdev> for it."""

import sys
import xml.etree.ElementTree as ET

device = ET.parse(sys.stdin).getroot()
uuid = device.findtext("capability[@type='mdev']/uuid")
capability = device.find("capability[@type='vfio_display']")

hostdev = ET.Element("hostdev", mode="subsystem", type="mdev", model="vfio-pci")
graphics = {}
for option in capability.iterfind("require/option"):
    scope, name, value = (option.get(key) for key in ("scope", "name", "value"))
    if option.get("for"):
        continue  # wanted for some purposes only: here would be asked whether the user has one of them
    if scope == "hostdev":
        hostdev.set(name, value)
    elif scope == "graphics" or name == "rendernode":
        graphics[name] = value
ET.SubElement(ET.SubElement(hostdev, "source"), "address", uuid=uuid)

display = capability.find("display")
if display.get("type") == "unknown":
    print(f"the display is not known ({display.get('reason')}): ask the user", file=sys.stderr)
if graphics:
    print(f"the graphics need {graphics}", file=sys.stderr)
ET.indent(hostdev)
print(ET.tostring(hostdev, encoding="unicode"))
