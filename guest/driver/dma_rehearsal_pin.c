// SPDX-License-Identifier: GPL-2.0
/*
 * Pins: pages of user memory that stay where they are, for DMA, until the last
 * close of a file. The kernel closes a dead process's files, so none is lost.
 *
 * Who closes a pin says with it that no DMA uses the pages. A process that dies
 * says nothing, and its files are closed in any order: so its pins are left, and
 * their pages go back when every function that was open then has been stopped.
 */
#include <linux/fs.h>
#include <linux/highmem.h>
#include <linux/io.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/overflow.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "dma_rehearsal.h"

#define DR_PIN_CHUNK	512	/* pages that are pinned, or told, in one go */

struct dr_pin {
	struct kref kref;		/* its file's, and one for each kernel mapping */
	struct mm_struct *mm;		/* whose RLIMIT_MEMLOCK it counts against */
	struct page **pages;
	unsigned long count;		/* of pages */
	size_t length;			/* bytes */
	u32 offset;			/* of the first byte in the first page */
	u32 flags;
	bool unpinned;			/* by a fault, as soon as it was made */
	bool left;			/* by a process that died, and did not close it */
	u64 left_at;			/* dr_starts by then */
	struct list_head list;		/* of dr_left */
};

static DEFINE_SPINLOCK(dr_left_lock);	/* what follows */
static LIST_HEAD(dr_left);
static LIST_HEAD(dr_running);		/* struct dr_run, the oldest first */
static u64 dr_starts;

/*
 * Without write permission a page is pinned as if for writing nevertheless, so that
 * what is copied on write is copied now: else the caller's next store would give it
 * another page than the device has. A shared mapping cannot be forced so, and need not.
 * Return how many were pinned, above 0, or an error.
 */
static int dr_pin_some(unsigned long start, int count, bool write, struct page **pages)
{
	unsigned int flags = FOLL_LONGTERM | FOLL_WRITE | (write ? 0 : FOLL_FORCE);
	int got = pin_user_pages_fast(start, count, flags, pages);

	/* Only the one page that could not be forced: behind it another mapping may begin. */
	if (got == -EFAULT && !write)
		got = pin_user_pages_fast(start, 1, FOLL_LONGTERM, pages);
	return got ? got : -EFAULT;
}

/* Write-back of a file would find its page changed by a device, behind its back. */
static bool dr_page_may_be_pinned(struct page *page)
{
	return PageAnon(page) || PageSwapBacked(page) || PageHuge(page);
}

static void dr_unpin(struct page **pages, unsigned long count, u32 flags)
{
	unpin_user_pages_dirty_lock(pages, count, flags & DMA_REHEARSAL_PIN_WRITE);
}

static int dr_pin_pages(struct dr_pin *pin, unsigned long start)
{
	bool write = pin->flags & DMA_REHEARSAL_PIN_WRITE;
	unsigned long done = 0, i;
	int got = 0;

	while (done < pin->count) {
		if (fatal_signal_pending(current)) {
			got = -EINTR;
			break;
		}
		got = dr_pin_some(start + done * PAGE_SIZE,
				  min_t(unsigned long, pin->count - done, DR_PIN_CHUNK), write,
				  pin->pages + done);
		if (got < 0)
			break;
		done += got;
		for (i = done - got; i < done; i++)
			if (!dr_page_may_be_pinned(pin->pages[i]))
				got = -EOPNOTSUPP;
		if (got < 0)
			break;
		cond_resched();
	}
	if (got < 0) {
		unpin_user_pages(pin->pages, done);
		return got;
	}
	pin->unpinned = READ_ONCE(dr_fault_pin_does_not_pin);
	if (pin->unpinned)
		unpin_user_pages(pin->pages, done);
	return 0;
}

static void dr_pin_end(struct dr_pin *pin)
{
	if (!pin->unpinned && !dr_fault_pin_never_ends)
		dr_unpin(pin->pages, pin->count, pin->flags);
	account_locked_vm(pin->mm, pin->count, false);
	mmdrop(pin->mm);
	kvfree(pin->pages);
	kfree(pin);
}

static void dr_pin_free(struct kref *kref)
{
	struct dr_pin *pin = container_of(kref, struct dr_pin, kref);
	bool wait = false;

	/* A kernel thread: the last descriptor was on its way through a socket. */
	if (READ_ONCE(pin->left) || current->flags & (PF_EXITING | PF_KTHREAD)) {
		spin_lock(&dr_left_lock);
		wait = !list_empty(&dr_running) && !dr_fault_dead_pins_end;
		if (wait) {
			pin->left_at = dr_starts;
			list_add_tail(&pin->list, &dr_left);
		}
		spin_unlock(&dr_left_lock);
	}
	if (!wait)
		dr_pin_end(pin);
}

/* One of its files is being closed: by a call, or by the end of a process or its program. */
void dr_pin_closing(struct dr_pin *pin)
{
	WRITE_ONCE(pin->left, current->flags & PF_EXITING || current->in_execve);
}

/* A function may do DMA from here on. */
void dr_run_start(struct dr_run *run)
{
	spin_lock(&dr_left_lock);
	run->since = ++dr_starts;
	list_add_tail(&run->list, &dr_running);
	spin_unlock(&dr_left_lock);
}

/* It does no more. What was left while it did goes back, unless another one still may. */
void dr_run_stop(struct dr_run *run)
{
	struct dr_pin *pin, *next;
	struct dr_run *oldest;
	LIST_HEAD(ended);

	spin_lock(&dr_left_lock);
	list_del(&run->list);
	oldest = list_first_entry_or_null(&dr_running, struct dr_run, list);
	list_for_each_entry_safe(pin, next, &dr_left, list)
		if (!oldest || pin->left_at < oldest->since)
			list_move_tail(&pin->list, &ended);
	spin_unlock(&dr_left_lock);
	list_for_each_entry_safe(pin, next, &ended, list)
		dr_pin_end(pin);
}

void dr_pin_get(struct dr_pin *pin)
{
	kref_get(&pin->kref);
}

void dr_pin_put(struct dr_pin *pin)
{
	kref_put(&pin->kref, dr_pin_free);
}

bool dr_pin_writable(const struct dr_pin *pin)
{
	return pin->flags & DMA_REHEARSAL_PIN_WRITE;
}

size_t dr_pin_length(const struct dr_pin *pin)
{
	return pin->length;
}

/* Where the first byte is in a kernel mapping of all pages, or NULL; vunmap() the page. */
void *dr_pin_vmap(struct dr_pin *pin)
{
	void *address = vmap(pin->pages, pin->count, VM_MAP,
			     dr_pin_writable(pin) ? PAGE_KERNEL : PAGE_KERNEL_RO);

	return address ? address + pin->offset : NULL;
}

static ssize_t dr_pin_access(struct dr_pin *pin, char __user *user, size_t count,
			     loff_t *position, bool write)
{
	size_t done, part;

	if (*position < 0)
		return -EINVAL;
	if (*position >= pin->length)
		return write && count ? -ENOSPC : 0;
	count = min_t(u64, count, pin->length - *position);
	for (done = 0; done < count && !fatal_signal_pending(current); done += part) {
		size_t at = pin->offset + *position + done;
		size_t skip = offset_in_page(at);
		unsigned long left;
		char *page;

		part = min_t(size_t, count - done, PAGE_SIZE - skip);
		page = kmap_local_page(pin->pages[at >> PAGE_SHIFT]);
		if (write)
			left = copy_from_user(page + skip, user + done, part);
		else
			left = copy_to_user(user + done, page + skip, part);
		kunmap_local(page);
		if (left)
			break;
		cond_resched();
	}
	*position += done;
	if (done || !count)
		return done;
	return fatal_signal_pending(current) ? -EINTR : -EFAULT;
}

static ssize_t dr_pin_read(struct file *file, char __user *user, size_t count, loff_t *position)
{
	return dr_pin_access(file->private_data, user, count, position, false);
}

static ssize_t dr_pin_write(struct file *file, const char __user *user, size_t count,
			    loff_t *position)
{
	return dr_pin_access(file->private_data, (char __user *)user, count, position, true);
}

static long dr_pin_info(const struct dr_pin *pin, void __user *user)
{
	struct dma_rehearsal_pin_info info = {
		.pages = pin->count,
		.length = pin->length,
		.offset = pin->offset,
		.flags = pin->flags,
	};

	return copy_to_user(user, &info, sizeof(info)) ? -EFAULT : 0;
}

static long dr_pin_tell(const struct dr_pin *pin, void __user *argument)
{
	struct dma_rehearsal_pin_pages request;
	unsigned long count, done, part, i;
	u64 __user *user;
	long ret = 0;
	u64 *told;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.reserved || request.first > pin->count)
		return -EINVAL;
	count = min_t(u64, request.count, pin->count - request.first);
	user = u64_to_user_ptr(request.user);
	told = kmalloc_array(DR_PIN_CHUNK, sizeof(*told), GFP_KERNEL);
	if (!told)
		return -ENOMEM;
	for (done = 0; done < count; done += part) {
		part = min_t(unsigned long, count - done, DR_PIN_CHUNK);
		for (i = 0; i < part; i++)
			told[i] = page_to_phys(pin->pages[request.first + done + i]);
		if (copy_to_user(user + done, told, part * sizeof(*told))) {
			ret = -EFAULT;
			break;
		}
		cond_resched();
	}
	kfree(told);
	return ret ? ret : count;
}

static long dr_pin_ioctl(struct file *file, unsigned int command, unsigned long argument)
{
	struct dr_pin *pin = file->private_data;
	void __user *user = (void __user *)argument;

	switch (command) {
	case DMA_REHEARSAL_PIN_INFO:
		return dr_pin_info(pin, user);
	case DMA_REHEARSAL_PIN_PAGES:
		return dr_pin_tell(pin, user);
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
	.llseek = no_llseek,
};

long dr_pin(void __user *argument)
{
	struct dma_rehearsal_pin request;
	struct dr_pin *pin;
	u64 last;
	int ret;

	if (copy_from_user(&request, argument, sizeof(request)))
		return -EFAULT;
	if (request.reserved || request.flags & ~DMA_REHEARSAL_PIN_WRITE || !request.length ||
	    check_add_overflow(request.address, request.length - 1, &last))
		return -EINVAL;
	if (request.length > DMA_REHEARSAL_PIN_MAX)
		return -E2BIG;

	pin = kzalloc(sizeof(*pin), GFP_KERNEL_ACCOUNT);
	if (!pin)
		return -ENOMEM;
	kref_init(&pin->kref);
	pin->count = (last >> PAGE_SHIFT) - (request.address >> PAGE_SHIFT) + 1;
	pin->length = request.length;
	pin->offset = offset_in_page(request.address);
	pin->flags = request.flags;
	pin->mm = current->mm;
	ret = account_locked_vm(pin->mm, pin->count, true);
	if (ret)
		goto err_free;
	pin->pages = kvmalloc_array(pin->count, sizeof(*pin->pages), GFP_KERNEL_ACCOUNT);
	if (!pin->pages) {
		ret = -ENOMEM;
		goto err_account;
	}
	ret = dr_pin_pages(pin, request.address & PAGE_MASK);
	if (ret)
		goto err_pages;
	mmgrab(pin->mm);
	ret = dr_new_fd("[dma-rehearsal-pin]", &dr_pin_fops, pin, dr_pin_writable(pin));
	if (ret < 0)
		dr_pin_put(pin);
	return ret;

err_pages:
	kvfree(pin->pages);
err_account:
	account_locked_vm(pin->mm, pin->count, false);
err_free:
	kfree(pin);
	return ret;
}
