/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The module's layers, lowest first, in the order of Kbuild. A file calls those above
 * its section here, never one below. A test checks that.
 */
#ifndef DRO_H
#define DRO_H

#include <linux/atomic.h>
#include <linux/dma-map-ops.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/rbtree.h>
#include <linux/refcount.h>
#include <linux/spinlock.h>
#include <linux/types.h>

#include "dma_rehearsal_mailbox.h"
#include "dro_kernel.h"

struct iommu_domain;
struct pci_dev;
struct vm_area_struct;

/* dro_parameters.c: what the tests ask for, and the calls that are made to fail */
struct dro_settings {
	bool grants;			/* tell the protection unit */
	bool cache;			/* tell the cache model */
	bool merge;			/* a list is mapped with fewer segments than entries */
	bool bounce;			/* every streaming mapping is a copy */
	bool hostile;			/* ... at a nasty place */
	unsigned int device_bits;	/* address bits that the device drives; 64: all */
	unsigned int line;		/* bytes of a cache line */
};

void dro_settings_take(struct dro_settings *settings);
bool dro_function_chosen(const struct pci_dev *pdev);
void dro_calls_reset(void);
bool dro_fails_now(void);

/* dro_where.c: which call of the DMA API it is, and where it comes from */
struct dro_where {
	u32 call;			/* DR_CALL_... */
	u64 callers[DR_MAIL_CALLERS];	/* return addresses, the innermost first */
};

void dro_where_init(void);
void dro_where(struct dro_where *where, u32 call);

/* dro_mail.c: batches of commands for the platform */
struct dro_batch {
	const struct dro_where *where;
	unsigned long flags;
	unsigned int count;		/* records that wait */
	unsigned int refused;		/* records that the platform did not carry out */
	u32 status, command, tag;	/* of the first of them */
	u64 address, length;
};

int dro_mail_init(void);
void dro_mail_exit(void);
void dro_batch_begin(struct dro_batch *batch, const struct dro_where *where);
struct dr_mail_record *dro_batch_put(struct dro_batch *batch, u32 command, u32 tag);
void dro_batch_end(struct dro_batch *batch);
u32 dro_direction(enum dma_data_direction dir);
u32 dro_tags(unsigned int count);

/* The rehearsal of one function, from the bind of a driver on. */
struct dro_hook {
	struct list_head list;
	struct dma_map_ops ops;		/* the device's; leads back here */
	const struct dma_map_ops *before;
	struct device *dev;
	u16 requester_id;		/* of its DMA: bus, device and function number */
	struct device *shadow;		/* gets the kernel's own behaviour for the same masks */
	u64 shadow_mask;
	struct iommu_domain *domain;	/* NULL: bus addresses are physical ones */
	bool iommu;			/* the device's dma_iommu, which is off meanwhile */
	bool bound;			/* false: the driver is gone, and nothing is told */
	struct dro_settings settings;
	atomic_t reports, reports_lost;
	bool mask_set, mask_reported;
	u64 mask_told;			/* the last one that was beyond the device */
	raw_spinlock_t lock;		/* guards the records */
	struct rb_root_cached by_bus;	/* by bus address */
	struct rb_root_cached by_own;	/* by the driver's own memory */
	struct list_head made;		/* in the order of their making */
	atomic_t inside;		/* calls that run */
};

/* The hook of a device that has these operations; others may share them with it. */
static inline struct dro_hook *dro_hook_of(struct device *dev)
{
	return container_of(get_dma_ops(dev), struct dro_hook, ops);
}

/* dro_reports.c: mistakes that the DMA API itself shows */
struct dro_about {
	u32 tag;			/* of the mapping; 0: none */
	u64 address, length;
	u32 direction;			/* DR_DIRECTION_...; 0: none */
	u64 values[DR_MAIL_VALUES];
};

void dro_report(struct dro_hook *hook, const struct dro_where *where, u32 kind,
		const struct dro_about *about);
void dro_reports_end(struct dro_hook *hook);
void dro_batch_finish(struct dro_hook *hook, struct dro_batch *batch);

/* dro_records.c: what is mapped and allocated */

/* The driver's own memory behind a part of a mapping. */
struct dro_piece {
	void *own;
	size_t offset;			/* in the mapping */
	size_t length;
	u32 tag;			/* 0: the device reaches it directly, or it is not tracked */
};

/* Memory of ours in which the device finds a copy. */
struct dro_copy {
	struct page *page;		/* NULL: there is none */
	unsigned int order;
	void *address;			/* of the mapping's first byte */
	/* A small object, whose line has bytes before and behind the mapping: */
	size_t lead, tail;
	void *before;			/* what the object held when it was last copied */
};

struct dro_list;

struct dro_mapping {
	struct rb_node bus_node, own_node;
	u64 bus_last, own_last;		/* of their subtrees */
	struct list_head made;
	refcount_t refs;
	dma_addr_t dma;
	size_t size;
	enum dma_data_direction dir;
	unsigned long attrs;
	struct dro_where where;		/* of its making */
	u32 tag;
	bool granted, tracked;
	bool inner;			/* memory that the DMA API has allocated */
	bool leaked;			/* the driver is gone, and has not ended it */
	phys_addr_t phys;		/* what the device reaches */
	phys_addr_t own;		/* what the driver has, if that is in one piece */
	bool in_own;			/* it is in that tree */
	void *cpu;			/* of an allocation; what the driver was given */
	size_t given_offset, given_length;	/* of the last sync for the device */
	bool taken;			/* a sync for the CPU came after it */
	struct dro_copy copy;
	struct dro_list *list;		/* of the first mapping of a list */
	unsigned int pieces_count;
	struct dro_piece *pieces;
	struct dro_piece piece;		/* if one is enough */
};

/* What dma_map_sg() made of a list. */
struct dro_list {
	unsigned int entries;		/* as given */
	unsigned int segments;		/* as returned */
	unsigned int mappings_count;
	struct dro_mapping *mappings[];
};

int dro_records_init(void);
void dro_records_exit(void);
struct dro_mapping *dro_mapping_new(unsigned int pieces);
void dro_mapping_put(struct dro_mapping *mapping);
void dro_mapping_add(struct dro_hook *hook, struct dro_mapping *mapping);
struct dro_mapping *dro_mapping_take(struct dro_hook *hook, dma_addr_t dma, size_t size,
				     enum dma_data_direction dir, u32 call);
bool dro_mapping_claim(struct dro_hook *hook, struct dro_mapping *mapping);
struct dro_mapping *dro_mapping_around(struct dro_hook *hook, dma_addr_t dma, size_t size,
				       enum dma_data_direction dir);
bool dro_mapping_overlaps(struct dro_hook *hook, const struct dro_mapping *mapping,
			  u64 *address, u64 *length);
bool dro_is_allocated(struct dro_hook *hook, phys_addr_t own);
struct dro_mapping *dro_mapping_first(struct dro_hook *hook);

/* dro_copies.c: mappings that are copies */
void dro_copies_init(void);
int dro_copy_make(struct dro_hook *hook, struct dro_mapping *mapping, phys_addr_t phys);
int dro_copy_room(struct dro_hook *hook, struct dro_mapping *mapping, size_t size,
		  size_t offset_in_page);
void dro_copy_free(struct dro_mapping *mapping);
void dro_copy_in(struct dro_mapping *mapping, size_t offset, size_t length);
void dro_copy_out(struct dro_mapping *mapping, size_t offset, size_t length);
void dro_copy_stores(struct dro_mapping *mapping, size_t offset, size_t length);
bool dro_copy_differs(const struct dro_mapping *mapping, size_t *offset);

/* dro_tell.c: what the platform is told of a mapping */
void dro_put_map(struct dro_hook *hook, struct dro_batch *batch, struct dro_mapping *mapping);
void dro_put_unmap(struct dro_batch *batch, const struct dro_mapping *mapping, bool sync);
void dro_put_sync(struct dro_batch *batch, const struct dro_mapping *mapping, u32 command,
		  size_t offset, size_t length, enum dma_data_direction dir);
void dro_put_own(struct dro_batch *batch, const struct dro_mapping *mapping, u32 command,
		 size_t offset, size_t length);
bool dro_bounces(const struct dro_mapping *mapping);

/* dro_checks.c: rules that each mapping is held against */
struct dro_hook *dro_begin(struct device *dev, struct dro_where *where, u32 call);
void dro_end(struct dro_hook *hook);
void dro_check_made(struct dro_hook *hook, const struct dro_mapping *mapping);
struct dro_mapping *dro_unmap_begin(struct dro_hook *hook, const struct dro_where *where,
				    dma_addr_t dma, size_t size, enum dma_data_direction dir);
void dro_check_given(struct dro_hook *hook, const struct dro_where *where,
		     const struct dro_mapping *mapping);
bool dro_pages_ok(struct dro_hook *hook, const struct dro_where *where, struct page *page,
		  size_t size);
phys_addr_t dro_physical(struct dro_hook *hook, dma_addr_t dma);

/* dro_streaming.c: map_page, map_resource and their ends */
struct dro_mapping *dro_map_one(struct dro_hook *hook, const struct dro_where *where,
				phys_addr_t phys, size_t size, enum dma_data_direction dir,
				unsigned long attrs);
int dro_map_copy(struct dro_hook *hook, struct dro_mapping *mapping, phys_addr_t phys);
void dro_map_undo(struct dro_hook *hook, struct dro_mapping *mapping);
void dro_unmap(struct dro_hook *hook, const struct dro_where *where,
	       struct dro_mapping *const *mappings, unsigned int count, unsigned long attrs);
#if DRO_HAS_MAP_PHYS
dma_addr_t dro_map_phys(struct device *dev, phys_addr_t phys, size_t size,
			enum dma_data_direction dir, unsigned long attrs);
void dro_unmap_phys(struct device *dev, dma_addr_t dma, size_t size,
		    enum dma_data_direction dir, unsigned long attrs);
#else
dma_addr_t dro_map_page(struct device *dev, struct page *page, unsigned long offset, size_t size,
			enum dma_data_direction dir, unsigned long attrs);
void dro_unmap_page(struct device *dev, dma_addr_t dma, size_t size,
		    enum dma_data_direction dir, unsigned long attrs);
dma_addr_t dro_map_resource(struct device *dev, phys_addr_t phys, size_t size,
			    enum dma_data_direction dir, unsigned long attrs);
void dro_unmap_resource(struct device *dev, dma_addr_t dma, size_t size,
			enum dma_data_direction dir, unsigned long attrs);
#endif

/* dro_sync.c: syncs of mappings and of parts */
void dro_sync_mapping(struct dro_hook *hook, const struct dro_where *where,
		      struct dro_mapping *mapping, size_t offset, size_t length,
		      enum dma_data_direction dir, bool for_cpu);
void dro_sync_address(struct dro_hook *hook, const struct dro_where *where, dma_addr_t dma,
		      size_t size, enum dma_data_direction dir, bool for_cpu);
void dro_sync_for_cpu(struct device *dev, dma_addr_t dma, size_t size,
		      enum dma_data_direction dir);
void dro_sync_for_device(struct device *dev, dma_addr_t dma, size_t size,
			 enum dma_data_direction dir);

/* dro_merge.c: segments of several entries */
struct dro_mapping *dro_merge(struct dro_hook *hook, const struct dro_where *where,
			      struct scatterlist *first, unsigned int entries,
			      enum dma_data_direction dir, unsigned long attrs,
			      unsigned int *taken);

/* dro_lists.c: scatter lists */
int dro_map_sg(struct device *dev, struct scatterlist *sgl, int nents,
	       enum dma_data_direction dir, unsigned long attrs);
void dro_unmap_sg(struct device *dev, struct scatterlist *sgl, int nents,
		  enum dma_data_direction dir, unsigned long attrs);
void dro_sync_sg_for_cpu(struct device *dev, struct scatterlist *sgl, int nents,
			 enum dma_data_direction dir);
void dro_sync_sg_for_device(struct device *dev, struct scatterlist *sgl, int nents,
			    enum dma_data_direction dir);

/* dro_memory.c: coherent memory, pages, and user mappings of both */
void *dro_alloc(struct device *dev, size_t size, dma_addr_t *dma, gfp_t gfp,
		unsigned long attrs);
void dro_free(struct device *dev, size_t size, void *cpu, dma_addr_t dma, unsigned long attrs);
struct page *dro_alloc_pages(struct device *dev, size_t size, dma_addr_t *dma,
			     enum dma_data_direction dir, gfp_t gfp);
void dro_free_pages(struct device *dev, size_t size, struct page *page, dma_addr_t dma,
		    enum dma_data_direction dir);
int dro_mmap(struct device *dev, struct vm_area_struct *vma, void *cpu, dma_addr_t dma,
	     size_t size, unsigned long attrs);
int dro_get_sgtable(struct device *dev, struct sg_table *sgt, void *cpu, dma_addr_t dma,
		    size_t size, unsigned long attrs);

/* dro_limits.c: masks, and what the kernel says of its limits */
int dro_dma_supported(struct device *dev, u64 mask);
u64 dro_required_mask(struct device *dev);
size_t dro_max_mapping_size(struct device *dev);
unsigned long dro_merge_boundary(struct device *dev);
extern const struct dma_map_ops dro_operations;

/* dro_hook.c: the notifier, and a function's way into the rehearsal and out of it */
int dro_hook_init(void);
void dro_hook_exit(void);

#endif
