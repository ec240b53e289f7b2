// SPDX-License-Identifier: GPL-2.0-only
/* The rings of a virtqueue are freed before the device lets go of them. */
#include "../museum.h"

#define ENTRIES		8
#define NEXT		1
#define WRITE_ONLY	2
#define NO_INTERRUPT	1

enum { FETCH = 1, STORE, FLUSH };

struct split_descriptor {
	__le64 address;
	__le32 length;
	__le16 flags;
	__le16 next;
};

struct request {
	__le32 kind;
	__le32 offset;
	u8 status;
};

/* What the device reads and writes; device.py has the same offsets. */
struct rings {
	struct split_descriptor descriptor[ENTRIES];
	struct request request[2];
	u8 pad[0x200 - ENTRIES * sizeof(struct split_descriptor) - 2 * sizeof(struct request)];
	__le16 flags;			/* the available ring, at 0x200 */
	__le16 index;
	__le16 ring[ENTRIES];
	u8 more[SZ_4K - 0x204 - 2 * ENTRIES];	/* the used ring, at 0x800 */
};

struct queue {
	struct museum *museum;
	struct rings *rings;
	dma_addr_t address;
	u16 offered;
};

static int queue_open(struct queue *queue, struct museum *museum)
{
	queue->museum = museum;
	queue->offered = 0;
	queue->rings = dma_alloc_coherent(museum->dev, sizeof(*queue->rings), &queue->address,
					  GFP_KERNEL);
	if (!queue->rings)
		return -ENOMEM;
	writel(lower_32_bits(queue->address), museum->regs + MUSEUM_RING_LO);
	writel(upper_32_bits(queue->address), museum->regs + MUSEUM_RING_HI);
	writel(ENTRIES, museum->regs + MUSEUM_RING_SIZE);
	return 0;
}

static void queue_reset(struct queue *queue)
{
	writel(0, queue->museum->regs + MUSEUM_RING_SIZE);
	readl(queue->museum->regs + MUSEUM_RING_SIZE);
}

static void queue_close(struct queue *queue)
{
	if (mended)
		queue_reset(queue);
	dma_free_coherent(queue->museum->dev, sizeof(*queue->rings), queue->rings,
			  queue->address);
	if (!mended)
		queue_reset(queue);
}

static void describe(struct queue *queue, int index, dma_addr_t address, u32 length, u16 flags)
{
	queue->rings->descriptor[index] = (struct split_descriptor) {
		.address = cpu_to_le64(address),
		.length = cpu_to_le32(length),
		.flags = cpu_to_le16(flags),
		.next = cpu_to_le16(flags & NEXT ? index + 1 : 0),
	};
}

/* Offer a request, whose data is described already where it has any. */
static void offer(struct queue *queue, int number, int head, int last, u32 kind, u32 offset)
{
	struct request *request = &queue->rings->request[number];
	dma_addr_t address = queue->address + offsetof(struct rings, request[number]);

	request->kind = cpu_to_le32(kind);
	request->offset = cpu_to_le32(offset);
	request->status = 0xff;
	describe(queue, head, address, offsetof(struct request, status), NEXT);
	describe(queue, last, address + offsetof(struct request, status), 1, WRITE_ONLY);
	queue->rings->ring[queue->offered % ENTRIES] = cpu_to_le16(head);
	dma_wmb();
	queue->rings->index = cpu_to_le16(++queue->offered);
	wmb();
	writel(0, queue->museum->regs + MUSEUM_RING_TAIL);
}

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	enum dma_data_direction direction = store ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	struct queue queue;
	dma_addr_t address;
	int ret = queue_open(&queue, museum);

	if (ret)
		return ret;
	address = dma_map_single(museum->dev, data, length, direction);
	if (dma_mapping_error(museum->dev, address)) {
		ret = -ENOMEM;
		goto close;
	}
	describe(&queue, 1, address, length, NEXT | (store ? WRITE_ONLY : 0));
	reinit_completion(&museum->done);
	offer(&queue, 0, 0, 2, store ? STORE : FETCH, offset);
	ret = museum_wait(museum);
	dma_unmap_single(museum->dev, address, length, direction);
	if (!ret && queue.rings->request[0].status)
		ret = -EIO;
	/* Nobody waits for a flush. */
	queue.rings->flags = cpu_to_le16(NO_INTERRUPT);
	offer(&queue, 1, 3, 4, FLUSH, 0);
close:
	queue_close(&queue);
	return ret;
}

static int museum_setup(struct museum *museum)
{
	return 0;
}

static void museum_teardown(struct museum *museum)
{
}
