// SPDX-License-Identifier: GPL-2.0-only
/* /dev/mirror: a program reads back in reverse what it has written. The device does it by DMA. */
#include <linux/completion.h>
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

/* BAR0, and STATUS. */
#define MIRROR_SOURCE 0x00
#define MIRROR_TARGET 0x08
#define MIRROR_LENGTH 0x10
#define MIRROR_DOORBELL 0x14
#define MIRROR_STATUS 0x18
#define MIRROR_DONE 1

#define MIRROR_MAX 4096 /* bytes of one job */
#define MIRROR_PATIENCE (5 * HZ)

static bool hasty;
module_param(hasty, bool, 0444);
MODULE_PARM_DESC(hasty, "a bug: unmap the buffers before the device is done with them");

struct mirror {
	struct pci_dev *pdev;
	void __iomem *regs;
	struct miscdevice misc;
	struct mutex lock; /* one job at a time, and the result */
	struct completion done;
	u8 *result;
	size_t length;
};

struct mirror_job {
	dma_addr_t source, target;
	size_t length;
};

static irqreturn_t mirror_interrupt(int irq, void *data)
{
	struct mirror *m = data;

	complete(&m->done);
	return IRQ_HANDLED;
}

static void mirror_write_address(struct mirror *m, unsigned int offset, dma_addr_t address)
{
	writel(lower_32_bits(address), m->regs + offset);
	writel(upper_32_bits(address), m->regs + offset + 4);
}

static int mirror_map(struct device *dev, struct mirror_job *job, u8 *from, u8 *to)
{
	job->source = dma_map_single(dev, from, job->length, DMA_TO_DEVICE);
	if (dma_mapping_error(dev, job->source))
		return -ENOMEM;
	job->target = dma_map_single(dev, to, job->length, DMA_FROM_DEVICE);
	if (dma_mapping_error(dev, job->target)) {
		dma_unmap_single(dev, job->source, job->length, DMA_TO_DEVICE);
		return -ENOMEM;
	}
	return 0;
}

static void mirror_unmap(struct device *dev, struct mirror_job *job)
{
	dma_unmap_single(dev, job->target, job->length, DMA_FROM_DEVICE);
	dma_unmap_single(dev, job->source, job->length, DMA_TO_DEVICE);
}

static int mirror_run(struct mirror *m, u8 *from, u8 *to, size_t length)
{
	struct mirror_job job = { .length = length };
	struct device *dev = &m->pdev->dev;
	int error = mirror_map(dev, &job, from, to);

	if (error)
		return error;
	reinit_completion(&m->done);
	mirror_write_address(m, MIRROR_SOURCE, job.source);
	mirror_write_address(m, MIRROR_TARGET, job.target);
	writel(length, m->regs + MIRROR_LENGTH);
	writel(1, m->regs + MIRROR_DOORBELL);
	if (hasty)
		mirror_unmap(dev, &job);
	if (!wait_for_completion_timeout(&m->done, MIRROR_PATIENCE))
		error = -ETIMEDOUT;
	else if (readl(m->regs + MIRROR_STATUS) != MIRROR_DONE)
		error = -EIO;
	if (!hasty)
		mirror_unmap(dev, &job);
	return error;
}

static struct mirror *mirror_of(struct file *file)
{
	return container_of(file->private_data, struct mirror, misc);
}

static ssize_t mirror_write(struct file *file, const char __user *data, size_t length, loff_t *at)
{
	struct mirror *m = mirror_of(file);
	u8 *from, *to;
	int error;

	if (!length || length > MIRROR_MAX)
		return -EINVAL;
	from = memdup_user(data, length);
	if (IS_ERR(from))
		return PTR_ERR(from);
	to = kzalloc(length, GFP_KERNEL);
	mutex_lock(&m->lock);
	error = to ? mirror_run(m, from, to, length) : -ENOMEM;
	if (!error) {
		swap(m->result, to);
		m->length = length;
	}
	mutex_unlock(&m->lock);
	kfree(to);
	kfree(from);
	return error ? error : length;
}

static ssize_t mirror_read(struct file *file, char __user *data, size_t length, loff_t *at)
{
	struct mirror *m = mirror_of(file);
	ssize_t count;

	mutex_lock(&m->lock);
	count = min(length, m->length);
	if (copy_to_user(data, m->result, count))
		count = -EFAULT;
	mutex_unlock(&m->lock);
	return count;
}

static const struct file_operations mirror_files = {
	.owner = THIS_MODULE,
	.read = mirror_read,
	.write = mirror_write,
};

static int mirror_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct mirror *m;
	int error;

	m = devm_kzalloc(&pdev->dev, sizeof(*m), GFP_KERNEL);
	if (!m)
		return -ENOMEM;
	m->pdev = pdev;
	mutex_init(&m->lock);
	init_completion(&m->done);
	error = pcim_enable_device(pdev);
	if (error)
		return error;
	m->regs = pcim_iomap(pdev, 0, 0);
	if (!m->regs)
		return -ENOMEM;
	error = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (error)
		return error;
	error = pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_MSIX);
	if (error < 0)
		return error;
	error = request_irq(pci_irq_vector(pdev, 0), mirror_interrupt, 0, "mirror", m);
	if (error)
		goto free_vectors;
	pci_set_master(pdev);
	pci_set_drvdata(pdev, m);
	m->misc.minor = MISC_DYNAMIC_MINOR;
	m->misc.name = "mirror";
	m->misc.fops = &mirror_files;
	error = misc_register(&m->misc);
	if (!error)
		return 0;
	free_irq(pci_irq_vector(pdev, 0), m);
free_vectors:
	pci_free_irq_vectors(pdev);
	return error;
}

static void mirror_remove(struct pci_dev *pdev)
{
	struct mirror *m = pci_get_drvdata(pdev);

	misc_deregister(&m->misc);
	free_irq(pci_irq_vector(pdev, 0), m);
	pci_free_irq_vectors(pdev);
	kfree(m->result);
}

static const struct pci_device_id mirror_ids[] = { { PCI_DEVICE(0x1234, 0x3141) }, {} };
MODULE_DEVICE_TABLE(pci, mirror_ids);

static struct pci_driver mirror_driver = {
	.name = "mirror",
	.id_table = mirror_ids,
	.probe = mirror_probe,
	.remove = mirror_remove,
};
module_pci_driver(mirror_driver);

MODULE_DESCRIPTION("Mirrors memory: the example of docs/your-driver.md");
MODULE_LICENSE("GPL");
