// SPDX-License-Identifier: GPL-2.0-only
/* Transfers of one buffer: mapped for the occasion, mapped for good, or coherent. */
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "mistakes.h"

static dma_addr_t map_for_write(struct mistakes *m, void *buffer, size_t count)
{
	struct device *dev = mistaken(WRONG_DEVICE) ? m->misc.this_device : m->dev;

	if (mistaken(VIRT_TO_PHYS))
		return virt_to_phys(buffer);
	if (mistaken(WRONG_DIRECTION))
		return dma_map_single(dev, buffer, count, DMA_FROM_DEVICE);
	if (mistaken(SKIPPED_SYNC))
		return dma_map_single_attrs(dev, buffer, count, DMA_TO_DEVICE,
					    DMA_ATTR_SKIP_CPU_SYNC);
	return dma_map_single(dev, buffer, count, DMA_TO_DEVICE);
}

static void unmap_after_write(struct mistakes *m, dma_addr_t dma, size_t count)
{
	struct device *dev = mistaken(WRONG_DEVICE) ? m->misc.this_device : m->dev;

	if (mistaken(VIRT_TO_PHYS) || mistaken(LEAK))
		return;
	if (mistaken(WRONG_UNMAP_SIZE))
		dma_unmap_single(dev, dma, count / 2, DMA_TO_DEVICE);
	else if (mistaken(WRONG_UNMAP_DIRECTION))
		dma_unmap_single(dev, dma, count, DMA_BIDIRECTIONAL);
	else if (mistaken(WRONG_DIRECTION))
		dma_unmap_single(dev, dma, count, DMA_FROM_DEVICE);
	else
		dma_unmap_single(dev, dma, count, DMA_TO_DEVICE);
	if (mistaken(DOUBLE_UNMAP))
		dma_unmap_single(dev, dma, count, DMA_TO_DEVICE);
}

/* write(): the device keeps a copy of the data. */
ssize_t mistakes_write(struct mistakes *m, const char __user *from, size_t count)
{
	size_t told = mistaken(LENGTH_TOO_LONG) ? count + 1 : count;
	dma_addr_t dma;
	bool mapped = true;
	void *buffer;
	int error;

	if (!count || count > TRANSFER_MAX)
		return -EINVAL;
	buffer = memdup_user(from, count);
	if (IS_ERR(buffer))
		return PTR_ERR(buffer);
	dma = map_for_write(m, buffer, count);
	if (!mistaken(VIRT_TO_PHYS) && !mistaken(ERROR_NOT_CHECKED) &&
	    dma_mapping_error(m->dev, dma)) {
		kfree(buffer);
		return -ENOMEM;
	}
	if (mistaken(UNMAP_BEFORE_DOORBELL)) {
		unmap_after_write(m, dma, count);
		mapped = false;
	}
	mistakes_start_job(m, RING_JOB_LOAD, RING_JOB_SOURCE_LO, dma, told);
	if (mistaken(UNMAP_BEFORE_COMPLETION)) {
		unmap_after_write(m, dma, count);
		mapped = false;
	}
	if (mistaken(STORE_BEFORE_COMPLETION))
		memset(buffer, 0, count);
	error = mistakes_wait_job(m);
	if (mapped)
		unmap_after_write(m, dma, count);
	if (!error)
		m->length = count;
	kfree(buffer);
	return error ?: count;
}

/* read(): the inbox stays mapped, and goes to the CPU and back. */
ssize_t mistakes_read(struct mistakes *m, char __user *to, size_t count)
{
	u32 *reads = mistaken(SHARED_LINE) ? &m->inbox->reads : &m->reads;
	enum dma_data_direction direction =
		mistaken(SYNC_WRONG_DIRECTION) ? DMA_TO_DEVICE : DMA_FROM_DEVICE;
	dma_addr_t again = DMA_MAPPING_ERROR;
	size_t synced;
	int error;

	count = min3(count, m->length, (size_t)INBOX_LENGTH);
	if (!count)
		return 0;
	if (mistaken(MAPPED_TWICE)) {
		again = dma_map_single(m->dev, m->inbox->data, count, DMA_FROM_DEVICE);
		if (dma_mapping_error(m->dev, again))
			return -ENOMEM;
	}
	synced = mistaken(SYNC_PAST_END) ? INBOX_LENGTH + 64 : count;
	mistakes_start_job(m, RING_JOB_STORE, RING_JOB_TARGET_LO, m->inbox_dma, count);
	(*reads)++;
	error = mistaken(RESULT_BEFORE_INTERRUPT) ? 0 : mistakes_wait_job(m);
	if (!error) {
		if (!mistaken(NO_SYNC_FOR_CPU))
			dma_sync_single_for_cpu(m->dev, m->inbox_dma, synced, direction);
		if (copy_to_user(to, m->inbox->data, count))
			error = -EFAULT;
		dma_sync_single_for_device(m->dev, m->inbox_dma, count, DMA_FROM_DEVICE);
	}
	if (mistaken(RESULT_BEFORE_INTERRUPT))
		error = mistakes_wait_job(m);
	if (mistaken(MAPPED_TWICE))
		dma_unmap_single(m->dev, again, count, DMA_FROM_DEVICE);
	return error ?: count;
}

/* MISTAKES_SEND: the outbox stays mapped; the result is the device's CRC-32 of it. */
int mistakes_send(struct mistakes *m, struct mistakes_buffer *argument)
{
	size_t length = argument->length;
	int error = 0;

	if (!length || length > OUTBOX_LENGTH)
		return -EINVAL;
	dma_sync_single_for_cpu(m->dev, m->outbox_dma, length, DMA_TO_DEVICE);
	if (copy_from_user(m->outbox, u64_to_user_ptr(argument->data), length))
		error = -EFAULT;
	if (!mistaken(NO_SYNC_FOR_DEVICE))
		dma_sync_single_for_device(m->dev, m->outbox_dma, length, DMA_TO_DEVICE);
	if (error)
		return error;
	mistakes_start_job(m, RING_JOB_CHECKSUM, RING_JOB_SOURCE_LO, m->outbox_dma, length);
	error = mistakes_wait_job(m);
	argument->result = le32_to_cpu(READ_ONCE(m->record->result));
	return error;
}

/* MISTAKES_SNAPSHOT: what the device keeps, by coherent memory. */
int mistakes_snapshot(struct mistakes *m, struct mistakes_buffer *argument)
{
	size_t length = min_t(size_t, argument->length, m->length);
	dma_addr_t dma;
	void *memory;
	int error;

	if (!length)
		return -EINVAL;
	memory = dma_alloc_coherent(m->dev, TRANSFER_MAX, &dma, GFP_KERNEL);
	if (!memory)
		return -ENOMEM;
	if (mistaken(COHERENT_AFTER_FREE))
		dma_free_coherent(m->dev, TRANSFER_MAX, memory, dma);
	mistakes_start_job(m, RING_JOB_STORE, RING_JOB_TARGET_LO, dma, length);
	error = mistakes_wait_job(m);
	if (!error && copy_to_user(u64_to_user_ptr(argument->data), memory, length))
		error = -EFAULT;
	argument->length = length;
	if (mistaken(COHERENT_WRONG_SIZE))
		/* Frees as many pages, so that the kernel does not notice. */
		dma_free_coherent(m->dev, TRANSFER_MAX - 64, memory, dma);
	else if (!mistaken(COHERENT_AFTER_FREE))
		dma_free_coherent(m->dev, TRANSFER_MAX, memory, dma);
	return error;
}

int mistakes_map_boxes(struct mistakes *m)
{
	m->inbox = kzalloc(sizeof(*m->inbox), GFP_KERNEL);
	m->outbox = kzalloc(OUTBOX_LENGTH, GFP_KERNEL);
	if (!m->inbox || !m->outbox)
		goto free;
	m->inbox_dma = dma_map_single(m->dev, m->inbox->data, INBOX_LENGTH, DMA_FROM_DEVICE);
	if (dma_mapping_error(m->dev, m->inbox_dma))
		goto free;
	m->outbox_dma = dma_map_single(m->dev, m->outbox, OUTBOX_LENGTH, DMA_TO_DEVICE);
	if (dma_mapping_error(m->dev, m->outbox_dma)) {
		if (!mistaken(LEAK_ON_ERROR_PATH))
			dma_unmap_single(m->dev, m->inbox_dma, INBOX_LENGTH, DMA_FROM_DEVICE);
		goto free;
	}
	return 0;
free:
	kfree(m->outbox);
	kfree(m->inbox);
	return -ENOMEM;
}

void mistakes_unmap_boxes(struct mistakes *m)
{
	dma_unmap_single(m->dev, m->outbox_dma, OUTBOX_LENGTH, DMA_TO_DEVICE);
	dma_unmap_single(m->dev, m->inbox_dma, INBOX_LENGTH, DMA_FROM_DEVICE);
	if (mistaken(SYNC_AFTER_UNMAP))
		dma_sync_single_for_cpu(m->dev, m->inbox_dma, INBOX_LENGTH, DMA_FROM_DEVICE);
	kfree(m->outbox);
	kfree(m->inbox);
}
