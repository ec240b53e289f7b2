// SPDX-License-Identifier: GPL-2.0-only
/*
 * Memory of the caller, pinned and mapped as a scatter list. The device gets its segments in
 * memory of a dma_pool. Without an IOMMU a buffer must begin and end with a page here: the
 * driver wants no line of the caller's that it does not own.
 */
#include <linux/dmapool.h>
#include <linux/mm.h>
#include <linux/scatterlist.h>

#include "ring_engine.h"

#define PAGES_MAX	64

struct zoo_pinned {
	struct ring_engine engine;
	struct dma_pool *lists;
};

static struct zoo_pinned *of(struct ring_engine *engine)
{
	return container_of(engine, struct zoo_pinned, engine);
}

/* Do a job with a list that is mapped. */
static int list_job(struct zoo_pinned *zoo, struct sg_table *table, size_t length, bool write)
{
	struct ring_engine *engine = &zoo->engine;
	struct ring_segment *list;
	struct scatterlist *sg;
	dma_addr_t list_dma;
	int error, i;

	list = dma_pool_zalloc(zoo->lists, GFP_KERNEL, &list_dma);
	if (!list)
		return -ENOMEM;
	for_each_sgtable_dma_sg(table, sg, i) {
		list[i].address = cpu_to_le64(sg_dma_address(sg));
		list[i].length = cpu_to_le32(sg_dma_len(sg));
	}
	mutex_lock(&engine->lock);
	ring_write(engine->regs, RING_JOB_SEGMENTS, write ? table->nents : table->nents << 16);
	if (write)
		error = ring_engine_job(engine, RING_JOB_LOAD | RING_JOB_SOURCE_LIST, list_dma, 0,
					length);
	else
		error = ring_engine_job(engine, RING_JOB_STORE | RING_JOB_TARGET_LIST, 0, list_dma,
					length);
	mutex_unlock(&engine->lock);
	dma_pool_free(zoo->lists, list, list_dma);
	return error;
}

static ssize_t transfer(struct file *file, unsigned long address, size_t length, bool write)
{
	enum dma_data_direction direction = write ? DMA_TO_DEVICE : DMA_FROM_DEVICE;
	struct ring_engine *engine = ring_engine_of(file);
	int error, pinned, count = length >> PAGE_SHIFT;
	struct page **pages;
	struct sg_table table;

	if (!length || !PAGE_ALIGNED(address | length) || count > PAGES_MAX)
		return -EINVAL;
	pages = kcalloc(count, sizeof(*pages), GFP_KERNEL);
	if (!pages)
		return -ENOMEM;
	pinned = pin_user_pages_fast(address, count, write ? 0 : FOLL_WRITE, pages);
	error = pinned < 0 ? pinned : pinned < count ? -EFAULT : 0;
	if (error)
		goto unpin;
	error = sg_alloc_table_from_pages_segment(&table, pages, count, 0, length,
						  dma_get_max_seg_size(engine->dev), GFP_KERNEL);
	if (error)
		goto unpin;
	error = dma_map_sgtable(engine->dev, &table, direction, 0);
	if (!error) {
		error = list_job(of(engine), &table, length, write);
		dma_unmap_sgtable(engine->dev, &table, direction, 0);
	}
	sg_free_table(&table);
unpin:
	if (pinned > 0)
		unpin_user_pages_dirty_lock(pages, pinned, !write);
	kfree(pages);
	return error ?: length;
}

static ssize_t zoo_pinned_write(struct file *file, const char __user *from, size_t count,
				loff_t *position)
{
	return transfer(file, (unsigned long)from, count, true);
}

static ssize_t zoo_pinned_read(struct file *file, char __user *to, size_t count, loff_t *position)
{
	return transfer(file, (unsigned long)to, count, false);
}

static const struct file_operations zoo_pinned_fops = {
	.owner = THIS_MODULE,
	.read = zoo_pinned_read,
	.write = zoo_pinned_write,
};

static int zoo_pinned_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct zoo_pinned *zoo = devm_kzalloc(&pdev->dev, sizeof(*zoo), GFP_KERNEL);
	int error;

	if (!zoo)
		return -ENOMEM;
	error = ring_engine_init(&zoo->engine, pdev, 64) ?: ring_engine_request_irq(&zoo->engine);
	if (error)
		return error;
	dma_set_max_seg_size(&pdev->dev, RING_JOB_MAX);
	zoo->lists = dma_pool_create(KBUILD_MODNAME, &pdev->dev,
				     PAGES_MAX * sizeof(struct ring_segment), 64, 0);
	if (!zoo->lists)
		return -ENOMEM;
	error = ring_engine_register(&zoo->engine, &zoo_pinned_fops);
	if (error)
		dma_pool_destroy(zoo->lists);
	return error;
}

static void zoo_pinned_remove(struct pci_dev *pdev)
{
	struct zoo_pinned *zoo = of(pci_get_drvdata(pdev));

	ring_engine_unregister(&zoo->engine);
	dma_pool_destroy(zoo->lists);
}

RING_ENGINE_DRIVER(zoo_pinned_probe, zoo_pinned_remove);

MODULE_DESCRIPTION("The caller's memory as a scatter list, described by a dma_pool");
MODULE_LICENSE("GPL");
