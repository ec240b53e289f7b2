// SPDX-License-Identifier: GPL-2.0-only
/*
 * Return addresses of a call's way from the driver. This module's own frames and those
 * of the kernel's DMA API are left out: nobody looks for a mistake there.
 */
#include <linux/dma-mapping.h>
#include <linux/kernel.h>
#include <linux/minmax.h>
#include <linux/module.h>
#include <linux/pgtable.h>
#include <linux/sizes.h>
#include <linux/stacktrace.h>

#include "dro.h"

#define DRO_FRAMES	24

/* Where kernel/dma/mapping.c lies, by its functions; the last one's length is a guess. */
static unsigned long api_start, api_end;

void dro_where_init(void)
{
	const unsigned long functions[] = {
		(unsigned long)dma_alloc_attrs, (unsigned long)dma_free_attrs,
		(unsigned long)dma_map_page_attrs, (unsigned long)dma_unmap_page_attrs,
		(unsigned long)dma_map_sg_attrs, (unsigned long)dma_unmap_sg_attrs,
		(unsigned long)dma_map_sgtable, (unsigned long)dma_alloc_pages,
		(unsigned long)dma_free_pages, (unsigned long)dma_map_resource,
		(unsigned long)dmam_alloc_attrs, (unsigned long)dma_set_mask,
	};
	unsigned int i;

	api_start = functions[0];
	api_end = functions[0];
	for (i = 1; i < ARRAY_SIZE(functions); i++) {
		api_start = min(api_start, functions[i]);
		api_end = max(api_end, functions[i]);
	}
	api_end += SZ_512;
	/* A kernel that was laid out otherwise: leave nothing out. */
	if (api_end - api_start > SZ_64K)
		api_start = api_end = 0;
}

static bool in_module(unsigned long address)
{
	return address >= MODULES_VADDR && address < MODULES_END;
}

/*
 * The innermost callers. If the driver's own function is farther out than these, as
 * under a helper of the network stack, it has the last place.
 */
void dro_where(struct dro_where *where, u32 call)
{
	unsigned long frames[DRO_FRAMES];
	unsigned int count = stack_trace_save(frames, ARRAY_SIZE(frames), 1);
	unsigned int i, found = 0;
	bool module_found = false;

	*where = (struct dro_where){ .call = call };
	for (i = 0; i < count; i++) {
		unsigned long frame = frames[i];

		if (within_module(frame, THIS_MODULE))
			continue;
		if (!found && frame >= api_start && frame < api_end)
			continue;
		if (found < DR_MAIL_CALLERS) {
			where->callers[found++] = frame;
			module_found |= in_module(frame);
		} else if (module_found) {
			break;
		} else if (in_module(frame)) {
			where->callers[DR_MAIL_CALLERS - 1] = frame;
			break;
		}
	}
}
