# SPDX-License-Identifier: Apache-2.0
"""The one thing that all drivers of the museum do: bytes go to the device, and come back."""

import os

import pytest

SIZES = (4096, 100, 20_000)  # bytes


@pytest.fixture
def round_trip(data):
    """Return a function that sends bytes to the device's memory, and compares what comes back."""

    def go() -> None:
        wrong = []
        file = os.open("/dev/museum", os.O_RDWR)
        try:
            for number, size in enumerate(SIZES):
                content, place = data.take(size), number * 32_768
                assert os.pwrite(file, content, place) == size
                if (came := os.pread(file, size, place)) != content:
                    at = next(
                        i for i, byte in enumerate(content) if came[i : i + 1] != bytes([byte])
                    )
                    wrong.append(f"{size} bytes came back otherwise, from byte {at} on")
        finally:
            os.close(file)
        assert not wrong, "; ".join(wrong)

    return go
