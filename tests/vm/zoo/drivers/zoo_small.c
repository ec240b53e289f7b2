// SPDX-License-Identifier: GPL-2.0-only
/*
 * Small objects of kmalloc, which lie close to each other: the device fills every other one,
 * while the CPU uses those in between. A read of n bytes uses 2 * DIV_ROUND_UP(n, 24) of them.
 */
#include "ring_engine.h"

#define OBJECT	24	/* bytes; several share a cache line on x86 */
#define OBJECTS	64
#define MARK	0x5a

static ssize_t zoo_small_write(struct file *file, const char __user *from, size_t count,
			       loff_t *position)
{
	struct ring_engine *engine = ring_engine_of(file);
	dma_addr_t dma;
	void *object;
	int error;

	if (count != OBJECT)
		return -EINVAL;
	object = memdup_user(from, OBJECT);
	if (IS_ERR(object))
		return PTR_ERR(object);
	dma = dma_map_single(engine->dev, object, OBJECT, DMA_TO_DEVICE);
	error = dma_mapping_error(engine->dev, dma);
	if (!error) {
		mutex_lock(&engine->lock);
		error = ring_engine_load(engine, dma, OBJECT);
		mutex_unlock(&engine->lock);
		dma_unmap_single(engine->dev, dma, OBJECT, DMA_TO_DEVICE);
	}
	kfree(object);
	return error ?: count;
}

/* Let the device fill @object, while the CPU stores in both @neighbours. */
static int fill(struct ring_engine *engine, void *object, void *const *neighbours, u8 mark)
{
	dma_addr_t dma = dma_map_single(engine->dev, object, OBJECT, DMA_FROM_DEVICE);
	int error = dma_mapping_error(engine->dev, dma);

	if (error)
		return error;
	memset(neighbours[0], mark, OBJECT);
	error = ring_engine_store(engine, dma, OBJECT);
	memset(neighbours[1], mark, OBJECT);
	dma_unmap_single(engine->dev, dma, OBJECT, DMA_FROM_DEVICE);
	if (!error && (memchr_inv(neighbours[0], mark, OBJECT) ||
		       memchr_inv(neighbours[1], mark, OBJECT)))
		error = -EILSEQ;
	return error;
}

static ssize_t zoo_small_read(struct file *file, char __user *to, size_t count, loff_t *position)
{
	struct ring_engine *engine = ring_engine_of(file);
	void *objects[OBJECTS + 1] = {};
	unsigned int i, used;
	int error = 0;

	if (!count || count > OBJECT * OBJECTS / 2)
		return -EINVAL;
	used = 2 * DIV_ROUND_UP(count, OBJECT) + 1;
	for (i = 0; i < used && !error; i++) {
		objects[i] = kzalloc(OBJECT, GFP_KERNEL);
		error = objects[i] ? 0 : -ENOMEM;
	}
	mutex_lock(&engine->lock);
	for (i = 1; i < used && !error; i += 2) {
		void *const neighbours[] = { objects[i - 1], objects[i + 1] };

		error = fill(engine, objects[i], neighbours, MARK + i);
	}
	mutex_unlock(&engine->lock);
	for (i = 1; i < used && !error; i += 2) {
		size_t at = i / 2 * OBJECT;

		if (copy_to_user(to + at, objects[i], min_t(size_t, OBJECT, count - at)))
			error = -EFAULT;
	}
	for (i = 0; i < used; i++)
		kfree(objects[i]);
	return error ?: count;
}

static const struct file_operations zoo_small_fops = {
	.owner = THIS_MODULE,
	.read = zoo_small_read,
	.write = zoo_small_write,
};

static int zoo_small_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct ring_engine *engine = devm_kzalloc(&pdev->dev, sizeof(*engine), GFP_KERNEL);

	if (!engine)
		return -ENOMEM;
	return ring_engine_init(engine, pdev, 64) ?: ring_engine_request_irq(engine) ?:
	       ring_engine_register(engine, &zoo_small_fops);
}

static void zoo_small_remove(struct pci_dev *pdev)
{
	ring_engine_unregister(pci_get_drvdata(pdev));
}

RING_ENGINE_DRIVER(zoo_small_probe, zoo_small_remove);

MODULE_DESCRIPTION("Small objects that lie in one cache line");
MODULE_LICENSE("GPL");
