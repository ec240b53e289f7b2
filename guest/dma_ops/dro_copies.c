// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mappings that are copies: small objects that share a cache line, and, where the tests
 * ask for it, all others. The driver stores to its own memory, the device finds the copy.
 *
 * x86's kmalloc puts small objects side by side. That of a machine whose devices do not
 * snoop never lets two share a line. So a small object is copied whole, to lines of its
 * own: what shares them is the rest of the object, and nothing else.
 */
#include <linux/align.h>
#include <linux/gfp.h>
#include <linux/kfence.h>
#include <linux/log2.h>
#include <linux/mm.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "dro.h"

#define DRO_COPY_MAX	SZ_256K	/* as swiotlb; what is longer is mapped as it is */
#define PROBE_SIZE	20	/* bytes; not a multiple of a pointer's */

/* Memory that the device's mask reaches. With an IOMMU it reaches all. */
static gfp_t zone_of(struct dro_hook *hook)
{
	u64 mask = min_not_zero(hook->shadow_mask, hook->shadow->bus_dma_limit);

	if (hook->domain || mask >= dma_get_required_mask(hook->shadow))
		return 0;
	return mask >= DMA_BIT_MASK(32) ? GFP_DMA32 : GFP_DMA;
}

static bool get_pages(struct dro_hook *hook, struct dro_mapping *mapping, size_t bytes)
{
	struct dro_copy *copy = &mapping->copy;

	copy->order = get_order(bytes);
	copy->page = alloc_pages(GFP_ATOMIC | __GFP_NOWARN | __GFP_ZERO | zone_of(hook),
				 copy->order);
	return copy->page;
}

/*
 * Whether SLUB's objects lie as far apart as ksize() says. It keeps red zones and notes
 * between them where it, or KASAN, looks for errors; ksize() may then even store to them.
 */
static bool objects_are_dense;

static void probe_constructor(void *object)
{
	memset(object, 0, PROBE_SIZE);
}

/*
 * One cache tells it for all. Its objects have a constructor, so that SLUB's own pointer is
 * behind them: with errors looked for, ksize() leaves it out. Any doubt is a no. The name is
 * one that slub_debug=...,kmalloc-* means as well.
 */
void dro_copies_init(void)
{
	struct kmem_cache *cache = kmem_cache_create("kmalloc-dma-rehearsal", PROBE_SIZE, 0, 0,
						     probe_constructor);
	void *object = cache ? kmem_cache_alloc(cache, GFP_KERNEL) : NULL;

	if (object) {
		objects_are_dense = ksize(object) == ALIGN(PROBE_SIZE, sizeof(void *)) +
				    sizeof(void *);
		kmem_cache_free(cache, object);
	}
	kmem_cache_destroy(cache);
}

/*
 * The object of a slab around @address: its first byte and its bytes. Where SLUB does not
 * tell, @length bytes from there: what else is in its lines, then never suffers. False:
 * this is not a slab's memory.
 */
static bool slab_object(void *address, size_t length, void **object, size_t *bytes)
{
	struct folio *folio = virt_to_folio(address);
	size_t size;

	if (!folio_test_slab(folio))
		return false;
	*object = address;
	*bytes = length;
	if (!objects_are_dense || is_kfence_address(address))
		return true;
	size = ksize(address);
	/* These are kmalloc's. Of another cache it may be less than the objects' distance. */
	if (is_power_of_2(size))
		*object = PTR_ALIGN_DOWN(address, size);
	else if (size == 96 || size == 192)
		*object = address - (address - folio_address(folio)) % size;
	else
		return true;
	*bytes = size;
	return true;
}

/* 1: there is a copy. 0: the object has its lines for itself. -ENOMEM. */
static int small_object(struct dro_hook *hook, struct dro_mapping *mapping, void *own)
{
	struct dro_copy *copy = &mapping->copy;
	size_t line = hook->settings.line, bytes, room, skip, first, last;
	void *object;

	if (!slab_object(own, mapping->size, &object, &bytes) || bytes >= SZ_4K)
		return 0;
	if (IS_ALIGNED((unsigned long)object, line) && IS_ALIGNED(bytes, line))
		return 0;
	skip = own - object;
	if (skip + mapping->size > bytes)
		return 0;	/* longer than the object: this is not kmalloc's */
	room = ALIGN(bytes, line);
	if (!get_pages(hook, mapping, 2 * room))
		return -ENOMEM;
	copy->address = page_address(copy->page) + skip;
	/* Of the object's other bytes those in the same lines suffer, as they would there. */
	first = ALIGN_DOWN(skip, line);
	last = min(ALIGN(skip + mapping->size, line), bytes);
	copy->lead = skip - first;
	copy->tail = last - skip - mapping->size;
	copy->before = page_address(copy->page) + room + first;
	return 1;
}

/*
 * Where in @room bytes a copy of @size begins, with the alignment of the original. A
 * hostile one crosses 64 KiB if it may, or ends where the room ends.
 */
static size_t place(struct dro_hook *hook, size_t size, size_t room, size_t offset_in_page)
{
	size_t align = max_t(size_t, offset_in_page ? 1UL << __ffs(offset_in_page) : PAGE_SIZE,
			     dma_get_min_align_mask(hook->dev) + 1);
	size_t start = offset_in_page;

	if (!hook->settings.hostile)
		return start;
	if (room >= SZ_128K && dma_get_seg_boundary(hook->dev) >= SZ_64K) {
		/* At least one step of the alignment on either side. */
		start = SZ_64K - ALIGN(size / 2, PAGE_SIZE) + offset_in_page;
		if (start < SZ_64K && start + size > SZ_64K)
			return start;
	}
	start = room - size;
	start -= (start - offset_in_page) & (align - 1);
	return start;
}

/* Room for @size bytes, which begin at @offset_in_page or as nastily as may be. */
int dro_copy_room(struct dro_hook *hook, struct dro_mapping *mapping, size_t size,
		  size_t offset_in_page)
{
	size_t room = PAGE_ALIGN(offset_in_page + size);

	if (hook->settings.hostile && size > PAGE_SIZE && size <= SZ_64K &&
	    get_pages(hook, mapping, SZ_128K))
		room = SZ_128K;
	else if (!get_pages(hook, mapping, room))
		return -ENOMEM;
	mapping->copy.address = page_address(mapping->copy.page) +
				place(hook, size, room, offset_in_page);
	return 0;
}

/* Decide whether the mapping of memory at @phys is a copy, and make room. -ENOMEM. */
int dro_copy_make(struct dro_hook *hook, struct dro_mapping *mapping, phys_addr_t phys)
{
	mapping->inner = dro_is_allocated(hook, phys);
	if (!mapping->size || mapping->inner || mapping->attrs & DMA_ATTR_REQUIRE_COHERENT)
		return 0;
	if (hook->settings.cache) {
		int ret = small_object(hook, mapping, phys_to_virt(phys));

		if (ret)
			return min(ret, 0);
	}
	/* Without room it is mapped as it is: a right driver must not suffer. */
	if (hook->settings.bounce && mapping->size <= DRO_COPY_MAX)
		dro_copy_room(hook, mapping, mapping->size, offset_in_page(phys));
	return 0;
}

void dro_copy_free(struct dro_mapping *mapping)
{
	if (mapping->copy.page)
		__free_pages(mapping->copy.page, mapping->copy.order);
	mapping->copy.page = NULL;
}

/* Copy bytes between the driver's memory and the copy, piece by piece. */
static void copy_pieces(struct dro_mapping *mapping, size_t offset, size_t length, bool in)
{
	size_t end = offset + length;
	unsigned int i;

	for (i = 0; i < mapping->pieces_count; i++) {
		const struct dro_piece *piece = &mapping->pieces[i];
		size_t from = max(offset, piece->offset);
		size_t to = min(end, piece->offset + piece->length);
		void *own, *copy;

		if (from >= to)
			continue;
		own = piece->own + (from - piece->offset);
		copy = mapping->copy.address + from;
		if (in)
			memcpy(copy, own, to - from);
		else
			memcpy(own, copy, to - from);
	}
}

/* The bytes of whole lines around a part of a small object, from its lead on. */
static void widen(const struct dro_mapping *mapping, size_t offset, size_t length, size_t *from,
		  size_t *bytes)
{
	const struct dro_copy *copy = &mapping->copy;

	/* A part in the middle leaves the rest of the object alone. */
	*from = offset ? copy->lead + offset : 0;
	*bytes = copy->lead + offset + length - *from;
	if (offset + length == mapping->size)
		*bytes += copy->tail;
}

/* What the device gets: all of a mapping, or a part that is synced for it. */
void dro_copy_in(struct dro_mapping *mapping, size_t offset, size_t length)
{
	struct dro_copy *copy = &mapping->copy;
	size_t from, bytes;

	if (!copy->page)
		return;
	if (!copy->before) {
		copy_pieces(mapping, offset, length, true);
		return;
	}
	widen(mapping, offset, length, &from, &bytes);
	memcpy(copy->before + from, mapping->piece.own - copy->lead + from, bytes);
	memcpy(copy->address - copy->lead + from, copy->before + from, bytes);
}

/* What the CPU gets. A small object's other bytes in the lines come along: they are lost. */
void dro_copy_out(struct dro_mapping *mapping, size_t offset, size_t length)
{
	struct dro_copy *copy = &mapping->copy;
	size_t from, bytes;

	if (!copy->page)
		return;
	if (!copy->before) {
		copy_pieces(mapping, offset, length, false);
		return;
	}
	widen(mapping, offset, length, &from, &bytes);
	memcpy(copy->before + from, copy->address - copy->lead + from, bytes);
	memcpy(mapping->piece.own - copy->lead + from, copy->before + from, bytes);
}

/*
 * Repeat in the copy what the driver has stored to a small object since the last copy,
 * so that the cache model finds these stores.
 */
void dro_copy_stores(struct dro_mapping *mapping, size_t offset, size_t length)
{
	struct dro_copy *copy = &mapping->copy;
	u8 *own, *before, *to;
	size_t from, bytes, i;

	if (!copy->page || !copy->before)
		return;
	widen(mapping, offset, length, &from, &bytes);
	own = mapping->piece.own - copy->lead + from;
	before = copy->before + from;
	to = copy->address - copy->lead + from;
	for (i = 0; i < bytes; i++) {
		u8 byte = READ_ONCE(own[i]);

		if (byte != before[i]) {
			before[i] = byte;
			to[i] = byte;
		}
	}
}

/* Whether the driver's memory has other bytes than its copy, and the first of them. */
bool dro_copy_differs(const struct dro_mapping *mapping, size_t *offset)
{
	unsigned int i;

	if (!mapping->copy.page || mapping->copy.before)
		return false;
	for (i = 0; i < mapping->pieces_count; i++) {
		const struct dro_piece *piece = &mapping->pieces[i];
		const u8 *copy = mapping->copy.address + piece->offset, *own = piece->own;
		size_t at;

		if (!memcmp(copy, own, piece->length))
			continue;
		for (at = 0; at < piece->length - 1 && copy[at] == own[at]; at++)
			;
		*offset = piece->offset + at;
		return true;
	}
	return false;
}
