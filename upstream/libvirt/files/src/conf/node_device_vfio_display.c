/*
 * node_device_vfio_display.c: the display that a vfio device offers
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "node_device_vfio_display.h"
#include "viralloc.h"
#include "virerror.h"
#include "virlog.h"
#include "virstring.h"

#define VIR_FROM_THIS VIR_FROM_NODEDEV

VIR_LOG_INIT("conf.node_device_vfio_display");

VIR_ENUM_IMPL(virNodeDevVFIODisplay,
              VIR_NODE_DEV_VFIO_DISPLAY_LAST,
              "unknown",
              "none",
              "region",
              "dmabuf",
);

VIR_ENUM_IMPL(virNodeDevVFIODisplayScope,
              VIR_NODE_DEV_VFIO_DISPLAY_SCOPE_LAST,
              "graphics",
              "hostdev",
              "qemu",
              "host",
);

VIR_ENUM_IMPL(virNodeDevVFIODisplayMethod,
              VIR_NODE_DEV_VFIO_DISPLAY_METHOD_LAST,
              "",
              "kernel",
              "probe",
              "qemu",
              "sibling",
              "rule",
);


static void
virNodeDevVFIODisplayOptionFree(virNodeDevVFIODisplayOption *option)
{
    if (!option)
        return;

    g_free(option->name);
    g_free(option->value);
    g_free(option->purpose);
    g_free(option->qemu_below);
    g_free(option);
}

G_DEFINE_AUTOPTR_CLEANUP_FUNC(virNodeDevVFIODisplayOption,
                              virNodeDevVFIODisplayOptionFree);


static void
virNodeDevVFIODisplayEvidenceClear(virNodeDevVFIODisplayEvidence *evidence)
{
    g_free(evidence->rule);
    g_free(evidence->path);
    g_free(evidence->driver);
    g_free(evidence->version);
    g_free(evidence->kernel);
    g_free(evidence->qemu);
    g_free(evidence->step);
    g_free(evidence->error);
}


void
virNodeDevCapVFIODisplayFree(virNodeDevCapVFIODisplay *cap)
{
    size_t i;

    if (!cap)
        return;

    g_free(cap->reason);
    for (i = 0; i < cap->noptions; i++)
        virNodeDevVFIODisplayOptionFree(cap->options[i]);
    g_free(cap->options);
    virNodeDevVFIODisplayEvidenceClear(&cap->evidence);
    g_free(cap);
}


/* The words of vfio_display: lower case letters, digits and dashes. */
static bool
virNodeDevVFIODisplayIsWord(const char *str)
{
    return *str != '\0' &&
        strspn(str, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(str);
}


static bool
virNodeDevVFIODisplayIsVersion(const char *str)
{
    return g_ascii_isdigit(*str) &&
        strspn(str, "0123456789.") == strlen(str);
}


/* Returns what follows "@key=" in @str, or NULL if @str begins differently. */
static const char *
virNodeDevVFIODisplayGetValue(const char *str,
                              const char *key)
{
    const char *value = STRSKIP(str, key);

    if (!value || value[0] != '=' || value[1] == '\0')
        return NULL;

    return value + 1;
}


/* "dmabuf", "region", "dmabuf,region", "none" or "unknown" */
static int
virNodeDevVFIODisplayParseInterfaces(virNodeDevCapVFIODisplay *cap,
                                     const char *str)
{
    int display;

    if (STREQ(str, "dmabuf,region")) {
        cap->display = VIR_NODE_DEV_VFIO_DISPLAY_DMABUF;
        cap->region_too = true;
        return 0;
    }

    if ((display = virNodeDevVFIODisplayTypeFromString(str)) < 0)
        return -1;

    cap->display = display;
    return 0;
}


/* "1920x1440"; "0x0" if the device sets no limit */
static int
virNodeDevVFIODisplayParseEDID(virNodeDevCapVFIODisplay *cap,
                               const char *str)
{
    char *end = NULL;
    unsigned int xres;
    unsigned int yres;

    if (virStrToLong_uip(str, &end, 10, &xres) < 0 ||
        *end != 'x' ||
        virStrToLong_uip(end + 1, NULL, 10, &yres) < 0)
        return -1;

    cap->edid = true;
    cap->max_xres = xres;
    cap->max_yres = yres;
    return 0;
}


/* "scope.name=value[;for=purpose][;qemu_below=version]"; unknown keys are for
 * readers newer than this one */
static int
virNodeDevVFIODisplayParseOption(virNodeDevCapVFIODisplay *cap,
                                 const char *str)
{
    g_autoptr(virNodeDevVFIODisplayOption) option = g_new0(virNodeDevVFIODisplayOption, 1);
    g_auto(GStrv) parts = g_strsplit(str, ";", 0);
    char *name;
    char *value;
    int scope;
    size_t i;

    if (!(name = strchr(parts[0], '.')) ||
        !(value = strchr(name, '=')))
        return -1;

    *name++ = '\0';
    *value++ = '\0';

    if ((scope = virNodeDevVFIODisplayScopeTypeFromString(parts[0])) < 0 ||
        !virNodeDevVFIODisplayIsWord(name) ||
        *value == '\0')
        return -1;

    option->scope = scope;
    option->name = g_strdup(name);
    option->value = g_strdup(value);

    for (i = 1; parts[i]; i++) {
        const char *purpose = virNodeDevVFIODisplayGetValue(parts[i], "for");
        const char *qemu_below = virNodeDevVFIODisplayGetValue(parts[i], "qemu_below");

        if (purpose && virNodeDevVFIODisplayIsWord(purpose) && !option->purpose)
            option->purpose = g_strdup(purpose);

        if (qemu_below && virNodeDevVFIODisplayIsVersion(qemu_below) && !option->qemu_below)
            option->qemu_below = g_strdup(qemu_below);
    }

    VIR_APPEND_ELEMENT(cap->options, cap->noptions, option);
    return 0;
}


/* "method[;key=value]..." */
static int
virNodeDevVFIODisplayParseEvidence(virNodeDevCapVFIODisplay *cap,
                                   const char *str)
{
    virNodeDevVFIODisplayEvidence *evidence = &cap->evidence;
    g_auto(GStrv) parts = g_strsplit(str, ";", 0);
    int method = -1;
    size_t i;
    size_t j;
    const struct {
        const char *key;
        char **value;
        bool (*valid)(const char *str);
    } fields[] = {
        { "rule", &evidence->rule, NULL },
        { "path", &evidence->path, virNodeDevVFIODisplayIsWord },
        { "driver", &evidence->driver, NULL },
        { "version", &evidence->version, NULL },
        { "kernel", &evidence->kernel, NULL },
        { "qemu", &evidence->qemu, virNodeDevVFIODisplayIsVersion },
        { "step", &evidence->step, virNodeDevVFIODisplayIsWord },
        { "errno", &evidence->error, NULL },
    };

    if (parts[0])
        method = virNodeDevVFIODisplayMethodTypeFromString(parts[0]);

    if (method <= VIR_NODE_DEV_VFIO_DISPLAY_METHOD_NONE)
        return -1;

    for (i = 1; parts[i]; i++) {
        for (j = 0; j < G_N_ELEMENTS(fields); j++) {
            const char *value = virNodeDevVFIODisplayGetValue(parts[i], fields[j].key);

            if (value && !*fields[j].value &&
                (!fields[j].valid || fields[j].valid(value)))
                *fields[j].value = g_strdup(value);
        }
    }

    /* a rule has a name, and nothing else does */
    if ((method == VIR_NODE_DEV_VFIO_DISPLAY_METHOD_RULE) != !!evidence->rule)
        return -1;

    evidence->method = method;
    return 0;
}


/**
 * virNodeDevCapVFIODisplayFromProperties:
 * @cb: returns the value of a udev property
 * @opaque: passed to @cb
 *
 * Reads the properties ID_VFIO_DISPLAY and ID_VFIO_DISPLAY_* of a device. They
 * come from outside of libvirt: what can't be understood is left out with a
 * warning, and never keeps a device from being listed.
 *
 * Returns the capability, or NULL if the device has none.
 */
virNodeDevCapVFIODisplay *
virNodeDevCapVFIODisplayFromProperties(virNodeDevVFIODisplayPropertyCallback cb,
                                       void *opaque)
{
    g_autoptr(virNodeDevCapVFIODisplay) cap = NULL;
    const char *value;

    if (!(value = cb("ID_VFIO_DISPLAY", opaque)))
        return NULL;

    cap = g_new0(virNodeDevCapVFIODisplay, 1);

    if (virNodeDevVFIODisplayParseInterfaces(cap, value) < 0) {
        VIR_WARN("Ignoring unexpected ID_VFIO_DISPLAY '%s'", value);
        return NULL;
    }

    if (cap->display == VIR_NODE_DEV_VFIO_DISPLAY_UNKNOWN) {
        value = cb("ID_VFIO_DISPLAY_REASON", opaque);

        if (!value || !virNodeDevVFIODisplayIsWord(value)) {
            VIR_WARN("Ignoring an unknown display without a valid ID_VFIO_DISPLAY_REASON");
            return NULL;
        }

        cap->reason = g_strdup(value);
    }

    if ((value = cb("ID_VFIO_DISPLAY_EDID_MAX", opaque)) &&
        virNodeDevVFIODisplayParseEDID(cap, value) < 0)
        VIR_WARN("Ignoring unexpected ID_VFIO_DISPLAY_EDID_MAX '%s'", value);

    if ((value = cb("ID_VFIO_DISPLAY_OPREGION", opaque)) &&
        virStrToLong_ullp(value, NULL, 10, &cap->opregion) < 0)
        VIR_WARN("Ignoring unexpected ID_VFIO_DISPLAY_OPREGION '%s'", value);

    if ((value = cb("ID_VFIO_DISPLAY_REQUIRE", opaque))) {
        g_auto(GStrv) options = g_strsplit(value, " ", 0);
        GStrv option;

        for (option = options; *option; option++) {
            if (**option != '\0' &&
                virNodeDevVFIODisplayParseOption(cap, *option) < 0)
                VIR_WARN("Ignoring unexpected option '%s' of ID_VFIO_DISPLAY_REQUIRE", *option);
        }
    }

    if ((value = cb("ID_VFIO_DISPLAY_EVIDENCE", opaque)) &&
        virNodeDevVFIODisplayParseEvidence(cap, value) < 0)
        VIR_WARN("Ignoring unexpected ID_VFIO_DISPLAY_EVIDENCE '%s'", value);

    return g_steal_pointer(&cap);
}


static int
virNodeDevVFIODisplayInterfacesParseXML(virNodeDevCapVFIODisplay *cap,
                                        xmlNodePtr *nodes,
                                        int n)
{
    virNodeDevVFIODisplay second;

    if (n < 1 || n > 2) {
        virReportError(VIR_ERR_XML_ERROR, "%s",
                       _("capability 'vfio_display' needs one or two <display> elements"));
        return -1;
    }

    if (virXMLPropEnum(nodes[0], "type", virNodeDevVFIODisplayTypeFromString,
                       VIR_XML_PROP_REQUIRED, &cap->display) < 0)
        return -1;

    if (cap->display == VIR_NODE_DEV_VFIO_DISPLAY_UNKNOWN &&
        !(cap->reason = virXMLPropStringRequired(nodes[0], "reason")))
        return -1;

    if (n == 1)
        return 0;

    if (virXMLPropEnum(nodes[1], "type", virNodeDevVFIODisplayTypeFromString,
                       VIR_XML_PROP_REQUIRED, &second) < 0)
        return -1;

    if (cap->display != VIR_NODE_DEV_VFIO_DISPLAY_DMABUF ||
        second != VIR_NODE_DEV_VFIO_DISPLAY_REGION) {
        virReportError(VIR_ERR_XML_ERROR, "%s",
                       _("two <display> elements must be of types 'dmabuf' and 'region', in that order"));
        return -1;
    }

    cap->region_too = true;
    return 0;
}


static int
virNodeDevVFIODisplayOptionParseXML(virNodeDevCapVFIODisplay *cap,
                                    xmlNodePtr node)
{
    g_autoptr(virNodeDevVFIODisplayOption) option = g_new0(virNodeDevVFIODisplayOption, 1);

    if (virXMLPropEnum(node, "scope", virNodeDevVFIODisplayScopeTypeFromString,
                       VIR_XML_PROP_REQUIRED, &option->scope) < 0)
        return -1;

    if (!(option->name = virXMLPropStringRequired(node, "name")) ||
        !(option->value = virXMLPropStringRequired(node, "value")))
        return -1;

    option->purpose = virXMLPropString(node, "for");
    option->qemu_below = virXMLPropString(node, "qemu_below");

    VIR_APPEND_ELEMENT(cap->options, cap->noptions, option);
    return 0;
}


static int
virNodeDevVFIODisplayEvidenceParseXML(virNodeDevVFIODisplayEvidence *evidence,
                                      xmlNodePtr node)
{
    if (virXMLPropEnum(node, "method", virNodeDevVFIODisplayMethodTypeFromString,
                       VIR_XML_PROP_REQUIRED | VIR_XML_PROP_NONZERO,
                       &evidence->method) < 0)
        return -1;

    evidence->rule = virXMLPropString(node, "rule");
    evidence->path = virXMLPropString(node, "path");
    evidence->driver = virXMLPropString(node, "driver");
    evidence->version = virXMLPropString(node, "version");
    evidence->kernel = virXMLPropString(node, "kernel");
    evidence->qemu = virXMLPropString(node, "qemu");
    evidence->step = virXMLPropString(node, "step");
    evidence->error = virXMLPropString(node, "errno");
    return 0;
}


virNodeDevCapVFIODisplay *
virNodeDevCapVFIODisplayParseXML(xmlXPathContextPtr ctxt,
                                 xmlNodePtr node)
{
    VIR_XPATH_NODE_AUTORESTORE(ctxt)
    g_autoptr(virNodeDevCapVFIODisplay) cap = g_new0(virNodeDevCapVFIODisplay, 1);
    g_autofree xmlNodePtr *displays = NULL;
    g_autofree xmlNodePtr *options = NULL;
    xmlNodePtr child;
    size_t i;
    int n;

    ctxt->node = node;

    if ((n = virXPathNodeSet("./display", ctxt, &displays)) < 0 ||
        virNodeDevVFIODisplayInterfacesParseXML(cap, displays, n) < 0)
        return NULL;

    if ((child = virXPathNode("./edid", ctxt))) {
        if (virXMLPropUInt(child, "max_xres", 10,
                           VIR_XML_PROP_REQUIRED, &cap->max_xres) < 0 ||
            virXMLPropUInt(child, "max_yres", 10,
                           VIR_XML_PROP_REQUIRED, &cap->max_yres) < 0)
            return NULL;

        cap->edid = true;
    }

    if ((child = virXPathNode("./opregion", ctxt)) &&
        virXMLPropULongLong(child, "size", 10,
                            VIR_XML_PROP_REQUIRED, &cap->opregion) < 0)
        return NULL;

    if ((n = virXPathNodeSet("./require/option", ctxt, &options)) < 0)
        return NULL;

    for (i = 0; i < n; i++) {
        if (virNodeDevVFIODisplayOptionParseXML(cap, options[i]) < 0)
            return NULL;
    }

    if ((child = virXPathNode("./evidence", ctxt)) &&
        virNodeDevVFIODisplayEvidenceParseXML(&cap->evidence, child) < 0)
        return NULL;

    return g_steal_pointer(&cap);
}


void
virNodeDevCapVFIODisplayFormat(virBuffer *buf,
                               const virNodeDevCapVFIODisplay *cap)
{
    g_auto(virBuffer) display = VIR_BUFFER_INITIALIZER;
    g_auto(virBuffer) options = VIR_BUFFER_INIT_CHILD(buf);
    g_auto(virBuffer) evidence = VIR_BUFFER_INITIALIZER;
    size_t i;

    virBufferAsprintf(&display, " type='%s'",
                      virNodeDevVFIODisplayTypeToString(cap->display));
    virBufferEscapeString(&display, " reason='%s'", cap->reason);
    virXMLFormatElement(buf, "display", &display, NULL);

    if (cap->region_too)
        virBufferAddLit(buf, "<display type='region'/>\n");

    if (cap->edid) {
        virBufferAsprintf(buf, "<edid max_xres='%u' max_yres='%u'/>\n",
                          cap->max_xres, cap->max_yres);
    }

    if (cap->opregion > 0)
        virBufferAsprintf(buf, "<opregion size='%llu'/>\n", cap->opregion);

    for (i = 0; i < cap->noptions; i++) {
        const virNodeDevVFIODisplayOption *option = cap->options[i];
        g_auto(virBuffer) attrs = VIR_BUFFER_INITIALIZER;

        virBufferAsprintf(&attrs, " scope='%s'",
                          virNodeDevVFIODisplayScopeTypeToString(option->scope));
        virBufferEscapeString(&attrs, " name='%s'", option->name);
        virBufferEscapeString(&attrs, " value='%s'", option->value);
        virBufferEscapeString(&attrs, " for='%s'", option->purpose);
        virBufferEscapeString(&attrs, " qemu_below='%s'", option->qemu_below);
        virXMLFormatElement(&options, "option", &attrs, NULL);
    }
    virXMLFormatElement(buf, "require", NULL, &options);

    if (cap->evidence.method != VIR_NODE_DEV_VFIO_DISPLAY_METHOD_NONE) {
        virBufferAsprintf(&evidence, " method='%s'",
                          virNodeDevVFIODisplayMethodTypeToString(cap->evidence.method));
        virBufferEscapeString(&evidence, " rule='%s'", cap->evidence.rule);
        virBufferEscapeString(&evidence, " path='%s'", cap->evidence.path);
        virBufferEscapeString(&evidence, " driver='%s'", cap->evidence.driver);
        virBufferEscapeString(&evidence, " version='%s'", cap->evidence.version);
        virBufferEscapeString(&evidence, " kernel='%s'", cap->evidence.kernel);
        virBufferEscapeString(&evidence, " qemu='%s'", cap->evidence.qemu);
        virBufferEscapeString(&evidence, " step='%s'", cap->evidence.step);
        virBufferEscapeString(&evidence, " errno='%s'", cap->evidence.error);
    }
    virXMLFormatElement(buf, "evidence", &evidence, NULL);
}
