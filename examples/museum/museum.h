/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What all drivers of the museum have: a misc device /dev/museum, BAR0, one interrupt.
 *
 * A driver defines museum_setup(), museum_transfer() and museum_teardown(). write() takes bytes to the device's memory, read() brings them back; the
 * file's position is the place there. The module parameter `mended` chooses the right variant.
 */
#ifndef MUSEUM_H
#define MUSEUM_H

#include <linux/completion.h>
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/version.h>

/* What a driver may define before it includes this. */
#ifndef MUSEUM_BITS
#define MUSEUM_BITS 64		/* of the DMA mask */
#endif
#ifndef MUSEUM_BEFORE_MASTER
#define MUSEUM_BEFORE_MASTER(museum)
#endif

/* BAR0; engine.py has the same table. */
#define MUSEUM_ADDRESS_LO	0x00
#define MUSEUM_ADDRESS_HI	0x04
#define MUSEUM_LENGTH		0x08
#define MUSEUM_OFFSET		0x0c
#define MUSEUM_COMMAND		0x10
#define MUSEUM_STATUS		0x14
#define MUSEUM_RING_LO		0x20
#define MUSEUM_RING_HI		0x24
#define MUSEUM_RING_SIZE	0x28
#define MUSEUM_RING_TAIL	0x2c

#define MUSEUM_FETCH		1	/* memory -> device */
#define MUSEUM_STORE		2	/* device -> memory */
#define MUSEUM_DONE		1

#define MUSEUM_OWN		BIT(31)
#define MUSEUM_RING_STORE	BIT(0)
#define MUSEUM_LAST		BIT(1)

#define MUSEUM_MAX		SZ_64K	/* bytes of one transfer */
#define MUSEUM_PATIENCE		msecs_to_jiffies(5000)

struct museum_descriptor {
	__le64 address;
	__le32 length;
	__le32 flags;
};

struct museum {
	struct pci_dev *pdev;
	struct device *dev;
	void __iomem *regs;
	struct miscdevice misc;
	struct mutex lock;		/* one transfer at a time */
	struct completion done;
	u32 status;
	void *own;			/* the driver's */
};

static bool mended;
module_param(mended, bool, 0444);
MODULE_PARM_DESC(mended, "the right variant");

/* The driver's. A transfer moves the bytes of a kernel buffer; it sleeps. */
static int museum_setup(struct museum *museum);
static void museum_teardown(struct museum *museum);
static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store);

static inline void museum_start(struct museum *museum, dma_addr_t address, size_t length,
				u32 offset, bool store)
{
	writel(lower_32_bits(address), museum->regs + MUSEUM_ADDRESS_LO);
	writel(upper_32_bits(address), museum->regs + MUSEUM_ADDRESS_HI);
	writel(length, museum->regs + MUSEUM_LENGTH);
	writel(offset, museum->regs + MUSEUM_OFFSET);
	reinit_completion(&museum->done);
	writel(store ? MUSEUM_STORE : MUSEUM_FETCH, museum->regs + MUSEUM_COMMAND);
}

/* Wait for the end of a job: 0, -EIO or -ETIMEDOUT. */
static inline int museum_wait(struct museum *museum)
{
	if (!wait_for_completion_timeout(&museum->done, MUSEUM_PATIENCE))
		return -ETIMEDOUT;
	return museum->status == MUSEUM_DONE ? 0 : -EIO;
}

static inline int museum_job(struct museum *museum, dma_addr_t address, size_t length,
			     u32 offset, bool store)
{
	museum_start(museum, address, length, offset, store);
	return museum_wait(museum);
}

#ifdef MUSEUM_OWN_INTERRUPT	/* the driver has one */
static irqreturn_t museum_interrupt(int irq, void *data);
#else
static irqreturn_t museum_interrupt(int irq, void *data)
{
	struct museum *museum = data;

	museum->status = readl(museum->regs + MUSEUM_STATUS);
	writel(0, museum->regs + MUSEUM_STATUS);
	complete(&museum->done);
	return IRQ_HANDLED;
}
#endif

static ssize_t museum_move(struct file *file, char __user *to, const char __user *from,
			   size_t length, loff_t *position)
{
	struct museum *museum = container_of(file->private_data, struct museum, misc);
	u8 *data;
	int ret = 0;

	if (!length || length > MUSEUM_MAX || *position < 0 || *position > SZ_128K)
		return -EINVAL;
	data = kmalloc(length, GFP_KERNEL);
	if (!data)
		return -ENOMEM;
	if (from && copy_from_user(data, from, length))
		ret = -EFAULT;
	if (!ret) {
		mutex_lock(&museum->lock);
		ret = museum_transfer(museum, data, length, *position, !from);
		mutex_unlock(&museum->lock);
	}
	if (!ret && to && copy_to_user(to, data, length))
		ret = -EFAULT;
	kfree(data);
	return ret ? ret : length;
}

static ssize_t museum_read(struct file *file, char __user *to, size_t length, loff_t *position)
{
	return museum_move(file, to, NULL, length, position);
}

static ssize_t museum_write(struct file *file, const char __user *from, size_t length,
			    loff_t *position)
{
	return museum_move(file, NULL, from, length, position);
}

static const struct file_operations museum_fops = {
	.owner = THIS_MODULE,
	.read = museum_read,
	.write = museum_write,
};

static int museum_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct museum *museum = devm_kzalloc(&pdev->dev, sizeof(*museum), GFP_KERNEL);
	int ret;

	if (!museum)
		return -ENOMEM;
	museum->pdev = pdev;
	museum->dev = &pdev->dev;
	mutex_init(&museum->lock);
	init_completion(&museum->done);
	pci_set_drvdata(pdev, museum);
	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	museum->regs = pcim_iomap(pdev, 0, 0);
	if (!museum->regs)
		return -ENOMEM;
	ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(MUSEUM_BITS));
	if (ret)
		return ret;
	ret = pci_alloc_irq_vectors(pdev, 1, 1, PCI_IRQ_MSIX);
	if (ret < 0)
		return ret;
	ret = request_irq(pci_irq_vector(pdev, 0), museum_interrupt, 0, KBUILD_MODNAME, museum);
	if (ret)
		goto free_vectors;
	MUSEUM_BEFORE_MASTER(museum);
	pci_set_master(pdev);
	ret = museum_setup(museum);
	if (ret)
		goto free_interrupt;
	museum->misc.minor = MISC_DYNAMIC_MINOR;
	museum->misc.name = "museum";
	museum->misc.fops = &museum_fops;
	ret = misc_register(&museum->misc);
	if (ret)
		goto teardown;
	return 0;

teardown:
	museum_teardown(museum);
free_interrupt:
	free_irq(pci_irq_vector(pdev, 0), museum);
free_vectors:
	pci_free_irq_vectors(pdev);
	return ret;
}

static void museum_remove(struct pci_dev *pdev)
{
	struct museum *museum = pci_get_drvdata(pdev);

	misc_deregister(&museum->misc);
	museum_teardown(museum);
	pci_clear_master(pdev);
	free_irq(pci_irq_vector(pdev, 0), museum);
	pci_free_irq_vectors(pdev);
}

static const struct pci_device_id museum_ids[] = {
	{ PCI_DEVICE(0x1234, 0x0dab) },
	{ }
};
MODULE_DEVICE_TABLE(pci, museum_ids);

static struct pci_driver museum_driver = {
	.name = KBUILD_MODNAME,
	.id_table = museum_ids,
	.probe = museum_probe,
	.remove = museum_remove,
};
module_pci_driver(museum_driver);
MODULE_DESCRIPTION("A piece of the museum of DMA mistakes");
MODULE_LICENSE("GPL");

#endif
