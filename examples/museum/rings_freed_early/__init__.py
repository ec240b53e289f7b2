# SPDX-License-Identifier: Apache-2.0
"""The rings of a virtqueue are freed before the device lets go of them."""
