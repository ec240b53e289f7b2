// SPDX-License-Identifier: GPL-2.0-only
/*
 * Scatter lists. Each segment is a mapping of its own; the first has the list of them.
 * What the driver does with the list afterwards does not matter: a list is found by the
 * bus address of its first segment.
 */
#include <linux/scatterlist.h>
#include <linux/slab.h>

#include "dro.h"

static void check_segment(struct dro_hook *hook, const struct dro_mapping *mapping)
{
	u64 boundary = dma_get_seg_boundary(hook->dev);
	struct dro_about about = {
		.tag = mapping->tag,
		.address = mapping->dma,
		.length = mapping->size,
		.direction = dro_direction(mapping->dir),
		.values = { mapping->size, dma_get_max_seg_size(hook->dev) },
	};

	if (!hook->bound)
		return;
	if (mapping->size > dma_get_max_seg_size(hook->dev))
		dro_report(hook, &mapping->where, DR_REPORT_SEGMENT_TOO_LONG, &about);
	about.values[1] = boundary;
	if ((mapping->dma & ~boundary) != ((mapping->dma + mapping->size - 1) & ~boundary))
		dro_report(hook, &mapping->where, DR_REPORT_SEGMENT_BOUNDARY, &about);
}

/* Map all entries, and write the segments into them. The platform is not told yet. */
static int map_entries(struct dro_hook *hook, const struct dro_where *where, struct dro_list *list,
		       struct scatterlist *sgl, enum dma_data_direction dir, unsigned long attrs)
{
	struct scatterlist *sg = sgl, *segment = sgl;
	unsigned int i, taken, step;

	for (i = 0; i < list->entries; i += taken) {
		struct dro_mapping *mapping = NULL;

		taken = 1;
		if (hook->settings.merge)
			mapping = dro_merge(hook, where, sg, list->entries - i, dir, attrs, &taken);
		/* An entry of no bytes is a segment, and maps nothing. */
		if (!mapping && sg->length) {
			mapping = dro_map_one(hook, where, sg_phys(sg), sg->length, dir, attrs);
			if (!mapping)
				return -ENOMEM;
		}
		sg_dma_address(segment) = mapping ? mapping->dma : sg_phys(sg);
		sg_dma_len(segment) = mapping ? mapping->size : 0;
		if (mapping)
			list->mappings[list->mappings_count++] = mapping;
		list->segments++;
		segment = sg_next(segment);
		for (step = 0; step < taken; step++)
			sg = sg_next(sg);
	}
	/* A loop over too many entries shall find nothing that looks right. */
	for (i = list->segments; i < list->entries; i++, segment = sg_next(segment)) {
		sg_dma_address(segment) = DMA_MAPPING_ERROR;
		sg_dma_len(segment) = 0;
	}
	return 0;
}

static struct dro_list *new_list(unsigned int entries)
{
	struct dro_list *list;

	list = kzalloc(struct_size(list, mappings, entries), GFP_ATOMIC | __GFP_NOWARN);
	if (list)
		list->entries = entries;
	return list;
}

static int map_list(struct dro_hook *hook, const struct dro_where *where, struct dro_list *list,
		    struct scatterlist *sgl, enum dma_data_direction dir, unsigned long attrs)
{
	struct dro_batch batch;
	unsigned int i;
	int ret = map_entries(hook, where, list, sgl, dir, attrs);

	if (ret) {
		for (i = 0; i < list->mappings_count; i++)
			dro_map_undo(hook, list->mappings[i]);
		kfree(list);
		return ret;
	}
	ret = list->segments;
	if (!list->mappings_count) {
		kfree(list);
		return ret;
	}
	list->mappings[0]->list = list;
	dro_batch_begin(&batch, where);
	for (i = 0; i < list->mappings_count; i++) {
		if (i)
			refcount_inc(&list->mappings[i]->refs);	/* the list's own */
		dro_put_map(hook, &batch, list->mappings[i]);
	}
	dro_batch_finish(hook, &batch);
	for (i = 0; i < list->mappings_count; i++) {
		dro_mapping_add(hook, list->mappings[i]);
		dro_check_made(hook, list->mappings[i]);
		check_segment(hook, list->mappings[i]);
	}
	return ret;
}

int dro_map_sg(struct device *dev, struct scatterlist *sgl, int nents,
	       enum dma_data_direction dir, unsigned long attrs)
{
	struct dro_where where;
	struct dro_hook *hook = dro_begin(dev, &where, DR_CALL_MAP_SG);
	struct dro_list *list = NULL;
	struct scatterlist *sg;
	int i, ret = -ENOMEM;

	if (dro_fails_now())
		goto out;
	for_each_sg(sgl, sg, nents, i) {
		if (!dro_pages_ok(hook, &where, sg_page(sg), sg->length)) {
			ret = -EINVAL;
			goto out;
		}
	}
	if (nents > 0)
		list = new_list(nents);
	if (list)
		ret = map_list(hook, &where, list, sgl, dir, attrs);
out:
	dro_end(hook);
	return ret;
}

/* The first entry that maps something; NULL: none does. */
static struct scatterlist *first_segment(struct scatterlist *sgl, int nents)
{
	struct scatterlist *sg;
	int i;

	for_each_sg(sgl, sg, nents, i)
		if (sg_dma_len(sg))
			return sg;
	return NULL;
}

static void report_entries(struct dro_hook *hook, const struct dro_where *where, u32 kind,
			   const struct dro_mapping *first, int nents)
{
	dro_report(hook, where, kind, &(struct dro_about){
			.tag = first->tag,
			.address = first->dma,
			.length = first->size,
			.direction = dro_direction(first->dir),
			.values = { first->list->entries, nents },
		   });
}

/* All of a list whose first mapping is taken out. */
static void unmap_list(struct dro_hook *hook, const struct dro_where *where,
		       struct dro_mapping *first, unsigned long attrs)
{
	struct dro_list *list = first->list;
	unsigned int i, count = 1;

	/* What another call has ended already is not ours any more. */
	for (i = 1; i < list->mappings_count; i++) {
		struct dro_mapping *each = list->mappings[i];

		if (dro_mapping_claim(hook, each))
			list->mappings[count++] = each;
		else
			dro_mapping_put(each);	/* the list's */
	}
	list->mappings_count = count;
	dro_unmap(hook, where, list->mappings, count, attrs);
	for (i = 1; i < count; i++)
		dro_mapping_put(list->mappings[i]);	/* the tree's; the list's goes with the first */
	dro_mapping_put(first);
}

void dro_unmap_sg(struct device *dev, struct scatterlist *sgl, int nents,
		  enum dma_data_direction dir, unsigned long attrs)
{
	struct dro_where where;
	struct dro_hook *hook = dro_begin(dev, &where, DR_CALL_UNMAP_SG);
	struct scatterlist *sg = first_segment(sgl, nents);
	struct dro_mapping *first;
	int i;

	if (!sg)
		goto out;
	first = dro_unmap_begin(hook, &where, sg_dma_address(sg), sg_dma_len(sg), dir);
	if (first && first->list) {
		if (first->list->entries != nents)
			report_entries(hook, &where, DR_REPORT_UNMAP_NENTS, first, nents);
		unmap_list(hook, &where, first, attrs);
	} else if (first) {
		/* Not a list of ours, or its middle: what its entries say is all there is. */
		for_each_sg(sgl, sg, nents, i) {
			if (!sg_dma_len(sg))
				continue;
			if (!first)
				first = dro_unmap_begin(hook, &where, sg_dma_address(sg),
							sg_dma_len(sg), dir);
			if (!first)
				continue;
			dro_unmap(hook, &where, &first, 1, attrs);
			dro_mapping_put(first);
			first = NULL;
		}
	}
out:
	dro_end(hook);
}

static void sync_list(struct device *dev, struct scatterlist *sgl, int nents,
		      enum dma_data_direction dir, bool for_cpu)
{
	struct dro_where where;
	struct dro_hook *hook = dro_begin(dev, &where, for_cpu ? DR_CALL_SYNC_SG_FOR_CPU :
					  DR_CALL_SYNC_SG_FOR_DEVICE);
	struct scatterlist *sg = first_segment(sgl, nents);
	struct dro_mapping *first;
	unsigned int segment;
	int i;

	if (!sg)
		goto out;
	first = dro_mapping_around(hook, sg_dma_address(sg), sg_dma_len(sg), dir);
	if (first && first->list && first->dma == sg_dma_address(sg)) {
		if (first->list->entries != nents)
			report_entries(hook, &where, DR_REPORT_SYNC_NENTS, first, nents);
		for (segment = 0; segment < first->list->mappings_count; segment++) {
			struct dro_mapping *each = first->list->mappings[segment];

			dro_sync_mapping(hook, &where, each, 0, each->size, dir, for_cpu);
		}
	} else {
		for_each_sg(sgl, sg, nents, i)
			dro_sync_address(hook, &where, sg_dma_address(sg), sg_dma_len(sg), dir,
					 for_cpu);
	}
	if (first)
		dro_mapping_put(first);
out:
	dro_end(hook);
}

void dro_sync_sg_for_cpu(struct device *dev, struct scatterlist *sgl, int nents,
			 enum dma_data_direction dir)
{
	sync_list(dev, sgl, nents, dir, true);
}

void dro_sync_sg_for_device(struct device *dev, struct scatterlist *sgl, int nents,
			    enum dma_data_direction dir)
{
	sync_list(dev, sgl, nents, dir, false);
}
