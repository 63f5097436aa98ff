//! QEMU's messages, each defined once and described by its cause. Predictions use them, plans name
//! them as reasons, explanations and trials recognize them.
//!
//! A `*` is the part that QEMU fills in ([`filled`]). docs/qemu-and-libvirt.md has the versions and
//! commits.

/// Returns whether a text is one of the words in a list, which a blank separates.
pub(crate) fn is_in(list: &str, text: &str) -> bool {
    list.split(' ').any(|word| word == text && !text.is_empty())
}

/// Returns a message with its first `*` replaced by `with`.
pub(crate) fn filled(words: &str, with: &str) -> String {
    words.replacen('*', with, 1)
}

/// A device whose driver opens it only for a VM with KVM, in a guest without KVM
/// (hw/vfio/container.c, `vfio_get_device`; the end is the kernel's ESRCH). N is the group's
/// number.
pub(crate) const NEEDS_KVM: &str = "error getting device from group N: No such process";

/// A dmabuf, and no frontend with OpenGL (hw/vfio/display.c, `vfio_display_dmabuf_init`).
pub(crate) const DMABUF_NEEDS_OPENGL: &str = "vfio-display-dmabuf: opengl not available";

/// `display=on` for a device that has no display (hw/vfio/display.c, `vfio_display_probe`).
pub(crate) const NO_DISPLAY: &str = "device doesn't support any (known) display method";

/// ramfb on a device whose display is off (hw/vfio/pci.c, `vfio_realize`).
pub(crate) const RAMFB_NEEDS_DISPLAY: &str = "ramfb=on requires display=on";

/// ramfb on a machine that has no fw_cfg with DMA (hw/display/ramfb.c, `ramfb_setup`).
pub(crate) const RAMFB_NEEDS_FW_CFG: &str = "ramfb device requires fw_cfg with DMA";

/// A second ramfb (hw/nvram/fw_cfg.c, `fw_cfg_add_file_callback`, from `ramfb_setup`).
pub(crate) const RAMFB_TWICE: &str = "duplicate fw_cfg file name: vgaroms/vgabios-ramfb.bin";

/// ramfb on a device whose driver has no ramfb, such as the driver for hot-pluggable devices
/// (hw/vfio/pci.c, `vfio_pci_nohotplug_properties`).
pub(crate) const RAMFB_NOT_FOUND: &str = "Property 'vfio-pci.ramfb' not found";

/// A switch that has another JSON type (qapi/qobject-input-visitor.c); filled in: the property.
pub(crate) const EXPECTED_A_SWITCH: &str = "Invalid parameter type for '*', expected: boolean";

/// A text that has another JSON type (qapi/qobject-input-visitor.c); filled in: the property.
pub(crate) const EXPECTED_A_TEXT: &str = "Invalid parameter type for '*', expected: string";

/// A number that has another JSON type (qapi/qobject-input-visitor.c); filled in: the property.
pub(crate) const EXPECTED_A_NUMBER: &str = "Parameter '*' expects uint64";

/// A property that the device lacks (qom/object.c); filled in: the driver, a dot, the property.
pub(crate) const PROPERTY_NOT_FOUND: &str = "Property '*' not found";

/// xres or yres on a device whose display is off (hw/vfio/pci.c, `vfio_realize`).
pub(crate) const MODES_NEED_DISPLAY: &str = "xres and yres properties require display=on";

/// xres or yres on a display without an EDID (hw/vfio/pci.c, `vfio_realize`).
pub(crate) const MODES_NEED_EDID: &str = "xres and yres properties need edid support";

/// An OpRegion that the device lacks, up to QEMU 9.2 (hw/vfio/pci.c, `vfio_realize`).
pub(crate) const NO_OPREGION: &str = "does not support requested IGD OpRegion feature";

/// An OpRegion that the device lacks, QEMU 10.0 (hw/vfio/igd.c, `vfio_pci_igd_setup_opregion`).
pub(crate) const NO_OPREGION_BY_IGD: &str = "Device does not supports IGD OpRegion feature";

/// A second OpRegion (hw/nvram/fw_cfg.c, `fw_cfg_add_file_callback`).
pub(crate) const OPREGION_TWICE: &str = "duplicate fw_cfg file name: etc/igd-opregion";

/// A card with 3D, and no frontend with OpenGL; up to QEMU 9.0 (hw/display/virtio-gpu-gl.c,
/// `virtio_gpu_gl_device_realize`).
pub(crate) const NO_OPENGL: &str = "opengl is not available";

/// [`NO_OPENGL`] from QEMU 9.1 on.
pub(crate) const NO_OPENGL_AT_LENGTH: &str =
    "The display backend does not have OpenGL support enabled";

/// A second virtio card with 3D (hw/display/virtio-gpu-gl.c).
pub(crate) const SECOND_3D_CARD: &str = "at most one virtio-gpu-gl-device device is permitted";

/// A card with blob resources and 3D, up to QEMU 9.1 (hw/display/virtio-gpu.c,
/// `virtio_gpu_device_realize`).
pub(crate) const BLOB_AND_VIRGL: &str = "blobs and virgl are not compatible (yet)";

/// A virtio card with more heads than QEMU has room for (hw/display/virtio-gpu-base.c,
/// `virtio_gpu_base_device_realize`).
pub(crate) const TOO_MANY_HEADS: &str = "invalid max_outputs > 16";

/// Spice with OpenGL over TCP, where spice-server or QEMU is too old for it (ui/spice-core.c,
/// `qemu_spice_init`).
pub(crate) const SPICE_GL_LOCAL_ONLY: &str =
    "SPICE GL support is local-only for now and incompatible with -spice port/tls-port";

/// A word that a property does not accept (qapi/qapi-visit-core.c, `input_type_enum`); filled in:
/// the property, the word.
pub(crate) const NO_SUCH_WORD: &str = "Parameter '*' does not accept value '*'";

/// Spice can't listen on its port: another program does, or QEMU may not (ui/spice-core.c,
/// `qemu_spice_init`).
pub(crate) const NO_SPICE_SERVER: &str = "failed to initialize spice server";

/// VNC may not listen on its port (util/qemu-sockets.c, `socket_listen`).
pub(crate) const NO_SOCKET: &str = "Failed to bind socket: Permission denied";

/// SDL finds no X or Wayland display, or may not open it (ui/sdl2.c, `sdl2_display_init`). SDL
/// says why.
pub(crate) const NO_SDL: &str = "Could not initialize SDL";

/// SDL uses OpenGL beside spice, and Xlib ends QEMU (libX11's `_XDefaultError`; seen with Mesa's
/// GLX).
pub(crate) const NO_SECOND_GL_ON_X: &str = "X Error of failed request:  BadAccess";

/// Audio of type dbus without a dbus display (audio/dbusaudio.c), from QEMU 11.0 on.
pub(crate) const NO_DBUS_FOR_AUDIO: &str = "D-Bus display is not in use";

/// A `-set` for a device that libvirt describes in JSON (system/vl.c, `qemu_set_option`); filled
/// in: the device's id.
pub(crate) const NO_SUCH_DEVICE: &str = "there is no device \"*\" defined";

/// OpenGL asked of a frontend that has none; up to QEMU 9.0 (system/vl.c,
/// `qemu_create_early_backends`).
pub(crate) const NO_OPENGL_IN_DISPLAY: &str = "OpenGL is not supported by the display";

/// [`NO_OPENGL_IN_DISPLAY`] from QEMU 9.1 on; filled in: the frontend.
pub(crate) const NO_OPENGL_IN_BACKEND: &str = "OpenGL is not supported by display backend '*'";

/// A frontend whose module is not installed (ui/console.c, `qemu_display_init`); filled in: the
/// frontend.
pub(crate) const DISPLAY_NOT_AVAILABLE: &str = "Display '*' is not available";

/// A frontend that can't show a dmabuf (ui/console.c, `console_compatible_with`).
pub(crate) const CONSOLE_NEEDS_DMABUF: &str = "The console requires display DMABUF support.";

/// A screen that needs OpenGL and has no context for it (ui/console.c, `console_compatible_with`).
pub(crate) const CONSOLE_NEEDS_CONTEXT: &str = "The console requires a GL context.";

/// A frontend on a screen with another frontend's OpenGL context (ui/console.c,
/// `console_compatible_with`); filled in: the frontend's listener.
pub(crate) const CONTEXT_UNFIT: &str = "Display * is incompatible with the GL context";

/// Two frontends with OpenGL on one screen (ui/console.c, `qemu_console_set_display_gl_ctx`).
pub(crate) const CONTEXT_TWICE: &str = "The console already has an OpenGL context.";
