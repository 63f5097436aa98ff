# SPDX-License-Identifier: GPL-2.0-or-later

"""
What a node device says about the display of its vfio device, and the defaults
of a guest that follow from it.

libvirt's node devices have it as <capability type='vfio_display'>. A libvirt
without that may have attributes of mdevctl in the mdev capability, named
gfxplane.SCOPE.NAME, with the same words.
"""

from .logger import log
from .xmlbuilder import XMLBuilder, XMLProperty


class VFIODisplayInterface(XMLBuilder):
    XML_NAME = "display"

    type = XMLProperty("./@type")


class VFIODisplayOption(XMLBuilder):
    XML_NAME = "option"

    scope = XMLProperty("./@scope")
    name = XMLProperty("./@name")
    value = XMLProperty("./@value")


class MdevAttribute(XMLBuilder):
    XML_NAME = "attr"

    name = XMLProperty("./@name")
    value = XMLProperty("./@value")


class MdevType(XMLBuilder):
    XML_NAME = "type"

    id = XMLProperty("./@id")
    device_api = XMLProperty("./deviceAPI")


class VFIODisplay:
    """
    :param interfaces: "dmabuf", "region", "dmabuf,region", "none" or "unknown"
    :param method: how that is known
    :param options: values by (scope, name), like ("graphics", "gl"): "yes"
    """

    ATTRIBUTES = "gfxplane."

    # The device or the kernel said so; the rest is conclusions
    MEASURED = ["kernel", "probe"]

    def __init__(self, interfaces, method, options):
        self.interfaces = interfaces
        self.method = method
        self.options = options

    @staticmethod
    def from_nodedev(nodedev):
        """
        :returns: VFIODisplay, or None if the node device doesn't tell
        """
        interfaces = [d.type for d in nodedev.vfio_displays]
        if interfaces:
            options = {(o.scope, o.name): o.value for o in nodedev.vfio_display_options}
            return VFIODisplay(",".join(interfaces), nodedev.vfio_display_method, options)

        attrs = {}
        for attr in nodedev.mdev_attrs:
            if (attr.name or "").startswith(VFIODisplay.ATTRIBUTES):
                attrs[attr.name[len(VFIODisplay.ATTRIBUTES) :]] = attr.value
        if "display" not in attrs:
            return None

        # hostdev.ramfb.for=... has three words and is no option
        options = {
            tuple(name.split(".")): value for name, value in attrs.items() if name.count(".") == 1
        }
        return VFIODisplay(attrs["display"], attrs.get("evidence"), options)

    @staticmethod
    def from_hostdev(hostdev):
        """
        :returns: VFIODisplay of the device that a DeviceHostdev passes on, or None
        """
        if hostdev.type not in ["mdev", "pci"]:
            return None

        for nodedev in hostdev.conn.fetch_all_nodedevs():
            if nodedev.compare_to_hostdev(hostdev):
                return VFIODisplay.from_nodedev(nodedev)
        return None

    def is_offered(self):
        """
        Whether the display can be switched on without being asked for
        """
        return self.method in self.MEASURED and self.options.get(("hostdev", "display")) == "on"

    def needs_gl(self):
        return self.options.get(("graphics", "gl")) == "yes"

    def get_rendernode(self):
        return self.options.get(("host", "rendernode"))

    def has_ramfb(self):
        return self.options.get(("hostdev", "ramfb")) == "on"


def is_vfio_pci(nodedev):
    """
    Whether an mdev node device is one that QEMU takes as vfio-pci: it says
    which display it has, or its parent lists its type with that API
    """
    if VFIODisplay.from_nodedev(nodedev):
        return True

    for parent in nodedev.conn.fetch_all_nodedevs():
        if parent.name == nodedev.parent:
            return any(
                t.id == nodedev.type_id and t.device_api == "vfio-pci" for t in parent.mdev_types
            )
    return False


def set_from_vfio_pci(hostdev, nodedev):
    """
    Fill in a hostdev for an mdev that is_vfio_pci. If nothing is known of its
    display, that is off; else set_hostdev_defaults decides, which knows the guest.
    """
    hostdev.model = "vfio-pci"
    hostdev.managed = "yes"
    if not VFIODisplay.from_nodedev(nodedev):
        hostdev.display = "off"
        hostdev.ramfb = "off"


def _is_wanted(hostdev, display):
    """
    Whether the guest has the display of this hostdev, or will have
    """
    return hostdev.display == "on" or (hostdev.display is None and display.is_offered())


def _displays(guest):
    """
    The VFIODisplays of the guest's devices that will be on
    """
    ret = []
    for hostdev in guest.devices.hostdev:
        display = VFIODisplay.from_hostdev(hostdev)
        if display and _is_wanted(hostdev, display):
            ret.append(display)
    return ret


def get_rendernode(guest):
    """
    The render node of the GPU that the guest has a part of
    """
    for display in _displays(guest):
        if display.needs_gl() and display.get_rendernode():
            return display.get_rendernode()
    return None


def set_default_graphics(graphics, guest):
    """
    Graphics that nobody asked for in particular can be those that show a dmabuf.
    Spice with GL is for viewers on the same host only.
    """
    if not any(display.needs_gl() for display in _displays(guest)):
        return
    if guest.conn.is_remote() or not guest.lookup_domcaps().supports_graphics_spice():
        return

    graphics.type = graphics.TYPE_SPICE
    graphics.gl = True
    graphics.listen = "none"


def _can_show(guest, display):
    if not display.needs_gl():
        return len(guest.devices.graphics) > 0
    return any(g.gl or g.type == "egl-headless" for g in guest.devices.graphics)


def _has_other_screen(guest):
    return any(video.model != "none" for video in guest.devices.video)


def set_hostdev_defaults(hostdev, guest):
    """
    Switch on the display of a new hostdev if its device has one and the guest's
    graphics can show it. What is set already stays.
    """
    if hostdev.display is not None:
        return

    display = VFIODisplay.from_hostdev(hostdev)
    if not display:
        return
    if hostdev.type == "pci" and not guest.conn.support.conn_hostdev_pci_display():
        return

    on = display.is_offered()
    if on and not _can_show(guest, display):
        on = False
        if display.needs_gl() and guest.devices.graphics:
            log.warning(
                _(
                    "The display of the host device stays off: it needs graphics with OpenGL, "
                    "for example --graphics spice,gl.enable=yes,listen=none"
                )
            )

    if on:
        hostdev.display = "on"
    elif hostdev.type == "mdev":
        hostdev.display = "off"

    if hostdev.ramfb is not None:
        return

    # For the time before the guest's driver, if nothing else shows that.
    # libvirt takes it once in a guest.
    if (
        on
        and display.has_ramfb()
        and not _has_other_screen(guest)
        and not any(other.ramfb == "on" for other in guest.devices.hostdev)
    ):
        hostdev.ramfb = "on"
    elif hostdev.type == "mdev":
        hostdev.ramfb = "off"
