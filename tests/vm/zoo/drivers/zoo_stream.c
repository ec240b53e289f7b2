// SPDX-License-Identifier: GPL-2.0-only
/*
 * Streaming mappings of one transfer each: /dev/zoo_stream keeps what is written, in the
 * device's memory, and reads give it back.
 */
#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/interrupt.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "ring_registers.h"

#define TRANSFER_MAX	SZ_64K

struct zoo_stream {
	struct pci_dev *pdev;
	void __iomem *regs;
	struct mutex lock;		/* one job at a time */
	struct completion done;
	struct miscdevice misc;
	size_t length;			/* bytes in the device */
};

static struct zoo_stream *to_zoo(struct file *file)
{
	return container_of(file->private_data, struct zoo_stream, misc);
}

static irqreturn_t zoo_stream_irq(int irq, void *data)
{
	struct zoo_stream *zoo = data;

	complete(&zoo->done);
	return IRQ_HANDLED;
}

static int zoo_stream_job(struct zoo_stream *zoo, unsigned int address, u32 operation,
			  dma_addr_t dma, size_t length)
{
	reinit_completion(&zoo->done);
	ring_write_address(zoo->regs, address, dma);
	ring_write(zoo->regs, RING_JOB_LENGTH, length);
	ring_write(zoo->regs, RING_JOB_DOORBELL, operation | RING_JOB_INTERRUPT);
	if (!wait_for_completion_timeout(&zoo->done, 5 * HZ)) {
		/* The buffer is freed next: the device must not use it any more. */
		ring_stop(zoo->pdev, zoo->regs);
		pci_set_master(zoo->pdev);
		return -ETIMEDOUT;
	}
	return ring_job_error(ring_read(zoo->regs, RING_JOB_STATUS));
}

static ssize_t zoo_stream_write(struct file *file, const char __user *from, size_t count,
				loff_t *position)
{
	struct zoo_stream *zoo = to_zoo(file);
	struct device *dev = &zoo->pdev->dev;
	dma_addr_t dma;
	void *buffer;
	int error;

	if (!count || count > TRANSFER_MAX)
		return -EINVAL;
	buffer = memdup_user(from, count);
	if (IS_ERR(buffer))
		return PTR_ERR(buffer);
	dma = dma_map_single(dev, buffer, count, DMA_TO_DEVICE);
	if (dma_mapping_error(dev, dma)) {
		error = -ENOMEM;
		goto out;
	}
	mutex_lock(&zoo->lock);
	error = zoo_stream_job(zoo, RING_JOB_SOURCE_LO, RING_JOB_LOAD, dma, count);
	if (!error)
		zoo->length = count;
	mutex_unlock(&zoo->lock);
	dma_unmap_single(dev, dma, count, DMA_TO_DEVICE);
out:
	kfree(buffer);
	return error ?: count;
}

/* A read is of pages, mapped with an offset as a caller of vmsplice() would have it. */
static ssize_t zoo_stream_read(struct file *file, char __user *to, size_t count, loff_t *position)
{
	struct zoo_stream *zoo = to_zoo(file);
	struct device *dev = &zoo->pdev->dev;
	unsigned int order, offset = 256;
	struct page *page;
	dma_addr_t dma;
	int error;

	mutex_lock(&zoo->lock);
	count = min(count, zoo->length);
	if (!count) {
		error = 0;
		goto unlock;
	}
	order = get_order(offset + count);
	page = alloc_pages(GFP_KERNEL, order);
	if (!page) {
		error = -ENOMEM;
		goto unlock;
	}
	dma = dma_map_page(dev, page, offset, count, DMA_FROM_DEVICE);
	if (dma_mapping_error(dev, dma)) {
		error = -ENOMEM;
		goto free;
	}
	error = zoo_stream_job(zoo, RING_JOB_TARGET_LO, RING_JOB_STORE, dma, count);
	dma_unmap_page(dev, dma, count, DMA_FROM_DEVICE);
	if (!error && copy_to_user(to, page_address(page) + offset, count))
		error = -EFAULT;
free:
	__free_pages(page, order);
unlock:
	mutex_unlock(&zoo->lock);
	return error ?: count;
}

static const struct file_operations zoo_stream_fops = {
	.owner = THIS_MODULE,
	.read = zoo_stream_read,
	.write = zoo_stream_write,
};

static int zoo_stream_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct zoo_stream *zoo;
	int error;

	zoo = devm_kzalloc(&pdev->dev, sizeof(*zoo), GFP_KERNEL);
	if (!zoo)
		return -ENOMEM;
	zoo->pdev = pdev;
	mutex_init(&zoo->lock);
	init_completion(&zoo->done);
	zoo->regs = ring_enable(pdev);
	if (IS_ERR(zoo->regs))
		return PTR_ERR(zoo->regs);
	error = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (error)
		return error;
	error = pci_alloc_irq_vectors(pdev, RING_VECTORS, RING_VECTORS, PCI_IRQ_MSIX);
	if (error < 0)
		return error;
	error = devm_request_irq(&pdev->dev, pci_irq_vector(pdev, RING_VECTOR_JOB), zoo_stream_irq,
				 0, KBUILD_MODNAME, zoo);
	if (error)
		return error;
	pci_set_master(pdev);
	pci_set_drvdata(pdev, zoo);
	zoo->misc = (struct miscdevice){
		.minor = MISC_DYNAMIC_MINOR,
		.name = KBUILD_MODNAME,
		.fops = &zoo_stream_fops,
		.parent = &pdev->dev,
	};
	error = misc_register(&zoo->misc);
	if (error)
		ring_stop(pdev, zoo->regs);
	return error;
}

static void zoo_stream_remove(struct pci_dev *pdev)
{
	struct zoo_stream *zoo = pci_get_drvdata(pdev);

	misc_deregister(&zoo->misc);
	ring_stop(pdev, zoo->regs);
}

static const struct pci_device_id zoo_stream_ids[] = {
	{ PCI_DEVICE(RING_VENDOR_ID, RING_DEVICE_ID) },
	{ }
};
MODULE_DEVICE_TABLE(pci, zoo_stream_ids);

static struct pci_driver zoo_stream_driver = {
	.name = KBUILD_MODNAME,
	.id_table = zoo_stream_ids,
	.probe = zoo_stream_probe,
	.remove = zoo_stream_remove,
};
module_pci_driver(zoo_stream_driver);

MODULE_DESCRIPTION("Streaming mappings, one for each transfer");
MODULE_LICENSE("GPL");
