# SPDX-License-Identifier: Apache-2.0
"""The device of the piece lost_carry."""

from examples.museum.engine import Engine


class Device(Engine):
    """1234:0dab, as the engine is."""
