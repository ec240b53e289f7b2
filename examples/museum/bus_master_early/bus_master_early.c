// SPDX-License-Identifier: GPL-2.0-only
/* Bus mastering is on before the device is reset. */
static void quiesce(void __iomem *regs);
#define MUSEUM_BEFORE_MASTER(museum) quiesce((museum)->regs)
#include "../stateless.h"

#define FORGET 3	/* a command of this device: drop all jobs */

static void quiesce(void __iomem *regs)
{
	if (mended) {
		writel(FORGET, regs + MUSEUM_COMMAND);
		readl(regs + MUSEUM_STATUS);
	}
}

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	enum dma_data_direction direction = store ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	dma_addr_t address;
	int ret;

	address = dma_map_single(museum->dev, data, length, direction);
	if (dma_mapping_error(museum->dev, address))
		return -ENOMEM;
	ret = museum_job(museum, address, length, offset, store);
	dma_unmap_single(museum->dev, address, length, direction);
	return ret;
}
