/*
 * node_device_vfio_display.h: the display that a vfio device offers
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#pragma once

#include "internal.h"
#include "virbuffer.h"
#include "virenum.h"
#include "virxml.h"

typedef enum {
    VIR_NODE_DEV_VFIO_DISPLAY_UNKNOWN,  /* nobody could ask the device */
    VIR_NODE_DEV_VFIO_DISPLAY_NONE,     /* the device has no display */
    VIR_NODE_DEV_VFIO_DISPLAY_REGION,   /* QEMU copies from device memory */
    VIR_NODE_DEV_VFIO_DISPLAY_DMABUF,   /* QEMU imports a dmabuf by OpenGL */

    VIR_NODE_DEV_VFIO_DISPLAY_LAST
} virNodeDevVFIODisplay;

VIR_ENUM_DECL(virNodeDevVFIODisplay);

typedef enum {
    VIR_NODE_DEV_VFIO_DISPLAY_SCOPE_GRAPHICS,   /* <graphics> of a domain */
    VIR_NODE_DEV_VFIO_DISPLAY_SCOPE_HOSTDEV,    /* <hostdev> of a domain */
    VIR_NODE_DEV_VFIO_DISPLAY_SCOPE_QEMU,       /* property of QEMU's device */
    VIR_NODE_DEV_VFIO_DISPLAY_SCOPE_HOST,       /* something of the host */

    VIR_NODE_DEV_VFIO_DISPLAY_SCOPE_LAST
} virNodeDevVFIODisplayScope;

VIR_ENUM_DECL(virNodeDevVFIODisplayScope);

typedef enum {
    VIR_NODE_DEV_VFIO_DISPLAY_METHOD_NONE,      /* there is no evidence */
    VIR_NODE_DEV_VFIO_DISPLAY_METHOD_KERNEL,    /* a sysfs attribute */
    VIR_NODE_DEV_VFIO_DISPLAY_METHOD_PROBE,     /* the device was asked */
    VIR_NODE_DEV_VFIO_DISPLAY_METHOD_QEMU,      /* QEMU's use of the device */
    VIR_NODE_DEV_VFIO_DISPLAY_METHOD_SIBLING,   /* a device of the same type */
    VIR_NODE_DEV_VFIO_DISPLAY_METHOD_RULE,      /* knowledge of the driver */

    VIR_NODE_DEV_VFIO_DISPLAY_METHOD_LAST
} virNodeDevVFIODisplayMethod;

VIR_ENUM_DECL(virNodeDevVFIODisplayMethod);

typedef struct _virNodeDevVFIODisplayOption virNodeDevVFIODisplayOption;
struct _virNodeDevVFIODisplayOption {
    virNodeDevVFIODisplayScope scope;
    char *name;
    char *value;
    char *purpose;      /* "for" in XML; NULL: whenever the display is used */
    char *qemu_below;   /* only a QEMU older than this; NULL: all */
};

typedef struct _virNodeDevVFIODisplayEvidence virNodeDevVFIODisplayEvidence;
struct _virNodeDevVFIODisplayEvidence {
    virNodeDevVFIODisplayMethod method;
    char *rule;
    char *path;
    char *driver;
    char *version;
    char *kernel;
    char *qemu;
    char *step;
    char *error;        /* "errno" in XML */
};

typedef struct _virNodeDevCapVFIODisplay virNodeDevCapVFIODisplay;
struct _virNodeDevCapVFIODisplay {
    virNodeDevVFIODisplay display;  /* the interface that QEMU chooses */
    bool region_too;                /* region besides dmabuf */
    char *reason;                   /* why the display is unknown */

    bool edid;
    unsigned int max_xres;          /* pixels; 0: no limit */
    unsigned int max_yres;

    unsigned long long opregion;    /* bytes; 0: no OpRegion */

    virNodeDevVFIODisplayOption **options;
    size_t noptions;

    virNodeDevVFIODisplayEvidence evidence;
};

/* Returns the value of the udev property @key of a device, or NULL. */
typedef const char *
(*virNodeDevVFIODisplayPropertyCallback)(const char *key,
                                         void *opaque);

virNodeDevCapVFIODisplay *
virNodeDevCapVFIODisplayFromProperties(virNodeDevVFIODisplayPropertyCallback cb,
                                       void *opaque)
    ATTRIBUTE_NONNULL(1);

virNodeDevCapVFIODisplay *
virNodeDevCapVFIODisplayParseXML(xmlXPathContextPtr ctxt,
                                 xmlNodePtr node);

void
virNodeDevCapVFIODisplayFormat(virBuffer *buf,
                               const virNodeDevCapVFIODisplay *cap);

void
virNodeDevCapVFIODisplayFree(virNodeDevCapVFIODisplay *cap);

G_DEFINE_AUTOPTR_CLEANUP_FUNC(virNodeDevCapVFIODisplay,
                              virNodeDevCapVFIODisplayFree);
