// SPDX-License-Identifier: GPL-2.0-only
/* Streaming mappings of one piece of memory, right ones. */
#include <linux/interrupt.h>
#include <linux/mm.h>
#include <linux/mman.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/timer.h>
#include <linux/uaccess.h>
#include <linux/version.h>
#include <linux/vmalloc.h>

#include "dma_calls.h"

static const enum dma_data_direction directions[] = {
	DMA_TO_DEVICE, DMA_FROM_DEVICE, DMA_BIDIRECTIONAL,
};

static bool has(const u8 *bytes, u8 value, size_t length)
{
	while (length--)
		if (*bytes++ != value)
			return false;
	return true;
}

/* Sizes around pages and lines, in each direction; the CPU's bytes stay. */
static int sizes(struct device *dev)
{
	static const size_t some[] = { 1, 5, 8, 24, 64, 96, 192, 500, 2000, 4096, 4097, 65536 };
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(some); i++) {
		for (j = 0; j < ARRAY_SIZE(directions); j++) {
			u8 *memory = kmalloc(some[i], GFP_KERNEL);
			dma_addr_t dma;

			CHECK(dev, memory);
			memset(memory, 0x5a, some[i]);
			dma = dma_map_single(dev, memory, some[i], directions[j]);
			CHECK(dev, !dma_mapping_error(dev, dma));
			CHECK(dev, dma_need_sync(dev, dma));
			dma_unmap_single(dev, dma, some[i], directions[j]);
			CHECK(dev, has(memory, 0x5a, some[i]));
			kfree(memory);
		}
	}
	return 0;
}

/* Neighbours of a small object are stored to while it is mapped. */
static int neighbours(struct device *dev)
{
	u8 *objects[64];
	dma_addr_t dma;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(objects); i++) {
		objects[i] = kmalloc(8, GFP_KERNEL);
		CHECK(dev, objects[i]);
		memset(objects[i], 1, 8);
	}
	dma = dma_map_single(dev, objects[32], 8, DMA_FROM_DEVICE);
	CHECK(dev, !dma_mapping_error(dev, dma));
	for (i = 0; i < ARRAY_SIZE(objects); i++)
		if (i != 32)
			memset(objects[i], 2, 8);
	dma_unmap_single(dev, dma, 8, DMA_FROM_DEVICE);
	for (i = 0; i < ARRAY_SIZE(objects); i++) {
		CHECK(dev, has(objects[i], i == 32 ? 1 : 2, 8));
		kfree(objects[i]);
	}
	return 0;
}

/* Objects beside a mapped one are freed and allocated: SLUB may keep notes behind each. */
static int objects_come_and_go(struct device *dev)
{
	static const struct {
		size_t size, offset, length;
	} some[] = { { 32, 0, 32 }, { 32, 16, 8 }, { 96, 0, 96 }, { 96, 40, 8 }, { 192, 0, 192 },
		     { 192, 100, 24 } };
	u8 *objects[64];
	unsigned int i, j;

	for (i = 0; i < ARRAY_SIZE(some); i++) {
		dma_addr_t dma[ARRAY_SIZE(objects) / 2];
		size_t size = some[i].size;

		for (j = 0; j < ARRAY_SIZE(objects); j++) {
			objects[j] = kmalloc(size, GFP_KERNEL);
			CHECK(dev, objects[j]);
			memset(objects[j], 1, size);
		}
		for (j = 0; j < ARRAY_SIZE(dma); j++) {
			dma[j] = dma_map_single(dev, objects[2 * j] + some[i].offset,
						some[i].length, DMA_FROM_DEVICE);
			CHECK(dev, !dma_mapping_error(dev, dma[j]));
		}
		for (j = 1; j < ARRAY_SIZE(objects); j += 2)
			kfree(objects[j]);
		for (j = 1; j < ARRAY_SIZE(objects); j += 4) {
			objects[j] = kmalloc(size, GFP_KERNEL);
			CHECK(dev, objects[j]);
			memset(objects[j], 2, size);
		}
		for (j = 0; j < ARRAY_SIZE(dma); j++)
			dma_unmap_single(dev, dma[j], some[i].length, DMA_FROM_DEVICE);
		for (j = 0; j < ARRAY_SIZE(objects); j++) {
			if (j % 4 == 3)
				continue;
			CHECK(dev, has(objects[j], j % 4 == 1 ? 2 : 1, size));
			kfree(objects[j]);
		}
	}
	return 0;
}

/* A receive buffer that stays mapped: synced in parts, and given back unread. */
static int parts(struct device *dev)
{
	u8 *memory = kmalloc(4096, GFP_KERNEL | __GFP_ZERO);
	dma_addr_t dma;
	unsigned int i;

	CHECK(dev, memory);
	dma = dma_map_single(dev, memory, 4096, DMA_FROM_DEVICE);
	CHECK(dev, !dma_mapping_error(dev, dma));
	for (i = 0; i < 3; i++) {
		dma_sync_single_for_cpu(dev, dma + 128, 256, DMA_FROM_DEVICE);
		dma_sync_single_for_device(dev, dma + 128, 256, DMA_FROM_DEVICE);
		dma_sync_single_range_for_cpu(dev, dma, 4000, 96, DMA_FROM_DEVICE);
	}
	dma_unmap_single(dev, dma, 4096, DMA_FROM_DEVICE);
	dma = dma_map_single(dev, memory, 4096, DMA_BIDIRECTIONAL);
	CHECK(dev, !dma_mapping_error(dev, dma));
	dma_sync_single_for_cpu(dev, dma, 4096, DMA_FROM_DEVICE);
	memory[7] = 7;
	dma_sync_single_for_device(dev, dma, 64, DMA_TO_DEVICE);
	dma_unmap_single(dev, dma, 4096, DMA_BIDIRECTIONAL);
	CHECK(dev, memory[7] == 7);
	kfree(memory);
	return 0;
}

/* One page that many mappings read at once, as sendfile() does with a page of zeros. */
static int one_page_often(struct device *dev)
{
	struct page *page = alloc_page(GFP_KERNEL);
	dma_addr_t dma[100];
	unsigned int i;

	CHECK(dev, page);
	for (i = 0; i < ARRAY_SIZE(dma); i++) {
		dma[i] = dma_map_page(dev, page, i, 1000, DMA_TO_DEVICE);
		CHECK(dev, !dma_mapping_error(dev, dma[i]));
	}
	for (i = 0; i < ARRAY_SIZE(dma); i++)
		dma_unmap_page(dev, dma[i], 1000, DMA_TO_DEVICE);
	__free_page(page);
	return 0;
}

/* As page_pool: nothing is synced but by part; the page goes out of it at any time. */
static int pool_pages(struct device *dev)
{
	struct page *page = alloc_page(GFP_KERNEL);
	dma_addr_t dma;

	CHECK(dev, page);
	dma = dma_map_page_attrs(dev, page, 0, PAGE_SIZE, DMA_FROM_DEVICE, DMA_ATTR_SKIP_CPU_SYNC);
	CHECK(dev, !dma_mapping_error(dev, dma));
	dma_sync_single_range_for_device(dev, dma, 256, 2048, DMA_FROM_DEVICE);
	dma_sync_single_range_for_device(dev, dma, 256, 2048, DMA_FROM_DEVICE);
	dma_sync_single_range_for_cpu(dev, dma, 256, 60, DMA_FROM_DEVICE);
	memset(page_address(page), 3, PAGE_SIZE);
	dma_unmap_page_attrs(dev, dma, PAGE_SIZE, DMA_FROM_DEVICE, DMA_ATTR_SKIP_CPU_SYNC);
	CHECK(dev, has(page_address(page), 3, PAGE_SIZE));
	__free_page(page);
	return 0;
}

/* As AF_XDP and RDMA: one memory for several users, none of whom needs the syncs. */
static int shared_page(struct device *dev)
{
	struct page *page = alloc_page(GFP_KERNEL);
	dma_addr_t dma[3];
	unsigned int i;

	CHECK(dev, page);
	for (i = 0; i < ARRAY_SIZE(dma); i++) {
		dma[i] = dma_map_page_attrs(dev, page, 0, PAGE_SIZE, DMA_BIDIRECTIONAL,
					    DMA_ATTR_SKIP_CPU_SYNC);
		CHECK(dev, !dma_mapping_error(dev, dma[i]));
	}
	for (i = 0; i < ARRAY_SIZE(dma); i++)
		dma_unmap_page_attrs(dev, dma[i], PAGE_SIZE, DMA_BIDIRECTIONAL,
				     DMA_ATTR_SKIP_CPU_SYNC);
	__free_page(page);
	return 0;
}

/* A page of a program, which stores to it while the device reads: not the driver's affair. */
static int programs_page(struct device *dev)
{
	unsigned long address = vm_mmap(NULL, 0, PAGE_SIZE, PROT_READ | PROT_WRITE,
					MAP_PRIVATE | MAP_ANONYMOUS, 0);
	struct page *page;
	dma_addr_t dma;

	CHECK(dev, !IS_ERR_VALUE(address));
	CHECK(dev, pin_user_pages_fast(address, 1, FOLL_WRITE, &page) == 1);
	dma = dma_map_page(dev, page, 0, PAGE_SIZE, DMA_TO_DEVICE);
	CHECK(dev, !dma_mapping_error(dev, dma));
	CHECK(dev, !put_user(1, (u8 __user *)address + 100));
	dma_unmap_page(dev, dma, PAGE_SIZE, DMA_TO_DEVICE);
	unpin_user_page(page);
	vm_munmap(address, PAGE_SIZE);
	return 0;
}

/* What the kernel itself does not map. */
static int refused(struct device *dev)
{
	void *memory = vmalloc(4096);
	dma_addr_t dma;

	CHECK(dev, memory);
	dma = dma_map_page(dev, vmalloc_to_page(memory), 0, 4096, DMA_TO_DEVICE);
	CHECK(dev, !dma_mapping_error(dev, dma));
	dma_unmap_page(dev, dma, 4096, DMA_TO_DEVICE);
	vfree(memory);
	return 0;
}

static int resources(struct device *dev)
{
	phys_addr_t bar = pci_resource_start(to_pci_dev(dev), 0);
	dma_addr_t dma = dma_map_resource(dev, bar, 64, DMA_TO_DEVICE, 0);

	CHECK(dev, !dma_mapping_error(dev, dma));
	dma_unmap_resource(dev, dma, 64, DMA_TO_DEVICE, 0);
	return 0;
}

static int limits(struct device *dev)
{
	CHECK(dev, dma_get_required_mask(dev) >= DMA_BIT_MASK(24));
	CHECK(dev, dma_max_mapping_size(dev) >= SZ_64K);
	CHECK(dev, dma_opt_mapping_size(dev) <= dma_max_mapping_size(dev));
	CHECK(dev, !dma_set_mask(dev, DMA_BIT_MASK(40)));
	CHECK(dev, !dma_set_coherent_mask(dev, DMA_BIT_MASK(40)));
	CHECK(dev, *dev->dma_mask == DMA_BIT_MASK(40));
	CHECK(dev, dma_get_cache_alignment() >= 1);
	dma_get_merge_boundary(dev);
	return 0;
}

struct in_interrupt_work {
	struct device *dev;
	struct timer_list timer;
	struct tasklet_struct tasklet;
	atomic_t pairs;
	bool failed;
	u8 timer_memory[256], tasklet_memory[256];
};

static void pair(struct in_interrupt_work *work, u8 *memory)
{
	dma_addr_t dma = dma_map_single(work->dev, memory, 128, DMA_BIDIRECTIONAL);

	if (dma_mapping_error(work->dev, dma)) {
		work->failed = true;
		return;
	}
	dma_sync_single_for_cpu(work->dev, dma, 128, DMA_BIDIRECTIONAL);
	dma_unmap_single(work->dev, dma, 128, DMA_BIDIRECTIONAL);
	atomic_inc(&work->pairs);
}

static void on_tasklet(struct tasklet_struct *tasklet)
{
	struct in_interrupt_work *work = container_of(tasklet, struct in_interrupt_work, tasklet);

	pair(work, work->tasklet_memory);
}

static void on_timer(struct timer_list *timer)
{
	struct in_interrupt_work *work = container_of(timer, struct in_interrupt_work, timer);

	pair(work, work->timer_memory);
	tasklet_schedule(&work->tasklet);
	if (atomic_read(&work->pairs) < 40)
		mod_timer(timer, jiffies + 1);
}

/* Timers and tasklets on any CPU, while this one holds a lock with interrupts off. */
static int atomic(struct device *dev)
{
	struct in_interrupt_work *work = kzalloc(sizeof(*work), GFP_KERNEL);
	u8 *memory = kmalloc(4096, GFP_KERNEL);
	DEFINE_SPINLOCK(lock);
	unsigned long flags;
	dma_addr_t dma;
	unsigned int i;

	CHECK(dev, work && memory);
	work->dev = dev;
	timer_setup(&work->timer, on_timer, 0);
	tasklet_setup(&work->tasklet, on_tasklet);
	mod_timer(&work->timer, jiffies + 1);
	for (i = 0; i < 100; i++) {
		spin_lock_irqsave(&lock, flags);
		dma = dma_map_single(dev, memory, 4096, DMA_TO_DEVICE);
		spin_unlock_irqrestore(&lock, flags);
		CHECK(dev, !dma_mapping_error(dev, dma));
		dma_unmap_single(dev, dma, 4096, DMA_TO_DEVICE);
	}
	while (atomic_read(&work->pairs) < 40 && !work->failed)
		cond_resched();
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	timer_shutdown_sync(&work->timer);
#else
	del_timer_sync(&work->timer);
#endif
	tasklet_kill(&work->tasklet);
	CHECK(dev, !work->failed);
	kfree(work);
	kfree(memory);
	return 0;
}

/* A ring: thousands of mappings, ended in another order. */
static int many(struct device *dev)
{
	const unsigned int count = 3000;
	dma_addr_t *dma = kvcalloc(count, sizeof(*dma), GFP_KERNEL);
	void **memory = kvcalloc(count, sizeof(*memory), GFP_KERNEL);
	unsigned int i, at;

	CHECK(dev, dma && memory);
	for (i = 0; i < count; i++) {
		memory[i] = kmalloc(256, GFP_KERNEL);
		CHECK(dev, memory[i]);
		dma[i] = dma_map_single(dev, memory[i], 256, DMA_FROM_DEVICE);
		CHECK(dev, !dma_mapping_error(dev, dma[i]));
	}
	for (i = 0; i < count; i++) {
		at = i * 1009 % count;
		dma_unmap_single(dev, dma[at], 256, DMA_FROM_DEVICE);
		kfree(memory[at]);
	}
	kvfree(dma);
	kvfree(memory);
	return 0;
}

const struct dma_case streaming_cases[] = {
	{ "sizes", sizes },
	{ "neighbours", neighbours },
	{ "objects_come_and_go", objects_come_and_go },
	{ "parts", parts },
	{ "one_page_often", one_page_often },
	{ "pool_pages", pool_pages },
	{ "shared_page", shared_page },
	{ "programs_page", programs_page },
	{ "refused", refused },
	{ "resources", resources },
	{ "limits", limits },
	{ "atomic", atomic },
	{ "many", many },
	{ }
};
