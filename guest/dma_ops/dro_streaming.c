// SPDX-License-Identifier: GPL-2.0-only
/*
 * Streaming mappings of one piece of memory, and their ends. The kernel's own behaviour
 * (swiotlb, an IOMMU) comes from the shadow device, which has the same masks.
 */
#include <linux/io.h>
#include <linux/mm.h>

#include "dro.h"

/* Map what the device shall find: the copy if there is one, else the memory at @phys. */
int dro_map_copy(struct dro_hook *hook, struct dro_mapping *mapping, phys_addr_t phys)
{
	dma_addr_t dma;

	if (mapping->copy.page)
		phys = virt_to_phys(mapping->copy.address);
	dma = dma_map_page_attrs(hook->shadow, pfn_to_page(PHYS_PFN(phys)), offset_in_page(phys),
				 mapping->size, mapping->dir, mapping->attrs);
	if (dma_mapping_error(hook->shadow, dma))
		return -ENOMEM;
	mapping->dma = dma;
	mapping->phys = dro_physical(hook, dma);
	return 0;
}

/* Let go a mapping that nobody was told of. */
void dro_map_undo(struct dro_hook *hook, struct dro_mapping *mapping)
{
	dma_unmap_page_attrs(hook->shadow, mapping->dma, mapping->size, mapping->dir,
			     DMA_ATTR_SKIP_CPU_SYNC);
	dro_copy_free(mapping);
	dro_mapping_put(mapping);
}

/* Map; the platform is not told yet. NULL: the kernel, or the memory, would not have it. */
struct dro_mapping *dro_map_one(struct dro_hook *hook, const struct dro_where *where,
				phys_addr_t phys, size_t size, enum dma_data_direction dir,
				unsigned long attrs)
{
	struct dro_mapping *mapping = dro_mapping_new(1);

	if (!mapping) {
		dro_report(hook, where, DR_REPORT_RECORDS_EXHAUSTED,
			   &(struct dro_about){ .address = phys, .length = size });
		return NULL;
	}
	mapping->size = size;
	mapping->dir = dir;
	mapping->attrs = attrs;
	mapping->where = *where;
	mapping->piece.own = phys_to_virt(phys);
	mapping->piece.length = size;
	if (dro_copy_make(hook, mapping, phys))
		goto err_put;
	/* All of it, whatever the direction: as swiotlb, so that nothing old shows up. */
	dro_copy_in(mapping, 0, size);
	if (dro_map_copy(hook, mapping, phys))
		goto err_copy;
	return mapping;

err_copy:
	dro_copy_free(mapping);
err_put:
	dro_mapping_put(mapping);
	return NULL;
}

static dma_addr_t map_memory(struct device *dev, phys_addr_t phys, size_t size,
			     enum dma_data_direction dir, unsigned long attrs)
{
	struct dro_mapping *mapping = NULL;
	struct dro_where where;
	struct dro_hook *hook = dro_begin(dev, &where, DR_CALL_MAP_PAGE);
	dma_addr_t dma = DMA_MAPPING_ERROR;
	struct dro_batch batch;

	if (!dro_fails_now() && dro_pages_ok(hook, &where, pfn_to_page(PHYS_PFN(phys)), size))
		mapping = dro_map_one(hook, &where, phys, size, dir, attrs);
	if (mapping) {
		dma = mapping->dma;
		dro_batch_begin(&batch, &where);
		dro_put_map(hook, &batch, mapping);
		dro_batch_finish(hook, &batch);
		dro_mapping_add(hook, mapping);
		dro_check_made(hook, mapping);
	}
	dro_end(hook);
	return dma;
}

static dma_addr_t map_resource(struct device *dev, phys_addr_t phys, size_t size,
			       enum dma_data_direction dir, unsigned long attrs)
{
	struct dro_where where;
	struct dro_hook *hook = dro_begin(dev, &where, DR_CALL_MAP_RESOURCE);
	dma_addr_t dma = DMA_MAPPING_ERROR;
	struct dro_mapping *mapping;
	struct dro_batch batch;

	if (dro_fails_now())
		goto out;
	mapping = dro_mapping_new(1);
	if (!mapping)
		goto out;
	mapping->size = size;
	mapping->dir = dir;
	mapping->attrs = attrs;
	mapping->where = where;
	mapping->phys = phys;
	mapping->dma = dma_map_resource(hook->shadow, phys, size, dir, attrs);
	if (dma_mapping_error(hook->shadow, mapping->dma)) {
		dro_mapping_put(mapping);
		goto out;
	}
	dma = mapping->dma;
	dro_batch_begin(&batch, &where);
	dro_put_map(hook, &batch, mapping);
	dro_batch_finish(hook, &batch);
	dro_mapping_add(hook, mapping);
	dro_check_made(hook, mapping);
out:
	dro_end(hook);
	return dma;
}

/* The kernel's part of an end: what it copies, and what it lets go. */
static void unmap_shadow(struct dro_hook *hook, struct dro_mapping *mapping, unsigned long attrs)
{
	if (mapping->where.call == DR_CALL_MAP_RESOURCE) {
		dma_unmap_resource(hook->shadow, mapping->dma, mapping->size, mapping->dir, attrs);
		return;
	}
	if (!(attrs & DMA_ATTR_SKIP_CPU_SYNC) && mapping->size) {
		dma_sync_single_for_cpu(hook->shadow, mapping->dma, mapping->size, mapping->dir);
		if (mapping->dir != DMA_TO_DEVICE)
			dro_copy_out(mapping, 0, mapping->size);
	}
	dma_unmap_page_attrs(hook->shadow, mapping->dma, mapping->size, mapping->dir,
			     attrs | DMA_ATTR_SKIP_CPU_SYNC);
}

/*
 * The ends of mappings that are taken out, in one batch. The device has no access any
 * more when the kernel's copies begin.
 */
void dro_unmap(struct dro_hook *hook, const struct dro_where *where,
	       struct dro_mapping *const *mappings, unsigned int count, unsigned long attrs)
{
	bool sync = !(attrs & DMA_ATTR_SKIP_CPU_SYNC);
	struct dro_batch batch;
	unsigned int i;

	for (i = 0; i < count && sync; i++) {
		dro_check_given(hook, where, mappings[i]);
		dro_copy_stores(mappings[i], 0, mappings[i]->size);
	}
	dro_batch_begin(&batch, where);
	for (i = 0; i < count; i++)
		dro_put_unmap(&batch, mappings[i], sync);
	dro_batch_finish(hook, &batch);
	for (i = 0; i < count; i++) {
		unmap_shadow(hook, mappings[i], attrs);
		dro_copy_free(mappings[i]);
	}
}

static void unmap(struct device *dev, dma_addr_t dma, size_t size, enum dma_data_direction dir,
		  unsigned long attrs, u32 call)
{
	struct dro_where where;
	struct dro_hook *hook = dro_begin(dev, &where, call);
	struct dro_mapping *mapping = dro_unmap_begin(hook, &where, dma, size, dir);

	if (mapping) {
		dro_unmap(hook, &where, &mapping, 1, attrs);
		dro_mapping_put(mapping);
	}
	dro_end(hook);
}

#if DRO_HAS_MAP_PHYS
dma_addr_t dro_map_phys(struct device *dev, phys_addr_t phys, size_t size,
			enum dma_data_direction dir, unsigned long attrs)
{
	if (attrs & DMA_ATTR_MMIO)
		return map_resource(dev, phys, size, dir, attrs & ~DMA_ATTR_MMIO);
	return map_memory(dev, phys, size, dir, attrs);
}

void dro_unmap_phys(struct device *dev, dma_addr_t dma, size_t size, enum dma_data_direction dir,
		    unsigned long attrs)
{
	if (attrs & DMA_ATTR_MMIO)
		unmap(dev, dma, size, dir, attrs & ~DMA_ATTR_MMIO, DR_CALL_UNMAP_RESOURCE);
	else
		unmap(dev, dma, size, dir, attrs, DR_CALL_UNMAP_PAGE);
}
#else
dma_addr_t dro_map_page(struct device *dev, struct page *page, unsigned long offset, size_t size,
			enum dma_data_direction dir, unsigned long attrs)
{
	return map_memory(dev, page_to_phys(page) + offset, size, dir, attrs);
}

void dro_unmap_page(struct device *dev, dma_addr_t dma, size_t size, enum dma_data_direction dir,
		    unsigned long attrs)
{
	unmap(dev, dma, size, dir, attrs, DR_CALL_UNMAP_PAGE);
}

dma_addr_t dro_map_resource(struct device *dev, phys_addr_t phys, size_t size,
			    enum dma_data_direction dir, unsigned long attrs)
{
	return map_resource(dev, phys, size, dir, attrs);
}

void dro_unmap_resource(struct device *dev, dma_addr_t dma, size_t size,
			enum dma_data_direction dir, unsigned long attrs)
{
	unmap(dev, dma, size, dir, attrs, DR_CALL_UNMAP_RESOURCE);
}
#endif
