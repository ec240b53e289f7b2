# SPDX-License-Identifier: Apache-2.0
"""The device gets a physical address."""
