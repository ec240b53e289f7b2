# SPDX-License-Identifier: Apache-2.0
"""Everything that a VM boots from, made once and cached: QEMU, kernel, driver, initramfs."""
