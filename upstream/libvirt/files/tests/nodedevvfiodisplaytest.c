/*
 * nodedevvfiodisplaytest.c: udev properties of a vfio device's display
 *
 * SPDX-License-Identifier: LGPL-2.1-or-later
 */

#include <config.h>

#include "testutils.h"
#include "node_device_vfio_display.h"

#define VIR_FROM_THIS VIR_FROM_NODEDEV

static const char *
testProperty(const char *key,
             void *opaque)
{
    return g_hash_table_lookup(opaque, key);
}


/* Reads lines of the form KEY=value, as "udevadm info --query=property" prints
 * them, and compares the capability; an empty file stands for none. */
static int
testProperties(const void *opaque)
{
    const char *name = opaque;
    g_autofree char *infile = g_strdup_printf("%s/nodedevvfiodisplaydata/%s.properties",
                                              abs_srcdir, name);
    g_autofree char *outfile = g_strdup_printf("%s/nodedevvfiodisplaydata/%s.xml",
                                               abs_srcdir, name);
    g_autoptr(GHashTable) properties = g_hash_table_new(g_str_hash, g_str_equal);
    g_autoptr(virNodeDevCapVFIODisplay) cap = NULL;
    g_auto(virBuffer) buf = VIR_BUFFER_INITIALIZER;
    g_auto(GStrv) lines = NULL;
    g_autofree char *text = NULL;
    g_autofree char *actual = NULL;
    size_t i;

    if (virTestLoadFile(infile, &text) < 0)
        return -1;

    lines = g_strsplit(text, "\n", 0);

    for (i = 0; lines[i]; i++) {
        char *value = strchr(lines[i], '=');

        if (!value)
            continue;

        *value = '\0';
        g_hash_table_insert(properties, lines[i], value + 1);
    }

    if ((cap = virNodeDevCapVFIODisplayFromProperties(testProperty, properties)))
        virNodeDevCapVFIODisplayFormat(&buf, cap);

    if (!(actual = virBufferContentAndReset(&buf)))
        actual = g_strdup("");

    return virTestCompareToFile(actual, outfile);
}


static int
mymain(void)
{
    int ret = 0;

#define DO_TEST(name) \
    if (virTestRun("udev properties " name, testProperties, name) < 0) \
        ret = -1

    DO_TEST("absent");
    DO_TEST("both");
    DO_TEST("dmabuf");
    DO_TEST("escaped");
    DO_TEST("malformed");
    DO_TEST("newer");
    DO_TEST("no-limit");
    DO_TEST("none");
    DO_TEST("region");
    DO_TEST("rule");
    DO_TEST("strange");
    DO_TEST("unknown");
    DO_TEST("unknown-without-reason");

    return ret == 0 ? EXIT_SUCCESS : EXIT_FAILURE;
}

VIR_TEST_MAIN(mymain)
