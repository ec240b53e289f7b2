# SPDX-License-Identifier: Apache-2.0
"""The named faults of the way of the tests and their reports; see `faults`."""

from __future__ import annotations

from typing import Any

from dma_rehearsal.device.layout.faults.fault import Fault, Place
from dma_rehearsal.host_harness.process.errors import Status


def _channel(name: str, words: str, description: str, **others: Any) -> Fault:
    return Fault(
        name,
        Place.GUEST,
        Status.NO_VERDICT,
        (),
        description,
        words=words,
        tests="test_device.py",
        **others,
    )


CHANNEL = (
    _channel("report-lost", "is missing", "one test's report is lost on its way to the host"),
    _channel(
        "report-corrupted",
        "the checksum",
        "one bit of a test's report changes on its way to the host",
    ),
    _channel("report-left-out", "reports are missing", "the guest leaves out one report of a test"),
    _channel(
        "report-misattributed",
        "the guest reports",
        "the guest sends a report under another test's name",
    ),
    _channel(
        "test-never-ends",
        "no answer within its deadline of 20 s",
        "a test of the guest never ends",
        deadlines={"test": 20.0},
    ),
    _channel(
        "tests-overcounted", "the guest says that it ran", "the guest claims more tests than it ran"
    ),
    _channel(
        "test-dropped",
        "a hook in the guest dropped tests silently",
        "a hook in the guest drops a test that was collected",
        at_collection=True,
    ),
    _channel(
        "test-not-named",
        "were named",
        "the guest does not name to the host one of the tests that it has",
        at_collection=True,
    ),
    Fault(
        "teardown-fails",
        Place.GUEST,
        Status.FAILED,
        ("capabilities",),
        "a test passes, and its teardown fails",
        words="the teardown fails by a named fault",
        tests="test_device.py",
    ),
)
