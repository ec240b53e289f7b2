// SPDX-License-Identifier: GPL-2.0-only
/*
 * Mappings where nothing may sleep: a timer maps the first piece of what was written, the hard
 * interrupt handler unmaps each and maps the next, and the last one's completion wakes the writer.
 */
#include <linux/spinlock.h>
#include <linux/timer.h>

#include "ring_engine.h"

#define PIECE	256
#define PIECES	16

struct zoo_atomic {
	struct ring_engine engine;
	struct timer_list timer;
	spinlock_t lock;		/* the chain */
	u8 *data;			/* begins with a cache line, as each piece does */
	size_t length, at;
	dma_addr_t dma;
	int error;
};

static struct zoo_atomic *of(struct ring_engine *engine)
{
	return container_of(engine, struct zoo_atomic, engine);
}

static size_t piece(struct zoo_atomic *zoo)
{
	return min_t(size_t, PIECE, zoo->length - zoo->at);
}

/* Map the piece that is next and start its job. The lock is held. */
static void start_piece(struct zoo_atomic *zoo)
{
	struct ring_engine *engine = &zoo->engine;

	zoo->dma = dma_map_single(engine->dev, zoo->data + zoo->at, piece(zoo), DMA_BIDIRECTIONAL);
	zoo->error = dma_mapping_error(engine->dev, zoo->dma);
	if (zoo->error) {
		complete(&engine->done);
		return;
	}
	ring_engine_start(engine, RING_JOB_INVERT, 0, zoo->dma, piece(zoo));
}

static irqreturn_t zoo_atomic_irq(int irq, void *data)
{
	struct zoo_atomic *zoo = data;
	struct ring_engine *engine = &zoo->engine;

	spin_lock(&zoo->lock);
	if (zoo->at < zoo->length && !zoo->error) {
		dma_unmap_single(engine->dev, zoo->dma, piece(zoo), DMA_BIDIRECTIONAL);
		zoo->error = ring_job_error(ring_read(engine->regs, RING_JOB_STATUS));
		zoo->at += piece(zoo);
		if (zoo->error || zoo->at == zoo->length)
			complete(&engine->done);
		else
			start_piece(zoo);
	}
	spin_unlock(&zoo->lock);
	return IRQ_HANDLED;
}

static void zoo_atomic_timer(struct timer_list *timer)
{
	struct zoo_atomic *zoo = ring_timer_container_of(zoo, timer, timer);
	unsigned long flags;

	spin_lock_irqsave(&zoo->lock, flags);
	start_piece(zoo);
	spin_unlock_irqrestore(&zoo->lock, flags);
}

/* What is written is inverted in place, and a read returns it. */
static ssize_t zoo_atomic_write(struct file *file, const char __user *from, size_t count,
				loff_t *position)
{
	struct ring_engine *engine = ring_engine_of(file);
	struct zoo_atomic *zoo = of(engine);
	int error;

	if (!count || count > PIECE * PIECES)
		return -EINVAL;
	mutex_lock(&engine->lock);
	error = copy_from_user(zoo->data, from, count) ? -EFAULT : 0;
	if (!error) {
		reinit_completion(&engine->done);
		zoo->length = count;
		zoo->at = 0;
		zoo->error = 0;
		mod_timer(&zoo->timer, jiffies + 1);
		wait_for_completion(&engine->done);	/* each job ends by an interrupt */
		error = zoo->error;
	}
	engine->length = error ? 0 : count;
	mutex_unlock(&engine->lock);
	return error ?: count;
}

static ssize_t zoo_atomic_read(struct file *file, char __user *to, size_t count, loff_t *position)
{
	struct ring_engine *engine = ring_engine_of(file);
	int error;

	mutex_lock(&engine->lock);
	count = min(count, engine->length);
	error = copy_to_user(to, of(engine)->data, count) ? -EFAULT : 0;
	mutex_unlock(&engine->lock);
	return error ?: count;
}

static const struct file_operations zoo_atomic_fops = {
	.owner = THIS_MODULE,
	.read = zoo_atomic_read,
	.write = zoo_atomic_write,
};

static int zoo_atomic_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct zoo_atomic *zoo = devm_kzalloc(&pdev->dev, sizeof(*zoo), GFP_KERNEL);
	int error;

	if (!zoo)
		return -ENOMEM;
	spin_lock_init(&zoo->lock);
	timer_setup(&zoo->timer, zoo_atomic_timer, 0);
	zoo->data = (u8 *)devm_get_free_pages(&pdev->dev, GFP_KERNEL, get_order(PIECE * PIECES));
	if (!zoo->data)
		return -ENOMEM;
	error = ring_engine_init(&zoo->engine, pdev, 64);
	if (error)
		return error;
	error = devm_request_irq(&pdev->dev, pci_irq_vector(pdev, RING_VECTOR_JOB),
				 zoo_atomic_irq, 0, KBUILD_MODNAME, zoo);
	return error ?: ring_engine_register(&zoo->engine, &zoo_atomic_fops);
}

static void zoo_atomic_remove(struct pci_dev *pdev)
{
	struct zoo_atomic *zoo = of(pci_get_drvdata(pdev));

	ring_engine_unregister(&zoo->engine);
	ring_timer_delete_sync(&zoo->timer);
}

RING_ENGINE_DRIVER(zoo_atomic_probe, zoo_atomic_remove);

MODULE_DESCRIPTION("Mappings in a timer and in a hard interrupt");
MODULE_LICENSE("GPL");
