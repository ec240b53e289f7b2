/* SPDX-License-Identifier: GPL-2.0 */
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

/* dma_rehearsal_main.c */
extern bool dr_fault_wrong_cache;
extern bool dr_fault_wrong_entry;
extern bool dr_fault_pin_does_not_pin;
extern bool dr_fault_pin_never_ends;
extern bool dr_fault_aliases;
extern bool dr_fault_close_stops_nothing;
extern bool dr_fault_dead_pins_end;

/* dma_rehearsal_zone.c: the carve-outs and their UIO faces */
int dr_zones_init(const char *carveouts);
void dr_zones_exit(void);
unsigned int dr_zones_count(void);
bool dr_zones_hold(phys_addr_t start, u64 length);
int dr_zones_register_uio(struct device *parent);
void dr_zones_unregister_uio(void);

/* dma_rehearsal_misc.c: /dev/dma-rehearsal, and the one checked way to map */
int dr_misc_init(void);
void dr_misc_exit(void);
struct device *dr_misc_device(void);
int dr_mode_bits(unsigned int mode, pgprotval_t *bits);
int dr_map(struct vm_area_struct *vma, phys_addr_t start, unsigned int mode);
int dr_new_fd(const char *name, const struct file_operations *fops, void *private, bool write);

/* dma_rehearsal_kmap.c: the kernel's own mappings, for a copy or for longer */
long dr_copy(void __user *argument, bool write);
long dr_kmap(void __user *argument);
long dr_kmap_pin(struct dr_pin *pin);
bool dr_conflicts(phys_addr_t start, u64 length, pgprotval_t bits);

/* dma_rehearsal_pin.c: user memory that stays where it is */
long dr_pin(void __user *argument);
void dr_pin_get(struct dr_pin *pin);
void dr_pin_put(struct dr_pin *pin);
void dr_pin_closing(struct dr_pin *pin);
bool dr_pin_writable(const struct dr_pin *pin);
size_t dr_pin_length(const struct dr_pin *pin);
void *dr_pin_vmap(struct dr_pin *pin);

/* A time in which a function may do DMA: pins that a dead process left outlast it. */
struct dr_run {
	struct list_head list;
	u64 since;			/* of all such times, which one it is: from 1 on */
};

void dr_run_start(struct dr_run *run);
void dr_run_stop(struct dr_run *run);

/* dma_rehearsal_pci.c */
int dr_pci_init(void);
void dr_pci_exit(void);

#endif
