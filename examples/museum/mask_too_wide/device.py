# SPDX-License-Identifier: Apache-2.0
"""The device of the piece mask_too_wide."""

from examples.museum.engine import Engine


class Device(Engine):
    """1234:0dab, with 36 address lines."""

    def reach(self, address: int) -> int:
        """Return the address that the device drives for one that it was given."""
        return address & ((1 << 36) - 1)
