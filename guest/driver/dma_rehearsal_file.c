// SPDX-License-Identifier: GPL-2.0-only
/*
 * Files that give access to a piece of memory: user space reads and writes it at
 * offsets, and the last close gives it back.
 */
#include <linux/anon_inodes.h>
#include <linux/err.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/kernel.h>
#include <linux/sched/signal.h>

#include "dma_rehearsal.h"

/*
 * Return a new descriptor (O_CLOEXEC) of a file that owns @private from now on, and
 * that is writable with @write. On an error the caller still owns @private.
 */
int dr_file_fd(const char *name, const struct file_operations *fops, void *private, bool write)
{
	struct file *file;
	int fd;

	fd = get_unused_fd_flags(O_CLOEXEC);
	if (fd < 0)
		return fd;
	file = anon_inode_getfile(name, fops, private, write ? O_RDWR : O_RDONLY);
	if (IS_ERR(file)) {
		put_unused_fd(fd);
		return PTR_ERR(file);
	}
	file->f_mode |= FMODE_PREAD | FMODE_PWRITE;
	fd_install(fd, file);
	return fd;
}

/*
 * Return how many of @count bytes at @position lie inside a file of @length bytes.
 * -EINVAL for a negative position, -ENOSPC for a write at the end or past it.
 */
ssize_t dr_file_span(size_t length, size_t count, loff_t position, bool write)
{
	if (position < 0)
		return -EINVAL;
	if (position >= length)
		return write && count ? -ENOSPC : 0;
	return min_t(u64, count, length - position);
}

/* Return the error of a copy that stopped early: a fatal signal, or a fault. */
int dr_file_copy_error(void)
{
	return fatal_signal_pending(current) ? -EINTR : -EFAULT;
}
