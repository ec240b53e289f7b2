// SPDX-License-Identifier: GPL-2.0-only
/*
 * DMA rehearsal of a driver: the DMA API of a chosen PCI function, told to the platform.
 *
 * The driver runs as it is. Its function's dma_map_ops do what the kernel would do, and
 * tell the platform at each call: grants to the protection unit, tracks and syncs to the
 * cache model, and reports of what the DMA API does not allow.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/module.h>

#include "dro.h"

static int __init dro_init(void)
{
	int ret;

	dro_where_init();
	dro_copies_init();
	ret = dro_mail_init();
	if (ret)
		return ret;
	ret = dro_records_init();
	if (ret)
		goto err_mail;
	ret = dro_hook_init();
	if (ret)
		goto err_records;
	return 0;

err_records:
	dro_records_exit();
err_mail:
	dro_mail_exit();
	return ret;
}

static void __exit dro_exit(void)
{
	dro_hook_exit();
	dro_records_exit();
	dro_mail_exit();
}

module_init(dro_init);
module_exit(dro_exit);

MODULE_DESCRIPTION("Tells the DMA rehearsal's platform what a driver does with the DMA API");
MODULE_LICENSE("GPL");
