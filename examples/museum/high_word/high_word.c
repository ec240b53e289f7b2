// SPDX-License-Identifier: GPL-2.0-only
/* The high word of the address is hard-coded to 0. */
#include "../stateless.h"

/* The buffer of the job, low in memory as all was on the first board. */
static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	enum dma_data_direction direction = store ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	unsigned int order = get_order(length);
	struct page *pages = alloc_pages(GFP_KERNEL | GFP_DMA32, order);
	dma_addr_t address;
	int ret = -ENOMEM;

	if (!pages)
		return ret;
	if (!store)
		memcpy(page_address(pages), data, length);
	address = dma_map_page(museum->dev, pages, 0, length, direction);
	if (dma_mapping_error(museum->dev, address))
		goto free;
	ret = museum_job(museum, mended ? address : lower_32_bits(address), length, offset, store);
	dma_unmap_page(museum->dev, address, length, direction);
	if (store && !ret)
		memcpy(data, page_address(pages), length);
free:
	__free_pages(pages, order);
	return ret;
}
