// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mediated devices with every display interface that gfxplane has to tell apart.
 *
 * The kernel's own samples (mdpy, mbochs, mtty) hang on virtual parents that libvirt's
 * node-device driver does not know. These hang on a PCI device, as GVT-g's hang on the
 * integrated GPU: on the first virtio GPU, which keeps its own driver. mdev puts that
 * driver's name before the names of the types, so the type ids are
 *
 *   virtio-pci-region   the screen in BAR 0: a fixed picture of 640x480
 *   virtio-pci-dmabuf   the screen as a dmabuf (none is ever shown), EDID up to 1920x1080
 *   virtio-pci-both     either of these
 *   virtio-pci-none     no display: ENOTTY
 *   virtio-pci-hang     opening it sleeps, uninterruptibly, until module parameter
 *                       "release" is set: echo 1 > /sys/module/gfxplane_samples/parameters/release
 *   virtio-pci-hang-ioctl  opens at once; the plane query sleeps in that way, then: region
 *   virtio-pci-eio      opening it fails with EIO
 *   virtio-pci-mail     region; and the type says so itself, in the files of Alex Williamson's
 *                       mail of 2018: TYPE/vfio-pci/device/gfx_plane/{dmabuf,region}
 *
 * and, made after what the drivers' sources (for NVIDIA's: reports of it) say, those that
 * are like devices which nobody here owns:
 *
 *   virtio-pci-kvm      GVT-g, as to opening (kvmgt.c): ESRCH unless the opener's own KVM VM
 *                       has been associated, EEXIST if that VM has another such device open
 *   virtio-pci-opregion GVT-g, as to regions: an OpRegion before the EDID, whose region says
 *                       that it has 128 bytes, while its blob begins at 2048; Intel's PCI ids
 *   virtio-pci-zero     GVT-g before 4.16: 0 to every ioctl that it does not know, the plane
 *                       query among them, and nothing is written
 *   virtio-pci-beyond   NVIDIA, as to the plane: in a region one beyond those of GET_INFO;
 *                       asked for region and dmabuf at once it says yes
 *   virtio-pci-uuid     the same, and opening it is EIO unless "-uuid" is on the command line
 *                       of who opens it, as NVIDIA's manager wants it
 *   virtio-pci-yes      KubeVirt's fake: 0 to every PROBE, sense or nonsense
 *
 * There is nothing behind the devices: config space, one BAR, an INTx line that is
 * never raised.
 */

#include <linux/bits.h>
#include <linux/delay.h>
#include <linux/device.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/kobject.h>
#include <linux/list.h>
#include <linux/mdev.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/vfio.h>
#include <linux/vmalloc.h>
#include <drm/drm_fourcc.h>
#if IS_ENABLED(CONFIG_KVM)
#include <linux/kvm_host.h>
#endif

#define PARENT_VENDOR	0x1af4
#define PARENT_DEVICE	0x1050

#define WIDTH		640
#define HEIGHT		480
#define STRIDE		(WIDTH * 4)
#define BAR_SIZE	SZ_2M
#define CONFIG_SIZE	256
#define EDID_BLOB	SZ_4K
#define OPREGION_SIZE	SZ_8K

/* kvmgt's EDID region */
#define GVT_EDID_BLOB	128
#define GVT_EDID_OFFSET	2048

/* The first index after those that every PCI device has. */
#define EXTRA_REGION	VFIO_PCI_NUM_REGIONS

/* A region's index is in the upper bits of its file offset. */
#define INDEX_SHIFT	40
#define INDEX_OFFSET(i)	((u64)(i) << INDEX_SHIFT)

enum {
	HAS_REGION	= BIT(0),
	HAS_DMABUF	= BIT(1),
	HAS_OPREGION	= BIT(2),
	IS_BEYOND	= BIT(3),
	SAYS_YES	= BIT(4),
	SAYS_ZERO	= BIT(5),
	OPEN_HANGS	= BIT(6),
	OPEN_FAILS	= BIT(7),
	QUERY_HANGS	= BIT(8),
	WANTS_KVM	= BIT(9),
	WANTS_UUID	= BIT(10),
	TYPE_TELLS	= BIT(11),
};

static bool release;
module_param(release, bool, 0644);
MODULE_PARM_DESC(release, "let go of those who sleep in a hang device");

struct sample_type {
	struct mdev_type type;
	const char *description;
	unsigned int has;
};

struct sample {
	struct vfio_device vdev;
	struct mutex lock;		/* config and EDID */
	unsigned int has;
	u8 config[CONFIG_SIZE];
	void *bar;
	struct vfio_region_gfx_edid edid;
	u8 edid_blob[EDID_BLOB];
	struct kvm *kvm;		/* of who has it open; only to be compared */
	struct list_head with_kvm;
};

/* The open devices that wanted a VM. */
static LIST_HEAD(with_kvm);
static DEFINE_MUTEX(with_kvm_lock);

static struct sample *to_sample(struct vfio_device *vdev)
{
	return container_of(vdev, struct sample, vdev);
}

/* Config space */

static void put16(struct sample *s, int at, u16 value)
{
	s->config[at] = value;
	s->config[at + 1] = value >> 8;
}

static void config_init(struct sample *s)
{
	bool intel = s->has & HAS_OPREGION;	/* QEMU looks for an OpRegion on Intel's VGA only */

	memset(s->config, 0, sizeof(s->config));
	put16(s, PCI_VENDOR_ID, intel ? PCI_VENDOR_ID_INTEL : 0x1234);
	put16(s, PCI_DEVICE_ID, intel ? 0x5916 : 0x6770);
	put16(s, PCI_CLASS_DEVICE, intel ? PCI_CLASS_DISPLAY_VGA : PCI_CLASS_DISPLAY_OTHER);
	put16(s, PCI_SUBSYSTEM_VENDOR_ID, 0x1234);
	put16(s, PCI_SUBSYSTEM_ID, 0x6770);
	s->config[PCI_REVISION_ID] = 1;
	s->config[PCI_BASE_ADDRESS_0] = PCI_BASE_ADDRESS_MEM_PREFETCH;
	s->config[PCI_INTERRUPT_PIN] = 1;
}

/* Only what a guest has to be able to write: command, BAR 0 (sizing, too), line. */
static void config_write(struct sample *s, int at, u8 value)
{
	switch (at) {
	case PCI_COMMAND:
		s->config[at] = value & (PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
		break;
	case PCI_COMMAND + 1:
		s->config[at] = value & (PCI_COMMAND_INTX_DISABLE >> 8);
		break;
	case PCI_BASE_ADDRESS_0 + 2:
		s->config[at] = value & ~((BAR_SIZE - 1) >> 16);
		break;
	case PCI_BASE_ADDRESS_0 + 3:
	case PCI_INTERRUPT_LINE:
		s->config[at] = value;
		break;
	}
}

/* Regions: BAR 0, config space and some beyond PCI's own; the others are empty. */

enum content { NOTHING, BAR, CONFIG, EDID, OPREGION };

static enum content content_of(struct sample *s, unsigned int index)
{
	switch (index) {
	case VFIO_PCI_BAR0_REGION_INDEX:
		return BAR;
	case VFIO_PCI_CONFIG_REGION_INDEX:
		return CONFIG;
	case EXTRA_REGION:
		if (s->has & HAS_OPREGION)
			return OPREGION;
		if (s->has & IS_BEYOND)
			return BAR;	/* the same memory, so that a guest can paint there */
		return s->has & HAS_DMABUF ? EDID : NOTHING;
	case EXTRA_REGION + 1:
		return s->has & HAS_OPREGION ? EDID : NOTHING;
	default:
		return NOTHING;
	}
}

/* As GET_INFO has it. */
static unsigned int num_regions(struct sample *s)
{
	return VFIO_PCI_NUM_REGIONS + !!(s->has & HAS_DMABUF) + !!(s->has & HAS_OPREGION);
}

/* Where the content ends. */
static u64 region_end(struct sample *s, enum content content)
{
	switch (content) {
	case BAR:
		return BAR_SIZE;
	case CONFIG:
		return CONFIG_SIZE;
	case EDID:
		return s->edid.edid_offset + s->edid.edid_max_size;
	case OPREGION:
		return OPREGION_SIZE;
	default:
		return 0;
	}
}

static int sample_region_info(struct vfio_device *vdev, struct vfio_region_info *info,
			      struct vfio_info_cap *caps)
{
	struct sample *s = to_sample(vdev);
	enum content content = content_of(s, info->index);
	struct vfio_region_info_cap_type type = {
		.header.id = VFIO_REGION_INFO_CAP_TYPE,
		.header.version = 1,
		.type = VFIO_REGION_TYPE_GFX,
		.subtype = VFIO_REGION_SUBTYPE_GFX_EDID,
	};

	if (info->index >= num_regions(s) + !!(s->has & IS_BEYOND))
		return -EINVAL;

	info->offset = INDEX_OFFSET(info->index);
	info->size = region_end(s, content);
	info->flags = 0;
	if (info->size)
		info->flags = VFIO_REGION_INFO_FLAG_READ | VFIO_REGION_INFO_FLAG_WRITE;

	switch (content) {
	case BAR:
		info->flags |= VFIO_REGION_INFO_FLAG_MMAP;
		return 0;
	case OPREGION:
		info->flags = VFIO_REGION_INFO_FLAG_READ;
		type.type = VFIO_REGION_TYPE_PCI_VENDOR_TYPE | PCI_VENDOR_ID_INTEL;
		type.subtype = VFIO_REGION_SUBTYPE_INTEL_IGD_OPREGION;
		break;
	case EDID:
		if (s->has & HAS_OPREGION)
			info->size = GVT_EDID_BLOB;	/* kvmgt gives that of the blob alone */
		break;
	default:
		return 0;
	}
	return vfio_info_add_capability(caps, &type.header, sizeof(type));
}

static void edid_init(struct sample *s)
{
	bool gvt = s->has & HAS_OPREGION;

	s->edid.edid_offset = gvt ? GVT_EDID_OFFSET : sizeof(s->edid);
	s->edid.edid_max_size = gvt ? GVT_EDID_BLOB : EDID_BLOB;
	s->edid.max_xres = 1920;
	s->edid.max_yres = gvt ? 1200 : 1080;
	s->edid.link_state = VFIO_DEVICE_GFX_LINK_STATE_DOWN;
}

static void edid_write(struct sample *s, size_t at, u8 value)
{
	struct vfio_region_gfx_edid *regs = &s->edid;
	size_t size = offsetof(struct vfio_region_gfx_edid, edid_size);
	size_t link = offsetof(struct vfio_region_gfx_edid, link_state);

	if (at >= regs->edid_offset)
		s->edid_blob[at - regs->edid_offset] = value;
	else if ((at >= size && at < size + 4) || (at >= link && at < link + 4))
		((u8 *)regs)[at] = value;
	regs->edid_size = min(regs->edid_size, regs->edid_max_size);
}

static u8 edid_read(struct sample *s, size_t at)
{
	if (at >= s->edid.edid_offset)
		return s->edid_blob[at - s->edid.edid_offset];
	return at < sizeof(s->edid) ? ((u8 *)&s->edid)[at] : 0;
}

/* An OpRegion without any mailbox: the header, and zeros. */
static u8 opregion_read(size_t at)
{
	static const struct {
		char signature[16];
		__le32 kib;
		__le32 version;
	} header = {
		.signature = { 'I', 'n', 't', 'e', 'l', 'G', 'r', 'a', 'p', 'h', 'i', 'c', 's', 'M', 'e', 'm' },
		.kib = cpu_to_le32(OPREGION_SIZE / SZ_1K),
		.version = cpu_to_le32(0x02000000),
	};

	return at < sizeof(header) ? ((const u8 *)&header)[at] : 0;
}

/* One byte of a region; the callers hold the lock and have looked at the bounds. */
static void access(struct sample *s, enum content content, size_t at, u8 *byte, bool write)
{
	u8 *bar = s->bar;

	switch (content) {
	case BAR:
		if (write)
			bar[at] = *byte;
		else
			*byte = bar[at];
		break;
	case CONFIG:
		if (write)
			config_write(s, at, *byte);
		else
			*byte = s->config[at];
		break;
	case EDID:
		if (write)
			edid_write(s, at, *byte);
		else
			*byte = edid_read(s, at);
		break;
	case OPREGION:
		*byte = opregion_read(at);
		break;
	case NOTHING:
		break;
	}
}

/* kvmgt's own: an OpRegion that is written to, EDID registers other than by four bytes */
static bool refused(struct sample *s, enum content content, u64 at, size_t count, bool write)
{
	if (content == OPREGION)
		return write;
	return content == EDID && s->has & HAS_OPREGION && at < s->edid.edid_offset &&
	       ((at | count) % 4 || at + count > sizeof(s->edid));
}

static ssize_t transfer(struct vfio_device *vdev, char __user *to, const char __user *from,
			size_t count, loff_t *ppos)
{
	struct sample *s = to_sample(vdev);
	enum content content = content_of(s, *ppos >> INDEX_SHIFT);
	u64 at = *ppos & (INDEX_OFFSET(1) - 1);
	u64 end = region_end(s, content);
	size_t done = 0, i, n;
	u8 chunk[64];

	if (at >= end)
		return end ? 0 : -EINVAL;
	count = min_t(u64, count, end - at);
	if (refused(s, content, at, count, from))
		return -EFAULT;

	while (done < count) {
		n = min(count - done, sizeof(chunk));
		if (from && copy_from_user(chunk, from + done, n))
			return -EFAULT;
		mutex_lock(&s->lock);
		for (i = 0; i < n; i++)
			access(s, content, at + done + i, &chunk[i], from);
		mutex_unlock(&s->lock);
		if (to && copy_to_user(to + done, chunk, n))
			return -EFAULT;
		done += n;
	}
	*ppos += done;
	return done;
}

static ssize_t sample_read(struct vfio_device *vdev, char __user *buf, size_t count, loff_t *ppos)
{
	return transfer(vdev, buf, NULL, count, ppos);
}

static ssize_t sample_write(struct vfio_device *vdev, const char __user *buf, size_t count,
			    loff_t *ppos)
{
	return transfer(vdev, NULL, buf, count, ppos);
}

static int sample_mmap(struct vfio_device *vdev, struct vm_area_struct *vma)
{
	struct sample *s = to_sample(vdev);
	unsigned long index = vma->vm_pgoff >> (INDEX_SHIFT - PAGE_SHIFT);
	unsigned long page = vma->vm_pgoff & ((1UL << (INDEX_SHIFT - PAGE_SHIFT)) - 1);

	if (content_of(s, index) != BAR || !(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	return remap_vmalloc_range(vma, s->bar, page);	/* looks at the bounds */
}

/* ioctls */

#define ARGSZ_TO(type, last)	offsetofend(struct type, last)

/* Who sleeps here is no hung task to the kernel, as the sleeps are short; no signal ends it. */
static void sleep_until_released(void)
{
	while (!READ_ONCE(release))
		msleep(100);
}

/* What a driver answers to an ioctl that it does not know. */
static int unknown_ioctl(struct sample *s)
{
	if (s->has & SAYS_ZERO)
		return 0;
	return s->has & IS_BEYOND ? -EINVAL : -ENOTTY;	/* NVIDIA's: EINVAL */
}

/* Whether these flags are answered with 0. */
static bool has_plane(struct sample *s, u32 flags)
{
	if (s->has & SAYS_YES)
		return flags & VFIO_GFX_PLANE_TYPE_PROBE || flags == VFIO_GFX_PLANE_TYPE_REGION;
	if (s->has & IS_BEYOND)
		return flags & VFIO_GFX_PLANE_TYPE_REGION;	/* the only bit NVIDIA's looks at */
	switch (flags & ~VFIO_GFX_PLANE_TYPE_PROBE) {
	case VFIO_GFX_PLANE_TYPE_REGION:
		return s->has & HAS_REGION;
	case VFIO_GFX_PLANE_TYPE_DMABUF:
		return s->has & HAS_DMABUF;
	default:
		return false;
	}
}

static int query_plane(struct sample *s, void __user *arg)
{
	size_t minsz = ARGSZ_TO(vfio_device_gfx_plane_info, region_index);
	struct vfio_device_gfx_plane_info plane;

	if (s->has & QUERY_HANGS)
		sleep_until_released();
	if (!(s->has & (HAS_REGION | HAS_DMABUF)))
		return unknown_ioctl(s);

	if (copy_from_user(&plane, arg, minsz))
		return -EFAULT;
	if (plane.argsz < minsz || !has_plane(s, plane.flags))
		return -EINVAL;
	if (plane.flags & VFIO_GFX_PLANE_TYPE_PROBE) {
		if (!(s->has & SAYS_YES))
			return 0;
		plane.flags = VFIO_GFX_PLANE_TYPE_REGION;	/* whatever it was */
		return copy_to_user(arg, &plane, minsz) ? -EFAULT : 0;
	}

	/* all zero: such a plane exists, and nothing is shown in it yet */
	memset((u8 *)&plane + offsetof(struct vfio_device_gfx_plane_info, drm_format), 0,
	       minsz - offsetof(struct vfio_device_gfx_plane_info, drm_format));
	if (plane.flags & VFIO_GFX_PLANE_TYPE_REGION) {
		plane.drm_format = DRM_FORMAT_XRGB8888;
		plane.width = WIDTH;
		plane.height = HEIGHT;
		plane.stride = STRIDE;
		plane.size = STRIDE * HEIGHT;
		plane.region_index = s->has & IS_BEYOND ? num_regions(s) :
							  VFIO_PCI_BAR0_REGION_INDEX;
	}
	return copy_to_user(arg, &plane, minsz) ? -EFAULT : 0;
}

static int device_info(struct sample *s, void __user *arg)
{
	size_t minsz = ARGSZ_TO(vfio_device_info, num_irqs);
	struct vfio_device_info info;

	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;
	info.flags = VFIO_DEVICE_FLAGS_PCI | VFIO_DEVICE_FLAGS_RESET;
	info.num_regions = num_regions(s);
	info.num_irqs = VFIO_PCI_NUM_IRQS;
	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

static u32 lines_of(unsigned int index)
{
	return index == VFIO_PCI_INTX_IRQ_INDEX;
}

/* As in vfio-pci, error interrupts are for PCI Express. */
static bool bad_irq(unsigned int index)
{
	return index >= VFIO_PCI_NUM_IRQS || index == VFIO_PCI_ERR_IRQ_INDEX;
}

static int irq_info(void __user *arg)
{
	size_t minsz = ARGSZ_TO(vfio_irq_info, count);
	struct vfio_irq_info info;

	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz || bad_irq(info.index))
		return -EINVAL;
	info.count = lines_of(info.index);
	info.flags = 0;
	if (info.count)
		info.flags = VFIO_IRQ_INFO_EVENTFD | VFIO_IRQ_INFO_MASKABLE |
			     VFIO_IRQ_INFO_AUTOMASKED;
	return copy_to_user(arg, &info, minsz) ? -EFAULT : 0;
}

/* The line is never raised, so there is nothing to remember. */
static int set_irqs(void __user *arg)
{
	size_t minsz = ARGSZ_TO(vfio_irq_set, count), size;
	struct vfio_irq_set set;

	if (copy_from_user(&set, arg, minsz))
		return -EFAULT;
	if (set.argsz < minsz || bad_irq(set.index))
		return -EINVAL;
	return vfio_set_irqs_validate_and_prepare(&set, lines_of(set.index), VFIO_PCI_NUM_IRQS,
						  &size);
}

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 19, 0)
/* Newer kernels do this part of VFIO_DEVICE_GET_REGION_INFO themselves. */
static int region_info(struct sample *s, void __user *arg)
{
	size_t minsz = ARGSZ_TO(vfio_region_info, offset);
	struct vfio_info_cap caps = {};
	struct vfio_region_info info;
	int ret;

	if (copy_from_user(&info, arg, minsz))
		return -EFAULT;
	if (info.argsz < minsz)
		return -EINVAL;
	info.cap_offset = 0;
	ret = sample_region_info(&s->vdev, &info, &caps);
	if (ret)
		return ret;

	if (caps.size) {
		info.flags |= VFIO_REGION_INFO_FLAG_CAPS;
		if (info.argsz < sizeof(info) + caps.size) {
			info.argsz = sizeof(info) + caps.size;
		} else {
			vfio_info_cap_shift(&caps, sizeof(info));
			info.cap_offset = sizeof(info);
			if (copy_to_user(arg + sizeof(info), caps.buf, caps.size))
				ret = -EFAULT;
		}
		kfree(caps.buf);
	}
	if (!ret && copy_to_user(arg, &info, minsz))
		ret = -EFAULT;
	return ret;
}
#endif

static long sample_ioctl(struct vfio_device *vdev, unsigned int cmd, unsigned long arg)
{
	struct sample *s = to_sample(vdev);
	void __user *user = (void __user *)arg;

	switch (cmd) {
	case VFIO_DEVICE_GET_INFO:
		return device_info(s, user);
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 19, 0)
	case VFIO_DEVICE_GET_REGION_INFO:
		return region_info(s, user);
#endif
	case VFIO_DEVICE_GET_IRQ_INFO:
		return irq_info(user);
	case VFIO_DEVICE_SET_IRQS:
		return set_irqs(user);
	case VFIO_DEVICE_RESET:
		mutex_lock(&s->lock);
		config_init(s);
		mutex_unlock(&s->lock);
		return 0;
	case VFIO_DEVICE_QUERY_GFX_PLANE:
		return query_plane(s, user);
	case VFIO_DEVICE_GET_GFX_DMABUF:	/* no plane ever had an id */
		return s->has & (HAS_DMABUF | SAYS_YES) ? -EINVAL : unknown_ioctl(s);
	default:
		return unknown_ioctl(s);
	}
}

/* The life of a device */

static void paint(u32 *pixels)
{
	static const u32 bars[] = {
		0xffffff, 0xffff00, 0x00ffff, 0x00ff00, 0xff00ff, 0xff0000, 0x0000ff, 0x202020,
	};
	unsigned int i;

	for (i = 0; i < WIDTH * HEIGHT; i++)
		pixels[i] = bars[i % WIDTH * ARRAY_SIZE(bars) / WIDTH];
}

static int sample_init(struct vfio_device *vdev)
{
	struct sample *s = to_sample(vdev);
	struct mdev_device *mdev = to_mdev_device(vdev->dev);

	s->has = container_of(mdev->type, struct sample_type, type)->has;
	mutex_init(&s->lock);
	config_init(s);
	edid_init(s);
	s->bar = vmalloc_user(BAR_SIZE);
	if (!s->bar)
		return -ENOMEM;
	paint(s->bar);
	return 0;
}

static void sample_release(struct vfio_device *vdev)
{
	vfree(to_sample(vdev)->bar);
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 2, 0)
	vfio_free_device(vdev);
#endif
}

/* A kernel without KVM, as User Mode Linux is, has no VM to associate. */
static bool is_callers(struct kvm *kvm)
{
#if IS_ENABLED(CONFIG_KVM)
	return kvm && kvm->mm == current->mm;
#else
	return false;
#endif
}

/* The errors of intel_vgpu_open_device, in its order. */
static int take_kvm(struct sample *s)
{
	struct kvm *kvm = s->vdev.kvm;
	struct sample *other;
	int ret = 0;

	mutex_lock(&with_kvm_lock);
	list_for_each_entry(other, &with_kvm, with_kvm) {
		if (other->kvm == kvm)
			ret = -EEXIST;
	}
	if (!ret && !is_callers(kvm))
		ret = -ESRCH;
	if (!ret) {
		s->kvm = kvm;
		list_add(&s->with_kvm, &with_kvm);
	}
	mutex_unlock(&with_kvm_lock);
	return ret;
}

static void give_kvm(struct sample *s)
{
	mutex_lock(&with_kvm_lock);
	list_del(&s->with_kvm);
	mutex_unlock(&with_kvm_lock);
}

/* Whether "-uuid" is an argument of the caller, as /proc/PID/cmdline shows them. */
static bool has_uuid_argument(void)
{
	const char *word, wanted[] = "-uuid";
	unsigned long start = current->mm->arg_start;
	size_t size = min(current->mm->arg_end - start, 128UL * SZ_1K);
	bool found = false;
	char *line;

	line = kvzalloc(size + 1, GFP_KERNEL);
	if (!line)
		return false;
	if (!copy_from_user(line, (void __user *)start, size)) {
		for (word = line; word < line + size && !found; word += strlen(word) + 1)
			found = !strcmp(word, wanted);
	}
	kvfree(line);
	return found;
}

static int sample_open(struct vfio_device *vdev)
{
	struct sample *s = to_sample(vdev);

	if (s->has & OPEN_HANGS)
		sleep_until_released();
	if (s->has & OPEN_FAILS)
		return -EIO;
	if (s->has & WANTS_UUID && !has_uuid_argument())
		return -EIO;
	return s->has & WANTS_KVM ? take_kvm(s) : 0;
}

static void sample_close(struct vfio_device *vdev)
{
	struct sample *s = to_sample(vdev);

	if (s->has & WANTS_KVM)
		give_kvm(s);
}

static const struct vfio_device_ops sample_ops = {
	.name = "gfxplane-samples",
	.init = sample_init,
	.release = sample_release,
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	.bind_iommufd = vfio_iommufd_emulated_bind,
	.unbind_iommufd = vfio_iommufd_emulated_unbind,
	.attach_ioas = vfio_iommufd_emulated_attach_ioas,
#endif
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
	.detach_ioas = vfio_iommufd_emulated_detach_ioas,
#endif
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0)
	.get_region_info_caps = sample_region_info,
#endif
	.open_device = sample_open,
	.close_device = sample_close,
	.read = sample_read,
	.write = sample_write,
	.mmap = sample_mmap,
	.ioctl = sample_ioctl,
};

static int sample_probe(struct mdev_device *mdev)
{
	struct sample *s;
	int ret;

	s = vfio_alloc_device(sample, vdev, &mdev->dev, &sample_ops);
	if (IS_ERR(s))
		return PTR_ERR(s);
	ret = vfio_register_emulated_iommu_dev(&s->vdev);
	if (ret) {
		vfio_put_device(&s->vdev);
		return ret;
	}
	dev_set_drvdata(&mdev->dev, s);
	return 0;
}

static void sample_remove(struct mdev_device *mdev)
{
	struct sample *s = dev_get_drvdata(&mdev->dev);

	vfio_unregister_group_dev(&s->vdev);
	vfio_put_device(&s->vdev);
}

static ssize_t sample_description(struct mdev_type *type, char *buf)
{
	return sysfs_emit(buf, "%s\n", container_of(type, struct sample_type, type)->description);
}

static struct mdev_driver sample_driver = {
	.device_api = VFIO_DEVICE_API_PCI_STRING,
	.max_instances = 64,
	.driver = {
		.name = "gfxplane_samples",
		.owner = THIS_MODULE,
		.mod_name = KBUILD_MODNAME,
	},
	.probe = sample_probe,
	.remove = sample_remove,
	.show_description = sample_description,
};

#define TYPE(id, flags, text) {				\
	.type = { .sysfs_name = id, .pretty_name = "gfxplane sample " id }, \
	.has = flags,					\
	.description = text,				\
}

static struct sample_type sample_types[] = {
	TYPE("region", HAS_REGION, "display: region, 640x480"),
	TYPE("dmabuf", HAS_DMABUF, "display: dmabuf, EDID up to 1920x1080"),
	TYPE("both", HAS_REGION | HAS_DMABUF, "display: region and dmabuf"),
	TYPE("none", 0, "display: none"),
	TYPE("hang", OPEN_HANGS, "hangs in open"),
	TYPE("hang-ioctl", HAS_REGION | QUERY_HANGS, "hangs in the plane query"),
	TYPE("eio", OPEN_FAILS, "open fails: EIO"),
	TYPE("mail", HAS_REGION | TYPE_TELLS, "display: region, and the type tells"),
	TYPE("kvm", HAS_DMABUF | WANTS_KVM, "display: dmabuf; wants a KVM VM, like GVT-g"),
	TYPE("opregion", HAS_DMABUF | HAS_OPREGION, "display: dmabuf; OpRegion, like GVT-g"),
	TYPE("zero", SAYS_ZERO, "answers 0 to unknown ioctls, like GVT-g before 4.16"),
	TYPE("beyond", HAS_REGION | IS_BEYOND, "display: region num_regions, like NVIDIA"),
	TYPE("uuid", HAS_REGION | IS_BEYOND | WANTS_UUID, "the same; wants -uuid, like NVIDIA"),
	TYPE("yes", HAS_REGION | SAYS_YES, "answers yes to every probe, like KubeVirt's fake"),
};

static struct mdev_type *mdev_types[ARRAY_SIZE(sample_types)];
static struct mdev_parent parent;
static struct pci_dev *parent_dev;

/*
 * What the mail of 2018 would have a type tell. Since 6.1 mdev lets no driver add to a type's
 * attributes, so the directories are made below the type's own by hand.
 */

static ssize_t dmabuf_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "N\n");
}

static ssize_t region_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "Y\n");
}

static struct kobj_attribute dmabuf_attr = __ATTR_RO(dmabuf);
static struct kobj_attribute region_attr = __ATTR_RO(region);
static struct attribute *gfx_plane_attrs[] = { &dmabuf_attr.attr, &region_attr.attr, NULL };
static const struct attribute_group gfx_plane = { .name = "gfx_plane", .attrs = gfx_plane_attrs };

static struct kobject *told[2];		/* TYPE/vfio-pci, TYPE/vfio-pci/device */

static int tell(struct mdev_type *type)
{
	told[0] = kobject_create_and_add("vfio-pci", &type->kobj);
	if (!told[0])
		return -ENOMEM;
	told[1] = kobject_create_and_add("device", told[0]);
	if (!told[1])
		return -ENOMEM;
	return sysfs_create_group(told[1], &gfx_plane);
}

static void untell(void)
{
	kobject_put(told[1]);
	kobject_put(told[0]);
}

static int __init samples_init(void)
{
	unsigned int i;
	int ret;

	parent_dev = pci_get_device(PARENT_VENDOR, PARENT_DEVICE, NULL);
	if (!parent_dev) {
		pr_err("no virtio GPU (%04x:%04x) to hang on\n", PARENT_VENDOR, PARENT_DEVICE);
		return -ENODEV;
	}

	for (i = 0; i < ARRAY_SIZE(sample_types); i++)
		mdev_types[i] = &sample_types[i].type;

	ret = mdev_register_driver(&sample_driver);
	if (ret)
		goto put;
	ret = mdev_register_parent(&parent, &parent_dev->dev, &sample_driver, mdev_types,
				   ARRAY_SIZE(mdev_types));
	if (ret)
		goto unregister;
	for (i = 0; i < ARRAY_SIZE(sample_types); i++) {
		if (sample_types[i].has & TYPE_TELLS)
			ret = tell(&sample_types[i].type);
	}
	if (ret)
		goto untell;
	return 0;

untell:
	untell();
	mdev_unregister_parent(&parent);
unregister:
	mdev_unregister_driver(&sample_driver);
put:
	pci_dev_put(parent_dev);
	return ret;
}

static void __exit samples_exit(void)
{
	untell();
	mdev_unregister_parent(&parent);
	mdev_unregister_driver(&sample_driver);
	pci_dev_put(parent_dev);
}

module_init(samples_init);
module_exit(samples_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("mediated devices with the displays that gfxplane tells apart");
