/*
 * The peer of gfxplane-probe: the least that asks a device the same questions, with the same
 * ioctls in the same order. prober UUID
 */
#include <fcntl.h>
#include <linux/vfio.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

static int fail(const char *what)
{
	perror(what);
	return 1;
}

static int plane(int device, uint32_t flags)
{
	struct vfio_device_gfx_plane_info info = {
		.argsz = sizeof(info), .flags = VFIO_GFX_PLANE_TYPE_PROBE | flags
	};

	return ioctl(device, VFIO_DEVICE_QUERY_GFX_PLANE, &info) == 0;
}

/* The EDID's maximum, if this region's chain says that it is one. */
static void edid(int device, const struct vfio_region_info *info)
{
	uint32_t at = info->cap_offset, x, y;

	while (at) {
		const struct vfio_info_cap_header *head = (const void *)((const char *)info + at);
		const struct vfio_region_info_cap_type *type = (const void *)head;

		if (head->id == VFIO_REGION_INFO_CAP_TYPE && type->type == VFIO_REGION_TYPE_GFX &&
		    type->subtype == VFIO_REGION_SUBTYPE_GFX_EDID &&
		    pread(device, &x, 4, info->offset + 12) == 4 &&
		    pread(device, &y, 4, info->offset + 16) == 4)
			printf("edid %ux%u\n", x, y);
		at = head->next;
	}
}

int main(int argc, char **argv)
{
	char path[256], link[256], *group_name;
	struct vfio_group_status status = { .argsz = sizeof(status) };
	struct vfio_device_info info = { .argsz = sizeof(info) };
	struct vfio_pci_hot_reset_info reset = { .argsz = sizeof(reset) };
	int container, group, device;
	ssize_t length;

	if (argc != 2)
		return 2;
	snprintf(path, sizeof(path), "/sys/bus/mdev/devices/%s/iommu_group", argv[1]);
	length = readlink(path, link, sizeof(link) - 1);
	if (length < 0)
		return fail(path);
	link[length] = 0;
	group_name = strrchr(link, '/') + 1;

	container = open("/dev/vfio/vfio", O_RDWR);
	if (container < 0 || ioctl(container, VFIO_GET_API_VERSION) != VFIO_API_VERSION ||
	    ioctl(container, VFIO_CHECK_EXTENSION, VFIO_TYPE1v2_IOMMU) <= 0)
		return fail("container");
	snprintf(path, sizeof(path), "/dev/vfio/%s", group_name);
	group = open(path, O_RDWR);
	if (group < 0 || ioctl(group, VFIO_GROUP_GET_STATUS, &status) ||
	    !(status.flags & VFIO_GROUP_FLAGS_VIABLE) ||
	    ioctl(group, VFIO_GROUP_SET_CONTAINER, &container) ||
	    ioctl(container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU))
		return fail("group");
	device = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, argv[1]);
	if (device < 0 || ioctl(device, VFIO_DEVICE_GET_INFO, &info))
		return fail("device");

	for (uint32_t i = 0; i < info.num_regions; i++) {
		struct vfio_region_info bare = { .argsz = sizeof(bare), .index = i }, *region = &bare;

		if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, region))
			continue;
		if (bare.flags & VFIO_REGION_INFO_FLAG_CAPS && bare.argsz > sizeof(bare)) {
			region = calloc(1, bare.argsz);
			region->argsz = bare.argsz;
			region->index = i;
			if (ioctl(device, VFIO_DEVICE_GET_REGION_INFO, region) == 0)
				edid(device, region);
		}
	}
	for (uint32_t i = 0; i < info.num_irqs; i++) {
		struct vfio_irq_info irq = { .argsz = sizeof(irq), .index = i };

		ioctl(device, VFIO_DEVICE_GET_IRQ_INFO, &irq);
	}
	ioctl(device, VFIO_DEVICE_GET_PCI_HOT_RESET_INFO, &reset);
	if (plane(device, 0))
		puts("untrusted");
	else
		printf("dmabuf %d region %d\n", plane(device, VFIO_GFX_PLANE_TYPE_DMABUF),
		       plane(device, VFIO_GFX_PLANE_TYPE_REGION));
	close(device);
	close(group);
	close(container);
	return 0;
}
