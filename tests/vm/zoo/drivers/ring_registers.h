/* SPDX-License-Identifier: GPL-2.0-only */
/* Access to the ring device's registers, shared by the drivers of the zoo. */
#ifndef RING_REGISTERS_H
#define RING_REGISTERS_H

#include <linux/dma-mapping.h>
#include <linux/errno.h>
#include <linux/io.h>
#include <linux/iopoll.h>
#include <linux/pci.h>

#include "ring_compat.h"
#include "ring_device.h"

static inline u32 ring_read(void __iomem *regs, unsigned int offset)
{
	return readl(regs + offset);
}

static inline void ring_write(void __iomem *regs, unsigned int offset, u32 value)
{
	writel(value, regs + offset);
}

static inline void ring_write_address(void __iomem *regs, unsigned int offset, dma_addr_t address)
{
	writel(lower_32_bits(address), regs + offset);
	writel(upper_32_bits(address), regs + offset + 4);
}

/* Enable the device, map its registers and reset it. It masters the bus later. */
static inline void __iomem *ring_enable(struct pci_dev *pdev)
{
	void __iomem *regs;
	int error;

	error = pcim_enable_device(pdev);
	if (error)
		return IOMEM_ERR_PTR(error);
	regs = ring_iomap(pdev, 0, pci_name(pdev));
	if (IS_ERR(regs))
		return regs;
	if (ring_read(regs, RING_ID) != RING_MAGIC)
		return IOMEM_ERR_PTR(-ENODEV);
	ring_write(regs, RING_CONTROL, RING_CONTROL_RESET);
	return regs;
}

/* Stop all DMA of the device; what it was doing is over when this returns. */
static inline void ring_stop(struct pci_dev *pdev, void __iomem *regs)
{
	ring_write(regs, RING_CONTROL, RING_CONTROL_RESET);
	ring_read(regs, RING_ID);
	pci_clear_master(pdev);
}

static inline int ring_job_error(u32 status)
{
	return (status & RING_STATE_MASK) == RING_STATE_DONE ? 0 : -EIO;
}

/* Wait for a job by its status register alone. */
static inline int ring_poll_job(void __iomem *regs)
{
	u32 status;
	int error;

	error = readl_poll_timeout(regs + RING_JOB_STATUS, status,
				   (status & RING_STATE_MASK) > RING_STATE_BUSY, 20, 5 * USEC_PER_SEC);
	return error ?: ring_job_error(status);
}

#endif
