// SPDX-License-Identifier: GPL-2.0-only
/* Memory that is pinned is taken for mapped. */
#include "../museum.h"

static int museum_setup(struct museum *museum)
{
	return 0;
}

static void museum_teardown(struct museum *museum)
{
}

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	enum dma_data_direction direction = store ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	struct page *page = virt_to_page(data);
	dma_addr_t address;
	int ret;

	get_page(page);
	address = page_to_phys(page) + offset_in_page(data);
	if (mended) {
		address = dma_map_page(museum->dev, page, offset_in_page(data), length, direction);
		if (dma_mapping_error(museum->dev, address)) {
			put_page(page);
			return -ENOMEM;
		}
	}
	ret = museum_job(museum, address, length, offset, store);
	if (mended)
		dma_unmap_page(museum->dev, address, length, direction);
	put_page(page);
	return ret;
}
