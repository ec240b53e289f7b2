// SPDX-License-Identifier: GPL-2.0-only
/* MISTAKES_LIST: a transfer in pieces. The device gets the list in coherent memory. */
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "mistakes.h"

/* Pages of one allocation, an entry each, so that whoever merges can merge them. */
static int fill_table(struct sg_table *table, struct page *pages, size_t length)
{
	size_t piece = mistaken(SEGMENT_TOO_LONG) ? length : PAGE_SIZE;
	struct scatterlist *sg;
	int error, i;

	error = sg_alloc_table(table, DIV_ROUND_UP(length, piece), GFP_KERNEL);
	if (error)
		return error;
	for_each_sgtable_sg(table, sg, i)
		sg_set_page(sg, pages + i * piece / PAGE_SIZE,
			    min(piece, length - i * piece), 0);
	return 0;
}

static void unmap_table(struct mistakes *m, struct sg_table *table)
{
	struct scatterlist *sg;
	int i;

	if (mistaken(UNMAP_NENTS))
		dma_unmap_sg(m->dev, table->sgl, table->nents, DMA_TO_DEVICE);
	else if (mistaken(UNMAP_CALL))
		for_each_sgtable_dma_sg(table, sg, i)
			dma_unmap_page(m->dev, sg_dma_address(sg), sg_dma_len(sg), DMA_TO_DEVICE);
	else
		dma_unmap_sg(m->dev, table->sgl, table->orig_nents, DMA_TO_DEVICE);
}

int mistakes_list(struct mistakes *m, struct mistakes_buffer *argument)
{
	size_t length = argument->length, size;
	unsigned int order, entries;
	struct ring_segment *segments;
	dma_addr_t segments_dma;
	struct scatterlist *sg;
	struct sg_table table;
	struct page *pages;
	int error, i;

	if (!length || length > 4 * TRANSFER_MAX)
		return -EINVAL;
	order = get_order(length);
	pages = alloc_pages(GFP_KERNEL | __GFP_COMP, order);
	if (!pages)
		return -ENOMEM;
	error = -EFAULT;
	if (copy_from_user(page_address(pages), u64_to_user_ptr(argument->data), length))
		goto free_pages;
	error = fill_table(&table, pages, length);
	if (error)
		goto free_pages;
	size = table.orig_nents * sizeof(*segments);
	segments = dma_alloc_coherent(m->dev, size, &segments_dma, GFP_KERNEL);
	error = -ENOMEM;
	if (!segments)
		goto free_table;
	table.nents = dma_map_sg(m->dev, table.sgl, table.orig_nents, DMA_TO_DEVICE);
	if (!table.nents)
		goto free_segments;
	entries = mistaken(ORIG_NENTS) ? table.orig_nents : table.nents;
	for_each_sg(table.sgl, sg, entries, i) {
		segments[i].address = cpu_to_le64(sg_dma_address(sg));
		segments[i].length = cpu_to_le32(sg_dma_len(sg));
	}
	ring_write(m->regs, RING_JOB_SEGMENTS, entries);
	mistakes_start_job(m, RING_JOB_LOAD | RING_JOB_SOURCE_LIST, RING_JOB_SOURCE_LO,
			   segments_dma, length);
	error = mistakes_wait_job(m);
	if (!error)
		m->length = length;
	unmap_table(m, &table);
free_segments:
	dma_free_coherent(m->dev, size, segments, segments_dma);
free_table:
	sg_free_table(&table);
free_pages:
	__free_pages(pages, order);
	return error;
}
