# SPDX-License-Identifier: Apache-2.0
"""One VM: the device process, QEMU, and the connections to both."""
