/* SPDX-License-Identifier: GPL-2.0-only */
/* Differences between kernels, from 6.1 on. */
#ifndef RING_COMPAT_H
#define RING_COMPAT_H

#include <linux/pci.h>
#include <linux/timer.h>
#include <linux/version.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 16, 0)
#define ring_timer_container_of	timer_container_of
#else
#define ring_timer_container_of	from_timer
#endif

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
#define ring_timer_delete_sync	timer_delete_sync
#else
#define ring_timer_delete_sync	del_timer_sync
#endif

/* 6.11 brought pcim_iomap_region(), and the functions before it went later. */
static inline void __iomem *ring_iomap(struct pci_dev *pdev, int bar, const char *name)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 13, 0)
	return pcim_iomap_region(pdev, bar, name);
#else
	int error = pcim_iomap_regions(pdev, BIT(bar), name);

	return error ? IOMEM_ERR_PTR(error) : pcim_iomap_table(pdev)[bar];
#endif
}

#endif
