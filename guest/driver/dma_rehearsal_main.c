// SPDX-License-Identifier: GPL-2.0
/*
 * DMA rehearsal: carve-outs of physical memory that user space maps with a
 * stated cache mode, and the PCI functions that do DMA to them.
 *
 * Three faces: UIO devices for discovery, /dev/dma-rehearsal for mappings and
 * questions, /dev/dma-rehearsal-pciN for interrupts and bus mastering.
 * Allocation is user space's work.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>
#include <linux/string.h>
#include <asm/memtype.h>

#include "dma_rehearsal.h"

static char *carveouts = "";
module_param(carveouts, charp, 0444);
MODULE_PARM_DESC(carveouts,
		 "name:start:size[,...]: page-aligned ranges that the firmware map reserves (memmap=size$start)");

static char *fault = "";
module_param(fault, charp, 0444);
MODULE_PARM_DESC(fault,
		 "wrong_cache: map another cache mode than asked for, without noticing (to test the checks)");

bool dr_fault_wrong_cache;

static int __init dr_init(void)
{
	int ret;

	if (!strcmp(fault, "wrong_cache")) {
		dr_fault_wrong_cache = true;
		pr_warn("fault wrong_cache is on: no cache mode is what was asked for\n");
	} else if (*fault) {
		pr_err("fault=%s: unknown; wrong_cache is the only one\n", fault);
		return -EINVAL;
	}

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
