# SPDX-License-Identifier: Apache-2.0
"""The faults of the test session and of the channel that carries its reports."""

from __future__ import annotations

from dma_rehearsal.device.layout.faults.fault import Component, Fault
from dma_rehearsal.device.layout.run_status import Status

CHANNEL = (
    Fault(
        "report-lost",
        Component.CHANNEL,
        "one test's report is lost on its way to the host",
        status=Status.NO_VERDICT,
        message="is missing",
        tests=("test_device.py",),
    ),
    Fault(
        "report-corrupted",
        Component.CHANNEL,
        "one bit of a test's report changes on its way to the host",
        status=Status.NO_VERDICT,
        message="the checksum",
        tests=("test_device.py",),
    ),
    Fault(
        "report-left-out",
        Component.CHANNEL,
        "the guest leaves out one report of a test",
        status=Status.NO_VERDICT,
        message="reports are missing",
        tests=("test_device.py",),
    ),
    Fault(
        "report-misattributed",
        Component.CHANNEL,
        "the guest sends a report under another test's name",
        status=Status.NO_VERDICT,
        message="the guest reports",
        tests=("test_device.py",),
    ),
    Fault(
        "test-never-ends",
        Component.TEST_SESSION,
        "a guest test never ends",
        status=Status.NO_VERDICT,
        message="no answer within its deadline of 20 s",
        tests=("test_device.py",),
        deadlines={"test": 20.0},
    ),
    Fault(
        "tests-overcounted",
        Component.CHANNEL,
        "the guest claims more tests than it ran",
        status=Status.NO_VERDICT,
        message="the guest says that it ran",
        tests=("test_device.py",),
    ),
    Fault(
        "test-dropped",
        Component.TEST_SESSION,
        "a hook in the guest drops a test that was collected",
        status=Status.NO_VERDICT,
        message="a hook in the guest dropped tests silently",
        tests=("test_device.py",),
        at_collection=True,
    ),
    Fault(
        "test-not-named",
        Component.CHANNEL,
        "the guest does not name one of its tests to the host",
        status=Status.NO_VERDICT,
        message="were named",
        tests=("test_device.py",),
        at_collection=True,
    ),
    Fault(
        "teardown-fails",
        Component.TEST_SESSION,
        "a test passes, and its teardown fails",
        ("capabilities",),
        message="the teardown fails by a named fault",
        tests=("test_device.py",),
    ),
)
