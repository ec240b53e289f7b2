// SPDX-License-Identifier: GPL-2.0-only
/*
 * Batches of commands in memory, each carried out by one read of the platform. When the
 * read returns, all of the batch is in force. Any context: nothing here sleeps.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/io.h>
#include <linux/pci.h>
#include <linux/slab.h>
#include <linux/spinlock.h>

#include "dro.h"

static struct pci_dev *platform;
static void __iomem *registers;
static struct dr_mail_record *records;
static dma_addr_t records_address;
static unsigned int told_count, told_first;	/* what the registers hold */
static atomic_t last_tag = ATOMIC_INIT(0);
static DEFINE_RAW_SPINLOCK(mail_lock);

/* Tags of @count tracks, one after the other. They come around after 2^31. */
u32 dro_tags(unsigned int count)
{
	u32 last = atomic_add_return(count, &last_tag);

	return DR_MAIL_TAG_BASE | (last - count + 1);
}

/* The memory's side: the device writes what it receives. */
u32 dro_direction(enum dma_data_direction dir)
{
	switch (dir) {
	case DMA_TO_DEVICE:
		return DR_DIRECTION_OUT;
	case DMA_FROM_DEVICE:
		return DR_DIRECTION_IN;
	case DMA_BIDIRECTIONAL:
		return DR_DIRECTION_IN | DR_DIRECTION_OUT;
	default:
		return 0;
	}
}

static u32 carry_out(unsigned int first, unsigned int count)
{
	if (first != told_first) {
		dma_addr_t address = records_address + first * sizeof(*records);

		writel(lower_32_bits(address), registers + DR_PLAT_MAIL_ADDRESS_LO);
		writel(upper_32_bits(address), registers + DR_PLAT_MAIL_ADDRESS_HI);
		told_first = first;
	}
	if (count != told_count) {
		writel(count, registers + DR_PLAT_MAIL_COUNT);
		told_count = count;
	}
	return readl(registers + DR_PLAT_MAIL_GO);
}

static void note_refusal(struct dro_batch *batch, const struct dr_mail_record *record, u32 status)
{
	if (!batch->refused++) {
		batch->status = status;
		batch->command = le32_to_cpu(record->command);
		batch->tag = le32_to_cpu(record->tag);
		batch->address = le64_to_cpu(record->address);
		batch->length = le64_to_cpu(record->length);
	}
}

/* Under the lock. A record that is refused does not hold up those behind it. */
static void go(struct dro_batch *batch)
{
	unsigned int first = 0;
	bool master_tried = false;

	wmb();	/* the records are in memory before the platform looks */
	while (first < batch->count) {
		u32 result = carry_out(first, batch->count - first);
		unsigned int position = result >> DR_MAIL_POSITION_SHIFT;
		u32 status = result & ((1U << DR_MAIL_POSITION_SHIFT) - 1);

		if (!result)
			break;
		if (!position && status == DR_STATUS_BUS_MASTER_OFF && !master_tried) {
			/* Another user of the function has turned it off, as at its close. */
			pci_set_master(platform);
			master_tried = true;
			continue;
		}
		if (!position || position > batch->count - first) {
			/* Nothing of it was done, or the platform is gone (all ones). */
			for (; first < batch->count; first++)
				note_refusal(batch, &records[first], status);
			break;
		}
		first += position - 1;
		if (status == DR_STATUS_BUDGET)
			continue;	/* long work: from this one on in another turn */
		note_refusal(batch, &records[first++], status);
	}
	batch->count = 0;
}

/* Until the end, interrupts are off and no other CPU tells anything. */
void dro_batch_begin(struct dro_batch *batch, const struct dro_where *where)
{
	*batch = (struct dro_batch){ .where = where };
	raw_spin_lock_irqsave(&mail_lock, batch->flags);
}

/* A record with the call and its callers; the rest is 0. */
struct dr_mail_record *dro_batch_put(struct dro_batch *batch, u32 command, u32 tag)
{
	struct dr_mail_record *record;
	unsigned int i;

	if (batch->count == DR_MAIL_CAPACITY) {
		go(batch);
		/* A long list must not keep interrupts off for long. */
		raw_spin_unlock_irqrestore(&mail_lock, batch->flags);
		raw_spin_lock_irqsave(&mail_lock, batch->flags);
	}
	record = &records[batch->count++];
	*record = (struct dr_mail_record){
		.command = cpu_to_le32(command),
		.tag = cpu_to_le32(tag),
		.call = cpu_to_le32(batch->where->call),
	};
	for (i = 0; i < DR_MAIL_CALLERS; i++)
		record->callers[i] = cpu_to_le64(batch->where->callers[i]);
	return record;
}

/* All of it is in force now, except what the platform refused. */
void dro_batch_end(struct dro_batch *batch)
{
	if (batch->count)
		go(batch);
	raw_spin_unlock_irqrestore(&mail_lock, batch->flags);
}

static int find_platform(void)
{
	u32 features;
	int ret;

	platform = pci_get_device(DR_PLAT_VENDOR, DR_PLAT_DEVICE, NULL);
	if (!platform) {
		pr_err("no platform function (%04x:%04x) on any PCI bus\n", DR_PLAT_VENDOR,
		       DR_PLAT_DEVICE);
		return -ENODEV;
	}
	ret = pci_enable_device_mem(platform);
	if (ret)
		goto err_put;
	registers = pci_iomap(platform, 0, 0);
	if (!registers) {
		ret = -ENOMEM;
		goto err_disable;
	}
	features = readl(registers + DR_PLAT_FEATURES);
	if (readl(registers + DR_PLAT_MAGIC) != DR_PLAT_MAGIC_VALUE ||
	    !(features & DR_FEATURE_MAILBOX)) {
		pr_err("%s: a platform without a mailbox (features %#x)\n", pci_name(platform),
		       features);
		ret = -ENODEV;
		goto err_unmap;
	}
	pci_set_master(platform);
	return 0;

err_unmap:
	pci_iounmap(platform, registers);
err_disable:
	pci_disable_device(platform);
err_put:
	pci_dev_put(platform);
	return ret;
}

int dro_mail_init(void)
{
	int ret = find_platform();

	if (ret)
		return ret;
	/* A driver's IOMMU mapping does not hold for the platform, which has its own. */
	records = dma_alloc_coherent(&platform->dev, DR_MAIL_CAPACITY * sizeof(*records),
				     &records_address, GFP_KERNEL);
	if (!records) {
		dro_mail_exit();
		return -ENOMEM;
	}
	told_first = DR_MAIL_CAPACITY;
	return 0;
}

/* The function stays enabled, and may master the bus: other programs use it as well. */
void dro_mail_exit(void)
{
	if (records)
		dma_free_coherent(&platform->dev, DR_MAIL_CAPACITY * sizeof(*records), records,
				  records_address);
	pci_iounmap(platform, registers);
	pci_dev_put(platform);
}
