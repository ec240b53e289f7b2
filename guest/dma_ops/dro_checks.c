// SPDX-License-Identifier: GPL-2.0-only
/*
 * The rules of the DMA API that a single call can break. CONFIG_DMA_API_DEBUG knows many
 * of them; its judgement is ours where both have one.
 */
#include <linux/dma-direct.h>
#include <linux/iommu.h>
#include <linux/memremap.h>
#include <linux/mm.h>
#include <linux/pci.h>

#include "dro.h"

/* The call that a call undoes: their numbers differ by this. */
#define DRO_UNDOES	(DR_CALL_FREE_COHERENT - DR_CALL_ALLOC_COHERENT)

/*
 * Each operation begins here, and ends with dro_end(). The driver may have changed the
 * masks of @dev since the last one.
 */
struct dro_hook *dro_begin(struct device *dev, struct dro_where *where, u32 call)
{
	struct dro_hook *hook = dro_hook_of(dev);

	atomic_inc(&hook->inside);
	dro_where(where, call);
	if (dev->dma_mask)
		hook->shadow_mask = *dev->dma_mask;
	hook->shadow->coherent_dma_mask = dev->coherent_dma_mask;
	if (!READ_ONCE(hook->bound))
		dro_report(hook, where, DR_REPORT_CALL_AFTER_UNBIND, &(struct dro_about){});
	return hook;
}

void dro_end(struct dro_hook *hook)
{
	atomic_dec(&hook->inside);
}

/* Where in memory a bus address of this function is. */
phys_addr_t dro_physical(struct dro_hook *hook, dma_addr_t dma)
{
	if (hook->domain)
		return iommu_iova_to_phys(hook->domain, dma);
	return dma_to_phys(hook->shadow, dma);
}

static struct dro_about about_mapping(const struct dro_mapping *mapping)
{
	return (struct dro_about){
		.tag = mapping->tag,
		.address = mapping->dma,
		.length = mapping->size,
		.direction = dro_direction(mapping->dir),
	};
}

/*
 * What cannot be mapped. Of no bytes: an IOMMU's driver may crash. Memory of another
 * device: what it would take, the shadow does not have, as it is not a PCI function.
 */
bool dro_pages_ok(struct dro_hook *hook, const struct dro_where *where, struct page *page,
		  size_t size)
{
	struct dro_about about = { .address = page_to_phys(page), .length = size };

	if (!size && where->call != DR_CALL_MAP_SG) {
		if (hook->bound)
			dro_report(hook, where, DR_REPORT_MAP_OF_NOTHING, &about);
		return !hook->domain;
	}
	if (likely(!is_pci_p2pdma_page(page)))
		return true;
	dro_report(hook, where, DR_REPORT_P2P_REFUSED, &about);
	return false;
}

static void check_masks(struct dro_hook *hook, const struct dro_mapping *mapping)
{
	struct dro_about about = about_mapping(mapping);

	/* A driver may also write the mask itself. */
	if (!hook->mask_set && !hook->mask_reported && hook->shadow_mask == DMA_BIT_MASK(32)) {
		hook->mask_reported = true;
		dro_report(hook, &mapping->where, DR_REPORT_MASK_NEVER_SET, &about);
	}
	if (mapping->size && hook->settings.device_bits < 64 &&
	    (mapping->dma + mapping->size - 1) >> hook->settings.device_bits) {
		about.values[0] = hook->settings.device_bits;
		dro_report(hook, &mapping->where, DR_REPORT_ADDRESS_BEYOND_DEVICE, &about);
	}
}

/* A mapping or an allocation that was made, and that the platform knows. */
void dro_check_made(struct dro_hook *hook, const struct dro_mapping *mapping)
{
	struct dro_about about = about_mapping(mapping);

	if (!hook->bound)
		return;
	check_masks(hook, mapping);
	/* Who leaves out the syncs has none that could overwrite the other mapping's bytes. */
	if (!(mapping->attrs & (DMA_ATTR_SKIP_CPU_SYNC | DMA_ATTR_DEBUGGING_IGNORE_CACHELINES)) &&
	    dro_mapping_overlaps(hook, mapping, &about.values[0], &about.values[1]))
		dro_report(hook, &mapping->where, DR_REPORT_OVERLAPPING_MAPPINGS, &about);
}

/* A page of a program or a file: a program may store to it at any time. */
static bool is_programs(const struct dro_mapping *mapping)
{
	struct folio *folio = virt_to_folio(mapping->pieces[0].own);

	return !folio_test_slab(folio) && folio->mapping;
}

/*
 * At the end of a copy that the device only reads, or when the CPU takes it back: the
 * copy is what was given. If the CPU had it meanwhile, it may differ.
 */
void dro_check_given(struct dro_hook *hook, const struct dro_where *where,
		     const struct dro_mapping *mapping)
{
	struct dro_about about = about_mapping(mapping);
	size_t offset;

	if (!hook->bound || mapping->dir != DMA_TO_DEVICE || mapping->taken ||
	    !dro_copy_differs(mapping, &offset) || is_programs(mapping))
		return;
	about.values[0] = offset;
	dro_report(hook, where, DR_REPORT_NEVER_GIVEN, &about);
}

static bool is_allocation(u32 call)
{
	return call == DR_CALL_ALLOC_COHERENT || call == DR_CALL_ALLOC_PAGES;
}

static void unmap_of_nothing(struct dro_hook *hook, const struct dro_where *where, dma_addr_t dma,
			     size_t size, enum dma_data_direction dir)
{
	struct dro_about about = {
		.address = dma,
		.length = size,
		.direction = dro_direction(dir),
	};
	struct dro_mapping *around;

	if (!hook->bound)
		return;	/* told already, and all that was left is gone */
	if (dma == DMA_MAPPING_ERROR) {
		dro_report(hook, where, DR_REPORT_MAPPING_ERROR_UNCHECKED, &about);
		return;
	}
	/* An address inside a mapping: say which one. */
	around = dro_mapping_around(hook, dma, size, dir);
	if (around) {
		about.tag = around->tag;
		dro_mapping_put(around);
	}
	dro_report(hook, where, DR_REPORT_UNMAP_OF_NOTHING, &about);
}

/*
 * Take out the mapping that an unmap or free ends, and compare them. NULL: there is none
 * that this call can end.
 */
struct dro_mapping *dro_unmap_begin(struct dro_hook *hook, const struct dro_where *where,
				    dma_addr_t dma, size_t size, enum dma_data_direction dir)
{
	u32 maker = where->call - DRO_UNDOES;
	struct dro_mapping *mapping = dro_mapping_take(hook, dma, size, dir, maker);
	struct dro_about about;

	if (!mapping) {
		unmap_of_nothing(hook, where, dma, size, dir);
		return NULL;
	}
	about = about_mapping(mapping);
	if (mapping->where.call != maker) {
		about.values[0] = mapping->where.call;
		dro_report(hook, where, DR_REPORT_UNMAP_CALL, &about);
		/* An unmap frees nothing. */
		if (is_allocation(mapping->where.call) && !is_allocation(maker)) {
			dro_mapping_add(hook, mapping);
			return NULL;
		}
	}
	/* The size of a list's entry is not in the call. */
	if (mapping->size != size && maker != DR_CALL_MAP_SG) {
		about.values[0] = mapping->size;
		about.values[1] = size;
		dro_report(hook, where, DR_REPORT_UNMAP_SIZE, &about);
	}
	if (mapping->dir != dir && maker != DR_CALL_ALLOC_COHERENT) {
		about.values[0] = dro_direction(mapping->dir);
		about.values[1] = dro_direction(dir);
		dro_report(hook, where, DR_REPORT_UNMAP_DIRECTION, &about);
	}
	return mapping;
}
