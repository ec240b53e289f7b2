// SPDX-License-Identifier: GPL-2.0-only
/*
 * Reports of mistakes. They go to the platform, and so into the host's trace; of each
 * bind at most DRO_REPORTS, so that a driver in a loop does not flood it.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/device.h>
#include <linux/kernel.h>

#include "dro.h"

#define DRO_REPORTS	256	/* of one bind */

static void send(const struct dro_where *where, u32 kind, const struct dro_about *about,
		 struct dro_batch *batch)
{
	struct dr_mail_record *record;
	unsigned int i;

	dro_batch_begin(batch, where);
	record = dro_batch_put(batch, DR_MAIL_REPORT, about->tag);
	record->kind = cpu_to_le32(kind);
	record->address = cpu_to_le64(about->address);
	record->length = cpu_to_le64(about->length);
	record->direction = cpu_to_le32(about->direction);
	for (i = 0; i < DR_MAIL_VALUES; i++)
		record->values[i] = cpu_to_le64(about->values[i]);
	dro_batch_end(batch);
}

void dro_report(struct dro_hook *hook, const struct dro_where *where, u32 kind,
		const struct dro_about *about)
{
	struct dro_batch batch;

	if (atomic_inc_return(&hook->reports) > DRO_REPORTS) {
		atomic_inc(&hook->reports_lost);
		return;
	}
	send(where, kind, about, &batch);
	/* The last resort: a test fails by a warning, where silence would make it pass. */
	if (batch.refused)
		dev_WARN(hook->dev, "the platform refused a report of kind %u: status %#x\n", kind,
			 batch.status);
}

/* At an unbind, behind all reports: how many there was no room for. */
void dro_reports_end(struct dro_hook *hook)
{
	const struct dro_where where = { .call = DR_CALL_UNBIND };
	struct dro_about about = { .values = { atomic_read(&hook->reports_lost) } };
	struct dro_batch batch;

	if (about.values[0])
		send(&where, DR_REPORT_REPORTS_LOST, &about, &batch);
	atomic_set(&hook->reports_lost, 0);
	atomic_set(&hook->reports, 0);
}

/* End a batch. If a part of it was refused, the host is told what is not watched. */
void dro_batch_finish(struct dro_hook *hook, struct dro_batch *batch)
{
	dro_batch_end(batch);
	if (batch->refused)
		dro_report(hook, batch->where, DR_REPORT_PLATFORM_REFUSED,
			   &(struct dro_about){
				.tag = batch->tag,
				.address = batch->address,
				.length = batch->length,
				.values = { batch->status, batch->command },
			   });
}
