/* SPDX-License-Identifier: GPL-2.0-only */
/* Differences between kernels, from 6.1 on. */
#ifndef RING_COMPAT_H
#define RING_COMPAT_H

#include <linux/pci.h>
#include <linux/version.h>

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
