// SPDX-License-Identifier: GPL-2.0-only
/*
 * The fault parameter: each fault breaks one promise of the module on purpose, so that
 * the tests can show that their checks fire.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "dma_rehearsal.h"

static const struct {
	const char *name;
	const char *does;
} dr_faults[] = {
	[DR_FAULT_NONE] = { "", "" },
	[DR_FAULT_WRONG_CACHE] = { "wrong_cache", "no mapping has the cache mode asked for" },
	[DR_FAULT_WRONG_ENTRY] = { "wrong_entry",
				   "page-table entries are reported with another cache mode" },
	[DR_FAULT_PIN_DOES_NOT_PIN] = { "pin_does_not_pin", "pinned pages move" },
	[DR_FAULT_PIN_NEVER_ENDS] = { "pin_never_ends",
				      "pages stay pinned after the last close" },
	[DR_FAULT_CLOSE_STOPS_NOTHING] = { "close_stops_nothing",
					   "the last close leaves a function as it is" },
	[DR_FAULT_DEAD_PINS_END] = { "dead_pins_end",
				     "pins of a dead process end while its device may do DMA" },
	[DR_FAULT_ALIASES] = { "aliases",
			       "a second mapping gets the cache mode that it asks for" },
};

static enum dr_fault dr_active_fault;

bool dr_fault(enum dr_fault fault)
{
	return READ_ONCE(dr_active_fault) == fault;
}

static int dr_fault_set(const char *value, const struct kernel_param *param)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(dr_faults); i++) {
		if (!sysfs_streq(value, dr_faults[i].name))
			continue;
		WRITE_ONCE(dr_active_fault, i);
		if (i != DR_FAULT_NONE)
			pr_warn("fault %s is on: %s\n", dr_faults[i].name, dr_faults[i].does);
		return 0;
	}
	for (i = DR_FAULT_NONE + 1; i < ARRAY_SIZE(dr_faults); i++)
		pr_err("fault=%s is unknown; a known one is %s: %s\n", value, dr_faults[i].name,
		       dr_faults[i].does);
	return -EINVAL;
}

static int dr_fault_get(char *buffer, const struct kernel_param *param)
{
	return sysfs_emit(buffer, "%s\n", dr_faults[READ_ONCE(dr_active_fault)].name);
}

static const struct kernel_param_ops dr_fault_ops = {
	.set = dr_fault_set,
	.get = dr_fault_get,
};

module_param_cb(fault, &dr_fault_ops, NULL, 0600);
MODULE_PARM_DESC(fault, "break one promise on purpose, to test the checks; an unknown name lists the faults, an empty one clears it");
