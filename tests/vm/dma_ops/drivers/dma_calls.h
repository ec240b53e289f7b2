/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Cases: each makes calls of the DMA API in probe, and returns an error when one does
 * not do what the kernel's documentation says. The device does nothing here.
 */
#ifndef DMA_CALLS_H
#define DMA_CALLS_H

#include <linux/dma-mapping.h>
#include <linux/pci.h>

struct dma_case {
	const char *name;
	int (*run)(struct device *dev);
};

extern const struct dma_case streaming_cases[], list_cases[], memory_cases[], mistake_cases[],
	cost_cases[];
void finish_late_call(void);	/* of the case after_unbind */
extern unsigned long pairs_ns;	/* of the last measured pair of calls */

/* Returns -EIO from a case, and says where. */
#define CHECK(dev, condition)							\
	do {									\
		if (!(condition)) {						\
			dev_err(dev, "%s:%d: %s\n", __func__, __LINE__, #condition); \
			return -EIO;						\
		}								\
	} while (0)

#endif
