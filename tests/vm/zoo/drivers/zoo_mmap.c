// SPDX-License-Identifier: GPL-2.0-only
/*
 * Coherent memory that a program maps. An ioctl has the device copy the memory's first half to
 * its second; another gives the memory to a second importer, by its scatter list.
 */
#include <linux/mm.h>
#include <linux/scatterlist.h>

#include "ring_engine.h"

#define SIZE	SZ_64K

#define ZOO_MMAP_COPY	_IO('Z', 1)
#define ZOO_MMAP_SHARE	_IO('Z', 2)

struct zoo_mmap {
	struct ring_engine engine;
	void *memory;
	dma_addr_t dma;
};

static struct zoo_mmap *of(struct ring_engine *engine)
{
	return container_of(engine, struct zoo_mmap, engine);
}

static int zoo_mmap_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct ring_engine *engine = ring_engine_of(file);
	struct zoo_mmap *zoo = of(engine);

	return dma_mmap_coherent(engine->dev, vma, zoo->memory, zoo->dma, SIZE);
}

/* What an exporter of a dma-buf does for the one that imports it: here, the device itself. */
static int share(struct zoo_mmap *zoo)
{
	struct ring_engine *engine = &zoo->engine;
	struct sg_table table;
	int error;

	error = dma_get_sgtable(engine->dev, &table, zoo->memory, zoo->dma, SIZE);
	if (error)
		return error;
	/* The memory is coherent, so there is nothing to sync. */
	error = dma_map_sgtable(engine->dev, &table, DMA_BIDIRECTIONAL, DMA_ATTR_SKIP_CPU_SYNC);
	if (!error) {
		if (table.nents == 1)
			error = ring_engine_job(engine, RING_JOB_COPY, sg_dma_address(table.sgl),
						sg_dma_address(table.sgl) + SIZE / 2, SIZE / 2);
		dma_unmap_sgtable(engine->dev, &table, DMA_BIDIRECTIONAL, DMA_ATTR_SKIP_CPU_SYNC);
	}
	sg_free_table(&table);
	return error;
}

static long zoo_mmap_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct ring_engine *engine = ring_engine_of(file);
	struct zoo_mmap *zoo = of(engine);
	long error;

	mutex_lock(&engine->lock);
	switch (command) {
	case ZOO_MMAP_COPY:
		error = ring_engine_job(engine, RING_JOB_COPY, zoo->dma, zoo->dma + SIZE / 2,
					SIZE / 2);
		break;
	case ZOO_MMAP_SHARE:
		error = share(zoo);
		break;
	default:
		error = -ENOTTY;
	}
	mutex_unlock(&engine->lock);
	return error;
}

static const struct file_operations zoo_mmap_fops = {
	.owner = THIS_MODULE,
	.mmap = zoo_mmap_mmap,
	.unlocked_ioctl = zoo_mmap_ioctl,
};

static int zoo_mmap_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct zoo_mmap *zoo = devm_kzalloc(&pdev->dev, sizeof(*zoo), GFP_KERNEL);
	int error;

	if (!zoo)
		return -ENOMEM;
	error = ring_engine_init(&zoo->engine, pdev, 64) ?: ring_engine_request_irq(&zoo->engine);
	if (error)
		return error;
	zoo->memory = dma_alloc_coherent(&pdev->dev, SIZE, &zoo->dma, GFP_KERNEL);
	if (!zoo->memory)
		return -ENOMEM;
	error = ring_engine_register(&zoo->engine, &zoo_mmap_fops);
	if (error)
		dma_free_coherent(&pdev->dev, SIZE, zoo->memory, zoo->dma);
	return error;
}

static void zoo_mmap_remove(struct pci_dev *pdev)
{
	struct zoo_mmap *zoo = of(pci_get_drvdata(pdev));

	ring_engine_unregister(&zoo->engine);
	dma_free_coherent(&pdev->dev, SIZE, zoo->memory, zoo->dma);
}

RING_ENGINE_DRIVER(zoo_mmap_probe, zoo_mmap_remove);

MODULE_DESCRIPTION("Coherent memory in a program, and shared with an importer");
MODULE_LICENSE("GPL");
