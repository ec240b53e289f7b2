# SPDX-License-Identifier: Apache-2.0
"""The fixtures of guest tests; docs/fixtures.md lists them.

The agent loads them as a plugin, so tests of other projects have them as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from dma_rehearsal.guest.drivers import driver_modules
from dma_rehearsal.guest.drivers.device_limits import UNLIMITED
from dma_rehearsal.guest.drivers.edu import EDU_DEVICE_ID, EDU_VENDOR_ID, Edu
from dma_rehearsal.guest.drivers.exerciser import Exerciser
from dma_rehearsal.guest.drivers.exerciser_features import DmaWatch
from dma_rehearsal.guest.drivers.pci_bars import PciError
from dma_rehearsal.guest.drivers.pci_sysfs import PciFunction
from dma_rehearsal.guest.drivers.platform.device import PlatformDevice
from dma_rehearsal.guest.drivers.platform.refusals import Announce
from dma_rehearsal.guest.drivers.vfio import Container, VfioFunction
from dma_rehearsal.guest.iobuffer import (
    IOBufferMemoryDescriptor,
    IOOptions,
    Task,
    kIODirectionInOut,
)
from dma_rehearsal.guest.iobuffer.base import dma_activity, provenance
from dma_rehearsal.guest.iobuffer.memory import placement
from dma_rehearsal.guest.iobuffer.memory.platform import dma_platform
from dma_rehearsal.guest.linux import memory_types
from dma_rehearsal.guest.linux.kernel_cmdline import device_parameters
from dma_rehearsal.guest.session import SETTINGS, SessionSettings
from dma_rehearsal.guest.testkit import conditions, driver_rehearsal
from dma_rehearsal.guest.testkit.agreement import HostWitness
from dma_rehearsal.guest.testkit.attestation import Attest
from dma_rehearsal.guest.testkit.board import NO_EXERCISER, Board, OwnDeviceBoard
from dma_rehearsal.guest.testkit.buffers import MakeBuffer, make_buffer
from dma_rehearsal.guest.testkit.denial import Denial
from dma_rehearsal.guest.testkit.dma_checker import DmaChecker
from dma_rehearsal.guest.testkit.driver_rehearsal import DriverRehearsal
from dma_rehearsal.guest.testkit.endpoint_slot import EndpointSlot
from dma_rehearsal.guest.testkit.guarded import OWNER, Guarded
from dma_rehearsal.guest.testkit.host_witness import HOST, HostReport
from dma_rehearsal.guest.testkit.iommu import KernelLog, Mapper
from dma_rehearsal.guest.testkit.marks import UNPROTECTED
from dma_rehearsal.guest.testkit.noncoherent import NonCoherent, noncoherent_board
from dma_rehearsal.guest.testkit.patterns import Patterns
from dma_rehearsal.guest.testkit.session_platform import SessionPlatform

# These modules make descriptors for a test. A descriptor gets the line of the test, or of the
# user's fixture, that asked for it; pytest's frames are in between.
_MAKERS = ("board", "buffers", "dma_checker", "noncoherent")
provenance.transparent(
    __name__, "_pytest", "pluggy", *(f"dma_rehearsal.guest.testkit.{each}" for each in _MAKERS)
)
_RUNNER = "_pytest.runner"  # frames below it do not belong to the test

# The test that runs. Fixtures of each test take it from here: pytest makes each ``request`` anew,
# and looks at the signature of what makes it.
_ITEM = pytest.StashKey[pytest.Function]()
_KIT = pytest.StashKey[SessionPlatform]()
_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Note which test runs, and begin it in the state that every test begins in."""
    if isinstance(item, pytest.Function):
        item.config.stash[_ITEM] = item
    provenance.ends_at(_RUNNER, (str(item.path), (item.location[1] or 0) + 1))
    if _KIT not in item.config.stash:
        if driver_modules.under_test():
            driver_rehearsal.take_from_the_kernel()
        # Only then: a driver among them must not use a device that nothing watches.
        driver_modules.load_before_tests()
        iommu = item.config.stash[SETTINGS].behind_iommu
        item.config.stash[_KIT] = SessionPlatform(iommu=iommu)
    item.config.stash[_KIT].start(item)


def _limits_stated(settings: SessionSettings) -> bool:
    """Whether buffers get the device's limits by themselves; else each test has to state them."""
    return settings.own_suite or settings.place in (None, placement.KIND)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Close the platform."""
    if _KIT in config.stash:
        config.stash[_KIT].close()


@pytest.fixture(autouse=True)
def _protection(pytestconfig: pytest.Config) -> Iterator[None]:
    """Deny DMA that is not granted during this test, unless it is marked ``unprotected``."""
    kit = pytestconfig.stash[_KIT]
    before = kit.left()
    if pytestconfig.stash[_ITEM].get_closest_marker(UNPROTECTED) is not None:
        kit.begin(protected=False)
    yield
    kit.begin()
    kit.check_left(before)


@pytest.fixture
def attest(pytestconfig: pytest.Config) -> Attest:
    """Records verdicts on promises in this test's report."""
    kit = pytestconfig.stash[_KIT]
    properties = pytestconfig.stash[_ITEM].user_properties
    return Attest(properties, kit if kit.present else None)


@pytest.fixture
def expects(pytestconfig: pytest.Config) -> Announce:
    """Announces refused DMA: ``with expects(DmaReason.PROTECTION_DIRECTION) as refused: ...``.

    It works with any endpoint. A refusal that nobody announced fails the test.
    """
    return pytestconfig.stash[_KIT].expectations.expects


@pytest.fixture(scope="session")
def seed(pytestconfig: pytest.Config) -> int:
    """The run's seed. A test that draws numbers from it replays with SEED=."""
    return pytestconfig.stash[SETTINGS].seed


@pytest.fixture
def data(pytestconfig: pytest.Config) -> Patterns:
    """Random bytes for this test, from the run's seed."""
    return Patterns(pytestconfig.stash[SETTINGS].seed, pytestconfig.stash[_ITEM].nodeid)


@pytest.fixture(scope="session")
def _container(request: pytest.FixtureRequest) -> Iterator[Container | None]:
    """The container that maps memory for the exerciser; None without an IOMMU."""
    if not request.config.stash[SETTINGS].behind_iommu:
        yield None
        return
    with Container() as container:
        yield container


@contextmanager
def _watched(exerciser: Exerciser) -> Iterator[None]:
    """Tell the allocator of the device's DMA in flight."""
    watch = DmaWatch(exerciser)
    dma_activity.register(watch)
    yield
    dma_activity.unregister(watch)


@pytest.fixture(scope="session")
def _opened(
    pytestconfig: pytest.Config, _container: Container | None
) -> Iterator[Exerciser | None]:
    """The exerciser; None where a user's own device is in its place."""
    parameters = device_parameters()
    try:
        found = PciFunction.find(parameters.vendor, parameters.device)
    except PciError:
        yield None
        return
    if _container is None:
        with Exerciser() as opened, _watched(opened):
            yield opened
        return
    with (
        VfioFunction.open(_container, found) as function,
        Exerciser(function, driver=function.driver) as opened,
        _watched(opened),
    ):
        if _limits_stated(pytestconfig.stash[SETTINGS]):
            _container.set_mask(opened.limits.address_bits)
        # From here on buffers have bus addresses: the container has the function's group.
        before, dma_platform.iommu = dma_platform.iommu, _container
        yield opened
        dma_platform.iommu = before


@pytest.fixture
def device(_opened: Exerciser | None) -> Exerciser:
    """The exerciser, with bus mastering on."""
    if _opened is None:
        pytest.fail(NO_EXERCISER.format("the fixture device is"), pytrace=False)
    _opened.bus_master = True
    return _opened


@pytest.fixture(scope="session")
def platform(pytestconfig: pytest.Config) -> PlatformDevice:
    """The platform, told this guest's PAT and MTRRs."""
    return pytestconfig.stash[_KIT].platform


@pytest.fixture(scope="session")
def edu() -> Iterator[Edu]:
    """QEMU's edu as it comes: it drives 28 address bits."""
    with Edu(PciFunction.find(EDU_VENDOR_ID, EDU_DEVICE_ID, 0)) as opened:
        yield opened


@pytest.fixture(scope="session")
def wide_edu() -> Iterator[Edu]:
    """A second edu, whose property ``dma_mask`` is 40 bits."""
    function = PciFunction.find(EDU_VENDOR_ID, EDU_DEVICE_ID, 1)
    with Edu(function, address_bits=40) as opened:
        yield opened


@pytest.fixture(scope="session")
def _bench(
    pytestconfig: pytest.Config, platform: PlatformDevice, _opened: Exerciser | None
) -> Iterator[Board]:
    driver = pytestconfig.stash[_KIT].driver
    if _opened is None:
        yield OwnDeviceBoard(platform, driver)
        return
    limits = _opened.limits
    with provenance.made_by("the fixture bench"):
        staging = make_buffer(limits, kIODirectionInOut, _opened.buffer_size, 4096)
    with staging:
        yield DmaChecker(platform, driver, limits, device=_opened, staging=staging)


@pytest.fixture
def bench(_bench: Board) -> DmaChecker | Board:
    """The device, the platform, the driver, and a staging buffer as large as the device's own.

    With your own device in the exerciser's place it is a `Board`.
    """
    if isinstance(_bench, DmaChecker):
        _bench.device.bus_master = True
    return _bench


@pytest.fixture
def buffer(pytestconfig: pytest.Config) -> Iterator[MakeBuffer]:
    """Make buffers that are released when the test ends.

    With PLACE=kind the test's device reaches them, and they are aligned for it. With PLACE=hostile
    they are anywhere, unless the test states what its device needs: ``mask=`` for the addresses
    that it reaches, as for inTaskWithPhysicalMask, and the alignment. ``pool=`` names a pool in
    either case.
    """
    # The session's fixtures are there before those of the test.
    opened = pytestconfig.stash[_ITEM].funcargs.get("_opened")
    stated = _limits_stated(pytestconfig.stash[SETTINGS])
    limits = opened.limits if stated and isinstance(opened, Exerciser) else UNLIMITED
    with ExitStack() as stack:

        def make(
            options: IOOptions | int,
            capacity: int,
            alignment: int | None = None,
            *,
            mask: int = 0,
            pool: str | None = None,
            task: Task | None = None,
        ) -> IOBufferMemoryDescriptor:
            made = make_buffer(
                limits, options, capacity, alignment, mask=mask, pool=pool, task=task
            )
            return stack.enter_context(made)

        yield make


@pytest.fixture
def guarded(bench: Board) -> Iterator[Guarded]:
    """The bench with grants that only the test makes; its end withdraws them.

    Preparing a buffer does not grant it meanwhile.
    """
    unit = bench.platform.protection
    control, dma_platform.access_control = dma_platform.access_control, None
    try:
        yield Guarded(bench, unit)
    finally:
        dma_platform.access_control = control
        unit.withdraw_owner(OWNER)


@pytest.fixture
def mapper(
    _container: Container | None,
    device: Exerciser,  # noqa: ARG001
    buffer: MakeBuffer,  # noqa: ARG001
) -> Iterator[Mapper]:
    """Maps memory, for example buffers, for the device behind the IOMMU until the test ends."""
    if _container is None:
        pytest.fail("the fixture mapper is for tests that are marked iommu")
    with Mapper(_container) as mapper:
        yield mapper


@pytest.fixture(scope="session")
def kernel_log() -> Iterator[KernelLog]:
    """The kernel's log of IOMMU faults. The kernel limits their rate, so all tests share it."""
    with KernelLog() as log:
        yield log


@pytest.fixture
def denied(bench: DmaChecker, kernel_log: KernelLog, data: Patterns, attest: Attest) -> Denial:
    """Has the device try DMA that the IOMMU must refuse."""
    return Denial(bench, kernel_log, data, attest)


@pytest.fixture
def host_witness(request: pytest.FixtureRequest) -> HostWitness:
    """Have the host walk the page tables of (address, length) of this process; see `Host.witness`.

    What this guest reads of PAT and MTRRs is told to the host, which compares it.
    """
    host = request.config.stash.get(HOST, None)
    if host is None:
        pytest.fail("the fixture host_witness needs a host that looks at this machine's memory")

    def look(address: int, length: int) -> HostReport:
        pat, mtrrs = memory_types.read_pat(), memory_types.read_mtrrs()
        return host.witness(request.node.nodeid, address, length, pat, mtrrs)

    return look


@pytest.fixture
def endpoint_slot(request: pytest.FixtureRequest) -> Iterator[EndpointSlot]:
    """The endpoint's slot, of several the first one's: [unplug and replug](hotplug.md).

    It needs HOTPLUG=1. An endpoint that a test leaves unplugged is plugged in again after it.
    """
    link = request.config.stash[SETTINGS].host
    if link is None:
        pytest.fail("the fixture endpoint_slot needs a host that plugs and unplugs the device")
    slot = EndpointSlot(link, request.node.nodeid, request.config.stash[_KIT].expectations)
    yield slot
    if not slot.functions:
        slot.plug()


@pytest.fixture
def noncoherent(bench: Board) -> Iterator[NonCoherent]:
    """A board whose devices do not snoop, in the model's strict mode, with lines of 64 bytes."""
    with noncoherent_board(bench) as board:
        yield board


@pytest.fixture
def driver(request: pytest.FixtureRequest, pytestconfig: pytest.Config) -> DriverRehearsal:
    """Loads a kernel driver, binds it to the endpoint, and has its use of the DMA API judged.

    A report, a refused DMA, a leak or a kernel's warning that the test does not expect fails the
    test. The mark ``rehearse`` chooses the conditions; [your driver](your-driver.md) explains them.
    """
    kit = pytestconfig.stash[_KIT]
    kit.platform  # noqa: B018 - PciError without one
    condition = getattr(request, "param", None) or conditions.of_test(pytestconfig.stash[_ITEM])
    return DriverRehearsal(kit, condition, pytestconfig.stash[SETTINGS].place)


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> object:
    """Fail the test itself for a report of the cache model, and for a dropped buffer."""
    result = yield
    board = pyfuncitem.funcargs.get("noncoherent")
    if isinstance(board, NonCoherent):
        board.settle()
    pyfuncitem.config.stash[_KIT].check_dropped()
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> object:
    """Fail a test that used a fixture whose buffer nobody released."""
    result = yield
    if isinstance(item, pytest.Function):
        item.funcargs.clear()  # pytest forgets them only after the last report
    if not item.stash.get(_FAILED, False):
        item.config.stash[_KIT].check_dropped(cycles=False)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> object:
    """Add to a test's last report what the host needs to explain a failure."""
    error = call.excinfo
    failed = error is not None and not error.errisinstance(pytest.skip.Exception)
    failed = failed or item.stash.get(_FAILED, False)
    item.stash[_FAILED] = failed and call.when != "teardown"
    if call.when == "teardown" and _KIT in item.config.stash:
        item.config.stash[_KIT].conclude(failed=failed)
    return (yield)
