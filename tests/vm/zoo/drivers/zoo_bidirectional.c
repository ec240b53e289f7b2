// SPDX-License-Identifier: GPL-2.0-only
/*
 * One page that is mapped in both directions as long as the driver is bound. The CPU stores what
 * is written, the device inverts it in place, and reads give that back.
 */
#include "ring_engine.h"

struct zoo_bidirectional {
	struct ring_engine engine;
	void *page;
	dma_addr_t dma;
};

static struct zoo_bidirectional *of(struct ring_engine *engine)
{
	return container_of(engine, struct zoo_bidirectional, engine);
}

static ssize_t zoo_bidirectional_write(struct file *file, const char __user *from, size_t count,
				       loff_t *position)
{
	struct ring_engine *engine = ring_engine_of(file);
	struct zoo_bidirectional *zoo = of(engine);
	int error = 0;

	if (!count || count > PAGE_SIZE)
		return -EINVAL;
	mutex_lock(&engine->lock);
	dma_sync_single_for_cpu(engine->dev, zoo->dma, PAGE_SIZE, DMA_BIDIRECTIONAL);
	if (copy_from_user(zoo->page, from, count))
		error = -EFAULT;
	dma_sync_single_for_device(engine->dev, zoo->dma, PAGE_SIZE, DMA_BIDIRECTIONAL);
	error = error ?: ring_engine_job(engine, RING_JOB_INVERT, 0, zoo->dma, count);
	mutex_unlock(&engine->lock);
	return error ?: count;
}

/* Only a part of the page changes its owner: what is read, to the end of its cache line. */
static ssize_t zoo_bidirectional_read(struct file *file, char __user *to, size_t count,
				      loff_t *position)
{
	struct ring_engine *engine = ring_engine_of(file);
	struct zoo_bidirectional *zoo = of(engine);
	size_t part;
	int error;

	count = min(count, PAGE_SIZE);
	part = ALIGN(count, SMP_CACHE_BYTES);
	mutex_lock(&engine->lock);
	dma_sync_single_for_cpu(engine->dev, zoo->dma, part, DMA_BIDIRECTIONAL);
	error = copy_to_user(to, zoo->page, count) ? -EFAULT : 0;
	dma_sync_single_for_device(engine->dev, zoo->dma, part, DMA_BIDIRECTIONAL);
	mutex_unlock(&engine->lock);
	return error ?: count;
}

static const struct file_operations zoo_bidirectional_fops = {
	.owner = THIS_MODULE,
	.read = zoo_bidirectional_read,
	.write = zoo_bidirectional_write,
};

static int zoo_bidirectional_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct zoo_bidirectional *zoo = devm_kzalloc(&pdev->dev, sizeof(*zoo), GFP_KERNEL);
	int error;

	if (!zoo)
		return -ENOMEM;
	error = ring_engine_init(&zoo->engine, pdev, 64) ?: ring_engine_request_irq(&zoo->engine);
	if (error)
		return error;
	zoo->page = (void *)get_zeroed_page(GFP_KERNEL);
	if (!zoo->page)
		return -ENOMEM;
	zoo->dma = dma_map_single(&pdev->dev, zoo->page, PAGE_SIZE, DMA_BIDIRECTIONAL);
	error = dma_mapping_error(&pdev->dev, zoo->dma);
	if (error)
		goto free;
	error = ring_engine_register(&zoo->engine, &zoo_bidirectional_fops);
	if (!error)
		return 0;
	dma_unmap_single(&pdev->dev, zoo->dma, PAGE_SIZE, DMA_BIDIRECTIONAL);
free:
	free_page((unsigned long)zoo->page);
	return error;
}

static void zoo_bidirectional_remove(struct pci_dev *pdev)
{
	struct zoo_bidirectional *zoo = of(pci_get_drvdata(pdev));

	ring_engine_unregister(&zoo->engine);
	dma_unmap_single(&pdev->dev, zoo->dma, PAGE_SIZE, DMA_BIDIRECTIONAL);
	free_page((unsigned long)zoo->page);
}

RING_ENGINE_DRIVER(zoo_bidirectional_probe, zoo_bidirectional_remove);

MODULE_DESCRIPTION("A page that CPU and device own by turns");
MODULE_LICENSE("GPL");
