# SPDX-License-Identifier: Apache-2.0
"""Capabilities that a class declares, read by a decoder of the tests' own."""

from __future__ import annotations

import re
from typing import ClassVar

import pytest

from dma_rehearsal.device.endpoints import (
    AccessControlServices,
    Acs,
    AtomicOps,
    Bars,
    Capability,
    DeviceSerialNumber,
    Endpoint,
    ExtendedCapability,
    Identity,
    LatencyToleranceReporting,
    MemoryBar,
    PageRequest,
    SingleRootIoVirtualization,
)
from dma_rehearsal.device.pci import acs, ltr
from dma_rehearsal.device.vfio_user.messages import Irq
from tests.unit.device.fakes import FakeClient
from tests.unit.device.pci.capability_decoder import Decoder

FLR = 1 << 15


class Declared(Endpoint):
    identity = Identity(0x1234, 0x5678, 0xFF0000)
    bars: ClassVar[Bars] = {0: MemoryBar(4096)}
    capabilities: ClassVar[tuple[Capability, ...]] = (
        DeviceSerialNumber(0x0011_22FF_FE33_4455),
        LatencyToleranceReporting(),
        AccessControlServices(),
        PageRequest(64, pasid_required=True),
        AtomicOps(completes=(4, 8)),
    )


@pytest.fixture
def endpoint(client: FakeClient) -> Endpoint:
    made = Declared()
    made.attach(client)
    return made


@pytest.fixture
def decoder(endpoint: Endpoint) -> Decoder:
    return Decoder(endpoint)


AT_RESET = [
    "DevCap2: 32bit+ 64bit+ 128bitCAS- LTR+; DevCtl2: AtomicOpsReqEn- LTR-",
    "[100 v1] Device Serial Number 00-11-22-ff-fe-33-44-55",
    "[10c v1] LTR: max snoop 0ns, max no snoop 0ns",
    "[114 v1] ACS: cap SrcValid- TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd- EgressCtrl- "
    "DirectTrans-; ctl SrcValid- TransBlk- ReqRedir- CmpltRedir- UpstreamFwd- EgressCtrl- "
    "DirectTrans-",
    "[11c v1] PRI: Enable- Reset- RF- UPRGI- Stopped+ PASID+ capacity 64 allocation 0",
]


def test_at_reset(decoder: Decoder) -> None:
    assert decoder.text() == AT_RESET


@pytest.mark.parametrize("reset", ["flr", "device reset"])
def test_what_software_may_write_and_no_reset_keeps(
    endpoint: Endpoint, decoder: Decoder, reset: str
) -> None:
    express = decoder.standard()[0x10]
    for offset in range(0x104, 0x12C, 4):
        if offset not in (0x10C, 0x114, 0x11C):  # the headers, which are read only
            decoder.write(offset, 0xFFFF_FFFF, 4)
    decoder.write(express + 0x28, 0xFFFF)
    assert decoder.text() == [
        "DevCap2: 32bit+ 64bit+ 128bitCAS- LTR+; DevCtl2: AtomicOpsReqEn+ LTR+",
        AT_RESET[1],
        f"[10c v1] LTR: max snoop {1023 * 32**7}ns, max no snoop {1023 * 32**7}ns",
        AT_RESET[3].partition("; ctl")[0]
        + "; ctl SrcValid- TransBlk- ReqRedir+ CmpltRedir+ UpstreamFwd- EgressCtrl- DirectTrans-",
        "[11c v1] PRI: Enable+ Reset- RF- UPRGI- Stopped- PASID+ capacity 64 "
        f"allocation {0xFFFF_FFFF}",
    ]
    if reset == "flr":
        decoder.write(express + 8, FLR)
    else:
        endpoint.device_reset()
    assert decoder.text() == AT_RESET


def test_headers_are_read_only(decoder: Decoder) -> None:
    before = decoder.extended()
    for place, _ in before.values():
        decoder.write(place, 0, 4)
    assert decoder.extended() == before


def test_limits_of_latency(endpoint: Endpoint, decoder: Decoder) -> None:
    place = decoder.extended()[0x18][0]
    decoder.write(place + 4, 3 << 10 | 5)
    decoder.write(place + 6, 1023)
    assert ltr.limits(endpoint.config, place) == (5 * 32**3, 1023)


def test_services_that_are_on(endpoint: Endpoint, decoder: Decoder) -> None:
    place = decoder.extended()[0x0D][0]
    decoder.write(place + 6, 0xFFFF)
    services = acs.enabled(endpoint.config, place)
    assert services == Acs.REQUEST_REDIRECT | Acs.COMPLETION_REDIRECT


def test_two_functions_of_a_class_share_no_state() -> None:
    one, other = Decoder(Declared()), Decoder(Declared())
    one.write(one.extended()[0x18][0] + 4, 7)
    assert other.text() == AT_RESET


def test_a_function_without_them_has_none_of_their_bits() -> None:
    class Plain(Endpoint):
        identity = Identity(1, 2, 3)

    decoder = Decoder(Plain())
    express = decoder.standard()[0x10]
    decoder.write(express + 0x28, 0xFFFF)
    assert decoder.text() == [
        "DevCap2: 32bit- 64bit- 128bitCAS- LTR-; DevCtl2: AtomicOpsReqEn- LTR-"
    ]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: DeviceSerialNumber(1 << 64), "64 bits"),
        (lambda: PageRequest(0), "capacity 0; give 1"),
        (lambda: AtomicOps(completes=(2,)), "declare 4, 8 or 16"),
        (SingleRootIoVirtualization, "one function.*Declare a MultiFunction device"),
    ],
)
def test_declarations_that_cannot_be(make: type, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


def test_sriov_of_an_authors_own_is_refused() -> None:
    class OwnSriov(ExtendedCapability):
        id = 0x10

        def body(self) -> bytes:
            return bytes(0x3C)

    class Virtual(Endpoint):
        identity = Identity(1, 2, 3)
        capabilities: ClassVar[tuple[Capability, ...]] = (OwnSriov(),)

    with pytest.raises(ValueError, match=re.escape("Virtual: SR-IOV is not possible here")):
        Virtual()


def test_errors_and_removals_are_signalled(endpoint: Endpoint, client: FakeClient) -> None:
    assert endpoint.signal_error()
    assert endpoint.request_removal()
    assert client.interrupts == [(Irq.ERR, 0), (Irq.REQ, 0)]
    client.listens = False
    assert not endpoint.signal_error()
    endpoint.detach()
    assert not endpoint.request_removal()
