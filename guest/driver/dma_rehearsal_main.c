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

#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/string.h>
#include <asm/memtype.h>

#include "dma_rehearsal.h"

static char *carveouts = "";
module_param(carveouts, charp, 0444);
MODULE_PARM_DESC(carveouts,
		 "name:start:size[,...]: page-aligned ranges that the firmware map reserves (memmap=size$start)");

bool dr_fault_wrong_cache;
bool dr_fault_wrong_entry;
bool dr_fault_pin_does_not_pin;
bool dr_fault_pin_never_ends;
bool dr_fault_aliases;
bool dr_fault_close_stops_nothing;
bool dr_fault_dead_pins_end;

static const struct {
	const char *name;
	bool *on;
	const char *does;
} dr_faults[] = {
	{ "wrong_cache", &dr_fault_wrong_cache, "no cache mode is what was asked for" },
	{ "wrong_entry", &dr_fault_wrong_entry, "entries are told with another cache mode" },
	{ "pin_does_not_pin", &dr_fault_pin_does_not_pin, "pinned pages move" },
	{ "pin_never_ends", &dr_fault_pin_never_ends, "pages stay pinned after the last close" },
	{ "close_stops_nothing", &dr_fault_close_stops_nothing,
	  "the last close leaves a function as it is" },
	{ "dead_pins_end", &dr_fault_dead_pins_end,
	  "a dead process's pins end though its device may still do DMA" },
	{ "aliases", &dr_fault_aliases, "a second mapping gets the cache mode that it asks for" },
};

/* One fault at a time, here and in sysfs; an empty name is none. */
static int dr_fault_set(const char *value, const struct kernel_param *param)
{
	unsigned int i, found = ARRAY_SIZE(dr_faults);

	for (i = 0; i < ARRAY_SIZE(dr_faults); i++)
		if (sysfs_streq(value, dr_faults[i].name))
			found = i;
	if (found == ARRAY_SIZE(dr_faults) && !sysfs_streq(value, "")) {
		for (i = 0; i < ARRAY_SIZE(dr_faults); i++)
			pr_err("fault=%s is unknown; there is %s: %s\n", value, dr_faults[i].name,
			       dr_faults[i].does);
		return -EINVAL;
	}
	for (i = 0; i < ARRAY_SIZE(dr_faults); i++)
		WRITE_ONCE(*dr_faults[i].on, i == found);
	if (found < ARRAY_SIZE(dr_faults))
		pr_warn("fault %s is on: %s\n", dr_faults[found].name, dr_faults[found].does);
	return 0;
}

static int dr_fault_get(char *buffer, const struct kernel_param *param)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(dr_faults); i++)
		if (READ_ONCE(*dr_faults[i].on))
			return sysfs_emit(buffer, "%s\n", dr_faults[i].name);
	return sysfs_emit(buffer, "\n");
}

static const struct kernel_param_ops dr_fault_ops = {
	.set = dr_fault_set,
	.get = dr_fault_get,
};

module_param_cb(fault, &dr_fault_ops, NULL, 0600);
MODULE_PARM_DESC(fault, "break one promise on purpose, to test the checks; a wrong name lists them");

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
