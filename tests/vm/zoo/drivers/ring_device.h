/* SPDX-License-Identifier: GPL-2.0-only */
/* The registers and records of the ring device; ../ring_device.py is its model. */
#ifndef RING_DEVICE_H
#define RING_DEVICE_H

#include <linux/bits.h>
#include <linux/types.h>

#define RING_VENDOR_ID		0x1234
#define RING_DEVICE_ID		0x21d6

#define RING_ID			0x00
#define RING_CONTROL		0x04
#define RING_JOB_SOURCE_LO	0x10
#define RING_JOB_SOURCE_HI	0x14
#define RING_JOB_TARGET_LO	0x18
#define RING_JOB_TARGET_HI	0x1c
#define RING_JOB_LENGTH		0x20
#define RING_JOB_SEGMENTS	0x24
#define RING_JOB_SECTOR		0x28
#define RING_JOB_COOKIE		0x2c
#define RING_JOB_COMPLETION_LO	0x30
#define RING_JOB_COMPLETION_HI	0x34
#define RING_JOB_DOORBELL	0x38
#define RING_JOB_STATUS		0x3c
#define RING_JOB_RESULT		0x40
#define RING_HEARTBEAT_LO	0x50
#define RING_HEARTBEAT_HI	0x54
#define RING_HEARTBEAT_CONTROL	0x58
#define RING_TX_BASE_LO		0x80
#define RING_TX_BASE_HI		0x84
#define RING_TX_SIZE		0x88
#define RING_TX_TAIL		0x8c
#define RING_TX_HEAD		0x90
#define RING_RX_BASE_LO		0xa0
#define RING_RX_BASE_HI		0xa4
#define RING_RX_SIZE		0xa8
#define RING_RX_TAIL		0xac
#define RING_RX_HEAD		0xb0
#define RING_RX_DROPPED		0xb4

#define RING_MAGIC		0x474e4952

#define RING_CONTROL_RESET	BIT(0)
#define RING_CONTROL_NARROW	BIT(1)

/* RING_JOB_DOORBELL */
#define RING_JOB_CHECKSUM	1
#define RING_JOB_COPY		2
#define RING_JOB_LOAD		3
#define RING_JOB_STORE		4
#define RING_JOB_INVERT		5
#define RING_JOB_SOURCE_LIST	BIT(4)
#define RING_JOB_TARGET_LIST	BIT(5)
#define RING_JOB_RECORD		BIT(8)
#define RING_JOB_INTERRUPT	BIT(9)

/* RING_JOB_STATUS */
#define RING_STATE_MASK		0x7
#define RING_STATE_IDLE		0
#define RING_STATE_BUSY		1
#define RING_STATE_DONE		2
#define RING_STATE_REFUSED	3
#define RING_STATE_BAD		4

#define RING_SECTOR		512
#define RING_MEMORY_SIZE	(4 << 20)
#define RING_JOB_MAX		(1 << 20)
#define RING_SEGMENTS_MAX	256
#define RING_MAX		256
#define RING_FRAME_MAX		(1 << 16)

#define RING_VECTOR_JOB		0
#define RING_VECTOR_TX		1
#define RING_VECTOR_RX		2
#define RING_VECTOR_HEARTBEAT	3
#define RING_VECTORS		4

struct ring_descriptor {
	__le64 address;
	__le32 length;
	__le32 flags;
};

#define RING_OWN		BIT(31)
#define RING_ERROR		BIT(30)
#define RING_LAST		BIT(29)

struct ring_segment {
	__le64 address;
	__le32 length;
	__le32 reserved;
};

struct ring_completion {
	__le32 cookie;
	__le32 status;
	__le32 result;
	__le32 valid;
};

#endif
