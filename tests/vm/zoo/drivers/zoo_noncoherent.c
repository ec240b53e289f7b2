// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory of the DMA API that needs syncs: dma_alloc_noncoherent() for what is written,
 * dma_alloc_noncontiguous() for what is read, and dma_alloc_pages() for the list of its segments.
 */
#include <linux/highmem.h>
#include <linux/scatterlist.h>

#include "ring_engine.h"

#define OUT_SIZE	SZ_16K
#define IN_SIZE		SZ_64K

struct zoo_noncoherent {
	struct ring_engine engine;
	void *out;
	dma_addr_t out_dma;
	struct sg_table *in;
	void *in_virtual;
	struct page *list;
	dma_addr_t list_dma;
	unsigned int segments;
};

static struct zoo_noncoherent *of(struct ring_engine *engine)
{
	return container_of(engine, struct zoo_noncoherent, engine);
}

static ssize_t zoo_noncoherent_write(struct file *file, const char __user *from, size_t count,
				     loff_t *position)
{
	struct ring_engine *engine = ring_engine_of(file);
	struct zoo_noncoherent *zoo = of(engine);
	int error = 0;

	if (!count || count > OUT_SIZE)
		return -EINVAL;
	mutex_lock(&engine->lock);
	dma_sync_single_for_cpu(engine->dev, zoo->out_dma, OUT_SIZE, DMA_TO_DEVICE);
	if (copy_from_user(zoo->out, from, count))
		error = -EFAULT;
	dma_sync_single_for_device(engine->dev, zoo->out_dma, OUT_SIZE, DMA_TO_DEVICE);
	error = error ?: ring_engine_load(engine, zoo->out_dma, count);
	mutex_unlock(&engine->lock);
	return error ?: count;
}

/* All of the memory is received; the device has zeros behind what was written. */
static ssize_t zoo_noncoherent_read(struct file *file, char __user *to, size_t count,
				    loff_t *position)
{
	struct ring_engine *engine = ring_engine_of(file);
	struct zoo_noncoherent *zoo = of(engine);
	int error;

	count = min_t(size_t, count, IN_SIZE);
	mutex_lock(&engine->lock);
	ring_write(engine->regs, RING_JOB_SEGMENTS, zoo->segments << 16);
	dma_sync_sgtable_for_device(engine->dev, zoo->in, DMA_FROM_DEVICE);
	error = ring_engine_job(engine, RING_JOB_STORE | RING_JOB_TARGET_LIST, 0, zoo->list_dma,
				IN_SIZE);
	dma_sync_sgtable_for_cpu(engine->dev, zoo->in, DMA_FROM_DEVICE);
	invalidate_kernel_vmap_range(zoo->in_virtual, IN_SIZE);
	if (!error && copy_to_user(to, zoo->in_virtual, count))
		error = -EFAULT;
	mutex_unlock(&engine->lock);
	return error ?: count;
}

static const struct file_operations zoo_noncoherent_fops = {
	.owner = THIS_MODULE,
	.read = zoo_noncoherent_read,
	.write = zoo_noncoherent_write,
};

/* The list is written once, and then belongs to the device. */
static void write_list(struct zoo_noncoherent *zoo)
{
	struct ring_segment *list = page_address(zoo->list);
	struct scatterlist *sg;
	int i;

	dma_sync_single_for_cpu(zoo->engine.dev, zoo->list_dma, PAGE_SIZE, DMA_TO_DEVICE);
	for_each_sgtable_dma_sg(zoo->in, sg, i) {
		list[i].address = cpu_to_le64(sg_dma_address(sg));
		list[i].length = cpu_to_le32(sg_dma_len(sg));
		list[i].reserved = 0;
	}
	zoo->segments = zoo->in->nents;
	dma_sync_single_for_device(zoo->engine.dev, zoo->list_dma, PAGE_SIZE, DMA_TO_DEVICE);
}

static int zoo_noncoherent_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct zoo_noncoherent *zoo = devm_kzalloc(dev, sizeof(*zoo), GFP_KERNEL);
	int error;

	if (!zoo)
		return -ENOMEM;
	error = ring_engine_init(&zoo->engine, pdev, 64) ?: ring_engine_request_irq(&zoo->engine);
	if (error)
		return error;
	error = -ENOMEM;
	zoo->out = dma_alloc_noncoherent(dev, OUT_SIZE, &zoo->out_dma, DMA_TO_DEVICE, GFP_KERNEL);
	if (!zoo->out)
		return error;
	zoo->in = dma_alloc_noncontiguous(dev, IN_SIZE, DMA_FROM_DEVICE, GFP_KERNEL, 0);
	if (!zoo->in)
		goto free_out;
	zoo->in_virtual = dma_vmap_noncontiguous(dev, IN_SIZE, zoo->in);
	if (!zoo->in_virtual)
		goto free_in;
	zoo->list = dma_alloc_pages(dev, PAGE_SIZE, &zoo->list_dma, DMA_TO_DEVICE, GFP_KERNEL);
	if (!zoo->list)
		goto unmap_in;
	write_list(zoo);
	error = ring_engine_register(&zoo->engine, &zoo_noncoherent_fops);
	if (!error)
		return 0;
	dma_free_pages(dev, PAGE_SIZE, zoo->list, zoo->list_dma, DMA_TO_DEVICE);
unmap_in:
	dma_vunmap_noncontiguous(dev, zoo->in_virtual);
free_in:
	dma_free_noncontiguous(dev, IN_SIZE, zoo->in, DMA_FROM_DEVICE);
free_out:
	dma_free_noncoherent(dev, OUT_SIZE, zoo->out, zoo->out_dma, DMA_TO_DEVICE);
	return error;
}

static void zoo_noncoherent_remove(struct pci_dev *pdev)
{
	struct zoo_noncoherent *zoo = of(pci_get_drvdata(pdev));
	struct device *dev = &pdev->dev;

	ring_engine_unregister(&zoo->engine);
	dma_free_pages(dev, PAGE_SIZE, zoo->list, zoo->list_dma, DMA_TO_DEVICE);
	dma_vunmap_noncontiguous(dev, zoo->in_virtual);
	dma_free_noncontiguous(dev, IN_SIZE, zoo->in, DMA_FROM_DEVICE);
	dma_free_noncoherent(dev, OUT_SIZE, zoo->out, zoo->out_dma, DMA_TO_DEVICE);
}

RING_ENGINE_DRIVER(zoo_noncoherent_probe, zoo_noncoherent_remove);

MODULE_DESCRIPTION("Memory of the DMA API that is not coherent");
MODULE_LICENSE("GPL");
