// SPDX-License-Identifier: GPL-2.0-only
/* Calls that the DMA API does not allow, each of which is reported. */
#include <linux/scatterlist.h>
#include <linux/slab.h>
#include <linux/workqueue.h>

#include "dma_calls.h"

static u8 *memory;

static dma_addr_t map(struct device *dev, enum dma_data_direction dir)
{
	kfree(memory);
	memory = kzalloc(4096, GFP_KERNEL);
	return memory ? dma_map_single(dev, memory, 4096, dir) : DMA_MAPPING_ERROR;
}

static int map_list(struct device *dev, struct scatterlist *sgl)
{
	kfree(memory);
	memory = kzalloc(8192, GFP_KERNEL);
	if (!memory)
		return 0;
	sg_init_table(sgl, 3);
	sg_set_buf(&sgl[0], memory, 512);
	sg_set_buf(&sgl[1], memory + 2048, 512);
	sg_set_buf(&sgl[2], memory + 4096, 512);
	return dma_map_sg(dev, sgl, 3, DMA_TO_DEVICE);
}

static int unmap_of_nothing(struct device *dev)
{
	dma_addr_t dma = map(dev, DMA_TO_DEVICE);

	CHECK(dev, !dma_mapping_error(dev, dma));
	dma_unmap_single(dev, dma + 64, 4032, DMA_TO_DEVICE);
	dma_unmap_single(dev, dma, 4096, DMA_TO_DEVICE);
	dma_unmap_single(dev, dma, 4096, DMA_TO_DEVICE);
	return 0;
}

static int unmap_call(struct device *dev)
{
	struct scatterlist sgl[3];
	dma_addr_t dma;
	void *cpu;
	int i;

	CHECK(dev, map_list(dev, sgl) == 3);
	for (i = 0; i < 3; i++)
		dma_unmap_single(dev, sg_dma_address(&sgl[i]), 512, DMA_TO_DEVICE);
	cpu = dma_alloc_coherent(dev, 4096, &dma, GFP_KERNEL);
	CHECK(dev, cpu);
	dma_unmap_single(dev, dma, 4096, DMA_BIDIRECTIONAL);
	dma_free_coherent(dev, 4096, cpu, dma);
	return 0;
}

static int unmap_middle(struct device *dev)
{
	struct scatterlist sgl[3];

	CHECK(dev, map_list(dev, sgl) == 3);
	dma_unmap_single(dev, sg_dma_address(&sgl[1]), 512, DMA_TO_DEVICE);
	dma_unmap_sg(dev, sgl, 3, DMA_TO_DEVICE);
	return 0;
}

static int unmap_size(struct device *dev)
{
	dma_unmap_single(dev, map(dev, DMA_TO_DEVICE), 4000, DMA_TO_DEVICE);
	return 0;
}

static int unmap_direction(struct device *dev)
{
	dma_unmap_single(dev, map(dev, DMA_TO_DEVICE), 4096, DMA_FROM_DEVICE);
	return 0;
}

static int unmap_nents(struct device *dev)
{
	struct scatterlist sgl[3];

	CHECK(dev, map_list(dev, sgl) == 3);
	dma_unmap_sg(dev, sgl, 2, DMA_TO_DEVICE);
	return 0;
}

static int never_unmapped(struct device *dev)
{
	dma_addr_t dma;
	int i;

	for (i = 0; i < 3; i++)
		CHECK(dev, !dma_mapping_error(dev, map(dev, DMA_TO_DEVICE)));
	CHECK(dev, dma_alloc_coherent(dev, 64, &dma, GFP_KERNEL));
	return 0;
}

static int sync_of_nothing(struct device *dev)
{
	dma_addr_t dma = map(dev, DMA_FROM_DEVICE);

	dma_unmap_single(dev, dma, 4096, DMA_FROM_DEVICE);
	dma_sync_single_for_cpu(dev, dma, 4096, DMA_FROM_DEVICE);
	return 0;
}

static int sync_past_end(struct device *dev)
{
	dma_addr_t dma = map(dev, DMA_FROM_DEVICE);

	dma_sync_single_for_cpu(dev, dma + 4000, 97, DMA_FROM_DEVICE);
	dma_unmap_single(dev, dma, 4096, DMA_FROM_DEVICE);
	return 0;
}

static int sync_direction(struct device *dev)
{
	dma_addr_t dma = map(dev, DMA_FROM_DEVICE);

	dma_sync_single_for_cpu(dev, dma, 4096, DMA_TO_DEVICE);
	dma_unmap_single(dev, dma, 4096, DMA_FROM_DEVICE);
	return 0;
}

static int sync_nents(struct device *dev)
{
	struct scatterlist sgl[3];

	CHECK(dev, map_list(dev, sgl) == 3);
	dma_sync_sg_for_device(dev, sgl, 1, DMA_TO_DEVICE);
	dma_unmap_sg(dev, sgl, 3, DMA_TO_DEVICE);
	return 0;
}

static int error_unchecked(struct device *dev)
{
	dma_unmap_single(dev, DMA_MAPPING_ERROR, 4096, DMA_TO_DEVICE);
	return 0;
}

static int overlapping(struct device *dev)
{
	dma_addr_t first = map(dev, DMA_FROM_DEVICE);
	dma_addr_t second = dma_map_single(dev, memory + 1024, 1024, DMA_FROM_DEVICE);

	dma_unmap_single(dev, second, 1024, DMA_FROM_DEVICE);
	dma_unmap_single(dev, first, 4096, DMA_FROM_DEVICE);
	return 0;
}

static int segment_too_long(struct device *dev)
{
	struct scatterlist sgl[3];

	dma_set_max_seg_size(dev, 256);
	CHECK(dev, map_list(dev, sgl) == 3);
	dma_unmap_sg(dev, sgl, 3, DMA_TO_DEVICE);
	dma_set_max_seg_size(dev, SZ_64K);
	return 0;
}

static int segment_boundary(struct device *dev)
{
	struct scatterlist sgl[3];

	dma_set_seg_boundary(dev, 255);
	CHECK(dev, map_list(dev, sgl) == 3);
	dma_unmap_sg(dev, sgl, 3, DMA_TO_DEVICE);
	dma_set_seg_boundary(dev, DMA_BIT_MASK(32));
	return 0;
}

static int free_address(struct device *dev)
{
	dma_addr_t dma;
	void *cpu = dma_alloc_coherent(dev, 4096, &dma, GFP_KERNEL);

	CHECK(dev, cpu);
	dma_free_coherent(dev, 4096, cpu + 8, dma);
	return 0;
}

static int free_of_other_page(struct device *dev)
{
	dma_addr_t dma;
	struct page *page = dma_alloc_pages(dev, 8192, &dma, DMA_FROM_DEVICE, GFP_KERNEL);

	CHECK(dev, page);
	dma_free_pages(dev, 8192, page + 1, dma, DMA_FROM_DEVICE);
	return 0;
}

static int never_taken_back(struct device *dev)
{
	dma_addr_t dma = map(dev, DMA_FROM_DEVICE);
	int i;

	for (i = 0; i < 3; i++)
		dma_sync_single_for_device(dev, dma, 2048, DMA_FROM_DEVICE);
	dma_unmap_single(dev, dma, 4096, DMA_FROM_DEVICE);
	return 0;
}

/* A buffer inside of kmalloc's object, and a store to a byte of it in the same line. */
static int same_line(struct device *dev)
{
	static const struct {
		size_t size, offset, store;
	} some[] = { { 32, 8, 0 }, { 96, 16, 40 }, { 192, 80, 100 } };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(some); i++) {
		u8 *object = kzalloc(some[i].size, GFP_KERNEL);
		dma_addr_t dma;

		CHECK(dev, object);
		dma = dma_map_single(dev, object + some[i].offset, 8, DMA_FROM_DEVICE);
		CHECK(dev, !dma_mapping_error(dev, dma));
		WRITE_ONCE(object[some[i].store], 1);
		dma_unmap_single(dev, dma, 8, DMA_FROM_DEVICE);
		CHECK(dev, !READ_ONCE(object[some[i].store]));
		kfree(object);
	}
	return 0;
}

static int map_of_nothing(struct device *dev)
{
	dma_addr_t dma;

	kfree(memory);
	memory = kmalloc(4096, GFP_KERNEL);
	dma = dma_map_single(dev, memory, 0, DMA_TO_DEVICE);
	/* With an IOMMU it fails. */
	if (!dma_mapping_error(dev, dma))
		dma_unmap_single(dev, dma, 0, DMA_TO_DEVICE);
	return 0;
}

static int leak_of_a_failed_probe(struct device *dev)
{
	dma_addr_t dma;

	CHECK(dev, dmam_alloc_coherent(dev, 64, &dma, GFP_KERNEL));
	CHECK(dev, !dma_mapping_error(dev, map(dev, DMA_TO_DEVICE)));
	return -ENODEV;
}

static int never_given(struct device *dev)
{
	dma_addr_t dma = map(dev, DMA_TO_DEVICE);

	CHECK(dev, !dma_mapping_error(dev, dma));
	memory[1000] = 1;
	dma_unmap_single(dev, dma, 4096, DMA_TO_DEVICE);
	dma = map(dev, DMA_TO_DEVICE);
	CHECK(dev, !dma_mapping_error(dev, dma));
	dma_sync_single_for_cpu(dev, dma, 4096, DMA_TO_DEVICE);
	memory[1000] = 1;
	dma_unmap_single(dev, dma, 4096, DMA_TO_DEVICE);
	return 0;
}

static int thousand_leaks(struct device *dev)
{
	int i;

	for (i = 0; i < 1000; i++)
		CHECK(dev, !dma_mapping_error(dev, map(dev, DMA_TO_DEVICE)));
	return 0;
}

static void map_late(struct work_struct *work);
static DECLARE_DELAYED_WORK(late, map_late);
static struct device *late_device;

static void map_late(struct work_struct *work)
{
	dma_addr_t dma = map(late_device, DMA_TO_DEVICE);

	dma_unmap_single(late_device, dma, 4096, DMA_TO_DEVICE);
}

void finish_late_call(void)
{
	flush_delayed_work(&late);
}

/* The work runs when the driver is gone; the module's code is there still. */
static int after_unbind(struct device *dev)
{
	late_device = dev;
	schedule_delayed_work(&late, HZ);
	return -ENODEV;
}

const struct dma_case mistake_cases[] = {
	{ "unmap_of_nothing", unmap_of_nothing },
	{ "unmap_call", unmap_call },
	{ "unmap_middle", unmap_middle },
	{ "unmap_size", unmap_size },
	{ "unmap_direction", unmap_direction },
	{ "unmap_nents", unmap_nents },
	{ "never_unmapped", never_unmapped },
	{ "sync_of_nothing", sync_of_nothing },
	{ "sync_past_end", sync_past_end },
	{ "sync_direction", sync_direction },
	{ "sync_nents", sync_nents },
	{ "error_unchecked", error_unchecked },
	{ "overlapping", overlapping },
	{ "segment_too_long", segment_too_long },
	{ "segment_boundary", segment_boundary },
	{ "free_address", free_address },
	{ "free_of_other_page", free_of_other_page },
	{ "never_taken_back", never_taken_back },
	{ "same_line", same_line },
	{ "map_of_nothing", map_of_nothing },
	{ "leak_of_a_failed_probe", leak_of_a_failed_probe },
	{ "never_given", never_given },
	{ "thousand_leaks", thousand_leaks },
	{ "after_unbind", after_unbind },
	{ }
};
