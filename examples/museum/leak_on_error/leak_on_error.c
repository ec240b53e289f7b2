// SPDX-License-Identifier: GPL-2.0-only
/* An error path leaves the first mapping. */
#include "../stateless.h"

/* Two halves, each mapped by itself. */
static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	enum dma_data_direction direction = store ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	size_t half = length / 2;
	dma_addr_t first, second;
	int ret;

	first = dma_map_single(museum->dev, data, half, direction);
	if (dma_mapping_error(museum->dev, first))
		return -ENOMEM;
	second = dma_map_single(museum->dev, data + half, length - half, direction);
	if (dma_mapping_error(museum->dev, second)) {
		ret = -ENOMEM;
		if (!mended)
			return ret;
		goto unmap_first;
	}
	ret = museum_job(museum, first, half, offset, store);
	if (!ret)
		ret = museum_job(museum, second, length - half, offset + half, store);
	dma_unmap_single(museum->dev, second, length - half, direction);
unmap_first:
	dma_unmap_single(museum->dev, first, half, direction);
	return ret;
}
