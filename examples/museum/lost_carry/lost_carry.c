// SPDX-License-Identifier: GPL-2.0-only
/* The carry is lost between two address registers. */
#include "../stateless.h"

#define PART SZ_512	/* bytes of one job */

/* The address of a part; the hardware has it in two registers. */
static dma_addr_t part_of(dma_addr_t address, size_t at)
{
	if (mended)
		return address + at;
	return (address & ~(dma_addr_t)U16_MAX) | ((address + at) & U16_MAX);
}

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	enum dma_data_direction direction = store ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	dma_addr_t address;
	size_t at, part;
	int ret = 0;

	address = dma_map_single(museum->dev, data, length, direction);
	if (dma_mapping_error(museum->dev, address))
		return -ENOMEM;
	for (at = 0; !ret && at < length; at += part) {
		part = min_t(size_t, PART, length - at);
		ret = museum_job(museum, part_of(address, at), part, offset + at, store);
	}
	dma_unmap_single(museum->dev, address, length, direction);
	return ret;
}
