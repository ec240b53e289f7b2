// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory that the DMA API allocates: coherent (uncached, on a board that does not snoop)
 * and pages, which need syncs as a streaming mapping does. dma pools, dmam_* and
 * dma_alloc_noncontiguous() come here, too.
 */
#include <linux/irqflags.h>
#include <linux/mm.h>

#include "dro.h"

static struct dro_mapping *new_allocation(struct dro_hook *hook, const struct dro_where *where,
					  size_t size, enum dma_data_direction dir,
					  unsigned long attrs)
{
	struct dro_mapping *mapping = dro_mapping_new(1);

	if (!mapping) {
		dro_report(hook, where, DR_REPORT_RECORDS_EXHAUSTED,
			   &(struct dro_about){ .length = size });
		return NULL;
	}
	mapping->size = size;
	mapping->dir = dir;
	mapping->attrs = attrs;
	mapping->where = *where;
	return mapping;
}

static void announce(struct dro_hook *hook, struct dro_mapping *mapping)
{
	struct dro_batch batch;

	mapping->phys = dro_physical(hook, mapping->dma);
	dro_batch_begin(&batch, &mapping->where);
	dro_put_map(hook, &batch, mapping);
	dro_batch_finish(hook, &batch);
	dro_mapping_add(hook, mapping);
	dro_check_made(hook, mapping);
}

/* Free what was allocated, as it was: the arguments of the free may be wrong. */
static void end_allocation(struct dro_hook *hook, const struct dro_where *where,
			   struct dro_mapping *mapping)
{
	bool pages = mapping->where.call == DR_CALL_ALLOC_PAGES;
	struct dro_batch batch;

	if (!pages && mapping->where.call != DR_CALL_ALLOC_COHERENT) {
		/* A free of what was only mapped. */
		dro_unmap(hook, where, &mapping, 1, 0);
		dro_mapping_put(mapping);
		return;
	}
	dro_batch_begin(&batch, where);
	dro_put_unmap(&batch, mapping, false);
	dro_batch_finish(hook, &batch);
	if (pages)
		dma_free_pages(hook->shadow, mapping->size, mapping->cpu, mapping->dma,
			       mapping->dir);
	else
		dma_free_attrs(hook->shadow, mapping->size, mapping->cpu, mapping->dma,
			       mapping->attrs);
	dro_mapping_put(mapping);
}

void *dro_alloc(struct device *dev, size_t size, dma_addr_t *dma, gfp_t gfp, unsigned long attrs)
{
	struct dro_where where;
	struct dro_hook *hook = dro_begin(dev, &where, DR_CALL_ALLOC_COHERENT);
	struct dro_mapping *mapping = NULL;
	void *cpu = NULL;

	/* Behind an IOMMU memory may be scattered; a track is one piece of it. */
	if (hook->domain)
		attrs |= DMA_ATTR_FORCE_CONTIGUOUS;
	if (!dro_fails_now())
		mapping = new_allocation(hook, &where, size, DMA_BIDIRECTIONAL, attrs);
	if (!mapping)
		goto out;
	cpu = dma_alloc_attrs(hook->shadow, size, dma, gfp, attrs);
	if (!cpu) {
		dro_mapping_put(mapping);
		goto out;
	}
	mapping->cpu = cpu;
	mapping->dma = *dma;
	announce(hook, mapping);
out:
	dro_end(hook);
	return cpu;
}

/* A free names the memory twice: what the CPU calls it is held against the allocation. */
static void check_address(struct dro_hook *hook, const struct dro_where *where,
			  const struct dro_mapping *mapping, const void *cpu, u32 maker)
{
	struct dro_about about = {
		.tag = mapping->tag,
		.address = mapping->dma,
		.length = mapping->size,
		.direction = dro_direction(mapping->dir),
		.values = { (unsigned long)mapping->cpu, (unsigned long)cpu },
	};

	if (mapping->where.call == maker && mapping->cpu != cpu)
		dro_report(hook, where, DR_REPORT_FREE_ADDRESS, &about);
}

void dro_free(struct device *dev, size_t size, void *cpu, dma_addr_t dma, unsigned long attrs)
{
	struct dro_where where;
	struct dro_hook *hook = dro_begin(dev, &where, DR_CALL_FREE_COHERENT);
	struct dro_mapping *mapping;
	struct dro_about about;

	mapping = dro_unmap_begin(hook, &where, dma, size, DMA_BIDIRECTIONAL);
	if (!mapping)
		goto out;
	about = (struct dro_about){
		.tag = mapping->tag,
		.address = mapping->dma,
		.length = mapping->size,
		.direction = dro_direction(mapping->dir),
	};
	if (irqs_disabled())
		dro_report(hook, &where, DR_REPORT_FREE_IN_ATOMIC, &about);
	check_address(hook, &where, mapping, cpu, DR_CALL_ALLOC_COHERENT);
	end_allocation(hook, &where, mapping);
out:
	dro_end(hook);
}

struct page *dro_alloc_pages(struct device *dev, size_t size, dma_addr_t *dma,
			     enum dma_data_direction dir, gfp_t gfp)
{
	struct dro_where where;
	struct dro_hook *hook = dro_begin(dev, &where, DR_CALL_ALLOC_PAGES);
	struct dro_mapping *mapping = NULL;
	struct page *page = NULL;

	if (!dro_fails_now())
		mapping = new_allocation(hook, &where, size, dir, 0);
	if (!mapping)
		goto out;
	page = dma_alloc_pages(hook->shadow, size, dma, dir, gfp);
	if (!page) {
		dro_mapping_put(mapping);
		goto out;
	}
	mapping->cpu = page;
	mapping->dma = *dma;
	announce(hook, mapping);
out:
	dro_end(hook);
	return page;
}

void dro_free_pages(struct device *dev, size_t size, struct page *page, dma_addr_t dma,
		    enum dma_data_direction dir)
{
	struct dro_where where;
	struct dro_hook *hook = dro_begin(dev, &where, DR_CALL_FREE_PAGES);
	struct dro_mapping *mapping = dro_unmap_begin(hook, &where, dma, size, dir);

	if (mapping) {
		check_address(hook, &where, mapping, page, DR_CALL_ALLOC_PAGES);
		end_allocation(hook, &where, mapping);
	}
	dro_end(hook);
}

int dro_mmap(struct device *dev, struct vm_area_struct *vma, void *cpu, dma_addr_t dma,
	     size_t size, unsigned long attrs)
{
	struct dro_where where;
	struct dro_hook *hook = dro_begin(dev, &where, DR_CALL_MMAP);
	int ret = dma_mmap_attrs(hook->shadow, vma, cpu, dma, size, attrs);

	dro_end(hook);
	return ret;
}

int dro_get_sgtable(struct device *dev, struct sg_table *sgt, void *cpu, dma_addr_t dma,
		    size_t size, unsigned long attrs)
{
	struct dro_where where;
	struct dro_hook *hook = dro_begin(dev, &where, DR_CALL_GET_SGTABLE);
	int ret = dma_get_sgtable_attrs(hook->shadow, sgt, cpu, dma, size, attrs);

	dro_end(hook);
	return ret;
}
