// SPDX-License-Identifier: GPL-2.0-only
/*
 * A driver of the lines: it raises each line, and counts the interrupts of each vector.
 *
 * The kernel chooses MSI or INTx. Parameters: vectors, at most this many; msix, whether MSI-X may be
 * chosen. What came is in the parameters got, counts and served.
 */
#include <linux/delay.h>
#include <linux/interrupt.h>
#include <linux/io.h>
#include <linux/module.h>
#include <linux/pci.h>

#ifndef PCI_IRQ_INTX /* before Linux 6.8 */
#define PCI_IRQ_INTX PCI_IRQ_LEGACY
#endif
#define LINES 8
#define REG_RAISE 0x0
#define REG_STATUS 0x4
#define REG_ACK 0x8

static unsigned int vectors = LINES;
module_param(vectors, uint, 0444);
MODULE_PARM_DESC(vectors, "ask the kernel for at most this many");
static bool msix;
module_param(msix, bool, 0444);
MODULE_PARM_DESC(msix, "MSI-X may be chosen");
static int got;
module_param(got, int, 0444);
MODULE_PARM_DESC(got, "vectors that the kernel gave");
static unsigned int counts[LINES];
module_param_array(counts, uint, NULL, 0444);
MODULE_PARM_DESC(counts, "interrupts by vector");
static unsigned int served[LINES];
module_param_array(served, uint, NULL, 0444);
MODULE_PARM_DESC(served, "times that a line was served");

struct lines_vector {
	struct lines *of;
	int number;
};

struct lines {
	void __iomem *bar;
	struct lines_vector vectors[LINES];
};

static irqreturn_t lines_handler(int irq, void *data)
{
	struct lines_vector *vector = data;
	void __iomem *bar = vector->of->bar;
	u32 up = ioread32(bar + REG_STATUS);
	u32 mine = 0;
	int n;

	for (n = vector->number; n < LINES; n += got)
		if (up & BIT(n)) {
			mine |= BIT(n);
			served[n]++;
		}
	if (!mine)
		return IRQ_NONE;
	counts[vector->number]++;
	iowrite32(mine, bar + REG_ACK);
	return IRQ_HANDLED;
}

static int lines_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	unsigned int kinds = PCI_IRQ_MSI | PCI_IRQ_INTX | (msix ? PCI_IRQ_MSIX : 0);
	struct lines *lines;
	int error, n, tries;

	lines = devm_kzalloc(&pdev->dev, sizeof(*lines), GFP_KERNEL);
	if (!lines)
		return -ENOMEM;
	error = pcim_enable_device(pdev);
	if (error)
		return error;
	lines->bar = pcim_iomap(pdev, 0, 0);
	if (!lines->bar)
		return -ENOMEM;
	pci_set_drvdata(pdev, lines);
	pci_set_master(pdev);
	got = pci_alloc_irq_vectors(pdev, 1, vectors, kinds);
	if (got < 0)
		return got;
	for (n = 0; n < got; n++) {
		lines->vectors[n].of = lines;
		lines->vectors[n].number = n;
		error = request_irq(pci_irq_vector(pdev, n), lines_handler, IRQF_SHARED, "lines",
				    &lines->vectors[n]);
		if (error)
			goto undo;
	}
	for (n = 0; n < LINES; n++) {
		iowrite32(BIT(n), lines->bar + REG_RAISE);
		for (tries = 0; tries < 1000 && ioread32(lines->bar + REG_STATUS); tries++)
			usleep_range(1000, 2000);
	}
	return 0;
undo:
	while (n--)
		free_irq(pci_irq_vector(pdev, n), &lines->vectors[n]);
	pci_free_irq_vectors(pdev);
	return error;
}

static void lines_remove(struct pci_dev *pdev)
{
	struct lines *lines = pci_get_drvdata(pdev);
	int n;

	for (n = 0; n < got; n++)
		free_irq(pci_irq_vector(pdev, n), &lines->vectors[n]);
	pci_free_irq_vectors(pdev);
	pci_clear_master(pdev);
}

static const struct pci_device_id lines_ids[] = {
	{ PCI_DEVICE(0x1234, 0x11e5) },
	{ }
};
MODULE_DEVICE_TABLE(pci, lines_ids);

static struct pci_driver lines_driver = {
	.name = "lines",
	.id_table = lines_ids,
	.probe = lines_probe,
	.remove = lines_remove,
};
module_pci_driver(lines_driver);

MODULE_DESCRIPTION("Counts the interrupts of the lines");
MODULE_LICENSE("GPL");
