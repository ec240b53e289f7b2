# SPDX-License-Identifier: Apache-2.0
"""A museum of DMA mistakes that were really made: each with its driver, its device and its test."""
