/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Two buffers for all transfers, mapped as long as the driver is bound: one for what goes to the
 * device, and one for what comes, which lies behind a header as a frame does.
 */
#ifndef KEPT_MAPPING_H
#define KEPT_MAPPING_H

#include "museum.h"

#define HEADER SZ_4K
#define IN_BYTES (HEADER + MUSEUM_MAX)

struct buffers {
	u8 *out, *in;
	dma_addr_t out_address, in_address;
};

/* What a driver does before the device reads bytes, and before the CPU reads what came. */
static void to_device(struct museum *museum, dma_addr_t address, size_t length);
static void to_cpu(struct museum *museum, dma_addr_t address, size_t length);

static int museum_setup(struct museum *museum)
{
	struct buffers *buffers = kzalloc(sizeof(*buffers), GFP_KERNEL);

	if (!buffers)
		return -ENOMEM;
	buffers->out = kzalloc(MUSEUM_MAX, GFP_KERNEL);
	buffers->in = kzalloc(IN_BYTES, GFP_KERNEL);
	if (!buffers->out || !buffers->in)
		goto free;
	buffers->out_address = dma_map_single(museum->dev, buffers->out, MUSEUM_MAX, DMA_TO_DEVICE);
	if (dma_mapping_error(museum->dev, buffers->out_address))
		goto free;
	buffers->in_address = dma_map_single(museum->dev, buffers->in, IN_BYTES, DMA_FROM_DEVICE);
	if (dma_mapping_error(museum->dev, buffers->in_address))
		goto unmap;
	museum->own = buffers;
	return 0;

unmap:
	dma_unmap_single(museum->dev, buffers->out_address, MUSEUM_MAX, DMA_TO_DEVICE);
free:
	kfree(buffers->in);
	kfree(buffers->out);
	kfree(buffers);
	return -ENOMEM;
}

static void museum_teardown(struct museum *museum)
{
	struct buffers *buffers = museum->own;

	dma_unmap_single(museum->dev, buffers->in_address, IN_BYTES, DMA_FROM_DEVICE);
	dma_unmap_single(museum->dev, buffers->out_address, MUSEUM_MAX, DMA_TO_DEVICE);
	kfree(buffers->in);
	kfree(buffers->out);
	kfree(buffers);
}

static int send(struct museum *museum, const u8 *data, size_t length, u32 offset)
{
	struct buffers *buffers = museum->own;

	memcpy(buffers->out, data, length);
	to_device(museum, buffers->out_address, length);
	return museum_job(museum, buffers->out_address, length, offset, false);
}

static int receive(struct museum *museum, u8 *data, size_t length, u32 offset)
{
	struct buffers *buffers = museum->own;
	dma_addr_t address = buffers->in_address + HEADER;
	int ret;

	dma_sync_single_for_device(museum->dev, address, length, DMA_FROM_DEVICE);
	ret = museum_job(museum, address, length, offset, true);
	if (!ret) {
		to_cpu(museum, address, length);
		memcpy(data, buffers->in + HEADER, length);
	}
	return ret;
}

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	return store ? receive(museum, data, length, offset) : send(museum, data, length, offset);
}

#endif
