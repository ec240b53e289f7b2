// SPDX-License-Identifier: GPL-2.0-only
/*
 * What the platform is told of a mapping. The protection unit has a grant of exactly the
 * mapped bytes, at their bus address, for the function that they are mapped for. The cache model tracks the memory that the device
 * reaches, and the driver's own where that is another, in chunks of DR_MAIL_TRACK_MAX.
 */
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/pgtable.h>
#include <asm/special_insns.h>

#include "dro.h"

static unsigned int chunks_of(size_t size)
{
	return DIV_ROUND_UP(size, DR_MAIL_TRACK_MAX);
}

/* The kernel's half is the same in all page tables, so those of whoever runs will do. */
static void walk(struct dr_mail_record *record, void *address)
{
	record->virtual = cpu_to_le64((unsigned long)address);
	record->root = cpu_to_le64(__read_cr3() & CR3_ADDR_MASK);
	record->levels = cpu_to_le32(pgtable_l5_enabled() ? 5 : 4);
}

/* @tag is the first chunk's; @of the mapping's, if it is not the same. */
static void put_tracks(struct dro_batch *batch, u32 command, u32 tag, u32 of, u64 address,
		       void *virtual, size_t size, enum dma_data_direction dir)
{
	size_t done, part;

	for (done = 0; done < size; done += part, tag++) {
		struct dr_mail_record *record = dro_batch_put(batch, command, tag);

		part = min_t(size_t, size - done, DR_MAIL_TRACK_MAX);
		record->address = cpu_to_le64(address + done);
		record->length = cpu_to_le64(part);
		record->direction = cpu_to_le32(dro_direction(dir));
		if (tag != of)
			record->values[0] = cpu_to_le64(of);
		if (command == DR_MAIL_TRACK)
			walk(record, virtual + done);
	}
}

/* A command about bytes [offset, offset + length) of what has the tags from @tag on. */
static void put_range(struct dro_batch *batch, u32 command, u32 tag, size_t offset, size_t length,
		      u32 direction)
{
	size_t part;

	tag += offset / DR_MAIL_TRACK_MAX;
	offset %= DR_MAIL_TRACK_MAX;
	for (; length; length -= part, offset = 0, tag++) {
		struct dr_mail_record *record = dro_batch_put(batch, command, tag);

		part = min_t(size_t, length, DR_MAIL_TRACK_MAX - offset);
		record->offset = cpu_to_le64(offset);
		record->length = cpu_to_le64(part);
		record->direction = cpu_to_le32(direction);
	}
}

static void put_untracks(struct dro_batch *batch, u32 tag, size_t size, u32 how)
{
	unsigned int chunks = chunks_of(size);

	for (; chunks; chunks--, tag++) {
		struct dr_mail_record *record = dro_batch_put(batch, DR_MAIL_UNTRACK, tag);

		record->values[0] = cpu_to_le64(how);
	}
}

/* Whether the driver's memory is another than the one that the device reaches. */
bool dro_bounces(const struct dro_mapping *mapping)
{
	return mapping->pieces_count > 1 ||
	       (mapping->piece.own && mapping->piece.own != phys_to_virt(mapping->phys));
}

/*
 * A small object's own memory has neighbours in its lines, and so may the entries of a
 * list that were put together: these are not tracked.
 */
static bool tracks_own(const struct dro_mapping *mapping)
{
	return dro_bounces(mapping) && !mapping->copy.before && mapping->pieces_count == 1;
}

void dro_put_map(struct dro_hook *hook, struct dro_batch *batch, struct dro_mapping *mapping)
{
	bool streaming = mapping->where.call == DR_CALL_MAP_PAGE ||
			 mapping->where.call == DR_CALL_MAP_SG;
	bool uncached = mapping->where.call == DR_CALL_ALLOC_COHERENT;
	unsigned int i;

	mapping->tag = dro_tags(max(chunks_of(mapping->size), 1U));
	if (!mapping->size)
		return;
	if (hook->settings.grants) {
		struct dr_mail_record *record = dro_batch_put(batch, DR_MAIL_GRANT, mapping->tag);

		record->address = cpu_to_le64(mapping->dma);
		record->length = cpu_to_le64(mapping->size);
		record->direction = cpu_to_le32(dro_direction(mapping->dir));
		record->values[1] = cpu_to_le64(DR_FUNCTION_NAMED | hook->requester_id);
		mapping->granted = true;
	}
	if (!hook->settings.cache || mapping->inner || mapping->where.call == DR_CALL_MAP_RESOURCE)
		return;
	mapping->tracked = true;
	put_tracks(batch, uncached ? DR_MAIL_TRACK_UNCACHED : DR_MAIL_TRACK, mapping->tag,
		   mapping->tag, uncached ? mapping->phys : mapping->dma,
		   uncached ? NULL : phys_to_virt(mapping->phys), mapping->size, mapping->dir);
	for (i = 0; i < mapping->pieces_count && tracks_own(mapping); i++) {
		struct dro_piece *piece = &mapping->pieces[i];

		piece->tag = dro_tags(chunks_of(piece->length));
		put_tracks(batch, DR_MAIL_TRACK, piece->tag, mapping->tag,
			   mapping->dma + piece->offset, piece->own, piece->length, mapping->dir);
	}
	if (streaming && !(mapping->attrs & DMA_ATTR_SKIP_CPU_SYNC))
		dro_put_sync(batch, mapping, DR_MAIL_SYNC_FOR_DEVICE, 0, mapping->size,
			     mapping->dir);
}

/* A part that is synced: what the device reaches, and what the driver has. */
void dro_put_sync(struct dro_batch *batch, const struct dro_mapping *mapping, u32 command,
		  size_t offset, size_t length, enum dma_data_direction dir)
{
	u32 direction = dro_direction(dir);
	unsigned int i;

	put_range(batch, command, mapping->tag, offset, length, direction);
	for (i = 0; i < mapping->pieces_count; i++) {
		const struct dro_piece *piece = &mapping->pieces[i];
		size_t from = max(offset, piece->offset);
		size_t to = min(offset + length, piece->offset + piece->length);

		if (piece->tag && from < to)
			put_range(batch, command, piece->tag, from - piece->offset, to - from,
				  direction);
	}
}

/* A command about the driver's own memory alone. */
void dro_put_own(struct dro_batch *batch, const struct dro_mapping *mapping, u32 command,
		 size_t offset, size_t length)
{
	unsigned int i;

	for (i = 0; i < mapping->pieces_count; i++) {
		const struct dro_piece *piece = &mapping->pieces[i];
		size_t from = max(offset, piece->offset);
		size_t to = min(offset + length, piece->offset + piece->length);

		if (piece->tag && from < to)
			put_range(batch, command, piece->tag, from - piece->offset, to - from, 0);
	}
}

/* The device loses its rights first: nothing comes in after the last sync. */
void dro_put_unmap(struct dro_batch *batch, const struct dro_mapping *mapping, bool sync)
{
	u32 how = 0;
	unsigned int i;

	if (mapping->leaked)
		how = DR_MAIL_FORGOTTEN;	/* the memory may be somebody else's by now */
	else if (!sync)
		how = DR_MAIL_GIVEN_UP;		/* nobody will look at what the device wrote */
	if (mapping->granted)
		dro_batch_put(batch, DR_MAIL_WITHDRAW, mapping->tag);
	if (!mapping->tracked)
		return;
	if (sync)
		dro_put_sync(batch, mapping, DR_MAIL_SYNC_FOR_CPU, 0, mapping->size, mapping->dir);
	for (i = 0; i < mapping->pieces_count; i++)
		if (mapping->pieces[i].tag)
			put_untracks(batch, mapping->pieces[i].tag, mapping->pieces[i].length,
				     how);
	put_untracks(batch, mapping->tag, mapping->size, how);
}
