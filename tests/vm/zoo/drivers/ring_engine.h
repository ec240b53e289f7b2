/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The part that the zoo's character drivers share: the job engine with its interrupt, and a
 * device file of the module's name. The mappings are the drivers' own.
 */
#ifndef RING_ENGINE_H
#define RING_ENGINE_H

#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/interrupt.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "ring_registers.h"

struct ring_engine {
	struct pci_dev *pdev;
	struct device *dev;
	void __iomem *regs;
	struct mutex lock;		/* one job at a time */
	struct completion done;
	struct miscdevice misc;
	size_t length;			/* bytes that the device keeps */
};

static inline struct ring_engine *ring_engine_of(struct file *file)
{
	return container_of(file->private_data, struct ring_engine, misc);
}

static inline irqreturn_t ring_engine_irq(int irq, void *data)
{
	struct ring_engine *engine = data;

	complete(&engine->done);
	return IRQ_HANDLED;
}

static inline int ring_engine_vectors(struct ring_engine *engine)
{
	int count = pci_alloc_irq_vectors(engine->pdev, RING_VECTORS, RING_VECTORS, PCI_IRQ_MSIX);

	return count < 0 ? count : 0;
}

/* Everything but the interrupt. The device does no DMA until ring_engine_register(). */
static inline int ring_engine_init(struct ring_engine *engine, struct pci_dev *pdev,
				   unsigned int address_bits)
{
	engine->pdev = pdev;
	engine->dev = &pdev->dev;
	mutex_init(&engine->lock);
	init_completion(&engine->done);
	pci_set_drvdata(pdev, engine);
	engine->regs = ring_enable(pdev);
	if (IS_ERR(engine->regs))
		return PTR_ERR(engine->regs);
	if (address_bits <= 32)
		ring_write(engine->regs, RING_CONTROL, RING_CONTROL_NARROW);
	return dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(address_bits)) ?:
	       ring_engine_vectors(engine);
}

static inline int ring_engine_request_irq(struct ring_engine *engine)
{
	return devm_request_irq(engine->dev, pci_irq_vector(engine->pdev, RING_VECTOR_JOB),
				ring_engine_irq, 0, KBUILD_MODNAME, engine);
}

static inline int ring_engine_register(struct ring_engine *engine,
				       const struct file_operations *fops)
{
	int error;

	pci_set_master(engine->pdev);
	engine->misc = (struct miscdevice){
		.minor = MISC_DYNAMIC_MINOR,
		.name = KBUILD_MODNAME,
		.fops = fops,
		.parent = engine->dev,
	};
	error = misc_register(&engine->misc);
	if (error)
		ring_stop(engine->pdev, engine->regs);
	return error;
}

static inline void ring_engine_unregister(struct ring_engine *engine)
{
	misc_deregister(&engine->misc);
	ring_stop(engine->pdev, engine->regs);
}

static inline void ring_engine_start(struct ring_engine *engine, u32 operation, dma_addr_t source,
				     dma_addr_t target, size_t length)
{
	ring_write_address(engine->regs, RING_JOB_SOURCE_LO, source);
	ring_write_address(engine->regs, RING_JOB_TARGET_LO, target);
	ring_write(engine->regs, RING_JOB_LENGTH, length);
	ring_write(engine->regs, RING_JOB_DOORBELL, operation | RING_JOB_INTERRUPT);
}

/* Do a job and sleep until it is over. The caller holds the lock. */
static inline int ring_engine_job(struct ring_engine *engine, u32 operation, dma_addr_t source,
				  dma_addr_t target, size_t length)
{
	u32 control = ring_read(engine->regs, RING_CONTROL);

	reinit_completion(&engine->done);
	ring_engine_start(engine, operation, source, target, length);
	if (!wait_for_completion_timeout(&engine->done, 5 * HZ)) {
		/* The caller unmaps next, so the device must have stopped. */
		ring_stop(engine->pdev, engine->regs);
		ring_write(engine->regs, RING_CONTROL, control);
		pci_set_master(engine->pdev);
		return -ETIMEDOUT;
	}
	return ring_job_error(ring_read(engine->regs, RING_JOB_STATUS));
}

static inline int ring_engine_load(struct ring_engine *engine, dma_addr_t source, size_t length)
{
	return ring_engine_job(engine, RING_JOB_LOAD, source, 0, length);
}

static inline int ring_engine_store(struct ring_engine *engine, dma_addr_t target, size_t length)
{
	return ring_engine_job(engine, RING_JOB_STORE, 0, target, length);
}

/* The rest of a driver that has nothing of its own in its probe and remove. */
#define RING_ENGINE_IDS							\
	static const struct pci_device_id ring_engine_ids[] = {		\
		{ PCI_DEVICE(RING_VENDOR_ID, RING_DEVICE_ID) },		\
		{ }							\
	};								\
	MODULE_DEVICE_TABLE(pci, ring_engine_ids)

#define RING_ENGINE_DRIVER(probe_function, remove_function)		\
	RING_ENGINE_IDS;						\
	static struct pci_driver ring_engine_driver = {			\
		.name = KBUILD_MODNAME,					\
		.id_table = ring_engine_ids,				\
		.probe = probe_function,				\
		.remove = remove_function,				\
	};								\
	module_pci_driver(ring_engine_driver)

#endif
