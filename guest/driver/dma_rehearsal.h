/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The module's layers, lowest first, in the order of Kbuild. A file calls those above
 * its section here, never one below. A test checks that.
 */
#ifndef DMA_REHEARSAL_H
#define DMA_REHEARSAL_H

#include <linux/list.h>
#include <linux/mm_types.h>
#include <linux/pgtable.h>
#include <linux/types.h>

#include "dma_rehearsal_uapi.h"

struct device;
struct dr_pin;
struct file_operations;
struct vm_area_desc;

/* dma_rehearsal_fault.c: promises that are broken on purpose */
enum dr_fault {
	DR_FAULT_NONE,
	DR_FAULT_WRONG_CACHE,
	DR_FAULT_WRONG_ENTRY,
	DR_FAULT_PIN_DOES_NOT_PIN,
	DR_FAULT_PIN_NEVER_ENDS,
	DR_FAULT_CLOSE_STOPS_NOTHING,
	DR_FAULT_DEAD_PINS_END,
	DR_FAULT_ALIASES,
};

bool dr_fault(enum dr_fault fault);

/* dma_rehearsal_file.c: files that give access to a piece of memory */
int dr_file_fd(const char *name, const struct file_operations *fops, void *private, bool write);
ssize_t dr_file_span(size_t length, size_t count, loff_t position, bool write);
int dr_file_copy_error(void);

/* dma_rehearsal_cache.c: cache modes, and kernel mappings with them */
int dr_mode_bits(unsigned int mode, pgprotval_t *bits);
bool dr_conflicts(phys_addr_t start, u64 length, pgprotval_t bits);
void __iomem *dr_window(phys_addr_t page, size_t length, pgprotval_t bits);

/* dma_rehearsal_map.c: user mappings with a cache mode */
u64 dr_entry(struct mm_struct *mm, unsigned long address, u32 *level);
int dr_map(struct vm_area_struct *vma, phys_addr_t start, unsigned int mode);
int dr_prepare(struct vm_area_desc *desc, phys_addr_t start, unsigned int mode);

/* dma_rehearsal_zone.c: the carve-outs and their UIO devices */
int dr_zones_init(const char *carveouts);
void dr_zones_exit(void);
unsigned int dr_zones_count(void);
bool dr_zones_hold(phys_addr_t start, u64 length);
int dr_zones_map(struct vm_area_struct *vma, phys_addr_t start, unsigned int mode);
int dr_zones_register_uio(struct device *parent);
void dr_zones_unregister_uio(void);

/* dma_rehearsal_pin.c: user memory that stays where it is */
struct dr_pin *dr_pin_new(const struct dma_rehearsal_pin *request);
void dr_pin_get(struct dr_pin *pin);
void dr_pin_put(struct dr_pin *pin);
void dr_pin_closing(struct dr_pin *pin);
bool dr_pin_writable(const struct dr_pin *pin);
size_t dr_pin_length(const struct dr_pin *pin);
void dr_pin_info(const struct dr_pin *pin, struct dma_rehearsal_pin_info *info);
phys_addr_t dr_pin_page(const struct dr_pin *pin, unsigned long index);
void *dr_pin_vmap(struct dr_pin *pin);
ssize_t dr_pin_copy(struct dr_pin *pin, char __user *user, size_t count, loff_t *position,
		    bool write);

/* A time in which a function may do DMA. Pins that a dead process left outlast it. */
struct dr_run {
	struct list_head list;
	u64 since;			/* its number among all such times, from 1 on */
};

void dr_run_start(struct dr_run *run);
void dr_run_stop(struct dr_run *run);

/* dma_rehearsal_kmap.c: the kernel's own mappings, for one copy or until a close */
long dr_copy(void __user *argument, bool write);
long dr_kmap(void __user *argument);
long dr_kmap_pin(struct dr_pin *pin);

/* dma_rehearsal_pin_file.c: the file that the PIN ioctl returns */
long dr_pin(void __user *argument);

/* dma_rehearsal_misc.c: /dev/dma-rehearsal */
int dr_misc_init(void);
void dr_misc_exit(void);
struct device *dr_misc_device(void);

/* dma_rehearsal_pci.c: /dev/dma-rehearsal-pciN */
int dr_pci_init(void);
void dr_pci_exit(void);

#endif
