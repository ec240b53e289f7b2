/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Interfaces of the kernel that have changed since Linux 6.1, each as the module uses it.
 * The module is built for 6.1, 6.12 and the newest kernel of Debian.
 */
#ifndef DMA_REHEARSAL_COMPAT_H
#define DMA_REHEARSAL_COMPAT_H

#include <linux/eventfd.h>
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/version.h>
#include <asm/msr.h>

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
static inline void vm_flags_set(struct vm_area_struct *vma, vm_flags_t flags)
{
	vma->vm_flags |= flags;
}
#endif

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 8, 0)
#define dr_eventfd_signal(context)	eventfd_signal(context, 1)
#else
#define dr_eventfd_signal(context)	eventfd_signal(context)
#endif

/* Without an operation a file cannot be sought. */
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
#define dr_no_llseek	no_llseek
#else
#define dr_no_llseek	NULL
#endif

static inline void __iomem *dr_ioremap(phys_addr_t start, size_t length, pgprotval_t bits)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 15, 0)
	return ioremap_prot(start, length, bits);
#else
	return ioremap_prot(start, length, __pgprot(bits));
#endif
}

static inline int dr_read_msr(u32 msr, u64 *value)
{
#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 16, 0)
	return rdmsrl_safe(msr, value);
#else
	return rdmsrq_safe(msr, value);
#endif
}

#endif
