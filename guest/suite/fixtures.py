"""Fixtures for guest tests.

``attest``, ``data``, ``device``, ``platform``, ``bench``, ``buffer``, ``guarded``, ``unprotected``.
The agent loads them as a plugin, so tests of another project have them as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from exerciser import Exerciser
from exerciser_parts import DmaWatch
from iobuffer import (
    IOBufferMemoryDescriptor,
    IOOptions,
    Task,
    activity,
    current_task,
    kIODirectionInOut,
    protection,
)
from iobuffer.driver import Driver
from platform_access import PlatformAccess
from platform_device import PlatformDevice

from suite.attestation import SEED, Attest
from suite.bench import Bench, MakeBuffer
from suite.guarded import OWNER, Guarded
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
        watch = DmaWatch(exerciser)
        activity.register(watch)
        yield exerciser
        activity.unregister(watch)


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
def _protected(platform: PlatformDevice) -> Iterator[None]:
    """Deny DMA but what prepare() grants; an endpoint of another project may do without."""
    protection.use(PlatformAccess(platform.protection))
    platform.protection.enabled = True
    yield
    platform.protection.enabled = False
    protection.use(None)


@pytest.fixture(scope="session")
def _bench(
    _opened: Exerciser,
    platform: PlatformDevice,
    _protected: None,
) -> Iterator[Bench]:
    with (
        Driver() as driver,
        IOBufferMemoryDescriptor.inTaskWithOptions(
            current_task(), kIODirectionInOut, _opened.buffer_size, 4096
        ) as staging,
    ):
        yield Bench(_opened, platform, driver, staging, protected=True)


@pytest.fixture
def bench(_bench: Bench, device: Exerciser) -> Bench:  # noqa: ARG001
    """The device, the platform, the driver, and a staging buffer as large as the device's own."""
    return _bench


@pytest.fixture
def buffer() -> Iterator[MakeBuffer]:
    """Make buffers that are released when the test ends: (options, capacity, alignment=1, ...)."""
    with ExitStack() as stack:

        def make(
            options: IOOptions | int,
            capacity: int,
            alignment: int = 1,
            *,
            pool: str | None = None,
            task: Task | None = None,
        ) -> IOBufferMemoryDescriptor:
            return stack.enter_context(
                IOBufferMemoryDescriptor.inTaskWithOptions(
                    task or current_task(), options, capacity, alignment, pool=pool
                )
            )

        yield make


@pytest.fixture
def guarded(bench: Bench) -> Iterator[Guarded]:
    """The bench where only the test itself grants; its grants go when it ends.

    Buffers that are made meanwhile are not granted by their preparation.
    """
    unit = bench.platform.protection
    control = protection.use(None)
    try:
        yield Guarded(bench, unit)
    finally:
        protection.use(control)
        unit.enabled = True
        unit.withdraw_owner(OWNER)


@pytest.fixture
def unprotected(platform: PlatformDevice, _protected: None) -> Iterator[None]:
    """For tests that have the device use addresses which no buffer was prepared for."""
    platform.protection.enabled = False
    yield
    platform.protection.enabled = True
