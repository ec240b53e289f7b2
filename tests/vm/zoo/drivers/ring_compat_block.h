/* SPDX-License-Identifier: GPL-2.0-only */
/* Differences of the block layer between kernels, from 6.1 on. */
#ifndef RING_COMPAT_BLOCK_H
#define RING_COMPAT_BLOCK_H

#include <linux/blk-mq.h>
#include <linux/version.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 14, 0)
#define RING_BLK_MQ_FLAGS	0
#else
#define RING_BLK_MQ_FLAGS	BLK_MQ_F_SHOULD_MERGE
#endif

/* The number of a NUMA node, for init_request. */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(7, 0, 0)
typedef int ring_blk_node_t;
#else
typedef unsigned int ring_blk_node_t;
#endif

static inline int ring_blk_map_sg(struct request *rq, struct scatterlist *sg)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 16, 0)
	return blk_rq_map_sg(rq, sg);
#else
	return blk_rq_map_sg(rq->q, rq, sg);
#endif
}

/* A disk whose requests have at most @segments segments and @bytes bytes. */
static inline struct gendisk *ring_blk_alloc_disk(struct blk_mq_tag_set *tags, void *data,
						  unsigned short segments, unsigned int bytes)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 9, 0)
	struct queue_limits limits = {
		.max_segments = segments,
		.max_segment_size = bytes,
		.max_hw_sectors = bytes / SECTOR_SIZE,
	};

	return blk_mq_alloc_disk(tags, &limits, data);
#else
	struct gendisk *disk = blk_mq_alloc_disk(tags, data);

	if (IS_ERR(disk))
		return disk;
	blk_queue_max_segments(disk->queue, segments);
	blk_queue_max_segment_size(disk->queue, bytes);
	blk_queue_max_hw_sectors(disk->queue, bytes / SECTOR_SIZE);
	return disk;
#endif
}

#endif
