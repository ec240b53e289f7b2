// SPDX-License-Identifier: GPL-2.0-only
/* The carry is lost between two address registers. */
#include "../museum.h"

static int museum_setup(struct museum *museum)
{
	return 0;
}

static void museum_teardown(struct museum *museum)
{
}

/* Two halves, each a job; the hardware has its address in two registers. */
static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	enum dma_data_direction direction = store ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	size_t half = length / 2;
	dma_addr_t address, second;
	int ret;

	address = dma_map_single(museum->dev, data, length, direction);
	if (dma_mapping_error(museum->dev, address))
		return -ENOMEM;
	second = address + half;
	if (!mended)
		second = (address & ~(dma_addr_t)U16_MAX) | ((address + half) & U16_MAX);
	ret = museum_job(museum, address, half, offset, store);
	if (!ret)
		ret = museum_job(museum, second, length - half, offset + half, store);
	dma_unmap_single(museum->dev, address, length, direction);
	return ret;
}
