// SPDX-License-Identifier: GPL-2.0-only
/* The device keeps a ring that was freed. */
#include "../museum.h"

/* A buffer in coherent memory, replaced for each transfer by one of its size. */
struct buffer {
	u8 *data;
	dma_addr_t address;
	size_t length;
};

static int museum_setup(struct museum *museum)
{
	museum->own = kzalloc(sizeof(struct buffer), GFP_KERNEL);
	return museum->own ? 0 : -ENOMEM;
}

static void release(struct museum *museum, struct buffer *buffer)
{
	if (buffer->data)
		dma_free_coherent(museum->dev, buffer->length, buffer->data, buffer->address);
	buffer->data = NULL;
}

static void museum_teardown(struct museum *museum)
{
	release(museum, museum->own);
	kfree(museum->own);
}

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	struct buffer *now = museum->own, new = { .length = length };
	int ret;

	new.data = dma_alloc_coherent(museum->dev, length, &new.address, GFP_KERNEL);
	if (!new.data)
		return -ENOMEM;
	if (!store)
		memcpy(new.data, data, length);
	if (!mended && now->data) {
		u32 at = offset + SZ_128K;	/* the device still has a job on the old one */
		dma_addr_t old = now->address;
		size_t bytes = now->length;

		release(museum, now);
		museum_job(museum, old, bytes, at, false);
	}
	release(museum, now);
	*now = new;
	ret = museum_job(museum, now->address, length, offset, store);
	if (store && !ret)
		memcpy(data, now->data, length);
	return ret;
}
