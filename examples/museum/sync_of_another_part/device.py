# SPDX-License-Identifier: Apache-2.0
"""The device of the piece sync_of_another_part."""

from examples.museum.engine import Engine


class Device(Engine):
    """1234:0dab, as the engine is."""
