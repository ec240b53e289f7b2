// SPDX-License-Identifier: GPL-2.0-only
/*
 * The kernel's own mappings, each with a stated cache mode: a part of a carve-out is
 * mapped for one copy, a carve-out or a pin for as long as a file is open.
 */
#include <linux/fs.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/sizes.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "dma_rehearsal.h"
#include "dma_rehearsal_compat.h"

#define DR_WINDOW	SZ_64K	/* of kernel address space that a copy takes */

struct dr_kmap {
	void __iomem *address;		/* of the first byte */
	size_t length;
	u32 mode;
	struct dr_pin *pin;		/* the owner of the pages; NULL for a carve-out */
};

/* Return the number of bytes copied: below @length after a fault or a fatal signal. */
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
			ret = dr_file_copy_error();
		iounmap(window);
	}
	kfree(bounce);
	return ret;
}

static ssize_t dr_kmap_access(struct dr_kmap *kmap, void __user *user, size_t count,
			      loff_t *position, bool write)
{
	ssize_t span = dr_file_span(kmap->length, count, *position, write);
	void *bounce;
	size_t done;

	if (span <= 0)
		return span;
	bounce = kmalloc(PAGE_SIZE, GFP_KERNEL);
	if (!bounce)
		return -ENOMEM;
	done = dr_copy_window(kmap->address + *position, span, user, bounce, write);
	kfree(bounce);
	*position += done;
	return done ? done : dr_file_copy_error();
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
		/* With page-table isolation the user half is another table, the page after this one. */
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
	.llseek = dr_no_llseek,
};

static int dr_kmap_fd(struct dr_kmap *kmap, bool write)
{
	int fd = dr_file_fd("[dma-rehearsal-kmap]", &dr_kmap_fops, kmap, write);

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
