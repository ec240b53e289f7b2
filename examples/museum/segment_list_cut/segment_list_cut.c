// SPDX-License-Identifier: GPL-2.0-only
/* The segment list is cut at 32 entries. */
#include "../museum.h"

static int museum_setup(struct museum *museum)
{
	return 0;
}

static void museum_teardown(struct museum *museum)
{
}

#define ENTRY SZ_512
#define SEGMENTS 32	/* of the device */

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	enum dma_data_direction direction = store ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	struct sg_table table;
	struct scatterlist *sg;
	int i, nents, ret;

	ret = sg_alloc_table(&table, DIV_ROUND_UP(length, ENTRY), GFP_KERNEL);
	if (ret)
		return ret;
	for_each_sg(table.sgl, sg, table.orig_nents, i)
		sg_set_buf(sg, data + i * ENTRY, min_t(size_t, ENTRY, length - i * ENTRY));
	nents = dma_map_sg(museum->dev, table.sgl, table.orig_nents, direction);
	if (!nents) {
		ret = -ENOMEM;
		goto free;
	}
	for_each_sg(table.sgl, sg, mended ? nents : min(nents, SEGMENTS), i) {
		ret = museum_job(museum, sg_dma_address(sg), sg_dma_len(sg), offset, store);
		if (ret)
			break;
		offset += sg_dma_len(sg);
	}
	dma_unmap_sg(museum->dev, table.sgl, table.orig_nents, direction);
free:
	sg_free_table(&table);
	return ret;
}
