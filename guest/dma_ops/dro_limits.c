// SPDX-License-Identifier: GPL-2.0-only
/*
 * Masks, and what the kernel says of its own limits. The table of all operations is here.
 */
#include <linux/dma-mapping.h>
#include <linux/minmax.h>
#include <linux/sizes.h>

#include "dro.h"

/* dma_set_mask() and dma_set_coherent_mask() both ask this, and set the mask afterwards. */
int dro_dma_supported(struct device *dev, u64 mask)
{
	struct dro_where where;
	struct dro_hook *hook = dro_begin(dev, &where, DR_CALL_SET_MASK);
	unsigned int bits = hook->settings.device_bits;
	int supported;

	hook->mask_set = true;
	if (bits < 64 && mask >> bits && mask != hook->mask_told) {
		hook->mask_told = mask;
		dro_report(hook, &where, DR_REPORT_MASK_BEYOND_DEVICE,
			   &(struct dro_about){ .values = { mask, bits } });
	}
	/* The next call takes over what the driver's device then has. */
	supported = !dma_set_mask(hook->shadow, mask);
	dro_end(hook);
	return supported;
}

u64 dro_required_mask(struct device *dev)
{
	return dma_get_required_mask(dro_hook_of(dev)->shadow);
}

/* Of a copy, as of swiotlb's, there cannot be any length. */
size_t dro_max_mapping_size(struct device *dev)
{
	struct dro_hook *hook = dro_hook_of(dev);
	size_t most = dma_max_mapping_size(hook->shadow);

	return hook->settings.bounce ? min_t(size_t, most, SZ_256K) : most;
}

unsigned long dro_merge_boundary(struct device *dev)
{
	return dma_get_merge_boundary(dro_hook_of(dev)->shadow);
}

/*
 * Left out: alloc_noncontiguous, as alloc_pages serves it, and opt_mapping_size, which
 * is not told of which device (dro_hook.c takes the former operations').
 */
const struct dma_map_ops dro_operations = {
	.alloc = dro_alloc,
	.free = dro_free,
	.DRO_ALLOC_PAGES = dro_alloc_pages,
	.free_pages = dro_free_pages,
	.mmap = dro_mmap,
	.get_sgtable = dro_get_sgtable,
#if DRO_HAS_MAP_PHYS
	.map_phys = dro_map_phys,
	.unmap_phys = dro_unmap_phys,
#else
	.map_page = dro_map_page,
	.unmap_page = dro_unmap_page,
	.map_resource = dro_map_resource,
	.unmap_resource = dro_unmap_resource,
#endif
	.map_sg = dro_map_sg,
	.unmap_sg = dro_unmap_sg,
	.sync_single_for_cpu = dro_sync_for_cpu,
	.sync_single_for_device = dro_sync_for_device,
	.sync_sg_for_cpu = dro_sync_sg_for_cpu,
	.sync_sg_for_device = dro_sync_sg_for_device,
	.dma_supported = dro_dma_supported,
	.get_required_mask = dro_required_mask,
	.max_mapping_size = dro_max_mapping_size,
	.get_merge_boundary = dro_merge_boundary,
};
