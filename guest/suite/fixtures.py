"""Fixtures for guest tests: ``attest``, ``data``, ``device``, ``platform``, ``bench``, ``buffer``.

The agent loads them as a plugin, so tests of another project have them as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from device_limits import UNLIMITED
from exerciser import Exerciser
from iobuffer import IOBufferMemoryDescriptor, IOOptions, kIODirectionInOut
from iobuffer.driver import Driver
from platform_device import PlatformDevice

from suite.attestation import SEED, Attest
from suite.bench import Bench, MakeBuffer, make_buffer
from suite.patterns import Patterns


@pytest.fixture
def attest(request: pytest.FixtureRequest) -> Attest:
    """Records verdicts on promises in this test's report."""
    return Attest(request.node.user_properties)


@pytest.fixture
def data(request: pytest.FixtureRequest) -> Patterns:
    """Bytes of this test, from the run's seed."""
    return Patterns(request.config.stash[SEED], request.node.nodeid)


@pytest.fixture(scope="session")
def _opened() -> Iterator[Exerciser]:
    with Exerciser() as exerciser:
        yield exerciser


@pytest.fixture
def device(_opened: Exerciser) -> Exerciser:
    """The exerciser, with bus mastering on."""
    _opened.bus_master = True
    return _opened


@pytest.fixture(scope="session")
def platform() -> Iterator[PlatformDevice]:
    """The platform, told this guest's PAT and MTRRs."""
    with PlatformDevice() as opened:
        opened.read_memory_types()
        yield opened


@pytest.fixture(scope="session")
def _bench(_opened: Exerciser, platform: PlatformDevice) -> Iterator[Bench]:
    with (
        Driver() as driver,
        make_buffer(_opened.limits, kIODirectionInOut, _opened.buffer_size, 4096) as staging,
    ):
        yield Bench(_opened, platform, driver, staging, _opened.limits)


@pytest.fixture
def bench(_bench: Bench, device: Exerciser) -> Bench:  # noqa: ARG001
    """The device, the platform, the driver, and a staging buffer as large as the device's own."""
    return _bench


@pytest.fixture
def buffer(request: pytest.FixtureRequest) -> Iterator[MakeBuffer]:
    """Make buffers that are released when the test ends: (options, capacity, alignment=1, ...).

    They are where the test's device reaches them, and aligned for it; ``pool=`` names another
    place.
    """
    limits = UNLIMITED
    if "_opened" in request.fixturenames:
        limits = request.getfixturevalue("_opened").limits
    with ExitStack() as stack:

        def make(
            options: IOOptions | int, capacity: int, alignment: int = 1, *, pool: str | None = None
        ) -> IOBufferMemoryDescriptor:
            return stack.enter_context(make_buffer(limits, options, capacity, alignment, pool))

        yield make
