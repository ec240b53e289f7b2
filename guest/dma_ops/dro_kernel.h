/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Differences between kernel versions: 6.1 is the oldest. Each has the release from
 * which on the newer form holds.
 */
#ifndef DRO_KERNEL_H
#define DRO_KERNEL_H

#include <linux/device.h>
#include <linux/dma-map-ops.h>
#include <linux/version.h>

/* 6.11 renamed the configuration's symbol, and took struct device's member along. */
#if !IS_ENABLED(CONFIG_DMA_OPS) && !IS_ENABLED(CONFIG_ARCH_HAS_DMA_OPS)
#error "this kernel has neither CONFIG_DMA_OPS nor CONFIG_ARCH_HAS_DMA_OPS (CONFIG_XEN selects it on x86)"
#endif

/* 6.10: the operation has a name that is not a macro of the allocator. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0)
#define DRO_ALLOC_PAGES alloc_pages_op
#else
#define DRO_ALLOC_PAGES alloc_pages
#endif

/* 6.19: map_phys is in the place of map_page and map_resource. */
#define DRO_HAS_MAP_PHYS (LINUX_VERSION_CODE >= KERNEL_VERSION(6, 19, 0))

/* 7.1: bits in place of members, with functions for them. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 1, 0)
#define dev_clear_dma_skip_sync(dev)		((dev)->dma_skip_sync = false)
#define dev_dma_iommu(dev)			((dev)->dma_iommu)
#define dev_assign_dma_iommu(dev, value)	((dev)->dma_iommu = (value))
#endif

/* 6.10: a flag of the device says that syncs can be left out, and ours cannot. */
static inline void dro_need_sync(struct device *dev)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 10, 0) && IS_ENABLED(CONFIG_DMA_NEED_SYNC)
	dev_clear_dma_skip_sync(dev);
#endif
}

/* 6.12: a flag of the device sends its calls to the IOMMU's functions, past its operations. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 12, 0) && IS_ENABLED(CONFIG_IOMMU_DMA)
#define dro_iommu(dev)			dev_dma_iommu(dev)
#define dro_set_iommu(dev, value)	dev_assign_dma_iommu(dev, value)
#else
#define dro_iommu(dev)			((void)(dev), false)
#define dro_set_iommu(dev, value)	((void)(dev), (void)(value))
#endif

/* 6.19, and 7.0: hints that a mapping may share lines, and that it cannot be a copy. */
#ifndef DMA_ATTR_DEBUGGING_IGNORE_CACHELINES
#define DMA_ATTR_DEBUGGING_IGNORE_CACHELINES	0UL
#endif
#ifndef DMA_ATTR_REQUIRE_COHERENT
#define DMA_ATTR_REQUIRE_COHERENT		0UL
#endif

#endif
