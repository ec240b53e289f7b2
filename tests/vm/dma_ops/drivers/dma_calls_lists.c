// SPDX-License-Identifier: GPL-2.0-only
/* Scatter lists, right ones. */
#include <linux/scatterlist.h>
#include <linux/slab.h>

#include "dma_calls.h"

#define ENTRIES	6

static int make_list(struct device *dev, struct sg_table *table, size_t each)
{
	struct scatterlist *sg;
	unsigned int i;

	CHECK(dev, !sg_alloc_table(table, ENTRIES, GFP_KERNEL));
	for_each_sg(table->sgl, sg, ENTRIES, i) {
		u8 *memory = kmalloc(each, GFP_KERNEL);

		CHECK(dev, memory);
		memset(memory, i + 1, each);
		sg_set_buf(sg, memory, each);
	}
	return 0;
}

static int free_list(struct device *dev, struct sg_table *table)
{
	struct scatterlist *sg;
	unsigned int i, j;

	for_each_sg(table->sgl, sg, ENTRIES, i) {
		u8 *memory = sg_virt(sg);

		for (j = 0; j < sg->length; j++)
			CHECK(dev, memory[j] == i + 1);
		kfree(memory);
	}
	sg_free_table(table);
	return 0;
}

static size_t bytes_of(struct scatterlist *sgl, unsigned int segments)
{
	struct scatterlist *sg;
	unsigned int i;
	size_t bytes = 0;

	for_each_sg(sgl, sg, segments, i)
		bytes += sg_dma_len(sg);
	return bytes;
}

/* The segments that come back have all bytes, whatever was joined. */
static int lists(struct device *dev)
{
	static const size_t sizes[] = { 20, 512, 3000, 8192 };
	struct sg_table table;
	unsigned int i;
	int ret, count;

	for (i = 0; i < ARRAY_SIZE(sizes); i++) {
		ret = make_list(dev, &table, sizes[i]);
		if (ret)
			return ret;
		count = dma_map_sg(dev, table.sgl, ENTRIES, DMA_BIDIRECTIONAL);
		CHECK(dev, count > 0 && count <= ENTRIES);
		CHECK(dev, bytes_of(table.sgl, count) == ENTRIES * sizes[i]);
		dma_sync_sg_for_cpu(dev, table.sgl, ENTRIES, DMA_BIDIRECTIONAL);
		dma_sync_sg_for_device(dev, table.sgl, ENTRIES, DMA_BIDIRECTIONAL);
		dma_unmap_sg(dev, table.sgl, ENTRIES, DMA_BIDIRECTIONAL);
		ret = free_list(dev, &table);
		if (ret)
			return ret;
	}
	return 0;
}

static int tables(struct device *dev)
{
	struct sg_table table;
	int ret = make_list(dev, &table, 700);

	if (ret)
		return ret;
	CHECK(dev, !dma_map_sgtable(dev, &table, DMA_TO_DEVICE, 0));
	CHECK(dev, bytes_of(table.sgl, table.nents) == ENTRIES * 700);
	dma_sync_sgtable_for_cpu(dev, &table, DMA_TO_DEVICE);
	dma_sync_sgtable_for_device(dev, &table, DMA_TO_DEVICE);
	dma_unmap_sgtable(dev, &table, DMA_TO_DEVICE, 0);
	return free_list(dev, &table);
}

/* Fewer segments than entries: what is behind them shall not look like one. */
static int merged(struct device *dev)
{
	struct sg_table table;
	struct scatterlist *last;
	int ret = make_list(dev, &table, 700);

	if (ret)
		return ret;
	CHECK(dev, dma_map_sg(dev, table.sgl, ENTRIES, DMA_TO_DEVICE) == 1);
	CHECK(dev, sg_dma_len(table.sgl) == ENTRIES * 700);
	last = sg_last(table.sgl, ENTRIES);
	CHECK(dev, !sg_dma_len(last) && sg_dma_address(last) == DMA_MAPPING_ERROR);
	dma_unmap_sg(dev, table.sgl, ENTRIES, DMA_TO_DEVICE);
	/* Within what the device takes. */
	dma_set_max_seg_size(dev, 1500);
	CHECK(dev, dma_map_sg(dev, table.sgl, ENTRIES, DMA_TO_DEVICE) == ENTRIES / 2);
	dma_unmap_sg(dev, table.sgl, ENTRIES, DMA_TO_DEVICE);
	dma_set_max_seg_size(dev, SZ_64K);
	return free_list(dev, &table);
}

/* An entry of no bytes, at the beginning and between others. */
static int empty_entries(struct device *dev)
{
	struct scatterlist sgl[4];
	u8 *memory = kmalloc(4096, GFP_KERNEL);
	int count;

	CHECK(dev, memory);
	sg_init_table(sgl, 4);
	sg_set_buf(&sgl[0], memory, 0);
	sg_set_buf(&sgl[1], memory, 100);
	sg_set_buf(&sgl[2], memory + 200, 0);
	sg_set_buf(&sgl[3], memory + 1000, 100);
	count = dma_map_sg(dev, sgl, 4, DMA_TO_DEVICE);
	CHECK(dev, count > 0);
	CHECK(dev, bytes_of(sgl, count) == 200);
	dma_unmap_sg(dev, sgl, 4, DMA_TO_DEVICE);
	kfree(memory);
	return 0;
}

const struct dma_case list_cases[] = {
	{ "lists", lists },
	{ "tables", tables },
	{ "merged", merged },
	{ "empty_entries", empty_entries },
	{ }
};
