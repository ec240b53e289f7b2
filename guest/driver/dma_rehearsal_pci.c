// SPDX-License-Identifier: GPL-2.0
/*
 * The exerciser's PCI function (others through new_id or driver_override):
 * /dev/dma-rehearsal-pciN gives bus mastering and one eventfd per MSI-X vector.
 *
 * The BARs are user space's, through sysfs' resourceN. So no region is
 * requested here: with IO_STRICT_DEVMEM the kernel refuses to map a busy one.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/eventfd.h>
#include <linux/fs.h>
#include <linux/idr.h>
#include <linux/interrupt.h>
#include <linux/kref.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/overflow.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>

#include "dma_rehearsal.h"

#define DR_MAX_VECTORS	32	/* a CPU has some 200 for all of its devices */

struct dr_vector {
	spinlock_t lock;		/* eventfd, against the handler */
	struct eventfd_ctx *eventfd;
	struct file *owner;		/* whose close takes the eventfd away; under pci->lock */
};

struct dr_pci {
	struct kref kref;		/* probe's, and one for each open file */
	struct mutex lock;		/* everything below; remove against ioctl */
	struct pci_dev *pdev;		/* NULL after remove */
	struct miscdevice misc;
	char name[32];
	int id;
	unsigned int vectors;
	struct dr_vector vector[];
};

static DEFINE_IDA(dr_pci_ids);

static void dr_pci_free(struct kref *kref)
{
	struct dr_pci *pci = container_of(kref, struct dr_pci, kref);

	mutex_destroy(&pci->lock);
	kfree(pci);
}

static irqreturn_t dr_pci_interrupt(int irq, void *data)
{
	struct dr_vector *vector = data;
	unsigned long flags;

	spin_lock_irqsave(&vector->lock, flags);
	if (vector->eventfd)
		eventfd_signal(vector->eventfd, 1);
	spin_unlock_irqrestore(&vector->lock, flags);
	return IRQ_HANDLED;
}

/* Under pci->lock. Takes over the reference to @eventfd, which may be NULL. */
static void dr_vector_set(struct dr_vector *vector, struct eventfd_ctx *eventfd,
			  struct file *owner)
{
	struct eventfd_ctx *old = vector->eventfd;

	spin_lock_irq(&vector->lock);
	vector->eventfd = eventfd;
	spin_unlock_irq(&vector->lock);
	vector->owner = eventfd ? owner : NULL;
	if (old)
		eventfd_ctx_put(old);
}

static long dr_pci_eventfd(struct dr_pci *pci, struct file *file, void __user *user)
{
	struct dma_rehearsal_eventfd request;
	struct eventfd_ctx *eventfd = NULL;
	struct dr_vector *vector;

	if (copy_from_user(&request, user, sizeof(request)))
		return -EFAULT;
	if (request.vector >= pci->vectors || request.fd < -1)
		return -EINVAL;
	vector = &pci->vector[request.vector];
	if (vector->owner && vector->owner != file)
		return -EBUSY;
	if (request.fd >= 0) {
		eventfd = eventfd_ctx_fdget(request.fd);
		if (IS_ERR(eventfd))
			return PTR_ERR(eventfd);
	}
	dr_vector_set(vector, eventfd, file);
	return 0;
}

static long dr_pci_info(struct dr_pci *pci, void __user *user)
{
	struct dma_rehearsal_pci_info info = {
		.version = DMA_REHEARSAL_VERSION,
		.vectors = pci->vectors,
	};
	u16 command;

	if (pci_read_config_word(pci->pdev, PCI_COMMAND, &command))
		return -EIO;
	info.bus_master = !!(command & PCI_COMMAND_MASTER);
	return copy_to_user(user, &info, sizeof(info)) ? -EFAULT : 0;
}

static long dr_pci_bus_master(struct dr_pci *pci, void __user *user)
{
	u32 on;

	if (get_user(on, (u32 __user *)user))
		return -EFAULT;
	if (on > 1)
		return -EINVAL;
	if (on)
		pci_set_master(pci->pdev);
	else
		pci_clear_master(pci->pdev);
	return 0;
}

static long dr_pci_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct dr_pci *pci = file->private_data;
	void __user *user = (void __user *)argument;
	long ret;

	mutex_lock(&pci->lock);
	if (!pci->pdev)
		ret = -ENODEV;
	else if (command == DMA_REHEARSAL_PCI_INFO)
		ret = dr_pci_info(pci, user);
	else if (command == DMA_REHEARSAL_EVENTFD)
		ret = dr_pci_eventfd(pci, file, user);
	else if (command == DMA_REHEARSAL_BUS_MASTER)
		ret = dr_pci_bus_master(pci, user);
	else
		ret = -ENOTTY;
	mutex_unlock(&pci->lock);
	return ret;
}

/* misc_open() holds off misc_deregister(), so the structure is still there. */
static int dr_pci_open(struct inode *inode, struct file *file)
{
	struct dr_pci *pci = container_of(file->private_data, struct dr_pci, misc);

	kref_get(&pci->kref);
	file->private_data = pci;
	return 0;
}

static int dr_pci_release(struct inode *inode, struct file *file)
{
	struct dr_pci *pci = file->private_data;
	unsigned int i;

	mutex_lock(&pci->lock);
	for (i = 0; i < pci->vectors; i++)
		if (pci->vector[i].owner == file)
			dr_vector_set(&pci->vector[i], NULL, NULL);
	mutex_unlock(&pci->lock);
	kref_put(&pci->kref, dr_pci_free);
	return 0;
}

static const struct file_operations dr_pci_fops = {
	.owner = THIS_MODULE,
	.open = dr_pci_open,
	.release = dr_pci_release,
	.unlocked_ioctl = dr_pci_ioctl,
	.llseek = noop_llseek,
};

static void dr_pci_free_interrupts(struct dr_pci *pci, unsigned int requested)
{
	while (requested--)
		free_irq(pci_irq_vector(pci->pdev, requested), &pci->vector[requested]);
	if (pci->vectors)
		pci_free_irq_vectors(pci->pdev);
}

static int dr_pci_request_interrupts(struct dr_pci *pci)
{
	unsigned int i;
	int ret;

	for (i = 0; i < pci->vectors; i++) {
		spin_lock_init(&pci->vector[i].lock);
		ret = request_irq(pci_irq_vector(pci->pdev, i), dr_pci_interrupt, 0,
				  pci->name, &pci->vector[i]);
		if (ret) {
			dr_pci_free_interrupts(pci, i);
			return ret;
		}
	}
	return 0;
}

static int dr_pci_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct dr_pci *pci;
	int vectors, ret;

	ret = pci_enable_device_mem(pdev);
	if (ret)
		return ret;
	vectors = pci_alloc_irq_vectors(pdev, 1, DR_MAX_VECTORS, PCI_IRQ_MSIX);
	if (vectors < 0) {
		pci_warn(pdev, "no MSI-X (%d): interrupts are not available\n", vectors);
		vectors = 0;
	}
	pci = kzalloc(struct_size(pci, vector, vectors), GFP_KERNEL);
	if (!pci) {
		ret = -ENOMEM;
		goto err_vectors;
	}
	kref_init(&pci->kref);
	mutex_init(&pci->lock);
	pci->pdev = pdev;
	pci->vectors = vectors;
	pci->id = ida_alloc(&dr_pci_ids, GFP_KERNEL);
	if (pci->id < 0) {
		ret = pci->id;
		goto err_free;
	}
	snprintf(pci->name, sizeof(pci->name), "dma-rehearsal-pci%d", pci->id);
	ret = dr_pci_request_interrupts(pci);
	if (ret) {
		vectors = 0;	/* given back already */
		goto err_id;
	}
	pci_set_drvdata(pdev, pci);
	pci_set_master(pdev);

	pci->misc.minor = MISC_DYNAMIC_MINOR;
	pci->misc.name = pci->name;
	pci->misc.fops = &dr_pci_fops;
	pci->misc.parent = &pdev->dev;
	pci->misc.mode = 0600;
	ret = misc_register(&pci->misc);
	if (ret)
		goto err_interrupts;
	pci_info(pdev, "/dev/%s, %u MSI-X vectors\n", pci->name, pci->vectors);
	return 0;

err_interrupts:
	pci_clear_master(pdev);
	dr_pci_free_interrupts(pci, pci->vectors);
	vectors = 0;
err_id:
	ida_free(&dr_pci_ids, pci->id);
err_free:
	kref_put(&pci->kref, dr_pci_free);
err_vectors:
	if (vectors)
		pci_free_irq_vectors(pdev);
	pci_disable_device(pdev);
	return ret;
}

static void dr_pci_remove(struct pci_dev *pdev)
{
	struct dr_pci *pci = pci_get_drvdata(pdev);
	unsigned int i;

	misc_deregister(&pci->misc);
	mutex_lock(&pci->lock);
	pci_clear_master(pdev);
	dr_pci_free_interrupts(pci, pci->vectors);
	for (i = 0; i < pci->vectors; i++)
		dr_vector_set(&pci->vector[i], NULL, NULL);
	pci->pdev = NULL;
	mutex_unlock(&pci->lock);
	pci_disable_device(pdev);
	ida_free(&dr_pci_ids, pci->id);
	kref_put(&pci->kref, dr_pci_free);
}

static const struct pci_device_id dr_pci_table[] = {
	{ PCI_DEVICE(0x13b5, 0xed01) },	/* Arm's PCIe Exerciser */
	{ }
};
MODULE_DEVICE_TABLE(pci, dr_pci_table);

static struct pci_driver dr_pci_driver = {
	.name = "dma_rehearsal",
	.id_table = dr_pci_table,
	.probe = dr_pci_probe,
	.remove = dr_pci_remove,
};

int dr_pci_init(void)
{
	return pci_register_driver(&dr_pci_driver);
}

void dr_pci_exit(void)
{
	pci_unregister_driver(&dr_pci_driver);
}
