// SPDX-License-Identifier: GPL-2.0-only
/* The time of a map and its unmap, and of an allocation and its free: medians, as parameters. */
#include <linux/ktime.h>
#include <linux/sort.h>

#include "../../../examples/museum/museum.h"

#define ROUNDS 15
#define PAIRS 40		/* of one round */
#define BYTES SZ_4K

static uint map_ns, alloc_ns;
module_param(map_ns, uint, 0444);
MODULE_PARM_DESC(map_ns, "dma_map_single() and dma_unmap_single() of 4 KiB, in nanoseconds");
module_param(alloc_ns, uint, 0444);
MODULE_PARM_DESC(alloc_ns, "dma_alloc_coherent() and dma_free_coherent() of 4 KiB");

static int by_size(const void *a, const void *b)
{
	return *(const u32 *)a < *(const u32 *)b ? -1 : *(const u32 *)a > *(const u32 *)b;
}

static int map_pair(struct museum *museum, void *buffer, int i)
{
	enum dma_data_direction direction = i % 2 ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	dma_addr_t address = dma_map_single(museum->dev, buffer, BYTES, direction);

	if (dma_mapping_error(museum->dev, address))
		return -ENOMEM;
	dma_unmap_single(museum->dev, address, BYTES, direction);
	return 0;
}

static int alloc_pair(struct museum *museum, void *buffer, int i)
{
	dma_addr_t address;
	void *memory = dma_alloc_coherent(museum->dev, BYTES, &address, GFP_KERNEL);

	if (!memory)
		return -ENOMEM;
	dma_free_coherent(museum->dev, BYTES, memory, address);
	return 0;
}

/* The median of some rounds, of one pair, in nanoseconds; 0: a pair failed. */
static u32 median(struct museum *museum, void *buffer, int (*pair)(struct museum *, void *, int))
{
	u32 found[ROUNDS];
	int round, i;

	for (round = 0; round < ROUNDS; round++) {
		ktime_t start = ktime_get();

		for (i = 0; i < PAIRS; i++)
			if (pair(museum, buffer, i))
				return 0;
		found[round] = div_u64(ktime_to_ns(ktime_sub(ktime_get(), start)), PAIRS);
		cond_resched();
	}
	sort(found, ROUNDS, sizeof(found[0]), by_size, NULL);
	return found[ROUNDS / 2];
}

static int museum_setup(struct museum *museum)
{
	void *buffer = kmalloc(BYTES, GFP_KERNEL);

	if (!buffer)
		return -ENOMEM;
	map_ns = median(museum, buffer, map_pair);
	alloc_ns = median(museum, buffer, alloc_pair);
	kfree(buffer);
	return map_ns && alloc_ns ? 0 : -ENOMEM;
}

static void museum_teardown(struct museum *museum)
{
}

/* The device moves bytes, too: without that a run has no evidence that it saw the device. */
static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	enum dma_data_direction direction = store ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	dma_addr_t address;
	int ret;

	address = dma_map_single(museum->dev, data, length, direction);
	if (dma_mapping_error(museum->dev, address))
		return -ENOMEM;
	ret = museum_job(museum, address, length, offset, store);
	dma_unmap_single(museum->dev, address, length, direction);
	return ret;
}
