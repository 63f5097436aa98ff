//! The messages that are known: who says them, in which words, and where the words come from.
//!
//! A `*` in the words stands for what differs from case to case. Where several versions say it in other
//! words, each has an entry, and so has each program that says the same.
//!
//! How the words were checked: where 7.2 or 10.0 of QEMU, 9.0 or 11.3 of libvirt is named, the words (what the
//! program itself fills in left out) stand in Debian's programs of that version, letter by letter; QEMU 11.1 and
//! libvirt 12.8 have said them to us (tests/vm/matrix-measured). Other versions are named where somebody has
//! quoted them in public. The functions are those of the sources of these versions. A message of another
//! version is known, too, as long as its words are the same. libvirt translates its own messages; in other languages than
//! English only QEMU's are known.

use serde::{Deserialize, Serialize};

use crate::predict::words;

/// The program that gives a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Speaker {
    /// QEMU.
    Qemu,
    /// libvirt, or one of its tools.
    Libvirt,
    /// The kernel, in its log.
    Kernel,
    /// NVIDIA's manager of vGPUs, in the journal.
    NvidiaManager,
    /// mdevctl.
    Mdevctl,
    /// gfxplane's hook.
    Gfxplane,
}

impl Speaker {
    /// Returns its name.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Speaker::Qemu => "QEMU",
            Speaker::Libvirt => "libvirt",
            Speaker::Kernel => "the kernel",
            Speaker::NvidiaManager => "nvidia-vgpu-mgr",
            Speaker::Mdevctl => "mdevctl",
            Speaker::Gfxplane => "gfxplane's qemu hook",
        }
    }
}

/// The problem behind a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Symptom {
    /// A dmabuf without OpenGL.
    OpenglMissing,
    /// `display='on'` without a display.
    NoDisplay,
    /// `display='on'` without graphics.
    GraphicsMissing,
    /// `display` on a device that is not vfio-pci.
    NotVfioPci,
    /// More than one ramfb.
    RamfbTwice,
    /// ramfb without a display.
    RamfbWithoutDisplay,
    /// ramfb on a machine that can't have it.
    RamfbWithoutFwCfg,
    /// ramfb of a device that is plugged in while the guest runs.
    RamfbHotplugged,
    /// xres or yres without a display.
    ModesWithoutDisplay,
    /// xres or yres of a device without an EDID.
    ModesWithoutEdid,
    /// Two graphics with OpenGL.
    OpenglTwice,
    /// egl-headless beside graphics that can't use it.
    EglHeadlessUnfit,
    /// Two graphics of one type.
    GraphicsTwice,
    /// spice with OpenGL over TCP.
    SpiceGlOverTcp,
    /// Graphics that can't show a dmabuf.
    ConsoleNeedsDmabuf,
    /// Graphics that can't share OpenGL.
    ConsoleNeedsContext,
    /// No render node.
    NoRenderNode,
    /// A render node that may not be opened.
    RenderNodeForbidden,
    /// A render node that EGL can't use.
    EglFailed,
    /// A dmabuf that the render node can't take.
    ImportFailed,
    /// A D-Bus daemon that libvirt could not start for the guest.
    DbusDaemonDied,
    /// A frontend, or OpenGL in it, that this QEMU lacks.
    FrontendMissing,
    /// An emulated card with 3D, and no OpenGL.
    CardNeedsOpengl,
    /// A screen that the guest does not use yet.
    NotInitialized,
    /// No screen at all.
    NoGraphicDevice,
    /// A screenshot of a dmabuf.
    NoSurface,
    /// A dmabuf that a viewer of dbus was to be given.
    DmabufLost,
    /// An OpRegion that is not there.
    NoOpregion,
    /// An OpRegion for a device that is plugged in while the guest runs.
    OpregionHotplugged,
    /// `x-vga` of a device that is no VGA card.
    NotVga,
    /// A `-set` for a device that libvirt describes as JSON.
    DeadSetting,
    /// `qemu:` without its namespace.
    NamespaceMissing,
    /// A device that is not there.
    NotActive,
    /// A device that somebody has.
    InUse,
    /// A group with devices of the host's drivers.
    NotViable,
    /// A device without an IOMMU group.
    NoIommuGroup,
    /// vfio that may not be opened.
    VfioForbidden,
    /// A driver that opens for a KVM VM only.
    NeedsVm,
    /// NVIDIA's manager found no UUID.
    NvidiaUuid,
    /// A driver that would not open the device.
    OpenFailed,
    /// No mdevctl.
    MdevctlMissing,
    /// gfxplane's attributes in a definition.
    AttributesDefined,
    /// A guest that can't be saved or moved.
    NoMigration,
    /// A system call that QEMU's sandbox forbids.
    Sandboxed,
    /// gfxplane's hook has kept the domain from starting.
    Vetoed,
    /// Some hook has kept the domain from starting.
    HookFailed,
}

/// The words of a known message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wording {
    /// The problem.
    pub symptom: Symptom,
    /// The program that gives it.
    pub by: Speaker,
    /// The words; `*` stands for anything.
    pub words: &'static str,
    /// The versions that are known to give it.
    pub versions: &'static str,
    /// The place: file and function, or who has quoted it.
    pub source: &'static str,
    /// True if it follows from something else, and counts only if nothing else is known.
    pub follows: bool,
}

const fn said(
    symptom: Symptom,
    by: Speaker,
    words: &'static str,
    versions: &'static str,
    source: &'static str,
) -> Wording {
    Wording {
        symptom,
        by,
        words,
        versions,
        source,
        follows: false,
    }
}

const fn follows(
    symptom: Symptom,
    by: Speaker,
    words: &'static str,
    versions: &'static str,
    source: &'static str,
) -> Wording {
    Wording {
        follows: true,
        ..said(symptom, by, words, versions, source)
    }
}

use Speaker::{Gfxplane, Kernel, Libvirt, Mdevctl, NvidiaManager, Qemu};

/// All known messages. If two fit at the same place, the first counts.
pub const WORDINGS: &[Wording] = &[
    said(
        Symptom::OpenglMissing,
        Qemu,
        words::DMABUF_NEEDS_OPENGL,
        "4.2, 7.2, 10.0, 11.1",
        "hw/vfio/display.c, vfio_display_dmabuf_init; 4.2: gvt-linux issue 227",
    ),
    said(
        Symptom::NoDisplay,
        Qemu,
        words::NO_DISPLAY,
        "7.2, 10.0, 11.1",
        "hw/vfio/display.c, vfio_display_probe",
    ),
    said(
        Symptom::GraphicsMissing,
        Libvirt,
        "graphics device is needed for attribute value 'display=on' in <hostdev>",
        "9.0, 11.3, 12.8",
        "src/qemu/qemu_validate.c, qemuValidateDomainMdevDefVFIOPCI",
    ),
    said(
        Symptom::NotVfioPci,
        Libvirt,
        "<hostdev> attribute 'display' is only supported with model='vfio-pci'",
        "9.0, 11.3",
        "src/qemu/qemu_validate.c, qemuValidateDomainMdevDefVFIOPCI",
    ),
    said(
        Symptom::RamfbTwice,
        Libvirt,
        "Only one vgpu device can have 'ramfb' enabled",
        "9.0, 11.3",
        "src/conf/domain_validate.c, virDomainDefHostdevValidate",
    ),
    said(
        Symptom::RamfbTwice,
        Qemu,
        words::RAMFB_TWICE,
        "7.2, 10.0, 11.1",
        "hw/nvram/fw_cfg.c, fw_cfg_add_file_callback, from ramfb_setup",
    ),
    said(
        Symptom::RamfbWithoutDisplay,
        Qemu,
        words::RAMFB_NEEDS_DISPLAY,
        "7.2, 10.0",
        "hw/vfio/pci.c, vfio_realize",
    ),
    said(
        Symptom::RamfbWithoutFwCfg,
        Qemu,
        words::RAMFB_NEEDS_FW_CFG,
        "7.2, 10.0",
        "hw/display/ramfb.c, ramfb_setup",
    ),
    said(
        Symptom::RamfbHotplugged,
        Qemu,
        words::RAMFB_NOT_FOUND,
        "7.2, 10.0",
        "qom/object.c, for hw/vfio/pci.c, vfio_pci_nohotplug_properties",
    ),
    said(
        Symptom::ModesWithoutDisplay,
        Qemu,
        words::MODES_NEED_DISPLAY,
        "7.2, 10.0",
        "hw/vfio/pci.c, vfio_realize",
    ),
    said(
        Symptom::ModesWithoutEdid,
        Qemu,
        words::MODES_NEED_EDID,
        "7.2, 10.0",
        "hw/vfio/pci.c, vfio_realize",
    ),
    said(
        Symptom::OpenglTwice,
        Libvirt,
        "multiple OpenGL displays are not supported by QEMU",
        "9.0, 11.3",
        "src/qemu/qemu_validate.c, qemuValidateDomainDeviceDefGraphics",
    ),
    said(
        Symptom::EglHeadlessUnfit,
        Libvirt,
        "graphics type 'egl-headless' is only supported with one of: 'vnc', 'spice'",
        "9.0, 11.3",
        "src/qemu/qemu_validate.c, qemuValidateDomainDeviceDefGraphics",
    ),
    said(
        Symptom::GraphicsTwice,
        Libvirt,
        "only 1 graphics device of each type",
        "9.0, 11.3",
        "src/qemu/qemu_command.c, qemuBuildCommandLineValidate",
    ),
    said(
        Symptom::SpiceGlOverTcp,
        Qemu,
        words::SPICE_GL_LOCAL_ONLY,
        "7.2, 10.0; from 10.1 on only if built with spice-server before 0.15.3",
        "ui/spice-core.c, qemu_spice_init",
    ),
    said(
        Symptom::ConsoleNeedsDmabuf,
        Qemu,
        words::CONSOLE_NEEDS_DMABUF,
        "7.2, 10.0, 11.1",
        "ui/console.c, console_compatible_with",
    ),
    said(
        Symptom::ConsoleNeedsContext,
        Qemu,
        words::CONSOLE_NEEDS_CONTEXT,
        "7.2, 10.0, 11.1",
        "ui/console.c, console_compatible_with",
    ),
    said(
        Symptom::ConsoleNeedsContext,
        Qemu,
        words::CONTEXT_UNFIT,
        "7.2, 10.0, 11.1",
        "ui/console.c, console_compatible_with",
    ),
    said(
        Symptom::ConsoleNeedsContext,
        Qemu,
        words::CONTEXT_TWICE,
        "7.2, 10.0",
        "ui/console.c, qemu_console_set_display_gl_ctx",
    ),
    // QEMU also says this of a node that exists and that it may not open: it tries to open it, and
    // does not say why that failed (util/drm.c, qemu_drm_rendernode_open).
    said(
        Symptom::NoRenderNode,
        Qemu,
        "egl: no drm render node available",
        "7.2, 10.0; quoted in 2019",
        "ui/egl-helpers.c, egl_rendernode_init; gvt-linux issue 81",
    ),
    said(
        Symptom::NoRenderNode,
        Libvirt,
        "No DRM render nodes available",
        "9.0, 11.3",
        "src/util/virutil.c, virHostGetDRMRenderNode",
    ),
    said(
        Symptom::NoRenderNode,
        Libvirt,
        "cannot open directory '/dev/dri'",
        "9.0, 11.3",
        "src/util/virfile.c, virDirOpen, from virHostGetDRMRenderNode",
    ),
    said(
        Symptom::RenderNodeForbidden,
        Qemu,
        "'/dev/dri/*': Permission denied",
        "quoted without a version",
        "libvirt's and QEMU's ways to say that a file can't be opened",
    ),
    said(
        Symptom::RenderNodeForbidden,
        Qemu,
        "failed to open /dev/dri/*: Permission denied",
        "Mesa of 2022 to 2025",
        "Mesa's loader, as quoted in fastfetch issue 1513",
    ),
    said(
        Symptom::EglFailed,
        Qemu,
        "egl: eglInitialize failed",
        "7.2; with the error's name behind it 10.0",
        "ui/egl-helpers.c, qemu_egl_init_dpy; virt-manager issues 349 and 938",
    ),
    said(
        Symptom::EglFailed,
        Qemu,
        "egl: eglGetDisplay failed",
        "7.2; with the error's name behind it 10.0",
        "ui/egl-helpers.c, qemu_egl_init_dpy; libvirt issue 93",
    ),
    said(
        Symptom::EglFailed,
        Qemu,
        "egl: eglBindAPI failed",
        "7.2, 10.0",
        "ui/egl-helpers.c, qemu_egl_init_dpy",
    ),
    said(
        Symptom::EglFailed,
        Qemu,
        "egl: eglChooseConfig failed",
        "7.2, 10.0",
        "ui/egl-helpers.c, qemu_egl_init_dpy",
    ),
    said(
        Symptom::EglFailed,
        Qemu,
        "egl: gbm_create_device failed",
        "7.2, 10.0",
        "ui/egl-helpers.c, egl_rendernode_init",
    ),
    said(
        Symptom::EglFailed,
        Qemu,
        "egl: EGL_KHR_surfaceless_context not supported",
        "7.2, 10.0",
        "ui/egl-helpers.c, egl_rendernode_init",
    ),
    said(
        Symptom::EglFailed,
        Qemu,
        "egl: EGL_MESA_image_dma_buf_export not supported",
        "7.2, 10.0",
        "ui/egl-helpers.c, egl_rendernode_init",
    ),
    said(
        Symptom::EglFailed,
        Qemu,
        "egl: EGL_EXT_image_dma_buf_import_modifiers not supported",
        "11.1; required since 10.1",
        "ui/egl-helpers.c, egl_rendernode_init (806c861dc6)",
    ),
    said(
        Symptom::EglFailed,
        Qemu,
        "egl: eglCreateContext failed",
        "7.2, 10.0",
        "ui/egl-helpers.c, qemu_egl_init_ctx",
    ),
    said(
        Symptom::EglFailed,
        Qemu,
        "egl: eglMakeCurrent failed",
        "7.2, 10.0",
        "ui/egl-helpers.c, qemu_egl_init_ctx",
    ),
    follows(
        Symptom::EglFailed,
        Qemu,
        "egl: egl_init_ctx failed",
        "7.2, 10.0",
        "ui/egl-helpers.c, egl_rendernode_init",
    ),
    follows(
        Symptom::EglFailed,
        Qemu,
        "egl: render node init failed",
        "7.2, 10.0",
        "ui/egl-headless.c and ui/egl-helpers.c, egl_init",
    ),
    follows(
        Symptom::EglFailed,
        Qemu,
        "Failed to initialize EGL render node for SPICE GL",
        "7.2",
        "ui/spice-core.c, qemu_spice_init",
    ),
    follows(
        Symptom::EglFailed,
        Qemu,
        "dbus: render node init failed",
        "7.2",
        "ui/dbus.c, early_dbus_init",
    ),
    said(
        Symptom::ImportFailed,
        Qemu,
        "eglCreateImageKHR failed",
        "7.2, 10.0",
        "ui/egl-helpers.c, egl_dmabuf_import_texture",
    ),
    said(
        Symptom::DbusDaemonDied,
        Libvirt,
        "dbus-daemon died and reported",
        "11.3, 12.8",
        "src/qemu/qemu_dbus.c, qemuDBusStart",
    ),
    said(
        Symptom::FrontendMissing,
        Libvirt,
        "graphics are not supported with this QEMU",
        "9.0, 11.3",
        "src/qemu/qemu_validate.c, qemuValidateDomainDeviceDefGraphics",
    ),
    said(
        Symptom::FrontendMissing,
        Libvirt,
        "egl-headless display is not supported with this QEMU binary",
        "quoted without a version",
        "src/qemu/qemu_validate.c of older versions; docker-virt-manager's README",
    ),
    said(
        Symptom::FrontendMissing,
        Libvirt,
        "This QEMU doesn't support spice OpenGL",
        "9.0, 11.3",
        "src/qemu/qemu_validate.c, qemuValidateDomainDeviceDefSPICEGraphics",
    ),
    said(
        Symptom::FrontendMissing,
        Libvirt,
        "This QEMU doesn't support OpenGL rendernode with egl-headless graphics type",
        "9.0, 11.3",
        "src/qemu/qemu_validate.c, qemuValidateDomainDeviceDefGraphics",
    ),
    follows(
        Symptom::FrontendMissing,
        Qemu,
        words::NO_OPENGL_IN_DISPLAY,
        "7.2",
        "softmmu/vl.c, qemu_create_early_backends; libvirt issue 93",
    ),
    follows(
        Symptom::FrontendMissing,
        Qemu,
        words::NO_OPENGL_IN_BACKEND,
        "10.0; from 9.1 on",
        "system/vl.c, qemu_create_early_backends (7aea035a60)",
    ),
    said(
        Symptom::FrontendMissing,
        Qemu,
        words::DISPLAY_NOT_AVAILABLE,
        "7.2, 10.0",
        "ui/console.c, qemu_display_init",
    ),
    said(
        Symptom::FrontendMissing,
        Libvirt,
        "3d acceleration is not supported by this QEMU binary",
        "9.0, 11.3",
        "src/qemu/qemu_validate.c, qemuValidateDomainDeviceDefVideo",
    ),
    said(
        Symptom::CardNeedsOpengl,
        Qemu,
        words::NO_OPENGL,
        "7.2",
        "hw/display/virtio-gpu-gl.c, virtio_gpu_gl_device_realize",
    ),
    said(
        Symptom::CardNeedsOpengl,
        Qemu,
        words::NO_OPENGL_AT_LENGTH,
        "10.0",
        "hw/display/virtio-gpu-gl.c, virtio_gpu_gl_device_realize",
    ),
    said(
        Symptom::NotInitialized,
        Qemu,
        "Guest has not initialized the display (yet)",
        "7.2, 10.0",
        "ui/console.c, graphic_console_init; shown on the screen",
    ),
    said(
        Symptom::NotInitialized,
        Qemu,
        "Display output is not active",
        "7.2, 10.0",
        "ui/console.c, dpy_gfx_replace_surface; shown on the screen",
    ),
    said(
        Symptom::NoGraphicDevice,
        Qemu,
        "This VM has no graphic display device",
        "7.2, 10.0",
        "ui/console.c, register_displaychangelistener; shown on the screen",
    ),
    said(
        Symptom::NoSurface,
        Qemu,
        "'screendump': no surface",
        "7.2, 10.0",
        "ui/console.c and ui/ui-qmp-cmds.c, qmp_screendump",
    ),
    said(
        Symptom::DmabufLost,
        Qemu,
        "Failed to setup dmabuf fdlist",
        "11.1",
        "ui/dbus-listener.c, dbus_scanout_dmabuf",
    ),
    said(
        Symptom::OpregionHotplugged,
        Qemu,
        "cannot support IGD OpRegion feature on hotplugged device",
        "7.2",
        "hw/vfio/pci.c, vfio_realize",
    ),
    said(
        Symptom::OpregionHotplugged,
        Qemu,
        "IGD OpRegion is not supported on hotplugged device",
        "10.0",
        "hw/vfio/igd.c, vfio_pci_igd_setup_opregion",
    ),
    said(
        Symptom::NoOpregion,
        Qemu,
        words::NO_OPREGION,
        "7.2",
        "hw/vfio/pci.c, vfio_realize; gvt-linux issue 19",
    ),
    said(
        Symptom::NoOpregion,
        Qemu,
        words::NO_OPREGION_BY_IGD,
        "10.0",
        "hw/vfio/igd.c, vfio_pci_igd_setup_opregion",
    ),
    said(
        Symptom::NoOpregion,
        Qemu,
        "does not support IGD OpRegion feature",
        "a change of 2025",
        "hw/vfio/igd.c, as sent to QEMU's list",
    ),
    said(
        Symptom::NotVga,
        Qemu,
        "device does not support requested feature x-vga",
        "7.2, 10.0",
        "hw/vfio/pci.c, vfio_populate_vga; gvt-linux issue 88",
    ),
    said(
        Symptom::DeadSetting,
        Qemu,
        words::NO_SUCH_DEVICE,
        "7.2, 10.0",
        "system/vl.c, qemu_set_option; QEMU issues 787 and 1015",
    ),
    said(
        Symptom::NamespaceMissing,
        Libvirt,
        "has extra content: qemu:",
        "quoted without a version",
        "libxml2's validation by libvirt's schema; NixOS wiki",
    ),
    said(
        Symptom::NamespaceMissing,
        Libvirt,
        "Namespace prefix qemu on * is not defined",
        "quoted without a version",
        "libxml2's parser",
    ),
    said(
        Symptom::NotActive,
        Libvirt,
        "mediated device '*' not found",
        "9.0, 11.3",
        "src/util/virmdev.c, virMediatedDeviceNew; virt-manager issue 392",
    ),
    said(
        Symptom::NotActive,
        Qemu,
        "no such host device",
        "7.2, 10.0",
        "hw/vfio, vfio_device_get_name and vfio_realize",
    ),
    said(
        Symptom::InUse,
        Libvirt,
        "mediated device * is in use by driver *, domain",
        "9.0, 11.3",
        "src/hypervisor/virhostdev.c, virHostdevPrepareMediatedDevices",
    ),
    said(
        Symptom::InUse,
        Libvirt,
        "PCI device * is in use by driver *, domain",
        "9.0, 11.3",
        "src/hypervisor/virhostdev.c, virHostdevPreparePCIDevices",
    ),
    said(
        Symptom::InUse,
        Qemu,
        "/dev/vfio/*: Device or resource busy",
        "7.2, 10.0",
        "hw/vfio/container.c, vfio_group_get; the words are the kernel's EBUSY",
    ),
    said(
        Symptom::InUse,
        Qemu,
        "error bind device fd=*: Device or resource busy",
        "10.0",
        "hw/vfio/iommufd.c, iommufd_cdev_connect_and_bind; the words are the kernel's EBUSY",
    ),
    said(
        Symptom::VfioForbidden,
        Qemu,
        "/dev/vfio/*: Permission denied",
        "7.2, 10.0",
        "hw/vfio/container.c, vfio_group_get; the words are the kernel's EACCES",
    ),
    said(
        Symptom::NotViable,
        Qemu,
        "group * is not viable",
        "7.2, 10.0",
        "hw/vfio/container.c, vfio_group_get",
    ),
    said(
        Symptom::NoIommuGroup,
        Qemu,
        "no iommu_group found",
        "7.2, 10.0",
        "hw/vfio, vfio_realize and vfio_device_get_groupid",
    ),
    said(
        Symptom::NeedsVm,
        Qemu,
        "error getting device from group *: No such process",
        "7.2, 10.0",
        "hw/vfio/container.c, vfio_get_device; the words are the kernel's ESRCH",
    ),
    said(
        Symptom::NeedsVm,
        Kernel,
        "KVM is required to use Intel vGPU",
        "older ones",
        "drivers/gpu/drm/i915/gvt/kvmgt.c, its history",
    ),
    said(
        Symptom::NvidiaUuid,
        NvidiaManager,
        "Failed to get VM UUID from QEMU command-line",
        "quoted without a version",
        "vgpu_unlock issue 71",
    ),
    follows(
        Symptom::NvidiaUuid,
        NvidiaManager,
        "kvm_plugin_global_init failed",
        "quoted without a version",
        "vgpu_unlock issue 71",
    ),
    said(
        Symptom::OpenFailed,
        Qemu,
        "error getting device from group",
        "7.2, 10.0",
        "hw/vfio/container.c, vfio_get_device; vgpu_unlock issues 57 and 71",
    ),
    said(
        Symptom::MdevctlMissing,
        Libvirt,
        "Cannot find 'mdevctl' in path",
        "9.0, 11.3",
        "src/util/virfile.c, virFindFileInPath's callers; atmosphere pull request 3313",
    ),
    said(
        Symptom::AttributesDefined,
        Mdevctl,
        "Invalid attribute 'gfxplane.",
        "1.2, 1.4",
        "src/mdev.rs, write_attr",
    ),
    said(
        Symptom::NoMigration,
        Qemu,
        "VFIO migration is not supported in kernel",
        "10.0",
        "hw/vfio/migration.c, vfio_migration_realize",
    ),
    said(
        Symptom::Sandboxed,
        Kernel,
        "type=1326 * comm=\"qemu*sig=31",
        "Linux, in the audit log",
        "kernel/seccomp.c and kernel/auditsc.c, audit_seccomp; gvt-linux issue 47",
    ),
    said(
        Symptom::Vetoed,
        Gfxplane,
        "gfxplane: domain * is not started",
        "this version",
        "src/daemon/hook.rs, start",
    ),
    follows(
        Symptom::HookFailed,
        Libvirt,
        "Hook script execution failed",
        "9.0, 11.3",
        "src/util/virhook.c, virRunScript",
    ),
];
