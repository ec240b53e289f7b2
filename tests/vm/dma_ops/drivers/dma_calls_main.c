// SPDX-License-Identifier: GPL-2.0-only
/* A driver whose probe runs one case. */
#include <linux/module.h>
#include <linux/string.h>

#include "dma_calls.h"

static char *run = "nothing";
module_param(run, charp, 0444);
MODULE_PARM_DESC(run, "the case that probe runs");

static uint bits = 64;
module_param(bits, uint, 0444);
MODULE_PARM_DESC(bits, "address bits of the masks (0: none are set)");

unsigned long pairs_ns;
module_param(pairs_ns, ulong, 0444);
MODULE_PARM_DESC(pairs_ns, "nanoseconds of a pair of calls, of a case that measures");

static const struct dma_case *find(void)
{
	static const struct dma_case *const all[] = {
		streaming_cases, list_cases, memory_cases, mistake_cases, cost_cases,
	};
	const struct dma_case *each;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(all); i++)
		for (each = all[i]; each->name; each++)
			if (!strcmp(each->name, run))
				return each;
	return NULL;
}

static int dma_calls_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	const struct dma_case *found = find();
	int ret;

	if (!found) {
		dev_err(&pdev->dev, "there is no case %s\n", run);
		return -EINVAL;
	}
	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	if (bits)
		ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(bits));
	return ret ?: found->run(&pdev->dev);
}

static void dma_calls_remove(struct pci_dev *pdev)
{
}

static const struct pci_device_id dma_calls_ids[] = {
	{ PCI_DEVICE(0x1234, 0x21d6) },
	{ }
};

static struct pci_driver dma_calls_driver = {
	.name = "dma_calls",
	.id_table = dma_calls_ids,
	.probe = dma_calls_probe,
	.remove = dma_calls_remove,
};

static int __init dma_calls_init(void)
{
	return pci_register_driver(&dma_calls_driver);
}

static void __exit dma_calls_exit(void)
{
	pci_unregister_driver(&dma_calls_driver);
	finish_late_call();
}

module_init(dma_calls_init);
module_exit(dma_calls_exit);

MODULE_DESCRIPTION("Calls of the DMA API, one after the other");
MODULE_LICENSE("GPL");
