// SPDX-License-Identifier: GPL-2.0-only
/*
 * What a driver has mapped and allocated, by bus address, and by the memory behind it.
 * Rings have tens of thousands of mappings, and a sync can begin in the middle of one: so
 * these are interval trees.
 */
#include <linux/interval_tree_generic.h>
#include <linux/io.h>
#include <linux/slab.h>

#include "dro.h"

/* A mapping of no bytes is kept as if it had one. */
#define LENGTH(mapping)		max_t(size_t, (mapping)->size, 1)
#define BUS_START(mapping)	((u64)(mapping)->dma)
#define BUS_LAST(mapping)	(BUS_START(mapping) + LENGTH(mapping) - 1)
#define OWN_START(mapping)	((u64)(mapping)->own)
#define OWN_LAST(mapping)	(OWN_START(mapping) + LENGTH(mapping) - 1)

INTERVAL_TREE_DEFINE(struct dro_mapping, bus_node, u64, bus_last, BUS_START, BUS_LAST, static,
		     by_bus)
INTERVAL_TREE_DEFINE(struct dro_mapping, own_node, u64, own_last, OWN_START, OWN_LAST, static,
		     by_own)

static struct kmem_cache *mappings;

int dro_records_init(void)
{
	mappings = KMEM_CACHE(dro_mapping, 0);
	return mappings ? 0 : -ENOMEM;
}

void dro_records_exit(void)
{
	kmem_cache_destroy(mappings);
}

/* Any context. NULL: no memory. */
struct dro_mapping *dro_mapping_new(unsigned int pieces)
{
	struct dro_mapping *mapping = kmem_cache_zalloc(mappings, GFP_ATOMIC | __GFP_NOWARN);

	if (!mapping)
		return NULL;
	refcount_set(&mapping->refs, 1);
	INIT_LIST_HEAD(&mapping->made);
	mapping->pieces_count = pieces;
	mapping->pieces = &mapping->piece;
	if (pieces > 1) {
		mapping->pieces = kcalloc(pieces, sizeof(*mapping->pieces),
					  GFP_ATOMIC | __GFP_NOWARN);
		if (!mapping->pieces) {
			kmem_cache_free(mappings, mapping);
			return NULL;
		}
	}
	return mapping;
}

void dro_mapping_put(struct dro_mapping *mapping)
{
	unsigned int i;

	if (!refcount_dec_and_test(&mapping->refs))
		return;
	if (mapping->pieces != &mapping->piece)
		kfree(mapping->pieces);
	if (mapping->list) {
		for (i = 1; i < mapping->list->mappings_count; i++)
			dro_mapping_put(mapping->list->mappings[i]);
		kfree(mapping->list);
	}
	kmem_cache_free(mappings, mapping);
}

void dro_mapping_add(struct dro_hook *hook, struct dro_mapping *mapping)
{
	unsigned long flags;

	mapping->in_own = mapping->pieces_count == 1 &&
			  mapping->where.call != DR_CALL_MAP_RESOURCE;
	mapping->own = mapping->piece.own ? virt_to_phys(mapping->piece.own) : mapping->phys;
	raw_spin_lock_irqsave(&hook->lock, flags);
	by_bus_insert(mapping, &hook->by_bus);
	if (mapping->in_own)
		by_own_insert(mapping, &hook->by_own);
	list_add_tail(&mapping->made, &hook->made);
	raw_spin_unlock_irqrestore(&hook->lock, flags);
}

static void remove_locked(struct dro_hook *hook, struct dro_mapping *mapping)
{
	by_bus_remove(mapping, &hook->by_bus);
	if (mapping->in_own)
		by_own_remove(mapping, &hook->by_own);
	list_del_init(&mapping->made);
}

/*
 * Take out the mapping that an unmap means: one that begins at @dma, of several the one
 * that fits best, of these the oldest. NULL: there is none.
 */
struct dro_mapping *dro_mapping_take(struct dro_hook *hook, dma_addr_t dma, size_t size,
				     enum dma_data_direction dir, u32 call)
{
	struct dro_mapping *each, *best = NULL;
	unsigned long flags;
	int most = -1;

	raw_spin_lock_irqsave(&hook->lock, flags);
	for (each = by_bus_iter_first(&hook->by_bus, dma, dma); each;
	     each = by_bus_iter_next(each, dma, dma)) {
		int fits;

		if (each->dma != dma)
			continue;
		fits = (each->where.call == call) * 4 + (each->size == size) * 2 +
		       (each->dir == dir);
		if (fits > most || (fits == most && each->tag < best->tag)) {
			most = fits;
			best = each;
		}
	}
	if (best)
		remove_locked(hook, best);
	raw_spin_unlock_irqrestore(&hook->lock, flags);
	return best;
}

/* Take out this one. False: somebody else has. */
bool dro_mapping_claim(struct dro_hook *hook, struct dro_mapping *mapping)
{
	unsigned long flags;
	bool there;

	raw_spin_lock_irqsave(&hook->lock, flags);
	there = !list_empty(&mapping->made);
	if (there)
		remove_locked(hook, mapping);
	raw_spin_unlock_irqrestore(&hook->lock, flags);
	return there;
}

/*
 * Find the mapping that a sync of [dma, dma + size) means: of those with its first byte
 * the one that fits best, of these the newest. The caller puts it.
 */
struct dro_mapping *dro_mapping_around(struct dro_hook *hook, dma_addr_t dma, size_t size,
				       enum dma_data_direction dir)
{
	struct dro_mapping *each, *best = NULL;
	unsigned long flags;
	int most = -1;

	raw_spin_lock_irqsave(&hook->lock, flags);
	for (each = by_bus_iter_first(&hook->by_bus, dma, dma); each;
	     each = by_bus_iter_next(each, dma, dma)) {
		bool whole = size <= each->size - (dma - each->dma);
		bool has_dir = each->dir == dir || each->dir == DMA_BIDIRECTIONAL;
		int fits = whole * 8 + has_dir * 4 + (each->dma == dma) * 2 + (each->size == size);

		if (fits > most || (fits == most && each->tag > best->tag)) {
			most = fits;
			best = each;
		}
	}
	if (best)
		refcount_inc(&best->refs);
	raw_spin_unlock_irqrestore(&hook->lock, flags);
	return best;
}

/*
 * Whether the device may write bytes of @mapping by another mapping as well, and which.
 * Two mappings that are only read may share bytes.
 */
bool dro_mapping_overlaps(struct dro_hook *hook, const struct dro_mapping *mapping,
			  u64 *address, u64 *length)
{
	struct dro_mapping *each;
	unsigned long flags;
	bool found = false;

	if (mapping->dir == DMA_TO_DEVICE || mapping->inner || !mapping->in_own || !mapping->size)
		return false;
	raw_spin_lock_irqsave(&hook->lock, flags);
	for (each = by_own_iter_first(&hook->by_own, OWN_START(mapping), OWN_LAST(mapping));
	     each && !found;
	     each = by_own_iter_next(each, OWN_START(mapping), OWN_LAST(mapping))) {
		if (each == mapping || each->dir == DMA_TO_DEVICE || each->inner || !each->size)
			continue;
		*address = each->dma;
		*length = each->size;
		found = true;
	}
	raw_spin_unlock_irqrestore(&hook->lock, flags);
	return found;
}

static bool is_allocation(const struct dro_mapping *mapping)
{
	return mapping->where.call == DR_CALL_ALLOC_COHERENT ||
	       mapping->where.call == DR_CALL_ALLOC_PAGES;
}

/*
 * Whether the driver has this memory from the DMA API. An exporter of dma-bufs maps it
 * once more; it is the device's already, and needs no sync.
 */
bool dro_is_allocated(struct dro_hook *hook, phys_addr_t own)
{
	struct dro_mapping *each;
	unsigned long flags;
	bool found = false;

	raw_spin_lock_irqsave(&hook->lock, flags);
	for (each = by_own_iter_first(&hook->by_own, own, own); each && !found;
	     each = by_own_iter_next(each, own, own))
		found = is_allocation(each);
	raw_spin_unlock_irqrestore(&hook->lock, flags);
	return found;
}

/* The oldest one, taken out. NULL: nothing is left. */
struct dro_mapping *dro_mapping_first(struct dro_hook *hook)
{
	struct dro_mapping *first;
	unsigned long flags;

	raw_spin_lock_irqsave(&hook->lock, flags);
	first = list_first_entry_or_null(&hook->made, struct dro_mapping, made);
	if (first)
		remove_locked(hook, first);
	raw_spin_unlock_irqrestore(&hook->lock, flags);
	return first;
}
