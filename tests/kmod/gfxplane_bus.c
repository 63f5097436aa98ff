// SPDX-License-Identifier: GPL-2.0-only
/*
 * A PCI bus with two devices, for a kernel that has none: User Mode Linux.
 *
 * The bus is a host bridge whose config space is memory. Its devices have no BARs.
 *
 * 0000:01:03.0 has the ids of a virtio GPU. gfxplane_samples hangs its devices on it. A driver in
 * this module takes the device. That driver is named virtio-pci, so the type ids of
 * gfxplane_samples are the same here as on a machine with a real virtio GPU. The driver registers
 * a render node, which has the GPU as its parent: /dev/dri/by-path/pci-0000:01:03.0-render. Mesa
 * renders for such a node in software.
 *
 * 0000:01:04.0 is a network card by its class, and no driver's. vfio-pci takes it in its mode
 * without an IOMMU, so nobody can start a guest with it.
 */

#include <linux/errno.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/string.h>
#include <linux/unaligned.h>
#include <drm/drm_drv.h>
#include <drm/drm_file.h>
#include <drm/drm_gem.h>
#include <drm/drm_ioctl.h>

#define BUS		1
#define GPU_SLOT	3
#define CARD_SLOT	4
#define CONFIG_SIZE	256

static u8 gpu[CONFIG_SIZE], card[CONFIG_SIZE];
static struct pci_bus *bus;

/* The config space of a device, or NULL if there is no such device or no such place in it. */
static u8 *config_of(struct pci_bus *of, unsigned int devfn, int where, int size)
{
	if (of->number != BUS || where + size > CONFIG_SIZE)
		return NULL;
	switch (devfn) {
	case PCI_DEVFN(GPU_SLOT, 0):
		return gpu;
	case PCI_DEVFN(CARD_SLOT, 0):
		return card;
	default:
		return NULL;
	}
}

static int config_read(struct pci_bus *of, unsigned int devfn, int where, int size, u32 *value)
{
	u8 *config = config_of(of, devfn, where, size);

	if (!config) {
		PCI_SET_ERROR_RESPONSE(value);
		return PCIBIOS_DEVICE_NOT_FOUND;
	}
	*value = 0;
	memcpy(value, config + where, size);
	return PCIBIOS_SUCCESSFUL;
}

/* The command register and the interrupt line keep what is written; all else is read only. */
static int config_write(struct pci_bus *of, unsigned int devfn, int where, int size, u32 value)
{
	u8 *config = config_of(of, devfn, where, size);

	if (!config)
		return PCIBIOS_DEVICE_NOT_FOUND;
	if (where == PCI_COMMAND)
		put_unaligned_le16(value, config + PCI_COMMAND);
	else if (where == PCI_INTERRUPT_LINE)
		config[PCI_INTERRUPT_LINE] = value;
	return PCIBIOS_SUCCESSFUL;
}

static struct pci_ops config_ops = {
	.read = config_read,
	.write = config_write,
};

/* The render node */

DEFINE_DRM_GEM_FOPS(gpu_fops);

static const struct drm_driver gpu_drm = {
	.driver_features = DRIVER_GEM | DRIVER_RENDER,
	.fops = &gpu_fops,
	.name = "gfxplane",
	.desc = "a GPU without anything behind it",
	.major = 1,
};

static int gpu_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct drm_device *drm = drm_dev_alloc(&gpu_drm, &pdev->dev);
	int ret;

	if (IS_ERR(drm))
		return PTR_ERR(drm);
	pci_set_drvdata(pdev, drm);
	ret = drm_dev_register(drm, 0);
	if (ret)
		drm_dev_put(drm);
	return ret;
}

static void gpu_remove(struct pci_dev *pdev)
{
	struct drm_device *drm = pci_get_drvdata(pdev);

	drm_dev_unregister(drm);
	drm_dev_put(drm);
}

static const struct pci_device_id gpu_ids[] = {
	{ PCI_DEVICE(PCI_VENDOR_ID_REDHAT_QUMRANET, 0x1050) },
	{ }
};

static struct pci_driver gpu_driver = {
	.name = "virtio-pci",
	.id_table = gpu_ids,
	.probe = gpu_probe,
	.remove = gpu_remove,
};

static void __init describe(u8 *config, u16 device, u16 class)
{
	put_unaligned_le16(PCI_VENDOR_ID_REDHAT_QUMRANET, config + PCI_VENDOR_ID);
	put_unaligned_le16(device, config + PCI_DEVICE_ID);
	put_unaligned_le16(class, config + PCI_CLASS_DEVICE);
	put_unaligned_le16(PCI_VENDOR_ID_REDHAT_QUMRANET, config + PCI_SUBSYSTEM_VENDOR_ID);
	put_unaligned_le16(0x1100, config + PCI_SUBSYSTEM_ID);
}

static int __init bus_init(void)
{
	LIST_HEAD(windows);
	int ret;

	describe(gpu, 0x1050, PCI_CLASS_DISPLAY_OTHER);
	describe(card, 0x1041, PCI_CLASS_NETWORK_ETHERNET);

	ret = pci_register_driver(&gpu_driver);
	if (ret)
		return ret;
	bus = pci_scan_root_bus(NULL, BUS, &config_ops, NULL, &windows);
	if (!bus) {
		pci_unregister_driver(&gpu_driver);
		return -ENOMEM;
	}
	pci_bus_add_devices(bus);
	return 0;
}

static void __exit bus_exit(void)
{
	pci_lock_rescan_remove();
	pci_stop_root_bus(bus);
	pci_remove_root_bus(bus);
	pci_unlock_rescan_remove();
	pci_unregister_driver(&gpu_driver);
}

module_init(bus_init);
module_exit(bus_exit);

MODULE_LICENSE("GPL");
MODULE_DESCRIPTION("a PCI bus that is made of memory, with a GPU and a network card");
