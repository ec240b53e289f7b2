// SPDX-License-Identifier: GPL-2.0-only
/*
 * Segments of several entries of a scatter list, as an IOMMU makes them. There is none,
 * so the entries are copied into one piece of memory.
 */
#include <linux/mm.h>
#include <linux/scatterlist.h>
#include <linux/sizes.h>

#include "dro.h"

#define DRO_SEGMENT_MAX	SZ_64K	/* more is hard to get in atomic context */

/* How many entries a segment can have, and their bytes. */
static unsigned int entries_of_segment(struct dro_hook *hook, struct scatterlist *first,
				       unsigned int entries, size_t *bytes)
{
	size_t most = min_t(size_t, dma_get_max_seg_size(hook->dev), DRO_SEGMENT_MAX);
	struct scatterlist *sg;
	unsigned int i;

	*bytes = 0;
	for_each_sg(first, sg, entries, i) {
		if (*bytes + sg->length > most || dro_is_allocated(hook, sg_phys(sg)))
			break;
		*bytes += sg->length;
	}
	return i;
}

/* Two and more entries as one mapping. NULL: these cannot be; @taken: how many they are. */
struct dro_mapping *dro_merge(struct dro_hook *hook, const struct dro_where *where,
			      struct scatterlist *first, unsigned int entries,
			      enum dma_data_direction dir, unsigned long attrs,
			      unsigned int *taken)
{
	u64 boundary = dma_get_seg_boundary(hook->dev);
	struct dro_mapping *mapping;
	struct scatterlist *sg;
	size_t bytes, done = 0;
	unsigned int i, count = entries_of_segment(hook, first, entries, &bytes);

	if (count < 2 || !bytes)
		return NULL;
	mapping = dro_mapping_new(count);
	if (!mapping)
		return NULL;
	mapping->size = bytes;
	mapping->dir = dir;
	mapping->attrs = attrs;
	mapping->where = *where;
	for_each_sg(first, sg, count, i) {
		mapping->pieces[i] = (struct dro_piece){
			.own = sg_virt(sg),
			.offset = done,
			.length = sg->length,
		};
		done += sg->length;
	}
	if (dro_copy_room(hook, mapping, bytes, offset_in_page(sg_phys(first))))
		goto err_put;
	dro_copy_in(mapping, 0, bytes);
	if (dro_map_copy(hook, mapping, 0))
		goto err_copy;
	if ((mapping->dma & ~boundary) != ((mapping->dma + bytes - 1) & ~boundary)) {
		dro_map_undo(hook, mapping);
		return NULL;
	}
	*taken = count;
	return mapping;

err_copy:
	dro_copy_free(mapping);
err_put:
	dro_mapping_put(mapping);
	return NULL;
}
