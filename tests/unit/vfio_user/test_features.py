# SPDX-License-Identifier: Apache-2.0
"""DEVICE_FEATURE: which features and methods there are, their argsz, and DMA logging."""

from __future__ import annotations

import errno
import random
import struct

import pytest

from dma_rehearsal.device.vfio_user import messages as wire
from dma_rehearsal.device.vfio_user.dirty import MAX_RANGES, MAX_REPORT_PAGES, DmaLog
from dma_rehearsal.device.vfio_user.errors import RemoteProtocolError
from dma_rehearsal.device.vfio_user.messages import Command, DeviceFeature, Feature, FeatureFlag
from tests.unit.vfio_user.client import RawClient, Refused
from tests.unit.vfio_user.endpoint import BUFFER, Prober, Reg

GET, SET, PROBE = FeatureFlag.GET, FeatureFlag.SET, FeatureFlag.PROBE
PAGE = 4096
METHODS = {
    Feature.MIGRATION: {GET},
    Feature.MIG_DEVICE_STATE: {GET, SET},
    Feature.DMA_LOGGING_START: {SET},
    Feature.DMA_LOGGING_STOP: {SET},
    Feature.DMA_LOGGING_REPORT: {GET},
}
START = wire.LoggingControl(PAGE, 0, 0).pack()


def refused(client: RawClient, flags: int, data: bytes = b"", argsz: int = 1 << 20) -> int:
    with pytest.raises(Refused) as refusal:
        client.feature(flags, data, argsz)
    return refusal.value.errno


@pytest.mark.parametrize("feature", Feature)
@pytest.mark.parametrize("methods", [GET, SET, GET | SET])
def test_probe(probed: RawClient, feature: Feature, methods: FeatureFlag) -> None:
    if set(methods) <= METHODS[feature]:
        assert probed.feature(PROBE | methods | feature) == b""
    else:
        assert refused(probed, PROBE | methods | feature) == errno.EINVAL


@pytest.mark.parametrize("feature", Feature)
def test_bare_probe(probed: RawClient, feature: Feature) -> None:
    assert probed.feature(PROBE | feature) == b""


@pytest.mark.parametrize("number", [0, 3, 4, 5, 9, 10, 0xFFFF])
@pytest.mark.parametrize("method", [GET, SET, PROBE, PROBE | GET])
def test_feature_that_is_not_had(probed: RawClient, number: int, method: FeatureFlag) -> None:
    assert refused(probed, method | number) == errno.ENOTTY


@pytest.mark.parametrize("feature", [Feature.MIGRATION, Feature.MIG_DEVICE_STATE])
@pytest.mark.parametrize("method", [GET, PROBE, PROBE | GET])
def test_a_device_without_a_state(client: RawClient, feature: Feature, method: FeatureFlag) -> None:
    assert refused(client, method | feature) == errno.ENOTTY


@pytest.mark.parametrize("command", [Command.MIG_DATA_READ, Command.MIG_DATA_WRITE])
def test_migration_data_of_a_device_without_a_state(client: RawClient, command: Command) -> None:
    with pytest.raises(Refused) as refusal:
        client.call(command, wire.MigData(8, 0).pack())
    assert refusal.value.errno == errno.ENOTSUP


@pytest.mark.parametrize("feature", Feature)
@pytest.mark.parametrize("flags", [0, GET | SET, 1 << 19, 1 << 31, GET | 1 << 20])
def test_methods_that_are_none(probed: RawClient, feature: Feature, flags: int) -> None:
    assert refused(probed, flags | feature) == errno.EINVAL


@pytest.mark.parametrize(
    ("flags", "data", "needed"),
    [
        (GET | Feature.MIGRATION, b"", 16),
        (GET | Feature.MIG_DEVICE_STATE, b"", 16),
        (SET | Feature.MIG_DEVICE_STATE, wire.MigState(1, -1).pack(), 16),
        (SET | Feature.DMA_LOGGING_START, START, 24),
        (PROBE | Feature.MIGRATION, b"", 8),
    ],
)
def test_argsz(probed: RawClient, flags: int, data: bytes, needed: int) -> None:
    """Too little room is refused before anything happens; just enough is enough."""
    for argsz in (0, 7, needed - 1):
        assert refused(probed, flags, data, argsz) == errno.EINVAL
    request = DeviceFeature(needed, flags).pack() + data
    reply = probed.call(Command.DEVICE_FEATURE, request)
    assert DeviceFeature.unpack(reply) == DeviceFeature(needed, flags)
    assert len(reply) == needed


def test_migration_flags(probed: RawClient) -> None:
    data = probed.feature(GET | Feature.MIGRATION)
    assert wire.MIGRATION_FLAGS.unpack(data) == (5,), "STOP_COPY and PRE_COPY"


# DMA logging.


def write(client: RawClient, prober: Prober, address: int, length: int) -> None:
    prober.address = address
    client.write32(BUFFER, Reg.GO, length | 1 << 31)
    assert prober.moved


def report(client: RawClient, address: int, length: int, page_size: int = PAGE) -> int:
    data = wire.LoggingReport(address, length, page_size).pack()
    bitmap = client.feature(GET | Feature.DMA_LOGGING_REPORT, data, 1 << 21)[24:]
    assert len(bitmap) % 8 == 0
    return int.from_bytes(bitmap, "little")


@pytest.fixture
def logging(probed: RawClient, memory: int) -> RawClient:
    """A client with 1 MiB mapped at 1 MiB, whose log is on."""
    probed.dma_map(1 << 20, 1 << 20, memory)
    assert probed.feature(SET | Feature.DMA_LOGGING_START, START) == START
    return probed


def test_what_is_written_is_reported_once(logging: RawClient, prober: Prober) -> None:
    write(logging, prober, (1 << 20) + 5 * PAGE - 1, 2)
    logging.write32(BUFFER, Reg.GO, 4)  # a read dirties nothing
    assert report(logging, 1 << 20, 1 << 20) == 0b110000
    assert report(logging, 1 << 20, 1 << 20) == 0


def test_a_part_is_reported_and_the_rest_kept(logging: RawClient, prober: Prober) -> None:
    write(logging, prober, 1 << 20, 4 * PAGE)
    assert report(logging, (1 << 20) + PAGE, 2 * PAGE) == 0b11
    assert report(logging, 1 << 20, 4 * PAGE) == 0b1001


@pytest.mark.parametrize(
    ("page_size", "bits"), [(512, 0xFF), (2048, 0b11), (PAGE, 1), (2 * PAGE, 1), (1 << 20, 1)]
)
def test_another_page_size(logging: RawClient, prober: Prober, page_size: int, bits: int) -> None:
    write(logging, prober, 1 << 20, 1)
    assert report(logging, 1 << 20, 1 << 20, page_size) == bits


def test_only_the_ranges_that_were_asked_for(
    probed: RawClient, prober: Prober, memory: int
) -> None:
    probed.dma_map(1 << 20, 1 << 20, memory)
    ranges = struct.pack("<QQ", (1 << 20) + PAGE, PAGE)
    start = wire.LoggingControl(PAGE, 1, 0).pack() + ranges
    assert probed.feature(SET | Feature.DMA_LOGGING_START, start) == start
    write(probed, prober, 1 << 20, 4 * PAGE)
    assert report(probed, 1 << 20, 4 * PAGE) == 0b10


def test_the_page_size_that_was_chosen_is_told(probed: RawClient) -> None:
    start = wire.LoggingControl(1 << 21, 0, 0).pack()
    assert probed.feature(SET | Feature.DMA_LOGGING_START, start) == START


def test_a_write_through_views_is_noted(logging: RawClient, prober: Prober) -> None:
    prober.bus.write(1 << 20, b"synchronous")
    assert report(logging, 1 << 20, PAGE) == 1


def test_stopped_it_forgets(logging: RawClient, prober: Prober) -> None:
    write(logging, prober, 1 << 20, 1)
    logging.feature(SET | Feature.DMA_LOGGING_STOP, START)
    logging.feature(SET | Feature.DMA_LOGGING_START, START)
    assert report(logging, 1 << 20, PAGE) == 0


def test_what_is_not_on_can_be_stopped_and_not_reported(probed: RawClient) -> None:
    assert probed.feature(SET | Feature.DMA_LOGGING_STOP, START) == START
    data = wire.LoggingReport(0, PAGE, PAGE).pack()
    assert refused(probed, GET | Feature.DMA_LOGGING_REPORT, data) == errno.EINVAL


def test_on_it_cannot_be_started(logging: RawClient) -> None:
    assert refused(logging, SET | Feature.DMA_LOGGING_START, START) == errno.EINVAL


def control(page_size: int, count: int, *ranges: tuple[int, int]) -> bytes:
    packed = b"".join(struct.pack("<QQ", *each) for each in ranges)
    return wire.LoggingControl(page_size, count, 0).pack() + packed


@pytest.mark.parametrize(
    "data",
    [
        b"",
        START[:15],
        control(0, 0),
        control(3, 0),
        control(PAGE + 1, 0),
        control(PAGE, 1),
        control(PAGE, 0, (0, PAGE)),
        control(PAGE, 2, (0, PAGE)),
        control(PAGE, 0xFFFF_FFFF),
        control(PAGE, 1, (0, 0)),
        control(PAGE, 1, ((1 << 64) - PAGE, 2 * PAGE)),
        control(PAGE, 1, (2, (1 << 64) - 1)),
        control(PAGE, MAX_RANGES + 1, *[(0, PAGE)] * (MAX_RANGES + 1)),
    ],
)
def test_a_start_that_is_malformed(probed: RawClient, data: bytes) -> None:
    assert refused(probed, SET | Feature.DMA_LOGGING_START, data) == errno.EINVAL
    assert probed.feature(SET | Feature.DMA_LOGGING_START, START) == START


@pytest.mark.parametrize(
    ("address", "length", "page_size"),
    [
        (0, 0, PAGE),
        (0, PAGE, 0),
        (0, PAGE, 3),
        (0, PAGE, PAGE + 512),
        (1, PAGE, PAGE),
        (512, PAGE, 512),
        (PAGE, 2 * PAGE, 2 * PAGE),
        ((1 << 64) - PAGE, 2 * PAGE, PAGE),
        (0, (1 << 64) - 1, PAGE),
        (0, (MAX_REPORT_PAGES + 1) * PAGE, PAGE),
        (0, (MAX_REPORT_PAGES + 1) * PAGE, 1 << 62),
        (0, MAX_REPORT_PAGES + 1, 1),
    ],
)
def test_a_report_that_is_malformed(
    logging: RawClient, prober: Prober, address: int, length: int, page_size: int
) -> None:
    write(logging, prober, 1 << 20, 1)
    data = wire.LoggingReport(address, length, page_size).pack()
    flags = GET | Feature.DMA_LOGGING_REPORT
    assert refused(logging, flags, data, 0xFFFF_FFFF) == errno.EINVAL
    assert report(logging, 1 << 20, PAGE) == 1, "what was refused forgot it"


@pytest.mark.parametrize("argsz", [8, 32, 39])
def test_a_report_without_room_forgets_nothing(
    logging: RawClient, prober: Prober, argsz: int
) -> None:
    write(logging, prober, 1 << 20, 1)
    data = wire.LoggingReport(1 << 20, PAGE, PAGE).pack()
    assert refused(logging, GET | Feature.DMA_LOGGING_REPORT, data, argsz) == errno.EINVAL
    assert report(logging, 1 << 20, PAGE) == 1


def test_the_largest_report(logging: RawClient) -> None:
    assert report(logging, 0, MAX_REPORT_PAGES * PAGE) == 0


@pytest.mark.parametrize("seed", range(30))
def test_against_a_set_of_pages(seed: int) -> None:
    rng = random.Random(seed)
    base = rng.choice([0, 32760 * PAGE, 1 << 40])
    log, dirty = DmaLog(), set[int]()
    log.start(PAGE, [])
    for _ in range(20):
        address, length = base + rng.randrange(1 << 18), rng.randrange(1, 40000)
        log.wrote(address, length)
        dirty |= set(range(address // PAGE, (address + length - 1) // PAGE + 1))
    page_size = 1 << rng.randrange(9, 16)
    whole = max(page_size, PAGE)
    address, length = (base + rng.randrange(1 << 17)) // whole * whole, rng.randrange(1, 1 << 18)
    expected = 0
    for page in dirty:
        for byte in range(page * PAGE, (page + 1) * PAGE, min(page_size, PAGE)):
            if address <= byte < address + -(-length // PAGE) * PAGE:
                expected |= 1 << (byte - address) // page_size
    expected &= (1 << -(-length // page_size)) - 1
    assert int.from_bytes(log.report(address, length, page_size), "little") == expected


def test_off_it_takes_no_note() -> None:
    log = DmaLog()
    log.wrote(0, PAGE)
    log.start(PAGE, [])
    assert log.report(0, PAGE, PAGE) == bytes(8)
    log.stop()
    with pytest.raises(RemoteProtocolError):
        log.report(0, PAGE, PAGE)
