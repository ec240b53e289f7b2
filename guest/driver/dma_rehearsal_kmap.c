// SPDX-License-Identifier: GPL-2.0
/*
 * The kernel's own mappings, each with a stated cache mode: of a part of a
 * carve-out for the time of one copy, or of a carve-out or a pin for as long as
 * a file is open.
 *
 * As for user space (see dma_rehearsal_misc.c), a mapping is looked up in the page
 * table, and refused when it is not what was asked for.
 */
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "dma_rehearsal.h"

#define DR_WINDOW	SZ_64K	/* of a copy: what it takes of the kernel's address space */

struct dr_kmap {
	void __iomem *address;		/* of the first byte */
	size_t length;
	u32 mode;
	struct dr_pin *pin;		/* whose pages they are; NULL for a carve-out's */
};

/* Whether all of a mapping has just these bits, which are given as for a 4 KiB page. */
static bool dr_window_is(void __iomem *window, size_t length, pgprotval_t bits)
{
	unsigned long address = (unsigned long)window;
	unsigned long end = address + length;
	pgprotval_t found;
	unsigned int level;
	pte_t *pte;

	while (address < end) {
		pte = lookup_address(address, &level);
		if (!pte)
			return false;
		/* A large page has its PAT bit among those of the address. */
		if (level == PG_LEVEL_4K)
			found = pte_val(*pte) & _PAGE_CACHE_MASK;
		else
			found = protval_large_2_4k(pte_val(*pte) & _PAGE_LARGE_CACHE_MASK);
		if (found != bits)
			return false;
		address = (address & page_level_mask(level)) + page_level_size(level);
	}
	return true;
}

/* Whether whole pages can be mapped with just these bits, now. */
static bool dr_fits(phys_addr_t page, size_t length, pgprotval_t bits)
{
	void __iomem *window = ioremap_prot(page, length, bits);
	bool fits;

	if (!window)
		return false;
	fits = dr_window_is(window, length, bits);
	iounmap(window);
	return fits;
}

/*
 * Whether a page of the range is mapped with another mode than @bits: then these do
 * not fit, and others do. The kernel's own errors do not tell that from others.
 */
bool dr_conflicts(phys_addr_t start, u64 length, pgprotval_t bits)
{
	pgprotval_t other;
	unsigned int mode;
	u64 done;

	for (done = 0; done < length && !fatal_signal_pending(current); done += PAGE_SIZE) {
		if (dr_fits(start + done, PAGE_SIZE, bits))
			continue;
		for (mode = DMA_REHEARSAL_MODE_UC; mode <= DMA_REHEARSAL_MODE_WC; mode++)
			if (!dr_mode_bits(mode, &other) && other != bits &&
			    dr_fits(start + done, PAGE_SIZE, other))
				return true;
		cond_resched();
	}
	return false;
}

/* A mapping of whole pages with just these bits, or an error. */
static void __iomem *dr_window(phys_addr_t page, size_t length, pgprotval_t bits)
{
	void __iomem *window = ioremap_prot(page, length, bits);

	if (!window)
		return IOMEM_ERR_PTR(dr_conflicts(page, length, bits) ? -EBUSY : -ENOMEM);
	if (!dr_window_is(window, length, bits)) {
		iounmap(window);
		return IOMEM_ERR_PTR(-EBUSY);
	}
	return window;
}

/* Return how many bytes were copied; fewer than asked after a fault or a fatal signal. */
static size_t dr_copy_window(void __iomem *window, size_t length, void __user *user,
			     void *bounce, bool write)
{
	size_t done, part;

	for (done = 0; done < length && !fatal_signal_pending(current); done += part) {
		part = min_t(size_t, length - done, PAGE_SIZE);
		if (write) {
			if (copy_from_user(bounce, user + done, part))
				break;
			memcpy_toio(window + done, bounce, part);
		} else {
			memcpy_fromio(bounce, window + done, part);
			if (copy_to_user(user + done, bounce, part))
				break;
		}
		cond_resched();
	}
	return done;
}

static int dr_copy_error(void)
{
	return fatal_signal_pending(current) ? -EINTR : -EFAULT;
}

long dr_copy(void __user *argument, bool write)
{
	struct dma_rehearsal_copy copy;
	void __user *user;
	pgprotval_t bits;
	u64 done, part;
	void *bounce;
	long ret;

	if (copy_from_user(&copy, argument, sizeof(copy)))
		return -EFAULT;
	if (copy.reserved)
		return -EINVAL;
	if (!dr_zones_hold(copy.physical, copy.length))
		return -ERANGE;
	ret = dr_mode_bits(copy.mode, &bits);
	if (ret)
		return ret;
	user = u64_to_user_ptr(copy.user);
	bounce = kmalloc(PAGE_SIZE, GFP_KERNEL);
	if (!bounce)
		return -ENOMEM;

	for (done = 0; !ret && done < copy.length; done += part) {
		phys_addr_t at = copy.physical + done;
		size_t skip = offset_in_page(at);
		void __iomem *window;

		part = min_t(u64, copy.length - done, DR_WINDOW - skip);
		window = dr_window(at - skip, PAGE_ALIGN(skip + part), bits);
		if (IS_ERR(window)) {
			ret = PTR_ERR(window);
			break;
		}
		if (dr_copy_window(window + skip, part, user + done, bounce, write) < part)
			ret = dr_copy_error();
		iounmap(window);
	}
	kfree(bounce);
	return ret;
}

static ssize_t dr_kmap_access(struct dr_kmap *kmap, void __user *user, size_t count,
			      loff_t *position, bool write)
{
	void *bounce;
	size_t done;

	if (*position < 0)
		return -EINVAL;
	if (*position >= kmap->length)
		return write && count ? -ENOSPC : 0;
	count = min_t(u64, count, kmap->length - *position);
	if (!count)
		return 0;
	bounce = kmalloc(PAGE_SIZE, GFP_KERNEL);
	if (!bounce)
		return -ENOMEM;
	done = dr_copy_window(kmap->address + *position, count, user, bounce, write);
	kfree(bounce);
	*position += done;
	return done ? done : dr_copy_error();
}

static ssize_t dr_kmap_read(struct file *file, char __user *user, size_t count, loff_t *position)
{
	return dr_kmap_access(file->private_data, user, count, position, false);
}

static ssize_t dr_kmap_write(struct file *file, const char __user *user, size_t count,
			     loff_t *position)
{
	return dr_kmap_access(file->private_data, (char __user *)user, count, position, true);
}

static long dr_kmap_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	const struct dr_kmap *kmap = file->private_data;
	struct dma_rehearsal_kmap_info info = {
		.address = (unsigned long)kmap->address,
		/* With page-table isolation the user half is another table, behind this one. */
		.root = __pa(current->mm->pgd),
		.length = kmap->length,
		.levels = pgtable_l5_enabled() ? 5 : 4,
		.mode = kmap->mode,
	};

	if (command != DMA_REHEARSAL_KMAP_INFO)
		return -ENOTTY;
	return copy_to_user((void __user *)argument, &info, sizeof(info)) ? -EFAULT : 0;
}

static void dr_kmap_free(struct dr_kmap *kmap)
{
	void *page = (void *)((unsigned long)kmap->address & PAGE_MASK);

	if (kmap->pin) {
		vunmap(page);
		dr_pin_put(kmap->pin);
	} else {
		iounmap((void __iomem *)page);
	}
	kfree(kmap);
}

static int dr_kmap_flush(struct file *file, fl_owner_t owner)
{
	struct dr_kmap *kmap = file->private_data;

	if (kmap->pin)
		dr_pin_closing(kmap->pin);
	return 0;
}

static int dr_kmap_release(struct inode *inode, struct file *file)
{
	dr_kmap_free(file->private_data);
	return 0;
}

static const struct file_operations dr_kmap_fops = {
	.owner = THIS_MODULE,
	.read = dr_kmap_read,
	.write = dr_kmap_write,
	.unlocked_ioctl = dr_kmap_ioctl,
	.flush = dr_kmap_flush,
	.release = dr_kmap_release,
	.llseek = no_llseek,
};

static int dr_kmap_fd(struct dr_kmap *kmap, bool write)
{
	int fd = dr_new_fd("[dma-rehearsal-kmap]", &dr_kmap_fops, kmap, write);

	if (fd < 0)
		dr_kmap_free(kmap);
	return fd;
}

long dr_kmap(void __user *argument)
{
	struct dma_rehearsal_kmap request;
	struct dr_kmap *kmap;
	void __iomem *window;
	pgprotval_t bits;
	size_t skip;
	int ret;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.reserved)
		return -EINVAL;
	if (!dr_zones_hold(request.physical, request.length))
		return -ERANGE;
	ret = dr_mode_bits(request.mode, &bits);
	if (ret)
		return ret;
	kmap = kzalloc(sizeof(*kmap), GFP_KERNEL_ACCOUNT);
	if (!kmap)
		return -ENOMEM;
	skip = offset_in_page(request.physical);
	window = dr_window(request.physical - skip, PAGE_ALIGN(skip + request.length), bits);
	if (IS_ERR(window)) {
		kfree(kmap);
		return PTR_ERR(window);
	}
	kmap->address = window + skip;
	kmap->length = request.length;
	kmap->mode = request.mode;
	return dr_kmap_fd(kmap, true);
}

long dr_kmap_pin(struct dr_pin *pin)
{
	struct dr_kmap *kmap = kzalloc(sizeof(*kmap), GFP_KERNEL_ACCOUNT);
	void *address;

	if (!kmap)
		return -ENOMEM;
	address = dr_pin_vmap(pin);
	if (!address) {
		kfree(kmap);
		return -ENOMEM;
	}
	dr_pin_get(pin);
	kmap->address = (void __iomem *)address;
	kmap->length = dr_pin_length(pin);
	kmap->mode = DMA_REHEARSAL_MODE_WB;
	kmap->pin = pin;
	return dr_kmap_fd(kmap, dr_pin_writable(pin));
}
