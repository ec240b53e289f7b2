// SPDX-License-Identifier: GPL-2.0-only
/*
 * The module's parameters. All can be written at any time. They are taken when a driver
 * is bound, except fail_nth, which counts from when it is written.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kernel.h>
#include <linux/moduleparam.h>
#include <linux/pci.h>
#include <linux/spinlock.h>
#include <linux/string.h>

#include "dro.h"

static char function[1024];
module_param_string(function, function, sizeof(function), 0644);
MODULE_PARM_DESC(function, "addresses of the PCI functions whose drivers are rehearsed, as 0000:00:03.0,0000:00:03.1");

static bool grants = true;
module_param(grants, bool, 0644);
MODULE_PARM_DESC(grants, "grant the device exactly what the driver has mapped");

static bool cache;
module_param(cache, bool, 0644);
MODULE_PARM_DESC(cache, "drive the cache model, which must be on");

static uint device_bits;
module_param(device_bits, uint, 0644);
MODULE_PARM_DESC(device_bits, "address bits that the device drives (0: all)");

static uint line = 64;
module_param(line, uint, 0644);
MODULE_PARM_DESC(line, "bytes of a cache line");

static bool merge;
module_param(merge, bool, 0644);
MODULE_PARM_DESC(merge, "map a scatter list with fewer segments than it has entries");

static bool bounce;
module_param(bounce, bool, 0644);
MODULE_PARM_DESC(bounce, "give the device a copy of every streaming mapping");

static bool hostile;
module_param(hostile, bool, 0644);
MODULE_PARM_DESC(hostile, "as bounce, at places that careless drivers cannot bear");

static DEFINE_SPINLOCK(count_lock);
static uint fail_in;	/* this many calls from now on; 0: never */
static uint calls;
static uint failed;

static int fail_nth_set(const char *text, const struct kernel_param *param)
{
	unsigned long flags;
	uint value;
	int ret = kstrtouint(text, 0, &value);

	if (ret)
		return ret;
	spin_lock_irqsave(&count_lock, flags);
	fail_in = value;
	spin_unlock_irqrestore(&count_lock, flags);
	return 0;
}

static const struct kernel_param_ops fail_nth_ops = {
	.set = fail_nth_set,
	.get = param_get_uint,
};

module_param_cb(fail_nth, &fail_nth_ops, &fail_in, 0644);
MODULE_PARM_DESC(fail_nth, "the Nth mapping or allocation from now on fails (0: none)");
module_param(calls, uint, 0444);
MODULE_PARM_DESC(calls, "mappings and allocations since the first bind of the functions");
module_param(failed, uint, 0444);
MODULE_PARM_DESC(failed, "those of them that fail_nth made fail");

void dro_settings_take(struct dro_settings *settings)
{
	*settings = (struct dro_settings){
		.grants = grants,
		.cache = cache,
		.merge = merge,
		.bounce = bounce || hostile,
		.hostile = hostile,
		.device_bits = device_bits && device_bits < 64 ? device_bits : 64,
		/* A power of two, so that lines can be counted. */
		.line = line >= 16 && line <= 4096 && !(line & (line - 1)) ? line : 64,
	};
}

/* The last name has a line feed at its end when a shell wrote the list. */
bool dro_function_chosen(const struct pci_dev *pdev)
{
	const char *name = pci_name(pdev), *each = function;
	size_t length = strlen(name);

	while (*each) {
		size_t found = strcspn(each, ",\n");

		if (found == length && !strncmp(each, name, length))
			return true;
		each += found;
		each += strspn(each, ",\n");
	}
	return false;
}

void dro_calls_reset(void)
{
	unsigned long flags;

	spin_lock_irqsave(&count_lock, flags);
	calls = 0;
	failed = 0;
	spin_unlock_irqrestore(&count_lock, flags);
}

/* Count a call that can fail, and return whether this one has to. */
bool dro_fails_now(void)
{
	unsigned long flags;
	bool fails;

	spin_lock_irqsave(&count_lock, flags);
	calls++;
	fails = fail_in && !--fail_in;
	if (fails)
		failed++;
	spin_unlock_irqrestore(&count_lock, flags);
	return fails;
}
