// SPDX-License-Identifier: GPL-2.0-only
/* A counter lies in the cache line of a receive buffer. */
#include "../museum.h"

struct shared {
	u32 jobs;
	u8 data[MUSEUM_MAX] __aligned(4);
};

struct apart {
	u32 jobs;
	u8 data[MUSEUM_MAX] __aligned(SMP_CACHE_BYTES);
};

static int museum_setup(struct museum *museum)
{
	museum->own = kzalloc(sizeof(struct apart) + SMP_CACHE_BYTES, GFP_KERNEL);
	return museum->own ? 0 : -ENOMEM;
}

static void museum_teardown(struct museum *museum)
{
	kfree(museum->own);
}

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	enum dma_data_direction direction = store ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	u8 *buffer = mended ? ((struct apart *)museum->own)->data : ((struct shared *)museum->own)->data;
	u32 *jobs = museum->own;
	dma_addr_t address;
	int ret;

	if (!store)
		memcpy(buffer, data, length);
	address = dma_map_single(museum->dev, buffer, length, direction);
	if (dma_mapping_error(museum->dev, address))
		return -ENOMEM;
	WRITE_ONCE(*jobs, *jobs + 1);
	ret = museum_job(museum, address, length, offset, store);
	dma_unmap_single(museum->dev, address, length, direction);
	if (store && !ret)
		memcpy(data, buffer, length);
	return ret;
}
