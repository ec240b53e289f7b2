/* SPDX-License-Identifier: GPL-2.0 WITH Linux-syscall-note */
/*
 * What user space and the module agree on. guest/iobuffer/driver.py mirrors
 * this file; a test compiles it and compares numbers and sizes.
 */
#ifndef DMA_REHEARSAL_UAPI_H
#define DMA_REHEARSAL_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DMA_REHEARSAL_VERSION	1

/*
 * Cache modes, with IOKit's numbers (kIOMapInhibitCache >> 8 and so on).
 * mmap() of /dev/dma-rehearsal takes physical address | mode << MODE_SHIFT.
 */
#define DMA_REHEARSAL_MODE_UC		1
#define DMA_REHEARSAL_MODE_WT		2
#define DMA_REHEARSAL_MODE_WB		3
#define DMA_REHEARSAL_MODE_WC		4
#define DMA_REHEARSAL_MODE_SHIFT	56

/* /dev/dma-rehearsal */
struct dma_rehearsal_info {
	__u32 version;
	__u32 zones;
};

/* The caller's page tables: address in; the rest comes back. */
struct dma_rehearsal_query {
	__u64 address;	/* user virtual address */
	__u64 root;	/* physical address of the top table */
	__u64 entry;	/* the leaf entry as it is, 0 when there is none */
	__u32 level;	/* of that entry: 1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB */
	__u32 levels;	/* 4 or 5 */
};

/* Copy through a kernel mapping of the given mode. */
struct dma_rehearsal_copy {
	__u64 physical;	/* inside one zone */
	__u64 length;	/* bytes, at least 1 */
	__u64 user;	/* pointer */
	__u32 mode;
	__u32 reserved;	/* 0 */
};

/* /dev/dma-rehearsal-pciN */
struct dma_rehearsal_pci_info {
	__u32 version;
	__u32 vectors;		/* MSI-X vectors granted, 0 = none */
	__u32 bus_master;	/* 0 or 1, from the command register */
	__u32 reserved;
};

struct dma_rehearsal_eventfd {
	__u32 vector;
	__s32 fd;		/* -1 takes the vector's eventfd away */
};

#define DMA_REHEARSAL_IOC	0xDA

#define DMA_REHEARSAL_INFO	_IOR(DMA_REHEARSAL_IOC, 0x00, struct dma_rehearsal_info)
#define DMA_REHEARSAL_QUERY	_IOWR(DMA_REHEARSAL_IOC, 0x01, struct dma_rehearsal_query)
#define DMA_REHEARSAL_READ	_IOW(DMA_REHEARSAL_IOC, 0x02, struct dma_rehearsal_copy)
#define DMA_REHEARSAL_WRITE	_IOW(DMA_REHEARSAL_IOC, 0x03, struct dma_rehearsal_copy)

#define DMA_REHEARSAL_PCI_INFO	_IOR(DMA_REHEARSAL_IOC, 0x10, struct dma_rehearsal_pci_info)
#define DMA_REHEARSAL_EVENTFD	_IOW(DMA_REHEARSAL_IOC, 0x11, struct dma_rehearsal_eventfd)
#define DMA_REHEARSAL_BUS_MASTER	_IOW(DMA_REHEARSAL_IOC, 0x12, __u32)

#endif
