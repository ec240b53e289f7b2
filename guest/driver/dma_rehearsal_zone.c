// SPDX-License-Identifier: GPL-2.0-only
/*
 * The carve-outs: parsed from the module's parameter, checked against the
 * firmware's memory map, claimed in /proc/iomem, and shown through UIO: one
 * device for each zone, with one map for each cache mode.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/ctype.h>
#include <linux/io.h>
#include <linux/ioport.h>
#include <linux/kernel.h>
#include <linux/mm.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/uio_driver.h>
#include <linux/version.h>

#include "dma_rehearsal.h"

#define DR_MAX_ZONES	8
#define DR_NAME_MAX	16	/* with the NUL */

struct dr_zone {
	char name[DR_NAME_MAX];
	char label[DR_NAME_MAX + 16];	/* dma-rehearsal-<name> */
	phys_addr_t start;
	u64 size;
	struct resource *claim;
	struct uio_info uio;
	bool uio_registered;
};

static struct dr_zone dr_zones[DR_MAX_ZONES];
static unsigned int dr_zone_count;

static const struct {
	const char *name;
	unsigned int mode;
} dr_uio_maps[] = {
	{ "wb", DMA_REHEARSAL_MODE_WB },
	{ "wt", DMA_REHEARSAL_MODE_WT },
	{ "wc", DMA_REHEARSAL_MODE_WC },
	{ "uc", DMA_REHEARSAL_MODE_UC },
};

static_assert(ARRAY_SIZE(dr_uio_maps) <= MAX_UIO_MAPS);

unsigned int dr_zones_count(void)
{
	return dr_zone_count;
}

/* Whether one zone holds all of [start, start + length); length above 0. */
bool dr_zones_hold(phys_addr_t start, u64 length)
{
	unsigned int i;

	for (i = 0; i < dr_zone_count; i++) {
		const struct dr_zone *zone = &dr_zones[i];

		if (start >= zone->start && start - zone->start < zone->size)
			return length && length <= zone->size - (start - zone->start);
	}
	return false;
}

/*
 * Map @vma onto the carve-out from @start with @mode. -ERANGE when no carve-out holds the
 * range; -EINVAL for a private mapping, too; other errors as dr_map().
 */
int dr_zones_map(struct vm_area_struct *vma, phys_addr_t start, unsigned int mode)
{
	if (!(vma->vm_flags & VM_SHARED))
		return -EINVAL;
	if (!dr_zones_hold(start, vma->vm_end - vma->vm_start))
		return -ERANGE;
	return dr_map(vma, start, mode);
}

#if LINUX_VERSION_CODE < KERNEL_VERSION(7, 1, 0)
static int dr_uio_mmap(struct uio_info *info, struct vm_area_struct *vma)
{
	struct dr_zone *zone = container_of(info, struct dr_zone, uio);

	/* vm_pgoff is the map's number, which UIO has checked. */
	return dr_zones_map(vma, zone->start, dr_uio_maps[vma->vm_pgoff].mode);
}

static void dr_uio_set_mmap(struct uio_info *info)
{
	info->mmap = dr_uio_mmap;
}
#else
static int dr_uio_prepare(struct uio_info *info, struct vm_area_desc *desc)
{
	struct dr_zone *zone = container_of(info, struct dr_zone, uio);

	if (!vma_desc_test(desc, VMA_SHARED_BIT))
		return -EINVAL;
	if (!dr_zones_hold(zone->start, vma_desc_size(desc)))
		return -ERANGE;
	return dr_prepare(desc, zone->start, dr_uio_maps[desc->pgoff].mode);
}

static void dr_uio_set_mmap(struct uio_info *info)
{
	info->mmap_prepare = dr_uio_prepare;
}
#endif

int dr_zones_register_uio(struct device *parent)
{
	unsigned int i, map;
	int ret;

	for (i = 0; i < dr_zone_count; i++) {
		struct dr_zone *zone = &dr_zones[i];
		struct uio_info *info = &zone->uio;

		info->name = zone->label;
		info->version = __stringify(DMA_REHEARSAL_VERSION);
		info->irq = UIO_IRQ_NONE;
		dr_uio_set_mmap(info);
		for (map = 0; map < ARRAY_SIZE(dr_uio_maps); map++) {
			info->mem[map].name = dr_uio_maps[map].name;
			info->mem[map].addr = zone->start;
			info->mem[map].size = zone->size;
			info->mem[map].memtype = UIO_MEM_PHYS;
		}
		ret = uio_register_device(parent, info);
		if (ret) {
			pr_err("%s: no UIO device (%d)\n", zone->name, ret);
			dr_zones_unregister_uio();
			return ret;
		}
		zone->uio_registered = true;
	}
	return 0;
}

void dr_zones_unregister_uio(void)
{
	unsigned int i;

	for (i = 0; i < dr_zone_count; i++) {
		if (dr_zones[i].uio_registered)
			uio_unregister_device(&dr_zones[i].uio);
		dr_zones[i].uio_registered = false;
	}
}

static int dr_add_up(struct resource *res, void *sum)
{
	*(u64 *)sum += resource_size(res);
	return 0;
}

/* Memory that the kernel manages, or a hole, must never be handed out. */
static int dr_check_reserved(const struct dr_zone *zone)
{
	u64 end = zone->start + zone->size - 1;
	u64 reserved = 0;

	if (region_intersects(zone->start, zone->size, IORESOURCE_SYSTEM_RAM,
			      IORES_DESC_NONE) != REGION_DISJOINT) {
		pr_err("carveouts: %s: %#llx-%#llx holds System RAM; reserve it with memmap=%#llx$%#llx on the kernel command line\n",
		       zone->name, (u64)zone->start, end, zone->size, (u64)zone->start);
		return -EBUSY;
	}
	walk_iomem_res_desc(IORES_DESC_RESERVED, IORESOURCE_MEM, zone->start,
			    end, &reserved, dr_add_up);
	if (reserved != zone->size) {
		pr_err("carveouts: %s: %#llx-%#llx: %#llx of %#llx bytes are Reserved in /proc/iomem; reserve all with memmap=%#llx$%#llx on the kernel command line\n",
		       zone->name, (u64)zone->start, end, reserved, zone->size,
		       zone->size, (u64)zone->start);
		return -ENXIO;
	}
	return 0;
}

static bool dr_name_ok(const char *name)
{
	if (!*name || strlen(name) >= DR_NAME_MAX)
		return false;
	for (; *name; name++)
		if (!islower(*name) && !isdigit(*name) && *name != '-')
			return false;
	return true;
}

/* Add one "name:start:size"; changes @text. */
static int dr_add_zone(char *text)
{
	struct dr_zone *zone;
	char *name = strsep(&text, ":");
	char *start = strsep(&text, ":");
	char *size = strsep(&text, ":");
	unsigned int i;
	u64 base, length;
	int ret;

	if (!start || !size || text || !dr_name_ok(name)) {
		pr_err("carveouts: \"%s\": want name:start:size, name of at most %d of [a-z0-9-]\n",
		       name, DR_NAME_MAX - 1);
		return -EINVAL;
	}
	if (kstrtou64(start, 0, &base) || kstrtou64(size, 0, &length)) {
		pr_err("carveouts: %s: \"%s\" and \"%s\" must be numbers\n", name, start, size);
		return -EINVAL;
	}
	if (!length || !PAGE_ALIGNED(base) || !PAGE_ALIGNED(length) ||
	    base + length - 1 < base || (base + length - 1) & ~__PHYSICAL_MASK) {
		pr_err("carveouts: %s: start %#llx and size %#llx must be whole pages below 2^%d, size not 0\n",
		       name, base, length, __PHYSICAL_MASK_SHIFT);
		return -EINVAL;
	}
	if (dr_zone_count == DR_MAX_ZONES) {
		pr_err("carveouts: %s: more than %d zones\n", name, DR_MAX_ZONES);
		return -EINVAL;
	}
	for (i = 0; i < dr_zone_count; i++) {
		zone = &dr_zones[i];
		if (!strcmp(zone->name, name) ||
		    (base <= zone->start + zone->size - 1 && zone->start <= base + length - 1)) {
			pr_err("carveouts: %s: same name as, or overlaps, %s\n", name, zone->name);
			return -EINVAL;
		}
	}

	zone = &dr_zones[dr_zone_count];
	strscpy(zone->name, name, sizeof(zone->name));
	snprintf(zone->label, sizeof(zone->label), "dma-rehearsal-%s", name);
	zone->start = base;
	zone->size = length;
	ret = dr_check_reserved(zone);
	if (ret)
		return ret;
	/* Busy from here on, so /dev/mem does not reach it (IO_STRICT_DEVMEM). */
	zone->claim = request_mem_region(base, length, zone->label);
	if (!zone->claim) {
		pr_err("carveouts: %s: %#llx-%#llx is in use; see /proc/iomem\n",
		       name, base, base + length - 1);
		return -EBUSY;
	}
	dr_zone_count++;
	pr_info("%s: %#llx-%#llx, %llu KiB\n", name, base, base + length - 1, length >> 10);
	return 0;
}

int dr_zones_init(const char *carveouts)
{
	char *copy, *rest, *item;
	int ret = 0;

	if (!*carveouts) {
		pr_info("no carve-outs were given\n");
		return 0;
	}
	copy = kstrdup(carveouts, GFP_KERNEL);
	if (!copy)
		return -ENOMEM;
	rest = strim(copy);
	while (!ret && (item = strsep(&rest, ",")))
		ret = dr_add_zone(item);
	kfree(copy);
	if (ret)
		dr_zones_exit();
	return ret;
}

void dr_zones_exit(void)
{
	while (dr_zone_count) {
		struct dr_zone *zone = &dr_zones[--dr_zone_count];

		release_mem_region(zone->start, zone->size);
	}
}
