# SPDX-License-Identifier: Apache-2.0
"""The kernel's interfaces: the driver's files, mmap, pins, sockets, sysfs."""
