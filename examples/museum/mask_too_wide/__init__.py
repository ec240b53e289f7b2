# SPDX-License-Identifier: Apache-2.0
"""The mask has more bits than the device drives."""
