// SPDX-License-Identifier: GPL-2.0-only
/* An NVMe driver's PRP list has physical addresses. */
#define MUSEUM_OWN_INTERRUPT
#include "../museum.h"

#define NVME_CC			0x14
#define NVME_CSTS		0x1c
#define NVME_AQA		0x24
#define NVME_ASQ		0x28
#define NVME_ACQ		0x30
#define NVME_DOORBELLS		0x1000
#define NVME_ENABLE		(1 | 6 << 16 | 4 << 20)	/* entries of 64 and 16 bytes */

#define NVME_CREATE_SQ		0x01
#define NVME_CREATE_CQ		0x05
#define NVME_WRITE		0x01
#define NVME_READ		0x02

#define ENTRIES			8	/* of each queue */
#define BLOCK			SZ_512
#define NVME_PAGE		SZ_4K

struct nvme_command {
	u8 opcode;
	u8 flags;
	__le16 id;
	__le32 namespace;
	__le64 reserved[2];
	__le64 prp1;
	__le64 prp2;
	__le32 dwords[6];	/* 10 to 15 */
};

struct nvme_completion {
	__le32 result;
	__le32 reserved;
	__le16 head;
	__le16 queue;
	__le16 id;
	__le16 status;		/* bit 0 is the phase */
};

/* A page each, and one allocation. */
struct nvme_memory {
	struct {
		union {
			struct nvme_command commands[ENTRIES];
			u8 page0[NVME_PAGE];
		};
		union {
			struct nvme_completion completions[ENTRIES];
			u8 page1[NVME_PAGE];
		};
	} queues[2];		/* administration, and I/O */
	__le64 list[NVME_PAGE / sizeof(__le64)];
};

struct nvme {
	struct nvme_memory *memory;
	dma_addr_t address;
	struct {
		u16 tail, head, phase;
	} queues[2];
};

static irqreturn_t museum_interrupt(int irq, void *data)
{
	struct museum *museum = data;

	complete(&museum->done);
	return IRQ_HANDLED;
}

static dma_addr_t commands_at(struct nvme *nvme, int queue)
{
	return nvme->address + offsetof(struct nvme_memory, queues[0].commands) +
	       queue * sizeof(nvme->memory->queues[0]);
}

static dma_addr_t completions_at(struct nvme *nvme, int queue)
{
	return commands_at(nvme, queue) + NVME_PAGE;
}

/* Do one command, and wait for its end. */
static int nvme_do(struct museum *museum, int queue, const struct nvme_command *command)
{
	struct nvme *nvme = museum->own;
	void __iomem *doorbells = museum->regs + NVME_DOORBELLS + 8 * queue;
	u16 *tail = &nvme->queues[queue].tail, *head = &nvme->queues[queue].head, status;

	nvme->memory->queues[queue].commands[*tail] = *command;
	*tail = (*tail + 1) % ENTRIES;
	reinit_completion(&museum->done);
	writel(*tail, doorbells);
	if (!wait_for_completion_timeout(&museum->done, MUSEUM_PATIENCE))
		return -ETIMEDOUT;
	status = le16_to_cpu(READ_ONCE(nvme->memory->queues[queue].completions[*head].status));
	if ((status & 1) != nvme->queues[queue].phase)
		return -EIO;
	*head = (*head + 1) % ENTRIES;
	if (!*head)
		nvme->queues[queue].phase ^= 1;
	writel(*head, doorbells + 4);
	return status >> 1 ? -EIO : 0;
}

static int nvme_create(struct museum *museum, u8 opcode, dma_addr_t address, u32 flags)
{
	struct nvme_command command = { .opcode = opcode, .prp1 = cpu_to_le64(address) };

	command.dwords[0] = cpu_to_le32((ENTRIES - 1) << 16 | 1);
	command.dwords[1] = cpu_to_le32(flags);
	return nvme_do(museum, 0, &command);
}

static void museum_teardown(struct museum *museum)
{
	struct nvme *nvme = museum->own;

	writel(0, museum->regs + NVME_CC);
	readl(museum->regs + NVME_CSTS);
	dma_free_coherent(museum->dev, sizeof(*nvme->memory), nvme->memory, nvme->address);
}

static int museum_setup(struct museum *museum)
{
	struct nvme *nvme = devm_kzalloc(museum->dev, sizeof(*nvme), GFP_KERNEL);
	int ret = -EIO;

	if (!nvme)
		return -ENOMEM;
	nvme->memory = dma_alloc_coherent(museum->dev, sizeof(*nvme->memory), &nvme->address,
					  GFP_KERNEL);
	if (!nvme->memory)
		return -ENOMEM;
	museum->own = nvme;
	nvme->queues[0].phase = nvme->queues[1].phase = 1;
	writel(0, museum->regs + NVME_CC);
	writel((ENTRIES - 1) << 16 | (ENTRIES - 1), museum->regs + NVME_AQA);
	writel(lower_32_bits(commands_at(nvme, 0)), museum->regs + NVME_ASQ);
	writel(upper_32_bits(commands_at(nvme, 0)), museum->regs + NVME_ASQ + 4);
	writel(lower_32_bits(completions_at(nvme, 0)), museum->regs + NVME_ACQ);
	writel(upper_32_bits(completions_at(nvme, 0)), museum->regs + NVME_ACQ + 4);
	writel(NVME_ENABLE, museum->regs + NVME_CC);
	if (readl(museum->regs + NVME_CSTS) == 1)
		ret = nvme_create(museum, NVME_CREATE_CQ, completions_at(nvme, 1), 3);
	if (!ret)
		ret = nvme_create(museum, NVME_CREATE_SQ, commands_at(nvme, 1), 1 << 16 | 1);
	if (ret)
		museum_teardown(museum);
	return ret;
}

/* Fill in where the data are: a first part of a page, then whole pages. */
static void describe(struct nvme *nvme, struct nvme_command *command, dma_addr_t address,
		     u8 *data, size_t length)
{
	size_t first = min_t(size_t, length, NVME_PAGE - (address & (NVME_PAGE - 1)));
	u64 rest = (mended ? address : virt_to_phys(data)) + first;
	size_t i, pages = DIV_ROUND_UP(length - first, NVME_PAGE);

	command->prp1 = cpu_to_le64(address);
	if (pages == 1) {
		command->prp2 = cpu_to_le64(address + first);
		return;
	}
	for (i = 0; i < pages; i++)
		nvme->memory->list[i] = cpu_to_le64(rest + i * NVME_PAGE);
	command->prp2 = cpu_to_le64(nvme->address + offsetof(struct nvme_memory, list));
}

static int museum_transfer(struct museum *museum, u8 *data, size_t length, u32 offset, bool store)
{
	enum dma_data_direction direction = store ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	struct nvme_command command = { .opcode = store ? NVME_READ : NVME_WRITE };
	size_t bytes = round_up(length, BLOCK);
	dma_addr_t address;
	u8 *blocks;
	int ret;

	blocks = kzalloc(roundup_pow_of_two(bytes), GFP_KERNEL);	/* starts a page, or lies in one */
	if (!blocks)
		return -ENOMEM;
	if (!store)
		memcpy(blocks, data, length);
	address = dma_map_single(museum->dev, blocks, bytes, direction);
	if (dma_mapping_error(museum->dev, address)) {
		ret = -ENOMEM;
		goto free;
	}
	command.namespace = cpu_to_le32(1);
	command.dwords[0] = cpu_to_le32(offset / BLOCK);
	command.dwords[2] = cpu_to_le32(bytes / BLOCK - 1);
	describe(museum->own, &command, address, blocks, bytes);
	ret = nvme_do(museum, 1, &command);
	dma_unmap_single(museum->dev, address, bytes, direction);
	if (!ret && store)
		memcpy(data, blocks, length);
free:
	kfree(blocks);
	return ret;
}
