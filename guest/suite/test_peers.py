# SPDX-License-Identifier: Apache-2.0
"""Two exercisers of one process reach each other's data buffers, and not each other's registers."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from dma_rehearsal.device.layout import DmaReason, ExerciserBar
from dma_rehearsal.guest.drivers.exerciser import Exerciser, find
from dma_rehearsal.guest.testkit import Attest, DmaChecker, Patterns, difference

pytestmark = [pytest.mark.unprotected, pytest.mark.promise("peer memory")]
LENGTH = 1024


@pytest.fixture(scope="module")
def peer() -> Iterator[Exerciser]:
    """The second exerciser. Without bus mastering of its own, its BARs can still be accessed."""
    with Exerciser(find(1)) as opened:
        yield opened


def test_dma_to_and_from_a_peers_buffer(
    bench: DmaChecker, peer: Exerciser, data: Patterns, attest: Attest
) -> None:
    """The CPU finds in the peer's BAR what was written there, and it comes back as it was."""
    sent, other = data.take(LENGTH), data.take(LENGTH)
    place = peer.pci.bar_address(ExerciserBar.BUFFER)
    due = bench.limits.refusal((place, LENGTH))
    before, count = bytes(peer.buffer[:LENGTH]), peer.dma_count
    bench.load(sent)
    to_peer = bench.refused_dma(due, place, LENGTH, write_memory=True)
    reached = bytes(peer.buffer[:LENGTH])
    bench.load(other)
    back = bench.refused_dma(due, place, LENGTH, write_memory=False)
    wrong = difference(before if due else sent, reached)
    wrong = wrong or difference(other if due else sent, bench.stored(LENGTH))
    attest(
        "peer memory",
        asked=f"{LENGTH} bytes to the peer's buffer at {place:#x}, and back",
        attested=f"{to_peer.reason.name}, {back.reason.name}; {wrong or 'the same bytes'}",
        kept=to_peer.reason == back.reason == due and not wrong and peer.dma_count == count,
        reason=wrong,
    )


@pytest.mark.parametrize("bar", [ExerciserBar.CONTROL, ExerciserBar.EXTENSION])
def test_a_peers_registers_are_not_reached(
    bench: DmaChecker, peer: Exerciser, data: Patterns, attest: Attest, bar: ExerciserBar
) -> None:
    """A write that started the peer's DMA would be a way into its device model."""
    bench.load(data.take(LENGTH))
    place = peer.pci.bar_address(bar)
    due = bench.limits.refusal((place, 64)) or DmaReason.UNMAPPED
    count = peer.dma_count
    record = bench.refused_dma(due, place, 64, write_memory=True)
    attest(
        "peer memory",
        asked=f"64 bytes to the peer's BAR{bar.value} at {place:#x}: refused",
        attested=f"{record.reason.name}, {record.moved} bytes",
        kept=record.reason is due and record.moved == 0 and peer.dma_count == count,
        evidence="refusal",
    )
