/* SPDX-License-Identifier: GPL-2.0-only */
/* Differences of the network stack between kernels, from 6.1 on. */
#ifndef RING_COMPAT_NET_H
#define RING_COMPAT_NET_H

#include <linux/version.h>

#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 6, 0)
#include <net/page_pool/helpers.h>
#else
#include <net/page_pool.h>
#endif

#endif
