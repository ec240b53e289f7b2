// SPDX-License-Identifier: GPL-2.0-only
/* A buffer is mapped for another struct device. */
#include <linux/platform_device.h>
#include "../museum.h"

static int museum_setup(struct museum *museum)
{
	struct platform_device *child;

	child = platform_device_register_data(museum->dev, "museum-child", PLATFORM_DEVID_NONE, NULL, 0);
	if (IS_ERR(child))
		return PTR_ERR(child);
	museum->own = child;
	return dma_coerce_mask_and_coherent(&child->dev, DMA_BIT_MASK(64));
}

static void museum_teardown(struct museum *museum)
{
	platform_device_unregister(museum->own);
}

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	enum dma_data_direction direction = store ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	struct platform_device *child = museum->own;
	struct device *dev = mended ? museum->dev : &child->dev;
	dma_addr_t address;
	int ret;

	address = dma_map_single(dev, data, length, direction);
	if (dma_mapping_error(dev, address))
		return -ENOMEM;
	ret = museum_job(museum, address, length, offset, store);
	dma_unmap_single(dev, address, length, direction);
	return ret;
}
