// SPDX-License-Identifier: GPL-2.0-only
/* The device reads a buffer that was mapped for it to write. */
#include "../stateless.h"

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	enum dma_data_direction direction = DMA_TO_DEVICE;
	dma_addr_t address;
	int ret;

	if (store)
		direction = mended ? DMA_BIDIRECTIONAL : DMA_FROM_DEVICE;
	address = dma_map_single(museum->dev, data, length, direction);
	if (dma_mapping_error(museum->dev, address))
		return -ENOMEM;
	ret = museum_job(museum, address, length, offset, store);
	dma_unmap_single(museum->dev, address, length, direction);
	return ret;
}
