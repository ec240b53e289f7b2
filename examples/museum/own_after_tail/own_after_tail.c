// SPDX-License-Identifier: GPL-2.0-only
/* The descriptor is given away after the doorbell. */
#include "../coherent_ring.h"

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	struct ring *ring = museum->own;
	struct museum_descriptor *descriptor = &ring->descriptor[ring->tail];
	u32 flags = MUSEUM_OWN | MUSEUM_LAST | (store ? MUSEUM_RING_STORE : 0);
	int ret;

	if (!store)
		memcpy(ring->data, data, length);
	descriptor->address = cpu_to_le64(ring->data_address);
	descriptor->length = cpu_to_le32(length);
	ring->tail = (ring->tail + 1) % DESCRIPTORS;
	writel(offset, museum->regs + MUSEUM_OFFSET);
	reinit_completion(&museum->done);
	if (mended) {
		dma_wmb();
		descriptor->flags = cpu_to_le32(flags);
		writel(ring->tail, museum->regs + MUSEUM_RING_TAIL);
	} else {
		writel(ring->tail, museum->regs + MUSEUM_RING_TAIL);
		descriptor->flags = cpu_to_le32(flags);
	}
	ret = museum_wait(museum);
	if (store && !ret)
		memcpy(data, ring->data, length);
	return ret;
}
