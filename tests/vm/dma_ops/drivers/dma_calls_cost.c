// SPDX-License-Identifier: GPL-2.0-only
/* The cost of a map and its unmap. */
#include <linux/ktime.h>
#include <linux/slab.h>

#include "dma_calls.h"

#define PAIRS	1000

static int cost(struct device *dev)
{
	void *memory = kmalloc(2048, GFP_KERNEL);
	unsigned int i;
	u64 start;

	CHECK(dev, memory);
	start = ktime_get_ns();
	for (i = 0; i < PAIRS; i++) {
		dma_addr_t dma = dma_map_single(dev, memory, 2048, DMA_FROM_DEVICE);

		CHECK(dev, !dma_mapping_error(dev, dma));
		dma_unmap_single(dev, dma, 2048, DMA_FROM_DEVICE);
	}
	pairs_ns = (ktime_get_ns() - start) / PAIRS;
	kfree(memory);
	return 0;
}

const struct dma_case cost_cases[] = {
	{ "cost", cost },
	{ }
};
