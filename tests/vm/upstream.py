"""The package beside a libvirt that tells displays by itself, run as root in the guest: Debian's libvirt says first what
it has to say of each node device. Then the build of upstream/libvirt takes its place, which must say the same and the
capability, and gfxplane must leave the telling to it. Every test is a function below, run in their order."""

import json
import re
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

from lab import CONF, bind_to_vfio, connected, define, definition, denials, destroy, document, domain, equal, eventually, gone, install
from lab import listed, nodedev_xml, nodedevs, out, run_tests, sh, spare_card, uuid, vgem_node

OVERLAY = "/usr/share/gfxplane/schemas/gfxplane-nodedev.rng"
LIBVIRTS = "/usr/share/libvirt/schemas/nodedev.rng"
LINKS = Path("/etc/mdevctl.d/scripts.d/callouts")
RULES = """[[rule]]
name = 'samples'
source = 'tests/kmod'
match = { type = ['virtio-pci-*'] }
open = 'safe'
"""
# number -> type, and the display that it has
DEVICES = {
    1: ("mdpy-vga", "region"),
    2: ("mbochs-small", "dmabuf"),
    3: ("mtty-1", "none"),
    4: ("virtio-pci-region", "region"),
    5: ("virtio-pci-dmabuf", "dmabuf"),
    6: ("virtio-pci-both", "dmabuf,region"),
    7: ("virtio-pci-none", "none"),
    8: ("virtio-pci-yes", "unknown"),
}
# What Debian's libvirt says of each node device, by its name.
BEFORE = {}


def one(found, what):
    equal(len(found), 1, what)
    return found[0]


def name_of(device):
    return one([name for name in nodedevs() if device.replace("-", "_") in name], device)


def everything():
    with connected() as connection:
        return {device.name(): device.XMLDesc() for device in connection.listAllDevices()}


def capabilities(xml):
    return [found for found in ET.fromstring(xml).findall("capability") if found.get("type") == "vfio_display"]


def same(xml):
    """A document in a form in which two that say the same are equal."""
    return ET.canonicalize(xml, strip_text=True)


def without_capability(xml):
    root = ET.fromstring(xml)
    for found in capabilities(xml):
        root.remove(next(child for child in root if child.get("type") == found.get("type")))
    return same(ET.tostring(root, encoding="unicode"))


def told_as_by_us(device, name):
    """libvirt's capability of a device, which has to be the one that gfxplane has."""
    xml = nodedev_xml(name)
    told = same(ET.tostring(one(capabilities(xml), name), encoding="unicode"))
    equal(told, same(out(f"gfxplane-helper capability {device}")), name)
    assert "'gfxplane." not in xml, xml
    return xml


def display(xml):
    return ",".join(child.get("type") for child in one(capabilities(xml), xml).findall("display"))


def validate(schema, xml):
    Path("/tmp/document.xml").write_text(xml)
    return sh(f"xmllint --noout --relaxng {schema} /tmp/document.xml", check=False)


def starts(name):
    """What has OpenGL starts, on the one render node that works here: libvirt would take any."""
    xml = definition(name)
    with_node = re.sub("<gl( enable='yes')?/>", lambda gl: f"<gl{gl[1] or ''} rendernode='{vgem_node()}'/>", xml)
    assert "rendernode=" in with_node, xml
    define(with_node)
    out(f"virsh start --paused {name}")
    destroy(name)


def attributes_of_mdevctl():
    listing = json.loads(out("mdevctl list --dumpjson"))
    return [attr for parents in listing for devices in parents.values() for each in devices for d in each.values() for attr in d["attrs"]]


def test_install():
    """Debian's libvirt speaks, the other one takes its place, and the package comes."""
    out("apparmor_enforced; load_modules")
    for number, (kind, _) in DEVICES.items():
        out(f"create_mdev {kind} {uuid(number)}")
    eventually("libvirt has seen them", lambda: len(nodedevs()) == len(DEVICES))
    before = out("virsh version --daemon")
    BEFORE.update(everything())
    print(out("./guest-install libvirt.tar.gz"))
    equal(out("virsh version --daemon"), before, "the versions")
    eventually("libvirt has seen them", lambda: len(nodedevs()) == len(DEVICES))
    print(install(rules=RULES))
    eventually("the daemon runs", lambda: out("systemctl is-active gfxplane.service").strip() == "active")


def test_each_display_is_told_once():
    """By libvirt, in gfxplane's own words, and not a second time as attributes."""
    for number, (kind, interface) in DEVICES.items():
        device = uuid(number)
        name = name_of(device)
        xml = eventually(f"libvirt tells of {kind}", lambda: told_as_by_us(device, name))
        equal(display(xml), interface, kind)
        equal(listed(device)["evidence"]["method"], "probe", kind)
    print(nodedev_xml(name_of(uuid(6))))
    print(nodedev_xml(name_of(uuid(8))))
    named = out("virsh nodedev-list --cap vfio_display").split()
    equal(sorted(named), sorted(name_of(uuid(number)) for number in DEVICES))


def test_nothing_else_is_told_in_another_way():
    """Each node device is what it was for Debian's libvirt, but for the capability. `--plain` is the same, too."""
    after = everything()
    equal(sorted(after), sorted(BEFORE), "the node devices")
    for name, xml in after.items():
        equal(without_capability(xml), same(BEFORE[name]), name)
    for number in DEVICES:
        name = name_of(uuid(number))
        equal(same(out(f"gfxplane nodedev-dumpxml --plain {name}")), same(BEFORE[name]), name)


def test_schemas():
    """libvirt's own has the capability, and gfxplane's overlay on it is still a schema: the parent's types need it."""
    for number in DEVICES:
        for xml in (nodedev_xml(name_of(uuid(number))), out(f"gfxplane nodedev-dumpxml {uuid(number)}")):
            for schema in (LIBVIRTS, OVERLAY):
                result = validate(schema, xml)
                equal(result.returncode, 0, f"{schema}: {result.stderr}{xml}")
    wrong = nodedev_xml(name_of(uuid(1))).replace("type='region'", "type='hologram'")
    for schema in (LIBVIRTS, OVERLAY):
        equal(validate(schema, wrong).returncode, 3, schema)
    [gpu] = [name for name in out("gfxplane nodedev-list").split() if name.startswith("pci_")]
    xml = out(f"gfxplane nodedev-dumpxml {gpu}")
    assert "<type id='virtio-pci-region'>" in xml, xml
    equal((validate(OVERLAY, xml).returncode, validate(LIBVIRTS, xml).returncode), (0, 3), xml)


def test_what_changes_is_told():
    """A driver that does not answer in time, and then does."""
    short = CONF / "conf.d/zz-short.toml"
    short.write_text("deadline = 12\n")
    device = uuid(9)
    out(f"create_mdev virtio-pci-hang {device}")
    name = eventually("libvirt has it", lambda: name_of(device))
    xml = eventually("it did not answer", lambda: told_as_by_us(device, name))
    assert "reason='timed-out'" in xml, xml
    out("release")
    eventually("it answers", lambda: sh(f"gfxplane probe --fresh {device}", check=False).returncode == 0)
    eventually("libvirt has heard of it", lambda: display(told_as_by_us(device, name)) == "none")
    out(f"hold; remove_mdev {device}")
    eventually("libvirt has it no more", lambda: name not in nodedevs())
    short.unlink()


def test_a_pci_device():
    """It has a display while vfio-pci has it."""
    address, card = spare_card()
    name = "pci_" + re.sub("[:.]", "_", address)
    equal(capabilities(nodedev_xml(name)), [])
    bind_to_vfio(card)
    xml = eventually("libvirt tells", lambda: told_as_by_us(address, name))
    print(xml)
    equal(display(xml), "none")
    equal(validate(LIBVIRTS, xml).returncode, 0)
    out(f"echo {address} > /sys/bus/pci/drivers/vfio-pci/unbind; echo > {card}/driver_override")
    eventually("nothing is told", lambda: capabilities(nodedev_xml(name)) == [])


def test_what_was_printed_can_be_used():
    """The XML of an active device creates it again, which attributes among it forbid, and what is defined has no state."""
    device = uuid(6)
    name = name_of(device)
    Path("/tmp/active.xml").write_text(nodedev_xml(name))
    out(f"virsh nodedev-destroy {name}")
    eventually("it is gone", lambda: name not in nodedevs())
    out("virsh nodedev-create --validate /tmp/active.xml")
    eventually("it is there again", lambda: display(told_as_by_us(device, name)) == "dmabuf,region")
    out(f"virsh nodedev-destroy {name} && virsh nodedev-define --validate /tmp/active.xml")
    inactive = out(f"virsh nodedev-dumpxml --inactive {name}")
    equal(capabilities(inactive), [], inactive)
    [kept] = Path("/etc/mdevctl.d").glob(f"*/{device}")
    equal(json.loads(kept.read_text())["attrs"], [], kept)
    assert name not in out("virsh nodedev-list --cap vfio_display").split()
    out(f"virsh nodedev-start {name}")
    eventually("it is there again", lambda: display(told_as_by_us(device, name)) == "dmabuf,region")
    out(f"virsh nodedev-undefine {name}")


def test_guests_are_looked_after_as_ever():
    """The hook's veto, the fix, and a guest that starts."""
    domain("remote", uuid(2))
    refused = sh("virsh start --paused remote", check=False)
    assert "gfxplane: domain remote is not started: QEMU would refuse " in refused.stderr, refused.stderr
    out("gfxplane fixup --consent all --define remote")
    starts("remote")
    domain("local", uuid(2), graphics="<graphics type='spice' autoport='yes' listen='127.0.0.1'/>")
    eventually("the daemon has fixed it", lambda: "<gl enable='yes'" in definition("local"))
    starts("local")
    gone("local", "remote")


def test_doctor():
    said = sh("gfxplane doctor", check=False).stdout
    print(said)
    said = re.sub(r"\s+", " ", said)
    assert "PASS displays in virsh nodedev-dumpxml libvirt shows them itself, in the capability vfio_display" in said, said
    assert "PASS gfxplane's callout of mdevctl not needed: libvirt tells displays by itself" in said, said
    report = document("doctor", sh("gfxplane doctor --json", check=False).stdout)
    equal([line for line in report["lines"] if line["verdict"] == "FAIL"], [])


def test_mdevctl_is_told_nothing():
    """By no link of the daemon's, which has been at work all the while, and not by a permanent one."""
    equal([str(link) for link in LINKS.glob("*gfxplane*")], [], "links")
    equal(attributes_of_mdevctl(), [])
    setting = CONF / "conf.d/callout.toml"
    setting.write_text("callout = 'static'\n")
    out("gfxplane-helper callout")
    equal([link.name for link in LINKS.glob("*gfxplane*")], ["99-gfxplane"])
    equal(attributes_of_mdevctl(), [])
    setting.unlink()
    out("gfxplane-helper callout")
    equal([str(link) for link in LINKS.glob("*gfxplane*")], [], "links")


def test_apparmor_had_nothing_to_deny():
    equal([line for line in denials() if "gfxplane" in line], [])


def tidy():
    out("release")
    gone("local", "remote")
    out("hold")


if __name__ == "__main__":
    TESTS = [(name, test, 0) for name, test in globals().items() if name.startswith("test_")]
    sys.exit(run_tests(TESTS, "test_install", tidy))
