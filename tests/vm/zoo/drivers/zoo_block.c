// SPDX-License-Identifier: GPL-2.0-only
/*
 * A small disk in the device's memory, by blk-mq. A request becomes a list of segments that the
 * device reads from memory of the request; requests of several CPUs wait for the one engine.
 */
#include <linux/blk-mq.h>
#include <linux/blkdev.h>
#include <linux/scatterlist.h>

#include "ring_compat_block.h"
#include "ring_engine.h"

#define SEGMENTS	64
#define DEPTH		1	/* the device does one job at a time */

struct zoo_block {
	struct ring_engine engine;
	struct blk_mq_tag_set tags;
	struct gendisk *disk;
	struct request *request;	/* that the device does */
};

/* Of each request, before it is used and after, the whole life of the tag set. */
struct zoo_request {
	struct scatterlist sg[SEGMENTS];
	struct ring_segment *list;	/* coherent */
	dma_addr_t list_dma;
	unsigned int count;
};

#define LIST_BYTES	(SEGMENTS * sizeof(struct ring_segment))

static blk_status_t zoo_block_queue_rq(struct blk_mq_hw_ctx *hctx,
				       const struct blk_mq_queue_data *data)
{
	struct zoo_block *zoo = hctx->queue->queuedata;
	struct ring_engine *engine = &zoo->engine;
	struct request *rq = data->rq;
	struct zoo_request *zrq = blk_mq_rq_to_pdu(rq);
	bool write = rq_data_dir(rq) == WRITE;
	unsigned int count, i;
	struct scatterlist *sg;

	if (req_op(rq) != REQ_OP_READ && req_op(rq) != REQ_OP_WRITE)
		return BLK_STS_NOTSUPP;
	sg_init_table(zrq->sg, SEGMENTS);
	zrq->count = ring_blk_map_sg(rq, zrq->sg);
	count = dma_map_sg(engine->dev, zrq->sg, zrq->count, rq_dma_dir(rq));
	if (!count)
		return BLK_STS_RESOURCE;
	blk_mq_start_request(rq);
	for_each_sg(zrq->sg, sg, count, i) {
		zrq->list[i].address = cpu_to_le64(sg_dma_address(sg));
		zrq->list[i].length = cpu_to_le32(sg_dma_len(sg));
	}
	zoo->request = rq;
	ring_write(engine->regs, RING_JOB_SECTOR, blk_rq_pos(rq));
	ring_write(engine->regs, RING_JOB_SEGMENTS, write ? count : count << 16);
	ring_engine_start(engine,
			  write ? RING_JOB_LOAD | RING_JOB_SOURCE_LIST :
				  RING_JOB_STORE | RING_JOB_TARGET_LIST,
			  write ? zrq->list_dma : 0, write ? 0 : zrq->list_dma, blk_rq_bytes(rq));
	return BLK_STS_OK;
}

static void zoo_block_complete_rq(struct request *rq)
{
	struct zoo_block *zoo = rq->q->queuedata;
	struct zoo_request *zrq = blk_mq_rq_to_pdu(rq);
	u32 status = ring_read(zoo->engine.regs, RING_JOB_STATUS);

	dma_unmap_sg(zoo->engine.dev, zrq->sg, zrq->count, rq_dma_dir(rq));
	blk_mq_end_request(rq, errno_to_blk_status(ring_job_error(status)));
}

static irqreturn_t zoo_block_irq(int irq, void *data)
{
	struct zoo_block *zoo = data;
	struct request *rq = xchg(&zoo->request, NULL);

	if (!rq)
		return IRQ_NONE;
	blk_mq_complete_request(rq);
	return IRQ_HANDLED;
}

static int zoo_block_init_request(struct blk_mq_tag_set *tags, struct request *rq,
				  unsigned int hctx, ring_blk_node_t node)
{
	struct zoo_block *zoo = tags->driver_data;
	struct zoo_request *zrq = blk_mq_rq_to_pdu(rq);

	zrq->list = dma_alloc_coherent(zoo->engine.dev, LIST_BYTES, &zrq->list_dma, GFP_KERNEL);
	return zrq->list ? 0 : -ENOMEM;
}

static void zoo_block_exit_request(struct blk_mq_tag_set *tags, struct request *rq,
				   unsigned int hctx)
{
	struct zoo_block *zoo = tags->driver_data;
	struct zoo_request *zrq = blk_mq_rq_to_pdu(rq);

	if (zrq->list)
		dma_free_coherent(zoo->engine.dev, LIST_BYTES, zrq->list, zrq->list_dma);
}

static const struct blk_mq_ops zoo_block_mq_ops = {
	.queue_rq = zoo_block_queue_rq,
	.complete = zoo_block_complete_rq,
	.init_request = zoo_block_init_request,
	.exit_request = zoo_block_exit_request,
};

static const struct block_device_operations zoo_block_ops = {
	.owner = THIS_MODULE,
};

static int zoo_block_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct zoo_block *zoo = devm_kzalloc(&pdev->dev, sizeof(*zoo), GFP_KERNEL);
	int error;

	if (!zoo)
		return -ENOMEM;
	error = ring_engine_init(&zoo->engine, pdev, 64);
	if (error)
		return error;
	error = devm_request_irq(&pdev->dev, pci_irq_vector(pdev, RING_VECTOR_JOB), zoo_block_irq,
				 0, KBUILD_MODNAME, zoo);
	if (error)
		return error;
	dma_set_max_seg_size(&pdev->dev, RING_JOB_MAX);
	zoo->tags = (struct blk_mq_tag_set){
		.ops = &zoo_block_mq_ops,
		.nr_hw_queues = 1,
		.queue_depth = DEPTH,
		.numa_node = NUMA_NO_NODE,
		.cmd_size = sizeof(struct zoo_request),
		.flags = RING_BLK_MQ_FLAGS,
		.driver_data = zoo,
	};
	error = blk_mq_alloc_tag_set(&zoo->tags);
	if (error)
		return error;
	zoo->disk = ring_blk_alloc_disk(&zoo->tags, zoo, SEGMENTS, RING_JOB_MAX);
	if (IS_ERR(zoo->disk)) {
		error = PTR_ERR(zoo->disk);
		goto free_tags;
	}
	zoo->disk->fops = &zoo_block_ops;
	strscpy(zoo->disk->disk_name, KBUILD_MODNAME, DISK_NAME_LEN);
	set_capacity(zoo->disk, RING_MEMORY_SIZE / RING_SECTOR);
	pci_set_master(pdev);
	error = device_add_disk(&pdev->dev, zoo->disk, NULL);
	if (!error)
		return 0;
	ring_stop(pdev, zoo->engine.regs);
	put_disk(zoo->disk);
free_tags:
	blk_mq_free_tag_set(&zoo->tags);
	return error;
}

static void zoo_block_remove(struct pci_dev *pdev)
{
	struct ring_engine *engine = pci_get_drvdata(pdev);
	struct zoo_block *zoo = container_of(engine, struct zoo_block, engine);

	del_gendisk(zoo->disk);
	put_disk(zoo->disk);
	ring_stop(pdev, engine->regs);
	blk_mq_free_tag_set(&zoo->tags);
}

RING_ENGINE_DRIVER(zoo_block_probe, zoo_block_remove);

MODULE_DESCRIPTION("A disk by blk-mq");
MODULE_LICENSE("GPL");
