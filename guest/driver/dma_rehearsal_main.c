// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMA rehearsal: carve-outs of physical memory that user space maps with a
 * stated cache mode, and the PCI functions that do DMA to them.
 *
 * User space sees UIO devices for discovery, /dev/dma-rehearsal for mappings and
 * questions, and /dev/dma-rehearsal-pciN for interrupts and bus mastering. User space
 * also does the allocation.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/module.h>
#include <asm/memtype.h>

#include "dma_rehearsal.h"

static char *carveouts = "";
module_param(carveouts, charp, 0444);
MODULE_PARM_DESC(carveouts,
		 "name:start:size[,...]: page-aligned ranges that the firmware map reserves (memmap=size$start)");

static int __init dr_init(void)
{
	int ret;

	/* Without PAT the kernel keeps no record of cache modes, and conflicts pass. */
	if (*carveouts && !pat_enabled()) {
		pr_err("carveouts: the page attribute table is off; boot without nopat\n");
		return -EOPNOTSUPP;
	}
	ret = dr_zones_init(carveouts);
	if (ret)
		return ret;
	ret = dr_misc_init();
	if (ret)
		goto err_zones;
	ret = dr_zones_register_uio(dr_misc_device());
	if (ret)
		goto err_misc;
	ret = dr_pci_init();
	if (ret)
		goto err_uio;
	return 0;

err_uio:
	dr_zones_unregister_uio();
err_misc:
	dr_misc_exit();
err_zones:
	dr_zones_exit();
	return ret;
}

static void __exit dr_exit(void)
{
	dr_pci_exit();
	dr_zones_unregister_uio();
	dr_misc_exit();
	dr_zones_exit();
}

module_init(dr_init);
module_exit(dr_exit);

MODULE_DESCRIPTION("Carve-outs with stated cache modes, and the exerciser's PCI function");
MODULE_LICENSE("GPL");
