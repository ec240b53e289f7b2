// SPDX-License-Identifier: GPL-2.0
/*
 * /dev/dma-rehearsal: any page range of a carve-out with a stated cache mode, and
 * the caller's page-table entries. What else its ioctls do is in other files.
 *
 * The kernel gives a second mapping of a range the first one's cache mode, and
 * says nothing (memtype_reserve()). So every mapping made here is looked up
 * again in the page table, and refused when it is not what was asked for.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/anon_inodes.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/uaccess.h>
#include <asm/msr.h>
#include <asm/pgtable.h>

#include "dma_rehearsal.h"

/* Entries of IA32_PAT: Intel SDM vol. 3A, table 12-10 */
#define PAT_TYPE_UC	0
#define PAT_TYPE_WC	1
#define PAT_TYPE_WT	4
#define PAT_TYPE_WB	6

/*
 * The page-table bits for @mode. UC is the strong one, which no MTRR changes.
 * -EOPNOTSUPP when this kernel has no PAT entry for it (for example nopat).
 */
int dr_mode_bits(unsigned int mode, pgprotval_t *bits)
{
	static const struct {
		enum page_cache_mode cache;
		u8 type;
	} modes[] = {
		[DMA_REHEARSAL_MODE_UC] = { _PAGE_CACHE_MODE_UC, PAT_TYPE_UC },
		[DMA_REHEARSAL_MODE_WT] = { _PAGE_CACHE_MODE_WT, PAT_TYPE_WT },
		[DMA_REHEARSAL_MODE_WB] = { _PAGE_CACHE_MODE_WB, PAT_TYPE_WB },
		[DMA_REHEARSAL_MODE_WC] = { _PAGE_CACHE_MODE_WC, PAT_TYPE_WC },
	};
	unsigned int index;
	u64 pat;

	if (mode < DMA_REHEARSAL_MODE_UC || mode > DMA_REHEARSAL_MODE_WC)
		return -EINVAL;
	if (dr_fault_wrong_cache)
		mode = mode == DMA_REHEARSAL_MODE_WB ? DMA_REHEARSAL_MODE_WC :
						       DMA_REHEARSAL_MODE_WB;
	*bits = cachemode2protval(modes[mode].cache);

	index = (*bits & _PAGE_PWT ? 1 : 0) | (*bits & _PAGE_PCD ? 2 : 0) |
		(*bits & _PAGE_PAT ? 4 : 0);
	if (rdmsrl_safe(MSR_IA32_CR_PAT, &pat))
		return -EOPNOTSUPP;
	return (pat >> (8 * index) & 7) == modes[mode].type ? 0 : -EOPNOTSUPP;
}

/* A part unmapped would leave the kernel's record of cache modes wrong. */
static int dr_vma_may_split(struct vm_area_struct *vma, unsigned long address)
{
	return -EINVAL;
}

static const struct vm_operations_struct dr_vm_ops = {
	.may_split = dr_vma_may_split,
};

static bool dr_pte_is(struct vm_area_struct *vma, unsigned long address, pgprotval_t bits)
{
	spinlock_t *lock;
	pte_t *pte;
	bool same;

	if (follow_pte(vma->vm_mm, address, &pte, &lock))
		return false;
	same = (pte_flags(*pte) & _PAGE_CACHE_MASK) == bits;
	pte_unmap_unlock(pte, lock);
	return same;
}

static int dr_set_pte(pte_t *pte, unsigned long address, void *data)
{
	struct vm_area_struct *vma = data;
	unsigned long pfn = vma->vm_pgoff + PHYS_PFN(address - vma->vm_start);

	set_pte_at(vma->vm_mm, address, pte, pte_mkspecial(pfn_pte(pfn, vma->vm_page_prot)));
	return 0;
}

/* Map behind the back of the kernel's record of cache modes, which would change this one. */
static int dr_map_alias(struct vm_area_struct *vma, phys_addr_t start)
{
	vma->vm_flags |= VM_PFNMAP;
	vma->vm_pgoff = PHYS_PFN(start);
	return apply_to_page_range(vma->vm_mm, vma->vm_start, vma->vm_end - vma->vm_start,
				   dr_set_pte, vma);
}

/*
 * Map @vma onto the carve-out from @start with @mode, or fail:
 * -ERANGE not inside one carve-out; -EINVAL no such mode, or a private mapping;
 * -EOPNOTSUPP the mode is not to be had here; -EBUSY a part is mapped with another one;
 * -EIO the kernel did not map it, for another reason.
 */
int dr_map(struct vm_area_struct *vma, phys_addr_t start, unsigned int mode)
{
	unsigned long length = vma->vm_end - vma->vm_start;
	pgprotval_t bits;
	int ret;

	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (!dr_zones_hold(start, length))
		return -ERANGE;
	ret = dr_mode_bits(mode, &bits);
	if (ret)
		return ret;

	vma->vm_page_prot = __pgprot((pgprot_val(vma->vm_page_prot) & ~_PAGE_CACHE_MASK) | bits);
	vma->vm_flags |= VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP | VM_IO;
	vma->vm_ops = &dr_vm_ops;
	if (dr_fault_aliases)
		ret = dr_map_alias(vma, start);
	else
		ret = remap_pfn_range(vma, vma->vm_start, PHYS_PFN(start), length,
				      vma->vm_page_prot);
	if (ret == -EINVAL)
		return dr_conflicts(start, length, bits) ? -EBUSY : -EIO;
	if (ret)
		return ret;
	/* On an error the caller unmaps what is there. */
	if (!dr_pte_is(vma, vma->vm_start, bits) ||
	    !dr_pte_is(vma, vma->vm_end - PAGE_SIZE, bits))
		return -EBUSY;
	return 0;
}

static int dr_mmap(struct file *file, struct vm_area_struct *vma)
{
	u64 offset = (u64)vma->vm_pgoff << PAGE_SHIFT;

	return dr_map(vma, offset & (BIT_ULL(DMA_REHEARSAL_MODE_SHIFT) - 1),
		      offset >> DMA_REHEARSAL_MODE_SHIFT);
}

/*
 * Each entry is read once: another thread's MADV_DONTNEED, which also holds the lock
 * for reading, may clear a large one between two looks.
 */
static void dr_walk(struct mm_struct *mm, struct dma_rehearsal_query *query)
{
	pgd_t *pgd = pgd_offset(mm, query->address);
	p4d_t *p4d;
	pud_t *pudp, pud;
	pmd_t *pmdp, pmd;
	pte_t *pte;

	if (pgd_none(*pgd))
		return;
	p4d = p4d_offset(pgd, query->address);
	if (p4d_none(*p4d))
		return;
	pudp = pud_offset(p4d, query->address);
	pud = READ_ONCE(*pudp);
	if (pud_none(pud))
		return;
	if (!pud_present(pud) || pud_large(pud)) {
		query->entry = pud_val(pud);
		query->level = 3;
		return;
	}
	pmdp = pmd_offset(&pud, query->address);
	pmd = READ_ONCE(*pmdp);
	if (pmd_none(pmd))
		return;
	if (!pmd_present(pmd) || pmd_large(pmd)) {
		query->entry = pmd_val(pmd);
		query->level = 2;
		return;
	}
	pte = pte_offset_map(&pmd, query->address);
	query->entry = pte_val(READ_ONCE(*pte));
	query->level = 1;
	pte_unmap(pte);
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

	/* The lock keeps the tables in place, and only under a VMA. */
	mmap_read_lock(mm);
	vma = find_vma(mm, address);
	if (vma && vma->vm_start <= address)
		dr_walk(mm, &query);
	else
		vma = NULL;
	mmap_read_unlock(mm);
	if (!vma)
		return -EFAULT;
	if (dr_fault_wrong_entry)
		query.entry ^= _PAGE_PWT;
	return copy_to_user(user, &query, sizeof(query)) ? -EFAULT : 0;
}

/*
 * A new descriptor (O_CLOEXEC) of a file that owns @private from here on, to be
 * read at offsets, and with @write written; or an error, and nothing is owned.
 */
int dr_new_fd(const char *name, const struct file_operations *fops, void *private, bool write)
{
	struct file *file;
	int fd;

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	file = anon_inode_getfile(name, fops, private, write ? O_RDWR : O_RDONLY);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	file->f_mode |= FMODE_PREAD | FMODE_PWRITE;
	fd_install(fd, file);
	return fd;
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
