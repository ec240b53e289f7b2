# SPDX-License-Identifier: Apache-2.0
"""A kernel driver of both functions, and of one, under the fixture ``driver``."""

from __future__ import annotations

from pathlib import Path

import pytest

from dma_rehearsal.device.layout import DmaReason
from dma_rehearsal.device.layout.driver_reports import DriverReportKind
from dma_rehearsal.guest.drivers import dma_ops
from dma_rehearsal.guest.testkit import DriverRehearsal

IDS = {0xF000, 0xF001}


def card(driver: DriverRehearsal) -> list[str]:
    """Return the functions of the card, without the device beside it."""
    return [
        each
        for each in driver.functions
        if int(Path("/sys/bus/pci/devices", each, "device").read_text(), 16) in IDS
    ]


@pytest.mark.rehearse(timing=("eager", "held"), coherent=(True, False))
def test_a_driver_of_both_functions(driver: DriverRehearsal) -> None:
    functions = card(driver)
    assert [each.rpartition(".")[2] for each in functions] == ["0", "3"]
    with driver("two_functions", functions=functions) as bound:
        assert bound.functions == tuple(functions)
        assert dma_ops.failures().calls == 2, "one mapping of each function"


@pytest.mark.rehearse(every_failure=True)
def test_every_failure_of_both_probes(driver: DriverRehearsal) -> None:
    with driver("two_functions", functions=card(driver)):
        pass


def test_function_0_is_the_default(driver: DriverRehearsal) -> None:
    with driver("two_functions") as bound:
        assert bound.functions == (driver.functions[0],)
        assert bound.function.endswith(".0")


@pytest.mark.parametrize("function", [0, 1])
def test_one_function_is_chosen_by_its_place(driver: DriverRehearsal, function: int) -> None:
    with driver("two_functions", function=function) as bound:
        assert bound.function == card(driver)[function]


def test_leaks_of_each_function_are_told(driver: DriverRehearsal) -> None:
    with (
        driver.expects(DriverReportKind.NEVER_UNMAPPED, count=2),
        driver("two_functions", functions=card(driver), leak=True),
    ):
        pass


def test_a_mapping_of_the_other_direction_is_refused_for_each_function(
    driver: DriverRehearsal,
) -> None:
    with (
        driver.expects(DmaReason.PROTECTION_DIRECTION, count=2),
        driver("two_functions", functions=card(driver), wrong=True),
    ):
        pass


def test_a_mapping_with_the_device_of_the_sibling_is_refused(driver: DriverRehearsal) -> None:
    """Function 0 maps for itself; function 3 does its DMA in what is mapped for function 0."""
    functions = card(driver)
    with (
        driver.expects(DmaReason.PROTECTION_FUNCTION, count=1),
        driver("two_functions", functions=functions, sibling=True),
    ):
        pass
    with driver("two_functions", functions=functions):
        pass  # each with its own device
