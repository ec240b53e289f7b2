# SPDX-License-Identifier: Apache-2.0
"""pytest's exit codes and the harness's statuses, each mapped on purpose: docs/statuses.md."""

from __future__ import annotations

import pytest

from dma_rehearsal.host_harness.process.errors import Status

_STATUSES = {
    pytest.ExitCode.OK: Status.PASSED,
    pytest.ExitCode.TESTS_FAILED: Status.FAILED,
    pytest.ExitCode.INTERRUPTED: Status.NO_VERDICT,
    pytest.ExitCode.INTERNAL_ERROR: Status.NO_VERDICT,
    pytest.ExitCode.USAGE_ERROR: Status.USAGE,
    pytest.ExitCode.NO_TESTS_COLLECTED: Status.USAGE,
}
_OF_USAGE = (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED)


def to_status(code: int | pytest.ExitCode, *, interrupted: bool) -> Status:
    """Return the status of a session that pytest ended with ``code``.

    ``interrupted``: by the user or a plugin, within a test and not between two.
    """
    try:
        status = _STATUSES[pytest.ExitCode(code)]
    except ValueError:  # a plugin's own number
        return Status.NO_VERDICT
    if interrupted:
        return status if status is Status.USAGE else Status.NO_VERDICT
    # Not interrupted within a test: stopped between two, at a failure.
    return Status.FAILED if code == pytest.ExitCode.INTERRUPTED else status


def to_pytest(
    status: Status, code: int | pytest.ExitCode, *, interrupted: bool
) -> int | pytest.ExitCode:
    """Return the code that pytest must end with, where its own would be ``code``.

    Its own code stays where it says the same: interrupted by the user, stopped at a failure.
    """
    if interrupted or code not in list(pytest.ExitCode):
        return code
    if status in (Status.ENVIRONMENT, Status.NO_VERDICT):
        return pytest.ExitCode.INTERNAL_ERROR
    if status is Status.USAGE:
        return code if code in _OF_USAGE else pytest.ExitCode.NO_TESTS_COLLECTED
    if status is Status.FAILED and code == pytest.ExitCode.OK:
        return pytest.ExitCode.TESTS_FAILED
    return code
