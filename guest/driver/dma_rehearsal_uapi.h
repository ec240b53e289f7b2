/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * The interface between user space and the module. guest/iobuffer/os/uapi.py mirrors
 * this file; a test compiles it and compares numbers and sizes.
 */
#ifndef DMA_REHEARSAL_UAPI_H
#define DMA_REHEARSAL_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define DMA_REHEARSAL_VERSION	3

/*
 * Cache modes, with IOKit's numbers (kIOMapInhibitCache >> 8 and so on).
 * mmap() of /dev/dma-rehearsal takes physical address | mode << MODE_SHIFT.
 * mmap(), READ, WRITE and KMAP fail with:
 *   ERANGE	not inside one carve-out
 *   EINVAL	unknown mode, length 0, private mapping, or reserved field that is not 0
 *   EBUSY	a part of the range is mapped with another mode
 *   EOPNOTSUPP	this kernel cannot have the mode
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

/* The caller's page tables: takes the address, returns the rest. */
struct dma_rehearsal_query {
	__u64 address;	/* user virtual address */
	__u64 root;	/* physical address of the top table */
	__u64 entry;	/* the raw leaf entry, 0 without one */
	__u32 level;	/* of the entry: 1 = 4 KiB, 2 = 2 MiB, 3 = 1 GiB */
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

/*
 * PIN: the caller's pages stay where they are until the last close of the file
 * that the ioctl returns (O_CLOEXEC, may be passed on). The mapping may go, or get
 * other pages: the pin keeps those of the time of the call.
 *   EINVAL	length 0, an end past the address space, unknown flags
 *   E2BIG	more than PIN_MAX
 *   ENOMEM	more than RLIMIT_MEMLOCK allows the caller to lock, or out of memory
 *   EFAULT	a page is not mapped, or WRITE is set and a page is not writable;
 *		also for a carve-out, which cannot be pinned and never moves
 *   EOPNOTSUPP	a page belongs to a file of a file system with a backing store
 *		(anonymous memory, memfd, tmpfs and hugetlb can be pinned)
 * Without WRITE the file is read-only, and memory that is copied on write is
 * copied first, so that the pages are the caller's own.
 */
#define DMA_REHEARSAL_PIN_WRITE	1
#define DMA_REHEARSAL_PIN_MAX	(1ULL << 30)

struct dma_rehearsal_pin {
	__u64 address;	/* user virtual address */
	__u64 length;	/* bytes, 1 to PIN_MAX */
	__u32 flags;	/* DMA_REHEARSAL_PIN_... */
	__u32 reserved;	/* 0 */
};

/* PIN_INFO of a pin's file. Its read and write at an offset reach the pinned bytes. */
struct dma_rehearsal_pin_info {
	__u64 pages;	/* PAGE_SIZE each */
	__u64 length;	/* bytes */
	__u32 offset;	/* of the first byte in the first page */
	__u32 flags;	/* as asked */
};

/* Physical addresses, one per page. The ioctl returns their number, 0 at the end. */
struct dma_rehearsal_pin_pages {
	__u64 first;	/* page */
	__u64 user;	/* pointer to count __u64 */
	__u32 count;
	__u32 reserved;	/* 0 */
};

/*
 * KMAP: the kernel keeps a mapping with this cache mode until the last close of
 * the file that the ioctl returns; read and write at an offset go through it.
 * EBUSY when a part of the range is mapped with another mode, as for mmap().
 * PIN_KMAP maps the pages of a pin, write-back, and holds the pin.
 */
struct dma_rehearsal_kmap {
	__u64 physical;	/* inside one zone */
	__u64 length;	/* bytes, at least 1 */
	__u32 mode;
	__u32 reserved;	/* 0 */
};

struct dma_rehearsal_kmap_info {
	__u64 address;	/* kernel virtual, of the first byte */
	__u64 root;	/* physical address of the caller's top table, the kernel's half */
	__u64 length;	/* bytes */
	__u32 levels;	/* 4 or 5 */
	__u32 mode;
};

/*
 * /dev/dma-rehearsal-pciN
 *
 * The first open turns bus mastering on. The last close turns it off, and resets a
 * function that has a reset: DMA that a process has started ends with its files. Where
 * that reset was not possible, the next open does it, or returns EAGAIN.
 * Pins of a process that dies or calls execve() stay until every function that was open
 * at that time has been stopped this way.
 *
 * A function starts with MSI-X, or with INTx where MSI-X is not available.
 * SET_INTERRUPTS changes that:
 *   EBUSY		a vector has an eventfd, or another open file has chosen
 *   EOPNOTSUPP		the function, or the machine, has no such interrupts
 * A choice lasts until the file that made it chooses again or is closed; then
 * the function is as it started. Meanwhile only that file may call EVENTFD.
 *
 * INTx is vector 0. Interrupt Disable blocks it unless the vector has an eventfd and
 * is unmasked. An interrupt signals the eventfd once and masks the vector. Deassert
 * the device's line, then UNMASK. A line that is still asserted is a new interrupt:
 * it signals at once, and stays masked. Setting an eventfd unmasks, too.
 */
#define DMA_REHEARSAL_INTERRUPTS_NONE	0	/* returned by PCI_INFO only */
#define DMA_REHEARSAL_INTERRUPTS_MSIX	1
#define DMA_REHEARSAL_INTERRUPTS_INTX	2

struct dma_rehearsal_pci_info {
	__u32 version;
	__u32 vectors;		/* MSI-X vectors granted, 1 with INTx, or 0 */
	__u32 bus_master;	/* 0 or 1, from the command register */
	__u32 interrupts;	/* DMA_REHEARSAL_INTERRUPTS_... */
};

struct dma_rehearsal_eventfd {
	__u32 vector;
	__s32 fd;		/* -1 removes the vector's eventfd */
};

#define DMA_REHEARSAL_IOC	0xDA

#define DMA_REHEARSAL_INFO	_IOR(DMA_REHEARSAL_IOC, 0x00, struct dma_rehearsal_info)
#define DMA_REHEARSAL_QUERY	_IOWR(DMA_REHEARSAL_IOC, 0x01, struct dma_rehearsal_query)
#define DMA_REHEARSAL_READ	_IOW(DMA_REHEARSAL_IOC, 0x02, struct dma_rehearsal_copy)
#define DMA_REHEARSAL_WRITE	_IOW(DMA_REHEARSAL_IOC, 0x03, struct dma_rehearsal_copy)

#define DMA_REHEARSAL_PIN	_IOW(DMA_REHEARSAL_IOC, 0x04, struct dma_rehearsal_pin)
#define DMA_REHEARSAL_KMAP	_IOW(DMA_REHEARSAL_IOC, 0x05, struct dma_rehearsal_kmap)

#define DMA_REHEARSAL_PCI_INFO	_IOR(DMA_REHEARSAL_IOC, 0x10, struct dma_rehearsal_pci_info)
#define DMA_REHEARSAL_EVENTFD	_IOW(DMA_REHEARSAL_IOC, 0x11, struct dma_rehearsal_eventfd)
#define DMA_REHEARSAL_BUS_MASTER	_IOW(DMA_REHEARSAL_IOC, 0x12, __u32)
#define DMA_REHEARSAL_SET_INTERRUPTS	_IOW(DMA_REHEARSAL_IOC, 0x13, __u32)
#define DMA_REHEARSAL_UNMASK	_IO(DMA_REHEARSAL_IOC, 0x14)	/* INTx only */

#define DMA_REHEARSAL_PIN_INFO	_IOR(DMA_REHEARSAL_IOC, 0x20, struct dma_rehearsal_pin_info)
#define DMA_REHEARSAL_PIN_PAGES	_IOW(DMA_REHEARSAL_IOC, 0x21, struct dma_rehearsal_pin_pages)
#define DMA_REHEARSAL_PIN_KMAP	_IO(DMA_REHEARSAL_IOC, 0x22)

#define DMA_REHEARSAL_KMAP_INFO	_IOR(DMA_REHEARSAL_IOC, 0x30, struct dma_rehearsal_kmap_info)

#endif
