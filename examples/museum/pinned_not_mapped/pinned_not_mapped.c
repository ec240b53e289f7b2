// SPDX-License-Identifier: GPL-2.0-only
/* Memory that is pinned is taken for mapped. */
#include "../stateless.h"

/* Pages of the driver's own stand for those of a program, which it holds by get_page(). */
static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	enum dma_data_direction direction = store ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	unsigned int order = get_order(length);
	struct page *page = alloc_pages(GFP_KERNEL | __GFP_COMP, order);
	dma_addr_t address;
	int ret = -ENOMEM;

	if (!page)
		return ret;
	get_page(page);
	if (!store)
		memcpy(page_address(page), data, length);
	address = page_to_phys(page);
	if (mended) {
		address = dma_map_page(museum->dev, page, 0, length, direction);
		if (dma_mapping_error(museum->dev, address))
			goto put;
	}
	ret = museum_job(museum, address, length, offset, store);
	if (mended)
		dma_unmap_page(museum->dev, address, length, direction);
	if (store && !ret)
		memcpy(data, page_address(page), length);
put:
	put_page(page);
	__free_pages(page, order);
	return ret;
}
