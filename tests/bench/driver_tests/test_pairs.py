# SPDX-License-Identifier: Apache-2.0
"""The time of the DMA API's calls in a kernel driver, as attestations for the host."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.guest.testkit import Attest, DriverRehearsal

FIGURES = {"map and unmap": "map_ns", "allocate and free": "alloc_ns"}


def measure(driver: DriverRehearsal, attest: Attest, board: str) -> None:
    with driver("pairs"), Path("/dev/museum").open("r+b", buffering=0) as device:
        device.write(b"moved" * 100)
        for what, parameter in FIGURES.items():
            text = Path(f"/sys/module/pairs/parameters/{parameter}").read_text()
            attest(f"{what}, {board}", asked="ns", attested=text.strip(), kept=int(text) > 0)


@pytest.mark.rehearse(plain=True)
def test_plain_kernel(driver: DriverRehearsal, attest: Attest) -> None:
    measure(driver, attest, "plain kernel")


@pytest.mark.rehearse(coherent=True, place="kind")
def test_grants(driver: DriverRehearsal, attest: Attest) -> None:
    measure(driver, attest, "grants")


@pytest.mark.rehearse(coherent=False, place="kind")
def test_cache_model(driver: DriverRehearsal, attest: Attest) -> None:
    measure(driver, attest, "cache model")


@pytest.mark.rehearse(coherent=False, place="kind", bounce=True)
def test_bounced(driver: DriverRehearsal, attest: Attest) -> None:
    measure(driver, attest, "cache model, bounced")
