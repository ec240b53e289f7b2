// SPDX-License-Identifier: GPL-2.0-only
/*
 * Everything is managed (dmam_*, devm_*), the interrupt has a thread, and the device sleeps in
 * D3hot between its jobs. What is written is kept in coherent memory, which the driver loads
 * again when the device wakes, for it forgets.
 */
#include <linux/dmapool.h>
#include <linux/pm_runtime.h>

#include "ring_engine.h"

#define SIZE	SZ_16K

struct zoo_managed {
	struct ring_engine engine;
	void *kept;
	dma_addr_t kept_dma;
	struct dma_pool *lists;
	struct ring_segment *list;
	dma_addr_t list_dma;
};

static struct zoo_managed *of(struct ring_engine *engine)
{
	return container_of(engine, struct zoo_managed, engine);
}

static irqreturn_t zoo_managed_thread(int irq, void *data)
{
	struct ring_engine *engine = data;

	complete(&engine->done);
	return IRQ_HANDLED;
}

/* Load what is kept, as a list of one segment. */
static int load(struct zoo_managed *zoo)
{
	struct ring_engine *engine = &zoo->engine;

	if (!engine->length)
		return 0;
	zoo->list->address = cpu_to_le64(zoo->kept_dma);
	zoo->list->length = cpu_to_le32(engine->length);
	ring_write(engine->regs, RING_JOB_SEGMENTS, 1);
	return ring_engine_job(engine, RING_JOB_LOAD | RING_JOB_SOURCE_LIST, zoo->list_dma, 0,
			       engine->length);
}

static ssize_t zoo_managed_write(struct file *file, const char __user *from, size_t count,
				 loff_t *position)
{
	struct ring_engine *engine = ring_engine_of(file);
	struct zoo_managed *zoo = of(engine);
	int error;

	if (!count || count > SIZE)
		return -EINVAL;
	mutex_lock(&engine->lock);
	error = pm_runtime_resume_and_get(engine->dev);
	if (!error) {
		error = copy_from_user(zoo->kept, from, count) ? -EFAULT : 0;
		engine->length = error ? 0 : count;
		error = error ?: load(zoo);
		pm_runtime_put_sync(engine->dev);
	}
	mutex_unlock(&engine->lock);
	return error ?: count;
}

static ssize_t zoo_managed_read(struct file *file, char __user *to, size_t count,
				loff_t *position)
{
	struct ring_engine *engine = ring_engine_of(file);
	struct device *dev = engine->dev;
	dma_addr_t dma;
	void *buffer;
	int error;

	mutex_lock(&engine->lock);
	count = min(count, engine->length);
	buffer = count ? dmam_alloc_coherent(dev, count, &dma, GFP_KERNEL) : NULL;
	error = count && !buffer ? -ENOMEM : 0;
	if (buffer) {
		error = pm_runtime_resume_and_get(dev);
		if (!error) {
			error = ring_engine_store(engine, dma, count);
			pm_runtime_put_sync(dev);
		}
		if (!error && copy_to_user(to, buffer, count))
			error = -EFAULT;
		dmam_free_coherent(dev, count, buffer, dma);
	}
	mutex_unlock(&engine->lock);
	return error ?: count;
}

static const struct file_operations zoo_managed_fops = {
	.owner = THIS_MODULE,
	.read = zoo_managed_read,
	.write = zoo_managed_write,
};

static int zoo_managed_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct zoo_managed *zoo = devm_kzalloc(dev, sizeof(*zoo), GFP_KERNEL);
	int error;

	if (!zoo)
		return -ENOMEM;
	error = ring_engine_init(&zoo->engine, pdev, 64);
	if (error)
		return error;
	zoo->kept = dmam_alloc_coherent(dev, SIZE, &zoo->kept_dma, GFP_KERNEL);
	zoo->lists = dmam_pool_create(KBUILD_MODNAME, dev, sizeof(*zoo->list), 16, 0);
	if (!zoo->kept || !zoo->lists)
		return -ENOMEM;
	error = devm_request_threaded_irq(dev, pci_irq_vector(pdev, RING_VECTOR_JOB), NULL,
					  zoo_managed_thread, IRQF_ONESHOT, KBUILD_MODNAME,
					  &zoo->engine);
	if (error)
		return error;
	zoo->list = dma_pool_zalloc(zoo->lists, GFP_KERNEL, &zoo->list_dma);
	if (!zoo->list)
		return -ENOMEM;
	error = ring_engine_register(&zoo->engine, &zoo_managed_fops);
	if (error) {
		dma_pool_free(zoo->lists, zoo->list, zoo->list_dma);
		return error;
	}
	pm_runtime_allow(dev);
	pm_runtime_put_noidle(dev);	/* the PCI core's, from before the probe */
	pm_request_idle(dev);
	return 0;
}

static void zoo_managed_remove(struct pci_dev *pdev)
{
	struct zoo_managed *zoo = of(pci_get_drvdata(pdev));

	pm_runtime_get_sync(&pdev->dev);
	pm_runtime_forbid(&pdev->dev);
	ring_engine_unregister(&zoo->engine);
	dma_pool_free(zoo->lists, zoo->list, zoo->list_dma);
}

static int zoo_managed_suspend(struct device *dev)
{
	struct zoo_managed *zoo = of(dev_get_drvdata(dev));

	ring_stop(zoo->engine.pdev, zoo->engine.regs);
	return 0;
}

static int zoo_managed_resume(struct device *dev)
{
	struct zoo_managed *zoo = of(dev_get_drvdata(dev));

	pci_set_master(zoo->engine.pdev);
	return load(zoo);
}

static DEFINE_RUNTIME_DEV_PM_OPS(zoo_managed_pm, zoo_managed_suspend, zoo_managed_resume, NULL);

RING_ENGINE_IDS;

static struct pci_driver zoo_managed_driver = {
	.name = KBUILD_MODNAME,
	.id_table = ring_engine_ids,
	.probe = zoo_managed_probe,
	.remove = zoo_managed_remove,
	.driver.pm = pm_ptr(&zoo_managed_pm),
};
module_pci_driver(zoo_managed_driver);

MODULE_DESCRIPTION("Managed memory, a threaded interrupt, and D3hot between jobs");
MODULE_LICENSE("GPL");
