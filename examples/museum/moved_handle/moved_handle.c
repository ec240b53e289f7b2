// SPDX-License-Identifier: GPL-2.0-only
/* The handle moves between map and unmap. */
#include "../stateless.h"

#define HEADER 2	/* bytes that bring the payload to a multiple of 4 */

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	enum dma_data_direction direction = store ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	dma_addr_t handle, address;
	u8 *frame;
	int ret;

	frame = kzalloc(HEADER + length, GFP_KERNEL);
	if (!frame)
		return -ENOMEM;
	if (!store)
		memcpy(frame + HEADER, data, length);
	handle = dma_map_single(museum->dev, frame, HEADER + length, direction);
	if (dma_mapping_error(museum->dev, handle)) {
		kfree(frame);
		return -ENOMEM;
	}
	address = handle + HEADER;
	ret = museum_job(museum, address, length, offset, store);
	dma_unmap_single(museum->dev, mended ? handle : address, HEADER + length, direction);
	if (store && !ret)
		memcpy(data, frame + HEADER, length);
	kfree(frame);
	return ret;
}
