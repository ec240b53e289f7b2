/* SPDX-License-Identifier: GPL-2.0 */
#ifndef DMA_REHEARSAL_H
#define DMA_REHEARSAL_H

#include <linux/mm_types.h>
#include <linux/types.h>

#include "dma_rehearsal_uapi.h"

struct device;

/* dma_rehearsal_main.c */
extern bool dr_fault_wrong_cache;

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
int dr_map(struct vm_area_struct *vma, phys_addr_t start, unsigned int mode);

/* dma_rehearsal_pci.c */
int dr_pci_init(void);
void dr_pci_exit(void);

#endif
