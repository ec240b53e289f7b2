// SPDX-License-Identifier: GPL-2.0-only
/* Memory that the DMA API allocates, used rightly. */
#include <linux/dmapool.h>
#include <linux/scatterlist.h>
#include <linux/slab.h>

#include "dma_calls.h"

static int coherent(struct device *dev)
{
	static const size_t some[] = { 1, 64, 4096, 5000, 65536, 3 << 20 };
	struct sg_table table;
	dma_addr_t dma;
	unsigned int i;
	u8 *memory;

	for (i = 0; i < ARRAY_SIZE(some); i++) {
		memory = dma_alloc_coherent(dev, some[i], &dma, GFP_KERNEL);
		CHECK(dev, memory);
		CHECK(dev, !memory[0] && !memory[some[i] - 1]);
		memset(memory, 1, some[i]);
		CHECK(dev, !dma_get_sgtable(dev, &table, memory, dma, some[i]));
		sg_free_table(&table);
		dma_free_coherent(dev, some[i], memory, dma);
	}
	memory = dma_alloc_coherent(dev, 4096, &dma, GFP_ATOMIC);
	CHECK(dev, memory);
	dma_free_coherent(dev, 4096, memory, dma);
	memory = dma_alloc_wc(dev, 4096, &dma, GFP_KERNEL);
	CHECK(dev, memory);
	dma_free_wc(dev, 4096, memory, dma);
	return 0;
}

static int attributes(struct device *dev)
{
	static const unsigned long some[] = {
		DMA_ATTR_NO_KERNEL_MAPPING, DMA_ATTR_FORCE_CONTIGUOUS, DMA_ATTR_WEAK_ORDERING,
		DMA_ATTR_ALLOC_SINGLE_PAGES, DMA_ATTR_NO_WARN,
		DMA_ATTR_NO_KERNEL_MAPPING | DMA_ATTR_WRITE_COMBINE,
	};
	dma_addr_t dma;
	unsigned int i;
	void *cookie;

	for (i = 0; i < ARRAY_SIZE(some); i++) {
		cookie = dma_alloc_attrs(dev, 8192, &dma, GFP_KERNEL, some[i]);
		CHECK(dev, cookie);
		dma_free_attrs(dev, 8192, cookie, dma, some[i]);
	}
	return 0;
}

static int managed(struct device *dev)
{
	dma_addr_t first, second;
	void *early = dmam_alloc_coherent(dev, 4096, &first, GFP_KERNEL);

	CHECK(dev, early);
	CHECK(dev, dmam_alloc_coherent(dev, 64, &second, GFP_KERNEL));
	dmam_free_coherent(dev, 4096, early, first);
	return 0;	/* the second goes with the driver */
}

static int pools(struct device *dev)
{
	struct dma_pool *pool = dma_pool_create("calls", dev, 32, 32, 0);
	struct dma_pool *lasting = dmam_pool_create("managed", dev, 64, 64, 4096);
	dma_addr_t dma[100];
	void *memory[100];
	unsigned int i;

	CHECK(dev, pool && lasting);
	for (i = 0; i < ARRAY_SIZE(dma); i++) {
		memory[i] = dma_pool_zalloc(pool, i % 2 ? GFP_ATOMIC : GFP_KERNEL, &dma[i]);
		CHECK(dev, memory[i] && IS_ALIGNED(dma[i], 32));
	}
	for (i = 0; i < ARRAY_SIZE(dma); i++)
		dma_pool_free(pool, memory[i], dma[i]);
	dma_pool_destroy(pool);
	memory[0] = dma_pool_alloc(lasting, GFP_KERNEL, &dma[0]);
	CHECK(dev, memory[0]);
	dma_pool_free(lasting, memory[0], dma[0]);
	return 0;
}

static int pages(struct device *dev)
{
	dma_addr_t dma;
	struct page *page = dma_alloc_pages(dev, 8192, &dma, DMA_BIDIRECTIONAL, GFP_KERNEL);
	u8 *memory;

	CHECK(dev, page);
	memory = page_address(page);
	memory[5] = 5;
	dma_sync_single_for_device(dev, dma, 8192, DMA_BIDIRECTIONAL);
	dma_sync_single_for_cpu(dev, dma, 4096, DMA_BIDIRECTIONAL);
	CHECK(dev, memory[5] == 5);
	dma_free_pages(dev, 8192, page, dma, DMA_BIDIRECTIONAL);
	memory = dma_alloc_noncoherent(dev, 4096, &dma, DMA_FROM_DEVICE, GFP_KERNEL);
	CHECK(dev, memory);
	dma_sync_single_for_device(dev, dma, 4096, DMA_FROM_DEVICE);
	dma_free_noncoherent(dev, 4096, memory, dma, DMA_FROM_DEVICE);
	return 0;
}

static int noncontiguous(struct device *dev)
{
	struct sg_table *table = dma_alloc_noncontiguous(dev, SZ_64K, DMA_FROM_DEVICE, GFP_KERNEL,
							 0);
	void *memory;

	CHECK(dev, table);
	memory = dma_vmap_noncontiguous(dev, SZ_64K, table);
	CHECK(dev, memory);
	dma_sync_sgtable_for_device(dev, table, DMA_FROM_DEVICE);
	dma_sync_sgtable_for_cpu(dev, table, DMA_FROM_DEVICE);
	dma_vunmap_noncontiguous(dev, memory);
	dma_free_noncontiguous(dev, SZ_64K, table, DMA_FROM_DEVICE);
	return 0;
}

const struct dma_case memory_cases[] = {
	{ "coherent", coherent },
	{ "attributes", attributes },
	{ "managed", managed },
	{ "pools", pools },
	{ "pages", pages },
	{ "noncontiguous", noncontiguous },
	{ }
};
