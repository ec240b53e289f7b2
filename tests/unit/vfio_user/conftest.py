# SPDX-License-Identifier: Apache-2.0
"""A live server with the exerciser behind it, and clients for it."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from dma_rehearsal.device.exerciser.exerciser import Exerciser
from dma_rehearsal.device.trace import Trace
from dma_rehearsal.device.vfio_user import dma_messages
from tests.unit.vfio_user.client import RawClient
from tests.unit.vfio_user.endpoint import Prober
from tests.unit.vfio_user.serving import serving

MEMORY_SIZE = 1 << 20


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A client of ours may answer late where the machine is busy."""
    monkeypatch.setattr(dma_messages, "REPLY_TIMEOUT_S", 600.0)


@pytest.fixture
def exerciser() -> Exerciser:
    return Exerciser(Trace())


@pytest.fixture
def server(tmp_path: Path, exerciser: Exerciser) -> Iterator[Path]:
    """The path of a server that serves ``exerciser`` in a thread."""
    with serving(tmp_path / "socket", exerciser) as path:
        yield path


@pytest.fixture
def prober() -> Iterator[Prober]:
    made = Prober()
    yield made
    made.window.close()


@pytest.fixture
def probed(tmp_path: Path, prober: Prober) -> Iterator[RawClient]:
    """A client that has negotiated with a server of ``prober``."""
    with serving(tmp_path / "prober", prober) as path, RawClient(path) as connected:
        yield connected


@pytest.fixture
def client(server: Path) -> Iterator[RawClient]:
    """A client that has negotiated."""
    with RawClient(server) as connected:
        yield connected


@pytest.fixture
def memory(sealed: int) -> int:
    """A descriptor of 1 MiB of shared memory, which the server maps."""
    return sealed


@pytest.fixture
def sealed() -> Iterator[int]:
    """A descriptor of 1 MiB of memory, sealed as QEMU seals it: it can only grow."""
    descriptor = os.memfd_create("sealed", os.MFD_ALLOW_SEALING)
    os.ftruncate(descriptor, MEMORY_SIZE)
    fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
    yield descriptor
    os.close(descriptor)


@pytest.fixture
def unsealed() -> Iterator[int]:
    """A descriptor of 1 MiB of memory that its client can cut."""
    descriptor = os.memfd_create("unsealed")
    os.ftruncate(descriptor, MEMORY_SIZE)
    yield descriptor
    os.close(descriptor)
