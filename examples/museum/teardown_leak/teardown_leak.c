// SPDX-License-Identifier: GPL-2.0-only
/* Buffers in flight are freed without being unmapped. */
#include "../museum.h"

#define BUFFERS 4

struct ring {
	u8 *buffer[BUFFERS];
	dma_addr_t address[BUFFERS];
	unsigned int next;
};

static void museum_teardown(struct museum *museum)
{
	struct ring *ring = museum->own;
	int i;

	for (i = 0; i < BUFFERS; i++) {
		if (!ring->buffer[i])
			continue;
		if (mended)
			dma_unmap_single(museum->dev, ring->address[i], MUSEUM_MAX, DMA_FROM_DEVICE);
		kfree(ring->buffer[i]);
	}
	kfree(ring);
}

static int fill(struct museum *museum, int i)
{
	struct ring *ring = museum->own;

	ring->buffer[i] = kmalloc(MUSEUM_MAX, GFP_KERNEL);
	if (!ring->buffer[i])
		return -ENOMEM;
	ring->address[i] = dma_map_single(museum->dev, ring->buffer[i], MUSEUM_MAX, DMA_FROM_DEVICE);
	if (dma_mapping_error(museum->dev, ring->address[i])) {
		kfree(ring->buffer[i]);
		ring->buffer[i] = NULL;
		return -ENOMEM;
	}
	return 0;
}

static int museum_setup(struct museum *museum)
{
	int i, ret = 0;

	museum->own = kzalloc(sizeof(struct ring), GFP_KERNEL);
	if (!museum->own)
		return -ENOMEM;
	for (i = 0; !ret && i < BUFFERS; i++)
		ret = fill(museum, i);
	if (ret)
		museum_teardown(museum);
	return ret;
}

/* The next buffer of the ring takes what comes, and a new one takes its place. */
static int receive(struct museum *museum, u8 *data, size_t length, u32 offset)
{
	struct ring *ring = museum->own;
	int i = ring->next++ % BUFFERS, ret;

	if (!ring->buffer[i])
		return -ENOMEM;
	ret = museum_job(museum, ring->address[i], length, offset, true);
	dma_unmap_single(museum->dev, ring->address[i], MUSEUM_MAX, DMA_FROM_DEVICE);
	if (!ret)
		memcpy(data, ring->buffer[i], length);
	kfree(ring->buffer[i]);
	ring->buffer[i] = NULL;
	return fill(museum, i) ? -ENOMEM : ret;
}

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	dma_addr_t address;
	int ret;

	if (store)
		return receive(museum, data, length, offset);
	address = dma_map_single(museum->dev, data, length, DMA_TO_DEVICE);
	if (dma_mapping_error(museum->dev, address))
		return -ENOMEM;
	ret = museum_job(museum, address, length, offset, store);
	dma_unmap_single(museum->dev, address, length, DMA_TO_DEVICE);
	return ret;
}
