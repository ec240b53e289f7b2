// SPDX-License-Identifier: GPL-2.0-only
/*
 * A function's way into the rehearsal and out of it. At a bind, after the bus has set up
 * DMA and before the driver's probe, the function gets operations of its own. After an
 * unbind it keeps them, so that a driver's late calls are reported; it loses them when
 * the module goes, or when it is bound again and is not chosen any more.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>

#include "dro.h"

static LIST_HEAD(hooks);
static DEFINE_MUTEX(hooks_lock);

static struct dro_hook *find(const struct device *dev)
{
	struct dro_hook *each;

	list_for_each_entry(each, &hooks, list)
		if (each->dev == dev)
			return each;
	return NULL;
}

static void shadow_release(struct device *shadow)
{
	kfree(shadow);
}

static struct dro_hook *new_hook(struct device *dev)
{
	struct dro_hook *hook = kzalloc(sizeof(*hook), GFP_KERNEL);
	struct device *shadow = kzalloc(sizeof(*shadow), GFP_KERNEL);

	if (!hook || !shadow || dev_set_name(shadow, "rehearsed-%s", dev_name(dev))) {
		kfree(hook);
		kfree(shadow);
		return NULL;
	}
	device_initialize(shadow);
	shadow->release = shadow_release;
	shadow->dma_mask = &hook->shadow_mask;
	set_dev_node(shadow, dev_to_node(dev));
	hook->dev = dev;
	hook->requester_id = pci_dev_id(to_pci_dev(dev));
	hook->shadow = shadow;
	hook->ops = dro_operations;
	raw_spin_lock_init(&hook->lock);
	hook->by_bus = RB_ROOT_CACHED;
	hook->by_own = RB_ROOT_CACHED;
	INIT_LIST_HEAD(&hook->made);
	return hook;
}

/* The shadow's calls go where the device's own would: nowhere special, or to an IOMMU. */
static void divert(struct dro_hook *hook)
{
	struct device *dev = hook->dev, *shadow = hook->shadow;

	hook->before = dev->dma_ops;
	hook->iommu = dro_iommu(dev);
	set_dma_ops(shadow, hook->before);
	dro_set_iommu(shadow, hook->iommu);
	dro_set_iommu(dev, false);
#ifdef CONFIG_IOMMU_API
	shadow->iommu_group = dev->iommu_group;
	shadow->iommu = dev->iommu;
	/* Without a translation its addresses are physical ones. */
	hook->domain = hook->before || hook->iommu ? iommu_get_domain_for_dev(dev) : NULL;
#endif
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 1, 0)
	hook->ops.opt_mapping_size = hook->before ? hook->before->opt_mapping_size : NULL;
#endif
	set_dma_ops(dev, &hook->ops);
}

/* What is mapped still, nobody will unmap: let it go. A free may come, but too late. */
static void drop_mapping(struct dro_hook *hook, struct dro_mapping *mapping)
{
	const struct dro_where where = { .call = DR_CALL_UNBIND };
	u32 call = mapping->where.call;
	struct dro_batch batch;

	mapping->leaked = true;
	if (call == DR_CALL_ALLOC_COHERENT || call == DR_CALL_ALLOC_PAGES) {
		/* A process may have it mapped; so the memory stays, as it would without us. */
		dro_batch_begin(&batch, &where);
		dro_put_unmap(&batch, mapping, false);
		dro_batch_finish(hook, &batch);
	} else {
		/* The driver has freed the memory, perhaps: nothing may be copied into it. */
		dro_unmap(hook, &where, &mapping, 1, DMA_ATTR_SKIP_CPU_SYNC);
	}
	dro_mapping_put(mapping);
}

static void drop_mappings(struct dro_hook *hook, bool report)
{
	struct dro_mapping *mapping;

	while ((mapping = dro_mapping_first(hook))) {
		if (report)
			dro_report(hook, &mapping->where, DR_REPORT_NEVER_UNMAPPED,
				   &(struct dro_about){
					.tag = mapping->tag,
					.address = mapping->dma,
					.length = mapping->size,
					.direction = dro_direction(mapping->dir),
				   });
		drop_mapping(hook, mapping);
		cond_resched();
	}
}

static bool none_bound(void)
{
	struct dro_hook *each;

	list_for_each_entry(each, &hooks, list)
		if (each->bound)
			return false;
	return true;
}

/* A driver is about to be probed. */
static void begin(struct dro_hook *hook)
{
	struct device *dev = hook->dev, *shadow = hook->shadow;

	/* What a late call of the driver before has mapped is not this one's either. */
	drop_mappings(hook, false);
	atomic_set(&hook->reports, 0);
	atomic_set(&hook->reports_lost, 0);
	dro_settings_take(&hook->settings);
	if (none_bound())	/* else a driver of several functions is bound to the next */
		dro_calls_reset();
	/* What the driver before this one asked for is not this one's. */
	*dev->dma_mask = DMA_BIT_MASK(32);
	dev->coherent_dma_mask = DMA_BIT_MASK(32);
	hook->shadow_mask = DMA_BIT_MASK(32);
	shadow->coherent_dma_mask = DMA_BIT_MASK(32);
	shadow->bus_dma_limit = dev->bus_dma_limit;
	shadow->dma_range_map = dev->dma_range_map;
	shadow->dma_parms = dev->dma_parms;
	dro_need_sync(dev);
	hook->mask_set = false;
	hook->mask_reported = false;
	hook->mask_told = 0;
	WRITE_ONCE(hook->bound, true);
	dev_info(dev, "rehearsed: grants %d, cache %d, merge %d, bounce %d, hostile %d, device bits %u\n",
		 hook->settings.grants, hook->settings.cache, hook->settings.merge,
		 hook->settings.bounce, hook->settings.hostile, hook->settings.device_bits);
}

/* After remove or a probe that failed, and after what devres has freed. */
static void end(struct dro_hook *hook)
{
	drop_mappings(hook, true);
	dro_reports_end(hook);
	WRITE_ONCE(hook->bound, false);
	hook->settings = (struct dro_settings){ .device_bits = 64, .line = 64 };
	hook->shadow->dma_range_map = NULL;
}

/* Give the device its former operations, and wait for calls that run. */
static void unhook(struct dro_hook *hook)
{
	list_del(&hook->list);
	set_dma_ops(hook->dev, hook->before);
	dro_set_iommu(hook->dev, hook->iommu);
	/* A call that has loaded the operations is counted, or over, after this. */
	synchronize_rcu();
	while (atomic_read(&hook->inside))
		msleep(20);
	synchronize_rcu();
	drop_mappings(hook, false);
	put_device(hook->shadow);
	kfree(hook);
}

/* Of what the driver's probe finds in its device, this is released last. */
static void on_release(void *data)
{
	struct dro_hook *hook = data;

	mutex_lock(&hooks_lock);
	end(hook);
	mutex_unlock(&hooks_lock);
	module_put(THIS_MODULE);
}

static void on_bind(struct device *dev)
{
	struct dro_hook *hook = find(dev);

	if (!dro_function_chosen(to_pci_dev(dev))) {
		if (hook && !hook->bound)
			unhook(hook);
		return;
	}
	if (hook && hook->bound)
		return;
	if (!try_module_get(THIS_MODULE))
		return;
	if (!hook) {
		hook = new_hook(dev);
		if (!hook) {
			dev_WARN(dev, "not rehearsed: no memory\n");
			module_put(THIS_MODULE);
			return;
		}
		divert(hook);
		list_add(&hook->list, &hooks);
	}
	begin(hook);
	/* The events of an unbind are of no use: on 6.1 that of a failed probe is too early. */
	if (devm_add_action(dev, on_release, hook)) {
		dev_WARN(dev, "not rehearsed: no memory\n");
		end(hook);
		module_put(THIS_MODULE);
	}
}

static int on_event(struct notifier_block *block, unsigned long event, void *data)
{
	struct device *dev = data;
	struct dro_hook *hook;

	mutex_lock(&hooks_lock);
	switch (event) {
	case BUS_NOTIFY_BIND_DRIVER:
		on_bind(dev);
		break;
	case BUS_NOTIFY_REMOVED_DEVICE:
		hook = find(dev);
		if (hook)
			unhook(hook);
		break;
	}
	mutex_unlock(&hooks_lock);
	return NOTIFY_OK;
}

static struct notifier_block notifier = { .notifier_call = on_event };

int dro_hook_init(void)
{
	return bus_register_notifier(&pci_bus_type, &notifier);
}

/* No driver is bound: each of them holds the module. */
void dro_hook_exit(void)
{
	struct dro_hook *hook, *next;

	bus_unregister_notifier(&pci_bus_type, &notifier);
	list_for_each_entry_safe(hook, next, &hooks, list) {
		/* An unbind that has let the module go may not have returned from it. */
		device_lock(hook->dev);
		device_unlock(hook->dev);
		unhook(hook);
	}
}
