/* SPDX-License-Identifier: GPL-2.0-only */
/* One buffer for all transfers, mapped as long as the driver is bound. Its first half takes what goes
 * to the device, its second half what comes.
 */
#ifndef KEPT_MAPPING_H
#define KEPT_MAPPING_H

#include "museum.h"

struct buffer {
	u8 *data;
	dma_addr_t address;
};

static int museum_setup(struct museum *museum)
{
	struct buffer *buffer = kzalloc(sizeof(*buffer), GFP_KERNEL);

	if (!buffer)
		return -ENOMEM;
	buffer->data = kzalloc(2 * MUSEUM_MAX, GFP_KERNEL);
	if (!buffer->data)
		goto free;
	buffer->address = dma_map_single(museum->dev, buffer->data, 2 * MUSEUM_MAX, DMA_BIDIRECTIONAL);
	if (dma_mapping_error(museum->dev, buffer->address))
		goto free_data;
	museum->own = buffer;
	return 0;

free_data:
	kfree(buffer->data);
free:
	kfree(buffer);
	return -ENOMEM;
}

static void museum_teardown(struct museum *museum)
{
	struct buffer *buffer = museum->own;

	dma_unmap_single(museum->dev, buffer->address, 2 * MUSEUM_MAX, DMA_BIDIRECTIONAL);
	kfree(buffer->data);
	kfree(buffer);
}

/* What a driver does before the device reads bytes, and before the CPU reads what came. */
static void to_device(struct museum *museum, dma_addr_t address, size_t length);
static void to_cpu(struct museum *museum, dma_addr_t address, size_t length);

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	struct buffer *buffer = museum->own;
	size_t at = store ? MUSEUM_MAX : 0;
	dma_addr_t address = buffer->address + at;
	int ret;

	if (!store) {
		memcpy(buffer->data, data, length);
		to_device(museum, address, length);
	}
	ret = museum_job(museum, address, length, offset, store);
	if (store && !ret) {
		to_cpu(museum, address, length);
		memcpy(data, buffer->data + at, length);
	}
	return ret;
}

#endif
