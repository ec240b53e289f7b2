// SPDX-License-Identifier: GPL-2.0-only
/*
 * User mappings of physical memory, each with a stated cache mode.
 *
 * As for the kernel's own mappings (see dma_rehearsal_cache.c), each one is looked up
 * in the page table, and refused when its mode differs from the one asked for.
 */
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/rcupdate.h>
#include <asm/pgtable.h>

#include "dma_rehearsal.h"
#include "dma_rehearsal_compat.h"

/* Unmapping a part would leave the kernel's record of cache modes wrong. */
static int dr_vma_may_split(struct vm_area_struct *vma, unsigned long address)
{
	return -EINVAL;
}

static const struct vm_operations_struct dr_vm_ops = {
	.may_split = dr_vma_may_split,
};

/*
 * The entry that maps @address, raw, and its level (1 = 4 KiB); 0 without one. @mm is
 * locked, and a VMA has the address.
 *
 * Each entry is read once: MADV_DONTNEED of another thread, which also holds the lock
 * for reading, may clear a large entry between two reads. Newer kernels free a table of
 * last-level entries without the lock, after an RCU grace period.
 */
u64 dr_entry(struct mm_struct *mm, unsigned long address, u32 *level)
{
	pgd_t *pgd = pgd_offset(mm, address);
	u64 entry = 0;
	p4d_t *p4d;
	pud_t pud;
	pmd_t pmd;

	*level = 0;
	if (pgd_none(*pgd))
		return 0;
	p4d = p4d_offset(pgd, address);
	if (p4d_none(*p4d))
		return 0;
	pud = READ_ONCE(*pud_offset(p4d, address));
	if (pud_none(pud))
		return 0;
	if (!pud_present(pud) || pud_leaf(pud)) {
		*level = 3;
		return pud_val(pud);
	}
	rcu_read_lock();
	pmd = READ_ONCE(*pmd_offset(&pud, address));
	if (pmd_present(pmd) && !pmd_leaf(pmd)) {
		*level = 1;
		entry = pte_val(READ_ONCE(*pte_offset_kernel(&pmd, address)));
	} else if (!pmd_none(pmd)) {
		*level = 2;
		entry = pmd_val(pmd);
	}
	rcu_read_unlock();
	return entry;
}

/* Whether the first and the last page of a new mapping have exactly these bits. */
static bool dr_mapping_is(unsigned long start, unsigned long end, pgprotval_t bits)
{
	const unsigned long pages[] = { start, end - PAGE_SIZE };
	unsigned int i;
	u32 level;
	u64 entry;

	for (i = 0; i < ARRAY_SIZE(pages); i++) {
		entry = dr_entry(current->mm, pages[i], &level);
		if (level != 1 || !(entry & _PAGE_PRESENT) ||
		    (entry & _PAGE_CACHE_MASK) != bits)
			return false;
	}
	return true;
}

static int dr_set_pte(pte_t *pte, unsigned long address, void *data)
{
	struct vm_area_struct *vma = data;
	unsigned long pfn = vma->vm_pgoff + PHYS_PFN(address - vma->vm_start);

	set_pte_at(vma->vm_mm, address, pte, pte_mkspecial(pfn_pte(pfn, vma->vm_page_prot)));
	return 0;
}

/* A fault's way: it bypasses the kernel's record of cache modes, which would change this one. */
static int dr_map_alias(struct vm_area_struct *vma, phys_addr_t start)
{
	vm_flags_set(vma, VM_PFNMAP);
	vma->vm_pgoff = PHYS_PFN(start);
	return apply_to_page_range(vma->vm_mm, vma->vm_start, vma->vm_end - vma->vm_start,
				   dr_set_pte, vma);
}

/*
 * Map @vma onto memory from @start with @mode. The caller has checked that @vma is
 * shared, and that the range may be mapped.
 * -EINVAL for an unknown mode; -EOPNOTSUPP when this kernel cannot have it; -EBUSY when
 * a part is mapped with another mode; -EIO when the kernel refuses for another reason.
 */
int dr_map(struct vm_area_struct *vma, phys_addr_t start, unsigned int mode)
{
	unsigned long length = vma->vm_end - vma->vm_start;
	pgprotval_t bits;
	int ret;

	ret = dr_mode_bits(mode, &bits);
	if (ret)
		return ret;

	vma->vm_page_prot = __pgprot((pgprot_val(vma->vm_page_prot) & ~_PAGE_CACHE_MASK) | bits);
	vm_flags_set(vma, VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP | VM_IO);
	vma->vm_ops = &dr_vm_ops;
	if (dr_fault(DR_FAULT_ALIASES))
		ret = dr_map_alias(vma, start);
	else
		ret = remap_pfn_range(vma, vma->vm_start, PHYS_PFN(start), length,
				      vma->vm_page_prot);
	if (ret == -EINVAL)
		return dr_conflicts(start, length, bits) ? -EBUSY : -EIO;
	if (ret)
		return ret;
	/* On an error the caller's caller (mmap) unmaps the range. */
	return dr_mapping_is(vma->vm_start, vma->vm_end, bits) ? 0 : -EBUSY;
}

#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 1, 0)
/* The kernel has mapped the range. It unmaps it on an error. */
static int dr_mapped(unsigned long start, unsigned long end, pgoff_t offset,
		     const struct file *file, void **private)
{
	return dr_mapping_is(start, end, (pgprotval_t)*private) ? 0 : -EBUSY;
}

static const struct vm_operations_struct dr_prepared_vm_ops = {
	.may_split = dr_vma_may_split,
	.mapped = dr_mapped,
};

/*
 * As dr_map(), for a range that the kernel maps later. That mapping's own error does not
 * tell another mode from others, so a mapping of the kernel is tried first.
 */
int dr_prepare(struct vm_area_desc *desc, phys_addr_t start, unsigned int mode)
{
	void __iomem *window;
	pgprotval_t bits;
	int ret;

	ret = dr_mode_bits(mode, &bits);
	if (ret)
		return ret;
	window = dr_window(start, vma_desc_size(desc), bits);
	if (IS_ERR(window))
		return PTR_ERR(window);
	iounmap(window);
	desc->page_prot = __pgprot((pgprot_val(desc->page_prot) & ~_PAGE_CACHE_MASK) | bits);
	vma_desc_set_flags(desc, VMA_DONTCOPY_BIT, VMA_DONTEXPAND_BIT, VMA_DONTDUMP_BIT,
			   VMA_IO_BIT);
	desc->vm_ops = &dr_prepared_vm_ops;
	desc->private_data = (void *)bits;
	mmap_action_remap_full(desc, PHYS_PFN(start));
	return 0;
}
#endif
