// SPDX-License-Identifier: GPL-2.0-only
/* A driver of both functions of the card. Each probe has its function read a buffer. */
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/io.h>
#include <linux/iopoll.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>

#define ADDRESS_LO 0x00
#define ADDRESS_HI 0x04
#define LENGTH 0x08
#define CONTROL 0x0c
#define STATUS 0x10
#define START 1
#define DONE 1
#define SIZE 1024
#define PATIENCE_US 5000000

static bool leak, wrong, sibling;
module_param(leak, bool, 0444);
MODULE_PARM_DESC(leak, "a bug: never unmap the buffer");
module_param(wrong, bool, 0444);
MODULE_PARM_DESC(wrong, "a bug: map the buffer for the other direction");
module_param(sibling, bool, 0444);
MODULE_PARM_DESC(sibling, "a bug: map every buffer with the struct device of function 0");

static int copy(struct pci_dev *pdev, void __iomem *regs, dma_addr_t address)
{
	u32 status;
	int ret;

	writel(lower_32_bits(address), regs + ADDRESS_LO);
	writel(upper_32_bits(address), regs + ADDRESS_HI);
	writel(SIZE, regs + LENGTH);
	writel(START, regs + CONTROL);
	ret = readl_poll_timeout(regs + STATUS, status, status & 3, 1000, PATIENCE_US);
	if (ret)
		return ret;
	if ((status & 3) != DONE)
		dev_info(&pdev->dev, "refused: %#x\n", status);
	return (status & 3) == DONE ? 0 : -EIO;
}

static int read_buffer(struct pci_dev *pdev, void __iomem *regs, void __iomem *memory)
{
	enum dma_data_direction dir = wrong ? DMA_FROM_DEVICE : DMA_TO_DEVICE;
	u8 *sent = kmalloc(SIZE, GFP_KERNEL), *got = kmalloc(SIZE, GFP_KERNEL);
	struct pci_dev *mapper = pci_dev_get(pdev);
	dma_addr_t address;
	int ret = -ENOMEM;

	if (sibling) {
		pci_dev_put(mapper);
		mapper = pci_get_slot(pdev->bus, PCI_DEVFN(PCI_SLOT(pdev->devfn), 0));
	}
	if (!sent || !got)
		goto out;
	memset(sent, 0xa0 | PCI_FUNC(pdev->devfn), SIZE);
	address = dma_map_single(&mapper->dev, sent, SIZE, dir);
	if (dma_mapping_error(&mapper->dev, address))
		goto out;
	ret = copy(pdev, regs, address);
	if (leak) {
		pci_dev_put(mapper);
		return ret;
	}
	dma_unmap_single(&mapper->dev, address, SIZE, dir);
	memcpy_fromio(got, memory, SIZE);
	if (!ret && memcmp(sent, got, SIZE))
		ret = -EIO;
out:
	pci_dev_put(mapper);
	kfree(sent);
	kfree(got);
	return (wrong || sibling) && ret == -EIO ? 0 : ret;
}

static int two_functions_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	void __iomem *regs, *memory;
	int ret = pcim_enable_device(pdev);

	if (ret)
		return ret;
	regs = pcim_iomap(pdev, 0, 0);
	memory = pcim_iomap(pdev, 2, 0);
	if (!regs || !memory)
		return -ENOMEM;
	ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (ret)
		return ret;
	pci_set_master(pdev);
	ret = read_buffer(pdev, regs, memory);
	if (ret)
		pci_clear_master(pdev);
	return ret;
}

static void two_functions_remove(struct pci_dev *pdev)
{
	pci_clear_master(pdev);
}

static const struct pci_device_id two_functions_ids[] = {
	{ PCI_DEVICE(0x1234, 0xf000) },
	{ PCI_DEVICE(0x1234, 0xf001) },
	{}
};
MODULE_DEVICE_TABLE(pci, two_functions_ids);

static struct pci_driver two_functions_driver = {
	.name = "two_functions",
	.id_table = two_functions_ids,
	.probe = two_functions_probe,
	.remove = two_functions_remove,
};
module_pci_driver(two_functions_driver);

MODULE_DESCRIPTION("A driver of a card with two functions");
MODULE_LICENSE("GPL");
