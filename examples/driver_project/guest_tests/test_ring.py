# SPDX-License-Identifier: Apache-2.0
"""Does the ring's memory have what the driver needs, as the device sees it?"""

from __future__ import annotations

import pytest
import ring

from dma_rehearsal.guest.iobuffer import kIODirectionIn, kIODirectionOut, kIOMapWriteCombineCache


@pytest.mark.promise("kIOMapWriteCombineCache")
def test_ring_is_write_combined_and_aligned(bench, buffer, attest):
    size = ring.ENTRIES * ring.DESCRIPTOR.size
    memory = buffer(kIODirectionOut | kIOMapWriteCombineCache, size, alignment=65536)
    entries = b"".join(ring.entry(0x1000 * n, 1500, n) for n in range(ring.ENTRIES))
    bench.device_reads(memory, entries)  # fails unless the device saw just these bytes
    attest.alignment(memory, 65536)
    attest.cache(memory)


@pytest.mark.promise("kIODirectionIn")
def test_packets_arrive_whole(bench, buffer, data, attest):
    packet = buffer(kIODirectionIn, 1514)
    bench.device_writes(packet, data.take(1514))
    attest.direction(packet)
