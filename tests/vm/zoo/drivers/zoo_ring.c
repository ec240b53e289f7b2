// SPDX-License-Identifier: GPL-2.0-only
/*
 * Coherent rings, and receive buffers that stay mapped: the receive loop of the kernel's
 * DMA-API-HOWTO. A frame whose first byte is 0 is looked at and its buffer given back, without a
 * sync for the device, for the CPU has not stored in it. Others are passed on: a small one is
 * copied, and of a large one the buffer itself is unmapped and replaced.
 */
#include <linux/kfifo.h>
#include <linux/spinlock.h>
#include <linux/wait.h>

#include "ring_engine.h"

#define SLOTS		8
#define RING_BYTES	(SLOTS * sizeof(struct ring_descriptor))
#define BUFFER		2048
#define COPY_MAX	128

struct frame {
	void *data;
	unsigned int length;
};

struct zoo_ring {
	struct ring_engine engine;
	struct ring_descriptor *tx, *rx;
	dma_addr_t tx_dma, rx_dma;
	unsigned int tx_next, rx_next;
	struct completion sent;
	void *buffers[SLOTS];
	dma_addr_t buffers_dma[SLOTS];
	unsigned int looked_at;
	DECLARE_KFIFO(frames, struct frame, SLOTS);
	spinlock_t frames_lock;
	wait_queue_head_t frames_wait;
};

static struct zoo_ring *of(struct ring_engine *engine)
{
	return container_of(engine, struct zoo_ring, engine);
}

/* Hand a buffer to the device, which sees OWN last. */
static void give(struct ring_descriptor *descriptor, dma_addr_t dma, size_t length, u32 flags)
{
	descriptor->address = cpu_to_le64(dma);
	descriptor->length = cpu_to_le32(length);
	dma_wmb();
	WRITE_ONCE(descriptor->flags, cpu_to_le32(flags | RING_OWN));
}

/* Put a new buffer into a slot. On an error the slot keeps what it has. */
static int refill(struct zoo_ring *zoo, unsigned int slot)
{
	struct device *dev = zoo->engine.dev;
	void *buffer = kmalloc(BUFFER, GFP_KERNEL);
	dma_addr_t dma;

	if (!buffer)
		return -ENOMEM;
	dma = dma_map_single(dev, buffer, BUFFER, DMA_FROM_DEVICE);
	if (dma_mapping_error(dev, dma)) {
		kfree(buffer);
		return -ENOMEM;
	}
	zoo->buffers[slot] = buffer;
	zoo->buffers_dma[slot] = dma;
	return 0;
}

static void pass_on(struct zoo_ring *zoo, void *data, unsigned int length)
{
	struct frame frame = { data, length };

	if (!data || !kfifo_in_spinlocked(&zoo->frames, &frame, 1, &zoo->frames_lock))
		kfree(data);
	wake_up(&zoo->frames_wait);
}

static void receive(struct zoo_ring *zoo, unsigned int slot, unsigned int length)
{
	struct device *dev = zoo->engine.dev;
	void *buffer = zoo->buffers[slot];
	dma_addr_t dma = zoo->buffers_dma[slot];

	dma_sync_single_for_cpu(dev, dma, length, DMA_FROM_DEVICE);
	if (!*(u8 *)buffer) {
		zoo->looked_at++;
		return;
	}
	if (length <= COPY_MAX) {
		pass_on(zoo, kmemdup(buffer, length, GFP_KERNEL), length);
		return;
	}
	if (refill(zoo, slot))
		return;		/* drop the frame, and use its buffer again */
	dma_unmap_single(dev, dma, BUFFER, DMA_FROM_DEVICE);
	pass_on(zoo, buffer, length);
}

static irqreturn_t zoo_ring_rx(int irq, void *data)
{
	struct zoo_ring *zoo = data;
	unsigned int budget;

	for (budget = 0; budget < SLOTS; budget++) {
		unsigned int slot = zoo->rx_next;
		struct ring_descriptor *descriptor = &zoo->rx[slot];
		u32 flags = le32_to_cpu(READ_ONCE(descriptor->flags));

		if (flags & RING_OWN)
			break;
		dma_rmb();
		if (!(flags & RING_ERROR))
			receive(zoo, slot, min_t(u32, le32_to_cpu(descriptor->length), BUFFER));
		give(descriptor, zoo->buffers_dma[slot], BUFFER, 0);
		/* One slot is never the device's, so that a full ring is not an empty one. */
		ring_write(zoo->engine.regs, RING_RX_TAIL, slot);
		zoo->rx_next = (slot + 1) % SLOTS;
	}
	return IRQ_HANDLED;
}

static irqreturn_t zoo_ring_tx(int irq, void *data)
{
	struct zoo_ring *zoo = data;

	complete(&zoo->sent);
	return IRQ_HANDLED;
}

/* A write sends a frame, in two pieces where it can be cut. */
static ssize_t zoo_ring_write(struct file *file, const char __user *from, size_t count,
			      loff_t *position)
{
	struct ring_engine *engine = ring_engine_of(file);
	struct zoo_ring *zoo = of(engine);
	size_t head = min_t(size_t, count, 64), tail = count - head;
	struct ring_descriptor *last;
	dma_addr_t head_dma, tail_dma = 0;
	u8 *frame;
	int error;

	if (!count || count > BUFFER)
		return -EINVAL;
	frame = memdup_user(from, count);
	if (IS_ERR(frame))
		return PTR_ERR(frame);
	mutex_lock(&engine->lock);
	head_dma = dma_map_single(engine->dev, frame, head, DMA_TO_DEVICE);
	error = dma_mapping_error(engine->dev, head_dma);
	if (error)
		goto free;
	if (tail) {
		tail_dma = dma_map_single(engine->dev, frame + head, tail, DMA_TO_DEVICE);
		error = dma_mapping_error(engine->dev, tail_dma);
		if (error)
			goto unmap_head;
	}
	reinit_completion(&zoo->sent);
	last = &zoo->tx[zoo->tx_next];
	give(last, head_dma, head, tail ? 0 : RING_LAST);
	zoo->tx_next = (zoo->tx_next + 1) % SLOTS;
	if (tail) {
		last = &zoo->tx[zoo->tx_next];
		give(last, tail_dma, tail, RING_LAST);
		zoo->tx_next = (zoo->tx_next + 1) % SLOTS;
	}
	ring_write(engine->regs, RING_TX_TAIL, zoo->tx_next);
	if (!wait_for_completion_timeout(&zoo->sent, 5 * HZ)) {
		ring_stop(engine->pdev, engine->regs);
		error = -ETIMEDOUT;
	} else if (le32_to_cpu(READ_ONCE(last->flags)) & RING_ERROR) {
		error = -EIO;
	}
	if (tail)
		dma_unmap_single(engine->dev, tail_dma, tail, DMA_TO_DEVICE);
unmap_head:
	dma_unmap_single(engine->dev, head_dma, head, DMA_TO_DEVICE);
free:
	mutex_unlock(&engine->lock);
	kfree(frame);
	return error ?: count;
}

/* A read waits for the next frame, for a second at most. */
static ssize_t zoo_ring_read(struct file *file, char __user *to, size_t count, loff_t *position)
{
	struct zoo_ring *zoo = of(ring_engine_of(file));
	struct frame frame;
	long error;

	error = wait_event_interruptible_timeout(zoo->frames_wait,
						 kfifo_out_spinlocked(&zoo->frames, &frame, 1,
								      &zoo->frames_lock), HZ);
	if (error <= 0)
		return error;
	count = min_t(size_t, count, frame.length);
	error = copy_to_user(to, frame.data, count) ? -EFAULT : 0;
	kfree(frame.data);
	return error ?: count;
}

static const struct file_operations zoo_ring_fops = {
	.owner = THIS_MODULE,
	.read = zoo_ring_read,
	.write = zoo_ring_write,
};

static void free_buffers(struct zoo_ring *zoo)
{
	struct frame frame;
	unsigned int slot;

	for (slot = 0; slot < SLOTS && zoo->buffers[slot]; slot++) {
		dma_unmap_single(zoo->engine.dev, zoo->buffers_dma[slot], BUFFER, DMA_FROM_DEVICE);
		kfree(zoo->buffers[slot]);
	}
	while (kfifo_get(&zoo->frames, &frame))
		kfree(frame.data);
}

static int start(struct zoo_ring *zoo)
{
	void __iomem *regs = zoo->engine.regs;
	unsigned int slot;

	for (slot = 0; slot < SLOTS; slot++) {
		if (refill(zoo, slot))
			return -ENOMEM;
		give(&zoo->rx[slot], zoo->buffers_dma[slot], BUFFER, 0);
	}
	ring_write_address(regs, RING_TX_BASE_LO, zoo->tx_dma);
	ring_write(regs, RING_TX_SIZE, SLOTS);
	ring_write_address(regs, RING_RX_BASE_LO, zoo->rx_dma);
	ring_write(regs, RING_RX_SIZE, SLOTS);
	ring_write(regs, RING_RX_TAIL, SLOTS - 1);
	return 0;
}

static int request_irqs(struct zoo_ring *zoo)
{
	struct pci_dev *pdev = zoo->engine.pdev;

	return devm_request_irq(&pdev->dev, pci_irq_vector(pdev, RING_VECTOR_TX), zoo_ring_tx, 0,
				"zoo_ring tx", zoo) ?:
	       devm_request_threaded_irq(&pdev->dev, pci_irq_vector(pdev, RING_VECTOR_RX), NULL,
					 zoo_ring_rx, IRQF_ONESHOT, "zoo_ring rx", zoo);
}

static int zoo_ring_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct device *dev = &pdev->dev;
	struct zoo_ring *zoo = devm_kzalloc(dev, sizeof(*zoo), GFP_KERNEL);
	int error;

	if (!zoo)
		return -ENOMEM;
	init_completion(&zoo->sent);
	spin_lock_init(&zoo->frames_lock);
	init_waitqueue_head(&zoo->frames_wait);
	INIT_KFIFO(zoo->frames);
	error = ring_engine_init(&zoo->engine, pdev, 64);
	if (error)
		return error;
	zoo->tx = dma_alloc_coherent(dev, RING_BYTES, &zoo->tx_dma, GFP_KERNEL);
	if (!zoo->tx)
		return -ENOMEM;
	error = -ENOMEM;
	zoo->rx = dma_alloc_coherent(dev, RING_BYTES, &zoo->rx_dma, GFP_KERNEL);
	if (!zoo->rx)
		goto free_tx;
	error = start(zoo) ?: request_irqs(zoo) ?:
		ring_engine_register(&zoo->engine, &zoo_ring_fops);
	if (!error)
		return 0;
	free_buffers(zoo);
	dma_free_coherent(dev, RING_BYTES, zoo->rx, zoo->rx_dma);
free_tx:
	dma_free_coherent(dev, RING_BYTES, zoo->tx, zoo->tx_dma);
	return error;
}

static void zoo_ring_remove(struct pci_dev *pdev)
{
	struct zoo_ring *zoo = of(pci_get_drvdata(pdev));

	ring_engine_unregister(&zoo->engine);
	/* The last interrupt may be on its way. */
	devm_free_irq(&pdev->dev, pci_irq_vector(pdev, RING_VECTOR_RX), zoo);
	free_buffers(zoo);
	dma_free_coherent(&pdev->dev, RING_BYTES, zoo->rx, zoo->rx_dma);
	dma_free_coherent(&pdev->dev, RING_BYTES, zoo->tx, zoo->tx_dma);
}

RING_ENGINE_DRIVER(zoo_ring_probe, zoo_ring_remove);

MODULE_DESCRIPTION("Rings, and the receive loop of the DMA-API-HOWTO");
MODULE_LICENSE("GPL");
