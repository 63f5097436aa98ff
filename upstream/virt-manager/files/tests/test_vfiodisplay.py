# This work is licensed under the GNU GPLv2 or later.
# See the COPYING file in the top-level directory.

import os
import sys

import pytest

from virtinst import DeviceGraphics, DeviceHostdev, DeviceVideo, Guest, NodeDevice
from virtinst import cli, vfiodisplay, virtxml

from tests import setup_logging, utils

DATADIR = os.path.join(utils.DATADIR, "vfiodisplay")
UUID = "c1a20000-0000-4000-8000-00000000000"

PARENT = """
<device>
  <name>pci_0000_00_02_0</name>
  <parent>computer</parent>
  <capability type='pci'>
    <domain>0</domain><bus>0</bus><slot>2</slot><function>0</function>
    <capability type='mdev_types'>
      <type id='vendor-console'><deviceAPI>vfio-pci</deviceAPI></type>
      <type id='vendor-crypto'><deviceAPI>vfio-ap</deviceAPI></type>
    </capability>
  </capability>
</device>
"""

MDEV = """
<device>
  <name>mdev_%(name)s</name>
  <parent>pci_0000_00_02_0</parent>
  <capability type='mdev'>
    <type id='%(type)s'/>
    <uuid>%(uuid)s</uuid>
    %(attrs)s
  </capability>
  %(capability)s
</device>
"""

PCI = """
<device>
  <name>pci_0000_27_00_4</name>
  <parent>computer</parent>
  <capability type='pci'>
    <domain>0</domain><bus>39</bus><slot>0</slot><function>4</function>
  </capability>
  %s
</device>
"""


def _capability(displays, options, method="probe"):
    lines = ["<capability type='vfio_display'>"]
    lines += ["<display type='%s'/>" % display for display in displays.split(",")]
    lines += ["<require>"]
    lines += [
        "<option scope='%s' name='%s' value='%s'/>"
        % tuple(option.replace("=", ".", 1).split(".", 2))
        for option in options.split()
    ]
    lines += ["</require>", "<evidence method='%s'/>" % method, "</capability>"]
    return "".join(lines)


DMABUF = (
    "graphics.gl=yes hostdev.display=on hostdev.ramfb=on "
    "host.rendernode=/dev/dri/by-path/pci-0000:00:02.0-render"
)
REGION = "hostdev.display=on hostdev.ramfb=on"

CAPABILITIES = {
    "dmabuf": _capability("dmabuf", DMABUF),
    "both": _capability("dmabuf,region", DMABUF),
    "region": _capability("region", REGION),
    "none": _capability("none", "hostdev.display=off"),
    "rule": _capability("region", REGION, method="rule"),
    "silent": "",
}


def _mdev(conn, name, number="1", capability="", attrs="", mdev_type="vendor-console"):
    return NodeDevice(
        conn,
        MDEV
        % {
            "name": name,
            "uuid": UUID + number,
            "type": mdev_type,
            "attrs": attrs,
            "capability": capability,
        },
    )


@pytest.fixture(name="conn")
def _conn(monkeypatch):
    """
    A connection to a made up host
    """
    conn = utils.URIs.open_kvm()
    nodedevs = [NodeDevice(conn, PARENT), NodeDevice(conn, PCI % CAPABILITIES["region"])]
    for number, (name, capability) in enumerate(CAPABILITIES.items(), start=1):
        nodedevs.append(_mdev(conn, name, str(number), capability))
    monkeypatch.setattr(conn, "fetch_all_nodedevs", lambda: nodedevs)
    return conn


def _guest(conn, graphics="vnc", gl=None, video="qxl"):
    guest = Guest(conn)
    if graphics:
        dev = DeviceGraphics(conn)
        dev.type = graphics
        dev.gl = gl
        guest.add_device(dev)
    if video:
        dev = DeviceVideo(conn)
        dev.model = video
        guest.add_device(dev)
    return guest


def _hostdev(guest, name, **kwargs):
    nodedev = NodeDevice.lookupNodedevByName(guest.conn, name)
    hostdev = DeviceHostdev(guest.conn)
    hostdev.set_from_nodedev(nodedev)
    for key, value in kwargs.items():
        setattr(hostdev, key, value)
    guest.add_device(hostdev)
    hostdev.set_defaults(guest)
    return hostdev


def _set(hostdev):
    return (hostdev.model, hostdev.display, hostdev.ramfb)


def testRegion(conn):
    # any graphics show it, and none shows nothing
    assert _set(_hostdev(_guest(conn), "mdev_region")) == ("vfio-pci", "on", "off")
    assert _set(_hostdev(_guest(conn, None), "mdev_region")) == ("vfio-pci", "off", "off")


def testDmabuf(conn, monkeypatch):
    warnings = []
    monkeypatch.setattr(vfiodisplay.log, "warning", warnings.append)
    assert _set(_hostdev(_guest(conn), "mdev_dmabuf")) == ("vfio-pci", "off", "off")
    assert "gl.enable=yes" in warnings.pop()
    assert _set(_hostdev(_guest(conn, "spice", True), "mdev_dmabuf"))[1] == "on"
    assert _set(_hostdev(_guest(conn, "egl-headless"), "mdev_dmabuf"))[1] == "on"
    assert _set(_hostdev(_guest(conn, "spice", True), "mdev_both"))[1] == "on"
    assert not warnings


def testRamfb(conn):
    guest = _guest(conn, video="none")
    assert _set(_hostdev(guest, "mdev_region")) == ("vfio-pci", "on", "on")
    # one in a guest
    assert _set(_hostdev(guest, "mdev_region")) == ("vfio-pci", "on", "off")


def testNotMeasured(conn):
    assert _set(_hostdev(_guest(conn), "mdev_rule")) == ("vfio-pci", "off", "off")
    assert _set(_hostdev(_guest(conn), "mdev_none")) == ("vfio-pci", "off", "off")


def testNothingSaid(conn):
    # its parent's XML has the API of its type
    assert _set(_hostdev(_guest(conn), "mdev_silent")) == ("vfio-pci", "off", "off")
    with pytest.raises(ValueError):
        DeviceHostdev(conn).set_from_nodedev(_mdev(conn, "x", mdev_type="vendor-crypto"))
    orphan = _mdev(conn, "x")
    orphan.parent = "nobody"
    assert not vfiodisplay.is_vfio_pci(orphan)


def testAsked(conn):
    # what the user says stays
    assert _set(_hostdev(_guest(conn), "mdev_region", display="off"))[1] == "off"
    assert _set(_hostdev(_guest(conn), "mdev_dmabuf", display="on"))[1] == "on"
    assert _set(_hostdev(_guest(conn), "mdev_region", ramfb="on"))[1:] == ("on", "on")


def testPCI(conn, monkeypatch):
    assert _set(_hostdev(_guest(conn), "pci_0000_27_00_4")) == (None, "on", None)
    # another PCI device says nothing
    assert _set(_hostdev(_guest(conn), "pci_0000_00_02_0")) == (None, None, None)
    # libvirt before 10.3.0 drops it
    monkeypatch.setattr(conn.support, "conn_hostdev_pci_display", lambda: False)
    assert _set(_hostdev(_guest(conn), "pci_0000_27_00_4")) == (None, None, None)


def testOtherHostdev(conn):
    hostdev = DeviceHostdev(conn)
    hostdev.type = "usb"
    assert vfiodisplay.VFIODisplay.from_hostdev(hostdev) is None
    hostdev.type = "mdev"
    hostdev.uuid = UUID + "9"
    assert vfiodisplay.VFIODisplay.from_hostdev(hostdev) is None


def testAttributes(conn):
    attrs = {
        "gfxplane.display": "dmabuf",
        "gfxplane.evidence": "probe",
        "gfxplane.graphics.gl": "yes",
        "gfxplane.hostdev.display": "on",
        "gfxplane.hostdev.ramfb": "on",
        "gfxplane.hostdev.ramfb.for": "boot-display",
        "gfxplane.host.rendernode": "/dev/dri/renderD129",
        "vendor_param": "7",
    }
    xml = "".join("<attr name='%s' value='%s'/>" % item for item in attrs.items())
    display = vfiodisplay.VFIODisplay.from_nodedev(_mdev(conn, "x", attrs=xml))
    assert display.interfaces == "dmabuf"
    assert display.is_offered()
    assert display.needs_gl()
    assert display.has_ramfb()
    assert display.get_rendernode() == "/dev/dri/renderD129"

    other = _mdev(conn, "x", attrs="<attr name='vendor_param' value='7'/>")
    assert vfiodisplay.VFIODisplay.from_nodedev(other) is None


def testRendernode(conn):
    guest = _guest(conn, "spice", True)
    _hostdev(guest, "mdev_dmabuf")
    guest.devices.graphics[0].set_defaults(guest)
    assert guest.devices.graphics[0].rendernode == "/dev/dri/by-path/pci-0000:00:02.0-render"
    assert vfiodisplay.get_rendernode(_guest(conn)) is None


def testDefaultGraphics(conn, monkeypatch):
    def graphics(name):
        guest = _guest(conn, None, None)
        hostdev = DeviceHostdev(conn)
        hostdev.set_from_nodedev(NodeDevice.lookupNodedevByName(conn, name))
        guest.add_device(hostdev)
        guest.set_defaults(None)
        assert hostdev.display == ("off" if conn.is_remote() and name == "mdev_dmabuf" else "on")
        ret = guest.devices.graphics[0]
        return (ret.type, ret.gl, ret.get_first_listen_type())

    assert graphics("mdev_dmabuf") == ("spice", True, "none")
    # nothing changes for others
    assert graphics("mdev_region")[1:] == (None, None)
    # a viewer elsewhere gets no GL
    monkeypatch.setattr(conn, "is_remote", lambda: True)
    assert graphics("mdev_dmabuf")[1:] == (None, None)


@pytest.mark.parametrize("options", ["", ",display=on,ramfb=on", ",display=off"])
def testVirtXML(options, capsys, monkeypatch):
    """
    virt-xml on a host whose libvirt has attributes of mdevctl
    """
    conn = utils.URIs.openconn(
        "__virtinst_test__test://%(own)s/host.xml,predictable,fakeuri=qemu:///system"
        ",caps=%(caps)s/kvm-x86_64.xml,domcaps=%(caps)s/kvm-x86_64-domcaps-latest.xml"
        % {"own": DATADIR, "caps": os.path.join(utils.DATADIR, "capabilities")}
    )
    name = "mdev_c1a20000_0000_4000_8000_000000000001_0000_00_02_0"
    argv = ["virt-xml", "vgpu", "--add-device", "--hostdev", name + options, "--print-diff"]
    monkeypatch.setattr(sys, "argv", argv)
    # virt-xml registers options that virt-install doesn't have
    monkeypatch.setattr(cli, "VIRT_PARSERS", cli.VIRT_PARSERS[:])
    try:
        assert virtxml.main(conn=conn) == 0
    finally:
        setup_logging()

    expected = "virt-xml%s.diff" % options.replace(",", "-").replace("=", "-")
    utils.diff_compare(capsys.readouterr().out, os.path.join(DATADIR, expected))
