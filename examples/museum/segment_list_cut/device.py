# SPDX-License-Identifier: Apache-2.0
"""The device of the piece segment_list_cut."""

from examples.museum.engine import Engine


class Device(Engine):
    """1234:0dab, as the engine is."""
