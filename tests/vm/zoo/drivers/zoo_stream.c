// SPDX-License-Identifier: GPL-2.0-only
/*
 * Streaming mappings of one transfer each: the device keeps what is written, and reads give it
 * back. Several threads may map at once; only the jobs wait for each other.
 */
#include "ring_engine.h"

#define TRANSFER_MAX	SZ_64K

static bool narrow;
module_param(narrow, bool, 0444);
MODULE_PARM_DESC(narrow, "the device drives 32 address bits");

static ssize_t zoo_stream_write(struct file *file, const char __user *from, size_t count,
				loff_t *position)
{
	struct ring_engine *engine = ring_engine_of(file);
	dma_addr_t dma;
	void *buffer;
	int error;

	if (!count || count > TRANSFER_MAX)
		return -EINVAL;
	buffer = memdup_user(from, count);
	if (IS_ERR(buffer))
		return PTR_ERR(buffer);
	dma = dma_map_single(engine->dev, buffer, count, DMA_TO_DEVICE);
	error = dma_mapping_error(engine->dev, dma);
	if (error)
		goto free;
	mutex_lock(&engine->lock);
	error = ring_engine_load(engine, dma, count);
	if (!error)
		engine->length = count;
	mutex_unlock(&engine->lock);
	dma_unmap_single(engine->dev, dma, count, DMA_TO_DEVICE);
free:
	kfree(buffer);
	return error ?: count;
}

/* Into pages, from an offset on. */
static ssize_t zoo_stream_read(struct file *file, char __user *to, size_t count, loff_t *position)
{
	struct ring_engine *engine = ring_engine_of(file);
	unsigned int order, offset = 256;
	struct page *page;
	dma_addr_t dma;
	size_t mapped;
	int error;

	mapped = min_t(size_t, count, TRANSFER_MAX);
	if (!mapped)
		return 0;
	order = get_order(offset + mapped);
	page = alloc_pages(GFP_KERNEL, order);
	if (!page)
		return -ENOMEM;
	dma = dma_map_page(engine->dev, page, offset, mapped, DMA_FROM_DEVICE);
	error = dma_mapping_error(engine->dev, dma);
	if (error)
		goto free;
	mutex_lock(&engine->lock);
	count = min(mapped, engine->length);
	if (count)
		error = ring_engine_store(engine, dma, count);
	mutex_unlock(&engine->lock);
	dma_unmap_page(engine->dev, dma, mapped, DMA_FROM_DEVICE);
	if (!error && copy_to_user(to, page_address(page) + offset, count))
		error = -EFAULT;
free:
	__free_pages(page, order);
	return error ?: count;
}

static const struct file_operations zoo_stream_fops = {
	.owner = THIS_MODULE,
	.read = zoo_stream_read,
	.write = zoo_stream_write,
};

static int zoo_stream_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct ring_engine *engine = devm_kzalloc(&pdev->dev, sizeof(*engine), GFP_KERNEL);

	if (!engine)
		return -ENOMEM;
	return ring_engine_init(engine, pdev, narrow ? 32 : 64) ?:
	       ring_engine_request_irq(engine) ?: ring_engine_register(engine, &zoo_stream_fops);
}

static void zoo_stream_remove(struct pci_dev *pdev)
{
	ring_engine_unregister(pci_get_drvdata(pdev));
}

RING_ENGINE_DRIVER(zoo_stream_probe, zoo_stream_remove);

MODULE_DESCRIPTION("Streaming mappings, one for each transfer");
MODULE_LICENSE("GPL");
