// SPDX-License-Identifier: GPL-2.0-only
/*
 * Syncs of a mapping or a part of it. The model's lines and the kernel's copies follow
 * one another: the device's bytes first reach the memory that the device has, then the
 * driver's own; the driver's go the other way.
 */
#include <linux/dma-mapping.h>
#include <linux/minmax.h>

#include "dro.h"

/* Whether bytes that were given to the device are among these. */
static bool holds_given(const struct dro_mapping *mapping, size_t offset, size_t length)
{
	return offset < mapping->given_offset + mapping->given_length &&
	       mapping->given_offset < offset + length && mapping->given_length;
}

/*
 * What was given to the device, and given again without a sync for the CPU in between,
 * was never looked at. Not so a mapping that skips syncs, as page_pool's: its pages may
 * come back unused. Nor the first time: some drivers give what is the device's already.
 */
static void check_taken(struct dro_hook *hook, const struct dro_where *where,
			struct dro_mapping *mapping, size_t offset, size_t length)
{
	bool again = holds_given(mapping, offset, length);

	mapping->given_offset = offset;
	mapping->given_length = length;
	if (again && mapping->dir == DMA_FROM_DEVICE && mapping->where.call != DR_CALL_ALLOC_PAGES &&
	    !(mapping->attrs & DMA_ATTR_SKIP_CPU_SYNC))
		dro_report(hook, where, DR_REPORT_NEVER_TAKEN_BACK,
			   &(struct dro_about){
				.tag = mapping->tag,
				.address = mapping->dma + offset,
				.length = length,
				.direction = dro_direction(mapping->dir),
			   });
}

static void sync_for_cpu(struct dro_hook *hook, const struct dro_where *where,
			 struct dro_mapping *mapping, size_t offset, size_t length,
			 enum dma_data_direction dir)
{
	bool copies = dir != DMA_TO_DEVICE;
	bool announced = copies && mapping->tracked && !mapping->copy.before &&
			 dro_bounces(mapping);
	struct dro_batch batch;

	dro_check_given(hook, where, mapping);
	if (holds_given(mapping, offset, length))
		mapping->given_length = 0;
	mapping->taken = true;
	/* With the wrong direction no machine invalidates anything. */
	if (mapping->tracked && (copies || mapping->dir == DMA_TO_DEVICE ||
				 mapping->dir == DMA_BIDIRECTIONAL)) {
		dro_copy_stores(mapping, offset, length);
		dro_batch_begin(&batch, where);
		dro_put_sync(&batch, mapping, DR_MAIL_SYNC_FOR_CPU, offset, length,
			     mapping->dir == DMA_BIDIRECTIONAL ? dir : mapping->dir);
		if (announced)
			dro_put_own(&batch, mapping, DR_MAIL_ANNOUNCE_BEGIN, offset, length);
		dro_batch_finish(hook, &batch);
	}
	dma_sync_single_for_cpu(hook->shadow, mapping->dma + offset, length, dir);
	if (copies)
		dro_copy_out(mapping, offset, length);
	if (announced) {
		dro_batch_begin(&batch, where);
		dro_put_own(&batch, mapping, DR_MAIL_ANNOUNCE_END, offset, length);
		dro_batch_finish(hook, &batch);
	}
}

static void sync_for_device(struct dro_hook *hook, const struct dro_where *where,
			    struct dro_mapping *mapping, size_t offset, size_t length,
			    enum dma_data_direction dir)
{
	struct dro_batch batch;

	check_taken(hook, where, mapping, offset, length);
	if (!offset && length == mapping->size)
		mapping->taken = false;
	/* Of a small object each line is written back, whatever the direction. */
	if (mapping->copy.before)
		dro_copy_stores(mapping, offset, length);
	else if (dir != DMA_FROM_DEVICE)
		dro_copy_in(mapping, offset, length);
	dma_sync_single_for_device(hook->shadow, mapping->dma + offset, length, dir);
	if (!mapping->tracked)
		return;
	dro_batch_begin(&batch, where);
	dro_put_sync(&batch, mapping, DR_MAIL_SYNC_FOR_DEVICE, offset, length,
		     mapping->dir == DMA_BIDIRECTIONAL ? dir : mapping->dir);
	dro_batch_finish(hook, &batch);
}

void dro_sync_mapping(struct dro_hook *hook, const struct dro_where *where,
		      struct dro_mapping *mapping, size_t offset, size_t length,
		      enum dma_data_direction dir, bool for_cpu)
{
	struct dro_about about = {
		.tag = mapping->tag,
		.address = mapping->dma + offset,
		.length = length,
		.direction = dro_direction(dir),
	};

	if (length > mapping->size - offset) {
		about.values[0] = mapping->size;
		about.values[1] = offset + length;
		dro_report(hook, where, DR_REPORT_SYNC_PAST_END, &about);
		length = mapping->size - offset;
	}
	if (mapping->dir != DMA_BIDIRECTIONAL && mapping->dir != dir) {
		about.values[0] = dro_direction(mapping->dir);
		about.values[1] = dro_direction(dir);
		dro_report(hook, where, DR_REPORT_SYNC_DIRECTION, &about);
	}
	/* Coherent memory and other devices' registers have nothing to sync. */
	if (!length || mapping->where.call == DR_CALL_ALLOC_COHERENT ||
	    mapping->where.call == DR_CALL_MAP_RESOURCE)
		return;
	if (for_cpu)
		sync_for_cpu(hook, where, mapping, offset, length, dir);
	else
		sync_for_device(hook, where, mapping, offset, length, dir);
}

void dro_sync_address(struct dro_hook *hook, const struct dro_where *where, dma_addr_t dma,
		      size_t size, enum dma_data_direction dir, bool for_cpu)
{
	struct dro_mapping *mapping = dro_mapping_around(hook, dma, size, dir);
	struct dro_about about = {
		.address = dma,
		.length = size,
		.direction = dro_direction(dir),
	};

	if (mapping) {
		dro_sync_mapping(hook, where, mapping, dma - mapping->dma, size, dir, for_cpu);
		dro_mapping_put(mapping);
	} else if (hook->bound && size) {
		dro_report(hook, where, dma == DMA_MAPPING_ERROR ?
			   DR_REPORT_MAPPING_ERROR_UNCHECKED : DR_REPORT_SYNC_OF_NOTHING, &about);
	}
}

void dro_sync_for_cpu(struct device *dev, dma_addr_t dma, size_t size, enum dma_data_direction dir)
{
	struct dro_where where;
	struct dro_hook *hook = dro_begin(dev, &where, DR_CALL_SYNC_SINGLE_FOR_CPU);

	dro_sync_address(hook, &where, dma, size, dir, true);
	dro_end(hook);
}

void dro_sync_for_device(struct device *dev, dma_addr_t dma, size_t size,
			 enum dma_data_direction dir)
{
	struct dro_where where;
	struct dro_hook *hook = dro_begin(dev, &where, DR_CALL_SYNC_SINGLE_FOR_DEVICE);

	dro_sync_address(hook, &where, dma, size, dir, false);
	dro_end(hook);
}
