# SPDX-License-Identifier: Apache-2.0
"""A virtio block device, for the virtio driver of the guest's own kernel."""
