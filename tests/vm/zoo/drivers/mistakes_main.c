// SPDX-License-Identifier: GPL-2.0-only
/*
 * An ordinary character driver of the ring device, /dev/mistakes, which makes one mistake: the
 * one that the parameter of this name says. With "none" it is a right driver.
 */
#include <linux/interrupt.h>
#include <linux/module.h>
#include <linux/string.h>
#include <linux/uaccess.h>

#include "mistakes.h"

static char *mistake = "none";
module_param(mistake, charp, 0444);
MODULE_PARM_DESC(mistake, "the one that the driver makes");
static bool narrow;
module_param(narrow, bool, 0444);
MODULE_PARM_DESC(narrow, "the device drives 32 address bits");

static const char *const mistake_names[] = {
#define MISTAKE_NAME(symbol, name) name,
	MISTAKES(MISTAKE_NAME)
#undef MISTAKE_NAME
};

enum mistake the_mistake;

static struct mistakes *of(struct file *file)
{
	return container_of(file->private_data, struct mistakes, misc);
}

/* Set up a job and ring the doorbell. Its end comes by record and interrupt. */
void mistakes_start_job(struct mistakes *m, u32 operation, unsigned int address, dma_addr_t dma,
			size_t length)
{
	reinit_completion(&m->done);
	m->record->valid = 0;
	ring_write_address(m->regs, address, dma);
	ring_write(m->regs, RING_JOB_LENGTH, length);
	ring_write(m->regs, RING_JOB_COOKIE, ++m->cookie);
	ring_write(m->regs, RING_JOB_DOORBELL, operation | RING_JOB_RECORD | RING_JOB_INTERRUPT);
}

int mistakes_wait_job(struct mistakes *m)
{
	if (!wait_for_completion_timeout(&m->done, 3 * HZ)) {
		/* What the job was for is freed next: wait for the device itself. */
		int error = ring_poll_job(m->regs);

		return error ?: -ETIMEDOUT;
	}
	if (!READ_ONCE(m->record->valid))
		return -EIO;
	dma_rmb();
	if (le32_to_cpu(m->record->cookie) != m->cookie)
		return -EIO;
	return ring_job_error(le32_to_cpu(m->record->status));
}

static irqreturn_t mistakes_job_done(int irq, void *data)
{
	struct mistakes *m = data;

	complete(&m->done);
	return IRQ_HANDLED;
}

static irqreturn_t mistakes_received(int irq, void *data)
{
	struct mistakes *m = data;

	complete(&m->received);
	return IRQ_HANDLED;
}

static ssize_t mistakes_file_write(struct file *file, const char __user *from, size_t count,
				   loff_t *position)
{
	struct mistakes *m = of(file);
	ssize_t done;

	mutex_lock(&m->lock);
	done = mistakes_write(m, from, count);
	mutex_unlock(&m->lock);
	return done;
}

static ssize_t mistakes_file_read(struct file *file, char __user *to, size_t count,
				  loff_t *position)
{
	struct mistakes *m = of(file);
	ssize_t done;

	mutex_lock(&m->lock);
	done = mistakes_read(m, to, count);
	mutex_unlock(&m->lock);
	return done;
}

static long mistakes_file_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct mistakes_buffer __user *where = (void __user *)argument;
	struct mistakes *m = of(file);
	struct mistakes_buffer buffer;
	long error;

	if (copy_from_user(&buffer, where, sizeof(buffer)))
		return -EFAULT;
	mutex_lock(&m->lock);
	switch (command) {
	case MISTAKES_SEND:
		error = mistakes_send(m, &buffer);
		break;
	case MISTAKES_SNAPSHOT:
		error = mistakes_snapshot(m, &buffer);
		break;
	case MISTAKES_LIST:
		error = mistakes_list(m, &buffer);
		break;
	case MISTAKES_ECHO:
		error = mistakes_echo(m, &buffer);
		break;
	default:
		error = -ENOTTY;
	}
	mutex_unlock(&m->lock);
	if (!error && copy_to_user(where, &buffer, sizeof(buffer)))
		error = -EFAULT;
	return error;
}

static const struct file_operations mistakes_fops = {
	.owner = THIS_MODULE,
	.read = mistakes_file_read,
	.write = mistakes_file_write,
	.unlocked_ioctl = mistakes_file_ioctl,
};

static int mistakes_masks(struct mistakes *m)
{
	if (narrow)
		ring_write(m->regs, RING_CONTROL, RING_CONTROL_NARROW);
	if (mistaken(MASK_NEVER_SET))
		return 0;
	if (narrow && !mistaken(MASK_TOO_WIDE))
		return dma_set_mask_and_coherent(m->dev, DMA_BIT_MASK(32));
	return dma_set_mask_and_coherent(m->dev, DMA_BIT_MASK(64));
}

static int mistakes_irqs(struct mistakes *m)
{
	int error = pci_alloc_irq_vectors(m->pdev, RING_VECTORS, RING_VECTORS, PCI_IRQ_MSIX);

	if (error < 0)
		return error;
	error = devm_request_threaded_irq(m->dev, pci_irq_vector(m->pdev, RING_VECTOR_JOB), NULL,
					  mistakes_job_done, IRQF_ONESHOT, "mistakes job", m);
	if (error)
		return error;
	return devm_request_threaded_irq(m->dev, pci_irq_vector(m->pdev, RING_VECTOR_RX), NULL,
					 mistakes_received, IRQF_ONESHOT, "mistakes rx", m);
}

static void mistakes_start_heartbeat(struct mistakes *m)
{
	ring_write_address(m->regs, RING_HEARTBEAT_LO, m->heartbeat_dma);
	ring_write(m->regs, RING_HEARTBEAT_CONTROL, 1);
}

static int mistakes_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct mistakes *m;
	int error;

	m = devm_kzalloc(&pdev->dev, sizeof(*m), GFP_KERNEL);
	if (!m)
		return -ENOMEM;
	m->pdev = pdev;
	m->dev = &pdev->dev;
	mutex_init(&m->lock);
	init_completion(&m->done);
	init_completion(&m->received);
	pci_set_drvdata(pdev, m);

	if (mistaken(BUS_MASTER_EARLY)) {
		/* The device may still do what it was told before this driver came. */
		error = pcim_enable_device(pdev);
		if (error)
			return error;
		pci_set_master(pdev);
	}
	m->regs = ring_enable(pdev);
	if (IS_ERR(m->regs))
		return PTR_ERR(m->regs);
	error = mistakes_masks(m);
	if (error)
		return error;
	m->record = dmam_alloc_coherent(m->dev, sizeof(*m->record), &m->record_dma, GFP_KERNEL);
	m->heartbeat = dmam_alloc_coherent(m->dev, sizeof(*m->heartbeat), &m->heartbeat_dma,
					   GFP_KERNEL);
	if (!m->record || !m->heartbeat)
		return -ENOMEM;
	ring_write_address(m->regs, RING_JOB_COMPLETION_LO, m->record_dma);
	error = mistakes_irqs(m);
	if (error)
		return error;
	error = mistakes_map_boxes(m);
	if (error)
		return error;
	if (mistaken(LEAK_ON_FAILED_PROBE))
		return -ENODEV;
	if (!mistaken(BUS_MASTER_NEVER))
		pci_set_master(pdev);
	error = mistakes_start_rings(m);
	if (error)
		goto unmap_boxes;
	mistakes_start_heartbeat(m);
	m->misc = (struct miscdevice){
		.minor = MISC_DYNAMIC_MINOR,
		.name = "mistakes",
		.fops = &mistakes_fops,
		.parent = m->dev,
	};
	error = misc_register(&m->misc);
	if (error)
		goto stop;
	if (mistaken(WRONG_DEVICE))
		return dma_coerce_mask_and_coherent(m->misc.this_device, DMA_BIT_MASK(64));
	return 0;
stop:
	ring_stop(pdev, m->regs);
	mistakes_free_rings(m);
unmap_boxes:
	mistakes_unmap_boxes(m);
	return error;
}

static void mistakes_remove(struct pci_dev *pdev)
{
	struct mistakes *m = pci_get_drvdata(pdev);

	misc_deregister(&m->misc);
	ring_stop(pdev, m->regs);
	if (mistaken(BUS_MASTER_EARLY))
		/* As after a crash: whoever comes next finds a device that was told to do DMA. */
		mistakes_start_heartbeat(m);
	mistakes_free_rings(m);
	mistakes_unmap_boxes(m);
}

static const struct pci_device_id mistakes_ids[] = {
	{ PCI_DEVICE(RING_VENDOR_ID, RING_DEVICE_ID) },
	{ }
};
MODULE_DEVICE_TABLE(pci, mistakes_ids);

static struct pci_driver mistakes_driver = {
	.name = "mistakes",
	.id_table = mistakes_ids,
	.probe = mistakes_probe,
	.remove = mistakes_remove,
};

static int __init mistakes_init(void)
{
	int found = match_string(mistake_names, ARRAY_SIZE(mistake_names), mistake);

	if (found < 0)
		return found;
	the_mistake = found;
	return pci_register_driver(&mistakes_driver);
}
module_init(mistakes_init);

static void __exit mistakes_exit(void)
{
	pci_unregister_driver(&mistakes_driver);
}
module_exit(mistakes_exit);

MODULE_DESCRIPTION("A driver with one mistake");
MODULE_LICENSE("GPL");
