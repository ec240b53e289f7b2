/* SPDX-License-Identifier: GPL-2.0-only */
/* A ring of descriptors and a buffer in coherent memory, as long as the driver is bound. */
#ifndef COHERENT_RING_H
#define COHERENT_RING_H

#include "museum.h"

struct ring {
	struct museum_descriptor *descriptor;
	dma_addr_t address;
	u8 *data;
	dma_addr_t data_address;
	unsigned int tail;
};

#define DESCRIPTORS 8
#define RING_BYTES (DESCRIPTORS * sizeof(struct museum_descriptor))

static int museum_setup(struct museum *museum)
{
	struct ring *ring = kzalloc(sizeof(*ring), GFP_KERNEL);

	if (!ring)
		return -ENOMEM;
	ring->descriptor = dma_alloc_coherent(museum->dev, RING_BYTES, &ring->address, GFP_KERNEL);
	if (!ring->descriptor)
		goto free;
	ring->data = dma_alloc_coherent(museum->dev, MUSEUM_MAX, &ring->data_address, GFP_KERNEL);
	if (!ring->data)
		goto free_ring;
	museum->own = ring;
	writel(lower_32_bits(ring->address), museum->regs + MUSEUM_RING_LO);
	writel(upper_32_bits(ring->address), museum->regs + MUSEUM_RING_HI);
	writel(DESCRIPTORS, museum->regs + MUSEUM_RING_SIZE);
	return 0;

free_ring:
	dma_free_coherent(museum->dev, RING_BYTES, ring->descriptor, ring->address);
free:
	kfree(ring);
	return -ENOMEM;
}

static void museum_teardown(struct museum *museum)
{
	struct ring *ring = museum->own;

	dma_free_coherent(museum->dev, MUSEUM_MAX, ring->data, ring->data_address);
	dma_free_coherent(museum->dev, RING_BYTES, ring->descriptor, ring->address);
	kfree(ring);
}

#endif
