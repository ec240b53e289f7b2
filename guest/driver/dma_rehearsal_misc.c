// SPDX-License-Identifier: GPL-2.0-only
/*
 * /dev/dma-rehearsal: mmap() maps any page range of a carve-out with a stated cache
 * mode, and ioctls reach everything else. The caller's page-table entries are reported
 * here; the other ioctls are in files of their own.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/uaccess.h>
#include <asm/pgtable.h>

#include "dma_rehearsal.h"

static int dr_mmap(struct file *file, struct vm_area_struct *vma)
{
	u64 offset = (u64)vma->vm_pgoff << PAGE_SHIFT;

	return dr_zones_map(vma, offset & (BIT_ULL(DMA_REHEARSAL_MODE_SHIFT) - 1),
			    offset >> DMA_REHEARSAL_MODE_SHIFT);
}

static long dr_query(void __user *user)
{
	struct mm_struct *mm = current->mm;
	struct dma_rehearsal_query query;
	struct vm_area_struct *vma;
	u64 address;

	if (copy_from_user(&query, user, sizeof(query)))
		return -EFAULT;
	address = query.address;
	memset(&query, 0, sizeof(query));
	query.address = address;
	query.root = __pa(mm->pgd);
	query.levels = pgtable_l5_enabled() ? 5 : 4;

	/* The lock keeps the tables in place, but only those under a VMA. */
	mmap_read_lock(mm);
	vma = find_vma(mm, address);
	if (vma && vma->vm_start <= address)
		query.entry = dr_entry(mm, address, &query.level);
	else
		vma = NULL;
	mmap_read_unlock(mm);
	if (!vma)
		return -EFAULT;
	if (dr_fault(DR_FAULT_WRONG_ENTRY))
		query.entry ^= _PAGE_PWT;
	return copy_to_user(user, &query, sizeof(query)) ? -EFAULT : 0;
}

static long dr_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct dma_rehearsal_info info = {
		.version = DMA_REHEARSAL_VERSION,
		.zones = dr_zones_count(),
	};
	void __user *user = (void __user *)argument;

	switch (command) {
	case DMA_REHEARSAL_INFO:
		return copy_to_user(user, &info, sizeof(info)) ? -EFAULT : 0;
	case DMA_REHEARSAL_QUERY:
		return dr_query(user);
	case DMA_REHEARSAL_READ:
		return dr_copy(user, false);
	case DMA_REHEARSAL_WRITE:
		return dr_copy(user, true);
	case DMA_REHEARSAL_PIN:
		return dr_pin(user);
	case DMA_REHEARSAL_KMAP:
		return dr_kmap(user);
	default:
		return -ENOTTY;
	}
}

static const struct file_operations dr_fops = {
	.owner = THIS_MODULE,
	.mmap = dr_mmap,
	.unlocked_ioctl = dr_ioctl,
	.llseek = noop_llseek,
};

static struct miscdevice dr_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "dma-rehearsal",
	.fops = &dr_fops,
	.mode = 0600,
};

struct device *dr_misc_device(void)
{
	return dr_misc.this_device;
}

int dr_misc_init(void)
{
	int ret = misc_register(&dr_misc);

	if (ret)
		pr_err("no /dev/%s (%d)\n", dr_misc.name, ret);
	return ret;
}

void dr_misc_exit(void)
{
	misc_deregister(&dr_misc);
}
