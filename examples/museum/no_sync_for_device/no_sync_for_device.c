// SPDX-License-Identifier: GPL-2.0-only
/* A streaming mapping is taken for coherent memory. */
#include "../kept_mapping.h"

static void to_device(struct museum *museum, dma_addr_t address, size_t length)
{
	if (mended)
		dma_sync_single_for_device(museum->dev, address, length, DMA_TO_DEVICE);
}

static void to_cpu(struct museum *museum, dma_addr_t address, size_t length)
{
	dma_sync_single_for_cpu(museum->dev, address, length, DMA_FROM_DEVICE);
}
