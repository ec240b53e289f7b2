// SPDX-License-Identifier: GPL-2.0-only
/*
 * The file that the PIN ioctl returns: its reads and writes reach the pinned bytes, its
 * ioctls report the pages or map them into the kernel, its last close ends the pin.
 */
#include <linux/err.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/overflow.h>
#include <linux/sched.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "dma_rehearsal.h"
#include "dma_rehearsal_compat.h"

#define DR_REPORT_CHUNK	512	/* pages that are reported in one go */

static ssize_t dr_pin_read(struct file *file, char __user *user, size_t count, loff_t *position)
{
	return dr_pin_copy(file->private_data, user, count, position, false);
}

static ssize_t dr_pin_write(struct file *file, const char __user *user, size_t count,
			    loff_t *position)
{
	return dr_pin_copy(file->private_data, (char __user *)user, count, position, true);
}

static long dr_pin_report_info(const struct dr_pin *pin, void __user *user)
{
	struct dma_rehearsal_pin_info info;

	dr_pin_info(pin, &info);
	return copy_to_user(user, &info, sizeof(info)) ? -EFAULT : 0;
}

static long dr_pin_report_pages(const struct dr_pin *pin, void __user *argument)
{
	struct dma_rehearsal_pin_pages request;
	struct dma_rehearsal_pin_info info;
	unsigned long count, done, part, i;
	u64 *addresses;
	u64 __user *user;
	long ret = 0;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	dr_pin_info(pin, &info);
	if (request.reserved || request.first > info.pages)
		return -EINVAL;
	count = min_t(u64, request.count, info.pages - request.first);
	user = u64_to_user_ptr(request.user);
	addresses = kmalloc_array(DR_REPORT_CHUNK, sizeof(*addresses), GFP_KERNEL);
	if (!addresses)
		return -ENOMEM;
	for (done = 0; done < count; done += part) {
		part = min_t(unsigned long, count - done, DR_REPORT_CHUNK);
		for (i = 0; i < part; i++)
			addresses[i] = dr_pin_page(pin, request.first + done + i);
		if (copy_to_user(user + done, addresses, part * sizeof(*addresses))) {
			ret = -EFAULT;
			break;
		}
		cond_resched();
	}
	kfree(addresses);
	return ret ? ret : count;
}

static long dr_pin_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct dr_pin *pin = file->private_data;
	void __user *user = (void __user *)argument;

	switch (command) {
	case DMA_REHEARSAL_PIN_INFO:
		return dr_pin_report_info(pin, user);
	case DMA_REHEARSAL_PIN_PAGES:
		return dr_pin_report_pages(pin, user);
	case DMA_REHEARSAL_PIN_KMAP:
		return dr_kmap_pin(pin);
	default:
		return -ENOTTY;
	}
}

static int dr_pin_flush(struct file *file, fl_owner_t owner)
{
	dr_pin_closing(file->private_data);
	return 0;
}

static int dr_pin_release(struct inode *inode, struct file *file)
{
	dr_pin_put(file->private_data);
	return 0;
}

static const struct file_operations dr_pin_fops = {
	.owner = THIS_MODULE,
	.read = dr_pin_read,
	.write = dr_pin_write,
	.unlocked_ioctl = dr_pin_ioctl,
	.flush = dr_pin_flush,
	.release = dr_pin_release,
	.llseek = dr_no_llseek,
};

long dr_pin(void __user *argument)
{
	struct dma_rehearsal_pin request;
	struct dr_pin *pin;
	u64 last;
	int fd;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.reserved || request.flags & ~DMA_REHEARSAL_PIN_WRITE || !request.length ||
	    check_add_overflow(request.address, request.length - 1, &last))
		return -EINVAL;
	if (request.length > DMA_REHEARSAL_PIN_MAX)
		return -E2BIG;
	pin = dr_pin_new(&request);
	if (IS_ERR(pin))
		return PTR_ERR(pin);
	fd = dr_file_fd("[dma-rehearsal-pin]", &dr_pin_fops, pin, dr_pin_writable(pin));
	if (fd < 0)
		dr_pin_put(pin);
	return fd;
}
