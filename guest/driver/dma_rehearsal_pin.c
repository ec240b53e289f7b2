// SPDX-License-Identifier: GPL-2.0-only
/*
 * Pins: pages of user memory that stay where they are, for DMA, until the last
 * close of a file. The kernel closes the files of a dead process, so no pin is lost.
 *
 * A process that closes a pin states by it that no DMA uses the pages. A process that
 * dies states nothing, and the kernel closes its files in any order. So its pins stay,
 * and their pages go back when every function that was open then has been stopped.
 */
#include <linux/err.h>
#include <linux/highmem.h>
#include <linux/io.h>
#include <linux/kref.h>
#include <linux/list.h>
#include <linux/mm.h>
#include <linux/sched.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/uaccess.h>
#include <linux/vmalloc.h>

#include "dma_rehearsal.h"

#define DR_PIN_CHUNK	512	/* pages that are pinned in one go */

struct dr_pin {
	struct kref kref;		/* one for its file, one for each kernel mapping */
	struct mm_struct *mm;		/* its RLIMIT_MEMLOCK bounds the pages */
	struct page **pages;
	unsigned long count;		/* of pages */
	size_t length;			/* bytes */
	u32 offset;			/* of the first byte in the first page */
	u32 flags;
	bool unpinned;			/* by a fault, right after it was made */
	bool left;			/* by a process that died without closing it */
	u64 left_at;			/* dr_starts at that time */
	struct list_head list;		/* in dr_left */
};

static DEFINE_SPINLOCK(dr_left_lock);	/* guards the next three */
static LIST_HEAD(dr_left);
static LIST_HEAD(dr_running);		/* struct dr_run, the oldest first */
static u64 dr_starts;

/* A device would change a file's page without the file system's write-back knowing. */
static bool dr_page_may_be_pinned(struct page *page)
{
	struct folio *folio = page_folio(page);

	return folio_test_anon(folio) || folio_test_swapbacked(folio) ||
	       folio_test_hugetlb(folio);
}

/*
 * Newer kernels refuse to pin a page of such a file for writing, with the error of a page
 * that is not there. A pin for reading tells the two apart.
 */
static bool dr_file_may_be_written(unsigned long address)
{
	struct vm_area_struct *vma;
	struct page *page;
	bool writable, may;

	mmap_read_lock(current->mm);
	vma = find_vma(current->mm, address);
	writable = vma && vma->vm_start <= address && vma->vm_flags & VM_WRITE;
	mmap_read_unlock(current->mm);
	if (!writable || pin_user_pages_fast(address, 1, FOLL_LONGTERM, &page) != 1)
		return true;
	may = dr_page_may_be_pinned(page);
	unpin_user_page(page);
	return may;
}

/*
 * Even without write permission a page is pinned as if for writing. Copy-on-write memory
 * is then copied now; otherwise the caller's next store would give the caller another
 * page than the device has. A shared mapping cannot be forced, and needs no force.
 * Return how many pages were pinned, above 0, or an error.
 */
static int dr_pin_some(unsigned long start, int count, bool write, struct page **pages)
{
	unsigned int flags = FOLL_LONGTERM | FOLL_WRITE | (write ? 0 : FOLL_FORCE);
	int got = pin_user_pages_fast(start, count, flags, pages);

	/* Only the page that could not be forced: the next one may be in another mapping. */
	if (got == -EFAULT && !write)
		got = pin_user_pages_fast(start, 1, FOLL_LONGTERM, pages);
	else if (got == -EFAULT && !dr_file_may_be_written(start))
		got = -EOPNOTSUPP;
	return got ? got : -EFAULT;
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
	pin->unpinned = dr_fault(DR_FAULT_PIN_DOES_NOT_PIN);
	if (pin->unpinned)
		unpin_user_pages(pin->pages, done);
	return 0;
}

static void dr_pin_end(struct dr_pin *pin)
{
	if (!pin->unpinned && !dr_fault(DR_FAULT_PIN_NEVER_ENDS))
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

	/* A kernel thread closes a last descriptor that was in flight through a socket. */
	if (READ_ONCE(pin->left) || current->flags & (PF_EXITING | PF_KTHREAD)) {
		spin_lock(&dr_left_lock);
		wait = !list_empty(&dr_running) && !dr_fault(DR_FAULT_DEAD_PINS_END);
		if (wait) {
			pin->left_at = dr_starts;
			list_add_tail(&pin->list, &dr_left);
		}
		spin_unlock(&dr_left_lock);
	}
	if (!wait)
		dr_pin_end(pin);
}

/* One of its files is being closed: by a call, at the end of a process, or at an execve. */
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

/* It does no more DMA. Pins left meanwhile end, unless another function may use them. */
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

void dr_pin_info(const struct dr_pin *pin, struct dma_rehearsal_pin_info *info)
{
	*info = (struct dma_rehearsal_pin_info) {
		.pages = pin->count,
		.length = pin->length,
		.offset = pin->offset,
		.flags = pin->flags,
	};
}

/* The physical address of a page; @index is below the count of pages. */
phys_addr_t dr_pin_page(const struct dr_pin *pin, unsigned long index)
{
	return page_to_phys(pin->pages[index]);
}

/* The first byte's address in a new kernel mapping of all pages, or NULL; vunmap() its page. */
void *dr_pin_vmap(struct dr_pin *pin)
{
	void *address = vmap(pin->pages, pin->count, VM_MAP,
			     dr_pin_writable(pin) ? PAGE_KERNEL : PAGE_KERNEL_RO);

	return address ? address + pin->offset : NULL;
}

/* Read or write from *@position on, and move it; return the bytes copied, or an error. */
ssize_t dr_pin_copy(struct dr_pin *pin, char __user *user, size_t count, loff_t *position,
		    bool write)
{
	ssize_t span = dr_file_span(pin->length, count, *position, write);
	size_t done, part;

	if (span <= 0)
		return span;
	for (done = 0; done < span && !fatal_signal_pending(current); done += part) {
		size_t at = pin->offset + *position + done;
		size_t skip = offset_in_page(at);
		unsigned long left;
		char *page;

		part = min_t(size_t, span - done, PAGE_SIZE - skip);
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
	return done ? done : dr_file_copy_error();
}

/* Pin the caller's pages for a request whose fields are in range; or an error. */
struct dr_pin *dr_pin_new(const struct dma_rehearsal_pin *request)
{
	u64 last = request->address + request->length - 1;
	struct dr_pin *pin;
	int ret;

	pin = kzalloc(sizeof(*pin), GFP_KERNEL_ACCOUNT);
	if (!pin)
		return ERR_PTR(-ENOMEM);
	kref_init(&pin->kref);
	pin->count = (last >> PAGE_SHIFT) - (request->address >> PAGE_SHIFT) + 1;
	pin->length = request->length;
	pin->offset = offset_in_page(request->address);
	pin->flags = request->flags;
	pin->mm = current->mm;
	ret = account_locked_vm(pin->mm, pin->count, true);
	if (ret)
		goto err_free;
	pin->pages = kvmalloc_array(pin->count, sizeof(*pin->pages), GFP_KERNEL_ACCOUNT);
	if (!pin->pages) {
		ret = -ENOMEM;
		goto err_account;
	}
	ret = dr_pin_pages(pin, request->address & PAGE_MASK);
	if (ret)
		goto err_pages;
	mmgrab(pin->mm);
	return pin;

err_pages:
	kvfree(pin->pages);
err_account:
	account_locked_vm(pin->mm, pin->count, false);
err_free:
	kfree(pin);
	return ERR_PTR(ret);
}
