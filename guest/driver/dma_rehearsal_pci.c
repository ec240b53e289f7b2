// SPDX-License-Identifier: GPL-2.0-only
/*
 * The exerciser's PCI function (others through new_id or driver_override):
 * /dev/dma-rehearsal-pciN controls bus mastering, and takes one eventfd per MSI-X
 * vector, or one for INTx. The first open turns bus mastering on. The last close stops
 * the function, even when the kernel closes the files of a killed process.
 *
 * User space maps the BARs through resourceN in sysfs. So no region is requested here:
 * with IO_STRICT_DEVMEM the kernel refuses to map a busy one.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/delay.h>
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
#include "dma_rehearsal_compat.h"

#define DR_MAX_VECTORS	32	/* a CPU has about 200 for all of its devices */
#define DR_RESET_TRIES	50	/* 100 ms or more */

struct dr_vector {
	spinlock_t lock;		/* guards eventfd (and INTx's mask) against the handler */
	struct eventfd_ctx *eventfd;
	struct file *owner;		/* its close removes the eventfd; under pci->lock */
};

struct dr_pci {
	struct kref kref;		/* one for probe, one for each open file */
	struct mutex lock;		/* guards everything below, and remove against ioctl */
	struct pci_dev *pdev;		/* NULL after remove */
	struct miscdevice misc;
	char name[32];
	int id;
	u32 interrupts;			/* DMA_REHEARSAL_INTERRUPTS_... */
	u32 came_up;			/* their value after probe */
	struct file *chooser;		/* the file that changed them */
	unsigned int users;		/* open files */
	struct dr_run run;		/* runs while there are any */
	bool reset_due;			/* the reset of the last close was not possible */
	bool masked;			/* INTx is masked; under vector[0].lock */
	unsigned int vectors;		/* in use, at most the array's length */
	unsigned int msix_max;		/* 0 = no MSI-X */
	struct dr_vector vector[];	/* max(msix_max, 1) */
};

/* The argument of an ioctl, or its answer. */
union dr_pci_argument {
	struct dma_rehearsal_pci_info info;
	struct dma_rehearsal_eventfd eventfd;
	u32 value;
};

static DEFINE_IDA(dr_pci_ids);

static unsigned int busy_resets;
module_param(busy_resets, uint, 0600);
MODULE_PARM_DESC(busy_resets, "let so many tries to reset a function find the device's lock taken, to test what follows");

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
		dr_eventfd_signal(vector->eventfd);
	spin_unlock_irqrestore(&vector->lock, flags);
	return IRQ_HANDLED;
}

/*
 * The line may be shared, so the device is asked whether it raised the line, and is
 * masked in the same step: a level interrupt would otherwise recur on return.
 *
 * The device is asked even while we hold it masked. Another writer of the command
 * register (setpci, a reset) may have unmasked it; then this masks it again.
 */
static irqreturn_t dr_intx_interrupt(int irq, void *data)
{
	struct dr_pci *pci = data;
	struct dr_vector *vector = &pci->vector[0];
	irqreturn_t ret = IRQ_NONE;
	unsigned long flags;

	spin_lock_irqsave(&vector->lock, flags);
	if (pci_check_and_mask_intx(pci->pdev) && !pci->masked) {
		pci->masked = true;
		if (vector->eventfd)
			dr_eventfd_signal(vector->eventfd);
		ret = IRQ_HANDLED;
	}
	spin_unlock_irqrestore(&vector->lock, flags);
	return ret;
}

/* Under pci->lock. The vector's lock also keeps the command register from the handler. */
static void dr_intx_mask(struct dr_pci *pci)
{
	spin_lock_irq(&pci->vector[0].lock);
	pci->masked = true;
	pci_intx(pci->pdev, 0);
	spin_unlock_irq(&pci->vector[0].lock);
}

/* Under pci->lock, with an eventfd in vector 0. A line that is still up stays masked. */
static void dr_intx_unmask(struct dr_pci *pci)
{
	struct dr_vector *vector = &pci->vector[0];

	spin_lock_irq(&vector->lock);
	if (pci->masked && pci_check_and_unmask_intx(pci->pdev))
		pci->masked = false;
	else if (pci->masked)
		dr_eventfd_signal(vector->eventfd);
	spin_unlock_irq(&vector->lock);
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

static long dr_pci_eventfd(struct dr_pci *pci, struct file *file,
			   const struct dma_rehearsal_eventfd *request)
{
	struct eventfd_ctx *eventfd = NULL;
	struct dr_vector *vector;

	if (request->vector >= pci->vectors || request->fd < -1)
		return -EINVAL;
	vector = &pci->vector[request->vector];
	if (pci->chooser && pci->chooser != file)
		return -EBUSY;
	if (vector->owner && vector->owner != file)
		return -EBUSY;
	if (request->fd >= 0) {
		eventfd = eventfd_ctx_fdget(request->fd);
		if (IS_ERR(eventfd))
			return PTR_ERR(eventfd);
	}
	if (pci->interrupts == DMA_REHEARSAL_INTERRUPTS_INTX && !eventfd)
		dr_intx_mask(pci);
	dr_vector_set(vector, eventfd, file);
	if (pci->interrupts == DMA_REHEARSAL_INTERRUPTS_INTX && eventfd)
		dr_intx_unmask(pci);
	return 0;
}

static long dr_pci_unmask(struct dr_pci *pci, struct file *file)
{
	if (pci->interrupts != DMA_REHEARSAL_INTERRUPTS_INTX)
		return -EINVAL;
	if (!pci->vector[0].owner)
		return -EINVAL;
	if (pci->vector[0].owner != file)
		return -EBUSY;
	dr_intx_unmask(pci);
	return 0;
}

static long dr_pci_info(struct dr_pci *pci, struct dma_rehearsal_pci_info *info)
{
	u16 command;

	if (pci_read_config_word(pci->pdev, PCI_COMMAND, &command))
		return -EIO;
	info->version = DMA_REHEARSAL_VERSION;
	info->vectors = pci->vectors;
	info->bus_master = !!(command & PCI_COMMAND_MASTER);
	info->interrupts = pci->interrupts;
	return 0;
}

/* INTx's handler writes the same register. */
static void dr_set_master(struct dr_pci *pci, bool on)
{
	spin_lock_irq(&pci->vector[0].lock);
	if (on)
		pci_set_master(pci->pdev);
	else
		pci_clear_master(pci->pdev);
	spin_unlock_irq(&pci->vector[0].lock);
}

static long dr_pci_bus_master(struct dr_pci *pci, u32 on)
{
	if (on > 1)
		return -EINVAL;
	dr_set_master(pci, on);
	return 0;
}

static int dr_msix_start(struct dr_pci *pci)
{
	int vectors, i, ret;

	if (!pci->msix_max)
		return -EOPNOTSUPP;
	vectors = pci_alloc_irq_vectors(pci->pdev, 1, pci->msix_max, PCI_IRQ_MSIX);
	if (vectors < 0) {
		/* The meaning of each errno differs between kernels and machines. */
		pci_warn(pci->pdev, "no MSI-X vectors (%d)\n", vectors);
		return -EOPNOTSUPP;
	}
	for (i = 0; i < vectors; i++) {
		ret = request_irq(pci_irq_vector(pci->pdev, i), dr_pci_interrupt, 0,
				  pci->name, &pci->vector[i]);
		if (ret)
			goto err;
	}
	pci->vectors = vectors;
	return 0;

err:
	while (i--)
		free_irq(pci_irq_vector(pci->pdev, i), &pci->vector[i]);
	pci_free_irq_vectors(pci->pdev);
	return ret;
}

static int dr_intx_start(struct dr_pci *pci)
{
	int ret;

	if (!pci->pdev->pin || !pci->pdev->irq || !pci_intx_mask_supported(pci->pdev))
		return -EOPNOTSUPP;
	dr_intx_mask(pci);	/* before the handler exists: nobody listens yet */
	ret = request_irq(pci->pdev->irq, dr_intx_interrupt, IRQF_SHARED, pci->name, pci);
	if (!ret)
		pci->vectors = 1;
	return ret;
}

/* Under pci->lock, or before the file exists. Afterwards no handler runs. */
static void dr_interrupts_stop(struct dr_pci *pci)
{
	unsigned int i;

	if (pci->interrupts == DMA_REHEARSAL_INTERRUPTS_INTX) {
		dr_intx_mask(pci);
		free_irq(pci->pdev->irq, pci);
	} else if (pci->interrupts == DMA_REHEARSAL_INTERRUPTS_MSIX) {
		for (i = 0; i < pci->vectors; i++)
			free_irq(pci_irq_vector(pci->pdev, i), &pci->vector[i]);
		pci_free_irq_vectors(pci->pdev);
	}
	for (i = 0; i < pci->vectors; i++)
		dr_vector_set(&pci->vector[i], NULL, NULL);
	pci->interrupts = DMA_REHEARSAL_INTERRUPTS_NONE;
	pci->vectors = 0;
	/* The end of MSI-X enables INTx again, and nobody would handle it. */
	dr_intx_mask(pci);
}

static int dr_interrupts_start(struct dr_pci *pci, u32 interrupts)
{
	int ret;

	if (interrupts == DMA_REHEARSAL_INTERRUPTS_MSIX)
		ret = dr_msix_start(pci);
	else if (interrupts == DMA_REHEARSAL_INTERRUPTS_INTX)
		ret = dr_intx_start(pci);
	else
		return 0;
	if (ret)
		dr_intx_mask(pci);
	else
		pci->interrupts = interrupts;
	return ret;
}

/* Under pci->lock. On an error the old kind of interrupts is restored, if possible. */
static int dr_interrupts_switch(struct dr_pci *pci, u32 interrupts)
{
	u32 before = pci->interrupts;
	int ret;

	if (interrupts == before)
		return 0;
	dr_interrupts_stop(pci);
	ret = dr_interrupts_start(pci, interrupts);
	if (ret && dr_interrupts_start(pci, before))
		pci_warn(pci->pdev, "the interrupts are lost\n");
	return ret;
}

static long dr_pci_set_interrupts(struct dr_pci *pci, struct file *file, u32 interrupts)
{
	unsigned int i;
	int ret;

	if (interrupts != DMA_REHEARSAL_INTERRUPTS_MSIX &&
	    interrupts != DMA_REHEARSAL_INTERRUPTS_INTX)
		return -EINVAL;
	if (pci->chooser && pci->chooser != file)
		return -EBUSY;
	for (i = 0; i < pci->vectors; i++)
		if (pci->vector[i].owner)
			return -EBUSY;
	ret = dr_interrupts_switch(pci, interrupts);
	pci->chooser = pci->interrupts == pci->came_up ? NULL : file;
	return ret;
}

/* Under pci->lock. */
static long dr_pci_do(struct dr_pci *pci, struct file *file, unsigned int command,
		      union dr_pci_argument *argument)
{
	if (!pci->pdev)
		return -ENODEV;
	switch (command) {
	case DMA_REHEARSAL_PCI_INFO:
		return dr_pci_info(pci, &argument->info);
	case DMA_REHEARSAL_EVENTFD:
		return dr_pci_eventfd(pci, file, &argument->eventfd);
	case DMA_REHEARSAL_BUS_MASTER:
		return dr_pci_bus_master(pci, argument->value);
	case DMA_REHEARSAL_SET_INTERRUPTS:
		return dr_pci_set_interrupts(pci, file, argument->value);
	case DMA_REHEARSAL_UNMASK:
		return dr_pci_unmask(pci, file);
	default:
		return -ENOTTY;
	}
}

/*
 * The caller's memory is accessed without a lock: another process may have to supply a
 * page of it (userfaultfd, FUSE), and every other caller would wait as well.
 */
static long dr_pci_ioctl(struct file *file, unsigned int command, unsigned long user)
{
	struct dr_pci *pci = file->private_data;
	union dr_pci_argument argument = {};
	size_t size = _IOC_SIZE(command);
	long ret;

	if (size > sizeof(argument))
		return -ENOTTY;
	if (_IOC_DIR(command) & _IOC_WRITE &&
	    copy_from_user(&argument, (void __user *)user, size))
		return -EFAULT;
	mutex_lock(&pci->lock);
	ret = dr_pci_do(pci, file, command, &argument);
	mutex_unlock(&pci->lock);
	if (!ret && _IOC_DIR(command) & _IOC_READ &&
	    copy_to_user((void __user *)user, &argument, size))
		ret = -EFAULT;
	return ret;
}

/* Under pci->lock. Afterwards no DMA is in flight, as far as the function reports. */
static void dr_pci_end_dma(struct dr_pci *pci)
{
	dr_set_master(pci, false);
	if (!pci_wait_for_pending_transaction(pci->pdev))
		pci_warn(pci->pdev, "transactions are pending, bus mastering is off\n");
}

/*
 * Under pci->lock. The reset is only tried, for a while: others hold the device's lock for
 * moments, but remove holds it and waits for ours. What stays due is done at the next open.
 */
static void dr_pci_reset(struct dr_pci *pci)
{
	unsigned int tries;
	int ret = -EAGAIN;

	for (tries = 0; ret == -EAGAIN && tries < DR_RESET_TRIES; tries++) {
		if (tries)
			usleep_range(2000, 4000);
		if (busy_resets)
			busy_resets--;
		else
			ret = pci_try_reset_function(pci->pdev);
	}
	pci->reset_due = ret == -EAGAIN;
}

/*
 * Under pci->lock, when the last file is closed. A function that has a reset also drops
 * its pending work.
 */
static void dr_pci_stop(struct dr_pci *pci)
{
	if (dr_fault(DR_FAULT_CLOSE_STOPS_NOTHING))
		goto stopped;
	dr_pci_end_dma(pci);
	dr_pci_reset(pci);
stopped:
	dr_run_stop(&pci->run);
}

/* Under pci->lock. */
static int dr_pci_start(struct dr_pci *pci)
{
	if (pci->reset_due)
		dr_pci_reset(pci);
	if (pci->reset_due)
		return -EAGAIN;
	dr_run_start(&pci->run);
	dr_set_master(pci, true);
	return 0;
}

/* misc_open() blocks misc_deregister(), so the structure still exists. */
static int dr_pci_open(struct inode *inode, struct file *file)
{
	struct dr_pci *pci = container_of(file->private_data, struct dr_pci, misc);
	int ret = 0;

	mutex_lock(&pci->lock);
	if (!pci->users && pci->pdev)
		ret = dr_pci_start(pci);
	if (!ret) {
		kref_get(&pci->kref);
		file->private_data = pci;
		pci->users++;
	}
	mutex_unlock(&pci->lock);
	return ret;
}

static int dr_pci_release(struct inode *inode, struct file *file)
{
	struct dr_pci *pci = file->private_data;
	unsigned int i;

	/* After remove there are no vectors and there is no chooser. */
	mutex_lock(&pci->lock);
	for (i = 0; i < pci->vectors; i++) {
		if (pci->vector[i].owner != file)
			continue;
		if (pci->interrupts == DMA_REHEARSAL_INTERRUPTS_INTX)
			dr_intx_mask(pci);
		dr_vector_set(&pci->vector[i], NULL, NULL);
	}
	if (pci->chooser == file) {
		dr_interrupts_switch(pci, pci->came_up);
		pci->chooser = NULL;
	}
	if (!--pci->users && pci->pdev)
		dr_pci_stop(pci);
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

static int dr_pci_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	unsigned int msix_max, i;
	struct dr_pci *pci;
	int ret;

	ret = pci_enable_device_mem(pdev);
	if (ret)
		return ret;
	msix_max = clamp(pci_msix_vec_count(pdev), 0, DR_MAX_VECTORS);
	pci = kzalloc(struct_size(pci, vector, max(msix_max, 1U)), GFP_KERNEL);
	if (!pci) {
		ret = -ENOMEM;
		goto err_disable;
	}
	kref_init(&pci->kref);
	mutex_init(&pci->lock);
	for (i = 0; i < max(msix_max, 1U); i++)
		spin_lock_init(&pci->vector[i].lock);
	pci->pdev = pdev;
	pci->msix_max = msix_max;
	pci->id = ida_alloc(&dr_pci_ids, GFP_KERNEL);
	if (pci->id < 0) {
		ret = pci->id;
		goto err_free;
	}
	snprintf(pci->name, sizeof(pci->name), "dma-rehearsal-pci%d", pci->id);
	ret = dr_interrupts_start(pci, DMA_REHEARSAL_INTERRUPTS_MSIX);
	if (ret)
		ret = dr_interrupts_start(pci, DMA_REHEARSAL_INTERRUPTS_INTX);
	if (ret)
		pci_warn(pdev, "neither MSI-X nor INTx (%d)\n", ret);
	pci->came_up = pci->interrupts;
	pci_set_drvdata(pdev, pci);

	pci->misc.minor = MISC_DYNAMIC_MINOR;
	pci->misc.name = pci->name;
	pci->misc.fops = &dr_pci_fops;
	pci->misc.parent = &pdev->dev;
	pci->misc.mode = 0600;
	ret = misc_register(&pci->misc);
	if (ret)
		goto err_interrupts;
	pci_info(pdev, "/dev/%s, %u vectors of %s\n", pci->name, pci->vectors,
		 pci->interrupts == DMA_REHEARSAL_INTERRUPTS_INTX ? "INTx" : "MSI-X");
	return 0;

err_interrupts:
	dr_interrupts_stop(pci);
	ida_free(&dr_pci_ids, pci->id);
err_free:
	kref_put(&pci->kref, dr_pci_free);
err_disable:
	pci_disable_device(pdev);
	return ret;
}

static void dr_pci_remove(struct pci_dev *pdev)
{
	struct dr_pci *pci = pci_get_drvdata(pdev);

	misc_deregister(&pci->misc);
	mutex_lock(&pci->lock);
	dr_interrupts_stop(pci);
	dr_pci_end_dma(pci);
	if (pci->users)
		dr_run_stop(&pci->run);
	pci->chooser = NULL;
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
