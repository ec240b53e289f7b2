// SPDX-License-Identifier: GPL-2.0-only
/*
 * Cache modes: the page-table bits of a mode, and kernel mappings that have exactly
 * these bits.
 *
 * The kernel silently gives a second mapping of a range the cache mode of the first one
 * (memtype_reserve()). So every mapping made here is looked up again in the page table,
 * and refused when its mode differs from the one asked for.
 */
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <asm/msr.h>
#include <asm/pgtable.h>

#include "dma_rehearsal.h"
#include "dma_rehearsal_compat.h"

/* Entries of IA32_PAT: Intel SDM vol. 3A, table 12-10 */
#define PAT_TYPE_UC	0
#define PAT_TYPE_WC	1
#define PAT_TYPE_WT	4
#define PAT_TYPE_WB	6

/*
 * The page-table bits for @mode. UC is the strong one, which no MTRR changes.
 * -EINVAL for an unknown mode; -EOPNOTSUPP when this kernel has no PAT entry for it
 * (for example with nopat).
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
	if (dr_fault(DR_FAULT_WRONG_CACHE))
		mode = mode == DMA_REHEARSAL_MODE_WB ? DMA_REHEARSAL_MODE_WC :
						       DMA_REHEARSAL_MODE_WB;
	*bits = cachemode2protval(modes[mode].cache);

	index = (*bits & _PAGE_PWT ? 1 : 0) | (*bits & _PAGE_PCD ? 2 : 0) |
		(*bits & _PAGE_PAT ? 4 : 0);
	if (dr_read_msr(MSR_IA32_CR_PAT, &pat))
		return -EOPNOTSUPP;
	return (pat >> (8 * index) & 7) == modes[mode].type ? 0 : -EOPNOTSUPP;
}

/* Whether all of a mapping has exactly these bits, which are given as for a 4 KiB page. */
static bool dr_window_is(void __iomem *window, size_t length, pgprotval_t bits)
{
	unsigned long address = (unsigned long)window;
	unsigned long end = address + length;
	pgprotval_t found;
	unsigned int level;
	pte_t *pte;

	while (address < end) {
		pte = lookup_address(address, &level);
		if (!pte)
			return false;
		/* In a large page's entry the PAT bit is among those of the address. */
		if (level == PG_LEVEL_4K)
			found = pte_val(*pte) & _PAGE_CACHE_MASK;
		else
			found = protval_large_2_4k(pte_val(*pte) & _PAGE_LARGE_CACHE_MASK);
		if (found != bits)
			return false;
		address = (address & page_level_mask(level)) + page_level_size(level);
	}
	return true;
}

/* Whether whole pages can be mapped with exactly these bits now. */
static bool dr_fits(phys_addr_t page, size_t length, pgprotval_t bits)
{
	void __iomem *window = dr_ioremap(page, length, bits);
	bool fits;

	if (!window)
		return false;
	fits = dr_window_is(window, length, bits);
	iounmap(window);
	return fits;
}

/*
 * Whether a page of the range is mapped with another mode than @bits: then these do
 * not fit, and others do. The kernel's own error codes do not tell this case from others.
 */
bool dr_conflicts(phys_addr_t start, u64 length, pgprotval_t bits)
{
	pgprotval_t other;
	unsigned int mode;
	u64 done;

	for (done = 0; done < length && !fatal_signal_pending(current); done += PAGE_SIZE) {
		if (dr_fits(start + done, PAGE_SIZE, bits))
			continue;
		for (mode = DMA_REHEARSAL_MODE_UC; mode <= DMA_REHEARSAL_MODE_WC; mode++)
			if (!dr_mode_bits(mode, &other) && other != bits &&
			    dr_fits(start + done, PAGE_SIZE, other))
				return true;
		cond_resched();
	}
	return false;
}

/*
 * A kernel mapping of whole pages with exactly these bits; iounmap() ends it.
 * -EBUSY when a part is mapped with another mode, -ENOMEM otherwise.
 */
void __iomem *dr_window(phys_addr_t page, size_t length, pgprotval_t bits)
{
	void __iomem *window = dr_ioremap(page, length, bits);

	if (!window)
		return IOMEM_ERR_PTR(dr_conflicts(page, length, bits) ? -EBUSY : -ENOMEM);
	if (!dr_window_is(window, length, bits)) {
		iounmap(window);
		return IOMEM_ERR_PTR(-EBUSY);
	}
	return window;
}
