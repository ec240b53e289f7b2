/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The platform's mailbox. Made from device/layout/mailbox.py, which explains it, by
 * python -m tests.mailbox_header; a test compares. Do not edit.
 */
#ifndef DMA_REHEARSAL_MAILBOX_H
#define DMA_REHEARSAL_MAILBOX_H

#include <linux/types.h>

/* Registers in the platform's BAR0 */
#define DR_PLAT_MAGIC           0x000
#define DR_PLAT_VERSION         0x004
#define DR_PLAT_FEATURES        0x008
#define DR_PLAT_MAIL_ADDRESS_LO 0x700
#define DR_PLAT_MAIL_ADDRESS_HI 0x704
#define DR_PLAT_MAIL_COUNT      0x708
#define DR_PLAT_MAIL_GO         0x70c
#define DR_PLAT_MAIL_CAPACITY   0x710
#define DR_PLAT_BOARD_SNOOP     0x780

#define DR_PLAT_VENDOR         0x1234
#define DR_PLAT_DEVICE         0xda7a
#define DR_PLAT_MAGIC_VALUE    0x54414c50
#define DR_MAIL_CAPACITY       64
#define DR_MAIL_BUDGET         4194304
#define DR_MAIL_TRACK_MAX      2097152
#define DR_MAIL_TAG_BASE       0x80000000U
#define DR_MAIL_OWNER_BASE     0x4d41494c00000000ULL
#define DR_MAIL_POSITION_SHIFT 16
#define DR_MAIL_GIVEN_UP       1
#define DR_MAIL_FORGOTTEN      2
#define DR_MAIL_CALLERS        4
#define DR_MAIL_VALUES         2
#define DR_FUNCTION_NAMED      0x10000

/* PlatformFeature */
#define DR_FEATURE_WITNESS     0x1
#define DR_FEATURE_PROTECTION  0x2
#define DR_FEATURE_CACHE       0x4
#define DR_FEATURE_REQUESTS    0x8
#define DR_FEATURE_MAILBOX     0x10
#define DR_FEATURE_BOARD_SNOOP 0x20
#define DR_FEATURE_HOLD        0x40

/* GrantDirection, from the memory's side */
#define DR_DIRECTION_IN  0x1
#define DR_DIRECTION_OUT 0x2

/* MailCommand, with the fields that each uses */
#define DR_MAIL_GRANT           0x1
#define DR_MAIL_WITHDRAW        0x2
#define DR_MAIL_TRACK           0x3
#define DR_MAIL_TRACK_UNCACHED  0x4
#define DR_MAIL_UNTRACK         0x5
#define DR_MAIL_SYNC_FOR_DEVICE 0x6
#define DR_MAIL_SYNC_FOR_CPU    0x7
#define DR_MAIL_ANNOUNCE_BEGIN  0x8
#define DR_MAIL_ANNOUNCE_END    0x9
#define DR_MAIL_REPORT          0xa

/* MailStatus */
#define DR_STATUS_OK                           0x0
#define DR_STATUS_BAD_COUNT                    0x1
#define DR_STATUS_UNREACHABLE                  0x2
#define DR_STATUS_BUS_MASTER_OFF               0x3
#define DR_STATUS_BUDGET                       0x4
#define DR_STATUS_BAD_COMMAND                  0x10
#define DR_STATUS_BAD_FIELD                    0x11
#define DR_STATUS_BAD_TAG                      0x12
#define DR_STATUS_BAD_DIRECTION                0x13
#define DR_STATUS_BAD_CALL                     0x14
#define DR_STATUS_BAD_KIND                     0x15
#define DR_STATUS_BAD_RANGE                    0x16
#define DR_STATUS_TOO_LONG                     0x17
#define DR_STATUS_NO_SUCH_TAG                  0x18
#define DR_STATUS_TAG_IN_USE                   0x19
#define DR_STATUS_BAD_FUNCTION                 0x1a
#define DR_STATUS_PROTECTION_FULL              0x102
#define DR_STATUS_CACHE_OFF                    0x202
#define DR_STATUS_CACHE_BAD_BUFFER             0x203
#define DR_STATUS_CACHE_BAD_RANGE              0x204
#define DR_STATUS_CACHE_BAD_TYPE               0x206
#define DR_STATUS_CACHE_BAD_ANNOUNCEMENT       0x207
#define DR_STATUS_CACHE_BUSY                   0x208
#define DR_STATUS_CACHE_TOO_MUCH               0x209
#define DR_STATUS_CACHE_NO_BACKING             0x20a
#define DR_STATUS_CACHE_MEMORY_GONE            0x20b
#define DR_STATUS_CACHE_WALK_NOT_PRESENT       0x210
#define DR_STATUS_CACHE_WALK_BAD_ARGUMENT      0x211
#define DR_STATUS_CACHE_WALK_TABLE_UNREACHABLE 0x212
#define DR_STATUS_CACHE_WALK_RESERVED_BIT      0x213
#define DR_STATUS_CACHE_WALK_TOO_MANY_RUNS     0x214

/* DmaCall */
#define DR_CALL_NONE                   0x0
#define DR_CALL_ALLOC_COHERENT         0x1
#define DR_CALL_ALLOC_PAGES            0x2
#define DR_CALL_ALLOC_NONCONTIGUOUS    0x3
#define DR_CALL_MAP_PAGE               0x4
#define DR_CALL_MAP_SG                 0x5
#define DR_CALL_MAP_RESOURCE           0x6
#define DR_CALL_FREE_COHERENT          0x11
#define DR_CALL_FREE_PAGES             0x12
#define DR_CALL_FREE_NONCONTIGUOUS     0x13
#define DR_CALL_UNMAP_PAGE             0x14
#define DR_CALL_UNMAP_SG               0x15
#define DR_CALL_UNMAP_RESOURCE         0x16
#define DR_CALL_SYNC_SINGLE_FOR_CPU    0x21
#define DR_CALL_SYNC_SINGLE_FOR_DEVICE 0x22
#define DR_CALL_SYNC_SG_FOR_CPU        0x23
#define DR_CALL_SYNC_SG_FOR_DEVICE     0x24
#define DR_CALL_MMAP                   0x31
#define DR_CALL_GET_SGTABLE            0x32
#define DR_CALL_SET_MASK               0x33
#define DR_CALL_SET_COHERENT_MASK      0x34
#define DR_CALL_BIND                   0x41
#define DR_CALL_UNBIND                 0x42

/* DriverReportKind */
#define DR_REPORT_UNMAP_OF_NOTHING        0x1
#define DR_REPORT_UNMAP_CALL              0x2
#define DR_REPORT_UNMAP_SIZE              0x3
#define DR_REPORT_UNMAP_DIRECTION         0x4
#define DR_REPORT_UNMAP_NENTS             0x5
#define DR_REPORT_NEVER_UNMAPPED          0x6
#define DR_REPORT_SYNC_OF_NOTHING         0x7
#define DR_REPORT_SYNC_PAST_END           0x8
#define DR_REPORT_SYNC_DIRECTION          0x9
#define DR_REPORT_MASK_NEVER_SET          0xa
#define DR_REPORT_MASK_BEYOND_DEVICE      0xb
#define DR_REPORT_ADDRESS_BEYOND_DEVICE   0xc
#define DR_REPORT_MAPPING_ERROR_UNCHECKED 0xd
#define DR_REPORT_SEGMENT_TOO_LONG        0xe
#define DR_REPORT_SEGMENT_BOUNDARY        0xf
#define DR_REPORT_OVERLAPPING_MAPPINGS    0x10
#define DR_REPORT_FREE_IN_ATOMIC          0x11
#define DR_REPORT_FREE_ADDRESS            0x12
#define DR_REPORT_SYNC_NENTS              0x13
#define DR_REPORT_BAD_DIRECTION           0x14
#define DR_REPORT_MAP_OF_NOTHING          0x15
#define DR_REPORT_RECORDS_EXHAUSTED       0x16
#define DR_REPORT_PLATFORM_REFUSED        0x17
#define DR_REPORT_REPORTS_LOST            0x18
#define DR_REPORT_CALL_AFTER_UNBIND       0x19
#define DR_REPORT_NEVER_TAKEN_BACK        0x1a
#define DR_REPORT_P2P_REFUSED             0x1b
#define DR_REPORT_NEVER_GIVEN             0x1c

/* One command, 128 bytes. What a command does not use is 0. */
struct dr_mail_record {
	__le32 command;
	__le32 direction;
	__le32 tag;
	__le32 call;
	__le64 address;
	__le64 length;
	__le64 offset;
	__le64 virtual;
	__le64 root;
	__le32 levels;
	__le32 kind;
	__le64 callers[4];
	__le64 values[2];
	__le64 reserved[2];
};

_Static_assert(sizeof(struct dr_mail_record) == 128, "dr_mail_record");

#endif
