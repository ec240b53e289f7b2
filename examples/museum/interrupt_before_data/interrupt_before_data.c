// SPDX-License-Identifier: GPL-2.0-only
/* The interrupt is taken for the data. */
#include "../museum.h"

struct buffer {
	u8 *data;
	dma_addr_t address;
};

#define BYTES (MUSEUM_MAX + sizeof(__le32))	/* the word comes behind the data */

static int museum_setup(struct museum *museum)
{
	struct buffer *buffer = kzalloc(sizeof(*buffer), GFP_KERNEL);

	if (!buffer)
		return -ENOMEM;
	buffer->data = dma_alloc_coherent(museum->dev, BYTES, &buffer->address, GFP_KERNEL);
	if (!buffer->data) {
		kfree(buffer);
		return -ENOMEM;
	}
	museum->own = buffer;
	return 0;
}

static void museum_teardown(struct museum *museum)
{
	struct buffer *buffer = museum->own;

	dma_free_coherent(museum->dev, BYTES, buffer->data, buffer->address);
	kfree(buffer);
}

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	struct buffer *buffer = museum->own;
	__le32 *word = (__le32 *)(buffer->data + ALIGN(length, 4));
	int i, ret;

	if (!store)
		memcpy(buffer->data, data, length);
	WRITE_ONCE(*word, 0);
	museum_start(museum, buffer->address, length, offset, store);
	ret = museum_wait(museum);
	for (i = 0; mended && !ret && !READ_ONCE(*word); i++) {
		if (i == 1000)
			ret = -ETIMEDOUT;
		usleep_range(100, 1000);
	}
	if (store && !ret)
		memcpy(data, buffer->data, length);
	return ret;
}
