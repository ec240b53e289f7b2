// SPDX-License-Identifier: GPL-2.0-only
/*
 * User mappings of physical memory, each with a stated cache mode.
 *
 * As for the kernel's own mappings (see dma_rehearsal_cache.c), each one is looked up
 * in the page table, and refused when its mode differs from the one asked for.
 */
#include <linux/mm.h>
#include <asm/pgtable.h>

#include "dma_rehearsal.h"

/* Unmapping a part would leave the kernel's record of cache modes wrong. */
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

/* A fault's way: it bypasses the kernel's record of cache modes, which would change this one. */
static int dr_map_alias(struct vm_area_struct *vma, phys_addr_t start)
{
	vma->vm_flags |= VM_PFNMAP;
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
	vma->vm_flags |= VM_DONTCOPY | VM_DONTEXPAND | VM_DONTDUMP | VM_IO;
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
	if (!dr_pte_is(vma, vma->vm_start, bits) ||
	    !dr_pte_is(vma, vma->vm_end - PAGE_SIZE, bits))
		return -EBUSY;
	return 0;
}
