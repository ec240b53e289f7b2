/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef MISTAKES_H
#define MISTAKES_H

#include <linux/completion.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/mutex.h>
#include <linux/types.h>

#include "ring_registers.h"

/* Each is one change of a right driver; the comment says of which call. */
#define MISTAKES(X)			\
	X(NONE, "none")			\
	/* One transfer, write(). */	\
	X(WRONG_DIRECTION, "wrong_direction")				\
	X(LENGTH_TOO_LONG, "length_too_long")				\
	X(VIRT_TO_PHYS, "virt_to_phys")					\
	X(WRONG_DEVICE, "wrong_device")					\
	X(ERROR_NOT_CHECKED, "error_not_checked")			\
	X(LEAK_ON_ERROR_PATH, "leak_on_error_path")			\
	X(SKIPPED_SYNC, "skipped_sync")					\
	X(UNMAP_BEFORE_DOORBELL, "unmap_before_doorbell")		\
	X(UNMAP_BEFORE_COMPLETION, "unmap_before_completion")		\
	X(STORE_BEFORE_COMPLETION, "store_before_completion")		\
	X(WRONG_UNMAP_SIZE, "wrong_unmap_size")				\
	X(WRONG_UNMAP_DIRECTION, "wrong_unmap_direction")		\
	X(DOUBLE_UNMAP, "double_unmap")					\
	X(LEAK, "leak")							\
	/* A receive buffer that stays mapped, read(). */		\
	X(MAPPED_TWICE, "mapped_twice")					\
	X(NO_SYNC_FOR_CPU, "no_sync_for_cpu")				\
	X(SYNC_WRONG_DIRECTION, "sync_wrong_direction")			\
	X(SYNC_PAST_END, "sync_past_end")				\
	X(SYNC_AFTER_UNMAP, "sync_after_unmap")				\
	X(SHARED_LINE, "shared_line")					\
	X(RESULT_BEFORE_INTERRUPT, "result_before_interrupt")		\
	/* A send buffer that stays mapped, MISTAKES_SEND. */		\
	X(NO_SYNC_FOR_DEVICE, "no_sync_for_device")			\
	/* Coherent memory, MISTAKES_SNAPSHOT. */			\
	X(COHERENT_AFTER_FREE, "coherent_after_free")			\
	X(COHERENT_WRONG_SIZE, "coherent_wrong_size")			\
	/* A list of segments, MISTAKES_LIST. */			\
	X(ORIG_NENTS, "orig_nents")					\
	X(UNMAP_NENTS, "unmap_nents")					\
	X(UNMAP_CALL, "unmap_call")					\
	X(SEGMENT_TOO_LONG, "segment_too_long")				\
	/* The rings, MISTAKES_ECHO. */					\
	X(DESCRIPTOR_AFTER_DOORBELL, "descriptor_after_doorbell")	\
	/* Probe and remove. */						\
	X(MASK_NEVER_SET, "mask_never_set")				\
	X(MASK_TOO_WIDE, "mask_too_wide")				\
	X(BUS_MASTER_NEVER, "bus_master_never")				\
	X(BUS_MASTER_EARLY, "bus_master_early")				\
	X(LEAK_ON_FAILED_PROBE, "leak_on_failed_probe")

enum mistake {
#define MISTAKE_ENUM(symbol, name) symbol,
	MISTAKES(MISTAKE_ENUM)
#undef MISTAKE_ENUM
};

extern enum mistake the_mistake;

static inline bool mistaken(enum mistake mistake)
{
	return the_mistake == mistake;
}

#define TRANSFER_MAX	SZ_64K
#define INBOX_LENGTH	4000	/* ends in the middle of a cache line */
#define OUTBOX_LENGTH	4096
#define RING_SLOTS	4
#define FRAME_MAX	2048

/* The argument of every ioctl. */
struct mistakes_buffer {
	__u64 data;
	__u32 length;
	__u32 result;
};

#define MISTAKES_SEND		_IOWR('R', 1, struct mistakes_buffer)
#define MISTAKES_SNAPSHOT	_IOWR('R', 2, struct mistakes_buffer)
#define MISTAKES_LIST		_IOWR('R', 3, struct mistakes_buffer)
#define MISTAKES_ECHO		_IOWR('R', 4, struct mistakes_buffer)

/* Has an allocation of its own: nothing shares a line with the data but @reads. */
struct inbox {
	u8 data[INBOX_LENGTH];
	u32 reads;
};

struct ring {
	struct ring_descriptor *descriptors;
	dma_addr_t dma;
	unsigned int next;
};

struct mistakes {
	struct pci_dev *pdev;
	struct device *dev;		/* that maps */
	void __iomem *regs;
	struct mutex lock;		/* all below, and the registers */
	struct completion done;
	struct miscdevice misc;
	u32 reads;
	size_t length;			/* bytes in the device */

	struct ring_completion *record;	/* coherent */
	dma_addr_t record_dma;
	u32 cookie;
	__le64 *heartbeat;		/* coherent */
	dma_addr_t heartbeat_dma;

	struct inbox *inbox;
	dma_addr_t inbox_dma;
	u8 *outbox;
	dma_addr_t outbox_dma;

	struct ring tx, rx;
	struct completion received;
	void *frames[RING_SLOTS];	/* of the RX ring */
	dma_addr_t frames_dma[RING_SLOTS];
};

/* mistakes_main.c */
void mistakes_start_job(struct mistakes *m, u32 operation, unsigned int address, dma_addr_t dma,
			size_t length);
int mistakes_wait_job(struct mistakes *m);

/* mistakes_transfer.c */
ssize_t mistakes_write(struct mistakes *m, const char __user *from, size_t count);
ssize_t mistakes_read(struct mistakes *m, char __user *to, size_t count);
int mistakes_send(struct mistakes *m, struct mistakes_buffer *argument);
int mistakes_snapshot(struct mistakes *m, struct mistakes_buffer *argument);
int mistakes_map_boxes(struct mistakes *m);
void mistakes_unmap_boxes(struct mistakes *m);

/* mistakes_list.c */
int mistakes_list(struct mistakes *m, struct mistakes_buffer *argument);

/* mistakes_ring.c */
int mistakes_echo(struct mistakes *m, struct mistakes_buffer *argument);
int mistakes_start_rings(struct mistakes *m);
void mistakes_free_rings(struct mistakes *m);

#endif
