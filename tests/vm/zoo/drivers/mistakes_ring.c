// SPDX-License-Identifier: GPL-2.0-only
/* MISTAKES_ECHO: a frame goes out by the TX ring, and comes back by the RX ring. */
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "mistakes.h"

#define RING_BYTES	(RING_SLOTS * sizeof(struct ring_descriptor))

static void give(struct ring_descriptor *descriptor, dma_addr_t dma, size_t length, u32 flags)
{
	descriptor->address = cpu_to_le64(dma);
	descriptor->length = cpu_to_le32(length);
	dma_wmb();	/* the device looks at OWN first */
	WRITE_ONCE(descriptor->flags, cpu_to_le32(flags | RING_OWN));
}

static int map_frame(struct mistakes *m, unsigned int slot)
{
	dma_addr_t dma = dma_map_single(m->dev, m->frames[slot], FRAME_MAX, DMA_FROM_DEVICE);

	if (dma_mapping_error(m->dev, dma))
		return -ENOMEM;
	m->frames_dma[slot] = dma;
	give(&m->rx.descriptors[slot], dma, FRAME_MAX, 0);
	return 0;
}

static void unmap_frame(struct mistakes *m, unsigned int slot)
{
	dma_unmap_single(m->dev, m->frames_dma[slot], FRAME_MAX, DMA_FROM_DEVICE);
	m->frames_dma[slot] = DMA_MAPPING_ERROR;
}

/* Take the next frame of the RX ring. Its slot gets the same buffer again. */
static int receive(struct mistakes *m, struct mistakes_buffer *argument)
{
	unsigned int slot = m->rx.next;
	struct ring_descriptor *descriptor = &m->rx.descriptors[slot];
	u32 length, flags = le32_to_cpu(READ_ONCE(descriptor->flags));
	int error = 0;

	if (flags & RING_OWN)
		return -EIO;
	dma_rmb();	/* the length was written with the flags */
	length = min_t(u32, le32_to_cpu(descriptor->length), FRAME_MAX);
	if (m->frames_dma[slot] == DMA_MAPPING_ERROR)
		return -EIO;
	unmap_frame(m, slot);
	if (flags & RING_ERROR)
		error = -EIO;
	else if (length > argument->length ||
		 copy_to_user(u64_to_user_ptr(argument->data), m->frames[slot], length))
		error = -EFAULT;
	argument->length = length;
	if (map_frame(m, slot))
		return error ?: -ENOMEM;
	m->rx.next = (slot + 1) % RING_SLOTS;
	ring_write(m->regs, RING_RX_TAIL, (m->rx.next + RING_SLOTS - 1) % RING_SLOTS);
	return error;
}

int mistakes_echo(struct mistakes *m, struct mistakes_buffer *argument)
{
	unsigned int slot = m->tx.next, next = (slot + 1) % RING_SLOTS;
	struct ring_descriptor *descriptor = &m->tx.descriptors[slot];
	size_t length = argument->length;
	dma_addr_t dma;
	void *frame;
	int error;

	if (!length || length > FRAME_MAX)
		return -EINVAL;
	frame = memdup_user(u64_to_user_ptr(argument->data), length);
	if (IS_ERR(frame))
		return PTR_ERR(frame);
	dma = dma_map_single(m->dev, frame, length, DMA_TO_DEVICE);
	error = -ENOMEM;
	if (dma_mapping_error(m->dev, dma))
		goto free;
	m->tx.next = next;
	reinit_completion(&m->received);
	if (mistaken(DESCRIPTOR_AFTER_DOORBELL)) {
		ring_write(m->regs, RING_TX_TAIL, next);
		give(descriptor, dma, length, RING_LAST);
	} else {
		give(descriptor, dma, length, RING_LAST);
		ring_write(m->regs, RING_TX_TAIL, next);
	}
	error = 0;
	if (!wait_for_completion_timeout(&m->received, 3 * HZ))
		error = -ETIMEDOUT;
	if (READ_ONCE(descriptor->flags) & cpu_to_le32(RING_OWN)) {
		/* It was not taken: take it back from a device that does not run. */
		ring_write(m->regs, RING_TX_SIZE, 0);
		ring_read(m->regs, RING_ID);
		memset(m->tx.descriptors, 0, RING_BYTES);
		m->tx.next = 0;
		ring_write(m->regs, RING_TX_SIZE, RING_SLOTS);
	}
	dma_unmap_single(m->dev, dma, length, DMA_TO_DEVICE);
	if (!error)
		error = receive(m, argument);
free:
	kfree(frame);
	return error;
}

static int alloc_ring(struct mistakes *m, struct ring *ring)
{
	ring->descriptors = dma_alloc_coherent(m->dev, RING_BYTES, &ring->dma, GFP_KERNEL);
	return ring->descriptors ? 0 : -ENOMEM;
}

static void free_ring(struct mistakes *m, struct ring *ring)
{
	if (ring->descriptors)
		dma_free_coherent(m->dev, RING_BYTES, ring->descriptors, ring->dma);
}

/* The device is stopped, or has not been started. */
void mistakes_free_rings(struct mistakes *m)
{
	unsigned int slot;

	for (slot = 0; slot < RING_SLOTS; slot++) {
		if (m->frames_dma[slot] != DMA_MAPPING_ERROR)
			unmap_frame(m, slot);
		kfree(m->frames[slot]);
	}
	free_ring(m, &m->rx);
	free_ring(m, &m->tx);
}

int mistakes_start_rings(struct mistakes *m)
{
	unsigned int slot;
	int error;

	for (slot = 0; slot < RING_SLOTS; slot++)
		m->frames_dma[slot] = DMA_MAPPING_ERROR;
	error = alloc_ring(m, &m->tx) ?: alloc_ring(m, &m->rx);
	for (slot = 0; !error && slot < RING_SLOTS; slot++) {
		m->frames[slot] = kmalloc(FRAME_MAX, GFP_KERNEL);
		error = m->frames[slot] ? map_frame(m, slot) : -ENOMEM;
	}
	if (error) {
		mistakes_free_rings(m);
		return error;
	}
	ring_write_address(m->regs, RING_TX_BASE_LO, m->tx.dma);
	ring_write(m->regs, RING_TX_SIZE, RING_SLOTS);
	ring_write_address(m->regs, RING_RX_BASE_LO, m->rx.dma);
	ring_write(m->regs, RING_RX_SIZE, RING_SLOTS);
	ring_write(m->regs, RING_RX_TAIL, RING_SLOTS - 1);
	return 0;
}
