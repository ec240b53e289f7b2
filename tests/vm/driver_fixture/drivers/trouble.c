// SPDX-License-Identifier: GPL-2.0-only
/* A driver of the mirror that gives the fixture `driver` the trouble that a parameter names. */
#include <linux/delay.h>
#include <linux/dma-mapping.h>
#include <linux/fs.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/string.h>

static char *trouble = "none";
module_param(trouble, charp, 0444);
MODULE_PARM_DESC(trouble, "none, warn, oops, hang, refuse");
static bool go_on;
module_param(go_on, bool, 0644);
MODULE_PARM_DESC(go_on, "ends a hang");

static int *volatile nowhere;

static bool is(const char *name)
{
	return !strcmp(trouble, name);
}

static const struct file_operations trouble_files = { .owner = THIS_MODULE };
static struct miscdevice trouble_misc = {
	.minor = MISC_DYNAMIC_MINOR,
	.name = "trouble",
	.fops = &trouble_files,
};

static int trouble_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	int error = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));

	if (error)
		return error;
	if (is("refuse")) {
		dev_err(&pdev->dev, "trouble refuses\n");
		return -EBUSY;
	}
	if (is("oops"))
		*nowhere = 1;
	return misc_register(&trouble_misc);
}

static void trouble_remove(struct pci_dev *pdev)
{
	misc_deregister(&trouble_misc);
	WARN(is("warn"), "trouble was asked to warn\n");
	while (is("hang") && !READ_ONCE(go_on))
		msleep(20);
}

static const struct pci_device_id trouble_ids[] = { { PCI_DEVICE(0x1234, 0x3141) }, {} };
MODULE_DEVICE_TABLE(pci, trouble_ids);

static struct pci_driver trouble_driver = {
	.name = "trouble-pci",
	.id_table = trouble_ids,
	.probe = trouble_probe,
	.remove = trouble_remove,
};
module_pci_driver(trouble_driver);

MODULE_DESCRIPTION("Gives trouble");
MODULE_LICENSE("GPL");
