// SPDX-License-Identifier: GPL-2.0-only
/* A transfer crosses a boundary of the device. */
#include "../stateless.h"

#define BOUNDARY SZ_64K

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	enum dma_data_direction direction = store ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	size_t at, part;
	dma_addr_t address;
	int ret = 0;

	address = dma_map_single(museum->dev, data, length, direction);
	if (dma_mapping_error(museum->dev, address))
		return -ENOMEM;
	for (at = 0; !ret && at < length; at += part) {
		part = length - at;
		if (mended)
			part = min_t(size_t, part, BOUNDARY - ((address + at) & (BOUNDARY - 1)));
		ret = museum_job(museum, address + at, part, offset + at, store);
	}
	dma_unmap_single(museum->dev, address, length, direction);
	return ret;
}
