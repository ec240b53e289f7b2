/* SPDX-License-Identifier: GPL-2.0-only */
/* A transfer by a scatter list, each of whose entries is a job. */
#ifndef ENTRY_LIST_H
#define ENTRY_LIST_H

#include "museum.h"

#ifndef ENTRY
#define ENTRY SZ_1K	/* bytes */
#endif

/* How many entries a driver gives to the device, and how many it unmaps. */
static int entries_to_send(int orig_nents, int nents);
static int entries_to_unmap(int orig_nents, int nents);

/* Return a list of the buffer's parts in ``table``, which the caller frees. */
static int list_of(struct sg_table *table, u8 *data, size_t length)
{
	struct scatterlist *sg;
	int i, ret;

	ret = sg_alloc_table(table, DIV_ROUND_UP(length, ENTRY), GFP_KERNEL);
	if (ret)
		return ret;
	for_each_sg(table->sgl, sg, table->orig_nents, i)
		sg_set_buf(sg, data + i * ENTRY, min_t(size_t, ENTRY, length - i * ENTRY));
	return 0;
}

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
	struct sg_table table;
	struct scatterlist *sg;
	int i, nents, ret;

	ret = list_of(&table, data, length);
	if (ret)
		return ret;
	nents = dma_map_sg(museum->dev, table.sgl, table.orig_nents, direction);
	if (!nents) {
		ret = -ENOMEM;
		goto free;
	}
	for_each_sg(table.sgl, sg, entries_to_send(table.orig_nents, nents), i) {
		ret = museum_job(museum, sg_dma_address(sg), sg_dma_len(sg), offset, store);
		if (ret)
			break;
		offset += sg_dma_len(sg);
	}
	dma_unmap_sg(museum->dev, table.sgl, entries_to_unmap(table.orig_nents, nents), direction);
free:
	sg_free_table(&table);
	return ret;
}

#endif
